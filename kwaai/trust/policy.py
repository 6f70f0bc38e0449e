"""By what this node scores: every number of the score, with its unit and its reason.

Values that are checked when they are made; the config gives those that an owner may change
(`trust_*` keys). docs/trust.md, "Policy".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, TypeAlias

from kwaai.errors import ConfigError
from kwaai.limits import TRUST_ISSUERS_MAX, TRUST_ROOTS_MAX, TRUST_WEIGHTS_MAX
from kwaai.trust.tiers import Tier

DAY_S: Final = 86_400.0

WEIGHTS: Final[Mapping[str, float]] = MappingProxyType(
    {
        "FiduciaryPledgeVC": 0.30,
        "VerifiedNodeVC": 0.20,
        "UptimeVC": 0.20,
        "ThroughputVC": 0.15,
        "EventAttendeeVC": 0.10,
        "PeerEndorsementVC": 0.05,
    }
)
"""What a fresh credential of a fully trusted issuer adds: KwaaiNet's weights. They add up to 1."""

Facets: TypeAlias = Mapping[str, float]

FACET_WEIGHTS: Final[Facets] = MappingProxyType(
    {"availability": 0.5, "correctness": 0.3, "throughput": 0.1, "latency": 0.1}
)
"""What each facet of behaviour is of the whole. KwaaiNet gives 0.5 to availability, 0.3 to accuracy
(which it measures as throughput against the claim) and 0.2 to latency."""


@dataclass(frozen=True, slots=True)
class TrustPolicy:
    """Everything that turns evidence into a score. All scores and points are in [0, 1]."""

    own: str = ""
    """This node's principal."""
    own_owner: str | None = None
    """Its owner's principal."""
    roots: frozenset[str] = frozenset()
    """Principals whom the owner trusts as itself: to issue, to endorse, and to serve. This node and
    its owner are roots without being listed."""
    issuers: Mapping[str, float] = field(default_factory=dict)
    """Listed issuers -> what a credential of theirs counts, relative to a root's. They endorse
    nobody: that is for roots."""
    weights: Mapping[str, float] = field(default_factory=lambda: WEIGHTS)
    """Credential type -> points. A type that is not listed counts zero."""
    half_life_s: float = 365 * DAY_S
    """Of a credential's and an endorsement's weight: KwaaiNet's. There is no standard one."""
    thresholds: tuple[float, float, float] = (0.10, 0.40, 0.70)
    """The scores from which a peer is Known, Verified, Trusted: KwaaiNet's."""
    derived_issuer_share: float = 0.5
    """Of its own score, what an issuer's credentials count that is neither root nor listed and is
    at least Verified itself."""
    derived_issuer_cap: float = 0.08
    """Points that all such issuers together can add: below Known, so nobody mints tiers."""
    behaviour_half_life_s: float = 30 * DAY_S
    """Of an observation: a month, for what a node does changes sooner than what it is."""
    behaviour_points: float = 0.25
    """What the best behaviour adds: Known by itself, and never Verified."""
    behaviour_prior: float = 10.0
    """Observations that the neutral prior weighs: after as many, half is known."""
    graph_points: float = 0.20
    """What the best place in the graph adds: Known by itself, and never Verified."""
    same_owner_score: float = 0.70
    """The least score, before penalties, of a root and of a node of this node's owner."""

    _trusts: Mapping[str, float] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._check_all()
        named = {**self.issuers, **dict.fromkeys(self.trusted, 1.0)}
        object.__setattr__(self, "_trusts", named)

    def _check_all(self) -> None:
        for name, values in (("trust_weights", self.weights), ("trust_issuers", self.issuers)):
            for key, value in values.items():
                _check(0.0 <= value <= 1.0, name, f"{key} is {value!r}, not a number from 0 to 1")
        _check(
            len(self.weights) <= TRUST_WEIGHTS_MAX,
            "trust_weights",
            f"it lists more than {TRUST_WEIGHTS_MAX} types",
        )
        _check(
            len(self.issuers) <= TRUST_ISSUERS_MAX,
            "trust_issuers",
            f"it lists more than {TRUST_ISSUERS_MAX} issuers",
        )
        _check(
            len(self.roots) <= TRUST_ROOTS_MAX,
            "trust_roots",
            f"it lists more than {TRUST_ROOTS_MAX} roots",
        )
        rising = len(self.thresholds) == 3 and (
            0.0 < self.thresholds[0] < self.thresholds[1] < self.thresholds[2] <= 1.0
        )
        _check(rising, "trust_thresholds", "they are three rising numbers above 0, at most 1")
        _check(
            0.0 <= self.derived_issuer_cap < self.thresholds[0],
            "trust_thresholds",
            f"the first is above {self.derived_issuer_cap}, which issuers that nobody listed can "
            "give: else they could make anybody Known",
        )
        for name in ("half_life_s", "behaviour_half_life_s"):
            value = getattr(self, name)
            named = "trust_half_life_days" if name == "half_life_s" else name
            _check(
                math.isfinite(value) and value >= DAY_S, named, f"it is {value!r}; a day at least"
            )
        _check(
            math.isfinite(self.behaviour_prior) and self.behaviour_prior >= 1.0,
            "behaviour_prior",
            f"it is {self.behaviour_prior!r}; one observation at least",
        )
        parts = ("derived_issuer_share", "behaviour_points", "graph_points", "same_owner_score")
        for name in parts:
            value = getattr(self, name)
            _check(0.0 <= value <= 1.0, name, f"it is {value!r}, not a number from 0 to 1")
        _check(
            self.behaviour_points + self.graph_points <= 0.9,
            "behaviour_points",
            "with graph_points it is at most 0.9: a score adds up exactly below 2",
        )

    @property
    def trusted(self) -> frozenset[str]:
        """The roots, with this node and its owner."""
        return self.roots | {name for name in (self.own, self.own_owner) if name}

    def issuer_trust(self, principal: str) -> float | None:
        """Return what the policy itself says of an issuer; None where it says nothing."""
        return self._trusts.get(principal)

    def tier(self, score: float) -> Tier:
        """Return the tier of a score."""
        return Tier(sum(score >= threshold for threshold in self.thresholds))

    def threshold(self, tier: Tier) -> float:
        """Return the least score of a tier."""
        return 0.0 if tier is Tier.UNKNOWN else self.thresholds[tier - 1]


def _check(holds: bool, key: str, message: str) -> None:
    if not holds:
        raise ConfigError(f"{key}: {message}", param=key)
