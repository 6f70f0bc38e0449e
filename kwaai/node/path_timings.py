"""Where the time of an answer's decode steps went, part by part. Measures nothing itself."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from kwaai.inference.chain import TIMINGS_KEPT
from kwaai.node.parts import Ran
from kwaai.node.runtime import percentile_ms
from kwaai.wire.step import Timing

Ms = tuple[float, float]


def _kept() -> deque[float]:
    return deque(maxlen=TIMINGS_KEPT)


@dataclass(slots=True)
class PartTimings:
    """Of one part: seconds per decode step, the latest last."""

    compute_s: deque[float] = field(default_factory=_kept)
    queue_s: deque[float] = field(default_factory=_kept)
    send_s: deque[float] = field(default_factory=_kept)


@dataclass(slots=True)
class PathTimings:
    """Of one path: its own first and last part, its hops as they say, and all ways between them."""

    first: PartTimings = field(default_factory=PartTimings)
    last: PartTimings = field(default_factory=PartTimings)
    hops: dict[int, PartTimings] = field(default_factory=dict)
    token_s: deque[float] = field(default_factory=_kept)
    links_s: deque[float] = field(default_factory=_kept)
    """What is left of a step's way through the hops after what they say: links, and loops."""
    remote_s: deque[float] = field(default_factory=_kept)
    """A step's way through the hops, by this node's own clock."""
    added_s: deque[float] = field(default_factory=_kept)
    """What is left of a step after the computing of all parts, by their workers' clocks."""

    def add(
        self,
        token_s: float,
        first: Ran,
        remote_s: float = 0.0,
        hops: Sequence[Timing] = (),
        last: Ran | None = None,
    ) -> None:
        """Note one decode step. `remote_s`: from the way out to the last hop's answer."""
        self.token_s.append(token_s)
        for part, ran in ((self.first, first), (self.last, last)):
            if ran is not None:
                part.compute_s.append(ran.compute_s)
                part.queue_s.append(ran.queued_s + ran.pass_s - ran.compute_s)
        said_s = 0.0
        computed_s = first.compute_s + (last.compute_s if last is not None else 0.0)
        for timing in hops:
            hop = self.hops.setdefault(timing.hop, PartTimings())
            hop.compute_s.append(timing.compute_us / 1e6)
            hop.queue_s.append(timing.queue_us / 1e6)
            hop.send_s.append(timing.link_us / 1e6)
            said_s += (timing.compute_us + timing.queue_us) / 1e6
            computed_s += timing.compute_us / 1e6
        if hops:
            self.remote_s.append(remote_s)
            self.links_s.append(max(0.0, remote_s - said_s))
            self.added_s.append(max(0.0, token_s - computed_s))


def median_and_99th(seconds: Sequence[float]) -> Ms | None:
    """Return both in milliseconds; None where nothing was measured."""
    median, high = percentile_ms(seconds, 0.5), percentile_ms(seconds, 0.99)
    return None if median is None or high is None else (median, high)
