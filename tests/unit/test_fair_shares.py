"""Fair queueing by weight: sessions of a slice, and steps of a batch. Without weights nothing is
different from before (tests/unit/test_fences.py, test_slice_host.py).
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from credentials.keys import PeerId
from kwaai.inference.batch import Piece, Session, plan_batch
from kwaai.limits import COMPUTE_WEIGHT_MAX, SHARD_SHARE_S, SHARD_TURN_S
from kwaai.node.shares import Shares

TRUSTED, OTHER, UNKNOWN, STRANGER = (PeerId(name) for name in ("t", "o", "u", "s"))
WEIGHTS = {TRUSTED: 8, OTHER: 8}


def shares() -> Shares:
    return Shares(lambda peer: WEIGHTS.get(peer, 1))


class Slice:
    """A slice whose requesters ask again each second until they are let in, and hold a while."""

    def __init__(self, weights: dict[str, int], sessions: int, seed: int) -> None:
        self.weights, self.most = weights, sessions
        self.shares = Shares(lambda peer: weights[peer])
        self.draw = random.Random(seed)
        self.held = Counter[PeerId]()
        self.ends: list[tuple[float, PeerId]] = []
        self.let_in = Counter[PeerId]()
        self.wait_s_max = Counter[PeerId]()
        self.since_s: dict[PeerId, float] = {}

    def second(self, now_s: float) -> None:
        for end_s, peer in [entry for entry in self.ends if entry[0] <= now_s]:
            self.ends.remove((end_s, peer))
            self.held[peer] -= 1
        asking = [PeerId(name) for name in self.weights]
        self.draw.shuffle(asking)
        for peer in asking:
            self.ask(peer, now_s)

    def ask(self, peer: PeerId, now_s: float) -> None:
        held = +self.held
        free = self.most - held.total()
        since_s = self.since_s.setdefault(peer, now_s)
        if not self.shares.may_open(peer, held, now_s, most=self.most):
            return
        if not self.shares.must_wait(peer, now_s, free=free):
            self.shares.let_in(peer, now_s)
            if free > 0:
                self.held[peer] += 1
                self.ends.append((now_s + self.draw.choice((2.0, 5.0, 9.0)), peer))
                self.let_in[peer] += 1
                self.wait_s_max[peer] = max(self.wait_s_max[peer], round(now_s - since_s))
                del self.since_s[peer]
                return
            self.shares.found_none(peer)
        self.shares.turned_away(peer, held, now_s, most=self.most)


@pytest.mark.parametrize("strangers", [1, 5, 50])
def test_turns_go_by_weight_however_many_strangers_come(strangers: int) -> None:
    """Eight of the highest tier to one turn of all strangers together: 64 to 1."""
    names = {f"trusted-{n}": 8 for n in range(8)} | {f"unknown-{n}": 1 for n in range(strangers)}
    slice_ = Slice(names, 4, seed=strangers)
    for second in range(1000):
        slice_.second(float(second))
    by = Counter[str]()
    for peer, count in slice_.let_in.items():
        by[peer.partition("-")[0]] += count
    assert 0.005 < by["unknown"] / by.total() < 0.04, by
    assert min(slice_.let_in[PeerId(f"trusted-{n}")] for n in range(8)) > by["unknown"] / strangers
    waits = slice_.wait_s_max
    trusted_s = max(s for peer, s in waits.items() if peer.startswith("trusted"))
    unknown_s = max(s for peer, s in waits.items() if peer.startswith("unknown"))
    assert trusted_s < unknown_s


def test_every_tier_is_served() -> None:
    names = {f"{weight}-{n}": weight for weight in (1, 2, 4, 8) for n in range(6)}
    slice_ = Slice(names, 3, seed=7)
    for second in range(3000):
        slice_.second(float(second))
    by = Counter[int]()
    for peer, count in slice_.let_in.items():
        by[names[peer]] += count
    assert by[1] < by[2] < by[4] < by[8]
    assert by[1] > by.total() / 150
    assert min(slice_.let_in[PeerId(name)] for name in names) > 0


@given(
    asked=st.lists(st.tuples(st.sampled_from("abcdef"), st.booleans()), max_size=60),
    most=st.integers(1, 6),
)
def test_equal_weights_take_no_turns(asked: list[tuple[str, bool]], most: int) -> None:
    """Whoever asks first comes first, as without weights."""
    one, plain = Shares(lambda _: 4), Shares()
    for at, (name, is_full) in enumerate(asked):
        now_s = float(at)
        for each in (one, plain):
            assert not each.must_wait(PeerId(name), now_s, free=0)
            if is_full:
                each.turned_away(PeerId(name), {}, now_s, most=most)
            else:
                each.let_in(PeerId(name), now_s)
        for held in range(most):
            answers = {
                s.may_open(PeerId(name), {PeerId(name): held}, now_s, most=most)
                for s in (one, plain)
            }
            assert len(answers) == 1


def test_a_share_goes_by_weight() -> None:
    fair = shares()
    fair.turned_away(TRUSTED, {UNKNOWN: 8}, 0.0, most=8)
    assert fair.may_open(UNKNOWN, {}, 0.0, most=8)
    assert not fair.may_open(UNKNOWN, {UNKNOWN: 1}, 0.0, most=8)
    assert fair.greedy({UNKNOWN: 2}, 0.0, most=8) == UNKNOWN
    fair = shares()
    fair.turned_away(UNKNOWN, {TRUSTED: 8}, 0.0, most=8)
    assert fair.may_open(TRUSTED, {TRUSTED: 6}, 0.0, most=8)
    assert not fair.may_open(TRUSTED, {TRUSTED: 7}, 0.0, most=8)
    assert fair.greedy({TRUSTED: 8}, 0.0, most=8) == TRUSTED  # everybody is served
    assert fair.greedy({TRUSTED: 7, UNKNOWN: 1}, 0.0, most=8) is None


def test_many_of_one_weight_are_greedy_together() -> None:
    fair = shares()
    many = {PeerId(f"sybil-{n}"): 1 for n in range(8)}
    assert fair.greedy(many, 0.0, most=8) is None
    fair.turned_away(STRANGER, many, 0.0, most=8)
    assert fair.greedy(many, 0.0, most=8) is None  # among equals they are eight
    fair.turned_away(TRUSTED, many, 0.0, most=8)
    assert fair.greedy(many, 0.0, most=8) in many
    fair.let_in(TRUSTED, 0.0)
    assert fair.greedy(many, 0.0, most=8) is None


def test_a_turn_is_kept_for_a_moment_only() -> None:
    fair = shares()
    fair.let_in(UNKNOWN, 9.0)  # the strangers have had their turn
    fair.turned_away(TRUSTED, {UNKNOWN: 4}, 10.0, most=4)
    assert fair.must_wait(UNKNOWN, 10.5, free=1)
    assert not fair.must_wait(UNKNOWN, 10.5, free=2)
    assert not fair.must_wait(TRUSTED, 10.5, free=1)
    assert not fair.must_wait(OTHER, 10.5, free=1)
    assert not fair.must_wait(UNKNOWN, 10.1 + SHARD_TURN_S, free=1)
    assert not fair.may_open(UNKNOWN, {UNKNOWN: 1}, 10.0 + SHARD_SHARE_S, most=4)
    assert fair.may_open(UNKNOWN, {UNKNOWN: 1}, 10.1 + SHARD_SHARE_S, most=4)


def test_a_weight_out_of_bounds_is_the_nearest_that_is_not() -> None:
    fair = Shares(lambda peer: 10**9 if peer == TRUSTED else -5)
    fair.turned_away(TRUSTED, {UNKNOWN: 8}, 0.0, most=18)
    assert fair.may_open(UNKNOWN, {UNKNOWN: 1}, 0.0, most=18)
    assert not fair.may_open(UNKNOWN, {UNKNOWN: 2}, 0.0, most=18)


# Steps.


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def waiting(
    loop: asyncio.AbstractEventLoop, *sizes: tuple[int, int]
) -> list[tuple[Session, Piece]]:
    """Sessions of (weight, rows), asked in this order."""
    return [
        (
            Session(number, number, weight),
            Piece(0, np.zeros(rows, np.int32), 0, loop.create_future(), float(number)),
        )
        for number, (weight, rows) in enumerate(sizes)
    ]


def test_the_heavy_go_first_where_not_all_fit(loop: asyncio.AbstractEventLoop) -> None:
    entries = waiting(loop, (1, 100), (8, 100), (1, 1), (8, 1), (4, 60))
    batch = plan_batch(entries, 128, 8)
    assert [part.session.number for part in batch] == [3, 2, 1]
    roomy = plan_batch(waiting(loop, (1, 100), (8, 100)), 512, 8)
    assert len(roomy) == 2


@pytest.mark.parametrize(("weight", "passes"), [(8, 1), (4, 2), (2, 4), (1, 8)])
def test_the_light_wait_longer_and_not_for_ever(
    weight: int, passes: int, loop: asyncio.AbstractEventLoop
) -> None:
    """Heavy long pieces come without end; how many passes until the light one has its own?"""
    heavy, light = waiting(loop, (8, 100), (weight, 100))
    light[1].asked_s = -1.0 if weight < 8 else 1.0
    waited = 0
    while plan_batch([heavy, light], 128, 8)[0].session is not light[0]:
        heavy = waiting(loop, (8, 100))[0]
        waited += 1
        assert waited < 20
    assert waited == passes


def test_heavy_ones_that_take_turns_do_not_starve_a_light_one(
    loop: asyncio.AbstractEventLoop,
) -> None:
    entries = waiting(loop, (8, 100), (8, 100), (1, 100))
    for number in range(20):
        [part] = plan_batch(entries, 128, 8)
        if part.session is entries[2][0]:
            break
        at = next(i for i, (session, _) in enumerate(entries) if session is part.session)
        entries[at] = (part.session, waiting(loop, (8, 100))[0][1])
        entries[at][1].asked_s = 10.0 + number
    else:
        pytest.fail("it was never run")


def test_own_work_weighs_as_much_as_any() -> None:
    assert Session(1, 1).weight == COMPUTE_WEIGHT_MAX
