"""`kwaainet vpk bench` as a program: the report's figures, with eves in processes of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from kwaai.store.home import HOME_VARIABLE
from kwaai.testing.processes import kwaainet, until

pytestmark = pytest.mark.timeout(240)
SMALL = ("--vectors", "3000", "--dim", "64", "--queries", "20")


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "home"))


def bench(*arguments: str) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(kwaainet("vpk", "bench", *arguments, "--json").stdout)
    return report


def test_two_far_eves_beside_plain_search(tmp_path: Path) -> None:
    report = bench(*SMALL, "--eves", "2", "--delay-ms", "4", "--leakage")
    assert {row["method"] for row in report["plain"]} >= {"faiss flat", "faiss HNSW"}
    assert report["plain"][0]["recall_at_10"] == 1.0
    (row,) = report["sealed"]
    assert row["objects"] == "2 eves at 4 ms"
    assert row["recall_at_10"] > 0.85
    assert row["p50_ms"] >= 4.0
    assert row["poorer_answers"] == 0
    assert row["kb_a_query"] == pytest.approx(100 * (4 + 64 + 40) / 1e3)  # scale, bytes, sealing
    assert row["index_mb"] == pytest.approx(3008 * 16 / 1e6, rel=0.1)
    assert row["eve_disk_mb"] > 3000 * 108 / 1e6
    assert row["open_ms"] > 0
    (leak,) = report["leakage"]
    assert leak["pairs_at_one_host"] > 0
    assert "p50_ms_of_faiss_flat" in report["against_plain"]
    assert not list((tmp_path / "home" / "run").glob("bench/*"))
    until(lambda: not eves(), "the eves have ended")


def eves() -> list[int]:
    """Return processes of this user that are eves of a benchmark, and are this test's."""
    children = psutil.Process().children(recursive=True)
    return [child.pid for child in children if "kwaai.node.bench_vpk_eve" in child.cmdline()]


def test_given_vectors_on_this_machine(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "given.npz"
    vectors = rng.standard_normal((1000, 24)).astype(np.float32)
    np.savez(path, vectors=vectors, queries=vectors[:15])
    report = bench("--data", str(path), "--eves", "0", "--no-plain")
    assert (report["data"], report["vectors"], report["queries"]) == ("given.npz", 1000, 15)
    assert "plain" not in report
    (row,) = report["sealed"]
    assert row["objects"] == "here"
    assert row["recall_at_10"] > 0.8  # of vectors without any structure


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--delay-ms", "3"), "--eves"),
        (("--eves", "0", "--delay-ms", "3"), "--eves"),
        (("--replicas", "2"), "--eves"),
        (("--vectors", "5"), "--vectors is 100 to"),
        (("--eves", "400"), "--eves is 0 to"),
        (("--data", "x.npz", "--dim", "3"), "--dim"),
        (("--collection", "x", "--leakage"), "--leakage"),
        (("--data", "missing.npz"), "no arrays"),
        (("--collection", "missing"), "cannot be read"),
    ],
)
def test_what_does_not_go_together(arguments: tuple[str, ...], words: str) -> None:
    done = kwaainet("vpk", "bench", *arguments, code=None)
    assert done.returncode != 0
    assert words in done.stderr
