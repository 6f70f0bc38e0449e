"""A host in this process: the same calls as to an eve, in parts of a bounded size, reads beside
writes.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from credentials.keys import SecretKey
from kwaai import limits
from kwaai.errors import ManifestConflict, PeerRefused, StorageFull, StorageRefused
from kwaai.vpk import host_store
from kwaai.vpk.host_store import HostStore
from kwaai.vpk.keys import RootKey
from kwaai.vpk.local_host import HERE, LocalHost
from kwaai.vpk.pir import combine, make_masks
from kwaai.vpk.retrievability import challenge, tag, tags_id, verify
from kwaai.vpk.types import Host

TENANT = SecretKey(b"T" * 32).public.raw
BASE = b"b" * 16
QUOTA = 64 * limits.MIB


def object_id(number: int) -> bytes:
    return number.to_bytes(16, "big")


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[LocalHost]:
    store = HostStore.open(tmp_path / "o.db", 2 * QUOTA, reserve_bytes=0)
    store.create_tenant(TENANT, QUOTA)
    local = LocalHost(store, TENANT)
    yield local
    await local.close()
    await local.close()
    store.close()


async def test_it_is_a_host(host: LocalHost) -> None:
    as_host: Host = host
    assert as_host.id == HERE
    objects = [(object_id(n), os.urandom(100)) for n in range(20_000)]
    await as_host.put(BASE, objects)
    await as_host.put(BASE, [])
    ids = [object_id(n) for n in (19_999, 20_000, 0)]
    assert await as_host.get(BASE, ids) == [objects[-1][1], None, objects[0][1]]
    assert (await as_host.usage()).objects == 20_000
    assert await as_host.list_ids(BASE, object_id(9), 2) == [object_id(10), object_id(11)]
    assert await as_host.delete(BASE, [object_id(n) for n in range(30_000)]) == 20_000
    assert await as_host.bases() == [BASE]
    await as_host.drop_base(BASE)
    assert await as_host.bases() == []
    assert await as_host.get_manifest(BASE) is None


async def test_large_objects_go_in_transactions_of_a_bounded_size(
    host: LocalHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts: list[int] = []
    put = HostStore.put

    def counted(store: HostStore, tenant: bytes, base: bytes, objects: list[object]) -> None:
        parts.append(len(objects))
        put(store, tenant, base, objects)  # type: ignore[arg-type]

    monkeypatch.setattr(HostStore, "put", counted)
    monkeypatch.setattr(limits, "STORAGE_PUT_BYTES_MAX", 250)
    await host.put(BASE, [(object_id(n), bytes(100)) for n in range(5)])
    await host.put(BASE, [(object_id(9), bytes(1000))])
    assert parts == [2, 2, 1, 1]


async def test_what_the_store_raises_comes_through(
    host: LocalHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_store, "_check_manifest", lambda *_: None)
    with pytest.raises(StorageFull):
        await host.put(BASE, [(object_id(n), bytes(2_000_000)) for n in range(40)])
    with pytest.raises(StorageRefused):
        await host.put(b"short", [(object_id(1), b"x")])
    await host.put_manifest(BASE, 1, b"one")
    with pytest.raises(ManifestConflict) as caught:
        await host.put_manifest(BASE, 1, b"another")
    assert caught.value.current == b"one"
    assert await host.get_manifest(BASE) == b"one"
    with pytest.raises(PeerRefused):
        await host.prove(BASE, object_id(1), b"x")


async def test_reads_and_writes_at_once(host: LocalHost) -> None:
    objects = [(object_id(n), os.urandom(428)) for n in range(4000)]
    await host.put(BASE, objects[:100])
    ids = [object_id(n) for n in range(100)]

    async def read() -> None:
        assert await host.get(BASE, ids) == [data for _, data in objects[:100]]

    await asyncio.gather(
        *(host.put(BASE, objects[start : start + 500]) for start in range(100, 4000, 500)),
        *(read() for _ in range(50)),
    )
    assert (await host.usage()).objects == 4000


async def test_oblivious_reads_and_proofs(host: LocalHost) -> None:
    objects = [(object_id(n), os.urandom(64)) for n in range(50)]
    await host.put(BASE, objects)
    table = await host.pir_table(BASE, 64)
    first, second = make_masks(table.rows, [7], 2)
    one, other = await host.pir(BASE, table, first), await host.pir(BASE, table, second)
    assert combine(one, other, 1, 64) == [objects[7][1]]

    keys = RootKey(b"R" * 32).base(BASE)
    data = os.urandom(300_000)
    await host.put(
        BASE, [(object_id(99), data), (tags_id(object_id(99)), tag(keys, object_id(99), data))]
    )
    asked = challenge(20)
    proof = await host.prove(BASE, object_id(99), asked)
    assert verify(keys, object_id(99), asked, proof) == len(data)
