"""`kwaainet trust`: what it prints where, over a fake node on a real socket; and its drawings."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from credentials.did import did_key
from credentials.keys import SecretKey, parse_peer_id, peer_id
from kwaai.cli.main import main
from kwaai.cli.trust_explain import explanation_tree
from kwaai.cli.trust_graph import draw_dot
from kwaai.cli.trust_svg import draw_svg, place_nodes
from kwaai.cli.trust_values import TIERS, show_score
from kwaai.errors import ResourceError
from kwaai.limits import TRUST_REASON_DEPTH_MAX
from kwaai.node.trust_control import PeerTrust
from kwaai.store.home import Home
from kwaai.testing.control import PEERS, FakeNode
from kwaai.testing.trust_control import AMBER, BIRCH, ROOT, receipt
from kwaai.trust.tiers import Tier

Capture = pytest.CaptureFixture[str]

OTHER = SecretKey(b"o" * 32).public
OTHER_DID, OTHER_PEER = did_key(OTHER), peer_id(OTHER)


def run(capsys: Capture, line: str) -> tuple[int, str, str]:
    code = main(line.split())
    out, err = capsys.readouterr()
    return code, out, err


class TestTables:
    def test_list(self, node: FakeNode, capsys: Capture) -> None:
        code, out, err = run(capsys, "trust list")
        lines = [line.split() for line in out.splitlines()]
        assert (code, err) == (0, "")
        assert lines[0][:4] == ["Name", "Peer", "Tier", "Score"]
        assert lines[1][:4] == ["-", ROOT, "Trusted", "1.00"]
        assert lines[2] == [
            *("amber", PEERS[0], "Verified", "0.52", "0.18", "3", "412", "1", "connected")
        ]
        assert "\x1b" not in out

    def test_list_from_a_tier_on(self, node: FakeNode, capsys: Capture) -> None:
        _, out, _ = run(capsys, "trust list --min-tier verified --json")
        assert [row["name"] for row in json.loads(out)["peers"]] == ["", "amber"]
        node.trust.rows.clear()
        assert "no peer that is Trusted" in run(capsys, "trust list --min-tier trusted")[1]
        assert "no peer yet" in run(capsys, "trust list")[1]

    def test_what_is_left_out_is_said(self, node: FakeNode, capsys: Capture) -> None:
        node.trust.left_out = 7
        assert "7 more" in run(capsys, "trust list")[2]

    def test_show(self, node: FakeNode, capsys: Capture) -> None:
        code, out, _ = run(capsys, "trust show amber")
        assert code == 0
        for words in (
            *("0.522 (Verified), uncertainty 0.18", "405 served, 5 stalled, 2 failed"),
            *("self issued", "PeerEndorsementVC", "host our knowledge"),
        ):
            assert words in out
        assert re.search(r"host our knowledge +no +Trusted +tier_host +it is Verified", out)
        assert out.count("kwaainet trust explain amber") == 1
        assert "\x1b" not in out
        assert json.loads(run(capsys, "trust show amber --json")[1])["row"]["did"] == AMBER

    def test_policy(self, node: FakeNode, capsys: Capture) -> None:
        _, out, _ = run(capsys, "trust policy")
        assert "Known from 0.10, Verified from 0.40, Trusted from 0.70" in out
        assert re.search(r"run early layers of them +Known +tier_early_layers", out)
        assert "365 days" in out
        assert json.loads(run(capsys, "trust policy --json")[1])["half_life_s"] == 365 * 86_400

    def test_receipts(self, node: FakeNode, capsys: Capture) -> None:
        node.trust.receipt_rows.append(
            receipt(PEERS[1], counterpart="contradicts", detail="35 tokens there, 34 here")
        )
        _, out, err = run(capsys, "trust receipts")
        assert re.search(r"\[1,4\) +12 \+ 34 +2\.50 s +served +held", out)
        assert "35 tokens there" in err
        node.trust.receipt_rows.clear()
        assert "no receipts yet" in run(capsys, "trust receipts amber")[1]

    def test_a_handle_without_a_name_is_short(self, node: FakeNode, capsys: Capture) -> None:
        node.trust.receipt_rows.append(replace(receipt(PEERS[1]), model="sha256:" + "5a" * 32))
        assert " sha256:5a5a5a5a… " in run(capsys, "trust receipts")[1]

    def test_endorse_and_refresh(self, node: FakeNode, capsys: Capture) -> None:
        code, out, _ = run(capsys, "trust endorse amber --statement good --interactions 3")
        assert code == 0
        assert "waits for the owner of amber" in out
        assert node.calls == [("trust_endorse", "amber", "good", 3)]
        assert run(capsys, "trust refresh")[1] == "4 credentials hold now\n"
        assert json.loads(run(capsys, "trust refresh amber --json")[1]) == {"credentials": 4}

    def test_tiers_beside_peers_and_ranges(self, node: FakeNode, capsys: Capture) -> None:
        node.known[0] = replace(node.known[0], trust=PeerTrust(0.399, 0.2, "Known"))
        node.rows[0] = replace(node.rows[0], trust=PeerTrust(0.7, 0.1, "Trusted"))
        assert re.search(r"amber .* connected +Known 0\.39 +direct", run(capsys, "p2p peers")[1])
        assert re.search(r"amber .* online +Trusted 0\.70 ", run(capsys, "shard chain")[1])
        rows = json.loads(run(capsys, "p2p peers --json")[1])["peers"]
        assert rows[0]["trust"] == {"score": 0.399, "uncertainty": 0.2, "tier": "Known"}
        assert rows[1]["trust"] is None


class TestExplain:
    def test_a_tree_with_shares(self, node: FakeNode, capsys: Capture) -> None:
        code, out, _ = run(capsys, "trust explain amber")
        assert code == 0
        assert out.startswith("0.522  Verified (uncertainty 0.18)  amber  did:key:")
        for words in (
            "+0.341  62%  credential: 3 credentials",
            "+0.195  35%  VerifiedNodeVC by",
            "+0.000       ignored: FiduciaryPledgeVC by itself",
            "-0.030       penalty: bad behaviour",
            "+0.151  27%  behaviour: 405 served",
            " --0.60--> birch",
            "Trusted needs 0.178 more",
            "a BindingVC that names its owner",
        ):
            assert words in out
        assert "\x1b" not in out

    def test_json_is_the_tree(self, node: FakeNode, capsys: Capture) -> None:
        view = json.loads(run(capsys, "trust explain amber --json")[1])
        assert sum(reason["points"] for reason in view["reasons"]) == pytest.approx(
            view["row"]["score"]
        )

    def test_nothing_known_is_said(self, node: FakeNode) -> None:
        row = {"name": "", "peer": "p", "did": "did:x:y", "owner": "", "score": 0.0}
        view = {"row": {**row, "tier": "Unknown", "uncertainty": 1.0}, "reasons": []}
        assert "nothing is known" in explanation_tree(view).children[0].text

    def test_a_tree_without_end_is_cut(self) -> None:
        reason: dict[str, Any] = {
            **{"kind": "graph", "text": "", "points": 0.1, "share": 1.0, "source": ""},
            "children": [],
        }
        for _ in range(3 * TRUST_REASON_DEPTH_MAX):
            reason = {**reason, "children": [reason]}
        row = {"name": "", "peer": "p", "did": "d", "owner": "", "score": 0.0, "tier": "Known"}
        branch = explanation_tree({"row": {**row, "uncertainty": 1.0}, "reasons": [reason]})
        depth = 0
        while branch.children:
            branch, depth = branch.children[0], depth + 1
        assert depth == TRUST_REASON_DEPTH_MAX


class TestRoots:
    def roots(self, home: Home) -> list[str]:
        if not home.config_yaml.exists():
            return []
        return re.findall(r"did:[\w:.]+", home.config_yaml.read_text("utf-8"))

    @pytest.mark.parametrize(
        "text",
        [OTHER_DID, OTHER_PEER, f"did:peer:{OTHER_PEER}", OTHER_DID.replace("key:", "peer:0")],
    )
    def test_a_key_has_one_name_in_the_settings(
        self, text: str, home: Home, capsys: Capture
    ) -> None:
        code, out, err = run(capsys, f"trust roots add {text}")
        assert (code, out) == (0, f"{OTHER_DID} is a trust root\n")
        assert "from the next start on" in err
        assert self.roots(home) == [OTHER_DID]
        assert parse_peer_id(
            json.loads(run(capsys, "trust roots list --json")[1])["roots"][0]["peer"]
        )
        assert "already" in run(capsys, f"trust roots add {text}")[1]
        assert "no trust root any more" in run(capsys, f"trust roots remove {text}")[1]
        assert self.roots(home) == []

    def test_the_running_node_is_told(self, node: FakeNode, home: Home, capsys: Capture) -> None:
        code, out, err = run(
            capsys, f"trust roots add amber {OTHER_PEER} did:web:example.org --json"
        )
        assert (code, err) == (0, "")
        dids = [AMBER, OTHER_DID, "did:web:example.org"]
        answer = json.loads(out)
        assert (answer["roots"], answer["added"], answer["node_told"]) == (dids, dids, True)
        assert self.roots(home) == dids
        assert node.trust.roots == dids
        run(capsys, "trust roots remove amber")
        assert node.trust.roots == self.roots(home) == dids[1:]

    def test_an_alias_written_by_hand_is_the_same_root(self, home: Home, capsys: Capture) -> None:
        home.config_yaml.write_text(f"trust_roots: did:peer:{OTHER_PEER}\n")
        assert run(capsys, f"trust roots remove {OTHER_DID}")[0] == 0
        assert self.roots(home) == []

    def test_what_the_node_refuses_is_said(
        self, node: FakeNode, home: Home, capsys: Capture
    ) -> None:
        node.refusal = ResourceError("the evidence is not open")
        code, _, err = run(capsys, f"trust roots add {OTHER_DID}")
        assert code == ResourceError.exit_code
        assert "is written, but the running node did not take it" in err
        assert self.roots(home) == [OTHER_DID]

    def test_the_environment_wins_and_that_is_said(
        self, home: Home, capsys: Capture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("KWAAINET_TRUST_ROOTS", ROOT)
        assert "wins over the file" in run(capsys, f"trust roots add {OTHER_DID}")[2]
        assert self.roots(home) == [OTHER_DID]

    @pytest.mark.parametrize(
        ("line", "words"),
        [
            ("add amber", "no node runs that may know the name"),
            ("add did:key:zz", "write a DID such as"),
            ("add did:web:example.org#key", "is no DID"),
            ("add did:", "is no DID"),
            (f"remove {OTHER_DID}", "is none of the trust roots"),
            ("add", "PEER"),
        ],
    )
    def test_what_is_refused(self, line: str, words: str, home: Home, capsys: Capture) -> None:
        code, out, err = run(capsys, f"trust roots {line}")
        assert (code, out) == (2, "")
        assert words in err
        assert self.roots(home) == []

    def test_an_unknown_name_changes_nothing(
        self, node: FakeNode, home: Home, capsys: Capture
    ) -> None:
        code, _, err = run(capsys, f"trust roots add {OTHER_DID} nobody")
        assert (code, self.roots(home)) == (2, [])
        assert "no peer 'nobody'" in err


class TestWithoutANode:
    @pytest.mark.parametrize(
        "line",
        [
            *("list", "show amber", "explain amber", "policy", "endorse amber", "graph"),
            *("receipts", "refresh"),
        ],
    )
    def test_it_says_how_to_start_one(self, line: str, home: Home, capsys: Capture) -> None:
        code, out, err = run(capsys, f"trust {line}")
        assert (code, out) == (69, "")
        assert "kwaainet start --daemon" in err

    def test_roots_need_none(self, home: Home, capsys: Capture) -> None:
        assert "kwaainet trust roots add PEER" in run(capsys, "trust roots list")[1]


class TestGraph:
    def test_formats(self, node: FakeNode, capsys: Capture) -> None:
        _, dot, _ = run(capsys, "trust graph")
        assert dot.startswith("digraph trust {\n")
        assert f'"{ROOT}" -> "{AMBER}" [label="0.80"' in dot
        _, svg, _ = run(capsys, "trust graph --format svg --depth 2")
        assert ElementTree.fromstring(svg).tag.endswith("svg")
        view = json.loads(run(capsys, "trust graph --format json")[1])
        assert view == json.loads(run(capsys, "trust graph --json")[1])
        assert [call[1] for call in node.calls] == [3, 2, 3, 3]

    @pytest.mark.parametrize("line", ["--depth 0", "--depth 9", "--format png"])
    def test_refused(self, line: str, capsys: Capture) -> None:
        assert run(capsys, f"trust graph {line}")[0] == 2

    def test_the_order_of_what_comes_does_not_matter(self) -> None:
        view = self.view(12)
        other = {**view, "nodes": view["nodes"][::-1], "edges": view["edges"][::-1]}
        assert draw_svg(view) == draw_svg(other)
        assert draw_dot(view) == draw_dot(other)

    def test_nodes_do_not_cover_one_another(self) -> None:
        view = self.view(120)
        spots, _ = place_nodes(view["nodes"], view["edges"])
        placed = {(round(spot.x), round(spot.y)) for spot in spots.values()}
        assert len(placed) == len(view["nodes"])
        for a in spots.values():
            assert sum(abs(a.x - b.x) < 40 and abs(a.y - b.y) < 40 for b in spots.values()) == 1

    def test_an_empty_graph(self) -> None:
        view = {"nodes": [], "edges": [], "nodes_left_out": 2, "edges_left_out": 3}
        assert "left out: 2 peers and 3 endorsements" in draw_svg(view)
        assert draw_dot(view).endswith("}\n")

    @settings(max_examples=60, deadline=None)
    @given(
        st.lists(st.text(max_size=40), min_size=1, max_size=8, unique=True),
        st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.floats(0, 1)), max_size=20),
        st.text(max_size=30),
    )
    def test_what_strangers_write_stays_text(
        self, dids: list[str], pairs: list[tuple[int, int, float]], name: str
    ) -> None:
        view = self.view(0)
        view["nodes"] = [self.node(did, name, at % 3) for at, did in enumerate(dids)]
        known = [*dids, "did:not:drawn", "did:not:either"]
        view["edges"] = [
            {"by": known[a % len(known)], "of": known[b % len(known)], "weight": w, "source": name}
            for a, b, w in pairs
        ]
        tree = ElementTree.fromstring(draw_svg(view))
        kinds = {element.tag.rpartition("}")[2] for element in tree.iter()}
        assert kinds <= {"svg", "style", "g", "title", "text", "circle", "path", "polygon"}
        # Outside of quotes there is only what the program writes.
        bare = re.sub(r'"(?:[^"\\]|\\.)*"', "Q", draw_dot(view), flags=re.DOTALL)
        assert re.fullmatch(r"[\w\s{}\[\]=,;.>-]*", bare)

    def node(self, did: str, name: str, depth: int) -> dict[str, Any]:
        return {
            **{"did": did, "peer": "", "name": name, "tier": TIERS[depth], "depth": depth},
            **{"score": depth / 4, "graph": 0.1, "is_root": depth == 0, "is_own": False},
        }

    def view(self, count: int) -> dict[str, Any]:
        nodes = [self.node(f"did:x:{at}", f"n{at}", min(3, at // 2)) for at in range(count)]
        edges = [
            {"by": f"did:x:{at // 2}", "of": f"did:x:{at}", "weight": 0.5, "source": "receipts"}
            for at in range(1, count)
        ]
        return {"nodes": nodes, "edges": edges, "nodes_left_out": 0, "edges_left_out": 0}


def test_a_score_below_a_threshold_is_not_shown_at_it() -> None:
    assert [show_score(x) for x in (0.0, 0.399, 0.4, 0.6999999, 0.7, 0.29, 1.0)] == [
        *("0.00", "0.39", "0.40", "0.69", "0.70", "0.29", "1.00")
    ]


def test_tiers_are_those_of_the_rules() -> None:
    assert tuple(tier.label for tier in Tier) == TIERS
    assert BIRCH.startswith("did:key:z6Mk")
