"""Bob's part of `vpk bench`: a base in his process, its objects here or at eves; what it costs him.

Runs in a process of its own (`bench_vpk_worker`), so that memory and starts are told apart.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from kwaai.limits import GIB
from kwaai.node.bench_vpk_data import RECALL_AT, VpkData, load_saved, recall
from kwaai.node.bench_vpk_eve import Eve, remote_hosts
from kwaai.node.bench_vpk_plain import disk_mb, latencies, memory_mb
from kwaai.vpk.base import Base
from kwaai.vpk.host_set import HostSet
from kwaai.vpk.host_store import HostStore
from kwaai.vpk.keys import VECTOR, RootKey
from kwaai.vpk.leakage import Leakage, measure_leakage
from kwaai.vpk.local_host import LocalHost
from kwaai.vpk.members import Member
from kwaai.vpk.query import Query
from kwaai.vpk.types import BaseMode, EmbedderSpec, Host

_BATCH: Final = 8192
_WARM: Final = 20
_CAPACITY_BYTES: Final = 64 * GIB


@dataclass(frozen=True, slots=True)
class BobTask:
    """What bob shall do, as it travels to his process."""

    directory: str
    data: str
    root: str
    """Hex digits of his root key."""
    eves: tuple[Eve, ...] = ()
    """None: his own machine keeps the objects."""
    replicas: int = 1
    candidates: int = 100
    mode: BaseMode = "sealed"
    leakage: bool = False

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> BobTask:
        """Return what `asdict` made JSON of."""
        return cls(**{**values, "eves": tuple(Eve(**eve) for eve in values["eves"])})


@dataclass(slots=True)
class _Watched:
    """A host, and what it was asked for: what an eve sees."""

    host: Host
    asked: list[bytes] = field(default_factory=list)

    @property
    def id(self) -> str:
        return self.host.id

    async def get(self, base: bytes, ids: Sequence[bytes]) -> list[bytes | None]:
        self.asked += ids
        return await self.host.get(base, ids)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.host, name)


@contextlib.asynccontextmanager
async def _hosts(task: BobTask, root: RootKey) -> AsyncIterator[list[_Watched]]:
    tenant = root.tenant()
    if task.eves:
        async with remote_hosts(task.eves, tenant) as hosts:
            yield [_Watched(host) for host in hosts]
        return
    path = Path(task.directory) / "host" / "objects.db"
    path.parent.mkdir(parents=True, exist_ok=True)
    store = HostStore.open(path, _CAPACITY_BYTES, reserve_bytes=0)
    try:
        store.create_tenant(tenant.public.raw, _CAPACITY_BYTES)
        host = LocalHost(store, tenant.public.raw)
        yield [_Watched(host)]
    finally:
        store.close()


def _host_set(task: BobTask, watched: Sequence[_Watched]) -> HostSet:
    members = [Member(host, host.id, trusted=True) for host in watched]
    return HostSet(members, replicas=min(task.replicas, len(members)))


async def ingest_and_search(task: BobTask) -> dict[str, Any]:
    """Make a base of the data, publish it, and search it. Returns a row of the report."""
    data, root = _load(task), RootKey(bytes.fromhex(task.root))
    dimension = data.vectors.shape[1]
    async with _hosts(task, root) as watched:
        before = memory_mb()
        base = await Base.create(
            Path(task.directory) / "base",
            root,
            "bench",
            hosts=_host_set(task, watched),
            mode=task.mode,
            embedder=EmbedderSpec("bench", "", dimension, True),
        )
        try:
            row = await _ingest(base, data)
            searched, writer = await _search(base, data, task, watched)
            row |= searched
            row["memory_mb"] = memory_mb() - before
            row["bob_disk_mb"] = disk_mb(Path(task.directory) / "base")
            if task.leakage:
                row["leakage"] = asdict(
                    await asyncio.to_thread(_leakage, base, data, root, writer, watched)
                )
        finally:
            base.close()
    return row


async def _ingest(base: Base, data: VpkData) -> dict[str, Any]:
    started = time.perf_counter()
    for start in range(0, len(data.vectors), _BATCH):
        await base.add_vectors(np.array(data.vectors[start : start + _BATCH]))
    stored_s = time.perf_counter() - started
    await base.publish()
    published_s = time.perf_counter() - started - stored_s
    return {"vectors_s": len(data.vectors) / stored_s, "publish_s": published_s}


async def _search(
    base: Base, data: VpkData, task: BobTask, watched: Sequence[_Watched]
) -> tuple[dict[str, Any], int]:
    """Return figures, and who wrote the rows that were found."""
    for number in range(min(_WARM, len(data.queries))):
        await base.search(_query(data, number, task.candidates))
    for host in watched:
        host.asked.clear()
    seconds, found, sizes, degraded, writer = [], [], [], 0, 0
    for number in range(len(data.queries)):
        started = time.perf_counter()
        answer = await base.search(_query(data, number, task.candidates))
        seconds.append(time.perf_counter() - started)
        found.append([hit.row[1] for hit in answer.hits])
        writer = answer.hits[0].row[0] if answer.hits else writer
        sizes.append(answer.explain.payload_bytes)
        degraded += bool(answer.degraded)
        for host in watched:
            host.asked.append(b"")  # the end of a query
    row = {
        "recall_at_10": recall(data.truth, found),
        **latencies(seconds),
        "kb_a_query": float(np.mean(sizes)) / 1e3,
        "index_mb": base.stats().index_bytes / 1e6,
        "poorer_answers": degraded,
    }
    return row, writer


def _query(data: VpkData, number: int, candidates: int) -> Query:
    """Return one query, of vectors alone: the data have no texts that hosts could be asked for."""
    return Query(
        vector=data.queries[number],
        k=RECALL_AT,
        candidates=candidates,
        fulltext=False,
        passages=False,
    )


def _leakage(
    base: Base, data: VpkData, root: RootKey, writer: int, watched: Sequence[_Watched]
) -> Leakage:
    """Say what the hosts saw of the queries, as rows of the data."""
    count = len(data.vectors)
    rows = np.empty((count, 2), np.uint64)
    rows[:, 0], rows[:, 1] = writer, np.arange(count)
    row_of = {name: row for row, name in enumerate(root.base(base.id).record_ids(VECTOR, rows))}
    queries: list[dict[str, list[int]]] = [{} for _ in data.queries]
    for host in watched:
        number = 0
        for name in host.asked:
            if not name:
                number += 1
            elif name in row_of:
                queries[number].setdefault(host.id, []).append(row_of[name])
    return measure_leakage(queries, np.asarray(data.vectors))


async def open_and_search(task: BobTask) -> dict[str, Any]:
    """Open the base that is there, and search it once, as a program that was just started does."""
    data, root = _load(task), RootKey(bytes.fromhex(task.root))
    async with _hosts(task, root) as watched:
        hosts = _host_set(task, watched)
        await hosts.usage()  # links are up
        started = time.perf_counter()
        base = await Base.open(Path(task.directory) / "base", root, hosts)
        opened_s = time.perf_counter() - started
        try:
            await base.search(_query(data, 0, task.candidates))
        finally:
            base.close()
        first_s = time.perf_counter() - started
    return {"open_ms": 1e3 * opened_s, "first_answer_ms": 1e3 * first_s}


def _load(task: BobTask) -> VpkData:
    return load_saved(Path(task.data))
