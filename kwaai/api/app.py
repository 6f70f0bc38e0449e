"""The aiohttp application: which route does what. `create_app` wires a generator to it.

Listening on a port is `kwaai.api.server`; parsing, answering and refusing are the modules beside
it.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from aiohttp import web
from aiohttp.typedefs import Handler

from kwaai.api.answers import Service, answer
from kwaai.api.auth import STATUS_PREFIX, check_key, has_key, make_guard
from kwaai.api.bodies import parse_chat, parse_completion
from kwaai.api.chat import ChatShape
from kwaai.api.completions import CompletionShape
from kwaai.api.demand import asked_in_headers
from kwaai.api.embeddings import GetEmbedders, add_embeddings, listed_embedders
from kwaai.api.errors import answer_or_tell, error_response, json_response
from kwaai.api.jsonbody import read_json_body
from kwaai.api.replies import model_object
from kwaai.errors import KwaaiError
from kwaai.log import get_logger
from kwaai.node.generate import Generator

if TYPE_CHECKING:
    from kwaai.api.knowledge_api import GetKnowledge
    from kwaai.api.trust_api import GetTrust
    from kwaai.api.vc_work import GetOffice

SERVICE = web.AppKey("service", Service)
_ERROR: web.AppKey[Callable[[web.Request, KwaaiError, Mapping[str, str]], web.Response]]
_ERROR = web.AppKey("error")
"""Words an error as the clients of its route expect it."""
_REQUEST_ID = web.RequestKey("request_id", str)
_CLIENT_GONE = 499  # counted only, never sent
_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"

log = get_logger(__name__)


def create_app(
    generator: Generator,
    *,
    api_key: str | None = None,
    office: GetOffice | None = None,
    trust: GetTrust | None = None,
    knowledge: GetKnowledge | None = None,
    embedders: GetEmbedders | None = None,
) -> web.Application:
    """Return the API over `generator`, over the credential office that `office` gives, and over the
    scores of peers that `trust` gives, and over the bases that `knowledge` gives.

    With `api_key` every route but /health needs it, and with an office /status/. Without one only
    this machine's programs may ask, none of them may sign as this node, and `kwaai.api.server`
    refuses to listen anywhere else. Raises UserError for an unusable key.
    """
    if api_key is not None:
        check_key(api_key)
    open_prefixes = (STATUS_PREFIX,) if office is not None else ()
    guard = make_guard(api_key, open_prefixes=open_prefixes)
    app = web.Application(middlewares=[_observe, guard])
    app[_ERROR] = lambda request, error, headers: error_response(error, headers)
    app[SERVICE] = Service(generator, api_key)
    app.on_response_prepare.append(_set_headers)
    app.router.add_get("/v1/models", _list_models)
    app.router.add_get("/v1/models/{model:.+}", _show_model)
    app.router.add_post("/v1/chat/completions", _chat)
    app.router.add_post("/v1/completions", _completion)
    app.router.add_get("/health", _health)
    app.router.add_get("/metrics", _metrics)
    if office is not None:
        from kwaai.api import vc_api  # JSON-LD is not for who has no credentials

        app[_ERROR] = vc_api.any_error_response
        vc_api.add_routes(app, office, checks_only=api_key is None)
    if trust is not None:
        from kwaai.api.trust_api import add_trust_api

        add_trust_api(app, trust, is_refused=api_key is None)
    if knowledge is not None:
        from kwaai.api.knowledge_api import add_knowledge_api

        add_knowledge_api(app, knowledge, is_refused=api_key is None)
    if embedders is not None:
        add_embeddings(app, embedders)
    return app


async def _list_models(request: web.Request) -> web.Response:
    cards = request.app[SERVICE].models()
    models = [*map(model_object, cards), *listed_embedders(request.app)]
    return json_response({"object": "list", "data": models})


async def _show_model(request: web.Request) -> web.Response:
    wanted = request.match_info["model"]
    for model in listed_embedders(request.app):
        if model["id"] == wanted:
            return json_response(model)
    return json_response(model_object(request.app[SERVICE].find_model(wanted)))


async def _chat(request: web.Request) -> web.StreamResponse:
    service = request.app[SERVICE]
    with service.admit():
        asked = asked_in_headers(request.headers)
        job = parse_chat(await read_json_body(request)).asking(asked)
        wants_logprobs = job.requests[0].sampling.logprobs is not None
        return await answer(request, service, job, ChatShape(with_logprobs=wants_logprobs))


async def _completion(request: web.Request) -> web.StreamResponse:
    service = request.app[SERVICE]
    with service.admit():
        asked = asked_in_headers(request.headers)
        job = parse_completion(await read_json_body(request)).asking(asked)
        shape = CompletionShape(logprobs=job.requests[0].sampling.logprobs)
        return await answer(request, service, job, shape)


async def _health(request: web.Request) -> web.Response:
    """Answer 200 while the node can serve, else 503; without the key only the status is told."""
    service = request.app[SERVICE]
    health: dict[str, Any] = dict(service.generator.health())
    status = 200 if health.get("status") in ("ok", "degraded") else 503
    if service.api_key is not None and not has_key(request, service.api_key):
        health = {"status": health.get("status")}
    return json_response(health, status=status)


async def _metrics(request: web.Request) -> web.Response:
    body = request.app[SERVICE].metrics.render()
    return web.Response(body=body, headers={"Content-Type": _METRICS_TYPE})


@web.middleware
async def _observe(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give the request an id, turn failures into error responses, count and log the outcome."""
    request[_REQUEST_ID] = f"req_{secrets.token_hex(8)}"
    resource = request.match_info.route.resource
    route = resource.canonical if resource is not None else "unmatched"
    started_s = time.monotonic()
    status = _CLIENT_GONE
    try:
        response = await _respond(request, handler)
        status = response.status
        return response
    finally:
        request.app[SERVICE].metrics.requests.labels(route, str(status)).inc()
        log.info(
            "request_served",
            route=route,
            status=status,
            request_id=request[_REQUEST_ID],
            elapsed_ms=round((time.monotonic() - started_s) * 1000, 1),
        )


async def _respond(request: web.Request, handler: Handler) -> web.StreamResponse:
    def tell(failure: KwaaiError, headers: Mapping[str, str]) -> web.Response:
        request.app[SERVICE].metrics.errors.labels(failure.code).inc()
        return request.app[_ERROR](request, failure, headers)

    def on_defect() -> KwaaiError:
        log.exception("request_failed", request_id=request[_REQUEST_ID])
        return KwaaiError(
            f"the node failed on this request; its log says why, under {request[_REQUEST_ID]}"
        )

    return await answer_or_tell(request, handler, tell, on_defect)


async def _set_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = "kwaainet"
    response.headers["X-Content-Type-Options"] = "nosniff"
    if _REQUEST_ID in request:
        response.headers["x-request-id"] = request[_REQUEST_ID]
