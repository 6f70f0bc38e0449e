"""Which positions of a prompt need not be computed again, so that the same numbers come out.

llama.cpp computes attention in another way, with other rounding, where a pass has fewer than
PASS_ROWS rows; all else of a row does not depend on who shares its pass. So a position is as good
as new where the pass that made it was on the same side of that bound as its pass in one reading of
the whole prompt would have been. Pure; docs/circuits.md, "The same answer".
"""

from __future__ import annotations

from typing import Final

PASS_ROWS: Final = 64
"""Rows of a pass from which llama.cpp's CPU attention goes through tiles."""


def keepable(tokens: int, size: int) -> int:
    """Return how many of the positions of a prompt are worth keeping that was read in pieces of
    `size`: all, or all but a short last piece. None of them, or all, are of passes of PASS_ROWS.
    """
    tail = tokens % size
    return tokens - tail if tokens > size and tail < PASS_ROWS else tokens


def usable(kept: int, tokens: int, size: int) -> int:
    """Return how many of `kept` positions (of `keepable`) a prompt of `tokens` need not compute
    again, when it is read in pieces of `size`. At least one token is left to be read.
    """
    if kept < PASS_ROWS:
        return min(kept, tokens - 1) if tokens < PASS_ROWS else 0
    at = min(kept, tokens - 1)
    start = at - at % size
    stop = min(start + size, tokens)
    return start if stop - start < PASS_ROWS else min(at, max(start, stop - PASS_ROWS))


def spoils(kept: int, tokens: int) -> bool:
    """Say whether reading a prompt of `tokens` computes kept positions anew in a pass of another
    kind, so that they are to be read again before the next prompt.
    """
    return 0 < kept < PASS_ROWS <= tokens


def shared(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    """Return the tokens that two prompts begin with."""
    for number, (mine, theirs) in enumerate(zip(one, other, strict=False)):
        if mine != theirs:
            return one[:number]
    return one[: len(other)]
