"""The best paths of one swarm under constraints: over one peer, over several.

Puts together what `costs` says, `search` finds and trust decides. `paths` compares the kinds, and
`relax` asks again with other constraints.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from kwaai import limits
from kwaai.placement.cost_to_go import Steps, make_steps, through
from kwaai.placement.costs import (
    NEVER,
    NS,
    SCALE,
    Aim,
    Bools,
    Halves,
    Ints,
    Measure,
    Ways,
    alone_ns,
    keep_early,
    make_halves,
    make_measure,
    make_ways,
    to_ns,
)
from kwaai.placement.path_types import (
    Between,
    Candidate,
    Constraints,
    HomePart,
    Hop,
    Pairs,
    Path,
)
from kwaai.placement.search import Bound, Effort, Found, Problem, solve
from kwaai.types import LayerRange


@dataclass(frozen=True, slots=True, eq=False)
class Swarm:
    """All that a choice starts from, but for the constraints."""

    blocks: int
    candidates: Sequence[Candidate]
    """Of which none is avoided and none is out of the model."""
    home: HomePart
    private: bool
    measured: Between | Pairs | None
    row_s: float
    rows: int
    """Of the prompt, at least 1."""


@dataclass(frozen=True, slots=True, eq=False)
class _Route:
    """A path in numbers."""

    cost: int
    """Nanoseconds of the aim."""
    trust: int
    segments: tuple[tuple[int, int, int], ...]


def alone(swarm: Swarm, constraints: Constraints) -> Path | None:
    """Return the path on this machine alone, where it fits and keeps to the times."""
    if swarm.home.alone_s is None:
        return None
    token, first = alone_ns(swarm.home, swarm.blocks, swarm.rows)
    if token > _most(constraints.token_s_max) or first > _most(constraints.first_token_s_max):
        return None
    return Path(LayerRange(0, swarm.blocks), (), None, token / NS, first / NS)


def allowed(candidate: Candidate, constraints: Constraints, without: frozenset[str]) -> bool:
    """Whether a candidate may be used at all. `without`: words of a demand that do not count."""
    if candidate.tier < constraints.floor or constraints.owner_hops_max == 0:
        return False
    if not set(candidate.breaks) <= without:
        return False
    early = candidate.layers.start < constraints.early_stop
    return not early or candidate.divisible or candidate.tier >= constraints.early_floor


class Planner:
    """Plans over the candidates that constraints allow, for one aim."""

    def __init__(
        self,
        swarm: Swarm,
        constraints: Constraints,
        aim: Aim = "cost",
        without: frozenset[str] = frozenset(),
    ) -> None:
        self._swarm, self._constraints, self._aim = swarm, constraints, aim
        found = [c for c in swarm.candidates if allowed(c, constraints, without)]
        free = [c for c in found if c.sessions_free > 0]
        self._groups = [free] if len(free) == len(found) else [free, found]
        self._views: dict[int, _View] = {}

    def fastest(self, several: bool) -> Plan | None:
        """Return the best path over one peer, or over `several`; over busy peers if it must be."""
        for number, group in enumerate(self._groups):
            view = self._views.get(number)
            if view is None:
                view = self._views[number] = _View(self._swarm, self._constraints, self._aim, group)
            found = view.find(several)
            if found is not None:
                return Plan(view, found, several)
        return None


class Plan:
    """A path in numbers, and what it was chosen from."""

    def __init__(self, view: _View, route: _Route, several: bool) -> None:
        self._view, self._route, self._several = view, route, several

    @property
    def cost(self) -> int:
        """Nanoseconds of the aim."""
        return self._route.cost

    def trust(self, most: int) -> None:
        """Go over to the most trusted of the paths that cost so many nanoseconds at most."""
        self._route = self._view.trusted(self._route, self._several, most)

    def path(self) -> Path:
        """Return the path with its predictions."""
        return self._view.path(self._route)


def slack_ns(cost: int) -> int:
    """Return what is hardly more than `cost`."""
    return cost + int(cost * limits.PATH_TRUST_SLACK)


def _most(seconds: float | None) -> int:
    return NEVER // SCALE - 1 if seconds is None else to_ns(seconds)


class _View:
    """Plans over one group of candidates."""

    def __init__(
        self, swarm: Swarm, constraints: Constraints, aim: Aim, candidates: Sequence[Candidate]
    ) -> None:
        self._swarm, self._constraints, self._aim = swarm, constraints, aim
        ways = make_ways(swarm.blocks, candidates, swarm.home, swarm.rows)
        if constraints.early_stop > 0 and constraints.early_floor > 0:
            ways = keep_early(ways, constraints.early_floor, constraints.early_stop)
        self._ways = ways
        self._measures: dict[Aim, Measure] = {}
        self._steps: dict[tuple[Aim, int], Steps] = {}
        self._effort = Effort()

    @cached_property
    def _halves(self) -> Halves:
        return make_halves(self._ways, self._swarm.measured)

    def _measure(self, aim: Aim) -> Measure:
        found = self._measures.get(aim)
        if found is None:
            swarm = self._swarm
            found = make_measure(
                self._ways, swarm.home, swarm.blocks, aim,
                private=swarm.private, row_s=swarm.row_s, rows=swarm.rows,
            )  # fmt: skip
            self._measures[aim] = found
        return found

    def _limits(self) -> list[tuple[Aim, int]]:
        """The measures that have a limit."""
        asked = self._constraints
        found: list[tuple[Aim, int]] = []
        if asked.token_s_max is not None:
            is_cost = self._aim == "cost" and not self._ways.risk.any()
            found.append(("cost" if is_cost else "token", _most(asked.token_s_max)))
        if asked.first_token_s_max is not None:
            found.append(("first", _most(asked.first_token_s_max)))
        return found

    def find(self, several: bool) -> _Route | None:
        """Return the best path over one peer, or over several."""
        kept = np.arange(len(self._ways))
        if not several:
            return self._one_peer(kept)
        for aim, limit in self._limits():
            kept = self._near(kept, aim, limit)
        return self._several(kept)

    def trusted(self, best: _Route, several: bool, most: int) -> _Route:
        """Return the most trusted path that costs `most` at most, and of those the best."""
        higher = np.flatnonzero(self._ways.trust > best.trust)
        if not len(higher):
            return best
        kept = higher
        if several:
            for aim, limit in [(self._aim, most), *self._limits()]:
                kept = self._near(kept, aim, limit)
        trusts = sorted(set(self._ways.trust[kept].tolist()))
        low, high = 0, len(trusts)
        while low < high and self._effort.pops > 0:  # each of trusts[:low] has a path
            middle = (low + high) // 2
            ways = kept[self._ways.trust[kept] >= trusts[middle]]
            found = self._several(ways, most) if several else self._one_peer(ways)
            if found is not None and found.cost <= most:
                best, low = found, middle + 1
            else:
                high = middle
        return best

    def _near(self, kept: Ints, aim: Aim, most: int) -> Ints:
        """Return the ways of `kept` that a path which takes `most` at most could use."""
        ends = self._swarm.home.blocks_max - self._swarm.private
        if ends < 1 or not len(kept):
            return kept[:0]
        ways, halves, steps = self._part(kept, aim, ends if self._swarm.private else 0)
        first = self._measure(aim).first
        least = through(ways, steps, halves, first, min(ends, self._swarm.blocks - 1))
        return kept[least <= most * SCALE + SCALE - 1]

    # Several peers.

    def _several(self, kept: Ints, cost_max: int = NEVER // SCALE - 1) -> _Route | None:
        """Search where the requester's two parts fit together: as if each had the memory that the
        other leaves at least, then in the two halves of that where they do not fit.
        """
        most = self._swarm.home.blocks_max
        queue: list[tuple[int, int, int, Found]] = []

        def push(low: int, high: int) -> None:
            found = self._within(kept, low, high, cost_max)
            if found is not None:
                heapq.heappush(queue, (found.cost, low, high, found))

        push(1, most - self._swarm.private)
        for _ in range(limits.PATH_SEARCHES_MAX):
            if not queue:
                return None
            _, low, high, found = heapq.heappop(queue)
            first, last = found.segments[0][1], self._swarm.blocks - found.segments[-1][2]
            if first + last <= most:
                segments = tuple((int(kept[w]), start, stop) for w, start, stop in found.segments)
                trust = int(self._ways.trust[[w for w, _, _ in segments]].min())
                return _Route(found.cost // SCALE, trust, segments)
            middle = min(max((low + high) // 2, most - last), first - 1)
            push(low, middle)
            push(middle + 1, high)
        return None

    def _within(self, kept: Ints, low: int, high: int, cost_max: int) -> Found | None:
        """Search with a first part of at most `high` blocks, and a last one that leaves `low`."""
        if not 1 <= low <= high or not len(kept):
            return None
        swarm, private = self._swarm, self._swarm.private
        last_max = swarm.home.blocks_max - low if private else 0
        ways, halves, steps = self._part(kept, self._aim, last_max)
        bounds = []
        for aim, limit in self._limits():
            other = steps if aim == self._aim else self._part(kept, aim, last_max)[2]
            bounds.append(Bound(other, self._measure(aim).first, limit * SCALE + SCALE - 1))
        first_max = min(high, swarm.blocks - 1)
        return solve(
            Problem(
                ways, halves, steps, self._measure(self._aim).first, first_max, 2,
                self._constraints.owner_hops_max, tuple(bounds), cost_max * SCALE + SCALE - 1,
            ),
            self._effort,
        )  # fmt: skip

    def _part(self, kept: Ints, aim: Aim, last_max: int) -> tuple[Ways, Halves, Steps]:
        """Return some of the ways, with what an aim says of them."""
        steps = self._steps.get((aim, last_max))
        if steps is None:
            private = self._swarm.private
            steps = make_steps(self._ways, self._measure(aim), last_max, samples=not private)
            self._steps = {k: s for k, s in self._steps.items() if k[1] == last_max}
            self._steps[aim, last_max] = steps
        if len(kept) == len(self._ways):
            return self._ways, self._halves, steps
        ways = self._ways.take(kept)
        return ways, self._halves.take(ways, kept), steps.take(kept)

    # One peer.

    def _one_peer(self, kept: Ints) -> _Route | None:
        """Look at every range that one peer can run between the requester's two parts."""
        swarm, ways = self._swarm, self._ways
        blocks, most = swarm.blocks, swarm.home.blocks_max
        found: tuple[int, int, int, int] | None = None
        layers = np.arange(blocks + 1)
        fits = layers[:, None] + (blocks - layers) <= most
        fits &= (layers[:, None] < layers) & (layers[:, None] >= 1)
        limits_ = self._limits()
        near = (ways.enter_lo[kept] <= most) & (ways.leave_hi[kept] >= blocks - most)
        for way in kept[near].tolist():
            enter = slice(int(ways.enter_lo[way]), min(int(ways.enter_hi[way]), most) + 1)
            leave = slice(max(int(ways.leave_lo[way]), blocks - most), int(ways.leave_hi[way]) + 1)
            inside = fits[enter, leave]
            if not inside.any() or not (swarm.private or ways.head[way]):
                continue
            costs = self._one_way(self._aim, way, enter, leave, inside)
            for aim, limit in limits_:
                over = self._one_way(aim, way, enter, leave, inside) > limit
                costs = np.where(over, NEVER, costs)
            at = int(costs.argmin())
            row, column = divmod(at, costs.shape[1])
            cost = int(costs[row, column])
            if cost < NEVER and (found is None or cost < found[0]):
                found = cost, way, enter.start + row, leave.start + column
        if found is None:
            return None
        cost, way, start, stop = found
        return _Route(cost, int(ways.trust[way]), ((way, start, stop),))

    def _one_way(self, aim: Aim, way: int, enter: slice, leave: slice, inside: Bools) -> Ints:
        measure = self._measure(aim)
        done = measure.cumulated[:, way]
        once = int(measure.enter[way]) + 4 * int(self._ways.quarter[way])
        before = measure.first[enter] - done[enter] + once
        after = measure.last[leave] + done[leave]
        return np.where(inside, np.minimum(NEVER, before[:, None] + after), NEVER)

    # The answer.

    def path(self, route: _Route) -> Path:
        """Return the path with its predictions."""
        segments, ways = route.segments, self._ways
        found = [ways.candidates[way] for way, _, _ in segments]
        hops = tuple(
            Hop(c.peer, c.name, LayerRange(start, stop), c.tier, c.trust, c.owner)
            for c, (_, start, stop) in zip(found, segments, strict=True)
        )
        stop, blocks = segments[-1][2], self._swarm.blocks
        token, first, cost = (self._price(segments, aim) for aim in ("token", "first", "cost"))
        return Path(
            LayerRange(0, segments[0][1]),
            hops,
            LayerRange(stop, blocks) if stop < blocks else None,
            token / NS,
            first / NS,
            (cost - token) / NS,
        )

    def _price(self, segments: Sequence[tuple[int, int, int]], aim: Aim) -> int:
        """Add a path up."""
        measure, quarter = self._measure(aim), self._ways.quarter
        done = measure.cumulated
        total = int(measure.first[segments[0][1]]) + int(measure.last[segments[-1][2]])
        total += 2 * int(quarter[segments[0][0]]) + 2 * int(quarter[segments[-1][0]])
        before: int | None = None
        for way, start, stop in segments:
            total += int(measure.enter[way]) + int(done[stop, way] - done[start, way])
            if before is not None:
                total += self._halves.between(before, way) // SCALE
            before = way
        return total
