"""Tell the connected peers which records are new, and ask them for those that we lack.

News goes to all connected peers at once, and they pass it on; a record whose times alone are new
goes no further than the peers of its node, and comes to the rest when two nodes compare what they
hold. Does not make records and does not know the DHT. docs/protocol/records.md, "Exchange".
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

from credentials.keys import PeerId
from kwaai import limits, log
from kwaai.errors import Busy, KwaaiError, PeerMisbehaved, PeerRefused
from kwaai.net.network import Network
from kwaai.node.rates import Rates
from kwaai.wire.codec import WireError
from kwaai.wire.record_exchange import (
    PROTOCOL,
    Exchange,
    ExchangeAnswer,
    encode_answer,
    encode_exchange,
    parse_answer,
    parse_exchange,
    take_records,
)
from kwaai.wire.record_store import Offer, RecordStore

_log = log.get_logger(__name__)

_BLAMED: Final = frozenset({"size", "format", "lifetime", "signature"})
"""What nobody passes on who checks, whatever the clocks and versions are."""


class Neighbour:
    """A connected peer, and what it is still to be told."""

    def __init__(self, peer: PeerId) -> None:
        self.peer = peer
        self.outbox: dict[PeerId, None] = {}
        """Peers whose record goes to this neighbour next, oldest first; each once."""
        self.compare_due = True
        self.wake = asyncio.Event()
        self.lock = asyncio.Lock()
        """One exchange at a time."""
        self.task: asyncio.Task[None] | None = None


class Gossip:
    """One node's exchanges. `on_offer` is told of every record that came, stored or not."""

    def __init__(
        self,
        network: Network,
        store: RecordStore,
        *,
        now: Callable[[], float],
        rng: random.Random,
        on_offer: Callable[[PeerId, Offer], None],
    ) -> None:
        self._network = network
        self._store = store
        self._now = now
        self._rng = rng
        self._on_offer = on_offer
        self._neighbours: dict[PeerId, Neighbour] = {}
        self._running = False
        self._requests = Rates(limits.RECORDS_REQUESTS_PER_S, limits.RECORDS_REQUESTS_BURST)
        self._pushed = Rates(limits.RECORDS_PUSHED_PER_S, limits.RECORDS_PUSHED_BURST)
        self._forwarded = Rates(limits.RECORDS_FORWARDED_PER_S, limits.RECORDS_FORWARDED_BURST)
        strikes = limits.RECORDS_STRIKES_MAX
        self._strikes = Rates(strikes / limits.RECORDS_STRIKE_S, strikes)
        self._outcasts: dict[PeerId, float] = {}
        """Peers that are not listened to, and until when (loop time)."""
        self._paused: dict[PeerId, asyncio.TimerHandle] = {}
        """Nodes whose next change is passed on later; one for each record in the store at most."""
        self.counters: Counter[str] = Counter()
        network.handle_requests(PROTOCOL, self._answer)
        network.add_listener(self._on_peer)

    def start(self) -> None:
        """Answer peers, and exchange with everybody who is or becomes connected."""
        self._running = True
        for connection in self._network.connections():
            self._on_peer(connection.peer, True)

    async def stop(self) -> None:
        """End all exchanges."""
        self._running = False
        for timer in self._paused.values():
            timer.cancel()
        self._paused.clear()
        tasks = [n.task for n in self._neighbours.values() if n.task is not None]
        self._neighbours.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def peers(self) -> tuple[PeerId, ...]:
        """Return the connected peers."""
        return tuple(self._neighbours)

    def tell(self, peer: PeerId, *, but: PeerId | None = None) -> None:
        """Have the record of `peer` sent to all connected peers but one."""
        for neighbour in self._neighbours.values():
            if neighbour.peer not in (peer, but):
                neighbour.outbox[peer] = None
                neighbour.wake.set()

    def compare_some(self) -> None:
        """Have what we hold compared with what a few of the connected peers hold."""
        for connection in self._network.connections():
            if connection.peer not in self._neighbours:
                self._on_peer(connection.peer, True)  # it was cut off, and may come back
        neighbours = list(self._neighbours.values())
        for neighbour in self._rng.sample(
            neighbours, min(len(neighbours), limits.RECORDS_PULL_PEERS)
        ):
            neighbour.compare_due = True
            neighbour.wake.set()

    async def compare(self, peer: PeerId) -> None:
        """Compare with one connected peer now. Raises KwaaiError."""
        if peer not in self._neighbours and self._is_connected(peer):
            self._on_peer(peer, True)  # the network has not told us yet
        neighbour = self._neighbours.get(peer)
        if neighbour is not None:
            neighbour.compare_due = True
            await self._exchange(neighbour, limits.RECORDS_TIMEOUT_S)

    async def say_goodbye(self, data: bytes, timeout_s: float) -> None:
        """Stop exchanging, and tell all connected peers a last record, again where it fails. The
        caller ends it.
        """
        peers = self.peers()
        await self.stop()
        body = encode_exchange(Exchange((data,)))
        await asyncio.gather(*(self._push(peer, body, timeout_s) for peer in peers))

    async def _push(self, peer: PeerId, body: bytes, timeout_s: float) -> None:
        for _ in range(limits.RECORDS_STOP_TRIES):
            try:
                await self._network.request(peer, PROTOCOL, body, timeout_s)
            except KwaaiError:
                self.counters["exchanges_failed"] += 1
            else:
                return

    def _is_connected(self, peer: PeerId) -> bool:
        return any(connection.peer == peer for connection in self._network.connections())

    def _on_peer(self, peer: PeerId, is_here: bool) -> None:
        if not self._running:
            return
        before = self._neighbours.get(peer)
        if before is not None and is_here:
            return
        if before is not None:
            self._forget(before)
        if is_here and not self._is_outcast(peer):
            neighbour = self._neighbours[peer] = Neighbour(peer)
            neighbour.wake.set()
            neighbour.task = asyncio.create_task(self._serve(neighbour), name=f"gossip {peer}")

    async def _serve(self, neighbour: Neighbour) -> None:
        """Exchange with one neighbour whenever there is something to tell or ask."""
        failures = 0
        while True:
            await neighbour.wake.wait()
            neighbour.wake.clear()
            try:
                await self._exchange(neighbour, limits.RECORDS_TIMEOUT_S)
                failures = 0
                pause_s = limits.RECORDS_GAP_S
            except KwaaiError as error:
                self.counters["exchanges_failed"] += 1
                _log.debug("exchange_failed", peer=neighbour.peer, reason=str(error))
                backoff = limits.RECORDS_BACKOFF_S
                pause_s = backoff[min(failures, len(backoff) - 1)] * self._rng.uniform(0.5, 1.5)
                failures += 1
                neighbour.compare_due = True
                neighbour.wake.set()
            await asyncio.sleep(pause_s)

    async def _exchange(self, neighbour: Neighbour, timeout_s: float) -> None:
        async with neighbour.lock:
            for _ in range(limits.RECORDS_ROUNDS_MAX):
                if not neighbour.compare_due and not neighbour.outbox:
                    return
                await self._ask(neighbour, timeout_s)

    async def _ask(self, neighbour: Neighbour, timeout_s: float) -> None:
        """Send one request, and take in its answer. What is not sent stays due."""
        request = Exchange(
            self._take_outbox(neighbour), self._summary() if neighbour.compare_due else None
        )
        neighbour.compare_due = False
        if not request.records and request.held is None:
            return
        self.counters["exchanges_asked"] += 1
        body = await self._network.request(
            neighbour.peer, PROTOCOL, encode_exchange(request), timeout_s
        )
        try:
            answer = parse_answer(body)
        except WireError as error:
            self._strike(neighbour.peer)
            raise PeerMisbehaved(
                f"{neighbour.peer} answered for its records with what is no answer: {error}",
                peer=neighbour.peer,
            ) from error
        news = self._learn(answer.records, neighbour.peer)
        neighbour.compare_due |= answer.more and news > 0
        now_s = self._now()
        for record_id in answer.wanted:
            held = self._store.by_id(record_id, now_s)
            if held is not None:
                neighbour.outbox[held.record.peer] = None

    def _take_outbox(self, neighbour: Neighbour) -> tuple[bytes, ...]:
        now_s = self._now()
        found = [(peer, self._store.get(peer, now_s)) for peer in neighbour.outbox]
        waiting = [(peer, held.data) for peer, held in found if held is not None]
        taken = take_records(data for _, data in waiting)
        neighbour.outbox = {peer: None for peer, _ in waiting[len(taken) :]}
        return taken

    def _summary(self) -> tuple[tuple[bytes, int], ...]:
        return tuple((held.id, held.record.sequence) for held in self._store.fresh(self._now()))

    async def _answer(self, peer: PeerId, body: bytes) -> bytes:
        """Answer a peer's request. Raises Busy, PeerRefused, WireError: it is then refused."""
        now_s = asyncio.get_running_loop().time()
        if not self._running or self._is_outcast(peer):
            raise PeerRefused("this node does not exchange records with you now", peer=peer)
        if not self._requests.take(peer, now_s):
            self.counters["dropped_rate"] += 1
            raise Busy("you ask for records too often: wait a second", retry_after_s=1.0)
        self.counters["exchanges_answered"] += 1
        try:
            request = parse_exchange(body)
        except WireError:
            self._strike(peer)
            raise
        if self._pushed.take(peer, now_s, len(request.records)):
            self._learn(request.records, peer)
        else:
            self.counters["dropped_rate"] += len(request.records)
        if request.held is None:
            return encode_answer(ExchangeAnswer())
        return encode_answer(self._compare(request.held, peer))

    def _compare(self, held: Iterable[tuple[bytes, int]], peer: PeerId) -> ExchangeAnswer:
        now_s = self._now()
        theirs = dict(held)
        lacking = [
            ours
            for ours in self._store.fresh(now_s)
            if theirs.get(ours.id, -1) < ours.record.sequence
        ]
        lacking.sort(key=lambda ours: -ours.record.issued_s)
        records = take_records(ours.data for ours in lacking)
        wanted = [
            i for i, sequence in theirs.items() if self._store.wants(i, sequence, peer, now_s)
        ]
        return ExchangeAnswer(
            records, tuple(wanted[: limits.RECORDS_WANTED_MAX]), len(records) < len(lacking)
        )

    def _learn(self, records: Iterable[bytes], source: PeerId) -> int:
        """Offer records to the store, pass on what has changed, and return how many were news."""
        news = 0
        for data in records:
            offer = self._store.offer(data, self._now(), source)
            self._on_offer(source, offer)
            if offer.error is not None and offer.outcome in _BLAMED:
                self._strike(source)
                if self._is_outcast(source):
                    break
            if offer.record is not None:
                news += 1
                if offer.outcome == "changed":
                    self._forward(offer.record.peer, source)
        return news

    def _forward(self, peer: PeerId, source: PeerId | None = None) -> None:
        """Pass on a change of one node; one that changes too often, with a pause."""
        loop = asyncio.get_running_loop()
        if peer in self._paused:
            return
        if self._forwarded.take(peer, loop.time()):
            self.tell(peer, but=source)
        else:
            self.counters["forwards_held_back"] += 1
            pause_s = 1 / limits.RECORDS_FORWARDED_PER_S
            self._paused[peer] = loop.call_later(pause_s, self._forward_paused, peer)

    def _forward_paused(self, peer: PeerId) -> None:
        del self._paused[peer]
        self._forward(peer)

    def _strike(self, peer: PeerId) -> None:
        """Count a fault of a peer; a peer with too many is cut off for a while."""
        self.counters["strikes"] += 1
        now_s = asyncio.get_running_loop().time()
        if self._strikes.take(peer, now_s) or self._is_outcast(peer):
            return
        self._outcasts = {p: t for p, t in self._outcasts.items() if t > now_s}
        self._outcasts[peer] = now_s + limits.RECORDS_STRIKE_S
        self.counters["peers_cut_off"] += 1
        _log.warning("peer_cut_off", peer=peer, reason="it sent forged or malformed records")
        neighbour = self._neighbours.get(peer)
        if neighbour is not None:
            self._forget(neighbour)

    def _forget(self, neighbour: Neighbour) -> None:
        del self._neighbours[neighbour.peer]
        if neighbour.task is not None:
            neighbour.task.cancel()

    def _is_outcast(self, peer: PeerId) -> bool:
        until_s = self._outcasts.get(peer)
        return until_s is not None and until_s > asyncio.get_running_loop().time()
