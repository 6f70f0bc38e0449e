"""Where a host keeps what it hosts, and what its owner allows: paths and rules out of the settings.

Makes the directory and the small files in it; opens no database. docs/storage.md.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

from kwaai import limits
from kwaai.atomic import disk_errors, write_atomic
from kwaai.config import Config
from kwaai.errors import ConfigError
from kwaai.sqlite import KEY_BYTES
from kwaai.store.home import DIRECTORY_MODE, Home
from kwaai.trust.tiers import Tier, parse_tier

_GB = 1e9
_MB = 1_000_000
_TOKEN_BYTES = 24


@dataclass(frozen=True, slots=True)
class StorageHome:
    """The paths of one host. Nothing here need exist yet."""

    path: Path

    @property
    def objects(self) -> Path:
        """Sealed objects of tenants (`kwaai.vpk.host_store`)."""
        return self.path / "objects.db"

    @property
    def vectors(self) -> Path:
        """Plain vectors of local programs (`kwaai.vpk.plain_store`), under `key`."""
        return self.path / "vectors.db"

    @property
    def key(self) -> Path:
        """The key of `vectors`: 64 hex digits."""
        return self.path / "vectors.key"

    @property
    def token(self) -> Path:
        """What local programs send as `Authorization: Bearer`."""
        return self.path / "token"

    @property
    def is_made(self) -> bool:
        """Whether `make_storage` was here."""
        return self.token.exists() and self.key.exists()


@dataclass(frozen=True, slots=True)
class StorageRules:
    """What the owner of a host lends, and to whom."""

    capacity_bytes: int
    quota_bytes: int
    """Of each tenant, at most."""
    tenant_tier: Tier
    """The least tier of peers that may make tenants."""


def storage_home(config: Config, home: Home) -> StorageHome:
    """Return where this node hosts."""
    return StorageHome(config.storage_dir or home.path / "storage")


def storage_rules(config: Config, home: StorageHome) -> StorageRules:
    """Return what the settings say; the capacity, where they do not: a tenth of the disk."""
    capacity_gb = config.storage_capacity_gb or default_capacity_gb(home.path)
    tier = parse_tier(config.storage_tenant_tier)
    return StorageRules(int(capacity_gb * _GB), config.storage_quota_mb * _MB, tier)


def default_capacity_gb(path: Path) -> float:
    """Return a tenth of what is free where `path` is or will be, in whole GB, 1 at least."""
    place = path
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        return max(1.0, float(int(shutil.disk_usage(place).free / 10 / _GB)))
    except OSError as error:
        raise ConfigError(f"cannot tell how much room {place} has: {error.strerror}") from error


def make_storage(home: StorageHome) -> None:
    """Make the directory, the token and the key, where they are missing. Raises ConfigError,
    DiskFull.
    """
    with disk_errors(home.path):
        home.path.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
    if home.path.stat().st_mode & 0o022:
        raise ConfigError(f"{home.path} is open to other users' writes; run: chmod 700 {home.path}")
    if not home.key.exists():
        write_atomic(home.key, f"{os.urandom(KEY_BYTES).hex()}\n".encode(), mode=0o600)
    if not home.token.exists():
        token = secrets.token_urlsafe(_TOKEN_BYTES)
        write_atomic(home.token, f"{token}\n".encode(), mode=0o600)


def delete_storage(home: StorageHome) -> None:
    """Delete what is stored, and the directory unless it holds something else. Nobody may have it
    open. Raises ConfigError.
    """
    files = [home.key, home.token]
    for database in (home.objects, home.vectors):
        files += [database.with_name(database.name + end) for end in ("", "-wal", "-shm")]
    with disk_errors(home.path):
        for file in files:
            file.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        home.path.rmdir()


def load_token(home: StorageHome) -> str:
    """Return what local programs send. Raises ConfigError where there is none."""
    return _load_line(home.token)


def load_key(home: StorageHome) -> bytes:
    """Return the key of the plain vectors. Raises ConfigError."""
    line = _load_line(home.key)
    try:
        key = bytes.fromhex(line)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise ConfigError(f"{home.key} is no key of {2 * KEY_BYTES} hex digits; restore it")
    return key


def _load_line(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            data = file.read(limits.STORAGE_LINE_BYTES_MAX + 1)
            mode = os.fstat(file.fileno()).st_mode
    except FileNotFoundError:
        raise ConfigError(f"there is no {path}; run: kwaainet storage init") from None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    if mode & 0o077:
        raise ConfigError(f"{path} is open to other users; run: chmod 600 {path}")
    text = data.decode("ascii", "replace").strip()
    if not text or not text.isprintable() or len(data) > limits.STORAGE_LINE_BYTES_MAX:
        raise ConfigError(f"{path} does not hold one line of text; restore it")
    return text
