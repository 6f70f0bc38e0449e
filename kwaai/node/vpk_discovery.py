"""Which nodes of the network host sealed knowledge: announcing this one, and finding the others.

What a host offers is in its record (`kwaai.wire.storage_offer`); that it hosts at all is in the DHT
besides, under the hash of `_kwaai.vpk.nodes`, for those who know nobody. Chooses nobody:
`kwaai.vpk.spread` does. docs/protocol/records.md, "Storage offers".
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from credentials.keys import PeerId
from kwaai import limits
from kwaai.errors import KwaaiError
from kwaai.log import get_logger
from kwaai.node.services import Ready
from kwaai.node.standings import Standings
from kwaai.node.storage_client import Calls, fetch_health
from kwaai.trust.tiers import Tier
from kwaai.types import ModelHandle
from kwaai.wire.records import NodeRecord, handle_key
from kwaai.wire.storage_offer import (
    OFFER_TAG,
    PROVIDER_NAME,
    OfferMode,
    StorageOffer,
    coarse_bytes,
    encode_offer,
    offer_of,
)

log = get_logger(__name__)

PROVIDER_HANDLE: Final = ModelHandle(f"sha256:{hashlib.sha256(PROVIDER_NAME).hexdigest()}")
"""Whoever provides this hosts: the directory looks it up as it does a model."""


class Announcing(Protocol):
    """What announcing takes of a `kwaai.node.directory.Directory`."""

    def set_extra(self, tag: int, data: bytes | None) -> None: ...


class Providing(Protocol):
    """What announcing takes of a `kwaai.net.network.Network`."""

    async def provide(self, key: bytes, timeout_s: float = ...) -> None: ...


class Records(Protocol):
    """What finding takes of a `kwaai.node.directory.Directory`."""

    def records(self, handle: ModelHandle | None = None) -> tuple[NodeRecord, ...]: ...

    async def refresh(self, handle: ModelHandle | None = None, timeout_s: float = ...) -> None: ...


class LinkCalls(Calls, Protocol):
    """What finding takes of a `kwaai.node.link_calls.CallClient`."""

    def rtt_s(self, peer: PeerId) -> float | None: ...


@dataclass(frozen=True, slots=True)
class HostRow:
    """A node that hosts, or says so. Bytes are those of all its tenants together."""

    peer: PeerId
    name: str
    mode: OfferMode
    capacity_bytes: int
    free_bytes: int
    tenants: int
    least_tier: Tier
    """Whose objects it takes, as it judges them."""
    quota_bytes: int
    """What one tenant may have there."""
    takes_tenants: bool
    tier: Tier
    """What it is to this node."""
    owner: str | None
    is_self: bool = False
    reachable: bool | None = None
    """None: it was not asked."""
    rtt_s: float | None = None
    problem: str = ""
    """Why it is not reachable."""


class StorageAnnouncer:
    """Announces what this node offers. Belongs to one event loop."""

    def __init__(
        self,
        directory: Announcing,
        network: Providing,
        offer: Callable[[], StorageOffer | None],
        *,
        every_s: float = limits.STORAGE_ANNOUNCE_S,
    ) -> None:
        """`offer`: what is offered now, exactly; None: nothing. Asked every `every_s`."""
        self._directory, self._network, self._offer = directory, network, offer
        self._every_s = every_s
        self._changed = asyncio.Event()
        self._provided_s = 0.0
        self._is_provided = False

    def changed(self) -> None:
        """Look at the offer anew, soon."""
        self._changed.set()

    async def run(self, ready: Ready) -> None:
        """Announce until cancelled, and take it back then."""
        try:
            self._announce()
            ready()
            while True:
                offer = self._announce()
                if offer is not None and offer.hosts:
                    await self._provide()
                try:
                    async with asyncio.timeout(self._every_s):
                        await self._changed.wait()
                except TimeoutError:
                    pass
                self._changed.clear()
        finally:
            self._directory.set_extra(OFFER_TAG, None)

    def _announce(self) -> StorageOffer | None:
        offer = self._offer()
        if offer is None:
            self._directory.set_extra(OFFER_TAG, None)
            return None
        free_bytes = coarse_bytes(offer.free_bytes, offer.capacity_bytes)
        self._directory.set_extra(OFFER_TAG, encode_offer(replace(offer, free_bytes=free_bytes)))
        return offer

    async def _provide(self) -> None:
        now_s = asyncio.get_running_loop().time()
        if self._is_provided and now_s < self._provided_s + limits.RECORDS_PROVIDE_S:
            return
        try:
            await self._network.provide(handle_key(PROVIDER_HANDLE))
            self._is_provided, self._provided_s = True, now_s
        except KwaaiError as error:  # nobody is connected yet: the next round tries again
            log.debug("storage_provide_failed", reason=error.message)


class StorageHosts:
    """The hosts of the network, as this node knows them. Belongs to one event loop."""

    def __init__(self, records: Records, standings: Standings, calls: LinkCalls) -> None:
        self._records, self._standings, self._calls = records, standings, calls

    def rows(self) -> tuple[HostRow, ...]:
        """Return who says that it hosts, asking nobody: this node first, then higher tiers, then
        those with more room.
        """
        rows = [
            self._row(record, offer)
            for record in self._records.records()
            if (offer := offer_of(record)) is not None and offer.hosts
        ]
        rows.sort(key=lambda row: (not row.is_self, -row.tier, -row.free_bytes, row.peer))
        return tuple(rows[: limits.STORAGE_HOSTS_ASKED_MAX])

    async def discover(
        self,
        *,
        refresh: bool = True,
        timeout_s: float = limits.STORAGE_HEALTH_TIMEOUT_S,
    ) -> tuple[HostRow, ...]:
        """Return all hosts that can be found, each asked how it is: those that answer first.
        `refresh`: ask peers and the DHT for more records before. `timeout_s`: for each answer.
        Raises nothing for hosts that do not answer.
        """
        if refresh:
            await self._records.refresh(PROVIDER_HANDLE)
        found = self.rows()
        await self._standings.prepare([r.peer for r in found if not r.is_self], current=False)
        asked = await self.ask(self.rows(), timeout_s)
        return tuple(sorted(asked, key=lambda row: row.reachable is False))

    async def ask(
        self, rows: Sequence[HostRow], timeout_s: float = limits.STORAGE_HEALTH_TIMEOUT_S
    ) -> tuple[HostRow, ...]:
        """Return the rows with what each host says now, in the same order."""
        turns = asyncio.Semaphore(limits.STORAGE_HEALTH_AT_ONCE)

        async def ask(row: HostRow) -> HostRow:
            if row.is_self:
                return replace(row, reachable=True)
            async with turns:
                return await self._ask(row, timeout_s)

        return tuple(await asyncio.gather(*map(ask, rows)))

    async def _ask(self, row: HostRow, timeout_s: float) -> HostRow:
        try:
            health = await fetch_health(row.peer, self._calls, timeout_s)
        except KwaaiError as error:
            return replace(row, reachable=False, problem=error.message)
        return replace(
            row,
            capacity_bytes=health.capacity_bytes,
            free_bytes=min(health.free_bytes, health.capacity_bytes),
            tenants=health.tenant_count,
            reachable=True,
            rtt_s=self._calls.rtt_s(row.peer),
        )

    def _row(self, record: NodeRecord, offer: StorageOffer) -> HostRow:
        standing = self._standings.standing(record.peer)
        return HostRow(
            peer=record.peer,
            name=record.name,
            mode=offer.mode,
            capacity_bytes=offer.capacity_bytes,
            free_bytes=offer.free_bytes,
            tenants=offer.tenants,
            least_tier=Tier(offer.least_tier),
            quota_bytes=offer.quota_bytes,
            takes_tenants=offer.takes_tenants,
            tier=standing.tier,
            owner=standing.owner,
            is_self=record.peer == self._calls.peer,
        )
