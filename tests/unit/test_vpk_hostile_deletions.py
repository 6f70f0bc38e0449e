"""What eves try so that bob deletes, or loses, what is his."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from kwaai.errors import ManifestConflict, PeerUnreachable, TooFewHosts
from kwaai.testing.base_crash import ROOT, SPEC, add
from kwaai.vpk.access import SharedKeys
from kwaai.vpk.base import Base
from kwaai.vpk.host_set import HostSet, Member
from kwaai.vpk.host_store import HostStore
from kwaai.vpk.local_host import LocalHost

TENANT = ROOT.tenant().public.raw


class Eve:
    """A host that does as it is told: `lies` maps a call's name to what it answers instead."""

    def __init__(self, store: HostStore, name: str) -> None:
        self._host, self.id = LocalHost(store, TENANT), name
        self.lies: dict[str, Any] = {}
        self.asked: list[str] = []

    def __getattr__(self, name: str) -> Any:
        async def call(*args: Any) -> Any:
            self.asked.append(name)
            lie = self.lies.get(name, self.lies.get("all"))
            if lie is None:
                return await getattr(self._host, name)(*args)
            if isinstance(lie, Exception):
                raise lie
            return await lie(self._host, *args)

        return call

    def leaves(self) -> None:
        self.lies["all"] = PeerUnreachable(f"{self.id} is away")

    def returns(self) -> None:
        del self.lies["all"]


@contextlib.contextmanager
def stores(directory: Path, count: int) -> Iterator[list[HostStore]]:
    made = [
        HostStore.open(directory / f"host{n}" / "host.db", 1 << 40, reserve_bytes=0)
        for n in range(count)
    ]
    for store in made:
        store.create_tenant(TENANT, 1 << 40)
    yield made
    for store in made:
        store.close()


def seen_by_a_device(made: Sequence[HostStore]) -> tuple[HostSet, list[Eve]]:
    eves = [Eve(store, f"host{n}") for n, store in enumerate(made)]
    members = [Member(eve, f"owner{n}", 3) for n, eve in enumerate(eves)]  # type: ignore[arg-type]
    return HostSet(members, replicas=len(eves)), eves


def segments_at(store: HostStore, base: Base) -> set[bytes]:
    listed = set(store.list_ids(TENANT, base.id, b"", 10_000))
    manifest = base.published()
    assert manifest is not None
    return {ref.id for ref in manifest.segments} & listed


async def nothing(host: Any, *args: Any) -> None:
    return None


async def test_hidden_manifest_does_not_make_bob_delete_its_segments(tmp_path: Path) -> None:
    """Eve shows a manifest, hides it again, and takes bob's next one: the segments that he had
    fetched for the hidden one are another device's, and alive."""
    with stores(tmp_path, 3) as made:
        views = [seen_by_a_device(made) for _ in range(2)]
        one = await Base.create(tmp_path / "one", ROOT, "x", hosts=views[0][0], embedder=SPEC)
        await add(one, "first", 1)
        await one.publish()
        old = made[0].get_manifest(TENANT, one.id)
        other = await Base.restore(tmp_path / "two", ROOT, one.id, views[1][0])
        await add(one, "theirs", 2)
        await one.publish()

        def stop(here: int, all_rows: int) -> None:
            raise TooFewHosts("the line breaks")

        with pytest.raises(TooFewHosts):
            await other.refresh(stop)
        eve, *honest = views[1][1]

        async def shows_old(host: Any, base: bytes) -> bytes | None:
            return old

        eve.lies = {"get_manifest": shows_old, "put_manifest": nothing}
        for host in honest:
            host.leaves()
        await add(other, "mine", 3)
        await other.publish()
        for store in made:
            assert segments_at(store, one) == {r.id for r in one.published().segments}  # type: ignore[union-attr]
        for host in honest:
            host.returns()
        eve.lies = {}
        for device in (other, one, other):
            await device.publish()
        for device in (one, other):
            assert [d.name for d in device.documents()] == ["first", "mine", "theirs"]
            device.close()
        again = await Base.restore(tmp_path / "three", ROOT, one.id, seen_by_a_device(made)[0])
        assert len(again.documents()) == 3
        again.close()


async def test_compaction_that_eve_alone_took_deletes_nothing_elsewhere(tmp_path: Path) -> None:
    """Honest hosts are away while bob compacts; eve says she has the merged segment and the
    manifest, and drops both: when the others are back, they keep what he has published before."""
    with stores(tmp_path, 3) as made:
        hosts, (eve, *honest) = seen_by_a_device(made)
        base = await Base.create(tmp_path / "b", ROOT, "x", hosts=hosts, embedder=SPEC)
        for number in range(3):
            await add(base, f"n{number}", number)
            await base.publish()
        before = base.published()
        assert before is not None
        assert len(before.segments) == 3
        for host in honest:
            host.leaves()
        await base.compact()
        newest = made[0].get_manifest(TENANT, base.id)
        for host in honest:
            host.returns()

        async def lists_it(host: Any, base_id: bytes, after: bytes, count: int) -> list[bytes]:
            return list(await host.list_ids(base_id, after, count))

        async def shows(host: Any, base_id: bytes) -> bytes | None:
            return newest

        eve.lies = {"get_manifest": shows, "list_ids": lists_it, "put_manifest": nothing}
        await base.publish()  # would have deleted what was merged, at the honest hosts
        eve.lies = {}
        eve.leaves()  # and with her the only copy of the merged segment
        for store in made[1:]:
            listed = set(store.list_ids(TENANT, base.id, b"", 10_000))
            assert {ref.id for ref in before.segments} <= listed
        eve.returns()
        base.close()


async def test_merged_segments_go_once_all_is_at_the_hosts(tmp_path: Path) -> None:
    with stores(tmp_path, 3) as made:
        hosts, _ = seen_by_a_device(made)
        base = await Base.create(tmp_path / "b", ROOT, "x", hosts=hosts, embedder=SPEC)
        for number in range(3):
            await add(base, f"n{number}", number)
            await base.publish()
        before = {ref.id for ref in base.published().segments}  # type: ignore[union-attr]
        await base.compact()
        for store in made:
            assert not before & set(store.list_ids(TENANT, base.id, b"", 10_000))
        base.close()


async def test_manifest_that_is_shown_only_when_bob_puts_his_is_taken_in(tmp_path: Path) -> None:
    """Eve says that she has an old manifest; to bob's newest she answers with a newer one: it is
    another device's, and no reason to fail for ever."""
    with stores(tmp_path, 1) as made:
        views = [seen_by_a_device(made) for _ in range(2)]
        one = await Base.create(tmp_path / "one", ROOT, "x", hosts=views[0][0], embedder=SPEC)
        await add(one, "first", 1)
        await one.publish()
        old = made[0].get_manifest(TENANT, one.id)
        await add(one, "second", 1)
        await one.publish()
        other = await Base.restore(tmp_path / "two", ROOT, one.id, views[1][0])
        await add(one, "third", 1)
        await one.publish()

        async def shows_old(host: Any, base: bytes) -> bytes | None:
            return old

        views[1][1][0].lies = {"get_manifest": shows_old}
        assert await other.refresh()
        assert "third" in [d.name for d in other.documents()]
        one.close()
        other.close()


async def test_conflicts_without_end_end(tmp_path: Path) -> None:
    """Eve refuses every manifest, and shows the one before as the reason: bob is told, and what he
    has stays to be published."""
    with stores(tmp_path, 1) as made:
        hosts, (eve,) = seen_by_a_device(made)
        base = await Base.create(tmp_path / "b", ROOT, "x", hosts=hosts, embedder=SPEC)
        await add(base, "first", 1)
        await base.publish()
        newest = made[0].get_manifest(TENANT, base.id)

        async def refuses(host: Any, base_id: bytes, sequence: int, data: bytes) -> None:
            conflict = ManifestConflict("there is another")
            conflict.current = newest or b""
            raise conflict

        eve.lies = {"put_manifest": refuses}
        await add(base, "second", 1)
        async with asyncio.timeout(20):
            with pytest.raises(TooFewHosts):
                await base.publish()
        assert eve.asked.count("put_manifest") < 10
        eve.lies = {}
        await base.publish()
        assert len(base.documents()) == 2
        base.close()


async def test_reader_goes_by_what_most_hosts_have(tmp_path: Path) -> None:
    """Two devices published one number at once; eve alone has the one that lost, and shows it for
    ever: a reader keeps to the other."""
    with stores(tmp_path, 3) as made:
        views = [seen_by_a_device(made) for _ in range(2)]
        one = await Base.create(tmp_path / "one", ROOT, "x", hosts=views[0][0], embedder=SPEC)
        await add(one, "first", 1)
        await one.publish()
        other = await Base.restore(tmp_path / "two", ROOT, one.id, views[1][0])
        for host in views[1][1][1:]:
            host.leaves()
        views[0][1][0].leaves()
        await add(one, "won", 1)
        await one.publish()
        await add(other, "lost", 1)
        await other.publish()
        access = ROOT.access(one.id)
        source = SharedKeys(access.tenant, access.keys, b"l" * 32)
        for _ in range(2):  # restored, and refreshed
            reader = await Base.restore(tmp_path / "r", source, one.id, seen_by_a_device(made)[0])
            for _ in range(3):
                await reader.refresh()
                assert [d.name for d in reader.documents()] == ["first", "won"]
            reader.close()
        one.close()
        other.close()
