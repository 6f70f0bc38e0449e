"""Three homes, real nodes: bob's base lies at eva's; anna reads it by his leave, sees what he adds,
changes nothing, and is told when her time is over.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from machine import Machine

from kwaai.testing.processes import until

pytestmark = pytest.mark.timeout(300)

QUICK = {"KWAAINET_KNOWLEDGE_EMBEDDER": "none"}
SECRETS = (b"Zephyrine", b"Quillfeather", b"engine.txt")


@dataclass
class Scene:
    """Who owns, who hosts, who reads."""

    directory: Path
    bob: Machine
    eva: Machine
    anna: Machine

    @property
    def papers(self) -> Path:
        return self.directory / "papers"

    def write(self, name: str, text: str) -> None:
        self.papers.mkdir(exist_ok=True)
        (self.papers / name).write_text(text)

    def start_anna(self, bootstrap: str) -> None:
        self.anna.start("--bootstrap", bootstrap, **QUICK)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Scene, str]]:
    directory = tmp_path_factory.mktemp("readers")
    machines = [Machine(name, directory / name) for name in ("bob", "eva", "anna")]
    scene = Scene(directory, *machines)
    scene.write("engine.txt", "The boat's engine is a two-cylinder Zephyrine diesel.\n")
    scene.write("lease.md", "# Lease\n\nNotice is given to Mrs Quillfeather.\n")
    try:
        report = scene.eva.start(
            KWAAINET_VPK_MODE="eve", KWAAINET_STORAGE_TENANT_TIER="unknown", **QUICK
        )
        bootstrap = report["listen"][0]
        scene.bob.start("--bootstrap", bootstrap, KWAAINET_TRUST_ROOTS=scene.eva.did, **QUICK)
        scene.start_anna(bootstrap)
        until(lambda: _usable(scene.bob), "eva can be used")
        yield scene, bootstrap
    finally:
        for machine in machines:
            machine.kill()


def _usable(machine: Machine) -> list[Any]:
    rows = machine.ask("vpk", "discover")
    return [row for row in rows if row["reachable"] and not row["usable"]]


def _found(machine: Machine, base: str, question: str) -> list[str]:
    told = machine.ask("rag", "query", "--passages", "--base", base, question)
    assert not told["degraded"], told
    return [hit["text"] for hit in told["hits"]]


def test_anna_reads_what_bob_shares(scene: tuple[Scene, str]) -> None:
    world, bootstrap = scene
    bob, eva, anna = world.bob, world.eva, world.anna
    assert eva.peer in {host["peer"] for host in bob.ask("rag", "init")["hosts"]}
    bob.run("rag", "ingest", str(world.papers), "--json", code=None)
    anna.ask("rag", "init")  # an own base of the same name

    # Bob makes a token for anna: nobody else can use it.
    token = bob.ask("rag", "share", "default", "--to", anna.peer, "--days", "7")["token"]
    refused = eva.run("rag", "attach", token, code=77)
    assert "made for another node" in refused
    file = world.directory / "token.txt"
    file.write_text(token + "\n")
    row = anna.ask("rag", "attach", str(file))
    assert (row["name"], row["documents"]) == ("default-bob", 2)
    assert row["shared"]["owner"] == bob.peer
    assert "bob, until " in anna.run("rag", "list")

    # She asks it like an own one; on her disk it is encrypted, as at eva's.
    assert "Zephyrine" in _found(anna, "default-bob", "Which engine has the boat?")[0]
    assert {doc["name"] for doc in anna.ask("rag", "docs", "--base", "default-bob")["documents"]}
    for path in [*anna.path.rglob("*"), *eva.path.rglob("*")]:
        if path.is_file():
            data = path.read_bytes()
            assert not [secret for secret in SECRETS if secret in data], path

    # What bob adds she sees after a sync, and nothing of it can she change.
    world.write("people.csv", "name,role\nOttoline Brackenbury,keeper of the archive\n")
    bob.run("rag", "sync", "--json", code=None)
    anna.ask("rag", "sync", "--base", "default-bob")
    assert "Ottoline" in _found(anna, "default-bob", "Who keeps the archive?")[0]
    before = eva.ask("storage", "status")["peers"]["objects"]
    for arguments in (
        ("rag", "ingest", str(world.papers), "--base", "default-bob"),
        ("rag", "delete-doc", "lease.md", "--base", "default-bob"),
        ("rag", "share", "default-bob", "--to", eva.peer),
        ("vpk", "repair", "default-bob"),
    ):
        assert "is somebody else's" in anna.run(*arguments, code=77)

    # It is there after a restart; forgetting it deletes nothing of bob's.
    anna.run("stop")
    world.start_anna(bootstrap)
    assert "Zephyrine" in _found(anna, "default-bob", "Which engine has the boat?")[0]
    anna.run("rag", "destroy", "default-bob", "--yes")
    assert [base["name"] for base in anna.ask("rag", "list")["bases"]] == ["default"]
    assert eva.ask("storage", "status")["peers"]["objects"] == before
    assert "Zephyrine" in _found(bob, "default", "Which engine has the boat?")[0]

    # A right of a tenth of a second is over before it can be used.
    short = bob.ask("rag", "share", "default", "--to", "anna", "--days", "0.000001")["token"]
    assert "ended on" in anna.run("rag", "attach", short, code=77)
