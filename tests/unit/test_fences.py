"""What one peer may ask of a node and make it believe: whom it dials, how many sessions one holds,
how fast one may talk, how far a claim of speed goes.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import pytest_asyncio

from credentials.keys import PeerId, PublicKey, SecretKey, peer_id
from kwaai.api.answers import Service
from kwaai.errors import Busy, ModelNotFound, PeerError, PeerUnreachable
from kwaai.limits import (
    PATH_LEARNED_S,
    PATH_SLOWNESS_MAX,
    PATH_SPEEDUP_MAX,
    SHARD_CONTROL_BURST,
    SHARD_DIALS_BURST,
    SHARD_NEXT_ADDRESSES_MAX,
    SHARD_SHARE_S,
    SHARD_WAITING_MAX,
)
from kwaai.net.links import Links
from kwaai.node import shards
from kwaai.node.claims import SAMPLES_MIN, Claims
from kwaai.node.next_hop import NextHops
from kwaai.node.shares import Shares
from kwaai.testing.generator import FakeGenerator
from kwaai.testing.shards import HANDLE, FakePart, Node
from kwaai.types import LayerRange
from kwaai.wire.messages import Close, CloseReason, Failed, Open, Opened, Probe, Refused
from kwaai.wire.messages import RefusedReason as Reason
from kwaai.wire.requester import HopPlan, plan_opens
from kwaai.wire.shard import encode, parse_control

BLOCKS, LAYERS = 8, LayerRange(1, 7)
AMBER, BERYL, CORAL, JADE = (peer_id(PublicKey(bytes([n]) * 32)) for n in (1, 2, 3, 4))
PUBLIC = "198.41.0.4:8081"


async def until(is_done: Callable[[], object], timeout_s: float = 5.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not is_done():
            await asyncio.sleep(0.005)


# Whom a requester can make a hop dial.


class FakeLinks:
    """Notes what would be dialled."""

    def __init__(self, remote: str = "198.41.0.9", *, is_direct: bool = True) -> None:
        self.known = {AMBER: SimpleNamespace(remote=remote, is_direct=is_direct)}
        self.dialled: list[tuple[str, ...]] = []
        self.release: asyncio.Event | None = None

    def link(self, peer: PeerId) -> Any:
        return self.known.get(peer)

    async def get(self, peer: PeerId, addresses: tuple[str, ...]) -> Any:
        self.dialled.append(addresses)
        if self.release is not None:
            await self.release.wait()
        raise PeerUnreachable(f"127.0.0.1:22: Connection refused ({addresses})", peer=peer)


def wanted(*addresses: str, peer: PeerId = BERYL) -> Open:
    hops = [HopPlan(CORAL, LayerRange(1, 3)), HopPlan(peer, LayerRange(3, 5), addresses)]
    home = HopPlan(AMBER, LayerRange(5, 8))
    return plan_opens(b"s" * 16, HANDLE, BLOCKS, home, hops, context_tokens=64)[0]


async def ask(links: FakeLinks, message: Open, own: tuple[str, ...] = ()) -> None:
    next_hops = NextHops(cast(Links, links), lambda _: own)
    with pytest.raises(PeerUnreachable) as caught:
        await next_hops.link(AMBER, message)
    # Which doors are there, and which are open, is nobody's business.
    assert caught.value.message == "there is no link to it"


@pytest.mark.parametrize(
    ("remote", "given", "dialled"),
    [
        ("198.41.0.9", ["127.0.0.1:22", "10.0.0.5:5432", PUBLIC], [PUBLIC]),
        ("198.41.0.9", ["169.254.169.254:80", "[::1]:80", "[::ffff:127.0.0.1]:80"], []),
        ("198.41.0.9", ["localhost:80", "db.internal:5432", "0.0.0.0:22", "[::]:22"], []),
        ("10.0.0.9", ["127.0.0.1:22", "10.0.0.5:8081", PUBLIC], ["10.0.0.5:8081", PUBLIC]),
        ("127.0.0.1", ["127.0.0.1:8081", "localhost:80"], ["127.0.0.1:8081"]),
    ],
)
async def test_a_requester_names_only_what_it_could_reach_itself(
    remote: str, given: list[str], dialled: list[str]
) -> None:
    links = FakeLinks(remote)
    await ask(links, wanted(*given))
    assert links.dialled == [tuple(dialled)]


async def test_a_requester_over_a_relay_names_public_addresses() -> None:
    links = FakeLinks("127.0.0.1", is_direct=False)
    await ask(links, wanted("127.0.0.1:22", "10.0.0.5:80", PUBLIC))
    assert links.dialled == [(PUBLIC,)]


async def test_a_peers_own_record_comes_before_what_a_requester_says() -> None:
    links = FakeLinks()
    await ask(links, wanted("198.41.0.7:22"), own=("10.0.0.5:8081",))
    assert links.dialled == [("10.0.0.5:8081",)]


async def test_the_addresses_that_count_are_few() -> None:
    links = FakeLinks()
    await ask(links, wanted(*(f"198.41.0.4:{port}" for port in range(1, 9))))
    assert len(links.dialled[0]) == SHARD_NEXT_ADDRESSES_MAX


async def test_a_requester_may_have_so_many_dialled() -> None:
    links, next_hops = FakeLinks(), None
    next_hops = NextHops(cast(Links, links), lambda _: ())
    outcomes = []
    for number in range(60):
        stranger = peer_id(PublicKey(bytes([100 + number]) * 32))
        with pytest.raises((PeerUnreachable, Busy)) as caught:
            await next_hops.link(AMBER, wanted(PUBLIC, peer=stranger))
        outcomes.append(caught.type)
    assert outcomes.count(PeerUnreachable) == len(links.dialled) == SHARD_DIALS_BURST
    links.known[JADE] = links.known[AMBER]
    with pytest.raises(PeerUnreachable):
        await next_hops.link(JADE, wanted(PUBLIC))


# Sessions: who may hold how many.


def test_all_of_a_slice_is_for_whoever_asks() -> None:
    shares = Shares()
    assert all(shares.may_open(AMBER, {AMBER: n}, 0.0, most=8) for n in range(8))


def test_with_others_waiting_a_requester_has_its_half() -> None:
    shares = Shares()
    shares.turned_away(BERYL, {AMBER: 8}, 10.0, most=8)
    assert not shares.may_open(AMBER, {AMBER: 4}, 11.0, most=8)
    assert shares.may_open(AMBER, {AMBER: 3}, 11.0, most=8)
    assert shares.may_open(BERYL, {AMBER: 7}, 11.0, most=8)
    assert shares.greedy({AMBER: 5, BERYL: 1}, 11.0, most=8) == AMBER
    assert shares.greedy({AMBER: 4, BERYL: 4}, 11.0, most=8) is None
    later_s = 10.1 + SHARD_SHARE_S
    assert shares.may_open(AMBER, {AMBER: 7}, later_s, most=8)
    assert shares.greedy({AMBER: 8}, later_s, most=8) is None


def test_who_has_its_half_waits_for_nothing() -> None:
    shares = Shares()
    shares.turned_away(BERYL, {AMBER: 4, BERYL: 4}, 0.0, most=8)
    assert shares.may_open(AMBER, {AMBER: 4, BERYL: 3}, 0.0, most=8)
    one = Shares()
    one.turned_away(BERYL, {AMBER: 1}, 0.0, most=1)
    assert one.may_open(AMBER, {}, 0.0, most=1)
    assert one.greedy({AMBER: 1}, 0.0, most=1) is None


def test_who_waits_is_remembered_within_bounds() -> None:
    shares = Shares()
    for number in range(SHARD_WAITING_MAX + 50):
        shares.turned_away(PeerId(str(number)), {}, 0.0, most=8)
    assert len(shares._waiting) == SHARD_WAITING_MAX


class Requester:
    """Asks one hop for sessions, and does nothing with them."""

    def __init__(self, hop: Node) -> None:
        self.hop, self.told = hop, list[Any]()
        self.links = Links(SecretKey(secrets.token_bytes(32)))
        self.lost = list[str]()
        self.links.on_control(lambda _, data: self.told.append(parse_control(data)))
        self.links.on_lost(lambda _, reason: self.lost.append(reason))

    async def start(self) -> None:
        await self.links.get(self.hop.peer, (self.hop.address,))

    async def say(self, message: Any) -> None:
        await self.links.send_control(self.hop.peer, encode(message))

    async def open(self) -> Any:
        home, id_ = HopPlan(self.links.peer, LayerRange(7, 8)), secrets.token_bytes(16)
        hops = [HopPlan(self.hop.peer, LAYERS)]
        [message] = plan_opens(id_, HANDLE, BLOCKS, home, hops, context_tokens=64)
        self.links.open_channel(self.hop.peer, id_, lambda _: None)
        await self.say(message)
        return await self.answer(id_)

    async def answer(self, session: bytes, kind: Any = (Opened, Refused)) -> Any:
        def found() -> list[Any]:
            return [m for m in self.told if isinstance(m, kind) and m.session == session]

        await until(found)
        return found()[-1]


@pytest_asyncio.fixture
async def hop() -> AsyncIterator[Node]:
    hop = Node("hop", 50)
    await hop.start()
    hop.hold(FakePart(LAYERS, BLOCKS, sessions=4))
    yield hop
    await hop.stop()


@pytest_asyncio.fixture
async def requesters(hop: Node) -> AsyncIterator[Callable[[], Any]]:
    made: list[Requester] = []

    async def make() -> Requester:
        made.append(Requester(hop))
        await made[-1].start()
        return made[-1]

    yield make
    for one in made:
        await one.links.stop()


async def test_one_requester_does_not_keep_a_slice_for_itself(
    hop: Node, requesters: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    greedy, modest = await requesters(), await requesters()
    opened = [await greedy.open() for _ in range(4)]
    assert all(isinstance(answer, Opened) for answer in opened)
    refused = await modest.open()
    assert (refused.reason, refused.retry_after_ms) == (Reason.BUSY, 1000)
    await greedy.say(Close(opened[3].session, CloseReason.DONE))
    await until(lambda: hop.server.sessions_open == 3)
    again = await greedy.open()
    assert again.reason is Reason.BUSY
    assert "others wait" in again.message
    assert isinstance(await modest.open(), Opened)
    # What it holds beyond its half ends when it is old, the oldest first.
    hop.server._sweep_now()
    assert hop.server.sessions_open == 4
    monkeypatch.setattr(shards, "SHARD_SHARE_S", 0.0)
    hop.server._sweep_now()
    failed = await greedy.answer(opened[0].session, Failed)
    assert "others wait" in failed.message
    await until(lambda: hop.server.sessions_open == 3)
    hop.server._sweep_now()
    await asyncio.sleep(0.02)
    assert hop.server.sessions_open == 3  # it has its half
    assert isinstance(await modest.open(), Opened)


async def test_the_next_session_is_the_heavier_requesters_turn(hop: Node, requesters: Any) -> None:
    light, late, heavy = await requesters(), await requesters(), await requesters()
    hop.server._weight_of = lambda peer: 8 if peer == heavy.links.peer else 1
    opened = [await light.open() for _ in range(4)]
    assert (await heavy.open()).reason is Reason.BUSY
    await light.say(Close(opened[0].session, CloseReason.DONE))
    await until(lambda: hop.server.sessions_open == 3)
    refused = await late.open()
    assert (refused.reason, refused.retry_after_ms) == (Reason.BUSY, 1000)
    assert "the turn of others" in refused.message
    assert isinstance(await heavy.open(), Opened)
    # Everybody is served: the next one is for whoever waits longer, of the light ones too.
    await light.say(Close(opened[1].session, CloseReason.DONE))
    await until(lambda: hop.server.sessions_open == 3)
    assert isinstance(await late.open(), Opened)


# How much one may say.


async def test_a_flood_of_control_messages_ends_the_link(hop: Node, requesters: Any) -> None:
    noisy, calm = await requesters(), await requesters()
    try:
        for _ in range(round(SHARD_CONTROL_BURST) + 1000):
            await noisy.say(Probe(b"x" * 16))
    except PeerError:
        pass
    await until(lambda: noisy.lost)
    assert "without end" in noisy.lost[0]
    assert hop.links.counters.peers_misbehaved == 1
    assert isinstance(await calm.open(), Opened)


async def test_every_open_of_a_storm_is_answered(hop: Node, requesters: Any) -> None:
    one = await requesters()
    home = HopPlan(one.links.peer, LayerRange(7, 8))
    for _ in range(300):
        hops, id_ = [HopPlan(hop.peer, LAYERS)], secrets.token_bytes(16)
        [message] = plan_opens(id_, HANDLE, BLOCKS, home, hops, context_tokens=64)
        await one.say(message)
    await until(lambda: len(one.told) >= 300)
    assert sum(isinstance(m, Opened) for m in one.told) == 4


async def test_a_requester_that_does_not_read_costs_few_tasks(
    hop: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    never = asyncio.Event()

    async def send(*_: Any) -> None:
        await never.wait()

    monkeypatch.setattr(hop.server._control, "send", send)
    message = Refused(b"s" * 16, 0, Reason.BUSY, "", 0)
    for _ in range(500):
        hop.server._say(AMBER, message)
    assert len(hop.server._sayings) == shards.SHARD_SAYINGS_MAX
    hop.server._say(BERYL, message)
    assert len(hop.server._sayings) == shards.SHARD_SAYINGS_MAX + 1


# How far a claim of speed is believed.


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_nobody_is_much_faster_than_this_machine() -> None:
    claims = Claims(Clock())
    assert claims.believed_s(AMBER, 1e-6, 0.1) == pytest.approx(0.1 / PATH_SPEEDUP_MAX)
    assert claims.believed_s(AMBER, 0.05, 0.1) == 0.05
    assert claims.believed_s(AMBER, 0.0, 0.1) == 0.0  # unknown stays unknown


def test_a_claim_that_did_not_hold_is_corrected_for_a_while() -> None:
    clock = Clock()
    claims = Claims(clock)
    claims.measured([AMBER], 0.01, [0.02] * SAMPLES_MIN)  # twice as slow: a busy moment
    assert claims.believed_s(AMBER, 0.05, 0.1) == 0.05
    claims.measured([AMBER], 0.01, [0.1] * (SAMPLES_MIN - 1))  # too few to say anything
    assert claims.believed_s(AMBER, 0.05, 0.1) == 0.05
    claims.measured([AMBER, BERYL], 0.01, [0.1] * SAMPLES_MIN)
    assert claims.believed_s(AMBER, 0.005, 0.1) == pytest.approx(0.05)
    assert claims.believed_s(AMBER, 0.0, 0.1) == pytest.approx(1.0)
    assert claims.believed_s(CORAL, 0.05, 0.1) == 0.05
    claims.measured([BERYL], 0.1, [0.01] * SAMPLES_MIN)  # it was not beryl
    assert claims.believed_s(BERYL, 0.05, 0.1) == pytest.approx(0.05)
    clock.now_s += PATH_LEARNED_S + 1
    assert claims.believed_s(AMBER, 0.05, 0.1) == 0.05


def test_corrections_are_bounded() -> None:
    claims = Claims(Clock())
    for number in itertools.islice(itertools.count(), 1100):
        claims.measured([str(number)], 1e-6, [1e6] * SAMPLES_MIN)
    assert len(claims._slowness) == 1024
    assert claims.believed_s("1099", 0.05, 0.1) == pytest.approx(0.05 * PATH_SLOWNESS_MAX)


# What a client of the API may name.


@pytest.mark.parametrize("name", ["/etc/passwd", "../demo.gguf", "~/demo.gguf", "."])
def test_a_client_names_no_files(name: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    service = Service(FakeGenerator(), api_key=None)
    with pytest.raises(ModelNotFound):
        service.find_model(name)
