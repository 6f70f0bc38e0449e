"""Fetch the DID document of a did:web: one HTTPS request to a host that the owner allows.

Off unless a host is on the list. Follows no redirect, uses no proxy, keeps no connection and no
document; connects to the address that it checked, so that a name cannot come to mean this machine
or its network in between. Whether the document is the DID's own is checked by
`credentials.did_document`. W3C CCG did:web; RFC 9112.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Collection

from credentials.did_document import parse_did_document
from credentials.did_web import did_web_host, did_web_url
from credentials.document import Document, parse_document
from credentials.errors import DidDocumentInvalid, DidNotFound, DocumentInvalid
from kwaai import __version__
from kwaai.limits import (
    DID_WEB_ADDRESSES_MAX,
    DID_WEB_BODY_BYTES_MAX,
    DID_WEB_HEADER_BYTES_MAX,
    DID_WEB_TIMEOUT_S,
)

_CHUNK_LINE_BYTES_MAX = 64
_CHUNKS_MAX = 1024
_ACCEPT = "application/did+json, application/did+ld+json, application/json"


async def fetch_did_web(
    did: str,
    *,
    hosts: Collection[str],
    context: ssl.SSLContext | None = None,
    allow_loopback: bool = False,
    timeout_s: float = DID_WEB_TIMEOUT_S,
) -> Document:
    """Fetch the document of `did` from its host, if `hosts` (`name` or `name:port`) has it.

    Raises IdentifierInvalid for a DID that names no public host, DidNotFound when the host is not
    allowed or gives no document, DidDocumentInvalid for one that is not the DID's. `context` and
    `allow_loopback` are for tests.
    """
    url = did_web_url(did, allow_loopback=allow_loopback)
    host = did_web_host(did, allow_loopback=allow_loopback)
    if host not in hosts:
        raise DidNotFound(f"{did:.80} is not fetched: {host} is not on the list of did:web hosts")
    name, _, port = host.partition(":")
    try:
        async with asyncio.timeout(timeout_s):
            addresses = await _addresses(name, int(port or 443), allow_loopback=allow_loopback)
            body = await _first_answer(addresses, name, _request(url, host), context)
    except TimeoutError as error:
        raise DidNotFound(f"{host} gave no document of {did:.80} in {timeout_s:g} s") from error
    except OSError as error:  # ssl.SSLError and socket.gaierror are among them
        raise DidNotFound(f"{host} cannot be reached for {did:.80}: {error}") from error
    try:
        document = parse_document(body, bytes_max=DID_WEB_BODY_BYTES_MAX)
    except DocumentInvalid as error:
        raise DidDocumentInvalid(f"{host} gave no JSON document for {did:.80}: {error}") from error
    parse_did_document(did, document)
    return document


async def _addresses(name: str, port: int, *, allow_loopback: bool) -> list[tuple[str, int]]:
    """Return where a name leads. Raises DidNotFound if any of it is not the public internet."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    addresses = [str(sockaddr[0]) for _, _, _, _, sockaddr in found]
    for address in addresses:
        if not is_public(address) and not (
            allow_loopback and ipaddress.ip_address(address).is_loopback
        ):
            raise DidNotFound(f"{name} leads to {address}, which is not on the public internet")
    return [(address, port) for address in addresses[:DID_WEB_ADDRESSES_MAX]]


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


def _request(url: str, host: str) -> bytes:
    path = url.removeprefix(f"https://{host}")
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: {host}",
        f"Accept: {_ACCEPT}",
        "Accept-Encoding: identity",
        f"User-Agent: kwaainet/{__version__}",
        "Connection: close",
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")


async def _first_answer(
    addresses: list[tuple[str, int]], name: str, request: bytes, context: ssl.SSLContext | None
) -> bytes:
    """Ask the first address that takes a connection. Raises OSError when none does."""
    failure: OSError = OSError(f"{name} has no address")
    for address, port in addresses:
        try:
            reader, writer = await asyncio.open_connection(
                address,
                port,
                ssl=context or ssl.create_default_context(),
                server_hostname=name,
                limit=DID_WEB_HEADER_BYTES_MAX,
            )
        except OSError as error:
            failure = error
            continue
        try:
            writer.write(request)
            await writer.drain()
            return await _answer(reader, name)
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError) as error:
            raise DidNotFound(f"{name} sent no well-formed answer: {error}") from error
        finally:
            writer.transport.abort()  # Connection: close was asked for, nothing is left to say
    raise failure


async def _answer(reader: asyncio.StreamReader, name: str) -> bytes:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    status_line, *lines = head.rstrip("\r\n").split("\r\n")
    version, status, *_ = f"{status_line}  ".split(" ")
    if not version.startswith("HTTP/1.") or status != "200":
        raise DidNotFound(f"{name} answered {status_line!r:.80}, not 200; redirects are refused")
    headers: dict[str, str] = {}
    for line in lines:
        key, colon, value = line.partition(":")
        if not colon or key.lower() in headers:
            continue  # of two that contradict each other the first counts
        headers[key.lower()] = value.strip()
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise DidNotFound(f"{name} compressed its answer, which was not asked for")
    coding = headers.get("transfer-encoding", "").lower()
    if coding:
        if coding != "chunked":
            raise DidNotFound(f"{name} used the transfer coding {coding!r:.80}")
        return await _chunked(reader)
    length = headers.get("content-length")
    if length is None:
        return await _until_end(reader)
    if not length.isascii() or not length.isdigit() or len(length) > 9:
        raise DidNotFound(f"{name} gave a Content-Length of {length!r:.80}")
    return await reader.readexactly(_fitting(int(length)))


async def _until_end(reader: asyncio.StreamReader) -> bytes:
    body = bytearray()
    while data := await reader.read(DID_WEB_HEADER_BYTES_MAX):
        body += data
        _fitting(len(body))
    return bytes(body)


async def _chunked(reader: asyncio.StreamReader) -> bytes:
    """RFC 9112, section 7.1. What follows the last chunk is not read."""
    body = bytearray()
    for _ in range(_CHUNKS_MAX):
        line = await reader.readuntil(b"\r\n")
        size_text = line.partition(b";")[0].strip()
        if len(line) > _CHUNK_LINE_BYTES_MAX or not size_text.isalnum():
            raise ValueError("a chunk has no size")
        size = int(size_text, 16)
        if size == 0:
            return bytes(body)
        _fitting(len(body) + size)
        body += (await reader.readexactly(size + 2))[:size]
    raise ValueError("there are too many chunks")


def _fitting(size: int) -> int:
    if size > DID_WEB_BODY_BYTES_MAX:
        raise DidNotFound(f"a DID document has at most {DID_WEB_BODY_BYTES_MAX} bytes, not {size}")
    return size
