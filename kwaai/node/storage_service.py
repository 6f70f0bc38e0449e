"""This node as a host: peers' storage requests, checked, counted and answered from its store.

In this order: the peer has not asked too often; the envelope is one; it is signed for this channel;
it is no repetition; the signer is the tenant, or a reader with the tenant's delegation for that
base; only then is its body read. Whoever makes a tenant needs the tier that the owner asks for, or
to be the owner's own node. Answers blocks of work in threads; the store is `kwaai.vpk.host_store`,
what a request does `kwaai.node.storage_answers`. docs/protocol/storage.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final

from credentials.keys import PeerId
from kwaai import __version__, limits
from kwaai.errors import Busy, KwaaiError, ResourceError, StorageFull, StorageRefused
from kwaai.log import get_logger
from kwaai.node.rates import Rates
from kwaai.node.services import Ready
from kwaai.node.standings import Standings
from kwaai.node.storage_answers import answer_request, answer_usage
from kwaai.node.storage_home import StorageRules
from kwaai.node.storage_replays import Replays
from kwaai.node.threads import Threads
from kwaai.vpk.host_store import HostStore, HostTotals
from kwaai.wire import storage_bodies as bodies
from kwaai.wire.codec import WireError
from kwaai.wire.storage_messages import (
    READING,
    Binding,
    Operation,
    Request,
    encode_answer,
    encode_refusal,
    parse_request,
    verify_request,
)

log = get_logger(__name__)

_WRITING: Final = frozenset(
    {
        Operation.CREATE_TENANT,
        Operation.DELETE_TENANT,
        Operation.PUT,
        Operation.DELETE,
        Operation.PUT_MANIFEST,
        Operation.DROP_BASE,
    }
)
_FREEING: Final = frozenset({Operation.DELETE_TENANT, Operation.DELETE, Operation.DROP_BASE})


class StorageService:
    """One host. Belongs to the event loop."""

    def __init__(
        self,
        open_store: Callable[[], HostStore],
        own: PeerId,
        rules: StorageRules,
        standings: Standings,
        own_owner: Callable[[], str | None],
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`open_store`: called in a thread, when the service is run. `own_owner`: who this node
        belongs to, as `Standing.owner` names owners.
        """
        self._open_store, self._own, self.rules = open_store, own, rules
        self._standings, self._own_owner = standings, own_owner
        self._clock, self._monotonic = clock, monotonic
        self._rates = Rates(limits.STORAGE_REQUESTS_PER_S, limits.STORAGE_REQUESTS_BURST)
        self._refusals = Rates(limits.STORAGE_REFUSALS_PER_S, limits.STORAGE_REFUSALS_BURST)
        self._replays = Replays()
        self._under_way: Counter[PeerId] = Counter()
        self._store: HostStore | None = None
        self._totals = HostTotals(0, 0, rules.capacity_bytes, 0, 0)
        self._freed = asyncio.Event()
        self._threads: tuple[Threads, Threads] | None = None
        self._counts: Counter[str] = Counter()

    async def run(self, ready: Ready) -> None:
        """Host, until cancelled. Raises what opening the store does."""
        store = await asyncio.to_thread(self._open_store)
        reads = Threads(
            "storage-read",
            threads=limits.STORAGE_READ_THREADS,
            calls_max=limits.STORAGE_CALLS_MAX,
            what="storage requests",
        )
        writes = Threads(
            "storage-write", threads=1, calls_max=limits.STORAGE_CALLS_MAX, what="storage requests"
        )
        try:
            self._totals = await asyncio.to_thread(store.totals)
            self._store, self._threads = store, (reads, writes)
            ready()
            await self._tidy(store, writes)
        finally:
            self._store = self._threads = None
            await reads.join()
            await writes.join()
            await asyncio.to_thread(store.close)

    @property
    def store(self) -> HostStore:
        """Return the store. Raises ResourceError while it is not open."""
        if self._store is None:
            raise ResourceError("this host is not open; try again", retry_after_s=2.0)
        return self._store

    @property
    def totals(self) -> HostTotals:
        """What is hosted, as it was within the last minute: for what this node announces."""
        return self._totals

    @property
    def promised_bytes(self) -> int:
        """What is left for a tenant that is not there yet, as it was within the last minute."""
        return min(self.rules.quota_bytes, self._totals.free_bytes)

    def stats(self) -> Mapping[str, float]:
        """Counters, for /metrics."""
        return {
            "storage_tenants": self._totals.tenants,
            "storage_objects": self._totals.objects,
            "storage_used_bytes": self._totals.used_bytes,
            "storage_free_bytes": self._totals.free_bytes,
            "storage_requests": self._counts["done"],
            "storage_refused": self._counts["refused"],
            "storage_received_bytes": self._counts["received_bytes"],
            "storage_sent_bytes": self._counts["sent_bytes"],
        }

    async def handle(self, peer: PeerId, nonce: bytes, data: bytes) -> bytes:
        """Answer a request of `peer` that came on the channel with this nonce. Refusals are answers
        too; nothing is raised but cancellation.
        """
        self._counts["received_bytes"] += len(data)
        try:
            answer = encode_answer(await self._answer(peer, nonce, data))
            self._counts["done"] += 1
        except KwaaiError as error:
            self._counts["refused"] += 1
            if isinstance(error, StorageRefused | WireError):
                self._refusals.take(peer, self._monotonic())
            log.info("storage_refused", peer=peer, code=error.code, reason=error.message)
            answer = encode_refusal(error)
        self._counts["sent_bytes"] += len(answer)
        return answer

    async def _answer(self, peer: PeerId, nonce: bytes, data: bytes) -> bytes:
        now_s = self._monotonic()
        if self._refusals.left(peer, now_s) < 1.0:
            raise Busy("too many of your requests were refused; look at why", retry_after_s=5.0)
        request = parse_request(data)
        cost = 1 if request is None else _cost(request)
        if not self._rates.take(peer, now_s, cost):
            raise Busy("too many requests at once", retry_after_s=1.0)
        if request is None:
            return bodies.encode_health_answer(self._health())
        verify_request(data, request, Binding(self._own, peer, nonce))
        self._replays.take(peer, nonce, request.signer, request.counter)
        self._check_right(request)
        if self._under_way[peer] >= limits.STORAGE_CALLS_PER_PEER_MAX:
            raise Busy("too many of your requests are under way", retry_after_s=0.2)
        self._under_way[peer] += 1
        try:
            return await self._perform(peer, request)
        finally:
            self._under_way[peer] -= 1
            if not self._under_way[peer]:
                del self._under_way[peer]

    def _check_right(self, request: Request) -> None:
        """Raise StorageRefused unless the signer may ask for this."""
        if request.signer == request.tenant and not request.delegation:
            return
        if request.operation not in READING or not request.delegation:
            raise StorageRefused("only the tenant itself may ask for this")
        from kwaai.vpk.delegation import verify_delegation

        verify_delegation(
            request.delegation,
            tenant=request.tenant,
            reader=request.signer,
            base=bytes(request.body[: bodies.ID_BYTES]),
            right="read",
            now_s=self._clock(),
        )

    async def _perform(self, peer: PeerId, request: Request) -> bytes:
        store = self.store
        if self._threads is None:
            raise ResourceError("this host is not open; try again", retry_after_s=2.0)
        reads, writes = self._threads
        if request.operation is Operation.CREATE_TENANT:
            return await self._create_tenant(store, writes, peer, request)
        threads = writes if request.operation in _WRITING else reads
        body = await threads.run(answer_request, store, request)
        if request.operation in _FREEING:
            self._freed.set()
        return body

    async def _create_tenant(
        self, store: HostStore, writes: Threads, peer: PeerId, request: Request
    ) -> bytes:
        wanted = bodies.parse_create_tenant(request.body)
        await self._standings.prepare((peer,), current=False)
        refusal = self._refusal(peer)

        def create() -> bytes:
            tenants = store.tenants()
            known = {tenant.key: tenant.quota_bytes for tenant in tenants}
            if refusal is None:
                if request.tenant not in known:
                    _check_count(sum(tenant.owner == peer for tenant in tenants))
                given = self._quota(wanted.quota_bytes, known, request.tenant)
                store.create_tenant(request.tenant, given, name=wanted.name, owner=peer)
            elif request.tenant not in known:
                raise refusal
            return answer_usage(store, request.tenant)

        body = await writes.run(create)
        self._totals = await writes.run(store.totals)
        return body

    def _refusal(self, peer: PeerId) -> StorageRefused | None:
        """Return why a peer may not make a tenant; None where it may."""
        standing, owner = self._standings.standing(peer), self._own_owner()
        if owner is not None and standing.owner == owner:
            return None
        least = self.rules.tenant_tier
        if standing.tier < least:
            return StorageRefused(
                f"this host takes tenants of nodes that are {least.label} to it; "
                f"yours is {standing.tier.label}"
            )
        if standing.integrity < self._standings.floors.integrity:
            return StorageRefused("this host does not take tenants of your node")
        return None

    def _quota(self, wanted: int, known: Mapping[bytes, int], tenant: bytes) -> int:
        """Return what a tenant is given: no room is promised twice. Raises StorageFull."""
        promised = sum(known.values()) - known.get(tenant, 0)
        asked = min(wanted or self.rules.quota_bytes, self.rules.quota_bytes)
        given = min(asked, self.rules.capacity_bytes - promised)
        if given < min(asked, limits.STORAGE_QUOTA_BYTES_MIN):
            raise StorageFull(
                f"this host has {max(given, 0)} bytes that are not promised to others"
            )
        return given

    def _health(self) -> bodies.Health:
        totals = self._totals
        return bodies.Health(
            totals.capacity_bytes,
            totals.free_bytes,
            totals.tenants,
            totals.objects,
            self.rules.tenant_tier,
            __version__,
        )

    async def _tidy(self, store: HostStore, writes: Threads) -> None:
        """Give space back and look at the totals, after deletes and from time to time."""
        while True:
            with contextlib.suppress(Busy):  # requests come first
                while await writes.run(store.tidy):
                    pass
                self._totals = await writes.run(store.totals)
            self._freed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(limits.STORAGE_TIDY_S):
                    await self._freed.wait()


def _check_count(made: int) -> None:
    """Raise StorageRefused for a peer that has made so many tenants: each is promised room."""
    if made >= limits.STORAGE_TENANTS_PER_PEER_MAX:
        raise StorageRefused(
            f"your node has {made} tenants here already; delete one: kwaainet vpk tenant delete"
        )


def _cost(request: Request) -> int:
    """Return how many plain requests one counts as."""
    if request.operation in (Operation.PROVE, Operation.PIR_TABLE):
        return limits.STORAGE_PROOF_COST
    if request.operation is Operation.PIR:
        return 1 + bodies.masks_of(request.body)
    return 1
