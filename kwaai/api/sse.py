"""Server-sent events: a response that is written piece by piece. Format: WHATWG HTML, section 9.2.

Knows nothing of what it carries. Ends in one of two ways: `done()` says `[DONE]`, `fail()` an error
and no more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from kwaai import limits
from kwaai.api.errors import encode_json, error_body
from kwaai.errors import KwaaiError


class EventStream:
    """One open stream to one client. Raises ConnectionError when the client has gone or stopped
    reading.
    """

    def __init__(self, request: web.Request, headers: Mapping[str, str]) -> None:
        self._request = request
        self.response = web.StreamResponse(
            headers={
                "Content-Type": "text/event-stream; charset=utf-8",
                "Cache-Control": "no-cache",
                "X-Accel-Buffering": "no",
                **headers,
            }
        )

    async def open(self) -> None:
        await self.response.prepare(self._request)

    async def send(self, value: Any) -> None:
        """Send one JSON value as an event."""
        await self._write(b"data: " + encode_json(value) + b"\n\n")

    async def done(self) -> None:
        """End an answer that is complete."""
        await self._write(b"data: [DONE]\n\n")
        await self.response.write_eof()

    async def fail(self, error: KwaaiError) -> None:
        """End an answer that broke: an error event, no `[DONE]`, and the connection closes."""
        self.response.force_close()
        await self.send(error_body(error))
        await self.response.write_eof()

    async def _write(self, data: bytes) -> None:
        try:
            async with asyncio.timeout(limits.HTTP_WRITE_TIMEOUT_S):
                await self.response.write(data)
        except TimeoutError:
            if self._request.transport is not None:
                self._request.transport.abort()
            raise ConnectionResetError("the client stopped reading") from None
