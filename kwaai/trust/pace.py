"""How much slower a peer was than it promised, so that what it promises next is not taken as it is.

`kwaai.node.claims` doubts claims for minutes, by whole paths; this is what observations say for
weeks, hop by hop. Pure; changes no score. docs/trust.md, "Simulation".
"""

from __future__ import annotations

from typing import Final

from kwaai.trust.behaviour import Conduct

PACE_PRIOR: Final = 2.0
"""Answers at the promised speed that everybody is credited with."""


def pace(conduct: Conduct) -> float:
    """Return how many times as long as promised a peer takes for a token, 1 or more.

    1 where nothing was measured, and within the slack that the throughput facet gives.
    """
    facet = conduct.facets["throughput"]
    return (facet.good + facet.bad + PACE_PRIOR) / (facet.good + PACE_PRIOR)
