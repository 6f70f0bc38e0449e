"""The node's identity key on disk: created once, read with care, never overwritten.

Raw bytes of a libp2p protobuf `PrivateKey` (68 bytes, Ed25519), mode 0600. Does not know DIDs or
signatures (`credentials`). Reference digest, section 2.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from credentials.errors import KeyInvalid
from credentials.keys import SEED_BYTES, SecretKey, encode_key_file, parse_key_file
from kwaai.errors import ConfigError, DiskFull, FileCorrupt, IdentityMissing

KEY_MODE = 0o600
_BACKUP_HINT = "kwaainet never overwrites a key: restore it from a backup, or move it away yourself"


def load_identity(path: Path) -> SecretKey:
    """Read the key file. Raises IdentityMissing, ConfigError (who may read it), FileCorrupt."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise IdentityMissing(f"there is no identity key at {path}; run: kwaainet setup") from error
    except OSError as error:
        raise ConfigError(f"cannot read the identity key {path}: {_reason(error)}") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise FileCorrupt(f"the identity key {path} is not a regular file; {_BACKUP_HINT}")
        mode = stat.S_IMODE(status.st_mode)
        if mode & 0o077:
            raise ConfigError(
                f"the identity key {path} is open to other users (mode {mode:04o}); "
                f"run: chmod 600 {path}"
            )
        data = os.read(descriptor, 4096)  # enough to say what else it may be
    finally:
        os.close(descriptor)
    try:
        return parse_key_file(data)
    except KeyInvalid as error:
        raise FileCorrupt(f"{path} is no identity key: {error}; {_BACKUP_HINT}") from error


def ensure_identity(path: Path) -> tuple[SecretKey, bool]:
    """Load the key, or create one where there is none. Returns the key and whether it is new.

    Two calls at once, in any processes, end with the same one key: a new key is put in place by an
    operation that fails where a file already is. Raises as `load_identity`, and DiskFull.
    """
    with contextlib.suppress(IdentityMissing):
        return load_identity(path), False
    if path.is_symlink():
        raise ConfigError(f"the identity key {path} is a link to nothing; {_BACKUP_HINT}")
    secret = SecretKey(secrets.token_bytes(SEED_BYTES))
    with _disk_errors(path):
        created = create_exclusive(path, encode_key_file(secret), KEY_MODE)
    return (secret, True) if created else (load_identity(path), False)


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
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        message = f"cannot write {path}: {_reason(error)}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"{message}; free some space and try again") from error
        raise ConfigError(message) from error


def _reason(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else str(error)
