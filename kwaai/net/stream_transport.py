"""A stream of the network with the face of asyncio's Transport, so that a link runs over it too.

Does not know what passes through. The stream is closed when `run` returns.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from kwaai.errors import PeerError
from kwaai.net.network import Stream

_READ_BYTES = 64 * 1024


class StreamTransport(asyncio.Transport):
    """Feeds a BufferedProtocol from a Stream, and writes to it in order."""

    def __init__(self, stream: Stream, protocol: asyncio.BufferedProtocol) -> None:
        super().__init__()
        self._stream = stream
        self._protocol = protocol
        self._buffer: deque[bytes] = deque()
        self._buffered = 0
        self._high, self._low = 64 * 1024, 16 * 1024
        self._is_paused = False
        self._is_closing = False
        self._is_aborted = False
        self._wake = asyncio.Event()
        self._tasks: tuple[asyncio.Task[None], ...] = ()

    async def run(self) -> None:
        """Carry bytes until one end closes. Cancelling it aborts the transport."""
        error: Exception | None = None
        try:
            self._protocol.connection_made(self)
            async with asyncio.TaskGroup() as group:
                self._tasks = group.create_task(self._read()), group.create_task(self._write())
                if self._is_aborted:
                    self.abort()
        except* PeerError as errors:
            error = errors.exceptions[0]
        finally:
            self._is_closing = True
            await self._stream.close()
            self._protocol.connection_lost(error)

    async def _read(self) -> None:
        while data := await self._stream.read(_READ_BYTES):
            left = memoryview(data)
            while left and not self._is_closing:
                space = memoryview(self._protocol.get_buffer(len(left)))
                taken = min(len(space), len(left))
                space[:taken] = left[:taken]
                self._protocol.buffer_updated(taken)
                left = left[taken:]
        self.abort()

    async def _write(self) -> None:
        while True:
            while self._buffer:
                data = b"".join(self._buffer)
                self._buffer.clear()
                await self._stream.write(data)
                self._buffered -= len(data)
                if self._is_paused and self._buffered <= self._low:
                    self._is_paused = False
                    self._protocol.resume_writing()
            if self._is_closing:
                self.abort()
                return
            self._wake.clear()
            await self._wake.wait()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._is_closing or not data:
            return
        self._buffer.append(bytes(data))
        self._buffered += len(data)
        self._wake.set()
        if not self._is_paused and self._buffered > self._high:
            self._is_paused = True
            self._protocol.pause_writing()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = 64 * 1024 if high is None else high
        self._low = self._high // 4 if low is None else low

    def get_write_buffer_size(self) -> int:
        return self._buffered

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def is_closing(self) -> bool:
        return self._is_closing

    def close(self) -> None:
        """Write what is buffered, then end."""
        self._is_closing = True
        self._wake.set()

    def abort(self) -> None:
        """End now."""
        self._is_closing = self._is_aborted = True
        for task in self._tasks:
            task.cancel()
