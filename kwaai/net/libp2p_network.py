"""libp2p as a `Network`: TCP, Noise and Yamux by py-libp2p, whose loop (trio) has its own thread.

The face to the node; asyncio only. Does not import libp2p before `start`, so that the command line
stays fast. docs/protocol/discovery.md has the protocols byte by byte.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple

from credentials.keys import PeerId, SecretKey, peer_id
from kwaai import limits
from kwaai.errors import PeerStalled, PeerUnreachable, ResourceError, UserError
from kwaai.log import get_logger
from kwaai.net.bridge import Bridge
from kwaai.net.libp2p_bridged import BridgedStream, drop, serve_on
from kwaai.net.mdns import Mdns
from kwaai.net.multiaddrs import Address, keep_addresses, parse_multiaddr, parse_peer_multiaddr
from kwaai.net.network import (
    Connection,
    PeerListener,
    RequestHandler,
    Stream,
    StreamHandler,
    Validator,
)

if TYPE_CHECKING:
    from kwaai.net.libp2p_node import P2pNode

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
log = get_logger(__name__)
DIGEST_BYTES = 32


class Libp2pNetwork:
    """One libp2p node. Everything but the constructor belongs to one asyncio loop.

    `listen`, `announce`: multiaddrs (`/ip4/0.0.0.0/tcp/8080`; port 0 for any); `announce` adds what
    a router forwards to this node. `bootstrap`: multiaddrs with /p2p/<id>, dialled for ever.
    `state_path`: where known peers are kept. Raises UserError for an address that is none.

    Validators are called in the network's thread: they must be plain functions of their arguments.
    """

    def __init__(
        self,
        secret: SecretKey,
        listen: Sequence[str] = ("/ip4/0.0.0.0/tcp/0",),
        *,
        bootstrap: Sequence[str] = (),
        state_path: Path | None = None,
        mdns: bool = False,
        announce: Sequence[str] = (),
        heartbeat_s: float = limits.P2P_HEARTBEAT_S,
    ) -> None:
        self._secret = secret
        self._peer_id = peer_id(secret.public)
        self._listen = [parse_multiaddr(text)[0] for text in listen]
        self._announce = [parse_multiaddr(text)[0] for text in announce]
        self._bootstrap = [parse_peer_multiaddr(text) for text in bootstrap]
        self._state_path = state_path
        self._mdns = Mdns(self._peer_id, self._peer_found) if mdns else None
        self._heartbeat_s = heartbeat_s
        self._bridge: Bridge | None = None
        self._node: P2pNode | None = None
        self._connections: dict[PeerId, Connection] = {}
        self._listeners: list[PeerListener] = []
        self._handlers: dict[str, tuple[bool, Callable[..., Awaitable[Any]]]] = {}
        self._validators: dict[str, Validator] = {}
        self._mdns_task: asyncio.Task[None] | None = None
        self.failure = ""
        """Why the network's thread ended by itself; empty while it has not."""

    @property
    def peer_id(self) -> PeerId:
        return self._peer_id

    def addresses(self) -> tuple[str, ...]:
        """Return multiaddrs with /p2p/<id> under which this node listens; empty unless started."""
        if self._node is None:
            return ()
        return tuple(f"{address}/p2p/{self._peer_id}" for address in self._node.addresses())

    @property
    def counters(self) -> dict[str, int]:
        """What was refused and cut off, by reason."""
        if self._node is None:
            return {}
        dht = {f"dht_{name}": value for name, value in dict(self._node.kad.counters).items()}
        return dict(self._node.host.counters) | dht

    # --- life

    async def start(self) -> None:
        """Listen, and connect to bootstrap and known peers in the background.

        Raises PortInUse, UserError (an address that is not this machine's).
        """
        if self._bridge is not None:
            return
        self._bridge = Bridge()
        try:
            self._node = await self._bridge.start(self._serve, self._died)
        except BaseException:
            bridge, self._bridge = self._bridge, None
            await bridge.stop()
            raise
        if self._mdns is not None:
            self._mdns_task = asyncio.create_task(self._mdns.run(self._mdns_addresses))

    async def stop(self) -> None:
        """Close everything. Idempotent."""
        task, self._mdns_task = self._mdns_task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        bridge, self._bridge = self._bridge, None
        if bridge is not None:
            await bridge.stop()
        self._node = None
        for peer in list(self._connections):
            self._change(peer, None)

    async def _serve(self, task_status: Any) -> None:
        """The trio side: imported and run in the network's thread."""
        import trio

        from kwaai.net.libp2p_node import P2pNode

        bridge = self._bridge
        assert bridge is not None
        node = P2pNode(
            self._secret,
            bootstrap=self._bootstrap,
            announce=self._announce,
            state_path=self._state_path,
            on_change=lambda peer, connection: bridge.post(self._change, peer, connection),
            heartbeat_s=self._heartbeat_s,
        )
        node.kad.validators.update(self._validators)
        for protocol, (is_stream, handler) in self._handlers.items():
            node.host.handlers[protocol] = serve_on(bridge, is_stream, handler)
        async with trio.open_nursery() as nursery:
            await nursery.start(node.run, self._listen)
            task_status.started(node)

    def _died(self, reason: str) -> None:
        self.failure = reason
        for peer in list(self._connections):
            self._change(peer, None)

    # --- connections

    async def connect(self, address: str, timeout_s: float = limits.P2P_TIMEOUT_S) -> PeerId:
        """Connect to a multiaddr that ends in /p2p/<id>. Raises PeerUnreachable, UserError."""
        where, peer = parse_peer_multiaddr(address)
        await self._connect(peer, (where,), timeout_s, False)
        return peer

    async def connect_peer(
        self, peer: PeerId, addresses: Sequence[str] = (), timeout_s: float = limits.P2P_TIMEOUT_S
    ) -> None:
        """Connect to a peer by given, known or DHT addresses. Raises PeerUnreachable."""
        await self._connect(peer, keep_addresses(addresses, peer), timeout_s, True)

    async def _connect(
        self, peer: PeerId, addresses: Sequence[Address], timeout_s: float, ask_dht: bool
    ) -> None:
        node = self._running()

        async def connect() -> None:
            await node.connect(peer, addresses, timeout_s, ask_dht=ask_dht)

        try:
            await self._call(connect, timeout_s=timeout_s)
        except TimeoutError as error:
            raise PeerUnreachable(f"{peer} does not answer", peer=peer) from error

    async def disconnect(self, peer: PeerId) -> None:
        """Close all connections to `peer`; it is not dialled from here for a minute."""
        await self._call(self._running().disconnect, peer, timeout_s=limits.P2P_TIMEOUT_S)

    def connections(self) -> tuple[Connection, ...]:
        """The peers connected now."""
        return tuple(self._connections.values())

    def add_listener(self, listener: PeerListener) -> None:
        """Be told of peers that come and go."""
        self._listeners.append(listener)

    def _change(self, peer: PeerId, connection: Connection | None) -> None:
        was_connected = peer in self._connections
        if connection is None:
            self._connections.pop(peer, None)
        else:
            self._connections[peer] = connection
        if was_connected == (connection is not None):
            return
        for listener in list(self._listeners):
            listener(peer, connection is not None)

    async def _peer_found(self, peer: PeerId, addresses: Sequence[str]) -> None:
        """mDNS found a node on this network."""
        if self._node is not None and peer not in self._connections:
            await self.connect_peer(peer, addresses)

    def _mdns_addresses(self) -> tuple[str, ...]:
        return self.addresses()

    # --- ping, requests, streams

    async def ping(self, peer: PeerId, timeout_s: float = limits.P2P_TIMEOUT_S) -> float:
        """Return the seconds of one round trip. Connects when needed."""
        from kwaai.net.libp2p_services import ping

        node = self._running()
        return await self._ask(node, peer, timeout_s, "a ping", lambda: ping(node.host, peer))

    async def request(
        self, peer: PeerId, protocol: str, body: bytes, timeout_s: float = limits.P2P_TIMEOUT_S
    ) -> bytes:
        """Ask a peer one thing; bodies have at most P2P_MESSAGE_BYTES_MAX. Connects when needed.

        Raises PeerUnreachable, PeerLost, PeerStalled, PeerRefused; UserError for a longer body.
        """
        from kwaai.net.libp2p_services import request

        if len(body) > limits.P2P_MESSAGE_BYTES_MAX:
            raise UserError(
                f"a request has at most {limits.P2P_MESSAGE_BYTES_MAX} bytes, not {len(body)}"
            )
        node = self._running()
        return await self._ask(
            node, peer, timeout_s, protocol, lambda: request(node.host, peer, protocol, body)
        )

    async def open_stream(
        self, peer: PeerId, protocol: str, timeout_s: float = limits.P2P_TIMEOUT_S
    ) -> Stream:
        """Open a stream. Connects when needed. Raises PeerUnreachable, PeerRefused."""
        node = self._running()
        bridge = self._bridge
        assert bridge is not None
        stream = await self._ask(
            node,
            peer,
            timeout_s,
            protocol,
            lambda: node.host.open_stream(peer, protocol),
            dispose=drop,
        )
        return BridgedStream(bridge, stream)

    def handle_requests(self, protocol: str, handler: RequestHandler) -> None:
        """Answer requests for `protocol` (before or after start)."""
        self._handle(protocol, False, handler)

    def handle_streams(self, protocol: str, handler: StreamHandler) -> None:
        """Accept streams of `protocol`; the stream is closed when the handler returns."""
        self._handle(protocol, True, handler)

    def _handle(
        self, protocol: str, is_stream: bool, handler: Callable[..., Awaitable[Any]]
    ) -> None:
        if not protocol.startswith("/") or len(protocol) >= limits.P2P_PROTOCOL_CHARS_MAX:
            raise UserError(f"{protocol!r} is no protocol name: it begins with / and is short")
        self._handlers[protocol] = (is_stream, handler)
        if self._node is not None and self._bridge is not None:
            self._node.host.handlers[protocol] = serve_on(self._bridge, is_stream, handler)

    async def _ask(
        self,
        node: P2pNode,
        peer: PeerId,
        timeout_s: float,
        what: str,
        fn: Callable[[], Awaitable[T]],
        dispose: Callable[[T], Awaitable[None]] | None = None,
    ) -> T:
        """Connect when needed, then run `fn` on the trio side, all within `timeout_s`."""

        async def ask() -> T:
            import trio

            deadline = trio.current_time() + timeout_s
            await node.connect(peer, (), timeout_s)
            with trio.CancelScope(deadline=deadline):
                return await fn()
            raise _stalled(peer, what, timeout_s)

        try:
            return await self._call(ask, timeout_s=timeout_s, dispose=dispose)
        except TimeoutError as error:
            raise _stalled(peer, what, timeout_s) from error

    # --- the DHT

    def add_validator(self, namespace: str, validator: Validator) -> None:
        """Store and return values under `/namespace/...` only when `validator` accepts them.
        Before start.
        """
        self._validators[namespace] = validator

    async def put_value(
        self, key: bytes, value: bytes, timeout_s: float = limits.P2P_TIMEOUT_S
    ) -> int:
        """Publish a value; return how many other nodes took it in time. Raises KwaaiError for one
        that the validator refuses.
        """
        return await self._in_time(self._running().kad.put, key, value, timeout_s=timeout_s) or 0

    async def get_value(self, key: bytes, timeout_s: float = limits.P2P_TIMEOUT_S) -> bytes | None:
        """Return the best valid value that the network has now (never a stale local copy)."""
        return await self._in_time(self._running().kad.get, key, timeout_s=timeout_s)

    async def provide(self, key: bytes, timeout_s: float = limits.P2P_TIMEOUT_S) -> None:
        """Announce that this node has something for `key` (32 bytes, a SHA-256).

        Nodes forget it after DHT_PROVIDER_TTL_S or longer: say it again before.
        """
        _check_digest(key)
        await self._in_time(self._running().kad.provide, key, timeout_s=timeout_s)

    async def find_providers(
        self, key: bytes, timeout_s: float = limits.P2P_TIMEOUT_S
    ) -> tuple[tuple[PeerId, tuple[str, ...]], ...]:
        """Return peers (not this one) that say they have something for `key`, with addresses."""
        _check_digest(key)
        found = await self._in_time(self._running().kad.find_providers, key, timeout_s=timeout_s)
        return tuple(
            (peer, tuple(f"{address}/p2p/{peer}" for address in addresses))
            for peer, addresses in (found or {}).items()
        )

    async def _in_time(
        self, fn: Callable[[*Ts], Awaitable[T]], *args: *Ts, timeout_s: float
    ) -> T | None:
        async def run() -> T | None:
            import trio

            with trio.move_on_after(timeout_s):
                return await fn(*args)
            return None

        return await self._call(run, timeout_s=timeout_s)

    # --- inside

    async def _call(
        self,
        fn: Callable[[*Ts], Awaitable[T]],
        *args: *Ts,
        timeout_s: float,
        dispose: Callable[[T], Awaitable[None]] | None = None,
    ) -> T:
        if self._bridge is None:
            raise _not_running()
        return await self._bridge.call(fn, *args, timeout_s=timeout_s, dispose=dispose)

    def _running(self) -> P2pNode:
        if self._node is None:
            raise _not_running()
        return self._node


def _check_digest(key: bytes) -> None:
    if len(key) != DIGEST_BYTES:
        raise UserError(f"a provider's key has {DIGEST_BYTES} bytes (a SHA-256), not {len(key)}")


def _stalled(peer: PeerId, what: str, timeout_s: float) -> PeerStalled:
    return PeerStalled(f"{peer} did not answer {what} within {timeout_s:g} s", peer=peer)


def _not_running() -> ResourceError:
    return ResourceError("the libp2p network is not running; start the node")
