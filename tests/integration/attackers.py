"""Peers that speak the protocol and mean no good, for tests: a hop that lies, and an intruder.

Both have an identity of their own, as anybody may have. They use this program's own links and
messages, and break the rules above those.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from credentials.keys import PeerId, SecretKey
from kwaai.errors import KwaaiError
from kwaai.intent.offer import CredentialRef
from kwaai.net.channel import Channel
from kwaai.net.libp2p_network import Libp2pNetwork
from kwaai.net.links import Links
from kwaai.node.capabilities import Capability, capabilities_of
from kwaai.node.directory import Directory
from kwaai.node.hop import ServedSession, _Work
from kwaai.node.local_slices import LocalSlices
from kwaai.node.negotiate import Negotiator
from kwaai.node.slice_plan import LocalModel
from kwaai.testing.shards import Board, Node
from kwaai.trust.tiers import Floors, Tier
from kwaai.types import LayerRange
from kwaai.wire.codec import WireError
from kwaai.wire.messages import Control, Failed, Open, Opened, Refused
from kwaai.wire.records import Served
from kwaai.wire.requester import HopPlan, plan_opens
from kwaai.wire.session import Output
from kwaai.wire.shard import encode, parse_control
from kwaai.wire.step import Step, StepKind, encode_step, parse_data
from kwaai.wire.tensors import Dtype

SEED_FIRST = 100
_SEEDS = itertools.count(SEED_FIRST)

Answer = Callable[["LyingSession", Output], Awaitable[None]]
"""What a lying hop does instead of sending an output."""


def changed(step: Output, /, **changes: Any) -> Step:
    """Return a step with other fields."""
    assert isinstance(step, Step)
    return replace(step, **changes)


class LyingSession(ServedSession):
    """A session that computes what it should, and then answers as it likes."""

    answer: Answer
    from_step = 0
    """Honest before that."""
    begun = 0
    """How often it was asked."""

    async def live(self) -> None:
        type(self).begun += 1
        await super().live()

    async def _send(self, work: _Work, output: Output) -> None:
        self._sending = work
        if output.step < self.from_step:
            await super()._send(work, output)
        else:
            await type(self).answer(self, output)

    async def honest(self, output: Output) -> None:
        """Send what should be sent."""
        await super()._send(self._sending, output)

    async def send(self, *parts: Any) -> None:
        """Send anything to the next hop."""
        assert self._out is not None
        await self._out.send(*parts)

    async def send_back(self, *parts: Any) -> None:
        """Send anything to the hop before."""
        assert self._in is not None
        await self._in.send(*parts)

    async def tell(self, peer: PeerId, message: Control) -> None:
        """Send a control message to anybody that there is a link to."""
        await self._control.send(peer, message)


class Willing:
    """The policy of a node that takes whatever it is asked."""

    def __init__(self, served: Sequence[Served]) -> None:
        self._served = served

    def tier(self, peer: PeerId) -> Tier:
        return Tier.UNKNOWN

    def floors(self) -> Floors:
        return Floors()

    def capabilities(self) -> Sequence[Capability]:
        return capabilities_of(self._served, {})

    def credentials(self) -> Sequence[CredentialRef]:
        return ()


class LyingHop:
    """A node that joins the swarm, announces a range as the fastest of all, and lies."""

    def __init__(self, slices: LocalSlices, model: LocalModel, layers: LayerRange) -> None:
        self.slices, self.model, self.layers = slices, model, layers
        self._seed = next(_SEEDS)  # nobody has met this one yet
        self.node = Node("mallory", self._seed)
        self.network: Libp2pNetwork | None = None
        self.directory: Directory | None = None

        self.sessions: type[LyingSession] = LyingSession

    @property
    def peer(self) -> PeerId:
        return self.node.peer

    @property
    def asked(self) -> int:
        """How often it was asked for a session."""
        return self.sessions.begun + self.node.server.counters.refused

    async def join(self, bootstrap: str, *, holds_it: bool = True) -> None:
        await self.node.start()
        if holds_it:
            await self.node.serve(self.slices, self.model, self.layers)
        secret = SecretKey(bytes([self._seed]) * 32)
        self.network = Libp2pNetwork(secret, ["/ip4/127.0.0.1/tcp/0"], bootstrap=[bootstrap])
        self.directory = Directory(self.network, secret, name=self.node.name)
        board = Board()
        board.pin(self.node, self.model, [self.layers], decode_us=1)
        served = board.pinned[self.peer].served
        self.directory.set_served(served, [self.node.address])
        # It signs offers like everybody else: what is wrong with it comes after.
        self.node.server.admit = Negotiator(self.network, secret, Willing(served)).admit
        await self.network.start()
        await self.directory.start()

    async def leave(self) -> None:
        if self.directory is not None and self.network is not None:
            await self.directory.stop()
            await self.network.stop()
        await self.node.stop()


class Intruder:
    """A peer that opens sessions on a real node, and sends what it likes. One hop is its path."""

    def __init__(self, target: PeerId, address: str, model: LocalModel, layers: LayerRange) -> None:
        self.links = Links(SecretKey(secrets.token_bytes(32)))
        self.target, self.address, self.model, self.layers = target, address, model, layers
        self.told: list[Control] = []
        self.data: list[Output] = []
        self.lost: list[str] = []
        self._news = asyncio.Event()
        self.links.on_control(self._on_control)
        self.links.on_lost(lambda peer, reason: self._note(self.lost, reason))

    async def start(self) -> None:
        await self.links.start("127.0.0.1", 0)
        await self.links.get(self.target, (self.address,))

    async def stop(self) -> None:
        await self.links.stop()

    def _note(self, where: list[Any], what: Any) -> None:
        where.append(what)
        self._news.set()

    def _on_control(self, peer: PeerId, message: bytes) -> None:
        self._note(self.told, parse_control(message))

    def _on_data(self, message: bytes) -> None:
        try:
            self._note(self.data, parse_data(message))
        except WireError as error:
            self._note(self.lost, error.message)

    async def until(self, holds: Callable[[], Any], timeout_s: float = 10.0) -> Any:
        """Wait for something that a message changes."""
        async with asyncio.timeout(timeout_s):
            while not (value := holds()):
                self._news.clear()
                await self._news.wait()
        return value

    def open_message(self, **changes: Any) -> Open:
        """Return an OPEN of a path of one hop, or another one."""
        count = self.model.block_count
        [wanted] = plan_opens(
            secrets.token_bytes(16),
            self.model.handle,
            count,
            HopPlan(self.links.peer, LayerRange(self.layers.stop, count)),
            [HopPlan(self.target, self.layers)],
            context_tokens=64,
        )
        return replace(wanted, **changes)

    async def say(self, message: Control | bytes) -> None:
        data = message if isinstance(message, bytes) else encode(message)
        await self.links.send_control(self.target, data)

    async def open(self, **changes: Any) -> tuple[Open, Channel]:
        """Open a session; raises AssertionError unless it is opened."""
        wanted = self.open_message(**changes)
        channel = self.links.open_channel(self.target, wanted.session, self._on_data)
        await self.say(wanted)
        answer = await self.until(lambda: self.answers(wanted.session, Opened, Refused))
        assert isinstance(answer[0], Opened), answer
        return wanted, channel

    def answers(self, session: bytes, *kinds: type) -> list[Any]:
        """Return what was told of a session."""
        return [m for m in self.told if isinstance(m, kinds) and m.session == session]

    def step(self, wanted: Open, number: int, position: int, count: int, **changes: Any) -> Step:
        """Return a step that is as it should be, but for `changes`."""
        rng = np.random.default_rng(position)
        rows = rng.normal(0, 1, (count, self.model.embd)).astype(np.float32)
        fields: dict[str, Any] = {
            "session": wanted.session,
            "step": number,
            "kind": StepKind.PREFILL,
            "handle": wanted.handle,
            "layers": wanted.layers,
            "position": position,
            "count": count,
            "outputs": 1,
            "dtype": Dtype.F32,
            "rows": rows,
        }
        return Step(**{**fields, **changes})

    async def run(self, channel: Channel, step: Step) -> Step:
        """Send a step; return its answer."""
        had = len(self.data)
        await channel.send(*encode_step(step))
        await self.until(lambda: len(self.data) > had)
        answer = self.data[-1]
        assert isinstance(answer, Step)
        assert answer.step == step.step
        return answer

    async def failure(self, session: bytes) -> Failed:
        """Wait until the node says that a session failed."""
        answer = await self.until(lambda: self.answers(session, Failed))
        failed: Failed = answer[0]
        return failed


async def ignored(work: Awaitable[Any]) -> None:
    """Await what may fail: the other side closes on attackers."""
    with contextlib.suppress(KwaaiError):
        await work
