"""The bodies of storage requests and of their answers, in the order of the operations.

Pure: bytes and values; what a body belongs to is `kwaai.wire.storage_messages`. Every `parse_`
raises WireError for what the protocol does not allow. docs/protocol/storage.md has them byte by
byte.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from kwaai import limits
from kwaai.wire.codec import Reader, WireError, Writer

ID_BYTES: Final = 16
"""Of a base, which most bodies begin with, and of an object."""
_DIGEST_BYTES: Final = 32
_MASKS_AT: Final = ID_BYTES + 4 + 4 + _DIGEST_BYTES
_NOT_HELD: Final = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Health:
    """How a host is. Bytes; what it says of itself."""

    capacity_bytes: int
    free_bytes: int
    tenant_count: int
    object_count: int
    tenant_tier: int
    """The least tier of peers that it makes tenants for."""
    version: str


def encode_health_answer(health: Health) -> bytes:
    """Return the body of the answer to `Health`."""
    writer = Writer().uint(health.capacity_bytes, 8).uint(health.free_bytes, 8)
    writer.uint(health.tenant_count, 4).uint(health.object_count, 8).uint(health.tenant_tier, 1)
    return writer.text(health.version).finish()


def parse_health_answer(body: bytes | memoryview) -> Health:
    """Parse the body of the answer to `Health`. Raises WireError."""
    reader = Reader(body)
    health = Health(
        reader.uint(8),
        reader.uint(8),
        reader.uint(4),
        reader.uint(8),
        reader.uint(1, most=limits.PATH_TIERS_MAX),
        reader.text(most=limits.STORAGE_NAME_BYTES_MAX),
    )
    reader.finish()
    return health


@dataclass(frozen=True, slots=True)
class CreateTenant:
    """Take me as a tenant."""

    quota_bytes: int
    """Wanted; the answer is a `TenantUsage` with what is given."""
    name: str = ""
    """For the host's owner."""


@dataclass(frozen=True, slots=True)
class TenantUsage:
    """What a tenant has at a host. Bytes."""

    objects: int
    used_bytes: int
    quota_bytes: int
    free_bytes: int


def encode_create_tenant(request: CreateTenant) -> bytes:
    """Return a body of CREATE_TENANT. Raises ValueError where the name is too long."""
    if len(request.name.encode()) > limits.STORAGE_NAME_BYTES_MAX:
        raise ValueError(f"a tenant's name has up to {limits.STORAGE_NAME_BYTES_MAX} bytes")
    return Writer().uint(request.quota_bytes, 8).text(request.name, 2).finish()


def parse_create_tenant(body: bytes | memoryview) -> CreateTenant:
    """Parse a body of CREATE_TENANT. Raises WireError."""
    reader = Reader(body)
    request = CreateTenant(
        reader.uint(8, most=(1 << 63) - 1), reader.text(2, most=limits.STORAGE_NAME_BYTES_MAX)
    )
    reader.finish()
    return request


def encode_usage(usage: TenantUsage) -> bytes:
    """Return the body of the answer to CREATE_TENANT and USAGE."""
    writer = Writer().uint(usage.objects, 8).uint(usage.used_bytes, 8)
    return writer.uint(usage.quota_bytes, 8).uint(usage.free_bytes, 8).finish()


def parse_usage(body: bytes | memoryview) -> TenantUsage:
    """Parse the body of the answer to CREATE_TENANT and USAGE. Raises WireError."""
    reader = Reader(body)
    usage = TenantUsage(reader.uint(8), reader.uint(8), reader.uint(8), reader.uint(8))
    reader.finish()
    return usage


def encode_put(base: bytes, objects: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Return a body of PUT: ids and lengths, then the objects one behind the other."""
    _check_count(len(objects), limits.STORAGE_OBJECTS_MAX)
    head = Writer().fixed(base, ID_BYTES).uint(len(objects), 2)
    for object_id, data in objects:
        head.fixed(object_id, ID_BYTES).uint(len(data), 4)
    return b"".join((head.finish(), *(data for _, data in objects)))


def parse_put(body: bytes | memoryview) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """Parse a body of PUT. Raises WireError."""
    reader = Reader(body)
    base = reader.fixed(ID_BYTES)
    count = reader.uint(2, most=limits.STORAGE_OBJECTS_MAX)
    heads = [
        (reader.fixed(ID_BYTES), reader.uint(4, least=1, most=limits.STORAGE_OBJECT_BYTES_MAX))
        for _ in range(count)
    ]
    objects = [(object_id, reader.fixed(size)) for object_id, size in heads]
    reader.finish()
    return base, objects


def put_bytes(size: int) -> int:
    """Return what an object of `size` bytes takes of a body of PUT, or of an answer to GET at most:
    for cutting into messages.
    """
    return ID_BYTES + 4 + size


def encode_ids(base: bytes, ids: Sequence[bytes]) -> bytes:
    """Return a body of GET and of DELETE."""
    _check_count(len(ids), limits.STORAGE_OBJECTS_MAX)
    if any(len(object_id) != ID_BYTES for object_id in ids):
        raise ValueError(f"ids have {ID_BYTES} bytes")
    return Writer().fixed(base, ID_BYTES).uint(len(ids), 2).finish() + b"".join(ids)


def parse_ids(body: bytes | memoryview) -> tuple[bytes, list[bytes]]:
    """Parse a body of GET and of DELETE. Raises WireError."""
    reader = Reader(body)
    base = reader.fixed(ID_BYTES)
    ids = _read_ids(reader, reader.uint(2, most=limits.STORAGE_OBJECTS_MAX))
    reader.finish()
    return base, ids


def encode_objects(objects: Sequence[bytes | None]) -> bytes:
    """Return the body of the answer to GET: for each id asked for, from the first on, a length and
    the object, or the mark of one that is not held; it may end early (`parse_objects`).
    """
    parts = []
    for data in objects:
        parts.append((_NOT_HELD if data is None else len(data)).to_bytes(4, "big"))
        if data is not None:
            parts.append(data)
    return b"".join(parts)


def parse_objects(body: bytes | memoryview, count: int) -> list[bytes | None]:
    """Parse the body of the answer to GET with `count` ids. Returns fewer where the rest did not
    fit, and has to be asked for anew; at least one. Raises WireError.
    """
    view = memoryview(body)
    objects: list[bytes | None] = []
    at = 0
    while at < len(view) and len(objects) < count:
        size = int.from_bytes(view[at : at + 4], "big")
        at += 4
        if size == _NOT_HELD:
            objects.append(None)
            continue
        if at + size > len(view):
            break
        objects.append(bytes(view[at : at + size]))
        at += size
    if at != len(view) or (count and not objects):
        raise WireError("an answer with objects has too few or too many bytes")
    return objects


def encode_count(count: int) -> bytes:
    """Return the body of the answer to DELETE."""
    return Writer().uint(count, 4).finish()


def parse_count(body: bytes | memoryview, most: int) -> int:
    """Parse the body of the answer to DELETE. Raises WireError."""
    reader = Reader(body)
    count = reader.uint(4, most=most)
    reader.finish()
    return count


def encode_list(base: bytes, after: bytes, count: int) -> bytes:
    """Return a body of LIST_IDS."""
    if after and len(after) != ID_BYTES:
        raise ValueError(f"ids have {ID_BYTES} bytes")
    _check_count(count, limits.STORAGE_IDS_LISTED_MAX)
    return Writer().fixed(base, ID_BYTES).blob(after, 1).uint(count, 4).finish()


def parse_list(body: bytes | memoryview) -> tuple[bytes, bytes, int]:
    """Parse a body of LIST_IDS: base, after, count. Raises WireError."""
    reader = Reader(body)
    base = reader.fixed(ID_BYTES)
    after = reader.blob(1, most=ID_BYTES)
    if len(after) not in (0, ID_BYTES):
        raise WireError("an id to begin after has 16 bytes")
    count = reader.uint(4, most=limits.STORAGE_IDS_LISTED_MAX)
    reader.finish()
    return base, after, count


def encode_id_list(ids: Sequence[bytes]) -> bytes:
    """Return the body of the answer to LIST_IDS and BASES."""
    return b"".join(ids)


def parse_id_list(body: bytes | memoryview, most: int) -> list[bytes]:
    """Parse the body of the answer to LIST_IDS and BASES: ascending ids. Raises WireError."""
    if len(body) % ID_BYTES or len(body) // ID_BYTES > most:
        raise WireError(f"a list of ids has {len(body)} bytes")
    ids = _read_ids(Reader(body), len(body) // ID_BYTES)
    if any(left >= right for left, right in itertools.pairwise(ids)):
        raise WireError("a list of ids is not ascending")
    return ids


def encode_base(base: bytes) -> bytes:
    """Return a body of GET_MANIFEST and DROP_BASE."""
    return Writer().fixed(base, ID_BYTES).finish()


def parse_base(body: bytes | memoryview) -> bytes:
    """Parse a body of GET_MANIFEST and DROP_BASE. Raises WireError."""
    reader = Reader(body)
    base = reader.fixed(ID_BYTES)
    reader.finish()
    return base


def encode_put_manifest(base: bytes, sequence: int, data: bytes) -> bytes:
    """Return a body of PUT_MANIFEST."""
    return Writer().fixed(base, ID_BYTES).uint(sequence, 8).finish() + data


def parse_put_manifest(body: bytes | memoryview) -> tuple[bytes, int, bytes]:
    """Parse a body of PUT_MANIFEST: base, sequence, manifest. Raises WireError."""
    reader = Reader(body)
    base, sequence = reader.fixed(ID_BYTES), reader.uint(8, least=1, most=(1 << 63) - 1)
    if not 0 < reader.left <= limits.STORAGE_OBJECT_BYTES_MAX:
        raise WireError(f"a manifest has {reader.left} bytes")
    return base, sequence, reader.fixed(reader.left)


@dataclass(frozen=True, slots=True)
class Table:
    """A table for oblivious reads: as `kwaai.vpk.types.PirTable`."""

    rows: int
    row_bytes: int
    digest: bytes

    @property
    def mask_bytes(self) -> int:
        """Of a mask: a bit for each row."""
        return (self.rows + 7) // 8


def encode_table_request(base: bytes, row_bytes: int) -> bytes:
    """Return a body of PIR_TABLE."""
    return Writer().fixed(base, ID_BYTES).uint(row_bytes, 4).finish()


def parse_table_request(body: bytes | memoryview) -> tuple[bytes, int]:
    """Parse a body of PIR_TABLE: base, row_bytes. Raises WireError."""
    reader = Reader(body)
    base = reader.fixed(ID_BYTES)
    row_bytes = reader.uint(4, least=1, most=limits.STORAGE_OBJECT_BYTES_MAX)
    reader.finish()
    return base, row_bytes


def encode_table(table: Table) -> bytes:
    """Return the body of the answer to PIR_TABLE."""
    writer = Writer().uint(table.rows, 4).uint(table.row_bytes, 4)
    return writer.fixed(table.digest, _DIGEST_BYTES).finish()


def parse_table(body: bytes | memoryview) -> Table:
    """Parse the body of the answer to PIR_TABLE. Raises WireError."""
    reader = Reader(body)
    table = _read_table(reader)
    reader.finish()
    return table


def _read_table(reader: Reader) -> Table:
    rows = reader.uint(4)
    row_bytes = reader.uint(4, least=1, most=limits.STORAGE_OBJECT_BYTES_MAX)
    return Table(rows, row_bytes, reader.fixed(_DIGEST_BYTES))


def encode_pir(base: bytes, table: Table, masks: Sequence[bytes]) -> bytes:
    """Return a body of PIR."""
    _check_count(len(masks), limits.VPK_PIR_MASKS_MAX)
    if any(len(mask) != table.mask_bytes for mask in masks):
        raise ValueError(f"a mask of {table.rows} rows has {table.mask_bytes} bytes")
    head = Writer().fixed(base, ID_BYTES).finish() + encode_table(table)
    return b"".join((head, len(masks).to_bytes(2, "big"), *masks))


def parse_pir(body: bytes | memoryview) -> tuple[bytes, Table, list[bytes]]:
    """Parse a body of PIR: base, table, masks. Raises WireError."""
    reader = Reader(body)
    base = reader.fixed(ID_BYTES)
    table = _read_table(reader)
    count = reader.uint(2, most=limits.VPK_PIR_MASKS_MAX)
    masks = [reader.fixed(table.mask_bytes) for _ in range(count)]
    reader.finish()
    return base, table, masks


def masks_of(body: bytes | memoryview) -> int:
    """Return how many masks a body of PIR says it has, before it is parsed."""
    return int.from_bytes(body[_MASKS_AT : _MASKS_AT + 2], "big")


def parse_rows(body: bytes | memoryview, table: Table, count: int) -> list[bytes]:
    """Parse the body of the answer to PIR: `count` rows, one behind the other. Raises WireError."""
    if len(body) != count * table.row_bytes:
        raise WireError(f"{count} rows of {table.row_bytes} bytes came as {len(body)} bytes")
    reader = Reader(body)
    return [reader.fixed(table.row_bytes) for _ in range(count)]


def encode_prove(base: bytes, object_id: bytes, challenge: bytes) -> bytes:
    """Return a body of PROVE. The answer's body is the proof."""
    if len(challenge) > limits.STORAGE_CHALLENGE_BYTES_MAX:
        raise ValueError(f"a challenge has up to {limits.STORAGE_CHALLENGE_BYTES_MAX} bytes")
    writer = Writer().fixed(base, ID_BYTES).fixed(object_id, ID_BYTES)
    return writer.blob(challenge).finish()


def parse_prove(body: bytes | memoryview) -> tuple[bytes, bytes, bytes]:
    """Parse a body of PROVE: base, object, challenge. Raises WireError."""
    reader = Reader(body)
    base, object_id = reader.fixed(ID_BYTES), reader.fixed(ID_BYTES)
    challenge = reader.blob(most=limits.STORAGE_CHALLENGE_BYTES_MAX)
    reader.finish()
    return base, object_id, challenge


def _read_ids(reader: Reader, count: int) -> list[bytes]:
    data = reader.fixed(count * ID_BYTES)
    return [data[at : at + ID_BYTES] for at in range(0, len(data), ID_BYTES)]


def _check_count(count: int, most: int) -> None:
    if count > most:
        raise ValueError(f"{count} are too many for one message; {most} fit")
