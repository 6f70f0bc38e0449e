"""`kwaainet storage` as a process: the reference flow over HTTP, one server a home, kills."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 60


class Machine:
    """One home, and its commands."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "TERM": "dumb",
            "KWAAINET_HOME": str(home),
        }

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "kwaai.cli", "storage", *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )

    def start(self) -> str:
        done = self.run("start", "--port", "0", "--json")
        assert done.returncode == 0, done.stderr
        url = json.loads(done.stdout)["url"]
        assert isinstance(url, str)
        return url

    def pid(self) -> int:
        return int(json.loads((self.home / "run" / "storage.json").read_text())["pid"])

    def ask(self, url: str, method: str, body: Any = None, *, token: bool = True) -> Any:
        headers = {"Content-Type": "application/json"}
        if token:
            headers["Authorization"] = (
                "Bearer " + (self.home / "storage" / "token").read_text().strip()
            )
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            text = response.read()
            return json.loads(text) if text else response.status


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path / "home")
    yield made
    made.run("stop")


def test_the_reference_networks_flow(machine: Machine) -> None:
    assert machine.run("init", "--capacity-gb", "2").returncode == 0
    url = machine.start()
    assert machine.ask(f"{url}/api/health", "GET", token=False)["status"] == "ok"
    with pytest.raises(urllib.error.HTTPError) as caught:
        machine.ask(f"{url}/api/tenants", "GET", token=False)
    assert caught.value.code == 401
    tenant = machine.ask(f"{url}/api/tenants", "POST", {"peer_id": "test", "vector_dimension": 8})[
        "tenant_id"
    ]
    path = f"{url}/api/tenants/{tenant}"
    vectors = [
        {"id": n, "embedding": [float(at == (n - 3) % 8) for at in range(8)]} for n in range(1, 6)
    ]
    assert machine.ask(f"{path}/vectors", "POST", {"vectors": vectors}) == {"uploaded": 5}
    assert machine.ask(path, "GET")["vector_count"] == 5
    query = {"query": [1.0] + [0.0] * 7, "top_k": 1}
    found = machine.ask(f"{path}/search", "POST", query)
    assert found["results"] == [{"id": 3, "score": 1.0}]

    os.kill(machine.pid(), signal.SIGKILL)  # nothing that was answered is lost
    url = machine.start()
    path = f"{url}/api/tenants/{tenant}"
    assert machine.ask(f"{path}/search", "POST", query) == found
    assert machine.ask(f"{path}/vectors", "DELETE", {"ids": [1, 2]}) == {"deleted": 2}
    assert machine.ask(path, "GET")["vector_count"] == 3
    assert machine.ask(path, "DELETE") == 204
    with pytest.raises(urllib.error.HTTPError) as caught:
        machine.ask(path, "GET")
    assert caught.value.code == 404
    assert machine.ask(f"{url}/api/health", "GET")["tenant_count"] == 0
    checked = machine.run("check")
    assert (checked.returncode, "all whole" in checked.stdout) == (0, True)


def test_one_server_a_home(machine: Machine) -> None:
    url = machine.start()
    for arguments in (("start",), ("serve", "--port", "0")):
        again = machine.run(*arguments)
        assert again.returncode == 75
        assert url in again.stderr
    destroyed = machine.run("destroy", "-y")
    assert (destroyed.returncode, "storage stop" in destroyed.stderr) == (75, True)
    told = json.loads(machine.run("status", "--json").stdout)
    assert (told["url"], told["pid"]) == (url, machine.pid())
    stopped = machine.run("stop")
    assert (stopped.returncode, "stopped process" in stopped.stdout) == (0, True)
    assert machine.run("destroy", "-y").returncode == 0
    assert not (machine.home / "storage").exists()


def test_a_port_that_is_taken(machine: Machine, tmp_path: Path) -> None:
    url = machine.start()
    other = Machine(tmp_path / "other")
    done = other.run("start", "--port", url.rpartition(":")[2])
    assert done.returncode == 75
    assert "in use" in done.stderr
