"""What a face (API, command line) asks of whoever generates text, and what it gets back.

Types only: no engine, no template, no I/O. The implementation lives beside this module; a fake that
obeys the same protocol is `kwaai.testing.generator`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

from kwaai.inference.sampling import SamplingParams
from kwaai.intent.demand import Demand
from kwaai.node.knowledge_control import HitRow
from kwaai.placement.paths import Privacy, Route
from kwaai.types import LayerRange, ModelHandle

Role: TypeAlias = Literal["system", "user", "assistant"]
FinishReason: TypeAlias = Literal["stop", "length"]
Json: TypeAlias = "str | int | float | bool | list[Json] | dict[str, Json] | None"


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One turn of a conversation, as plain text."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class HopReport:
    """What one part of a path did in one answer. Milliseconds are of decode steps: median and 99th
    percentile; None where there were none.
    """

    name: str
    """`here`, or what the peer calls itself."""
    peer: str
    """Its PeerId; empty for this node's own parts."""
    layers: LayerRange
    dtype: str
    """How rows leave it: `f32` or `f16`; empty where none do."""
    compute_ms: tuple[float, float] | None = None
    queue_ms: tuple[float, float] | None = None
    """From the arrival of a step until its rows are there, less the computing."""
    link_ms: tuple[float, float] | None = None
    """Encoding, and handing to the link to the next part. What travelling takes is in
    `PathReport.links_ms`.
    """
    tier: str = ""
    """What the peer is to this node: `Verified`; empty for its own parts."""
    score: float | None = None
    """The same as a number in [0, 1]."""


@dataclass(frozen=True, slots=True)
class PathReport:
    """Which path answers (before the answer), and how it went (after it)."""

    route: Route
    """What was taken: `alone`, `peer` or `split`."""
    privacy: Privacy
    hops: tuple[HopReport, ...]
    predicted_tokens_s: Mapping[str, float | None]
    """Keys `alone`, `peer`, `split`; None for what cannot be."""
    tried: tuple[str, ...] = ()
    """What went wrong with the paths that were tried before this one."""
    token_ms: tuple[float, float] | None = None
    """Of a decode step, from token to logits: median and 99th percentile."""
    links_ms: tuple[float, float] | None = None
    """Of that, what is left of the way through the hops after what they say: all links together."""
    added_ms: tuple[float, float] | None = None
    """Of `token_ms`, what is left after the computing of all parts: what the cut costs."""

    @property
    def text(self) -> str:
        """The parts in order: `here [0,2) -> amber [2,6) -> here [6,8)`."""
        return " -> ".join(f"{hop.name} {hop.layers}" for hop in self.hops)


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
    route: Route | None = None
    """None: the node's setting. A generator with one model on one machine knows no other route."""
    privacy: Privacy | None = None
    """None: the node's setting."""
    demand: Demand | None = None
    """What is asked of the peers of the path. None: what the node's settings ask."""
    circuit: str | None = None
    """The id or name of an open circuit that is to answer. None: a path of its own."""
    passages: int | None = None
    """How many passages of the base an answer from one rests on; None: as many as usual."""
    on_path: Callable[[PathReport], None] | None = None
    """Told which path is taken, before anything is computed."""


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
    """Until the prompt was begun: for a free slot, and for a path to be chosen and opened."""
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
    path: PathReport | None = None
    """Where the generator chooses among paths."""
    sources: tuple[HitRow, ...] | None = None
    """Of an answer from a knowledge base: the passages that it was given, by number. None: it is
    not from one.
    """
    degraded: tuple[str, ...] = ()
    """What was missing when they were searched for."""


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
