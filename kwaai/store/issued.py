"""The register of what this node issued: each credential's bytes, and its entries in status lists.

In the wallet's database. An entry is taken before the credential is signed and is never given out
again, not even where the credential was not finished. Entries are drawn at random, so that a list
does not tell the order of issuing, and a list has the standard's 131,072 entries from the start, so
that it does not tell their number. The bits are what the entries say: nothing else keeps them.
Lists belong to an issuer's DID: those of an identity that was replaced stay. Does not sign lists.
W3C Bitstring Status List 1.0.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import apsw

from kwaai.errors import BodyTooLarge, CredentialMissing, StatusPermanent, UserError, WalletFull
from kwaai.limits import (
    ISSUED_MAX,
    STATUS_LIST_ENTRIES,
    STATUS_LIST_FILL,
    WALLET_FIND_MAX,
    WALLET_ORIGINAL_BYTES_MAX,
)
from kwaai.store.database import Database
from kwaai.store.wallet_rows import column, is_full

PERMANENT: Final = frozenset({"revocation"})
"""Purposes that are never taken back."""
PURPOSE_CHARS_MAX: Final = 20
_TRIES: Final = 64


@dataclass(frozen=True, slots=True)
class StatusPlace:
    """One entry of one status list."""

    issuer: str
    list_name: str
    """`revocation-1`, `revocation-2`, `suspension-1`: unique for an issuer."""
    purpose: str
    index: int


@dataclass(frozen=True, slots=True)
class IssuedStatus:
    """What an entry says now."""

    place: StatusPlace
    on: bool
    changed_s: float | None


@dataclass(frozen=True, slots=True)
class IssuedCredential:
    """A credential that this node issued, as it was delivered to the byte."""

    number: int
    """Counts up: the cursor of `find`."""
    credential_id: str
    """Its own `id`, unique here."""
    issuer: str
    subject: str
    kind: str
    issued_s: float
    valid_until_s: float | None
    statuses: tuple[IssuedStatus, ...]
    original: bytes


@dataclass(frozen=True, slots=True)
class IssuedList:
    """A status list of ours."""

    issuer: str
    name: str
    purpose: str
    entries: int
    used: int
    """Entries that were taken."""
    version: int
    """Goes up with every entry that changes: what was signed for an older one is outdated."""


@dataclass(frozen=True, slots=True)
class SignedList:
    """The credential of a status list, as it was last published."""

    original: bytes
    version: int
    """Of the list when it was signed."""
    signed_s: float


class IssuedRegister:
    """The register. `draw(n)` returns a random number below n."""

    def __init__(
        self, database: Database, *, draw: Callable[[int], int] = secrets.randbelow
    ) -> None:
        self._database = database
        self._draw = draw

    def reserve(
        self, issuer: str, purposes: Sequence[str], now_s: float
    ) -> tuple[StatusPlace, ...]:
        """Take a free entry of a list for each purpose, for good. Call it before signing."""
        for purpose in purposes:
            if not (
                purpose.isascii()
                and purpose.isalpha()
                and purpose.islower()
                and len(purpose) <= PURPOSE_CHARS_MAX
            ):
                raise UserError(f"{purpose!r:.80} is no purpose of a status list")
        with self._database.write() as connection:
            return tuple(self._take(connection, issuer, name, now_s) for name in purposes)

    def record(
        self,
        original: bytes,
        *,
        credential_id: str,
        issuer: str,
        subject: str,
        kind: str,
        issued_s: float,
        valid_until_s: float | None,
        places: Sequence[StatusPlace] = (),
    ) -> IssuedCredential:
        """Keep a credential that was signed, with the entries reserved for it. Call it before the
        credential is given to anybody. The same one again changes nothing.

        Raises UserError (another credential of that id, an entry that is not free), WalletFull.
        """
        if len(original) > WALLET_ORIGINAL_BYTES_MAX:
            raise BodyTooLarge(f"a credential of {len(original)} bytes")
        with self._database.write() as connection:
            known = _load_by_id(connection, credential_id)
            if known is not None:
                if known.original == original:
                    return known
                raise UserError(f"another credential with the id {credential_id} was issued before")
            if is_full(connection, "issued", ISSUED_MAX):
                raise WalletFull(f"the register holds {ISSUED_MAX} issued credentials")
            connection.execute(
                "INSERT INTO issued (credential_id, issuer, subject, kind, issued_s, valid_until_s,"
                " original) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (credential_id, issuer, subject, kind, issued_s, valid_until_s, original),
            )
            number = connection.last_insert_rowid()
            for place in places:
                _assign(connection, place, number)
            return _load(connection, number)

    def get(self, credential_id: str) -> IssuedCredential | None:
        """Return an issued credential by its own `id`."""
        with self._database.read() as connection:
            return _load_by_id(connection, credential_id)

    def named(self, beginning: str) -> list[IssuedCredential]:
        """Return up to two credentials whose own `id` begins so."""
        with self._database.read() as connection:
            numbers: Any = connection.execute(
                "SELECT number FROM issued WHERE credential_id >= ? AND credential_id < ? LIMIT 2",
                (beginning, beginning + "\U0010ffff"),
            ).fetchall()
            return [_load(connection, number) for (number,) in numbers]

    def at(self, issuer: str, list_name: str, index: int) -> IssuedCredential | None:
        """Return the credential that has an entry of a list."""
        with self._database.read() as connection:
            number = connection.execute(
                "SELECT issued FROM issued_entries WHERE place = ? AND issued IS NOT NULL AND list"
                " = (SELECT number FROM issued_lists WHERE issuer = ? AND name = ?)"
                " ORDER BY issued LIMIT 1",
                (index, issuer, list_name),
            ).get
            return None if number is None else _load(connection, number)

    def find(
        self,
        *,
        issuer: str | None = None,
        subject: str | None = None,
        kind: str | None = None,
        limit: int = 100,
        after: int | None = None,
    ) -> list[IssuedCredential]:
        """Return what matches all that is given, newest first. `after`: the `number` of the last
        one of the page before.
        """
        values = {"issuer": issuer, "subject": subject, "kind": kind, "after": after}
        tests = {"after": "number < :after"}
        conditions = [
            tests.get(name, f"{name} = :{name}")
            for name, value in values.items()
            if value is not None
        ]
        where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
        statement = f"SELECT number FROM issued {where} ORDER BY number DESC LIMIT :limit"
        limit = max(0, min(limit, WALLET_FIND_MAX))
        with self._database.read() as connection:
            found = column(connection, statement, {**values, "limit": limit})
            return [_load(connection, number) for number in found]

    def iterate(self) -> Iterator[IssuedCredential]:
        """Go through all, oldest first."""
        newer = "SELECT number FROM issued WHERE number > ? ORDER BY number LIMIT ?"
        last = 0
        while True:
            with self._database.read() as connection:
                numbers = column(connection, newer, (last, WALLET_FIND_MAX))
                page = [_load(connection, number) for number in numbers]
            if not page:
                return
            yield from page
            last = page[-1].number

    def count(self) -> int:
        with self._database.read() as connection:
            counted: int = connection.execute("SELECT count(*) FROM issued").get
        return counted

    def set_status(self, credential_id: str, purpose: str, on: bool, now_s: float) -> bool:
        """Set what a credential's entry for a purpose says. Returns whether that is a change.

        Raises CredentialMissing (not issued here, or without such an entry), StatusPermanent.
        """
        with self._database.write() as connection:
            entries: list[Any] = connection.execute(
                "SELECT list, place FROM issued_entries"
                " JOIN issued_lists ON issued_lists.number = list WHERE purpose = ?"
                " AND issued = (SELECT number FROM issued WHERE credential_id = ?)",
                (purpose, credential_id),
            ).fetchall()
            if not entries:
                known = _load_by_id(connection, credential_id) is not None
                raise CredentialMissing(
                    f"{credential_id:.200} was issued without a {purpose} status"
                    if known
                    else f"no credential {credential_id!r:.200} was issued here"
                )
            changes = [
                _set(connection, number, place, purpose, on, now_s) for number, place in entries
            ]
            return any(changes)

    def set_entry(self, issuer: str, list_name: str, index: int, on: bool, now_s: float) -> bool:
        """Set what an entry of a list says. Returns whether that is a change. Raises as
        `set_status`.
        """
        with self._database.write() as connection:
            found: Any = connection.execute(
                "SELECT number, purpose FROM issued_lists WHERE issuer = ? AND name = ?"
                " AND EXISTS (SELECT 1 FROM issued_entries WHERE list = number AND place = ?)",
                (issuer, list_name, index),
            ).fetchone()
            if found is None:
                raise CredentialMissing(
                    f"no credential has entry {index} of the list {list_name!r:.80} of {issuer}"
                )
            number, purpose = found
            return _set(connection, number, index, purpose, on, now_s)

    def lists(self, issuer: str | None = None) -> list[IssuedList]:
        """Return the lists of an issuer, or all, oldest first."""
        with self._database.read() as connection:
            rows: list[Any] = connection.execute(
                "SELECT issuer, name, purpose, entries, used, version FROM issued_lists"
                " WHERE ?1 IS NULL OR issuer = ?1 ORDER BY number",
                (issuer,),
            ).fetchall()
        return [IssuedList(*row) for row in rows]

    def get_list(self, issuer: str, name: str) -> IssuedList | None:
        return next((kept for kept in self.lists(issuer) if kept.name == name), None)

    def list_bits(self, issuer: str, name: str) -> bytes:
        """Return a list, uncompressed: entry 0 is the highest bit of the first byte. Raises
        CredentialMissing.
        """
        with self._database.read() as connection:
            number, entries = _list_row(connection, issuer, name)
            places = column(
                connection,
                "SELECT place FROM issued_entries WHERE list = ? AND is_on = 1",
                (number,),
            )
        bits = bytearray(entries // 8)
        for place in places:
            bits[place >> 3] |= 0x80 >> (place & 7)
        return bytes(bits)

    def put_signed(self, issuer: str, name: str, signed: SignedList) -> None:
        """Keep a list's credential as it is published. One for an older version changes nothing.
        Raises CredentialMissing.
        """
        with self._database.write() as connection:
            number, _ = _list_row(connection, issuer, name)
            connection.execute(
                "UPDATE issued_lists SET signed = ?1, signed_version = ?2, signed_s = ?3"
                " WHERE number = ?4 AND coalesce(signed_version, 0) <= ?2",
                (signed.original, signed.version, signed.signed_s, number),
            )

    def get_signed(self, issuer: str, name: str) -> SignedList | None:
        """Return a list's credential as it was last published."""
        with self._database.read() as connection:
            row: Any = connection.execute(
                "SELECT signed, signed_version, signed_s FROM issued_lists"
                " WHERE issuer = ? AND name = ? AND signed IS NOT NULL",
                (issuer, name),
            ).fetchone()
        return None if row is None else SignedList(*row)

    def _take(
        self, connection: apsw.Connection, issuer: str, purpose: str, now_s: float
    ) -> StatusPlace:
        number, name, entries = _open_list(connection, issuer, purpose)
        is_taken = "SELECT 1 FROM issued_entries WHERE list = ? AND place = ?"
        drawn = (self._draw(entries) for _ in range(_TRIES))
        for place in itertools.chain(drawn, range(entries)):  # the rest is never met in practice
            if connection.execute(is_taken, (number, place)).get is None:
                break
        connection.execute(
            "INSERT INTO issued_entries (list, place, taken_s) VALUES (?, ?, ?)",
            (number, place, now_s),
        )
        connection.execute("UPDATE issued_lists SET used = used + 1 WHERE number = ?", (number,))
        return StatusPlace(issuer, name, purpose, place)


def _open_list(connection: apsw.Connection, issuer: str, purpose: str) -> tuple[int, str, int]:
    """Return number, name and entries of the list that takes entries; a new one if need be."""
    rows: list[Any] = connection.execute(
        "SELECT number, name, entries, used FROM issued_lists WHERE issuer = ? AND purpose = ?"
        " ORDER BY number DESC",
        (issuer, purpose),
    ).fetchall()
    for number, name, entries, used in rows:
        if used < entries * STATUS_LIST_FILL:
            return number, name, entries
    last = max((int(name.rpartition("-")[2]) for _, name, _, _ in rows), default=0)
    name = f"{purpose}-{last + 1}"
    connection.execute(
        "INSERT INTO issued_lists (issuer, name, purpose, entries) VALUES (?, ?, ?, ?)",
        (issuer, name, purpose, STATUS_LIST_ENTRIES),
    )
    return connection.last_insert_rowid(), name, STATUS_LIST_ENTRIES


def _list_row(connection: apsw.Connection, issuer: str, name: str) -> tuple[int, int]:
    row: Any = connection.execute(
        "SELECT number, entries FROM issued_lists WHERE issuer = ? AND name = ?", (issuer, name)
    ).fetchone()
    if row is None:
        raise CredentialMissing(f"{issuer} has no status list {name!r:.80} here")
    return row[0], row[1]


def _assign(connection: apsw.Connection, place: StatusPlace, issued: int) -> None:
    connection.execute(
        "UPDATE issued_entries SET issued = ? WHERE place = ? AND issued IS NULL"
        " AND list = (SELECT number FROM issued_lists WHERE issuer = ? AND name = ?)",
        (issued, place.index, place.issuer, place.list_name),
    )
    if connection.changes() != 1:
        raise UserError(f"entry {place.index} of {place.list_name} is not reserved, or is used")


def _set(
    connection: apsw.Connection, number: int, place: int, purpose: str, on: bool, now_s: float
) -> bool:
    if not on and purpose in PERMANENT:
        is_on = "SELECT max(is_on) FROM issued_entries WHERE list = ? AND place = ?"
        if connection.execute(is_on, (number, place)).get:
            raise StatusPermanent("a revocation is for good; issue a new credential instead")
    connection.execute(
        "UPDATE issued_entries SET is_on = ?1, changed_s = ?2"
        " WHERE list = ?3 AND place = ?4 AND is_on <> ?1",
        (int(on), now_s, number, place),
    )
    if connection.changes() == 0:
        return False
    connection.execute("UPDATE issued_lists SET version = version + 1 WHERE number = ?", (number,))
    return True


def _load_by_id(connection: apsw.Connection, credential_id: str) -> IssuedCredential | None:
    number = connection.execute(
        "SELECT number FROM issued WHERE credential_id = ?", (credential_id,)
    ).get
    return None if number is None else _load(connection, number)


def _load(connection: apsw.Connection, number: int) -> IssuedCredential:
    row: Any = connection.execute(
        "SELECT credential_id, issuer, subject, kind, issued_s, valid_until_s, original"
        " FROM issued WHERE number = ?",
        (number,),
    ).fetchone()
    statuses: list[Any] = connection.execute(
        "SELECT issuer, name, purpose, place, is_on, changed_s FROM issued_entries"
        " JOIN issued_lists ON issued_lists.number = list WHERE issued = ?"
        " ORDER BY issued_entries.rowid",
        (number,),
    ).fetchall()
    credential_id, issuer, subject, kind, issued_s, valid_until_s, original = row
    return IssuedCredential(
        number,
        credential_id,
        issuer,
        subject,
        kind,
        issued_s,
        valid_until_s,
        tuple(
            IssuedStatus(StatusPlace(of, name, purpose, place), bool(is_on), changed_s)
            for of, name, purpose, place, is_on, changed_s in statuses
        ),
        original,
    )
