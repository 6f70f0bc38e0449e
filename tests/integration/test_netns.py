"""Four nodes on four hosts: network namespaces on a bridge, found over libp2p, one answer together.

The text is the whole model's, also where the network is slow and loses packets. Needs root and `ip`
on Linux; what it makes has names of its own and is removed again, also when a test fails.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kwaai.cli.control import ControlClient
from kwaai.config.load import set_value
from kwaai.errors import KwaaiError
from kwaai.node.daemon import spawn
from kwaai.store.home import HOME_VARIABLE, Home, ensure_home
from kwaai.testing.processes import TIMEOUT_S, environment, is_gone, kwaainet, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
HOSTS = 4
RANGES = (None, "1:3", "3:5", "5:7")
QUESTION = "What is the capital of France?"
PORT, LINK_PORT = 8080, 8081


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)


def do(*words: str) -> None:
    done = command(*words)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"


@dataclass
class Host:
    """A network namespace with one interface, 10.77.0.<number>."""

    namespace: str
    number: int

    @property
    def address(self) -> str:
        return f"10.77.0.{self.number}"

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return command("ip", "netns", "exec", self.namespace, *words)


@contextlib.contextmanager
def lan(hosts: int) -> Iterator[list[Host]]:
    """Make hosts on one bridge, which has a namespace too. Skips where that is not allowed."""
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need Linux, root and `ip`")
    mark = secrets.token_hex(3)
    switch = f"kw{mark}s"
    made: list[str] = []
    try:
        first = command("ip", "netns", "add", switch)
        if first.returncode != 0:
            pytest.skip(f"no network namespaces here: {first.stderr.strip()}")
        made.append(switch)
        bridge = command("ip", "-n", switch, "link", "add", "name", "bridge0", "type", "bridge")
        if bridge.returncode != 0:
            pytest.skip(f"no bridges here: {bridge.stderr.strip()}")
        do("ip", "-n", switch, "link", "set", "bridge0", "up")
        found = []
        for number in range(1, hosts + 1):
            host = Host(f"kw{mark}h{number}", number)
            do("ip", "netns", "add", host.namespace)
            made.append(host.namespace)
            inside = ("ip", "-n", host.namespace)
            do(*inside, "link", "add", "eth0", "type", "veth", "peer", "name", f"h{number}",
               "netns", switch)  # fmt: skip
            do("ip", "-n", switch, "link", "set", f"h{number}", "master", "bridge0", "up")
            do(*inside, "address", "add", f"{host.address}/24", "dev", "eth0")
            do(*inside, "link", "set", "eth0", "up")
            do(*inside, "link", "set", "lo", "up")
            do(*inside, "route", "add", "default", "dev", "eth0")  # multicast has a way out
            found.append(host)
        yield found
    finally:
        for namespace in made:  # with their interfaces
            command("ip", "netns", "delete", namespace)


def start(host: Host, path: Path, settings: dict[str, str]) -> tuple[Home, dict[str, Any]]:
    """Start a node on a host, in a home of its own; return the home and the node's report."""
    home = ensure_home(path)
    home.config_yaml.touch()
    common = {
        "port": str(PORT),
        "link_port": str(LINK_PORT),
        "api_port": "0",
        "route": "split",
        "home_blocks": "2",
        "public_name": f"host-{host.number}",
    }
    for key, value in (common | settings).items():
        set_value(home.config_yaml, key, value)
    python = path / "python"
    # `spawn` starts this interpreter: let it be one that is on the host.
    python.write_text(f'#!/bin/sh\nexec ip netns exec {host.namespace} {sys.executable} "$@"\n')
    python.chmod(0o700)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "executable", str(python))
        return home, spawn(home, environment=environment())


@contextlib.contextmanager
def nodes(
    hosts: Sequence[Host], directory: Path, ranges: Sequence[str | None], *, mdns: bool
) -> Iterator[list[Home]]:
    """Run a node on each host. The others know the first one's address, or nothing with mDNS."""
    homes: list[Home] = []
    pids: list[int] = []
    bootstrap = "none"
    try:
        for host, layers in zip(hosts, ranges, strict=True):
            settings = {
                "serve": layers or "none",
                "mdns": str(mdns).lower(),
                "bootstrap_peers": bootstrap,
            }
            home, report = start(host, directory / f"host-{host.number}", settings)
            homes.append(home)
            pids.append(report["pid"])
            assert f"{host.address}:{LINK_PORT}" in report["links"]
            if not mdns and bootstrap == "none":
                bootstrap = next(a for a in report["listen"] if f"/{host.address}/" in a)
        yield homes
    finally:
        for home in homes:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv(HOME_VARIABLE, str(home.path))
                kwaainet("stop", "--now", code=None)
        until(lambda: all(map(is_gone, pids)), "the nodes end")


def covered(home: Home) -> bool:
    """Whether the node knows of others that serve all that is in the middle."""
    rows = ControlClient(home).chain(refresh=False)["rows"]
    online = {(r["layers"]["start"], r["layers"]["stop"]) for r in rows if r["state"] == "online"}
    return {(1, 3), (3, 5), (5, 7)} <= online


def ask(home: Home) -> tuple[str, dict[str, Any]]:
    """Return the answer of a node to QUESTION, and its path."""
    chat = {
        "messages": [{"role": "user", "content": QUESTION}],
        "temperature": 0,
        "max_tokens": 64,
    }
    events = list(ControlClient(home).answer(chat, route="split", privacy=None))
    path: dict[str, Any] = events[-1]["path"]
    return "".join(event["text"] for event in events if event["event"] == "delta"), path


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the whole model answers, in one process of stock llama.cpp."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(HOME_VARIABLE, str(tmp_path_factory.mktemp("alone")))
        done = kwaainet("shard", "run", "--local", QUESTION, "--max-tokens", "64", "--json")
    text: str = json.loads(done.stdout)["answer"]
    assert "Paris" in text
    return text


def slow_down(hosts: Sequence[Host], *discipline: str) -> None:
    """Have every host's packets delayed or lost on their way out. Skips what the kernel has not."""
    for host in hosts:
        done = host.run("tc", "qdisc", "add", "dev", "eth0", "root", *discipline)
        if done.returncode != 0:
            pytest.skip(f"this kernel cannot play such a network: {done.stderr.strip()}")


def test_four_hosts_answer_as_the_whole_model(tmp_path: Path, alone: str) -> None:
    with lan(HOSTS) as hosts, nodes(hosts, tmp_path, RANGES, mdns=False) as homes:
        until(lambda: covered(homes[0]), "the first host knows of all")
        text, path = ask(homes[0])
        assert text == alone
        names = [(hop["name"], hop["layers"]["start"]) for hop in path["hops"]]
        assert names == [("here", 0), ("host-2", 1), ("host-3", 3), ("host-4", 5), ("here", 7)]
        peers = ControlClient(homes[0]).peers()
        assert [row["link"] for row in peers if row["name"] != "host-1"] == ["direct"] * 3
    assert not [line for line in command("ip", "netns", "list").stdout.split("\n")
                if any(line.startswith(host.namespace) for host in hosts)]  # fmt: skip


def test_hosts_of_one_lan_find_each_other_without_being_told(tmp_path: Path, alone: str) -> None:
    with lan(HOSTS) as hosts, nodes(hosts, tmp_path, RANGES, mdns=True) as homes:
        until(lambda: len(ControlClient(homes[0]).peers()) == HOSTS - 1, "multicast DNS", 20)
        until(lambda: covered(homes[0]), "the first host knows of all")
        assert ask(homes[0])[0] == alone


@pytest.mark.parametrize(
    "discipline",
    [
        ("netem", "delay", "40ms", "5ms"),
        ("netem", "delay", "10ms", "loss", "3%"),
        ("netem", "loss", "10%", "25%"),
        ("tbf", "rate", "10mbit", "burst", "4kb", "latency", "2ms"),  # what waits longer is lost
    ],
    ids=" ".join,
)
def test_a_slow_and_lossy_network_changes_no_word(
    tmp_path: Path, alone: str, discipline: tuple[str, ...]
) -> None:
    with lan(HOSTS) as hosts:
        slow_down(hosts, *discipline)
        with nodes(hosts, tmp_path, RANGES, mdns=False) as homes:
            until(lambda: covered(homes[0]), "the first host knows of all")
            assert ask(homes[0])[0] == alone
            if discipline[0] == "tbf":
                shown = "".join(host.run("tc", "-s", "qdisc").stdout for host in hosts)
                assert re.search(r"dropped [1-9]", shown), "nothing was lost"


def test_a_host_that_is_cut_off_is_named(tmp_path: Path, alone: str) -> None:
    with lan(HOSTS) as hosts, nodes(hosts, tmp_path, RANGES, mdns=False) as homes:
        until(lambda: covered(homes[0]), "the first host knows of all")
        assert ask(homes[0])[0] == alone
        do("ip", "-n", hosts[2].namespace, "link", "set", "eth0", "down")
        with pytest.raises(KwaaiError, match="host-3"):
            ask(homes[0])
        do("ip", "-n", hosts[2].namespace, "link", "set", "eth0", "up")
