"""docs/trust.md has the numbers of the code, and its tests exist."""

from __future__ import annotations

import re
from pathlib import Path

from kwaai.trust.behaviour import AGREEMENTS_MAX, PENALTY_FLOORS, PENALTY_PRIOR
from kwaai.trust.credential_score import REASONS
from kwaai.trust.policy import FACET_WEIGHTS, WEIGHTS, TrustPolicy
from kwaai.trust.score import POINT_OBSERVATIONS
from kwaai.trust.tally import COUNTS
from kwaai.trust.tiers import ACTIONS, Floors, Tier, compute_weight

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "trust.md").read_text("utf-8")
POLICY = TrustPolicy()


def rows(*header: str) -> list[list[str]]:
    """The rows of the table with that header, cells without backquotes."""
    _, _, after = PAGE.partition(f"| {' | '.join(header)} |\n")
    lines = re.match(r"(?:\|.*\n)+", after)
    assert lines, header
    cells = [line.strip("|").split("|") for line in lines.group().splitlines()[1:]]
    return [[cell.strip().strip("`") for cell in row] for row in cells]


def test_the_weights_of_types() -> None:
    assert {name: float(weight) for name, weight in rows("Type", "Weight")} == dict(WEIGHTS)


def test_the_outcomes() -> None:
    told = {
        name: (facet, float(counts)) for name, facet, counts in rows("Outcome", "Facet", "Counts")
    }
    assert told == {outcome.value: counts for outcome, counts in COUNTS.items()}


def test_the_tiers() -> None:
    told = rows("Tier", "From", "Waits in a queue with weight")
    assert told == [[t.label, _number(POLICY.threshold(t)), str(compute_weight(t))] for t in Tier]


def test_the_floors() -> None:
    told = [row[1:] for row in rows("Action", "Setting", "Default")]
    assert told == [[f"tier_{action}", Floors().floor(action).label] for action in ACTIONS]


def test_why_credentials_count_zero() -> None:
    told = dict(rows("Code", "Why it counts zero")[:-1])
    assert told == {code: why for code, why in REASONS.items() if code != "counts"}


def test_the_constants() -> None:
    for name, value in FACET_WEIGHTS.items():
        assert f"{name} {value}" in PAGE
    for name, value in PENALTY_FLOORS.items():
        assert f"{name} {value}" in PAGE
    prior, points = POLICY.behaviour_prior, POLICY.behaviour_points
    assert f"mean   = (for + {prior / 2:g}) / (for + against + {prior:g})" in PAGE
    assert f"points = {points:g} x max(0" in PAGE
    assert f"(for + {PENALTY_PRIOR:g}) / (for + {PENALTY_PRIOR:g} + against)" in PAGE
    assert f"`for` counts {AGREEMENTS_MAX:g} at most" in PAGE
    assert f"{prior:g} / ({prior:g} + observations + {POINT_OBSERVATIONS:g} x" in PAGE
    assert f"is worth {POLICY.graph_points:.2f}" in PAGE
    assert f"`least` is {POLICY.same_owner_score:.2f}" in PAGE
    assert f"together add {POLICY.derived_issuer_cap:g} at most" in PAGE
    assert f"`integrity_floor` ({Floors().integrity:.2f})" in PAGE


def test_the_tests_that_are_named_exist() -> None:
    tests = "".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    assert len(named) >= 10
    assert not {name for name in named if f"def {name}(" not in tests}


def _number(value: float) -> str:
    return f"{value:.2f}" if value else "0"
