"""What this node serves: ranges loaded, announced with what was measured, drained and withdrawn.

Sessions on them are `shards`'s, the workers `local_slices`'s, which range the swarm lacks
`kwaai.placement`'s. Issue 3, section 4.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from kwaai import limits
from kwaai.errors import Busy, KwaaiError, ModelNotFound, ResourceError, UserError
from kwaai.inference.host import SliceHost
from kwaai.intent.match import ModelFacts
from kwaai.log import get_logger
from kwaai.node.capabilities import model_facts
from kwaai.node.control import Say, ServedRow
from kwaai.node.directory import Directory
from kwaai.node.local_slices import LocalSlices
from kwaai.node.parts import Part
from kwaai.node.serving_news import is_about
from kwaai.node.serving_parts import Key, ServingParts
from kwaai.node.slice_plan import LocalModel
from kwaai.placement.paths import Candidate, choose_range
from kwaai.types import LayerRange, ModelHandle
from kwaai.wire.records import NodeRecord, Served

log = get_logger(__name__)

State = Literal["joining", "online", "draining", "offline"]


class Sessions(Protocol):
    """What `ShardServer` is asked here."""

    def sessions_on(self, part: Part) -> int: ...
    async def drain(self, grace_s: float, part: Part | None = None) -> None: ...


@dataclass(eq=False, slots=True)
class ServedSlice:
    """One range, from the decision to serve it until it is withdrawn."""

    model: LocalModel
    layers: LayerRange
    state: State = "joining"
    host: SliceHost | None = None
    source: ServedSlice | None = None
    """The divisible range of which a peer asked for this part."""

    @property
    def key(self) -> Key:
        """What it is known by among the parts."""
        return self.model.handle, self.layers


class Serving:
    """The ranges of one node. Belongs to one event loop; a HeldParts for the ShardServer."""

    def __init__(
        self,
        slices: LocalSlices,
        directory: Directory,
        links: Callable[[], tuple[str, ...]],
        memory_blocks: Callable[[LocalModel], int],
        parts: ServingParts | None = None,
    ) -> None:
        """`links`: host:port addresses to announce. `memory_blocks`: how many blocks fit now.
        `parts`: what may be loaded because peers ask for it; None: nothing.
        """
        self._slices, self._directory, self._links = slices, directory, links
        self._memory_blocks = memory_blocks
        self._parts = parts or ServingParts(0)
        self._loads: set[asyncio.Task[None]] = set()
        self._served: list[ServedSlice] = []
        self._announced: tuple[Served, ...] | None = None
        self._announced_links: tuple[str, ...] = ()
        self._sessions: Sessions | None = None
        self._is_draining = False
        self._wanted: ServedSlice | None = None
        """What the settings asked for."""

    def attach(self, sessions: Sessions) -> None:
        """Tell who counts and ends the sessions on what is served. Before the first `serve`."""
        self._sessions = sessions

    # What hops ask (HeldParts).

    def held(self, handle: ModelHandle) -> tuple[LayerRange, ...]:
        """Return the ranges that are served now."""
        return tuple(s.layers for s in self._served if self._is_online(s, handle))

    def part(self, handle: ModelHandle, layers: LayerRange) -> SliceHost | None:
        """Return the part that serves exactly `layers`, or None."""
        found = (s for s in self._served if s.layers == layers and self._is_online(s, handle))
        served = next(found, None)
        if served is None:
            return None
        if served.source is not None:
            self._parts.used(served.key)
        return served.host

    def divides(self, handle: ModelHandle, layers: LayerRange) -> bool:
        """Whether `layers` are a part of a divisible range that is served."""
        return self._source(handle, layers) is not None

    def load_part(self, handle: ModelHandle, layers: LayerRange) -> float:
        """Begin to load a part of a divisible range, unless that has begun; return the seconds
        after which to ask again. Raises Busy where it may not be loaded now.
        """
        source = self._source(handle, layers)
        if source is None:
            raise Busy("no range that has these layers is served now", retry_after_s=1.0)
        parts = [s for s in self._served if s.source is not None]
        if all(part.key != (handle, layers) for part in parts):
            self._parts.check((handle, layers), sum(part.host is None for part in parts))
            if len(parts) >= self._parts.most or len(self._served) >= limits.RECORD_SERVED_MAX:
                self._give_up_one(parts)
            part = ServedSlice(source.model, layers, source=source)
            self._parts.begun(part.key)
            self._served.append(part)
            self.announce()
            task = asyncio.create_task(self._load_part(part), name=f"load-part-{layers}")
            self._loads.add(task)
            task.add_done_callback(self._loads.discard)
        return limits.SERVING_PART_WAIT_S

    def _source(self, handle: ModelHandle, layers: LayerRange) -> ServedSlice | None:
        return next(
            (
                s for s in self._served
                if s.layers.start <= layers.start and layers.stop <= s.layers.stop
                and s.layers != layers and self._is_online(s, handle) and self._is_divisible(s)
            ),
            None,
        )  # fmt: skip

    def _is_divisible(self, served: ServedSlice) -> bool:
        """Whether its parts may be loaded: they are cut from the whole file."""
        if not self._parts.most or served.source is not None or len(served.layers) < 2:
            return False
        return served.model.entry.whole

    def _give_up_one(self, parts: list[ServedSlice]) -> None:
        """Make room for another part. Raises Busy where all of them are used."""
        idle = {part.key: part for part in parts if self._is_idle(part)}
        oldest = self._parts.oldest(list(idle))
        if oldest is None:
            raise Busy(
                "all parts that it may load are in use", retry_after_s=limits.SERVING_PART_WAIT_S
            )
        self._forget(idle[oldest])

    def _is_idle(self, part: ServedSlice) -> bool:
        sessions = self._sessions
        return part.host is not None and (sessions is None or not sessions.sessions_on(part.host))

    async def _load_part(self, part: ServedSlice) -> None:
        try:
            await self._load(part)
        except (KwaaiError, OSError) as error:
            self._parts.failed(part.key)
            log.info("part_not_loaded", layers=str(part.layers), problem=str(error))

    def _is_online(self, served: ServedSlice, handle: ModelHandle) -> bool:
        return served.state == "online" and served.model.handle == handle

    # What the owner asks.

    async def serve(self, name: str, layers: LayerRange | None, say: Say) -> ServedRow:
        """Load a range (None: what the swarm lacks most) and announce it; return when it is online.

        Raises UserError, ModelNotFound, ModelUnsupported, OutOfMemory.
        """
        return self._row(await self._serve(name, layers, say))

    async def _serve(self, name: str, layers: LayerRange | None, say: Say) -> ServedSlice:
        say(f"looking for {name}")
        model = await self._slices.model(name)
        if layers is None:
            say("asking the swarm what it lacks")
            layers = await self.choose(model)
        check_range(model.name, model.block_count, layers)
        for served in self._served:
            if served.model.handle == model.handle and served.layers == layers:
                if served.source is not None and served.host is not None:
                    served.source = None  # a peer wanted it before the owner did
                    self.announce()
                    return served
                raise UserError(f"{model.name} {layers} is served already", param="layers")
        served = ServedSlice(model, layers)
        self._served.append(served)
        self.announce()
        say(f"loading {model.name} {layers}")
        await self._load(served)
        return served

    async def _load(self, served: ServedSlice) -> None:
        try:
            served.host = await self._slices.acquire(served.model, served.layers)
        except BaseException:
            self._forget(served)
            raise
        if served not in self._served:  # withdrawn meanwhile
            self._forget(served)
            return
        served.state = "draining" if self._is_draining else "online"
        self.announce()
        log.info("range_served", model=served.model.name, layers=str(served.layers))

    async def unserve(
        self, name: str, layers: LayerRange | None, grace_s: float = limits.DRAIN_GRACE_S
    ) -> tuple[LayerRange, ...]:
        """Drain and withdraw a range, or all of a model's; return what was withdrawn."""
        model = await self._slices.model(name)
        chosen = [
            s for s in self._served
            if s.model.handle == model.handle and layers in (None, s.layers)
        ]  # fmt: skip
        if not chosen:
            what = model.name if layers is None else f"{model.name} {layers}"
            raise ModelNotFound(f"{what} is not served here; `kwaainet status` lists what is")
        chosen += [s for s in self._served if s.source in chosen and s not in chosen]
        for served in chosen:
            served.state = "draining"
        self.announce()
        await asyncio.gather(*(self._withdraw(served, grace_s) for served in chosen))
        return tuple(served.layers for served in chosen)

    async def choose(self, model: LocalModel) -> LayerRange:
        """Choose what the swarm lacks most and this machine can hold."""
        await self._directory.refresh(model.handle)
        records = self._directory.records(model.handle)
        candidates = self.candidates(records, model.handle)
        return choose_range(model.block_count, candidates, self._memory_blocks(model))

    @staticmethod
    def candidates(records: tuple[NodeRecord, ...], handle: ModelHandle) -> tuple[Candidate, ...]:
        """Return what nodes serve of a model, or will in a moment."""
        return tuple(
            Candidate(
                peer=record.peer,
                name=record.name,
                layers=served.layers,
                decode_s=served.decode_us / 1e6,
                rtt_s=-1.0,
                sessions_free=served.sessions_free,
                head=served.head,
            )
            for record in records
            for served in record.served
            if served.handle == handle and served.state in ("joining", "online")
        )

    def rows(self) -> tuple[ServedRow, ...]:
        """Say what is served, for `status`."""
        return tuple(self._row(served) for served in self._served)

    def served(self) -> tuple[Served, ...]:
        """Say what is served, as it is announced."""
        return tuple(self._record(served) for served in self._served)

    def model_facts(self) -> dict[ModelHandle, ModelFacts]:
        """Say what the models are that are served."""
        return {served.model.handle: model_facts(served.model) for served in self._served}

    # Announcing.

    def announce(self) -> None:
        """Tell the others what has changed: at once for a state, roughly for a speed."""
        now = self.served()
        links = self._links()
        if links != self._announced_links or not is_about(now, self._announced):
            self._announced, self._announced_links = now, links
            self._directory.set_served(now, links)

    async def watch(self) -> None:
        """Announce what changes by itself, for ever: speed, room, workers that come and go."""
        while True:
            for served in tuple(self._served):
                if served.host is None or served.state in ("draining", "offline"):
                    continue
                state = served.host.state
                is_part = served.source is not None
                if is_part and self._is_idle(served) and self._parts.is_over(served.key):
                    self._forget(served)
                    continue
                if state == "failed" and is_part:
                    self._parts.failed(served.key)
                    self._forget(served)
                    continue
                if state == "failed":
                    log.error("served_range_lost", layers=str(served.layers))
                    self._forget(served)
                    raise ResourceError(
                        f"the worker of {served.model.name} {served.layers} failed for good"
                    )
                served.state = "online" if state == "ready" else "joining"
            self.announce()
            await asyncio.sleep(limits.SERVING_WATCH_S)

    async def run(self, wanted: str, model: str, ready: Callable[[], None]) -> None:
        """Serve what the settings ask for (`none`, `auto` or START:STOP), and keep watch."""
        self.announce()
        if wanted != "none" and self._wanted not in self._served:
            self._wanted = await self._serve_wanted(wanted, model)
        ready()
        await self.watch()

    async def _serve_wanted(self, wanted: str, model: str) -> ServedSlice:
        layers = None
        if wanted == "auto":
            # Nodes that start together see what the ones before them have chosen.
            await asyncio.sleep(random.uniform(*limits.SERVING_AUTO_WAIT_S))
        else:
            start, _, stop = wanted.partition(":")
            layers = LayerRange(int(start), int(stop))
        return await self._serve(model, layers, lambda text: log.info("serving", step=text))

    async def drain(self, grace_s: float) -> None:
        """Announce that no new sessions are taken, and let the running ones end."""
        self._is_draining = True
        for served in self._served:
            served.state = "draining"
        self.announce()
        assert self._sessions is not None, "attach() comes first"
        await self._sessions.drain(grace_s)

    async def _withdraw(self, served: ServedSlice, grace_s: float) -> None:
        assert self._sessions is not None, "attach() comes first"
        if served.host is not None:
            await self._sessions.drain(grace_s, served.host)
        self._forget(served)

    def _forget(self, served: ServedSlice) -> None:
        with contextlib.suppress(ValueError):
            self._served.remove(served)
        if served.host is not None:
            self._slices.release(served.host)
            served.host = None
        if served.source is not None:
            self._parts.gone(served.key)
        self.announce()

    def _record(self, served: ServedSlice) -> Served:
        model, host = served.model, served.host
        stats = None if host is None else host.stats
        return Served(
            handle=model.handle,
            model=model.name,
            block_count=model.block_count,
            layers=served.layers,
            head=served.layers.stop == model.block_count,
            state=served.state,
            context_tokens=model.context_tokens,
            sessions_max=model.sessions_max,
            sessions_free=0 if host is None else host.sessions_free,
            batch_tokens=limits.BATCH_TOKENS_MAX if host is None else host.batch_tokens,
            embd=model.embd,
            decode_us=0 if stats is None else stats.decode_us,
            prefill_tokens_s=0.0 if stats is None else stats.prefill_tokens_s,
            cells=model.cells,
            divisible=self._is_divisible(served),
        )

    def _row(self, served: ServedSlice) -> ServedRow:
        model, host, sessions = served.model, served.host, self._sessions
        return ServedRow(
            model=model.name,
            handle=model.handle,
            block_count=model.block_count,
            layers=served.layers,
            head=served.layers.stop == model.block_count,
            state=served.state,
            sessions_open=0 if host is None or sessions is None else sessions.sessions_on(host),
            sessions_max=model.sessions_max,
            decode_s=0.0 if host is None else host.stats.decode_us / 1e6,
            backend="CPU" if host is None else host.backend,
        )


def check_range(model: str, block_count: int, layers: LayerRange) -> None:
    """Raise UserError for layers that no path could use."""
    if layers.stop > block_count:
        raise UserError(
            f"{model} has {block_count} layers, so {layers} is not in it", param="layers"
        )
    if not layers.start:
        rest = LayerRange(1, layers.stop) if layers.stop > 1 else "another"
        raise UserError(
            f"layer 0 of {model} is run by whoever asks, so nobody can use {layers}; take {rest}",
            param="layers",
        )
