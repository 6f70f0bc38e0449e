"""A made-up swarm of any size, the same for a seed: to time the planner, and to test it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kwaai.placement.path_types import Candidate, HomePart
from kwaai.types import LayerRange


@dataclass(frozen=True, slots=True)
class PlanCase:
    """The arguments of `choose_path`."""

    block_count: int
    candidates: tuple[Candidate, ...]
    home: HomePart
    pairs: dict[tuple[str, str], float]


def plan_case(
    seed: int,
    peers: int = 1000,
    block_count: int = 80,
    *,
    pairs: int = 0,
    divisible_share: float = 0.5,
    owners: int = 200,
) -> PlanCase:
    """Make peers of unequal ranges, speeds, distances, trust and owners; `pairs` of them have
    measured each other.
    """
    draw = np.random.default_rng(seed)
    found = []
    for number in range(peers):
        start = int(draw.integers(1, block_count - 1))
        stop = min(block_count - 1, start + int(draw.integers(2, 25)))
        found.append(
            Candidate(
                f"peer-{number:04}",
                f"name-{number}",
                LayerRange(start, max(start + 1, stop)),
                float(draw.uniform(0.0005, 0.004)) * (stop - start + 1),
                float(draw.uniform(0.005, 0.15)),
                int(draw.integers(0, 4)),
                tier=int(draw.integers(0, 4)),
                trust=float(draw.random()),
                owner=f"owner-{draw.integers(owners)}",
                failure=float(draw.uniform(0, 0.2)),
                prefill_tokens_s=float(draw.uniform(100, 2000)),
                divisible=bool(draw.random() < divisible_share),
            )
        )
    home = HomePart(0.002, 0.003, 6, None, prefill_block_s=0.0003)
    measured = {}
    for one, other in draw.integers(peers, size=(pairs, 2)).tolist():
        if one != other:
            measured[found[one].peer, found[other].peer] = float(draw.uniform(0.002, 0.2))
    return PlanCase(block_count, tuple(found), home, measured)
