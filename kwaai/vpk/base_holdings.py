"""What a base has at its hosts: for audits, repair, export and figures.

Lists and opens; asks hosts for passages only. docs/vpk.md, "Repair".
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kwaai.errors import SealBroken
from kwaai.vpk import base_documents as docs
from kwaai.vpk import base_rows as rows
from kwaai.vpk import retrievability
from kwaai.vpk.base_core import Core, open_texts
from kwaai.vpk.commit import local_rows
from kwaai.vpk.keys import CELL, SEGMENT, TEXT, VECTOR
from kwaai.vpk.manifest import digest
from kwaai.vpk.seal import open_many, open_sealed
from kwaai.vpk.segment_fetch import parse_reference
from kwaai.vpk.segments import rows_of
from kwaai.vpk.thin_store import cell_ids, centroids_id, parse_ref
from kwaai.vpk.types import Object

if TYPE_CHECKING:
    import apsw


@dataclass(frozen=True, slots=True)
class Stats:
    """Figures of a base on this device."""

    documents: int
    passages: int
    """Rows that searches may find."""
    index_bytes: int
    """In memory."""
    local_bytes: int
    """On this device's disk."""
    segments: int
    sequence: int
    """Of the newest manifest that this device knows; 0: none was published."""
    unpublished: int
    """Rows that no manifest lists yet: restores would not have them."""
    owed: int
    """Copies that hosts which were away or full did not take."""


class BaseHoldings:
    """The live objects of a base, and how each opens. Implements `holdings.Holdings`."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._kinds: dict[bytes, int] = {}

    @property
    def base(self) -> bytes:
        return self._core.id

    def small_ids(self) -> list[bytes]:
        """Return the ids of all records of live rows. Blocks for a second per 100,000 rows."""
        vectors, texts = live_keys(self._core)
        keys = self._core.keys
        by_kind = {VECTOR: keys.record_ids(VECTOR, vectors), TEXT: keys.record_ids(TEXT, texts)}
        with self._core.reader.read() as connection:
            cells = parse_ref(rows.get_meta(connection, "thin") or b"")
        if cells is not None:
            by_kind[CELL] = cell_ids(keys, cells)
        self._kinds = {each: kind for kind, ids in by_kind.items() for each in ids}
        return list(self._kinds)

    def open_small(self, objects: list[Object]) -> list[bytes]:
        """Open records of either kind. Raises SealBroken."""
        return [self._open(object_id, sealed) for object_id, sealed in objects]

    def _open(self, object_id: bytes, sealed: bytes) -> bytes:
        core = self._core
        kind = self._kinds.get(object_id)
        if kind is not None:
            return open_many(core.keys, core.tenant, kind, [(object_id, sealed)])[0]
        try:
            return open_many(core.keys, core.tenant, VECTOR, [(object_id, sealed)])[0]
        except SealBroken:
            return open_many(core.keys, core.tenant, TEXT, [(object_id, sealed)])[0]

    def large(self) -> list[tuple[bytes, int, str]]:
        """Return the segments at the hosts, and the centroids of cells: id, bytes, coding."""
        with self._core.reader.read() as connection:
            refs = [
                parse_reference(s.reference, s) for s in rows.segments(connection) if s.at_hosts
            ]
            cells = parse_ref(rows.get_meta(connection, "thin") or b"")
        found = [(ref.id, ref.size_bytes, ref.coding) for ref in refs]
        if cells is not None and cells.centroids_bytes:
            coding = "whole" if cells.coding.is_whole else str(cells.coding)
            name = centroids_id(self._core.keys, cells)
            found.append((name, cells.centroids_bytes, coding))
        return found

    def open_large(self, object_id: bytes, blob: bytes) -> bytes:
        """Open a segment, or the centroids of cells; raises SealBroken where it is not the one that
        was published.
        """
        core = self._core
        with core.reader.read() as connection:
            cells = parse_ref(rows.get_meta(connection, "thin") or b"")
            if cells is not None and object_id == centroids_id(core.keys, cells):
                return open_sealed(core.keys, core.tenant, CELL, object_id, blob)
            refs = [
                parse_reference(s.reference, s)
                for s in rows.segments(connection)
                if s.id == object_id and s.at_hosts
            ]
        if not refs or digest(blob) != refs[0].digest:
            raise SealBroken(f"segment {object_id.hex()} is not the one that was published")
        return open_sealed(core.keys, core.tenant, SEGMENT, object_id, blob)

    def tag(self, object_id: bytes, data: bytes) -> bytes:
        """Return tags of a fragment, for proofs."""
        return retrievability.tag(self._core.keys, object_id, data)

    def verify_proof(self, object_id: bytes, challenge: bytes, proof: bytes) -> int:
        """Return how many bytes a fragment has that a host proves to have. Raises SealBroken."""
        return retrievability.verify(self._core.keys, object_id, challenge, proof)

    def manifest(self) -> bytes | None:
        """Return the newest manifest, as it was published."""
        return self._core.manifest_bytes()


def live_keys(core: Core) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Return the (writer, number) of live rows that have a VECTOR object, and a TEXT object."""
    vectors, texts = [np.empty((0, 2), np.uint64)], [np.empty((0, 2), np.uint64)]
    with core.reader.read() as connection:
        removed = rows.removed(connection)
        for segment in rows.segments(connection):
            keys = live_of(segment, removed)[0]
            if segment.indexed and not core.oblivious:
                vectors.append(keys)
            if segment.texts:
                texts.append(keys)
    return np.concatenate(vectors), np.concatenate(texts)


def live_of(
    segment: rows.SegmentRow, removed: NDArray[np.int64]
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Return the live rows of a segment: (writer, number), and local."""
    runs = rows.parse_local_runs(segment.runs)
    local = local_rows(segment)
    live = ~np.isin(local, removed)
    keys = rows_of(zip(runs["writer"], runs["start"], runs["count"], strict=True))
    return keys[live], local[live]


def stats(core: Core) -> Stats:
    """Return the figures of a base."""
    with core.reader.read() as connection:
        core.state.refresh(connection)
        segments = rows.segments(connection)
        removed = len(rows.removed(connection))
        documents = connection.execute("SELECT count(*) FROM documents").get
        sequence = rows.get_number(connection, "sequence")
        owed = rows.get_number(connection, "owed")
    return Stats(
        documents=int(documents or 0),
        passages=sum(s.rows for s in segments) - removed,
        index_bytes=core.state.nbytes,
        local_bytes=sum(path.stat().st_size for path in core.path.glob("*.db*")),
        segments=len(segments),
        sequence=sequence,
        unpublished=sum(s.rows for s in segments if s.state != rows.PUBLISHED),
        owed=owed,
    )


async def passages(core: Core, batch: int) -> AsyncIterator[list[dict[str, object]]]:
    """Fetch all passages, up to `batch` at a time, by document: what an export writes. Those that
    hosts do not give are left out and counted in the last batch (`missing`).
    """
    missing = 0
    with core.reader.read() as connection:
        removed = rows.removed(connection)
        segments = [s for s in rows.segments(connection) if s.texts]
    for segment in segments:
        keys, local = await asyncio.to_thread(live_of, segment, removed)
        for start in range(0, len(keys), batch):
            piece = slice(start, start + batch)
            ids = core.keys.record_ids(TEXT, keys[piece])
            fetched = await core.hosts.get(core.id, ids, lambda objects: open_texts(core, objects))
            missing += len(fetched.missing)
            paths = await asyncio.to_thread(_paths, core, local[piece])
            found: list[dict[str, object]] = [
                {
                    "document": record.document,
                    "path": paths[at],
                    "heading": list(record.heading),
                    "page": record.page,
                    "start": record.start,
                    "stop": record.stop,
                    "text": record.text,
                }
                for at, object_id in enumerate(ids)
                if (record := fetched.values.get(object_id)) is not None
            ]
            if found:
                yield found
    if missing:
        yield [{"missing": missing}]


def _paths(core: Core, local: NDArray[np.int64]) -> list[str]:
    with core.reader.read() as connection:
        return [_path(connection, row) for row in local.tolist()]


def _path(connection: apsw.Connection, row: int) -> str:
    document = docs.document_of_row(connection, row)
    return "" if document is None else document.path
