"""What sealed search is measured against: the same vectors in faiss, flat and HNSW, and in chroma.

Each runs in a process of its own (`bench_vpk_worker`), so that its memory is its own.
"""

from __future__ import annotations

import importlib
import importlib.util
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil
from numpy.typing import NDArray

from kwaai.node.bench_vpk_data import RECALL_AT, VpkData, recall

_HNSW_LINKS: Final = 32
_HNSW_BUILD: Final = 200
_HNSW_SEARCH: Final = 128
_CHROMA_BATCH: Final = 5000
_WARM: Final = 20


def plain_methods() -> tuple[str, ...]:
    """Return what can be measured here."""
    chroma = ("chroma",) if importlib.util.find_spec("chromadb") else ()
    return ("flat", "hnsw", *chroma)


def measure_plain(method: str, data: VpkData, directory: Path) -> dict[str, Any]:
    """Return a row of the report. Blocks for up to minutes."""
    return _METHODS[method](data, directory)


def memory_mb() -> float:
    """Return what this process has in memory, without pages of files where the system tells."""
    now = psutil.Process().memory_info()
    return float((now.rss - getattr(now, "shared", 0)) / 1e6)


def disk_mb(path: Path) -> float:
    """Return the size of a file, or of all files in a folder."""
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return sum(file.stat().st_size for file in files) / 1e6


def latencies(seconds: Sequence[float]) -> dict[str, float]:
    """Return percentiles, and how many a second that makes one after the other."""
    return {
        "p50_ms": 1e3 * float(np.percentile(seconds, 50)),
        "p99_ms": 1e3 * float(np.percentile(seconds, 99)),
        "queries_s": len(seconds) / sum(seconds),
    }


def _timed(
    search: Callable[[NDArray[np.float32]], Sequence[int]], data: VpkData
) -> dict[str, float]:
    for query in data.queries[:_WARM]:
        search(query)
    seconds, found = [], []
    for query in data.queries:
        started = time.perf_counter()
        got = search(query)
        seconds.append(time.perf_counter() - started)
        found.append(got)
    return {"recall_at_10": recall(data.truth, found), **latencies(seconds)}


def _faiss(index: Any, name: str, data: VpkData, directory: Path) -> dict[str, Any]:
    faiss = importlib.import_module("faiss")
    before = memory_mb()
    started = time.perf_counter()
    for start in range(0, len(data.vectors), 8192):
        index.add(np.ascontiguousarray(data.vectors[start : start + 8192]))
    built_s = time.perf_counter() - started
    used = memory_mb() - before
    path = directory / f"{name}.faiss"
    faiss.write_index(index, str(path))
    started = time.perf_counter()
    faiss.read_index(str(path))
    opened_s = time.perf_counter() - started
    faiss.omp_set_num_threads(1)
    searched = _timed(lambda query: index.search(query[None], RECALL_AT)[1][0].tolist(), data)
    return {
        "method": name,
        "vectors_s": len(data.vectors) / built_s,
        **searched,
        "memory_mb": used,
        "disk_mb": disk_mb(path),
        "open_ms": 1e3 * opened_s,
    }


def _flat(data: VpkData, directory: Path) -> dict[str, Any]:
    faiss = importlib.import_module("faiss")
    index = faiss.IndexFlatIP(data.vectors.shape[1])
    return _faiss(index, "faiss flat", data, directory)


def _hnsw(data: VpkData, directory: Path) -> dict[str, Any]:
    faiss = importlib.import_module("faiss")
    index = faiss.IndexHNSWFlat(data.vectors.shape[1], _HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction, index.hnsw.efSearch = _HNSW_BUILD, _HNSW_SEARCH
    return _faiss(index, "faiss HNSW", data, directory)


def _chroma(data: VpkData, directory: Path) -> dict[str, Any]:
    chromadb = importlib.import_module("chromadb")
    before = memory_mb()
    path = directory / "chroma"
    settings = chromadb.config.Settings(anonymized_telemetry=False)
    client = chromadb.PersistentClient(path=str(path), settings=settings)
    collection = client.create_collection("bench", metadata={"hnsw:space": "cosine"})
    started = time.perf_counter()
    for start in range(0, len(data.vectors), _CHROMA_BATCH):
        part = np.array(data.vectors[start : start + _CHROMA_BATCH])
        ids = [str(start + i) for i in range(len(part))]
        collection.add(ids=ids, embeddings=part)
    built_s = time.perf_counter() - started

    def search(query: NDArray[np.float32]) -> list[int]:
        got = collection.query(query_embeddings=[query], n_results=RECALL_AT, include=[])
        return [int(name) for name in got["ids"][0]]

    row = _timed(search, data)
    return {
        "method": "chroma",
        "vectors_s": len(data.vectors) / built_s,
        **row,
        "memory_mb": memory_mb() - before,
        "disk_mb": disk_mb(path),
    }


_METHODS: Final = {"flat": _flat, "hnsw": _hnsw, "chroma": _chroma}
