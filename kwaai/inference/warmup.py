"""A few passes through a slice that was just loaded: its graphs are built, and its speed is known.

Uses a session of its own, and gives it back.
"""

from __future__ import annotations

import time

import numpy as np

from kwaai.inference.batch import Data
from kwaai.inference.host import SliceHost

DECODE_PASSES = 24
PREFILL_ROWS = 32


async def warm_up(host: SliceHost, budget_s: float) -> None:
    """Compute for about `budget_s`; afterwards `host.stats` has both speeds.

    At least three passes, however slow the slice is. Raises WorkerLost, and Busy on a full slice.
    """
    session, until_s, position = object(), time.perf_counter() + budget_s, 0
    outputs = 1 if host.head else 0
    rows = min(PREFILL_ROWS, host.batch_tokens, max(1, host.context_tokens - DECODE_PASSES - 1))
    await host.open(session)
    try:
        await host.run(session, position, _input(host, 1), outputs)
        position += 1
        host.forget_measures()  # the first pass loads code and builds graphs
        await host.run(session, position, _input(host, rows), outputs)
        position += rows
        for count in range(DECODE_PASSES):
            if position >= host.context_tokens or (count and time.perf_counter() > until_s):
                break
            await host.run(session, position, _input(host, 1), outputs)
            position += 1
    finally:
        await host.close(session)


def _input(host: SliceHost, rows: int) -> Data:
    """Return something that goes in: tokens, or rows as wide as a residual is."""
    rng = np.random.default_rng(rows)
    if host.takes_tokens:
        return rng.integers(0, host.vocab, rows, dtype=np.int32)
    return rng.standard_normal((rows, host.embd), dtype=np.float32)
