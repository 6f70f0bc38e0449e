"""A host on another node: what is asked, cut and kept under way; and what a liar may answer."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from credentials.keys import PeerId, SecretKey, peer_id
from kwaai import limits
from kwaai.errors import (
    Busy,
    KwaaiError,
    ManifestConflict,
    PeerLost,
    PeerMisbehaved,
    PeerRefused,
    PeerStalled,
    StorageFull,
    StorageRefused,
    UserError,
)
from kwaai.node.storage_client import RemoteHost, fetch_health
from kwaai.vpk.types import Host, HostUsage, PirTable
from kwaai.wire import storage_bodies as bodies
from kwaai.wire.storage_messages import (
    NAME,
    Binding,
    Operation,
    encode_answer,
    encode_refusal,
    parse_request,
    verify_request,
)

BOB, EVE = SecretKey(b"\1" * 32), SecretKey(b"\2" * 32)
PBOB, PEVE = peer_id(BOB.public), peer_id(EVE.public)
TENANT, READER = SecretKey(b"\3" * 32), SecretKey(b"\4" * 32)
BASE = b"b" * 16
KIB = 1024


def id_of(number: int) -> bytes:
    return number.to_bytes(16, "big")


class Eve:
    """The calls of a node to one host that keeps everything in a dictionary."""

    def __init__(self) -> None:
        self.peer = PBOB
        self.objects: dict[bytes, bytes] = {}
        self.manifests: dict[bytes, tuple[int, bytes]] = {}
        self.asked: list[Operation] = []
        self.counters: list[int] = []
        self.sizes: list[int] = []
        self.under_way = self.most_under_way = 0
        self.nonce = b"n" * 32
        self.answer: Callable[[Operation, memoryview], bytes | None] = lambda op, body: None
        """What is answered instead, where it is not None."""
        self.failure: KwaaiError | None = None
        self.timeouts_s: list[float] = []
        self.lanes: list[int] = []

    async def call(
        self,
        peer: PeerId,
        name: str,
        body: bytes | Callable[[bytes], bytes],
        timeout_s: float,
        lane: int,
    ) -> bytes:
        assert (peer, name) == (PEVE, NAME)
        self.timeouts_s.append(timeout_s)
        self.lanes.append(lane)
        if self.failure is not None:
            raise self.failure
        data = body if isinstance(body, bytes) else body(self.nonce)
        assert len(data) <= limits.CALL_BODY_BYTES_MAX
        self.sizes.append(len(data))
        self.under_way += 1
        self.most_under_way = max(self.under_way, self.most_under_way)
        try:
            await asyncio.sleep(0)
            answer = self._answer(data)
            assert len(answer) <= limits.CALL_BODY_BYTES_MAX
            return answer
        finally:
            self.under_way -= 1

    def _answer(self, data: bytes) -> bytes:
        request = parse_request(data)
        if request is None:
            said = self.answer(Operation.HEALTH, memoryview(b""))
            health = bodies.Health(100, 50, 3, 7, 1, "1.2.3")
            return said or encode_answer(bodies.encode_health_answer(health))
        verify_request(data, request, Binding(PEVE, PBOB, self.nonce))
        self.asked.append(request.operation)
        self.counters.append(request.counter)
        said = self.answer(request.operation, request.body)
        if said is not None:
            return said
        try:
            return encode_answer(self._do(request.operation, request.body))
        except KwaaiError as error:
            return encode_refusal(error)

    def _do(self, operation: Operation, body: memoryview) -> bytes:
        match operation:
            case Operation.PUT:
                base, objects = bodies.parse_put(body)
                self.objects.update(objects)
            case Operation.GET:
                base, ids = bodies.parse_ids(body)
                return self._get(ids)
            case Operation.DELETE:
                base, ids = bodies.parse_ids(body)
                return bodies.encode_count(sum(self.objects.pop(i, None) is not None for i in ids))
            case Operation.LIST_IDS:
                base, after, count = bodies.parse_list(body)
                return bodies.encode_id_list(sorted(i for i in self.objects if i > after)[:count])
            case Operation.PUT_MANIFEST:
                base, sequence, data = bodies.parse_put_manifest(body)
                there = self.manifests.get(base)
                if there is not None and there[0] >= sequence and there != (sequence, data):
                    conflict = ManifestConflict("another device was faster")
                    conflict.current = there[1]
                    raise conflict
                self.manifests[base] = sequence, data
            case Operation.GET_MANIFEST:
                return self.manifests.get(bodies.parse_base(body), (0, b""))[1]
            case Operation.BASES:
                return bodies.encode_id_list(sorted(self.manifests))
            case Operation.DROP_BASE:
                self.manifests.pop(bodies.parse_base(body), None)
            case Operation.CREATE_TENANT:
                wanted = bodies.parse_create_tenant(body)
                return bodies.encode_usage(bodies.TenantUsage(0, 0, wanted.quota_bytes, 99))
            case Operation.USAGE:
                return bodies.encode_usage(bodies.TenantUsage(len(self.objects), 5, 10, 99))
            case Operation.PIR_TABLE:
                base, row_bytes = bodies.parse_table_request(body)
                return bodies.encode_table(bodies.Table(*self.table(row_bytes)))
            case Operation.PIR:
                base, table, masks = bodies.parse_pir(body)
                return b"".join(mask[:1] * table.row_bytes for mask in masks)
            case Operation.PROVE:
                base, object_id, challenge = bodies.parse_prove(body)
                return object_id + challenge
        return b""

    def _get(self, ids: list[bytes]) -> bytes:
        found: list[bytes | None] = []
        left = limits.CALL_BODY_BYTES_MAX - 16
        for object_id in ids:
            data = self.objects.get(object_id)
            left -= 4 + len(data or b"")
            if left < 0:
                break
            found.append(data)
        return bodies.encode_objects(found)

    def table(self, row_bytes: int) -> tuple[int, int, bytes]:
        ids = b"".join(sorted(i for i, data in self.objects.items() if len(data) == row_bytes))
        return len(ids) // 16, row_bytes, hashlib.blake2b(ids, digest_size=32).digest()


@pytest.fixture
def eve() -> Eve:
    return Eve()


@pytest.fixture
def host(eve: Eve) -> RemoteHost:
    return RemoteHost(PEVE, eve, TENANT)


def test_it_is_a_host(host: RemoteHost) -> None:
    found: Host = host
    assert found.id == PEVE


# What is asked.


async def test_objects_come_back_as_they_were_put(eve: Eve, host: RemoteHost) -> None:
    objects = [(id_of(n), bytes([n]) * (n + 1)) for n in range(100)]
    await host.put(BASE, objects)
    wanted = [id_of(n) for n in (5, 200, 0, 99)]
    assert await host.get(BASE, wanted) == [b"\5" * 6, None, b"\0", b"\x63" * 100]
    assert eve.asked == [Operation.PUT, Operation.GET]
    assert await host.delete(BASE, wanted) == 3
    assert await host.list_ids(BASE, b"", 3) == [id_of(n) for n in (1, 2, 3)]
    assert await host.list_ids(BASE, id_of(97), 5) == [id_of(98)]
    assert len(await host.list_ids(BASE, b"", 1000)) == 97


async def test_nothing_is_asked_for_nothing(eve: Eve, host: RemoteHost) -> None:
    await host.put(BASE, [])
    assert await host.get(BASE, []) == []
    assert await host.delete(BASE, []) == 0
    assert await host.list_ids(BASE, b"", 0) == []
    assert not eve.asked


async def test_much_is_cut_and_kept_under_way(eve: Eve, host: RemoteHost) -> None:
    sizes = [300 * KIB] * 9 + [limits.STORAGE_OBJECT_BYTES_MAX] * 2 + [50] * 5000
    objects = [(id_of(n), bytes([n % 251]) * size) for n, size in enumerate(sizes)]
    await host.put(BASE, objects)
    assert dict(objects) == eve.objects
    assert eve.most_under_way == limits.STORAGE_CALLS_AT_ONCE
    assert len(eve.asked) < 20
    found = await host.get(BASE, [object_id for object_id, _ in objects])
    assert found == [data for _, data in objects]
    assert eve.counters == sorted(set(eve.counters))
    assert await host.delete(BASE, [i for i, _ in objects]) == len(objects)


async def test_small_reads_have_a_lane_of_their_own(eve: Eve, host: RemoteHost) -> None:
    objects = [(id_of(n), b"x") for n in range(2000)]
    await host.put(BASE, objects)
    ids = [object_id for object_id, _ in objects]
    await host.get(BASE, ids)
    bulk = set(eve.lanes)
    eve.lanes.clear()
    await host.get(BASE, ids[:100])
    await host.usage()
    assert len(bulk) == 1
    assert set(eve.lanes).isdisjoint(bulk)


async def test_two_tenants_and_two_handles_share_a_channel(eve: Eve, host: RemoteHost) -> None:
    other = RemoteHost(PEVE, eve, TENANT)
    for _ in range(3):
        await asyncio.gather(host.bases(), other.bases(), RemoteHost(PEVE, eve, BOB).bases())
    assert eve.counters == sorted(set(eve.counters))


async def test_manifests(eve: Eve, host: RemoteHost) -> None:
    assert await host.get_manifest(BASE) is None
    await host.put_manifest(BASE, 1, b"first")
    await host.put_manifest(BASE, 1, b"first")
    with pytest.raises(ManifestConflict) as caught:
        await host.put_manifest(BASE, 1, b"other")
    assert caught.value.current == b"first"
    assert await host.get_manifest(BASE) == b"first"
    assert await host.bases() == [BASE]
    await host.drop_base(BASE)
    assert await host.bases() == []


async def test_a_tenant_comes_and_goes(eve: Eve, host: RemoteHost) -> None:
    assert await host.create_tenant(1000, "bob's laptop") == HostUsage(0, 0, 1000, 99)
    assert await host.usage() == HostUsage(0, 5, 10, 99)
    await host.delete_tenant()
    assert eve.asked[-1] is Operation.DELETE_TENANT
    with pytest.raises(ValueError, match="name"):
        await host.create_tenant(1, "x" * 1000)


async def test_oblivious_reads_and_proofs(eve: Eve, host: RemoteHost) -> None:
    await host.put(BASE, [(id_of(n), bytes(64)) for n in range(20)])
    table = await host.pir_table(BASE, 64)
    assert (table.rows, table.row_bytes) == (20, 64)
    masks = [bytes([n, 0, 0]) for n in range(150)]
    assert await host.pir(BASE, table, masks) == [bytes([n]) * 64 for n in range(150)]
    assert eve.asked.count(Operation.PIR) == 3
    assert await host.prove(BASE, id_of(1), b"challenge") == id_of(1) + b"challenge"


async def test_wide_rows_and_wide_masks_are_asked_for_in_parts(eve: Eve, host: RemoteHost) -> None:
    for table in (PirTable(8, 700 * KIB, bytes(32)), PirTable(8 << 20, 8, bytes(32))):
        mask = bytes(table.rows // 8)
        assert len(await host.pir(BASE, table, [mask] * 5)) == 5


async def test_a_reader_shows_its_delegation(eve: Eve) -> None:
    reader = RemoteHost.for_reader(PEVE, eve, TENANT.public.raw, READER, b"a right to read")
    seen = []

    def look(operation: Operation, body: memoryview) -> None:
        seen.append(operation)

    eve.answer = look
    assert await reader.get(BASE, [id_of(1)]) == [None]
    assert seen == [Operation.GET]


async def test_health_is_asked_by_anybody(eve: Eve) -> None:
    health = await fetch_health(PEVE, eve)
    assert (health.capacity_bytes, health.free_bytes, health.tenant_count) == (100, 50, 3)
    eve.answer = lambda operation, body: encode_answer(b"?")
    with pytest.raises(PeerMisbehaved):
        await fetch_health(PEVE, eve)


# What a host says no with.


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (Busy("later", retry_after_s=3.0), Busy),
        (StorageFull("the quota is used up"), StorageFull),
        (StorageRefused("no such tenant"), PeerRefused),
        (PeerRefused("the table has changed"), PeerRefused),
        (UserError("what?"), PeerRefused),
    ],
)
async def test_refusals(eve: Eve, host: RemoteHost, said: KwaaiError, kind: type) -> None:
    eve.answer = lambda operation, body: encode_refusal(said)
    with pytest.raises(kind) as caught:
        await host.put(BASE, [(id_of(1), b"x")])
    assert said.message in str(caught.value)
    if isinstance(caught.value, Busy):
        assert caught.value.retry_after_s == 3.0
    if isinstance(caught.value, PeerRefused):
        assert caught.value.peer == PEVE


@pytest.mark.parametrize("said", [StorageFull("no"), ManifestConflict("no")])
async def test_a_refusal_that_does_not_fit_what_was_asked(
    eve: Eve, host: RemoteHost, said: KwaaiError
) -> None:
    eve.answer = lambda operation, body: encode_refusal(said)
    with pytest.raises(PeerMisbehaved):
        await host.get(BASE, [id_of(1)])
    with pytest.raises(PeerMisbehaved):
        await host.drop_base(BASE)


async def test_one_part_that_fails_ends_the_others(eve: Eve, host: RemoteHost) -> None:
    eve.failure = PeerLost("gone", peer=PEVE)
    with pytest.raises(PeerLost):
        await host.put(BASE, [(id_of(n), bytes(400 * KIB)) for n in range(20)])
    assert not eve.under_way


async def test_deadlines_are_those_of_the_calls(eve: Eve) -> None:
    eve.failure = PeerStalled("slow", peer=PEVE)
    with pytest.raises(PeerStalled):
        await RemoteHost(PEVE, eve, TENANT, timeout_s=1.5).usage()
    assert eve.timeouts_s == [1.5]


# What a liar may answer.

EVERYTHING: list[Callable[[RemoteHost], object]] = [
    lambda host: host.put(BASE, [(id_of(1), b"x")]),
    lambda host: host.get(BASE, [id_of(1), id_of(2)]),
    lambda host: host.delete(BASE, [id_of(1)]),
    lambda host: host.list_ids(BASE, id_of(5), 3),
    lambda host: host.put_manifest(BASE, 1, b"m"),
    lambda host: host.bases(),
    lambda host: host.drop_base(BASE),
    lambda host: host.usage(),
    lambda host: host.create_tenant(1),
    lambda host: host.delete_tenant(),
    lambda host: host.pir_table(BASE, 64),
    lambda host: host.pir(BASE, PirTable(8, 64, bytes(32)), [b"x"]),
    lambda host: host.prove(BASE, id_of(1), b"c"),
]


@pytest.mark.parametrize("ask", EVERYTHING)
@pytest.mark.parametrize("said", [b"", b"\2", b"\1", b"\1\x05wrong", b"\0" + b"?" * 9001])
async def test_nonsense_is_a_peers_fault(
    eve: Eve, host: RemoteHost, ask: Callable[[RemoteHost], object], said: bytes
) -> None:
    eve.answer = lambda operation, body: said
    with pytest.raises(PeerMisbehaved) as caught:
        await ask(host)  # type: ignore[misc]
    assert caught.value.peer == PEVE


@pytest.mark.parametrize(
    "listed",
    [
        [id_of(6), id_of(6)],
        [id_of(7), id_of(6)],
        [id_of(n) for n in range(6, 10)],
        [id_of(5)],
        [id_of(1), id_of(2)],
    ],
)
async def test_lists_that_do_not_rise(eve: Eve, host: RemoteHost, listed: list[bytes]) -> None:
    eve.answer = lambda operation, body: encode_answer(b"".join(listed))
    with pytest.raises(PeerMisbehaved):
        await host.list_ids(BASE, id_of(5), 3)


@pytest.mark.parametrize("table", [(8, 65), (1 << 31, 64)])
async def test_tables_that_cannot_be(eve: Eve, host: RemoteHost, table: tuple[int, int]) -> None:
    said = bodies.encode_table(bodies.Table(*table, bytes(32)))
    eve.answer = lambda operation, body: encode_answer(said)
    with pytest.raises(PeerMisbehaved, match="table"):
        await host.pir_table(BASE, 64)


async def test_a_host_that_gives_one_object_at_a_time_is_asked_on(
    eve: Eve, host: RemoteHost
) -> None:
    await host.put(BASE, [(id_of(n), bytes([n])) for n in range(5)])

    def one(operation: Operation, body: memoryview) -> bytes:
        first = bodies.parse_ids(body)[1][0]
        return encode_answer(bodies.encode_objects([eve.objects.get(first)]))

    eve.answer = one
    assert await host.get(BASE, [id_of(n) for n in range(5)]) == [bytes([n]) for n in range(5)]


@given(said=st.binary(max_size=200), which=st.integers(0, len(EVERYTHING) - 1))
def test_no_bytes_break_it(said: bytes, which: int) -> None:
    async def ask() -> None:
        eve = Eve()
        eve.answer = lambda operation, body: said
        try:
            await asyncio.wait_for(EVERYTHING[which](RemoteHost(PEVE, eve, TENANT)), 10)  # type: ignore[arg-type]
        except KwaaiError:
            return

    asyncio.run(ask())
