"""Measure what the chain across nodes costs: four node processes against stock llama.cpp, one run.

The nodes are a swarm on this machine (`swarm`) with real links between them, asked through the HTTP
API. Rounds are interleaved, so that what else the machine does hits both. Prints nothing; asserts
nothing. Who speaks HTTP, and to the control socket, is above this package: `Faces`.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np

from kwaai.config import Config
from kwaai.errors import PeerError, UserError
from kwaai.inference.environment import THREAD_WAITING, measure_idle_share, worker_environment
from kwaai.limits import BENCH_ROUNDS_MAX, BENCH_TOKENS_MAX, SWARM_COVERAGE_TIMEOUT_S
from kwaai.models.gguf import GGUFHeader
from kwaai.models.library import Library, ModelEntry
from kwaai.node.bench import (
    BenchReport,
    Sample,
    Say,
    machine,
    random_model,
    ratio,
    run_stock,
    scratch_directory,
    stock_workers,
)
from kwaai.node.bench_nodes import RunningSwarm, delayed_links, environment, idle_figures
from kwaai.node.runtime import percentile_ms
from kwaai.node.swarm import plan_swarm, start_swarm
from kwaai.store.home import Home, ensure_home

_RETRY_S = 0.2
_ENDS = ("eos_token_id", "eot_token_id", "eom_token_id")
_BAN = -100.0


class HttpAnswer(Protocol):
    """What a client saw of one streamed answer."""

    @property
    def started_s(self) -> float: ...
    @property
    def ended_s(self) -> float: ...
    @property
    def tokens(self) -> int: ...
    def sample(self) -> Sample: ...


class Faces(Protocol):
    """How a node is asked."""

    async def complete(
        self,
        url: str,
        model: str,
        prompt: tuple[int, ...],
        tokens: int,
        logit_bias: Mapping[str, float],
    ) -> HttpAnswer:
        """One greedy completion through the HTTP API. Raises PeerError."""

    def answer(self, home: Home, chat: Mapping[str, Any]) -> Mapping[str, Any]:
        """Have the node of `home` answer; return the `finished` event. Blocks."""


@dataclass(frozen=True, slots=True)
class SwarmBenchOptions:
    """What to measure. Either `model` (a name) or `shape` (random weights, written and removed)."""

    model: str | None
    shape: str | None
    quantisation: str = "Q8_0"
    nodes: int = 4
    prompt_tokens: int = 512
    tokens: int = 64
    repeat: int = 3
    hop_tokens: int = 400
    """Of the answer in which the hops are looked at."""
    simultaneous: tuple[int, ...] = (1, 2, 4, 8)
    delays_ms: tuple[int, ...] = (20, 80, 150)
    """One way."""
    short_prompt_tokens: int = 16
    """Where prefill is not what is measured."""
    delayed_tokens: int = 32
    idle_s: float = 10.0

    def __post_init__(self) -> None:
        for name, value, least, most in (
            ("prompt-tokens", self.prompt_tokens, 1, BENCH_TOKENS_MAX),
            ("tokens", self.tokens, 2, BENCH_TOKENS_MAX),
            ("repeat", self.repeat, 1, BENCH_ROUNDS_MAX),
        ):
            if not least <= value <= most:
                raise UserError(f"--{name} is {least} to {most}, not {value}", param=name)

    @property
    def context_tokens(self) -> int:
        """Room for the longest answer; a chat's template adds some tokens."""
        prompts = max(self.prompt_tokens + self.tokens, self.hop_tokens + 64)
        return prompts + 64


def quick(options: SwarmBenchOptions) -> SwarmBenchOptions:
    """Return the same in a few seconds: too little to mean much."""
    return SwarmBenchOptions(
        options.model,
        options.shape,
        options.quantisation,
        options.nodes,
        prompt_tokens=32,
        tokens=8,
        repeat=1,
        hop_tokens=16,
        simultaneous=(1, 2),
        delays_ms=(20,),
        short_prompt_tokens=8,
        delayed_tokens=4,
        idle_s=1.0,
    )


async def run_swarm_bench(
    config: Config, home: Home, options: SwarmBenchOptions, faces: Faces, progress: Say
) -> BenchReport:
    """Measure in a temporary directory of the home, which is removed. Raises KwaaiError."""
    with scratch_directory(home) as directory:
        scratch = Home(directory)
        if options.shape is not None:
            name, _ = await random_model(scratch, options.shape, options.quantisation, progress)
        else:
            name = options.model or config.model
            scratch.models.symlink_to(home.models)
        ensure_home(directory)
        entry = await asyncio.to_thread(Library(scratch.models).find, name)
        entry.check_whole()
        context = max(options.context_tokens, 128)
        config = config.model_copy(
            update={
                "context_tokens": context,
                "max_sessions": max(options.simultaneous),
                "use_gpu": False,
                "privacy": "private",
            }
        )
        bench = _SwarmBench(config, scratch, entry, options, faces, progress)
        return BenchReport(await bench.run())


class _SwarmBench:
    def __init__(
        self,
        config: Config,
        home: Home,
        entry: ModelEntry,
        options: SwarmBenchOptions,
        faces: Faces,
        say: Say,
    ) -> None:
        self._config, self._home, self._entry = config, home, entry
        self._options, self._faces, self._say = options, faces, say
        self._plan = plan_swarm(home, str(entry.path), options.nodes)
        self._stock = stock_workers(entry.path, config)
        self._random = np.random.default_rng(0)
        self._bias = {} if options.shape else _no_end(entry.header)
        self._samples: dict[str, Sample] = {}
        self._swarm: RunningSwarm
        self._waiting: dict[str, str] = {}

    async def run(self) -> dict[str, object]:
        try:
            share = await asyncio.to_thread(measure_idle_share)
            chosen = worker_environment(share)
            self._waiting = {name: chosen[name] for name in THREAD_WAITING if name in chosen}
            self._stock["stock_same_waiting"].environment = self._waiting
            for worker in self._stock.values():
                await worker.start()
            async with self._running():
                await self._rounds()
                hop = await self._hop()
                simultaneous = [await self._together(n) for n in self._options.simultaneous]
                self._say("nobody asks anything")
                idle = await idle_figures(self._swarm, self._options.idle_s)
                delays = await self._delays()
            return self._report(hop, simultaneous, idle, delays)
        finally:
            for worker in self._stock.values():
                await worker.stop()

    @contextlib.asynccontextmanager
    async def _running(self) -> AsyncIterator[None]:
        """Run the swarm; whoever has the scratch directory ends it."""
        self._say("starting the nodes")
        with environment(
            self._waiting
        ):  # their workers': on machines of their own the cores are quiet
            reports = await asyncio.to_thread(
                start_swarm, self._home, self._config, self._plan, self._say
            )
            self._swarm = RunningSwarm(self._home, tuple(reports), self._plan.ranges)
            await self._until_covered()
            yield

    async def _until_covered(self) -> None:
        """Wait until the nodes make a token together. Raises why they do not."""
        self._say("loading the layers")
        deadline = time.monotonic() + SWARM_COVERAGE_TIMEOUT_S
        while True:
            try:
                await self._ask(self._prompt(4), 2)
                return
            except PeerError:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(_RETRY_S)

    def _prompt(self, tokens: int) -> tuple[int, ...]:
        """Bytes, so that every vocabulary has them."""
        return tuple(self._random.integers(32, 127, tokens).tolist())

    async def _ask(self, prompt: tuple[int, ...], tokens: int) -> HttpAnswer:
        return await self._faces.complete(
            self._swarm.api, self._entry.name, prompt, tokens, self._bias
        )

    # The whole model against the chain.

    async def _rounds(self) -> None:
        options = self._options
        prompt = self._prompt(options.prompt_tokens)

        async def ask() -> Sample:
            return (await self._ask(prompt, options.tokens)).sample()

        kinds: dict[str, Callable[[], Awaitable[Sample]]] = {
            name: partial(asyncio.to_thread, run_stock, worker, prompt, options.tokens)
            for name, worker in self._stock.items()
        }
        kinds["swarm"] = ask
        for kind in kinds:  # warm the caches; not counted
            await kinds[kind]()
        order = list(kinds)
        for number in range(options.repeat):
            for kind in order[number % len(order) :] + order[: number % len(order)]:
                self._say(f"round {number + 1} of {options.repeat}: {kind}")
                self._samples.setdefault(kind, Sample()).add(await kinds[kind]())

    # One hop.

    async def _hop(self) -> Mapping[str, Any]:
        """Return the path of one long answer, with what its parts say of their time."""
        self._say("one long answer, hop by hop")
        chat = {
            "messages": [{"role": "user", "content": "Hello"}],
            "temperature": 0,
            "max_tokens": self._options.hop_tokens,
            "logit_bias": self._bias,
        }
        finished = await asyncio.to_thread(self._faces.answer, self._swarm.nodes[0].home, chat)
        return {**finished["path"], "tokens": finished["completion_tokens"]}

    @property
    def _links(self) -> int:
        """Links that a token crosses: to the first hop, between hops, and back."""
        return len(self._plan.ranges) + 1

    # Several at once.

    async def _together(self, count: int) -> dict[str, object]:
        self._say(f"{count} at once")
        options = self._options
        prompts = [self._prompt(options.short_prompt_tokens) for _ in range(count)]
        answers = await asyncio.gather(*(self._ask(p, options.tokens) for p in prompts))
        tokens = sum(answer.tokens for answer in answers)
        began_s = min(answer.started_s for answer in answers)
        took_s = max(answer.ended_s for answer in answers) - began_s
        gaps = [gap for answer in answers for gap in answer.sample().token_s]
        return {
            "requests": count,
            "tokens_s": tokens / took_s,
            "each_tokens_s": 1 / statistics.median(gaps),
            "token_ms_p50": percentile_ms(gaps, 0.5),
            "token_ms_p99": percentile_ms(gaps, 0.99),
        }

    # Far away.

    async def _delays(self) -> list[dict[str, object]]:
        rows: list[dict[str, object]] = []
        if not self._options.delays_ms:
            return rows
        self._say("starting the nodes again, behind relays")
        async with delayed_links(self._swarm) as relays:
            await self._until_covered()
            for delay_ms in (0, *self._options.delays_ms):
                self._say(f"{delay_ms} ms one way")
                for relay in relays:
                    relay.delay_s = delay_ms / 1000
                prompt = self._prompt(self._options.short_prompt_tokens)
                answer = await self._ask(prompt, self._options.delayed_tokens)
                token_s = answer.sample().token_s
                rows.append(
                    {
                        "one_way_ms": delay_ms,
                        "tokens_s": 1 / statistics.mean(token_s),
                        "token_ms_p50": percentile_ms(token_s, 0.5),
                        "travelling_ms": delay_ms * self._links,
                    }
                )
        return rows

    # The report.

    def _report(
        self,
        hop: Mapping[str, Any],
        simultaneous: Sequence[Mapping[str, object]],
        idle: Sequence[Mapping[str, object]],
        delays: Sequence[Mapping[str, object]],
    ) -> dict[str, object]:
        options, samples = self._options, self._samples
        stock, same, swarm = samples["stock"], samples["stock_same_waiting"], samples["swarm"]
        return {
            "machine": machine(),
            "model": {
                "name": self._entry.name,
                "bytes": self._entry.path.stat().st_size,
                "layers": self._plan.block_count,
                "nodes": options.nodes,
                "path": hop["text"],
                "prompt_tokens": options.prompt_tokens,
                "decoded_tokens": options.tokens,
                "rounds": options.repeat,
                "sessions_max": self._config.max_sessions,
                "thread_spins": self._waiting.get("GOMP_SPINCOUNT", "as set"),
            },
            "runs": [
                {"run": kind, **sample.report(options.prompt_tokens)}
                for kind, sample in samples.items()
            ],
            "ratios": {
                "decode_swarm_to_stock": ratio(stock.token_s, swarm.token_s),
                "prefill_swarm_to_stock": ratio(stock.prefill_s, swarm.prefill_s),
                "decode_swarm_to_stock_same_waiting": ratio(same.token_s, swarm.token_s),
                "prefill_swarm_to_stock_same_waiting": ratio(same.prefill_s, swarm.prefill_s),
            },
            "hop": self._hop_cost(hop),
            "parts": [_part(part) for part in hop["hops"]],
            "simultaneous": list(simultaneous),
            "delays": list(delays),
            "idle": list(idle),
        }

    def _hop_cost(self, hop: Mapping[str, Any]) -> dict[str, object]:
        links = self._links
        cost: dict[str, object] = {
            "added": "a token's time less the computing of all parts by their workers' clocks, "
            f"divided by the {links} links that it crosses",
            "link": "of that, what is left of the way through the hops after the time that they "
            "had the row: encoding, encryption, TCP, event loops",
            "tokens": hop["tokens"],
        }
        for name in ("added", "link"):
            figures = hop["added_ms" if name == "added" else "links_ms"] or (None, None)
            for share, ms in zip(("p50", "p99"), figures, strict=True):
                cost[f"{name}_us_{share}"] = None if ms is None else 1000 * ms / links
        return cost


def _part(part: Mapping[str, Any]) -> dict[str, object]:
    layers = part["layers"]
    row: dict[str, object] = {
        "part": f"{part['name']} [{layers['start']},{layers['stop']})",
        "rows_leave_as": part["dtype"] or None,
    }
    for key in ("compute_ms", "queue_ms", "link_ms"):
        median, high = part[key] or (None, None)
        row |= {f"{key}_p50": median, f"{key}_p99": high}
    return row


def _no_end(header: GGUFHeader) -> dict[str, float]:
    """Return a bias that keeps a real model from ending its answer."""
    found = (header.get(f"tokenizer.ggml.{name}", None) for name in _ENDS)
    return {str(token): _BAN for token in found if isinstance(token, int)}
