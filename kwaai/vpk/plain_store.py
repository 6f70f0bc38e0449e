"""Plain vectors of this machine's own programs: exact search, encrypted on the disk.

What `kwaainet storage serve` keeps for programs that speak the reference network's HTTP routes. Not
what a host keeps for others (`kwaai.vpk.host_store`): vectors are readable in memory here, so it is
offered to this machine only. Scores are cosines, exact, over all vectors of a tenant. May be used
from any thread; all methods block. docs/storage.md.
"""

from __future__ import annotations

import itertools
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import apsw

from kwaai import limits
from kwaai.errors import StorageFull, TenantMissing, UserError
from kwaai.sqlite import Database, Schema, create_database, open_database
from kwaai.vpk.plain_search import Matrix, encode_rows, join, nearest, read_rows, unit_of

_TABLES: Final = """
CREATE TABLE tenants (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    peer TEXT NOT NULL,
    name TEXT,
    capacity_mb INTEGER NOT NULL,
    dimension INTEGER NOT NULL,
    created_s INTEGER NOT NULL,
    changes INTEGER NOT NULL,
    vectors INTEGER NOT NULL
) STRICT;
CREATE TABLE vectors (
    row INTEGER PRIMARY KEY,
    tenant INTEGER NOT NULL,
    id INTEGER NOT NULL,
    data BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX vector_ids ON vectors (tenant, id);
"""

SCHEMA: Final = Schema(
    what="vector store",
    application_id=0x6B777073,  # "kwps"
    migrations=(_TABLES,),
    remedy="restore it from a backup, or remove it: kwaainet storage destroy",
    busy_s=limits.STORAGE_BUSY_S,
    cache_bytes=limits.STORAGE_PLAIN_CACHE_BYTES,
    auto_vacuum="incremental",
)

_ENTRY_BYTES: Final = 24
"""That a vector is charged beside its numbers, as in the reference network."""
_MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class PlainTenant:
    """A program's collection of vectors."""

    id: str
    """A UUID."""
    peer: str
    """What the program said of itself."""
    name: str | None
    capacity_mb: int
    """MiB that its vectors may take."""
    dimension: int
    created_s: int
    vectors: int
    number: int
    changes: int

    @property
    def used_bytes(self) -> int:
        return self.vectors * self.vector_bytes

    @property
    def vector_bytes(self) -> int:
        return 4 * self.dimension + _ENTRY_BYTES


@dataclass(frozen=True, slots=True)
class PlainTotals:
    """What all tenants together have."""

    tenants: int
    vectors: int
    used_bytes: int


class PlainStore:
    """The vectors of all local programs. Made by `open`."""

    def __init__(self, database: Database, capacity_bytes: int, clock: Callable[[], float]) -> None:
        self._database, self._capacity_bytes, self._clock = database, capacity_bytes, clock
        self._kept: OrderedDict[int, tuple[int, Matrix]] = OrderedDict()
        self._lock = threading.Lock()

    @classmethod
    def open(
        cls,
        path: Path,
        key: bytes,
        capacity_bytes: int,
        *,
        clock: Callable[[], float] = time.time,
    ) -> PlainStore:
        """Open the file, which is made where there is none, under a key of 32 bytes. Raises
        ConfigError, FileCorrupt, Locked, DiskFull.
        """
        if not path.exists():
            create_database(path)
        store = cls(open_database(path, SCHEMA, key), capacity_bytes, clock)
        while store.tidy():  # what a kill left behind
            pass
        return store

    def close(self) -> None:
        """Close the file. Idempotent."""
        with self._lock:
            self._kept.clear()
        self._database.close()

    def check(self) -> PlainTotals:
        """Read every page. Raises FileCorrupt."""
        self._database.check()
        return self.totals()

    def totals(self) -> PlainTotals:
        with self._database.read() as connection:
            return _totals(connection)

    # Tenants.

    def create_tenant(
        self, peer: str, *, name: str | None, capacity_mb: int, dimension: int
    ) -> PlainTenant:
        """Make a tenant. Raises StorageFull where its capacity is not there, or too many are."""
        tenant_id = str(uuid.uuid4())
        with self._database.write() as connection:
            if _totals(connection).tenants >= limits.STORAGE_PLAIN_TENANTS_MAX:
                raise StorageFull(
                    f"there are {limits.STORAGE_PLAIN_TENANTS_MAX} tenants already; delete some"
                )
            promised = connection.execute("SELECT coalesce(sum(capacity_mb), 0) FROM tenants").get
            if (promised + capacity_mb) * _MIB > self._capacity_bytes:
                raise StorageFull(
                    f"{capacity_mb} MB are not left of {self._capacity_bytes // _MIB}, of which "
                    f"{promised} are promised; see storage_capacity_gb"
                )
            connection.execute(
                "INSERT INTO tenants (id, peer, name, capacity_mb, dimension, created_s, changes,"
                " vectors) VALUES (?, ?, ?, ?, ?, ?, 0, 0)",
                (tenant_id, peer, name, capacity_mb, dimension, int(self._clock())),
            )
            return _tenant(connection, tenant_id)

    def tenants(self) -> list[PlainTenant]:
        """Return all tenants, the oldest first."""
        with self._database.read() as connection:
            found = connection.execute(f"SELECT {_COLUMNS} FROM tenants ORDER BY number")
            return [PlainTenant(*row) for row in found]

    def tenant(self, tenant_id: str) -> PlainTenant:
        """Return a tenant. Raises TenantMissing."""
        with self._database.read() as connection:
            return _tenant(connection, tenant_id)

    def delete_tenant(self, tenant_id: str) -> None:
        """Forget a tenant; `tidy` deletes its vectors. Raises TenantMissing."""
        with self._database.write() as connection:
            number = _tenant(connection, tenant_id).number
            connection.execute("DELETE FROM tenants WHERE number = ?", (number,))
        with self._lock:
            self._kept.pop(number, None)

    # Vectors.

    def upload(self, tenant_id: str, ids: Sequence[int], vectors: Sequence[Sequence[float]]) -> int:
        """Store vectors, all or none; an id that is there is replaced. Returns how many were given.

        Raises TenantMissing, UserError (dimension, a number that no float32 holds), StorageFull.
        """
        with self._database.write() as connection:
            tenant = _tenant(connection, tenant_id)
            rows = dict(zip(ids, encode_rows(vectors, tenant.dimension), strict=True))
            there = _count_of(connection, tenant.number, list(rows))
            added = len(rows) - there
            self._check_room(connection, tenant, added)
            connection.executemany(
                "INSERT INTO vectors (tenant, id, data) VALUES (?, ?, ?)"
                " ON CONFLICT (tenant, id) DO UPDATE SET data = excluded.data",
                [(tenant.number, vector_id, data) for vector_id, data in rows.items()],
            )
            _count(connection, tenant.number, added)
        return len(ids)

    def delete(self, tenant_id: str, ids: Sequence[int]) -> int:
        """Delete vectors; return how many there were. Raises TenantMissing."""
        with self._database.write() as connection:
            tenant = _tenant(connection, tenant_id)
            there = _count_of(connection, tenant.number, list(dict.fromkeys(ids)))
            connection.executemany(
                "DELETE FROM vectors WHERE tenant = ? AND id = ?",
                [(tenant.number, vector_id) for vector_id in ids],
            )
            if there:
                _count(connection, tenant.number, -there)
        return there

    def search(self, tenant_id: str, query: Sequence[float], top_k: int) -> list[tuple[int, float]]:
        """Return ids and cosines of the `top_k` nearest vectors, the nearest first; of equal ones
        the smaller id. Raises TenantMissing, UserError (dimension, top_k).
        """
        if not 1 <= top_k <= limits.STORAGE_TOP_K_MAX:
            raise UserError(
                f"'top_k' is 1 to {limits.STORAGE_TOP_K_MAX}, not {top_k}", param="top_k"
            )
        with self._database.read() as connection:
            tenant = _tenant(connection, tenant_id)
            unit = unit_of(query, tenant.dimension)
            best: list[tuple[int, float]] = []
            for matrix in self._matrices(connection, tenant):
                best = nearest(matrix, unit, top_k, best)
        return best

    def tidy(self) -> bool:
        """Delete some vectors of tenants that are gone, or give free pages back. Returns whether
        there may be more to do.
        """
        with self._database.write() as connection:
            connection.execute(
                "DELETE FROM vectors WHERE row IN (SELECT row FROM vectors WHERE tenant NOT IN"
                " (SELECT number FROM tenants) LIMIT ?)",
                (limits.STORAGE_SWEEP_OBJECTS,),
            )
            if connection.changes():
                return True
        return self._database.shrink(limits.STORAGE_VACUUM_PAGES, limits.STORAGE_FREE_PAGES_MIN)

    def _check_room(self, connection: apsw.Connection, tenant: PlainTenant, added: int) -> None:
        nbytes = max(added, 0) * tenant.vector_bytes
        left = tenant.capacity_mb * _MIB - tenant.used_bytes
        if nbytes > left:
            raise StorageFull(
                f"the tenant's {tenant.capacity_mb} MB have {max(left, 0)} bytes left, not {nbytes}"
            )
        left = self._capacity_bytes - _totals(connection).used_bytes
        if nbytes > left:
            raise StorageFull(f"this store has {max(left, 0)} bytes left, not {nbytes}")

    def _matrices(self, connection: apsw.Connection, tenant: PlainTenant) -> Iterator[Matrix]:
        """Yield all vectors of a tenant: as one matrix that stays in memory, or part by part."""
        if 4 * tenant.dimension * tenant.vectors > limits.STORAGE_PLAIN_MATRIX_BYTES:
            yield from _chunks(connection, tenant)
            return
        with self._lock:
            changes, matrix = self._kept.get(tenant.number, (-1, None))
        if matrix is None or changes != tenant.changes:
            matrix = join(_chunks(connection, tenant), tenant.vectors, tenant.dimension)
        with self._lock:
            self._kept[tenant.number] = (tenant.changes, matrix)
            self._kept.move_to_end(tenant.number)
            while self._kept_bytes() > limits.STORAGE_PLAIN_MATRIX_BYTES:
                self._kept.popitem(last=False)
        yield matrix

    def _kept_bytes(self) -> int:
        return sum(matrix.units.nbytes for _, matrix in self._kept.values())


_COLUMNS: Final = "id, peer, name, capacity_mb, dimension, created_s, vectors, number, changes"


def _tenant(connection: apsw.Connection, tenant_id: str) -> PlainTenant:
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM tenants WHERE id = ?", (tenant_id,)
    ).fetchone()
    if row is None:
        raise TenantMissing("tenant not found")
    return PlainTenant(*row)


def _totals(connection: apsw.Connection) -> PlainTotals:
    tenants, vectors, used = connection.execute(
        "SELECT count(*), coalesce(sum(vectors), 0),"
        " coalesce(sum(vectors * (4 * dimension + ?)), 0) FROM tenants",
        (_ENTRY_BYTES,),
    ).get
    return PlainTotals(tenants, vectors, used)


def _count(connection: apsw.Connection, tenant: int, added: int) -> None:
    connection.execute(
        "UPDATE tenants SET vectors = vectors + ?, changes = changes + 1 WHERE number = ?",
        (added, tenant),
    )


def _count_of(connection: apsw.Connection, tenant: int, ids: Sequence[int]) -> int:
    """Return how many of these ids, each given once, are there."""
    found = connection.executemany(
        "SELECT 1 FROM vectors WHERE tenant = ? AND id = ?",
        [(tenant, vector_id) for vector_id in ids],
    )
    return sum(1 for _ in found)


def _chunks(connection: apsw.Connection, tenant: PlainTenant) -> Iterator[Matrix]:
    """Yield a tenant's vectors in parts of a bounded size."""
    cursor = connection.execute(
        "SELECT id, data FROM vectors WHERE tenant = ? ORDER BY row", (tenant.number,)
    )
    while rows := list(itertools.islice(cursor, limits.STORAGE_PLAIN_CHUNK)):
        yield read_rows(rows, tenant.dimension)
