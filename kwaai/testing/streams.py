"""The two ends of a stream in memory: bytes in order, after a delay; those unread have a bound."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from credentials.keys import PeerId
from kwaai import limits
from kwaai.errors import PeerLost

_WINDOW_BYTES = 256 * limits.KIB  # as Yamux


class MemoryStream:
    """One end; a `kwaai.net.network.Stream`."""

    def __init__(self, peer: PeerId, delay: Callable[[], float]) -> None:
        self.other: MemoryStream = self
        self._peer = peer
        self._delay = delay
        self._coming: deque[bytes] = deque()
        """On the way, in order: timers of one time fire in any order."""
        self._pieces: deque[bytes] = deque()
        self._unread = 0
        """Bytes on the way to this end, or arrived and not read."""
        self._last_s = 0.0
        self._changed = asyncio.Event()
        self._at_end = False
        self._closed = False
        self._lost = False

    @property
    def is_over(self) -> bool:
        """Nothing comes any more."""
        return self._closed or self._lost

    async def read(self, most: int) -> bytes:
        while True:
            if self._pieces:
                return self._take(most)
            if self._lost:
                raise PeerLost(f"the connection to {self._peer} ended", peer=self._peer)
            if self._at_end or self._closed:
                return b""
            await self._wait()

    async def write(self, data: bytes) -> None:
        left = memoryview(bytes(data))
        while left:
            if self._lost or self._closed or self.other._closed:
                raise PeerLost(f"the stream to {self._peer} has ended", peer=self._peer)
            room = _WINDOW_BYTES - self.other._unread
            if room > 0:
                self.other._send(bytes(left[:room]))
                left = left[room:]
            else:
                await self._wait()

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._changed.set()
            self.other._send(b"")

    def lose(self) -> None:
        """The connection is gone."""
        self._lost = True
        self._changed.set()

    def _send(self, piece: bytes) -> None:
        """Have a piece arrive here after the delay, and after all earlier ones; b"" is the end."""
        loop = asyncio.get_running_loop()
        self._unread += len(piece)
        self._last_s = max(self._last_s, loop.time() + self._delay())
        self._coming.append(piece)
        loop.call_at(self._last_s, self._arrive)

    def _arrive(self) -> None:
        piece = self._coming.popleft()
        if piece:
            self._pieces.append(piece)
        else:
            self._at_end = True
            self.other._changed.set()
        self._changed.set()

    def _take(self, most: int) -> bytes:
        piece = self._pieces.popleft()
        if len(piece) > most:
            self._pieces.appendleft(piece[most:])
            piece = piece[:most]
        self._unread -= len(piece)
        self.other._changed.set()
        return piece

    async def _wait(self) -> None:
        self._changed.clear()
        await self._changed.wait()


def stream_pair(
    opener: PeerId, acceptor: PeerId, delay: Callable[[], float]
) -> tuple[MemoryStream, MemoryStream]:
    """Return the opener's end and the acceptor's."""
    ours, theirs = MemoryStream(acceptor, delay), MemoryStream(opener, delay)
    ours.other, theirs.other = theirs, ours
    return ours, theirs
