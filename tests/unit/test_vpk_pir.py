"""Oblivious reads: the right rows, masks that tell one host nothing, hosts that answer wrongly."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from kwaai.errors import PeerRefused, SealBroken
from kwaai.limits import VPK_PIR_MASKS_MAX
from kwaai.vpk import keys
from kwaai.vpk.keys import RootKey
from kwaai.vpk.pir import answer, combine, describe_table, make_masks, mask_bytes
from kwaai.vpk.seal import open_sealed, seal_many


def table_of(rows: int, row_bytes: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (rows, row_bytes), np.uint8)


@given(
    st.integers(1, 70),
    st.sampled_from([1, 3, 8, 12, 1024]),
    st.data(),
)
def test_two_hosts_give_the_rows(rows: int, row_bytes: int, data: st.DataObject) -> None:
    table = table_of(rows, row_bytes)
    wanted = data.draw(st.lists(st.integers(0, rows - 1), max_size=5))
    first, second = make_masks(rows, wanted, 5)
    found = combine(answer(table, first), answer(table, second), len(wanted), row_bytes)
    assert found == [table[row].tobytes() for row in wanted]


def test_large_tables_are_read_in_blocks() -> None:
    table = table_of(5000, 1024)
    wanted = [0, 1023, 1024, 4999]
    first, second = make_masks(5000, wanted, 4)
    found = combine(answer(table, first), answer(table, second), 4, 1024)
    assert found == [table[row].tobytes() for row in wanted]


def test_an_answer_is_the_xor_of_what_the_mask_names() -> None:
    table = table_of(11, 4)
    mask = bytes([0b10000001, 0b00100000])  # rows 0, 7 and 10
    assert answer(table, [mask]) == [(table[0] ^ table[7] ^ table[10]).tobytes()]
    assert answer(table, [bytes(2)]) == [bytes(4)]
    assert answer(table, []) == []
    assert answer(np.zeros((0, 4), np.uint8), [b""]) == [bytes(4)]


def test_one_host_sees_random_bits_whatever_is_read() -> None:
    """Over all random masks of 8 rows, each host sees each mask once: for any row, and for none."""
    for wanted in ([], [0], [5]):
        for host in (0, 1):
            seen = [make_masks(8, wanted, 1, lambda _: bytes([m]))[host][0] for m in range(256)]  # noqa: B023
            assert sorted(seen) == [bytes([mask]) for mask in range(256)]


def test_the_number_of_masks_does_not_depend_on_what_is_read() -> None:
    for wanted in ([], [3], [3, 3, 7]):
        first, second = make_masks(100, wanted, 8)
        assert len(first) == len(second) == 8
        assert {len(mask) for mask in first + second} == {mask_bytes(100)}
        assert len(set(first)) == 8


def test_bits_behind_the_last_row_are_never_set() -> None:
    first, second = make_masks(13, [12], 4, lambda length: b"\xff" * length)
    assert all(mask[-1] & 0b111 == 0 for mask in first + second)


@pytest.mark.parametrize(
    ("rows", "wanted", "count"),
    [(8, [8], 1), (8, [-1], 1), (8, [1, 2], 1), (8, [], VPK_PIR_MASKS_MAX + 1), (0, [0], 1)],
)
def test_what_cannot_be_asked(rows: int, wanted: list[int], count: int) -> None:
    with pytest.raises(ValueError, match="row"):
        make_masks(rows, wanted, count)


@given(st.lists(st.binary(max_size=4), min_size=1, max_size=VPK_PIR_MASKS_MAX + 2))
def test_any_masks_are_answered_or_refused(masks: list[bytes]) -> None:
    table = table_of(20, 8)
    if len(masks) <= VPK_PIR_MASKS_MAX and all(len(mask) == 3 for mask in masks):
        assert len(answer(table, masks)) == len(masks)
    else:
        with pytest.raises(PeerRefused):
            answer(table, masks)


def test_answers_of_a_wrong_shape_are_refused() -> None:
    right = [bytes(8)] * 2
    for wrong in ([], [bytes(8)], [bytes(8), bytes(7)], [bytes(8), bytes(9)]):
        with pytest.raises(SealBroken):
            combine(right, wrong, 2, 8)
        with pytest.raises(SealBroken):
            combine(wrong, right, 2, 8)


def test_a_wrong_answer_does_not_open() -> None:
    root = RootKey(bytes(range(32)))
    base, tenant = root.base(bytes(16)), root.tenant().public.raw
    plains = sorted((os.urandom(16), bytes([number])) for number in range(40))
    sealed = seal_many(base, tenant, keys.TEXT, plains, size=256)
    table = np.frombuffer(b"".join(data for _, data in sealed), np.uint8).reshape(40, 256)
    first, second = make_masks(40, [17], 1)
    row = combine(answer(table, first), answer(table, second), 1, 256)[0]
    assert open_sealed(base, tenant, keys.TEXT, plains[17][0], row) == plains[17][1]
    lied = [bytes([answer(table, second)[0][0] ^ 1]) + answer(table, second)[0][1:]]
    row = combine(answer(table, first), lied, 1, 256)[0]
    with pytest.raises(SealBroken):
        open_sealed(base, tenant, keys.TEXT, plains[17][0], row)


def test_a_table_is_known_by_its_ids() -> None:
    ids = [bytes([number]) * 16 for number in range(5)]
    assert describe_table(ids, 512) == describe_table(ids[::-1], 512)
    assert describe_table(ids, 512).rows == 5
    assert describe_table(ids[:4], 512).digest != describe_table(ids, 512).digest
