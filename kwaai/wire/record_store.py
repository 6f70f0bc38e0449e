"""The records that a node holds of others, and its own: one a peer, each checked before it comes
in, gone when it expires.

Pure: `now_s` comes in, values come out. Does not ask anybody for records and does not sign.
docs/protocol/records.md, "What a node keeps", has the rules.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from credentials.keys import PeerId, parse_peer_id
from kwaai import limits
from kwaai.types import ModelHandle
from kwaai.wire.records import (
    NodeRecord,
    RecordInvalid,
    check_signature,
    check_times,
    is_same_content,
    parse_unverified,
    record_key,
)

ID_BYTES = 8
"""A peer's public key begins with its id. Names a record in a comparison of what two nodes hold."""


@dataclass(frozen=True, slots=True)
class Held:
    """A record in the store, with its bytes."""

    id: bytes
    record: NodeRecord
    data: bytes
    digest: bytes
    source: PeerId
    """Who told us first."""
    until_s: float
    """When it leaves the store. A record from a clock that runs ahead leaves before it says."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What came of a record that was offered."""

    outcome: str
    """`changed`, `refreshed` (only its times are new), `duplicate`, `own`; refused without fault of
    whoever told us: `stale`, `full`, `quota`; or a `records.Reason`.
    """
    record: NodeRecord | None = None
    """Only when it was stored."""
    error: RecordInvalid | None = None

    @property
    def is_news(self) -> bool:
        return self.record is not None


class RecordStore:
    """Bounded by `records_max`, and by how much one source may tell of others."""

    def __init__(
        self,
        owner: PeerId,
        *,
        records_max: int = limits.RECORDS_MAX,
        per_source_max: int = limits.RECORDS_PER_SOURCE_MAX,
    ) -> None:
        self._owner = owner
        self._records_max = records_max
        self._per_source_max = per_source_max
        self._held: dict[PeerId, Held] = {}
        self._by_id: dict[bytes, PeerId] = {}
        self._told: Counter[PeerId] = Counter()
        self.own_sequence = 0
        """The highest sequence seen of the owner's own records; the next one must be higher."""
        self.outcomes: Counter[str] = Counter()
        """Offers by outcome."""

    def __len__(self) -> int:
        return len(self._held)

    @property
    def own(self) -> Held | None:
        """The owner's record."""
        return self._held.get(self._owner)

    @property
    def dropped(self) -> Mapping[str, int]:
        """Refused records by reason."""
        kept = ("changed", "refreshed", "duplicate", "own")
        return {name: count for name, count in self.outcomes.items() if name not in kept}

    def set_own(self, record: NodeRecord, data: bytes) -> None:
        """Hold the owner's newly signed record."""
        self.own_sequence = max(self.own_sequence, record.sequence)
        self._put(record, data, hashlib.sha256(data).digest(), self._owner, record.expires_s)

    def offer(
        self, data: bytes, now_s: float, source: PeerId, *, key: bytes | None = None
    ) -> Offer:
        """Store a record that `source` told us, if it passes every check and is newer.

        Cheap checks come first; the signature of a record is checked once. Never raises.
        """
        try:
            offer = self._offer(data, now_s, source, key)
        except RecordInvalid as error:
            offer = Offer(error.reason, error=error)
        self.outcomes[offer.outcome] += 1
        return offer

    def get(self, peer: PeerId, now_s: float) -> Held | None:
        """Return a peer's record while it holds; a withdrawn one too."""
        held = self._held.get(peer)
        return held if held is not None and held.until_s > now_s else None

    def by_id(self, record_id: bytes, now_s: float) -> Held | None:
        """Return the record whose id this is."""
        peer = self._by_id.get(record_id)
        return None if peer is None else self.get(peer, now_s)

    def fresh(self, now_s: float) -> Iterator[Held]:
        """Yield what holds now, withdrawn records too."""
        return (held for held in tuple(self._held.values()) if held.until_s > now_s)

    def records(self, now_s: float, handle: ModelHandle | None = None) -> tuple[NodeRecord, ...]:
        """Return the records of nodes that are there, newest first: all, or those with a model."""
        found = [
            held.record
            for held in self.fresh(now_s)
            if not held.record.withdrawn
            and (handle is None or any(s.handle == handle for s in held.record.served))
        ]
        return tuple(sorted(found, key=lambda r: (-r.issued_s, r.peer)))

    def expire(self, now_s: float) -> tuple[NodeRecord, ...]:
        """Remove what does not hold any more, and return those that had not withdrawn."""
        gone = [held for held in self._held.values() if held.until_s <= now_s]
        for held in gone:
            self._remove(held)
        return tuple(held.record for held in gone if not held.record.withdrawn)

    def next_expiry_s(self) -> float:
        """Return when the next record leaves; infinity for none."""
        return min((held.until_s for held in self._held.values()), default=math.inf)

    def wants(self, record_id: bytes, sequence: int, source: PeerId, now_s: float) -> bool:
        """Tell whether a record that `source` has would be news that there is room for."""
        peer = self._by_id.get(record_id)
        if peer is None:
            has_quota = self._told[source] < self._per_source_max
            return len(self._held) < self._records_max and has_quota
        held = self.get(peer, now_s)
        if peer == self._owner:
            return sequence > self.own_sequence
        return held is None or sequence > held.record.sequence

    def _offer(self, data: bytes, now_s: float, source: PeerId, key: bytes | None) -> Offer:
        digest = hashlib.sha256(data).digest()
        record = parse_unverified(data)
        if key is not None and key != record_key(record.peer):
            raise RecordInvalid(f"a record of {record.peer} lay under another key", "key")
        held = self._held.get(record.peer)
        if held is not None and held.digest == digest:
            return Offer("duplicate")
        check_times(record, now_s)
        if record.peer == self._owner:
            return self._offer_own(record, data)
        if held is not None and record.sequence <= held.record.sequence and held.until_s > now_s:
            return Offer("stale")
        refused = None if held is not None else self._room(record.peer, source, now_s)
        if refused is not None:
            return Offer(refused)
        check_signature(record, data)
        if held is None and len(self._held) >= self._records_max:
            self._evict()
        lifetime_s = record.expires_s - record.issued_s
        self._put(record, data, digest, source, min(record.expires_s, now_s + lifetime_s))
        is_refresh = held is not None and is_same_content(held.record, record)
        return Offer("refreshed" if is_refresh else "changed", record)

    def _offer_own(self, record: NodeRecord, data: bytes) -> Offer:
        """A record of our own that others hold, from before a restart or a change of the clock."""
        if record.sequence > self.own_sequence:
            check_signature(record, data)
            self.own_sequence = record.sequence
        return Offer("own")

    def _room(self, peer: PeerId, source: PeerId, now_s: float) -> str | None:
        """Return why a peer that is new to us may not come in.

        One that tells us of itself (its PeerId is proven) may take the place of one we know by
        hearsay.
        """
        if len(self._held) >= self._records_max:
            self.expire(now_s)
        is_full = len(self._held) >= self._records_max
        if source == peer:
            return "full" if is_full and not any(map(_is_hearsay, self._held.values())) else None
        if is_full:
            return "full"
        return "quota" if self._told[source] >= self._per_source_max else None

    def _evict(self) -> None:
        """Remove the record by hearsay that expires first."""
        hearsay = filter(_is_hearsay, self._held.values())
        self._remove(min(hearsay, key=lambda held: held.until_s))

    def _put(
        self, record: NodeRecord, data: bytes, digest: bytes, source: PeerId, until_s: float
    ) -> None:
        before = self._held.get(record.peer)
        if before is not None:
            self._remove(before)
        record_id = short_id(record.peer)
        held = Held(record_id, record, data, digest, source, until_s)
        self._held[record.peer] = held
        self._by_id[record_id] = record.peer
        if _is_hearsay(held):
            self._told[source] += 1

    def _remove(self, held: Held) -> None:
        del self._held[held.record.peer]
        if self._by_id.get(held.id) == held.record.peer:
            del self._by_id[held.id]
        if _is_hearsay(held):
            self._told[held.source] -= 1
            if not self._told[held.source]:
                del self._told[held.source]


def short_id(peer: PeerId) -> bytes:
    """Return the id of a peer's record."""
    return parse_peer_id(peer).raw[:ID_BYTES]


def _is_hearsay(held: Held) -> bool:
    return held.source != held.record.peer
