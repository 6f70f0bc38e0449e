"""The commands, in this process: what they print where, what they refuse, how they end."""

from __future__ import annotations

import importlib
import io
import json
import signal
import sys
import threading
import types
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kwaai import __version__
from kwaai.cli import serve
from kwaai.cli import setup as setup_command
from kwaai.cli.main import _imports_uninterrupted, build_parser, main
from kwaai.cli.output import (
    Spinner,
    download_report,
    one_line,
    print_table,
    safe_for_terminal,
    show_bytes,
    show_duration,
)
from kwaai.config import Config
from kwaai.errors import DownloadFailed, WorkerLost
from kwaai.models.library import Library
from kwaai.models.progress import Progress
from kwaai.models.slices import cut_embedding, cut_slice
from kwaai.node.generate import ChatMessage
from kwaai.store.home import Home
from kwaai.store.unix_socket import control_socket
from kwaai.testing.control import FakeNode, serving
from kwaai.testing.generator import FakeGenerator
from kwaai.testing.models import tiny_model
from kwaai.types import LayerRange

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _backend(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = {"name": "CUDA", "devices": ["GPU 0"], "reason": "built with it"}
    monkeypatch.setattr(setup_command, "probe_backend", lambda: backend)


def run(capsys: Capture, *arguments: str) -> tuple[int, str, str]:
    code = main(arguments)
    out, err = capsys.readouterr()
    return code, out, err


@dataclass
class FakeRuntime:
    """What `open_runtime` gives, with a generator that says what it is told to."""

    generator: FakeGenerator = field(default_factory=FakeGenerator)
    path_text: str = "[0,4) [4,8)"
    opened: list[dict[str, object]] = field(default_factory=list)
    closed: int = 0

    def slice_stats(self) -> list[dict[str, object]]:
        common = {"prefill_ms": 1.5, "decode_ms_p50": 0.25, "decode_ms_p99": None}
        return [
            {"range": "[0,4)", "worker": 1, **common},
            {"range": "[4,8)", "worker": 2, **common},
        ]

    def make(self, config: object, home: object, model: str) -> FakeRuntime:
        self.opened.append({"model": model})
        return self

    @asynccontextmanager
    async def open(self, config: object, home: object, **how: object) -> AsyncIterator[FakeRuntime]:
        self.opened.append(how)
        try:
            yield self
        finally:
            self.closed += 1


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> FakeRuntime:
    fake = FakeRuntime()
    module = types.ModuleType("kwaai.node.runtime")
    module.open_runtime = fake.open  # type: ignore[attr-defined]
    module.Runtime = fake.make  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "kwaai.node.runtime", module)
    return fake


class TestUsage:
    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("modles", "there is no command 'modles' - did you mean 'models'?"),
            ("run", "there is no command 'run' - did you mean 'shard run'?"),
            ("zzzzzz", "there is no command 'zzzzzz' (see: kwaainet --help)"),
            ("shard rnu x", "there is no command 'rnu' - did you mean 'run'?"),
            ("shard", "kwaainet shard needs a command: run, circuit, serve, chain, gap, download"),
            ("shard run", "the following arguments are required: PROMPT"),
            ("shard run x --slcies 4", "unknown option '--slcies' - did you mean '--slices'?"),
            ("shard run --slcies", "unknown option '--slcies' - did you mean '--slices'?"),
            ("shard run x --max 4", "unknown option '--max'"),
            ("--jsno models list", "unknown option '--jsno'"),
            ("shard run -5+3", "unknown option '-5+3'; put -- before text that begins with a dash"),
            ("shard run x --top-k -4 --seed y", "--seed: must be a whole number, not 'y'"),
            ("shard run what is", "unexpected argument 'is'; quote an argument that has spaces"),
            ("shard run x --max-tokens many", "--max-tokens: must be a whole number, not 'many'"),
            ("help shard rnu", "there is no command 'rnu' - did you mean 'run'?"),
        ],
    )
    def test_refused_in_one_line(self, line: str, message: str, capsys: Capture) -> None:
        code, out, err = run(capsys, *line.split())
        assert (code, out) == (2, "")
        assert err.startswith(f"kwaainet: error: {message}")
        assert err.count("\n") == 1

    def test_no_command_prints_the_help(self, capsys: Capture) -> None:
        code, out, err = run(capsys)
        assert (code, out) == (2, "")
        assert "first steps:" in err

    @pytest.mark.parametrize("line", ["--help", "help", "shard --help", "help shard run"])
    def test_help(self, line: str, capsys: Capture) -> None:
        code, out, err = run(capsys, *line.split())
        assert (code, err) == (0, "")
        assert out.startswith("usage: kwaainet")

    def test_version(self, capsys: Capture) -> None:
        assert run(capsys, "--version") == (0, f"kwaainet {__version__}\n", "")

    def test_every_option_has_help_and_every_command_runs(self) -> None:
        parsers = [build_parser()]
        for parser in parsers:
            parsers += parser.commands().values()
            assert all(action.help for action in parser.public_actions()), parser.prog
            assert callable(parser.get_default("run"))
        assert len(parsers) >= 26

    def test_errors_as_json(self, capsys: Capture) -> None:
        code, out, err = run(capsys, "identity", "show", "--json")
        error = json.loads(out)["error"]
        assert (code, error["code"]) == (78, "identity_missing")
        assert err == f"kwaainet: error: {error['message']}\n"
        code, out, _ = run(capsys, "models", "list", "--json", "--x")
        assert (code, json.loads(out)["error"]["code"]) == (2, "invalid_request")

    def test_common_options_are_accepted_on_both_sides(self, capsys: Capture) -> None:
        for line in ("--debug config show", "config show --debug", "--log-level info config show"):
            assert run(capsys, *line.split())[0] == 0
        code, _, err = run(capsys, "config", "show", "--log-level", "loud")
        assert code == 2
        assert "--log-level: should be 'debug'" in err

    def test_a_defect_is_one_line_and_a_traceback_in_the_log(
        self, capsys: Capture, monkeypatch: pytest.MonkeyPatch, kwaainet_home: Path
    ) -> None:
        def broken(*_: object, **__: object) -> None:
            raise ZeroDivisionError("a defect\nof two lines")

        monkeypatch.setattr("kwaai.config.load_config", broken)
        code, out, err = run(capsys, "config", "show")
        log = kwaainet_home / "logs" / "kwaainet.log"
        assert (code, out) == (70, "")
        assert err.startswith(
            "kwaainet: error: unexpected ZeroDivisionError: a defect of two lines;"
        )
        assert err.count("\n") == 1
        assert str(log) in err
        assert "Traceback" in log.read_text()
        assert log.stat().st_mode & 0o777 == 0o600
        _, _, err = run(capsys, "config", "show", "--debug")
        assert "Traceback" in err


class TestSetup:
    def test_makes_everything_once(self, capsys: Capture, kwaainet_home: Path) -> None:
        code, out, err = run(capsys, "setup", "--json")
        first = json.loads(out)
        assert (code, err) == (0, "")
        assert first["home"] == str(kwaainet_home)
        assert [Path(p).name for p in first["created"]] == ["identity.key", "config.yaml"]
        assert first["model"] == {"name": "kwaai-demo", "is_demonstration": True}
        assert first["hardware"]["threads"] >= 1
        assert (kwaainet_home / "config.yaml").stat().st_mode & 0o777 == 0o600
        key = (kwaainet_home / "identity.key").read_bytes()
        _, out, _ = run(capsys, "setup", "--json")
        again = json.loads(out)
        assert again["created"] == []
        assert again["identity"] == first["identity"]
        assert (kwaainet_home / "identity.key").read_bytes() == key

    def test_says_what_the_demo_is(self, capsys: Capture) -> None:
        _, out, _ = run(capsys, "setup")
        assert "is a demonstration" in out
        assert "kwaainet shard download Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q8_0" in out
        assert "kwaainet config set model" in out
        run(capsys, "config", "set", "model", "mine")
        _, out, _ = run(capsys, "setup")
        assert "is a demonstration" not in out

    def test_the_config_it_writes_sets_nothing_and_shows_every_key(
        self, capsys: Capture, kwaainet_home: Path
    ) -> None:
        run(capsys, "setup")
        _, out, _ = run(capsys, "config", "show", "--json")
        settings = json.loads(out)["settings"]
        assert {s["source"] for s in settings.values()} == {"default"}
        text = (kwaainet_home / "config.yaml").read_text()
        for key in settings:
            run(capsys, "config", "set", key, "3" if key == "slices" else _example(key))
            assert f"\n{key}: " in (kwaainet_home / "config.yaml").read_text()
        assert len((kwaainet_home / "config.yaml").read_text().splitlines()) == len(
            text.splitlines()
        )

    def test_a_config_with_a_typo_stops_it_before_anything_is_made(
        self, capsys: Capture, kwaainet_home: Path
    ) -> None:
        kwaainet_home.mkdir(mode=0o700)
        (kwaainet_home / "config.yaml").write_text("\nmodle: x\n")
        code, _, err = run(capsys, "setup")
        assert code == 78
        assert "config.yaml:2: unknown key 'modle' - did you mean 'model'?" in err
        assert not (kwaainet_home / "identity.key").exists()

    def test_a_bad_key_is_kept_and_named(self, capsys: Capture, kwaainet_home: Path) -> None:
        run(capsys, "setup")
        key = kwaainet_home / "identity.key"
        key.write_bytes(b"short")
        code, _, err = run(capsys, "setup")
        assert code == 65
        assert "it has 5 bytes; an Ed25519 key file has 68; kwaainet never overwrites a key" in err
        assert key.read_bytes() == b"short"

    def test_the_backend_and_why(self, capsys: Capture) -> None:
        _, out, _ = run(capsys, "setup")
        assert "CUDA, because built with it [GPU 0]" in out
        run(capsys, "config", "set", "use_gpu", "false")
        _, out, _ = run(capsys, "setup")
        assert "CUDA (not used: use_gpu is false), because built with it" in out


def _example(key: str) -> str:
    examples = {"use_gpu": "no", "log_level": "info", "api_port": "1", "max_sessions": "2"}
    numbers = {"context_tokens": "100", "threads": "2", "memory_limit_mb": "100"}
    numbers |= {"port": "1", "link_port": "2", "home_blocks": "3"}
    words = {"listen_host": "192.0.2.1", "mdns": "no"}
    words |= {"serve": "8:16", "route": "split", "privacy": "fast", "share_credentials": "no"}
    peer = "12D3KooWGBfqLAFfDnsaRCT5Zt4Xf1bXAi7xYXcAzCKQxCfCPPnw"
    lists = {
        "bootstrap_peers": f"/ip4/192.0.2.1/tcp/8080/p2p/{peer}",
        "announce_links": "192.0.2.1:8081",
        "auto_issue": "UptimeVC",
        "web_hosts": "example.org",
        "trust_roots": _DID,
        "trust_issuers": f"{_DID}=0.5",
        "trust_weights": "MembershipVC=0.1",
        "trust_thresholds": "0.2,0.5,0.8",
    }
    tiers = dict.fromkeys((k for k in Config.model_fields if k.startswith("tier_")), "trusted")
    shares = {"early_layers_share": "0.3", "integrity_floor": "0.1", "spot_check_share": "0.5"}
    days = {"trust_half_life_days": "30", "trust_evidence_days": "30"}
    more = {"owner_hops_max": "2", "parts_on_demand": "2", "witness": "yes"}
    storage = {"storage_capacity_gb": "5", "storage_port": "1", "storage_tenant_tier": "unknown"}
    storage |= {"storage_quota_mb": "10", "storage_replicas": "1", "vpk_mode": "both"}
    every = examples | numbers | words | lists | tiers | shares | days | more | storage
    return every.get(key, "/some" if key in ("storage_dir", "knowledge_dir") else "text")


_DID = "did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK"


class TestConfig:
    def test_show_names_each_source(
        self, capsys: Capture, monkeypatch: pytest.MonkeyPatch, kwaainet_home: Path
    ) -> None:
        monkeypatch.setenv("KWAAINET_THREADS", "7")
        run(capsys, "config", "set", "slices", "4")
        code, out, err = run(capsys, "config", "show", "--log-level", "error")
        lines = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line}
        assert (code, err) == (0, "")
        assert lines["threads"] == ["7", "KWAAINET_THREADS"]
        assert lines["slices"] == ["4", "config.yaml:1"]
        assert lines["log_level"] == ["error", "--log-level"]
        assert lines["api_port"] == ["11435", "default"]
        assert lines["File:"] == [str(kwaainet_home / "config.yaml")]

    def test_set_says_what_changed(
        self, capsys: Capture, monkeypatch: pytest.MonkeyPatch, kwaainet_home: Path
    ) -> None:
        path = kwaainet_home / "config.yaml"
        assert run(capsys, "config", "set", "slices", "4")[1] == f"slices: auto -> 4 (in {path})\n"
        assert "is 4 already" in run(capsys, "config", "set", "slices", "4")[1]
        with serving(FakeNode(), control_socket(Home(path.parent))):
            _, _, err = run(capsys, "config", "set", "slices", "5")
            assert "from its next start on: kwaainet restart" in err
            assert run(capsys, "config", "set", "slices", "5")[2] == ""
            _, out, err = run(capsys, "config", "set", "slices", "4", "--json")
            assert (json.loads(out)["restart_needed"], err) == (True, "")
        monkeypatch.setenv("KWAAINET_SLICES", "2")
        _, out, err = run(capsys, "config", "set", "slices", "3", "--json")
        told = {"after": "3", "before": "4", "key": "slices", "path": str(path)}
        assert json.loads(out) == {**told, "restart_needed": False}
        assert "KWAAINET_SLICES is set in the environment and wins over the file" in err

    def test_set_keeps_paths_that_mean_the_same_everywhere(
        self, capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "my.gguf").touch()
        for key, value in [("identity_key", "my.key"), ("api_key_file", "k"), ("model", "my.gguf")]:
            _, out, _ = run(capsys, "config", "set", key, value, "--json")
            assert json.loads(out)["after"] == str(tmp_path / value)
        for key, value in [("identity_key", "none"), ("model", "my")]:
            _, out, _ = run(capsys, "config", "set", key, value, "--json")
            assert json.loads(out)["after"] == value

    def test_set_refuses(self, capsys: Capture, kwaainet_home: Path) -> None:
        for arguments, message in [
            (("modle", "x"), "unknown key 'modle' - did you mean 'model'?"),
            (("slices", "many"), "slices: must be a whole number, not 'many'"),
        ]:
            code, out, err = run(capsys, "config", "set", *arguments)
            assert (code, out) == (78, "")
            assert message in err
        assert not (kwaainet_home / "config.yaml").exists()

    def test_a_variable_that_means_nothing_is_said(
        self, capsys: Capture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("KWAAINET_MODLE", "x")
        _, _, err = run(capsys, "config", "show")
        assert "environment_variable_unknown name=KWAAINET_MODLE" in err


def test_identity_show(capsys: Capture, kwaainet_home: Path) -> None:
    _, out, _ = run(capsys, "setup", "--json")
    made = json.loads(out)["identity"]
    code, out, err = run(capsys, "identity", "show", "--json")
    assert (code, err) == (0, "")
    shown = json.loads(out)
    assert {name: shown[name] for name in made} == made
    assert set(made) == {"did", "did_peer", "peer_id", "key_file"}
    _, out, _ = run(capsys, "identity", "show")
    assert all(value in out for value in made.values())
    seed = (kwaainet_home / "identity.key").read_bytes()[4:36]
    assert seed.hex() not in out


def test_identity_key_can_be_elsewhere(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KWAAINET_IDENTITY_KEY", str(tmp_path / "my.key"))
    run(capsys, "setup")
    _, out, _ = run(capsys, "identity", "show", "--json")
    assert json.loads(out)["key_file"] == str(tmp_path / "my.key")
    assert (tmp_path / "my.key").exists()


class TestShardRun:
    def test_the_answer_alone_is_on_standard_output(
        self, capsys: Capture, runtime: FakeRuntime
    ) -> None:
        code, out, err = run(capsys, "shard", "run", "What is the capital of France?")
        assert (code, out) == (0, "Paris is the capital.\n")
        assert err.splitlines()[0] == "path: [0,4) [4,8)"
        assert "kwaai-demo is a small demonstration model" in err
        assert runtime.closed == 1
        request = runtime.generator.requests[0]
        assert request.prompt == (ChatMessage("user", "What is the capital of France?"),)
        assert (request.sampling.temperature, request.max_tokens) == (0.0, 200)

    def test_what_is_asked_of_peers_is_not_passed_over_in_silence(
        self, capsys: Capture, runtime: FakeRuntime
    ) -> None:
        code, _, err = run(capsys, "shard", "run", "Hi", "--min-tier", "known")
        assert code == 0
        assert "no node runs, so this machine answers alone; nothing is asked of peers" in err
        code, _, err = run(capsys, "shard", "run", "Hi", "--local", "--max-latency-ms", "80")
        assert code == 2
        assert "leave out --local" in err
        assert len(runtime.opened) == 1

    def test_flags_reach_the_runtime_and_the_request(
        self, capsys: Capture, runtime: FakeRuntime
    ) -> None:
        line = "--model kwaai-demo --slices 3 --max-tokens 2 --temperature 0.5 --top-p 0.9"
        more = "--top-k 5 --seed 7 --system Be.brief --json"
        code, out, err = run(capsys, "shard", "run", "Hi", *line.split(), *more.split())
        assert (code, err) == (0, "")
        opened = runtime.opened[0]
        assert (opened["model"], opened["slices"], opened["local"]) == ("kwaai-demo", 3, False)
        request = runtime.generator.requests[0]
        assert request.prompt == (ChatMessage("system", "Be.brief"), ChatMessage("user", "Hi"))
        sampling = request.sampling
        assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.5, 0.9, 5)
        assert (sampling.seed, request.max_tokens) == (7, 2)
        report = json.loads(out)
        assert report["finish_reason"] == "length"
        assert report["path"] == "[0,4) [4,8)"
        assert report["timings"]["prefill_s"] == 0.02
        assert [s["range"] for s in report["slices"]] == ["[0,4)", "[4,8)"]

    def test_drawing_options_imply_a_temperature(
        self, capsys: Capture, runtime: FakeRuntime
    ) -> None:
        run(capsys, "shard", "run", "Hi", "--seed", "1")
        assert runtime.generator.requests[0].sampling.temperature == 1.0

    def test_stats_and_a_cut_answer(self, capsys: Capture, runtime: FakeRuntime) -> None:
        _, out, err = run(capsys, "shard", "run", "Hi", "--stats", "--max-tokens", "1")
        assert out == "Paris\n"
        assert "cut after 1 tokens (--max-tokens)" in err
        table = [line.split() for line in err.splitlines()]
        assert ["[4,8)", "2", "1.50", "0.25", "-"] in table
        assert any(row[:1] == ["prefill"] and row[2] == "20.0" for row in table)

    def test_an_answer_that_filled_the_context_says_so(
        self, capsys: Capture, runtime: FakeRuntime
    ) -> None:
        runtime.generator.answers = [[b"x"] * 100]
        _, _, err = run(capsys, "shard", "run", "Hi")
        assert "cut after 62 tokens (the context of 64 tokens is full)" in err

    def test_the_prompt_from_standard_input(
        self, capsys: Capture, runtime: FakeRuntime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("Où ?\n".encode())))
        assert run(capsys, "shard", "run", "-")[0] == 0
        assert runtime.generator.requests[0].prompt == (ChatMessage("user", "Où ?"),)

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (b"", "the prompt is empty"),
            (b" \n", "the prompt is empty"),
            (b"\xff", "not UTF-8 text (byte 0)"),
            (b"x" * (8 * 2**20 + 1), "the prompt is longer than 8388608 bytes"),
        ],
    )
    def test_bad_standard_input(
        self, data: bytes, message: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        code, out, err = run(capsys, "shard", "run", "-")
        assert (code, out) == (2, "")
        assert message in err

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("--max-tokens 0", "--max-tokens must be 1 to 1000000, not 0"),
            ("--max-tokens 1000001", "--max-tokens must be 1 to 1000000, not 1000001"),
            ("--temperature warm", "--temperature: must be a number, not 'warm'"),
            ("--temperature 3", "temperature must be a number from 0 to 2"),
            ("--temperature nan", "--temperature: must be a number, not 'nan'"),
            ("--top-p 1.5", "top_p must be a number"),
            ("--top-k -1", "top_k must be"),
            ("--local --slices 4", "--local runs the model in one piece"),
            ("--slices 0", "--slices: must be at least 1, not '0'"),
            ("--slices x", "--slices: must be a whole number, not 'x'"),
            ("--context 1", "--context-tokens: must be at least 64, not '1'"),
        ],
    )
    def test_bad_options_are_refused_before_anything_is_loaded(
        self, line: str, message: str, capsys: Capture, runtime: FakeRuntime
    ) -> None:
        code, out, err = run(capsys, "shard", "run", "Hi", *line.split())
        assert code == 2
        assert out == ""
        assert message in err
        assert runtime.opened == []

    def test_a_worker_that_dies_midway(self, capsys: Capture, runtime: FakeRuntime) -> None:
        runtime.generator.failure = (2, WorkerLost("the worker of [4,8) died; ask again"))
        code, out, err = run(capsys, "shard", "run", "Hi")
        assert (code, out) == (75, "Paris is")
        assert err.endswith("kwaainet: error: the worker of [4,8) died; ask again\n")
        assert runtime.closed == 1

    def test_an_unknown_model(self, capsys: Capture, runtime: FakeRuntime) -> None:
        runtime.generator.refusal = WorkerLost("no\nway")
        _, _, err = run(capsys, "shard", "run", "Hi")
        assert err.endswith("kwaainet: error: no way\n")


class TestShardDownload:
    @pytest.fixture
    def calls(self, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
        calls: list[dict[str, object]] = []

        def download(spec: str, models: Path, **how: object) -> object:
            calls.append({"spec": spec, "models": models, **how})
            report = how["progress"]
            assert callable(report)
            for phase in ("fetching", "fetching", "verifying", "done"):
                report(Progress(5, 10_000_000, None, None, phase, "a.gguf"))
            path = models / "o--m" / "a.gguf"
            return types.SimpleNamespace(
                paths=(path,), fetched_bytes=10, resumed_bytes=5, verified="sha-256", handle=None
            )

        monkeypatch.setattr("kwaai.models.download.download_model", download)
        return calls

    def test_a_whole_model(
        self, capsys: Capture, calls: list[dict[str, object]], kwaainet_home: Path
    ) -> None:
        code, out, err = run(capsys, "shard", "download", "o/m:Q8_0")
        path = kwaainet_home / "models" / "o--m" / "a.gguf"
        assert (code, out) == (0, f"{path}\n")
        assert err.splitlines() == [
            "fetching a.gguf (10.0 MB)",
            "verifying a.gguf (10.0 MB)",
            "fetched 10 B, 5 B were here; verified: sha-256",
            "use it: kwaainet config set model o/m/a.gguf",
        ]
        assert (calls[0]["spec"], calls[0]["layers"]) == ("o/m:Q8_0", None)

    def test_some_layers(self, capsys: Capture, calls: list[dict[str, object]]) -> None:
        line = "--start-block 4 --blocks 2 --head --embedding --json"
        code, out, _ = run(capsys, "shard", "download", "o/m", *line.split())
        assert code == 0
        assert json.loads(out)["verified"] == "sha-256"
        call = calls[0]
        assert (call["layers"], call["head"], call["embedding"]) == (LayerRange(4, 6), True, True)

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("--start-block 4", "--start-block needs --blocks"),
            ("--blocks 0", "--blocks must be at least 1"),
            ("--start-block -1 --blocks 1", "--start-block at least 0"),
        ],
    )
    def test_refused(self, line: str, message: str, capsys: Capture) -> None:
        code, _, err = run(capsys, "shard", "download", "o/m", *line.split())
        assert code == 2
        assert message in err

    def test_an_interruption_says_that_it_can_go_on(
        self, capsys: Capture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("kwaai.models.download.download_model", _raise(KeyboardInterrupt()))
        code, _, err = run(capsys, "shard", "download", "o/m")
        assert code == 130
        assert "the same command continues where this one ended" in err

    def test_a_failure(self, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(
            "kwaai.models.download.download_model", _raise(DownloadFailed("no hub"))
        )
        assert run(capsys, "shard", "download", "o/m") == (69, "", "kwaainet: error: no hub\n")


def _raise(error: BaseException) -> Callable[..., object]:
    def function(*_: object, **__: object) -> object:
        raise error

    return function


class TestModels:
    def test_list(self, capsys: Capture, kwaainet_home: Path) -> None:
        run(capsys, "setup")
        (kwaainet_home / "models" / "broken.gguf").write_bytes(b"GGUF")
        code, out, err = run(capsys, "models", "list")
        demo = out.splitlines()[1].split()
        assert code == 0
        assert demo[0] == "kwaai-demo"
        assert demo[-1].startswith("sha256:")
        assert "not usable: " in err
        _, out, _ = run(capsys, "models", "list", "--json")
        listed = json.loads(out)
        assert listed["models"][0]["name"] == "kwaai-demo"
        assert listed["models"][0]["ranges"] == [[0, listed["models"][0]["blocks"]]]
        assert listed["broken"][0]["path"].endswith("broken.gguf")

    def test_manifest(self, capsys: Capture) -> None:
        code, out, err = run(capsys, "models", "manifest", "kwaai-demo")
        assert code == 0
        handle = err.removeprefix("handle: ").strip()
        assert json.loads(out)["format"]
        _, out, _ = run(capsys, "models", "list", "--json")
        assert json.loads(out)["models"][0]["handle"] == handle

    def test_an_unknown_model_lists_what_there_is(self, capsys: Capture) -> None:
        for line in ("models manifest kwai-demo", "shard status --model kwai-demo"):
            code, out, err = run(capsys, *line.split())
            assert (code, out) == (3, "")
            assert "Did you mean kwaai-demo?" in err

    @pytest.fixture
    def parts(self, kwaainet_home: Path) -> Path:
        directory = kwaainet_home / "models" / "acme--parts" / "parts-Q8_0.gguf.slices"
        directory.mkdir(parents=True)
        source = tiny_model(kwaainet_home / "source.gguf")
        cut_slice(source, directory / "0-2.gguf", LayerRange(0, 2), head=False)
        cut_slice(source, directory / "4-6-head.gguf", LayerRange(4, 6), head=True)
        cut_embedding(source, directory / "embedding.gguf")
        return directory

    def test_a_model_of_which_parts_are_here(self, capsys: Capture, parts: Path) -> None:
        held = "[0,2) [4,6)+head embedding"
        _, out, _ = run(capsys, "models", "list")
        assert next(line for line in out.splitlines() if held in line).startswith("acme/parts ")
        _, out, _ = run(capsys, "models", "list", "--json")
        model = json.loads(out)["models"][0]
        assert (model["whole"], model["blocks"], model["ranges"]) == (False, 6, [[0, 2], [4, 6]])
        assert [(p["range"], p["head"], p["embedding"]) for p in model["parts"]] == [
            ([0, 2], False, False),
            ([4, 6], True, False),
            (None, False, True),
        ]
        _, out, _ = run(capsys, "shard", "status", "--model", "acme/parts")
        lines = {
            line.partition(":")[0]: line.partition(":")[2].strip() for line in out.splitlines()
        }
        assert lines["Ranges held"] == held
        assert "kwaainet shard download acme/parts/parts-Q8_0.gguf" in lines["Not whole"]
        code, _, err = run(capsys, "models", "manifest", "acme/parts")
        assert code == 2
        assert "is not whole, so it cannot be hashed; fetch all of it" in err

    def test_prune(self, capsys: Capture, kwaainet_home: Path) -> None:
        run(capsys, "config", "set", "api_port", "1")
        library = Library(kwaainet_home / "models")
        library.slices_for(library.find("kwaai-demo"), [LayerRange(0, 2), LayerRange(2, 4)])
        code, out, err = run(capsys, "models", "prune")
        assert (code, out) == (0, "freed 0 B: 0 cut slices, 0 leftovers\n")
        assert err == "2 cut slices used lately stay; --all removes them too\n"
        code, out, _ = run(capsys, "models", "prune", "--all", "--json")
        done = json.loads(out)
        assert (code, len(done["slices"]), done["kept"]) == (0, 2, [])
        assert done["freed_bytes"] > 0
        assert run(capsys, "models", "prune", "--all")[1].startswith("freed 0 B")

    def test_prune_all_spares_a_running_server(
        self, capsys: Capture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("kwaai.cli.shard_status.ask_health", lambda _: {"status": "ok"})
        code, out, err = run(capsys, "models", "prune", "--all")
        assert (code, out) == (75, "")
        assert "end it first, or leave out --all" in err
        assert run(capsys, "models", "prune")[0] == 0

    def test_status_without_a_server(self, capsys: Capture) -> None:
        run(capsys, "config", "set", "api_port", "1")
        code, out, _ = run(capsys, "shard", "status")
        assert code == 0
        assert "not running on 127.0.0.1:1" in out
        _, out, _ = run(capsys, "shard", "status", "--json")
        status = json.loads(out)
        assert (status["server"], status["model"]["name"]) == (None, "kwaai-demo")


class TestServe:
    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("--host 0.0.0.0", "set an API key"),
            ("--port 70000", "--api-port: must be at most 65535, not '70000'"),
            ("--local --slices 2", "--local runs the model in one piece"),
            ("--api-key-file /nowhere", "cannot read api_key_file /nowhere: No such file"),
        ],
    )
    def test_refused_before_anything_is_loaded(
        self, line: str, message: str, capsys: Capture, runtime: FakeRuntime
    ) -> None:
        code, out, err = run(capsys, "serve", *line.split())
        assert code in (2, 78)
        assert out == ""
        assert message in err
        assert runtime.opened == []

    @pytest.mark.parametrize(
        ("host", "base"),
        [
            ("127.0.0.1", "http://127.0.0.1:8/v1"),
            ("::1", "http://[::1]:8/v1"),
            ("0.0.0.0", "http://<an address of this machine>:8/v1"),  # that one is no destination
        ],
    )
    def test_says_what_clients_are_pointed_at(self, host: str, base: str, capsys: Capture) -> None:
        serve._say_listening(host, 8, False)
        assert f"OPENAI_BASE_URL={base}\n" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("data", "mode", "message"),
        [
            (b"z" * 32, 0o644, "is open to other users; run: chmod 600"),
            (b"", 0o600, "must hold one key"),
            (b"two words-----------", 0o600, "must hold one key"),
            ("é".encode() * 16, 0o600, "must hold one key"),
            (b"z" * 5000, 0o600, "must hold one key"),
        ],
    )
    def test_bad_key_files(
        self, data: bytes, mode: int, message: str, capsys: Capture, tmp_path: Path
    ) -> None:
        path = tmp_path / "api.key"
        path.write_bytes(data)
        path.chmod(mode)
        code, _, err = run(capsys, "serve", "--api-key-file", str(path))
        assert code == 78
        assert message in err
        assert "z" * 12 not in err


class TestBench:
    def test_flags_and_the_report(self, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[dict[str, object]] = []
        report = {
            "machine": {"cores": 2},
            "decode_ratio": 0.9712,
            "runs": [{"name": "stock", "decode_tokens_s": 61.5}, {"name": "chain", "hop_ms": None}],
        }

        legs: list[object] = []

        async def run_bench(*positional: object, **__: object) -> object:
            legs.append(positional[3])
            return types.SimpleNamespace(to_json=lambda: report)

        leg = types.ModuleType("kwaai.api.bench")
        leg.measure_api = run_bench  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "kwaai.api.bench", leg)
        module = types.ModuleType("kwaai.node.bench")
        module.BenchOptions = lambda **options: asked.append(options)  # type: ignore[attr-defined]
        module.run_bench = run_bench  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "kwaai.node.bench", module)
        code, out, _ = run(capsys, "bench", "--shape", "qwen2.5-0.5b", "--slices", "2", "--no-api")
        assert code == 0
        assert asked[0]["shape"] == "qwen2.5-0.5b"
        assert (asked[0]["slices"], asked[0]["model"]) == (2, None)
        lines = [line.split() for line in out.splitlines()]
        assert ["decode", "ratio:", "0.971"] in lines
        assert ["stock", "61.500", "-"] in lines
        _, out, _ = run(capsys, "bench", "--json")
        assert json.loads(out) == report
        assert legs == [None, run_bench]

    def test_one_model(self, capsys: Capture) -> None:
        code, _, err = run(capsys, "bench", "--model", "a", "--shape", "b")
        assert code == 2
        assert "exclude each other" in err


class TestCtrlC:
    def test_it_waits_for_the_end_of_an_import(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "interrupted_import.py").write_text(
            "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nDONE = True\n"
        )
        monkeypatch.syspath_prepend(str(tmp_path))
        before = signal.getsignal(signal.SIGINT)
        done: list[bool] = []

        def work() -> None:
            with _imports_uninterrupted():
                done.append(importlib.import_module("interrupted_import").DONE)
                threading.Event().wait(10)

        with pytest.raises(KeyboardInterrupt):
            work()
        assert done == [True]
        assert signal.getsignal(signal.SIGINT) is before


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class TestOutput:
    def test_a_table_without_a_terminal(self) -> None:
        stream = io.StringIO()
        print_table(("Name", "Size"), [("a", "1"), ("long", "100")], right=("Size",), stream=stream)
        assert stream.getvalue() == "Name  Size\na        1\nlong   100\n"

    def test_a_table_on_a_terminal_quotes_nothing_as_markup(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.delenv("NO_COLOR", raising=False)
        stream = Terminal()
        print_table(("Name",), [("[red]x[/red]",)], stream=stream)
        assert "[red]x[/red]" in stream.getvalue()
        assert "\x1b[1m" in stream.getvalue()
        monkeypatch.setenv("NO_COLOR", "1")
        stream = Terminal()
        print_table(("Name",), [("x",)], stream=stream)
        assert "\x1b[3" not in stream.getvalue()

    def test_a_spinner_is_silent_without_a_terminal(self, capsys: Capture) -> None:
        with Spinner("loading") as spinner:
            spinner.update("more")
            spinner.note("said")
        assert capsys.readouterr().err == "said\n"

    def test_a_spinner_on_a_terminal_leaves_no_thread(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setattr("kwaai.cli.output.SPINNER_AFTER_S", 0.0)
        stream = Terminal()
        monkeypatch.setattr(sys, "stderr", stream)
        with Spinner("loading [0,4)") as spinner:
            spinner._timer.join()
            spinner.note("path: [0,4)")
            spinner.update("reading\x1b[2J")
        assert "loading [0,4)" in stream.getvalue()
        assert "path: [0,4)" in stream.getvalue()
        assert "\x1b[2J" not in stream.getvalue()

    def test_a_download_on_a_terminal_is_one_bar(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", "120")
        stream = Terminal()
        monkeypatch.setattr(sys, "stderr", stream)
        with download_report() as report:
            report(Progress(0, 0, None, None, "header", "a.gguf"))
            report(Progress(100_000_000, 500_000_000, None, None, "fetching", "a.gguf"))
            report(Progress(400_000_000, 500_000_000, 1e8, 1.0, "fetching", "a.gguf"))
            report(Progress(250_000_000, 500_000_000, None, None, "verifying", "a.gguf"))
            report(Progress(5, 5, None, None, "done", "a.gguf"))
        last = stream.getvalue().rsplit("\x1b[2K", 1)[-1]
        assert "verifying a.gguf" in last
        assert "250.0/500.0 MB" in last
        assert "fetching" not in last

    def test_text_of_strangers(self) -> None:
        assert one_line("a\nb\x1b[31mc\u2028d ") == "a b [31mc d"
        assert safe_for_terminal("a\n\tb\x1b[2J\x9bé") == "a\n\tb\ufffd[2J\ufffdé"

    @pytest.mark.parametrize(
        ("count", "text"),
        [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (523_100_000, "523.1 MB"), (2e12, "2.0 TB")],
    )
    def test_sizes(self, count: float, text: str) -> None:
        assert show_bytes(count) == text

    @pytest.mark.parametrize(
        ("seconds", "text"), [(41.6, "42 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")]
    )
    def test_durations(self, seconds: float, text: str) -> None:
        assert show_duration(seconds) == text
