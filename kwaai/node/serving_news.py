"""Whether what a node serves has changed for others, so that it is worth an announcement. Pure."""

from __future__ import annotations

from kwaai.limits import SERVING_SPEED_CHANGE
from kwaai.wire.records import Served


def is_about(now: tuple[Served, ...], before: tuple[Served, ...] | None) -> bool:
    """Whether others would choose the same by either: small changes of speed wait for a refresh."""
    return before is not None and len(now) == len(before) and all(
        _key(one) == _key(other)
        and _is_near(one.decode_us, other.decode_us)
        and _is_near(one.prefill_tokens_s, other.prefill_tokens_s)
        for one, other in zip(now, before, strict=True)
    )  # fmt: skip


def _key(served: Served) -> tuple[object, ...]:
    return (
        served.handle, served.layers, served.state, served.sessions_free == 0, served.divisible
    )  # fmt: skip


def _is_near(one: float, other: float) -> bool:
    return abs(one - other) <= SERVING_SPEED_CHANGE * max(one, other)
