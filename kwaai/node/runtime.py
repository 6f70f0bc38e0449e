"""Start everything that answering with one model takes, and end it again: this wires a node.

Plan, cut, text worker, slice workers, engine, generator; in that order, and back.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections.abc import AsyncIterator, Callable, Sequence

from kwaai.config import Config
from kwaai.errors import KwaaiError, ModelUnsupported, WorkerLost
from kwaai.inference.chain import Chain
from kwaai.inference.engine import Engine
from kwaai.inference.environment import measure_idle_share, worker_environment
from kwaai.inference.text import TextModel
from kwaai.inference.together import together
from kwaai.log import get_logger
from kwaai.models.library import Library, ModelEntry
from kwaai.node.generate import ModelCard
from kwaai.node.generator import Loaded, NodeGenerator
from kwaai.node.plan import RunPlan, plan_run, slice_specs
from kwaai.store.home import Home
from kwaai.types import ModelHandle

log = get_logger(__name__)

Say = Callable[[str], None]
"""Told what is being done now, in a few words."""


class Runtime:
    """A model that is being loaded, or answers. Made by `open_runtime`."""

    def __init__(self, config: Config, home: Home, model: str) -> None:
        self.generator = NodeGenerator(model)
        self._config, self._library, self._model = config, Library(home.models), model
        self._stack = contextlib.AsyncExitStack()
        self._loaded: Loaded | None = None
        self.plan: RunPlan | None = None

    @property
    def path_text(self) -> str:
        """The ranges in order and who runs each; known once loaded."""
        if self._loaded is None or self.plan is None:
            return "(loading)"
        workers = self._loaded.chain.workers
        if not self.plan.is_chain:
            backend = self._loaded.card.backend
            return f"{self.plan.ranges[0]} whole model, {backend}, pid {workers[0].pid}"
        hops = zip(self.plan.ranges, workers, strict=True)
        return " -> ".join(f"{layers} pid {worker.pid}" for layers, worker in hops)

    @property
    def chain(self) -> Chain:
        """The workers, once loaded."""
        assert self._loaded is not None, "load() comes first"
        return self._loaded.chain

    def slice_stats(self) -> list[dict[str, object]]:
        """Milliseconds per pass of each slice: the last prefills' sum, decode's median and 99th."""
        if self._loaded is None:
            return []
        chain = self._loaded.chain
        rows: list[dict[str, object]] = []
        for layers, worker, timing in zip(chain.ranges, chain.workers, chain.timings, strict=True):
            rows.append(
                {
                    "range": str(layers),
                    "worker": worker.pid,
                    "prefill_ms": 1000 * sum(timing.prefill_s) if timing.prefill_s else None,
                    "decode_ms_p50": percentile_ms(timing.decode_s, 0.5),
                    "decode_ms_p99": percentile_ms(timing.decode_s, 0.99),
                }
            )
        return rows

    async def load(
        self, *, slices: int | None, local: bool, sessions: int, say: Say = lambda text: None
    ) -> None:
        """Load the model; afterwards the generator answers. Raises KwaaiError."""
        try:
            await self._load(slices=slices, local=local, sessions=sessions, say=say)
        except KwaaiError as error:
            self.generator.set_failed(error)
            raise

    async def _load(self, *, slices: int | None, local: bool, sessions: int, say: Say) -> None:
        say(f"looking for {self._model}")
        idle_share = await asyncio.to_thread(measure_idle_share)
        entry = await asyncio.to_thread(self._library.find, self._model)
        _check_tokenizer(entry)
        plan = plan_run(entry, self._config, slices=slices, local=local, sessions=sessions)
        say("checking the model's content (once)")
        manifest = await asyncio.to_thread(self._library.manifest, entry)
        if plan.is_chain:
            say(f"cutting {len(plan.ranges)} slices (once)")
        specs = await asyncio.to_thread(slice_specs, plan, self._library, None)
        say("loading the model")
        template = entry.header.get("tokenizer.chat_template", None)
        template = template if isinstance(template, str) else None
        text = TextModel(str(entry.path), template, plan.engine.context_tokens)
        chain = Chain(specs, plan.engine, worker_environment(idle_share))
        self._stack.push_async_callback(text.stop)
        self._stack.push_async_callback(chain.stop)
        started = time.perf_counter()
        await together([text.start(), chain.start()])
        engine = Engine(chain)
        engine.start()
        self._stack.push_async_callback(engine.stop)
        self.plan = plan
        card = _card(entry, plan, chain, manifest.handle)
        names = frozenset({entry.name, entry.path.stem, manifest.handle, self._model})
        self._loaded = Loaded(card, names, chain, engine, text)
        self.generator.set_loaded(self._loaded)
        seconds = round(time.perf_counter() - started, 3)
        log.info("model_loaded", model=entry.name, path=card.path, load_s=seconds)

    async def close(self) -> None:
        """End everything that was started, in reverse order."""
        if self._loaded:
            self.generator.set_failed(WorkerLost("the node is stopping", retry_after_s=5.0))
        await self._stack.aclose()


@contextlib.asynccontextmanager
async def open_runtime(
    config: Config,
    home: Home,
    *,
    model: str,
    slices: int | None = None,
    local: bool = False,
    sessions: int = 1,
    progress: Say = lambda text: None,
) -> AsyncIterator[Runtime]:
    """Load `model` and give the runtime; everything is ended on the way out. Raises KwaaiError."""
    runtime = Runtime(config, home, model)
    try:
        await runtime.load(slices=slices, local=local, sessions=sessions, say=progress)
        yield runtime
    finally:
        await runtime.close()


def percentile_ms(seconds: Sequence[float], share: float) -> float | None:
    """The `share` quantile in milliseconds, or None where nothing was measured."""
    if not seconds:
        return None
    if share == 0.5:
        return 1000 * statistics.median(seconds)
    ordered = sorted(seconds)
    return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _check_tokenizer(entry: ModelEntry) -> None:
    """Refuse a model that can only be a slice: llama.cpp ends a process that asks for tokens."""
    if entry.whole and entry.header.get("tokenizer.ggml.model", None) in ("no_vocab", "none"):
        raise ModelUnsupported(
            f"{entry.name} has no tokenizer, so it cannot read a prompt; use a complete GGUF file",
            param="model",
        )


def _card(entry: ModelEntry, plan: RunPlan, chain: Chain, handle: ModelHandle) -> ModelCard:
    return ModelCard(
        name=entry.name,
        handle=handle,
        context_tokens=plan.engine.context_tokens,
        created=int(entry.path.stat().st_mtime),
        path=" ".join(str(layers) for layers in plan.ranges),
        backend=str(chain.workers[0].info.get("backend", "CPU")),
    )
