"""Slices in layer order, each in its own worker process: one batch in, one set of logits out.

Drives the workers one after the other (they share one machine's cores) from a thread of its own: a
hop costs two wake-ups of a blocked thread and no event loop. Opens and closes the same session in
all of them, and notices when a restart has cost one of them its KV cache. Makes no batches.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from kwaai.errors import WorkerLost
from kwaai.inference.environment import WORKER_ENVIRONMENT
from kwaai.inference.ipc import encode_header, parse_header
from kwaai.inference.spec import EngineSpec, SliceSpec, encode_slice_spec
from kwaai.inference.supervisor import Worker
from kwaai.inference.together import together
from kwaai.types import LayerRange

TIMINGS_KEPT = 4096
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Step:
    """Consecutive tokens of one session. outputs: how many of the last ones give logits."""

    session: int
    position: int
    tokens: tuple[int, ...]
    outputs: int


@dataclass(slots=True)
class SliceTimings:
    """Seconds per pass, most recent last: the whole exchange, and the worker's own computing."""

    prefill_s: deque[float] = field(default_factory=lambda: deque(maxlen=TIMINGS_KEPT))
    decode_s: deque[float] = field(default_factory=lambda: deque(maxlen=TIMINGS_KEPT))
    decode_compute_s: deque[float] = field(default_factory=lambda: deque(maxlen=TIMINGS_KEPT))


class Chain:
    """All workers of one model. Not reentrant: one step at a time."""

    def __init__(
        self,
        slices: Sequence[SliceSpec],
        engine: EngineSpec,
        environment: Mapping[str, str] = WORKER_ENVIRONMENT,
    ) -> None:
        self.slices, self.engine, self.environment = tuple(slices), engine, environment
        self.workers = [
            Worker(
                f"slice-{spec.layers}",
                {"role": "slice", "spec": encode_slice_spec(spec), "engine": asdict(engine)},
                environment,
                shared_bytes=_largest_payload(spec, engine),
            )
            for spec in slices
        ]
        self.timings = [SliceTimings() for _ in slices]
        self._opened: dict[int, tuple[int, ...]] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="chain")

    @property
    def ranges(self) -> tuple[LayerRange, ...]:
        """The layer ranges in order."""
        return tuple(spec.layers for spec in self.slices)

    @property
    def vocab(self) -> int:
        """How many logits a row has."""
        return self.slices[-1].vocab

    async def start(self) -> None:
        """Start all workers at once. Raises the first error; then none is left running."""
        try:
            await together(worker.start() for worker in self.workers)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """End all workers; a step under way gets WorkerLost."""
        await asyncio.gather(*(worker.stop() for worker in self.workers))
        self._thread.shutdown(wait=False)

    def clear_timings(self) -> None:
        """Forget what was measured so far."""
        self.timings = [SliceTimings() for _ in self.slices]

    async def wait_ready(self, timeout_s: float) -> None:
        """Wait for restarts under way. Raises WorkerLost when a worker stays down."""
        await together(worker.wait_ready(timeout_s) for worker in self.workers)

    async def open(self, session: int) -> None:
        """Give `session` a KV sequence in every slice."""
        opened = self._opened[session] = self._incarnations()
        await self._all({"op": "open", "session": session}, opened)

    async def rollback(self, session: int, position: int) -> None:
        """Forget positions from `position` on, in every slice."""
        header = {"op": "rollback", "session": session, "position": position}
        await self._all(header, self._opened.get(session, ()))

    async def close(self, session: int) -> None:
        """Give the KV sequences back."""
        await self._all({"op": "close", "session": session}, self._opened.pop(session, ()))

    async def reset(self) -> None:
        """Forget all sessions, in every slice that is up."""
        self._opened.clear()
        await self._all({"op": "reset"}, self._incarnations())

    async def step(self, steps: Sequence[Step], then: Callable[[npt.NDArray[np.float32]], T]) -> T:
        """Run one batch through all slices and return `then(logits)`.

        logits: float32 (sum of outputs, vocab), in the order of `steps`, in a buffer that the next
        step overwrites; `then` runs in the chain's thread. Raises WorkerLost when a slice died or
        has restarted since one of the sessions was opened; the sessions of the batch are then lost.
        """
        self._check_opened(steps)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, lambda: then(self._step(steps)))

    def _step(self, steps: Sequence[Step]) -> npt.NDArray[np.float32]:
        parts = [[s.session, s.position, len(s.tokens), s.outputs] for s in steps]
        tokens = [token for step in steps for token in step.tokens]
        data: memoryview | bytes = np.array(tokens, np.int32).tobytes()
        # Between two slices the cores do nothing useful: headers are made before, and read after.
        headers = [
            encode_header({"op": "step", "layers": [r.start, r.stop], "parts": parts})
            for r in self.ranges
        ]
        replies, times = [], [time.perf_counter()]
        hops = zip(self.workers, headers, self._opened[steps[0].session], strict=True)
        for worker, header, incarnation in hops:
            reply, data = worker.exchange_encoded(header, data, incarnation=incarnation)
            replies.append(reply)
            times.append(time.perf_counter())
        self._record(replies, times, decodes=len(tokens) == len(steps))
        return np.frombuffer(data, np.float32).reshape(-1, self.vocab)

    def _record(self, replies: list[bytes], times: list[float], *, decodes: bool) -> None:
        spans = zip(self.timings, replies, pairwise(times), strict=True)
        for timing, reply, (started, ended) in spans:
            if decodes:
                timing.decode_s.append(ended - started)
                timing.decode_compute_s.append(parse_header(reply)["compute_s"])
            else:
                timing.prefill_s.append(ended - started)

    def _incarnations(self) -> tuple[int, ...]:
        return tuple(worker.incarnation for worker in self.workers)

    def _check_opened(self, steps: Sequence[Step]) -> None:
        now = self._incarnations()
        for step in steps:
            if self._opened.get(step.session) != now:
                raise WorkerLost("a slice restarted and lost its cache; send the request again")

    async def _all(self, header: dict[str, object], incarnations: tuple[int, ...]) -> None:
        if not incarnations:
            raise WorkerLost("the session is not open; send the request again")

        def ask() -> None:
            for worker, incarnation in zip(self.workers, incarnations, strict=True):
                worker.exchange(header, incarnation=incarnation)

        await asyncio.get_running_loop().run_in_executor(self._thread, ask)


def _largest_payload(spec: SliceSpec, engine: EngineSpec) -> int:
    logits = spec.vocab * (engine.outputs_max or engine.sessions) if spec.head else 0
    return 4 * max(engine.batch_tokens * spec.embd, logits)
