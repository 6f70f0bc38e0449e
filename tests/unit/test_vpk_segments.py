"""Segments as bytes, joined and selected; rows by writer and number."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kwaai.errors import FileCorrupt
from kwaai.vpk.base_rows import SegmentRow, encode_local_runs
from kwaai.vpk.row_map import RowMap
from kwaai.vpk.segments import (
    DocumentMeta,
    Part,
    Segment,
    encode_segment,
    join,
    parse_segment,
    rows_of,
    runs_of,
    select,
)


def meta(number: int) -> DocumentMeta:
    return DocumentMeta(bytes([number]) * 16, f"n{number}", f"/d/n{number}", "Title", "text/plain",
                        "ab" * 32, 10, 11, "/d", 12)  # fmt: skip


def segment(count: int, *, writer: int = 5, start: int = 0, document: int = 1) -> Segment:
    rows = rows_of([(writer, start, count)])
    texts = tuple((f"body {start + n} é", f"context {n}") for n in range(count))
    codes = b"".join(bytes([start + n & 255]) * 7 for n in range(count))
    return Segment(rows, (Part(meta(document), 0, count),), texts, codes, params=b"p" * 16)


def same(one: Segment, other: Segment) -> bool:
    return bool((one.rows == other.rows).all()) and all(
        getattr(one, name) == getattr(other, name)
        for name in ("parts", "texts", "codes", "vectors", "params")
    )


def test_round_trip() -> None:
    for each in (segment(1), segment(300), Segment(rows_of([(1, 2, 3), (9, 0, 1)]))):
        assert same(parse_segment(encode_segment(each)), each)


def test_join_and_select_are_inverse() -> None:
    one, other = segment(4), segment(3, start=4, document=2)
    both = join([one, other])
    keep = np.arange(7) < 4
    assert same(select(both, keep), one)
    assert same(select(both, ~keep), other)
    assert len(join([segment(2), segment(2, start=2)]).parts) == 1
    assert select(both, np.array([False] * 3 + [True] * 2 + [False] * 2)).parts == (
        Part(meta(1), 0, 1),
        Part(meta(2), 1, 1),
    )


@settings(max_examples=300)
@given(data=st.binary(max_size=300))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(FileCorrupt):
        parse_segment(b"KSG1" + data)


@settings(max_examples=300)
@given(at=st.integers(0, 10_000), value=st.integers(0, 255), cut=st.integers(0, 50))
def test_altered_segments_parse_or_are_refused(at: int, value: int, cut: int) -> None:
    data = bytearray(encode_segment(segment(20)))
    data[at % len(data)] = value
    try:
        found = parse_segment(bytes(data[: len(data) - cut]))
    except FileCorrupt:
        return
    assert len(found) == 20


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 60)), unique=True, max_size=80))
def test_rows_and_runs(pairs: list[tuple[int, int]]) -> None:
    rows = np.array(pairs, np.uint64).reshape(-1, 2)
    assert (rows_of(runs_of(rows).tolist()) == rows).all()


@given(
    st.lists(
        st.lists(st.tuples(st.integers(1, 3), st.integers(0, 40)), unique=True, max_size=30),
        max_size=4,
    )
)
def test_row_map_finds_what_is_in_any_segment(tables: list[list[tuple[int, int]]]) -> None:
    """A row that is in several segments has one local number."""
    local = {(writer, number): 100 * writer + number for writer in range(4) for number in range(50)}
    listed = [
        SegmentRow(0, b"", 0, 0, True, True, b"", b"", encode_local_runs(
            np.array([local[pair] for pair in table], np.int64),
            np.array(table, np.uint64).reshape(-1, 2),
        ))
        for table in tables
    ]  # fmt: skip
    present = {pair for table in tables for pair in table}
    wanted = np.array(sorted(local), np.uint64)
    found = RowMap(listed).find(wanted)
    for pair, row in zip(sorted(local), found.tolist(), strict=True):
        assert row == (local[pair] if pair in present else -1)
