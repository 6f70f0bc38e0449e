"""How commands print: JSON, tables, notes, progress. Plain text wherever there is no terminal.

Imports rich only for a terminal, and only when something is drawn. Decides nothing about content.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import IO, TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

    from kwaai.models.progress import Progress, Report

SPINNER_AFTER_S = 1.0


def print_json(value: object) -> None:
    """Print one JSON document to standard output, keys sorted."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    sys.stdout.write(text + "\n")


def one_line(text: str) -> str:
    """Return `text` as one line without control characters: it may quote what strangers wrote."""
    return "".join(c if c.isprintable() else " " for c in text.strip())


def safe_for_terminal(text: str) -> str:
    """Return a model's text without the control characters that would drive a terminal."""
    return "".join(
        c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text
    )


def is_terminal(stream: IO[str]) -> bool:
    return stream.isatty() and os.environ.get("TERM", "") != "dumb"


def note(text: str) -> None:
    """Say something that is not the result: to standard error."""
    print(text, file=sys.stderr)


def print_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: Sequence[str] = (),
    ids: Sequence[str] = (),
    stream: TextIO | None = None,
) -> None:
    """Print rows under headings; the columns named in `right` are aligned to the right. Those in
    `ids` hold peer ids, shortened on a terminal that is too narrow for them.
    """
    stream = sys.stdout if stream is None else stream
    if is_terminal(stream):
        from kwaai.cli.table import print_on_terminal

        print_on_terminal(columns, rows, right, ids, stream)
        return
    table = [list(columns), *(list(row) for row in rows)]
    widths = [max(len(row[i]) for row in table) for i in range(len(columns))]
    for row in table:
        cells = (
            cell.rjust(width) if name in right else cell.ljust(width)
            for cell, width, name in zip(row, widths, columns, strict=True)
        )
        stream.write("  ".join(cells).rstrip() + "\n")


def print_pairs(pairs: Sequence[tuple[str, str]], *, stream: TextIO | None = None) -> None:
    """Print `Name:  value` lines, aligned."""
    stream = sys.stdout if stream is None else stream
    width = max((len(name) for name, _ in pairs), default=0) + 1
    for name, value in pairs:
        stream.write(f"{name + ':':<{width}}  {value}\n")


def show_bytes(count: float) -> str:
    """Return a size the way people say it: `523.1 MB` (powers of ten)."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def show_duration(seconds: float) -> str:
    """Return `42 s`, `3 min 05 s` or `2 h 10 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


class Spinner:
    """Says on a terminal's standard error what is going on, once it has taken a second.

    Without a terminal it is silent, or writes a line for each step (`plain`). `update` may be
    called from any thread.
    """

    def __init__(self, text: str, *, plain: bool = False) -> None:
        self._text = text
        self._is_plain = plain
        self._lock = threading.Lock()
        self._stop: contextlib.ExitStack | None = None
        self._timer = threading.Timer(SPINNER_AFTER_S, self._show)
        self._timer.daemon = True

    def update(self, text: str) -> None:
        with self._lock:
            is_new, self._text = text != self._text, text
            if self._stop is not None:
                self._status.update(self._escaped())
            elif self._is_plain and is_new and not is_terminal(sys.stderr):
                note(one_line(text))

    def __enter__(self) -> Spinner:
        if is_terminal(sys.stderr):
            self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def note(self, text: str) -> None:
        """Say something that stays, above the spinner."""
        with self._lock:
            if self._stop is not None:
                self._status.console.print(text, markup=False, highlight=False, soft_wrap=True)
            else:
                note(text)

    def stop(self) -> None:
        """End it for good; the line it stood on is clear again."""
        self._timer.cancel()
        with self._lock:
            self._text = ""
            if self._stop is not None:
                self._stop.close()
                self._stop = None

    def _show(self) -> None:
        with self._lock:
            if not self._text:
                return
            from rich.console import Console

            self._stop = contextlib.ExitStack()
            self._status = self._stop.enter_context(Console(stderr=True).status(self._escaped()))

    def _escaped(self) -> str:
        from rich.markup import escape

        return escape(one_line(self._text))


@contextlib.contextmanager
def download_report() -> Iterator[Report]:
    """Give a callback for downloads: a bar with speed and time left, or a line for each phase.

    The callback may be called from any one thread at a time.
    """
    if not is_terminal(sys.stderr):
        yield _plain_report()
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.table import Column

    # A narrow terminal costs the bar and the name, never the numbers.
    name, numbers = Column(no_wrap=True, overflow="ellipsis", ratio=1), Column(no_wrap=True)
    columns = (
        TextColumn("{task.description}", markup=False, table_column=name),
        BarColumn(),
        DownloadColumn(table_column=numbers),
        TransferSpeedColumn(table_column=numbers.copy()),
        TimeRemainingColumn(table_column=numbers.copy()),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        yield _bar_report(bar)


def _bar_report(bar: Bar) -> Report:
    tasks: dict[str, TaskID] = {}  # one bar for each file; a phase begins it again
    phases: dict[str, str] = {}

    def report(progress: Progress) -> None:
        what, phase = progress.what, progress.phase
        if phase == "done":
            return
        label = one_line(f"{phase} {what}")
        total, done = progress.total_bytes or None, progress.done_bytes
        if what not in tasks:
            tasks[what] = bar.add_task(label, total=total, completed=done)
        elif phases[what] != phase:
            bar.reset(tasks[what], total=total, completed=done, description=label)
        else:
            bar.update(tasks[what], total=total, completed=done)
        phases[what] = phase

    return report


def _plain_report() -> Report:
    said: set[tuple[str, str]] = set()

    def report(progress: Progress) -> None:
        name = (progress.phase, progress.what)
        if name in said or progress.phase == "done":
            return
        said.add(name)
        size = f" ({show_bytes(progress.total_bytes)})" if progress.total_bytes else ""
        note(one_line(f"{progress.phase} {progress.what}{size}"))

    return report
