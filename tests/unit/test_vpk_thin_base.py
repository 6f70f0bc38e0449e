"""A base's cells and a thin client's copy: made, found by, renewed, swept; and what goes wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from kwaai.errors import (
    BaseMissing,
    EmbedderMissing,
    FileCorrupt,
    PeerLost,
    ResourceError,
    StorageRefused,
    TooFewHosts,
    UserError,
)
from kwaai.testing.vpk_hosts import local_hosts
from kwaai.vpk import cells
from kwaai.vpk.audit import audit
from kwaai.vpk.base import Base
from kwaai.vpk.host_set import HostSet, Member
from kwaai.vpk.host_store import HostStore
from kwaai.vpk.ingest import NewDocument
from kwaai.vpk.keeper import repair
from kwaai.vpk.keys import RootKey
from kwaai.vpk.local_host import LocalHost
from kwaai.vpk.query import Query
from kwaai.vpk.thin_base import BY_VECTORS, ThinBase
from kwaai.vpk.thin_store import ThinRef, cell_ids, centroids_id
from kwaai.vpk.types import EmbedderSpec, Passage

ROOT = RootKey(bytes(range(32)))
SPEC = EmbedderSpec("test", "", 32, True)
ROWS = 1500
PER_DOCUMENT = 50


def clustered(count: int = ROWS, seed: int = 4) -> np.ndarray:
    rng = np.random.default_rng(seed)
    topics = np.random.default_rng(1).standard_normal((30, 32))
    vectors = topics[rng.integers(0, 30, count)] + 0.5 * rng.standard_normal((count, 32))
    unit: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit.astype(np.float32)


VECTORS = clustered()


async def add(base: Base, name: str, vectors: np.ndarray) -> None:
    passages = [
        Passage(f"{name} passage {number}", ("Part",), 1, number, number + 1)
        for number in range(len(vectors))
    ]
    document = NewDocument(name, f"/{name}", "00" * 32, 1, 1, "text/plain", name, "/")
    await base.add_document(document, passages, vectors)


@dataclasses.dataclass
class Case:
    path: Path
    hosts: HostSet
    base: Base

    async def thin(self, name: str = "thin") -> ThinBase:
        return await ThinBase.fetch(self.path / name, ROOT, self.base.id, self.hosts)

    async def ids_at_host(self) -> set[bytes]:
        (member,) = self.hosts.members
        return set(await member.host.list_ids(self.base.id, b"", 100_000))

    def objects(self, ref: ThinRef) -> set[bytes]:
        keys = ROOT.base(self.base.id)
        return {*cell_ids(keys, ref), centroids_id(keys, ref)}


@pytest.fixture
async def case(tmp_path: Path) -> AsyncIterator[Case]:
    with local_hosts(tmp_path / "host" / "host.db", ROOT) as hosts:
        base = await Base.create(tmp_path / "b", ROOT, "notes", hosts=hosts, embedder=SPEC)
        for start in range(0, ROWS, PER_DOCUMENT):
            await add(base, f"d{start}", VECTORS[start : start + PER_DOCUMENT])
        yield Case(tmp_path, hosts, base)
        base.close()


async def test_a_thin_client_finds_what_the_whole_base_finds(case: Case) -> None:
    assert await case.base.make_cells() == ROWS // 48
    thin = await case.thin()
    assert (thin.name, thin.id, thin.stats().passages) == ("notes", case.base.id, ROWS)
    assert thin.stats().index_bytes < 4096
    same = total = 0
    for number in range(0, ROWS, 37):
        query = Query("", VECTORS[number] + clustered(1, number)[0] * 0.1, k=10, fulltext=False)
        whole, found = await case.base.search(query), await thin.search(query)
        assert found.degraded == (BY_VECTORS,)
        assert found.hits[0].text == whole.hits[0].text
        same += len({hit.row for hit in whole.hits} & {hit.row for hit in found.hits})
        total += len(whole.hits)
    assert same >= 0.97 * total
    hit, told = found.hits[0], found.explain
    assert (hit.page, hit.heading, hit.host) == (1, ("Part",), "here")
    assert hit.document.startswith("d")
    assert list(told.stages_ms) == ["cells", "vectors", "passages"]
    assert told.candidates == told.fetched == 100
    assert sum(share.payload_bytes for share in told.hosts) == told.payload_bytes > 0
    thin.close()


async def test_it_is_read_only_and_survives_a_restart(case: Case) -> None:
    await case.base.make_cells()
    thin = await case.thin()
    before = await case.ids_at_host()
    for refused in (
        add(thin, "new", VECTORS[:2]),
        thin.publish(),
        thin.compact(),
        thin.make_cells(),
        thin.delete_document("d0"),
        thin.destroy(),
    ):
        with pytest.raises(StorageRefused, match="thin client"):
            await refused
    for refused_too in (thin.documents, thin.files, thin.holdings):
        with pytest.raises(StorageRefused, match="kwaainet rag restore notes"):
            refused_too()
    with pytest.raises(EmbedderMissing):
        await thin.search(Query("words alone"))
    with pytest.raises(UserError):
        await thin.search(Query("", VECTORS[0], k=0))
    thin.close()
    again = ThinBase.of(await Base.open(case.path / "thin", ROOT, case.hosts))
    assert isinstance(again, ThinBase)
    assert (await again.search(Query("", VECTORS[3], k=1))).hits[0].text == "d0 passage 3"
    assert ThinBase.of(case.base) is case.base
    await again.destroy(everywhere=False)
    assert await case.ids_at_host() == before
    with pytest.raises(BaseMissing):
        await Base.open(case.path / "thin", ROOT, case.hosts)


async def test_a_base_without_cells_or_of_another_key(case: Case) -> None:
    await case.base.publish()
    with pytest.raises(ResourceError, match="kwaainet rag thin notes"):
        await case.thin()
    await case.base.make_cells()
    with pytest.raises((TooFewHosts, BaseMissing)):
        await ThinBase.fetch(case.path / "x", RootKey(bytes(32)), case.base.id, case.hosts)
    (await case.thin()).close()
    with pytest.raises(FileCorrupt):
        await Base.open(case.path / "thin", RootKey(bytes(32)), case.hosts)
    words = await Base.create(case.path / "w", ROOT, "words", hosts=case.hosts)
    with pytest.raises(UserError, match="no vectors"):
        await words.make_cells()
    words.close()


async def test_deleted_passages_are_not_found(case: Case) -> None:
    await case.base.make_cells()
    thin = await case.thin()
    await case.base.delete_document("d0")
    await case.base.publish()
    answer = await thin.search(Query("", VECTORS[3], k=10))  # it notices, and refreshes itself
    assert len(answer.hits) == 10
    assert all(hit.document != "d0" for hit in answer.hits)
    assert answer.degraded == (BY_VECTORS,)
    assert not await thin.refresh()
    await case.base.compact()
    await thin.refresh()
    answer = await thin.search(Query("", VECTORS[3], k=10))
    assert all(hit.document != "d0" for hit in answer.hits)
    assert answer.degraded == (BY_VECTORS,)
    thin.close()


async def test_what_is_newer_is_said_until_cells_are_made_again(case: Case) -> None:
    await case.base.make_cells()
    thin = await case.thin()
    older = case.base.cells()
    assert older is not None
    assert case.base.cells_changed() == 0.0
    new = clustered(300, 9)
    await add(case.base, "newer", new)
    await case.base.publish()
    assert case.base.cells_changed() == pytest.approx(0.2)
    assert await thin.refresh()
    answer = await thin.search(Query("", new[7], k=1))
    assert any("300 passages are newer" in text for text in answer.degraded)
    await case.base.make_cells()
    assert case.base.cells_changed() == 0.0
    assert not case.objects(older) & await case.ids_at_host()
    answer = await thin.search(Query("", new[7], k=1))  # its cells are gone: it gets the new ones
    assert answer.hits[0].text == "newer passage 7"
    assert answer.degraded == (BY_VECTORS,)
    thin.close()


async def test_what_a_kill_leaves_is_swept(case: Case) -> None:
    await case.base.publish()
    made = await cells.make_cells(case.base._core)  # killed before a manifest names them
    assert case.objects(made) <= await case.ids_at_host()
    assert case.base.cells() is None
    case.base.close()
    case.base = await Base.open(case.path / "b", ROOT, case.hosts)
    await case.base.make_cells()
    live = case.base.cells()
    assert live is not None
    there = await case.ids_at_host()
    assert not case.objects(made) & there
    assert case.objects(live) <= there
    assert not await case.base.sweep_cells()
    await case.base.drop_cells()
    assert case.base.cells() is None
    assert not case.objects(live) & await case.ids_at_host()


async def test_cells_of_two_devices(case: Case) -> None:
    await case.base.make_cells()
    first = case.base.cells()
    other = await Base.restore(case.path / "o", ROOT, case.base.id, case.hosts)
    assert other.cells() == first
    assert other.cells_changed() == 0.0
    await add(other, "theirs", clustered(100, 7))
    await other.make_cells()
    assert await case.base.refresh()
    assert case.base.cells() == other.cells() != first
    assert case.base.cells_changed() == 0.0
    await add(case.base, "ours", clustered(100, 8))
    await case.base.publish()
    assert case.base.cells() == other.cells()
    assert 0 < case.base.cells_changed() < 0.1
    other.close()


class Named(LocalHost):
    """A host with a name of its own."""

    def __init__(self, store: HostStore, tenant: bytes, name: str) -> None:
        super().__init__(store, tenant)
        self._name = name

    @property
    def id(self) -> str:
        return self._name


class Away(Named):
    """A host that does not answer."""

    async def get(self, base: bytes, ids: Sequence[bytes]) -> list[bytes | None]:
        raise PeerLost("away")

    async def get_manifest(self, base: bytes) -> bytes | None:
        raise PeerLost("away")


async def test_a_host_that_is_away_costs_nothing_and_repair_knows_the_centroids(
    tmp_path: Path,
) -> None:
    tenant = ROOT.tenant().public.raw
    stores = [HostStore.open(tmp_path / f"{n}.db", 1 << 40, reserve_bytes=0) for n in (0, 1)]
    for store in stores:
        store.create_tenant(tenant, 1 << 40)

    def hosts(*kinds: type[Named]) -> HostSet:
        pairs = enumerate(zip(stores, kinds, strict=True))
        members = [
            Member(kind(store, tenant, f"h{number}"), f"o{number}", 3, trusted=True)
            for number, (store, kind) in pairs
        ]
        return HostSet(members, replicas=2)

    both = hosts(Named, Named)
    base = await Base.create(tmp_path / "b", ROOT, "notes", hosts=both, embedder=SPEC)
    await add(base, "d", VECTORS[:400])
    await base.make_cells()
    thin = await ThinBase.fetch(tmp_path / "t", ROOT, base.id, hosts(Away, Named))
    answer = await thin.search(Query("", VECTORS[5], k=3))
    assert answer.hits[0].text == "d passage 5"
    assert answer.degraded == (BY_VECTORS,)
    thin.attach(hosts(Away, Away))
    answer = await thin.search(Query("", VECTORS[5], k=3))
    assert answer.hits == ()
    assert any("did not come from any host" in text for text in answer.degraded)
    thin.attach(both)
    ref = base.cells()
    await base.drop_cells()
    answer = await thin.search(Query("", VECTORS[5], k=3))
    assert any("kwaainet rag thin notes" in text for text in answer.degraded)
    thin.close()

    await base.make_cells()
    assert base.cells() != ref
    ref = base.cells()
    assert ref is not None
    name = centroids_id(ROOT.base(base.id), ref)
    assert await stores_get(both, base.id, name) == [True, True]
    await both.members[1].host.delete(base.id, [name])
    report = await repair(both, base.holdings())
    assert report.complete
    assert report.large_repaired == 1
    assert await stores_get(both, base.id, name) == [True, True]
    assert all(row.passed for row in (await audit(both, base.holdings())).hosts)
    await both.members[0].host.put(base.id, [(name, bytes(64))])
    await both.members[1].host.put(base.id, [(name, bytes(64))])
    with pytest.raises(TooFewHosts):
        await ThinBase.fetch(tmp_path / "u", ROOT, base.id, both)
    base.close()
    for store in stores:
        store.close()


async def stores_get(hosts: HostSet, base: bytes, name: bytes) -> list[bool]:
    """Say which hosts have an object."""
    return [(await member.host.get(base, [name]))[0] is not None for member in hosts.members]
