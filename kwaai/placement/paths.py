"""Which peers answer: the path of least predicted time that meets the constraints.

Does not measure, announce or open anything: ranges, speeds, round trips and trust are the caller's.
Who holds what in each privacy mode is in docs/protocol/shard.md; how a path is found, and what it
is compared by, in docs/planner.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kwaai.placement.costs import Aim, to_ns, trust_steps
from kwaai.placement.coverage import (
    CoverageRow,
    coverage,
    explain_gaps,
    gaps,
    inner_gaps,
    missing_ranges,
    serve_command,
)
from kwaai.placement.lacking import choose_range
from kwaai.placement.path_types import (
    Between,
    Candidate,
    Change,
    Choice,
    Constraints,
    HomePart,
    Hop,
    Pairs,
    Path,
    Privacy,
    Relaxation,
    Route,
)
from kwaai.placement.planner import Plan, Planner, Swarm, alone, slack_ns
from kwaai.placement.ranges import check_chain
from kwaai.placement.relax import relaxations
from kwaai.types import LayerRange

__all__ = [
    "Between",
    "Candidate",
    "Change",
    "Choice",
    "Constraints",
    "CoverageRow",
    "HomePart",
    "Hop",
    "Pairs",
    "Path",
    "Privacy",
    "Relaxation",
    "Route",
    "choose_path",
    "choose_range",
    "coverage",
    "cut_candidate",
    "explain_gaps",
    "gaps",
    "inner_gaps",
    "missing_ranges",
    "serve_command",
]


def choose_path(
    block_count: int,
    candidates: Sequence[Candidate],
    home: HomePart,
    *,
    privacy: Privacy,
    route: Route = "auto",
    avoid: frozenset[str] = frozenset(),
    rtt_between: Between | Pairs | None = None,
    row_s: float = 0.0,
    constraints: Constraints | None = None,
    prompt_tokens: int = 0,
) -> Choice:
    """Choose who answers: least predicted time, fewest hops on ties; the same for any order.

    Of paths that take hardly longer than the best (1 %) the most trusted is taken. A hop runs
    exactly a range that its peer serves, or any part of one that is divisible, and a peer has one
    hop of a path. The prediction of a token is the sum of all computing, of the way from each part
    to the next (half a round trip; `row_s` seconds for the row itself), and in "fast" of the
    token's way back. Peers in `avoid` are not there. `rtt_between`: what was measured between
    peers; a function is asked for every two that may be neighbours. `prompt_tokens`: what the time
    to the first token is predicted for.

    Where nothing meets the constraints, `Choice.unmet` says what would have to give.
    """
    asked = constraints or Constraints()
    usable = [c for c in candidates if c.peer not in avoid and c.layers.stop <= block_count]
    swarm = Swarm(
        block_count, usable, home, privacy == "private", rtt_between, row_s, max(1, prompt_tokens)
    )
    choice = _choose(swarm, asked, route)
    if choice.best is not None:
        check_chain(choice.best.ranges, block_count)
        return choice

    def plan(constraints: Constraints, without: frozenset[str], aim: Aim = "cost") -> Path | None:
        return _choose(swarm, constraints, route, aim, without).best

    unmet = relaxations(usable, asked, plan)
    missing: tuple[LayerRange, ...] = ()
    if choice.one_peer is None and choice.split is None and not any(r.path.hops for r in unmet):
        missing = _missing(swarm)
    return replace(choice, gaps=missing, unmet=unmet)


def cut_candidate(candidate: Candidate, layers: LayerRange) -> Candidate | None:
    """Return what a candidate offers within `layers`: all of it, a part where it is divisible, or
    None. For a requester that holds only some parts of a model, so that paths begin and end there.
    """
    start = max(candidate.layers.start, layers.start)
    stop = min(candidate.layers.stop, layers.stop)
    if start >= stop:
        return None
    kept = LayerRange(start, stop)
    if kept == candidate.layers:
        return candidate
    if not candidate.divisible:
        return None
    share = len(kept) / len(candidate.layers)
    return replace(
        candidate,
        layers=kept,
        decode_s=candidate.decode_s * share,
        prefill_tokens_s=candidate.prefill_tokens_s / share,
    )


def _choose(
    swarm: Swarm,
    constraints: Constraints,
    route: Route,
    aim: Aim = "cost",
    without: frozenset[str] = frozenset(),
) -> Choice:
    """Compare the kinds of path. For an aim that is not the cost, only the fastest counts."""
    planner = Planner(swarm, constraints, aim, without)
    here = alone(swarm, constraints)
    plans = {"peer": planner.fastest(several=False), "split": planner.fastest(several=True)}
    costs = {kind: plan.cost for kind, plan in plans.items() if plan is not None}
    if here is not None:
        costs["alone"] = to_ns(here.first_token_s if aim == "first" else here.token_s)
    asked = [cost for kind, cost in costs.items() if route in ("auto", kind)]
    if not asked:
        return Choice(here, _path(plans["peer"]), _path(plans["split"]), None, ())
    most = min(asked)
    if aim == "cost":
        most = slack_ns(most)
        for kind, plan in plans.items():
            if plan is not None:
                plan.trust(most if plan.cost <= most else slack_ns(plan.cost))
                costs[kind] = plan.cost
    paths = {"alone": here, "peer": _path(plans["peer"]), "split": _path(plans["split"])}
    near = [
        (-trust_steps(path.trust), costs[kind], len(path.hops), kind)
        for kind, path in paths.items()
        if path is not None and route in ("auto", kind) and costs[kind] <= most
    ]
    return Choice(here, paths["peer"], paths["split"], paths[min(near)[-1]], ())


def _path(plan: Plan | None) -> Path | None:
    return None if plan is None else plan.path()


def _missing(swarm: Swarm) -> tuple[LayerRange, ...]:
    """Return what would complete a path over peers; a divisible range is as many as it has
    layers.
    """
    blocks, served = swarm.blocks, set()
    for candidate in swarm.candidates:
        layers = candidate.layers
        at_end = layers.stop == blocks
        if candidate.divisible:
            stop = blocks - 1 if at_end and not candidate.head else layers.stop
            served |= {LayerRange(layer, layer + 1) for layer in range(layers.start, stop)}
        elif not at_end or (not swarm.private and candidate.head):
            served.add(layers)
    return missing_ranges(blocks, served, swarm.home.blocks_max, keeps_tail=swarm.private)
