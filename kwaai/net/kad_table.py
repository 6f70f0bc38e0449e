"""Kademlia's data, without I/O: which peers are near a key, and what is stored here for others.

Pure but for a clock that is passed in. Everything is bounded; whoever stores is limited in pace.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from credentials.keys import PeerId
from kwaai import limits
from kwaai.net.multiaddrs import Address, peer_id_bytes

KEY_BITS = 256


def key_of(key: bytes) -> int:
    """Return where a key is in Kademlia's space."""
    return int.from_bytes(hashlib.sha256(key).digest(), "big")


def key_of_peer(peer: PeerId) -> int:
    """Return where a peer is in Kademlia's space."""
    return key_of(peer_id_bytes(peer))


class RoutingTable:
    """Peers that speak Kademlia and that we have met, in buckets by their distance from us."""

    def __init__(self, own: PeerId) -> None:
        self._own = key_of_peer(own)
        self._buckets: list[dict[PeerId, int]] = [{} for _ in range(KEY_BITS + 1)]

    def __len__(self) -> int:
        return sum(map(len, self._buckets))

    def __contains__(self, peer: PeerId) -> bool:
        return any(peer in bucket for bucket in self._buckets)

    def add(self, peer: PeerId, is_connected: Iterable[PeerId] = ()) -> bool:
        """Add a peer. In a full bucket it takes the place of one that is not connected, if any."""
        place = key_of_peer(peer)
        bucket = self._buckets[(place ^ self._own).bit_length()]
        if peer in bucket or place == self._own:
            return peer in bucket
        if len(bucket) >= limits.DHT_BUCKET_PEERS:
            connected = set(is_connected)
            old = next((p for p in bucket if p not in connected), None)
            if old is None:
                return False
            del bucket[old]
        bucket[peer] = place
        return True

    def remove(self, peer: PeerId) -> None:
        """Forget a peer that does not answer."""
        for bucket in self._buckets:
            bucket.pop(peer, None)

    def nearest(self, place: int, count: int = limits.DHT_BUCKET_PEERS) -> list[PeerId]:
        """Return the peers nearest to a place, nearest first."""
        known = [(key ^ place, peer) for bucket in self._buckets for peer, key in bucket.items()]
        return [peer for _, peer in sorted(known)[:count]]


@dataclass(frozen=True, slots=True)
class Value:
    """A value that is stored here, and that its validator accepted."""

    data: bytes
    sequence: int
    stored_s: float


class ValueStore:
    """Values of other nodes and our own, the newest of each key."""

    def __init__(self) -> None:
        self._values: dict[bytes, Value] = {}

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: bytes, now_s: float) -> Value | None:
        """Return what is stored, unless it is too old."""
        value = self._values.get(key)
        if value is None or now_s - value.stored_s <= limits.DHT_VALUE_TTL_S:
            return value
        del self._values[key]
        return None

    def put(self, key: bytes, data: bytes, sequence: int, now_s: float) -> bool:
        """Store a value, unless a newer one is there. The oldest makes room."""
        old = self.get(key, now_s)
        if old is not None and (old.sequence, old.data) > (sequence, data):
            return False
        self._values.pop(key, None)
        while len(self._values) >= limits.DHT_VALUES_MAX:
            self._values.pop(next(iter(self._values)))
        self._values[key] = Value(data, sequence, now_s)
        return True

    def remove(self, key: bytes) -> None:
        """Drop what its validator no longer accepts."""
        self._values.pop(key, None)


class ProviderStore:
    """Who says that it has something for a key."""

    def __init__(self) -> None:
        self._keys: dict[bytes, dict[PeerId, tuple[float, tuple[Address, ...]]]] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, key: bytes, peer: PeerId, addresses: tuple[Address, ...], now_s: float) -> None:
        """Remember a provider; the oldest of the key, and the oldest key, make room."""
        providers = self._keys.pop(key, {})
        providers.pop(peer, None)
        while len(providers) >= limits.DHT_PROVIDERS_PER_KEY_MAX:
            providers.pop(next(iter(providers)))
        providers[peer] = (now_s, addresses)
        while len(self._keys) >= limits.DHT_PROVIDER_KEYS_MAX:
            self._keys.pop(next(iter(self._keys)))
        self._keys[key] = providers

    def get(self, key: bytes, now_s: float) -> list[tuple[PeerId, tuple[Address, ...]]]:
        """Return the providers of a key, latest first."""
        providers = self._keys.get(key, {})
        for peer, (stored_s, _) in list(providers.items()):
            if now_s - stored_s > limits.DHT_PROVIDER_TTL_S:
                del providers[peer]
        if not providers:
            self._keys.pop(key, None)
        return [(peer, addresses) for peer, (_, addresses) in reversed(providers.items())]


class Pace:
    """At most `count` events of one peer in `window_s`; bounded in peers."""

    def __init__(self, count: int, window_s: float) -> None:
        self._count, self._window_s = count, window_s
        self._times: dict[PeerId, deque[float]] = {}

    def wait_s(self, peer: PeerId, now_s: float) -> float:
        """Return how long until the peer may do it again; 0 for now."""
        times = self._times.get(peer)
        while times and now_s - times[0] >= self._window_s:
            times.popleft()
        if not times or len(times) < self._count:
            return 0.0
        return self._window_s - (now_s - times[0])

    def take(self, peer: PeerId, now_s: float) -> bool:
        """Count one event, if it may be."""
        if self.wait_s(peer, now_s) > 0:
            return False
        times = self._times.pop(peer, None)
        times = deque() if times is None else times
        times.append(now_s)
        self._times[peer] = times
        while len(self._times) > 4 * limits.P2P_CONNECTIONS_MAX:
            self._times.pop(next(iter(self._times)))
        return True
