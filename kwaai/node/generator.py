"""The Generator of a running node: prompts in, text out, through the text model and the engine.

Turns a request into tokens, tokens into text, and stops at stop strings. Batches nothing and knows
no HTTP; starting and stopping the parts is `runtime`'s.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import AsyncGenerator, Mapping
from copy import copy
from dataclasses import dataclass

from kwaai.errors import CircuitMissing, ModelNotFound, ResourceError, UserError
from kwaai.inference.chain import Chain
from kwaai.inference.engine import Engine, Generation
from kwaai.inference.sampling import Sampled, Sampler
from kwaai.inference.text import TextModel
from kwaai.inference.textstream import TextStream
from kwaai.limits import MAX_TOKENS_MAX
from kwaai.node.generate import (
    Finished,
    FinishReason,
    GenerationRequest,
    Json,
    ModelCard,
    TextDelta,
    Timings,
    TokenInfo,
)


@dataclass(frozen=True, slots=True)
class Loaded:
    """One model that answers."""

    card: ModelCard
    names: frozenset[str]
    chain: Chain
    engine: Engine
    text: TextModel


class NodeGenerator:
    """Answers with the model that the runtime has loaded, and says so while there is none."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._loaded: Loaded | None = None
        self._problem: Exception | None = None

    def set_loaded(self, loaded: Loaded) -> None:
        """From now on requests are answered."""
        self._loaded = loaded

    def set_failed(self, problem: Exception) -> None:
        """From now on requests raise `problem`."""
        self._problem = problem

    def models(self) -> list[ModelCard]:
        """See Generator."""
        return [self._loaded.card] if self._loaded else []

    def health(self) -> Mapping[str, Json]:
        """See Generator."""
        if self._problem is not None:
            return {"status": "failed", "model": self._name, "error": str(self._problem)}
        if self._loaded is None:
            return {"status": "starting", "model": self._name}
        workers = [*self._loaded.chain.workers, self._loaded.text.worker]
        states = {worker.name: worker.state for worker in workers}
        ready = all(state == "ready" for state in states.values())
        failed = any(state == "failed" for state in states.values())
        status = "ok" if ready else "failed" if failed else "degraded"
        return {
            "status": status,
            "model": self._loaded.card.name,
            "path": self._loaded.card.path,
            "workers": {name: str(state) for name, state in states.items()},
        }

    def stats(self) -> Mapping[str, float]:
        """See Generator."""
        if self._loaded is None:
            return {}
        engine, workers = self._loaded.engine, self._loaded.chain.workers
        return {
            "queue_requests": engine.queued,
            "active_sessions": engine.active,
            "kv_tokens": engine.kv_tokens,
            "workers": sum(worker.state == "ready" for worker in workers),
            "worker_restarts": sum(worker.restarts_total for worker in workers),
            "batches": engine.counters.batches,
            "batch_tokens": engine.counters.batch_rows,
        }

    async def generate(
        self, request: GenerationRequest
    ) -> AsyncGenerator[TextDelta | Finished, None]:
        """See Generator."""
        loaded = self._find(request.model)
        if request.circuit is not None:
            raise CircuitMissing("circuits need a running node: kwaainet start", param="circuit")
        if request.max_tokens is not None and not 1 <= request.max_tokens <= MAX_TOKENS_MAX:
            raise UserError(f"max_tokens is 1 to {MAX_TOKENS_MAX}", param="max_tokens")
        started = time.perf_counter()
        stream = TextStream(request.stop)
        prompt = await _prompt_tokens(loaded, request)
        sampler = Sampler(request.sampling, prompt, seed=_seed(request))
        ends = frozenset() if request.ignore_eos else loaded.text.ends
        budget = request.max_tokens or MAX_TOKENS_MAX
        generation = loaded.engine.submit(prompt, sampler, budget, ends)
        count = 0
        reason: FinishReason = "length"
        async with contextlib.aclosing(loaded.engine.tokens(generation)) as tokens:
            async for sampled in tokens:
                count += 1
                if sampled.token in ends:
                    reason = "stop"
                    break
                piece = loaded.text.piece(sampled.token)
                text = stream.push(piece)
                yield TextDelta(text, (_info(loaded, sampled, piece),))
                if stream.stopped:
                    reason = "stop"
                    break
        if rest := stream.finish():
            yield TextDelta(rest)
        yield Finished(
            finish_reason=reason,
            prompt_tokens=len(prompt),
            completion_tokens=count,
            timings=_timings(generation, started),
        )

    def _find(self, model: str) -> Loaded:
        if self._problem is not None:
            raise copy(self._problem)  # the same one for ever would keep every request's frames
        if self._loaded is None:
            raise ResourceError(
                f"{self._name} is still loading; try again in a moment", retry_after_s=2.0
            )
        if model and model not in self._loaded.names:
            raise ModelNotFound(
                f"no model {model[:200]!r} here; this node serves {self._loaded.card.name!r}",
                param="model",
            )
        return self._loaded


async def _prompt_tokens(loaded: Loaded, request: GenerationRequest) -> tuple[int, ...]:
    prompt = request.prompt
    if isinstance(prompt, str):
        tokens = await loaded.text.tokenize(prompt)
    elif all(isinstance(item, int) for item in prompt):
        tokens = tuple(item for item in prompt if isinstance(item, int))
        if any(not 0 <= token < loaded.chain.vocab for token in tokens):
            raise UserError(f"token ids are between 0 and {loaded.chain.vocab - 1}", param="prompt")
    else:
        messages = [
            {"role": item.role, "content": item.content}
            for item in prompt
            if not isinstance(item, int)
        ]
        tokens = await loaded.text.chat_tokens(messages)
    return tokens


def _seed(request: GenerationRequest) -> int:
    return secrets.randbits(63) if request.sampling.seed is None else request.sampling.seed


def _info(loaded: Loaded, sampled: Sampled, piece: bytes) -> TokenInfo:
    top = tuple((loaded.text.piece(token), logprob) for token, logprob in sampled.top)
    return TokenInfo(sampled.token, piece, sampled.logprob, top)


def _timings(generation: Generation, started: float) -> Timings:
    ended = time.perf_counter()
    first = generation.first_s or ended
    return Timings(
        queue_s=generation.admitted_s - generation.submitted_s,
        prefill_s=first - generation.admitted_s,
        decode_s=ended - first,
        first_token_s=first - started,
    )
