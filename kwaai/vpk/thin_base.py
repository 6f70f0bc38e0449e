"""A base on a thin client: its manifest and the centroids of its cells, and no index.

Lies in a database like any other (`base_core`); is asked (`thin_store.ThinReader`), refreshed and
forgotten, never changed. Full text, documents and exports need the index, which is not here.
docs/vpk.md, "Cells for thin clients".
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final, NoReturn

from kwaai.errors import (
    BaseMissing,
    EmbedderMissing,
    FileCorrupt,
    ResourceError,
    StorageRefused,
    UserError,
)
from kwaai.limits import BASE_RESULTS_MAX
from kwaai.vpk import base_core
from kwaai.vpk import base_rows as rows
from kwaai.vpk.access import KeySource
from kwaai.vpk.base import Base, Document
from kwaai.vpk.base_core import Core, Identity
from kwaai.vpk.base_holdings import BaseHoldings, Stats
from kwaai.vpk.host_set import HostSet
from kwaai.vpk.ingest import FileState
from kwaai.vpk.manifest import Manifest, verify_manifest
from kwaai.vpk.query import Answer, Explain, Hit, Query
from kwaai.vpk.records import TextRecord
from kwaai.vpk.takeover import OnProgress, verify
from kwaai.vpk.thin_store import (
    ThinAnswer,
    ThinHit,
    ThinReader,
    ThinRef,
    fetch_centroids,
    parse_ref,
)

BY_VECTORS: Final = "found by vectors alone: full-text search needs the index, which is not here"


class ThinBase(Base):
    """An open base of a thin client. Made by `fetch` or `of`; belongs to one event loop."""

    def __init__(self, core: Core) -> None:
        super().__init__(core)
        self._reader: ThinReader | None = None

    @classmethod
    def of(cls, base: Base) -> Base:
        """Return an open base as what it is: a ThinBase where centroids alone are here."""
        return cls(base._core) if base._core.thin else base

    @classmethod
    async def fetch(
        cls,
        directory: Path,
        source: KeySource,
        base_id: bytes,
        hosts: HostSet,
        *,
        clock: Callable[[], float] = time.time,
    ) -> ThinBase:
        """Make a directory with a base as a thin client has it: 3 MB at most are fetched. Raises
        BaseMissing (no host has it), ResourceError (it has no cells), StorageRefused (mode
        oblivious), BaseExists, TooFewHosts.
        """
        access = source.access(base_id)
        found = await hosts.get_manifest(
            base_id, partial(verify_manifest, tenant=access.tenant, keys=access.keys)
        )
        if found is None:
            raise BaseMissing("none of the hosts has a base of that id; is it the right root key?")
        manifest = found.manifest
        if manifest.mode == "oblivious":
            raise StorageRefused(
                f"{manifest.name} is in mode oblivious: which cells a thin client reads would tell "
                "hosts what it looks for; fetch all of it"
            )
        centroids = await fetch_centroids(hosts, access.keys, access.tenant, manifest)
        identity = Identity(
            base_id, manifest.name, manifest.mode, manifest.embedder, manifest.created_s
        )
        await asyncio.to_thread(_clear, directory)
        core = await asyncio.to_thread(base_core.make, directory, source, identity, hosts, clock)
        core.thin = True
        await asyncio.to_thread(_keep, core, manifest, found.data, centroids)
        return cls(core)

    # What is kept.

    def cells(self) -> ThinRef | None:
        """See Base."""
        manifest = self.published()
        return None if manifest is None else parse_ref(manifest.thin)

    def stats(self) -> Stats:
        """Return figures; of passages: those that its cells have."""
        manifest, ref = self.published(), self.cells()
        return Stats(
            documents=0,
            passages=0 if ref is None else ref.rows,
            index_bytes=0 if ref is None else ref.centroids_bytes,
            local_bytes=sum(path.stat().st_size for path in self._core.path.glob("*.db*")),
            segments=0 if manifest is None else len(manifest.segments),
            sequence=0 if manifest is None else manifest.sequence,
            unpublished=0,
            owed=0,
        )

    async def refresh(self, on_progress: OnProgress = lambda *_: None) -> bool:
        """Fetch the newest manifest, and the centroids where they are others; say whether there was
        anything. An older manifest than the one that is here is never taken. Raises TooFewHosts,
        ResourceError (it has no cells any more).
        """
        core = self._core
        core.check_lock()
        async with core.writing:
            found = await core.hosts.get_manifest(core.id, partial(verify, core))
            mine = self.published()
            if found is None or mine is None or found.manifest.sequence <= mine.sequence:
                return False
            manifest, centroids = found.manifest, None
            if manifest.thin != mine.thin:
                centroids = await fetch_centroids(core.hosts, core.keys, core.tenant, manifest)
            await asyncio.to_thread(_keep, core, manifest, found.data, centroids)
            self._reader = None
            return True

    def attach(self, hosts: HostSet) -> None:
        """See Base."""
        super().attach(hosts)
        self._reader = None

    # Search.

    async def search(self, wanted: Query) -> Answer:
        """Return the passages whose vectors are nearest, as far as the cells near the question have
        them. Raises UserError, EmbedderMismatch; EmbedderMissing without a vector.
        """
        if not 1 <= wanted.k <= BASE_RESULTS_MAX:
            raise UserError(f"k is 1 to {BASE_RESULTS_MAX}, not {wanted.k}", param="k")
        if wanted.vector is None:
            raise EmbedderMissing(
                f"{self.name} is a thin client's copy: it is searched by vectors, and there is "
                "nothing here that makes one of the question"
            )
        vector = base_core.check_vectors(self._core.identity, wanted.vector[None], 1)[0]
        reader = await self._open_reader()
        answer = await reader.search(vector, wanted.k)
        if not answer.missing:
            return self._answer(answer)
        try:
            if await self.refresh():  # cells were made again, or rows removed
                reader = await self._open_reader()
                answer = await reader.search(vector, wanted.k)
        except ResourceError as error:  # no host answers, or the cells were deleted
            answer = replace(answer, problems=(*answer.problems, error.message))
        return self._answer(answer)

    async def _open_reader(self) -> ThinReader:
        if self._reader is None:
            self._reader = await asyncio.to_thread(self._load)
        return self._reader

    def _load(self) -> ThinReader:
        core, manifest = self._core, self.published()
        with core.reader.read() as connection:
            centroids = rows.get_meta(connection, "centroids")
        if manifest is None or centroids is None:
            raise FileCorrupt(
                f"{self.name} is not whole on this disk; forget it (kwaainet rag destroy "
                f"{self.name}), and run: kwaainet rag restore {self.name} --thin"
            )
        return ThinReader(core.hosts, core.keys, core.tenant, manifest, centroids)

    def _answer(self, answer: ThinAnswer) -> Answer:
        explain = Explain(
            candidates=answer.candidates,
            fetched=answer.fetched,
            payload_bytes=answer.payload_bytes,
            hosts=answer.shares,
            stages_ms=dict(answer.stages_ms),
        )
        hits = tuple(
            _hit(hit, hit.record, rank)
            for rank, hit in enumerate(answer.hits, 1)
            if hit.record is not None
        )
        return Answer(hits, explain, (BY_VECTORS, *self._newer(), *answer.problems))

    def _newer(self) -> tuple[str, ...]:
        """Say that passages are newer than the cells. A lower bound: of removed rows, a client does
        not know which are in the cells.
        """
        manifest, ref = self.published(), self.cells()
        if manifest is None or ref is None:
            return ()
        removed = sum(run.stop - run.start for run in manifest.removed)
        newer = sum(segment.rows for segment in manifest.segments) - removed - ref.rows
        if newer <= 0:
            return ()
        return (f"at least {newer} passages are newer than the cells, and are not found yet",)

    # What is not here.

    def files(self) -> Mapping[str, FileState]:
        """See Base. Raises StorageRefused."""
        self._refuse("list of files")

    def documents(self) -> list[Document]:
        """See Base. Raises StorageRefused."""
        self._refuse("list of documents")

    def holdings(self) -> BaseHoldings:
        """See Base. Raises StorageRefused."""
        self._refuse("list of what hosts should have")

    def passages(self, batch: int) -> AsyncIterator[list[dict[str, object]]]:
        """See Base. Raises StorageRefused."""
        self._refuse("list of passages")

    def _refuse(self, what: str) -> NoReturn:
        raise StorageRefused(
            f"{self.name} is a thin client's copy, which has no {what}; fetch all of it with: "
            f"kwaainet rag restore {self.name}"
        )


def _clear(directory: Path) -> None:
    """Delete what a killed process left."""
    if directory.is_dir():
        base_core.delete_files(directory)


def _keep(core: Core, manifest: Manifest, data: bytes, centroids: bytes | None) -> None:
    with core.database.write() as connection:
        rows.set_meta(connection, "thin client", b"1")
        rows.set_meta(connection, "manifest", data)
        rows.set_meta(connection, "thin", manifest.thin)
        rows.set_meta(connection, "params", manifest.params)
        rows.set_number(connection, "sequence", manifest.sequence)
        if centroids is not None:
            rows.set_meta(connection, "centroids", centroids)


def _hit(hit: ThinHit, record: TextRecord, rank: int) -> Hit:
    return Hit(
        row=hit.row,
        document=record.document,
        path="",
        uid="",
        heading=record.heading,
        page=record.page,
        start=record.start,
        stop=record.stop,
        text=record.text,
        score=hit.score,
        vector_rank=rank,
        vector_score=hit.score,
        text_rank=None,
        text_score=None,
        host=hit.source,
    )
