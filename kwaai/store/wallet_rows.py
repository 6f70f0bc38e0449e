"""The wallet's rows: statements and their meaning, inside a transaction of the caller.

Names (types, issuers, subjects) are numbers here; `facets` has a row for every type and subject of
a credential, so that any search reads one index (`kwaai.store.migrations`).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, Literal

import apsw

from credentials.wallet import StoredCredential, WalletEntry


@dataclass(frozen=True, slots=True)
class Search:
    """What `Wallet.find` looks for; None: anything."""

    type: str | None = None
    issuer: str | None = None
    subject: str | None = None
    valid_at_s: float | None = None
    quarantined: bool | None = False
    text: str | None = None
    after: int | None = None


def column(connection: apsw.Connection, statement: str, values: apsw.Bindings) -> list[Any]:
    """Return the first column of what a statement finds."""
    return [row[0] for row in connection.execute(statement, values).fetchall()]


def number_of(connection: apsw.Connection, wallet_id: str) -> int | None:
    """Return the number of a credential, None where it is not there."""
    found: int | None = connection.execute(
        "SELECT number FROM credentials WHERE id = ?", (wallet_id,)
    ).get
    return found


def numbers_named(connection: apsw.Connection, name: str, prefix_chars_min: int) -> list[int]:
    """Return up to two credentials by wallet id, its beginning, or the id that they claim."""
    found = column(
        connection,
        "SELECT number FROM credentials WHERE id = ?1"
        " UNION SELECT number FROM credentials WHERE credential_id = ?1 LIMIT 2",
        (name,),
    )
    is_prefix = len(name) >= prefix_chars_min and not name.strip("0123456789abcdef")
    if not found and is_prefix:
        prefixed = "SELECT number FROM credentials WHERE id >= ? AND id < ? LIMIT 2"
        found = column(connection, prefixed, (name, name + "g"))
    return found


def numbers_from(connection: apsw.Connection, last: int, limit: int) -> list[int]:
    """Return the numbers that come after `last`, oldest first."""
    newer = "SELECT number FROM credentials WHERE number > ? ORDER BY number LIMIT ?"
    return column(connection, newer, (last, limit))


def is_quarantined(connection: apsw.Connection, number: int) -> bool:
    return bool(
        connection.execute("SELECT quarantined FROM credentials WHERE number = ?", (number,)).get
    )


def count(connection: apsw.Connection, quarantined: bool | None) -> int:
    where = "" if quarantined is None else f" WHERE quarantined = {int(quarantined)}"
    counted: int = connection.execute(f"SELECT count(*) FROM credentials{where}").get
    return counted


def is_full(
    connection: apsw.Connection,
    table: Literal["credentials", "long_forms", "issued"],
    rows_max: int,
) -> bool:
    """Say whether a table has `rows_max` rows. Counts only where the newest number allows it."""
    newest: int = connection.execute(f"SELECT coalesce(max(rowid), 0) FROM {table}").get
    if newest < rows_max:
        return False
    counted: int = connection.execute(f"SELECT count(*) FROM {table}").get
    return counted >= rows_max


def insert(connection: apsw.Connection, wallet_id: str, original: bytes, entry: WalletEntry) -> int:
    """Insert a credential that is not there, and return its number."""
    issuer = _name(connection, entry.issuer)
    connection.execute(
        "INSERT INTO credentials (id, credential_id, issuer, valid_from_s, valid_until_s, added_s,"
        " quarantined, reason) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (wallet_id, entry.credential_id, issuer, *_times(entry), *_state(entry)),
    )
    number = connection.last_insert_rowid()
    connection.execute("INSERT INTO originals VALUES (?, ?)", (number, original))
    _insert_facets(connection, number, issuer, entry)
    return number


def replace_entry(connection: apsw.Connection, number: int, entry: WalletEntry) -> None:
    """Give a credential another entry; its bytes and number stay."""
    issuer = _name(connection, entry.issuer)
    connection.execute(
        "UPDATE credentials SET credential_id = ?, issuer = ?, valid_from_s = ?,"
        " valid_until_s = ?, added_s = ?, quarantined = ?, reason = ? WHERE number = ?",
        (entry.credential_id, issuer, *_times(entry), *_state(entry), number),
    )
    for table in ("facets", "credential_types", "credential_subjects"):
        connection.execute(f"DELETE FROM {table} WHERE credential = ?", (number,))
    _insert_facets(connection, number, issuer, entry)


def delete(connection: apsw.Connection, number: int) -> None:
    """Delete a credential. Names that nothing uses any more go with it."""
    names = connection.execute(
        "SELECT issuer FROM credentials WHERE number = ?1"
        " UNION SELECT type FROM credential_types WHERE credential = ?1"
        " UNION SELECT subject FROM credential_subjects WHERE credential = ?1",
        (number,),
    ).fetchall()
    connection.execute("DELETE FROM credentials WHERE number = ?", (number,))
    connection.executemany(
        "DELETE FROM names WHERE number = ?1"
        " AND NOT EXISTS (SELECT 1 FROM facets WHERE issuer = ?1)"
        " AND NOT EXISTS (SELECT 1 FROM facets WHERE type = ?1)"
        " AND NOT EXISTS (SELECT 1 FROM facets WHERE subject = ?1)",
        names,
    )


def load(connection: apsw.Connection, number: int) -> StoredCredential:
    """Load a credential that is there."""
    row: tuple[Any, ...] | None = connection.execute(
        "SELECT id, credential_id, text, valid_from_s, valid_until_s, added_s, quarantined, reason,"
        " original FROM credentials JOIN names ON names.number = issuer"
        " JOIN originals ON credential = credentials.number WHERE credentials.number = ?",
        (number,),
    ).fetchone()
    if row is None:
        raise LookupError(number)
    wallet_id, credential_id, issuer, begins, ends, added, quarantined, reason, original = row
    entry = WalletEntry(
        types=_texts(connection, "type", number),
        issuer=issuer,
        subjects=_texts(connection, "subject", number),
        valid_from_s=begins,
        valid_until_s=ends,
        credential_id=credential_id,
        added_s=added,
        quarantined=bool(quarantined),
        reason=reason,
    )
    return StoredCredential(number, wallet_id, entry, original)


def search(connection: apsw.Connection, wanted: Search, limit: int) -> list[int]:
    """Return the numbers of what matches, newest first."""
    query = search_query(connection, wanted)
    if query is None:
        return []
    statement, values = query
    return column(connection, f"{statement} LIMIT :limit", {**values, "limit": limit})


def search_query(connection: apsw.Connection, wanted: Search) -> tuple[str, dict[str, Any]] | None:
    """Return the statement of a search, less its LIMIT, and its values; None: nothing can match."""
    named = {"type": wanted.type, "issuer": wanted.issuer, "subject": wanted.subject}
    values: dict[str, Any] = {}
    for name, text in named.items():
        if text is not None:
            number = connection.execute("SELECT number FROM names WHERE text = ?", (text,)).get
            if number is None:
                return None
            values[name] = number
    conditions = [f"{name} = :{name}" for name in values]
    # Of several indexes the one on the rarest name is read; which that is, the names' kinds tell:
    # a subject has fewer credentials than an issuer, an issuer fewer than there are of a type.
    rarest = next((c for c in ("subject", "issuer", "type") if c in values), None)
    table, cursor = "credentials", "number"
    if rarest is not None:
        table, cursor = f"facets INDEXED BY facets_by_{rarest}", "credential"
    if wanted.quarantined is not None:
        conditions.append(f"quarantined = {int(wanted.quarantined)}")
    if wanted.valid_at_s is not None:
        values["at"] = wanted.valid_at_s
        conditions.append("(valid_from_s IS NULL OR valid_from_s <= :at)")
        conditions.append("(valid_until_s IS NULL OR valid_until_s >= :at)")
    if wanted.after is not None:
        values["after"] = wanted.after
        conditions.append(f"{cursor} < :after")
    if wanted.text is not None:
        values["text"] = wanted.text
        conditions.append(f"{cursor} IN ({_MENTIONING})")
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    first = _MENTIONED if wanted.text is not None else ""
    return f"{first}SELECT DISTINCT {cursor} FROM {table}{where} ORDER BY {cursor} DESC", values


_MENTIONING = (
    "SELECT number FROM credentials WHERE instr(lower(credential_id), lower(:text))"
    + "".join(
        f" UNION ALL SELECT credential FROM mentioned CROSS JOIN facets INDEXED BY facets_by_{what}"
        f" ON {what} = mentioned.number"
        for what in ("type", "issuer", "subject")
    )
)
_MENTIONED = (
    "WITH mentioned (number) AS MATERIALIZED"
    " (SELECT number FROM names WHERE instr(lower(text), lower(:text))) "
)


def _name(connection: apsw.Connection, text: str) -> int:
    number: int | None = connection.execute("SELECT number FROM names WHERE text = ?", (text,)).get
    if number is not None:
        return number
    connection.execute("INSERT INTO names (text) VALUES (?)", (text,))
    return connection.last_insert_rowid()


def _insert_facets(
    connection: apsw.Connection, number: int, issuer: int, entry: WalletEntry
) -> None:
    types = [_name(connection, text) for text in entry.types]
    subjects = [_name(connection, text) for text in entry.subjects]
    connection.executemany(
        "INSERT INTO credential_types VALUES (?, ?, ?)",
        [(number, place, name) for place, name in enumerate(types)],
    )
    connection.executemany(
        "INSERT INTO credential_subjects VALUES (?, ?, ?)",
        [(number, place, name) for place, name in enumerate(subjects)],
    )
    pairs = itertools.product(dict.fromkeys(types) or [None], dict.fromkeys(subjects) or [None])
    connection.executemany(
        "INSERT INTO facets VALUES (?, ?, ?, ?, ?, ?, ?)",
        [
            (number, kind, issuer, subject, *_times(entry), int(entry.quarantined))
            for kind, subject in pairs
        ],
    )


def _texts(
    connection: apsw.Connection, what: Literal["type", "subject"], number: int
) -> tuple[str, ...]:
    texts = (
        f"SELECT text FROM credential_{what}s JOIN names ON names.number = {what}"
        " WHERE credential = ? ORDER BY place"
    )
    return tuple(column(connection, texts, (number,)))


def _times(entry: WalletEntry) -> tuple[float | None, float | None]:
    return entry.valid_from_s, entry.valid_until_s


def _state(entry: WalletEntry) -> tuple[float, int, str]:
    return entry.added_s, int(entry.quarantined), entry.reason
