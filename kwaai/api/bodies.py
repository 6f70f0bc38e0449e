"""Bodies of `/v1/chat/completions` and `/v1/completions`, parsed once into a `Job`.

Pure: a JSON object in, a `Job` or a UserError naming the parameter out. Every parameter is either
used, known to change nothing (`kwaai.api.unsupported`), or refused. Parameters as in OpenAI's API
reference, plus top_k, min_p, repetition_penalty and the object `kwaai` (docs/intents.md).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from kwaai import limits
from kwaai.api import unsupported
from kwaai.api.demand import Asked, KwaaiBody, asked_in_body
from kwaai.api.validation import explain
from kwaai.errors import UserError
from kwaai.inference.sampling import SamplingParams
from kwaai.node.generate import ChatMessage, GenerationRequest, Role

TEMPERATURE_DEFAULT = 0.7
_TOKEN_ID_MAX = 2**31 - 1
_SEED_MIN, _SEED_MAX = -(2**63), 2**63 - 1
_TOKEN_ID = re.compile(r"[0-9]{1,10}", re.ASCII)
_ALIASES = {"repeat_penalty": "repetition_penalty"}
_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}

Prompt = str | tuple[int, ...] | tuple[ChatMessage, ...]


@dataclass(frozen=True, slots=True)
class Job:
    """What one body asks for: `n` answers to each of its prompts."""

    requests: tuple[GenerationRequest, ...]
    """In the order of the answer's choices: the n of the first prompt, then those of the next."""
    n: int
    stream: bool
    include_usage: bool

    @property
    def model(self) -> str:
        return self.requests[0].model

    def asking(self, asked: Asked) -> Job:
        """Return it with what the headers ask for too. Raises UserError where the body says
        otherwise.
        """
        return replace(self, requests=tuple(map(asked.apply, self.requests)))


def _refuse(message: str) -> PydanticCustomError:
    return PydanticCustomError("kwaai", "{message}", {"message": message})


def _parse_stop(value: Any) -> Any:
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise _refuse("must be a string or a list of strings")
    for stop in stops:
        if not 1 <= len(stop.encode()) <= limits.STOP_BYTES_MAX:
            raise _refuse(f"must hold strings of 1 to {limits.STOP_BYTES_MAX} bytes")
    return stops


def _parse_logit_bias(value: Any) -> Any:
    if not isinstance(value, dict):
        raise _refuse("must be an object from token ids to numbers")
    for key in value:
        if not _TOKEN_ID.fullmatch(str(key)) or int(key) > _TOKEN_ID_MAX:
            raise _refuse(f"has the key {str(key)[:40]!r}, which is not a token id")
    return value


def _parse_content(value: Any) -> Any:
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not value:
        raise _refuse("must be a string or a list of text parts")
    texts = []
    for index, part in enumerate(value):
        if not isinstance(part, dict):
            raise _refuse(f"part {index} must be an object with type and text")
        if part.get("type") != "text":
            kind = str(part.get("type"))[:40]
            raise _refuse(f"part {index} is of type {kind!r}; only 'text' is supported")
        extra = sorted(key for key, item in part.items() if key not in ("type", "text") and item)
        if extra:
            raise _refuse(f"part {index} has the unsupported key {extra[0][:40]!r}")
        if not isinstance(part.get("text"), str):
            raise _refuse(f"part {index} has no text")
        texts.append(part["text"])
    return "".join(texts)


def _parse_role(value: Any) -> Any:
    role = _ROLES.get(value) if isinstance(value, str) else None
    if role is None:
        shown = value[:40] if isinstance(value, str) else type(value).__name__
        raise _refuse(f"must be system, developer, user or assistant, not {shown!r}")
    return role


def _is_token(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _TOKEN_ID_MAX


def _parse_prompts(value: Any) -> Any:
    """Return a tuple of prompts: text, or tuples of token ids."""
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list) and value:
        if all(isinstance(item, str) for item in value):
            return tuple(value)
        if all(map(_is_token, value)):
            return (tuple(value),)
        if all(isinstance(item, list) and item and all(map(_is_token, item)) for item in value):
            return tuple(map(tuple, value))
    raise _refuse("must be a string, a list of strings, a list of token ids, or a list of those")


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class StreamOptions(_Strict):
    include_usage: bool = False


class MessageBody(_Strict):
    role: Annotated[str, BeforeValidator(_parse_role)]
    content: Annotated[str, BeforeValidator(_parse_content)]


class _Common(_Strict):
    """What both routes take. Ranges of sampling parameters are `SamplingParams`' own."""

    model: str = Field(min_length=1, max_length=limits.MODEL_NAME_CHARS_MAX)
    n: int = Field(default=1, ge=1, le=limits.COMPLETIONS_N_MAX)
    max_tokens: int | None = Field(default=None, ge=1, le=limits.MAX_TOKENS_MAX)
    stop: Annotated[list[str], BeforeValidator(_parse_stop)] = Field(
        default=[], max_length=limits.STOPS_MAX
    )
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: float = TEMPERATURE_DEFAULT
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    seed: int | None = Field(default=None, ge=_SEED_MIN, le=_SEED_MAX)
    logit_bias: Annotated[dict[str, float], BeforeValidator(_parse_logit_bias)] = {}
    kwaai: KwaaiBody | None = None


class ChatBody(_Common):
    messages: list[MessageBody] = Field(min_length=1, max_length=limits.MESSAGES_MAX)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=limits.MAX_TOKENS_MAX)
    logprobs: bool = False
    top_logprobs: int | None = Field(default=None, ge=0, le=limits.LOGPROBS_MAX)


class CompletionBody(_Common):
    prompt: Annotated[Any, BeforeValidator(_parse_prompts)]
    logprobs: int | None = Field(default=None, ge=0, le=limits.LOGPROBS_MAX)


def parse_chat(body: Mapping[str, Any]) -> Job:
    """Parse the body of `/v1/chat/completions`. Raises UserError naming the parameter at fault."""
    fields = _prepare(body, unsupported.CHAT)
    if isinstance(messages := fields.get("messages"), list):
        fields["messages"] = [
            unsupported.drop_neutral(message, unsupported.MESSAGE, f"messages[{index}].")
            if isinstance(message, dict)
            else message
            for index, message in enumerate(messages[: limits.MESSAGES_MAX + 1])
        ]
    chat = _validate(ChatBody, fields, unsupported.CHAT)
    if chat.top_logprobs is not None and not chat.logprobs:
        raise UserError("'top_logprobs' needs 'logprobs': true", param="top_logprobs")
    both = {chat.max_tokens, chat.max_completion_tokens} - {None}
    if len(both) > 1:
        raise UserError(
            "'max_tokens' and 'max_completion_tokens' differ; give one", param="max_tokens"
        )
    messages_tuple = tuple(
        ChatMessage(_ROLES[message.role], message.content) for message in chat.messages
    )
    logprobs = (chat.top_logprobs or 0) if chat.logprobs else None
    return _job(chat, (messages_tuple,), logprobs, both.pop() if both else None)


def parse_completion(body: Mapping[str, Any]) -> Job:
    """Parse the body of `/v1/completions`. Raises UserError naming the parameter at fault."""
    fields = _prepare(body, unsupported.COMPLETION)
    completion = _validate(CompletionBody, fields, unsupported.COMPLETION)
    prompts: tuple[Prompt, ...] = completion.prompt
    if len(prompts) * completion.n > limits.COMPLETIONS_N_MAX:
        raise UserError(
            f"'prompt' holds {len(prompts)} prompts, times n = {completion.n}; one request may ask "
            f"for at most {limits.COMPLETIONS_N_MAX} answers",
            param="prompt",
        )
    max_tokens = completion.max_tokens or limits.COMPLETION_TOKENS_DEFAULT
    return _job(completion, prompts, completion.logprobs, max_tokens)


def _prepare(body: Mapping[str, Any], rules: Mapping[str, unsupported.Rule]) -> dict[str, Any]:
    fields = unsupported.drop_neutral(body, rules)
    for alias, name in _ALIASES.items():
        if alias in fields:
            if name in fields:
                raise UserError(f"'{alias}' is another name of '{name}'; give one", param=alias)
            fields[name] = fields.pop(alias)
    if isinstance(asked := fields.get("kwaai"), dict):
        fields["kwaai"] = unsupported.drop_neutral(asked, {})
    options = fields.get("stream_options")
    if options is not None and fields.get("stream") is not True:
        raise UserError("'stream_options' needs 'stream': true", param="stream_options")
    if isinstance(options, dict):
        fields["stream_options"] = unsupported.drop_neutral(
            options, unsupported.STREAM_OPTIONS, "stream_options."
        )
    return fields


def _job(
    body: _Common, prompts: tuple[Prompt, ...], logprobs: int | None, max_tokens: int | None
) -> Job:
    asked = asked_in_body(body.kwaai)
    requests = tuple(
        asked.apply(
            GenerationRequest(
                model=body.model,
                prompt=prompt,
                sampling=_sampling(body, logprobs, choice),
                max_tokens=max_tokens,
                stop=tuple(body.stop),
            )
        )
        for prompt in prompts
        for choice in range(body.n)
    )
    include_usage = body.stream_options is not None and body.stream_options.include_usage
    return Job(requests, body.n, body.stream, include_usage)


def _sampling(body: _Common, logprobs: int | None, choice: int) -> SamplingParams:
    return SamplingParams(
        temperature=body.temperature,
        top_k=body.top_k,
        top_p=body.top_p,
        min_p=body.min_p,
        repetition_penalty=body.repetition_penalty,
        frequency_penalty=body.frequency_penalty,
        presence_penalty=body.presence_penalty,
        seed=None if body.seed is None else body.seed + choice,
        logit_bias={int(token): bias for token, bias in body.logit_bias.items()},
        logprobs=logprobs,
    )


_Body = TypeVar("_Body", bound=_Common)


def _validate(
    shape: type[_Body], fields: Mapping[str, Any], rules: Mapping[str, unsupported.Rule]
) -> _Body:
    try:
        return shape.model_validate(dict(fields))
    except ValidationError as error:
        known = [*shape.model_fields, *_ALIASES, *rules]
        raise explain(error, known, {"kwaai": [*KwaaiBody.model_fields]}) from None
