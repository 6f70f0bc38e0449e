"""Credentials between two node processes, asked for, approved, shown and revoked by command."""

from __future__ import annotations

import json
import os
import signal
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from kwaai.node.daemon import find_running
from kwaai.store.home import Home
from kwaai.testing.processes import TIMEOUT_S, kwaainet, until

pytestmark = pytest.mark.timeout(300)
LOCAL = ("--port", "0", "--api-port", "0", "--listen-host", "127.0.0.1", "--no-mdns")
CLAIMS = ("--claim", "swarmId=urn:swarm:lab", "--claim", "memberRole=member")


@dataclass
class Machine:
    """A home with a node in it."""

    path: Path

    def run(self, *arguments: str, code: int | None = 0) -> str:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("KWAAINET_HOME", str(self.path))
            return kwaainet(*arguments, code=code).stdout

    def ask(self, *arguments: str, code: int = 0) -> Any:
        return json.loads(self.run(*arguments, "--json", code=code))

    def kill(self) -> None:
        running = find_running(Home(self.path))
        if running is not None:
            process = psutil.Process(running.pid)
            os.kill(running.pid, signal.SIGKILL)
            psutil.wait_procs([process], timeout=TIMEOUT_S)


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Machine, Machine]]:
    """Two nodes that know one another: a lab's, and a newcomer's."""
    directory = tmp_path_factory.mktemp("machines")
    lab, new = Machine(directory / "lab"), Machine(directory / "new")
    try:
        report = lab.ask("start", "--daemon", "--name", "lab", *LOCAL)
        bootstrap = ("--bootstrap", report["listen"][0])
        new.ask("start", "--daemon", "--name", "new", *bootstrap, *LOCAL)
        for machine, other in ((lab, "new"), (new, "lab")):
            until(
                lambda machine=machine, other=other: (
                    other in [row["name"] for row in machine.ask("p2p", "peers")["peers"]]
                ),
                f"{other} is known",
            )
        yield lab, new
    finally:
        for machine in (lab, new):
            machine.kill()


def test_from_the_request_to_the_revocation(machines: tuple[Machine, Machine]) -> None:
    lab, new = machines
    asked = new.ask("credential", "request", "MembershipVC", "--from", "lab", *CLAIMS)
    assert asked["state"] == "pending"
    (waiting,) = lab.ask("credential", "requests", "--pending")["requests"]
    assert (waiting["name"], waiting["type"]) == ("new", "MembershipVC")
    assert "MembershipVC" in lab.run("credential", "requests")

    done = lab.ask("credential", "approve", waiting["id"][:8])
    assert done["state"] == "delivered"
    (held,) = new.ask("identity", "show")["credentials"]
    assert "MembershipVC" in held["types"]

    shown = lab.ask("credential", "fetch", "new")
    assert [row["types"][-1] for row in shown["credentials"]] == ["MembershipVC"]

    lab.run("credential", "revoke", done["detail"])
    shown = lab.ask("credential", "fetch", "new", code=1)
    assert [row["state"] for row in shown["credentials"]] == ["credential_revoked"]
    assert "revoked" in lab.run("credential", "fetch", "new", code=1)


def test_verify_asks_the_issuers_node_for_its_status_list(
    machines: tuple[Machine, Machine], tmp_path: Path
) -> None:
    lab, new = machines
    file = tmp_path / "credential.json"
    did = lab.ask("identity", "show")["did"]
    issued = new.ask("credential", "issue", "MembershipVC", "--subject", did, *CLAIMS)
    file.write_text(json.dumps(issued["credential"]))
    lab.run("credential", "verify", str(file))
    Machine(tmp_path / "stranger").run("credential", "verify", str(file), code=69)


def test_an_unknown_peer_and_a_typo(machines: tuple[Machine, Machine]) -> None:
    _, new = machines
    told = new.ask("credential", "request", "MembershipVC", "--from", "labb", *CLAIMS, code=2)
    assert "did you mean 'lab'" in told["error"]["message"]
    told = new.ask("credential", "request", "MembrshipVC", "--from", "lab", code=2)
    assert "MembershipVC" in told["error"]["message"]


def test_the_nodes_api_has_the_credential_routes(machines: tuple[Machine, Machine]) -> None:
    lab, _ = machines
    api = lab.ask("status")["node"]["api"]
    did = lab.ask("identity", "show")["did"]
    url = f"{api.removesuffix('/v1')}/1.0/identifiers/{did}"
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
        assert json.load(answer)["didDocument"]["id"] == did
