"""What a set of served ranges covers, and which ranges would complete it.

Knows no peers, speeds or memory beyond a count of blocks: choosing among peers is `paths`.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from kwaai.types import LayerRange


@dataclass(frozen=True, slots=True)
class CoverageRow:
    layers: LayerRange
    copies: int


def copies_of_blocks(block_count: int, served: Iterable[LayerRange]) -> list[int]:
    """Count for each block the ranges that have it."""
    steps = [0] * (block_count + 1)
    for layers in served:
        if layers.start < block_count:
            steps[layers.start] += 1
            steps[min(layers.stop, block_count)] -= 1
    copies, now = [], 0
    for step in steps[:-1]:
        now += step
        copies.append(now)
    return copies


def coverage(block_count: int, served: Iterable[LayerRange]) -> tuple[CoverageRow, ...]:
    """Cut blocks 0 .. block_count where the number of ranges that have a block changes."""
    rows, start = [], 0
    for copies, same in groupby(copies_of_blocks(block_count, served)):
        stop = start + len(list(same))
        rows.append(CoverageRow(LayerRange(start, stop), copies))
        start = stop
    return tuple(rows)


def gaps(block_count: int, served: Iterable[LayerRange]) -> tuple[LayerRange, ...]:
    """Return the ranges that nobody serves."""
    return tuple(row.layers for row in coverage(block_count, served) if row.copies == 0)


def inner_gaps(block_count: int, served: Iterable[LayerRange]) -> tuple[LayerRange, ...]:
    """Return the ranges that nobody serves, without the first and the last block: who asks runs
    these itself.
    """
    inside = [(max(r.start, 1), min(r.stop, block_count - 1)) for r in gaps(block_count, served)]
    return tuple(LayerRange(start, stop) for start, stop in inside if start < stop)


class _Filled(NamedTuple):
    """A way to tile the blocks up to one of them; compares by what it costs."""

    missing: int
    pieces: int
    trail: tuple[LayerRange, ...]


def fill(start: int, stops: Iterable[int], served: Iterable[LayerRange]) -> dict[int, _Filled]:
    """Tile [start, stop) with served ranges and as few others as can be, for each of `stops`.

    The others (`trail`) have the fewest blocks, and among those few pieces.
    """
    stops = sorted(set(stops))
    ending: dict[int, set[int]] = {}
    for layers in served:
        if layers.start >= start:
            ending.setdefault(layers.stop, set()).add(layers.start)
    best = {start: _Filled(0, 0, ())}
    for block in range(start + 1, stops[-1] + 1 if stops else 0):
        before = best[block - 1]
        ways = [best[first] for first in sorted(ending.get(block, ()))]
        if before.trail and before.trail[-1].stop == block - 1:
            last = LayerRange(before.trail[-1].start, block)
            grown = _Filled(before.missing + 1, before.pieces, (*before.trail[:-1], last))
        else:
            grown = _Filled(
                before.missing + 1, before.pieces + 1, (*before.trail, LayerRange(block - 1, block))
            )
        best[block] = min([*ways, grown])
    return {stop: best[stop] for stop in stops}


def missing_ranges(
    block_count: int, served: Iterable[LayerRange], blocks_max: int, *, keeps_tail: bool
) -> tuple[LayerRange, ...]:
    """Return what must be served besides for a path whose ends one machine holds itself.

    It holds the first blocks and, with `keeps_tail`, the last ones: at least one each, at most
    `blocks_max` together. Empty where nothing is missing, and where it can hold too few to begin
    with. Fewest blocks first, then few pieces, then few blocks of its own.
    """
    ranges = set(served)
    ends_min = 1 if keeps_tail else 0
    found: tuple[int, int, int, tuple[LayerRange, ...]] | None = None
    for first in range(1, min(blocks_max - ends_min, block_count - ends_min - 1) + 1):
        own = blocks_max - first
        lowest = max(first + 1, block_count - own) if keeps_tail else block_count
        for stop, way in fill(first, range(lowest, block_count - ends_min + 1), ranges).items():
            cost = (way.missing, way.pieces, first + block_count - stop, way.trail)
            if found is None or cost < found:
                found = cost
    return () if found is None else found[-1]


def serve_command(model: str, layers: LayerRange) -> str:
    """Return the command that serves a range."""
    return (
        f"kwaainet shard serve --model {shlex.quote(model)} "
        f"--start-block {layers.start} --blocks {len(layers)}"
    )


def explain_gaps(model: str, missing: Sequence[LayerRange]) -> str:
    """Say which layers no path has, and the commands that would fill them."""
    names = ", ".join(str(layers) for layers in missing)
    commands = " and ".join(serve_command(model, layers) for layers in missing)
    return (
        f"no online peer serves layers {names} of {model}; on machines that have them, run: "
        f"{commands}"
    )
