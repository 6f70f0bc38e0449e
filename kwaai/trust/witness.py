"""What a witness may say of a peer: the counts of a window as a credential's claims, or nothing.

Pure: what was measured comes in, claims of UptimeVC and ThroughputVC come out. Probes nobody, and
issues nothing (`kwaai.node.witness`). Nothing here is a peer's word. docs/trust.md, "Witnesses".
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from statistics import median
from typing import Any, Final, TypeAlias

from credentials.document import encode_time
from kwaai.limits import (
    WITNESS_PROBES_MAX,
    WITNESS_PROBES_MIN,
    WITNESS_SAMPLE_S_MAX,
    WITNESS_SAMPLES_MIN,
    WITNESS_TOKENS_MIN,
    WITNESS_UNKNOWN_SHARE_MAX,
    WITNESS_UPTIME_MIN,
    WITNESS_VOUCHING_SHARE,
    WITNESS_WINDOW_S,
    WITNESS_WINDOW_S_MAX,
)
from kwaai.types import LayerRange

UPTIME: Final = "UptimeVC"
THROUGHPUT: Final = "ThroughputVC"

Claims: TypeAlias = dict[str, Any]

_RTT_MS_MAX: Final = 3_600_000.0
_TOKENS_S_MAX: Final = 1_000_000.0
"""Both as the schemas have them."""


class Probe(Enum):
    """What came of asking a peer whether it is there."""

    ANSWERED = "answered"
    SILENT = "silent"
    """It did not answer, and this node's own network did what it should."""
    UNKNOWN = "unknown"
    """It did not answer, and the fault may be here."""


def judge_round(answers: Mapping[str, float | None]) -> dict[str, Probe]:
    """Return what each probe of one round says of its peer.

    answers: peer -> seconds of its round trip, None where it did not answer. Where fewer than half
    answered, it is likelier that this node was cut off than that they all were.
    """
    came = sum(rtt_s is not None for rtt_s in answers.values())
    is_online = came > 0 and came >= WITNESS_VOUCHING_SHARE * len(answers)
    missed = Probe.SILENT if is_online else Probe.UNKNOWN
    return {peer: missed if rtt_s is None else Probe.ANSWERED for peer, rtt_s in answers.items()}


@dataclass(slots=True)
class ProbeWindow:
    """The probes of one peer, from the first one on. Times are Unix seconds."""

    answered: int = 0
    silent: int = 0
    unknown: int = 0
    start_s: float | None = None
    """When the first probe was made; `end_s`: the last one."""
    end_s: float | None = None
    rtts_s: list[float] = field(default_factory=list)
    """Of those that were answered: WITNESS_PROBES_MAX at most."""

    @property
    def count(self) -> int:
        """Return how many probes were made."""
        return self.answered + self.silent + self.unknown

    @property
    def is_full(self) -> bool:
        """Whether no more probes are to be made."""
        return self.count >= WITNESS_PROBES_MAX

    def add(self, probe: Probe, at_s: float, rtt_s: float | None = None) -> None:
        """Count a probe. Raises ValueError for a window that is full."""
        if self.is_full:
            raise ValueError(f"a window has at most {WITNESS_PROBES_MAX} probes")
        if self.start_s is None:
            self.start_s = at_s
        self.end_s = at_s
        match probe:
            case Probe.ANSWERED:
                self.answered += 1
                if rtt_s is not None and math.isfinite(rtt_s) and rtt_s >= 0:
                    self.rtts_s.append(rtt_s)
            case Probe.SILENT:
                self.silent += 1
            case Probe.UNKNOWN:
                self.unknown += 1

    def is_over(self, now_s: float) -> bool:
        """Whether it is time to judge it: its time is over, too much of it was missed for it to
        earn anything, or the clock was set back behind it.
        """
        if self.start_s is None or self.end_s is None:
            return False
        is_lost = self.silent > (1 - WITNESS_UPTIME_MIN) * WITNESS_PROBES_MAX
        return is_lost or not self.end_s <= now_s < self.start_s + WITNESS_WINDOW_S


def uptime_claims(window: ProbeWindow, now_s: float) -> Claims | None:
    """Return the claims of an UptimeVC that a window earned (without `id`), or None.

    It earned one where its time is over, enough probes count, nearly all of those made do, and
    nearly all that count were answered. What is unknown counts neither way.
    """
    if window.start_s is None or now_s < window.start_s + WITNESS_WINDOW_S:
        return None
    counted = window.answered + window.silent
    if counted < WITNESS_PROBES_MIN or window.answered < WITNESS_UPTIME_MIN * counted:
        return None
    if window.unknown > WITNESS_UNKNOWN_SHARE_MAX * window.count:
        return None
    span = _span(window.start_s, window.end_s)
    if span is None:
        return None
    claims: Claims = {**span, "probeCount": counted, "successCount": window.answered}
    if window.rtts_s:
        rtt_ms = min(1000 * median(window.rtts_s), _RTT_MS_MAX)
        claims["medianRoundTripMilliseconds"] = round(rtt_ms, 3)
    return claims


@dataclass(frozen=True, slots=True, order=True)
class Sample:
    """One answer that a peer took part in and both sides signed the same receipt of, by the clock
    of the node that asked. Times are Unix seconds.
    """

    model: str
    """Its handle, `sha256:...`."""
    layers: LayerRange
    """What the peer ran."""
    tokens: int
    """After the first one."""
    decode_s: float
    """From the first one to the last."""
    started_s: float
    finished_s: float

    @property
    def tokens_s(self) -> float:
        """Return the speed of the answer, which the peer had at least."""
        return self.tokens / self.decode_s


def sample_of(
    *,
    model: str,
    layers: LayerRange,
    answer_tokens: int,
    started_s: float,
    finished_s: float,
    first_token_ms: float | None,
) -> Sample | None:
    """Return the speed of one answer; None where too little was measured to tell."""
    if first_token_ms is None:
        return None
    decode_s = finished_s - started_s - first_token_ms / 1000
    tokens = answer_tokens - 1
    if tokens < WITNESS_TOKENS_MIN or not 0 < decode_s <= WITNESS_SAMPLE_S_MAX:
        return None
    if tokens > _TOKENS_S_MAX * decode_s or finished_s - started_s > WITNESS_SAMPLE_S_MAX:
        return None
    return Sample(model, layers, tokens, decode_s, started_s, finished_s)


def throughput_claims(samples: Iterable[Sample], misdeeds: int) -> Claims | None:
    """Return the claims of a ThroughputVC that the answers of a window earned (without `id`), or
    None.

    Of the layers with the most samples; the speed is the median, of every sample's whole answer.
    misdeeds: how often the peer was found wrong, or its receipt to be, in that window: the speed of
    wrong answers is none.
    """
    groups: dict[tuple[str, LayerRange], list[Sample]] = {}
    for sample in sorted(samples):
        groups.setdefault((sample.model, sample.layers), []).append(sample)
    if misdeeds or not groups:
        return None
    (model, layers), chosen = min(groups.items(), key=lambda group: (-len(group[1]), group[0]))
    if len(chosen) < WITNESS_SAMPLES_MIN:
        return None
    started_s = min(sample.started_s for sample in chosen)
    span = _span(started_s, max(sample.finished_s for sample in chosen))
    if span is None:
        return None
    return {
        "modelHandle": model,
        "blockStart": layers.start,
        "blockStop": layers.stop,
        "measuredPhase": "decode",
        "tokensPerSecond": round(median(sample.tokens_s for sample in chosen), 3),
        "sampleCount": len(chosen),
        **span,
    }


def _span(start_s: float | None, end_s: float | None) -> Claims | None:
    """Return the window as claims; None for one that is empty (they have whole seconds) or has
    holes.
    """
    if start_s is None or end_s is None:
        return None
    if not 1 <= math.floor(end_s) - math.floor(start_s) <= WITNESS_WINDOW_S_MAX:
        return None
    return {"windowStart": encode_time(start_s), "windowEnd": encode_time(end_s)}
