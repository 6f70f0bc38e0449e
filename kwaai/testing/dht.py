"""A node's share of a DHT in memory: the nodes closest to a key hold what lies under it.

Knows all nodes that can be reached, where Kademlia would search for them.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from credentials.keys import PeerId
from kwaai.errors import KwaaiError, PeerMisbehaved, PeerUnreachable
from kwaai.net.network import Validator

if TYPE_CHECKING:
    from kwaai.testing.network import MemoryNetwork

T = TypeVar("T")

_REPLICAS = 20  # nodes that hold a value, as in Kademlia
_ASK_S = 1.0  # one node


class MemoryDht:
    """What one node keeps for others, and how it asks them."""

    def __init__(self, node: MemoryNetwork) -> None:
        self._node = node
        self.values: dict[bytes, bytes] = {}
        """Tests may plant lies here."""
        self.providers: dict[bytes, dict[PeerId, tuple[str, ...]]] = {}
        self.validators: dict[str, Validator] = {}

    async def put_value(self, key: bytes, value: bytes, timeout_s: float) -> int:
        self._validate(key, value)
        self.take_value(key, value)

        async def put(other: MemoryNetwork) -> bool:
            await self._node.travel(self._node, other)
            return other.dht.take_value(key, value)

        return sum(await self._ask_closest(key, put, timeout_s))

    async def get_value(self, key: bytes, timeout_s: float) -> bytes | None:
        async def get(other: MemoryNetwork) -> bytes | None:
            await self._node.travel(self._node, other)
            value = other.dht.values.get(key)
            await self._node.travel(other, self._node)
            return value

        found = await self._ask_closest(key, get, timeout_s)
        best: tuple[int, bytes] | None = None
        for value in (*found, self.values.get(key)):
            try:
                sequence = -1 if value is None else self._validate(key, value)
            except KwaaiError:
                continue
            if value is not None and (best is None or sequence > best[0]):
                best = sequence, value
        return None if best is None else best[1]

    async def provide(self, key: bytes, timeout_s: float) -> None:
        async def put(other: MemoryNetwork) -> bool:
            await self._node.travel(self._node, other)
            other.dht.providers.setdefault(key, {})[self._node.peer_id] = self._node.addresses()
            return True

        self.providers.setdefault(key, {})[self._node.peer_id] = self._node.addresses()
        await self._ask_closest(key, put, timeout_s)

    async def find_providers(
        self, key: bytes, timeout_s: float
    ) -> tuple[tuple[PeerId, tuple[str, ...]], ...]:
        async def get(other: MemoryNetwork) -> dict[PeerId, tuple[str, ...]]:
            await self._node.travel(self._node, other)
            return other.dht.providers.get(key, {})

        found = dict(self.providers.get(key, {}))
        for providers in await self._ask_closest(key, get, timeout_s):
            found.update(providers)
        found.pop(self._node.peer_id, None)
        return tuple(found.items())

    def take_value(self, key: bytes, value: bytes) -> bool:
        """Store a value for others, if it is valid and not older than ours."""
        try:
            sequence = self._validate(key, value)
        except KwaaiError:
            return False
        held = self.values.get(key)
        try:
            if held is not None and self._validate(key, held) > sequence:
                return False
        except KwaaiError:
            pass  # ours has expired
        self.values[key] = value
        return True

    def _validate(self, key: bytes, value: bytes) -> int:
        namespace = key.decode("ascii", "replace").split("/")[1:2]
        validator = self.validators.get(namespace[0] if namespace else "")
        if validator is None:
            raise PeerMisbehaved(f"nobody here can check values under {key!r:.80}")
        return validator(key, value)

    async def _ask_closest(
        self, key: bytes, ask: Callable[[MemoryNetwork], Awaitable[T]], timeout_s: float
    ) -> list[T]:
        """Ask those nodes whose ids are closest to a key, and return what arrives."""
        if not self._node.links:
            raise PeerUnreachable("no peer is connected: the DHT cannot be asked")
        target = _place(key)
        others = [n for p, n in self._node.swarm.nodes.items() if n is not self._node]
        others = [n for n in others if self._node.swarm.can_reach(self._node.peer_id, n.peer_id)]
        others.sort(key=lambda node: _place(node.peer_id.encode()) ^ target)

        async def attempt(node: MemoryNetwork) -> T | None:
            try:
                async with asyncio.timeout(min(timeout_s, _ASK_S)):
                    return await ask(node)
            except TimeoutError:
                return None

        answers = await asyncio.gather(*(attempt(node) for node in others[:_REPLICAS]))
        return [answer for answer in answers if answer is not None]


def _place(key: bytes) -> int:
    return int.from_bytes(hashlib.sha256(key).digest(), "big")
