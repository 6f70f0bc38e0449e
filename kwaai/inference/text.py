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

from kwaai.inference.ipc import Header
from kwaai.inference.supervisor import Worker
from kwaai.limits import WORKER_TEXT_TIMEOUT_S


class TextModel:
    """Tokenizer and chat template of one model."""

    def __init__(self, path: str, template: str | None) -> None:
        """`path`: a GGUF with the tokenizer, checked before. `template`: None for the default."""
        self.worker = Worker("text", {"role": "text", "path": path, "template": template})
        self.ends: frozenset[int] = frozenset()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="text")
        self._bounds = np.zeros(1, np.int64)
        self._pieces = b""

    async def start(self) -> None:
        """Start the worker and fetch the pieces. Raises what the load raised."""
        await self.worker.start()
        self.ends = frozenset(self.worker.info["eog"])
        _, data = await self._ask({"op": "pieces"}, b"")
        count = self.worker.info["vocab"]
        lengths = np.frombuffer(data[: 4 * count], np.uint32)
        self._bounds = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        self._pieces = bytes(data[4 * count :])

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
        return await self._tokens({"op": "tokenize"}, text.encode("utf-8", "replace"))

    async def chat_tokens(self, messages: Sequence[Mapping[str, str]]) -> tuple[int, ...]:
        """Turn a conversation into tokens by the template. Raises UserError when it refuses."""
        return await self._tokens({"op": "chat"}, json.dumps(list(messages)).encode())

    async def _tokens(self, header: Header, payload: bytes) -> tuple[int, ...]:
        _, data = await self._ask(header, payload)
        return tuple(np.frombuffer(data, np.int32).tolist())

    async def _ask(self, header: Header, payload: bytes) -> tuple[Header, bytes]:
        def ask() -> tuple[Header, bytes]:
            reply, data = self.worker.exchange(header, payload, timeout_s=WORKER_TEXT_TIMEOUT_S)
            return reply, bytes(data)  # the view is overwritten by the next request

        await self.worker.wait_ready(WORKER_TEXT_TIMEOUT_S)  # it may just be starting anew
        return await asyncio.get_running_loop().run_in_executor(self._thread, ask)
