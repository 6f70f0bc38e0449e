"""The directory over libp2p: eight nodes in one process, found through the first one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from credentials.keys import SecretKey
from kwaai.net.libp2p_network import Libp2pNetwork
from kwaai.node.directory import Directory
from kwaai.types import LayerRange, ModelHandle
from kwaai.wire.records import Served, record_key, verify_record

HANDLE = ModelHandle("sha256:" + "5a" * 32)


def served(free: int) -> list[Served]:
    return [
        Served(HANDLE, "demo", 24, LayerRange(0, 4), False, "online", 4096, 8, free, 512, 896)
    ]  # fmt: skip


async def until(condition: Callable[[], bool], within_s: float = 30.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.01)


async def start(number: int, *bootstrap: str) -> tuple[Libp2pNetwork, Directory]:
    secret = SecretKey(number.to_bytes(32, "big"))
    network = Libp2pNetwork(secret, ["/ip4/127.0.0.1/tcp/0"], bootstrap=bootstrap)
    directory = Directory(network, secret, name=f"node {number}")
    directory.set_served(served(8), [f"127.0.0.1:{5000 + number}"])
    await network.start()
    await directory.start()
    return network, directory


async def stop(network: Libp2pNetwork, directory: Directory) -> None:
    await directory.stop()
    await network.stop()


async def test_eight_nodes_know_one_another() -> None:
    nodes = [await start(1)]
    nodes += [await start(n, *nodes[0][0].addresses()) for n in range(2, 9)]
    try:
        await until(lambda: all(len(d.records(HANDLE)) == 8 for _, d in nodes))
        network, directory = nodes[5]
        nodes[7][1].set_served(served(3), ["127.0.0.1:1"])
        peer = nodes[7][0].peer_id
        await until(
            lambda: all(
                (r := d.record(peer)) is not None and r.served[0].sessions_free == 3
                for _, d in nodes
            )
        )
        found = directory.record(peer)
        assert found is not None
        assert found.listen == nodes[7][0].addresses()
        value = None
        async with asyncio.timeout(30):
            while value is None:
                value = await network.get_value(record_key(peer))
        assert verify_record(value, found.issued_s, key=record_key(peer)).peer == peer
        await stop(*nodes.pop(3))
        await until(lambda: all(len(d.records()) == 7 for _, d in nodes), 2.0)
        await directory.refresh(HANDLE)
        assert all(set(d.dropped) <= {"stale"} and not d.failures for _, d in nodes)
    finally:
        await asyncio.gather(*(stop(*node) for node in nodes))
