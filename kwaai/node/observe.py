"""What this node sees of its peers, noted down: the seam between the swarm and the evidence log.

Callbacks of the event loop make observations; a task writes them beside the loop, within a second
and in the end. Nothing here waits for the disk: where it is full, or the wallet locked,
observations wait in a bounded queue, the oldest go first, and that is counted.

Only what this node saw itself counts. When one hop says of another that it failed, this node saw a
path break between the two: that is noted of both, the accuser too, and at most once an hour of the
same two. When several peers are lost in a row, it is this node's own network. Judges nobody:
`kwaai.trust` does. docs/trust.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias

from credentials.errors import CredentialsError
from kwaai.errors import (
    KwaaiError,
    PeerError,
    PeerLost,
    PeerMisbehaved,
    PeerRefused,
    PeerStalled,
    PeerUnreachable,
    ResourceError,
)
from kwaai.limits import (
    EVIDENCE_ACCUSED_S,
    EVIDENCE_BATCH_MAX,
    EVIDENCE_CODE_CHARS_MAX,
    EVIDENCE_DISPUTE_S,
    EVIDENCE_FLUSH_S,
    EVIDENCE_LOOK_S,
    EVIDENCE_MOMENT_S,
    EVIDENCE_OUTAGE_PEERS,
    EVIDENCE_OUTAGE_S,
    EVIDENCE_PRUNE_S,
    EVIDENCE_QUEUE_MAX,
    EVIDENCE_REMEMBERED_MAX,
    EVIDENCE_RETRY_S_MAX,
)
from kwaai.log import get_logger
from kwaai.node.hop_figures import HopFigures
from kwaai.node.services import Ready
from kwaai.store.evidence import Change, EvidenceLog, Mark
from kwaai.trust.evidence import Observation, Outcome, canonical, principal_of_peer

log = get_logger(__name__)

PATH_BROKEN: Final = "path_broken"
"""The code of a failure that lies between two hops: each says that it was the other."""

_OUTCOMES: Final = (
    (PeerUnreachable, Outcome.UNREACHABLE),
    (PeerStalled, Outcome.STALLED),
    (PeerMisbehaved, Outcome.MISBEHAVED),
    (PeerRefused, Outcome.REFUSED),
    (PeerError, Outcome.FAILED),
)
_OF_A_LINK: Final = (PeerUnreachable, PeerLost)

Told: TypeAlias = Callable[[Sequence[Observation]], None]


def outcome_of(error: KwaaiError) -> Outcome | None:
    """Return what an error says of the peer that it names; None where it is nobody's but ours."""
    return next((outcome for kind, outcome in _OUTCOMES if isinstance(error, kind)), None)


class Observer:
    """Notes what comes of this node's dealings. Belongs to one event loop."""

    def __init__(
        self,
        evidence: EvidenceLog,
        clock: Callable[[], float] = time.time,
        *,
        keep_s: float = 365 * 86400.0,
        on_written: Told = lambda _: None,
        on_removed: Told = lambda _: None,
        on_changed: Callable[[], None] = lambda: None,
        monotonic: Callable[[], float] = time.monotonic,
        flush_s: float = EVIDENCE_FLUSH_S,
        look_s: float = EVIDENCE_LOOK_S,
    ) -> None:
        """`keep_s`: age at which observations are forgotten. `flush_s`: from an observation to its
        writing; `look_s`: between two looks at what others did to the log.

        Told, on the loop: `on_written` what is on the disk now, then `on_removed` what made room
        for it or grew old; `on_changed` that somebody else changed the log (`reputation reset`, a
        restore), so that what `load` returned is not what there is.
        """
        self._evidence, self._clock, self._monotonic = evidence, clock, monotonic
        self._on_written, self._on_removed, self._on_changed = on_written, on_removed, on_changed
        self._keep_s, self._flush_s, self._look_s = keep_s, flush_s, look_s
        self._mark: Mark | None = None
        self._queue: deque[Observation] = deque()
        self._writing: asyncio.Task[Change] | None = None
        self._batch: tuple[Observation, ...] = ()
        self._turn = asyncio.Lock()
        self._due = asyncio.Event()
        self._recent = _Recent(monotonic)
        self._lost: OrderedDict[str, float] = OrderedDict()
        self.noted = self.written = self.dropped = 0

    def stats(self) -> Mapping[str, float]:
        """Counters, by the names of `kwaai.api.metrics.TRUST_STATS`."""
        return {"trust_observations_dropped": self.dropped}

    @property
    def waiting(self) -> int:
        """Observations that are not on the disk yet."""
        return len(self._queue) + len(self._batch)

    # What is seen.

    def on_outcome(self, peer: str, error: KwaaiError | None) -> None:
        """Note what came of a session on a peer (PeerId): None when it did its part.

        Failures of this node's own are nothing that it saw of a peer.
        """
        if error is None:
            self.note(peer, Outcome.SERVED)
            return
        outcome = outcome_of(error)
        if outcome is None:
            return
        accuser = error.accuser if isinstance(error, PeerError) else None
        if accuser is not None:
            if self._recent.is_new((*sorted((peer, accuser)), PATH_BROKEN), EVIDENCE_DISPUTE_S):
                self.accused(peer, PATH_BROKEN)
                self.accused(accuser, PATH_BROKEN)
            return
        if isinstance(error, _OF_A_LINK) and self._is_outage(peer):
            log.info("evidence_not_counted", peer=peer, code=error.code, reason="own_network")
            return
        # One moment of a link, or of a machine, ends all that goes through it.
        if self._recent.is_new((peer, outcome), EVIDENCE_MOMENT_S):
            is_busy = outcome is Outcome.REFUSED and bool(error.retry_after_s)
            self.note(peer, outcome, code="busy" if is_busy else error.code)

    def answered(self, hops: Sequence[HopFigures], tokens: int = 0) -> None:
        """Note an answer in which every hop did its part, instead of `on_outcome(peer, None)` for
        each. tokens: how many steps it had.
        """
        for hop in hops:
            self.note(
                hop.peer,
                Outcome.SERVED,
                latency_s=hop.latency_s,
                expected_s=hop.expected_s,
                tokens_s=hop.tokens_s,
                claimed_tokens_s=hop.claimed_tokens_s,
                tokens=tokens,
            )

    def accused(self, peer: str, code: str) -> None:
        """Note that something went wrong between a peer and its neighbour, whosever fault it is.

        Only so often: many names that each accuse it once say no more than a few do.
        """
        if self._recent.is_new((peer, code), EVIDENCE_ACCUSED_S):
            self.note(peer, Outcome.FAILED, code=code)

    def spot_check(self, peer: str, outcome: Outcome) -> None:
        """Note what a spot check found: AGREED, WRONG or DISPUTED. Raises ValueError for others.

        A dispute says that one of two is wrong, and not who: of one peer one counts in an hour.
        """
        if outcome not in (Outcome.AGREED, Outcome.WRONG, Outcome.DISPUTED):
            raise ValueError(f"a spot check does not find that a peer was {outcome}")
        if outcome is Outcome.DISPUTED and not self._recent.is_new(
            (peer, outcome), EVIDENCE_DISPUTE_S
        ):
            return
        self.note(peer, outcome, code="spot_check")

    def note(
        self,
        peer: str,
        outcome: Outcome,
        *,
        code: str = "",
        latency_s: float | None = None,
        expected_s: float | None = None,
        tokens_s: float | None = None,
        claimed_tokens_s: float | None = None,
        tokens: int = 0,
    ) -> None:
        """Note one dealing with a peer (PeerId or DID), now. Numbers that are none are left out."""
        if outcome in (Outcome.SERVED, Outcome.AGREED):
            self._lost.clear()  # this node's network does what it should
        try:
            observation = Observation(
                peer=canonical(peer) if peer.startswith("did:") else principal_of_peer(peer),
                at_s=self._clock(),
                outcome=outcome,
                latency_s=_speed(latency_s),
                expected_s=_speed(expected_s),
                tokens_s=_speed(tokens_s),
                claimed_tokens_s=_speed(claimed_tokens_s),
                tokens=max(0, tokens),
                code=code[:EVIDENCE_CODE_CHARS_MAX],
            )
        except (CredentialsError, ValueError) as error:  # no PeerId, or a clock that is far off
            self.dropped += 1
            log.warning("evidence_not_counted", peer=peer[:80], reason=str(error)[:200])
            return
        self.noted += 1
        self._queue.append(observation)
        self._bound()
        self._due.set()

    def _is_outage(self, peer: str) -> bool:
        """Note a lost peer; say whether so many were lost in a row that the fault is here."""
        now_s = self._monotonic()
        self._lost.pop(peer, None)
        self._lost[peer] = now_s
        while self._lost and now_s - next(iter(self._lost.values())) > EVIDENCE_OUTAGE_S:
            self._lost.popitem(last=False)
        while len(self._lost) > EVIDENCE_OUTAGE_PEERS:
            self._lost.popitem(last=False)
        return len(self._lost) >= EVIDENCE_OUTAGE_PEERS

    def _bound(self) -> None:
        while len(self._queue) > EVIDENCE_QUEUE_MAX:
            self._queue.popleft()
            self.dropped += 1

    # What is written.

    async def load(self) -> tuple[Observation, ...]:
        """Return what the log holds; the callbacks tell what changes from then on."""
        async with self._turn:
            await self._finish()
            since_s = self._clock() - self._keep_s
            self._mark, seen = await asyncio.to_thread(self._evidence.snapshot, since_s)
            return seen

    async def run(self, ready: Ready) -> None:
        """Write what is noted, until cancelled; then what is left. A service of the node.

        Raises what the log raises, but for a disk that is full and a wallet that is locked: then
        it tries again, and again.
        """
        ready()
        pause_s, pruned_s = self._flush_s, -math.inf
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._look_s):
                        await self._due.wait()
                await asyncio.sleep(pause_s)  # what comes together is written together
                try:
                    await self.flush()
                    if self._monotonic() - pruned_s > EVIDENCE_PRUNE_S:
                        await self.prune()
                        pruned_s = self._monotonic()
                    pause_s = self._flush_s
                except ResourceError as error:
                    pause_s = min(2 * max(pause_s, EVIDENCE_FLUSH_S), EVIDENCE_RETRY_S_MAX)
                    log.warning("evidence_unwritten", problem=error.message, waiting=self.waiting)
        finally:
            try:
                await self.flush()
            except KwaaiError as error:
                log.error("evidence_lost", problem=error.message, waiting=self.waiting)

    async def flush(self) -> None:
        """Write all that is noted now, and look whether others wrote. Raises what the log raises:
        what is noted waits for another try then.

        Cancelling waits for the batch that is being written: it is written once, or not at all.
        """
        async with self._turn:
            await self._finish()
            while self._queue:
                self._begin()
                await self._finish()
            self._due.clear()
            mark = await asyncio.to_thread(self._evidence.mark)
            self._compare(mark, mark)

    async def prune(self) -> None:
        """Forget what is too old. Raises what the log raises."""
        async with self._turn:
            await self._finish()
            while True:
                change = await asyncio.to_thread(self._evidence.prune, self._clock(), self._keep_s)
                self._compare(change.before, change.after)
                if not change.removed:
                    return
                self._on_removed(change.removed)

    def _begin(self) -> None:
        count = min(len(self._queue), EVIDENCE_BATCH_MAX)
        self._batch = tuple(self._queue.popleft() for _ in range(count))
        self._writing = asyncio.create_task(
            asyncio.to_thread(self._evidence.append, self._batch), name="evidence-write"
        )

    async def _finish(self) -> None:
        """Wait for the batch that is being written, if there is one."""
        if self._writing is None:
            return
        await asyncio.wait([self._writing])
        writing, batch = self._writing, self._batch
        self._writing, self._batch = None, ()
        try:
            change = writing.result()
        except KwaaiError:
            self._queue.extendleft(reversed(batch))
            self._bound()
            raise
        self.written += len(change.kept)
        self.dropped += len(batch) - len(change.kept)
        self._compare(change.before, change.after)
        self._on_written(change.kept)
        if change.removed:
            self._on_removed(change.removed)

    def _compare(self, before: Mark, after: Mark) -> None:
        is_other = self._mark not in (None, before)
        self._mark = after
        if is_other:
            self._on_changed()


class _Recent:
    """What happened a moment ago, bounded: the oldest is forgotten first."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._last_s: OrderedDict[tuple[str, ...], float] = OrderedDict()

    def is_new(self, key: tuple[str, ...], within_s: float) -> bool:
        """Say whether this has not happened within so long; from now on it has."""
        now_s = self._monotonic()
        last_s = self._last_s.get(key, -math.inf)
        if now_s - last_s < within_s:
            return False
        self._last_s.pop(key, None)
        self._last_s[key] = now_s
        if len(self._last_s) > EVIDENCE_REMEMBERED_MAX:
            self._last_s.popitem(last=False)
        return True


def _speed(value: float | None) -> float | None:
    """Return a time or speed that is one; None for what is no number, or below zero."""
    return value if value is not None and math.isfinite(value) and value >= 0 else None
