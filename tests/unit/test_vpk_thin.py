"""Cells for thin clients: sizes that say nothing, rows that are found, and hostile buckets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwaai.errors import FileCorrupt, UserError
from kwaai.vpk.codes import CodeIndex, exact, train
from kwaai.vpk.thin import ThinCells, ThinIndex, build

ROWS, DIMENSION = 4000, 48


def clustered(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    topics = rng.standard_normal((40, DIMENSION))
    vectors = topics[rng.integers(0, 40, ROWS)] + 0.7 * rng.standard_normal((ROWS, DIMENSION))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def names(count: int = ROWS, writers: int = 3) -> np.ndarray:
    rows = np.empty((count, 2), np.uint64)
    rows[:, 0] = (np.arange(count) % writers).astype(np.uint64) * np.uint64(2**61) + np.uint64(5)
    rows[:, 1] = np.arange(count).astype(np.uint64) + np.uint64(2**40)
    return rows


@pytest.fixture(scope="module")
def made() -> tuple[np.ndarray, bytes, ThinIndex]:
    vectors = clustered()
    params = train(vectors)
    return vectors, params, build(vectors, names(), CodeIndex(params).encode(vectors))


def test_buckets_are_of_one_size_and_hold_every_row(
    made: tuple[np.ndarray, bytes, ThinIndex],
) -> None:
    vectors, params, index = made
    assert len({len(bucket) for bucket in index.buckets}) == 1
    cells = ThinCells(index.centroids, params)
    assert cells.cells == len(index.buckets) == ROWS // 48
    rows, _ = cells.candidates(vectors[0], index.buckets, ROWS)
    assert {tuple(row) for row in rows.tolist()} == {tuple(row) for row in names().tolist()}


def test_most_neighbours_are_in_a_few_cells(made: tuple[np.ndarray, bytes, ThinIndex]) -> None:
    vectors, params, index = made
    cells = ThinCells(index.centroids, params)
    found = 0
    for number in range(0, ROWS, 80):
        near = cells.nearest(vectors[number], 16)
        assert len(set(near)) == 16
        buckets = [index.buckets[cell] for cell in near]
        rows, scores = cells.candidates(vectors[number], buckets, 100)
        assert len(rows) == len(scores) == 100
        assert (np.diff(scores) <= 0).all()
        true, _ = exact(vectors[number], vectors, 10)
        found += len(set(true) & set((rows[:, 1] - np.uint64(2**40)).astype(int)))
    assert found >= 450  # of 500


def test_the_same_vectors_make_the_same_index(made: tuple[np.ndarray, bytes, ThinIndex]) -> None:
    vectors, params, index = made
    assert build(vectors, names(), CodeIndex(params).encode(vectors)) == index


@pytest.mark.parametrize("count", [1, 2, 47, 48, 97])
def test_few_rows(count: int) -> None:
    vectors = clustered()[:count]
    params = train(vectors)
    index = build(vectors, names(count), CodeIndex(params).encode(vectors))
    cells = ThinCells(index.centroids, params)
    rows, _ = cells.candidates(vectors[0], index.buckets, count)
    assert len(rows) == count


def test_equal_vectors_find_room() -> None:
    vectors = np.repeat(clustered()[:1], 500, axis=0)
    params = train(vectors)
    index = build(vectors, names(500), CodeIndex(params).encode(vectors))
    rows, _ = ThinCells(index.centroids, params).candidates(vectors[0], index.buckets, 500)
    assert len(rows) == 500


def test_nothing_fetched_is_nothing_found(made: tuple[np.ndarray, bytes, ThinIndex]) -> None:
    vectors, params, index = made
    rows, scores = ThinCells(index.centroids, params).candidates(vectors[0], [], 10)
    assert rows.shape == (0, 2)
    assert len(scores) == 0


def test_what_cannot_be_built() -> None:
    vectors = clustered()[:300]
    data = CodeIndex(train(vectors)).encode(vectors)
    many = names(300)
    many[:, 0] = np.arange(300)
    far = names(300)
    far[0, 1] = 2**48
    assert build(vectors, many, data).buckets  # each lists the writers of its own rows alone
    for rows, codes in ((far, data), (names(299), data), (names(300), data[:-1])):
        with pytest.raises(UserError):
            build(vectors, rows, codes)
    with pytest.raises(UserError):
        build(vectors[:0], names(0), b"")


def test_altered_centroids_and_buckets(made: tuple[np.ndarray, bytes, ThinIndex]) -> None:
    vectors, params, index = made
    for bad in (
        b"",
        index.centroids[:-1],
        index.centroids + b"\0",
        b"\x02" + index.centroids[1:],
        index.centroids[:-2] + b"\x00\x7e",
        index.centroids[:3] + b"\xff\xff\xff\xff" + index.centroids[7:],
    ):
        with pytest.raises(FileCorrupt):
            ThinCells(bad, params)
    with pytest.raises(FileCorrupt):
        ThinCells(index.centroids, train(np.zeros((1, 8), np.float32)))
    cells = ThinCells(index.centroids, params)
    good = index.buckets[0]
    for bad in (b"", b"\0", good[:-1], good + b"\0", b"\xff\xff" + good[2:], good[:2] + b"\xff"):
        with pytest.raises(FileCorrupt):
            cells.candidates(vectors[0], [good, bad], 10)


@given(st.binary(max_size=300))
def test_any_bytes_as_a_bucket(data: bytes) -> None:
    vectors = clustered()[:5]
    params = train(vectors)
    index = build(vectors, names(5), CodeIndex(params).encode(vectors))
    for bucket in (data, index.buckets[0][: -len(data)] + data if data else b"x"):
        try:
            rows, _ = ThinCells(index.centroids, params).candidates(vectors[0], [bucket], 10)
        except FileCorrupt:
            continue
        assert len(rows) <= 10
