"""Measure what cutting a model costs: stock llama.cpp against a chain of slices, in one run.

Rounds are interleaved, so that what else the machine does hits both. Prints nothing; asserts
nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import platform
import shutil
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import psutil

from kwaai.atomic import exclusive_lock
from kwaai.config import Config
from kwaai.errors import UserError
from kwaai.inference.chain import Step
from kwaai.inference.environment import THREAD_WAITING
from kwaai.inference.sampling import Sampler, SamplingParams
from kwaai.inference.supervisor import Worker
from kwaai.limits import BATCH_TOKENS_MAX, BENCH_ROUNDS_MAX, BENCH_TOKENS_MAX
from kwaai.models.library import Library
from kwaai.models.shapes import find_shape, write_random_model
from kwaai.node.runtime import Runtime, percentile_ms
from kwaai.node.swarm import stop_swarm, swarm_directory
from kwaai.store.home import Home

Say = Callable[[str], None]
MeasureApi = Callable[[Runtime, tuple[int, ...], int], Awaitable["Sample"]]
"""Sends one request through HTTP: runtime, prompt, tokens to decode."""


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """What to measure. Either `model` (a name) or `shape` (random weights, written and removed)."""

    model: str | None
    shape: str | None
    quantisation: str = "Q8_0"
    slices: int = 4
    prompt_tokens: int = 512
    tokens: int = 64
    repeat: int = 3

    def __post_init__(self) -> None:
        for name, value, most in (
            ("prompt-tokens", self.prompt_tokens, BENCH_TOKENS_MAX),
            ("tokens", self.tokens, BENCH_TOKENS_MAX),
            ("repeat", self.repeat, BENCH_ROUNDS_MAX),
        ):
            if not 1 <= value <= most:
                raise UserError(f"--{name} is 1 to {most}, not {value}", param=name)


@dataclass(slots=True)
class Sample:
    """Seconds of one kind of run, over all rounds."""

    prefill_s: list[float] = field(default_factory=list)
    token_s: list[float] = field(default_factory=list)

    def add(self, other: Sample) -> None:
        self.prefill_s += other.prefill_s
        self.token_s += other.token_s

    def report(self, prompt_tokens: int) -> dict[str, float | None]:
        """Medians as rates and milliseconds."""
        return {
            "prefill_tokens_s": prompt_tokens / statistics.median(self.prefill_s),
            "decode_tokens_s": 1 / statistics.median(self.token_s),
            "token_ms_p50": percentile_ms(self.token_s, 0.5),
            "token_ms_p99": percentile_ms(self.token_s, 0.99),
            "first_token_ms": 1000 * statistics.median(self.prefill_s),
        }


@dataclass(frozen=True, slots=True)
class BenchReport:
    """The figures, ready to print."""

    fields: dict[str, object]

    def to_json(self) -> dict[str, object]:
        return self.fields


async def run_bench(
    config: Config, home: Home, options: BenchOptions, measure_api: MeasureApi | None, progress: Say
) -> BenchReport:
    """Measure in a temporary directory of the home, which is removed. Raises KwaaiError."""
    with scratch_directory(home) as directory:
        scratch = Home(directory)
        if options.shape is not None:
            name, path = await random_model(scratch, options.shape, options.quantisation, progress)
        else:
            name, scratch = options.model or config.model, home
            entry = await asyncio.to_thread(Library(home.models).find, name)
            entry.check_whole()
            path = entry.path
        context = options.prompt_tokens + options.tokens + 8
        config = config.model_copy(update={"context_tokens": context, "use_gpu": False})
        bench = _Bench(config, scratch, name, path, options, measure_api, progress)
        return BenchReport(await bench.run())


async def random_model(
    scratch: Home, shape: str, quantisation: str, progress: Say
) -> tuple[str, Path]:
    """Write a model of a real one's shape; return its name and file. Raises ModelNotFound."""
    numbers = find_shape(shape)
    progress(f"writing random weights in the shape of {shape}")
    name = f"{shape}-{quantisation}"
    scratch.models.mkdir(exist_ok=True)
    path = scratch.models / f"{name}.gguf"
    await asyncio.to_thread(write_random_model, path, numbers, quantisation)
    return name, path


@contextlib.contextmanager
def scratch_directory(home: Home) -> Iterator[Path]:
    """One for all runs, so that what a killed run left behind goes with the next. Raises Locked."""
    directory = home.run / "bench"
    with exclusive_lock(home.run / "bench.lock", timeout_s=0):
        _clear(directory)
        directory.mkdir(mode=0o700)
        try:
            yield directory
        finally:
            _clear(directory)


def _clear(directory: Path) -> None:
    if swarm_directory(Home(directory)).is_dir():
        stop_swarm(Home(directory))
    shutil.rmtree(directory, ignore_errors=True)


def stock_workers(path: Path, config: Config) -> dict[str, Worker]:
    """Return llama.cpp as it comes, and (its environment is for the caller to set before it starts)
    with threads that wait as those of the slices' workers do.
    """
    load = {
        "role": "stock",
        "stock": {
            "path": str(path),
            "context_tokens": config.context_tokens,
            "batch_tokens": BATCH_TOKENS_MAX,
            "threads": config.threads or 0,
        },
    }
    names = ("stock", "stock_same_waiting")
    return {name: Worker(name.replace("_", "-"), load, {}) for name in names}


def run_stock(worker: Worker, prompt: tuple[int, ...], tokens: int) -> Sample:
    """Prefill and decode greedily in stock llama.cpp; blocks."""
    prefill, _ = worker.exchange({"op": "prefill"}, np.array(prompt, np.int32).tobytes())
    decode, _ = worker.exchange({"op": "decode", "count": tokens})
    return Sample([prefill["seconds"]], decode["seconds"])


class _Bench:
    def __init__(
        self,
        config: Config,
        home: Home,
        name: str,
        path: Path,
        options: BenchOptions,
        measure_api: MeasureApi | None,
        say: Say,
    ) -> None:
        self._options, self._say, self._measure_api = options, say, measure_api
        self._config, self._name, self._path = config, name, path
        self._runtime = Runtime(config, home, name)
        self._stock = stock_workers(path, config)
        self._samples: dict[str, Sample] = {}

    async def run(self) -> dict[str, object]:
        try:
            await self._runtime.load(
                slices=self._options.slices, local=False, sessions=1, say=self._say
            )
            chosen = self._runtime.chain.environment
            waiting = {name: chosen[name] for name in THREAD_WAITING if name in chosen}
            self._stock["stock_same_waiting"].environment = waiting
            for worker in self._stock.values():
                await worker.start()
            await self._rounds()
            return self._report()
        finally:
            await self._runtime.close()
            for worker in self._stock.values():
                await worker.stop()

    async def _rounds(self) -> None:
        plan = self._runtime.plan
        assert plan is not None
        vocab = self._runtime.chain.vocab
        bits = np.random.default_rng(0)
        prompt = tuple(bits.integers(0, vocab, self._options.prompt_tokens).tolist())
        kinds: dict[str, Callable[[], Awaitable[Sample]]] = {
            name: partial(asyncio.to_thread, run_stock, worker, prompt, self._options.tokens)
            for name, worker in self._stock.items()
        }
        kinds["chain"] = lambda: self._run_chain(prompt)
        if self._measure_api is not None:
            measure = self._measure_api
            kinds["api"] = lambda: measure(self._runtime, prompt, self._options.tokens)
        for kind in kinds:  # warm the caches; not counted
            await kinds[kind]()
        self._runtime.chain.clear_timings()
        order = list(kinds)
        for number in range(self._options.repeat):
            for kind in order[number % len(order) :] + order[: number % len(order)]:
                self._say(f"round {number + 1} of {self._options.repeat}: {kind}")
                self._samples.setdefault(kind, Sample()).add(await kinds[kind]())

    async def _run_chain(self, prompt: tuple[int, ...]) -> Sample:
        chain, session = self._runtime.chain, time.monotonic_ns()
        sampler = Sampler(SamplingParams(temperature=0.0))
        sample = Sample()
        await chain.open(session)
        try:
            started, token = time.perf_counter(), 0
            for at in range(0, len(prompt), BATCH_TOKENS_MAX):
                piece = prompt[at : at + BATCH_TOKENS_MAX]
                step = Step(session, at, piece, int(at + len(piece) == len(prompt)))
                token = await chain.step([step], lambda rows: _greedy(sampler, rows))
            sample.prefill_s.append(time.perf_counter() - started)
            for k in range(self._options.tokens):
                started = time.perf_counter()
                step = Step(session, len(prompt) + k, (token,), 1)
                token = await chain.step([step], lambda rows: _greedy(sampler, rows))
                sample.token_s.append(time.perf_counter() - started)
        finally:
            await chain.close(session)
        return sample

    def _report(self) -> dict[str, object]:
        prompt_tokens = self._options.prompt_tokens
        stock, chain = self._samples["stock"], self._samples["chain"]
        same = self._samples["stock_same_waiting"]
        runs = [
            {"run": kind, **sample.report(prompt_tokens)} for kind, sample in self._samples.items()
        ]
        added = [
            (percentile_ms(chain.token_s, share) or 0) - (percentile_ms(stock.token_s, share) or 0)
            for share in (0.5, 0.99)
        ]
        slices = self._options.slices
        return {
            "machine": machine(),
            "model": {
                "name": self._name,
                "bytes": self._path.stat().st_size,
                "layers": self._runtime.chain.slices[-1].block_count,
                "path": " ".join(str(layers) for layers in self._runtime.chain.ranges),
                "prompt_tokens": prompt_tokens,
                "decoded_tokens": self._options.tokens,
                "rounds": self._options.repeat,
                "thread_spins": self._runtime.chain.environment.get("GOMP_SPINCOUNT", "as set"),
            },
            "runs": runs,
            "ratios": {
                "decode_chain_to_stock": ratio(stock.token_s, chain.token_s),
                "prefill_chain_to_stock": ratio(stock.prefill_s, chain.prefill_s),
                "decode_chain_to_stock_same_waiting": ratio(same.token_s, chain.token_s),
                "prefill_chain_to_stock_same_waiting": ratio(same.prefill_s, chain.prefill_s),
            },
            "added_per_slice": {
                "token_ms_p50": added[0] / slices,
                "token_ms_p99": added[1] / slices,
            },
            "slices": self._slices(),
        }

    def _slices(self) -> list[dict[str, object]]:
        rows: list[dict[str, object]] = []
        chain = self._runtime.chain
        for layers, worker, timing in zip(chain.ranges, chain.workers, chain.timings, strict=True):
            hops = [a - b for a, b in zip(timing.decode_s, timing.decode_compute_s, strict=True)]
            rows.append(
                {
                    "range": str(layers),
                    "memory_mb": memory_mb(worker.pid),
                    "decode_ms_p50": percentile_ms(timing.decode_s, 0.5),
                    "decode_ms_p99": percentile_ms(timing.decode_s, 0.99),
                    "hop_ms_p50": percentile_ms(hops, 0.5),
                    "hop_ms_p99": percentile_ms(hops, 0.99),
                }
            )
        return rows


def machine() -> dict[str, object]:
    """What the figures were measured on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        cpu = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        cpu = platform.processor() or platform.machine()
    return {
        "cpu": cpu,
        "cores": psutil.cpu_count() or 1,
        "memory_mb": psutil.virtual_memory().total // 1_000_000,
        "load_average": round(psutil.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def _greedy(sampler: Sampler, rows: np.ndarray[tuple[int, int], np.dtype[np.float32]]) -> int:
    return sampler.sample(rows[0]).token if len(rows) else 0


def ratio(baseline: list[float], measured: list[float]) -> float:
    """Return how fast `measured` is, with `baseline` as 1: of the medians of seconds."""
    return statistics.median(baseline) / statistics.median(measured)


def memory_bytes(process: psutil.Process) -> int:
    """Return a process's memory: its own and its share of common pages where the system tells."""
    full = process.memory_full_info()
    return int(getattr(full, "pss", 0) or full.rss)


def memory_mb(pid: int | None) -> float | None:
    """Return a process's memory in MB, with its share of what it has in common with others."""
    try:
        return memory_bytes(psutil.Process(pid)) / 1e6 if pid else None
    except psutil.Error:
        return None
