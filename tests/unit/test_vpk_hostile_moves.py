"""Eves that lie while a base moves to other hosts, and while it is brought back."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from test_vpk_hostile_deletions import TENANT, Eve, stores

from kwaai.node.knowledge_hosting import KnowledgeHosting
from kwaai.node.knowledge_hosts import BaseHost
from kwaai.node.knowledge_open import OpenBase
from kwaai.node.knowledge_service import KnowledgeService
from kwaai.testing.base_crash import ROOT, SPEC, add
from kwaai.vpk.audit import audit
from kwaai.vpk.base import Base
from kwaai.vpk.host_set import HostSet, Member
from kwaai.vpk.host_store import HostStore
from kwaai.vpk.restore import find_bases

HERE, EVES = "host0", ("host1", "host2")


class Boaster(Eve):
    """Takes everything, lists everything, and keeps nothing."""

    def __init__(self, store: HostStore, name: str) -> None:
        super().__init__(store, name)
        self.listed: dict[bytes, set[bytes]] = {}

        async def put(host: Any, base: bytes, objects: Sequence[tuple[bytes, bytes]]) -> None:
            self.listed.setdefault(base, set()).update(object_id for object_id, _ in objects)

        async def list_ids(host: Any, base: bytes, after: bytes, count: int) -> list[bytes]:
            return sorted(i for i in self.listed.get(base, ()) if i > after)[:count]

        async def get(host: Any, base: bytes, ids: Sequence[bytes]) -> list[bytes | None]:
            return [None for _ in ids]

        self.lies = {"put": put, "list_ids": list_ids, "get": get}


def service_of(path: Path, members: dict[str, Member], chosen: tuple[str, ...]) -> Any:
    """As much of a KnowledgeService as a repair takes."""

    def host_set(
        rows: Sequence[BaseHost],
        tenant: object,
        leaving: Sequence[BaseHost] = (),
        *,
        whole: bool = False,
    ) -> Any:
        return HostSet([members[row.peer] for row in (*rows, *leaving)], replicas=2)

    async def rows_of_now(opened: OpenBase, wanted: int) -> tuple[BaseHost, ...]:
        return tuple(BaseHost(peer, peer) for peer in chosen)

    async def audited(opened: OpenBase) -> Any:
        return await audit(opened.base.hosts, opened.base.holdings())

    service = SimpleNamespace(
        tenant=ROOT.tenant,
        _rows_of_now=rows_of_now,
        _answers=lambda row: True,
        home=SimpleNamespace(base_path=lambda base_id: path),
        hosts=SimpleNamespace(host_set=host_set, member=lambda row, tenant: members[row.peer]),
        audit=audited,
    )
    service._let_go = lambda rows, opened: KnowledgeService._let_go(service, rows, opened)
    return service


@pytest.mark.parametrize("lies", [True, False])
async def test_bob_keeps_his_own_copies_until_others_have_shown_theirs(
    tmp_path: Path, lies: bool
) -> None:
    """A base is on bob's disk alone; two eves are found, and he moves it to them. They say that
    they have everything: his own disk is emptied only when a sample opens."""
    with stores(tmp_path, 3) as made:
        kind = Boaster if lies else Eve
        hosts = [Eve(made[0], HERE), kind(made[1], EVES[0]), kind(made[2], EVES[1])]
        members = {
            host.id: Member(cast(Any, host), host.id, 3, trusted=host.id == HERE) for host in hosts
        }
        at_home = HostSet([members[HERE]], replicas=1)
        base = await Base.create(tmp_path / "b", ROOT, "x", hosts=at_home, embedder=SPEC)
        for number in range(8):
            await add(base, f"n{number}", 6)
        await base.publish()
        before = made[0].list_ids(TENANT, base.id, b"", 10_000)
        opened = OpenBase(base, (BaseHost(HERE, HERE),))
        service = service_of(tmp_path, members, EVES)
        report = await KnowledgeService.repair(service, opened)
        left = made[0].list_ids(TENANT, base.id, b"", 10_000)
        if lies:
            assert set(before) <= set(left)
            assert HERE in {row.peer for row in opened.rows}
            assert not report.complete
        else:
            assert left == []
            assert {row.peer for row in opened.rows} == set(EVES)
            assert report.complete
        base.close()


def hosting_of(members: dict[str, Member], settled: list[bytes], folder: Path) -> KnowledgeHosting:
    rows = [SimpleNamespace(peer=peer, owner=peer, reachable=True) for peer in members]

    async def discover() -> list[Any]:
        return rows

    async def settle(place: Path, base: Base, hosts: object) -> Any:
        settled.append(base.id)
        base.close()
        return None

    service = SimpleNamespace(
        check_open=lambda: None,
        root=ROOT,
        discover=discover,
        all=lambda: (),
        tenant=ROOT.tenant,
        settle=settle,
        home=SimpleNamespace(bases=folder),
        hosts=SimpleNamespace(
            remote=lambda peer, tenant: members[peer].host,
            host_set=lambda found, tenant, alone: HostSet(
                [members[row.peer] for row in found], replicas=1
            ),
        ),
    )
    return KnowledgeHosting(cast(Any, service), None, cast(Any, None))


@pytest.mark.parametrize("name", ["", "x"])
async def test_bases_that_eve_makes_up_do_not_keep_the_true_one_away(
    tmp_path: Path, name: str
) -> None:
    with stores(tmp_path, 2) as made:
        eves = [Eve(store, f"host{n}") for n, store in enumerate(made)]
        members = {eve.id: Member(cast(Any, eve), eve.id, 3) for eve in eves}
        together = HostSet(list(members.values()), replicas=2)
        base = await Base.create(tmp_path / "b", ROOT, "x", hosts=together, embedder=SPEC)
        await add(base, "first", 1)
        await base.publish()

        async def bases(host: Any) -> list[bytes]:
            return sorted([*(n.to_bytes(16, "big") for n in range(200)), base.id])

        async def manifest(host: Any, base_id: bytes) -> bytes | None:
            if base_id == base.id:
                return cast("bytes | None", await host.get_manifest(base_id))
            return b"\1" * 400 if base_id[-1] % 2 else None

        eves[0].lies = {"bases": bases, "get_manifest": manifest}
        settled: list[bytes] = []
        hosting = hosting_of(members, settled, tmp_path / "bases")
        async with asyncio.timeout(60):
            eves[0].asked.clear()
            await hosting.restore(name)
            assert settled == [base.id]
            assert eves[0].asked.count("get_manifest") < 40  # not one for each that she lists
            assert [found.id for found in await find_bases(ROOT, together)] == [base.id]
        base.close()
