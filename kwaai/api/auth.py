"""Who may drive the node: the API key, and without one only programs of this machine.

Without a key the server listens on loopback only, and refuses what a web page could send: a Host
that is not a name of this machine (DNS rebinding) and an Origin that is not the server itself. No
CORS header is ever sent.
"""

from __future__ import annotations

import hmac
import ipaddress
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from kwaai import limits
from kwaai.errors import Forbidden, Unauthorized, UserError

OPEN_ROUTES = frozenset({"/health"})
STATUS_PREFIX = "/status/"
"""Status lists of credentials are for whoever verifies: no key is asked for them."""


def is_loopback(host: str) -> bool:
    """Say whether `host`, a name or an address without a port, can only be this machine."""
    if host.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def check_bind(host: str, api_key: str | None) -> None:
    """Refuse an unusable key, and a bind that other machines can reach without one."""
    if api_key is not None:
        check_key(api_key)
    elif not is_loopback(host):
        raise UserError(
            f"the API would listen on {host or 'every address'}, where other machines reach it: "
            f"set an API key of at least {limits.API_KEY_CHARS_MIN} characters, "
            "or listen on 127.0.0.1",
            param="host",
        )


def check_key(api_key: str) -> None:
    """Refuse a key that is easily guessed or cannot stand in a header."""
    if len(api_key) < limits.API_KEY_CHARS_MIN:
        raise UserError(
            f"the API key has {len(api_key)} characters; "
            f"it needs at least {limits.API_KEY_CHARS_MIN}",
            param="api_key",
        )
    if not all("!" <= character <= "~" for character in api_key):
        raise UserError("the API key must be printable ASCII without spaces", param="api_key")


def has_key(request: web.Request, api_key: str) -> bool:
    """Say whether the request carries the key, in constant time."""
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    same = hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), api_key.encode())
    return same and scheme.lower() == "bearer"


def make_guard(api_key: str | None, *, open_prefixes: tuple[str, ...] = ()) -> Middleware:
    """Return the middleware that lets through what may drive the node. Paths that begin with one of
    `open_prefixes` need no key.
    """

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if api_key is None:
            _check_local(request)
        elif (
            not has_key(request, api_key)
            and request.path not in OPEN_ROUTES
            and not request.path.startswith(open_prefixes)
        ):
            missing = "Authorization" not in request.headers
            raise Unauthorized(
                "this server needs an API key; send 'Authorization: Bearer KEY'"
                if missing
                else "the API key is wrong"
            )
        return await handler(request)

    return guard


def _check_local(request: web.Request) -> None:
    host = request.headers.get("Host", "")
    if not is_loopback(_name_of(host)):
        raise Forbidden(
            f"the Host header names {host[:100]!r}, not this machine; use localhost, or start the "
            "server with an API key"
        )
    origin = request.headers.get("Origin")
    if origin is not None and _netloc_of(origin) != host.lower():
        raise Forbidden(
            f"a web page of {origin[:100]!r} may not use this server; start it with an API key and "
            "send the key"
        )


def _name_of(host: str) -> str:
    """Return the host of `host[:port]` without the brackets of IPv6; empty if it is malformed."""
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port  # a ValueError where it is no number
        return parts.hostname or "" if parts.netloc == host and "@" not in host else ""
    except ValueError:
        return ""


def _netloc_of(origin: str) -> str:
    """Return host and port of an origin; empty for opaque ones (`null`) and malformed ones."""
    try:
        parts = urlsplit(origin.lower())
    except ValueError:
        return ""
    return parts.netloc if parts.scheme in ("http", "https") else ""
