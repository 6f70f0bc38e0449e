"""What `vpk bench` searches in: made-up or given vectors, queries, and what exact search finds.

Made-up ones are clusters of very different sizes in a few dimensions, with noise in all. How far
apart they lie was chosen so that one-bit codes alone find about as much as they do in real ones
(docs/benchmarks.md). Files of others are read without pickles.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from kwaai.errors import UserError
from kwaai.limits import VPK_BENCH_QUERIES_MAX, VPK_BENCH_VECTORS_MAX, VPK_DIMENSION_MAX

if TYPE_CHECKING:
    from numpy.typing import NDArray

RECALL_AT: Final = 10
_TOPICS: Final = 1000
_TOPIC_DIMENSIONS: Final = 64
_WITHIN: Final = 1.2
"""Spread of a topic, where topics are 1 apart in each dimension."""
_NOISE: Final = 0.15
_PART: Final = 65_536


@dataclass(frozen=True, slots=True)
class VpkData:
    """Vectors (n, dimension) and queries (q, dimension), float32 of length 1."""

    source: str
    vectors: NDArray[np.float32]
    queries: NDArray[np.float32]
    truth: NDArray[np.int64]
    """(q, 10): the nearest vectors of each query."""

    def save(self, directory: Path) -> None:
        """Write what `load_saved` reads."""
        directory.mkdir(parents=True, exist_ok=True)
        for name in ("vectors", "queries", "truth"):
            np.save(directory / f"{name}.npy", getattr(self, name))


def load_saved(directory: Path) -> VpkData:
    """Read what was saved; the vectors stay on the disk until they are used."""
    vectors, queries, truth = (
        np.load(directory / f"{name}.npy", mmap_mode="r")
        for name in ("vectors", "queries", "truth")
    )
    return VpkData(directory.name, vectors, np.array(queries), np.array(truth))


def make_clustered(count: int, dimension: int, queries: int, seed: int = 1) -> VpkData:
    """Return made-up data: the same for the same seed."""
    rng = np.random.default_rng(seed)
    inner = min(_TOPIC_DIMENSIONS, dimension)
    axes = np.linalg.qr(rng.standard_normal((dimension, inner)))[0].T.astype(np.float32)
    topics = rng.standard_normal((_TOPICS, inner), dtype=np.float32)
    shares = 1.0 / np.arange(1, _TOPICS + 1)
    shares /= shares.sum()

    def draw(wanted: int) -> NDArray[np.float32]:
        drawn = np.empty((wanted, dimension), np.float32)
        for start in range(0, wanted, _PART):
            size = min(_PART, wanted - start)
            inside = topics[rng.choice(_TOPICS, size, p=shares)]
            inside = inside + _WITHIN * rng.standard_normal((size, inner), dtype=np.float32)
            part = _normalised(inside @ axes)
            noise = rng.standard_normal((size, dimension), dtype=np.float32)
            drawn[start : start + size] = _normalised(part + noise * (_NOISE / dimension**0.5))
        return drawn

    vectors, asked = draw(count), draw(queries)
    return VpkData("clustered", vectors, asked, nearest(vectors, asked))


def load_vectors(path: Path, count: int | None, queries: int) -> VpkData:
    """Read `.npz` with arrays `vectors` and `queries`, or `.npy`, whose last rows are the queries.
    Raises UserError.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            vectors, asked = loaded[:-queries], loaded[-queries:]
        else:
            vectors, asked = loaded["vectors"], loaded["queries"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: no arrays of vectors and queries ({error})") from error
    vectors, asked = _checked(path, vectors[:count]), _checked(path, asked[:queries])
    if vectors.shape[1] != asked.shape[1]:
        raise UserError(f"{path}: its queries have another dimension than its vectors")
    return VpkData(path.name, vectors, asked, nearest(vectors, asked))


def _checked(path: Path, rows: NDArray[np.float32]) -> NDArray[np.float32]:
    if rows.ndim != 2 or rows.dtype.kind != "f" or not 1 <= rows.shape[1] <= VPK_DIMENSION_MAX:
        raise UserError(f"{path}: vectors are rows of float32, up to {VPK_DIMENSION_MAX} in each")
    if not 1 <= len(rows) <= VPK_BENCH_VECTORS_MAX or not np.isfinite(rows).all():
        raise UserError(f"{path}: 1 to {VPK_BENCH_VECTORS_MAX} rows of finite numbers are wanted")
    return _normalised(np.ascontiguousarray(rows, np.float32))


def _normalised(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    unit: NDArray[np.float32] = rows / np.maximum(lengths, 1e-12)[:, None]
    return unit


def multiply(data: VpkData, times: int, seed: int = 1) -> VpkData:
    """Return `times` as many vectors: each, and jittered ones near it."""
    rng = np.random.default_rng(seed)
    count, dimension = data.vectors.shape
    if count * times > VPK_BENCH_VECTORS_MAX:
        raise UserError(f"at most {VPK_BENCH_VECTORS_MAX} vectors")
    vectors = np.empty((count * times, dimension), np.float32)
    vectors[:count] = data.vectors
    for copy in range(1, times):
        for start in range(0, count, _PART):
            part = data.vectors[start : start + _PART]
            jitter = rng.standard_normal(part.shape, dtype=np.float32) * (0.5 / dimension**0.5)
            at = copy * count + start
            vectors[at : at + len(part)] = _normalised(part + jitter)
    return VpkData(
        f"{data.source} x {times}", vectors, data.queries, nearest(vectors, data.queries)
    )


def nearest(vectors: NDArray[np.float32], queries: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the RECALL_AT nearest vectors of each query, exactly: (q, RECALL_AT)."""
    if len(queries) > VPK_BENCH_QUERIES_MAX:
        raise UserError(f"at most {VPK_BENCH_QUERIES_MAX} queries")
    most = min(RECALL_AT, len(vectors))
    best = np.full((len(queries), most), -np.inf, np.float32)
    which = np.zeros((len(queries), most), np.int64)
    for start in range(0, len(vectors), 8192):
        scores = queries @ vectors[start : start + 8192].T
        top = np.argpartition(-scores, min(most, scores.shape[1]) - 1, axis=1)[:, :most]
        best = np.concatenate((best, np.take_along_axis(scores, top, axis=1)), axis=1)
        which = np.concatenate((which, top + start), axis=1)
        keep = np.argsort(-best, axis=1, kind="stable")[:, :most]
        best, which = (
            np.take_along_axis(best, keep, axis=1),
            np.take_along_axis(which, keep, axis=1),
        )
    return which


def recall(truth: NDArray[np.int64], found: Sequence[Iterable[int]]) -> float:
    """Return the share of true neighbours that were found."""
    hits = sum(len(set(true.tolist()) & set(got)) for true, got in zip(truth, found, strict=True))
    return hits / truth.size
