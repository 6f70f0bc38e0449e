"""Sealed objects at hosts that are processes of their own, over encrypted links: what arrives, what
a dead, a lying and a foreign node can do.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from credentials.keys import PeerId, SecretKey
from kwaai.errors import (
    Busy,
    ManifestConflict,
    ManifestInvalid,
    PeerError,
    PeerLost,
    PeerMisbehaved,
    PeerRefused,
    PeerUnreachable,
    SealBroken,
    StorageFull,
    StorageRefused,
)
from kwaai.net.libp2p_network import Libp2pNetwork
from kwaai.net.links import Links
from kwaai.node.directory import Directory
from kwaai.node.link_calls import CallClient
from kwaai.node.standings import NoStandings
from kwaai.node.storage_client import RemoteHost, fetch_health
from kwaai.node.vpk_discovery import StorageHosts
from kwaai.testing.processes import environment
from kwaai.vpk.delegation import Delegation, sign_delegation
from kwaai.vpk.keys import VECTOR, RootKey
from kwaai.vpk.manifest import Manifest, sign_manifest, verify_manifest
from kwaai.vpk.manifest import digest as manifest_digest
from kwaai.vpk.seal import open_many, seal_many
from kwaai.vpk.types import Object, PirTable
from kwaai.wire.storage_messages import NAME, parse_answer

EVE = Path(__file__).with_name("storage_eve.py")
BOB, STRANGER = SecretKey(b"\x31" * 32), SecretKey(b"\x32" * 32)
ROOT = RootKey(b"\x33" * 32)
TENANT = ROOT.tenant()
BASE = b"\x34" * 16
KEYS = ROOT.base(BASE)
SOON_S = 30.0
MB = 1_000_000


class EveProcess:
    """A host in another process."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.directory, self.seed = directory, seed
        self.process: asyncio.subprocess.Process
        self.said: dict[str, Any] = {}
        self.ports: list[str] = []

    async def start(self) -> EveProcess:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, str(EVE), str(self.directory), str(self.seed), *self.ports,
            env=environment(),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        self.said = await self._line()
        self.ports = [self.said["address"].split("/")[4], str(self.said["link"][1])]
        return self

    async def _line(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = await asyncio.wait_for(self.process.stdout.readline(), SOON_S)
        found: dict[str, Any] = json.loads(line)
        return found

    async def behave(self, manner: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{manner}\n".encode())
        assert await self._line() == {"manner": manner}

    async def kill(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()

    @property
    def peer(self) -> PeerId:
        return PeerId(self.said["peer"])

    @property
    def address(self) -> str:
        return str(self.said["address"])

    @property
    def link(self) -> str:
        host, port = self.said["link"]
        return f"{host}:{port}"


class Node:
    """A node in this process that asks."""

    def __init__(self, secret: SecretKey, *eves: EveProcess) -> None:
        self.network = Libp2pNetwork(secret, ["/ip4/127.0.0.1/tcp/0"])
        self.links = Links(secret, self.network)
        self.eves = {eve.peer: eve for eve in eves}
        self.calls = CallClient(self.network, self.links, lambda peer: [self.eves[peer].link])

    async def __aenter__(self) -> Node:
        await self.network.start()
        await self.links.start("127.0.0.1", 0)
        for eve in self.eves.values():
            await self.network.connect(eve.address)
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.calls.stop()
        await self.links.stop()
        await self.network.stop()


@asynccontextmanager
async def eves(tmp_path: Path, count: int = 1) -> AsyncIterator[list[EveProcess]]:
    found = [EveProcess(tmp_path / str(n), 0x40 + n) for n in range(count)]
    try:
        for eve in found:
            eve.directory.mkdir()
            await eve.start()
        yield found
    finally:
        for eve in found:
            await eve.kill()


def records(count: int, start: int = 0) -> list[Object]:
    rows = np.stack(
        [np.full(count, 7, np.uint64), np.arange(start, start + count, dtype=np.uint64)], axis=1
    )
    ids = KEYS.record_ids(VECTOR, rows)
    plains = [(object_id, n.to_bytes(388, "big")) for n, object_id in enumerate(ids, start)]
    return seal_many(KEYS, TENANT.public.raw, VECTOR, plains)


def opened(objects: list[Object], blobs: list[bytes | None]) -> list[int]:
    pairs = [(i, blob) for (i, _), blob in zip(objects, blobs, strict=True) if blob is not None]
    return [
        int.from_bytes(plain, "big") for plain in open_many(KEYS, TENANT.public.raw, VECTOR, pairs)
    ]


def manifest(sequence: int, previous: bytes = bytes(32), *, name: str = "notes") -> bytes:
    found = Manifest(
        base=BASE, name=name, sequence=sequence, previous=previous, epoch=1, mode="sealed",
        embedder=None, params=b"", segments=(), removed=(), hosts=(), generation=1, replicas=2,
        created_s=1.0, published_s=2.0, writers=(),
    )  # fmt: skip
    return sign_manifest(found, TENANT, KEYS)


async def test_everything_that_a_host_does(tmp_path: Path) -> None:
    async with eves(tmp_path) as (eve,), Node(BOB, eve) as bob:
        health = await fetch_health(eve.peer, bob.calls)
        assert health.tenant_count == 0
        host = RemoteHost(eve.peer, bob.calls, TENANT)
        with pytest.raises(PeerRefused):
            await host.usage()
        usage = await host.create_tenant(50 * MB, "bob's notes")
        assert usage.quota_bytes == 50 * MB

        objects = records(5000)
        await host.put(BASE, objects)
        ids = [object_id for object_id, _ in objects]
        assert opened(objects[40:140], await host.get(BASE, ids[40:140])) == list(range(40, 140))
        assert await host.get(BASE, [b"\0" * 16]) == [None]
        assert [len(blob or b"") for blob in await host.get(BASE, ids)] == [428] * 5000
        assert await host.list_ids(BASE, b"", 9999) == sorted(ids)
        assert await host.delete(BASE, ids[:10]) == 10

        table = await host.pir_table(BASE, 428)
        assert table.rows == 4990
        mask = bytearray((table.rows + 7) // 8)
        mask[0] = 0x80
        (row,) = await host.pir(BASE, table, [bytes(mask)])
        assert row == dict(objects)[sorted(ids[10:])[0]]
        with pytest.raises(PeerRefused):
            await host.pir(BASE, PirTable(table.rows, 428, bytes(32)), [bytes(mask)])

        first = manifest(1)
        await host.put_manifest(BASE, 1, first)
        second = manifest(2, manifest_digest(first))
        await host.put_manifest(BASE, 2, second)
        with pytest.raises(ManifestConflict) as caught:
            await host.put_manifest(BASE, 2, manifest(2, name="other"))
        assert caught.value.current == second
        assert await host.get_manifest(BASE) == second
        assert await host.bases() == [BASE]

        big = [(bytes([n]) * 16, os.urandom(1 << 20)) for n in range(60)]
        with pytest.raises(StorageFull):
            await host.put(b"o" * 16, big)
        await host.drop_base(BASE)
        assert await host.get_manifest(BASE) is None
        await host.delete_tenant()
        with pytest.raises(PeerRefused):
            await host.bases()


async def test_a_host_that_dies_loses_nothing_that_it_acknowledged(tmp_path: Path) -> None:
    async with eves(tmp_path) as (eve,), Node(BOB, eve) as bob:
        host = RemoteHost(eve.peer, bob.calls, TENANT)
        await host.create_tenant(90 * MB)
        for killed in range(3):
            acknowledged: list[Object] = []
            start = 100_000 * killed

            async def write(start: int = start, done: list[Object] = acknowledged) -> None:
                for at in range(start, start + 100_000, 500):
                    batch = records(500, at)
                    await host.put(BASE, batch)
                    done += batch

            task = asyncio.create_task(write())
            async with asyncio.timeout(SOON_S):
                while len(acknowledged) < 1000 * (killed + 1) and not task.done():
                    await asyncio.sleep(0.005)
            await eve.kill()
            with pytest.raises((PeerLost, PeerUnreachable)):
                await task
            with pytest.raises(PeerError):
                await host.usage()
            await eve.start()
            blobs = await host.get(BASE, [object_id for object_id, _ in acknowledged])
            assert len(opened(acknowledged, blobs)) == len(acknowledged)


@pytest.mark.parametrize(
    ("manner", "found"),
    [("honest", None), ("alter", SealBroken), ("noise", PeerMisbehaved)],
)
async def test_a_host_that_lies(tmp_path: Path, manner: str, found: type[PeerError] | None) -> None:
    async with eves(tmp_path) as (eve,), Node(BOB, eve) as bob:
        host = RemoteHost(eve.peer, bob.calls, TENANT)
        await host.create_tenant(0)
        objects = records(50)
        await host.put(BASE, objects)
        await eve.behave(manner)

        async def read() -> list[int]:
            return opened(objects, await host.get(BASE, [object_id for object_id, _ in objects]))

        if found is None:
            assert await read() == list(range(50))
            return
        with pytest.raises(found):
            await read()
        await eve.behave("omit")
        assert await read() == []
        await eve.behave("honest")
        assert await read() == list(range(50))


async def test_a_host_that_shows_an_old_manifest(tmp_path: Path) -> None:
    async with eves(tmp_path) as (eve,), Node(BOB, eve) as bob:
        host = RemoteHost(eve.peer, bob.calls, TENANT)
        await host.create_tenant(0)
        first = manifest(1)
        await host.put_manifest(BASE, 1, first)
        await host.put_manifest(BASE, 2, manifest(2, manifest_digest(first)))
        await eve.behave("old")
        old = await host.get_manifest(BASE)
        assert old == first
        verify_manifest(old, TENANT.public.raw, KEYS, least_sequence=1)
        with pytest.raises(ManifestInvalid, match="rollback"):
            verify_manifest(old, TENANT.public.raw, KEYS, least_sequence=2)


async def test_a_request_is_good_on_its_own_channel_once(tmp_path: Path) -> None:
    async with eves(tmp_path, 2) as (eve, other), Node(BOB, eve, other) as bob:
        for peer in (eve.peer, other.peer):
            await RemoteHost(peer, bob.calls, TENANT).create_tenant(0)
        kept: list[bytes] = []

        class Listening:
            """The calls of a node, written down."""

            peer = bob.calls.peer

            async def call(
                self,
                peer: PeerId,
                name: str,
                body: bytes | Callable[[bytes], bytes],
                timeout_s: float,
                lane: int,
            ) -> bytes:
                def keep(nonce: bytes) -> bytes:
                    kept.append(body(nonce) if callable(body) else body)
                    return kept[-1]

                return await bob.calls.call(peer, name, keep, timeout_s, lane)

        await RemoteHost(eve.peer, Listening(), TENANT).usage()

        async def replay(node: Node, peer: PeerId) -> None:
            with pytest.raises(StorageRefused):
                parse_answer(await node.calls.call(peer, NAME, kept[0]), peer)

        await replay(bob, eve.peer)  # again
        await replay(bob, other.peer)  # at another host
        async with Node(STRANGER, eve) as stranger:  # from another node
            await replay(stranger, eve.peer)
        await bob.calls.stop()
        again = CallClient(bob.network, bob.links)  # on another channel of the same link
        with pytest.raises(StorageRefused):
            parse_answer(await again.call(eve.peer, NAME, kept[0]), eve.peer)
        await again.stop()


async def test_a_stranger_may_nothing(tmp_path: Path) -> None:
    async with eves(tmp_path) as (eve,), Node(BOB, eve) as bob, Node(STRANGER, eve) as node:
        await RemoteHost(eve.peer, bob.calls, TENANT).create_tenant(0)
        objects = records(5)
        ids = [object_id for object_id, _ in objects]
        await RemoteHost(eve.peer, bob.calls, TENANT).put(BASE, objects)
        reader, now_s = SecretKey(b"\x35" * 32), time.time()
        # Signs for a tenant that is not its own, with no delegation, and with one for another base.
        other_base = sign_delegation(
            Delegation(TENANT.public.raw, reader.public.raw, b"?" * 16, now_s, now_s + 600.0),
            TENANT,
        )
        for delegation in (b"", other_base):
            host = RemoteHost.for_reader(
                eve.peer, node.calls, TENANT.public.raw, reader, delegation
            )
            for ask in (
                host.get(BASE, ids),
                host.list_ids(BASE, b"", 5),
                host.get_manifest(BASE),
                host.pir_table(BASE, 428),
                host.bases(),
                host.usage(),
                host.put(BASE, objects),
                host.delete(BASE, ids),
                host.put_manifest(BASE, 1, manifest(1)),
                host.drop_base(BASE),
                host.delete_tenant(),
                host.prove(BASE, ids[0], b"c"),
            ):
                with pytest.raises((PeerRefused, Busy)):
                    await ask
        blobs = await RemoteHost(eve.peer, bob.calls, TENANT).get(BASE, ids)
        assert opened(objects, blobs) == [0, 1, 2, 3, 4]


async def test_a_reader_reads(tmp_path: Path) -> None:
    async with eves(tmp_path) as (eve,), Node(BOB, eve) as bob, Node(STRANGER, eve) as node:
        await RemoteHost(eve.peer, bob.calls, TENANT).create_tenant(0)
        objects = records(5)
        ids = [object_id for object_id, _ in objects]
        await RemoteHost(eve.peer, bob.calls, TENANT).put(BASE, objects)
        reader, now_s = SecretKey(b"\x36" * 32), time.time()
        right = sign_delegation(
            Delegation(TENANT.public.raw, reader.public.raw, BASE, now_s, now_s + 600.0), TENANT
        )
        host = RemoteHost.for_reader(eve.peer, node.calls, TENANT.public.raw, reader, right)
        assert opened(objects, await host.get(BASE, ids)) == [0, 1, 2, 3, 4]
        assert await host.list_ids(BASE, b"", 9) == sorted(ids)
        with pytest.raises(PeerRefused):
            await host.delete(BASE, ids)


async def test_hosts_are_found_by_their_records(tmp_path: Path) -> None:
    async with eves(tmp_path, 2) as (eve, other), Node(BOB) as bob:
        directory = Directory(bob.network, BOB, name="bob")
        await directory.start()
        calls = CallClient(bob.network, bob.links, directory.link_addresses)
        hosts = StorageHosts(directory, NoStandings(), calls)
        try:
            await bob.network.connect(eve.address)
            await bob.network.connect(other.address)
            async with asyncio.timeout(SOON_S):
                while len(rows := [row for row in await hosts.discover() if row.reachable]) < 2:
                    await asyncio.sleep(0.05)
            assert {row.peer for row in rows} == {eve.peer, other.peer}
            assert {row.name for row in rows} == {"eve 64", "eve 65"}
            assert all(row.mode == "eve" and row.capacity_bytes == 1000 * MB for row in rows)
            host = RemoteHost(rows[0].peer, calls, TENANT)
            assert (await host.create_tenant(5 * MB)).quota_bytes == 5 * MB
            again = {row.peer: row for row in await hosts.discover()}
            assert again[rows[0].peer].tenants == 1
            await (eve if rows[0].peer == eve.peer else other).kill()
            gone = await hosts.discover(refresh=False)
            assert [row.reachable for row in gone if row.peer == rows[0].peer] in ([False], [])
        finally:
            await calls.stop()
            await directory.stop()
