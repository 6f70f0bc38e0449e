"""`kill -9` at any moment: what was reported is there, the rest is whole or absent. Real processes,
two at a time on one wallet; and a disk that is full.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from credentials.keys import SecretKey, encode_key_file
from kwaai.store.backup import read_backup
from kwaai.store.home import Home
from kwaai.store.identity_file import former_identities, load_identity
from kwaai.store.issued import IssuedRegister
from kwaai.store.key_file import create_exclusive
from kwaai.store.wallet import open_wallet

SECRET = SecretKey(b"S" * 32)
PASSPHRASE = b"correct horse battery"

COMMON = """
import os, sys, itertools
from pathlib import Path
from credentials.keys import SecretKey
from credentials.wallet import WalletEntry, wallet_id
from kwaai.atomic import write_atomic
from kwaai.errors import DiskFull, ResourceError
from kwaai.store.backup import export_wallet
from kwaai.store.home import Home
from kwaai.store.identity_file import load_identity
from kwaai.store.issued import IssuedRegister
from kwaai.store.rotation import rotate_identity
from kwaai.store.wallet import open_wallet

home, name = Home(Path(sys.argv[1])), sys.argv[2]

def say(*words):
    os.write(1, (" ".join(words) + chr(10)).encode())

def entry(n):
    return WalletEntry(("VerifiableCredential", f"T{n % 3}VC"), f"did:i{n % 7}", (f"did:s{n}",),
                       1.0, None, None, 1.0)
"""
# Each change is announced, made, and reported.
CHANGES = """
say("ready")
with open_wallet(home, SecretKey(b"S" * 32)) as wallet:
    register = IssuedRegister(wallet.database)
    for n in itertools.count():
        text = f"{name}-{n}" + "x" * (n * 997 % 6000)
        known = wallet_id(text.encode())
        wallet.add(text.encode(), entry(n))
        say("added", known)
        if n % 3 == 0:
            say("removing", known)
            wallet.remove(known)
            say("removed", known)
        places = register.reserve("did:me", ["revocation", "suspension"], 1.0)
        register.record(text.encode(), credential_id=f"{name}-{n}", issuer="did:me", subject="s",
                        kind="k", issued_s=1.0, valid_until_s=None, places=places)
        say("issued", f"{name}-{n}")
        if n % 2:
            register.set_status(f"{name}-{n}", "revocation", True, 2.0)
            say("revoked", f"{name}-{n}")
        if n % 8 == 7:
            data = export_wallet(wallet, b"correct horse battery", now_s=1.0, cost="interactive")
            write_atomic(home.path / f"{name}-{n}.backup", data)
            say("exported", f"{name}-{n}.backup")
"""
ROTATIONS = """
say("ready")
while True:
    rotate_identity(home, home.identity_key)
    secret = load_identity(home.identity_key)
    open_wallet(home, secret).close()
    say("rotated", secret.public.raw.hex())
"""
FULL = """
done = 0
try:
    with open_wallet(home, SecretKey(b"S" * 32)) as wallet:
        for n in range(5000):
            wallet.add(f"{n}".encode() + b"x" * 5000, entry(n))
            done += 1
except (DiskFull, ResourceError) as error:
    say(type(error).__name__, error.message)
say(str(done))
"""


def start(script: str, home: Home, name: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-c", COMMON + script, str(home.path), name],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,  # `readline` must not take what `communicate` is to return
        env=environment,
    )


def run_and_kill(
    script: str, home: Home, names: list[str], lines: int, then_s: float
) -> list[list[str]]:
    """Run, kill all a moment after the first has said so many lines, and return the words of all.

    What a child has done when it ends depends on the machine's speed only within that moment.
    """
    children = [start(script, home, name) for name in names]
    said = []
    for child in children:
        assert child.stdout is not None
        if child.stdout.readline() != b"ready\n":
            raise AssertionError(child.communicate()[1].decode())
    first = children[0].stdout
    assert first is not None
    for _ in range(lines):
        said.append(first.readline().decode().split())
    time.sleep(then_s)
    for child in children:
        child.kill()
    for child in children:
        output, errors = child.communicate(timeout=30)
        assert child.returncode == -9, errors.decode()
        said += [line.split() for line in output.decode().splitlines()]
    return said


def test_kill_9_at_any_moment(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    draw = random.Random(seed)
    home = Home(tmp_path)
    present: set[str] = set()
    either: set[str] = set()
    issued: set[str] = set()
    revoked: set[str] = set()
    exported: set[str] = set()
    for round_ in range(16):
        names = [f"a{round_}", f"b{round_}"]
        lines = round_ * 4 + draw.randrange(4)
        for word, what in run_and_kill(CHANGES, home, names, lines, draw.uniform(0, 0.02)):
            match word:
                case "added":
                    present.add(what)
                case "removing":
                    present.discard(what)
                    either.add(what)
                case "removed":
                    either.discard(what)
                case "issued":
                    issued.add(what)
                case "revoked":
                    revoked.add(what)
                case "exported":
                    exported.add(what)
        with open_wallet(home, SECRET) as wallet:
            wallet.check()
            stored = list(wallet.iterate())
            found = {kept.id for kept in stored}
            assert present <= found, f"seed {seed}"
            # Beyond what was reported there is what each child was about to report.
            assert len(found - present - either) <= 2 * (round_ + 1)
            register = IssuedRegister(wallet.database)
            kept = list(register.iterate())
            assert issued <= {c.credential_id for c in kept}
            on = {c.credential_id for c in kept if c.statuses[0].on}
            assert revoked <= on
            assert all(len(c.statuses) == 2 for c in kept)
            assert len({c.statuses[0].place.index for c in kept}) == len(kept)
            if kept:
                bits = register.list_bits("did:me", "revocation-1")
                assert sum(byte.bit_count() for byte in bits) == len(on)
        for path in home.path.glob("*.backup"):
            exported.discard(path.name)
            assert read_backup(path.read_bytes(), PASSPHRASE).made_s == 1.0
        assert not exported
    assert len(issued) > 80
    assert revoked
    assert list(home.path.glob("*.backup"))


def test_kill_9_in_a_rotation(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    draw = random.Random(seed)
    home = Home(tmp_path)
    create_exclusive(home.identity_key, encode_key_file(SECRET), 0o600)
    with open_wallet(home, SECRET) as wallet:
        wallet.put_long_form("short", "long")
    known = {SECRET.public.raw.hex()}
    for round_ in range(12):
        for _, key in run_and_kill(ROTATIONS, home, ["r"], round_ % 3, draw.uniform(0, 0.03)):
            known.add(key)
        secret = load_identity(home.identity_key)
        with open_wallet(home, secret) as wallet:
            assert wallet.long_forms() == {"short": "long"}
        kept = {
            load_identity(path).public.raw.hex() for path in former_identities(home.identity_key)
        }
        assert known <= kept | {secret.public.raw.hex()}, f"seed {seed}"
    assert len(known) > 12


@pytest.mark.parametrize("limit", ["file system", "file size"])
def test_a_full_disk(limit: str, tmp_path: Path) -> None:
    """One clear error, and all that was reported is there when there is room again."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    python = [sys.executable, "-c"]
    if limit == "file size":
        limited = (
            "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (6_000_000, 6_000_000))\n"
        )
        command = [*python, limited + COMMON + FULL, str(tmp_path), "f"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        lines = done.stdout.splitlines()
    else:
        check = (
            COMMON + FULL + "\nsay('again', str(open_wallet(home, SecretKey(b'S' * 32)).count()))"
        )
        script = (
            'mount -t tmpfs -o size=9m tmpfs "$2" 2>/dev/null || exit 99; exec "$0" -c "$1" "$2" f'
        )
        small = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script]
        try:
            done = subprocess.run(
                [*small, sys.executable, check, str(tmp_path)],
                env=environment,
                capture_output=True,
                text=True,
            )
        except FileNotFoundError:
            pytest.skip("no unshare on this system")
        lines = done.stdout.splitlines()
        if done.returncode == 99 or "unshare" in done.stderr:
            pytest.skip("this user may not mount a small file system")
    assert done.returncode == 0, done.stderr
    assert lines[0].startswith(("DiskFull no room left", "ResourceError the disk or memory")), lines
    added = int(lines[1])
    assert 20 < added < 4000
    if limit == "file system":
        assert lines[2] == f"again {added}"
        return
    with open_wallet(Home(tmp_path), SECRET) as wallet:
        wallet.check()
        assert wallet.count() == added
