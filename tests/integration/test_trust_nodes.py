"""Four node processes with real credentials: an intent takes only the paths it should, the reasons
are told, and one revoked credential reroutes the next request.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from machine import Machine

from kwaai.testing.processes import TIMEOUT_S, until

pytestmark = pytest.mark.timeout(300)
QUESTION = "What is the capital of France?"
PLEDGE = ("--claim", "pledgeName=the pledge", "--claim", f"pledgeHash=sha256:{'0' * 64}")
CHECKED = ("--claim", "checksPassed=hardware", "--claim", "checkedAt=2026-11-20T10:00:00Z")
CREDENTIALS = (("FiduciaryPledgeVC", PLEDGE), ("VerifiedNodeVC", CHECKED))


@dataclass
class Four:
    """Who asks and whom it believes, and three who serve the same layers."""

    asker: Machine
    authority: Machine
    amber: Machine
    birch: Machine

    @property
    def all(self) -> tuple[Machine, ...]:
        return self.asker, self.authority, self.amber, self.birch

    def certify(self, machine: Machine, directory: Path) -> list[str]:
        """Have the authority say two things of a machine, which it keeps; return their ids."""
        ids = []
        for kind, claims in CREDENTIALS:
            told = self.authority.ask(
                "credential", "issue", kind, "--subject", machine.did, *claims
            )
            file = directory / f"{machine.name}-{kind}.json"
            file.write_text(json.dumps(told["credential"]))
            machine.run("credential", "import", str(file))
            ids.append(told["credential"]["id"])
        return ids

    def answer(self, *arguments: str) -> dict[str, Any]:
        told: dict[str, Any] = self.asker.ask(
            "shard", "run", "--route", "peer", *arguments, QUESTION
        )
        assert "Paris" in told["answer"]
        return told

    def hops(self, *arguments: str) -> list[str]:
        """Return who answered a question for the asker, itself left out."""
        return [hop["name"] for hop in self.answer(*arguments)["hops"] if hop["peer"]]

    def trust(self, machine: Machine) -> dict[str, Any]:
        told: dict[str, Any] = self.asker.ask("trust", "explain", machine.peer)
        return told


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Four]:
    directory = tmp_path_factory.mktemp("four")
    machines = [
        Machine(name, directory / name) for name in ("asker", "authority", "amber", "birch")
    ]
    four = Four(*machines)
    try:
        report = four.authority.start("--serve", "1:7")
        bootstrap = ("--bootstrap", report["listen"][0])
        four.asker.start(
            *bootstrap,
            KWAAINET_TRUST_ISSUERS=f"{four.authority.did}=1",
            KWAAINET_HOME_BLOCKS="2",
            KWAAINET_SPOT_CHECK_SHARE="0",
        )
        for machine in (four.amber, four.birch):
            machine.start("--serve", "1:7", *bootstrap)
        until(lambda: len(_online(four)) == 3, "three peers serve the layers")
        yield four
    finally:
        for machine in machines:
            machine.kill()


def _online(four: Four) -> list[str]:
    rows = four.asker.ask("shard", "chain")["rows"]
    return [row["name"] for row in rows if row["state"] == "online"]


def test_an_intent_takes_only_the_paths_it_should(four: Four, tmp_path: Path) -> None:
    assert four.hops() != []  # nobody asks for anything: anybody will do
    told = four.asker.run("shard", "run", "--min-tier", "verified", QUESTION, "--route", "peer",
                          code=75)  # fmt: skip
    assert "minimum tier Verified ->" in told

    ids = {name: four.certify(machine, tmp_path) for name, machine in
           (("amber", four.amber), ("birch", four.birch))}  # fmt: skip
    four.asker.run("trust", "refresh")
    rows = {row["name"]: row["tier"] for row in four.asker.ask("trust", "list")["peers"]}
    assert rows["amber"] == rows["birch"] == "Verified"
    assert rows["authority"] in ("Unknown", "Known")

    for _ in range(3):
        (taken,) = four.hops("--min-tier", "verified")
        assert taken in ("amber", "birch")
    assert four.hops("--min-tier", "verified", "--deny", "amber") == ["birch"]
    assert four.hops("--credential", f"VerifiedNodeVC={four.authority.did}", "--deny", "birch") == [
        "amber"
    ]

    # Why, as the owner sees it, and as a client of the API does.
    explained = four.trust(four.amber)
    assert explained["row"]["tier"] == "Verified"
    assert ids["amber"][0] in json.dumps(explained["reasons"])
    assert sum(reason["points"] for reason in explained["reasons"]) == pytest.approx(
        explained["row"]["score"]
    )
    shown = four.asker.run("trust", "explain", "amber")
    assert "FiduciaryPledgeVC" in shown
    _check_headers(four)

    # One credential less, and the next request goes elsewhere; a circuit does too.
    circuit = four.asker.ask("shard", "circuit", "create", "--min-tier", "verified",
                             "--route", "peer")  # fmt: skip
    (pinned,) = [hop["name"] for hop in circuit["hops"] if hop["peer"]]
    lost, left = (four.amber, four.birch) if pinned == "amber" else (four.birch, four.amber)
    assert four.hops("--min-tier", "verified", "--deny", left.name) == [lost.name]
    four.authority.run("credential", "revoke", ids[lost.name][0])
    assert four.hops("--min-tier", "verified") == [left.name]
    told = four.asker.ask("shard", "run", "--circuit", circuit["id"], QUESTION)
    assert [hop["name"] for hop in told["hops"] if hop["peer"]] == [left.name]
    assert four.asker.ask("shard", "circuit", "show", circuit["id"])["reroutes"] == 1
    four.asker.run("shard", "circuit", "close", circuit["id"])

    told = four.asker.run("shard", "run", "--route", "peer", "--min-tier", "verified", "--deny",
                          left.name, QUESTION, code=75)  # fmt: skip
    assert "minimum tier Verified -> Known" in told
    (state,) = [
        row["state"]
        for row in four.asker.ask("trust", "show", lost.name)["attestations"]
        if row["id"] == ids[lost.name][0]
    ]
    assert state == "credential_revoked"
    four.certify(lost, tmp_path)


def _check_headers(four: Four) -> None:
    api = four.asker.ask("status")["node"]["api"]
    body = {"model": "kwaai-demo", "messages": [{"role": "user", "content": QUESTION}],
            "temperature": 0, "kwaai": {"route": "peer"}}  # fmt: skip
    request = urllib.request.Request(
        f"{api}/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json", "X-Kwaai-Min-Tier": "Verified"},
    )
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        assert answer.headers["X-Kwaai-Route"] == "peer"
        assert answer.headers["X-Kwaai-Tiers"] == "Verified"
        assert any(name in answer.headers["X-Kwaai-Path"] for name in ("amber", "birch"))
    request.add_header("X-Kwaai-Min-Tier", "Trusted")
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=TIMEOUT_S)
    told = json.load(caught.value)["error"]
    assert (caught.value.code, told["code"]) == (503, "intent_unmet")


def test_both_sides_have_both_halves_of_the_receipts(four: Four) -> None:
    (hop,) = [hop for hop in four.answer()["hops"] if hop["peer"]]
    (machine,) = [one for one in four.all if one.peer == hop["peer"]]

    def held() -> bool:
        rows = [_newest(four.asker, machine), _newest(machine, four.asker)]
        return all(row and row["counterpart"] == "held" for row in rows) and (
            rows[0]["nonce"] == rows[1]["nonce"]
        )

    until(held, "both halves are on both sides")
    mine, theirs = _newest(four.asker, machine), _newest(machine, four.asker)
    assert (mine["role"], theirs["role"]) == ("requester", "hop")
    assert mine["completion_tokens"] > 0


def _newest(machine: Machine, other: Machine) -> Any:
    rows = machine.ask("trust", "receipts", other.peer)["receipts"]
    return rows[0] if rows else None


def test_an_endorsement_is_offered_taken_and_counts(four: Four) -> None:
    before = four.trust(four.birch)["row"]["score"]
    four.asker.run("trust", "endorse", "birch", "--interactions", "20")
    (offer,) = [
        row
        for row in four.birch.ask("credential", "requests", "--pending")["requests"]
        if row["type"] == "PeerEndorsementVC"
    ]
    four.birch.run("credential", "approve", offer["id"][:8])
    four.asker.run("trust", "refresh", "birch")
    after = four.trust(four.birch)["row"]
    assert after["score"] > before
    assert after["endorsements"] == 1


def test_roots_are_kept_and_told_to_the_running_node(four: Four) -> None:
    four.asker.run("trust", "roots", "add", "birch")
    roots = four.asker.ask("trust", "roots", "list")["roots"]
    assert four.birch.did in [row["did"] for row in roots]
    row = four.trust(four.birch)["row"]
    assert (row["is_root"], row["tier"]) == (True, "Trusted")
    four.asker.run("trust", "roots", "remove", four.birch.did)
    assert not four.trust(four.birch)["row"]["is_root"]
