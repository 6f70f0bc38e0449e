"""What the rest of a path costs at least, from each layer and each peer: dynamic programming from
the last layer back.

The bounds are exact but for what a path remembers: a peer or an owner that it used already counts
only where it is among `groups`, and of many ranges the pairs that were measured only where they
are shorter. `search` looks after the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kwaai.placement.costs import NEVER, SCALE, Halves, Ints, Measure, Ways


@dataclass(frozen=True, slots=True, eq=False)
class Steps:
    """What one measure says of every layer and way, times SCALE: NEVER where it cannot be."""

    enter: Ints
    """(blocks, N): of entering a way before a layer, without the way there."""
    run: Ints
    """(blocks, N): of a layer."""
    stay: Ints
    """(blocks + 1, N): 0 where a way may go on after so many layers."""
    leave: Ints
    """(blocks + 1, N): 0 where a way may be left after so many layers."""
    end: Ints
    """(blocks + 1, N): of leaving a way for the requester, and the rest of the path there."""

    def take(self, kept: Ints) -> Steps:
        """Return the same for some of the ways."""
        columns = (self.enter, self.run, self.stay, self.leave, self.end)
        return Steps(*(column[:, kept] for column in columns))


def make_steps(ways: Ways, measure: Measure, last_max: int, *, samples: bool) -> Steps:
    """Return the steps of a measure; each hop costs 1 besides.

    last_max: blocks of the requester's last part. samples: the path ends with a head at a peer.
    """
    blocks = len(measure.first) - 1
    layer = np.arange(blocks + 1)[:, None]

    def allowed(low: Ints, high: Ints) -> Ints:
        return np.where((layer >= low) & (layer <= high), 0, NEVER)

    entered = allowed(ways.enter_lo, ways.enter_hi)[:-1]
    enter = np.where(entered == 0, measure.enter * SCALE + 1, NEVER)
    run = np.diff(measure.cumulated, axis=0) * SCALE
    leave = allowed(ways.leave_lo, ways.leave_hi)
    stay = allowed(ways.start, ways.leave_hi - 1)
    last = np.where(layer[:, 0] >= blocks - last_max, measure.last, NEVER)
    home = np.where(last < NEVER, last * SCALE, NEVER)[:, None] + 2 * SCALE * ways.quarter
    if samples:
        home[:, ~ways.head] = NEVER
    end = np.minimum(NEVER, leave + home)
    return Steps(enter, run, stay, leave, end)


class CostToGo:
    """The bounds. `K` states: what a path has used of each group, and whether it may end."""

    def __init__(
        self,
        ways: Ways,
        steps: Steps,
        halves: Halves,
        *,
        hops_min: int = 1,
        groups: Sequence[tuple[Ints, int]] = (),
    ) -> None:
        """`groups`: indices of ways of which a path takes so many at most. `hops_min`: 1 or 2."""
        self._halves = halves
        self._make_states(len(ways), hops_min, groups)
        blocks = len(steps.run)
        shape = (blocks + 1, self.states, len(ways))
        self.go = np.full(shape, NEVER, np.int64)
        """What is left after so many layers, in a way."""
        self.leave = np.full(shape, NEVER, np.int64)
        """The same, where the way is left for another."""
        self.enter = np.full(shape, NEVER, np.int64)
        """What is left where a way is entered there, this included, by the state before."""
        self._fill(steps, blocks)

    def _make_states(self, count: int, hops_min: int, groups: Sequence[tuple[Ints, int]]) -> None:
        """Number the states; `after[state, way]` is the one in which a way was entered."""
        bases = [hops_min, *(most + 1 for _, most in groups)]
        self.states = int(np.prod(bases))
        state = np.arange(self.states)
        self.after = np.zeros((self.states, count), np.int64)
        self.blocked = np.zeros((self.states, count), np.int64)
        stride = 1
        for number, base in enumerate(bases):
            digit = (state // stride % base)[:, None]
            if number == 0:  # hops of which one is the least: those that are still to come
                self.may_end = np.where(digit == 0, 0, NEVER)
                self.after += np.maximum(0, digit - 1)
                self.begun = (hops_min - 1) * stride
            else:
                inside = np.zeros(count, np.int64)
                inside[groups[number - 1][0]] = 1
                used = digit + inside
                self.blocked = np.where(used >= base, NEVER, self.blocked)
                self.after += stride * np.minimum(used, base - 1)
            stride *= base
        # Of a path that begins: no hop yet, none used.
        first = np.full(count, self.begun, np.int64)
        stride = bases[0]
        for members, most in groups:
            first[members] += stride
            stride *= most + 1
        self.first = first

    def _fill(self, steps: Steps, blocks: int) -> None:
        states, count = self.after.shape
        source = (self.after * count + np.arange(count)).ravel()
        may_end = self.may_end
        self.go[blocks] = np.minimum(NEVER, steps.end[blocks] + may_end)
        for layer in range(blocks - 1, 0, -1):
            run = self.go[layer + 1] + steps.run[layer]
            enter = run.take(source).reshape(states, count)
            enter += steps.enter[layer]
            enter += self.blocked
            np.minimum(enter, NEVER, out=enter)
            self.enter[layer] = enter
            leave = self._handover(enter) + steps.leave[layer]
            np.minimum(leave, NEVER, out=leave)
            self.leave[layer] = leave
            go = np.minimum(leave, steps.end[layer] + may_end)
            run += steps.stay[layer]
            self.go[layer] = np.minimum(go, run)

    def _handover(self, enter: Ints) -> Ints:
        """Return the least of the way to any other and through it, for each: (states, N)."""
        halves = self._halves
        if halves.matrix is not None:
            columns = np.flatnonzero(enter.min(axis=0) < NEVER)
            best = np.full(enter.shape, NEVER, np.int64)
            if len(columns):
                ways = halves.matrix[:, columns]
                for state in range(len(enter)):
                    best[state] = (ways + enter[state, columns]).min(axis=1)
            return best
        found: Ints = (enter + halves.quarter).min(axis=1)[:, None] + halves.quarter
        one, other, half = halves.shorter
        if len(one):
            columns = enter[:, other] + half
            begins = np.flatnonzero(np.diff(one, prepend=-1))
            least = np.minimum.reduceat(columns, begins, axis=1)
            found[:, one[begins]] = np.minimum(found[:, one[begins]], least)
        return found


def through(ways: Ways, steps: Steps, halves: Halves, first: Ints, first_max: int) -> Ints:
    """Return what a path with each way costs at least, wherever it is used: (N,)."""
    blocks, count = len(steps.run), len(ways)
    rest = CostToGo(ways, steps, halves).go[:, 0]
    best = np.full(count, NEVER, np.int64)
    done = np.full(count, NEVER, np.int64)
    for layer in range(1, blocks):
        enter = _arrive(done + steps.leave[layer], halves)
        if layer <= first_max:
            enter = np.minimum(enter, int(first[layer]) * SCALE + 2 * halves.quarter)
        enter += steps.enter[layer]
        done = np.minimum(enter, done + steps.stay[layer]) + steps.run[layer]
        np.minimum(done, NEVER, out=done)
        np.minimum(best, done + rest[layer + 1], out=best)
    return best


def _arrive(done: Ints, halves: Halves) -> Ints:
    """Return the least of what is done and the way from any to each: (N,)."""
    open_ = np.flatnonzero(done < NEVER)
    if not len(open_):
        return np.full(len(done), NEVER, np.int64)
    if halves.matrix is not None:
        found: Ints = (halves.matrix[open_] + done[open_, None]).min(axis=0)
        return found
    found = (done + halves.quarter).min() + halves.quarter
    one, other, half = halves.shorter
    if len(one):
        np.minimum.at(found, other, done[one] + half)
    return found
