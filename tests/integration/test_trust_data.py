"""The trust graph on a real network: Bitcoin-Alpha, 24,186 ratings of 3,783 traders with times."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from kwaai.node.bench_trust import measure_foretelling
from kwaai.node.bench_trust_attacks import (
    SYBILS,
    Scene,
    make_scene,
    measure_slander,
    measure_sybils,
    spread_plot,
    sybil_name,
)
from kwaai.node.ratings import Rating, earliest_raters, edges_of, load_ratings
from kwaai.trust.graph import Edge, TrustGraph

_FILE = (
    Path(__file__).resolve().parents[3]
    / "shared"
    / "vectors"
    / "trust-graphs"
    / "soc-sign-bitcoinalpha.csv"
)
pytestmark = pytest.mark.skipif(
    not _FILE.is_file(), reason="no shared/vectors/trust-graphs beside this checkout"
)


@pytest.fixture(scope="module")
def ratings() -> Sequence[Rating]:
    return load_ratings(_FILE)


@pytest.fixture(scope="module")
def scene(ratings: Sequence[Rating]) -> Scene:
    return make_scene(edges_of(ratings), earliest_raters(ratings))


def test_the_file_is_whole(ratings: Sequence[Rating]) -> None:
    assert len(ratings) == 24_186
    assert len({name for rating in ratings for name in (rating.by, rating.of)}) == 3_783
    assert [rating.at for rating in ratings] == sorted(rating.at for rating in ratings)
    assert {abs(rating.weight) for rating in ratings} <= {n / 10 for n in range(1, 11)}


def test_a_thousand_sybils_behind_ten_edges_hold_nothing(scene: Scene) -> None:
    rows = {row["attack"]: row for row in measure_sybils(scene, seeds=3)}
    spread = rows["random endorsers, a sybil each"]
    assert spread["mass_percent"] <= 0.5
    assert spread["best_percentile"] < 25
    assert spread["best_value"] == 0.0
    # The plain methods, on the same graphs, do not hold.
    assert spread["eigentrust_percentile"] > 75
    assert spread["pagerank_percent"] > 10
    # One rogue, however trusted, makes nobody; two of the most trusted make nobody Known.
    assert rows["rogue: the most trusted endorses all"]["best_value"] == 0.0
    assert rows["rogue: the two most trusted endorse all"]["known_by_graph"] == 0
    assert rows["the most trusted, a sybil each"]["known_by_graph"] == 0


def test_max_flow_bounds_them(scene: Scene) -> None:
    import random

    plot = spread_plot(scene, random.Random(0))
    trust = TrustGraph([*scene.edges, *plot]).propagate(scene.roots)
    sybils = [sybil_name(number) for number in range(SYBILS)]
    held = sum(trust.mass(name) for name in sybils)
    assert 0.0 < held <= trust.flow_bound(sybils)


def test_slanderers_move_nobody(scene: Scene) -> None:
    strangers, sybils = measure_slander(scene, seed=1)
    assert strangers["value_moved_percent"] == strangers["opinion_moved_percent"] == 0.0
    assert sybils["value_moved_percent"] <= 0.1
    assert sybils["opinion_moved_percent"] <= 0.1
    assert sybils["beta_mean_moved_percent"] > 10  # what plain averages do


def test_it_foretells_the_last_fifth_of_ratings(ratings: Sequence[Rating]) -> None:
    rows = {row["method"]: row for row in measure_foretelling(ratings)}
    ours = rows["opinion of those with a value"]
    assert (ours["ratings_known"], ours["ratings_all"]) == (3_242, 4_838)
    assert ours["auc_known"] >= 0.60
    assert ours["auc_all"] >= 0.60


def test_changes_one_by_one_equal_all_at_once(scene: Scene) -> None:
    graph = TrustGraph(scene.edges[:-500])
    graph.propagate(scene.roots)
    for edge in scene.edges[-500:]:
        graph.put(edge)
        graph.index()
    for edge in scene.edges[:500]:
        graph.remove(edge.by, edge.of)
        graph.index()
    for edge in scene.edges[:500]:
        graph.put(Edge(edge.by, edge.of, edge.weight))
    assert graph.propagate(scene.roots).values() == scene.trust.values()
