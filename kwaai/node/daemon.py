"""One node per home, as a process: the lock, who holds it, starting it apart, and ending it.

The lock is the truth: it is held as long as the node lives, however it ends. The pid file beside it
says which process that is and when it was born, so that no signal ever reaches a process that was
given the number of one that is gone. Wires no node (`kwaai.node.node`). Issue 3, section 4.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from kwaai import limits
from kwaai.atomic import exclusive_lock, write_atomic
from kwaai.errors import KwaaiError, Locked, NodeRunning, ResourceError, error_from_code
from kwaai.node.logfile import last_lines
from kwaai.store.home import HOME_VARIABLE, Home

_READ_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Running:
    """The node of a home, as a process."""

    pid: int
    birth: str
    """When the process was made, as the system tells it; with the pid it names one process."""


def lock_file(home: Home) -> Path:
    """Return the lock that a node holds as long as it lives."""
    return home.run / "kwaainet.lock"


def pid_file(home: Home) -> Path:
    """Return the file with the node's pid in its first line and its birth in the second."""
    return home.run / "kwaainet.pid"


@contextlib.contextmanager
def claim(home: Home) -> Iterator[None]:
    """Be the node of this home; the directories exist. Raises NodeRunning."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(exclusive_lock(lock_file(home), limits.CLAIM_TIMEOUT_S))
        except Locked:
            raise _running_already(home) from None
        path = pid_file(home)
        write_atomic(path, f"{os.getpid()}\n{process_birth(os.getpid())}\n".encode())
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _running_already(home: Home) -> NodeRunning:
    running = find_running(home)
    which = f" (process {running.pid})" if running else ""
    return NodeRunning(
        f"a node runs in {home.path} already{which}; `kwaainet status` shows it, `kwaainet stop` "
        f"ends it, and another {HOME_VARIABLE} makes another node"
    )


def is_claimed(home: Home) -> bool:
    """Whether a node lives in this home now."""
    try:
        descriptor = os.open(lock_file(home), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def find_running(home: Home) -> Running | None:
    """Return the node that lives in this home, or None. A stale pid file is never believed."""
    if not is_claimed(home):
        return None
    deadline = time.monotonic() + limits.CLAIM_TIMEOUT_S
    while (running := _read_pid_file(pid_file(home))) is None or not is_alive(running):
        # It holds the lock and has not written its number yet, or is going this moment.
        if time.monotonic() >= deadline or not is_claimed(home):
            return None
        time.sleep(limits.LOCK_POLL_S)
    return running


def _read_pid_file(path: Path) -> Running | None:
    try:
        pid, birth = path.read_bytes()[:_READ_BYTES].decode("ascii").splitlines()
        return Running(int(pid), birth) if int(pid) > 0 else None
    except (OSError, ValueError):
        return None


def is_alive(running: Running) -> bool:
    """Whether that very process lives: not another one with its number, nor its remains."""
    return process_birth(running.pid) == running.birth


def process_birth(pid: int) -> str:
    """Return when the process was made; empty when there is none, or it has ended."""
    try:  # Linux: in ticks since the boot, which does not move with the clock
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else f"ticks:{fields[19]}"
    except (OSError, IndexError):
        pass
    try:
        process = psutil.Process(pid)
        gone = process.status() == psutil.STATUS_ZOMBIE
        return "" if gone else f"unix:{process.create_time():.2f}"
    except psutil.Error:
        return ""


def send_signal(running: Running, number: signal.Signals) -> bool:
    """Signal that very process; return False where it has ended already."""
    if not hasattr(os, "pidfd_open"):  # not Linux: a window of microseconds remains
        if not is_alive(running):
            return False
        os.kill(running.pid, number)
        return True
    try:
        descriptor = os.pidfd_open(running.pid)
    except ProcessLookupError:
        return False
    try:
        if not is_alive(running):  # looked at after the descriptor was bound to a process
            return False
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True


def wait_ended(
    running: Running, timeout_s: float, waiting: Callable[[float], None] = lambda elapsed_s: None
) -> bool:
    """Wait until that process has ended; call `waiting` about every second. False: it lives on."""
    started = time.monotonic()
    told = 0.0
    while is_alive(running):
        elapsed = time.monotonic() - started
        if elapsed >= timeout_s:
            return False
        if elapsed - told >= 1.0:
            told = elapsed
            waiting(elapsed)
        time.sleep(limits.LOCK_POLL_S)
    return True


class Reporter:
    """The starting node's side of the pipe to whoever started it. Without a pipe it is silent."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor
        if descriptor is not None:
            os.set_inheritable(descriptor, False)

    def say(self, text: str) -> None:
        """Say what is being done now."""
        self._send({"say": text})

    def ready(self, report: Mapping[str, object]) -> None:
        """Say that the node is up; nothing follows."""
        self._send({"ready": report})
        self.close()

    def failed(self, error: KwaaiError) -> None:
        """Say why there will be no node; nothing follows."""
        self._send({"error": {"code": error.code, "message": error.message}})
        self.close()

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _send(self, message: Mapping[str, object]) -> None:
        if self._descriptor is None:
            return
        with contextlib.suppress(OSError):  # who started us has gone; the log has it too
            os.write(self._descriptor, json.dumps(message).encode() + b"\n")


class Starting:
    """A node that was started apart from this terminal, until it has said how that went."""

    def __init__(
        self,
        home: Home,
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start `kwaainet start ARGUMENTS` in this home. `environment`: instead of this process's.

        Raises NodeRunning.
        """
        if is_claimed(home):
            raise _running_already(home)
        self.home = home
        inherited = os.environ if environment is None else environment
        self._ours, theirs = os.pipe()
        with contextlib.ExitStack() as until_started:
            until_started.callback(os.close, theirs)
            output = os.open(
                home.log_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
            until_started.callback(os.close, output)
            self._process = subprocess.Popen(
                [*program(), "start", "--ready-fd", str(theirs), *arguments],
                cwd=home.path,
                env={**inherited, HOME_VARIABLE: str(home.path)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[theirs],
                start_new_session=True,  # no terminal, and no signals from one
            )

    def report(
        self,
        timeout_s: float = limits.START_TIMEOUT_S,
        say: Callable[[str], None] = lambda text: None,
    ) -> dict[str, Any]:
        """Wait until the node is up; return what it reports. Once.

        Raises what the node raised, or ResourceError when it says nothing in time or ends without a
        word. Interrupted, it ends the node.
        """
        try:
            return _await_report(self._ours, self._process, self.home, timeout_s, say)
        except KeyboardInterrupt:
            self.end()
            raise
        finally:
            os.close(self._ours)

    def end(self) -> None:
        """End the process, however far it has come."""
        for wait_s, end in (
            (limits.SERVICE_HURRY_S, self._process.terminate),
            (limits.SERVICE_STOP_TIMEOUT_S, self._process.terminate),  # does not wait for anything
            (limits.STOP_TIMEOUT_S, self._process.kill),
        ):
            end()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(wait_s)
                return


def spawn(
    home: Home,
    arguments: Sequence[str] = (),
    *,
    timeout_s: float = limits.START_TIMEOUT_S,
    say: Callable[[str], None] = lambda text: None,
    environment: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Start `kwaainet start ARGUMENTS` in this home, apart from this terminal; return its report.

    `environment`: instead of this process's. Raises as Starting and its report do.
    """
    return Starting(home, arguments, environment).report(timeout_s, say)


def program() -> list[str]:
    """Return the command line that runs this program again, from any directory."""
    return [sys.executable, "-P", "-m", "kwaai.cli"]


def _await_report(
    descriptor: int,
    process: subprocess.Popen[bytes],
    home: Home,
    timeout_s: float,
    say: Callable[[str], None],
) -> dict[str, Any]:
    last = "it has said nothing yet"
    for message in _messages(descriptor, timeout_s):
        if isinstance(report := message.get("ready"), dict):
            return report
        if isinstance(error := message.get("error"), dict):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=limits.STOP_TIMEOUT_S)
            raise error_from_code(str(error.get("code")), str(error.get("message")))
        last = str(message.get("say", last))
        say(last)
    try:
        code = process.wait(timeout=limits.CLAIM_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise ResourceError(
            f"the node (process {process.pid}) is not ready after {timeout_s:g} s: {last}; it goes "
            "on, see `kwaainet status` and `kwaainet logs`"
        ) from None
    why = f"signal {-code}" if code < 0 else f"exit code {code}"
    end = "".join(f": {line}" for line in last_lines(home.log_file, 1))
    raise ResourceError(f"the node ended while it started ({why}){end}; see `kwaainet logs`")


def _messages(descriptor: int, timeout_s: float) -> Iterator[dict[str, Any]]:
    """Yield the lines that come, until the other side closes or the time is up."""
    deadline = time.monotonic() + timeout_s
    data, total = b"", 0
    while total < limits.READY_BYTES_MAX:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([descriptor], [], [], left)[0]:
            return
        piece = os.read(descriptor, _READ_BYTES)
        if not piece:
            return
        total += len(piece)
        *lines, data = (data + piece).split(b"\n")
        for line in lines:
            with contextlib.suppress(ValueError):
                message = json.loads(line)
                if isinstance(message, dict):
                    yield message
