"""Spot checks: two peers of different owners were given the same rows; do they say the same, and
who is wrong where they do not? And how often a peer is to be checked.

Pure: compares arrays and counts verdicts. Asks nobody, draws no chance, knows no sessions: that is
`kwaai.node.spot_check`. What a verdict is worth is `kwaai.trust.behaviour`'s. A check says
"randomly audited", never "verified". docs/trust.md, "Spot checks".
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kwaai.limits import (
    SPOT_CHECK_CLEARED,
    SPOT_CHECK_CLEARED_WRONG,
    SPOT_CHECK_NEW,
    SPOT_CHECK_NEW_FACTOR,
    SPOT_CHECK_TOLERANCE,
    SPOT_CHECK_WATCHED_MAX,
)
from kwaai.trust.evidence import Outcome

Rows: TypeAlias = NDArray[np.floating[Any]]
"""Hidden states: (positions, width)."""

FAR: Final = float("inf")
"""The distance of what cannot be compared."""


@dataclass(frozen=True, slots=True, eq=False)
class Output:
    """What one peer made of the rows that all were given."""

    peer: str
    owner: str
    """Who answers for the peer. A peer whose owner is not known is its own."""
    rows: Rows
    tier: int = 0
    """How far the peer is trusted: nobody is outvoted by those that are all trusted less."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check says of those who took part."""

    outcomes: Mapping[str, Outcome]
    """By peer: AGREED, WRONG or DISPUTED."""
    distance: float
    """The largest between any two of them."""

    @property
    def needs_third(self) -> bool:
        """Whether two disagree, and one more could say who of them is wrong."""
        return len(self.outcomes) == 2 and Outcome.DISPUTED in self.outcomes.values()


def distance(one: Rows, other: Rows) -> float:
    """Return how far two outputs are apart: the relative L2 distance of the worst row, in [0, 2].

    The worst row and not the whole, so that one wrong row among a hundred is not averaged away; by
    the longer of the two, so that it does not matter which comes first. 0 for equal numbers; FAR
    for other shapes and for numbers that are not finite.
    """
    if one.shape != other.shape or one.ndim != 2:
        return FAR
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        return FAR
    if one.size == 0 or np.array_equal(one, other):
        return 0.0
    a, b = one.astype(np.float64), other.astype(np.float64)
    # Scaled first: squares of the largest float64 would not be finite.
    scale = np.maximum(np.abs(a).max(axis=1), np.abs(b).max(axis=1))
    scale[scale == 0.0] = 1.0
    a, b = a / scale[:, None], b / scale[:, None]
    lengths = np.maximum(np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1))
    lengths[lengths == 0.0] = 1.0
    return float((np.linalg.norm(a - b, axis=1) / lengths).max())


def judge(outputs: Sequence[Output], tolerance: float = SPOT_CHECK_TOLERANCE) -> Verdict:
    """Say who is right, of two outputs or of three, for the same rows.

    Two that agree are AGREED, two that do not are DISPUTED. With a third: who agrees with exactly
    one of the others is AGREED with it, and the one that is alone is WRONG. Where nobody agrees
    with anybody, all are DISPUTED; where the third is near both and they are not near each other,
    it is AGREED and they stay DISPUTED. Where the one that is alone is of a higher tier than both
    of the others, all are DISPUTED: two names are cheap. The same for any order of the outputs.

    tolerance: the largest distance that is no disagreement.

    Raises ValueError for another number of outputs, and where two have the same peer or owner: who
    answers for both could outvote the third.
    """
    if not 2 <= len(outputs) <= 3:
        raise ValueError(f"a spot check compares 2 or 3 outputs, not {len(outputs)}")
    for names in ([o.peer for o in outputs], [o.owner for o in outputs]):
        if len(set(names)) != len(names):
            raise ValueError("a spot check needs peers of different owners")
    distances = [
        (one.peer, other.peer, distance(one.rows, other.rows))
        for one, other in combinations(outputs, 2)
    ]
    friends: dict[str, int] = {output.peer: 0 for output in outputs}
    for one, other, apart in distances:
        if apart <= tolerance:
            friends[one] += 1
            friends[other] += 1
    outcomes, tiers = _outcomes(friends), {output.peer: output.tier for output in outputs}
    believed = max((tiers[p] for p, o in outcomes.items() if o is Outcome.AGREED), default=0)
    if any(o is Outcome.WRONG and tiers[p] > believed for p, o in outcomes.items()):
        outcomes = dict.fromkeys(friends, Outcome.DISPUTED)
    return Verdict(outcomes, max(apart for _, _, apart in distances))


def _outcomes(friends: Mapping[str, int]) -> dict[str, Outcome]:
    """By how many of the others each agrees with."""
    most = max(friends.values())
    if most == 0:
        return dict.fromkeys(friends, Outcome.DISPUTED)
    everybody = len(friends) - 1
    if most == everybody and min(friends.values()) < most:  # one is near both ends of a dispute
        return {
            peer: Outcome.AGREED if count == most else Outcome.DISPUTED
            for peer, count in friends.items()
        }
    return {
        peer: Outcome.AGREED if count == most else Outcome.WRONG for peer, count in friends.items()
    }


class Watch:
    """How often each peer is checked: strangers more often than those that have agreed a few times,
    and whoever was in a disagreement every time, until it has agreed often enough in a row; then it
    is a stranger.

    So a liar is not only found by chance again and again: the first disagreement brings the others.
    Kept in memory only, for SPOT_CHECK_WATCHED_MAX peers; who was seen longest ago goes first, and
    is then a stranger.
    """

    def __init__(self, share: float) -> None:
        """share: of the answers of a peer that is known to agree, in [0, 1]. 0: none."""
        if not 0.0 <= share <= 1.0:
            raise ValueError(f"a share of {share} is not within 0 and 1")
        self.base = share
        self._agreed: OrderedDict[str, int] = OrderedDict()
        """Checks in a row that a peer agreed in; below 0: what is missing until it is cleared."""

    def share(self, peer: str) -> float:
        """Return the probability with which an answer of `peer` is to be checked."""
        agreed = self._agreed.get(peer, 0)
        if self.base == 0.0:
            return 0.0
        if agreed < 0:
            return 1.0
        if agreed < SPOT_CHECK_NEW:
            return min(1.0, SPOT_CHECK_NEW_FACTOR * self.base)
        return self.base

    def note(self, verdict: Verdict) -> None:
        """Take a verdict into account. Where somebody is wrong who was in no doubt so far, all are
        strangers again: what one turned out to be, others may be too.
        """
        found = verdict.outcomes.items()
        if any(o is Outcome.WRONG and not self.is_watched(peer) for peer, o in found):
            for peer, agreed in self._agreed.items():
                self._agreed[peer] = min(agreed, 0)
        for peer, outcome in found:
            if outcome is Outcome.AGREED:
                self._put(peer, min(self._agreed.get(peer, 0) + 1, SPOT_CHECK_NEW))
            elif outcome is Outcome.WRONG:
                self._put(peer, -SPOT_CHECK_CLEARED_WRONG)
            else:
                self._doubt(peer)

    def suspect(self, peers: Iterable[str]) -> None:
        """Check these every time from now on: one of them was wrong, and it is not known who."""
        for peer in peers:
            self._doubt(peer)

    def is_watched(self, peer: str) -> bool:
        """Whether `peer` was in a disagreement and is not cleared yet."""
        return self._agreed.get(peer, 0) < 0

    def _doubt(self, peer: str) -> None:
        self._put(peer, min(self._agreed.get(peer, 0), -SPOT_CHECK_CLEARED))

    def _put(self, peer: str, agreed: int) -> None:
        self._agreed.pop(peer, None)
        self._agreed[peer] = agreed
        while len(self._agreed) > SPOT_CHECK_WATCHED_MAX:
            self._agreed.popitem(last=False)
