"""A base that is open on this node: its hosts, who works with it, and whose it is.

A value with a lock; who opens and keeps it is `knowledge_service`. docs/knowledge.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from kwaai import limits
from kwaai.errors import BaseMissing, Busy, StorageRefused
from kwaai.node.knowledge_hosts import BaseHost
from kwaai.node.knowledge_readers import SharedBase
from kwaai.vpk.base import Base
from kwaai.vpk.thin_base import ThinBase


@dataclass(eq=False, slots=True)
class OpenBase:
    """A base that is open, and its hosts."""

    base: Base
    rows: tuple[BaseHost, ...]
    shared: SharedBase | None = None
    """By what right it is read, where it is somebody else's."""
    busy: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by whoever ingests, repairs or moves it."""
    doing: str = ""
    """What that is, in words."""
    is_gone: bool = False
    """It was deleted while others waited for it."""
    audited_s: float = 0.0
    compacted: int = 0
    """Segments that the last compaction left: a large base always has many."""
    cells_s: float = -math.inf
    """When its cells were last made, or tried to."""
    repaired_s: float = -1e9
    """When the last repair ended that could not do all."""
    seen_s: dict[str, float] = field(default_factory=dict)
    """When each host was last linked with this node."""
    problem: str = ""
    """What the last upkeep failed with."""

    @contextlib.asynccontextmanager
    async def work(
        self, doing: str, wait_s: float = limits.KNOWLEDGE_BUSY_S
    ) -> AsyncGenerator[None, None]:
        """Hold `busy` while working with it; `doing`: what is told to others meanwhile. Raises Busy
        where somebody else works with it for longer than `wait_s`, BaseMissing where it is deleted.
        """
        try:
            async with asyncio.timeout(wait_s):
                await self.busy.acquire()
        except TimeoutError:
            raise Busy(
                f"{self.base.name} is in use: {self.doing or 'upkeep'} is under way; try again "
                "later",
                retry_after_s=limits.KNOWLEDGE_BUSY_S,
            ) from None
        try:
            if self.is_gone:
                raise BaseMissing(f"{self.base.name} was deleted meanwhile", param="base")
            self.doing = doing
            yield
        finally:
            self.doing = ""
            self.busy.release()

    @property
    def is_thin(self) -> bool:
        """Centroids alone are here."""
        return isinstance(self.base, ThinBase)

    def check_own(self) -> None:
        """Raise StorageRefused for a base of somebody else's, or a thin client's copy."""
        if self.is_thin:
            name = self.base.name
            raise StorageRefused(
                f"{name} is a thin client's copy: it can be searched here, refreshed (kwaainet rag "
                f"sync) and forgotten (kwaainet rag destroy); for more fetch all of it with: "
                f"kwaainet rag restore {name}",
                param="base",
            )
        if self.shared is not None:
            raise StorageRefused(
                f"the knowledge base {self.base.name} is somebody else's: it can be searched here, "
                "refreshed (kwaainet rag sync) and forgotten (kwaainet rag destroy), not changed",
                param="base",
            )

    def check_readable(self, now_s: float) -> None:
        """Raise StorageRefused where the right to read it has ended. `now_s`: Unix time."""
        ended = "" if self.shared is None else self.shared.ended(now_s)
        if ended:
            raise StorageRefused(f"{self.base.name}: {ended}", param="base")
