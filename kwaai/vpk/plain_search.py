"""Exact search by cosine over plain vectors in memory, and vectors as the bytes that are kept.

Arrays only: knows no file and no tenant (`kwaai.vpk.plain_store`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kwaai.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Matrix:
    """Vectors that can be searched."""

    ids: NDArray[np.int64]
    units: NDArray[np.float32]
    """(n, dimension), each of length 1, or 0 where the vector is."""


def encode_rows(vectors: Sequence[Sequence[float]], dimension: int) -> list[bytes]:
    """Return each vector as little-endian float32s. Raises UserError for another dimension, and for
    numbers that float32 does not hold.
    """
    return [row.astype("<f4").tobytes() for row in _array(vectors, dimension, "embedding")]


def read_rows(rows: Sequence[tuple[int, bytes]], dimension: int) -> Matrix:
    """Return ids and bytes of `encode_rows` as a matrix."""
    import numpy as np

    ids = np.array([row[0] for row in rows], np.int64)
    data = b"".join(row[1] for row in rows)
    return Matrix(ids, _units(np.frombuffer(data, "<f4").reshape(len(rows), dimension)))


def join(parts: Iterable[Matrix], count: int, dimension: int) -> Matrix:
    """Return the parts, of `count` vectors together, as one."""
    import numpy as np

    ids = np.empty(count, np.int64)
    units = np.empty((count, dimension), np.float32)
    at = 0
    for part in parts:
        ids[at : at + len(part.ids)] = part.ids
        units[at : at + len(part.ids)] = part.units
        at += len(part.ids)
    return Matrix(ids[:at], units[:at])


def unit_of(query: Sequence[float], dimension: int) -> NDArray[np.float32]:
    """Return a query as a vector of length 1, or 0 where it is. Raises UserError."""
    unit: NDArray[np.float32] = _units(_array([query], dimension, "query"))[0]
    return unit


def nearest(
    matrix: Matrix, unit: NDArray[np.float32], count: int, before: Sequence[tuple[int, float]] = ()
) -> list[tuple[int, float]]:
    """Return ids and cosines of the `count` best of a matrix and of those `before`, the best first;
    of equal ones the smaller id.
    """
    import numpy as np

    scores = matrix.units @ unit
    if len(scores) > count:
        worst = np.partition(scores, len(scores) - count)[len(scores) - count]
        chosen = np.flatnonzero(scores >= worst)
    else:
        chosen = np.arange(len(scores))
    found = [(int(matrix.ids[at]), float(scores[at])) for at in chosen]
    return sorted([*before, *found], key=lambda item: (-item[1], item[0]))[:count]


def _array(vectors: Sequence[Sequence[float]], dimension: int, what: str) -> NDArray[np.float32]:
    import numpy as np

    for vector in vectors:
        if len(vector) != dimension:
            raise UserError(
                f"this tenant's vectors have {dimension} numbers; '{what}' has {len(vector)}",
                param=what,
            )
    array = np.array(vectors, np.float64).reshape(len(vectors), dimension)
    if not np.all(np.abs(array) <= np.finfo(np.float32).max):
        raise UserError(f"a number of '{what}' is not one that float32 holds", param=what)
    return array.astype(np.float32)


def _units(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    import numpy as np

    wide = vectors.astype(np.float64)
    lengths = np.sqrt(np.einsum("ij,ij->i", wide, wide))[:, None]
    units = np.divide(wide, lengths, out=np.zeros_like(wide), where=lengths > 0)
    narrow: NDArray[np.float32] = units.astype(np.float32)
    return narrow
