"""Which path would answer an intent, and why not others: what `kwaainet intent explain` shows.

Plans as an answer would be planned (`routes`), and opens nothing.
"""

from __future__ import annotations

from kwaai.config import Config
from kwaai.intent.demand import Demand
from kwaai.intent.match import match
from kwaai.node.intent_control import (
    CandidateRow,
    HopRow,
    IntentPlan,
    IntentRequest,
    MismatchRow,
    PlannedPath,
    RelaxationRow,
)
from kwaai.node.local_slices import LocalSlices
from kwaai.node.opening import HERE
from kwaai.node.routes import Considered, Routes
from kwaai.node.standings import Standings
from kwaai.placement.paths import Candidate, Path, Route
from kwaai.trust.tiers import Tier


class RoutePlanner:
    """IntentPlanner over a node's routes."""

    def __init__(
        self, config: Config, slices: LocalSlices, routes: Routes, standings: Standings
    ) -> None:
        self._config, self._slices = config, slices
        self._routes, self._standings = routes, standings

    async def plan_intent(self, request: IntentRequest) -> IntentPlan:
        """See IntentPlanner."""
        model = await self._slices.model(request.model or self._config.model)
        route = request.route or self._config.route
        privacy = request.privacy or self._config.privacy
        considered = await self._routes.consider(
            model,
            route,
            privacy,
            min(request.prompt_tokens + 1, model.context_tokens),
            demand=request.demand,
            prompt_tokens=request.prompt_tokens,
        )
        constraints = considered.asked.constraints
        demand = request.demand.with_defaults(
            min_tier=Tier(constraints.floor), owner_hops_max=constraints.owner_hops_max
        )
        best = considered.choice.best
        return IntentPlan(
            model=model.name,
            handle=model.handle,
            route=route,
            privacy=privacy,
            demand=demand,
            candidates=tuple(self._row(one, demand) for one in considered.candidates),
            path=None if best is None else _planned(best),
            problem="" if best is not None else self._routes.missing(considered).message,
            relaxations=_relaxations(considered),
        )

    def _row(self, candidate: Candidate, demand: Demand) -> CandidateRow:
        standing = self._standings.standing(candidate.peer)
        found = match(demand, self._standings.facts(candidate.peer))
        rows = [MismatchRow(one.rule, one.text) for one in found]
        denial = self._standings.floors.check(
            "serve", candidate.name or candidate.peer, standing.tier, standing.integrity
        )
        if denial is not None and not any(row.rule == "min_tier" for row in rows):
            rows.append(MismatchRow(denial.rule, denial.message))
        return CandidateRow(
            peer=candidate.peer,
            name=candidate.name,
            owner=standing.owner or "",
            tier=standing.tier.label,
            score=standing.score,
            layers=candidate.layers,
            decode_ms=1000 * candidate.decode_s,
            rtt_ms=1000 * candidate.rtt_s if candidate.rtt_s >= 0 else None,
            mismatches=tuple(rows),
        )


def _relaxations(considered: Considered) -> tuple[RelaxationRow, ...]:
    return tuple(RelaxationRow(one.what, _planned(one.path)) for one in considered.choice.unmet)


def _planned(path: Path) -> PlannedPath:
    hops = [
        HopRow(hop.name or hop.peer, hop.peer, hop.layers, Tier(hop.tier).label, hop.trust)
        for hop in path.hops
    ]
    if path.first is not None:
        hops.insert(0, HopRow(HERE, "", path.first))
    if path.last is not None:
        hops.append(HopRow(HERE, "", path.last))
    route: Route = "alone" if not path.hops else "peer" if len(path.hops) == 1 else "split"
    first_ms = 1000 * path.first_token_s if path.first_token_s > 0 else None
    return PlannedPath(route, tuple(hops), 1000 * path.token_s, first_ms)
