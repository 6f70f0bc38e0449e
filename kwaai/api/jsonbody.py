"""The bytes of a request's body, and the JSON value in them. Both are strict and bounded.

Knows nothing of what a body means: `kwaai.api.bodies` does. JSON as in RFC 8259, without duplicate
keys, NaN, infinities and lone surrogates.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Collection
from typing import Any, NoReturn

from aiohttp import web

from kwaai import limits
from kwaai.errors import BodyTimeout, BodyTooLarge, MediaTypeUnsupported, UserError

_ESCAPED_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


async def read_json_body(request: web.Request) -> dict[str, Any]:
    """Read and parse the body of `request`; never holds more than BODY_BYTES_MAX of it.

    Raises MediaTypeUnsupported, BodyTooLarge, BodyTimeout, or UserError with the position of bad
    JSON.
    """
    body = await read_body(request, limits.BODY_BYTES_MAX, hint=": shorten the prompt")
    if len(body) > limits.JSON_THREAD_BYTES:
        return await asyncio.to_thread(parse_json_object, body)
    return parse_json_object(body)


async def read_body(
    request: web.Request,
    bytes_max: int,
    *,
    media_types: Collection[str] = ("application/json",),
    hint: str = "",
) -> bytes:
    """Read the body's bytes, at most `bytes_max` of them. `hint`: what to do when it is longer.

    Raises MediaTypeUnsupported, BodyTooLarge, BodyTimeout.
    """
    if request.content_type not in media_types:
        raise MediaTypeUnsupported(
            "the body must be JSON; send the header 'Content-Type: application/json'"
        )
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise MediaTypeUnsupported("compressed bodies are not accepted; send the JSON as it is")
    return await _read_bounded(request, bytes_max, hint)


async def _read_bounded(request: web.Request, bytes_max: int, hint: str) -> bytes:
    if (request.content_length or 0) > bytes_max:
        raise _too_large(f"{request.content_length} bytes", bytes_max, hint)
    body = bytearray()
    try:
        async with asyncio.timeout(limits.BODY_READ_TIMEOUT_S):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > bytes_max:
                    raise _too_large("too long", bytes_max, hint)
    except TimeoutError:
        raise BodyTimeout(
            f"the body did not arrive within {limits.BODY_READ_TIMEOUT_S:g} s; "
            f"{len(body)} bytes came"
        ) from None
    except web.RequestPayloadError as error:
        raise UserError("the body's transfer encoding is broken") from error
    return bytes(body)


def _too_large(size: str, bytes_max: int, hint: str) -> BodyTooLarge:
    return BodyTooLarge(f"the body is {size}; at most {bytes_max} bytes are accepted{hint}")


def parse_json_object(body: bytes) -> dict[str, Any]:
    """Parse `body` as one JSON object. Raises UserError saying what is wrong and where."""
    if not body:
        raise UserError("the body is empty; send a JSON object")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"the body is not UTF-8 at byte {error.start}") from None
    try:
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_constant=_refuse_constant,
            parse_float=_finite_float,
            parse_int=_bounded_int,
        )
    except RecursionError:
        raise _too_deep() from None
    except json.JSONDecodeError as error:
        raise UserError(
            f"the body is not valid JSON: {error.msg} at line {error.lineno} column {error.colno}"
        ) from None
    if not isinstance(value, dict):
        raise UserError('the body must be a JSON object, like {"model": "..."}')
    if _is_deeper(value, limits.JSON_DEPTH_MAX):
        raise _too_deep()
    if _ESCAPED_SURROGATE.search(body):
        _refuse_lone_surrogates(value)
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise UserError(f"the key {key[:100]!r} stands twice in one object of the body")
            seen.add(key)
    return value


def _refuse_constant(constant: str) -> NoReturn:
    raise UserError(f"the body is not valid JSON: {constant} is not a number")


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise UserError(f"the number {text[:40]} in the body is too large")
    return value


def _bounded_int(text: str) -> int:
    if len(text) > 40:  # nothing that is accepted is longer; also keeps int() from being slow
        raise UserError(f"the number {text[:40]}... in the body is too long")
    return int(text)


def _is_deeper(value: Any, levels: int) -> bool:
    layer = [value]
    for _ in range(levels):
        layer = [
            child
            for parent in layer
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, (dict, list))
        ]
        if not layer:
            return False
    return True


def _too_deep() -> UserError:
    return UserError(f"the body is nested deeper than {limits.JSON_DEPTH_MAX} levels")


def _refuse_lone_surrogates(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(
            "the body holds half of a surrogate pair (\\ud800 to \\udfff): that is not text"
        ) from None
