"""`kwaainet` as a process in tests, and what its processes leave behind.

Runs the program in whatever home the environment names. Not part of the product.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import psutil

TIMEOUT_S = 60
_ROOT = Path(__file__).parents[2]
_POLL_S = 0.05
Value = TypeVar("Value")


def program(*arguments: str) -> list[str]:
    """Return the command line of `kwaainet ARGUMENTS`, with this source."""
    return [sys.executable, "-m", "kwaai.cli", *arguments]


def environment() -> dict[str, str]:
    """Return this process's, with this source and workers that share the cores."""
    return os.environ | {"PYTHONPATH": str(_ROOT), "TERM": "dumb", "OMP_NUM_THREADS": "1"}


def kwaainet(*arguments: str, code: int | None = 0) -> subprocess.CompletedProcess[str]:
    """Run one command line. `code`: what it must end with (None: anything)."""
    done = subprocess.run(
        program(*arguments),
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=2 * TIMEOUT_S,
        stdin=subprocess.DEVNULL,
    )
    if code is not None:
        assert done.returncode == code, f"{done.returncode}: {done.stdout}{done.stderr}"
    return done


def until(holds: Callable[[], Value], what: str, timeout_s: float = TIMEOUT_S) -> Value:
    """Ask again and again until something holds, and return it."""
    deadline = time.monotonic() + timeout_s
    while not (value := holds()):
        assert time.monotonic() < deadline, f"in vain: {what}"
        threading.Event().wait(_POLL_S)
    return value


def is_gone(pid: int) -> bool:
    """Whether no such process runs; one that nobody has reaped does not."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    return True
