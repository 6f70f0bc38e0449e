"""Publish a base: segments to the hosts, then the manifest that lists them.

One manifest wins each number. Whoever loses takes the winner's in and tries the next number, so
that two devices that write at once lose nothing. What the manifest no longer needs is deleted at
the hosts only after it is published. docs/vpk.md, "Two devices".
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from kwaai.errors import Busy, KwaaiError, ManifestConflict, ResourceError, TooFewHosts
from kwaai.limits import (
    BASE_LISTED_REMOVED_MAX,
    BASE_LISTED_SEGMENTS_MAX,
    BASE_PUBLISH_TRIES_MAX,
)
from kwaai.vpk import base_rows as rows
from kwaai.vpk.base_core import Core
from kwaai.vpk.commit import delete_rows, oblivious_text_bytes, pack, sweep
from kwaai.vpk.keys import SEGMENT
from kwaai.vpk.leave_behind import may_delete_segments
from kwaai.vpk.manifest import (
    NO_DIGEST,
    HostRef,
    Manifest,
    RowRun,
    SegmentRef,
    digest,
    sign_manifest,
)
from kwaai.vpk.retrievability import tag
from kwaai.vpk.seal import seal
from kwaai.vpk.segment_fetch import encode_reference, parse_reference
from kwaai.vpk.segments import rows_of, runs_of
from kwaai.vpk.takeover import OnProgress, settle, take_in, verify


@dataclass(frozen=True, slots=True)
class Published:
    """What a publication did."""

    sequence: int
    """Of the base's newest manifest."""
    changed: bool
    """False: there was nothing to publish."""
    segments: int
    """That were put."""
    tries: int
    """Manifests that were offered; above 1: other devices published meanwhile."""
    swept: int
    """Rows deleted at the hosts: removed ones, and those that a killed process left."""
    owed: bool
    """Something is still to be deleted at hosts that did not answer."""


async def publish(core: Core, make_room: Callable[[Core], Awaitable[None]]) -> Published:
    """Publish what was committed. `make_room` is called, with `writing` held, where a manifest
    would get too long: it compacts. Raises TooFewHosts, StorageFull, Busy (other devices were
    faster every time): then all stays as it is, to be published later.
    """
    core.check_writable()
    async with core.writing:
        await fetch_newest(core)
        put = 0
        for attempt in range(1, BASE_PUBLISH_TRIES_MAX + 1):
            put += await _put_segments(core)
            if await asyncio.to_thread(_is_too_long, core):
                await make_room(core)
            manifest = await asyncio.to_thread(next_manifest, core)
            if manifest is None:
                attempt -= 1
                break
            if await offer(core, manifest):
                break
        else:
            raise Busy(
                f"other devices published {core.identity.name} {BASE_PUBLISH_TRIES_MAX} times "
                "meanwhile; publish again",
                retry_after_s=1.0,
            )
        swept, owed = await tidy(core)
        sequence = await asyncio.to_thread(_sequence, core)
        return Published(sequence, attempt > 0, put, attempt, swept, owed)


async def refresh(core: Core, on_progress: OnProgress = lambda *_: None) -> bool:
    """Take in what other devices have published; say whether there was anything. Raises
    TooFewHosts where no host answers.
    """
    core.check_lock()
    async with core.writing:
        return await fetch_newest(core, on_progress)


async def fetch_newest(core: Core, on_progress: OnProgress = lambda *_: None) -> bool:
    """As `refresh`; the caller holds `writing`."""
    with core.database.read() as connection:
        offered = rows.get_meta(connection, "offered")
    if offered is not None:
        await _put_manifest(core, verify(core, offered), offered)
    found = await core.hosts.get_manifest(core.id, lambda data: verify(core, data))
    mine = await asyncio.to_thread(core.manifest_bytes)
    sequence = await asyncio.to_thread(_sequence, core)
    if found is None or found.manifest.sequence < sequence:
        # Hosts that forgot, or were away: they get the newest again. An older one is never taken.
        return mine is not None and core.is_own and not await _give_again(core, sequence, mine)
    changed = False
    # A reader publishes nothing that would join two: what most hosts have counts.
    candidates = [(found.manifest, found.data), *(found.rivals if core.is_own else ())]
    candidates = [(manifest, data) for manifest, data in candidates if data != mine]
    for manifest, data in candidates:
        await take_in(core, manifest, data, on_progress=on_progress)
        changed = True
    return changed


async def _give_again(core: Core, sequence: int, data: bytes) -> bool:
    """Put the newest manifest again; where a host shows only now that there is another, take that
    in and return False.
    """
    try:
        await core.hosts.put_manifest(core.id, sequence, data, lambda shown: verify(core, shown))
    except ManifestConflict as conflict:
        await take_in(core, verify(core, conflict.current), conflict.current)
        return False
    return True


async def offer(core: Core, manifest: Manifest) -> bool:
    """Put a manifest; where another device was faster, take its one in and return False."""
    signer = core.access.check_owner(core.identity.name)
    data = await asyncio.to_thread(sign_manifest, manifest, signer, core.keys)
    await asyncio.to_thread(_note_offer, core, data)
    return await _put_manifest(core, manifest, data)


async def _put_manifest(core: Core, manifest: Manifest, data: bytes) -> bool:
    try:
        await core.hosts.put_manifest(
            core.id, manifest.sequence, data, lambda shown: verify(core, shown)
        )
    except ManifestConflict as conflict:
        await take_in(core, verify(core, conflict.current), conflict.current)
        return False
    await asyncio.to_thread(settle, core, manifest, data)
    return True


def _note_offer(core: Core, data: bytes) -> None:
    """Remember a manifest before hosts have it: if this process is killed, it is offered again, and
    nobody has to guess what became of it.
    """
    with core.database.write() as connection:
        rows.set_meta(connection, "offered", data)


async def put_segment(core: Core, segment_id: bytes, row_count: int, payload: bytes) -> SegmentRef:
    """Seal a segment and put it at the hosts."""
    sealed = await asyncio.to_thread(seal, core.keys, core.tenant, SEGMENT, segment_id, payload)
    coding = await core.hosts.put_large(
        core.id, segment_id, sealed, tag=lambda part, data: tag(core.keys, part, data)
    )
    said = "whole" if coding.is_whole else f"{coding.least}/{coding.count}"
    return SegmentRef(
        segment_id, row_count, len(sealed), digest(sealed), NO_DIGEST, said, core.keys.epoch
    )


async def _put_segments(core: Core) -> int:
    """Put all pending segments; return how many."""
    await asyncio.to_thread(_pack, core)
    with core.database.write() as connection:
        pending = [s for s in rows.segments(connection) if not s.at_hosts]
        for segment in pending:
            rows.mark_segment(connection, segment.seq, rows.PUT)
    for segment in pending:
        with core.database.read() as connection:
            payload = rows.blob(connection, segment.seq, rows.PAYLOAD) or b""
        ref = await put_segment(core, segment.id, segment.rows, payload)
        with core.database.write() as connection:
            rows.mark_segment(connection, segment.seq, rows.PUT, encode_reference(ref))
    return len(pending)


def _is_too_long(core: Core) -> bool:
    """Say whether a manifest would list more than a good one does."""
    with core.database.read() as connection:
        removed = rows.removed(connection)
        count = len(rows.segments(connection))
    if count > BASE_LISTED_SEGMENTS_MAX:
        return True
    if len(removed) <= BASE_LISTED_REMOVED_MAX:
        return False
    return len(_runs(core, removed)) > BASE_LISTED_REMOVED_MAX


def _runs(
    core: Core, removed: NDArray[np.int64], buried: NDArray[np.uint64] | None = None
) -> tuple[RowRun, ...]:
    """Return removed local rows, and others that are gone altogether, as a manifest lists them."""
    keys, known = core.state.keys(removed)
    keys = keys[known] if buried is None else np.concatenate((keys[known], buried))
    keys = np.unique(keys, axis=0)
    return tuple(
        RowRun(writer, start, start + count) for writer, start, count in runs_of(keys).tolist()
    )


def _pack(core: Core) -> None:
    with core.database.write() as connection:
        pack(core, connection)


def next_manifest(
    core: Core, replaced: frozenset[bytes] = frozenset(), added: tuple[SegmentRef, ...] = ()
) -> Manifest | None:
    """Return the manifest that says what is here; None where the newest one says it already.
    `replaced`: ids of segments that give way to those `added`.
    """
    with core.database.read() as connection:
        core.state.refresh(connection)
        listed = [s for s in rows.segments(connection) if s.at_hosts]
        removed = rows.removed(connection)
        params = rows.get_meta(connection, "params") or b""
        buried = rows_of(rows.tombstones(connection))
        sequence = rows.get_number(connection, "sequence")
        data = rows.get_meta(connection, "manifest")
        thin = rows.get_meta(connection, "thin") or b""
    current = None if data is None else verify(core, data)
    refs = tuple(parse_reference(s.reference, s) for s in listed if s.id not in replaced)
    hosts = tuple(HostRef(m.id, m.owner, m.weight, m.trusted) for m in core.hosts.members)
    generation = 0 if current is None else current.generation
    manifest = Manifest(
        base=core.id,
        name=core.identity.name,
        sequence=sequence + 1,
        previous=NO_DIGEST if data is None else digest(data),
        epoch=core.keys.epoch,
        mode=core.identity.mode,
        embedder=core.identity.spec,
        params=params,
        segments=(*refs, *added),
        removed=_runs(core, removed, buried),
        hosts=hosts,
        generation=generation + (current is not None and current.hosts != hosts),
        replicas=core.hosts.replicas,
        created_s=core.identity.created_s,
        published_s=core.clock(),
        writers=(),
        text_bytes=oblivious_text_bytes() if core.oblivious else 0,
        thin=thin,
    )
    return None if current is not None and _says_the_same(current, manifest) else manifest


def _says_the_same(current: Manifest, manifest: Manifest) -> bool:
    again = replace(
        manifest,
        sequence=current.sequence,
        previous=current.previous,
        created_s=current.created_s,
        published_s=current.published_s,
        hosts=current.hosts,
        generation=current.generation,
        segments=tuple(sorted(manifest.segments, key=lambda ref: ref.id)),
    )
    same = replace(current, segments=tuple(sorted(current.segments, key=lambda ref: ref.id)))
    peers = {host.peer for host in current.hosts} == {host.peer for host in manifest.hosts}
    return again == same and peers


def _sequence(core: Core) -> int:
    with core.database.read() as connection:
        return rows.get_number(connection, "sequence")


async def tidy(core: Core) -> tuple[int, bool]:
    """Delete at the hosts what nothing needs any more: removed rows, replaced segments, what a
    killed process left. Return how many rows, and whether something is still owed.
    """
    with core.database.read() as connection:
        runs, segments = rows.garbage(connection)
    count = sum(run[2] for run in runs)
    try:
        swept = await sweep(core)
        complete = rows_done = not runs or await delete_rows(core, rows_of(runs))
        if segments and not await may_delete_segments(core):
            segments, complete = [], False
        for segment_id in segments:
            complete = not (await core.hosts.delete_large(core.id, segment_id)).away and complete
    except (TooFewHosts, ResourceError) as error:
        return _owed(error)
    with core.database.write() as connection:
        rows.forget_garbage(connection, runs if rows_done else (), segments if complete else ())
    with core.database.read() as connection:
        owed = bool(rows.reserved(connection)) or not complete
    return swept + count, owed


def _owed(_: KwaaiError) -> tuple[int, bool]:
    """Deleting can wait until the next publication."""
    return 0, True
