"""The hosts of one tenant as one: objects spread over them, read from the best, one manifest.

Where an object lies is `spread`; large ones are erasure coded (`erasure`). Seals and opens nothing:
whoever reads passes what opens, and a host whose bytes do not open is passed over and reported.
Keeps no list of what lies where, and repairs nothing: `keeper` does. docs/vpk.md, "Placement".
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from kwaai.errors import KwaaiError, TooFewHosts, UserError
from kwaai.limits import VPK_LARGE_S_MAX, VPK_READ_S_MAX, VPK_REPLICAS_MAX, VPK_WRITE_S_MAX
from kwaai.vpk.erasure import Coding, parse_coding
from kwaai.vpk.fragments import STRIPES_MAX
from kwaai.vpk.host_large import LargeRead, Tag, large_ids, put_large
from kwaai.vpk.host_manifests import Found, M, ManifestPut, newest, publish
from kwaai.vpk.host_reads import Fetched, HostShare, Read
from kwaai.vpk.host_writes import PutReport, Write
from kwaai.vpk.members import Member, OnOutcome, Roster, ignore_outcome
from kwaai.vpk.types import Host, HostUsage, Object

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "Coding",
    "DeleteReport",
    "Fetched",
    "Found",
    "HostSet",
    "HostShare",
    "ManifestPut",
    "Member",
    "PutReport",
]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class DeleteReport:
    """What one deletion did."""

    objects: int
    """Copies that are gone, of all hosts together."""
    away: tuple[str, ...] = ()
    """Hosts that could not be asked: they still have theirs."""


class HostSet:
    """Hosts, and where things go. Belongs to one event loop; cheap to make.

    Every call has a deadline, and raises what its docstring says; single hosts that fail are told
    to `on_outcome` and made up for by others.
    """

    def __init__(
        self,
        members: Sequence[Member],
        *,
        replicas: int = 2,
        floor: int = 1,
        least: int = 1,
        on_outcome: OnOutcome = ignore_outcome,
    ) -> None:
        """`replicas`: copies of each object, on as many hosts (fewer where there are fewer hosts).
        `floor`: members of a lower tier never are the only holders. `least`: copies that must be on
        disks before a write returns. Raises UserError for no or too many members, one id twice,
        and figures out of range; TooFewHosts where no member may be an only holder.
        """
        if not 1 <= replicas <= VPK_REPLICAS_MAX or not 1 <= least <= replicas:
            raise UserError(f"{replicas} copies, {least} at once: 1 to {VPK_REPLICAS_MAX}, no more")
        self._roster = Roster(members, floor, on_outcome)
        self._wanted, self._floor, self._least = replicas, floor, least
        self._on_outcome = on_outcome

    @property
    def members(self) -> tuple[Member, ...]:
        """In the order given: `holders` counts in it."""
        return self._roster.members

    @property
    def replicas(self) -> int:
        """Copies that each object should have."""
        return min(self._wanted, len(self.members))

    @property
    def roster(self) -> Roster:
        """The members with their paces: for `keeper`."""
        return self._roster

    def holders(self, ids: Sequence[bytes]) -> NDArray[np.int16]:
        """Return (ids, replicas) indices into `members`: where each object belongs."""
        return self._roster.spread.holders(ids, self.replicas)

    async def put(self, base: bytes, objects: Sequence[Object]) -> PutReport:
        """Store each object on as many hosts as it should have copies; next ones stand in for those
        that fail. On disks when this returns. Raises StorageFull (nobody has room), TooFewHosts.
        After an error some copies may be there: whoever gives the ids up deletes them.
        """
        if not objects:
            return PutReport(self.replicas)
        unordered = sorted(objects)  # no host learns which passage follows which
        return await Write(self._roster, base, unordered, self.replicas, self._least).run()

    async def get(
        self,
        base: bytes,
        ids: Sequence[bytes],
        opens: Callable[[list[Object]], list[T]],
        *,
        timeout_s: float = VPK_READ_S_MAX,
    ) -> Fetched[T]:
        """Read objects, each from one of its holders, and open them.

        `opens` gets what one host sent, and returns as many values in the same order, or raises
        SealBroken: then each is opened by itself, and what does not open is asked of the next host.
        Never raises for hosts that fail: what nobody gave is `missing`.
        """
        unordered = sorted(set(ids))  # their order is a ranking, which is no host's business
        read = Read(self._roster, base, unordered, self.replicas, opens)
        return await read.run(timeout_s)

    async def delete(self, base: bytes, ids: Sequence[bytes]) -> DeleteReport:
        """Delete objects at every member."""
        unordered = sorted(set(ids))
        answers = await self._all(lambda host: host.delete(base, unordered), VPK_WRITE_S_MAX)
        done = [a for a in answers if isinstance(a, int)]
        return DeleteReport(sum(done), self._away(answers))

    async def put_large(
        self, base: bytes, object_id: bytes, blob: bytes, *, tag: Tag | None = None
    ) -> Coding:
        """Store one large object: fragments on different hosts, or whole copies where the
        object is small or the hosts are few. `tag` makes tags of what each host gets: they are put
        beside it, so that `keeper` may ask for a proof. Returns how. Raises StorageFull,
        TooFewHosts, UserError (larger than VPK_LARGE_BYTES_MAX).
        """
        return await put_large(
            self._roster,
            base,
            object_id,
            blob,
            replicas=self.replicas,
            least=self._least,
            tag=tag,
        )

    async def get_large(
        self,
        base: bytes,
        object_id: bytes,
        opens: Callable[[bytes], T],
        *,
        coding: str | None = None,
        timeout_s: float = VPK_LARGE_S_MAX,
    ) -> T:
        """Read one large object from any hosts that have enough of it, and open it. `opens` raises
        SealBroken for what is not it. `coding`: as `put_large` said, if it is known, so that enough
        are asked at once. Raises TooFewHosts where not enough came.
        """
        hint = None if coding is None else parse_coding(coding, self.replicas)
        read = LargeRead(self._roster, base, object_id, self.replicas, opens, hint)
        return await read.run(timeout_s)

    async def delete_large(self, base: bytes, object_id: bytes) -> DeleteReport:
        """Delete one large object: what any coding of it may have left, with its tags."""
        return await self.delete(base, large_ids(object_id, STRIPES_MAX))

    async def put_manifest(
        self, base: bytes, sequence: int, data: bytes, verify: Callable[[bytes], M]
    ) -> ManifestPut:
        """Publish a manifest at all members: done when a majority has it, or all that answer.

        `verify` checks what a host shows as the reason of a conflict, and raises SealBroken or
        UserError for what is none. Raises ManifestConflict with the newest that verifies in
        `current`: take it in, and try with a number above its own (some hosts may have taken this
        one). Raises TooFewHosts where nobody took it.
        """
        return await publish(self._roster, base, sequence, data, verify, VPK_WRITE_S_MAX)

    async def get_manifest(self, base: bytes, verify: Callable[[bytes], M]) -> Found[M] | None:
        """Return the newest manifest that verifies, from all members; None where all that answer
        have none. Raises TooFewHosts where nobody answers.
        """
        return await newest(self._roster, base, verify, VPK_READ_S_MAX)

    async def spread_manifest(
        self, base: bytes, verify: Callable[[bytes], M]
    ) -> ManifestPut | None:
        """Bring the newest manifest to the members that lack it; None where there is none. Raises
        TooFewHosts where nobody answers.
        """
        found = await self.get_manifest(base, verify)
        if found is None or not found.stale:
            return None if found is None else ManifestPut(found.hosts, found.away)
        return await self.put_manifest(base, found.manifest.sequence, found.data, verify)

    async def bases(self) -> dict[bytes, tuple[str, ...]]:
        """Return the tenant's bases, and the hosts that have something of each."""
        answers = await self._all(lambda host: host.bases(), VPK_READ_S_MAX)
        if all(isinstance(a, KwaaiError) for a in answers):
            raise TooFewHosts(f"none of {len(self.members)} hosts answers; try again when one does")
        found: dict[bytes, tuple[str, ...]] = {}
        for member, answer in zip(self.members, answers, strict=True):
            if not isinstance(answer, KwaaiError):
                for base in answer:
                    found[base] = (*found.get(base, ()), member.id)
        return found

    async def drop_base(self, base: bytes) -> tuple[str, ...]:
        """Delete a base at every member. Returns the hosts that could not be asked."""
        return self._away(await self._all(lambda host: host.drop_base(base), VPK_WRITE_S_MAX))

    async def usage(self) -> dict[str, HostUsage]:
        """Return what the tenant has at each member that answers."""
        answers = await self._all(lambda host: host.usage(), VPK_READ_S_MAX)
        return {
            member.id: answer
            for member, answer in zip(self.members, answers, strict=True)
            if not isinstance(answer, KwaaiError)
        }

    def pir_pair(self) -> tuple[Host, Host]:
        """Return two hosts of different owners that hold every object. Raises TooFewHosts."""
        if self.replicas >= len(self.members):
            for i, first in enumerate(self.members):
                for second in self.members[i + 1 :]:
                    if first.owner != second.owner:
                        return first.host, second.host
        raise TooFewHosts(
            "hiding which records are read takes two hosts of different owners that both hold all "
            "of them: name two, and as many copies as hosts"
        )

    def with_members(self, members: Sequence[Member]) -> HostSet:
        """Return a set of other members, otherwise as this one; paces of those that stay go along.
        Objects stay where they are until `keeper.repair`."""
        changed = HostSet(
            members,
            replicas=self._wanted,
            floor=self._floor,
            least=self._least,
            on_outcome=self._on_outcome,
        )
        changed._roster = self._roster.with_members(members)
        return changed

    async def close(self) -> None:
        """Wait for what was given up, and let go. Closes no host. Idempotent."""
        await self._roster.settle()

    async def _all(
        self, call: Callable[[Host], Awaitable[T]], timeout_s: float
    ) -> list[T | KwaaiError]:
        """Ask every member at once; what one raises is its answer, and told."""
        return await asyncio.gather(
            *(
                self._roster.ask(i, call(member.host), timeout_s)
                for i, member in enumerate(self.members)
            )
        )

    def _away(self, answers: Sequence[object]) -> tuple[str, ...]:
        pairs = zip(self.members, answers, strict=True)
        return tuple(member.id for member, a in pairs if isinstance(a, KwaaiError))
