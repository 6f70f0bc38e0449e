"""Sampling: the asked distribution, the same tokens for a seed, bad input refused by name."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kwaai import limits
from kwaai.errors import PeerError, UserError
from kwaai.inference.sampling import Row, Sampler, SamplingParams, _nucleus, _top, _weights

DRAWS = 4000
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
ROWS = arrays(np.float32, st.integers(1, 60), elements=FINITE)


def _row(*values: float) -> Row:
    return np.array(values, np.float32)


def _of(*probabilities: float) -> Row:
    return np.log(np.array(probabilities, np.float64)).astype(np.float32)


def _draws(logits: Row, **params: Any) -> Counter[int]:
    sampler = Sampler(SamplingParams(**params), seed=7)
    return Counter(sampler.sample(logits).token for _ in range(DRAWS))


def _assert_distribution(drawn: Counter[int], expected: dict[int, float]) -> None:
    assert set(drawn) == set(expected)
    chi = sum((drawn[t] - DRAWS * p) ** 2 / (DRAWS * p) for t, p in expected.items())
    freedom = len(expected) - 1
    assert chi <= freedom + 4 * math.sqrt(2 * freedom) + 4, drawn


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({}, {0: 0.4, 1: 0.3, 2: 0.2, 3: 0.1}),
        ({"temperature": 0.5}, {0: 16 / 30, 1: 9 / 30, 2: 4 / 30, 3: 1 / 30}),
        ({"top_k": 2}, {0: 4 / 7, 1: 3 / 7}),
        ({"top_k": 100}, {0: 0.4, 1: 0.3, 2: 0.2, 3: 0.1}),
        ({"top_p": 0.69}, {0: 4 / 7, 1: 3 / 7}),
        ({"top_p": 0.71}, {0: 4 / 9, 1: 3 / 9, 2: 2 / 9}),
        ({"top_p": 0.0}, {0: 1.0}),
        ({"top_p": 0.39}, {0: 1.0}),
        ({"min_p": 0.6}, {0: 4 / 7, 1: 3 / 7}),
        ({"min_p": 1.0}, {0: 1.0}),
        ({"top_k": 3, "top_p": 0.75}, {0: 4 / 7, 1: 3 / 7}),  # of 4/9, 3/9, 2/9
        ({"top_p": 0.95, "min_p": 0.3}, {0: 4 / 9, 1: 3 / 9, 2: 2 / 9}),
        ({"temperature": 1e-300}, {0: 1.0}),
        ({"logit_bias": {0: -100}}, {1: 3 / 6, 2: 2 / 6, 3: 1 / 6}),
        ({"logit_bias": {2: 100, 3: 100}}, {2: 2 / 3, 3: 1 / 3}),
        ({"logit_bias": {3: math.log(4)}}, {0: 4 / 13, 1: 3 / 13, 2: 2 / 13, 3: 4 / 13}),
    ],
)
def test_the_distribution_is_the_asked_one(
    params: dict[str, Any], expected: dict[int, float]
) -> None:
    _assert_distribution(_draws(_of(0.4, 0.3, 0.2, 0.1), **params), expected)


def test_the_order_of_the_vocabulary_does_not_matter() -> None:
    drawn = _draws(_of(0.1, 0.4, 0.2, 0.3), top_k=3, top_p=0.75)
    _assert_distribution(drawn, {1: 4 / 7, 3: 3 / 7})


def test_impossible_tokens_are_never_drawn() -> None:
    _assert_distribution(_draws(_row(-np.inf, 0, -np.inf, 0)), {1: 0.5, 3: 0.5})


@given(
    arrays(np.float32, st.integers(1, 300), elements=st.floats(-20, 20, width=32)),
    st.floats(0, 0.999),
)
def test_top_p_keeps_the_smallest_set(logits: Row, share: float) -> None:
    weights = _weights(logits, float(logits.max()), 1.0)
    kept = _nucleus(weights, share)
    wanted = share * weights.sum()
    assert weights[kept].sum() >= wanted * (1 - 1e-9)
    assert weights[kept].sum() - weights[kept].min() <= wanted * (1 + 1e-9)
    assert len(set(kept.tolist())) == len(kept)
    dropped = np.delete(weights, kept)
    assert dropped.max(initial=0.0) <= weights[kept].min()


@given(arrays(np.float32, st.integers(1, 50), elements=st.sampled_from([0, 1, 2])), st.data())
def test_top_k_keeps_the_lower_ids_of_equals(logits: Row, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, logits.size))
    expected = sorted(range(logits.size), key=lambda i: (-logits[i], i))[:count]
    assert _top(logits, count).tolist() == sorted(expected)


@given(ROWS)
def test_greedy_is_the_first_highest(logits: Row) -> None:
    kept = logits.copy()
    sampled = Sampler(SamplingParams(temperature=0)).sample(logits)
    assert sampled.token == max(range(logits.size), key=lambda i: (logits[i], -i))
    assert sampled.logprob is None
    assert np.array_equal(logits, kept)


@settings(max_examples=200)
@given(ROWS, st.data())
def test_no_finite_logits_break_any_parameters(logits: Row, data: st.DataObject) -> None:
    token = st.integers(0, logits.size - 1)
    params = SamplingParams(
        temperature=data.draw(st.sampled_from([0.0, 5e-324, 0.1, 1.0, 2.0])),
        top_k=data.draw(st.integers(0, 70)),
        top_p=data.draw(st.floats(0, 1)),
        min_p=data.draw(st.floats(0, 1)),
        repetition_penalty=data.draw(st.floats(1e-9, 10)),
        frequency_penalty=data.draw(st.floats(-2, 2)),
        presence_penalty=data.draw(st.floats(-2, 2)),
        logit_bias=data.draw(st.dictionaries(token, st.floats(-99, 100), max_size=3)),
        logprobs=data.draw(st.none() | st.integers(0, 20)),
        seed=data.draw(st.integers(-(2**63), 2**64 - 1)),
    )
    prompt = data.draw(st.lists(st.integers(0, 99), max_size=5))
    kept = logits.copy()
    one, two = Sampler(params, prompt), Sampler(params, prompt)
    for _ in range(3):
        sampled = one.sample(logits)
        assert sampled == two.sample(logits)
        assert 0 <= sampled.token < logits.size
        assert sampled.logprob is None or math.isfinite(sampled.logprob)
    assert np.array_equal(logits, kept)


def test_a_seed_gives_these_tokens_on_every_machine() -> None:
    sampler = Sampler(SamplingParams(seed=42))
    logits = _row(*([0.0] * 1000))
    assert [sampler.sample(logits).token for _ in range(6)] == [773, 438, 858, 697, 94, 975]


def test_a_seed_given_apart_wins() -> None:
    logits = _row(*([0.0] * 1000))
    apart = [Sampler(SamplingParams(seed=1), seed=seed).sample(logits).token for seed in (2, 3)]
    assert apart[0] == Sampler(SamplingParams(seed=2)).sample(logits).token
    assert apart[0] != apart[1]


def test_nobody_drew_a_seed() -> None:
    with pytest.raises(ValueError, match="seed"):
        Sampler(SamplingParams())
    assert Sampler(SamplingParams(temperature=0)).sample(_row(1, 2)).token == 1


def test_frequency_counts_and_presence_does_not() -> None:
    logits = _row(1.0, 0.5, -9)
    often = Sampler(SamplingParams(temperature=0, frequency_penalty=0.2), [0] * 9)
    assert [often.sample(logits).token for _ in range(6)] == [0, 0, 0, 1, 0, 1]
    once = Sampler(SamplingParams(temperature=0, presence_penalty=0.6), [0] * 9)
    assert [once.sample(logits).token for _ in range(4)] == [0, 1, 0, 0]


def test_repetition_reaches_64_tokens_back_into_the_prompt() -> None:
    logits = _row(2.0, 1.5, -1.0)
    params = SamplingParams(temperature=0, repetition_penalty=2)
    assert Sampler(params, [0, *[2] * 63]).sample(logits).token == 1
    assert Sampler(params, [0, *[2] * 64]).sample(logits).token == 0
    negative = _row(-2.0, -1.5)  # multiplied: -3 is below -2
    assert Sampler(params, [1]).sample(negative).token == 0
    assert Sampler(params, [7_000_000]).sample(negative).token == 1


def test_logprobs_are_the_models_own() -> None:
    params = SamplingParams(temperature=0, logprobs=2, logit_bias={0: -100}, top_k=1)
    sampled = Sampler(params).sample(_of(0.5, 0.3, 0.2))
    assert sampled.token == 1
    assert sampled.logprob == pytest.approx(math.log(0.3), abs=1e-6)
    assert [token for token, _ in sampled.top] == [0, 1]
    assert sampled.top[0][1] == pytest.approx(math.log(0.5), abs=1e-6)
    sampled = Sampler(SamplingParams(temperature=0, logprobs=20)).sample(_row(0, -np.inf, 0))
    assert [token for token, _ in sampled.top] == [0, 2]
    assert Sampler(SamplingParams(temperature=0, logprobs=0)).sample(_row(1, 2)).top == ()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([1, float("nan"), 9], "NaN"),
        ([1, float("inf")], "infinite"),
        ([-float("inf"), -float("inf")], "no token any probability"),
    ],
)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_no_numbers_are_the_peers_fault(
    values: list[float], words: str, temperature: float
) -> None:
    with pytest.raises(PeerError, match=words):
        Sampler(SamplingParams(temperature=temperature, seed=1)).sample(_row(*values))


@pytest.mark.parametrize(
    "bad", [np.zeros(3), np.zeros((1, 3), np.float32), np.zeros(0, np.float32)]
)
def test_a_wrong_shape_or_dtype_is_refused(bad: Any) -> None:
    with pytest.raises(ValueError, match="float32"):
        Sampler(SamplingParams(temperature=0)).sample(bad)


@pytest.mark.parametrize(
    ("bias", "words"),
    [
        ({3: 1.0}, "token 3; this model's tokens are 0 to 2"),
        ({0: -100, 1: -100, 2: -100}, "no token"),
    ],
)
def test_a_bias_that_cannot_be_met_is_refused(bias: dict[int, float], words: str) -> None:
    with pytest.raises(UserError, match=words) as refused:
        Sampler(SamplingParams(logit_bias=bias, seed=1)).sample(_row(1, 2, 3))
    assert refused.value.param == "logit_bias"


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("param", "values"),
    [
        ("temperature", [-0.1, 2.1, NAN, INF, True, "1", None, 10**400]),
        ("top_k", [-1, 1.5, True, 10**400, 10**5000, None]),
        ("top_p", [-0.1, 1.1, NAN]),
        ("min_p", [-0.1, 1.1, NAN]),
        ("repetition_penalty", [0, -1, 10.1, NAN, INF]),
        ("frequency_penalty", [-2.1, 2.1, NAN]),
        ("presence_penalty", [-2.1, 2.1, -INF]),
        ("seed", [1.5, 2**64, -(2**63) - 1, "x"]),
        ("logprobs", [-1, limits.LOGPROBS_MAX + 1, True]),
        ("logit_bias", [{-1: 0}, {2**31: 0}, {0: 101}, {0: NAN}, {"0": 1}]),
        ("logit_bias", [dict.fromkeys(range(limits.LOGIT_BIAS_MAX + 1), 0.0)]),
    ],
)
def test_a_parameter_out_of_range_is_refused_by_name(param: str, values: list[object]) -> None:
    for value in values:
        with pytest.raises(UserError) as refused:
            SamplingParams(**{param: value})  # type: ignore[arg-type]
        assert refused.value.param == param
        assert len(refused.value.message) < 200


def test_the_callers_bias_is_copied() -> None:
    bias = {1: 5.0}
    params = SamplingParams(logit_bias=bias)
    bias[2] = 1000.0
    assert params.logit_bias == {1: 5.0}
