"""Who may hold how many sessions of a slice: as many as there are, until somebody else is turned
away; then its share against the other, until that one has come or given up.

Shares go by weight (of a tier: 1, 2, 4, 8). Among equals a share is half, and whoever asks first
comes first. Where several weights wait, all of one weight take turns with all of another: everybody
is served, and low ones wait longer. The turns of a weight are its weight times how many wait, who
count only as far as their weight: identities without trust are free, so a thousand strangers have
the turns of one.

Pure: counts and times come from the caller. Identities are free, so this is fairness among the
honest and a fence against one greedy peer, not against many of the same weight.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from credentials.keys import PeerId
from kwaai.limits import COMPUTE_WEIGHT_MAX, SHARD_SHARE_S, SHARD_TURN_S, SHARD_WAITING_MAX

_TURN: Final = 1 << 20
"""Virtual time of one turn at weight 1; the others' are whole numbers too."""


@dataclass(slots=True)
class _Waiter:
    turned_away_s: float
    weight: int
    has_come: bool = False
    """It was let in since: its turn is used, others still keep to their shares for a while."""


class Shares:
    """The shares of one slice. Times are monotonic seconds."""

    def __init__(self, weight_of: Callable[[PeerId], int] = lambda _: 1) -> None:
        """`weight_of`: of a requester, 1 to COMPUTE_WEIGHT_MAX."""
        self._weight_of = weight_of
        self._waiting: dict[PeerId, _Waiter] = {}
        """Requesters that were turned away."""
        self._virtual = 0
        """When the last turn began. Start-time fair queueing, a class for each weight."""
        self._next: dict[int, int] = {}
        """Weight -> when its next turn begins."""
        self._lasted: dict[int, int] = {}
        """Weight -> how long its last turn was."""

    def may_open(
        self, requester: PeerId, held: Mapping[PeerId, int], now_s: float, *, most: int
    ) -> bool:
        """Say whether `requester` may open one more of `most` sessions, if there is one.

        held: sessions of the slice by requester.
        """
        other = self._heaviest_other(requester, now_s)
        return not other or held.get(requester, 0) < _share(most, self._weight(requester), other)

    def must_wait(self, requester: PeerId, now_s: float, *, free: int) -> bool:
        """Say whether all `free` sessions are for others that wait, with other weights."""
        weight, queues = self._weight(requester), self._queues(requester, now_s)
        if len(queues) == 1:
            return False
        turns = {queue: self._turn(queue) for queue in queues}
        for _ in range(min(max(1, free), queues.total())):
            following = min((w for w in queues if queues[w]), key=lambda w: (turns[w], -w))
            if following == weight:
                return False
            turns[following] += _length(following, queues[following])
            queues[following] -= 1
        return True

    def let_in(self, requester: PeerId, now_s: float) -> None:
        """Note that a requester gets a session: a turn of its weight."""
        weight = self._weight(requester)
        self._virtual = self._turn(weight)
        self._lasted[weight] = _length(weight, self._queues(requester, now_s)[weight])
        self._next[weight] = self._virtual + self._lasted[weight]
        if requester in self._waiting:
            self._waiting[requester].has_come = True

    def found_none(self, requester: PeerId) -> None:
        """Note that there was no session for a requester that was let in: its turn is not used."""
        weight = self._weight(requester)
        self._next[weight] = self._turn(weight) - self._lasted.get(weight, 0)

    def turned_away(
        self, requester: PeerId, held: Mapping[PeerId, int], now_s: float, *, most: int
    ) -> None:
        """Note that there was no session for a requester. Its share is all that it waits for."""
        weight = self._weight(requester)
        others = [self._weight(peer) for peer in held if peer != requester]
        share = _share(most, weight, max(others, default=weight))
        if held.get(requester, 0) < share and (
            requester in self._waiting or len(self._waiting) < SHARD_WAITING_MAX
        ):
            self._next[weight] = self._turn(weight)
            self._waiting[requester] = _Waiter(now_s, weight)

    def greedy(self, held: Mapping[PeerId, int], now_s: float, *, most: int) -> PeerId | None:
        """Return who holds more than its share while others wait, or None: first of one
        requester's, then of the share of all of a weight.
        """
        for requester, count in held.items():
            other = self._heaviest_other(requester, now_s)
            if other and count > _share(most, self._weight(requester), other):
                return requester
        classes = Counter[int]()
        for requester, count in held.items():
            classes[self._weight(requester)] += count
        waiting = {w.weight for w in self._waiting.values() if not w.has_come}
        for weight, count in sorted(classes.items()):
            others = sum(waiting - {weight})
            if others and count > _share(most, weight, others):
                mine = [peer for peer in held if self._weight(peer) == weight]
                return max(mine, key=lambda peer: (held[peer], peer))
        return None

    def _weight(self, requester: PeerId) -> int:
        return min(max(1, self._weight_of(requester)), COMPUTE_WEIGHT_MAX)

    def _queues(self, requester: PeerId, now_s: float) -> Counter[int]:
        """Return how many wait of each weight, with the requester."""
        queues = Counter({self._weight(requester): 1})
        for peer, waiter in self._waiting.items():
            is_there = now_s - waiter.turned_away_s <= SHARD_TURN_S and not waiter.has_come
            if is_there and peer != requester:
                queues[waiter.weight] += 1
        return queues

    def _turn(self, weight: int) -> int:
        """When the next turn of a weight begins: no credit for turns that nobody wanted."""
        is_waiting = any(w.weight == weight and not w.has_come for w in self._waiting.values())
        following = self._next.get(weight, self._virtual)
        return following if is_waiting else max(following, self._virtual)

    def _heaviest_other(self, requester: PeerId, now_s: float) -> int:
        """Return the highest weight of the others that wait, 0 where nobody does."""
        for peer, waiter in tuple(self._waiting.items()):
            if now_s - waiter.turned_away_s > SHARD_SHARE_S:
                del self._waiting[peer]
        others = (w.weight for peer, w in self._waiting.items() if peer != requester)
        return max(others, default=0)


def _length(weight: int, count: int) -> int:
    """Return the virtual time of one turn of a weight of which so many wait."""
    return _TURN // (weight * min(count, weight))


def _share(most: int, weight: int, other: int) -> int:
    return max(1, most * weight // (weight + other))
