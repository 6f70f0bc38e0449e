"""The shapes of `/v1/completions`: `text_completion`, whole and in chunks."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Any

from kwaai.api.replies import Answer, finite, token_text
from kwaai.node.generate import FinishReason, TextDelta, TokenInfo


class CompletionShape:
    """Words choices as plain text. One instance serves one request: it counts characters."""

    id_prefix = "cmpl"
    whole_object = "text_completion"
    chunk_object = "text_completion"

    def __init__(self, *, logprobs: int | None) -> None:
        self._logprobs_top = logprobs
        self._positions: dict[int, _Position] = {}

    def opening(self, index: int) -> None:
        return None

    def delta(self, index: int, delta: TextDelta) -> dict[str, Any] | None:
        logprobs = self._logprobs(index, delta.tokens) if delta.tokens else None
        if not delta.text and logprobs is None:
            return None
        return _choice(index, delta.text, logprobs, None)

    def closing(self, index: int, reason: FinishReason) -> dict[str, Any]:
        return _choice(index, "", None, reason)

    def choice(self, index: int, answer: Answer, reason: FinishReason) -> dict[str, Any]:
        return _choice(index, answer.text, self._logprobs(index, answer.tokens), reason)

    def _logprobs(self, index: int, tokens: Sequence[TokenInfo]) -> dict[str, Any] | None:
        if self._logprobs_top is None:
            return None
        position = self._positions.setdefault(index, _Position())
        return {
            "tokens": [token_text(info.piece) for info in tokens],
            "token_logprobs": [finite(info.logprob) for info in tokens],
            "top_logprobs": [
                {token_text(piece): finite(logprob) for piece, logprob in info.top}
                for info in tokens
            ]
            if self._logprobs_top
            else None,
            "text_offset": [position.pass_over(info.piece) for info in tokens],
        }


class _Position:
    """Where in the answer's text a token begins, in characters."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._characters = 0

    def pass_over(self, piece: bytes) -> int:
        start = self._characters
        self._characters += len(self._decoder.decode(piece))
        return start


def _choice(
    index: int, text: str, logprobs: dict[str, Any] | None, reason: FinishReason | None
) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}
