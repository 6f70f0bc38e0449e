"""Ingest: files and folders into a knowledge base, file by file, resumable.

A file that cannot be read never stops the rest; what is unchanged is not read again; a file's
passages are in the base, whole and durable, or not at all. Walking is `folder`'s business, text
`documents`', storing the base's (`BaseWriter`), one run's steps `ingest_run`'s. docs/knowledge.md.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path

from kwaai.limits import WATCH_POLL_S, WATCH_POLL_S_MIN
from kwaai.vpk.documents.loader import Loader
from kwaai.vpk.excludes import Excludes
from kwaai.vpk.folder import Found, FoundFile, walk
from kwaai.vpk.ingest_run import Run
from kwaai.vpk.ingest_types import (
    BaseWriter,
    FileState,
    NewDocument,
    OnProgress,
    Progress,
    Report,
    Row,
    RowState,
    StateName,
)
from kwaai.vpk.types import Embedder

__all__ = [
    "BaseWriter",
    "FileState",
    "Ingest",
    "NewDocument",
    "OnProgress",
    "Progress",
    "Report",
    "Row",
    "RowState",
    "StateName",
]


class Ingest:
    """Brings files into one base. Runs take turns."""

    def __init__(
        self,
        base: BaseWriter,
        embedder: Embedder | None,
        loader: Loader,
        *,
        excludes: Iterable[str] = (),
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """`embedder`: None for full text alone. `excludes`: as `Excludes`."""
        self._base, self._embedder, self._loader = base, embedder, loader
        self._excludes = Excludes(excludes)
        self._clock_ns = clock_ns
        self._turn = asyncio.Lock()

    async def run(
        self,
        paths: Sequence[Path],
        *,
        sync: bool = False,
        retry_failed: bool = True,
        allow_empty: bool = False,
        on_progress: OnProgress | None = None,
    ) -> Report:
        """Ingest files and folders; with `sync`, also remove what is no longer there.

        `sync` without paths takes those of earlier runs. A folder that is missing or has become
        empty (a disk that is not mounted) loses nothing, unless `allow_empty`. `retry_failed`: read
        unchanged files again that failed before.

        Raises UserError for too many files; whatever the base or the embedder raises that is not
        about one file: what was stored until then stays, and the next run goes on from there.
        """
        async with self._turn:
            states = self._base.files()
            if sync and not paths:
                paths = [Path(root) for root in sorted({s.root for s in states.values()} - {""})]
            found = await asyncio.to_thread(walk, paths, self._excludes)
            run = Run(self._base, self._embedder, self._clock_ns, found, on_progress)
            await run.ingest(self._loader, states, retry_failed)
            if sync:
                await run.remove(states, allow_empty)
            return run.finish()

    async def add_file(self, path: Path, name: str) -> Row:
        """Ingest one file that is not the user's own folder's: an upload. It replaces an older
        upload of that name; `sync` leaves it alone.
        """
        async with self._turn:
            key = f"upload:{name}"
            status = await asyncio.to_thread(os.stat, path)
            file = FoundFile(path, key, name, status.st_size, 0, "", True)
            run = Run(self._base, self._embedder, self._clock_ns, Found([file]), None)
            await run.ingest(self._loader, self._base.files(), True)
            return run.finish().rows[0]

    async def watch(
        self,
        paths: Sequence[Path],
        on_report: Callable[[Report], None],
        *,
        poll_s: float = WATCH_POLL_S,
        on_progress: OnProgress | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Sync again and again, until cancelled; `on_report` hears of runs that changed anything,
        and of the first.
        """
        is_first = True
        while True:
            report = await self.run(
                paths, sync=True, retry_failed=is_first, on_progress=on_progress
            )
            if is_first or report.counts().keys() - {"unchanged", "skipped"}:
                on_report(report)
            is_first = False
            await sleep(max(poll_s, WATCH_POLL_S_MIN))
