"""What of the control API takes long: events in lines of JSON, and failures as JSON.

An empty line is a sign of life; `{"event": "error"}` comes instead of a status once an answer has
begun. Knows no route.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from kwaai import limits
from kwaai.api.errors import encode_json
from kwaai.errors import KwaaiError, PeerError
from kwaai.log import get_logger

log = get_logger(__name__)

_DEFECT = KwaaiError("the node failed on this request; `kwaainet logs` says why")


def error_json(error: KwaaiError) -> dict[str, Any]:
    """Return an error so that `kwaai.cli.control` can raise it again."""
    return {
        "code": error.code,
        "message": error.message,
        "param": error.param,
        "retry_after_s": error.retry_after_s,
        "peer": error.peer if isinstance(error, PeerError) else None,
    }


def on_defect() -> KwaaiError:
    """Log the exception that is being handled; return what the owner is told instead."""
    log.exception("control_request_failed")
    return _DEFECT


class Events:
    """What a long request has to say, until it is written. Made in the event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue(limits.STREAM_EVENTS_MAX)

    async def put(self, event: dict[str, Any] | None) -> None:
        """Add an event, None after the last; wait while the reader is slow."""
        await self._queue.put(event)

    def push(self, event: dict[str, Any]) -> None:
        """Add an event from any thread, without waiting: dropped where the reader is slow."""
        try:
            here = asyncio.get_running_loop() is self._loop
        except RuntimeError:
            here = False
        if here:
            self._push(event)
        else:
            self._loop.call_soon_threadsafe(self._push, event)

    def _push(self, event: dict[str, Any]) -> None:
        with contextlib.suppress(asyncio.QueueFull):
            self._queue.put_nowait(event)

    async def get(self) -> dict[str, Any] | None:
        return await self._queue.get()


async def stream_events(
    request: web.Request, work: Callable[[Events], Awaitable[None]]
) -> web.StreamResponse:
    """Write the events of `work` as lines; its failure is the last of them."""
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    await response.prepare(request)
    events = Events()
    task = asyncio.create_task(_run(work, events))
    try:
        while (line := await _next_line(events)) is not None:
            async with asyncio.timeout(limits.HTTP_WRITE_TIMEOUT_S):
                await response.write(line)
        await response.write_eof()
    except (TimeoutError, ConnectionError):
        if request.transport is not None:
            request.transport.abort()  # the program has gone, or stopped reading
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    return response


async def _next_line(events: Events) -> bytes | None:
    """The next event; an empty line where there is none for a while; None at the end."""
    try:
        async with asyncio.timeout(limits.CONTROL_HEARTBEAT_S):
            event = await events.get()
    except TimeoutError:
        return b"\n"
    return None if event is None else encode_json(event) + b"\n"


async def _run(work: Callable[[Events], Awaitable[None]], events: Events) -> None:
    try:
        await work(events)
    except KwaaiError as error:
        await events.put({"event": "error", "error": error_json(error)})
    except Exception:  # the service boundary: the node is somebody else's code
        await events.put({"event": "error", "error": error_json(on_defect())})
    await events.put(None)
