"""What reads tell hosts, on data whose neighbours are known."""

from __future__ import annotations

import numpy as np
import pytest

from kwaai.limits import LEAKAGE_FETCHES_MAX
from kwaai.vpk.leakage import measure_leakage


def pairs_of_twins() -> np.ndarray:
    """Rows 2i and 2i+1 are one vector, all others are strangers to it."""
    vectors = np.random.default_rng(0).standard_normal((5000, 64)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.repeat(vectors, 2, axis=0)


def test_a_host_that_sees_twins_is_right() -> None:
    leakage = measure_leakage([{"eve": [2 * i, 2 * i + 1]} for i in range(50)], pairs_of_twins())
    (eve,) = leakage.hosts
    assert (leakage.queries, leakage.records) == (50, 100)
    assert (eve.host, eve.pairs, eve.similar_share) == ("eve", 50, 1.0)
    assert (eve.pairs_twice, eve.similar_share_twice) == (0, 0.0)


def test_reads_that_mean_nothing_tell_nothing() -> None:
    rng = np.random.default_rng(1)
    queries = [{"eve": rng.integers(0, 10_000, 100).tolist()} for _ in range(50)]
    (eve,) = measure_leakage(queries, pairs_of_twins()).hosts
    assert eve.similar_share < 0.01


def test_what_is_seen_twice_is_surer() -> None:
    rng = np.random.default_rng(2)
    queries = []
    for _ in range(200):
        twin = 2 * int(rng.integers(0, 20))
        queries.append({"eve": [twin, twin + 1, *rng.integers(100, 10_000, 8).tolist()]})
    (eve,) = measure_leakage(queries, pairs_of_twins()).hosts
    assert eve.similar_share < 0.01
    assert eve.similar_share_twice > 0.4


def test_hosts_that_share_see_less_and_the_one_that_saw_most_comes_first() -> None:
    together = [{"a": list(range(40))}]
    apart = [{"a": list(range(0, 40, 2)), "b": list(range(1, 40, 3))}]
    (whole,) = measure_leakage(together, pairs_of_twins()).hosts
    first, second = measure_leakage(apart, pairs_of_twins()).hosts
    assert (first.host, second.host) == ("a", "b")
    assert second.pairs < first.pairs < whole.pairs / 3
    assert first.similar_share == 0.0  # never both twins


@pytest.mark.parametrize("queries", [[], [{}], [{"a": []}], [{"a": [3]}], [{"a": [3, 3]}]])
def test_nothing_to_pair(queries: list[dict[str, list[int]]]) -> None:
    for view in measure_leakage(queries, pairs_of_twins()).hosts:
        assert (view.pairs, view.similar_share) == (0, 0.0)


def test_reads_are_bounded() -> None:
    (eve,) = measure_leakage([{"a": list(range(5000))}], pairs_of_twins()).hosts
    assert eve.pairs == LEAKAGE_FETCHES_MAX * (LEAKAGE_FETCHES_MAX - 1) // 2
