"""Scores: the same evidence, the same bits; more is never less; what is gone was never there;
endorsers answer; attacks buy nothing.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trust_scene import (
    DAY,
    FULL,
    LISTED,
    NOW,
    OTHER,
    OWN,
    PEER,
    POLICY,
    ROOT,
    attest,
    endorse,
    evidence,
    saw,
    score,
)

from kwaai.trust.evidence import Attestation, Endorsement, Evidence, Observation, Outcome
from kwaai.trust.policy import TrustPolicy
from kwaai.trust.score import POINT_OBSERVATIONS, score_all
from kwaai.trust.tally import OUTCOMES, tally_all
from kwaai.trust.tiers import Tier

NAMES = [ROOT, LISTED, PEER, OTHER, *(f"did:key:z{n}" for n in range(5))]
names = st.sampled_from(NAMES)
ages_s = st.floats(-DAY, 800 * DAY)
attestations = st.lists(
    st.builds(
        lambda kind, issuer, subject, age_s: attest(kind, issuer, subject, age_s=age_s),
        st.sampled_from([*FULL, "BindingVC"]),
        names,
        names,
        ages_s,
    ),
    max_size=10,
)
observations = st.lists(
    st.builds(
        lambda peer, outcome, age_s: Observation(peer, NOW - age_s, outcome),
        names,
        st.sampled_from(OUTCOMES),
        st.floats(0.0, 400 * DAY),
    ),
    max_size=10,
)
endorsements = st.lists(
    st.builds(
        lambda by, of, weight, age_s: endorse(by, of, weight, age_s=age_s),
        names,
        names,
        st.floats(0.01, 1.0),
        ages_s,
    ),
    max_size=12,
)
owners = st.dictionaries(names, st.sampled_from(["did:key:zO1", "did:key:zO2", ROOT]), max_size=3)


def bits(found: Evidence, policy: TrustPolicy = POLICY, now_s: float = NOW) -> str:
    state = score_all(found, policy, now_s)
    return repr(dict(state.standings)) + repr([state.parts(name) for name in NAMES])


# Unseen, own, roots.


def test_an_unseen_peer_is_unknown_with_full_uncertainty() -> None:
    standing = score().standing("did:key:zNobody")
    assert (standing.score, standing.uncertainty, standing.tier) == (0.0, 1.0, Tier.UNKNOWN)
    assert (standing.owner, standing.integrity) == (None, 1.0)
    assert "did:key:zNobody" not in score().standings


def test_without_roots_and_issuers_nobody_is_known_by_what_others_say() -> None:
    vouched = [endorse(OTHER, PEER), endorse(PEER, OTHER)]
    state = score([attest(k, OTHER) for k in FULL], (), vouched, policy=TrustPolicy(own=OWN))
    assert state.standing(PEER).score == 0.0
    assert state.standing(PEER).tier is Tier.UNKNOWN


def test_this_node_trusts_itself_and_its_roots() -> None:
    state = score()
    assert state.standing(OWN).score == 1.0
    assert state.standing(ROOT).score == POLICY.same_owner_score
    assert state.standing(ROOT).tier is Tier.TRUSTED
    assert state.standing(LISTED).tier is Tier.UNKNOWN


def test_nodes_of_this_owner_are_trusted_and_pay_for_what_they_do() -> None:
    policy = replace(POLICY, own_owner="did:key:zMe")
    mine = {PEER: "did:key:zMe"}
    state = score(owners=mine, policy=policy)
    assert state.standing(PEER).score == 0.70
    assert state.standing(PEER).owner == "did:key:zMe"
    wrong = score((), saw(Outcome.WRONG, 3), owners=mine, policy=policy)
    assert wrong.standing(PEER).score < 0.2
    assert score(owners={PEER: "did:key:zOther"}, policy=policy).standing(PEER).score == 0.0


# The sum.


def test_credentials_behaviour_and_graph_add_up() -> None:
    state = score([attest()], saw(Outcome.SERVED, 10), [endorse(ROOT, PEER)])
    parts = state.parts(PEER)
    assert parts.credentials.points == 0.20
    assert parts.conduct.points == pytest.approx(0.0625)
    assert 0.0 < parts.graph <= POLICY.graph_points
    assert state.standing(PEER).score == pytest.approx(0.2625 + parts.graph)


def test_what_this_node_saw_multiplies_all_of_it() -> None:
    good = score([attest(kind) for kind in FULL], (), [endorse(ROOT, PEER)]).standing(PEER)
    seen = saw(Outcome.WRONG, 4)
    bad = score([attest(kind) for kind in FULL], seen, [endorse(ROOT, PEER)]).standing(PEER)
    assert good.score == 1.0
    assert bad.score == pytest.approx((8 / 20) ** 2)
    assert bad.integrity == pytest.approx((8 / 20) ** 2)
    assert bad.tier is Tier.KNOWN


def test_what_others_attest_does_not_pay_for_wrong_answers() -> None:
    found = [attest(kind) for kind in FULL]
    standing = score(found, saw(Outcome.WRONG, 100), [endorse(ROOT, PEER)]).standing(PEER)
    assert standing.tier is Tier.UNKNOWN


def test_uncertainty_falls_with_evidence() -> None:
    assert score((), saw(Outcome.SERVED, 10)).standing(PEER).uncertainty == pytest.approx(0.5)
    assert score([attest()]).standing(PEER).uncertainty == pytest.approx(
        10 / (10 + POINT_OBSERVATIONS * 0.2)
    )
    bad = score((), saw(Outcome.WRONG, 30)).standing(PEER)
    assert (bad.score, bad.uncertainty) == (0.0, pytest.approx(0.25))


@settings(max_examples=60)
@given(attestations, observations, endorsements, owners)
def test_scores_are_in_range_and_are_the_sum_of_their_parts(
    attests: list[Attestation],
    seen: list[Observation],
    vouched: list[Endorsement],
    owned: dict[str, str],
) -> None:
    state = score(attests, seen, vouched, owned)
    for name in NAMES:
        standing, parts = state.standing(name), state.parts(name)
        assert 0.0 <= standing.score <= 1.0
        assert 0.0 <= standing.uncertainty <= 1.0
        assert standing.tier is POLICY.tier(standing.score)
        assert standing.score == parts.score
        terms = (parts.credentials.points, parts.conduct.points, parts.graph, parts.owner)
        assert min(terms) >= 0.0
        assert math.fsum((*terms, parts.cut)) * parts.conduct.penalty == pytest.approx(parts.score)


# Order, removal, more of it.


@settings(max_examples=60)
@given(st.data(), attestations, observations, endorsements, owners)
def test_the_same_evidence_gives_the_same_bits_in_any_order(
    data: st.DataObject,
    attests: list[Attestation],
    seen: list[Observation],
    vouched: list[Endorsement],
    owned: dict[str, str],
) -> None:
    one = evidence(attests, seen, vouched, owned)
    other = evidence(
        data.draw(st.permutations(attests)),
        data.draw(st.permutations(seen)),
        data.draw(st.permutations(vouched)),
        dict(reversed(owned.items())),
    )
    assert bits(one) == bits(other)
    assert bits(one) == bits(one)


@settings(max_examples=60)
@given(attestations, observations, endorsements, st.data())
def test_what_was_removed_was_never_there(
    attests: list[Attestation],
    seen: list[Observation],
    vouched: list[Endorsement],
    data: st.DataObject,
) -> None:
    kept = data.draw(st.integers(0, 10))
    less = evidence(attests[:kept], seen[:kept], vouched[:kept])
    tallies = dict(tally_all(seen, POLICY.behaviour_half_life_s))
    for each in seen[kept:]:
        left = tallies[each.peer].minus(each)
        tallies[each.peer] = left
        if not left.observations:
            del tallies[each.peer]
    shrunk = Evidence(tuple(attests[:kept]), tallies, tuple(vouched[:kept]))
    assert bits(shrunk) == bits(less)


@settings(max_examples=80)
@given(attestations, endorsements, names, names, st.floats(0.01, 1.0))
def test_an_added_endorsement_never_lowers_its_target(
    attests: list[Attestation],
    vouched: list[Endorsement],
    by: str,
    of: str,
    weight: float,
) -> None:
    before = score(attests, (), vouched).standing(of)
    after = score(attests, (), [*vouched, endorse(by, of, weight)]).standing(of)
    assert after.score >= before.score - 1e-12
    assert after.uncertainty <= before.uncertainty + 1e-12


@settings(max_examples=80)
@given(attestations, observations, endorsements, st.sampled_from(FULL), names, names)
def test_an_added_credential_never_lowers_its_subject(
    attests: list[Attestation],
    seen: list[Observation],
    vouched: list[Endorsement],
    kind: str,
    issuer: str,
    subject: str,
) -> None:
    before = score(attests, seen, vouched).standing(subject).score
    added = attest(kind, issuer, subject, age_s=-1.0, id="urn:added")
    after = score([*attests, added], seen, vouched).standing(subject).score
    assert after >= before - 1e-12


@settings(max_examples=60)
@given(attestations, observations, st.sampled_from([Outcome.SERVED, Outcome.AGREED]))
def test_good_behaviour_never_lowers(
    attests: list[Attestation], seen: list[Observation], outcome: Outcome
) -> None:
    before = score(attests, seen).standing(PEER).score
    assert score(attests, [*seen, *saw(outcome)]).standing(PEER).score >= before - 1e-12


def test_revocation_acts_at_once() -> None:
    """What no longer holds is no longer in the evidence: the next recompute has never known it."""
    both = [attest(), attest("UptimeVC")]
    assert score(both).standing(PEER).tier is Tier.VERIFIED
    assert bits(evidence(both[:1])) == bits(evidence([attest()]))
    assert score(both[:1]).standing(PEER).tier is Tier.KNOWN


def test_time_takes_what_nobody_renews() -> None:
    found = [attest(kind) for kind in FULL[:3]]
    scores = [
        score(found, now_s=NOW + years * 365 * DAY).standing(PEER).score for years in range(5)
    ]
    assert scores == [pytest.approx(0.7 / 2**years) for years in range(5)]


# Endorsers.


def test_an_endorser_answers_for_whom_it_endorsed() -> None:
    """Two endorsers of two peers; one of the peers lies to this node, and both endorsers pay."""
    good, liar, second = "did:key:zGood", "did:key:zLiar", "did:key:zSecond"
    vouched = [endorse(ROOT, each) for each in (OTHER, second)]
    vouched += [endorse(by, of) for by in (OTHER, second) for of in (good, liar)]
    before = score((), (), vouched)
    after = score((), saw(Outcome.WRONG, 5, peer=liar), vouched)
    blame = 1.0 - after.parts(liar).conduct.penalty
    assert after.credit == dict.fromkeys((OTHER, second), pytest.approx(1.0 / (1.0 + blame)))
    assert 0.0 < after.standing(good).score < before.standing(good).score
    assert after.standing(liar).score < before.standing(liar).score
    assert after.standing(OTHER).score == before.standing(OTHER).score


def test_endorsing_many_good_ones_does_not_wash_off_a_bad_one() -> None:
    liar = saw(Outcome.WRONG, 5, peer="did:key:zLiar")
    few = [endorse(OTHER, "did:key:zLiar"), endorse(OTHER, PEER)]
    many = [*few, *(endorse(OTHER, f"did:key:z{n}") for n in range(100))]
    assert score((), liar, few).credit == score((), liar, many).credit
    assert score((), liar, few).credit[OTHER] < 0.6


def test_only_endorsements_in_force_are_edges_and_the_heaviest_of_a_pair() -> None:
    vouched = [
        endorse(ROOT, PEER, 0.5),
        endorse(ROOT, PEER, 0.9, age_s=365 * DAY),
        endorse(ROOT, OTHER, age_s=-DAY),
        replace(endorse(ROOT, LISTED), until_s=NOW - DAY),
        endorse(OTHER, OTHER),
        endorse("did:key:zA", "did:key:zB"),
    ]
    state = score((), (), vouched, owners={"did:key:zA": "did:key:zO", "did:key:zB": "did:key:zO"})
    assert [(edge.by, edge.of, edge.weight) for edge in state.edges] == [(ROOT, PEER, 0.5)]


@pytest.mark.parametrize("weight", [0.0, -1.0, 1.1, math.nan])
def test_an_endorsement_with_an_impossible_weight_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="more than 0 and at most 1"):
        endorse(ROOT, PEER, weight)


@pytest.mark.parametrize("at_s", [math.nan, math.inf])
def test_an_endorsement_of_no_time_is_refused(at_s: float) -> None:
    with pytest.raises(ValueError, match="some time"):
        Endorsement(ROOT, PEER, at_s, 1.0, "receipts")


# What attacks buy.


def test_a_colluding_ring_buys_nothing() -> None:
    """They issue to one another, endorse one another and bind to one owner; no root knows them."""
    ring = [f"did:key:zR{n}" for n in range(30)]
    minted = [attest(kind, one, other) for one in ring for other in ring for kind in FULL[:2]]
    vouched = [endorse(one, other) for one in ring for other in ring if one != other]
    honest = [attest(), attest("UptimeVC")]
    alone = score(honest, (), [endorse(ROOT, PEER)])
    state = score([*honest, *minted], (), [endorse(ROOT, PEER), *vouched])
    assert {state.standing(name).score for name in ring} == {0.0}
    assert state.standing(PEER) == alone.standing(PEER)


def test_a_ring_does_not_move_whom_it_endorses() -> None:
    ring = [f"did:key:zR{n}" for n in range(100)]
    alone = score([attest()], (), [endorse(ROOT, PEER)]).standing(PEER)
    helped = score([attest()], (), [endorse(ROOT, PEER), *(endorse(r, PEER) for r in ring)])
    assert helped.standing(PEER).score == pytest.approx(alone.score, abs=1e-3)


def test_what_others_saw_is_no_evidence() -> None:
    """There is no way in for another's observations: a tally is by whom this node dealt with."""
    state = score([attest()], saw(Outcome.WRONG, 50, peer=OTHER))
    assert state.standing(PEER).score == 0.20
    assert state.standing(OTHER).integrity == 0.01


def test_a_binding_to_this_owner_needs_the_collector_not_the_score() -> None:
    """Owners are what the collector verified; nobody becomes this owner's by naming it."""
    policy = replace(POLICY, own_owner="did:key:zMe")
    claims = {"nodeLabel": "mine"}
    state = score([attest("BindingVC", "did:key:zMe", claims=claims)], policy=policy)
    assert state.standing(PEER).score == 0.0


# Many.


def test_a_thousand_peers_with_many_credentials() -> None:
    """One recompute over 1,000 peers, 10,000 credentials and tallies of 200,000 dealings."""
    peers = [f"did:key:zN{n}" for n in range(1000)]
    attests = [
        attest(kind, who, peer, age_s=n * 1000.0)
        for n, peer in enumerate(peers)
        for kind in FULL[:5]
        for who in (ROOT, LISTED)
    ]
    tally = tally_all(saw(Outcome.SERVED, 200), POLICY.behaviour_half_life_s)[PEER]
    state = score_all(Evidence(tuple(attests), dict.fromkeys(peers, tally)), POLICY, NOW)
    assert len(attests) == 10_000
    assert all(state.standing(peer).tier is Tier.TRUSTED for peer in peers)
