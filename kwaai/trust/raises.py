"""What would raise a score, in words that somebody can act on.

Looks at what a score lacks, most points first; promises nothing that this node decides by other
rules. Part of an explanation (`explain`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from kwaai.trust.decay import decay
from kwaai.trust.policy import DAY_S, TrustPolicy
from kwaai.trust.tally import FACETS
from kwaai.trust.words import with_article

if TYPE_CHECKING:
    from kwaai.trust.credential_score import CredentialScore
    from kwaai.trust.score import Parts, Standing

RAISES_MAX: Final = 8
POINTS_MIN: Final = 0.005
"""What is worth saying."""


def what_would_raise(
    standing: Standing, parts: Parts, policy: TrustPolicy, now_s: float
) -> tuple[str, ...]:
    """Return what would raise a score, what brings most first: at most RAISES_MAX."""
    if standing.peer == policy.own or standing.score > 1.0 - POINTS_MIN:
        return ()
    ways = [*_credentials(parts.credentials, policy, now_s), *_behaviour(parts, policy)]
    left = policy.graph_points * (1.0 - parts.graph_value)
    if left >= POINTS_MIN:
        text = (
            "endorsements (`kwaainet trust endorse`) by a trust root, or by several peers that "
            "roots endorse: nobody but a root vouches alone"
        )
        ways.append((left, text))
    lifted = max(0.0, parts.owner)  # a least score hides what would add less than it gives
    leaves = parts.conduct.penalty
    found = [(min(max(0.0, points - lifted) * leaves, 1.0), text) for points, text in ways]
    found += _penalty(standing, parts, policy)
    found = [(points, text) for points, text in found if points >= POINTS_MIN]
    found.sort(key=lambda way: (-way[0], way[1]))
    return tuple(f"up to +{points:.2f}: {text}" for points, text in found[:RAISES_MAX])


def _credentials(
    score: CredentialScore, policy: TrustPolicy, now_s: float
) -> Iterator[tuple[float, str]]:
    """What other, newer or better believed credentials would bring."""
    by_type: dict[str, float] = {}
    unknown: dict[tuple[str, str], float] = {}
    for finding in score.findings:
        at = finding.attestation
        by_type[at.type] = by_type.get(at.type, 0.0) + finding.points
        if finding.code == "issuer_unknown" or finding.is_derived:
            worth = policy.weights[at.type] * decay(now_s - at.valid_from_s, policy.half_life_s)
            key = at.type, at.issuer
            unknown[key] = max(unknown.get(key, 0.0), worth - finding.points)
    for (kind, issuer), points in unknown.items():
        yield (
            points,
            f"its {kind}, if you trust the issuer: `kwaainet trust roots add {issuer}`, or list it "
            "under trust_issuers",
        )
    for kind, weight in policy.weights.items():
        has = by_type.get(kind, 0.0)
        which = f"a newer {kind}" if has else with_article(kind)
        yield weight - has, f"{which} by a trust root or a listed issuer"


def _behaviour(parts: Parts, policy: TrustPolicy) -> Iterator[tuple[float, str]]:
    left = policy.behaviour_points - parts.conduct.points
    yield left, "more dealings that go well: answers served, spot checks that agree"


def _penalty(standing: Standing, parts: Parts, policy: TrustPolicy) -> Iterator[tuple[float, str]]:
    """What would come back if what speaks against it were forgotten."""
    conduct = parts.conduct
    if conduct.penalty >= 1.0:
        return
    worst = min(FACETS, key=lambda name: (conduct.factors[name], name))
    days = policy.behaviour_half_life_s / DAY_S
    yield (
        -parts.penalty,
        f"time: half of what speaks against its {worst} is forgotten every {days:g} days; "
        f"`kwaainet reputation reset {standing.peer}` forgets it now",
    )
