"""Challenges that a node gives out: single use, and never mistaken for somebody else's."""

from __future__ import annotations

import pytest

from credentials.errors import ChallengeWrong
from credentials.keys import SecretKey
from credentials.limits import CHALLENGE_TTL_S, CHALLENGES_MAX
from kwaai.node.challenges import Challenges

NOW_S = 1_800_000_000.0


class Clock:
    def __init__(self) -> None:
        self.now_s = NOW_S

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def challenges(clock: Clock) -> Challenges:
    return Challenges(SecretKey(bytes(32)), clock)


def test_one_answers_once(challenges: Challenges) -> None:
    challenge = challenges.new()
    challenges.use(challenge)
    with pytest.raises(ChallengeWrong):
        challenges.use(challenge)


def test_none_is_the_same(challenges: Challenges) -> None:
    assert len({challenges.new() for _ in range(100)}) == 100


def test_it_has_an_end(challenges: Challenges, clock: Clock) -> None:
    challenge = challenges.new()
    clock.now_s += CHALLENGE_TTL_S
    with pytest.raises(ChallengeWrong):
        challenges.use(challenge)


def test_a_flood_does_not_make_a_used_one_good_again(challenges: Challenges) -> None:
    used, forgotten = challenges.new(), challenges.new()
    challenges.use(used)
    for _ in range(2 * CHALLENGES_MAX + 1):
        challenges.new()
    for challenge in (used, forgotten):
        with pytest.raises(ChallengeWrong):
            challenges.use(challenge)


def test_one_of_an_earlier_run_is_refused(clock: Clock) -> None:
    challenge = Challenges(SecretKey(bytes(32)), clock).new()
    with pytest.raises(ChallengeWrong):
        Challenges(SecretKey(bytes(32)), clock).use(challenge)


@pytest.mark.parametrize("other", [None, "", "short", "their-own-challenge-0123456789", "é" * 40])
def test_the_callers_own_are_the_callers_care(challenges: Challenges, other: str | None) -> None:
    challenges.use(other)
    challenges.use(other)


def test_another_nodes_are_not_ours(clock: Clock, challenges: Challenges) -> None:
    challenges.use(Challenges(SecretKey(bytes([1]) * 32), clock).new())
