"""The passes of one slice worker: what runs next, and what comes of it.

Gives the worker one request at a time, from the event loop: requests about sessions first, then
rollbacks, then batches (batch.py chooses). Checks nothing that a caller says: host.py does.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Sequence
from copy import copy

import numpy as np

from kwaai.errors import KwaaiError, WorkerLost
from kwaai.inference.batch import Part, Piece, Ran, Rollback, Session, next_part, plan_batch
from kwaai.inference.ipc import FrameError, parse_header
from kwaai.inference.loopstream import Failed, Replied
from kwaai.inference.sessions import BadPosition, UnknownSession
from kwaai.inference.spec import SliceSpec
from kwaai.inference.supervisor import Worker
from kwaai.limits import HOST_LOST_SESSIONS_MAX

PREFILL_ROWS_MIN = 16  # passes of fewer rows say little about the speed of a prompt
MEASURES_KEPT = 64  # so few that a busy minute is soon forgotten

SessionsLost = Callable[[Sequence[Hashable], KwaaiError], None]
"""Told which sessions are no more, and why: the worker restarted, or they were idle for long."""


class Passes:
    """Sessions, what waits in them, and the worker that computes it."""

    def __init__(
        self, worker: Worker, spec: SliceSpec, batch_tokens: int, outputs_max: int
    ) -> None:
        self._worker, self._head = worker, spec.head
        self._batch_tokens, self._outputs_max = batch_tokens, outputs_max
        self._width = spec.vocab if spec.head else spec.embd
        self._step_prefix = b'{"op":"step","layers":[%d,%d],"parts":[' % (
            spec.layers.start,
            spec.layers.stop,
        )
        self.sessions: dict[Hashable, Session] = {}
        self.gone: OrderedDict[Hashable, KwaaiError] = OrderedDict()
        """Sessions that were lost, and why."""
        self.listeners: list[SessionsLost] = []
        self.waiting = self.queued_bytes = 0
        """Steps and rollbacks that are not through, and the bytes of their rows."""
        self._parts: list[Part] = []
        self._sent_s = 0.0
        self.batches = self.rows = self.refused = 0
        self.decode_s: deque[float] = deque(maxlen=MEASURES_KEPT)
        self.prefill: deque[tuple[int, float]] = deque(maxlen=MEASURES_KEPT)
        """Rows and seconds of passes with many rows."""
        self._commands: deque[tuple[bytes, asyncio.Future[bytes]]] = deque()
        self._is_busy = self._is_pump_due = False
        worker.on_lost = self.lose_all

    def submit(self, entry: Session, piece: Piece) -> None:
        """Queue a step."""
        entry.queue.append(piece)
        self.waiting += 1
        self.queued_bytes += piece.data.nbytes
        if self._is_busy:
            return
        if len(self.sessions) == 1 and len(entry.queue) == 1 and not self._commands:
            self._send([next_part(entry, piece, self._batch_tokens)])  # as _pump would, sooner
        else:
            self._wake()

    def roll_back(self, entry: Session, rollback: Rollback) -> None:
        """Queue a rollback."""
        entry.queue.append(rollback)
        self.waiting += 1
        self._wake()

    def planned(self, entry: Session) -> int:
        """Where a session will stand when all that waits has run; cancelled steps do not."""
        while entry.queue:
            last = entry.queue[-1]
            if not last.future.cancelled() or (isinstance(last, Piece) and last.sent_s):
                return last.end
            entry.queue.pop()
            self.waiting -= 1
            if isinstance(last, Piece):
                self.queued_bytes -= last.data.nbytes
        return entry.position

    def ask(self, header: bytes) -> asyncio.Future[bytes]:
        """Queue a request about a session, ahead of all steps. Gives the reply's header."""
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._commands.append((header, future))
        self._wake()
        return future

    def _wake(self) -> None:
        """See to it that what waits is run. With several sessions a moment later: the steps that
        came together in one message, or answer one batch, run together too.
        """
        if self._is_busy or self._is_pump_due:
            return
        if len(self.sessions) > 1:
            self._is_pump_due = True
            asyncio.get_running_loop().call_soon(self._pump)
        else:
            self._pump()

    def _pump(self) -> None:
        """Give the worker the next thing to do, if it is free and there is one."""
        self._is_pump_due = False
        while self._commands and not self._is_busy:
            header, future = self._commands.popleft()
            if not future.done():
                self._command(header, future)
        if self._is_busy:
            return
        waiting: list[tuple[Session, Piece]] = []
        for entry in self.sessions.values():
            head = self._first(entry)
            if isinstance(head, Rollback):
                self._run_rollback(entry, head)
                return
            if head is not None:
                waiting.append((entry, head))
        if waiting:
            self._send(plan_batch(waiting, self._batch_tokens, self._outputs_max))

    def _first(self, entry: Session) -> Piece | Rollback | None:
        """The step of a session that is next; those that cannot run any more are dropped."""
        while entry.queue:
            head = entry.queue[0]
            if not head.future.done():
                if isinstance(head, Piece):
                    fits = head.position + head.done == entry.position
                else:
                    fits = head.position <= entry.position
                if fits:
                    return head
                head.future.set_exception(
                    BadPosition("a step before this one was not carried out", param="position")
                )
            self._remove_first(entry)
        return None

    def _remove_first(self, entry: Session) -> None:
        head = entry.queue.popleft()
        self.waiting -= 1
        if isinstance(head, Piece):
            self.queued_bytes -= head.data.nbytes

    def _send(self, parts: list[Part]) -> None:
        now_s = time.perf_counter()
        texts = []
        for part in parts:
            piece, session = part.piece, part.session
            piece.sent_s = piece.sent_s or now_s
            # A session's position is where its first piece goes on.
            fields = session.number, session.position, part.count, part.outputs
            texts.append(b"[%d,%d,%d,%d]" % fields)
        data = parts[0].data if len(parts) == 1 else np.concatenate([part.data for part in parts])
        self._parts, self._sent_s = parts, now_s
        header = self._step_prefix + b",".join(texts) + b"]}"
        self._post(header, data.data.cast("B"), self._finish, self._refuse)

    def _finish(self, text: bytes, payload: memoryview) -> None:
        now_s = time.perf_counter()
        parts, seconds = self._parts, now_s - self._sent_s
        counts = [part.outputs if self._head else part.count for part in parts]
        if len(payload) != 4 * sum(counts) * self._width:
            raise FrameError(f"{len(payload)} bytes for {sum(counts)} rows")
        self._measure(sum([part.count for part in parts]), seconds)
        compute_s = _compute_s(text)
        at = 0
        for part, count in zip(parts, counts, strict=True):
            piece, entry = part.piece, part.session
            stop = at + 4 * count * self._width
            own = bytearray(payload[at:stop])  # and with one call of NumPy: half the time
            piece.rows.append(np.ndarray((count, self._width), np.float32, own))
            at = stop
            piece.done += part.count
            piece.pass_s += seconds
            piece.compute_s += compute_s
            entry.position += part.count
            entry.used_s = now_s
            if piece.left == 0:
                self._deliver(entry, piece, now_s)
        self._parts = []
        self._go_on()

    def _measure(self, rows: int, seconds: float) -> None:
        self.batches += 1
        self.rows += rows
        if rows == 1:
            self.decode_s.append(seconds)
        elif rows >= PREFILL_ROWS_MIN:
            self.prefill.append((rows, seconds))

    def _deliver(self, entry: Session, piece: Piece, now_s: float) -> None:
        if entry.queue and entry.queue[0] is piece:  # else it was closed in the meantime
            self._remove_first(entry)
        if not piece.future.done():
            rows = piece.rows[0] if len(piece.rows) == 1 else np.concatenate(piece.rows)
            queued_s = now_s - piece.asked_s - piece.pass_s
            piece.future.set_result(Ran(rows, queued_s, piece.pass_s, piece.compute_s))

    def _refuse(self, error: KwaaiError) -> None:
        """The worker refused a batch, before it computed anything."""
        parts, self._parts = self._parts, []
        if not isinstance(error, WorkerLost):
            self.refused += 1
            self._blame(parts, error)
        self._go_on(error)

    def _blame(self, parts: list[Part], error: KwaaiError) -> None:
        if len(parts) > 1:  # one of them is at fault: find out which
            for part in parts:
                part.piece.is_alone = True
            return
        entry, piece = parts[0].session, parts[0].piece
        if isinstance(error, UnknownSession) or error.code == UnknownSession.code:
            self._lose([entry], error)
            return
        if not piece.future.done():
            piece.future.set_exception(error)
        if entry.queue and entry.queue[0] is piece:
            self._remove_first(entry)

    def _run_rollback(self, entry: Session, rollback: Rollback) -> None:
        def replied(text: bytes, payload: memoryview) -> None:
            entry.position, entry.used_s = rollback.position, time.perf_counter()
            if entry.queue and entry.queue[0] is rollback:
                self._remove_first(entry)
            if not rollback.future.done():
                rollback.future.set_result(None)
            self._go_on()

        def failed(error: KwaaiError) -> None:
            if entry.queue and entry.queue[0] is rollback:
                self._remove_first(entry)
            if not rollback.future.done():
                rollback.future.set_exception(error)
            self._go_on(error)

        header = b'{"op":"rollback","session":%d,"position":%d}'
        self._post(header % (entry.number, rollback.position), b"", replied, failed)

    def _command(self, header: bytes, future: asyncio.Future[bytes]) -> None:
        def replied(text: bytes, payload: memoryview) -> None:
            if not future.done():
                future.set_result(text)
            self._go_on()

        def failed(error: KwaaiError) -> None:
            if not future.done():
                future.set_exception(error)
            self._go_on(error)

        self._post(header, b"", replied, failed)

    def forget_expired(self, reply: bytes) -> None:
        """The worker has made room: sessions that were idle for long are no more."""
        expired = frozenset(parse_header(reply).get("expired", ()))
        if expired:
            entries = [s for s in self.sessions.values() if s.number in expired]
            self._lose(entries, UnknownSession("the session was idle for too long: open it anew"))

    def _post(
        self,
        header: bytes,
        payload: memoryview | bytes,
        replied: Replied,
        failed: Failed,
    ) -> None:
        """Ask the worker. Both callbacks say when they are through: `_go_on`."""
        self._is_busy = True
        try:
            self._worker.post(header, payload, replied, failed)
        except WorkerLost as error:  # it has died, and its end was not seen yet
            failed(error)
            self.lose_all(error)

    def _go_on(self, error: KwaaiError | None = None) -> None:
        """The worker is free. When it is lost, `lose_all` comes next."""
        self._is_busy = False
        if (self.waiting or self._commands) and not isinstance(error, WorkerLost):
            self._wake()

    def lose_all(self, error: WorkerLost) -> None:
        """The worker's cache is gone, and all sessions with it."""
        commands, self._commands = self._commands, deque()
        for _, future in commands:
            if not future.done():
                future.set_exception(error)
        self._lose(list(self.sessions.values()), error)

    def _lose(self, entries: Sequence[Session], error: KwaaiError) -> None:
        """These sessions are no more: fail what waits, remember why, tell who listens."""
        for entry in entries:
            self.sessions.pop(entry.key, None)
            self.fail_queue(entry, error)
            self.gone[entry.key] = error
        while len(self.gone) > HOST_LOST_SESSIONS_MAX:
            self.gone.popitem(last=False)
        if entries:
            for listener in tuple(self.listeners):
                listener([entry.key for entry in entries], error)

    def fail_queue(self, entry: Session, error: KwaaiError) -> None:
        """Give `error` to everything that waits in a session."""
        while entry.queue:
            future = entry.queue[0].future
            if not future.done():
                future.set_exception(copy(error))
            self._remove_first(entry)


def _compute_s(reply: bytes) -> float:
    """Return how long the worker says it computed, the last field of its reply; 0 where it does not
    say.
    """
    _, named, seconds = reply.rpartition(b'"compute_s":')
    try:
        return float(seconds[:-1]) if named else 0.0
    except ValueError:
        raise FrameError(f"{seconds[:32]!r} is no time") from None
