"""The whole way of a prompt: OpenAI's client, our server, the engine, slices of the real model."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import openai
import pytest
import pytest_asyncio
from openai import AsyncOpenAI

from kwaai.api.app import create_app
from kwaai.api.server import listening
from kwaai.config import Config
from kwaai.inference.chain import Chain, Step
from kwaai.inference.engine import Engine, Generation
from kwaai.inference.sampling import Sampled
from kwaai.node.runtime import Runtime, open_runtime
from kwaai.store.home import ensure_home

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(60),
]

MODEL = "kwaai-demo"
FRANCE = "What is the capital of France?"
NO_END = {"0": -100, "2": -100}  # the tokens that end a text or a turn


@dataclass(frozen=True)
class Node:
    """A node that serves, and a client of it."""

    runtime: Runtime
    url: str
    client: AsyncOpenAI

    @property
    def engine(self) -> Engine:
        assert self.runtime._loaded is not None
        return self.runtime._loaded.engine

    @property
    def chain(self) -> Chain:
        assert self.runtime._loaded is not None
        return self.runtime._loaded.chain

    async def chat(self, prompt: str = FRANCE, **options: Any) -> Any:
        options = {"model": MODEL, "temperature": 0, **options}
        messages: Any = [{"role": "user", "content": prompt}]
        return await self.client.chat.completions.create(messages=messages, **options)

    async def text(self, prompt: str = FRANCE, **options: Any) -> str:
        return str((await self.chat(prompt, **options)).choices[0].message.content)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Node]:
    home = ensure_home(tmp_path_factory.mktemp("node") / "home")
    config = Config(threads=1)
    async with (
        open_runtime(config, home, model=MODEL, slices=3, sessions=2) as runtime,
        listening(create_app(runtime.generator), "127.0.0.1", 0) as (host, port),
    ):
        url = f"http://{host}:{port}"
        async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            yield Node(runtime, url, client)


async def test_an_answer(node: Node) -> None:
    reply = await node.chat()
    [choice] = reply.choices
    assert "Paris" in choice.message.content
    assert choice.finish_reason == "stop"
    assert reply.model == MODEL
    usage = reply.usage
    assert usage.prompt_tokens > 5
    assert usage.completion_tokens > 1
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    [card] = (await node.client.models.list()).data
    assert card.id == MODEL


async def test_a_stream_says_the_same_in_pieces(node: Node) -> None:
    whole = await node.chat()
    stream = await node.chat(stream=True, stream_options={"include_usage": True})
    chunks = [chunk async for chunk in stream]
    assert chunks[0].choices[0].delta.role == "assistant"
    deltas = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
    assert len([delta for delta in deltas if delta]) > 3
    assert "".join(delta or "" for delta in deltas) == whole.choices[0].message.content
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].usage == whole.usage


async def test_completions(node: Node) -> None:
    reply = await node.client.completions.create(
        model=MODEL, prompt="The capital of France is", max_tokens=4, temperature=0, logprobs=2
    )
    [choice] = reply.choices
    assert choice.finish_reason in ("stop", "length")
    assert choice.logprobs is not None
    assert "".join(choice.logprobs.tokens or []) == choice.text


async def test_several_choices_share_batches(node: Node, hold_passes: Any) -> None:
    hold_passes(node.engine, node.chain, 2)
    before = node.engine.counters.batches
    reply = await node.chat(n=2, seed=5, temperature=1.5, max_tokens=20)
    assert [choice.index for choice in reply.choices] == [0, 1]
    assert node.engine.counters.batches - before < reply.usage.completion_tokens
    again = await node.chat(n=2, seed=5, temperature=1.5, max_tokens=20)
    assert [c.message.content for c in again.choices] == [c.message.content for c in reply.choices]


async def test_logprobs(node: Node) -> None:
    reply = await node.chat(logprobs=True, top_logprobs=3)
    [choice] = reply.choices
    content = choice.logprobs.content
    assert "".join(entry.token for entry in content) == choice.message.content
    for entry in content:
        assert entry.logprob <= 0
        assert len(entry.top_logprobs) == 3
        assert entry.top_logprobs[0].token == entry.token


async def test_stop_and_max_tokens(node: Node) -> None:
    full = await node.text()
    assert await node.text(stop=["Paris"]) == full[: full.index("Paris")]
    reply = await node.chat(max_tokens=2)
    assert (reply.choices[0].finish_reason, reply.usage.completion_tokens) == ("length", 2)


async def test_two_clients_at_once_share_batches(node: Node, hold_passes: Any) -> None:
    prompts = [FRANCE, "What is the capital of Italy?"]
    alone = [await node.text(prompt) for prompt in prompts]
    hold_passes(node.engine, node.chain, 2)
    counters = node.engine.counters
    batches, sampled = counters.batches, counters.sampled_tokens
    async with AsyncOpenAI(base_url=f"{node.url}/v1", api_key="none", max_retries=0) as other:
        second = Node(node.runtime, node.url, other)
        together = await asyncio.gather(node.text(prompts[0]), second.text(prompts[1]))
    assert list(together) == alone
    assert counters.batches - batches < counters.sampled_tokens - sampled


async def test_a_client_that_goes_away_frees_its_session(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine is held still until the server has noticed, so nothing depends on speed."""
    permits, left = asyncio.Semaphore(4), asyncio.Event()
    step, tokens = node.chain.step, node.engine.tokens

    async def held(steps: Sequence[Step], then: Callable[[npt.NDArray[np.float32]], Any]) -> Any:
        await permits.acquire()
        return await step(steps, then)

    async def watched(generation: Generation) -> AsyncGenerator[Sampled, None]:
        try:
            async for item in tokens(generation):
                yield item
        finally:
            left.set()

    monkeypatch.setattr(node.chain, "step", held)
    monkeypatch.setattr(node.engine, "tokens", watched)
    sampled = node.engine.counters.sampled_tokens
    stream = await node.chat(stream=True, logit_bias=NO_END, max_tokens=400)
    await anext(stream)
    assert node.engine.active == 1
    await stream.close()
    await left.wait()
    for _ in range(500):
        permits.release()
    monkeypatch.undo()
    assert "Paris" in await node.text()
    assert node.engine.active <= 1
    assert node.engine.counters.sampled_tokens - sampled < 100


async def test_errors_have_openais_shape(node: Node) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await node.text("Paris " * 5000)
    assert refused.value.code == "context_length_exceeded"
    with pytest.raises(openai.NotFoundError) as unknown:
        await node.text(model="gpt-4")
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as biased:
        await node.text(logit_bias={"99999": 1})
    assert biased.value.param == "logit_bias"


async def test_a_worker_that_dies_is_a_503_and_then_all_is_well(node: Node) -> None:
    expected = await node.text()
    stream = await node.chat(stream=True, logit_bias=NO_END, max_tokens=400)
    await anext(stream)
    pid = node.chain.workers[1].pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)  # so that the next one is certainly under way
    waiting = asyncio.create_task(node.chat(logit_bias=NO_END, max_tokens=400))
    await asyncio.sleep(0)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(openai.APIError, match="again"):
        async for _ in stream:
            pass
    outcome = (await asyncio.gather(waiting, return_exceptions=True))[0]
    if isinstance(outcome, BaseException):  # it was in the lost pass; else it waited and was served
        assert isinstance(outcome, openai.InternalServerError)
        assert (outcome.status_code, outcome.code) == (503, "worker_lost")
    assert await node.text() == expected


async def test_health_and_metrics(node: Node) -> None:
    async def get(path: str) -> str:
        reply = await node.client.with_options(base_url=node.url).get(path, cast_to=str)
        return str(reply)

    assert '"status":"ok"' in (await get("/health")).replace(" ", "")
    metrics = await get("/metrics")
    assert "worker_restarts" in metrics
    assert "kv_tokens" in metrics
