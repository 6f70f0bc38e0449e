"""The real network: libp2p nodes on loopback, each with a thread of its own, and hostile peers.

What a hostile peer does is done here with sockets, or with py-libp2p unpatched.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from credentials.keys import PeerId, SecretKey, peer_id
from kwaai import limits
from kwaai.errors import (
    Busy,
    KwaaiError,
    PeerError,
    PeerLost,
    PeerMisbehaved,
    PeerRefused,
    PeerStalled,
    PeerUnreachable,
    PortInUse,
    ResourceError,
    UserError,
)
from kwaai.net.libp2p_network import Libp2pNetwork

ECHO, STREAM, SLOW, BAD = "/test/echo/1", "/test/stream/1", "/test/slow/1", "/test/bad/1"
LOOPBACK = "/ip4/127.0.0.1/tcp/0"
Make = Callable[..., Awaitable[Libp2pNetwork]]


async def echo(peer: PeerId, body: bytes) -> bytes:
    return body


async def slow(peer: PeerId, body: bytes) -> bytes:
    await asyncio.sleep(60)
    return body


async def bad(peer: PeerId, body: bytes) -> bytes:
    if body == b"bug":
        raise ZeroDivisionError
    raise Busy("all slots are taken")


async def echo_stream(peer: PeerId, stream: Any) -> None:
    while data := await stream.read(65_536):
        await stream.write(data)


def check_value(key: bytes, value: bytes) -> int:
    """A value is `<sequence>:<anything>`, under the key that it names."""
    sequence, _, rest = value.partition(b":")
    if not sequence.isdigit() or not rest.startswith(key):
        raise PeerMisbehaved("a wrong value")
    return int(sequence)


def new_secret() -> SecretKey:
    return SecretKey(secrets.token_bytes(32))


async def until(condition: Callable[[], object], timeout_s: float = 10.0) -> None:
    """Wait for a condition that another thread or process makes true."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    """Start networks; stop them all."""
    networks: list[Libp2pNetwork] = []

    async def start(secret: SecretKey | None = None, **options: Any) -> Libp2pNetwork:
        listen = options.pop("listen", [LOOPBACK])
        network = Libp2pNetwork(secret or new_secret(), listen, **options)
        network.handle_requests(ECHO, echo)
        network.handle_requests(SLOW, slow)
        network.handle_requests(BAD, bad)
        network.handle_streams(STREAM, echo_stream)
        network.add_validator("kwaai", check_value)
        networks.append(network)
        await network.start()
        return network

    yield start
    for network in networks:
        await network.stop()


async def pair(make: Make) -> tuple[Libp2pNetwork, Libp2pNetwork]:
    a, b = await make(), await make()
    await a.connect(b.addresses()[0])
    await until(lambda: b.connections())
    return a, b


def port_of(network: Libp2pNetwork) -> int:
    return int(network.addresses()[0].split("/")[4])


# --- connecting


async def test_both_sides_know_each_other(make: Make) -> None:
    a, b = await make(), await make()
    events: list[tuple[PeerId, bool]] = []
    b.add_listener(lambda peer, up: events.append((peer, up)))
    assert await a.connect(b.addresses()[0]) == b.peer_id
    await until(lambda: a.connections()[0].agent and b.connections()[0].agent)
    [ab], [ba] = a.connections(), b.connections()
    assert (ab.peer, ab.direction, ba.peer, ba.direction) == (
        b.peer_id,
        "outbound",
        a.peer_id,
        "inbound",
    )
    assert ab.address == b.addresses()[0].rpartition("/p2p/")[0]
    assert ab.agent.startswith("kwaainet/")
    await until(lambda: a.connections()[0].rtt_s)
    await a.disconnect(b.peer_id)
    assert a.connections() == ()
    # An end that was missed is found by the heartbeat, after three misses.
    await until(lambda: events[:2] == [(a.peer_id, True), (a.peer_id, False)], 60.0)
    assert b.connections() == ()


async def test_dials_that_cross_leave_one_connection_that_works(make: Make) -> None:
    nodes = [await make() for _ in range(4)]
    pairs = [(x, y) for x in nodes for y in nodes if x is not y]
    await asyncio.gather(*(x.connect(y.addresses()[0]) for x, y in pairs))
    for _ in range(3):
        answers = await asyncio.gather(*(x.request(y.peer_id, ECHO, b"hi") for x, y in pairs))
        assert set(answers) == {b"hi"}
    assert all(len(node.connections()) == 3 for node in nodes)


async def test_a_peer_that_is_not_there(make: Make) -> None:
    a = await make()
    stranger = peer_id(new_secret().public)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"/ip4/127.0.0.1/tcp/{closed.getsockname()[1]}/p2p/{stranger}"
        with pytest.raises(PeerUnreachable, match=stranger) as caught:
            await a.connect(address, 3.0)
    assert caught.value.peer == stranger
    with pytest.raises(PeerUnreachable, match="no address"):
        await a.connect_peer(stranger, (), 2.0)
    with pytest.raises(PeerUnreachable, match=stranger):
        await a.request(stranger, ECHO, b"", 2.0)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "127.0.0.1:4001",
        "/ip4/127.0.0.1/tcp/4001",
        "/ip4/127.0.0.1/udp/4001/quic-v1/p2p/12D3KooWBtg3aaRMjxwedh83aGiUkwSxDwUZkzuJcfaqUmo7R3pN",
        "/ip4/300.0.0.1/tcp/4001/p2p/12D3KooWBtg3aaRMjxwedh83aGiUkwSxDwUZkzuJcfaqUmo7R3pN",
        "/ip4/127.0.0.1/tcp/4001/p2p/QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",
    ],
)
async def test_an_address_that_is_none(make: Make, address: str) -> None:
    with pytest.raises(UserError):
        await (await make()).connect(address)
    with pytest.raises(UserError):
        Libp2pNetwork(new_secret(), bootstrap=[address])


async def test_a_port_in_use(make: Make) -> None:
    a = await make()
    other = Libp2pNetwork(new_secret(), [f"/ip4/127.0.0.1/tcp/{port_of(a)}"])
    with pytest.raises(PortInUse, match=str(port_of(a))):
        await other.start()
    await other.stop()


async def test_stop_is_prompt_final_and_idempotent(make: Make) -> None:
    a, b = await pair(make)
    pending = asyncio.ensure_future(a.request(b.peer_id, SLOW, b""))
    await until(lambda: b.connections())
    start_s = time.monotonic()
    await a.stop()
    await a.stop()
    assert time.monotonic() - start_s < 8.0
    with pytest.raises(KwaaiError):
        await pending
    with pytest.raises(ResourceError, match="not running"):
        await a.request(b.peer_id, ECHO, b"")
    assert a.connections() == a.addresses() == ()
    await until(lambda: not b.connections())


async def test_a_network_can_be_started_again(make: Make) -> None:
    a, b = await pair(make)
    await a.stop()
    await a.start()
    await a.connect(b.addresses()[0])
    assert await a.request(b.peer_id, ECHO, b"again") == b"again"
    assert await b.request(a.peer_id, ECHO, b"again") == b"again"


async def test_of_two_connections_the_newer_is_used(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer dials again when it has lost the first, whatever we still believe of that."""
    monkeypatch.setattr(limits, "P2P_SIMULTANEOUS_S", 0.0)
    monkeypatch.setattr(limits, "P2P_LINGER_S", 0.3)
    low, high = sorted([await make(), await make()], key=lambda network: network.peer_id)
    await low.connect(high.addresses()[0])
    await until(lambda: high.connections())
    # The higher one forgets it, as if it had been restarted, and dials.
    assert high._node
    lost = high._node.host.conns.pop(low.peer_id)
    await high.connect(low.addresses()[0])
    assert high._node.host.conns[low.peer_id] != lost
    high._node.host.conns[low.peer_id] += lost
    await until(lambda: low.connections()[0].direction == "inbound")
    await until(lambda: lost[0].ended.is_set())
    assert await low.request(high.peer_id, ECHO, b"hi") == b"hi"
    assert await high.request(low.peer_id, ECHO, b"hi") == b"hi"


async def test_hostile_peers_do_not_write_to_standard_error(
    make: Make, capfd: pytest.CaptureFixture[str]
) -> None:
    b = await make()
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(b))
    writer.write(line("/multistream/1.0.0") + line("/noise") + b"\x00\x20" + bytes(32))
    writer.write_eof()
    await asyncio.wait_for(reader.read(), 5.0)
    writer.close()
    assert capfd.readouterr().err == ""


def test_libp2p_is_not_imported_before_start() -> None:
    code = "import sys, kwaai.net.libp2p_network; print({'libp2p', 'trio'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout == "set()\n", result.stderr


# --- requests and streams


async def test_requests(make: Make) -> None:
    a, b = await pair(make)
    for size in (0, 1, 1000, limits.P2P_MESSAGE_BYTES_MAX):
        body = secrets.token_bytes(size)
        assert await a.request(b.peer_id, ECHO, body) == body
        assert await b.request(a.peer_id, ECHO, body) == body
    with pytest.raises(UserError, match="at most"):
        await a.request(b.peer_id, ECHO, bytes(limits.P2P_MESSAGE_BYTES_MAX + 1))
    with pytest.raises(PeerRefused, match="all slots are taken") as refused:
        await a.request(b.peer_id, BAD, b"")
    assert refused.value.peer == b.peer_id
    with pytest.raises(PeerRefused, match="its log says why"):
        await a.request(b.peer_id, BAD, b"bug")
    with pytest.raises(PeerRefused, match="does not speak /nobody/1") as unknown:
        await a.request(b.peer_id, "/nobody/1", b"")
    assert unknown.value.peer == b.peer_id
    start_s = time.monotonic()
    with pytest.raises(PeerStalled, match=b.peer_id):
        await a.request(b.peer_id, SLOW, b"", 0.5)
    assert time.monotonic() - start_s < 8.0
    assert await a.request(b.peer_id, ECHO, b"still here") == b"still here"


async def test_a_handler_added_while_running(make: Make) -> None:
    a, b = await pair(make)

    async def late(peer: PeerId, body: bytes) -> bytes:
        return peer.encode() + body

    b.handle_requests("/test/late/1", late)
    assert await a.request(b.peer_id, "/test/late/1", b"!") == a.peer_id.encode() + b"!"


async def test_a_stream_carries_everything_in_order(make: Make) -> None:
    a, b = await pair(make)
    sent = secrets.token_bytes(3_000_000)
    stream = await a.open_stream(b.peer_id, STREAM)
    writing = asyncio.ensure_future(stream.write(sent))
    got = bytearray()
    while len(got) < len(sent):
        got += await stream.read(100_000)
    await writing
    assert got == sent
    await stream.close()
    await stream.close()


async def test_a_lost_connection_is_an_error_not_an_end(make: Make) -> None:
    a, b = await pair(make)
    stream = await a.open_stream(b.peer_id, STREAM)
    await stream.write(b"x")
    assert await stream.read(10) == b"x"
    reading = asyncio.ensure_future(stream.read(10))
    await b.stop()
    with pytest.raises(PeerLost, match=b.peer_id):
        await reading
    with pytest.raises(PeerLost):
        await stream.write(b"y")


async def test_a_stream_that_ends(make: Make) -> None:
    a, b = await make(), await make()

    async def hello(peer: PeerId, stream: Any) -> None:
        await stream.write(b"hello")

    b.handle_streams("/test/hello/1", hello)
    await a.connect(b.addresses()[0])
    stream = await a.open_stream(b.peer_id, "/test/hello/1")
    assert await stream.read(10) == b"hello"
    assert await stream.read(10) == b""
    await stream.close()


async def test_hundreds_of_cancellations_leave_the_connection_alive(make: Make) -> None:
    seed = int(os.environ.get("KWAAI_TEST_SEED", random.randrange(1 << 30)))
    print("seed", seed)
    rng = random.Random(seed)
    a, b = await pair(make)
    since_s = a.connections()[0].since_s
    body = rng.randbytes(200_000)

    async def one(peer: PeerId) -> None:
        with contextlib.suppress(TimeoutError, PeerError):
            async with asyncio.timeout(rng.uniform(0, 0.03)):
                assert await a.request(peer, ECHO, body) == body

    for _ in range(20):
        await asyncio.gather(*(one(b.peer_id) for _ in range(20)))
        assert await a.request(b.peer_id, ECHO, b"alive") == b"alive"
    assert a.connections()[0].since_s == since_s, "the first connection"
    await until(lambda: not open_streams(a) and not open_streams(b))


def open_streams(network: Libp2pNetwork) -> int:
    assert network._node is not None
    conns = [conn for conns in network._node.host.conns.values() for conn in conns]
    return sum(len(conn.muxed.streams) for conn in conns)


async def test_a_cancelled_open_leaves_no_stream(make: Make) -> None:
    a, b = await pair(make)
    for n in range(40):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(n * 0.0002):
                await (await a.open_stream(b.peer_id, STREAM)).close()
    await until(lambda: not open_streams(a) and not open_streams(b))


# --- peers that die, and come back


PEER = """
import asyncio, sys
from pathlib import Path
from credentials.keys import SecretKey
from kwaai.net.libp2p_network import Libp2pNetwork

async def main(seed, port, bootstrap):
    network = Libp2pNetwork(
        SecretKey(bytes.fromhex(seed)), [f"/ip4/127.0.0.1/tcp/{port}"], bootstrap=bootstrap
    )
    async def echo(peer, body):
        return body
    network.handle_requests("/test/echo/1", echo)
    await network.start()
    print(network.addresses()[0], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await network.stop()

asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
"""


@pytest.fixture
def spawn() -> Any:
    """Start a node in a process of its own; return the process and its address."""
    processes: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> tuple[subprocess.Popen[str], str]:
        process = subprocess.Popen(
            [sys.executable, "-c", PEER, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        assert process.stdout
        return process, process.stdout.readline().strip()

    yield start
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGCONT)
            process.kill()
        process.communicate()


async def test_a_frozen_peer_is_noticed(make: Make, spawn: Any) -> None:
    a = await make(heartbeat_s=0.3)
    process, address = await asyncio.to_thread(spawn, secrets.token_hex(32), "0")
    peer = await a.connect(address)
    pending = asyncio.ensure_future(a.request(peer, SLOW, b""))
    await asyncio.wait([pending])  # it does not speak that: an answer, so it is alive
    process.send_signal(signal.SIGSTOP)
    start_s = time.monotonic()
    asking = asyncio.ensure_future(a.request(peer, ECHO, b"?"))
    await until(lambda: not a.connections(), 10.0)
    assert time.monotonic() - start_s < 20.0
    with pytest.raises(PeerLost, match="no heartbeat"):
        await asking


async def test_a_restarted_bootstrap_peer_is_found_again(make: Make, spawn: Any) -> None:
    seed = secrets.token_hex(32)
    process, address = await asyncio.to_thread(spawn, seed, "0")
    a = await make(bootstrap=[address])
    await until(lambda: a.connections())
    process.kill()
    await until(lambda: not a.connections())
    _, again = await asyncio.to_thread(spawn, seed, address.split("/")[4])
    assert again == address
    await until(lambda: a.connections(), 8.0)
    assert await a.request(a.connections()[0].peer, ECHO, b"back") == b"back"


async def test_known_peers_survive_a_restart(make: Make, tmp_path: Path) -> None:
    secret, state = new_secret(), tmp_path / "run" / "peers.json"
    b = await make()
    a = await make(secret, state_path=state)
    await a.connect(b.addresses()[0])
    await until(lambda: a.connections()[0].agent)
    await a.stop()
    assert state.stat().st_mode & 0o777 == 0o600
    again = await make(secret, state_path=state)
    await until(lambda: again.connections())
    assert again.connections()[0].peer == b.peer_id
    await again.stop()
    state.write_text("{broken")
    await (await make(secret, state_path=state)).stop()
    assert (tmp_path / "run" / "peers.json.corrupt-1").exists()


async def test_the_listener_knows_where_the_dialer_listens(make: Make) -> None:
    a, b = await pair(make)
    c = await make()
    await c.connect(b.addresses()[0])
    await until(lambda: all(conn.agent for n in (a, b, c) for conn in n.connections()))
    await c.connect_peer(a.peer_id)  # which only b, dialled by a, can have told
    assert a.peer_id in {conn.peer for conn in c.connections()}


# --- hostile peers


def serve_once(answer: Callable[[socket.socket], None]) -> tuple[int, threading.Thread]:
    listener = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        with contextlib.suppress(OSError):
            sock, _ = listener.accept()
            sock.settimeout(5.0)
            answer(sock)
            sock.close()
        listener.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return listener.getsockname()[1], thread


def line(text: str) -> bytes:
    return bytes([len(text) + 1]) + text.encode() + b"\n"


async def test_a_listener_without_noise_is_refused(make: Make) -> None:
    """py-libp2p by default accepts plaintext, and with it anybody as anybody."""
    a = await make()
    victim, heard = new_secret(), bytearray()

    def plaintext(sock: socket.socket) -> None:
        sock.sendall(line("/multistream/1.0.0") + line("na") + line("/plaintext/2.0.0"))
        while data := sock.recv(4096):
            heard.extend(data)

    port, thread = serve_once(plaintext)
    with pytest.raises(PeerUnreachable, match="does not speak /noise"):
        await a.connect(f"/ip4/127.0.0.1/tcp/{port}/p2p/{peer_id(victim.public)}")
    await asyncio.to_thread(thread.join, 5.0)
    assert bytes(heard) == line("/multistream/1.0.0") + line("/noise"), "and nothing else was said"


async def test_a_dialer_without_noise_is_refused(make: Make) -> None:
    a = await make()
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(a))
    writer.write(line("/multistream/1.0.0") + line("/plaintext/2.0.0") + line("/secio/1.0.0"))
    expected = line("/multistream/1.0.0") + line("na") + line("na")
    assert await asyncio.wait_for(reader.readexactly(len(expected)), 5.0) == expected
    writer.close()
    assert a.connections() == ()


async def test_an_impostor_is_refused(make: Make) -> None:
    a, impostor = await make(), await make()
    victim = peer_id(new_secret().public)
    where = impostor.addresses()[0].rpartition("/p2p/")[0]
    with pytest.raises(PeerUnreachable, match="did not prove its identity"):
        await a.connect(f"{where}/p2p/{victim}")
    await until(lambda: not impostor.connections())
    assert a.connections() == ()


async def test_silent_connections_do_not_keep_honest_ones_out(make: Make) -> None:
    a, b = await make(), await make()
    silent = [socket.create_connection(("127.0.0.1", port_of(b))) for _ in range(400)]
    try:
        start_s = time.monotonic()
        await a.connect(b.addresses()[0])
        assert time.monotonic() - start_s < 8.0
        assert await a.request(b.peer_id, ECHO, b"hi") == b"hi"
    finally:
        for sock in silent:
            sock.close()


async def test_inbound_connections_of_one_ip_are_bounded(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "P2P_INBOUND_PER_IP_MAX", 3)
    b = await make()
    others = [await make() for _ in range(5)]
    for other in others:
        with contextlib.suppress(PeerUnreachable):
            await other.connect(b.addresses()[0], 2.0)
    assert len(b.connections()) == 3
    assert b.counters["inbound_refused"] == 2


async def test_garbage_is_not_answered_with_a_crash(make: Make) -> None:
    a, b = await pair(make)
    rng = random.Random(7)
    for n in range(60):
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(b))
        start = [b"", line("/multistream/1.0.0"), line("/multistream/1.0.0") + line("/noise")]
        writer.write(start[n % 3] + rng.randbytes(rng.randrange(1, 3000)))
        with contextlib.suppress(OSError):
            writer.write_eof()
            await asyncio.wait_for(reader.read(), 5.0)
        writer.close()
    assert await a.request(b.peer_id, ECHO, b"hi") == b"hi"
    assert b.failure == ""


ATTACKER = """
import struct, sys, secrets, trio
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as noise_key
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.peer.id import ID
from libp2p.protocol_muxer.multiselect_client import MultiselectClient
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.security.noise.transport import Transport

async def main(port, peer, attack):
    pair = create_new_key_pair()
    noise = Transport(pair, noise_privkey=noise_key().private_key)
    raw = RawConnection(TrioTCPStream(await trio.open_tcp_stream("127.0.0.1", int(port))), True)
    await MultiselectClient().select_one_of(["/noise"], MultiselectCommunicator(raw))
    conn = await noise.secure_outbound(raw, ID.from_base58(peer))
    await MultiselectClient().select_one_of(["/yamux/1.0.0"], MultiselectCommunicator(conn))
    def frame(kind, flags, stream, length, body=b""):
        return struct.pack("!BBHII", 0, kind, flags, stream, length) + body
    line = lambda text: bytes([len(text) + 1]) + text.encode() + b"\\n"
    print("attacking", flush=True)
    hello = line("/multistream/1.0.0") + line("/test/deaf/1")
    async def drain():
        while await conn.read(12):
            pass
    sent = 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(drain)
        if attack == "window":
            await conn.write(frame(0, 1, 1, len(hello), hello))
            while True:
                await conn.write(frame(0, 0, 1, 60000, bytes(60000)))
                sent += 60000
        elif attack == "streams":
            for stream in range(1, 20001, 2):
                await conn.write(frame(0, 1, stream, len(hello), hello))
                for _ in range(4):
                    await conn.write(frame(0, 0, stream, 60000, bytes(60000)))
                sent += 240000
        elif attack == "frame":
            await conn.write(frame(0, 1, 1, 15 << 20))
            await conn.write(bytes(60000))
            await trio.sleep(30)
        elif attack == "credit":
            await conn.write(frame(1, 1, 1, 0xffffffff))
            await conn.write(frame(1, 0, 1, 0xffffffff))
            await trio.sleep(30)

try:
    trio.run(main, *sys.argv[1:])
except BaseException as error:
    print("cut off", type(error).__name__, flush=True)
"""


@pytest.mark.parametrize("attack", ["window", "streams", "frame", "credit"])
async def test_a_peer_that_floods_is_cut_off(make: Make, attack: str) -> None:
    a, b = await pair(make)

    async def deaf(peer: PeerId, stream: Any) -> None:
        await asyncio.sleep(60)

    b.handle_streams("/test/deaf/1", deaf)
    before = psutil.Process().memory_info().rss
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        textwrap.dedent(ATTACKER),
        str(port_of(b)),
        b.peer_id,
        attack,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout
    try:
        assert (await asyncio.wait_for(process.stdout.readline(), 30.0)) == b"attacking\n"
        await until(lambda: b.counters.get("peers_cut_off"), 20.0)
        await until(lambda: len(b.connections()) == 1)
        assert (await asyncio.wait_for(process.stdout.readline(), 20.0)).startswith(b"cut off")
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    grown = psutil.Process().memory_info().rss - before
    assert grown < 64 * limits.MIB, f"{grown >> 20} MiB"
    assert await a.request(b.peer_id, ECHO, b"hi") == b"hi"


async def test_a_request_with_a_lying_length_ends_its_stream_only(make: Make) -> None:
    a, b = await pair(make)
    for head in (b"\xff\xff\xff\xff", (limits.P2P_MESSAGE_BYTES_MAX + 1).to_bytes(4, "big")):
        stream = await a.open_stream(b.peer_id, ECHO)
        await stream.write(head + b"x" * 100)
        with pytest.raises(PeerLost, match="ended the stream"):
            await stream.read(10)
        await stream.close()
    assert await a.request(b.peer_id, ECHO, b"hi") == b"hi"


# --- the DHT


async def swarm(make: Make, count: int) -> list[Libp2pNetwork]:
    """Nodes that all know the first one, and by the DHT each other."""
    nodes = [await make() for _ in range(count)]
    await asyncio.gather(*(node.connect(nodes[0].addresses()[0]) for node in nodes[1:]))
    await until(lambda: all(table_size(node) for node in nodes))
    return nodes


def table_size(network: Libp2pNetwork) -> int:
    assert network._node is not None
    return len(network._node.kad.table)


async def test_values(make: Make) -> None:
    a, b, c, d = await swarm(make, 4)
    key = b"/kwaai/one"
    assert await d.get_value(key) is None
    assert await b.put_value(key, b"1:" + key) >= 1
    assert await d.get_value(key) == b"1:" + key
    assert await b.put_value(key, b"2:" + key) >= 1
    assert await d.get_value(key) == b"2:" + key, "and not what d read before"
    assert await c.put_value(key, b"1:" + key) == 0, "nobody takes an older one"
    assert await c.get_value(key) == b"2:" + key
    assert await a.get_value(key) == b"2:" + key


async def test_values_that_the_validator_refuses(make: Make) -> None:
    a, b = await swarm(make, 2)
    with pytest.raises(PeerMisbehaved):
        await a.put_value(b"/kwaai/one", b"1:/kwaai/two")
    for key in (b"/pk/x", b"plain", b"/kwaai", b""):
        with pytest.raises(PeerMisbehaved, match="namespace"):
            await a.put_value(key, b"1:" + key)

    # A node whose validator takes anything: its values are stored by nobody else, and not believed.
    assert a._node
    a._node.kad.validators = {"kwaai": lambda key, value: 9, "pk": lambda key, value: 9}
    assert await a.put_value(b"/kwaai/one", b"forged") == 0
    assert await a.put_value(b"/pk/one", b"forged") == 0
    assert b.counters["dht_values_refused"] == 2
    assert await b.get_value(b"/kwaai/one") is None
    assert b.counters["dht_values_read_invalid"] == 1


async def test_providers(make: Make) -> None:
    a, b, c, d = await swarm(make, 4)
    digest = secrets.token_bytes(32)
    assert await a.find_providers(digest) == ()
    await b.provide(digest)
    await c.provide(digest)
    await c.provide(digest)
    found = dict(await d.find_providers(digest))
    assert set(found) == {b.peer_id, c.peer_id}
    assert found[b.peer_id] == b.addresses()
    assert {peer for peer, _ in await b.find_providers(digest)} == {c.peer_id}
    with pytest.raises(UserError, match="32 bytes"):
        await a.provide(b"short")


async def test_many_models_are_provided_within_the_others_limits(make: Make) -> None:
    """py-libp2p takes ten in ten seconds, and drops the rest without a word."""
    a, b = await swarm(make, 2)
    digests = [secrets.token_bytes(32) for _ in range(8)]
    await asyncio.gather(*(a.provide(digest) for digest in digests))
    for digest in digests:
        assert [peer for peer, _ in await b.find_providers(digest)] == [a.peer_id]
    start_s = time.monotonic()
    await a.provide(secrets.token_bytes(32), timeout_s=0.5)
    assert time.monotonic() - start_s < 8.0, (
        "the ninth waits for the tenth second, but not for ever"
    )


async def test_a_peer_that_stores_too_much_is_stopped(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = await swarm(make, 2)
    taken = 0
    for n in range(limits.DHT_WRITES_PER_PEER_MAX + 5):
        key = b"/kwaai/%d" % n
        taken += await a.put_value(key, b"1:" + key)
    assert taken == limits.DHT_WRITES_PER_PEER_MAX
    assert b.counters["dht_writes_too_many"] == 5


async def test_dead_nodes_in_the_table_do_not_stop_a_look_up(make: Make) -> None:
    nodes = await swarm(make, 6)
    key = b"/kwaai/one"
    assert await nodes[1].put_value(key, b"1:" + key) >= 3
    await asyncio.gather(*(node.stop() for node in nodes[3:]))
    start_s = time.monotonic()
    assert await nodes[2].get_value(key) == b"1:" + key
    assert time.monotonic() - start_s < 20.0


# --- mDNS, and what it all costs


def multicast_works() -> bool:
    """Whether a datagram to mDNS's group on loopback comes back."""
    group = ("224.0.0.251", 5353)
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ear,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mouth,
    ):
        ear.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        ear.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        ear.bind(("", group[1]))
        local = socket.inet_aton("127.0.0.1")
        ear.setsockopt(
            socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(group[0]) + local
        )
        ear.settimeout(1.0)
        mouth.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, local)
        mouth.sendto(b"\0" * 12, group)
        return bool(ear.recv(100))
    return False


async def test_two_nodes_find_each_other_by_mdns(make: Make) -> None:
    if not multicast_works():
        pytest.skip("this machine lets no multicast through, not even on loopback")
    start_s = time.monotonic()
    a, b = await make(mdns=True), await make(mdns=True)
    await until(
        lambda: (
            b.peer_id in {conn.peer for conn in a.connections()}
            and a.peer_id in {conn.peer for conn in b.connections()}
        ),
        5.0,
    )
    print(f"found after {time.monotonic() - start_s:.2f} s")


async def test_no_multicast_is_no_error(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(self: object) -> None:
        raise OSError(19, "No such device")

    monkeypatch.setattr("kwaai.net.mdns.Mdns._open", refuse)
    a, b = await make(mdns=True), await make()
    await a.connect(b.addresses()[0])
    assert await a.request(b.peer_id, ECHO, b"hi") == b"hi"


async def test_ping_is_finer_than_a_millisecond(make: Make) -> None:
    a, b = await pair(make)
    times = [await a.ping(b.peer_id) for _ in range(10)]
    assert len(set(times)) > 1
    assert 0 < min(times) < 1


@pytest.mark.slow
async def test_an_idle_node_with_four_peers_costs_nothing(make: Make, spawn: Any) -> None:
    a = await make()
    # Each knows those before it, so that the last one has four peers and they it.
    peers: list[tuple[subprocess.Popen[str], str]] = []
    for _ in range(4):
        known = [a.addresses()[0], *(address for _, address in peers)]
        peers.append(await asyncio.to_thread(spawn, secrets.token_hex(32), "0", *known))
    await until(lambda: len(a.connections()) == 4)
    process = psutil.Process(peers[-1][0].pid)
    await until(lambda: len(process.net_connections("tcp")) >= 5)  # and the listener
    await asyncio.sleep(3.0)  # identify, and the look-ups that come with new peers
    start = process.cpu_times()
    await asyncio.sleep(10.0)
    end = process.cpu_times()
    share = (end.user + end.system - start.user - start.system) / 10.0
    print(f"idle: {share:.4f} of a core, {process.memory_info().rss >> 20} MiB")
    assert share <= 0.01
