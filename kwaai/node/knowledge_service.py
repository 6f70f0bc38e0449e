"""This node's knowledge while it runs: its key, its bases, who hosts them, and their upkeep.

Opens what is on the disk, keeps copies at hosts complete, and closes it in the end. What its owner
asks for is `knowledge_desk`'s; a base is `kwaai.vpk.base`'s. docs/knowledge.md, docs/vpk.md.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from credentials.keys import SecretKey
from kwaai import limits
from kwaai.config import Config
from kwaai.errors import (
    BaseExists,
    BaseMissing,
    EmbedderMissing,
    KwaaiError,
    ResourceError,
    TooFewHosts,
    UserError,
)
from kwaai.log import get_logger
from kwaai.node import knowledge_thin
from kwaai.node.embedders import Embedders, Report, embedder_settings
from kwaai.node.knowledge_home import KnowledgeHome, endpoint_key
from kwaai.node.knowledge_hosts import BaseHost, KnowledgeHosts, load_hosts, save_hosts
from kwaai.node.knowledge_open import OpenBase
from kwaai.node.knowledge_readers import Handle, Readers
from kwaai.node.link_calls import CallClient
from kwaai.node.observe import Observer
from kwaai.node.services import Ready
from kwaai.node.standings import Standings
from kwaai.node.vpk_discovery import HostRow, StorageHosts
from kwaai.store.home import Home
from kwaai.vpk.audit import AuditReport, audit
from kwaai.vpk.base import Base
from kwaai.vpk.base_core import check_name
from kwaai.vpk.documents.loader import Loader
from kwaai.vpk.keeper import RepairReport, repair
from kwaai.vpk.keys import RootKey
from kwaai.vpk.local_host import HERE
from kwaai.vpk.thin_base import ThinBase
from kwaai.vpk.types import BaseMode, Embedder, EmbedderSpec

log = get_logger(__name__)

_HOSTS_FILE = "hosts.json"


class KnowledgeService:
    """One node's knowledge. Belongs to the event loop."""

    def __init__(
        self,
        config: Config,
        home: Home,
        standings: Standings,
        calls: CallClient,
        found: StorageHosts,
        observer: Callable[[], Observer | None],
        name_of: Callable[[str], str],
        secret: SecretKey,
        own_host: Handle | None = None,
    ) -> None:
        """`found`: the hosts of the network. `observer`: what notes how hosts do, now. `secret`:
        the node's key, which reads what others share. `own_host`: what this node hosts of others.
        """
        self.config = config
        self.home = KnowledgeHome(home, config)
        self.hosts = KnowledgeHosts(config, calls, standings, self.home.own_host, observer, name_of)
        self.readers = Readers(secret, calls, self.hosts.note, own_host)
        self.found = found
        self.embedders = Embedders(embedder_settings(config, endpoint_key(config)), home.models)
        self.loader = Loader()
        self.root: RootKey | None = None
        self._open: dict[str, OpenBase] = {}
        self.broken: dict[str, str] = {}
        """Bases that are on the disk and cannot be opened, by id (hex digits), with the reason."""
        self._is_open = False
        self._changing = asyncio.Lock()
        self._loading: asyncio.Task[tuple[Embedder | None, str]] | None = None
        """Of an embedder that a search did not wait for."""

    async def run(self, ready: Ready) -> None:
        """Open what is there, and keep it up until cancelled. Raises what the key file raises."""
        self.root = await asyncio.to_thread(self.home.load_key)
        self.embedders.reopen()
        self.broken.clear()
        try:
            if self.root is not None:
                await self._open_all(self.root)
            self._is_open = True
            ready()
            await self._meet_hosts()
            while True:
                await asyncio.sleep(limits.KNOWLEDGE_ROUND_S)
                for opened in tuple(self._open.values()):
                    await self._keep_up(opened)
        finally:
            self._is_open = False
            if self._loading is not None:
                self._loading.cancel()
            for opened in self._open.values():
                opened.base.close()
            self._open.clear()
            await asyncio.gather(
                self.hosts.close(),
                self.embedders.close(),
                self.loader.close(),
                return_exceptions=True,
            )

    async def _meet_hosts(self) -> None:
        """Have links to the hosts of own bases, so that the first search need not wait for them."""
        for base in [opened.base for opened in self.own()]:
            try:
                await base.hosts.usage()
            except KwaaiError as error:
                log.info("hosts_not_met", base=base.id.hex(), reason=error.message)

    def stats(self) -> dict[str, float]:
        """Return gauges for /metrics."""
        return {"knowledge_bases": len(self._open), "knowledge_bases_broken": len(self.broken)}

    # Bases.

    def check_open(self) -> None:
        """Raise ResourceError while the bases are not open."""
        if not self._is_open:
            raise ResourceError(
                "the knowledge of this node is not open; `kwaainet status` says why",
                retry_after_s=2.0,
            )

    def all(self) -> tuple[OpenBase, ...]:
        """Return the bases that are open, by name."""
        return tuple(self._open[name] for name in sorted(self._open))

    def own(self) -> tuple[OpenBase, ...]:
        """Return those that are not somebody else's."""
        return tuple(opened for opened in self.all() if opened.shared is None)

    def names(self) -> tuple[str, ...]:
        """Return the names of the bases that are open."""
        return tuple(sorted(self._open))

    def find(self, name: str) -> OpenBase:
        """Return a base by its name. Raises BaseMissing, ResourceError."""
        self.check_open()
        opened = self._open.get(name)
        if opened is None:
            known = ", ".join(self.names()[:8])
            there = f" (there is: {known})" if known else ""
            why = f"; {len(self.broken)} cannot be opened" if self.broken else ""
            raise BaseMissing(
                f"there is no knowledge base {name!r:.80}{there}{why}; "
                "`kwaainet rag init NAME` makes one",
                param="base",
            )
        return opened

    def find_own(self, name: str) -> OpenBase:
        """Return a base that is not somebody else's. Raises as `find`, StorageRefused."""
        opened = self.find(name)
        opened.check_own()
        return opened

    async def create(
        self, name: str, mode: BaseMode, *, fulltext_only: bool, report: Report | None = None
    ) -> tuple[OpenBase, str]:
        """Make a base; return it, and why it has no vectors where it has none. `report` hears how
        far a model's fetch is. Raises UserError for what is no name, before anything is fetched.
        """
        self.check_open()
        check_name(name)
        self._check_free(name)
        spec, why = None, ""
        if not fulltext_only:
            embedder, why = await self.embedder(report)
            spec = None if embedder is None else embedder.spec
        async with self._changing:
            self._check_free(name)
            await self.ensure_tenant()
            root = self._root()
            rows = await self.choose_hosts(2 if mode == "oblivious" else 0)
            if mode == "oblivious" and all(row.peer == HERE for row in rows):
                refused = "".join(f"; {text}" for text in self.hosts.refusals())
                raise TooFewHosts(
                    "oblivious needs a host besides this disk, of another owner, and none takes "
                    f"this node: `kwaainet vpk discover` lists hosts{refused}"
                )
            hosts = self.hosts.host_set(rows, root.tenant(), whole=mode == "oblivious")
            folder = self.home.bases / f".new-{time.time_ns():x}"
            base = await Base.create(folder, root, name, hosts=hosts, mode=mode, embedder=spec)
            opened = await self._settle(folder, base, rows, root)
        return opened, why

    def _check_free(self, name: str) -> None:
        if name in self._open:
            raise BaseExists(f"there is a knowledge base {name!r:.80} already", param="base")

    async def choose_hosts(self, wanted: int = 0) -> tuple[BaseHost, ...]:
        """Choose hosts among those of now; `wanted`: how many, 0: as usual."""
        return await self.hosts.choose(await self.discover(), await self.ensure_tenant(), wanted)

    async def discover(self) -> list[HostRow]:
        """Return the hosts that other nodes offer to be, where the settings allow any."""
        if self.config.vpk_mode not in ("bob", "both"):
            return []
        return [row for row in await self.found.discover() if not row.is_self]

    async def _settle(
        self, folder: Path, base: Base, rows: tuple[BaseHost, ...], root: RootKey
    ) -> OpenBase:
        """Give a new base its place: from here on it is found at every start."""
        place = self.home.base_path(base.id)
        save_hosts(folder / _HOSTS_FILE, rows)
        base.close()
        await asyncio.to_thread(folder.rename, place)
        return await self._open_one(place, root)

    async def settle(self, folder: Path, base: Base, rows: Sequence[BaseHost]) -> OpenBase:
        """Give a base that was fetched from hosts its place. Raises BaseExists for a name, or a
        place, that is taken.
        """
        place = self.home.base_path(base.id)
        async with self._changing:
            if base.name in self._open:
                base.close()
                raise BaseExists(f"there is a knowledge base {base.name!r:.80} already")
            if self.readers.has_token(place):  # somebody else's, that could not be opened
                await asyncio.to_thread(self.home.remove_base, base.id)
            elif place.exists():
                base.close()
                raise BaseExists(
                    f"{place} is a base that cannot be opened; move it elsewhere first"
                )
            self.broken.pop(base.id.hex(), None)
            return await self._settle(folder, base, tuple(rows), self._root())

    async def forget(self, opened: OpenBase) -> None:
        """Delete a base's folder, after it was deleted at its hosts."""
        async with self._changing:
            opened.base.close()
            self._open.pop(opened.base.name, None)
            await asyncio.to_thread(self.home.remove_base, opened.base.id)

    def _root(self) -> RootKey:
        if self.root is None:
            raise UserError(
                "there is no root key; make a base (kwaainet rag init), or bring the key: kwaainet "
                "vpk key import FILE"
            )
        return self.root

    def tenant(self) -> SecretKey:
        """Return the key that signs at hosts. Raises UserError where there is none yet."""
        return self._root().tenant()

    async def ensure_tenant(self) -> SecretKey:
        """Return it; make the root key where there is none."""
        return (await self.ensure_root()).tenant()

    async def ensure_root(self) -> RootKey:
        """Return the root key; make it where there is none."""
        if self.root is None:
            self.root = await asyncio.to_thread(self.home.ensure_key)
        return self.root

    async def _open_all(self, root: RootKey) -> None:
        await asyncio.to_thread(self.home.sweep)
        for base_id in self.home.base_ids():
            try:
                await self._open_one(self.home.base_path(base_id), root)
            except KwaaiError as error:
                self.broken[base_id.hex()] = error.message
                log.error("base_not_opened", base=base_id.hex(), reason=error.message)

    async def _open_one(self, place: Path, root: RootKey) -> OpenBase:
        rows = load_hosts(place / _HOSTS_FILE)
        shared = self.readers.load(place)
        if shared is not None:
            base = await self.readers.open_base(place, shared, rows, root)
        else:
            base = await Base.open(place, root, self.hosts.host_set(rows, root.tenant()))
            base = ThinBase.of(base)
            if isinstance(base, ThinBase):
                knowledge_thin.use(self, base, rows)
            if base.mode == "oblivious":
                base.attach(self.hosts.host_set(rows, root.tenant(), whole=True))
            rows = rows or (BaseHost(HERE, HERE),)
        opened = self._open[base.name] = OpenBase(base, rows, shared)
        return opened

    # Embedder.

    async def embedder(self, report: Report | None = None) -> tuple[Embedder | None, str]:
        """Return the embedder, or None and why there is none."""
        if self.config.knowledge_embedder == "none":
            return None, "knowledge_embedder is none"
        try:
            return await self.embedders.get(report=report), ""
        except EmbedderMissing as error:
            return None, error.message

    async def embedder_for(
        self, spec: EmbedderSpec | None, report: Report | None = None
    ) -> tuple[Embedder | None, str]:
        """Return the embedder that made a base's vectors, or None and why it is not here."""
        if spec is None:
            return None, ""
        try:
            embedder, why = await self.embedder(report)
        except KwaaiError as error:
            embedder, why = None, error.message
        if embedder is not None and embedder.spec != spec:
            return None, (
                f"this node's embedder is {embedder.spec.model}, the base's vectors are by "
                f"{spec.model}; set knowledge_embedder to that"
            )
        return embedder, why

    async def embedder_soon(self, spec: EmbedderSpec | None) -> tuple[Embedder | None, str]:
        """As `embedder_for`, for a search: a download is not waited for to its end."""
        if spec is not None and self.embedders.opened is None:
            if self._loading is None or self._loading.done():
                self._loading = asyncio.create_task(self.embedder_for(spec))
            done, _ = await asyncio.wait({self._loading}, timeout=limits.SEARCH_EMBEDDER_WAIT_S)
            if not done:
                return None, f"{spec.model} is still being fetched"
        return await self.embedder_for(spec)

    # Upkeep.

    async def _keep_up(self, opened: OpenBase) -> None:
        """Publish what is not published, complete copies, and look at hosts now and then."""
        if opened.busy.locked() or opened.is_gone:
            return  # somebody works with it: the next round
        async with opened.work("upkeep"):
            try:
                if opened.shared is not None or opened.is_thin:
                    await self.refresh(opened)
                else:
                    await self._complete(opened)
                opened.problem = ""
            except KwaaiError as error:
                if error.message != opened.problem:  # else each minute, while it lasts
                    log.warning(
                        "base_upkeep_failed", base=opened.base.id.hex(), reason=error.message
                    )
                opened.problem = error.message
            except Exception:  # one base's defect must not close the others, and what they work at
                opened.problem = "its upkeep failed; `kwaainet logs` says why"
                log.exception("base_upkeep_failed", base=opened.base.id.hex())

    async def _complete(self, opened: OpenBase) -> None:
        await opened.base.publish()
        if opened.base.stats().segments - opened.compacted >= limits.KNOWLEDGE_SEGMENTS_MAX:
            await opened.base.compact()
            opened.compacted = opened.base.stats().segments
        if await self.needs_repair(opened):
            await self.repair(opened)
        elif time.monotonic() - opened.audited_s >= limits.KNOWLEDGE_AUDIT_S:
            await self.audit(opened)
        await knowledge_thin.keep_up(opened)

    async def refresh(self, opened: OpenBase) -> bool:
        """Take in what was published elsewhere; say whether there was anything. The caller holds
        `busy`. Raises StorageRefused where the right to read has ended, TooFewHosts.
        """
        if opened.is_thin:
            place = self.home.base_path(opened.base.id) / _HOSTS_FILE
            return await knowledge_thin.refresh(self, opened, place)
        if opened.shared is None:
            return await opened.base.refresh()
        opened.check_readable(self.readers.clock())
        changed, rows = await self.readers.refresh(opened.base, opened.shared, opened.rows)
        if rows != opened.rows:
            save_hosts(self.home.base_path(opened.base.id) / _HOSTS_FILE, rows)
            opened.rows = rows
        return changed

    async def needs_repair(self, opened: OpenBase) -> bool:
        """Say whether copies are missing, a host has been away for long, or a first host has come
        for a base that is on this disk alone.
        """
        now_s = time.monotonic()
        if now_s - opened.repaired_s < limits.KNOWLEDGE_REPAIR_AGAIN_S:
            return False  # what was missing a moment ago still is
        remote = [row.peer for row in opened.rows if row.peer != HERE]
        for peer in remote:
            if self.hosts.is_linked(peer):
                opened.seen_s[peer] = now_s
        away = [
            peer
            for peer in remote
            if now_s - opened.seen_s.setdefault(peer, now_s) >= limits.KNOWLEDGE_AWAY_S
        ]
        alone = not remote and self.config.vpk_mode in ("bob", "both")
        if alone:
            usable = [row for row in self.found.rows() if not row.is_self]
            alone = any(not self.hosts.why_not(row) for row in usable)
        return bool(opened.base.stats().owed or away or alone)

    async def audit(self, opened: OpenBase) -> AuditReport:
        """Read back a sample at each host. The caller holds `busy`."""
        opened.audited_s = time.monotonic()
        return await audit(opened.base.hosts, opened.base.holdings())

    async def repair(self, opened: OpenBase, wanted: int = 0) -> RepairReport:
        """Bring a base's objects to hosts of now: those of before that answer, others in place of
        the rest. The caller holds `busy`.
        """
        tenant = self.tenant()
        rows = await self._rows_of_now(opened, wanted)
        leaving = tuple(row for row in opened.rows if row.peer not in {kept.peer for kept in rows})
        reachable = tuple(row for row in leaving if self._answers(row))
        place = self.home.base_path(opened.base.id) / _HOSTS_FILE
        whole = opened.base.mode == "oblivious"
        opened.base.attach(self.hosts.host_set(rows, tenant, reachable, whole=whole))
        report = await repair(opened.base.hosts, opened.base.holdings())
        if report.complete:
            # That they list it is their word: nothing is given up elsewhere before a look.
            report.away = _in_doubt(await self.audit(opened))
        if report.complete:
            opened.base.attach(self.hosts.host_set(rows, tenant, whole=whole))
            save_hosts(place, rows)
            opened.rows = rows
            opened.base.note_repaired()
            trimmed = await repair(opened.base.hosts, opened.base.holdings(), trim=True)
            report.trimmed += trimmed.trimmed
            await self._let_go(reachable, opened)
        else:
            # Nobody is forgotten who may be the only one that has something.
            opened.rows = (*rows, *leaving)
            opened.base.attach(self.hosts.host_set(rows, tenant, leaving, whole=whole))
            save_hosts(place, opened.rows)
            opened.repaired_s = time.monotonic()
        await opened.base.publish()
        return report

    async def _let_go(self, rows: Sequence[BaseHost], opened: OpenBase) -> None:
        """Have hosts that a base has left delete what they had of it."""
        for row in rows:
            host = self.hosts.member(row, self.tenant()).host
            try:
                await host.drop_base(opened.base.id)
            except KwaaiError as error:  # it keeps what it cannot read; repair sweeps it later
                log.info("host_not_emptied", peer=row.peer, reason=error.message)

    async def _rows_of_now(self, opened: OpenBase, wanted: int) -> tuple[BaseHost, ...]:
        """Choose hosts, those that have the base already first."""
        found = await self.discover()
        usable = {row.peer for row in found if not self.hosts.why_not(row, has_it=True)}
        kept = [row for row in opened.rows if row.peer in usable]
        if not kept and any(row.peer != HERE for row in opened.rows):
            raise TooFewHosts(
                "none of the base's hosts answers, and what they have can be had from nobody else; "
                "is this machine online?"
            )
        if opened.base.mode == "oblivious":
            wanted = 2  # each has all of it, and no third one is asked
        if wanted:
            kept = kept[:wanted]
        most = wanted or max(len(kept), limits.HOSTS_WANTED)
        others = [row for row in found if row.peer not in {host.peer for host in kept}]
        return await self.hosts.choose(others, self.tenant(), most, kept)

    def _answers(self, row: BaseHost) -> bool:
        return row.peer == HERE or self.hosts.is_linked(row.peer)


def _in_doubt(seen: AuditReport) -> tuple[str, ...]:
    """Return the hosts that did not send what they list."""
    return tuple(
        row.host
        for row in seen.hosts
        if row.missing or row.wrong or row.failure or row.proof == "wrong"
    )
