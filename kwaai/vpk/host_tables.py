"""The tables that a host answers oblivious reads from: objects of one size, as rows of a matrix.

Kept in bounded memory, the least used forgotten first, and made anew when the base has changed.
The arithmetic is `kwaai.vpk.pir`. docs/vpk.md.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

import apsw

from kwaai import limits
from kwaai.errors import PeerRefused
from kwaai.vpk import host_rows as rows
from kwaai.vpk.host_rows import BaseRow
from kwaai.vpk.types import PirTable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_DIGEST_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class KeptTable:
    """A table in memory."""

    changes: int
    """Of the base, when it was read."""
    table: PirTable
    matrix: NDArray[np.uint8]
    """(rows, row_bytes)"""


class PirTables:
    """Tables in memory. May be used from several threads."""

    def __init__(self, bytes_max: int = limits.STORAGE_PIR_CACHE_BYTES) -> None:
        self._bytes_max = bytes_max
        self._kept: OrderedDict[tuple[int, int], KeptTable] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, base: BaseRow | None, row_bytes: int) -> KeptTable | None:
        """Return the table of a base's objects of `row_bytes` bytes, if it is in memory and the
        base has not changed since.
        """
        number, changes = _state_of(base)
        with self._lock:
            kept = self._kept.get((number, row_bytes))
            if kept is None or kept.changes != changes:
                return None
            self._kept.move_to_end((number, row_bytes))
            return kept

    def load(self, connection: apsw.Connection, base: BaseRow | None, row_bytes: int) -> KeptTable:
        """Read a table, and keep it. `base`: as the connection's transaction sees it. Raises
        PeerRefused where it is too large.
        """
        number, changes = _state_of(base)
        kept = self._read(connection, number, changes, row_bytes)
        with self._lock:
            self._kept[number, row_bytes] = kept
            self._kept.move_to_end((number, row_bytes))
            while self._is_too_much():
                self._kept.popitem(last=False)
        return kept

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._kept.clear()

    def _is_too_much(self) -> bool:
        """Empty tables take no bytes, and memory all the same."""
        nbytes = sum(kept.matrix.nbytes for kept in self._kept.values())
        return nbytes > self._bytes_max or len(self._kept) > limits.STORAGE_PIR_TABLES_MAX

    def _read(
        self, connection: apsw.Connection, number: int, changes: int, row_bytes: int
    ) -> KeptTable:
        import numpy as np

        count = rows.count_of_size(connection, number, row_bytes)
        if count * row_bytes > self._bytes_max:
            raise PeerRefused(
                f"a table of {count} rows of {row_bytes} bytes is more than this host reads at once"
            )
        matrix = np.empty((count, row_bytes), np.uint8)
        digest = blake2b(digest_size=_DIGEST_BYTES)
        for index, (object_id, data) in enumerate(rows.of_size(connection, number, row_bytes)):
            matrix[index] = np.frombuffer(data, np.uint8)
            digest.update(object_id)
        return KeptTable(changes, PirTable(count, row_bytes, digest.digest()), matrix)


def _state_of(base: BaseRow | None) -> tuple[int, int]:
    """Number and changes; a base that is not there is empty."""
    return (0, 0) if base is None else (base.number, base.changes)
