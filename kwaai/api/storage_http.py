"""The storage routes of the reference network, on 127.0.0.1: plain vectors for this machine's own
programs.

Shapes are the reference's (docs/storage.md); what it lacks is asked here: a token, a Host and an
Origin of this machine, bounds on everything. Sealed objects of peers come over encrypted links
instead (`kwaai.node.storage_service`). Does no work itself: `kwaai.vpk.plain_store` does, in
threads.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final, TypeVar

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kwaai import __version__, limits
from kwaai.api.auth import check_key, make_guard
from kwaai.api.errors import error_response, json_response
from kwaai.api.jsonbody import read_json_body
from kwaai.api.observed import make_observer, set_headers
from kwaai.api.port import bound
from kwaai.api.validation import explain
from kwaai.errors import TenantMissing
from kwaai.node.threads import Threads
from kwaai.vpk.plain_store import PlainStore, PlainTenant

HOST: Final = "127.0.0.1"
_HEALTH: Final = "/api/health"
_GB: Final = 1e9
_OBSERVE: Final = make_observer(
    error_response, "the storage failed on this request; its log says why"
)
_TENANT_ID_CHARS_MAX: Final = 64

_Id = Annotated[int, Field(ge=-(1 << 63), lt=1 << 63, strict=True)]
_Numbers = Annotated[
    list[float], Field(min_length=1, max_length=limits.STORAGE_PLAIN_DIMENSION_MAX)
]


class _Body(BaseModel):
    """Fields that are not known are passed over, as the reference does."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class _CreateTenant(_Body):
    peer_id: Annotated[str, Field(max_length=128)]
    capacity_limit_mb: Annotated[
        int, Field(ge=1, le=limits.STORAGE_PLAIN_CAPACITY_MB_MAX, strict=True)
    ] = 1024
    display_name: Annotated[str, Field(max_length=limits.STORAGE_NAME_CHARS_MAX)] | None = None
    vector_dimension: Annotated[
        int, Field(ge=1, le=limits.STORAGE_PLAIN_DIMENSION_MAX, strict=True)
    ] = 384


class _Vector(_Body):
    id: _Id
    embedding: _Numbers


class _Upload(_Body):
    vectors: Annotated[list[_Vector], Field(max_length=limits.STORAGE_UPLOAD_VECTORS_MAX)]


class _Delete(_Body):
    ids: Annotated[list[_Id], Field(max_length=limits.STORAGE_UPLOAD_VECTORS_MAX)]


class _Search(_Body):
    query: _Numbers
    top_k: Annotated[int, Field(strict=True)] = 5


@dataclass(frozen=True, slots=True)
class StorageFace:
    """What the routes stand on."""

    store: PlainStore
    peer: str
    """The PeerId of this node; empty where it has none yet."""
    capacity_bytes: int
    used_elsewhere: Callable[[], int]
    """Bytes of that which sealed objects of peers take."""
    threads: Threads


_FACE: web.AppKey[StorageFace] = web.AppKey("storage", StorageFace)


def create_storage_app(
    store: PlainStore,
    token: str,
    *,
    peer: str = "",
    capacity_bytes: int,
    used_elsewhere: Callable[[], int] = lambda: 0,
) -> web.Application:
    """Return the routes over `store`. Raises UserError for a token that is easily guessed."""
    check_key(token)
    guards = [make_guard(None), make_guard(token, open_prefixes=(_HEALTH,))]
    app = web.Application(middlewares=[_OBSERVE, *guards])
    threads = Threads(
        "storage-http",
        threads=limits.STORAGE_HTTP_THREADS,
        calls_max=limits.STORAGE_HTTP_REQUESTS_MAX,
        what="storage requests",
    )
    app[_FACE] = StorageFace(store, peer, capacity_bytes, used_elsewhere, threads)
    app.on_response_prepare.append(set_headers)
    app.on_cleanup.append(_close)
    app.router.add_get(_HEALTH, _health)
    app.router.add_get("/api/tenants", _tenants)
    app.router.add_post("/api/tenants", _create)
    app.router.add_get("/api/tenants/{tenant}", _tenant)
    app.router.add_delete("/api/tenants/{tenant}", _delete)
    app.router.add_post("/api/tenants/{tenant}/vectors", _upload)
    app.router.add_delete("/api/tenants/{tenant}/vectors", _delete_vectors)
    app.router.add_post("/api/tenants/{tenant}/search", _search)
    return app


@asynccontextmanager
async def storage_listening(app: web.Application, port: int) -> AsyncIterator[tuple[str, int]]:
    """Serve `app` on 127.0.0.1 inside the context; yield address and port. Raises PortInUse."""
    async with bound(app, HOST, port, option="--port") as address:
        yield address


async def _health(request: web.Request) -> web.Response:
    face = request.app[_FACE]
    totals = await face.threads.run(face.store.totals)
    used = totals.used_bytes + await face.threads.run(face.used_elsewhere)
    return json_response(
        {
            "status": "ok",
            "tenant_count": totals.tenants,
            "total_vectors": totals.vectors,
            "capacity_gb_total": face.capacity_bytes / _GB,
            "capacity_gb_available": max(0, face.capacity_bytes - used) / _GB,
            "version": __version__,
            "peer_id": face.peer,
        }
    )


async def _tenants(request: web.Request) -> web.Response:
    face = request.app[_FACE]
    return json_response([_info(tenant) for tenant in await face.threads.run(face.store.tenants)])


async def _create(request: web.Request) -> web.Response:
    body = await _parse(request, _CreateTenant)
    face = request.app[_FACE]
    tenant = await face.threads.run(
        face.store.create_tenant,
        body.peer_id,
        name=body.display_name,
        capacity_mb=body.capacity_limit_mb,
        dimension=body.vector_dimension,
    )
    return json_response(_info(tenant), status=201)


async def _tenant(request: web.Request) -> web.Response:
    face = request.app[_FACE]
    tenant = await face.threads.run(face.store.tenant, _tenant_id(request))
    counted = {"vector_count": tenant.vectors, "storage_bytes": tenant.used_bytes}
    return json_response({**_info(tenant), **counted})


async def _delete(request: web.Request) -> web.Response:
    face = request.app[_FACE]
    await face.threads.run(face.store.delete_tenant, _tenant_id(request))
    await _tidy(face)
    return web.Response(status=204)


async def _upload(request: web.Request) -> web.Response:
    tenant = _tenant_id(request)
    body = await _parse(request, _Upload)
    ids = [vector.id for vector in body.vectors]
    vectors = [vector.embedding for vector in body.vectors]
    face = request.app[_FACE]
    return json_response(
        {"uploaded": await face.threads.run(face.store.upload, tenant, ids, vectors)}
    )


async def _delete_vectors(request: web.Request) -> web.Response:
    tenant = _tenant_id(request)
    body = await _parse(request, _Delete)
    face = request.app[_FACE]
    deleted = await face.threads.run(face.store.delete, tenant, body.ids)
    await _tidy(face)
    return json_response({"deleted": deleted})


async def _search(request: web.Request) -> web.Response:
    tenant = _tenant_id(request)
    body = await _parse(request, _Search)
    face = request.app[_FACE]
    found = await face.threads.run(face.store.search, tenant, body.query, body.top_k)
    return json_response({"results": [{"id": item, "score": score} for item, score in found]})


async def _tidy(face: StorageFace) -> None:
    while await face.threads.run(face.store.tidy):
        pass


def _tenant_id(request: web.Request) -> str:
    tenant_id = request.match_info["tenant"]
    if len(tenant_id) > _TENANT_ID_CHARS_MAX or not tenant_id.isascii():
        raise TenantMissing("tenant not found")
    return tenant_id


def _info(tenant: PlainTenant) -> dict[str, Any]:
    created = datetime.fromtimestamp(tenant.created_s, UTC)
    return {
        "tenant_id": tenant.id,
        "peer_id": tenant.peer,
        "display_name": tenant.name,
        "capacity_limit_mb": tenant.capacity_mb,
        "status": "Active",
        "created_at": created.isoformat().replace("+00:00", "Z"),
        "vector_dimension": tenant.dimension,
    }


_Parsed = TypeVar("_Parsed", bound=_Body)


async def _parse(request: web.Request, shape: type[_Parsed]) -> _Parsed:
    body = await read_json_body(request)
    try:
        return shape.model_validate(body)
    except ValidationError as error:
        raise explain(error, tuple(shape.model_fields)) from None


async def _close(app: web.Application) -> None:
    await app[_FACE].threads.join()
