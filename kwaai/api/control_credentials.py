"""The control API's routes for credentials between nodes.

Bodies are checked here; the node does the work (`kwaai.node.control.CredentialControl`).
"""

from __future__ import annotations

from typing import Annotated, Any

from aiohttp import web
from pydantic import Field

from kwaai import limits
from kwaai.api.control_bodies import NODE, Body, parse_body, to_json
from kwaai.api.errors import json_response

_Peer = Annotated[str, Field(min_length=1, max_length=limits.P2P_ADDRESS_CHARS_MAX)]
_Id = Annotated[str, Field(min_length=1, max_length=64)]
_Kind = Annotated[str, Field(min_length=1, max_length=limits.CREDENTIAL_KIND_CHARS_MAX)]
_Note = Annotated[str, Field(max_length=limits.CREDENTIAL_NOTE_BYTES_MAX)]


class _Request(Body):
    peer: _Peer
    kind: _Kind
    claims: dict[str, Any] = Field(default_factory=dict)
    note: _Note = ""


class _Offer(Body):
    peer: _Peer
    credential: Annotated[str, Field(max_length=limits.CREDENTIAL_OFFER_BYTES_MAX)]
    note: _Note = ""


class _Approve(Body):
    id: _Id
    claims: dict[str, Any] | None = None


class _Refuse(Body):
    id: _Id
    reason: _Note = ""


class _Status(Body):
    url: Annotated[str, Field(min_length=1, max_length=limits.STATUS_URL_CHARS_MAX)]


class _Fetch(Body):
    peer: _Peer
    kinds: Annotated[list[_Kind], Field(max_length=limits.CREDENTIAL_KINDS_MAX)] = Field(
        default_factory=list
    )
    keep: bool = False


def add_credential_routes(router: web.UrlDispatcher) -> None:
    """Add the routes under /control/credentials."""
    router.add_get("/control/credentials/requests", _requests)
    router.add_post("/control/credentials/request", _request)
    router.add_post("/control/credentials/offer", _offer)
    router.add_post("/control/credentials/approve", _approve)
    router.add_post("/control/credentials/refuse", _refuse)
    router.add_post("/control/credentials/fetch", _fetch)
    router.add_post("/control/credentials/status", _status)


async def _requests(request: web.Request) -> web.Response:
    rows = await request.app[NODE].credentials.requests()
    return json_response({"requests": to_json(rows)})


async def _request(request: web.Request) -> web.Response:
    body = await parse_body(request, _Request)
    control = request.app[NODE].credentials
    return json_response(
        to_json(await control.request(body.peer, body.kind, body.claims, body.note))
    )


async def _offer(request: web.Request) -> web.Response:
    body = await parse_body(request, _Offer)
    control = request.app[NODE].credentials
    return json_response(to_json(await control.offer(body.peer, body.credential, body.note)))


async def _approve(request: web.Request) -> web.Response:
    body = await parse_body(request, _Approve)
    return json_response(to_json(await request.app[NODE].credentials.approve(body.id, body.claims)))


async def _refuse(request: web.Request) -> web.Response:
    body = await parse_body(request, _Refuse)
    return json_response(to_json(await request.app[NODE].credentials.refuse(body.id, body.reason)))


async def _fetch(request: web.Request) -> web.Response:
    body = await parse_body(request, _Fetch)
    control = request.app[NODE].credentials
    return json_response(to_json(await control.fetch(body.peer, body.kinds, keep=body.keep)))


async def _status(request: web.Request) -> web.Response:
    body = await parse_body(request, _Status)
    text = await request.app[NODE].credentials.status_list(body.url)
    return json_response({"credential": text})
