"""Peers that failed, left alone for a while: longer each time, never for ever.

Knows nothing of why; whoever was asked and failed is noted by its PeerId. This is memory of one
node for minutes, not trust: that comes from evidence, elsewhere.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from kwaai.limits import AVOID_S, AVOID_S_MAX, AVOIDED_PEERS_MAX


@dataclass(slots=True)
class _Failure:
    count: int
    failed_s: float
    until_s: float
    reason: str


@dataclass(frozen=True, slots=True)
class Avoided:
    """A peer that is not asked now."""

    peer: str
    reason: str
    left_s: float
    """How much longer."""


class AvoidList:
    """Who failed lately. Times are of `clock`, monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: dict[str, _Failure] = {}

    def failed(self, peer: str, reason: str) -> None:
        """Leave `peer` alone: AVOID_S, twice as long with each failure in a row, up to the bound.

        Failures of one moment (several answers ran through it) count once.
        """
        now_s = self._clock()
        past = self._failures.pop(peer, None)
        if past is not None and now_s < past.until_s:
            past.reason, past.failed_s = reason, now_s
            self._failures[peer] = past
            return
        count = 1 + (past.count if past else 0)
        wait_s = min(AVOID_S * 2 ** min(count - 1, 16), AVOID_S_MAX)
        while len(self._failures) >= AVOIDED_PEERS_MAX:  # oldest first
            del self._failures[next(iter(self._failures))]
        self._failures[peer] = _Failure(count, now_s, now_s + wait_s, reason)

    def answered(self, peer: str) -> None:
        """Forget what `peer` did: it has done its part of a whole answer."""
        self._failures.pop(peer, None)

    def peers(self) -> frozenset[str]:
        """Return who is left alone now."""
        now_s = self._clock()
        return frozenset(peer for peer, f in self._failures.items() if now_s < f.until_s)

    def failed_s(self, peer: str) -> float:
        """Return when `peer` last failed; minus infinity for one that did not."""
        past = self._failures.get(peer)
        return past.failed_s if past is not None else -math.inf

    def explain(self) -> tuple[Avoided, ...]:
        """Return who is left alone, why and for how much longer; the shortest wait first."""
        now_s = self._clock()
        rows = [
            Avoided(peer, f.reason, f.until_s - now_s)
            for peer, f in self._failures.items()
            if now_s < f.until_s
        ]
        return tuple(sorted(rows, key=lambda row: row.left_s))
