"""Read rows of a table from two hosts so that neither learns which: XOR-PIR.

Chor, Goldreich, Kushilevitz and Sudan (FOCS 1995): one host gets random bits, the other the same
bits with the wanted one flipped; the two XORs of the rows so chosen differ by the wanted row. Each
host alone sees random bits; two that talk to each other see everything. Wrong answers are found by
whoever opens the row (`kwaai.vpk.seal`). Does no I/O. docs/vpk.md, "Mode oblivious".
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from kwaai.errors import PeerRefused, SealBroken
from kwaai.limits import VPK_PIR_MASKS_MAX
from kwaai.vpk.types import ID_BYTES, PirTable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_BLOCK_BYTES: Final = 1024 * 1024  # of the table, read from memory once for all masks
_WORD_BYTES: Final = 8


def describe_table(ids: Sequence[bytes], row_bytes: int) -> PirTable:
    """Return what a table of these ids is: they are put in ascending order."""
    ordered = b"".join(sorted(ids))
    digest = hashlib.blake2b(ordered, digest_size=32).digest()
    return PirTable(len(ordered) // ID_BYTES, row_bytes, digest)


def mask_bytes(rows: int) -> int:
    """Return the bytes of a mask over so many rows."""
    return -(-rows // 8)


def make_masks(
    rows: int,
    wanted: Sequence[int],
    count: int,
    random: Callable[[int], bytes] = os.urandom,
) -> tuple[list[bytes], list[bytes]]:
    """Return `count` masks for each of two hosts, in the order of `wanted`; what is left over asks
    for nothing. Always the same number: how many are wanted does not show.

    `wanted`: row numbers. Raises ValueError for a row that is not there, or more than `count`.
    """
    if len(wanted) > count or count > VPK_PIR_MASKS_MAX:
        raise ValueError(f"{len(wanted)} rows by {count} masks; at most {VPK_PIR_MASKS_MAX}")
    length = mask_bytes(rows)
    first, second = [], []
    for index in range(count):
        mask = bytearray(random(length))
        if rows % 8:
            mask[-1] &= 0xFF << (-rows % 8) & 0xFF  # there are no rows behind the last
        first.append(bytes(mask))
        if index < len(wanted):
            row = wanted[index]
            if not 0 <= row < rows:
                raise ValueError(f"there is no row {row} of {rows}")
            mask[row // 8] ^= 0x80 >> row % 8
        second.append(bytes(mask))
    return first, second


def combine(
    first: Sequence[bytes], second: Sequence[bytes], wanted: int, row_bytes: int
) -> list[bytes]:
    """Return the `wanted` rows from the answers of the two hosts.

    Raises SealBroken for answers of a wrong number or length. That they are right shows when they
    are opened; which of the two hosts was wrong cannot be told from one answer.
    """
    for answers in (first, second):
        if len(answers) < wanted or any(len(answer) != row_bytes for answer in answers):
            raise SealBroken("a host's answer does not have the rows that were asked for")
    rows = []
    for one, other in zip(first[:wanted], second[:wanted], strict=True):
        both = int.from_bytes(one, "big") ^ int.from_bytes(other, "big")
        rows.append(both.to_bytes(row_bytes, "big"))
    return rows


def answer(matrix: NDArray[np.uint8], masks: Sequence[bytes]) -> list[bytes]:
    """Return for each mask the XOR of the rows that it names: a host's part.

    `matrix`: uint8, (rows, row_bytes), C-contiguous, in ascending order of the rows' ids. Raises
    PeerRefused for too many masks, or masks of a wrong length. Needs some VPK_PIR_MASKS_MAX bytes
    for each row, and reads half of the table for each mask: 7 ms for 100,000 rows of 1 KiB.
    """
    import numpy as np

    count, row_bytes = matrix.shape
    if len(masks) > VPK_PIR_MASKS_MAX:
        raise PeerRefused(f"at most {VPK_PIR_MASKS_MAX} masks at once, not {len(masks)}")
    if any(len(mask) != mask_bytes(count) for mask in masks):
        raise PeerRefused(f"a mask over {count} rows has {mask_bytes(count)} bytes")
    if not masks or not count:
        return [bytes(row_bytes) for _ in masks]
    packed = np.frombuffer(b"".join(masks), np.uint8).reshape(len(masks), -1)
    chosen = np.unpackbits(packed, axis=1, count=count).view(bool)
    words = matrix.view(np.uint64) if row_bytes % _WORD_BYTES == 0 else matrix
    sums = np.zeros((len(masks), words.shape[1]), words.dtype)
    step = max(1, _BLOCK_BYTES // row_bytes)
    picked = np.empty((step, words.shape[1]), words.dtype)
    for start in range(0, count, step):
        block = words[start : start + step]
        for index in range(len(masks)):
            rows = np.flatnonzero(chosen[index, start : start + step])
            part = picked[: len(rows)]
            np.take(block, rows, axis=0, out=part, mode="clip")
            sums[index] ^= np.bitwise_xor.reduce(part, axis=0)
    return [row.tobytes() for row in sums]
