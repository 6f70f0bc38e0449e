"""`/v1/embeddings`: bodies, answers, refusals, over an embedder without a model."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from aiohttp.test_utils import TestClient, TestServer

from kwaai import errors
from kwaai.api import embeddings
from kwaai.api.app import create_app
from kwaai.api.embeddings import parse_embedding
from kwaai.testing.embedding import WordEmbedder
from kwaai.testing.generator import FakeGenerator


class Shared:
    def __init__(self) -> None:
        self.embedder = WordEmbedder()
        self.error: errors.KwaaiError | None = None
        self.name: str | None = "words"

    async def get(self) -> WordEmbedder:
        if self.error is not None:
            raise self.error
        return self.embedder


@pytest.fixture
def shared() -> Shared:
    return Shared()


@pytest.fixture
async def client(shared: Shared) -> AsyncIterator[TestClient[Any, Any]]:
    app = create_app(FakeGenerator(), embedders=lambda: shared)
    async with TestClient(TestServer(app)) as client:
        yield client


async def post(client: TestClient[Any, Any], **body: Any) -> tuple[int, Any]:
    answer = await client.post("/v1/embeddings", json={"model": "words", **body})
    return answer.status, await answer.json()


async def test_float_and_base64(client: TestClient[Any, Any], shared: Shared) -> None:
    status, answer = await post(client, input=["the cat", "a dog"], user="me")
    assert status == 200
    assert (answer["object"], answer["model"]) == ("list", "words")
    assert answer["usage"] == {"prompt_tokens": 4, "total_tokens": 4}
    assert [item["index"] for item in answer["data"]] == [0, 1]
    vectors = np.array([item["embedding"] for item in answer["data"]], np.float32)
    assert np.array_equal(vectors, await shared.embedder.embed(["the cat", "a dog"]))
    _, packed = await post(client, input="the cat", encoding_format="base64")
    data = base64.b64decode(packed["data"][0]["embedding"])
    assert np.array_equal(np.frombuffer(data, "<f4"), vectors[0])


async def test_dimensions(client: TestClient[Any, Any], shared: Shared) -> None:
    status, answer = await post(client, input="cat", dimensions=8)
    assert (status, answer["error"]["param"]) == (400, "dimensions")
    assert "mean nothing by themselves" in answer["error"]["message"]
    assert (await post(client, input="cat", dimensions=64))[0] == 200
    status, answer = await post(client, input="cat", dimensions=65)
    assert (status, answer["error"]["param"]) == (400, "dimensions")
    shared.embedder.cuts = True
    _, answer = await post(client, input="cat", dimensions=8)
    vector = np.array(answer["data"][0]["embedding"])
    whole = (await shared.embedder.embed(["cat"]))[0, :8]
    assert vector == pytest.approx(whole / np.linalg.norm(whole), abs=1e-6)


async def test_models(client: TestClient[Any, Any], shared: Shared) -> None:
    listed = await (await client.get("/v1/models")).json()
    assert [model["id"] for model in listed["data"]] == ["kwaai-demo", "words"]
    assert (await (await client.get("/v1/models/words")).json())["object"] == "model"
    status, answer = await post(client, input="cat", model="word")
    assert (status, answer["error"]["code"]) == (404, "model_not_found")
    assert "did you mean 'words'?" in answer["error"]["message"]
    shared.name = None
    listed = await (await client.get("/v1/models")).json()
    assert [model["id"] for model in listed["data"]] == ["kwaai-demo"]
    assert (await post(client, input="cat"))[0] == 404


async def test_nothing_makes_vectors(client: TestClient[Any, Any], shared: Shared) -> None:
    shared.error = errors.EmbedderMissing("install it")
    status, answer = await post(client, input="cat")
    assert (status, answer["error"]["code"]) == (503, "embedder_missing")


async def test_too_many_at_once(
    client: TestClient[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embeddings.limits, "API_EMBED_REQUESTS_MAX", 0)
    status, answer = await post(client, input="cat")
    assert (status, answer["error"]["code"]) == (429, "busy")


async def test_without_an_embedder() -> None:
    async with TestClient(TestServer(create_app(FakeGenerator()))) as client:
        assert (await client.post("/v1/embeddings", json={})).status == 404


@pytest.mark.parametrize(
    ("body", "param", "said"),
    [
        ({}, "model", "missing"),
        ({"model": "m"}, "input", "missing"),
        ({"model": "m", "input": ""}, "input", "not empty"),
        ({"model": "m", "input": []}, "input", "a string or a list"),
        ({"model": "m", "input": {}}, "input", "a string or a list"),
        ({"model": "m", "input": ["a", None]}, "input", "item 1"),
        ({"model": "m", "input": [1, 2]}, "input", "token ids"),
        ({"model": "m", "input": [[1, 2]]}, "input", "token ids"),
        ({"model": "m", "input": ["a"] * 2049}, "input", "at most 2048"),
        ({"model": "m", "input": "a", "encoding_format": "hex"}, "encoding_format", "float"),
        ({"model": "m", "input": "a", "dimensions": 0}, "dimensions", "greater"),
        ({"model": "m", "input": "a", "dimensions": "8"}, "dimensions", "whole number"),
        ({"model": "m", "input": "a", "dimension": 8}, "dimension", "did you mean 'dimensions'"),
        ({"model": "", "input": "a"}, "model", "at least 1"),
        ({"model": "m", "input": "a", "user": "x" * 1000}, "user", "label"),
    ],
)
def test_bodies_that_are_refused(body: dict[str, Any], param: str, said: str) -> None:
    with pytest.raises(errors.UserError, match=said) as caught:
        parse_embedding(body)
    assert caught.value.param == param
