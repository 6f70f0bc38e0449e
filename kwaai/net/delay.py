"""A TCP relay on loopback that holds every byte back for a fixed time: a far peer on one machine.

For benchmarks and tests. Delays each direction by the same time, keeps order, adds no loss and no
limit of speed.
"""

from __future__ import annotations

import asyncio
from collections import deque

from kwaai.limits import DELAY_BYTES_MAX


class DelayRelay:
    """Listens on a free loopback port and forwards each connection to `host`:`port`."""

    def __init__(self, host: str, port: int, delay_s: float) -> None:
        self._target, self._delay_s = (host, port), delay_s
        self._server: asyncio.Server | None = None
        self._ends: set[_End] = set()

    async def start(self) -> str:
        """Listen; return `host:port`."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._accept, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()[:2]
        return f"{host}:{port}"

    async def stop(self) -> None:
        """Close the listener and every connection."""
        if self._server:
            self._server.close()
        for end in tuple(self._ends):
            end.abort()

    def _accept(self) -> _End:
        near, far = _End(self), _End(self)
        near.other, far.other = far, near
        near.dialling = asyncio.create_task(self._dial(near, far))
        return near

    async def _dial(self, near: _End, far: _End) -> None:
        try:
            await asyncio.get_running_loop().create_connection(lambda: far, *self._target)
        except OSError:
            near.abort()

    def joined(self, end: _End) -> None:
        """An end is connected."""
        self._ends.add(end)

    def left(self, end: _End) -> None:
        """An end is gone."""
        self._ends.discard(end)

    @property
    def delay_s(self) -> float:
        """Seconds that a byte takes longer, in each direction."""
        return self._delay_s

    @delay_s.setter
    def delay_s(self, seconds: float) -> None:
        """Of what comes from now on."""
        self._delay_s = seconds


class _End(asyncio.Protocol):
    """One of the two connections of a relayed one. What it reads is written to the other, late."""

    def __init__(self, relay: DelayRelay) -> None:
        self._relay = relay
        self._transport: asyncio.Transport | None = None
        self._late: deque[tuple[float, bytes]] = deque()  # what this end will write, and when
        self._held = 0
        self.other: _End
        self.dialling: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._relay.joined(self)
        if self._late:
            asyncio.get_running_loop().call_at(self._late[0][0], self._write_due)

    def data_received(self, data: bytes) -> None:
        self.other.take(data)
        if self.other._held > DELAY_BYTES_MAX and self._transport:
            self._transport.pause_reading()

    def take(self, data: bytes) -> None:
        """Write `data` after the delay; b"" closes."""
        loop = asyncio.get_running_loop()
        due = loop.time() + self._relay.delay_s
        self._late.append((due, data))
        self._held += len(data)
        if self._transport:
            loop.call_at(due, self._write_due)

    def _write_due(self) -> None:
        now = asyncio.get_running_loop().time() + 0.0005
        while self._transport and self._late and self._late[0][0] <= now:
            _, data = self._late.popleft()
            self._held -= len(data)
            if not data:
                self._transport.close()
                return
            self._transport.write(data)
        reader = self.other._transport
        if reader and self._held <= DELAY_BYTES_MAX and not reader.is_closing():
            reader.resume_reading()
        if self._late and self._transport:
            asyncio.get_running_loop().call_at(self._late[0][0], self._write_due)

    def connection_lost(self, exc: Exception | None) -> None:
        self._relay.left(self)
        self._transport = None
        self.other.take(b"")

    def abort(self) -> None:
        """Close at once."""
        if self.dialling:
            self.dialling.cancel()
        if self._transport:
            self._transport.abort()
