"""From evidence to scores: everybody's at once, with what they are made of.

    score = min(1, max(credentials + behaviour + graph, same owner or root)) x penalty

Pure, and the same to the bit for the same evidence in any order. Keeps nothing between two calls:
evidence that is gone was never there. docs/trust.md gives the formulas and their reasons.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from operator import mul
from types import MappingProxyType
from typing import Final

from credentials.limits import CLOCK_SKEW_S
from kwaai.trust.behaviour import UNSEEN, Conduct, judge
from kwaai.trust.credential_score import (
    NO_CREDENTIALS,
    CredentialScore,
    has_same_controller,
    score_credentials,
)
from kwaai.trust.decay import decay
from kwaai.trust.evidence import Attestation, Endorsement, Evidence
from kwaai.trust.explain import Explanation, explain_standing
from kwaai.trust.graph import Edge, GraphTrust, TrustGraph
from kwaai.trust.pace import pace
from kwaai.trust.policy import TrustPolicy
from kwaai.trust.tiers import Tier

POINT_OBSERVATIONS: Final = 40.0
"""Observations that a point of credentials, graph or ownership is worth against uncertainty: a
full score of credentials is as much as forty dealings."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How far this node trusts a peer."""

    peer: str
    score: float
    """In [0, 1]."""
    uncertainty: float
    """In [0, 1]: 1 where nothing is known, towards 0 as evidence comes in."""
    tier: Tier
    owner: str | None
    """By a binding that the peer itself presented."""
    integrity: float = 1.0
    """The factor of wrong answers alone: 1 where nothing speaks against it. `Floors` asks for it:
    wrong answers bar a peer even where nobody asked for a tier."""
    failure: float = 0.05
    """The probability that it fails an answer, as far as this node can tell."""
    pace: float = 1.0
    """How many times as long as promised it takes for a token, 1 or more."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What a score is made of. The six terms, added exactly, are the score."""

    credentials: CredentialScore
    conduct: Conduct
    graph_value: float
    """In [0, 1]."""
    graph: float
    """Points; so are the next three."""
    owner: float
    """What lifts a root, or a node of the same owner, to its least score."""
    cut: float
    """What the cap at 1 takes: 0 or below."""
    penalties: tuple[float, ...]
    """What each facet of behaviour takes, in the order of FACETS: 0 or below. Empty: nothing."""

    @property
    def penalty(self) -> float:
        """What bad behaviour takes: 0 or below."""
        return math.fsum(self.penalties) if self.penalties else 0.0

    @property
    def score(self) -> float:
        """The sum of all, in [0, 1]."""
        terms = (self.credentials.points, self.conduct.points, self.graph, self.owner)
        return math.fsum((*terms, self.cut, self.penalty))


class TrustState:
    """Everybody's standing at one moment. Nothing of it changes; safe to share."""

    def __init__(self, evidence: Evidence, policy: TrustPolicy, now_s: float) -> None:
        self.evidence = evidence
        self.policy = policy
        self.now_s = now_s
        self._attestations = _by_subject(evidence.attestations)
        self._conducts = {
            peer: judge(tally, policy, now_s) for peer, tally in evidence.tallies.items()
        }
        self.edges: tuple[Edge, ...] = weigh_endorsements(evidence, policy, now_s)
        """Endorsements in force, decayed, one per pair, sorted."""
        self.credit: Mapping[str, float] = weigh_endorsers(self.edges, self._conducts)
        """Endorser -> what its word counts, in (0, 1]; 1 for whoever is not named."""
        self.graph: GraphTrust = TrustGraph(self.edges, evidence.owners).propagate(
            _graph_roots(self.edges, policy), self.credit
        )
        """What they give."""
        self._first: dict[str, Parts] = {}  # the round of roots and listed issuers
        self.derived_trust: Mapping[str, float] = self._derive_trust()
        """Issuers that the policy does not name and that are Verified -> what theirs count."""
        self._parts = {name: self._settle(name) for name in self._everybody()}
        self.standings: Mapping[str, Standing] = MappingProxyType(
            {name: self._stand(name, parts) for name, parts in self._parts.items()}
        )
        """The standing of every principal that there is evidence of, by principal, sorted."""

    def standing(self, principal: str) -> Standing:
        """Return a principal's standing; of an unseen one: score 0, uncertainty 1, Unknown."""
        found = self.standings.get(principal)
        return self._stand(principal, self.parts(principal)) if found is None else found

    def parts(self, principal: str) -> Parts:
        """Return what a principal's score is made of."""
        found = self._parts.get(principal)
        return self._compute(principal, self.derived_trust) if found is None else found

    def explain(self, principal: str) -> Explanation:
        """Return why the standing is what it is, as a tree of evidence."""
        return explain_standing(self, principal)

    def _everybody(self) -> list[str]:
        names = set(self._attestations) | set(self._conducts) | set(self.evidence.owners)
        names.update(edge.of for edge in self.edges)
        names.update(edge.by for edge in self.edges)
        return sorted(names | self.policy.trusted)

    def _derive_trust(self) -> dict[str, float]:
        """Trust in issuers that the policy does not name: from their own scores, in one round.

        That round counts roots and listed issuers only, so no chain of issuers lifts itself.
        """
        policy, derived = self.policy, {}
        issuers = {each.issuer for each in self.evidence.attestations}
        for issuer in sorted(issuers):
            if policy.issuer_trust(issuer) is None:
                parts = self._first[issuer] = self._compute(issuer, {})
                score = parts.score
                if policy.tier(score) >= Tier.VERIFIED:
                    derived[issuer] = policy.derived_issuer_share * score
        return derived

    def _settle(self, name: str) -> Parts:
        """Return a principal's parts: those of the first round, where no later one changes them."""
        first, derived = self._first.get(name), self.derived_trust
        issuers = (each.issuer for each in self._attestations.get(name, ()))
        if first is None or not all(issuer not in derived for issuer in issuers):
            return self._compute(name, derived)
        return first

    def _compute(self, name: str, derived: Mapping[str, float]) -> Parts:
        policy, owners = self.policy, self.evidence.owners
        attestations = self._attestations.get(name)
        credentials = NO_CREDENTIALS
        if attestations:
            credentials = score_credentials(attestations, policy, owners, derived, self.now_s)
        conduct = self._conducts.get(name, UNSEEN)
        value = self.graph.value(name)
        graph = policy.graph_points * value
        earned = math.fsum((credentials.points, conduct.points, graph))
        owner = max(0.0, self._least_score(name) - earned)
        left = math.fsum((credentials.points, conduct.points, graph, owner))
        cut = min(0.0, 1.0 - left)
        penalties: tuple[float, ...] = ()
        if conduct.penalty < 1.0:
            lefts = accumulate(conduct.factors.values(), mul, initial=left + cut)
            penalties = tuple(after - before for before, after in pairwise(lefts))
        return Parts(credentials, conduct, value, graph, owner, cut, penalties)

    def _least_score(self, name: str) -> float:
        policy = self.policy
        if name and name == policy.own:
            return 1.0
        owner = self.evidence.owners.get(name, name)
        is_own = policy.own_owner is not None and owner == policy.own_owner
        return policy.same_owner_score if is_own or name in policy.roots else 0.0

    def _stand(self, name: str, parts: Parts) -> Standing:
        policy, conduct, score = self.policy, parts.conduct, parts.score
        points = math.fsum((parts.credentials.points, parts.graph, parts.owner))
        known = conduct.observations + POINT_OBSERVATIONS * points
        return Standing(
            name,
            score,
            policy.behaviour_prior / (policy.behaviour_prior + known),
            policy.tier(score),
            self.evidence.owners.get(name),
            conduct.integrity,
            conduct.failure,
            pace(conduct),
        )


def score_all(evidence: Evidence, policy: TrustPolicy, now_s: float) -> TrustState:
    """Return everybody's standing now.

    Raises ValueError where the tallies have another half-life than the policy.
    """
    return TrustState(evidence, policy, now_s)


def weigh_endorsements(evidence: Evidence, policy: TrustPolicy, now_s: float) -> tuple[Edge, ...]:
    """Return the edges of the graph: endorsements in force, decayed, the heaviest of each pair."""
    weights: dict[tuple[str, str], float] = {}
    owners, half_life_s = evidence.owners, policy.half_life_s
    for each in evidence.endorsements:
        if has_same_controller(each.by, each.of, owners) or not _in_force(each, now_s):
            continue
        pair, weight = (each.by, each.of), each.weight * decay(now_s - each.at_s, half_life_s)
        if weight > weights.get(pair, 0.0):
            weights[pair] = weight
    return tuple(Edge(by, of, weight) for (by, of), weight in sorted(weights.items()))


def weigh_endorsers(edges: Iterable[Edge], conducts: Mapping[str, Conduct]) -> Mapping[str, float]:
    """Return what the word of each endorser counts who answers for something: 1 / (1 + blame).

    Its blame is what this node's own dealings took from those it endorsed: 1 - penalty each, by the
    weight of the endorsement, added up and not averaged: endorsing many good peers does not wash
    off one that was not.
    """
    taken = {peer: 1.0 - conduct.penalty for peer, conduct in conducts.items()}
    blames: dict[str, list[float]] = defaultdict(list)
    for edge in edges:
        loss = taken.get(edge.of)
        if loss:
            blames[edge.by].append(edge.weight * loss)
    return {by: 1.0 / (1.0 + math.fsum(parts)) for by, parts in blames.items()}


def _in_force(endorsement: Endorsement, now_s: float) -> bool:
    if endorsement.at_s > now_s + CLOCK_SKEW_S:
        return False
    return endorsement.until_s is None or now_s - CLOCK_SKEW_S < endorsement.until_s


def _graph_roots(edges: Iterable[Edge], policy: TrustPolicy) -> frozenset[str]:
    """The listed roots; this node and its owner too, where they endorse somebody: trust that goes
    nowhere would only be missing elsewhere.
    """
    endorsers = {edge.by for edge in edges}
    return policy.roots | (policy.trusted & endorsers)


def _by_subject(attestations: Iterable[Attestation]) -> Mapping[str, list[Attestation]]:
    found: dict[str, list[Attestation]] = defaultdict(list)
    for attestation in attestations:
        found[attestation.subject].append(attestation)
    return dict(found)
