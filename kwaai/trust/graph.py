"""Who vouches for whom, and what that says of everybody, as seen from the roots.

Edges change one by one; the same edges give the same bits whatever order they came in, and one that
was removed was never there. Does not verify, decay or weigh endorsements: the caller has. How trust
spreads is in `kwaai.trust.propagate`, its formula and figures in docs/trust.md, "The graph".
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np

from kwaai import limits
from kwaai.errors import TrustGraphFull, UserError
from kwaai.trust import flow, propagate
from kwaai.trust.edge_index import EdgeIndex, Floats, Ints, Pair, build_index, merge_index
from kwaai.trust.graph_paths import best_products, find_paths

__all__ = ["Edge", "GraphTrust", "TrustGraph", "TrustPath"]

_REBUILD_SHARE: Final = 8
"""An eighth of all edges changed: building anew is faster than merging."""
_OPINION_PRIOR: Final = 0.1
"""Weight of what is expected of somebody whom nobody rated: a tenth of a root's word."""


@dataclass(frozen=True, slots=True)
class Edge:
    """One principal vouches for another, or warns of it."""

    by: str
    of: str
    weight: float
    """In [-1, 1], already decayed. Below 0 it warns: it takes from `of` what the same weight would
    have given, and goes no further."""


@dataclass(frozen=True, slots=True)
class TrustPath:
    """One way on which trust came from a root."""

    principals: tuple[str, ...]
    """From a root to the one whom it reached."""
    edges: tuple[Edge, ...]
    """One fewer."""
    share: float
    """Of all the mass that came to the last principal, in [0, 1]."""


class GraphTrust:
    """What the graph says of everybody. Does not change with the graph that it came from."""

    def __init__(self, index: EdgeIndex, roots: Collection[str], credit: Floats) -> None:
        self.roots: Final = tuple(sorted(set(roots)))
        """Where all walks begin, sorted."""
        self._index = index
        ids = index.ids
        self._begin: Ints = np.array([ids[r] for r in self.roots if r in ids], np.int64)
        self._spread = propagate.spread(index, self._begin, len(self.roots), credit)
        self._best: Floats | None = None

    def value(self, principal: str) -> float:
        """Return the graph's part of a score, in [0, 1].

        1 for a root, and for whom a root endorses fully; 0 for whom no path reaches, and for whom
        all paths end with endorsers that count as one: nobody but a root vouches alone.
        """
        if principal in self.roots:
            return 1.0
        return self._of(self._spread.values, principal)

    def mass(self, principal: str) -> float:
        """Return the share of the roots' trust that ends here: all masses add up to 1 at most."""
        return self._alone(principal) or self._of(self._spread.mass, principal)

    def borne(self, principal: str) -> float:
        """Return the part of the mass that stays without any one of its sources."""
        return self._alone(principal) or self._of(self._spread.borne, principal)

    def distrust(self, principal: str) -> float:
        """Return what warnings take from this principal's borne mass."""
        return self._of(self._spread.distrust, principal)

    def values(self) -> Mapping[str, float]:
        """Return the value of everybody who has one above 0, by principal, sorted."""
        names, values = self._index.names, self._spread.values
        some = np.flatnonzero(values).tolist()
        found = {names[place]: float(values[place]) for place in some}
        found.update(dict.fromkeys(self.roots, 1.0))
        return dict(sorted(found.items()))

    def opinion(self, principal: str, expected: float = 0.5) -> float:
        """Return how well those who have a value speak of somebody: in [0, 1], 1 is well.

        Each edge counts its weight times its endorser's value. Who has no value has no say.

        Args:
            principal: of whom.
            expected: the share of good words that an unknown one is expected to get.
        """
        place = self._index.ids.get(principal)
        good = bad = 0.0
        if place is not None:
            start, stop = np.searchsorted(self._index.of, (place, place + 1))
            said = self._spread.values[self._index.by[start:stop]] * self._index.weights[start:stop]
            good, bad = float(said[said > 0.0].sum()), float(-said[said < 0.0].sum())
        return (_OPINION_PRIOR * expected + good) / (_OPINION_PRIOR + good + bad)

    def top_paths(self, principal: str, count: int = 3) -> tuple[TrustPath, ...]:
        """Return the paths on which most trust came, most first; none for a root or a stranger."""
        place = self._index.ids.get(principal)
        if place is None or principal in self.roots or not self._spread.mass[place]:
            return ()
        shares = self._spread.shares
        if self._best is None:
            self._best = best_products(self._index, shares, self._begin)
        found = find_paths(self._index, shares, self._begin, self._best, place, count)
        came = float(self._spread.mass[place])
        whole = propagate.STOP / len(self.roots) / came
        return tuple(self._path(places, product * whole) for product, places in found)

    def flow_bound(self, region: Collection[str]) -> float:
        """Return the most mass that a set of principals can hold together, by max-flow.

        Whatever they say of one another: only the edges that lead to them count.
        """
        ids, index = self._index.ids, self._index
        places = np.array(sorted(ids[name] for name in set(region) if name in ids), np.int64)
        strays = sum(1 for name in set(region) & set(self.roots) if name not in ids)
        count = max(len(self.roots), 1)
        bound = flow.flow_bound(index, self._spread.shares, self._begin, count, places)
        return min(1.0, bound + strays / count)

    def _alone(self, principal: str) -> float:
        """What ends at a root that has no edges; 0 of anybody else."""
        is_alone = principal in self.roots and principal not in self._index.ids
        return propagate.STOP / len(self.roots) if is_alone else 0.0

    def _of(self, array: Floats, principal: str) -> float:
        place = self._index.ids.get(principal)
        return 0.0 if place is None else float(array[place])

    def _path(self, places: tuple[int, ...], share: float) -> TrustPath:
        names = tuple(self._index.names[place] for place in places)
        edges = tuple(self._edge(by, of) for by, of in pairwise(places))
        return TrustPath(names, edges, min(1.0, share))

    def _edge(self, by: int, of: int) -> Edge:
        index = self._index
        start, stop = np.searchsorted(index.of, (of, of + 1))
        at = start + np.searchsorted(index.by[start:stop], by)
        return Edge(index.names[by], index.names[of], float(index.weights[at]))


class TrustGraph:
    """Endorsements, and the index over them. Not thread-safe; one owner changes it.

    Edges from a principal to itself or to one with the same owner are kept and count for nothing.
    """

    def __init__(self, edges: Iterable[Edge] = (), owners: Mapping[str, str] | None = None) -> None:
        self._edges: dict[Pair, float] = {}
        self._owners: dict[str, str] = dict(owners or {})
        self._changed: dict[Pair, float] = {}
        self._index: EdgeIndex | None = None
        self.put_all(edges)

    def put(self, edge: Edge) -> None:
        """Add an edge, or replace the one between the same two; weight 0 removes it.

        Raises:
            UserError: the weight is not in [-1, 1].
            TrustGraphFull: there are TRUST_EDGES_MAX already.
        """
        weight = float(edge.weight)
        if not -1.0 <= weight <= 1.0:
            raise UserError(f"an endorsement's weight is -1 to 1, not {edge.weight}")
        pair = edge.by, edge.of
        if not weight:
            self.remove(*pair)
            return
        if pair not in self._edges and len(self._edges) >= limits.TRUST_EDGES_MAX:
            raise TrustGraphFull(
                f"the trust graph holds {limits.TRUST_EDGES_MAX} endorsements, as many as it may: "
                "leave out those that no root reaches, or the oldest"
            )
        self._edges[pair] = weight
        self._change(pair, weight)

    def put_all(self, edges: Iterable[Edge]) -> None:
        """Put many edges; the last of equal pairs counts. Raises as `put` does."""
        for edge in edges:
            self.put(edge)

    def remove(self, by: str, of: str) -> bool:
        """Take an edge away, as if it had never been there; False where there was none."""
        if self._edges.pop((by, of), None) is None:
            return False
        self._change((by, of), 0.0)
        return True

    def __len__(self) -> int:
        return len(self._edges)

    def edges(self) -> tuple[Edge, ...]:
        """Return all edges that were put, sorted by (by, of)."""
        return tuple(Edge(by, of, weight) for (by, of), weight in sorted(self._edges.items()))

    def propagate(
        self, roots: Iterable[str], credit: Mapping[str, float] | None = None
    ) -> GraphTrust:
        """Spread trust from the roots, each with an equal part; without roots nobody is trusted.

        Args:
            roots: where all walks begin.
            credit: what an endorser's word counts, in [0, 1]; 1 for whoever is not named. Unlike
                smaller weights on all its edges, it always takes: shares are relative once they
                are more than `propagate.BUDGET`.
        """
        index = self.index()
        words = np.ones(len(index.names))
        for name, counts in (credit or {}).items():
            if not 0.0 <= counts <= 1.0:
                raise UserError(f"an endorser's credit is 0 to 1, not {counts}")
            if (place := index.ids.get(name)) is not None:
                words[place] = counts
        return GraphTrust(index, frozenset(roots), words)

    def index(self) -> EdgeIndex:
        """Return the edges that count, as arrays. Costs what changed since the last call."""
        if self._index is None or len(self._changed) * _REBUILD_SHARE > len(self._edges):
            counted = {pair: self._counted(pair, self._edges[pair]) for pair in self._edges}
            self._index = build_index(counted, self._owners)
        elif self._changed:
            self._index = merge_index(self._index, self._changed, self._owners)
        self._changed.clear()
        return self._index

    def _change(self, pair: Pair, weight: float) -> None:
        if self._index is not None:  # else it is built from all edges
            self._changed[pair] = self._counted(pair, weight)

    def _counted(self, pair: Pair, weight: float) -> float:
        by, of = pair
        owned_alike = self._owners.get(by, by) == self._owners.get(of, of)
        return 0.0 if owned_alike else weight
