"""Which parts of served ranges may be loaded because a peer asks for one, and which go first.

Loads nothing: `serving` does. Peers cost this node memory, disk and work with it, so all of it is
bounded (`SERVING_PARTS_*`).
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from kwaai.errors import Busy
from kwaai.limits import (
    SERVING_PART_FAILED_S,
    SERVING_PART_IDLE_S,
    SERVING_PART_WAIT_S,
    SERVING_PARTS_CUT_MAX,
)
from kwaai.types import LayerRange, ModelHandle

Key = tuple[ModelHandle, LayerRange]


class ServingParts:
    """The rules, and what they go by: what was loaded, used and could not be loaded, and when."""

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        """`most`: parts that are loaded at a time; 0: no range is divisible."""
        self.most, self._clock = most, clock
        self._used_s: dict[Key, float] = {}
        self._cut: set[Key] = set()
        self._failed_s: OrderedDict[Key, float] = OrderedDict()

    def check(self, key: Key, loading: int) -> None:
        """Raise Busy unless a part may be loaded. `loading`: parts that are being loaded now."""
        if loading:
            raise Busy(
                "it loads another part of its layers; ask again", retry_after_s=SERVING_PART_WAIT_S
            )
        if key not in self._cut and len(self._cut) >= SERVING_PARTS_CUT_MAX:
            raise Busy(
                f"it has loaded {SERVING_PARTS_CUT_MAX} different parts and takes no other; use "
                "one of the ranges that it lists",
                retry_after_s=SERVING_PART_FAILED_S,
            )
        left_s = self._failed_s.get(key, -SERVING_PART_FAILED_S) + SERVING_PART_FAILED_S
        left_s -= self._clock()
        if left_s > 0:
            raise Busy(f"it could not load layers {key[1]}; use others", retry_after_s=left_s)

    def begun(self, key: Key) -> None:
        """Note that a part is being loaded."""
        self._cut.add(key)
        self._failed_s.pop(key, None)
        self.used(key)

    def used(self, key: Key) -> None:
        """Note that a peer asked for a part that is served."""
        self._used_s[key] = self._clock()

    def failed(self, key: Key) -> None:
        """Note that a part could not be loaded."""
        self._failed_s[key] = self._clock()

    def gone(self, key: Key) -> None:
        """Note that a part is not served any more."""
        self._used_s.pop(key, None)

    def oldest(self, idle: list[Key]) -> Key | None:
        """Return which of the parts without a session to give up for another."""
        return min(idle, key=lambda key: self._used_s.get(key, 0.0), default=None)

    def is_over(self, key: Key) -> bool:
        """Whether a part without a session has been kept for long enough."""
        return self._clock() - self._used_s.get(key, 0.0) > SERVING_PART_IDLE_S
