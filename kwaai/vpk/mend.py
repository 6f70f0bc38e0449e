"""Repair of one large object: the fragments that are missing are made anew and put on hosts that
have none; where there are no longer enough hosts for its coding, it is kept as whole copies.

docs/vpk.md, "Repair".
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from kwaai.errors import KwaaiError, SealBroken, TooFewHosts
from kwaai.limits import VPK_LARGE_S_MAX, VPK_READ_S_MAX, VPK_WRITE_S_MAX
from kwaai.vpk.erasure import Coding, coding_for, parse_coding
from kwaai.vpk.fragments import make_fragments, parse_fragment, stripe_count, stripe_id
from kwaai.vpk.holdings import Holdings
from kwaai.vpk.host_large import LargeWrite, large_ids
from kwaai.vpk.host_set import HostSet
from kwaai.vpk.types import ID_BYTES

_COPIES_SEEN = 2
"""Of what takes the place of fragments, before those are deleted."""


@dataclass(slots=True)
class RepairReport:
    """What a repair found and did. Copies are counted, not objects."""

    checked: int = 0
    copied: int = 0
    copied_bytes: int = 0
    owed: int = 0
    """Copies that are still missing: their host is away or full."""
    lost: list[bytes] = field(default_factory=list)
    """Objects that no host that answers has, so that they open."""
    trimmed: int = 0
    """Copies that were deleted where they are no longer needed."""
    strays: dict[str, list[bytes]] = field(default_factory=dict)
    """By host: ids that are nobody's here; VPK_STRAYS_MAX in all."""
    large: int = 0
    large_repaired: int = 0
    recoded: dict[bytes, str] = field(default_factory=dict)
    """Large objects that are kept in another way now, and how: the manifest may say so."""
    away: tuple[str, ...] = ()
    """Hosts that did not answer."""

    @property
    def complete(self) -> bool:
        """All is where it should be."""
        return not (self.owed or self.lost or self.away)


@dataclass(frozen=True, slots=True)
class LargeRef:
    """A large object that is alive, as the base knows it."""

    id: bytes
    size_bytes: int
    coding: Coding


def large_refs(holdings: Holdings, replicas: int) -> list[LargeRef]:
    """Return all live large objects. Blocks. Raises UserError for a coding that is none."""
    refs = []
    for object_id, size_bytes, text in holdings.large():
        coding = parse_coding(text, replicas)
        refs.append(
            LargeRef(object_id, size_bytes, Coding(1, replicas) if coding.is_whole else coding)
        )
    return refs


def stripes_of(ref: LargeRef) -> int:
    """Return how many stripes an object may have at its hosts: whole copies have the most."""
    return stripe_count(ref.size_bytes, Coding(1, 1))


async def mend_large(
    hosts: HostSet, holdings: Holdings, ref: LargeRef, report: RepairReport
) -> None:
    """Bring one large object to where it should be; note in the report how it went."""
    report.large += 1
    coding = ref.coding
    ids = [stripe_id(ref.id, s) for s in range(stripe_count(ref.size_bytes, coding))]
    there = [await _who_lists(hosts, holdings.base, one) for one in ids]
    if all(_is_enough(hosts, some, coding.count) for some in there):
        return

    def check(blob: bytes) -> bytes:
        holdings.open_large(ref.id, blob)
        return blob

    try:
        blob = await hosts.get_large(holdings.base, ref.id, check, coding=str(coding))
    except TooFewHosts:
        report.lost.append(ref.id)
        return
    spare = (coding.count - coding.least + 1) // 2
    room = len(hosts.members)
    few = min(len(some) for some in there) < coding.least + spare
    write = LargeWrite(hosts.roster, holdings.base, ref.id, holdings.tag)
    if room < coding.count and few:
        await _recode(hosts, holdings, ref, blob, write, report)
        return
    made = await asyncio.to_thread(make_fragments, blob, coding)
    repaired = False
    for stripe, (fragments, members) in enumerate(zip(made, there, strict=True)):
        placed = await _placed(hosts, holdings.base, ids[stripe], stripe, fragments[0], members)
        if coding.is_whole and not _is_enough(hosts, list(placed), 1):
            placed = {}  # only strangers have it: those who are not get theirs
        now = await write.put_stripe(stripe, dict(enumerate(fragments)), coding, placed)
        repaired = repaired or len(now) > len(placed)
        report.owed += coding.count - len(now)
    report.large_repaired += repaired


def _is_enough(hosts: HostSet, members: Sequence[int], count: int) -> bool:
    places = hosts.roster.spread.places
    return len(members) >= count and any(places[m].anchor for m in members)


async def _who_lists(hosts: HostSet, base: bytes, own_id: bytes) -> list[int]:
    """Return the members that say they have this."""
    before = (int.from_bytes(own_id, "big") - 1) if any(own_id) else 0
    after = before.to_bytes(ID_BYTES, "big") if any(own_id) else b""
    answers = await asyncio.gather(
        *(
            hosts.roster.ask(i, member.host.list_ids(base, after, 1), VPK_READ_S_MAX)
            for i, member in enumerate(hosts.members)
        )
    )
    return [i for i, answer in enumerate(answers) if answer == [own_id]]


async def _placed(
    hosts: HostSet,
    base: bytes,
    own_id: bytes,
    stripe: int,
    sample: bytes,
    members: Sequence[int],
) -> dict[int, int]:
    """Return which member has which fragment of the making that `sample` is of."""
    making = parse_fragment(sample, stripe).making
    placed: dict[int, int] = {}
    for member in members:
        call = hosts.members[member].host.get(base, [own_id])
        answer = await hosts.roster.ask(member, call, VPK_LARGE_S_MAX)
        if isinstance(answer, KwaaiError) or len(answer) != 1 or answer[0] is None:
            continue
        try:
            fragment = parse_fragment(answer[0], stripe)
        except SealBroken as error:
            hosts.roster.note(member, "wrong", error.message)
            continue
        known = fragment.coding.is_whole or fragment.index not in placed.values()
        if fragment.making == making and known:
            placed[member] = fragment.index
    return placed


async def _recode(
    hosts: HostSet,
    holdings: Holdings,
    ref: LargeRef,
    blob: bytes,
    write: LargeWrite,
    report: RepairReport,
) -> None:
    """Keep the object as the hosts that are left allow, and drop what was kept before."""
    coding = coding_for(hosts.roster.spread.places, hosts.replicas, len(blob))
    if not await write.run(blob, coding, coding.least):
        report.owed += coding.count
        return
    report.large_repaired += 1
    report.recoded[ref.id] = str(coding)
    members = await _who_lists(hosts, holdings.base, ref.id)
    making = parse_fragment((await asyncio.to_thread(make_fragments, blob, coding))[0][0], 0).making
    new: list[int] = []
    old: list[int] = []
    for member in members:
        blobs = await hosts.roster.ask(
            member, hosts.members[member].host.get(holdings.base, [ref.id]), VPK_LARGE_S_MAX
        )
        if not isinstance(blobs, KwaaiError) and len(blobs) == 1 and blobs[0] is not None:
            (new if _is_of(blobs[0], making) else old).append(member)
    if len(new) < min(_COPIES_SEEN, len(hosts.members)):
        return  # one host may lie: what was kept before stays until the next repair
    ids = large_ids(ref.id, stripes_of(ref))
    for member in old:
        call = hosts.members[member].host.delete(holdings.base, ids)
        await hosts.roster.ask(member, call, VPK_WRITE_S_MAX)


def _is_of(data: bytes, making: bytes) -> bool:
    try:
        return parse_fragment(data, 0).making == making
    except SealBroken:
        return False
