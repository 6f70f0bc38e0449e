"""Spot checks of answers: some of the rows of an answer go to a hop again, and to a peer of another
owner that holds the same range; where they disagree, a third is asked.

The first hidden states of the answer are recorded while it runs, and replayed in the background,
hop by hop, in sessions of one hop that are ordinary to whoever serves them. Judges nothing itself
(`kwaai.trust.spot_check`) and writes no evidence: an observer is told. A second peer sees what the
first one saw, so it must meet the same floors: the caller's `MaySee`. Not checked: the last hop of
a "fast" path, which answers tokens. What a liar can still do: docs/trust.md, "Spot checks".
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias

import numpy as np

from credentials.keys import PeerId
from kwaai.errors import KwaaiError, PeerMisbehaved
from kwaai.limits import (
    SPOT_CHECK_HOLDERS_MAX,
    SPOT_CHECK_IDLE_LOOK_S,
    SPOT_CHECK_IDLE_LOOKS_MAX,
    SPOT_CHECK_ROWS_MAX,
    SPOT_CHECK_TIMEOUT_S,
    SPOT_CHECK_TOLERANCE,
    SPOT_CHECKS_WAITING_MAX,
)
from kwaai.log import get_logger
from kwaai.node.remote import RemotePlan
from kwaai.node.requesters import Requesters
from kwaai.node.services import Ready
from kwaai.trust.evidence import Outcome
from kwaai.trust.spot_check import Output, Watch, distance, judge
from kwaai.types import LayerRange, ModelHandle
from kwaai.wire.messages import CloseReason
from kwaai.wire.requester import HopPlan, Result
from kwaai.wire.step import StepKind, Tokens
from kwaai.wire.tensors import Rows

log = get_logger(__name__)

Holders: TypeAlias = Callable[[ModelHandle, LayerRange], Sequence[HopPlan]]
"""Returns the peers, without this node, that serve exactly these layers now, in any order."""
MaySee: TypeAlias = Callable[[PeerId, LayerRange], bool]
"""Whether a peer might have been that hop of the answer: floors, denied peers, and all else that
the request asked of whoever sees its rows."""
OwnerOf: TypeAlias = Callable[[PeerId], str]
"""Returns who answers for a peer; where nobody is known, something that is the peer's alone."""
MakeIntent: TypeAlias = Callable[[RemotePlan], bytes]
"""Signs an intent for one session: a hop takes none twice."""


class SpotObserver(Protocol):
    """Whoever is told what checks find; `kwaai.node.observe.Observer`."""

    def spot_check(self, peer: str, outcome: Outcome) -> None:
        """Note AGREED, WRONG or DISPUTED of a peer."""


class Recording:
    """The first rows of one answer: as they went to its first hop, and came from its last.

    Takes what follows without a gap from position 0 on, SPOT_CHECK_ROWS_MAX at most, and copies it.
    """

    def __init__(self, peers: Collection[str]) -> None:
        """peers: the hops of the answer that are to be checked."""
        self.peers = frozenset(peers)
        self._sent: list[Rows] = []
        self._came: list[Rows] = []

    def sent(self, position: int, rows: Rows) -> None:
        """Note rows for the first hop: float32, (positions, width)."""
        _append(self._sent, position, rows)

    def came(self, position: int, rows: Rows) -> None:
        """Note rows of the last hop."""
        _append(self._came, position, rows)

    def inputs(self) -> Rows:
        """Return what was sent and, unless tokens came, answered: (positions, width)."""
        return _joined(self._sent, _count(self._came) or SPOT_CHECK_ROWS_MAX)

    def outputs(self) -> Rows | None:
        """Return what the last hop made of `inputs`; None where it answered tokens."""
        return _joined(self._came, _count(self._sent)) if self._came else None


def _append(parts: list[Rows], position: int, rows: Rows) -> None:
    count = _count(parts)
    if position == count and count < SPOT_CHECK_ROWS_MAX:
        parts.append(np.array(rows[: SPOT_CHECK_ROWS_MAX - count], np.float32))


def _count(parts: Sequence[Rows]) -> int:
    return sum(len(rows) for rows in parts)


def _joined(parts: Sequence[Rows], count: int) -> Rows:
    return np.concatenate(parts)[:count] if parts else np.zeros((0, 0), np.float32)


@dataclass(slots=True)
class CheckCounters:
    """Since the start. `disagreed` are checks of one hop in which not all said the same."""

    checked: int = 0
    disagreed: int = 0
    unanswered: int = 0
    """Given up: a peer did not answer, or nobody else may see the rows."""
    dropped: int = 0
    """Not begun: too many waited."""


@dataclass(frozen=True, slots=True, eq=False)
class _Answer:
    plan: RemotePlan
    recording: Recording
    may_see: MaySee


class SpotChecker:
    """Checks answers of one node, one after the other. Belongs to the event loop."""

    def __init__(
        self,
        requesters: Requesters,
        holders: Holders,
        owner_of: OwnerOf,
        observer: SpotObserver,
        *,
        share: float,
        tolerance: float = SPOT_CHECK_TOLERANCE,
        make_intent: MakeIntent | None = None,
        tier_of: Callable[[PeerId], int] = lambda _: 0,
        is_busy: Callable[[], bool] = lambda: False,
        rng: random.Random | None = None,
    ) -> None:
        """share: of the answers of each hop that are checked, in [0, 1]; strangers, and those that
        were in a disagreement, more often (`Watch`). 0: none. make_intent: for replays, which
        are to look like answers where answers carry intents; None: they carry none. is_busy:
        whether answers are under way, which checks let go first for a while.
        """
        self.counters = CheckCounters()
        self.watch = Watch(share)
        self._requesters, self._holders, self._owner_of = requesters, holders, owner_of
        self._observer, self.tolerance, self._make_intent = observer, tolerance, make_intent
        self._tier_of, self._is_busy = tier_of, is_busy
        self._rng = rng or random.SystemRandom()
        self._waiting: asyncio.Queue[_Answer] = asyncio.Queue(SPOT_CHECKS_WAITING_MAX)

    def begin(self, peers: Sequence[str]) -> Recording | None:
        """Decide whether an answer by these hops is to be checked: its recording, or None."""
        drawn = [peer for peer in peers if self._rng.random() < self.watch.share(peer)]
        return Recording(drawn) if drawn else None

    def answered(self, plan: RemotePlan, recording: Recording, may_see: MaySee) -> None:
        """Have an answer checked in the background; one too many is not."""
        try:
            self._waiting.put_nowait(_Answer(plan, recording, may_see))
        except asyncio.QueueFull:
            self.counters.dropped += 1

    def stats(self) -> dict[str, int]:
        """Return the counters that `/metrics` shows."""
        return {
            "spot_checks": self.counters.checked,
            "spot_checks_failed": self.counters.disagreed,
        }

    async def run(self, ready: Ready) -> None:
        """Check what was answered, until cancelled. A service of the node."""
        ready()
        while True:
            answer = await self._waiting.get()
            await self._wait_idle()
            with contextlib.suppress(KwaaiError):  # counted, and in the log
                await self.check(answer.plan, answer.recording, answer.may_see)

    async def _wait_idle(self) -> None:
        """Wait a while for a moment without answers: a check takes a session from the hops too."""
        for _ in range(SPOT_CHECK_IDLE_LOOKS_MAX):
            if not self._is_busy():
                return
            await asyncio.sleep(SPOT_CHECK_IDLE_LOOK_S)

    async def check(self, plan: RemotePlan, recording: Recording, may_see: MaySee) -> None:
        """Check the hops of one answer that were drawn. Raises PeerError of a hop that cannot be
        asked again; what was found before that is told all the same.
        """
        try:
            async with asyncio.timeout(SPOT_CHECK_TIMEOUT_S):
                await _Check(self, plan, recording, may_see).run()
        except TimeoutError:
            self.counters.unanswered += 1
            log.info("spot_check_slow", hops=len(plan.hops))
        except KwaaiError as error:
            self.counters.unanswered += 1
            log.info("spot_check_unanswered", problem=error.message)
            raise

    # For one check.

    def others(self, plan: RemotePlan, hop: HopPlan, may_see: MaySee) -> list[HopPlan]:
        """Return who else may be asked: the highest tiers first, of one tier in an order that
        nobody can foresee; before all one of those that are watched, if there is one: answering
        checks is how they are cleared.
        """
        held = self._holders(plan.handle, hop.layers)
        found = [h for h in held if h.peer != hop.peer and may_see(h.peer, hop.layers)]
        self._rng.shuffle(found)
        found.sort(key=lambda other: -self._tier_of(other.peer))
        watched = [h for h in found if self.watch.is_watched(h.peer)]
        return watched[:1] + [h for h in found if h not in watched] + watched[1:]

    async def replay(self, plan: RemotePlan, hop: HopPlan, rows: Rows) -> Rows:
        """Return what one peer makes of rows, in a session of its own. Raises PeerError."""
        alone = replace(
            plan,
            hops=(hop,),
            last=LayerRange(hop.layers.stop, plan.block_count),
            context_tokens=len(rows),
            sampling=None,
            intent=b"",
        )
        if self._make_intent is not None:
            alone = replace(alone, intent=self._make_intent(alone))
        session = await self._requesters.open(alone, _rows_of)
        reason = CloseReason.FAILED
        try:
            answers: list[Rows] = []
            for at in range(0, len(rows), session.piece_tokens):
                piece = rows[at : at + session.piece_tokens]
                future = await session.send(StepKind.PREFILL, [0] * len(piece), piece, 0)
                answers.append(await future)
            reason = CloseReason.DONE
            return np.concatenate(answers)
        finally:
            session.close(reason)

    async def compare(
        self, plan: RemotePlan, hop: HopPlan, rows: Rows, first: Rows, may_see: MaySee
    ) -> Rows | None:
        """Ask others what they make of the rows, and tell what comes of it. Return what is
        believed; None where nobody knows.
        """
        outputs = [self._output(hop, first)]
        tries = SPOT_CHECK_HOLDERS_MAX
        verdict = None
        for other in self.others(plan, hop, may_see):
            owner = self._owner_of(other.peer)
            if owner in {output.owner for output in outputs}:
                continue
            if tries == 0:
                break
            tries -= 1
            try:
                said = await self.replay(plan, other, rows)
            except KwaaiError as error:
                log.info("spot_check_peer_absent", peer=other.peer, problem=error.message)
                continue
            outputs.append(self._output(other, said))
            verdict = judge(outputs, self.tolerance)
            is_doubted = len(outputs) == 2 and self.watch.is_watched(other.peer)
            if not (verdict.needs_third or is_doubted):  # who is in doubt clears nobody alone
                break
        if verdict is None:
            self.counters.unanswered += 1
            return first
        self.counters.checked += 1
        if verdict.distance > self.tolerance:
            self.counters.disagreed += 1
            log.warning("spot_check_disagreed", outcomes=_words(verdict.outcomes))
        self.watch.note(verdict)
        for peer, outcome in verdict.outcomes.items():
            self._observer.spot_check(peer, outcome)
        agreed = [o.rows for o in outputs if verdict.outcomes[o.peer] is Outcome.AGREED]
        return agreed[0] if agreed else None

    def _output(self, hop: HopPlan, rows: Rows) -> Output:
        peer = hop.peer
        return Output(peer, self._owner_of(peer), rows, self._tier_of(peer))

    def lied_once(self, peers: Sequence[str]) -> None:
        """Note that an answer was another than what its hops say now, and none is known to be
        wrong: they are all watched, and none is blamed.
        """
        self.counters.disagreed += 1
        self.watch.suspect(peers)
        log.warning("spot_check_answer_differs", peers=list(peers))


class _Check:
    """The check of one answer: along its hops, each given what the one before it should have."""

    def __init__(
        self, checker: SpotChecker, plan: RemotePlan, recording: Recording, may_see: MaySee
    ) -> None:
        self._checker, self._plan, self._may_see = checker, plan, may_see
        self._recording = recording

    async def run(self) -> None:
        """Raises PeerError of a hop that does not answer again."""
        plan, recorded = self._plan, self._recording.outputs()
        rows = self._recording.inputs()
        hops = plan.hops if plan.last is not None else plan.hops[:-1]  # a sampler says no rows
        is_replayed = True
        drawn = [hop for hop in hops if hop.peer in self._recording.peers]
        checkable = [h for h in drawn if self._checker.others(plan, h, self._may_see)]
        if not len(rows):
            return
        if not checkable:  # nobody is asked where nobody else can be
            self._checker.counters.unanswered += 1
            return
        for hop in hops:
            if len(plan.hops) == 1 and recorded is not None:
                first = recorded  # what it said when it did not know of a check
            else:
                first = await self._checker.replay(plan, hop, rows)
            if hop in checkable:
                believed = await self._checker.compare(plan, hop, rows, first, self._may_see)
                if believed is None:
                    return
                is_replayed = is_replayed and believed is first
                first = believed
            rows = first
        tolerance = len(hops) * self._checker.tolerance
        if recorded is not None and is_replayed and distance(rows, recorded) > tolerance:
            self._checker.lied_once([hop.peer for hop in hops])


def _rows_of(result: Result) -> Rows:
    """Take the rows of an answer, out of the link's buffer."""
    if isinstance(result, Tokens) or result.rows is None:
        raise PeerMisbehaved("it answered a step without rows")
    return np.array(result.rows, np.float32)


def _words(outcomes: Mapping[str, Outcome]) -> str:
    return ", ".join(f"{peer} {outcome}" for peer, outcome in outcomes.items())
