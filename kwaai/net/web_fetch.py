"""Fetch one document over HTTPS from a host that the owner allows.

Off unless a host is on the list. Follows no redirect, uses no proxy, keeps no connection, cookie or
document; every address that a name leads to must be on the public internet, and only those that
were checked are connected to. What the document says is checked by whoever asked.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Collection
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from credentials.did_web import is_public_name
from kwaai import __version__
from kwaai.errors import DownloadFailed
from kwaai.limits import (
    STATUS_URL_CHARS_MAX,
    WEB_ADDRESSES_MAX,
    WEB_HEADER_BYTES_MAX,
    WEB_TIMEOUT_S,
)

_LOOPBACK = frozenset({"localhost"})


async def fetch_web(
    url: str,
    *,
    hosts: Collection[str],
    accept: str,
    bytes_max: int,
    context: ssl.SSLContext | None = None,
    allow_loopback: bool = False,
    timeout_s: float = WEB_TIMEOUT_S,
) -> bytes:
    """Return the body at an https URL whose host (`name` or `name:port`) is one of `hosts`.

    Raises DownloadFailed for everything that goes wrong. `context` and `allow_loopback` are for
    tests.
    """
    host = web_host(url, allow_loopback=allow_loopback)
    if host not in hosts:
        raise DownloadFailed(f"{host} is not on the list of web hosts that may be asked")
    connector = aiohttp.TCPConnector(
        resolver=_PublicResolver(allow_loopback),
        ssl=True if context is None else context,
        use_dns_cache=False,
        force_close=True,
        limit=1,
    )
    headers = {
        "Accept": accept,
        "Accept-Encoding": "identity",
        "User-Agent": f"kwaainet/{__version__}",
    }
    try:
        async with (
            asyncio.timeout(timeout_s),
            aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
                max_line_size=WEB_HEADER_BYTES_MAX,
                max_field_size=WEB_HEADER_BYTES_MAX,
            ) as session,
            session.get(url, headers=headers, allow_redirects=False) as response,
        ):
            return await _body(response, host, bytes_max)
    except TimeoutError as error:
        raise DownloadFailed(f"{host} gave no answer in {timeout_s:g} s") from error
    except (aiohttp.ClientConnectorError, OSError) as error:
        raise DownloadFailed(f"{host} cannot be reached: {error}") from error
    except (aiohttp.ClientError, ValueError) as error:
        raise DownloadFailed(f"{host} sent no well-formed answer: {error!s:.200}") from error


async def _body(response: aiohttp.ClientResponse, host: str, bytes_max: int) -> bytes:
    if response.status != 200:
        raise DownloadFailed(f"{host} answered {response.status}, not 200; redirects are refused")
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise DownloadFailed(f"{host} compressed its answer, which was not asked for")
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > bytes_max:
            raise DownloadFailed(f"{host} sent more than {bytes_max} bytes")
    return bytes(body)


def web_host(url: str, *, allow_loopback: bool = False) -> str:
    """Return `name` or `name:port` of an https URL, as an allow-list has it.

    Raises DownloadFailed for what is no https URL of a public name: addresses, local names, users.
    """
    if len(url) > STATUS_URL_CHARS_MAX or not url.isascii() or not url.isprintable():
        raise DownloadFailed(f"{url!r:.80} is not a URL that is fetched")
    try:
        parts = urlsplit(url)
        name, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise DownloadFailed(f"{url!r:.80} is not a URL: {error}") from error
    known = is_public_name(name) or (allow_loopback and name in _LOOPBACK)
    expected = name if port is None else f"{name}:{port}"
    if parts.scheme != "https" or parts.netloc != expected or not known:
        raise DownloadFailed(f"{url!r:.80} names no public host by https: that is not fetched")
    return expected


class _PublicResolver(AbstractResolver):
    """Looks names up, and refuses those that lead anywhere but to the public internet."""

    def __init__(self, allow_loopback: bool) -> None:
        self._allow_loopback = allow_loopback

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return addresses that were checked. Raises DownloadFailed, OSError."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, family=family)
        results = []
        for family_, _, proto, _, sockaddr in found:
            address = str(sockaddr[0])
            if not is_public(address) and not (
                self._allow_loopback and ipaddress.ip_address(address).is_loopback
            ):
                raise DownloadFailed(f"{host} leads to {address}, not to the public internet")
            results.append(
                ResolveResult(
                    hostname=host,
                    host=address,
                    port=port,
                    family=family_,
                    proto=proto,
                    flags=socket.AI_NUMERICHOST,
                )
            )
        return results[:WEB_ADDRESSES_MAX]

    async def close(self) -> None:
        """Nothing is kept open."""


def is_public(address: str) -> bool:
    """Whether an IP address is on the public internet. Looks into IPv6 that wraps IPv4."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:  # with a scope, fe80::1%eth0
        return False
    if isinstance(parsed, ipaddress.IPv6Address):
        inner = parsed.ipv4_mapped or parsed.sixtofour
        if parsed.teredo is not None or parsed in ipaddress.ip_network("64:ff9b::/96"):
            return False
        if inner is not None:
            return is_public(str(inner))
    return parsed.is_global and not parsed.is_multicast
