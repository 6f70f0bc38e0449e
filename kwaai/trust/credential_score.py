"""What a peer's credentials add to its score, and why each of them counts what it counts.

Verifies nothing: attestations are of credentials that held. What counts is who issued them.
docs/trust.md, "Credentials". Pure arithmetic over one subject; `score` does it for everybody.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, TypeAlias

from credentials.limits import CLOCK_SKEW_S
from kwaai.trust.decay import decay
from kwaai.trust.evidence import Attestation
from kwaai.trust.policy import TrustPolicy

Code: TypeAlias = Literal[
    "counts",
    "type_not_weighted",
    "not_yet_valid",
    "expired",
    "self_issued",
    "issuer_unknown",
    "superseded",
]

REASONS: Final[Mapping[Code, str]] = {
    "counts": "it counts",
    "type_not_weighted": "the policy gives its type no weight",
    "not_yet_valid": "it is not valid yet",
    "expired": "it has expired",
    "self_issued": "its issuer is the subject, or has the same owner",
    "issuer_unknown": "its issuer is no root, is not listed, and is not Verified itself",
    "superseded": "a newer one of this type and issuer counts",
}


class Finding(NamedTuple):
    """What one credential counts."""

    attestation: Attestation
    code: Code
    points: float = 0.0
    """Before caps: weight x 2^(-age / half-life) x trust in the issuer."""
    issuer_trust: float = 0.0
    is_derived: bool = False
    """The trust in the issuer follows from the issuer's own score."""


@dataclass(frozen=True, slots=True)
class CredentialScore:
    """What all credentials of one subject count."""

    findings: tuple[Finding, ...] = ()
    """In canonical order: by type, issuer, then the newest first."""
    direct: float = 0.0
    """Points by roots and listed issuers."""
    derived_cut: float = 0.0
    """What the cap on other issuers takes: 0 or below."""
    cut: float = 0.0
    """What the cap at 1 takes: 0 or below."""
    points: float = 0.0


NO_CREDENTIALS: Final = CredentialScore()


def score_credentials(
    attestations: Iterable[Attestation],
    policy: TrustPolicy,
    owners: Mapping[str, str],
    derived_trust: Mapping[str, float],
    now_s: float,
) -> CredentialScore:
    """Return what the credentials of one subject count.

    `derived_trust`: issuers that the policy does not name -> what theirs count, before the cap.
    """
    found = [
        _examine(attestation, policy, owners, derived_trust, now_s)
        for attestation in sorted(attestations, key=_order)
    ]
    # Once per type and issuer; issuers with one owner are one. The best, not the first.
    best: dict[tuple[str, str], int] = {}
    for place, finding in enumerate(found):
        if finding.code == "counts":
            attestation = finding.attestation
            key = attestation.type, owners.get(attestation.issuer, attestation.issuer)
            other = best.setdefault(key, place)
            if other != place:
                worse = other if finding.points > found[other].points else place
                best[key] = other + place - worse
                found[worse] = Finding(found[worse].attestation, "superseded")
    counted = [found[place] for place in best.values()]
    direct = math.fsum(finding.points for finding in counted if not finding.is_derived)
    derived = math.fsum(finding.points for finding in counted if finding.is_derived)
    derived_cut = min(0.0, policy.derived_issuer_cap - derived)
    cut = min(0.0, 1.0 - math.fsum((direct, derived, derived_cut)))
    points = math.fsum([*(finding.points for finding in counted), derived_cut, cut])
    return CredentialScore(tuple(found), direct, derived_cut, cut, points)


def has_same_controller(one: str, other: str, owners: Mapping[str, str]) -> bool:
    """Answer whether two principals are one, have one owner, or one owns the other."""
    if one == other or not owners:
        return one == other
    return owners.get(one, one) == owners.get(other, other)


def _order(attestation: Attestation) -> tuple[str, str, float, str, float]:
    until_s = math.inf if attestation.valid_until_s is None else attestation.valid_until_s
    return (
        attestation.type,
        attestation.issuer,
        -attestation.valid_from_s,
        attestation.id,
        until_s,
    )


def _examine(
    attestation: Attestation,
    policy: TrustPolicy,
    owners: Mapping[str, str],
    derived_trust: Mapping[str, float],
    now_s: float,
) -> Finding:
    weight = policy.weights.get(attestation.type, 0.0)
    until_s = attestation.valid_until_s
    if not weight:
        return Finding(attestation, "type_not_weighted")
    if attestation.valid_from_s > now_s + CLOCK_SKEW_S:
        return Finding(attestation, "not_yet_valid")
    if until_s is not None and now_s - CLOCK_SKEW_S >= until_s:
        return Finding(attestation, "expired")
    if has_same_controller(attestation.issuer, attestation.subject, owners):
        return Finding(attestation, "self_issued")
    trust = policy.issuer_trust(attestation.issuer)
    is_derived = trust is None
    if trust is None:
        trust = derived_trust.get(attestation.issuer, 0.0)
    if not trust:
        return Finding(attestation, "issuer_unknown")
    points = weight * decay(now_s - attestation.valid_from_s, policy.half_life_s) * trust
    return Finding(attestation, "counts", points, trust, is_derived)
