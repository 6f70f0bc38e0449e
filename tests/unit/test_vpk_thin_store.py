"""A thin client: centroids and keys find what the base holds; what hosts alter is not used."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwaai.errors import FileCorrupt, ResourceError
from kwaai.testing.vpk_hosts import local_hosts
from kwaai.vpk.base import Base
from kwaai.vpk.base_holdings import live_keys
from kwaai.vpk.host_set import HostSet
from kwaai.vpk.keys import BaseKeys, RootKey
from kwaai.vpk.manifest import Manifest, RowRun, verify_manifest
from kwaai.vpk.thin_store import (
    ThinHit,
    ThinReader,
    ThinRef,
    cell_ids,
    centroids_id,
    delete_cells,
    encode_ref,
    parse_ref,
    put_cells,
)
from kwaai.vpk.types import EmbedderSpec

ROOT = RootKey(bytes(range(32)))
TENANT = ROOT.tenant().public.raw
ROWS, DIMENSION = 1500, 32


def clustered() -> np.ndarray:
    rng = np.random.default_rng(4)
    topics = rng.standard_normal((30, DIMENSION))
    vectors = topics[rng.integers(0, 30, ROWS)] + 0.5 * rng.standard_normal((ROWS, DIMENSION))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@dataclasses.dataclass
class Case:
    hosts: HostSet
    keys: BaseKeys
    manifest: Manifest
    ref: ThinRef
    vectors: np.ndarray


@pytest.fixture
async def case(tmp_path: Path) -> AsyncIterator[Case]:
    vectors = clustered()
    with local_hosts(tmp_path / "host" / "host.db", ROOT) as hosts:
        spec = EmbedderSpec("test", "", DIMENSION, True)
        base = await Base.create(tmp_path / "b", ROOT, "notes", hosts=hosts, embedder=spec)
        await base.add_vectors(vectors, [f"text {number}" for number in range(ROWS)])
        await base.publish()
        rows, _ = live_keys(base._core)
        keys = ROOT.base(base.id)
        found = await hosts.get_manifest(
            base.id, lambda data: verify_manifest(data, TENANT, keys, least_sequence=0)
        )
        assert found is not None
        ref = await put_cells(hosts, keys, TENANT, found.manifest.params, rows)
        manifest = dataclasses.replace(found.manifest, thin=encode_ref(ref))
        yield Case(hosts, keys, manifest, ref, vectors)
        base.close()


async def test_a_thin_client_finds_and_reads(case: Case) -> None:
    reader = await ThinReader.open(case.hosts, case.keys, TENANT, case.manifest)
    found = 0
    for number in range(0, ROWS, 50):
        query = case.vectors[number]
        answer = await reader.search(query, 10, cells=12)
        assert answer.missing == 0
        assert answer.hits[0].row[1] == number
        record = answer.hits[0].record
        assert record is not None
        assert record.text == f"text {number}"
        true = np.argsort(-(case.vectors @ query))[:10]
        found += len(set(true.tolist()) & {hit.row[1] for hit in answer.hits})
    assert found >= 270  # of 300


async def test_removed_rows_are_left_out(case: Case) -> None:
    writer, _ = (await _first(case)).row
    gone = dataclasses.replace(case.manifest, removed=(RowRun(writer, 0, 700),))
    reader = await ThinReader.open(case.hosts, case.keys, TENANT, gone)
    answer = await reader.search(case.vectors[3], 10)
    assert len(answer.hits) == 10
    assert all(hit.row[1] >= 700 for hit in answer.hits)


async def _first(case: Case) -> ThinHit:
    reader = await ThinReader.open(case.hosts, case.keys, TENANT, case.manifest)
    return (await reader.search(case.vectors[0], 1)).hits[0]


async def test_cells_that_are_gone_or_of_another_key_make_an_answer_poorer(case: Case) -> None:
    reader = await ThinReader.open(case.hosts, case.keys, TENANT, case.manifest)
    ids = cell_ids(case.keys, case.ref)
    (host,) = [member.host for member in case.hosts.members]
    base = case.keys.base
    await host.put(base, [(name, bytes(100)) for name in ids[: len(ids) // 2]])
    await host.delete(base, ids[len(ids) // 2 :])
    answer = await reader.search(case.vectors[0], 10)
    assert answer.hits == ()
    assert answer.missing == min(32, len(ids))


async def test_cells_are_deleted(case: Case) -> None:
    await delete_cells(case.hosts, case.keys, case.ref)
    (host,) = [member.host for member in case.hosts.members]
    ids = [*cell_ids(case.keys, case.ref), centroids_id(case.keys, case.ref)]
    assert await host.get(case.keys.base, ids) == [None] * len(ids)


async def test_a_base_without_cells_or_with_outdated_ones(case: Case) -> None:
    for thin in (b"", b"\x07" * 29, encode_ref(dataclasses.replace(case.ref, params=bytes(16)))):
        manifest = dataclasses.replace(case.manifest, thin=thin)
        with pytest.raises(ResourceError):
            await ThinReader.open(case.hosts, case.keys, TENANT, manifest)
    fewer = dataclasses.replace(case.ref, cells=case.ref.cells - 1)
    with pytest.raises(FileCorrupt):
        await ThinReader.open(
            case.hosts,
            case.keys,
            TENANT,
            dataclasses.replace(case.manifest, thin=encode_ref(fewer)),
        )


async def test_cells_are_not_made_of_vectors_that_do_not_come(case: Case) -> None:
    rows = np.array([[5, 2**40]], np.uint64)
    with pytest.raises(ResourceError):
        await put_cells(case.hosts, case.keys, TENANT, case.manifest.params, rows)


@given(st.binary(max_size=40))
def test_any_bytes_as_a_reference(data: bytes) -> None:
    ref = parse_ref(data)
    assert ref is None or encode_ref(ref) == data
