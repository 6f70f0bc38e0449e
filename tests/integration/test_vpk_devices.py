"""Two devices of one owner write to one base: one publication wins, the other takes it in and tries
again; hosts that see only one of them for a while make no difference in the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from kwaai.errors import KwaaiError, PeerUnreachable
from kwaai.testing.base_crash import ROOT, SPEC, add, texts_of, vector_of
from kwaai.vpk.base import Base
from kwaai.vpk.host_set import HostSet, Member
from kwaai.vpk.host_store import HostStore
from kwaai.vpk.local_host import LocalHost
from kwaai.vpk.query import Query

_ROOM_BYTES = 1 << 40


class Cut:
    """A host as one device sees it: away while `away` is set."""

    def __init__(self, host: LocalHost, name: str) -> None:
        self._host, self._name = host, name
        self.away = False

    @property
    def id(self) -> str:
        return self._name

    def __getattr__(self, name: str) -> object:
        call = getattr(self._host, name)

        async def asked(*args: object) -> object:
            if self.away:
                raise PeerUnreachable(f"{self._name} does not answer")
            return await call(*args)

        return asked


@contextlib.contextmanager
def host_files(directory: Path, count: int) -> Iterator[list[HostStore]]:
    stores = [
        HostStore.open(directory / f"host{n}" / "host.db", _ROOM_BYTES, reserve_bytes=0)
        for n in range(count)
    ]
    for store in stores:
        store.create_tenant(ROOT.tenant().public.raw, _ROOM_BYTES)
    yield stores
    for store in stores:
        store.close()


def view(stores: list[HostStore]) -> tuple[HostSet, list[Cut]]:
    """The hosts as one device sees them."""
    tenant = ROOT.tenant().public.raw
    cuts = [Cut(LocalHost(store, tenant), f"host{n}") for n, store in enumerate(stores)]
    members = [Member(cut, f"owner{n}", 3, trusted=True) for n, cut in enumerate(cuts)]  # type: ignore[arg-type]
    return HostSet(members, replicas=len(stores)), cuts


def editions(base: Base) -> dict[str, int]:
    return {document.name: int(document.sha256, 16) for document in base.documents()}


async def check(base: Base, expected: dict[str, int]) -> None:
    assert editions(base) == expected
    for name, edition in expected.items():
        for text in texts_of(name, edition):
            answer = await base.search(Query(text, vector_of(text), k=1))
            assert [hit.text for hit in answer.hits] == [text]
    everything = await base.search(
        Query("edition passage", vector_of("any"), k=100, candidates=1000)
    )
    assert {hit.document for hit in everything.hits} <= expected.keys()


async def settled(devices: list[Base]) -> None:
    """Let every device publish and hear of the others' publications."""
    for _ in range(2):
        for device in devices:
            await device.publish()
    for device in devices:
        await device.refresh()


async def two(directory: Path, stores: list[HostStore]) -> tuple[list[Base], list[list[Cut]]]:
    views = [view(stores) for _ in range(2)]
    one = await Base.create(directory / "one", ROOT, "x", hosts=views[0][0], embedder=SPEC)
    await add(one, "first", 1)
    await one.publish()
    other = await Base.restore(directory / "two", ROOT, one.id, views[1][0])
    return [one, other], [cuts for _, cuts in views]


async def test_both_publish_at_once(tmp_path: Path) -> None:
    with host_files(tmp_path, 3) as stores:
        devices, _ = await two(tmp_path, stores)
        expected = {"first": 1}
        for number in range(5):
            for at, device in enumerate(devices):
                await add(device, f"d{at}n{number}", number)
                expected[f"d{at}n{number}"] = number
            await asyncio.gather(*(device.publish() for device in devices))
        await settled(devices)
        for device in devices:
            await check(device, expected)
            device.close()


@pytest.mark.parametrize("compacts", [False, True])
async def test_each_sees_another_host_for_a_while(tmp_path: Path, compacts: bool) -> None:
    with host_files(tmp_path, 2) as stores:
        devices, cuts = await two(tmp_path, stores)
        for number in range(3):
            await add(devices[0], f"before{number}", number)
            await devices[0].publish()
        await devices[1].refresh()
        cuts[0][1].away = cuts[1][0].away = True
        for at, device in enumerate(devices):
            await add(device, f"apart{at}", 3)
        if compacts:
            await devices[0].compact()
        else:
            await devices[0].publish()
        await devices[1].publish()
        cuts[0][1].away = cuts[1][0].away = False
        await settled(devices)
        expected = {"first": 1, "apart0": 3, "apart1": 3, **{f"before{n}": n for n in range(3)}}
        for device in devices:
            await check(device, expected)
            assert device.stats().passages == sum(len(texts_of(n, e)) for n, e in expected.items())
            device.close()


async def test_same_file_from_two_devices_is_one_document(tmp_path: Path) -> None:
    with host_files(tmp_path, 1) as stores:
        devices, _ = await two(tmp_path, stores)
        for device in devices:
            await add(device, "same", 6)
        await asyncio.gather(*(device.publish() for device in devices))
        await settled(devices)
        for device in devices:
            assert [d.name for d in device.documents()] == ["first", "same"]
            await check(device, {"first": 1, "same": 6})
            assert device.files()["/d/same"].document == "same"
            device.close()


async def test_hosts_that_forgot_get_the_manifest_again(tmp_path: Path) -> None:
    with host_files(tmp_path, 2) as stores:
        devices, cuts = await two(tmp_path, stores)
        cuts[0][1].away = True
        await add(devices[0], "new", 2)
        await devices[0].publish()
        cuts[0][1].away = False
        cuts[0][0].away = True
        await devices[0].refresh()  # all that answer have an older one: they get the newest again
        tenant, base = ROOT.tenant().public.raw, devices[0].id
        assert stores[0].get_manifest(tenant, base) == stores[1].get_manifest(tenant, base)
        assert "new" in editions(devices[0])
        for device in devices:
            device.close()


@pytest.mark.parametrize("seed", range(3))
async def test_any_order_of_changes_ends_the_same(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    with host_files(tmp_path, 2) as stores:
        devices, cuts = await two(tmp_path, stores)
        mine: list[dict[str, int]] = [{}, {}]
        for _ in range(40):
            at = chance.randrange(2)
            device = devices[at]
            what = chance.choices(("add", "remove", "publish", "compact", "cut"), (10, 3, 4, 1, 3))
            if what == ["add"]:
                name, edition = f"d{at}n{chance.randrange(6)}", chance.randrange(1000)
                await add(device, name, edition)
                mine[at][name] = edition
            elif what == ["remove"] and mine[at]:
                name = chance.choice(sorted(mine[at]))
                await device.remove_document(f"/d/{name}")
                del mine[at][name]
            elif what == ["cut"]:
                lost = chance.choice([None, 0, 1])
                for number, cut in enumerate(cuts[at]):
                    cut.away = number == lost
            else:
                with contextlib.suppress(KwaaiError):  # a segment on a host that is away
                    await (device.publish() if what == ["publish"] else device.compact())
        for cut in (*cuts[0], *cuts[1]):
            cut.away = False
        await settled(devices)
        for device in devices:
            assert editions(device) == {"first": 1, **mine[0], **mine[1]}
            vectors = np.stack([vector_of(text) for text in texts_of("first", 1)])
            assert (await device.search(Query(vector=vectors[0], k=1))).hits
            device.close()
