"""Hops that lie, in a swarm of real processes: nothing breaks, honest answers go on, and an error
names the peer that is at fault.

What a node thinks of a message by itself is in tests/unit; here it is the swarm that is looked at.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from attack_scene import RANGES, Scene, attacked_swarm
from attackers import LyingHop, LyingSession, changed
from failing_swarm import Reply

from credentials.keys import SecretKey
from kwaai.errors import Busy, PeerLost, PeerMisbehaved
from kwaai.net.links import Links
from kwaai.node import shards
from kwaai.types import LayerRange
from kwaai.wire.frames import Reason
from kwaai.wire.messages import (
    Cancel,
    Close,
    CloseReason,
    Failed,
    Open,
    Opened,
    Probe,
    Progress,
)
from kwaai.wire.session import Output
from kwaai.wire.step import Tokens, encode_step, encode_tokens
from kwaai.wire.tensors import Dtype

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(120),
    pytest.mark.slow,  # processes of its own
]

FIRST, LAST = LayerRange(1, 5), LayerRange(3, 7)
"""Mallory's: two ranges in one, so that the path through it is the shortest."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    async with attacked_swarm(tmp_path_factory.mktemp("swarm")) as scene:
        yield scene


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def well(scene: Scene) -> AsyncIterator[None]:
    async with scene.stays_well():
        yield


# A hop that lies: the fastest of all, says its record.


async def _width(session: LyingSession, output: Output) -> None:
    step = changed(output)
    assert step.rows is not None
    rows = np.zeros((step.count, step.width + 1), np.float32)
    await session.send(*encode_step(changed(step, rows=rows)))


async def _nan(session: LyingSession, output: Output) -> None:
    step = changed(output)
    assert step.rows is not None
    await session.send(*encode_step(changed(step, rows=np.full_like(step.rows, np.nan))))


async def _type(session: LyingSession, output: Output) -> None:
    header, tensor = encode_step(changed(output))
    await session.send(header[:2] + b"\x07" + header[3:], tensor)


async def _cut(session: LyingSession, output: Output) -> None:
    header, tensor = encode_step(changed(output))
    await session.send(header, tensor[:-4])


async def _position(session: LyingSession, output: Output) -> None:
    await session.send(*encode_step(changed(output, position=changed(output).position + 1)))


async def _future(session: LyingSession, output: Output) -> None:
    await session.send(*encode_step(changed(output, step=output.step + 1)))


async def _layers(session: LyingSession, output: Output) -> None:
    await session.send(*encode_step(changed(output, layers=session.wanted.layers)))


async def _session(session: LyingSession, output: Output) -> None:
    await session.send(*encode_step(changed(output, session=b"x" * 16)))


async def _tokens(session: LyingSession, output: Output) -> None:
    tokens = Tokens(output.session, output.step, changed(output).position, (7,))
    await session.send(encode_tokens(tokens))


async def _garbage(session: LyingSession, output: Output) -> None:
    await session.send(secrets.token_bytes(5000))


async def _backwards(session: LyingSession, output: Output) -> None:
    await session.send_back(*encode_step(changed(output)))


async def _control_garbage(session: LyingSession, output: Output) -> None:
    await session._control.links.send_control(session.wanted.next, b"\xff nonsense")
    await session.honest(output)


async def _broken(session: LyingSession, output: Output) -> None:
    raise PeerMisbehaved("it has had enough", peer=session._me)


async def _busy(session: LyingSession, output: Output) -> None:
    """Busy, come back: what ends an answer must not be forgiven for a polite word."""
    raise Busy("it is busy", retry_after_s=0.001)


LIES: dict[str, Callable[[LyingSession, Output], Awaitable[None]]] = {
    "width": _width,
    "nan": _nan,
    "type": _type,
    "cut": _cut,
    "position": _position,
    "future": _future,
    "layers": _layers,
    "session": _session,
    "tokens": _tokens,
    "garbage": _garbage,
    "backwards": _backwards,
    "control garbage": _control_garbage,
    "broken": _broken,
    "busy": _busy,
}
Lie = Callable[[str, LayerRange, int], Awaitable[LyingHop]]


@pytest_asyncio.fixture(loop_scope="module")
async def mallory(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    """`await mallory(answer, layers, from_step)`: mallory has joined, and is known."""
    joined: list[LyingHop] = []

    async def join(
        answer: Any, layers: LayerRange, from_step: int, kind: type[LyingSession] = LyingSession
    ) -> LyingHop:
        class Session(kind):  # type: ignore[valid-type,misc]
            pass

        Session.answer, Session.from_step = answer, from_step
        monkeypatch.setattr(shards, "ServedSession", Session)
        hop = LyingHop(scene.slices, scene.model, layers)
        hop.sessions = Session
        joined.append(hop)
        await hop.join(scene.bootstrap, holds_it=answer is not None)
        await known(scene, hop, True)
        return hop

    yield join
    for hop in joined:
        await hop.leave()
        await known(scene, hop, False)


async def known(scene: Scene, hop: LyingHop, is_known: bool) -> None:
    async with asyncio.timeout(10):
        while is_known != any(r["peer"] == hop.peer for r in (await scene.swarm.peers()).values()):
            await asyncio.sleep(0.05)


async def ask_through(scene: Scene, hop: LyingHop) -> Reply:
    """Ask until the path goes through mallory: round trips decide too."""
    before = hop.asked
    for _ in range(20):
        reply = await scene.ask()
        if hop.asked > before:
            return reply
        assert reply.is_whole, reply.error
        for link in hop.node.links.all():  # the next one is measured anew
            link.goodbye_and_end(Reason.STOPPING, "again")
    raise AssertionError("mallory is never asked")


def blamed(scene: Scene, reply: Reply, hop: LyingHop) -> None:
    """The answer broke off with a clear error that names mallory; what came before is right."""
    assert reply.error, "mallory did not break it"
    assert f"mallory ({hop.peer})" in reply.error
    assert reply.code.startswith("peer_"), reply.code
    assert scene.right.text.startswith(reply.text)


@pytest.mark.parametrize(
    ("lie", "layers"),
    [(lie, layers) for lie in LIES for layers in (FIRST, LAST)],
)
async def test_a_hop_that_answers_wrong(
    scene: Scene, mallory: Any, lie: str, layers: LayerRange
) -> None:
    """In the middle of an answer: an error that names it. Before the first token: another path."""
    hop = await mallory(LIES[lie], layers, 6)
    reply = await ask_through(scene, hop)
    blamed(scene, reply, hop)
    if lie != "control garbage":  # two that have lost each other each name the other
        assert reply.error.startswith("mallory"), reply.error
    assert reply.seconds < 10  # not the deadline of a whole answer
    assert await scene.swarm.avoided() <= {"mallory"}, "others are left alone"
    await scene.right_again()
    await hop.leave()

    other = await mallory(LIES[lie], layers, 0)
    reply = await ask_through(scene, other)
    assert reply.is_whole, reply.error
    assert reply.text == scene.right.text
    assert await scene.swarm.avoided() <= {"mallory"}, "others are left alone"


async def test_a_record_that_lies(scene: Scene, mallory: Any) -> None:
    """It says that it has layers, and has none."""
    hop = await mallory(None, FIRST, 0)
    reply = await ask_through(scene, hop)
    assert reply.is_whole, reply.error
    assert hop.asked == 1
    assert await scene.swarm.avoided() == {"mallory"}


# A hop that blames others. It may point at its neighbours, and then a link is avoided, not a node.


def _blame(who: Callable[[LyingSession], str]) -> Any:
    async def answer(session: LyingSession, output: Output) -> None:
        raise PeerLost("it is all their fault", peer=who(session))

    return answer


@pytest.mark.parametrize("layers", [FIRST, LAST])
async def test_a_hop_that_blames_its_honest_neighbour(
    scene: Scene, mallory: Any, layers: LayerRange
) -> None:
    """Again and again: nobody else is left alone for it, and other paths are taken."""
    victim = scene.swarm.hops[2] if layers == FIRST else scene.swarm.hops[0]
    hop = await mallory(_blame(lambda _: victim.peer), layers, 6)
    reply = await ask_through(scene, hop)
    assert victim.peer in reply.error, "what it says is told"
    assert hop.peer in reply.error, "and who says it"
    for _ in range(6):
        assert await scene.swarm.avoided() <= {"mallory"}
        reply = await scene.ask()
        assert reply.is_whole, reply.error
        assert reply.text == scene.right.text
    assert hop.asked == 1, "it is asked again at once"


@pytest.mark.parametrize("whom", ["requester", "stranger", "far"])
async def test_a_hop_that_blames_who_is_not_beside_it(
    scene: Scene, mallory: Any, whom: str
) -> None:
    """Nobody believes it: it is to blame itself."""
    blame = {
        "requester": scene.swarm.asker.peer,
        "stranger": Links(SecretKey(secrets.token_bytes(32))).peer,
        "far": scene.swarm.hops[0].peer,
    }[whom]
    layers = LAST
    if whom == "far":
        layers = RANGES[2]  # hop 2; node-2 is hop 0
    hop = await mallory(_blame(lambda _: blame), layers, 6)
    reply = await ask_through(scene, hop)
    blamed(scene, reply, hop)
    assert reply.error.startswith("mallory"), reply.error
    assert await scene.swarm.avoided() == {"mallory"}
    await scene.right_again()


# A hop that interferes with what is not its own, and otherwise does its work.


async def _interfere(session: LyingSession, output: Output) -> None:
    """Close, cancel and fail the session everywhere, and give it a second requester."""
    wanted = session.wanted
    for peer in {wanted.previous, wanted.next}:
        await session.tell(peer, Close(wanted.session, CloseReason.DONE))
        await session.tell(peer, Cancel(wanted.session, 0))
        await session.tell(peer, Probe(wanted.session))
        await session.tell(peer, Progress(wanted.session, wanted.hop, 9, 9))
        if peer != session.requester:
            await session.tell(peer, Failed(wanted.session, 3, peer, "busy", "no", 0))
            await session.tell(peer, Opened(wanted.session, 0, Dtype.F32, 1, 0, 0, 0))
            await session.tell(peer, changed_open(session))
    await session.honest(output)


def changed_open(session: LyingSession) -> Open:
    """Return an OPEN of the same session at a neighbour, with mallory as the requester."""
    wanted = session.wanted
    return replace(wanted, hop=0, hops=1, previous=session._me, next=session._me,
                   next_layers=LayerRange(wanted.layers.stop, wanted.block_count))  # fmt: skip


async def _replay(session: LyingSession, output: Output) -> None:
    """Every step twice, and the first one once more."""
    step = changed(output)
    kept = session.first = getattr(session, "first", step)  # type: ignore[attr-defined]
    for again in (step, step, kept):
        await session.send(*encode_step(again))


@pytest.mark.parametrize("layers", [FIRST, LAST])
@pytest.mark.parametrize("answer", [_interfere, _replay])
async def test_a_hop_that_meddles(
    scene: Scene, mallory: Any, answer: Any, layers: LayerRange
) -> None:
    hop = await mallory(answer, layers, 0)
    for _ in range(3):
        reply = await ask_through(scene, hop)
        assert reply.is_whole, reply.error
        assert reply.text == scene.right.text
    assert await scene.swarm.avoided() == set()


# A hop that is slow, or silent.


async def _never(session: LyingSession, output: Output) -> None:
    await asyncio.get_running_loop().create_future()


class _Silent(LyingSession):
    """Never opens."""

    async def _prepare(self) -> None:
        await asyncio.get_running_loop().create_future()


class _Boaster(LyingSession):
    """Says that it has sent what it keeps."""

    @property
    def progress(self) -> Progress:
        told = super().progress
        return replace(told, sent=told.received)


@pytest.mark.parametrize(
    ("kind", "layers", "within_s"),
    [(_Silent, LAST, 13), (LyingSession, LAST, 25), (_Boaster, LAST, 10), (_Boaster, FIRST, 25)],
)
async def test_a_hop_that_is_late(
    scene: Scene, mallory: Any, kind: type[LyingSession], layers: LayerRange, within_s: float
) -> None:
    hop = await mallory(_never, layers, 6, kind)
    reply = await ask_through(scene, hop)
    assert reply.seconds < within_s
    if kind is _Silent:
        assert reply.is_whole, reply.error
        assert reply.text == scene.right.text
    else:
        assert hop.peer in reply.error, reply.error
        assert scene.right.text.startswith(reply.text)
    assert await scene.swarm.avoided() <= {"mallory"}
    await scene.right_again()
