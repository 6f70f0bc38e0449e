"""Slices of llama.cpp that many sessions share, loaded from a whole file or from fetched parts."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Hashable, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import psutil
import pytest

from kwaai.config import Config
from kwaai.errors import ModelUnsupported, OutOfMemory, WorkerLost
from kwaai.inference import supervisor
from kwaai.inference.host import SliceHost
from kwaai.inference.ipc import encode_header
from kwaai.inference.text import TextModel
from kwaai.models.library import DEMO_NAME, Library
from kwaai.models.slices import cut_embedding, cut_slice
from kwaai.node.local_slices import LocalSlices
from kwaai.testing.families import write_family
from kwaai.types import LayerRange

CONFIG = Config(context_tokens=256, max_sessions=4, threads=1, use_gpu=False)
PROMPT = (1, 40, 7, 255, 9, 12, 77, 31)
CUT = (0, 3, 5, 8)


@pytest.fixture(autouse=True)
def _quick_restarts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "WORKER_BACKOFF_S", (0.0,))
    monkeypatch.setattr("kwaai.node.local_slices.SLICE_WARM_UP_S", 0.01)


@asynccontextmanager
async def slices_in(
    directory: Path, config: Config = CONFIG, warm_s: float = 60.0
) -> AsyncIterator[LocalSlices]:
    before = psutil.Process().children()
    slices = LocalSlices(config, Library(directory), warm_s=warm_s)
    try:
        yield slices
    finally:
        await slices.close()
    assert psutil.Process().children() == before


async def acquire_chain(slices: LocalSlices, model: str, cut: Sequence[int]) -> list[SliceHost]:
    ranges = [LayerRange(start, stop) for start, stop in pairwise(cut)]
    return list(await asyncio.gather(*(slices.acquire(model, layers) for layers in ranges)))


async def logits_of(
    chain: Sequence[SliceHost], session: Hashable, tokens: Sequence[int], position: int = 0
) -> npt.NDArray[np.float32]:
    data: npt.NDArray[np.int32] | npt.NDArray[np.float32] = np.array(tokens, np.int32)
    for host in chain:
        data = await host.run(session, position, data, 1 if host.head else 0)
    return data  # type: ignore[return-value]


async def greedy(
    chain: Sequence[SliceHost], session: Hashable, prompt: Sequence[int], count: int = 6
) -> tuple[list[int], list[npt.NDArray[np.float32]]]:
    """Tokens and logits of a session of its own."""
    for host in chain:
        await host.open(session)
    rows, tokens, position = [], [], 0
    step = list(prompt)
    for _ in range(count):
        rows.append(await logits_of(chain, session, step, position))
        position += len(step)
        tokens.append(int(rows[-1][0].argmax()))
        step = [tokens[-1]]
    for host in chain:
        await host.close(session)
    return tokens, rows


async def test_a_chain_of_hosts_equals_the_whole_model_to_the_bit(tmp_path: Path) -> None:
    async with slices_in(tmp_path) as slices:
        model = await slices.model(DEMO_NAME)
        assert (model.block_count, model.context_tokens, model.cells) == (8, 256, 1024)
        whole = await slices.acquire(DEMO_NAME, LayerRange(0, 8))
        chain = await acquire_chain(slices, model.handle, CUT)
        expected = await greedy([whole], "one", PROMPT)
        found = await greedy(chain, "one", PROMPT)
        assert found[0] == expected[0]
        assert all(map(np.array_equal, found[1], expected[1]))
        for host in (whole, *chain):
            assert host.stats.decode_us > 0
            assert host.stats.prefill_tokens_s > 0
            assert host.sessions_open == 0


async def test_many_sessions_share_passes_and_each_gets_its_own_answer(tmp_path: Path) -> None:
    prompts = [(*PROMPT, number) for number in (3, 50, 90, 130)]
    async with slices_in(tmp_path) as slices:
        chain = await acquire_chain(slices, DEMO_NAME, CUT)
        alone = [(await greedy(chain, "alone", prompt))[0] for prompt in prompts]
        before = chain[0].stats
        together = await asyncio.gather(
            *(greedy(chain, number, prompt) for number, prompt in enumerate(prompts))
        )
        assert [tokens for tokens, _ in together] == alone
        after = chain[0].stats
        assert after.batches - before.batches < 6 * len(prompts)
        assert slices.sessions_open == 0


async def test_pieces_of_a_prompt_are_queued_at_once_and_rolled_back(tmp_path: Path) -> None:
    async with slices_in(tmp_path) as slices:
        chain = await acquire_chain(slices, DEMO_NAME, CUT)
        expected = (await greedy(chain, "one", PROMPT, 1))[1][0]
        for host in chain:
            await host.open("two")
        first = np.array(PROMPT, np.int32)
        pieces = [chain[0].submit("two", at, first[at : at + 4]) for at in (0, 4)]
        extra = chain[0].submit("two", 8, first[:2])
        back = asyncio.ensure_future(chain[0].rollback("two", 8))
        rows = [(await piece).rows for piece in pieces]
        await extra
        await back
        pieces = [chain[1].submit("two", 4 * n, piece) for n, piece in enumerate(rows)]
        rows = [(await piece).rows for piece in pieces]
        pieces = [chain[2].submit("two", 4 * n, piece, n) for n, piece in enumerate(rows)]
        logits = [(await piece).rows for piece in pieces]
        assert len(logits[0]) == 0
        assert np.allclose(logits[1], expected, atol=1e-3)


async def test_a_worker_that_dies_or_stalls_costs_its_sessions_and_comes_back(
    tmp_path: Path,
) -> None:
    async with slices_in(tmp_path) as slices:
        chain = await acquire_chain(slices, DEMO_NAME, CUT)
        host, expected = chain[1], (await greedy(chain, "before", PROMPT))[0]
        lost: asyncio.Queue[tuple[Sequence[Hashable], str]] = asyncio.Queue()
        host.on_sessions_lost(lambda keys, error: lost.put_nowait((keys, error.message)))
        await host.open("idle")
        assert host.pid is not None
        os.kill(host.pid, signal.SIGKILL)
        keys, why = await asyncio.wait_for(lost.get(), 20)
        assert list(keys) == ["idle"]
        assert "signal 9" in why
        with pytest.raises(WorkerLost):
            host.submit("idle", 0, np.zeros((1, host.embd), np.float32))
        await host.worker.wait_ready(60)

        await host.open("busy")
        os.kill(host.pid, signal.SIGSTOP)
        step = host.submit("busy", 0, np.ones((4, host.embd), np.float32))
        waiting = host.submit("busy", 4, np.ones((4, host.embd), np.float32))
        os.kill(host.pid, signal.SIGKILL)
        for future in (step, waiting):
            with pytest.raises(WorkerLost, match="signal 9"):
                await asyncio.wait_for(future, 20)
        await host.worker.wait_ready(60)
        assert (await greedy(chain, "after", PROMPT))[0] == expected
        assert host.incarnation == 3


async def test_a_posted_request_that_is_not_answered_in_time_ends_the_worker(
    tmp_path: Path,
) -> None:
    async with slices_in(tmp_path) as slices:
        host = await slices.acquire(DEMO_NAME, LayerRange(3, 5))
        failure: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        assert host.pid is not None
        os.kill(host.pid, signal.SIGSTOP)
        ping = encode_header({"op": "ping"})
        host.worker.post(ping, b"", lambda *_: None, failure.set_result, timeout_s=0.05)
        error = await asyncio.wait_for(failure, 20)
        assert isinstance(error, WorkerLost)
        assert "0.05 s" in error.message
        await host.worker.wait_ready(60)
        await host.open("again")


async def test_concurrent_acquires_share_one_load_and_the_last_release_ends_it(
    tmp_path: Path,
) -> None:
    layers = LayerRange(3, 5)
    async with slices_in(tmp_path, warm_s=0.05) as slices:
        hosts = await asyncio.gather(*(slices.acquire(DEMO_NAME, layers) for _ in range(3)))
        assert hosts[0] is hosts[1] is hosts[2]
        for host in hosts[:2]:
            slices.release(host)
        (loaded,) = slices.loaded()
        assert (loaded.users, loaded.end, hosts[0].state) == (1, None, "ready")
        slices.release(hosts[2])
        async with slices.using(DEMO_NAME, layers) as host:  # taken again before it is ended
            assert host is hosts[0]
        process = psutil.Process(hosts[0].pid)
        async with asyncio.timeout(20):
            await asyncio.to_thread(process.wait)
        assert slices.loaded() == ()
        async with slices.using(DEMO_NAME, layers) as host:
            assert host is not hosts[0]


async def test_what_does_not_fit_is_refused_with_numbers_and_idle_slices_make_room(
    tmp_path: Path,
) -> None:
    async with slices_in(tmp_path) as slices:
        with pytest.raises(ModelUnsupported, match=r"layers \[0,8\), not \[7,9\)"):
            await slices.acquire(DEMO_NAME, LayerRange(7, 9))
        await slices.acquire(DEMO_NAME, LayerRange(3, 5))
        needed = slices.loaded()[0].reserved_bytes
    tight = CONFIG.model_copy(update={"memory_limit_mb": round(needed * 1.5 / 1e6)})
    async with slices_in(tmp_path, tight) as slices:
        first = await slices.acquire(DEMO_NAME, LayerRange(3, 5))
        with pytest.raises(OutOfMemory, match=r"needs [\d.,]+ MiB .* are available; take fewer"):
            await slices.acquire(DEMO_NAME, LayerRange(2, 4))
        slices.release(first)
        await slices.acquire(DEMO_NAME, LayerRange(2, 4))
        assert [str(loaded.layers) for loaded in slices.loaded()] == ["[2,4)"]


def write_parts(directory: Path, family: str) -> tuple[Path, Path]:
    """A library with the whole model, and one with parts of it, as a download leaves them."""
    whole, parts = directory / "whole", directory / "parts"
    whole.mkdir()
    write_family(family, whole / "random.gguf", seed=6)
    library = Library(whole)
    handle = library.manifest(library.find("random")).handle
    held = parts / "owner--random" / "random.gguf.slices"
    held.mkdir(parents=True)
    for start, stop in pairwise(CUT):
        name = f"{start}-{stop}{'-head' if stop == 8 else ''}.gguf"
        layers = LayerRange(start, stop)
        cut_slice(whole / "random.gguf", held / name, layers, stop == 8, handle)
    cut_embedding(whole / "random.gguf", held / "embedding.gguf", handle)
    return whole, parts


@pytest.mark.parametrize("family", ["llama", "gemma3", "granite"])
async def test_fetched_parts_run_as_slices_of_the_whole_file_do(
    family: str, tmp_path: Path
) -> None:
    whole, parts = write_parts(tmp_path, family)
    async with slices_in(whole) as slices:
        handle = (await slices.model("random")).handle
        expected = await greedy([await slices.acquire(handle, LayerRange(0, 8))], 1, PROMPT)
        cut = await greedy(await acquire_chain(slices, handle, CUT), 1, PROMPT)
        assert all(map(np.array_equal, cut[1], expected[1]))
    async with slices_in(parts) as slices:
        model = await slices.model(handle)
        assert model.held == tuple(LayerRange(a, b) for a, b in pairwise(CUT))
        found = await greedy(await acquire_chain(slices, handle, CUT), 1, PROMPT)
        assert all(map(np.array_equal, found[1], expected[1]))
        with pytest.raises(ModelUnsupported, match=r"--start-block 3 --blocks 1"):
            await slices.acquire(handle, LayerRange(3, 4))
        assert model.text is not None
        text = TextModel(model.text.path, model.text.template, model.text.context_tokens)
        await text.start()
        assert text.vocab > 0
        await text.stop()
