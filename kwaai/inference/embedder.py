"""The node's side of a GGUF embedding model: texts to a worker process, vectors back.

Asks `embedding_worker`, one batch at a time; the worker is started anew when it dies. Chooses no
model and reads no file.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from kwaai.errors import WorkerLost
from kwaai.inference.ipc import Header
from kwaai.inference.supervisor import Worker
from kwaai.limits import (
    EMBED_TASK_TEXTS_GGUF,
    EMBED_TEXT_CHARS_MAX,
    EMBED_WORKER_TIMEOUT_S,
    WORKER_START_TIMEOUT_S,
)

_CHARS_PER_TOKEN = 3
"""A guess for texts whose tokens are not counted: on the high side for English (about 4)."""


class GgufEmbedder:
    """One model in one worker."""

    def __init__(self, path: str, *, threads: int = 0, gpu_layers: int = 0) -> None:
        """`path`: a GGUF whose header has been checked. `threads` 0: one per core."""
        load = {"path": path, "threads": threads, "gpu_layers": gpu_layers}
        self._worker = Worker("embedding", {"role": "embedding", "embedding": load})
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="embedding")

    async def start(self) -> None:
        """Start the worker and load. Raises ModelUnsupported, OutOfMemory, WorkerLost."""
        await self._worker.start()

    @property
    def dimension(self) -> int:
        return int(self._worker.info["dimension"])

    @property
    def tokens_max(self) -> int:
        """Of a text that are read."""
        return int(self._worker.info["tokens_max"])

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return (texts, dimension) float32, each row of length 1. Raises WorkerLost,
        ModelUnsupported, UserError.
        """
        out = np.empty((len(texts), self.dimension), np.float32)
        for first in range(0, len(texts), EMBED_TASK_TEXTS_GGUF):
            part = [
                text[:EMBED_TEXT_CHARS_MAX].encode("utf-8", "replace")
                for text in texts[first : first + EMBED_TASK_TEXTS_GGUF]
            ]
            header = {"op": "embed", "sizes": [len(data) for data in part]}
            await self._worker.wait_ready(WORKER_START_TIMEOUT_S)  # it may just be starting anew
            loop = asyncio.get_running_loop()
            data = await loop.run_in_executor(self._thread, self._ask, header, b"".join(part))
            if len(data) != len(part) * self.dimension * 4:
                raise WorkerLost(f"the embedding worker answered {len(data)} bytes; try again")
            vectors = np.frombuffer(data, np.float32).reshape(len(part), self.dimension)
            out[first : first + len(part)] = vectors
        return out

    def _ask(self, header: Header, payload: bytes) -> bytes:
        _, data = self._worker.exchange(header, payload, timeout_s=EMBED_WORKER_TIMEOUT_S)
        return bytes(data)  # the view is overwritten by the next request

    def count_tokens(self, text: str) -> int:
        """Return about how many tokens `text` has, rather too many."""
        return -(-len(text.encode("utf-8", "replace")) // _CHARS_PER_TOKEN)

    async def close(self) -> None:
        """End the worker. Idempotent."""
        await self._worker.stop()
        self._thread.shutdown(wait=False, cancel_futures=True)
