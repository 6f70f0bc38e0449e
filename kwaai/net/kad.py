"""Kademlia over libp2p streams: the node's half that asks, and the half that answers. Trio only.

libp2p's kad-dht protocol `/ipfs/kad/1.0.0` with py-libp2p's messages. Values are accepted only in
namespaces that have a validator here, when stored and when read; a read asks the network every
time. Our own look-up and store rather than py-libp2p's, which keeps and returns stale values, is
not bounded, and reports success without one (docs/protocol/discovery.md).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING

import trio
from google.protobuf.message import DecodeError
from libp2p.kad_dht.pb.kademlia_pb2 import Message

from credentials.keys import PeerId
from kwaai import limits
from kwaai.errors import KwaaiError, PeerMisbehaved
from kwaai.log import get_logger
from kwaai.net.kad_lookup import Lookup
from kwaai.net.kad_table import (
    Pace,
    ProviderStore,
    RoutingTable,
    Value,
    ValueStore,
    key_of,
)
from kwaai.net.libp2p_stream import P2pStream, reason_of
from kwaai.net.libp2p_wire import encode_message, read_message
from kwaai.net.multiaddrs import (
    Address,
    decode_multiaddrs,
    encode_multiaddr,
    peer_id_bytes,
    peer_id_of_bytes,
)
from kwaai.net.network import Validator

if TYPE_CHECKING:
    from kwaai.net.libp2p_node import P2pNode

log = get_logger(__name__)
KAD = "/ipfs/kad/1.0.0"
_MULTIHASH_SHA256 = bytes.fromhex("1220")
_CONNECTED, _NOT_CONNECTED = Message.ConnectionType.CONNECTED, Message.ConnectionType.NOT_CONNECTED
Providers = dict[PeerId, tuple[Address, ...]]


class Kad:
    """One node's part in the DHT."""

    def __init__(self, node: P2pNode, clock: Callable[[], float] = time.monotonic) -> None:
        self._node = node
        self._clock = clock
        self.validators: dict[str, Validator] = {}
        self.table = RoutingTable(node.peer_id)
        self.values = ValueStore()
        self.providers = ProviderStore()
        self.counters: Counter[str] = Counter()
        self._writes = Pace(limits.DHT_WRITES_PER_PEER_MAX, limits.DHT_WRITES_WINDOW_S)
        self._provides = Pace(limits.DHT_PROVIDES_SENT_MAX, limits.DHT_WRITES_WINDOW_S)
        self._refresh = trio.Event()

    # --- peers

    def joined(self, peer: PeerId) -> None:
        """A connected peer says that it speaks Kademlia."""
        if peer not in self.table and self.table.add(peer, self._node.host.conns):
            self._refresh.set()

    async def keep(self) -> None:
        """Look ourselves up when peers have come, and now and then: it fills the table."""
        while True:
            with trio.move_on_after(limits.DHT_REFRESH_S):
                await self._refresh.wait()
            self._refresh = trio.Event()
            with trio.move_on_after(limits.P2P_TIMEOUT_S):
                await self._closest(peer_id_bytes(self._node.peer_id))
            await trio.sleep(1.0)

    async def find_peer(self, peer: PeerId) -> tuple[Address, ...]:
        """Ask the network where a peer is. The caller sets the deadline."""
        await self._closest(peer_id_bytes(peer))
        return self._node.book.addresses(peer)

    async def _closest(self, key: bytes) -> list[PeerId]:
        async def ask(peer: PeerId) -> list[PeerId]:
            answer = await self._query(peer, Message(type=Message.FIND_NODE, key=key))
            return self._closer(answer)

        return await self._lookup(key, ask)

    async def _lookup(
        self, key: bytes, ask: Callable[[PeerId], Awaitable[list[PeerId]]]
    ) -> list[PeerId]:
        place = key_of(key)
        known = [conn for conn in self._node.host.conns if conn in self.table]
        start = [*self.table.nearest(place), *known]

        async def ask_in_time(peer: PeerId) -> list[PeerId] | None:
            try:
                with trio.fail_after(limits.DHT_QUERY_TIMEOUT_S):
                    return await ask(peer)
            except Exception as error:  # whatever one peer does, the look-up goes on
                log.debug("dht_query_failed", peer=peer, reason=reason_of(error))
                if self._node.host.conn(peer) is None:
                    self.table.remove(peer)
                return None

        return await Lookup(place, self._node.peer_id, start).run(ask_in_time)

    # --- values

    def check(self, key: bytes, value: bytes) -> int:
        """Return a value's sequence number. Raises KwaaiError for what may not be stored."""
        parts = key.split(b"/", 2)
        namespace = parts[1].decode("ascii", "replace") if len(parts) == 3 and not parts[0] else ""
        validator = self.validators.get(namespace)
        if validator is None:
            raise PeerMisbehaved(f"the DHT key {key!r:.80} is in no namespace that is kept here")
        if len(value) > limits.DHT_VALUE_BYTES_MAX or len(key) > limits.DHT_KEY_BYTES_MAX:
            raise PeerMisbehaved("a DHT key or value is too long")
        return validator(key, value)

    async def put(self, key: bytes, value: bytes) -> int:
        """Store a value here and at the nodes nearest to its key; return how many took it."""
        sequence = self.check(key, value)
        self.values.put(key, value, sequence, self._clock())
        message = Message(type=Message.PUT_VALUE, key=key)
        message.record.key, message.record.value = key, value
        taken: list[PeerId] = []

        async def store(peer: PeerId) -> None:
            answer = await self._query(peer, message)
            if answer.type == Message.PUT_VALUE and answer.key == key:
                taken.append(peer)

        await self._each(await self._closest(key), store)
        return len(taken)

    async def get(self, key: bytes) -> bytes | None:
        """Return the best valid value that the nodes nearest to the key, or we, have now."""
        best: list[Value] = []

        def consider(value: bytes) -> None:
            try:
                sequence = self.check(key, value)
            except KwaaiError:
                self.counters["values_read_invalid"] += 1
                return
            new = Value(value, sequence, 0.0)
            if not best or (new.sequence, new.data) > (best[0].sequence, best[0].data):
                best[:] = [new]

        async def ask(peer: PeerId) -> list[PeerId]:
            answer = await self._query(peer, Message(type=Message.GET_VALUE, key=key))
            if answer.record.value and answer.record.key == key:
                consider(answer.record.value)
            return self._closer(answer)

        own = self._stored(key)
        if own is not None:
            consider(own.data)
        await self._lookup(key, ask)
        return best[0].data if best else None

    def _stored(self, key: bytes) -> Value | None:
        value = self.values.get(key, self._clock())
        if value is None:
            return None
        try:
            self.check(key, value.data)
        except KwaaiError:  # it has expired since
            self.values.remove(key)
            return None
        return value

    # --- providers

    async def provide(self, digest: bytes) -> int:
        """Tell the nodes nearest to a SHA-256 that we have it; return how many heard."""
        key = _MULTIHASH_SHA256 + digest
        own = self._node.addresses()
        self.providers.add(key, self._node.peer_id, own, self._clock())
        heard: list[PeerId] = []

        async def tell(peer: PeerId) -> None:
            await trio.sleep(self._provides.wait_s(peer, self._clock()))
            self._provides.take(peer, self._clock())
            conn = self._node.host.conn(peer)
            told = self._node.addresses_for(conn) if conn else own
            message = Message(type=Message.ADD_PROVIDER, key=key)
            message.providerPeers.append(_peer_message(self._node.peer_id, told, True))
            await self._query(peer, message, is_answered=False)
            heard.append(peer)

        await self._each(await self._closest(key), tell)
        return len(heard)

    async def find_providers(self, digest: bytes) -> Providers:
        """Return who says it has a SHA-256, other than us."""
        key = _MULTIHASH_SHA256 + digest
        found: Providers = dict(self.providers.get(key, self._clock()))

        async def ask(peer: PeerId) -> list[PeerId]:
            answer = await self._query(peer, Message(type=Message.GET_PROVIDERS, key=key))
            for item in answer.providerPeers[: limits.DHT_PROVIDERS_PER_KEY_MAX]:
                provider = peer_id_of_bytes(item.id)
                if provider is None or len(found) > limits.DHT_PROVIDERS_PER_KEY_MAX:
                    continue
                addresses = (*found.get(provider, ()), *decode_multiaddrs(item.addrs, provider))
                unique = tuple(dict.fromkeys(addresses))[: limits.P2P_ADDRESSES_PER_PEER_MAX]
                found[provider] = unique
                self._node.book.hear(provider, unique)
            return self._closer(answer)

        await self._lookup(key, ask)
        found.pop(self._node.peer_id, None)
        return found

    # --- asking

    async def _query(self, peer: PeerId, message: Message, *, is_answered: bool = True) -> Message:
        """Send one message to a peer, connecting if needed, and return its answer."""
        timeout_s = limits.DHT_QUERY_TIMEOUT_S
        await self._node.connect(peer, (), timeout_s, ask_dht=False)
        data = encode_message(message.SerializeToString())
        stream = await self._node.host.open_stream(peer, KAD, data)
        try:
            if is_answered:
                answer = _parse(await read_message(stream, limits.DHT_MESSAGE_BYTES_MAX), peer)
            else:  # some echo it, some just end: both have heard us. A reset raises.
                await stream.finish_writing()
                await stream.read(limits.DHT_MESSAGE_BYTES_MAX)
                answer = message
        except BaseException:
            stream.drop()
            raise
        await stream.close()
        return answer

    def _closer(self, answer: Message) -> list[PeerId]:
        peers = []
        for item in answer.closerPeers[: 2 * limits.DHT_BUCKET_PEERS]:
            peer = peer_id_of_bytes(item.id)
            if peer is None or peer == self._node.peer_id:
                continue
            self._node.book.hear(peer, decode_multiaddrs(item.addrs, peer))
            peers.append(peer)
        return peers

    async def _each(self, peers: Iterable[PeerId], do: Callable[[PeerId], Awaitable[None]]) -> None:
        limit = trio.CapacityLimiter(limits.DHT_PARALLEL)

        async def one(peer: PeerId) -> None:
            async with limit:
                try:
                    with trio.fail_after(limits.P2P_TIMEOUT_S):
                        await do(peer)
                except Exception as error:  # whatever one peer does, the others are told
                    log.debug("dht_write_failed", peer=peer, reason=reason_of(error))

        async with trio.open_nursery() as nursery:
            for peer in peers:
                nursery.start_soon(one, peer)

    # --- answering

    async def serve(self, stream: P2pStream, protocol: str) -> None:
        """Answer a peer's messages until it ends the stream; reset it for what is wrong."""
        while True:
            with trio.fail_after(limits.P2P_STALL_TIMEOUT_S):
                first = await stream.read(1)
                if not first:
                    return
            with trio.fail_after(limits.P2P_TIMEOUT_S):
                data = await read_message(_Rest(first, stream), limits.DHT_MESSAGE_BYTES_MAX)
                answer = self._answer(stream.peer, _parse(data, stream.peer))
                if answer is not None:
                    await stream.write(encode_message(answer.SerializeToString()))

    def _answer(self, peer: PeerId, ask: Message) -> Message | None:
        if ask.type == Message.PING:
            return Message(type=Message.PING)
        if not ask.key or len(ask.key) > limits.DHT_KEY_BYTES_MAX:
            raise PeerMisbehaved("a DHT message has a key of 1 to 128 bytes", peer=peer)
        answer = Message(type=ask.type, key=ask.key)
        if ask.type == Message.PUT_VALUE:
            self._take_value(peer, ask)
            answer.record.CopyFrom(ask.record)
            return answer
        if ask.type == Message.ADD_PROVIDER:
            self._take_provider(peer, ask)
            return answer
        if ask.type == Message.GET_VALUE:
            value = self._stored(ask.key)
            if value is not None:
                answer.record.key, answer.record.value = ask.key, value.data
        elif ask.type == Message.GET_PROVIDERS:
            for provider, addresses in self.providers.get(ask.key, self._clock()):
                answer.providerPeers.append(self._describe(provider, peer, addresses))
        nearest = self.table.nearest(key_of(ask.key), limits.DHT_BUCKET_PEERS + 1)
        if ask.type == Message.FIND_NODE:
            target = peer_id_of_bytes(ask.key)
            if target is not None and target not in nearest:
                nearest = [target, *nearest]
        for near in nearest[: limits.DHT_BUCKET_PEERS + 1]:
            described = self._describe(near, peer, self._node.book.addresses(near))
            if near != peer and described.addrs:
                answer.closerPeers.append(described)
        return answer

    def _take_value(self, peer: PeerId, ask: Message) -> None:
        if ask.record.key != ask.key:
            raise PeerMisbehaved("a DHT record has the key of its message", peer=peer)
        if not self._writes.take(peer, self._clock()):
            self.counters["writes_too_many"] += 1
            raise PeerMisbehaved(f"{peer} stores too much in the DHT", peer=peer)
        try:
            sequence = self.check(ask.key, ask.record.value)
        except KwaaiError:
            self.counters["values_refused"] += 1
            raise
        if not self.values.put(ask.key, ask.record.value, sequence, self._clock()):
            self.counters["values_older"] += 1
            raise PeerMisbehaved("a newer value is stored here", peer=peer)

    def _take_provider(self, peer: PeerId, ask: Message) -> None:
        if not self._writes.take(peer, self._clock()):
            self.counters["writes_too_many"] += 1
            raise PeerMisbehaved(f"{peer} stores too much in the DHT", peer=peer)
        for item in ask.providerPeers[: limits.DHT_BUCKET_PEERS]:
            if item.id == peer_id_bytes(peer):  # nobody speaks for another
                addresses = decode_multiaddrs(item.addrs, peer)
                self.providers.add(ask.key, peer, addresses, self._clock())

    def _describe(self, peer: PeerId, to: PeerId, addresses: tuple[Address, ...]) -> Message.Peer:
        conn = self._node.host.conn(to)
        if peer == self._node.peer_id:
            addresses = self._node.addresses_for(conn) if conn else ()
        elif conn is None or not conn.address.is_loopback:
            addresses = tuple(address for address in addresses if not address.is_loopback)
        return _peer_message(peer, addresses, peer in self._node.host.conns)


class _Rest:
    """A stream whose first byte has been read already."""

    def __init__(self, first: bytes, stream: P2pStream) -> None:
        self._first, self._stream = first, stream

    async def read(self, n: int) -> bytes:
        first, self._first = self._first, b""
        return first or await self._stream.read(n)

    async def write(self, data: bytes) -> None:
        await self._stream.write(data)


def _peer_message(peer: PeerId, addresses: Iterable[Address], is_connected: bool) -> Message.Peer:
    return Message.Peer(
        id=peer_id_bytes(peer),
        addrs=[encode_multiaddr(address) for address in addresses if address.is_ip],
        connection=_CONNECTED if is_connected else _NOT_CONNECTED,
    )


def _parse(data: bytes, peer: PeerId) -> Message:
    try:
        return Message.FromString(data)
    except DecodeError as error:
        raise PeerMisbehaved(f"{peer} sent a DHT message that is none", peer=peer) from error
