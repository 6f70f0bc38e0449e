"""Three homes, real nodes: bob's base lies at eva's with cells; his tablet asks it with the
centroids alone, sees what he adds and deletes, and is still there after a restart.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from machine import Machine

from kwaai.store.home import Home
from kwaai.testing.embedding import tiny_bert
from kwaai.testing.processes import until

pytestmark = pytest.mark.timeout(300)

QUICK = {"KWAAINET_KNOWLEDGE_EMBEDDER": "tiny"}
TEXTS = {  # of the few words that `tiny_bert` knows
    "b.txt": "the cat sat on a mat .",
    "c.txt": "dog dog dog .",
    "d.txt": "a mat . a mat . a mat .",
    "e.txt": "on on the the on the",
    "f.txt": "sat cat sat cat sat",
    "g.txt": ". . . . a . .",
}
NEW = "dog on dog on mat mat mat mat mat"


@dataclass
class Scene:
    """Who owns, who hosts, and the owner's small device."""

    directory: Path
    bob: Machine
    eva: Machine
    tablet: Machine
    bootstrap: str = ""

    @property
    def papers(self) -> Path:
        return self.directory / "papers"

    def write(self, name: str, text: str) -> None:
        self.papers.mkdir(exist_ok=True)
        (self.papers / name).write_text(text + "\n")

    def start(self, machine: Machine) -> None:
        roots = {"KWAAINET_TRUST_ROOTS": self.eva.did}
        machine.start("--bootstrap", self.bootstrap, **roots, **QUICK)
        until(lambda: _usable(machine), "eva can be used")


def _usable(machine: Machine) -> list[Any]:
    rows = machine.ask("vpk", "discover")
    return [row for row in rows if row["reachable"] and not row["usable"]]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    directory = tmp_path_factory.mktemp("thin")
    machines = [Machine(name, directory / name) for name in ("bob", "eva", "tablet")]
    scene = Scene(directory, machines[0], machines[1], machines[2])
    for name, text in TEXTS.items():
        scene.write(name, text)
    for machine in (scene.bob, scene.tablet):
        models = Home(machine.path).models
        models.mkdir(parents=True)
        tiny_bert(models / "tiny.gguf", positions=64)
    try:
        report = scene.eva.start(
            KWAAINET_VPK_MODE="eve",
            KWAAINET_STORAGE_TENANT_TIER="unknown",
            KWAAINET_KNOWLEDGE_EMBEDDER="none",
        )
        scene.bootstrap = report["listen"][0]
        scene.start(scene.bob)
        yield scene
    finally:
        for machine in machines:
            machine.kill()


def _search(machine: Machine, question: str) -> dict[str, Any]:
    told: dict[str, Any] = machine.ask("rag", "query", "--passages", "--explain", question)
    return told


def _first(machine: Machine, question: str) -> str:
    return Path(_search(machine, question)["hits"][0]["document"]).name


def test_a_tablet_asks_without_the_index(scene: Scene) -> None:
    bob, eva, tablet = scene.bob, scene.eva, scene.tablet
    assert bob.ask("rag", "init")["embedder"]
    bob.run("rag", "ingest", str(scene.papers), "--json")
    key = scene.directory / "root.txt"
    bob.run("vpk", "key", "export", str(key))
    tablet.run("vpk", "key", "import", str(key))
    scene.start(tablet)

    # Before there are cells the tablet is told what to do, and where.
    refused = tablet.run("rag", "restore", "default", "--thin", code=None)
    assert tablet.ask("rag", "list")["bases"] == [], refused
    said = tablet.run("rag", "restore", "default", "--thin", code=75)
    assert "kwaainet rag thin default" in said
    made = bob.ask("rag", "thin")["thin"]
    assert (made["client"], made["passages"]) == (False, len(TEXTS))
    assert "sealed, cells" in bob.run("rag", "list")
    (row,) = tablet.ask("rag", "restore", "default", "--thin")["bases"]
    assert row["thin"]["client"]
    assert "thin" in tablet.run("rag", "list")

    # It finds what bob finds, by vectors alone, and says so, and from whom.
    for name, text in TEXTS.items():
        told = _search(tablet, text)
        assert Path(told["hits"][0]["document"]).name == name
        assert told["hits"][0]["similarity"] > 0.99
        assert [text for text in told["degraded"] if "vectors alone" in text] == told["degraded"]
    explained = told["explained"]
    assert [stage for stage, _ in explained["stages_ms"]] == [
        "embed",
        "cells",
        "vectors",
        "passages",
    ]
    assert {row["host"] for row in explained["fetches"]} == {"eva"}
    assert explained["bytes"] > 0

    # It changes nothing.
    for arguments in (
        ("rag", "ingest", str(scene.papers)),
        ("rag", "delete-doc", "b.txt"),
        ("rag", "docs"),
        ("rag", "thin"),
        ("vpk", "repair", "default"),
    ):
        assert "thin client" in tablet.run(*arguments, code=77)

    # What bob deletes it does not find; what he adds it finds once there are new cells.
    bob.run("rag", "delete-doc", "papers/b.txt")
    (scene.papers / "b.txt").unlink()
    scene.write("j.txt", NEW)
    bob.run("rag", "sync", "--json")
    tablet.run("rag", "sync", "--json")
    assert _first(tablet, TEXTS["b.txt"]) != "b.txt"
    bob.run("rag", "thin")
    assert _first(tablet, NEW) == "j.txt"

    # It is there after a restart; all of it may take its place; eva keeps it all.
    tablet.run("stop")
    scene.start(tablet)
    assert _first(tablet, TEXTS["c.txt"]) == "c.txt"
    before = eva.ask("storage", "status")["peers"]["objects"]
    (row,) = tablet.ask("rag", "restore", "default")["bases"]
    assert (row["thin"]["client"], row["documents"]) == (False, len(TEXTS))
    assert _search(tablet, TEXTS["c.txt"])["degraded"] == []
    assert eva.ask("storage", "status")["peers"]["objects"] == before
