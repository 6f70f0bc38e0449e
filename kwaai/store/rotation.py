"""A new identity in place of the old one, with the wallet following, in an order that survives a
crash at any moment.

First `wallet.key` opens with both; then the old key is copied to a dated name; then the new key
takes the name of the old one, in one rename: that is the moment; then the old key's slot goes.
Before the moment the old identity opens everything, after it the new one does; what a crash leaves
over is tidied by the next change. A node that runs goes by the key that it has read: stop it first.
The old key is kept because only it can revoke what it issued.
"""

from __future__ import annotations

import time
from pathlib import Path

from credentials.keys import SecretKey
from credentials.sealed import Cost
from kwaai.atomic import disk_errors, exclusive_lock, write_atomic
from kwaai.errors import IdentityExists, WalletLocked
from kwaai.limits import WALLET_BUSY_S
from kwaai.store.home import Home
from kwaai.store.identity_file import IDENTITY, parse_exported
from kwaai.store.key_file import (
    KEY_MODE,
    Unlock,
    create_exclusive,
    encode_key,
    environment_unlock,
    is_key_sealed,
    keep_former,
    key_lock,
    load_key,
    new_key,
    real_path,
)
from kwaai.store.wallet import wallet_key, wallet_lock
from kwaai.store.wallet_key import Opener, WalletKeys, load_wallet_keys


def rotate_identity(
    home: Home,
    path: Path,
    *,
    unlock: Unlock | None = None,
    passphrase: bytes | None = None,
    now_s: float | None = None,
    cost: Cost = "moderate",
) -> SecretKey:
    """Draw a new identity, put it in place of the one at `path`, and return it.

    A sealed key's successor is sealed: under `passphrase`, or under the same one. The old file
    stays beside it (`former_identities`). Raises as `load_identity`, UserError, Locked, DiskFull.
    """
    with key_lock(path):
        if is_key_sealed(IDENTITY, path):
            given = (unlock or environment_unlock(IDENTITY, path))()
            old = load_key(IDENTITY, path, lambda: given)
            passphrase = passphrase or given
        else:
            old = load_key(IDENTITY, path)
        secret = new_key()
        _replace(home, path, old, secret, passphrase, now_s, cost)
    return secret


def import_identity(
    home: Home,
    path: Path,
    data: bytes,
    unlock: Unlock,
    *,
    replace: bool = False,
    passphrase: bytes | None = None,
    current_unlock: Unlock | None = None,
    now_s: float | None = None,
    cost: Cost = "moderate",
) -> SecretKey:
    """Put an exported identity at `path`, plain or sealed under `passphrase`, and return it.

    `data` is an exported key, which `unlock` gives the passphrase of, or a plain key file's bytes.
    Under `replace` the identity that is there makes way as in `rotate_identity`, for which a sealed
    one has to open (`current_unlock`, else the environment).

    Raises PassphraseWrong, FileCorrupt, IdentityExists; as `load_identity` for the one to replace.
    """
    secret = parse_exported(data, unlock)
    with key_lock(path):
        encoded = encode_key(IDENTITY, secret, passphrase, cost=cost)
        with disk_errors(path):
            if create_exclusive(path, encoded, KEY_MODE):
                return secret
        if not replace:
            raise IdentityExists(
                f"there is an identity key at {path} already; --replace puts it aside"
            )
        old = load_key(IDENTITY, path, current_unlock)
        if old.public == secret.public:
            return secret
        _replace(home, path, old, secret, passphrase, now_s, cost)
    return secret


def add_opener(home: Home, opener: Opener, added: Opener, *, cost: Cost = "moderate") -> None:
    """Let another identity, or a passphrase (in place of the one before), open the wallet too.

    Raises WalletLocked where `opener` does not open it, or there is none.
    """
    with exclusive_lock(wallet_lock(home.credentials), WALLET_BUSY_S):
        keys = load_wallet_keys(wallet_key(home.credentials))
        if keys is None:
            raise WalletLocked(f"there is no wallet in {home.credentials}")
        keys.with_slot(keys.open(opener), added, cost=cost).save()


def _replace(
    home: Home,
    path: Path,
    old: SecretKey,
    new: SecretKey,
    passphrase: bytes | None,
    now_s: float | None,
    cost: Cost,
) -> None:
    encoded = encode_key(IDENTITY, new, passphrase, cost=cost)
    directory = home.credentials
    if not directory.is_dir():
        _put(path, encoded, now_s)
        return
    with exclusive_lock(wallet_lock(directory), WALLET_BUSY_S):
        keys = _let_in(load_wallet_keys(wallet_key(directory)), old, new)
        _put(path, encoded, now_s)
        if keys is not None:
            keys.without_identities(but=new).save()


def _let_in(keys: WalletKeys | None, old: SecretKey, new: SecretKey) -> WalletKeys | None:
    """Save a slot for the new identity; None where the old one opens no wallet anyway."""
    if keys is None:
        return None
    try:
        key = keys.open(old)
    except WalletLocked:
        return None
    keys = keys.with_slot(key, new)
    keys.save()
    return keys


def _put(path: Path, encoded: bytes, now_s: float | None) -> None:
    keep_former(IDENTITY, path, time.time() if now_s is None else now_s)
    write_atomic(real_path(path), encoded, KEY_MODE)
