"""A knowledge base of bob's, on this device: documents in, passages with citations out.

The face of `commit`, `query`, `publish`, `restore` and `compact`: opens and closes, knows one
event loop, and implements `ingest.BaseWriter`. What leaves this machine is sealed first; hosts are
the caller's choice (`host_set`). docs/vpk.md.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kwaai.errors import Busy, DocumentMissing, UserError
from kwaai.limits import (
    BASE_FILE_REASON_CHARS_MAX,
    BASE_PATH_CHARS_MAX,
    THIN_PUBLISH_TRIES,
)
from kwaai.vpk import (
    base_core,
    base_holdings,
    cells,
    commit,
    compact,
    publish,
    query,
    restore,
    takeover,
)
from kwaai.vpk import base_documents as docs
from kwaai.vpk import base_rows as rows
from kwaai.vpk.access import KeySource
from kwaai.vpk.base_core import Core, Identity
from kwaai.vpk.base_holdings import BaseHoldings, Stats
from kwaai.vpk.compact import Compacted
from kwaai.vpk.host_set import HostSet
from kwaai.vpk.ingest import FileState, NewDocument
from kwaai.vpk.keys import RootKey, new_base_id
from kwaai.vpk.manifest import HostRef, Manifest
from kwaai.vpk.publish import Published
from kwaai.vpk.query import Answer, Query
from kwaai.vpk.records import TextRecord
from kwaai.vpk.segments import DocumentMeta
from kwaai.vpk.takeover import OnProgress
from kwaai.vpk.thin_store import ThinRef
from kwaai.vpk.types import BaseMode, EmbedderSpec, Passage

if TYPE_CHECKING:
    import apsw


@dataclass(frozen=True, slots=True)
class Document:
    """A document of a base."""

    uid: str
    """Hex digits: the same on every device."""
    name: str
    path: str
    title: str
    media_type: str
    sha256: str
    size: int
    mtime_ns: int
    root: str
    created_s: int
    passages: int


class Base:
    """An open base. Made by `create`, `open` or `restore`; belongs to one event loop."""

    def __init__(self, core: Core) -> None:
        self._core = core

    @classmethod
    async def create(
        cls,
        directory: Path,
        root: RootKey,
        name: str,
        *,
        hosts: HostSet,
        mode: BaseMode = "sealed",
        embedder: EmbedderSpec | None = None,
        clock: Callable[[], float] = time.time,
    ) -> Base:
        """Make an empty base in a directory of its own, and open it to write. `embedder` None: for
        full text alone. Nothing is at the hosts before the first `publish`. Raises BaseExists,
        UserError, TooFewHosts (mode oblivious without two hosts of different owners).
        """
        base_core.check_name(name)
        if mode == "oblivious":
            hosts.pir_pair()
        identity = Identity(new_base_id(), name, mode, embedder, clock())
        return cls(await asyncio.to_thread(base_core.make, directory, root, identity, hosts, clock))

    @classmethod
    async def open(
        cls,
        directory: Path,
        source: KeySource,
        hosts: HostSet,
        *,
        writable: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> Base:
        """Open the base in a directory. `source`: a RootKey, or the SharedKeys of a reader. One
        process has it open to write, any number to read. Raises BaseMissing, Locked,
        FileCorrupt (damaged, or another root key).
        """
        core = await asyncio.to_thread(
            base_core.load, directory, source, hosts, clock, writable=writable
        )
        try:
            await asyncio.to_thread(_refresh, core)
        except BaseException:
            core.close()
            raise
        return cls(core)

    @classmethod
    async def restore(
        cls,
        directory: Path,
        source: KeySource,
        base_id: bytes,
        hosts: HostSet,
        on_progress: OnProgress = lambda *_: None,
        *,
        clock: Callable[[], float] = time.time,
        name: str | None = None,
    ) -> Base:
        """Get a base back from its hosts into a directory of its own, and open it to write; what
        was killed halfway goes on. `on_progress`: rows that are here, rows in all. `name`: what
        it is called here; None: as its owner calls it. Raises BaseMissing (no host has it),
        BaseExists, TooFewHosts.
        """
        core = await restore.restore(directory, source, base_id, hosts, on_progress, clock, name)
        return cls(core)

    @property
    def id(self) -> bytes:
        return self._core.id

    @property
    def name(self) -> str:
        return self._core.identity.name

    @property
    def spec(self) -> EmbedderSpec | None:
        """What made the vectors; None: full text alone."""
        return self._core.spec

    @property
    def mode(self) -> BaseMode:
        return self._core.identity.mode

    @property
    def hosts(self) -> HostSet:
        return self._core.hosts

    def check_embedder(self, spec: EmbedderSpec | None) -> None:
        """Refuse vectors of another model before they are made. Raises EmbedderMismatch."""
        base_core.check_spec(self._core.identity, spec)

    # Ingest: `ingest.BaseWriter`.

    def files(self) -> Mapping[str, FileState]:
        """Return the state of every file that this device has ingested, by path."""
        with self._core.reader.read() as connection:
            return docs.file_states(connection)

    async def add_document(
        self,
        document: NewDocument,
        passages: Sequence[Passage],
        vectors: NDArray[np.float32] | None,
    ) -> None:
        """Store a document in place of an older one of that path. When this returns it is on the
        disks of hosts and of this device, and searches find it. `vectors`: (passages, dimension);
        None: full text alone. Raises StorageFull, TooFewHosts, DiskFull, EmbedderMismatch,
        UserError.
        """
        core = self._core
        meta = _meta(document, core.clock())
        if vectors is not None:
            vectors = base_core.check_vectors(core.identity, vectors, len(passages))
        records = [
            TextRecord(p.text, document.name, p.heading, p.page, p.start, p.stop) for p in passages
        ]
        state = FileState(
            document.path,
            document.size,
            document.mtime_ns,
            document.sha256,
            "ok",
            "",
            document.name,
            len(passages),
            document.root,
        )

        def before(connection: apsw.Connection) -> None:
            older = docs.document_of_file(connection, document.path)
            if older is not None:
                commit.drop_document(core, connection, older)

        def after(connection: apsw.Connection, document_id: int) -> None:
            docs.set_file(connection, state, document_id)

        new = commit.NewRows(len(passages), records, vectors, meta)
        await commit.add(core, new, before, after)

    async def remove_document(self, path: str) -> None:
        """Remove the document of a file, if it has one, and the file's state."""
        await self._change(lambda connection: self._remove_file(connection, path))

    def note_file(self, state: FileState) -> None:
        """Remember the state of a file; its document stays as it is."""
        self._core.check_writable()
        with self._core.database.write() as connection:
            docs.set_file(connection, _cut(state), None)

    async def add_vectors(
        self, vectors: NDArray[np.float32], texts: Sequence[str] | None = None
    ) -> None:
        """Store vectors in bulk, (n, dimension), of no document; `texts`: a passage for each."""
        core = self._core
        vectors = base_core.check_vectors(core.identity, vectors, len(vectors))
        if texts is not None and len(texts) != len(vectors):
            raise UserError(f"{len(texts)} texts for {len(vectors)} vectors")
        records = None if texts is None else [TextRecord(text, "") for text in texts]
        new = commit.NewRows(len(vectors), records, vectors, None)
        await commit.add(core, new, lambda _: None, lambda *_: None)

    # Documents.

    def documents(self) -> list[Document]:
        """Return all documents, by name; those of other devices as of the last `refresh`."""
        with self._core.reader.read() as connection:
            found = docs.documents(connection)
        return [_document(row) for row in found]

    async def delete_document(self, name_or_uid: str) -> list[Document]:
        """Delete the documents of that name, path or uid; return them. Raises DocumentMissing where
        there is none.
        """
        gone: list[Document] = []

        def work(connection: apsw.Connection) -> None:
            found = docs.documents(
                connection,
                "name = ?1 OR path = ?1 OR lower(hex(uid)) = lower(?1)",
                name_or_uid,
            )
            if not found:
                raise DocumentMissing(f"{self.name} has no document {name_or_uid[:200]}")
            for row in found:
                commit.drop_document(self._core, connection, row.id)
                docs.delete_file_of(connection, row.meta.path)
                gone.append(_document(row))

        await self._change(work)
        return gone

    # Publication.

    async def publish(self) -> Published:
        """Publish what was committed, so that other devices and restores have it; delete at the
        hosts what nothing needs any more. Takes in what other devices have published. Raises
        TooFewHosts, StorageFull, Busy: then it is to be tried again later, and nothing is lost.
        """
        return await publish.publish(self._core, compact.make_room)

    async def refresh(self, on_progress: OnProgress = lambda *_: None) -> bool:
        """Take in what other devices have published; say whether there was anything. Raises
        TooFewHosts where no host answers.
        """
        return await publish.refresh(self._core, on_progress)

    async def compact(self) -> Compacted:
        """Publish, then merge small segments and drop removed rows from them. Raises TooFewHosts,
        StorageFull, Busy.
        """
        await publish.publish(self._core, compact.make_room)
        return await compact.compact(self._core)

    async def make_cells(self) -> int:
        """Make cells of all that is published, for thin clients, in place of older ones; return how
        many. Raises UserError (no vectors, mode oblivious), TooFewHosts, StorageFull, Busy (other
        devices publish all the time).
        """
        await self.publish()
        ref = await cells.make_cells(self._core)
        await self._publish_cells(ref)
        return ref.cells

    async def drop_cells(self) -> None:
        """Publish that there are no cells any more, and delete them. Raises as `make_cells`."""
        await self._publish_cells(None)

    async def _publish_cells(self, ref: ThinRef | None) -> None:
        for _ in range(THIN_PUBLISH_TRIES):
            await cells.name(self._core, ref)
            await self.publish()
            if cells.named(self._core) == ref:
                break  # else the manifest of another device has come in between
        else:
            raise Busy(f"other devices publish {self.name} all the time", retry_after_s=1.0)
        await cells.sweep(self._core)

    def cells(self) -> ThinRef | None:
        """Return what the base's cells for thin clients are; None: it has none."""
        return cells.named(self._core)

    def cells_changed(self) -> float:
        """Return how much of the base has changed since its cells were made, as a share of their
        rows; 0 where it has none. Blocks for 0.1 s per 100,000 rows.
        """
        return cells.changed(self._core)

    async def sweep_cells(self) -> bool:
        """Delete cells that a killed process left, or that were replaced while hosts were away; say
        whether any are left.
        """
        return await cells.sweep(self._core)

    def attach(self, hosts: HostSet) -> None:
        """Use other hosts from now on; the next publication tells other devices. What lies where it
        no longer belongs is `keeper.repair`'s business.
        """
        self._core.hosts = hosts

    async def destroy(self, *, everywhere: bool = True) -> tuple[str, ...]:
        """Close the base and delete it here; `everywhere`: at the hosts first, what a reader may
        not. Return the hosts
        that could not be asked, and still have it: sealed.
        """
        core = self._core
        if everywhere:
            core.check_writable()
        else:
            core.check_lock()
        async with core.writing:
            away = await core.hosts.drop_base(core.id) if everywhere else ()
            core.close()
            await asyncio.to_thread(base_core.delete_files, core.path)
        return away

    # Figures, upkeep, export.

    def stats(self) -> Stats:
        """Return figures of this base on this device."""
        return base_holdings.stats(self._core)

    def holdings(self) -> BaseHoldings:
        """Return what the base has at its hosts, for audits and repair."""
        return BaseHoldings(self._core)

    def published(self) -> Manifest | None:
        """Return the newest manifest that this device has taken in; None where there is none."""
        data = self._core.manifest_bytes()
        return None if data is None else takeover.verify(self._core, data)

    def published_hosts(self) -> tuple[HostRef, ...]:
        """Return the hosts that the newest manifest names; none where nothing is published."""
        manifest = self.published()
        return () if manifest is None else manifest.hosts

    def note_repaired(self) -> None:
        """Remember that all copies are where they belong."""
        self._core.check_writable()
        with self._core.database.write() as connection:
            rows.set_number(connection, "owed", 0)

    def passages(self, batch: int) -> AsyncIterator[list[dict[str, object]]]:
        """Fetch all passages, up to `batch` at a time: document, path, heading, page, start, stop,
        text. Those that no host gives are counted in a last entry, `missing`.
        """
        return base_holdings.passages(self._core, batch)

    # Search.

    async def search(self, wanted: Query) -> Answer:
        """Return the passages that fit best. What hosts do not give makes the answer poorer, and
        it says so (`degraded`). Raises UserError, EmbedderMismatch.
        """
        return await query.search(self._core, wanted)

    def check(self) -> None:
        """Read every page of the database. Raises FileCorrupt."""
        self._core.reader.check()

    def close(self) -> None:
        """Close the files. The hosts stay the caller's. Idempotent."""
        self._core.close()

    def _remove_file(self, connection: apsw.Connection, path: str) -> None:
        document = docs.document_of_file(connection, path)
        if document is not None:
            commit.drop_document(self._core, connection, document)
        docs.delete_file(connection, path)

    async def _change(self, work: Callable[[apsw.Connection], None]) -> None:
        """Do one local change in a transaction, with a fresh state."""
        core = self._core
        core.check_writable()

        def change() -> None:
            with core.database.write() as connection:
                core.state.refresh(connection)
                work(connection)
                rows.bump(connection)

        async with core.writing:
            await asyncio.to_thread(change)


def _refresh(core: Core) -> None:
    with core.reader.read() as connection:
        core.state.refresh(connection)


def _meta(document: NewDocument, now_s: float) -> DocumentMeta:
    for text in (document.name, document.path, document.title, document.root):
        if len(text) > BASE_PATH_CHARS_MAX:
            raise UserError(
                f"a document's name and path have up to {BASE_PATH_CHARS_MAX} characters"
            )
    return commit.new_document(
        name=document.name,
        path=document.path,
        title=document.title,
        media_type=document.media_type,
        sha256=document.sha256,
        size=document.size,
        mtime_ns=document.mtime_ns,
        root=document.root,
        created_s=int(now_s),
    )


def _document(row: docs.DocumentRow) -> Document:
    meta = row.meta
    return Document(
        uid=meta.uid.hex(),
        name=meta.name,
        path=meta.path,
        title=meta.title,
        media_type=meta.media_type,
        sha256=meta.sha256,
        size=meta.size,
        mtime_ns=meta.mtime_ns,
        root=meta.root,
        created_s=meta.created_s,
        passages=row.passages,
    )


def _cut(state: FileState) -> FileState:
    from dataclasses import replace

    return replace(state, reason=state.reason[:BASE_FILE_REASON_CHARS_MAX])
