"""`kwaainet intent`: what it asks of the node and what it prints; a fake node behind a socket."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from run_command import Capture, run

from credentials.did import did_key
from credentials.keys import SecretKey, peer_id
from kwaai.errors import ModelNotFound
from kwaai.intent.demand import CredentialDemand, Demand
from kwaai.node.intent_control import DeclineRow, IntentRequest
from kwaai.store.home import Home
from kwaai.testing.control import PEERS, FakeNode
from kwaai.testing.intent_control import DIGEST, unmet
from kwaai.trust.tiers import Tier

KEY = SecretKey(b"2" * 32)
PEER, DID = peer_id(KEY.public), did_key(KEY.public)


def asked(node: FakeNode) -> IntentRequest:
    request = node.calls[-1][1]
    assert isinstance(request, IntentRequest)
    return request


class TestExplain:
    def test_the_path_and_who_meets_it(self, node: FakeNode, capsys: Capture) -> None:
        code, out, err = run(capsys, "intent", "explain", "--min-tier", "verified")
        assert (code, err) == (0, "")
        lines = out.splitlines()
        assert lines[0] == "kwaai-demo, route auto, private; asks: at least Verified"
        assert lines[2].split() == ["[1,7)", "amber", PEERS[0], "Verified", "0.52", "1.2",
                                    "0.40", "ms", "meets", "it"]  # fmt: skip
        assert "it is Known, and Verified is asked for" in lines[3]
        assert "\x1b" not in out
        assert lines[-2] == "path: here [0,1) -> amber [1,7) (Verified) -> here [7,8)"
        assert lines[-1] == "predicted: 12.5 ms a token, 80 ms to the first (peer)"

    def test_what_would_have_to_give(self, node: FakeNode, capsys: Capture) -> None:
        node.intents.view = unmet(node.intents.view)
        code, out, _ = run(capsys, "intent", "explain", "--min-tier", "Trusted")
        assert code == 75
        assert "nobody is Trusted" not in out  # the problem, which names the changes once more
        assert "\n  min tier Trusted -> Verified: here [0,1) -> amber" in out

    def test_as_json(self, node: FakeNode, capsys: Capture) -> None:
        code, out, _ = run(capsys, "intent", "explain", "--max-latency-ms", "80", "--json")
        view = json.loads(out)
        assert code == 0
        assert view["demand"] == {"max_latency_ms": 80.0}
        assert view["candidates"][1]["mismatches"][0]["rule"] == "min_tier"

    def test_everything_that_can_be_asked(self, node: FakeNode, capsys: Capture) -> None:
        line = (
            "intent explain --model m --route split --privacy fast --prompt-tokens 12 "
            "--min-tier KNOWN --max-latency-ms 80.5 --max-first-token-ms 900 "
            f"--credential UptimeVC --credential verifiednodevc={DID} --allow {DID} "
            f"--deny {PEER} --max-hops-per-owner 1 --region eu --budget most=0=1"
        )
        code, _, _ = run(capsys, *line.split())
        assert code == 0
        assert asked(node) == IntentRequest(
            "m",
            Demand(
                min_tier=Tier.KNOWN,
                credentials=(
                    CredentialDemand("UptimeVC"),
                    CredentialDemand("VerifiedNodeVC", (DID,)),
                ),
                allow=frozenset({DID}),
                deny=frozenset({DID}),
                token_ms_max=80.5,
                first_token_ms_max=900.0,
                owner_hops_max=1,
                region="eu",
                budget={"most": "0=1"},
            ),
            "split",
            "fast",
            12,
        )

    @pytest.mark.parametrize(
        ("line", "words"),
        [
            ("--min-tier gold", "the tiers are Unknown, Known, Verified, Trusted"),
            ("--max-latency-ms x", "must be a number"),
            (
                "--max-latency-ms 0",
                "--max-latency-ms: must be more than 0 and at most 3600000, not 0",
            ),
            ("--max-latency-ms nan", "must be a number, not 'nan'"),
            ("--min-tier verifed", "did you mean 'Verified'?"),
            ("--max-hops-per-owner 0", "--max-hops-per-owner: must be 1 to 255"),
            ("--deny ambre", "did you mean 'amber'?"),
            ("--credential NonsenseVC", "no type 'NonsenseVC'"),
            ("--deny nobody", "there is no peer 'nobody'"),
            ("--budget most", "NAME=VALUE"),
            ("--prompt-tokens 0", "--prompt-tokens: must be 1 to"),
        ],
    )
    def test_what_cannot_be_read(
        self, line: str, words: str, node: FakeNode, capsys: Capture
    ) -> None:
        code, out, err = run(capsys, "intent", "explain", *line.split())
        assert (code, out) == (2, "")
        assert words in err
        assert err.count("\n") == 1

    def test_a_model_that_is_not_there(self, node: FakeNode, capsys: Capture) -> None:
        node.refusal = ModelNotFound("no model 'x' here")
        assert run(capsys, "intent", "explain", "--model", "x")[0] == 3

    def test_without_a_node(self, home: Home, capsys: Capture) -> None:
        code, _, err = run(capsys, "intent", "explain")
        assert code == 69
        assert "no node runs in" in err


class TestCast:
    def test_offers_refusals_and_the_path(self, node: FakeNode, capsys: Capture) -> None:
        node.intents.declined = [
            DeclineRow(PEERS[1], "birch\x1b[2J", "tier_compute", "you are Unknown to this node")
        ]
        code, out, err = run(capsys, "intent", "cast")
        assert code == 0
        assert f"intent {DIGEST}\n1 offer of 2 peers\n" in out
        assert "price=0" in out
        assert out.splitlines()[-1].startswith("predicted: 12.5 ms a token")
        assert "declined (tier_compute): you are Unknown to this node" in err
        assert "\x1b" not in out + err

    def test_as_json(self, node: FakeNode, capsys: Capture) -> None:
        node.intents.view = unmet(node.intents.view)
        code, out, _ = run(capsys, "intent", "cast", "--json")
        view = json.loads(out)
        assert code == 75
        assert view["intent"] == DIGEST
        assert view["offers"][0]["decode_ms"] == 1.25
        assert view["plan"]["path"] is None


def test_names_are_those_of_known_peers(node: FakeNode, capsys: Capture) -> None:
    node.known = [replace(node.known[0], peer=PEER), replace(node.known[1], name="birch")]
    for text in ("amber", PEER[-8:], f"…{PEER[-8:]}", PEER, DID):
        assert run(capsys, "intent", "explain", "--deny", text)[0] == 0
        assert asked(node).demand.deny == frozenset({DID})
    node.known.append(replace(node.known[0], peer=PEERS[2]))
    code, _, err = run(capsys, "intent", "explain", "--deny", "amber")
    assert code == 2
    assert "several peers are called 'amber'" in err
