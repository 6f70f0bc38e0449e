"""Verification calls nobody: in a process where every socket is an error, and in a namespace that
has no network at all. What the context or status URLs would lead to, nothing is fetched.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TIMEOUT_S = 60.0

# Sockets, name look-ups, HTTP, subprocesses: each has an audit event (PEP 578).
PROGRAM = """
import sys
from credential_mutations import case
from credential_targets import judge, targets
FORBIDDEN = ("socket.", "urllib.", "http.", "subprocess.", "os.exec", "os.posix_spawn", "os.system")
calls = []
def watch(event, arguments):
    if event.startswith(FORBIDDEN):
        calls.append(event)
        raise RuntimeError(event)
sys.addaudithook(watch)

for target in targets():
    assert judge(target, target.data) == "same", target.name
for number in range(2_000):
    told = judge(*case(1, number))
    assert not told.startswith("FORGED"), told
assert not calls, calls

import socket
try:
    socket.create_connection(("127.0.0.1", 9), timeout=1)
except RuntimeError:
    print("nobody was called")
"""


def run(*before: str) -> subprocess.CompletedProcess[str]:
    here = Path(__file__).resolve()
    return subprocess.run(
        [*before, sys.executable, "-c", PROGRAM],
        cwd=here.parents[2],
        env={"PYTHONPATH": f"{here.parent}:{here.parents[2]}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
    )


def test_no_call_is_made() -> None:
    done = run()
    assert done.stdout == "nobody was called\n", done.stderr


def test_without_a_network() -> None:
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-rn", "true"], check=False).returncode:
        pytest.skip("no network namespaces here")
    done = run(unshare, "-rn")
    assert done.stdout == "nobody was called\n", done.stderr
