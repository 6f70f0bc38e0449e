"""A node as a process: started, looked at, drained, killed, started again; nothing is left."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from kwaai.cli.control import ControlClient
from kwaai.models.library import Library
from kwaai.node.daemon import find_running, pid_file
from kwaai.store.home import Home
from kwaai.testing.processes import TIMEOUT_S, environment, is_gone, kwaainet, program, until

LOCAL = ("--port", "0", "--api-port", "0", "--listen-host", "127.0.0.1", "--no-mdns")
QUESTION = {
    "model": "kwaai-demo",
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
    "temperature": 0,
    "max_tokens": 64,
}


@pytest.fixture
def home(kwaainet_home: Path) -> Iterator[Home]:
    """The home of this test's node, which is ended in any case."""
    home = Home(kwaainet_home)
    yield home
    running = find_running(home)
    if running is not None:
        family = psutil.Process(running.pid).children(recursive=True)
        os.kill(running.pid, signal.SIGKILL)
        psutil.wait_procs([psutil.Process(running.pid), *family], timeout=TIMEOUT_S)


def start(*more: str) -> dict[str, Any]:
    done = kwaainet("start", "--daemon", "--json", *LOCAL, *more)
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def status(code: int = 0) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(kwaainet("status", "--json", code=code).stdout)
    return told


def test_a_life(home: Home) -> None:
    report = start("--serve", "2:4", "--name", "amber")
    assert report["elapsed_s"] < 30  # the bar of 5 s is the bench's; a busy machine is slower
    assert report["name"] == "amber"
    [address] = report["listen"]
    assert address == f"/ip4/127.0.0.1/tcp/{report['port']}/p2p/{report['peer']}"

    def served() -> dict[str, Any] | None:
        told = status()
        online = [row for row in told["node"]["served"] if row["state"] == "online"]
        return told if online else None

    told = until(served, "the range is served")
    assert told["running"]
    assert told["pid"] == report["pid"]
    assert told["uptime_s"] > 0
    assert told["memory_mb"] < 200
    assert told["workers_memory_mb"] > 0
    node = told["node"]
    assert (node["state"], node["peer"], node["api"]) == ("online", report["peer"], report["api"])
    assert {row["name"]: row["state"] for row in node["services"]} == dict.fromkeys(
        (
            *("network", "links", "directory", "credentials", "trust", "receipts"),
            *("spot-checks", "witness", "storage", "knowledge"),
            *("serving", "answers", "api", "control"),
        ),
        "running",
    )
    [row] = node["served"]
    assert row["layers"] == {"start": 2, "stop": 4}
    assert row["decode_s"] > 0, "measured when it was loaded"

    shown = kwaainet("status").stdout
    assert "amber" in shown
    assert "[2,4)" in shown
    log = kwaainet("logs", "-n", "200").stdout
    assert "node_ready" in log
    assert "range_served" in log
    assert kwaainet("logs", "-n", "1").stdout.count("\n") == 1

    second = kwaainet("start", "--daemon", *LOCAL, code=75)
    assert f"runs in {home.path} already (process {report['pid']})" in second.stderr
    third = kwaainet("start", *LOCAL, code=75)
    assert "already" in third.stderr

    family = psutil.Process(report["pid"]).children(recursive=True)
    assert family, "the served range has a worker"
    stopped = kwaainet("stop")
    assert f"stopped process {report['pid']}" in stopped.stdout
    assert is_gone(report["pid"])
    until(lambda: all(is_gone(one.pid) for one in family), "its workers end")
    assert not pid_file(home).exists()
    assert not (home.run / "kwaai.sock").exists()
    assert "node_stopped" in kwaainet("logs").stdout
    assert status(code=69) == {"running": False, "home": str(home.path)}
    assert kwaainet("stop").stdout == f"no node runs in {home.path}\n"


@pytest.mark.slow
def test_after_a_kill_it_starts_again_with_the_same_identity(home: Home) -> None:
    first = start("--serve", "1:2")
    family = until(lambda: psutil.Process(first["pid"]).children(), "a worker")
    os.kill(first["pid"], signal.SIGKILL)
    until(lambda: is_gone(first["pid"]), "the kill")
    assert pid_file(home).exists(), "nobody could remove it"
    assert status(code=69)["running"] is False, "a stale pid file is not believed"
    until(lambda: all(is_gone(one.pid) for one in family), "workers end with their node")
    second = start()
    assert second["peer"] == first["peer"]
    assert second["pid"] != first["pid"]
    third = json.loads(kwaainet("restart", "--json", *LOCAL).stdout)
    assert third["pid"] != second["pid"]
    assert is_gone(second["pid"])
    kwaainet("stop", "--now")


@pytest.mark.slow
def test_a_stale_pid_file_of_somebody_else(home: Home) -> None:
    """Its number belongs to this test now: no command may touch us."""
    home.run.mkdir(parents=True)
    home.path.chmod(0o700)
    pid_file(home).write_text(f"{os.getpid()}\nticks:1\n")
    assert status(code=69)["running"] is False
    assert "no node runs" in kwaainet("stop").stdout
    report = start()
    assert status()["pid"] == report["pid"]
    kwaainet("stop")


@pytest.mark.parametrize("key", ["--port", "--link-port", "--api-port"])
def test_a_port_in_use_is_said_at_once(home: Home, key: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        flags = list(LOCAL)
        if key in flags:
            flags[flags.index(key) + 1] = port
        else:
            flags += [key, port]
        began = time.monotonic()
        done = kwaainet("start", "--daemon", *flags, code=75)
    assert time.monotonic() - began < 10
    assert port in done.stderr
    assert done.stderr.count("\n") == 1
    assert find_running(home) is None


def test_wrong_settings_are_said_at_once(home: Home) -> None:
    done = kwaainet("start", "--daemon", "--serve", "4-8", code=2)
    assert "--serve: must be none, auto, or START:STOP" in done.stderr
    assert not home.path.exists()


@pytest.mark.slow
def test_a_range_that_is_not_there_fails_alone(home: Home) -> None:
    kwaainet("config", "set", "serve", "6:99")
    start()

    def problem() -> str | None:
        services = {row["name"]: row for row in status()["node"]["services"]}
        assert services["api"]["state"] == "running"
        found: str | None = services["serving"]["problem"]
        return found

    assert "kwaai-demo has 8 layers" in until(problem, "the service says what is wrong")
    kwaainet("stop")


@pytest.mark.parametrize(
    ("flags", "words", "code"),
    [
        (("--serve", "6:99"), "--serve 6:99: kwaai-demo has 8 layers, so [6,99) is not in it", 2),
        (("--serve", "0:4"), "layer 0 of kwaai-demo is run by whoever asks", 2),
        (("--model", "kwai-demo"), "no model 'kwai-demo'. Did you mean kwaai-demo?", 3),
    ],
)
def test_what_is_typed_wrong_starts_nothing(
    home: Home, flags: tuple[str, ...], words: str, code: int
) -> None:
    assert words in kwaainet("start", "--daemon", *LOCAL, *flags, code=code).stderr
    assert kwaainet("status", code=69)


@pytest.mark.slow
def test_restart_says_which_flags_are_not_kept(home: Home) -> None:
    start("--public-name", "amber")
    done = kwaainet("restart", "--json", *LOCAL)
    assert json.loads(done.stdout)["name"] != "amber"
    assert "the node ran with --public-name=amber, which is not kept" in done.stderr
    kwaainet("stop")


def long_question(home: Home) -> dict[str, Any]:
    """Answers that take seconds, one after the other: none of them ends by itself."""
    end = Library(home.models).find("kwaai-demo").header.get("tokenizer.ggml.eos_token_id", None)
    return QUESTION | {"max_tokens": 200, "n": 16, "logit_bias": {str(end): -100}}


def ask(report: dict[str, Any], body: dict[str, Any]) -> Any:
    request = urllib.request.Request(
        f"{report['api']}/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        return json.load(answer)


def test_the_api_answers_alone_where_nobody_else_is(home: Home) -> None:
    report = start()
    answer = ask(report, QUESTION)
    assert "Paris" in answer["choices"][0]["message"]["content"]
    by_node = kwaainet("shard", "run", "What is the capital of France?")
    assert "Paris" in by_node.stdout
    kwaainet("stop")


@pytest.mark.slow
def test_stop_waits_for_an_answer_and_says_so(home: Home) -> None:
    report = start("--max-sessions", "1", "--threads", "1")
    ask(report, QUESTION)  # loaded
    result: list[Any] = []
    asking = threading.Thread(target=lambda: result.append(ask(report, long_question(home))))
    asking.start()
    client = ControlClient(home)
    until(lambda: client.status()["answers"] > 1, "the answers are under way")
    stopped = kwaainet("stop")
    asking.join(TIMEOUT_S)
    assert result, "it was not cut off"
    assert result[0]["usage"]["completion_tokens"] == 16 * 200
    assert "waiting for" in stopped.stderr
    assert "stopped process" in stopped.stdout


@pytest.mark.slow
def test_a_second_signal_ends_at_once(home: Home) -> None:
    process = subprocess.Popen(
        program("start", "--max-sessions", "1", "--threads", "1", *LOCAL),
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        assert any(line.startswith("ready in ") for line in lines)
        client = ControlClient(home)
        report = {"api": client.status()["api"]}
        ask(report, QUESTION)
        failed: list[Exception] = []

        def cut_off() -> None:
            try:
                ask(report, long_question(home))
            except (OSError, http.client.HTTPException) as error:
                failed.append(error)

        asking = threading.Thread(target=cut_off)
        asking.start()
        until(lambda: client.status()["answers"] > 1, "the answers are under way")
        process.send_signal(signal.SIGINT)
        until(lambda: client.status()["state"] == "draining", "it drains")
        process.send_signal(signal.SIGINT)
        assert process.wait(15) == 0
        asking.join(TIMEOUT_S)
        assert failed, "they were cut off"
    finally:
        process.kill()
        process.communicate(timeout=TIMEOUT_S)
