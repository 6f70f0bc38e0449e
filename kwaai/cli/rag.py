"""`kwaainet rag`: knowledge bases, what is in them, and answers that cite them.

Asks the running node, which has them. docs/knowledge.md.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kwaai import limits
from kwaai.cli import rag_query, rag_share, rag_thin
from kwaai.cli.parser import Commands, Parser, UsageError, add_command, add_group, number
from kwaai.cli.rag_values import (
    DEFAULT_BASE,
    add_base,
    client_of,
    confirm,
    counted,
    follow,
    show_outcomes,
)

if TYPE_CHECKING:
    from kwaai.cli.control_knowledge import KnowledgeClient

Json = dict[str, Any]

_INIT_MORE = """\
A base is an encrypted index on this disk; with hosts (`kwaainet vpk discover`) its passages lie at
them, sealed. `oblivious` hides which passages are read too: it needs two hosts of different owners.

examples:
  kwaainet rag init
  kwaainet rag ingest ~/Documents
  kwaainet rag query "When does the lease end?"
"""
_INGEST_MORE = """\
Text, Markdown, reStructuredText, HTML, CSV, JSON, source code, PDF and DOCX are read; folders with
all that is below them. Files that have not changed are skipped, and a file that cannot be read does
not stop the others. What was interrupted goes on where it was.
"""
_DELETE_MORE = """\
The file stays where it is: `rag sync` and `rag ingest` take it in again, unless it is moved away or
left out with --exclude.
"""
_SYNC_MORE = """\
Reads anew what has changed below the paths that were ingested, and deletes what is gone there.
"""


def add_parser(commands: Commands) -> None:
    group = add_group(commands, "rag", help="knowledge bases, and answers that cite them")
    init = add_command(group, "init", _init, help="make a knowledge base", more=_INIT_MORE)
    init.add_argument(
        "base", metavar="NAME", nargs="?", default=DEFAULT_BASE, help="what to call it"
    )
    init.add_argument(
        "--mode",
        choices=("sealed", "oblivious"),
        default="sealed",
        help="what hosts may learn: which sealed records are read together, or nothing of that",
    )
    init.add_argument(
        "--fulltext-only", action="store_true", help="make no vectors: full-text search alone"
    )
    add_command(group, "list", _list, help="list knowledge bases")
    ingest = add_command(
        group, "ingest", _ingest, help="take files and folders in", more=_INGEST_MORE
    )
    ingest.add_argument("paths", metavar="PATH", nargs="+", help="a file, or a folder")
    add_base(ingest)
    _add_exclude(ingest)
    _add_sync(group)
    rag_query.add_parsers(group)
    docs = add_command(group, "docs", _docs, help="list the documents of a base")
    add_base(docs)
    delete = add_command(
        group, "delete-doc", _delete_document, help="delete a document", more=_DELETE_MORE
    )
    delete.add_argument("document", metavar="DOC", help="its name or path, as `rag docs` lists it")
    add_base(delete)
    export = add_command(
        group, "export", _export, help="write every passage with its source, as JSON lines"
    )
    export.add_argument("file", metavar="FILE", help="a new file")
    add_base(export)
    destroy = add_command(group, "destroy", _destroy, help="delete a base, here and at its hosts")
    destroy.add_argument("base", metavar="NAME", help="which one")
    destroy.add_argument("--yes", "-y", action="store_true", help="do not ask")
    rag_share.add_parsers(group)
    rag_thin.add_parsers(group)
    restore = add_command(
        group, "restore", _restore, help="bring back bases that hosts have, with this node's key"
    )
    restore.add_argument("base", metavar="NAME", nargs="?", default="", help="one; all if left out")
    restore.add_argument(
        "--thin",
        action="store_true",
        help="keep no index here: 3 MB at most, and questions fetch more (needs `rag thin` there)",
    )


def _add_sync(group: Commands) -> Parser:
    sync = add_command(
        group, "sync", _sync, help="take in what has changed, drop what is gone", more=_SYNC_MORE
    )
    sync.add_argument(
        "paths", metavar="PATH", nargs="*", help="only below these; what was ingested if left out"
    )
    add_base(sync)
    _add_exclude(sync)
    sync.add_argument(
        "--allow-empty",
        action="store_true",
        help="drop documents even where a folder is missing or has become empty",
    )
    sync.add_argument("--watch", action="store_true", help="do so again and again, until Ctrl-C")
    sync.add_argument(
        "--every", type=number, default=10.0, metavar="S", help="seconds in between (default: 10)"
    )
    return sync


def _add_exclude(parser: Parser) -> None:
    parser.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="PATTERN",
        help="leave out what matches, as in .gitignore; repeatable",
    )


def _init(arguments: argparse.Namespace) -> int:
    from kwaai.cli.output import note, one_line, print_json

    events = client_of(arguments).create(
        arguments.base, arguments.mode, fulltext_only=arguments.fulltext_only
    )
    row = follow(events, "making the base")["base"]
    if arguments.json:
        print_json(row)
        return 0
    found_by = row["embedder"] or "full-text search alone"
    name = shlex.quote(row["name"])
    which = "" if name == DEFAULT_BASE else f" --base {name}"
    print(f"made the base {row['name']} ({row['mode']}, {found_by}, {_where(row)})")
    print(f"take files in with: kwaainet rag ingest PATH{which}")
    if row["problem"]:
        note(one_line(f"note: {row['problem']}"))
    return 0


def _where(row: Json) -> str:
    hosts = [host for host in row["hosts"] if host["peer"] != "here"]
    return f"at {counted(len(hosts), 'host')}" if hosts else "on this disk alone"


def _list(arguments: argparse.Namespace) -> int:
    from kwaai.cli.output import note, one_line, print_json, print_table, show_bytes

    rows = client_of(arguments).bases()
    if arguments.json:
        print_json({"bases": rows})
        return 0
    if not rows:
        print("no knowledge base yet; make one with: kwaainet rag init")
        return 0
    numbers = ("Documents", "Passages", "On disk", "Hosts", "Owed")
    whose = ("Belongs to",) if any(row["shared"] for row in rows) else ()
    table = [
        (
            one_line(row["name"]),
            rag_thin.mode_of(row),
            row["embedder"] or "full text",
            "-" if rag_thin.mode_of(row) == "thin" else str(row["documents"]),
            str(row["passages"]),
            show_bytes(row["local_bytes"]),
            str(sum(host["peer"] != "here" for host in row["hosts"])),
            str(row["owed"]),
            *([one_line(rag_share.belongs_to(row))] if whose else []),
        )
        for row in rows
    ]
    print_table(("Name", "Mode", "Found by", *numbers, *whose), table, right=numbers)
    for row in rows:
        if row["problem"]:
            note(one_line(f"note: {row['name']}: {row['problem']}"))
    return 0


def _ingest(arguments: argparse.Namespace) -> int:
    paths = [_absolute(path) for path in arguments.paths]
    return _run_ingest(arguments, client_of(arguments), paths, sync=False)


def _sync(arguments: argparse.Namespace) -> int:
    if not limits.WATCH_S_MIN <= arguments.every <= limits.WATCH_S_MAX:
        raise UsageError(
            f"--every is {limits.WATCH_S_MIN:g} to {limits.WATCH_S_MAX:g} seconds, not "
            f"{arguments.every:g}"
        )
    from kwaai.cli.output import note
    from kwaai.errors import NodeNotRunning, ResourceError

    paths = [_absolute(path, must_exist=False) for path in arguments.paths]
    client = client_of(arguments)
    code = _run_ingest(arguments, client, paths, sync=True)
    while arguments.watch:
        time.sleep(arguments.every)
        try:
            _run_ingest(arguments, client, paths, sync=True, retry_failed=False)
        except (
            NodeNotRunning,
            ResourceError,
        ) as error:  # the node restarts, or a disk is full: it may be over later
            note(f"note: {error.message}")
    return code


def _absolute(path: str, *, must_exist: bool = True) -> str:
    """Return a path as the node, in another directory, understands it."""
    from kwaai.errors import InputMissing

    absolute = Path(path).expanduser().absolute()
    if must_exist and not os.path.lexists(absolute):
        raise InputMissing(f"there is no file or folder {path}")
    return str(absolute)


def _run_ingest(
    arguments: argparse.Namespace,
    client: KnowledgeClient,
    paths: list[str],
    *,
    sync: bool,
    retry_failed: bool = True,
) -> int:
    from kwaai.cli.output import note, print_json

    options = {
        "sync": sync,
        "retry_failed": retry_failed,
        "allow_empty": sync and arguments.allow_empty,
        "excludes": arguments.exclude,
    }
    try:
        done = follow(client.ingest(arguments.base, paths, options), "looking at files")
    except KeyboardInterrupt:
        note("stopped; what was taken in stays, and the same command goes on from there")
        raise
    if arguments.json:
        print_json({key: value for key, value in done.items() if key != "event"})
    elif retry_failed or done["counts"].keys() - {"skipped"}:  # else: watching, and nothing is new
        show_outcomes(done, arguments.base)
    sys.stdout.flush()
    return 1 if any(row["outcome"] == "failed" for row in done["files"]) else 0


def _docs(arguments: argparse.Namespace) -> int:
    from kwaai.cli.output import note, one_line, print_json, print_table, show_bytes

    answer = client_of(arguments).documents(arguments.base)
    if arguments.json:
        print_json(answer)
        return 0
    if not answer["documents"]:
        print(f"no documents in {arguments.base} yet; take some in: kwaainet rag ingest PATH")
        return 0
    numbers = ("Passages", "Size")
    table = [
        (
            one_line(row["name"]),
            row["media_type"] or "-",
            str(row["passages"]),
            show_bytes(row["size_bytes"]),
            one_line(f"{row['state']}: {row['reason']}" if row["reason"] else row["state"]),
            one_line(row["path"]),
        )
        for row in answer["documents"]
    ]
    print_table(("Document", "Type", *numbers, "State", "Path"), table, right=numbers)
    if answer["left_out"]:
        note(f"{answer['left_out']} more are left out")
    return 0


def _delete_document(arguments: argparse.Namespace) -> int:
    from kwaai.cli.output import Spinner, one_line, print_json

    with Spinner("deleting"):
        passages = client_of(arguments).delete_document(arguments.base, arguments.document)
    if arguments.json:
        print_json({"document": arguments.document, "passages": passages})
    else:
        print(one_line(f"deleted {arguments.document}: {counted(passages, 'passage')}"))
    return 0


def _export(arguments: argparse.Namespace) -> int:
    from kwaai.cli.output import Spinner, note, print_json

    path = Path(arguments.file).expanduser().absolute()
    if os.path.lexists(path):
        raise UsageError(f"{arguments.file} is there already; name a new file")
    with Spinner("reading every passage"):
        done = client_of(arguments).export(arguments.base, str(path))
    if arguments.json:
        print_json({"file": str(path), **done})
    else:
        print(f"wrote {counted(done['passages'], 'passage')} to {arguments.file}")
    if done["missing"]:
        note(f"note: {counted(done['missing'], 'passage')} could not be had from any host")
    return 1 if done["missing"] else 0


def _destroy(arguments: argparse.Namespace) -> int:
    from kwaai.cli.output import Spinner, note, one_line, print_json

    client = client_of(arguments)
    if not arguments.yes:
        row = next((row for row in client.bases() if row["name"] == arguments.base), None)
        kept = row is not None and rag_thin.is_kept_elsewhere(row)
        where = "here (its hosts keep it)" if kept else "here and at its hosts"
        confirm(f"Delete the base {arguments.base}, {where}?")
    with Spinner("deleting"):
        left_at = client.destroy(arguments.base)
    if arguments.json:
        print_json({"base": arguments.base, "destroyed": True, "left_at": left_at})
        return 0
    print(f"deleted the base {arguments.base}")
    if left_at:
        hosts = one_line(", ".join(left_at))
        note(f"note: not reached, so that they keep their sealed copies: {hosts}")
    return 0


def _restore(arguments: argparse.Namespace) -> int:
    from kwaai.cli.output import Spinner, one_line, print_json

    with Spinner("asking hosts"):
        rows = client_of(arguments).restore(arguments.base, thin=arguments.thin)
    if arguments.json:
        print_json({"bases": rows})
        return 0
    for row in rows:
        print(one_line(rag_thin.restored(row)))
    if not rows:
        print("no host that was reached has a base of this key that is not here already")
    return 0
