"""What each candidate costs in a path, in whole nanoseconds: sums do not depend on their order.

Three measures of one path: what is minimised (a token's time and what failures are expected to
cost), a token's time, the time to the first token. Chooses nothing; `search` does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kwaai import limits
from kwaai.placement.path_types import Between, Candidate, HomePart, Pairs
from kwaai.types import LayerRange

Ints: TypeAlias = NDArray[np.int64]
Bools: TypeAlias = NDArray[np.bool_]
Floats: TypeAlias = NDArray[np.float64]
Aim: TypeAlias = Literal["cost", "token", "first"]
"""What a search minimises: the time of a token with what failures cost; a token's time; the time to
the first token."""

NS = 1_000_000_000
NEVER = 1 << 60
"""Nanoseconds of what cannot be; a few of them still fit into 64 bits."""
SCALE = 1024
"""Steps of a search count nanoseconds times this, and 1 for each hop: ties go to fewer hops."""
_SPEEDUP = limits.PATH_PREFILL_SPEEDUP
_RTT_UNKNOWN_S = 0.05
"""Where no round trip is known at all: two homes of one continent."""


def to_ns(seconds: float) -> int:
    """Return whole nanoseconds; what is absurd is clipped."""
    if math.isnan(seconds):
        return limits.PATH_SECONDS_MAX * NS
    return round(min(max(seconds, 0.0), limits.PATH_SECONDS_MAX) * NS)


@dataclass(frozen=True, slots=True, eq=False)
class Ways:
    """Candidates as columns, each an array of N, in an order that is the same for any input order.

    A way is entered at a layer in [enter_lo, enter_hi] and left after one in [leave_lo, leave_hi]:
    a whole range has one of each. What is divisible has another way for its parts.
    """

    candidates: tuple[Candidate, ...]
    start: Ints
    stop: Ints
    enter_lo: Ints
    enter_hi: Ints
    leave_lo: Ints
    leave_hi: Ints
    decode: Ints
    """A token through the whole range."""
    prefill: Ints
    """The prompt through the whole range."""
    quarter: Ints
    """A quarter of the round trip to the requester."""
    risk: Ints
    peer: Ints
    """Numbers of the peers: a path takes each once."""
    owner: Ints
    """Numbers of the owners, below 0 where unknown."""
    trust: Ints
    """In steps of 1 / limits.PATH_TRUST_STEPS."""
    head: Bools

    def __len__(self) -> int:
        return len(self.candidates)

    def take(self, kept: Ints) -> Ways:
        """Return the ways of these indices, which ascend."""
        columns = {
            column.name: getattr(self, column.name)[kept]
            for column in fields(self)
            if column.name != "candidates"
        }
        return Ways(tuple(self.candidates[index] for index in kept), **columns)


def make_ways(
    blocks: int, candidates: Sequence[Candidate], home: HomePart, prompt_tokens: int
) -> Ways:
    """Turn into costs; what is unknown is as the median of what is known."""

    def column(values: Iterable[float]) -> Floats:
        return np.array(list(values), np.float64)

    start, stop = (
        column(c.layers.start for c in candidates).astype(np.int64),
        column(c.layers.stop for c in candidates).astype(np.int64),
    )
    decode_s, rtt_s = column(c.decode_s for c in candidates), column(c.rtt_s for c in candidates)
    length = stop - start
    known = decode_s > 0
    speed = float(np.median((decode_s / length)[known])) if known.any() else home.block_s
    decode_s = np.where(known | np.isnan(decode_s), decode_s, speed * length)
    known = rtt_s >= 0
    rtt = float(np.median(rtt_s[known])) if known.any() else _RTT_UNKNOWN_S
    rtt_s = np.where(known | np.isnan(rtt_s), rtt_s, rtt)
    speeds = column(c.prefill_tokens_s for c in candidates)
    row_s = np.where(speeds > 0, 1 / np.where(speeds > 0, speeds, 1), decode_s / _SPEEDUP)
    # Half of the pass that is under way, as often as one is.
    waits = 1 + _shares(column(c.load for c in candidates)) / 2
    decode = _all_ns(decode_s * waits)
    failure = _shares(column(c.failure for c in candidates))
    trust = column(c.trust for c in candidates)
    ways = Ways(
        tuple(candidates),
        start,
        stop,
        start,
        start,
        stop,
        stop,
        decode,
        np.maximum(decode, _all_ns(row_s * max(1, prompt_tokens) * waits)),
        _all_ns(rtt_s / 4),
        _all_ns(failure * limits.PATH_LOSS_S),
        _ranks([c.peer for c in candidates]),
        _ranks([c.owner for c in candidates]),
        np.rint(_shares(np.nan_to_num(trust)) * limits.PATH_TRUST_STEPS).astype(np.int64),
        np.array([c.head for c in candidates], bool),
    )
    return _divide(ways)


def _divide(ways: Ways) -> Ways:
    """Add a way for the parts of each divisible range: these are not loaded, which costs."""
    count = len(ways)
    divisible = np.flatnonzero([c.divisible for c in ways.candidates])
    both = ways.take(np.concatenate([np.arange(count), divisible]).astype(np.int64))
    parts = np.arange(len(both)) >= count
    loss = to_ns(limits.PATH_DIVIDE_LOSS_S)
    both = replace(
        both,
        enter_lo=np.where(parts, np.maximum(1, both.start), both.start),
        enter_hi=np.where(parts, both.stop - 1, both.start),
        leave_lo=np.where(parts, both.start + 1, both.stop),
        risk=both.risk + np.where(parts, loss, 0),
    )
    return both.take(_order(both, parts))


def _order(ways: Ways, parts: Bools) -> Ints:
    """Return an order that does not depend on the one that was given, but for equals."""
    found = ways.candidates
    keys = [
        ways.start, ways.stop, ways.peer, ways.decode, ways.prefill, ways.quarter, ways.risk,
        -ways.trust, np.array([-c.tier for c in found], np.int64), ~ways.head, parts,
        ways.owner, _ranks([c.name for c in found]),
    ]  # fmt: skip
    return np.lexsort(keys[::-1])


def _ranks(names: Sequence[str]) -> Ints:
    """Number names in their order; the empty one is -1."""
    ranks = {name: rank for rank, name in enumerate(sorted(set(names) - {""}))}
    return np.array([ranks.get(name, -1) for name in names], np.int64)


def _all_ns(seconds: Floats) -> Ints:
    """Return `to_ns` of each."""
    most = limits.PATH_SECONDS_MAX
    return np.rint(np.clip(np.nan_to_num(seconds, nan=most), 0, most) * NS).astype(np.int64)


def _shares(values: Floats) -> Floats:
    return np.clip(np.nan_to_num(values, nan=1.0), 0.0, 1.0)


def keep_early(ways: Ways, early_floor: int, early_stop: int) -> Ways:
    """Return the ways without the early layers of peers below `early_floor`."""
    low = np.array([c.tier < early_floor for c in ways.candidates], bool)
    enter_lo = np.where(low, np.maximum(ways.enter_lo, early_stop), ways.enter_lo)
    leave_lo = np.where(low, np.maximum(ways.leave_lo, enter_lo + 1), ways.leave_lo)
    changed = replace(ways, enter_lo=enter_lo, leave_lo=leave_lo)
    usable = (enter_lo <= ways.enter_hi) & (leave_lo <= ways.leave_hi)
    return changed.take(np.flatnonzero(usable))


class Halves:
    """Half a round trip between the peers of two ways, times SCALE: measured, or the mean of both
    peers' round trips to the requester.
    """

    def __init__(self, ways: Ways, one: Ints, other: Ints, half: Ints) -> None:
        """`half`: what was measured, from the ways `one`, which ascend, to the ways `other`."""
        self._ways, self.one, self.other, self.half = ways, one, other, half
        self.quarter = ways.quarter * SCALE
        self._members: dict[int, Ints] = {}
        shorter = half < self.quarter[one] + self.quarter[other]
        self.shorter = one[shorter], other[shorter], half[shorter]
        """Those by which the way is shorter than was to be expected."""
        self._starts = np.searchsorted(self.one, np.arange(len(ways) + 1))
        self.matrix: Ints | None = None
        if len(self.one) and len(ways) <= limits.PATH_DENSE_MAX:
            self.matrix = self.quarter[:, None] + self.quarter
            self.matrix[self.one, self.other] = self.half
            self.matrix[ways.peer[:, None] == ways.peer] = NEVER

    def members(self, peer: int) -> Ints:
        """Return the ways of a peer."""
        found = self._members.get(peer)
        if found is None:
            found = self._members[peer] = np.flatnonzero(self._ways.peer == peer)
        return found

    def take(self, ways: Ways, kept: Ints) -> Halves:
        """Return the same for `ways`, those of these indices."""
        number = np.full(len(self._ways), -1, np.int64)
        number[kept] = np.arange(len(kept))
        both = (number[self.one] >= 0) & (number[self.other] >= 0)
        return Halves(ways, number[self.one[both]], number[self.other[both]], self.half[both])

    def row(self, way: int) -> Ints:
        """Return the way from this one to each: (N,)."""
        row: Ints = self.quarter + self.quarter[way]
        start, stop = self._starts[way], self._starts[way + 1]
        row[self.other[start:stop]] = self.half[start:stop]
        return row

    def between(self, one: int, other: int) -> int:
        """Return the way from one to the other."""
        return int(self.row(one)[other])


def make_halves(ways: Ways, measured: Between | Pairs | None) -> Halves:
    """Return the ways between the peers, by what was measured, in both directions."""
    if measured is None or not len(ways):
        return Halves(ways, *np.zeros((3, 0), np.int64))
    names = {c.peer: peer for c, peer in zip(ways.candidates, ways.peer.tolist(), strict=True)}
    if isinstance(measured, Mapping):
        known = [
            (names[one], names[other], rtt_s)
            for (one, other), rtt_s in measured.items()
            if rtt_s >= 0 and one in names and other in names
        ]
        there = {(one, other) for one, other, _ in known}
        known += [(b, a, rtt_s) for a, b, rtt_s in known if (b, a) not in there]
    else:
        known = [
            (names[one], names[other], rtt_s)
            for one, other in _neighbours(ways)
            if (rtt_s := measured(one, other)) >= 0
        ]
    one, other = np.array([row[:2] for row in known], np.int64).reshape(-1, 2).T
    half = _all_ns(np.array([row[2] for row in known], np.float64) / 2) * SCALE
    # Each peer's ways with each of the other's.
    order = np.argsort(ways.peer, kind="stable")
    starts = np.searchsorted(ways.peer[order], np.arange(int(ways.peer.max()) + 2))
    count = np.diff(starts)
    ways_of_both = count[one] * count[other]
    pair = np.repeat(np.arange(len(one)), ways_of_both)
    at = np.arange(len(pair)) - np.repeat(np.cumsum(ways_of_both) - ways_of_both, ways_of_both)
    from_way = order[starts[one[pair]] + at // count[other[pair]]]
    to_way = order[starts[other[pair]] + at % count[other[pair]]]
    kept = np.flatnonzero(_may_follow(ways, from_way, to_way))
    kept = kept[np.lexsort((to_way[kept], from_way[kept]))]
    return Halves(ways, from_way[kept], to_way[kept], half[pair[kept]])


def _may_follow(ways: Ways, one: Ints, other: Ints) -> Bools:
    """Tell of pairs of ways whether the other may follow the one."""
    follows: Bools = ways.leave_lo[one] <= ways.enter_hi[other]
    return follows & (ways.leave_hi[one] >= ways.enter_lo[other])


def _neighbours(ways: Ways) -> set[tuple[str, str]]:
    """Return the pairs of peers of which the second may follow the first."""
    one, other = np.nonzero(ways.peer[:, None] != ways.peer)
    kept = _may_follow(ways, one, other)
    pairs = zip(one[kept].tolist(), other[kept].tolist(), strict=True)
    return {(ways.candidates[i].peer, ways.candidates[j].peer) for i, j in pairs}


@dataclass(frozen=True, slots=True, eq=False)
class Measure:
    """One way to add up a path."""

    total: Ints
    """Computing of each whole range, (N,)."""
    enter: Ints
    """Once for each hop, (N,): its row, its risk."""
    first: Ints
    """The requester's first part by its number of blocks, (blocks + 1,); NEVER for 0."""
    last: Ints
    """From the last hop that stops at a layer back to the requester and through its last part,
    (blocks + 1,), but for the way itself; NEVER where no path may end."""
    cumulated: Ints
    """`total` up to each layer, (blocks + 1, N)."""

    def take(self, kept: Ints) -> Measure:
        """Return the measure of some of the ways."""
        return Measure(
            self.total[kept], self.enter[kept], self.first, self.last, self.cumulated[:, kept]
        )


def make_measure(
    ways: Ways, home: HomePart, blocks: int, aim: Aim, *, private: bool, row_s: float, rows: int
) -> Measure:
    """Return the measure for an aim. `rows`: of the prompt, at least 1."""
    total = ways.prefill if aim == "first" else ways.decode
    row = min(to_ns(row_s) * (rows if aim == "first" else 1), limits.PATH_SECONDS_MAX * NS)
    enter = np.full(len(ways), row, np.int64) + (ways.risk if aim == "cost" else 0)
    here = _Here(home, blocks, rows if aim == "first" else 0)
    first = [NEVER, *(here.ns(LayerRange(0, stop)) for stop in range(1, blocks)), NEVER]
    last = [NEVER] * (blocks + 1)
    if private:
        for start in range(1, blocks):
            last[start] = row + here.ns(LayerRange(start, blocks))
    else:
        last[blocks] = 0
    length = np.maximum(1, ways.stop - ways.start)
    done = np.clip(np.arange(blocks + 1)[:, None] - ways.start, 0, length)
    return Measure(
        total, enter, np.array(first, np.int64), np.array(last, np.int64), total * done // length
    )


class _Here:
    """The parts that run at the requester."""

    def __init__(self, home: HomePart, blocks: int, prompt_rows: int) -> None:
        self._measured, self._blocks, self._rows = home.measured, blocks, prompt_rows
        self._block, self._head, self._pass = map(to_ns, (home.block_s, home.head_s, home.pass_s))
        block_s = home.prefill_block_s or home.block_s / _SPEEDUP
        self._row_block_s = block_s

    def ns(self, layers: LayerRange) -> int:
        """One token through a part, or the prompt."""
        head = self._head if layers.stop == self._blocks else 0
        measured = self._measured.get(layers)
        token = self._pass + len(layers) * self._block + head if measured is None else 0
        token = token if measured is None else to_ns(measured)
        if not self._rows:
            return token
        prompt = to_ns(self._row_block_s * len(layers) * self._rows)
        return max(token, self._pass + prompt + head)


def alone_ns(home: HomePart, blocks: int, rows: int) -> tuple[int, int]:
    """Return the time of a token and of the first token on this machine alone."""
    token = to_ns(home.alone_s or 0.0)
    block_s = home.prefill_block_s or (home.alone_s or 0.0) / blocks / _SPEEDUP
    return token, max(token, to_ns(block_s * blocks * rows))


def trust_steps(trust: float) -> int:
    """Return a score in steps that make a difference."""
    return 0 if math.isnan(trust) else round(min(max(trust, 0.0), 1.0) * limits.PATH_TRUST_STEPS)
