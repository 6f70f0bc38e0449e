"""What `vpk bench` measures with: data, exact neighbours, recall, nDCG, and collections."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from kwaai.errors import UserError
from kwaai.node.bench_vpk_collection import load_collection, ndcg
from kwaai.node.bench_vpk_data import (
    load_saved,
    load_vectors,
    make_clustered,
    multiply,
    nearest,
    recall,
)


def test_made_up_vectors_are_the_same_for_a_seed() -> None:
    first, again, other = (make_clustered(500, 32, 7, seed) for seed in (1, 1, 2))
    assert np.array_equal(first.vectors, again.vectors)
    assert not np.array_equal(first.vectors, other.vectors)
    assert first.vectors.shape == (500, 32)
    assert first.queries.shape == (7, 32)
    assert np.allclose(np.linalg.norm(first.vectors, axis=1), 1.0, atol=1e-5)


def test_neighbours_are_exact_across_parts() -> None:
    data = make_clustered(20_000, 16, 9)
    scores = data.queries @ data.vectors.T
    for number, row in enumerate(data.truth):
        assert set(row) == set(np.argsort(-scores[number])[:10])
    assert nearest(data.vectors[:4], data.queries).shape == (9, 4)


def test_recall_counts_true_neighbours() -> None:
    truth = np.array([[1, 2], [3, 4]])
    assert recall(truth, [[1, 2], [3, 4]]) == 1.0
    assert recall(truth, [[2, 9], []]) == 0.25


def test_saved_data_are_read_back(tmp_path: Path) -> None:
    data = make_clustered(300, 16, 5)
    data.save(tmp_path)
    loaded = load_saved(tmp_path)
    for name in ("vectors", "queries", "truth"):
        assert np.array_equal(getattr(loaded, name), getattr(data, name))


def test_ten_times_as_many() -> None:
    data = make_clustered(200, 16, 5)
    many = multiply(data, 3)
    assert many.vectors.shape == (600, 16)
    assert np.array_equal(many.vectors[:200], data.vectors)
    assert (np.einsum("ij,ij->i", many.vectors[200:400], data.vectors) > 0.7).all()
    with pytest.raises(UserError):
        multiply(data, 1_000_000)


def test_vectors_of_files(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((50, 8)).astype(np.float32)
    np.save(tmp_path / "a.npy", rows)
    data = load_vectors(tmp_path / "a.npy", None, 10)
    assert (len(data.vectors), len(data.queries)) == (40, 10)
    np.savez(tmp_path / "a.npz", vectors=rows, queries=rows[:3])
    data = load_vectors(tmp_path / "a.npz", 20, 10)
    assert (len(data.vectors), len(data.queries)) == (20, 3)


def test_files_that_are_no_vectors(tmp_path: Path) -> None:
    rows = np.ones((50, 8), np.float32)
    np.savez(tmp_path / "other.npz", vectors=rows, queries=rows[:, :4])
    np.savez(tmp_path / "lacks.npz", vectors=rows)
    np.save(tmp_path / "flat.npy", rows[0])
    np.save(tmp_path / "whole.npy", rows.astype(np.int64))
    np.save(tmp_path / "nan.npy", rows * np.nan)
    np.save(tmp_path / "pickle.npy", np.array([{"a": 1}], object), allow_pickle=True)
    (tmp_path / "text.npy").write_text("no numbers")
    for path in [*tmp_path.iterdir(), tmp_path / "missing.npy"]:
        with pytest.raises(UserError):
            load_vectors(path, None, 10)


def test_ndcg() -> None:
    assert ndcg([5, 6], {5: 1.0}) == 1.0
    assert ndcg([6, 5], {5: 1.0}) == pytest.approx(1 / np.log2(3))
    assert ndcg([1, 2], {1: 1.0, 2: 2.0}) == pytest.approx(
        (1 + 2 / np.log2(3)) / (2 + 1 / np.log2(3))
    )
    assert ndcg([], {5: 1.0}) == 0.0
    assert ndcg([*range(10), 99], {99: 1.0}) == 0.0


def collection(
    folder: Path, qrels: str = "query-id\tcorpus-id\tscore\nq1\td2\t2\nq1\td9\t1\n"
) -> Path:
    folder.mkdir(exist_ok=True)
    texts = [{"_id": "d1", "title": "A", "text": "b c"}, {"_id": "d2", "text": "d"}]
    queries = [{"_id": "q1", "text": "what"}, {"_id": "q2", "text": "nobody knows"}]
    for name, rows in (("corpus", texts), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "qrels.tsv").write_text(qrels)
    return folder


def test_a_collection(tmp_path: Path) -> None:
    read = load_collection(collection(tmp_path))
    assert read.texts == ("A b c", "d")
    assert read.queries == ("what",)
    assert read.relevant == ({1: 2.0},)


@pytest.mark.parametrize("qrels", ["", "q1\td2\t0\n", "q1\td2\tnan\n", "q9\td2\t1\n", "q1\n", "\0"])
def test_a_collection_without_answers(tmp_path: Path, qrels: str) -> None:
    with pytest.raises(UserError):
        load_collection(collection(tmp_path, qrels))


@pytest.mark.parametrize("line", ["{", "[]", "3", '{"text": "no id"}', "[" * 100_000])
def test_a_collection_with_a_line_that_is_none(tmp_path: Path, line: str) -> None:
    folder = collection(tmp_path)
    (folder / "corpus.jsonl").write_text(line)
    with pytest.raises(UserError):
        load_collection(folder)
    (folder / "corpus.jsonl").unlink()
    with pytest.raises(UserError):
        load_collection(folder)
