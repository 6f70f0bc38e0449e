"""Records in the DHT: write ours, say which models we have, find nodes that have one, and refuse to
store what is not a peer's own valid record.

The DHT is for finding nodes that no connected peer knows of; it is never needed to keep a record
fresh. docs/protocol/records.md, "In the DHT".
"""

from __future__ import annotations

import asyncio
import functools
import random
from collections import Counter
from collections.abc import Callable
from typing import Final

from credentials.keys import PeerId
from kwaai import limits, log
from kwaai.errors import KwaaiError
from kwaai.net.network import Network
from kwaai.types import ModelHandle
from kwaai.wire.record_store import Offer, RecordStore
from kwaai.wire.records import (
    NAMESPACE,
    RecordInvalid,
    check_signature,
    check_times,
    handle_key,
    parse_unverified,
    record_key,
)

_log = log.get_logger(__name__)

_CHECKED_MAX: Final = 256
"""Signatures that are remembered as good: a lookup meets the same record many times."""


class RecordDht:
    """One node's use of the DHT. Make it before the network starts: it adds a validator."""

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
        self._changed = asyncio.Event()
        self._provided: dict[ModelHandle, float] = {}
        """When we last said that we have a model (loop time)."""
        self._is_written = False
        """Somebody has our record, and we are still connected to somebody."""
        self._check_signature = functools.lru_cache(_CHECKED_MAX)(_signed)
        self.counters: Counter[str] = Counter()
        network.add_validator(NAMESPACE, self.validate)
        network.add_listener(self._on_peer)

    def validate(self, key: bytes, value: bytes) -> int:
        """Return the sequence of a record that may be stored under `key`. Raises RecordInvalid.

        Safe in any thread.
        """
        try:
            record = parse_unverified(value)
            if key != record_key(record.peer):
                raise RecordInvalid(f"a record of {record.peer} lay under another key", "key")
            check_times(record, self._now())
            self._check_signature(value)
        except RecordInvalid as error:
            self.counters[f"dht_refused_{error.reason}"] += 1
            raise
        return record.sequence

    def publish(self) -> None:
        """Have our record written, and our models announced, soon."""
        self._changed.set()

    async def run(self) -> None:
        """Write our record when it changes and before the written one expires. Never returns."""
        while True:
            jitter = self._rng.uniform(1 - limits.RECORD_JITTER, 1.0)
            try:
                async with asyncio.timeout(limits.RECORDS_DHT_S * jitter):
                    await self._changed.wait()
            except TimeoutError:
                pass
            self._changed.clear()
            if self._network.connections():
                self._is_written = await self.put_own()
                await self._provide()
            await asyncio.sleep(limits.RECORDS_PROVIDE_GAP_S)

    async def put_own(self) -> bool:
        """Write our record as it is now, and tell whether another node took it. Counts a failure,
        and does not raise it.
        """
        own = self._store.own
        if own is None:
            return False
        try:
            took = await self._network.put_value(record_key(own.record.peer), own.data)
        except KwaaiError as error:
            self.counters["dht_puts_failed"] += 1
            _log.debug("record_put_failed", reason=str(error))
            return False
        self.counters["dht_puts"] += 1
        return took > 0

    async def find(self, handle: ModelHandle) -> tuple[tuple[PeerId, tuple[str, ...]], ...]:
        """Look for nodes that say they have a model; take in the records of those that we do not
        know, and return whoever has none in the DHT either, with addresses. Raises KwaaiError.
        """
        found = await self._network.find_providers(handle_key(handle))
        unknown = [
            (peer, addresses)
            for peer, addresses in found
            if peer != self._network.peer_id and self._store.get(peer, self._now()) is None
        ][: limits.RECORDS_PROVIDERS_MAX]
        missing = await asyncio.gather(*(self._is_missing(peer) for peer, _ in unknown))
        return tuple(who for who, is_missing in zip(unknown, missing, strict=True) if is_missing)

    async def _is_missing(self, peer: PeerId) -> bool:
        """Take in a peer's record from the DHT, and tell whether there was none."""
        key = record_key(peer)
        try:
            value = await self._network.get_value(key)
        except KwaaiError:
            self.counters["dht_gets_failed"] += 1
            return True
        if value is None:
            return True
        offer = self._store.offer(value, self._now(), self._network.peer_id, key=key)
        self._on_offer(self._network.peer_id, offer)
        return offer.record is None

    async def _provide(self) -> None:
        own = self._store.own
        handles = {served.handle for served in own.record.served} if own is not None else set()
        self._provided = {h: at_s for h, at_s in self._provided.items() if h in handles}
        loop = asyncio.get_running_loop()
        for handle in sorted(handles):
            if self._provided.get(handle, -limits.RECORDS_PROVIDE_S) > (
                loop.time() - limits.RECORDS_PROVIDE_S
            ):
                continue
            try:
                await self._network.provide(handle_key(handle))
                self._provided[handle] = loop.time()
            except KwaaiError as error:
                self.counters["dht_provides_failed"] += 1
                _log.debug("model_provide_failed", handle=handle, reason=str(error))
            await asyncio.sleep(limits.RECORDS_PROVIDE_GAP_S)

    def _on_peer(self, peer: PeerId, is_here: bool) -> None:
        """Write our record when the first peer comes, and when one comes after all had gone."""
        if is_here and not self._is_written:
            self.publish()
        elif not self._network.connections():
            self._is_written = False


def _signed(data: bytes) -> None:
    check_signature(parse_unverified(data), data)
