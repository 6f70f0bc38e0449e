"""The rows of a backup: a JSON array each, its first item saying what it is. Written from a wallet,
and joined with one inside a transaction of the caller.

Nothing of this node's state is taken from a row unseen: types and bounds are the wallet's own. What
peers presented is left out: they present it anew. Does not seal or unpack: `kwaai.store.backup`.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, get_args

import apsw

from credentials.keys import parse_peer_id
from credentials.wallet import WalletEntry, wallet_id
from kwaai.errors import FileCorrupt
from kwaai.limits import BACKUP_LIST_ENTRIES_MAX
from kwaai.store import evidence_rows
from kwaai.store.issued import PERMANENT, IssuedRegister
from kwaai.store.requests import (
    CredentialRequest,
    Direction,
    RequestBook,
    RequestKind,
    RequestState,
)
from kwaai.trust.evidence import Observation, Outcome
from kwaai.wire.credential_messages import REQUEST_ID_BYTES

if TYPE_CHECKING:
    from kwaai.store.wallet import Wallet

Row = list[Any]
_LIST_NAME = re.compile(r"[a-z]{1,20}-[0-9]{1,6}")


def rows(wallet: Wallet) -> Iterator[Row]:
    """Write a wallet as rows. Call it inside one transaction."""
    for stored in wallet.iterate():
        entry = stored.entry
        yield [
            "credential",
            _text(stored.original),
            entry.types,
            entry.issuer,
            entry.subjects,
            entry.valid_from_s,
            entry.valid_until_s,
            entry.credential_id,
            entry.added_s,
            entry.quarantined,
            entry.reason,
        ]
    with wallet.database.read() as connection:
        for url, original, fetched_s in connection.execute("SELECT * FROM fetched_lists"):
            yield ["fetched_list", url, _text(original), fetched_s]
        for short, long in connection.execute("SELECT short, long FROM long_forms"):
            yield ["long_form", short, long]
        for row in connection.execute(
            "SELECT issuer, name, purpose, entries, version FROM issued_lists ORDER BY number"
        ):
            yield ["list", *row]
    for issued in IssuedRegister(wallet.database).iterate():
        yield [
            "issued",
            _text(issued.original),
            issued.credential_id,
            issued.issuer,
            issued.subject,
            issued.kind,
            issued.issued_s,
            issued.valid_until_s,
        ]
    with wallet.database.read() as connection:
        for row in connection.execute(
            "SELECT issued_lists.issuer, name, place, taken_s, credential_id, is_on, changed_s"
            " FROM issued_entries JOIN issued_lists ON issued_lists.number = list"
            " LEFT JOIN issued ON issued.number = issued ORDER BY issued_entries.rowid"
        ):
            yield ["entry", *row]
        for number, body, *row in connection.execute(
            "SELECT number, body, id, direction, kind, peer, type, state, detail, created_s,"
            " changed_s FROM requests ORDER BY number"
        ):
            yield ["request", number, _text(body), *row]
        for values in evidence_rows.every(connection):
            yield ["observation", *values]


def join(wallet: Wallet, connection: apsw.Connection, given: Iterable[Any]) -> tuple[int, int, int]:
    """Join rows with a wallet. Returns how many credentials, issued ones and requests were new.

    Raises FileCorrupt for what `rows` does not write, UserError where another credential was issued
    under the same id; WalletFull, BodyTooLarge.
    """
    joining = _Joining(wallet, connection)
    try:
        for row in given:
            joining.take(row)
    except (
        *(TypeError, ValueError, KeyError, OverflowError, RecursionError),
        apsw.ConstraintError,
    ) as error:
        raise FileCorrupt(
            f"the backup holds a row that no wallet has ({type(error).__name__})"
        ) from None
    joining.finish()
    return joining.credentials, joining.issued, joining.requests


class _Joining:
    def __init__(self, wallet: Wallet, connection: apsw.Connection) -> None:
        self._wallet = wallet
        self._connection = connection
        self._register = IssuedRegister(wallet.database)
        self._book = RequestBook(wallet.database)
        self._lists: dict[tuple[str, str], tuple[int, str, int]] = {}
        self.credentials = self.issued = self.requests = 0

    def take(self, row: Any) -> None:
        what, *values = row
        match what:
            case "credential":
                self._credential(*values)
            case "fetched_list":
                self._fetched_list(*values)
            case "long_form":
                self._wallet.put_long_form(*map(_str, values))
            case "list":
                self._list(*values)
            case "issued":
                self._issued(*values)
            case "entry":
                self._entry(*values)
            case "request":
                self._request(*values)
            case "observation":
                self._observation(*values)
            case _:
                raise ValueError("a row of an unknown kind")

    def finish(self) -> None:
        """Count anew, and outdate what was signed."""
        self._connection.executemany(
            "UPDATE issued_lists SET version = version + 1, used ="
            " (SELECT count(DISTINCT place) FROM issued_entries WHERE list = number)"
            " WHERE number = ?",
            [(number,) for number, _, _ in self._lists.values()],
        )

    def _credential(
        self,
        original: Any,
        types: Any,
        issuer: Any,
        subjects: Any,
        valid_from_s: Any,
        valid_until_s: Any,
        credential_id: Any,
        added_s: Any,
        quarantined: Any,
        reason: Any,
    ) -> None:
        data = _bytes(original)
        if self._wallet.get(wallet_id(data)) is not None:
            return  # what is said of it here is newer
        entry = WalletEntry(
            types=tuple(map(_str, types)),
            issuer=_str(issuer),
            subjects=tuple(map(_str, subjects)),
            valid_from_s=_time(valid_from_s),
            valid_until_s=_time(valid_until_s),
            credential_id=None if credential_id is None else _str(credential_id),
            added_s=_number(added_s),
            quarantined=bool(quarantined),
            reason=_str(reason),
        )
        self._wallet.add(data, entry)
        self.credentials += 1

    def _fetched_list(self, url: Any, original: Any, fetched_s: Any) -> None:
        known = self._wallet.get_status_list(_str(url))
        if known is None or known.fetched_s < _number(fetched_s):
            self._wallet.put_status_list(url, _bytes(original), _number(fetched_s))

    def _list(self, issuer: Any, name: Any, purpose: Any, entries: Any, version: Any) -> None:
        if _int(entries) % 8 or not 0 < entries <= BACKUP_LIST_ENTRIES_MAX:
            raise ValueError("a list of an odd length")
        if _LIST_NAME.fullmatch(_str(name)) is None or name.rpartition("-")[0] != purpose:
            raise ValueError("a list of an odd name")
        self._connection.execute(
            "INSERT OR IGNORE INTO issued_lists (issuer, name, purpose, entries)"
            " VALUES (?, ?, ?, ?)",
            (_str(issuer), _str(name), _str(purpose), entries),
        )
        self._connection.execute(
            "UPDATE issued_lists SET version = max(version, ?) WHERE issuer = ? AND name = ?",
            (_int(version), issuer, name),
        )
        found: Any = self._connection.execute(
            "SELECT number, purpose, entries FROM issued_lists WHERE issuer = ? AND name = ?",
            (issuer, name),
        ).fetchone()
        if found[1:] != (purpose, entries):
            raise ValueError("a list of another purpose or length")
        self._lists[issuer, name] = found

    def _issued(
        self,
        original: Any,
        credential_id: Any,
        issuer: Any,
        subject: Any,
        kind: Any,
        issued_s: Any,
        valid_until_s: Any,
    ) -> None:
        before = self._register.get(_str(credential_id))
        self._register.record(
            _bytes(original),
            credential_id=credential_id,
            issuer=_str(issuer),
            subject=_str(subject),
            kind=_str(kind),
            issued_s=_number(issued_s),
            valid_until_s=_time(valid_until_s),
        )
        self.issued += before is None

    def _entry(
        self,
        issuer: Any,
        name: Any,
        place: Any,
        taken_s: Any,
        credential_id: Any,
        is_on: Any,
        changed_s: Any,
    ) -> None:
        number, purpose, entries = self._lists[_str(issuer), _str(name)]
        if not 0 <= _int(place) < entries or is_on not in (0, 1):
            raise ValueError("an entry that is none of its list")
        issued = None
        if credential_id is not None:
            found = "SELECT number FROM issued WHERE credential_id = ?"
            issued = _int(self._connection.execute(found, (_str(credential_id),)).get)
        row = self._known_entry(number, place, issued)
        if row is None:
            self._connection.execute(
                "INSERT INTO issued_entries (list, place, taken_s, issued, is_on, changed_s)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (number, place, _number(taken_s), issued, is_on, _time(changed_s)),
            )
            return
        rowid, known_on, known_s = row
        if purpose in PERMANENT:
            wins = is_on > known_on
        else:
            wins = _number(changed_s or 0) > (known_s or 0)
        if wins:
            self._connection.execute(
                "UPDATE issued_entries SET is_on = ?, changed_s = ? WHERE rowid = ?",
                (is_on, _time(changed_s), rowid),
            )

    def _known_entry(
        self, number: int, place: int, issued: int | None
    ) -> tuple[int, int, float | None] | None:
        """Find the entry that is meant; one that was only taken becomes the credential's."""
        if issued is not None:
            self._connection.execute(
                "UPDATE issued_entries SET issued = ?1 WHERE list = ?2 AND place = ?3"
                " AND issued IS NULL AND NOT EXISTS (SELECT 1 FROM issued_entries"
                " WHERE list = ?2 AND place = ?3 AND issued = ?1)",
                (issued, number, place),
            )
        row: Any = self._connection.execute(
            "SELECT rowid, is_on, changed_s FROM issued_entries"
            " WHERE list = ?1 AND place = ?2 AND (?3 IS NULL OR issued = ?3) LIMIT 1",
            (number, place, issued),
        ).fetchone()
        return None if row is None else (row[0], row[1], row[2])

    def _request(
        self,
        _number_there: Any,
        body: Any,
        id: Any,
        direction: Any,
        kind: Any,
        peer: Any,
        type: Any,
        state: Any,
        detail: Any,
        created_s: Any,
        changed_s: Any,
    ) -> None:
        for value, allowed in ((direction, Direction), (kind, RequestKind), (state, RequestState)):
            if value not in get_args(allowed):
                raise ValueError("a request in no known state")
        _check_request(_str(id), _str(peer), kind, _bytes(body))
        request = CredentialRequest(
            id,
            direction,
            kind,
            peer,
            _str(type),
            _bytes(body),
            state,
            _str(detail),
            _number(created_s),
            _number(changed_s),
        )
        self.requests += self._book.put(request)

    def _observation(
        self,
        peer: Any,
        at_s: Any,
        outcome: Any,
        latency_s: Any,
        expected_s: Any,
        tokens_s: Any,
        claimed_tokens_s: Any,
        tokens: Any,
        code: Any,
    ) -> None:
        observation = Observation(
            peer=_str(peer),
            at_s=_number(at_s),
            outcome=Outcome(_str(outcome)),
            latency_s=_time(latency_s),
            expected_s=_time(expected_s),
            tokens_s=_time(tokens_s),
            claimed_tokens_s=_time(claimed_tokens_s),
            tokens=_int(tokens),
            code=_str(code),
        )
        evidence_rows.check(observation)
        evidence_rows.restore(self._connection, observation)


def _check_request(id: str, peer: str, kind: str, body: bytes) -> None:
    """Refuse what the exchange between nodes would trip over. Raises ValueError, TypeError."""
    if len(bytes.fromhex(id)) != REQUEST_ID_BYTES:
        raise ValueError("an id of an odd length")
    parse_peer_id(peer)
    value = json.loads(body)
    what, note = value["claims" if kind == "request" else "credential"], value["note"]
    if not isinstance(what, dict if kind == "request" else str) or not isinstance(note, str):
        raise TypeError("a request that says something else")


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _bytes(value: Any) -> bytes:
    return base64.b64decode(_str(value), validate=True)


def _str(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    value.encode()  # a lone surrogate is a ValueError
    return value


def _int(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) >= 1 << 62:
        raise TypeError("not a whole number")
    return value


def _number(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise TypeError("not a number")
    return float(value)


def _time(value: Any) -> float | None:
    return None if value is None else _number(value)
