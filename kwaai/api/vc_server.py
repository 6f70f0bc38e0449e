"""The credential routes as an application of their own: for `kwaainet credential serve`.

The routes are `vc_api`; the node's API has them too. Without a key only programs of this machine
may ask, unless the caller opens it to all. Listening is `kwaai.api.port`.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web
from aiohttp.typedefs import Middleware

from kwaai.api.auth import STATUS_PREFIX, check_bind, check_key, make_guard
from kwaai.api.errors import json_response
from kwaai.api.observed import make_observer, set_headers
from kwaai.api.port import bound
from kwaai.api.vc_api import add_routes
from kwaai.api.vc_problems import problem_response
from kwaai.node.credential_office import CredentialOffice

PORT_DEFAULT = 8765


def create_vc_app(
    office: CredentialOffice, *, api_key: str | None = None, open_to_all: bool = False
) -> web.Application:
    """Return the credential API over `office`.

    With `api_key` every route but /health and /status/ needs it. Without one only programs of this
    machine may ask, and no web page; `open_to_all` lets in whoever reaches the port. Raises
    UserError for an unusable key.
    """
    middlewares: list[Middleware] = [
        make_observer(problem_response, "the node failed on this request; its log says why")
    ]
    if api_key is not None:
        check_key(api_key)
    if api_key is not None or not open_to_all:
        middlewares.append(make_guard(api_key, open_prefixes=(STATUS_PREFIX,)))
    app = web.Application(middlewares=middlewares)
    app.on_response_prepare.append(set_headers)
    app.router.add_get("/health", _health)
    add_routes(app, lambda: office)
    return app


@asynccontextmanager
async def listening(
    app: web.Application,
    host: str,
    port: int,
    *,
    api_key: str | None,
    open_to_all: bool = False,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[tuple[str, int]]:
    """Serve `app` inside the context; yield the address and port. Raises UserError, PortInUse."""
    if not open_to_all:
        check_bind(host, api_key)
    async with bound(app, host, port, tls=tls, option="--port") as address:
        yield address


async def _health(_: web.Request) -> web.Response:
    return json_response({"status": "ok"})
