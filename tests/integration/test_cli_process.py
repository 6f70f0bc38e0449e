"""`kwaainet` as a process of its own, in an empty home: start, streams, signals, pipes, races."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 60

# The program with a generator that says what it is told to: no model is loaded here.
FAKE = """
import sys, types, asyncio
from contextlib import asynccontextmanager
from kwaai.testing.generator import FakeGenerator
class Runtime:
    path_text = "[0,4) [4,8)"
    def __init__(self, config, home, model):
        self.generator = FakeGenerator()
        if "GATE" in sys.argv:
            self.generator.gate = asyncio.Semaphore(2)
    def slice_stats(self):
        return []
    async def load(self, say, **how):
        say("loading the model")
        self.generator.status = "ok"
    async def close(self):
        print("runtime closed", file=sys.stderr, flush=True)
@asynccontextmanager
async def open_runtime(config, home, **how):
    runtime = Runtime(config, home, "")
    try:
        yield runtime
    finally:
        await runtime.close()
module = types.ModuleType("kwaai.node.runtime")
module.open_runtime, module.Runtime = open_runtime, Runtime
sys.modules["kwaai.node.runtime"] = module
from kwaai.cli.main import main
sys.exit(main([a for a in sys.argv[1:] if a != "GATE"]))
"""


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "TERM": "dumb", "PYTHONUTF8": "1"}


def command(*arguments: str, fake: bool = False) -> list[str]:
    start = ["-c", FAKE] if fake else ["-m", "kwaai.cli"]
    return [sys.executable, *start, *arguments]


def run(*arguments: str, fake: bool = False, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments, fake=fake),
        env=environment() | more,
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
        stdin=subprocess.DEVNULL,
    )


@contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command(*arguments, fake=True),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=TIMEOUT_S)


def test_help_imports_nothing_heavy() -> None:
    code = """
import sys
from kwaai.cli.main import main
code = main(["--help"])
heavy = {"pydantic", "yaml", "rich", "numpy", "aiohttp", "jinja2", "nacl", "base58", "asyncio",
         "jsonschema", "psutil", "llama_cpp", "prometheus_client", "ssl", "http.client"}
print(sorted(heavy & set(sys.modules)), file=sys.stderr)
sys.exit(code)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
    )
    assert (done.returncode, done.stderr) == (0, "[]\n")
    assert "shard" in done.stdout


def test_commands_run_without_a_home_and_write_nothing(kwaainet_home: Path) -> None:
    for arguments in (("--version",), ("help", "serve"), ("config", "show")):
        assert run(*arguments).returncode == 0
    assert not kwaainet_home.exists()


def test_parallel_setups_make_one_key(kwaainet_home: Path) -> None:
    processes = [
        subprocess.Popen(
            command("setup", "--json"), env=environment(), stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    reports = [json.loads(p.communicate(timeout=TIMEOUT_S)[0]) for p in processes]
    assert [p.returncode for p in processes] == [0] * 4
    assert len({report["identity"]["peer_id"] for report in reports}) == 1
    assert sorted(len(report["created"]) for report in reports) == [0, 0, 0, 2]
    names = {p.name for p in kwaainet_home.iterdir()}
    assert names == {"identity.key", "config.yaml", "credentials", "logs", "models", "run"}


def test_a_home_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = run("setup", KWAAINET_HOME=str(tmp_path / "file"))
    assert done.returncode == 78
    assert "is a file, and a directory is needed there" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_reader_that_goes_away_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            command("config", "show"),
            env=environment(),
            stdout=write,
            stderr=subprocess.PIPE,
            check=False,
            timeout=TIMEOUT_S,
        )
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the device is Linux's")
def test_an_output_that_takes_nothing_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command("config", "show"),
            env=environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
            timeout=TIMEOUT_S,
        )
    assert done.returncode == 74
    assert done.stderr == b"kwaainet: error: cannot write the output: No space left on device\n"


@pytest.mark.parametrize("closed", [(1,), (2,), (1, 2)])
def test_closed_streams_are_no_defect(closed: tuple[int, ...]) -> None:
    shut = " ".join(f"{number}>&-" for number in closed)
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {shut}', "sh", *command("config", "show")],
        env=environment(),
        capture_output=True,
        check=False,
        timeout=TIMEOUT_S,
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_an_answer_goes_to_standard_output() -> None:
    done = run("shard", "run", "What is the capital of France?", fake=True)
    assert (done.returncode, done.stdout) == (0, "Paris is the capital.\n")
    assert done.stderr.startswith("path: [0,4) [4,8)\n")


def test_the_packaged_model_answers_through_four_slices() -> None:
    done = run(
        "shard", "run", "--slices", "4", "What is the capital of France?", OMP_NUM_THREADS="1"
    )
    assert done.returncode == 0, done.stderr
    assert "Paris" in done.stdout
    assert done.stderr.splitlines()[0].count("[") == 4


def test_an_answer_in_a_narrow_encoding_does_not_crash() -> None:
    code = FAKE.replace("FakeGenerator()", "FakeGenerator(answers=[['é😀'.encode()]])")
    done = subprocess.run(
        [sys.executable, "-c", code, "shard", "run", "x"],
        env=environment() | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
        capture_output=True,
        check=False,
        timeout=TIMEOUT_S,
    )
    assert (done.returncode, done.stdout) == (0, b"??\n")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_an_answer_cleanly(number: signal.Signals, code: int) -> None:
    with started("shard", "run", "Hi", "GATE") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(len("Paris is")) == "Paris is"  # and no more comes
        process.send_signal(number)
        assert process.wait(TIMEOUT_S) == code
        assert process.stdout.read() == ""
        assert process.stderr.read().endswith("runtime closed\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_answers_and_ends_cleanly(number: signal.Signals) -> None:
    with started("serve", "--port", "0") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        found = re.fullmatch(
            r"kwaainet serves on (http://127\.0\.0\.1:(\d+))/v1\n", process.stdout.readline()
        )
        assert found
        with urllib.request.urlopen(f"{found[1]}/health", timeout=TIMEOUT_S) as answer:
            assert json.load(answer)["status"] == "ok"
        status = run("shard", "status", "--json", KWAAINET_API_PORT=found[2])
        assert json.loads(status.stdout)["server"]["status"] == "ok"
        process.send_signal(number)
        assert process.wait(TIMEOUT_S) == 0
        assert f"export OPENAI_BASE_URL={found[1]}/v1" in process.stdout.read()
        assert process.stderr.read().endswith("runtime closed\n")


def test_a_port_in_use_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("serve", "--port", str(port), fake=True)
    assert done.returncode == 75
    assert f"kwaainet: error: port {port} on 127.0.0.1 is in use" in done.stderr
