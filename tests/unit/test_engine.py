"""The batching loop over a chain in memory: who shares a pass, who waits, who fails, who is freed.

The fake's model counts: after token t it is sure of t + 1.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwaai.errors import Busy, ContextExceeded, KwaaiError, PeerError, UserError, WorkerLost
from kwaai.inference import engine as engine_module
from kwaai.inference.chain import Chain, Step
from kwaai.inference.engine import Engine, Generation
from kwaai.inference.sampling import Sampler, SamplingParams
from kwaai.inference.spec import EngineSpec

T = TypeVar("T")
VOCAB = 32
LOST = WorkerLost("worker slice-[0,2) ended during the request (signal 9)")


class FakeChain(Chain):
    """Keeps every session's tokens, checks what a real chain checks, and fails when told to."""

    def __init__(self, *, sessions: int = 4, context: int = 64, rows: int = 8) -> None:
        super().__init__([], EngineSpec(context, sessions, batch_tokens=rows))
        self.kv: dict[int, list[int]] = {}
        self.passes: list[list[Step]] = []
        self.failures: dict[str, list[BaseException]] = {"step": [], "open": [], "wait_ready": []}
        self.gate: asyncio.Semaphore | None = None
        """If set, every pass waits for a permit."""
        self.passed = asyncio.Event()
        """Set by every pass."""

    @property
    def vocab(self) -> int:
        return VOCAB

    def open_gate(self) -> None:
        """Let the pass that waits go on, and all later ones."""
        assert self.gate
        self.gate.release()
        self.gate = None

    async def wait_ready(self, timeout_s: float) -> None:
        self._fail("wait_ready")

    async def open(self, session: int) -> None:
        self._fail("open")
        assert session not in self.kv
        assert len(self.kv) < self.engine.sessions
        self.kv[session] = []

    async def close(self, session: int) -> None:
        del self.kv[session]

    async def reset(self) -> None:
        self.kv.clear()

    async def step(self, steps: Sequence[Step], then: Callable[[npt.NDArray[np.float32]], T]) -> T:
        if self.gate:
            await self.gate.acquire()
        self.passes.append(list(steps))
        self.passed.set()
        self._fail("step")
        assert 0 < sum(len(step.tokens) for step in steps) <= self.engine.batch_tokens
        assert sum(step.outputs for step in steps) <= self.engine.sessions
        rows = []
        for step in steps:
            kv = self.kv[step.session]
            assert step.position == len(kv)
            kv.extend(step.tokens)
            assert len(kv) <= self.engine.context_tokens
            assert step.outputs in (0, 1)
            if step.outputs:
                rows.append(self.logits(kv))
        return then(np.array(rows, np.float32).reshape(-1, VOCAB))

    def logits(self, tokens: list[int]) -> npt.NDArray[np.float32]:
        row = np.zeros(VOCAB, np.float32)
        row[(tokens[-1] + 1) % VOCAB] = 1.0
        return row

    def _fail(self, where: str) -> None:
        if self.failures[where]:
            raise self.failures[where].pop(0)

    def rows(self) -> list[list[int]]:
        """How many rows each session had in each pass."""
        return [[len(step.tokens) for step in steps] for steps in self.passes]


@asynccontextmanager
async def running(chain: FakeChain) -> AsyncIterator[Engine]:
    engine = Engine(chain)
    before = asyncio.all_tasks()
    engine.start()
    try:
        yield engine
    finally:
        await engine.stop()
        assert asyncio.all_tasks() == before, "a task was left behind"


def submit(
    engine: Engine, prompt: Sequence[int], tokens_max: int, ends: Sequence[int] = (), **params: Any
) -> Generation:
    sampler = Sampler(SamplingParams(temperature=0.0, **params), prompt)
    return engine.submit(prompt, sampler, tokens_max, frozenset(ends))


async def read(engine: Engine, generation: Generation) -> list[int]:
    return [sampled.token async for sampled in engine.tokens(generation)]


async def answer(engine: Engine, *args: Any, **params: Any) -> list[int]:
    return await read(engine, submit(engine, *args, **params))


def counted(prompt: Sequence[int], count: int) -> list[int]:
    return [(prompt[-1] + 1 + i) % VOCAB for i in range(count)]


async def together(*works: Coroutine[Any, Any, T]) -> list[T | BaseException]:
    async with asyncio.timeout(20):
        return await asyncio.gather(*works, return_exceptions=True)


async def test_one_answer() -> None:
    chain = FakeChain()
    async with running(chain) as engine:
        generation = submit(engine, [3, 4], 3)
        assert await read(engine, generation) == [5, 6, 7]
    assert chain.rows() == [[2], [1], [1]]
    assert engine.counters.prompt_tokens == 2
    assert engine.counters.sampled_tokens == 3
    assert engine.counters.batches == 3
    assert engine.counters.batch_rows == 4
    assert generation.submitted_s <= generation.admitted_s <= generation.first_s


async def test_sessions_share_passes() -> None:
    chain = FakeChain(rows=16)
    async with running(chain) as engine:
        answers = await together(*(answer(engine, [n], 4) for n in range(4)))
    assert answers == [counted([n], 4) for n in range(4)]
    assert chain.rows() == [[1, 1, 1, 1]] * 4


async def test_a_newcomer_joins_between_two_passes() -> None:
    chain = FakeChain()
    chain.gate = asyncio.Semaphore(0)
    async with running(chain) as engine:
        first = submit(engine, [1], 4)
        chain.gate.release()
        await asyncio.wait_for(chain.passed.wait(), 20)
        second = submit(engine, [10, 11], 2)
        for _ in range(10):
            chain.gate.release()
        assert await together(read(engine, first), read(engine, second)) == [
            [2, 3, 4, 5],
            [12, 13],
        ]
    assert [1, 2] in chain.rows()
    assert len(chain.passes) <= 5


async def test_a_long_prompt_goes_in_pieces() -> None:
    chain, prompt = FakeChain(rows=8), [*range(20)]
    async with running(chain) as engine:
        assert await answer(engine, prompt, 2) == [20, 21]
    assert chain.rows() == [[8], [8], [4], [1]]
    assert [step.outputs for steps in chain.passes for step in steps] == [0, 0, 1, 1]


async def test_answers_go_on_while_a_long_prompt_is_read() -> None:
    chain = FakeChain(rows=8)
    chain.gate = asyncio.Semaphore(1)
    async with running(chain) as engine:
        first = submit(engine, [1], 6)
        await asyncio.wait_for(chain.passed.wait(), 20)
        second = submit(engine, [*range(20)], 1)
        chain.open_gate()
        answers = await together(read(engine, first), read(engine, second))
        assert answers == [counted([1], 6), [20]]
    both = [rows for rows in chain.rows() if len(rows) == 2]
    assert both == [[1, 7], [1, 7], [1, 6]]


async def test_prompts_share_the_rows_of_a_pass() -> None:
    chain = FakeChain(rows=8)
    async with running(chain) as engine:
        await together(answer(engine, [0] * 12, 1), answer(engine, [0] * 3, 1))
    # Four rows each; the short prompt leaves one of its share to the long one.
    assert chain.rows() == [[3, 5], [7]]


async def test_more_requests_than_sessions_wait_their_turn() -> None:
    chain = FakeChain(sessions=2)
    async with running(chain) as engine:
        generations = [submit(engine, [n], 3) for n in range(5)]
        assert engine.queued == 5
        answers = await together(*(read(engine, g) for g in generations))
        assert engine.queued == 0
    assert answers == [counted([n], 3) for n in range(5)]
    firsts = [g.first_s for g in generations]
    assert firsts == sorted(firsts)


@pytest.mark.parametrize("ends", [[6], [6, 9], [9, 6]])
async def test_an_end_token_ends_and_is_given(ends: list[int]) -> None:
    async with running(FakeChain()) as engine:
        assert await answer(engine, [4], 20, ends) == [5, 6]


async def test_a_full_context_ends_the_answer() -> None:
    chain = FakeChain(context=8)
    async with running(chain) as engine:
        assert await answer(engine, [0, 1, 2], 1000) == [3, 4, 5, 6, 7]
        assert await answer(engine, [0] * 7, 1000) == [1]


async def test_what_cannot_be_is_refused_at_once() -> None:
    async with running(FakeChain(context=8)) as engine:
        with pytest.raises(ContextExceeded, match="has 8 tokens, the context holds 8") as caught:
            submit(engine, [0] * 8, 1)
        assert caught.value.param == "prompt"
        with pytest.raises(UserError, match="empty"):
            submit(engine, [], 1)
        assert engine.queued == 0


async def test_busy_when_the_queue_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "QUEUE_REQUESTS_MAX", 2)
    chain = FakeChain(sessions=1)
    chain.gate = asyncio.Semaphore(1)
    async with running(chain) as engine:
        generations = [submit(engine, [0], 2)]
        await asyncio.wait_for(chain.passed.wait(), 20)
        generations += [submit(engine, [n], 2) for n in (1, 2)]
        with pytest.raises(Busy) as caught:
            submit(engine, [3], 2)
        assert caught.value.retry_after_s
        chain.open_gate()
        answers = await together(*(read(engine, g) for g in generations))
        assert answers == [counted([n], 2) for n in range(3)]
        assert await answer(engine, [3], 2) == [4, 5]


async def test_a_reader_who_goes_away_frees_the_session() -> None:
    chain = FakeChain(sessions=1)
    async with running(chain) as engine:
        async with aclosing(engine.tokens(submit(engine, [1], 60))) as tokens:
            assert (await anext(tokens)).token == 2
        assert await asyncio.wait_for(answer(engine, [5], 1), 20) == [6]
        assert engine.kv_tokens <= 1
    assert len(chain.kv) <= 1
    assert sum(step.tokens[-1] == 60 for steps in chain.passes for step in steps) == 0


async def test_a_reader_who_goes_away_while_waiting_costs_no_pass() -> None:
    chain = FakeChain(sessions=1)
    chain.gate = asyncio.Semaphore(1)
    async with running(chain) as engine:
        first = submit(engine, [1], 3)
        await asyncio.wait_for(chain.passed.wait(), 20)
        waiting = asyncio.create_task(read(engine, submit(engine, [20], 3)))
        last = submit(engine, [10], 1)
        await asyncio.sleep(0)  # let it begin to wait
        waiting.cancel()
        await asyncio.wait([waiting])
        chain.open_gate()
        assert await together(read(engine, first), read(engine, last)) == [[2, 3, 4], [11]]
    assert not any(step.tokens == (20,) for steps in chain.passes for step in steps)


async def test_a_failed_pass_fails_the_running_and_nobody_else() -> None:
    chain = FakeChain(sessions=2)
    chain.failures["step"] = [LOST]
    async with running(chain) as engine:
        answers = await together(*(answer(engine, [n], 2) for n in range(4)))
        assert answers == [LOST, LOST, counted([2], 2), counted([3], 2)]
        assert await answer(engine, [9], 2) == [10, 11]
        assert engine.counters.failures == 1


async def test_a_restart_while_a_session_is_opened_is_waited_for() -> None:
    chain = FakeChain()
    chain.failures["open"] = [WorkerLost("worker slice-[0,2) is restarting; try again")]
    async with running(chain) as engine:
        assert await asyncio.wait_for(answer(engine, [1], 2), 20) == [2, 3]


async def test_a_chain_that_stays_down_fails_everybody_until_it_is_back() -> None:
    chain = FakeChain(sessions=1)
    down = WorkerLost("worker slice-[0,2) failed 5 times in a row and stays down")
    chain.failures["step"] = [LOST]
    chain.failures["wait_ready"] = [down]
    async with running(chain) as engine:
        assert await together(*(answer(engine, [n], 2) for n in range(3))) == [LOST, down, down]
        chain.failures["open"], chain.failures["wait_ready"] = [down], [down]
        assert await together(answer(engine, [1], 2)) == [down]
        assert await asyncio.wait_for(answer(engine, [1], 2), 20) == [2, 3]


async def test_a_fault_of_our_own_is_an_error_not_silence() -> None:
    chain = FakeChain()
    chain.failures["step"] = [RuntimeError("a bug")]
    async with running(chain) as engine:
        [error] = await together(answer(engine, [1], 2))
        assert type(error) is KwaaiError
        assert "a bug" not in error.message
        assert await asyncio.wait_for(answer(engine, [1], 2), 20) == [2, 3]


async def test_one_sessions_trouble_is_its_own() -> None:
    class Broken(FakeChain):
        def logits(self, tokens: list[int]) -> npt.NDArray[np.float32]:
            row = super().logits(tokens)
            return row * np.float32(np.nan) if tokens[0] == 9 else row

    async with running(Broken()) as engine:
        answers = await together(
            answer(engine, [1], 3),
            answer(engine, [9], 3),
            answer(engine, [1], 3, logit_bias={VOCAB: 5.0}),
            answer(engine, [4], 3),
        )
        assert answers[0] == counted([1], 3)
        assert isinstance(answers[1], PeerError)
        assert isinstance(answers[2], UserError)
        assert answers[2].param == "logit_bias"
        assert answers[3] == counted([4], 3)
        assert await answer(engine, [1], 1) == [2]
        assert engine.counters.failures == 0


async def test_stop_fails_whoever_is_under_way_and_whoever_comes() -> None:
    chain = FakeChain(sessions=1)
    chain.gate = asyncio.Semaphore(2)
    async with running(chain) as engine:
        readers = [asyncio.create_task(answer(engine, [n], 9)) for n in range(2)]
        await asyncio.wait_for(chain.passed.wait(), 20)
        await engine.stop()
        errors = await together(*(asyncio.wait_for(reader, 20) for reader in readers))
        assert [type(error) for error in errors] == [WorkerLost, WorkerLost]
        with pytest.raises(WorkerLost, match="stopping"):
            submit(engine, [1], 1)
        await engine.stop()


JOBS = st.lists(
    st.tuples(st.integers(1, 30), st.integers(1, 40), st.integers(0, 40)), min_size=1, max_size=8
)


@given(jobs=JOBS, sessions=st.integers(1, 4), rows=st.integers(4, 9))
def test_everybody_gets_what_he_would_get_alone(
    jobs: list[tuple[int, int, int]], sessions: int, rows: int
) -> None:
    """A job is (tokens of the prompt, tokens_max, where the reader goes away)."""
    asyncio.run(_everybody(jobs, FakeChain(sessions=sessions, context=32, rows=rows)))


async def _everybody(jobs: list[tuple[int, int, int]], chain: FakeChain) -> None:
    async def client(number: int, size: int, tokens_max: int, leave: int) -> None:
        prompt = [number] * size
        full = counted(prompt, min(tokens_max, 32 - size))
        got = []
        async with aclosing(engine.tokens(submit(engine, prompt, tokens_max))) as tokens:
            async for sampled in tokens:
                got.append(sampled.token)
                if len(got) == leave:
                    break
        assert got == (full[:leave] if leave else full)

    async with running(chain) as engine:
        results = await together(*(client(number, *job) for number, job in enumerate(jobs)))
        assert results == [None] * len(jobs)
        await answer(engine, [0], 1)  # after a pass for this one, the others have been closed
        assert set(chain.kv) <= {len(jobs) + 1}
