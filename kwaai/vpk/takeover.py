"""Take a manifest in: what other devices added, replaced and removed; what one's own publication
made of pending segments.

Segments that are new here are fetched first, one transaction each, and stay out of sight; then one
transaction makes this device's picture that of the manifest, save what it has not published yet.
Nothing of its own is lost to a manifest that has not heard of it. docs/vpk.md, "Two devices".
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kwaai.errors import RecordInvalid, TooFewHosts
from kwaai.limits import BASE_FETCH_SEGMENTS
from kwaai.vpk import base_documents as docs
from kwaai.vpk import base_rows as rows
from kwaai.vpk.base_core import Core, check_same_base, check_spec, save_identity
from kwaai.vpk.codes import CodeIndex
from kwaai.vpk.commit import add_segment, drop_document, local_rows, new_segment_id, params_digest
from kwaai.vpk.ingest import FileState
from kwaai.vpk.keys import VECTOR
from kwaai.vpk.manifest import Manifest, SegmentRef, verify_manifest
from kwaai.vpk.records import decode_vectors
from kwaai.vpk.rescue import Rescue, rescue
from kwaai.vpk.row_map import RowMap
from kwaai.vpk.seal import open_many
from kwaai.vpk.segment_fetch import (
    dead_rows,
    encode_reference,
    fetch_segment,
    keys_of,
)
from kwaai.vpk.segments import Segment, encode_segment, parse_segment, rows_of

if TYPE_CHECKING:
    import apsw

OnProgress = Callable[[int, int], None]
"""Rows that are here, rows in all."""


def verify(core: Core, data: bytes) -> Manifest:
    """Return a manifest of this base. Raises ManifestInvalid, SealBroken."""
    return verify_manifest(data, core.tenant, core.keys)


async def take_in(
    core: Core,
    manifest: Manifest,
    data: bytes,
    *,
    on_progress: OnProgress = lambda *_: None,
) -> None:
    """Make this device's picture that of a verified manifest, and keep what its author has not
    heard of. The caller holds `writing`. Raises EmbedderMismatch, RecordInvalid, TooFewHosts (a
    segment that no hosts give).
    """
    check_same_base(core.identity, manifest)
    check_spec(core.identity, manifest.embedder)
    if core.identity.spec is None and manifest.embedder is not None:
        core.identity = replace(core.identity, spec=manifest.embedder)
    await _adopt_params(core, manifest)
    await _absorb(core, manifest, on_progress)
    found = await rescue(core, manifest) if core.is_own else Rescue()
    await asyncio.to_thread(settle, core, manifest, data, found)


async def _absorb(core: Core, manifest: Manifest, on_progress: OnProgress) -> None:
    """Fetch the segments that are not here, and add them, out of sight."""
    known = await asyncio.to_thread(_known, core)
    missing = [ref for ref in manifest.segments if ref.id not in known]
    total = sum(ref.rows for ref in manifest.segments)
    done = total - sum(ref.rows for ref in missing)
    wanted = params_digest(manifest.params or None)
    for start in range(0, len(missing), BASE_FETCH_SEGMENTS):
        refs = missing[start : start + BASE_FETCH_SEGMENTS]
        fetched = await asyncio.gather(*(fetch_segment(core, ref) for ref in refs))
        for ref, segment in zip(refs, fetched, strict=True):
            if segment.codes and segment.params != wanted:
                raise RecordInvalid("a segment's codes were made with other parameters")
            await asyncio.to_thread(_hide, core, ref, segment)
            done += ref.rows
            on_progress(done, total)


def _known(core: Core) -> set[bytes]:
    with core.database.read() as connection:
        here = {segment.id for segment in rows.segments(connection, hidden=True)}
        # The hosts may have those no more, and their rows are here in others.
        return here | rows.superseded(connection)


def _hide(core: Core, ref: SegmentRef, segment: Segment) -> None:
    """Add a segment out of sight; rows that are here already keep their local numbers."""
    with core.database.write() as connection:
        local = RowMap(rows.segments(connection, hidden=True)).find(segment.rows)
        fresh = local < 0
        first = rows.get_number(connection, "next_row") + 1
        count = int(fresh.sum())
        rows.set_number(connection, "next_row", first + count - 1)
        local[fresh] = np.arange(first, first + count)
        if fresh.all():
            add_segment(
                core,
                connection,
                segment,
                ref.id,
                local,
                state=rows.HIDDEN,
                reference=encode_reference(ref),
            )
            return
        rows.insert_segment(
            connection,
            segment,
            ref.id,
            local,
            state=rows.HIDDEN,
            reference=encode_reference(ref),
            keep_vectors=core.oblivious,
        )
        _add_fresh(connection, segment, local, fresh)


def _add_fresh(
    connection: apsw.Connection,
    segment: Segment,
    local: NDArray[np.int64],
    fresh: NDArray[np.bool_],
) -> None:
    """Add documents and texts of those rows of a segment that were not here."""
    if segment.texts is not None and fresh.any():
        texts = [text for text, new in zip(segment.texts, fresh, strict=True) if new]
        rows.index_segment_texts(connection, texts, local[fresh])
    for part in segment.parts:
        mine = slice(part.start, part.start + part.count)
        new = local[mine][fresh[mine]]
        if len(new):
            docs.insert_parts(connection, [replace(part, start=0, count=len(new))], new)


def settle(core: Core, manifest: Manifest, data: bytes, rescued: Rescue | None = None) -> None:
    """Make the local picture that of a manifest whose segments are all here. `rescued`: what stays
    beside it; None: this device has published it, and clears away what it replaces; what is pending
    stays.
    """
    with core.database.write() as connection:
        core.state.refresh(connection)
        refs = {ref.id: ref for ref in manifest.segments}
        changed = False
        given_up: list[rows.SegmentRow] = []
        dead = np.concatenate((dead_rows(manifest), rows_of(rows.tombstones(connection))))
        for segment in rows.segments(connection, hidden=True):
            if segment.id in refs:
                changed = changed or segment.state == rows.HIDDEN
                reference = encode_reference(refs[segment.id])
                rows.mark_segment(connection, segment.seq, rows.PUBLISHED, reference)
            elif rescued is not None and segment.id in rescued.kept:
                if segment.state == rows.PUBLISHED:
                    rows.mark_segment(connection, segment.seq, rows.PUT)
            elif rescued is not None or segment.state in (rows.PUBLISHED, rows.HIDDEN):
                rows.delete_segment(connection, segment.seq)
                if rescued is None and segment.state == rows.PUBLISHED:
                    # One out of sight may be another device's, of a manifest that is hidden from
                    # this one; those of this device's own making are garbage already.
                    rows.add_garbage_segment(connection, segment.id)
                given_up.append(segment)
                changed = True
        for rewritten, local in () if rescued is None else rescued.rewritten:
            rows.insert_segment(
                connection,
                rewritten,
                new_segment_id(core),
                local,
                state=rows.PENDING,
                payload=encode_segment(rewritten),
                keep_vectors=core.oblivious,
            )
        # One that was never part of the picture (HIDDEN) may have rows that are nowhere else.
        merged = [s.id for s in given_up if s.state in (rows.PUBLISHED, rows.PUT)]
        rows.add_superseded(connection, merged)
        rows.forget_garbage(connection, (), refs.keys() - rows.superseded(connection))
        rows.set_meta(connection, "thin", manifest.thin)
        rows.forget_meta(connection, "offered")
        live = rows.segments(connection)
        changed = _remove(connection, dead, live) or changed
        _forget_vanished(connection, live, given_up)
        if changed:
            _drop_twins(core, connection)
            _note_files(connection)
        rows.set_meta(connection, "manifest", data)
        rows.set_number(connection, "sequence", manifest.sequence)
        save_identity(connection, core.identity)
        rows.bump(connection, shape=changed)


def _remove(
    connection: apsw.Connection, dead: NDArray[np.uint64], live: Iterable[rows.SegmentRow]
) -> bool:
    """Remove rows; those that are in no segment are remembered, for segments that come later."""
    local = RowMap(live).find(dead)
    gone = np.setdiff1d(local[local >= 0], rows.removed(connection))
    rows.remove_rows(connection, gone)
    docs.drop_documents_of(connection, gone)
    rows.add_tombstones(connection, dead[local < 0])
    return bool(len(gone))


def _forget_vanished(
    connection: apsw.Connection,
    live: Sequence[rows.SegmentRow],
    given_up: Sequence[rows.SegmentRow],
) -> None:
    """Forget rows that no segment has any more: texts, documents, marks. Those that were removed
    leave a tombstone.
    """
    if not given_up:
        return
    kept = np.concatenate([np.empty(0, np.int64), *(local_rows(s) for s in live)])
    local = np.concatenate([local_rows(s) for s in given_up])
    keys = np.concatenate([keys_of(s) for s in given_up])
    rows.add_tombstones(
        connection, keys[~np.isin(local, kept) & np.isin(local, rows.removed(connection))]
    )
    gone = np.setdiff1d(local, kept)
    docs.forget_rows(connection, gone)
    rows.forget_removed(connection, gone.tolist())


def _drop_twins(core: Core, connection: apsw.Connection) -> None:
    """Of documents that two devices took from the same file, keep the one that both keep."""
    twins = docs.twins(connection)
    if twins:
        rows.bump(connection, shape=True)
        core.state.refresh(connection)
    for document in twins:
        drop_document(core, connection, document)


def _note_files(connection: apsw.Connection) -> None:
    """Give documents of other devices a file's state, where this device has none of that path."""
    for row in docs.documents(connection, "path NOT IN (SELECT path FROM files)"):
        meta = row.meta
        if meta.path:
            state = FileState(
                meta.path, meta.size, meta.mtime_ns, meta.sha256, "ok", "", "", row.passages
            )
            docs.set_file(connection, state, row.id)
    docs.point_files(connection)


async def _adopt_params(core: Core, manifest: Manifest) -> None:
    """Use the manifest's index parameters; encode again what was encoded with others."""
    if not manifest.params:
        return
    with core.database.read() as connection:
        mine = rows.get_meta(connection, "params")
        pending = [
            (segment, rows.blob(connection, segment.seq, rows.PAYLOAD) or b"")
            for segment in rows.segments(connection)
            if segment.indexed and segment.state != rows.PUBLISHED
        ]
    if mine == manifest.params:
        return
    index = CodeIndex(manifest.params)
    again = []
    for row, payload in pending if mine is not None else ():
        segment = parse_segment(payload)
        vectors = await own_or_fetched(core, segment)
        codes = await asyncio.to_thread(index.encode, vectors)
        params = params_digest(manifest.params)
        again.append((row, replace(segment, codes=codes, params=params)))
    with core.database.write() as connection:
        rows.set_meta(connection, "params", manifest.params)
        for row, segment in again:
            if row.state == rows.PUT:
                rows.add_garbage_segment(connection, row.id)
            local = local_rows(row)
            rows.delete_segment(connection, row.seq)
            rows.insert_segment(
                connection,
                segment,
                new_segment_id(core),
                local,
                state=rows.PENDING,
                payload=encode_segment(segment),
                keep_vectors=core.oblivious,
            )
        rows.bump(connection, shape=True)


async def own_or_fetched(core: Core, segment: Segment) -> NDArray[np.float32]:
    """Return the vectors of a segment, (rows, dimension), int8's precision. Raises TooFewHosts
    where hosts do not give them.
    """
    dimension = core.identity.spec.dimension if core.identity.spec is not None else 0
    if segment.vectors:
        size = len(segment.vectors) // len(segment)
        plains = [segment.vectors[at : at + size] for at in range(0, len(segment.vectors), size)]
        return decode_vectors(plains, dimension)
    ids = core.keys.record_ids(VECTOR, segment.rows)
    fetched = await core.hosts.get(
        core.id, ids, lambda objects: open_many(core.keys, core.tenant, VECTOR, objects)
    )
    if fetched.missing:
        raise TooFewHosts(
            f"{len(fetched.missing)} of {len(ids)} vectors did not come from any host; try again "
            "when more of them answer"
        )
    return decode_vectors([fetched.values[object_id] for object_id in ids], dimension)
