"""Names for ids and quantities that more than one ring speaks of. No behaviour beyond parsing and
printing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NewType

ModelHandle = NewType("ModelHandle", str)
"""`sha256:` and 64 lower-case hex digits: the SHA-256 of a model's canonical manifest."""


@dataclass(frozen=True, slots=True, order=True)
class LayerRange:
    """A contiguous, half-open range of a model's transformer blocks: `start <= block < stop`."""

    start: int
    stop: int

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop:
            raise ValueError(
                f"a layer range needs 0 <= start < stop, got [{self.start},{self.stop})"
            )

    def __len__(self) -> int:
        return self.stop - self.start

    def __contains__(self, block: int) -> bool:
        return self.start <= block < self.stop

    def __str__(self) -> str:
        return f"[{self.start},{self.stop})"
