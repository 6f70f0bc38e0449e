"""The book of receipts: what is kept, what makes room for what, what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from credentials.keys import SecretKey
from kwaai.errors import BodyTooLarge, UserError
from kwaai.limits import RECEIPT_BYTES_MAX, RECEIPT_LIFE_S
from kwaai.store import receipts
from kwaai.store.home import Home
from kwaai.store.receipts import ReceiptBook, ReceiptRow
from kwaai.store.wallet import open_wallet
from kwaai.types import LayerRange

NOW_S = 1_795_000_000.0


@pytest.fixture
def book(tmp_path: Path) -> Iterator[ReceiptBook]:
    with open_wallet(Home(tmp_path), SecretKey(bytes(32))) as wallet:
        yield ReceiptBook(wallet.database)


def row(number: int = 0, **changes: Any) -> ReceiptRow:
    fields: dict[str, Any] = {
        "role": "requester",
        "peer": "amber",
        "session": number.to_bytes(16, "big"),
        "nonce": f"n{number}",
        "model": "sha256:" + "5a" * 32,
        "layers": LayerRange(1, 3),
        "prompt_tokens": 3,
        "answer_tokens": 2,
        "outcome": "completed",
        "started_s": NOW_S - 2,
        "finished_s": NOW_S,
        "state": "agreed",
        "detail": "",
        "own": b"mine",
        "counterpart": b"theirs %d" % number,
    }
    return ReceiptRow(**{**fields, **changes})


def test_a_receipt_is_kept(book: ReceiptBook) -> None:
    assert book.put([row(1), row(2, role="hop")]) == 2
    assert book.rows() == [row(2, role="hop"), row(1)]
    assert book.rows("amber", role="requester") == [row(1)]
    assert book.rows("beryl") == []
    assert book.get("hop", "amber", row(2).session) == row(2, role="hop")
    assert book.counts() == {"agreed": 2}


def test_what_is_missing_is_seen_until_it_comes(book: ReceiptBook) -> None:
    waiting = row(1, state="missing", detail="it was not reached", counterpart=None)
    book.put([waiting])
    assert book.rows(state="missing") == [waiting]
    assert book.put([row(1)]) == 0
    assert book.rows(state="missing") == []
    assert book.rows() == [row(1)]


def test_a_counterpart_that_came_stays(book: ReceiptBook) -> None:
    book.put([row(1)])
    book.put([row(1, counterpart=b"other", detail="x"), row(1, counterpart=None, state="missing")])
    assert book.rows() == [row(1)]
    book.put([row(1, state="disputed", detail="by its neighbour")])
    assert book.rows()[0].state == "disputed"


def test_one_peer_has_its_bound(book: ReceiptBook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receipts, "RECEIPT_ROWS_PER_PEER_MAX", 3)
    book.put([row(0, peer="beryl")])
    book.put(row(n) for n in range(5))
    assert [each.nonce for each in book.rows("amber")] == ["n4", "n3", "n2"]
    assert len(book.rows("beryl")) == 1


def test_strangers_push_out_strangers_only(
    book: ReceiptBook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receipts, "RECEIPT_ROWS_MAX", 6)
    book.put([row(9)])
    book.put(row(n, role="hop", peer="old") for n in range(3))
    book.put(row(n, role="hop", peer="older friend") for n in range(2))
    for n in range(50):
        book.put([row(n, role="hop", peer=f"sybil {n}")])
    peers = [each.peer for each in book.rows(role="hop")]
    assert peers == ["sybil 49", "older friend", "older friend", "old", "old", "old"]
    assert len(book.rows(role="requester")) == 1
    book.put([row(70, role="hop", peer="old")])  # who was known before has room
    assert book.rows(role="hop")[0].peer == "old"
    assert "sybil 49" not in [each.peer for each in book.rows(role="hop")]


def test_only_the_last_half_of_each_asker_is_shown(book: ReceiptBook) -> None:
    book.put([row(9), row(8, role="hop", state="contradicted")])
    for n in range(20):
        book.put([row(n, role="hop", peer=f"peer {n % 5}")])
    shown = book.recent()
    assert shown == [b"theirs %d" % n for n in (19, 18, 17, 16, 15)]
    assert len(book.recent(2)) == 2


def test_counts_by_peer(book: ReceiptBook) -> None:
    book.put([row(1), row(2, state="missing", counterpart=None), row(3, outcome="cancelled")])
    book.put([row(4, peer="beryl", state="disputed", finished_s=NOW_S + 5), row(5, role="hop")])
    assert [(p.peer, p.agreed, p.count, p.finished_s) for p in book.by_peer("requester")] == [
        ("amber", 1, 3, NOW_S),
        ("beryl", 0, 1, NOW_S + 5),
    ]


def test_receipts_end(book: ReceiptBook) -> None:
    book.put([row(1), row(2, finished_s=NOW_S + 60)])
    assert book.prune(NOW_S + RECEIPT_LIFE_S) == 0
    assert book.prune(NOW_S + RECEIPT_LIFE_S + 30) == 1
    assert [each.nonce for each in book.rows()] == ["n2"]


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        (row(own=bytes(RECEIPT_BYTES_MAX + 1)), BodyTooLarge),
        (row(counterpart=bytes(RECEIPT_BYTES_MAX + 1)), BodyTooLarge),
        (row(peer="x" * 300), UserError),
        (row(model="x" * 300), UserError),
        (row(finished_s=float("nan")), UserError),
    ],
)
def test_what_is_too_large_is_refused(
    book: ReceiptBook, bad: ReceiptRow, kind: type[Exception]
) -> None:
    with pytest.raises(kind):
        book.put([row(1), bad])
    assert book.rows() == []


def test_a_long_reason_is_cut(book: ReceiptBook) -> None:
    book.put([replace(row(1), detail="y" * 9000)])
    assert len(book.rows()[0].detail) == 512


def test_receipts_survive_a_restart(tmp_path: Path) -> None:
    for n in range(2):
        with open_wallet(Home(tmp_path), SecretKey(bytes(32))) as wallet:
            book = ReceiptBook(wallet.database)
            book.put([row(n)])
            assert len(book.rows()) == n + 1
