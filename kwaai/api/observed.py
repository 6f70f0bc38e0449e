"""What every small server of this node does around its routes: failures in the clients' words, one
log line an answer, and two headers. Knows no route. The node's own API is `kwaai.api.app`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TypeAlias

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from kwaai.api.errors import answer_or_tell
from kwaai.errors import KwaaiError
from kwaai.log import get_logger

log = get_logger(__name__)

Tell: TypeAlias = Callable[[KwaaiError, Mapping[str, str]], web.Response]
"""Words a failure as the clients of a server expect it."""


def make_observer(tell: Tell, defect: str) -> Middleware:
    """Return what turns failures into answers and logs each outcome, never what was asked.

    `defect`: what a client is told of a mistake of ours.
    """

    def on_defect() -> KwaaiError:
        log.exception("request_failed")
        return KwaaiError(defect)

    @web.middleware
    async def observe(request: web.Request, handler: Handler) -> web.StreamResponse:
        resource = request.match_info.route.resource
        started_s = time.monotonic()
        response = await answer_or_tell(request, handler, tell, on_defect)
        log.info(
            "request_served",
            route=resource.canonical if resource is not None else "unmatched",
            status=response.status,
            elapsed_ms=round((time.monotonic() - started_s) * 1000, 1),
        )
        return response

    return observe


async def set_headers(_: web.Request, response: web.StreamResponse) -> None:
    """Say who answers, and that bodies are what their type says."""
    response.headers["Server"] = "kwaainet"
    response.headers["X-Content-Type-Options"] = "nosniff"
