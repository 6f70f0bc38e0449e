"""The compact index: what it finds, what it refuses, and that faiss makes the same codes."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kwaai.errors import FileCorrupt, UserError
from kwaai.limits import VPK_DIMENSION_MAX, VPK_SEARCH_COUNT_MAX
from kwaai.vpk import codes
from kwaai.vpk.codes import CodeIndex, code_bytes, exact, train


def unit(rows: int, dimension: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((rows, dimension)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def filled(vectors: np.ndarray) -> CodeIndex:
    index = CodeIndex(train(vectors))
    index.append(index.encode(vectors), len(vectors))
    return index


@pytest.mark.parametrize("dimension", [1, 2, 5, 8, 60, 100, 384, 1000])
def test_a_vector_is_found_by_itself(dimension: int) -> None:
    vectors = unit(300, dimension)
    if dimension == 1:
        vectors *= np.linspace(0.1, 1.0, 300, dtype=np.float32)[:, None]
    index = filled(vectors)
    wanted = 300 if dimension < 60 else 20  # few bits tell few vectors apart
    for number in (0, 31, 32, 299):
        positions, scores = index.search(vectors[number], wanted)
        assert number in positions
        assert (np.diff(scores) <= 0).all()


def test_most_neighbours_are_among_the_candidates() -> None:
    rng = np.random.default_rng(3)
    topics = rng.standard_normal((50, 128)).astype(np.float32)
    vectors = topics[rng.integers(0, 50, 5000)] + 0.8 * unit(5000, 128, 1) * 128**0.5
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index = filled(vectors)
    found = 0
    for number in range(0, 5000, 100):
        true, _ = exact(vectors[number], vectors, 10)
        found += len(set(true) & set(index.search(vectors[number], 100)[0]))
    assert found >= 450  # of 500


def test_estimates_are_near_the_products() -> None:
    vectors = unit(2000, 384) + 0.05  # not around zero
    index = filled(vectors)
    positions, scores = index.search(vectors[7], 2000)
    errors = scores - (vectors @ vectors[7])[positions]
    assert abs(errors.mean()) < 0.02
    assert errors.std() < 0.1


def test_codes_are_those_of_faiss(monkeypatch: pytest.MonkeyPatch) -> None:
    import faiss

    vectors = unit(64, 100)
    monkeypatch.setattr(codes, "_rotation", lambda dimension, seed: np.eye(dimension, dtype="f4"))
    index = CodeIndex(train(vectors))
    theirs = faiss.IndexRaBitQFastScan(100, faiss.METRIC_INNER_PRODUCT)
    faiss.copy_array_to_vector(index._centre, theirs.center)
    theirs.is_trained = True
    mine = np.frombuffer(index.encode(vectors), np.uint8).reshape(64, -1)
    others = theirs.sa_encode(vectors)
    assert np.array_equal(mine[:, :-8], others[:, :-8])
    numbers = [np.ascontiguousarray(rows[:, -8:]).view("<f4") for rows in (mine, others)]
    assert np.allclose(*numbers, rtol=1e-4, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(parts=st.lists(st.integers(0, 90), min_size=1, max_size=8), dimension=st.integers(1, 70))
def test_appending_in_parts_is_appending_at_once(parts: list[int], dimension: int) -> None:
    vectors = unit(sum(parts), dimension)
    params = train(vectors)
    whole, piecewise = CodeIndex(params), CodeIndex(params)
    data = whole.encode(vectors)
    whole.append(data, len(vectors))
    start = 0
    for count in parts:
        part = data[start * whole.code_bytes : (start + count) * whole.code_bytes]
        assert piecewise.append(part, count) == start
        start += count
    assert piecewise.count == whole.count == len(vectors)
    assert piecewise.nbytes == whole.nbytes
    if len(vectors):
        ours, others = piecewise.search(vectors[0], 10), whole.search(vectors[0], 10)
        assert np.array_equal(ours[0], others[0])
        assert np.array_equal(ours[1], others[1])


@pytest.mark.parametrize("rows", [31, 64, 65, 128, 1000])
def test_rows_in_two_scans_are_found_as_in_one(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = unit(rows, 60)
    whole = filled(vectors)
    monkeypatch.setattr(codes, "_TURN", 64)
    by_turns = CodeIndex(train(vectors))
    coded = by_turns.encode(vectors)
    for start in range(0, rows, 37):
        part = coded[start * by_turns.code_bytes : (start + 37) * by_turns.code_bytes]
        assert by_turns.append(part, len(part) // by_turns.code_bytes) == start
    assert by_turns.count == rows
    gone = np.arange(0, rows, 3)
    for index, turn in ((whole, 1 << 20), (by_turns, 64)):
        monkeypatch.setattr(codes, "_TURN", turn)
        for _ in range(2):
            index.remove(gone)
    for count in (1, 10, 600, 1024):
        monkeypatch.setattr(codes, "_TURN", 1 << 20)
        positions, scores = whole.search(vectors[5], count)
        monkeypatch.setattr(codes, "_TURN", 64)
        others, other_scores = by_turns.search(vectors[5], count)
        assert np.array_equal(scores, other_scores)
        assert len(others) == min(count, rows - len(gone))
        if count >= rows or len(set(scores.tolist())) == len(scores):
            assert sorted(positions) == sorted(others)


def test_what_was_removed_is_never_found() -> None:
    vectors = unit(500, 64)
    index = filled(vectors)
    gone = np.array([0, 3, 31, 32, 498, 499, 499, 3])
    index.remove(gone)
    index.remove(gone)
    found, _ = index.search(vectors[3], 500)
    assert sorted(found) == sorted(set(range(500)) - set(gone))
    data = index.encode(vectors[:5])
    assert index.append(data, 5) == 500  # also those of a block that is not full stay removed
    found, _ = index.search(vectors[499], 505)
    assert sorted(found) == sorted(set(range(505)) - set(gone))
    index.remove(np.arange(505))
    assert len(index.search(vectors[3], 5)[0]) == 0


def test_an_empty_index_finds_nothing() -> None:
    index = CodeIndex(train(np.empty((0, 16), np.float32)))
    assert index.append(b"", 0) == 0
    positions, scores = index.search(unit(1, 16)[0], 5)
    assert len(positions) == len(scores) == index.count == 0


def test_codes_are_small() -> None:
    index = filled(unit(3200, 384))
    assert code_bytes(384) == 56
    assert index.nbytes == 3200 * 56


def test_a_vector_of_zeros_is_no_nan() -> None:
    vectors = np.zeros((40, 32), np.float32)
    index = filled(vectors)
    positions, scores = index.search(unit(1, 32)[0], 40)
    assert len(positions) == 40
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("remove", [[-1], [500], [2**40]])
def test_removing_what_is_not_there(remove: list[int]) -> None:
    with pytest.raises(IndexError):
        filled(unit(500, 8)).remove(np.array(remove))


def test_queries_and_vectors_that_do_not_fit() -> None:
    index = filled(unit(100, 16))
    good = unit(1, 16)[0]
    for query in (good[:8], good[None], np.full(16, np.nan, np.float32), good * np.inf):
        with pytest.raises(UserError):
            index.search(query, 5)
    for count in (0, -1, VPK_SEARCH_COUNT_MAX + 1):
        with pytest.raises(UserError):
            index.search(good, count)
    for vectors in (unit(3, 8), good, np.full((2, 16), np.nan, np.float32), unit(2, 16) * 1e30):
        with pytest.raises(UserError):
            index.encode(vectors)
    for sample in (good, np.empty((3, 0), np.float32), np.full((2, 4), np.inf, np.float32)):
        with pytest.raises(UserError):
            train(sample)
    with pytest.raises(UserError):
        train(np.empty((0, VPK_DIMENSION_MAX + 1), np.float32))


def test_codes_of_another_length_or_with_nonsense() -> None:
    index = CodeIndex(train(unit(10, 16)))
    data = index.encode(unit(10, 16))
    for codes_, count in ((data[:-1], 10), (data, 9), (data, 11), (data, -1), (b"", 2**60)):
        with pytest.raises(FileCorrupt):
            index.append(codes_, count)
    for value in (np.nan, np.inf, 1e30):
        bad = bytearray(data)
        bad[2:6] = np.array(value, "<f4").tobytes()
        with pytest.raises(FileCorrupt):
            index.append(bytes(bad), 10)
    assert index.count == 0


@given(st.binary(max_size=200))
def test_any_bytes_as_parameters(data: bytes) -> None:
    with pytest.raises(FileCorrupt):
        CodeIndex(data)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_any_bytes_as_codes(data: st.DataObject) -> None:
    index = CodeIndex(train(unit(50, 12)))
    count = data.draw(st.integers(0, 40))
    size = count * index.code_bytes
    try:
        index.append(data.draw(st.binary(min_size=size, max_size=size)), count)
    except FileCorrupt:
        assert index.count == 0
    else:
        positions, _ = index.search(unit(1, 12)[0], 50)
        assert sorted(positions) == list(range(count))


def test_parameters_of_another_version_length_or_value() -> None:
    params = train(unit(100, 16))
    for bad in (b"\x02" + params[1:], params[:-1], params + b"\0", params[:-2] + b"\x00\x7c"):
        with pytest.raises(FileCorrupt):
            CodeIndex(bad)


def test_rotations_keep_lengths_and_are_the_same_everywhere() -> None:
    for dimension in (1, 2, 3, 7, 100, 384):
        rotation = codes._rotation(dimension, bytes(16))
        assert np.allclose(rotation @ rotation.T, np.eye(dimension), atol=1e-5)
    known = np.round(codes._rotation(3, bytes(16)) * 1000).astype(int)
    assert known.tolist() == [[-500, -500, 707], [854, -146, 500], [146, -854, -500]]


def test_searches_while_rows_are_added() -> None:
    vectors = unit(4000, 32)
    index = CodeIndex(train(vectors))
    data = index.encode(vectors[:100])
    index.append(data, 100)
    failures: list[BaseException] = []
    done = threading.Event()

    def search() -> None:
        try:
            while not done.is_set():
                positions, _ = index.search(vectors[0], 10)
                assert 0 in positions
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=search) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(200):
        index.append(data, 100)
    done.set()
    for thread in threads:
        thread.join(30)
    assert not failures
    assert index.count == 20_100


def test_exact_ranks_by_the_product() -> None:
    vectors = np.array([[1, 0], [0, 1], [1, 0], [0.5, 0.5]], np.float32)
    order, scores = exact(np.array([1, 0], np.float32), vectors, 3)
    assert order.tolist() == [0, 2, 3]
    assert scores.tolist() == [1.0, 1.0, 0.5]
    assert exact(np.array([1, 0], np.float32), vectors[:0], 3)[0].tolist() == []
