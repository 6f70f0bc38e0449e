"""The API's routes under /v1/kwaai/trust: whom this node trusts how far, and why. They only read.

For who has the API key, as the wallet's routes are: without one any program of this machine could
see whom the node deals with. What changes trust is on the control socket (`control_trust`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from aiohttp import web
from aiohttp.typedefs import Handler

from kwaai import limits
from kwaai.api.control_bodies import to_json
from kwaai.api.errors import json_response
from kwaai.errors import Unauthorized, UserError
from kwaai.node.trust_control import TrustControl

GetTrust: TypeAlias = Callable[[], TrustControl]
"""Raises ResourceError while the evidence is not open."""
TRUST: web.AppKey[GetTrust] = web.AppKey("trust")


def add_trust_api(app: web.Application, trust: GetTrust, *, is_refused: bool) -> None:
    """Add the routes to an application. `trust` is asked each time. `is_refused`: there is no key
    that a client could show, so each route says that instead.
    """
    app[TRUST] = trust
    for path, handler in _GET.items():
        app.router.add_get(path, _refuse if is_refused else handler)


async def _refuse(_: web.Request) -> web.Response:
    raise Unauthorized(
        "this route is for who has the API key, and this node has none: any user of this machine"
        " could see whom it deals with; name one with --api-key-file, or run: kwaainet trust list"
    )


async def _peers(request: web.Request) -> web.Response:
    _check_query(request)
    return json_response(to_json(await request.app[TRUST]().peers()))


async def _show(request: web.Request) -> web.Response:
    _check_query(request)
    return json_response(to_json(await request.app[TRUST]().show(_peer(request))))


async def _explain(request: web.Request) -> web.Response:
    _check_query(request)
    return json_response(to_json(await request.app[TRUST]().explain(_peer(request))))


async def _policy(request: web.Request) -> web.Response:
    _check_query(request)
    return json_response(to_json(await request.app[TRUST]().policy()))


async def _graph(request: web.Request) -> web.Response:
    _check_query(request, "depth")
    text = request.query.get("depth", str(limits.TRUST_GRAPH_DEPTH_DEFAULT))
    is_number = text.isascii() and text.isdecimal() and len(text) <= 3
    if not is_number or not 1 <= int(text) <= limits.TRUST_GRAPH_DEPTH_MAX:
        raise UserError(
            f"'depth' must be 1 to {limits.TRUST_GRAPH_DEPTH_MAX}, not {text!r:.40}", param="depth"
        )
    return json_response(to_json(await request.app[TRUST]().graph(int(text))))


async def _receipts(request: web.Request) -> web.Response:
    _check_query(request, "peer")
    peer = _bounded(request.query.get("peer", ""))
    rows: Any = to_json(await request.app[TRUST]().receipts(peer))
    return json_response({"receipts": rows})


def _peer(request: web.Request) -> str:
    return _bounded(request.match_info["peer"])


def _bounded(peer: str) -> str:
    if len(peer) > limits.TRUST_DID_CHARS_MAX:
        raise UserError(
            f"'peer' has {len(peer)} characters; a PeerId, a name or a DID has at most "
            f"{limits.TRUST_DID_CHARS_MAX}",
            param="peer",
        )
    return peer


def _check_query(request: web.Request, *known: str) -> None:
    unknown = sorted(request.query.keys() - set(known))
    if unknown:
        raise UserError(f"unknown parameter {unknown[0][:40]!r}", param=unknown[0][:40])


_GET: dict[str, Handler] = {
    "/v1/kwaai/trust/peers": _peers,
    "/v1/kwaai/trust/peers/{peer}": _show,
    "/v1/kwaai/trust/peers/{peer}/explanation": _explain,
    "/v1/kwaai/trust/policy": _policy,
    "/v1/kwaai/trust/graph": _graph,
    "/v1/kwaai/trust/receipts": _receipts,
}
