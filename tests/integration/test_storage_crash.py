"""`kill -9` of a host at any moment: what was acknowledged is there, nothing is half there, and the
counters are right.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from credentials.keys import SecretKey
from kwaai.vpk.host_store import HostStore

SMALL_DISK = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c")
MOUNT = 'mount -t tmpfs -o size=4m tmpfs "$1"'
# Fills the disk with the host's objects, opens what is there, and goes on when there is room.
FULL = """
import sys
from pathlib import Path
from kwaai.errors import ResourceError, StorageFull
from kwaai.vpk.host_store import HostStore

tenant, base, other = b"t" * 32, b"b" * 16, b"c" * 16
filler = Path(sys.argv[1]) / "filler"
filler.write_bytes(bytes(1_500_000))
store = HostStore.open(Path(sys.argv[1]) / "objects.db", 10**9, reserve_bytes=0)
store.create_tenant(tenant, 10**8)
done = 0
try:
    for n in range(100):
        ids = [(n * 100 + m).to_bytes(16, "big") for m in range(100)]
        store.put(tenant, other if n % 2 else base, [(i, bytes(800)) for i in ids])
        done += 1
except ResourceError as error:
    print(type(error).__name__)
assert store.usage(tenant).objects == 100 * done
assert store.check().objects == 100 * done
assert store.get(tenant, base, [bytes(16)]) == [bytes(800)]
store.close()
store = HostStore.open(Path(sys.argv[1]) / "objects.db", 10**9, reserve_bytes=0)
assert store.get(tenant, base, [bytes(16)]) == [bytes(800)]
filler.unlink()
store.drop_base(tenant, other)
while store.tidy():
    pass
store.put(tenant, other, [(bytes(16), bytes(800))])
assert store.check().objects == 50 * (done + done % 2) + 1
print(done)
"""

ROOT = Path(__file__).parents[2]
TENANT = SecretKey(b"T" * 32)
BASE = b"b" * 16
CAPACITY = 10**9

# Puts batches, replaces, deletes, drops and makes anew, publishes; says what it begins and what is
# done. The state that it has is the state that it said.
HOST = """
import json, os, random, sys
from pathlib import Path
from kwaai.vpk import host_store
from kwaai.vpk.host_store import HostStore

host_store._check_manifest = lambda tenant, base, sequence, data: None
path, tenant, seed = Path(sys.argv[1]), bytes.fromhex(sys.argv[2]), int(sys.argv[3])
chance = random.Random(seed)
base, other = b"b" * 16, b"o" * 16

def say(*words):
    os.write(1, (json.dumps(words) + chr(10)).encode())

store = HostStore.open(path, 10**9, reserve_bytes=0)
store.create_tenant(tenant, 10**8)
sequence = 0
found = store.get_manifest(tenant, base)
if found is not None:
    sequence = int(found.split()[0])
say("ready")
for step in range(100_000):
    numbers = chance.sample(range(2000), chance.randint(1, 400))
    kind = chance.choice(("put", "put", "put", "delete", "manifest", "drop"))
    value = step + seed * 1_000_000
    if kind == "put":
        say("put?", value, numbers)
        store.put(tenant, base, [
            (n.to_bytes(16, "big"), b"%d:%d" % (n, value) + bytes(428)) for n in numbers])
        say("put", value, numbers)
    elif kind == "delete":
        say("delete?", value, numbers)
        store.delete(tenant, base, [n.to_bytes(16, "big") for n in numbers])
        say("delete", value, numbers)
    elif kind == "manifest":
        sequence += 1
        say("manifest?", sequence, [])
        store.put_manifest(tenant, base, sequence, b"%d text" % sequence)
        say("manifest", sequence, [])
    else:
        store.put(tenant, other, [(n.to_bytes(16, "big"), bytes(1000)) for n in numbers])
        store.drop_base(tenant, other)
        for _ in range(chance.randint(0, 3)):
            store.tidy()
"""


class Expected:
    """What a host must have, by what it said before it died."""

    def __init__(self) -> None:
        self.values: dict[int, int] = {}
        self.sequence = 0
        self.open: tuple[str, int, list[int]] | None = None

    def read(self, output: bytes) -> int:
        """Take in what was said. Returns how many changes were acknowledged."""
        done = 0
        for line in output.split(b"\n")[:-1]:
            kind, *rest = json.loads(line)
            if kind.endswith("?"):
                self.open = (kind[:-1], rest[0], rest[1])
            elif kind != "ready":
                self._apply(kind, rest[0], rest[1])
                self.open = None
                done += 1
        return done

    def _apply(self, kind: str, value: int, numbers: list[int]) -> None:
        if kind == "manifest":
            self.sequence = value
        for number in numbers:
            if kind == "put":
                self.values[number] = value
            else:
                self.values.pop(number, None)

    def check(self, store: HostStore) -> None:
        """Compare with a store. A change that was begun and not acknowledged may be there: whole.
        Whichever it is, is expected from then on.
        """
        store.check()
        ids = [number.to_bytes(16, "big") for number in range(2000)]
        held = store.get(TENANT.public.raw, BASE, ids)
        found = {
            number: int(data.rstrip(b"\0").split(b":")[1])
            for number, data in enumerate(held)
            if data is not None
        }
        manifest = store.get_manifest(TENANT.public.raw, BASE)
        sequence = 0 if manifest is None else int(manifest.split()[0])
        if (found, sequence) != (self.values, self.sequence) and self.open is not None:
            self._apply(*self.open)
        self.open = None
        assert found == self.values
        assert sequence == self.sequence
        listed = store.list_ids(TENANT.public.raw, BASE, b"", 2000)
        assert listed == [ids[number] for number in sorted(found)]


def run_rounds(path: Path, rounds: int, seed: int) -> tuple[int, int]:
    """Kill a host that many times. Returns how many changes were acknowledged, and how many left a
    log behind.
    """
    chance = random.Random(seed)
    expected, acknowledged, logs = Expected(), 0, 0
    for number in range(rounds):
        process = subprocess.Popen(
            [sys.executable, "-c", HOST, str(path), TENANT.public.raw.hex(), str(number)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        ready = process.stdout.readline()
        time.sleep(chance.uniform(0.0, 0.12))  # the moment of the kill
        process.kill()
        output = ready + process.stdout.read()
        process.wait(30)
        acknowledged += expected.read(output)
        logs += path.with_name(path.name + "-wal").exists()
        store = HostStore.open(path, CAPACITY, reserve_bytes=0)
        try:
            expected.check(store)
        except AssertionError:
            print(f"round {number} of seed {seed}")
            raise
        finally:
            store.close()
    return acknowledged, logs


def test_a_killed_host_has_what_it_acknowledged(tmp_path: Path) -> None:
    acknowledged, logs = run_rounds(tmp_path / "objects.db", 8, seed=1)
    assert acknowledged > 0
    assert logs > 0


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    try:
        mounted = subprocess.run([*SMALL_DISK, MOUNT, "sh", str(tmp_path)], capture_output=True)
    except FileNotFoundError:
        pytest.skip("no unshare on this system")
    if mounted.returncode != 0:
        pytest.skip("this user may not mount a small file system")
    script = f'{MOUNT} && exec "{sys.executable}" -c "$0" "$1"'
    done = subprocess.run(
        [*SMALL_DISK, script, FULL, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    error, count = done.stdout.split()
    assert error == "StorageFull"
    assert int(count) > 5


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_host_that_is_killed_again_and_again(tmp_path: Path) -> None:
    acknowledged, _ = run_rounds(tmp_path / "objects.db", 200, seed=2)
    assert acknowledged > 0
