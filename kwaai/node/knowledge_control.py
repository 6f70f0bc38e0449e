"""What a running node tells its owner about knowledge and hosts: types only, the control socket's
other side.

No socket, no JSON, no disk: `kwaai.api.control_knowledge` carries this, `kwaai.cli.rag` and
`kwaai.cli.vpk` show it, `kwaai.node.knowledge_service` does it. Sizes are bytes, times Unix
seconds. docs/knowledge.md, docs/vpk.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from kwaai.vpk.types import BaseMode

FileOutcome: TypeAlias = Literal["new", "changed", "unchanged", "removed", "failed", "skipped"]


@dataclass(frozen=True, slots=True)
class HostUse:
    """One host of a base."""

    peer: str
    """Its PeerId; `here`: this node's own disk."""
    name: str
    owner: str
    tier: str
    state: str
    """online, away or leaving."""


@dataclass(frozen=True, slots=True)
class SharedView:
    """Whose a base is that this node reads by leave."""

    owner: str
    """The PeerId of the node that gave the token, as that says; empty: it does not."""
    name: str
    """What that node calls itself; empty: not known."""
    tenant: str
    """The owner's key at hosts, 64 hex digits: what signs the base."""
    until_s: float
    """When hosts stop answering."""


@dataclass(frozen=True, slots=True)
class ThinView:
    """A base's cells for thin clients."""

    client: bool
    """This node has the centroids alone; False: all of the base."""
    cells: int
    passages: int
    """That were in them when they were made: what thin clients may find."""
    client_bytes: int
    """That a thin client keeps."""


@dataclass(frozen=True, slots=True)
class BaseRow:
    """One knowledge base of this node."""

    name: str
    id: str
    """32 hex digits: all that hosts know it by."""
    mode: BaseMode
    embedder: str
    """The model of its vectors; empty: full-text search alone."""
    documents: int
    passages: int
    local_bytes: int
    """Of its database on this disk."""
    hosts: tuple[HostUse, ...]
    sequence: int
    """Of the last manifest that was published."""
    unpublished: int
    """Passages that hosts have, and the manifest does not name yet: a new device would not see
    them.
    """
    owed: int
    """Copies that are missing at hosts: `kwaainet vpk repair` makes them."""
    problem: str = ""
    """Why it cannot be used, or not fully."""
    shared: SharedView | None = None
    """By whose leave it is read; None: it is this node's own."""
    thin: ThinView | None = None
    """None: it has no cells for thin clients."""


@dataclass(frozen=True, slots=True)
class IngestProgress:
    """How far an ingest is."""

    files_done: int
    files: int
    passages: int
    path: str
    """The file that is read now; empty: none."""
    note: str = ""
    """What else is being done: a model is fetched, the manifest is published."""


@dataclass(frozen=True, slots=True)
class FileRow:
    """What came of one file."""

    path: str
    outcome: FileOutcome
    passages: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class IngestView:
    """What came of an ingest."""

    files: tuple[FileRow, ...]
    """Those that are unchanged are counted only."""
    unchanged: int
    passages: int
    elapsed_s: float
    published: bool
    """A new device with the key sees all of it."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ExportView:
    """What came of an export."""

    passages: int
    missing: int
    """That no host gave."""


@dataclass(frozen=True, slots=True)
class DocumentRow:
    """A document of a base."""

    name: str
    path: str
    title: str
    media_type: str
    passages: int
    size_bytes: int
    ingested_s: float
    state: str
    """done or failed."""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class HitRow:
    """One passage that was found."""

    number: int
    """From 1: `[1]` in an answer."""
    document: str
    path: str
    page: int | None
    heading: tuple[str, ...]
    start: int
    stop: int
    """Characters of the document's text, half-open."""
    text: str
    score: float
    """Of the fusion of both rankings; comparable within one search only."""
    vector_rank: int | None
    similarity: float | None
    """Cosine with the question."""
    text_rank: int | None
    host: str
    """Who it was fetched from."""


@dataclass(frozen=True, slots=True)
class FetchRow:
    """What one host was asked for in a search."""

    host: str
    objects: int
    bytes: int
    ms: float
    failed: str = ""


@dataclass(frozen=True, slots=True)
class SearchExplained:
    """How a search went."""

    candidates: int
    """Of the index's scan, whose vectors were fetched."""
    fetches: tuple[FetchRow, ...]
    stages_ms: tuple[tuple[str, float], ...]
    """(embed, scan, fetch, rank, fulltext, texts), in order."""
    bytes: int


@dataclass(frozen=True, slots=True)
class SearchView:
    """What a search found."""

    base: str
    question: str
    hits: tuple[HitRow, ...]
    degraded: tuple[str, ...]
    """What was missing: hosts that are away, no embedder. Empty: nothing."""
    explained: SearchExplained | None = None


@dataclass(frozen=True, slots=True)
class HostRow:
    """A node that offers to host, as `vpk discover` lists it."""

    public_name: str
    peer_id: str
    mode: str
    capacity_gb: float
    free_gb: float
    tenant_count: int
    tier: str
    owner: str
    reachable: bool
    rtt_ms: float | None
    usable: str = ""
    """Why this node would not host with it; empty: it would."""


@dataclass(frozen=True, slots=True)
class TenantRow:
    """What this node has at a host."""

    peer: str
    name: str
    used_bytes: int
    quota_bytes: int
    free_bytes: int
    objects: int
    bases: int
    problem: str = ""


@dataclass(frozen=True, slots=True)
class VpkView:
    """How this node takes part."""

    mode: str
    tenant: str
    """The tenant's id at hosts, 64 hex digits; empty: no key yet."""
    bases: int
    hosting: bool
    capacity_bytes: int
    used_bytes: int
    tenants: int
    objects: int
    announced: bool
    problem: str = ""


@dataclass(frozen=True, slots=True)
class AuditRow:
    """What an audit of one host found."""

    peer: str
    name: str
    read: int
    """Objects that were asked for."""
    missing: int
    wrong: int
    proofs: int
    """Proofs of retrievability that held."""
    failed: str = ""


@dataclass(frozen=True, slots=True)
class RepairView:
    """What a repair did."""

    hosts: tuple[HostUse, ...]
    copied: int
    """Objects that were put at hosts that lacked them."""
    copied_bytes: int
    swept: int
    """Objects that nothing names, deleted at hosts."""
    left: int
    """Copies that still could not be made."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class IngestOptions:
    """How files are taken in."""

    sync: bool = False
    """Delete what is gone below the paths too."""
    allow_empty: bool = False
    """Even where a folder is missing, or has become empty: else it may be a disk that is away."""
    retry_failed: bool = True
    """Read files again that failed before and have not changed."""
    excludes: tuple[str, ...] = ()
    """Patterns of what is left out, as .gitignore has them."""


ToldIngest: TypeAlias = Callable[[IngestProgress], None]


def say_nothing(_: IngestProgress) -> None:
    """Tell nobody."""


class KnowledgeControl(Protocol):
    """This node's knowledge, to its owner. Belongs to the event loop. Raises BaseMissing for names
    that are none, and KwaaiError.
    """

    def bases(self) -> tuple[BaseRow, ...]:
        """Return every base on this disk."""

    async def create(
        self, name: str, mode: BaseMode, *, fulltext_only: bool, say: ToldIngest = say_nothing
    ) -> BaseRow:
        """Make a base, which may fetch a model first: `say` hears of that, from any thread. Raises
        BaseExists, TooFewHosts (oblivious needs two of different owners).
        """

    async def ingest(
        self, base: str, paths: Sequence[str], options: IngestOptions, say: ToldIngest
    ) -> IngestView:
        """Take files and folders in. No paths, with `sync`: those of before.
        One bad file never stops the rest. Of a base of somebody else's, `sync` without paths takes
        in what its owner has published.
        """

    async def upload_path(self, base: str, name: str) -> str:
        """Return where a file that is sent for a base is put, in a folder of its own, before it is
        ingested; whoever asked deletes both. Raises UserError for what is no file's name.
        """

    async def search(self, base: str, text: str, count: int, *, explain: bool) -> SearchView:
        """Find the passages that fit `text` best."""

    async def documents(self, base: str) -> tuple[DocumentRow, ...]:
        """Return the documents of a base, by path."""

    async def delete_document(self, base: str, name: str) -> int:
        """Delete a document by its name or path; return its passages. Raises DocumentMissing."""

    async def export(self, base: str, path: str) -> ExportView:
        """Write every passage with its citation as JSON lines to a new file. Raises UserError for
        a file that is there, or cannot be written.
        """

    async def destroy(self, base: str) -> tuple[str, ...]:
        """Delete a base, here and at its hosts, one of somebody else's: here; return the hosts that
        could not be asked.
        """

    async def restore(self, base: str, *, thin: bool = False) -> tuple[BaseRow, ...]:
        """Bring back from hosts the base of this name, or all (empty), that this node's key opens
        and that are not here. `thin`: without their indexes; a named one that is here so is fetched
        whole without it. Raises ResourceError where a base has no cells.
        """

    async def thin(self, base: str, *, off: bool = False) -> BaseRow:
        """Make the cells of a base for thin clients, again where there are; `off`: delete them."""

    async def resolve(self, base: str) -> tuple[HostUse, ...]:
        """Return who hosts a base."""

    async def audit(self, base: str) -> tuple[AuditRow, ...]:
        """Read back a sample of what each host should have, and have it prove the rest."""

    async def repair(self, base: str, hosts: int = 0) -> RepairView:
        """Make the copies that are missing, at hosts of now. `hosts`: at how many the base is to
        be; 0: as many as it is, or as the settings say.
        """

    async def discover(self) -> tuple[HostRow, ...]:
        """Return the nodes that offer to host."""

    async def tenants(self) -> tuple[TenantRow, ...]:
        """Return what this node has at which host."""

    async def create_tenant(self, peer: str, quota_mb: int) -> TenantRow:
        """Ask a host for room. Raises PeerError."""

    async def delete_tenant(self, peer: str) -> None:
        """Delete all that this node has at a host."""

    def status(self) -> VpkView:
        """Return how this node takes part."""

    async def share(self, base: str, reader: str, days: float) -> str:
        """Return a token with which the node `reader` (a PeerId, or the name of a peer) may read a
        base, for `days`. Raises StorageRefused for a base of somebody else's.
        """

    async def attach(self, token: str, name: str = "") -> BaseRow:
        """Open a base of somebody else's, for reading, by a token; one that is here already is read
        by the new token. `name`: what to call it; empty: as its owner does, if that is free.
        """
