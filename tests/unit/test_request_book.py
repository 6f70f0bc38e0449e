"""Credential requests that wait: bounded for every peer, decided once."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from credentials.keys import SecretKey
from kwaai.errors import BodyTooLarge, CredentialMissing, RequestClosed, UserError, WalletFull
from kwaai.store import requests as module
from kwaai.store.home import Home
from kwaai.store.requests import CredentialRequest, RequestBook
from kwaai.store.wallet import open_wallet

REQUEST = CredentialRequest(
    "1", "in", "request", "12D3KooWA", "UptimeVC", b'{"a":1}', "pending", "", 1.0, 1.0
)


@pytest.fixture
def book(tmp_path: Path) -> Iterator[RequestBook]:
    with open_wallet(Home(tmp_path), SecretKey(bytes(32))) as wallet:
        yield RequestBook(wallet.database)


def test_keeping_and_finding(book: RequestBook) -> None:
    assert book.put(REQUEST)
    assert not book.put(replace(REQUEST, body=b"other"))
    other = replace(REQUEST, id="2", peer="12D3KooWB", kind="offer")
    ours = replace(REQUEST, direction="out")
    assert book.put(other)
    assert book.put(ours)
    assert book.get("in", REQUEST.peer, "1") == REQUEST
    assert book.get("out", REQUEST.peer, "1") == ours
    assert book.get("in", REQUEST.peer, "2") is None
    with pytest.raises(UserError, match="that id is in use"):
        book.put(replace(REQUEST, peer="12D3KooWB"))  # nobody could say which is meant
    assert book.find() == [ours, other, REQUEST]
    assert book.find(direction="in") == [other, REQUEST]
    assert book.find(peer=REQUEST.peer, direction="in") == [REQUEST]
    assert book.find(state="approved") == []
    assert book.find(limit=1) == [ours]


def test_deciding_once(book: RequestBook) -> None:
    book.put(REQUEST)

    def decide(n: int) -> str:
        try:
            book.set_state(
                "in",
                REQUEST.peer,
                "1",
                expected="pending",
                state="approved",
                now_s=2.0,
                detail=str(n),
            )
        except RequestClosed as error:
            return error.message
        return "decided"

    with ThreadPoolExecutor(8) as pool:
        said = list(pool.map(decide, range(8)))
    assert said.count("decided") == 1
    assert said.count("the request 1 of 12D3KooWA is approved already") == 7
    changed = book.set_state(
        "in", REQUEST.peer, "1", expected="approved", state="delivered", now_s=3.0, detail="id"
    )
    assert (changed.state, changed.detail, changed.changed_s) == ("delivered", "id", 3.0)
    assert book.find() == [changed]
    with pytest.raises(CredentialMissing):
        book.set_state("in", "nobody", "1", expected="pending", state="failed", now_s=1.0)


def test_one_peer_cannot_fill_it(book: RequestBook) -> None:
    for n in range(16):
        book.put(replace(REQUEST, id=str(n), state="approved" if n % 2 else "pending"))
    with pytest.raises(WalletFull, match="16 requests with 12D3KooWA wait"):
        book.put(replace(REQUEST, id="16"))
    assert book.put(replace(REQUEST, id="other", peer="12D3KooWB"))
    assert book.put(replace(REQUEST, id="ours", direction="out"))  # this node may ask all the same
    assert not book.put(REQUEST)  # known: no error
    book.set_state("in", REQUEST.peer, "0", expected="pending", state="refused", now_s=2.0)
    assert book.put(replace(REQUEST, id="16"))


def test_all_peers_together(book: RequestBook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REQUESTS_PENDING_MAX", 3)
    for n in range(3):
        book.put(replace(REQUEST, id=str(n), peer=str(n)))
    with pytest.raises(WalletFull, match="3 requests wait for a decision; decide some first"):
        book.put(replace(REQUEST, id="4", peer="4"))
    assert book.put(replace(REQUEST, id="ours", direction="out"))
    assert not book.put(replace(REQUEST, id="0", peer="0"))  # known: no error


def test_who_has_many_makes_room(book: RequestBook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REQUESTS_PENDING_MAX", 5)
    book.put(replace(REQUEST, id="honest", peer="honest"))
    for n in range(4):
        book.put(replace(REQUEST, id=f"flood {n}", peer="flood"))
    assert book.put(replace(REQUEST, id="late", peer="late"))
    assert {row.id for row in book.find()} == {"honest", "late", "flood 0", "flood 1", "flood 2"}
    assert book.put(replace(REQUEST, id="late 2", peer="late"))
    with pytest.raises(WalletFull):
        book.put(replace(REQUEST, id="late 3", peer="late"))


def test_what_waited_too_long_makes_room(
    book: RequestBook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REQUESTS_PENDING_MAX", 3)
    for n in range(3):
        book.put(replace(REQUEST, id=str(n), peer=str(n), created_s=n * 1e6))
    assert book.put(
        replace(REQUEST, id="new", peer="new", created_s=module.REQUEST_WAITS_S + 1.5e6)
    )
    assert [row.id for row in book.find()] == ["new", "2"]


def test_what_is_decided_hides_nothing(book: RequestBook) -> None:
    book.put(REQUEST)
    for n in range(2, 12):
        book.put(replace(REQUEST, id=str(n), state="refused"))
    assert book.find(open_first=True, limit=3)[0] == REQUEST


def test_what_is_decided_is_forgotten(book: RequestBook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REQUESTS_CLOSED_MAX", 3)
    for n in range(10):
        book.put(replace(REQUEST, id=str(n)))
    for n in (9, 0, 8, 1, 7):
        book.set_state("in", REQUEST.peer, str(n), expected="pending", state="refused", now_s=10.0)
    assert len(book.find(state="refused")) == 3
    assert len(book.find(state="pending")) == 5


def test_bounds(book: RequestBook) -> None:
    with pytest.raises(BodyTooLarge):
        book.put(replace(REQUEST, body=b"x" * (256 * 1024 + 1)))
    for long in (
        replace(REQUEST, id="x" * 1025),
        replace(REQUEST, type="x" * 1025),
        replace(REQUEST, peer="x" * 1025),
        replace(REQUEST, detail="x" * 1025),
    ):
        with pytest.raises(UserError):
            book.put(long)
    assert book.find() == []
