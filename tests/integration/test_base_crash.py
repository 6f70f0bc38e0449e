"""kill -9 at any moment of ingest, publication and compaction: what was acknowledged is there, what
was not is whole or absent, and nothing is left over at the host.

The host's store is in the killed process too: its file is hit as often as the base's.
"""

from __future__ import annotations

import multiprocessing
import os
import random
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from kwaai.testing import base_crash

_DEADLINE_S = 60.0


class Device:
    """What a device that is killed again and again has said so far."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.directory = directory
        self.chance = random.Random(seed)
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["kwaai.testing.base_crash", "faiss"])
        self.acknowledged: dict[str, int] = {}
        self.uncertain: dict[str, set[int | None]] = {}
        """By name: the editions, or none (None), that an interrupted change may have left."""
        self.kills: dict[str, int] = {}

    def run(self, target: object, *args: object) -> object:
        """Run a function of base_crash to its end; return what it says."""
        mine, theirs = self.context.Pipe()
        process = self.context.Process(target=target, args=(str(self.directory), *args))  # type: ignore[arg-type]
        if target is base_crash.look:
            process = self.context.Process(
                target=base_crash.look, args=(str(self.directory), theirs, *args)
            )
        process.start()
        theirs.close()
        said = mine.recv() if target is base_crash.look and mine.poll(_DEADLINE_S) else None
        process.join(_DEADLINE_S)
        assert process.exitcode == 0
        return said

    def kill_once(self) -> None:
        """Let it work, and kill it after a random number of changes, a random time into one."""
        mine, theirs = self.context.Pipe()
        process = self.context.Process(
            target=base_crash.work,
            args=(str(self.directory), theirs, self.chance.randrange(1 << 30)),
        )
        process.start()
        theirs.close()
        changes = self.chance.randrange(12)
        under_way = self._follow(mine, changes)
        process.join(self.chance.random() ** 3 * 0.05)
        process.kill()
        process.join(_DEADLINE_S)
        under_way = self._drain(mine, under_way)
        self.kills[under_way[0]] = self.kills.get(under_way[0], 0) + 1
        what, name, edition = under_way
        if what in ("add", "remove"):
            before = self.uncertain.pop(name, {self.acknowledged.pop(name, None)})
            after = edition if what == "add" else None
            self.uncertain[name] = before | {after}

    def _follow(self, mine: Connection, changes: int) -> tuple[str, str, int]:
        under_way = ("open", "", 0)
        while changes >= 0 and mine.poll(_DEADLINE_S):
            under_way, finished = self._take(mine.recv(), under_way)
            changes -= finished
        return under_way

    def _drain(self, mine: Connection, under_way: tuple[str, str, int]) -> tuple[str, str, int]:
        try:
            while mine.poll(0):
                under_way, _ = self._take(mine.recv(), under_way)
        except EOFError:
            pass
        return under_way

    def _take(
        self, said: tuple[str, str, int], under_way: tuple[str, str, int]
    ) -> tuple[tuple[str, str, int], int]:
        if said[0] != "done":
            return said, 0
        what, name, edition = under_way
        if what in ("add", "remove"):
            self.uncertain.pop(name, None)
            self.acknowledged.pop(name, None)
        if what == "add":
            self.acknowledged[name] = edition
        return ("between", "", 0), 1

    def check(self, number: int) -> None:
        """Look at what is there."""
        found, problem = self.run(base_crash.look, str(self.directory / f"restored{number}"))  # type: ignore[misc]
        assert not problem
        assert {n: e for n, e in found.items() if n not in self.uncertain} == self.acknowledged
        for name, editions in self.uncertain.items():
            assert found.get(name) in editions
        for name in self.uncertain:
            if name in found:
                self.acknowledged[name] = found[name]
        self.uncertain.clear()


def kill_often(directory: Path, rounds: int, seed: int, look_every: int = 25) -> dict[str, int]:
    device = Device(directory, seed)
    device.run(base_crash.make)
    for number in range(1, rounds + 1):
        device.kill_once()
        if number % look_every == 0 or number == rounds:
            device.check(number)
    return device.kills


def test_killed_device_loses_nothing(tmp_path: Path) -> None:
    kills = kill_often(tmp_path, rounds=24, seed=1, look_every=6)
    assert sum(kills.values()) == 24


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(
    "KWAAINET_LONG_TESTS" not in os.environ,
    reason="takes four minutes or more; run it with KWAAINET_LONG_TESTS=1",
)
def test_killed_device_loses_nothing_a_thousand_times(tmp_path: Path) -> None:
    kills = kill_often(tmp_path, rounds=1000, seed=2)
    print(kills)
    assert sum(kills.values()) == 1000
