"""Five homes, real nodes: bob's folder lies sealed on three eves; one dies, answers stay right and
cited; repair restores the copies; a fresh device with the key restores the base.
"""

from __future__ import annotations

import json
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from machine import Machine

from kwaai.testing.processes import TIMEOUT_S, until

pytestmark = pytest.mark.timeout(400)

API_KEY = "an-api-key-of-bobs-test"
FACTS = {
    "lease.md": (
        "# Lease of the workshop\n\n## Term\n\nThe lease of the workshop ends on 31 March 2031.\n\n"
        "## Notice\n\nNotice is given nine months before the end, to Mrs Quillfeather.\n"
    ),
    "boat/engine.txt": (
        "The boat's engine is a two-cylinder Zephyrine diesel. Its oil is changed every 120 hours, "
        "with exactly 4.5 litres of 15W40.\n"
    ),
    "recipes.html": (
        "<html><head><title>Recipes</title></head><body><h1>Bread</h1><p>The rye sourdough rests "
        "for eighteen hours at twelve degrees.</p></body></html>"
    ),
    "people.csv": "name,role\nOttoline Brackenbury,keeper of the archive\n",
}
QUESTIONS = {
    "When does the lease of the workshop end?": ("lease.md", "31 March 2031"),
    "How many litres of oil does the Zephyrine engine take?": ("engine.txt", "4.5 litres"),
    "How long does the rye sourdough rest?": ("recipes.html", "eighteen hours"),
    "Who is keeper of the archive?": ("people.csv", "Ottoline Brackenbury"),
}
SECRETS = (b"Zephyrine", b"Quillfeather", b"Brackenbury", b"sourdough", b"lease.md", b"engine.txt")


@dataclass
class Scene:
    """Bob, who asks, and three who host."""

    directory: Path
    bob: Machine
    eves: tuple[Machine, ...]
    bootstrap: str = ""
    devices: list[Machine] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        return self.directory / "papers"

    def start_bob(self, machine: Machine) -> dict[str, Any]:
        key = machine.path.parent / f"{machine.name}.key"
        key.write_text(API_KEY)
        key.chmod(0o600)
        roots = ",".join(eve.did for eve in self.eves)
        return machine.start(
            "--bootstrap",
            self.bootstrap,
            "--api-key-file",
            str(key),
            KWAAINET_TRUST_ROOTS=roots,
            KWAAINET_LOG_LEVEL="info",
        )

    def found(self, machine: Machine, question: str) -> dict[str, Any]:
        told: dict[str, Any] = machine.ask("rag", "query", "--passages", "--explain", question)
        return told

    def check_answers(self, machine: Machine) -> None:
        """Every question finds its fact, first, with its source."""
        for question, (document, fact) in QUESTIONS.items():
            told = self.found(machine, question)
            assert told["hits"], (question, told)
            assert told["hits"][0]["document"].endswith(document), (question, told["hits"][0])
            assert fact in told["hits"][0]["text"]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    directory = tmp_path_factory.mktemp("vpk")
    eves = tuple(Machine(name, directory / name) for name in ("eva", "evelyn", "evita"))
    scene = Scene(directory, Machine("bob", directory / "bob"), eves)
    scene.devices = [*eves, scene.bob]
    for name, text in FACTS.items():
        path = scene.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (scene.folder / "broken.pdf").write_bytes(b"%PDF-1.7\nthis is no document\n")
    try:
        hosting = {"KWAAINET_VPK_MODE": "eve", "KWAAINET_STORAGE_TENANT_TIER": "unknown"}
        for eve in eves:
            extra = ("--bootstrap", scene.bootstrap) if scene.bootstrap else ()
            report = eve.start(*extra, **hosting)
            scene.bootstrap = ",".join(filter(None, (scene.bootstrap, report["listen"][0])))
        scene.start_bob(scene.bob)
        until(lambda: len(_usable(scene.bob)) == 3, "three hosts can be used")
        yield scene
    finally:
        for machine in scene.devices:
            machine.kill()


def _usable(machine: Machine) -> list[str]:
    rows = machine.ask("vpk", "discover")
    return [row["peer_id"] for row in rows if row["reachable"] and not row["usable"]]


def _post(machine: Machine, path: str, body: dict[str, Any], key: str | None = API_KEY) -> Any:
    headers = {"Content-Type": "application/json"}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    url = machine.api.removesuffix("/v1") + path
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        return json.load(answer)


def test_bobs_knowledge_outlives_an_eve_and_his_laptop(scene: Scene) -> None:
    bob = scene.bob
    made = bob.ask("rag", "init")
    assert made["embedder"] == "all-MiniLM-L6-v2"
    assert len(made["hosts"]) == 3

    # A folder goes in; the file that is broken is named, and stops nothing.
    done = json.loads(bob.run("rag", "ingest", str(scene.folder), "--json", code=None))
    outcomes = {Path(row["path"]).name: row["outcome"] for row in done["files"]}
    assert outcomes == {
        "lease.md": "new",
        "engine.txt": "new",
        "recipes.html": "new",
        "people.csv": "new",
        "broken.pdf": "failed",
    }
    assert done["published"]
    again = json.loads(bob.run("rag", "ingest", str(scene.folder), "--json", code=None))
    assert again["unchanged"] == 4

    # It lies at three hosts, and says nothing there.
    for eve in scene.eves:
        assert eve.ask("storage", "status")["peers"]["objects"] > 0
        for path in eve.path.rglob("*"):
            if path.is_file() and "models" not in path.parts:
                data = path.read_bytes()
                assert not [secret for secret in SECRETS if secret in data], path

    # Questions are answered with sources, on the command line and over HTTP.
    scene.check_answers(bob)
    told = bob.ask("rag", "query", next(iter(QUESTIONS)), "--max-tokens", "20")
    assert told["answer"]
    assert told["sources"][0]["document"].endswith("lease.md")
    assert told["sources"][0]["heading"][0] == "Lease of the workshop"
    answer = _post(
        bob,
        "/v1/chat/completions",
        {
            "model": "kwaai-rag/default",
            "messages": [{"role": "user", "content": "Who is keeper of the archive?"}],
            "max_tokens": 10,
        },
    )
    assert answer["sources"][0]["number"] == 1
    assert "Ottoline Brackenbury" in answer["sources"][0]["text"]
    found = _post(bob, "/api/search", {"q": "rye sourdough"})
    assert found["results"][0]["doc"].endswith("recipes.html")
    with pytest.raises(urllib.error.HTTPError):
        _post(bob, "/api/search", {"q": "rye sourdough"}, key=None)

    # One host dies: the answers are the same.
    lost = scene.eves[0]
    lost.kill()
    scene.check_answers(bob)
    audit = json.loads(bob.run("vpk", "audit", "--json", code=None))
    assert {row["peer"]: bool(row["failed"]) for row in audit["hosts"]}[lost.peer]

    # Repair makes the copies that are gone, at those that are left.
    done = json.loads(bob.run("vpk", "repair", "--json", code=None))
    assert done["left"] == 0
    assert lost.peer not in {host["peer"] for host in done["hosts"]}
    until(lambda: _owed(bob) == 0, "nothing is owed")
    scene.check_answers(bob)

    # A fresh device has the key and nothing else.
    bob.kill()
    laptop = Machine("laptop", scene.directory / "laptop")
    scene.devices.append(laptop)
    key = scene.directory / "bob-root.txt"
    bob.run("vpk", "key", "export", str(key))
    laptop.run("vpk", "key", "import", str(key))
    shutil.copytree(bob.path / "models", laptop.path / "models", dirs_exist_ok=True)
    scene.start_bob(laptop)
    until(lambda: len(_usable(laptop)) == 2, "two hosts can be used")
    (restored,) = laptop.ask("rag", "restore")["bases"]
    assert (restored["name"], restored["documents"]) == ("default", 4)
    scene.check_answers(laptop)


def _owed(machine: Machine) -> int:
    (row,) = machine.ask("rag", "list")["bases"]
    return int(row["owed"])
