"""Vectors from an endpoint: what is asked, what is believed of the answer, and what is not."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import given
from hypothesis import strategies as st

from kwaai import errors
from kwaai.net import embedding_endpoint
from kwaai.net.embedding_endpoint import EmbeddingEndpoint, check_endpoint, parse_answer


class Other:
    """An OpenAI-compatible server that does as it is told."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.answers: list[web.Response] = []
        """Given first, before well-formed ones."""
        self.dimension = 3
        self.url = ""

    async def answer(self, request: web.Request) -> web.Response:
        self.bodies.append(await request.json())
        self.headers.append(dict(request.headers))
        if self.answers:
            return self.answers.pop(0)
        rows = [
            {"object": "embedding", "index": index, "embedding": self.vector(text)}
            for index, text in enumerate(self.bodies[-1]["input"])
        ]
        return web.json_response({"object": "list", "data": rows[::-1], "model": "m"})

    def vector(self, text: str) -> list[float]:
        return [float(len(text)), *[1.0] * (self.dimension - 1)]


@pytest.fixture
async def other() -> AsyncIterator[Other]:
    other = Other()
    app = web.Application()
    app.router.add_post("/v1/embeddings", other.answer)
    async with TestServer(app) as server:
        other.url = str(server.make_url("/v1"))
        yield other


@pytest.fixture
async def endpoint(other: Other) -> AsyncIterator[EmbeddingEndpoint]:
    endpoint = EmbeddingEndpoint(other.url, "model-x", "secret")
    yield endpoint
    await endpoint.close()


async def test_embed(
    other: Other, endpoint: EmbeddingEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding_endpoint, "EMBED_ENDPOINT_TEXTS", 2)
    await endpoint.start()
    assert endpoint.dimension == 3
    vectors = await endpoint.embed(["a", "abc", "", "\ud800", "x" * 20_000])
    assert vectors.shape == (5, 3)
    assert vectors.dtype == np.float32
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-6
    assert vectors[1] == pytest.approx(np.array([3, 1, 1]) / np.sqrt(11))
    assert [len(body["input"]) for body in other.bodies] == [1, 2, 2, 1]
    assert other.bodies[1] == {
        "model": "model-x",
        "input": ["a", "abc"],
        "encoding_format": "float",
    }
    assert other.bodies[2]["input"][0] == "."  # some refuse empty texts
    assert len(other.bodies[3]["input"][0]) == 16_384
    assert other.headers[0]["Authorization"] == "Bearer secret"
    assert endpoint.count_tokens("four") == 2


async def test_another_model_answers(other: Other, endpoint: EmbeddingEndpoint) -> None:
    await endpoint.start()
    other.dimension = 4
    with pytest.raises(errors.PeerMisbehaved, match="another model answers"):
        await endpoint.embed(["a"])


async def test_a_busy_endpoint_is_asked_again(
    other: Other, endpoint: EmbeddingEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding_endpoint, "EMBED_ENDPOINT_PAUSE_S_MAX", 0.0)
    other.answers = [web.Response(status=429, headers={"Retry-After": "3600"}) for _ in range(3)]
    await endpoint.start()
    other.answers = [web.Response(status=503) for _ in range(4)]
    with pytest.raises(errors.Busy):
        await endpoint.embed(["a"])
    assert other.answers == []


@pytest.mark.parametrize(
    ("answer", "error", "said"),
    [
        ((404, b'{"error": {"message": "no such model"}}'), errors.PeerRefused, "no such model"),
        ((401, b'{"error": "who\x1b[0m?"}'), errors.PeerRefused, "401"),
        ((302, b""), errors.PeerRefused, "302"),
        ((200, b"{"), errors.PeerMisbehaved, "no embeddings"),
        ((200, b'{"data": []}'), errors.PeerMisbehaved, "not 1 vectors"),
    ],
)
async def test_refusals(
    answer: tuple[int, bytes],
    error: type[errors.KwaaiError],
    said: str,
    other: Other,
    endpoint: EmbeddingEndpoint,
) -> None:
    other.answers = [web.Response(status=answer[0], body=answer[1], headers={"Location": "/"})]
    with pytest.raises(error, match=said) as caught:
        await endpoint.start()
    assert caught.value.message.isprintable()


async def test_nobody_there_and_no_answer(other: Other, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = EmbeddingEndpoint("http://127.0.0.1:9/v1", "m")
    with pytest.raises(errors.PeerUnreachable):
        await gone.start()
    await gone.close()
    monkeypatch.setattr(embedding_endpoint, "EMBED_ENDPOINT_TIMEOUT_S", 0.0)
    slow = EmbeddingEndpoint(other.url, "m")
    with pytest.raises(errors.PeerStalled):
        await slow.start()
    await slow.close()


async def test_an_endless_answer(
    other: Other, endpoint: EmbeddingEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding_endpoint, "EMBED_ENDPOINT_ANSWER_BYTES_MAX", 10)
    with pytest.raises(errors.PeerMisbehaved, match="more than 10 bytes"):
        await endpoint.start()


USABLE = ("https://host/v1", "https://host:8443/v1/", "http://localhost/v1", "http://[::1]:80/v1")
UNUSABLE = (
    *("http://host/v1", "http://192.168.0.2/v1", "http://127.0.0.1.example.org/v1"),
    *("ftp://localhost", "localhost:11434", "", "https://", "https://[::1", "https://host/\n"),
    *("https://user:pass@host/v1", "https://host/v1?key=1", "https://host:99999/v1"),
    "https://" + "x" * 3000,
)


@pytest.mark.parametrize("url", USABLE)
def test_usable_urls(url: str) -> None:
    assert check_endpoint(url) == url.rstrip("/") + "/embeddings"


@pytest.mark.parametrize("url", UNUSABLE)
def test_unusable_urls(url: str) -> None:
    with pytest.raises(errors.ConfigError):
        check_endpoint(url)


def row(index: Any, *values: Any) -> dict[str, Any]:
    return {"index": index, "embedding": list(values)}


@pytest.mark.parametrize(
    "data",
    [
        None,
        {},
        [],
        [row(0, 1.0)],
        [row(0, 1.0), row(0, 1.0)],
        [row(0, 1.0), row(2, 1.0)],
        [row(0, 1.0), row(1, 1.0, 2.0)],
        [row(0, 1.0), row(1)],
        [row(0), row(1)],
        [row(0, 0.0), row(1, 1.0)],
        [row(0, float("nan")), row(1, 1.0)],
        [row(0, 10**400), row(1, 1.0)],
        [row(0, [1.0]), row(1, [1.0])],
        [row(0, "x"), row(1, 1.0)],
        [row("a", 1.0), row(1, 1.0)],
        [1, 2],
    ],
)
def test_answers_that_are_none(data: Any) -> None:
    with pytest.raises(errors.PeerMisbehaved):
        parse_answer(json.dumps({"data": data}).encode(), 2, "host")


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["data", "index", "embedding"]), inner, max_size=3)
    ),
)


@given(st.binary(max_size=60) | JSON.map(lambda value: json.dumps({"data": value}).encode()))
def test_any_answer(body: bytes) -> None:
    with contextlib.suppress(errors.PeerMisbehaved):
        vectors = parse_answer(body, 1, "host")
        assert vectors.shape[0] == 1
        assert np.isfinite(vectors).all()
