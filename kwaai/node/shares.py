"""Who may hold how many sessions of a slice: as many as there are, until somebody else is turned
away; then half, until that one has come or given up.

Pure: counts and times come from the caller. Identities are free, so this is fairness among the
honest and a fence against one greedy peer, not against many.
"""

from __future__ import annotations

from collections.abc import Mapping

from credentials.keys import PeerId
from kwaai.limits import SHARD_SHARE_S, SHARD_WAITING_MAX


class Shares:
    """The shares of one slice. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._waiting: dict[PeerId, float] = {}
        """Requesters that were turned away, and when last."""

    def may_open(
        self, requester: PeerId, held: Mapping[PeerId, int], now_s: float, *, most: int
    ) -> bool:
        """Say whether `requester` may open one more of `most` sessions, if there is one.

        held: sessions of the slice by requester.
        """
        return held.get(requester, 0) < _half(most) or not self._others(requester, now_s)

    def turned_away(
        self, requester: PeerId, held: Mapping[PeerId, int], now_s: float, *, most: int
    ) -> None:
        """Note that there was no session for a requester. Its half is all that it waits for."""
        if held.get(requester, 0) < _half(most) and (
            requester in self._waiting or len(self._waiting) < SHARD_WAITING_MAX
        ):
            self._waiting[requester] = now_s

    def greedy(self, held: Mapping[PeerId, int], now_s: float, *, most: int) -> PeerId | None:
        """Return who holds more than half while others wait, or None."""
        for requester, count in held.items():
            if count > _half(most) and self._others(requester, now_s):
                return requester
        return None

    def _others(self, requester: PeerId, now_s: float) -> bool:
        for peer, since_s in tuple(self._waiting.items()):
            if now_s - since_s > SHARD_SHARE_S:
                del self._waiting[peer]
        return any(peer != requester for peer in self._waiting)


def _half(most: int) -> int:
    return max(1, most // 2)
