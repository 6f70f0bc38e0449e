"""Two rankings into one, by reciprocal rank: pure.

RRF (Cormack, Clarke and Buettcher, SIGIR 2009): a row's score is the sum of weight / (k + rank)
over the rankings that have it. Scores of the rankings themselves are not compared: a cosine and a
BM25 have no common scale. docs/vpk.md, "Search".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

RANK_CONSTANT = 60
"""k: of the paper; how much less the first places count than their distance suggests."""


class Ranked(NamedTuple):
    """A row of a ranking."""

    row: int
    score: float
    """Of that ranking: higher is better."""


@dataclass(frozen=True, slots=True)
class Fused:
    """A row as both rankings see it. Ranks count from 1; None: that ranking does not have it."""

    row: int
    score: float
    vector_rank: int | None = None
    vector_score: float | None = None
    text_rank: int | None = None
    text_score: float | None = None


def fuse(
    vectors: Sequence[Ranked],
    texts: Sequence[Ranked],
    *,
    count: int | None = None,
    vector_weight: float = 1.0,
    text_weight: float = 1.0,
) -> list[Fused]:
    """Merge two rankings, each best first, into the `count` best of both (None: all). Equal scores:
    by row.
    """
    scores: dict[int, float] = {}
    for ranking, weight in ((vectors, vector_weight), (texts, text_weight)):
        for place, (row, _) in enumerate(ranking, RANK_CONSTANT + 1):
            scores[row] = scores.get(row, 0.0) + weight / place
    in_order = sorted((-score, row) for row, score in scores.items())[:count]
    best = [row for _, row in in_order]
    wanted = set(best)
    by_vector = {row: (n, score) for n, (row, score) in enumerate(vectors, 1) if row in wanted}
    by_text = {row: (n, score) for n, (row, score) in enumerate(texts, 1) if row in wanted}
    nowhere = (None, None)
    return [
        Fused(row, scores[row], *by_vector.get(row, nowhere), *by_text.get(row, nowhere))
        for row in best
    ]
