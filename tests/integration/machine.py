"""A home with a real node in it, for tests of several."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from kwaai.node.daemon import find_running
from kwaai.store.home import Home
from kwaai.testing.processes import TIMEOUT_S, kwaainet

LOCAL = ("--port", "0", "--api-port", "0", "--listen-host", "127.0.0.1", "--no-mdns")


@dataclass
class Machine:
    """A home with a node in it."""

    name: str
    path: Path
    did: str = ""
    peer: str = ""
    api: str = ""
    """Where its API listens: `http://127.0.0.1:40000/v1`."""

    def run(self, *arguments: str, code: int | None = 0, **environment: str) -> str:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("KWAAINET_HOME", str(self.path))
            for name, value in environment.items():
                patch.setenv(name, value)
            done = kwaainet(*arguments, code=code)
            return done.stderr if code else done.stdout

    def ask(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments, "--json"))

    def start(self, *arguments: str, **environment: str) -> dict[str, Any]:
        self.run("setup", "--help")  # the home is made by what follows
        told = self.run(
            "start", "--daemon", "--name", self.name, *LOCAL, *arguments, "--json", **environment
        )
        report: dict[str, Any] = json.loads(told)
        self.peer, self.api = report["peer"], str(report["api"])
        self.did = self.ask("identity", "show")["did"]
        return report

    def kill(self) -> None:
        running = find_running(Home(self.path))
        if running is not None:
            processes = [psutil.Process(running.pid)]
            processes += processes[0].children(recursive=True)
            os.kill(running.pid, signal.SIGKILL)
            psutil.wait_procs(processes, timeout=TIMEOUT_S)
