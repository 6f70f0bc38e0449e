"""What answers of both routes share: ids, usage, token texts, and the interface of a route's shape.

Shapes only; nothing here reads a request or writes to a socket. Field names as in OpenAI's API
reference.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from kwaai.node.generate import Finished, FinishReason, ModelCard, TextDelta, TokenInfo


@dataclass(slots=True)
class Answer:
    """One choice, collected."""

    texts: list[str] = field(default_factory=list)
    tokens: list[TokenInfo] = field(default_factory=list)
    finished: Finished | None = None

    @property
    def text(self) -> str:
        return "".join(self.texts)


class Shape(Protocol):
    """How a route words its choices."""

    id_prefix: str
    whole_object: str
    chunk_object: str

    def opening(self, index: int) -> dict[str, Any] | None:
        """Return the first choice chunk of an answer, if the route has one."""

    def delta(self, index: int, delta: TextDelta) -> dict[str, Any] | None:
        """Return the choice chunk of a piece of text; None when there is nothing to say yet."""

    def closing(self, index: int, reason: FinishReason) -> dict[str, Any]:
        """Return the last choice chunk of an answer."""

    def choice(self, index: int, answer: Answer, reason: FinishReason) -> dict[str, Any]:
        """Return a complete choice."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """The fields that every chunk and every answer of one request carry."""

    id: str
    created: int
    model: str
    fingerprint: str

    @classmethod
    def new(cls, prefix: str, card: ModelCard) -> Envelope:
        return cls(
            id=f"{prefix}-{secrets.token_hex(12)}",
            created=int(time.time()),
            model=card.name,
            fingerprint="fp_" + card.handle.removeprefix("sha256:")[:12],
        )

    def wrap(self, kind: str, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        """Return a chunk or an answer of object type `kind`."""
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": choices,
            **more,
        }


def usage(finished: Sequence[Finished], n: int) -> dict[str, int]:
    """Count the tokens of a request; the prompt of `n` answers counts once."""
    prompt = sum(item.prompt_tokens for item in finished[::n])
    completion = sum(item.completion_tokens for item in finished)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


def token_text(piece: bytes) -> str:
    """Return a token as text; a token that is not whole characters as `bytes:` and hex escapes."""
    try:
        return piece.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)


def finite(logprob: float | None) -> float:
    """Return a logprob that JSON can carry: OpenAI's -9999 for the impossible and the unknown."""
    return max(logprob, -9999.0) if logprob is not None else -9999.0


def model_object(card: ModelCard) -> dict[str, Any]:
    """Return a model as `/v1/models` lists it, with what siblings add: the context's length."""
    return {
        "id": card.name,
        "object": "model",
        "created": card.created,
        "owned_by": "kwaainet",
        "context_length": card.context_tokens,
        "max_model_len": card.context_tokens,
        "handle": card.handle,
        "path": card.path,
        "backend": card.backend,
    }
