"""Kademlia's iterative look-up: ask the nearest peers for nearer ones until there are none. Trio.

Knows neither messages nor connections; `ask` does. Bounded in peers heard of and peers asked.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

import trio

from credentials.keys import PeerId
from kwaai import limits
from kwaai.net.kad_table import key_of_peer


class Lookup:
    """One look-up of a place in Kademlia's space."""

    def __init__(self, place: int, own: PeerId, start: Iterable[PeerId]) -> None:
        self._place = place
        self._own = own
        self._distances: dict[PeerId, int] = {}
        self._asked: set[PeerId] = set()
        self._answered: set[PeerId] = set()
        self._failed: set[PeerId] = set()
        self._hear(start)

    async def run(self, ask: Callable[[PeerId], Awaitable[list[PeerId] | None]]) -> list[PeerId]:
        """Ask until the nearest k have answered; return them, nearest first.

        `ask` returns nearer peers, or None when the peer failed. It keeps its own deadline.
        """
        send, receive = trio.open_memory_channel[tuple[PeerId, list[PeerId] | None]](0)
        under_way = 0

        async def one(peer: PeerId) -> None:
            await send.send((peer, await ask(peer)))

        async with trio.open_nursery() as nursery:
            while True:
                while under_way < limits.DHT_PARALLEL and (peer := self._next()) is not None:
                    self._asked.add(peer)
                    under_way += 1
                    nursery.start_soon(one, peer)
                if not under_way:
                    break
                peer, nearer = await receive.receive()
                under_way -= 1
                if nearer is None:
                    self._failed.add(peer)
                else:
                    self._answered.add(peer)
                    self._hear(nearer)
        return [peer for peer in self._nearest() if peer in self._answered]

    def _hear(self, peers: Iterable[PeerId]) -> None:
        for peer in peers:
            if peer != self._own and peer not in self._distances:
                self._distances[peer] = key_of_peer(peer) ^ self._place
        excess = len(self._distances) - limits.DHT_CANDIDATES_MAX
        if excess > 0:
            unasked = [peer for peer in self._distances if peer not in self._asked]
            for peer in sorted(unasked, key=self._distances.__getitem__)[-excess:]:
                del self._distances[peer]

    def _nearest(self) -> list[PeerId]:
        alive = [peer for peer in self._distances if peer not in self._failed]
        return sorted(alive, key=self._distances.__getitem__)[: limits.DHT_BUCKET_PEERS]

    def _next(self) -> PeerId | None:
        if len(self._asked) >= limits.DHT_QUERIES_MAX:
            return None
        return next((peer for peer in self._nearest() if peer not in self._asked), None)
