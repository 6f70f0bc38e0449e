"""Witnesses: what counts earn; that a node vouches for what it measured, once, and of others."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from exchange_world import WAIT_S, Place, World, a_world, end_task
from hypothesis import given
from hypothesis import strategies as st

from credentials.document import parse_document
from credentials.keys import PeerId
from kwaai import limits
from kwaai.config import Config
from kwaai.errors import DiskFull, PeerStalled, ResourceError
from kwaai.node.witness import Witness
from kwaai.store.evidence import EvidenceLog
from kwaai.store.receipts import ReceiptBook, ReceiptRow
from kwaai.store.requests import CredentialRequest
from kwaai.trust.evidence import Observation, Outcome, principal_of_peer
from kwaai.trust.policy import TrustPolicy
from kwaai.trust.score import Standing
from kwaai.trust.tiers import Floors, Tier
from kwaai.trust.witness import (
    Probe,
    ProbeWindow,
    Sample,
    judge_round,
    sample_of,
    throughput_claims,
    uptime_claims,
)
from kwaai.types import LayerRange

MODEL = "sha256:" + "5a" * 32
LAYERS = LayerRange(4, 12)
NOW_S = 1_795_000_000.0
DAY_S = 86_400.0
LATER_S = NOW_S + DAY_S


# What counts earn.


def window(answered: int = 96, silent: int = 0, unknown: int = 0) -> ProbeWindow:
    """The probes of a day, spread over it."""
    probes = [Probe.ANSWERED] * answered + [Probe.SILENT] * silent + [Probe.UNKNOWN] * unknown
    found = ProbeWindow()
    for number, probe in enumerate(probes):
        found.add(probe, NOW_S + number * DAY_S / len(probes), 0.02 + number / 1e4)
    return found


def test_a_day_of_answers_earns_an_uptime() -> None:
    assert uptime_claims(window(90, 6), LATER_S) == {
        "windowStart": "2026-11-18T11:06:40Z",
        "windowEnd": "2026-11-19T10:51:40Z",
        "probeCount": 96,
        "successCount": 90,
        "medianRoundTripMilliseconds": 24.45,
    }


@pytest.mark.parametrize(
    ("probes", "why"),
    [
        (window(50), "too few"),
        (window(80, 16), "away too often"),
        (window(90, 0, 12), "this node was offline too often to tell"),
        (ProbeWindow(), "none"),
    ],
)
def test_a_window_that_earns_nothing(probes: ProbeWindow, why: str) -> None:
    assert uptime_claims(probes, LATER_S) is None, why


def test_nothing_is_earned_before_a_window_is_over_nor_by_one_that_was_slept_through() -> None:
    probes = window()
    assert not probes.is_over(LATER_S - 1)
    assert uptime_claims(probes, LATER_S - 1) is None
    probes.add(Probe.ANSWERED, NOW_S + 2 * DAY_S, 0.02)
    assert uptime_claims(probes, NOW_S + 2 * DAY_S) is None


def test_a_window_ends_early_where_nothing_can_be_earned_or_the_clock_was_set_back() -> None:
    assert window(0, 26).is_over(NOW_S + DAY_S - 1)
    probes = window()
    assert probes.is_over(NOW_S)
    assert uptime_claims(probes, NOW_S) is None


def test_a_window_is_bounded() -> None:
    probes = window(limits.WITNESS_PROBES_MAX)
    assert probes.is_full
    with pytest.raises(ValueError, match="at most"):
        probes.add(Probe.ANSWERED, NOW_S)


def test_failures_count_only_where_half_of_the_others_answer() -> None:
    answers: dict[str, float | None] = {"a": 0.1, "b": None, "c": None}
    assert judge_round(answers) == {"a": Probe.ANSWERED, "b": Probe.UNKNOWN, "c": Probe.UNKNOWN}
    answers["c"] = 0.2
    assert judge_round(answers)["b"] is Probe.SILENT
    assert judge_round({"b": None}) == {"b": Probe.UNKNOWN}
    assert judge_round({}) == {}


@given(st.integers(0, 85), st.integers(0, 85), st.integers(0, 85))
def test_uptimes_are_honest(answered: int, silent: int, unknown: int) -> None:
    claims = uptime_claims(window(answered, silent, unknown), LATER_S)
    if claims is not None:
        assert (claims["probeCount"], claims["successCount"]) == (answered + silent, answered)
        assert answered >= 0.9 * (answered + silent)
        assert unknown <= 0.1 * (answered + silent + unknown)


def samples(count: int = 9, layers: LayerRange = LAYERS, slowest_s: float = 1.0) -> list[Sample]:
    return [
        Sample(MODEL, layers, 40, slowest_s + n, NOW_S + 60 * n, NOW_S + 60 * n + 20)
        for n in range(count)
    ]


def test_answers_earn_a_throughput_which_is_their_median() -> None:
    others = samples(8, LayerRange(0, 4))
    assert throughput_claims([*others, *samples()], 0) == {
        "modelHandle": MODEL,
        "blockStart": 4,
        "blockStop": 12,
        "measuredPhase": "decode",
        "tokensPerSecond": 8.0,
        "sampleCount": 9,
        "windowStart": "2026-11-18T11:06:40Z",
        "windowEnd": "2026-11-18T11:15:00Z",
    }


def test_a_throughput_takes_enough_answers_of_the_same_layers_and_no_wrong_one() -> None:
    assert throughput_claims(samples(7) + samples(7, LayerRange(0, 4)), 0) is None
    assert throughput_claims(samples(), 1) is None
    assert throughput_claims([], 0) is None


@given(st.permutations(samples(9) + samples(9, LayerRange(0, 4)) + samples(8, LayerRange(1, 2))))
def test_the_order_of_answers_does_not_matter(mixed: list[Sample]) -> None:
    assert throughput_claims(mixed, 0) == throughput_claims(sorted(mixed), 0)


@given(
    st.integers(-5, 2**40),
    st.floats(allow_nan=True, allow_infinity=True),
    st.floats(allow_nan=True, allow_infinity=True),
    st.none() | st.floats(allow_nan=True, allow_infinity=True),
)
def test_a_sample_is_a_speed_or_none(
    tokens: int, began_s: float, ended_s: float, first_ms: float | None
) -> None:
    found = sample_of(
        model=MODEL,
        layers=LAYERS,
        answer_tokens=tokens,
        started_s=began_s,
        finished_s=ended_s,
        first_token_ms=first_ms,
    )
    if found is not None:
        assert 0 < found.tokens_s <= 1_000_000
        assert found.tokens >= limits.WITNESS_TOKENS_MIN


def test_a_session_that_idled_is_no_sample() -> None:
    def of(finished_s: float) -> Sample | None:
        return sample_of(
            model=MODEL,
            layers=LAYERS,
            answer_tokens=101,
            started_s=NOW_S,
            finished_s=NOW_S + finished_s,
            first_token_ms=500.0,
        )

    found = of(10.5)
    assert found is not None
    assert found.tokens_s == 10.0
    assert of(3600) is None


# A node that does it.


class Services:
    """A node's CredentialService, of a place that runs already."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self.is_open = True

    def office(self) -> Any:
        if not self.is_open:
            raise ResourceError("the wallet is being opened")
        return self._place.office

    def exchange(self) -> Any:
        return self._place.exchange


class Trust:
    """What is known of peers."""

    floors = Floors()

    def __init__(self, policy: TrustPolicy) -> None:
        self.policy = policy
        self.owners: dict[str, str] = {}
        self.tiers: dict[str, Tier] = {}
        self.integrity: dict[str, float] = {}

    def check_open(self) -> None:
        pass

    def standing(self, peer: str) -> Standing:
        principal, tier = principal_of_peer(peer), self.tiers.get(peer, Tier.UNKNOWN)
        integrity = self.integrity.get(peer, 1.0)
        return Standing(principal, 0.0, 1.0, tier, self.owners.get(peer), integrity=integrity)

    async def prepare(self, peers: object, *, current: bool) -> None:
        pass


class Clock:
    """Of all nodes of a scene."""

    def __init__(self) -> None:
        self.now_s = NOW_S

    def __call__(self) -> float:
        return self.now_s


class Node:
    """A witness, and who answers its probes."""

    def __init__(self, place: Place, peers: list[Place], clock: Clock) -> None:
        self.place, self.peers, self.clock = place, peers, clock
        self.pings = 0
        self.silent: set[PeerId] = set()
        self.is_offline = False
        self.services = Services(place)
        self.trust = Trust(TrustPolicy(own=principal_of_peer(place.peer)))
        network: Any = place.network
        network.ping = self.ping
        self.network = network
        self.begin()

    def begin(self) -> None:
        """Begin as after a start of the node."""
        self.witness = Witness(
            Config(witness=True),
            self.network,
            self.services,
            self.trust,
            clock=self.clock,
            rng=random.Random(1),
        )

    async def ping(self, peer: PeerId, timeout_s: float = 0.0) -> float:
        self.pings += 1
        if self.is_offline or peer in self.silent:
            raise PeerStalled(f"{peer} did not answer", peer=peer)
        return 0.025

    async def rounds(self, count: int = 97, on: Callable[[int], None] = lambda _: None) -> None:
        """A day, and the round after it."""
        for number in range(count):
            on(number)
            await self.witness.round()
            self.clock.now_s += limits.WITNESS_ROUND_S

    def issued(self, kind: str = "") -> list[tuple[str, dict[str, Any]]]:
        """Subject and claims of what was issued, newest first."""
        found = self.place.office.issued.find(kind=kind or None)
        return [(one.subject, parse_document(one.original)["credentialSubject"]) for one in found]

    def subjects(self, kind: str = "") -> list[str]:
        return sorted(subject for subject, _ in self.issued(kind))

    def answer(self, peer: Place, number: int, *, tokens_s: float = 20.0, **changes: Any) -> None:
        """Keep the receipt of an answer of 41 tokens, whose first came after a second."""
        own = {"credentialSubject": {"firstTokenMilliseconds": 1000.0}}
        started_s = self.clock.now_s - 600 + number
        fields: dict[str, Any] = {
            "role": "requester",
            "peer": peer.peer,
            "session": number.to_bytes(16, "big"),
            "nonce": f"n{number}",
            "model": MODEL,
            "layers": LAYERS,
            "prompt_tokens": 3,
            "answer_tokens": 41,
            "outcome": "completed",
            "started_s": started_s,
            "finished_s": started_s + 1 + 40 / tokens_s,
            "state": "agreed",
            "detail": "",
            "own": json.dumps(own).encode(),
            "counterpart": b"theirs",
        }
        ReceiptBook(self.database).put([ReceiptRow(**{**fields, **changes})])

    def saw(self, peer: Place, outcome: Outcome) -> None:
        observation = Observation(principal_of_peer(peer.peer), self.clock.now_s - 60, outcome)
        EvidenceLog(self.database).append([observation])

    @property
    def database(self) -> Any:
        return self.place.office.wallet.database


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with a_world(tmp_path) as world:
        yield world


async def scene(world: World, peers: int = 2) -> Node:
    """A witness and those whom it is connected to."""
    clock = Clock()
    place = await world.add(clock=clock)
    others = [await world.add(clock=clock) for _ in range(peers)]
    async with asyncio.timeout(WAIT_S):
        while len(place.network.connections()) < peers:
            await asyncio.sleep(0)
    return Node(place, others, clock)


def did(place: Place) -> str:
    return place.office.did


async def offers(place: Place) -> list[CredentialRequest]:
    return [row for row in await place.exchange.requests() if row.direction == "in"]


async def test_whoever_is_there_for_a_day_gets_an_uptime_and_is_offered_it(world: World) -> None:
    node = await scene(world)
    here, away = node.peers

    def leave(number: int) -> None:
        if number % 5 == 0:
            node.silent.add(away.peer)
        else:
            node.silent.discard(away.peer)

    await node.rounds(on=leave)
    ((subject, claims),) = node.issued()
    assert subject == did(here)
    assert (claims["probeCount"], claims["successCount"], claims["uptimeRatio"]) == (96, 96, 1.0)
    assert claims["medianRoundTripMilliseconds"] == 25.0
    (offer,) = await offers(here)
    assert (offer.type, offer.peer) == ("UptimeVC", node.place.peer)
    assert not await offers(away)
    taken = await here.exchange.approve(offer.id)
    assert taken.state == "delivered"


async def test_an_outage_of_this_nodes_own_network_counts_against_nobody(world: World) -> None:
    node = await scene(world)

    def drop(number: int) -> None:
        node.is_offline = 10 <= number < 18

    await node.rounds(on=drop)
    claims = [claims for _, claims in node.issued()]
    assert [c["probeCount"] for c in claims] == [88, 88]
    assert [c["uptimeRatio"] for c in claims] == [1.0, 1.0]


async def test_a_long_outage_earns_nobody_anything(world: World) -> None:
    node = await scene(world)

    def drop(number: int) -> None:
        node.is_offline = 10 <= number < 22

    await node.rounds(on=drop)
    assert node.issued() == []


async def test_a_peer_that_has_left_is_still_probed(world: World) -> None:
    node = await scene(world)
    here, away = node.peers
    await node.rounds(10)
    await away.network.stop()
    node.silent.add(away.peer)
    pings = node.pings
    await node.rounds(5)
    assert node.pings == pings + 10
    await node.rounds(82)
    assert node.subjects() == [did(here)]


async def test_a_peer_gets_one_of_a_kind_in_a_week_restart_or_not(world: World) -> None:
    node = await scene(world, 1)
    await node.rounds()
    assert node.subjects() == [did(node.peers[0])]
    pings = node.pings
    await node.rounds(20)
    assert node.pings == pings, "it is not due, so it is not asked"
    node.begin()
    await node.rounds()
    assert len(node.issued()) == 1
    node.clock.now_s += limits.WITNESS_AGAIN_S
    await node.rounds()
    assert len(node.issued()) == 2


async def test_a_restart_begins_the_window_anew(world: World) -> None:
    node = await scene(world, 1)
    await node.rounds(60)
    node.begin()
    await node.rounds(60)
    assert node.issued() == []


async def test_nodes_of_the_same_owner_and_liars_get_nothing(world: World) -> None:
    node = await scene(world, 4)
    sibling, owned, liar, other = node.peers
    node.trust.policy = TrustPolicy(own=did(node.place), own_owner="did:key:zOwner")
    node.trust.owners[sibling.peer] = "did:key:zOwner"
    node.trust.owners[owned.peer] = did(node.place)
    node.trust.integrity[liar.peer] = 0.1
    for peer in node.peers:
        for number in range(8):
            node.answer(peer, number)
    await node.rounds()
    assert node.subjects() == [did(other)] * 2


async def test_who_turns_out_to_be_of_the_same_owner_gets_nothing(world: World) -> None:
    node = await scene(world, 1)
    await node.rounds(50)
    node.trust.policy = TrustPolicy(own=did(node.place), own_owner="did:key:zOwner")
    node.trust.owners[node.peers[0].peer] = "did:key:zOwner"
    await node.rounds()
    assert node.issued() == []


async def test_agreed_receipts_earn_a_throughput(world: World) -> None:
    node = await scene(world)
    fast, slow = node.peers
    for number in range(9):
        node.answer(fast, number, tokens_s=20.0 + number)
        node.answer(slow, number, tokens_s=5.0, state="agreed" if number < 7 else "missing")
    await node.witness.round()
    ((subject, claims),) = node.issued()
    assert subject == did(fast)
    assert claims["tokensPerSecond"] == 24.0
    assert (claims["sampleCount"], claims["modelHandle"]) == (9, MODEL)
    assert (claims["blockStart"], claims["blockStop"]) == (4, 12)
    assert "claimedTokensPerSecond" not in claims, "that would be the peer's word"
    assert [row.type for row in await offers(fast)] == ["ThroughputVC"]
    node.begin()
    node.clock.now_s += limits.WITNESS_SPEEDS_S
    await node.witness.round()
    assert len(node.issued()) == 1


@pytest.mark.parametrize("spoil", ["role", "age", "outcome", "wrong", "contradicted", "unsigned"])
async def test_answers_that_earn_no_throughput(world: World, spoil: str) -> None:
    node = await scene(world, 1)
    (peer,) = node.peers
    changes: dict[str, dict[str, Any]] = {
        "role": {"role": "hop"},
        "age": {"started_s": NOW_S - 2 * DAY_S, "finished_s": NOW_S - 2 * DAY_S + 3},
        "outcome": {"outcome": "cancelled"},
        "unsigned": {"own": b"\xff"},
    }
    for number in range(9):
        node.answer(peer, number, **changes.get(spoil, {}))
    if spoil == "wrong":
        node.saw(peer, Outcome.WRONG)
    if spoil == "contradicted":
        node.answer(peer, 10, state="contradicted")
    await node.witness.round()
    assert node.issued() == []


async def test_only_its_own_completed_answers_are_measured(world: World) -> None:
    node = await scene(world, 1)
    (peer,) = node.peers
    for number in range(8):
        node.answer(peer, number)
        node.answer(peer, number, role="hop", tokens_s=500.0)
        node.answer(peer, 100 + number, outcome="cancelled", tokens_s=500.0)
    await node.witness.round()
    ((_, claims),) = node.issued()
    assert (claims["sampleCount"], claims["tokensPerSecond"]) == (8, 20.0)


async def test_what_the_owner_issued_meanwhile_is_the_one(world: World) -> None:
    node = await scene(world, 1)
    (peer,) = node.peers
    await node.rounds(90)
    claims = uptime_claims(window(), LATER_S)
    assert claims is not None
    node.clock.now_s += DAY_S / 2
    node.place.office.issue("UptimeVC", did(peer), claims)
    await node.rounds()
    assert len(node.issued()) == 1


async def test_an_offer_that_does_not_arrive_is_made_again_a_few_times(world: World) -> None:
    node = await scene(world, 1)
    (peer,) = node.peers
    tries: list[bytes] = []
    exchange: Any = node.place.exchange
    made = exchange.offer

    async def offer(peer: PeerId, data: bytes, note: str = "") -> CredentialRequest:
        tries.append(data)
        if len(tries) == 1:
            raise PeerStalled("it did not answer", peer=peer)
        row: CredentialRequest = await made(peer, data, note)
        return row

    exchange.offer = offer
    for number in range(8):
        node.answer(peer, number)
    await node.rounds(4)
    assert len(tries) == 2
    assert tries[0] == tries[1]
    assert len(node.issued()) == 1
    assert len(await offers(peer)) == 1


async def test_a_peer_that_is_never_reached_is_given_up(world: World) -> None:
    node = await scene(world, 1)
    tries: list[PeerId] = []

    async def offer(peer: PeerId, data: bytes, note: str = "") -> CredentialRequest:
        tries.append(peer)
        raise PeerStalled("it did not answer", peer=peer)

    exchange: Any = node.place.exchange
    exchange.offer = offer
    for number in range(8):
        node.answer(node.peers[0], number)
    await node.rounds(6)
    assert len(tries) == limits.WITNESS_OFFERS_MAX


async def test_one_that_cannot_be_issued_keeps_nobody_from_theirs(world: World) -> None:
    node = await scene(world)
    refused, other = node.peers
    office: Any = node.place.office
    issue = office.issue

    def fail(kind: str, subject: str, claims: Any) -> Any:
        if subject == did(refused):
            raise DiskFull("no room")
        return issue(kind, subject, claims)

    office.issue = fail
    await node.rounds()
    assert node.subjects() == [did(other)]
    assert node.witness.counters["failed"] == 1


async def test_places_are_for_those_trusted_most(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "WITNESS_PEERS_MAX", 1)
    node = await scene(world, 3)
    known = node.peers[1]
    node.trust.tiers[known.peer] = Tier.KNOWN
    await node.rounds(96)
    assert node.witness.stats() == {"witness_peers": 1, "witness_probes": 96, "witness_issued": 0}
    await node.rounds(1)
    assert node.subjects() == [did(known)]


async def test_it_goes_on_while_the_wallet_is_not_open_and_asks_nobody(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "WITNESS_ROUND_S", 0.001)
    node = await scene(world, 1)
    node.services.is_open = False
    ready = asyncio.Event()
    task = asyncio.create_task(node.witness.run(ready.set))
    async with asyncio.timeout(WAIT_S):
        await ready.wait()
        while node.witness.counters["failed"] < 2:
            await asyncio.sleep(0)
        assert node.pings == 0
        node.services.is_open = True
        while node.pings < 2:
            await asyncio.sleep(0)
    await end_task(task)


async def test_it_does_nothing_unless_it_is_switched_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "WITNESS_ROUND_S", 0.0)
    assert Config().witness is False
    node = await scene(world, 1)
    idle = Witness(Config(), node.network, node.services, node.trust)
    ready = asyncio.Event()
    task = asyncio.create_task(idle.run(ready.set))
    async with asyncio.timeout(WAIT_S):
        await ready.wait()
        for _ in range(50):
            await asyncio.sleep(0)
    assert node.pings == 0
    assert not task.done()
    await end_task(task)
