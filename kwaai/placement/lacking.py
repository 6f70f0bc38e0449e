"""Which range a node that wants to help takes: what a swarm lacks most."""

from __future__ import annotations

import math
from collections.abc import Sequence

from kwaai.errors import OutOfMemory
from kwaai.placement.coverage import copies_of_blocks, fill
from kwaai.placement.path_types import Candidate
from kwaai.types import LayerRange


def choose_range(block_count: int, served: Sequence[Candidate], blocks_max: int) -> LayerRange:
    """Return what `shard serve --auto` takes: what the swarm lacks most and this machine can hold.

    The largest gap first; then what has the fewest copies, of those what is slowest. Never the
    first and the last block: who asks holds these itself. Raises OutOfMemory where not even one
    block fits.
    """
    if blocks_max < 1:
        raise OutOfMemory("no layer of the model fits into the memory that is free here")
    start, stop = (1, block_count - 1) if block_count > 2 else (0, block_count)
    inside = [c for c in served if c.layers.start < stop and c.layers.stop > start]
    holes = fill(start, [stop], [c.layers for c in inside])[stop].trail
    if holes:
        hole = min(holes, key=lambda layers: (-len(layers), layers.start))
        return LayerRange(hole.start, min(hole.stop, hole.start + blocks_max))
    copies = copies_of_blocks(block_count, [c.layers for c in inside])
    fewest = min(copies[start:stop])
    fitting: dict[LayerRange, float] = {}
    for candidate in inside:
        layers = candidate.layers
        if layers.start < start or layers.stop > stop or len(layers) > blocks_max:
            continue
        if fewest in copies[layers.start : layers.stop]:
            speed = max(0.0, candidate.decode_s) / len(layers)
            fitting[layers] = min(speed, fitting.get(layers, math.inf))
    if fitting:
        # Few copies all over; then slow; then long.
        return min(
            fitting,
            key=lambda r: (sum(copies[r.start : r.stop]) / len(r), -fitting[r], -len(r), r.start),
        )
    rarest = next(block for block in range(start, stop) if copies[block] == fewest)
    return LayerRange(rarest, min(stop, rarest + blocks_max))
