"""How a peer behaved towards this node: a Beta reputation per facet, and what it does to a score.

Counts no observations (`tally`) and knows no credentials. Good behaviour adds a few points, bad
behaviour multiplies everything: what others attest does not pay for what this node saw.
docs/trust.md, "Behaviour"; Josang and Ismail, The Beta Reputation System (2002).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from kwaai.trust.policy import FACET_WEIGHTS, TrustPolicy
from kwaai.trust.tally import FACETS, Facet, Tally

PENALTY_PRIOR: Final = 8.0
"""Good observations that everybody is credited with, so that a single bad one costs little."""
AGREEMENTS_MAX: Final = 30.0
"""Agreements that count against wrong answers: beyond them, a share of lies stays expensive."""
INTEGRITY_POWER: Final = 2.0
"""Wrong answers are worse than none: their factor is squared."""
PENALTY_FLOORS: Final[Mapping[str, float]] = MappingProxyType(
    {"availability": 0.25, "correctness": 0.01, "throughput": 0.5, "latency": 0.5}
)
"""The most that a facet takes. A quarter of Verified is Known: whoever is away loses a tier, not
all; whoever is slow loses half."""
FAILURE_PRIOR: Final = 0.05
"""The probability that an unseen peer fails an answer; it weighs PENALTY_PRIOR observations."""

NEUTRAL: Final = 0.5


@dataclass(frozen=True, slots=True)
class Conduct:
    """What a peer's behaviour amounts to. An unseen peer has the neutral one."""

    observations: float
    """Decayed."""
    facets: Mapping[str, Facet]
    means: Mapping[str, float]
    """The expectation of each facet's Beta distribution: 0.5 without evidence."""
    factors: Mapping[str, float]
    """What each facet leaves of a score, in (0, 1]."""
    penalty: float
    """What is left of a score after what this node saw, in (0, 1]: the product of the factors."""
    points: float
    """What good behaviour adds to the score."""
    point_parts: Mapping[str, float]
    """What each facet gives to `points` or takes from them; below 0 together, they give nothing."""
    failure: float
    """The probability that it fails an answer."""

    @property
    def value(self) -> float:
        """The reputation, in (0, 1): the weighted mean of the facets; 0.5 is neutral."""
        return math.fsum(FACET_WEIGHTS[name] * self.means[name] for name in FACETS)

    @property
    def integrity(self) -> float:
        """The factor of wrong answers alone, in (0, 1]: 1 where nothing speaks against it."""
        return self.factors["correctness"]

    def confidence(self, policy: TrustPolicy) -> float:
        """Return how much the observations weigh against the prior, in [0, 1)."""
        return self.observations / (self.observations + policy.behaviour_prior)


UNSEEN: Final = Conduct(
    observations=0.0,
    facets=MappingProxyType(dict.fromkeys(FACETS, Facet(0.0, 0.0))),
    means=MappingProxyType(dict.fromkeys(FACETS, NEUTRAL)),
    factors=MappingProxyType(dict.fromkeys(FACETS, 1.0)),
    penalty=1.0,
    points=0.0,
    point_parts=MappingProxyType(dict.fromkeys(FACETS, 0.0)),
    failure=FAILURE_PRIOR,
)


def judge(tally: Tally | None, policy: TrustPolicy, now_s: float) -> Conduct:
    """Return what a peer's observations amount to now.

    Raises ValueError for a tally that was counted with another half-life than the policy's.
    """
    if tally is None:
        return UNSEEN
    if tally.half_life_s != policy.behaviour_half_life_s:
        raise ValueError(
            f"counted with a half-life of {tally.half_life_s} s, the policy has "
            f"{policy.behaviour_half_life_s} s: count the observations anew"
        )
    observations, facets = tally.at(now_s)
    prior, most = policy.behaviour_prior, policy.behaviour_points
    means, parts, factors = {}, {}, {}
    for name, (good, bad) in facets.items():
        total = good + bad + prior
        means[name] = (good + NEUTRAL * prior) / total
        parts[name] = most * FACET_WEIGHTS[name] * ((good - bad) / total)
        factors[name] = _factor(name, good, bad) if bad else 1.0
    points = max(0.0, math.fsum(parts.values()))
    served = facets["availability"]
    tried = served.good + served.bad + PENALTY_PRIOR
    failure = (served.bad + FAILURE_PRIOR * PENALTY_PRIOR) / tried
    penalty = math.prod(factors.values())
    return Conduct(observations, facets, means, factors, penalty, points, parts, failure)


def _factor(name: str, good: float, bad: float) -> float:
    """Return what a facet leaves of a score: (good + prior) / (good + prior + bad), or its floor.

    One observation more takes at most half: with the heaviest, 3 for a wrong answer, the square of
    (8 + 0) / (8 + 3).
    """
    if name == "correctness":
        good = min(good, AGREEMENTS_MAX)
    left = (good + PENALTY_PRIOR) / (good + PENALTY_PRIOR + bad)
    if name == "correctness":
        left **= INTEGRITY_POWER
    return max(PENALTY_FLOORS[name], left)
