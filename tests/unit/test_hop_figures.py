"""What is said of each hop's speed: honest hops look as they are, and nobody hides for long."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from credentials.keys import PeerId
from kwaai.inference.batch import Ran
from kwaai.node.hop_figures import STEPS_MIN, HopFigures, hop_figures
from kwaai.node.path_timings import PathTimings
from kwaai.wire.messages import Opened
from kwaai.wire.step import Timing
from kwaai.wire.tensors import Dtype

PEERS = [PeerId(name) for name in ("amber", "beryl", "coral")]
RAN: Any = Ran(None, 0.0, 0.001, 0.001)  # type: ignore[arg-type]


def opened(decode_us: int, rtt_next_us: int) -> Opened:
    return Opened(b"s" * 16, 0, Dtype.F16, 512, rtt_next_us, 0, decode_us)


def path(remote_s: float, told_us: Sequence[int], steps: int = STEPS_MIN) -> PathTimings:
    timings = PathTimings()
    for _ in range(steps):
        hops = [Timing(number, 0, us, 0) for number, us in enumerate(told_us)]
        timings.add(remote_s + 0.001, RAN, remote_s, hops)
    return timings


def test_honest_hops_are_as_they_promised() -> None:
    said = [opened(20_000, 10_000), opened(40_000, 20_000)]
    first, second = hop_figures(PEERS[:2], said, path(0.080, [20_000, 40_000]), own_rtt_s=0.010)
    assert first.peer == PEERS[0]
    assert (first.expected_s, second.expected_s) == (0.025, 0.05)
    assert first.latency_s == pytest.approx(0.025)
    assert second.latency_s == pytest.approx(0.05)
    assert first.tokens_s == pytest.approx(50)
    assert (first.claimed_tokens_s, second.claimed_tokens_s) == (50, 25)


def test_who_is_slow_and_says_so_bears_it_alone() -> None:
    said = [opened(20_000, 0), opened(20_000, 0)]
    first, second = hop_figures(PEERS[:2], said, path(0.120, [20_000, 100_000]))
    assert first.tokens_s == pytest.approx(50)
    assert second.tokens_s == pytest.approx(10)
    assert second.latency_s == pytest.approx(0.1)


def test_who_is_slow_and_says_nothing_is_found_out_with_its_path() -> None:
    said = [opened(20_000, 0), opened(20_000, 0)]
    for told in ([20_000, 20_000], [20_000, 0]):
        _, liar = hop_figures(PEERS[:2], said, path(0.220, told))
        assert liar.tokens_s is not None
        assert liar.tokens_s < 12
    [alone] = hop_figures(PEERS[:1], said[:1], path(0.200, [1]))
    assert alone.tokens_s == pytest.approx(5, rel=0.01)


def test_who_promises_more_has_less_of_it() -> None:
    said = [opened(1_000, 0), opened(20_000, 0)]
    first, _ = hop_figures(PEERS[:2], said, path(0.060, [20_000, 20_000]))
    assert first.claimed_tokens_s == 1000
    assert first.tokens_s is not None
    assert first.tokens_s < 50


@pytest.mark.parametrize("steps", [0, 1, STEPS_MIN - 1])
def test_a_few_steps_say_nothing(steps: int) -> None:
    figures = hop_figures(PEERS[:1], [opened(1, 1)], path(0.1, [1], steps))
    assert figures == (HopFigures(PEERS[0]),)


def test_without_a_promise_there_is_nothing_to_hold_it_against() -> None:
    [figures] = hop_figures(PEERS[:1], [opened(0, 0)], path(0.1, [1]))
    assert (figures.expected_s, figures.tokens_s, figures.claimed_tokens_s) == (None, None, None)
    assert figures.latency_s == pytest.approx(0.1)


@given(
    hops=st.lists(st.tuples(*[st.integers(0, 1 << 32)] * 3), min_size=1, max_size=3),
    remote_s=st.floats(0, 1e6),
    own_rtt_s=st.floats(0, 1e3),
)
def test_whatever_hops_say_the_figures_are_numbers(
    hops: list[tuple[int, int, int]], remote_s: float, own_rtt_s: float
) -> None:
    said = [opened(decode, rtt) for decode, rtt, _ in hops]
    told = path(remote_s, [us for _, _, us in hops])
    for figures in hop_figures(PEERS[: len(hops)], said, told, own_rtt_s=own_rtt_s):
        assert figures.latency_s is not None
        assert figures.latency_s >= 0
        assert figures.tokens_s is None or figures.tokens_s > 0
