"""Several nodes in one process over real links, for tests of sessions along paths: with real slice
workers, or with parts that compute nothing and do what a test tells them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from credentials.keys import PeerId, SecretKey
from kwaai.config import Config
from kwaai.errors import Busy, KwaaiError, UserError
from kwaai.inference.batch import Data, Ran
from kwaai.inference.host import HostStats
from kwaai.limits import COMPUTE_WEIGHT_MAX
from kwaai.net.links import Links
from kwaai.node.accounts import ServedLedger
from kwaai.node.avoid import AvoidList
from kwaai.node.directory import Directory
from kwaai.node.local_slices import LocalSlices
from kwaai.node.parts import Part
from kwaai.node.remote import RemotePlan
from kwaai.node.requesters import Requesters
from kwaai.node.shard_control import ShardControl
from kwaai.node.shards import ShardServer
from kwaai.node.slice_plan import LocalModel
from kwaai.node.swarm_generator import SwarmGenerator
from kwaai.types import LayerRange, ModelHandle
from kwaai.wire.records import NodeRecord, Served
from kwaai.wire.requester import HopPlan

HANDLE = ModelHandle("sha256:" + "ab" * 32)


class FakePart:
    """A Part without a model: a row goes out as it came in, one higher. Tokens become rows; the
    head gives logits that say how many parts a row has passed, and where it stood.
    """

    def __init__(
        self,
        layers: LayerRange,
        block_count: int,
        *,
        embd: int = 8,
        vocab: int = 32,
        context_tokens: int = 256,
        batch_tokens: int = 64,
        sessions: int = 8,
    ) -> None:
        self.layers, self.head = layers, layers.stop == block_count
        self.takes_tokens = layers.start == 0
        self.embd, self.vocab = embd, vocab
        self.context_tokens, self.batch_tokens = context_tokens, batch_tokens
        self.sessions_max = sessions
        self.positions: dict[Hashable, int] = {}
        self.steps: list[tuple[int, int]] = []
        """(position, count) of every step that was carried out."""
        self.problem: KwaaiError | None = None
        """What the next step fails with."""
        self.is_stuck = False
        """Steps are taken, and never done."""

    @property
    def stats(self) -> HostStats:
        return HostStats(len(self.positions), self.sessions_max, 0, 0, 0, 0, 0, 100, 1000.0)

    async def open(self, session: Hashable, weight: int = COMPUTE_WEIGHT_MAX) -> None:
        if len(self.positions) >= self.sessions_max:
            raise Busy("every session of this slice is taken", retry_after_s=1.0)
        self.positions[session] = 0

    def submit(
        self, session: Hashable, position: int, data: Data, outputs: int = 0
    ) -> asyncio.Future[Ran]:
        if self.positions.get(session) != position:
            raise UserError(f"the session stands at {self.positions.get(session)}, not {position}")
        future: asyncio.Future[Ran] = asyncio.get_running_loop().create_future()
        problem, self.problem = self.problem, None
        if problem is not None:
            raise problem
        self.positions[session] += len(data)
        self.steps.append((position, len(data)))
        if self.is_stuck:
            return future
        rows = self._rows(data, outputs)
        asyncio.get_running_loop().call_soon(_deliver, future, Ran(rows, 0.0001, 0.0002))
        return future

    def _rows(self, data: Data, outputs: int) -> Any:
        if self.takes_tokens:
            data = np.repeat(np.asarray(data, np.float32)[:, None], self.embd, axis=1)
        rows = np.asarray(data, np.float32) + np.float32(1)
        if not self.head:
            return rows
        logits = np.zeros((outputs, self.vocab), np.float32)
        for number, row in enumerate(rows[len(rows) - outputs :]):
            logits[number, int(row[0]) % self.vocab] = 1.0
        return logits

    async def rollback(self, session: Hashable, position: int) -> None:
        self.positions[session] = position

    async def close(self, session: Hashable) -> None:
        self.positions.pop(session, None)


def _deliver(future: asyncio.Future[Ran], ran: Ran) -> None:
    if not future.done():
        future.set_result(ran)


@dataclass
class Held:
    """HeldParts of a test."""

    parts: dict[tuple[ModelHandle, LayerRange], Part] = field(default_factory=dict)
    loading: dict[tuple[ModelHandle, LayerRange], float | Busy] = field(default_factory=dict)
    """What `load_part` answers, or raises."""

    def held(self, handle: ModelHandle) -> tuple[LayerRange, ...]:
        return tuple(layers for h, layers in self.parts if h == handle)

    def part(self, handle: ModelHandle, layers: LayerRange) -> Part | None:
        return self.parts.get((handle, layers))

    def divides(self, handle: ModelHandle, layers: LayerRange) -> bool:
        return (handle, layers) in self.loading

    def load_part(self, handle: ModelHandle, layers: LayerRange) -> float:
        loading = self.loading[handle, layers]
        if isinstance(loading, Busy):
            raise loading
        return loading


class Node:
    """Links, a server and a requester under one identity."""

    def __init__(self, name: str, seed: int) -> None:
        self.name = name
        self.links = Links(SecretKey(bytes([seed]) * 32))
        self.control = ShardControl(self.links)
        self.held = Held()
        self.ledger = ServedLedger()
        self.server = ShardServer(self.control, self.held, ledger=self.ledger)
        self.requesters = Requesters(self.control)
        self.address = ""

    @property
    def peer(self) -> PeerId:
        return self.links.peer

    def hold(self, part: Part, handle: ModelHandle = HANDLE) -> None:
        """Serve a part."""
        self.held.parts[handle, part.layers] = part

    async def kill(self) -> None:
        """End like a process that is killed: every connection breaks, nobody is told anything."""
        server, self.links._server = self.links._server, None
        if server is not None:
            server.close()
        for link in self.links.all():
            link._transport.abort()
        await asyncio.sleep(0)

    async def start(self) -> None:
        host, port = await self.links.start("127.0.0.1", 0)
        self.address = f"{host}:{port}"
        self.server.start()

    async def stop(self) -> None:
        await self.requesters.stop()
        await self.server.stop()
        await self.links.stop()

    async def serve(self, slices: LocalSlices, model: LocalModel, layers: LayerRange) -> None:
        self.held.parts[model.handle, layers] = await slices.acquire(model.name, layers)

    def hop(self, layers: LayerRange) -> HopPlan:
        return HopPlan(self.peer, layers, (self.address,))


def plan_of(
    model: LocalModel,
    hops: list[tuple[Node, LayerRange]],
    last: LayerRange | None,
    *,
    vocab: int,
    sampling: dict[str, object] | None = None,
    context_tokens: int | None = None,
) -> RemotePlan:
    return RemotePlan(
        handle=model.handle,
        block_count=model.block_count,
        hops=tuple(node.hop(layers) for node, layers in hops),
        names={node.peer: node.name for node, _ in hops},
        last=last,
        context_tokens=context_tokens or model.context_tokens,
        embd=model.embd,
        vocab=vocab,
        token_s=0.0,
        sampling=sampling,
    )


@dataclass
class Board:
    """A Directory of a test: what is pinned to it."""

    pinned: dict[PeerId, NodeRecord] = field(default_factory=dict)
    refreshed: int = 0

    def records(self, handle: ModelHandle | None = None) -> tuple[NodeRecord, ...]:
        return tuple(self.pinned.values())

    def record(self, peer: PeerId) -> NodeRecord | None:
        return self.pinned.get(peer)

    def link_addresses(self, peer: PeerId) -> tuple[str, ...]:
        record = self.pinned.get(peer)
        return () if record is None else record.links

    def has_met(self, peer: PeerId) -> bool:
        return peer in self.pinned

    async def refresh(self, handle: ModelHandle | None = None, timeout_s: float = 0.0) -> None:
        self.refreshed += 1

    def pin(
        self, node: Node, model: LocalModel, layers: Sequence[LayerRange], decode_us: int = 0
    ) -> None:
        """Announce that `node` serves `layers`."""
        now_s = time.time()
        served = [
            Served(
                handle=model.handle,
                model=model.name,
                block_count=model.block_count,
                layers=one,
                head=one.stop == model.block_count,
                state="online",
                context_tokens=model.context_tokens,
                sessions_max=model.sessions_max,
                sessions_free=model.sessions_max,
                batch_tokens=512,
                embd=model.embd,
                decode_us=decode_us,
                cells=model.cells,
            )
            for one in layers
        ]
        self.pinned[node.peer] = NodeRecord(
            peer=node.peer,
            sequence=1,
            issued_s=now_s,
            expires_s=now_s + 60,
            name=node.name,
            version="0",
            links=(node.address,),
            served=tuple(served),
        )


def generator_of(
    node: Node, config: Config, slices: LocalSlices, board: Board, avoided: AvoidList
) -> SwarmGenerator:
    directory = cast(Directory, board)
    return SwarmGenerator(config, slices, node.links, node.control, directory, avoided)
