"""`kwaainet trust explain`: a score as a tree of evidence, and what would raise it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from kwaai.cli.parser import Commands, add_command
from kwaai.cli.trust_values import PEER_HELP, client_of, show_name

if TYPE_CHECKING:
    from kwaai.cli.credential_tree import Branch

_MORE = """\
Each line: what it adds to the score or takes from it, its share of all that is added, and what it
rests on. The lines of one level add up to the line above them.
"""


def add_parser(commands: Commands) -> None:
    explain = add_command(
        commands, "explain", _explain, help="show why a peer has its score", more=_MORE
    )
    explain.add_argument("peer", metavar="PEER", help=PEER_HELP)


def _explain(arguments: argparse.Namespace) -> int:
    from kwaai.cli.credential_tree import Branch, print_tree
    from kwaai.cli.output import print_json

    view = client_of(arguments).trust_explain(arguments.peer)
    if arguments.json:
        print_json(view)
        return 0
    print_tree(explanation_tree(view))
    if view["paths"]:
        print()
        print_tree(
            Branch(
                "the strongest paths from the trust roots, by their share of the graph's part",
                children=[
                    Branch(_path_text(path), f"{path['share']:4.0%}", shortens=True)
                    for path in view["paths"]
                ],
            )
        )
    heading, raises = _raises(view)
    if raises:
        print()
        print_tree(Branch(heading, children=[Branch(text) for text in raises]))
    return 0


def explanation_tree(view: dict[str, Any]) -> Branch:
    """Return an ExplanationView as a tree: the score, and below what it is made of."""
    from kwaai.cli.credential_tree import Branch

    row = view["row"]
    who = row["name"] or row["peer"]
    owner = f", owner {row['owner']}" if row["owner"] else ""
    text = f"{row['tier']} (uncertainty {row['uncertainty']:.2f})  {who}  {row['did']}{owner}"
    nothing = [Branch("nothing is known of it: it has presented nothing, and nothing was seen")]
    children = [_reason_branch(reason, "", 1) for reason in view["reasons"]] or nothing
    style = {"Unknown": "skipped", "Known": "unknown"}.get(row["tier"], "passed")
    return Branch(text, f"{row['score']:.3f}", children, style=style)


def _reason_branch(reason: dict[str, Any], above: str, depth: int) -> Branch:
    """Return one reason. `above`: the kind of the reason that it is a part of."""
    from kwaai.cli.credential_tree import Branch
    from kwaai.limits import TRUST_REASON_DEPTH_MAX

    points, kind = reason["points"], reason["kind"]
    label = "" if kind == above or reason["text"].startswith(kind) else f"{kind}: "
    share = f"{reason['share']:4.0%}" if reason["share"] else " " * 4
    source = f" [{reason['source']}]" if reason["source"] else ""
    style = "failed" if points < 0 else "passed" if points > 0 else "skipped"
    below = reason["children"] if depth < TRUST_REASON_DEPTH_MAX else []
    return Branch(
        f"{label}{reason['text']}{source}",
        f"{points:+.3f} {share}",
        [_reason_branch(child, kind, depth + 1) for child in below],
        style=style,
        shortens=True,
    )


def _path_text(path: dict[str, Any]) -> str:
    names = [
        show_name({"did": did, "name": name})
        for did, name in zip(path["steps"], path["names"], strict=True)
    ]
    hops = (
        f" --{weight:.2f}--> {name}"
        for weight, name in zip(path["weights"], names[1:], strict=True)
    )
    return names[0] + "".join(hops)


def _raises(view: dict[str, Any]) -> tuple[str, list[str]]:
    if not view["next_tier"]:
        return "what would raise it further", view["raises"]
    heading = f"{view['next_tier']} needs {view['missing']:.3f} more; what would raise it"
    return heading, view["raises"] or ["nothing that this node knows of"]
