"""`kwaainet shard circuit`, `shard run --circuit`, and the control routes beneath them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from run_command import Capture, run

from kwaai.cli.control import ControlClient
from kwaai.cli.shard_circuit import show_left
from kwaai.errors import CircuitBroken, CircuitMissing, UserError
from kwaai.limits import CIRCUIT_TTL_S_MAX
from kwaai.node.circuit_control import CircuitRequest
from kwaai.store.home import Home
from kwaai.testing.circuit_control import circuit_view
from kwaai.testing.control import FakeNode
from kwaai.testing.generator import CARD
from kwaai.trust.tiers import Tier


def made(node: FakeNode) -> CircuitRequest:
    return next(call[1] for call in node.calls if call[0] == "circuit create")  # type: ignore


class TestCreate:
    def test_what_is_asked(self, node: FakeNode, capsys: Capture) -> None:
        code, out, _ = run(
            capsys,
            *("shard", "circuit", "create", "--min-tier", "verified", "--max-latency-ms", "80"),
            *("--ttl-minutes", "5", "--prefix", "be kind", "--name", "helper"),
            *("--route", "split", "--privacy", "private", "--model", "other"),
        )
        assert code == 0
        request = made(node)
        assert (request.model, request.name, request.prefix) == ("other", "helper", "be kind")
        assert (request.ttl_s, request.prefix_kind) == (300.0, "system")
        assert (request.route, request.privacy) == ("split", "private")
        assert request.demand.min_tier == Tier.VERIFIED
        assert request.demand.token_ms_max == 80.0
        pairs = (line.partition(":") for line in out.splitlines())
        lines = {name: value.strip() for name, _, value in pairs}
        assert lines["Circuit"] == "0a1b2c3d (helper)"
        assert lines["Path"].startswith("here [0,1) -> amber [1,7) (Verified) -> here [7,8)")
        assert lines["Asks"] == "at least Verified; at most 80 ms a token"
        assert lines["Prefix"] == "2 tokens"
        assert lines["Checked"] == "not yet"

    def test_the_defaults(self, node: FakeNode, capsys: Capture) -> None:
        code, out, _ = run(capsys, "shard", "circuit", "create", "--json")
        assert code == 0
        assert json.loads(out)["id"] == "0a1b2c3d"
        request = made(node)
        assert request.demand.is_empty
        assert (request.ttl_s, request.route, request.privacy) == (1800.0, None, None)

    def test_a_prefix_out_of_a_file(self, node: FakeNode, capsys: Capture, tmp_path: Path) -> None:
        file = tmp_path / "prefix.txt"
        file.write_text("one two three\n\n", "utf-8")
        code, _, _ = run(
            capsys, "shard", "circuit", "create", "--prefix-file", str(file), "--prefix-text"
        )
        assert code == 0
        assert (made(node).prefix, made(node).prefix_kind) == ("one two three", "text")

    @pytest.mark.parametrize(
        ("options", "code", "words"),
        [
            (("--prefix", "a", "--prefix-file", "b"), 2, "give one"),
            (("--prefix-text",), 2, "--prefix-text"),
            (("--ttl-minutes", "0"), 2, "--ttl-minutes"),
            (("--ttl-minutes", "nan"), 2, "--ttl-minutes"),
            (("--ttl-minutes", str(CIRCUIT_TTL_S_MAX)), 2, "at most 1440"),
            (("--prefix-file", "/nowhere/at/all"), 66, "/nowhere/at/all"),
            (("--min-tier", "high"), 2, "Verified"),
            (("--name", "n" * 65), 2, "'name'"),
        ],
    )
    def test_what_cannot_be(
        self, node: FakeNode, capsys: Capture, options: tuple[str, ...], code: int, words: str
    ) -> None:
        found, _, err = run(capsys, "shard", "circuit", "create", *options)
        assert found == code
        assert words in err

    def test_bytes_that_are_no_text(self, node: FakeNode, capsys: Capture, tmp_path: Path) -> None:
        file = tmp_path / "prefix.bin"
        file.write_bytes(b"ab\xff")
        code, _, err = run(capsys, "shard", "circuit", "create", "--prefix-file", str(file))
        assert (code, "byte 2" in err) == (2, True)

    def test_without_a_node(self, home: Home, capsys: Capture) -> None:
        code, _, err = run(capsys, "shard", "circuit", "create")
        assert code == 69
        assert "kwaainet start" in err


class TestOthers:
    def test_list(self, node: FakeNode, capsys: Capture) -> None:
        code, out, _ = run(capsys, "shard", "circuit", "list")
        assert (code, "no circuit is open" in out) == (0, True)
        problem = "nobody\x1b[2J serves it"
        node.circuits.views = [
            circuit_view(name="helper", prefix_tokens=120),
            circuit_view(id="ffffffff", state="broken", problem=problem, hops=()),
        ]
        code, out, _ = run(capsys, "shard", "circuit", "list")
        assert code == 0
        assert "\x1b" not in out
        lines = out.splitlines()
        assert lines[0].split()[:4] == ["Circuit", "Name", "Model", "State"]
        assert lines[1].split()[:4] == ["0a1b2c3d", "helper", CARD.name, "ready"]
        assert lines[2].split()[:2] == ["ffffffff", "-"]
        assert lines[3].startswith("ffffffff is broken: nobody")
        assert (
            json.loads(run(capsys, "shard", "circuit", "list", "--json")[1])["circuits"][0]["hops"][
                1
            ]["tier"]
            == "Verified"
        )

    def test_show(self, node: FakeNode, capsys: Capture) -> None:
        node.circuits.views = [circuit_view(reroutes=1, problem="amber was lost")]
        code, out, _ = run(capsys, "shard", "circuit", "show", "0a1b2c3d")
        assert code == 0
        assert "1 times: amber was lost" in out
        assert "2 answers, 1 of them without computing 120 tokens again" in out
        assert "3 times, 4.5 ms" in out
        node.circuits.views = [circuit_view(state="broken", problem="nobody", reused=0)]
        _, out, _ = run(capsys, "shard", "circuit", "show", "0a1b2c3d")
        assert "broken: nobody" in out
        assert json.loads(run(capsys, "shard", "circuit", "show", "0a1b2c3d", "--json")[1])

    def test_close(self, node: FakeNode, capsys: Capture) -> None:
        node.circuits.views = [circuit_view(name="helper"), circuit_view(id="b")]
        code, out, _ = run(capsys, "shard", "circuit", "close", "helper")
        assert (code, out.startswith("closed circuit 0a1b2c3d (helper), 2 answers")) == (0, True)
        assert json.loads(run(capsys, "shard", "circuit", "close", "b", "--json")[1])["id"] == "b"
        code, _, err = run(capsys, "shard", "circuit", "close", "helper")
        assert (code, "no circuit 'helper'" in err) == (66, True)

    @pytest.mark.parametrize(
        ("seconds", "text"), [(-1.0, "0 s"), (119.4, "119 s"), (150.0, "2 min"), (1800.0, "30 min")]
    )
    def test_what_is_left(self, seconds: float, text: str) -> None:
        assert show_left(seconds) == text


class TestRun:
    def test_the_request_names_it(self, node: FakeNode, capsys: Capture) -> None:
        node.circuits.views = [circuit_view(name="helper")]
        code, out, _ = run(capsys, "shard", "run", "--circuit", "helper", "Hi")
        assert (code, out) == (0, "Paris is the capital.\n")
        (request,) = node.generator.requests
        assert (request.circuit, request.model) == ("helper", CARD.name)

    def test_there_is_none(self, node: FakeNode, capsys: Capture) -> None:
        code, _, err = run(capsys, "shard", "run", "--circuit", "helper", "Hi")
        assert (code, "no circuit 'helper'" in err) == (66, True)

    def test_it_is_broken(self, node: FakeNode, capsys: Capture) -> None:
        node.circuits.views = [circuit_view(name="helper")]
        node.generator.refusal = CircuitBroken("circuit helper has no path any more: nobody")
        code, _, err = run(capsys, "shard", "run", "--circuit", "helper", "Hi")
        assert (code, "no path any more" in err) == (75, True)

    @pytest.mark.parametrize("option", [("--local",), ("--slices", "2"), ("--context", "512")])
    def test_with_a_model_of_its_own(self, capsys: Capture, option: tuple[str, ...]) -> None:
        code, _, err = run(capsys, "shard", "run", "--circuit", "helper", *option, "Hi")
        assert (code, "circuit" in err) == (2, True)

    def test_without_a_node(self, home: Home, capsys: Capture) -> None:
        code, _, err = run(capsys, "shard", "run", "--circuit", "helper", "Hi")
        assert code == 69
        assert "--circuit needs the node" in err


class TestControl:
    def test_bodies_are_checked(self, home: Home, node: FakeNode) -> None:
        client = ControlClient(home)
        for body, param in (
            ({"ttl_s": 0}, "ttl_s"),
            ({"ttl_s": 1e9}, "ttl_s"),
            ({"name": "n" * 65}, "name"),
            ({"prefix_kind": "song"}, "prefix_kind"),
            ({"kwaai": {"circuit": "x"}}, "kwaai.circuit"),
            ({"more": 1}, "more"),
        ):
            with pytest.raises(UserError) as caught:
                client.circuit_create(body)
            assert caught.value.param == param
        with pytest.raises(UserError):
            client.intent_explain({"kwaai": {"circuit": "x"}})
        with pytest.raises(CircuitMissing):
            client.circuit_show("x")
        for call in (client.circuit_show, client.circuit_close):
            with pytest.raises(UserError):
                call("")

    def test_the_model_is_the_circuits(self, home: Home, node: FakeNode) -> None:
        node.circuits.views = [circuit_view(model="other")]
        node.generator.cards = [CARD]
        chat = {"messages": [{"role": "user", "content": "Hi"}], "kwaai": {"circuit": "0a1b2c3d"}}
        with pytest.raises(UserError, match="other"):
            list(ControlClient(home).answer(chat, route=None, privacy=None))
