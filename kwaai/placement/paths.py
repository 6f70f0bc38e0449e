"""Which peers answer: the path of least predicted time, and the range that a swarm lacks most.

Does not measure, announce or open anything: ranges, speeds and round trips are the caller's. Who
holds what in each privacy mode is in docs/protocol/shard.md.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Literal, TypeAlias

from kwaai import limits
from kwaai.errors import OutOfMemory
from kwaai.placement.coverage import (
    CoverageRow,
    copies_of_blocks,
    coverage,
    explain_gaps,
    fill,
    gaps,
    inner_gaps,
    missing_ranges,
    serve_command,
)
from kwaai.placement.ranges import check_chain
from kwaai.types import LayerRange

__all__ = [
    "Between",
    "Candidate",
    "Choice",
    "CoverageRow",
    "HomePart",
    "Hop",
    "Path",
    "Privacy",
    "Route",
    "choose_path",
    "choose_range",
    "coverage",
    "explain_gaps",
    "gaps",
    "inner_gaps",
    "missing_ranges",
    "serve_command",
]

Privacy: TypeAlias = Literal["private", "fast"]
"""private: the requester holds the first and the last layers. fast: the last peer samples."""
Route: TypeAlias = Literal["auto", "alone", "peer", "split"]
"""auto: whichever is predicted to be fastest."""
Between: TypeAlias = Callable[[str, str], float]
"""Round trip in seconds between two peers; below 0 where nobody has measured it."""

_NS = 1_000_000_000
_RTT_UNKNOWN_S = 0.05
"""Where no round trip is known at all: two homes of one continent."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A range that a peer serves, and what it costs to use it."""

    peer: str
    name: str
    layers: LayerRange
    decode_s: float
    """One token through the whole range. 0: unknown, estimated from the others."""
    rtt_s: float
    """Between the requester and the peer. Below 0: unknown, taken as the others' median."""
    sessions_free: int
    """0: taken only where there is no path without it."""
    head: bool = True
    """Whether a range that stops at the last block can sample (only "fast" asks)."""


@dataclass(frozen=True, slots=True)
class HomePart:
    """What the requester's own machine can do."""

    block_s: float
    """One token through one block."""
    head_s: float
    """One token through the head."""
    blocks_max: int
    """Blocks that memory here allows, first and last part together."""
    alone_s: float | None
    """One token through the whole model here; None where it does not fit."""
    pass_s: float = 0.0
    """What one token takes besides, in each part that runs here."""
    measured: Mapping[LayerRange, float] = field(default_factory=dict)
    """One token through parts that run here already, head and all: instead of the sums above."""


@dataclass(frozen=True, slots=True)
class Hop:
    """One peer's part of a path."""

    peer: str
    name: str
    layers: LayerRange


@dataclass(frozen=True, slots=True)
class Path:
    """Who runs what. Private: first and last at home. Fast: no last. Alone: first is everything."""

    first: LayerRange | None
    hops: tuple[Hop, ...]
    last: LayerRange | None
    token_s: float
    """Predicted time of one token."""

    @property
    def ranges(self) -> tuple[LayerRange, ...]:
        """All ranges in order; they tile the model."""
        parts = (self.first, *(hop.layers for hop in self.hops), self.last)
        return tuple(part for part in parts if part is not None)


@dataclass(frozen=True, slots=True)
class Choice:
    """The best path of each kind, the one to take, and what is missing where peers have none."""

    alone: Path | None
    one_peer: Path | None
    split: Path | None
    best: Path | None
    """Of the route that was asked for; None where that route has no path."""
    gaps: tuple[LayerRange, ...]
    """Ranges that would complete a path over peers, were they served; empty where there is one, and
    where this machine can hold too few layers for any."""


def choose_path(
    block_count: int,
    candidates: Sequence[Candidate],
    home: HomePart,
    *,
    privacy: Privacy,
    route: Route = "auto",
    avoid: frozenset[str] = frozenset(),
    rtt_between: Between | None = None,
    row_s: float = 0.0,
) -> Choice:
    """Choose who answers: least predicted time, fewest hops on ties; the same for any order.

    A hop runs exactly a range that its peer serves, and a peer has one hop of a path. The
    prediction of a token is the sum of all computing, of the way from each part to the next (half a
    round trip; `row_s` seconds for the row itself), and in "fast" of the token's way back. Peers
    in `avoid` are not there.
    """
    usable = [c for c in candidates if c.peer not in avoid and c.layers.stop <= block_count]
    search = _Search(block_count, home, privacy == "private", rtt_between, row_s)
    one_peer, split = search.best(usable, 1), search.best(usable, 2)
    alone = None
    if home.alone_s is not None:
        alone = Path(LayerRange(0, block_count), (), None, _ns(home.alone_s) / _NS)
    ways = {"alone": alone, "peer": one_peer, "split": split}
    paths = [p for kind, p in ways.items() if p is not None and route in ("auto", kind)]
    best = min(paths, key=lambda path: (path.token_s, len(path.hops)), default=None)
    if best is not None:
        check_chain(best.ranges, block_count)
    missing: tuple[LayerRange, ...] = ()
    if one_peer is None and split is None:
        served = [c.layers for c in usable if search.may_end(c) or c.layers.stop < block_count]
        missing = missing_ranges(
            block_count, served, home.blocks_max, keeps_tail=privacy == "private"
        )
    return Choice(alone, one_peer, split, best, missing)


def choose_range(block_count: int, served: Sequence[Candidate], blocks_max: int) -> LayerRange:
    """Return what `shard serve --auto` takes: what the swarm lacks most and this machine can hold.

    The largest gap first; then what has the fewest copies, of those what is slowest. Never the
    first and the last block: who asks holds these itself. Raises OutOfMemory where not even one
    block fits.
    """
    if blocks_max < 1:
        raise OutOfMemory("no layer of the model fits into the memory that is free here")
    start, stop = (1, block_count - 1) if block_count > 2 else (0, block_count)
    inside = [c for c in served if c.layers.start < stop and c.layers.stop > start]
    holes = fill(start, [stop], [c.layers for c in inside])[stop].trail
    if holes:
        hole = min(holes, key=lambda layers: (-len(layers), layers.start))
        return LayerRange(hole.start, min(hole.stop, hole.start + blocks_max))
    copies = copies_of_blocks(block_count, [c.layers for c in inside])
    fewest = min(copies[start:stop])
    fitting: dict[LayerRange, float] = {}
    for candidate in inside:
        layers = candidate.layers
        if layers.start < start or layers.stop > stop or len(layers) > blocks_max:
            continue
        if fewest in copies[layers.start : layers.stop]:
            speed = max(0.0, candidate.decode_s) / len(layers)
            fitting[layers] = min(speed, fitting.get(layers, math.inf))
    if fitting:
        # Few copies all over; then slow; then long.
        return min(
            fitting,
            key=lambda r: (sum(copies[r.start : r.stop]) / len(r), -fitting[r], -len(r), r.start),
        )
    rarest = next(block for block in range(start, stop) if copies[block] == fewest)
    return LayerRange(rarest, min(stop, rarest + blocks_max))


def _ns(seconds: float) -> int:
    """Return whole nanoseconds, so that sums do not depend on their order; absurd ones clipped."""
    if math.isnan(seconds):
        return limits.PATH_SECONDS_MAX * _NS
    return round(min(max(seconds, 0.0), limits.PATH_SECONDS_MAX) * _NS)


@dataclass(frozen=True, slots=True, eq=False)
class _Way:
    """A candidate with its costs in nanoseconds."""

    candidate: Candidate
    decode: int
    quarter: int
    """A quarter of the round trip to the requester."""


@dataclass(frozen=True, slots=True, eq=False)
class _Label:
    """A partial path that ends with `way`, from the requester on."""

    cost: int
    hops: int
    first: int
    """Blocks of the first part."""
    way: _Way
    before: _Label | None

    def ways(self) -> tuple[_Way, ...]:
        label: _Label | None = self
        found = []
        while label is not None:
            found.append(label.way)
            label = label.before
        return tuple(reversed(found))


class _Search:
    """The shortest path over ranges, and what a whole one costs."""

    def __init__(
        self, blocks: int, home: HomePart, private: bool, between: Between | None, row_s: float
    ) -> None:
        self._blocks, self._home, self._private, self._between = blocks, home, private, between
        self._row, self._block_ns, self._head_ns = _ns(row_s), _ns(home.block_s), _ns(home.head_s)
        self._pass_ns = _ns(home.pass_s)

    def may_end(self, candidate: Candidate) -> bool:
        """Say whether a path may leave the peers after this range."""
        last = candidate.layers.stop == self._blocks
        return not last if self._private else last and candidate.head

    def best(self, candidates: Sequence[Candidate], hops_min: int) -> Path | None:
        """Return the best path of 1 hop, or of `hops_min` 2 or more; busy peers if it must be."""
        free = [c for c in candidates if c.sessions_free > 0]
        for group in (free, candidates):
            found = self._distinct(group, hops_min)
            if found is not None:
                return self._path(*found)
        return None

    def _distinct(
        self, candidates: Sequence[Candidate], hops_min: int
    ) -> tuple[int, _Label] | None:
        """Find the best path in which no peer has two hops.

        Best first: where the best path uses a peer twice, try without either of the two. A swarm
        made to exhaust that is cut short: every peer is left its longest range.
        """
        order = sorted(
            self._ways(candidates),
            key=lambda way: (way.candidate.layers, way.candidate.peer, way.decode),
        )
        queue: list[tuple[int, int, int, tuple[_Way, ...], _Label]] = []
        count = 0

        def push(ways: tuple[_Way, ...]) -> None:
            nonlocal count
            if (found := self._shortest(ways, hops_min)) is not None:
                heapq.heappush(queue, (found[0], found[1].hops, count, ways, found[1]))
                count += 1

        push(tuple(order))
        for _ in range(limits.PATH_SEARCHES_MAX):
            if not queue:
                return None
            cost, _, _, ways, label = heapq.heappop(queue)
            if (twice := _used_twice(label)) is None:
                return cost, label
            for one in twice:
                push(tuple(way for way in ways if way is not one))
        longest = {
            way.candidate.peer: way for way in sorted(order, key=lambda w: len(w.candidate.layers))
        }
        return self._shortest(tuple(way for way in order if way in longest.values()), hops_min)

    def _ways(self, candidates: Iterable[Candidate]) -> Iterator[_Way]:
        """Turn into costs; what is unknown is as the median of what is known."""
        candidates = list(candidates)
        speeds = [c.decode_s / len(c.layers) for c in candidates if c.decode_s > 0]
        speed = median(speeds) if speeds else self._home.block_s
        rtts = [c.rtt_s for c in candidates if c.rtt_s >= 0]
        rtt = median(rtts) if rtts else _RTT_UNKNOWN_S
        for c in candidates:
            decode_s = c.decode_s if c.decode_s > 0 else speed * len(c.layers)
            yield _Way(c, _ns(decode_s), _ns((c.rtt_s if c.rtt_s >= 0 else rtt) / 4))

    def _shortest(self, ways: Sequence[_Way], hops_min: int) -> tuple[int, _Label] | None:
        """Go through the ranges by their start: what ends there is known by then."""
        ends: dict[int, list[_Label]] = {}
        whole: list[tuple[int, _Label]] = []
        pruned = -1
        for way in ways:
            layers = way.candidate.layers
            if layers.start > pruned:
                pruned = layers.start
                ends[pruned] = self._pruned(ends.get(pruned, []))
            labels = [
                _Label(
                    label.cost + self._between_ns(label.way, way),
                    label.hops + 1,
                    label.first,
                    way,
                    label,
                )
                for label in (ends[layers.start] if hops_min > 1 else ())
            ]
            labels = _front(labels, lambda label: label.cost)
            whole += [pair for label in labels if (pair := self._whole(label)) is not None]
            if (alone := self._entered(way)) is not None:
                labels.append(alone)
                if hops_min == 1 and (pair := self._whole(alone)) is not None:
                    whole.append(pair)
            if hops_min > 1:
                ends.setdefault(layers.stop, []).extend(labels)
        return min(whole, key=lambda pair: (pair[0], pair[1].hops), default=None)

    def _pruned(self, labels: list[_Label]) -> list[_Label]:
        """Keep what a best path may go on from. Bounded where each pair has a time of its own."""

        def onward(label: _Label) -> int:
            return label.cost + label.way.quarter

        front = _front(labels, onward)
        if self._between is None:
            return front  # the rest of the way is the same from each of them
        rest = [label for label in sorted(labels, key=onward) if label not in front]
        return [*front, *rest][: limits.PATH_LABELS_MAX]

    def _entered(self, way: _Way) -> _Label | None:
        """The path from the requester's first part straight to this peer."""
        first = way.candidate.layers.start
        if first < 1 or first > self._home.blocks_max - self._private:
            return None
        here = self._here_ns(LayerRange(0, first))
        cost = here + 2 * way.quarter + self._row + way.decode
        return _Label(cost, 1, first, way, None)

    def _between_ns(self, one: _Way, other: _Way) -> int:
        """The way from one peer to the next, and through the next."""
        measured = -1.0
        if self._between is not None:
            measured = self._between(one.candidate.peer, other.candidate.peer)
        # Not measured: the mean of both peers' round trips to the requester.
        half = _ns(measured / 2) if measured >= 0 else one.quarter + other.quarter
        return half + self._row + other.decode

    def _whole(self, label: _Label) -> tuple[int, _Label] | None:
        """The cost of the path that leaves the peers here; None where it may not."""
        stop = label.way.candidate.layers.stop
        if not self.may_end(label.way.candidate):
            return None
        cost = label.cost + 2 * label.way.quarter
        if not self._private:
            return cost, label
        last = self._blocks - stop
        if label.first + last > self._home.blocks_max:
            return None
        return cost + self._row + self._here_ns(LayerRange(stop, self._blocks)), label

    def _here_ns(self, layers: LayerRange) -> int:
        """One token through a part that runs here."""
        measured = self._home.measured.get(layers)
        if measured is not None:
            return _ns(measured)
        head = self._head_ns if layers.stop == self._blocks else 0
        return self._pass_ns + len(layers) * self._block_ns + head

    def _path(self, cost: int, label: _Label) -> Path:
        found = [way.candidate for way in label.ways()]
        stop = found[-1].layers.stop
        return Path(
            LayerRange(0, label.first),
            tuple(Hop(c.peer, c.name, c.layers) for c in found),
            LayerRange(stop, self._blocks) if stop < self._blocks else None,
            cost / _NS,
        )


def _front(labels: Sequence[_Label], cost: Callable[[_Label], int]) -> list[_Label]:
    """Keep the labels that no other beats in cost and in blocks left at home."""
    kept: list[_Label] = []
    for label in sorted(labels, key=lambda label: (cost(label), label.hops, label.first)):
        if not kept or label.first < kept[-1].first:
            kept.append(label)
    return kept


def _used_twice(label: _Label) -> tuple[_Way, _Way] | None:
    seen: dict[str, _Way] = {}
    for way in label.ways():
        if (before := seen.setdefault(way.candidate.peer, way)) is not way:
            return before, way
    return None
