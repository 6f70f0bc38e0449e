"""Explanations: the points add up to the score, every piece of evidence is told, advice is true."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from test_trust_score import NAMES, attestations, endorsements, observations, owners
from trust_scene import DAY, FULL, NOW, OTHER, OWN, PEER, POLICY, ROOT, attest, endorse, saw, score

from kwaai.trust.evidence import Attestation, Endorsement, Evidence, Observation, Outcome, Refused
from kwaai.trust.explain import Explanation, Reason
from kwaai.trust.raises import RAISES_MAX
from kwaai.trust.score import score_all
from kwaai.trust.tiers import Tier


def every(reasons: tuple[Reason, ...]) -> list[Reason]:
    return [each for reason in reasons for each in (reason, *every(reason.children))]


def find(explanation: Explanation, kind: str) -> Reason:
    return next(reason for reason in explanation.reasons if reason.kind == kind)


def words(explanation: Explanation) -> str:
    return "\n".join(reason.text for reason in every(explanation.reasons))


@settings(max_examples=60)
@given(attestations, observations, endorsements, owners)
def test_points_add_up_exactly_at_every_level(
    attests: list[Attestation],
    seen: list[Observation],
    vouched: list[Endorsement],
    owned: dict[str, str],
) -> None:
    state = score(attests, seen, vouched, owned)
    for name in [*NAMES, OWN, "did:key:zNobody"]:
        explanation = state.explain(name)
        assert explanation.standing == state.standing(name)
        assert math.fsum(reason.points for reason in explanation.reasons) == (
            explanation.standing.score
        )
        for reason in every(explanation.reasons):
            assert 0.0 <= reason.share <= 1.0
            assert reason.text
            if reason.children:
                assert math.fsum(child.points for child in reason.children) == reason.points
        told = {reason.source for reason in every(explanation.reasons)}
        assert {each.id for each in attests if each.subject == name} <= told
        assert len(explanation.raises) <= RAISES_MAX


def test_nobody_is_explained_too() -> None:
    explanation = score().explain("did:key:zNobody")
    assert explanation.reasons == explanation.paths == ()
    assert (explanation.next_tier, explanation.missing) == (Tier.KNOWN, 0.10)
    assert len(explanation.raises) == RAISES_MAX
    assert "FiduciaryPledgeVC" in explanation.raises[0]


def test_this_node_needs_no_advice() -> None:
    explanation = score().explain(OWN)
    assert explanation.raises == ()
    assert explanation.next_tier is None
    assert find(explanation, "owner").text == "this node itself"


def test_a_credential_is_told_with_its_weight_age_and_issuer() -> None:
    reason = find(score([attest(age_s=73 * DAY)]).explain(PEER), "credential")
    (child,) = reason.children
    for word in ("VerifiedNodeVC", ROOT, "weight 0.2", "73 days", "1.00"):
        assert word in child.text
    assert (child.code, child.source) == ("counts", attest(age_s=73 * DAY).id)
    assert child.points == pytest.approx(0.2 * 0.5**0.2)
    assert reason.share == 1.0


@pytest.mark.parametrize(
    ("age_s", "told"),
    [(0.0, "less than a day old"), (1.5 * DAY, " 1 day old"), (2 * DAY, " 2 days old")],
)
def test_ages_are_told_in_days(age_s: float, told: str) -> None:
    (child,) = find(score([attest(age_s=age_s)]).explain(PEER), "credential").children
    assert told in child.text


def test_receipts_are_one_line_however_many() -> None:
    receipts = [attest("InferenceReceiptVC", age_s=n * DAY) for n in range(1, 4)]
    (child,) = find(score(receipts).explain(PEER), "ignored").children
    assert child.text.startswith("3 InferenceReceiptVCs that it showed: as endorsements")
    assert child.code == "type_not_weighted"


def test_advice_is_said_as_one_says_it() -> None:
    advice = "\n".join(score().explain(PEER).raises)
    assert "an UptimeVC by" in advice
    assert "an EventAttendeeVC by" in advice
    assert "a VerifiedNodeVC by" in advice


def test_what_counts_zero_is_told_with_its_reason() -> None:
    attests = [
        attest("UptimeVC", PEER),
        attest("ThroughputVC", OTHER),
        attest("FiduciaryPledgeVC", until_s=NOW - DAY),
        attest("VerifiedNodeVC"),
        attest("VerifiedNodeVC", age_s=DAY),
    ]
    revoked = Refused("urn:r", "UptimeVC", ROOT, PEER, "credential_revoked", "it was revoked")
    others = Refused("urn:o", "UptimeVC", ROOT, OTHER, "credential_revoked", "it was revoked")
    state = score_all(Evidence(tuple(attests), refused=(others, revoked)), POLICY, NOW)
    ignored = find(state.explain(PEER), "ignored")
    assert ignored.points == 0.0
    assert {child.code for child in ignored.children} == {
        "self_issued",
        "issuer_unknown",
        "expired",
        "superseded",
        "credential_revoked",
    }
    assert all(child.points == child.share == 0.0 for child in ignored.children)
    assert "it was revoked" in words(state.explain(PEER))


def test_behaviour_is_told_in_counts_and_facets() -> None:
    seen = [*saw(Outcome.SERVED, 12), *saw(Outcome.AGREED, 3), *saw(Outcome.FAILED, 2)]
    explanation = score((), seen).explain(PEER)
    reason = find(explanation, "behaviour")
    for word in ("12 served", "3 agreed", "2 failed"):
        assert word in reason.text
    assert [child.text.split()[0] for child in reason.children] == ["availability", "correctness"]
    penalty = find(explanation, "penalty")
    assert penalty.points < 0.0
    assert len(penalty.children) == 1


def test_bad_behaviour_says_what_it_takes_and_that_time_heals() -> None:
    explanation = score([attest(kind) for kind in FULL], saw(Outcome.WRONG, 3)).explain(PEER)
    assert "not better than neutral" in find(explanation, "behaviour").text
    assert find(explanation, "penalty").points == pytest.approx(-(1 - (8 / 17) ** 2))
    assert "correctness" in explanation.raises[0]
    assert f"kwaainet reputation reset {PEER}" in explanation.raises[0]


def test_advice_names_the_issuer_whom_one_could_trust() -> None:
    advice = score([attest("FiduciaryPledgeVC", OTHER)]).explain(PEER).raises
    assert any(f"kwaainet trust roots add {OTHER}" in line and "+0.30" in line for line in advice)


def test_advice_is_not_given_for_what_a_least_score_hides() -> None:
    advice = score().explain(ROOT).raises
    assert advice == ()


def test_the_graph_is_told_with_its_paths() -> None:
    explanation = score((), (), [endorse(ROOT, PEER)]).explain(PEER)
    reason = find(explanation, "graph")
    assert reason.points == explanation.standing.score > 0.0
    assert explanation.paths[0].principals == (ROOT, PEER)
    assert reason.source == ROOT


def test_that_nobody_but_a_root_vouches_alone_is_told() -> None:
    state = score((), (), [endorse(ROOT, OTHER), endorse(OTHER, PEER)])
    reason = find(state.explain(PEER), "graph")
    assert (reason.points, reason.source) == (0.0, OTHER)
    assert "nobody but a root vouches alone" in reason.text
    assert state.standing(PEER).score == 0.0


def test_the_caps_are_told() -> None:
    issuer = [attest(kind, subject=OTHER) for kind in FULL]
    explanation = score([*issuer, *(attest(kind, OTHER) for kind in FULL)]).explain(PEER)
    assert "issuers that nobody listed give 0.08" in words(explanation)
    more = score([attest(kind) for kind in FULL], saw(Outcome.SERVED, 50)).explain(PEER)
    assert find(more, "cap").points < 0.0
    assert more.standing.score == pytest.approx(1.0)
    assert more.raises == ()
