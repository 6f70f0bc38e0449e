"""What a face (API, command line) asks of whoever generates text, and what it gets back.

Types only: no engine, no template, no I/O. The implementation lives beside this module; a fake that
obeys the same protocol is `kwaai.testing.generator`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

from kwaai.inference.sampling import SamplingParams
from kwaai.types import ModelHandle

Role: TypeAlias = Literal["system", "user", "assistant"]
FinishReason: TypeAlias = Literal["stop", "length"]
Json: TypeAlias = "str | int | float | bool | list[Json] | dict[str, Json] | None"


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One turn of a conversation, as plain text."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One answer to one prompt. `n` answers are `n` requests."""

    model: str
    """A name or handle that `Generator.models()` lists."""
    prompt: str | tuple[int, ...] | tuple[ChatMessage, ...]
    """Text, token ids, or a conversation that the model's chat template turns into text."""
    sampling: SamplingParams = field(default_factory=SamplingParams)
    max_tokens: int | None = None
    """At least 1. None: as many as the context has room for."""
    stop: tuple[str, ...] = ()
    """The answer ends before the first of these that it would contain."""
    ignore_eos: bool = False
    """Go on past end-of-generation tokens (benchmarks)."""


@dataclass(frozen=True, slots=True)
class TokenInfo:
    """A token of the answer. Pieces are bytes: a character may be split over several tokens."""

    token: int
    piece: bytes
    logprob: float | None
    """Natural logarithm, before temperature and filters; None unless `sampling.logprobs` is set."""
    top: tuple[tuple[bytes, float], ...] = ()
    """The most likely alternatives, best first; at most `sampling.logprobs` of them."""


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of the answer. `text` may be empty while a character or a stop string is still
    undecided.
    """

    text: str
    tokens: tuple[TokenInfo, ...] = ()


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the time of one generation went, in seconds."""

    queue_s: float
    prefill_s: float
    decode_s: float
    first_token_s: float
    """From the call to the first token, queue included."""


@dataclass(frozen=True, slots=True)
class Finished:
    """Always the last item of a generation that was not closed and did not fail."""

    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    timings: Timings


@dataclass(frozen=True, slots=True)
class ModelCard:
    """A model that can be asked now."""

    name: str
    handle: ModelHandle
    context_tokens: int
    created: int
    """Unix seconds."""
    path: str
    """The ranges that answer, in order: `[0,2) [2,4)`."""
    backend: str


class Generator(Protocol):
    """Answers prompts. All methods belong to one event loop."""

    def models(self) -> list[ModelCard]:
        """List the models that can be asked, the default first."""

    def generate(self, request: GenerationRequest) -> AsyncGenerator[TextDelta | Finished, None]:
        """Answer `request`: text deltas, then one `Finished`.

        Closing the iterator (or cancelling the task that waits on it) ends the generation and frees
        its session. Raises KwaaiError: before the first item for a request that cannot be served
        (ModelNotFound, ContextExceeded, Busy, other UserErrors), later for what breaks on the way
        (WorkerLost).
        """

    def health(self) -> Mapping[str, Json]:
        """Say how things are: `status` is `ok`, `degraded`, `starting` or `failed`; the other keys
        are free.
        """

    def stats(self) -> Mapping[str, float]:
        """Counters and gauges since start; `kwaai.api.metrics.GENERATOR_STATS` lists the names that
        are exported.
        """
