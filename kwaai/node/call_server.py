"""The answering end of calls: opens channels for peers that ask, and has their calls answered.

Knows no call's meaning: whoever serves a name does, and decides whom it answers. What is bounded
here: how many channels, how many calls at a time, for how long. The asking end is
`kwaai.node.link_calls`. docs/protocol/calls.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from credentials.keys import PeerId
from kwaai import limits
from kwaai.errors import Busy, KwaaiError, PeerError, PeerRefused, WorkerLost
from kwaai.log import get_logger
from kwaai.net.channel import Channel
from kwaai.net.links import Links
from kwaai.net.network import RequestHandler
from kwaai.node.rates import Rates
from kwaai.wire import call_messages as wire
from kwaai.wire.codec import WireError

log = get_logger(__name__)

CallHandler: TypeAlias = Callable[[PeerId, bytes, bytes], Awaitable[bytes]]
"""Answers a call: (who asks, the channel's nonce, body) -> body. A KwaaiError refuses it."""


class Listener(Protocol):
    """What openings take of a `kwaai.net.network.Network`."""

    def handle_requests(self, protocol: str, handler: RequestHandler) -> None: ...


@dataclass(slots=True)
class CallCounts:
    """What happened since the start."""

    opened: int = 0
    refused: int = 0
    """Openings."""
    answered: int = 0
    failed: int = 0
    cancelled: int = 0
    misbehaved: int = 0


class CallServer:
    """Belongs to one event loop."""

    def __init__(
        self,
        network: Listener,
        links: Links,
        *,
        idle_s: float = limits.CALL_IDLE_ANSWERER_S,
        answer_timeout_s: float = limits.CALL_ANSWER_TIMEOUT_S,
    ) -> None:
        self._links = links
        self._idle_s, self._answer_timeout_s = idle_s, answer_timeout_s
        self._handlers: dict[str, CallHandler] = {}
        self._channels: dict[bytes, _AnsweringChannel] = {}
        """The one that was opened first, first."""
        most = limits.CALL_CHANNELS_PER_PEER_MAX
        self._openings = Rates(limits.CALL_OPENINGS_PER_S, 2.0 * most)
        self._unread: Counter[PeerId] = Counter()
        """Bytes of answers that wait until their peers read."""
        self._is_stopped = False
        self.counts = CallCounts()
        links.on_lost(self._on_lost)
        network.handle_requests(wire.PROTOCOL, self._on_open)

    def serve(self, name: str, handler: CallHandler) -> None:
        """Have calls of `name` answered by `handler`, from now on. Calls of one channel are begun
        in the order in which they were made, each in a task of its own.
        """
        self._handlers[name] = handler

    def withdraw(self, name: str) -> None:
        """Answer calls of `name` no more. Idempotent."""
        self._handlers.pop(name, None)
        for channel in [c for c in self._channels.values() if c.name == name]:
            channel.close()

    @property
    def under_way(self) -> int:
        """Calls that are being answered now."""
        return sum(channel.under_way for channel in self._channels.values())

    def stats(self) -> Mapping[str, float]:
        """Counters, for /metrics."""
        return {
            "calls_answered": self.counts.answered,
            "calls_refused": self.counts.failed,
            "calls_under_way": self.under_way,
            "call_channels_served": len(self._channels),
        }

    async def stop(self) -> None:
        """Open and answer nothing more. Idempotent."""
        self._is_stopped = True
        tasks = [task for c in self._channels.values() for task in c.tasks()]
        for channel in tuple(self._channels.values()):
            channel.close()
        await asyncio.gather(*tasks, return_exceptions=True)

    # Opening.

    async def _on_open(self, peer: PeerId, data: bytes) -> bytes:
        try:
            return self._open(peer, data)
        except KwaaiError:
            self.counts.refused += 1
            raise

    def _open(self, peer: PeerId, data: bytes) -> bytes:
        opening = wire.parse_open(data)
        handler = self._handlers.get(opening.name)
        if self._is_stopped or handler is None:
            raise PeerRefused(f"nobody here answers {opening.name} calls")
        if not self._openings.take(peer, asyncio.get_running_loop().time()):
            raise Busy("too many channels were opened lately", retry_after_s=1.0)
        if self._links.link(peer) is None:
            raise PeerRefused("a channel needs a link")
        self._make_room(peer)
        answered = os.urandom(wire.RANDOM_BYTES)
        agreed = wire.agree(peer, self._links.peer, opening, answered)
        self._channels[agreed.id] = _AnsweringChannel(self, peer, opening.name, agreed, handler)
        self.counts.opened += 1
        return answered

    def _make_room(self, peer: PeerId) -> None:
        """Close a channel that is idle where there are too many. Raises Busy."""
        own = [c for c in self._channels.values() if c.peer == peer]
        if len(own) >= limits.CALL_CHANNELS_PER_PEER_MAX:
            rivals = own
        elif len(self._channels) >= limits.CALL_CHANNELS_MAX:
            rivals = list(self._channels.values())
        else:
            return
        idle = sorted((c for c in rivals if not c.under_way), key=lambda c: c.used_s)
        if not any(channel.close() for channel in idle):
            raise Busy(f"all {len(rivals)} channels are in use", retry_after_s=5.0)

    def forget(self, channel: _AnsweringChannel) -> None:
        """A channel is closed."""
        self._channels.pop(channel.id, None)

    def _on_lost(self, peer: PeerId, reason: str) -> None:
        for channel in [c for c in self._channels.values() if c.peer == peer]:
            channel.close(says_bye=False)

    # What channels ask of their server.

    @property
    def links(self) -> Links:
        return self._links

    @property
    def is_stopped(self) -> bool:
        return self._is_stopped

    def may_wait(self, peer: PeerId, nbytes: int) -> bool:
        """Say whether an answer of so many bytes may wait until a peer reads it."""
        return (
            self._unread[peer] + nbytes <= limits.CALL_UNREAD_BYTES_PER_PEER_MAX
            and self._unread.total() + nbytes <= limits.CALL_UNREAD_BYTES_MAX
        )

    @contextlib.contextmanager
    def waiting(self, peer: PeerId, nbytes: int) -> Iterator[None]:
        """Count an answer that waits."""
        self._unread[peer] += nbytes
        try:
            yield
        finally:
            self._unread[peer] -= nbytes
            if not self._unread[peer]:
                del self._unread[peer]

    @property
    def idle_s(self) -> float:
        """Without a call, before a channel is closed."""
        return self._idle_s

    @property
    def answer_timeout_s(self) -> float:
        return self._answer_timeout_s


class _AnsweringChannel:
    """One channel that a peer calls on."""

    def __init__(
        self,
        server: CallServer,
        peer: PeerId,
        name: str,
        agreed: wire.CallChannel,
        handler: CallHandler,
    ) -> None:
        self.peer, self.name, self.id, self.nonce = peer, name, agreed.id, agreed.nonce
        self._server, self._handler = server, handler
        self._loop = asyncio.get_running_loop()
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._channel: Channel = server.links.open_channel(peer, agreed.id, self._receive)
        self._is_closed = False
        self.used_s = self._loop.time()
        self._timer = self._loop.call_later(server.idle_s, self._look)

    @property
    def under_way(self) -> int:
        return len(self._tasks)

    def tasks(self) -> tuple[asyncio.Task[None], ...]:
        """Return the calls that are being answered."""
        return tuple(self._tasks.values())

    def close(self, *, says_bye: bool = True) -> bool:
        """Take nothing more, and end what is under way; whether it is closed now: a peer whose
        socket is full cannot be told, and would wait for answers. Idempotent.
        """
        if self._is_closed:
            return True
        if says_bye and not self._say_bye() and not self._server.is_stopped:
            return False
        self._is_closed = True
        self._timer.cancel()
        self._server.forget(self)
        self._channel.close()
        for task in self._tasks.values():
            task.cancel()
        return True

    def _say_bye(self) -> bool:
        try:
            return self._channel.send_now(wire.encode_head(wire.BYE, int(bool(self._tasks))))
        except PeerError:
            return True  # there is nobody to tell

    def _look(self) -> None:
        """Close the channel when nobody has used it for long."""
        idle_s = self._loop.time() - self.used_s
        if idle_s >= self._server.idle_s and not self._tasks:
            if self.close():
                return
            idle_s = 0.0
        left_s = max(limits.CALL_LOOK_S, self._server.idle_s - idle_s)
        self._timer = self._loop.call_later(left_s, self._look)

    # What comes. Called by links.

    def _receive(self, message: bytes) -> None:
        self.used_s = self._loop.time()
        try:
            parsed = wire.parse_to_answerer(message)
            if isinstance(parsed, wire.Call):
                self._begin(parsed, len(message))
                return
        except WireError as error:
            self._server.counts.misbehaved += 1
            log.warning("call_invalid", peer=self.peer, name=self.name, reason=error.message)
            self._channel.consumed(len(message))
            self._end()
            return
        self._channel.consumed(len(message))
        if isinstance(parsed, wire.Bye):
            self.close(says_bye=False)
            return
        task = self._tasks.get(parsed.id)
        if task is not None:
            task.cancel()

    def _end(self) -> None:
        """Close for good, whether or not the peer can be told."""
        if not self.close():
            self.close(says_bye=False)

    def _begin(self, call: wire.Call, nbytes: int) -> None:
        if call.id in self._tasks:
            raise WireError("two calls under way have one id")
        if len(self._tasks) >= limits.CALLS_ANSWERED_MAX:
            self._refuse(call.id)
            self._channel.consumed(nbytes)
            return
        task = self._loop.create_task(self._answer(call, nbytes))
        self._tasks[call.id] = task
        task.add_done_callback(lambda task: self._done(call.id, nbytes, task))

    def _refuse(self, call_id: int) -> None:
        busy = Busy(f"{len(self._tasks)} calls are under way on one channel", retry_after_s=1.0)
        try:
            was_said = self._channel.send_now(_encode_error(call_id, busy))
        except PeerError:
            return  # there is nobody to tell
        if not was_said:
            raise WireError("it asks more and more, and does not read the answers")

    def _done(self, call_id: int, nbytes: int, task: asyncio.Task[None]) -> None:
        del self._tasks[call_id]
        self.used_s = self._loop.time()
        if task.cancelled():
            self._server.counts.cancelled += 1
        self._channel.consumed(nbytes)

    async def _answer(self, call: wire.Call, nbytes: int) -> None:
        counts = self._server.counts
        try:
            async with asyncio.timeout(self._server.answer_timeout_s):
                body = await self._handler(self.peer, self.nonce, bytes(call.body))
            if len(body) > limits.CALL_BODY_BYTES_MAX:
                raise WorkerLost(f"the answer has {len(body)} bytes: ask for less")
            parts = [wire.encode_head(wire.ANSWER, call.id), body]
            counts.answered += 1
        except KwaaiError as error:
            counts.failed += 1
            parts = [_encode_error(call.id, error)]
        except TimeoutError:
            counts.failed += 1
            parts = [_encode_error(call.id, Busy("it took too long", retry_after_s=5.0))]
        except Exception:  # whoever serves this name has a fault: its node goes on
            log.exception("call_failed", peer=self.peer, name=self.name, call_bytes=nbytes)
            counts.failed += 1
            parts = [_encode_error(call.id, WorkerLost("this node failed to answer"))]
        try:
            if not self._channel.send_now(*parts):
                await self._wait_to_send(call.id, parts)
        except PeerError as error:
            log.debug("call_answer_unsent", peer=self.peer, reason=error.message)

    async def _wait_to_send(self, call_id: int, parts: list[bytes]) -> None:
        """Send when the peer reads. Who lets too much wait gets a word in place of each answer."""
        nbytes = sum(map(len, parts))
        if not self._server.may_wait(self.peer, nbytes):
            unread = Busy("too many answers wait for you to read them", retry_after_s=1.0)
            parts = [_encode_error(call_id, unread)]
            nbytes = len(parts[0])
        with self._server.waiting(self.peer, nbytes):
            await self._channel.send(*parts)


def _encode_error(call_id: int, error: KwaaiError) -> bytes:
    return wire.encode_error(
        wire.CallError(call_id, error.code, error.message, error.retry_after_s)
    )
