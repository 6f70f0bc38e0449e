"""What a host does for one request that has been verified: bodies in, bodies out, on its store.

Blocks: runs in a thread. Who may ask was decided before (`kwaai.node.storage_service`).
docs/protocol/storage.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from kwaai import limits
from kwaai.errors import PeerRefused
from kwaai.vpk.host_store import HostStore
from kwaai.vpk.types import PirTable
from kwaai.wire import storage_bodies as bodies
from kwaai.wire.storage_messages import Operation, Request

_ROOM: Final = limits.STORAGE_OBJECT_BYTES_MAX + 4
"""Bytes of an answer's body: an object that is as large as may be, and its length."""


def answer_request(store: HostStore, request: Request) -> bytes:
    """Do what a request asks, and return the body of its answer. Raises WireError for a body that
    is none, StorageRefused, StorageFull, ManifestConflict, PeerRefused and what the file raises.
    """
    return _ANSWERS[request.operation](store, request)


def answer_usage(store: HostStore, tenant: bytes) -> bytes:
    """Return the body that tells what a tenant has here. Raises StorageRefused."""
    usage = store.usage(tenant)
    return bodies.encode_usage(
        bodies.TenantUsage(usage.objects, usage.used_bytes, usage.quota_bytes, usage.free_bytes)
    )


def _delete_tenant(store: HostStore, request: Request) -> bytes:
    store.delete_tenant(request.tenant)
    return b""


def _usage(store: HostStore, request: Request) -> bytes:
    return answer_usage(store, request.tenant)


def _put(store: HostStore, request: Request) -> bytes:
    base, objects = bodies.parse_put(request.body)
    store.put(request.tenant, base, objects)
    return b""


def _get(store: HostStore, request: Request) -> bytes:
    base, ids = bodies.parse_ids(request.body)
    room = _ROOM - 4 * len(ids)
    return bodies.encode_objects(store.get(request.tenant, base, ids, bytes_max=room))


def _delete(store: HostStore, request: Request) -> bytes:
    base, ids = bodies.parse_ids(request.body)
    return bodies.encode_count(store.delete(request.tenant, base, ids))


def _list_ids(store: HostStore, request: Request) -> bytes:
    base, after, count = bodies.parse_list(request.body)
    return bodies.encode_id_list(store.list_ids(request.tenant, base, after, count))


def _put_manifest(store: HostStore, request: Request) -> bytes:
    base, sequence, data = bodies.parse_put_manifest(request.body)
    store.put_manifest(request.tenant, base, sequence, data)
    return b""


def _get_manifest(store: HostStore, request: Request) -> bytes:
    """Nothing, where there is none."""
    return store.get_manifest(request.tenant, bodies.parse_base(request.body)) or b""


def _bases(store: HostStore, request: Request) -> bytes:
    return bodies.encode_id_list(store.bases(request.tenant))


def _drop_base(store: HostStore, request: Request) -> bytes:
    store.drop_base(request.tenant, bodies.parse_base(request.body))
    return b""


def _pir_table(store: HostStore, request: Request) -> bytes:
    base, row_bytes = bodies.parse_table_request(request.body)
    table = store.pir_table(request.tenant, base, row_bytes)
    return bodies.encode_table(bodies.Table(table.rows, table.row_bytes, table.digest))


def _pir(store: HostStore, request: Request) -> bytes:
    base, asked, masks = bodies.parse_pir(request.body)
    if len(masks) * asked.row_bytes > limits.STORAGE_OBJECT_BYTES_MAX:
        raise PeerRefused("so many rows of that size do not fit into one answer; ask for fewer")
    table = PirTable(asked.rows, asked.row_bytes, asked.digest)
    return b"".join(store.pir(request.tenant, base, table, masks))


def _prove(store: HostStore, request: Request) -> bytes:
    base, object_id, challenge = bodies.parse_prove(request.body)
    return store.prove(request.tenant, base, object_id, challenge)


_ANSWERS: Final[Mapping[Operation, Callable[[HostStore, Request], bytes]]] = {
    Operation.DELETE_TENANT: _delete_tenant,
    Operation.USAGE: _usage,
    Operation.PUT: _put,
    Operation.GET: _get,
    Operation.DELETE: _delete,
    Operation.LIST_IDS: _list_ids,
    Operation.PUT_MANIFEST: _put_manifest,
    Operation.GET_MANIFEST: _get_manifest,
    Operation.BASES: _bases,
    Operation.DROP_BASE: _drop_base,
    Operation.PIR_TABLE: _pir_table,
    Operation.PIR: _pir,
    Operation.PROVE: _prove,
}
