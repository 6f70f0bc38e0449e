"""`wallet.key`: the key of the wallet's pages, wrapped for whoever may open it.

The page key is random and stays; what changes with a new identity or passphrase is a slot here,
each of which holds the page key wrapped for one identity (`credentials.key_wrap`) or sealed under
one passphrase (`credentials.sealed`). Does not open the database. A JSON object: `version`, `made`
(whether the database has been made: from then on a missing one is a loss, no beginning), `slots`.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

from credentials.did import did_key
from credentials.errors import SealInvalid
from credentials.key_wrap import WRAP_NONCE_BYTES, unwrap_key, wrap_key
from credentials.keys import SecretKey
from credentials.sealed import NONCE_BYTES, SALT_BYTES, Cost, open_sealed, seal
from kwaai.atomic import disk_errors, write_atomic
from kwaai.errors import FileCorrupt, WalletLocked
from kwaai.limits import WALLET_KEY_BYTES_MAX, WALLET_KEY_SLOTS_MAX
from kwaai.store.database import KEY_BYTES, check_mode
from kwaai.store.key_file import check_passphrase

PURPOSE: Final = "wallet-key"
_RESTORE: Final = "restore it, or the whole home, from a backup"

Opener = SecretKey | bytes
"""An identity, or a passphrase."""


@dataclass(frozen=True, slots=True)
class Slot:
    """The page key, as one identity or passphrase opens it."""

    kind: Literal["identity", "passphrase"]
    did: str
    """Of the identity; empty for a passphrase."""
    wrapped: bytes


@dataclass(frozen=True, slots=True)
class WalletKeys:
    """What `wallet.key` says."""

    path: Path
    made: bool
    slots: tuple[Slot, ...]

    def open(self, opener: Opener) -> bytes:
        """Return the page key. Raises WalletLocked."""
        for slot in self.slots:
            key = _open_slot(slot, opener)
            if key is not None:
                return key
        raise WalletLocked(self._who_may(opener))

    def with_slot(self, key: bytes, opener: Opener, *, cost: Cost = "moderate") -> WalletKeys:
        """Return these with `opener` among those who may open it. A passphrase replaces one."""
        slot = _make_slot(key, opener, cost)
        others = (s for s in self.slots if (s.kind, s.did) != (slot.kind, slot.did))
        return replace(self, slots=(*others, slot))

    def without_identities(self, but: SecretKey) -> WalletKeys:
        """Return these without the slots of all identities but one."""
        did = did_key(but.public)
        kept = tuple(s for s in self.slots if s.kind == "passphrase" or s.did == did)
        return replace(self, slots=kept)

    def save(self) -> None:
        """Write the file, whole or not at all. Raises DiskFull, ConfigError."""
        value = {
            "version": 1,
            "made": self.made,
            "slots": [
                {"kind": slot.kind, "did": slot.did, "wrapped": slot.wrapped.hex()}
                for slot in self.slots
            ],
        }
        with disk_errors(self.path):
            write_atomic(self.path, json.dumps(value, indent=1).encode() + b"\n")

    def _who_may(self, opener: Opener) -> str:
        identities = ", ".join(slot.did for slot in self.slots if slot.kind == "identity")
        passphrase = any(slot.kind == "passphrase" for slot in self.slots)
        if isinstance(opener, bytes):
            if not passphrase:
                return f"no passphrase opens the wallet {self.path.parent}; {identities} does"
            return f"this passphrase does not open the wallet {self.path.parent}; try another one"
        remedy = " or ".join(
            ([f"put the key of {identities} back"] if identities else [])
            + (["give the wallet's passphrase"] if passphrase else [])
        )
        return (
            f"the wallet {self.path.parent} is not for the identity {did_key(opener.public)};"
            f" {remedy}"
        )


def new_wallet_keys(path: Path, opener: Opener, *, cost: Cost = "moderate") -> WalletKeys:
    """Draw a page key for a wallet that is to be made. Raises UserError (a weak passphrase)."""
    return WalletKeys(path, False, (_make_slot(secrets.token_bytes(KEY_BYTES), opener, cost),))


def load_wallet_keys(path: Path) -> WalletKeys | None:
    """Read `wallet.key`; None where there is none. Raises FileCorrupt, ConfigError."""
    with disk_errors(path):
        try:
            with path.open("rb") as file:
                data = file.read(WALLET_KEY_BYTES_MAX + 1)
        except FileNotFoundError:
            return None
    check_mode(path)
    try:
        if len(data) > WALLET_KEY_BYTES_MAX:
            raise ValueError("it is too long")
        return _parse(path, json.loads(data))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise FileCorrupt(f"{path} is no wallet key ({error}); {_RESTORE}") from error


def _parse(path: Path, value: Any) -> WalletKeys:
    if value["version"] != 1:
        raise ValueError(f"version {value['version']!r:.20} is not known here")
    slots = []
    for item in value["slots"][:WALLET_KEY_SLOTS_MAX]:
        if item["kind"] not in ("identity", "passphrase"):
            raise ValueError("a slot of an unknown kind")
        slots.append(Slot(item["kind"], str(item["did"]), bytes.fromhex(item["wrapped"])))
    if not slots:
        raise ValueError("it has no slots")
    return WalletKeys(path, value["made"] is True, tuple(slots))


def _make_slot(key: bytes, opener: Opener, cost: Cost) -> Slot:
    if isinstance(opener, SecretKey):
        nonce = secrets.token_bytes(WRAP_NONCE_BYTES)
        wrapped = wrap_key(key, opener, nonce=nonce, purpose=PURPOSE)
        return Slot("identity", did_key(opener.public), wrapped)
    check_passphrase(opener)
    sealed = seal(
        key,
        opener,
        salt=secrets.token_bytes(SALT_BYTES),
        nonce=secrets.token_bytes(NONCE_BYTES),
        purpose=PURPOSE,
        cost=cost,
    )
    return Slot("passphrase", "", sealed)


def _open_slot(slot: Slot, opener: Opener) -> bytes | None:
    try:
        if isinstance(opener, SecretKey):
            if slot.kind != "identity" or slot.did != did_key(opener.public):
                return None
            key = unwrap_key(slot.wrapped, opener, purpose=PURPOSE)
        else:
            if slot.kind != "passphrase":
                return None
            key = open_sealed(slot.wrapped, opener, purpose=PURPOSE)
    except SealInvalid:
        return None
    return key if len(key) == KEY_BYTES else None
