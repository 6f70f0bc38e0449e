"""The graph of endorsements: what it gives, what it refuses, and that order and history are
nothing to it.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwaai import limits
from kwaai.errors import TrustGraphFull, UserError
from kwaai.trust.edge_index import group_of
from kwaai.trust.graph import Edge, GraphTrust, TrustGraph
from kwaai.trust.propagate import BUDGET, STEPS, STOP, reference_mass

NAMES = tuple("abcdefghij")
_NAME = st.sampled_from(NAMES)
_WEIGHT = st.one_of(st.sampled_from((0.1, 0.5, 1.0)), st.floats(0.001, 1.0))
_PAIRS = st.dictionaries(st.tuples(_NAME, _NAME), _WEIGHT, max_size=40)
_SIGNED = st.dictionaries(
    st.tuples(_NAME, _NAME), st.one_of(_WEIGHT, st.just(-1.0), st.just(-0.3)), max_size=40
)


def edges_of(pairs: Mapping[tuple[str, str], float]) -> list[Edge]:
    return [Edge(by, of, weight) for (by, of), weight in pairs.items()]


def apart(count: int) -> list[str]:
    """Names that no split takes for one."""
    found: dict[int, str] = {}
    for number in itertools.count():
        found.setdefault(group_of(name := f"endorser-{number}"), name)
        if len(found) == count:
            break
    return list(found.values())


def all_of(trust: GraphTrust, names: Iterable[str] = NAMES) -> list[tuple[float, ...]]:
    return [
        (trust.value(n), trust.mass(n), trust.borne(n), trust.distrust(n), trust.opinion(n))
        for n in names
    ]


def reaches(pairs: Mapping[tuple[str, str], float], start: str) -> set[str]:
    found, waiting = {start}, [start]
    while waiting:
        here = waiting.pop()
        for (by, of), weight in pairs.items():
            if by == here and weight > 0 and of not in found:
                found.add(of)
                waiting.append(of)
    return found


class TestWhatItGives:
    def test_a_root_and_whom_it_endorses_fully_have_all(self) -> None:
        trust = TrustGraph([Edge("root", "friend", 1.0)]).propagate(["root"])
        assert trust.value("root") == trust.value("friend") == 1.0
        assert trust.mass("friend") == pytest.approx(reference_mass(1))

    def test_a_stranger_has_nothing(self) -> None:
        trust = TrustGraph([Edge("root", "friend", 1.0), Edge("x", "y", 1.0)]).propagate(["root"])
        assert (trust.value("x"), trust.value("y"), trust.mass("y")) == (0.0, 0.0, 0.0)
        assert trust.value("never heard of") == trust.mass("never heard of") == 0.0
        assert trust.top_paths("y") == trust.top_paths("never heard of") == ()

    def test_nobody_without_roots(self) -> None:
        trust = TrustGraph([Edge("a", "b", 1.0)]).propagate([])
        assert trust.values() == {}
        assert trust.flow_bound({"a", "b"}) == 0.0

    def test_a_root_without_edges_is_a_root(self) -> None:
        trust = TrustGraph([Edge("a", "b", 1.0)]).propagate(["root", "a"])
        assert trust.value("root") == 1.0
        assert trust.mass("root") == STOP / 2
        assert trust.flow_bound({"root"}) == 0.5

    def test_an_empty_graph(self) -> None:
        trust = TrustGraph().propagate(["root"])
        assert trust.values() == {"root": 1.0}
        assert trust.top_paths("root") == ()

    def test_two_endorsers_vouch_and_one_does_not(self) -> None:
        one, two = apart(2)
        edges = [Edge("root", one, 1.0), Edge("root", two, 1.0), Edge(one, "peer", 1.0)]
        alone = TrustGraph(edges).propagate(["root"])
        assert alone.mass("peer") > 0.0
        assert alone.value("peer") == 0.0
        both = TrustGraph([*edges, Edge(two, "peer", 1.0)]).propagate(["root"])
        assert 0.5 < both.value("peer") < 1.0

    def test_two_endorsers_of_one_owner_are_one(self) -> None:
        one, two = apart(2)
        edges = [Edge("root", one, 1.0), Edge("root", two, 1.0)]
        edges += [Edge(one, "peer", 1.0), Edge(two, "peer", 1.0)]
        owned = TrustGraph(edges, {one: "owner", two: "owner"}).propagate(["root"])
        assert owned.value("peer") == 0.0

    def test_one_rogue_gives_value_to_nobody(self) -> None:
        edges = [Edge("root", "rogue", 1.0)]
        edges += [Edge("rogue", f"sybil-{n}", 1.0) for n in range(50)]
        edges += [Edge(f"sybil-{n}", f"sybil-{(n + 1) % 50}", 1.0) for n in range(50)]
        trust = TrustGraph(edges).propagate(["root"])
        assert all(trust.value(f"sybil-{n}") == 0.0 for n in range(50))
        held = sum(trust.mass(f"sybil-{n}") for n in range(50))
        assert held <= trust.flow_bound([f"sybil-{n}" for n in range(50)])

    def test_half_the_weight_is_half_the_mass(self) -> None:
        whole = TrustGraph([Edge("root", "a", 1.0), Edge("root", "b", 1.0)]).propagate(["root"])
        half = TrustGraph([Edge("root", "a", 0.5), Edge("root", "b", 1.0)]).propagate(["root"])
        assert half.mass("a") == whole.mass("a") / 2
        assert half.mass("b") == whole.mass("b")

    def test_a_ninth_endorsement_thins_the_others(self) -> None:
        count = int(BUDGET)
        edges = [Edge("root", f"peer-{n}", 1.0) for n in range(count)]
        eight = TrustGraph(edges).propagate(["root"])
        nine = TrustGraph([*edges, Edge("root", "peer-8", 1.0)]).propagate(["root"])
        assert eight.value("peer-0") == 1.0
        assert nine.mass("peer-0") == pytest.approx(eight.mass("peer-0") * 8 / 9)

    def test_credit_scales_an_endorsers_word(self) -> None:
        graph = TrustGraph([Edge("root", "a", 1.0), Edge("a", "b", 1.0)])
        assert graph.propagate(["root"], {"a": 0.5}).mass("b") == (
            graph.propagate(["root"]).mass("b") / 2
        )
        with pytest.raises(UserError, match="credit"):
            graph.propagate(["root"], {"a": 1.5})

    def test_a_walk_ends_after_its_steps(self) -> None:
        chain = [Edge(f"n{k}", f"n{k + 1}", 1.0) for k in range(STEPS + 2)]
        trust = TrustGraph(chain).propagate(["n0"])
        assert trust.mass(f"n{STEPS}") > 0.0
        assert trust.mass(f"n{STEPS + 1}") == 0.0


class TestWarnings:
    def test_a_warning_takes_what_the_same_word_would_have_given(self) -> None:
        edges = [Edge("root", "a", 1.0), Edge("r2", "a", -1.0)]
        trust = TrustGraph(edges).propagate(["root", "r2"])
        assert trust.distrust("a") == trust.borne("a") > 0.0
        assert trust.value("a") == 0.0

    def test_it_goes_one_step_only(self) -> None:
        edges = [Edge("root", "a", 1.0), Edge("a", "b", 1.0), Edge("root", "x", 1.0)]
        before = TrustGraph(edges).propagate(["root"])
        after = TrustGraph([*edges, Edge("x", "a", -1.0)]).propagate(["root"])
        assert after.mass("b") == before.mass("b")

    @given(pairs=_SIGNED, target=_NAME)
    def test_slander_by_strangers_moves_no_bit(
        self, pairs: dict[tuple[str, str], float], target: str
    ) -> None:
        liars = [Edge(f"liar-{n}", target, -1.0) for n in range(100)]
        before = TrustGraph(edges_of(pairs)).propagate(["a", "b"])
        after = TrustGraph([*edges_of(pairs), *liars]).propagate(["a", "b"])
        assert all_of(before) == all_of(after)

    def test_an_opinion_counts_who_has_a_value(self) -> None:
        edges = [Edge("root", "good", 1.0), Edge("root", "bad", -1.0), Edge("x", "good", -1.0)]
        trust = TrustGraph(edges).propagate(["root"])
        assert trust.opinion("good") > 0.9
        assert trust.opinion("bad") < 0.1
        assert trust.opinion("nobody", expected=0.7) == pytest.approx(0.7)


class TestLaws:
    @given(pairs=_PAIRS, by=_NAME, of=_NAME, weight=_WEIGHT)
    def test_more_endorsement_never_lowers_its_target(
        self, pairs: dict[tuple[str, str], float], by: str, of: str, weight: float
    ) -> None:
        before = TrustGraph(edges_of(pairs)).propagate(["a", "b"])
        more = {**pairs, (by, of): max(weight, pairs.get((by, of), 0.0))}
        after = TrustGraph(edges_of(more)).propagate(["a", "b"])
        assert after.mass(of) >= before.mass(of) - 1e-15
        assert after.borne(of) >= before.borne(of) - 1e-15
        assert after.value(of) >= before.value(of) - 1e-12

    @given(pairs=_SIGNED, by=_NAME, of=_NAME, weight=_WEIGHT)
    def test_nor_where_others_warn_unless_they_are_trusted_through_it(
        self, pairs: dict[tuple[str, str], float], by: str, of: str, weight: float
    ) -> None:
        warners = {b for (b, o), w in pairs.items() if o == of and w < 0 and b != of}
        more = {**pairs, (by, of): max(weight, pairs.get((by, of), 0.0))}
        if warners & reaches(more, of):
            return
        before = TrustGraph(edges_of(pairs)).propagate(["a", "b"])
        after = TrustGraph(edges_of(more)).propagate(["a", "b"])
        assert after.value(of) >= before.value(of) - 1e-12

    @given(pairs=_SIGNED, seed=st.integers(0, 1000))
    def test_order_is_nothing(self, pairs: dict[tuple[str, str], float], seed: int) -> None:
        edges = edges_of(pairs)
        shuffled = random.Random(seed).sample(edges, len(edges))
        one = TrustGraph(edges).propagate(["a", "b"])
        other = TrustGraph(shuffled).propagate(["b", "a"])
        assert all_of(one) == all_of(other)
        assert one.values() == other.values()
        assert list(one.values()) == sorted(one.values())

    @given(
        pairs=_SIGNED,
        steps=st.lists(
            st.tuples(_NAME, _NAME, st.sampled_from((0.0, 0.2, 1.0, -1.0))), max_size=30
        ),
        owners=st.dictionaries(_NAME, st.sampled_from(("o", "p", "a")), max_size=5),
    )
    def test_changes_one_by_one_equal_all_at_once(
        self,
        pairs: dict[tuple[str, str], float],
        steps: list[tuple[str, str, float]],
        owners: dict[str, str],
    ) -> None:
        graph, edges = TrustGraph(edges_of(pairs), owners), dict(pairs)
        graph.propagate(["a"])
        for by, of, weight in steps:
            graph.put(Edge(by, of, weight))
            edges[by, of] = weight
            graph.index()
        whole = TrustGraph(edges_of({k: w for k, w in edges.items() if w}), owners)
        assert graph.edges() == whole.edges()
        assert all_of(graph.propagate(["a"])) == all_of(whole.propagate(["a"]))
        one, other = graph.index(), whole.index()
        assert (one.names, one.ids) == (other.names, other.ids)
        for field in ("groups", "by", "of", "weights"):
            assert np.array_equal(getattr(one, field), getattr(other, field))

    def test_many_changes_are_merged_to_the_same_bits(self) -> None:
        chance = random.Random(7)
        edges = {
            (f"p{chance.randrange(300)}", f"p{chance.randrange(300)}"): chance.random()
            for _ in range(4000)
        }
        graph = TrustGraph(edges_of(edges))
        graph.index()
        for turn in range(40):
            pair = chance.choice(list(edges))
            if turn % 3 == 0:
                assert graph.remove(*pair)
                del edges[pair]
            else:
                pair = (pair[0], f"new-{turn}") if turn % 3 == 1 else pair
                edges[pair] = chance.random()
                graph.put(Edge(*pair, edges[pair]))
            graph.index()
        whole = TrustGraph(edges_of(edges)).index()
        assert graph.index().names == whole.names
        assert np.array_equal(graph.index().weights, whole.weights)
        assert np.array_equal(graph.index().by, whole.by)

    @given(pairs=_SIGNED, by=_NAME, of=_NAME)
    def test_removed_is_never_there(
        self, pairs: dict[tuple[str, str], float], by: str, of: str
    ) -> None:
        pairs.pop((by, of), None)
        graph = TrustGraph(edges_of(pairs))
        before = all_of(graph.propagate(["a"]))
        graph.put(Edge(by, of, 1.0))
        graph.propagate(["a"])
        assert graph.remove(by, of)
        assert not graph.remove(by, of)
        assert all_of(graph.propagate(["a"])) == before

    @given(pairs=_SIGNED, owned=st.sets(_NAME))
    def test_edges_within_one_owner_count_nothing(
        self, pairs: dict[tuple[str, str], float], owned: set[str]
    ) -> None:
        owners = dict.fromkeys(owned, "owner")
        left = {
            (by, of): weight
            for (by, of), weight in pairs.items()
            if by != of and not {by, of} <= owned
        }
        graph = TrustGraph(edges_of(pairs), owners)
        expected = TrustGraph(edges_of(left), owners).propagate(["a", "b"])
        assert all_of(graph.propagate(["a", "b"])) == all_of(expected)

    @given(pairs=_PAIRS)
    def test_all_masses_are_one_at_most(self, pairs: dict[tuple[str, str], float]) -> None:
        trust = TrustGraph(edges_of(pairs)).propagate(["a", "b", "unheard"])
        assert sum(trust.mass(name) for name in (*NAMES, "unheard")) <= 1.0 + 1e-12
        assert all(0.0 <= trust.value(name) <= 1.0 for name in NAMES)
        assert all(trust.borne(name) <= trust.mass(name) + 1e-15 for name in NAMES)


class TestPaths:
    @given(pairs=_SIGNED, target=_NAME)
    def test_they_are_the_greatest(self, pairs: dict[tuple[str, str], float], target: str) -> None:
        small = {k: w for k, w in pairs.items() if set(k) <= set("abcdef")}
        trust = TrustGraph(edges_of(small)).propagate(["a", "b"])
        found = trust.top_paths(target, 3)
        expected = sorted(_all_paths(small, target), reverse=True)[:3]
        assert len(found) == len(expected)
        for path, product in zip(found, expected, strict=True):
            assert path.share == pytest.approx(product * STOP / 2 / trust.mass(target))
        for path in found:
            assert path.principals[0] in ("a", "b")
            assert path.principals[-1] == target
            steps = zip(path.principals, path.principals[1:], path.edges, strict=False)
            assert all((edge.by, edge.of) == (by, of) for by, of, edge in steps)
            assert all(small[edge.by, edge.of] == edge.weight for edge in path.edges)
        assert sum(path.share for path in found) <= 1.0 + 1e-9

    def test_shares_add_up_where_there_are_no_more(self) -> None:
        edges = [Edge("root", "a", 1.0), Edge("root", "b", 1.0)]
        edges += [Edge("a", "c", 1.0), Edge("b", "c", 0.5)]
        first, second = TrustGraph(edges).propagate(["root"]).top_paths("c")
        assert (first.principals, first.edges) == (("root", "a", "c"), (edges[0], edges[2]))
        assert second.principals == ("root", "b", "c")
        assert (first.share, second.share) == pytest.approx((2 / 3, 1 / 3))

    def test_the_search_is_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        names = [f"n{k}" for k in range(40)]
        edges = [Edge(by, of, 1.0) for by in names for of in names if by != of]
        trust = TrustGraph([Edge("root", "n0", 1.0), *edges]).propagate(["root"])
        monkeypatch.setattr(limits, "TRUST_PATH_LOOKS", 50)
        monkeypatch.setattr(limits, "TRUST_PATHS_WAITING", 100)
        assert len(trust.top_paths("n1", 1000)) < 50


def _all_paths(pairs: Mapping[tuple[str, str], float], target: str) -> list[float]:
    """Products of the shares of every path without loops, from a root to the target."""
    if target in ("a", "b"):
        return []
    given_: dict[str, float] = {}
    for (by, of), weight in pairs.items():
        given_[by] = given_.get(by, 0.0) + (abs(weight) if by != of else 0.0)
    found = []

    def walk(here: str, seen: frozenset[str], product: float) -> None:
        if here == target:
            found.append(product)
            return
        for (by, of), weight in pairs.items():
            if by == here and weight > 0 and of not in seen and of not in ("a", "b"):
                share = (1.0 - STOP) * weight / max(given_[by], BUDGET)
                walk(of, seen | {of}, product * share)

    for root in ("a", "b"):
        walk(root, frozenset({root}), 1.0)
    return found


class TestRefused:
    @pytest.mark.parametrize("weight", [1.01, -1.01, float("nan"), float("inf"), 1e300])
    def test_a_weight_that_is_none(self, weight: float) -> None:
        with pytest.raises(UserError, match="weight"):
            TrustGraph([Edge("a", "b", weight)])

    def test_more_than_it_holds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(limits, "TRUST_EDGES_MAX", 2)
        graph = TrustGraph([Edge("a", "b", 1.0), Edge("a", "c", 1.0)])
        with pytest.raises(TrustGraphFull, match="2 endorsements"):
            graph.put(Edge("a", "d", 1.0))
        graph.put(Edge("a", "b", 0.5))
        graph.remove("a", "b")
        graph.put(Edge("a", "d", 1.0))
        assert len(graph) == 2
