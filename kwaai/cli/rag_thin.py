"""`kwaainet rag thin`: cells of a base, with which thin clients ask it; and how a base is shown
that has them, or is a thin client's copy.

Asks the running node. docs/knowledge.md, "Thin clients".
"""

from __future__ import annotations

import argparse
from typing import Any

from kwaai.cli.parser import Commands, add_command
from kwaai.cli.rag_values import client_of

Json = dict[str, Any]

_THIN_MORE = """\
Another device with the same key then asks the base without fetching its index: `kwaainet rag
restore NAME --thin`. Hosts get about a third more to keep, and making cells reads every vector back
once. The node makes them again when a tenth of the base has changed. Hosts see which cells are read
together, as they do of records.
"""


def add_parsers(group: Commands) -> None:
    """Add the command."""
    thin = add_command(
        group, "thin", _thin, help="let devices ask a base without its index", more=_THIN_MORE
    )
    thin.add_argument("base", metavar="NAME", nargs="?", default="default", help="which base")
    thin.add_argument("--off", action="store_true", help="delete the cells again")


def mode_of(row: Json) -> str:
    """Return how a base is kept: `sealed`, `sealed, cells` or `thin`."""
    thin = row["thin"]
    if thin is None:
        return str(row["mode"])
    return "thin" if thin["client"] else f"{row['mode']}, cells"


def described(row: Json) -> str:
    """Return what thin clients have of a base; empty: nothing."""
    from kwaai.cli.output import show_bytes

    thin = row["thin"]
    if thin is None:
        return ""
    cells = f"{thin['cells']} cells of {thin['passages']} passages"
    kept = show_bytes(thin["client_bytes"])
    if thin["client"]:
        return f"a thin client's copy: {kept} here, {cells} at its hosts"
    return f"thin clients: {cells}; each keeps {kept}"


def restored(row: Json) -> str:
    """Return what came of a restore."""
    if row["thin"] is not None and row["thin"]["client"]:
        return f"restored {row['name']}: {described(row)}"
    counts = f"{row['documents']} documents, {row['passages']} passages"
    return f"restored {row['name']}: {counts}"


def is_kept_elsewhere(row: Json) -> bool:
    """Say whether deleting a base here leaves it at its hosts."""
    return row["shared"] is not None or (row["thin"] is not None and bool(row["thin"]["client"]))


def _thin(arguments: argparse.Namespace) -> int:
    from kwaai.cli.output import Spinner, one_line, print_json

    doing = "deleting the cells" if arguments.off else "making cells"
    with Spinner(doing):
        row = client_of(arguments).thin(arguments.base, off=arguments.off)
    if arguments.json:
        print_json(row)
        return 0
    if arguments.off:
        print(one_line(f"{row['name']} has no cells any more; thin clients find nothing in it"))
        return 0
    print(one_line(f"{row['name']}: {described(row)}"))
    print(one_line(f"on another device with this key: kwaainet rag restore {row['name']} --thin"))
    return 0
