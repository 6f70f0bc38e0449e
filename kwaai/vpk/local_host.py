"""A host that is this process: one tenant's view of a `HostStore`, without a network.

The same calls as to an eve over links (`kwaai.vpk.types.Host`), made in two threads, so that reads
do not wait for writes. docs/storage.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, ParamSpec, TypeVar

from kwaai import limits
from kwaai.vpk.host_store import HostStore
from kwaai.vpk.types import HostUsage, Object, PirTable

HERE: Final = "here"

_P = ParamSpec("_P")
_T = TypeVar("_T")


class LocalHost:
    """One tenant at this machine's own store. Implements `Host`. `close` leaves the store open."""

    def __init__(self, store: HostStore, tenant: bytes) -> None:
        """`tenant` has been made in the store (`HostStore.create_tenant`)."""
        self._store = store
        self._tenant = tenant
        self._reads = ThreadPoolExecutor(1, thread_name_prefix="storage-read")
        self._writes = ThreadPoolExecutor(1, thread_name_prefix="storage-write")

    @property
    def id(self) -> str:
        return HERE

    async def put(self, base: bytes, objects: Sequence[Object]) -> None:
        for part in _parts(objects):
            await self._write(self._store.put, self._tenant, base, part)

    async def get(self, base: bytes, ids: Sequence[bytes]) -> list[bytes | None]:
        return await self._read(self._store.get, self._tenant, base, ids)

    async def delete(self, base: bytes, ids: Sequence[bytes]) -> int:
        count = 0
        for start in range(0, len(ids), limits.STORAGE_OBJECTS_MAX):
            part = ids[start : start + limits.STORAGE_OBJECTS_MAX]
            count += await self._write(self._store.delete, self._tenant, base, part)
        await self._tidy()
        return count

    async def list_ids(self, base: bytes, after: bytes, count: int) -> list[bytes]:
        return await self._read(self._store.list_ids, self._tenant, base, after, count)

    async def put_manifest(self, base: bytes, sequence: int, data: bytes) -> None:
        await self._write(self._store.put_manifest, self._tenant, base, sequence, data)

    async def get_manifest(self, base: bytes) -> bytes | None:
        return await self._read(self._store.get_manifest, self._tenant, base)

    async def bases(self) -> list[bytes]:
        return await self._read(self._store.bases, self._tenant)

    async def drop_base(self, base: bytes) -> None:
        await self._write(self._store.drop_base, self._tenant, base)
        await self._tidy()

    async def usage(self) -> HostUsage:
        return await self._read(self._store.usage, self._tenant)

    async def pir_table(self, base: bytes, row_bytes: int) -> PirTable:
        return await self._read(self._store.pir_table, self._tenant, base, row_bytes)

    async def pir(self, base: bytes, table: PirTable, masks: Sequence[bytes]) -> list[bytes]:
        return await self._read(self._store.pir, self._tenant, base, table, masks)

    async def prove(self, base: bytes, object_id: bytes, challenge: bytes) -> bytes:
        return await self._read(self._store.prove, self._tenant, base, object_id, challenge)

    async def close(self) -> None:
        """Wait for what is under way, and take no more. Idempotent."""
        for pool in (self._reads, self._writes):
            await asyncio.to_thread(pool.shutdown)

    async def _tidy(self) -> None:
        while await self._write(self._store.tidy):
            pass

    async def _read(self, work: Callable[_P, _T], *args: _P.args, **options: _P.kwargs) -> _T:
        return await asyncio.wrap_future(self._reads.submit(work, *args, **options))

    async def _write(self, work: Callable[_P, _T], *args: _P.args, **options: _P.kwargs) -> _T:
        return await asyncio.wrap_future(self._writes.submit(work, *args, **options))


def _parts(objects: Sequence[Object]) -> Iterator[Sequence[Object]]:
    """Cut into transactions of a bounded number of objects and of bytes."""
    whole = sum([len(data) for _, data in objects])
    if whole <= limits.STORAGE_PUT_BYTES_MAX and 1 <= len(objects) <= limits.STORAGE_OBJECTS_MAX:
        yield objects
        return
    start, nbytes = 0, 0
    for at, (_, data) in enumerate(objects):
        is_full = nbytes + len(data) > limits.STORAGE_PUT_BYTES_MAX
        if at > start and (is_full or at - start >= limits.STORAGE_OBJECTS_MAX):
            yield objects[start:at]
            start, nbytes = at, 0
        nbytes += len(data)
    if objects:
        yield objects[start:]
