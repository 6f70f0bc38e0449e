"""What the owner asks about the hosts of this node's knowledge: who they are, whether they still
have it, and to bring it elsewhere or back. Half of `KnowledgeControl`; the other is
`knowledge_desk`.

Chooses and remembers no hosts: `knowledge_hosts` does. docs/vpk.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from credentials.keys import PeerId
from kwaai import limits
from kwaai.errors import (
    BaseExists,
    BaseMissing,
    KwaaiError,
    PeerError,
    TooFewHosts,
    UserError,
)
from kwaai.log import get_logger
from kwaai.node import knowledge_sharing, knowledge_thin
from kwaai.node.knowledge_control import (
    AuditRow,
    BaseRow,
    HostRow,
    HostUse,
    RepairView,
    SharedView,
    TenantRow,
    VpkView,
)
from kwaai.node.knowledge_hosts import BaseHost
from kwaai.node.knowledge_open import OpenBase
from kwaai.node.knowledge_service import KnowledgeService
from kwaai.node.storage_service import StorageService
from kwaai.node.vpk_discovery import HostRow as FoundHost
from kwaai.vpk.base import Base
from kwaai.vpk.keys import RootKey
from kwaai.vpk.local_host import HERE
from kwaai.vpk.restore import find_bases

log = get_logger(__name__)

_GB = 1e9
_MB = 10**6


class KnowledgeHosting:
    """Half of KnowledgeControl. Belongs to the event loop."""

    def __init__(
        self,
        service: KnowledgeService,
        storage: StorageService | None,
        peer_of: Callable[[str], PeerId],
    ) -> None:
        """`storage`: what this node hosts of others; None: nothing. `peer_of`: a peer by a name or
        the end of its PeerId; raises UserError.
        """
        self.service, self._storage, self._peer_of = service, storage, peer_of

    def row(self, opened: OpenBase) -> BaseRow:
        """Return a base as its owner sees it."""
        base, stats = opened.base, opened.base.stats()
        return BaseRow(
            name=base.name,
            id=base.id.hex(),
            mode=base.mode,
            embedder="" if base.spec is None else base.spec.model,
            documents=stats.documents,
            passages=stats.passages,
            local_bytes=stats.local_bytes,
            hosts=tuple(self.service.hosts.use(row) for row in opened.rows),
            sequence=stats.sequence,
            unpublished=stats.unpublished,
            owed=stats.owed,
            problem=self._ended(opened) or opened.problem,
            shared=self._shared(opened),
            thin=knowledge_thin.view(opened.base),
        )

    def _ended(self, opened: OpenBase) -> str:
        shared = opened.shared
        return "" if shared is None else shared.ended(self.service.readers.clock())

    def _shared(self, opened: OpenBase) -> SharedView | None:
        shared = opened.shared
        if shared is None:
            return None
        name = self.service.hosts.name_of(shared.owner) if shared.owner else ""
        return SharedView(shared.owner, name, shared.tenant.hex(), shared.until_s)

    async def resolve(self, base: str) -> tuple[HostUse, ...]:
        """See KnowledgeControl."""
        return self.row(self.service.find(base)).hosts

    async def audit(self, base: str) -> tuple[AuditRow, ...]:
        """See KnowledgeControl."""
        opened = self.service.find_own(base)
        async with opened.work("an audit"):
            found = await self.service.audit(opened)
        return tuple(
            AuditRow(
                row.host,
                self._name(row.host),
                read=row.read,
                missing=row.missing + (row.proof == "missing"),
                wrong=row.wrong + (row.proof == "wrong"),
                proofs=row.proofs,
                failed=row.failure,
            )
            for row in found.hosts
        )

    async def repair(self, base: str, hosts: int = 0) -> RepairView:
        """See KnowledgeControl."""
        opened = self.service.find_own(base)
        async with opened.work("a repair"):
            done = await self.service.repair(opened, hosts)
        return RepairView(
            hosts=tuple(self.service.hosts.use(row) for row in opened.rows),
            copied=done.copied,
            copied_bytes=done.copied_bytes,
            swept=done.trimmed,
            left=done.owed + len(done.lost),
            notes=tuple(
                [
                    f"{self._name(peer) or peer} is away, or lacks what it lists"
                    for peer in done.away
                ]
                + ([f"{len(done.lost)} objects are at no host that answers"] if done.lost else [])
                + self.refusals(opened)
            ),
        )

    def refusals(self, opened: OpenBase) -> list[str]:
        """Return which hosts refused to take this node, where a base has fewer than it might."""
        remote = sum(row.peer != HERE for row in opened.rows)
        return [] if remote >= limits.HOSTS_WANTED else list(self.service.hosts.refusals())

    async def discover(self) -> tuple[HostRow, ...]:
        """See KnowledgeControl."""
        found = await self.service.found.discover()
        return tuple(self._host_row(row) for row in found if not row.is_self)

    def _host_row(self, row: FoundHost) -> HostRow:
        return HostRow(
            public_name=row.name,
            peer_id=row.peer,
            mode=row.mode,
            capacity_gb=round(row.capacity_bytes / _GB, 3),
            free_gb=round(row.free_bytes / _GB, 3),
            tenant_count=row.tenants,
            tier=row.tier.label,
            owner=row.owner or "",
            reachable=bool(row.reachable),
            rtt_ms=None if row.rtt_s is None else round(row.rtt_s * 1000, 2),
            usable=self.service.hosts.why_not(row) or self._refusal(row.peer),
        )

    def _refusal(self, peer: str) -> str:
        why = self.service.hosts.refusal(peer)
        return f"it refused: {why}" if why else ""

    # Tenancies.

    async def tenants(self) -> tuple[TenantRow, ...]:
        """See KnowledgeControl."""
        self.service.check_open()
        peers = {row.peer for opened in self.service.own() for row in opened.rows} - {HERE}
        return tuple([await self._tenant(peer) for peer in sorted(peers)])

    async def _tenant(self, peer: str) -> TenantRow:
        host = self.service.hosts.remote(peer, self.service.tenant())
        bases = sum(any(row.peer == peer for row in opened.rows) for opened in self.service.own())
        try:
            usage = await host.usage()
        except KwaaiError as error:
            return TenantRow(peer, self._name(peer), 0, 0, 0, 0, bases, error.message)
        return TenantRow(
            peer,
            self._name(peer),
            usage.used_bytes,
            usage.quota_bytes,
            usage.free_bytes,
            usage.objects,
            bases,
        )

    async def create_tenant(self, peer: str, quota_mb: int) -> TenantRow:
        """See KnowledgeControl."""
        self.service.check_open()
        known = self._peer_of(peer)
        host = self.service.hosts.remote(known, await self.service.ensure_tenant())
        await host.create_tenant(quota_mb * _MB, self.service.config.public_name)
        return await self._tenant(known)

    async def delete_tenant(self, peer: str) -> None:
        """See KnowledgeControl. Bases that were there go elsewhere by repair."""
        self.service.check_open()
        known = self._peer_of(peer)
        await self.service.hosts.remote(known, self.service.tenant()).delete_tenant()

    def status(self) -> VpkView:
        """See KnowledgeControl."""
        service, storage = self.service, self._storage
        totals = None if storage is None else storage.totals
        tenant = "" if service.root is None else service.root.tenant().public.raw.hex()
        problems = [opened.problem for opened in service.all() if opened.problem]
        return VpkView(
            mode=service.config.vpk_mode,
            tenant=tenant,
            bases=len(service.names()),
            hosting=totals is not None,
            capacity_bytes=0 if totals is None else totals.capacity_bytes,
            used_bytes=0 if totals is None else totals.used_bytes,
            tenants=0 if totals is None else totals.tenants,
            objects=0 if totals is None else totals.objects,
            announced=totals is not None,
            problem=problems[0] if problems else "",
        )

    # Another device of the same owner.

    async def restore(self, base: str, *, thin: bool = False) -> tuple[BaseRow, ...]:
        """See KnowledgeControl."""
        service = self.service
        service.check_open()
        if service.root is None:
            raise UserError(
                "there is no key that could open a base; bring it: kwaainet vpk key import FILE"
            )
        found = await service.discover()
        if not found:
            raise TooFewHosts(
                "no host is known that could be asked: `kwaainet vpk discover` lists them, "
                "`kwaainet p2p peers` says whether this node is connected"
            )
        holders = await self._holders(found)
        restored: list[BaseRow] = []
        failures: list[str] = []
        empty: Counter[str] = Counter()
        if thin:
            fetched = await knowledge_thin.restore(service, service.root, holders, base)
            return tuple(self.row(opened) for opened in fetched)
        whole = [opened for opened in service.all() if not (base and opened.is_thin)]
        here = {opened.base.id for opened in whole}
        # One host may list what is nowhere: what several have goes first.
        for base_id, rows in sorted(holders.items(), key=lambda each: -len(each[1])):
            alone = rows[0].peer if len(rows) == 1 else ""
            if base_id in here or empty[alone] >= limits.RESTORE_MADE_UP_MAX:
                continue
            try:
                opened = await self._restore_one(service.root, base_id, rows, base)
            except BaseMissing as error:  # never published, or made up
                log.info("base_not_there", base=base_id.hex(), reason=error.message)
                empty[alone] += bool(alone)
                continue
            except (PeerError, TooFewHosts, BaseExists) as error:
                failures.append(f"{base_id.hex()}: {error.message}")
                empty[alone] += bool(alone)
                continue
            if opened is not None:
                restored.append(self.row(opened))
            if base and restored:
                break
        if failures and not restored:
            raise TooFewHosts("nothing could be restored: " + "; ".join(failures[:3]))
        return tuple(restored)

    async def _restore_one(
        self, root: RootKey, base_id: bytes, rows: Sequence[BaseHost], name: str
    ) -> OpenBase | None:
        """Bring back a base that hosts have; None where it is not called `name` (empty: any)."""
        hosts = self.service.hosts.host_set(rows, root.tenant(), alone=False)
        if name:
            known = {found.id: found.name for found in await find_bases(root, hosts, base_id)}
            if base_id not in known:
                raise BaseMissing("the hosts that list this base do not have it")
            if known[base_id] != name:
                return None
        folder = self.service.home.bases / f".restore-{base_id.hex()}"
        base = await Base.restore(folder, root, base_id, hosts)
        named = tuple(
            BaseHost(host.peer, host.owner, host.weight)
            for host in base.published_hosts()
            if host.peer != HERE and host.peer in {row.peer for row in rows}
        )
        await knowledge_thin.give_way(self.service, base_id)
        return await self.service.settle(folder, base, named or rows)

    async def _holders(self, found: list[FoundHost]) -> dict[bytes, list[BaseHost]]:
        """Return which bases of this tenant are at which hosts."""
        holders: dict[bytes, list[BaseHost]] = {}
        for row in found[: limits.HOSTS_PER_BASE_MAX]:
            if row.reachable is False:
                continue
            try:
                bases = await self.service.hosts.remote(row.peer, self.service.tenant()).bases()
            except KwaaiError as error:  # it has nothing of ours, or is away
                log.debug("host_has_no_base", peer=row.peer, reason=error.message)
                continue
            for base_id in bases:
                holders.setdefault(base_id, []).append(BaseHost(row.peer, row.owner or row.peer))
        return holders

    async def thin(self, base: str, *, off: bool = False) -> BaseRow:
        """See KnowledgeControl."""
        opened = self.service.find_own(base)
        await (knowledge_thin.drop if off else knowledge_thin.make)(opened)
        return self.row(opened)

    # Readers.

    async def share(self, base: str, reader: str, days: float) -> str:
        """See KnowledgeControl."""
        peer, key = knowledge_sharing.reader_key(reader, self._peer_of)
        return await knowledge_sharing.share(self.service, base, peer, key, days)

    async def attach(self, token: str, name: str = "") -> BaseRow:
        """See KnowledgeControl."""
        return self.row(await knowledge_sharing.attach(self.service, token, name))

    def _name(self, peer: str) -> str:
        return "this disk" if peer == HERE else self.service.hosts.name_of(peer)
