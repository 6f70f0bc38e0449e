"""What every `kwaai.net.network.Network` keeps to: the one in memory, and libp2p over loopback."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol

import pytest

from credentials.keys import PeerId, SecretKey, peer_id
from kwaai import limits
from kwaai.errors import (
    Busy,
    KwaaiError,
    PeerError,
    PeerMisbehaved,
    PeerRefused,
    PeerStalled,
    PeerUnreachable,
    UserError,
)
from kwaai.net.libp2p_network import Libp2pNetwork
from kwaai.net.network import Network, Stream
from kwaai.testing.network import MemoryNetwork, MemorySwarm

ECHO = "/kwaai/test-echo/1.0.0"
WAIT_S = 20.0
"""For what takes milliseconds on an idle machine."""


class World(Protocol):
    """Makes networks that can reach one another."""

    def __call__(self, number: int, *bootstrap: str) -> Network: ...


@pytest.fixture(params=["memory", "libp2p"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    made: list[Network] = []
    swarm = MemorySwarm(detect_s=0.1, redial_s=0.2)

    def make(number: int, *bootstrap: str) -> Network:
        secret = SecretKey(number.to_bytes(32, "big"))
        network: Network
        if request.param == "memory":
            network = MemoryNetwork(swarm, secret, bootstrap=bootstrap)
        else:
            network = Libp2pNetwork(secret, ["/ip4/127.0.0.1/tcp/0"], bootstrap=bootstrap)
        network.add_validator("test", validate)
        made.append(network)
        return network

    yield make
    for network in made:
        await network.stop()


def validate(key: bytes, value: bytes) -> int:
    """Values are `<sequence> <key>`."""
    sequence, _, rest = value.partition(b" ")
    if rest != key or not sequence.isdigit():
        raise PeerMisbehaved("not the value of this key")
    return int(sequence)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.01)


async def echo(peer: PeerId, body: bytes) -> bytes:
    return peer.encode() + b":" + body


async def pair(world: World) -> tuple[Network, Network]:
    """Two networks, the first connected to the second."""
    first, second = world(1), world(2)
    second.handle_requests(ECHO, echo)
    await first.start()
    await second.start()
    assert await first.connect(second.addresses()[0]) == second.peer_id
    await until(lambda: bool(second.connections()))
    return first, second


async def test_connections_are_seen_from_both_sides(world: World) -> None:
    first, second = world(1), world(2)
    told: list[tuple[int, PeerId, bool]] = []
    first.add_listener(lambda peer, here: told.append((1, peer, here)))
    second.add_listener(lambda peer, here: told.append((2, peer, here)))
    assert first.addresses() == ()
    await first.start()
    await second.start()
    assert first.peer_id == peer_id(SecretKey((1).to_bytes(32, "big")).public)
    assert all(a.endswith(f"/p2p/{first.peer_id}") for a in first.addresses())
    assert first.addresses()
    await first.connect(second.addresses()[0])
    await until(lambda: len(told) == 2)
    assert sorted(told) == [(1, second.peer_id, True), (2, first.peer_id, True)]
    (ours,), (theirs,) = first.connections(), second.connections()
    assert (ours.peer, ours.direction) == (second.peer_id, "outbound")
    assert (theirs.peer, theirs.direction) == (first.peer_id, "inbound")
    assert "/p2p/" not in ours.address
    await first.connect(second.addresses()[0])  # again: nothing new
    assert len(first.connections()) == 1
    await second.stop()
    await until(lambda: not first.connections())
    assert (1, second.peer_id, False) in told


async def test_disconnect(world: World) -> None:
    first, second = await pair(world)
    await first.disconnect(second.peer_id)
    await until(lambda: not first.connections() and not second.connections())
    await first.disconnect(second.peer_id)


async def test_bootstrap_peers_are_connected_by_themselves(world: World) -> None:
    first = world(1)
    await first.start()
    second = world(2, *first.addresses())
    await second.start()
    await until(lambda: bool(first.connections() and second.connections()))


async def test_start_does_not_wait_for_a_bootstrap_peer_that_is_gone(world: World) -> None:
    other = peer_id(SecretKey(bytes(31) + b"\x09").public)
    network = world(1, f"/ip4/127.0.0.1/tcp/9/p2p/{other}")
    async with asyncio.timeout(WAIT_S / 2):
        await network.start()
    assert network.connections() == ()


async def test_who_cannot_be_reached(world: World) -> None:
    first, second = await pair(world)
    other = peer_id(SecretKey(bytes(31) + b"\x09").public)
    with pytest.raises(PeerUnreachable):
        await first.connect(f"/ip4/127.0.0.1/tcp/9/p2p/{other}", 3.0)
    with pytest.raises(PeerUnreachable):
        await first.connect_peer(other, timeout_s=3.0)
    with pytest.raises(PeerUnreachable):
        await first.request(other, ECHO, b"", 3.0)
    address = second.addresses()[0].replace(second.peer_id, other)
    with pytest.raises(PeerUnreachable):  # somebody else answers there
        await first.connect(address, 3.0)
    with pytest.raises(KwaaiError):
        await first.connect(first.addresses()[0], 3.0)
    assert [c.peer for c in first.connections()] == [second.peer_id]


@pytest.mark.parametrize(
    "address", ["", "/ip4/127.0.0.1/tcp/9", "127.0.0.1:9", "/x/p2p/Qm", "/p2p/"]
)
async def test_what_is_no_address(world: World, address: str) -> None:
    network = world(1)
    await network.start()
    with pytest.raises(UserError):
        await network.connect(address)


async def test_requests_both_ways(world: World) -> None:
    first, second = await pair(world)
    first.handle_requests(ECHO, echo)  # after start
    answer = await first.request(second.peer_id, ECHO, b"hello")
    assert answer == first.peer_id.encode() + b":hello"
    assert (await second.request(first.peer_id, ECHO, b"")).endswith(b":")


async def test_a_request_connects_to_a_peer_once_met(world: World) -> None:
    first, second = await pair(world)
    third = world(3)
    third.handle_requests(ECHO, echo)
    await third.start()
    await first.connect_peer(third.peer_id, third.addresses())
    assert (await first.request(third.peer_id, ECHO, b"x")).endswith(b":x")
    assert {c.peer for c in first.connections()} == {second.peer_id, third.peer_id}


async def test_many_requests_at_once_and_large_ones(world: World) -> None:
    first, second = await pair(world)
    bodies = [bytes([n]) * (n * 100) for n in range(40)]
    asked = (first.request(second.peer_id, ECHO, body, WAIT_S) for body in bodies)
    answers = await asyncio.gather(*asked)
    assert [a.partition(b":")[2] for a in answers] == bodies
    largest = bytes(limits.P2P_MESSAGE_BYTES_MAX - 100)
    assert (await first.request(second.peer_id, ECHO, largest, WAIT_S)).endswith(largest)
    with pytest.raises(UserError):
        await first.request(second.peer_id, ECHO, bytes(limits.P2P_MESSAGE_BYTES_MAX + 1))


async def test_refusals(world: World) -> None:
    first, second = await pair(world)

    async def busy(peer: PeerId, body: bytes) -> bytes:
        raise Busy("come back later")

    second.handle_requests("/kwaai/test-busy/1.0.0", busy)
    with pytest.raises(PeerRefused, match="come back later") as caught:
        await first.request(second.peer_id, "/kwaai/test-busy/1.0.0", b"")
    assert caught.value.peer == second.peer_id
    with pytest.raises(PeerRefused):
        await first.request(second.peer_id, "/kwaai/test-unknown/1.0.0", b"")
    assert await first.request(second.peer_id, ECHO, b"")  # the connection lives


async def test_a_silent_handler_costs_no_more_than_its_request(world: World) -> None:
    first, second = await pair(world)
    begun = asyncio.Event()

    async def silent(peer: PeerId, body: bytes) -> bytes:
        begun.set()
        await asyncio.Event().wait()
        return b""

    second.handle_requests("/kwaai/test-silent/1.0.0", silent)
    with pytest.raises(PeerStalled):
        await first.request(second.peer_id, "/kwaai/test-silent/1.0.0", b"", 0.5)
    begun.clear()
    asking = asyncio.create_task(first.request(second.peer_id, "/kwaai/test-silent/1.0.0", b""))
    await asyncio.wait_for(begun.wait(), WAIT_S)
    assert await first.request(second.peer_id, ECHO, b"")
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert await first.request(second.peer_id, ECHO, b"")
    assert len(first.connections()) == 1


async def test_a_request_ends_when_its_peer_goes(world: World) -> None:
    first, second = await pair(world)
    begun = asyncio.Event()

    async def silent(peer: PeerId, body: bytes) -> bytes:
        begun.set()
        await asyncio.Event().wait()
        return b""

    second.handle_requests(ECHO, silent)
    asking = asyncio.create_task(first.request(second.peer_id, ECHO, b"", WAIT_S))
    await asyncio.wait_for(begun.wait(), WAIT_S)
    await second.stop()
    with pytest.raises(PeerError):
        await asyncio.wait_for(asking, WAIT_S / 2)


async def test_ping(world: World) -> None:
    first, second = await pair(world)
    assert 0 < await first.ping(second.peer_id) < 5
    assert 0 < await second.ping(first.peer_id) < 5


# Streams.


async def read_exactly(stream: Stream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = await stream.read(size - len(data))
        assert piece, "the stream ended early"
        data += piece
    return data


async def streams(
    world: World, handler: Callable[[PeerId, Stream], Awaitable[None]]
) -> tuple[Network, Network, Stream]:
    first, second = await pair(world)
    second.handle_streams("/kwaai/test-stream/1.0.0", handler)
    return first, second, await first.open_stream(second.peer_id, "/kwaai/test-stream/1.0.0")


async def test_a_stream_carries_bytes_in_order_and_ends(world: World) -> None:
    peers: list[PeerId] = []

    async def back(peer: PeerId, stream: Stream) -> None:
        peers.append(peer)
        while data := await stream.read(100_000):
            await stream.write(data)

    first, _, stream = await streams(world, back)
    sent = bytes(range(256)) * 8192  # 2 MiB
    writing = asyncio.create_task(stream.write(sent))
    assert await asyncio.wait_for(read_exactly(stream, len(sent)), WAIT_S) == sent
    await writing
    assert peers == [first.peer_id]
    await stream.close()
    await stream.close()


async def test_a_stream_ends_when_its_handler_returns(world: World) -> None:
    async def short(peer: PeerId, stream: Stream) -> None:
        await stream.write(await stream.read(10))

    _, _, stream = await streams(world, short)
    await stream.write(b"x")
    assert await asyncio.wait_for(read_exactly(stream, 1), WAIT_S) == b"x"
    assert await asyncio.wait_for(stream.read(10), WAIT_S) == b""


async def test_a_writer_waits_for_a_slow_reader(world: World) -> None:
    go = asyncio.Event()
    read: list[int] = []

    async def slow(peer: PeerId, stream: Stream) -> None:
        await go.wait()
        while data := await stream.read(65_536):
            read.append(len(data))
            if sum(read) == size:
                await stream.write(b"!")

    size = 4 * limits.MIB
    _, _, stream = await streams(world, slow)
    writing = asyncio.create_task(stream.write(bytes(size)))
    done, _ = await asyncio.wait([writing], timeout=0.3)
    assert not done
    go.set()
    await asyncio.wait_for(writing, WAIT_S)
    assert await asyncio.wait_for(stream.read(1), WAIT_S) == b"!"
    await stream.close()


async def test_streams_that_are_refused_or_lost(world: World) -> None:
    async def wait(peer: PeerId, stream: Stream) -> None:
        await stream.read(1)

    first, second, stream = await streams(world, wait)
    with pytest.raises(PeerRefused):
        await first.open_stream(second.peer_id, "/kwaai/test-unknown/1.0.0")
    reading = asyncio.create_task(stream.read(1))
    await second.stop()
    with contextlib.suppress(PeerError):  # as good: the connection was lost
        assert await asyncio.wait_for(reading, WAIT_S) == b""

    async def write_for_ever() -> None:
        while True:
            await stream.write(bytes(1000))

    with pytest.raises(PeerError):
        await asyncio.wait_for(write_for_ever(), WAIT_S)


# The DHT.


async def swarm_of_three(world: World) -> list[Network]:
    first = world(1)
    await first.start()
    others = [world(n, *first.addresses()) for n in (2, 3)]
    for network in others:
        await network.start()
    await until(lambda: len(first.connections()) == 2)
    await until(lambda: all(n.connections() for n in others))
    return [first, *others]


async def taken(network: Network, key: bytes, value: bytes) -> None:
    """Put a value until another node takes it: the routing table fills after a connection."""
    async with asyncio.timeout(WAIT_S):
        while not await network.put_value(key, value):
            await asyncio.sleep(0.1)


async def test_values_are_found_and_the_newest_wins(world: World) -> None:
    first, second, third = await swarm_of_three(world)
    key = b"/test/one"
    assert await third.get_value(key) is None
    await taken(second, key, b"1 " + key)
    assert await third.get_value(key) == b"1 " + key
    await taken(second, key, b"2 " + key)
    assert await third.get_value(key) == b"2 " + key  # not the one it has seen before
    assert await first.get_value(key) == b"2 " + key


async def test_values_that_are_not_valid_stay_out(world: World) -> None:
    first, second, third = await swarm_of_three(world)
    await taken(first, b"/test/one", b"1 /test/one")
    for key, value in (
        (b"/test/two", b"1 /test/one"),
        (b"/test/two", b"junk"),
        (b"/other/two", b"1 /other/two"),
        (b"two", b"1 two"),
        (b"", b"1 "),
        (b"\xff\xfe", b"1 \xff\xfe"),
    ):
        with pytest.raises(KwaaiError):
            await second.put_value(key, value)
        with contextlib.suppress(KwaaiError):  # as good: nobody can check what lies there
            assert await third.get_value(key) is None


async def test_providers_are_found_once_each(world: World) -> None:
    first, second, third = await swarm_of_three(world)
    key = bytes(range(32))
    assert await third.find_providers(key) == ()
    await first.provide(key)
    await second.provide(key)
    await second.provide(key)
    found: dict[PeerId, Any] = {}
    async with asyncio.timeout(WAIT_S):
        while len(found) < 2:
            providers = await third.find_providers(key)
            found = dict(providers)
            assert len(found) == len(providers)
            await asyncio.sleep(0.05)
    assert set(found) == {first.peer_id, second.peer_id}
    for network in (first, second):
        await third.connect_peer(network.peer_id, found[network.peer_id])


async def test_stop_is_final_and_may_be_repeated(world: World) -> None:
    first, second = await pair(world)
    await first.stop()
    await first.stop()
    assert first.connections() == ()
    with pytest.raises(KwaaiError):
        await first.request(second.peer_id, ECHO, b"", 1.0)
    with pytest.raises(KwaaiError):
        await first.connect(second.addresses()[0], 1.0)
