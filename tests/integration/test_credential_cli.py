"""`kwaainet credential` and `identity` as processes of their own, in empty homes: two nodes and an
owner, pipes, a terminal, races, and a process that is ended while it writes.
"""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 60
EVENT = ("--claim", "eventName=Summit", "--claim", "eventDate=2026-01-01")
PASSPHRASE = "correct horse battery"


class Node:
    """A home, and the commands of one who sits at it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.environment = os.environ | {
            "KWAAINET_HOME": str(home),
            "PYTHONPATH": str(ROOT),
            "PYTHONUTF8": "1",
            "TERM": "dumb",
        }

    def command(self, *arguments: object) -> list[str]:
        return [sys.executable, "-m", "kwaai.cli", *map(str, arguments)]

    def run(
        self, *arguments: object, stdin: bytes = b"", **more: str
    ) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            self.command(*arguments),
            env=self.environment | more,
            input=stdin,
            capture_output=True,
            check=False,
            timeout=TIMEOUT_S,
        )

    def ok(self, *arguments: object, stdin: bytes = b"", **more: str) -> bytes:
        done = self.run(*arguments, stdin=stdin, **more)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    def did(self) -> str:
        shown: str = json.loads(self.ok("identity", "show", "--json"))["did"]
        return shown


@pytest.fixture
def node(tmp_path: Path) -> Node:
    made = Node(tmp_path / "node")
    made.ok("setup", "--json")
    return made


@pytest.fixture
def peer(tmp_path: Path) -> Node:
    made = Node(tmp_path / "peer")
    made.ok("setup", "--json")
    return made


def test_from_one_node_to_another_and_back(node: Node, peer: Node, tmp_path: Path) -> None:
    """Issue, carry, import, present, check, revoke: in files and pipes."""
    credential = node.ok(
        "credential",
        "issue",
        "EventAttendeeVC",
        "--subject",
        peer.did(),
        *EVENT,
        "--expires",
        "90d",
    )
    lists = []
    for name in ("revocation-1", "suspension-1"):
        path = tmp_path / name
        path.write_bytes(node.ok("credential", "status-list", name))
        lists += ["--status-list", path]
    assert peer.run("credential", "import", "-", stdin=credential).returncode == 69
    peer.ok("credential", "import", "-", *lists, stdin=credential)
    held = json.loads(peer.ok("identity", "show", "--json"))["credentials"]
    assert [row["types"][-1] for row in held] == ["EventAttendeeVC"]

    ask = ("--challenge", "a challenge of some length")
    shown = peer.ok("credential", "present", "--to", node.did(), *ask)
    verify = ("credential", "verify", "-", *ask, "--domain", node.did())
    node.ok(*verify, "--issuer", node.did(), stdin=shown)
    assert node.run(*verify, stdin=shown.replace(b"Summit", b"Valley")).returncode == 1

    node.ok("credential", "revoke", json.loads(credential)["id"])
    assert node.run(*verify, stdin=shown).returncode == 1
    code = node.run("credential", "verify", "-", "--json", stdin=credential)
    assert json.loads(code.stdout)["error"]["code"] == "credential_revoked"


def test_without_a_home(tmp_path: Path, node: Node) -> None:
    """Who has no node can check all the same; and what is asked of one is told."""
    nobody = Node(tmp_path / "nobody")
    credential = node.ok(
        "credential", "issue", "EventAttendeeVC", "--subject", "self", *EVENT, "--not-revocable"
    )
    nobody.ok("credential", "verify", "-", stdin=credential)
    assert not nobody.home.exists()
    for line in (("identity", "show"), ("credential", "list")):
        done = nobody.run(*line)
        assert done.returncode == 78
        assert b"run: kwaainet setup" in done.stderr
        assert b"Traceback" not in done.stderr


def test_the_wallet_is_ciphertext_of_this_user(node: Node) -> None:
    node.ok("credential", "issue", "EventAttendeeVC", "--subject", "self", *EVENT)
    files = [path for path in (node.home / "credentials").iterdir() if path.is_file()]
    assert {"wallet.db", "wallet.key"} <= {path.name for path in files}
    seed = (node.home / "identity.key").read_bytes()[4:36]
    for path in files:
        content = path.read_bytes()
        assert path.stat().st_mode & 0o077 == 0, path
        assert b"Summit" not in content, path
        assert b"EventAttendeeVC" not in content, path
        assert seed not in content, path
        assert seed.hex().encode() not in content, path


def test_another_machine_restores_a_backup(node: Node, tmp_path: Path) -> None:
    issued = json.loads(
        node.ok("credential", "issue", "EventAttendeeVC", "--subject", "self", *EVENT, "--json")
    )
    node.ok("credential", "revoke", issued["id"])
    phrase = tmp_path / "phrase"
    phrase.write_text(PASSPHRASE)
    backup = tmp_path / "backup"
    node.ok("credential", "backup", backup, "--new-passphrase-file", phrase)
    elsewhere = Node(tmp_path / "elsewhere")
    elsewhere.ok("credential", "restore", backup, "--backup-passphrase-file", phrase)
    assert elsewhere.did() == node.did()
    rows = json.loads(elsewhere.ok("credential", "list", "--issued", "--json"))["issued"]
    assert [(row["id"], row["state"]) for row in rows] == [(issued["id"], "revoked")]


def test_a_sealed_identity_end_to_end(node: Node, tmp_path: Path) -> None:
    phrase = tmp_path / "phrase"
    phrase.write_text(PASSPHRASE)
    node.ok("identity", "seal", "--new-passphrase-file", phrase)
    line = ("credential", "issue", "EventAttendeeVC", "--subject", "self", *EVENT)
    refused = node.run(*line)
    assert refused.returncode == 77
    assert PASSPHRASE.encode() not in refused.stderr
    credential = node.ok(*line, KWAAINET_PASSPHRASE=PASSPHRASE)
    node.ok("credential", "verify", "-", stdin=credential, KWAAINET_PASSPHRASE_FILE=str(phrase))
    # Without the passphrase the wallet stays shut, and with it the status lists in it.
    assert node.run("credential", "verify", "-", stdin=credential).returncode == 69


def test_a_passphrase_is_asked_for_on_a_terminal(node: Node, tmp_path: Path) -> None:
    """It is not echoed, and not asked for twice."""
    phrase = tmp_path / "phrase"
    phrase.write_text(PASSPHRASE)
    node.ok("identity", "seal", "--new-passphrase-file", phrase)
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(sys.executable, node.command("identity", "show"), node.environment)
    said = b""
    typed = False
    while True:
        try:
            data = os.read(terminal, 4096)
        except OSError:
            break
        if not data:
            break
        said += data
        if not typed and b"Passphrase of the identity key:" in said:
            os.write(terminal, PASSPHRASE.encode() + b"\n")
            typed = True
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, said.decode()
    assert said.count(b"Passphrase of") == 1
    assert PASSPHRASE.encode() not in said
    assert b"did:key:z6Mk" in said
    assert b"(sealed)" in said


def test_colours_on_a_terminal(node: Node, tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    node.ok("credential", "issue", "EventAttendeeVC", "--subject", "self", *EVENT, "--out", path)
    shown, terminal = pty.openpty()
    process = subprocess.Popen(
        node.command("credential", "verify", path),
        env=node.environment | {"TERM": "xterm"},
        stdout=terminal,
        stdin=subprocess.DEVNULL,
    )
    os.close(terminal)
    said = b""
    while True:
        try:
            data = os.read(shown, 4096)
        except OSError:
            break
        if not data:
            break
        said += data
    os.close(shown)
    assert process.wait(TIMEOUT_S) == 0
    assert b"\x1b[32mvalid\x1b[0m" in said
    assert "└─".encode() in said


def test_many_at_once(node: Node) -> None:
    """Processes that share a wallet wait for one another; nothing is lost."""
    line = ("credential", "issue", "EventAttendeeVC", "--subject", "self", *EVENT, "--json")
    processes = [
        subprocess.Popen(
            node.command(*line),
            env=node.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(6)
    ]
    ids = set()
    for process in processes:
        out, err = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == 0, err.decode()
        ids.add(json.loads(out)["id"])
    rows = json.loads(node.ok("credential", "list", "--issued", "--json"))["issued"]
    assert {row["id"] for row in rows} == ids
    assert len(ids) == 6
    places = [(s["purpose"], s["index"]) for row in rows for s in row["statuses"]]
    assert len(set(places)) == 12


@pytest.mark.parametrize("after", [1, 2, 3, 5, 8])
def test_ended_at_any_moment(node: Node, after: int) -> None:
    """What was printed as issued is in the register, whenever the process was killed."""
    line = ["credential", "issue", "EventAttendeeVC", "--subject", "self", *EVENT]
    loop = (
        "import sys\n"
        "from kwaai.cli.main import main\n"
        "for _ in range(500):\n"
        f"    if main({line!r}):\n"
        "        break\n"
        "    sys.stdout.flush()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", loop],
        env=node.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    told = [json.loads(process.stdout.readline())["id"] for _ in range(after)]
    process.send_signal(signal.SIGKILL)
    rest, _ = process.communicate(timeout=TIMEOUT_S)
    whole = rest.splitlines(keepends=True)
    told += [json.loads(line)["id"] for line in whole if line.endswith(b"}\n")]
    rows = json.loads(node.ok("credential", "list", "--issued", "--json"))["issued"]
    kept = {row["id"] for row in rows}
    assert set(told) <= kept
    assert len(kept) <= len(told) + 1
    node.ok("credential", "revoke", told[0])


def test_help_imports_nothing_heavy(node: Node) -> None:
    """`--help` of every command is instant: no cryptography, no database, no JSON-LD."""
    for line in (("--help",), ("credential", "--help"), ("credential", "issue", "--help")):
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "kwaai.cli", *line],
            env=node.environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=TIMEOUT_S,
        )
        imported = set(re.findall(r"\|\s+([\w.]+)$", done.stderr, re.MULTILINE))
        for heavy in ("nacl", "apsw", "pyld", "jsonschema", "rich", "credentials", "pydantic"):
            assert heavy not in imported, (line, heavy)


def test_what_reads_the_output_may_go(node: Node) -> None:
    process = subprocess.Popen(
        node.command("credential", "schema", "show", "UptimeVC", "--json"),
        env=node.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    assert process.wait(TIMEOUT_S) == 141
