"""How often somebody may do something: one token bucket a key, for a bounded number of keys.

Takes the time from its caller, and does not wait.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

from kwaai import limits


class Rates:
    """Each key may take `burst` at once, and `per_s` on average. The key used longest ago is
    forgotten when there are too many.
    """

    def __init__(
        self, per_s: float, burst: float, keys_max: int = limits.RECORDS_RATED_PEERS_MAX
    ) -> None:
        self._per_s = per_s
        self._burst = burst
        self._keys_max = keys_max
        self._buckets: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def take(self, key: Hashable, now_s: float, count: float = 1.0) -> bool:
        """Take `count`, and tell whether there was as much; nothing is taken if not."""
        left = self.left(key, now_s)
        allowed = left >= count
        self._buckets[key] = (left - count if allowed else left, now_s)
        self._buckets.move_to_end(key)
        if len(self._buckets) > self._keys_max:
            self._buckets.popitem(last=False)
        return allowed

    def left(self, key: Hashable, now_s: float) -> float:
        """Return how much the key may take now."""
        left, since_s = self._buckets.get(key, (self._burst, now_s))
        return min(self._burst, left + max(0.0, now_s - since_s) * self._per_s)
