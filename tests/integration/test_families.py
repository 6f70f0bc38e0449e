"""Every family in the table: a chain of slices gives the whole model's logits to the bit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from kwaai.testing.recipes import RECIPES

SINGLE_LAYERS = tuple(range(9))
REFUSED_CUTS = {
    "smollm3": {(0, 3, 5, 8), (0, 1, 8), SINGLE_LAYERS},
    "cohere2": {SINGLE_LAYERS},
}
"""Where the family's table forbids a cut of these; everything else must compute, and be equal."""


@pytest.mark.parametrize("recipe", RECIPES)
def test_chain_equals_whole_model_to_the_bit(recipe: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "kwaai.testing.family_chain", recipe, str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    outcomes = [json.loads(line) for line in run.stdout.splitlines()]
    refused = {tuple(outcome["cut"]) for outcome in outcomes if outcome["refused"]}
    assert refused == REFUSED_CUTS.get(recipe, set())
    computed = [outcome for outcome in outcomes if not outcome["refused"]]
    assert len(outcomes) == 4
    assert computed
    for outcome in computed:
        assert outcome["is_equal"], f"{outcome['cut']}: differs by {outcome['max_difference']}"
        assert len(set(outcome["tokens"])) > 1, "the model repeats one token: a weak test"
