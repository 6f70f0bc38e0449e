"""A `KnowledgeControl` for tests of the faces: one base, in which one passage is found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from kwaai.errors import BaseExists, BaseMissing
from kwaai.node.knowledge_control import (
    AuditRow,
    BaseRow,
    DocumentRow,
    ExportView,
    FetchRow,
    FileRow,
    HitRow,
    HostRow,
    HostUse,
    IngestOptions,
    IngestProgress,
    IngestView,
    RepairView,
    SearchExplained,
    SearchView,
    SharedView,
    TenantRow,
    ThinView,
    ToldIngest,
    VpkView,
    say_nothing,
)
from kwaai.vpk.types import BaseMode

PEER = "12D3KooWGBfqLAFfDnsaRCT5Zt4Xf1bXAi7xYXcAzCKQxCfCPPnw"
HOST = HostUse(PEER, "eva", "did:key:z6MkOwner", "Verified", "online")
HIT = HitRow(
    number=1,
    document="lease.pdf",
    path="/home/bob/lease.pdf",
    page=3,
    heading=("Lease", "Term"),
    start=120,
    stop=165,
    text="The lease ends on 31 March 2031.",
    score=0.0325,
    vector_rank=1,
    similarity=0.71,
    text_rank=2,
    host=PEER,
)
CELLS = ThinView(False, 2, 4, 1_600)
BASE = BaseRow("default", "00" * 16, "sealed", "all-MiniLM-L6-v2", 1, 4, 8192, (HOST,), 2, 0, 0)


@dataclass
class FakeKnowledge:
    """See KnowledgeControl."""

    uploads: Path = Path("/nonexistent")
    calls: list[tuple[object, ...]] = field(default_factory=list)
    rows: dict[str, BaseRow] = field(default_factory=lambda: {"default": BASE})
    hits: tuple[HitRow, ...] = (HIT,)
    files: tuple[FileRow, ...] = (FileRow("/home/bob/lease.pdf", "new", 4),)
    unchanged: int = 2
    missing: int = 0
    """Of an export; and whether a host was away when a base was destroyed."""

    def _find(self, base: str) -> BaseRow:
        if base not in self.rows:
            raise BaseMissing(f"there is no knowledge base '{base}'")
        return self.rows[base]

    def bases(self) -> tuple[BaseRow, ...]:
        return tuple(self.rows.values())

    async def create(
        self, name: str, mode: BaseMode, *, fulltext_only: bool, say: ToldIngest = say_nothing
    ) -> BaseRow:
        say(IngestProgress(0, 0, 0, "", "fetching a model: 50%"))
        self.calls.append(("create", name, mode, fulltext_only))
        if name in self.rows:
            raise BaseExists(f"there is a knowledge base '{name}' already")
        embedder = "" if fulltext_only else BASE.embedder
        self.rows[name] = replace(BASE, name=name, mode=mode, embedder=embedder)
        return self.rows[name]

    async def ingest(
        self, base: str, paths: Sequence[str], options: IngestOptions, say: ToldIngest
    ) -> IngestView:
        self._find(base)
        self.calls.append(("ingest", base, tuple(paths), options))
        say(IngestProgress(0, 1, 0, "/home/bob/lease.pdf"))
        return IngestView(self.files, self.unchanged, 4, 1.5, True)

    async def upload_path(self, base: str, name: str) -> str:
        self._find(base)
        self.calls.append(("upload", base, name))
        return str(self.uploads / name)

    async def search(self, base: str, text: str, count: int, *, explain: bool) -> SearchView:
        self._find(base)
        self.calls.append(("search", base, text, count, explain))
        told = None
        if explain:
            fetches = (FetchRow(PEER, 100, 42_800, 1.9),)
            stages = (("embed", 0.5), ("scan", 0.9), ("fetch", 1.9))
            told = SearchExplained(100, fetches, stages, 42_800)
        return SearchView(base, text, self.hits[:count], (), told)

    async def documents(self, base: str) -> tuple[DocumentRow, ...]:
        self._find(base)
        kind = "application/pdf"
        return (DocumentRow("lease.pdf", "/home/bob/lease.pdf", "Lease", kind, 4, 9000, 1.0, "ok"),)

    async def delete_document(self, base: str, name: str) -> int:
        self._find(base)
        self.calls.append(("delete", base, name))
        return 4

    async def export(self, base: str, path: str) -> ExportView:
        self._find(base)
        self.calls.append(("export", base, path))
        return ExportView(4, self.missing)

    async def destroy(self, base: str) -> tuple[str, ...]:
        self._find(base)
        self.calls.append(("destroy", base))
        del self.rows[base]
        return ("eva",) if self.missing else ()

    async def restore(self, base: str, *, thin: bool = False) -> tuple[BaseRow, ...]:
        self.calls.append(("restore", base, thin))
        return (replace(BASE, thin=replace(CELLS, client=True)) if thin else BASE,)

    async def thin(self, base: str, *, off: bool = False) -> BaseRow:
        self.rows[base] = replace(self._find(base), thin=None if off else CELLS)
        self.calls.append(("thin", base, off))
        return self.rows[base]

    async def resolve(self, base: str) -> tuple[HostUse, ...]:
        return self._find(base).hosts

    async def audit(self, base: str) -> tuple[AuditRow, ...]:
        self._find(base)
        return (AuditRow(PEER, "eva", 64, 0, 0, 1),)

    async def repair(self, base: str, hosts: int = 0) -> RepairView:
        self._find(base)
        self.calls.append(("repair", base, hosts))
        return RepairView((HOST,), 3, 1284, 0, 0)

    async def discover(self) -> tuple[HostRow, ...]:
        return (HostRow("eva", PEER, "eve", 10.0, 9.5, 1, "Verified", "", True, 1.2),)

    async def tenants(self) -> tuple[TenantRow, ...]:
        return (TenantRow(PEER, "eva", 1000, 10**9, 10**10, 8, 1),)

    async def create_tenant(self, peer: str, quota_mb: int) -> TenantRow:
        self.calls.append(("create_tenant", peer, quota_mb))
        return TenantRow(PEER, "eva", 0, quota_mb * 10**6, 10**10, 0, 0)

    async def delete_tenant(self, peer: str) -> None:
        self.calls.append(("delete_tenant", peer))

    def status(self) -> VpkView:
        return VpkView("both", "ab" * 32, len(self.rows), True, 10**10, 1000, 1, 8, True)

    async def share(self, base: str, reader: str, days: float) -> str:
        self._find(base)
        self.calls.append(("share", base, reader, days))
        return "token"

    async def attach(self, token: str, name: str = "") -> BaseRow:
        self.calls.append(("attach", token, name))
        shared = SharedView(PEER, "bob", "ab" * 32, 1_800_000_000.0)
        row = replace(BASE, name=name or "default-bob", shared=shared)
        self.rows[row.name] = row
        return row
