"""`kwaainet reputation`, in this process: what it prints, forgets and refuses."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from credentials.keys import SecretKey, peer_id
from kwaai.cli.main import main
from kwaai.limits import REPUTATION_END_CHARS_MIN
from kwaai.store.evidence import EvidenceLog
from kwaai.store.home import Home, ensure_home
from kwaai.store.identity_file import ensure_identity, load_identity
from kwaai.store.unix_socket import control_socket
from kwaai.store.wallet import open_wallet
from kwaai.testing.control import FakeNode, serving
from kwaai.testing.trust_control import AMBER as NAMED
from kwaai.trust.evidence import Observation, Outcome, principal_of_peer

Run = Callable[..., tuple[int, str, str]]
AMBER, BERYL = (str(peer_id(SecretKey(bytes([n]) * 32).public)) for n in (1, 2))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def go(*arguments: str) -> tuple[int, str, str]:
        code = main(["reputation", *arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return go


@pytest.fixture(autouse=True)
def home(kwaainet_home: Path) -> Home:
    home = ensure_home(kwaainet_home)
    ensure_identity(home.identity_key)
    return home


@pytest.fixture
def seen(home: Home) -> None:
    """Amber did its part, mostly; Beryl lied and is busy."""
    now_s = time.time()
    amber, beryl = principal_of_peer(AMBER), principal_of_peer(BERYL)
    figures = (0.025, 0.02, 40.0, 50.0, 17)
    with open_wallet(home, load_identity(home.identity_key)) as wallet:
        log = EvidenceLog(wallet.database)
        log.append([Observation(beryl, now_s, Outcome.WRONG, code="spot_check")] * 4)
        log.append([Observation(beryl, now_s, Outcome.REFUSED, code="busy\x1b[2J")])
        log.append([Observation(amber, now_s, Outcome.SERVED, *figures)] * 29)
        log.append([Observation(amber, now_s, Outcome.STALLED, code="peer_stalled")])
        log.append([Observation("did:web:example.org", now_s, Outcome.AGREED)])


def test_nothing_was_seen(run: Run, home: Home) -> None:
    assert run("list") == (0, "this node has not dealt with any peer yet\n", "")
    assert json.loads(run("list", "--json")[1]) == {"peers": [], "left_out": 0}
    assert not any(home.credentials.iterdir())
    code, _, err = run("show", AMBER)
    assert code == 2
    assert "`kwaainet reputation list` says with whom it has" in err


@pytest.mark.usefixtures("seen")
class TestSeen:
    def test_list(self, run: Run) -> None:
        code, out, err = run("list")
        assert (code, err) == (0, "")
        heading, web, amber, beryl = (line.split() for line in out.splitlines())
        assert heading[:4] == ["Name", "Peer", "Behaviour", "Seen"]
        web, amber, beryl = (row[1:] for row in (web, amber, beryl))  # no node says their names
        assert web[0] == "did:web:example.org"
        assert (amber[0], *amber[2:7]) == (AMBER, "30", "29", "1", "0", "0")
        assert (beryl[0], *beryl[2:7]) == (BERYL, "5", "0", "0", "4", "1")
        assert float(beryl[1]) < 0.5 < float(amber[1])

    def test_list_within_a_limit(self, run: Run) -> None:
        code, out, err = run("list", "--limit", "1")
        assert (code, len(out.splitlines())) == (0, 2)
        assert err == "only the last 1 of 3; --limit prints more\n"
        assert json.loads(run("list", "--limit", "1", "--json")[1])["left_out"] == 2
        assert run("list", "--limit", "0")[0] == 2

    def test_list_as_json(self, run: Run) -> None:
        rows = {row["peer"]: row for row in json.loads(run("list", "--json")[1])["peers"]}
        assert rows[AMBER]["outcomes"]["served"] == 29
        assert rows[AMBER]["did"] == principal_of_peer(AMBER)
        assert rows[AMBER]["facets"]["latency"]["good"] > 0
        assert rows[BERYL]["integrity"] < 0.5 < rows[AMBER]["behaviour"]

    @pytest.mark.parametrize(
        "name",
        [AMBER, principal_of_peer(AMBER), f"did:peer:{AMBER}", AMBER[-REPUTATION_END_CHARS_MIN:]],
    )
    def test_show_by_any_name(self, name: str, run: Run) -> None:
        code, out, err = run("show", name)
        assert code == 0
        assert AMBER in out
        assert "30 kept of 30" in out
        assert "25.0 ms" in out
        assert "peer_stalled" in out
        assert err == "the last 20 of 30 dealings\n"
        shown = json.loads(run("show", name, "--json")[1])
        assert len(shown["newest"]) == 20
        assert shown["newest"][0]["outcome"] == "stalled"

    def test_a_running_node_says_names(self, run: Run, home: Home) -> None:
        """The fake's amber is another than ours."""
        with open_wallet(home, load_identity(home.identity_key)) as wallet:
            EvidenceLog(wallet.database).append(
                [Observation(NAMED, time.time(), Outcome.SERVED, code="by name")]
            )
        assert run("show", "amber")[0] == 2  # nobody who knows names
        with serving(FakeNode(), control_socket(home)):
            assert "by name" in run("show", "amber")[1]
            rows = {
                row["did"]: row["name"] for row in json.loads(run("list", "--json")[1])["peers"]
            }
            assert rows[NAMED] == "amber"
            assert rows[principal_of_peer(AMBER)] == ""
            assert run("list")[1].splitlines()[1].startswith("amber")
            assert run("reset", "amber")[1].startswith("forgot 1 dealing with ")
            assert run("show", AMBER)[0] == 0

    def test_nothing_drives_the_terminal(self, run: Run) -> None:
        assert "\x1b" not in run("show", BERYL)[1]

    def test_reset_makes_a_stranger(self, run: Run) -> None:
        code, out, _ = run("reset", BERYL)
        assert (code, out) == (0, f"forgot 5 dealings with {BERYL}: it is a stranger again\n")
        assert run("show", BERYL)[0] == 2
        assert json.loads(run("reset", AMBER, "--json")[1]) == {"peer": AMBER, "forgotten": 30}
        assert run("reset", AMBER)[0] == 2

    @pytest.mark.parametrize("name", ["", "nobody", AMBER[-3:], "did:key:z6Mk", "\x00", "☃" * 9])
    def test_who_is_not_there_is_told(self, name: str, run: Run) -> None:
        code, out, err = run("show", name)
        assert (code, out) == (2, "")
        assert "has not dealt with" in err
