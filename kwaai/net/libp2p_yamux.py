"""py-libp2p's Yamux made safe: frames are written whole, windows are enforced, dead peers noticed.

Overrides what release 0.8.1 gets wrong and nothing else (measured; docs/protocol/discovery.md):
a cancelled write broke the whole connection; a peer could send without bound to a stream that
nobody reads; a writer gave up after 5 s, polling; nothing noticed a peer that had frozen. Trio
only.
"""

from __future__ import annotations

import math
import struct
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import trio
from libp2p.io.utils import read_exactly
from libp2p.stream_muxer.exceptions import MuxedStreamError
from libp2p.stream_muxer.yamux import yamux

from kwaai import limits

if TYPE_CHECKING:
    from libp2p.abc import ISecureConn
    from libp2p.peer.id import ID

_CREDIT_BYTES = yamux.DEFAULT_WINDOW_SIZE // 2  # given back in pieces of at least this size


class SafeStream(yamux.YamuxStream):
    """A stream whose sender waits for credit without polling, and whose peer keeps to its own."""

    conn: SafeYamux
    _send_credit = 0
    _recv_credit = 0
    _is_closed = False
    _credit_came: trio.Event | None = None

    def __init__(self, stream_id: int, conn: SafeYamux, is_initiator: bool) -> None:
        self._send_order = trio.Lock()
        self._unreturned = 0
        super().__init__(stream_id, conn, is_initiator)

    # The base class assigns to these three from its read loop; here is where we learn of it.

    @property
    def send_window(self) -> int:
        return self._send_credit

    @send_window.setter
    def send_window(self, value: int) -> None:
        if value > 0xFFFF_FFFF:
            self.conn.violate("it gave more credit than a window can hold")
        self._send_credit = value
        self._wake()

    @property
    def recv_window(self) -> int:
        return self._recv_credit

    @recv_window.setter
    def recv_window(self, value: int) -> None:
        if value < 0:
            self.conn.violate("it sent more than its window allows")
        self._recv_credit = value

    @property
    def closed(self) -> bool:
        return self._is_closed

    @closed.setter
    def closed(self, value: bool) -> None:
        self._is_closed = value
        self._wake()

    def _wake(self) -> None:
        if self._credit_came is not None:
            self._credit_came.set()

    async def write(self, data: bytes) -> None:
        """Send all of `data`; waits while the peer gives no credit, up to P2P_STALL_TIMEOUT_S."""
        async with self._send_order:
            sent = 0
            while sent < len(data):
                await self._wait_for_credit()
                most = min(self._send_credit, yamux.MAX_MESSAGE_SIZE - yamux.HEADER_SIZE)
                piece = data[sent : sent + most]
                self._send_credit -= len(piece)
                header = struct.pack(
                    yamux.YAMUX_HEADER_FORMAT, 0, yamux.TYPE_DATA, 0, self.stream_id, len(piece)
                )
                await self.conn._write_frame(header + piece)
                sent += len(piece)

    async def reset(self) -> None:
        """End both directions at once; what has not been read is forgotten, readers wake."""
        try:
            await super().reset()
        finally:
            self.conn.forget(self.stream_id)

    async def _wait_for_credit(self) -> None:
        with trio.fail_after(limits.P2P_STALL_TIMEOUT_S):
            while self._send_credit <= 0 or self.send_closed or self._is_closed:
                if self.send_closed or self._is_closed:
                    raise MuxedStreamError("the stream is closed")
                self._credit_came = trio.Event()
                await self._credit_came.wait()

    async def _auto_tune_and_send_window_update(self, *, bytes_read: int = 0) -> None:
        """Give back credit: nothing for a short exchange, a full window for a long one."""
        self._unreturned += bytes_read
        if self._unreturned < _CREDIT_BYTES or self.recv_closed or self._is_closed:
            return
        self._unreturned = 0
        buffered = len(self.conn.stream_buffers.get(self.stream_id, b""))
        credit = limits.P2P_STREAM_WINDOW_BYTES - self._recv_credit - buffered
        if credit > 0:
            self._recv_credit += credit
            await self.send_window_update(credit)


class SafeYamux(yamux.Yamux):
    """A connection's Yamux. `start()` returns when the connection has ended; `reason` says why."""

    def __init__(
        self,
        secured: ISecureConn,
        peer: ID,
        on_round_trip: Callable[[float], None],
        heartbeat_s: float = limits.P2P_HEARTBEAT_S,
    ) -> None:
        super().__init__(secured, peer, is_initiator=secured.is_initiator)
        self._on_round_trip = on_round_trip
        self._heartbeat_s = heartbeat_s
        self._broken = trio.Event()
        self.reason = ""
        self.misbehaved = False

    @property
    def is_usable(self) -> bool:
        return not (self.event_shutting_down.is_set() or self._broken.is_set())

    def violate(self, what: str) -> None:
        """The peer broke the protocol. Raises what makes the base class end the connection."""
        self.misbehaved = True
        self.give_up(what)
        raise trio.TooSlowError(what)

    def give_up(self, reason: str) -> None:
        """End the connection, from anywhere."""
        self.reason = self.reason or reason
        self._broken.set()

    def forget(self, stream_id: int) -> None:
        """Drop what is kept of a stream that is over. The base class keeps unread bytes 60 s."""
        self.streams.pop(stream_id, None)
        self.stream_buffers.pop(stream_id, None)
        event = self.stream_events.pop(stream_id, None)
        if event is not None:
            event.set()

    async def start(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._end_when_broken, nursery.cancel_scope)
            await super().start()
            self.reason = self.reason or "it closed the connection"
            nursery.cancel_scope.cancel()

    async def _end_when_broken(self, scope: trio.CancelScope) -> None:
        await self._broken.wait()
        scope.cancel()

    async def abort(self) -> None:
        """Close the socket and wake every stream, without waiting for the peer."""
        self.give_up("the connection was closed here")
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 1.0):
            await self._cleanup_on_error()

    async def _write_frame(self, data: bytes) -> None:
        """Write a frame whole or break the connection: half a frame would break it anyway."""
        late = True
        with trio.CancelScope(shield=True) as scope:
            scope.deadline = trio.current_time() + limits.P2P_WRITE_TIMEOUT_S
            async with self._write_lock:
                if not self.is_usable:
                    raise MuxedStreamError(self.reason or "the connection has ended")
                await self.secured_conn.write(data)
            late = False
        if late:
            self.give_up(f"it took no data for {limits.P2P_WRITE_TIMEOUT_S:.0f} s")
            raise MuxedStreamError(self.reason)
        await trio.lowlevel.checkpoint_if_cancelled()

    async def open_stream(self) -> yamux.YamuxStream:
        """Open a stream; not to be cancelled between its number and its first frame."""
        if self.stream_backlog_semaphore.value == 0:
            raise MuxedStreamError("too many streams are open to this peer")
        with trio.CancelScope(shield=True):
            return await super().open_stream()

    async def _read_data_body(self, length: int) -> bytes:
        if length > limits.P2P_FRAME_BYTES_MAX:
            self.violate(f"it announced a frame of {length} bytes")
        unread = sum(map(len, self.stream_buffers.values()))
        if unread + length > limits.P2P_BUFFER_BYTES_MAX:
            self.violate(f"it sent {unread + length} bytes to streams that nobody reads")
        with trio.fail_after(limits.P2P_WRITE_TIMEOUT_S):
            return await read_exactly(self.secured_conn, length)

    async def _measure_rtt_loop(self) -> None:
        """The heartbeat: a Yamux ping, answered by every implementation."""
        misses = 0
        while self.is_usable:
            sent_s = time.perf_counter()
            answered = await self._ping_once()
            if answered:
                misses = 0
                self._rtt = time.perf_counter() - sent_s
                self._on_round_trip(self._rtt)
                await trio.sleep(self._heartbeat_s)
                continue
            misses += 1
            if misses >= limits.P2P_HEARTBEAT_MISSES:
                silent_s = misses * self._heartbeat_s
                self.give_up(f"it answered no heartbeat for {silent_s:.0f} s")

    async def _ping_once(self) -> bool:
        self._ping_id = (self._ping_id + 1) & 0xFFFF_FFFF
        self._ping_event = trio.Event()
        self._ping_sent_time = trio.current_time()
        header = struct.pack(
            yamux.YAMUX_HEADER_FORMAT, 0, yamux.TYPE_PING, yamux.FLAG_SYN, 0, self._ping_id
        )
        with trio.move_on_after(self._heartbeat_s):
            try:
                await self._write_frame(header)
            except Exception as error:  # whatever the socket says: it is over
                self.give_up(str(error) or type(error).__name__)
                await trio.sleep(math.inf)
            await self._ping_event.wait()
            return True
        return False


# The base class makes its streams by this name.
vars(yamux)["YamuxStream"] = SafeStream
