"""One circuit: a path that met a demand, held open with what its prompts begin with.

One session is the circuit's own: lent to one answer at a time, and rolled back to the prefix behind
it. Who comes meanwhile, or with another prompt, gets a second session on the same hops. While
nobody has it, it is kept alive and checked; where that fails, the path is planned anew under the
same demand. Samples nothing, knows no text; `circuits` has all of them. docs/circuits.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections import deque
from collections.abc import Callable
from contextlib import AsyncExitStack

from kwaai import limits
from kwaai.errors import (
    CircuitBroken,
    CircuitMissing,
    KwaaiError,
    PeerError,
    PeerRefused,
    WorkerLost,
)
from kwaai.log import get_logger
from kwaai.node.circuit_check import PathCheck
from kwaai.node.circuit_control import CircuitState
from kwaai.node.kept_rows import spoils
from kwaai.node.opening import OpenPath, PathOpener, Wanted
from kwaai.node.path_timings import PathTimings
from kwaai.node.routes import Chosen
from kwaai.node.spot_check import Recording
from kwaai.wire.messages import CloseReason

log = get_logger(__name__)

Clock = Callable[[], float]


class Circuit:
    """See the module. Belongs to one event loop. `open` it, `run` it in a task, and `end` it.

    `begin`, `note`, `done` and `close` are PathOpener's, for answers on this circuit.
    """

    def __init__(
        self,
        circuit_id: str,
        name: str,
        wanted: Wanted,
        opener: PathOpener,
        check: PathCheck,
        *,
        ttl_s: float,
        clock: Clock = time.monotonic,
    ) -> None:
        """`wanted`: of each path that it takes, with the prefix as its prompt."""
        self.id, self.name, self.wanted = circuit_id, name, wanted
        self._opener, self._check, self._clock = opener, check, clock
        self.expires_s = clock() + ttl_s
        self.answers = self.reused = self.reused_tokens = self.reroutes = self.checks = 0
        self.check_s: float | None = None
        self.problem = ""
        self.chosen: Chosen | None = None
        self.is_ended = False
        self._prefix = tuple(wanted.prompt)
        self._held: OpenPath | None = None
        self._kept = 0
        self._is_spoilt = self._is_lent = self._is_broken = False
        self._suspect = ""
        """What another answer on this path broke with: it is opened anew."""
        self._recording: Recording | None = None
        self._turn = asyncio.Lock()
        self._restoring: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._checked_s = 0.0
        self._token_s: deque[float] = deque(maxlen=4 * limits.CIRCUIT_SLOW_TOKENS_MIN)
        self._own_place = AsyncExitStack()
        self._others: dict[OpenPath, AsyncExitStack] = {}

    @property
    def state(self) -> CircuitState:
        """How it is."""
        if self._is_broken:
            return "broken"
        if self._held is None:
            return "mending"
        return "answering" if self._is_lent else "ready"

    @property
    def kept(self) -> int:
        """Positions that every part keeps."""
        return self._kept

    # Its life.

    async def open(self) -> None:
        """Take a place among the model's sessions, choose and open a path, read the prefix. what
        PathOpener.begin raises, and Busy.
        """
        try:
            await self._own_place.enter_async_context(self.wanted.model.place())
            async with self._turn:
                await self._hold(await self._opener.begin(self.wanted))
        except BaseException:
            await self.stop()
            raise

    async def run(self) -> None:
        """Keep the path alive and checked. Returns when its time is over, or it was ended."""
        while not self.is_ended and (left_s := self.expires_s - self._clock()) > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left_s, limits.CIRCUIT_LOOK_S)):
                    await self._wake.wait()
            self._wake.clear()
            if not self.is_ended:
                await self.look()
        await self.end()

    async def end(self) -> None:
        """Take no more answers. An answer under way is let finish; then nothing is held."""
        self.is_ended = True
        self._wake.set()
        if not self._is_lent:
            await self.stop()

    async def stop(self) -> None:
        """Give back what is held, at once. Idempotent."""
        self.is_ended = True
        self._wake.set()
        await self._drop(CloseReason.DONE)
        restoring = self._restoring
        if restoring is not None and restoring is not asyncio.current_task():
            await asyncio.wait([restoring])

    async def look(self) -> None:
        """See whether the path still is what it was; make a round trip through it when it is time.
        Raises nothing.
        """
        if self._is_lent or self._turn.locked():
            return
        async with self._turn:
            if self._is_lent or self.is_ended:
                return
            is_due = self._clock() - self._checked_s >= limits.CIRCUIT_CHECK_S
            if self._is_broken and not is_due:
                return
            try:
                await self._ready(wants_round_trip=is_due, asks=is_due)
            except KwaaiError as error:
                log.info("circuit_look_failed", circuit=self.id, problem=error.message)

    # Answers on it.

    async def begin(self, wanted: Wanted) -> OpenPath:
        """As PathOpener.begin, along this circuit. Raises CircuitMissing, CircuitBroken, and what
        opening a path raises.
        """
        self.answers += 1
        tried: list[str] = []
        while True:
            try:
                opened = await self._begin(wanted, is_free=bool(tried) and self._is_lent)
            except PeerError as error:
                self._opener.note(error)
                tried.append(error.message)
                refused = isinstance(error, PeerRefused) and error.retry_after_s
                if refused or len(tried) >= limits.SHARD_PATH_TRIES_MAX:
                    raise
                self._suspect = error.message
                continue
            opened.tried = (*tried, *opened.tried) if opened is not self._held else tuple(tried)
            return opened

    async def _begin(self, wanted: Wanted, *, is_free: bool) -> OpenPath:
        """`is_free`: not along the pinned hops, which have failed and cannot be left now."""
        if self._restoring is not None:
            await asyncio.wait([self._restoring])
        async with self._turn:
            if self.is_ended or self._clock() >= self.expires_s:
                raise CircuitMissing(f"circuit {self.id} has ended; make another one")
            is_good = await self._ready()
            takes = is_good and not self._is_lent and self._fits(wanted)
            self._is_lent = self._is_lent or takes
            held, chosen = self._held, self.chosen
        if takes and held is not None:
            return await self._take(held, wanted)
        return await self._second(wanted, chosen if is_good and not is_free else None)

    def _fits(self, wanted: Wanted) -> bool:
        """Whether a prompt can go behind what is kept. In fast mode the last hop samples by what
        its session was opened with.
        """
        path = None if self.chosen is None else self.chosen.path
        samples_there = path is None or (path.last is None and bool(path.hops))
        start = tuple(wanted.prompt[: self._kept])
        return not samples_there and start == self._prefix[: self._kept]

    async def _take(self, held: OpenPath, wanted: Wanted) -> OpenPath:
        """Read the rest of a prompt in the circuit's own session."""
        path = held.path
        path.timings = PathTimings()
        try:
            kept = path.usable(self._kept, len(wanted.prompt))
            if kept < path.position:
                self._freeze(held)
                await path.rollback(kept)
            if wanted.on_path is not None:
                wanted.on_path(held.report())
            held.reading_s = time.perf_counter()
            self._is_spoilt = spoils(self._kept, len(wanted.prompt))
            held.output = await path.prefill(wanted.prompt, kept)
        except BaseException as error:
            failed = isinstance(error, KwaaiError)
            await self._drop(CloseReason.FAILED if failed else CloseReason.CANCELLED)
            raise
        self.reused += kept > 0
        self.reused_tokens += kept
        return held

    async def _second(self, wanted: Wanted, chosen: Chosen | None) -> OpenPath:
        """Open another session on the pinned hops, or (None) on any that meet the demand."""
        place = AsyncExitStack()
        try:
            await place.enter_async_context(self.wanted.model.place())
            if chosen is None:
                opened = await self._opener.begin(wanted)
            else:
                opened = await self._opener.open(wanted, chosen)
        except BaseException:
            await place.aclose()
            raise
        self._others[opened] = place
        return opened

    def note(self, error: KwaaiError) -> None:
        """See PathOpener."""
        self._opener.note(error)
        if isinstance(error, (PeerError, WorkerLost)):
            self._suspect = error.message

    def done(self, opened: OpenPath) -> None:
        """See PathOpener."""
        self._opener.done(opened)
        if opened is self._held or opened.chosen is self.chosen:
            self._token_s.extend(opened.path.timings.token_s)

    async def close(self, opened: OpenPath, reason: CloseReason = CloseReason.DONE) -> None:
        """End an answer: its session is rolled back in the background, or ended."""
        if opened is not self._held:
            place = self._others.pop(opened, AsyncExitStack())
            try:
                await self._opener.close(opened, reason)
            finally:
                await place.aclose()
            return
        opened.output = ()
        if reason is CloseReason.FAILED:
            await self._drop(reason)
        elif self._restoring is None:
            self._restoring = asyncio.create_task(self._restore(opened), name="circuit-restore")

    async def _restore(self, held: OpenPath) -> None:
        """Forget an answer behind the prefix. Raises nothing."""
        try:
            async with self._turn, asyncio.timeout(limits.CIRCUIT_CHECK_TIMEOUT_S):
                self._freeze(held)
                await held.path.rollback(0 if self._is_spoilt else self._kept)
                if self._is_spoilt:
                    await held.path.prefill(self._prefix)
                self._is_spoilt = False
                self._checked_s = self._clock()
        except (KwaaiError, TimeoutError) as error:
            log.info("circuit_lost", circuit=self.id, problem=str(error))
            await self._drop()
        finally:
            self._is_lent, self._restoring = False, None
        if self.is_ended:
            await self.stop()

    # Its path. Under `_turn`.

    async def _ready(self, *, wants_round_trip: bool = False, asks: bool = True) -> bool:
        """Have a path that meets the demand now. False: there is one that does not, and an answer
        is on it. `asks`: whether peers and publishers of status lists are asked for that, or what
        is known will do. Raises CircuitBroken.
        """
        held = self._held
        reason = self._suspect
        if held is not None:
            reason = reason or self._failure(held) or await self._objection(held, asks)
            if not reason and wants_round_trip:
                reason = await self._round_trip(held)
            if not reason:
                return True
        if self._is_lent:
            return False
        await self._mend(reason)
        return True

    async def _objection(self, held: OpenPath, asks: bool) -> str:
        """Why the path does not meet what is asked any more; empty where it does."""
        demand, model = self.wanted.demand, self.wanted.model.local
        path = held.chosen.path
        if reason := await self._check.objection(path, demand, model.block_count, asks=asks):
            return reason
        most_ms = demand.token_ms_max
        if most_ms is None or len(self._token_s) < limits.CIRCUIT_SLOW_TOKENS_MIN:
            return ""
        token_ms = 1000 * statistics.median(self._token_s)
        self._token_s.clear()
        if token_ms <= most_ms:
            return ""
        # What was measured is known to the planner too: unless it knows better, the path stays.
        chosen = await self._opener.choose(self.wanted)
        if chosen.path.hops == path.hops:
            return ""
        return f"a token took {token_ms:.0f} ms, and at most {most_ms:g} are asked for"

    def _failure(self, held: OpenPath) -> str:
        remote = held.path.remote
        if remote is None or remote.failure is None:
            return ""
        if isinstance(remote.failure, PeerError):
            self._opener.note(remote.failure)
        return remote.failure.message

    async def _round_trip(self, held: OpenPath) -> str:
        """Roll the session back to where it stands: every part has to answer."""
        self._checked_s = self._clock()
        started_s = time.perf_counter()
        try:
            async with asyncio.timeout(limits.CIRCUIT_CHECK_TIMEOUT_S):
                await held.path.rollback(held.path.position)
        except KwaaiError as error:
            self._opener.note(error)
            return error.message
        except TimeoutError:
            return f"it did not answer within {limits.CIRCUIT_CHECK_TIMEOUT_S:g} s"
        self.checks += 1
        self.check_s = time.perf_counter() - started_s
        return ""

    async def _mend(self, reason: str) -> None:
        """Plan and open the path anew. Raises CircuitBroken."""
        await self._drop()
        self._checked_s, self._suspect = self._clock(), ""
        try:
            opened = await self._opener.begin(self.wanted)
        except KwaaiError as error:
            self._is_broken, self.problem = True, error.message
            log.warning("circuit_broken", circuit=self.id, problem=error.message)
            raise CircuitBroken(
                f"circuit {self.name or self.id} has no path any more: {error.message}",
                retry_after_s=error.retry_after_s or limits.CIRCUIT_CHECK_S,
            ) from None
        await self._hold(opened, reason)

    async def _hold(self, opened: OpenPath, reason: str = "") -> None:
        if self.is_ended:
            await self._opener.close(opened)
            raise CircuitMissing(f"circuit {self.id} was ended while it was opened")
        before, now = self.chosen, opened.chosen
        self._held, self.chosen = opened, now
        opened.output = ()
        self._is_broken, self._is_spoilt = False, False
        self._kept = opened.path.keepable(len(self._prefix)) if self._prefix else 0
        self._checked_s = self._clock()
        self._token_s.clear()
        if before is None:
            return
        self.problem = reason or self.problem
        event = "circuit_reopened" if before.path.hops == now.path.hops else "circuit_rerouted"
        self.reroutes += event == "circuit_rerouted"
        log.info(event, circuit=self.id, path=opened.report().text, reason=reason)

    def _freeze(self, held: OpenPath) -> None:
        """Have what is checked of a session be of one answer: others follow at the same places."""
        if held.path.recording is not None:
            self._recording, held.path.recording = held.path.recording, None

    async def _drop(self, reason: CloseReason | None = None) -> None:
        """Give the own session back. `reason`: None for what its hops have to do with it."""
        held, self._held = self._held, None
        if reason is None:
            remote = None if held is None else held.path.remote
            has_failed = remote is not None and remote.failure is not None
            reason = CloseReason.FAILED if has_failed else CloseReason.DONE
        self._is_lent = False
        self._wake.set()
        try:
            if held is not None:
                recorded, self._recording = self._recording, None
                held.path.recording = held.path.recording or recorded
                await self._opener.close(held, reason)
        finally:
            if self.is_ended:
                await self._own_place.aclose()
