"""What the node asks of a peer-to-peer network: connect, ask, answer, publish, find.

Types only. `kwaai.net.libp2p_network` is libp2p; `kwaai.testing.network` is memory, and both pass
tests/contract. Everything belongs to one asyncio loop. Nothing here is believed: a value that comes
out of `get_value` or `request` is checked by whoever asked for it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from credentials.keys import PeerId

RequestHandler: TypeAlias = Callable[[PeerId, bytes], Awaitable[bytes]]
"""Answers a request: (who asks, body) -> body. Raising KwaaiError refuses it."""


class Stream(Protocol):
    """An ordered, reliable stream of bytes to one peer, whose PeerId is proven."""

    async def read(self, most: int) -> bytes:
        """Read 1 to `most` bytes; b"" at the end. Raises PeerError when the connection is lost."""

    async def write(self, data: bytes) -> None:
        """Write all of `data`, waiting while the peer does not read. Raises PeerError."""

    async def close(self) -> None:
        """End both directions. Idempotent; never raises."""


StreamHandler: TypeAlias = Callable[[PeerId, Stream], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Connection:
    """A peer that we are connected to now."""

    peer: PeerId
    address: str
    """A multiaddr, without /p2p."""
    direction: Literal["inbound", "outbound"]
    since_s: float
    """Unix seconds."""
    rtt_s: float | None = None
    """The last round trip measured by the heartbeat."""
    agent: str = ""
    """What identify said."""


PeerListener: TypeAlias = Callable[[PeerId, bool], None]
"""Told (peer, True) when a peer connects, and (peer, False) when the last connection to it ends."""
Validator: TypeAlias = Callable[[bytes, bytes], int]
"""Checks (key, value) of a record from the network and returns its sequence number; of two valid
values the higher wins. Raises KwaaiError for what may not be stored.
"""


class Network(Protocol):
    """One node's place in the network. Every wait has a deadline; every failure is a KwaaiError."""

    @property
    def peer_id(self) -> PeerId:
        """Who this node is."""

    def addresses(self) -> tuple[str, ...]:
        """Multiaddrs under which this node listens, each with /p2p/<id>; empty before start."""

    async def start(self) -> None:
        """Listen, and connect to bootstrap and known peers in the background."""

    async def stop(self) -> None:
        """Close everything. Idempotent."""

    async def connect(self, address: str, timeout_s: float = ...) -> PeerId:
        """Connect to a multiaddr that ends in /p2p/<id>. Raises PeerUnreachable, UserError."""

    async def connect_peer(
        self, peer: PeerId, addresses: Sequence[str] = (), timeout_s: float = ...
    ) -> None:
        """Connect to a peer by known, given or DHT addresses. Raises PeerUnreachable."""

    async def disconnect(self, peer: PeerId) -> None:
        """Close all connections to `peer`."""

    def connections(self) -> tuple[Connection, ...]:
        """The peers connected now."""

    def add_listener(self, listener: PeerListener) -> None:
        """Be told of peers that come and go."""

    async def ping(self, peer: PeerId, timeout_s: float = ...) -> float:
        """Return the seconds of one round trip. Connects when needed."""

    def handle_requests(self, protocol: str, handler: RequestHandler) -> None:
        """Answer requests for `protocol` (before or after start)."""

    async def request(
        self, peer: PeerId, protocol: str, body: bytes, timeout_s: float = ...
    ) -> bytes:
        """Ask a peer one thing. Bodies are at most limits.P2P_MESSAGE_BYTES_MAX. Connects when
        needed. Raises PeerUnreachable, PeerLost, PeerStalled, PeerRefused.
        """

    def handle_streams(self, protocol: str, handler: StreamHandler) -> None:
        """Accept streams of `protocol`; the stream is closed when the handler returns."""

    async def open_stream(self, peer: PeerId, protocol: str, timeout_s: float = ...) -> Stream:
        """Open a stream. Connects when needed. Raises PeerUnreachable, PeerRefused."""

    def add_validator(self, namespace: str, validator: Validator) -> None:
        """Store and return values under `/namespace/...` only when `validator` accepts them.
        Before start.
        """

    async def put_value(self, key: bytes, value: bytes, timeout_s: float = ...) -> int:
        """Publish a value; return how many other nodes took it. Raises PeerError."""

    async def get_value(self, key: bytes, timeout_s: float = ...) -> bytes | None:
        """Return the best valid value that the network has now (never a stale local copy)."""

    async def provide(self, key: bytes, timeout_s: float = ...) -> None:
        """Announce that this node has something for `key` (32 bytes, a SHA-256)."""

    async def find_providers(
        self, key: bytes, timeout_s: float = ...
    ) -> tuple[tuple[PeerId, tuple[str, ...]], ...]:
        """Return peers that say they have something for `key`, each once, with addresses."""
