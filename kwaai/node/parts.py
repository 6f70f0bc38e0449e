"""What the paths of answers ask of a slice worker and of whoever starts them. Types only.

`kwaai.inference.host.SliceHost` is the real one; tests have a small one of their own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from typing import Protocol

from kwaai.inference.batch import Data, Ran
from kwaai.inference.host import HostStats
from kwaai.limits import COMPUTE_WEIGHT_MAX
from kwaai.types import LayerRange, ModelHandle

__all__ = ["Data", "HeldParts", "Part", "Ran"]


class Part(Protocol):
    """One slice worker. Many sessions; what waits together is computed together."""

    layers: LayerRange
    head: bool
    embd: int
    vocab: int
    context_tokens: int
    batch_tokens: int

    @property
    def stats(self) -> HostStats:
        """What was measured."""

    async def open(self, session: Hashable, weight: int = COMPUTE_WEIGHT_MAX) -> None:
        """Give `session` a KV sequence. `weight`: of its steps, where not all that wait fit a pass.
        Raises Busy.
        """

    def submit(
        self, session: Hashable, position: int, data: Data, outputs: int = 0
    ) -> asyncio.Future[Ran]:
        """Queue rows (or tokens): gives float32 (count, embd), or (outputs, vocab) from the head.
        Steps of a session run in the order of the calls.
        """

    async def rollback(self, session: Hashable, position: int) -> None:
        """Forget positions from `position` on."""

    async def close(self, session: Hashable) -> None:
        """Give the sequence back. Idempotent."""


class HeldParts(Protocol):
    """The slices that this node serves to others."""

    def held(self, handle: ModelHandle) -> tuple[LayerRange, ...]:
        """Return the ranges that are served now."""

    def part(self, handle: ModelHandle, layers: LayerRange) -> Part | None:
        """Return the part that serves exactly `layers`, or None."""

    def divides(self, handle: ModelHandle, layers: LayerRange) -> bool:
        """Whether `layers` are a part of a divisible range that is served."""

    def load_part(self, handle: ModelHandle, layers: LayerRange) -> float:
        """Begin to load such a part, unless that has begun; return the seconds after which to ask
        again. Raises Busy where it may not be loaded now.
        """
