"""The owner's key on disk: a person or an organisation, which certifies nodes and is none of them.

`<home>/owner.key`, a key file like the node's (`kwaai.store.key_file`) under a passphrase of its
own. It need not be on a node at all: what it signs (`credentials.binding`) is what nodes need.
"""

from __future__ import annotations

from pathlib import Path

from credentials.keys import SecretKey
from credentials.sealed import Cost
from kwaai.atomic import disk_errors
from kwaai.errors import IdentityExists, OwnerMissing
from kwaai.store.home import Home
from kwaai.store.key_file import (
    KEY_MODE,
    KeyKind,
    Unlock,
    create_exclusive,
    encode_key,
    is_key_sealed,
    load_key,
    new_key,
    seal_key,
    unseal_key,
)

OWNER = KeyKind(
    what="owner key",
    purpose="owner",
    variable="KWAAINET_OWNER_PASSPHRASE",
    missing=OwnerMissing,
    remedy="run: kwaainet identity owner create",
)


def owner_key(home: Home) -> Path:
    """Return where the owner's key is kept."""
    return home.path / "owner.key"


def load_owner(path: Path, *, unlock: Unlock | None = None) -> SecretKey:
    """Read the owner's key. `unlock` gives the passphrase of a sealed one; None:
    KWAAINET_OWNER_PASSPHRASE, or the file that KWAAINET_OWNER_PASSPHRASE_FILE names.

    Raises OwnerMissing, ConfigError, FileCorrupt, IdentitySealed, PassphraseWrong.
    """
    return load_key(OWNER, path, unlock)


def create_owner(
    path: Path,
    passphrase: bytes | None = None,
    *,
    secret: SecretKey | None = None,
    cost: Cost = "moderate",
) -> SecretKey:
    """Make an owner's key, or store the one that is given; sealed where there is a passphrase.

    Raises IdentityExists where there is a file already, UserError, ConfigError, DiskFull.
    """
    secret = secret or new_key()
    with disk_errors(path):
        if create_exclusive(path, encode_key(OWNER, secret, passphrase, cost=cost), KEY_MODE):
            return secret
    raise IdentityExists(f"there is an owner key at {path} already; {OWNER.backup_hint}")


def is_owner_sealed(path: Path) -> bool:
    """Say whether the owner's key is sealed. Raises OwnerMissing, ConfigError, FileCorrupt."""
    return is_key_sealed(OWNER, path)


def seal_owner(
    path: Path, passphrase: bytes, *, unlock: Unlock | None = None, cost: Cost = "moderate"
) -> None:
    """Seal the owner's key, or give it another passphrase. Raises as `load_owner`."""
    seal_key(OWNER, path, passphrase, unlock=unlock, cost=cost)


def unseal_owner(path: Path, *, unlock: Unlock | None = None) -> None:
    """Store the owner's key without a passphrase. Raises as `load_owner`."""
    unseal_key(OWNER, path, unlock)


def export_owner(
    path: Path, passphrase: bytes, *, unlock: Unlock | None = None, cost: Cost = "moderate"
) -> bytes:
    """Return the owner's key sealed under `passphrase`. Raises as `load_owner`."""
    return encode_key(OWNER, load_owner(path, unlock=unlock), passphrase, cost=cost)
