"""The storage routes: the reference network's flow and shapes, and everything that is refused."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest

from kwaai import limits
from kwaai.api.storage_http import create_storage_app, storage_listening
from kwaai.errors import FileCorrupt, StorageFull, TenantMissing, UserError
from kwaai.vpk.plain_search import encode_rows, join, nearest, read_rows, unit_of
from kwaai.vpk.plain_store import PlainStore

KEY = bytes(range(32))
TOKEN = "a-token-that-is-long-enough"
GB = 1_000_000_000
BEARER = {"Authorization": f"Bearer {TOKEN}"}
MISSING = "00000000-0000-0000-0000-000000000000"


@pytest.fixture
def store(tmp_path: Path) -> PlainStore:
    return PlainStore.open(tmp_path / "vectors.db", KEY, 2 * GB, clock=lambda: 1_700_000_000.0)


class Client:
    """Asks one server."""

    def __init__(self, session: aiohttp.ClientSession, base: str) -> None:
        self._session, self.base = session, base

    async def ask(
        self, method: str, path: str, body: Any = None, **options: Any
    ) -> tuple[int, Any]:
        options.setdefault("headers", BEARER)
        if body is not None:
            options["json"] = body
        async with self._session.request(method, self.base + path, **options) as response:
            text = await response.text()
            return response.status, json.loads(text) if text else None


@asynccontextmanager
async def serving(store: PlainStore) -> AsyncIterator[Client]:
    app = create_storage_app(store, TOKEN, peer="12D3KooWtest", capacity_bytes=2 * GB)
    async with storage_listening(app, 0) as (host, port), aiohttp.ClientSession() as session:
        yield Client(session, f"http://{host}:{port}")


async def make_tenant(client: Client, **fields: Any) -> str:
    status, made = await client.ask("POST", "/api/tenants", {"peer_id": "p", **fields})
    assert status == 201
    tenant_id = made["tenant_id"]
    assert isinstance(tenant_id, str)
    return tenant_id


async def test_the_reference_networks_flow(store: PlainStore) -> None:
    """Its storage-fabric test: health, tenant, five vectors, search, delete two, delete all."""
    async with serving(store) as client:
        status, health = await client.ask("GET", "/api/health")
        assert status == 200
        assert health["status"] == "ok"
        assert set(health) == {
            "status",
            "tenant_count",
            "total_vectors",
            "capacity_gb_total",
            "capacity_gb_available",
            "version",
            "peer_id",
        }
        tenant = await make_tenant(client, vector_dimension=8)
        _, listed = await client.ask("GET", "/api/tenants")
        assert [item["tenant_id"] for item in listed] == [tenant]
        path = f"/api/tenants/{tenant}"
        vectors = [
            {"id": n, "embedding": [1.0 if at == (n - 3) % 8 else 0.0 for at in range(8)]}
            for n in range(1, 6)
        ]
        assert await client.ask("POST", f"{path}/vectors", {"vectors": vectors}) == (
            200,
            {"uploaded": 5},
        )
        _, info = await client.ask("GET", path)
        assert info["vector_count"] == 5
        assert info["storage_bytes"] == 5 * (4 * 8 + 24)
        query = {"query": [1, 0, 0, 0, 0, 0, 0, 0], "top_k": 3}
        _, found = await client.ask("POST", f"{path}/search", query)
        assert len(found["results"]) == 3
        assert found["results"][0] == {"id": 3, "score": pytest.approx(1.0)}
        assert await client.ask("DELETE", f"{path}/vectors", {"ids": [1, 2, 99]}) == (
            200,
            {"deleted": 2},
        )
        _, info = await client.ask("GET", path)
        assert info["vector_count"] == 3
        assert await client.ask("DELETE", path) == (204, None)
        assert (await client.ask("GET", path))[0] == 404
        _, health = await client.ask("GET", "/api/health")
        assert health["tenant_count"] == 0


async def test_a_tenants_shape_and_defaults(store: PlainStore) -> None:
    async with serving(store) as client:
        status, made = await client.ask("POST", "/api/tenants", {"peer_id": "p", "unknown": 1})
        assert status == 201
        tenant_id = made.pop("tenant_id")
        assert len(tenant_id) == 36
        assert made == {
            "peer_id": "p",
            "display_name": None,
            "capacity_limit_mb": 1024,
            "status": "Active",
            "created_at": "2023-11-14T22:13:20Z",
            "vector_dimension": 384,
        }
        query = {"query": [1.0] * 384}
        assert await client.ask("POST", f"/api/tenants/{tenant_id}/search", query) == (
            200,
            {"results": []},
        )


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/tenants"),
        ("POST", "/api/tenants"),
        ("GET", f"/api/tenants/{MISSING}"),
        ("DELETE", f"/api/tenants/{MISSING}"),
        ("POST", f"/api/tenants/{MISSING}/vectors"),
        ("DELETE", f"/api/tenants/{MISSING}/vectors"),
        ("POST", f"/api/tenants/{MISSING}/search"),
    ],
)
async def test_every_route_but_health_needs_the_token(
    store: PlainStore, method: str, path: str
) -> None:
    async with serving(store) as client:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}):
            status, body = await client.ask(method, path, {}, headers=headers)
            assert (status, body["error"]["code"]) == (401, "invalid_api_key")
        assert (await client.ask("GET", "/api/health", headers={}))[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "192.0.2.1:7432"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
    ],
)
async def test_web_pages_and_other_names_are_refused(
    store: PlainStore, headers: dict[str, str]
) -> None:
    async with serving(store) as client:
        for path in ("/api/health", "/api/tenants"):
            status, _ = await client.ask("GET", path, headers={**BEARER, **headers})
            assert status == 403
        async with aiohttp.ClientSession() as session:
            preflight = {"Origin": "https://evil.example", "Access-Control-Request-Method": "GET"}
            async with session.options(f"{client.base}/api/tenants", headers=preflight) as answer:
                assert not [name for name in answer.headers if "access-control" in name.lower()]


@pytest.mark.parametrize("path", ["", "/vectors", "/search"])
async def test_a_tenant_that_is_not_there(store: PlainStore, path: str) -> None:
    body = {"vectors": [], "query": [1.0]}
    async with serving(store) as client:
        method = "POST" if path else "GET"
        for tenant in (MISSING, "x" * 100, "%C3%A4"):
            status, answer = await client.ask(method, f"/api/tenants/{tenant}{path}", body)
            assert (status, answer["error"]["code"]) == (404, "tenant_not_found")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/vectors", {}),
        ("/vectors", {"vectors": [{"id": 1, "embedding": [1.0]}]}),
        ("/vectors", {"vectors": [{"id": 1, "embedding": []}]}),
        ("/vectors", {"vectors": [{"id": 1, "embedding": [1.0] * 9000}]}),
        ("/vectors", {"vectors": [{"id": 1 << 63, "embedding": [1.0, 2.0]}]}),
        ("/vectors", {"vectors": [{"id": "1", "embedding": [1.0, 2.0]}]}),
        ("/vectors", {"vectors": [{"id": 1, "embedding": [1e39, 2.0]}]}),
        ("/vectors", {"vectors": [{"id": 1, "embedding": ["x", 2.0]}]}),
        ("/search", {"query": [1.0, 2.0, 3.0]}),
        ("/search", {"query": [1.0, 2.0], "top_k": 0}),
        ("/search", {"query": [1.0, 2.0], "top_k": limits.STORAGE_TOP_K_MAX + 1}),
        ("/search", {"query": [1.0, 2.0], "top_k": 1 << 70}),
        ("/search", {"query": "text"}),
    ],
)
async def test_bodies_that_are_refused(store: PlainStore, path: str, body: dict[str, Any]) -> None:
    async with serving(store) as client:
        tenant = await make_tenant(client, vector_dimension=2)
        status, answer = await client.ask("POST", f"/api/tenants/{tenant}{path}", body)
        assert status == 400
        assert answer["error"]["message"]
        _, info = await client.ask("GET", f"/api/tenants/{tenant}")
        assert info["vector_count"] == 0


@pytest.mark.parametrize(
    "fields",
    [
        {"peer_id": "x" * 200},
        {"peer_id": 1},
        {"capacity_limit_mb": 0},
        {"capacity_limit_mb": -5},
        {"vector_dimension": 0},
        {"vector_dimension": 100_000},
        {"display_name": "x" * 100},
    ],
)
async def test_tenants_that_are_refused(store: PlainStore, fields: dict[str, Any]) -> None:
    async with serving(store) as client:
        status, _ = await client.ask("POST", "/api/tenants", {"peer_id": "p", **fields})
        assert status == 400


async def test_capacity_and_quota_are_kept(store: PlainStore) -> None:
    async with serving(store) as client:
        tenant = await make_tenant(client, vector_dimension=8000, capacity_limit_mb=1)
        big = [{"id": n, "embedding": [0.5] * 8000} for n in range(20)]
        path = f"/api/tenants/{tenant}/vectors"
        assert (await client.ask("POST", path, {"vectors": big}))[0] == 200
        more = [{"id": n, "embedding": [0.5] * 8000} for n in range(20, 40)]
        status, answer = await client.ask("POST", path, {"vectors": more})
        assert (status, answer["error"]["code"]) == (507, "storage_full")
        assert (await client.ask("POST", path, {"vectors": big}))[0] == 200  # replaces
        status, _ = await client.ask(
            "POST", "/api/tenants", {"peer_id": "p", "capacity_limit_mb": 5000}
        )
        assert status == 507


async def test_a_body_that_is_too_long_or_no_json(store: PlainStore) -> None:
    async with serving(store) as client:
        for data, status in ((b"x" * (limits.BODY_BYTES_MAX + 1), 413), (b"{", 400)):
            headers = {**BEARER, "Content-Type": "application/json"}
            found, _ = await client.ask("POST", "/api/tenants", data=data, headers=headers)
            assert found == status


def test_a_short_token_is_refused(store: PlainStore) -> None:
    with pytest.raises(UserError):
        create_storage_app(store, "short", capacity_bytes=GB)


# The store itself.


def random_vectors(count: int, dimension: int, seed: int = 1) -> list[list[float]]:
    found: list[list[float]] = np.random.default_rng(seed).normal(size=(count, dimension)).tolist()
    return found


def test_search_is_exact_in_memory_and_read_through(
    store: PlainStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = random_vectors(300, 12)
    tenant = store.create_tenant("p", name=None, capacity_mb=10, dimension=12).id
    store.upload(tenant, list(range(300)), vectors)
    query = random_vectors(1, 12, seed=2)[0]
    matrix = np.array(vectors)
    cosines = matrix @ query / (np.linalg.norm(matrix, axis=1) * np.linalg.norm(query))
    expected = np.argsort(-cosines)[:10].tolist()
    in_memory = store.search(tenant, query, 10)
    assert [item for item, _ in in_memory] == expected
    assert [score for _, score in in_memory] == pytest.approx(cosines[expected].tolist(), abs=1e-6)
    monkeypatch.setattr(limits, "STORAGE_PLAIN_MATRIX_BYTES", 100)
    monkeypatch.setattr(limits, "STORAGE_PLAIN_CHUNK", 7)
    read_through = store.search(tenant, query, 10)
    assert [item for item, _ in read_through] == expected


def test_search_sees_what_changed(store: PlainStore) -> None:
    tenant = store.create_tenant("p", name=None, capacity_mb=1, dimension=2).id
    assert store.search(tenant, [1, 0], 5) == []
    store.upload(tenant, [7, 8, 9], [[1, 0], [0, 1], [0, 0]])
    assert store.search(tenant, [2, 0], 5) == [(7, 1.0), (8, 0.0), (9, 0.0)]
    store.upload(tenant, [7], [[-1, 0]])
    assert store.search(tenant, [2, 0], 5)[-1] == (7, -1.0)
    store.delete(tenant, [8, 8])
    assert [item for item, _ in store.search(tenant, [0, 0], 5)] == [7, 9]
    assert store.tenant(tenant).vectors == 2


def test_matrices_in_memory_are_bounded(store: PlainStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "STORAGE_PLAIN_MATRIX_BYTES", 4 * 2 * 3)
    for _ in range(3):
        tenant = store.create_tenant("p", name=None, capacity_mb=1, dimension=2).id
        store.upload(tenant, [1, 2], [[1, 0], [0, 1]])
        assert len(store.search(tenant, [1, 0], 5)) == 2
    assert len(store._kept) == 1


def test_the_same_id_twice_in_one_upload_is_the_last(store: PlainStore) -> None:
    tenant = store.create_tenant("p", name=None, capacity_mb=1, dimension=1).id
    assert store.upload(tenant, [1, 1], [[1.0], [-1.0]]) == 2
    assert store.tenant(tenant).vectors == 1
    assert store.search(tenant, [1.0], 5) == [(1, -1.0)]


def test_a_deleted_tenants_vectors_go(store: PlainStore) -> None:
    tenant = store.create_tenant("p", name=None, capacity_mb=10, dimension=100).id
    store.upload(tenant, list(range(5000)), random_vectors(5000, 100))
    store.delete_tenant(tenant)
    with pytest.raises(TenantMissing):
        store.search(tenant, [0.0] * 100, 1)
    while store.tidy():
        pass
    with store._database.read() as connection:
        assert connection.execute("SELECT count(*) FROM vectors").get == 0
        assert connection.pragma("page_count") < 100
    assert store.check().vectors == 0


def test_the_file_is_ciphertext_under_its_key(tmp_path: Path) -> None:
    path = tmp_path / "v.db"
    store = PlainStore.open(path, KEY, GB)
    tenant = store.create_tenant("somebody's peer id", name="a name", capacity_mb=1, dimension=2)
    store.upload(tenant.id, [1], [[1.0, 2.0]])
    store.close()
    store.close()
    assert b"somebody" not in path.read_bytes()
    assert b"SQLite format" not in path.read_bytes()
    with pytest.raises(FileCorrupt):
        PlainStore.open(path, bytes(32), GB)
    again = PlainStore.open(path, KEY, GB)
    assert again.tenant(tenant.id).vectors == 1
    again.close()


def test_capacity_is_for_all_tenants_together(tmp_path: Path) -> None:
    store = PlainStore.open(tmp_path / "v.db", KEY, 3 << 20)
    store.create_tenant("p", name=None, capacity_mb=2, dimension=2)
    with pytest.raises(StorageFull, match="promised"):
        store.create_tenant("p", name=None, capacity_mb=2, dimension=2)
    store.close()


def test_numbers_that_float32_does_not_hold() -> None:
    for number in (math.inf, -math.inf, math.nan, 1e39):
        with pytest.raises(UserError, match="float32"):
            encode_rows([[number]], 1)
        with pytest.raises(UserError, match="float32"):
            unit_of([number], 1)


def test_parts_are_joined_and_equal_scores_ordered() -> None:
    parts = [read_rows([(n, encode_rows([[1.0, 0.0]], 2)[0])], 2) for n in (5, 3, 4)]
    matrix = join(parts, 3, 2)
    assert matrix.ids.tolist() == [5, 3, 4]
    assert [item for item, _ in nearest(matrix, unit_of([1, 0], 2), 3)] == [3, 4, 5]
