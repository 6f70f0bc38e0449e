"""A running node: its parts put together, started, watched, drained and stopped.

Wires identity, libp2p, links, directory, slices, sessions and answers; what it shows its owner is
`view`, what it serves is `serving`. The API and the control socket are added by whoever makes the
node: they are above it. Issue 3, section 4.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping

import kwaai
from credentials.keys import SecretKey
from kwaai import limits
from kwaai.config import Config
from kwaai.errors import ResourceError
from kwaai.log import get_logger
from kwaai.models.library import Library
from kwaai.net.libp2p_network import Libp2pNetwork
from kwaai.net.links import Links
from kwaai.node.agreements import Agreements
from kwaai.node.answers import Answers
from kwaai.node.avoid import AvoidList
from kwaai.node.circuit_control import CircuitControl
from kwaai.node.control import (
    ChainView,
    CredentialControl,
    NodeStatus,
    P2pInfo,
    PeerRow,
    Say,
    ServedRow,
    ServeRequest,
)
from kwaai.node.credential_office import CredentialOffice
from kwaai.node.credential_service import CredentialService
from kwaai.node.directory import Directory
from kwaai.node.embedders import Embedders
from kwaai.node.home import memory_blocks
from kwaai.node.intent_control import IntentControl
from kwaai.node.knowledge_answers import KnowledgeAnswers
from kwaai.node.knowledge_control import KnowledgeControl
from kwaai.node.knowledge_parts import KnowledgeParts
from kwaai.node.local_slices import LocalSlices
from kwaai.node.services import Ready, Services
from kwaai.node.serving import Serving
from kwaai.node.serving_parts import ServingParts
from kwaai.node.shard_control import ShardControl
from kwaai.node.shards import ShardServer
from kwaai.node.swarm_generator import SwarmGenerator
from kwaai.node.trust_control import TrustControl
from kwaai.node.trust_service import TrustService
from kwaai.node.trust_views import TrustViews
from kwaai.node.view import View
from kwaai.node.witness import Witness
from kwaai.store.home import Home
from kwaai.store.identity_file import ensure_identity
from kwaai.types import LayerRange

log = get_logger(__name__)


class Node:
    """One node. Belongs to one event loop; see NodeControl for what its owner may ask of it."""

    def __init__(self, config: Config, home: Home, secret: SecretKey | None = None) -> None:
        """`secret`: instead of the home's identity. Raises ConfigError, FileCorrupt, UserError."""
        if secret is None:
            secret, _ = ensure_identity(config.identity_key or home.identity_key)
        self.config, self.home = config, home
        self.state = "starting"
        self.api_address: str | None = None
        """Set by whoever serves the API."""
        self.api_stop_timeout_s = limits.HTTP_SHUTDOWN_GRACE_S + limits.SERVICE_STOP_TIMEOUT_S
        self.network = Libp2pNetwork(
            secret,
            [_multiaddr(config.listen_host, config.port)],
            bootstrap=config.bootstrap_peers,
            state_path=home.run / "peers.json",
            mdns=config.mdns,
        )
        self.links = Links(secret, self.network)
        self.directory = Directory(self.network, secret, name=config.public_name)
        self.slices = LocalSlices(config, Library(home.models))
        self.control = ShardControl(self.links)
        self.serving = Serving(
            self.slices,
            self.directory,
            self.link_addresses,
            memory_blocks(config),
            ServingParts(config.parts_on_demand) if config.parts_on_demand else None,
        )
        self.avoided = AvoidList()
        self.view = View(self)
        self._credentials = CredentialService(config, home, self.network, self.view)
        self._trust = TrustService(config, self.network, self._credentials)
        self._agreements = Agreements(self, self._trust, self._credentials, secret)
        self._trust_views = TrustViews(
            self._trust,
            config,
            self.network,
            self._credentials,
            self.view,
            self._agreements.receipt_rows,
        )
        self.view.standing = self._trust_views.standing
        self.shards = ShardServer(
            self.control,
            self.serving,
            addresses=self.directory.link_addresses,
            admit=self._agreements.negotiator.admit,
            ledger=self._agreements.ledger,
            weight_of=self._trust.weight_of,
        )
        self.serving.attach(self.shards)
        self._generator = SwarmGenerator(
            config,
            self.slices,
            self.links,
            self.control,
            self.directory,
            self.avoided,
            standings=self._trust,
            watch=self._agreements.watch,
            intents=self._agreements.intents,
        )
        self._agreements.attach(self._generator)
        self._witness = Witness(config, self.network, self._credentials, self._trust)
        self._knowledge = KnowledgeParts(self, self._trust, secret)
        self.generator = Answers(
            KnowledgeAnswers(
                self._generator, self._knowledge.service.names, self._knowledge.desk.find
            ),
            self._more_stats,
        )
        self.services = Services()
        self._link_port = 0
        self._asked = asyncio.Event()
        self._hurry = asyncio.Event()
        self._grace_s = limits.DRAIN_GRACE_S
        self.started_s = time.time()
        self._add_services()

    def _add_services(self) -> None:
        add = self.services.add
        add("network", self._run_network, required=True)
        add("links", self._run_links, required=True)
        add("directory", self._run_directory)
        add("credentials", self._credentials.run)
        add("trust", self._trust.run)
        add("receipts", self._agreements.run_receipts)
        add("spot-checks", self._agreements.run_spot_checks)
        add("witness", self._witness.run)
        add("storage", self._knowledge.run_storage)
        add("knowledge", self._knowledge.service.run)
        add("serving", self._run_serving, wait_s=0)  # a large range takes minutes to load
        add("answers", self._run_answers, wait_s=limits.ANSWERS_WAIT_S)

    # Life.

    async def start(self) -> None:
        """Start the services; `close` comes after, always. Raises a required one's failure."""
        await self.services.start()
        self.state = "online"
        log.info("node_ready", peer=self.network.peer_id, version=kwaai.__version__)

    def on_signal(self) -> None:
        """The first time: drain, then end. The second time: end at once."""
        if self._asked.is_set():
            self._hurry.set()
        self._asked.set()

    def stop(self, grace_s: float) -> None:
        """See NodeControl."""
        self._grace_s = min(grace_s, limits.DRAIN_GRACE_S)
        self._asked.set()

    async def wait_stopped(self) -> None:
        """Wait until somebody wants the node to end, and let what is under way end first."""
        await self._asked.wait()
        drain = asyncio.create_task(self.drain(self._grace_s))
        hurry = asyncio.create_task(self._hurry.wait())
        await asyncio.wait({drain, hurry}, return_when=asyncio.FIRST_COMPLETED)
        for task in (drain, hurry):
            task.cancel()
        await asyncio.gather(drain, hurry, return_exceptions=True)

    async def drain(self, grace_s: float) -> int:
        """See NodeControl."""
        self.state = "draining"
        log.info(
            "node_draining", answers=self.generator.under_way, sessions=self.shards.sessions_open
        )
        answers, _ = await asyncio.gather(
            self.generator.drain(grace_s), self.serving.drain(grace_s)
        )
        return answers

    async def close(self) -> None:
        """End everything that was started. Idempotent."""
        self.state = "stopping"
        await self.services.stop(limits.SERVICE_HURRY_S if self._hurry.is_set() else None)
        await self._knowledge.stop()
        await self.slices.close()
        log.info("node_stopped", peer=self.network.peer_id)

    def report(self) -> dict[str, object]:
        """Say where the node is, to whoever started it."""
        listen = self.network.addresses()
        return {
            "name": self.config.public_name,
            "peer": self.network.peer_id,
            "pid": os.getpid(),
            "version": kwaai.__version__,
            "listen": list(listen),
            "links": list(self.link_addresses()),
            "api": self.api_address,
            "port": _port_of(listen),
            "link_port": self._link_port,
            "api_port": _port_of_url(self.api_address),
            "model": self.config.model,
            "serves": self.config.serve,
            "problems": [
                {"service": s.name, "problem": s.error} for s in self.services.statuses() if s.error
            ],
        }

    def link_addresses(self) -> tuple[str, ...]:
        """Return host:port addresses of the encrypted links: those of the settings, else the hosts
        that libp2p found.
        """
        if not self._link_port:
            return ()
        if self.config.announce_links:
            return self.config.announce_links
        hosts = dict.fromkeys(_hosts(self.network.addresses()))
        return tuple(
            f"[{host}]:{self._link_port}" if ":" in host else f"{host}:{self._link_port}"
            for host in hosts
        )

    # Services.

    async def _run_network(self, ready: Ready) -> None:
        self.network.failure = ""
        await self.network.start()
        ready()
        try:
            while not self.network.failure:
                await asyncio.sleep(limits.SERVING_WATCH_S)
            raise ResourceError(f"libp2p ended: {self.network.failure}")
        finally:
            await self.network.stop()

    async def _run_links(self, ready: Ready) -> None:
        port = self.config.link_port
        if port is None:
            port = self.config.port + 1 if 0 < self.config.port < 65_535 else 0
        _, self._link_port = await self.links.start(self.config.listen_host, port)
        self.shards.start()
        ready()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await self.shards.stop()
            await self.links.stop()

    async def _run_directory(self, ready: Ready) -> None:
        self.serving.announce()
        await self.directory.start()
        ready()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await self.directory.stop()

    async def _run_serving(self, ready: Ready) -> None:
        await self.serving.run(self.config.serve, self.config.model, ready)

    async def _run_answers(self, ready: Ready) -> None:
        await self._generator.start()
        ready()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await self._generator.stop()

    # What the owner asks: NodeControl.

    @property
    def credentials(self) -> CredentialControl:
        """See NodeControl."""
        return self._credentials.control()

    @property
    def trust(self) -> TrustControl:
        """See NodeControl."""
        self._trust.check_open()
        return self._trust_views

    @property
    def intents(self) -> IntentControl:
        """See NodeControl."""
        return self._agreements.control

    @property
    def circuits(self) -> CircuitControl:
        """See NodeControl."""
        return self._generator.circuits

    @property
    def knowledge(self) -> KnowledgeControl:
        """See NodeControl."""
        self._knowledge.service.check_open()
        return self._knowledge.desk

    @property
    def embedders(self) -> Embedders:
        """What makes vectors, for the API."""
        return self._knowledge.service.embedders

    def office(self) -> CredentialOffice:
        """Return what the API works with. Raises ResourceError while the wallet is not open."""
        return self._credentials.office()

    def status(self) -> NodeStatus:
        """See NodeControl."""
        return self.view.status()

    def p2p_info(self) -> P2pInfo:
        """See NodeControl."""
        return self.view.p2p_info()

    def peers(self) -> tuple[PeerRow, ...]:
        """See NodeControl."""
        return self.view.peers()

    async def ping(self, peer: str, timeout_s: float) -> float:
        """See NodeControl."""
        return await self.view.ping(peer, timeout_s)

    async def connect(self, address: str, timeout_s: float) -> str:
        """See NodeControl."""
        return await self.network.connect(address, timeout_s)

    async def chain(self, model: str, *, refresh: bool) -> ChainView:
        """See NodeControl."""
        return await self.view.chain(model or self.config.model, refresh=refresh)

    async def serve(self, request: ServeRequest, say: Say) -> ServedRow:
        """See NodeControl."""
        return await self.serving.serve(request.model or self.config.model, request.layers, say)

    async def unserve(self, model: str, layers: LayerRange | None) -> tuple[LayerRange, ...]:
        """See NodeControl."""
        return await self.serving.unserve(model or self.config.model, layers)

    def _more_stats(self) -> Mapping[str, float]:
        """Counters of the parts that the generator does not know, for /metrics."""
        links = self.links.counters
        return {
            **self.shards.stats(),
            **self._credentials.stats(),
            **self._trust.stats(),
            **self._agreements.stats(),
            **self._witness.stats(),
            **self._knowledge.stats(),
            "peers_connected": len(self.network.connections()),
            "links_open": len(self.links.all()),
            "links_lost": links.links_lost,
            "link_handshakes_refused": links.handshakes_refused,
            "link_pieces_dropped": links.dropped_unknown_channel,
            "peers_misbehaved": links.peers_misbehaved,
            "records_held": len(self.directory.records()),
            "records_dropped": sum(self.directory.dropped.values()),
            "service_restarts": sum(s.restarts for s in self.services.statuses()),
        }


def _multiaddr(host: str, port: int) -> str:
    return f"/{'ip6' if ':' in host else 'ip4'}/{host}/tcp/{port}"


def _hosts(multiaddrs: tuple[str, ...]) -> list[str]:
    """Return the IP addresses of multiaddrs."""
    parts = (address.split("/") for address in multiaddrs)
    return [part[2] for part in parts if len(part) > 2 and part[1] in ("ip4", "ip6")]


def _port_of(multiaddrs: tuple[str, ...]) -> int | None:
    for address in multiaddrs:
        parts = address.split("/")
        if len(parts) > 4 and parts[3] == "tcp":
            return int(parts[4])
    return None


def _port_of_url(url: str | None) -> int | None:
    return None if url is None else int(url.removesuffix("/v1").rpartition(":")[2])
