"""The control API's routes for trust: who is trusted how far, why, and from which roots.

Bodies are checked here; the node does the work (`kwaai.node.trust_control.TrustControl`).
"""

from __future__ import annotations

from typing import Annotated

from aiohttp import web
from pydantic import Field

from kwaai import limits
from kwaai.api.control_bodies import NODE, Body, parse_body, to_json
from kwaai.api.errors import json_response

_Peer = Annotated[str, Field(min_length=1, max_length=limits.TRUST_DID_CHARS_MAX)]
_PeerOrAll = Annotated[str, Field(max_length=limits.TRUST_DID_CHARS_MAX)]
_Statement = Annotated[str, Field(max_length=limits.TRUST_STATEMENT_CHARS_MAX)]


class _One(Body):
    peer: _Peer


class _OneOrAll(Body):
    peer: _PeerOrAll = ""


class _Roots(Body):
    roots: Annotated[list[_Peer], Field(max_length=limits.TRUST_ROOTS_MAX)]


class _Endorse(Body):
    peer: _Peer
    statement: _Statement = ""
    interactions: Annotated[int, Field(ge=1, le=limits.TRUST_INTERACTIONS_MAX)] | None = None


class _Graph(Body):
    depth: Annotated[int, Field(ge=1, le=limits.TRUST_GRAPH_DEPTH_MAX)] = (
        limits.TRUST_GRAPH_DEPTH_DEFAULT
    )


def add_trust_routes(router: web.UrlDispatcher) -> None:
    """Add the routes under /control/trust."""
    router.add_get("/control/trust/peers", _peers)
    router.add_get("/control/trust/policy", _policy)
    router.add_post("/control/trust/show", _show)
    router.add_post("/control/trust/explain", _explain)
    router.add_post("/control/trust/roots", _roots)
    router.add_post("/control/trust/endorse", _endorse)
    router.add_post("/control/trust/graph", _graph)
    router.add_post("/control/trust/receipts", _receipts)
    router.add_post("/control/trust/refresh", _refresh)


async def _peers(request: web.Request) -> web.Response:
    return json_response(to_json(await request.app[NODE].trust.peers()))


async def _policy(request: web.Request) -> web.Response:
    return json_response(to_json(await request.app[NODE].trust.policy()))


async def _show(request: web.Request) -> web.Response:
    body = await parse_body(request, _One)
    return json_response(to_json(await request.app[NODE].trust.show(body.peer)))


async def _explain(request: web.Request) -> web.Response:
    body = await parse_body(request, _One)
    return json_response(to_json(await request.app[NODE].trust.explain(body.peer)))


async def _roots(request: web.Request) -> web.Response:
    body = await parse_body(request, _Roots)
    return json_response(to_json(await request.app[NODE].trust.set_roots(body.roots)))


async def _endorse(request: web.Request) -> web.Response:
    body = await parse_body(request, _Endorse)
    control = request.app[NODE].trust
    return json_response(
        to_json(await control.endorse(body.peer, body.statement, body.interactions))
    )


async def _graph(request: web.Request) -> web.Response:
    body = await parse_body(request, _Graph)
    return json_response(to_json(await request.app[NODE].trust.graph(body.depth)))


async def _receipts(request: web.Request) -> web.Response:
    body = await parse_body(request, _OneOrAll)
    rows = await request.app[NODE].trust.receipts(body.peer)
    return json_response({"receipts": to_json(rows)})


async def _refresh(request: web.Request) -> web.Response:
    body = await parse_body(request, _OneOrAll)
    return json_response({"credentials": await request.app[NODE].trust.refresh(body.peer)})
