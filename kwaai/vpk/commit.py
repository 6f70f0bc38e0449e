"""Add to a base, and take away: sealed objects first, then one local transaction.

Numbers of rows are reserved on the disk, the objects sealed and put, and only when the hosts have
them is the document committed: what a killed process left behind is a reservation, which `sweep`
turns into deletions. docs/vpk.md, "Ingest".
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from kwaai.errors import UserError
from kwaai.limits import (
    BASE_DOCUMENT_ROWS_MAX,
    BASE_PENDING_SEGMENTS_MAX,
    BASE_PIR_TEXT_BYTES,
    BASE_PUT_ROWS,
    BASE_SEGMENT_ROWS_MAX,
    BASE_SWEEP_IDS,
)
from kwaai.vpk import base_documents as docs
from kwaai.vpk import base_rows as rows
from kwaai.vpk.base_core import Core
from kwaai.vpk.codes import CodeIndex, train
from kwaai.vpk.keys import SEGMENT, TEXT, VECTOR
from kwaai.vpk.records import TextRecord, encode_text, encode_vectors
from kwaai.vpk.row_map import RowMap
from kwaai.vpk.seal import OVERHEAD_BYTES, room, seal_many
from kwaai.vpk.segments import (
    DocumentMeta,
    Part,
    Segment,
    encode_segment,
    join,
    parse_segment,
    rows_of,
)
from kwaai.vpk.types import ID_BYTES, Object

if TYPE_CHECKING:
    import apsw

_LABEL_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class NewRows:
    """Passages, vectors, or both, that are about to be added together."""

    count: int
    records: Sequence[TextRecord] | None
    vectors: NDArray[np.float32] | None
    """(count, dimension), of length 1."""
    document: DocumentMeta | None


async def add(
    core: Core,
    new: NewRows,
    before: Callable[[apsw.Connection], None],
    after: Callable[[apsw.Connection, int], None],
) -> None:
    """Store rows at the hosts, then commit them. `before` and `after` are called within that
    transaction: before anything is added, with a fresh state; and in the end, with the document's
    local id (0: none). Raises StorageFull, TooFewHosts, DiskFull: then nothing was added.
    """
    core.check_writable()
    if not 1 <= new.count <= BASE_DOCUMENT_ROWS_MAX:
        raise UserError(f"a document has 1 to {BASE_DOCUMENT_ROWS_MAX} passages, not {new.count}")
    async with core.writing:
        start = await asyncio.to_thread(_reserve, core, new)
        keys = rows_of([(core.writer, start, new.count)])
        codes, owed = await _store(core, new, keys)

        def done(connection: apsw.Connection, document: int) -> None:
            rows.set_number(connection, "owed", rows.get_number(connection, "owed") + owed)
            after(connection, document)

        await asyncio.to_thread(_commit, core, new, keys, codes, before, done)


def _reserve(core: Core, new: NewRows) -> int:
    with core.database.write() as connection:
        if new.vectors is not None and rows.get_meta(connection, "params") is None:
            rows.set_meta(connection, "params", train(new.vectors))
            rows.bump(connection, shape=True)
        return rows.reserve(connection, core.writer, new.count)


async def _store(core: Core, new: NewRows, keys: NDArray[np.uint64]) -> tuple[list[bytes], int]:
    """Seal and put all rows, one piece being sealed while another is being put. Return the codes of
    each piece, and how many copies hosts did not take.
    """
    params = None if new.vectors is None else await asyncio.to_thread(_params, core)
    index = None if params is None else CodeIndex(params)
    codes = []
    owed = 0
    putting: asyncio.Task[int] | None = None
    try:
        for start in range(0, new.count, BASE_PUT_ROWS):
            piece = slice(start, min(start + BASE_PUT_ROWS, new.count))
            objects, coded = await asyncio.to_thread(_seal, core, new, keys, piece, index)
            codes.append(coded)
            if putting is not None:
                owed += await putting
            putting = asyncio.create_task(_put(core, objects))
        if putting is not None:
            owed += await putting
    finally:
        if putting is not None and not putting.done():
            putting.cancel()
            await asyncio.wait([putting])
    return codes, owed


async def _put(core: Core, objects: list[Object]) -> int:
    if not objects:
        return 0
    report = await core.hosts.put(core.id, objects)
    return sum(len(ids) for ids in report.owed.values())


def _params(core: Core) -> bytes:
    with core.database.read() as connection:
        return rows.get_meta(connection, "params") or b""


def _seal(
    core: Core, new: NewRows, keys: NDArray[np.uint64], piece: slice, index: CodeIndex | None
) -> tuple[list[Object], bytes]:
    objects: list[Object] = []
    codes = b""
    mine = keys[piece]
    if new.vectors is not None and index is not None:
        vectors = new.vectors[piece]
        codes = index.encode(vectors)
        if not core.oblivious:
            named = zip(core.keys.record_ids(VECTOR, mine), encode_vectors(vectors), strict=True)
            objects += seal_many(core.keys, core.tenant, VECTOR, list(named))
    if new.records is not None:
        plains = [encode_text(record) for record in new.records[piece]]
        size = text_size(core, plains)
        texts = zip(core.keys.record_ids(TEXT, mine), plains, strict=True)
        objects += seal_many(core.keys, core.tenant, TEXT, list(texts), size=size)
    return objects, codes


def text_size(core: Core, plains: Sequence[bytes]) -> int | None:
    """Return the sealed bytes of texts: one size for all where reads are to look alike, else None.
    Raises UserError for a text that does not fit.
    """
    if not core.oblivious:
        return None
    size = oblivious_text_bytes()
    if max(map(len, plains), default=0) > room(size):
        raise UserError(
            f"a passage of this document is longer than a base in mode oblivious holds "
            f"({room(size)} bytes, compressed)"
        )
    return size


def oblivious_text_bytes() -> int:
    """Return the sealed bytes of every TEXT in mode oblivious: none of the sizes that others get,
    so that a table of objects of this size is a table of texts.
    """
    return BASE_PIR_TEXT_BYTES + OVERHEAD_BYTES


def _commit(
    core: Core,
    new: NewRows,
    keys: NDArray[np.uint64],
    codes: Sequence[bytes],
    before: Callable[[apsw.Connection], None],
    after: Callable[[apsw.Connection, int], None],
) -> None:
    with core.database.write() as connection:
        core.state.refresh(connection)
        before(connection)
        first = rows.get_number(connection, "next_row") + 1
        rows.set_number(connection, "next_row", first + new.count - 1)
        local = np.arange(first, first + new.count, dtype=np.int64)
        document = 0
        for segment in _segments(core, new, keys, b"".join(codes)):
            mine, local = local[: len(segment)], local[len(segment) :]
            document = add_segment(
                core, connection, segment, new_segment_id(core), mine, state=rows.PENDING
            ).get(new.document.uid if new.document is not None else b"", document)
        rows.release(connection, core.writer, int(keys[0, 1]))
        _pack(core, connection)
        after(connection, document)
        rows.bump(connection)


def add_segment(
    core: Core,
    connection: apsw.Connection,
    segment: Segment,
    segment_id: bytes,
    local: NDArray[np.int64],
    *,
    state: int,
    reference: bytes = b"",
) -> dict[bytes, int]:
    """Add a segment of new rows, with its documents and texts. Return documents' ids by uid."""
    rows.insert_segment(
        connection,
        segment,
        segment_id,
        local,
        state=state,
        reference=reference,
        payload=encode_segment(segment) if state != rows.PUBLISHED else None,
        keep_vectors=core.oblivious,
    )
    if segment.texts is not None:
        rows.index_segment_texts(connection, segment.texts, local)
    return docs.insert_parts(connection, segment.parts, local)


def new_segment_id(core: Core) -> bytes:
    """Return an id that no segment had."""
    return core.keys.object_id(SEGMENT, secrets.token_bytes(_LABEL_BYTES))


def new_document(**said: object) -> DocumentMeta:
    """Return a document with an id of its own."""
    return DocumentMeta(uid=os.urandom(ID_BYTES), **said)  # type: ignore[arg-type]


def params_digest(params: bytes | None) -> bytes:
    """Return what segments call their index parameters (ID_BYTES)."""
    if params is None:
        return bytes(ID_BYTES)
    return hashlib.blake2b(params, digest_size=ID_BYTES).digest()


def _segments(core: Core, new: NewRows, keys: NDArray[np.uint64], codes: bytes) -> list[Segment]:
    size = len(codes) // new.count
    params = params_digest(_params(core)) if codes else bytes(ID_BYTES)
    found = []
    for start in range(0, new.count, BASE_SEGMENT_ROWS_MAX):
        stop = min(start + BASE_SEGMENT_ROWS_MAX, new.count)
        texts = None
        if new.records is not None:
            texts = tuple((r.text, _context(r)) for r in new.records[start:stop])
        parts = () if new.document is None else (Part(new.document, 0, stop - start),)
        vectors = b""
        if core.oblivious and new.vectors is not None:
            vectors = b"".join(encode_vectors(new.vectors[start:stop]))
        found.append(
            Segment(
                rows=keys[start:stop],
                parts=parts,
                texts=texts,
                codes=codes[start * size : stop * size],
                vectors=vectors,
                params=params,
            )
        )
    return found


def _context(record: TextRecord) -> str:
    return "\n".join((record.document, *record.heading))


def _pack(core: Core, connection: apsw.Connection) -> None:
    """Join pending segments once there are many small ones: a document makes one each."""
    pending = [s for s in rows.segments(connection) if s.state == rows.PENDING]
    if len(pending) > BASE_PENDING_SEGMENTS_MAX:
        pack(core, connection)


def pack(core: Core, connection: apsw.Connection) -> None:
    """Join neighbouring pending segments of a kind, up to BASE_SEGMENT_ROWS_MAX rows."""
    groups: list[list[rows.SegmentRow]] = []
    for segment in rows.segments(connection):
        if segment.state != rows.PENDING:
            continue
        last = groups[-1] if groups else []
        if (
            last
            and last[0].kind == segment.kind
            and sum(s.rows for s in last) + segment.rows <= BASE_SEGMENT_ROWS_MAX
        ):
            last.append(segment)
        else:
            groups.append([segment])
    changed = False
    for group in groups:
        if len(group) < 2:
            continue
        parsed = [parse_segment(rows.blob(connection, s.seq, rows.PAYLOAD) or b"") for s in group]
        local = np.concatenate([local_rows(s) for s in group])
        joined = join(parsed)
        for segment in group:
            rows.delete_segment(connection, segment.seq)
        rows.insert_segment(
            connection,
            joined,
            new_segment_id(core),
            local,
            state=rows.PENDING,
            payload=encode_segment(joined),
            keep_vectors=core.oblivious,
        )
        changed = True
    if changed:
        rows.bump(connection, shape=True)


def local_rows(segment: rows.SegmentRow) -> NDArray[np.int64]:
    """Return the local rows of a segment, in its order."""
    runs = rows.parse_local_runs(segment.runs)
    return np.concatenate(
        [
            np.empty(0, np.int64),
            *(
                np.arange(row, row + count)
                for row, count in zip(runs["row"], runs["count"], strict=True)
            ),
        ]
    )


def drop_document(core: Core, connection: apsw.Connection, document: int) -> None:
    """Delete a document; what its rows have at the hosts goes with the next publication. The state
    must be fresh.
    """
    gone = docs.delete_document(connection, document)
    keys, known = core.state.keys(gone)
    rows.add_garbage_rows(connection, keys[known])


async def sweep(core: Core) -> int:
    """Delete at the hosts what was reserved and never committed. Return how many rows; those of
    hosts that are away stay owed. The caller holds `writing`.
    """
    with core.database.read() as connection:
        runs = rows.reserved(connection)
        here = RowMap(rows.segments(connection, hidden=True)) if runs else RowMap(())
    swept = 0
    for writer, start, count in runs:
        keys = rows_of([(writer, start, count)])
        # A file from a backup may have reserved what was committed after it was copied.
        keys = keys[here.find(keys) < 0]
        if len(keys) and not await delete_rows(core, keys):
            break
        with core.database.write() as connection:
            rows.release(connection, writer, start)
        swept += len(keys)
    return swept


async def delete_rows(core: Core, keys: NDArray[np.uint64]) -> bool:
    """Delete the objects of rows ((n, 2)) at all hosts; say whether all hosts did so."""
    complete = True
    for start in range(0, len(keys), BASE_SWEEP_IDS // 2):
        piece = keys[start : start + BASE_SWEEP_IDS // 2]
        ids = core.keys.record_ids(TEXT, piece)
        if not core.oblivious:
            ids += core.keys.record_ids(VECTOR, piece)
        report = await core.hosts.delete(core.id, ids)
        complete = complete and not report.away
    return complete
