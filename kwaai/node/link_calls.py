"""Calls: one peer asks, the other answers, over a channel of their encrypted link.

The asking end. A channel per peer and name is opened at the first call, by one request over the
network, and closed when it was idle for long; calls on it go out in order and are answered in any.
Does not know what bodies mean, and asks nobody else when a call fails: whoever calls decides. The
answering end is `kwaai.node.call_server`. docs/protocol/calls.md.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from typing import Final, Protocol, TypeAlias

from credentials.keys import PeerId
from kwaai import limits
from kwaai.errors import (
    Busy,
    KwaaiError,
    PeerError,
    PeerLost,
    PeerMisbehaved,
    PeerRefused,
    PeerStalled,
    StorageFull,
    error_from_code,
)
from kwaai.log import get_logger
from kwaai.net.channel import Channel
from kwaai.net.links import Links
from kwaai.wire import call_messages as wire
from kwaai.wire.codec import WireError

log = get_logger(__name__)

Body: TypeAlias = bytes | Callable[[bytes], bytes]
"""Of a call; or what makes it from the nonce of the channel that it goes out on, when it does."""

_Key: TypeAlias = tuple[PeerId, str, int]
"""Of a channel: who is called, what, and the lane."""
_THEIRS: Final = (Busy.code, StorageFull.code)
"""What an answerer may say of itself; any other error that it names is a refusal of its."""
_TRIES: Final = 2
"""Of a call that met a channel which its answerer was just closing: it was not begun."""


class Requester(Protocol):
    """What a channel's opening takes of a `kwaai.net.network.Network`."""

    async def request(
        self, peer: PeerId, protocol: str, body: bytes, timeout_s: float = ...
    ) -> bytes: ...


class CallClient:
    """Belongs to one event loop."""

    def __init__(
        self,
        network: Requester,
        links: Links,
        addresses: Callable[[PeerId], Sequence[str]] = lambda peer: (),
        *,
        idle_s: float = limits.CALL_IDLE_S,
    ) -> None:
        """`addresses`: where a peer's link may be dialled, `host:port` each."""
        self._network, self._links, self._addresses = network, links, addresses
        self._idle_s = idle_s
        self._channels: dict[_Key, _AskingChannel] = {}
        self._retired: set[_AskingChannel] = set()
        """No new calls go out on these."""
        self._openings: dict[_Key, asyncio.Task[_AskingChannel]] = {}
        self._is_stopped = False
        self.calls = 0
        self.failed = 0
        links.on_lost(self._on_lost)

    @property
    def peer(self) -> PeerId:
        """Who this node is."""
        return self._links.peer

    async def call(
        self,
        peer: PeerId,
        name: str,
        body: Body,
        timeout_s: float = limits.CALL_TIMEOUT_S,
        lane: int = 0,
    ) -> bytes:
        """Ask `peer` one thing and return its answer; opens a link and a channel when needed.

        Calls that go out on one channel are begun in the order in which they were made; each `lane`
        is a channel, so that small calls need not wait behind large ones. A body that
        depends on the channel is given as what makes it: it is called right before the call goes
        out, in that order. When the caller is cancelled the peer is told, and may have done it all
        the same. Raises PeerUnreachable, PeerLost, PeerStalled (`timeout_s` for all together),
        PeerRefused, PeerMisbehaved; Busy and StorageFull where the peer says so; ValueError for a
        body over limits.CALL_BODY_BYTES_MAX.
        """
        self.calls += 1
        channel = None
        heard_s = 0.0
        try:
            async with asyncio.timeout(timeout_s):
                for _ in range(_TRIES):
                    channel = self._channels.get((peer, name, lane))
                    if channel is None:
                        channel = await self._open((peer, name, lane))
                    heard_s = channel.heard_s
                    try:
                        return await channel.call(body)
                    except _NotBegun:
                        continue
            raise PeerLost(f"{peer} closes every channel for {name} calls", peer=peer)
        except TimeoutError:
            self.failed += 1
            if channel is not None and channel.heard_s == heard_s:
                channel.retire()  # the next call shall not depend on it
            raise PeerStalled(
                f"{peer} did not answer a {name} call within {timeout_s:g} s", peer=peer
            ) from None
        except KwaaiError:
            self.failed += 1
            raise

    async def nonce(
        self, peer: PeerId, name: str, timeout_s: float = limits.CALL_TIMEOUT_S
    ) -> bytes:
        """Return the 32 bytes that are the first lane's alone; opens it when needed. Raises as
        `call` does.
        """
        try:
            async with asyncio.timeout(timeout_s):
                key = peer, name, 0
                return (self._channels.get(key) or await self._open(key)).nonce
        except TimeoutError:
            raise PeerStalled(
                f"{peer} did not open a channel within {timeout_s:g} s", peer=peer
            ) from None

    def rtt_s(self, peer: PeerId) -> float | None:
        """Return the seconds of a round trip on the link to a peer, as measured lately."""
        link = self._links.link(peer)
        return None if link is None else link.rtt_s

    @property
    def open_channels(self) -> int:
        return len(self._channels)

    def stats(self) -> Mapping[str, float]:
        """Counters, for /metrics."""
        return {
            "calls_made": self.calls,
            "calls_failed": self.failed,
            "call_channels": len(self._channels),
        }

    async def stop(self) -> None:
        """Close all channels; calls under way fail. Idempotent."""
        self._is_stopped = True
        openings = list(self._openings.values())
        for task in openings:
            task.cancel()
        await asyncio.gather(*openings, return_exceptions=True)
        for channel in self._all():
            channel.close(PeerLost("this node stops", peer=channel.peer), says_bye=True)

    # Channels.

    async def _open(self, key: _Key) -> _AskingChannel:
        task = self._openings.get(key)
        if task is None:
            task = self._openings[key] = asyncio.create_task(self._open_now(key))
            task.add_done_callback(lambda task: self._opened(key, task))
        return await asyncio.shield(task)

    def _opened(self, key: _Key, task: asyncio.Task[_AskingChannel]) -> None:
        del self._openings[key]
        if not task.cancelled():
            task.exception()  # those who asked have it; when they are gone, nobody misses it

    async def _open_now(self, key: _Key) -> _AskingChannel:
        peer, name, _ = key
        if self._is_stopped:
            raise PeerLost("this node stops", peer=peer)
        # The link first: the peer's end of the channel takes the link that is there.
        link = await self._links.get(peer, self._addresses(peer))
        opening = wire.OpenCalls(name, os.urandom(wire.RANDOM_BYTES))
        data = await self._network.request(
            peer, wire.PROTOCOL, wire.encode_open(opening), limits.CALL_OPEN_TIMEOUT_S
        )
        try:
            agreed = wire.agree(self._links.peer, peer, opening, wire.parse_opened(data))
        except WireError as error:
            raise PeerMisbehaved(f"{peer} opened no channel: {error}", peer=peer) from error
        if self._links.link(peer) is not link or self._is_stopped:
            raise PeerLost(f"the link to {peer} ended while a channel was opened", peer=peer)
        channel = self._channels[key] = _AskingChannel(self, key, agreed)
        return channel

    # What channels tell and ask.

    @property
    def links(self) -> Links:
        return self._links

    @property
    def idle_s(self) -> float:
        """Without a call, before a channel is closed."""
        return self._idle_s

    def retired(self, channel: _AskingChannel) -> None:
        """A channel takes no new calls."""
        self.forget(channel)
        self._retired.add(channel)

    def forget(self, channel: _AskingChannel) -> None:
        """A channel is closed."""
        self._retired.discard(channel)
        if self._channels.get(channel.key) is channel:
            del self._channels[channel.key]

    def _all(self) -> list[_AskingChannel]:
        return [*self._channels.values(), *self._retired]

    def _on_lost(self, peer: PeerId, reason: str) -> None:
        for channel in [c for c in self._all() if c.peer == peer]:
            channel.close(PeerLost(f"{peer} is gone: {reason}", peer=peer))


class _NotBegun(PeerLost):
    """The answerer closed the channel before it began with this call."""


class _AskingChannel:
    """One channel: which calls are under way, and what comes for them."""

    def __init__(self, client: CallClient, key: _Key, agreed: wire.CallChannel) -> None:
        self.key, self.nonce = key, agreed.nonce
        self.peer, self.name, _ = key
        self._client = client
        self._loop = asyncio.get_running_loop()
        self._channel: Channel = client.links.open_channel(self.peer, agreed.id, self._receive)
        self._under_way: dict[int, asyncio.Future[bytes]] = {}
        self._turns = asyncio.Semaphore(limits.CALLS_UNDER_WAY_MAX)
        self._waiting = 0
        self._next = 0
        self._failure: PeerError | None = None
        self._is_retired = False
        self._used_s = self.heard_s = self._loop.time()
        """When it was last called on, and when something last came."""
        self._timer = self._loop.call_later(client.idle_s, self._look)

    async def call(self, body: Body) -> bytes:
        """Send a call and return its answer. The caller sets the deadline."""
        if self._waiting >= limits.CALLS_WAITING_MAX:
            raise Busy(f"{self._waiting} calls wait for {self.peer} already", retry_after_s=1.0)
        self._waiting += 1
        try:
            await self._turns.acquire()
        finally:
            self._waiting -= 1
        try:
            return await self._call(body)
        finally:
            self._turns.release()

    async def _call(self, body: Body) -> bytes:
        if self._failure is None and self._next > wire.CALL_ID_MAX:
            self.retire()
        if self._failure is not None or self._is_retired:
            raise _NotBegun(f"the channel to {self.peer} was closed", peer=self.peer)
        data = body if isinstance(body, bytes) else body(self.nonce)
        if len(data) > limits.CALL_BODY_BYTES_MAX:
            raise ValueError(f"a call's body has {len(data)} bytes: that is too many")
        call_id, self._next = self._next, self._next + 1
        future: asyncio.Future[bytes] = self._loop.create_future()
        self._under_way[call_id] = future
        self._used_s = self._loop.time()
        has_left = False
        try:
            head = wire.encode_head(wire.CALL, call_id)
            try:
                if not self._channel.send_now(head, data):
                    await self._channel.send(head, data)
            except PeerError as error:
                self.close(PeerLost(error.message, peer=self.peer))
                if isinstance(error, PeerRefused):  # it has forgotten the channel
                    raise _NotBegun(error.message, peer=self.peer) from None
                raise
            has_left = True
            return await future
        except asyncio.CancelledError:
            if has_left and self._failure is None and future.cancelled():
                self._say(wire.CANCEL, call_id)
            raise
        finally:
            self._under_way.pop(call_id, None)
            future.cancel()

    def close(self, error: PeerError, *, says_bye: bool = False) -> None:
        """Fail what is under way, and take nothing more. Idempotent."""
        if self._failure is not None:
            return
        self._failure = error
        self._timer.cancel()
        self._client.forget(self)
        if says_bye:
            self._say(wire.BYE, 0)
        self._channel.close()
        for future in self._under_way.values():
            if not future.done():
                future.set_exception(copy(error))
                future.exception()  # whoever waits gets it; that nobody does is no fault

    def retire(self) -> None:
        """Take no new calls, and close when none is under way. Idempotent."""
        if self._failure is None and not self._is_retired:
            self._is_retired = True
            self._client.retired(self)
            self._timer.cancel()
            self._look()

    def _say(self, kind: int, call_id: int) -> None:
        """Say what the peer can do without: only if it need not wait."""
        try:
            self._channel.send_now(wire.encode_head(kind, call_id))
        except PeerError as error:
            log.debug("call_message_unsaid", peer=self.peer, reason=error.message)

    def _look(self) -> None:
        """Close the channel when nobody has used it for long."""
        idle_s = self._client.idle_s
        left_s = 0.0 if self._is_retired else idle_s - (self._loop.time() - self._used_s)
        if left_s <= 0 and not self._under_way and not self._waiting:
            self.close(_NotBegun("an idle channel was closed", peer=self.peer), says_bye=True)
            return
        self._timer = self._loop.call_later(max(limits.CALL_LOOK_S, left_s), self._look)

    # What comes. Called by links.

    def _receive(self, message: bytes) -> None:
        self._channel.consumed(len(message))
        try:
            self._on_message(wire.parse_to_asker(message))
        except WireError as error:
            log.warning("call_answer_invalid", peer=self.peer, reason=error.message)
            what = f"{self.peer} answers a {self.name} call with no answer: {error.message}"
            self.close(PeerMisbehaved(what, peer=self.peer))

    def _on_message(self, message: wire.ToAsker) -> None:
        if isinstance(message, wire.Bye):
            kind = PeerLost if message.may_have_begun else _NotBegun
            self.close(kind(f"{self.peer} closed the channel", peer=self.peer))
            return
        future = self._under_way.get(message.id)
        self._used_s = self.heard_s = self._loop.time()
        if future is None:
            if message.id >= self._next:
                raise WireError("it was not asked that")
            return  # nobody waits for it any more
        if future.done():
            return
        if isinstance(message, wire.CallAnswer):
            future.set_result(bytes(message.body))
        else:
            future.set_exception(_error_of(message, self.peer))


def _error_of(message: wire.CallError, peer: PeerId) -> KwaaiError:
    """Return what an answerer's error is to whoever asked it."""
    if message.code in _THEIRS:
        error = error_from_code(message.code, f"{peer} says: {message.text}")
    else:
        error = PeerRefused(f"{peer} refused ({message.code}): {message.text}", peer=peer)
    error.retry_after_s = message.retry_after_s
    return error
