"""The API's routes for knowledge bases, in the reference network's shapes: `POST /api/search`,
`POST /api/ingest`, `GET /api/docs` and `DELETE /api/docs/{name}`.

For who has the API key, as the wallet's routes are: without one any program of this machine could
read what is private. Reads no paths of this machine: files come in the request. docs/api.md.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from aiohttp import BodyPartReader, web
from aiohttp.http_exceptions import BadHttpMessage
from aiohttp.typedefs import Handler
from pydantic import Field

from kwaai import limits
from kwaai.api.answers import KEY_NEEDED
from kwaai.api.control_bodies import Body, parse_body, to_json
from kwaai.api.errors import json_response
from kwaai.atomic import AtomicFile
from kwaai.errors import BodyTimeout, BodyTooLarge, MediaTypeUnsupported, Unauthorized, UserError
from kwaai.node.knowledge_control import IngestOptions, KnowledgeControl

GetKnowledge: TypeAlias = Callable[[], KnowledgeControl]
"""Raises ResourceError while knowledge is not open."""
KNOWLEDGE: web.AppKey[GetKnowledge] = web.AppKey("knowledge")
_READ_BYTES = 64 * limits.KIB

_Base = Annotated[str, Field(min_length=1, max_length=limits.BASE_NAME_CHARS_MAX)]


class _Search(Body):
    q: Annotated[str, Field(min_length=1, max_length=limits.QUESTION_CHARS_MAX)]
    base: _Base = "default"
    top_k: Annotated[int, Field(ge=1, le=limits.HITS_MAX)] = limits.HITS_DEFAULT
    min_score: Annotated[float, Field(ge=0, le=1)] = 0.0
    explain: bool = False


def add_knowledge_api(app: web.Application, knowledge: GetKnowledge, *, is_refused: bool) -> None:
    """Add the routes to an application. `knowledge` is asked each time. `is_refused`: there is no
    key that a client could show, so each route says that instead.
    """
    app[KNOWLEDGE] = knowledge
    for method, path, handler in _ROUTES:
        app.router.add_route(method, path, _refuse if is_refused else handler)


async def _refuse(_: web.Request) -> web.Response:
    raise Unauthorized(KEY_NEEDED)


async def _search(request: web.Request) -> web.Response:
    body = await parse_body(request, _Search)
    found = await request.app[KNOWLEDGE]().search(
        body.base, body.q, body.top_k, explain=body.explain
    )
    results = [
        {"rank": hit.number, "doc": hit.document, **to_json(hit)}
        for hit in found.hits
        if hit.similarity is None or hit.similarity >= body.min_score
    ]
    answer: dict[str, Any] = {"results": results, "degraded": to_json(found.degraded)}
    if found.explained is not None:
        answer["explained"] = to_json(found.explained)
    return json_response(answer)


async def _ingest(request: web.Request) -> web.Response:
    """Take the files of a multipart body; `?base=NAME` says where to."""
    base = _base_of(request)
    knowledge = request.app[KNOWLEDGE]()
    if request.content_type != "multipart/form-data":
        raise MediaTypeUnsupported("files come as multipart/form-data, as `curl -F file=@NAME`")
    paths: list[str] = []
    try:
        await _receive_all(request, base, paths)
        done = await knowledge.ingest(base, paths, IngestOptions(), lambda _: None)
    finally:
        await asyncio.shield(asyncio.to_thread(_discard, paths))
    return json_response(to_json(done))


async def _receive_all(request: web.Request, base: str, paths: list[str]) -> None:
    """Write the files of a body to the disk; `paths`: where they are, also where this fails."""
    knowledge = request.app[KNOWLEDGE]()
    try:
        reader = await request.multipart()
        while (part := await reader.next()) is not None:
            if not isinstance(part, BodyPartReader) or part.filename is None:
                raise UserError("each part of the body is a file with a name", param="file")
            if len(paths) >= limits.UPLOAD_FILES_MAX:
                raise UserError(f"one request has at most {limits.UPLOAD_FILES_MAX} files")
            paths.append(await knowledge.upload_path(base, part.filename))
            await _receive(part, Path(paths[-1]))
    except (ValueError, BadHttpMessage) as error:  # aiohttp's, for what is not what it says
        why = getattr(error, "message", "") or str(error)
        raise UserError(f"the body is no multipart/form-data: {why!s:.200}") from None
    if not paths:
        raise UserError("there is no file in the body", param="file")


def _discard(paths: Sequence[str]) -> None:
    """Delete files that came by this API, each with its folder."""
    for path in paths:
        with contextlib.suppress(OSError):
            Path(path).unlink(missing_ok=True)
            Path(path).parent.rmdir()


async def _receive(part: BodyPartReader, path: Path) -> None:
    """Write one file of a body to `path`, whole or not at all."""
    nbytes = 0
    try:
        with AtomicFile(path) as whole:
            while True:
                async with asyncio.timeout(limits.BODY_READ_TIMEOUT_S):
                    piece = await part.read_chunk(_READ_BYTES)
                if not piece:
                    return
                nbytes += len(piece)
                if nbytes > limits.UPLOAD_BYTES_MAX:
                    raise BodyTooLarge(
                        f"a file in a request has at most {limits.UPLOAD_BYTES_MAX} bytes; for "
                        "larger ones there is `kwaainet rag ingest`"
                    )
                await asyncio.to_thread(whole.file.write, piece)
    except TimeoutError:
        raise BodyTimeout(
            f"no more of the body came for {limits.BODY_READ_TIMEOUT_S:g} s"
        ) from None


async def _docs(request: web.Request) -> web.Response:
    rows = await request.app[KNOWLEDGE]().documents(_base_of(request))
    shown = rows[: limits.DOCUMENTS_SHOWN_MAX]
    return json_response({"docs": to_json(shown), "left_out": len(rows) - len(shown)})


async def _delete_doc(request: web.Request) -> web.Response:
    name = request.match_info["name"]
    knowledge, base = request.app[KNOWLEDGE](), _base_of(request)
    passages = await knowledge.delete_document(base, name)
    return json_response({"doc": name, "passages": passages})


def _base_of(request: web.Request) -> str:
    unknown = sorted(request.query.keys() - {"base"})
    if unknown:
        raise UserError(f"unknown parameter {unknown[0][:40]!r}", param=unknown[0][:40])
    base = request.query.get("base", "default")
    if not 1 <= len(base) <= limits.BASE_NAME_CHARS_MAX:
        raise UserError(
            f"a base's name has 1 to {limits.BASE_NAME_CHARS_MAX} characters", param="base"
        )
    return base


_ROUTES: tuple[tuple[str, str, Handler], ...] = (
    ("POST", "/api/search", _search),
    ("POST", "/api/ingest", _ingest),
    ("GET", "/api/docs", _docs),
    ("DELETE", "/api/docs/{name:.+}", _delete_doc),
)
