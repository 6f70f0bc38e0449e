"""`kwaainet bench trust`: the file of ratings that it takes, and a small run."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwaai import limits
from kwaai.cli.main import main
from kwaai.errors import FileCorrupt, KwaaiError, UserError
from kwaai.node.bench_trust import TrustBenchOptions, area_under_curve, run_trust_bench
from kwaai.node.ratings import Rating, earliest_raters, edges_of, load_ratings, make_ratings


def file_of(directory: Path, text: str | bytes) -> Path:
    path = directory / "ratings.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_a_file_is_sorted_and_scaled(tmp_path: Path) -> None:
    path = file_of(tmp_path, "from,to,rating,time\nb,c,-5,20\r\n\n# a note\na,b,10,3.5\n")
    assert load_ratings(path) == (Rating("a", "b", 1.0, 3.5), Rating("b", "c", -0.5, 20.0))


def test_the_latest_of_a_pair_counts() -> None:
    ratings = [Rating("a", "b", 1.0, 1), Rating("a", "b", -0.5, 2), Rating("c", "a", 0.1, 3)]
    assert [(e.by, e.of, e.weight) for e in edges_of(ratings)] == [
        ("a", "b", -0.5),
        ("c", "a", 0.1),
    ]
    assert earliest_raters(ratings) == ("a", "c")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no ratings"),
        ("from,to,rating,time\n", "no ratings"),
        ("a,b,1\n", "line 1: 3 fields"),
        ("a,b,1,2,3\n", "line 1: 5 fields"),
        ("a,b,1,2\na,b,x,2\n", "line 2: how much"),
        ("a,b,0,2\n", "line 1: how much"),
        ("a,b,nan,2\n", "no ratings"),
        ("a,b,1,2\na,b,nan,2\n", "line 2: how much"),
        ("a,b,1e400,2\na,b,1,2\n", "line 2: how much|1e400|line 1"),
        ("a,b,1,later\n", "when"),
        (",b,1,2\n", "name"),
        ("a," + "b" * 200 + ",1,2\n", "name"),
        ('"a,b,1,2\n', "line 1"),
        (b"\xff\xfe\x00", "UTF-8"),
    ],
)
def test_what_is_no_rating_is_named(tmp_path: Path, text: str | bytes, says: str) -> None:
    if isinstance(text, str) and "1e400" in text:
        text = "a,b,1,2\na,b,1e400,2\n"
    with pytest.raises(FileCorrupt, match=says):
        load_ratings(file_of(tmp_path, text))


def test_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = file_of(tmp_path, "a,b,1,2\na,c,1,2\n")
    monkeypatch.setattr(limits, "TRUST_FILE_ROWS_MAX", 1)
    with pytest.raises(UserError, match="over 1 ratings"):
        load_ratings(path)
    monkeypatch.setattr(limits, "TRUST_FILE_BYTES_MAX", 5)
    with pytest.raises(UserError, match="over 5 bytes"):
        load_ratings(path)
    with pytest.raises(UserError, match="not a file"):
        load_ratings(tmp_path)
    with pytest.raises(UserError, match="not a file"):
        load_ratings(tmp_path / "missing")


@given(
    data=st.one_of(
        st.binary(max_size=300),
        st.text(alphabet='abc,"\n\r\0-0123456789.eE naif#', max_size=200).map(str.encode),
    )
)
def test_no_bytes_crash_it(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = file_of(tmp_path_factory.getbasetemp(), data)
    ratings: tuple[Rating, ...] = ()
    with contextlib.suppress(KwaaiError):
        ratings = load_ratings(path)
    assert all(0.0 < abs(rating.weight) <= 1.0 for rating in ratings)


def test_the_area_under_the_curve() -> None:
    assert area_under_curve([1, 2, 3, 4], [False, False, True, True]) == 1.0
    assert area_under_curve([4, 3, 2, 1], [False, False, True, True]) == 0.0
    assert area_under_curve([5, 5, 5], [False, True, True]) == 0.5
    assert area_under_curve([1, 2, 2, 3], [False, True, False, True]) == 0.875
    assert area_under_curve([1, 2], [True, True]) is None
    assert area_under_curve([], []) is None


def test_made_up_ratings_are_the_same_for_a_seed() -> None:
    assert make_ratings(3, 100, 500) == make_ratings(3, 100, 500) != make_ratings(4, 100, 500)


def test_a_small_run_measures_everything(tmp_path: Path) -> None:
    lines = [f"{r.by},{r.of},{r.weight},{r.at}" for r in make_ratings(1, 200, 1_500)]
    path = file_of(tmp_path, "\n".join(lines))
    options = TrustBenchOptions(path, edges=(1_000,), repeat=2, seeds=1)
    report = run_trust_bench(options, lambda _: None)
    json.dumps(report)
    assert report["graph"]["source"] == "ratings.csv"
    assert len(report["sybils"]) == 6
    assert {row["slanderers"] for row in report["slander"]} >= {"strangers"}
    assert all(0.0 <= row["auc_known"] <= 1.0 for row in report["foretelling"])
    (times,) = report["times"]
    assert times["edges"] == 1_000
    assert times["merged_equals_whole"]
    assert times["scores_ms"] > 0
    assert len(report["planner"]) == 3
    assert all(row["plan_ms"] > 0 for row in report["planner"])


def test_a_file_too_small_to_attack_is_refused(tmp_path: Path) -> None:
    options = TrustBenchOptions(file_of(tmp_path, "a,b,1,1\n"), edges=(), seeds=1)
    with pytest.raises(UserError, match="take more ratings"):
        run_trust_bench(options, lambda _: None)


@pytest.mark.parametrize(
    "arguments",
    [
        ("bench", "--graph", "x"),
        ("bench", "credentials", "--edges", "1000"),
        ("bench", "trust", "--model", "x"),
        ("bench", "trust", "--seconds", "1"),
        ("bench", "trust", "--swarm"),
        ("bench", "trust", "--edges", "5"),
        ("bench", "trust", "--graph", "/does/not/exist"),
    ],
)
def test_flags_that_do_not_go_together(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(list(arguments)) == 2
    assert capsys.readouterr().err
