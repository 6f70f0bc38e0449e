"""Several generations of one request at once, as one stream of events.

Owns the tasks that wait on the generator: leaving the context ends every generation, whatever the
reason.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import TypeAlias

from kwaai import limits
from kwaai.api.metrics import Metrics
from kwaai.errors import KwaaiError
from kwaai.log import get_logger
from kwaai.node.generate import Finished, GenerationRequest, Generator, TextDelta

Event: TypeAlias = TextDelta | Finished
_Queue: TypeAlias = "asyncio.Queue[tuple[int, Event | KwaaiError]]"

log = get_logger(__name__)


@asynccontextmanager
async def fan_out(
    generator: Generator, requests: Sequence[GenerationRequest], metrics: Metrics
) -> AsyncIterator[Events]:
    """Run all `requests` concurrently; yield an iterator over (index of the request, event).

    The iterator ends after every request's `Finished`, and raises the first KwaaiError of any of
    them.
    """
    queue: _Queue = asyncio.Queue(limits.STREAM_EVENTS_MAX * len(requests))
    tasks = [
        asyncio.create_task(_pump(generator, index, request, queue, metrics))
        for index, request in enumerate(requests)
    ]
    try:
        yield Events(queue, len(requests))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Events:
    """Events of several generations, in the order they come; iterate once."""

    def __init__(self, queue: _Queue, unfinished: int) -> None:
        self._queue = queue
        self._unfinished = unfinished
        self._held: tuple[int, Event] | None = None

    async def wait_first(self) -> None:
        """Wait for the first event, and keep it for the iteration. Raises KwaaiError."""
        self._held = await anext(self)

    def __aiter__(self) -> Events:
        return self

    async def __anext__(self) -> tuple[int, Event]:
        if self._held is not None:
            held, self._held = self._held, None
            return held
        if not self._unfinished:
            raise StopAsyncIteration
        index, event = await self._queue.get()
        if isinstance(event, KwaaiError):
            raise event
        if isinstance(event, Finished):
            self._unfinished -= 1
        return index, event


async def _pump(
    generator: Generator, index: int, request: GenerationRequest, queue: _Queue, metrics: Metrics
) -> None:
    """Move one generation's events into the queue; a failure becomes the last of them."""
    with metrics.active.track_inprogress():
        try:
            async with aclosing(generator.generate(request)) as events:
                async for event in events:
                    await queue.put((index, event))
                    if isinstance(event, Finished):
                        metrics.observe(event)
                        return
            failure = KwaaiError("the generation ended without saying why")
        except KwaaiError as error:
            failure = error
        except Exception:  # the service boundary: the generator is somebody else's code
            log.exception("generation_failed")
            failure = KwaaiError("the generation failed inside the node; the node's log says why")
    await queue.put((index, failure))
