"""The evidence log's rows: statements and their meaning, inside a transaction of the caller.

Peers are numbers here (`evidence_peers`). What is counted of peers and in all, the database counts
itself (`kwaai.store.migrations`). See `kwaai.store.evidence` for who makes room for whom.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import apsw

from kwaai.errors import FileCorrupt
from kwaai.limits import (
    EVIDENCE_BATCH_MAX,
    EVIDENCE_CODE_CHARS_MAX,
    EVIDENCE_KNOWN_MIN,
    EVIDENCE_KNOWN_S,
    EVIDENCE_OBSERVATIONS_MAX,
    EVIDENCE_PEERS_MAX,
    EVIDENCE_PER_PEER_MAX,
    WALLET_NAME_CHARS_MAX,
)
from kwaai.trust.evidence import Observation, Outcome

_COUNT_MAX: Final = 1 << 53
_VALUES = "at_s, outcome, latency_s, expected_s, tokens_s, claimed_tokens_s, tokens, code"
_WENT_WELL = frozenset({Outcome.SERVED, Outcome.AGREED})
_OUTCOMES: Final = {outcome.value: outcome for outcome in Outcome}
_LIGHT_FIRST: Final = "outcome IN ('wrong', 'misbehaved', 'disputed', 'agreed'),"
"""What says whether a peer answers rightly goes last: else whoever lied would bury it under
answers, or under refusals, which cost nothing."""
_SHARE_TRIMMED: Final = 8
"""Of the peer with the most: an eighth goes at a time, at most."""


@dataclass(frozen=True, slots=True)
class PeerEvidence:
    """A peer that this node has dealt with. Times are Unix seconds."""

    principal: str
    first_s: float
    last_s: float
    seen: int
    """Observations ever, also those that are forgotten."""
    kept: int
    is_known: bool
    """Whether it is no stranger any more: see `kwaai.store.evidence`."""


def check(o: Observation) -> None:
    """Refuse what no observation can say; its time it has checked itself. Raises ValueError."""
    for value in (o.latency_s, o.expected_s, o.tokens_s, o.claimed_tokens_s):
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{value} is no time and no speed")
    if not isinstance(o.tokens, int) or not 0 <= o.tokens < _COUNT_MAX:
        raise ValueError(f"{o.tokens} is no count of tokens")
    if not 0 < len(o.peer) <= WALLET_NAME_CHARS_MAX or len(o.code) > EVIDENCE_CODE_CHARS_MAX:
        raise ValueError("a peer or a code of an odd length")
    (o.peer + o.code).encode()  # half a surrogate pair is a ValueError
    Outcome(o.outcome)


def append(
    connection: apsw.Connection, observation: Observation, removed: list[Observation]
) -> bool:
    """Insert an observation, and make room for it: `removed` gets what goes. Returns False where a
    stranger finds none.
    """
    peer = _peer(connection, observation, removed)
    if peer is None:
        return False
    _insert(connection, peer, observation)
    removed += _trim_peer(connection, peer)
    removed += _trim_all(connection)
    return True


def restore(connection: apsw.Connection, observation: Observation) -> bool:
    """Insert an observation of a backup where there is room, unless it is there."""
    known: Any = connection.execute(
        "SELECT number, kept FROM evidence_peers WHERE principal = ?", (observation.peer,)
    ).fetchone()
    if known is not None:
        same = " AND ".join(f"{name.strip()} IS ?" for name in _VALUES.split(","))
        statement = f"SELECT 1 FROM observations WHERE peer = ? AND {same} LIMIT 1"
        if connection.execute(statement, (known[0], *_values(observation))).get is not None:
            return False
        if known[1] >= EVIDENCE_PER_PEER_MAX:
            return False
    elif _peers_kept(connection) >= EVIDENCE_PEERS_MAX:
        return False
    if state(connection)[0] >= EVIDENCE_OBSERVATIONS_MAX:
        return False
    return append(connection, observation, [])


def page(connection: apsw.Connection, since_s: float, after: int) -> list[Any]:
    """Return the next rows from `since_s` on, in order: number, principal, values."""
    return connection.execute(
        f"SELECT observations.number, principal, {_VALUES} FROM observations"
        " JOIN evidence_peers ON evidence_peers.number = peer"
        " WHERE observations.number > ? AND at_s >= ? ORDER BY observations.number LIMIT ?",
        (after, since_s, EVIDENCE_BATCH_MAX),
    ).fetchall()


def of_peer(connection: apsw.Connection, principal: str) -> list[Observation]:
    """Return a peer's observations, the newest first."""
    rows = connection.execute(
        f"SELECT principal, {_VALUES} FROM observations"
        " JOIN evidence_peers ON evidence_peers.number = peer"
        " WHERE principal = ? ORDER BY observations.number DESC",
        (principal,),
    )
    return [observation(*row) for row in rows]


def every(connection: apsw.Connection) -> Iterator[tuple[Any, ...]]:
    """Return the values of all observations, the oldest first, as a backup has them."""
    yield from connection.execute(
        f"SELECT principal, {_VALUES} FROM observations"
        " JOIN evidence_peers ON evidence_peers.number = peer ORDER BY observations.number"
    )


def observation(
    principal: str,
    at_s: float,
    outcome: str,
    latency_s: float | None,
    expected_s: float | None,
    tokens_s: float | None,
    claimed_tokens_s: float | None,
    tokens: int,
    code: str,
) -> Observation:
    """Make an observation of a row's values. Raises FileCorrupt."""
    known = _OUTCOMES.get(outcome)
    if known is None:
        raise FileCorrupt(f"the evidence log holds an outcome {outcome!r:.40}, which is none")
    return Observation(
        peer=principal,
        at_s=at_s,
        outcome=known,
        latency_s=latency_s,
        expected_s=expected_s,
        tokens_s=tokens_s,
        claimed_tokens_s=claimed_tokens_s,
        tokens=tokens,
        code=code,
    )


def peers(connection: apsw.Connection, principal: str | None = None) -> list[PeerEvidence]:
    """Return the peers with observations, or the one that is named; dealt with last first."""
    rows: Iterable[Any] = connection.execute(
        "SELECT principal, first_s, last_s, seen, kept, is_known FROM evidence_peers"
        " WHERE ?1 IS NULL OR principal = ?1 ORDER BY newest DESC",
        (principal,),
    )
    return [
        PeerEvidence(name, first_s, last_s, seen, kept, bool(is_known))
        for name, first_s, last_s, seen, kept, is_known in rows
    ]


def reset(connection: apsw.Connection, principal: str) -> int:
    """Delete a peer with its observations, and return how many those were."""
    found = "SELECT kept FROM evidence_peers WHERE principal = ?"
    kept: int | None = connection.execute(found, (principal,)).get
    connection.execute("DELETE FROM evidence_peers WHERE principal = ?", (principal,))
    return kept or 0


def prune(connection: apsw.Connection, before_s: float) -> list[Observation]:
    """Delete some of what is older, and peers of which nothing is left. Returns what went."""
    gone = _delete(connection, "at_s < ?", before_s, EVIDENCE_BATCH_MAX)
    if gone:
        connection.execute("DELETE FROM evidence_peers WHERE kept = 0")
    return gone


def state(connection: apsw.Connection) -> tuple[int, int]:
    """Return how many observations are kept in all, and how many ever went."""
    row: Any = connection.execute("SELECT observations, removals FROM evidence_state").fetchone()
    return row[0], row[1]


def newest(connection: apsw.Connection) -> int:
    """Return the highest number that an observation ever had; 0 for none."""
    found = "SELECT seq FROM sqlite_sequence WHERE name = 'observations'"
    number: int | None = connection.execute(found).get
    return number or 0


def _values(o: Observation) -> tuple[Any, ...]:
    speeds = (o.latency_s, o.expected_s, o.tokens_s, o.claimed_tokens_s)
    return o.at_s, Outcome(o.outcome).value, *speeds, o.tokens, o.code


def _insert(connection: apsw.Connection, peer: int, observation: Observation) -> None:
    connection.execute(
        f"INSERT INTO observations (peer, {_VALUES}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (peer, *_values(observation)),
    )
    connection.execute(
        "UPDATE evidence_peers SET first_s = min(first_s, ?1), last_s = max(last_s, ?1),"
        " seen = seen + 1, went_well = went_well + ?2,"
        " is_known = is_known OR went_well + ?2 >= ?3 WHERE number = ?4",
        (observation.at_s, int(observation.outcome in _WENT_WELL), EVIDENCE_KNOWN_MIN, peer),
    )


def _peer(
    connection: apsw.Connection, observation: Observation, removed: list[Observation]
) -> int | None:
    """Return the number of an observation's peer; None: a new one, and nobody makes room."""
    found = "SELECT number FROM evidence_peers WHERE principal = ?"
    number: int | None = connection.execute(found, (observation.peer,)).get
    if number is not None:
        return number
    if _peers_kept(connection) >= EVIDENCE_PEERS_MAX:
        last: Any = connection.execute(
            "SELECT number, is_known, last_s FROM evidence_peers ORDER BY is_known, newest LIMIT 1"
        ).fetchone()
        # A time far ahead was written while the clock was wrong: it protects nobody.
        if last[1] and abs(observation.at_s - last[2]) < EVIDENCE_KNOWN_S:
            return None
        removed += _delete(connection, "peer = ?", last[0], EVIDENCE_PER_PEER_MAX)
        connection.execute("DELETE FROM evidence_peers WHERE number = ?", (last[0],))
    connection.execute(
        "INSERT INTO evidence_peers (principal, first_s, last_s) VALUES (?1, ?2, ?2)",
        (observation.peer, observation.at_s),
    )
    return connection.last_insert_rowid()


def _trim_peer(connection: apsw.Connection, peer: int) -> list[Observation]:
    kept: int = connection.execute("SELECT kept FROM evidence_peers WHERE number = ?", (peer,)).get
    excess = kept - EVIDENCE_PER_PEER_MAX
    return _delete(connection, "peer = ?", peer, excess, order=_LIGHT_FIRST) if excess > 0 else []


def _trim_all(connection: apsw.Connection) -> list[Observation]:
    """Where there are too many, the peer with the most gives up its oldest."""
    gone: list[Observation] = []
    while (excess := state(connection)[0] - EVIDENCE_OBSERVATIONS_MAX) > 0:
        most: Any = connection.execute(
            "SELECT number, kept FROM evidence_peers ORDER BY kept DESC LIMIT 1"
        ).fetchone()
        peer, kept = most
        count = min(excess, max(1, kept // _SHARE_TRIMMED))
        gone += _delete(connection, "peer = ?", peer, count, order=_LIGHT_FIRST)
    return gone


def _delete(
    connection: apsw.Connection, where: str, value: float, count: int, order: str = ""
) -> list[Observation]:
    """Delete the oldest `count` observations for which a condition holds, and return them.
    `order`: what comes before age.
    """
    found: list[Any] = connection.execute(
        f"SELECT observations.number, principal, {_VALUES} FROM observations"
        f" JOIN evidence_peers ON evidence_peers.number = peer WHERE {where}"
        f" ORDER BY {order} observations.number LIMIT ?",
        (value, count),
    ).fetchall()
    numbers = [(row[0],) for row in found]
    connection.executemany("DELETE FROM observations WHERE number = ?", numbers)
    return [observation(*row[1:]) for row in found]


def _peers_kept(connection: apsw.Connection) -> int:
    counted: int = connection.execute("SELECT count(*) FROM evidence_peers").get
    return counted
