"""Continuous batching over one chain: sessions share passes, new ones join between two passes.

Owns the loop that feeds the chain. Every generation is a bounded queue of tokens to its reader;
a reader that goes away frees its session at the next pass. Knows tokens, not text.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from kwaai.errors import Busy, ContextExceeded, KwaaiError, UserError, WorkerLost
from kwaai.inference.chain import Chain, Step
from kwaai.inference.sampling import Sampled, Sampler
from kwaai.limits import QUEUE_REQUESTS_MAX
from kwaai.log import get_logger

log = get_logger(__name__)

RESTART_WAIT_S = 60.0


@dataclass(eq=False, slots=True)
class Generation:
    """One request under way. Times are `time.perf_counter()` seconds."""

    session: int
    prompt: tuple[int, ...]
    sampler: Sampler
    tokens_max: int
    ends: frozenset[int]
    out: asyncio.Queue[Sampled | KwaaiError] = field(default_factory=asyncio.Queue)
    position: int = 0
    last: int | None = None
    sampled: int = 0
    cancelled: bool = False
    submitted_s: float = field(default_factory=time.perf_counter)
    admitted_s: float = 0.0
    first_s: float = 0.0

    @property
    def done(self) -> bool:
        """Nothing more is sampled: an end token, the budget spent, or nobody listens."""
        return self.cancelled or self.sampled >= self.tokens_max or self.last in self.ends


@dataclass(slots=True)
class EngineCounters:
    """Since the start. `batch_rows` over `batches` says how well passes are shared."""

    batches: int = 0
    batch_rows: int = 0
    prompt_tokens: int = 0
    sampled_tokens: int = 0
    failures: int = 0


class Engine:
    """The batching loop of one chain."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._ids = itertools.count(1)
        self._waiting: deque[Generation] = deque()
        self._running: list[Generation] = []
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.counters = EngineCounters()

    @property
    def active(self) -> int:
        """Generations that hold a session."""
        return len(self._running)

    @property
    def queued(self) -> int:
        """Generations that wait for one."""
        return len(self._waiting)

    @property
    def kv_tokens(self) -> int:
        """KV cells in use, in every slice."""
        return sum(generation.position for generation in self._running)

    def start(self) -> None:
        """Start the loop; the chain has been started."""
        self._task = asyncio.create_task(self._loop(), name="engine")

    async def stop(self) -> None:
        """End the loop. Generations under way get an error."""
        if self._task:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._fail_all(WorkerLost("the node is stopping", retry_after_s=5.0))

    def submit(
        self,
        prompt: Sequence[int],
        sampler: Sampler,
        tokens_max: int,
        ends: frozenset[int] = frozenset(),
    ) -> Generation:
        """Queue a generation of at most `tokens_max` tokens (at least 1) after `prompt`.

        It ends early with a token out of `ends`, which is given to the reader too.

        Raises ContextExceeded, Busy, UserError for an empty prompt, or WorkerLost when stopped.
        """
        if self._task is None or self._task.done():
            raise WorkerLost("the node is stopping", retry_after_s=5.0)
        context = self._chain.engine.context_tokens
        if not prompt:
            raise UserError("the prompt is empty", param="prompt")
        if len(prompt) + 1 > context:
            raise ContextExceeded(
                f"the prompt has {len(prompt)} tokens, the context holds {context} with the "
                "answer; shorten it (the setting context_tokens goes up to what the model allows)",
                param="prompt",
            )
        if len(self._waiting) >= QUEUE_REQUESTS_MAX:
            raise Busy(f"{QUEUE_REQUESTS_MAX} requests are waiting; try again", retry_after_s=2.0)
        room = context - len(prompt)
        generation = Generation(
            next(self._ids), tuple(prompt), sampler, min(tokens_max, room), ends
        )
        self._waiting.append(generation)
        self._wake.set()
        return generation

    async def tokens(self, generation: Generation) -> AsyncGenerator[Sampled, None]:
        """Yield its tokens. Closing the iterator cancels the generation. Raises its error."""
        try:
            for _ in range(generation.tokens_max):
                item = await generation.out.get()
                if isinstance(item, KwaaiError):
                    raise item
                yield item
                if item.token in generation.ends:
                    return
        finally:
            generation.cancelled = True
            self._wake.set()

    async def _loop(self) -> None:
        while True:
            try:
                await self._turn()
            except KwaaiError as error:
                await self._recover(error)
            except Exception:  # the service's boundary: nobody may be left waiting
                log.exception("engine_turn_failed")
                await self._recover(KwaaiError("the engine failed; the node's log says why"))

    async def _turn(self) -> None:
        await self._sweep()
        await self._admit()
        if batch := self._plan():
            await self._run(batch)
            return
        self._wake.clear()
        if not self._waiting and not any(g.cancelled for g in self._running):
            await self._wake.wait()

    async def _recover(self, error: KwaaiError) -> None:
        """A pass failed: all sessions that were in it are lost; the next ones must find a clean
        chain.
        """
        log.warning("engine_pass_failed", error=error.message, sessions=len(self._running))
        self.counters.failures += 1
        self._fail_all(error, waiting=False)
        try:
            await self._chain.wait_ready(RESTART_WAIT_S)
            await self._chain.reset()
        except KwaaiError as final:
            self._fail_all(final)
            # The supervisor goes on restarting, or has given up; look again when somebody asks.
            self._wake.clear()
            await self._wake.wait()

    def _fail_all(self, error: KwaaiError, *, waiting: bool = True) -> None:
        failed = self._running + (list(self._waiting) if waiting else [])
        self._running.clear()
        if waiting:
            self._waiting.clear()
        for generation in failed:
            generation.out.put_nowait(error)

    async def _sweep(self) -> None:
        for generation in [g for g in self._running if g.done]:
            self._running.remove(generation)
            await self._chain.close(generation.session)
        self._waiting = deque(g for g in self._waiting if not g.cancelled)

    async def _admit(self) -> None:
        while self._waiting and len(self._running) < self._chain.engine.sessions:
            await self._chain.open(self._waiting[0].session)
            generation = self._waiting.popleft()
            generation.admitted_s = time.perf_counter()
            self._running.append(generation)

    def _plan(self) -> list[tuple[Generation, Step]]:
        """One decode step of every session that has begun, and equal shares of the rows that are
        left for the prompts, so that a short one need not wait for a long one.
        """
        rows = self._chain.engine.batch_tokens
        batch: list[tuple[Generation, Step]] = []
        for g in self._running:
            if g.last is not None and len(batch) < rows:
                batch.append((g, Step(g.session, g.position, (g.last,), 1)))
        rows -= len(batch)
        prefilling = [g for g in self._running if g.last is None]
        prefilling.sort(key=lambda g: len(g.prompt) - g.position)  # what is left of a share is used
        for left, g in zip(range(len(prefilling), 0, -1), prefilling, strict=True):
            if rows > 0:
                piece = g.prompt[g.position : g.position + max(1, rows // left)]
                final = g.position + len(piece) == len(g.prompt)
                batch.append((g, Step(g.session, g.position, piece, int(final))))
                rows -= len(piece)
        return batch

    async def _run(self, batch: list[tuple[Generation, Step]]) -> None:
        samplers = [g.sampler for g, step in batch if step.outputs]

        def sample(logits: npt.NDArray[np.float32]) -> list[Sampled | KwaaiError]:
            return [_sample(s, row) for s, row in zip(samplers, logits, strict=True)]

        results = iter(await self._chain.step([step for _, step in batch], sample))
        self.counters.batches += 1
        self.counters.batch_rows += sum(len(step.tokens) for _, step in batch)
        for generation, step in batch:
            generation.position += len(step.tokens)
            if generation.last is None:
                self.counters.prompt_tokens += len(step.tokens)
            if step.outputs:
                self._deliver(generation, next(results))

    def _deliver(self, generation: Generation, result: Sampled | KwaaiError) -> None:
        generation.out.put_nowait(result)
        if isinstance(result, KwaaiError):
            generation.cancelled = True
            return
        if generation.last is None:
            generation.first_s = time.perf_counter()
        generation.last = result.token
        generation.sampled += 1
        self.counters.sampled_tokens += 1


def _sample(sampler: Sampler, logits: npt.NDArray[np.float32]) -> Sampled | KwaaiError:
    try:
        return sampler.sample(logits)
    except KwaaiError as error:  # this generation's own trouble; the others of the pass go on
        return error
