"""An embedding model in a process of its own: texts in, one vector of length 1 for each out.

Apart from the node because ggml ends the process on what it does not expect, as on more tokens than
the model has positions: texts are cut before it sees them. Any GGUF that llama.cpp can pool.
Sources: `llama.h` of the llama.cpp release inside the installed llama-cpp-python.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Sequence

import llama_cpp as lc
import numpy as np
import numpy.typing as npt

from kwaai.errors import ModelUnsupported, OutOfMemory, UserError
from kwaai.inference import ggml
from kwaai.inference.ipc import Header
from kwaai.limits import (
    EMBED_CONTEXT_TOKENS_MAX,
    EMBED_SEQUENCES,
    EMBED_TASK_TEXTS_GGUF,
    EMBED_TEXT_CHARS_MAX,
    EMBEDDING_LENGTH_MAX,
)

Tokens = list[int]


class EmbeddingWorker:
    """One loaded model. `info`: dimension, and how many tokens of a text are read."""

    def __init__(self, path: str, threads: int, gpu_layers: int) -> None:
        """Load `path`, whose header has been checked; `threads` 0: one per core. Raises
        ModelUnsupported, OutOfMemory.
        """
        ggml.quiet_logs()
        params = lc.llama_model_default_params()
        params.n_gpu_layers = gpu_layers
        self._model = lc.llama_model_load_from_file(os.fsencode(path), params)
        if not self._model:
            raise ModelUnsupported(f"llama.cpp cannot load {path}: {ggml.last_log()}")
        self._vocab = lc.llama_model_get_vocab(self._model)
        self._encodes = bool(lc.llama_model_has_encoder(self._model))
        if self._encodes and lc.llama_model_has_decoder(self._model):
            raise ModelUnsupported(f"{path} has an encoder and a decoder: it makes no embeddings")
        self._context_tokens = min(
            lc.llama_model_n_ctx_train(self._model), EMBED_CONTEXT_TOKENS_MAX
        )
        self._context = self._open(path, threads, lc.LLAMA_POOLING_TYPE_UNSPECIFIED)
        pooling = lc.llama_pooling_type(self._context)
        if pooling == lc.LLAMA_POOLING_TYPE_RANK:
            raise ModelUnsupported(f"{path} ranks texts; it makes no embeddings")
        if pooling == lc.LLAMA_POOLING_TYPE_NONE:  # the file does not say: the usual one
            lc.llama_free(self._context)
            self._context = self._open(path, threads, lc.LLAMA_POOLING_TYPE_MEAN)
        self._batch = lc.llama_batch_init(self._context_tokens, 0, 1)
        self._marks = self._tokenize("")
        self._dimension = int(lc.llama_model_n_embd(self._model))
        if not 1 <= self._dimension <= EMBEDDING_LENGTH_MAX:
            raise ModelUnsupported(f"{path} makes vectors of {self._dimension} numbers")
        tokens_max = self._context_tokens - len(self._marks)
        if tokens_max < 1:
            raise ModelUnsupported(f"{path} reads {self._context_tokens} tokens: none of a text")
        self.info: Header = {"dimension": self._dimension, "tokens_max": tokens_max}

    def _open(self, path: str, threads: int, pooling: int) -> lc.llama_context_p:
        params = lc.llama_context_default_params()
        # A text is read in one piece: attention goes both ways.
        params.n_ctx = params.n_batch = params.n_ubatch = self._context_tokens
        params.n_seq_max = EMBED_SEQUENCES
        params.kv_unified = True
        params.embeddings, params.no_perf = True, True
        params.pooling_type = pooling
        params.n_threads = params.n_threads_batch = threads or os.cpu_count() or 1
        context = lc.llama_init_from_model(self._model, params)
        if not context:
            raise OutOfMemory(
                f"llama.cpp cannot make a context of {self._context_tokens} tokens for {path}: "
                f"{ggml.last_log()}"
            )
        return context

    def handle(self, header: Header, payload: memoryview) -> tuple[Header, bytes]:
        """Answer `embed`: `sizes`, the bytes of each text in the payload. float32 (texts,
        dimension). Raises UserError, ModelUnsupported.
        """
        if header.get("op") != "embed":
            raise UserError(f"an embedding worker knows no operation {header.get('op')!r}")
        texts = _texts(header["sizes"], payload)
        tokens = [self._cut(self._tokenize(text[:EMBED_TEXT_CHARS_MAX])) for text in texts]
        out = np.empty((len(texts), self._dimension), np.float32)
        first = 0
        for group in self._groups(tokens):
            out[first : first + len(group)] = self._pass(group)
            first += len(group)
        return {"ok": True, "tokens": sum(map(len, tokens))}, out.tobytes()

    def _tokenize(self, text: str) -> Tokens:
        data = text.encode("utf-8", "replace")
        capacity = len(data) + 8
        out = (ctypes.c_int32 * capacity)()
        # With the marks that the model wants around a text; what looks like one in it stays text.
        count = lc.llama_tokenize(self._vocab, data, len(data), out, capacity, True, False)
        if count < 0:
            raise UserError("the tokenizer needs more tokens than the text has bytes")
        return out[:count] or [max(0, lc.llama_vocab_bos(self._vocab))]

    def _cut(self, tokens: Tokens) -> Tokens:
        """Cut to what the model reads; the mark at the end stays."""
        if len(tokens) <= self._context_tokens:
            return tokens
        ends = self._marks[-1:] if tokens[-1:] == self._marks[-1:] else []
        return tokens[: self._context_tokens - len(ends)] + ends

    def _groups(self, tokens: Sequence[Tokens]) -> Iterator[list[Tokens]]:
        """Texts that share a pass, in order."""
        group: list[Tokens] = []
        for item in tokens:
            size = sum(map(len, group)) + len(item)
            if group and (size > self._context_tokens or len(group) == EMBED_SEQUENCES):
                yield group
                group = []
            group.append(item)
        if group:
            yield group

    def _pass(self, group: list[Tokens]) -> npt.NDArray[np.float32]:
        batch, at = self._batch, 0
        for sequence, tokens in enumerate(group):
            for position, token in enumerate(tokens):
                batch.token[at], batch.pos[at], batch.logits[at] = token, position, True
                batch.n_seq_id[at], batch.seq_id[at][0] = 1, sequence
                at += 1
        batch.n_tokens = at
        if (memory := lc.llama_get_memory(self._context)) is not None:
            lc.llama_memory_clear(memory, False)
        run = lc.llama_encode if self._encodes else lc.llama_decode
        if status := run(self._context, batch):
            raise UserError(f"llama.cpp answered {status} to {at} tokens: {ggml.last_log()}")
        return np.stack([self._vector(sequence) for sequence in range(len(group))])

    def _vector(self, sequence: int) -> npt.NDArray[np.float32]:
        pointer = lc.llama_get_embeddings_seq(self._context, sequence)
        if not pointer:
            raise ModelUnsupported("the model gives no vector for a text")
        vector = np.ctypeslib.as_array(pointer, (self._dimension,)).astype(np.float64)
        length = float(np.linalg.norm(vector))
        if not 0 < length < np.inf:  # also not a number
            raise ModelUnsupported("the model gives vectors without a direction")
        return (vector / length).astype(np.float32)


def _texts(sizes: Sequence[int], payload: memoryview) -> list[str]:
    if len(sizes) > EMBED_TASK_TEXTS_GGUF or sum(sizes) != len(payload):
        raise UserError(f"{len(sizes)} texts, {sum(sizes)} bytes, but {len(payload)} came")
    texts, start = [], 0
    for size in sizes:
        texts.append(bytes(payload[start : start + size]).decode("utf-8", "replace"))
        start += size
    return texts
