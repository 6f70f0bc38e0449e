"""Hidden states as bytes: float32 exact and uncopied, float16 only where it holds the values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kwaai.limits import (
    BATCH_TOKENS_MAX,
    EMBEDDING_LENGTH_MAX,
    LINK_MESSAGE_BYTES_MAX,
    STEP_F32_EXTRA_S_MAX,
)
from kwaai.wire.codec import WireError
from kwaai.wire.tensors import (
    F16_MAX,
    MESSAGE_HEADER_BYTES_MAX,
    Dtype,
    choose_dtype,
    encode_rows,
    parse_rows,
    rows_max,
)

SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 40))
ROWS = hnp.arrays(
    np.float32, SHAPES, elements=st.floats(width=32, allow_nan=False, allow_infinity=False)
)


@given(ROWS)
def test_float32_comes_back_bit_for_bit(rows: np.ndarray) -> None:
    used, data = encode_rows(rows, Dtype.F32)
    back = parse_rows(data, used, *rows.shape)
    assert used is Dtype.F32
    assert back.dtype == np.float32
    assert back.tobytes() == rows.tobytes()


@given(ROWS)
def test_float16_is_near_or_is_not_used(rows: np.ndarray) -> None:
    used, data = encode_rows(rows, Dtype.F16)
    back = parse_rows(data, used, *rows.shape)
    assert used is (Dtype.F16 if np.abs(rows).max() <= F16_MAX else Dtype.F32)
    if used is Dtype.F16:
        assert len(data) == 2 * rows.size
        assert (np.abs(back - rows) <= np.maximum(np.abs(rows) * 2**-11, 2.0**-25)).all()
    else:
        assert back.tobytes() == rows.tobytes()


def test_float32_is_not_copied() -> None:
    rows = np.ones((3, 8), np.float32)
    _, data = encode_rows(rows, Dtype.F32)
    assert np.shares_memory(np.frombuffer(data, np.float32), rows)
    message = bytes(data)
    back = parse_rows(message, Dtype.F32, 3, 8)
    assert np.shares_memory(back, np.frombuffer(message, np.uint8))
    assert not back.flags.writeable


@pytest.mark.parametrize(
    "rows",
    [
        np.ones((4, 6), np.float32)[::2],
        np.ones((4, 6), np.float32)[:, ::2],
        np.ones((6, 4), np.float32).T,
        np.ones((8, 6), np.float32)[3:4],
        np.ones((1, 2, 6), np.float32)[:, 1],
        np.arange(24, dtype=">f4").reshape(4, 6),
    ],
)
def test_any_layout_in_memory_encodes_the_same_numbers(rows: np.ndarray) -> None:
    for dtype in Dtype:
        used, data = encode_rows(rows, dtype)
        assert (parse_rows(data, used, *rows.shape) == rows).all()


@pytest.mark.parametrize("value", [65504.0, -65504.0, 0.0, -0.0, 2.0**-24])
def test_what_float16_holds_stays_float16(value: float) -> None:
    rows = np.full((1, 4), value, np.float32)
    used, data = encode_rows(rows, Dtype.F16)
    assert used is Dtype.F16
    assert parse_rows(data, used, 1, 4).tobytes() == rows.tobytes()


@pytest.mark.parametrize("value", [65505.0, -65520.0, 1e30, np.inf, -np.inf, np.nan])
def test_what_float16_cannot_hold_makes_the_tensor_float32(value: float) -> None:
    rows = np.zeros((2, 4), np.float32)
    rows[1, 2] = value
    assert encode_rows(rows, Dtype.F16)[0] is Dtype.F32


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_numbers_that_are_not_finite_are_refused(value: float, dtype: type) -> None:
    rows = np.zeros((2, 4), dtype)
    rows[0, 3] = value
    wire = Dtype.F16 if dtype is np.float16 else Dtype.F32
    with pytest.raises(WireError, match="not finite"):
        parse_rows(rows.tobytes(), wire, 2, 4)


@given(st.binary(max_size=64), st.sampled_from(Dtype), st.integers(1, 5), st.integers(1, 5))
def test_any_bytes_are_rows_or_refused(data: bytes, dtype: Dtype, rows: int, width: int) -> None:
    try:
        back = parse_rows(data, dtype, rows, width)
    except WireError:
        return
    assert back.shape == (rows, width)
    assert np.isfinite(back).all()


BOTH = Dtype.F32 | Dtype.F16
ROW_BYTES = 3584
CHEAP = ROW_BYTES / 2 / STEP_F32_EXTRA_S_MAX


@pytest.mark.parametrize(
    ("bandwidth", "accepted", "is_direct", "chosen"),
    [
        (CHEAP * 1.01, BOTH, True, Dtype.F32),
        (CHEAP * 1.01, BOTH, False, Dtype.F32),
        (CHEAP * 0.99, BOTH, True, Dtype.F16),
        (CHEAP * 0.99, Dtype.F32, True, Dtype.F32),
        (1.0, Dtype.F32 | 64, True, Dtype.F32),
        (None, BOTH, True, Dtype.F32),
        (None, BOTH, False, Dtype.F16),
        (0.0, BOTH, False, Dtype.F16),
        (None, Dtype.F32, False, Dtype.F32),
    ],
)
def test_exact_where_it_is_cheap(
    bandwidth: float | None, accepted: int, is_direct: bool, chosen: Dtype
) -> None:
    assert choose_dtype(ROW_BYTES, bandwidth, accepted, is_direct=is_direct) is chosen


@given(st.integers(1, EMBEDDING_LENGTH_MAX))
def test_a_piece_fits_one_message_of_a_link(width: int) -> None:
    rows = rows_max(width)
    assert 1 <= rows <= BATCH_TOKENS_MAX
    assert rows * width * 4 + MESSAGE_HEADER_BYTES_MAX <= LINK_MESSAGE_BYTES_MAX
