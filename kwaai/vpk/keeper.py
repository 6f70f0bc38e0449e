"""Repair: each object on as many hosts as it should be, after a host was lost, added or away.

Walks over all objects beside what the hosts list (`walk`), copies what is missing from whoever has
it, opened before it is passed on, and encodes large objects anew. Deletes nothing that it does not
know: what is nobody's here may be another device's that has not published yet. Looks for lies in
`audit`, not here. docs/vpk.md, "Repair".
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from kwaai.errors import KwaaiError, SealBroken, TooFewHosts
from kwaai.limits import VPK_READ_S_MAX, VPK_STRAYS_MAX, VPK_WRITE_S_MAX
from kwaai.vpk.holdings import Holdings
from kwaai.vpk.host_large import large_ids
from kwaai.vpk.host_set import HostSet
from kwaai.vpk.mend import LargeRef, RepairReport, large_refs, mend_large, stripes_of
from kwaai.vpk.types import ID_BYTES, Object
from kwaai.vpk.walk import Listing, batches, sort_ids

__all__ = ["Holdings", "RepairProgress", "RepairReport", "repair"]


@dataclass(frozen=True, slots=True)
class RepairProgress:
    """How far a repair is."""

    checked: int
    total: int
    """Small objects."""
    copied: int
    after: bytes
    """Where the next repair may begin, should this one be ended."""


async def repair(
    hosts: HostSet,
    holdings: Holdings,
    *,
    after: bytes = b"",
    trim: bool = False,
    on_progress: Callable[[RepairProgress], None] | None = None,
) -> RepairReport:
    """Bring everything to where it should be; `trim`: and away from where it need not be.

    `after`: go on there (`RepairProgress.after`). May be cancelled at any time. Raises TooFewHosts
    where no host answers, UserError for more objects than VPK_WALK_IDS_MAX.
    """
    large = await asyncio.to_thread(large_refs, holdings, hosts.replicas)
    joined = await asyncio.to_thread(lambda: sort_ids(holdings.small_ids()))
    work = _Repair(hosts, holdings, trim, after, large)
    total, passed = len(joined) // ID_BYTES, 0
    for ids, last in batches(joined, after):
        await work.small(ids, last)
        passed += len(ids)
        if on_progress is not None:
            on_progress(RepairProgress(passed, total, work.report.copied, last))
    for ref in large:
        await mend_large(hosts, holdings, ref, work.report)
    return work.finish()


class _Repair:
    def __init__(
        self,
        hosts: HostSet,
        holdings: Holdings,
        trim: bool,
        after: bytes,
        large: Sequence[LargeRef],
    ) -> None:
        self.report = RepairReport()
        self._hosts, self._holdings, self._trim = hosts, holdings, trim
        self._roster, self._base = hosts.roster, holdings.base
        self._listings = [
            Listing(self._roster, i, self._base, after) for i in range(len(hosts.members))
        ]
        known = (large_ids(ref.id, stripes_of(ref)) for ref in large)
        self._large = frozenset(i for some in known for i in some)
        self._stray_count = 0

    async def small(self, ids: list[bytes], last: bytes) -> None:
        """Look after these, which are all that live up to `last` and after those before."""
        listed = await asyncio.gather(*(listing.up_to(last) for listing in self._listings))
        answering = [i for i, listing in enumerate(self._listings) if not listing.failed]
        if not answering:
            raise TooFewHosts("no host lists what it has; try again when one answers")
        held = [frozenset(some) for some in listed]
        alive = frozenset(ids)
        for member in answering:
            self._note_strays(member, held[member] - alive - self._large)
        if not ids:
            return
        self.report.checked += len(ids)
        missing: dict[int, list[bytes]] = {}
        surplus: dict[int, list[bytes]] = {}
        for object_id, row in zip(ids, self._hosts.holders(ids).tolist(), strict=True):
            for member in row:
                if object_id not in held[member]:
                    missing.setdefault(member, []).append(object_id)
            if self._trim and all(object_id in held[m] for m in row):
                for member in answering:
                    if member not in row and object_id in held[member]:
                        surplus.setdefault(member, []).append(object_id)
        await self._copy(missing, held, answering)
        for member, some in surplus.items():
            call = self._roster.members[member].host.delete(self._base, some)
            count = await self._roster.ask(member, call, VPK_WRITE_S_MAX)
            self.report.trimmed += count if isinstance(count, int) else 0

    def finish(self) -> RepairReport:
        self.report.away = tuple(
            self._roster.members[i].id for i, one in enumerate(self._listings) if one.failed
        )
        return self.report

    def _note_strays(self, member: int, ids: AbstractSet[bytes]) -> None:
        some = sorted(ids)[: max(0, VPK_STRAYS_MAX - self._stray_count)]
        if some:
            self._stray_count += len(some)
            self.report.strays.setdefault(self._roster.members[member].id, []).extend(some)

    async def _copy(
        self,
        missing: Mapping[int, Sequence[bytes]],
        held: Sequence[AbstractSet[bytes]],
        answering: Sequence[int],
    ) -> None:
        """Read what is missing anywhere, and put it there."""
        wanted = list(dict.fromkeys(i for ids in missing.values() for i in ids))
        blobs = await self._read(wanted, held, answering)
        self.report.lost += [i for i in wanted if i not in blobs]
        for member, ids in missing.items():
            objects = [(i, blobs[i]) for i in ids if i in blobs]
            if member not in answering:
                self.report.owed += len(objects)
                continue
            if not objects:
                continue
            call = self._roster.members[member].host.put(self._base, objects)
            answer = await self._roster.ask(member, call, VPK_WRITE_S_MAX)
            if isinstance(answer, KwaaiError):
                self.report.owed += len(objects)
            else:
                self.report.copied += len(objects)
                self.report.copied_bytes += sum(len(blob) for _, blob in objects)

    async def _read(
        self,
        wanted: Sequence[bytes],
        held: Sequence[AbstractSet[bytes]],
        answering: Sequence[int],
    ) -> dict[bytes, bytes]:
        """Return what opens, from whoever lists it."""
        blobs: dict[bytes, bytes] = {}
        for turn in range(len(answering)):
            groups: dict[int, list[bytes]] = {}
            for position, object_id in enumerate(wanted):
                have = [m for m in answering if object_id in held[m]]
                if object_id not in blobs and turn < len(
                    have
                ):  # in turns of all of them, so that nobody has all the work
                    member = have[(position + turn) % len(have)]
                    groups.setdefault(member, []).append(object_id)
            if not groups:
                break
            for member, ids in groups.items():
                blobs.update(await self._read_from(member, ids))
        return blobs

    async def _read_from(self, member: int, ids: Sequence[bytes]) -> dict[bytes, bytes]:
        call = self._roster.members[member].host.get(self._base, ids)
        answer = await self._roster.ask(member, call, VPK_READ_S_MAX)
        if isinstance(answer, KwaaiError) or len(answer) != len(ids):
            return {}
        pairs = zip(ids, answer, strict=True)
        objects: list[Object] = [(i, blob) for i, blob in pairs if blob is not None]
        if len(objects) < len(ids):
            lacking = len(ids) - len(objects)
            self._roster.note(member, "omitted", f"it lists {lacking} objects and sends none")
        good = await asyncio.to_thread(opening, self._holdings, objects)
        if len(good) < len(objects):
            broken = len(objects) - len(good)
            self._roster.note(member, "wrong", f"{broken} objects do not open")
        return good


def opening(holdings: Holdings, objects: list[Object]) -> dict[bytes, bytes]:
    """Return those of the objects that open."""
    if not objects:
        return {}
    try:
        holdings.open_small(objects)
    except SealBroken:
        if len(objects) == 1:
            return {}
        half = len(objects) // 2
        return opening(holdings, objects[:half]) | opening(holdings, objects[half:])
    return dict(objects)
