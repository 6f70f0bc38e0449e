"""Which hop holds a step that does not come back, by what the hops say of themselves. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kwaai.wire.messages import Progress


@dataclass(frozen=True, slots=True)
class Stalled:
    """The hop at fault, or the one to wait for."""

    hop: int
    what: str
    """What it does, or does not: the end of a sentence that begins with its name."""
    is_working: bool
    """It says that it has the step: a long queue looks like this too."""
    is_disputed: bool = False
    """The hop before it says that it has done its part: one of the two is at fault."""


def find_stalled(progress: Mapping[int, Progress], hops: int, step: int) -> Stalled:
    """Return who has `step`. A hop that says nothing is the first to be blamed; of two whose words
    contradict one another, the later one: it is the one that the step did not come out of.
    """
    for hop in range(hops):
        if hop not in progress:
            return Stalled(hop, "does not answer", False)
    for hop in range(hops):
        said = progress[hop]
        if said.sent > step:
            continue
        if said.received > step:
            return Stalled(hop, "has a step and does not finish it", True)
        before = "this node" if hop == 0 else "the hop before it"
        what = f"says that a step which {before} has sent did not come"
        return Stalled(hop, what, True, is_disputed=hop > 0)
    return Stalled(hops - 1, "says that it has sent an answer, which did not come", False)
