"""Hidden states as bytes: little-endian float32 (exact) or float16, one row per position.

Does not know messages, models or links. docs/protocol/shard.md, "Tensors".
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kwaai.limits import BATCH_TOKENS_MAX, LINK_MESSAGE_BYTES_MAX, STEP_F32_EXTRA_S_MAX
from kwaai.wire.codec import WireError

Rows = NDArray[np.float32]

F16_MAX = 65504.0
"""The largest finite float16."""

MESSAGE_HEADER_BYTES_MAX = 2048
"""Room that is kept beside a tensor: a step's header and the timings of every hop."""


class Dtype(IntEnum):
    """How a tensor's numbers are written. Each is one bit of the mask of accepted types."""

    F32 = 1
    F16 = 2


_F32: Final[np.dtype[np.float32]] = np.dtype("<f4")
_F16: Final[np.dtype[np.float16]] = np.dtype("<f2")


def choose_dtype(
    row_bytes: int, bandwidth_bytes_s: float | None, accepted: int, *, is_direct: bool = True
) -> Dtype:
    """Return float32 where the bytes that it adds are cheap, float16 where they are not.

    row_bytes: of one row in float32. bandwidth_bytes_s: measured on the link to the next peer; None
    when unknown: then a direct link is taken for a fast one, and one through a stream or a relay
    for a slow one. accepted: mask of Dtype bits; float32 is always accepted.
    """
    if not accepted & Dtype.F16:
        return Dtype.F32
    if not bandwidth_bytes_s:
        return Dtype.F32 if is_direct else Dtype.F16
    extra_s = row_bytes / 2 / bandwidth_bytes_s
    return Dtype.F32 if extra_s <= STEP_F32_EXTRA_S_MAX else Dtype.F16


def rows_max(width: int) -> int:
    """Return how many rows of `width` numbers one step can carry, in any type."""
    room = LINK_MESSAGE_BYTES_MAX - MESSAGE_HEADER_BYTES_MAX
    return min(BATCH_TOKENS_MAX, room // (4 * width))


def encode_rows(rows: Rows, dtype: Dtype) -> tuple[Dtype, memoryview]:
    """Return the type used and the bytes of `rows`: float32, (positions, width).

    float32 shares memory with `rows` where they are contiguous: do not write to them until the
    bytes are gone. A tensor with a value outside float16's range, or with one that is not finite,
    stays float32.
    """
    if dtype is Dtype.F16 and rows.min() >= -F16_MAX and rows.max() <= F16_MAX:
        return Dtype.F16, _bytes(rows.astype(_F16))
    return Dtype.F32, _bytes(np.ascontiguousarray(rows, _F32))


def _bytes(rows: NDArray[np.floating[Any]]) -> memoryview:
    # reshape: a view with a stride of its own in an axis of length 1 counts as contiguous for
    # NumPy and not always for memoryview.cast.
    return rows.reshape(-1).view(np.uint8).data


def parse_rows(data: bytes | memoryview, dtype: Dtype, rows: int, width: int) -> Rows:
    """Return float32 (rows, width), read-only when it shares memory with `data` (float32 does).

    Raises WireError for another number of bytes, and for a number that is not finite.
    """
    size = rows * width * (2 if dtype is Dtype.F16 else 4)
    if len(data) != size:
        raise WireError(
            f"a tensor of {rows} rows of {width} {dtype.name} has {len(data)} bytes, not {size}"
        )
    wire = np.frombuffer(data, _F16 if dtype is Dtype.F16 else _F32)
    flat = wire.astype(np.float32, copy=False)
    if not np.isfinite(flat).all():
        raise WireError("hidden states hold a number that is not finite")
    return flat.reshape(rows, width)
