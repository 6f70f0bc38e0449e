"""Worker processes that die, hang, will not load, or outlive their parent."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest

from kwaai.config import Config
from kwaai.errors import ModelUnsupported, WorkerLost
from kwaai.inference import supervisor
from kwaai.inference.chain import Chain, Step
from kwaai.inference.ipc import Header
from kwaai.inference.spec import EngineSpec, SliceSpec, encode_slice_spec
from kwaai.inference.supervisor import Worker
from kwaai.models.library import Library
from kwaai.node.plan import plan_run, slice_specs
from kwaai.testing.families import write_family
from kwaai.testing.parts import VOCAB

ENGINE = EngineSpec(64, 2, threads=1, batch_tokens=16)
PROMPT = (1, 40, 7, 255, 9)


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> list[SliceSpec]:
    path = tmp_path_factory.mktemp("models")
    write_family("llama", path / "random.gguf")
    library = Library(path)
    plan = plan_run(library.find("random"), Config(), slices=3, local=False, sessions=2)
    return slice_specs(plan, library, None)


@pytest.fixture(autouse=True)
def _quick_restarts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "WORKER_BACKOFF_S", (0.0,))


def descriptors() -> set[str]:
    """What this process has open, by number and target."""
    out = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            out.add(f"{number} {os.readlink(f'/proc/self/fd/{number}')}")
        except OSError:
            continue  # the listing itself
    return out


@pytest.fixture(autouse=True)
async def _nothing_is_left() -> AsyncIterator[None]:
    """No process, descriptor, task or waiting thread outlives a test."""
    before = psutil.Process().children(recursive=True)
    open_before, tasks_before = descriptors(), asyncio.all_tasks()
    yield
    assert psutil.Process().children(recursive=True) == before
    gc.collect()  # an error's traceback may hold a frame that holds a worker's memory
    assert descriptors() - open_before == set()
    assert asyncio.all_tasks() - tasks_before == {asyncio.current_task()}
    assert not [t for t in threading.enumerate() if "_wait" in t.name and t.is_alive()]


def load_header(spec: SliceSpec) -> Header:
    engine = dataclasses.asdict(ENGINE)
    return {"role": "slice", "spec": encode_slice_spec(spec), "engine": engine}


@asynccontextmanager
async def started(worker: Worker) -> AsyncIterator[Worker]:
    try:
        await worker.start()
        yield worker
    finally:
        await worker.stop()


@asynccontextmanager
async def chain_of(specs: list[SliceSpec]) -> AsyncIterator[Chain]:
    chain = Chain(specs, ENGINE)
    try:
        await chain.start()
        yield chain
    finally:
        await chain.stop()


async def ask(worker: Worker, op: str = "ping", timeout_s: float = 60.0) -> Header:
    reply, _ = await asyncio.to_thread(worker.exchange, {"op": op}, timeout_s=timeout_s)
    return reply


async def answer(chain: Chain, session: int, count: int = 4) -> list[int]:
    """Greedy tokens of a session of its own."""
    await chain.open(session)
    tokens: list[int] = []
    step = Step(session, 0, PROMPT, 1)
    while len(tokens) < count:
        tokens.append(await chain.step([step], lambda logits: int(logits[0].argmax())))
        position = step.position + len(step.tokens)
        step = Step(session, position, (tokens[-1],), 1)
    await chain.close(session)
    return tokens


def pid_of(worker: Worker) -> int:
    assert worker.pid is not None
    return worker.pid


async def test_a_worker_starts_answers_and_ends(specs: list[SliceSpec]) -> None:
    worker = Worker("slice", load_header(specs[0]))
    assert worker.state == "stopped"
    async with started(worker):
        assert (worker.state, worker.incarnation) == ("ready", 1)
        assert worker.info["backend"]
        assert (await ask(worker))["sessions"] == 0
        pid = pid_of(worker)
        assert psutil.pid_exists(pid)
        assert os.getpgid(pid) != os.getpgid(0), "Ctrl-C would end it before the node does"
    assert worker.pid is None
    assert not psutil.pid_exists(pid)
    with pytest.raises(WorkerLost, match="is stopped"):
        worker.exchange({"op": "ping"})
    await worker.stop()


async def test_workers_do_not_spin(specs: list[SliceSpec]) -> None:
    async with started(Worker("slice", load_header(specs[0]))) as worker:
        assert psutil.Process(pid_of(worker)).environ()["OMP_WAIT_POLICY"] == "passive"


async def test_an_idle_worker_that_is_killed_comes_back(specs: list[SliceSpec]) -> None:
    async with started(Worker("slice", load_header(specs[0]))) as worker:
        os.kill(pid_of(worker), signal.SIGKILL)
        with pytest.raises(WorkerLost, match=r"(ended during|restarting)"):
            await ask(worker)
        await worker.wait_ready(60.0)
        assert (worker.state, worker.incarnation, worker.restarts_total) == ("ready", 2, 1)
        assert (await ask(worker))["ok"]


async def test_a_worker_killed_during_a_request(specs: list[SliceSpec]) -> None:
    """It is stopped first, so that the request is certainly under way when it dies."""
    async with started(Worker("slice", load_header(specs[0]))) as worker:
        pid = pid_of(worker)
        os.kill(pid, signal.SIGSTOP)
        request = asyncio.create_task(ask(worker))
        await asyncio.sleep(0)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(WorkerLost, match=r"worker slice .*signal 9.*again"):
            await request
        await worker.wait_ready(60.0)
        assert (await ask(worker))["ok"]


async def test_a_worker_that_hangs_is_ended_at_the_deadline(specs: list[SliceSpec]) -> None:
    async with started(Worker("slice", load_header(specs[0]))) as worker:
        pid = pid_of(worker)
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(WorkerLost, match=r"gave no answer in 0\.05 s"):
            await ask(worker, timeout_s=0.05)
        await worker.wait_ready(60.0)
        assert pid_of(worker) != pid
        assert not psutil.pid_exists(pid)
        assert (await ask(worker))["ok"]


async def test_a_worker_that_does_not_read_is_ended_at_the_deadline(specs: list[SliceSpec]) -> None:
    async with started(Worker("slice", load_header(specs[0]))) as worker:
        os.kill(pid_of(worker), signal.SIGSTOP)
        large = bytes(64 * 1024 * 1024)
        with pytest.raises(WorkerLost, match="gave no answer"):
            await asyncio.to_thread(worker.exchange, {"op": "step"}, large, timeout_s=0.05)
        await worker.wait_ready(60.0)
        assert (await ask(worker))["ok"]


async def test_whoever_waits_after_a_loss_waits_for_the_next_incarnation(
    specs: list[SliceSpec],
) -> None:
    async with started(Worker("slice", load_header(specs[0]))) as worker:
        for incarnation in (2, 3):
            os.kill(pid_of(worker), signal.SIGSTOP)
            with pytest.raises(WorkerLost):
                await ask(worker, timeout_s=0.01)
            await worker.wait_ready(60.0)
            assert worker.incarnation == incarnation


async def test_a_request_that_relies_on_an_older_cache_is_refused(specs: list[SliceSpec]) -> None:
    async with started(Worker("slice", load_header(specs[0]))) as worker:
        worker.exchange({"op": "ping"}, incarnation=1)
        with pytest.raises(WorkerLost, match="lost its cache"):
            worker.exchange({"op": "ping"}, incarnation=0)


async def test_stop_ends_a_worker_that_does_not_listen(
    specs: list[SliceSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "WORKER_STOP_TIMEOUT_S", 0.05)
    async with started(Worker("slice", load_header(specs[0]))) as worker:
        os.kill(pid_of(worker), signal.SIGSTOP)


async def test_stop_during_a_request_and_a_restart(
    specs: list[SliceSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "WORKER_STOP_TIMEOUT_S", 0.05)
    async with started(Worker("slice", load_header(specs[0]))) as worker:
        os.kill(pid_of(worker), signal.SIGSTOP)
        request = asyncio.create_task(ask(worker))
        await asyncio.sleep(0)
        stopping = asyncio.create_task(worker.stop())
        with pytest.raises(WorkerLost):
            await request
        await stopping
    async with started(Worker("slice", load_header(specs[0]))) as worker:
        os.kill(pid_of(worker), signal.SIGKILL)
        with pytest.raises(WorkerLost):
            await ask(worker)


def unloadable(spec: SliceSpec, tmp_path: Path) -> SliceSpec:
    path = tmp_path / "vanishing.gguf"
    path.write_bytes(Path(spec.path).read_bytes())
    return dataclasses.replace(spec, path=str(path))


async def test_a_first_load_that_fails_is_raised(specs: list[SliceSpec], tmp_path: Path) -> None:
    spec = unloadable(specs[1], tmp_path)
    Path(spec.path).write_bytes(b"GGUF and nothing else")
    worker = Worker("slice", load_header(spec))
    with pytest.raises(ModelUnsupported, match="cannot load"):
        await worker.start()
    await worker.stop()


async def test_a_worker_that_never_loads_again_is_given_up(
    specs: list[SliceSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "WORKER_RESTARTS_MAX", 3)
    spec = unloadable(specs[1], tmp_path)
    async with started(Worker("slice", load_header(spec))) as worker:
        Path(spec.path).unlink()
        os.kill(pid_of(worker), signal.SIGKILL)
        with pytest.raises(WorkerLost):
            await ask(worker)
        with pytest.raises(WorkerLost, match="failed 3 times in a row and stays down") as caught:
            await worker.wait_ready(60.0)
        assert worker.state == "failed"
        assert worker.restarts_total == 3
        assert worker.incarnation == 1
        with pytest.raises(WorkerLost) as again:
            worker.exchange({"op": "ping"})
        assert again.value.message == caught.value.message


async def test_requests_that_kill_do_not_wear_a_worker_out(
    specs: list[SliceSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "WORKER_RESTARTS_MAX", 2)
    async with started(Worker("slice", load_header(specs[0]))) as worker:
        for _ in range(4):
            os.kill(pid_of(worker), signal.SIGSTOP)
            with pytest.raises(WorkerLost):
                await ask(worker, timeout_s=0.01)
            await worker.wait_ready(60.0)
        assert worker.state == "ready"


async def test_a_machine_without_room_for_a_process(
    specs: list[SliceSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    worker = Worker("slice", load_header(specs[0]))
    with monkeypatch.context() as patch:
        patch.setattr("subprocess.Popen", refuse)
        with pytest.raises(WorkerLost, match=r"cannot be started.*temporarily"):
            await worker.start()
        await worker.stop()
    async with started(worker):
        assert worker.state == "ready"


async def test_a_chain_answers_again_after_any_of_its_workers_died(specs: list[SliceSpec]) -> None:
    async with chain_of(specs) as chain:
        first = await answer(chain, 1)
        assert all(0 <= token < VOCAB for token in first)
        for number, worker in enumerate(chain.workers, 2):
            await chain.open(100)
            await chain.step([Step(100, 0, PROMPT, 0)], np.copy)
            os.kill(pid_of(worker), signal.SIGKILL)
            with pytest.raises(WorkerLost):
                await chain.step([Step(100, len(PROMPT), (5,), 1)], np.copy)
            await chain.wait_ready(60.0)
            with pytest.raises(WorkerLost, match="lost its cache"):
                await chain.step([Step(100, len(PROMPT), (5,), 1)], np.copy)
            with pytest.raises(WorkerLost, match="lost its cache"):
                await chain.close(100)
            await chain.reset()
            assert await answer(chain, number) == first


async def test_rollback_in_a_chain(specs: list[SliceSpec]) -> None:
    async with chain_of(specs) as chain:
        await chain.open(1)
        await chain.step([Step(1, 0, PROMPT, 0)], np.copy)
        first = await chain.step([Step(1, 5, (8,), 1)], np.copy)
        await chain.rollback(1, 5)
        assert np.array_equal(await chain.step([Step(1, 5, (8,), 1)], np.copy), first)


async def test_a_chain_of_which_one_does_not_load_leaves_nothing(
    specs: list[SliceSpec], tmp_path: Path
) -> None:
    bad = unloadable(specs[1], tmp_path)
    Path(bad.path).write_bytes(b"GGUF and nothing else")
    chain = Chain([specs[0], bad, specs[2]], ENGINE)
    with pytest.raises(ModelUnsupported, match=r"cannot load .*vanishing\.gguf"):
        await chain.start()
    assert [worker.state for worker in chain.workers] == ["stopped"] * 3


async def test_a_start_that_is_cancelled_leaves_nothing(specs: list[SliceSpec]) -> None:
    chain = Chain(specs, ENGINE)
    starting = asyncio.create_task(chain.start())
    await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting


PARENT = """
import asyncio, json, sys
from kwaai.inference.supervisor import Worker

async def main():
    worker = Worker("slice", json.loads(sys.argv[1]))
    await worker.start()
    print(worker.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture
def parent(specs: list[SliceSpec]) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", PARENT, json.dumps(load_header(specs[0]))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


async def test_workers_end_when_their_parent_is_killed(parent: subprocess.Popen[str]) -> None:
    assert parent.stdout is not None
    line = await asyncio.to_thread(parent.stdout.readline)
    worker = psutil.Process(int(line))
    parent.kill()
    await asyncio.to_thread(parent.wait)
    _, alive = await asyncio.to_thread(psutil.wait_procs, [worker], 30)
    assert alive == []
