"""All circuits of a node: made, found, ended when their time is over. See CircuitControl.

One circuit's dealings are `circuit`'s, who answers a request is the generator's.
docs/circuits.md.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from kwaai import limits
from kwaai.errors import Busy, CircuitMissing, KwaaiError, UserError, WorkerLost
from kwaai.intent.demand import demand_json, describe
from kwaai.log import get_logger
from kwaai.node.circuit import Circuit
from kwaai.node.circuit_check import PathCheck
from kwaai.node.circuit_control import CircuitRequest, CircuitView
from kwaai.node.generate import ChatMessage, GenerationRequest
from kwaai.node.intent_control import HopRow
from kwaai.node.kept_rows import shared
from kwaai.node.opening import HERE, PathOpener, Wanted
from kwaai.node.standings import Standings
from kwaai.node.swarm_model import SwarmModel

log = get_logger(__name__)

FindModel = Callable[[str], Awaitable[SwarmModel]]
WantedOf = Callable[[SwarmModel, GenerationRequest, tuple[int, ...]], Wanted]

_ENDINGS = ("A", " zebra", "\n")
"""What may follow a prefix: only the tokens that are there whatever does are kept."""


@dataclass(slots=True)
class _Kept:
    circuit: Circuit
    task: asyncio.Task[None]
    created_s: float


class Circuits:
    """Belongs to one event loop; `stop` it in the end."""

    def __init__(
        self,
        opener: PathOpener,
        check: PathCheck,
        standings: Standings,
        find_model: FindModel,
        wanted_of: WantedOf,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`find_model`: by the name that a request gives. `wanted_of`: what a request with so many
        tokens wants of a path.
        """
        self._opener, self._check, self._standings = opener, check, standings
        self._find_model, self._wanted_of, self._clock = find_model, wanted_of, clock
        self._kept: dict[str, _Kept] = {}
        self._making: Counter[str] = Counter()
        self._totals: Counter[str] = Counter()
        self._is_stopped = False

    # What the owner asks: CircuitControl.

    async def create(self, request: CircuitRequest) -> CircuitView:
        """See CircuitControl."""
        self._check_request(request)
        model = await self._find_model(request.model)
        self._check_room(model)
        handle = model.local.handle
        self._making[handle] += 1
        try:
            wanted = await self._wanted(model, request)
            circuit = Circuit(
                self._new_id(),
                request.name,
                wanted,
                self._opener,
                self._check,
                ttl_s=request.ttl_s,
                clock=self._clock,
            )
            await circuit.open()
            try:
                self._check_request(request)  # as long as opening took, others were made
            except KwaaiError:
                await circuit.stop()
                raise
        finally:
            self._making[handle] -= 1
        task = asyncio.create_task(self._live(circuit), name=f"circuit-{circuit.id}")
        kept = self._kept[circuit.id] = _Kept(circuit, task, time.time())
        view = self._view(kept)
        log.info("circuit_opened", circuit=circuit.id, hops=len(view.hops), kept=circuit.kept)
        return view

    def circuits(self) -> tuple[CircuitView, ...]:
        """See CircuitControl."""
        return tuple(self._view(kept) for kept in self._kept.values())

    def show(self, circuit: str) -> CircuitView:
        """See CircuitControl."""
        return self._view(self._get(circuit))

    async def close(self, circuit: str) -> CircuitView:
        """See CircuitControl."""
        kept = self._get(circuit)
        view = self._view(kept)
        self._forget(kept.circuit)
        await kept.circuit.end()
        await _cancel([kept.task])
        return view

    # What answers ask.

    async def on(self, request: GenerationRequest) -> tuple[Circuit, GenerationRequest]:
        """Return the circuit that a request names, and the request as the circuit takes it: what it
        asks of a path is what the circuit was made for. Raises CircuitMissing, UserError where the
        two differ, ModelNotFound.
        """
        circuit = self._get(request.circuit or "").circuit
        wanted, model = circuit.wanted, circuit.wanted.model
        if request.model and await self._find_model(request.model) is not model:
            raise UserError(
                f"circuit {request.circuit} is for {model.local.name!r}, not "
                f"{request.model[:200]!r}",
                param="model",
            )
        asked = (
            ("demand", request.demand, wanted.demand),
            ("route", request.route, wanted.route),
            ("privacy", request.privacy, wanted.privacy),
        )
        for name, value, pinned in asked:
            if value is not None and value != pinned:
                raise UserError(
                    f"circuit {request.circuit} was made with another {name}; leave it out, or "
                    "make another circuit",
                    param=name,
                )
        return circuit, replace(
            request,
            model=model.local.handle,
            demand=wanted.demand,
            route=wanted.route,
            privacy=wanted.privacy,
        )

    def stats(self) -> Mapping[str, float]:
        """Counters since the start, and how many there are."""
        totals = Counter(self._totals)
        for kept in self._kept.values():
            totals.update(_counters(kept.circuit))
        names = ("answers", "reroutes", "reused_tokens")
        counted = {f"circuit_{name}": float(totals[name]) for name in names}
        return {"circuits": float(len(self._kept)), **counted}

    async def stop(self) -> None:
        """End all of them, whatever is under way. Idempotent."""
        self._is_stopped = True
        kept, self._kept = list(self._kept.values()), {}
        await asyncio.gather(*(one.circuit.stop() for one in kept))
        await _cancel([one.task for one in kept])

    # Helpers.

    async def _live(self, circuit: Circuit) -> None:
        try:
            await circuit.run()
        finally:
            self._forget(circuit)
        log.info("circuit_ended", circuit=circuit.id, answers=circuit.answers)

    def _forget(self, circuit: Circuit) -> None:
        if self._kept.pop(circuit.id, None) is not None:
            self._totals.update(_counters(circuit))

    def _find(self, name: str) -> _Kept | None:
        by_id = self._kept.get(name)
        named = (kept for kept in self._kept.values() if name and kept.circuit.name == name)
        return by_id or next(named, None)

    def _get(self, name: str) -> _Kept:
        kept = self._find(name)
        if kept is None:
            raise CircuitMissing(
                f"there is no circuit {name!r:.80} here, or its time is over; see: kwaainet shard "
                "circuit list",
                param="circuit",
            )
        return kept

    def _new_id(self) -> str:
        while (circuit_id := secrets.token_hex(4)) in self._kept:
            pass
        return circuit_id

    def _check_request(self, request: CircuitRequest) -> None:
        if self._is_stopped:
            raise WorkerLost("the node is stopping", retry_after_s=5.0)
        if not 0 < request.ttl_s <= limits.CIRCUIT_TTL_S_MAX:
            most = limits.CIRCUIT_TTL_S_MAX / 60
            raise UserError(f"a circuit lasts up to {most:g} minutes", param="ttl_s")
        if len(request.name) > limits.CIRCUIT_NAME_CHARS_MAX or not request.name.isprintable():
            most = limits.CIRCUIT_NAME_CHARS_MAX
            raise UserError(f"a circuit's name has up to {most} printable characters", param="name")
        if self._find(request.name) is not None:
            raise UserError(f"there is a circuit {request.name!r:.80} already", param="name")

    def _check_room(self, model: SwarmModel) -> None:
        handle = model.local.handle
        making = self._making.total()
        if len(self._kept) + making >= limits.CIRCUITS_MAX:
            raise Busy(f"{limits.CIRCUITS_MAX} circuits are open; close one", retry_after_s=60.0)
        pinned = [kept.circuit.wanted.model.local.handle for kept in self._kept.values()]
        most = model.local.sessions_max - 1
        if pinned.count(handle) + self._making[handle] >= most:
            raise Busy(
                f"{max(0, most)} circuits are as many as {model.local.name} has sessions for, "
                "beside one for other answers; close one, or raise max_sessions",
                retry_after_s=60.0,
            )

    async def _wanted(self, model: SwarmModel, request: CircuitRequest) -> Wanted:
        """Return what each path of a circuit is opened for. Raises UserError, ContextExceeded."""
        asked = GenerationRequest(
            model.local.handle,
            request.prefix,
            route=request.route,
            privacy=request.privacy,
            demand=request.demand,
        )
        prefix = await self._prefix(model, request, asked) if request.prefix else ()
        wanted = self._wanted_of(model, asked, prefix)
        if prefix and wanted.sampling:
            raise UserError(
                "in fast mode a session samples as its first request asks, so no prefix is kept; "
                "leave out the prefix, or use privacy private",
                param="prefix",
            )
        # Whoever asks on it may use all of the context.
        return replace(wanted, context_tokens=model.local.context_tokens)

    async def _prefix(
        self, model: SwarmModel, request: CircuitRequest, asked: GenerationRequest
    ) -> tuple[int, ...]:
        """Return the tokens that every prompt with this beginning begins with."""
        found: tuple[int, ...] | None = None
        for ending in _ENDINGS:
            prompt: str | tuple[ChatMessage, ...] = request.prefix + ending
            if request.prefix_kind == "system":
                prompt = (ChatMessage("system", request.prefix), ChatMessage("user", ending))
            tokens = await model.prompt_tokens(replace(asked, prompt=prompt))
            found = tokens if found is None else shared(found, tokens)
        if not found:
            raise UserError(
                f"prompts of {model.local.name} that begin with this text have no token in common",
                param="prefix",
            )
        return found

    def _view(self, kept: _Kept) -> CircuitView:
        circuit, wanted = kept.circuit, kept.circuit.wanted
        chosen, local = circuit.chosen, wanted.model.local
        left_s = circuit.expires_s - self._clock()
        return CircuitView(
            id=circuit.id,
            name=circuit.name,
            model=local.name,
            handle=local.handle,
            state=circuit.state,
            problem=circuit.problem,
            route=wanted.route if chosen is None else chosen.route,
            privacy=wanted.privacy,
            hops=self._hops(circuit),
            demand=demand_json(wanted.demand),
            asks=describe(wanted.demand),
            prefix_tokens=circuit.kept,
            created_s=kept.created_s,
            expires_s=time.time() + left_s,
            answers=circuit.answers,
            reused=circuit.reused,
            reused_tokens=circuit.reused_tokens,
            reroutes=circuit.reroutes,
            checks=circuit.checks,
            check_ms=None if circuit.check_s is None else 1000 * circuit.check_s,
        )

    def _hops(self, circuit: Circuit) -> tuple[HopRow, ...]:
        if circuit.chosen is None:
            return ()
        path, rows = circuit.chosen.path, list[HopRow]()
        if path.first is not None:
            rows.append(HopRow(HERE, "", path.first))
        for hop in path.hops:
            standing = self._standings.standing(hop.peer)
            label = standing.tier.label
            rows.append(HopRow(hop.name or hop.peer, hop.peer, hop.layers, label, standing.score))
        if path.last is not None:
            rows.append(HopRow(HERE, "", path.last))
        return tuple(rows)


async def _cancel(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)


def _counters(circuit: Circuit) -> dict[str, int]:
    return {
        "answers": circuit.answers,
        "reroutes": circuit.reroutes,
        "reused_tokens": circuit.reused_tokens,
    }
