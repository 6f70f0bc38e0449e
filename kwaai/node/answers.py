"""The node's answers as its faces see them: counted, and refused while the node is going.

A Generator around another one. Generates nothing itself.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Mapping

from kwaai.errors import KwaaiError, ResourceError
from kwaai.node.generate import (
    Finished,
    GenerationRequest,
    Generator,
    Json,
    ModelCard,
    TextDelta,
)


class Answers:
    """See Generator. Belongs to one event loop."""

    def __init__(
        self, inner: Generator, more_stats: Callable[[], Mapping[str, float]] = dict
    ) -> None:
        """`more_stats`: counters of the node's other parts, for /metrics."""
        self._inner, self._more_stats = inner, more_stats
        self._is_draining = False
        self._idle = asyncio.Event()
        self._idle.set()
        self.under_way = 0
        """Answers that have begun and not ended."""
        self._finished = self._failed = 0

    def models(self) -> list[ModelCard]:
        """See Generator."""
        return self._inner.models()

    def health(self) -> Mapping[str, Json]:
        """See Generator."""
        health = dict(self._inner.health())
        return {**health, "status": "failed", "error": "stopping"} if self._is_draining else health

    def stats(self) -> Mapping[str, float]:
        """See Generator."""
        counted = {"answers": self._finished, "answers_failed": self._failed}
        return {**self._inner.stats(), **counted, **self._more_stats()}

    async def generate(
        self, request: GenerationRequest
    ) -> AsyncGenerator[TextDelta | Finished, None]:
        """See Generator."""
        if self._is_draining:
            raise ResourceError("this node is stopping; ask another, or later", retry_after_s=5.0)
        self.under_way += 1
        self._idle.clear()
        try:
            async with contextlib.aclosing(self._inner.generate(request)) as items:
                async for item in items:
                    self._finished += isinstance(item, Finished)
                    yield item
        except KwaaiError:
            self._failed += 1
            raise
        finally:
            self.under_way -= 1
            if not self.under_way:
                self._idle.set()

    async def drain(self, grace_s: float) -> int:
        """Begin no more answers; wait for those under way. Return how many are left then."""
        self._is_draining = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await self._idle.wait()
        return self.under_way
