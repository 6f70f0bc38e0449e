"""From a request to a path that has read its prompt: chosen, opened, prefilled; or another one.

Retries here and nowhere else, and only before the first token. Samples nothing, knows no text.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from credentials.keys import PeerId
from kwaai.errors import KwaaiError, PathMissing, PeerError, PeerRefused
from kwaai.inference.host import SliceHost
from kwaai.intent.demand import Demand
from kwaai.limits import SHARD_BUSY_PAUSE_S_MAX, SHARD_BUSY_WAIT_S, SHARD_PATH_TRIES_MAX
from kwaai.log import get_logger
from kwaai.node.answer_path import AnswerPath, Output
from kwaai.node.avoid import AvoidList
from kwaai.node.generate import HopReport, PathReport
from kwaai.node.local_slices import LocalSlices
from kwaai.node.path_timings import PartTimings, median_and_99th
from kwaai.node.remote import RemotePlan
from kwaai.node.requesters import Requesters
from kwaai.node.routes import NO_DEMAND, Chosen, Routes
from kwaai.node.swarm_model import SwarmModel
from kwaai.placement.paths import Privacy, Route
from kwaai.trust.tiers import Tier
from kwaai.types import LayerRange
from kwaai.wire.messages import CloseReason
from kwaai.wire.requester import HopPlan

log = get_logger(__name__)

HERE = "here"

_REASONS = {
    "peer_unreachable": "it cannot be reached",
    "peer_lost": "the connection to it was lost",
    "peer_stalled": "it did not answer in time",
    "peer_misbehaved": "it broke the protocol",
    "peer_refused": "it refused",
}

OnPath = Callable[[PathReport], None]
MakeIntent = Callable[[Chosen], bytes]
"""Returns the signed intent for one path. Called anew for each that is tried: no hop takes one
twice."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What one answer needs of a path."""

    model: SwarmModel
    prompt: Sequence[int]
    context_tokens: int
    route: Route
    privacy: Privacy
    sampling: Mapping[str, Any]
    """For a last hop that samples."""
    demand: Demand = NO_DEMAND
    """What is asked of the path besides."""
    on_path: OnPath | None = None
    intent: MakeIntent | None = None
    """None: hops are told nothing of what is asked."""


@dataclass(eq=False, slots=True)
class OpenPath:
    """A path that has read its prompt. `PathOpener.close` it in the end."""

    chosen: Chosen
    privacy: Privacy
    path: AnswerPath
    hosts: list[SliceHost]
    tried: tuple[str, ...]
    demand: Demand = NO_DEMAND
    output: Output = ()
    reading_s: float = 0.0
    """When it began to read the prompt, of `time.perf_counter`."""
    is_closed: bool = False

    @property
    def peers(self) -> tuple[str, ...]:
        """The hops' peers, in order."""
        return tuple(hop.peer for hop in self.chosen.path.hops)

    def report(self) -> PathReport:
        """Say which path this is, and how it has gone so far."""
        path, timings, remote = self.chosen.path, self.path.timings, self.path.remote
        hops: list[HopReport] = []
        if path.first is not None:
            dtype = "" if remote is None else remote.dtype.name.lower()
            hops.append(_hop(HERE, "", path.first, dtype, timings.first))
        for number, hop in enumerate(path.hops):
            opened = None if remote is None else remote.opened.get(number)
            samples = path.last is None and number == len(path.hops) - 1
            dtype = "" if opened is None or samples else opened.dtype.name.lower()
            part = timings.hops.get(number, PartTimings())
            report = _hop(hop.name or hop.peer, hop.peer, hop.layers, dtype, part)
            hops.append(replace(report, tier=Tier(hop.tier).label, score=hop.trust))
        if path.last is not None:
            hops.append(_hop(HERE, "", path.last, "", timings.last))
        return PathReport(
            route=self.chosen.route,
            privacy=self.privacy,
            hops=tuple(hops),
            predicted_tokens_s=self.chosen.predicted_tokens_s,
            tried=self.tried,
            token_ms=median_and_99th(timings.token_s),
            links_ms=median_and_99th(timings.links_s),
            added_ms=median_and_99th(timings.added_s),
        )


class Watch(Protocol):
    """Whoever wants to know what becomes of paths. The seam for intents, receipts and evidence."""

    def on_opened(self, opened: OpenPath) -> None:
        """The hops have answered (`path.remote.offers`), and have got nothing yet. Raises PeerError
        with the peer whose answer does not hold.
        """

    def on_served(self, opened: OpenPath) -> None:
        """Every hop has done its part of an answer."""

    def on_failed(self, peer: str, error: KwaaiError) -> None:
        """A peer (PeerId) is named by what ended a path, or kept one from being opened."""

    def on_closed(self, opened: OpenPath, reason: CloseReason) -> None:
        """Told once of every path that was opened."""


class PathOpener:
    """Opens the paths of one node."""

    def __init__(
        self,
        slices: LocalSlices,
        routes: Routes,
        requesters: Requesters,
        avoided: AvoidList,
        watch: Watch | None = None,
    ) -> None:
        self._slices, self._routes, self._requesters = slices, routes, requesters
        self._avoided, self._watch = avoided, watch
        self.opened = self.failed = self.retried = 0

    async def begin(self, wanted: Wanted) -> OpenPath:
        """Choose a path, open it and give it the prompt; up to SHARD_PATH_TRIES_MAX paths. Where
        all that is left is busy, wait for it, SHARD_BUSY_WAIT_S at most.

        Raises PathMissing, the last path's PeerError, Busy, and WorkerLost for this node's parts.
        """
        left_s = SHARD_BUSY_WAIT_S
        while True:
            try:
                return await self._begin_any(wanted)
            except PeerRefused as error:
                pause_s = min(error.retry_after_s or 0.0, SHARD_BUSY_PAUSE_S_MAX)
                if not 0.0 < pause_s <= left_s:
                    raise
            left_s -= pause_s
            await asyncio.sleep(pause_s)

    async def _begin_any(self, wanted: Wanted) -> OpenPath:
        """As `begin`, without waiting."""
        tried: list[str] = []
        avoid: set[str] = set()
        chosen = await self._choose(wanted, frozenset())
        while True:
            if not self._is_loaded(wanted, chosen):
                # Loading measures: what was a guess is known then, and may decide otherwise.
                self._release(await self._load(wanted, chosen))
                chosen = await self._choose(wanted, frozenset(avoid))
            try:
                return await self._begin(wanted, chosen, tuple(tried))
            except PeerError as error:
                self.note(error)
                tried.append(error.message)
                if error.peer is None or error.peer in avoid or len(tried) >= SHARD_PATH_TRIES_MAX:
                    raise
                if error.accuser is None:
                    avoid.add(error.peer)
                try:
                    other = await self._choose(wanted, frozenset(avoid))
                except PathMissing:
                    raise error from None  # there is no other: this is what a person can act on
                if other.path.hops == chosen.path.hops:
                    raise
                chosen = other
                self.retried += 1
                log.info("path_retried", peer=error.peer, problem=error.message)

    async def open(self, wanted: Wanted, chosen: Chosen) -> OpenPath:
        """Open a path that was chosen before, and no other. Raises as `begin`; notes nothing."""
        return await self._begin(wanted, chosen, ())

    async def choose(self, wanted: Wanted) -> Chosen:
        """Choose the path that `begin` would try first. Raises PathMissing."""
        return await self._choose(wanted, frozenset())

    async def _choose(self, wanted: Wanted, avoid: frozenset[str]) -> Chosen:
        return await self._routes.choose(
            wanted.model.local,
            wanted.route,
            wanted.privacy,
            wanted.context_tokens,
            avoid,
            wanted.demand,
            len(wanted.prompt),
        )

    async def _begin(self, wanted: Wanted, chosen: Chosen, tried: tuple[str, ...]) -> OpenPath:
        way = chosen.path
        hosts = await self._load(wanted, chosen)
        opened: OpenPath | None = None
        try:
            path = AnswerPath(hosts[0], hosts[1] if way.last is not None else None)
            opened = OpenPath(chosen, wanted.privacy, path, hosts, tried, wanted.demand)
            if wanted.on_path is not None:
                wanted.on_path(opened.report())
            await path.open(self._requesters, self._plan(wanted, chosen))
            if path.remote is not None:
                if self._watch is not None:
                    self._watch.on_opened(opened)
                said = [path.remote.opened[hop] for hop in range(len(way.hops))]
                self._routes.remember([PeerId(peer) for peer in opened.peers], said)
            opened.reading_s = time.perf_counter()
            opened.output = await path.prefill(wanted.prompt)
        except BaseException:
            if opened is not None:
                await self.close(opened, CloseReason.FAILED)
            else:
                self._release(hosts)
            raise
        self.opened += 1
        return opened

    def _is_loaded(self, wanted: Wanted, chosen: Chosen) -> bool:
        """Whether everything of a path that this node runs itself does run."""
        handle = wanted.model.local.handle
        here = {row.layers for row in self._slices.loaded() if row.model.handle == handle}
        return {chosen.path.first, chosen.path.last} - {None} <= here

    async def _load(self, wanted: Wanted, chosen: Chosen) -> list[SliceHost]:
        """Take this node's own parts of a path; `_release` gives them back."""
        way, hosts = chosen.path, list[SliceHost]()
        assert way.first is not None  # block 0 goes with the embedding, which is the asker's
        try:
            for layers in (way.first, way.last):
                if layers is not None:
                    hosts.append(await self._slices.acquire(wanted.model.local, layers))
        except BaseException:
            self._release(hosts)
            raise
        return hosts

    def _plan(self, wanted: Wanted, chosen: Chosen) -> RemotePlan | None:
        way, model = chosen.path, wanted.model.local
        if not way.hops:
            return None
        return RemotePlan(
            handle=model.handle,
            block_count=model.block_count,
            hops=tuple(
                HopPlan(PeerId(hop.peer), hop.layers, chosen.addresses.get(hop.peer, ()))
                for hop in way.hops
            ),
            names={PeerId(hop.peer): hop.name for hop in way.hops if hop.name},
            last=way.last,
            context_tokens=wanted.context_tokens,
            embd=model.embd,
            vocab=wanted.model.text.vocab,
            token_s=way.token_s,
            sampling=wanted.sampling if way.last is None else None,
            intent=b"" if wanted.intent is None else wanted.intent(chosen),
        )

    async def close(self, opened: OpenPath, reason: CloseReason = CloseReason.DONE) -> None:
        """End a path's session everywhere. Idempotent."""
        try:
            await opened.path.close(reason)
        finally:
            self._release(opened.hosts)
            if not opened.is_closed:
                opened.is_closed = True
                if self._watch is not None:
                    self._watch.on_closed(opened, reason)

    def _release(self, hosts: list[SliceHost]) -> None:
        while hosts:
            self._slices.release(hosts.pop())

    # What came of it.

    def done(self, opened: OpenPath) -> None:
        """Note that every hop of a path has done its part."""
        self._routes.worked_together(opened.peers)
        steps_s = tuple(opened.path.timings.remote_s)
        self._routes.candidates.claims.measured(opened.peers, opened.chosen.path.token_s, steps_s)
        for peer in opened.peers:
            self._avoided.answered(peer)
        if self._watch is not None:
            self._watch.on_served(opened)

    def note(self, error: KwaaiError) -> None:
        """Note a failure: whoever is at fault is left alone for a while, unless it is only busy.

        Of two that say that it was the other, neither is: they are no neighbours for a while.
        """
        self.failed += 1
        peer = error.peer if isinstance(error, PeerError) else None
        if peer is None:
            return
        if isinstance(error, PeerError) and error.accuser is not None:
            self._routes.keep_apart(peer, error.accuser, error.code)
        elif not (isinstance(error, PeerRefused) and error.retry_after_s):
            self._avoided.failed(peer, _REASONS.get(error.code, error.code))
        if self._watch is not None:
            self._watch.on_failed(peer, error)


def _hop(name: str, peer: str, layers: LayerRange, dtype: str, part: PartTimings) -> HopReport:
    return HopReport(
        name=name,
        peer=peer,
        layers=layers,
        dtype=dtype,
        compute_ms=median_and_99th(part.compute_s),
        queue_ms=median_and_99th(part.queue_s),
        link_ms=median_and_99th(part.send_s),
    )
