"""A backup of the wallet: everything in it, and the identity if wanted, sealed under a passphrase.

Independent of this machine, of SQLite and of the tables' version: JSON lines (`backup_rows`),
deflated, sealed (`credentials.sealed`). A restore joins a backup with what is there, in one
transaction: nothing is lost, and a revocation on either side stays. Does not verify credentials:
whoever counts one does.
"""

from __future__ import annotations

import json
import secrets
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from credentials.errors import KeyInvalid, SealInvalid
from credentials.keys import SecretKey, encode_key_file, parse_key_file
from credentials.sealed import NONCE_BYTES, SALT_BYTES, Cost, open_sealed, seal
from kwaai.errors import BodyTooLarge, FileCorrupt, IdentityMissing, PassphraseWrong
from kwaai.limits import BACKUP_BYTES_MAX, BACKUP_LINE_BYTES_MAX
from kwaai.store import backup_rows
from kwaai.store.home import Home
from kwaai.store.identity_file import IDENTITY, load_identity
from kwaai.store.key_file import Unlock, check_passphrase, encode_key, put_former
from kwaai.store.rotation import import_identity
from kwaai.store.wallet import Wallet, open_wallet

PURPOSE: Final = "wallet-backup"
VERSION: Final = 2
_VERSIONS: Final = (1, VERSION)  # the second has what was seen of peers
FORMER_MAX: Final = 64
MADE_S_MAX: Final = 253_402_300_800  # the year 10000
_CHUNK_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Backup:
    """An opened backup."""

    made_s: float
    identity: SecretKey | None
    """The node's identity, where it was put in."""
    former: tuple[SecretKey, ...]
    """Identities that it had before: only they can revoke what they issued."""
    _lines: bytes = field(repr=False)

    def rows(self) -> Iterator[Any]:
        """Go through the rows. Raises FileCorrupt."""
        lines = _lines(self._lines)
        next(lines)
        yield from lines


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore has added."""

    credentials: int
    issued: int
    requests: int


def export_wallet(
    wallet: Wallet,
    passphrase: bytes,
    *,
    now_s: float,
    identity: SecretKey | None = None,
    former: Sequence[SecretKey] = (),
    cost: Cost = "moderate",
) -> bytes:
    """Return a backup of one moment of the wallet. Other threads wait meanwhile.

    Raises UserError (a weak passphrase), BodyTooLarge.
    """
    check_passphrase(passphrase)
    head = {
        "kwaainet_backup": VERSION,
        "made_s": now_s,
        "identity": None if identity is None else encode_key_file(identity).hex(),
        "former": [encode_key_file(secret).hex() for secret in former],
    }
    deflate = zlib.compressobj()
    packed = [deflate.compress(_line(head))]
    size = 0
    with wallet.database.read():
        for row in backup_rows.rows(wallet):
            line = _line(row)
            size += len(line)
            if size > BACKUP_BYTES_MAX:
                raise BodyTooLarge(
                    f"a wallet of over {BACKUP_BYTES_MAX} bytes: too much to back up"
                )
            packed.append(deflate.compress(line))
    packed.append(deflate.flush())
    return seal(
        b"".join(packed),
        passphrase,
        salt=secrets.token_bytes(SALT_BYTES),
        nonce=secrets.token_bytes(NONCE_BYTES),
        purpose=PURPOSE,
        cost=cost,
    )


def read_backup(data: bytes, passphrase: bytes) -> Backup:
    """Open a backup. Raises PassphraseWrong, FileCorrupt."""
    try:
        lines = open_sealed(data, passphrase, purpose=PURPOSE)
    except SealInvalid as error:
        raise PassphraseWrong(
            "this passphrase does not open the backup; try another one (or it is none, or damaged)"
        ) from error
    try:
        head = next(_lines(lines), None)
        if not isinstance(head, dict) or head.get("kwaainet_backup") not in _VERSIONS:
            raise FileCorrupt("the backup is of a version that is not known here; update kwaainet")
        held = head["identity"]
        identity = None if held is None else parse_key_file(bytes.fromhex(held))
        former = (parse_key_file(bytes.fromhex(key)) for key in head["former"][:FORMER_MAX])
        made_s = float(head["made_s"])
        if not 0 <= made_s < MADE_S_MAX:
            raise ValueError("it was made at no time")
        return Backup(made_s, identity, tuple(former), lines)
    except (KeyInvalid, KeyError, TypeError, ValueError, OverflowError) as error:
        raise FileCorrupt(f"the backup's first line is wrong: {type(error).__name__}") from None


def restore_wallet(wallet: Wallet, backup: Backup) -> Restored:
    """Join a backup with the wallet: all of it, or nothing where this raises.

    Raises FileCorrupt, UserError (another credential was issued under the same id), WalletFull,
    DiskFull.
    """
    with wallet.batch() as connection:
        return Restored(*backup_rows.join(wallet, connection, backup.rows()))


def restore_home(
    home: Home,
    identity_key: Path,
    backup: Backup,
    *,
    unlock: Unlock | None = None,
    passphrase: bytes | None = None,
    cost: Cost = "moderate",
) -> Restored:
    """Restore on a machine that may have nothing: the backup's identity too, where there is none.

    An identity that is there stays, and `unlock` opens it. `passphrase` seals the one that is put
    there. Raises IdentityMissing where neither has one; as `open_wallet` and `restore_wallet`.
    """
    try:
        secret = load_identity(identity_key, unlock=unlock)
    except IdentityMissing:
        if backup.identity is None:
            raise IdentityMissing(
                "the backup holds no identity, and there is none here; run: kwaainet identity"
                " import, or kwaainet setup for a new one"
            ) from None
        for key in backup.former:
            data = encode_key(IDENTITY, key, passphrase, cost=cost)
            put_former(IDENTITY, identity_key, data, backup.made_s)
        plain = encode_key_file(backup.identity)
        secret = import_identity(home, identity_key, plain, bytes, passphrase=passphrase, cost=cost)
    with open_wallet(home, secret) as wallet:
        return restore_wallet(wallet, backup)


def _line(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def _lines(packed: bytes) -> Iterator[Any]:
    """Inflate and parse, a line at a time, within bounds. Raises FileCorrupt."""
    inflate = zlib.decompressobj()
    size, rest, waiting = 0, b"", packed
    try:
        while not inflate.eof:
            chunk = inflate.decompress(waiting, _CHUNK_BYTES)
            waiting = inflate.unconsumed_tail
            if not chunk and not waiting and not inflate.eof:
                raise FileCorrupt("the backup ends too early")
            size += len(chunk)
            *lines, rest = (rest + chunk).split(b"\n")
            if size > BACKUP_BYTES_MAX or len(rest) > BACKUP_LINE_BYTES_MAX:
                raise FileCorrupt("the backup unpacks to more than any backup made here")
            for line in lines:
                yield json.loads(line)
    except (zlib.error, ValueError, RecursionError) as error:
        raise FileCorrupt(f"the backup cannot be unpacked: {type(error).__name__}") from None
    if rest:
        raise FileCorrupt("the backup's last line has no end")
