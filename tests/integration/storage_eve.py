"""A host of sealed objects as a process, for tests: `storage_eve.py DIRECTORY SEED [PORT
LINK_PORT]`.

Says where it is in one line of JSON, and lives until its input ends. A line of its input is how it
answers from then on: `honest`, `alter`, `omit`, `old` (the first manifest that it was given), or
`noise`.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

from credentials.keys import PeerId, SecretKey, peer_id
from kwaai.net.libp2p_network import Libp2pNetwork
from kwaai.net.links import Links
from kwaai.node.call_server import CallServer
from kwaai.node.directory import Directory
from kwaai.node.standings import NoStandings
from kwaai.node.storage_home import StorageRules
from kwaai.node.storage_service import StorageService
from kwaai.node.vpk_discovery import StorageAnnouncer
from kwaai.trust.tiers import Tier
from kwaai.vpk.host_store import HostStore
from kwaai.wire import storage_bodies as bodies
from kwaai.wire.storage_messages import NAME, Operation, encode_answer, parse_request
from kwaai.wire.storage_offer import StorageOffer

GB = 10**9


class Eve:
    """A host that answers as it is told."""

    def __init__(self, directory: Path, peer: PeerId) -> None:
        self.manner = "honest"
        self.first: dict[bytes, bytes] = {}
        self.service = StorageService(
            lambda: HostStore.open(directory / "objects.db", GB, reserve_bytes=0),
            peer,
            StorageRules(GB, GB // 10, Tier.UNKNOWN),
            NoStandings(),
            lambda: None,
        )

    def offer(self) -> StorageOffer:
        totals = self.service.totals
        return StorageOffer(
            "eve", totals.capacity_bytes, totals.free_bytes, totals.tenants, Tier.UNKNOWN, GB // 10
        )

    async def answer(self, peer: PeerId, nonce: bytes, data: bytes) -> bytes:
        answer = await self.service.handle(peer, nonce, data)
        request = parse_request(data)
        if request is None or answer[:1] != b"\0":
            return answer
        if request.operation is Operation.PUT_MANIFEST:
            base, _, manifest = bodies.parse_put_manifest(request.body)
            self.first.setdefault(base, manifest)
        if self.manner == "noise":
            return os.urandom(64)
        if self.manner == "old" and request.operation is Operation.GET_MANIFEST:
            return encode_answer(self.first[bodies.parse_base(request.body)])
        if self.manner in ("alter", "omit") and request.operation is Operation.GET:
            count = len(bodies.parse_ids(request.body)[1])
            found = bodies.parse_objects(answer[1:], count)
            return encode_answer(bodies.encode_objects([self.lie(blob) for blob in found]))
        return answer

    def lie(self, blob: bytes | None) -> bytes | None:
        if blob is None or self.manner == "omit":
            return None
        return blob[:-1] + bytes((blob[-1] ^ 1,))


async def main() -> None:
    directory, seed = Path(sys.argv[1]), int(sys.argv[2])
    port, link_port = (int(text) for text in (*sys.argv[3:], "0", "0")[:2])
    secret = SecretKey(bytes([seed]) * 32)
    network = Libp2pNetwork(secret, [f"/ip4/127.0.0.1/tcp/{port}"])
    links = Links(secret, network)
    eve = Eve(directory, peer_id(secret.public))
    records = Directory(network, secret, name=f"eve {seed}")
    await network.start()
    host, link_port = await links.start("127.0.0.1", link_port)
    calls = CallServer(network, links)
    ready = asyncio.Event()
    serving = asyncio.create_task(eve.service.run(ready.set))
    await ready.wait()
    calls.serve(NAME, eve.answer)
    records.set_served((), [f"{host}:{link_port}"])
    await records.start()
    announcing = asyncio.create_task(
        StorageAnnouncer(records, network, eve.offer).run(lambda: None)
    )
    said = {"peer": network.peer_id, "address": network.addresses()[0], "link": [host, link_port]}
    print(json.dumps(said), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        eve.manner = line.strip()
        print(json.dumps({"manner": eve.manner}), flush=True)
    for task in (serving, announcing):
        task.cancel()
    await asyncio.gather(serving, announcing, return_exceptions=True)
    await records.stop()
    await calls.stop()
    await links.stop()
    await network.stop()


if __name__ == "__main__":
    asyncio.run(main())
