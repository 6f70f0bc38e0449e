"""A `NodeControl` that says what it is told to, and a thread that serves it on a real socket.

No network and no model. Edit the fake's fields like data; what was asked is in `calls`.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kwaai.api.control import control_listening
from kwaai.errors import KwaaiError
from kwaai.node.control import (
    ChainRow,
    ChainView,
    NodeStatus,
    P2pInfo,
    PeerRow,
    RequestView,
    Say,
    ServedRow,
    ServeRequest,
    ServiceRow,
    ShownCredentials,
    chain_view,
)
from kwaai.node.generate import (
    Finished,
    GenerationRequest,
    HopReport,
    PathReport,
    TextDelta,
)
from kwaai.testing.circuit_control import FakeCircuits
from kwaai.testing.generator import CARD, FakeGenerator
from kwaai.testing.intent_control import FakeIntents, intent_view
from kwaai.testing.knowledge_control import FakeKnowledge
from kwaai.testing.trust_control import FakeTrust
from kwaai.types import LayerRange

PEERS = tuple(f"12D3KooWFakePeer{letter}" for letter in "ABC")
PATH = PathReport(
    route="split",
    privacy="private",
    hops=(
        HopReport("here", "", LayerRange(0, 1), "f32", (0.5, 0.75), None, (0.1, 0.2)),
        HopReport("amber", PEERS[0], LayerRange(1, 4), "f16", (1.25, 2.0), (0.05, 0.1), None),
        HopReport("here", "", LayerRange(4, 8), "", None),
    ),
    predicted_tokens_s={"alone": None, "peer": 12.34, "split": 23.45},
    tried=("peer birch was busy",),
)


class PathGenerator(FakeGenerator):
    """A FakeGenerator that chooses a path too."""

    path: PathReport | None = PATH

    async def generate(
        self, request: GenerationRequest
    ) -> AsyncGenerator[TextDelta | Finished, None]:
        if self.path is not None and request.on_path is not None:
            request.on_path(self.path)
        async with contextlib.aclosing(super().generate(request)) as items:
            async for item in items:
                yield replace(item, path=self.path) if isinstance(item, Finished) else item


def chain_row(index: int, start: int, stop: int, state: str = "online") -> ChainRow:
    names = ("amber", "birch", "cedar")
    layers = LayerRange(start, stop)
    return ChainRow(layers, PEERS[index], names[index], "0.1.0", state, 0.0004, False, 4, 0.001)


def request_view(**changes: Any) -> RequestView:
    """Return a peer's request that waits."""
    view = RequestView(
        "00112233445566778899aabbccddeeff", "in", "request", PEERS[0], "amber", "MembershipVC",
        "pending", "", {"swarmName": "lab"}, "please", 1.8e9, 1.8e9,
    )  # fmt: skip
    return replace(view, **changes)


@dataclass
class FakeCredentials:
    """A CredentialControl that says what it is told to."""

    called: Callable[..., None]
    rows: list[RequestView] = field(default_factory=lambda: [request_view()])
    answer: RequestView = field(default_factory=lambda: request_view(direction="out"))
    shown: ShownCredentials = field(default_factory=lambda: ShownCredentials(PEERS[0], "", (), 0))

    async def request(
        self, peer: str, kind: str, claims: Mapping[str, Any], note: str
    ) -> RequestView:
        self.called("request", peer, kind, dict(claims), note)
        return self.answer

    async def offer(self, peer: str, credential: str, note: str) -> RequestView:
        self.called("offer", peer, credential, note)
        return self.answer

    async def approve(self, request_id: str, claims: Mapping[str, Any] | None) -> RequestView:
        self.called("approve", request_id, claims)
        return replace(self.rows[0], state="delivered", detail="urn:uuid:1")

    async def refuse(self, request_id: str, reason: str) -> RequestView:
        self.called("refuse", request_id, reason)
        return replace(self.rows[0], state="refused", detail=reason)

    async def requests(self) -> tuple[RequestView, ...]:
        self.called("requests")
        return tuple(self.rows)

    async def fetch(self, peer: str, kinds: Sequence[str], *, keep: bool) -> ShownCredentials:
        self.called("fetch", peer, tuple(kinds), keep)
        return self.shown

    async def status_list(self, url: str) -> str:
        self.called("status_list", url)
        return "{}"


@dataclass
class FakeNode:
    """A running node."""

    generator: PathGenerator = field(default_factory=PathGenerator)
    rows: list[ChainRow] = field(default_factory=lambda: [chain_row(0, 1, 3), chain_row(1, 5, 7)])
    known: list[PeerRow] = field(
        default_factory=lambda: [
            PeerRow(
                PEERS[0], "amber", "0.1.0", True, "direct", 0.0004, 1e8, ("demo [1,3) online",)
            ),
            PeerRow(PEERS[1], "birch\x1b[2J", "0.1.0", False, "none", None, None, (), 12.0),
        ]
    )
    blocks_max: int = 3
    refusal: Exception | None = None
    """Raised by whatever is asked next."""
    rtts: list[float | KwaaiError] = field(default_factory=lambda: [0.002, 0.001, 0.004, 0.003])
    gate: asyncio.Event | None = None
    """If set, `serve` and `drain` wait for it."""
    calls: list[tuple[object, ...]] = field(default_factory=list)
    credentials: FakeCredentials = field(init=False)
    trust: FakeTrust = field(init=False)
    intents: FakeIntents = field(init=False)
    circuits: FakeCircuits = field(init=False)
    knowledge: FakeKnowledge = field(default_factory=FakeKnowledge)

    def __post_init__(self) -> None:
        self.credentials = FakeCredentials(self._called)
        offer = request_view(direction="out", kind="offer", type="PeerEndorsementVC")
        self.trust = FakeTrust(self._called, PEERS, offer)
        self.intents = FakeIntents(self._called, intent_view(PEERS))
        self.circuits = FakeCircuits(self._called)

    def _called(self, *call: object) -> None:
        self.calls.append(call)
        if self.refusal is not None:
            raise self.refusal

    def status(self) -> NodeStatus:
        self._called("status")
        services = (ServiceRow("api", "running"), ServiceRow("libp2p", "backoff", 2, "port in use"))
        return NodeStatus(
            "online", PEERS[2], "cedar", "0.1.0", 42, 3.5, 0.01, 50_000_000, None, 2, 1, services
        )

    def p2p_info(self) -> P2pInfo:
        self._called("p2p_info")
        listen = (f"/ip4/192.0.2.1/tcp/8080/p2p/{PEERS[2]}",)
        return P2pInfo(PEERS[2], "cedar", listen, ("192.0.2.1:8081",), (), (), 2, 3)

    def peers(self) -> tuple[PeerRow, ...]:
        self._called("peers")
        return tuple(self.known)

    async def ping(self, peer: str, timeout_s: float) -> float:
        self._called("ping", peer, timeout_s)
        rtt = self.rtts.pop(0)
        if isinstance(rtt, KwaaiError):
            raise rtt
        return rtt

    async def connect(self, address: str, timeout_s: float) -> str:
        self._called("connect", address, timeout_s)
        return PEERS[0]

    async def chain(self, model: str, *, refresh: bool) -> ChainView:
        self._called("chain", model, refresh)
        return chain_view(CARD.name, CARD.handle, 8, self.rows, self.blocks_max)

    async def serve(self, request: ServeRequest, say: Say) -> ServedRow:
        self._called("serve", request)
        say("cutting 2 layers")
        await asyncio.to_thread(say, "loading 2 layers")
        if self.gate is not None:
            await self.gate.wait()
        layers = request.layers or LayerRange(3, 5)
        return ServedRow(CARD.name, CARD.handle, 8, layers, False, "online", 0, 4, 0.0015)

    async def unserve(self, model: str, layers: LayerRange | None) -> tuple[LayerRange, ...]:
        self._called("unserve", model, layers)
        return (layers or LayerRange(1, 3),)

    async def drain(self, grace_s: float) -> int:
        self._called("drain", grace_s)
        if self.gate is not None:
            await self.gate.wait()
        return 1

    def stop(self, grace_s: float) -> None:
        self._called("stop", grace_s)


@contextlib.contextmanager
def serving(node: FakeNode, path: Path) -> Iterator[asyncio.AbstractEventLoop]:
    """Serve `node` at `path` from a thread, as another process would; yield the thread's loop."""
    loop = asyncio.new_event_loop()
    ready, ended = threading.Event(), asyncio.Event()
    problems: list[BaseException] = []

    async def live() -> None:
        try:
            async with control_listening(node, path):
                ready.set()
                await ended.wait()
        except BaseException as error:
            problems.append(error)
            raise
        finally:
            ready.set()

    def run() -> None:
        with contextlib.suppress(Exception):  # told below
            loop.run_until_complete(live())
        loop.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(10), "the control socket did not come up"
    try:
        if problems:
            raise problems[0]
        yield loop
    finally:
        with contextlib.suppress(RuntimeError):  # closed: it has failed
            loop.call_soon_threadsafe(ended.set)
        thread.join(10)
        assert not thread.is_alive(), "the control socket did not close"
