"""Reading many small objects at once: each from its best holder, and from others where that one is
late, lacks it, or sends what does not open.

Opens nothing itself: the caller's function does, and what it refuses is that host's fault. The
same id is read from the same host while its holders are about as fast as one another: so each host
sees its own share of what is read together, and no more. docs/vpk.md, "Placement".
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

import numpy as np

from kwaai.errors import KwaaiError, PeerMisbehaved, SealBroken
from kwaai.vpk.members import Roster
from kwaai.vpk.types import Object

T = TypeVar("T")

_NEAR_FACTOR: Final = 2.0
_NEAR_S: Final = 0.001


@dataclass(frozen=True, slots=True)
class HostShare:
    """What one host did for one read."""

    host: str
    asked: int
    """Objects."""
    served: int
    """Of these, that came and opened."""
    payload_bytes: int
    seconds: float
    """Of its slowest answer; until it was given up, where none came."""
    failure: str = ""
    """Why not all, for people."""


@dataclass(frozen=True, slots=True)
class Fetched(Generic[T]):
    """What one read brought."""

    values: dict[bytes, T]
    """By id."""
    sources: dict[bytes, str]
    """Which host each came from."""
    missing: tuple[bytes, ...]
    """Ids that no host gave so that they open, ascending."""
    shares: tuple[HostShare, ...]
    hedged: int = 0
    """Objects asked of a second host because the first was late."""

    @property
    def payload_bytes(self) -> int:
        """Of all hosts together."""
        return sum(share.payload_bytes for share in self.shares)


@dataclass(slots=True)
class _Call:
    """One request to one member."""

    member: int
    positions: list[int]
    started_s: float
    hedge_at_s: float
    seconds: float = 0.0


@dataclass(slots=True)
class _Tally:
    asked: int = 0
    served: int = 0
    payload_bytes: int = 0
    seconds: float = 0.0
    failure: str = ""


@dataclass(slots=True)
class Read(Generic[T]):
    """One read under way. Made for one `run`."""

    roster: Roster
    base: bytes
    ids: Sequence[bytes]
    """Each once."""
    replicas: int
    opens: Callable[[list[Object]], list[T]]
    _values: dict[bytes, T] = field(default_factory=dict)
    _sources: dict[bytes, str] = field(default_factory=dict)
    _calls: dict[asyncio.Task[list[bytes | None]], _Call] = field(default_factory=dict)
    _asked: list[int] = field(default_factory=list)
    """Of each id: the members asked, as bits."""
    _orders: dict[int, list[int]] = field(default_factory=dict)
    _tallies: dict[int, _Tally] = field(default_factory=dict)
    _hedged: int = 0

    async def run(self, timeout_s: float) -> Fetched[T]:
        """Read until all is there, nobody is left to ask, or time is up."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + timeout_s
        self._asked = [0] * len(self.ids)
        try:
            self._begin(loop.time())
            while self._calls and len(self._values) < len(self.ids):
                next_s = min(deadline_s, *(c.hedge_at_s for c in self._calls.values()))
                done, _ = await asyncio.wait(
                    self._calls,
                    timeout=max(0.0, next_s - loop.time()),
                    return_when=asyncio.FIRST_COMPLETED,
                )
                for task in done:
                    self._take(self._calls.pop(task), task)
                if loop.time() >= deadline_s:
                    self._stalled(timeout_s)
                    break
                self._hedge(loop.time())
        finally:
            self._give_up(loop.time())
        return self._fetched()

    def _begin(self, now_s: float) -> None:
        """Ask for each id where it is to be had soonest; among hosts that are about as fast as one
        another, where it lies first."""
        if not self.ids:
            return
        if len(self.roster.members) == 1:
            self._ask(0, list(range(len(self.ids))), now_s)
            return
        holders = self.roster.spread.holders(self.ids, self.replicas)
        costs = np.array([pace.cost_s(now_s) for pace in self.roster.paces])[holders]
        near = costs <= costs.min(axis=1, keepdims=True) * _NEAR_FACTOR + _NEAR_S
        chosen = holders[np.arange(len(self.ids)), near.argmax(axis=1)]
        for member in np.unique(chosen).tolist():
            self._ask(member, np.flatnonzero(chosen == member).tolist(), now_s)

    def _ask(self, member: int, positions: list[int], now_s: float) -> None:
        bit = 1 << member
        for position in positions:
            self._asked[position] |= bit
        call = _Call(member, positions, now_s, now_s + self.roster.paces[member].hedge_s())
        self._calls[asyncio.create_task(self._request(call))] = call
        self._tallies.setdefault(member, _Tally()).asked += len(positions)

    async def _request(self, call: _Call) -> list[bytes | None]:
        ids = [self.ids[p] for p in call.positions]
        blobs = await self.roster.members[call.member].host.get(self.base, ids)
        call.seconds = asyncio.get_running_loop().time() - call.started_s
        if len(blobs) != len(ids):
            raise PeerMisbehaved(f"{len(blobs)} objects came instead of {len(ids)}")
        return blobs

    def _take(self, call: _Call, task: asyncio.Task[list[bytes | None]]) -> None:
        now_s = asyncio.get_running_loop().time()
        tally = self._tallies[call.member]
        try:
            blobs = task.result()
        except KwaaiError as error:
            self.roster.fail(call.member, error)
            tally.failure, tally.seconds = error.message, now_s - call.started_s
            self._ask_others(call.positions, now_s)
            return
        tally.seconds = max(tally.seconds, call.seconds)
        self.roster.paces[call.member].measured(call.seconds, now_s)
        lacking, positions = [], call.positions
        if None in blobs or self._hedged:
            pairs = list(zip(call.positions, blobs, strict=True))
            lacking = [p for p, blob in pairs if blob is None]
            fresh = [(p, b) for p, b in pairs if b is not None and self.ids[p] not in self._values]
            positions, blobs = [p for p, _ in fresh], [b for _, b in fresh]
        objects = [(self.ids[p], b) for p, b in zip(positions, blobs, strict=True) if b is not None]
        tally.payload_bytes += sum([len(blob) for _, blob in objects])
        if len(lacking) * 2 > len(call.positions):
            self.roster.paces[call.member].ended("failed", now_s)
        if lacking:
            tally.failure = f"{len(lacking)} objects are not there"
        broken = self._open(call.member, positions, objects)
        if broken:
            self.roster.note(call.member, "wrong", f"{len(broken)} objects: {tally.failure}")
        if lacking or broken:
            self._ask_others([*lacking, *broken], now_s)

    def _open(self, member: int, positions: list[int], objects: list[Object]) -> list[int]:
        """Open what came; return the positions of what does not."""
        if not objects:
            return []
        try:
            values = self.opens(objects)
        except SealBroken as error:
            if len(objects) > 1:
                found = [
                    self._open(member, [p], [o]) for p, o in zip(positions, objects, strict=True)
                ]
                return [position for some in found for position in some]
            self._tallies[member].failure = error.message
            return positions
        if len(values) != len(objects):
            raise ValueError(f"{len(values)} values of {len(objects)} objects")
        source = self.roster.members[member].id
        opened = [object_id for object_id, _ in objects]
        self._values.update(zip(opened, values, strict=True))
        self._sources.update(dict.fromkeys(opened, source))
        self._tallies[member].served += len(objects)
        return []

    def _ask_others(self, positions: Sequence[int], now_s: float) -> None:
        """Ask the next member that was not asked yet: holders first, then all others, where things
        may lie since before the members changed."""
        groups: dict[int, list[int]] = {}
        for position in positions:
            if self.ids[position] in self._values:
                continue
            order = self._orders.get(position)
            if order is None:
                object_id = self.ids[position]
                row = self.roster.spread.holders([object_id], self.replicas)[0].tolist()
                rest = [m for m in self.roster.spread.order(object_id) if m not in row]
                order = self._orders[position] = row + rest
            left = (m for m in order if not self._asked[position] >> m & 1)
            member = min(left, key=lambda m: self.roster.paces[m].rests(now_s), default=None)
            if member is not None:
                groups.setdefault(member, []).append(position)
        for member, some in groups.items():
            self._ask(member, some, now_s)

    def _hedge(self, now_s: float) -> None:
        late = [c for c in self._calls.values() if c.hedge_at_s <= now_s]
        for call in late:
            call.hedge_at_s = float("inf")
            again: dict[int, list[int]] = {}
            open_positions = [p for p in call.positions if self.ids[p] not in self._values]
            if not open_positions:
                continue
            wanted = [self.ids[p] for p in open_positions]
            rows = self.roster.spread.holders(wanted, self.replicas).tolist()
            for position, row in zip(open_positions, rows, strict=True):
                for member in row:
                    fresh = not self._asked[position] >> member & 1
                    if fresh and not self.roster.paces[member].rests(now_s):
                        again.setdefault(member, []).append(position)
                        break
            for member, positions in again.items():
                self._hedged += len(positions)
                self._ask(member, positions, now_s)

    def _stalled(self, timeout_s: float) -> None:
        for call in self._calls.values():
            self.roster.note(call.member, "stalled", f"no answer within {timeout_s:.1f} s")
            self._tallies[call.member].failure = "it did not answer in time"

    def _give_up(self, now_s: float) -> None:
        for task, call in self._calls.items():
            waited_s = now_s - call.started_s
            self.roster.paces[call.member].overdue(waited_s, now_s)
            tally = self._tallies[call.member]
            tally.seconds = max(tally.seconds, waited_s)
            tally.failure = tally.failure or "another host was faster"
            self.roster.leave(task)
        self._calls.clear()

    def _fetched(self) -> Fetched[T]:
        for member, tally in self._tallies.items():
            if tally.served and not tally.failure:
                self.roster.note(member, "served", "")
        shares = tuple(
            HostShare(
                self.roster.members[member].id,
                tally.asked,
                tally.served,
                tally.payload_bytes,
                tally.seconds,
                tally.failure,
            )
            for member, tally in sorted(self._tallies.items())
        )
        missing = tuple(i for i in self.ids if i not in self._values)
        return Fetched(self._values, self._sources, missing, shares, self._hedged)
