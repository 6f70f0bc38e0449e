"""`/v1/embeddings` as OpenAI's own client sees it: a real server on loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import openai
import pytest
from openai import AsyncOpenAI

from kwaai.api.app import create_app
from kwaai.api.server import listening
from kwaai.node.embedders import Embedders, EmbedderSettings, open_embedder
from kwaai.testing.embedding import tiny_bert
from kwaai.testing.generator import FakeGenerator

TEXTS = ["the cat sat on the mat .", "a dog"]


@pytest.fixture
async def embedders(tmp_path: Path) -> AsyncIterator[Embedders]:
    tiny_bert(tmp_path / "tiny.gguf")
    embedders = Embedders(EmbedderSettings("tiny", threads=1), tmp_path)
    yield embedders
    await embedders.close()


@pytest.fixture
async def url(embedders: Embedders) -> AsyncIterator[str]:
    app = create_app(FakeGenerator(), embedders=lambda: embedders)
    async with listening(app, "127.0.0.1", 0) as (host, port):
        yield f"http://{host}:{port}/v1"


@pytest.fixture
async def client(url: str) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=url, api_key="unused", max_retries=0) as client:
        yield client


async def test_a_batch(client: AsyncOpenAI, embedders: Embedders) -> None:
    # The client asks for base64 by itself, and decodes it.
    default = await client.embeddings.create(model="tiny", input=TEXTS)
    plain = await client.embeddings.create(model="tiny", input=TEXTS, encoding_format="float")
    expected = await (await embedders.get()).embed(TEXTS)
    for answer in (default, plain):
        found = np.array([item.embedding for item in answer.data], np.float32)
        assert np.array_equal(found, expected)
        assert [item.index for item in answer.data] == [0, 1]
        assert answer.model == "tiny"
        assert answer.usage.prompt_tokens == answer.usage.total_tokens > 0
    packed = await client.embeddings.create(
        model="tiny", input=TEXTS[1], encoding_format="base64", dimensions=32, user="me"
    )
    assert isinstance(packed.data[0].embedding, str)


async def test_it_is_listed(client: AsyncOpenAI) -> None:
    assert "tiny" in [model.id for model in (await client.models.list()).data]
    assert (await client.models.retrieve("tiny")).owned_by == "kwaainet"


async def test_refusals(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="no embedding model"):
        await client.embeddings.create(model="text-embedding-3-small", input="a")
    with pytest.raises(openai.BadRequestError, match="token ids"):
        await client.embeddings.create(model="tiny", input=[1, 2, 3])
    with pytest.raises(openai.BadRequestError, match="dimensions"):
        await client.embeddings.create(model="tiny", input="a", dimensions=8)


async def test_one_node_as_the_endpoint_of_another(
    url: str, embedders: Embedders, tmp_path: Path
) -> None:
    remote = await open_embedder(EmbedderSettings("tiny", url=url), tmp_path)
    assert remote.spec.dimension == 32
    assert remote.spec.sha256 == ""
    local = await (await embedders.get()).embed(TEXTS)
    assert np.abs(await remote.embed(TEXTS) - local).max() < 1e-6
    await remote.close()
