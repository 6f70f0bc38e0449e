"""How fast each hop of a path was against what it promised, as far as one node can tell from here.

This node measures the way of a step through all hops by its own clock; what each says that it took
is its own word. A hop's share is therefore what it says, and its part of the time that nobody
accounts for: whoever says too little is found out together with the others of its path, and alone
once its paths change. Measures nothing itself. docs/trust.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from credentials.keys import PeerId
from kwaai.node.path_timings import PartTimings, PathTimings
from kwaai.wire.messages import Opened

STEPS_MIN: Final = 8
"""Decode steps that say something about a path."""


@dataclass(frozen=True, slots=True)
class HopFigures:
    """One hop's, of one answer; None where too little was measured, or nothing was promised."""

    peer: PeerId
    latency_s: float | None = None
    """Its share of a decode step, its link to the next hop included."""
    expected_s: float | None = None
    """The same, by its OPENED."""
    tokens_s: float | None = None
    """Its speed without that link."""
    claimed_tokens_s: float | None = None


def hop_figures(
    peers: Sequence[PeerId],
    said: Sequence[Opened],
    timings: PathTimings,
    *,
    own_rtt_s: float = 0.0,
) -> tuple[HopFigures, ...]:
    """Return the figures of every hop, in the order of the path.

    said: what each hop promised when it was opened. own_rtt_s: of this node's link to the first.
    """
    if len(timings.remote_s) < STEPS_MIN:
        return tuple(HopFigures(peer) for peer in peers)
    links_s = [opened.rtt_next_us / 2e6 for opened in said]
    promised_s = [opened.decode_us / 1e6 for opened in said]
    told_s = [_told_s(timings.hops.get(number)) for number in range(len(said))]
    expected_s = [sum(pair) for pair in zip(links_s, promised_s, strict=True)]
    left_s = max(0.0, median(timings.remote_s) - own_rtt_s / 2 - sum(told_s))
    whole_s = sum(expected_s)
    figures = []
    for number, peer in enumerate(peers):
        part = expected_s[number] / whole_s if whole_s > 0 else 1 / len(said)
        latency_s = told_s[number] + left_s * part
        working_s = max(told_s[number], latency_s - links_s[number])
        claimed = 1 / promised_s[number] if promised_s[number] > 0 else None
        figures.append(
            HopFigures(
                peer,
                latency_s,
                expected_s[number] if claimed is not None else None,
                1 / working_s if working_s > 0 and claimed is not None else None,
                claimed,
            )
        )
    return tuple(figures)


def _told_s(part: PartTimings | None) -> float:
    """Return what a hop says that a step took it."""
    if part is None or not part.compute_s:
        return 0.0
    return median(part.compute_s) + median(part.queue_s)
