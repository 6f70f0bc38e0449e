"""Protocols on top of a host's streams: identify, ping, requests. Trio only.

identify and ping are libp2p's own, byte for byte; requests are ours. docs/protocol/discovery.md.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

import trio
from google.protobuf.message import DecodeError
from libp2p.identity.identify.pb.identify_pb2 import Identify

import kwaai
from credentials.keys import PeerId
from kwaai import limits
from kwaai.errors import KwaaiError, PeerMisbehaved, PeerRefused
from kwaai.log import get_logger
from kwaai.net.libp2p_host import Conn, Host
from kwaai.net.libp2p_stream import P2pStream
from kwaai.net.libp2p_wire import encode_message, read_exactly, read_message
from kwaai.net.multiaddrs import Address, decode_multiaddrs, encode_multiaddr, peer_id_bytes

log = get_logger(__name__)
IDENTIFY = "/ipfs/id/1.0.0"
IDENTIFY_PUSH = "/ipfs/id/push/1.0.0"
PING = "/ipfs/ping/1.0.0"
PROTOCOL_VERSION = "ipfs/0.1.0"
PING_BYTES = 32
PINGS_PER_STREAM_MAX = 1024
ANSWER, REFUSAL = 0, 1


@dataclass(frozen=True, slots=True)
class Identity:
    """What a peer says about itself."""

    agent: str
    protocols: frozenset[str]
    addresses: tuple[Address, ...]


# --- identify


def encode_identify(host: Host, addresses: Iterable[Address], observed: Address | None) -> bytes:
    """Encode what this node says about itself to one peer."""
    message = Identify(
        protocol_version=PROTOCOL_VERSION,
        agent_version=f"kwaainet/{kwaai.__version__}",
        public_key=peer_id_bytes(host.peer_id)[2:],
        listen_addrs=[encode_multiaddr(address) for address in addresses],
        protocols=sorted(host.handlers),
    )
    if observed is not None:
        message.observed_addr = encode_multiaddr(observed)
    return message.SerializeToString()


def parse_identify(data: bytes, peer: PeerId) -> Identity:
    """Parse what a peer says about itself. Raises PeerMisbehaved."""
    try:
        message = Identify.FromString(data)
    except DecodeError as error:
        raise PeerMisbehaved(f"{peer} sent an identify message that is none", peer=peer) from error
    if message.public_key and message.public_key != peer_id_bytes(peer)[2:]:
        raise PeerMisbehaved(f"{peer} identified itself with another key", peer=peer)
    protocols = [name for name in message.protocols if len(name) <= limits.P2P_PROTOCOL_CHARS_MAX]
    agent = message.agent_version[: limits.P2P_AGENT_CHARS_MAX]
    return Identity(
        "".join(c if c.isprintable() else "?" for c in agent),
        frozenset(protocols[: limits.P2P_PROTOCOLS_MAX]),
        decode_multiaddrs(message.listen_addrs, peer),
    )


async def fetch_identify(host: Host, peer: PeerId) -> Identity:
    """Ask a connected peer about itself. Raises PeerError; the caller sets the deadline."""
    stream = await host.open_stream(peer, IDENTIFY)
    try:
        data = await read_message(stream, limits.P2P_IDENTIFY_BYTES_MAX)
    except BaseException:
        stream.drop()
        raise
    await stream.close()
    return parse_identify(data, peer)


# --- ping


async def serve_ping(stream: P2pStream, protocol: str) -> None:
    """Send every 32 bytes back, for a while."""
    for _ in range(PINGS_PER_STREAM_MAX):
        with trio.move_on_after(limits.P2P_STALL_TIMEOUT_S):
            first = await stream.read(PING_BYTES)
            if not first:
                return
            rest = b""
            if len(first) < PING_BYTES:
                rest = await read_exactly(stream, PING_BYTES - len(first))
            await stream.write(first + rest)
            continue
        return


async def ping(host: Host, peer: PeerId) -> float:
    """Return the seconds of one round trip to a connected peer. Raises PeerError."""
    stream = await host.open_stream(peer, PING)
    try:
        sent = secrets.token_bytes(PING_BYTES)
        start_s = time.perf_counter()
        await stream.write(sent)
        echo = await read_exactly(stream, PING_BYTES)
        rtt_s = time.perf_counter() - start_s
    except BaseException:
        stream.drop()
        raise
    await stream.close()
    if echo != sent:
        raise PeerMisbehaved(f"{peer} answered a ping with other bytes", peer=peer)
    return rtt_s


# --- requests


def encode_request(body: bytes) -> bytes:
    """Encode a request: its length in four bytes, and its body."""
    return len(body).to_bytes(4, "big") + body


async def request(host: Host, peer: PeerId, protocol: str, body: bytes) -> bytes:
    """Ask a connected peer. Raises PeerError (PeerRefused with the peer's reason)."""
    stream = await host.open_stream(peer, protocol, encode_request(body))
    try:
        status = (await read_exactly(stream, 1))[0]
        answer = await _read_sized(stream, peer)
    except BaseException:
        stream.drop()
        raise
    await stream.close()
    if status == ANSWER:
        return answer
    if status != REFUSAL or len(answer) > 4 * limits.P2P_REFUSAL_CHARS_MAX:
        raise PeerMisbehaved(f"{peer} answered {protocol} with status {status}", peer=peer)
    reason = answer.decode("utf-8", "replace")[: limits.P2P_REFUSAL_CHARS_MAX]
    shown = "".join(c if c.isprintable() else " " for c in reason)
    raise PeerRefused(f"{peer} refused: {shown}", peer=peer)


async def serve_request(
    stream: P2pStream, protocol: str, answer: Callable[[PeerId, bytes], Awaitable[bytes]]
) -> None:
    """Read one request, and send what `answer` returns or why it refuses."""
    with trio.fail_after(limits.P2P_TIMEOUT_S):
        body = await _read_sized(stream, stream.peer)
    status = ANSWER
    try:
        reply = await answer(stream.peer, body)
        if len(reply) > limits.P2P_MESSAGE_BYTES_MAX:
            raise PeerRefused("the answer would be too long")
    except KwaaiError as error:
        status, reply = REFUSAL, error.message[: limits.P2P_REFUSAL_CHARS_MAX].encode()
    except Exception as error:  # a handler's bug ends one request
        log.error("p2p_handler_failed", protocol=protocol, reason=repr(error))
        status, reply = REFUSAL, b"the peer failed to answer; its log says why"
    await stream.write(bytes([status]) + encode_request(reply))


async def _read_sized(stream: P2pStream, peer: PeerId) -> bytes:
    size = int.from_bytes(await read_exactly(stream, 4), "big")
    if size > limits.P2P_MESSAGE_BYTES_MAX:
        raise PeerMisbehaved(f"{peer} announced a message of {size} bytes", peer=peer)
    return await read_exactly(stream, size)


def add_identify(host: Host, addresses: Callable[[Conn], Iterable[Address]]) -> None:
    """Answer identify on `host`; `addresses` are those that a peer may be told."""

    async def serve(stream: P2pStream, protocol: str) -> None:
        conn = host.conn(stream.peer)
        told = addresses(conn) if conn else ()
        observed = conn.address if conn else None
        await stream.write(encode_message(encode_identify(host, told, observed)))

    host.handlers[IDENTIFY] = serve
