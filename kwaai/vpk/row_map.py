"""Which local row a (writer, number) is: for changes that come from other devices."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from kwaai.vpk.base_rows import SegmentRow, parse_local_runs


class RowMap:
    """The rows of some segments, by writer and number. A row may be in several of them."""

    def __init__(self, segments: Iterable[SegmentRow]) -> None:
        tables = [parse_local_runs(segment.runs) for segment in segments]
        found: dict[int, list[NDArray[np.int64]]] = {}
        for table in tables:
            for writer in np.unique(table["writer"]):
                mine = table[table["writer"] == writer]
                found.setdefault(int(writer), []).append(
                    np.column_stack((mine["start"].astype(np.int64), mine["count"], mine["row"]))
                )
        self._runs: dict[int, NDArray[np.int64]] = {}
        for writer, parts in found.items():
            runs = np.concatenate(parts)
            self._runs[writer] = runs[np.lexsort((runs[:, 1], runs[:, 0]))]

    @classmethod
    def of(cls, keys: NDArray[np.uint64]) -> RowMap:
        """Return a map of rows ((n, 2)) by themselves: it says which ones are among them."""
        found = cls(())
        for writer in np.unique(keys[:, 0]):
            numbers = np.unique(keys[keys[:, 0] == writer, 1]).astype(np.int64)
            found._runs[int(writer)] = np.column_stack((numbers, np.ones_like(numbers), numbers))
        return found

    def find(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the local rows of (writer, number), (n, 2); -1 for those that are not there."""
        local = np.full(len(keys), -1, np.int64)
        for writer in np.unique(keys[:, 0]):
            runs = self._runs.get(int(writer))
            if runs is None:
                continue
            mine = np.flatnonzero(keys[:, 0] == writer)
            local[mine] = _find(runs, keys[mine, 1].astype(np.int64))
        return local


def _find(runs: NDArray[np.int64], numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Look numbers up in runs (start, count, row), ascending, which may overlap: where the last run
    that starts before a number ends before it too, an older, longer one may not.
    """
    local = np.full(len(numbers), -1, np.int64)
    stops = np.maximum.accumulate(runs[:, 0] + runs[:, 1])
    at = np.searchsorted(runs[:, 0], numbers, side="right") - 1
    seeking = np.flatnonzero((at >= 0) & (stops[at] > numbers))
    while len(seeking):
        run = runs[at[seeking]]
        offset = numbers[seeking] - run[:, 0]
        inside = offset < run[:, 1]
        local[seeking[inside]] = run[inside, 2] + offset[inside]
        seeking = seeking[~inside]
        at[seeking] -= 1
        seeking = seeking[(at[seeking] >= 0) & (stops[at[seeking]] > numbers[seeking])]
    return local
