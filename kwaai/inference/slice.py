"""A contiguous range of a model's layers inside one llama.cpp context, on stock llama-cpp-python.

Rows of hidden states (or token ids) in, rows of hidden states or logits out. Runs inside a worker
process; knows nothing of sessions, deadlines or other slices. How it works and what it rests on:
docs/adr/0001-slices-on-stock-llama-cpp.md.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass

import llama_cpp as lc
import numpy as np
import numpy.typing as npt

from kwaai.errors import OutOfMemory
from kwaai.inference import ggml
from kwaai.inference.spec import EmbeddingSpec, EngineSpec, SliceSpec
from kwaai.inference.tap import GraphTap

_LOAD_INTO_MEMORY = 0  # enum llama_load_mode: LLAMA_LOAD_MODE_NONE

Rows = npt.NDArray[np.float32]
Tokens = npt.NDArray[np.int32]


class SliceError(Exception):
    """llama.cpp refused: the file does not load, or a batch did not compute."""


@dataclass(frozen=True, slots=True)
class Part:
    """Consecutive positions of one KV sequence in a batch.

    data: int32 (tokens,) for the first slice, else float32 (tokens, embd).
    outputs: how many of the last rows give logits in a slice with the head (0 to tokens).
    """

    sequence: int
    position: int
    data: Tokens | Rows
    outputs: int


class EmbeddingTable:
    """Rows of `token_embd.weight`, dequantised by ggml itself: equal to the whole model's to the
    bit.
    """

    def __init__(self, spec: EmbeddingSpec) -> None:
        self._spec = spec
        self._convert = ggml.Dequantiser(spec.ggml_type)
        self._row_bytes = spec.embd // self._convert.block_elements * self._convert.block_bytes
        with open(spec.path, "rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if spec.offset + spec.vocab * self._row_bytes > len(self._map):
            raise SliceError(f"{spec.path}: the embedding table reaches past the end of the file")
        self._bytes = np.frombuffer(self._map, np.uint8)

    def rows(self, tokens: Tokens) -> Rows:
        """Look up `tokens` (tokens,), each in [0, vocab): float32 (tokens, embd), scaled."""
        out = np.empty((len(tokens), self._spec.embd), np.float32)
        base = self._bytes.ctypes.data + self._spec.offset
        for i, token in enumerate(tokens.tolist()):
            self._convert.row(base + token * self._row_bytes, out[i])
        if self._spec.scale != 1.0:
            out *= np.float32(self._spec.scale)
        return out


class Slice:
    """One loaded range. Not thread-safe; one batch at a time."""

    def __init__(self, spec: SliceSpec, engine: EngineSpec) -> None:
        """Load `spec.path`. Raises SliceError when llama.cpp will not have it, OutOfMemory."""
        self.spec, self.engine = spec, engine
        self.outputs_max = engine.outputs_max or engine.sessions
        self._embedding = EmbeddingTable(spec.embedding) if spec.embedding else None
        ggml.quiet_logs()
        gpus = [name for kind, name, _ in ggml.devices() if kind == "gpu"]
        self.backend = gpus[0] if gpus and engine.gpu_layers else "CPU"
        model_params = lc.llama_model_default_params()
        model_params.n_gpu_layers = engine.gpu_layers
        # Weights in memory of their own can lie in huge pages, the page cache's cannot: see
        # WORKER_ENVIRONMENT.
        model_params.load_mode = _LOAD_INTO_MEMORY
        self._model = lc.llama_model_load_from_file(os.fsencode(spec.path), model_params)
        if not self._model:
            raise SliceError(f"llama.cpp cannot load {spec.path}: {ggml.last_log()}")
        self._check_loaded()
        last = None if spec.head else f"l_out-{len(spec.layers) - 1}"
        self._tap = GraphTap(last, spec.input_tensor)
        self._input_rows: Rows | None = None
        self._context = lc.llama_init_from_model(self._model, self._context_params())
        if not self._context:
            raise OutOfMemory(
                f"llama.cpp cannot make {engine.sessions} contexts of {engine.context_tokens} "
                f"tokens ({ggml.last_log()}); lower context_tokens or max_sessions"
            )
        self._memory = lc.llama_get_memory(self._context)
        # Some families take no vectors: they get zeros as token ids, and the tap puts rows in.
        self._takes_tokens = spec.whole or spec.input_tensor is not None
        width = 0 if self._takes_tokens else spec.embd
        self._batch = lc.llama_batch_init(engine.batch_tokens, width, 1)
        shape = (engine.batch_tokens,)
        self._positions = np.ctypeslib.as_array(self._batch.pos, shape)
        self._flags = np.ctypeslib.as_array(self._batch.logits, shape)
        np.ctypeslib.as_array(self._batch.n_seq_id, shape)[:] = 1
        if self._takes_tokens:
            self._tokens = np.ctypeslib.as_array(self._batch.token, shape)
        else:
            self._rows = np.ctypeslib.as_array(self._batch.embd, (*shape, spec.embd))

    def _check_loaded(self) -> None:
        layers, embd = lc.llama_model_n_layer(self._model), lc.llama_model_n_embd(self._model)
        if (layers, embd) != (len(self.spec.layers), self.spec.embd):
            raise SliceError(
                f"{self.spec.path} has {layers} layers of width {embd}, "
                f"expected {len(self.spec.layers)} of {self.spec.embd}"
            )
        if self.spec.head:
            vocab = lc.llama_vocab_n_tokens(lc.llama_model_get_vocab(self._model))
            if vocab != self.spec.vocab:
                raise SliceError(f"{self.spec.path} has {vocab} tokens, expected {self.spec.vocab}")

    def _context_params(self) -> lc.llama_context_params:
        p = lc.llama_context_default_params()
        p.n_ctx = self.engine.context_tokens * self.engine.sessions
        p.n_batch = p.n_ubatch = self.engine.batch_tokens
        p.n_seq_max = self.engine.sessions
        # One pool of cells for all sequences: rows of a mixed batch come back in order.
        p.kv_unified = True
        p.n_threads = p.n_threads_batch = self.engine.threads or os.cpu_count() or 1
        p.no_perf = True
        p.n_outputs_max = self.outputs_max if self.spec.head else self.engine.batch_tokens
        if not self.spec.head or self.spec.input_tensor:
            p.cb_eval = ctypes.cast(self._tap.callback, type(p.cb_eval))
        return p

    def decode(self, parts: Sequence[Part]) -> Rows:
        """Compute one batch of at most `engine.batch_tokens` rows and append it to the KV cache.

        Callers have checked positions, shapes and token ids: ggml aborts the process on bad ones.
        Returns float32 (rows, embd), or (sum of outputs, vocab) from a slice with the head; the
        latter is llama.cpp's own buffer, good until the next call.
        Raises SliceError when llama.cpp reports a failure; the KV of the batch is then undefined.
        """
        outputs = self._fill(parts)
        complete = self._compute()
        if not complete and self._tap.forget():  # its nodes have moved: look by name
            for part in parts:
                self.rollback(part.sequence, part.position)
            complete = self._compute()
        if not complete:
            raise SliceError("the graph does not have the tensors that this family should have")
        if not self.spec.head:
            return self._tap.take().reshape(-1, self.spec.embd)
        if outputs == 0:
            return np.empty((0, self.spec.vocab), np.float32)
        logits = lc.llama_get_logits(self._context)
        return np.ctypeslib.as_array(logits, (outputs, self.spec.vocab))

    def _compute(self) -> bool:
        """Run the batch; say whether the tap met every tensor that it wants."""
        self._tap.arm(self._input_rows)
        code = lc.llama_decode(self._context, self._batch)
        if code != 0:
            raise SliceError(f"llama_decode gave {code} for {self._batch.n_tokens} rows")
        return self._tap.finish()

    def _fill(self, parts: Sequence[Part]) -> int:
        batch, at, outputs = self._batch, 0, 0
        every_row = not self.spec.head  # else the last layer is computed for the flagged rows only
        for part in parts:
            stop = at + len(part.data)
            outputs += part.outputs
            self._positions[at:stop] = range(part.position, part.position + len(part.data))
            self._flags[at:stop] = every_row
            self._flags[stop - part.outputs : stop] = 1
            for row in range(at, stop):
                batch.seq_id[row][0] = part.sequence
            at = stop
        batch.n_tokens = at
        data = parts[0].data if len(parts) == 1 else np.concatenate([part.data for part in parts])
        if self.spec.whole:
            self._tokens[:at] = data
            return outputs
        rows = data if self._embedding is None else self._embedding.rows(data.astype(np.int32))
        if self.spec.input_tensor:
            self._tokens[:at] = 0
            self._input_rows = np.ascontiguousarray(rows, np.float32)
        else:
            self._rows[:at] = rows
        return outputs

    def rollback(self, sequence: int, position: int) -> None:
        """Forget everything of `sequence` from `position` on. Raises SliceError if the cache
        cannot.
        """
        if not lc.llama_memory_seq_rm(self._memory, sequence, position, -1):
            raise SliceError(f"the cache cannot be rolled back to position {position}")

    def clear(self, sequence: int) -> None:
        """Forget all of `sequence`."""
        lc.llama_memory_seq_rm(self._memory, sequence, -1, -1)

    def close(self) -> None:
        """Free the context and the model."""
        lc.llama_batch_free(self._batch)
        lc.llama_free(self._context)
        lc.llama_model_free(self._model)
