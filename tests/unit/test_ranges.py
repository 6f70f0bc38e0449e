"""Layer ranges: covering and optimal for any model; what cannot be is refused by its numbers."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwaai import limits
from kwaai.errors import UserError
from kwaai.placement.ranges import check_chain, plan_local, split_layers
from kwaai.types import LayerRange


def _chain(*bounds: int) -> list[LayerRange]:
    return [LayerRange(start, stop) for start, stop in pairwise(bounds)]


def _largest(ranges: list[LayerRange], sizes: list[int], head: int, weights: list[float]) -> float:
    costs = [sum(sizes[part.start : part.stop]) for part in ranges]
    costs[-1] += head
    return max(cost / weight for cost, weight in zip(costs, weights, strict=True))


@given(st.data())
def test_no_other_cut_has_a_smaller_largest_cost(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(0, 50), min_size=1, max_size=8))
    slices = data.draw(st.integers(1, len(sizes)))
    head = data.draw(st.integers(0, 100))
    weights = data.draw(
        st.lists(st.sampled_from([0.1, 0.5, 1, 3]), min_size=slices, max_size=slices)
    )
    found = list(
        split_layers(len(sizes), slices, block_bytes=sizes, head_bytes=head, weights=weights)
    )
    check_chain(found, len(sizes))
    assert len(found) == slices
    best = min(
        _largest(_chain(0, *inner, len(sizes)), sizes, head, weights)
        for inner in combinations(range(1, len(sizes)), slices - 1)
    )
    assert _largest(found, sizes, head, weights) <= best * (1 + 1e-9)


@given(st.integers(1, 130), st.data())
def test_equal_blocks_are_shared_evenly(block_count: int, data: st.DataObject) -> None:
    slices = data.draw(st.integers(1, min(block_count, 12)))
    lengths = [len(part) for part in split_layers(block_count, slices)]
    assert max(lengths) == -(-block_count // slices)
    assert max(lengths) - min(lengths) <= 1 or block_count % slices


def test_the_last_slice_gives_up_blocks_for_the_head() -> None:
    found = split_layers(24, 4, block_bytes=[10] * 24, head_bytes=40)
    assert [len(part) for part in found] == [7, 7, 7, 3]


def test_a_machine_twice_as_strong_gets_twice_the_blocks() -> None:
    assert [len(part) for part in split_layers(12, 3, weights=[1, 2, 1])] == [3, 6, 3]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"block_count": 8, "slices": 9}, "9 slices cannot be cut from 8 blocks"),
        ({"block_count": 8, "slices": 0}, "0 slices"),
        ({"block_count": 8, "slices": -1}, "ask for 1 to 8"),
        ({"block_count": 0, "slices": 1}, "not 0"),
        ({"block_count": limits.BLOCKS_MAX + 1, "slices": 1}, f"not {limits.BLOCKS_MAX + 1}"),
        ({"block_count": 2, "slices": 1, "block_bytes": [1]}, "2 sizes"),
        ({"block_count": 2, "slices": 1, "block_bytes": [1, -1]}, "0 or more"),
        ({"block_count": 2, "slices": 1, "head_bytes": -1}, "0 or more"),
        ({"block_count": 2, "slices": 2, "weights": [1.0]}, "2 finite numbers"),
        ({"block_count": 2, "slices": 2, "weights": [1.0, 0.0]}, "above 0"),
        ({"block_count": 2, "slices": 2, "weights": [1.0, float("nan")]}, "finite"),
        ({"block_count": 2, "slices": 2, "weights": [1.0, float("inf")]}, "finite"),
    ],
)
def test_an_impossible_cut_is_refused(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        split_layers(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ranges", "words"),
    [
        ([], r"no range holds blocks \[0,8\)"),
        (_chain(1, 8), r"no range holds blocks \[0,1\)"),
        ([LayerRange(0, 3), LayerRange(4, 8)], r"no range holds blocks \[3,4\)"),
        ([LayerRange(0, 5), LayerRange(4, 8)], r"\[4,8\) overlaps \[0,5\): start it at block 5"),
        ([LayerRange(0, 8), LayerRange(0, 8)], r"\[0,8\) overlaps \[0,8\)"),
        (_chain(0, 4), r"no range holds blocks \[4,8\)"),
        (_chain(0, 4, 9), r"\[4,9\) goes past the model's last block: stop at 8"),
    ],
)
def test_a_broken_chain_is_refused_at_its_first_fault(ranges: list[LayerRange], words: str) -> None:
    with pytest.raises(UserError, match=words):
        check_chain(ranges, 8)


def test_local_needs_everything_and_a_fifth_more() -> None:
    mib = limits.MIB
    decision = plan_local(80 * mib, 15 * mib, 5 * mib, 120 * mib)
    assert decision.fits
    assert decision.needed_bytes == 120 * mib
    decision = plan_local(80 * mib, 15 * mib, 5 * mib, 120 * mib - 1)
    assert not decision.fits
    assert decision.reason.startswith("does not fit: needs 120.0 MiB (weights 80.0 MiB")
    assert "20% on top" in decision.reason


def test_negative_sizes_are_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="negative"):
        plan_local(-1, 0, 0, 1)
