"""What a host keeps for its tenants: sealed objects and manifests by id, within quotas, in a file.

An eve's disk. Whoever calls has been allowed to (`kwaai.node.storage_service` for peers); what is
kept was sealed by tenants and means nothing here, so pages are plain. Every change is on the disk
when its method returns. A `HostStore` may be used from any thread; all methods block. One
connection writes and another reads, so that a search does not wait for somebody's ingest.
docs/storage.md.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import apsw

from kwaai import limits
from kwaai.errors import (
    DiskFull,
    FileCorrupt,
    ManifestConflict,
    ManifestInvalid,
    PeerRefused,
    StorageFull,
    StorageRefused,
)
from kwaai.sqlite import Database, create_database, open_database
from kwaai.vpk import host_rows as rows
from kwaai.vpk.host_rows import BaseRow, Tenant, charge_of
from kwaai.vpk.host_tables import KeptTable, PirTables
from kwaai.vpk.types import ID_BYTES, HostUsage, Object, PirTable

TENANT_BYTES = 32


@dataclass(frozen=True, slots=True)
class HostTotals:
    """What this host lends, and what is taken of it. Bytes."""

    tenants: int
    objects: int
    capacity_bytes: int
    used_bytes: int
    free_bytes: int
    """The less of what is left of the capacity and of the disk."""


class HostStore:
    """The objects of all tenants of this host. Made by `open`."""

    def __init__(
        self,
        path: Path,
        capacity_bytes: int,
        databases: tuple[Database, Database],
        clock: Callable[[], float],
        reserve_bytes: int,
    ) -> None:
        self.path = path
        self.capacity_bytes = capacity_bytes
        self._writer, self._reader = databases
        self._clock = clock
        self._reserve_bytes = reserve_bytes
        self._tables = PirTables()
        self._scanner: Database | None = None
        self._scanning = threading.Lock()

    @classmethod
    def open(
        cls,
        path: Path,
        capacity_bytes: int,
        *,
        clock: Callable[[], float] = time.time,
        reserve_bytes: int = limits.STORAGE_DISK_RESERVE_BYTES,
    ) -> HostStore:
        """Open the file, which is made where there is none. `capacity_bytes`: for all tenants;
        `reserve_bytes`: of the disk that is never taken. Raises ConfigError, FileCorrupt, Locked,
        DiskFull.
        """
        if not path.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            create_database(path)
        writer = open_database(path, rows.SCHEMA, None)
        try:
            with writer.outside() as connection:
                connection.pragma("journal_size_limit", limits.STORAGE_WAL_BYTES_MAX)
            reader = open_database(path, rows.SCHEMA, None)
            with reader.outside() as connection:
                connection.pragma("cache_size", -(limits.STORAGE_READ_CACHE_BYTES // 1024))
        except BaseException:
            writer.close()
            raise
        return cls(path, capacity_bytes, (writer, reader), clock, reserve_bytes)

    def close(self) -> None:
        """Close the file. Idempotent."""
        with self._scanning:
            if self._scanner is not None:
                self._scanner.close()
        self._reader.close()
        self._writer.close()
        self._tables.clear()

    # Tenants.

    def create_tenant(
        self, tenant: bytes, quota_bytes: int, *, name: str = "", owner: str = ""
    ) -> Tenant:
        """Make a tenant, or set the quota of one that is there. `tenant`: its public key; `owner`:
        the PeerId that asks. Raises StorageFull where the host has too many.
        """
        if len(tenant) != TENANT_BYTES or quota_bytes < 0:
            raise ValueError("a tenant is a key of 32 bytes, and its quota is not negative")
        with self._write() as connection:
            found = rows.find_tenant(connection, tenant)
            if found is not None:
                rows.set_quota(connection, found.number, quota_bytes)
            elif rows.totals(connection).tenants >= limits.STORAGE_TENANTS_MAX:
                raise StorageFull(f"this host has {limits.STORAGE_TENANTS_MAX} tenants already")
            else:
                shown = "".join(c for c in name if c.isprintable())
                rows.add_tenant(
                    connection,
                    tenant,
                    quota_bytes,
                    shown[: limits.STORAGE_NAME_CHARS_MAX],
                    owner,
                    int(self._clock()),
                )
            return _tenant(connection, tenant)

    def tenant(self, tenant: bytes) -> Tenant:
        """Return a tenant. Raises StorageRefused where it is none of this host's."""
        with self._reader.read() as connection:
            return _tenant(connection, tenant)

    def tenants(self) -> list[Tenant]:
        """Return all tenants, the oldest first."""
        with self._reader.read() as connection:
            return rows.list_tenants(connection)

    def delete_tenant(self, tenant: bytes) -> bool:
        """Forget a tenant and all that it has here. Idempotent: False where there was none."""
        with self._write() as connection:
            found = rows.find_tenant(connection, tenant)
            if found is not None:
                rows.drop_tenant(connection, found.number)
            return found is not None

    # Objects.

    def put(self, tenant: bytes, base: bytes, objects: Sequence[Object]) -> None:
        """Store objects, all or none; an id that is there is replaced. Raises StorageRefused,
        StorageFull (quota, capacity, disk) before anything is written.
        """
        _check_id(base)
        distinct = {_check_id(object_id): _check_object(data) for object_id, data in objects}
        with self._write() as connection:
            owner = _tenant(connection, tenant)
            kept = self._base_of(connection, owner, base)
            there = rows.sizes(connection, kept.number, list(distinct))
            count = len(distinct) - len(there)
            nbytes = sum(map(len, distinct.values())) - sum(there.values())
            nbytes += count * limits.STORAGE_OBJECT_CHARGE_BYTES
            self._check_room(connection, owner, nbytes)
            rows.put_objects(connection, kept.number, list(distinct.items()))
            rows.charge(connection, owner.number, kept.number, count, nbytes)

    def get(
        self,
        tenant: bytes,
        base: bytes,
        ids: Sequence[bytes],
        bytes_max: int | None = None,
    ) -> list[bytes | None]:
        """Return the objects in the order of `ids`, None for what is not held. With `bytes_max` the
        answer ends before the object that is too much, but has one at least: the caller sees it by
        the length, and asks again for the rest.
        """
        with self._reader.read() as connection:
            kept = rows.find_base(connection, _tenant(connection, tenant).number, base)
            found: dict[bytes, bytes] | None = {}
            if kept is not None:
                found = rows.get_objects(connection, kept.number, ids, bytes_max)
                if found is None and bytes_max is not None:
                    ids = _fitting(ids, rows.sizes(connection, kept.number, ids), bytes_max)
                    found = rows.get_objects(connection, kept.number, ids)
        found = found or {}
        objects = [found.get(object_id) for object_id in ids]
        return objects if bytes_max is None else _first_of(objects, bytes_max)

    def delete(self, tenant: bytes, base: bytes, ids: Sequence[bytes]) -> int:
        """Delete objects; return how many there were."""
        with self._write() as connection:
            owner = _tenant(connection, tenant)
            kept = rows.find_base(connection, owner.number, base)
            there = {} if kept is None else rows.sizes(connection, kept.number, ids)
            if kept is not None and there:
                rows.delete_objects(connection, kept.number, list(there))
                nbytes = sum(charge_of(size) for size in there.values())
                rows.charge(connection, owner.number, kept.number, -len(there), -nbytes)
            return len(there)

    def list_ids(self, tenant: bytes, base: bytes, after: bytes, count: int) -> list[bytes]:
        """Return up to `count` ids above `after` (b"": from the first), ascending."""
        count = min(count, limits.STORAGE_IDS_LISTED_MAX)
        with self._reader.read() as connection:
            kept = rows.find_base(connection, _tenant(connection, tenant).number, base)
            return [] if kept is None else rows.list_ids(connection, kept.number, after, count)

    # Bases and manifests.

    def put_manifest(self, tenant: bytes, base: bytes, sequence: int, data: bytes) -> None:
        """Replace a base's manifest by a later one; the same bytes again are taken. Raises
        ManifestConflict where another one has that number or a higher one, StorageRefused where the
        tenant did not sign this, StorageFull.
        """
        _check_id(base)
        _check_manifest(tenant, base, sequence, _check_object(data))
        with self._write() as connection:
            owner = _tenant(connection, tenant)
            kept = self._base_of(connection, owner, base)
            there = rows.find_manifest(connection, kept.number)
            if there is not None and there[1] == data:
                return
            if there is not None and there[0] >= sequence:
                conflict = ManifestConflict(
                    f"this base has manifest {there[0]} here already; take it in and publish "
                    f"{there[0] + 1}"
                )
                conflict.current = there[1]
                raise conflict
            nbytes = charge_of(len(data)) - (0 if there is None else charge_of(len(there[1])))
            self._check_room(connection, owner, nbytes)
            rows.put_manifest(connection, kept.number, sequence, data)
            rows.charge(connection, owner.number, kept.number, 0, nbytes)

    def get_manifest(self, tenant: bytes, base: bytes) -> bytes | None:
        """Return the newest manifest of a base; None where there is none."""
        with self._reader.read() as connection:
            kept = rows.find_base(connection, _tenant(connection, tenant).number, base)
            found = None if kept is None else rows.find_manifest(connection, kept.number)
            return None if found is None else found[1]

    def bases(self, tenant: bytes) -> list[bytes]:
        """Return the ids of a tenant's bases, ascending."""
        with self._reader.read() as connection:
            return rows.list_bases(connection, _tenant(connection, tenant).number)

    def drop_base(self, tenant: bytes, base: bytes) -> None:
        """Forget a base with its manifest and objects; `tidy` frees their space. Idempotent."""
        with self._write() as connection:
            rows.drop_base(connection, _tenant(connection, tenant).number, base)

    def usage(self, tenant: bytes) -> HostUsage:
        """Return what a tenant has here, and what is left for all."""
        with self._reader.read() as connection:
            owner = _tenant(connection, tenant)
            free = self._free_bytes(connection)
        return HostUsage(owner.objects, owner.used_bytes, owner.quota_bytes, free)

    def totals(self) -> HostTotals:
        """Return what all tenants have together."""
        with self._reader.read() as connection:
            found = rows.totals(connection)
            free = self._free_bytes(connection)
        used = found.used_bytes + found.dropped_bytes
        return HostTotals(found.tenants, found.objects, self.capacity_bytes, used, free)

    # What an owner asks besides.

    def pir_table(self, tenant: bytes, base: bytes, row_bytes: int) -> PirTable:
        """Return the table of the objects of `row_bytes` bytes. Raises PeerRefused where it is too
        large for this host's memory.
        """
        return self._table(tenant, base, row_bytes).table

    def pir(
        self, tenant: bytes, base: bytes, table: PirTable, masks: Sequence[bytes]
    ) -> list[bytes]:
        """Return for each mask the XOR of the rows that it names. Raises PeerRefused where the
        table is another one by now.
        """
        from kwaai.vpk.pir import answer

        kept = self._table(tenant, base, table.row_bytes)
        if kept.table != table:
            raise PeerRefused("the table has changed; ask for it again")
        return answer(kept.matrix, masks)

    def prove(self, tenant: bytes, base: bytes, object_id: bytes, challenge: bytes) -> bytes:
        """Prove that an object is held, by it and the tags that its owner put beside it. Raises
        PeerRefused where one of the two is not here.
        """
        from kwaai.vpk.retrievability import prove, tags_id

        wanted = [object_id, tags_id(object_id)]
        data, tags = self.get(tenant, base, wanted)
        if data is None or tags is None:
            raise PeerRefused("that object, or the tags for its proof, are not held here")
        return prove(data, tags, challenge)

    # The file.

    def tidy(self) -> bool:
        """Do one small piece of cleaning up: objects of dropped bases, then free pages back to the
        disk. Returns whether there may be more to do.
        """
        with self._write() as connection:
            if rows.sweep(connection, limits.STORAGE_SWEEP_OBJECTS):
                return True
        return self._writer.shrink(limits.STORAGE_VACUUM_PAGES, limits.STORAGE_FREE_PAGES_MIN)

    def check(self) -> HostTotals:
        """Read every page, and compare the counters with what is there. Raises FileCorrupt."""
        self._reader.check()
        with self._reader.read() as connection:
            wrong = rows.miscounted(connection)
        if wrong:
            raise FileCorrupt(
                f"the storage {self.path} does not add up ({'; '.join(wrong[:3])}); "
                f"{rows.SCHEMA.remedy}"
            )
        return self.totals()

    def _table(self, tenant: bytes, base: bytes, row_bytes: int) -> KeptTable:
        """Return a table, read by a connection of its own: that takes long, and other reads do not
        wait for it.
        """
        with self._reader.read() as connection:
            found = rows.find_base(connection, _tenant(connection, tenant).number, base)
        kept = self._tables.find(found, row_bytes)
        if kept is not None:
            return kept
        with self._scanning:
            if self._scanner is None:
                self._scanner = open_database(self.path, rows.SCHEMA, None)
        with self._scanner.read() as connection:
            found = rows.find_base(connection, _tenant(connection, tenant).number, base)
            return self._tables.find(found, row_bytes) or self._tables.load(
                connection, found, row_bytes
            )

    @contextlib.contextmanager
    def _write(self) -> Iterator[apsw.Connection]:
        try:
            with self._writer.write() as connection:
                yield connection
        except DiskFull as error:
            raise StorageFull(error.message) from error

    def _base_of(self, connection: apsw.Connection, owner: Tenant, base: bytes) -> BaseRow:
        found = rows.find_base(connection, owner.number, base)
        if found is not None:
            return found
        if rows.count_bases(connection, owner.number) >= limits.STORAGE_BASES_MAX:
            raise StorageFull(f"a tenant has up to {limits.STORAGE_BASES_MAX} bases at a host")
        return rows.add_base(connection, owner.number, base)

    def _check_room(self, connection: apsw.Connection, owner: Tenant, nbytes: int) -> None:
        if nbytes <= 0:
            return
        left = owner.quota_bytes - owner.used_bytes
        if nbytes > left:
            raise StorageFull(
                f"the quota of {owner.quota_bytes} bytes has {max(left, 0)} left, not {nbytes}"
            )
        free = self._free_bytes(connection)
        if nbytes > free:
            raise StorageFull(f"this host has {free} bytes left, not {nbytes}")

    def _free_bytes(self, connection: apsw.Connection) -> int:
        found = rows.totals(connection)
        lent = self.capacity_bytes - found.used_bytes - found.dropped_bytes
        disk = os.statvfs(self.path)
        return max(0, min(lent, disk.f_bavail * disk.f_frsize - self._reserve_bytes))


def _tenant(connection: apsw.Connection, key: bytes) -> Tenant:
    found = rows.find_tenant(connection, key)
    if found is None:
        raise StorageRefused("this tenant is not known here; make it: kwaainet vpk tenant create")
    return found


def _check_id(value: bytes) -> bytes:
    if len(value) != ID_BYTES:
        raise StorageRefused(f"an id has {ID_BYTES} bytes, not {len(value)}")
    return value


def _check_object(data: bytes) -> bytes:
    if not 0 < len(data) <= limits.STORAGE_OBJECT_BYTES_MAX:
        raise StorageRefused(
            f"an object has 1 to {limits.STORAGE_OBJECT_BYTES_MAX} bytes, not {len(data)}"
        )
    return data


def _check_manifest(tenant: bytes, base: bytes, sequence: int, data: bytes) -> None:
    from kwaai.vpk.manifest import check_manifest_header

    try:
        found = check_manifest_header(data, tenant, base)
    except ManifestInvalid as error:
        raise StorageRefused(error.message) from error
    if found != sequence:
        raise StorageRefused(f"the manifest has number {found}, and was sent as {sequence}")


def _fitting(ids: Sequence[bytes], sizes: Mapping[bytes, int], bytes_max: int) -> list[bytes]:
    """Return the first ids whose objects have no more than `bytes_max` together; one at least."""
    total = 0
    for index, object_id in enumerate(ids):
        total += sizes.get(object_id, 0)
        if total > bytes_max and index:
            return list(ids[:index])
    return list(ids)


def _first_of(objects: list[bytes | None], bytes_max: int) -> list[bytes | None]:
    total = 0
    for index, data in enumerate(objects):
        total += 0 if data is None else len(data)
        if total > bytes_max and index:
            return objects[:index]
    return objects
