"""Stock llama.cpp with the whole model in one process: the baseline of `kwaainet bench`.

Calls llama-cpp-python's low-level functions directly and shares no code with `slice`, so that what
the chain costs is measured against what a user of llama.cpp has. Greedy, one sequence.
"""

from __future__ import annotations

import ctypes
import os
import time

import llama_cpp as lc
import numpy as np
import numpy.typing as npt

from kwaai.errors import ModelUnsupported, UserError
from kwaai.inference import ggml
from kwaai.inference.ipc import Header


class StockModel:
    """One model and one sequence. `info` is empty: there is nothing to tell."""

    def __init__(self, path: str, context_tokens: int, batch_tokens: int, threads: int) -> None:
        ggml.quiet_logs()
        params = lc.llama_model_default_params()
        params.n_gpu_layers = 0
        self._model = lc.llama_model_load_from_file(os.fsencode(path), params)
        if not self._model:
            raise ModelUnsupported(f"llama.cpp cannot load {path}: {ggml.last_log()}")
        context = lc.llama_context_default_params()
        context.n_ctx = context_tokens
        context.n_batch = context.n_ubatch = batch_tokens
        context.n_threads = context.n_threads_batch = threads or os.cpu_count() or 1
        context.no_perf = True
        self._context = lc.llama_init_from_model(self._model, context)
        if not self._context:
            raise ModelUnsupported(f"llama.cpp cannot make a context: {ggml.last_log()}")
        self._vocab = lc.llama_vocab_n_tokens(lc.llama_model_get_vocab(self._model))
        self._limit = (context_tokens, batch_tokens)
        self._position, self._next = 0, 0
        self.info: Header = {}

    def handle(self, header: Header, payload: memoryview) -> tuple[Header, bytes]:
        """Answer `prefill` (token ids, int32) or `decode` (count): seconds per pass, and tokens."""
        if header.get("op") == "prefill":
            return self._prefill(np.frombuffer(payload, np.int32)), b""
        if header.get("op") == "decode":
            return self._decode(int(header["count"])), b""
        raise UserError(f"the baseline knows no operation {header.get('op')!r}", param="op")

    def _prefill(self, tokens: npt.NDArray[np.int32]) -> Header:
        lc.llama_memory_clear(lc.llama_get_memory(self._context), False)
        if not 0 < len(tokens) < self._limit[0]:
            raise UserError(f"the prompt has 1 to {self._limit[0] - 1} tokens")
        if tokens.min() < 0 or tokens.max() >= self._vocab:
            raise UserError(f"token ids are between 0 and {self._vocab - 1}")
        self._position = 0
        started = time.perf_counter()
        for at in range(0, len(tokens), self._limit[1]):
            self._pass(tokens[at : at + self._limit[1]])
        self._next = self._argmax()
        return {"ok": True, "seconds": time.perf_counter() - started, "token": self._next}

    def _decode(self, count: int) -> Header:
        if not 0 < count <= self._limit[0] - self._position:
            raise UserError(f"{count} tokens do not fit the context")
        seconds, tokens = [], []
        for _ in range(count):
            started = time.perf_counter()
            self._pass(np.array([self._next], np.int32))
            self._next = self._argmax()
            seconds.append(time.perf_counter() - started)
            tokens.append(self._next)
        return {"ok": True, "seconds": seconds, "tokens": tokens}

    def _pass(self, tokens: npt.NDArray[np.int32]) -> None:
        array = np.ascontiguousarray(tokens)
        pointer = array.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
        batch = lc.llama_batch_get_one(pointer, len(array))
        if lc.llama_decode(self._context, batch) != 0:
            raise UserError(f"llama.cpp cannot compute {len(array)} tokens: {ggml.last_log()}")
        self._position += len(array)

    def _argmax(self) -> int:
        logits = np.ctypeslib.as_array(lc.llama_get_logits_ith(self._context, -1), (self._vocab,))
        return int(np.argmax(logits))
