"""Behaviour: exact tallies in any order, removal as if never made, forgetting, bounded effects."""

from __future__ import annotations

import math
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trust_scene import DAY, NOW, PEER, POLICY, saw

from kwaai.limits import EVIDENCE_TIME_S_MAX
from kwaai.trust.behaviour import (
    FAILURE_PRIOR,
    INTEGRITY_POWER,
    PENALTY_FLOORS,
    UNSEEN,
    Conduct,
    judge,
)
from kwaai.trust.decay import decay
from kwaai.trust.evidence import Observation, Outcome
from kwaai.trust.tally import FACETS, OUTCOMES, Tallies, Tally, tally_all
from kwaai.trust.tiers import Floors

HALF_LIFE = POLICY.behaviour_half_life_s

numbers = st.none() | st.floats(allow_nan=True, allow_infinity=True)
observations = st.lists(
    st.builds(
        Observation,
        st.sampled_from(["did:key:zA", "did:key:zB"]),
        st.floats(NOW - 400 * DAY, NOW),
        st.sampled_from(OUTCOMES),
        numbers,
        numbers,
        numbers,
        numbers,
    ),
    max_size=12,
)


def conduct(*seen: list[Observation], now_s: float = NOW) -> Conduct:
    every = [each for some in seen for each in some]
    return judge(tally_all(every, HALF_LIFE).get(PEER), POLICY, now_s)


# The tally.


@given(observations, st.randoms(use_true_random=False))
def test_the_order_of_observations_does_not_matter_to_the_bit(
    seen: list[Observation], random: object
) -> None:
    shuffled = list(seen)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert tally_all(shuffled, HALF_LIFE) == tally_all(seen, HALF_LIFE)


@given(observations, observations)
def test_what_was_removed_was_never_there(kept: list[Observation], gone: list[Observation]) -> None:
    tallies = Tallies(HALF_LIFE)
    for each in [*gone, *kept]:
        tallies.add(each)
    for each in gone:
        tallies.remove(each)
    assert tallies.snapshot() == tally_all(kept, HALF_LIFE)
    assert len(tallies) == len({each.peer for each in kept})


@given(observations)
def test_one_by_one_is_the_same_as_all_at_once(seen: list[Observation]) -> None:
    tallies = Tallies(HALF_LIFE, seen[:3])
    for each in seen[3:]:
        tallies.add(each)
    assert tallies.snapshot() == tally_all(seen, HALF_LIFE)


def test_a_snapshot_does_not_change_and_a_peer_can_be_forgotten() -> None:
    tallies = Tallies(HALF_LIFE, saw(Outcome.SERVED))
    before = tallies.snapshot()
    tallies.add(saw(Outcome.FAILED)[0])
    assert before == tally_all(saw(Outcome.SERVED), HALF_LIFE)
    tallies.forget(PEER)
    tallies.forget(PEER)
    assert tallies.snapshot() == {}
    assert tallies.get(PEER) is None
    with pytest.raises(ValueError, match="no observation"):
        tallies.remove(saw(Outcome.SERVED)[0])


def test_what_is_not_there_cannot_be_removed() -> None:
    tally = tally_all(saw(Outcome.SERVED), HALF_LIFE)[PEER]
    with pytest.raises(ValueError, match="failed"):
        tally.minus(saw(Outcome.FAILED)[0])


@given(st.integers(0, 10**9), st.sampled_from([DAY, 30 * DAY, 365 * DAY]), st.integers(0, 20))
def test_decay_halves_at_exactly_one_half_life(age_s: int, half_life_s: float, more: int) -> None:
    assert decay(half_life_s, half_life_s) == 0.5
    assert decay(age_s + more * half_life_s, half_life_s) == decay(age_s, half_life_s) / 2**more
    assert decay(age_s, half_life_s) == pytest.approx(0.5 ** (age_s / half_life_s), rel=1e-9)
    assert decay(-age_s, half_life_s) == 1.0


@given(st.integers(0, 3 * 365), st.integers(0, 86_399), st.integers(0, 5))
def test_an_observation_weighs_half_after_exactly_one_half_life(
    days: int, seconds: int, more: int
) -> None:
    at_s = NOW - days * DAY - seconds
    tally = tally_all([Observation(PEER, at_s, Outcome.SERVED)], HALF_LIFE)[PEER]
    weight = tally.at(NOW)[0]
    assert tally.at(NOW + more * HALF_LIFE)[0] == weight / 2**more
    assert weight == pytest.approx(0.5 ** ((NOW - at_s) / HALF_LIFE), rel=1e-9)


@given(observations)
def test_the_sums_are_those_of_the_definition(seen: list[Observation]) -> None:
    for peer, tally in tally_all(seen, HALF_LIFE).items():
        own = [each for each in seen if each.peer == peer]
        total, facets = tally.at(NOW)
        expected = math.fsum(0.5 ** ((NOW - each.at_s) / HALF_LIFE) for each in own)
        assert total == pytest.approx(expected, rel=1e-6)
        for outcome in OUTCOMES:
            assert tally.count(outcome) == sum(each.outcome is outcome for each in own)
        for facet in facets.values():
            assert 0.0 <= facet.good < math.inf
            assert 0.0 <= facet.bad < math.inf


def test_what_a_wrong_clock_dated_after_now_weighs_as_if_of_now() -> None:
    future = saw(Outcome.WRONG, age_s=-4 * 365 * DAY)
    found = conduct(future, saw(Outcome.SERVED, 20))
    assert found.observations <= 21.0
    assert found.penalty >= conduct(saw(Outcome.WRONG, 21)).penalty
    assert tally_all(future, HALF_LIFE, until_s=NOW) == {}
    long_before = judge(tally_all(future, HALF_LIFE)[PEER], POLICY, 0.0)
    assert long_before.observations <= 1.0


@pytest.mark.parametrize("at_s", [-1.0, math.nan, math.inf, EVIDENCE_TIME_S_MAX * 2])
def test_an_impossible_time_is_refused(at_s: float) -> None:
    with pytest.raises(ValueError, match="made between 1970 and 2242"):
        Observation(PEER, at_s, Outcome.SERVED)


@pytest.mark.parametrize("at_s", [0.0, 1.0, EVIDENCE_TIME_S_MAX])
def test_the_ends_of_time_can_be_counted(at_s: float) -> None:
    tally = tally_all([Observation(PEER, at_s, Outcome.SERVED)], DAY)[PEER]
    for now_s in (0.0, NOW, EVIDENCE_TIME_S_MAX):
        total, facets = tally.at(now_s)
        assert 0.0 <= total <= 1.0
        assert 0.0 <= facets["availability"].good <= 1.0


# What it amounts to.


def test_an_unseen_peer_is_neutral() -> None:
    found = judge(None, POLICY, NOW)
    assert found is UNSEEN
    assert (found.value, found.points, found.penalty, found.integrity) == (0.5, 0.0, 1.0, 1.0)
    assert found.failure == FAILURE_PRIOR
    assert found.confidence(POLICY) == 0.0


def test_evidence_that_is_forgotten_leaves_the_neutral_prior() -> None:
    found = conduct(saw(Outcome.WRONG, 50), now_s=NOW + 60 * HALF_LIFE)
    assert found.value == pytest.approx(0.5)
    assert found.penalty == pytest.approx(1.0)
    assert found.confidence(POLICY) == pytest.approx(0.0)


def test_good_behaviour_adds_points_and_never_more_than_the_policy_gives() -> None:
    seen = saw(
        Outcome.SERVED, 500, tokens_s=10.0, claimed_tokens_s=10.0, latency_s=0.1, expected_s=0.1
    )
    found = conduct(seen, saw(Outcome.AGREED, 500))
    assert 0.24 < found.points < POLICY.behaviour_points
    assert found.penalty == 1.0
    assert math.fsum(found.point_parts.values()) == found.points


def test_served_answers_alone_make_known_after_forty_and_never_verified() -> None:
    known, verified, _ = POLICY.thresholds
    assert conduct(saw(Outcome.SERVED, 39)).points < known
    assert conduct(saw(Outcome.SERVED, 41)).points > known
    assert conduct(saw(Outcome.SERVED, 10**5)).points < verified


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome.FAILED,
        Outcome.STALLED,
        Outcome.UNREACHABLE,
        Outcome.REFUSED,
        Outcome.MISBEHAVED,
        Outcome.WRONG,
        Outcome.DISPUTED,
    ],
)
def test_one_bad_sample_never_bans(outcome: Outcome) -> None:
    found = conduct(saw(outcome))
    assert 0.5 < found.penalty < 1.0
    assert found.points == 0.0


@given(observations, st.sampled_from(OUTCOMES), st.floats(0.0, 1e6), st.floats(1e-6, 1e6))
def test_one_observation_more_takes_at_most_half(
    seen: list[Observation], outcome: Outcome, measured: float, claimed: float
) -> None:
    one = Observation(PEER, NOW, outcome, measured, claimed, measured, claimed)
    mine = [each for each in seen if each.peer == "did:key:zA"]
    before = judge(tally_all(mine, HALF_LIFE).get("did:key:zA"), POLICY, NOW)
    added = Observation("did:key:zA", *_fields(one))
    after = judge(tally_all([*mine, added], HALF_LIFE).get("did:key:zA"), POLICY, NOW)
    assert after.penalty >= before.penalty * 0.5


def _fields(one: Observation) -> tuple[object, ...]:
    return (
        one.at_s,
        one.outcome,
        one.latency_s,
        one.expected_s,
        one.tokens_s,
        one.claimed_tokens_s,
    )


@given(observations)
def test_values_stay_in_their_ranges_whatever_peers_claim(seen: list[Observation]) -> None:
    for tally in tally_all(seen, HALF_LIFE).values():
        found = judge(tally, POLICY, NOW)
        assert 0.0 < found.value < 1.0
        assert 0.0 < found.penalty <= 1.0
        assert 0.0 <= found.points < POLICY.behaviour_points
        assert 0.0 < found.failure < 1.0
        for name in FACETS:
            assert PENALTY_FLOORS[name] <= found.factors[name] <= 1.0


@given(st.lists(st.sampled_from(OUTCOMES), max_size=30))
def test_a_good_observation_never_lowers_and_a_bad_one_never_raises(seen: list[Outcome]) -> None:
    before = conduct(*(saw(outcome) for outcome in seen))
    for outcome in OUTCOMES:
        after = conduct(*(saw(each) for each in seen), saw(outcome))
        gave = (after.points, after.penalty, after.value)
        had = (before.points, before.penalty, before.value)
        if outcome in (Outcome.SERVED, Outcome.AGREED):
            assert all(new >= old for new, old in zip(gave, had, strict=True))
        else:
            assert all(new <= old for new, old in zip(gave, had, strict=True))


def test_a_liar_sinks_however_many_checks_it_passes() -> None:
    """One in ten wrong: the more it was checked, the less is left; agreements do not buy it off."""
    left = [
        conduct(
            saw(Outcome.AGREED, 9 * n), saw(Outcome.WRONG, n), saw(Outcome.SERVED, 1000)
        ).penalty
        for n in (1, 3, 10, 20)
    ]
    assert left == sorted(left, reverse=True)
    assert left[0] > 0.7
    assert left[2] < 0.32
    assert left[3] < 0.16


@pytest.mark.parametrize(("agreed", "wrong"), [(0, 3), (30, 11), (1000, 11)])
def test_integrity_falls_below_its_floor_after_several_wrong_answers(
    agreed: int, wrong: int
) -> None:
    floor = Floors().integrity
    assert conduct(saw(Outcome.AGREED, agreed), saw(Outcome.WRONG, wrong - 1)).integrity >= floor
    assert conduct(saw(Outcome.AGREED, agreed), saw(Outcome.WRONG, wrong)).integrity < floor


def test_being_away_takes_a_tier_and_lying_takes_all() -> None:
    away = conduct(saw(Outcome.UNREACHABLE, 10_000))
    assert away.penalty == PENALTY_FLOORS["availability"]
    assert away.integrity == 1.0
    assert POLICY.thresholds[1] * away.penalty >= POLICY.thresholds[0]
    liar = conduct(saw(Outcome.WRONG, 10_000))
    assert liar.integrity == PENALTY_FLOORS["correctness"]


def test_wrong_answers_weigh_more_than_unproven_disputes_and_broken_bytes() -> None:
    found = [
        conduct(saw(each, 3)).penalty
        for each in (Outcome.WRONG, Outcome.MISBEHAVED, Outcome.DISPUTED)
    ]
    assert found == sorted(found)
    assert conduct(saw(Outcome.WRONG)).penalty == pytest.approx((8 / 11) ** INTEGRITY_POWER)


@pytest.mark.parametrize(
    ("measured", "factor"),
    [(10.0, 1.0), (5.0, 1.0), (2.5, 0.625), (0.0, 0.5)],
)
def test_claims_are_held_against_what_is_measured(measured: float, factor: float) -> None:
    seen = saw(Outcome.SERVED, 24, tokens_s=measured, claimed_tokens_s=10.0)
    assert conduct(seen).factors["throughput"] == pytest.approx(factor, abs=0.001)


@pytest.mark.parametrize(
    ("latency_s", "factor"), [(0.1, 1.0), (0.3, 1.0), (0.6, 0.625), (99.0, 0.5)]
)
def test_latency_is_held_against_what_was_expected(latency_s: float, factor: float) -> None:
    seen = saw(Outcome.SERVED, 24, latency_s=latency_s, expected_s=0.1)
    assert conduct(seen).factors["latency"] == pytest.approx(factor, abs=0.001)


@pytest.mark.parametrize("claim", [0.0, -5.0, math.nan, math.inf])
def test_a_claim_that_is_none_counts_neither_way(claim: float) -> None:
    found = conduct(saw(Outcome.SERVED, 5, tokens_s=10.0, claimed_tokens_s=claim))
    assert found.facets["throughput"].good == found.facets["throughput"].bad == 0.0


def test_only_served_answers_say_something_of_speed() -> None:
    found = conduct(saw(Outcome.STALLED, 5, latency_s=300.0, expected_s=0.1))
    assert found.factors["latency"] == 1.0


def test_the_probability_of_failure_follows_what_was_seen() -> None:
    assert conduct(saw(Outcome.SERVED, 100)).failure < 0.01
    assert conduct(saw(Outcome.FAILED, 100)).failure > 0.9
    busy = conduct(saw(Outcome.SERVED, 90), saw(Outcome.REFUSED, 10))
    assert busy.failure < 0.02


def test_tallies_of_another_half_life_are_refused() -> None:
    tally = tally_all(saw(Outcome.SERVED), DAY)[PEER]
    with pytest.raises(ValueError, match="count the observations anew"):
        judge(tally, POLICY, NOW)


def test_an_empty_tally_is_neutral_too() -> None:
    found = judge(Tally(HALF_LIFE), POLICY, NOW)
    assert (found.value, found.points, found.penalty, found.observations) == (0.5, 0.0, 1.0, 0.0)


def test_three_observations_in_every_order() -> None:
    seen = [*saw(Outcome.SERVED, age_s=3.7), *saw(Outcome.WRONG, age_s=1e6), *saw(Outcome.STALLED)]
    found = {
        repr(judge(tally_all(some, HALF_LIFE)[PEER], POLICY, NOW)) for some in permutations(seen)
    }
    assert len(found) == 1
