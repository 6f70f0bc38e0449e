"""The node's directory: announces what this node serves, and knows what others serve.

Every record in it is fresh, within bounds and signed by the peer that it names. Who is worth asking
is for placement to choose. `gossip` carries the records between connected peers, `record_dht`
through the DHT; this is what ties them together. docs/protocol/records.md.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace

import kwaai
from credentials.keys import PeerId, SecretKey
from kwaai import limits, log
from kwaai.errors import KwaaiError, UserError
from kwaai.net.dial import Scope, dialable, scope_of
from kwaai.net.multiaddrs import parse_multiaddr
from kwaai.net.network import Connection, Network
from kwaai.node.gossip import Gossip
from kwaai.node.rates import Rates
from kwaai.node.record_dht import RecordDht
from kwaai.types import ModelHandle
from kwaai.wire.record_extra import encode_extra
from kwaai.wire.record_store import Offer, RecordStore
from kwaai.wire.records import NodeRecord, Served, is_same_content, sign_record

_log = log.get_logger(__name__)


class Directory:
    """Everything but `validate` belongs to one asyncio loop. Make it before the network starts (it
    adds a validator), start it after the network, and stop it before the network stops. It may be
    started again.
    """

    def __init__(
        self,
        network: Network,
        secret: SecretKey,
        *,
        name: str = "",
        version: str = kwaai.__version__,
        lifetime_s: float = limits.RECORD_LIFETIME_S,
        refresh_s: float = limits.RECORD_REFRESH_S,
        now: Callable[[], float] = time.time,
        rng: random.Random | None = None,
    ) -> None:
        if not 0 < refresh_s < lifetime_s <= limits.RECORD_LIFETIME_S_MAX:
            raise ValueError("refresh_s must be less than lifetime_s, and that at most 360 s")
        self._network = network
        self._secret = secret
        self._name = _shortened(name, limits.RECORD_NAME_BYTES_MAX)
        self._version = _shortened(version, limits.RECORD_VERSION_BYTES_MAX)
        self._lifetime_s = lifetime_s
        self._refresh_s = refresh_s
        self._now = now
        self._rng = rng or random.Random()
        self._served: tuple[Served, ...] = ()
        self._links: tuple[str, ...] = ()
        self._extra: dict[int, bytes] = {}
        self._store = RecordStore(network.peer_id)
        self._gossip = Gossip(network, self._store, now=now, rng=self._rng, on_offer=self._on_offer)
        self._dht = RecordDht(network, self._store, now=now, rng=self._rng, on_offer=self._on_offer)
        self._changed = asyncio.Event()
        self._listeners: list[Callable[[], None]] = []
        self._notice: asyncio.Handle | None = None
        self._outbidden = Rates(0.1, 3.0, keys_max=1)
        self._warned = Rates(1 / 60, 1.0)
        self._dialled = Rates(1 / 30, 1.0)
        self._tasks: list[asyncio.Task[None]] = []
        self.failures = 0
        """Times that a loop of this directory ended by a mistake of ours, and was started again."""

    async def start(self) -> None:
        """Announce this node, and begin to collect."""
        self._announce()
        self._gossip.start()
        loops = (self._announce_loop, self._collect_loop, self._expire_loop, self._dht.run)
        self._tasks = [
            asyncio.create_task(self._keep_on(loop), name=loop.__qualname__) for loop in loops
        ]
        self._dht.publish()

    async def stop(self) -> None:
        """Tell everybody that this node is gone, within limits.RECORDS_STOP_S. Idempotent."""
        tasks, self._tasks = self._tasks, []
        if not tasks:
            return
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        data = self._withdraw()
        push_s = limits.RECORDS_STOP_S / limits.RECORDS_STOP_TRIES
        try:
            async with asyncio.timeout(limits.RECORDS_STOP_S):
                await asyncio.gather(self._gossip.say_goodbye(data, push_s), self._put_goodbye())
        except TimeoutError:
            _log.warning("withdrawal_incomplete", remedy="others forget this node within a minute")
        finally:
            await self._gossip.stop()

    def set_served(self, served: Sequence[Served], links: Sequence[str] = ()) -> None:
        """Announce these ranges and link addresses instead of the last ones, at once.

        Raises ValueError for more ranges than a record holds.
        """
        if len(served) > limits.RECORD_SERVED_MAX:
            raise ValueError(f"a node announces at most {limits.RECORD_SERVED_MAX} ranges")
        self._served = tuple(
            replace(s, model=_shortened(s.model, limits.RECORD_MODEL_BYTES_MAX)) for s in served
        )
        self._links = tuple(links)[: limits.RECORD_ADDRESSES_MAX]
        self._changed.set()

    def set_extra(self, tag: int, data: bytes | None) -> None:
        """Announce this entry (`kwaai.wire.record_extra`) instead of the last one with its tag, at
        once; None: none. Raises ValueError for more than a record takes.
        """
        if self._extra.get(tag) == data:
            return
        entries = {**self._extra, tag: data}
        kept = {key: value for key, value in entries.items() if value is not None}
        encode_extra(kept)
        self._extra = kept
        self._changed.set()

    def records(self, handle: ModelHandle | None = None) -> tuple[NodeRecord, ...]:
        """Return fresh records, newest first, ours included: all, or those with a model."""
        return self._store.records(self._now(), handle)

    def record(self, peer: PeerId) -> NodeRecord | None:
        """Return the fresh record of one peer that has not withdrawn."""
        held = self._store.get(peer, self._now())
        return None if held is None or held.record.withdrawn else held.record

    def link_addresses(self, peer: PeerId) -> tuple[str, ...]:
        """Return where a peer's links may be dialled, by its own record: IP addresses. Loopback
        ones only while somebody is connected over loopback: nodes of this machine are about then.
        """
        record = self.record(peer)
        if record is None:
            return ()
        return dialable(record.links, self._least())

    def _least(self) -> Scope:
        near = any(map(_is_loopback, self._network.connections()))
        return Scope.MACHINE if near else Scope.SITE

    def has_met(self, peer: PeerId) -> bool:
        """Say whether a peer told us its record itself: no invention of another's."""
        held = self._store.get(peer, self._now())
        return held is not None and held.source == peer

    def add_listener(self, listener: Callable[[], None]) -> None:
        """Have `listener` called soon after what some node serves has changed, or a node is gone.
        Several changes may be one call.
        """
        self._listeners.append(listener)

    async def refresh(
        self,
        handle: ModelHandle | None = None,
        timeout_s: float = limits.RECORDS_LOOKUP_S,
    ) -> None:
        """Ask connected peers now, and the DHT for nodes that have a model. Raises nothing: what
        is found until `timeout_s` is in `records`.
        """
        peers = list(self._gossip.peers())
        self._rng.shuffle(peers)
        try:
            async with asyncio.timeout(timeout_s), asyncio.TaskGroup() as group:
                for peer in peers[: limits.RECORDS_LOOKUP_PEERS_MAX]:
                    group.create_task(self._compare(peer))
                if handle is not None:
                    group.create_task(self._find(handle))
        except TimeoutError:
            _log.debug("directory_refresh_incomplete", timeout_s=timeout_s)

    @property
    def counters(self) -> Mapping[str, int]:
        """Counts since the start: `records` held, `offered_<outcome>` of each record that came (see
        record_store.Offer), exchanges, strikes, and uses of the DHT.
        """
        counts = {"records": len(self._store), "failures": self.failures}
        counts |= {f"offered_{name}": n for name, n in self._store.outcomes.items()}
        return counts | self._gossip.counters | self._dht.counters

    @property
    def dropped(self) -> Mapping[str, int]:
        """Refused records by reason."""
        return self._store.dropped

    async def _keep_on(self, loop: Callable[[], Awaitable[None]]) -> None:
        """Run a loop for ever: a mistake in one round must not make this node a ghost."""
        while True:
            try:
                await loop()
            except Exception:
                self.failures += 1
                _log.exception("directory_loop_failed", loop=loop.__qualname__)
            await asyncio.sleep(limits.RECORDS_RESTART_S)

    # Announcing.

    async def _announce_loop(self) -> None:
        while True:
            share = 1 + limits.RECORD_JITTER * self._rng.uniform(-1, 1)
            try:
                async with asyncio.timeout(self._refresh_s * share):
                    await self._changed.wait()
                await asyncio.sleep(limits.RECORDS_DEBOUNCE_S)
            except TimeoutError:
                pass
            self._announce()
            await asyncio.sleep(limits.RECORDS_ANNOUNCE_GAP_S)

    def _announce(self) -> None:
        """Sign what this node is now, and have it told."""
        self._changed.clear()
        before = self._store.own
        record = self._own_record()
        self._store.set_own(record, sign_record(record, self._secret))
        self._gossip.tell(record.peer)
        if before is None or not is_same_content(before.record, record):
            self._notify()
        if before is None or _place(before.record) != _place(record):
            self._dht.publish()

    def _own_record(self) -> NodeRecord:
        now_s = round(self._now(), 3)
        listen = self._network.addresses()[: limits.RECORD_ADDRESSES_MAX]
        return NodeRecord(
            peer=self._network.peer_id,
            sequence=max(round(now_s * 1000), self._store.own_sequence + 1),
            issued_s=now_s,
            expires_s=round(now_s + self._lifetime_s, 3),
            name=self._name,
            version=self._version,
            listen=tuple(a for a in listen if len(a) <= limits.RECORD_ADDRESS_BYTES_MAX),
            links=self._links,
            served=self._served,
            extra=encode_extra(self._extra),
        )

    def _withdraw(self) -> bytes:
        """Sign this node's last word. It outlives all of its earlier records."""
        record = self._own_record()
        record = replace(
            record,
            listen=(),
            links=(),
            served=(),
            extra=b"",
            withdrawn=True,
            expires_s=record.issued_s + limits.RECORD_LIFETIME_S_MAX,
        )
        data = sign_record(record, self._secret)
        self._store.set_own(record, data)
        return data

    async def _put_goodbye(self) -> None:
        if self._network.connections():
            await self._dht.put_own()

    # Collecting.

    async def _collect_loop(self) -> None:
        while True:
            await asyncio.sleep(limits.RECORDS_PULL_S * self._rng.uniform(0.7, 1.3))
            self._gossip.compare_some()
            await self._widen()

    async def _widen(self) -> None:
        """Connect to a few more peers that we know of, while we have few: a swarm that hangs on one
        node would fall apart with it.
        """
        connected = {connection.peer for connection in self._network.connections()}
        lacking = limits.RECORDS_MESH_PEERS - len(connected)
        known = [
            r for r in self.records()
            if r.listen and r.peer not in connected and r.peer != self._network.peer_id
        ]  # fmt: skip
        self._rng.shuffle(known)
        for record in known[: max(0, min(lacking, limits.RECORDS_MESH_DIALS))]:
            if self._dialled.take(record.peer, asyncio.get_running_loop().time()):
                await self._connect(record.peer, record.listen)

    async def _connect(self, peer: PeerId, addresses: Sequence[str]) -> None:
        try:
            await self._network.connect_peer(peer, _dialable_multiaddrs(addresses, self._least()))
        except KwaaiError as error:
            _log.debug("peer_not_reached", peer=peer, reason=str(error))

    async def _expire_loop(self) -> None:
        while True:
            await asyncio.sleep(limits.RECORDS_EXPIRY_S)
            if self._store.expire(self._now()):
                self._notify()

    async def _compare(self, peer: PeerId) -> None:
        try:
            await self._gossip.compare(peer)
        except KwaaiError as error:
            _log.debug("exchange_failed", peer=peer, reason=str(error))

    async def _find(self, handle: ModelHandle) -> None:
        """Look a model up in the DHT; whoever has no record there is asked for it."""
        try:
            missing = await self._dht.find(handle)
        except KwaaiError as error:
            _log.debug("providers_not_found", handle=handle, reason=str(error))
            return
        async with asyncio.TaskGroup() as group:
            for peer, addresses in missing:
                group.create_task(self._meet(peer, addresses))

    async def _meet(self, peer: PeerId, addresses: Sequence[str]) -> None:
        await self._connect(peer, addresses)
        await self._compare(peer)

    def _on_offer(self, source: PeerId, offer: Offer) -> None:
        loop_s = asyncio.get_running_loop().time()
        if offer.outcome == "changed":
            self._notify()
        elif offer.outcome == "future" and self._warned.take(source, loop_s):
            _log.warning("clocks_differ", peer=source, detail=str(offer.error))
        elif offer.outcome == "own" and self._is_outbidden() and self._outbidden.take("", loop_s):
            # Ours, from before the clock went back, or from a second node with this identity.
            _log.warning("own_record_outbidden", sequence=self._store.own_sequence)
            self._changed.set()

    def _is_outbidden(self) -> bool:
        own = self._store.own
        return own is not None and own.record.sequence < self._store.own_sequence

    def _notify(self) -> None:
        if self._notice is None:
            self._notice = asyncio.get_running_loop().call_soon(self._call_listeners)

    def _call_listeners(self) -> None:
        self._notice = None
        for listener in self._listeners:
            listener()


def _is_loopback(connection: Connection) -> bool:
    try:
        return parse_multiaddr(connection.address)[0].is_loopback
    except UserError:
        return False


def _dialable_multiaddrs(texts: Sequence[str], least: Scope) -> tuple[str, ...]:
    """Keep the IP addresses: a stranger does not choose which names are looked up here."""
    kept = []
    for text in texts:
        try:
            address = parse_multiaddr(text)[0]
        except UserError:
            continue
        if address.is_ip and scope_of(address.host) >= least:
            kept.append(text)
    return tuple(kept)


def _place(record: NodeRecord) -> object:
    """What a stranger looks up: where the node is, which ranges it has, what else it offers."""
    ranges = tuple((s.handle, s.layers, s.head, s.state) for s in record.served)
    return record.listen, record.links, ranges, record.extra, record.withdrawn


def _shortened(text: str, bytes_max: int) -> str:
    """Return `text` without what cannot be printed, cut to `bytes_max` bytes of UTF-8."""
    printable = "".join(c for c in text if c.isprintable())
    return printable.encode(errors="ignore")[:bytes_max].decode(errors="ignore")
