"""The tables of a base's documents and files, and the statements that read and change them.

Every function works inside a transaction of the caller's. A document is the same on all devices; a
file's state is this device's own. docs/vpk.md, "Bob's database".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from kwaai.vpk.base_rows import remove_rows
from kwaai.vpk.fulltext import forget_texts
from kwaai.vpk.ingest import FileState, StateName
from kwaai.vpk.segments import DocumentMeta, Part

if TYPE_CHECKING:
    import apsw

_DOCUMENT = "uid, name, path, title, media_type, sha256, size, mtime_ns, root, created_s"


@dataclass(frozen=True, slots=True)
class DocumentRow:
    """A document, and how many passages it has."""

    id: int
    meta: DocumentMeta
    passages: int


def insert_parts(
    connection: apsw.Connection, parts: Iterable[Part], rows: NDArray[np.int64]
) -> dict[bytes, int]:
    """Remember which local rows (of a segment's, (rows,)) belong to which documents; make those
    that are not there. Return their local ids by uid.
    """
    ids = {}
    for part in parts:
        document = ids[part.document.uid] = _document_id(connection, part.document)
        local = rows[part.start : part.start + part.count]
        starts = np.concatenate(([0], np.flatnonzero(np.diff(local) != 1) + 1))
        counts = np.diff(np.append(starts, len(local)))
        connection.executemany(
            "INSERT INTO spans(first, count, document) VALUES (?, ?, ?)",
            zip(local[starts].tolist(), counts.tolist(), [document] * len(starts), strict=True),
        )
    return ids


def _document_id(connection: apsw.Connection, meta: DocumentMeta) -> int:
    found = connection.execute("SELECT id FROM documents WHERE uid = ?", (meta.uid,)).get
    if found is not None:
        return int(found)
    connection.execute(
        f"INSERT INTO documents({_DOCUMENT}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        tuple(getattr(meta, name) for name in _DOCUMENT.split(", ")),
    )
    return connection.last_insert_rowid()


def documents(connection: apsw.Connection, where: str = "1", *values: str) -> list[DocumentRow]:
    """Return documents by name. `where`: a condition on the table's columns."""
    found = connection.execute(
        f"SELECT id, (SELECT coalesce(sum(count), 0) FROM spans WHERE document = id), {_DOCUMENT}"
        f" FROM documents WHERE {where} ORDER BY name, id",
        values,
    )
    return [DocumentRow(id_, DocumentMeta(*meta), count) for id_, count, *meta in found]


def document_of_row(connection: apsw.Connection, row: int) -> DocumentMeta | None:
    """Return the document that a local row belongs to."""
    found = connection.execute(
        f"SELECT first, count, {_DOCUMENT} FROM spans JOIN documents ON documents.id = document"
        " WHERE first <= ? ORDER BY first DESC LIMIT 1",
        (row,),
    ).get
    if found is None:
        return None
    first, count, *meta = found
    return DocumentMeta(*meta) if row < first + count else None


def rows_of_document(connection: apsw.Connection, document: int) -> NDArray[np.int64]:
    """Return a document's local rows."""
    found = connection.execute(
        "SELECT first, count FROM spans WHERE document = ? ORDER BY first", (document,)
    ).fetchall()
    spans = cast("list[tuple[int, int]]", found)
    return np.concatenate(
        [np.empty(0, np.int64), *(np.arange(first, first + count) for first, count in spans)]
    )


def delete_document(connection: apsw.Connection, document: int) -> NDArray[np.int64]:
    """Delete a document: its spans, its texts, its rows from what searches find. Return its local
    rows: their objects are the caller's business.
    """
    rows = rows_of_document(connection, document)
    connection.execute("DELETE FROM documents WHERE id = ?", (document,))
    remove_rows(connection, rows)
    return rows


# Files.
def set_file(connection: apsw.Connection, state: FileState, document: int | None) -> None:
    """Remember a file's state; `document` None: the one that it has."""
    connection.execute(
        "INSERT INTO files(path, size, mtime_ns, sha256, state, reason, document, passages, root)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT(path) DO UPDATE SET"
        " size = excluded.size, mtime_ns = excluded.mtime_ns, sha256 = excluded.sha256,"
        " state = excluded.state, reason = excluded.reason, passages = excluded.passages,"
        " root = excluded.root, document = coalesce(excluded.document, document)",
        (
            state.path,
            state.size,
            state.mtime_ns,
            state.sha256,
            state.state,
            state.reason,
            document,
            state.passages,
            state.root,
        ),
    )


def file_states(connection: apsw.Connection) -> dict[str, FileState]:
    """Return the states of all files by path."""
    found = connection.execute(
        "SELECT files.path, files.size, files.mtime_ns, files.sha256, state, reason,"
        " coalesce(documents.name, ''), passages, files.root"
        " FROM files LEFT JOIN documents ON documents.id = files.document ORDER BY files.path"
    )
    return {
        path: FileState(path, size, mtime_ns, sha256, cast(StateName, state), reason, *rest)
        for path, size, mtime_ns, sha256, state, reason, *rest in found
    }


def document_of_file(connection: apsw.Connection, path: str) -> int | None:
    """Return the local id of a file's document."""
    found = connection.execute("SELECT document FROM files WHERE path = ?", (path,)).get
    return cast("int | None", found)


def delete_file(connection: apsw.Connection, path: str) -> None:
    connection.execute("DELETE FROM files WHERE path = ?", (path,))


def delete_file_of(connection: apsw.Connection, path: str) -> None:
    """Forget the state of a file whose document is gone, so that it counts as new."""
    connection.execute("DELETE FROM files WHERE path = ? AND document IS NULL", (path,))


# What vanishes.
def drop_documents_of(connection: apsw.Connection, gone: NDArray[np.int64]) -> None:
    """Delete the documents that all of these local rows were taken from: a document goes whole."""
    spans = connection.execute("SELECT first, document FROM spans").fetchall()
    firsts = np.array([first for first, _ in spans], np.int64)
    dead = {spans[at][1] for at in np.flatnonzero(np.isin(firsts, gone)).tolist()}
    connection.executemany("DELETE FROM documents WHERE id = ?", ((each,) for each in dead))


def forget_rows(connection: apsw.Connection, gone: NDArray[np.int64]) -> None:
    """Forget local rows that no segment has: texts, documents, and states of their files."""
    if not len(gone):
        return
    forget_texts(connection, gone.tolist())
    drop_documents_of(connection, gone)


def twins(connection: apsw.Connection) -> list[int]:
    """Return documents of the same file and content as another with a lower uid."""
    found = connection.execute(
        "SELECT id FROM documents AS mine WHERE path != '' AND EXISTS ("
        " SELECT 1 FROM documents AS other WHERE other.path = mine.path"
        " AND other.sha256 = mine.sha256 AND other.name = mine.name AND other.uid < mine.uid)"
    ).fetchall()
    return [id_ for (id_,) in cast("list[tuple[int]]", found)]


def point_files(connection: apsw.Connection) -> None:
    """Give files whose document is gone the one of the same path and content, or forget that they
    were ingested.
    """
    connection.execute(
        "UPDATE files SET document = (SELECT id FROM documents WHERE documents.path = files.path"
        " AND documents.sha256 = files.sha256) WHERE document IS NULL"
    )
    connection.execute("DELETE FROM files WHERE document IS NULL AND state = 'ok'")
