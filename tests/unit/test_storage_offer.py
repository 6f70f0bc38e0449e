"""What a record carries besides, and what a host of sealed knowledge announces in it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from credentials.keys import SecretKey, peer_id
from kwaai import limits
from kwaai.node.directory import Directory
from kwaai.testing.network import MemoryNetwork, MemorySwarm
from kwaai.wire.codec import WireError
from kwaai.wire.record_extra import encode_extra, parse_extra
from kwaai.wire.records import NodeRecord, sign_record, verify_record
from kwaai.wire.storage_offer import (
    MODES,
    OFFER_TAG,
    StorageOffer,
    coarse_bytes,
    encode_offer,
    offer_of,
    parse_offer,
)

KEY = SecretKey(b"\5" * 32)
PEER = peer_id(KEY.public)
GIB = 1 << 30
OFFER = StorageOffer("eve", 100 * GIB, 50 * GIB, 7, 1, GIB, takes_tenants=False)
SOON_S = 10.0

uint64 = st.integers(0, (1 << 64) - 1)
offers = st.builds(
    lambda mode, capacity, share, tenants, tier, quota, takes, protocol: StorageOffer(
        mode, capacity, int(capacity * share), tenants, tier, quota, takes, protocol
    ),
    st.sampled_from(MODES),
    st.integers(0, 1 << 50),
    st.floats(0, 1),
    st.integers(0, (1 << 32) - 1),
    st.integers(0, 3),
    uint64,
    st.booleans(),
    st.integers(2, 255),
)


def record(extra: bytes = b"", **changes: object) -> NodeRecord:
    made = NodeRecord(PEER, 1, 1000.0, 1060.0, "name", "1.0", extra=extra)
    return replace(made, **changes)  # type: ignore[arg-type]


# Entries.


@given(st.dictionaries(st.integers(1, 255), st.binary(max_size=60), max_size=12))
def test_entries_round_trip(entries: dict[int, bytes]) -> None:
    assert parse_extra(encode_extra(entries)) == entries


def test_entries_byte_by_byte() -> None:
    assert encode_extra({2: b"yz", 1: b""}) == bytes.fromhex("010000") + bytes.fromhex("020002797a")
    assert encode_extra({}) == b""


@pytest.mark.parametrize("tag", [0, -1, 256])
def test_tags_are_bytes_above_zero(tag: int) -> None:
    with pytest.raises(ValueError, match="no tag"):
        encode_extra({tag: b""})


def test_no_more_than_a_record_takes() -> None:
    most = limits.RECORD_EXTRA_BYTES_MAX
    assert len(encode_extra({1: bytes(most - 3)})) == most
    for entries in ({1: bytes(most - 2)}, {1: bytes(most // 2), 2: bytes(most // 2)}):
        with pytest.raises(ValueError, match="more than a record takes"):
            encode_extra(entries)


@pytest.mark.parametrize(
    "data", ["00", "01", "0100", "010001", "000000", "020000010000", "010000010000"]
)
def test_entries_that_are_none(data: str) -> None:
    with pytest.raises(WireError):
        parse_extra(bytes.fromhex(data))


@given(st.binary(max_size=64))
def test_no_bytes_break_the_parsers(data: bytes) -> None:
    for parse in (parse_extra, parse_offer):
        try:
            parse(data)
        except WireError:
            continue
    offer_of(record(data))


# Offers.


@given(offers)
def test_offers_round_trip(offer: StorageOffer) -> None:
    assert parse_offer(encode_offer(offer)) == offer


def test_an_offer_byte_by_byte() -> None:
    assert encode_offer(OFFER).hex() == (
        "02"  # protocol
        "01"  # eve
        "00"  # takes no new tenants
        "01"  # Known or higher
        "0000001900000000"  # capacity
        "0000000c80000000"  # free
        "0000000040000000"  # a tenant's quota
        "00000007"  # tenants
    )
    assert len(encode_offer(OFFER)) == 32


def test_what_later_versions_add_is_not_looked_at() -> None:
    data = encode_offer(replace(OFFER, protocol=3)) + b"more"
    assert parse_offer(data) == replace(OFFER, protocol=3)


@pytest.mark.parametrize(
    "change",
    [
        {"free_bytes": 101 * GIB},
        {"least_tier": 4},
        {"protocol": 1},
        {"capacity_bytes": -1},
        {"tenants": 1 << 32},
        {"mode": "alice"},
    ],
)
def test_what_cannot_be_offered(change: dict[str, int]) -> None:
    with pytest.raises((ValueError, OverflowError)):
        encode_offer(replace(OFFER, **change))  # type: ignore[arg-type]


def test_a_record_carries_an_offer_and_signs_it() -> None:
    extra = encode_extra({OFFER_TAG: encode_offer(OFFER), 200: b"of another part"})
    data = sign_record(record(extra), KEY)
    found = verify_record(data, 1010.0)
    assert offer_of(found) == OFFER
    assert offer_of(record()) is None
    assert offer_of(record(encode_extra({200: b"x"}))) is None
    assert offer_of(record(encode_extra({OFFER_TAG: b"\2"}))) is None
    assert offer_of(record(b"\xff")) is None
    assert offer_of(record(extra, withdrawn=True)) is None
    assert not replace(OFFER, mode="bob").hosts


def test_free_room_is_told_roughly() -> None:
    assert coarse_bytes(50 * GIB + 5, 100 * GIB) == 50 * GIB
    assert coarse_bytes(51 * GIB, 100 * GIB) == 50 * GIB
    assert coarse_bytes((64 << 20) - 1, GIB) == 0
    assert coarse_bytes(2 * GIB, GIB) == GIB
    assert coarse_bytes(-1, GIB) == 0


# In the directory.


async def test_a_directory_announces_entries_and_takes_them_back() -> None:
    swarm = MemorySwarm(1, delay_s=(0.0, 0.0))
    keys = [SecretKey(bytes([n]) * 32) for n in (1, 2)]
    first = MemoryNetwork(swarm, keys[0])
    networks = [first, MemoryNetwork(swarm, keys[1])]
    directories = [Directory(n, key) for n, key in zip(networks, keys, strict=True)]
    for network in networks:
        await network.start()
    await networks[1].connect(first.addresses()[0])
    directories[0].set_extra(OFFER_TAG, encode_offer(OFFER))
    for directory in directories:
        await directory.start()

    async def until_told(offer: StorageOffer | None) -> None:
        async with asyncio.timeout(SOON_S):
            while True:
                heard = directories[1].record(first.peer_id)
                if heard is not None and offer_of(heard) == offer:
                    return
                await asyncio.sleep(0.01)

    try:
        await until_told(OFFER)
        fuller = replace(OFFER, free_bytes=GIB)
        directories[0].set_extra(OFFER_TAG, encode_offer(fuller))
        await until_told(fuller)
        with pytest.raises(ValueError, match="more than a record takes"):
            directories[0].set_extra(9, bytes(limits.RECORD_EXTRA_BYTES_MAX))
        directories[0].set_extra(OFFER_TAG, None)
        await until_told(None)
        directories[0].set_extra(OFFER_TAG, encode_offer(OFFER))
        await directories[0].stop()  # a withdrawn record has no entries
        assert directories[1].record(first.peer_id) is None
    finally:
        await directories[1].stop()
        for network in networks:
            await network.stop()
