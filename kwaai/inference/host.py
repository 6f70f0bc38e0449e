"""One slice worker that many sessions share, from here or from other machines.

Whatever waits when the worker is free is computed as one batch (batch.py chooses). Driven by the
event loop alone: no thread and no task stands between a caller and the worker's socket. Knows
sessions, positions and rows; not models, peers or text.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from copy import copy
from dataclasses import asdict, dataclass

import numpy as np

from kwaai.errors import Busy, ContextExceeded, KwaaiError, UserError, WorkerLost
from kwaai.inference.batch import Data, Piece, Ran, Rollback, Rows, Session
from kwaai.inference.environment import WORKER_ENVIRONMENT
from kwaai.inference.passes import Passes, SessionsLost
from kwaai.inference.sessions import BadPosition, UnknownSession
from kwaai.inference.spec import EngineSpec, SliceSpec, encode_slice_spec
from kwaai.inference.supervisor import Worker
from kwaai.limits import (
    COMPUTE_WEIGHT_MAX,
    HOST_QUEUE_BYTES_MAX,
    HOST_STEPS_WAITING_MAX,
    SESSION_IDLE_S,
)


@dataclass(frozen=True, slots=True)
class HostStats:
    """Now, and since the start. Zero where nothing was measured."""

    sessions_open: int
    sessions_max: int
    steps_waiting: int
    batches: int
    rows: int
    refused: int
    restarts: int
    decode_us: int
    """Median of passes of one row: everything between asking and having the answer."""
    prefill_tokens_s: float


class SliceHost:
    """A slice in a worker process of its own. Use it in the event loop's thread only."""

    def __init__(
        self,
        spec: SliceSpec,
        engine: EngineSpec,
        environment: Mapping[str, str] = WORKER_ENVIRONMENT,
        *,
        worker: Worker | None = None,
    ) -> None:
        """`worker`: instead of one that is made here, for tests."""
        self.spec, self.engine = spec, engine
        self.layers, self.head = spec.layers, spec.head
        self.takes_tokens = spec.whole or spec.embedding is not None
        self.embd, self.vocab = spec.embd, spec.vocab
        self.context_tokens, self.batch_tokens = engine.context_tokens, engine.batch_tokens
        self.outputs_max = engine.outputs_max or engine.sessions
        self.worker = worker or Worker(
            f"slice-{spec.layers}",
            {"role": "slice", "spec": encode_slice_spec(spec), "engine": asdict(engine)},
            environment,
            shared_bytes=largest_payload(spec, engine),
        )
        self._row_shape = () if self.takes_tokens else (spec.embd,)
        self._row_type = np.dtype(np.int32 if self.takes_tokens else np.float32)
        self._numbers = itertools.count(1)
        self._passes = Passes(self.worker, spec, engine.batch_tokens, self.outputs_max)

    @property
    def backend(self) -> str:
        """What computes: CPU, or a GPU's name."""
        return str(self.worker.info.get("backend", "CPU"))

    @property
    def pid(self) -> int | None:
        """The worker's process id while it runs."""
        return self.worker.pid

    @property
    def incarnation(self) -> int:
        """Grows with each start of the worker: sessions do not outlive one."""
        return self.worker.incarnation

    @property
    def state(self) -> str:
        """stopped, starting, ready, restarting, or failed for good."""
        return self.worker.state

    @property
    def sessions_open(self) -> int:
        """Sessions that hold a KV sequence, or are being opened."""
        return len(self._passes.sessions)

    @property
    def sessions_free(self) -> int:
        """How many more can be opened now."""
        return max(0, self.engine.sessions - len(self._passes.sessions))

    @property
    def stats(self) -> HostStats:
        """Counters and measurements."""
        p = self._passes
        rows, seconds = sum(rows for rows, _ in p.prefill), sum(s for _, s in p.prefill)
        decode_s = statistics.median(p.decode_s) if p.decode_s else 0.0
        return HostStats(
            sessions_open=len(p.sessions),
            sessions_max=self.engine.sessions,
            steps_waiting=p.waiting,
            batches=p.batches,
            rows=p.rows,
            refused=p.refused,
            restarts=self.worker.restarts_total,
            decode_us=round(decode_s * 1e6),
            prefill_tokens_s=rows / seconds if seconds > 0 else 0.0,
        )

    def forget_measures(self) -> None:
        """Measure the speeds anew from now on."""
        self._passes.decode_s.clear()
        self._passes.prefill.clear()

    def on_sessions_lost(self, listener: SessionsLost) -> Callable[[], None]:
        """Have `listener` told of lost sessions. Returns what takes it away again."""
        self._passes.listeners.append(listener)
        return lambda: self._passes.listeners.remove(listener)

    async def start(self) -> None:
        """Start the worker and load the slice. Raises what the load raised."""
        await self.worker.start()

    async def stop(self) -> None:
        """End the worker. Whatever waits gets WorkerLost; nobody else is told. Idempotent."""
        self._passes.listeners.clear()
        await self.worker.stop()
        self._passes.lose_all(WorkerLost("the slice is stopped", retry_after_s=5.0))

    async def open(self, session: Hashable, weight: int = COMPUTE_WEIGHT_MAX) -> None:
        """Give `session` a KV sequence of its own. `weight`: of its steps, where not all that wait
        fit a pass; 1 to COMPUTE_WEIGHT_MAX. Raises Busy when all are taken, WorkerLost, and
        UserError for one that is open.
        """
        if session in self._passes.sessions:
            raise UserError("the session is open already", param="session")
        if not self.sessions_free and not self._has_idle():
            raise Busy("every session of this slice is taken; try again later", retry_after_s=1.0)
        entry = Session(next(self._numbers), session, weight, used_s=time.perf_counter())
        self._passes.gone.pop(session, None)
        self._passes.sessions[session] = entry
        try:
            reply = await self._passes.ask(b'{"op":"open","session":%d}' % entry.number)
        except BaseException as error:
            if self._passes.sessions.get(session) is entry:
                del self._passes.sessions[session]
            closed = UnknownSession("the session could not be opened", param="session")
            self._passes.fail_queue(entry, closed)
            if not isinstance(error, KwaaiError):  # cancelled: the worker may have opened it
                self._close_at_worker(entry)
            raise
        self._passes.forget_expired(reply)

    async def run(self, session: Hashable, position: int, data: Data, outputs: int = 0) -> Rows:
        """As `submit`, and wait. Cancelling takes a step that waits out of the queue."""
        return (await self.submit(session, position, data, outputs)).rows

    def submit(
        self, session: Hashable, position: int, data: Data, outputs: int = 0
    ) -> asyncio.Future[Ran]:
        """Queue a step: append `data` at `position`. Steps of a session run in this order.

        data: int32 (count,) tokens for a slice that takes tokens, else float32 (count, embd); not
        to be changed until the step is done. outputs: how many of the last rows give logits; only
        where the head is. Gives float32 (count, embd), or (outputs, vocab) from the head.

        Raises UserError and its leaves for what cannot be (the future raises them for values: a
        token that is none, a number that is not finite), WorkerLost for a session that a restart
        has cost, Busy. Cancelling the future takes a step that waits out of the queue; the session
        then stands where it stood, and steps queued behind it fail. One under way is let finish.
        """
        entry = self._entry(session)
        self._check(entry, position, data, outputs)
        waiting = len(entry.queue)
        if waiting >= HOST_STEPS_WAITING_MAX or self._passes.queued_bytes > HOST_QUEUE_BYTES_MAX:
            raise Busy(f"{waiting} steps of this session wait; try again", retry_after_s=1.0)
        future: asyncio.Future[Ran] = asyncio.get_running_loop().create_future()
        wanted = outputs if self.head else 0
        data = data if data.flags.c_contiguous else data.copy()
        piece = Piece(position, data, wanted, future, time.perf_counter())
        self._passes.submit(entry, piece)
        return future

    async def rollback(self, session: Hashable, position: int) -> None:
        """Forget positions from `position` on, when the steps queued before have run."""
        entry = self._entry(session)
        planned = self._passes.planned(entry)
        if not 0 <= position <= planned:
            raise BadPosition(
                f"the session stands at position {planned}, cannot roll back to {position}",
                param="position",
            )
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._passes.roll_back(entry, Rollback(position, future))
        await future

    async def close(self, session: Hashable) -> None:
        """Give the KV sequence back. Steps that wait are dropped; one under way is let finish.
        Idempotent, and no error where the worker is gone.
        """
        self._passes.gone.pop(session, None)
        entry = self._passes.sessions.pop(session, None)
        if entry is None:
            return
        self._passes.fail_queue(entry, UnknownSession("the session was closed", param="session"))
        await asyncio.wait([self._close_at_worker(entry)])

    def _entry(self, session: Hashable) -> Session:
        entry = self._passes.sessions.get(session)
        if entry is not None:
            return entry
        if (lost := self._passes.gone.get(session)) is not None:
            raise copy(lost)  # an error that is raised again and again keeps every frame
        raise UnknownSession("the session is not open here: open it and prefill", param="session")

    def _has_idle(self) -> bool:
        """Whether the worker would find a session to expire, to make room."""
        oldest = min((s.used_s for s in self._passes.sessions.values()), default=0.0)
        return time.perf_counter() - oldest > SESSION_IDLE_S

    def _check(self, entry: Session, position: int, data: Data, outputs: int) -> None:
        """Check all but the values: the worker does. It refuses a batch with a bad one before it
        computes anything, and the steps of that batch are then run one by one.
        """
        count = len(data)
        if data.shape[1:] != self._row_shape or data.dtype != self._row_type or not count:
            raise UserError(
                f"this slice takes {'token ids' if self.takes_tokens else f'rows of {self.embd}'} "
                f"({self._row_type}), got {data.shape} of {data.dtype}",
                param="data",
            )
        if self.head and not 0 <= outputs <= min(count, self.outputs_max):
            raise UserError(
                f"{outputs} outputs of {count} rows; at most {self.outputs_max} in one step",
                param="outputs",
            )
        planned = self._passes.planned(entry)
        if position != planned:
            raise BadPosition(
                f"the session stands at position {planned}, the step starts at {position}",
                param="position",
            )
        if position + count > self.context_tokens:
            raise ContextExceeded(
                f"{position + count} tokens do not fit the context of {self.context_tokens}; "
                "shorten the prompt or raise context_tokens"
            )

    def _close_at_worker(self, entry: Session) -> asyncio.Future[bytes]:
        future = self._passes.ask(b'{"op":"close","session":%d}' % entry.number)
        # That the worker is gone, or has closed the session itself, is no error.
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        return future


def largest_payload(spec: SliceSpec, engine: EngineSpec) -> int:
    """Return the bytes of the largest request or reply of a slice."""
    logits = spec.vocab * (engine.outputs_max or engine.sessions) if spec.head else 0
    return 4 * max(engine.batch_tokens * spec.embd, logits)
