"""Edges as sorted arrays, and how a few changed edges are merged into them.

The order is canonical: names sorted, edges by (of, by). So two indexes with the same edges are
equal to the bit, however they came about. Does not know owners, roots or what a weight means.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

Ints: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]
Pair: TypeAlias = tuple[str, str]

GROUPS: Final = 12
"""Endorsers fall into that many groups by a hash of their owner: see `propagate`."""


@dataclass(frozen=True, slots=True, eq=False)
class EdgeIndex:
    """Who has edges, and the edges, sorted by (of, by). Nobody writes into the arrays."""

    names: tuple[str, ...]
    """Sorted; only who has an edge."""
    ids: Mapping[str, int]
    """Name -> place in `names`."""
    groups: Ints
    """(names,): in [0, GROUPS)."""
    by: Ints
    """(edges,): place of the endorser."""
    of: Ints
    """(edges,): place of whom it endorses."""
    weights: Floats
    """(edges,): not 0."""


def group_of(owner: str) -> int:
    """Return the group of an owner's principals, in [0, GROUPS)."""
    return int.from_bytes(hashlib.sha256(owner.encode()).digest()[:8], "big") % GROUPS


def build_index(edges: Mapping[Pair, float], owners: Mapping[str, str]) -> EdgeIndex:
    """Return the index of edges (by, of) -> weight; weights of 0 are left out.

    Args:
        edges: what to index.
        owners: name -> owner; whoever is not named owns itself.
    """
    pairs = [pair for pair, weight in edges.items() if weight]
    names = tuple(sorted({name for pair in pairs for name in pair}))
    ids = {name: place for place, name in enumerate(names)}
    by = np.fromiter((ids[pair[0]] for pair in pairs), np.int64, len(pairs))
    of = np.fromiter((ids[pair[1]] for pair in pairs), np.int64, len(pairs))
    weights = np.fromiter((edges[pair] for pair in pairs), np.float64, len(pairs))
    order = np.argsort(of * len(names) + by)
    return EdgeIndex(names, ids, _groups(names, owners), by[order], of[order], weights[order])


def merge_index(
    index: EdgeIndex, changes: Mapping[Pair, float], owners: Mapping[str, str]
) -> EdgeIndex:
    """Return the index with some edges added, replaced or (weight 0) removed.

    Equal to the bit to `build_index` of all edges. Costs a pass over the arrays, not over names,
    unless a change brings or removes one.
    """
    if not changes:
        return index
    index = _with_names(index, changes, owners)
    ids, count = index.ids, len(index.names)
    known = sorted(
        (ids[of] * count + ids[by], weight)
        for (by, of), weight in changes.items()
        if by in ids and of in ids
    )
    keys = np.array([key for key, _ in known], np.int64)
    values = np.array([weight for _, weight in known], np.float64)
    present = index.of * count + index.by
    at = np.searchsorted(present, keys)
    found = np.zeros(len(keys), bool)
    inside = at < len(present)
    found[inside] = present[at[inside]] == keys[inside]
    weights = index.weights.copy()
    weights[at[found]] = values[found]
    new = ~found & (values != 0.0)
    by = np.insert(index.by, at[new], keys[new] % max(count, 1))
    of = np.insert(index.of, at[new], keys[new] // max(count, 1))
    weights = np.insert(weights, at[new], values[new])
    kept = weights != 0.0
    if not kept.all():
        by, of, weights = by[kept], of[kept], weights[kept]
    return _without_strays(EdgeIndex(index.names, ids, index.groups, by, of, weights))


def _with_names(
    index: EdgeIndex, changes: Mapping[Pair, float], owners: Mapping[str, str]
) -> EdgeIndex:
    wanted = {name for pair, weight in changes.items() if weight for name in pair}
    new = sorted(name for name in wanted if name not in index.ids)
    if not new:
        return index
    places = np.array([bisect_left(index.names, name) for name in new], np.int64)
    old = np.arange(len(index.names))
    moved = old + np.searchsorted(places, old, side="right")
    names = tuple(sorted((*index.names, *new)))
    ids = {name: place for place, name in enumerate(names)}
    groups = np.insert(index.groups, places, _groups(tuple(new), owners))
    return EdgeIndex(names, ids, groups, moved[index.by], moved[index.of], index.weights)


def _without_strays(index: EdgeIndex) -> EdgeIndex:
    """Drop the names that have no edge left."""
    used = np.zeros(len(index.names), bool)
    used[index.by] = True
    used[index.of] = True
    if used.all():
        return index
    names = tuple(index.names[place] for place in np.flatnonzero(used).tolist())
    ids = {name: place for place, name in enumerate(names)}
    moved = np.cumsum(used) - 1
    by, of = moved[index.by], moved[index.of]
    return EdgeIndex(names, ids, index.groups[used], by, of, index.weights)


def _groups(names: tuple[str, ...], owners: Mapping[str, str]) -> Ints:
    found = (group_of(owners.get(name, name)) for name in names)
    return np.fromiter(found, np.int64, len(names))
