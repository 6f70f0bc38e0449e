"""How much trust a set of principals can hold, whatever they say of one another: maximum flow.

An upper bound from the edges' shares alone, independent of the spread that it bounds. Does not know
names. The proof is in docs/trust.md, "The graph".
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from kwaai.trust.edge_index import EdgeIndex, Floats, Ints
from kwaai.trust.propagate import STOP

_UNITS: Final = 1 << 30
"""Of a whole: scipy's flows are 32-bit integers. Capacities are rounded up, so the bound holds."""
_RETURNS: Final = 1.0 / (1.0 - (1.0 - STOP) ** 2)
"""How often, at most, a walk that is at a principal is there: a return takes two steps."""


def flow_bound(
    index: EdgeIndex, shares: Floats, roots: Ints, root_count: int, region: Ints
) -> float:
    """Return the most mass that a region can hold: in [0, 1].

    A walk that ends in the region came into it. Without its loops it is a unit of flow, and takes
    an edge with a probability of at most share x returns.

    Args:
        index: the edges.
        shares: (edges,): of `edge_shares`.
        roots: places of the roots that have edges.
        root_count: of all roots.
        region: places of the region's principals; roots among them hold their own part as well.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import maximum_flow

    names = len(index.names)
    if not len(region) or not len(roots):
        return 0.0
    source, sink = names, names + 1
    place = np.arange(names)
    place[region] = sink
    by, of = place[index.by], place[index.of]
    chosen = (index.weights > 0.0) & (by != sink) & (by != of)
    heads = np.concatenate([by[chosen], np.full(len(roots), source)])
    tails = np.concatenate([of[chosen], place[roots]])
    carried = np.concatenate(
        [np.minimum(shares[chosen] * _RETURNS, 1.0), np.full(len(roots), 1.0 / root_count)]
    )
    units: npt.NDArray[np.int64] = np.ceil(carried * _UNITS).astype(np.int64)
    network = coo_array((units, (heads, tails)), shape=(names + 2, names + 2)).tocsr()
    network.data = np.minimum(network.data, _UNITS).astype(np.int32)
    return min(1.0, float(maximum_flow(network, source, sink).flow_value) / _UNITS)
