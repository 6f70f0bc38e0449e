"""Small pieces of libp2p's connections: sockets, multistream-select, messages with a length.

Trio only. Every length is checked before it is believed. multiformats/multistream-select.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Container
from typing import Any, Protocol

import trio
from libp2p.abc import IRawConnection
from libp2p.connection_types import ConnectionType
from libp2p.io.exceptions import ConnectionClosedError

from kwaai import limits
from kwaai.errors import PeerLost, PeerMisbehaved, PeerRefused, PortInUse, UserError
from kwaai.net.multiaddrs import Address, decode_varint, encode_varint

MULTISTREAM = "/multistream/1.0.0"
_REFUSAL = "na"
_READ_BYTES = 64 * 1024


class ByteStream(Protocol):
    """What multistream-select and messages need: `read` returns b"" at the end."""

    async def read(self, n: int) -> bytes: ...

    async def write(self, data: bytes) -> None: ...


class RawSocket(IRawConnection):
    """A TCP connection as py-libp2p wants it; reads are buffered and exact."""

    def __init__(self, stream: trio.SocketStream, is_initiator: bool) -> None:
        self._stream = stream
        self._buffer = bytearray()
        self.is_initiator = is_initiator

    async def read(self, n: int | None = None) -> bytes:
        """Read exactly `n` bytes, fewer only at the end; or what there is."""
        while len(self._buffer) < (n or 1):
            try:
                data = await self._stream.receive_some(_READ_BYTES)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise ConnectionClosedError(
                    "the peer broke the connection", transport="tcp"
                ) from error
            if not data:
                break
            self._buffer += data
        taken = bytes(self._buffer[:n] if n is not None else self._buffer)
        del self._buffer[: len(taken)]
        return taken

    async def write(self, data: bytes) -> None:
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectionClosedError("the connection is closed", transport="tcp") from error

    async def close(self) -> None:
        await self._stream.aclose()

    def get_remote_address(self) -> tuple[str, int] | None:
        return None

    def get_transport_addresses(self) -> list[Any]:
        return []

    def get_connection_type(self) -> ConnectionType:
        return ConnectionType.DIRECT


async def open_listener(address: Address) -> trio.SocketListener:
    """Listen on an IP address. Raises PortInUse, UserError."""
    family = socket.AF_INET6 if address.kind == "ip6" else socket.AF_INET
    if not address.is_ip:
        raise UserError(f"{address}: a listen address is an IP address, not a name")
    sock = trio.socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        await sock.bind((address.host, address.port))
        sock.listen(128)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(
                f"port {address.port} on {address.host} is in use; end what uses it, or choose "
                "another with --port"
            ) from error
        if error.errno == errno.EADDRNOTAVAIL:
            raise UserError(
                f"{address.host} is not an address of this machine; choose another with "
                "--listen-host"
            ) from error
        raise UserError(f"cannot listen on {address}: {error.strerror or error}") from error
    return trio.SocketListener(sock)


def encode_line(text: str) -> bytes:
    """Encode one multistream-select message: a length, the text, a newline."""
    line = text.encode() + b"\n"
    return encode_varint(len(line)) + line


async def read_line(stream: ByteStream) -> str:
    """Read one multistream-select message. Raises PeerLost, PeerMisbehaved."""
    line = await read_message(stream, limits.P2P_PROTOCOL_CHARS_MAX)
    if not line.endswith(b"\n") or not line.isascii():
        raise _misbehaved(stream, "sent something other than multistream-select")
    return line[:-1].decode("ascii")


async def offer_protocol(stream: ByteStream, protocol: str, payload: bytes = b"") -> None:
    """Ask for one protocol, and send `payload` along in the same breath (one round trip less).

    Raises PeerRefused when the peer does not speak it.
    """
    await stream.write(encode_line(MULTISTREAM) + encode_line(protocol) + payload)
    await expect_protocol(stream, protocol)


async def expect_protocol(stream: ByteStream, protocol: str) -> None:
    """Read the peer's answer to an offer."""
    if await read_line(stream) != MULTISTREAM:
        raise _misbehaved(stream, "does not speak multistream-select 1.0.0")
    answer = await read_line(stream)
    if answer == _REFUSAL:
        raise PeerRefused(f"{name_of(stream)} does not speak {protocol}", peer=_peer_of(stream))
    if answer != protocol:
        raise _misbehaved(stream, f"answered an offer of {protocol} with another protocol")


async def accept_protocol(
    stream: ByteStream, known: Container[str], listed: Callable[[], list[str]] = list
) -> str:
    """Answer a peer's offers until one is known; return it. Raises PeerLost, PeerMisbehaved."""
    await stream.write(encode_line(MULTISTREAM))
    if await read_line(stream) != MULTISTREAM:
        raise _misbehaved(stream, "does not speak multistream-select 1.0.0")
    for _ in range(limits.P2P_PROTOCOL_TRIES_MAX):
        offer = await read_line(stream)
        if offer == "ls":
            lines = b"".join(map(encode_line, listed())) + b"\n"
            await stream.write(encode_varint(len(lines)) + lines)
        elif offer in known:
            await stream.write(encode_line(offer))
            return offer
        else:
            await stream.write(encode_line(_REFUSAL))
    raise _misbehaved(stream, "offered too many protocols that are not spoken here")


async def read_exactly(stream: ByteStream, n: int) -> bytes:
    """Read `n` bytes. Raises PeerLost when the stream ends before."""
    out = bytearray()
    while len(out) < n:
        data = await stream.read(n - len(out))
        if not data:
            raise PeerLost(
                f"{name_of(stream)} ended a stream after {len(out)} of {n} bytes",
                peer=_peer_of(stream),
            )
        out += data
    return bytes(out)


async def read_message(stream: ByteStream, bytes_max: int) -> bytes:
    """Read a message with a varint length before it. Raises PeerLost, PeerMisbehaved."""
    head = b""
    while (decoded := decode_varint(head)) is None:
        if len(head) == 5:
            raise _misbehaved(stream, "sent a length that is none")
        head += await read_exactly(stream, 1)
    if decoded[0] > bytes_max:
        raise _misbehaved(stream, f"announced {decoded[0]} bytes; at most {bytes_max} may come")
    return await read_exactly(stream, decoded[0])


def encode_message(message: bytes) -> bytes:
    """Put a varint length before a message."""
    return encode_varint(len(message)) + message


def name_of(stream: object) -> str:
    """Name whoever is at the other end, as far as that is known."""
    return _peer_of(stream) or "the peer"


def _peer_of(stream: object) -> str | None:
    peer = getattr(stream, "peer", None)
    return peer if isinstance(peer, str) else None


def _misbehaved(stream: object, what: str) -> PeerMisbehaved:
    return PeerMisbehaved(f"{name_of(stream)} {what}", peer=_peer_of(stream))
