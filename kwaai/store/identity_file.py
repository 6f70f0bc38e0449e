"""The node's identity key on disk: created once, read with care, sealed on demand.

What a key file is and what can be wrong with one: `kwaai.store.key_file`. A new identity in place
of the old one, which the wallet has to follow: `kwaai.store.rotation`. Does not know DIDs or
signatures (`credentials`). Reference digest, section 2.
"""

from __future__ import annotations

from pathlib import Path

from credentials.errors import KeyInvalid
from credentials.keys import SecretKey, parse_key_file
from credentials.sealed import Cost, is_sealed
from kwaai.errors import FileCorrupt, IdentityMissing
from kwaai.store.key_file import KEY_MODE as KEY_MODE
from kwaai.store.key_file import (
    KeyKind,
    Unlock,
    encode_key,
    ensure_key,
    former_keys,
    is_key_sealed,
    load_key,
    open_key,
    seal_key,
    unseal_key,
)
from kwaai.store.key_file import create_exclusive as create_exclusive

IDENTITY = KeyKind(
    what="identity key",
    purpose="identity",
    variable="KWAAINET_PASSPHRASE",
    missing=IdentityMissing,
    remedy="run: kwaainet setup",
)


def load_identity(path: Path, *, unlock: Unlock | None = None) -> SecretKey:
    """Read the key file. `unlock` gives the passphrase of a sealed one; None: KWAAINET_PASSPHRASE,
    or the file that KWAAINET_PASSPHRASE_FILE names.

    Raises IdentityMissing, ConfigError (who may read it), FileCorrupt, IdentitySealed,
    PassphraseWrong.
    """
    return load_key(IDENTITY, path, unlock)


def ensure_identity(path: Path, *, unlock: Unlock | None = None) -> tuple[SecretKey, bool]:
    """Load the key, or create one where there is none. Returns the key and whether it is new.

    Two calls at once, in any processes, end with the same one key. Raises as `load_identity`, and
    DiskFull.
    """
    return ensure_key(IDENTITY, path, unlock)


def is_identity_sealed(path: Path) -> bool:
    """Say whether the key file is sealed. Raises IdentityMissing, ConfigError, FileCorrupt."""
    return is_key_sealed(IDENTITY, path)


def seal_identity(
    path: Path, passphrase: bytes, *, unlock: Unlock | None = None, cost: Cost = "moderate"
) -> None:
    """Seal the key file, or give a sealed one another passphrase. Raises as `load_identity`."""
    seal_key(IDENTITY, path, passphrase, unlock=unlock, cost=cost)


def unseal_identity(path: Path, *, unlock: Unlock | None = None) -> None:
    """Store the key without a passphrase. Raises as `load_identity`."""
    unseal_key(IDENTITY, path, unlock)


def export_identity(
    path: Path, passphrase: bytes, *, unlock: Unlock | None = None, cost: Cost = "moderate"
) -> bytes:
    """Return the key sealed under `passphrase`, to be kept elsewhere. Raises as `load_identity`."""
    return encode_key(IDENTITY, load_identity(path, unlock=unlock), passphrase, cost=cost)


def parse_exported(data: bytes, unlock: Unlock) -> SecretKey:
    """Open an exported key, or read a plain one. Raises PassphraseWrong, FileCorrupt."""
    if is_sealed(data):
        return open_key(IDENTITY, data, unlock(), "that was given")
    try:
        return parse_key_file(data)
    except KeyInvalid as error:
        raise FileCorrupt(f"what was given is no identity key: {error}") from error


def former_identities(path: Path) -> list[Path]:
    """Return the key files of identities that this node had, oldest first. What they issued can
    only be revoked with them.
    """
    return former_keys(path)
