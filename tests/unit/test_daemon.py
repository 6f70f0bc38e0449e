"""One node per home: the lock, pid files that lie, signals that hit nobody else, the log."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kwaai.errors import ConfigError, NodeRunning, PortInUse, ResourceError
from kwaai.node import daemon
from kwaai.node.daemon import Reporter, Running, claim, find_running, is_claimed, send_signal
from kwaai.node.logfile import LogFile, follow, last_lines, older
from kwaai.store.home import Home, ensure_home

TIMEOUT_S = 30


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return ensure_home(tmp_path / "home")


@pytest.fixture
def other() -> Iterator[subprocess.Popen[bytes]]:
    """A process that waits until its input is closed."""
    process = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate(timeout=TIMEOUT_S)


def write_pid_file(home: Home, text: str) -> None:
    daemon.pid_file(home).write_text(text)


# --- the lock


def test_a_home_has_one_node(home: Home) -> None:
    assert find_running(home) is None
    with claim(home):
        assert is_claimed(home)
        assert find_running(home) == Running(os.getpid(), daemon.process_birth(os.getpid()))
        with pytest.raises(NodeRunning, match=rf"\(process {os.getpid()}\)"), claim(home):
            pass
        assert daemon.pid_file(home).exists()
    assert find_running(home) is None
    assert not daemon.pid_file(home).exists()
    with claim(home):
        pass


def test_a_home_that_nobody_has_made(tmp_path: Path) -> None:
    assert find_running(Home(tmp_path / "absent")) is None
    assert not (tmp_path / "absent").exists(), "looking makes nothing"


@pytest.mark.parametrize(
    "text", ["", "x", "1", "-1\nticks:1\n", "0\nticks:1\n", f"{os.getpid()}\nticks:1\n", "\xff\n\n"]
)
def test_a_pid_file_without_the_lock_is_stale(home: Home, text: str) -> None:
    write_pid_file(home, text)
    assert find_running(home) is None
    with claim(home):
        running = find_running(home)
        assert running is not None
        assert running.pid == os.getpid()


def test_a_pid_file_that_names_a_process_with_that_number_born_later(
    home: Home, other: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock is held (by us), and the file has the number of somebody who is not the node."""
    monkeypatch.setattr(daemon.limits, "CLAIM_TIMEOUT_S", 0.0)
    with claim(home):
        write_pid_file(home, f"{other.pid}\nticks:1\n")
        assert find_running(home) is None


def test_a_killed_node_frees_its_home(home: Home) -> None:
    code = (
        "import sys; from pathlib import Path; from kwaai.node.daemon import claim;"
        "from kwaai.store.home import Home\n"
        "with claim(Home(Path(sys.argv[1]))): print('claimed', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(home.path)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"claimed\n"
        running = find_running(home)
        assert running is not None
        assert running.pid == process.pid
        assert daemon.is_alive(running)
        assert send_signal(running, signal.SIGKILL)
        assert daemon.wait_ended(running, TIMEOUT_S)
        assert not daemon.is_alive(running), "what is left of it, unreaped, is no process"
        assert daemon.pid_file(home).exists(), "nobody could remove it"
        assert find_running(home) is None
        assert not send_signal(running, signal.SIGTERM)
        with claim(home):
            pass
    finally:
        process.kill()
        process.communicate(timeout=TIMEOUT_S)


# --- signals


def test_a_signal_reaches_that_very_process_only(other: subprocess.Popen[bytes]) -> None:
    birth = daemon.process_birth(other.pid)
    assert birth
    assert not send_signal(Running(other.pid, "ticks:1"), signal.SIGKILL), "a reused number"
    assert not send_signal(Running(other.pid, ""), signal.SIGKILL)
    assert other.poll() is None
    assert send_signal(Running(other.pid, birth), signal.SIGTERM)
    assert other.wait(TIMEOUT_S) == -signal.SIGTERM
    assert not send_signal(Running(other.pid, birth), signal.SIGTERM)


def test_waiting_for_an_end_has_a_deadline(other: subprocess.Popen[bytes]) -> None:
    running = Running(other.pid, daemon.process_birth(other.pid))
    assert not daemon.wait_ended(running, 0.0)


def test_no_process_has_no_birth() -> None:
    assert daemon.process_birth(2**22 + 1) == ""


# --- what a starting node reports


def spawn(home: Home, code: str, monkeypatch: pytest.MonkeyPatch, **more: Any) -> dict[str, Any]:
    """Start `code` in place of the program. It finds the pipe in sys.argv[3]."""
    monkeypatch.setattr(daemon, "program", lambda: [sys.executable, "-c", code])
    return daemon.spawn(home, [], **more)


SAY = """
import sys, os, json
def say(**message):
    os.write(int(sys.argv[3]), json.dumps(message).encode() + b"\\n")
"""


def test_ready_comes_back_with_what_was_said_before(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    code = SAY + "print('to the log'); say(say='one'); say(say='two'); say(ready={'pid': 7})"
    assert spawn(home, code, monkeypatch, say=said.append) == {"pid": 7}
    assert said == ["one", "two"]


def test_an_error_comes_back_as_what_it_was(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    code = SAY + "say(error={'code': 'port_in_use', 'message': 'port 1 is in use'})"
    with pytest.raises(PortInUse, match="port 1 is in use"):
        spawn(home, code, monkeypatch)
    with pytest.raises(ConfigError):
        spawn(home, SAY + "say(error={'code': 'config_invalid', 'message': 'x'})", monkeypatch)


def test_an_end_without_a_word_shows_the_last_line(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ResourceError, match=r"\(exit code 3\): the last words; see"):
        spawn(home, "print('the last words', flush=True); raise SystemExit(3)", monkeypatch)


@pytest.mark.parametrize("text", ["garbage", "[]", "{}", '{"ready": 1}', "\\xff"])
def test_nonsense_is_no_report(home: Home, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    code = f"import sys, os\nos.write(int(sys.argv[3]), {text!r}.encode() + b'\\n')"
    with pytest.raises(ResourceError, match="the node ended while it started"):
        spawn(home, code, monkeypatch)


def test_silence_has_a_deadline(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def start(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        started.append(popen(*arguments, **options))
        return started[-1]

    monkeypatch.setattr(daemon.subprocess, "Popen", start)
    code = SAY + "say(say='loading'); sys.stdin = None\nimport signal; signal.pause()"
    monkeypatch.setattr(daemon.limits, "CLAIM_TIMEOUT_S", 0.01)
    try:
        with pytest.raises(ResourceError, match=r"is not ready after 2 s: loading; it goes on"):
            spawn(home, code, monkeypatch, timeout_s=2)
    finally:
        started[0].kill()
        started[0].wait(TIMEOUT_S)


def test_ctrl_c_ends_what_was_started(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []

    def interrupted(_: int, process: subprocess.Popen[bytes], *__: Any) -> dict[str, Any]:
        started.append(process)
        raise KeyboardInterrupt

    monkeypatch.setattr(daemon, "_await_report", interrupted)
    with pytest.raises(KeyboardInterrupt):
        spawn(home, "import signal; signal.pause()", monkeypatch)
    assert started[0].returncode == -signal.SIGTERM


def test_what_does_not_listen_is_killed(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon.limits, "SERVICE_HURRY_S", 0.05)
    monkeypatch.setattr(daemon.limits, "SERVICE_STOP_TIMEOUT_S", 0.05)
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\nsay(say='deaf')"

    def interrupt(text: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        spawn(home, f"{SAY}\n{deaf}\nsignal.pause()", monkeypatch, say=interrupt)
    assert not daemon.is_claimed(home)


def test_a_second_start_says_who_is_there(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    with claim(home), pytest.raises(NodeRunning, match=f"process {os.getpid()}"):
        spawn(home, "raise SystemExit(9)", monkeypatch)


def test_a_reporter_survives_whoever_asked() -> None:
    read, write = os.pipe()
    reporter = Reporter(write)
    assert not os.get_inheritable(write)
    reporter.say("one")
    assert json.loads(os.read(read, 100)) == {"say": "one"}
    os.close(read)
    reporter.say("two")
    reporter.ready({"pid": 1})
    reporter.say("three")
    Reporter(None).failed(PortInUse("x"))


# --- the log's files


def test_a_full_log_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "node.log"
    log = LogFile(path, bytes_max=100)
    for number in range(30):
        log.write(f"line {number:02} of the log\n")
    log.close()
    assert path.stat().st_size <= 120
    assert older(path).stat().st_size <= 120
    assert sorted(p.name for p in tmp_path.iterdir()) == ["node.log", "node.log.1"]
    assert path.read_text().endswith("line 29 of the log\n")
    assert path.stat().st_mode & 0o777 == 0o600
    assert last_lines(path, 3) == [f"line {n} of the log" for n in (27, 28, 29)]
    assert len(last_lines(path, 8)) == 8, "the older file has the rest"
    assert last_lines(path, 0) == []
    assert last_lines(tmp_path / "absent", 5) == []


def test_a_log_that_another_process_moved(tmp_path: Path) -> None:
    path = tmp_path / "node.log"
    log = LogFile(path)
    log.write("before\n")
    os.replace(path, older(path))
    log.write("after\n")
    log.close()
    assert (older(path).read_text(), path.read_text()) == ("before\n", "after\n")


def test_output_moves_with_the_log(tmp_path: Path) -> None:
    path = tmp_path / "node.log"
    code = f"""
import os, sys
from pathlib import Path
from kwaai.node.logfile import LogFile
log = LogFile(Path({str(path)!r}), is_output=True, bytes_max=10)
os.write(1, b"first out\\n")
os.write(2, b"first err\\n")
log.write("an event\\n")
os.write(2, b"second err\\n")
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        check=True,
        timeout=TIMEOUT_S,
    )
    assert (done.stdout, done.stderr) == (b"", b"")
    assert older(path).read_text() == "first out\nfirst err\n"
    assert path.read_text() == "an event\nsecond err\n"


class Enough(Exception):
    """No more looks."""


def followed(path: Path, *steps: Callable[[], object]) -> list[str]:
    """Follow a log; between two looks at it, one step after the other."""
    left, seen = iter(steps), []

    def pause(seconds: float) -> None:
        step = next(left, None)
        if step is None:
            raise Enough
        step()

    with contextlib.suppress(Enough):
        for piece in follow(path, pause):
            seen.append(piece)
    return seen


def test_a_log_is_followed_over_its_change(tmp_path: Path) -> None:
    path = tmp_path / "node.log"
    path.write_text("old\n")

    def append(text: str) -> None:
        with path.open("a") as file:
            file.write(text)

    def rotate() -> None:
        append("last of the first\n")
        os.replace(path, older(path))
        append("first of the second\n")

    seen = followed(path, lambda: append("one\n"), rotate, lambda: append("two\n"), path.unlink)
    assert "".join(seen) == "one\nlast of the first\nfirst of the second\ntwo\n"


def test_a_log_that_comes_later(tmp_path: Path) -> None:
    path = tmp_path / "node.log"
    assert followed(path, lambda: path.write_text("hello\n")) == ["hello\n"]
