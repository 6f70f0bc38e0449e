"""Errors as HTTP: OpenAI's shape `{"error": {message, type, param, code}}` with the status of
`kwaai.errors`.

Does not decide what is an error, and never turns one into an answer's text.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

from kwaai.errors import IntentUnmet, KwaaiError, MethodNotAllowed, RouteNotFound, UserError

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


def encode_json(value: Any) -> bytes:
    """Encode compactly in ASCII, so that no reader can stumble over a Unicode line separator."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii")


def error_body(error: KwaaiError) -> dict[str, Any]:
    """Return the error as OpenAI's clients expect it."""
    status = error.http_status
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {
        "error": {
            "message": error.message,
            "type": kind,
            "param": error.param,
            "code": error.code,
        }
    }


def error_response(error: KwaaiError, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return the error as a complete response, with `Retry-After` where waiting helps."""
    response = json_response(error_body(error), status=error.http_status, headers=headers)
    if isinstance(error, IntentUnmet):  # OpenAI's clients would wait, and ask the same twice more
        response.headers["X-Should-Retry"] = "false"
    if error.retry_after_s is not None:
        response.headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    if error.http_status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def json_response(
    value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """Return `value` as a JSON response."""
    return web.Response(
        body=encode_json(value), status=status, headers=headers, content_type="application/json"
    )


def error_of_http(error: web.HTTPException, request: web.Request) -> KwaaiError:
    """Translate aiohttp's own refusals (no such route, wrong method) into ours."""
    path = request.path[:200]
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods - {"HEAD"}))
        return MethodNotAllowed(f"{request.method[:20]} is not allowed on {path}; use {allowed}")
    if error.status == 404:
        routes = sorted({route.canonical for route in request.app.router.resources()})
        return RouteNotFound(f"there is no route {path}{did_you_mean(path, routes)}")
    return UserError(f"the request was refused: {error.reason}")


async def answer_or_tell(
    request: web.Request,
    handler: Handler,
    tell: Callable[[KwaaiError, Mapping[str, str]], web.Response],
    on_defect: Callable[[], KwaaiError],
) -> web.StreamResponse:
    """Return what `handler` answers, or its failure as `tell` words it, with headers for it.

    `on_defect` logs what nobody foresaw, and says what the client is told of it. A ConnectionError
    is raised: the client has gone, and there is nobody to tell.
    """
    headers = {}
    try:
        return await handler(request)
    except ConnectionError:
        raise
    except KwaaiError as error:
        failure = error
    except web.HTTPException as error:
        failure = error_of_http(error, request)
        if "Allow" in error.headers:
            headers["Allow"] = error.headers["Allow"]
    except Exception:  # the boundary of every HTTP service
        failure = on_defect()
    return tell(failure, headers)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the closest known word, or nothing."""
    close = difflib.get_close_matches(word[:100], list(known), n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""
