"""What would have to give where constraints leave no path: the smallest changes, found by planning
again. Docs: docs/planner.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from kwaai import limits
from kwaai.placement.costs import Aim
from kwaai.placement.path_types import Candidate, Change, Constraints, Path, Relaxation


class Plan(Protocol):
    """Plans under constraints; `without`: words of a demand that do not count."""

    def __call__(
        self, constraints: Constraints, without: frozenset[str], aim: Aim = "cost"
    ) -> Path | None: ...


@dataclass(frozen=True, slots=True)
class _Point:
    """One point of what could be asked."""

    constraints: Constraints
    without: frozenset[str] = frozenset()


def relaxations(
    candidates: Sequence[Candidate], asked: Constraints, plan: Plan
) -> tuple[Relaxation, ...]:
    """Return what would do: each change that does alone; if none does, one set of which none can be
    left out or made smaller as the others are. Empty where nothing would. `plan` found no path for
    `asked`.
    """
    search = _Relaxing(asked, plan)
    knobs = search.knobs(candidates)
    freed = search.freed(knobs)
    if not knobs or search.plan(freed) is None:
        return ()
    found = []
    for knob in knobs:
        point = search.freed([knob])
        if search.plan(point) is not None:
            found.append(search.tightened([knob], point))
    if not found:
        found.append(search.tightened(knobs, freed))
    return tuple(relaxation for relaxation in found if relaxation is not None)


class _Relaxing:
    """Each constraint is a knob: the name of its field, or one of a demand's words."""

    def __init__(self, asked: Constraints, plan: Plan) -> None:
        self._asked, self._plan = asked, plan
        self._known: dict[tuple[_Point, Aim], Path | None] = {}

    def plan(self, point: _Point, aim: Aim = "cost") -> Path | None:
        key = point, aim
        if key not in self._known:
            self._known[key] = self._plan(point.constraints, point.without, aim)
        return self._known[key]

    def knobs(self, candidates: Sequence[Candidate]) -> list[str]:
        """Return what was asked for, in the order in which it is given back."""
        words = sorted({word for c in candidates for word in c.breaks})
        words = words[: limits.PATH_RELAXED_WORDS_MAX]
        none = Constraints()
        names = ("floor", "early_floor", "owner_hops_max", "token_s_max", "first_token_s_max")
        fields = [n for n in names if getattr(self._asked, n) != getattr(none, n)]
        return [*words, *fields]

    def freed(self, knobs: Sequence[str]) -> _Point:
        """Return what was asked without these."""
        point = _Point(self._asked)
        for knob in knobs:
            point = self._free(point, knob)
        return point

    def _free(self, point: _Point, knob: str) -> _Point:
        if hasattr(self._asked, knob):
            return self._set(point, knob, getattr(Constraints(), knob))
        return replace(point, without=point.without | {knob})

    def _set(self, point: _Point, name: str, value: float | None) -> _Point:
        changed: dict[str, Any] = {name: value}
        return replace(point, constraints=replace(point.constraints, **changed))

    def tightened(self, knobs: Sequence[str], point: _Point) -> Relaxation | None:
        """Give back of each of `knobs`, which are free at `point`, as much as leaves a path."""
        changes = []
        for knob in knobs:
            if len(knobs) > 1 and self.plan(back := self._restore(point, knob)) is not None:
                point = back
                continue
            point, change = self._least(point, knob)
            changes.append(change)
        path = self.plan(point)
        return None if path is None else Relaxation(tuple(changes), path)

    def _restore(self, point: _Point, knob: str) -> _Point:
        if hasattr(self._asked, knob):
            return self._set(point, knob, getattr(self._asked, knob))
        return replace(point, without=point.without - {knob})

    def _least(self, point: _Point, knob: str) -> tuple[_Point, Change]:
        """Return the smallest change of a knob that is free at `point` and was asked too high."""
        asked = self._asked
        if knob == "floor":
            return self._tier(point, knob, "min_tier", asked.floor)
        if knob == "early_floor":
            return self._tier(point, knob, "early_tier", asked.early_floor)
        if knob == "owner_hops_max":
            return self._owner(point, asked.owner_hops_max or 0)
        if knob == "token_s_max":
            path = self.plan(point, "token")
            least_s = 0.0 if path is None else path.token_s
            change = Change("token_s", asked.token_s_max or 0.0, least_s)
            return self._set(point, knob, least_s), change
        if knob == "first_token_s_max":
            path = self.plan(point, "first")
            least_s = 0.0 if path is None else path.first_token_s
            change = Change("first_token_s", asked.first_token_s_max or 0.0, least_s)
            return self._set(point, knob, least_s), change
        return point, Change("demand", 0.0, None, knob)

    def _tier(
        self, point: _Point, knob: str, rule: Literal["min_tier", "early_tier"], asked: int
    ) -> tuple[_Point, Change]:
        for tier in range(min(asked, limits.PATH_TIERS_MAX + 1) - 1, 0, -1):
            if self.plan(tried := self._set(point, knob, tier)) is not None:
                return tried, Change(rule, asked, tier)
        return self._set(point, knob, 0), Change(rule, asked, 0)

    def _owner(self, point: _Point, asked: int) -> tuple[_Point, Change]:
        """Between what was asked and what a path without a limit has, in halves."""
        path = self.plan(point)
        owners = [hop.owner for hop in path.hops if hop.owner] if path is not None else []
        low, high = asked, max((owners.count(owner) for owner in owners), default=1)
        high = max(high, asked + 1)
        while high - low > 1:
            middle = (low + high) // 2
            if self.plan(self._set(point, "owner_hops_max", middle)) is not None:
                high = middle
            else:
                low = middle
        return self._set(point, "owner_hops_max", high), Change("owner_hops", asked, high)
