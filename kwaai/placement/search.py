"""The best path under rules that bounds do not know: a peer once, an owner so often, two times to
keep to. Best first, by the bounds of `cost_to_go`.

What costs a search too many steps is put into the bounds, and it begins anew; when even that does
not end it, what it finds on the way is taken. Small cases are always exact.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np

from kwaai import limits
from kwaai.placement.cost_to_go import CostToGo, Steps
from kwaai.placement.costs import NEVER, SCALE, Halves, Ints, Ways

Group: TypeAlias = tuple[Literal["peer", "owner"], int]
"""Ways of which a path takes a limited number, by the number of the peer or the owner."""


@dataclass(frozen=True, slots=True, eq=False)
class Bound:
    """A measure that may not go over a limit."""

    steps: Steps
    first: Ints
    """The requester's first part, by its blocks."""
    most: int
    """Times SCALE, and less than one nanosecond besides for the hops."""


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """What is searched: all that does not change when the bounds do."""

    ways: Ways
    halves: Halves
    steps: Steps
    first: Ints
    """The requester's first part, by its blocks: nanoseconds."""
    first_max: int
    hops_min: int
    owner_max: int | None
    bounds: tuple[Bound, ...] = ()
    most: int = NEVER - 1
    """What the path may cost, times SCALE."""


@dataclass(frozen=True, slots=True)
class Found:
    """A path: `(way, start, stop)` of each hop."""

    cost: int
    """Times SCALE, with one for each hop."""
    segments: tuple[tuple[int, int, int], ...]


@dataclass(slots=True, eq=False)
class _Label:
    """A partial path: in `way` since `start`, `layer` layers done."""

    layer: int
    way: int
    start: int
    cost: int
    spent: tuple[int, ...]
    """Of each bound."""
    state: int
    used: int
    """Peers, as bits."""
    owners: tuple[int, ...]
    hops: int
    before: _Label | None

    def segments(self) -> tuple[tuple[int, int, int], ...]:
        label: _Label | None = self
        found = []
        while label is not None:
            found.append((label.way, label.start, label.layer))
            label = label.before
        return tuple(reversed(found))


@dataclass(slots=True, eq=False)
class _Handover:
    """The ways on from a label (None: from the requester) before a layer, the best first."""

    label: _Label | None
    layer: int
    order: list[int] | None = None
    totals: list[int] | None = None
    halves: Ints | None = None
    at: int = 0


@dataclass(slots=True, eq=False)
class Effort:
    """What the searches of one choice share: how long they may take yet, and what was in their way
    before.
    """

    pops: int = limits.PATH_POPS_TOTAL
    groups: list[Group] = field(default_factory=list)


def solve(problem: Problem, effort: Effort) -> Found | None:
    """Return the best path, None where there is none that costs `problem.most` at most."""
    if not len(problem.ways):
        return None
    while effort.pops > 0:
        search = _Search(problem, effort.groups)
        if search.run(limits.PATH_POPS_MAX, effort):
            return search.found
        worst = search.worst(effort.groups)
        if worst is None or search.states_with(worst) > search.states_max:
            if search.run(limits.PATH_LAST_POPS_MAX, effort):
                return search.found
            break
        effort.groups.append(worst)
    search = _Search(problem, effort.groups, is_greedy=True)
    search.run(limits.PATH_POPS_MAX, None)
    return search.found


class _Search:
    """One search. Pops the label whose path costs least, by what it has cost and the bound."""

    def __init__(
        self, problem: Problem, groups: Sequence[Group], *, is_greedy: bool = False
    ) -> None:
        self._problem, self._is_greedy = problem, is_greedy
        ways, halves = problem.ways, problem.halves
        self._owners: dict[int, Ints] = {}
        if problem.owner_max is not None:
            known = sorted(set(ways.owner.tolist()) - {-1})
            self._owners = {owner: np.flatnonzero(ways.owner == owner) for owner in known}
        self._to_go = CostToGo(
            ways,
            problem.steps,
            halves,
            hops_min=problem.hops_min,
            groups=[(self._members(group), self._most(group)) for group in groups],
        )
        self._bounds = [CostToGo(ways, bound.steps, halves) for bound in problem.bounds]
        self._lists: dict[tuple[int, int], list[_Label]] = {}
        self._in_the_way: Counter[Group] = Counter()
        self._heap: list[tuple[int, int, int, _Label | _Handover | Found]] = []
        self._pushed = 0
        last = np.zeros(int(ways.peer.max()) + 1, np.int64)
        np.maximum.at(last, ways.peer, ways.leave_hi)
        self._last_of_peer = last
        self._alive: dict[int, int] = {}
        self.found: Found | None = None
        self._begin()

    # What is put into the bounds.

    def _members(self, group: Group) -> Ints:
        kind, number = group
        if kind == "peer":
            return self._problem.halves.members(number)
        return np.flatnonzero(self._problem.ways.owner == number)

    def _most(self, group: Group) -> int:
        return 1 if group[0] == "peer" else self._problem.owner_max or 0

    @property
    def states_max(self) -> int:
        """How many states the bounds may have."""
        layers, count = len(self._problem.steps.leave), len(self._problem.ways)
        return min(limits.PATH_STATES_MAX, max(2, limits.PATH_CELLS_MAX // (layers * count)))

    def states_with(self, group: Group) -> int:
        """How many they would have with another group."""
        return self._to_go.states * (self._most(group) + 1)

    def worst(self, known: Iterable[Group]) -> Group | None:
        """Return what was in the way most often, of what the bounds do not know."""
        seen = set(known)
        found = [(-count, group) for group, count in self._in_the_way.items() if group not in seen]
        return min(found)[1] if found else None

    def run(self, pops: int, effort: Effort | None) -> bool:
        """Go on for so many steps. True: `found` is the best path, or None as there is none."""
        for _ in range(pops if effort is None else min(pops, effort.pops)):
            if not self._heap:
                return True
            if effort is not None:
                effort.pops -= 1
            what = heapq.heappop(self._heap)[-1]
            if isinstance(what, Found):
                self.found = what
                return True
            if isinstance(what, _Label):
                self._go_on(what)
            else:
                self._hand_over(what)
        return False

    def _push(self, cost: int, to_go: int, layer: int, what: _Label | _Handover | Found) -> None:
        total = cost + to_go
        if total <= self._problem.most:
            self._pushed += 1
            rank = to_go if self._is_greedy else total
            heapq.heappush(self._heap, (rank, -layer, self._pushed, what))

    def _begin(self) -> None:
        """Push the ways from each first part of the requester."""
        problem, to_go = self._problem, self._to_go
        quarter = 2 * problem.halves.quarter
        columns = np.arange(len(problem.ways))
        for layer in range(1, problem.first_max + 1):
            first = int(problem.first[layer]) * SCALE
            if first >= NEVER or layer >= len(problem.steps.run):
                continue
            totals = to_go.go[layer + 1][to_go.first, columns] + problem.steps.run[layer]
            totals += problem.steps.enter[layer] + quarter
            for bound, rest in zip(problem.bounds, self._bounds, strict=True):
                spent = int(bound.first[layer]) * SCALE + quarter + rest.enter[layer][0]
                totals = np.where(spent > bound.most, NEVER, totals)
            self._offer(_Handover(None, layer), totals + first, quarter)

    def _offer(self, handover: _Handover, totals: Ints, halves: Ints) -> None:
        """Sort the ways on and push the best one."""
        open_ = np.flatnonzero(totals < NEVER)
        if not len(open_):
            return
        values = totals[open_]
        order = np.argsort(values, kind="stable")
        handover.order, handover.totals = open_[order].tolist(), values[order].tolist()
        handover.halves = halves
        self._push_next(handover)

    def _push_next(self, handover: _Handover) -> None:
        totals = handover.totals or ()
        if handover.at < len(totals):
            total = totals[handover.at]
            spent = 0 if handover.label is None else handover.label.cost
            self._push(spent, total - spent, handover.layer, handover)

    # Steps.

    def _go_on(self, label: _Label) -> None:
        """Leave the peer for the requester, leave it for another, or stay."""
        problem, to_go, way = self._problem, self._to_go, label.way
        layer, steps = label.layer, self._problem.steps
        if not to_go.may_end[label.state, 0]:
            end = int(steps.end[layer, way])
            over = any(
                spent + int(bound.steps.end[layer, way]) > bound.most
                for spent, bound in zip(label.spent, problem.bounds, strict=True)
            )
            if end < NEVER and not over:
                self._push(label.cost + end, 0, layer, Found(label.cost + end, label.segments()))
        leave = int(to_go.leave[layer, label.state, way])
        if leave < NEVER and label.hops < limits.HOPS_MAX:
            self._push(label.cost, leave, layer, _Handover(label, layer))
        if not steps.stay[layer, way]:
            self._stay(label)

    def _stay(self, label: _Label) -> None:
        """Run the next layer; where nothing else can be done, up to the first that may be left."""
        problem, way, layer = self._problem, label.way, label.layer
        until = max(layer + 1, int(problem.ways.leave_lo[way]))
        cost = label.cost + int(problem.steps.run[layer:until, way].sum())
        spent = tuple(
            spent + int(bound.steps.run[layer:until, way].sum())
            for spent, bound in zip(label.spent, problem.bounds, strict=True)
        )
        for number, bound in enumerate(problem.bounds):
            if spent[number] + int(self._bounds[number].go[until, 0, way]) > bound.most:
                return
        self._push(
            cost,
            int(self._to_go.go[until, label.state, way]),
            until,
            _Label(
                until, way, label.start, cost, spent, label.state, label.used, label.owners,
                label.hops, label.before,
            ),
        )  # fmt: skip

    def _hand_over(self, handover: _Handover) -> None:
        if handover.order is None:
            assert handover.label is not None
            self._sort(handover, handover.label)
            return
        way = handover.order[handover.at]
        handover.at += 1
        self._enter(handover, way)
        self._push_next(handover)

    def _sort(self, handover: _Handover, label: _Label) -> None:
        """Find out what every way on costs, without those that the path may not use."""
        problem, layer = self._problem, handover.layer
        halves = problem.halves.row(label.way)
        totals = self._to_go.enter[layer, label.state] + halves + label.cost
        best = int(totals.argmin())
        for peer in self._peers(label):
            totals[problem.halves.members(peer)] = NEVER
        if totals[best] >= NEVER:
            self._in_the_way["peer", int(problem.ways.peer[best])] += 1
        else:
            best = int(totals.argmin())
        for owner, count in Counter(label.owners).items():
            if count >= (problem.owner_max or 0):
                if problem.ways.owner[best] == owner and totals[best] < NEVER:
                    self._in_the_way["owner", owner] += 1
                totals[self._owners[owner]] = NEVER
        for spent, bound, rest in zip(label.spent, problem.bounds, self._bounds, strict=True):
            totals[spent + halves + rest.enter[layer, 0] > bound.most] = NEVER
        self._offer(handover, totals, halves)

    def _peers(self, label: _Label) -> Iterable[int]:
        step: _Label | None = label
        while step is not None:
            yield int(self._problem.ways.peer[step.way])
            step = step.before

    def _enter(self, handover: _Handover, way: int) -> None:
        """Make the label of a way that is entered, unless a better one was there."""
        problem, to_go, before = self._problem, self._to_go, handover.label
        layer, halves = handover.layer, handover.halves
        assert halves is not None
        half = int(halves[way])
        peer, owner = int(problem.ways.peer[way]), int(problem.ways.owner[way])
        owners: tuple[int, ...] = ()
        if before is None:
            state, hops, used = int(to_go.first[way]), 0, 0
            costs = [int(f[layer]) * SCALE for f in (problem.first, *self._firsts())]
        else:
            state, hops = int(to_go.after[before.state, way]), before.hops
            used, owners = before.used, before.owners
            costs = [before.cost, *before.spent]
        costs = [
            spent + half + int(steps.enter[layer, way]) + int(steps.run[layer, way])
            for spent, steps in zip(costs, self._all_steps(), strict=True)
        ]
        label = _Label(
            layer + 1, way, layer, costs[0], tuple(costs[1:]), state, used | 1 << peer,
            (*owners, owner) if owner in self._owners else owners, hops + 1, before,
        )  # fmt: skip
        if self._is_new(label):
            self._push(label.cost, int(to_go.go[layer + 1, state, way]), layer + 1, label)

    def _firsts(self) -> list[Ints]:
        return [bound.first for bound in self._problem.bounds]

    def _all_steps(self) -> list[Steps]:
        return [self._problem.steps, *(bound.steps for bound in self._problem.bounds)]

    # Which labels are worth keeping.

    def _is_new(self, label: _Label) -> bool:
        """Whether no label that entered the same way at the same layer does at least as well with
        no more of what counts later.
        """
        known = self._lists.setdefault((label.start, label.way), [])
        alive = self._alive_at(label.start)
        if any(_beats(other, label, alive) for other in known):
            return False
        if len(known) < limits.PATH_LABELS_MAX:
            known.append(label)
        return True

    def _alive_at(self, layer: int) -> int:
        """Return the peers, as bits, that a path may still use after a layer."""
        found = self._alive.get(layer)
        if found is None:
            bits = np.packbits(self._last_of_peer > layer, bitorder="little")
            found = int.from_bytes(bits.tobytes(), "little")
            self._alive[layer] = found
        return found


def _beats(one: _Label, other: _Label, alive: int) -> bool:
    if one.cost > other.cost or one.used & alive & ~other.used:
        return False
    if one.hops > other.hops or (one.hops == 1) != (other.hops == 1):
        return False
    if any(mine > its for mine, its in zip(one.spent, other.spent, strict=True)):
        return False
    return all(one.owners.count(owner) <= other.owners.count(owner) for owner in one.owners)
