"""What a manifest of another device does not know of, and must not be lost to it.

A row that is here, that the manifest neither lists nor calls removed, was published to hosts that
its author did not reach. Such rows stay, as segments that are to be published again, without the
rows that the manifest has. docs/vpk.md, "Two devices".
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kwaai.errors import KwaaiError, TooFewHosts
from kwaai.vpk import base_rows as rows
from kwaai.vpk.base_core import Core
from kwaai.vpk.commit import local_rows
from kwaai.vpk.manifest import Manifest, digest
from kwaai.vpk.row_map import RowMap
from kwaai.vpk.segment_fetch import dead_rows, fetch_segment, keys_of, parse_reference
from kwaai.vpk.segments import Segment, parse_segment, select


@dataclass(frozen=True, slots=True)
class Rescue:
    """What becomes of segments that a manifest does not list."""

    kept: frozenset[bytes] = frozenset()
    """Ids of those that stay as they are, to be listed by the next manifest."""
    rewritten: list[tuple[Segment, NDArray[np.int64]]] = field(default_factory=list)
    """Rows that stay of others, with their local numbers: new segments."""


async def rescue(core: Core, manifest: Manifest) -> Rescue:
    """Find what has to stay here, beside what a manifest lists; the segments of that are here, out
    of sight. Raises TooFewHosts where a segment is needed, and hosts that may have it are away.
    """
    mine = await asyncio.to_thread(core.manifest_bytes)
    successor = mine is not None and manifest.previous == digest(mine)
    listed = {ref.id for ref in manifest.segments}
    with core.database.read() as connection:
        segments = rows.segments(connection)
        removed = rows.removed(connection)
    theirs = RowMap(s for s in await asyncio.to_thread(_hidden, core) if s.id in listed)
    dead = RowMap.of(dead_rows(manifest))
    kept = set()
    found = Rescue()
    for segment in segments:
        if segment.id in listed or (successor and segment.state == rows.PUBLISHED):
            continue  # its author knew of it, and left it out on purpose
        keys, local = keys_of(segment), local_rows(segment)
        theirs_too = theirs.find(keys) >= 0
        stays = ~theirs_too & (dead.find(keys) < 0) & ~np.isin(local, removed)
        if not stays.any():
            if segment.state == rows.PENDING and not theirs_too.any():
                kept.add(segment.id)
            continue
        if segment.state != rows.PUBLISHED and not theirs_too.any():
            kept.add(segment.id)
            continue
        whole = await _contents(core, segment)
        if whole is None:
            continue
        if theirs_too.any():
            found.rewritten.append((select(whole, stays), local[stays]))
        else:
            kept.add(segment.id)
    return Rescue(frozenset(kept), found.rewritten)


def _hidden(core: Core) -> list[rows.SegmentRow]:
    with core.database.read() as connection:
        return rows.segments(connection, hidden=True)


async def _contents(core: Core, segment: rows.SegmentRow) -> Segment | None:
    """Return a segment whole; None where it is gone for good. Raises TooFewHosts."""
    with core.database.read() as connection:
        payload = rows.blob(connection, segment.seq, rows.PAYLOAD)
    if payload is not None:
        return await asyncio.to_thread(parse_segment, payload)
    try:
        return await fetch_segment(core, parse_reference(segment.reference, segment))
    except TooFewHosts:
        if await _is_gone(core, segment.id):
            return None
        raise


async def _is_gone(core: Core, segment_id: bytes) -> bool:
    """Say whether all hosts answer, and none has anything of a segment: it was merged into another,
    so long ago that what was removed from it is remembered no more.
    """
    for member in core.hosts.members:
        try:
            if (await member.host.get(core.id, [segment_id]))[0] is not None:
                return False
        except KwaaiError:
            return False
    return True
