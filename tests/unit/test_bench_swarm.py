"""What `bench --swarm` is told and makes of what it measured. The measuring itself is in
tests/integration/test_bench_nodes.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from kwaai.api.bench import HttpAnswer
from kwaai.cli.main import main
from kwaai.errors import UserError
from kwaai.inference.batch import Ran
from kwaai.node.bench_swarm import SwarmBenchOptions, quick
from kwaai.node.path_timings import PathTimings
from kwaai.wire.step import Timing

ROWS = np.zeros((1, 4), np.float32)


def test_a_token_is_timed_by_the_event_that_brings_it() -> None:
    sample = HttpAnswer(10.0, (10.5, 10.75, 11.25), 3).sample()
    assert (sample.prefill_s, sample.token_s) == ([0.5], [0.25, 0.5])


def test_tokens_that_come_together_count_as_their_mean() -> None:
    sample = HttpAnswer(10.0, (10.5, 11.5), 5).sample()
    assert sample.token_s == [0.25] * 4


def test_the_cost_of_a_hop_is_what_is_left_after_all_computing() -> None:
    timings = PathTimings()
    first, last = Ran(ROWS, 0.001, 0.004, 0.003), Ran(ROWS, 0.0, 0.006, 0.005)
    hops = (Timing(0, 1000, 2000, 0), Timing(1, 500, 4000, 0))
    timings.add(0.020, first, 0.009, hops, last)
    assert list(timings.added_s) == pytest.approx([0.020 - 0.003 - 0.002 - 0.004 - 0.005])
    assert list(timings.links_s) == pytest.approx([0.009 - 0.0075])
    assert list(timings.first.queue_s) == pytest.approx([0.002])
    timings.add(0.02, first)
    assert len(timings.added_s) == 1, "an answer without hops has no such cost"


def test_quick_keeps_what_is_measured() -> None:
    options = quick(SwarmBenchOptions("m", None, "Q4_0", nodes=3))
    assert (options.model, options.shape, options.quantisation) == ("m", None, "Q4_0")
    assert options.nodes == 3
    assert options.tokens < SwarmBenchOptions("m", None).tokens


def test_the_context_holds_the_longest_answer() -> None:
    options = SwarmBenchOptions("m", None, prompt_tokens=100, tokens=50, hop_tokens=30)
    assert options.context_tokens >= 150
    assert SwarmBenchOptions("m", None, prompt_tokens=1, hop_tokens=300).context_tokens > 300


@pytest.mark.parametrize("wrong", [{"tokens": 1}, {"prompt_tokens": 0}, {"repeat": 101}])
def test_options_out_of_bounds(wrong: dict[str, int]) -> None:
    with pytest.raises(UserError, match=r"^--"):
        SwarmBenchOptions("m", None, **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "arguments",
    [
        ("--nodes", "3"),
        ("--quick",),
        ("--swarm", "--slices", "2"),
        ("--swarm", "--no-api"),
        ("--swarm", "--quick", "--tokens", "9"),
        ("--swarm", "--model", "a", "--shape", "b"),
    ],
)
def test_flags_that_do_not_go_together(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    run: Callable[[list[str]], Any] = main
    assert run(["bench", *arguments]) == 2
    assert capsys.readouterr().err.count("\n") <= 2
