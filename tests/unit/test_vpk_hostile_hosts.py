"""Eves that lie about large objects, so that bob waits for ever, or drops what is good."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

import pytest
from test_vpk_keeper import BLOB, LARGE, FakeHoldings, with_large, without
from vpk_fake_hosts import BASE, FakeHost

from credentials.keys import PeerId, SecretKey
from kwaai import limits
from kwaai.errors import PeerMisbehaved, SealBroken, TooFewHosts
from kwaai.node.storage_client import RemoteHost
from kwaai.vpk.erasure import Coding
from kwaai.vpk.fragments import make_fragments, stripe_id
from kwaai.vpk.host_set import HostSet, Member
from kwaai.vpk.keeper import repair
from kwaai.vpk.types import Object
from kwaai.wire.storage_bodies import encode_objects
from kwaai.wire.storage_messages import encode_answer

GOOD = b"what bob put there" * 100


def opens(blob: bytes) -> bytes:
    if blob != GOOD:
        raise SealBroken("it does not open")
    return blob


class Inventor(FakeHost):
    """Makes up another object each time it is asked."""

    async def get(self, base: bytes, ids: Sequence[bytes]) -> list[bytes | None]:
        await self._call("get", len(ids))
        return [make_fragments(os.urandom(200), Coding(1, 1))[0][0] for _ in ids]


class Staller(FakeHost):
    """Shows the beginning of an object that has more parts, and nothing more."""

    async def get(self, base: bytes, ids: Sequence[bytes]) -> list[bytes | None]:
        await self._call("get", len(ids))
        if ids != [LARGE]:
            await asyncio.sleep(3600)
        return [make_fragments(bytes(4 << 20), Coding(1, 1))[0][0]]


async def test_host_that_makes_up_another_object_each_time_is_given_up() -> None:
    liar = Inventor("liar")
    alone = HostSet([Member(liar, "a", tier=1)], replicas=1)
    async with asyncio.timeout(30):
        with pytest.raises(TooFewHosts, match="does not open"):
            await alone.get_large(BASE, LARGE, opens)
    assert len(liar.asked) <= 4


@pytest.mark.parametrize("count", [1, 3])
async def test_honest_host_is_found_behind_those_that_make_things_up(count: int) -> None:
    liars = [Inventor(f"liar{n}") for n in range(count)]
    honest = FakeHost("honest")
    honest.held()[LARGE] = make_fragments(GOOD, Coding(1, 1))[0][0]
    members = [Member(h, f"of {h.id}", tier=1) for h in (*liars, honest)]
    together = HostSet(members, replicas=2)
    async with asyncio.timeout(30):
        assert await together.get_large(BASE, LARGE, opens) == GOOD


async def test_host_that_begins_and_stalls_leaves_time_for_the_others() -> None:
    staller, honest = Staller("staller"), FakeHost("honest")
    honest.held()[LARGE] = make_fragments(GOOD, Coding(1, 1))[0][0]
    honest.delay_s = 0.3  # so that the liar is first
    together = HostSet([Member(h, h.id, tier=1) for h in (staller, honest)], replicas=2)
    async with asyncio.timeout(30):
        for _ in range(3):
            assert await together.get_large(BASE, LARGE, opens, timeout_s=2.0) == GOOD


class Forgetful(FakeHost):
    """Says that it took what it is given, and keeps none of it."""

    forgets = False

    async def put(self, base: bytes, objects: Sequence[Object]) -> None:
        if not self.forgets:
            await super().put(base, objects)


async def test_fragments_stay_until_two_hosts_show_what_takes_their_place() -> None:
    """Hosts leave, so that a coded object is to be kept whole; the ones that should have the copies
    drop them: the fragments that are left are all that there is."""
    hosts = [Forgetful(f"host{n}") for n in range(8)]
    together = HostSet([Member(h, f"owner of {h.id}", tier=1) for h in hosts])
    holdings = FakeHoldings([])
    await with_large(together, holdings)
    fewer = without(together, "host0", "host1", "host2")
    for host in hosts:
        host.forgets = True
    report = await repair(fewer, holdings)
    assert report.recoded == {LARGE: "1/2"}  # so it was told
    assert await fewer.get_large(BASE, LARGE, lambda blob: blob) == BLOB
    for host in hosts:
        host.forgets = False
    await repair(fewer, holdings)
    assert await fewer.get_large(BASE, LARGE, lambda blob: blob) == BLOB


async def test_stripes_of_another_object_do_not_mix() -> None:
    """One host's first stripe, another's second, both sound by themselves."""
    blob = bytes(3 << 20)
    others = [make_fragments(os.urandom(3 << 20), Coding(1, 1)) for _ in range(2)]
    hosts = [FakeHost("a"), FakeHost("b")]
    for host, made, stripe in zip(hosts, others, (0, 1), strict=True):
        host.held()[stripe_id(LARGE, stripe)] = made[stripe][0]
    together = HostSet([Member(h, h.id, tier=1) for h in hosts], replicas=2)

    def same(found: bytes) -> bytes:
        if found != blob:
            raise SealBroken("no")
        return found

    async with asyncio.timeout(30):
        with pytest.raises(TooFewHosts):
            await together.get_large(BASE, LARGE, same, timeout_s=2.0)


class Flood:
    """A host's end of calls: each object that is asked for comes as 2 MiB."""

    peer = PeerId("12D3KooWK99VoVxNE7XzyBwXEzW7xhK7Gpv85r9F3V3fyKSUKPH5")

    def __init__(self) -> None:
        self.sent = 0

    async def call(
        self, peer: PeerId, name: str, body: object, timeout_s: float, lane: int
    ) -> bytes:
        await asyncio.sleep(0)
        self.sent += 2_000_000
        return encode_answer(encode_objects([bytes(2_000_000)]))


@pytest.mark.parametrize("count", [2, 100, 1024])
async def test_flood_of_large_objects_is_cut_off(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bob reads 1,024 records of a kilobyte for a repair; eve sends two gigabytes."""
    monkeypatch.setattr(limits, "STORAGE_GET_BYTES_SPARED", 2_000_000)
    flood = Flood()
    host = RemoteHost(flood.peer, flood, SecretKey(b"\1" * 32))
    with pytest.raises(PeerMisbehaved, match="more than"):
        await host.get(BASE, [n.to_bytes(16, "big") for n in range(count)])
    assert flood.sent <= 4_000_000 + count * limits.STORAGE_GET_BYTES_EACH


async def test_one_large_object_is_read_alone() -> None:
    flood = Flood()
    host = RemoteHost(flood.peer, flood, SecretKey(b"\1" * 32))
    (blob,) = await host.get(BASE, [bytes(16)])
    assert len(blob or b"") == 2_000_000
