"""One worker, many sessions: what shares a pass, in which order, and what a failure costs whom."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwaai.errors import Busy, ContextExceeded, KwaaiError, PeerError, UserError, WorkerLost
from kwaai.inference.batch import Piece, Session, plan_batch
from kwaai.inference.host import SliceHost
from kwaai.inference.ipc import FrameError
from kwaai.inference.sessions import BadPosition, SessionTable, UnknownSession
from kwaai.inference.spec import EngineSpec, SliceSpec
from kwaai.limits import HOST_STEPS_WAITING_MAX
from kwaai.types import LayerRange

EMBD, VOCAB, BATCH, CONTEXT, SESSIONS = 4, 9, 8, 128, 4
Rows = npt.NDArray[np.float32]


class FakeWorker:
    """Answers when the test says so: rows plus one, or a token's number in each logit."""

    def __init__(self, spec: SliceSpec) -> None:
        self.spec = spec
        self.incarnation, self.restarts_total, self.pid = 1, 0, 1
        self.state, self.info = "ready", dict[str, Any]()
        self.on_lost: Callable[[WorkerLost], None] = lambda error: None
        self.table = SessionTable(sessions=SESSIONS, context_tokens=CONTEXT, idle_s=100.0)
        self.now_s = 0.0
        self.passes: list[list[list[int]]] = []
        self.under_way: tuple[bytes, bytes, Any, Any] | None = None
        self.holds_steps = True
        self._buffer = bytearray(4 * BATCH * VOCAB)

    async def start(self) -> None:
        self.state = "ready"

    async def stop(self) -> None:
        self.state = "stopped"
        if self.under_way:
            self.fail(WorkerLost("worker is stopped"))

    def post(self, header: bytes, payload: Any, replied: Any, failed: Any) -> None:
        assert self.under_way is None, "asked twice"
        if self.state != "ready":
            raise WorkerLost(f"worker is {self.state}")
        self.under_way = header, bytes(payload), replied, failed
        if not self.holds_steps or b'"step"' not in header:
            asyncio.get_running_loop().call_soon(self.answer)

    def fail(self, error: KwaaiError) -> None:
        assert self.under_way is not None
        failed, self.under_way = self.under_way[3], None
        failed(error)

    def die(self) -> None:
        """As Worker does: whoever waits hears it, then `on_lost`."""
        self.state, lost = "restarting", WorkerLost("worker died")
        if self.under_way:
            self.fail(lost)
        self.on_lost(lost)

    def restart(self) -> None:
        self.state, self.incarnation = "ready", self.incarnation + 1
        self.table = SessionTable(sessions=SESSIONS, context_tokens=CONTEXT, idle_s=100.0)

    def answer(self) -> None:
        """Answer what is under way, if anything is."""
        if self.under_way is None:
            return
        text, payload, replied, failed = self.under_way
        header = json.loads(text)
        self.under_way = None
        try:
            reply, data = self._compute(header, payload)
        except KwaaiError as error:
            failed(error)
            return
        replied(json.dumps(reply).encode(), data)

    def _compute(self, header: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], memoryview]:
        if header["op"] == "open":
            expired = self.table.expire(self.now_s)
            self.table.open(header["session"], self.now_s)
            return {"ok": True, "expired": list(expired)}, memoryview(b"")
        if header["op"] == "close":
            self.table.close(header["session"])
            return {"ok": True}, memoryview(b"")
        if header["op"] == "rollback":
            self.table.rollback(header["session"], header["position"], self.now_s)
            return {"ok": True}, memoryview(b"")
        parts = header["parts"]
        assert header["layers"] == [self.spec.layers.start, self.spec.layers.stop]
        for session, position, count, _ in parts:
            self.table.check_step(session, position, count)
        assert sum(count for _, _, count, _ in parts) <= BATCH
        result = self._rows(parts, payload)
        for session, _, count, _ in parts:
            self.table.advance(session, count, self.now_s)
        self.passes.append(parts)
        view = memoryview(self._buffer)[: result.nbytes]  # the next answer overwrites it
        view[:] = result.tobytes()
        return {"ok": True, "rows": len(result)}, view

    def _rows(self, parts: list[list[int]], payload: bytes) -> Rows:
        if not self.spec.head:
            rows = np.frombuffer(payload, np.float32).reshape(-1, EMBD)
            if not np.isfinite(rows).all():
                raise PeerError("not finite")
            return rows + np.float32(1)
        rows, at, out = np.frombuffer(payload, np.float32).reshape(-1, EMBD), 0, []
        for _, _, count, outputs in parts:
            at += count
            out += [np.full(VOCAB, row[0], np.float32) for row in rows[at - outputs : at]]
        return np.array(out, np.float32).reshape(-1, VOCAB)


def make_host(*, head: bool = False) -> tuple[SliceHost, FakeWorker]:
    spec = SliceSpec("x.gguf", LayerRange(2, 4), 4 if head else 9, EMBD, VOCAB, head)
    worker = FakeWorker(spec)
    engine = EngineSpec(CONTEXT, SESSIONS, batch_tokens=BATCH)
    return SliceHost(spec, engine, worker=worker), worker  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of such a batch is a long piece already."""
    monkeypatch.setattr("kwaai.inference.batch.SHORT_ROWS", BATCH // 2)


def rows(count: int, start: float = 0.0) -> Rows:
    return np.arange(start, start + count * EMBD, dtype=np.float32).reshape(count, EMBD)


async def turns(count: int = 6) -> None:
    """Let everything that is due run."""
    for _ in range(count):
        await asyncio.sleep(0)


async def until_done(worker: FakeWorker, *futures: asyncio.Future[Any]) -> None:
    """Answer passes until all are done."""
    for _ in range(200):
        worker.answer()
        await turns()
        if all(future.done() for future in futures):
            return
    raise AssertionError("some steps are never done")


async def test_a_step_is_sent_at_once_and_its_rows_are_the_callers_own() -> None:
    host, worker = make_host()
    await host.open("a")
    first = host.submit("a", 0, rows(3))
    assert worker.under_way is not None
    second = host.submit("a", 3, rows(2, 50.0))
    await until_done(worker, first, second)
    assert np.array_equal(first.result().rows, rows(3) + 1)
    assert np.array_equal(second.result().rows, rows(2, 50.0) + 1)
    assert first.result().rows.flags.writeable
    assert second.result().queued_s > 0
    assert [[p[1:] for p in parts] for parts in worker.passes] == [[[0, 3, 0]], [[3, 2, 0]]]


async def test_what_waits_together_runs_together_decode_before_prefill() -> None:
    host, worker = make_host()
    for key in "abc":
        await host.open(key)
    running = host.submit("a", 0, rows(1))
    await turns()
    steps = [
        host.submit("b", 0, rows(6)),
        host.submit("b", 6, rows(2)),
        host.submit("a", 1, rows(1)),
        host.submit("c", 0, rows(1)),
    ]
    await until_done(worker, running, *steps)
    sizes = [[count for _, _, count, _ in parts] for parts in worker.passes]
    assert sizes == [[1], [1, 1, 6], [2]]
    assert np.array_equal(steps[0].result().rows, rows(6) + 1)


async def test_a_piece_that_did_not_fit_goes_first_in_the_next_pass() -> None:
    host, worker = make_host()
    for key in "ab":
        await host.open(key)
    running = host.submit("a", 0, rows(1))
    await turns()
    steps = [host.submit("b", 0, rows(BATCH))]
    steps += [host.submit("a", 1 + n, rows(1)) for n in range(4)]
    await until_done(worker, running, *steps)
    sizes = [[count for _, _, count, _ in parts] for parts in worker.passes]
    assert sizes == [[1], [1], [BATCH], [1], [1], [1]]


async def test_a_piece_larger_than_a_batch_takes_several_passes() -> None:
    host, worker = make_host(head=True)
    await host.open("a")
    data = rows(2 * BATCH + 3)
    step = host.submit("a", 0, data, 4)
    await until_done(worker, step)
    assert [[p[1:] for p in parts] for parts in worker.passes] == [
        [[0, BATCH, 0]],
        [[BATCH, BATCH, 1]],
        [[2 * BATCH, 3, 3]],
    ]
    expected = [[value] * VOCAB for value in data[-4:, 0].tolist()]
    assert step.result().rows.tolist() == expected
    none = host.submit("a", len(data), rows(2), 0)
    await until_done(worker, none)
    assert none.result().rows.shape == (0, VOCAB)


async def test_one_bad_step_does_not_fail_the_others_of_its_batch() -> None:
    host, worker = make_host()
    for key in "abc":
        await host.open(key)
    running = host.submit("a", 0, rows(1))
    await turns()
    bad = host.submit("b", 0, np.full((1, EMBD), np.nan, np.float32))
    behind = host.submit("b", 1, rows(1))
    good = [host.submit("a", 1, rows(1)), host.submit("c", 0, rows(2))]
    await until_done(worker, running, bad, behind, *good)
    assert isinstance(bad.exception(), PeerError)
    assert isinstance(behind.exception(), BadPosition)
    assert [step.exception() for step in good] == [None, None]
    again = host.submit("b", 0, rows(1))
    await until_done(worker, again)
    assert host.stats.refused == 2


@pytest.mark.parametrize(
    ("position", "data", "outputs", "error"),
    [
        (0, rows(1)[:, :2], 0, UserError),
        (0, rows(1).astype(np.float64), 0, UserError),
        (0, rows(0), 0, UserError),
        (0, rows(2).reshape(-1), 0, UserError),
        (0, rows(1), 2, UserError),
        (0, rows(8), SESSIONS + 1, UserError),
        (0, rows(1), -1, UserError),
        (1, rows(1), 0, BadPosition),
        (0, rows(CONTEXT + 1), 0, ContextExceeded),
    ],
)
async def test_what_cannot_be_is_refused_at_once(
    position: int, data: Rows, outputs: int, error: type[KwaaiError]
) -> None:
    host, worker = make_host(head=True)
    await host.open("a")
    with pytest.raises(error):
        host.submit("a", position, data, outputs)
    assert worker.under_way is None
    with pytest.raises(UnknownSession):
        host.submit("b", 0, rows(1))


async def test_a_cancelled_step_leaves_the_queue_and_its_place_can_be_taken() -> None:
    host, worker = make_host()
    await host.open("a")
    running = asyncio.ensure_future(host.run("a", 0, rows(1)))
    await turns()
    waiting = asyncio.ensure_future(host.run("a", 1, rows(2)))
    await turns()
    waiting.cancel()
    await turns()
    other = host.submit("a", 1, rows(1, 9.0))
    await until_done(worker, running, other)
    assert [[p[1:] for p in parts] for parts in worker.passes] == [[[0, 1, 0]], [[1, 1, 0]]]


async def test_a_step_that_is_cancelled_under_way_is_let_finish_and_dropped() -> None:
    host, worker = make_host()
    await host.open("a")
    running = asyncio.ensure_future(host.run("a", 0, rows(2)))
    await turns()
    running.cancel()
    await turns()
    next_step = host.submit("a", 2, rows(1))
    await until_done(worker, running, next_step)
    assert running.cancelled()
    assert np.array_equal(next_step.result().rows, rows(1) + 1)


async def test_a_rollback_waits_for_the_steps_before_it() -> None:
    host, worker = make_host()
    await host.open("a")
    first = host.submit("a", 0, rows(4))
    back = asyncio.ensure_future(host.rollback("a", 1))
    await turns()
    then = host.submit("a", 1, rows(2))
    await until_done(worker, first, back, then)
    assert [p[0][1:] for p in worker.passes] == [[0, 4, 0], [1, 2, 0]]
    with pytest.raises(BadPosition):
        await host.rollback("a", 4)


async def test_sessions_and_waiting_steps_are_bounded() -> None:
    host, _ = make_host()
    for key in range(SESSIONS):
        await host.open(key)
    with pytest.raises(Busy):
        await host.open("one more")
    with pytest.raises(UserError, match="open already"):
        await host.open(0)
    assert host.sessions_free == 0
    steps = [host.submit(0, n, rows(1)) for n in range(HOST_STEPS_WAITING_MAX)]
    with pytest.raises(Busy):
        host.submit(0, HOST_STEPS_WAITING_MAX, rows(1))
    await host.close(0)
    assert all(isinstance(step.exception(), UnknownSession) for step in steps[1:])
    await host.open("one more")
    assert host.stats.steps_waiting == 0


async def test_closing_is_idempotent_and_lets_a_step_under_way_finish() -> None:
    host, worker = make_host()
    await host.open("a")
    running = host.submit("a", 0, rows(1))
    waiting = host.submit("a", 1, rows(1))
    closing = asyncio.ensure_future(host.close("a"))
    await turns()
    assert not closing.done()
    assert isinstance(waiting.exception(), UnknownSession)
    await until_done(worker, closing)
    assert isinstance(running.exception(), UnknownSession)
    await host.close("a")
    await host.close("never opened")
    assert len(worker.table) == host.sessions_open == 0
    await host.open("a")
    again = host.submit("a", 0, rows(1))
    await until_done(worker, again)


async def test_a_cancelled_open_leaves_no_session_at_the_worker() -> None:
    host, worker = make_host()
    await host.open("a")
    running = host.submit("a", 0, rows(1))
    opening = asyncio.ensure_future(host.open("b"))
    await turns()
    opening.cancel()
    await until_done(worker, running, opening)
    await turns(20)
    assert len(worker.table) == host.sessions_open == 1


async def test_a_restart_costs_all_sessions_and_says_so() -> None:
    host, worker = make_host()
    lost: list[tuple[Sequence[Hashable], str]] = []
    host.on_sessions_lost(lambda keys, error: lost.append((list(keys), error.code)))
    for key in "ab":
        await host.open(key)
    running = host.submit("a", 0, rows(1))
    await turns()
    waiting = host.submit("b", 0, rows(1))
    opening = asyncio.ensure_future(host.open("c"))
    await turns()
    worker.die()
    await turns()
    for future in (running, waiting):
        assert isinstance(future.exception(), WorkerLost)
    assert isinstance(opening.exception(), WorkerLost)
    assert lost[0][1] == "worker_lost"
    assert set("ab") <= set(lost[0][0])
    with pytest.raises(WorkerLost):
        await host.open("d")
    worker.restart()
    with pytest.raises(WorkerLost):
        host.submit("a", 0, rows(1))
    await host.close("a")
    await host.open("a")
    again = host.submit("a", 0, rows(1))
    await until_done(worker, again)
    assert host.sessions_open == 1
    await host.stop()
    with pytest.raises(WorkerLost):
        host.submit("a", 1, rows(1))


async def test_a_session_that_the_worker_has_expired_is_forgotten_here() -> None:
    host, worker = make_host()
    lost: list[Hashable] = []
    host.on_sessions_lost(lambda keys, error: lost.extend(keys))
    await host.open("old")
    worker.now_s = 200.0
    await host.open("new")
    assert lost == ["old"]
    assert host.sessions_open == 1
    with pytest.raises(UnknownSession):
        host.submit("old", 0, rows(1))
    worker.table.close(2)  # behind the host's back
    step = host.submit("new", 0, rows(1))
    await until_done(worker, step)
    assert isinstance(step.exception(), UnknownSession)
    assert lost == ["old", "new"]


async def test_an_answer_of_the_wrong_size_is_nonsense() -> None:
    host, worker = make_host()
    await host.open("a")
    step = host.submit("a", 0, rows(1))
    assert worker.under_way is not None
    with pytest.raises(FrameError):
        worker.under_way[2](b'{"ok":true}', memoryview(b"\0" * 8))
    assert not step.done()  # the worker fails it, and itself
    worker.die()
    await turns()
    assert isinstance(step.exception(), WorkerLost)


async def test_speeds_are_measured_by_passes_of_one_row_and_of_many() -> None:
    host, worker = make_host()
    worker.holds_steps = False
    await host.open("a")
    for position in range(3):
        await host.run("a", position, rows(1))
    await host.close("a")
    stats = host.stats
    assert stats.decode_us >= 0
    assert (stats.batches, stats.rows, stats.prefill_tokens_s) == (3, 3, 0.0)


@given(
    sizes=st.lists(st.tuples(st.integers(1, 30), st.integers(0, 4)), min_size=1, max_size=8),
)
def test_every_piece_is_run_whole_in_order_and_within_bounds(sizes: list[tuple[int, int]]) -> None:
    loop = asyncio.new_event_loop()
    waiting = [
        (
            Session(number, number),
            Piece(0, rows(count), min(count, outputs), loop.create_future(), float(number)),
        )
        for number, (count, outputs) in enumerate(sizes)
    ]
    outputs = [0] * len(sizes)
    for _ in range(4 * len(sizes) + 1):
        left = [(s, p) for s, p in waiting if p.left]
        if not left:
            break
        batch = plan_batch(left, BATCH, 4)
        assert batch
        assert sum(part.count for part in batch) <= BATCH
        assert sum(part.outputs for part in batch) <= 4
        assert len({part.session.number for part in batch}) == len(batch)
        for part in batch:
            assert part.count == min(part.piece.left, BATCH)
            outputs[part.session.number] += part.outputs
        for part in batch:
            part.piece.done += part.count
    assert all(piece.left == 0 for _, piece in waiting)
    assert outputs == [piece.outputs for _, piece in waiting]
    loop.close()
