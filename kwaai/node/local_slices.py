"""The slices that this machine runs for whoever asks: loaded once, shared, kept warm for a while.

Finds the model, checks the memory, cuts what is not cut, starts the worker and measures its speed.
Decides no ranges and knows no peers: slice_plan.py says what a range takes, placement chooses it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from copy import copy
from dataclasses import dataclass, field

from kwaai.config import Config
from kwaai.errors import Busy, KwaaiError, OutOfMemory, WorkerLost
from kwaai.inference.environment import measure_idle_share, worker_environment
from kwaai.inference.host import SliceHost
from kwaai.inference.warmup import warm_up
from kwaai.limits import SLICE_WARM_S, SLICE_WARM_UP_S, SLICES_LOADED_MAX
from kwaai.log import get_logger
from kwaai.models.library import Library
from kwaai.node.plan import available_bytes
from kwaai.node.slice_plan import LocalModel, check_memory, find_model, slice_spec
from kwaai.placement.ranges import Decision
from kwaai.types import LayerRange, ModelHandle

log = get_logger(__name__)

MODELS_REMEMBERED_MAX = 256  # names that were looked up; peers can make us look for handles


@dataclass(eq=False, slots=True)
class LoadedSlice:
    """One slice that is being loaded (`host` is None), or runs. `users`: who holds it now."""

    model: LocalModel
    layers: LayerRange
    task: asyncio.Task[SliceHost] = field(init=False)
    host: SliceHost | None = None
    users: int = 0
    reserved_bytes: int = 0
    end: asyncio.TimerHandle | None = None


class LocalSlices:
    """All slice workers of a node. Use it in one event loop."""

    def __init__(self, config: Config, library: Library, *, warm_s: float = SLICE_WARM_S) -> None:
        """`warm_s`: how long a slice that nobody holds stays loaded."""
        self._config, self._library, self._warm_s = config, library, warm_s
        self._models: dict[str, LocalModel] = {}
        self._slices: dict[tuple[ModelHandle, LayerRange], LoadedSlice] = {}
        self._memory, self._measuring = asyncio.Lock(), asyncio.Lock()
        self._environment: dict[str, str] | None = None
        self._endings: set[asyncio.Task[None]] = set()
        self._is_closed = False

    async def model(self, name: str) -> LocalModel:
        """Return what this machine has of a model, by name, path or handle.

        A whole file that is new is hashed, once. Raises ModelNotFound, ModelUnsupported.
        """
        known = self._models.get(name)
        if known is None:
            known = await asyncio.to_thread(find_model, name, self._config, self._library)
            if len(self._models) >= MODELS_REMEMBERED_MAX:
                self._models.clear()
            self._models[name] = self._models[known.handle] = known
        return known

    def loaded(self) -> tuple[LoadedSlice, ...]:
        """What is loaded or being loaded."""
        return tuple(self._slices.values())

    @property
    def sessions_open(self) -> int:
        """Sessions of all slices: none may be left when nobody asks any more."""
        return sum(s.host.sessions_open for s in self._slices.values() if s.host)

    async def acquire(self, model: str | LocalModel, layers: LayerRange) -> SliceHost:
        """Return the running slice of `layers`, loaded and measured; `release` gives it back.

        All layers are the model's own file: tokens in, logits out. Otherwise the range that begins
        with layer 0 takes tokens, the one that ends with the last layer gives logits, the others
        take and give rows. Raises ModelNotFound, ModelUnsupported for a range that is not here or
        cannot be cut, OutOfMemory with the numbers, and what the load raises.
        """
        found = model if isinstance(model, LocalModel) else await self.model(model)
        key = found.handle, layers
        loaded = self._slices.get(key)
        if loaded is not None and loaded.host is not None and loaded.host.state == "failed":
            await self._stop(key, loaded)
            loaded = self._slices.get(key)
        if self._is_closed:
            raise WorkerLost("the node is stopping", retry_after_s=5.0)
        if loaded is None:
            loaded = self._begin(found, layers)
        loaded.users += 1
        if loaded.end is not None:
            loaded.end.cancel()
            loaded.end = None
        try:
            return await asyncio.shield(loaded.task)
        except BaseException as error:
            self._release(loaded)
            raise copy(error) if isinstance(error, KwaaiError) else error from None

    def release(self, host: SliceHost) -> None:
        """Give back what `acquire` gave, once for each time. Nothing happens for one that has been
        stopped.
        """
        for loaded in self._slices.values():
            if loaded.host is host:
                self._release(loaded)
                return

    @contextlib.asynccontextmanager
    async def using(self, model: str, layers: LayerRange) -> AsyncIterator[SliceHost]:
        """Hold a slice as long as the context lasts."""
        host = await self.acquire(model, layers)
        try:
            yield host
        finally:
            self.release(host)

    async def close(self) -> None:
        """End everything, also what is held or being loaded. Idempotent."""
        self._is_closed = True
        for key, loaded in list(self._slices.items()):
            await self._stop(key, loaded)
        if self._endings:
            await asyncio.wait(self._endings)

    def _begin(self, model: LocalModel, layers: LayerRange) -> LoadedSlice:
        if len(self._slices) >= SLICES_LOADED_MAX:
            raise Busy(f"{SLICES_LOADED_MAX} slices are loaded; stop using one", retry_after_s=30.0)
        key = model.handle, layers
        loaded = self._slices[key] = LoadedSlice(model, layers)
        loaded.task = asyncio.create_task(self._load(loaded), name=f"load-{layers}")

        def ended(task: asyncio.Task[SliceHost]) -> None:
            if task.cancelled() or task.exception() is not None:
                if self._slices.get(key) is loaded:
                    del self._slices[key]
            else:
                loaded.host = task.result()

        loaded.task.add_done_callback(ended)
        return loaded

    async def _load(self, loaded: LoadedSlice) -> SliceHost:
        model, layers = loaded.model, loaded.layers
        await self._reserve(loaded)
        spec = await asyncio.to_thread(slice_spec, model, layers, self._library)
        if self._environment is None:
            share = await asyncio.to_thread(measure_idle_share)
            self._environment = worker_environment(share)
        host = SliceHost(spec, model.engine, self._environment)
        try:
            await host.start()
            async with self._measuring:  # one at a time: they would slow one another down
                await warm_up(host, SLICE_WARM_UP_S)
        except BaseException:
            await host.stop()
            raise
        stats = host.stats
        log.info(
            "slice_loaded",
            model=model.name,
            layers=str(layers),
            decode_us=stats.decode_us,
            prefill_tokens_s=round(stats.prefill_tokens_s),
        )
        return host

    async def _reserve(self, loaded: LoadedSlice) -> None:
        """Set memory aside for a slice. What nobody holds is ended to make room, oldest first."""
        async with self._memory:
            while True:
                available = await asyncio.to_thread(self._available)
                decision = check_memory(loaded.model, loaded.layers, available)
                if decision.fits:
                    loaded.reserved_bytes = decision.needed_bytes
                    return
                idle = [(k, s) for k, s in self._slices.items() if s.host and not s.users]
                if not idle:
                    raise self._out_of_memory(loaded, decision)
                await self._stop(*idle[0])

    def _available(self) -> int:
        """Memory for one more slice: what is free less what is promised, within the setting."""
        slices = list(self._slices.values())
        free = available_bytes(self._config.model_copy(update={"memory_limit_mb": None}))
        free -= sum(s.reserved_bytes for s in slices if s.host is None)
        if self._config.memory_limit_mb is not None:
            limit = self._config.memory_limit_mb * 1_000_000
            free = min(free, limit - sum(s.reserved_bytes for s in slices))
        return max(0, free)

    def _out_of_memory(self, loaded: LoadedSlice, decision: Decision) -> OutOfMemory:
        engine = loaded.model.engine
        return OutOfMemory(
            f"layers {loaded.layers} of {loaded.model.name}: {decision.reason}; take fewer layers, "
            f"or lower context_tokens ({engine.context_tokens}) or max_sessions ({engine.sessions})"
        )

    def _release(self, loaded: LoadedSlice) -> None:
        loaded.users -= 1
        key = loaded.model.handle, loaded.layers
        if loaded.users or self._slices.get(key) is not loaded:
            return

        def end() -> None:
            loaded.end = None
            del self._slices[key]  # now: nobody may take it any more
            task = asyncio.get_running_loop().create_task(self._stop(key, loaded))
            self._endings.add(task)
            task.add_done_callback(self._endings.discard)

        loaded.end = asyncio.get_running_loop().call_later(self._warm_s, end)

    async def _stop(self, key: tuple[ModelHandle, LayerRange], loaded: LoadedSlice) -> None:
        if self._slices.get(key) is loaded:
            del self._slices[key]
        if loaded.end is not None:
            loaded.end.cancel()
            loaded.end = None
        loaded.task.cancel()
        await asyncio.wait([loaded.task])
        if loaded.host is not None:
            await loaded.host.stop()
