"""One session on one hop, from OPEN to its end: steps come in, rows go on to the next.

One task is the session's whole life, so that nothing of it outlives it: KV, channels, memory. What
may come when is `kwaai.wire.session`'s; which sessions there are, `shards`'s.
docs/protocol/shard.md.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

from credentials.keys import PeerId
from kwaai.errors import Busy, KwaaiError, PeerError, PeerMisbehaved, PeerStalled, WorkerLost
from kwaai.inference.sampling import Sampler
from kwaai.limits import (
    COMPUTE_WEIGHT_MAX,
    SHARD_KEEP_BYTES,
    SHARD_OPEN_TIMEOUT_S,
    SHARD_STEP_TIMEOUT_S_MAX,
    STEPS_UNDER_WAY_MAX,
)
from kwaai.log import get_logger
from kwaai.net.channel import Channel
from kwaai.node.accounts import HopRecorder
from kwaai.node.fast import parse_sampling
from kwaai.node.next_hop import NextHops
from kwaai.node.parts import Part, Ran
from kwaai.node.shard_control import ShardControl
from kwaai.wire.messages import (
    Cancel,
    Close,
    Failed,
    Open,
    Opened,
    Progress,
    Refused,
    RefusedReason,
)
from kwaai.wire.session import HopSession, Ignore, Output, Resend
from kwaai.wire.step import (
    Step,
    Timing,
    Tokens,
    encode_step,
    encode_tokens,
    microseconds,
    parse_step,
)
from kwaai.wire.tensors import Dtype, choose_dtype

log = get_logger(__name__)


class HopRefusal(KwaaiError):
    """This hop does not take part, for one of the protocol's reasons."""

    def __init__(
        self, reason: RefusedReason, message: str, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.reason = reason


@dataclass(slots=True)
class HopCounters:
    """Of all sessions that a node served, since its start."""

    opened: int = 0
    refused: int = 0
    failed: int = 0
    steps: int = 0
    rows: int = 0
    repeats: int = 0


class _Work(NamedTuple):
    """A step that was accepted: computed, to be rolled back, or answered before."""

    step: Step
    nbytes: int
    came_s: float
    ran: asyncio.Future[Ran] | None
    stored: Output | None


class ServedSession:
    """One session that this node serves for `requester`."""

    def __init__(
        self,
        wanted: Open,
        requester: PeerId,
        part: Part,
        control: ShardControl,
        counters: HopCounters,
        next_hops: NextHops,
        *,
        me: PeerId,
        offer: bytes = b"",
        weight: int = COMPUTE_WEIGHT_MAX,
    ) -> None:
        """`offer`: the answer to the OPEN's intent. `weight`: of its steps where they wait. Raises
        PeerMisbehaved for an OPEN that is not the requester's to make.
        """
        self.wanted, self.requester, self.part = wanted, requester, part
        self.began_s = self.used_s = time.monotonic()
        self.task: asyncio.Task[None] | None = None
        self.found_full = False
        """Whether its slice had no session left."""
        self._control, self._counters, self._me, self._offer = control, counters, me, offer
        self._next_hops, self._weight = next_hops, weight
        self._key = ("hop", wanted.session)
        self._state = HopSession(
            wanted,
            requester,
            width=part.embd,
            batch_tokens=part.batch_tokens,
            keep_bytes=SHARD_KEEP_BYTES,
        )
        self.record = HopRecorder(wanted, requester, me)
        """What receipts of the session are made from."""
        self._inbox: deque[tuple[bytes, float]] = deque()
        self._work: deque[_Work] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._in: Channel | None = None
        self._out: Channel | None = None
        self._sampler: Sampler | None = None
        self._dtype = Dtype.F32
        self._why: KwaaiError | None = None
        self._is_started = self._is_opened = self._is_ending = self._is_rolling_back = False
        self._sent_s = 0.0

    @property
    def peers(self) -> frozenset[PeerId]:
        """Whose links this session cannot do without."""
        return frozenset({self.requester, self.wanted.previous, self.wanted.next})

    @property
    def is_ending(self) -> bool:
        """Whether it takes no step any more."""
        return self._is_ending

    @property
    def progress(self) -> Progress:
        """How far the session has come here."""
        received = self._state.next_step
        return Progress(
            self.wanted.session, self.wanted.hop, received, received - self._state.under_way
        )

    def end(self, why: KwaaiError | None) -> None:
        """End the session, whatever it is doing. `why` is told to the requester; None: it knows."""
        if self._is_ending:
            return
        self._is_ending, self._why = True, why
        if why is not None:
            self.record.failed(why)
        if self.task is not None and self._is_started:  # else it ends as soon as it starts
            self.task.cancel()

    def close(self, message: Close) -> None:
        """End the session because the requester says so."""
        if not self._is_ending:
            self.record.closed(message.reason)
            self.end(None)

    def check_age(self, now_s: float, idle_s: float) -> None:
        """End a session that nobody uses, or whose step its slice does not finish. Times are of
        `time.monotonic`.
        """
        unused_s = now_s - self.used_s
        if self._work and unused_s > SHARD_STEP_TIMEOUT_S_MAX:
            what = f"its slice gave no answer in {unused_s:.0f} s"
            self.end(PeerStalled(what, peer=self._me))
        elif unused_s > idle_s:
            self.end(PeerStalled(f"no step came for {unused_s:.0f} s", peer=self.wanted.previous))

    async def live(self) -> None:
        """Be this session. Returns when nothing of it is left."""
        self._is_started = True
        try:
            if self._is_ending:
                raise asyncio.CancelledError
            await self._prepare_in_time()
            while True:
                while self._work:
                    await self._finish(self._work[0])
                    self._work.popleft()
                self._waiter = asyncio.get_running_loop().create_future()
                await self._waiter
        except asyncio.CancelledError:
            if not self._is_ending:
                raise
            await self._tell(self._why)
        except KwaaiError as error:
            self._is_ending = True
            await self._tell(error)
        except Exception:  # a session's boundary: the others and the node go on
            self._is_ending = True
            log.exception("shard_session_broke")
            await self._tell(KwaaiError("this hop failed; its log says why"))
        finally:
            self._is_ending = True
            await self._release()

    def cancel(self, message: Cancel) -> None:
        """Do not answer the steps that the requester has given up. They run all the same: the
        rollback that follows undoes them.
        """
        self._state.on_cancel(self.requester, message.from_step)

    # Opening.

    async def _prepare_in_time(self) -> None:
        try:
            async with asyncio.timeout(SHARD_OPEN_TIMEOUT_S):
                await self._prepare()
        except TimeoutError:
            raise HopRefusal(
                RefusedReason.UNREACHABLE_NEXT,
                f"it did not reach the next hop in {SHARD_OPEN_TIMEOUT_S:g} s",
            ) from None

    async def _prepare(self) -> None:
        """Take a KV session, reach the next hop, make the channels, and say so."""
        wanted, links = self.wanted, self._control.links
        if wanted.sampling is not None:
            self._sampler = parse_sampling(wanted.sampling)
        try:
            await self.part.open(self._key, self._weight)
        except (Busy, WorkerLost) as error:
            wait_s = error.retry_after_s or 1.0
            self.found_full = isinstance(error, Busy)
            raise HopRefusal(RefusedReason.BUSY, error.message, wait_s) from None
        try:
            link = await self._next_hops.link(self.requester, wanted)
        except Busy as error:
            raise HopRefusal(RefusedReason.BUSY, error.message, error.retry_after_s) from None
        except PeerError as error:
            raise HopRefusal(
                RefusedReason.UNREACHABLE_NEXT, f"it cannot reach the next hop: {error.message}"
            ) from None
        self._in = links.open_channel(wanted.previous, wanted.session, self._receive)
        self._out = self._in
        if wanted.next != wanted.previous:
            self._out = links.open_channel(wanted.next, wanted.session, self._refuse)
        self._dtype = choose_dtype(
            4 * self.part.embd, link.bandwidth_bytes_s, wanted.dtypes, is_direct=link.is_direct
        )
        opened = Opened(
            session=wanted.session,
            hop=wanted.hop,
            dtype=self._dtype,
            batch_tokens=self.part.batch_tokens,
            rtt_next_us=microseconds(link.rtt_s or 0.0),
            bandwidth_next=int(link.bandwidth_bytes_s or 0),
            decode_us=self.part.stats.decode_us,
            offer=self._offer,
        )
        await self._control.send(self.requester, opened)
        self._is_opened = True
        self._counters.opened += 1

    # The way of a step. Everything up to the worker happens in the link's callback.

    def _receive(self, message: bytes) -> None:
        """Take a message of the previous hop. Called by the link."""
        self._inbox.append((message, time.perf_counter()))
        if len(self._inbox) + len(self._work) > STEPS_UNDER_WAY_MAX:
            self.end(self._wrong("it sends more steps than may be under way"))
            return
        self._accept()

    def _refuse(self, message: bytes) -> None:
        """Data flows one way: the next hop has nothing to say here. Called by the link."""
        self.end(PeerMisbehaved("it sends steps against their way", peer=self.wanted.next))

    def _accept(self) -> None:
        """Start on what has come; a rollback first ends what came before it."""
        try:
            while self._inbox and not self._is_rolling_back and not self._is_ending:
                self._start(*self._inbox.popleft())
        except KwaaiError as error:
            self.end(error)
        if self._work and self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _start(self, message: bytes, came_s: float) -> None:
        self.used_s = time.monotonic()
        ran, stored = None, None
        try:
            step = parse_step(message)
            action = self._state.on_step(self.wanted.previous, step)
        except PeerError as error:
            raise self._wrong(error.message) from None
        if isinstance(action, Resend):
            self._counters.repeats += 1
            stored = action.output
        elif isinstance(action, Ignore):
            assert self._in is not None
            self._in.consumed(len(message))
            return
        elif step.rows is None:
            self._is_rolling_back = True
        else:
            outputs = step.outputs if self.wanted.samples else 0
            ran = self.part.submit(self._key, step.position, step.rows, outputs)
        if stored is None:
            self.record.took(step, message)  # while the slice computes
        self._work.append(_Work(step, len(message), came_s, ran, stored))

    async def _finish(self, work: _Work) -> None:
        output, is_wanted = work.stored, True
        if output is None:
            output = await self._output(work)
            is_wanted = self._state.on_output(work.step.step, output)
        if is_wanted:
            await self._send(work, output)
        assert self._in is not None
        self._in.consumed(work.nbytes)
        if work.step.rows is None and work.stored is None:
            self._is_rolling_back = False
            self._accept()

    async def _output(self, work: _Work) -> Output:
        """Return what the next hop, or the requester, gets for a step."""
        step, state = work.step, self._state
        if work.ran is None:
            await self.part.rollback(self._key, step.position)
            if self.wanted.samples:
                return state.forward_tokens(step, ())
            return state.forward(step, None, Dtype.F32)
        ran = await work.ran
        self._counters.steps += 1
        self._counters.rows += step.count
        timing = Timing(
            self.wanted.hop,
            microseconds(ran.queued_s + ran.pass_s - ran.compute_s),
            microseconds(ran.compute_s),
            microseconds(self._sent_s),
        )
        if self._sampler is not None:
            tokens = [self._sampler.sample(row).token for row in ran.rows]
            return state.forward_tokens(step, tokens, timing)
        return state.forward(step, ran.rows, self._dtype, timing)

    async def _send(self, work: _Work, output: Output) -> None:
        started_s = time.perf_counter()
        assert self._out is not None
        parts = (encode_tokens(output),) if isinstance(output, Tokens) else encode_step(output)
        has_left = self._out.send_now(*parts)
        sent_s = time.perf_counter() - started_s
        if work.stored is None:
            # After it left, so that nobody waits for it; before it may wait, since what does leave
            # then can end the session.
            self.record.gave(work.step, output, parts)
        if not has_left:
            await self._out.send(*parts)
            sent_s = time.perf_counter() - started_s
        self._sent_s = sent_s

    # The end.

    def _wrong(self, what: str) -> PeerMisbehaved:
        return PeerMisbehaved(what, peer=self.wanted.previous)

    async def _tell(self, error: KwaaiError | None) -> None:
        """Tell the requester why the session ends. It may be gone; then nobody is left to tell."""
        if error is None:
            return
        wanted = self.wanted
        retry_ms = round(1000 * (error.retry_after_s or 0.0))
        message: Refused | Failed
        blamed = getattr(error, "peer", None)
        if not self._is_opened and blamed not in (wanted.previous, wanted.next):
            self._counters.refused += 1
            reason = error.reason if isinstance(error, HopRefusal) else RefusedReason.BAD_REQUEST
            message = Refused(wanted.session, wanted.hop, reason, error.message, retry_ms)
        else:
            self._counters.failed += 1
            culprit = PeerId(blamed or self._me)
            step = self._state.next_step
            message = Failed(wanted.session, step, culprit, error.code, error.message, retry_ms)
            log.warning("shard_session_failed", code=error.code, culprit=culprit, step=step)
        try:
            await self._control.send(self.requester, message)
        except PeerError as lost:
            log.info("shard_requester_gone", problem=lost.message)

    async def _release(self) -> None:
        """Give everything back. The links first, so that no step comes any more."""
        for channel in {self._in, self._out} - {None}:
            assert channel is not None
            channel.close()
        for work in self._work:
            if work.ran is not None:
                work.ran.cancel()
        self._inbox.clear()
        self._work.clear()
        await self.part.close(self._key)
