"""Exponential forgetting: what is left of a weight after a time."""

from __future__ import annotations

import math


def decay(age_s: float, half_life_s: float) -> float:
    """Return 2^(-age / half-life), in [0, 1]; 1 for an age below 0.

    Whole half-lives are taken off first, which is exact: a half-life more is half as much to the
    bit, wherever it begins.
    """
    if age_s <= 0.0:
        return 1.0
    halvings, rest_s = divmod(age_s, half_life_s)
    return math.ldexp(math.exp2(-rest_s / half_life_s), -min(int(halvings), 2000))
