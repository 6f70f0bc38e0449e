"""`kwaainet credential`, in this process: what each command prints, refuses, and ends with."""

from __future__ import annotations

import argparse
import io
import json
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from credentials.document import encode_time
from credentials.errors import CredentialsError
from kwaai.cli import credential_values
from kwaai.cli.credential_session import office
from kwaai.cli.credential_tree import Branch, print_tree
from kwaai.cli.credential_values import read_expires
from kwaai.cli.main import main
from kwaai.cli.parser import UsageError
from kwaai.node.credential_check import refusal
from kwaai.store.home import ensure_home
from kwaai.store.identity_file import ensure_identity

Capture = pytest.CaptureFixture[str]
Run = Callable[..., tuple[int, str, str]]
EVENT = ("--claim", "eventName=Summit", "--claim", "eventDate=2026-01-01")
OTHER = "did:key:z6MkvRUpY1dmXsyNG2K9SiYZUC4Cwhsjkiixbb4qEmQMrqEw"
OTHER_PEER = "12D3KooWRnawgty3PEkPZQysPkL4Ptb3cTeXNXZ5sAWvnUbEqZBV"


@pytest.fixture
def run(capsys: Capture) -> Run:
    def go(*arguments: str | Path) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return go


@pytest.fixture(autouse=True)
def key(kwaainet_home: Path) -> Path:
    """The key file of a home that was just made."""
    path = ensure_home(kwaainet_home).identity_key
    ensure_identity(path)
    return path


@pytest.fixture
def other_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Go on as another node, which has made nothing yet."""

    def go() -> None:
        monkeypatch.setenv("KWAAINET_HOME", str(tmp_path / "elsewhere"))

    return go


def issue(run: Run, *more: str | Path, subject: str = "self") -> dict[str, Any]:
    line = ("credential", "issue", "EventAttendeeVC", "--subject", subject, *EVENT)
    code, out, err = run(*line, "--json", *more)
    assert (code, err) == (0, "")
    issued: dict[str, Any] = json.loads(out)
    return issued


def only(run: Run) -> dict[str, Any]:
    """The one credential of the wallet."""
    _, out, _ = run("credential", "list", "--json")
    (row,) = json.loads(out)["credentials"]
    told: dict[str, Any] = row
    return told


@pytest.fixture
def file(run: Run, tmp_path: Path) -> Path:
    """A credential about this node, in a file."""
    path = tmp_path / "credential.json"
    issue(run, "--out", path)
    return path


class TestIssue:
    def test_the_credential_alone_is_on_standard_output(self, run: Run) -> None:
        code, out, err = run(
            "credential", "issue", "EventAttendeeVC", "--subject", OTHER_PEER, *EVENT
        )
        assert code == 0
        document = json.loads(out)
        assert document["credentialSubject"]["id"] == OTHER
        assert "issued EventAttendeeVC about" in err
        assert f"kwaainet credential revoke {document['id']}" in err

    @pytest.mark.parametrize("suite", credential_values.SUITES)
    def test_suites(self, suite: str, run: Run, tmp_path: Path) -> None:
        credential = issue(run, "--suite", suite)["credential"]
        assert credential["proof"]["cryptosuite"] == suite

    def test_claims_are_of_the_type_that_the_schema_has(self, run: Run) -> None:
        claims = {
            **{"windowStart": "2026-01-01T00:00:00Z", "windowEnd": "2026-01-02T00:00:00Z"},
            **{"probeCount": "10", "successCount": "9", "uptimeRatio": "0.9"},
        }
        line = [part for name, value in claims.items() for part in ("--claim", f"{name}={value}")]
        code, out, err = run("credential", "issue", "UptimeVC", "--subject", OTHER, *line, "--json")
        assert code == 0, err
        subject = json.loads(out)["credential"]["credentialSubject"]
        assert (subject["probeCount"], subject["uptimeRatio"]) == (10, 0.9)

    def test_claims_from_a_file_and_over_them(
        self, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        claims = {"eventName": "One", "eventDate": "2026-01-01"}
        (tmp_path / "claims.json").write_text(json.dumps(claims))
        line = ("credential", "issue", "EventAttendeeVC", "--subject", "self", "--json")
        _, out, _ = run(*line, "--from-file", tmp_path / "claims.json", "--claim", "eventName=Two")
        said = json.loads(out)["credential"]["credentialSubject"]
        assert (said["eventName"], said["eventDate"]) == ("Two", "2026-01-01")
        stdin = io.TextIOWrapper(io.BytesIO(json.dumps(claims).encode()))
        monkeypatch.setattr(sys, "stdin", stdin)
        code, _, err = run(*line, "--from-file", "-")
        assert code == 0, err

    def test_out_is_a_new_file_of_this_user(self, run: Run, file: Path) -> None:
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        before = file.read_bytes()
        line = ("credential", "issue", "EventAttendeeVC", "--subject", "self", *EVENT)
        code, _, err = run(*line, "--out", file)
        assert code == 2
        assert "is there already" in err
        assert file.read_bytes() == before

    def test_not_revocable(self, run: Run) -> None:
        issued = issue(run, "--not-revocable")
        assert issued["statuses"] == {}
        assert run("credential", "revoke", issued["id"])[0] == 66

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("UptmeVC --subject self", "'UptmeVC' - did you mean 'UptimeVC'?"),
            ("uptime --subject self", "'uptime' - did you mean 'UptimeVC'?"),
            ("EventAttendeeVC", "required: --subject"),
            ("EventAttendeeVC --subject slef", "did you mean 'self'?"),
            ("EventAttendeeVC --subject did:key:z6MkX", "--subject: "),
            ("EventAttendeeVC --subject owner", "kwaainet identity owner create"),
            ("EventAttendeeVC --subject self --claim eventNam=x", "did you mean 'eventName'?"),
            ("EventAttendeeVC --subject self --claim eventName", "--claim: "),
            ("EventAttendeeVC --subject self --claim eventDate=soon", "eventDate"),
            (
                "EventAttendeeVC --subject self --claim eventName=a --claim eventName=b",
                "eventName is given twice",
            ),
            ("EventAttendeeVC --subject self --expires soon", "--expires: 'soon' is neither"),
            ("EventAttendeeVC --subject self --expires 2020-01-01", "is over already"),
            ("EventAttendeeVC --subject self --suite rsa", "--suite: 'rsa' is not one of"),
        ],
    )
    def test_refused_in_one_line(self, line: str, message: str, run: Run) -> None:
        code, out, err = run("credential", "issue", *line.split())
        assert (code, out) == (2, "")
        assert message in err
        assert err.count("\n") == 1

    def test_a_claim_that_contradicts_another_is_a_refusal(self, run: Run) -> None:
        claims = ("windowStart=2026-01-02T00:00:00Z", "windowEnd=2026-01-01T00:00:00Z")
        pairs = [part for claim in (*claims, "interactionCount=1") for part in ("--claim", claim)]
        code, _, err = run("credential", "issue", "PeerEndorsementVC", "--subject", "self", *pairs)
        assert code == 1
        assert "windowEnd" in err

    def test_every_missing_claim_is_named_at_once(self, run: Run) -> None:
        line = ("credential", "issue", "UptimeVC", "--subject", "self")
        code, _, err = run(*line, "--claim", "probeCount=3")
        assert code == 2
        assert "UptimeVC needs windowStart, windowEnd, successCount; give each with" in err

    def test_what_cannot_be_written_is_not_issued(self, run: Run, file: Path) -> None:
        line = ("credential", "issue", "EventAttendeeVC", "--subject", "self", *EVENT)
        for out in (file, file.parent / "no" / "such.json"):
            assert run(*line, "--out", out)[0] == 2
        assert len(json.loads(run("credential", "list", "--issued", "--json")[1])["issued"]) == 1

    def test_files_that_are_no_claims(self, run: Run, tmp_path: Path) -> None:
        line = ("credential", "issue", "EventAttendeeVC", "--subject", "self", "--from-file")
        assert run(*line, tmp_path / "no")[0] == 66
        for content in (b"", b"[]", b'{"a":1,"a":2}', b"\xff"):
            (tmp_path / "bad").write_bytes(content)
            assert run(*line, tmp_path / "bad")[0] == 2

    def test_without_an_identity(self, run: Run, other_home: Callable[[], None]) -> None:
        other_home()
        code, _, err = run("credential", "issue", "EventAttendeeVC", "--subject", "self", *EVENT)
        assert code == 78
        assert "run: kwaainet setup" in err


class TestExpires:
    NOW_S = 1_790_000_000.0

    @pytest.mark.parametrize(
        ("text", "end_s"),
        [
            ("90d", NOW_S + 90 * 86400),
            ("12h", NOW_S + 12 * 3600),
            ("30m", NOW_S + 1800),
            ("45s", NOW_S + 45),
            ("2w", NOW_S + 14 * 86400),
            ("1y", NOW_S + 365 * 86400),
            (" 1d ", NOW_S + 86400),
        ],
    )
    def test_durations(self, text: str, end_s: float) -> None:
        assert read_expires(text, self.NOW_S) == end_s

    def test_dates(self) -> None:
        for text, time in (
            ("2027-01-31", "2027-01-31T00:00:00Z"),
            ("2027-01-31T12:00:00Z", "2027-01-31T12:00:00Z"),
            ("2027-01-31T12:00:00+02:00", "2027-01-31T10:00:00Z"),
        ):
            end_s = read_expires(text, self.NOW_S)
            assert end_s is not None
            assert encode_time(end_s) == time
        assert read_expires(None, self.NOW_S) is None

    @pytest.mark.parametrize(
        "text",
        [
            *("", "0d", "90", "d", "-1d", "1.5d", "90 d", "90D", "1e3d", "٩d", "999999999y"),
            *("2027-02-30", "2027-1-1", "20270131", "2027-01-31T12:00:00", "tomorrow"),
            "2020-01-01",
        ],
    )
    def test_refused(self, text: str) -> None:
        with pytest.raises(UsageError, match="--expires: "):
            read_expires(text, self.NOW_S)


class TestVerify:
    def test_a_tree_for_people(self, run: Run, file: Path) -> None:
        code, out, err = run("credential", "verify", file)
        assert (code, err) == (0, "")
        lines = out.splitlines()
        assert lines[0].startswith("valid  EventAttendeeVC from did:key:")
        assert any("eventName: Summit" in line for line in lines)
        assert lines[-1].startswith("└─ passed  8 status")
        assert "\x1b" not in out

    def test_json_for_programs(self, run: Run, file: Path) -> None:
        code, out, _ = run("credential", "verify", file, "--json")
        told = json.loads(out)
        assert (code, told["verified"], told["kind"]) == (0, True, "credential")
        assert told["contexts_trusted"]
        assert [step["number"] for step in told["steps"]] == list(range(1, 9))
        assert {step["outcome"] for step in told["steps"]} == {"passed"}

    def test_from_standard_input(
        self, run: Run, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stdin = io.TextIOWrapper(io.BytesIO(file.read_bytes()))
        monkeypatch.setattr(sys, "stdin", stdin)
        assert run("credential", "verify", "-")[0] == 0

    def test_changed(self, run: Run, file: Path) -> None:
        file.write_bytes(file.read_bytes().replace(b"Summit", b"Valley"))
        code, out, _ = run("credential", "verify", file)
        assert code == 1
        assert out.startswith("not valid  the signature is not that of")
        assert "failed  4 proofs" in out
        assert "skipped  8 status" in out
        code, out, _ = run("credential", "verify", file, "--json")
        told = json.loads(out)
        assert (code, told["verified"], told["error"]["code"]) == (1, False, "proof_invalid")
        assert told["error"]["problem"].startswith("https://w3id.org/security#")

    @pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff\xfe", b"{" * 100_000, b"null"])
    def test_what_is_no_credential(self, content: bytes, run: Run, tmp_path: Path) -> None:
        path = tmp_path / "bad"
        path.write_bytes(content)
        assert run("credential", "verify", path)[0] == 1
        code, out, _ = run("credential", "verify", path, "--json")
        assert (code, json.loads(out)["verified"]) == (1, False)

    def test_too_long(self, run: Run, tmp_path: Path) -> None:
        path = tmp_path / "long"
        path.write_bytes(b'{"a":"' + b"x" * 20_000_000 + b'"}')
        assert run("credential", "verify", path)[0] == 1

    def test_revoked(self, run: Run, tmp_path: Path) -> None:
        path = tmp_path / "c.json"
        issued = issue(run, "--out", path)
        assert run("credential", "revoke", issued["id"])[0] == 0
        code, out, _ = run("credential", "verify", path, "--json")
        assert (code, json.loads(out)["error"]["code"]) == (1, "credential_revoked")

    def test_a_wallet_that_is_shut(self, run: Run, file: Path, tmp_path: Path) -> None:
        (tmp_path / "phrase").write_text("correct horse battery")
        (tmp_path / "phrase").chmod(0o600)
        assert run("identity", "seal", "--new-passphrase-file", tmp_path / "phrase")[0] == 0
        code, _, err = run("credential", "verify", file)
        assert code == 69
        assert "the wallet here stayed shut" in err
        line = ("credential", "verify", file, "--passphrase-file", tmp_path / "phrase")
        assert run(*line)[0] == 0

    def test_elsewhere_it_needs_the_status_lists(
        self, run: Run, file: Path, tmp_path: Path, other_home: Callable[[], None]
    ) -> None:
        lists = [tmp_path / "r.json", tmp_path / "s.json"]
        run("credential", "status-list", "revocation-1", "--out", lists[0])
        run("credential", "status-list", "suspension-1", "--out", lists[1])
        other_home()
        code, out, err = run("credential", "verify", file)
        assert code == 69
        assert out.startswith("unknown  ")
        assert "unknown  8 status" in out
        assert "--status-list FILE" in err
        code, out, _ = run("credential", "verify", file, "--json")
        assert (code, json.loads(out)["verified"]) == (69, None)
        given = [part for path in lists for part in ("--status-list", path)]
        assert run("credential", "verify", file, *given)[0] == 0
        assert not (tmp_path / "elsewhere").exists(), "verifying makes no home"

    def test_given_lists_count_before_kept_ones(
        self,
        run: Run,
        file: Path,
        tmp_path: Path,
        other_home: Callable[[], None],
        monkeypatch: pytest.MonkeyPatch,
        kwaainet_home: Path,
    ) -> None:
        names = ("revocation-1", "suspension-1")

        def lists(when: str) -> list[str | Path]:
            given: list[str | Path] = []
            for name in names:
                given += ["--status-list", tmp_path / f"{when}-{name}"]
                run("credential", "status-list", name, "--out", given[-1])
            return given

        old = lists("old")
        id_ = json.loads(file.read_bytes())["id"]
        other_home()
        ensure_identity(ensure_home(tmp_path / "elsewhere").identity_key)
        assert run("credential", "import", file, *old)[0] == 0
        monkeypatch.setenv("KWAAINET_HOME", str(kwaainet_home))
        assert run("credential", "revoke", id_)[0] == 0
        new = lists("new")
        other_home()
        assert run("credential", "import", file, *new)[0] == 1
        assert run("credential", "verify", file)[0] == 1, "the newer list is kept"

    def test_policy(self, run: Run, file: Path) -> None:
        assert run("credential", "verify", file, "--type", "EventAttendeeVC")[0] == 0
        code, out, _ = run("credential", "verify", file, "--type", "UptimeVC")
        assert code == 1
        assert "failed  policy: its type is none of UptimeVC" in out
        issuer = json.loads(file.read_bytes())["issuer"]
        assert run("credential", "verify", file, "--issuer", issuer)[0] == 0
        code, out, _ = run("credential", "verify", file, "--issuer", OTHER_PEER, "--json")
        told = json.loads(out)
        assert (code, told["verified"], told["error"]["code"]) == (1, False, "policy_refused")

    def test_contexts_that_are_not_known(self, run: Run, tmp_path: Path) -> None:
        """The proof holds; that alone is not enough."""
        document = {
            "@context": ["https://www.w3.org/ns/credentials/v2", {"@vocab": "https://x.example/"}],
            "type": ["VerifiableCredential"],
            "credentialSubject": {"id": OTHER, "anything": 1},
        }
        with office(argparse.Namespace()) as opened:
            signed = opened.sign(document)
        path = tmp_path / "vocab.json"
        path.write_text(json.dumps(signed))
        code, out, _ = run("credential", "verify", path, "--json")
        told = json.loads(out)
        assert (code, told["verified"], told["contexts_trusted"]) == (1, False, False)
        assert run("credential", "verify", path, "--any-context")[0] == 0

    def test_usage(self, run: Run, file: Path, tmp_path: Path) -> None:
        assert run("credential", "verify", tmp_path / "no")[0] == 66
        assert run("credential", "verify")[0] == 2
        assert run("credential", "verify", file, "--challenge", "x")[0] == 2
        assert run("credential", "verify", file, "--issuer", "self")[0] == 2
        (tmp_path / "no-list").write_text("{}")
        assert run("credential", "verify", file, "--status-list", tmp_path / "no-list")[0] == 2


class TestPresent:
    def present(self, run: Run, path: Path, *more: str) -> tuple[int, str, str]:
        line = ("credential", "present", "--to", OTHER_PEER, "--challenge", "the-challenge-12345")
        return run(*line, "--out", path, *more)

    def test_shown_and_checked(self, run: Run, file: Path, tmp_path: Path) -> None:
        path = tmp_path / "p.json"
        code, out, err = self.present(run, path)
        assert (code, out) == (0, "")
        assert f"shown to {OTHER}: EventAttendeeVC" in err
        check = ("credential", "verify", path, "--challenge", "the-challenge-12345")
        code, out, err = run(*check, "--domain", OTHER)
        assert (code, err) == (0, "")
        assert out.startswith("valid  presentation by did:key:")
        assert "   └─ passed  8 status" in out, "what it shows is below it"
        code, out, _ = run(*check, "--domain", "another", "--json")
        assert (code, json.loads(out)["error"]["code"]) == (1, "domain_wrong")
        code, out, _ = run("credential", "verify", path, "--challenge", "another")
        assert code == 1
        code, out, err = run("credential", "verify", path)
        assert (code, out) == (2, "")
        assert "--challenge TEXT is needed" in err
        code, out, _ = run(*check, "--type", "UptimeVC", "--json")
        assert (code, json.loads(out)["error"]["code"]) == (1, "policy_refused")

    def test_it_is_printed_too(self, run: Run, file: Path) -> None:
        line = ("credential", "present", "--to", OTHER, "--challenge", "the-challenge-12345")
        for more in ((), ("--json",)):
            code, out, _ = run(*line, *more)
            assert code == 0
            assert json.loads(out)["proof"]["challenge"] == "the-challenge-12345"

    def test_chosen(self, run: Run, file: Path, tmp_path: Path) -> None:
        _, out, _ = run("credential", "list", "--json")
        row = json.loads(out)["credentials"][0]
        for at, name in enumerate((row["wallet_id"], row["wallet_id"][:12], row["id"])):
            code, _, err = self.present(run, tmp_path / f"{at}.json", "--id", name)
            assert code == 0, err
        assert self.present(run, tmp_path / "x.json", "--type", "UptimeVC")[0] == 66
        assert self.present(run, tmp_path / "x.json", "--id", "00" * 32)[0] == 66

    def test_in_a_file_and_for_programs(self, run: Run, file: Path, tmp_path: Path) -> None:
        line = ("credential", "present", "--to", OTHER, "--challenge", "x", "--json")
        _, out, _ = run(*line, "--out", tmp_path / "shown")
        assert json.loads(out) == json.loads((tmp_path / "shown").read_bytes())

    def test_a_presentation_is_not_imported(self, run: Run, file: Path, tmp_path: Path) -> None:
        self.present(run, tmp_path / "p.json")
        assert run("credential", "import", tmp_path / "p.json")[0] == 2


class TestWallet:
    def test_empty(self, run: Run) -> None:
        for line, said in (
            (("credential", "list"), "no credentials in the wallet yet"),
            (("credential", "list", "--type", "UptimeVC"), "no credentials like that"),
            (("credential", "list", "--issued"), "nothing was issued here yet"),
        ):
            code, out, err = run(*line)
            assert (code, out, err.strip()) == (0, "", said)
        _, out, _ = run("credential", "list", "--json")
        assert json.loads(out) == {"credentials": []}

    def test_import_elsewhere(
        self, run: Run, tmp_path: Path, other_home: Callable[[], None]
    ) -> None:
        path, lists = tmp_path / "c.json", []
        issued = issue(run, "--out", path, subject=OTHER)
        for name in ("revocation-1", "suspension-1"):
            lists += ["--status-list", tmp_path / name]
            run("credential", "status-list", name, "--out", tmp_path / name)
        other_home()
        run("setup")
        assert run("credential", "import", path)[0] == 69
        assert json.loads(run("credential", "list", "--json")[1])["credentials"] == []
        code, out, err = run("credential", "import", path, *lists)
        assert (code, err) == (0, "")
        assert out.startswith("kept ")
        assert run("credential", "verify", path)[0] == 0, "the lists were kept"
        _, out, _ = run("credential", "export", issued["id"])
        assert out.encode() == path.read_bytes()

    def test_quarantine(self, run: Run, file: Path) -> None:
        run("credential", "remove", only(run)["wallet_id"])
        file.write_bytes(file.read_bytes().replace(b"Summit", b"Valley"))
        code, _, err = run("credential", "import", file)
        assert code == 1
        assert "signature" in err
        _, out, _ = run("credential", "import", file, "--json")
        error = json.loads(out)["error"]
        assert (error["code"], error["reason"]) == ("credential_invalid", "proof_invalid")
        assert error["problem"].startswith("https://")
        code, _, err = run("credential", "import", file, "--quarantine")
        assert code == 0
        assert "in quarantine" in err
        assert json.loads(run("credential", "list", "--json")[1])["credentials"] == []
        code, out, _ = run("credential", "list", "--quarantined")
        assert "quarantined: proof_invalid" in out

    def test_list_and_search(self, run: Run, file: Path) -> None:
        code, out, _ = run("credential", "list")
        assert code == 0
        heading, row = out.splitlines()
        assert heading.split() == ["ID", "Type", "Issuer", "Subject", "Valid", "until", "State"]
        assert row.split()[1:4] == ["EventAttendeeVC", "self", "self"]

        def count(*more: str) -> int:
            code, out, err = run("credential", "list", "--json", *more)
            assert code == 0, err
            return len(json.loads(out)["credentials"])

        assert count("--type", "EventAttendeeVC") == count("--issuer", "self") == 1
        assert count("--subject", "self") == count("--text", "attendee") == count("--valid") == 1
        assert count("--type", "UptimeVC") == count("--issuer", OTHER_PEER) == 0
        assert count("--text", "nothing like it") == 0
        assert run("credential", "list", "--limit", "0")[0] == 2
        assert run("credential", "list", "--issued", "--valid")[0] == 2

    def test_show(self, run: Run, file: Path) -> None:
        short = only(run)["wallet_id"]
        code, out, _ = run("credential", "show", short[:12])
        assert code == 0
        assert '"eventName": "Summit"' in out
        assert "valid  EventAttendeeVC" in out
        _, out, _ = run("credential", "show", short, "--json")
        told = json.loads(out)
        assert told["credential"] == json.loads(file.read_bytes())
        assert told["check"]["verified"] is True
        assert told["wallet"]["wallet_id"] == short
        code, _, err = run("credential", "show", "urn:uuid:nothing")
        assert code == 66
        assert err.count("\n") == 1

    def test_what_was_issued_to_others_is_shown_too(self, run: Run) -> None:
        issued = issue(run, subject=OTHER)
        for name in (issued["id"], issued["id"].removeprefix("urn:uuid:")):
            code, out, _ = run("credential", "show", name, "--json")
            assert (code, json.loads(out)["wallet"]) == (0, None)

    def test_remove(self, run: Run, file: Path) -> None:
        name = only(run)["wallet_id"]
        assert run("credential", "remove", name)[0] == 0
        assert run("credential", "remove", name)[0] == 66

    def test_what_strangers_wrote_does_not_drive_the_terminal(
        self, run: Run, tmp_path: Path
    ) -> None:
        document = {"type": ["VerifiableCredential", "\x1b[31mevil\nvalid"], "issuer": "\x07"}
        path = tmp_path / "evil.json"
        path.write_text(json.dumps(document))
        run("credential", "import", path, "--quarantine")
        for line in (("list", "--quarantined"), ("verify", path)):
            _, out, err = run("credential", *line)
            assert "\x1b" not in out + err
            assert "\x07" not in out + err

    def test_backup_and_restore(
        self, run: Run, tmp_path: Path, other_home: Callable[[], None], key: Path
    ) -> None:
        phrase, backup = tmp_path / "phrase", tmp_path / "backup"
        phrase.write_text("correct horse battery")
        issued = issue(run, "--out", tmp_path / "c.json")
        did = issued["credential"]["issuer"]
        run("credential", "suspend", issued["id"])
        code, out, err = run("credential", "backup", backup, "--new-passphrase-file", phrase)
        assert (code, err) == (0, "")
        assert out.startswith(f"{backup}: 1 kept, 1 issued, the identity key")
        assert key.read_bytes()[4:36] not in backup.read_bytes()
        other_home()
        code, out, err = run("credential", "restore", backup, "--backup-passphrase-file", phrase)
        assert code == 0
        assert "the backup's identity is this home's now" in err
        assert "kwaainet identity seal" in err
        assert json.loads(run("identity", "show", "--json")[1])["did"] == did
        code, out, _ = run("credential", "verify", tmp_path / "c.json", "--json")
        assert json.loads(out)["error"]["code"] == "credential_suspended"
        wrong = tmp_path / "wrong"
        wrong.write_text("incorrect horse")
        code, _, err = run("credential", "restore", backup, "--backup-passphrase-file", wrong)
        assert code == 77
        assert run("credential", "restore", backup)[0] == 2


class TestStatus:
    def test_by_id_with_and_without_its_prefix(self, run: Run) -> None:
        issued = issue(run)
        code, out, _ = run("credential", "suspend", issued["id"])
        assert code == 0
        assert out.startswith("suspended: EventAttendeeVC about did:key:")
        state = json.loads(run("credential", "list", "--issued", "--json")[1])["issued"][0]["state"]
        assert state == "suspended"
        assert run("credential", "resume", issued["id"].removeprefix("urn:uuid:"))[0] == 0
        assert run("credential", "revoke", issued["id"], "--json")[0] == 0
        _, out, _ = run("credential", "list", "--issued")
        assert out.splitlines()[1].split()[-1] == "revoked"
        code, out, _ = run("credential", "resume", issued["id"])
        assert (code, out.partition(":")[0]) == (
            0,
            "resume changes nothing, it was revoked for good",
        )

    def test_by_what_the_lists_print(self, run: Run) -> None:
        first, second = issue(run), issue(run)
        printed = run("credential", "list", "--issued")[1].splitlines()[1].split()[0]
        assert second["id"] == f"urn:uuid:{printed}{second['id'][len(f'urn:uuid:{printed}') :]}"
        assert run("credential", "suspend", printed)[0] == 0
        kept = run("credential", "list")[1].splitlines()[2].split()[0]
        code, out, _ = run("credential", "revoke", kept, "--json")
        assert (code, json.loads(out)["credential"]["id"]) == (0, first["id"])
        assert run("credential", "revoke", printed[:4])[0] == 66

    def test_by_index(self, run: Run) -> None:
        issued = issue(run)
        index = issued["statuses"]["revocation"]["index"]
        code, out, _ = run("credential", "revoke", "--index", str(index), "--json")
        assert code == 0
        assert json.loads(out)["credential"]["id"] == issued["id"]
        assert run("credential", "revoke", "--index", str((index + 1) % 131_072))[0] == 66
        assert run("credential", "revoke", "--index", str(index), "--list", "no-1")[0] == 66

    @pytest.mark.parametrize(
        "line",
        [
            *("", "urn:uuid:x --index 3", "--index x"),
            *("urn:uuid:x --list revocation-1", "urn:uuid:x --as-owner"),
        ],
    )
    def test_usage(self, line: str, run: Run) -> None:
        assert run("credential", "revoke", *line.split())[0] == 2

    def test_lists(self, run: Run, tmp_path: Path) -> None:
        issue(run)
        code, out, _ = run("credential", "status-list")
        assert code == 0
        assert "revocation-1" in out
        code, out, _ = run("credential", "status-list", "revocation-1")
        assert json.loads(out)["credentialSubject"]["statusPurpose"] == "revocation"
        assert run("credential", "status-list", "../../identity.key")[0] == 66
        assert run("credential", "status-list", "--out", tmp_path / "x")[0] == 2


class TestSchema:
    def test_list(self, run: Run) -> None:
        code, out, _ = run("credential", "schema", "list")
        assert code == 0
        assert len(out.splitlines()) == 1 + 9
        kinds = json.loads(run("credential", "schema", "list", "--json")[1])["types"]
        assert {"UptimeVC", "BindingVC", "InferenceReceiptVC"} < {kind["type"] for kind in kinds}

    def test_show(self, run: Run) -> None:
        code, out, _ = run("credential", "schema", "show", "SummitAttendeeVC")
        assert code == 0
        assert "EventAttendeeVC" in out
        assert "eventName" in out
        told = json.loads(run("credential", "schema", "show", "UptimeVC", "--json")[1])
        assert told["schema"]["title"] == "UptimeVC"
        assert {claim["name"] for claim in told["claims"]} >= {"probeCount", "uptimeRatio"}
        code, _, err = run("credential", "schema", "show", "UptimVC")
        assert code == 2
        assert "did you mean 'UptimeVC'?" in err


class TestTree:
    ROOT = Branch("root", "valid", [Branch("a", "passed", [Branch("b")]), Branch("c", "failed")])

    class Terminal(io.StringIO):
        encoding = "utf-8"  # type: ignore[assignment]

        def isatty(self) -> bool:
            return True

    def test_plain(self) -> None:
        stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
        print_tree(self.ROOT, stream=stream)
        stream.flush()
        text = stream.buffer.getvalue().decode()  # type: ignore[attr-defined]
        assert text == "valid  root\n├─ passed  a\n│  └─ b\n└─ failed  c\n"

    def test_where_lines_cannot_be_drawn(self) -> None:
        stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
        print_tree(self.ROOT, stream=stream)
        stream.flush()
        text = stream.buffer.getvalue().decode()  # type: ignore[attr-defined]
        assert text == "valid  root\n|- passed  a\n|  `- b\n`- failed  c\n"

    def test_colours_only_on_a_terminal_that_wants_them(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.delenv("NO_COLOR", raising=False)
        stream = self.Terminal()
        print_tree(self.ROOT, stream=stream)
        assert "\x1b[32mvalid\x1b[0m" in stream.getvalue()
        assert "\x1b[31mfailed\x1b[0m" in stream.getvalue()
        monkeypatch.setenv("NO_COLOR", "1")
        stream = self.Terminal()
        print_tree(self.ROOT, stream=stream)
        assert "\x1b" not in stream.getvalue()

    def test_a_narrow_terminal(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("NO_COLOR", "1")
        monkeypatch.setenv("COLUMNS", "40")
        did = "did:key:z6MksgMaduHaUVmmEvrcrNUxs2zVL1o8FtUKoX4LwQrMKwZL"
        steps = [Branch(f"4 proofs: by {did}#{did[8:]}", "passed"), Branch("5 issuer", "failed")]
        root = Branch("one", "", [Branch(f"about {did}", "", [Branch("a b " * 15)]), *steps])
        stream = self.Terminal()
        print_tree(root, stream=stream)
        lines = stream.getvalue().splitlines()
        assert max(map(len, lines)) <= 40
        assert "".join(line.lstrip("│├└─ ") for line in lines[1:3]) == f"about {did}"
        assert "├─ passed  4 proofs: by" in lines
        assert "│          did:key:z6MksgMa…wQrMKwZL" in lines
        assert lines[-1] == "└─ failed  5 issuer"

    def test_text_of_strangers(self) -> None:
        stream = io.StringIO()
        print_tree(Branch("a\nvalid\x1b[31m" + "x" * 10_000), stream=stream)
        assert stream.getvalue().count("\n") == 1
        assert len(stream.getvalue()) < 500
        assert "\x1b" not in stream.getvalue()


def test_findings_are_errors_with_exit_codes() -> None:
    """Whatever `credentials` may raise has a face: refused or not judged."""
    kinds = [CredentialsError]
    for kind in kinds:
        kinds.extend(kind.__subclasses__())
    assert {refusal(kind("x")).exit_code for kind in kinds} == {1, 69}
