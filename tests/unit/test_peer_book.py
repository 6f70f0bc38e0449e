"""The peer book: bounded, best address first, and as suspicious of its file as of a stranger."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from credentials.keys import PeerId, SecretKey, peer_id
from kwaai import limits
from kwaai.errors import FileCorrupt
from kwaai.net.multiaddrs import Address
from kwaai.net.peer_book import PeerBook

NOW_S = 1_800_000_000.0


def peer(n: int) -> PeerId:
    return peer_id(SecretKey(n.to_bytes(32, "big")).public)


def at(port: int) -> Address:
    return Address("ip4", "10.0.0.1", port)


OWN = peer(0)


def new_book() -> PeerBook:
    return PeerBook(OWN, lambda: NOW_S)


def test_the_address_that_worked_comes_first() -> None:
    book = new_book()
    book.meet(peer(1), [at(1), at(2), at(3)], used=at(3))
    assert book.addresses(peer(1)) == (at(3), at(1), at(2))
    book.meet(peer(1), used=at(2))
    assert book.addresses(peer(1))[0] == at(2)
    book.meet(peer(1), [at(7)])
    assert book.addresses(peer(1)) == (at(7),), "what it says of itself replaces what it said"


def test_what_is_heard_is_used_until_the_peer_speaks_for_itself() -> None:
    book = new_book()
    book.hear(peer(1), [at(1)])
    assert book.addresses(peer(1)) == (at(1),)
    assert book.met() == ()
    assert b"10.0.0.1" not in book.encode()
    book.meet(peer(1))
    assert book.addresses(peer(1)) == (at(1),)
    book.hear(peer(1), [at(9)])
    assert book.addresses(peer(1)) == (at(1), at(9))
    book.hear(OWN, [at(1)])
    assert book.addresses(OWN) == ()
    book.forget(peer(1))
    assert book.addresses(peer(1)) == ()


def test_it_is_bounded() -> None:
    book = new_book()
    for n in range(1, limits.P2P_KNOWN_PEERS_MAX + 50):
        book.meet(peer(n), [at(1)])
        book.hear(peer(10_000 + n), [at(port) for port in range(1, 100)])
    assert len(book.met()) == limits.P2P_KNOWN_PEERS_MAX
    assert book.met()[0] == peer(limits.P2P_KNOWN_PEERS_MAX + 49), "last met first"
    assert book.addresses(peer(1)) == ()
    last = peer(10_000 + limits.P2P_KNOWN_PEERS_MAX + 49)
    assert len(book.addresses(last)) == limits.P2P_ADDRESSES_PER_PEER_MAX
    assert len(book._heard) == limits.P2P_KNOWN_PEERS_MAX


def test_a_file_gives_back_what_was_saved(tmp_path: Path) -> None:
    book = new_book()
    for n in (1, 2, 3):
        book.meet(peer(n), [at(n), Address("dns4", "a.example", n)])
    path = tmp_path / "run" / "peers.json"
    book.save(path)
    again = new_book()
    again.load(path)
    assert again.met() == book.met()
    assert again.addresses(peer(2)) == book.addresses(peer(2))
    assert again.changes == 0, "nothing that is worth saving"


def test_old_peers_and_ourselves_are_not_loaded() -> None:
    book = PeerBook(peer(9), lambda: NOW_S - limits.P2P_KNOWN_AGE_S - 10)
    book.meet(peer(1), [at(1)])
    now = new_book()
    now.parse(book.encode())
    assert now.met() == ()
    book = PeerBook(peer(9), lambda: NOW_S + 999)
    book.meet(OWN, [at(1)])
    book.meet(peer(2), [at(1)])
    now.parse(book.encode())
    assert now.met() == (peer(2),)


def change(**fields: object) -> bytes:
    entry = {"peer": peer(1), "met_s": int(NOW_S), "addresses": ["/ip4/1.2.3.4/tcp/5"]} | fields
    return json.dumps({"version": 1, "peers": [entry]}).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b'{"version": 2, "peers": []}',
        b'{"version": 1, "peers": {"a": 1}}',
        b'{"version": 1, "peers": [1]}',
        b'{"version": 1, "peers": 7}',
        b"[" * 100_000,
        b"\xff\xfe",
        change(peer="QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N"),
        change(peer=3),
        change(met_s="now"),
        change(met_s=True),
        change(met_s=1e400),
        change(addresses="/ip4/1.2.3.4/tcp/5"),
        json.dumps({"version": 1, "peers": [{}] * 10_000}).encode(),
    ],
)
def test_a_file_that_is_none_is_set_aside(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(FileCorrupt):
        new_book().parse(data)
    path = tmp_path / "peers.json"
    path.write_bytes(data)
    book = new_book()
    book.load(path)
    assert book.met() == ()
    assert not path.exists()
    assert (tmp_path / "peers.json.corrupt-1").read_bytes() == data


def test_a_file_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "peers.json"
    path.write_bytes(b" " * (limits.P2P_STATE_BYTES_MAX + 1))
    book = new_book()
    book.load(path)
    assert (tmp_path / "peers.json.corrupt-1").exists()
    book.load(tmp_path / "absent.json")


def test_addresses_in_a_file_that_cannot_be_dialled_are_left_out() -> None:
    book = new_book()
    book.parse(change(addresses=["/ip4/0.0.0.0/tcp/1", 7, "x", "/ip4/1.2.3.4/tcp/5"]))
    assert book.addresses(peer(1)) == (Address("ip4", "1.2.3.4", 5),)
    empty = new_book()
    empty.parse(change(addresses=["x"]))
    assert empty.met() == ()
