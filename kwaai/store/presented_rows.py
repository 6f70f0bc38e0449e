"""The rows of credentials that peers presented of themselves, inside a transaction of the caller.

Bounded for a peer and in all; those of strangers make room before those of peers that this node has
dealt with (`evidence_peers.is_known`). Verifies nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import apsw

from kwaai.limits import (
    PRESENTED_BYTES_MAX,
    PRESENTED_BYTES_PER_PEER_MAX,
    PRESENTED_PEERS_MAX,
    PRESENTED_PER_PEER_MAX,
)

_LAST = (
    "SELECT presented.principal, max(fetched_s) AS last_s, coalesce(max(is_known), 0) AS known"
    " FROM presented LEFT JOIN evidence_peers USING (principal)"
    " WHERE presented.principal <> ?1 GROUP BY presented.principal"
    " ORDER BY known, last_s, presented.principal LIMIT 1"
)


@dataclass(frozen=True, slots=True)
class Presented:
    """A credential that a peer presented about itself."""

    principal: str
    original: bytes
    """As it came, to the byte."""
    fetched_s: float
    """When it was presented last, Unix seconds."""


def put(
    connection: apsw.Connection, principal: str, id: str, original: bytes, fetched_s: float
) -> bool:
    """Insert a credential, or note that it was presented again. Returns False for no place."""
    connection.execute(
        "UPDATE presented SET fetched_s = max(fetched_s, ?) WHERE principal = ? AND id = ?",
        (fetched_s, principal, id),
    )
    if connection.changes():
        return True
    if not _make_room(connection, principal, len(original)):
        return False
    connection.execute(
        "INSERT INTO presented (principal, id, fetched_s, bytes, original) VALUES (?, ?, ?, ?, ?)",
        (principal, id, fetched_s, len(original), original),
    )
    _trim_peer(connection, principal)
    return True


def of_peer(connection: apsw.Connection, principal: str) -> list[Presented]:
    """Return a peer's, in the order in which they came."""
    rows = connection.execute(
        "SELECT principal, original, fetched_s FROM presented WHERE principal = ? ORDER BY number",
        (principal,),
    )
    return [Presented(*row) for row in rows]


def every(connection: apsw.Connection) -> Iterator[Presented]:
    """Return all, by peer and in the order in which they came."""
    rows = connection.execute(
        "SELECT principal, original, fetched_s FROM presented ORDER BY principal, number"
    )
    return (Presented(*row) for row in rows)


def forget(connection: apsw.Connection, principal: str, before_s: float) -> int:
    """Delete a peer's that were last presented before; return how many."""
    connection.execute(
        "DELETE FROM presented WHERE principal = ? AND fetched_s < ?", (principal, before_s)
    )
    gone: int = connection.changes()
    return gone


def _make_room(connection: apsw.Connection, principal: str, nbytes: int) -> bool:
    """Let others go until there is room for `nbytes` of a peer; a stranger moves strangers only."""
    known: int | None = connection.execute(
        "SELECT is_known FROM evidence_peers WHERE principal = ?", (principal,)
    ).get
    while _is_full(connection, principal, nbytes):
        last: Any = connection.execute(_LAST, (principal,)).fetchone()
        if last is None or (last[2] and not known):
            return False
        forget(connection, last[0], float("inf"))
    return True


def _is_full(connection: apsw.Connection, principal: str, nbytes: int) -> bool:
    total: int = connection.execute("SELECT presented_bytes FROM evidence_state").get
    if total + nbytes > PRESENTED_BYTES_MAX:
        return True
    peers: int = connection.execute("SELECT count(DISTINCT principal) FROM presented").get
    if peers < PRESENTED_PEERS_MAX:
        return False
    has = "SELECT 1 FROM presented WHERE principal = ? LIMIT 1"
    return connection.execute(has, (principal,)).get is None


def _trim_peer(connection: apsw.Connection, principal: str) -> None:
    """Let a peer's own go that it presented longest ago, until it has what it may."""
    rows: list[Any] = connection.execute(
        "SELECT number, bytes FROM presented WHERE principal = ? ORDER BY fetched_s, number",
        (principal,),
    ).fetchall()
    count, nbytes = len(rows), sum(row[1] for row in rows)
    for number, size in rows:
        if count <= PRESENTED_PER_PEER_MAX and nbytes <= PRESENTED_BYTES_PER_PEER_MAX:
            return
        connection.execute("DELETE FROM presented WHERE number = ?", (number,))
        count, nbytes = count - 1, nbytes - size
