"""A small world for the tests of trust: principals by name, evidence by a line each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from kwaai.trust.evidence import Attestation, Endorsement, Evidence, Observation, Outcome
from kwaai.trust.policy import TrustPolicy
from kwaai.trust.score import TrustState, score_all
from kwaai.trust.tally import tally_all

NOW = 1_795_000_000.0
DAY = 86_400.0
YEAR = 365 * DAY

OWN, ROOT, LISTED, PEER, OTHER = (f"did:key:z{name}" for name in ("Own", "Root", "List", "P", "Q"))
POLICY = TrustPolicy(own=OWN, roots=frozenset({ROOT}), issuers={LISTED: 0.5})

FULL = (
    "FiduciaryPledgeVC",
    "VerifiedNodeVC",
    "UptimeVC",
    "ThroughputVC",
    "EventAttendeeVC",
    "PeerEndorsementVC",
)


def attest(
    kind: str = "VerifiedNodeVC",
    issuer: str = ROOT,
    subject: str = PEER,
    *,
    age_s: float = 0.0,
    until_s: float | None = None,
    id: str = "",
    claims: Mapping[str, Any] | None = None,
) -> Attestation:
    name = id or f"urn:{kind}:{issuer}:{subject}:{age_s}"
    return Attestation(name, kind, issuer, subject, NOW - age_s, until_s, claims or {})


def saw(
    outcome: Outcome, count: int = 1, *, peer: str = PEER, age_s: float = 0.0, **more: Any
) -> list[Observation]:
    return [Observation(peer, NOW - age_s, outcome, **more) for _ in range(count)]


def endorse(by: str, of: str, weight: float = 1.0, *, age_s: float = 0.0) -> Endorsement:
    return Endorsement(by, of, NOW - age_s, weight, "PeerEndorsementVC")


def evidence(
    attestations: Iterable[Attestation] = (),
    observations: Iterable[Observation] = (),
    endorsements: Iterable[Endorsement] = (),
    owners: Mapping[str, str] | None = None,
    policy: TrustPolicy = POLICY,
) -> Evidence:
    tallies = tally_all(observations, policy.behaviour_half_life_s)
    return Evidence(tuple(attestations), tallies, tuple(endorsements), owners or {})


def score(
    attestations: Iterable[Attestation] = (),
    observations: Iterable[Observation] = (),
    endorsements: Iterable[Endorsement] = (),
    owners: Mapping[str, str] | None = None,
    policy: TrustPolicy = POLICY,
    now_s: float = NOW,
) -> TrustState:
    found = evidence(attestations, observations, endorsements, owners, policy)
    return score_all(found, policy, now_s)
