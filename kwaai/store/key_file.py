"""Secret keys on disk, plain or sealed: read with care, created once, never overwritten in passing.

A plain file is the 68 bytes of a libp2p protobuf `PrivateKey` (Ed25519), a sealed one the same
bytes under a passphrase (`credentials.sealed`); both have mode 0600. Does not ask anybody for a
passphrase, and says nothing of DIDs or signatures. The node's key is `identity_file`'s, the owner's
`owner_file`'s.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from credentials.errors import KeyInvalid, SealInvalid
from credentials.keys import SEED_BYTES, SecretKey, encode_key_file, parse_key_file
from credentials.sealed import NONCE_BYTES, SALT_BYTES, Cost, is_sealed, open_sealed, seal
from kwaai.atomic import disk_errors, exclusive_lock, write_atomic
from kwaai.errors import (
    ConfigError,
    FileCorrupt,
    IdentitySealed,
    PassphraseWrong,
    UserError,
)
from kwaai.limits import KEY_FILE_BYTES_MAX, PASSPHRASE_BYTES_MAX, PASSPHRASE_BYTES_MIN

KEY_MODE = 0o600
Unlock = Callable[[], bytes]
"""Gives the passphrase of a sealed file. It is called only where the file is sealed."""


@dataclass(frozen=True, slots=True)
class KeyKind:
    """What tells one kind of key file from another."""

    what: str
    """As messages name it: "identity key"."""
    purpose: str
    """Bound into the seal: a sealed key of one kind does not open as another."""
    variable: str
    """The environment variable with the passphrase; `<variable>_FILE` names a file with it."""
    missing: type[UserError]
    remedy: str
    """What to do where there is none."""
    backup_hint: str = (
        "kwaainet never overwrites a key: restore it from a backup, or move it away yourself"
    )


def load_key(kind: KeyKind, path: Path, unlock: Unlock | None = None) -> SecretKey:
    """Read a key file. `unlock` None: the passphrase comes from the environment.

    Raises `kind.missing`, ConfigError (who may read it), FileCorrupt; of a sealed file
    IdentitySealed where there is no passphrase, PassphraseWrong.
    """
    data = read_key_bytes(kind, path)
    if is_sealed(data):
        passphrase = (unlock or environment_unlock(kind, path))()
        return open_key(kind, data, passphrase, str(path))
    try:
        return parse_key_file(data)
    except KeyInvalid as error:
        raise FileCorrupt(f"{path} is no {kind.what}: {error}; {kind.backup_hint}") from error


def is_key_sealed(kind: KeyKind, path: Path) -> bool:
    """Say whether a key file is sealed. Raises as `load_key` does for a file that is not there."""
    return is_sealed(read_key_bytes(kind, path))


def read_key_bytes(kind: KeyKind, path: Path) -> bytes:
    """Read the bytes of a key file, looking at who else may. Raises as `load_key`."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise kind.missing(f"there is no {kind.what} at {path}; {kind.remedy}") from error
    except OSError as error:
        raise ConfigError(f"cannot read the {kind.what} {path}: {_reason(error)}") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise FileCorrupt(f"the {kind.what} {path} is not a regular file; {kind.backup_hint}")
        mode = stat.S_IMODE(status.st_mode)
        if mode & 0o077:
            raise ConfigError(
                f"the {kind.what} {path} is open to other users (mode {mode:04o}); "
                f"run: chmod 600 {path}"
            )
        return os.read(descriptor, KEY_FILE_BYTES_MAX)  # enough to say what else it may be
    finally:
        os.close(descriptor)


def open_key(kind: KeyKind, data: bytes, passphrase: bytes, where: str) -> SecretKey:
    """Open the bytes of a sealed key. Raises PassphraseWrong, FileCorrupt."""
    try:
        return parse_key_file(open_sealed(data, passphrase, purpose=kind.purpose))
    except SealInvalid as error:
        raise PassphraseWrong(
            f"this passphrase does not open the {kind.what} {where}; try another one"
            " (or the file was damaged: then restore it from a backup)"
        ) from error
    except KeyInvalid as error:
        raise FileCorrupt(f"{where} holds no {kind.what}: {error}; {kind.backup_hint}") from error


def ensure_key(kind: KeyKind, path: Path, unlock: Unlock | None = None) -> tuple[SecretKey, bool]:
    """Load the key, or create one where there is none. Returns the key and whether it is new.

    Two calls at once, in any processes, end with the same one key: a new key is put in place by an
    operation that fails where a file already is. Raises as `load_key`, and DiskFull.
    """
    with contextlib.suppress(kind.missing):
        return load_key(kind, path, unlock), False
    if path.is_symlink():
        raise ConfigError(f"the {kind.what} {path} is a link to nothing; {kind.backup_hint}")
    secret = new_key()
    with disk_errors(path):
        created = create_exclusive(path, encode_key_file(secret), KEY_MODE)
    return (secret, True) if created else (load_key(kind, path, unlock), False)


def new_key() -> SecretKey:
    """Draw a new key."""
    return SecretKey(secrets.token_bytes(SEED_BYTES))


def encode_key(
    kind: KeyKind, secret: SecretKey, passphrase: bytes | None, *, cost: Cost = "moderate"
) -> bytes:
    """Return the bytes of a key file, sealed where there is a passphrase. Raises UserError."""
    if passphrase is None:
        return encode_key_file(secret)
    check_passphrase(passphrase)
    return seal(
        encode_key_file(secret),
        passphrase,
        salt=secrets.token_bytes(SALT_BYTES),
        nonce=secrets.token_bytes(NONCE_BYTES),
        purpose=kind.purpose,
        cost=cost,
    )


def seal_key(
    kind: KeyKind,
    path: Path,
    passphrase: bytes,
    *,
    unlock: Unlock | None = None,
    cost: Cost = "moderate",
) -> None:
    """Seal a key file, or give a sealed one another passphrase. It is replaced whole or not at all.
    Former keys beside it go the same way, unless they are under another passphrase than it is.

    The plain bytes may remain in free blocks of the disk: no file system promises otherwise.
    `unlock` is for one that is sealed already. Raises as `load_key`, UserError, DiskFull.
    """
    check_passphrase(passphrase)
    with key_lock(path):
        _rewrite(kind, path, passphrase, unlock, cost)


def unseal_key(kind: KeyKind, path: Path, unlock: Unlock | None = None) -> None:
    """Store the key without a passphrase, and former keys that it opens. Raises as `load_key`,
    DiskFull.
    """
    with key_lock(path):
        _rewrite(kind, path, None, unlock, "moderate")


def _rewrite(
    kind: KeyKind, path: Path, passphrase: bytes | None, unlock: Unlock | None, cost: Cost
) -> None:
    """Write a key and its former ones anew. It comes last: until then its passphrase is the old
    one, with which all of this can be done again.
    """
    encoded = encode_key(kind, load_key(kind, path, unlock), passphrase, cost=cost)
    for kept in former_keys(path):
        with contextlib.suppress(IdentitySealed, PassphraseWrong):
            former = load_key(kind, kept, unlock)
            write_atomic(kept, encode_key(kind, former, passphrase, cost=cost), KEY_MODE)
    write_atomic(real_path(path), encoded, KEY_MODE)


def check_passphrase(passphrase: bytes) -> None:
    """Refuse a new passphrase that is too short, or longer than anybody types. Raises UserError."""
    if not PASSPHRASE_BYTES_MIN <= len(passphrase) <= PASSPHRASE_BYTES_MAX:
        raise UserError(
            f"a passphrase has {PASSPHRASE_BYTES_MIN} to {PASSPHRASE_BYTES_MAX} bytes, "
            f"this one {len(passphrase)}; take several words"
        )


def environment_unlock(kind: KeyKind, path: Path) -> Unlock:
    """Return what takes the passphrase from the environment. It raises IdentitySealed where there
    is none, ConfigError where the file that is named cannot be read.
    """

    def unlock() -> bytes:
        given = os.environ.get(kind.variable)
        if given:
            return os.fsencode(given)
        named = os.environ.get(f"{kind.variable}_FILE")
        if named:
            return read_passphrase(Path(named))
        raise IdentitySealed(
            f"the {kind.what} {path} is sealed, and no passphrase was given; set"
            f" {kind.variable}, or {kind.variable}_FILE to a file that holds it"
        )

    return unlock


def read_passphrase(path: Path) -> bytes:
    """Read a passphrase from a file, less the end of its line. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            data = file.read(PASSPHRASE_BYTES_MAX + 3)
    except OSError as error:
        raise ConfigError(f"cannot read the passphrase file {path}: {_reason(error)}") from error
    passphrase = data.removesuffix(b"\n").removesuffix(b"\r")
    if not 0 < len(passphrase) <= PASSPHRASE_BYTES_MAX:
        raise ConfigError(
            f"the passphrase file {path} does not hold 1 to {PASSPHRASE_BYTES_MAX} bytes"
        )
    return passphrase


def former_keys(path: Path) -> list[Path]:
    """Return the key files that were replaced and kept, oldest first."""
    dated = re.compile(re.escape(path.name) + r"\.\d{8}T\d{6}Z(-\d{1,2})?")
    return sorted(kept for kept in path.parent.iterdir() if dated.fullmatch(kept.name))


def keep_former(kind: KeyKind, path: Path, now_s: float) -> Path:
    """Copy a key file to a dated name beside it, once, and return that path.

    Called again for the same bytes, after a crash, it makes no second copy.
    """
    return put_former(kind, path, read_key_bytes(kind, path), now_s)


def put_former(kind: KeyKind, path: Path, data: bytes, now_s: float) -> Path:
    """Write the bytes of a key that was in the file `path` before to a dated name beside it."""
    for kept in former_keys(path):
        if read_key_bytes(kind, kept) == data:
            return kept
    date = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now_s))
    for n in range(1, 100):
        dated = path.with_name(f"{path.name}.{date}" + (f"-{n}" if n > 1 else ""))
        with disk_errors(dated):
            if create_exclusive(dated, data, KEY_MODE):
                return dated
    raise ConfigError(f"{path} has been kept a hundred times at {date}; move some copies away")


def create_exclusive(path: Path, data: bytes, mode: int) -> bool:
    """Write a complete new file, or return False and change nothing where the path already is.

    Nobody ever sees a part of it: the bytes are written beside it and linked to the name.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with open(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.link(partial, path, follow_symlinks=False)
    except FileExistsError:
        return False
    finally:
        partial.unlink()
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return True


@contextlib.contextmanager
def key_lock(path: Path) -> Iterator[None]:
    """Hold off every other change of a key file. Reading needs no lock: a change is one rename.

    What a crash has left of a change, secrets too, goes first.
    """
    with disk_errors(path), exclusive_lock(path.with_name(f".{path.name}.lock")):
        real = real_path(path)
        for half in real.parent.glob(f".{real.name}.*.part"):
            half.unlink(missing_ok=True)
        if path.exists():  # else somebody may be making it just now
            for half in path.parent.glob(f".{path.name}.*.partial"):
                half.unlink(missing_ok=True)
        yield


def real_path(path: Path) -> Path:
    """Follow links: a file is replaced where it really is, not only where it is linked from."""
    return Path(os.path.realpath(path))


def _reason(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else str(error)
