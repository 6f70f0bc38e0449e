"""`/api/search`, `/api/ingest`, `/api/docs`: bodies, files, answers, refusals, over a fake base."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestClient, TestServer

from kwaai import limits
from kwaai.api.app import create_app
from kwaai.errors import EmbedderMissing, ResourceError
from kwaai.node.knowledge_control import IngestOptions, IngestView, ToldIngest
from kwaai.testing.generator import FakeGenerator
from kwaai.testing.knowledge_control import FakeKnowledge

KEY = "the-key-of-this-test"
HEADERS = {"Authorization": f"Bearer {KEY}"}
Client = TestClient[Any, Any]


@dataclass
class Knowledge(FakeKnowledge):
    """Puts uploads in folders of their own, as the node does, and looks at them when ingesting."""

    folders: int = 0
    seen: tuple[tuple[str, bytes], ...] = ()
    failure: Exception | None = None

    async def upload_path(self, base: str, name: str) -> str:
        await super().upload_path(base, name)
        self.folders += 1
        folder = self.uploads / str(self.folders)
        folder.mkdir()
        return str(folder / name)

    async def ingest(
        self, base: str, paths: Sequence[str], options: IngestOptions, say: ToldIngest
    ) -> IngestView:
        self.seen = tuple((Path(path).name, Path(path).read_bytes()) for path in paths)
        if self.failure is not None:
            raise self.failure
        return await super().ingest(base, paths, options, say)


@pytest.fixture
def knowledge(tmp_path: Path) -> Knowledge:
    return Knowledge(tmp_path)


@pytest.fixture
async def client(knowledge: Knowledge) -> AsyncIterator[Client]:
    app = create_app(FakeGenerator(), api_key=KEY, knowledge=lambda: knowledge)
    async with TestClient(TestServer(app), headers=HEADERS) as client:
        yield client


async def ask(client: Client, method: str, path: str, **more: Any) -> tuple[int, Any]:
    answer = await client.request(method, path, **more)
    return answer.status, await answer.json()


def files(**parts: bytes) -> aiohttp.FormData:
    form = aiohttp.FormData()
    for name, data in parts.items():
        form.add_field("file", data, filename=f"{name}.txt")
    return form


async def test_search(client: Client, knowledge: Knowledge) -> None:
    status, answer = await ask(client, "POST", "/api/search", json={"q": "lease?", "top_k": 3})
    assert status == 200
    (row,) = answer["results"]
    assert (row["rank"], row["doc"], row["page"]) == (1, "lease.pdf", 3)
    assert row["text"] == "The lease ends on 31 March 2031."
    assert answer["degraded"] == []
    assert "explained" not in answer
    assert knowledge.calls == [("search", "default", "lease?", 3, False)]
    _, answer = await ask(client, "POST", "/api/search", json={"q": "x", "min_score": 0.9})
    assert answer["results"] == []
    _, answer = await ask(client, "POST", "/api/search", json={"q": "x", "explain": True})
    assert answer["explained"]["bytes"] == 42_800


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "q"),
        ({"q": ""}, "q"),
        ({"q": "x" * (limits.QUESTION_CHARS_MAX + 1)}, "q"),
        ({"q": 7}, "q"),
        ({"q": "x", "top_k": 0}, "top_k"),
        ({"q": "x", "top_k": limits.HITS_MAX + 1}, "top_k"),
        ({"q": "x", "topk": 3}, "topk"),
        ({"q": "x", "base": ""}, "base"),
        ({"q": "x", "min_score": "high"}, "min_score"),
    ],
)
async def test_bad_searches(client: Client, body: dict[str, Any], param: str) -> None:
    status, answer = await ask(client, "POST", "/api/search", json=body)
    assert (status, answer["error"]["param"]) == (400, param)


async def test_an_unknown_base(client: Client) -> None:
    for method, path, more in (
        ("POST", "/api/search", {"json": {"q": "x", "base": "nots"}}),
        ("POST", "/api/ingest?base=nots", {"data": files(a=b"a")}),
        ("GET", "/api/docs?base=nots", {}),
        ("DELETE", "/api/docs/a.txt?base=nots", {}),
    ):
        status, answer = await ask(client, method, path, **more)
        assert (status, answer["error"]["code"]) == (404, "base_not_found"), path


async def test_files_come_in_and_do_not_stay(client: Client, knowledge: Knowledge) -> None:
    form = files(one=b"1" * 200_000, two=b"2")
    status, answer = await ask(client, "POST", "/api/ingest?base=default", data=form)
    assert status == 200
    assert answer["files"][0]["outcome"] == "new"
    assert knowledge.seen == (("one.txt", b"1" * 200_000), ("two.txt", b"2"))
    assert list(knowledge.uploads.iterdir()) == []


async def test_two_of_one_name_at_once(client: Client, knowledge: Knowledge) -> None:
    answers = await asyncio.gather(
        *(ask(client, "POST", "/api/ingest", data=files(same=b"x")) for _ in range(4))
    )
    assert [status for status, _ in answers] == [200] * 4
    assert list(knowledge.uploads.iterdir()) == []


@pytest.mark.parametrize(
    ("failure", "status"),
    [(EmbedderMissing("none here"), 503), (ResourceError("not open"), 503)],
)
async def test_what_fails_leaves_no_files(
    client: Client, knowledge: Knowledge, failure: Exception, status: int
) -> None:
    knowledge.failure = failure
    found, answer = await ask(client, "POST", "/api/ingest", data=files(a=b"a"))
    assert (found, answer["error"]["message"]) == (status, str(failure))
    assert list(knowledge.uploads.iterdir()) == []


async def test_bodies_that_are_no_files(
    client: Client, knowledge: Knowledge, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, answer = await ask(client, "POST", "/api/ingest", json={"file": "x"})
    assert (status, answer["error"]["code"]) == (415, "unsupported_media_type")
    field = aiohttp.FormData({"a": "b"}, default_to_multipart=True)
    status, answer = await ask(client, "POST", "/api/ingest", data=field)
    assert (status, answer["error"]["param"]) == (400, "file")
    headers = {"Content-Type": "multipart/form-data"}
    assert (await ask(client, "POST", "/api/ingest", data=b"x", headers=headers))[0] == 400
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    assert (await ask(client, "POST", "/api/ingest", data=b"x", headers=headers))[0] == 400
    monkeypatch.setattr(limits, "UPLOAD_FILES_MAX", 1)
    status, answer = await ask(client, "POST", "/api/ingest", data=files(a=b"a", b=b"b"))
    assert (status, "at most 1 files" in answer["error"]["message"]) == (400, True)
    monkeypatch.setattr(limits, "UPLOAD_BYTES_MAX", 10)
    assert (await ask(client, "POST", "/api/ingest", data=files(a=b"a" * 11)))[0] == 413
    assert list(knowledge.uploads.iterdir()) == []


async def test_documents(client: Client, knowledge: Knowledge) -> None:
    status, answer = await ask(client, "GET", "/api/docs")
    assert (status, answer["docs"][0]["name"], answer["left_out"]) == (200, "lease.pdf", 0)
    status, answer = await ask(client, "DELETE", "/api/docs/papers/lease%20two.pdf")
    assert (status, answer) == (200, {"doc": "papers/lease two.pdf", "passages": 4})
    assert knowledge.calls == [("delete", "default", "papers/lease two.pdf")]
    status, answer = await ask(client, "GET", "/api/docs?kb=x")
    assert (status, answer["error"]["param"]) == (400, "kb")


async def test_a_key_is_needed(client: Client) -> None:
    status, answer = await ask(client, "GET", "/api/docs", headers={"Authorization": "Bearer no"})
    assert (status, answer["error"]["code"]) == (401, "invalid_api_key")


async def test_without_a_key_there_is_none_of_it(knowledge: Knowledge) -> None:
    app = create_app(FakeGenerator(), knowledge=lambda: knowledge)
    async with TestClient(TestServer(app)) as client:
        for method, path in (
            ("POST", "/api/search"),
            ("POST", "/api/ingest"),
            ("GET", "/api/docs"),
            ("DELETE", "/api/docs/a"),
        ):
            status, answer = await ask(client, method, path)
            assert status == 401
            assert "--api-key-file" in answer["error"]["message"]
    assert knowledge.calls == []
