"""One run of ingest: which files are read, what of them is embedded, in which order it is kept."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from kwaai.errors import DocumentInvalid, ResourceError, UserError
from kwaai.limits import (
    DOCUMENT_BYTES_MAX,
    DOCUMENT_SNIFF_BYTES,
    INGEST_AHEAD_FILES,
    INGEST_BATCH_PASSAGES,
    INGEST_FRESH_S,
    MIB,
)
from kwaai.vpk.documents.chunk import chunk, embedded_text
from kwaai.vpk.documents.document import Document
from kwaai.vpk.documents.kinds import is_document
from kwaai.vpk.documents.loader import Loader, open_regular
from kwaai.vpk.documents.text import is_binary
from kwaai.vpk.folder import Found, FoundFile
from kwaai.vpk.ingest_types import (
    BaseWriter,
    FileState,
    NewDocument,
    OnProgress,
    Progress,
    Report,
    Row,
    RowState,
)
from kwaai.vpk.types import Embedder, Passage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(slots=True)
class _Prepared:
    """A file's passages, on their way to the embedder."""

    file: FoundFile
    older: FileState | None
    document: NewDocument
    passages: list[Passage]
    problems: str


class Run:
    """One run: files are read and cut ahead (`_prepare`) of those that are embedded and stored."""

    def __init__(
        self,
        base: BaseWriter,
        embedder: Embedder | None,
        clock_ns: Callable[[], int],
        found: Found,
        on_progress: OnProgress | None,
    ) -> None:
        self._base, self._embedder, self._clock_ns = base, embedder, clock_ns
        self._found, self._on_progress = found, on_progress
        self._rows: dict[str, Row] = {}
        self._removed: list[Row] = []
        self._kept: dict[str, str] = {}
        self._ready: asyncio.Queue[_Prepared | None] = asyncio.Queue(INGEST_AHEAD_FILES)
        self._started = time.monotonic()
        self._bytes_total = sum(file.size for file in found.files)
        self._bytes_done = self._passages = self._done = 0

    def finish(self) -> Report:
        """Return what became of each path."""
        files = [self._rows[file.key] for file in self._found.files if file.key in self._rows]
        skipped = [Row(path, path, "skipped", why) for path, why in self._found.skipped]
        failed = [*self._found.unread, *self._kept.items(), *self._missing()]
        lost = [Row(path, path, "failed", why) for path, why in failed]
        seconds = time.monotonic() - self._started
        return Report([*files, *skipped, *lost, *self._removed], seconds)

    def _missing(self) -> Sequence[tuple[str, str]]:
        settled = [*self._kept, *(row.path for row in self._removed)]
        return [
            (root, "there is no such file or folder")
            for root in self._found.missing
            if not any(is_below(path, root) for path in settled)
        ]

    async def ingest(
        self, loader: Loader, states: Mapping[str, FileState], retry_failed: bool
    ) -> None:
        """Bring in every file that was found."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._prepare_all(loader, states, retry_failed))
                await self._store_all()
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None

    async def remove(self, states: Mapping[str, FileState], allow_empty: bool) -> None:
        """Remove the files of the roots that are no longer there."""
        present = {file.key for file in self._found.files}
        removed: set[str] = set()
        unread = [path for path, _ in self._found.unread]
        for root in self._found.roots:
            gone = [
                key
                for key in sorted(states)
                if is_below(key, root)
                and key not in present
                and key not in removed
                and not any(is_below(key, path) for path in unread)
            ]
            is_empty = not any(is_below(key, root) for key in present)
            if gone and gone != [root] and is_empty and not allow_empty:
                self._kept[root] = (
                    f"no file is there any more, and {len(gone)} were: nothing is removed, in case "
                    "a disk is not mounted; to remove them, sync with --allow-empty"
                )
                continue
            for key in gone:
                await self._base.remove_document(key)
                removed.add(key)
                self._removed.append(Row(key, states[key].document or key, "removed"))

    # Reading.

    async def _prepare_all(
        self, loader: Loader, states: Mapping[str, FileState], retry_failed: bool
    ) -> None:
        for file in self._found.files:
            self._tell(file.key)
            state = states.get(file.key)
            try:
                prepared = await self._prepare(loader, file, state, retry_failed)
            except (DocumentInvalid, OSError) as error:
                reason = error.strerror or str(error) if isinstance(error, OSError) else str(error)
                self._fail(file, state, reason)
                continue
            if prepared is not None:
                await self._ready.put(prepared)
        await self._ready.put(None)

    async def _prepare(
        self, loader: Loader, file: FoundFile, state: FileState | None, retry_failed: bool
    ) -> _Prepared | None:
        """Read and cut a file; None for one that need not be, or shall not."""
        known = state if state and (state.state == "ok" or not retry_failed) else None
        if known and file.mtime_ns and (known.size, known.mtime_ns) == (file.size, file.mtime_ns):
            self._settle(file, "unchanged", known.reason, known.passages)
            return None
        if not (file.size or file.is_named or state):
            self._settle(file, "skipped", "an empty file")
            return None
        digest = await asyncio.to_thread(_read_digest, file.path, file.is_named or state)
        if digest is None:
            self._settle(file, "skipped", "a binary file")
            return None
        mtime_ns = self._proving_mtime(file)
        if known and known.sha256 == digest:
            self._base.note_file(replace(known, size=file.size, mtime_ns=mtime_ns, root=file.root))
            self._settle(file, "unchanged", known.reason, known.passages)
            return None
        document = await loader.load(file.path, file.name)
        passages = await asyncio.to_thread(self._cut, document)
        if not passages:
            raise DocumentInvalid("it has no text in it")
        mtime_ns = mtime_ns if await asyncio.to_thread(_is_as_found, file) else 0
        new = NewDocument(
            name=file.name,
            path=file.key,
            sha256=digest,
            size=file.size,
            mtime_ns=mtime_ns,
            media_type=document.media_type,
            title=document.title,
            root=file.root,
        )
        return _Prepared(file, state, new, passages, "; ".join(document.problems))

    def _cut(self, document: Document) -> list[Passage]:
        return chunk(document, self._embedder.count_tokens if self._embedder else None)

    def _proving_mtime(self, file: FoundFile) -> int:
        """Return the time that a file was written, or 0 where it may still be written to without
        another one.
        """
        is_fresh = abs(self._clock_ns() - file.mtime_ns) < INGEST_FRESH_S * 1e9
        return 0 if is_fresh else file.mtime_ns

    # Embedding and storing.

    async def _store_all(self) -> None:
        batch: list[_Prepared] = []
        while (prepared := await self._ready.get()) is not None:
            batch.append(prepared)
            if self._embedder is None or _passages_of(batch) >= INGEST_BATCH_PASSAGES:
                await self._store(batch)
                batch = []
        await self._store(batch)

    async def _store(self, batch: list[_Prepared]) -> None:
        """Embed and store some files; each by itself where they do not all go together."""
        if not batch:
            return
        before = self._passages
        try:
            vectors = await self._embed(batch)
        except UserError as error:
            self._passages = before
            if len(batch) > 1:
                for prepared in batch:
                    await self._store([prepared])
                return
            self._fail(batch[0].file, batch[0].older, error.message)
            return
        start = 0
        for prepared in batch:
            stop = start + len(prepared.passages)
            own = None if vectors is None else vectors[start:stop]
            await self._base.add_document(prepared.document, prepared.passages, own)
            is_new = prepared.older is None or not prepared.older.document
            count = len(prepared.passages)
            self._settle(prepared.file, "new" if is_new else "changed", prepared.problems, count)
            start = stop

    async def _embed(self, batch: list[_Prepared]) -> NDArray[np.float32] | None:
        if self._embedder is None:
            self._passages += _passages_of(batch)
            return None
        import numpy as np

        texts = [embedded_text(passage) for item in batch for passage in item.passages]
        dimension = self._embedder.spec.dimension
        vectors = np.empty((len(texts), dimension), np.float32)
        for start in range(0, len(texts), INGEST_BATCH_PASSAGES):
            part = texts[start : start + INGEST_BATCH_PASSAGES]
            made = await self._embedder.embed(part, "passage")
            if made.shape != (len(part), dimension) or not np.isfinite(made).all():
                raise ResourceError(
                    f"the embedder answered {made.shape} for {len(part)} texts of dimension "
                    f"{dimension}, or numbers that are none: choose another one"
                )
            vectors[start : start + len(part)] = made
            self._passages += len(part)
            self._tell(batch[-1].document.path)
        return vectors

    # Rows.

    def _fail(self, file: FoundFile, state: FileState | None, reason: str) -> None:
        self._base.note_file(
            FileState(
                path=file.key,
                size=file.size,
                mtime_ns=self._proving_mtime(file),
                sha256="",
                state="failed",
                reason=reason,
                document=state.document if state else "",
                passages=state.passages if state else 0,
                root=file.root,
            )
        )
        if state and state.document:
            reason += "; what it held before is still found"
        self._settle(file, "failed", reason)

    def _settle(
        self, file: FoundFile, state: RowState, reason: str = "", passages: int = 0
    ) -> None:
        self._rows[file.key] = Row(file.key, file.name, state, reason, passages)
        self._done += 1
        self._bytes_done += file.size
        self._tell(file.key)

    def _tell(self, path: str) -> None:
        if self._on_progress is not None:
            self._on_progress(
                Progress(
                    len(self._found.files),
                    self._done,
                    self._bytes_total,
                    self._bytes_done,
                    self._passages,
                    path,
                    time.monotonic() - self._started,
                )
            )


def is_below(key: str, root: str) -> bool:
    """Say whether a path is a root, or below it."""
    return key == root or key.startswith(root.rstrip("/") + "/")


def _passages_of(batch: Sequence[_Prepared]) -> int:
    return sum(len(prepared.passages) for prepared in batch)


def _read_digest(path: Path, is_wanted: object) -> str | None:
    """Return a file's SHA-256; None for a binary one that is no document and nobody named."""
    descriptor, _ = open_regular(path)
    digest = hashlib.sha256()
    nbytes = 0
    with os.fdopen(descriptor, "rb") as file:
        head = file.read(DOCUMENT_SNIFF_BYTES) or b""  # None: a file of the kernel's that waits
        if not is_wanted and is_binary(head) and not is_document(path.name, head):
            return None
        digest.update(head)
        while piece := file.read(MIB):
            digest.update(piece)
            nbytes += len(piece)
            if nbytes > DOCUMENT_BYTES_MAX:  # the kernel has files of no size and no end
                raise DocumentInvalid("it grows while it is read, or has no end")
    return digest.hexdigest()


def _is_as_found(file: FoundFile) -> bool:
    try:
        status = file.path.stat()
    except OSError:
        return False
    return (status.st_size, status.st_mtime_ns) == (file.size, file.mtime_ns)
