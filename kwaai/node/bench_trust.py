"""Measure the trust graph: how long scores take, what attacks buy, what it foretells of ratings;
and how long the planner takes that asks for tiers.

Every figure stands beside a plain method's in the same run. Prints nothing; asserts nothing.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from kwaai.errors import UserError
from kwaai.limits import TRUST_EDGES_MAX
from kwaai.node.bench import Say
from kwaai.node.bench_trust_attacks import make_scene, measure_slander, measure_sybils, page_rank
from kwaai.node.ratings import Rating, earliest_raters, edges_of, load_ratings, make_ratings
from kwaai.placement.path_types import Constraints
from kwaai.placement.paths import choose_path
from kwaai.placement.plan_case import plan_case
from kwaai.trust.graph import Edge, GraphTrust, TrustGraph

_TRAIN_SHARE: Final = 0.8
_ROOTS: Final = ("p0", "p1", "p2", "p3", "p4")


@dataclass(frozen=True, slots=True)
class TrustBenchOptions:
    """On what, and how much."""

    graph: Path | None = None
    """A file of ratings (`kwaai.node.ratings`); None: made-up ones."""
    edges: tuple[int, ...] = (100_000, 1_000_000)
    """Sizes of the graphs whose scores are timed."""
    repeat: int = 7
    """Of each time; the median and the least are told."""
    seeds: int = 10
    """Of each attack; the worst is told."""
    seed: int = 1

    def __post_init__(self) -> None:
        if not all(100 <= count < TRUST_EDGES_MAX + 1 for count in self.edges):
            raise UserError(f"--edges is 100 to {TRUST_EDGES_MAX}")
        if not (1 <= self.repeat <= 1000 and 1 <= self.seeds <= 1000):
            raise UserError("--repeat is 1 to 1000")


def run_trust_bench(options: TrustBenchOptions, say: Say) -> dict[str, Any]:
    """Return the report: milliseconds, percent, and areas under the curve."""
    ratings = _ratings(options)
    edges, roots = edges_of(ratings), earliest_raters(ratings)
    say("attacking the graph")
    scene = make_scene(edges, roots)
    report: dict[str, Any] = {
        "graph": {
            "source": "made up" if options.graph is None else options.graph.name,
            "ratings": len(ratings),
            "principals": len(scene.names) + len(roots),
            "roots": len(roots),
            "mass_left_percent": 100.0 * sum(map(scene.trust.mass, (*scene.names, *roots))),
            "with_value_percent": 100.0 * _share(scene.trust, scene.names, 0.0),
            "known_by_graph_percent": 100.0 * _share(scene.trust, scene.names, 0.5),
        },
        "sybils": measure_sybils(scene, options.seeds),
        "slander": measure_slander(scene, options.seed),
        "foretelling": measure_foretelling(ratings),
    }
    times = []
    for count in options.edges:
        say(f"timing {count} edges")
        times.append(measure_times(count, options.repeat, options.seed))
    report["times"] = times
    say("planning")
    report["planner"] = measure_planner(options.repeat, options.seed)
    return report


def measure_foretelling(ratings: Sequence[Rating]) -> list[dict[str, Any]]:
    """Return areas under the curve: does the first 80 % of ratings tell the sign of the last 20 %?

    By time, never at random: earlier folds would know the future. `known` counts ratings of whom
    was rated before; `all` takes the others at what is expected of anybody.
    """
    cut = int(len(ratings) * _TRAIN_SHARE)
    past, future = ratings[:cut], ratings[cut:]
    signs = np.array([rating.weight > 0.0 for rating in future], bool)
    edges, roots = edges_of(past), earliest_raters(past)
    graph = TrustGraph(edges)
    trust, index = graph.propagate(roots), graph.index()
    rated = {rating.of for rating in past}
    known = np.array([rating.of in rated for rating in future], bool)
    expected = sum(1 for edge in edges if edge.weight > 0.0) / max(len(edges), 1)
    uniform = page_rank(index, np.full(len(index.names), 1.0 / max(len(index.names), 1)))
    ranks = dict(zip(index.names, uniform.tolist(), strict=True))
    means = _weighted_means(edges, expected)
    methods: dict[str, Callable[[str], float]] = {
        "opinion of those with a value": lambda name: trust.opinion(name, expected),
        "value": trust.value,
        "mean of all ratings": lambda name: means.get(name, expected),
        "uniform PageRank": lambda name: ranks.get(name, 0.0),
    }
    rows = []
    for name, foretell in methods.items():
        scores = np.array([foretell(rating.of) for rating in future])
        rows.append(
            {
                "method": name,
                "auc_known": area_under_curve(scores[known], signs[known]),
                "auc_all": area_under_curve(scores, signs),
                "ratings_known": int(known.sum()),
                "ratings_all": len(future),
            }
        )
    return rows


def area_under_curve(scores: Sequence[float] | Any, good: Sequence[bool] | Any) -> float | None:
    """Return the probability that a good one scores above a bad one, ties counting half.

    None where there are only good ones, or only bad ones.
    """
    scores, good = np.asarray(scores, float), np.asarray(good, bool)
    goods = int(good.sum())
    bads = len(good) - goods
    if not goods or not bads:
        return None
    _, place, sizes = np.unique(scores, return_inverse=True, return_counts=True)
    ends = np.cumsum(sizes)
    ranks = (ends - (sizes - 1) / 2.0)[place]
    return float((ranks[good].sum() - goods * (goods + 1) / 2.0) / (goods * bads))


def measure_times(count: int, repeat: int, seed: int) -> dict[str, Any]:
    """Return how long scores take on a made-up graph of so many edges, ten for each principal."""
    edges = _many_edges(count, seed)
    began_s = time.perf_counter()
    graph = TrustGraph(edges)
    graph.index()
    load_ms = (time.perf_counter() - began_s) * 1000.0
    index = graph.index()
    begin = np.full(len(index.names), 1.0 / len(index.names))
    scores, cpu, plain, changes = [], [], [], []
    for turn in range(repeat):
        cpu_s = time.thread_time()
        scores.append(_ms(lambda: graph.propagate(_ROOTS)))
        cpu.append((time.thread_time() - cpu_s) * 1000.0)
        plain.append(_ms(lambda: page_rank(index, begin)))
        graph.remove(edges[2 * turn].by, edges[2 * turn].of)
        graph.put(Edge(edges[2 * turn + 1].by, edges[2 * turn + 1].of, 0.5))
        changes.append(_ms(graph.index))
    whole = TrustGraph(graph.edges()).propagate(_ROOTS)
    merged = graph.propagate(_ROOTS)
    return {
        "edges": count,
        "principals": len(index.names),
        "scores_ms": statistics.median(scores),
        "scores_ms_least": min(scores),
        "scores_cpu_ms": statistics.median(cpu),
        "change_ms": statistics.median(changes),
        "load_ms": load_ms,
        "pagerank_ms": statistics.median(plain),
        "to_pagerank": statistics.median(scores) / statistics.median(plain),
        "merged_equals_whole": merged.values() == whole.values(),
    }


def measure_planner(repeat: int, seed: int) -> list[dict[str, Any]]:
    """Return how long the planner takes over 1,000 made-up peers and 80 layers."""
    case = plan_case(seed, pairs=2_000)
    asked = {
        "nothing": Constraints(),
        "Verified, two hops of an owner": Constraints(floor=2, owner_hops_max=2),
        "a token in no time: why not": Constraints(token_s_max=1e-6),
    }
    rows = []
    for name, constraints in asked.items():

        def plan(constraints: Constraints = constraints) -> object:
            return choose_path(
                case.block_count,
                case.candidates,
                case.home,
                privacy="private",
                rtt_between=case.pairs,
                constraints=constraints,
                prompt_tokens=512,
            )

        times = [_ms(plan) for _ in range(repeat)]
        rows.append(
            {
                "asks_for": name,
                "peers": len(case.candidates),
                "plan_ms": statistics.median(times),
                "plan_ms_least": min(times),
            }
        )
    return rows


def _ratings(options: TrustBenchOptions) -> tuple[Rating, ...]:
    if options.graph is None:
        return make_ratings(options.seed)
    return load_ratings(options.graph)


def _share(trust: GraphTrust, names: Sequence[str], floor: float) -> float:
    return sum(1 for name in names if trust.value(name) > floor) / max(len(names), 1)


def _weighted_means(edges: Sequence[Edge], expected: float) -> dict[str, float]:
    good: dict[str, float] = {}
    said: dict[str, float] = {}
    for edge in edges:
        said[edge.of] = said.get(edge.of, 0.0) + abs(edge.weight)
        good[edge.of] = good.get(edge.of, 0.0) + max(edge.weight, 0.0)
    return {of: (0.1 * expected + good[of]) / (0.1 + total) for of, total in said.items()}


def _many_edges(count: int, seed: int) -> list[Edge]:
    """Whom many endorse, more endorse: half of the endorsements go to a tenth of the principals."""
    chance = random.Random(seed)
    names = [f"p{number}" for number in range(max(count // 10, 20))]
    few = len(names) // 10
    pairs: dict[tuple[str, str], None] = {}
    while len(pairs) < count:
        by = names[chance.randrange(len(names))]
        of = names[chance.randrange(few if chance.random() < 0.5 else len(names))]
        if by != of:
            pairs[by, of] = None
    return [Edge(by, of, 1.0) for by, of in pairs]


def _ms(work: Callable[[], object]) -> float:
    began_s = time.perf_counter()
    work()
    return (time.perf_counter() - began_s) * 1000.0
