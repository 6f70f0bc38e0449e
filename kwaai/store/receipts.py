"""Receipts of answers: what this node signed, and what the other side did, or that it did not.

In the wallet's database. Bounded for each peer and in all, and in time. Does not sign, send, verify
or compare: `kwaai.node.receipts` does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import apsw

from kwaai.errors import BodyTooLarge, UserError
from kwaai.intent.receipt import Outcome, Role, State
from kwaai.limits import (
    PEER_TEXT_BYTES_MAX,
    RECEIPT_BYTES_MAX,
    RECEIPT_LIFE_S,
    RECEIPT_RECENT_MAX,
    RECEIPT_ROWS_MAX,
    RECEIPT_ROWS_PER_PEER_MAX,
    WALLET_FIND_MAX,
)
from kwaai.store.database import Database
from kwaai.types import LayerRange

_COLUMNS: Final = (
    "role, peer, session, nonce, model, block_start, block_stop, prompt_tokens, answer_tokens,"
    " outcome, started_s, finished_s, state, detail, own, counterpart"
)
_TEXT_CHARS_MAX: Final = 256


@dataclass(frozen=True, slots=True)
class ReceiptRow:
    """One answer with one peer."""

    role: Role
    """What this node was."""
    peer: str
    """PeerId of the other side."""
    session: bytes
    nonce: str
    """`requestNonce` of both halves."""
    model: str
    layers: LayerRange
    """What the hop ran."""
    prompt_tokens: int
    answer_tokens: int
    outcome: Outcome
    """By this node's own half, as all that is above."""
    started_s: float
    finished_s: float
    state: State
    detail: str
    """What contradicts, or why the counterpart is missing."""
    own: bytes
    """The half that this node signed."""
    counterpart: bytes | None
    """The other's half, as it came and held; None: missing."""


@dataclass(frozen=True, slots=True)
class PeerReceipts:
    """All receipts with one peer, counted."""

    peer: str
    agreed: int
    """Both sides say the same, and that it was completed."""
    count: int
    finished_s: float
    """Of the newest."""


class ReceiptBook:
    """All of them. What others can cause (this node as a hop) has its own room, and what this node
    caused itself is never pushed out by it.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, rows: Iterable[ReceiptRow]) -> int:
        """Keep receipts together; return how many were new. One that is known gets the state, the
        detail and the counterpart, unless it has a counterpart: what came first stays.

        Where a peer has too many, its oldest goes; where all together are too many, the oldest of
        the peer that came last. Raises BodyTooLarge, UserError (bounds), DiskFull, Locked.
        """
        new = 0
        with self._database.write() as connection:
            for row in rows:
                _check(row)
                new += _put(connection, row)
        return new

    def rows(
        self,
        peer: str | None = None,
        *,
        role: Role | None = None,
        state: State | None = None,
        limit: int = 100,
    ) -> list[ReceiptRow]:
        """Return what matches all that is given, newest first."""
        values = {"peer": peer, "role": role, "state": state}
        conditions = [f"{name} = :{name}" for name, value in values.items() if value is not None]
        where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
        with self._database.read() as connection:
            found: list[Any] = connection.execute(
                f"SELECT {_COLUMNS} FROM receipts {where} ORDER BY number DESC LIMIT :limit",
                {**values, "limit": max(0, min(limit, WALLET_FIND_MAX))},
            ).fetchall()
        return [_row(values) for values in found]

    def get(self, role: Role, peer: str, session: bytes) -> ReceiptRow | None:
        """Return the receipt of one session with a peer."""
        with self._database.read() as connection:
            return _load(connection, role, peer, session)

    def recent(self, limit: int = RECEIPT_RECENT_MAX) -> list[bytes]:
        """Return the newest agreed half of each of the requesters that used this node last."""
        with self._database.read() as connection:
            found: list[Any] = connection.execute(
                "SELECT counterpart FROM receipts WHERE number IN (SELECT max(number)"
                " FROM receipts WHERE role = 'hop' AND state = 'agreed'"
                " GROUP BY peer ORDER BY max(number) DESC LIMIT ?) ORDER BY number DESC",
                (limit,),
            ).fetchall()
        return [counterpart for (counterpart,) in found if counterpart is not None]

    def by_peer(self, role: Role) -> list[PeerReceipts]:
        """Return the counts for each peer, sorted by PeerId."""
        with self._database.read() as connection:
            found: list[Any] = connection.execute(
                "SELECT peer, coalesce(sum(state = 'agreed' AND outcome = 'completed'), 0),"
                " count(*), max(finished_s) FROM receipts WHERE role = ? GROUP BY peer"
                " ORDER BY peer",
                (role,),
            ).fetchall()
        return [PeerReceipts(*row) for row in found]

    def counts(self) -> dict[State, int]:
        """Return how many there are in each state."""
        with self._database.read() as connection:
            found: list[Any] = connection.execute(
                "SELECT state, count(*) FROM receipts GROUP BY state"
            ).fetchall()
        return dict(found)

    def prune(self, now_s: float, keep_s: float = RECEIPT_LIFE_S) -> int:
        """Forget what is older than `keep_s`, or no longer valid; return how many there were."""
        with self._database.write() as connection:
            connection.execute(
                "DELETE FROM receipts WHERE finished_s < ?",
                (now_s - min(keep_s, RECEIPT_LIFE_S),),
            )
            return int(connection.changes())


def _check(row: ReceiptRow) -> None:
    halves = (row.own, row.counterpart or b"")
    if max(map(len, halves)) > RECEIPT_BYTES_MAX:
        raise BodyTooLarge(f"a receipt of over {RECEIPT_BYTES_MAX} bytes")
    if max(map(len, (row.peer, row.nonce, row.model))) > _TEXT_CHARS_MAX:
        raise UserError(f"a receipt with a text of over {_TEXT_CHARS_MAX} characters")
    if not (math.isfinite(row.started_s) and math.isfinite(row.finished_s)):
        raise UserError("a receipt of no time")


def _put(connection: apsw.Connection, row: ReceiptRow) -> int:
    detail = row.detail[:PEER_TEXT_BYTES_MAX]
    known = _load(connection, row.role, row.peer, row.session)
    if known is not None:
        if known.counterpart is None or known.counterpart == row.counterpart:
            connection.execute(
                "UPDATE receipts SET state = ?, detail = ?, counterpart = ?"
                " WHERE role = ? AND peer = ? AND session = ?",
                (row.state, detail, row.counterpart, row.role, row.peer, row.session),
            )
        return 0
    connection.execute(
        f"INSERT INTO receipts ({_COLUMNS})"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            row.role,
            row.peer,
            row.session,
            row.nonce,
            row.model,
            row.layers.start,
            row.layers.stop,
            row.prompt_tokens,
            row.answer_tokens,
            row.outcome,
            row.started_s,
            row.finished_s,
            row.state,
            detail,
            row.own,
            row.counterpart,
        ),
    )
    _bound(connection, row.role, row.peer)
    return 1


def _bound(connection: apsw.Connection, role: str, peer: str) -> None:
    connection.execute(
        "DELETE FROM receipts WHERE number IN (SELECT number FROM receipts"
        " WHERE role = ? AND peer = ? ORDER BY number DESC LIMIT -1 OFFSET ?)",
        (role, peer, RECEIPT_ROWS_PER_PEER_MAX),
    )
    count: Any = connection.execute("SELECT count(*) FROM receipts WHERE role = ?", (role,)).get
    if count > RECEIPT_ROWS_MAX:
        # Strangers, however many, take the room of strangers; not of the row that just came.
        connection.execute(
            "DELETE FROM receipts WHERE number = (SELECT min(number) FROM receipts WHERE role = ?"
            " GROUP BY peer HAVING min(number) < ? ORDER BY min(number) DESC LIMIT 1)",
            (role, connection.last_insert_rowid()),
        )


def _load(connection: apsw.Connection, role: str, peer: str, session: bytes) -> ReceiptRow | None:
    row: Any = connection.execute(
        f"SELECT {_COLUMNS} FROM receipts WHERE role = ? AND peer = ? AND session = ?",
        (role, peer, session),
    ).fetchone()
    return None if row is None else _row(row)


def _row(values: Any) -> ReceiptRow:
    (
        role,
        peer,
        session,
        nonce,
        model,
        start,
        stop,
        prompt_tokens,
        answer_tokens,
        outcome,
        started_s,
        finished_s,
        state,
        detail,
        own,
        counterpart,
    ) = values
    return ReceiptRow(
        role=role,
        peer=peer,
        session=session,
        nonce=nonce,
        model=model,
        layers=LayerRange(start, stop),
        prompt_tokens=prompt_tokens,
        answer_tokens=answer_tokens,
        outcome=outcome,
        started_s=started_s,
        finished_s=finished_s,
        state=state,
        detail=detail,
        own=own,
        counterpart=counterpart,
    )
