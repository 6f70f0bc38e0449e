"""How far a peer is believed that says how fast it is: no further than this node has seen.

A claim costs nothing and brings work, so it is bounded twice: nobody is much faster than this
machine, and whoever was on a path that took far longer than predicted is counted as that much
slower for a while. Honest hops of such a path share the blame until they are seen on another.
docs/threat-model.md.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from statistics import median

from kwaai.limits import (
    AVOIDED_PEERS_MAX,
    PATH_LEARNED_S,
    PATH_SLOWNESS_MAX,
    PATH_SLOWNESS_MIN,
    PATH_SPEEDUP_MAX,
)

SAMPLES_MIN = 8
"""Decode steps that say something about a path."""


class Claims:
    """What one node has seen of others' speed. Times are of `clock`, monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._slowness: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """Times as slow as claimed, and until when that is remembered."""

    def believed_s(self, peer: str, claimed_s: float, own_s: float) -> float:
        """Return seconds that the peer's range takes for one token; 0 for unknown.

        own_s: what this machine would need for as many layers.
        """
        slowness = self._slowness_of(peer)
        if claimed_s <= 0:
            return own_s * slowness if slowness > 1 else 0.0
        return max(claimed_s, own_s / PATH_SPEEDUP_MAX) * slowness

    def measured(self, peers: Sequence[str], predicted_s: float, steps_s: Sequence[float]) -> None:
        """Note how long steps took through these hops, where the whole path was predicted to take
        `predicted_s`.
        """
        if len(steps_s) < SAMPLES_MIN or predicted_s <= 0:
            return
        ratio = median(steps_s) / predicted_s
        for peer in peers:
            slowness = self._slowness_of(peer)
            if ratio >= PATH_SLOWNESS_MIN or slowness > 1:
                self._note(peer, min(max(1.0, slowness * ratio), PATH_SLOWNESS_MAX))

    def _note(self, peer: str, slowness: float) -> None:
        self._slowness.pop(peer, None)
        if slowness > 1:
            self._slowness[peer] = slowness, self._clock() + PATH_LEARNED_S
        if len(self._slowness) > AVOIDED_PEERS_MAX:
            self._slowness.popitem(last=False)

    def _slowness_of(self, peer: str) -> float:
        slowness, until_s = self._slowness.get(peer, (1.0, 0.0))
        return slowness if self._clock() < until_s else 1.0
