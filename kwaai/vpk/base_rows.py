"""The tables of a base's local database, and the statements that read and change them.

Every function works inside a transaction of the caller's. Rows of passages have a local number
(`row`) that stays theirs whatever segment they are in; hosts and other devices know them by writer
and number. Decides nothing. docs/vpk.md, "Bob's database".
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

import numpy as np
from numpy.typing import NDArray

from kwaai.errors import FileCorrupt
from kwaai.limits import BASE_BUSY_S, BASE_CACHE_BYTES, BASE_SUPERSEDED_MAX, BASE_TOMBSTONES_MAX
from kwaai.sqlite import Schema
from kwaai.vpk.fulltext import FULLTEXT_SCHEMA, forget_texts, index_texts
from kwaai.vpk.segments import Segment, runs_of

if TYPE_CHECKING:
    import apsw

CODES, PAYLOAD, VECTORS = 1, 2, 3
"""Kinds of blobs of a segment: index codes; the whole, until it is published; int8 vectors."""
PENDING, PUT, PUBLISHED, HIDDEN = 0, 1, 2, 3
"""States of a segment: known here alone; put at the hosts, or about to be (then it has no reference
yet, and keeps its id: what a killed process has put is replaced, not forgotten); part of the
manifest; fetched or merged, and not searched before the manifest that lists it is taken in.
"""

SCHEMA: Final = Schema(
    what="knowledge base",
    application_id=0x4B424153,
    migrations=(
        """
        CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
        CREATE TABLE documents (
          id INTEGER PRIMARY KEY, uid BLOB NOT NULL UNIQUE, name TEXT NOT NULL, path TEXT NOT NULL,
          title TEXT NOT NULL, media_type TEXT NOT NULL, sha256 TEXT NOT NULL,
          size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, root TEXT NOT NULL,
          created_s INTEGER NOT NULL
        ) STRICT;
        CREATE INDEX documents_by_path ON documents(path);
        CREATE TABLE spans (
          first INTEGER PRIMARY KEY, count INTEGER NOT NULL,
          document INTEGER NOT NULL REFERENCES documents(id) ON DELETE CASCADE
        ) STRICT;
        CREATE INDEX spans_by_document ON spans(document);
        CREATE TABLE files (
          path TEXT PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
          sha256 TEXT NOT NULL, state TEXT NOT NULL, reason TEXT NOT NULL,
          document INTEGER REFERENCES documents(id) ON DELETE SET NULL,
          passages INTEGER NOT NULL, root TEXT NOT NULL
        ) STRICT;
        CREATE INDEX files_by_document ON files(document);
        CREATE TABLE segments (
          seq INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE, state INTEGER NOT NULL,
          rows INTEGER NOT NULL, indexed INTEGER NOT NULL, texts INTEGER NOT NULL,
          params BLOB NOT NULL, reference BLOB NOT NULL, runs BLOB NOT NULL
        ) STRICT;
        CREATE TABLE blobs (
          segment INTEGER NOT NULL REFERENCES segments(seq) ON DELETE CASCADE,
          kind INTEGER NOT NULL, data BLOB NOT NULL, PRIMARY KEY (segment, kind)
        ) STRICT;
        CREATE TABLE removed (row INTEGER PRIMARY KEY, version INTEGER NOT NULL) STRICT;
        CREATE INDEX removed_by_version ON removed(version);
        CREATE TABLE tombstones (
          id INTEGER PRIMARY KEY, writer INTEGER NOT NULL, start INTEGER NOT NULL,
          count INTEGER NOT NULL, UNIQUE (writer, start, count)
        ) STRICT;
        CREATE TABLE superseded (number INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE) STRICT;
        CREATE TABLE reserved (
          writer INTEGER NOT NULL, start INTEGER NOT NULL, count INTEGER NOT NULL,
          PRIMARY KEY (writer, start)
        ) STRICT, WITHOUT ROWID;
        CREATE TABLE garbage_rows (
          writer INTEGER NOT NULL, start INTEGER NOT NULL, count INTEGER NOT NULL,
          PRIMARY KEY (writer, start)
        ) STRICT, WITHOUT ROWID;
        CREATE TABLE garbage_segments (id BLOB PRIMARY KEY) STRICT, WITHOUT ROWID;
        """
        + FULLTEXT_SCHEMA,
    ),
    remedy="restore it from its hosts: kwaainet rag restore",
    busy_s=BASE_BUSY_S,
    cache_bytes=BASE_CACHE_BYTES,
)

_RUN = np.dtype([("row", "<i8"), ("writer", "<u8"), ("start", "<u8"), ("count", "<i8")])
_NUMBER = struct.Struct("<q")


@dataclass(frozen=True, slots=True)
class SegmentRow:
    """A segment as the database lists it."""

    seq: int
    id: bytes
    state: int
    rows: int
    indexed: bool
    texts: bool
    params: bytes
    reference: bytes
    """How a manifest names it; empty until it is put."""
    runs: bytes

    @property
    def at_hosts(self) -> bool:
        """The hosts have it whole."""
        return self.state != PENDING and bool(self.reference)

    @property
    def kind(self) -> tuple[bool, bool, bytes]:
        """As `segments.kind_of`."""
        return self.texts, self.indexed, self.params


def get_meta(connection: apsw.Connection, name: str) -> bytes | None:
    value = connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).get
    return cast("bytes | None", value)


def set_meta(connection: apsw.Connection, name: str, value: bytes) -> None:
    connection.execute(
        "INSERT INTO meta(name, value) VALUES (?, ?)"
        " ON CONFLICT(name) DO UPDATE SET value = excluded.value",
        (name, value),
    )


def forget_meta(connection: apsw.Connection, name: str) -> None:
    connection.execute("DELETE FROM meta WHERE name = ?", (name,))


def get_number(connection: apsw.Connection, name: str) -> int:
    """Return a counter; 0 where there is none."""
    value = get_meta(connection, name)
    return 0 if value is None else int(_NUMBER.unpack(value)[0])


def set_number(connection: apsw.Connection, name: str, value: int) -> None:
    set_meta(connection, name, _NUMBER.pack(value))


def bump(connection: apsw.Connection, *, shape: bool = False) -> int:
    """Count a change, so that readers look again; `shape`: from the start. Return the version."""
    version = get_number(connection, "version") + 1
    set_number(connection, "version", version)
    if shape:
        set_number(connection, "shape", version)
    return version


# Numbers of rows.
def reserve(connection: apsw.Connection, writer: int, count: int) -> int:
    """Reserve `count` numbers of a writer; return the first."""
    name = f"next:{writer}"
    start = get_number(connection, name)
    set_number(connection, name, start + count)
    connection.execute("INSERT INTO reserved VALUES (?, ?, ?)", (writer, start, count))
    return start


def reserved(connection: apsw.Connection) -> list[tuple[int, int, int]]:
    """Return what was reserved and never committed: writer, first number, count."""
    found = connection.execute("SELECT writer, start, count FROM reserved").fetchall()
    return cast("list[tuple[int, int, int]]", found)


def release(connection: apsw.Connection, writer: int, start: int) -> None:
    connection.execute("DELETE FROM reserved WHERE writer = ? AND start = ?", (writer, start))


# Segments.
def insert_segment(
    connection: apsw.Connection,
    segment: Segment,
    segment_id: bytes,
    rows: NDArray[np.int64],
    *,
    state: int,
    reference: bytes = b"",
    payload: bytes | None = None,
    keep_vectors: bool = False,
) -> None:
    """Add a segment whose rows have these local numbers ((rows,)). Documents and texts: others."""
    connection.execute(
        "INSERT INTO segments(id, state, rows, indexed, texts, params, reference, runs)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            segment_id,
            state,
            len(segment),
            int(bool(segment.codes)),
            int(segment.texts is not None),
            segment.params,
            reference,
            encode_local_runs(rows, segment.rows),
        ),
    )
    seq = connection.last_insert_rowid()
    for kind, data in (
        (CODES, segment.codes),
        (PAYLOAD, payload),
        (VECTORS, segment.vectors if keep_vectors else b""),
    ):
        if data:
            connection.execute("INSERT INTO blobs VALUES (?, ?, ?)", (seq, kind, data))


def segments(
    connection: apsw.Connection, after: int = -1, *, hidden: bool = False
) -> list[SegmentRow]:
    """Return the segments whose number is above `after`, in order; `hidden`: those too."""
    found = connection.execute(
        "SELECT seq, id, state, rows, indexed, texts, params, reference, runs FROM segments"
        " WHERE seq > ? AND state <= ? ORDER BY seq",
        (after, HIDDEN if hidden else PUBLISHED),
    )
    return [
        SegmentRow(seq, id_, state, rows, bool(indexed), bool(texts), params, reference, runs)
        for seq, id_, state, rows, indexed, texts, params, reference, runs in found
    ]


def blob(connection: apsw.Connection, seq: int, kind: int) -> bytes | None:
    found = connection.execute(
        "SELECT data FROM blobs WHERE segment = ? AND kind = ?", (seq, kind)
    ).get
    return cast("bytes | None", found)


def delete_segment(connection: apsw.Connection, seq: int) -> None:
    connection.execute("DELETE FROM segments WHERE seq = ?", (seq,))


def mark_segment(
    connection: apsw.Connection, seq: int, state: int, reference: bytes | None = None
) -> None:
    """Set a segment's state; a published one needs its payload no more."""
    connection.execute("UPDATE segments SET state = ? WHERE seq = ?", (state, seq))
    if reference is not None:
        connection.execute("UPDATE segments SET reference = ? WHERE seq = ?", (reference, seq))
    if state == PUBLISHED:
        connection.execute("DELETE FROM blobs WHERE segment = ? AND kind = ?", (seq, PAYLOAD))


def encode_local_runs(rows: NDArray[np.int64], keys: NDArray[np.uint64]) -> bytes:
    """Return local rows and their (writer, number) as runs in which both count up."""
    if not len(rows):
        return b""
    one = np.uint64(1)
    follows = (
        (np.diff(rows) == 1) & (keys[1:, 0] == keys[:-1, 0]) & (keys[1:, 1] == keys[:-1, 1] + one)
    )
    starts = np.concatenate(([0], np.flatnonzero(~follows) + 1))
    runs = np.empty(len(starts), _RUN)
    runs["row"], runs["writer"], runs["start"] = rows[starts], keys[starts, 0], keys[starts, 1]
    runs["count"] = np.diff(np.append(starts, len(rows)))
    return runs.tobytes()


def parse_local_runs(data: bytes) -> NDArray[np.void]:
    """Return runs: fields row, writer, start, count."""
    if len(data) % _RUN.itemsize:
        raise FileCorrupt(f"a knowledge base's database is damaged; {SCHEMA.remedy}")
    return np.frombuffer(data, _RUN)


def remove_rows(connection: apsw.Connection, rows: NDArray[np.int64]) -> None:
    """Take local rows out of the full-text index, and mark them as removed from their segments."""
    version = get_number(connection, "version") + 1
    forget_texts(connection, rows.tolist())
    connection.executemany(
        "INSERT OR IGNORE INTO removed(row, version) VALUES (?, ?)",
        ((row, version) for row in rows.tolist()),
    )


def removed(connection: apsw.Connection, after: int = -1) -> NDArray[np.int64]:
    """Return the removed local rows, those since a version alone."""
    found = connection.execute("SELECT row FROM removed WHERE version > ?", (after,)).fetchall()
    return np.array(found, np.int64).reshape(-1)


def forget_removed(connection: apsw.Connection, rows: Iterable[int]) -> None:
    """Forget about removed rows that no segment has any more."""
    connection.executemany("DELETE FROM removed WHERE row = ?", ((row,) for row in rows))


def index_segment_texts(
    connection: apsw.Connection, texts: Sequence[tuple[str, str]], rows: NDArray[np.int64]
) -> None:
    """Index the texts of local rows."""
    starts = [0, *(np.flatnonzero(np.diff(rows) != 1) + 1).tolist()] if len(rows) else []
    for start, stop in zip(starts, [*starts[1:], len(rows)], strict=True):
        index_texts(connection, int(rows[start]), texts[start:stop])


# Rows that were removed, and that no segment has any more.
def tombstones(connection: apsw.Connection) -> list[tuple[int, int, int]]:
    """Return runs (writer, first number, count), the oldest first."""
    found = connection.execute("SELECT writer, start, count FROM tombstones ORDER BY id").fetchall()
    return cast("list[tuple[int, int, int]]", found)


def add_tombstones(connection: apsw.Connection, keys: NDArray[np.uint64]) -> None:
    """Remember removed rows ((n, 2)) that segments have no more; the oldest runs beyond
    BASE_TOMBSTONES_MAX are forgotten.
    """
    order = np.lexsort((keys[:, 1], keys[:, 0]))
    connection.executemany(
        "INSERT OR IGNORE INTO tombstones(writer, start, count) VALUES (?, ?, ?)",
        runs_of(keys[order]).tolist(),
    )
    connection.execute(
        "DELETE FROM tombstones WHERE id <= (SELECT max(id) FROM tombstones) - ?",
        (BASE_TOMBSTONES_MAX,),
    )


# Segments whose rows are in others now.
def superseded(connection: apsw.Connection) -> set[bytes]:
    """Return the ids of segments that were merged into others, the newest BASE_SUPERSEDED_MAX."""
    found = connection.execute("SELECT id FROM superseded").fetchall()
    return {id_ for (id_,) in cast("list[tuple[bytes]]", found)}


def add_superseded(connection: apsw.Connection, ids: Iterable[bytes]) -> None:
    connection.executemany(
        "INSERT OR IGNORE INTO superseded(id) VALUES (?)", ((each,) for each in ids)
    )
    connection.execute(
        "DELETE FROM superseded WHERE number <= (SELECT max(number) FROM superseded) - ?",
        (BASE_SUPERSEDED_MAX,),
    )


# What is to be deleted at the hosts.
def add_garbage_rows(connection: apsw.Connection, keys: NDArray[np.uint64]) -> None:
    """Remember rows ((n, 2)) whose objects nothing needs any more once all is published."""
    connection.executemany(
        "INSERT OR REPLACE INTO garbage_rows VALUES (?, ?, ?)", runs_of(keys).tolist()
    )


def add_garbage_segment(connection: apsw.Connection, segment_id: bytes) -> None:
    connection.execute("INSERT OR IGNORE INTO garbage_segments VALUES (?)", (segment_id,))


def garbage(connection: apsw.Connection) -> tuple[list[tuple[int, int, int]], list[bytes]]:
    """Return runs of rows (writer, first number, count), and ids of segments."""
    rows = connection.execute("SELECT writer, start, count FROM garbage_rows").fetchall()
    ids = cast(
        "list[tuple[bytes]]", connection.execute("SELECT id FROM garbage_segments").fetchall()
    )
    return cast("list[tuple[int, int, int]]", rows), [id_ for (id_,) in ids]


def own_vectors(
    connection: apsw.Connection, local: NDArray[np.int64]
) -> tuple[NDArray[np.int64], list[bytes]]:
    """Return those of some local rows whose vectors are kept here, and the vectors."""
    came: list[int] = []
    vectors: list[bytes] = []
    for segment in segments(connection):
        runs = parse_local_runs(segment.runs)
        before = np.cumsum(runs["count"]) - runs["count"]
        order = np.argsort(runs["row"], kind="stable")
        at = np.searchsorted(runs["row"][order], local, side="right") - 1
        run = runs[order[np.maximum(at, 0)]]
        offset = local - run["row"]
        inside = (at >= 0) & (offset < run["count"])
        if not segment.indexed or not inside.any():
            continue
        places = before[order[at[inside]]] + offset[inside]
        size = connection.execute(
            "SELECT length(data) FROM blobs WHERE segment = ? AND kind = ?", (segment.seq, VECTORS)
        ).get
        if not size:
            continue
        stride = int(size) // segment.rows
        rowid = connection.execute(
            "SELECT rowid FROM blobs WHERE segment = ? AND kind = ?", (segment.seq, VECTORS)
        ).get
        with connection.blob_open("main", "blobs", "data", int(cast(int, rowid)), False) as data:
            for row, place in zip(local[inside].tolist(), places.tolist(), strict=True):
                data.seek(place * stride)
                came.append(row)
                vectors.append(data.read(stride))
    return np.array(came, np.int64), vectors


def forget_garbage(
    connection: apsw.Connection, runs: Iterable[tuple[int, int, int]], ids: Iterable[bytes]
) -> None:
    """Forget what was deleted at the hosts."""
    connection.executemany(
        "DELETE FROM garbage_rows WHERE writer = ? AND start = ? AND count = ?", runs
    )
    connection.executemany("DELETE FROM garbage_segments WHERE id = ?", ((each,) for each in ids))
