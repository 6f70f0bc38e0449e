"""`kwaainet identity`, in this process: names, the key's care, the owner."""

from __future__ import annotations

import getpass
import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from credentials.did_peer import peer_4_short
from kwaai.cli import identity_passphrase
from kwaai.cli.main import main
from kwaai.node.daemon import claim
from kwaai.store.home import Home, ensure_home
from kwaai.store.identity_file import ensure_identity

Capture = pytest.CaptureFixture[str]
PASSPHRASE = "correct horse battery"


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: Capture) -> Run:
    def go(*arguments: str | Path) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return go


@pytest.fixture
def key(run: Run, kwaainet_home: Path) -> Path:
    """The key file of a home that was just made."""
    path = ensure_home(kwaainet_home).identity_key
    ensure_identity(path)
    return path


@pytest.fixture
def phrase(tmp_path: Path) -> Path:
    path = tmp_path / "passphrase"
    path.write_text(PASSPHRASE + "\n")
    return path


def shown(run: Run, *more: str | Path) -> dict[str, Any]:
    code, out, err = run("identity", "show", "--json", *more)
    assert (code, err) == (0, "")
    told: dict[str, Any] = json.loads(out)
    return told


class TestShow:
    def test_without_an_identity(self, run: Run) -> None:
        code, out, err = run("identity", "show")
        assert (code, out) == (78, "")
        assert "run: kwaainet setup" in err

    def test_names_of_one_key(self, run: Run, key: Path) -> None:
        told = shown(run)
        number = told["did"].removeprefix("did:key:")
        assert told["did_peer"] == f"did:peer:{told['peer_id']}"
        assert told["did_peer_0"] == f"did:peer:0{number}"
        assert told["did_peer_2"].startswith(f"did:peer:2.V{number}.A{number}.Ez6LS")
        assert told["did_peer_4"] == peer_4_short(told["did_peer_4_long"])
        assert told["key_agreement"].startswith("z6LS")
        assert (told["sealed"], told["owner"], told["credentials"]) == (False, None, [])

    def test_makes_no_wallet(self, run: Run, key: Path) -> None:
        code, out, _ = run("identity", "show")
        assert code == 0
        assert "no valid credentials" in out
        assert list((key.parent / "credentials").iterdir()) == []

    def test_lists_its_own_valid_credentials(self, run: Run, key: Path) -> None:
        event = ("--claim", "eventName=Summit", "--claim", "eventDate=2026-01-01")
        _, out, _ = run(
            "credential", "issue", "EventAttendeeVC", "--subject", "self", *event, "--json"
        )
        issued = json.loads(out)["id"]
        assert [held["id"] for held in shown(run)["credentials"]] == [issued]
        _, out, _ = run("identity", "show")
        assert "EventAttendeeVC" in out
        run("credential", "suspend", issued)
        assert shown(run)["credentials"] == []
        run("credential", "resume", issued)
        assert len(shown(run)["credentials"]) == 1

    def test_a_wallet_of_another_identity(self, run: Run, key: Path) -> None:
        run("identity", "owner", "create")
        run("identity", "owner", "bind", "--label", "x")
        key.unlink()
        ensure_identity(key)
        told = shown(run)
        assert (told["credentials"], told["owner"]) == ([], None)
        assert "is not for the identity" in told["wallet_problem"]
        code, out, err = run("identity", "show")
        assert (code, out.partition(":")[0]) == (0, "DID")
        assert err.startswith("its credentials cannot be read: ")

    def test_no_secret_in_it(self, run: Run, key: Path) -> None:
        seed = key.read_bytes()[4:36]
        for arguments in (("identity", "show"), ("identity", "show", "--json")):
            _, out, err = run(*arguments)
            assert seed.hex() not in out + err


class TestExportAndImport:
    def test_to_another_home(
        self,
        run: Run,
        key: Path,
        phrase: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        before, exported = shown(run), tmp_path / "my.key"
        code, out, _ = run("identity", "export", exported, "--new-passphrase-file", phrase)
        assert code == 0
        assert PASSPHRASE not in out
        assert stat.S_IMODE(exported.stat().st_mode) == 0o600
        assert key.read_bytes()[4:36] not in exported.read_bytes()
        monkeypatch.setenv("KWAAINET_HOME", str(tmp_path / "other"))
        code, out, err = run("identity", "import", exported, "--passphrase-file", phrase)
        assert code == 0, err
        assert "stored without a passphrase" in err
        after = shown(run)
        assert after["did"] == before["did"]
        assert after["key_file"] == str(tmp_path / "other/identity.key")

    def test_a_key_that_is_there_stays(
        self, run: Run, key: Path, phrase: Path, tmp_path: Path
    ) -> None:
        exported, before = tmp_path / "my.key", shown(run)["did"]
        run("identity", "export", exported, "--new-passphrase-file", phrase)
        run("identity", "rotate")
        rotated = shown(run)["did"]
        code, out, err = run("identity", "import", exported, "--passphrase-file", phrase)
        assert (code, out) == (73, "")
        assert "--replace" in err
        assert shown(run)["did"] == rotated != before
        code, _, err = run("identity", "import", exported, "--replace", "--passphrase-file", phrase)
        assert code == 0
        assert shown(run)["did"] == before
        assert "former keys" in err

    @pytest.mark.parametrize(
        ("content", "code"), [(b"", 65), (b"not a key", 65), (b"\x08\x01\x12\x40" + b"\0" * 64, 65)]
    )
    def test_what_is_no_key(
        self, content: bytes, code: int, run: Run, key: Path, tmp_path: Path
    ) -> None:
        before, path = key.read_bytes(), tmp_path / "bad.key"
        path.write_bytes(content)
        assert run("identity", "import", path, "--replace")[0] == code
        assert key.read_bytes() == before

    def test_the_wrong_passphrase(self, run: Run, key: Path, phrase: Path, tmp_path: Path) -> None:
        exported, wrong = tmp_path / "my.key", tmp_path / "wrong"
        run("identity", "export", exported, "--new-passphrase-file", phrase)
        wrong.write_text("another passphrase")
        code, _, err = run("identity", "import", exported, "--replace", "--passphrase-file", wrong)
        assert code == 77
        assert "another passphrase" not in err

    def test_an_export_replaces_nothing(
        self, run: Run, key: Path, phrase: Path, tmp_path: Path
    ) -> None:
        there = tmp_path / "there"
        there.write_text("mine")
        code, _, err = run("identity", "export", there, "--new-passphrase-file", phrase)
        assert code == 2
        assert "is there already" in err
        assert there.read_text() == "mine"

    def test_nothing_to_import(self, run: Run, key: Path, tmp_path: Path) -> None:
        assert run("identity", "import", tmp_path / "no")[0] == 66


class TestSeal:
    def test_sealed_and_unsealed(
        self, run: Run, key: Path, phrase: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        plain, did = key.read_bytes(), shown(run)["did"]
        assert run("identity", "seal", "--new-passphrase-file", phrase)[0] == 0
        assert plain[4:36] not in key.read_bytes()
        code, out, err = run("identity", "show")
        assert (code, out) == (77, "")
        assert "KWAAINET_PASSPHRASE" in err
        told = shown(run, "--passphrase-file", phrase)
        assert (told["did"], told["sealed"]) == (did, True)
        monkeypatch.setenv("KWAAINET_PASSPHRASE", PASSPHRASE)
        assert shown(run)["did"] == did
        monkeypatch.setenv("KWAAINET_PASSPHRASE", "not this one")
        assert run("identity", "show")[0] == 77
        monkeypatch.delenv("KWAAINET_PASSPHRASE")
        monkeypatch.setenv("KWAAINET_PASSPHRASE_FILE", str(phrase))
        assert run("identity", "unseal")[0] == 0
        assert key.read_bytes() == plain

    def test_the_person_is_asked(
        self, run: Run, key: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        answers = iter([PASSPHRASE, PASSPHRASE, PASSPHRASE])
        asked: list[str] = []

        def answer(prompt: str) -> str:
            asked.append(prompt)
            return next(answers)

        monkeypatch.setattr(identity_passphrase, "can_ask", lambda: True)
        monkeypatch.setattr(getpass, "getpass", answer)
        assert run("identity", "seal")[0] == 0
        assert run("identity", "show")[0] == 0
        assert asked == [
            "New passphrase for the identity key: ",
            "The same again: ",
            "Passphrase of the identity key: ",
        ]

    def test_two_that_differ_change_nothing(
        self, run: Run, key: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before, answers = key.read_bytes(), iter([PASSPHRASE, PASSPHRASE + "x"])
        monkeypatch.setattr(identity_passphrase, "can_ask", lambda: True)
        monkeypatch.setattr(getpass, "getpass", lambda prompt: next(answers))
        code, _, err = run("identity", "seal")
        assert code == 2
        assert "differ" in err
        assert key.read_bytes() == before

    def test_a_short_one_is_refused(self, run: Run, key: Path, tmp_path: Path) -> None:
        before, short = key.read_bytes(), tmp_path / "short"
        short.write_text("short")
        assert run("identity", "seal", "--new-passphrase-file", short)[0] == 2
        assert key.read_bytes() == before

    def test_without_a_terminal_it_says_where_from(self, run: Run, key: Path, phrase: Path) -> None:
        assert run("identity", "seal", "--new-passphrase-file", phrase)[0] == 0
        code, _, err = run("identity", "show")
        assert code == 77
        assert "the identity key is sealed, and no passphrase was given" in err
        assert "--passphrase-file, KWAAINET_PASSPHRASE" in err

    def test_without_a_terminal_a_file_is_needed(self, run: Run, key: Path) -> None:
        code, _, err = run("identity", "seal")
        assert code == 2
        assert "--new-passphrase-file" in err


class TestRotate:
    def test_a_new_key_and_the_wallet_follows(self, run: Run, key: Path) -> None:
        event = ("--claim", "eventName=Summit", "--claim", "eventDate=2026-01-01")
        _, out, _ = run(
            "credential", "issue", "EventAttendeeVC", "--subject", "self", *event, "--json"
        )
        issued, before = json.loads(out), shown(run)
        code, out, err = run("identity", "rotate", "--json")
        assert (code, err) == (0, "")
        told = json.loads(out)
        assert told["did"] != before["did"]
        assert len(told["former_keys"]) == 1
        after = shown(run)
        assert after["did"] == told["did"]
        assert after["credentials"] == [], "what was the old one's is not the new one's"
        _, out, _ = run("credential", "list", "--json")
        assert [c["id"] for c in json.loads(out)["credentials"]] == [issued["id"]]
        assert run("credential", "revoke", issued["id"])[0] == 0

    def test_not_under_a_running_node(self, run: Run, key: Path, kwaainet_home: Path) -> None:
        before = key.read_bytes()
        with claim(Home(kwaainet_home)):
            code, _, err = run("identity", "rotate")
        assert code == 75
        assert "kwaainet stop" in err
        assert key.read_bytes() == before


class TestOwner:
    def test_the_life_of_a_binding(self, run: Run, key: Path) -> None:
        code, out, _ = run("identity", "owner", "create", "--json")
        assert code == 0
        owner = json.loads(out)["did"]
        own = shown(run)
        assert own["did"] != owner
        bind = ("identity", "owner", "bind", "--label", "attic", "--expires", "30d")
        code, out, err = run(*bind, "--name", "Ada", "--json")
        assert code == 0, err
        credential = json.loads(out)["credential"]
        assert credential["issuer"] == owner
        assert credential["credentialSubject"] == {
            "id": own["did"],
            "nodeLabel": "attic",
            "ownerName": "Ada",
        }
        assert shown(run)["owner"] == {"did": owner, "label": "attic"}
        _, out, _ = run("identity", "owner", "show")
        assert "attic" in out
        assert "in force" in out
        assert run("identity", "owner", "unbind", "self")[0] == 0
        assert shown(run)["owner"] is None
        _, out, _ = run("identity", "owner", "show", "--json")
        told = json.loads(out)
        assert (told["did"], told["this_node"]) == (owner, None)
        assert [node["state"] for node in told["nodes"]] == ["revoked"]

    def test_another_node_by_its_peer_id(self, run: Run, key: Path) -> None:
        run("identity", "owner", "create")
        peer = "12D3KooWRnawgty3PEkPZQysPkL4Ptb3cTeXNXZ5sAWvnUbEqZBV"
        code, out, _ = run("identity", "owner", "bind", peer, "--label", "cellar", "--json")
        assert code == 0
        subject = json.loads(out)["credential"]["credentialSubject"]["id"]
        assert subject == "did:key:z6MkvRUpY1dmXsyNG2K9SiYZUC4Cwhsjkiixbb4qEmQMrqEw"
        assert shown(run)["owner"] is None
        assert run("identity", "owner", "unbind", peer)[0] == 0
        code, _, err = run("identity", "owner", "unbind", peer)
        assert code == 66
        assert "no certificate" in err

    def test_a_sealed_owner(
        self, run: Run, key: Path, phrase: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run("identity", "owner", "create", "--new-passphrase-file", phrase)
        code, _, err = run("identity", "owner", "bind", "--label", "attic")
        assert code == 77
        assert "KWAAINET_OWNER_PASSPHRASE" in err
        monkeypatch.setenv("KWAAINET_OWNER_PASSPHRASE", PASSPHRASE)
        code, _, err = run("identity", "owner", "bind", "--label", "attic")
        assert code == 0, err
        monkeypatch.delenv("KWAAINET_OWNER_PASSPHRASE")
        assert run("identity", "owner", "show")[0] == 0

    def test_what_a_sealed_owner_leaves_open(
        self, run: Run, key: Path, phrase: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        phrase.chmod(0o600)
        run("identity", "owner", "create", "--new-passphrase-file", phrase)
        monkeypatch.setenv("KWAAINET_OWNER_PASSPHRASE_FILE", str(phrase))
        assert run("identity", "owner", "bind", "--label", "x")[0] == 0
        assert shown(run)["owner"]["label"] == "x"
        monkeypatch.delenv("KWAAINET_OWNER_PASSPHRASE_FILE")
        assert shown(run)["owner"]["label"] == "x", "the last signed lists are kept"
        issued = json.loads(run("credential", "list", "--issued", "--json")[1])["issued"]
        assert run("credential", "revoke", issued[0]["id"])[0] == 0
        for line in (("identity", "show"), ("identity", "owner", "show")):
            assert "not known, the owner's key here is sealed" in run(*line)[1]

    def test_an_owner_is_not_replaced(self, run: Run, key: Path) -> None:
        run("identity", "owner", "create")
        assert run("identity", "owner", "create")[0] == 73

    def test_without_one(self, run: Run, key: Path) -> None:
        code, _, err = run("identity", "owner", "bind", "--label", "attic")
        assert code == 78
        assert "kwaainet identity owner create" in err
        code, out, _ = run("identity", "owner", "show")
        assert code == 0
        assert "identity owner create" in out

    @pytest.mark.parametrize("node", ["nobody", "did:key:zzz", "slef"])
    def test_no_node(self, node: str, run: Run, key: Path) -> None:
        run("identity", "owner", "create")
        code, _, err = run("identity", "owner", "bind", node, "--label", "attic")
        assert code == 2
        assert "NODE" in err
        assert ("did you mean 'self'?" in err) == (node == "slef")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("identity", "kwaainet identity needs a command: show, export, import, rotate, seal"),
        ("identity shwo", "there is no command 'shwo' - did you mean 'show'?"),
        ("identity owner", "kwaainet identity owner needs a command: create, bind, unbind, show"),
        ("identity owner bind self", "the following arguments are required: --label"),
        ("identity export", "the following arguments are required: FILE"),
    ],
)
def test_refused_in_one_line(line: str, message: str, run: Run) -> None:
    code, out, err = run(*line.split())
    assert (code, out) == (2, "")
    assert err.startswith(f"kwaainet: error: {message}")
    assert err.count("\n") == 1
