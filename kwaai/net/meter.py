"""How fast a link is: round trips and bandwidth, from pings that the link sends.

Does not send or read a clock.
"""

from __future__ import annotations

import statistics
from collections import deque

_SAMPLES = 5
_WAITING_MAX = 8
_LEAST_S = 10e-6  # nothing is measured more finely than this


class Meter:
    """Pings that wait for their answer, and the last few results."""

    def __init__(self) -> None:
        self._waiting: dict[bytes, tuple[float, int]] = {}
        self._rtts: deque[float] = deque(maxlen=_SAMPLES)
        self._bandwidths: deque[float] = deque(maxlen=_SAMPLES)

    def sent(self, token: bytes, now_s: float, padding_bytes: int = 0) -> None:
        """Remember a ping, and how much padding went before it."""
        if len(self._waiting) >= _WAITING_MAX:
            del self._waiting[next(iter(self._waiting))]
        self._waiting[token] = now_s, padding_bytes

    def answered(self, token: bytes, now_s: float) -> None:
        """Take a pong. One that answers no ping of ours counts for nothing."""
        sent_s, padding_bytes = self._waiting.pop(token, (0.0, -1))
        if padding_bytes == 0:
            self._rtts.append(now_s - sent_s)
        elif padding_bytes > 0:
            taken_s = now_s - sent_s - min(self._rtts, default=0.0)
            self._bandwidths.append(padding_bytes / max(taken_s, _LEAST_S))

    @property
    def rtt_s(self) -> float | None:
        """Seconds of a round trip: the median of the last five."""
        return statistics.median(self._rtts) if self._rtts else None

    @property
    def bandwidth_bytes_s(self) -> float | None:
        """Bytes a second that the peer takes: the median of the last five."""
        return statistics.median(self._bandwidths) if self._bandwidths else None
