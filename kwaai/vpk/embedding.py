"""Vectors of texts by all-MiniLM-L6-v2 through onnxruntime: texts in, float32 rows of length 1 out.

On the CPU each text is computed by itself, several at once: its vector is the same to the bit
whatever is asked beside it. On a GPU texts of like length share a pass. A text is cut to the 254
tokens that the model reads beside its two marks. Does not fetch or build the model
(`kwaai.vpk.minilm`), and knows no other embedder (`kwaai.node.embedders`). docs/embeddings.md.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kwaai.errors import EmbedderMissing, OutOfMemory, ResourceError
from kwaai.limits import EMBED_GPU_TEXTS, EMBED_TASK_TEXTS, EMBEDDER_THREADS_MAX
from kwaai.log import get_logger
from kwaai.vpk import minilm, minilm_onnx
from kwaai.vpk.types import EmbedderSpec, TextKind
from kwaai.vpk.wordpiece import SPECIALS, WordPiece

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

log = get_logger(__name__)

SPEC = EmbedderSpec(minilm.MODEL, minilm.WEIGHTS_SHA256, minilm_onnx.DIMENSION, normalised=True)
"""Of both forms: vectors of one may be compared with vectors of the other (cosine 0.997)."""
_CUDA = "CUDAExecutionProvider"
_ERRORS_ONLY = 3


def has_onnxruntime() -> bool:
    """Whether onnxruntime is installed. Imports nothing."""
    return importlib.util.find_spec("onnxruntime") is not None


def has_cuda() -> bool:
    """Whether the onnxruntime here can use a GPU of NVIDIA's. Loads onnxruntime."""
    return _CUDA in _runtime().get_available_providers()


def _runtime() -> Any:
    # Threads of OpenMP that spin take the cores from those that compute.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        import onnxruntime
    except ImportError as error:
        raise EmbedderMissing(
            f"{minilm.MODEL} needs onnxruntime: `pip install 'kwaainet[embed]'` (with a GPU: "
            f"'kwaainet[gpu]'); full-text search works without ({error!s:.100})"
        ) from error
    return onnxruntime


class MinilmEmbedder:
    """One loaded model. Implements `kwaai.vpk.types.Embedder`."""

    tokens_max = minilm_onnx.POSITIONS - SPECIALS
    """Of a text that are read."""

    def __init__(self, directory: Path, *, threads: int | None = None, gpu: bool = True) -> None:
        """Load what `prepare_minilm` made in `directory`; blocks for some 0.2 s.

        `threads`: None for one per core. Raises EmbedderMissing, FileCorrupt, ResourceError.
        """
        self._threads = min(threads or os.cpu_count() or 1, EMBEDDER_THREADS_MAX)
        words = minilm.read_file(directory, minilm.VOCABULARY).decode("utf-8")
        self._tokenizer = WordPiece(words.removesuffix("\n").split("\n"))
        self.on_gpu = gpu and not minilm.missing_files(directory, with_float=True) and has_cuda()
        self._session = self._open(directory)
        self._group = EMBED_GPU_TEXTS if self.on_gpu else EMBED_TASK_TEXTS
        workers = 1 if self.on_gpu else self._threads
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="embed")
        self._workers = workers

    @property
    def spec(self) -> EmbedderSpec:
        return SPEC

    def _open(self, directory: Path) -> InferenceSession:
        if self.on_gpu:
            data = minilm.read_file(directory, minilm.FLOAT_FILE)
            try:
                session = self._make_session(data, [_CUDA, "CPUExecutionProvider"])
            except ResourceError as error:
                log.warning("gpu_unusable", problem=error.message)
            else:
                if _CUDA in session.get_providers():
                    return session
                log.warning("gpu_unusable", problem="onnxruntime could not start CUDA")
            self.on_gpu = False
        data = minilm.read_file(directory, minilm.INT8_FILE)
        return self._make_session(data, ["CPUExecutionProvider"])

    def _make_session(self, data: bytes, providers: list[str]) -> InferenceSession:
        runtime = _runtime()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # texts run side by side
        options.log_severity_level = _ERRORS_ONLY
        try:
            session: InferenceSession = runtime.InferenceSession(data, options, providers=providers)
        # onnxruntime's own errors derive from these two.
        except (RuntimeError, ValueError) as error:
            raise ResourceError(
                f"onnxruntime cannot load {minilm.MODEL}: {error!s:.300}"
            ) from error
        return session

    async def embed(self, texts: Sequence[str], kind: TextKind = "passage") -> NDArray[np.float32]:
        """Return (texts, 384) float32, each row of length 1. Raises ResourceError."""
        out = np.empty((len(texts), SPEC.dimension), np.float32)
        # The longest first, so that the threads end together; on a GPU those of like length share.
        order = sorted(range(len(texts)), key=lambda index: -len(texts[index]))
        groups = (order[i : i + self._group] for i in range(0, len(order), self._group))
        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(min(self._workers, len(texts))):
                    tasks.create_task(self._work(texts, groups, out))
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return out

    async def _work(
        self, texts: Sequence[str], groups: Iterator[list[int]], out: NDArray[np.float32]
    ) -> None:
        loop = asyncio.get_running_loop()
        for rows in groups:
            try:
                done = loop.run_in_executor(self._pool, self._run, [texts[row] for row in rows])
            except RuntimeError:  # the pool is shut down
                raise ResourceError("the embedder has been closed") from None
            out[rows] = await done

    def _run(self, texts: list[str]) -> NDArray[np.float32]:
        tokens = [self._tokenizer.encode(text, minilm_onnx.POSITIONS) for text in texts]
        try:
            if self.on_gpu:
                return self._pass(tokens)
            return np.concatenate([self._pass([ids]) for ids in tokens])
        except (RuntimeError, ValueError) as error:  # onnxruntime's own errors derive from these
            raise OutOfMemory(
                f"onnxruntime failed on {len(texts)} texts: {error!s:.300}"
            ) from error

    def _pass(self, tokens: list[list[int]]) -> NDArray[np.float32]:
        width = max(map(len, tokens))
        ids = np.zeros((len(tokens), width), np.int64)
        mask = np.zeros((len(tokens), width), np.int64)
        for row, numbers in enumerate(tokens):
            ids[row, : len(numbers)], mask[row, : len(numbers)] = numbers, 1
        feeds = {"input_ids": ids, "attention_mask": mask}
        (vectors,) = self._session.run(None, feeds)
        return np.asarray(vectors, np.float32)

    def count_tokens(self, text: str) -> int:
        """Return how many of the model's tokens all of `text` has, its two marks not counted."""
        return self._tokenizer.count(text)

    async def close(self) -> None:
        """Take no more texts and end the threads. Idempotent."""
        await asyncio.to_thread(self._pool.shutdown, cancel_futures=True)
