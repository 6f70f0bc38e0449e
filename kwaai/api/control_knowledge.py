"""The control API's routes for knowledge and hosts: bases, what is in them, where they are kept.

Bodies are checked here; the node does the work (`kwaai.node.knowledge_control.KnowledgeControl`).
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal

from aiohttp import web
from pydantic import Field

from kwaai import limits
from kwaai.api.control_bodies import NODE, Body, parse_body, to_json
from kwaai.api.control_stream import Events, stream_events
from kwaai.api.errors import json_response
from kwaai.node.knowledge_control import IngestOptions, KnowledgeControl, ToldIngest

_Base = Annotated[str, Field(min_length=1, max_length=limits.BASE_NAME_CHARS_MAX)]
_BaseOrAll = Annotated[str, Field(max_length=limits.BASE_NAME_CHARS_MAX)]
_Path = Annotated[str, Field(min_length=1, max_length=limits.INGEST_PATH_CHARS_MAX)]
_Pattern = Annotated[str, Field(min_length=1, max_length=limits.INGEST_PATTERN_CHARS_MAX)]
_Peer = Annotated[str, Field(min_length=1, max_length=limits.TRUST_DID_CHARS_MAX)]


class _Of(Body):
    base: _Base


class _OfOrAll(Body):
    base: _BaseOrAll = ""


class _Restore(_OfOrAll):
    thin: bool = False


class _Thin(_Of):
    off: bool = False


class _Create(Body):
    base: _Base
    mode: Literal["sealed", "oblivious"] = "sealed"
    fulltext_only: bool = False


class _Ingest(Body):
    base: _Base
    paths: Annotated[list[_Path], Field(max_length=limits.INGEST_PATHS_MAX)] = Field(
        default_factory=list
    )
    sync: bool = False
    allow_empty: bool = False
    retry_failed: bool = True
    excludes: Annotated[list[_Pattern], Field(max_length=limits.INGEST_PATHS_MAX)] = Field(
        default_factory=list
    )

    def options(self) -> IngestOptions:
        return IngestOptions(self.sync, self.allow_empty, self.retry_failed, tuple(self.excludes))


class _Search(Body):
    base: _Base
    text: Annotated[str, Field(min_length=1, max_length=limits.QUESTION_CHARS_MAX)]
    count: Annotated[int, Field(ge=1, le=limits.HITS_MAX)] = limits.HITS_DEFAULT
    explain: bool = False


class _Document(Body):
    base: _Base
    document: _Path


class _Export(Body):
    base: _Base
    path: _Path


class _Host(Body):
    peer: _Peer


class _Room(Body):
    peer: _Peer
    quota_mb: Annotated[int, Field(ge=1, le=limits.STORAGE_QUOTA_MB_MAX)] = 1024


class _Repair(Body):
    base: _Base
    hosts: Annotated[int, Field(ge=0, le=limits.HOSTS_PER_BASE_MAX)] = 0


class _Share(Body):
    base: _Base
    reader: _Peer
    days: Annotated[float, Field(gt=0, le=limits.SHARE_DAYS_MAX)] = 30.0


class _Token(Body):
    token: Annotated[str, Field(min_length=1, max_length=limits.SHARE_TOKEN_CHARS_MAX)]
    name: _BaseOrAll = ""


def add_knowledge_routes(router: web.UrlDispatcher) -> None:
    """Add the routes under /control/knowledge and /control/vpk."""
    router.add_get("/control/knowledge", _bases)
    router.add_get("/control/vpk", _status)
    for path, handler in _POST.items():
        router.add_post(f"/control/{path}", handler)


def _knowledge(request: web.Request) -> KnowledgeControl:
    return request.app[NODE].knowledge


async def _bases(request: web.Request) -> web.Response:
    return json_response({"bases": to_json(_knowledge(request).bases())})


async def _status(request: web.Request) -> web.Response:
    return json_response(to_json(_knowledge(request).status()))


async def _create(request: web.Request) -> web.StreamResponse:
    body = await parse_body(request, _Create)

    async def work(events: Events) -> None:
        row = await _knowledge(request).create(
            body.base, body.mode, fulltext_only=body.fulltext_only, say=_progress_to(events)
        )
        await events.put({"event": "done", "base": to_json(row)})

    return await stream_events(request, work)


def _progress_to(events: Events) -> ToldIngest:
    return lambda progress: events.push({"event": "progress", **to_json(progress)})


async def _ingest(request: web.Request) -> web.StreamResponse:
    body = await parse_body(request, _Ingest)

    async def work(events: Events) -> None:
        done = await _knowledge(request).ingest(
            body.base, body.paths, body.options(), _progress_to(events)
        )
        counts = Counter(row.outcome for row in done.files)
        first = sorted(done.files, key=lambda row: row.outcome != "failed")
        shown = dataclasses.replace(done, files=tuple(first[: limits.INGEST_FILES_SHOWN_MAX]))
        left_out = len(done.files) - len(shown.files)
        told = {**to_json(shown), "counts": counts, "left_out": left_out}
        await events.put({"event": "ingested", **told})

    return await stream_events(request, work)


async def _search(request: web.Request) -> web.Response:
    body = await parse_body(request, _Search)
    found = await _knowledge(request).search(body.base, body.text, body.count, explain=body.explain)
    return json_response(to_json(found))


async def _documents(request: web.Request) -> web.Response:
    body = await parse_body(request, _Of)
    rows = await _knowledge(request).documents(body.base)
    shown = rows[: limits.DOCUMENTS_SHOWN_MAX]
    return json_response({"documents": to_json(shown), "left_out": len(rows) - len(shown)})


async def _delete_document(request: web.Request) -> web.Response:
    body = await parse_body(request, _Document)
    passages = await _knowledge(request).delete_document(body.base, body.document)
    return json_response({"passages": passages})


async def _long(
    request: web.Request, work: Callable[[], Awaitable[dict[str, Any]]]
) -> web.StreamResponse:
    """Answer with one event, `done`, after signs of life."""

    async def run(events: Events) -> None:
        await events.put({"event": "done", **await work()})

    return await stream_events(request, run)


async def _export(request: web.Request) -> web.StreamResponse:
    body = await parse_body(request, _Export)

    async def work() -> dict[str, Any]:
        return dict(to_json(await _knowledge(request).export(body.base, body.path)))

    return await _long(request, work)


async def _destroy(request: web.Request) -> web.StreamResponse:
    body = await parse_body(request, _Of)

    async def work() -> dict[str, Any]:
        return {"left_at": to_json(await _knowledge(request).destroy(body.base))}

    return await _long(request, work)


async def _restore(request: web.Request) -> web.StreamResponse:
    body = await parse_body(request, _Restore)

    async def work() -> dict[str, Any]:
        return {"bases": to_json(await _knowledge(request).restore(body.base, thin=body.thin))}

    return await _long(request, work)


async def _thin(request: web.Request) -> web.StreamResponse:
    body = await parse_body(request, _Thin)

    async def work() -> dict[str, Any]:
        return {"base": to_json(await _knowledge(request).thin(body.base, off=body.off))}

    return await _long(request, work)


async def _resolve(request: web.Request) -> web.Response:
    body = await parse_body(request, _Of)
    return json_response({"hosts": to_json(await _knowledge(request).resolve(body.base))})


async def _audit(request: web.Request) -> web.StreamResponse:
    body = await parse_body(request, _Of)

    async def work() -> dict[str, Any]:
        return {"hosts": to_json(await _knowledge(request).audit(body.base))}

    return await _long(request, work)


async def _repair(request: web.Request) -> web.StreamResponse:
    body = await parse_body(request, _Repair)

    async def work() -> dict[str, Any]:
        return dict(to_json(await _knowledge(request).repair(body.base, body.hosts)))

    return await _long(request, work)


async def _share(request: web.Request) -> web.Response:
    body = await parse_body(request, _Share)
    token = await _knowledge(request).share(body.base, body.reader, body.days)
    return json_response({"token": token})


async def _attach(request: web.Request) -> web.StreamResponse:
    body = await parse_body(request, _Token)

    async def work() -> dict[str, Any]:
        return {"base": to_json(await _knowledge(request).attach(body.token, body.name))}

    return await _long(request, work)


async def _discover(request: web.Request) -> web.StreamResponse:
    async def work() -> dict[str, Any]:
        return {"hosts": to_json(await _knowledge(request).discover())}

    return await _long(request, work)


async def _tenants(request: web.Request) -> web.StreamResponse:
    async def work() -> dict[str, Any]:
        return {"tenants": to_json(await _knowledge(request).tenants())}

    return await _long(request, work)


async def _create_tenant(request: web.Request) -> web.StreamResponse:
    body = await parse_body(request, _Room)

    async def work() -> dict[str, Any]:
        return dict(to_json(await _knowledge(request).create_tenant(body.peer, body.quota_mb)))

    return await _long(request, work)


async def _delete_tenant(request: web.Request) -> web.StreamResponse:
    body = await parse_body(request, _Host)

    async def work() -> dict[str, Any]:
        await _knowledge(request).delete_tenant(body.peer)
        return {}

    return await _long(request, work)


_POST: dict[str, Callable[[web.Request], Awaitable[web.StreamResponse]]] = {
    "knowledge/create": _create,
    "knowledge/ingest": _ingest,
    "knowledge/search": _search,
    "knowledge/documents": _documents,
    "knowledge/delete-document": _delete_document,
    "knowledge/export": _export,
    "knowledge/destroy": _destroy,
    "knowledge/restore": _restore,
    "knowledge/thin": _thin,
    "knowledge/share": _share,
    "knowledge/attach": _attach,
    "vpk/resolve": _resolve,
    "vpk/audit": _audit,
    "vpk/repair": _repair,
    "vpk/discover": _discover,
    "vpk/tenants": _tenants,
    "vpk/tenants/create": _create_tenant,
    "vpk/tenants/delete": _delete_tenant,
}
