"""The trust graph as an SVG: roots on the left, one column for each step away from them.

Layout and drawing of its own, without randomness: the same graph gives the same bytes. Asks nobody.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from kwaai.cli.trust_graph import COLOURS, left_out_text, node_label
from kwaai.cli.trust_values import TIERS, show_score

_COLUMN = 190.0
_ROW = 68.0
_MARGIN_X, _TOP, _BOTTOM = 95.0, 96.0, 92.0
_ROWS_MIN = 9
"""A column of more rows is broken into several, once there are many nodes."""
_SWEEPS = 12
_RADIUS_MIN, _RADIUS_MORE = 6.0, 10.0
_GAP = 2.0
"""Between a circle and a line."""
_STYLE = """\
  svg { background: #ffffff; font: 11px system-ui, sans-serif; }
  text { fill: #1f2328; paint-order: stroke; stroke: #ffffff; stroke-width: 3px; }
  .small { fill: #59636e; font-size: 10px; }
  .title { font-size: 15px; font-weight: 600; }
  .edge { fill: none; stroke: #59636e; }
  .tip { fill: #59636e; }
  .node { stroke: #ffffff; stroke-width: 1.5; }
  .ring { fill: none; stroke: #1f2328; stroke-width: 1.5; }
  @media (prefers-color-scheme: dark) {
    svg { background: #0d1117; }
    text { fill: #e6edf3; stroke: #0d1117; }
    .small { fill: #9198a1; }
    .edge { stroke: #9198a1; }
    .tip { fill: #9198a1; }
    .node { stroke: #0d1117; }
    .ring { stroke: #e6edf3; }
  }
"""


@dataclass(frozen=True, slots=True)
class Spot:
    """Where a node is drawn, in pixels."""

    x: float
    y: float
    radius: float
    column: int


def draw_svg(view: dict[str, Any]) -> str:
    """Return a GraphView as an SVG document, with tooltips and colours for light and dark."""
    nodes: list[dict[str, Any]] = sorted(view["nodes"], key=lambda n: (n["depth"], n["did"]))
    spots, columns = place_nodes(nodes, view["edges"])
    width = max((spot.x for spot in spots.values()), default=0.0) + _MARGIN_X
    width = max(width, 4 * _COLUMN)
    height = max((spot.y for spot in spots.values()), default=_TOP) + _BOTTOM
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="trust graph">',
        f"<style>\n{_STYLE}</style>",
        _text(24, 32, "Who vouches for whom", "title", "start"),
        _text(24, 50, _summary(view), "small", "start"),
        *(
            _text(x, _TOP - 26, "roots" if depth == 0 else _steps(depth), "small")
            for depth, x in columns
        ),
        *(_edge(edge, spots) for edge in _drawn_edges(view["edges"], spots)),
        *(_node(node, spots[node["did"]]) for node in nodes),
        *_legend(height - 34),
        "</svg>",
    ]
    return "\n".join(part for part in drawn if part) + "\n"


def place_nodes(
    nodes: Sequence[Mapping[str, Any]], edges: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, Spot], list[tuple[int, float]]]:
    """Return each node's place by its DID, and the middle of each depth's columns.

    Within a column nodes stand near those that they are connected with (barycentres, some sweeps).
    """
    layers: dict[int, list[str]] = {}
    scores = {str(node["did"]): float(node["score"]) for node in nodes}
    for node in nodes:
        layers.setdefault(int(node["depth"]), []).append(str(node["did"]))
    for layer in layers.values():
        layer.sort(key=lambda did: (-scores[did], did))
    _order(layers, edges)
    rows_max = max(_ROWS_MIN, math.ceil(1.6 * math.sqrt(len(nodes))))
    tallest = min(rows_max, max(map(len, layers.values()), default=1))
    spots: dict[str, Spot] = {}
    heads: list[tuple[int, float]] = []
    column = 0
    for depth in sorted(layers):
        layer = layers[depth]
        parts = math.ceil(len(layer) / rows_max)
        for part in range(parts):
            shown = layer[part::parts]  # neighbours in the order stay neighbours
            top = _TOP + _ROW * (tallest - len(shown)) / 2 + (part % 2) * _ROW / 2
            for at, did in enumerate(shown):
                radius = _RADIUS_MIN + _RADIUS_MORE * math.sqrt(max(0.0, min(1.0, scores[did])))
                x = _MARGIN_X + _COLUMN * (column + part)
                spots[did] = Spot(x, top + _ROW * at, radius, column + part)
        heads.append((depth, _MARGIN_X + _COLUMN * (column + (parts - 1) / 2)))
        column += parts
    return spots, heads


def _order(layers: dict[int, list[str]], edges: Sequence[Mapping[str, Any]]) -> None:
    """Sort each layer by the mean place of its neighbours in the one before, and back again."""
    depth_of = {did: depth for depth, layer in layers.items() for did in layer}
    near: dict[str, list[str]] = {did: [] for did in depth_of}
    for edge in sorted(edges, key=lambda e: (e["by"], e["of"])):
        by, of = edge["by"], edge["of"]
        if by in near and of in near and depth_of[by] != depth_of[of]:
            near[by].append(of)
            near[of].append(by)
    depths = sorted(layers)
    for sweep in range(_SWEEPS):
        forward = sweep % 2 == 0
        for depth in depths[1:] if forward else depths[-2::-1]:
            place = {
                did: (at + 0.5) / len(layer)
                for layer in layers.values()
                for at, did in enumerate(layer)
            }
            means = {}
            for did in layers[depth]:
                beside = [d for d in near[did] if (depth_of[d] < depth) == forward]
                means[did] = sum(place[d] for d in beside) / len(beside) if beside else place[did]
            layers[depth].sort(key=lambda did: (round(means[did], 9), did))


def _drawn_edges(
    edges: Iterable[Mapping[str, Any]], spots: Mapping[str, Spot]
) -> list[Mapping[str, Any]]:
    """Return the edges whose ends are drawn, the strongest last: on top."""
    shown = [edge for edge in edges if edge["by"] in spots and edge["of"] in spots]
    return sorted(shown, key=lambda e: (e["weight"], e["by"], e["of"]))


def _edge(edge: Mapping[str, Any], spots: Mapping[str, Spot]) -> str:
    """Draw a curve with a tip at its end; within a column it goes around on the right side."""
    by, of, weight = spots[edge["by"]], spots[edge["of"]], max(0.0, min(1.0, edge["weight"]))
    if by is of:
        return ""
    leaves = -1.0 if of.column < by.column else 1.0  # to which side it leaves, and comes in
    enters = 1.0 if of.column > by.column else -1.0
    tip, half = 6.0 + 2 * weight, 2.2 + 1.3 * weight
    x1 = by.x + leaves * (by.radius + _GAP)
    x2 = of.x - enters * (of.radius + _GAP)
    end = x2 - enters * tip
    bend = abs(end - x1) / 2 if of.column != by.column else 26 + 0.12 * abs(of.y - by.y)
    control = f"{x1 + leaves * bend:.1f} {by.y:.1f} {end - enters * bend:.1f} {of.y:.1f}"
    points = f"{x2:.1f},{of.y:.1f} {end:.1f},{of.y - half:.1f} {end:.1f},{of.y + half:.1f}"
    dashed = "" if of.column > by.column else ' stroke-dasharray="4 3"'
    return (
        f'<g opacity="{0.3 + 0.6 * weight:.2f}"><title>{_safe(_edge_title(edge))}</title>'
        f'<path class="edge" d="M{x1:.1f} {by.y:.1f} C{control} {end:.1f} {of.y:.1f}" '
        f'stroke-width="{0.7 + 2.6 * weight:.2f}"{dashed}/>'
        f'<polygon class="tip" points="{points}"/></g>'
    )


def _edge_title(edge: Mapping[str, Any]) -> str:
    return f"{edge['by']} vouches for {edge['of']}: {edge['weight']:.2f}, {edge['source']}"


def _node(node: dict[str, Any], spot: Spot) -> str:
    colour = COLOURS.get(node["tier"], COLOURS["Unknown"])
    name, score = node_label(node), show_score(node["score"])
    title = f"{name}, {node['tier']} {score}, graph {node['graph']:.3f}, {node['did']}"
    ring = spot.radius + 3.5
    rings = [
        f'<circle class="ring" cx="{spot.x:.1f}" cy="{spot.y:.1f}" r="{radius:.1f}"/>'
        for radius, is_drawn in ((ring, node["is_root"]), (ring + 3, node["is_own"]))
        if is_drawn
    ]
    below = spot.y + spot.radius + (16 if rings else 13)
    return (
        f"<g><title>{_safe(title)}</title>"
        f'<circle class="node" cx="{spot.x:.1f}" cy="{spot.y:.1f}" r="{spot.radius:.1f}" '
        f'fill="{colour}"/>{"".join(rings)}'
        f"{_text(spot.x, below, name)}{_text(spot.x, below + 12, score, 'small')}</g>"
    )


def _legend(y: float) -> list[str]:
    parts = []
    x = 30.0
    for tier in TIERS:
        parts.append(
            f'<circle class="node" cx="{x:.1f}" cy="{y:.1f}" r="7" fill="{COLOURS[tier]}"/>'
        )
        parts.append(_text(x + 12, y + 4, tier, "", "start"))
        x += 84
    words = (
        "a larger circle: a higher score",
        "a ring: a trust root; two: this node",
        "a thicker line: more weight; dashed: back towards the roots, or within a step",
    )
    parts.append(_text(24, y + 24, "; ".join(words), "small", "start"))
    return parts


def _summary(view: dict[str, Any]) -> str:
    left_out = left_out_text(view)
    text = f"{_count(len(view['nodes']), 'peer')}, {_count(len(view['edges']), 'endorsement')}"
    return text + (f"; left out: {left_out}" if left_out else "")


def _count(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _steps(depth: int) -> str:
    return f"{_count(depth, 'step')} away"


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "middle") -> str:
    style = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{style}>{_safe(text)}</text>'


def _safe(text: str) -> str:
    """Return a text for XML: escaped, one line, without what XML 1.0 forbids."""
    from kwaai.cli.output import one_line

    return escape(one_line(text))
