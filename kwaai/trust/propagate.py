"""Trust spread over endorsements from the roots: seeded EigenTrust as a short walk, counted only as
far as two independent endorsers bear it out.

A walk begins at a root. At each principal it ends with STOP; else it takes one endorsement, each
with the share weight / max(BUDGET, all weights that the endorser gives), and ends unheard with what
is left of the share; after STEPS it ends anyway. *Mass* is the probability that it ends at a
principal. The same walk is taken once for each group of endorsers with this group's endorsements
left out; what remains in the worst case is *borne* mass, and only that makes a value: nobody but a
root vouches alone. Distrust goes one step: it takes as much from its target as the same weight
would have given it, in proportion to the warner's own borne mass.

Does not know names, and keeps nothing. docs/trust.md, "The graph", has the formula, where it comes
from (Kamvar 2003, Cao 2012), why an added endorsement never lowers its target, and figures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from kwaai.trust.edge_index import GROUPS, EdgeIndex, Floats, Ints

STOP: Final = 0.5
"""Probability that a walk ends where it is. At a half, a detour back to a principal weighs at most
half of being there: the proof that more endorsement never lowers rests on it."""
STEPS: Final = 8
"""Endorsements in one walk: SybilRank's early end. What lies further has under 2^-8 of all."""
BUDGET: Final = 8.0
"""Endorsements of full weight that an endorser gives before they thin one another. Below it, one
edge carries at most its weight / BUDGET: who endorses one peer only cannot give it everything."""
DECADES: Final = 4.0
"""A value falls from 1 to 0 over that many powers of ten of mass."""
_SPLITS: Final = (3, 4)
"""Endorsers are split in two ways, by their group modulo these: two endorsers fall into different
parts in at least one of the ways with 11 of 12. Their product is GROUPS."""
_COLUMNS: Final = 1 + sum(_SPLITS)


@dataclass(frozen=True, slots=True, eq=False)
class Spread:
    """What a walk from the roots leaves at each principal. (names,) each, but `shares`."""

    mass: Floats
    """All that ends here, in [0, 1]."""
    borne: Floats
    """What is left of it whichever one part of the endorsers is left out."""
    distrust: Floats
    """What warnings take from `borne`: of each warner's own `borne` the share of the warning."""
    values: Floats
    """In [0, 1], of `borne` less `distrust`: 1 is what a root gives one of eight whom it endorses
    fully."""
    shares: Floats
    """(edges,): the probability that a walk at the endorser goes on by this edge."""


def reference_mass(roots: int) -> float:
    """Return the mass of one to whom one of so many roots gives its full weight: value 1."""
    return STOP * (1.0 - STOP) / (BUDGET * max(roots, 1))


def edge_shares(index: EdgeIndex, credit: Floats) -> Floats:
    """Return the share of a walk at each edge's endorser that goes on by it: (edges,).

    Args:
        index: the edges.
        credit: (names,): what each endorser's word counts, in [0, 1].
    """
    size = np.abs(index.weights)
    given = np.bincount(index.by, size, len(index.names))
    scale = (1.0 - STOP) * credit / np.maximum(given, BUDGET)
    shares: Floats = size * scale[index.by]
    return shares


def spread(index: EdgeIndex, roots: Ints, root_count: int, credit: Floats) -> Spread:
    """Spread trust from the roots.

    Args:
        index: the edges.
        roots: places of the roots that have edges.
        root_count: of all roots; each begins an equal part of the walks.
        credit: (names,): what each endorser's word counts, in [0, 1].
    """
    from scipy.sparse import csr_array  # 0.2 s to import: who only names a path does not wait

    names = len(index.names)
    shares = edge_shares(index, credit)
    for_ = index.weights > 0.0
    matrix = csr_array(_rows(index, shares, for_), shape=(names, names))
    heard = _heard(index, roots)
    begin = 1.0 / max(root_count, 1)
    walks = np.zeros((names, _COLUMNS))
    walks[roots] = begin
    for _ in range(STEPS):
        after = matrix @ (walks * heard)
        after[roots] += begin
        walks = after
    borne, distrust = _borne(walks) * STOP, np.zeros(names)
    if not for_.all():
        warnings = csr_array(_rows(index, shares, ~for_), shape=(names, names))
        distrust = warnings @ borne
    values = _values(np.maximum(borne - distrust, 0.0), root_count)
    values[roots] = 1.0
    return Spread(walks[:, 0] * STOP, borne, distrust, values, shares)


def _rows(
    index: EdgeIndex, shares: Floats, chosen: npt.NDArray[np.bool_]
) -> tuple[Floats, npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Edges as rows by whom they endorse: scipy's (data, indices, indptr)."""
    by, of = index.by, index.of
    if not chosen.all():
        by, of, shares = by[chosen], of[chosen], shares[chosen]
    ends = np.zeros(len(index.names) + 1, np.int32)
    np.cumsum(np.bincount(of, minlength=len(index.names)), out=ends[1:])
    return shares, by.astype(np.int32), ends


def _heard(index: EdgeIndex, roots: Ints) -> Floats:
    """(names, columns): 0 where a column leaves the endorser's part out. Roots are always heard."""
    table = np.ones((GROUPS, _COLUMNS))
    for group in range(GROUPS):
        column = 1
        for parts in _SPLITS:
            table[group, column + group % parts] = 0.0
            column += parts
    heard: Floats = table[index.groups]
    heard[roots] = 1.0
    return heard


def _borne(walks: Floats) -> Floats:
    """(names,): the least of each split's columns, whichever split is kinder."""
    column, borne = 1, np.zeros(len(walks))
    for parts in _SPLITS:
        worst = walks[:, column].copy()
        for other in range(column + 1, column + parts):  # faster than min(axis=1) of few columns
            np.minimum(worst, walks[:, other], out=worst)
        np.maximum(borne, worst, out=borne)
        column += parts
    return borne


def _values(borne: Floats, root_count: int) -> Floats:
    values = np.zeros(len(borne))
    some = borne > 0.0
    decades = np.log10(borne[some] / reference_mass(root_count))
    values[some] = np.clip(1.0 + decades / DECADES, 0.0, 1.0)
    return values
