"""The evidence log and real trouble: `kill -9` while it is written, a disk that is full, another
process that holds the wallet. What was reported is there, once; the rest is whole or absent.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from credentials.keys import SecretKey, peer_id
from kwaai.store.evidence import EvidenceLog
from kwaai.store.home import Home
from kwaai.store.wallet import open_wallet
from kwaai.trust.evidence import principal_of_peer

SECRET = SecretKey(b"S" * 32)

COMMON = """
import asyncio, itertools, os, resource, sys
from pathlib import Path
from credentials.keys import SecretKey, peer_id
from kwaai.node.observe import Observer
from kwaai.store import database, evidence_rows
from kwaai.store.evidence import EvidenceLog
from kwaai.store.home import Home
from kwaai.store.wallet import open_wallet
from kwaai.trust.evidence import Observation, Outcome, principal_of_peer

home, name = Home(Path(sys.argv[1])), sys.argv[2]
PEERS = [str(peer_id(SecretKey(bytes([n]) * 32).public)) for n in range(16)]

def say(*words):
    os.write(1, (" ".join(words) + chr(10)).encode())
"""
# Each batch is reported when it was written. The two that run at a time have peers of their own,
# with room for 20 observations each.
BATCHES = """
evidence_rows.EVIDENCE_PER_PEER_MAX = 20
peers = PEERS[:8] if name[0] == "a" else PEERS[8:]
with open_wallet(home, SecretKey(b"S" * 32)) as wallet:
    log = EvidenceLog(wallet.database)
    say("ready")
    for n in itertools.count():
        batch = [
            Observation(principal_of_peer(peers[k]), float(n), Outcome.SERVED, tokens=k,
                        code=name)
            for k in range(1 + n % 6)
        ]
        log.append(batch)
        log.put_presented(batch[0].peer, f"{name} {n}".encode(), float(n))
        say("written", name, str(n), str(len(batch)))
        if n % 16 == 5:
            log.append([Observation(principal_of_peer(peers[6]), float(n), Outcome.FAILED)])
            log.reset(principal_of_peer(peers[6]))
"""
# What a node does: noted in the loop, written beside it.
NODE = """
async def main():
    with open_wallet(home, SecretKey(b"S" * 32)) as wallet:
        observer = Observer(
            EvidenceLog(wallet.database), flush_s=0.002,
            on_written=lambda kept: say("written", str(kept[-1].tokens)),
        )
        task = asyncio.create_task(observer.run(lambda: say("ready")))
        for n in itertools.count():
            observer.note(PEERS[n % 8], Outcome.SERVED, tokens=n)
            await asyncio.sleep(0.0005)
asyncio.run(main())
"""
TROUBLE = """
class Tried(EvidenceLog):
    tries = 0

    def append(self, observations):
        self.tries += 1
        return super().append(observations)

async def main():
    database.WALLET_BUSY_S = 0.05
    with open_wallet(home, SecretKey(b"S" * 32)) as wallet:
        log = Tried(wallet.database)
        observer = Observer(log, flush_s=0.0, look_s=0.01)
        task = asyncio.create_task(observer.run(lambda: say("ready")))
        await asyncio.sleep(0)
        if name == "full":
            size = (home.credentials / "wallet.db-wal").stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        else:
            say("lock")
            sys.stdin.readline()
        for n in range(500):
            observer.note(PEERS[n % 8], Outcome.SERVED, tokens=n)
        while log.tries < 2:
            await asyncio.sleep(0.01)
        say("waiting", str(observer.waiting), str(observer.dropped))
        if name == "full":
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        else:
            say("unlock")
            sys.stdin.readline()
        async with asyncio.timeout(60):
            while observer.waiting:
                await asyncio.sleep(0.01)
        say("after", str(observer.waiting), str(len(log.load())))
        task.cancel()
        await asyncio.wait([task])
asyncio.run(main())
"""


def start(script: str, home: Home, name: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-c", COMMON + script, str(home.path), name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,  # `readline` must not take what `communicate` is to return
        env=environment,
    )


def line(child: subprocess.Popen[bytes]) -> list[str]:
    assert child.stdout is not None
    text = child.stdout.readline()
    if not text:
        raise AssertionError(child.communicate()[1].decode())
    return text.decode().split()


def run_and_kill(
    script: str, home: Home, names: list[str], lines: int, then_s: float
) -> list[list[str]]:
    """Run, kill all a moment after the first has said so many lines; return the words of all."""
    children = [start(script, home, name) for name in names]
    for child in children:
        assert line(child) == ["ready"]
    said = [line(children[0]) for _ in range(lines)]
    time.sleep(then_s)
    for child in children:
        child.kill()
    for child in children:
        output, errors = child.communicate(timeout=60)
        assert child.returncode == -9, errors.decode()
        said += [row.split() for row in output.decode().splitlines()]
    return said


def test_kill_9_leaves_whole_batches(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    draw = random.Random(seed)
    home = Home(tmp_path)
    sizes: dict[tuple[str, int], int] = {}
    for round_ in range(4):
        names = [f"a{round_}", f"b{round_}"]
        lines = round_ * 8 + draw.randrange(4)
        for _, name, number, size in run_and_kill(
            BATCHES, home, names, lines, draw.uniform(0, 0.02)
        ):
            sizes[name, int(number)] = int(size)
        with open_wallet(home, SECRET) as wallet:
            wallet.check()
            log = EvidenceLog(wallet.database)
            kept = log.load()
            assert log.mark().kept == len(kept) == sum(row.kept for row in log.peers())
            assert max(row.kept for row in log.peers()) <= 20
            # A batch is there from its first to its last observation, but for what made room.
            for name in names:
                mine = {key[1]: size for key, size in sizes.items() if key[0] == name}
                newest = max(mine, default=-1)
                seen: dict[int, list[int]] = {}
                for one in kept:
                    if one.code == name:
                        seen.setdefault(int(one.at_s), []).append(one.tokens)
                assert newest <= max(seen, default=-1) <= newest + 1, f"seed {seed}"
                for at in range(max(0, newest - 5), newest + 1):
                    assert seen[at] == list(range(mine[at])), f"seed {seed}"
    assert len(sizes) > 30


def test_a_node_that_is_killed_has_written_a_whole_beginning(tmp_path: Path) -> None:
    """Nothing of what it reported is missing, and nothing before that; nothing is there twice."""
    home = Home(tmp_path)
    for round_ in range(3):
        told = run_and_kill(NODE, home, ["n"], 5 + 5 * round_, 0.01)
        last = max(int(words[1]) for words in told if words[0] == "written")
        with open_wallet(home, SECRET) as wallet:
            log = EvidenceLog(wallet.database)
            found = [one.tokens for one in log.load()]
            assert found == list(range(len(found)))
            assert last < len(found)
            for number in range(8):
                key = SecretKey(bytes([number]) * 32)
                log.reset(principal_of_peer(str(peer_id(key.public))))
            assert log.load() == ()


@pytest.mark.parametrize("trouble", ["full", "locked"])
def test_nothing_is_lost_while_it_cannot_be_written(trouble: str, tmp_path: Path) -> None:
    home = Home(tmp_path)
    child = start(TROUBLE, home, trouble)
    assert child.stdin is not None
    assert line(child) == ["ready"]
    if trouble == "locked":
        assert line(child) == ["lock"]
        with open_wallet(home, SECRET) as wallet, wallet.batch():
            child.stdin.write(b"\n")
            assert line(child) == ["waiting", "500", "0"]
            assert line(child) == ["unlock"]
        child.stdin.write(b"\n")
    else:
        assert line(child) == ["waiting", "500", "0"]
    assert line(child) == ["after", "0", "500"]
    output, errors = child.communicate(timeout=60)
    assert (child.returncode, output) == (0, b""), errors.decode()
    with open_wallet(home, SECRET) as wallet:
        wallet.check()
