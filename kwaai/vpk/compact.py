"""Compaction: small segments into large ones, without the rows that were removed.

The new segments are put first and stay out of sight; the manifest that lists them in place of the
old ones decides. Killed before it: the new ones are deleted at the hosts later. After it: the next
`refresh` finds it published. docs/vpk.md, "Compaction".
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kwaai.errors import Busy
from kwaai.limits import (
    BASE_COMPACT_REMOVED_SHARE,
    BASE_COMPACT_ROWS_MIN,
    BASE_PUBLISH_TRIES_MAX,
    BASE_SEGMENT_ROWS_MAX,
)
from kwaai.vpk import base_rows as rows
from kwaai.vpk.base_core import Core
from kwaai.vpk.commit import local_rows, new_segment_id
from kwaai.vpk.manifest import SegmentRef
from kwaai.vpk.publish import fetch_newest, next_manifest, offer, put_segment, tidy
from kwaai.vpk.segment_fetch import encode_reference, fetch_segment, parse_reference
from kwaai.vpk.segments import Segment, encode_segment, join, select


@dataclass(frozen=True, slots=True)
class Compacted:
    """What a compaction did."""

    segments_before: int
    segments_after: int
    rows_dropped: int
    """Removed ones that segments no longer list."""


async def compact(core: Core) -> Compacted:
    """Merge and clean the published segments; those pending stay. Publish first. Raises
    TooFewHosts, StorageFull, Busy (another device publishes all the time): then all stays as it
    was.
    """
    core.check_writable()
    async with core.writing:
        return await _compact(core, BASE_COMPACT_REMOVED_SHARE)


async def make_room(core: Core) -> None:
    """Compact until no segment has removed rows; the caller holds `writing`, and publishes."""
    await _compact(core, 0.0)


async def _compact(core: Core, removed_share: float) -> Compacted:
    for _ in range(BASE_PUBLISH_TRIES_MAX):
        await fetch_newest(core)
        before, groups, removed = await asyncio.to_thread(_plan, core, removed_share)
        if not groups:
            return Compacted(before, before, 0)
        replaced = frozenset(segment.id for group in groups for segment in group)
        added = []
        for group in groups:
            ref = await _merge(core, group, removed)
            added += [] if ref is None else [ref]
        manifest = await asyncio.to_thread(next_manifest, core, replaced, tuple(added))
        if manifest is None or await offer(core, manifest):
            await tidy(core)
            dropped = sum(s.rows for g in groups for s in g) - sum(ref.rows for ref in added)
            return Compacted(before, before - len(replaced) + len(added), dropped)
    raise Busy(
        f"other devices published {core.identity.name} meanwhile; compact again",
        retry_after_s=1.0,
    )


def _plan(
    core: Core, removed_share: float
) -> tuple[int, list[list[rows.SegmentRow]], NDArray[np.int64]]:
    """Return how many segments are published, which of them become one each, and removed rows."""
    with core.database.read() as connection:
        published = [s for s in rows.segments(connection) if s.state == rows.PUBLISHED]
        removed = rows.removed(connection)
    groups: list[list[rows.SegmentRow]] = []
    sizes: list[int] = []
    dirty: list[bool] = []
    for segment in sorted(published, key=lambda each: (each.kind, each.seq)):
        gone = int(np.isin(local_rows(segment), removed).sum())
        live = segment.rows - gone
        if segment.rows >= BASE_COMPACT_ROWS_MIN and gone <= removed_share * segment.rows:
            continue
        if (
            groups
            and groups[-1][0].kind == segment.kind
            and sizes[-1] + live <= BASE_SEGMENT_ROWS_MAX
        ):
            groups[-1].append(segment)
            sizes[-1] += live
            dirty[-1] = dirty[-1] or gone > 0
        else:
            groups.append([segment])
            sizes.append(live)
            dirty.append(gone > 0)
    wanted = [
        group for group, unclean in zip(groups, dirty, strict=True) if len(group) > 1 or unclean
    ]
    return len(published), wanted, removed


async def _merge(
    core: Core,
    group: Sequence[rows.SegmentRow],
    removed: NDArray[np.int64],
) -> SegmentRef | None:
    """Make one segment of several, put it, and keep it out of sight; None where nothing is left."""
    parts: list[Segment] = []
    local = []
    for row in group:
        segment = await fetch_segment(core, parse_reference(row.reference, row))
        mine = local_rows(row)
        keep = ~np.isin(mine, removed)
        if keep.any():
            parts.append(select(segment, keep))
            local.append(mine[keep])
    if not parts:
        return None
    merged = join(parts)
    segment_id = new_segment_id(core)
    await asyncio.to_thread(_announce, core, segment_id)
    payload = await asyncio.to_thread(encode_segment, merged)
    ref = await put_segment(core, segment_id, len(merged), payload)
    await asyncio.to_thread(_keep, core, merged, ref, np.concatenate(local))
    return ref


def _announce(core: Core, segment_id: bytes) -> None:
    """Remember, before it is put, that a segment is garbage unless it is published."""
    with core.database.write() as connection:
        rows.add_garbage_segment(connection, segment_id)


def _keep(
    core: Core,
    segment: Segment,
    ref: SegmentRef,
    local: NDArray[np.int64],
) -> None:
    with core.database.write() as connection:
        rows.insert_segment(
            connection,
            segment,
            ref.id,
            local,
            state=rows.HIDDEN,
            reference=encode_reference(ref),
            keep_vectors=core.oblivious,
        )
