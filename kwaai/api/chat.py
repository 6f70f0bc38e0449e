"""The shapes of `/v1/chat/completions`: `chat.completion` and `chat.completion.chunk`."""

from __future__ import annotations

from typing import Any

from kwaai.api.replies import Answer, finite, token_text
from kwaai.node.generate import FinishReason, TextDelta, TokenInfo


class ChatShape:
    """Words choices as assistant messages. One instance serves one request."""

    id_prefix = "chatcmpl"
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def __init__(self, *, with_logprobs: bool) -> None:
        self._with_logprobs = with_logprobs

    def opening(self, index: int) -> dict[str, Any]:
        return self._chunk(index, {"role": "assistant", "content": ""}, None, None)

    def delta(self, index: int, delta: TextDelta) -> dict[str, Any] | None:
        logprobs = self._logprobs(delta.tokens) if delta.tokens else None
        if not delta.text and logprobs is None:
            return None
        return self._chunk(index, {"content": delta.text}, logprobs, None)

    def closing(self, index: int, reason: FinishReason) -> dict[str, Any]:
        return self._chunk(index, {}, None, reason)

    def choice(self, index: int, answer: Answer, reason: FinishReason) -> dict[str, Any]:
        return {
            "index": index,
            "message": {"role": "assistant", "content": answer.text, "refusal": None},
            "logprobs": self._logprobs(answer.tokens),
            "finish_reason": reason,
        }

    @staticmethod
    def _chunk(
        index: int,
        delta: dict[str, Any],
        logprobs: dict[str, Any] | None,
        reason: FinishReason | None,
    ) -> dict[str, Any]:
        return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}

    def _logprobs(self, tokens: tuple[TokenInfo, ...] | list[TokenInfo]) -> dict[str, Any] | None:
        if not self._with_logprobs:
            return None
        content = [
            {
                **_entry(info.piece, info.logprob),
                "top_logprobs": [_entry(piece, logprob) for piece, logprob in info.top],
            }
            for info in tokens
        ]
        return {"content": content, "refusal": None}


def _entry(piece: bytes, logprob: float | None) -> dict[str, Any]:
    return {"token": token_text(piece), "logprob": finite(logprob), "bytes": list(piece)}
