"""Credential requests and offers between this node and peers: those that wait for a decision, and
the last ones that were decided.

In the wallet's database. Does not send, decide or read a body: `kwaai.node` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

import apsw

from kwaai.errors import BodyTooLarge, CredentialMissing, RequestClosed, UserError, WalletFull
from kwaai.limits import (
    REQUEST_BODY_BYTES_MAX,
    REQUEST_TEXT_CHARS_MAX,
    REQUEST_WAITS_S,
    REQUESTS_CLOSED_MAX,
    REQUESTS_PENDING_MAX,
    REQUESTS_PENDING_PER_PEER_MAX,
    WALLET_FIND_MAX,
)
from kwaai.store.database import Database

Direction = Literal["in", "out"]
RequestKind = Literal["request", "offer"]
RequestState = Literal["pending", "approved", "delivered", "refused", "failed"]

_COLUMNS = "id, direction, kind, peer, type, body, state, detail, created_s, changed_s"
OPEN_STATES: Final = ("pending", "approved")
"""Of those that somebody still has to do something about."""
_OPEN: Final = str(OPEN_STATES)


@dataclass(frozen=True, slots=True)
class CredentialRequest:
    """A request for a credential, or the offer of one."""

    id: str
    """Unique for a direction and a peer: a peer chooses those of its own."""
    direction: Direction
    """`in`: the peer asked or offered; `out`: this node did."""
    kind: RequestKind
    peer: str
    """PeerId of the other side."""
    type: str
    """Of the credential."""
    body: bytes
    """What came or went."""
    state: RequestState
    detail: str
    """Why it was refused or failed; what was delivered."""
    created_s: float
    changed_s: float


class RequestBook:
    """All of them, bounded: for a peer, in total, and those that are decided."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, request: CredentialRequest) -> bool:
        """Keep a new one. Returns False, and changes nothing, where its id is known.

        Where too many wait in its direction, those make room that have waited for too long, then
        the newest of the peer that has the most. Raises WalletFull where too many of the peer wait,
        or nobody has more than it; BodyTooLarge; UserError (bounds, an id that another peer uses).
        """
        if len(request.body) > REQUEST_BODY_BYTES_MAX:
            raise BodyTooLarge(f"a request of {len(request.body)} bytes")
        texts = (request.id, request.peer, request.type, request.detail)
        if max(map(len, texts)) > REQUEST_TEXT_CHARS_MAX:
            raise UserError(f"a request with a text of over {REQUEST_TEXT_CHARS_MAX} characters")
        with self._database.write() as connection:
            if _load(connection, request.direction, request.peer, request.id) is not None:
                return False
            if request.direction == "in":
                _check_unique(connection, request)
            if request.state in OPEN_STATES:
                _make_room(connection, request)
            connection.execute(
                f"INSERT INTO requests ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    request.id,
                    request.direction,
                    request.kind,
                    request.peer,
                    request.type,
                    request.body,
                    request.state,
                    request.detail,
                    request.created_s,
                    request.changed_s,
                ),
            )
        return True

    def get(self, direction: Direction, peer: str, id: str) -> CredentialRequest | None:
        with self._database.read() as connection:
            return _load(connection, direction, peer, id)

    def find(
        self,
        *,
        direction: Direction | None = None,
        peer: str | None = None,
        state: RequestState | None = None,
        open_first: bool = False,
        limit: int = 100,
    ) -> list[CredentialRequest]:
        """Return what matches all that is given, newest first; under `open_first` what is decided
        comes after what is not, so that no number of decided ones hides it.
        """
        values = {"direction": direction, "peer": peer, "state": state}
        conditions = [f"{name} = :{name}" for name, value in values.items() if value is not None]
        where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
        order = f"state IN {_OPEN} DESC, number DESC" if open_first else "number DESC"
        limit = max(0, min(limit, WALLET_FIND_MAX))
        with self._database.read() as connection:
            rows: list[Any] = connection.execute(
                f"SELECT {_COLUMNS} FROM requests {where} ORDER BY {order} LIMIT :limit",
                {**values, "limit": limit},
            ).fetchall()
        return [CredentialRequest(*row) for row in rows]

    def set_state(
        self,
        direction: Direction,
        peer: str,
        id: str,
        *,
        expected: RequestState,
        state: RequestState,
        now_s: float,
        detail: str = "",
    ) -> CredentialRequest:
        """Change a state that still is `expected`, so that nothing is decided twice, and return the
        request. Raises CredentialMissing, RequestClosed.
        """
        with self._database.write() as connection:
            known = _load(connection, direction, peer, id)
            if known is None:
                raise CredentialMissing(f"there is no request {id!r:.80} of {peer:.80}")
            if known.state != expected:
                raise RequestClosed(f"the request {id:.80} of {peer:.80} is {known.state} already")
            connection.execute(
                "UPDATE requests SET state = ?, detail = ?, changed_s = ?"
                " WHERE direction = ? AND peer = ? AND id = ?",
                (state, detail[:REQUEST_TEXT_CHARS_MAX], now_s, direction, peer, id),
            )
            _forget_closed(connection)
            changed = _load(connection, direction, peer, id)
        return changed or known


def _load(
    connection: apsw.Connection, direction: str, peer: str, id: str
) -> CredentialRequest | None:
    row: Any = connection.execute(
        f"SELECT {_COLUMNS} FROM requests WHERE direction = ? AND peer = ? AND id = ?",
        (direction, peer, id),
    ).fetchone()
    return None if row is None else CredentialRequest(*row)


def _check_unique(connection: apsw.Connection, request: CredentialRequest) -> None:
    """Refuse an id by which the owner could not tell two peers' requests apart."""
    others = "SELECT 1 FROM requests WHERE direction = 'in' AND id = ? AND peer <> ? LIMIT 1"
    if connection.execute(others, (request.id, request.peer)).get is not None:
        raise UserError("that id is in use; draw another one at random")


def _make_room(connection: apsw.Connection, request: CredentialRequest) -> None:
    # Both ways are counted apart: what peers ask never keeps this node from asking.
    peer, direction = request.peer, request.direction
    counted = (
        "SELECT count(*), coalesce(sum(peer = ?), 0) FROM requests"
        f" WHERE state IN {_OPEN} AND direction = ?"
    )
    waiting: Any = connection.execute(counted, (peer, direction)).fetchone()
    if waiting[0] >= REQUESTS_PENDING_MAX:
        connection.execute(
            f"DELETE FROM requests WHERE state IN {_OPEN} AND direction = ? AND created_s < ?",
            (direction, request.created_s - REQUEST_WAITS_S),
        )
        waiting = connection.execute(counted, (peer, direction)).fetchone()
    if waiting[1] >= REQUESTS_PENDING_PER_PEER_MAX:
        raise WalletFull(
            f"{REQUESTS_PENDING_PER_PEER_MAX} requests with {peer:.80} wait for a decision already"
        )
    if waiting[0] >= REQUESTS_PENDING_MAX and not _displace(connection, direction, waiting[1] + 1):
        raise WalletFull(f"{REQUESTS_PENDING_MAX} requests wait for a decision; decide some first")


def _displace(connection: apsw.Connection, direction: str, count: int) -> bool:
    """Forget the newest request that waits of the peer that has the most, if that is over `count`:
    who has one keeps it, however many come.
    """
    connection.execute(
        "DELETE FROM requests WHERE number = (SELECT max(number) FROM requests"
        " WHERE state = 'pending' AND direction = ?1 GROUP BY peer HAVING count(*) > ?2"
        " ORDER BY count(*) DESC LIMIT 1)",
        (direction, count),
    )
    return connection.changes() == 1


def _forget_closed(connection: apsw.Connection) -> None:
    connection.execute(
        "DELETE FROM requests WHERE number IN (SELECT number FROM requests"
        f" WHERE state NOT IN {_OPEN} ORDER BY changed_s DESC, number DESC LIMIT -1 OFFSET ?)",
        (REQUESTS_CLOSED_MAX,),
    )
