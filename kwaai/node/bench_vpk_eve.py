"""An eve of `vpk bench`: a host in a process of its own, over real links. And bob's side of it.

`python -m kwaai.node.bench_vpk_eve DIRECTORY DELAY_MS` hosts until its standard input ends, and
says in a line of JSON where. DELAY_MS: of a round trip over its links (a relay in that process).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from credentials.keys import PeerId, SecretKey, peer_id
from kwaai.errors import PeerError, PeerUnreachable
from kwaai.limits import GIB, VPK_BENCH_START_TIMEOUT_S, VPK_BENCH_STOP_TIMEOUT_S
from kwaai.net.delay import DelayRelay
from kwaai.net.libp2p_network import Libp2pNetwork
from kwaai.net.links import Links
from kwaai.node.call_server import CallServer
from kwaai.node.link_calls import CallClient
from kwaai.node.standings import NoStandings
from kwaai.node.storage_client import RemoteHost
from kwaai.node.storage_home import StorageRules
from kwaai.node.storage_service import StorageService
from kwaai.trust.tiers import Tier
from kwaai.vpk.host_store import HostStore
from kwaai.wire.storage_messages import NAME

_LISTEN: Final = ("/ip4/127.0.0.1/tcp/0",)
_CAPACITY_BYTES: Final = 64 * GIB
_REPORT_BYTES_MAX: Final = 4096
_OBJECTS: Final = "objects.db"


@dataclass(frozen=True, slots=True)
class Eve:
    """Where a running eve is reached."""

    peer: PeerId
    link: str
    """`host:port`"""
    address: str
    """A multiaddr."""
    directory: str
    pid: int


@contextlib.asynccontextmanager
async def running_eves(
    directory: Path, count: int, delay_ms: float, environment: dict[str, str]
) -> AsyncIterator[tuple[Eve, ...]]:
    """Run so many eves below `directory`, each a process, until the block ends. Raises PeerError
    for one that does not come up.
    """
    processes: list[asyncio.subprocess.Process] = []
    try:
        for number in range(count):
            home = directory / f"eve-{number}"
            home.mkdir(parents=True)
            processes.append(
                await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", __name__, str(home), str(delay_ms)),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    limit=_REPORT_BYTES_MAX,
                    env=environment,
                )
            )
        yield tuple(await asyncio.gather(*map(_report, processes)))
    finally:
        await asyncio.gather(*map(_end, processes))


async def _report(process: asyncio.subprocess.Process) -> Eve:
    line = b""
    try:
        async with asyncio.timeout(VPK_BENCH_START_TIMEOUT_S):
            if process.stdout is not None:
                line = await process.stdout.readline()
        return Eve(**json.loads(line))
    except (TimeoutError, ValueError, TypeError) as error:
        raise PeerError(f"an eve of the benchmark did not come up: {error}") from error


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.stdin is not None:
        process.stdin.close()
    try:
        async with asyncio.timeout(VPK_BENCH_STOP_TIMEOUT_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


@contextlib.asynccontextmanager
async def remote_hosts(eves: Sequence[Eve], tenant: SecretKey) -> AsyncIterator[list[RemoteHost]]:
    """Be a node that is `tenant` at these eves. Raises PeerError."""
    secret = SecretKey(os.urandom(32))
    network = Libp2pNetwork(secret, _LISTEN)
    links = Links(secret, network)
    where = {eve.peer: (eve.link,) for eve in eves}
    calls = CallClient(network, links, lambda peer: where.get(peer, ()))
    try:
        await network.start()
        for eve in eves:
            if await network.connect(eve.address) != eve.peer:
                raise PeerUnreachable("another node answers where an eve was", peer=eve.peer)
        hosts = [RemoteHost(eve.peer, calls, tenant) for eve in eves]
        for host in hosts:
            await host.create_tenant(_CAPACITY_BYTES, "bench")
        yield hosts
    finally:
        await calls.stop()
        await links.stop()
        await network.stop()


async def _serve(directory: Path, delay_ms: float) -> None:
    secret = SecretKey(os.urandom(32))
    network = Libp2pNetwork(secret, _LISTEN)
    links = Links(secret, network)
    server = CallServer(network, links)
    rules = StorageRules(_CAPACITY_BYTES, _CAPACITY_BYTES, Tier.UNKNOWN)
    own = peer_id(secret.public)
    service = StorageService(
        lambda: HostStore.open(directory / _OBJECTS, _CAPACITY_BYTES, reserve_bytes=0),
        own,
        rules,
        NoStandings(),
        lambda: None,
    )
    ready = asyncio.Event()
    hosting = asyncio.create_task(service.run(ready.set))
    relay = None
    try:
        await network.start()
        host, port = await links.start("127.0.0.1", 0)
        link = f"{host}:{port}"
        if delay_ms > 0:
            relay = DelayRelay(host, port, delay_ms / 2e3)
            link = await relay.start()
        await asyncio.wait(
            [hosting, asyncio.ensure_future(ready.wait())], return_when=asyncio.FIRST_COMPLETED
        )
        server.serve(NAME, service.handle)
        eve = Eve(own, link, network.addresses()[0], str(directory), os.getpid())
        print(json.dumps(asdict(eve)), flush=True)
        await _until_input_ends()
    finally:
        if relay is not None:
            await relay.stop()
        await server.stop()
        await links.stop()
        await network.stop()
        hosting.cancel()
        await asyncio.wait([hosting])


async def _until_input_ends() -> None:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while await reader.read(_REPORT_BYTES_MAX):
        pass


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1]), float(sys.argv[2])))
