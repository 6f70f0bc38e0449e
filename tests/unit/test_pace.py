"""What a peer's past speed says of its next promise."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwaai.trust.behaviour import UNSEEN, judge
from kwaai.trust.evidence import Observation, Outcome
from kwaai.trust.pace import pace
from kwaai.trust.policy import TrustPolicy
from kwaai.trust.tally import tally_all

POLICY = TrustPolicy()
NOW_S = 1_800_000_000.0


def served(had: float, claimed: float, count: int, at_s: float = NOW_S) -> float:
    seen = [
        Observation("peer", at_s, Outcome.SERVED, tokens_s=had, claimed_tokens_s=claimed)
        for _ in range(count)
    ]
    tally = tally_all(seen, POLICY.behaviour_half_life_s).get("peer")
    return pace(judge(tally, POLICY, NOW_S))


def test_an_unseen_peer_is_as_fast_as_it_says() -> None:
    assert pace(UNSEEN) == 1.0


@pytest.mark.parametrize("had", [40.0, 80.0, 36.0, 33.0])
def test_who_keeps_its_word_within_the_slack_is_believed(had: float) -> None:
    assert served(had, 40.0, 50) == 1.0


def test_who_is_a_quarter_as_fast_as_it_says_is_not() -> None:
    few, many = (served(10.0, 40.0, count) for count in (1, 50))
    assert 1.0 < few < 1.4 < many < 1.25 * 4


def test_it_is_forgotten_in_time() -> None:
    long_ago = NOW_S - 12 * POLICY.behaviour_half_life_s
    assert served(10.0, 40.0, 50, long_ago) < 1.01 < served(10.0, 40.0, 50)


@given(st.floats(0.0, 1e9), st.floats(1e-9, 1e9), st.integers(1, 30))
def test_it_is_a_factor_of_at_least_one(had: float, claimed: float, count: int) -> None:
    assert 1.0 <= served(had, claimed, count) < 100.0
