"""A node's knowledge and what it hosts of others', wired: calls over links, the host, what is
announced, the bases.

Makes the parts, gives them what they ask of the node, and runs those that are services. Does no
part's work itself. docs/vpk.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING

from kwaai.inference.together import together
from kwaai.node.call_server import CallServer
from kwaai.node.knowledge_desk import KnowledgeDesk
from kwaai.node.knowledge_service import KnowledgeService
from kwaai.node.link_calls import CallClient
from kwaai.node.services import Ready
from kwaai.node.storage_home import StorageHome, make_storage, storage_home, storage_rules
from kwaai.node.storage_service import StorageService
from kwaai.node.vpk_discovery import StorageAnnouncer, StorageHosts
from kwaai.vpk.host_store import HostStore
from kwaai.wire.storage_messages import NAME
from kwaai.wire.storage_offer import StorageOffer

if TYPE_CHECKING:
    from credentials.keys import SecretKey
    from kwaai.node.node import Node
    from kwaai.node.trust_service import TrustService


class KnowledgeParts:
    """One node's part in VPK. Belongs to the event loop."""

    def __init__(self, node: Node, trust: TrustService, secret: SecretKey) -> None:
        """`secret`: the node's key."""
        config = node.config
        self._node, self._trust = node, trust
        self.calls = CallClient(node.network, node.links, node.directory.link_addresses)
        self._answers = CallServer(node.network, node.links)
        self._home = storage_home(config, node.home)
        self.storage = self._make_storage() if config.vpk_mode in ("eve", "both") else None
        self._announcer = StorageAnnouncer(node.directory, node.network, self._offer)
        self.service = KnowledgeService(
            config,
            node.home,
            trust,
            self.calls,
            StorageHosts(node.directory, trust, self.calls),
            lambda: trust.observer,
            node.view.name_of,
            secret,
            None if self.storage is None else self.storage.handle,
        )
        self.desk = KnowledgeDesk(self.service, self.storage, node.view.find_peer)

    def _make_storage(self) -> StorageService:
        home, rules = self._home, storage_rules(self._node.config, self._home)
        service = StorageService(
            lambda: _open_store(home, rules.capacity_bytes),
            self._node.network.peer_id,
            rules,
            self._trust,
            lambda: self._trust.policy.own_owner,
        )
        self._answers.serve(NAME, service.handle)
        return service

    def _offer(self) -> StorageOffer | None:
        """Return what this node offers now."""
        storage, mode = self.storage, self._node.config.vpk_mode
        if storage is None or mode not in ("eve", "both"):
            return None
        totals = storage.totals
        return StorageOffer(
            mode,
            totals.capacity_bytes,
            totals.free_bytes,
            totals.tenants,
            int(storage.rules.tenant_tier),
            storage.rules.quota_bytes,
            storage.promised_bytes > 0,
        )

    async def run_storage(self, ready: Ready) -> None:
        """Host for others, where the settings say so, and answer calls at all."""
        if self.storage is None:
            ready()
            await asyncio.get_running_loop().create_future()
            return
        opened = asyncio.Event()

        async def announce() -> None:
            await opened.wait()  # what is offered is known then
            await self._announcer.run(ready)

        await together((self.storage.run(opened.set), announce()))

    async def stop(self) -> None:
        """End all calls. Idempotent."""
        await self.calls.stop()
        await self._answers.stop()

    def stats(self) -> Mapping[str, float]:
        """Return counters and gauges for /metrics."""
        storage = {} if self.storage is None else self.storage.stats()
        return {
            **self.service.stats(),
            **self.calls.stats(),
            **self._answers.stats(),
            **storage,
        }


def _open_store(home: StorageHome, capacity_bytes: int) -> HostStore:
    make_storage(home)
    return HostStore.open(home.objects, capacity_bytes)
