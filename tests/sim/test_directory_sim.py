"""The directory in a simulated swarm: who comes is known, who goes is forgotten, and no liar is
believed, whatever the network does. Time is virtual; a failure names its seed.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any

import pytest

from credentials.keys import PeerId, PublicKey, SecretKey, peer_id
from kwaai import limits
from kwaai.errors import KwaaiError, PeerRefused
from kwaai.node.directory import Directory
from kwaai.testing.clock import run_virtual, unix_time
from kwaai.testing.network import MemoryNetwork, MemorySwarm
from kwaai.types import LayerRange, ModelHandle
from kwaai.wire.record_exchange import PROTOCOL, Exchange, encode_exchange, parse_answer
from kwaai.wire.records import (
    SIGNATURE_DOMAIN,
    NodeRecord,
    Served,
    record_key,
    sign_record,
)

SEEDS = range(5)
HANDLE = ModelHandle("sha256:" + "5a" * 32)


def served(start: int = 0, free: int = 8) -> Served:
    return Served(
        HANDLE, "demo", 24, LayerRange(start, start + 1), False, "online", 4096, 8, free, 512, 896
    )


class Node:
    """A node of the simulation: a network and a directory."""

    def __init__(
        self,
        swarm: MemorySwarm,
        number: int,
        bootstrap: Sequence[str] = (),
        now: Callable[[], float] = unix_time,
    ) -> None:
        self.number = number
        self.swarm = swarm
        self.secret = SecretKey(number.to_bytes(32, "big"))
        self.network = MemoryNetwork(swarm, self.secret, bootstrap=bootstrap, now=now)
        rng = random.Random(swarm.rng.random())
        self.directory = Directory(
            self.network, self.secret, name=f"node {number}", now=now, rng=rng
        )
        self.directory.set_served([served(number % 24)], [f"10.0.0.{number}:4002"])

    @property
    def peer(self) -> PeerId:
        return self.network.peer_id

    async def start(self) -> Node:
        await self.network.start()
        await self.directory.start()
        return self

    async def stop(self) -> None:
        await self.directory.stop()
        await self.network.stop()

    def knows(self) -> set[PeerId]:
        return {r.peer for r in self.directory.records()}

    def free(self, peer: PeerId) -> int:
        found = self.directory.record(peer)
        return -1 if found is None else found.served[0].sessions_free


def simulate(seed: int, program: Callable[[MemorySwarm], Coroutine[Any, Any, None]]) -> None:
    """Run a program in a swarm of its own. A failure names the seed."""

    async def main() -> None:
        await program(MemorySwarm(seed))

    try:
        run_virtual(main)
    except BaseException as error:
        error.add_note(f"seed {seed}")
        raise


async def grow(swarm: MemorySwarm, count: int) -> list[Node]:
    """Start nodes that all know the first one only."""
    first = await Node(swarm, 1).start()
    later = [Node(swarm, n, first.network.addresses()) for n in range(2, count + 1)]
    return [first, *[await node.start() for node in later]]


async def until(condition: Callable[[], bool], within_s: float) -> float:
    """Wait for a condition, and return the seconds it took. Raises TimeoutError."""
    loop = asyncio.get_running_loop()
    started_s = loop.time()
    while not condition():
        if loop.time() - started_s > within_s:
            raise TimeoutError(f"not so within {within_s} s")
        await asyncio.sleep(0.01)
    return loop.time() - started_s


async def stop_all(nodes: Sequence[Node]) -> None:
    assert all(node.directory.failures == 0 for node in nodes)
    await asyncio.gather(*(node.stop() for node in nodes))


def all_know(nodes: Sequence[Node]) -> bool:
    peers = {node.peer for node in nodes}
    return all(node.knows() == peers for node in nodes)


@pytest.mark.parametrize("seed", SEEDS)
def test_eight_nodes_know_one_another_in_a_second(seed: int) -> None:
    async def program(swarm: MemorySwarm) -> None:
        nodes = await grow(swarm, 8)
        await until(lambda: all_know(nodes), 1.0)
        one = nodes[3].directory.record(nodes[5].peer)
        assert one is not None
        assert one.listen == nodes[5].network.addresses()  # the listener knows the dialler, too
        assert one.links == ("10.0.0.6:4002",)
        await stop_all(nodes)

    simulate(seed, program)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_change_is_known_to_all_in_a_second(seed: int) -> None:
    async def program(swarm: MemorySwarm) -> None:
        nodes = await grow(swarm, 8)
        await until(lambda: all_know(nodes), 1.0)
        await asyncio.sleep(5.0)
        told: list[int] = []
        nodes[2].directory.add_listener(lambda: told.append(1))
        for free in range(5):
            nodes[6].directory.set_served([served(6, free)])
            await until(lambda free=free: all(n.free(nodes[6].peer) == free for n in nodes), 1.0)
        assert 5 <= len(told) <= 6
        await stop_all(nodes)

    simulate(seed, program)


@pytest.mark.parametrize("seed", SEEDS)
def test_who_stops_is_forgotten_at_once(seed: int) -> None:
    async def program(swarm: MemorySwarm) -> None:
        nodes = await grow(swarm, 8)
        await until(lambda: all_know(nodes), 1.0)
        gone = nodes.pop(swarm.rng.randrange(8))
        stopping = asyncio.create_task(gone.stop())
        await until(lambda: all_know(nodes), 0.5)
        await stopping
        await asyncio.sleep(400.0)
        assert all_know(nodes)
        await stop_all(nodes)

    simulate(seed, program)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_ghost_vanishes_within_its_expiry(seed: int) -> None:
    async def program(swarm: MemorySwarm) -> None:
        nodes = await grow(swarm, 8)
        await until(lambda: all_know(nodes), 1.0)
        await asyncio.sleep(swarm.rng.uniform(0, 40))
        gone = nodes.pop(swarm.rng.randrange(1, 8))
        swarm.crash(gone.peer)
        late = await Node(swarm, 99, nodes[0].network.addresses()).start()
        nodes.append(late)
        await until(lambda: all_know(nodes), limits.RECORD_LIFETIME_S)
        await asyncio.sleep(100.0)
        assert all_know(nodes)
        await stop_all(nodes)

    simulate(seed, program)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_first_node_may_go_and_the_swarm_stays_one(seed: int) -> None:
    async def program(swarm: MemorySwarm) -> None:
        nodes = await grow(swarm, 8)
        await asyncio.sleep(60.0)
        swarm.crash(nodes.pop(0).peer)
        await asyncio.sleep(61.0)
        assert all_know(nodes)
        nodes[2].directory.set_served([served(6, 1)])
        await until(lambda: all(n.free(nodes[2].peer) == 1 for n in nodes), 1.0)
        await stop_all(nodes)

    simulate(seed, program)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_partition_heals(seed: int) -> None:
    async def program(swarm: MemorySwarm) -> None:
        nodes = await grow(swarm, 8)
        await until(lambda: all_know(nodes), 1.0)
        swarm.rng.shuffle(nodes)
        here, there = nodes[:3], nodes[3:]
        swarm.partition([n.peer for n in here], [n.peer for n in there])
        await asyncio.sleep(100.0)
        for node in here:
            assert node.knows() <= {n.peer for n in here}
        for node in there:
            assert node.knows() <= {n.peer for n in there}
        swarm.heal()
        await until(lambda: all_know(nodes), 15.0)
        await stop_all(nodes)

    simulate(seed, program)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_fifth_lost(seed: int) -> None:
    async def program(swarm: MemorySwarm) -> None:
        nodes = await grow(swarm, 8)
        swarm.loss = 0.2
        await until(lambda: all_know(nodes), 20.0)
        for _ in range(60):
            await asyncio.sleep(5.0)
            assert all_know(nodes)  # nobody is forgotten
        nodes[6].directory.set_served([served(6, 3)])
        await until(lambda: all(n.free(nodes[6].peer) == 3 for n in nodes), 20.0)
        gone = nodes.pop()
        await gone.stop()
        await until(lambda: all_know(nodes), 20.0)
        await stop_all(nodes)

    simulate(seed, program)


@pytest.mark.parametrize("seed", SEEDS)
def test_churn(seed: int) -> None:
    """Nodes come, stop and crash for ten minutes; then everybody knows whoever is there."""

    async def program(swarm: MemorySwarm) -> None:
        nodes = await grow(swarm, 6)
        first, number = nodes[0], 100
        for _ in range(40):
            await asyncio.sleep(swarm.rng.uniform(0, 30))
            match swarm.rng.choice(("come", "stop", "crash", "change")):
                case "come":
                    number += 1
                    nodes.append(await Node(swarm, number, first.network.addresses()).start())
                case "stop" if len(nodes) > 3:
                    await nodes.pop(swarm.rng.randrange(1, len(nodes))).stop()
                case "crash" if len(nodes) > 3:
                    swarm.crash(nodes.pop(swarm.rng.randrange(1, len(nodes))).peer)
                case "change":
                    free = swarm.rng.randrange(8)
                    swarm.rng.choice(nodes).directory.set_served([served(3, free)])
        await until(lambda: all_know(nodes), 75.0)
        await asyncio.sleep(100.0)
        assert all_know(nodes)
        await stop_all(nodes)

    simulate(seed, program)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_restart_goes_on_with_a_higher_sequence(seed: int) -> None:
    """The same identity comes back, even with a clock that went back by some seconds."""

    async def program(swarm: MemorySwarm) -> None:
        nodes = await grow(swarm, 4)
        await until(lambda: all_know(nodes), 1.0)
        await nodes[2].stop()
        again = Node(swarm, 3, nodes[0].network.addresses(), lambda: unix_time() - 20.0)
        nodes[2] = await again.start()
        await until(lambda: all_know(nodes), 3.0)
        await stop_all(nodes)

    simulate(seed, program)


def test_a_directory_stops_and_starts_again() -> None:
    async def program(swarm: MemorySwarm) -> None:
        nodes = await grow(swarm, 4)
        for _ in range(5):
            await until(lambda: all_know(nodes), 2.5)  # the first node passes on once a second
            await nodes[2].directory.stop()
            await nodes[2].directory.stop()
            assert nodes[2].peer not in nodes[0].knows() | nodes[2].knows()
            await nodes[2].directory.start()
        await until(lambda: all_know(nodes), 2.5)
        await stop_all(nodes)

    simulate(0, program)


def test_an_idle_swarm_is_quiet() -> None:
    async def program(swarm: MemorySwarm) -> None:
        nodes = await grow(swarm, 8)
        await asyncio.sleep(120.0)
        before, before_bytes = swarm.requests, swarm.request_bytes
        await asyncio.sleep(600.0)
        per_node_s = (swarm.requests - before) / 600 / 8
        bytes_node_s = (swarm.request_bytes - before_bytes) / 600 / 8
        assert per_node_s < 0.8, per_node_s  # 7 peers told each 20 s, 2 compared with each 10 s
        assert bytes_node_s < 300, bytes_node_s
        await stop_all(nodes)

    simulate(0, program)


@pytest.mark.slow
def test_fifty_nodes() -> None:
    async def program(swarm: MemorySwarm) -> None:
        nodes = await grow(swarm, 50)
        await until(lambda: all_know(nodes), 2.0)
        for _ in range(20):
            await asyncio.sleep(10.0)
            assert all_know(nodes)
        await stop_all(nodes)

    simulate(0, program)


def test_a_node_that_nobody_connected_knows_is_found_in_the_dht() -> None:
    async def program(swarm: MemorySwarm) -> None:
        nodes = await grow(swarm, 4)
        await asyncio.sleep(30.0)
        # A newcomer's only peer exchanges no records: the DHT is all it has.
        deaf = MemoryNetwork(swarm, SecretKey(bytes(31) + b"\xee"), now=unix_time)
        await deaf.start()
        await nodes[0].network.connect(deaf.addresses()[0])
        late = await Node(swarm, 50, deaf.addresses()).start()
        await until(lambda: bool(late.network.connections()), 2.0)
        await late.directory.refresh(HANDLE)
        assert {n.peer for n in nodes} <= late.knows()
        await stop_all([*nodes, late])
        await deaf.stop()

    simulate(0, program)


def test_ghosts_in_the_dht_are_not_believed() -> None:
    async def program(swarm: MemorySwarm) -> None:
        nodes = await grow(swarm, 4)
        await asyncio.sleep(30.0)
        swarm.crash(nodes.pop().peer)
        await asyncio.sleep(61.0)
        late = await Node(swarm, 50, nodes[0].network.addresses()).start()
        await asyncio.sleep(1.0)
        await late.directory.refresh(HANDLE)
        assert late.knows() == {n.peer for n in [*nodes, late]}
        await stop_all([*nodes, late])

    simulate(0, program)


# Liars.


class Liar:
    """A connected node without a directory, which says what it likes."""

    def __init__(self, swarm: MemorySwarm, victim: Node) -> None:
        self.secret = SecretKey(b"\xff" * 32)
        self.network = MemoryNetwork(swarm, self.secret, now=unix_time)
        self.network.handle_requests(PROTOCOL, self._answer)
        self.answer = b"\x00\x00\x00\x00\x00"
        self.victim = victim

    async def start(self) -> None:
        await self.network.start()
        await self.network.connect(self.victim.network.addresses()[0])

    async def _answer(self, peer: PeerId, body: bytes) -> bytes:
        return self.answer

    async def push(self, *records: bytes) -> None:
        await self.push_bytes(encode_exchange(Exchange(records)))

    async def push_bytes(self, body: bytes) -> None:
        await self.network.request(self.victim.peer, PROTOCOL, body)

    async def held_of(self, peer: PeerId) -> bytes:
        """Return the bytes of an honest node's record."""
        body = encode_exchange(Exchange((), ()))
        answer = parse_answer(await self.network.request(self.victim.peer, PROTOCOL, body))
        return next(data for data in answer.records if parse_peer(data) == peer)

    def own_record(self, secret: SecretKey | None = None, **changes: Any) -> bytes:
        secret = secret or self.secret
        now_s = round(unix_time(), 3)
        record = NodeRecord(
            peer_id(secret.public), round(now_s * 1000), now_s, now_s + 60, "liar", "1",
            ("/ip4/6.6.6.6/tcp/1",), (), (served(),),
        )  # fmt: skip
        return sign_record(replace(record, **changes), secret)


def parse_peer(data: bytes) -> PeerId:
    return peer_id(PublicKey(data[1:33]))


def lying(program: Callable[[MemorySwarm, list[Node], Liar], Awaitable[None]]) -> None:
    """Run a program among four honest nodes and a liar that is connected to the second."""

    async def main(swarm: MemorySwarm) -> None:
        nodes = await grow(swarm, 4)
        await until(lambda: all_know(nodes), 1.0)
        await asyncio.sleep(1.0)
        liar = Liar(swarm, nodes[1])
        await liar.start()
        await asyncio.sleep(1.0)
        await program(swarm, nodes, liar)
        await stop_all(nodes)
        await liar.network.stop()

    simulate(0, main)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda liar: liar.own_record()[:-64] + bytes(64), "signature"),
        (lambda liar: b"\x01" + liar.victim.secret.public.raw[::-1] + bytes(200), "format"),
        (lambda liar: bytes(limits.RECORD_BYTES_MAX), "version"),
        (lambda liar: b"", "size"),
        (lambda liar: liar.own_record(expires_s=round(unix_time()) + 400.0), "lifetime"),
        (
            lambda liar: liar.own_record(
                issued_s=round(unix_time()) + 1e6, expires_s=round(unix_time()) + 1e6 + 60
            ),
            "future",
        ),
        (lambda liar: liar.own_record(issued_s=1.0, expires_s=61.0), "expired"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bad_record_is_dropped_counted_and_not_passed_on(
    make: Callable[[Liar], bytes], reason: str
) -> None:
    async def program(swarm: MemorySwarm, nodes: list[Node], liar: Liar) -> None:
        await liar.push(make(liar))
        assert nodes[1].directory.dropped == {reason: 1}
        assert nodes[1].directory.counters[f"offered_{reason}"] == 1
        await asyncio.sleep(30.0)
        assert all_know(nodes)
        assert all(not n.directory.dropped for n in nodes if n is not nodes[1])

    lying(program)


def test_another_peers_name_is_not_believed() -> None:
    """Records that name honest nodes, signed by the liar or by nobody, change nothing."""

    async def program(swarm: MemorySwarm, nodes: list[Node], liar: Liar) -> None:
        honest = await liar.held_of(nodes[2].peer)
        payload = bytearray(honest[:-64])
        payload[33:41] = (2**63).to_bytes(8, "big")
        by_liar = bytes(payload) + liar.secret.sign(SIGNATURE_DOMAIN + bytes(payload))
        await liar.push(by_liar, bytes(payload) + honest[-64:])
        assert nodes[1].directory.dropped == {"signature": 2}
        nodes[2].directory.set_served([served(2, 5)])  # the honest node is still heard
        await until(lambda: all(n.free(nodes[2].peer) == 5 for n in nodes), 1.0)

    lying(program)


def test_replays_are_not_believed() -> None:
    async def program(swarm: MemorySwarm, nodes: list[Node], liar: Liar) -> None:
        old = await liar.held_of(nodes[2].peer)
        nodes[2].directory.set_served([served(2, 5)])
        await until(lambda: all(n.free(nodes[2].peer) == 5 for n in nodes), 1.0)
        await liar.push(old)
        assert nodes[1].directory.dropped == {"stale": 1}
        assert nodes[1].free(nodes[2].peer) == 5
        gone = nodes.pop(2)
        await gone.stop()
        await until(lambda: all_know(nodes), 0.5)
        for _ in range(80):  # the last word holds longer than anything said before it
            await asyncio.sleep(5.0)
            await liar.push(old)
            assert all_know(nodes)

    lying(program)


def test_a_flood_is_bounded_and_the_rest_goes_on() -> None:
    async def program(swarm: MemorySwarm, nodes: list[Node], liar: Liar) -> None:
        refused = 0
        for n in range(300):
            secret = SecretKey(b"\xee" * 30 + n.to_bytes(2, "big"))
            try:
                await liar.push(*(liar.own_record(secret) for _ in range(2)))
            except PeerRefused:
                refused += 1
        assert refused > 200
        assert nodes[1].directory.counters["dropped_rate"] == refused
        nodes[2].directory.set_served([served(2, 5)])
        await until(lambda: all(n.free(nodes[2].peer) == 5 for n in nodes), 1.0)

    lying(program)


def test_an_inventor_of_peers_fills_a_part_of_the_store_only() -> None:
    async def program(swarm: MemorySwarm, nodes: list[Node], liar: Liar) -> None:
        many = [
            liar.own_record(
                SecretKey(b"\xee" * 30 + n.to_bytes(2, "big")),
                expires_s=round(unix_time()) + 300.0, served=(), listen=(),
            )
            for n in range(limits.RECORDS_PER_SOURCE_MAX + 100)
        ]  # fmt: skip
        for at in range(0, len(many), 200):
            await liar.push(*many[at : at + 200])
            await asyncio.sleep(4.0)
        assert nodes[1].directory.dropped["quota"] == 100
        late = await Node(swarm, 60, nodes[1].network.addresses()).start()
        await until(lambda: late.peer in nodes[1].knows() and late.peer in nodes[3].knows(), 1.0)
        nodes.append(late)

    lying(program)


def test_a_forger_is_cut_off_for_a_while() -> None:
    async def program(swarm: MemorySwarm, nodes: list[Node], liar: Liar) -> None:
        forged = [liar.own_record(sequence=n + 1)[:-64] + bytes(64) for n in range(200)]
        await liar.push(*forged)
        assert nodes[1].directory.dropped == {"signature": limits.RECORDS_STRIKES_MAX + 1}
        with pytest.raises(PeerRefused):
            await liar.push(liar.own_record())
        await asyncio.sleep(limits.RECORDS_STRIKE_S + 1)
        await liar.push(liar.own_record())
        assert liar.network.peer_id in nodes[1].knows()

    lying(program)


@pytest.mark.parametrize("body", [b"", b"\x09", b"\x01\xff\xff", b"\x02" + bytes(1000)])
def test_junk_is_refused(body: bytes) -> None:
    async def program(swarm: MemorySwarm, nodes: list[Node], liar: Liar) -> None:
        with pytest.raises(KwaaiError):
            await liar.push_bytes(body)
        liar.answer = body
        await asyncio.sleep(60.0)
        assert all_know(nodes)

    lying(program)


def test_an_answer_without_end_ends() -> None:
    """A peer that says there is more, for ever, is asked no more than its news is worth."""

    async def program(swarm: MemorySwarm, nodes: list[Node], liar: Liar) -> None:
        liar.answer = b"\x01\x00\x00\x00\x00"
        before = swarm.requests
        await asyncio.sleep(60.0)
        assert swarm.requests - before < 150

    lying(program)


def test_lies_in_the_dht_are_not_stored_or_believed() -> None:
    async def program(swarm: MemorySwarm, nodes: list[Node], liar: Liar) -> None:
        key = record_key(nodes[2].peer)
        validator = lambda key, value: 2**63  # noqa: E731 - the liar believes everything
        liar.network.dht.validators["kwaai"] = validator
        lie = liar.own_record()
        assert await liar.network.put_value(key, lie) == 0
        assert nodes[1].directory.counters["dht_refused_key"] == 1
        liar.network.dht.values[key] = lie
        value = await nodes[0].network.get_value(key)
        assert value is not None
        assert parse_peer(value) == nodes[2].peer

    lying(program)


def test_which_link_addresses_of_a_record_are_dialled() -> None:
    """IP addresses; loopback ones only where nodes of this machine are about. Never names."""

    async def program(swarm: MemorySwarm) -> None:
        first = await Node(swarm, 1).start()
        second = await Node(swarm, 2, first.network.addresses()).start()
        listed = ["10.0.0.2:4002", "db.internal:5432", "127.0.0.1:22", "[::1]:22", "0.0.0.0:22"]
        second.directory.set_served([served(2)], listed)
        assert first.directory.link_addresses(PeerId("nobody")) == ()

        def is_told() -> bool:
            record = first.directory.record(second.peer)
            return record is not None and record.links == tuple(listed)

        await until(is_told, 5.0)
        assert first.directory.link_addresses(second.peer) == ("10.0.0.2:4002",)
        assert first.directory.has_met(second.peer)
        near = replace(first.network.connections()[0], address="/ip4/127.0.0.1/tcp/4001")
        first.network.connections = lambda: (near,)  # type: ignore[method-assign]
        found = first.directory.link_addresses(second.peer)
        assert found == ("10.0.0.2:4002", "127.0.0.1:22", "[::1]:22")
        await second.stop()
        await first.stop()

    simulate(1, program)


def test_names_in_records_are_never_looked_up() -> None:
    async def program(swarm: MemorySwarm) -> None:
        first = await Node(swarm, 1).start()
        dialled: list[Sequence[str]] = []

        async def connect_peer(peer: PeerId, addresses: Sequence[str] = (), **_: Any) -> None:
            dialled.append(addresses)

        first.network.connect_peer = connect_peer  # type: ignore[assignment,method-assign]
        given = ["/dns4/db.internal/tcp/80", "/ip4/10.0.0.9/tcp/4001", "nonsense",
                 "/ip4/127.0.0.1/tcp/22", "/ip6/::1/tcp/22"]  # fmt: skip
        await first.directory._connect(PeerId("somebody"), given)
        assert dialled == [("/ip4/10.0.0.9/tcp/4001",)]
        await first.stop()

    simulate(1, program)
