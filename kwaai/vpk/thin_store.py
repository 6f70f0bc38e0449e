"""Cells at hosts: bob seals and puts them, and a thin client searches with centroids alone.

The client needs the base's keys, its newest manifest, and hosts; it keeps neither codes nor texts.
Rows that were added after the cells were made are not found until they are made again; rows that
were removed since are left out. Which cells are read together is seen by hosts. docs/vpk.md.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeGuard

import numpy as np

from kwaai.errors import FileCorrupt, RecordInvalid, ResourceError, SealBroken, UserError
from kwaai.limits import (
    THIN_CANDIDATES,
    THIN_CELLS_READ,
    THIN_CENTROID_BYTES_MAX,
    THIN_READ_ROWS,
    THIN_VECTOR_BYTES_MAX,
    VPK_FRAGMENTS_MAX,
)
from kwaai.vpk.codes import CodeIndex, exact
from kwaai.vpk.erasure import Coding
from kwaai.vpk.host_reads import Fetched, HostShare
from kwaai.vpk.host_set import HostSet
from kwaai.vpk.keys import CELL, TEXT, VECTOR, BaseKeys
from kwaai.vpk.manifest import Manifest
from kwaai.vpk.records import TextRecord, decode_vectors, parse_text
from kwaai.vpk.retrievability import tag
from kwaai.vpk.seal import OVERHEAD_BYTES, open_many, open_sealed, seal, seal_many
from kwaai.vpk.thin import ThinCells, ThinIndex, build
from kwaai.vpk.types import Object

if TYPE_CHECKING:
    from numpy.typing import NDArray

_GENERATION_BYTES: Final = 8
_PARAMS_BYTES: Final = 16
REF_BYTES: Final = 1 + _GENERATION_BYTES + 4 + _PARAMS_BYTES + 4 + 4 + 2
"""Of an encoded ThinRef."""
_VERSION: Final = 2
_WHOLE: Final = Coding(1, 1)
_CENTROIDS: Final = b"centroids"
_PUT: Final = 256


@dataclass(frozen=True, slots=True)
class ThinRef:
    """Which cells are there: what a manifest says of them."""

    generation: bytes
    """8 random bytes: cells that are made anew have new ids."""
    cells: int
    params: bytes
    """BLAKE2b-128 of the parameters of the codes."""
    rows: int = 0
    """That were in them when they were made."""
    centroids_bytes: int = 0
    """Of the centroids, sealed; 0: they were not put."""
    coding: Coding = _WHOLE
    """Of the centroids, at the hosts."""


@dataclass(frozen=True, slots=True)
class ThinHit:
    """A row that was found; `record` None where no host gave its text."""

    row: tuple[int, int]
    score: float
    record: TextRecord | None
    source: str = ""
    """Which host gave it."""


@dataclass(frozen=True, slots=True)
class ThinAnswer:
    """Best first."""

    hits: tuple[ThinHit, ...]
    payload_bytes: int
    missing: int
    """Cells, vectors and texts that no host gave."""
    candidates: int = 0
    """Rows of the cells whose vectors were asked for."""
    fetched: int = 0
    """Vectors of these that came."""
    shares: tuple[HostShare, ...] = ()
    """What each host was asked for, in the order of the stages."""
    stages_ms: tuple[tuple[str, float], ...] = ()
    """cells, vectors, passages."""
    problems: tuple[str, ...] = ()
    """What is missing and why, in sentences."""


def encode_ref(ref: ThinRef) -> bytes:
    """Return what a manifest carries (`Manifest.thin`)."""
    return b"".join(
        (
            bytes((_VERSION,)) + ref.generation,
            ref.cells.to_bytes(4, "big") + ref.params,
            ref.rows.to_bytes(4, "big") + ref.centroids_bytes.to_bytes(4, "big"),
            bytes((ref.coding.least, ref.coding.count)),
        )
    )


def parse_ref(data: bytes) -> ThinRef | None:
    """Read it; None where a base has no cells, or such as this program cannot read."""
    if len(data) != REF_BYTES or data[0] != _VERSION:
        return None
    least, count = data[-2:]
    if not 1 <= least <= count <= VPK_FRAGMENTS_MAX:
        return None
    at = 1 + _GENERATION_BYTES
    cells, rows, size = (
        int.from_bytes(data[start : start + 4], "big")
        for start in (at, at + 4 + _PARAMS_BYTES, at + 8 + _PARAMS_BYTES)
    )
    if cells > THIN_CENTROID_BYTES_MAX // 2:
        return None
    params = data[at + 4 : at + 4 + _PARAMS_BYTES]
    return ThinRef(data[1:at], cells, params, rows, size, Coding(least, count))


def _forget(_: ThinRef) -> None:
    """Note nothing."""


async def put_cells(
    hosts: HostSet,
    keys: BaseKeys,
    tenant: bytes,
    params: bytes,
    rows: NDArray[np.uint64],
    note: Callable[[ThinRef], None] = _forget,
) -> ThinRef:
    """Make cells of `rows` (n, 2: writer, number), whose vectors are read from the hosts, and put
    them there. `params`: of the base's codes. `note` is told before the first is put, in a thread:
    whoever remembers it can delete what a killed process leaves. Some 400 MB for 100,000 rows of
    384 dimensions, and half a minute.

    Raises ResourceError where vectors do not come, UserError (`build`), TooFewHosts, StorageFull.
    """
    codes = CodeIndex(params)
    if len(rows) * codes.dimension * 4 > THIN_VECTOR_BYTES_MAX:
        raise UserError(
            f"{len(rows)} passages of {codes.dimension} dimensions are too many for thin clients"
        )
    vectors = await _read_vectors(hosts, keys, tenant, params, rows)
    data = await asyncio.to_thread(codes.encode, vectors)
    index = await asyncio.to_thread(build, vectors, rows, data)
    ref = ThinRef(os.urandom(_GENERATION_BYTES), len(index.buckets), _digest(params), len(rows))
    await asyncio.to_thread(note, ref)
    return await _put(hosts, keys, tenant, ref, index)


async def _read_vectors(
    hosts: HostSet, keys: BaseKeys, tenant: bytes, params: bytes, rows: NDArray[np.uint64]
) -> NDArray[np.float32]:
    dimension = CodeIndex(params).dimension
    vectors = np.empty((len(rows), dimension), np.float32)
    opens = partial(open_many, keys, tenant, VECTOR)
    for start in range(0, len(rows), THIN_READ_ROWS):
        ids = keys.record_ids(VECTOR, rows[start : start + THIN_READ_ROWS])
        got = await hosts.get(keys.base, ids, opens)
        if got.missing:
            raise ResourceError(
                f"{len(got.missing)} vectors are at no host that answers: make cells later, or "
                "repair the base",
                retry_after_s=60.0,
            )
        records = [got.values[name] for name in ids]
        vectors[start : start + len(ids)] = decode_vectors(records, dimension)
    return vectors


async def _put(
    hosts: HostSet, keys: BaseKeys, tenant: bytes, ref: ThinRef, index: ThinIndex
) -> ThinRef:
    ids = cell_ids(keys, ref)
    for start in range(0, len(ids), _PUT):
        part = list(
            zip(ids[start : start + _PUT], index.buckets[start : start + _PUT], strict=True)
        )
        size = len(part[0][1]) + 1 + OVERHEAD_BYTES
        sealed = await asyncio.to_thread(seal_many, keys, tenant, CELL, part, size=size)
        await hosts.put(keys.base, sealed)
    name = centroids_id(keys, ref)
    blob = await asyncio.to_thread(seal, keys, tenant, CELL, name, index.centroids)
    coding = await hosts.put_large(
        keys.base, name, blob, tag=lambda part, data: tag(keys, part, data)
    )
    return replace(ref, centroids_bytes=len(blob), coding=coding)


async def delete_cells(hosts: HostSet, keys: BaseKeys, ref: ThinRef) -> bool:
    """Delete the cells of one generation at every host; say whether all hosts answered."""
    small = await hosts.delete(keys.base, cell_ids(keys, ref))
    large = await hosts.delete_large(keys.base, centroids_id(keys, ref))
    return not (small.away or large.away)


def cell_ids(keys: BaseKeys, ref: ThinRef) -> list[bytes]:
    """Return the ids of all buckets, in the order of the centroids."""
    return [
        keys.object_id(CELL, ref.generation + cell.to_bytes(4, "big")) for cell in range(ref.cells)
    ]


def centroids_id(keys: BaseKeys, ref: ThinRef) -> bytes:
    """Return the id of the centroids: a large object."""
    return keys.object_id(CELL, ref.generation + _CENTROIDS)


def is_current(ref: ThinRef | None, params: bytes) -> TypeGuard[ThinRef]:
    """Say whether there are cells, of codes with these parameters."""
    return ref is not None and ref.params == _digest(params)


async def fetch_centroids(
    hosts: HostSet, keys: BaseKeys, tenant: bytes, manifest: Manifest
) -> bytes:
    """Return the centroids. `manifest`: verified. Raises ResourceError for a base without cells, or
    with ones of older codes; TooFewHosts.
    """
    ref = parse_ref(manifest.thin)
    if not is_current(ref, manifest.params):
        raise ResourceError(
            f"{manifest.name} has no cells for thin clients, or outdated ones; on a device that "
            f"has all of it run: kwaainet rag thin {manifest.name}"
        )
    name = centroids_id(keys, ref)

    def opens(blob: bytes) -> bytes:
        plain = open_sealed(keys, tenant, CELL, name, blob)
        if len(plain) > THIN_CENTROID_BYTES_MAX + 64:
            raise SealBroken("centroids are larger than any")
        return plain

    return await hosts.get_large(keys.base, name, opens)


@dataclass(slots=True)
class _Search:
    """What one search has read so far."""

    payload_bytes: int = 0
    missing: int = 0
    candidates: int = 0
    fetched: int = 0
    shares: list[HostShare] = field(default_factory=list)
    stages: list[tuple[str, float]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def note(self, got: Fetched[Any], what: str, since_s: float) -> None:
        """Take a read in."""
        self.payload_bytes += got.payload_bytes
        self.missing += len(got.missing)
        self.shares += got.shares
        self.stages.append((what, (time.perf_counter() - since_s) * 1000.0))
        if got.missing:
            failed = "; ".join(f"{s.host}: {s.failure}" for s in got.shares if s.failure)
            count = len(got.missing) + len(got.values)
            said = f" ({failed})" if failed else ""
            self.problems.append(
                f"{len(got.missing)} of {count} {what} did not come from any host{said}"
            )

    def answer(self, hits: Sequence[ThinHit]) -> ThinAnswer:
        return ThinAnswer(
            tuple(hits),
            self.payload_bytes,
            self.missing,
            self.candidates,
            self.fetched,
            tuple(self.shares),
            tuple(self.stages),
            tuple(self.problems),
        )


class ThinReader:
    """Searches a base with its centroids alone. Made by `open`; belongs to one event loop."""

    def __init__(
        self, hosts: HostSet, keys: BaseKeys, tenant: bytes, manifest: Manifest, centroids: bytes
    ) -> None:
        self._hosts, self._keys, self._tenant = hosts, keys, tenant
        self._cells = ThinCells(centroids, manifest.params)
        self._dimension = CodeIndex(manifest.params).dimension
        self._removed = manifest.removed
        ref = parse_ref(manifest.thin)
        if ref is None or ref.cells != self._cells.cells:
            raise FileCorrupt("the centroids are not those that the manifest names")
        self._ids = cell_ids(keys, ref)

    @classmethod
    async def open(
        cls, hosts: HostSet, keys: BaseKeys, tenant: bytes, manifest: Manifest
    ) -> ThinReader:
        """Fetch the centroids. `manifest`: verified. Raises ResourceError for a base without cells,
        or with ones of older codes; TooFewHosts; FileCorrupt.
        """
        centroids = await fetch_centroids(hosts, keys, tenant, manifest)
        return cls(hosts, keys, tenant, manifest, centroids)

    async def search(
        self,
        query: NDArray[np.float32],
        k: int,
        *,
        cells: int = THIN_CELLS_READ,
        candidates: int = THIN_CANDIDATES,
    ) -> ThinAnswer:
        """Return the `k` rows nearest to `query` (dimension,) with their texts: always `cells`
        cells are read, then `candidates` vectors, then `k` texts. Raises UserError.
        """
        search = _Search()
        found = await self._scan(search, query, cells, candidates)
        if not len(found):
            return search.answer(())
        ids = self._keys.record_ids(VECTOR, found)
        records = await self._get(search, "vectors", ids, partial(self._open, VECTOR))
        came = [number for number, name in enumerate(ids) if name in records.values]
        search.candidates, search.fetched = len(ids), len(came)
        if not came:
            return search.answer(())
        vectors = decode_vectors([records.values[ids[n]] for n in came], self._dimension)
        order, scores = exact(query, vectors, k)
        best = found[np.asarray(came, np.int64)[order]]
        names = self._keys.record_ids(TEXT, best)
        texts = await self._get(search, "passages", names, self._open_texts)
        return search.answer(
            [
                ThinHit(
                    (int(row[0]), int(row[1])),
                    float(score),
                    texts.values.get(name),
                    texts.sources.get(name, ""),
                )
                for row, score, name in zip(best, scores, names, strict=True)
            ]
        )

    async def _scan(
        self, search: _Search, query: NDArray[np.float32], cells: int, count: int
    ) -> NDArray[np.uint64]:
        """Return the rows of the nearest cells that seem nearest, and are not removed."""
        near = await asyncio.to_thread(self._cells.nearest, query, cells)
        ids = [self._ids[cell] for cell in near]
        got = await self._get(search, "cells", ids, partial(self._open, CELL))
        buckets = list(got.values.values())
        rows, _ = await asyncio.to_thread(self._cells.candidates, query, buckets, 2 * count)
        return rows[~self._is_removed(rows)][:count]

    async def _get(
        self, search: _Search, what: str, ids: Sequence[bytes], opens: Callable[[list[Object]], Any]
    ) -> Fetched[Any]:
        began_s = time.perf_counter()
        got: Fetched[Any] = await self._hosts.get(self._keys.base, ids, opens)
        search.note(got, what, began_s)
        return got

    def _open(self, kind: int, objects: list[Object]) -> list[bytes]:
        return open_many(self._keys, self._tenant, kind, objects)

    def _open_texts(self, objects: list[Object]) -> list[TextRecord]:
        try:
            return [parse_text(plain) for plain in self._open(TEXT, objects)]
        except RecordInvalid as error:
            raise SealBroken(error.message) from error

    def _is_removed(self, rows: NDArray[np.uint64]) -> NDArray[np.bool_]:
        gone = np.zeros(len(rows), np.bool_)
        for run in self._removed:
            mine = rows[:, 0] == np.uint64(run.writer)
            numbers = rows[:, 1]
            gone |= mine & (numbers >= np.uint64(run.start)) & (numbers < np.uint64(run.stop))
        return gone


def _digest(params: bytes) -> bytes:
    return hashlib.blake2b(params, digest_size=_PARAMS_BYTES).digest()
