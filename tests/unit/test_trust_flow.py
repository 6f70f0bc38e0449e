"""What a region can hold: the bound holds, and it is the minimum cut."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwaai.trust.graph import Edge, TrustGraph
from kwaai.trust.propagate import BUDGET, STOP

NAMES = tuple("abcdefg")
_NAME = st.sampled_from(NAMES)
_PAIRS = st.dictionaries(st.tuples(_NAME, _NAME), st.floats(0.01, 1.0), max_size=25)
_ROOTS = ("a", "b")


def _edges(pairs: Mapping[tuple[str, str], float]) -> list[Edge]:
    return [Edge(by, of, weight) for (by, of), weight in pairs.items()]


@given(pairs=_PAIRS, region=st.sets(_NAME))
def test_no_region_holds_more(pairs: dict[tuple[str, str], float], region: set[str]) -> None:
    trust = TrustGraph(_edges(pairs)).propagate(_ROOTS)
    assert sum(trust.mass(name) for name in region) <= trust.flow_bound(region) + 1e-9


@given(pairs=_PAIRS, region=st.sets(_NAME, min_size=1))
def test_it_is_the_least_cut(pairs: dict[tuple[str, str], float], region: set[str]) -> None:
    """Exact, by trying every cut."""
    pairs = {pair: weight for pair, weight in pairs.items() if pair[0] != pair[1]}
    known = {name for pair in pairs for name in pair}
    begin = 1.0 / len(_ROOTS)
    given_: dict[str, float] = {}
    for (by, _), weight in pairs.items():
        given_[by] = given_.get(by, 0.0) + weight
    returns = 1.0 / (1.0 - (1.0 - STOP) ** 2)
    capacity = {
        (by, of): min(1.0, (1.0 - STOP) * weight / max(given_[by], BUDGET) * returns)
        for (by, of), weight in pairs.items()
    }
    free = sorted(known - region)
    least = float("inf")
    for size in range(len(free) + 1):
        for chosen in itertools.combinations(free, size):
            near = set(chosen)
            cut = sum(begin for root in _ROOTS if root in known and root not in near)
            cut += sum(c for (by, of), c in capacity.items() if by in near and of not in near)
            least = min(least, cut)
    if not region & known:
        least = 0.0
    strays = begin * sum(1 for root in _ROOTS if root in region and root not in known)
    bound = TrustGraph(_edges(pairs)).propagate(_ROOTS).flow_bound(region)
    assert bound == pytest.approx(min(1.0, least + strays), abs=1e-6)


def test_attack_edges_bound_a_ring() -> None:
    honest = [Edge("root", f"h{n}", 1.0) for n in range(8)]
    ring = [Edge(f"s{n}", f"s{m}", 1.0) for n in range(30) for m in range(30) if n != m]
    sybils = [f"s{n}" for n in range(30)]
    one = TrustGraph([*honest, *ring, Edge("h0", "s0", 1.0)]).propagate(["root"])
    two = TrustGraph([*honest, *ring, Edge("h0", "s0", 1.0), Edge("h1", "s1", 1.0)]).propagate(
        ["root"]
    )
    assert 0.0 < one.flow_bound(sybils) < two.flow_bound(sybils) < 0.25
    more = [Edge("s0", f"t{n}", 1.0) for n in range(100)]
    grown = TrustGraph([*honest, *ring, *more, Edge("h0", "s0", 1.0)]).propagate(["root"])
    region = [*sybils, *(f"t{n}" for n in range(100))]
    assert grown.flow_bound(region) == pytest.approx(one.flow_bound(sybils))


def test_nothing_holds_nothing() -> None:
    trust = TrustGraph([Edge("a", "b", 1.0)]).propagate(["a"])
    assert trust.flow_bound(()) == 0.0
    assert trust.flow_bound({"never heard of"}) == 0.0
    assert trust.flow_bound({"a"}) == 1.0
