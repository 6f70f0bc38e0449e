"""Intruders in a swarm of real processes: who asks a node for sessions and does what it may not.

What a node thinks of a message by itself is in tests/unit; here it is the swarm that is looked at.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import psutil
import pytest
import pytest_asyncio
from attack_scene import GROWTH_BYTES, Scene, attacked_swarm
from attackers import Intruder, ignored

from credentials.keys import PeerId, SecretKey
from kwaai.errors import PeerError
from kwaai.net.links import Links
from kwaai.types import LayerRange, ModelHandle
from kwaai.wire.messages import (
    Cancel,
    Close,
    CloseReason,
    Control,
    Failed,
    Opened,
    Probe,
    Refused,
    RefusedReason,
)
from kwaai.wire.step import StepKind, Tokens, encode_step, encode_tokens

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(120),
    pytest.mark.slow,  # processes of its own
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    async with attacked_swarm(tmp_path_factory.mktemp("swarm")) as scene:
        yield scene


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def well(scene: Scene) -> AsyncIterator[None]:
    async with scene.stays_well():
        yield


@pytest_asyncio.fixture(loop_scope="module")
async def intruder(scene: Scene) -> AsyncIterator[Intruder]:
    """Linked to node-2."""
    one = scene.intruder(scene.swarm.hops[0])
    await one.start()
    yield one
    await one.stop()


BAD_STEPS: dict[str, dict[str, Any]] = {
    "width": {"rows": np.zeros((2, 191), np.float32)},
    "nan": {"rows": np.full((2, 192), np.nan, np.float32)},
    "step that is to come": {"step": 7},
    "step that was another": {"step": 0, "position": 1},
    "position": {"position": 3},
    "context": {"rows": np.zeros((63, 192), np.float32), "count": 63},
    "layers": {"layers": LayerRange(2, 3)},
    "model": {"handle": ModelHandle("sha256:" + "00" * 32)},
    "session": {"session": b"y" * 16},
    "rollback": {"kind": StepKind.ROLLBACK, "position": 9, "count": 0, "outputs": 0, "rows": None},
}


async def test_steps_that_may_not_be(scene: Scene, intruder: Intruder) -> None:
    """Each ends its session, with a word about whose fault it is, and nothing else."""
    names = {**BAD_STEPS, "tokens": {}, "garbage": {}, "type": {}, "cut": {}}
    for name in names:
        wanted, channel = await intruder.open()
        await intruder.run(channel, intruder.step(wanted, 0, 0, 2))
        bad = replace(intruder.step(wanted, 1, 2, 2), **BAD_STEPS.get(name, {}))
        header, tensor = encode_step(bad)
        parts: tuple[Any, ...] = {
            "tokens": (encode_tokens(Tokens(wanted.session, 1, 2, (5,))),),
            "garbage": (secrets.token_bytes(300),),
            "type": (header[:2] + b"\x09" + header[3:], tensor),
            "cut": (header, tensor[:100]),
        }.get(name, (header, tensor))
        await channel.send(*parts)
        failed = await intruder.failure(wanted.session)
        assert failed.culprit == intruder.links.peer, name
        assert failed.code == "peer_misbehaved", name
        channel.close()
    assert not intruder.lost, "its link stays: it may have other sessions"
    await scene.is_well()


async def test_a_replay_is_computed_once(scene: Scene, intruder: Intruder) -> None:
    target = scene.swarm.hops[0]
    wanted, channel = await intruder.open()
    steps = [intruder.step(wanted, n, 2 * n, 2) for n in range(3)]
    answers = [await intruder.run(channel, step) for step in steps]
    before = await target.client.metrics()
    for step, answer in zip(steps, answers, strict=True):
        for _ in range(20):
            again = await intruder.run(channel, step)
            assert answer.rows is not None
            assert np.array_equal(np.asarray(again.rows), answer.rows)
    after = await target.client.metrics()
    assert after["hop_repeats_total"] - before["hop_repeats_total"] == 60
    assert after["hop_steps_total"] == before["hop_steps_total"]
    await intruder.say(Close(wanted.session, CloseReason.DONE))


async def test_a_stranger_in_somebody_elses_session(scene: Scene, intruder: Intruder) -> None:
    """Who knows a session's id, and is not part of it, can do nothing with it."""
    wanted, channel = await intruder.open()
    await intruder.run(channel, intruder.step(wanted, 0, 0, 2))
    stranger = scene.intruder(scene.swarm.hops[0])
    await stranger.start()
    theirs = stranger.links.open_channel(stranger.target, wanted.session, stranger._on_data)
    await ignored(theirs.send(*encode_step(stranger.step(wanted, 1, 2, 2))))
    messages: list[Control] = [
        Close(wanted.session, CloseReason.DONE),
        Cancel(wanted.session, 0),
        Probe(wanted.session),
        Refused(wanted.session, 0, RefusedReason.BUSY, "no", 0),
        Failed(wanted.session, 0, stranger.links.peer, "busy", "no", 0),
        *(Close(secrets.token_bytes(16), CloseReason.DONE) for _ in range(50)),  # guessed
    ]
    for message in messages:
        await stranger.say(message)
    mine = stranger.open_message(session=wanted.session)
    await stranger.say(mine)
    refused = await stranger.until(lambda: stranger.answers(wanted.session, Refused))
    assert refused[0].reason is RefusedReason.BAD_REQUEST
    assert not stranger.data
    answer = await intruder.run(channel, intruder.step(wanted, 1, 2, 2))
    assert answer.position == 2
    assert not intruder.answers(wanted.session, Failed, Refused)
    await stranger.stop()
    await intruder.say(Close(wanted.session, CloseReason.DONE))
    await scene.is_well()


async def test_opens_that_may_not_be(scene: Scene, intruder: Intruder) -> None:
    """What it does not hold, who is not at the ends, what is too long: refused, with the reason."""
    me, other = intruder.links.peer, PeerId(scene.swarm.hops[1].peer)
    rest = LayerRange(3, 8)
    for reason, changes in (
        (RefusedReason.NOT_HELD, {"layers": LayerRange(1, 2), "next_layers": LayerRange(2, 8)}),
        (RefusedReason.NOT_HELD, {"handle": ModelHandle("sha256:" + "11" * 32)}),
        (RefusedReason.TOO_LARGE, {"context_tokens": 1 << 20}),
        (RefusedReason.BAD_REQUEST, {"previous": other, "next": other}),
        (RefusedReason.BAD_REQUEST, {"hop": 1, "hops": 2, "previous": me}),
        (RefusedReason.BAD_REQUEST, {"previous": intruder.target, "hop": 1, "hops": 2}),
        (RefusedReason.UNREACHABLE_NEXT, {
            "hops": 2, "next": PeerId(Links(SecretKey(secrets.token_bytes(32))).peer),
            "next_layers": rest, "next_addresses": ("127.0.0.1:1", "nonsense", "[::1]:99999"),
        }),
    ):  # fmt: skip
        wanted = intruder.open_message(**changes)
        await intruder.say(wanted)
        answers = partial(intruder.answers, wanted.session, Refused, Opened)
        [refused] = await intruder.until(answers)
        assert isinstance(refused, Refused), changes
        assert refused.reason is reason, refused
        assert refused.message
    assert not intruder.lost
    await scene.is_well()


async def test_messages_that_are_none_end_the_link(scene: Scene) -> None:
    for nonsense in (b"\xff", b"\x01", secrets.token_bytes(60_000)):
        one = scene.intruder(scene.swarm.hops[0])
        await one.start()
        await one.open()
        await one.say(nonsense)
        await one.until(one.lost.copy)
        await one.stop()
    await scene.is_well()


async def test_another_version_is_refused(scene: Scene) -> None:
    target = scene.swarm.hops[0]
    future = Links(SecretKey(secrets.token_bytes(32)), versions=(7, 9))
    with pytest.raises(PeerError, match="version"):
        await future.get(PeerId(target.peer), (str(target.report["links"][0]),))
    await future.stop()
    await scene.is_well()


async def test_who_takes_every_session(scene: Scene, intruder: Intruder) -> None:
    """An honest requester hears who is busy, and gets its share soon; when the greedy one goes, all
    is free at once.
    """
    target = scene.swarm.hops[0]
    opens = [intruder.open_message() for _ in range(300)]
    for wanted in opens:
        intruder.links.open_channel(intruder.target, wanted.session, intruder._on_data)
        await intruder.say(wanted)
    await intruder.until(lambda: len(intruder.told) >= len(opens))
    refused = [m for m in intruder.told if isinstance(m, Refused)]
    assert {m.reason for m in refused} == {RefusedReason.BUSY}
    assert all(m.retry_after_ms for m in refused)
    held = len(intruder.told) - len(refused)
    assert (await target.client.metrics())["sessions_open"] == held
    reply = await scene.ask()
    if not reply.is_whole:
        assert target.peer in reply.error
        assert "busy" in reply.error
        assert await scene.swarm.avoided() == set(), "busy is no fault"
    await intruder.stop()
    await scene.swarm.settled(3)
    await scene.is_well()


@pytest.mark.parametrize("reads", [True, False])
async def test_a_flood_of_messages(scene: Scene, intruder: Intruder, reads: bool) -> None:
    """Whether it reads the answers or not: others are served, and memory is bounded."""
    target = scene.swarm.hops[0]
    process = psutil.Process(target.pid)
    before = process.memory_info().rss
    wanted, _ = await intruder.open()
    if not reads:
        for link in intruder.links.all():
            link._transport.pause_reading()
    not_held = {"layers": LayerRange(1, 2), "next_layers": LayerRange(2, 8)}

    async def flood() -> None:
        for number in range(8000):
            kinds = (
                Probe(wanted.session),
                intruder.open_message(**not_held) if number % 8 == 0 else Probe(wanted.session),
                Close(secrets.token_bytes(16), CloseReason.DONE),
            )
            await intruder.say(kinds[number % 3])

    flooding = asyncio.create_task(ignored(flood()))
    for _ in range(3):
        reply = await scene.ask()
        assert reply.is_whole, reply.error
        assert reply.text == scene.right.text
        assert reply.seconds < 10
    await asyncio.wait([flooding], timeout=5.0)
    flooding.cancel()
    assert process.memory_info().rss < before + GROWTH_BYTES
    await intruder.stop()
    await scene.is_well()


async def test_who_never_reads_its_answers(scene: Scene, intruder: Intruder) -> None:
    """Steps go in, and nobody takes what comes out: the session ends; others do not wait."""
    target = scene.swarm.hops[0]
    process = psutil.Process(target.pid)
    before = process.memory_info().rss
    wanted, channel = await intruder.open(context_tokens=512)
    for link in intruder.links.all():
        link._transport.pause_reading()

    async def pour() -> None:
        for number in range(4000):
            step = intruder.step(wanted, number % 4, 64 * (number % 4), 64)
            await channel.send(*encode_step(step))

    pouring = asyncio.create_task(ignored(pour()))
    for _ in range(3):
        reply = await scene.ask()
        assert reply.is_whole, reply.error
        assert reply.text == scene.right.text
    assert process.memory_info().rss < before + GROWTH_BYTES
    await scene.swarm.settled(40)
    pouring.cancel()
    await scene.is_well()
