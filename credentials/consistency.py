"""What no schema can say of claims: which follow from others, and which contradict each other.

The rules go by claim name, because a name means the same in every type of ours.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any, Final

from credentials.document import parse_time
from credentials.errors import SchemaViolated
from credentials.limits import CLAIM_WINDOW_S_MAX, CLOCK_SKEW_S

RATIO_DECIMALS: Final = 6
INFERENCE_S_MAX: Final = 7 * 86_400

_RATIO_ERROR: Final = 0.5 * 10**-RATIO_DECIMALS + 1e-12
_OVER = ("windowEnd", "finishedAt", "checkedAt")
"""Moments that are over when a credential tells of them."""


def complete_claims(claims: dict[str, Any], known: Container[str]) -> None:
    """Fill in what follows from other claims, where it was left out."""
    if "uptimeRatio" in known and "uptimeRatio" not in claims:
        probes, successes = claims.get("probeCount"), claims.get("successCount")
        if isinstance(probes, int) and isinstance(successes, int) and probes > 0:
            claims["uptimeRatio"] = min(round(successes / probes, RATIO_DECIMALS), 1.0)


def check_consistency(where: str, claims: Mapping[str, Any], valid_from_s: float | None) -> None:
    """Check claims that each for itself are within their bounds. Raises SchemaViolated.

    `where`: how a message begins. `valid_from_s`: of the credential.
    """
    _check_counts(where, claims)
    _check_span(where, claims, "windowStart", "windowEnd", CLAIM_WINDOW_S_MAX, empty=False)
    _check_span(where, claims, "startedAt", "finishedAt", INFERENCE_S_MAX, empty=True)
    if "blockStart" in claims and claims["blockStart"] >= claims["blockStop"]:
        raise SchemaViolated(
            f"{where}blockStop is {claims['blockStop']}; it is more than blockStart "
            f"({claims['blockStart']})"
        )
    first_ms = claims.get("firstTokenMilliseconds")
    if first_ms is not None:
        whole_s = parse_time(claims["finishedAt"]) - parse_time(claims["startedAt"])
        if first_ms > whole_s * 1000 + 1000:  # times are often told in whole seconds
            raise SchemaViolated(
                f"{where}firstTokenMilliseconds is {first_ms}; startedAt to finishedAt are "
                f"{whole_s * 1000:.0f}"
            )
    if valid_from_s is not None:
        _check_over(where, claims, valid_from_s)


def _check_counts(where: str, claims: Mapping[str, Any]) -> None:
    successes = claims.get("successCount")
    for whole in ("probeCount", "interactionCount"):
        if successes is not None and whole in claims and successes > claims[whole]:
            raise SchemaViolated(
                f"{where}successCount is {successes}; it is at most {whole} ({claims[whole]})"
            )
    ratio = claims.get("uptimeRatio")
    if ratio is not None:
        exact = claims["successCount"] / claims["probeCount"]
        if abs(ratio - exact) > _RATIO_ERROR:
            raise SchemaViolated(
                f"{where}uptimeRatio is {ratio}; successCount / probeCount is "
                f"{round(exact, RATIO_DECIMALS)}"
            )


def _check_span(
    where: str, claims: Mapping[str, Any], start: str, end: str, s_max: float, *, empty: bool
) -> None:
    if start not in claims or end not in claims:
        return
    span_s = parse_time(claims[end]) - parse_time(claims[start])
    if span_s < 0 or (span_s == 0 and not empty):
        raise SchemaViolated(
            f"{where}{end} is {claims[end]}; it is {'not before' if empty else 'after'} {start} "
            f"({claims[start]})"
        )
    if span_s > s_max:
        raise SchemaViolated(
            f"{where}{start} to {end} are {span_s / 86_400:.1f} days; they are at most "
            f"{s_max / 86_400:.0f}"
        )


def _check_over(where: str, claims: Mapping[str, Any], valid_from_s: float) -> None:
    for name in _OVER:
        if name in claims and parse_time(claims[name]) > valid_from_s + CLOCK_SKEW_S:
            raise SchemaViolated(
                f"{where}{name} is {claims[name]}, later than validFrom: it was not over yet"
            )
