"""Where objects lie: weighted rendezvous hashing over hosts, and which hosts to take at all.

Nobody keeps a list: an object's id and the members say where it belongs, so every device of the
owner finds it. Pure mathematics; asks nobody. Known method: rendezvous hashing (Thaler, Ravishankar
1998) with logarithmic weights (Schindelhauer, Schomaker 2005). docs/vpk.md, "Placement".
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from kwaai.errors import TooFewHosts, UserError
from kwaai.limits import VPK_MEMBERS_MAX, VPK_OWNER_CHARS_MAX, VPK_REPLICAS_MAX
from kwaai.vpk.types import ID_BYTES

if TYPE_CHECKING:
    from numpy.typing import NDArray

_DOMAIN: Final = b"kwaai vpk spread 1"
_MIX_1: Final = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2: Final = np.uint64(0x94D049BB133111EB)
_MEDIAN_FACTOR: Final = 4.0
_TIER_WEIGHTS: Final = (0.5, 1.0, 1.0, 1.25)


@dataclass(frozen=True, slots=True)
class Place:
    """A host as placement sees it."""

    id: str
    owner: str
    weight: float
    anchor: bool
    """May be the only holder of an object."""


class Spread:
    """The rule for one list of places. Immutable; any thread may use it."""

    def __init__(self, places: Sequence[Place]) -> None:
        """Raises UserError for a list that cannot be: empty, too long, one id twice, a weight that
        is none; TooFewHosts where no place may be an only holder.
        """
        _check(places)
        self.places = tuple(places)
        seeds = b"".join(
            hashlib.blake2b(p.id.encode(), digest_size=16, key=_DOMAIN).digest() for p in places
        )
        words = np.frombuffer(seeds, dtype="<u8").reshape(-1, 2).astype(np.uint64)
        self._seeds = words[:, 0][:, None].copy(), words[:, 1][:, None].copy()
        self._weights = np.array([[p.weight] for p in places], dtype=np.float64)
        names = sorted({p.owner for p in places})
        self._owners = np.array([names.index(p.owner) for p in places], dtype=np.int16)
        self._anchors = np.array([p.anchor for p in places], dtype=np.bool_)
        self._owner_count = len(names)

    def holders(
        self, ids: Sequence[bytes], replicas: int, *, strangers_max: int | None = None
    ) -> NDArray[np.int16]:
        """Return (ids, replicas) indices into `places`, the preferred holder first; fewer columns
        where there are fewer places, or fewer that may take part.

        No two of one owner while there are others. At most `strangers_max` that are no anchors
        (default: all but one). Without a place, objects that were not there stay where they are.
        """
        replicas = min(replicas, len(self.places))
        strangers = replicas - 1 if strangers_max is None else min(strangers_max, replicas)
        replicas = min(replicas, strangers + int(self._anchors.sum()))
        if not 1 <= replicas <= VPK_MEMBERS_MAX:
            raise UserError(f"{replicas} copies of an object are out of range")
        if len(self.places) == 1:
            return np.zeros((len(ids), 1), dtype=np.int16)
        return self._choose(self._scores(ids), replicas, strangers)

    def order(self, object_id: bytes) -> list[int]:
        """Return all places for one object, the best first, whoever they belong to."""
        return [int(i) for i in np.argsort(-self._scores([object_id])[:, 0], kind="stable")]

    def _scores(self, ids: Sequence[bytes]) -> NDArray[np.float64]:
        """Return (places, ids): the place with the highest score is the first choice."""
        joined = b"".join(ids)
        if len(joined) != ID_BYTES * len(ids):
            raise UserError("an object's id has 16 bytes")
        words = np.frombuffer(joined, dtype="<u8").reshape(-1, 2).astype(np.uint64)
        mixed = (words[:, 0] ^ self._seeds[0]) * _MIX_1
        mixed ^= mixed >> np.uint64(29)
        mixed += words[:, 1] ^ self._seeds[1]
        mixed ^= mixed >> np.uint64(30)
        mixed *= _MIX_1
        mixed ^= mixed >> np.uint64(27)
        mixed *= _MIX_2
        mixed >>= np.uint64(11)
        unit = mixed.astype(np.float64)
        unit += 0.5
        unit *= 2.0**-53  # in (0, 1): the logarithm is finite and negative
        np.log(unit, out=unit)
        scores: NDArray[np.float64] = -self._weights / unit
        return scores

    def _choose(
        self, scores: NDArray[np.float64], replicas: int, strangers_max: int
    ) -> NDArray[np.int16]:
        count = scores.shape[1]
        columns = np.arange(count)
        chosen = np.empty((count, replicas), dtype=np.int16)
        strangers = np.zeros(count, dtype=np.int16)
        left = scores.copy()  # of places that are not chosen yet
        free = scores.copy()  # the same, without those whose owner was chosen
        for rank in range(replicas):
            allowed, fallback = free, left
            full = strangers >= strangers_max
            if strangers_max < replicas and bool(full.any()):
                barred = full[None, :] & ~self._anchors[:, None]
                allowed = np.where(barred, -1.0, free)
                fallback = np.where(barred, -1.0, left)
            best = allowed.argmax(axis=0)
            if rank:
                used_up = allowed[best, columns] < 0.0
                if bool(used_up.any()):
                    best = np.where(used_up, fallback.argmax(axis=0), best)
            chosen[:, rank] = best
            if rank + 1 == replicas:
                break
            strangers += ~self._anchors[best]
            left[best, columns] = -1.0
            if self._owner_count == len(self.places):
                free = left
            else:
                free[self._owners[:, None] == self._owners[best][None, :]] = -1.0
        return chosen


def _check(places: Sequence[Place]) -> None:
    if not 1 <= len(places) <= VPK_MEMBERS_MAX:
        raise UserError(f"a base has 1 to {VPK_MEMBERS_MAX} hosts, not {len(places)}")
    if len({p.id for p in places}) != len(places):
        raise UserError("one host is listed twice among the hosts of a base")
    for place in places:
        if not 1e-6 <= place.weight <= 1e6:
            raise UserError(f"{place.weight} is no weight of a host: 0.000001 to 1000000")
        if len(place.owner) > VPK_OWNER_CHARS_MAX:
            raise UserError(f"the owner of host {place.id:.80} has more than 256 characters")
    if not any(p.anchor for p in places):
        raise TooFewHosts(
            "none of the hosts is trusted enough to be the only holder of an object: add one of a "
            "higher tier or of your own, or lower the tier that is asked for"
        )


@dataclass(frozen=True, slots=True)
class Candidate:
    """A host that offers room."""

    id: str
    owner: str
    tier: int
    free_bytes: int
    own: bool = False
    """A device of the base's owner."""
    rtt_s: float | None = None
    unreachable: bool = False


@dataclass(frozen=True, slots=True)
class Choice:
    """Who is taken, and why others are not."""

    chosen: tuple[Candidate, ...]
    weights: tuple[float, ...]
    """Of each of `chosen`: by tier and free space, of different hosts at most 40 to 1."""
    refused: tuple[tuple[Candidate, str], ...]
    """With the reason, for people."""


def choose_members(
    candidates: Iterable[Candidate],
    *,
    wanted: int,
    replicas: int,
    floor: int,
    least_tier: int = 0,
    needed_bytes: int = 0,
) -> Choice:
    """Choose up to `wanted` hosts: as many owners as possible, the higher tiers and the more room
    first, strangers (below `floor`) last and no more of them than of the others.

    `needed_bytes` is what a host must have free. Raises TooFewHosts, with every reason, where there
    is none that may be an only holder; UserError for figures that cannot be.
    """
    if not (1 <= wanted <= VPK_MEMBERS_MAX and 1 <= replicas <= VPK_REPLICAS_MAX):
        raise UserError(f"{wanted} hosts and {replicas} copies are out of range")
    refused: list[tuple[Candidate, str]] = []
    fit: list[Candidate] = []
    for candidate in sorted(candidates, key=_preference):
        reason = _unfit(candidate, least_tier, needed_bytes, {c.id for c in fit})
        if reason:
            refused.append((candidate, reason))
        else:
            fit.append(candidate)
    chosen, left = _by_owner(fit, wanted, floor)
    for candidate in left:
        stranger = not _is_anchor(candidate, floor)
        why = "there are enough hosts of other owners, or of a higher tier"
        if stranger and len(chosen) < wanted:
            why = "strangers may be no more than half: there is no host of a higher tier beside it"
        refused.append((candidate, why))
    if not any(_is_anchor(c, floor) for c in chosen):
        raise TooFewHosts(_why_none(refused, floor))
    return Choice(tuple(chosen), tuple(_weights(chosen)), tuple(refused))


def _is_anchor(candidate: Candidate, floor: int) -> bool:
    return candidate.own or candidate.tier >= floor


def _preference(candidate: Candidate) -> tuple[bool, int, float, float, str]:
    rtt_s = 1.0 if candidate.rtt_s is None else candidate.rtt_s
    # A factor of two in room or time decides, less does not: then the id, the same everywhere.
    room = -float(max(0, candidate.free_bytes).bit_length())
    time = float(int(max(0.0, min(rtt_s, 60.0)) * 1000).bit_length())
    return (not candidate.own, -candidate.tier, time, room, candidate.id)


def _unfit(candidate: Candidate, least_tier: int, needed_bytes: int, taken: set[str]) -> str:
    if candidate.id in taken:
        return "it is there already"
    if candidate.unreachable:
        return "it does not answer"
    if candidate.tier < least_tier and not candidate.own:
        return f"its tier is {candidate.tier}, and at least {least_tier} is asked for"
    if candidate.free_bytes < needed_bytes:
        return f"it has {candidate.free_bytes} bytes free, and {needed_bytes} are needed"
    return ""


def _by_owner(
    fit: Sequence[Candidate], wanted: int, floor: int
) -> tuple[list[Candidate], list[Candidate]]:
    """Take one of each owner, then the next of each; strangers after all others."""
    seen: dict[str, int] = {}
    rounds: list[tuple[bool, int, int, Candidate]] = []
    for position, candidate in enumerate(fit):
        turn = seen.get(candidate.owner, 0)
        seen[candidate.owner] = turn + 1
        rounds.append((not _is_anchor(candidate, floor), turn, position, candidate))
    chosen: list[Candidate] = []
    left: list[Candidate] = []
    anchors = strangers = 0
    # First turns of everybody before second turns of anybody: owners count before tiers.
    for stranger, _, _, candidate in sorted(rounds, key=lambda r: (r[1] > 0, r[0], r[1], r[2])):
        if len(chosen) >= wanted or (stranger and strangers >= anchors):
            left.append(candidate)
            continue
        chosen.append(candidate)
        strangers += stranger
        anchors += not stranger
    return chosen, left


def _weights(chosen: Sequence[Candidate]) -> list[float]:
    median = float(np.median([max(1, c.free_bytes) for c in chosen]))
    weights = []
    for candidate in chosen:
        room = max(1, candidate.free_bytes) / median
        factor = _TIER_WEIGHTS[max(0, min(candidate.tier, len(_TIER_WEIGHTS) - 1))]
        weights.append(factor * max(1 / _MEDIAN_FACTOR, min(_MEDIAN_FACTOR, room)))
    return weights


def _why_none(refused: Sequence[tuple[Candidate, str]], floor: int) -> str:
    if not refused:
        return "no host offers room: see `kwaainet vpk discover`, or host on a machine of your own"
    reasons = "; ".join(f"{c.id:.20}: {why}" for c, why in refused[:8])
    return f"none of {len(refused)} hosts is of tier {floor} or above and fits ({reasons})"
