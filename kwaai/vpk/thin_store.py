"""Cells at hosts: bob seals and puts them, and a thin client searches with centroids alone.

The client needs the base's keys, its newest manifest, and hosts; it keeps neither codes nor texts.
Rows that were added after the cells were made are not found until they are made again; rows that
were removed since are left out. Which cells are read together is seen by hosts. docs/vpk.md.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np

from kwaai.errors import FileCorrupt, ResourceError, SealBroken
from kwaai.limits import (
    THIN_CANDIDATES,
    THIN_CELLS_READ,
    THIN_CENTROID_BYTES_MAX,
    THIN_READ_ROWS,
)
from kwaai.vpk.codes import CodeIndex, exact
from kwaai.vpk.host_set import HostSet
from kwaai.vpk.keys import CELL, TEXT, VECTOR, BaseKeys
from kwaai.vpk.manifest import Manifest
from kwaai.vpk.records import TextRecord, decode_vectors, parse_text
from kwaai.vpk.seal import OVERHEAD_BYTES, open_many, open_sealed, seal, seal_many
from kwaai.vpk.thin import ThinCells, ThinIndex, build
from kwaai.vpk.types import Object

if TYPE_CHECKING:
    from numpy.typing import NDArray

_GENERATION_BYTES: Final = 8
_PARAMS_BYTES: Final = 16
_REF_BYTES: Final = 1 + _GENERATION_BYTES + 4 + _PARAMS_BYTES
_VERSION: Final = 1
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


@dataclass(frozen=True, slots=True)
class ThinHit:
    """A row that was found; `record` None where no host gave its text."""

    row: tuple[int, int]
    score: float
    record: TextRecord | None


@dataclass(frozen=True, slots=True)
class ThinAnswer:
    """Best first."""

    hits: tuple[ThinHit, ...]
    payload_bytes: int
    missing: int
    """Cells, vectors and texts that no host gave."""


def encode_ref(ref: ThinRef) -> bytes:
    """Return what a manifest carries (`Manifest.thin`)."""
    return bytes((_VERSION,)) + ref.generation + ref.cells.to_bytes(4, "big") + ref.params


def parse_ref(data: bytes) -> ThinRef | None:
    """Read it; None where a base has no cells, or such as this program cannot read."""
    if len(data) != _REF_BYTES or data[0] != _VERSION:
        return None
    start = 1 + _GENERATION_BYTES
    return ThinRef(data[1:start], int.from_bytes(data[start : start + 4], "big"), data[start + 4 :])


async def put_cells(
    hosts: HostSet, keys: BaseKeys, tenant: bytes, params: bytes, rows: NDArray[np.uint64]
) -> ThinRef:
    """Make cells of `rows` (n, 2: writer, number), whose vectors are read from the hosts, and put
    them there. `params`: of the base's codes. Some 150 MB for 100,000 rows, and ten seconds.

    Raises ResourceError where vectors do not come, UserError (`build`), TooFewHosts, StorageFull.
    """
    vectors = await _read_vectors(hosts, keys, tenant, params, rows)
    codes = CodeIndex(params)
    data = await asyncio.to_thread(codes.encode, vectors)
    index = await asyncio.to_thread(build, vectors, rows, data)
    ref = ThinRef(os.urandom(_GENERATION_BYTES), len(index.buckets), _digest(params))
    await _put(hosts, keys, tenant, ref, index)
    return ref


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
) -> None:
    ids = cell_ids(keys, ref)
    for start in range(0, len(ids), _PUT):
        part = list(
            zip(ids[start : start + _PUT], index.buckets[start : start + _PUT], strict=True)
        )
        size = len(part[0][1]) + 1 + OVERHEAD_BYTES
        sealed = await asyncio.to_thread(seal_many, keys, tenant, CELL, part, size=size)
        await hosts.put(keys.base, sealed)
    name = centroids_id(keys, ref)
    await hosts.put_large(keys.base, name, seal(keys, tenant, CELL, name, index.centroids))


async def delete_cells(hosts: HostSet, keys: BaseKeys, ref: ThinRef) -> None:
    """Delete the cells of one generation at every host."""
    await hosts.delete(keys.base, cell_ids(keys, ref))
    await hosts.delete_large(keys.base, centroids_id(keys, ref))


def cell_ids(keys: BaseKeys, ref: ThinRef) -> list[bytes]:
    """Return the ids of all buckets, in the order of the centroids."""
    return [
        keys.object_id(CELL, ref.generation + cell.to_bytes(4, "big")) for cell in range(ref.cells)
    ]


def centroids_id(keys: BaseKeys, ref: ThinRef) -> bytes:
    """Return the id of the centroids: a large object."""
    return keys.object_id(CELL, ref.generation + _CENTROIDS)


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
        ref = parse_ref(manifest.thin)
        if ref is None or ref.params != _digest(manifest.params):
            raise ResourceError(
                "this base has no cells for thin clients, or outdated ones: have the device that "
                "writes it make them"
            )
        name = centroids_id(keys, ref)
        most = THIN_CENTROID_BYTES_MAX + 64

        def opens(blob: bytes) -> bytes:
            plain = open_sealed(keys, tenant, CELL, name, blob)
            if len(plain) > most:
                raise SealBroken("centroids are larger than any")
            return plain

        centroids = await hosts.get_large(keys.base, name, opens)
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
        near = self._cells.nearest(query, cells)
        buckets, nbytes, missing = await self._get(CELL, [self._ids[cell] for cell in near])
        rows, _ = self._cells.candidates(query, list(buckets.values()), 2 * candidates)
        rows = rows[~self._is_removed(rows)][:candidates]
        if not len(rows):
            return ThinAnswer((), nbytes, missing)
        ids = self._keys.record_ids(VECTOR, rows)
        records, more, lacking = await self._get(VECTOR, ids)
        came = [number for number, name in enumerate(ids) if name in records]
        vectors = decode_vectors([records[ids[number]] for number in came], self._dimension)
        order, scores = exact(query, vectors, k)
        best = rows[np.asarray(came, np.int64)[order]]
        names = self._keys.record_ids(TEXT, best)
        texts, most, absent = await self._get(TEXT, names)
        hits = tuple(
            ThinHit(
                (int(row[0]), int(row[1])),
                float(score),
                parse_text(texts[name]) if name in texts else None,
            )
            for row, score, name in zip(best, scores, names, strict=True)
        )
        return ThinAnswer(hits, nbytes + more + most, missing + lacking + absent)

    async def _get(self, kind: int, ids: Sequence[bytes]) -> tuple[dict[bytes, bytes], int, int]:
        opens: Callable[[list[Object]], list[bytes]] = partial(
            open_many, self._keys, self._tenant, kind
        )
        got = await self._hosts.get(self._keys.base, ids, opens)
        return got.values, got.payload_bytes, len(got.missing)

    def _is_removed(self, rows: NDArray[np.uint64]) -> NDArray[np.bool_]:
        gone = np.zeros(len(rows), np.bool_)
        for run in self._removed:
            mine = rows[:, 0] == np.uint64(run.writer)
            numbers = rows[:, 1]
            gone |= mine & (numbers >= np.uint64(run.start)) & (numbers < np.uint64(run.stop))
        return gone


def _digest(params: bytes) -> bytes:
    return hashlib.blake2b(params, digest_size=_PARAMS_BYTES).digest()
