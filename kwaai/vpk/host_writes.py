"""Writing many small objects: each to all hosts that should have it, others standing in for those
that fail.

A write is done when every object is on enough disks, and not on strangers' alone; what is not where
it belongs is reported, for `keeper` to bring there. docs/vpk.md, "Placement".
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kwaai.errors import KwaaiError, StorageFull, TooFewHosts
from kwaai.limits import VPK_WRITE_S_MAX
from kwaai.vpk.members import Roster, is_room_lacking
from kwaai.vpk.spread import Spread
from kwaai.vpk.types import Object


@dataclass(frozen=True, slots=True)
class PutReport:
    """What one write did. All objects have as many copies as `HostSet.least` says, or it raised."""

    copies: int
    """Of the object with the fewest."""
    owed: Mapping[str, tuple[bytes, ...]] = field(default_factory=dict)
    """By host: ids that belong there and are not (it was away, or full). Repair brings them."""


@dataclass(slots=True)
class Write:
    """One write under way. Made for one `run`."""

    roster: Roster
    base: bytes
    objects: Sequence[Object]
    replicas: int
    least: int
    _errors: dict[int, KwaaiError] = field(default_factory=dict)
    """By member that failed: why."""

    async def run(self) -> PutReport:
        """Write. Raises StorageFull, TooFewHosts."""
        ids = [object_id for object_id, _ in self.objects]
        count = len(self.roster.members)
        belongs = _bits(self.roster.spread.holders(ids, self.replicas), count)
        held = np.zeros((len(ids), count), dtype=np.bool_)
        awake = self.roster.awake()
        await self._put(ids, held, awake)
        if len(awake) < count and not self._is_enough(held):
            await self._put(ids, held, list(range(count)))  # those that rest are better than nobody
        if not self._is_enough(held):
            self._refuse(held)
        owed = belongs & ~held
        members = self.roster.members
        return PutReport(
            int(held.sum(axis=1).min()),
            {
                members[m].id: tuple(ids[i] for i in np.flatnonzero(owed[:, m]).tolist())
                for m in np.flatnonzero(owed.any(axis=0)).tolist()
            },
        )

    async def _put(self, ids: Sequence[bytes], held: NDArray[np.bool_], who: list[int]) -> None:
        """Bring each object to its holders among `who`, until there are no others to try."""
        while True:
            alive = [m for m in who if m not in self._errors]
            places = [self.roster.spread.places[m] for m in alive]
            if not any(place.anchor for place in places):
                return
            rows = np.array(alive)[Spread(places).holders(ids, self.replicas)]
            wanted = _bits(rows, held.shape[1]) & ~held
            wanted[held.sum(axis=1) >= self.replicas] = False
            targets = np.flatnonzero(wanted.any(axis=0)).tolist()
            if not targets:
                return
            results = await asyncio.gather(*(self._put_at(m, wanted[:, m]) for m in targets))
            for member, error in zip(targets, results, strict=True):
                if error is None:
                    held[:, member] |= wanted[:, member]
                else:
                    self._errors[member] = error

    async def _put_at(self, member: int, which: NDArray[np.bool_]) -> KwaaiError | None:
        some = [self.objects[i] for i in np.flatnonzero(which).tolist()]
        call = self.roster.members[member].host.put(self.base, some)
        answer = await self.roster.ask(member, call, VPK_WRITE_S_MAX)
        return answer if isinstance(answer, KwaaiError) else None

    def _is_enough(self, held: NDArray[np.bool_]) -> bool:
        least = min(self.least, len(self.roster.members))
        anchors = np.array([place.anchor for place in self.roster.spread.places])
        return bool((held.sum(axis=1) >= least).all() and held[:, anchors].any(axis=1).all())

    def _refuse(self, held: NDArray[np.bool_]) -> None:
        names = self.roster.members
        reasons = "; ".join(f"{names[m].id:.20}: {e.message}" for m, e in self._errors.items())
        if self._errors and all(is_room_lacking(e) for e in self._errors.values()):
            raise StorageFull(
                f"no host has room for {len(self.objects)} objects ({reasons:.400}): delete some, "
                "or add a host"
            )
        raise TooFewHosts(
            f"{int(held.sum(axis=1).min())} copies were stored and {self.least} are needed, not "
            f"with strangers alone ({reasons:.400}); try again when the hosts answer"
        )


def _bits(rows: NDArray[np.integer], count: int) -> NDArray[np.bool_]:
    """Return (objects, members): whether the row names the member."""
    out = np.zeros((len(rows), count), dtype=np.bool_)
    np.put_along_axis(out, rows.astype(np.int64), True, axis=1)
    return out
