"""How far a long task is, how fast it goes, and when it may be done.

Draws nothing: a face gives the callback that does. The clock is the caller's.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Phase = Literal["header", "fetching", "cutting", "verifying", "done"]

_SMOOTHING_S = 5.0
"""Time constant of the average: long enough to be calm, short enough to notice a change."""
_REPORT_EVERY_S = 0.1


@dataclass(frozen=True, slots=True)
class Progress:
    done_bytes: int
    total_bytes: int
    speed_bytes_s: float | None
    """Smoothed; None until there is something to judge by."""
    eta_s: float | None
    phase: Phase
    what: str
    """The file, as a person knows it."""


Report = Callable[[Progress], None]
"""Called from the thread that downloads. An exception it raises ends the download, resumably."""


class Meter:
    """Counts bytes and reports at most ten times a second."""

    def __init__(self, report: Report | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._report = report
        self._clock = clock
        self.fetched_bytes = 0
        """Bytes that came over the network, all phases and repeats together."""
        self._begin("header", "", 0, 0)

    def begin(self, phase: Phase, what: str, total_bytes: int, done_bytes: int = 0) -> None:
        """Start a phase of which `done_bytes` are there already."""
        self._begin(phase, what, total_bytes, done_bytes)
        self._say()

    def advance(self, count: int, *, fetched: bool = True) -> None:
        self._done += count
        self._since_sample += count
        if fetched:
            self.fetched_bytes += count
        now = self._clock()
        if now - self._sampled_at >= _REPORT_EVERY_S:
            self._sample(now)
            self._say()
        elif self._done >= self._total:
            self._say()

    def _begin(self, phase: Phase, what: str, total_bytes: int, done_bytes: int) -> None:
        self._phase, self._what = phase, what
        self._total, self._done = total_bytes, done_bytes
        self._speed: float | None = None
        self._since_sample = 0
        self._sampled_at = self._clock()

    def _sample(self, now: float) -> None:
        elapsed_s = now - self._sampled_at
        speed = self._since_sample / elapsed_s
        weight = 1.0 - math.exp(-elapsed_s / _SMOOTHING_S)
        self._speed = speed if self._speed is None else self._speed + weight * (speed - self._speed)
        self._sampled_at, self._since_sample = now, 0

    def _say(self) -> None:
        if self._report is None:
            return
        left = max(0, self._total - self._done)
        eta_s = left / self._speed if self._speed else (0.0 if left == 0 else None)
        self._report(Progress(self._done, self._total, self._speed, eta_s, self._phase, self._what))
