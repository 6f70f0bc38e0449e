"""A swarm's plan and its homes; the processes are tests/integration/test_swarm.py's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from kwaai.config import Config, load_config
from kwaai.errors import NodeNotRunning, NodeRunning, ResourceError, UserError
from kwaai.node import daemon, swarm
from kwaai.node.daemon import claim
from kwaai.store.home import Home, ensure_home
from kwaai.types import LayerRange

PEER = "/ip4/127.0.0.1/tcp/{port}/p2p/12D3KooWGBfqLAFfDnsaRCT5Zt4Xf1bXAi7xYXcAzCKQxCfCPPnw"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return ensure_home(tmp_path / "home")


@pytest.mark.parametrize("nodes", [2, 3, 4, 7])
def test_the_ranges_tile_the_middle(home: Home, nodes: int) -> None:
    plan = swarm.plan_swarm(home, "kwaai-demo", nodes)
    assert len(plan.ranges) == nodes - 1
    blocks = [block for layers in plan.ranges for block in range(layers.start, layers.stop)]
    assert blocks == list(range(1, plan.block_count - 1))


def test_four_nodes_of_the_packaged_model(home: Home) -> None:
    ranges = swarm.plan_swarm(home, "kwaai-demo", 4).ranges
    assert ranges == (LayerRange(1, 3), LayerRange(3, 5), LayerRange(5, 7))


@pytest.mark.parametrize(
    ("nodes", "message"),
    [(1, "2 to 16 nodes"), (17, "2 to 16 nodes"), (8, "8 layers: the first and the last")],
)
def test_a_swarm_that_cannot_be(home: Home, nodes: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        swarm.plan_swarm(home, "kwaai-demo", nodes)


class Spawned:
    """Stands in for the processes: the settings that each node would read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fails: str = "") -> None:
        self.configs: dict[str, Config] = {}
        self.environments: list[dict[str, str]] = []
        self.fails = fails
        self.fails_with: BaseException = ResourceError("no room for this one")
        self.ended: list[str] = []
        spawned = self

        class Started(daemon.Starting):
            def __init__(self, home: Home, *, environment: dict[str, str]) -> None:
                self.home = home
                spawned.environments.append(environment)
                config = load_config(home.config_yaml, environment=environment).config
                spawned.configs[home.path.name] = config
                self.port = 4000 + len(spawned.configs)

            def report(self, *_: Any) -> dict[str, Any]:
                if self.home.path.name == spawned.fails:
                    raise spawned.fails_with
                listen = [PEER.format(port=self.port)]
                return {"listen": listen, "port": self.port, "api_port": 5000 + self.port}

            def end(self) -> None:
                spawned.ended.append(self.home.path.name)

        monkeypatch.setattr(swarm, "Starting", Started)


def start(home: Home, **settings: Any) -> list[dict[str, Any]]:
    plan = swarm.plan_swarm(home, "kwaai-demo", 4)
    return swarm.start_swarm(home, Config(**settings), plan, lambda text: None)


def test_every_node_has_its_own_everything(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KWAAINET_PORT", "9999")
    monkeypatch.setenv("KWAAINET_IDENTITY_KEY", "/mine")
    spawned = Spawned(monkeypatch)
    start(home, context_tokens=512, port=7777, api_host="0.0.0.0", mdns=True)
    served = {name: config.serve for name, config in spawned.configs.items()}
    assert served == {"node-1": "none", "node-2": "1:3", "node-3": "3:5", "node-4": "5:7"}
    for name, config in spawned.configs.items():
        assert (config.public_name, config.context_tokens) == (name, 512)
        assert (config.port, config.link_port, config.api_port) == (0, 0, 0)
        assert (config.listen_host, config.api_host) == ("127.0.0.1", "127.0.0.1")
        assert (config.mdns, config.identity_key) == (False, None)
        first = () if name == "node-1" else (PEER.format(port=4001),)
        assert config.bootstrap_peers == first
    nodes = swarm.find_nodes(home)
    assert [node.name for node in nodes] == [f"node-{n}" for n in (1, 2, 3, 4)]
    assert load_config(nodes[0].home.config_yaml, environment={}).config.port == 4001
    assert not any(name.startswith("KWAAINET_PORT") for name in spawned.environments[0])
    assert nodes[0].home.models.resolve() == home.models


def test_what_fails_leaves_a_home_that_can_start_again(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    spawned = Spawned(monkeypatch, fails="node-3")
    with pytest.raises(ResourceError, match="node-3: no room for this one"):
        start(home)
    assert sorted(spawned.ended) == ["node-1", "node-2", "node-3", "node-4"]
    assert len(swarm.find_nodes(home)) == 4  # their logs say more
    Spawned(monkeypatch)
    assert len(start(home)) == 4


@pytest.mark.parametrize("number", [1, 3])
def test_ctrl_c_leaves_nothing(home: Home, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    spawned = Spawned(monkeypatch, fails=f"node-{number}")
    spawned.fails_with = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        start(home)
    assert len(spawned.ended) == (1 if number == 1 else 4)
    assert swarm.find_nodes(home) == ()


def test_a_swarm_that_runs_is_not_started_again(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    Spawned(monkeypatch)
    start(home)
    third = swarm.find_nodes(home)[2]
    with claim(third.home), pytest.raises(NodeRunning, match="kwaainet swarm down"):
        start(home)
    start(home)


def test_down_removes_the_homes_and_not_the_models(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home.models / "precious.gguf").write_text("weights")
    assert swarm.stop_swarm(home) == 0
    Spawned(monkeypatch)
    start(home)
    assert swarm.stop_swarm(home) == 0
    assert swarm.find_nodes(home) == ()
    assert (home.models / "precious.gguf").read_text() == "weights"
    assert os.listdir(swarm.swarm_directory(home)) == []


def test_no_swarm_no_first_node(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NodeNotRunning, match="kwaainet swarm up"):
        swarm.first_node(home)
    Spawned(monkeypatch)
    start(home)
    with pytest.raises(NodeNotRunning):
        swarm.first_node(home)
    first = swarm.find_nodes(home)[0]
    with claim(first.home):
        assert swarm.first_node(home) == first
