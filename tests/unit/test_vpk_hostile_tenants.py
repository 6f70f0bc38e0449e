"""Tenants, readers and peers that try to exhaust a host, or to have more of it than is theirs."""

from __future__ import annotations

import asyncio
import tracemalloc
from pathlib import Path

import pytest
from test_vpk_host_service import (
    BASE,
    BOB,
    STRANGER,
    TENANT,
    Caller,
    Known,
    hosting,
    key,
)

from kwaai import limits
from kwaai.errors import KwaaiError, StorageFull, StorageRefused
from kwaai.trust.tiers import Tier
from kwaai.vpk.host_store import HostStore
from kwaai.wire import storage_bodies as bodies
from kwaai.wire.storage_messages import Operation

RAW = TENANT.public.raw


def large_store(path: Path, count: int) -> tuple[HostStore, list[bytes]]:
    store = HostStore.open(path / "objects.db", 1 << 40, reserve_bytes=0)
    store.create_tenant(RAW, 1 << 40)
    ids = [n.to_bytes(16, "big") for n in range(count)]
    for object_id in ids:
        store.put(RAW, BASE, [(object_id, object_id[-1:] * limits.MIB)])
    return store, ids


def test_no_more_is_read_than_an_answer_holds(tmp_path: Path) -> None:
    """8,192 ids of 2 MiB each are one small request: the host must not read 16 GiB for it."""
    store, ids = large_store(tmp_path, 40)
    room = 3 * limits.MIB
    tracemalloc.start()
    try:
        answer = store.get(RAW, BASE, ids, bytes_max=room)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [len(blob or b"") for blob in answer] == [limits.MIB] * 3
    assert [blob[:1] for blob in answer if blob] == [b"\0", b"\1", b"\2"]
    assert peak < 4 * room
    store.close()


@pytest.mark.parametrize("room", [1, limits.MIB - 1, limits.MIB, 5 * limits.MIB])
def test_what_is_cut_is_asked_for_again(tmp_path: Path, room: int) -> None:
    """Missing ids, repeated ones, any order: what is held is never told as not held."""
    store, ids = large_store(tmp_path, 5)
    wanted = [ids[3], b"x" * 16, ids[3], ids[0], b"y" * 16, ids[4], ids[1]]
    got: list[bytes | None] = []
    while len(got) < len(wanted):
        got += store.get(RAW, BASE, wanted[len(got) :], bytes_max=room)
    assert [None if blob is None else blob[0] for blob in got] == [3, None, 3, 0, None, 4, 1]
    store.close()


def test_tables_of_sizes_that_nothing_has_are_bounded(tmp_path: Path) -> None:
    store, _ = large_store(tmp_path, 1)
    tables = store._tables
    for size in range(1, limits.STORAGE_PIR_TABLES_MAX + 50):
        assert store.pir_table(RAW, BASE, size).rows == 0
    assert len(tables._kept) <= limits.STORAGE_PIR_TABLES_MAX
    store.close()


async def test_one_peer_does_not_take_all_room_by_making_tenants(tmp_path: Path) -> None:
    async with hosting(tmp_path, quota_bytes=4 * limits.MIB) as service:
        for number in range(limits.STORAGE_TENANTS_PER_PEER_MAX):
            await Caller(service, BOB, key(100 + number)).create()
        with pytest.raises(StorageRefused, match="tenants here already"):
            await Caller(service, BOB, key(200)).create()
        assert (await Caller(service, BOB, key(100), nonce=b"2").create()).quota_bytes > 0
        await Caller(service, BOB, key(101), nonce=b"3").ask(Operation.DELETE_TENANT)
        await Caller(service, BOB, key(200), nonce=b"4").create()


async def test_puts_at_the_same_time_do_not_pass_the_quota(tmp_path: Path) -> None:
    quota = 16 * limits.MIB
    async with hosting(tmp_path, quota_bytes=quota) as service:
        await Caller(service).create()

        async def put(number: int) -> bool:
            caller = Caller(service, nonce=bytes((number,)))
            objects = [(number.to_bytes(16, "big"), bytes(limits.MIB))]
            try:
                await caller.ask(Operation.PUT, bodies.encode_put(BASE, objects))
            except StorageFull:
                return False
            return True

        done = await asyncio.gather(*(put(number) for number in range(24)))
        assert sum(done) == 15  # each is charged 64 bytes more than it has
        used = bodies.parse_usage(await Caller(service, nonce=b"u" * 9).ask(Operation.USAGE))
        assert used.used_bytes <= quota
        assert used.objects == 15


async def test_empty_requests_make_nothing_that_grows(tmp_path: Path) -> None:
    """Bases without objects, replaced objects, drops: what is charged is what is there."""
    async with hosting(tmp_path) as service:
        bob = Caller(service)
        await bob.create()
        for number in range(limits.STORAGE_BASES_MAX):
            base = number.to_bytes(16, "big")
            await bob.ask(Operation.PUT, bodies.encode_put(base, []))
        with pytest.raises(StorageFull, match="bases"):
            await bob.ask(Operation.PUT, bodies.encode_put(b"z" * 16, []))
        for _ in range(5):
            await bob.ask(Operation.PUT, bodies.encode_put(bytes(16), [(bytes(16), bytes(1000))]))
        used = bodies.parse_usage(await bob.ask(Operation.USAGE))
        assert (used.objects, used.used_bytes) == (1, 1000 + limits.STORAGE_OBJECT_CHARGE_BYTES)


async def test_stranger_with_every_operation_on_another_tenant_learns_and_does_nothing(
    tmp_path: Path,
) -> None:
    """Signed by a key that is not the tenant's, by a peer that is known, without and with a
    delegation that says nothing: the same refusal, whether the tenant is there or not."""
    async with hosting(tmp_path, standings=Known({BOB: Tier.VERIFIED})) as service:
        bob = Caller(service)
        await bob.create()
        await bob.put(3)
        said = set()
        for tenant in (TENANT, key(77)):
            for operation in Operation:
                if operation in (Operation.HEALTH, Operation.CREATE_TENANT):
                    continue
                for delegation in (b"", b"\1" * 170):
                    nonce = bytes((operation,)) + tenant.public.raw[:8] + delegation[:1]
                    thief = Caller(
                        service,
                        STRANGER,
                        key(66),
                        tenant=tenant,
                        nonce=nonce,
                        delegation=delegation,
                    )
                    service._refusals._buckets.clear()
                    with pytest.raises(KwaaiError) as refused:
                        await thief.ask(operation, BASE + bytes(40))
                    said.add((type(refused.value), operation, delegation, refused.value.message))
        assert all(kind is StorageRefused for kind, *_ in said)
        by_case = {(operation, delegation) for _, operation, delegation, _ in said}
        assert len(said) == len(by_case)  # nothing tells whether the tenant is there
        assert await bob.get([n.to_bytes(16, "big") for n in range(3)]) == [
            bytes((n,)) * 428 for n in range(3)
        ]
