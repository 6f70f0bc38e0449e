"""Links: the same behaviour over TCP and over a stream of the network, and what a link's peer may
do wrong.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from credentials.keys import PeerId, SecretKey, parse_peer_id, peer_id
from kwaai import limits
from kwaai.errors import (
    Busy,
    PeerError,
    PeerLost,
    PeerRefused,
    PeerStalled,
    PeerUnreachable,
    PortInUse,
    UserError,
)
from kwaai.net.channel import Channel
from kwaai.net.dial import Scope, dialable, origin_of, parse_address
from kwaai.net.handshake import Handshake, LinkIdentity, VersionMismatch
from kwaai.net.links import Links
from kwaai.net.secure import Opener, Sealer
from kwaai.testing.network import MemoryNetwork, MemorySwarm
from kwaai.wire import frames

ROOT = Path(__file__).parents[2]
A, B, C = (SecretKey(bytes([n]) * 32) for n in (1, 2, 3))
PA, PB, PC = (peer_id(key.public) for key in (A, B, C))
SESSION = b"s" * 16
SOON_S = 10.0
KIB, MIB = 1024, 1024 * 1024


class Inbox:
    """Messages of a channel; each is consumed when it comes, or when it is taken."""

    def __init__(self, links: Links, peer: PeerId, channel: bytes = SESSION) -> None:
        self.messages: asyncio.Queue[bytes] = asyncio.Queue()
        self.consumes = True
        self.channel: Channel = links.open_channel(peer, channel, self._receive)

    def _receive(self, message: bytes) -> None:
        self.messages.put_nowait(message)
        if self.consumes:
            self.channel.consumed(len(message))

    async def next(self) -> bytes:
        return await asyncio.wait_for(self.messages.get(), SOON_S)


class Pair:
    """Two nodes; the first dials the second."""

    def __init__(self, near: Links, far: Links, address: list[str]) -> None:
        self.near, self.far, self.address = near, far, address

    async def dial(self) -> None:
        await self.near.get(PB, self.address)

    def inboxes(self, channel: bytes = SESSION) -> tuple[Inbox, Inbox]:
        return Inbox(self.near, PB, channel), Inbox(self.far, PA, channel)


@asynccontextmanager
async def pair_over(kind: str) -> AsyncIterator[Pair]:
    networks: list[MemoryNetwork] = []
    if kind == "stream":
        swarm = MemorySwarm(1, delay_s=(0.0, 0.0))
        networks = [MemoryNetwork(swarm, key) for key in (A, B)]
        for network in networks:
            await network.start()
        await networks[0].connect(networks[1].addresses()[0])
    near = Links(A, networks[0] if networks else None)
    far = Links(B, networks[1] if networks else None)
    await near.start("127.0.0.1", 0)
    host, port = await far.start("127.0.0.1", 0)
    try:
        yield Pair(near, far, [] if networks else [f"{host}:{port}"])
    finally:
        await near.stop()
        await far.stop()
        for network in networks:
            await network.stop()


@pytest.fixture(params=["tcp", "stream"])
async def pair(request: pytest.FixtureRequest) -> AsyncIterator[Pair]:
    async with pair_over(request.param) as pair:
        yield pair


@pytest.fixture
async def tcp() -> AsyncIterator[Pair]:
    async with pair_over("tcp") as pair:
        yield pair


async def until(condition: Callable[[], object]) -> None:
    """Wait until something is so; the loop goes round meanwhile."""
    async with asyncio.timeout(SOON_S):
        while not condition():
            await asyncio.sleep(0.005)


# The contract: over TCP and over a stream.


async def test_a_link_knows_who_is_there(pair: Pair) -> None:
    link = await pair.near.get(PB, pair.address)
    assert link.peer == PB
    assert link.version == 1
    assert link.is_direct is bool(pair.address)
    assert pair.near.link(PB) is link
    assert pair.near.all() == (link,)
    back = pair.far.link(PA)
    assert back is not None
    assert back.peer == PA
    assert await pair.near.get(PB, []) is link
    assert await pair.far.get(PA) is back


async def test_messages_of_every_size_arrive_in_order_both_ways(pair: Pair) -> None:
    near, far = pair.inboxes()
    await pair.dial()
    rng = random.Random(5)
    sizes = [1, 2, 8 * KIB, 64 * KIB, 64 * KIB + 1, 300_000, 2 * MIB, 5]
    messages = [rng.randbytes(size) for size in sizes]
    for inbox, other in ((near, far), (far, near)):
        for message in messages:
            await inbox.channel.send(message)
        for message in messages:
            assert await other.next() == message
    await near.channel.send(b"head", memoryview(b"tail"))
    assert await far.next() == b"headtail"


async def test_a_channel_opened_after_the_link_works_too(pair: Pair) -> None:
    await pair.dial()
    near, far = pair.inboxes()
    assert near.channel.send_now(b"now")
    assert await far.next() == b"now"


async def test_control_messages_reach_the_handler(pair: Pair) -> None:
    received: asyncio.Queue[tuple[PeerId, bytes]] = asyncio.Queue()
    pair.far.on_control(lambda peer, message: received.put_nowait((peer, message)))
    sent = [bytes([n]) * limits.LINK_CONTROL_BYTES_MAX for n in range(30)]
    for message in sent:
        await pair.near.send_control(PB, message, pair.address)
    for message in sent:
        assert await asyncio.wait_for(received.get(), SOON_S) == (PA, message)
    with pytest.raises(ValueError, match="65536"):
        await pair.near.send_control(PB, bytes(limits.LINK_CONTROL_BYTES_MAX + 1))


async def test_round_trip_and_bandwidth_are_measured(pair: Pair) -> None:
    link = await pair.near.get(PB, pair.address)
    await until(lambda: link.bandwidth_bytes_s)
    assert link.rtt_s is not None
    assert 0 < link.rtt_s < 1
    assert link.bandwidth_bytes_s is not None
    assert link.bandwidth_bytes_s > 1 * MIB


async def test_many_channels_share_a_link(pair: Pair) -> None:
    await pair.dial()
    pairs = [pair.inboxes(n.to_bytes(16, "big")) for n in range(1, 51)]
    body = os.urandom(100_000)

    async def exchange(near: Inbox, far: Inbox) -> None:
        for n in range(5):
            await near.channel.send(bytes([n]), body)
            assert await far.next() == bytes([n]) + body
            await far.channel.send(bytes([n]))
            assert await near.next() == bytes([n])

    async with asyncio.TaskGroup() as group:
        for near, far in pairs:
            group.create_task(exchange(near, far))
    for near, far in pairs:
        near.channel.close()
        far.channel.close()
    assert pair.near.channel_count == pair.far.channel_count == 0


async def test_decode_rows_overtake_a_prefill(pair: Pair) -> None:
    await pair.dial()
    near_bulk, far_bulk = pair.inboxes(b"b" * 16)
    near_quick, far_quick = pair.inboxes(b"q" * 16)
    bulk = [asyncio.create_task(near_bulk.channel.send(bytes(2 * MIB))) for _ in range(40)]
    await asyncio.sleep(0)
    waited = []
    for _ in range(5):
        await near_quick.channel.send(bytes(8 * KIB))
        await far_quick.next()
        waited.append(far_bulk.messages.qsize())
    assert waited[-1] < 40
    await asyncio.gather(*bulk)
    for _ in range(40):
        assert len(await far_bulk.next()) == 2 * MIB


async def test_a_reader_that_does_not_consume_stops_its_sender_and_nobody_else(
    pair: Pair,
) -> None:
    await pair.dial()
    near, far = pair.inboxes(b"1" * 16)
    other_near, other_far = pair.inboxes(b"2" * 16)
    far.consumes = False
    for _ in range(3):
        await near.channel.send(bytes(MIB))
    with pytest.raises(PeerStalled, match=PB):
        await near.channel.send(bytes(MIB), timeout_s=0.3)
    await until(lambda: far.messages.qsize() == 3)
    await other_near.channel.send(b"still here")
    assert await other_far.next() == b"still here"
    for _ in range(3):
        far.channel.consumed(len(await far.next()))
    far.consumes = True
    await near.channel.send(b"goes on")
    assert await far.next() == b"goes on"


async def test_a_cancelled_send_leaves_nothing_behind(pair: Pair) -> None:
    await pair.dial()
    near, far = pair.inboxes()
    rng = random.Random(7)
    far.consumes = False
    sent, received = [], []
    for n in range(60):
        memory = bytearray(bytes([n]) * 1_500_000)
        send = asyncio.create_task(near.channel.send(memory))
        for _ in range(rng.randrange(4)):
            await asyncio.sleep(0)
        if rng.random() < 0.7:
            send.cancel()
        try:
            async with asyncio.timeout(0.02):
                await send
            sent.append(n)
        except (asyncio.CancelledError, TimeoutError):
            pass
        memory[:] = bytes(len(memory))  # the memory is the sender's again
        while not far.messages.empty():
            message = far.messages.get_nowait()
            received.append(message)
            far.channel.consumed(len(message))
    await near.channel.send(b"end")
    while (message := await far.next()) != b"end":
        received.append(message)
        far.channel.consumed(len(message))
    assert [len(message) for message in received] == [1_500_000] * len(received)
    # A message that was out already when its send was cancelled has come too.
    came = [message[0] for message in received]
    assert came == sorted(came)
    assert set(sent) <= set(came)
    assert all(message.count(message[:1]) == len(message) for message in received)


async def test_keys_are_renewed_under_load_both_ways_without_loss(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LINK_KEY_RECORDS_MAX", 7)
    await pair.dial()
    near, far = pair.inboxes()
    rng = random.Random(3)
    messages = [rng.randbytes(rng.choice([10, 8 * KIB, 200_000])) for _ in range(200)]

    async def send(inbox: Inbox) -> None:
        for message in messages:
            await inbox.channel.send(message)

    async def receive(inbox: Inbox) -> None:
        for message in messages:
            assert await inbox.next() == message

    async with asyncio.TaskGroup() as group:
        for inbox in (near, far):
            group.create_task(send(inbox))
            group.create_task(receive(inbox))
    assert pair.near.counters.keys_renewed > 20
    assert pair.far.counters.keys_renewed > 20


async def test_keys_are_renewed_with_time(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LINK_KEY_AGE_S", 0.2)
    monkeypatch.setattr(limits, "LINK_KEY_SLACK", 100)
    monkeypatch.setattr(limits, "LINK_PING_S", 0.05)
    await pair.dial()
    near, far = pair.inboxes()
    await until(lambda: pair.near.counters.keys_renewed > 1)
    await until(lambda: pair.far.counters.keys_renewed > 1)
    await near.channel.send(b"still in step")
    assert await far.next() == b"still in step"


async def test_a_channel_that_the_peer_never_opened_is_refused(pair: Pair) -> None:
    await pair.dial()
    near = Inbox(pair.near, PB)
    await near.channel.send(b"into the void")
    await until(lambda: pair.far.counters.dropped_unknown_channel == 1)

    async def until_refused() -> None:
        while True:
            await near.channel.send(b"?")
            await asyncio.sleep(0)

    with pytest.raises(PeerRefused, match="has closed this channel"):
        await asyncio.wait_for(until_refused(), SOON_S)
    assert pair.near.link(PB) is not None


async def test_a_channel_closed_by_the_reader_frees_a_waiting_sender(pair: Pair) -> None:
    await pair.dial()
    near, far = pair.inboxes()
    far.consumes = False
    await near.channel.send(bytes(2 * MIB))
    waiting = [asyncio.create_task(near.channel.send(bytes(2 * MIB))) for _ in range(3)]
    await until(lambda: far.messages.qsize() == 1)
    far.channel.close()
    await asyncio.wait(waiting, timeout=0.1)
    near.channel.close()
    async with asyncio.timeout(SOON_S):
        results = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(result, PeerLost | PeerRefused | None) for result in results)
    again_near, again_far = pair.inboxes(b"n" * 16)
    await again_near.channel.send(bytes(2 * MIB))
    assert len(await again_far.next()) == 2 * MIB


async def test_a_clean_stop_is_told_and_fails_what_waits(pair: Pair) -> None:
    lost: asyncio.Queue[tuple[PeerId, str]] = asyncio.Queue()
    pair.near.on_lost(lambda peer, reason: lost.put_nowait((peer, reason)))
    await pair.dial()
    near, far = pair.inboxes()
    far.consumes = False
    waiting = [asyncio.create_task(near.channel.send(bytes(2 * MIB))) for _ in range(4)]
    await until(lambda: far.messages.qsize() == 1)
    await pair.far.stop()
    peer, reason = await asyncio.wait_for(lost.get(), SOON_S)
    assert peer == PB
    assert "stops" in reason
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert any(isinstance(result, PeerLost) for result in results)
    with pytest.raises(PeerLost, match="stops"):
        await near.channel.send(b"too late")
    assert pair.near.link(PB) is None
    await pair.far.stop()


async def test_both_may_dial_at_once(pair: Pair) -> None:
    bound = pair.near._server.sockets[0].getsockname() if pair.near._server else ("", 0)
    back = [f"{bound[0]}:{bound[1]}"] if pair.address else []
    for _ in range(20):
        ours, theirs = await asyncio.gather(pair.near.get(PB, pair.address), pair.far.get(PA, back))
        assert len(pair.near.all()) == len(pair.far.all()) == 1
        assert ours.is_dialled is not theirs.is_dialled
        near, far = pair.inboxes(os.urandom(16))
        await near.channel.send(b"ping")
        assert await far.next() == b"ping"
        await far.channel.send(b"pong")
        assert await near.next() == b"pong"
        near.channel.close()
        far.channel.close()
        pair.near.all()[0].goodbye_and_end(frames.Reason.STOPPING, "once more")
        await until(lambda: not pair.far.all())


async def test_one_dial_serves_all_who_ask(pair: Pair) -> None:
    links = await asyncio.gather(*(pair.near.get(PB, pair.address) for _ in range(20)))
    assert len(set(links)) == 1
    assert pair.far.counters.links_opened == 1


async def test_whoever_gives_up_does_not_take_the_dial_from_others(pair: Pair) -> None:
    impatient = asyncio.create_task(pair.near.get(PB, pair.address))
    patient = asyncio.create_task(pair.near.get(PB, pair.address))
    await asyncio.sleep(0)
    impatient.cancel()
    assert (await patient).peer == PB
    with pytest.raises(asyncio.CancelledError):
        await impatient


async def test_a_handler_that_fails_does_not_end_the_link(pair: Pair) -> None:
    await pair.dial()
    received: list[bytes] = []

    def fail(message: bytes) -> None:
        received.append(message)
        raise RuntimeError("a fault of ours")

    pair.far.open_channel(PA, SESSION, fail)
    near = Inbox(pair.near, PB)
    await near.channel.send(b"one")
    await near.channel.send(b"two")
    await until(lambda: received == [b"one", b"two"])
    assert pair.far.link(PA) is not None


async def test_a_message_that_the_upper_layer_refuses_cuts_the_link(pair: Pair) -> None:
    await pair.dial()

    def refuse(message: bytes) -> None:
        raise frames.WireError("that is no step")

    pair.far.open_channel(PA, SESSION, refuse)
    near = Inbox(pair.near, PB)
    await near.channel.send(b"?")
    await until(lambda: pair.near.link(PB) is None)
    with pytest.raises(PeerLost, match="that is no step"):
        await near.channel.send(b"?")
    assert pair.far.counters.peers_misbehaved == 1


async def test_misuse_is_told(pair: Pair) -> None:
    await pair.dial()
    near = Inbox(pair.near, PB)
    for parts in ([], [b""], [bytes(2 * MIB), b"x"]):
        with pytest.raises(ValueError, match="1 to 2097152"):
            await near.channel.send(*parts)
    for channel in (SESSION, bytes(16), b"short"):
        with pytest.raises(ValueError, match="16 bytes"):
            pair.near.open_channel(PB, channel, lambda _: None)
    near.channel.close()
    near.channel.close()
    with pytest.raises(PeerLost, match="closed"):
        await near.channel.send(b"x")
    unlinked = Inbox(pair.near, PC)
    with pytest.raises(PeerUnreachable, match="no link to"):
        await unlinked.channel.send(b"x")


# Who is there, and who is not.


async def test_another_peer_at_the_address_is_named(tcp: Pair) -> None:
    with pytest.raises(PeerUnreachable) as caught:
        await tcp.near.get(PC, tcp.address)
    assert PB in caught.value.message
    assert PC in caught.value.message
    assert tcp.far.all() == ()


async def test_the_second_address_is_tried(tcp: Pair) -> None:
    async with silent_listener() as silent:
        link = await tcp.near.get(PB, ["127.0.0.1:1", silent, *tcp.address])
    assert link.peer == PB


async def test_no_address_and_nobody_there() -> None:
    links = Links(A)
    with pytest.raises(PeerUnreachable, match="no address"):
        await links.get(PB)
    with pytest.raises(PeerUnreachable, match="refused"):
        await links.get(PB, ["127.0.0.1:1"])
    with pytest.raises(PeerUnreachable, match="itself"):
        await links.get(PA, ["127.0.0.1:1"])
    await links.stop()
    with pytest.raises(PeerUnreachable, match="stops"):
        await links.get(PB, ["127.0.0.1:1"])


async def test_another_version_is_named_by_both() -> None:
    near, far = Links(A), Links(B, versions=(2, 3))
    host, port = await far.start("127.0.0.1", 0)
    with pytest.raises(VersionMismatch, match=r"versions 2 to 3.* 1 to 1") as caught:
        await near.get(PB, [f"{host}:{port}"])
    assert caught.value.peer == PB
    assert near.all() == far.all() == ()
    await near.stop()
    await far.stop()


async def test_a_port_that_is_taken_is_named(tcp: Pair) -> None:
    _, port = parse_address(tcp.address[0])
    with pytest.raises(PortInUse, match=str(port)):
        await Links(C).start("127.0.0.1", port)


@pytest.mark.parametrize(
    "address",
    [
        "", "10.0.0.1", "10.0.0.1:0", "10.0.0.1:65536", "1 0.0.0.1:1", "[::1]", "::1:80",
        "x" * 300 + ":1", "localhost:80", "my-host.example:80", "10.1:80", "0x7f.0.0.1:80",
        "0.0.0.0:80", "[::]:80", "[::ffff:0.0.0.0]:80", "224.0.0.1:80", "255.255.255.255:80",
        "[ff02::1]:80", "[fe80::1%eth0]:80", "[10.0.0.1]:80x", "010.0.0.1:80",
    ],
)  # fmt: skip
def test_addresses_refused(address: str) -> None:
    with pytest.raises(UserError, match="no address of a link"):
        parse_address(address)


def test_addresses_parsed() -> None:
    assert parse_address("10.0.0.1:80") == ("10.0.0.1", 80)
    assert parse_address("[2001:db8::7]:65535") == ("2001:db8::7", 65535)
    assert parse_address("[::ffff:10.0.0.1]:80") == ("10.0.0.1", 80)


@pytest.mark.parametrize(
    ("least", "kept"),
    [
        (Scope.MACHINE, ["127.0.0.1:1", "[::ffff:127.0.0.1]:1", "[fe80::1]:1", "10.0.0.1:1",
                         "[fd00::1]:1", "8.8.8.8:1", "[2606:4700::1]:1"]),
        (Scope.SITE, ["10.0.0.1:1", "[fd00::1]:1", "8.8.8.8:1", "[2606:4700::1]:1"]),
        (Scope.WORLD, ["8.8.8.8:1", "[2606:4700::1]:1"]),
    ],
)  # fmt: skip
def test_what_may_be_dialled(least: Scope, kept: list[str]) -> None:
    given = ["127.0.0.1:1", "[::ffff:127.0.0.1]:1", "[fe80::1]:1", "10.0.0.1:1", "[fd00::1]:1",
             "8.8.8.8:1", "[2606:4700::1]:1", "8.8.4.4:1"]  # fmt: skip
    assert list(dialable(given[:7], least)) == kept
    assert dialable(["db.internal:5432", "0.0.0.0:22"], least) == ()
    assert len(dialable(["8.8.8.8:1"] * 100, least)) == limits.LINK_ADDRESSES_MAX


def test_whom_connections_are_counted_for() -> None:
    assert origin_of("10.0.0.1") == origin_of("::ffff:10.0.0.1") == "10.0.0.1"
    assert origin_of("2001:db8:0:1::1") == origin_of("2001:db8:0:1:ffff::2")
    assert origin_of("2001:db8:0:1::1") != origin_of("2001:db8:0:2::1")
    assert origin_of(PB) == PB  # of a stream


async def test_links_from_one_address_are_bounded(
    tcp: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many identities behind one address take one another's place, and nobody else's."""
    monkeypatch.setattr(limits, "LINKS_PER_ADDRESS_MAX", 3)
    await tcp.dial()
    crowd = [Links(SecretKey(bytes([seed]) * 32)) for seed in range(60, 66)]
    try:
        for one in crowd:
            await one.get(PB, tcp.address)
            assert len(tcp.far.all()) <= 3
        assert tcp.far.link(crowd[-1].peer) is not None
        # With channels open they are not idle: no more are taken.
        channels = [tcp.far.open_channel(link.peer, os.urandom(16), lambda _: None)
                    for link in tcp.far.all()]  # fmt: skip
        with pytest.raises(PeerError):
            await crowd[0].get(PB, tcp.address)
        for channel in channels:
            channel.close()
    finally:
        for one in crowd:
            await one.stop()


async def test_a_stranger_is_worth_little_memory(tcp: Pair) -> None:
    _, writer = await asyncio.open_connection(*parse_address(tcp.address[0]))
    await until(lambda: tcp.far._unproven)
    (link,) = tcp.far._unproven
    assert len(link._memory) == limits.LINK_HELLO_BUFFER_BYTES
    assert link.get_buffer(-1).nbytes > limits.LINK_HANDSHAKE_BYTES_MAX
    writer.close()
    await tcp.dial()
    for pair in tcp.near, tcp.far:
        assert len(pair.all()[0]._memory) == limits.LINK_READ_BUFFER_BYTES


async def test_a_peer_that_restarted_is_taken_at_once(tcp: Pair) -> None:
    await tcp.dial()
    lost: asyncio.Queue[str] = asyncio.Queue()
    tcp.far.on_lost(lambda peer, reason: lost.put_nowait(reason))
    again = Links(A)
    assert (await again.get(PB, tcp.address)).is_open
    assert "dialled again" in await asyncio.wait_for(lost.get(), SOON_S)
    await again.stop()


async def test_a_link_that_only_one_end_has_yields_to_a_new_dial(
    tcp: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LINK_DOUBT_S", 0.2)
    await tcp.dial()
    bound = tcp.near._server.sockets[0].getsockname() if tcp.near._server else ("", 0)
    stale = tcp.far.link(PA)
    assert stale is not None
    # The far end forgets the link without a word, as behind a router that has lost its state.
    stale._transport.pause_reading()
    del tcp.far._links[PA]
    fresh = await tcp.far.get(PA, [f"{bound[0]}:{bound[1]}"])
    assert fresh.is_open
    assert tcp.near.link(PB) is not None
    near, far = tcp.inboxes()
    await near.channel.send(b"anew")
    assert await far.next() == b"anew"
    stale.end(PeerLost("test"))


async def test_the_link_unused_for_longest_yields(
    tcp: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LINKS_MAX", 1)
    await tcp.dial()
    third = Links(C)
    await third.get(PB, tcp.address)
    assert [link.peer for link in tcp.far.all()] == [PC]
    used = Inbox(tcp.far, PC)
    await until(lambda: not tcp.near.all())
    with pytest.raises(PeerRefused, match="in use"):
        await tcp.near.get(PB, tcp.address)
    with pytest.raises(Busy, match="in use"):
        await tcp.far.get(PA, ["127.0.0.1:1"])
    used.channel.close()
    await third.stop()


# Strangers at the door.


@asynccontextmanager
async def silent_listener() -> AsyncIterator[str]:
    """Takes connections, and says nothing."""
    writers = []
    server = await asyncio.start_server(lambda _, w: writers.append(w), "127.0.0.1", 0)
    yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()
    for writer in writers:
        writer.close()


async def connect(pair: Pair) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(*parse_address(pair.address[0]))


async def still_serves(pair: Pair) -> None:
    near, far = pair.inboxes(os.urandom(16))
    await pair.dial()
    await near.channel.send(b"honest")
    assert await far.next() == b"honest"


@pytest.mark.parametrize(
    "garbage",
    [b"GET / HTTP/1.1\r\n\r\n", bytes(1000), b"\x00\x20" + bytes(32), b"\x00\x20" + b"\xff" * 900],
    ids=["http", "zeros", "small-order", "noise"],
)
async def test_garbage_closes_its_own_connection_only(tcp: Pair, garbage: bytes) -> None:
    reader, writer = await connect(tcp)
    writer.write(garbage)
    async with asyncio.timeout(SOON_S):
        try:
            while await reader.read(4096):
                pass
        except ConnectionError:
            pass
    writer.close()
    await still_serves(tcp)


async def test_a_handshake_that_stops_half_way_ends_at_its_deadline(
    tcp: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LINK_HANDSHAKE_TIMEOUT_S", 0.2)
    first = Handshake(LinkIdentity(C, bytes(16)), PB).first_message()
    for said in (b"", first[:1], first[:20], first):
        reader, writer = await connect(tcp)
        writer.write(said)
        async with asyncio.timeout(SOON_S):
            while await reader.read(4096):
                pass
        writer.close()
    assert not tcp.far._unproven
    await still_serves(tcp)


async def test_a_dialled_peer_that_says_nothing_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "LINK_HANDSHAKE_TIMEOUT_S", 0.2)
    links = Links(A)
    async with silent_listener() as address:
        with pytest.raises(PeerUnreachable, match="did not finish the handshake within"):
            await links.get(PB, [address])
    await links.stop()


async def test_connections_that_say_nothing_do_not_keep_others_out(
    tcp: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LINK_HANDSHAKES_MAX", 8)
    loris = [await connect(tcp) for _ in range(40)]
    await until(lambda: tcp.far.counters.handshakes_refused >= 32)
    assert len(tcp.far._unproven) <= 8
    await still_serves(tcp)
    for _, writer in loris:
        writer.close()


async def test_one_address_has_fewer_of_them(tcp: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LINK_HANDSHAKES_PER_ADDRESS_MAX", 3)
    loris = [await connect(tcp) for _ in range(12)]
    await until(lambda: tcp.far.counters.handshakes_refused >= 9)
    assert len(tcp.far._unproven) <= 3
    await still_serves(tcp)
    for _, writer in loris:
        writer.close()


class Rogue:
    """A peer with a key of its own that speaks the protocol, and breaks its rules at will."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair

    async def enter(self) -> None:
        self.reader, self.writer = await connect(self._pair)
        handshake = Handshake(LinkIdentity(C, os.urandom(16)), PB)
        self.sent = handshake.first_message()
        self.writer.write(self.sent)
        size = int.from_bytes(await self.reader.readexactly(2), "big")
        handshake.receive(await self.reader.readexactly(size))
        self.reply = handshake.reply()
        self.writer.write(self.reply)
        agreement = handshake.agree()
        self.sealer = Sealer(agreement.send_key, 0.0)
        self.opener = Opener(agreement.receive_key, 0.0)
        assert await self.record() == frames.encode_ready()

    async def record(self) -> bytes:
        async with asyncio.timeout(SOON_S):
            size = int.from_bytes(await self.reader.readexactly(4), "big")
            return self.opener.open(await self.reader.readexactly(size))

    def send(self, record: bytes) -> None:
        self.writer.write(self.sealer.seal(record))

    async def until_cut(self) -> str:
        """Read until the end; return what the goodbye said."""
        said = ""
        try:
            while True:
                record = await self.record()
                for kind, start, stop in frames.split_frames(record):
                    if kind == frames.GOODBYE:
                        said = frames.parse_goodbye(record[start:stop])[1]
        except (asyncio.IncompleteReadError, ConnectionError):
            self.writer.close()
            return said


@pytest.fixture
async def rogue(tcp: Pair) -> AsyncIterator[tuple[Pair, Rogue]]:
    rogue = Rogue(tcp)
    await rogue.enter()
    await until(lambda: tcp.far.link(PC) is not None)
    yield tcp, rogue
    rogue.writer.close()


async def test_a_replayed_handshake_gets_nowhere(rogue: tuple[Pair, Rogue]) -> None:
    tcp, recorded = rogue
    reader, writer = await connect(tcp)
    writer.write(recorded.sent)
    size = int.from_bytes(await reader.readexactly(2), "big")
    await reader.readexactly(size)
    writer.write(recorded.reply)
    assert await asyncio.wait_for(reader.read(100), SOON_S) == b""
    writer.close()
    assert tcp.far.counters.peers_misbehaved == 1
    assert [link.peer for link in tcp.far.all()] == [PC]


async def test_a_forged_record_cuts_the_link(rogue: tuple[Pair, Rogue]) -> None:
    tcp, peer = rogue
    sealed = bytearray(peer.sealer.seal(frames.encode_ping(bytes(8))))
    sealed[-1] ^= 1
    peer.writer.write(sealed)
    assert "forged" in await peer.until_cut()
    await still_serves(tcp)


async def test_a_replayed_record_cuts_the_link(rogue: tuple[Pair, Rogue]) -> None:
    _, peer = rogue
    sealed = peer.sealer.seal(frames.encode_ping(bytes(8)))
    peer.writer.write(sealed + sealed)
    assert "out of order" in await peer.until_cut()


@pytest.mark.parametrize("size", [0, 16, limits.LINK_RECORD_BYTES_MAX + 17, 2**32 - 1])
async def test_a_length_out_of_bounds_cuts_the_link(rogue: tuple[Pair, Rogue], size: int) -> None:
    _, peer = rogue
    peer.writer.write(size.to_bytes(4, "big"))
    assert "a record has" in await peer.until_cut()


async def test_a_peer_that_ignores_credit_is_cut_off_in_bounded_memory(
    rogue: tuple[Pair, Rogue],
) -> None:
    tcp, peer = rogue
    held: list[bytes] = []
    tcp.far.open_channel(PC, SESSION, held.append)
    record = frames.data_head(frames.WHOLE, SESSION, 64 * KIB) + bytes(64 * KIB)

    async def flood() -> None:
        while True:
            peer.send(record)
            await peer.writer.drain()

    flooding = asyncio.create_task(flood())
    said = await peer.until_cut()
    flooding.cancel()
    await asyncio.gather(flooding, return_exceptions=True)
    assert "credit" in said or not said  # the goodbye may be lost under the flood
    assert sum(map(len, held)) <= limits.LINK_WINDOW_BYTES
    assert tcp.far.counters.peers_misbehaved == 1
    await still_serves(tcp)


async def test_a_peer_that_asks_and_never_reads_is_cut_off(rogue: tuple[Pair, Rogue]) -> None:
    tcp, peer = rogue
    pings = frames.encode_ping(b"12345678") * 1000
    peer.reader._transport.pause_reading()  # type: ignore[attr-defined]

    async def flood() -> None:
        while True:
            peer.send(pings)
            await peer.writer.drain()

    with pytest.raises(ConnectionError):
        await asyncio.wait_for(flood(), 60)
    assert tcp.far.counters.peers_misbehaved == 1
    await still_serves(tcp)


async def test_a_peer_that_sends_before_it_takes_the_link_is_refused(tcp: Pair) -> None:
    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handshake = Handshake(LinkIdentity(C, bytes(16)), None)
        for _ in range(2):
            size = int.from_bytes(await reader.readexactly(2), "big")
            handshake.receive(await reader.readexactly(size))
            if not handshake.is_finished:
                writer.write(handshake.reply())
        sealer = Sealer(handshake.agree().send_key, 0.0)
        writer.write(sealer.seal(frames.data_head(frames.WHOLE, bytes(16), 1) + b"x"))

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    with pytest.raises(PeerError, match="before it has taken the link"):
        await tcp.near.get(PC, [address])
    server.close()


async def test_many_identities_at_once(tcp: Pair) -> None:
    nodes = [Links(SecretKey(bytes([n]) * 32)) for n in range(10, 40)]
    await asyncio.gather(*(node.get(PB, tcp.address) for node in nodes))
    assert len(tcp.far.all()) == 30
    await asyncio.gather(*(node.stop() for node in nodes))
    await until(lambda: not tcp.far.all())


# Other processes.

ECHO = """
import asyncio, sys
from credentials.keys import SecretKey, PeerId
from kwaai.net.links import Links

async def main():
    links = Links(SecretKey(bytes([2]) * 32))
    def receive(message):
        channel.consumed(len(message))
        channel.send_now(message)
    channel = links.open_channel(PeerId(sys.argv[1]), b"s" * 16, receive)
    print((await links.start("127.0.0.1", 0))[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await links.stop()

asyncio.run(main())
"""


@asynccontextmanager
async def echo_process() -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        ECHO,
        PA,
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        port = int(await asyncio.wait_for(process.stdout.readline(), 30))
        yield process, f"127.0.0.1:{port}"
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGCONT)
            process.stdin.close()
            await asyncio.wait_for(process.wait(), SOON_S)


@pytest.fixture
async def lost_in(
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[signal.Signals], Awaitable[tuple[float, str]]]:
    async def measure(signum: signal.Signals) -> tuple[float, str]:
        monkeypatch.setattr(limits, "LINK_SILENCE_S", 1.0)
        monkeypatch.setattr(limits, "LINK_PING_S", 0.3)
        loop = asyncio.get_running_loop()
        links = Links(A)
        lost: asyncio.Future[str] = loop.create_future()
        links.on_lost(lambda _, reason: lost.set_result(reason))
        async with echo_process() as (process, address):
            await links.get(PB, [address])
            inbox = Inbox(links, PB)
            await inbox.channel.send(b"there?")
            assert await inbox.next() == b"there?"
            process.send_signal(signum)
            began_s = loop.time()
            waiting = asyncio.create_task(inbox.channel.send(bytes(2 * MIB)))
            reason = await asyncio.wait_for(lost, SOON_S)
            took_s = loop.time() - began_s
            await asyncio.gather(waiting, return_exceptions=True)
            with pytest.raises(PeerLost):
                await inbox.channel.send(b"there?")
        await links.stop()
        return took_s, reason

    return measure


async def test_a_frozen_process_is_noticed(
    lost_in: Callable[[signal.Signals], Awaitable[tuple[float, str]]],
) -> None:
    took_s, reason = await lost_in(signal.SIGSTOP)
    assert 0.5 < took_s < 20
    assert "has sent nothing for" in reason
    assert PB in reason


async def test_a_killed_process_is_noticed(
    lost_in: Callable[[signal.Signals], Awaitable[tuple[float, str]]],
) -> None:
    took_s, _ = await lost_in(signal.SIGKILL)
    assert took_s < 10


async def test_an_idle_link_writes_next_to_nothing(
    tcp: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    await tcp.dial()
    link = tcp.near.all()[0]
    await until(lambda: link._vigil._probes_left == 0 and link.bandwidth_bytes_s)
    before = link.bytes_sent
    await asyncio.sleep(0.3)
    assert link.bytes_sent - before < 100


def test_the_order_of_peers_is_that_of_their_keys() -> None:
    assert sorted([PA, PB, PC], key=lambda peer: parse_peer_id(peer).raw)
