"""A network in memory: many nodes in one loop, with delay, loss, partitions and crashes as told,
and chance that is the same for the same seed.

Passes the same contract as libp2p (tests/contract/test_network_contract.py). Loss loses a request
or an answer, so that whoever asked waits until its deadline; a stream loses nothing. Runs on the
real clock as well as on that of `kwaai.testing.clock`.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeVar

from credentials.keys import PeerId, SecretKey, parse_peer_id, peer_id
from kwaai import limits
from kwaai.errors import (
    KwaaiError,
    PeerLost,
    PeerRefused,
    PeerStalled,
    PeerUnreachable,
    UserError,
)
from kwaai.net.network import (
    Connection,
    PeerListener,
    RequestHandler,
    StreamHandler,
    Validator,
)
from kwaai.testing.dht import MemoryDht
from kwaai.testing.streams import MemoryStream, stream_pair

T = TypeVar("T")


class Link:
    """A connection between two nodes."""

    def __init__(self, dialer: MemoryNetwork, listener: MemoryNetwork, since_s: float) -> None:
        self.dialer = dialer
        self.listener = listener
        self.since_s = since_s
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.streams: list[MemoryStream] = []

    def other(self, node: MemoryNetwork) -> MemoryNetwork:
        """Return the node at the other end."""
        return self.listener if node is self.dialer else self.dialer


class MemorySwarm:
    """The world that the nodes share: who can reach whom, how fast, and how surely."""

    def __init__(
        self,
        seed: int = 0,
        *,
        delay_s: tuple[float, float] = (0.0005, 0.002),
        loss: float = 0.0,
        detect_s: float = 2.0,
        redial_s: float = 1.0,
    ) -> None:
        self.rng = random.Random(seed)
        self.delay_s = delay_s
        """Least and most seconds of one way."""
        self.loss = loss
        """Share of requests and answers that never arrive."""
        self.detect_s = detect_s
        """Until a node notices that the other end of a connection is gone."""
        self.redial_s = redial_s
        self.nodes: dict[PeerId, MemoryNetwork] = {}
        """Those that run."""
        self.requests = 0
        """Requests sent, all nodes together."""
        self.request_bytes = 0
        """In them and in their answers."""
        self._groups: tuple[frozenset[PeerId], ...] = ()
        self._addresses = 0

    def new_address(self) -> str:
        """Return a multiaddr that no other node has."""
        self._addresses += 1
        return f"/ip4/10.{'.'.join(map(str, self._addresses.to_bytes(3, 'big')))}/tcp/4001"

    def partition(self, *groups: Iterable[PeerId]) -> None:
        """Cut the groups off from one another, until `heal`. Who is in none is cut off from all."""
        self._groups = tuple(frozenset(group) for group in groups)
        self._cut_later()

    def heal(self) -> None:
        """Let everybody reach everybody again."""
        self._groups = ()

    def crash(self, peer: PeerId) -> None:
        """Have a node vanish without a word. The others notice after `detect_s`."""
        node = self.nodes.pop(peer)
        node.crash()
        self._cut_later()

    def can_reach(self, a: PeerId, b: PeerId) -> bool:
        """Tell whether both run and no partition is between them."""
        if a not in self.nodes or b not in self.nodes:
            return False
        return not self._groups or any(a in group and b in group for group in self._groups)

    async def travel(self, a: PeerId, b: PeerId) -> bool:
        """Take the time of one way, and tell whether what was sent has arrived."""
        await asyncio.sleep(self.rng.uniform(*self.delay_s))
        return self.can_reach(a, b) and self.rng.random() >= self.loss

    def _cut_later(self) -> None:
        asyncio.get_running_loop().call_later(self.detect_s, self._cut)

    def _cut(self) -> None:
        for node in tuple(self.nodes.values()):
            for peer, link in tuple(node.links.items()):
                if not self.can_reach(node.peer_id, peer):
                    cut(link)


class MemoryNetwork:
    """One node of a MemorySwarm; a `kwaai.net.network.Network`."""

    def __init__(
        self,
        swarm: MemorySwarm,
        secret: SecretKey,
        *,
        bootstrap: Sequence[str] = (),
        address: str | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.swarm = swarm
        self.links: dict[PeerId, Link] = {}
        self.dht = MemoryDht(self)
        self._peer_id = peer_id(secret.public)
        self._address = f"{address or swarm.new_address()}/p2p/{self._peer_id}"
        self._known = dict.fromkeys(bootstrap)
        self._now = now
        self._rtt_s: dict[PeerId, float] = {}
        self._listeners: list[PeerListener] = []
        self._requests: dict[str, RequestHandler] = {}
        self._streams: dict[str, StreamHandler] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._runs = False

    @property
    def peer_id(self) -> PeerId:
        return self._peer_id

    def addresses(self) -> tuple[str, ...]:
        return (self._address,) if self._runs else ()

    async def start(self) -> None:
        self._runs = True
        self.swarm.nodes[self._peer_id] = self
        self._spawn(self._redial())

    async def stop(self) -> None:
        if self.swarm.nodes.get(self._peer_id) is self:
            del self.swarm.nodes[self._peer_id]
        for link in tuple(self.links.values()):
            cut(link)
        tasks = self.crash()
        await asyncio.gather(*tasks, return_exceptions=True)

    def crash(self) -> list[asyncio.Task[None]]:
        """End what runs here, and tell nobody."""
        self._runs = False
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        return tasks

    async def connect(self, address: str, timeout_s: float = limits.P2P_TIMEOUT_S) -> PeerId:
        _, found, peer = address.rpartition("/p2p/")
        try:
            parse_peer_id(peer)
        except ValueError as error:
            raise UserError(f"{address!r:.100} does not end in /p2p/<PeerId>") from error
        if not found or not address.startswith("/"):
            raise UserError(f"{address!r:.100} is no multiaddr")
        await self._dial(PeerId(peer), [address], timeout_s)
        return PeerId(peer)

    async def connect_peer(
        self,
        peer: PeerId,
        addresses: Sequence[str] = (),
        timeout_s: float = limits.P2P_TIMEOUT_S,
    ) -> None:
        found = [a for a in self._known if a.endswith(f"/p2p/{peer}")]
        if peer in self.swarm.nodes and self.links:  # what the DHT would tell
            found += self.swarm.nodes[peer].addresses()
        ended = [a if "/p2p/" in a else f"{a}/p2p/{peer}" for a in addresses]
        await self._dial(peer, [*ended, *found], timeout_s)

    async def disconnect(self, peer: PeerId) -> None:
        link = self.links.get(peer)
        if link is not None:
            cut(link)

    def connections(self) -> tuple[Connection, ...]:
        return tuple(
            Connection(
                peer,
                link.other(self)._address.rpartition("/p2p/")[0],
                "outbound" if link.dialer is self else "inbound",
                link.since_s,
                self._rtt_s.get(peer),
                "kwaainet/memory",
            )
            for peer, link in self.links.items()
        )

    def add_listener(self, listener: PeerListener) -> None:
        self._listeners.append(listener)

    async def ping(self, peer: PeerId, timeout_s: float = limits.P2P_TIMEOUT_S) -> float:
        loop = asyncio.get_running_loop()

        async def there_and_back(other: MemoryNetwork) -> float:
            started_s = loop.time()
            await self.travel(self, other)
            await self.travel(other, self)
            return loop.time() - started_s

        rtt_s = await self._with_peer(peer, there_and_back, timeout_s)
        self._rtt_s[peer] = rtt_s
        return rtt_s

    def handle_requests(self, protocol: str, handler: RequestHandler) -> None:
        self._requests[protocol] = handler

    async def request(
        self, peer: PeerId, protocol: str, body: bytes, timeout_s: float = limits.P2P_TIMEOUT_S
    ) -> bytes:
        if len(body) > limits.P2P_MESSAGE_BYTES_MAX:
            raise UserError(f"a request of {len(body)} bytes is too long")

        async def ask(other: MemoryNetwork) -> bytes:
            self.swarm.requests += 1
            self.swarm.request_bytes += len(body)
            await self.travel(self, other)
            answer, refusal = await other._answer(self._peer_id, protocol, body)
            self.swarm.request_bytes += len(answer)
            await self.travel(other, self)
            if refusal is not None:
                raise PeerRefused(f"{peer} refused: {refusal}", peer=peer)
            return answer

        return await self._with_peer(peer, ask, timeout_s)

    def handle_streams(self, protocol: str, handler: StreamHandler) -> None:
        self._streams[protocol] = handler

    async def open_stream(
        self, peer: PeerId, protocol: str, timeout_s: float = limits.P2P_TIMEOUT_S
    ) -> MemoryStream:
        async def begin(other: MemoryNetwork) -> MemoryStream:
            await self.travel(self, other)
            handler = other._streams.get(protocol)
            if handler is None:
                raise PeerRefused(f"{peer} does not speak {protocol}", peer=peer)
            ours, theirs = stream_pair(self._peer_id, peer, self._delay)
            link = self.links.get(peer)
            if link is None:
                raise PeerLost(f"the connection to {peer} ended", peer=peer)
            link.streams = [s for s in link.streams if not s.is_over] + [ours, theirs]
            other._spawn(_serve_stream(handler, self._peer_id, theirs))
            return ours

        return await self._with_peer(peer, begin, timeout_s)

    def add_validator(self, namespace: str, validator: Validator) -> None:
        if self._runs:
            raise RuntimeError("a validator is added before the network starts")
        self.dht.validators[namespace] = validator

    async def put_value(
        self, key: bytes, value: bytes, timeout_s: float = limits.P2P_TIMEOUT_S
    ) -> int:
        return await self.dht.put_value(key, value, timeout_s)

    async def get_value(self, key: bytes, timeout_s: float = limits.P2P_TIMEOUT_S) -> bytes | None:
        return await self.dht.get_value(key, timeout_s)

    async def provide(self, key: bytes, timeout_s: float = limits.P2P_TIMEOUT_S) -> None:
        await self.dht.provide(key, timeout_s)

    async def find_providers(
        self, key: bytes, timeout_s: float = limits.P2P_TIMEOUT_S
    ) -> tuple[tuple[PeerId, tuple[str, ...]], ...]:
        return await self.dht.find_providers(key, timeout_s)

    # Between nodes.

    async def _answer(self, peer: PeerId, protocol: str, body: bytes) -> tuple[bytes, str | None]:
        handler = self._requests.get(protocol)
        if handler is None:
            return b"", f"it does not speak {protocol}"
        try:
            return await handler(peer, body), None
        except KwaaiError as error:
            return b"", str(error)
        except Exception as error:  # a handler of ours is broken: its node goes on, the test fails
            context = {"message": f"a handler of {protocol} failed", "exception": error}
            asyncio.get_running_loop().call_exception_handler(context)
            return b"", "internal error"

    async def travel(self, sender: MemoryNetwork, receiver: MemoryNetwork) -> None:
        """Take one way; what is lost never arrives."""
        if not await self.swarm.travel(sender.peer_id, receiver.peer_id):
            await asyncio.Event().wait()

    async def _with_peer(
        self, peer: PeerId, work: Callable[[MemoryNetwork], Awaitable[T]], timeout_s: float
    ) -> T:
        """Do something with a connected peer until it is done, the time is up or the link lost."""
        if peer not in self.links:
            await self.connect_peer(peer, timeout_s=timeout_s)
        link = self.links.get(peer)
        if link is None:
            raise PeerLost(f"the connection to {peer} ended", peer=peer)
        task = asyncio.ensure_future(work(link.other(self)))
        try:
            await asyncio.wait(
                (task, link.closed), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
            if task.done():
                return task.result()
        finally:
            task.cancel()
        if link.closed.done():
            raise PeerLost(f"the connection to {peer} ended", peer=peer)
        raise PeerStalled(f"{peer} did not answer within {timeout_s:g} s", peer=peer)

    async def _dial(self, peer: PeerId, addresses: Sequence[str], timeout_s: float) -> None:
        if not self._runs:
            raise PeerUnreachable("this node does not run", peer=peer)
        if peer == self._peer_id:
            raise PeerUnreachable("this node does not connect to itself", peer=peer)
        if peer in self.links:
            return
        other = self.swarm.nodes.get(peer)
        is_address = other is not None and other._address in addresses
        arrived = await self.swarm.travel(self._peer_id, peer)
        if other is None or not is_address or not arrived or not self._runs or not other._runs:
            raise PeerUnreachable(f"{peer} does not answer at {', '.join(addresses)}", peer=peer)
        if peer not in self.links:
            link = Link(self, other, self._now())
            self._take_link(link)
            other._take_link(link)

    def _take_link(self, link: Link) -> None:
        other = link.other(self)
        self.links[other.peer_id] = link
        if link.dialer is self:
            self._known[other._address] = None
        self.tell(other.peer_id, True)

    def tell(self, peer: PeerId, is_here: bool) -> None:
        """Tell the listeners of a peer that comes or goes."""
        for listener in self._listeners:
            asyncio.get_running_loop().call_soon(listener, peer, is_here)

    async def _redial(self) -> None:
        """Connect to the bootstrap peers, and to those once connected, whenever they are not."""
        while True:
            for address in tuple(self._known):
                try:
                    await self.connect(address)
                except KwaaiError:
                    continue  # tried again below
            await asyncio.sleep(self.swarm.redial_s * self.swarm.rng.uniform(0.8, 1.2))

    def _delay(self) -> float:
        return self.swarm.rng.uniform(*self.swarm.delay_s)

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def cut(link: Link) -> None:
    """End a connection on both sides."""
    if not link.closed.done():
        link.closed.set_result(None)
    for stream in link.streams:
        stream.lose()
    for node in (link.dialer, link.listener):
        peer = link.other(node).peer_id
        if node.links.get(peer) is link:
            del node.links[peer]
            node.tell(peer, False)


async def _serve_stream(handler: StreamHandler, peer: PeerId, stream: MemoryStream) -> None:
    try:
        await handler(peer, stream)
    except KwaaiError:
        pass  # the handler's own business; the stream ends
    finally:
        await stream.close()
