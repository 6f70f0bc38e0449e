"""`kwaainet shard chain` and `shard gap`: who serves which layers of a model, and what is missing.

Asks the running node, which asks the swarm. The coverage itself is `kwaai.placement.coverage`'s.
"""

from __future__ import annotations

import argparse
from typing import Any

from kwaai.cli.parser import Commands, add_command

_MODEL_HELP = "a model of `kwaainet models list`, or a handle; the node's own if left out"
_CHAIN_MORE = """\
Whoever asks runs the first and the last layer itself (see `shard run --privacy`), so these need no
peer. A gap is what no online peer serves.
"""
_GAP_MORE = """\
Starts nothing: `kwaainet shard serve --auto` takes the layers that this prints.
"""


def add_parser(commands: Commands) -> None:
    for name, run, text, more in (
        ("chain", _chain, "list who serves which layers of a model", _CHAIN_MORE),
        ("gap", _gap, "print the layers that the swarm lacks most", _GAP_MORE),
    ):
        parser = add_command(commands, name, run, help=text, more=more)
        parser.add_argument("--model", metavar="NAME", help=_MODEL_HELP)


def _chain(arguments: argparse.Namespace) -> int:
    from kwaai.cli.output import one_line, print_json, print_table

    view = _view(arguments)
    if arguments.json:
        print_json(view)
        return 0
    count = view["block_count"]
    print(one_line(f"{view['model']}, {count} layers, {view['handle']}"))
    print_table(_COLUMNS, chain_rows(view), right=("Round trip",), ids=("Peer",))
    if view["missing"]:
        print(_missing_text(view))
    elif not view["rows"]:
        print("no peer serves this model")
    return 0


_COLUMNS = ("Layers", "Name", "Peer", "Version", "State", "Trust", "Round trip")


def chain_rows(view: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return the coverage table: what peers serve and the gaps between, in the order of layers."""
    from kwaai.cli.output import one_line
    from kwaai.cli.p2p import show_avoided, show_ms, show_trust

    rows: list[tuple[int, int, tuple[str, ...]]] = []
    for row in view["rows"]:
        name = one_line(row["name"]) or "-"
        cells = (
            show_range(row["layers"]),
            f"{name} (this node)" if row["is_self"] else name,
            row["peer"],
            one_line(row["version"]) or "-",
            show_avoided(row) or row["state"],
            show_trust(row),
            show_ms(row["rtt_s"]),
        )
        rows.append((row["layers"]["start"], 1, cells))
    for gap in view["gaps"]:
        rows.append((gap["start"], 0, (show_range(gap), "GAP", "-", "-", "missing", "-", "-")))
    return [cells for _, _, cells in sorted(rows)]


def show_range(layers: dict[str, int]) -> str:
    return f"[{layers['start']},{layers['stop']})"


def _gap(arguments: argparse.Namespace) -> int:
    from kwaai.cli.output import one_line, print_json
    from kwaai.placement.coverage import serve_command
    from kwaai.types import LayerRange

    view = _view(arguments)
    suggestion = view["suggestion"]
    command = None
    if suggestion is not None:
        command = serve_command(view["model"], LayerRange(**suggestion))
    if arguments.json:
        keys = ("model", "handle", "block_count", "gaps", "missing", "suggestion")
        print_json({**{key: view[key] for key in keys}, "command": command})
        return 0
    gaps = ", ".join(show_range(gap) for gap in view["gaps"])
    print(one_line(f"{view['model']}: " + (f"nobody serves {gaps}" if gaps else "no gaps")))
    if suggestion is None:
        print("this machine has no memory for a layer of it")
        return 0
    print(f"--auto would take {show_range(suggestion)}; the same by hand:")
    print(one_line(f"  {command}"))
    return 0


def _missing_text(view: dict[str, Any]) -> str:
    from kwaai.cli.output import one_line
    from kwaai.placement.coverage import explain_gaps
    from kwaai.types import LayerRange

    return one_line(explain_gaps(view["model"], [LayerRange(**gap) for gap in view["missing"]]))


def _view(arguments: argparse.Namespace) -> dict[str, Any]:
    from kwaai.cli.control import ControlClient
    from kwaai.cli.output import Spinner
    from kwaai.cli.session import load_settings

    client = ControlClient(load_settings(arguments)[0])
    with Spinner("asking the swarm"):
        return client.chain(arguments.model or "")
