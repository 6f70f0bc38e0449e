"""A host's answers to peers: whose requests are done, and every way in which they are not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from credentials.keys import PeerId, SecretKey, peer_id
from kwaai import limits
from kwaai.errors import (
    Busy,
    KwaaiError,
    PeerRefused,
    StorageFull,
    StorageRefused,
)
from kwaai.intent.match import PeerFacts
from kwaai.node.storage_home import StorageRules
from kwaai.node.storage_replays import Replays
from kwaai.node.storage_service import StorageService
from kwaai.trust.score import Standing
from kwaai.trust.tiers import Floors, Tier
from kwaai.vpk.delegation import Delegation, sign_delegation
from kwaai.vpk.host_store import HostStore
from kwaai.vpk.pir import make_masks
from kwaai.wire import storage_bodies as bodies
from kwaai.wire import storage_messages as messages
from kwaai.wire.storage_messages import Binding, Operation


def key(number: int) -> SecretKey:
    return SecretKey(number.to_bytes(32, "big"))


TENANT, OTHER, READER = key(1), key(2), key(3)
HOST, BOB, STRANGER, SIBLING = (peer_id(key(n).public) for n in (10, 11, 12, 13))
OWNER = "did:key:owner"
BASE, BASE_2 = b"b" * 16, b"c" * 16
IDS = [n.to_bytes(16, "big") for n in range(8)]
NONCE = b"n" * 32
CAPACITY = 64 * limits.MIB


@dataclass
class Known:
    """Standings of a few peers."""

    tiers: dict[str, Tier] = field(default_factory=lambda: {BOB: Tier.KNOWN})
    integrity: float = 1.0
    floors = Floors()
    prepared: list[str] = field(default_factory=list)

    def standing(self, peer: str) -> Standing:
        owner = OWNER if peer == SIBLING else None
        tier = self.tiers.get(peer, Tier.UNKNOWN)
        return Standing(peer, 0.5, 0.0, tier, owner, integrity=self.integrity)

    def facts(self, peer: str) -> PeerFacts:
        return PeerFacts(peer)

    async def prepare(self, peers: Sequence[str], *, current: bool) -> None:
        self.prepared += peers


class Caller:
    """One key on one channel of one peer's link."""

    def __init__(
        self,
        service: StorageService,
        peer: PeerId = BOB,
        signer: SecretKey = TENANT,
        *,
        tenant: SecretKey | None = None,
        nonce: bytes = NONCE,
        delegation: bytes = b"",
    ) -> None:
        self.service, self.peer, self.signer, self.nonce = service, peer, signer, nonce
        self.tenant = (tenant or signer).public.raw
        self.delegation = delegation
        self.counter = 0

    def request(self, operation: Operation, body: bytes = b"") -> bytes:
        self.counter += 1
        return messages.encode_request(
            operation,
            body,
            tenant=self.tenant,
            signer=self.signer,
            binding=Binding(HOST, self.peer, self.nonce),
            counter=self.counter,
            delegation=self.delegation,
        )

    async def send(self, data: bytes) -> bytes:
        answer = await self.service.handle(self.peer, self.nonce, data)
        return bytes(messages.parse_answer(answer, HOST))

    async def ask(self, operation: Operation, body: bytes = b"") -> bytes:
        return await self.send(self.request(operation, body))

    async def create(self, quota_bytes: int = 0) -> bodies.TenantUsage:
        wanted = bodies.encode_create_tenant(bodies.CreateTenant(quota_bytes, "bob"))
        return bodies.parse_usage(await self.ask(Operation.CREATE_TENANT, wanted))

    async def put(self, count: int = 3, size: int = 428) -> None:
        objects = [(IDS[n], bytes((n,)) * size) for n in range(count)]
        await self.ask(Operation.PUT, bodies.encode_put(BASE, objects))

    async def get(self, ids: Sequence[bytes]) -> list[bytes | None]:
        body = await self.ask(Operation.GET, bodies.encode_ids(BASE, ids))
        return bodies.parse_objects(body, len(ids))


@asynccontextmanager
async def hosting(
    path: Path,
    *,
    standings: Known | None = None,
    tier: Tier = Tier.KNOWN,
    quota_bytes: int = 32 * limits.MIB,
    own_owner: str | None = OWNER,
    now_s: Callable[[], float] = lambda: 1000.0,
) -> AsyncIterator[StorageService]:
    service = StorageService(
        lambda: HostStore.open(path / "objects.db", CAPACITY, reserve_bytes=0),
        HOST,
        StorageRules(CAPACITY, quota_bytes, tier),
        standings or Known(),
        lambda: own_owner,
        clock=time.time,
        monotonic=now_s,
    )
    ready = asyncio.Event()
    task = asyncio.create_task(service.run(ready.set))
    await asyncio.wait_for(ready.wait(), 30)
    try:
        yield service
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_tenant_does_all_that_a_host_offers(tmp_path: Path) -> None:
    async with hosting(tmp_path) as service:
        bob = Caller(service)
        assert (await bob.create()).quota_bytes == 32 * limits.MIB
        await bob.put(5)
        assert await bob.get([IDS[4], IDS[7], IDS[0]]) == [bytes((4,)) * 428, None, bytes(428)]
        listed = await bob.ask(Operation.LIST_IDS, bodies.encode_list(BASE, IDS[2], 9))
        assert bodies.parse_id_list(listed, 9) == IDS[3:5]
        assert bodies.parse_id_list(await bob.ask(Operation.BASES), 9) == [BASE]
        deleted = await bob.ask(Operation.DELETE, bodies.encode_ids(BASE, IDS[4:]))
        assert bodies.parse_count(deleted, 4) == 1
        assert await bob.ask(Operation.GET_MANIFEST, bodies.encode_base(BASE)) == b""
        asked = bodies.encode_table_request(BASE, 428)
        table = bodies.parse_table(await bob.ask(Operation.PIR_TABLE, asked))
        first, second = make_masks(table.rows, [2], 1)
        rows = [
            bodies.parse_rows(
                await bob.ask(Operation.PIR, bodies.encode_pir(BASE, table, masks)), table, 1
            )[0]
            for masks in (first, second)
        ]
        assert bytes(a ^ b for a, b in zip(*rows, strict=True)) == bytes((2,)) * 428
        usage = bodies.parse_usage(await bob.ask(Operation.USAGE))
        assert (usage.objects, usage.quota_bytes) == (4, 32 * limits.MIB)
        assert await bob.ask(Operation.DROP_BASE, bodies.encode_base(BASE)) == b""
        assert bodies.parse_id_list(await bob.ask(Operation.BASES), 9) == []
        await bob.ask(Operation.DELETE_TENANT)
        with pytest.raises(StorageRefused, match="not known here"):
            await bob.ask(Operation.USAGE)
        assert service.stats()["storage_refused"] == 1


async def test_a_stranger_gets_nothing_by_any_request(tmp_path: Path) -> None:
    """Every operation, signed with a key of the stranger's own: as a tenant that is none here, and
    as somebody else's tenant.
    """
    async with hosting(tmp_path) as service:
        bob = Caller(service)
        await bob.create()
        await bob.put()
        table = bodies.Table(3, 428, bytes(32))
        requests = {
            Operation.CREATE_TENANT: bodies.encode_create_tenant(bodies.CreateTenant(1)),
            Operation.PUT: bodies.encode_put(BASE, [(IDS[0], b"x")]),
            Operation.GET: bodies.encode_ids(BASE, IDS[:1]),
            Operation.DELETE: bodies.encode_ids(BASE, IDS[:1]),
            Operation.LIST_IDS: bodies.encode_list(BASE, b"", 9),
            Operation.PUT_MANIFEST: bodies.encode_put_manifest(BASE, 1, b"x" * 300),
            Operation.GET_MANIFEST: bodies.encode_base(BASE),
            Operation.DROP_BASE: bodies.encode_base(BASE),
            Operation.PIR_TABLE: bodies.encode_table_request(BASE, 428),
            Operation.PIR: bodies.encode_pir(BASE, table, [b"\xff"]),
            Operation.PROVE: bodies.encode_prove(BASE, IDS[0], b"x"),
        }
        for operation in set(Operation) - {Operation.HEALTH, Operation.DELETE_TENANT}:
            own = Caller(service, STRANGER, OTHER, nonce=bytes((operation,)))
            with pytest.raises(KwaaiError) as caught:
                await own.ask(operation, requests.get(operation, b""))
            assert isinstance(caught.value, StorageRefused), operation
        for operation in set(Operation) - {Operation.HEALTH}:
            service._refusals = type(service._refusals)(1.0, 100.0)
            posing = Caller(service, STRANGER, OTHER, tenant=TENANT, nonce=bytes((operation, 1)))
            with pytest.raises(StorageRefused, match="only the tenant"):
                await posing.ask(operation, requests.get(operation, b""))
        own = Caller(service, STRANGER, OTHER, nonce=b"last")
        assert await own.ask(Operation.DELETE_TENANT) == b""  # of nothing
        assert len(service.store.tenants()) == 1
        assert await bob.get([IDS[1]]) == [bytes((1,)) * 428]


async def test_health_is_told_to_anybody(tmp_path: Path) -> None:
    async with hosting(tmp_path) as service:
        stranger = Caller(service, STRANGER, OTHER)
        health = bodies.parse_health_answer(await stranger.send(messages.encode_health()))
        assert (health.capacity_bytes, health.tenant_count) == (CAPACITY, 0)
        assert health.tenant_tier == Tier.KNOWN


async def test_a_request_is_not_taken_twice_nor_from_elsewhere(tmp_path: Path) -> None:
    async with hosting(tmp_path) as service:
        bob = Caller(service)
        await bob.create()
        request = bob.request(Operation.USAGE)
        await bob.send(request)
        with pytest.raises(StorageRefused, match="has come already"):
            await bob.send(request)
        again = bob.request(Operation.USAGE)
        for thief in (Caller(service, STRANGER), Caller(service, BOB, nonce=b"another")):
            with pytest.raises(StorageRefused, match="not signed"):
                await thief.send(again)
        await bob.send(again)  # those did not use it up


async def test_requests_that_overtake_one_another_are_taken(tmp_path: Path) -> None:
    async with hosting(tmp_path) as service:
        bob = Caller(service)
        await bob.create()
        requests = [bob.request(Operation.USAGE) for _ in range(20)]
        await asyncio.gather(*map(bob.send, reversed(requests)))


def test_counters_are_bounded_and_windowed() -> None:
    replays = Replays(channels_max=2, signers_max=2)
    replays.take(BOB, b"1", b"s", limits.STORAGE_COUNTER_WINDOW + 5)
    replays.take(BOB, b"1", b"s", 6)
    for refused in (6, 5, 0, limits.STORAGE_COUNTER_WINDOW + 5):
        with pytest.raises(StorageRefused):
            replays.take(BOB, b"1", b"s", refused)
    replays.take(BOB, b"1", b"s", 1 << 63)
    with pytest.raises(StorageRefused):
        replays.take(BOB, b"1", b"s", 7)
    for number in range(50):
        replays.take(BOB, bytes((number,)), b"s", 1)
        replays.take(BOB, b"1", bytes((number,)), 1)
    assert len(replays._channels) == 2
    assert all(len(signers) <= 2 for signers in replays._channels.values())


# Who may be a tenant.


async def test_a_tenant_needs_the_owners_tier(tmp_path: Path) -> None:
    known = Known()
    async with hosting(tmp_path, standings=known, tier=Tier.VERIFIED) as service:
        with pytest.raises(StorageRefused, match="Verified to it; yours is Known"):
            await Caller(service).create()
        known.tiers[BOB] = Tier.VERIFIED
        await Caller(service, nonce=b"2").create()
        assert known.prepared == [BOB, BOB]


async def test_who_gave_wrong_answers_is_no_tenant(tmp_path: Path) -> None:
    async with hosting(tmp_path, standings=Known(integrity=0.1)) as service:
        with pytest.raises(StorageRefused, match="does not take"):
            await Caller(service).create()


async def test_the_owners_own_nodes_always_may(tmp_path: Path) -> None:
    async with hosting(tmp_path, tier=Tier.TRUSTED) as service:
        await Caller(service, SIBLING).create()
    async with hosting(tmp_path, tier=Tier.TRUSTED, own_owner=None) as service:
        with pytest.raises(StorageRefused):
            await Caller(service, SIBLING, OTHER).create()


async def test_a_new_device_with_the_key_is_the_tenant(tmp_path: Path) -> None:
    """Nobody knows its PeerId: restoring must work all the same, and making the tenant again."""
    async with hosting(tmp_path) as service:
        bob = Caller(service)
        await bob.create(20 * limits.MIB)
        await bob.put()
        device = Caller(service, STRANGER)
        assert await device.get(IDS[:1]) == [bytes(428)]
        assert (await device.create(32 * limits.MIB)).quota_bytes == 20 * limits.MIB


async def test_no_room_is_promised_twice(tmp_path: Path) -> None:
    async with hosting(tmp_path, quota_bytes=50 * limits.MIB) as service:
        assert (await Caller(service).create(1 << 50)).quota_bytes == 50 * limits.MIB
        with pytest.raises(StorageFull, match="not promised"):
            await Caller(service, BOB, OTHER).create()
        assert (await Caller(service, nonce=b"2").create(48 * limits.MIB)).objects == 0
        assert (await Caller(service, BOB, OTHER, nonce=b"3").create()).quota_bytes == (
            16 * limits.MIB
        )


async def test_a_quota_is_kept(tmp_path: Path) -> None:
    async with hosting(tmp_path, quota_bytes=1000) as service:
        bob = Caller(service)
        await bob.create()
        await bob.put(2)
        with pytest.raises(StorageFull, match="quota"):
            await bob.put(3)


# Readers.


def right(
    base: bytes = BASE, *, reader: SecretKey = READER, signer: SecretKey = TENANT, age_s: float = 0
) -> bytes:
    now_s = time.time() - age_s
    delegation = Delegation(
        signer.public.raw, reader.public.raw, base, now_s - 10.0, now_s + 1000.0
    )
    return sign_delegation(delegation, signer)


async def test_a_reader_reads_and_nothing_else(tmp_path: Path) -> None:
    async with hosting(tmp_path) as service:
        bob = Caller(service)
        await bob.create()
        await bob.put()
        reader = Caller(service, STRANGER, READER, tenant=TENANT, delegation=right())
        assert await reader.get(IDS[:1]) == [bytes(428)]
        listed = await reader.ask(Operation.LIST_IDS, bodies.encode_list(BASE, b"", 9))
        assert bodies.parse_id_list(listed, 9) == IDS[:3]
        for operation in set(Operation) - messages.READING - {Operation.HEALTH}:
            with pytest.raises(StorageRefused, match="only the tenant"):
                await reader.ask(operation, bodies.encode_base(BASE))
        assert bodies.parse_usage(await bob.ask(Operation.USAGE)).objects == 3


def altered(data: bytes) -> bytes:
    return data[:-1] + bytes((data[-1] ^ 1,))


@pytest.mark.parametrize(
    "make",
    [
        lambda: right(BASE_2),
        lambda: right(reader=OTHER),
        lambda: right(signer=OTHER),
        lambda: right(age_s=2000.0),
        lambda: right(age_s=-2000.0),
        lambda: altered(right()),
        lambda: b"x",
        lambda: bytes(200),
    ],
)
async def test_what_is_no_right_to_read_is_refused(
    tmp_path: Path, make: Callable[[], bytes]
) -> None:
    delegation = make()  # now: a suite may run for longer than a right's time
    async with hosting(tmp_path) as service:
        bob = Caller(service)
        await bob.create()
        await bob.put()
        reader = Caller(service, STRANGER, READER, tenant=TENANT, delegation=delegation)
        with pytest.raises(StorageRefused):
            await reader.get(IDS[:1])
        with pytest.raises(StorageRefused):
            await reader.ask(Operation.GET, b"short")


# Bounds.


async def test_too_many_requests_are_put_off(tmp_path: Path) -> None:
    now = [1000.0]
    async with hosting(tmp_path, now_s=lambda: now[0]) as service:
        stranger = Caller(service, STRANGER, OTHER)
        health = messages.encode_health()
        for _ in range(int(limits.STORAGE_REQUESTS_BURST)):
            await stranger.send(health)
        with pytest.raises(Busy, match="too many requests") as caught:
            await stranger.send(health)
        assert caught.value.retry_after_s == 1.0
        await Caller(service).send(health)  # of others
        now[0] += 1.0
        await stranger.send(health)


async def test_who_is_refused_again_and_again_is_not_looked_at(tmp_path: Path) -> None:
    now = [1000.0]
    async with hosting(tmp_path, now_s=lambda: now[0]) as service:
        stranger = Caller(service, STRANGER, OTHER)
        for _ in range(int(limits.STORAGE_REFUSALS_BURST)):
            with pytest.raises(PeerRefused):
                await stranger.send(b"garbage")
        with pytest.raises(Busy, match="were refused"):
            await stranger.send(messages.encode_health())
        now[0] += 1.0
        await stranger.send(messages.encode_health())


async def test_bodies_that_are_none_are_refused(tmp_path: Path) -> None:
    async with hosting(tmp_path) as service:
        bob = Caller(service)
        await bob.create()
        for operation in set(Operation) - {
            Operation.HEALTH,
            Operation.DELETE_TENANT,
            Operation.USAGE,
            Operation.BASES,
        }:
            with pytest.raises(PeerRefused):
                await bob.ask(operation, b"?")


async def test_an_answer_of_many_rows_is_refused_before_it_is_made(tmp_path: Path) -> None:
    async with hosting(tmp_path) as service:
        bob = Caller(service)
        await bob.create()
        size = 100_000
        await bob.put(2, size)
        asked = bodies.encode_table_request(BASE, size)
        table = bodies.parse_table(await bob.ask(Operation.PIR_TABLE, asked))
        with pytest.raises(PeerRefused, match="fit into one answer"):
            await bob.ask(Operation.PIR, bodies.encode_pir(BASE, table, [b"\xc0"] * 30))


async def test_space_is_given_back_after_a_drop(tmp_path: Path) -> None:
    async with hosting(tmp_path) as service:
        bob = Caller(service)
        await bob.create()
        await bob.put(8, 100_000)
        await bob.ask(Operation.DROP_BASE, bodies.encode_base(BASE))
        async with asyncio.timeout(30):
            while service.store.totals().used_bytes:
                await asyncio.sleep(0)
        assert service.promised_bytes > 0


async def test_a_host_that_is_not_open_says_so(tmp_path: Path) -> None:
    async with hosting(tmp_path) as service:
        caller = Caller(service)
        await caller.create()
    with pytest.raises(PeerRefused, match="not open"):
        await caller.ask(Operation.USAGE)
