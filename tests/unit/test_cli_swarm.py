"""The commands that ask a running node: what they print where, a fake node behind a real socket."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from run_command import Capture, run

from kwaai.cli.shard_run_node import accuracy, predictions
from kwaai.errors import Busy, PeerLost, PeerUnreachable
from kwaai.node.control import ServeRequest
from kwaai.node.generate import ChatMessage
from kwaai.testing.control import PEERS, FakeNode, chain_row
from kwaai.types import LayerRange


class TestWithoutANode:
    @pytest.mark.parametrize(
        ("line", "words"),
        [
            ("shard chain", "kwaainet start --daemon"),
            ("shard gap", "no node runs in"),
            ("p2p info", "no node runs in"),
            ("p2p peers", "no node runs in"),
            ("p2p ping amber", "no node runs in"),
            ("p2p connect /ip4/192.0.2.1/tcp/1/p2p/x", "no node runs in"),
            ("shard serve --auto", "kwaainet start --daemon --serve auto"),
            (
                "shard serve --model kwaai-demo --start-block 2 --blocks 3",
                "kwaainet start --daemon --model kwaai-demo --serve 2:5",
            ),
            ("shard serve --off", "nothing is served"),
            ("shard run --route split hello", "--route split needs peers"),
        ],
    )
    def test_it_says_how_to_start_one(self, line: str, words: str, capsys: Capture) -> None:
        code, out, err = run(capsys, *line.split())
        assert (code, out) == (69, "")
        assert words in err
        assert err.count("\n") == 1

    def test_as_json(self, capsys: Capture) -> None:
        code, out, _ = run(capsys, "p2p", "info", "--json")
        assert code == 69
        assert json.loads(out)["error"]["code"] == "node_not_running"


class TestUsage:
    @pytest.mark.parametrize(
        ("line", "words"),
        [
            ("shard serve", "say which layers: --start-block N --blocks K, or --auto"),
            ("shard serve --start-block 1", "--start-block and --blocks belong together"),
            ("shard serve --blocks 1", "--start-block and --blocks belong together"),
            ("shard serve --start-block 1 --blocks 0", "--blocks 1 or more"),
            ("shard serve --start-block -1 --blocks 1", "--start-block must be 0 or more"),
            ("shard serve --auto --blocks 1", "--auto chooses the layers itself"),
            ("shard serve --auto --off", "--auto chooses the layers itself"),
            ("p2p ping amber --count 0", "--count must be 1 to 1000, not 0"),
            ("p2p ping amber --timeout 0", "--timeout must be above 0"),
            ("p2p ping amber --timeout nan", "--timeout: must be a number"),
            ("p2p ping", "PEER"),
            ("shard run --route fastest x", "'fastest' is not one of auto, alone, peer, split"),
            ("shard run --privacy none x", "'none' is not one of private, fast"),
            ("shard run --route peer --local x", "leave out --local and --slices"),
        ],
    )
    def test_refused_in_one_line(self, line: str, words: str, capsys: Capture) -> None:
        code, out, err = run(capsys, *line.split())
        assert (code, out) == (2, "")
        assert words in err
        assert err.count("\n") == 1


class TestChain:
    def test_gaps_stand_among_the_ranges(self, node: FakeNode, capsys: Capture) -> None:
        code, out, err = run(capsys, "shard", "chain", "--model", "kwaai-demo")
        lines = [line.split() for line in out.splitlines()]
        assert (code, err) == (0, "")
        assert lines[0][:3] == ["kwaai-demo,", "8", "layers,"]
        assert lines[1] == ["Layers", "Name", "Peer", "Version", "State", "Trust", "Round", "trip"]
        assert lines[2] == ["[1,3)", "amber", PEERS[0], "0.1.0", "online", "-", "0.40", "ms"]
        assert lines[3] == ["[3,5)", "GAP", "-", "-", "missing", "-", "-"]
        assert lines[4][:2] == ["[5,7)", "birch"]
        assert "kwaainet shard serve --model kwaai-demo --start-block 3 --blocks 2" in out
        assert node.calls == [("chain", "kwaai-demo", True)]

    def test_a_whole_chain(self, node: FakeNode, capsys: Capture) -> None:
        node.rows.append(chain_row(2, 3, 5))
        _, out, _ = run(capsys, "shard", "chain")
        assert "GAP" not in out
        assert "shard serve" not in out

    def test_what_is_not_online_fills_no_gap(self, node: FakeNode, capsys: Capture) -> None:
        node.rows.append(chain_row(2, 3, 5, "draining"))
        _, out, _ = run(capsys, "shard", "chain")
        assert "draining" in out
        assert "GAP" in out

    def test_json(self, node: FakeNode, capsys: Capture) -> None:
        _, out, _ = run(capsys, "shard", "chain", "--json")
        view = json.loads(out)
        assert view["gaps"] == [{"start": 3, "stop": 5}]
        assert view["rows"][0]["peer"] == PEERS[0]

    def test_nobody(self, node: FakeNode, capsys: Capture) -> None:
        node.rows.clear()
        _, out, _ = run(capsys, "shard", "chain")
        assert "[1,7)" in out
        assert "--start-block" in out


class TestGap:
    def test_what_auto_would_take(self, node: FakeNode, capsys: Capture) -> None:
        code, out, _ = run(capsys, "shard", "gap")
        assert code == 0
        assert "nobody serves [3,5)" in out
        assert "--auto would take [3,5)" in out
        assert "kwaainet shard serve --model kwaai-demo --start-block 3 --blocks 2" in out

    def test_json(self, node: FakeNode, capsys: Capture) -> None:
        _, out, _ = run(capsys, "shard", "gap", "--json")
        report = json.loads(out)
        assert report["suggestion"] == {"start": 3, "stop": 5}
        assert report["command"].endswith("--start-block 3 --blocks 2")

    def test_no_memory(self, node: FakeNode, capsys: Capture) -> None:
        node.blocks_max = 0
        code, out, _ = run(capsys, "shard", "gap")
        assert code == 0
        assert "no memory for a layer" in out
        _, out, _ = run(capsys, "shard", "gap", "--json")
        assert json.loads(out)["command"] is None


class TestServe:
    def test_a_range(self, node: FakeNode, capsys: Capture) -> None:
        code, out, _ = run(capsys, "shard", "serve", "--start-block", "3", "--blocks", "2")
        assert code == 0
        assert out == "serving [3,5) of kwaai-demo: online, CPU, 1.50 ms a token\n"
        assert node.calls == [("serve", ServeRequest("", LayerRange(3, 5)))]

    def test_auto(self, node: FakeNode, capsys: Capture) -> None:
        _, out, _ = run(capsys, "shard", "serve", "--auto", "--json")
        assert json.loads(out)["layers"] == {"start": 3, "stop": 5}
        assert node.calls == [("serve", ServeRequest("", None))]

    def test_no_longer(self, node: FakeNode, capsys: Capture) -> None:
        _, out, _ = run(capsys, "shard", "serve", "--off")
        assert out == "no longer served: [1,3)\n"
        assert node.calls == [("unserve", "", None)]

    def test_refused(self, node: FakeNode, capsys: Capture) -> None:
        node.refusal = Busy("another range is being loaded", retry_after_s=3.0)
        code, out, err = run(capsys, "shard", "serve", "--auto")
        assert (code, out) == (75, "")
        assert err == "kwaainet: error: another range is being loaded\n"


class TestP2p:
    def test_info(self, node: FakeNode, capsys: Capture) -> None:
        code, out, _ = run(capsys, "p2p", "info")
        assert code == 0
        pairs = dict(line.split(":", 1) for line in out.splitlines())
        assert pairs["Peer ID"].strip() == PEERS[2]
        assert pairs["Address"].strip() == f"/ip4/192.0.2.1/tcp/8080/p2p/{PEERS[2]}"
        assert pairs["Bootstrap"].strip() == "none"
        assert pairs["Peers"].strip() == "2 connected, 3 known"

    def test_peers(self, node: FakeNode, capsys: Capture) -> None:
        code, out, _ = run(capsys, "p2p", "peers")
        assert code == 0
        assert "\x1b" not in out  # names are what strangers chose
        _, first, second = out.splitlines()
        assert first.split()[:7] == ["amber", PEERS[0], "0.1.0", "connected", "-", "direct", "0.40"]
        assert "avoided for 12 s" in second
        node.known.clear()
        _, out, _ = run(capsys, "p2p", "peers")
        assert out.startswith("no peers yet")

    def test_ping(self, node: FakeNode, capsys: Capture) -> None:
        code, out, _ = run(capsys, "p2p", "ping", "amber", "--timeout", "2")
        assert code == 0
        assert out.splitlines() == [
            "1: 2.00 ms",
            "2: 1.00 ms",
            "3: 4.00 ms",
            "4: 3.00 ms",
            "4 of 4 answered: least 1.00 ms, median 2.50 ms, most 4.00 ms",
        ]
        assert node.calls[0] == ("ping", "amber", 2.0)

    def test_ping_json(self, node: FakeNode, capsys: Capture) -> None:
        _, out, _ = run(capsys, "p2p", "ping", "amber", "--count", "2", "--json")
        assert json.loads(out) == {"peer": "amber", "rtt_s": [0.002, 0.001], "lost": None}

    def test_a_peer_that_is_not_there(self, node: FakeNode, capsys: Capture) -> None:
        node.rtts = [PeerUnreachable("no address of amber answers")]
        code, out, err = run(capsys, "p2p", "ping", "amber")
        assert (code, out) == (69, "1: no answer\n")
        assert "no address of amber answers" in err

    def test_a_peer_that_goes(self, node: FakeNode, capsys: Capture) -> None:
        node.rtts = [0.001, PeerLost("amber closed the link")]
        code, out, err = run(capsys, "p2p", "ping", "amber")
        assert code == 69
        assert "1 of 4 answered" in out
        assert "amber closed the link" in err

    def test_connect(self, node: FakeNode, capsys: Capture) -> None:
        code, out, _ = run(capsys, "p2p", "connect", "/ip4/192.0.2.7/tcp/1/p2p/x")
        assert (code, out) == (0, f"connected to {PEERS[0]}\n")


class TestRun:
    def test_the_node_answers(self, node: FakeNode, capsys: Capture) -> None:
        code, out, err = run(capsys, "shard", "run", "--system", "Be brief.", "What?")
        assert (code, out) == (0, "Paris is the capital.\n")
        assert "path: here [0,1) -> amber [1,4) -> here [4,8)" in err
        assert "note: peer birch was busy" in err
        assert "predicted" not in err
        request = node.generator.requests[0]
        assert request.prompt == (ChatMessage("system", "Be brief."), ChatMessage("user", "What?"))
        assert (request.sampling.temperature, request.max_tokens) == (0.0, 200)
        assert (request.route, request.privacy) == (None, None)

    def test_options_reach_the_node(self, node: FakeNode, capsys: Capture) -> None:
        options = "--route split --privacy fast --seed 1 --top-k 3 --max-tokens 2"
        code, out, err = run(capsys, "shard", "run", *options.split(), "What?")
        assert (code, out) == (0, "It is\n")
        assert "cut after 2 tokens (--max-tokens)" in err
        request = node.generator.requests[0]
        assert (request.route, request.privacy) == ("split", "fast")
        assert (request.sampling.seed, request.sampling.top_k) == (1, 3)
        assert request.sampling.temperature == 1.0

    def test_stats(self, node: FakeNode, capsys: Capture) -> None:
        _, _, err = run(capsys, "shard", "run", "--stats", "What?")
        said = "predicted tokens/s: alone -, one peer 12.3, split 23.4; taken: split, private"
        assert said in err or said.replace("23.4", "23.5") in err
        assert err.index("predicted") < err.index("path:") < err.index("prefill")
        rows = [line.split() for line in err.splitlines()]
        assert ["[0,1)", "here", "-", "f32", "0.50", "0.75", "-", "0.10", "0.20"] in rows
        assert ["[1,4)", "amber", PEERS[0], "f16", "1.25", "2.00", "0.05", "-", "-"] in rows
        assert ["[4,8)", "here", *["-"] * 7] in rows

    def test_stats_say_how_far_off_the_prediction_was(
        self, node: FakeNode, capsys: Capture
    ) -> None:
        assert node.generator.path is not None
        node.generator.path = replace(
            node.generator.path, token_ms=(5.0, 9.0), added_ms=(2.0, 3.0), links_ms=(1.5, 2.0)
        )
        _, _, err = run(capsys, "shard", "run", "--stats", "What?")
        words = "a token: 5.00 ms (median): 3.00 computing, 1.50 on links, 0.50 waiting"
        assert words in err
        assert "predicted 23.4" in err.splitlines()[-1] or "predicted 23.5" in err.splitlines()[-1]
        assert "came to" in err.splitlines()[-1]

    @pytest.mark.parametrize(
        ("achieved", "words"),
        [
            (21.0, "as predicted"),
            (10.0, "2.0 times slower"),
            (60.0, "3.0 times faster"),
            (None, ""),
        ],
    )
    def test_accuracy(self, achieved: float | None, words: str) -> None:
        path = {"route": "split", "predicted_tokens_s": {"split": 20.0, "alone": None}}
        said = accuracy(path, achieved)
        assert said.endswith(words)
        assert bool(said) == bool(words)
        assert accuracy({**path, "route": "alone"}, achieved) == ""

    def test_json(self, node: FakeNode, capsys: Capture) -> None:
        code, out, err = run(capsys, "shard", "run", "--json", "What?")
        report = json.loads(out)
        assert (code, err) == (0, "")
        assert report["answer"] == "Paris is the capital."
        assert report["model"] == "kwaai-demo"
        assert report["path"] == "here [0,1) -> amber [1,4) -> here [4,8)"
        assert report["route"] == "split"
        assert report["predicted_tokens_s"]["alone"] is None
        assert [hop["name"] for hop in report["hops"]] == ["here", "amber", "here"]

    def test_a_node_that_knows_no_paths(self, node: FakeNode, capsys: Capture) -> None:
        node.generator.path = None
        code, out, err = run(capsys, "shard", "run", "--stats", "What?")
        assert (code, out) == (0, "Paris is the capital.\n")
        assert "path: [0,4) [4,8)" in err

    def test_a_failure_in_the_middle(self, node: FakeNode, capsys: Capture) -> None:
        node.generator.failure = (1, PeerLost("amber closed the link", peer=PEERS[0]))
        code, out, err = run(capsys, "shard", "run", "What?")
        assert (code, out) == (69, "Paris")
        assert err.endswith("kwaainet: error: amber closed the link\n")

    def test_a_model_that_the_node_does_not_have(self, node: FakeNode, capsys: Capture) -> None:
        code, _, err = run(capsys, "shard", "run", "--model", "no-such", "What?")
        assert code == 3  # nor is it on this disk
        assert "note: there is no model 'no-such' here; loading it for this answer" in err
        code, _, err = run(capsys, "shard", "run", "--model", "no-such", "--route", "peer", "x")
        assert code == 3
        assert "loading it" not in err

    @pytest.mark.parametrize("option", ["--local", "--slices=2", "--context=64"])
    def test_own_options_do_not_ask_the_node(
        self, option: str, node: FakeNode, capsys: Capture
    ) -> None:
        run(capsys, "shard", "run", "--model", "no-such", option, "What?")
        assert node.generator.requests == []

    def test_predictions_are_one_line(self) -> None:
        path = {
            "predicted_tokens_s": {"alone": 20.0, "peer": None, "split": 4.04},
            "route": "alone",
            "privacy": "private",
        }
        assert predictions(path) == (
            "predicted tokens/s: alone 20.0, one peer -, split 4.0; taken: alone, private"
        )
