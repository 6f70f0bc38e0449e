"""What the owner asks of this node's knowledge: bases, documents, questions. Implements
`KnowledgeControl` with `knowledge_hosting`, which has what is about hosts.

Opens and keeps nothing: `knowledge_service` does. docs/knowledge.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import json
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath

from kwaai import limits
from kwaai.atomic import AtomicFile, disk_errors
from kwaai.errors import DocumentMissing, EmbedderMissing, KwaaiError, UserError
from kwaai.log import get_logger
from kwaai.node.embedders import Report as Fetching
from kwaai.node.knowledge_control import (
    BaseRow,
    DocumentRow,
    ExportView,
    FetchRow,
    FileRow,
    HitRow,
    IngestOptions,
    IngestProgress,
    IngestView,
    SearchExplained,
    SearchView,
    ToldIngest,
    say_nothing,
)
from kwaai.node.knowledge_hosting import KnowledgeHosting
from kwaai.node.knowledge_open import OpenBase
from kwaai.store.home import DIRECTORY_MODE
from kwaai.vpk.ingest import Ingest, Progress, Report, Row
from kwaai.vpk.ingest_run import is_below
from kwaai.vpk.local_host import HERE
from kwaai.vpk.query import Answer, Hit, Query
from kwaai.vpk.types import BaseMode

log = get_logger(__name__)


class KnowledgeDesk(KnowledgeHosting):
    """See KnowledgeControl. Belongs to the event loop."""

    # Bases.

    def bases(self) -> tuple[BaseRow, ...]:
        """See KnowledgeControl."""
        self.service.check_open()
        rows = [self.row(opened) for opened in self.service.all()]
        rows += [
            BaseRow("?", base, "sealed", "", 0, 0, 0, (), 0, 0, 0, reason)
            for base, reason in self.service.broken.items()
        ]
        return tuple(rows)

    async def create(
        self, name: str, mode: BaseMode, *, fulltext_only: bool, say: ToldIngest = say_nothing
    ) -> BaseRow:
        """See KnowledgeControl."""
        opened, why = await self.service.create(
            name, mode, fulltext_only=fulltext_only, report=_fetching(say)
        )
        problems = [f"full-text search alone: {why}"] if why else []
        opened.problem = "; ".join([*problems, *self.refusals(opened)])
        return self.row(opened)

    # Documents.

    async def ingest(
        self, base: str, paths: Sequence[str], options: IngestOptions, say: ToldIngest
    ) -> IngestView:
        """See KnowledgeControl."""
        opened = self.service.find(base)
        started_s = time.monotonic()
        if (opened.shared is not None or opened.is_thin) and options.sync and not paths:
            return await self._refresh(opened, say)
        opened.check_own()
        if opened.busy.locked():
            doing = opened.doing or "upkeep"
            say(IngestProgress(0, 0, 0, "", f"waiting: {doing} of this base is under way"))
        async with opened.work("an ingest", limits.KNOWLEDGE_TURN_S):
            ingest = await self._ingest(opened, options, say)
            uploads = [Path(path) for path in paths if self._is_upload(Path(path))]
            others = [Path(path) for path in paths if Path(path) not in uploads]
            report = Report()
            if others or not uploads:
                if not options.sync and not others:
                    raise UserError("name files or folders to take in", param="paths")
                report = await ingest.run(
                    others,
                    sync=options.sync,
                    retry_failed=options.retry_failed,
                    allow_empty=options.allow_empty,
                    on_progress=lambda progress: say(_progress(progress)),
                )
            for path in uploads:
                report.rows.append(await ingest.add_file(path, path.name))
            say(_progress_note(report, "telling the hosts"))
            published, note = await self._publish(opened)
        touched = tuple(_file_row(row) for row in report.rows if row.state != "unchanged")
        return IngestView(
            files=touched,
            unchanged=len(report.rows) - len(touched),
            passages=report.passages,
            elapsed_s=time.monotonic() - started_s,
            published=published,
            notes=(note,) if note else (),
        )

    async def _refresh(self, opened: OpenBase, say: ToldIngest) -> IngestView:
        """Take in what the owner of a base has published."""
        started_s, before = time.monotonic(), opened.base.stats().passages
        say(IngestProgress(0, 0, 0, "", "asking its hosts"))
        async with opened.work("a refresh"):
            changed = await self.service.refresh(opened)
        passages = max(0, opened.base.stats().passages - before)
        who = "other devices have" if opened.is_thin else "its owner has"
        note = f"what {who} published is here" if changed else f"{who} nothing newer"
        return IngestView((), 0, passages, time.monotonic() - started_s, True, (note,))

    async def _ingest(self, opened: OpenBase, options: IngestOptions, say: ToldIngest) -> Ingest:
        """Return what ingests into a base. Raises EmbedderMissing where its vectors cannot be made:
        passages without would hardly be found among the others.
        """
        spec = opened.base.spec
        excludes = options.excludes
        if spec is None:
            return Ingest(opened.base, None, self.service.loader, excludes=excludes)
        say(IngestProgress(0, 0, 0, "", f"loading {spec.model}"))
        embedder, why = await self.service.embedder_for(spec, _fetching(say))
        if embedder is None:
            raise EmbedderMissing(why)
        return Ingest(opened.base, embedder, self.service.loader, excludes=excludes)

    async def _publish(self, opened: OpenBase) -> tuple[bool, str]:
        """Publish; what was ingested is safe on this disk and at hosts even where that fails."""
        try:
            await opened.base.publish()
        except KwaaiError as error:
            return False, f"a new device does not see it yet: {error.message}"
        return True, ""

    def _is_upload(self, path: Path) -> bool:
        return path.is_relative_to(self.service.home.uploads)

    async def upload_path(self, base: str, name: str) -> str:
        """See KnowledgeControl."""
        self.service.find_own(base)
        plain = Path(name).name
        is_plain = plain == name and plain.isprintable() and not plain.startswith(".")
        if not plain or not is_plain or len(os.fsencode(plain)) > 200:
            raise UserError(f"{name!r:.80} is no file's name", param="file")
        folder = self.service.home.uploads / secrets.token_hex(8)  # two may have one name at once
        await asyncio.to_thread(folder.mkdir, DIRECTORY_MODE, True, True)
        return str(folder / plain)

    async def documents(self, base: str) -> tuple[DocumentRow, ...]:
        """See KnowledgeControl."""
        opened = self.service.find(base)
        documents, files = await asyncio.to_thread(
            lambda: (opened.base.documents(), opened.base.files())
        )
        rows = [
            DocumentRow(
                document.name,
                document.path,
                document.title,
                document.media_type,
                document.passages,
                document.size,
                float(document.created_s),
                "ok",
            )
            for document in documents
        ]
        rows += [
            DocumentRow(
                _file_name(path, state.root),
                path,
                "",
                "",
                0,
                state.size,
                0.0,
                "failed",
                state.reason,
            )
            for path, state in files.items()
            if state.state == "failed"
        ]
        return tuple(sorted(rows, key=lambda row: (row.name, row.path)))

    async def delete_document(self, base: str, name: str) -> int:
        """See KnowledgeControl."""
        opened = self.service.find_own(base)
        async with opened.work("a deletion"):
            try:
                gone = await opened.base.delete_document(name)
            except DocumentMissing:
                if await _forget_failed(opened, name):
                    return 0
                raise DocumentMissing(
                    f"{base} has no document {name!r:.200}{await _like(opened, name)}",
                    param="document",
                ) from None
            await self._publish(opened)
        return sum(document.passages for document in gone)

    # Search.

    async def search(self, base: str, text: str, count: int, *, explain: bool) -> SearchView:
        """See KnowledgeControl."""
        opened = self.service.find(base)
        opened.check_readable(self.service.readers.clock())
        started_s = time.perf_counter()
        embedder, why = await self.service.embedder_soon(opened.base.spec)
        vector = None
        if embedder is not None:
            try:
                vector = (await embedder.embed([text], "query"))[0]
            except KwaaiError as error:
                why = error.message
        embed_ms = (time.perf_counter() - started_s) * 1000
        if vector is None and why and opened.is_thin:
            raise EmbedderMissing(f"a thin client finds passages by vectors alone: {why}")
        answer = await opened.base.search(Query(text, vector, k=count))
        missing = opened.base.spec is not None and vector is None
        problems = [f"full-text search alone: {why}"] if missing else []
        if not (answer.hits or opened.is_thin or opened.base.stats().documents):
            problems.append(f"{base} has no documents yet; take some in: kwaainet rag ingest PATH")
        return SearchView(
            base=base,
            question=text,
            hits=tuple(self._hit(hit, number) for number, hit in enumerate(answer.hits, 1)),
            degraded=(*problems, *answer.degraded),
            explained=self._explained(answer, embed_ms) if explain else None,
        )

    async def find(self, base: str, text: str, count: int) -> SearchView:
        """Search for `KnowledgeAnswers`."""
        return await self.search(base, text, count, explain=False)

    def _hit(self, hit: Hit, number: int) -> HitRow:
        return HitRow(
            number=number,
            document=hit.document,
            path=hit.path,
            page=hit.page,
            heading=hit.heading,
            start=hit.start,
            stop=hit.stop,
            text=hit.text,
            score=hit.score,
            vector_rank=hit.vector_rank,
            similarity=hit.vector_score,
            text_rank=hit.text_rank,
            host=self._host_name(hit.host) if hit.host else "",
        )

    def _explained(self, answer: Answer, embed_ms: float) -> SearchExplained:
        told = answer.explain
        fetches = tuple(
            FetchRow(
                self._host_name(share.host),
                share.asked,
                share.payload_bytes,
                share.seconds * 1000,
                share.failure,
            )
            for share in told.hosts
        )
        stages = (("embed", embed_ms), *told.stages_ms.items())
        return SearchExplained(told.candidates, fetches, stages, told.payload_bytes)

    def _host_name(self, host: str) -> str:
        if host == HERE:
            return "this disk"
        return self.service.hosts.name_of(host) or host

    # All of it.

    async def export(self, base: str, path: str) -> ExportView:
        """See KnowledgeControl."""
        opened = self.service.find(base)
        opened.check_readable(self.service.readers.clock())
        target = Path(path)
        if os.path.lexists(target):
            raise UserError(f"{path} is there already; name a new file", param="path")
        count = missing = 0
        with _written(target), AtomicFile(target) as file:
            async for passages in opened.base.passages(limits.EXPORT_BATCH):
                missing += sum(int(str(p["missing"])) for p in passages if "missing" in p)
                whole = [passage for passage in passages if "missing" not in passage]
                lines = "".join(json.dumps(passage, ensure_ascii=False) + "\n" for passage in whole)
                await asyncio.to_thread(file.file.write, lines.encode(errors="surrogateescape"))
                count += len(whole)
        return ExportView(count, missing)

    async def destroy(self, base: str) -> tuple[str, ...]:
        """See KnowledgeControl."""
        opened = self.service.find(base)
        async with opened.work("its destruction"):
            away = await opened.base.destroy(
                everywhere=opened.shared is None and not opened.is_thin
            )
            await self.service.forget(opened)
            opened.is_gone = True
        if away:
            log.warning("base_left_at_hosts", base=opened.base.id.hex(), hosts=list(away))
        return tuple(self._host_name(host) for host in away)


def _fetching(say: ToldIngest) -> Fetching:
    """Return who hears how far an embedder's fetch is; called from any thread."""
    return lambda what, share: say(IngestProgress(0, 0, 0, "", f"{what}: {share:.0%}"))


@contextlib.contextmanager
def _written(path: Path) -> Iterator[None]:
    """Name the file that an error of the system is about. Raises UserError, DiskFull."""
    try:
        with disk_errors(path):
            yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}", param="path") from error


async def _forget_failed(opened: OpenBase, name: str) -> bool:
    """Forget files that failed and are listed by that name or path; say whether there were any."""
    files = await asyncio.to_thread(opened.base.files)
    named = [
        path
        for path, state in files.items()
        if not state.document and name in (path, _file_name(path, state.root))
    ]
    for path in named:
        await opened.base.remove_document(path)
    return bool(named)


def _file_name(path: str, root: str) -> str:
    """Return what the document of a file would be called: its path below what was asked for."""
    if not root or not is_below(path, root):
        return path.removeprefix("upload:")
    return str(PurePath(path).relative_to(PurePath(root).parent))


async def _like(opened: OpenBase, name: str) -> str:
    """Return which documents may be meant by a name that is none."""
    documents = await asyncio.to_thread(opened.base.documents)
    names = sorted({document.name for document in documents})
    near = [known for known in names if PurePath(known).name == PurePath(name).name]
    near = near or difflib.get_close_matches(name[:200], names[: limits.DOCUMENTS_SHOWN_MAX])
    if not near:
        return "; `kwaainet rag docs` lists them"
    return "; is it " + " or ".join(repr(n) for n in near[: limits.KNOWLEDGE_NAMES_SUGGESTED]) + "?"


def _progress(progress: Progress) -> IngestProgress:
    return IngestProgress(
        progress.files_done, progress.files_total, progress.passages, progress.path
    )


def _progress_note(report: Report, note: str) -> IngestProgress:
    return IngestProgress(len(report.rows), len(report.rows), report.passages, "", note)


def _file_row(row: Row) -> FileRow:
    return FileRow(row.path, row.state, row.passages, row.reason)
