"""Kademlia's data: distances, buckets, stores and paces, all bounded. And the look-up, in a made-up
network.
"""

from __future__ import annotations

import random

import pytest
import trio

from credentials.keys import PeerId, SecretKey, peer_id
from kwaai import limits
from kwaai.net.kad_lookup import Lookup
from kwaai.net.kad_table import (
    Pace,
    ProviderStore,
    RoutingTable,
    ValueStore,
    key_of,
    key_of_peer,
)
from kwaai.net.multiaddrs import Address


def peer(n: int) -> PeerId:
    return peer_id(SecretKey(n.to_bytes(32, "big")).public)


PEERS = [peer(n) for n in range(1, 400)]
PLACES = {p: key_of_peer(p) for p in PEERS}
OWN = peer(0)


def test_the_table_returns_the_nearest() -> None:
    table = RoutingTable(OWN)
    added = [p for p in PEERS if table.add(p, is_connected=PEERS)]
    assert len(table) == len(added) < len(PEERS), "the far half has one bucket of twenty"
    place = key_of(b"anything")
    expected = sorted(added, key=lambda p: key_of_peer(p) ^ place)
    assert table.nearest(place) == expected[: limits.DHT_BUCKET_PEERS]
    table.remove(expected[0])
    assert expected[0] not in table
    assert table.nearest(place, 1) == [expected[1]]


def test_we_are_not_in_our_own_table() -> None:
    table = RoutingTable(OWN)
    assert not table.add(OWN)
    assert len(table) == 0


def test_in_a_full_bucket_the_connected_stay() -> None:
    table = RoutingTable(OWN)
    far = [p for p in PEERS if (key_of_peer(p) ^ key_of_peer(OWN)).bit_length() == 256]
    bucket, newcomer = far[:20], far[20]
    for p in bucket:
        assert table.add(p)
    assert not table.add(newcomer, is_connected=bucket)
    assert table.add(newcomer, is_connected=bucket[1:])
    assert bucket[0] not in table


def test_values_newest_and_bounded() -> None:
    store = ValueStore()
    assert store.put(b"k", b"b", 2, 0.0)
    assert not store.put(b"k", b"a", 1, 1.0)
    assert not store.put(b"k", b"a", 2, 1.0), "of two with one number, all nodes keep the same"
    assert store.put(b"k", b"b", 2, 1.0)
    found = store.get(b"k", 1.0)
    assert found
    assert found.data == b"b"
    assert store.get(b"k", 2.0 + limits.DHT_VALUE_TTL_S) is None
    assert len(store) == 0
    for n in range(limits.DHT_VALUES_MAX + 10):
        store.put(b"%d" % n, b"", 0, 0.0)
    assert len(store) == limits.DHT_VALUES_MAX
    assert store.get(b"0", 0.0) is None


def test_providers_latest_and_bounded() -> None:
    store = ProviderStore()
    where = (Address("ip4", "10.0.0.1", 1),)
    for n in range(limits.DHT_PROVIDERS_PER_KEY_MAX + 5):
        store.add(b"k", PEERS[n], where, float(n))
    found = store.get(b"k", 100.0)
    assert len(found) == limits.DHT_PROVIDERS_PER_KEY_MAX
    assert found[0] == (PEERS[limits.DHT_PROVIDERS_PER_KEY_MAX + 4], where)
    assert store.get(b"k", 200.0 + limits.DHT_PROVIDER_TTL_S) == []
    assert len(store) == 0
    for n in range(limits.DHT_PROVIDER_KEYS_MAX + 5):
        store.add(b"%d" % n, PEERS[0], where, 0.0)
    assert len(store) == limits.DHT_PROVIDER_KEYS_MAX


def test_pace() -> None:
    pace = Pace(3, 10.0)
    assert [pace.take(OWN, t) for t in (0.0, 1.0, 2.0, 3.0)] == [True, True, True, False]
    assert pace.wait_s(OWN, 3.0) == 7.0
    assert pace.take(PEERS[0], 3.0), "each peer has its own"
    assert pace.take(OWN, 10.0)
    assert not pace.take(OWN, 10.5)


# --- the look-up


def run_lookup(
    neighbours: dict[PeerId, list[PeerId] | None], start: list[PeerId], place: int
) -> tuple[list[PeerId], list[PeerId]]:
    """Look a place up in a network where each peer knows some; return (found, asked)."""
    asked: list[PeerId] = []

    async def ask(p: PeerId) -> list[PeerId] | None:
        asked.append(p)
        await trio.lowlevel.checkpoint()
        return neighbours.get(p)

    found = trio.run(Lookup(place, OWN, start).run, ask)
    return found, asked


@pytest.mark.parametrize("seed", range(5))
def test_the_nearest_are_found(seed: int) -> None:
    rng = random.Random(seed)
    place = key_of(rng.randbytes(8))

    def know(p: PeerId) -> list[PeerId]:
        near = sorted(PEERS, key=lambda q: PLACES[q] ^ PLACES[p])[:30]
        pool = sorted({*near, *rng.sample(PEERS, 30)}, key=lambda q: PLACES[q] ^ place)
        return pool[: limits.DHT_BUCKET_PEERS]

    neighbours: dict[PeerId, list[PeerId] | None] = {p: know(p) for p in PEERS}
    dead = set(rng.sample(PEERS, 40))
    for p in dead:
        neighbours[p] = None
    start = [p for p in rng.sample(PEERS, 5) if p not in dead]
    found, asked = run_lookup(neighbours, start, place)
    alive = sorted((p for p in PEERS if p not in dead), key=lambda p: key_of_peer(p) ^ place)
    assert found[:5] == alive[:5]
    assert not dead & set(found)
    assert len(asked) == len(set(asked)) <= limits.DHT_QUERIES_MAX


def test_liars_cannot_keep_it_busy() -> None:
    rng = random.Random(1)
    strangers = [peer(1000 + n) for n in range(2000)]
    neighbours: dict[PeerId, list[PeerId] | None] = {
        p: rng.sample(strangers, 40) for p in (*PEERS, *strangers)
    }
    found, asked = run_lookup(neighbours, PEERS[:3], key_of(b"x"))
    assert len(asked) <= limits.DHT_QUERIES_MAX
    assert len(found) <= limits.DHT_BUCKET_PEERS


def test_nobody_to_ask() -> None:
    assert run_lookup({}, [], 0) == ([], [])
    assert run_lookup({}, [OWN], 0) == ([], [])
