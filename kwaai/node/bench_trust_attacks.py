"""What attacks on the trust graph buy: sybils, rogue endorsers, slander (`kwaainet bench trust`).

Each attack adds edges to a real or made-up network and asks what the attackers hold then, under our
rule and under two plain ones in the same run. Asserts nothing.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from kwaai.errors import UserError
from kwaai.trust.edge_index import EdgeIndex, Floats
from kwaai.trust.graph import Edge, GraphTrust, TrustGraph

SYBILS: Final = 1_000
ATTACK_EDGES: Final = 10
SLANDERERS: Final = 100
_RING: Final = 10
_DAMPING: Final = 0.85
_ROUNDS: Final = 64
_KNOWN: Final = 0.5


@dataclass(frozen=True, slots=True)
class Scene:
    """The network before an attack."""

    edges: Sequence[Edge]
    roots: Sequence[str]
    trust: GraphTrust
    endorsers: Sequence[str]
    """Who endorses somebody and is no root, sorted."""
    names: Sequence[str]
    """Everybody but the roots, sorted."""


Plot = Callable[[Scene, random.Random], list[Edge]]


def make_scene(edges: Sequence[Edge], roots: Sequence[str]) -> Scene:
    """Return the network, with its trust.

    Raises UserError where it is too small to be attacked.
    """
    endorsers = {edge.by for edge in edges if edge.weight > 0.0} - set(roots)
    if len(endorsers) < ATTACK_EDGES:
        raise UserError(
            f"only {len(endorsers)} besides the first {len(roots)} raters rate anybody well: an "
            f"attack needs {ATTACK_EDGES}; take more ratings"
        )
    names = {name for edge in edges for name in (edge.by, edge.of)} - set(roots)
    trust = TrustGraph(edges).propagate(roots)
    return Scene(edges, roots, trust, sorted(endorsers), sorted(names))


def page_rank(index: EdgeIndex, begin: Floats) -> Floats:
    """Return plain PageRank of the positive edges, or EigenTrust where `begin` is the roots only.

    Damping 0.85, 64 rounds; nothing of our rule: no budget, no groups, no early end.
    """
    count = len(index.names)
    weights = np.maximum(index.weights, 0.0)
    given = np.bincount(index.by, weights, count)
    shares = _DAMPING * weights / np.where(given > 0.0, given, 1.0)[index.by]
    walks = begin
    for _ in range(_ROUNDS):
        walks = (1.0 - _DAMPING) * begin + np.bincount(index.of, walks[index.by] * shares, count)
    return walks


def measure_sybils(scene: Scene, seeds: int) -> list[dict[str, Any]]:
    """Return a row for each attack: what 1,000 sybils hold, at worst and on average over seeds."""
    return [
        _measure_plot(name, scene, plot, 1 if name.startswith("rogue") else seeds)
        for name, plot in PLOTS.items()
    ]


def measure_slander(scene: Scene, seed: int) -> list[dict[str, Any]]:
    """Return how far 100 slanderers move anybody's value, by where they come from.

    Twenty targets that have a value, one after the other, each warned of by all slanderers.
    """
    chance = random.Random(seed)
    held = [name for name in scene.names if scene.trust.value(name) > 0.0]
    targets = chance.sample(held, min(20, len(held)))
    ring = spread_plot(scene, chance)
    liars = [sybil_name(number) for number in range(SLANDERERS)]
    return [
        _measure_slander("strangers", scene, [], liars, targets),
        _measure_slander("sybils behind 10 attack edges", scene, ring, liars, targets),
    ]


def sybil_name(number: int) -> str:
    """Return the name of a sybil; no file's names begin so."""
    return f"\x7fsybil-{number}"


def _ring(chance: random.Random) -> list[Edge]:
    """Every sybil endorses ten others with full weight."""
    names = [sybil_name(number) for number in range(SYBILS)]
    return [Edge(by, of, 1.0) for by in names for of in chance.sample(names, _RING) if by != of]


def _fooled(scene: Scene, chance: random.Random) -> list[str]:
    return chance.sample(scene.endorsers, ATTACK_EDGES)


def _most_trusted(scene: Scene, count: int) -> list[str]:
    return sorted(scene.endorsers, key=lambda name: (-scene.trust.mass(name), name))[:count]


def spread_plot(scene: Scene, chance: random.Random) -> list[Edge]:
    """A dense ring; ten endorsers taken at random each endorse one sybil, fully."""
    entries = [Edge(by, sybil_name(chance.randrange(SYBILS)), 1.0) for by in _fooled(scene, chance)]
    return entries + _ring(chance)


def _pairs_plot(scene: Scene, chance: random.Random) -> list[Edge]:
    fooled = _fooled(scene, chance)
    return [Edge(by, sybil_name(k // 2), 1.0) for k, by in enumerate(fooled)] + _ring(chance)


def _one_plot(scene: Scene, chance: random.Random) -> list[Edge]:
    entries = [Edge(by, sybil_name(0), 1.0) for by in _fooled(scene, chance)]
    cheers = [Edge(sybil_name(number), sybil_name(0), 1.0) for number in range(1, SYBILS)]
    return entries + cheers


def _top_plot(scene: Scene, chance: random.Random) -> list[Edge]:
    fooled = _most_trusted(scene, ATTACK_EDGES)
    return [Edge(by, sybil_name(k), 1.0) for k, by in enumerate(fooled)] + _ring(chance)


def _rogues(count: int) -> Plot:
    def plot(scene: Scene, chance: random.Random) -> list[Edge]:
        rogues = _most_trusted(scene, count)
        return [Edge(by, sybil_name(k), 1.0) for by in rogues for k in range(SYBILS)]

    return plot


PLOTS: Final[Mapping[str, Plot]] = {
    "random endorsers, a sybil each": spread_plot,
    "random endorsers, two for a sybil": _pairs_plot,
    "random endorsers, all for one": _one_plot,
    "the most trusted, a sybil each": _top_plot,
    "rogue: the most trusted endorses all": _rogues(1),
    "rogue: the two most trusted endorse all": _rogues(2),
}


def _measure_plot(name: str, scene: Scene, plot: Plot, seeds: int) -> dict[str, Any]:
    rows = []
    for seed in range(seeds):
        graph = TrustGraph([*scene.edges, *plot(scene, random.Random(seed))])
        rows.append(_held(graph, scene))
    return {
        "attack": name,
        "mass_percent": max(row["mass"] for row in rows) * 100.0,
        "best_value": max(row["best"] for row in rows),
        "best_percentile": max(row["below"] for row in rows) * 100.0,
        "no_better_percent": max(row["no_better"] for row in rows) * 100.0,
        "known_by_graph": max(row["known"] for row in rows),
        "eigentrust_percent": max(row["seeded_mass"] for row in rows) * 100.0,
        "eigentrust_percentile": max(row["seeded_below"] for row in rows) * 100.0,
        "pagerank_percent": max(row["uniform_mass"] for row in rows) * 100.0,
    }


def _held(graph: TrustGraph, scene: Scene) -> dict[str, float]:
    """What the sybils hold, and where their best one stands among the honest but the roots."""
    trust, index = graph.propagate(scene.roots), graph.index()
    sybils = np.array([name.startswith("\x7f") for name in index.names])
    names = np.array(index.names, dtype=object)
    honest_values = np.array([trust.value(name) for name in scene.names])
    values = np.array([trust.value(name) for name in names[sybils]])
    masses = np.array([trust.mass(name) for name in index.names])
    seeded, uniform = _plain(index, scene.roots)
    roots = set(scene.roots)
    inside = np.array([name in roots for name in index.names])
    others = ~sybils & ~inside
    best = float(values.max())
    return {
        "mass": float(masses[sybils].sum() / masses.sum()),
        "best": best,
        "below": float((honest_values < best).mean()),
        "no_better": float((honest_values <= best).mean()),
        "known": float((values >= _KNOWN).sum()),
        "seeded_mass": float(seeded[sybils].sum() / seeded.sum()),
        "seeded_below": float((seeded[others] < seeded[sybils].max()).mean()),
        "uniform_mass": float(uniform[sybils].sum() / uniform.sum()),
    }


def _plain(index: EdgeIndex, roots: Collection[str]) -> tuple[Floats, Floats]:
    count = len(index.names)
    begin = np.zeros(count)
    begin[[index.ids[root] for root in roots if root in index.ids]] = 1.0 / len(roots)
    return page_rank(index, begin), page_rank(index, np.full(count, 1.0 / count))


def _measure_slander(
    name: str, scene: Scene, more: Sequence[Edge], liars: Sequence[str], targets: Sequence[str]
) -> dict[str, Any]:
    graph = TrustGraph([*scene.edges, *more])
    before = graph.propagate(scene.roots)
    moved, opinions, means = [0.0], [0.0], [0.0]
    for target in targets:
        graph.put_all(Edge(liar, target, -1.0) for liar in liars)
        after = graph.propagate(scene.roots)
        moved += [abs(before.value(who) - after.value(who)) for who in scene.names]
        opinions.append(abs(before.opinion(target) - after.opinion(target)))
        good = sum(1 for edge in scene.edges if edge.of == target and edge.weight > 0.0)
        bad = sum(1 for edge in scene.edges if edge.of == target and edge.weight < 0.0)
        means.append((good + 1) / (good + bad + 2) - (good + 1) / (good + bad + len(liars) + 2))
        for liar in liars:
            graph.remove(liar, target)
    return {
        "slanderers": name,
        "targets": len(targets),
        "value_moved_percent": max(moved) * 100.0,
        "opinion_moved_percent": max(opinions) * 100.0,
        "beta_mean_moved_percent": max(means) * 100.0,
    }
