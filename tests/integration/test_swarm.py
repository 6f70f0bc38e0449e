"""Four nodes on one machine, found over libp2p: the words of one machine alone, and no trace."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from kwaai.node.swarm import find_nodes, stop_swarm
from kwaai.store.home import Home, ensure_home
from kwaai.testing.processes import is_gone, kwaainet, until

pytestmark = pytest.mark.timeout(240)
QUESTIONS = ("What is the capital of France?", "What is kwaainet?", "How much is 3 plus 4?")


@pytest.fixture
def home(kwaainet_home: Path) -> Iterator[Home]:
    home = ensure_home(kwaainet_home)
    yield home
    stop_swarm(home)


def family(pids: list[int]) -> list[psutil.Process]:
    """Return the processes and their workers."""
    parents = [psutil.Process(pid) for pid in pids]
    return [*parents, *(child for one in parents for child in one.children(recursive=True))]


def answer(*arguments: str) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(kwaainet(*arguments, "--json").stdout)
    return told


def test_four_nodes_answer_as_one(home: Home) -> None:
    up = json.loads(kwaainet("swarm", "up", "--nodes", "4", "--json").stdout)
    assert up["elapsed_s"] < 60
    assert [node["serves"] for node in up["nodes"]] == ["none", "1:3", "3:5", "5:7"]
    assert len({node["peer"] for node in up["nodes"]}) == 4
    again = kwaainet("swarm", "up", code=75)
    assert "kwaainet swarm down" in again.stderr

    told = json.loads(kwaainet("swarm", "status", "--json").stdout)["nodes"]
    assert [row["serves"] for row in told] == ["", *(f"[{n},{n + 2}) online" for n in (1, 3, 5))]

    for question in QUESTIONS:
        alone = answer("shard", "run", "--local", question)
        together = answer("swarm", "run", question)
        assert together["answer"] == alone["answer"]
        assert together["route"] == "split"
        layers = [(hop["name"], hop["layers"]["start"]) for hop in together["hops"]]
        starts = (0, 1, 3, 5, 7)
        names = [f"node-{number}" for number in (1, 2, 3, 4, 1)]
        assert layers == list(zip(names, starts, strict=True))
    shown = kwaainet("swarm", "run", QUESTIONS[0])
    assert "Paris" in shown.stdout
    chain = "node-1 [0,1) -> node-2 [1,3) -> node-3 [3,5) -> node-4 [5,7) -> node-1 [7,8)"
    assert f"path: {chain}\n" in shown.stderr

    processes = family([node["pid"] for node in up["nodes"]])
    assert kwaainet("swarm", "down").stdout == "ended 4 nodes\n"
    until(lambda: all(is_gone(one.pid) for one in processes), "nothing runs on")
    assert find_nodes(home) == ()
    kwaainet("swarm", "status", code=69)
    missing = kwaainet("swarm", "run", "Hi", code=69)
    assert "kwaainet swarm up" in missing.stderr


@pytest.mark.slow
def test_a_swarm_whose_nodes_were_killed_is_cleared_away(home: Home) -> None:
    up = json.loads(kwaainet("swarm", "up", "--nodes", "3", "--json").stdout)
    pids = [node["pid"] for node in up["nodes"]]
    processes = family(pids)
    bystander = psutil.Process(os.getpid())
    for pid in pids[:2]:
        os.kill(pid, signal.SIGKILL)
    until(lambda: all(is_gone(pid) for pid in pids[:2]), "they are killed")
    rows = json.loads(kwaainet("swarm", "status", "--json", code=69).stdout)["nodes"]
    assert [row["state"] for row in rows][:2] == ["ended", "ended"]
    assert kwaainet("swarm", "down").stdout == "ended 1 node\n"
    until(lambda: all(is_gone(one.pid) for one in processes), "nothing runs on")
    assert bystander.is_running()
    assert kwaainet("swarm", "down").stdout == "no swarm ran here\n"
