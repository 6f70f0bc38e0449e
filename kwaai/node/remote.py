"""The requester's end of a session along remote hops: open, steps out, answers in, close.

Steps have futures, so that several can be under way; a failure of any hop reaches all of them at
once. Knows no prompt, no local part and no choice of path. What may come when is
`kwaai.wire.requester`'s, who is at fault `inquiry`'s. docs/protocol/shard.md.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, TypeAlias

from credentials.keys import PeerId
from kwaai.errors import KwaaiError, PeerError, PeerLost, PeerMisbehaved, PeerStalled, WorkerLost
from kwaai.inference.together import together
from kwaai.intent.receipt import Account
from kwaai.limits import (
    LINK_SEND_TIMEOUT_S,
    SHARD_LINK_TIMEOUT_S,
    SHARD_OPEN_TIMEOUT_S,
    SHARD_STEP_SLACK,
    SHARD_STEP_TIMEOUT_S_MAX,
    SHARD_STEP_TIMEOUT_S_MIN,
)
from kwaai.log import get_logger
from kwaai.net.channel import Channel
from kwaai.node.accounts import AskedRecorder
from kwaai.node.blame import Blame
from kwaai.node.inquiry import Inquiry, UnderWay
from kwaai.node.shard_control import ShardControl, ToRequester
from kwaai.types import LayerRange, ModelHandle
from kwaai.wire.messages import (
    Close,
    CloseReason,
    Control,
    Failed,
    Opened,
    Progress,
    Refused,
)
from kwaai.wire.requester import HopPlan, RequesterSession, Result, check_opened, plan_opens
from kwaai.wire.step import Step, StepKind, encode_step, parse_data
from kwaai.wire.tensors import Dtype, Rows, choose_dtype
from kwaai.wire.transcript import Cover

log = get_logger(__name__)

Take: TypeAlias = Callable[[Result], Any]
"""Called by the link with each answer, in order. Returns what the step's future then gives."""


@dataclass(frozen=True, slots=True)
class RemotePlan:
    """The remote hops of one path, and what their session is for."""

    handle: ModelHandle
    block_count: int
    hops: tuple[HopPlan, ...]
    names: Mapping[PeerId, str]
    last: LayerRange | None
    """What this node runs after the hops; None: the last hop samples."""
    context_tokens: int
    embd: int
    vocab: int
    token_s: float
    """Predicted for one token through the whole path; 0 is unknown."""
    sampling: Mapping[str, Any] | None = None
    intent: bytes = b""
    """What is asked of every hop, signed; told in its OPEN."""

    def __post_init__(self) -> None:
        if (self.last is None) != (self.sampling is not None):
            raise ValueError("who has the last layers samples")


class RemoteSession:
    """A session on all hops of a path. Made by `requesters.Requesters`."""

    def __init__(
        self,
        plan: RemotePlan,
        control: ShardControl,
        take: Take,
        on_closed: Callable[[RemoteSession, CloseReason], None],
    ) -> None:
        self.plan, self.id = plan, secrets.token_bytes(16)
        self.opened: dict[int, Opened] = {}
        self.dtype = Dtype.F32
        """Of the link to the first hop; the others' are in `opened`."""
        self._control, self._take, self._on_closed = control, take, on_closed
        self._peers = [hop.peer for hop in plan.hops]
        self._blame = Blame(self._peers, plan.names)
        self._opens = plan_opens(
            self.id,
            plan.handle,
            plan.block_count,
            HopPlan(control.links.peer, plan.last or plan.hops[-1].layers),
            plan.hops,
            context_tokens=plan.context_tokens,
            sampling=plan.sampling,
            intent=plan.intent,
        )
        self._record = AskedRecorder(self._opens, self._peers, control.links.peer)
        self._steps: RequesterSession | None = None
        self._pending: dict[int, UnderWay] = {}
        self._out: Channel | None = None
        self._in: Channel | None = None
        self._failure: KwaaiError | None = None
        self._inquiry = Inquiry(
            self.id,
            self._peers,
            self._blame,
            control,
            self._pending,
            fail=self._fail,
            is_over=lambda: self._failure is not None,
        )
        self._asked: set[PeerId] = set()
        self._is_closed = False

    @property
    def piece_tokens(self) -> int:
        """The most rows that one step may have."""
        return self._state.piece_tokens

    @property
    def position(self) -> int:
        """Where the next rows go."""
        return self._state.position

    @property
    def tokens(self) -> Sequence[int]:
        """The token at each position: what taking the answer up elsewhere would need."""
        return self._state.tokens

    @property
    def offers(self) -> dict[int, bytes]:
        """What each hop answered to the intent, signed, by its place."""
        return {hop: opened.offer for hop, opened in self.opened.items() if opened.offer}

    @property
    def cover(self) -> Cover:
        """Which steps receipts of this session are about."""
        return self._record.cover

    def accounts(self, reason: CloseReason) -> tuple[Account, ...]:
        """Return what this node saw of each hop's part, once the session is over."""
        return self._record.accounts(reason)

    @property
    def failure(self) -> KwaaiError | None:
        """Why the session is over, if it is."""
        return self._failure

    @property
    def _state(self) -> RequesterSession:
        assert self._steps is not None, "open() comes first"
        return self._steps

    # Opening and closing.

    async def open(self) -> None:
        """Open the session on all hops. Raises a PeerError that names who is at fault."""
        await self._link_all()
        links, first, last = self._control.links, self._peers[0], self._peers[-1]
        self._in = self._out = links.open_channel(last, self.id, self._receive)
        if first != last:
            self._out = links.open_channel(first, self.id, self._refuse)
        for peer, message in zip(self._peers, self._opens, strict=True):
            self._asked.add(peer)
            await self._send(peer, message)
        await self._inquiry.until(
            lambda: len(self.opened) == len(self._peers), SHARD_OPEN_TIMEOUT_S
        )
        if self._failure is not None:
            raise self._failure
        for hop, peer in enumerate(self._peers):
            if hop not in self.opened:
                what = f"did not open a session within {SHARD_OPEN_TIMEOUT_S:g} s"
                raise self._fail(self._blame.error(PeerStalled, peer, what))
        self._steps = RequesterSession(
            self._opens,
            last,
            width=self.plan.embd,
            batch_tokens=min(opened.batch_tokens for opened in self.opened.values()),
            vocab=self.plan.vocab,
        )
        link = links.link(first)
        if link is not None:
            self.dtype = choose_dtype(
                4 * self.plan.embd,
                link.bandwidth_bytes_s,
                self._opens[0].dtypes,
                is_direct=link.is_direct,
            )

    async def _link_all(self) -> None:
        async def link(hop: HopPlan) -> None:
            try:
                async with asyncio.timeout(SHARD_LINK_TIMEOUT_S):
                    await self._control.links.get(hop.peer, hop.addresses)
            except TimeoutError:
                what = f"did not answer within {SHARD_LINK_TIMEOUT_S:g} s"
                raise self._blame.error(PeerStalled, hop.peer, what) from None
            except PeerError as error:
                raise self._blame.own(error, hop.peer) from None

        await together(link(hop) for hop in self.plan.hops)

    def close(self, reason: CloseReason = CloseReason.DONE) -> None:
        """End the session here, and have every hop that was asked told. Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        self._fail(WorkerLost("the session was closed"))
        self._inquiry.close()
        for channel in (self._in, self._out):
            if channel is not None:
                channel.close()
        self._on_closed(self, reason)

    async def say_close(self, reason: CloseReason) -> None:
        """Tell the hops. Raises nothing."""
        await asyncio.gather(*(self._say_close(peer, reason) for peer in self._asked))

    async def _say_close(self, peer: PeerId, reason: CloseReason) -> None:
        try:
            await self._control.send(peer, Close(self.id, reason))
        except PeerError as error:
            log.info("shard_close_unsaid", peer=peer, problem=error.message)  # its TTL ends it

    # Steps.

    async def send(
        self, kind: StepKind, tokens: Sequence[int], rows: Rows, outputs: int
    ) -> asyncio.Future[Any]:
        """Send the next step. The future gives what `take` makes of its answer, or the failure."""
        if self._failure is not None:
            raise copy(self._failure)
        step = self._state.step(kind, tokens, rows, outputs=outputs, dtype=self.dtype)
        return await self._put(step)

    async def rollback(self, position: int) -> asyncio.Future[Any]:
        """Make every hop forget the positions from `position` on, after the steps under way."""
        if self._failure is not None:
            raise copy(self._failure)
        return await self._put(self._state.rollback(position))

    async def repeat(self) -> None:
        """Send the oldest step under way again: hops answer it from what they keep."""
        oldest = self._state.oldest
        if oldest is not None and self._out is not None:
            await self._out.send(*encode_step(self._state.repeat(oldest)))

    async def _put(self, step: Step) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        now_s, patience_s = loop.time(), self._patience_s(step.count)
        future: asyncio.Future[Any] = loop.create_future()
        self._pending[step.step] = UnderWay(future, now_s, patience_s, now_s + patience_s)
        self._inquiry.watch(patience_s)
        assert self._out is not None
        try:
            parts = encode_step(step)
            has_left = self._out.send_now(*parts)
            self._record.sent(step, parts)
            if not has_left:
                await self._out.send(*parts, timeout_s=LINK_SEND_TIMEOUT_S)
        except PeerError as error:
            raise self._fail(self._blame.own(error, self._peers[0])) from None
        except asyncio.CancelledError:  # it may not have left, and what follows would have no place
            self._fail(WorkerLost("a step was given up before it was sent"))
            raise
        return future

    def _patience_s(self, rows: int) -> float:
        """How long a step may take before hops are asked. Rows of a prompt are computed together:
        taken as a quarter of their time one by one.
        """
        predicted_s = self.plan.token_s * max(1.0, rows / 4)
        wanted_s = SHARD_STEP_SLACK * predicted_s
        return min(SHARD_STEP_TIMEOUT_S_MAX, max(SHARD_STEP_TIMEOUT_S_MIN, wanted_s))

    # What comes. Called by links.

    def _receive(self, message: bytes) -> None:
        if self._steps is None:
            what = "answers before it was asked anything"
            self._fail(self._blame.error(PeerMisbehaved, self._peers[-1], what))
            return
        try:
            result = self._state.on_result(self._peers[-1], parse_data(message))
        except PeerError as error:
            self._fail(self._blame.error(PeerMisbehaved, self._peers[-1], error.message))
            return
        assert self._in is not None
        self._in.consumed(len(message))
        if result is None:
            return
        pending = self._pending.pop(result.step, None)
        if pending is not None and not pending.future.done():
            try:
                pending.future.set_result(self._take(result))
            except KwaaiError as error:  # this node's own part cannot take it
                pending.future.set_exception(error)
        self._record.answered(result, message)

    def _refuse(self, message: bytes) -> None:
        """Only the last hop answers."""
        what = "sends answers that are not its to give"
        self._fail(self._blame.error(PeerMisbehaved, self._peers[0], what))

    def on_message(self, peer: PeerId, message: ToRequester) -> None:
        """Take a hop's control message; `peer` is its sender."""
        if peer not in self._peers:
            return
        self._inquiry.heard(peer)
        if isinstance(message, Failed):
            self._inquiry.ended(peer)
            self._inquiry.blamed(self._blame.failed(message, peer))
            return
        if message.hop >= len(self._peers) or self._peers[message.hop] != peer:
            self._fail(self._blame.error(PeerMisbehaved, peer, "answers for another hop"))
        elif isinstance(message, Refused):
            self._inquiry.blamed(self._blame.refused(message, peer))
        elif isinstance(message, Progress):
            self._inquiry.progressed(message)
        else:
            try:
                check_opened(message, self._opens[message.hop], peer)
            except PeerMisbehaved as error:
                self._fail(self._blame.error(PeerMisbehaved, peer, error.message))
            self.opened[message.hop] = message
        self._inquiry.wake()

    def on_lost(self, peer: PeerId, reason: str) -> None:
        """A link of this session is gone."""
        if peer in self._asked:
            self._fail(self._blame.error(PeerLost, peer, f"is gone: {reason}"))

    def _fail(self, error: KwaaiError) -> KwaaiError:
        """End the session here with `error`, unless it is over already; return why it is over."""
        if self._failure is None:
            self._failure = error
            pending = tuple(self._pending.values())
            self._pending.clear()
            for entry in pending:
                if not entry.future.done():
                    entry.future.set_exception(copy(error))
                    entry.future.exception()  # whoever waits gets it; that nobody does is no fault
            self._inquiry.wake()
        return self._failure

    async def _send(self, peer: PeerId, message: Control) -> None:
        try:
            await self._control.send(peer, message)
        except PeerError as error:
            raise self._fail(self._blame.own(error, peer)) from None
