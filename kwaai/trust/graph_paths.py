"""The paths on which most trust came from the roots to one principal.

Searches backwards from the principal, best first, with the best that any root can still add as the
bound, so the first paths found are the greatest. Does not know names or weights, only shares.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from kwaai import limits
from kwaai.trust.edge_index import EdgeIndex, Floats, Ints
from kwaai.trust.propagate import STEPS

PlacePath: TypeAlias = tuple[float, tuple[int, ...]]
"""The product of the shares, and places from a root to the principal."""


def best_products(index: EdgeIndex, shares: Floats, roots: Ints) -> Floats:
    """Return the greatest product of shares on any path from a root of at most STEPS: (names,)."""
    best = np.zeros(len(index.names))
    best[roots] = 1.0
    chosen = index.weights > 0.0
    by, of, shares = index.by[chosen], index.of[chosen], shares[chosen]
    if not len(of):
        return best
    starts = np.flatnonzero(np.diff(of, prepend=-1))
    ends = of[starts]
    for _ in range(STEPS):
        found = np.maximum.reduceat(best[by] * shares, starts)
        better = found > best[ends]
        if not better.any():
            break
        best[ends[better]] = found[better]
    return best


def find_paths(
    index: EdgeIndex, shares: Floats, roots: Ints, best: Floats, target: int, count: int
) -> tuple[PlacePath, ...]:
    """Return the greatest paths from roots to `target` without loops, greatest first.

    Gives up after TRUST_PATH_LOOKS: then there are fewer than `count`, still the greatest ones.
    """
    is_root = set(roots.tolist())
    waiting: list[tuple[float, tuple[int, ...], float]] = [(-float(best[target]), (target,), 1.0)]
    found: list[PlacePath] = []
    looks = 0
    before = _endorsers(index, shares, best)
    while waiting and len(found) < count and looks < limits.TRUST_PATH_LOOKS:
        _, path, product = heapq.heappop(waiting)
        looks += 1
        if path[0] in is_root:
            found.append((product, path))
            continue  # what leads on from there is part of the root's own beginning
        if len(path) > STEPS:
            continue
        for endorser, share in before(path[0]):
            if endorser not in path:
                longer = product * share
                bound = longer * float(best[endorser])
                _push(waiting, (-bound, (endorser, *path), longer))
    return tuple(found)


def _endorsers(
    index: EdgeIndex, shares: Floats, best: Floats
) -> Callable[[int], list[tuple[int, float]]]:
    def before(place: int) -> list[tuple[int, float]]:
        start, stop = np.searchsorted(index.of, (place, place + 1))
        part = np.arange(start, stop)
        part = part[(index.weights[part] > 0.0) & (best[index.by[part]] > 0.0)]
        promise = shares[part] * best[index.by[part]]
        if len(part) > limits.TRUST_PATH_WIDTH:
            part = part[np.argsort(-promise, kind="stable")[: limits.TRUST_PATH_WIDTH]]
        return list(zip(index.by[part].tolist(), shares[part].tolist(), strict=True))

    return before


def _push(
    waiting: list[tuple[float, tuple[int, ...], float]], item: tuple[float, tuple[int, ...], float]
) -> None:
    """Keep the heap bounded: past the bound the least promising half is forgotten."""
    heapq.heappush(waiting, item)
    if len(waiting) > limits.TRUST_PATHS_WAITING:
        waiting[:] = heapq.nsmallest(limits.TRUST_PATHS_WAITING // 2, waiting)
