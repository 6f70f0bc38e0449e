"""The compact index: one bit a dimension, scanned in memory for the rows worth fetching.

Codes are those of RaBitQ (Gao and Long, SIGMOD 2024): the signs of a vector less the centre, after
a rotation, and two numbers that make of them an unbiased estimate of the inner product. They are
kept row by row, in a form of their own (docs/vpk.md), and are packed for faiss's fast scan when
they are loaded: what is stored does not change with faiss.

Holds no rows and no texts: a position is the number of a row in the order of `append`. Nothing
here touches a disk or a network. faiss is loaded by the first index.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from kwaai.errors import ConfigError, FileCorrupt, UserError
from kwaai.limits import (
    VPK_CENTRE_ROWS_MIN,
    VPK_DIMENSION_MAX,
    VPK_SEARCH_COUNT_MAX,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

_VERSION: Final = 1
_SEED_BYTES: Final = 16
_SEED: Final = bytes(_SEED_BYTES)
"""Nothing is hidden by it: the rotation only spreads what a few dimensions hold over all."""
_FACTOR_BYTES: Final = 8
_BLOCK: Final = 32
"""Rows that a fast scan reads together."""
_LANES: Final = np.array([0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15])
"""Rows of a block in the order in which faiss puts their halves of bytes."""
_SCANS: Final = 2
_TURN: Final = 8192 * _BLOCK
"""Rows that go into one scan before the next one's turn: fewer would be scanned by one thread
before another has woken.
"""
_ENCODED: Final = 1024
"""Rows that are encoded at a time: 1.5 MB of float32 stay near the processor."""
_REMOVED: Final = np.float32(1e30)
"""An offset that takes a row below every other: scores are minus a half of it."""
_SCORE_MIN: Final = -1e29


def load_early() -> None:
    """Begin to load faiss in a thread, beside what else an opening does: the first index waits for
    it. Idempotent.
    """
    if "faiss" not in sys.modules:
        threading.Thread(target=importlib.import_module, args=("faiss",), daemon=True).start()


def train(sample: NDArray[np.float32]) -> bytes:
    """Return the parameters of an index for vectors like those of `sample` (rows, dimension): any
    number of rows, from none. They belong to a base; codes made with others do not compare.

    With few rows the centre stays near zero: a wrong one costs more than none.
    """
    if sample.ndim != 2 or not 1 <= sample.shape[1] <= VPK_DIMENSION_MAX:
        raise UserError(f"vectors have 1 to {VPK_DIMENSION_MAX} dimensions")
    rows, dimension = sample.shape
    centre = np.zeros(dimension, np.float64)
    if rows:
        centre = sample.mean(axis=0, dtype=np.float64) * (rows / (rows + VPK_CENTRE_ROWS_MIN))
    if not np.isfinite(centre).all():
        raise UserError("a vector has a number that is not finite")
    head = bytes((_VERSION,)) + dimension.to_bytes(2, "little") + _SEED
    return bytes(head + centre.astype("<f2").tobytes())


def code_bytes(dimension: int) -> int:
    """Return the bytes of one row's code: a bit a dimension, and two float32."""
    return (dimension + 7) // 8 + _FACTOR_BYTES


class CodeIndex:
    """Codes of many rows, and the scan over them. Callable from any thread."""

    def __init__(self, params: bytes) -> None:
        """Make an empty index of what `train` returned. Raises FileCorrupt."""
        head = 3 + _SEED_BYTES
        if len(params) < head or params[0] != _VERSION:
            raise FileCorrupt(
                "the index's parameters are of a version that this program cannot read"
            )
        self.dimension: Final = int.from_bytes(params[1:3], "little")
        if not 1 <= self.dimension <= VPK_DIMENSION_MAX or len(params) != head + 2 * self.dimension:
            raise FileCorrupt("the index's parameters are not of the length that they say")
        centre = np.frombuffer(params, "<f2", offset=head).astype(np.float32)
        if not np.isfinite(centre).all():
            raise FileCorrupt("the index's centre has a number that is not finite")
        self.code_bytes: Final = code_bytes(self.dimension)
        self._rotation = _rotation(self.dimension, params[3:head])
        self._centre = centre @ self._rotation
        self._lock = threading.Lock()
        self._scans = tuple(_new_scan(self._centre) for _ in range(_SCANS))
        """Rows lie in them by turns, _TURN in each: two processors scan them at once."""
        self._count = 0
        self._tail = np.empty((0, self.code_bytes), np.uint8)
        self._removed = 0

    @property
    def count(self) -> int:
        """Rows, removed ones included."""
        return self._count

    @property
    def nbytes(self) -> int:
        """Bytes of the codes in memory."""
        return sum(int(scan.codes.size()) for scan in self._scans)

    def encode(self, vectors: NDArray[np.float32]) -> bytes:
        """Return the codes of `vectors` (rows, dimension), one behind the other. Raises UserError
        for another dimension, or a number that is not finite.
        """
        if vectors.ndim != 2 or vectors.shape[1] != self.dimension:
            raise UserError(f"this base's vectors have {self.dimension} dimensions")
        codes = np.empty((len(vectors), self.code_bytes), np.uint8)
        for start in range(0, len(vectors), _ENCODED):
            part = vectors[start : start + _ENCODED]
            codes[start : start + len(part)] = self._encode(np.asarray(part, np.float32))
        return codes.tobytes()

    def _encode(self, part: NDArray[np.float32]) -> NDArray[np.uint8]:
        residual = part @ self._rotation
        along = residual @ self._centre
        residual -= self._centre
        signs = np.packbits(residual > 0, axis=1, bitorder="little")
        squares = np.einsum("ij,ij->i", residual, residual)
        if not np.isfinite(squares).all():
            raise UserError("a vector has a number that is not finite, or that is too large")
        spread = np.abs(residual, out=residual).sum(axis=1)
        factors = np.empty((len(part), 2), "<f4")
        factors[:, 0] = self._centre @ self._centre - 2 * along
        factors[:, 1] = squares / np.maximum(spread, 1e-12) * np.float32(self.dimension**0.5)
        return np.concatenate((signs, factors.view(np.uint8)), axis=1)

    def append(self, codes: bytes | memoryview, count: int) -> int:
        """Add the codes of `count` rows behind those that are there; return the first one's
        position. Raises FileCorrupt: another length, or numbers that no vector has.
        """
        rows = np.frombuffer(codes, np.uint8)
        if count < 0 or len(rows) != count * self.code_bytes:
            raise FileCorrupt(f"{len(rows)} bytes of codes are not {count} rows")
        rows = rows.reshape(count, self.code_bytes)
        factors = np.ascontiguousarray(rows[:, -_FACTOR_BYTES:]).view("<f4")
        if not (np.abs(factors) < np.float32(1e18)).all():
            raise FileCorrupt("codes have numbers that no vector has")
        with self._lock:
            first = self._count
            while len(rows):
                piece = rows[: _TURN - self._count % _TURN]
                rows = rows[len(piece) :]
                self._add(piece)
        return first

    def _add(self, rows: NDArray[np.uint8]) -> None:
        """Add rows of one turn."""
        which, start = _place(self._count)
        blocks = start // _BLOCK  # full ones stay as they are
        self._count += len(rows)
        joined = np.concatenate((self._tail, rows))
        self._tail = joined[len(joined) // _BLOCK * _BLOCK :].copy()
        packed = _pack(joined, self.dimension)
        _write(self._scans[which], blocks, packed, start + len(rows))

    def remove(self, positions: NDArray[np.int64]) -> None:
        """Take rows out of what `search` finds; their positions stay taken. Idempotent. Raises
        IndexError for one that is not there.
        """
        positions = np.unique(np.asarray(positions, np.int64))
        with self._lock:
            if not len(positions):
                return
            if positions[0] < 0 or positions[-1] >= self.count:
                raise IndexError("a position that the index has not")
            row = np.frombuffer(np.array((_REMOVED, 0), "<f4").tobytes(), np.uint8)
            which, places = _places(positions)
            for number, scan in enumerate(self._scans):
                self._removed += _overwrite(scan, places[which == number], row)
            tail = positions[positions >= self.count - len(self._tail)]
            self._tail[tail - (self.count - len(self._tail)), -_FACTOR_BYTES:] = row

    def search(
        self, query: NDArray[np.float32], count: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the positions of the `count` rows (fewer where there are no more) whose inner
        product with `query` (dimension,) is estimated highest, the highest first; and estimates.

        Raises UserError for a query of another dimension, or one that is not finite.
        """
        if query.shape != (self.dimension,) or not np.isfinite(query).all():
            raise UserError(f"a query of this base is {self.dimension} finite numbers")
        if not 1 <= count <= VPK_SEARCH_COUNT_MAX:
            raise UserError(f"a search finds 1 to {VPK_SEARCH_COUNT_MAX} rows")
        rotated = (query.astype(np.float32) @ self._rotation)[None]
        with self._lock:
            count = min(count, self.count - self._removed)
            if count < 1:
                return np.empty(0, np.int64), np.empty(0, np.float32)
            positions, scores = self._search(rotated, count)
        live = (positions >= 0) & (scores > _SCORE_MIN)
        return positions[live], scores[live]

    def _search(
        self, rotated: NDArray[np.float32], count: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        filled = [(n, scan) for n, scan in enumerate(self._scans) if scan.ntotal]
        if len(filled) == 1:
            return _find(filled[0][1], rotated, count)
        others = [_threads().submit(_find, scan, rotated, count) for _, scan in filled[1:]]
        found = [_find(filled[0][1], rotated, count), *(other.result() for other in others)]
        positions = np.concatenate(
            [_positions(n, places) for (n, _), (places, _) in zip(filled, found, strict=True)]
        )
        scores = np.concatenate([scores for _, scores in found])
        best = np.lexsort((positions, -scores))[:count]
        return positions[best], scores[best]


def exact(
    query: NDArray[np.float32], vectors: NDArray[np.float32], count: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return which `count` of `vectors` (rows, dimension) have the highest inner product with
    `query`, the highest first, the earlier of equal ones first; and the products.
    """
    scores = vectors @ query
    order = np.argsort(-scores, kind="stable")[:count]
    return order.astype(np.int64), scores[order].astype(np.float32)


@functools.lru_cache(maxsize=2)
def _rotation(dimension: int, seed: bytes) -> NDArray[np.float32]:
    """Return an orthogonal (dimension, dimension) matrix: three rounds of signs, a permutation, and
    Hadamard transforms of blocks whose sizes are powers of two.
    """
    if dimension == 1:
        return np.ones((1, 1), np.float32)
    columns = np.eye(dimension)  # of the matrix, as rows here: they lie together in memory
    for number in range(3):
        stream = hashlib.shake_128(seed + bytes((number,))).digest(5 * dimension)
        signs = np.frombuffer(stream[:dimension], np.uint8) & 1
        order = np.argsort(np.frombuffer(stream[dimension:], "<u4"), kind="stable")
        columns = (columns * (1.0 - 2.0 * signs)[:, None])[order]
        start = 0
        while start < dimension:
            size = 1 << ((dimension - start).bit_length() - 1)
            _hadamard(columns[start : start + size])
            start += size
    rotation = np.ascontiguousarray(columns.T, np.float32)
    rotation.flags.writeable = False
    return rotation


def _hadamard(columns: NDArray[np.float64]) -> None:
    """Transform in place: as many columns, one a row, as a power of two."""
    size, length = columns.shape
    half = 1
    while half < size:
        pairs = columns.reshape(size // (2 * half), 2, half, length)
        left, right = pairs[:, 0], pairs[:, 1]
        difference = left - right
        left += right
        right[:] = difference
        half *= 2
    columns /= size**0.5


def _new_scan(centre: NDArray[np.float32]) -> Any:
    """Return an empty fast-scan index of the centre's dimension."""
    _verify_packing()
    return _empty_scan(centre)


def _empty_scan(centre: NDArray[np.float32]) -> Any:
    import faiss

    index = faiss.IndexRaBitQFastScan(len(centre), faiss.METRIC_INNER_PRODUCT)
    faiss.copy_array_to_vector(np.ascontiguousarray(centre, np.float32), index.center)
    index.is_trained = True
    return index


@functools.cache
def _verify_packing() -> None:
    """Compare what is packed here with what faiss makes of the same vectors. Raises ConfigError:
    another release of faiss may lay its blocks out in another way.
    """
    dimension, rows = 20, _BLOCK
    vectors = np.cos(np.arange(rows * dimension, dtype=np.float32)).reshape(rows, dimension)
    index = _empty_scan(vectors[0])
    index.add(vectors)
    packed = _pack(index.sa_encode(vectors), dimension)
    if not np.array_equal(_memory(index), packed.reshape(-1)):
        import faiss

        raise ConfigError(
            f"faiss {faiss.__version__} keeps its codes in a form that this program does not know: "
            "install the release of faiss-cpu that kwaainet asks for"
        )


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_SCANS - 1, thread_name_prefix="scan")


def _find(
    scan: Any, rotated: NDArray[np.float32], count: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return places in one scan, and scores; -1 for rows that it has not."""
    import faiss

    if faiss.omp_get_max_threads() != 1:  # of this thread: one query is no work for more
        faiss.omp_set_num_threads(1)
    scores, places = scan.search(rotated, count)
    return places[0], scores[0]


def _place(position: int) -> tuple[int, int]:
    """Return which scan has a position, and where in it."""
    turn, rest = divmod(position, _TURN)
    return turn % _SCANS, turn // _SCANS * _TURN + rest


def _places(positions: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The same, of many."""
    turn, rest = np.divmod(positions, _TURN)
    return turn % _SCANS, turn // _SCANS * _TURN + rest


def _positions(which: int, places: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the positions of places in a scan; -1 for -1."""
    turn, rest = np.divmod(places, _TURN)
    return np.where(places < 0, -1, (turn * _SCANS + which) * _TURN + rest)


def _overwrite(scan: Any, places: NDArray[np.int64], row: NDArray[np.uint8]) -> int:
    """Put other numbers beside the signs of some rows; return how many had others."""
    blocks = _memory(scan).reshape(-1, scan.get_block_stride())
    factors = blocks[:, -_FACTOR_BYTES * _BLOCK :]
    lanes = (places % _BLOCK)[:, None] * _FACTOR_BYTES + np.arange(_FACTOR_BYTES)
    at = places[:, None] // _BLOCK
    was = factors[at, lanes]
    factors[at, lanes] = row
    return int((was != row).any(axis=1).sum())


def _memory(index: Any) -> NDArray[np.uint8]:
    """Return the blocks of an index, writable, until it grows."""
    import faiss

    memory: NDArray[np.uint8] = faiss.rev_swig_ptr(index.codes.get(), index.codes.size())
    return memory


def _write(index: Any, block: int, packed: NDArray[np.uint8], count: int) -> None:
    """Put blocks into an index from `block` on; it holds `count` rows then."""
    start = block * packed.shape[1]
    index.codes.resize(start + packed.size)
    _memory(index)[start:] = packed.reshape(-1)
    index.ntotal = count
    index.ntotal2 = (count + _BLOCK - 1) // _BLOCK * _BLOCK


def _pack(rows: NDArray[np.uint8], dimension: int) -> NDArray[np.uint8]:
    """Return codes (rows, code_bytes) as blocks of 32 for a fast scan: bytes of signs lane by lane,
    two rows in each, then the numbers of all rows.
    """
    blocks = (len(rows) + _BLOCK - 1) // _BLOCK
    padded = np.zeros((blocks * _BLOCK, rows.shape[1]), np.uint8)
    padded[: len(rows)] = rows
    by_block = padded.reshape(blocks, _BLOCK, -1)
    sign_bytes = (dimension + 7) // 8
    signs = np.ascontiguousarray(by_block[:, :, :sign_bytes].transpose(0, 2, 1))
    first, second = signs[:, :, _LANES], signs[:, :, _LANES + 16]
    packed = np.empty((blocks, (sign_bytes + _FACTOR_BYTES) * _BLOCK), np.uint8)
    halves = packed[:, : sign_bytes * _BLOCK].reshape(blocks, sign_bytes, _BLOCK)
    halves[:, :, :16] = (first & 15) | (second << 4)
    halves[:, :, 16:] = (first >> 4) | (second & 0xF0)
    packed[:, sign_bytes * _BLOCK :] = by_block[:, :, sign_bytes:].reshape(blocks, -1)
    return packed
