"""Spot checks over real links, with parts that compute nothing: who is asked, and what is told."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from credentials.keys import PeerId
from kwaai.errors import PeerError, WorkerLost
from kwaai.inference.batch import Data
from kwaai.limits import SPOT_CHECK_CLEARED, SPOT_CHECK_ROWS_MAX, SPOT_CHECKS_WAITING_MAX
from kwaai.node.remote import RemotePlan
from kwaai.node.spot_check import Recording, SpotChecker
from kwaai.testing.shards import HANDLE, FakePart, Node
from kwaai.trust.evidence import Outcome
from kwaai.trust.spot_check import Verdict
from kwaai.types import LayerRange, ModelHandle
from kwaai.wire.messages import Open
from kwaai.wire.requester import HopPlan

BLOCKS, EMBD = 8, 8
LOWER, UPPER = LayerRange(1, 4), LayerRange(4, 7)
NAMES = ("amber", "beryl", "coral", "dew", "ember", "flint")
AGREED, WRONG, DISPUTED = Outcome.AGREED, Outcome.WRONG, Outcome.DISPUTED


class LyingPart(FakePart):
    """Adds one, as all do; and what it lies by."""

    def __init__(self, layers: LayerRange) -> None:
        super().__init__(layers, BLOCKS)
        self.lie = 0.0
        self.rows = 0

    def _rows(self, data: Data, outputs: int) -> Any:
        rows = super()._rows(data, outputs)
        self.rows += len(rows)
        return rows * np.float32(1.0 + self.lie)


class Swarm:
    """`home` asks; amber, beryl and coral hold the lower layers, the others the upper ones."""

    def __init__(self) -> None:
        self.home = Node("home", 99)
        self.nodes = {name: Node(name, seed) for seed, name in enumerate(NAMES, 1)}
        self.parts = {
            name: LyingPart(LOWER if place < 3 else UPPER) for place, name in enumerate(NAMES)
        }
        self.names = {node.peer: name for name, node in self.nodes.items()}
        self.told: list[tuple[str, Outcome]] = []
        self.blind: set[str] = set()
        self.owners: dict[str, str] = {}
        self.asked: list[tuple[str, LayerRange]] = []

    async def start(self) -> None:
        await self.home.start()
        for name, node in self.nodes.items():
            await node.start()
            node.hold(self.parts[name])

    async def stop(self) -> None:
        for node in (self.home, *self.nodes.values()):
            await node.stop()

    def spot_check(self, peer: str, outcome: Outcome) -> None:
        self.told.append((self.names[PeerId(peer)], outcome))

    def holders(self, handle: ModelHandle, layers: LayerRange) -> list[HopPlan]:
        assert handle == HANDLE
        return [
            node.hop(layers)
            for name, node in self.nodes.items()
            if self.parts[name].layers == layers
        ]

    def owner_of(self, peer: PeerId) -> str:
        name = self.names[peer]
        return self.owners.get(name, name)

    def may_see(self, peer: PeerId, layers: LayerRange) -> bool:
        self.asked.append((self.names[peer], layers))
        return self.names[peer] not in self.blind

    def checker(self, share: float = 1.0) -> SpotChecker:
        return SpotChecker(
            self.home.requesters,
            self.holders,
            self.owner_of,
            self,
            share=share,
            rng=random.Random(5),
        )

    def plan(self, *names: str) -> RemotePlan:
        return RemotePlan(
            handle=HANDLE,
            block_count=BLOCKS,
            hops=tuple(self.nodes[name].hop(self.parts[name].layers) for name in names),
            names={},
            last=LayerRange(self.parts[names[-1]].layers.stop, BLOCKS),
            context_tokens=200,
            embd=EMBD,
            vocab=32,
            token_s=0.0,
        )

    def recording(self, *names: str, rows: int = 100, answer: float | None = None) -> Recording:
        """What an answer by these hops sent and, unless `answer` says so, truly answered."""
        recording = Recording([self.nodes[name].peer for name in names])
        sent = np.arange(1, rows + 1, dtype=np.float32)[:, None].repeat(EMBD, 1)
        recording.sent(0, sent)
        recording.came(0, sent + (len(names) if answer is None else answer))
        return recording


@pytest_asyncio.fixture
async def swarm() -> AsyncIterator[Swarm]:
    swarm = Swarm()
    await swarm.start()
    yield swarm
    await swarm.stop()


@pytest.mark.asyncio
async def test_hops_that_say_what_others_say_are_agreed_with(swarm: Swarm) -> None:
    checker = swarm.checker()
    await checker.check(swarm.plan("amber", "dew"), swarm.recording("amber", "dew"), swarm.may_see)
    assert len(swarm.told) == 4
    assert {outcome for _, outcome in swarm.told} == {AGREED}
    assert {"amber", "dew"} < {name for name, _ in swarm.told}
    assert checker.stats() == {"spot_checks": 2, "spot_checks_failed": 0}


@pytest.mark.asyncio
async def test_a_liar_is_found_by_a_third_and_watched(swarm: Swarm) -> None:
    swarm.parts["dew"].lie = 0.5
    checker = swarm.checker(0.02)
    await checker.check(swarm.plan("amber", "dew"), swarm.recording("amber", "dew"), swarm.may_see)
    assert dict(swarm.told)["dew"] is WRONG
    assert {name for name, outcome in swarm.told if outcome is not AGREED} == {"dew"}
    assert checker.watch.share(swarm.nodes["dew"].peer) == 1.0


@pytest.mark.asyncio
async def test_two_that_disagree_without_a_third_are_disputed(swarm: Swarm) -> None:
    swarm.parts["amber"].lie = 0.5
    swarm.blind = {"coral"}
    await swarm.checker().check(swarm.plan("amber"), swarm.recording("amber"), swarm.may_see)
    # The recorded answer was right: what it says now is not asked for.
    assert dict(swarm.told) == {"amber": AGREED, "beryl": AGREED}
    swarm.told.clear()
    lie = swarm.recording("amber", answer=3.0)
    await swarm.checker().check(swarm.plan("amber"), lie, swarm.may_see)
    assert dict(swarm.told) == {"amber": DISPUTED, "beryl": DISPUTED}


@pytest.mark.asyncio
async def test_what_a_lone_peer_answered_is_compared_and_not_what_it_says_again(
    swarm: Swarm,
) -> None:
    lie = swarm.recording("amber", answer=3.0)  # it says the truth by now
    await swarm.checker().check(swarm.plan("amber"), lie, swarm.may_see)
    assert dict(swarm.told) == {"amber": WRONG, "beryl": AGREED, "coral": AGREED}
    assert swarm.parts["amber"].rows == 0


@pytest.mark.asyncio
async def test_an_accomplice_that_is_watched_clears_no_liar_alone(swarm: Swarm) -> None:
    """It has made itself watched, so that it is asked first; it says what the liar says."""
    checker = swarm.checker()
    checker.watch.suspect([swarm.nodes["beryl"].peer])
    swarm.parts["beryl"].lie = 2.0
    await checker.check(swarm.plan("amber"), swarm.recording("amber", answer=3.0), swarm.may_see)
    assert "coral" in dict(swarm.told)


@pytest.mark.asyncio
async def test_who_is_trusted_most_is_asked_first_and_is_outvoted_by_nobody_below(
    swarm: Swarm,
) -> None:
    tiers = {swarm.nodes["coral"].peer: 2}
    for _ in range(4):
        checker = swarm.checker()
        checker._tier_of = lambda peer: tiers.get(peer, 0)
        await checker.check(swarm.plan("amber"), swarm.recording("amber"), swarm.may_see)
        assert dict(swarm.told) == {"amber": AGREED, "coral": AGREED}
        swarm.told.clear()
    swarm.parts["beryl"].lie = 2.0
    lie = swarm.recording("amber", answer=3.0)
    await checker.check(swarm.plan("amber"), lie, swarm.may_see)
    assert dict(swarm.told) == {"amber": DISPUTED, "beryl": DISPUTED, "coral": DISPUTED}


@pytest.mark.asyncio
async def test_nobody_sees_rows_who_might_not_have_been_the_hop(swarm: Swarm) -> None:
    swarm.blind = {"beryl", "coral"}
    checker = swarm.checker()
    await checker.check(swarm.plan("amber"), swarm.recording("amber"), swarm.may_see)
    assert swarm.told == []
    assert swarm.parts["beryl"].rows == swarm.parts["coral"].rows == 0
    assert {layers for _, layers in swarm.asked} == {LOWER}
    assert checker.counters.unanswered == 1


@pytest.mark.asyncio
async def test_peers_of_one_owner_are_not_asked_against_each_other(swarm: Swarm) -> None:
    swarm.owners = {"amber": "one", "beryl": "one"}
    lie = swarm.recording("amber", answer=3.0)
    await swarm.checker().check(swarm.plan("amber"), lie, swarm.may_see)
    assert dict(swarm.told) == {"amber": DISPUTED, "coral": DISPUTED}
    assert swarm.parts["beryl"].rows == 0


@pytest.mark.asyncio
async def test_a_peer_that_does_not_answer_is_passed_over(swarm: Swarm) -> None:
    for name in ("beryl", "coral"):
        swarm.parts[name].problem = WorkerLost("it is gone")
    checker = swarm.checker()
    await checker.check(swarm.plan("amber"), swarm.recording("amber"), swarm.may_see)
    assert swarm.told == []
    await checker.check(swarm.plan("amber"), swarm.recording("amber"), swarm.may_see)
    assert {outcome for _, outcome in swarm.told} == {AGREED}


@pytest.mark.asyncio
async def test_a_hop_that_does_not_answer_again_ends_the_check(swarm: Swarm) -> None:
    swarm.parts["amber"].problem = WorkerLost("it is gone")
    checker = swarm.checker()
    plan, recording = swarm.plan("amber", "dew"), swarm.recording("amber", "dew")
    with pytest.raises(PeerError):
        await checker.check(plan, recording, swarm.may_see)
    assert swarm.told == []
    assert checker.counters.unanswered == 1
    assert swarm.home.requesters.sessions_open <= 1  # closing says so in the background


@pytest.mark.asyncio
async def test_an_answer_that_nobody_repeats_blames_nobody_and_watches_all(swarm: Swarm) -> None:
    checker = swarm.checker(0.02)
    lie = swarm.recording("amber", "dew", answer=30.0)  # now both say the truth
    await checker.check(swarm.plan("amber", "dew"), lie, swarm.may_see)
    assert {outcome for _, outcome in swarm.told} == {AGREED}
    assert checker.counters.disagreed == 1
    for name in ("amber", "dew"):
        assert checker.watch.is_watched(swarm.nodes[name].peer)


@pytest.mark.asyncio
async def test_who_is_watched_is_asked_as_the_other_and_so_is_cleared(swarm: Swarm) -> None:
    checker = swarm.checker(0.02)
    coral = swarm.nodes["coral"].peer
    checker.watch.suspect([coral])
    for _ in range(SPOT_CHECK_CLEARED):
        await checker.check(swarm.plan("amber"), swarm.recording("amber"), swarm.may_see)
    assert not checker.watch.is_watched(coral)


@pytest.mark.asyncio
async def test_a_sampling_hop_is_left_out(swarm: Swarm) -> None:
    plan = swarm.plan("amber", "dew")
    fast = RemotePlan(
        handle=plan.handle,
        block_count=plan.block_count,
        hops=plan.hops,
        names={},
        last=None,
        context_tokens=plan.context_tokens,
        embd=plan.embd,
        vocab=plan.vocab,
        token_s=0.0,
        sampling={"temperature": 0.0},
    )
    recording = Recording([hop.peer for hop in plan.hops])
    recording.sent(0, np.ones((5, EMBD), np.float32))
    await swarm.checker().check(fast, recording, swarm.may_see)
    assert {name for name, _ in swarm.told} <= {"amber", "beryl", "coral"}
    assert swarm.told


@pytest.mark.asyncio
async def test_every_replay_has_an_intent_of_its_own(swarm: Swarm) -> None:
    made: list[RemotePlan] = []

    def make_intent(plan: RemotePlan) -> bytes:
        made.append(plan)
        return b"intent %d" % len(made)

    checker = SpotChecker(
        swarm.home.requesters,
        swarm.holders,
        swarm.owner_of,
        swarm,
        share=1.0,
        make_intent=make_intent,
    )
    seen: list[bytes] = []

    def admit(peer: PeerId, opened: Open) -> bytes:
        seen.append(opened.intent)
        return b""

    for node in swarm.nodes.values():
        node.server.admit = admit
    plan = replace(swarm.plan("amber", "dew"), intent=b"that of the answer")
    await checker.check(plan, swarm.recording("amber", "dew"), swarm.may_see)
    assert len(seen) == len(set(seen)) == len(made) == 4
    assert b"that of the answer" not in seen
    assert all(len(one.hops) == 1 and one.last is not None for one in made)


@pytest.mark.asyncio
async def test_answers_are_checked_in_the_background_and_not_too_many(swarm: Swarm) -> None:
    checker = swarm.checker()
    for _ in range(SPOT_CHECKS_WAITING_MAX + 3):
        checker.answered(swarm.plan("amber"), swarm.recording("amber"), swarm.may_see)
    assert checker.counters.dropped == 3
    running = asyncio.Event()
    task = asyncio.create_task(checker.run(running.set))
    async with asyncio.timeout(20):
        await running.wait()
        while checker.counters.checked < SPOT_CHECKS_WAITING_MAX:
            await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_a_recording_is_bounded_and_has_no_gaps() -> None:
    recording = Recording(["a"])
    rows = np.ones((SPOT_CHECK_ROWS_MAX - 8, 4), np.float32)
    recording.sent(0, rows)
    recording.sent(SPOT_CHECK_ROWS_MAX, rows)  # a gap
    recording.sent(len(rows), rows)
    recording.sent(2 * len(rows), rows)
    assert recording.inputs().shape == (SPOT_CHECK_ROWS_MAX, 4)
    recording.came(0, rows[:5])
    assert recording.inputs().shape == (5, 4)
    outputs = recording.outputs()
    assert outputs is not None
    assert outputs.shape == (5, 4)
    rows[:] = 7
    assert (recording.inputs() == 1).all()  # the caller's array is not kept


def test_what_is_checked_is_drawn_for_each_hop(swarm_less: SpotChecker) -> None:
    peers = [str(number) for number in range(4)]
    for peer in peers[:2]:
        for _ in range(3):
            swarm_less.watch.note(Verdict({peer: AGREED}, 0.0))
    swarm_less.watch.suspect(["3"])
    drawn = [swarm_less.begin(peers) for _ in range(500)]
    counts = {p: sum(r is not None and p in r.peers for r in drawn) for p in peers}
    assert counts["3"] == 500
    assert 150 < counts["2"] < 350  # a stranger: ten times as often
    assert counts["0"] < 60
    assert counts["1"] < 60


@pytest.fixture
def swarm_less() -> SpotChecker:
    swarm = Swarm()
    return swarm.checker(0.05)


def test_nothing_is_recorded_where_checks_are_off() -> None:
    assert Swarm().checker(0.0).begin(["a", "b"]) is None
