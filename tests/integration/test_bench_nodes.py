"""`kwaainet bench --swarm`: real nodes are measured, at a distance too, and nothing is left."""

from __future__ import annotations

import json
from pathlib import Path

import psutil
import pytest

from kwaai.testing.processes import kwaainet

pytestmark = [pytest.mark.timeout(240), pytest.mark.slow]


def test_a_quick_run_measures_everything(kwaainet_home: Path) -> None:
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    done = kwaainet("bench", "--swarm", "--quick", "--nodes", "3", "--json")
    report = json.loads(done.stdout)
    assert report["model"]["path"] == ("here [0,1) -> node-2 [1,4) -> node-3 [4,7) -> here [7,8)")
    assert {row["run"] for row in report["runs"]} == {"stock", "stock_same_waiting", "swarm"}
    assert all(ratio > 0 for ratio in report["ratios"].values())
    hop = report["hop"]
    assert hop["tokens"] > 1
    assert 0 < hop["link_us_p50"] < hop["added_us_p50"] <= hop["added_us_p99"]
    assert [row["requests"] for row in report["simultaneous"]] == [1, 2]
    assert all(row["tokens_s"] > 0 for row in report["simultaneous"])
    near, far = report["delays"]
    assert (near["one_way_ms"], far["one_way_ms"]) == (0, 20)
    # Through three relays, of 20 ms each way: no token can be faster.
    assert far["token_ms_p50"] > far["travelling_ms"] == 60
    assert [row["node"] for row in report["idle"]] == ["node-1", "node-2", "node-3"]
    assert all(row["memory_mb"] > 0 and row["ready_s"] > 0 for row in report["idle"])
    assert not (kwaainet_home / "run" / "bench").exists()
    left = [p for p in psutil.process_iter(["environ"]) if _home(p) == str(kwaainet_home)]
    assert left == []
    assert {child.pid for child in psutil.Process().children(recursive=True)} <= before


def _home(process: psutil.Process) -> str:
    environment = process.info.get("environ") or {}
    return str(environment.get("KWAAINET_HOME", "")).partition("/run/bench")[0]
