"""What reads tell a host: of the records fetched together, how many are truly near one another.

A host cannot open a record, but sees which are read for one query. This measures, with bob's own
vectors, how right a host is that takes records read together for similar ones. Nothing here runs
at a host. docs/vpk.md, "What is not protected".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from kwaai.limits import LEAKAGE_FETCHES_MAX, LEAKAGE_RANDOM_PAIRS

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SIMILAR: Final = 0.999
"""Two records are similar when they are nearer than this share of random pairs."""


@dataclass(frozen=True, slots=True)
class HostView:
    """What one host could conclude."""

    host: str
    pairs: int
    """Different pairs of records that it saw read together."""
    similar_share: float
    """Of them, that are similar: random pairs are 0.001 of the time."""
    pairs_twice: int
    """Seen together for two queries or more."""
    similar_share_twice: float


@dataclass(frozen=True, slots=True)
class Leakage:
    """What all hosts saw of some queries."""

    queries: int
    records: int
    """Different ones that were read."""
    hosts: tuple[HostView, ...]
    """The one that saw most pairs first."""


def measure_leakage(
    queries: Sequence[Mapping[str, Sequence[int]]], vectors: NDArray[np.float32]
) -> Leakage:
    """Return what hosts saw. `queries`: for each, the rows of `vectors` (n, dimension, of length 1)
    that each host was asked for; the first LEAKAGE_FETCHES_MAX of a host count.
    """
    threshold = _threshold(vectors)
    seen: dict[str, Counter[int]] = {}
    count = len(vectors)
    for query in queries:
        for host, rows in query.items():
            held = np.unique(np.asarray(rows[:LEAKAGE_FETCHES_MAX], np.int64))
            first, second = np.triu_indices(len(held), 1)
            seen.setdefault(host, Counter()).update((held[first] * count + held[second]).tolist())
    views = [_view(host, pairs, vectors, threshold) for host, pairs in seen.items()]
    views.sort(key=lambda view: (-view.pairs, view.host))
    read = {row for query in queries for rows in query.values() for row in rows}
    return Leakage(len(queries), len(read), tuple(views))


def _threshold(vectors: NDArray[np.float32]) -> float:
    """Return the cosine that one of a thousand random pairs exceeds."""
    rng = np.random.default_rng(1)
    first, second = rng.integers(0, len(vectors), (2, LEAKAGE_RANDOM_PAIRS))
    apart = first != second
    cosines = _cosines(vectors, first[apart], second[apart])
    return float(np.quantile(cosines, _SIMILAR)) if len(cosines) else 1.0


def _cosines(
    vectors: NDArray[np.float32], first: NDArray[np.int64], second: NDArray[np.int64]
) -> NDArray[np.float32]:
    parts = [
        np.einsum("ij,ij->i", vectors[first[at : at + 65536]], vectors[second[at : at + 65536]])
        for at in range(0, len(first), 65536)
    ]
    return np.concatenate(parts) if parts else np.empty(0, np.float32)


def _view(
    host: str, pairs: Counter[int], vectors: NDArray[np.float32], threshold: float
) -> HostView:
    keys = np.fromiter(pairs.keys(), np.int64, len(pairs))
    times = np.fromiter(pairs.values(), np.int64, len(pairs))
    first, second = np.divmod(keys, len(vectors))
    similar = _cosines(vectors, first, second) > threshold
    twice = times > 1
    return HostView(
        host,
        len(keys),
        float(similar.mean()) if len(keys) else 0.0,
        int(twice.sum()),
        float(similar[twice].mean()) if twice.any() else 0.0,
    )
