"""The wallet on disk: credentials as they were received, found by type, issuer, subject, validity.

`<home>/credentials/wallet.db`, encrypted under the key in `wallet.key` (`kwaai.store.database`,
`kwaai.store.wallet_key`). The contract is `credentials.wallet.CredentialWallet`'s. Every change is
on the disk, or has not happened, when the call returns. Use it from any thread, one at a time: a
lock sees to it; several processes may have it open. Does not verify, and does not know what a
credential says: what it is found by comes with it. What the node issued (`issued`) and what waits
for a decision (`requests`) are in the same file.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import apsw

from credentials.sealed import Cost
from credentials.wallet import (
    FIND_LIMIT,
    StoredCredential,
    StoredStatusList,
    WalletEntry,
    wallet_id,
)
from kwaai.atomic import disk_errors, exclusive_lock
from kwaai.errors import (
    BodyTooLarge,
    CredentialMissing,
    FileCorrupt,
    UserError,
    WalletFull,
)
from kwaai.limits import (
    WALLET_BUSY_S,
    WALLET_CREDENTIALS_MAX,
    WALLET_FIND_MAX,
    WALLET_LONG_FORMS_MAX,
    WALLET_NAME_CHARS_MAX,
    WALLET_NAMES_MAX,
    WALLET_ORIGINAL_BYTES_MAX,
    WALLET_STATUS_LISTS_MAX,
)
from kwaai.store import wallet_rows
from kwaai.store.database import Database, create_database, open_database
from kwaai.store.home import DIRECTORY_MODE, Home
from kwaai.store.wallet_key import Opener, load_wallet_keys, new_wallet_keys

__all__ = ["StoredCredential", "StoredStatusList", "Wallet", "WalletEntry", "open_wallet"]

PREFIX_CHARS_MIN = 6


class Wallet:
    """A `CredentialWallet` on disk. Made by `open_wallet`; a context manager, which closes it."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def __repr__(self) -> str:
        return f"Wallet({str(self.database.path)!r})"

    def __enter__(self) -> Wallet:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close it. Twice is once."""
        self.database.close()

    def check(self) -> None:
        """Read every page and index. Raises FileCorrupt."""
        self.database.check()

    def batch(self) -> contextlib.AbstractContextManager[apsw.Connection]:
        """Make all changes of a `with` block one: all are kept, or none where it raises."""
        return self.database.write()

    def add(self, original: bytes, entry: WalletEntry) -> str:
        """See CredentialWallet. Raises BodyTooLarge, UserError (bounds), WalletFull, DiskFull."""
        _check_bounds(original, entry)
        name = wallet_id(original)
        with self.database.write() as connection:
            known = wallet_rows.number_of(connection, name)
            if known is None:
                if wallet_rows.is_full(connection, "credentials", WALLET_CREDENTIALS_MAX):
                    raise WalletFull(
                        f"the wallet holds {WALLET_CREDENTIALS_MAX} credentials; remove some"
                    )
                wallet_rows.insert(connection, name, original, entry)
            elif not entry.quarantined and wallet_rows.is_quarantined(connection, known):
                wallet_rows.replace_entry(connection, known, entry)
        return name

    def add_many(self, credentials: Iterable[tuple[bytes, WalletEntry]]) -> list[str]:
        """Add all, or none: one transaction. Raises as `add`."""
        with self.database.write():
            return [self.add(original, entry) for original, entry in credentials]

    def get(self, wallet_id: str) -> StoredCredential | None:
        with self.database.read() as connection:
            number = wallet_rows.number_of(connection, wallet_id)
            return None if number is None else wallet_rows.load(connection, number)

    def resolve(self, name: str) -> StoredCredential:
        """Find one credential by its wallet id, by the first 6 or more digits of it, or by its own
        id. Raises CredentialMissing where there is none, UserError where there are several.
        """
        with self.database.read() as connection:
            found = wallet_rows.numbers_named(connection, name, PREFIX_CHARS_MIN)
            if len(found) == 1:
                return wallet_rows.load(connection, found[0])
        if found:
            raise UserError(f"{name!r:.80} names several credentials; give more of the wallet id")
        raise CredentialMissing(f"the wallet holds no credential {name!r:.80}")

    def find(
        self,
        *,
        type: str | None = None,
        issuer: str | None = None,
        subject: str | None = None,
        valid_at_s: float | None = None,
        quarantined: bool | None = False,
        text: str | None = None,
        limit: int = FIND_LIMIT,
        after: int | None = None,
    ) -> list[StoredCredential]:
        """See CredentialWallet; at most WALLET_FIND_MAX at a time. `text` looks at every row, the
        rest at an index.
        """
        wanted = wallet_rows.Search(type, issuer, subject, valid_at_s, quarantined, text, after)
        with self.database.read() as connection:
            found = wallet_rows.search(connection, wanted, max(0, min(limit, WALLET_FIND_MAX)))
            return [wallet_rows.load(connection, number) for number in found]

    def iterate(self) -> Iterator[StoredCredential]:
        """See CredentialWallet. What is added meanwhile is met, what is removed is not."""
        last = 0
        while True:
            with self.database.read() as connection:
                numbers = wallet_rows.numbers_from(connection, last, WALLET_FIND_MAX)
                page = [wallet_rows.load(connection, number) for number in numbers]
            if not page:
                return
            yield from page
            last = page[-1].number

    def count(self, *, quarantined: bool | None = False) -> int:
        with self.database.read() as connection:
            return wallet_rows.count(connection, quarantined)

    def remove(self, wallet_id: str) -> bool:
        with self.database.write() as connection:
            number = wallet_rows.number_of(connection, wallet_id)
            if number is not None:
                wallet_rows.delete(connection, number)
        return number is not None

    def set_quarantine(self, wallet_id: str, quarantined: bool, reason: str = "") -> bool:
        with self.database.write() as connection:
            number = wallet_rows.number_of(connection, wallet_id)
            if number is not None:
                entry = wallet_rows.load(connection, number).entry
                changed = dataclasses.replace(entry, quarantined=quarantined, reason=reason)
                wallet_rows.replace_entry(connection, number, changed)
        return number is not None

    def put_status_list(self, url: str, original: bytes, fetched_s: float) -> None:
        """Keep a status list as it was fetched; of too many, the one fetched first goes."""
        _check_size(original)
        with self.database.write() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO fetched_lists VALUES (?, ?, ?)", (url, original, fetched_s)
            )
            connection.execute(
                "DELETE FROM fetched_lists WHERE url IN (SELECT url FROM fetched_lists"
                " ORDER BY fetched_s DESC LIMIT -1 OFFSET ?)",
                (WALLET_STATUS_LISTS_MAX,),
            )

    def get_status_list(self, url: str) -> StoredStatusList | None:
        with self.database.read() as connection:
            row = connection.execute(
                "SELECT url, original, fetched_s FROM fetched_lists WHERE url = ?", (url,)
            ).fetchone()
        return None if row is None else StoredStatusList(*row)

    def put_long_form(self, short: str, long: str) -> None:
        """See CredentialWallet. Raises WalletFull, UserError."""
        if max(len(short), len(long)) > WALLET_NAME_CHARS_MAX:
            raise UserError(f"a DID has at most {WALLET_NAME_CHARS_MAX} characters")
        with self.database.write() as connection:
            known = connection.execute("SELECT 1 FROM long_forms WHERE short = ?", (short,)).get
            if known is None and wallet_rows.is_full(
                connection, "long_forms", WALLET_LONG_FORMS_MAX
            ):
                raise WalletFull(f"the wallet holds {WALLET_LONG_FORMS_MAX} long forms of DIDs")
            connection.execute("INSERT OR REPLACE INTO long_forms VALUES (?, ?)", (short, long))

    def long_forms(self) -> dict[str, str]:
        with self.database.read() as connection:
            rows: list[Any] = connection.execute("SELECT short, long FROM long_forms").fetchall()
        return dict(rows)


def open_wallet(home: Home, opener: Opener, *, cost: Cost = "moderate") -> Wallet:
    """Open the wallet of a home, or make it where there is none.

    `opener`: the node's identity, or the wallet's passphrase (`cost`: of sealing it, when new).
    Raises WalletLocked (another identity, a wrong passphrase), FileCorrupt, ConfigError (who may
    read the files), Locked, DiskFull.
    """
    directory = home.credentials
    with disk_errors(directory):
        directory.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        with exclusive_lock(wallet_lock(directory), WALLET_BUSY_S):
            return Wallet(_open(directory, opener, cost))


def wallet_lock(directory: Path) -> Path:
    """Return the lock under which a wallet is opened, and `wallet.key` changed."""
    return directory / ".wallet.lock"


def wallet_key(directory: Path) -> Path:
    """Return the file that has the key of the pages: it is there as long as there is a wallet."""
    return directory / "wallet.key"


def _open(directory: Path, opener: Opener, cost: Cost) -> Database:
    path = directory / "wallet.db"
    keys = load_wallet_keys(wallet_key(directory))
    if keys is None:
        if path.exists():
            raise FileCorrupt(
                f"there is a wallet {path} and no wallet.key beside it, without which nothing opens"
                " it; restore both from a backup, or move wallet.db away to begin anew"
            )
        keys = new_wallet_keys(wallet_key(directory), opener, cost=cost)
        keys.save()
    key = keys.open(opener)
    if not keys.made:
        create_database(path)
        database = open_database(path, key)
        # Only now is a missing database a loss: a crash before this line makes it again.
        dataclasses.replace(keys, made=True).save()
        return database
    if not path.exists():
        raise FileCorrupt(
            f"the wallet {path} is missing, and its key is there; restore it from a backup, or move"
            " wallet.key away to begin anew"
        )
    return open_database(path, key)


def _check_bounds(original: bytes, entry: WalletEntry) -> None:
    _check_size(original)
    if len(entry.types) > WALLET_NAMES_MAX or len(entry.subjects) > WALLET_NAMES_MAX:
        raise UserError(f"a credential with more than {WALLET_NAMES_MAX} types or subjects")
    texts = (
        *entry.types,
        entry.issuer,
        *entry.subjects,
        entry.credential_id or "",
        entry.reason,
    )
    if max(map(len, texts)) > WALLET_NAME_CHARS_MAX:
        raise UserError(f"an id or a type of more than {WALLET_NAME_CHARS_MAX} characters")
    if not all(map(_is_text, texts)):
        raise UserError("an id or a type with half a surrogate pair")


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_size(original: bytes) -> None:
    if len(original) > WALLET_ORIGINAL_BYTES_MAX:
        raise BodyTooLarge(
            f"it has {len(original)} bytes; the wallet takes up to {WALLET_ORIGINAL_BYTES_MAX}"
        )
