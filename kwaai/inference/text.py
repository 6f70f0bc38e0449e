"""The node's side of a model's text: tokens of a prompt, bytes of a token, tokens that end an
answer.

Asks the text worker; keeps the table of pieces, so that streaming asks nobody.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from kwaai.errors import ContextExceeded
from kwaai.inference.ipc import Header
from kwaai.inference.supervisor import Worker
from kwaai.limits import WORKER_TEXT_TIMEOUT_S

_PIECE_BYTES_MIN = 64
"""Taken for the longest token where the table's are shorter: control tokens are not in it."""


class TextModel:
    """Tokenizer and chat template of one model."""

    def __init__(self, path: str, template: str | None, context_tokens: int) -> None:
        """`path`: a GGUF with the tokenizer, checked before. `template`: None for the default."""
        self._context_tokens = context_tokens
        self.worker = Worker("text", {"role": "text", "path": path, "template": template})
        self.ends: frozenset[int] = frozenset()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="text")
        self._bounds = np.zeros(1, np.int64)
        self._pieces = b""
        self._prompt_bytes_max = 0

    async def start(self) -> None:
        """Start the worker and fetch the pieces. Raises what the load raised."""
        await self.worker.start()
        self.ends = frozenset(self.worker.info["eog"])
        _, data = await self._ask({"op": "pieces"}, b"")
        count = self.worker.info["vocab"]
        lengths = np.frombuffer(data[: 4 * count], np.uint32)
        self._bounds = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        self._pieces = bytes(data[4 * count :])
        longest = max(_PIECE_BYTES_MIN, int(lengths.max(initial=0)))
        self._prompt_bytes_max = longest * self._context_tokens

    async def stop(self) -> None:
        """End the worker."""
        await self.worker.stop()
        self._thread.shutdown(wait=False)

    @property
    def vocab(self) -> int:
        """How many tokens there are."""
        return len(self._bounds) - 1

    def piece(self, token: int) -> bytes:
        """Return the bytes that `token` stands for in an answer; none for control tokens."""
        return self._pieces[self._bounds[token] : self._bounds[token + 1]]

    async def tokenize(self, text: str) -> tuple[int, ...]:
        """Turn a plain prompt into tokens. What looks like a control token in it stays text."""
        data = text.encode("utf-8", "replace")
        self._check_length(len(data))
        return await self._tokens({"op": "tokenize"}, data)

    async def chat_tokens(self, messages: Sequence[Mapping[str, str]]) -> tuple[int, ...]:
        """Turn a conversation into tokens by the template. Raises UserError when it refuses."""
        self._check_length(sum(len(message["content"]) for message in messages))
        return await self._tokens({"op": "chat"}, json.dumps(list(messages)).encode())

    def _check_length(self, size: int) -> None:
        """Refuse a prompt of `size` bytes (or characters, which are fewer) that cannot fit however
        it is cut into tokens: nobody waits while megabytes are cut.
        """
        if size > self._prompt_bytes_max:
            raise ContextExceeded(
                f"the prompt has {size} characters, the context holds {self._context_tokens} "
                "tokens with the answer; shorten it or raise context_tokens",
                param="prompt",
            )

    async def _tokens(self, header: Header, payload: bytes) -> tuple[int, ...]:
        _, data = await self._ask(header, payload)
        return tuple(np.frombuffer(data, np.int32).tolist())

    async def _ask(self, header: Header, payload: bytes) -> tuple[Header, bytes]:
        def ask() -> tuple[Header, bytes]:
            reply, data = self.worker.exchange(header, payload, timeout_s=WORKER_TEXT_TIMEOUT_S)
            return reply, bytes(data)  # the view is overwritten by the next request

        await self.worker.wait_ready(WORKER_TEXT_TIMEOUT_S)  # it may just be starting anew
        return await asyncio.get_running_loop().run_in_executor(self._thread, ask)
