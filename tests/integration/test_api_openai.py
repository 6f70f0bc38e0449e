"""The API as OpenAI's own client sees it: a real server on loopback, a fake generator behind it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from kwaai import errors
from kwaai.api.app import create_app
from kwaai.api.server import listening
from kwaai.node.generate import ChatMessage
from kwaai.testing.generator import CARD, FakeGenerator, words

ASK: Any = [{"role": "user", "content": "What is the capital of France?"}]
ANSWER = "Paris is the capital."
MODEL = CARD.name


@pytest.fixture
def fake() -> FakeGenerator:
    return FakeGenerator()


@pytest.fixture
async def url(fake: FakeGenerator) -> AsyncIterator[str]:
    async with listening(create_app(fake), "127.0.0.1", 0) as (host, port):
        yield f"http://{host}:{port}/v1"


@pytest.fixture
async def client(url: str) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=url, api_key="unused", max_retries=0) as client:
        yield client


async def test_models(client: AsyncOpenAI, fake: FakeGenerator) -> None:
    fake.cards.append(replace(CARD, name="Owner/Model-1B.Q4"))
    listed = await client.models.list()
    assert [model.id for model in listed.data] == [MODEL, "Owner/Model-1B.Q4"]
    model = await client.models.retrieve("Owner/Model-1B.Q4")
    assert (model.id, model.object, model.created) == ("Owner/Model-1B.Q4", "model", CARD.created)
    assert model.model_extra is not None
    assert model.model_extra["context_length"] == CARD.context_tokens
    with pytest.raises(openai.NotFoundError) as caught:
        await client.models.retrieve("kwaai-dem")
    assert caught.value.code == "model_not_found"
    assert "did you mean 'kwaai-demo'?" in caught.value.message


async def test_chat(client: AsyncOpenAI, fake: FakeGenerator) -> None:
    raw = await client.chat.completions.with_raw_response.create(
        model=MODEL, messages=ASK, temperature=0
    )
    reply = raw.parse()
    assert reply.id.startswith("chatcmpl-")
    assert (reply.object, reply.model) == ("chat.completion", MODEL)
    assert reply.system_fingerprint == "fp_0123456789ab"
    [choice] = reply.choices
    assert (choice.index, choice.finish_reason, choice.logprobs) == (0, "stop", None)
    assert (choice.message.role, choice.message.content) == ("assistant", ANSWER)
    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (7, 4)
    assert reply.usage.total_tokens == 11
    assert raw.headers["x-kwaai-path"] == "[0,4) [4,8)"
    assert raw.headers["x-request-id"].startswith("req_")
    assert "prefill;dur=20.0, first_token;dur=25.0" in raw.headers["server-timing"]
    assert "aiohttp" not in raw.headers["server"]
    assert fake.requests[0].prompt == (ChatMessage("user", ASK[0]["content"]),)
    assert fake.requests[0].sampling.temperature == 0


async def test_a_handle_names_a_model_too(client: AsyncOpenAI, fake: FakeGenerator) -> None:
    reply = await client.chat.completions.create(model=CARD.handle, messages=ASK)
    assert reply.model == fake.requests[0].model == MODEL


async def test_chat_stream(client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(model=MODEL, messages=ASK, stream=True)
    chunks = [chunk async for chunk in stream]
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({(chunk.id, chunk.created, chunk.system_fingerprint) for chunk in chunks}) == 1
    first, *middle, last = [chunk.choices[0] for chunk in chunks]
    assert (first.delta.role, first.delta.content, first.finish_reason) == ("assistant", "", None)
    assert [choice.delta.content for choice in middle] == ["Paris", " is", " the", " capital."]
    assert all(choice.finish_reason is None for choice in middle)
    assert last.finish_reason == "stop"
    assert last.delta.model_dump(exclude_none=True) == {}


async def test_stream_usage(client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model=MODEL, messages=ASK, stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = [chunk async for chunk in stream]
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.model_dump(exclude_none=True) == {
        "prompt_tokens": 7,
        "completion_tokens": 4,
        "total_tokens": 11,
    }


async def test_several_answers(client: AsyncOpenAI, fake: FakeGenerator) -> None:
    reply = await client.chat.completions.create(model=MODEL, messages=ASK, n=2, seed=0)
    assert [choice.message.content for choice in reply.choices] == [ANSWER, "It is Paris."]
    assert [request.sampling.seed for request in fake.requests] == [0, 1]
    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (7, 7)


async def test_several_answers_streamed(client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model=MODEL, messages=ASK, n=2, seed=0, stream=True
    )
    texts = ["", ""]
    ends = []
    async for chunk in stream:
        [choice] = chunk.choices
        texts[choice.index] += choice.delta.content or ""
        if choice.finish_reason:
            ends.append(choice.index)
    assert texts == [ANSWER, "It is Paris."]
    assert sorted(ends) == [0, 1]


async def test_length_and_stop(client: AsyncOpenAI) -> None:
    ask = client.chat.completions.create
    short = await ask(model=MODEL, messages=ASK, max_completion_tokens=2)
    assert short.choices[0].finish_reason == "length"
    assert short.choices[0].message.content == "Paris is"
    stopped = await ask(model=MODEL, messages=ASK, stop=[" the"])
    assert stopped.choices[0].finish_reason == "stop"
    assert stopped.choices[0].message.content == "Paris is"


async def test_chat_logprobs(client: AsyncOpenAI) -> None:
    ask = client.chat.completions.create
    reply = await ask(model=MODEL, messages=ASK, logprobs=True, top_logprobs=3)
    assert reply.choices[0].logprobs is not None
    content = reply.choices[0].logprobs.content
    assert content is not None
    assert [(item.token, item.logprob) for item in content][:2] == [("Paris", -0.5), (" is", -1.0)]
    assert content[0].bytes == list(b"Paris")
    tops = [(top.token, top.logprob, top.bytes) for top in content[0].top_logprobs]
    assert tops[1] == (" other", -1.5, list(b" other"))
    assert tops[2] == ("bytes:\\xf0\\x9f", -9999.0, [0xF0, 0x9F])
    stream = await ask(model=MODEL, messages=ASK, logprobs=True, stream=True)
    streamed = [
        item.token
        async for chunk in stream
        if chunk.choices[0].logprobs is not None
        for item in chunk.choices[0].logprobs.content or []
    ]
    assert streamed == [item.token for item in content]


async def test_characters_split_over_tokens(client: AsyncOpenAI, fake: FakeGenerator) -> None:
    fake.answers = [[b"\xf0\x9f", b"\x98\x80", " é\u2028".encode()]]
    stream = await client.chat.completions.create(model=MODEL, messages=ASK, stream=True)
    texts = [chunk.choices[0].delta.content async for chunk in stream]
    assert "".join(filter(None, texts)) == "😀 é\u2028"
    reply = await client.completions.create(model=MODEL, prompt="x", logprobs=1)
    assert reply.choices[0].logprobs is not None
    assert reply.choices[0].logprobs.text_offset == [0, 0, 1]


async def test_completion(client: AsyncOpenAI, fake: FakeGenerator) -> None:
    reply = await client.completions.create(model=MODEL, prompt="The capital is", logprobs=2)
    assert reply.id.startswith("cmpl-")
    assert reply.object == "text_completion"
    [choice] = reply.choices
    assert (choice.text, choice.finish_reason) == (ANSWER, "stop")
    assert choice.logprobs is not None
    assert choice.logprobs.tokens == ["Paris", " is", " the", " capital."]
    assert choice.logprobs.token_logprobs == [-0.5, -1.0, -1.5, -2.0]
    assert choice.logprobs.text_offset == [0, 5, 8, 12]
    assert choice.logprobs.top_logprobs is not None
    assert choice.logprobs.top_logprobs[0] == {"Paris": -0.5, " other": -1.5}
    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (3, 4)
    assert fake.requests[0].prompt == "The capital is"


async def test_completion_stream(client: AsyncOpenAI) -> None:
    stream = await client.completions.create(
        model=MODEL, prompt=[1, 2, 3], stream=True, stream_options={"include_usage": True}
    )
    *chunks, usage = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].text for chunk in chunks) == ANSWER
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * 4 + ["stop"]
    assert usage.usage is not None
    assert usage.usage.prompt_tokens == 3


async def test_several_prompts(client: AsyncOpenAI) -> None:
    reply = await client.completions.create(model=MODEL, prompt=["a b", "c"], n=2, seed=0)
    assert [choice.index for choice in reply.choices] == [0, 1, 2, 3]
    assert [choice.text for choice in reply.choices] == [ANSWER, "It is Paris."] * 2
    assert reply.usage is not None
    assert reply.usage.prompt_tokens == 3


async def test_the_synchronous_client(url: str) -> None:
    def ask() -> tuple[str | None, list[str | None]]:
        with OpenAI(base_url=url, api_key="unused", max_retries=0) as client:
            whole = client.chat.completions.create(model=MODEL, messages=ASK)
            stream = client.chat.completions.create(model=MODEL, messages=ASK, stream=True)
            return whole.choices[0].message.content, [
                chunk.choices[0].delta.content for chunk in stream
            ]

    whole, streamed = await asyncio.to_thread(ask)
    assert whole == ANSWER
    assert "".join(filter(None, streamed)) == ANSWER


async def test_the_streaming_helper(client: AsyncOpenAI) -> None:
    async with client.chat.completions.stream(model=MODEL, messages=ASK) as stream:
        final = await stream.get_final_completion()
    assert final.choices[0].message.content == ANSWER


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("raised", "kind", "code"),
    [
        (errors.ContextExceeded("too long"), openai.BadRequestError, "context_length_exceeded"),
        (errors.UserError("no", param="prompt"), openai.BadRequestError, "invalid_request"),
        (errors.ModelNotFound("none"), openai.NotFoundError, "model_not_found"),
        (errors.ModelUnsupported("no"), openai.UnprocessableEntityError, "model_unsupported"),
        (errors.Busy("full", retry_after_s=2), openai.RateLimitError, "busy"),
        (errors.OutOfMemory("full"), openai.InternalServerError, "insufficient_memory"),
        (RuntimeError("secret"), openai.InternalServerError, "internal_error"),
    ],
)
async def test_refusals_keep_their_status(
    client: AsyncOpenAI,
    fake: FakeGenerator,
    raised: Exception,
    kind: type[openai.APIStatusError],
    code: str,
    stream: bool,
) -> None:
    fake.refusal = raised
    with pytest.raises(kind) as caught:
        await client.chat.completions.create(model=MODEL, messages=ASK, stream=stream)
    assert caught.value.code == code
    assert "secret" not in str(caught.value)
    assert ("retry-after" in caught.value.response.headers) == (code == "busy")


async def test_a_prompt_beyond_the_context(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="64") as caught:
        await client.completions.create(model=MODEL, prompt="word " * 64)
    assert caught.value.code == "context_length_exceeded"


async def test_a_failure_without_a_stream_is_an_error(
    client: AsyncOpenAI, fake: FakeGenerator
) -> None:
    fake.failure = (2, errors.WorkerLost("the worker of [4,8) died", retry_after_s=1))
    with pytest.raises(openai.InternalServerError) as caught:
        await client.chat.completions.create(model=MODEL, messages=ASK)
    assert caught.value.code == "worker_lost"


async def test_a_failure_within_a_stream_is_an_error_event(
    client: AsyncOpenAI, fake: FakeGenerator
) -> None:
    fake.failure = (2, errors.WorkerLost("the worker of [4,8) died"))
    stream = await client.chat.completions.create(model=MODEL, messages=ASK, stream=True)
    seen: list[str | None] = []

    async def read() -> None:
        async for chunk in stream:
            seen.append(chunk.choices[0].delta.content)

    with pytest.raises(openai.APIError, match="died") as caught:
        await read()
    assert "".join(filter(None, seen)) == "Paris is"
    assert caught.value.code == "worker_lost"


async def test_one_failing_answer_ends_the_others(client: AsyncOpenAI, fake: FakeGenerator) -> None:
    fake.answers = [words("a b c d"), words("a")]
    fake.failure = (3, errors.WorkerLost("lost"))
    with pytest.raises(openai.InternalServerError):
        await client.chat.completions.create(model=MODEL, messages=ASK, n=2, seed=0)
    assert sorted([await fake.ended.get(), await fake.ended.get()]) == ["failed", "finished"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"temperature": 99}, "temperature"),
        ({"top_k": -5}, "top_k"),
        ({"n": 1000}, "n"),
        ({"max_tokens": 10**12}, "max_tokens"),
        ({"nonsense": 1}, "nonsense"),
    ],
)
async def test_parameters_are_refused_by_name(
    client: AsyncOpenAI, fake: FakeGenerator, body: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(model=MODEL, messages=ASK, extra_body=body)
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"
    assert fake.requests == []
