"""A `Generator` that says what it is told to, for tests of the faces.

No model, no clock, no randomness: the seed picks one of the answers, tokens are words. Edit its
fields like data, before or between requests; what happened is in `requests` and `ended`.
"""

from __future__ import annotations

import asyncio
import codecs
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field

from kwaai.errors import ContextExceeded, ModelNotFound
from kwaai.node.generate import (
    Finished,
    FinishReason,
    GenerationRequest,
    Json,
    ModelCard,
    TextDelta,
    Timings,
    TokenInfo,
)
from kwaai.types import ModelHandle

CARD = ModelCard(
    name="kwaai-demo",
    handle=ModelHandle("sha256:" + "0123456789abcdef" * 4),
    context_tokens=64,
    created=1_700_000_000,
    path="[0,4) [4,8)",
    backend="cpu",
)
TIMINGS = Timings(queue_s=0.0, prefill_s=0.02, decode_s=0.04, first_token_s=0.025)


def words(text: str) -> list[bytes]:
    """Split text into the fake's tokens: words with the space before them."""
    return [match.encode() for match in re.findall(r"\s*\S+|\s+$", text)]


@dataclass
class FakeGenerator:
    """Answers every prompt with one of `answers`, chosen by the seed (the first without one)."""

    answers: list[Sequence[bytes]] = field(
        default_factory=lambda: [words("Paris is the capital."), words("It is Paris.")]
    )
    cards: list[ModelCard] = field(default_factory=lambda: [CARD])
    refusal: Exception | None = None
    """Raised before the first item."""
    failure: tuple[int, Exception] | None = None
    """Raised after this many tokens."""
    gate: asyncio.Semaphore | None = None
    """If set, every token waits for a permit: a test decides how far an answer gets."""
    status: str = "ok"
    counters: dict[str, float] = field(default_factory=lambda: {"worker_restarts": 0.0})

    requests: list[GenerationRequest] = field(default_factory=list)
    """Every request, in the order of arrival."""
    began: asyncio.Queue[GenerationRequest] = field(default_factory=asyncio.Queue)
    """The same requests, for a test to wait on."""
    ended: asyncio.Queue[str] = field(default_factory=asyncio.Queue)
    """How each generation that began ended: `finished`, `failed` or `closed`."""

    def models(self) -> list[ModelCard]:
        return list(self.cards)

    def health(self) -> Mapping[str, Json]:
        return {"status": self.status, "models": [card.name for card in self.cards]}

    def stats(self) -> Mapping[str, float]:
        return dict(self.counters)

    async def generate(
        self, request: GenerationRequest
    ) -> AsyncGenerator[TextDelta | Finished, None]:
        self.requests.append(request)
        self.began.put_nowait(request)
        outcome = "closed"
        try:
            pieces, reason, prompt_tokens = self._plan(request)
            text_end = _stop_position(pieces, request.stop)
            sent = 0
            decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
            for position, piece in enumerate(pieces):
                if self.gate is not None:
                    await self.gate.acquire()
                if self.failure is not None and position == self.failure[0]:
                    raise self.failure[1]
                text = decoder.decode(piece, final=position == len(pieces) - 1)
                text = text if text_end is None else text[: text_end - sent]
                sent += len(text)
                yield TextDelta(text, (_token(position, piece, request.sampling.logprobs),))
                if text_end is not None and sent >= text_end:
                    pieces, reason = pieces[: position + 1], "stop"
                    break
            outcome = "finished"
            yield Finished(reason, prompt_tokens, len(pieces), TIMINGS)
        except Exception:
            outcome = "failed"
            raise
        finally:
            self.ended.put_nowait(outcome)

    def _plan(self, request: GenerationRequest) -> tuple[Sequence[bytes], FinishReason, int]:
        """Return the tokens of the answer, how it ends unless a stop string comes, and the prompt's
        length.
        """
        if self.refusal is not None:
            raise self.refusal
        card = next((card for card in self.cards if card.name == request.model), None)
        if card is None:
            raise ModelNotFound(f"there is no model '{request.model}' here", param="model")
        prompt_tokens = _count(request)
        room = card.context_tokens - prompt_tokens
        if room < 1:
            raise ContextExceeded(
                f"the prompt has {prompt_tokens} tokens; the context holds {card.context_tokens}",
                param="messages",
            )
        pieces = self.answers[(request.sampling.seed or 0) % len(self.answers)]
        limit = min(room, room if request.max_tokens is None else request.max_tokens)
        return pieces[:limit], "length" if limit < len(pieces) else "stop", prompt_tokens


def _count(request: GenerationRequest) -> int:
    if isinstance(request.prompt, str):
        return len(request.prompt.split())
    return sum(
        1 if isinstance(item, int) else 1 + len(item.content.split()) for item in request.prompt
    )


def _stop_position(pieces: Sequence[bytes], stops: Sequence[str]) -> int | None:
    """Return where in the text the earliest stop string begins."""
    text = b"".join(pieces).decode("utf-8", "replace")
    found = [position for stop in stops if (position := text.find(stop)) >= 0]
    return min(found, default=None)


def _token(position: int, piece: bytes, logprobs: int | None) -> TokenInfo:
    if logprobs is None:
        return TokenInfo(position, piece, None)
    chosen = -0.5 * (position + 1)
    top = ((piece, chosen), (b" other", chosen - 1.0), (b"\xf0\x9f", float("-inf")))
    return TokenInfo(position, piece, chosen, top[:logprobs])
