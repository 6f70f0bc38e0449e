"""`kwaainet storage serve` as a process: one per home, found, started apart and ended from outside.

A lock that the process holds is the truth; the file beside it says which process that is and where
it listens. Serves nothing itself (`kwaai.api.storage_http`).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kwaai import limits
from kwaai.atomic import exclusive_lock, write_atomic
from kwaai.errors import Locked, NodeRunning, ResourceError
from kwaai.node.daemon import Running, is_alive, process_birth, program, send_signal, wait_ended
from kwaai.node.logfile import last_lines
from kwaai.store.home import HOME_VARIABLE, Home


@dataclass(frozen=True, slots=True)
class Served:
    """The storage server of a home."""

    process: Running
    url: str


def served_log(home: Home) -> Path:
    """Return the log of a server that was started apart."""
    return home.logs / "storage.log"


@contextlib.contextmanager
def claim_storage(home: Home) -> Iterator[Callable[[str], None]]:
    """Be the storage server of this home; call what is given with the URL once it listens. Raises
    NodeRunning.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(exclusive_lock(_lock_file(home), limits.CLAIM_TIMEOUT_S))
        except Locked:
            served = find_served(home)
            which = f" on {served.url} (process {served.process.pid})" if served else ""
            raise NodeRunning(
                f"storage is served in {home.path} already{which}; `kwaainet storage stop` ends it"
            ) from None
        path = _served_file(home)
        path.unlink(missing_ok=True)

        def tell(url: str) -> None:
            told = {"pid": os.getpid(), "birth": process_birth(os.getpid()), "url": url}
            write_atomic(path, json.dumps(told).encode())

        try:
            yield tell
        finally:
            path.unlink(missing_ok=True)


def find_served(home: Home) -> Served | None:
    """Return the storage server of this home, if one listens. A stale file is not believed."""
    try:
        with open(_served_file(home), "rb") as file:
            told = json.loads(file.read(limits.STORAGE_LINE_BYTES_MAX))
        served = Served(Running(int(told["pid"]), str(told["birth"])), str(told["url"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return served if served.process.pid > 0 and is_alive(served.process) else None


def start_served(
    home: Home, arguments: Sequence[str] = (), timeout_s: float = limits.START_TIMEOUT_S
) -> Served:
    """Start `kwaainet storage serve ARGUMENTS` apart from this terminal, and wait until it listens.
    Raises NodeRunning where one is there, ResourceError where it does not begin to.
    """
    served = find_served(home)
    if served is not None:
        raise NodeRunning(f"storage is served on {served.url} (process {served.process.pid})")
    log = served_log(home)
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        process = subprocess.Popen(
            [*program(), "storage", "serve", *arguments],
            cwd=home.path,
            env={**os.environ, HOME_VARIABLE: str(home.path)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    finally:
        os.close(output)
    deadline = time.monotonic() + timeout_s
    while (served := find_served(home)) is None:
        if process.poll() is not None:
            end = "".join(f": {line}" for line in last_lines(log, 1))
            raise ResourceError(f"the storage server ended while it started{end}")
        if time.monotonic() >= deadline:
            process.terminate()
            raise ResourceError(f"the storage server does not listen after {timeout_s:g} s")
        time.sleep(limits.LOCK_POLL_S)
    return served


def stop_served(served: Served) -> None:
    """End a storage server, the hard way where it does not end by itself, and wait for it."""
    send_signal(served.process, signal.SIGTERM)
    if not wait_ended(served.process, limits.STOP_TIMEOUT_S):
        send_signal(served.process, signal.SIGKILL)
        wait_ended(served.process, limits.STOP_TIMEOUT_S)


def _lock_file(home: Home) -> Path:
    return home.run / "storage.lock"


def _served_file(home: Home) -> Path:
    return home.run / "storage.json"
