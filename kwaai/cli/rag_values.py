"""What the commands about knowledge share: whom they ask, the base option, files and what came of
them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from kwaai.cli.parser import Parser, UsageError

if TYPE_CHECKING:
    from kwaai.cli.control_knowledge import KnowledgeClient

Json = dict[str, Any]

DEFAULT_BASE = "default"
_OUTCOMES = ("new", "changed", "removed", "unchanged", "skipped", "failed")
_FILES_LISTED = 20
_FAILURES_LISTED = 200
_CELL_CHARS = 80
_BAR_COLUMNS = 40
_COUNT_COLUMNS = 16
"""Of a terminal, beside the bar: `1000/1000`, and what is between."""
_TEXT_COLUMNS_MIN = 12


def add_base(parser: Parser) -> None:
    """Add the option that says which base is meant."""
    parser.add_argument(
        "--base",
        "--kb",
        metavar="NAME",
        default=DEFAULT_BASE,
        help="a base of `kwaainet rag list` (default: default)",
    )


def client_of(arguments: argparse.Namespace) -> KnowledgeClient:
    """Return who asks the running node."""
    from kwaai.cli.control_knowledge import KnowledgeClient
    from kwaai.cli.session import load_settings

    home, _ = load_settings(arguments)
    return KnowledgeClient(home)


def confirm(question: str) -> None:
    """Ask at the terminal; raise UsageError unless the answer is yes."""
    from kwaai.cli.output import is_terminal

    if not is_terminal(sys.stdin):
        raise UsageError(f"{question} Say so with --yes.")
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise UsageError("nothing is deleted")


def cell(text: str) -> str:
    """Return what a table has room for of a sentence that somebody else may have written."""
    from kwaai.cli.output import one_line

    line = one_line(text)
    return line if len(line) <= _CELL_CHARS else f"{line[: _CELL_CHARS - 1]}\N{HORIZONTAL ELLIPSIS}"


def counted(count: int, thing: str) -> str:
    """Return `1 passage`, `2 passages`."""
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def follow(events: Iterator[Json], begin: str) -> Json:
    """Show progress until the last event, and return that. `begin`: what is said first."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    from kwaai.cli.output import is_terminal, one_line

    console = Console(stderr=True)
    bar_columns = min(_BAR_COLUMNS, console.width // 4)
    room = max(_TEXT_COLUMNS_MIN, console.width - bar_columns - _COUNT_COLUMNS)
    columns = (
        BarColumn(bar_columns),
        TextColumn("{task.fields[count]}", markup=False),
        TextColumn("{task.description}", markup=False),
    )
    last: Json = {}
    with Progress(
        *columns, console=console, disable=not is_terminal(sys.stderr), transient=True
    ) as bar:
        task = bar.add_task(begin[:room], total=None, count="")
        for event in events:
            last = event
            if event["event"] != "progress":
                continue
            text = event["note"] or PurePath(event["path"]).name
            if event["files"]:
                text = f"{counted(event['passages'], 'passage')}  {text}"
            bar.update(
                task,
                total=event["files"] or None,
                completed=event["files_done"],
                description=one_line(text)[:room],
                count=f"{event['files_done']}/{event['files']}" if event["files"] else "",
            )
    return last


def show_outcomes(done: Json, base: str) -> None:
    """Print what came of an ingest: the files that were touched, or of many only those that want a
    look; then one line.
    """
    from kwaai.cli.output import note, one_line, print_table, show_duration

    files = done["files"]
    if len(files) > _FILES_LISTED:
        files = [row for row in files if row["reason"] and row["outcome"] != "skipped"]
    rows = [
        (row["outcome"], str(row["passages"]), one_line(row["path"]), one_line(row["reason"]))
        for row in files
    ]
    if rows:
        shown = rows[:_FAILURES_LISTED]
        print_table(("File is", "Passages", "Path", "Why"), shown, right=("Passages",))
    counts = {**done["counts"], "unchanged": done["unchanged"]}
    said = ", ".join(f"{counts[name]} {name}" for name in _OUTCOMES if counts.get(name))
    if len(rows) > _FAILURES_LISTED:
        note(
            f"note: {len(rows) - _FAILURES_LISTED} more are left out of this table; --json has them"
        )
    if said:
        took = show_duration(done["elapsed_s"])
        print(f"files: {said}; {counted(done['passages'], 'passage')} in {took}")
    elif not done["notes"]:
        print(f"no file to take in was found; kwaainet rag docs --base {base} lists what is there")
    for text in done["notes"]:
        note(one_line(f"note: {text}"))


def cited(hit: Json) -> str:
    """Return where a passage is from: `lease.pdf, page 3, Terms > End`."""
    parts = [hit["document"]]
    if hit["page"] is not None:
        parts.append(f"page {hit['page']}")
    if hit["heading"]:
        parts.append(" > ".join(hit["heading"]))
    return ", ".join(parts)
