"""Calls over links: what is answered, what is bounded, what a peer may do wrong, what is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from credentials.keys import PeerId, SecretKey, peer_id
from kwaai import limits
from kwaai.errors import (
    Busy,
    PeerLost,
    PeerMisbehaved,
    PeerRefused,
    PeerStalled,
    PeerUnreachable,
    StorageFull,
    UserError,
)
from kwaai.net.channel import Channel
from kwaai.net.links import Links
from kwaai.node.call_server import CallServer
from kwaai.node.link_calls import CallClient
from kwaai.testing.network import MemoryNetwork, MemorySwarm
from kwaai.wire import call_messages as wire
from kwaai.wire.codec import WireError

A, B = SecretKey(b"\1" * 32), SecretKey(b"\2" * 32)
PA, PB = peer_id(A.public), peer_id(B.public)
SOON_S = 10.0
NAME = "test/1"


async def echo(peer: PeerId, nonce: bytes, body: bytes) -> bytes:
    return peer.encode() + nonce + body


class World:
    """Two nodes: `client` asks, `server` answers; over TCP links."""

    def __init__(self, networks: list[MemoryNetwork], links: list[Links]) -> None:
        self.networks, self.links = networks, links
        self.address: list[str] = []
        self.server: CallServer
        self.client: CallClient

    async def call(self, body: bytes = b"", timeout_s: float = SOON_S) -> bytes:
        return await self.client.call(PB, NAME, body, timeout_s)

    def cut(self) -> None:
        """Have the link end at the asker's end."""
        for link in self.links[0].all():
            link._transport.abort()


@asynccontextmanager
async def world(
    *, asker_idle_s: float = 60.0, answerer_idle_s: float = 60.0, answer_timeout_s: float = 60.0
) -> AsyncIterator[World]:
    swarm = MemorySwarm(1, delay_s=(0.0, 0.0))
    networks = [MemoryNetwork(swarm, key) for key in (A, B)]
    links = [Links(key) for key in (A, B)]
    for network in networks:
        await network.start()
    await networks[0].connect(networks[1].addresses()[0])
    found = World(networks, links)
    await links[0].start("127.0.0.1", 0)
    host, port = await links[1].start("127.0.0.1", 0)
    found.address = [f"{host}:{port}"]
    found.server = CallServer(
        networks[1], links[1], idle_s=answerer_idle_s, answer_timeout_s=answer_timeout_s
    )
    found.client = CallClient(
        networks[0], links[0], lambda peer: found.address, idle_s=asker_idle_s
    )
    try:
        yield found
    finally:
        await found.client.stop()
        await found.server.stop()
        for link in links:
            await link.stop()
        for network in networks:
            await network.stop()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(SOON_S):
        while not condition():
            await asyncio.sleep(0.005)


class Gate:
    """A handler whose answers wait until they may go."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []
        self.cancelled = 0
        self.opened = asyncio.Event()

    async def __call__(self, peer: PeerId, nonce: bytes, body: bytes) -> bytes:
        self.seen.append(body)
        try:
            await self.opened.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return body


# What is answered.


async def test_a_call_tells_who_asks_and_on_which_channel() -> None:
    async with world() as w:
        w.server.serve(NAME, echo)
        nonce = await w.client.nonce(PB, NAME)
        assert len(nonce) == wire.NONCE_BYTES
        assert await w.call(b"body") == PA.encode() + nonce + b"body"
        assert await w.call(b"") == PA.encode() + nonce
        assert w.client.open_channels == 1
        assert w.server.counts.opened == 1


async def test_bodies_of_every_size_go_both_ways() -> None:
    async def same(peer: PeerId, nonce: bytes, body: bytes) -> bytes:
        return body

    async with world() as w:
        w.server.serve(NAME, same)
        for size in (0, 1, 1000, 65_537, 1_000_000, limits.CALL_BODY_BYTES_MAX):
            body = bytes([size % 251]) * size
            assert await w.call(body) == body
        with pytest.raises(ValueError, match="too many"):
            await w.call(bytes(limits.CALL_BODY_BYTES_MAX + 1))
        assert await w.call(b"on") == b"on"


async def test_many_calls_are_under_way_at_once_and_begin_in_order() -> None:
    gate = Gate()
    async with world() as w:
        w.server.serve(NAME, gate)
        bodies = [b"%d" % n for n in range(limits.CALLS_UNDER_WAY_MAX + 20)]
        tasks = [asyncio.create_task(w.call(body)) for body in bodies]
        await until(lambda: len(gate.seen) == limits.CALLS_UNDER_WAY_MAX)
        assert w.server.under_way == limits.CALLS_UNDER_WAY_MAX
        gate.opened.set()
        assert await asyncio.gather(*tasks) == bodies
        assert gate.seen == bodies


async def test_a_slow_call_holds_up_no_other() -> None:
    gate = Gate()

    async def either(peer: PeerId, nonce: bytes, body: bytes) -> bytes:
        return await gate(peer, nonce, body) if body == b"slow" else body

    async with world() as w:
        w.server.serve(NAME, either)
        slow = asyncio.create_task(w.call(b"slow"))
        await until(lambda: gate.seen)
        assert await w.call(b"quick") == b"quick"
        assert not slow.done()
        gate.opened.set()
        assert await slow == b"slow"


async def test_lanes_are_channels_of_their_own() -> None:
    async with world() as w:
        w.server.serve(NAME, echo)
        nonces = {(await w.client.call(PB, NAME, b"", SOON_S, lane))[-32:] for lane in (0, 1, 1, 0)}
        assert len(nonces) == w.client.open_channels == 2


async def test_a_body_is_made_for_the_channel_it_goes_out_on() -> None:
    async with world() as w:
        w.server.serve(NAME, echo)
        first = await w.client.call(PB, NAME, lambda nonce: b"made" + nonce)
        nonce = await w.client.nonce(PB, NAME)
        assert first == PA.encode() + nonce + b"made" + nonce
        w.cut()
        await until(lambda: not w.client.open_channels)
        again = await w.client.call(PB, NAME, lambda nonce: nonce)
        assert again == PA.encode() + 2 * await w.client.nonce(PB, NAME)
        assert await w.client.nonce(PB, NAME) != nonce


async def test_both_ends_call_each_other() -> None:
    async with world() as w:
        server = CallServer(w.networks[0], w.links[0])
        client = CallClient(w.networks[1], w.links[1])
        server.serve(NAME, echo)
        w.server.serve(NAME, echo)
        await w.call(b"there")
        answer = await client.call(PA, NAME, b"back")
        assert answer.startswith(PB.encode())
        await client.stop()
        await server.stop()


# What is refused, and how it is said.


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (Busy("later", retry_after_s=2.5), Busy),
        (StorageFull("no room"), StorageFull),
        (UserError("what is that?"), PeerRefused),
        (PeerMisbehaved("you lie"), PeerRefused),
        (RuntimeError("a secret of the answerer's"), PeerRefused),
    ],
)
async def test_errors_are_told(error: Exception, kind: type[Exception]) -> None:
    async def refuse(peer: PeerId, nonce: bytes, body: bytes) -> bytes:
        raise error

    async with world() as w:
        w.server.serve(NAME, refuse)
        with pytest.raises(kind) as caught:
            await w.call()
        assert type(caught.value) is kind
        assert "secret" not in str(caught.value)
        if isinstance(caught.value, Busy):
            assert caught.value.retry_after_s == 2.5
        w.server.serve("other", echo)
        assert await w.client.call(PB, "other", b"x")


async def test_a_name_that_nobody_serves_is_refused() -> None:
    async with world() as w:
        with pytest.raises(PeerRefused, match="nobody here answers"):
            await w.call()
        assert w.server.counts.refused == 1


async def test_an_answer_that_is_too_long_is_an_error() -> None:
    async def long(peer: PeerId, nonce: bytes, body: bytes) -> bytes:
        return bytes(limits.CALL_BODY_BYTES_MAX + 1)

    async with world() as w:
        w.server.serve(NAME, long)
        with pytest.raises(PeerRefused, match="ask for less"):
            await w.call()


async def test_a_peer_without_a_link_opens_nothing() -> None:
    async with world() as w:
        w.server.serve(NAME, echo)
        opening = wire.encode_open(wire.OpenCalls(NAME, bytes(32)))
        with pytest.raises(PeerRefused, match="needs a link"):
            await w.networks[0].request(PB, wire.PROTOCOL, opening)


async def test_openings_are_bounded() -> None:
    async with world() as w:
        w.server.serve(NAME, echo)
        await w.links[0].get(PB, w.address)
        most = limits.CALL_CHANNELS_PER_PEER_MAX
        for n in range(2 * most):  # idle ones make room
            opening = wire.encode_open(wire.OpenCalls(NAME, bytes([n]) * 32))
            await w.networks[0].request(PB, wire.PROTOCOL, opening)
            assert w.server.stats()["call_channels_served"] <= most
        with pytest.raises(PeerRefused, match="lately"):
            await w.networks[0].request(PB, wire.PROTOCOL, opening)


async def test_channels_in_use_make_no_room() -> None:
    gate = Gate()
    async with world() as w:
        w.server.serve(NAME, gate)
        most = limits.CALL_CHANNELS_PER_PEER_MAX
        for n in range(most):
            channel, _ = await open_by_hand(w, bytes([n]))
            await channel.send(wire.encode_head(wire.CALL, 0))
        await until(lambda: len(gate.seen) == most)
        with pytest.raises(PeerRefused, match="in use"):
            await w.call()


# What is given up, and what is lost.


async def test_a_call_that_is_given_up_is_cancelled_there() -> None:
    gate = Gate()
    async with world() as w:
        w.server.serve(NAME, gate)
        task = asyncio.create_task(w.call(b"x"))
        await until(lambda: gate.seen)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: gate.cancelled)
        await until(lambda: not w.server.under_way)
        gate.opened.set()
        assert await w.call(b"y") == b"y"
        assert w.server.counts.cancelled == 1


async def test_a_call_has_a_deadline_and_the_next_does_not_depend_on_its_channel() -> None:
    gate = Gate()
    async with world() as w:
        w.server.serve(NAME, gate)
        with pytest.raises(PeerStalled, match="did not answer"):
            await w.call(b"x", timeout_s=0.05)
        assert not w.client.open_channels
        gate.opened.set()
        assert await w.call(b"y") == b"y"
        assert w.server.counts.opened == 2


async def test_an_answerer_gives_up_too() -> None:
    gate = Gate()
    async with world(answer_timeout_s=0.05) as w:
        w.server.serve(NAME, gate)
        with pytest.raises(Busy, match="too long"):
            await w.call(b"x")
        assert not w.server.under_way


async def test_a_lost_link_fails_what_is_under_way_and_the_next_call_has_a_new_one() -> None:
    gate = Gate()
    async with world() as w:
        w.server.serve(NAME, gate)
        tasks = [asyncio.create_task(w.call(b"%d" % n)) for n in range(5)]
        await until(lambda: len(gate.seen) == 5)
        w.cut()
        for task in tasks:
            with pytest.raises(PeerLost):
                await task
        await until(lambda: gate.cancelled == 5)
        gate.opened.set()
        assert await w.call(b"again") == b"again"


async def test_nobody_there() -> None:
    async with world() as w:
        w.address = ["127.0.0.1:9"]
        with pytest.raises(PeerUnreachable):
            await w.call()


async def test_idle_channels_are_closed_by_the_asker() -> None:
    async with world(asker_idle_s=0.05) as w:
        w.server.serve(NAME, echo)
        await w.call()
        await until(lambda: not w.client.open_channels and not w.links[1].channel_count)
        assert not w.links[0].channel_count
        assert await w.call(b"again")


async def test_idle_channels_are_closed_by_the_answerer() -> None:
    async with world(answerer_idle_s=0.05) as w:
        w.server.serve(NAME, echo)
        await w.call()
        await until(lambda: not w.client.open_channels)
        assert not w.links[1].channel_count
        assert await w.call(b"again")


async def test_a_call_that_meets_a_closing_channel_goes_out_on_another() -> None:
    async with world() as w:
        w.server.serve(NAME, echo)
        await w.call()
        for channel in tuple(w.server._channels.values()):
            assert channel.close()
        assert (await w.call(b"again")).endswith(b"again")
        assert w.server.counts.opened == 2


async def test_a_call_that_was_begun_is_not_made_again() -> None:
    gate = Gate()
    async with world() as w:
        w.server.serve(NAME, gate)
        task = asyncio.create_task(w.call(b"once"))
        await until(lambda: gate.seen)
        w.server.withdraw(NAME)
        with pytest.raises(PeerLost):
            await task
        assert gate.seen == [b"once"]


async def test_stopping_fails_what_is_under_way() -> None:
    gate = Gate()
    async with world() as w:
        w.server.serve(NAME, gate)
        task = asyncio.create_task(w.call(b"x"))
        await until(lambda: gate.seen)
        await w.client.stop()
        with pytest.raises(PeerLost, match="stops"):
            await task
        with pytest.raises(PeerLost, match="stops"):
            await w.call()
        await until(lambda: gate.cancelled)


# What a peer may do wrong.


async def open_by_hand(w: World, letter: bytes = b"r") -> tuple[Channel, asyncio.Queue[bytes]]:
    """Open a channel as an asker that keeps to no rule."""
    await w.links[0].get(PB, w.address)
    await until(lambda: w.links[1].link(PA))
    opening = wire.OpenCalls(NAME, 32 * letter)
    data = await w.networks[0].request(PB, wire.PROTOCOL, wire.encode_open(opening))
    agreed = wire.agree(PA, PB, opening, wire.parse_opened(data))
    queue: asyncio.Queue[bytes] = asyncio.Queue()
    return w.links[0].open_channel(PB, agreed.id, queue.put_nowait), queue


@pytest.mark.parametrize(
    "message",
    [
        b"\x01",
        b"\x07\0\0\0\0",
        wire.encode_head(wire.ANSWER, 1),
        wire.encode_head(wire.CANCEL, 1) + b"x",
    ],
)
async def test_an_asker_that_breaks_the_protocol_loses_its_channel(message: bytes) -> None:
    async with world() as w:
        w.server.serve(NAME, echo)
        channel, queue = await open_by_hand(w)
        await channel.send(message)
        assert await asyncio.wait_for(queue.get(), SOON_S) == wire.encode_head(wire.BYE, 0)
        assert w.server.counts.misbehaved == 1
        assert not w.links[1].channel_count
        assert w.links[0].link(PB) is not None


async def test_an_asker_may_not_have_too_many_calls_under_way() -> None:
    gate = Gate()
    async with world() as w:
        w.server.serve(NAME, gate)
        channel, queue = await open_by_hand(w)
        for n in range(limits.CALLS_ANSWERED_MAX + 1):
            await channel.send(wire.encode_head(wire.CALL, n))
        answer = wire.parse_to_asker(await asyncio.wait_for(queue.get(), SOON_S))
        assert isinstance(answer, wire.CallError)
        assert answer.code == Busy.code
        assert answer.id == limits.CALLS_ANSWERED_MAX
        await channel.send(wire.encode_head(wire.CALL, 0))  # an id that is under way
        assert wire.parse_to_asker(await queue.get()) == wire.Bye(True)


async def test_unread_answers_stop_the_answering_not_the_node() -> None:
    async def big(peer: PeerId, nonce: bytes, body: bytes) -> bytes:
        return bytes(1 << 20)

    async with world() as w:
        w.server.serve(NAME, big)
        channel, queue = await open_by_hand(w)
        for n in range(8):  # answers of 8 MiB, and credit for 4
            await channel.send(wire.encode_head(wire.CALL, n))
        await until(lambda: queue.qsize() == 3)
        assert w.server.under_way == 5
        assert len(await w.call()) == 1 << 20


class Liar:
    """An answerer that answers an opening, and then what the test says."""

    def __init__(self, w: World) -> None:
        self.answers: Callable[[bytes], list[bytes]] = lambda message: []
        self.channel: Channel | None = None
        self.w = w
        w.networks[1].handle_requests(wire.PROTOCOL, self.open)

    async def open(self, peer: PeerId, data: bytes) -> bytes:
        agreed = wire.agree(peer, PB, wire.parse_open(data), b"l" * 32)
        self.channel = self.w.links[1].open_channel(peer, agreed.id, self.receive)
        return b"l" * 32

    def receive(self, message: bytes) -> None:
        assert self.channel is not None
        for answer in self.answers(message):
            assert self.channel.send_now(answer)


@pytest.mark.parametrize(
    "answer",
    [
        b"?",
        wire.encode_head(wire.CALL, 0),
        wire.encode_head(wire.ANSWER, 77) + b"never asked",
        wire.encode_head(wire.ERROR, 0) + b"cut",
    ],
)
async def test_an_answerer_that_breaks_the_protocol_is_at_fault(answer: bytes) -> None:
    async with world() as w:
        liar = Liar(w)
        liar.answers = lambda message: [answer]
        with pytest.raises(PeerMisbehaved):
            await w.call()
        assert not w.client.open_channels


async def test_a_second_answer_is_dropped() -> None:
    async with world() as w:
        liar = Liar(w)
        liar.answers = lambda message: 2 * [wire.encode_head(wire.ANSWER, 0) + message[5:]]
        assert await w.call(b"x") == b"x"


async def test_an_answerer_that_closes_every_channel_is_left() -> None:
    async with world() as w:
        liar = Liar(w)
        liar.answers = lambda message: [wire.encode_head(wire.BYE, 0)]
        with pytest.raises(PeerLost, match="closes every channel"):
            await w.call()


async def test_an_opening_that_is_answered_with_nonsense() -> None:
    async def nonsense(peer: PeerId, data: bytes) -> bytes:
        return b"yes"

    async with world() as w:
        w.networks[1].handle_requests(wire.PROTOCOL, nonsense)
        with pytest.raises(PeerMisbehaved, match="opened no channel"):
            await w.call()


async def test_an_end_that_forgot_the_channel_without_a_word() -> None:
    async with world() as w:
        w.server.serve(NAME, echo)
        await w.call()
        for channel in tuple(w.server._channels.values()):
            channel.close(says_bye=False)
        with pytest.raises(PeerStalled):
            await w.call(timeout_s=0.1)
        assert await w.call(b"again")


async def test_a_call_on_a_forgotten_channel_goes_out_on_another() -> None:
    async with world() as w:
        w.server.serve(NAME, echo)
        await w.call()
        for channel in tuple(w.server._channels.values()):
            channel.close(says_bye=False)
        first = asyncio.create_task(w.call(b"first"))
        refused = w.client._channels[PB, NAME, 0]._channel
        await until(lambda: refused._state is not None and refused._state.is_refused)
        assert (await w.call(b"second")).endswith(b"second")
        with pytest.raises(PeerLost):  # it may have been begun
            await first


# Messages.


def test_a_channel_is_of_both_ends_and_one_name() -> None:
    opening = wire.OpenCalls(NAME, b"r" * 32)
    agreed = wire.agree(PA, PB, opening, b"a" * 32)
    assert (len(agreed.id), len(agreed.nonce)) == (16, 32)
    others = [
        wire.agree(PB, PA, opening, b"a" * 32),
        wire.agree(PA, PB, opening, b"b" * 32),
        wire.agree(PA, PB, wire.OpenCalls("other", b"r" * 32), b"a" * 32),
        wire.agree(PA, PB, wire.OpenCalls(NAME, b"s" * 32), b"a" * 32),
    ]
    found = [agreed, *others]
    assert len({channel.id for channel in found}) == len({c.nonce for c in found}) == 5


@given(
    st.integers(0, wire.CALL_ID_MAX),
    st.sampled_from(["busy", "storage_full"]),
    st.text(max_size=2000),
    st.none() | st.floats(0, 100),
)
def test_errors_round_trip(call_id: int, code: str, text: str, wait_s: float | None) -> None:
    said = wire.CallError(call_id, code, text, wait_s)
    parsed = wire.parse_to_asker(wire.encode_error(said))
    assert isinstance(parsed, wire.CallError)
    assert (parsed.id, parsed.code) == (call_id, code)
    assert len(parsed.text.encode()) <= limits.CALL_ERROR_BYTES_MAX
    assert parsed.text.isprintable()
    if wait_s is not None:
        assert parsed.retry_after_s == pytest.approx(wait_s, abs=0.0011)


def test_openings_round_trip() -> None:
    opening = wire.OpenCalls(NAME, bytes(range(32)))
    data = wire.encode_open(opening)
    assert wire.parse_open(data) == opening
    for bad in (b"", data[:-1], data + b"x", b"\xff" + data[1:]):
        with pytest.raises(WireError):
            wire.parse_open(bad)


@given(st.binary(max_size=80))
def test_no_bytes_break_the_parsers(data: bytes) -> None:
    parsers: list[Callable[[bytes], object]] = [
        wire.parse_open,
        wire.parse_opened,
        wire.parse_to_answerer,
        wire.parse_to_asker,
    ]
    for parse in parsers:
        try:
            parse(data)
        except WireError:
            continue
