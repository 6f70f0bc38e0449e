"""Cut a model's blocks into contiguous ranges, check a chain of them, and tell whether one machine
can hold a whole model.

Does not measure: the bytes, speeds and free memory are the caller's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from kwaai import limits
from kwaai.errors import UserError
from kwaai.types import LayerRange

_COST_PRECISION = 1e-12
"""Cuts whose largest costs differ by less than this share are equally good."""


def split_layers(
    block_count: int,
    slices: int,
    *,
    block_bytes: Sequence[int] | None = None,
    head_bytes: int = 0,
    weights: Sequence[float] | None = None,
) -> tuple[LayerRange, ...]:
    """Cut blocks 0 .. block_count into `slices` non-empty ranges whose largest cost is minimal.

    A range's cost is the bytes of its blocks (all 1 where not given), plus `head_bytes` for the
    last one, over its weight: how fast, or large, the machine is that it goes to. Among the cuts
    with the least largest cost, one whose ranges are close to their fair share. The same arguments
    give the same cut. Raises UserError naming the numbers that cannot be.
    """
    if not 1 <= block_count <= limits.BLOCKS_MAX:
        raise UserError(f"a model has 1 to {limits.BLOCKS_MAX} blocks, not {block_count}")
    if not 1 <= slices <= block_count:
        raise UserError(
            f"{slices} slices cannot be cut from {block_count} blocks: ask for 1 to {block_count}",
            param="slices",
        )
    sizes = [1] * block_count if block_bytes is None else list(block_bytes)
    powers = [1.0] * slices if weights is None else list(weights)
    if len(sizes) != block_count or min(sizes) < 0 or head_bytes < 0:
        raise UserError(
            f"block_bytes must be {block_count} sizes of 0 or more, and head_bytes 0 or more"
        )
    if len(powers) != slices or not all(0 < power < math.inf for power in powers):
        raise UserError(f"weights must be {slices} finite numbers above 0, one for each slice")
    bounds = _Cut(sizes, powers, head_bytes).best()
    return tuple(LayerRange(start, stop) for start, stop in pairwise(bounds))


def check_chain(ranges: Sequence[LayerRange], block_count: int) -> None:
    """Check that the ranges cover blocks 0 .. block_count once each and in order.

    Raises UserError naming the first gap, overlap or excess.
    """
    reached = 0
    for index, part in enumerate(ranges):
        if part.start > reached:
            raise UserError(f"no range holds blocks [{reached},{part.start}): add one")
        if part.start < reached:
            before = ranges[index - 1]
            raise UserError(f"{part} overlaps {before}: start it at block {reached}")
        if part.stop > block_count:
            raise UserError(f"{part} goes past the model's last block: stop at {block_count}")
        reached = part.stop
    if reached < block_count:
        raise UserError(f"no range holds blocks [{reached},{block_count}): add one")


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether this machine alone can hold a model, the numbers, and a sentence that has them."""

    fits: bool
    needed_bytes: int
    available_bytes: int
    reason: str


def plan_local(
    weights_bytes: int, kv_bytes: int, compute_bytes: int, available_bytes: int
) -> Decision:
    """Decide whether a model fits: weights, KV cache and compute buffers, and 20 % on top."""
    parts = {"weights": weights_bytes, "KV cache": kv_bytes, "compute buffers": compute_bytes}
    if min(*parts.values(), available_bytes) < 0:
        raise ValueError("sizes in bytes cannot be negative")
    needed = math.ceil(sum(parts.values()) * limits.MEMORY_HEADROOM)
    fits = needed <= available_bytes
    detail = ", ".join(f"{name} {_mebibytes(size)}" for name, size in parts.items())
    return Decision(
        fits,
        needed,
        available_bytes,
        f"{'fits' if fits else 'does not fit'}: needs {_mebibytes(needed)} ({detail}, and "
        f"{limits.MEMORY_HEADROOM - 1:.0%} on top), {_mebibytes(available_bytes)} are available",
    )


def _mebibytes(size: int) -> str:
    return f"{size / limits.MIB:,.1f} MiB"


class _Cut:
    """The search for split_layers: bisect the largest cost for which some cut exists."""

    def __init__(self, sizes: Sequence[int], powers: Sequence[float], head: int) -> None:
        self._sums = [0, *accumulate(sizes)]
        self._powers = powers
        self._head = head

    def _cost(self, index: int, start: int, stop: int) -> float:
        last = index == len(self._powers) - 1
        total = self._sums[stop] - self._sums[start] + (self._head if last else 0)
        return total / self._powers[index]

    def _borders(self, most: float) -> list[bytearray]:
        """Mark, for each slice, the blocks at which it may start so that it and all slices after
        it keep to cost `most`.
        """
        count, slices = len(self._sums) - 1, len(self._powers)
        marks = [bytearray(count + 1) for _ in range(slices + 1)]
        marks[slices][count] = 1
        for index in reversed(range(slices)):
            nearest = 0  # the cheapest place to stop: the first marked one after the start
            for start in range(count - (slices - index), index - 1, -1):
                if marks[index + 1][start + 1]:
                    nearest = start + 1
                if nearest and self._cost(index, start, nearest) <= most:
                    marks[index][start] = 1
        return marks

    def best(self) -> list[int]:
        """Return the borders, 0 and the block count included."""
        low, high = 0.0, (self._sums[-1] + self._head) / min(self._powers)
        while high - low > high * _COST_PRECISION:
            middle = (low + high) / 2
            if self._borders(middle)[0][0]:
                high = middle
            else:
                low = middle
        return self._evened(high)

    def _evened(self, most: float) -> list[int]:
        """Choose, within `most`, the borders that bring each range closest to its fair share."""
        marks = self._borders(most)
        bounds = [0]
        for index in range(len(self._powers)):
            start = bounds[-1]
            left = self._sums[-1] + self._head - self._sums[start]
            fair = left / sum(self._powers[index:])
            chosen, closest = 0, math.inf
            for stop in range(start + 1, len(self._sums)):
                cost = self._cost(index, start, stop)
                if cost > most:
                    break
                if marks[index + 1][stop] and abs(cost - fair) <= closest:
                    chosen, closest = stop, abs(cost - fair)
            bounds.append(chosen)
        return bounds
