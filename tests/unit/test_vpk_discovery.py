"""Announcing that this node hosts, and finding who else does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

import pytest

from credentials.keys import PeerId, SecretKey, peer_id
from kwaai.errors import PeerUnreachable
from kwaai.intent.match import PeerFacts
from kwaai.node.directory import Directory
from kwaai.node.standings import NoStandings
from kwaai.node.vpk_discovery import (
    PROVIDER_HANDLE,
    HostRow,
    StorageAnnouncer,
    StorageHosts,
)
from kwaai.testing.network import MemoryNetwork, MemorySwarm
from kwaai.trust.score import Standing
from kwaai.trust.tiers import Floors, Tier
from kwaai.types import ModelHandle
from kwaai.wire.record_extra import encode_extra
from kwaai.wire.records import NodeRecord, handle_key
from kwaai.wire.storage_bodies import Health, encode_health_answer
from kwaai.wire.storage_messages import encode_answer, encode_health
from kwaai.wire.storage_offer import OFFER_TAG, StorageOffer, encode_offer, offer_of, parse_offer

KEYS = [SecretKey(bytes([n]) * 32) for n in range(1, 8)]
PEERS = [peer_id(key.public) for key in KEYS]
GB = 10**9
OFFER = StorageOffer("eve", 100 * GB, 40 * GB, 2, 1, GB)
SOON_S = 10.0


def record(peer: PeerId, offer: StorageOffer | None, name: str = "n") -> NodeRecord:
    extra = b"" if offer is None else encode_extra({OFFER_TAG: encode_offer(offer)})
    return NodeRecord(peer, 1, 0.0, 60.0, name, "1", extra=extra)


class Records:
    """A directory of what a test says."""

    def __init__(self, *records: NodeRecord) -> None:
        self.held = records
        self.later: tuple[NodeRecord, ...] = ()
        """Found when they are looked for."""
        self.asked: list[ModelHandle | None] = []

    def records(self, handle: ModelHandle | None = None) -> tuple[NodeRecord, ...]:
        return self.held

    async def refresh(self, handle: ModelHandle | None = None, timeout_s: float = 5.0) -> None:
        self.asked.append(handle)
        self.held += self.later


class Known(NoStandings):
    """Tiers as a test says."""

    floors = Floors()

    def __init__(self, tiers: dict[PeerId, Tier]) -> None:
        self.tiers = tiers
        self.prepared: list[str] = []

    def standing(self, peer: str) -> Standing:
        tier = self.tiers.get(PeerId(peer), Tier.UNKNOWN)
        return Standing(peer, 0.5, 0.5, tier, f"owner of {peer[-4:]}")

    def facts(self, peer: str) -> PeerFacts:
        return PeerFacts(peer)

    async def prepare(self, peers: Sequence[str], *, current: bool) -> None:
        self.prepared += peers


class AskedCalls:
    """Calls that are answered by a function."""

    def __init__(self, answer: Callable[[PeerId], Awaitable[bytes]]) -> None:
        self.answer = answer
        self.at_once = self.most_at_once = 0

    @property
    def peer(self) -> PeerId:
        return PEERS[0]

    def rtt_s(self, peer: PeerId) -> float | None:
        return 0.025

    async def call(
        self,
        peer: PeerId,
        name: str,
        body: bytes | Callable[[bytes], bytes],
        timeout_s: float,
        lane: int,
    ) -> bytes:
        assert body == encode_health()
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        try:
            return await self.answer(peer)
        finally:
            self.at_once -= 1


async def healthy(peer: PeerId) -> bytes:
    await asyncio.sleep(0)
    return encode_answer(encode_health_answer(Health(90 * GB, 30 * GB, 5, 9, 1, "1.0")))


# Finding.


async def test_hosts_are_asked_how_they_are() -> None:
    async def answer(peer: PeerId) -> bytes:
        if peer == PEERS[2]:
            raise PeerUnreachable("nobody answers", peer=peer)
        if peer == PEERS[3]:
            return b"nonsense"
        return await healthy(peer)

    records = Records(
        record(PEERS[0], OFFER, "this one"),
        record(PEERS[1], OFFER, "well"),
        record(PEERS[2], OFFER, "away"),
        record(PEERS[3], OFFER, "mad"),
        record(PEERS[4], replace(OFFER, mode="bob"), "no host"),
        record(PEERS[5], None, "serves layers"),
    )
    known = Known({PEERS[2]: Tier.TRUSTED})
    calls = AskedCalls(answer)
    rows = await StorageHosts(records, known, calls).discover()
    assert [row.name for row in rows] == ["this one", "well", "away", "mad"]
    own, well, away, mad = rows
    assert own.is_self
    assert well == HostRow(
        PEERS[1], "well", "eve", 90 * GB, 30 * GB, 5, Tier.KNOWN, GB, True, Tier.UNKNOWN,
        f"owner of {PEERS[1][-4:]}", reachable=True, rtt_s=0.025,
    )  # fmt: skip
    assert (away.reachable, away.problem, away.tier) == (False, "nobody answers", Tier.TRUSTED)
    assert (away.capacity_bytes, away.rtt_s) == (100 * GB, None)
    assert mad.reachable is False
    assert set(known.prepared) == set(PEERS[1:4])
    assert calls.most_at_once >= 2


async def test_the_dht_is_asked_for_more() -> None:
    records = Records()
    records.later = (record(PEERS[1], OFFER),)
    hosts = StorageHosts(records, Known({}), AskedCalls(healthy))
    assert hosts.rows() == ()
    assert await hosts.discover(refresh=False) == ()
    assert [row.peer for row in await hosts.discover()] == [PEERS[1]]
    assert records.asked == [PROVIDER_HANDLE]


def test_known_hosts_come_in_the_order_of_their_use() -> None:
    records = Records(
        record(PEERS[1], replace(OFFER, free_bytes=GB)),
        record(PEERS[2], OFFER),
        record(PEERS[3], replace(OFFER, free_bytes=0)),
        record(PEERS[0], OFFER),
    )
    hosts = StorageHosts(records, Known({PEERS[3]: Tier.VERIFIED}), AskedCalls(healthy))
    assert [row.peer for row in hosts.rows()] == [PEERS[0], PEERS[3], PEERS[2], PEERS[1]]
    assert all(row.reachable is None for row in hosts.rows())


# Announcing.


class Announced:
    """A directory and a network that remember."""

    def __init__(self) -> None:
        self.extra: list[StorageOffer | None] = []
        self.provided: list[bytes] = []
        self.failures = 0

    def set_extra(self, tag: int, data: bytes | None) -> None:
        assert tag == OFFER_TAG
        offer = None if data is None else parse_offer(data)
        if not self.extra or self.extra[-1] != offer:
            self.extra.append(offer)

    async def provide(self, key: bytes, timeout_s: float = 5.0) -> None:
        if self.failures:
            self.failures -= 1
            raise PeerUnreachable("no peer is connected")
        self.provided.append(key)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(SOON_S):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture
def announced() -> Announced:
    return Announced()


async def test_an_offer_is_announced_roughly_and_taken_back(announced: Announced) -> None:
    offers: list[StorageOffer | None] = [replace(OFFER, free_bytes=40 * GB + 1)]
    ready = asyncio.Event()
    announcer = StorageAnnouncer(announced, announced, lambda: offers[-1])
    task = asyncio.create_task(announcer.run(ready.set))
    await asyncio.wait_for(ready.wait(), SOON_S)
    await until(lambda: announced.provided)
    step = 100 * GB // 64
    assert announced.extra == [replace(OFFER, free_bytes=40 * GB // step * step)]
    offers.append(None)
    announcer.changed()
    await until(lambda: announced.extra[-1] is None)
    offers.append(OFFER)
    announcer.changed()
    await until(lambda: announced.extra[-1] is not None)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert announced.extra[-1] is None
    assert announced.provided == [handle_key(PROVIDER_HANDLE)]


async def test_a_dht_that_nobody_answers_in_is_tried_again(announced: Announced) -> None:
    announced.failures = 3
    announcer = StorageAnnouncer(announced, announced, lambda: OFFER, every_s=0.01)
    task = asyncio.create_task(announcer.run(lambda: None))
    await until(lambda: announced.provided)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_who_only_has_knowledge_is_no_provider(announced: Announced) -> None:
    offer = StorageOffer("bob")
    looks: list[StorageOffer] = []

    def look() -> StorageOffer:
        looks.append(offer)
        return offer

    announcer = StorageAnnouncer(announced, announced, look, every_s=0.01)
    task = asyncio.create_task(announcer.run(lambda: None))
    await until(lambda: len(looks) > 3)
    assert announced.extra == [offer]
    assert not announced.provided
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_host_that_no_record_tells_of_is_found_in_the_dht() -> None:
    swarm = MemorySwarm(1, delay_s=(0.0, 0.0))
    networks = [MemoryNetwork(swarm, key) for key in KEYS[:3]]
    directories = [Directory(n, k) for n, k in zip(networks, KEYS, strict=False)]
    for network in networks:
        await network.start()
    for network in networks[1:]:
        await network.connect(networks[0].addresses()[0])
    for directory in directories:
        await directory.start()
    announcer = StorageAnnouncer(directories[2], networks[2], lambda: OFFER)
    task = asyncio.create_task(announcer.run(lambda: None))
    hosts = StorageHosts(directories[1], NoStandings(), AskedCalls(healthy))
    try:
        await until(lambda: handle_key(PROVIDER_HANDLE) in networks[0].dht.providers)
        found = await hosts.discover()
        async with asyncio.timeout(SOON_S):
            while [row.peer for row in found] != [PEERS[2]]:
                found = await hosts.discover()
        own = directories[2].record(PEERS[2])
        assert own is None or offer_of(own) is not None
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        for directory in directories:
            await directory.stop()
        for network in networks:
            await network.stop()
