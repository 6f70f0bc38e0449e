"""The Generator of a node in a swarm: every answer takes the path that is best for it.

Alone on this machine, through one peer, or split over several. Turns tokens into text; which path
is `routes`' and `opening`'s, sessions are `answer_path`'s. Every request is its own task: what runs
in the same worker at the same time is batched there.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncGenerator, Mapping
from copy import copy

from kwaai.config import Config
from kwaai.errors import (
    Busy,
    KwaaiError,
    ModelNotFound,
    PeerError,
    ResourceError,
    UserError,
    WorkerLost,
)
from kwaai.inference.sampling import Sampled, Sampler
from kwaai.inference.textstream import TextStream
from kwaai.limits import MAX_TOKENS_MAX, PATH_MODELS_MAX
from kwaai.log import get_logger
from kwaai.net.links import Links
from kwaai.node.answer_path import Output
from kwaai.node.avoid import AvoidList
from kwaai.node.circuit import Circuit
from kwaai.node.circuit_check import PathCheck
from kwaai.node.circuits import Circuits
from kwaai.node.directory import Directory
from kwaai.node.fast import encode_sampling
from kwaai.node.generate import (
    Finished,
    FinishReason,
    GenerationRequest,
    Json,
    ModelCard,
    TextDelta,
    Timings,
    TokenInfo,
)
from kwaai.node.local_slices import LocalSlices
from kwaai.node.opening import OpenPath, PathOpener, Wanted, Watch
from kwaai.node.path_intents import PathIntents
from kwaai.node.requesters import Requesters
from kwaai.node.routes import NO_DEMAND, Routes
from kwaai.node.shard_control import ShardControl
from kwaai.node.standings import NoStandings, Standings
from kwaai.node.swarm_model import SwarmModel
from kwaai.wire.messages import CloseReason

log = get_logger(__name__)


class SwarmGenerator:
    """See Generator. Belongs to one event loop; `start` it, and `stop` it in the end."""

    def __init__(
        self,
        config: Config,
        slices: LocalSlices,
        links: Links,
        control: ShardControl,
        directory: Directory,
        avoided: AvoidList,
        *,
        standings: Standings | None = None,
        watch: Watch | None = None,
        intents: PathIntents | None = None,
    ) -> None:
        """`standings`: whom this node trusts how far; None: everybody alike. `watch`: hears of
        every path's life. `intents`: signs what hops are told; None: they are told nothing.
        """
        self._config, self._slices, self._intents = config, slices, intents
        self.routes = Routes(config, slices, links, directory, avoided, standings)
        self.requesters = Requesters(control)
        self._opener = PathOpener(slices, self.routes, self.requesters, avoided, watch)
        standings = standings or NoStandings()
        self.circuits = Circuits(
            self._opener, PathCheck(config, standings), standings, self._find, self._wanted
        )
        self._models: dict[str, SwarmModel] = {}
        self._loading = asyncio.Lock()
        self._problem: KwaaiError | None = None
        self._default = ""
        self._paths: dict[str, str] = {}

    async def start(self) -> None:
        """Make the configured model ready to be asked. Raises what its load raised."""
        try:
            model = await self._load(self._config.model)
        except KwaaiError as error:
            self._problem = error
            raise
        self._problem, self._default = None, model.local.handle

    async def stop(self) -> None:
        """End all answers' sessions and the text workers. Idempotent."""
        self._problem = WorkerLost("the node is stopping", retry_after_s=5.0)
        await self.circuits.stop()
        await self.requesters.stop()
        models, self._models = list(self._models.values()), {}
        await asyncio.gather(*(model.stop() for model in models))

    # What a face asks.

    def models(self) -> list[ModelCard]:
        """See Generator."""
        models = sorted(self._models.values(), key=lambda m: m.local.handle != self._default)
        backends = {row.host.backend for row in self._slices.loaded() if row.host is not None}
        backend = ", ".join(sorted(backends)) or "CPU"
        return [
            model.card(self._paths.get(model.local.handle, "(not asked yet)"), backend)
            for model in models
        ]

    def health(self) -> Mapping[str, Json]:
        """See Generator."""
        name = self._config.model
        if self._problem is not None:
            return {"status": "failed", "model": name, "error": str(self._problem)}
        if not self._default:
            return {"status": "starting", "model": name}
        workers = {f"text-{m.local.name}": m.text.worker.state for m in self._models.values()}
        for row in self._slices.loaded():
            if row.host is not None:
                workers[f"{row.model.name}-{row.layers}"] = row.host.state
        is_ready = all(state == "ready" for state in workers.values())
        return {
            "status": "ok" if is_ready else "degraded",
            "model": name,
            "path": self._paths.get(self._default, "(not asked yet)"),
            "workers": {worker: str(state) for worker, state in workers.items()},
        }

    def stats(self) -> Mapping[str, float]:
        """See Generator."""
        hosts = [row.host for row in self._slices.loaded() if row.host is not None]
        models = self._models.values()
        return {
            "queue_requests": sum(model.waiting for model in models),
            "active_sessions": sum(host.stats.sessions_open for host in hosts),
            "workers": sum(host.state == "ready" for host in hosts),
            "worker_restarts": sum(host.stats.restarts for host in hosts),
            "batches": sum(host.stats.batches for host in hosts),
            "batch_tokens": sum(host.stats.rows for host in hosts),
            "paths_open": self.requesters.sessions_open,
            "paths_opened": self._opener.opened,
            "paths_failed": self._opener.failed,
            "paths_retried": self._opener.retried,
            **self.circuits.stats(),
        }

    async def generate(
        self, request: GenerationRequest
    ) -> AsyncGenerator[TextDelta | Finished, None]:
        """See Generator."""
        if request.max_tokens is not None and not 1 <= request.max_tokens <= MAX_TOKENS_MAX:
            raise UserError(f"max_tokens is 1 to {MAX_TOKENS_MAX}", param="max_tokens")
        asked_s = time.perf_counter()
        stream = TextStream(request.stop)
        opener: PathOpener | Circuit = self._opener
        if request.circuit is not None:
            opener, request = await self.circuits.on(request)
        model = await self._find(request.model)
        prompt = await model.prompt_tokens(request)
        wanted = self._wanted(model, request, prompt)
        # A circuit has a place of its own.
        async with model.place() if opener is self._opener else contextlib.nullcontext():
            opened = await opener.begin(wanted)
            try:
                self._paths[model.local.handle] = opened.report().text
                answer = _Answer(model, request, opened, prompt, wanted.context_tokens)
                async with contextlib.aclosing(answer.deltas(stream)) as deltas:
                    async for delta in deltas:
                        yield delta
            except KwaaiError as error:
                opener.note(error)
                await opener.close(opened, CloseReason.FAILED)
                raise
            except BaseException:
                await opener.close(opened, CloseReason.CANCELLED)
                raise
            opener.done(opened)
            await opener.close(opened)
        yield Finished(
            finish_reason=answer.reason,
            prompt_tokens=len(prompt),
            completion_tokens=answer.count,
            timings=Timings(
                queue_s=opened.reading_s - asked_s,
                prefill_s=answer.first_s - opened.reading_s,
                decode_s=answer.ended_s - answer.first_s,
                first_token_s=answer.first_s - asked_s,
            ),
            path=opened.report(),
        )

    def _wanted(
        self, model: SwarmModel, request: GenerationRequest, prompt: tuple[int, ...]
    ) -> Wanted:
        route = request.route or self._config.route
        privacy = request.privacy or self._config.privacy
        params = request.sampling
        is_fast = privacy == "fast" and route != "alone"
        room = min(request.max_tokens or MAX_TOKENS_MAX, model.local.context_tokens - len(prompt))
        demand = request.demand or NO_DEMAND
        handle, intents = model.local.handle, self._intents
        return Wanted(
            model=model,
            prompt=prompt,
            context_tokens=len(prompt) + room,
            route=route,
            privacy=privacy,
            sampling=encode_sampling(params) if is_fast else {},
            demand=demand,
            on_path=request.on_path,
            intent=None if intents is None else intents.maker(handle, demand, privacy),
        )

    # Models.

    async def _find(self, name: str) -> SwarmModel:
        if self._problem is not None:
            raise copy(self._problem)  # the same one for ever would keep every request's frames
        if not self._default:
            raise ResourceError(
                f"{self._config.model} is still loading; try again in a moment", retry_after_s=2.0
            )
        if not name or name == self._config.model:
            return self._models[self._default]
        for model in self._models.values():
            if name in model.names:
                return model
        try:
            return await self._load(name)
        except ModelNotFound:
            known = self._models[self._default].local.name
            raise ModelNotFound(
                f"no model {name[:200]!r} here; this node answers with {known!r}", param="model"
            ) from None

    async def _load(self, name: str) -> SwarmModel:
        """Start a model's tokenizer, if it does not run. Raises ModelNotFound, Busy."""
        local = await self._slices.model(name)
        async with self._loading:
            known = self._models.get(local.handle)
            if known is not None:
                return known
            await self._make_room()
            model = SwarmModel(local)
            await model.start()
            self._models[local.handle] = model
            return model

    async def _make_room(self) -> None:
        if len(self._models) < PATH_MODELS_MAX:
            return
        for handle, model in tuple(self._models.items()):
            if handle != self._default and not model.running and not model.waiting:
                del self._models[handle]
                await model.stop()
                return
        raise Busy(f"{PATH_MODELS_MAX} models are in use; try again", retry_after_s=5.0)


class _Answer:
    """One answer's tokens as text, while the next token is being computed."""

    def __init__(
        self,
        model: SwarmModel,
        request: GenerationRequest,
        opened: OpenPath,
        prompt: tuple[int, ...],
        context_tokens: int,
    ) -> None:
        self._text, self._opened, self._room = model.text, opened, context_tokens - len(prompt)
        self._ends: frozenset[int] = frozenset() if request.ignore_eos else model.text.ends
        params = request.sampling
        seed = secrets.randbits(63) if params.seed is None else params.seed
        self._sampler = Sampler(params, prompt, seed=seed)
        self.reason: FinishReason = "length"
        self.count = 0
        self.first_s = self.ended_s = 0.0

    async def deltas(self, stream: TextStream) -> AsyncGenerator[TextDelta, None]:
        """Yield the answer. Raises what a part of the path raises."""
        async with contextlib.aclosing(self._tokens()) as tokens:
            async for sampled in tokens:
                self.count += 1
                if sampled.token in self._ends:
                    self.reason = "stop"
                    break
                piece = self._text.piece(sampled.token)
                text = stream.push(piece)
                yield TextDelta(text, (self._info(sampled, piece),))
                if stream.stopped:
                    self.reason = "stop"
                    break
        self.ended_s = time.perf_counter()
        if rest := stream.finish():
            yield TextDelta(rest)

    async def _tokens(self) -> AsyncGenerator[Sampled, None]:
        output = self._opened.output
        for number in range(self._room):
            sampled = self._choose(output)
            if number == 0:
                self.first_s = time.perf_counter()
            if number + 1 == self._room or sampled.token in self._ends:
                yield sampled
                return
            # While whoever asked gets this token, the next one is under way.
            ahead = asyncio.create_task(self._opened.path.decode(sampled.token))
            try:
                yield sampled
                output = await ahead
            finally:
                if not ahead.done():
                    ahead.cancel()
                    await asyncio.wait([ahead])
                if not ahead.cancelled():
                    ahead.exception()

    def _choose(self, output: Output) -> Sampled:
        if isinstance(output, tuple):
            if len(output) != 1:
                raise PeerError("a peer that samples gave no token")
            return Sampled(output[0])
        return self._sampler.sample(output[-1])

    def _info(self, sampled: Sampled, piece: bytes) -> TokenInfo:
        top = tuple((self._text.piece(token), logprob) for token, logprob in sampled.top)
        return TokenInfo(sampled.token, piece, sampled.logprob, top)
