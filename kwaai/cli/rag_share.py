"""`kwaainet rag share` and `rag attach`: letting another node read a base, and reading one.

Asks the running node. docs/vpk.md, "Readers".
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from kwaai import limits
from kwaai.cli.parser import Commands, UsageError, add_command, positive_number
from kwaai.cli.rag_values import client_of

Json = dict[str, Any]

_PREFIX = "vpkshare1-"
_SHARE_MORE = """\
The token is for that node alone: its key opens it. The reader sees everything in the base until the
date, and what it has read it keeps; it can change nothing. A token that was given cannot be taken
back earlier.

example:
  kwaainet rag share contracts --to anna --days 7
"""
_ATTACH_MORE = """\
The base is fetched from its hosts into an encrypted index on this disk, and then queried like an
own one. `rag sync --base NAME` takes in what its owner has added; `rag destroy NAME` forgets it,
here only. A newer token of the same base takes the place of the older one.
"""


def add_parsers(group: Commands) -> None:
    """Add the commands."""
    share = add_command(
        group, "share", _share, help="let another node read a base", more=_SHARE_MORE
    )
    share.add_argument("base", metavar="NAME", help="which base")
    share.add_argument(
        "--to", metavar="PEER", required=True, help="the reader: a PeerId, or a known peer's name"
    )
    share.add_argument(
        "--days",
        type=positive_number(limits.SHARE_DAYS_MAX),
        default=30.0,
        metavar="N",
        help="for how long (default: 30)",
    )
    attach = add_command(
        group, "attach", _attach, help="read a base that somebody shares", more=_ATTACH_MORE
    )
    attach.add_argument(
        "token", metavar="TOKEN", help="the token, a file with it, or - for standard input"
    )
    attach.add_argument(
        "--as", dest="name", metavar="NAME", default="", help="what to call it (default: its name)"
    )


def belongs_to(row: Json) -> str:
    """Return whose a base is, and until when it can be read: `anna, until 2026-12-24 18:00`."""
    shared = row["shared"]
    if shared is None:
        return "this node"
    who = shared["name"] or shared["owner"] or shared["tenant"]
    return f"{who}, until {_date(shared['until_s'])}"


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(seconds)) + " UTC"


def _share(arguments: argparse.Namespace) -> int:
    from kwaai.cli.output import note, print_json

    token = client_of(arguments).share(arguments.base, arguments.to, arguments.days)
    if arguments.json:
        print_json({"token": token})
        return 0
    print(token)
    note(f"it opens at {arguments.to} only, there: kwaainet rag attach TOKEN")
    return 0


def _attach(arguments: argparse.Namespace) -> int:
    from kwaai.cli.output import Spinner, one_line, print_json

    token = _token(arguments.token)
    with Spinner("fetching the base from its hosts"):
        row = client_of(arguments).attach(token, arguments.name)
    if arguments.json:
        print_json(row)
        return 0
    counts = f"{row['documents']} documents, {row['passages']} passages"
    print(one_line(f"attached {row['name']}: {counts}; it belongs to {belongs_to(row)}"))
    print(one_line(f"ask it with: kwaainet rag query --base {row['name']} QUESTION"))
    return 0


def _token(text: str) -> str:
    """Return the token that is given, or that a file or standard input holds."""
    from kwaai.errors import InputMissing

    most = limits.SHARE_TOKEN_CHARS_MAX
    if text.startswith(_PREFIX):
        data = text.encode()
    elif text == "-":
        data = sys.stdin.buffer.read(most + 1)
    else:
        try:
            with open(text, "rb") as file:
                data = file.read(most + 1)
        except OSError as error:
            raise InputMissing(
                f"cannot read {text:.80}: {error.strerror}; a token begins with {_PREFIX}"
            ) from None
    token = b"".join(data.split()).decode("ascii", errors="replace")
    if not token.startswith(_PREFIX) or len(token) > most:
        raise UsageError(f"a token is one text that begins with {_PREFIX}; give all of it")
    return token
