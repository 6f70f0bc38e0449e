"""The tables of a host and the statements on them: tenants, bases, manifests, objects.

Rows only: no locks, no limits, no rights (`kwaai.vpk.host_store`). A number of a base is never used
again, so that objects of a base that was dropped, which are deleted bit by bit, belong to no other.
docs/storage.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import apsw

from kwaai.limits import (
    STORAGE_BUSY_S,
    STORAGE_CACHE_BYTES,
    STORAGE_OBJECT_CHARGE_BYTES,
    STORAGE_PAGE_BYTES,
)
from kwaai.sqlite import Schema
from kwaai.vpk.types import Object

_TABLES: Final = """
CREATE TABLE tenants (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    key BLOB NOT NULL UNIQUE,
    name TEXT NOT NULL,
    owner TEXT NOT NULL,
    created_s INTEGER NOT NULL,
    quota_bytes INTEGER NOT NULL,
    objects INTEGER NOT NULL,
    used_bytes INTEGER NOT NULL
) STRICT;
CREATE TABLE bases (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant INTEGER NOT NULL REFERENCES tenants (number),
    id BLOB NOT NULL,
    changes INTEGER NOT NULL,
    objects INTEGER NOT NULL,
    used_bytes INTEGER NOT NULL,
    UNIQUE (tenant, id)
) STRICT;
CREATE TABLE manifests (
    base INTEGER PRIMARY KEY REFERENCES bases (number),
    sequence INTEGER NOT NULL,
    data BLOB NOT NULL
) STRICT;
CREATE TABLE objects (
    row INTEGER PRIMARY KEY,
    base INTEGER NOT NULL,
    id BLOB NOT NULL,
    data BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX object_ids ON objects (base, id);
CREATE TABLE dropped (
    base INTEGER PRIMARY KEY,
    used_bytes INTEGER NOT NULL
) STRICT;
"""

SCHEMA: Final = Schema(
    what="storage",
    application_id=0x6B776873,  # "kwhs"
    migrations=(_TABLES,),
    remedy="move it away: its tenants' nodes restore their objects from other hosts (vpk repair)",
    busy_s=STORAGE_BUSY_S,
    cache_bytes=STORAGE_CACHE_BYTES,
    page_bytes=STORAGE_PAGE_BYTES,
    auto_vacuum="incremental",
)


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant, as its host knows it. Bytes."""

    number: int
    key: bytes
    """32 bytes, the Ed25519 public key whose signature its requests bear."""
    name: str
    """What the tenant called itself; nothing was checked."""
    owner: str
    """The PeerId that made it; empty: this node."""
    created_s: int
    quota_bytes: int
    objects: int
    used_bytes: int


@dataclass(frozen=True, slots=True)
class BaseRow:
    """A base, as its host knows it."""

    number: int
    changes: int
    """Counts transactions that changed its objects."""
    objects: int
    used_bytes: int


@dataclass(frozen=True, slots=True)
class Totals:
    """What all tenants together have. Bytes."""

    tenants: int
    objects: int
    used_bytes: int
    dropped_bytes: int
    """Of dropped bases whose objects are not deleted yet."""


_TENANT_COLUMNS: Final = "number, key, name, owner, created_s, quota_bytes, objects, used_bytes"


def charge_of(size: int) -> int:
    """Return what an object of `size` bytes takes of a quota."""
    return size + STORAGE_OBJECT_CHARGE_BYTES


def find_tenant(connection: apsw.Connection, key: bytes) -> Tenant | None:
    row = connection.execute(
        f"SELECT {_TENANT_COLUMNS} FROM tenants WHERE key = ?", (key,)
    ).fetchone()
    return None if row is None else Tenant(*row)


def list_tenants(connection: apsw.Connection) -> list[Tenant]:
    rows = connection.execute(f"SELECT {_TENANT_COLUMNS} FROM tenants ORDER BY number")
    return [Tenant(*row) for row in rows]


def add_tenant(
    connection: apsw.Connection, key: bytes, quota_bytes: int, name: str, owner: str, now_s: int
) -> None:
    connection.execute(
        "INSERT INTO tenants (key, name, owner, created_s, quota_bytes, objects, used_bytes)"
        " VALUES (?, ?, ?, ?, ?, 0, 0)",
        (key, name, owner, now_s, quota_bytes),
    )


def set_quota(connection: apsw.Connection, tenant: int, quota_bytes: int) -> None:
    connection.execute("UPDATE tenants SET quota_bytes = ? WHERE number = ?", (quota_bytes, tenant))


def drop_tenant(connection: apsw.Connection, tenant: int) -> None:
    """Drop its bases, and forget it."""
    for base_id in list_bases(connection, tenant):
        drop_base(connection, tenant, base_id)
    connection.execute("DELETE FROM tenants WHERE number = ?", (tenant,))


def totals(connection: apsw.Connection) -> Totals:
    tenants, objects, used = connection.execute(
        "SELECT count(*), coalesce(sum(objects), 0), coalesce(sum(used_bytes), 0) FROM tenants"
    ).get
    dropped = connection.execute("SELECT coalesce(sum(used_bytes), 0) FROM dropped").get
    return Totals(tenants, objects, used, dropped)


def find_base(connection: apsw.Connection, tenant: int, base_id: bytes) -> BaseRow | None:
    row = connection.execute(
        "SELECT number, changes, objects, used_bytes FROM bases WHERE tenant = ? AND id = ?",
        (tenant, base_id),
    ).fetchone()
    return None if row is None else BaseRow(*row)


def list_bases(connection: apsw.Connection, tenant: int) -> list[bytes]:
    rows = connection.execute("SELECT id FROM bases WHERE tenant = ? ORDER BY id", (tenant,))
    return [row[0] for row in rows]


def add_base(connection: apsw.Connection, tenant: int, base_id: bytes) -> BaseRow:
    connection.execute(
        "INSERT INTO bases (tenant, id, changes, objects, used_bytes) VALUES (?, ?, 0, 0, 0)",
        (tenant, base_id),
    )
    return BaseRow(connection.last_insert_rowid(), 0, 0, 0)


def count_bases(connection: apsw.Connection, tenant: int) -> int:
    count: int = connection.execute("SELECT count(*) FROM bases WHERE tenant = ?", (tenant,)).get
    return count


def drop_base(connection: apsw.Connection, tenant: int, base_id: bytes) -> None:
    """Forget a base and its manifest; its objects go later (`sweep`)."""
    base = find_base(connection, tenant, base_id)
    if base is None:
        return
    charge(connection, tenant, base.number, -base.objects, -base.used_bytes)
    connection.execute("DELETE FROM manifests WHERE base = ?", (base.number,))
    connection.execute("DELETE FROM bases WHERE number = ?", (base.number,))
    connection.execute("INSERT INTO dropped VALUES (?, ?)", (base.number, base.used_bytes))


def sweep(connection: apsw.Connection, count: int) -> bool:
    """Delete up to `count` objects of dropped bases. Returns whether there was anything to do."""
    found = connection.execute("SELECT base FROM dropped LIMIT 1").fetchone()
    if found is None:
        return False
    connection.execute(
        "DELETE FROM objects WHERE row IN (SELECT row FROM objects WHERE base = ? LIMIT ?)",
        (found[0], count),
    )
    if connection.changes() < count:
        connection.execute("DELETE FROM dropped WHERE base = ?", found)
    return True


def charge(connection: apsw.Connection, tenant: int, base: int, objects: int, nbytes: int) -> None:
    """Add to the counters of a base and of its tenant; the base has changed."""
    connection.execute(
        "UPDATE bases SET changes = changes + 1, objects = objects + ?,"
        " used_bytes = used_bytes + ? WHERE number = ?",
        (objects, nbytes, base),
    )
    connection.execute(
        "UPDATE tenants SET objects = objects + ?, used_bytes = used_bytes + ? WHERE number = ?",
        (objects, nbytes, tenant),
    )


def find_manifest(connection: apsw.Connection, base: int) -> tuple[int, bytes] | None:
    """Return sequence number and bytes."""
    row = connection.execute(
        "SELECT sequence, data FROM manifests WHERE base = ?", (base,)
    ).fetchone()
    return None if row is None else (row[0], row[1])


def put_manifest(connection: apsw.Connection, base: int, sequence: int, data: bytes) -> None:
    connection.execute(
        "INSERT INTO manifests VALUES (?, ?, ?)"
        " ON CONFLICT (base) DO UPDATE SET sequence = excluded.sequence, data = excluded.data",
        (base, sequence, data),
    )


def sizes(connection: apsw.Connection, base: int, ids: Sequence[bytes]) -> dict[bytes, int]:
    """Return the sizes of those objects that are there."""
    if not ids:
        return {}
    found = connection.execute(
        "SELECT id, length(data) FROM objects WHERE base = ? AND id IN carray(?)",
        (base, apsw.carray(tuple(ids))),
    )
    return dict(found)


def put_objects(connection: apsw.Connection, base: int, objects: Sequence[Object]) -> None:
    connection.executemany(
        "INSERT INTO objects (base, id, data) VALUES (?, ?, ?)"
        " ON CONFLICT (base, id) DO UPDATE SET data = excluded.data",
        [(base, object_id, data) for object_id, data in objects],
    )


def get_objects(
    connection: apsw.Connection, base: int, ids: Sequence[bytes], bytes_max: int | None = None
) -> dict[bytes, bytes] | None:
    """Return those objects that are there; None where they have more than `bytes_max` together: no
    more than that is read.
    """
    objects: dict[bytes, bytes] = {}
    if not ids:
        return objects
    found = connection.execute(
        "SELECT id, data FROM objects WHERE base = ? AND id IN carray(?)",
        (base, apsw.carray(tuple(ids))),
    )
    if bytes_max is None:
        return dict(found)
    total = 0
    for object_id, data in found:
        total += len(data)
        if total > bytes_max:
            return None
        objects[object_id] = data
    return objects


def delete_objects(connection: apsw.Connection, base: int, ids: Sequence[bytes]) -> None:
    connection.execute(
        "DELETE FROM objects WHERE base = ? AND id IN carray(?)",
        (base, apsw.carray(tuple(ids))),
    )


def list_ids(connection: apsw.Connection, base: int, after: bytes, count: int) -> list[bytes]:
    """Return up to `count` ids above `after`, ascending."""
    rows = connection.execute(
        "SELECT id FROM objects WHERE base = ? AND id > ? ORDER BY id LIMIT ?", (base, after, count)
    )
    return [row[0] for row in rows]


def count_of_size(connection: apsw.Connection, base: int, size: int) -> int:
    count: int = connection.execute(
        "SELECT count(*) FROM objects WHERE base = ? AND length(data) = ?", (base, size)
    ).get
    return count


def of_size(connection: apsw.Connection, base: int, size: int) -> Iterator[Object]:
    """Yield the objects of exactly `size` bytes, in ascending order of their ids."""
    rows = connection.execute(
        "SELECT id, data FROM objects WHERE base = ? AND length(data) = ? ORDER BY id", (base, size)
    )
    yield from rows


def miscounted(connection: apsw.Connection) -> list[str]:
    """Compare the counters with what is there; return what differs, as words."""
    wrong = []
    for base in _counted(connection, "SELECT number, objects, used_bytes FROM bases"):
        objects, nbytes = connection.execute(
            "SELECT count(*), coalesce(sum(length(data)), 0) FROM objects WHERE base = ?",
            (base.number,),
        ).get
        manifest = find_manifest(connection, base.number)
        nbytes += STORAGE_OBJECT_CHARGE_BYTES * objects
        nbytes += 0 if manifest is None else charge_of(len(manifest[1]))
        if (base.objects, base.used_bytes) != (objects, nbytes):
            wrong.append(f"base {base.number}: {base.objects} objects counted, {objects} there")
    for tenant in _counted(connection, "SELECT number, objects, used_bytes FROM tenants"):
        objects, nbytes = connection.execute(
            "SELECT coalesce(sum(objects), 0), coalesce(sum(used_bytes), 0) FROM bases"
            " WHERE tenant = ?",
            (tenant.number,),
        ).get
        if (tenant.objects, tenant.used_bytes) != (objects, nbytes):
            wrong.append(
                f"tenant {tenant.number}: {tenant.objects} objects counted, its bases have"
                f" {objects}"
            )
    strays = connection.execute(
        "SELECT count(*) FROM objects WHERE base NOT IN (SELECT number FROM bases)"
        " AND base NOT IN (SELECT base FROM dropped)"
    ).get
    return [*wrong, *([f"{strays} objects of no base"] if strays else [])]


class _Counted(NamedTuple):
    number: int
    objects: int
    used_bytes: int


def _counted(connection: apsw.Connection, statement: str) -> list[_Counted]:
    rows: list[tuple[Any, ...]] = connection.execute(statement).fetchall()
    return [_Counted(*row) for row in rows]
