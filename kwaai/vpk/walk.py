"""Walking over all objects of a base in the order of their ids, and over what each host lists, side
by side: who has what, in bounded memory.

Believes lists as far as they go: that a host has what it lists is for audits and reads to find out.
A list that cannot be (not ascending, without end) ends that host's part. docs/vpk.md, "Repair".
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from kwaai.errors import KwaaiError, PeerMisbehaved, UserError
from kwaai.limits import (
    VPK_READ_S_MAX,
    VPK_WALK_BATCH,
    VPK_WALK_IDS_MAX,
    VPK_WALK_PAGE,
    VPK_WALK_PAGES_MAX,
)
from kwaai.vpk.members import Roster
from kwaai.vpk.types import ID_BYTES

LAST_ID = b"\xff" * ID_BYTES


def sort_ids(ids: Iterable[bytes]) -> bytes:
    """Return ids, each once, in ascending order, one behind the other. Raises UserError for too
    many, and for what is no id.
    """
    joined = b"".join(ids)
    if len(joined) % ID_BYTES or len(joined) > VPK_WALK_IDS_MAX * ID_BYTES:
        raise UserError(f"{len(joined) // ID_BYTES} objects are more than a repair can go through")
    words = np.frombuffer(joined, dtype=">u8").reshape(-1, 2).astype(np.uint64)
    order = np.lexsort((words[:, 1], words[:, 0]))
    rows = np.frombuffer(joined, dtype=np.uint8).reshape(-1, ID_BYTES)[order]
    if len(rows):
        fresh = np.ones(len(rows), dtype=np.bool_)
        fresh[1:] = (rows[1:] != rows[:-1]).any(axis=1)
        rows = rows[fresh]
    return rows.tobytes()


def batches(joined: bytes, after: bytes) -> Iterator[tuple[list[bytes], bytes]]:
    """Yield (ids, last) of sorted ids above `after`, in batches: `last` is the end of the batch's
    part of all possible ids. The parts together reach from `after` to LAST_ID.
    """
    count = len(joined) // ID_BYTES
    at = _first_above(joined, after)
    step = VPK_WALK_BATCH
    while True:
        stop = min(count, at + step)
        some = [joined[i * ID_BYTES : (i + 1) * ID_BYTES] for i in range(at, stop)]
        yield some, (LAST_ID if stop == count else some[-1])
        if stop == count:
            return
        at = stop


def _first_above(joined: bytes, after: bytes) -> int:
    low, high = 0, len(joined) // ID_BYTES
    while low < high:
        middle = (low + high) // 2
        if joined[middle * ID_BYTES : (middle + 1) * ID_BYTES] <= after:
            low = middle + 1
        else:
            high = middle
    return low


class Listing:
    """What one member lists, in ascending order."""

    def __init__(self, roster: Roster, index: int, base: bytes, after: bytes) -> None:
        self._roster, self._index, self._base = roster, index, base
        self._after = after
        self._page: list[bytes] = []
        self._done = False
        self._pages = 0
        self.failed = False
        """It did not answer, or with what cannot be: nothing more comes of it."""

    async def up_to(self, last: bytes) -> list[bytes]:
        """Return the ids up to and including `last`, after those returned before."""
        found: list[bytes] = []
        while not self.failed:
            if not self._page and not self._done:
                await self._next()
                continue
            stop = bisect_right(self._page, last)
            found += self._page[:stop]
            self._page = self._page[stop:]
            if self._page or self._done:
                return found
        return []

    async def _next(self) -> None:
        member = self._roster.members[self._index]
        self._pages += 1
        call = member.host.list_ids(self._base, self._after, VPK_WALK_PAGE)
        page = await self._roster.ask(self._index, call, VPK_READ_S_MAX)
        if isinstance(page, KwaaiError):
            self.failed = True
            return
        if not self._is_sound(page):
            self._roster.fail(
                self._index, PeerMisbehaved("it lists ids out of order, or without end")
            )
            self.failed = True
            return
        self._page, self._done = page, not page
        if page:
            self._after = page[-1]

    def _is_sound(self, page: Sequence[bytes]) -> bool:
        if len(page) > VPK_WALK_PAGE or self._pages > VPK_WALK_PAGES_MAX:
            return False
        if any(len(i) != ID_BYTES for i in page):
            return False
        return all(a < b for a, b in zip([self._after, *page], page, strict=False))
