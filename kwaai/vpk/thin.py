"""The index of thin clients: codes in cells, of which a search fetches those near its query.

A client keeps the centroids alone (3 MB at most) and asks for sealed buckets, all of one size: a
host sees how many were read together, not how full they are. A row is in several cells, so that
fewer have to be read; what a bucket holds is a row's name and its code (`kwaai.vpk.codes`).

Builds, encodes and reads; seals nothing and fetches nothing. docs/vpk.md has the bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from kwaai.errors import FileCorrupt, UserError
from kwaai.limits import (
    THIN_CENTROID_BYTES_MAX,
    THIN_ROWS_PER_CELL,
    THIN_SAMPLE_PER_CELL,
    THIN_SLACK,
    THIN_WRITERS_MAX,
)
from kwaai.vpk.codes import CodeIndex, code_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

SPILL: Final = 3
"""Cells that a row is in."""
_VERSION: Final = 1
_HEAD_BYTES: Final = 9
_NUMBER_BYTES: Final = 6
_ROW_BYTES: Final = 1 + _NUMBER_BYTES
_CHOICES: Final = 8
"""Cells that a row may fall back to where its nearest are full."""
_PART: Final = 2048
"""Vectors compared with all centroids at a time: 40 MB."""
_ROUNDS: Final = 10
"""Of k-means; more make cells little better."""


@dataclass(frozen=True, slots=True)
class ThinIndex:
    """What is sealed and stored: the centroids, and the buckets of their cells."""

    centroids: bytes
    buckets: tuple[bytes, ...]
    """All of one size, in the order of the centroids."""


def build(
    vectors: NDArray[np.float32],
    rows: NDArray[np.uint64],
    codes: bytes,
    *,
    spill: int = SPILL,
) -> ThinIndex:
    """Return the index of `vectors` (n, dimension), whose rows are `rows` (n, 2: writer, number)
    and whose codes are `codes`. Seconds of work: call it in a thread.

    Raises UserError for no vectors, for more rows or writers than a bucket can name, and for
    lengths that differ.
    """
    count, dimension = vectors.shape
    width = code_bytes(dimension)
    if not 0 < count == len(rows) or len(codes) != count * width:
        raise UserError("an index for thin clients needs vectors, and a row and a code for each")
    if rows[:, 1].max() >> np.uint64(8 * _NUMBER_BYTES):
        raise UserError("a row's number is larger than a bucket can hold")
    cells = max(1, min(count // THIN_ROWS_PER_CELL, THIN_CENTROID_BYTES_MAX // (2 * dimension)))
    spill = min(spill, cells)
    room = int(np.ceil(count * spill / cells * (1 + THIN_SLACK)))
    if room > 0xFFFF:
        raise UserError(f"{count} rows of {dimension} dimensions are too many for thin clients")
    centroids = _centroids(vectors, cells)
    members = _assign(vectors, centroids, spill, room)
    buckets = _buckets(rows, np.frombuffer(codes, np.uint8).reshape(count, width), members, room)
    about = bytes((_VERSION,)) + dimension.to_bytes(2, "little") + cells.to_bytes(4, "little")
    return ThinIndex(
        about + room.to_bytes(2, "little") + centroids.astype("<f2").tobytes(), tuple(buckets)
    )


def _buckets(
    rows: NDArray[np.uint64],
    codes: NDArray[np.uint8],
    members: Sequence[NDArray[np.int64]],
    room: int,
) -> list[bytes]:
    """Return what each cell holds, all of one size. Each lists the writers of its own rows: every
    opening of a base is another one, so a base has many.
    """
    named = [np.unique(rows[cell, 0], return_inverse=True) for cell in members]
    slots = max(len(writers) for writers, _ in named)
    if slots > THIN_WRITERS_MAX:
        raise UserError("the rows of one cell are of too many writers")
    numbers = rows[:, 1].astype("<u8").view(np.uint8).reshape(len(rows), 8)[:, :_NUMBER_BYTES]
    buckets = []
    for cell, (writers, which) in zip(members, named, strict=True):
        names = np.empty((len(cell), _ROW_BYTES), np.uint8)
        names[:, 0] = which
        names[:, 1:] = numbers[cell]
        head = len(cell).to_bytes(2, "little") + bytes((slots,)) + writers.astype("<u8").tobytes()
        padding = bytes((room - len(cell)) * (_ROW_BYTES + codes.shape[1]))
        head += bytes(8 * (slots - len(writers)))
        buckets.append(head + names.tobytes() + codes[cell].tobytes() + padding)
    return buckets


class ThinCells:
    """What a thin client keeps of an index: which cells to read for a query, and how to."""

    def __init__(self, centroids: bytes, params: bytes) -> None:
        """`params`: of the codes. Raises FileCorrupt."""
        self._params = params
        dimension = CodeIndex(params).dimension
        cells = int.from_bytes(centroids[3:7], "little")
        if (
            len(centroids) < _HEAD_BYTES
            or centroids[0] != _VERSION
            or int.from_bytes(centroids[1:3], "little") != dimension
            or len(centroids) != _HEAD_BYTES + 2 * dimension * cells
        ):
            raise FileCorrupt("the centroids are not those of this base's index")
        self._room = int.from_bytes(centroids[7:9], "little")
        values = np.frombuffer(centroids, "<f2", offset=_HEAD_BYTES).astype(np.float32)
        if not np.isfinite(values).all():
            raise FileCorrupt("a centroid has a number that is not finite")
        self._centroids = values.reshape(cells, dimension)
        self._halves = _halves(self._centroids)

    @property
    def cells(self) -> int:
        """How many there are."""
        return len(self._centroids)

    def nearest(self, query: NDArray[np.float32], count: int) -> list[int]:
        """Return the `count` cells nearest to `query` (dimension,), the nearest first."""
        near = self._centroids @ query - self._halves
        return [int(cell) for cell in np.argsort(-near, kind="stable")[:count]]

    def candidates(
        self, query: NDArray[np.float32], buckets: Sequence[bytes], count: int
    ) -> tuple[NDArray[np.uint64], NDArray[np.float32]]:
        """Return the `count` rows (n, 2: writer, number) of these buckets that are estimated to be
        nearest to `query`, the nearest first, each once; and the estimates. Raises FileCorrupt.
        """
        index = CodeIndex(self._params)
        parts = [self._parse(bucket, index.code_bytes) for bucket in buckets]
        if not parts:
            return np.empty((0, 2), np.uint64), np.empty(0, np.float32)
        rows = np.concatenate([rows for rows, _ in parts])
        codes = np.concatenate([codes for _, codes in parts])
        _, once = np.unique(rows.view("V16"), return_index=True)
        index.append(codes[once].tobytes(), len(once))
        positions, scores = index.search(query, count)
        return rows[once][positions], scores

    def _parse(self, bucket: bytes, width: int) -> tuple[NDArray[np.uint64], NDArray[np.uint8]]:
        count, writers = int.from_bytes(bucket[:2], "little"), bucket[2] if len(bucket) > 2 else 0
        start = 3 + 8 * writers
        stop = start + count * (_ROW_BYTES + width)
        if len(bucket) != start + self._room * (_ROW_BYTES + width) or count > self._room:
            raise FileCorrupt("a bucket is not of the size that all buckets have")
        names = np.frombuffer(bucket, np.uint8, count * _ROW_BYTES, start).reshape(
            count, _ROW_BYTES
        )
        if count and int(names[:, 0].max()) >= writers:
            raise FileCorrupt("a bucket names a writer that it does not list")
        rows = np.zeros((count, 2), "<u8")
        rows[:, 0] = np.frombuffer(bucket, "<u8", writers, 3)[names[:, 0]]
        rows.view(np.uint8).reshape(count, 16)[:, 8 : 8 + _NUMBER_BYTES] = names[:, 1:]
        start += count * _ROW_BYTES
        codes = np.frombuffer(bucket, np.uint8, stop - start, start).reshape(count, width)
        return rows.astype(np.uint64), codes


def _centroids(vectors: NDArray[np.float32], cells: int) -> NDArray[np.float32]:
    """Return k-means centroids (cells, dimension) of a sample that is the same at every call."""
    chosen = np.random.default_rng(1).permutation(len(vectors))[: cells * THIN_SAMPLE_PER_CELL]
    centroids = np.asarray(vectors[chosen[:cells]], np.float32)
    labels = np.empty(len(chosen), np.int64)
    for _ in range(_ROUNDS):
        halves, sums = _halves(centroids), np.zeros_like(centroids)
        for start in range(0, len(chosen), _PART):
            part = np.asarray(vectors[chosen[start : start + _PART]], np.float32)
            nearest = (part @ centroids.T - halves).argmax(axis=1)
            labels[start : start + len(part)] = nearest
            by_cell = np.argsort(nearest, kind="stable")
            cell, first = np.unique(nearest[by_cell], return_index=True)
            sums[cell] += np.add.reduceat(part[by_cell], first, axis=0)
        found, first, sizes = np.unique(labels, return_index=True, return_counts=True)
        centroids[found] = sums[found] / sizes[:, None]
        empty = np.setdiff1d(np.arange(cells), found)
        crowded = np.argsort(-sizes, kind="stable")[: len(empty)]  # halved: one of it moves over
        centroids[empty[: len(crowded)]] = vectors[chosen[first[crowded]]]
    return centroids.astype("<f2").astype(np.float32)


def _halves(centroids: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return half the squares of lengths: x nearest to c is x @ c - |c|^2 / 2 highest."""
    halves: NDArray[np.float32] = np.einsum("ij,ij->i", centroids, centroids) / 2
    return halves


def _assign(
    vectors: NDArray[np.float32], centroids: NDArray[np.float32], spill: int, room: int
) -> list[NDArray[np.int64]]:
    """Return each cell's vectors, `room` at most: a vector is in the `spill` nearest that take it.
    A cell that is full keeps the nearest.
    """
    choices = min(len(centroids), spill + _CHOICES)
    order, near = _nearest_cells(vectors, centroids, choices)
    count = len(vectors)
    got = np.zeros(count, np.int64)
    free = np.full(len(centroids), room)
    taken: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    for choice in range(choices):
        asking = np.flatnonzero(got < spill)
        asking, cells = _accepted(asking, order[asking, choice], near[asking, choice], free)
        got[asking] += 1
        np.subtract.at(free, cells, 1)
        taken.append((asking, cells))
    lost = np.flatnonzero(got == 0)  # every cell near them is full: anywhere is better than nowhere
    open_cells = np.repeat(np.arange(len(centroids)), free)[: len(lost)]
    taken.append((lost, open_cells))
    rows = np.concatenate([rows for rows, _ in taken])
    cells = np.concatenate([cells for _, cells in taken])
    by_cell = np.lexsort((rows, cells))
    borders = np.searchsorted(cells[by_cell], np.arange(1, len(centroids)))
    return list(np.split(rows[by_cell], borders))


def _nearest_cells(
    vectors: NDArray[np.float32], centroids: NDArray[np.float32], choices: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the nearest cells of each vector, the nearest first, and how near they are."""
    halves = _halves(centroids)
    order = np.empty((len(vectors), choices), np.int64)
    near = np.empty((len(vectors), choices), np.float32)
    for start in range(0, len(vectors), _PART):
        scores = vectors[start : start + _PART] @ centroids.T - halves
        best = np.argpartition(-scores, choices - 1, axis=1)[:, :choices]
        values = np.take_along_axis(scores, best, axis=1)
        ranks = np.argsort(-values, axis=1, kind="stable")
        order[start : start + len(scores)] = np.take_along_axis(best, ranks, axis=1)
        near[start : start + len(scores)] = np.take_along_axis(values, ranks, axis=1)
    return order, near


def _accepted(
    asking: NDArray[np.int64],
    cells: NDArray[np.int64],
    near: NDArray[np.float32],
    free: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return who of `asking` gets into the cell it asks for: the nearest, while there is room."""
    queue = np.lexsort((-near, cells))
    asking, cells = asking[queue], cells[queue]
    first = np.searchsorted(cells, cells)  # of its cell
    admitted = np.arange(len(cells)) - first < free[cells]
    return asking[admitted], cells[admitted]
