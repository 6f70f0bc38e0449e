"""Verdicts of spot checks, and whom they make us check more often."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from kwaai.limits import (
    SPOT_CHECK_CLEARED,
    SPOT_CHECK_CLEARED_WRONG,
    SPOT_CHECK_NEW,
    SPOT_CHECK_TOLERANCE,
    SPOT_CHECK_WATCHED_MAX,
)
from kwaai.trust.evidence import Outcome
from kwaai.trust.spot_check import FAR, Output, Rows, Verdict, Watch, distance, judge

AGREED, WRONG, DISPUTED = Outcome.AGREED, Outcome.WRONG, Outcome.DISPUTED

TRUE = np.random.default_rng(1).normal(size=(4, 16)).astype(np.float32)


def outputs(*rows: Rows) -> list[Output]:
    return [Output(name, f"owner of {name}", r) for name, r in zip("abc", rows, strict=False)]


def verdicts(found: Sequence[Output]) -> dict[str, Outcome]:
    seen = [dict(judge(order).outcomes) for order in permutations(found)]
    assert all(one == seen[0] for one in seen)  # whoever comes first
    return seen[0]


def moved(by: float) -> Rows:
    """The true rows, the last of them off by a share of its length."""
    rows = TRUE.copy()
    rows[-1] *= 1.0 + by
    return rows


any_rows = arrays.arrays(
    st.sampled_from([np.float16, np.float32, np.float64]),
    st.tuples(st.integers(0, 4), st.integers(0, 5)),
)


@given(any_rows, any_rows)
def test_the_distance_of_anything_is_a_number_and_the_same_from_both_sides(
    one: Rows, other: Rows
) -> None:
    apart = distance(one, other)
    assert apart == distance(other, one)
    assert apart == FAR or 0.0 <= apart <= 2.0000001


def test_the_worst_row_decides() -> None:
    many = np.ones((1000, 8), np.float32)
    wrong = many.copy()
    wrong[500] = -1.0
    assert distance(many, wrong) == pytest.approx(2.0)
    assert distance(many, many.copy()) == 0.0


@pytest.mark.parametrize(
    "other",
    [TRUE[:3], TRUE[:, :8], TRUE.reshape(-1), np.full_like(TRUE, np.nan), TRUE * np.inf],
)
def test_what_cannot_be_compared_is_far(other: Rows) -> None:
    assert distance(TRUE, other) == FAR
    assert verdicts(outputs(TRUE, other)) == {"a": DISPUTED, "b": DISPUTED}


def test_noise_of_float16_is_no_disagreement() -> None:
    half = TRUE.astype(np.float16).astype(np.float32)
    assert 0.0 < distance(TRUE, half) < SPOT_CHECK_TOLERANCE / 10
    assert verdicts(outputs(TRUE, half)) == {"a": AGREED, "b": AGREED}


def test_of_two_that_disagree_neither_is_wrong() -> None:
    found = outputs(TRUE, moved(0.5))
    assert verdicts(found) == {"a": DISPUTED, "b": DISPUTED}
    assert judge(found).needs_third
    assert not judge(outputs(TRUE, TRUE)).needs_third


def test_a_third_decides() -> None:
    lie = moved(0.5)
    assert verdicts(outputs(TRUE, lie, TRUE)) == {"a": AGREED, "b": WRONG, "c": AGREED}
    assert verdicts(outputs(TRUE, lie, moved(0.001))) == {"a": AGREED, "b": WRONG, "c": AGREED}


def test_a_third_that_agrees_with_nobody_decides_nothing() -> None:
    found = outputs(TRUE, moved(0.5), moved(-0.5))
    assert verdicts(found) == {"a": DISPUTED, "b": DISPUTED, "c": DISPUTED}
    assert not judge(found).needs_third


def test_a_third_between_two_decides_nothing() -> None:
    near = SPOT_CHECK_TOLERANCE * 0.8
    found = outputs(moved(-near), moved(near), TRUE)
    assert verdicts(found) == {"a": DISPUTED, "b": DISPUTED, "c": AGREED}


def test_three_that_agree() -> None:
    assert verdicts(outputs(TRUE, TRUE, TRUE)) == {"a": AGREED, "b": AGREED, "c": AGREED}


@pytest.mark.parametrize(
    "found",
    [
        outputs(TRUE),
        [*outputs(TRUE, TRUE, TRUE), Output("d", "its own", TRUE)],
        [Output("a", "one", TRUE), Output("a", "two", TRUE)],
        [Output("a", "one", TRUE), Output("b", "one", TRUE)],
        [*outputs(TRUE, TRUE), Output("c", "owner of a", TRUE)],
    ],
)
def test_who_answers_for_two_may_not_outvote_the_third(found: list[Output]) -> None:
    with pytest.raises(ValueError, match="spot check"):
        judge(found)


def verdict(**outcomes: Outcome) -> Verdict:
    return Verdict(outcomes, 0.0)


def test_strangers_are_checked_more_often_until_they_have_agreed() -> None:
    watch = Watch(0.02)
    assert watch.share("a") == pytest.approx(0.2)
    for _ in range(SPOT_CHECK_NEW):
        watch.note(verdict(a=AGREED))
    assert watch.share("a") == 0.02
    assert watch.share("b") == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("outcome", "missing"), [(WRONG, SPOT_CHECK_CLEARED_WRONG), (DISPUTED, SPOT_CHECK_CLEARED)]
)
def test_a_disagreement_is_followed_by_checks_until_it_is_cleared(
    outcome: Outcome, missing: int
) -> None:
    watch = Watch(0.02)
    watch.note(verdict(a=outcome, b=AGREED))
    assert watch.share("a") == 1.0
    assert not watch.is_watched("b")
    for _ in range(missing - 1):
        watch.note(verdict(a=AGREED))
    assert watch.is_watched("a")
    watch.note(verdict(a=AGREED))
    assert not watch.is_watched("a")
    assert watch.share("a") == pytest.approx(0.2)
    watch.suspect(["a", "b"])
    assert watch.share("a") == watch.share("b") == 1.0


def test_a_dispute_does_not_shorten_what_a_wrong_answer_asks_for() -> None:
    watch = Watch(0.02)
    watch.note(verdict(a=WRONG))
    watch.note(verdict(a=DISPUTED))
    for _ in range(SPOT_CHECK_CLEARED_WRONG - 1):
        watch.note(verdict(a=AGREED))
    assert watch.is_watched("a")


def test_a_liar_found_makes_everybody_a_stranger_again_and_once() -> None:
    watch = Watch(0.02)
    for _ in range(SPOT_CHECK_NEW):
        watch.note(verdict(a=AGREED, b=AGREED))
    watch.note(verdict(a=AGREED, liar=WRONG))
    assert watch.share("b") == pytest.approx(0.2)
    for _ in range(SPOT_CHECK_NEW):
        watch.note(verdict(b=AGREED, liar=WRONG))  # it is known to lie: no news
    assert watch.share("b") == 0.02
    assert watch.share("liar") == 1.0


def test_nobody_is_checked_where_checks_are_off() -> None:
    watch = Watch(0.0)
    watch.suspect(["a"])
    assert watch.share("a") == watch.share("b") == 0.0


def test_the_watch_is_bounded() -> None:
    watch = Watch(1.0)
    for number in range(SPOT_CHECK_WATCHED_MAX + 10):
        watch.suspect([str(number)])
    assert not watch.is_watched("0")
    assert watch.is_watched(str(SPOT_CHECK_WATCHED_MAX))


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_is_a_probability(share: float) -> None:
    with pytest.raises(ValueError, match="share"):
        Watch(share)
