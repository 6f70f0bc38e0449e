"""What a peer's observations add up to: whole numbers, so that order does not matter.

An observation counts 2^(-age / half-life). All ages grow alike, so a sum is kept as of a fixed
moment and scaled when it is read: adding or taking away one observation costs the same however many
there are, and nothing is computed anew as time goes. The sums are integers (fixed point): the same
observations give the same bits in any order, and one taken away was never there.

Judges nothing: `behaviour` does. docs/trust.md, "Behaviour".
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from operator import add
from typing import Final, NamedTuple

from kwaai.trust.evidence import Observation, Outcome

OUTCOMES: Final = tuple(Outcome)
_PLACES: Final = {outcome: place for place, outcome in enumerate(OUTCOMES)}

FACETS: Final = ("availability", "correctness", "throughput", "latency")

COUNTS: Final[Mapping[Outcome, tuple[str, float]]] = {
    Outcome.SERVED: ("availability", 1.0),
    Outcome.FAILED: ("availability", -1.0),
    Outcome.STALLED: ("availability", -1.0),
    Outcome.UNREACHABLE: ("availability", -0.5),
    Outcome.REFUSED: ("availability", -0.125),
    Outcome.MISBEHAVED: ("correctness", -2.0),
    Outcome.WRONG: ("correctness", -3.0),
    Outcome.DISPUTED: ("correctness", -1.0),
    Outcome.AGREED: ("correctness", 1.0),
}
"""For or against which facet an outcome counts, and how much."""

THROUGHPUT_SLACK: Final = 0.5
"""Of the claimed tokens/s, what is as good as all: claims are measured on idle machines."""
LATENCY_SLACK: Final = 3.0
"""Times the expected latency that is as good as expected: an honest peer that works for three at
once takes as long."""

_SHARE_BITS: Final = 10  # of what is counted
_SHARE: Final = 1 << _SHARE_BITS
_SHARES: Final = {
    outcome: (1 + 2 * FACETS.index(facet) + (counted < 0.0), round(abs(counted) * _SHARE))
    for outcome, (facet, counted) in COUNTS.items()
}
"""Which sum an outcome counts in, and how much."""
_EPOCH_S: Final = 1_735_689_600.0  # 2025-01-01: where whole half-lives are counted from
_FRACTION_BITS: Final = 52  # of a weight: as many as a float has
_SUM_MAX: Final = 1 << 1000  # as a float it is finite, and rounded once
_PLACES_MAX: Final = 900  # 2^900 and 2^-900 are floats with all their digits
_NOTHING: Final = (0,) * (1 + 2 * len(FACETS))


class Facet(NamedTuple):
    """Decayed counts for and against a peer, in observations."""

    good: float
    bad: float


@dataclass(frozen=True, slots=True)
class Tally:
    """The sums of one peer's observations."""

    half_life_s: float
    sums: tuple[int, ...] = _NOTHING
    """Fixed point, as of the epoch: the number of observations, then good and bad of each facet."""
    counts: tuple[int, ...] = (0,) * len(OUTCOMES)
    """Observations by outcome, not decayed, in the order of OUTCOMES."""

    @property
    def observations(self) -> int:
        """How many observations there are."""
        return sum(self.counts)

    def count(self, outcome: Outcome) -> int:
        """How many observations had that outcome."""
        return self.counts[_PLACES[outcome]]

    def plus(self, observation: Observation) -> Tally:
        """Return the tally with one observation more."""
        return self._change(observation, 1)

    def minus(self, observation: Observation) -> Tally:
        """Return the tally as if an observation that it has had never been made.

        Raises ValueError where it has none of that outcome.
        """
        if not self.count(observation.outcome):
            raise ValueError(f"the tally has no observation that was {observation.outcome}")
        return self._change(observation, -1)

    def _change(self, observation: Observation, sign: int) -> Tally:
        added = _fixed_point(observation, self.half_life_s)
        sums = tuple(old + sign * new for old, new in zip(self.sums, added, strict=True))
        counts = list(self.counts)
        counts[_PLACES[observation.outcome]] += sign
        return Tally(self.half_life_s, sums, tuple(counts))

    def at(self, now_s: float) -> tuple[float, Mapping[str, Facet]]:
        """Return the decayed number of observations, and each facet, as of now.

        What is dated after now, by a clock that was wrong, weighs no more than if it were of now.
        """
        halvings, rest_s = divmod(now_s - _EPOCH_S, self.half_life_s)
        factor = math.exp2(-rest_s / self.half_life_s)
        places = -_FRACTION_BITS - _SHARE_BITS - int(halvings)
        if abs(places) < _PLACES_MAX and max(self.sums) < _SUM_MAX:
            scale = math.ldexp(factor, places)
            values = [total * scale for total in self.sums]
        else:
            values = [_scaled(total, places) * factor for total in self.sums]
        count = float(sum(self.counts))
        if values[0] > count:
            values = [value * (count / values[0]) for value in values]
        pairs = zip(values[1::2], values[2::2], strict=True)
        return values[0], dict(zip(FACETS, map(Facet._make, pairs), strict=True))


class Tallies:
    """The tallies of all peers, changed observation by observation. One owner changes it.

    Bounded by whoever keeps the observations: what is removed there is removed here.
    """

    def __init__(self, half_life_s: float, observations: Iterable[Observation] = ()) -> None:
        self.half_life_s = half_life_s
        self._of = dict(tally_all(observations, half_life_s))

    def add(self, observation: Observation) -> None:
        """Count one observation."""
        old = self._of.get(observation.peer) or Tally(self.half_life_s)
        self._of[observation.peer] = old.plus(observation)

    def remove(self, observation: Observation) -> None:
        """Take one observation away as if it had never been made.

        Raises ValueError where it is not there.
        """
        old = self._of.get(observation.peer)
        if old is None:
            raise ValueError(f"there is no observation of {observation.peer:.80}")
        new = old.minus(observation)
        if new.observations:
            self._of[observation.peer] = new
        else:
            del self._of[observation.peer]

    def forget(self, peer: str) -> None:
        """Take all observations of a peer away."""
        self._of.pop(peer, None)

    def get(self, peer: str) -> Tally | None:
        """Return the tally of a peer; None where nothing was seen of it."""
        return self._of.get(peer)

    def snapshot(self) -> Mapping[str, Tally]:
        """Return the tallies as they are now: later changes do not reach them."""
        return dict(self._of)

    def __len__(self) -> int:
        return len(self._of)


def tally_all(
    observations: Iterable[Observation], half_life_s: float, *, until_s: float | None = None
) -> Mapping[str, Tally]:
    """Return principal -> tally of many observations: what adding them one by one gives.

    `until_s`: later ones are left out.
    """
    sums: dict[str, list[int]] = {}
    counts: dict[str, list[int]] = {}
    for observation in observations:
        if until_s is not None and observation.at_s > until_s:
            continue
        peer = observation.peer
        if peer not in sums:
            sums[peer], counts[peer] = list(_NOTHING), [0] * len(OUTCOMES)
        sums[peer] = list(map(add, sums[peer], _fixed_point(observation, half_life_s)))
        counts[peer][_PLACES[observation.outcome]] += 1
    return {
        peer: Tally(half_life_s, tuple(total), tuple(counts[peer])) for peer, total in sums.items()
    }


def _fixed_point(observation: Observation, half_life_s: float) -> list[int]:
    """Return what one observation adds to the sums."""
    halvings, rest_s = divmod(observation.at_s - _EPOCH_S, half_life_s)
    unit = int(math.ldexp(math.exp2(rest_s / half_life_s), _FRACTION_BITS))
    shift = int(halvings)
    added = list(_NOTHING)
    for place, share in _shares(observation):
        added[place] = unit * share << shift if shift >= 0 else unit * share >> -shift
    return added


def _shares(observation: Observation) -> list[tuple[int, int]]:
    """Return which sums one observation counts in, and how much, in units of 1 / _SHARE."""
    outcome = observation.outcome
    shares = [(0, _SHARE), _SHARES[outcome]]
    if outcome is Outcome.SERVED:
        if observation.claimed_tokens_s is not None:
            had, asked = observation.tokens_s, observation.claimed_tokens_s
            shares += _fairness(5, had, asked, 1.0 / THROUGHPUT_SLACK)
        if observation.latency_s is not None:
            had, asked = observation.expected_s, observation.latency_s
            shares += _fairness(7, had, asked, LATENCY_SLACK)
    return shares


def _fairness(
    place: int, had: float | None, asked: float, slack: float
) -> tuple[tuple[int, int], ...]:
    """Return how much of what was asked was had, slack included: for, and against."""
    if had is None or not 0.0 <= had < math.inf or not 0.0 < asked < math.inf:
        return ()
    good = round(min(1.0, had / asked * slack) * _SHARE)
    return (place, good), (place + 1, _SHARE - good)


def _scaled(total: int, places: int) -> float:
    """Return total x 2^places, rounded once; held within what a float can be."""
    spare = total.bit_length() - 64
    if spare > 0:
        lost = total & ((1 << spare) - 1)
        total = (total >> spare) | (lost != 0)
        places += spare
    return math.ldexp(float(total), min(max(places, -2000), 900))
