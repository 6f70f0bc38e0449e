"""Why a standing is what it is: a tree of evidence whose points add up to the score, the paths by
which trust came, and what would raise it.

Computes no score: it tells what `score` found. docs/trust.md, "Explanations".
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from kwaai.trust.behaviour import Conduct
from kwaai.trust.credential_score import REASONS, CredentialScore, Finding
from kwaai.trust.endorse import RECEIPT
from kwaai.trust.graph import TrustPath
from kwaai.trust.policy import DAY_S, TrustPolicy
from kwaai.trust.raises import what_would_raise
from kwaai.trust.tally import FACETS, OUTCOMES, Tally
from kwaai.trust.tiers import Tier
from kwaai.trust.words import counted

if TYPE_CHECKING:
    from kwaai.trust.score import Parts, Standing, TrustState

ReasonKind: TypeAlias = Literal[
    "credential", "behaviour", "graph", "owner", "cap", "penalty", "ignored"
]

PATHS: Final = 3

_FACET_WORDS: Final = {
    "availability": "it answered, or did not",
    "correctness": "its answers, where they were checked",
    "throughput": "tokens/s against what it claims",
    "latency": "time per step against what was expected",
}


@dataclass(frozen=True, slots=True)
class Reason:
    """One line of an explanation. The points of its children add up to its own, exactly (fsum)."""

    kind: ReasonKind
    text: str
    points: float
    """What it adds to the score; below 0: what it takes."""
    share: float
    """Of all that was added, in [0, 1]; 0 for what takes, and for what counts nothing."""
    source: str = ""
    """What it rests on: a credential's id, a principal, a config key."""
    children: tuple[Reason, ...] = ()
    code: str = ""
    """Of a credential: why it counts what it does; `counts` where it does."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """A standing and its reasons."""

    standing: Standing
    reasons: tuple[Reason, ...]
    """Their points add up to the score, exactly (fsum)."""
    paths: tuple[TrustPath, ...]
    """The three by which most of the graph's trust came."""
    raises: tuple[str, ...]
    """What would raise it, in words that somebody can act on."""
    next_tier: Tier | None
    """None for the highest."""
    missing: float
    """What the score lacks for it."""


def explain_standing(state: TrustState, principal: str) -> Explanation:
    """Return why a principal's standing is what it is."""
    standing, parts, policy = state.standing(principal), state.parts(principal), state.policy
    paths = state.graph.top_paths(principal, PATHS)
    next_tier = None if standing.tier is Tier.TRUSTED else Tier(standing.tier + 1)
    missing = 0.0 if next_tier is None else policy.threshold(next_tier) - standing.score
    told = _Told(parts, policy, standing)
    reasons = (
        told.credentials(state.now_s),
        told.behaviour(state.evidence.tallies.get(principal)),
        told.graph(paths),
        told.owner(),
        told.cap(),
        told.penalty(),
        told.ignored(
            (each.id, f"{each.type} by {each.issuer}: {each.reason}", each.code)
            for each in sorted(state.evidence.refused, key=lambda r: (r.type, r.issuer, r.id))
            if each.subject == principal
        ),
    )
    return Explanation(
        standing,
        tuple(reason for reason in reasons if reason is not None),
        tuple(paths),
        what_would_raise(standing, parts, policy, state.now_s),
        next_tier,
        missing,
    )


class _Told:
    """The parts of one score as reasons. A part that neither gives nor takes is None."""

    def __init__(self, parts: Parts, policy: TrustPolicy, standing: Standing) -> None:
        self.parts, self.policy, self.standing = parts, policy, standing
        given = (parts.credentials.points, parts.conduct.points, parts.graph, parts.owner)
        self._given = math.fsum(given)

    def credentials(self, now_s: float) -> Reason | None:
        score = self.parts.credentials
        counted = [self._credential(each, now_s) for each in score.findings if each.points]
        if not counted:
            return None
        cap = self.policy.derived_issuer_cap
        counted += self._caps(
            (score.derived_cut, f"issuers that nobody listed give {cap:g} at most together"),
            (score.cut, "credentials give 1 at most"),
        )
        return self._reason("credential", "credentials", score.points, children=counted)

    def _credential(self, finding: Finding, now_s: float) -> Reason:
        at = finding.attestation
        days = int(max(0.0, now_s - at.valid_from_s) / DAY_S)
        age = f"{counted(days, 'day')} old" if days else "less than a day old"
        whose = " (by the issuer's own score)" if finding.is_derived else ""
        text = (
            f"{at.type} by {at.issuer}: weight {self.policy.weights[at.type]:g}, {age}, "
            f"trust in the issuer {finding.issuer_trust:.2f}{whose}"
        )
        return self._reason("credential", text, finding.points, at.id, code=finding.code)

    def behaviour(self, tally: Tally | None) -> Reason | None:
        conduct = self.parts.conduct
        if tally is None:
            return None
        told = f"behaviour: {_counts(tally)}"
        if not conduct.points:
            return self._reason("behaviour", f"{told}; not better than neutral", 0.0)
        children = [
            self._reason("behaviour", _facet(name, conduct), conduct.point_parts[name])
            for name in FACETS
            if conduct.point_parts[name]
        ]
        return self._reason("behaviour", told, conduct.points, children=children)

    def graph(self, paths: Iterable[TrustPath]) -> Reason | None:
        parts = self.parts
        if not parts.graph:
            ends = _endorsers(paths)
            text = "endorsements that nobody else bears out: nobody but a root vouches alone"
            return self._reason("graph", text, 0.0, ends) if ends else None
        text = (
            f"endorsements: {parts.graph_value:.3f} of what the best place in the graph would "
            f"have, which adds {self.policy.graph_points:g}"
        )
        return self._reason("graph", text, parts.graph, _endorsers(paths))

    def owner(self) -> Reason | None:
        points, policy, name = self.parts.owner, self.policy, self.standing.peer
        if not points:
            return None
        if name == policy.own:
            return self._reason("owner", "this node itself", points, name)
        least = f"the least score is {policy.same_owner_score:g}"
        if name in policy.roots:
            return self._reason("owner", f"one of the trust roots: {least}", points, "trust_roots")
        owner = self.standing.owner or name
        return self._reason("owner", f"it has this node's owner: {least}", points, owner)

    def cap(self) -> Reason | None:
        found = self._caps((self.parts.cut, "a score is 1 at most"))
        return found[0] if found else None

    def penalty(self) -> Reason | None:
        conduct, parts = self.parts.conduct, self.parts
        if conduct.penalty == 1.0:
            return None
        children = [
            self._reason(
                "penalty", f"{_facet(name, conduct)}: x {conduct.factors[name]:.3f}", points
            )
            for name, points in zip(FACETS, parts.penalties, strict=True)
            if conduct.factors[name] != 1.0
        ]
        text = f"what speaks against it leaves {conduct.penalty:.3f} of the score"
        return self._reason("penalty", text, parts.penalty, children=children)

    def ignored(self, refused: Iterable[tuple[str, str, str]]) -> Reason | None:
        children = [
            self._reason("ignored", _why_not(each), 0.0, each.attestation.id, code=each.code)
            for each in _not_counted(self.parts.credentials)
        ]
        if receipts := sum(map(_is_receipt, self.parts.credentials.findings)):
            text = f"{counted(receipts, RECEIPT)} that it showed: as endorsements, in the graph"
            children.append(self._reason("ignored", text, 0.0, code="type_not_weighted"))
        children += [
            self._reason("ignored", text, 0.0, source, code=code) for source, text, code in refused
        ]
        if not children:
            return None
        return self._reason("ignored", "credentials that count zero", 0.0, children=children)

    def _caps(self, *cuts: tuple[float, str]) -> list[Reason]:
        return [self._reason("cap", text, points) for points, text in cuts if points]

    def _reason(
        self,
        kind: ReasonKind,
        text: str,
        points: float,
        source: str = "",
        *,
        children: Iterable[Reason] = (),
        code: str = "",
    ) -> Reason:
        share = points / self._given if points > 0.0 else 0.0
        return Reason(kind, text, points, min(1.0, share), source, tuple(children), code)


def _endorsers(paths: Iterable[TrustPath]) -> str:
    """Return who endorsed at the end of each path."""
    return ", ".join(sorted({path.principals[-2] for path in paths if len(path.principals) > 1}))


def _not_counted(score: CredentialScore) -> list[Finding]:
    return [each for each in score.findings if not each.points and not _is_receipt(each)]


def _is_receipt(finding: Finding) -> bool:
    """Whether it is a receipt without a weight: there may be hundreds, and the graph has them."""
    return finding.attestation.type == RECEIPT and finding.code == "type_not_weighted"


def _why_not(finding: Finding) -> str:
    at = finding.attestation
    return f"{at.type} by {at.issuer}: {REASONS[finding.code]}"


def _counts(tally: Tally) -> str:
    found = ", ".join(
        f"{tally.count(outcome)} {outcome}" for outcome in OUTCOMES if tally.count(outcome)
    )
    return f"{found} in this node's own dealings"


def _facet(name: str, conduct: Conduct) -> str:
    facet = conduct.facets[name]
    return f"{name} ({_FACET_WORDS[name]}): {facet.good:.1f} for, {facet.bad:.1f} against"
