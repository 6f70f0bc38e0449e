"""A worker's stream driven by the event loop: a request goes out at once, its reply is a callback.

No thread is woken and none waits: that is what a pass costs less than through `Worker.exchange`
from a coroutine. One request at a time. Kills and restarts nothing: supervisor.py does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from kwaai.errors import KwaaiError, error_from_code
from kwaai.inference.ipc import OK_PREFIX, FrameError, FrameSocket, parse_header

Replied = Callable[[bytes, memoryview], None]
"""Given the reply's header and payload; the payload is good until the next request. May raise
FrameError for a reply that makes no sense."""
Failed = Callable[[KwaaiError], None]
"""Given what the worker refused with, or how it was lost."""


def error_of(reply: bytes) -> KwaaiError:
    """Return the error that a reply's header carries."""
    error: Any = parse_header(reply).get("error")
    return error_from_code(error["code"], error["message"], error.get("param"))


class LoopStream:
    """Owns the reading of one process's socket from now on; use it in the loop's thread only."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        stream: FrameSocket,
        on_broken: Callable[[Exception, Failed | None], None],
    ) -> None:
        """`on_broken`: told once when the other end ended, stalled or answered nonsense, with who
        is to hear of it.
        """
        self._loop, self._stream, self._on_broken = loop, stream, on_broken
        self._asked: tuple[Replied, Failed] | None = None
        self._deadline, self._timeout_s = 0.0, 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._descriptor = stream.fileno()
        self._is_writing = False
        loop.add_reader(self._descriptor, self._on_readable)

    def post(
        self,
        header: bytes,
        payload: memoryview | bytes,
        timeout_s: float,
        replied: Replied,
        failed: Failed,
    ) -> None:
        """Send a request. Later `replied`, `failed` or `on_broken` is called."""
        if self._asked is not None:
            raise RuntimeError("a worker is asked one thing at a time")
        self._asked = replied, failed
        self._deadline, self._timeout_s = self._loop.time() + timeout_s, timeout_s
        # One timer that looks now and then, not one for each request.
        if self._timer is None or self._timer.when() > self._deadline:
            self._set_timer(self._deadline)
        try:
            if not self._stream.begin_send(header, payload):
                self._loop.add_writer(self._descriptor, self._on_writable)
                self._is_writing = True
        except OSError as error:
            self._loop.call_soon(self._break, error)

    def close(self) -> Failed | None:
        """Let go of the socket; nobody is called any more. Returns who is to hear of it."""
        if self._descriptor < 0:
            return None
        self._loop.remove_reader(self._descriptor)
        if self._is_writing:
            self._loop.remove_writer(self._descriptor)
        if self._timer is not None:
            self._timer.cancel()
        asked, self._asked, self._descriptor = self._asked, None, -1
        return asked[1] if asked else None

    def _on_readable(self) -> None:
        try:
            frame = self._stream.poll()
            if frame is None:
                return
            asked = self._asked
            if asked is None:
                raise FrameError("an answer came that nobody had asked for")
            text, payload = frame
            error = None if text.startswith(OK_PREFIX) else error_of(text)
            self._asked = None
            if error is not None:
                asked[1](error)
                return
            try:
                asked[0](text, payload)
            except FrameError:
                self._asked = asked  # who asked has heard nothing yet
                raise
        except (OSError, EOFError, FrameError) as problem:
            self._break(problem)

    def _on_writable(self) -> None:
        try:
            if self._stream.go_on_sending():
                self._loop.remove_writer(self._descriptor)
                self._is_writing = False
        except OSError as error:
            self._break(error)

    def _set_timer(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._look_at_clock)

    def _look_at_clock(self) -> None:
        self._timer = None
        if self._asked is None:
            return
        if self._loop.time() < self._deadline:
            self._set_timer(self._deadline)
        else:
            self._break(TimeoutError(self._timeout_s))

    def _break(self, error: Exception) -> None:
        if self._descriptor >= 0:
            self._on_broken(error, self.close())
