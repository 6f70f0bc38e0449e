"""Bodies: what is accepted and what it becomes, what is refused, and no crash on any JSON."""

from __future__ import annotations

import json
import string
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kwaai import limits
from kwaai.api import unsupported
from kwaai.api.bodies import (
    TEMPERATURE_DEFAULT,
    ChatBody,
    CompletionBody,
    parse_chat,
    parse_completion,
)
from kwaai.api.jsonbody import parse_json_object
from kwaai.errors import UserError
from kwaai.node.generate import ChatMessage

HELLO = [{"role": "user", "content": "hello"}]


def chat(**more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": HELLO, **more}


def completion(**more: Any) -> dict[str, Any]:
    return {"model": "m", "prompt": "hello", **more}


def test_a_chat_body_becomes_a_request() -> None:
    job = parse_chat(
        chat(
            messages=[
                {"role": "developer", "content": "Be brief."},
                {
                    "role": "user",
                    "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
                },
                {"role": "assistant", "content": "c", "refusal": None, "tool_calls": []},
            ],
            temperature=0,
            top_k=40,
            top_p=0.9,
            min_p=0.05,
            repeat_penalty=1.1,
            frequency_penalty=-0.5,
            presence_penalty=0.5,
            seed=7,
            logit_bias={"5": -100},
            stop="END",
            n=2,
            logprobs=True,
            top_logprobs=3,
            max_completion_tokens=9,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    first, second = job.requests
    assert first.prompt == (
        ChatMessage("system", "Be brief."),
        ChatMessage("user", "ab"),
        ChatMessage("assistant", "c"),
    )
    assert (first.max_tokens, first.stop, first.ignore_eos) == (9, ("END",), False)
    sampling = first.sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p) == (
        0,
        40,
        0.9,
        0.05,
    )
    assert sampling.repetition_penalty == 1.1
    assert (sampling.frequency_penalty, sampling.presence_penalty) == (-0.5, 0.5)
    assert (sampling.seed, second.sampling.seed) == (7, 8)
    assert dict(sampling.logit_bias) == {5: -100}
    assert sampling.logprobs == 3
    assert (job.n, job.stream, job.include_usage, job.model) == (2, True, True, "m")


def test_defaults() -> None:
    request = parse_chat(chat()).requests[0]
    assert request.sampling.temperature == TEMPERATURE_DEFAULT
    assert request.max_tokens is None
    assert request.sampling.logprobs is None
    assert request.sampling.seed is None
    assert parse_completion(completion()).requests[0].max_tokens == limits.COMPLETION_TOKENS_DEFAULT


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("hi", ["hi"]),
        ("", [""]),
        (["a", "b"], ["a", "b"]),
        ([1, 2], [(1, 2)]),
        ([[1], [2, 3]], [(1,), (2, 3)]),
    ],
)
def test_prompts(prompt: Any, expected: list[Any]) -> None:
    job = parse_completion(completion(prompt=prompt, n=2))
    assert [request.prompt for request in job.requests] == [item for item in expected for _ in "ab"]


@pytest.mark.parametrize(
    "neutral",
    [
        {"user": "u", "metadata": {"a": "b"}, "store": False, "service_tier": "auto"},
        {"parallel_tool_calls": True, "tools": [], "tool_choice": "auto"},
        {"tools": [{"type": "function"}], "tool_choice": "none"},
        {"functions": [{"name": "f"}], "function_call": "none"},
        {"response_format": {"type": "text"}, "modalities": ["text"]},
        {"audio": None, "temperature": None, "stop": None, "seed": None, "tools": None},
        {"stop": [], "logit_bias": {}, "logprobs": False},
        {"max_tokens": 5, "max_completion_tokens": 5},
        {"stream": True, "stream_options": {"include_obfuscation": False}},
    ],
)
def test_what_changes_nothing_is_accepted(neutral: dict[str, Any]) -> None:
    parse_chat(chat(**neutral))


def test_neutral_parameters_of_completions_are_accepted() -> None:
    parse_completion(completion(echo=False, suffix="", best_of=2, n=2, user="u"))


NUMBERS = [
    "temperature",
    "top_p",
    "min_p",
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
]
COUNTS = ["n", "seed", "max_tokens", "top_k"]
NOT_NUMBERS: list[Any] = ["1", True, [], {}, 1e9, -1e9, float("nan"), float("inf")]
NOT_COUNTS: list[Any] = ["1", True, 1.0, [], 10**30, -(10**30)]
REFUSED_OF_BOTH: list[tuple[str, Any]] = [
    *((name, value) for name in NUMBERS for value in NOT_NUMBERS),
    *((name, value) for name in COUNTS for value in NOT_COUNTS),
    ("n", 0),
    ("n", limits.COMPLETIONS_N_MAX + 1),
    ("max_tokens", 0),
    ("max_tokens", limits.MAX_TOKENS_MAX + 1),
    ("model", ""),
    ("model", None),
    ("model", 3),
    ("model", "x" * (limits.MODEL_NAME_CHARS_MAX + 1)),
    ("stop", ""),
    ("stop", 3),
    ("stop", [1]),
    ("stop", ["x"] * (limits.STOPS_MAX + 1)),
    ("stop", "x" * (limits.STOP_BYTES_MAX + 1)),
    ("logit_bias", []),
    ("logit_bias", {"a": 1}),
    ("logit_bias", {"-1": 1}),
    ("logit_bias", {"٣": 1}),
    ("logit_bias", {"9999999999": 1}),
    ("logit_bias", {str(token): 1 for token in range(limits.LOGIT_BIAS_MAX + 1)}),
    ("logit_bias", {"1": 101}),
    ("stream", "true"),
    ("stream", 1),
    ("stream_options", {"include_usage": True}),
    ("user", 3),
    ("user", "x" * (limits.LABEL_CHARS_MAX + 1)),
    ("metadata", {"a": 1}),
    ("store", True),
    ("service_tier", "priority"),
    ("ignore_eos", True),
    ("grammar", "root ::= x"),
    ("max_tokns", 3),
]


@pytest.mark.parametrize("make", [chat, completion])
@pytest.mark.parametrize(("param", "value"), REFUSED_OF_BOTH)
def test_what_both_routes_refuse(make: Any, param: str, value: Any) -> None:
    parse = parse_chat if make is chat else parse_completion
    with pytest.raises(UserError) as caught:
        parse(make(**{param: value}))
    assert (caught.value.param or "").startswith(param)
    assert len(caught.value.message) < 400


def message(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "x"} | fields]}


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": ["hello"]}, "messages[0]"),
        ({"messages": HELLO * (limits.MESSAGES_MAX + 1)}, "messages"),
        (message(role="tool"), "messages[0].role"),
        (message(role=["user"]), "messages[0].role"),
        (message(role=None), "messages[0].role"),
        (message(content=None), "messages[0].content"),
        (message(content=3), "messages[0].content"),
        (message(content=[]), "messages[0].content"),
        (message(content=["x"]), "messages[0].content"),
        (message(content=[{"type": "text"}]), "messages[0].content"),
        (message(content=[{"type": "image_url", "image_url": {}}]), "messages[0].content"),
        (message(content=[{"type": "text", "text": "x", "cache": 1}]), "messages[0].content"),
        (message(name="Ada"), "messages[0].name"),
        (message(tool_calls=[{}]), "messages[0].tool_calls"),
        (message(surprise=1), "messages[0].surprise"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tools": [{}], "tool_choice": "auto"}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"functions": [{}]}, "functions"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"audio": {}}, "audio"),
        ({"prediction": {}}, "prediction"),
        ({"reasoning_effort": "low"}, "reasoning_effort"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"logprobs": 3}, "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": limits.LOGPROBS_MAX + 1}, "top_logprobs"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens"),
        ({"prompt": "x"}, "prompt"),
        ({"repeat_penalty": 1.0, "repetition_penalty": 1.0}, "repeat_penalty"),
        ({"stream": True, "stream_options": {"surprise": 1}}, "stream_options.surprise"),
        (
            {"stream": True, "stream_options": {"include_obfuscation": True}},
            "stream_options.include_obfuscation",
        ),
    ],
)
def test_what_chat_refuses(more: dict[str, Any], param: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_chat(chat(**more))
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [True]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt"),
        ({"prompt": [2**31]}, "prompt"),
        ({"prompt": ["a"] * 9, "n": 2}, "prompt"),
        ({"echo": True}, "echo"),
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 2}, "best_of"),
        ({"logprobs": True}, "logprobs"),
        ({"logprobs": limits.LOGPROBS_MAX + 1}, "logprobs"),
        ({"messages": HELLO}, "messages"),
        ({"max_completion_tokens": 3}, "max_completion_tokens"),
    ],
)
def test_what_completions_refuse(more: dict[str, Any], param: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_completion(completion(**more))
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"max_tokns": 3}, "unknown parameter 'max_tokns'; did you mean 'max_tokens'?"),
        ({"n": 17}, "'n' must be less than or equal to 16, not 17"),
        ({"temperature": 3}, "temperature must be a number from 0 to 2, not 3.0"),
        ({"temperature": "hot"}, "'temperature' must be a number"),
        ({"n": "two"}, "'n' must be a whole number"),
        ({"messages": ["hi"]}, "'messages[0]' must be an object"),
        ({"stream": "yes"}, "'stream' must be true or false"),
        ({"model": None}, "missing required parameter 'model'"),
    ],
)
def test_messages_say_what_to_do(more: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_chat(chat(**more))
    assert caught.value.message == said


def test_an_integer_beyond_any_float_is_refused() -> None:
    with pytest.raises(UserError, match="'temperature' must be"):
        parse_chat(chat(temperature=10**400))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "empty"),
        (b"{", "line 1 column 2"),
        (b'{"a": 1,\n "b" 2}', "line 2 column 6"),
        (b"[]", "object"),
        (b"3", "object"),
        (b"\xef\xbb\xbf{}", "BOM"),
        (b'{"a": "\xff"}', "UTF-8 at byte 7"),
        (b'{"a": 1, "a": 2}', "'a' stands twice"),
        (b'{"x": [{"a": 1, "a": 2}]}', "'a' stands twice"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "Infinity"),
        (b'{"a": 1e999}', "too large"),
        (b'{"a": ' + b"1" * 5000 + b"}", "too long"),
        (b'{"a": "\\ud800"}', "surrogate"),
        (b'{"\\udfff": 1}', "surrogate"),
        (b'{"a": ' + b"[" * 40 + b"]" * 40 + b"}", "deeper than 32"),
        (b'{"a": ' + b"[" * 200_000, "deeper than 32"),
    ],
)
def test_json_that_is_refused(body: bytes, said: str) -> None:
    with pytest.raises(UserError, match="the ") as caught:
        parse_json_object(body)
    assert said in caught.value.message
    assert len(caught.value.message) < 200


def test_json_keeps_text_as_it_is() -> None:
    assert parse_json_object('{"a": "\\ud83d\\ude00 é \\u0000"}'.encode()) == {"a": "😀 é \0"}


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["user", "text", "none", "auto", "1"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["role", "content", "type", "text", "1"]), inner, max_size=4
        )
    ),
    max_leaves=8,
)
KEYS = st.sampled_from(
    sorted(
        {*ChatBody.model_fields, *CompletionBody.model_fields, "repeat_penalty"}
        | {*unsupported.CHAT, *unsupported.COMPLETION}
    )
) | st.text(string.printable, max_size=8)


def attempt(parse: Callable[[Any], Any], value: Any) -> Any:
    """Return what `parse` makes of `value`, or the UserError it raises."""
    try:
        return parse(value)
    except UserError as error:
        return error


@settings(deadline=None)
@given(fields=st.dictionaries(KEYS, VALUES, max_size=5), in_chat=st.booleans())
def test_any_body_is_a_job_or_a_user_error(fields: dict[str, Any], in_chat: bool) -> None:
    parse, make = (parse_chat, chat) if in_chat else (parse_completion, completion)
    result = attempt(parse, make(**fields))
    if isinstance(result, UserError):
        assert 1 <= len(result.message) < 1000
    else:
        assert 1 <= len(result.requests) <= limits.COMPLETIONS_N_MAX


@settings(deadline=None)
@given(body=st.binary(max_size=64) | st.text(max_size=64).map(str.encode))
def test_any_bytes_are_an_object_or_a_user_error(body: bytes) -> None:
    assert isinstance(attempt(parse_json_object, body), (dict, UserError))


@settings(deadline=None)
@given(value=st.dictionaries(st.text(max_size=4), VALUES, max_size=4))
def test_json_round_trips(value: dict[str, Any]) -> None:
    try:
        body = json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except ValueError:
        return  # NaN, infinity
    assert json.dumps(parse_json_object(body)) == json.dumps(value)
