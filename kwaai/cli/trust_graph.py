"""`kwaainet trust graph`: the trust graph around the roots, for graphviz, programs or a browser.

The drawing itself is `trust_svg`. The same graph gives the same bytes.
"""

from __future__ import annotations

import argparse
from typing import Any

from kwaai.cli.parser import Commands, UsageError, add_command, whole_number
from kwaai.cli.trust_values import client_of, show_score
from kwaai.limits import (
    TRUST_GRAPH_DEPTH_DEFAULT,
    TRUST_GRAPH_DEPTH_MAX,
    TRUST_NAME_CHARS_MAX,
)

FORMATS = ("dot", "json", "svg")
COLOURS = {"Unknown": "#9aa0a6", "Known": "#d9a021", "Verified": "#4285c9", "Trusted": "#2f9e6b"}
"""By tier; told apart by people with any colour vision, on white and on black."""
_MORE = """\
examples:
  kwaainet trust graph --format svg > trust.svg
  kwaainet trust graph --format dot | dot -Tpng > trust.png      (graphviz)
"""


def add_parser(commands: Commands) -> None:
    graph = add_command(
        commands,
        "graph",
        _graph,
        help="draw who vouches for whom, from the trust roots",
        more=_MORE,
    )
    graph.add_argument(
        "--format",
        choices=FORMATS,
        default=FORMATS[0],
        metavar="FORMAT",
        help="dot (default), json or svg; --json is the same as --format json",
    )
    graph.add_argument(
        "--depth",
        type=whole_number,
        default=TRUST_GRAPH_DEPTH_DEFAULT,
        metavar="N",
        help=f"how many steps from the roots (default: {TRUST_GRAPH_DEPTH_DEFAULT})",
    )


def _graph(arguments: argparse.Namespace) -> int:
    from kwaai.cli.output import note, print_json

    if not 1 <= arguments.depth <= TRUST_GRAPH_DEPTH_MAX:
        raise UsageError(f"--depth must be 1 to {TRUST_GRAPH_DEPTH_MAX}, not {arguments.depth}")
    view = client_of(arguments).trust_graph(arguments.depth)
    if arguments.json or arguments.format == "json":
        print_json(view)
        return 0
    if arguments.format == "svg":
        from kwaai.cli.trust_svg import draw_svg

        print(draw_svg(view), end="")
    else:
        print(draw_dot(view), end="")
    if not view["edges"]:
        note("nobody here vouches for anybody yet: `kwaainet trust endorse PEER` does")
    if left_out := left_out_text(view):
        note(f"left out: {left_out}")
    return 0


def left_out_text(view: dict[str, Any]) -> str:
    """Say what a drawing does not show; empty where it shows all."""
    counts = ((view["nodes_left_out"], "peers"), (view["edges_left_out"], "endorsements"))
    return " and ".join(f"{count} {what}" for count, what in counts if count)


def node_label(node: dict[str, Any]) -> str:
    """Return what stands below a node: its name, within a bound, or the end of its DID."""
    from kwaai.cli.output import one_line
    from kwaai.cli.table import short_id

    name = one_line(node["name"]) or short_id(node["did"])
    if len(name) > TRUST_NAME_CHARS_MAX:
        name = name[: TRUST_NAME_CHARS_MAX - 1] + "…"
    return name


def draw_dot(view: dict[str, Any]) -> str:
    """Return a GraphView in the language of graphviz. Names of strangers are quoted."""
    lines = [
        "digraph trust {",
        "  rankdir=LR;",
        '  node [shape=circle, style=filled, fontname="sans-serif", fontsize=10];',
        '  edge [fontname="sans-serif", fontsize=8, color="#808080"];',
    ]
    for node in sorted(view["nodes"], key=lambda node: (node["depth"], node["did"])):
        label = f"{_escaped(node_label(node))}\\n{show_score(node['score'])}"
        more = ", peripheries=2" if node["is_root"] else ", shape=box" if node["is_own"] else ""
        lines.append(
            f'  {_quoted(node["did"])} [label="{label}", fillcolor="{_colour(node)}", '
            f"tooltip={_quoted(node['did'])}{more}];"
        )
    for edge in sorted(view["edges"], key=lambda edge: (edge["by"], edge["of"])):
        lines.append(
            f"  {_quoted(edge['by'])} -> {_quoted(edge['of'])} "
            f'[label="{edge["weight"]:.2f}", penwidth={0.6 + 2.4 * edge["weight"]:.2f}];'
        )
    return "\n".join([*lines, "}", ""])


def _colour(node: dict[str, Any]) -> str:
    return COLOURS.get(node["tier"], COLOURS["Unknown"])


def _quoted(text: str) -> str:
    return f'"{_escaped(text)}"'


def _escaped(text: str) -> str:
    r"""Escape what ends a quoted string, and `\N` and its like, which graphviz replaces."""
    return text.replace("\\", "\\\\").replace('"', '\\"')
