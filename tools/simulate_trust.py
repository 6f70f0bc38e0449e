"""Makes the figures of docs/trust.md, "Simulation": `python tools/simulate_trust.py [--out DIR]`.

Runs the scene with trust routing and without, for several seeds, and with other settings; writes
trust-simulation.svg and trust-simulation.json. Minutes per case, on one core each. The
simulator is kwaai/testing/trust_sim.py; this draws and counts, no more.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from kwaai.testing.trust_sim import Outcomes, Routing, Scene, simulate  # noqa: E402
from kwaai.trust.tiers import Tier  # noqa: E402

WITH, WITHOUT, MORE = "with trust routing", "without", "10 % spot checks"
MAIN = (WITH, WITHOUT, MORE)
VARIANTS: Mapping[str, tuple[Routing, Mapping[str, Any]]] = {
    WITH: (Routing(), {}),
    WITHOUT: (Routing(uses_trust=False), {}),
    MORE: (Routing(spot_check_share=0.1), {}),
    "no spot checks": (Routing(spot_check_share=0.0), {}),
    "2 % spot checks": (Routing(spot_check_share=0.02), {}),
    "floor Verified": (Routing(min_tier=Tier.VERIFIED), {}),
    "floor Unknown": (Routing(min_tier=Tier.UNKNOWN), {}),
    "nobody revokes": (Routing(), {"complaints": 0}),
    "24 requests a day": (Routing(), {"requests_per_day": 24.0}),
    "slow liars": (Routing(), {"has_fast_liars": False}),
    "slow liars, without": (Routing(uses_trust=False), {"has_fast_liars": False}),
}
"""By name: how requesters choose, and what of the scene is another."""
WIDTH, HEIGHT, LEFT, GAP = 760, 190, 64, 62
COLOURS = {MORE: "#1b6e53", WITHOUT: "#b3402e"}
LEGEND = {MORE: "with trust routing, 10 % spot checks", WITHOUT: "without"}


def run(scene: Scene, name: str) -> dict[str, Any]:
    """Run one case; return its figures."""
    routing, changes = VARIANTS[name]
    outcomes = simulate(replace(scene, **changes), routing)
    days = [asdict(outcomes.figures(day, day + 1)) for day in range(int(scene.days))]
    figures = {
        "variant": name,
        "seed": scene.seed,
        "after_first_day": asdict(outcomes.figures(from_day=1.0)),
        "by_day": [{k: v for k, v in day.items() if k != "hops"} for day in days],
        "tiers": outcomes.tiers() if outcomes.routing.uses_trust else {},
        "verdicts": outcomes.verdicts(),
        "attack": attack(outcomes),
        "replays_per_request": outcomes.replays(),
    }
    rounded: dict[str, Any] = _rounded(figures)
    return rounded


def _rounded(value: Any) -> Any:
    """Leave four places: more would say nothing."""
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_rounded(inner) for inner in value]
    return round(value, 4) if isinstance(value, float) else value


def attack(outcomes: Outcomes) -> dict[str, float]:
    """Return what the sybils have of the graph's trust, and how often they are told a prompt."""
    if not outcomes.routing.uses_trust:
        return {}
    shares, best = outcomes.sybils()
    return {
        "forged_credentials_refused": outcomes.papers_refused,
        "share_of_graph_trust": shares,
        "best_score": best,
    }


# The picture.


def draw(cases: Sequence[Mapping[str, Any]], days: int) -> str:
    """Return the picture: by day, the mean of all seeds and the range between them."""
    panels = [
        ("touched", "requests given to a path with a liar on it", "touched"),
        ("right", "requests answered, and answered right", "right"),
    ]
    height = 46 + len(panels) * (HEIGHT + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" font-family="sans-serif" font-size="12" '
        'role="img" aria-label="Requests touched by liars and answered right, by day">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
    ]
    for place, (name, colour) in enumerate(COLOURS.items()):
        x = LEFT + 280 * place
        parts.append(f'<rect x="{x}" y="14" width="18" height="4" fill="{colour}"/>')
        parts.append(f'<text x="{x + 24}" y="20" fill="#333333">{LEGEND[name]}</text>')
    for place, (key, title, _) in enumerate(panels):
        parts += _panel(cases, key, title, 58 + place * (HEIGHT + GAP), days)
    return "\n".join([*parts, "</svg>", ""])


def _panel(
    cases: Sequence[Mapping[str, Any]], key: str, title: str, top: int, days: int
) -> list[str]:
    def at(day: float, share: float) -> str:
        x = LEFT + (WIDTH - LEFT - 20) * day / (days - 1)
        return f"{x:.1f},{top + HEIGHT * (1 - share):.1f}"

    parts = [f'<text x="{LEFT}" y="{top - 10}" fill="#111111">{title}</text>']
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = top + HEIGHT * (1 - share)
        parts.append(
            f'<path d="M{LEFT},{y:.1f}H{WIDTH - 20}" stroke="#dddddd" stroke-width="1"/>'
            f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end" fill="#555555">'
            f"{share:.0%}</text>"
        )
    for day in range(0, days, 5):
        x, _, _ = at(day, 0).partition(",")
        parts.append(
            f'<text x="{x}" y="{top + HEIGHT + 18}" text-anchor="middle" fill="#555555">'
            f"day {day}</text>"
        )
    for name, colour in COLOURS.items():
        rows = [[d[key] for d in case["by_day"]] for case in cases if case["variant"] == name]
        if not rows:
            continue
        low, high = ([fn(day) for day in zip(*rows, strict=True)] for fn in (min, max))
        mean = [sum(day) / len(day) for day in zip(*rows, strict=True)]
        band = [at(d, s) for d, s in enumerate(high)]
        band += [at(d, low[d]) for d in reversed(range(days))]
        line = [at(d, s) for d, s in enumerate(mean)]
        parts.append(f'<polygon points="{" ".join(band)}" fill="{colour}" fill-opacity="0.18"/>')
        parts.append(
            f'<polyline points="{" ".join(line)}" fill="none" stroke="{colour}" stroke-width="2"/>'
        )
    return parts


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for, and write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "img")
    parser.add_argument("--seeds", type=int, default=5, help="of the main cases")
    parser.add_argument("--variant-seeds", type=int, default=1, help="of the others")
    parser.add_argument("--days", type=float, default=Scene().days)
    parser.add_argument("--jobs", type=int, default=1)
    asked = parser.parse_args(arguments)
    scene = replace(Scene(), days=asked.days)
    wanted = [
        (replace(scene, seed=seed), name)
        for name in VARIANTS
        for seed in range(asked.seeds if name in MAIN else asked.variant_seeds)
    ]
    cases = []
    with ProcessPoolExecutor(asked.jobs) as pool:
        for case in pool.map(run, *zip(*wanted, strict=True)):
            cases.append(case)
            after = case["after_first_day"]
            print(
                f"{case['variant']}, seed {case['seed']}: right {after['right']:.2%}, "
                f"wrong {after['wrong']:.2%}, touched {after['touched']:.2%}",
                flush=True,
            )
    asked.out.mkdir(parents=True, exist_ok=True)
    figures = {"scene": asdict(scene), "nodes": scene.nodes, "cases": cases}
    (asked.out / "trust-simulation.json").write_text(json.dumps(figures) + "\n", "utf-8")
    (asked.out / "trust-simulation.svg").write_text(draw(cases, int(scene.days)), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
