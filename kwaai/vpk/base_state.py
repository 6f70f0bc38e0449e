"""What a base holds in memory to be searched: the codes, and which row each position is.

Follows the database: `refresh` reads what was committed since, by this process or another; what was
replaced (compaction, another device's changes) makes it read everything anew. Thread-safe.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kwaai.vpk import base_rows as rows
from kwaai.vpk.codes import CodeIndex

if TYPE_CHECKING:
    import apsw

_RUN = np.dtype(
    [("code", "<i8"), ("row", "<i8"), ("writer", "<u8"), ("start", "<u8"), ("count", "<i8")]
)


class BaseState:
    """The searchable state of one base."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._version = -1
        self._clear()

    def _clear(self) -> None:
        self._shape = -1
        self._seq = -1
        self._codes: CodeIndex | None = None
        self._runs = np.empty(0, _RUN)
        self._by_row = np.empty(0, _RUN)
        self._coded = np.empty(0, _RUN)

    @property
    def nbytes(self) -> int:
        """Bytes in memory: codes, and runs of rows."""
        codes = 0 if self._codes is None else self._codes.nbytes
        return codes + self._runs.nbytes + self._by_row.nbytes + self._coded.nbytes

    @property
    def count(self) -> int:
        """Rows with vectors, removed ones included."""
        return 0 if self._codes is None else self._codes.count

    def refresh(self, connection: apsw.Connection) -> None:
        """Take in what was committed since the last time. Inside a reading transaction."""
        with self._lock:
            version = rows.get_number(connection, "version")
            if version == self._version:
                return
            shape = rows.get_number(connection, "shape")
            since = self._version
            if shape != self._shape:
                self._clear()
                self._shape, since = shape, -1
            try:
                self._load(connection, since)
            except BaseException:
                self._clear()
                self._version = -1
                raise
            self._version = version

    def _load(self, connection: apsw.Connection, since: int) -> None:
        added = rows.segments(connection, self._seq)
        if self._codes is None:
            params = rows.get_meta(connection, "params")
            if params is not None:
                self._codes = CodeIndex(params)
        tables = [self._runs]
        for segment in added:
            local = rows.parse_local_runs(segment.runs)
            table = np.zeros(len(local), _RUN)
            for name in ("row", "writer", "start", "count"):
                table[name] = local[name]
            table["code"] = -1
            if segment.indexed and self._codes is not None:
                codes = rows.blob(connection, segment.seq, rows.CODES) or b""
                first = self._codes.append(codes, segment.rows)
                table["code"] = first + np.cumsum(local["count"]) - local["count"]
            tables.append(table)
            self._seq = segment.seq
        if added:
            self._runs = np.concatenate(tables)
            self._by_row = self._runs[np.argsort(self._runs["row"], kind="stable")]
            self._coded = self._runs[self._runs["code"] >= 0]
        gone = rows.removed(connection, since)
        if len(gone) and self._codes is not None:
            positions = self._positions(gone)
            self._codes.remove(positions[positions >= 0])

    def scan(
        self, query: NDArray[np.float32], count: int
    ) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
        """Return the `count` rows whose vectors seem nearest to `query` ((dimension,)), the nearest
        first: local rows, and (writer, number).
        """
        with self._lock:
            if self._codes is None or not self._codes.count:
                return np.empty(0, np.int64), np.empty((0, 2), np.uint64)
            positions, _ = self._codes.search(query, count)
            runs = self._coded[np.searchsorted(self._coded["code"], positions, side="right") - 1]
            offsets = positions - runs["code"]
            return runs["row"] + offsets, _keys(runs, offsets)

    def keys(self, local: NDArray[np.int64]) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
        """Return the (writer, number) of local rows, and which of them are in any segment."""
        with self._lock:
            runs, offsets, known = self._find(local)
            return _keys(runs, offsets), known

    def _positions(self, local: NDArray[np.int64]) -> NDArray[np.int64]:
        """Positions of local rows among the codes; -1 for those that have none."""
        runs, offsets, known = self._find(local)
        return np.where(known & (runs["code"] >= 0), runs["code"] + offsets, -1)

    def _find(
        self, local: NDArray[np.int64]
    ) -> tuple[NDArray[np.void], NDArray[np.int64], NDArray[np.bool_]]:
        if not len(self._by_row):
            return np.zeros(len(local), _RUN), local, np.zeros(len(local), np.bool_)
        at = np.searchsorted(self._by_row["row"], local, side="right") - 1
        runs = self._by_row[np.maximum(at, 0)]
        offsets = local - runs["row"]
        return runs, offsets, (at >= 0) & (offsets < runs["count"])


def _keys(runs: NDArray[np.void], offsets: NDArray[np.int64]) -> NDArray[np.uint64]:
    return np.column_stack((runs["writer"], runs["start"] + offsets.astype(np.uint64)))
