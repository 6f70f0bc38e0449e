"""The evidence log: what this node itself saw of its peers, and the credentials they presented.

In the wallet's database, encrypted with it. Append-only, each observation under a number of its
own that is never given twice; bounded for a peer, in peers and in all; forgotten when old. A call
that returned is on the disk. Use it from any thread and, as the wallet, from several processes.

Who makes room: the peer that this node dealt with longest ago, strangers before those that it knows
(`EVIDENCE_KNOWN_MIN` dealings that went well). A stranger takes no place from a peer that was dealt
with in the last `EVIDENCE_KNOWN_S`. Does not judge: `kwaai.trust` does. Does not verify what was
presented: whoever counts a credential does. docs/trust.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import apsw

from credentials.wallet import wallet_id
from kwaai.errors import BodyTooLarge, UserError
from kwaai.limits import (
    EVIDENCE_BATCH_MAX,
    PRESENTED_BYTES_PER_PEER_MAX,
    WALLET_NAME_CHARS_MAX,
    WALLET_ORIGINAL_BYTES_MAX,
)
from kwaai.store import evidence_rows, presented_rows
from kwaai.store.database import Database
from kwaai.store.evidence_rows import PeerEvidence
from kwaai.store.presented_rows import Presented
from kwaai.trust.evidence import Observation

__all__ = ["Change", "EvidenceLog", "Mark", "PeerEvidence", "Presented"]

_TRIES = 3


@dataclass(frozen=True, slots=True)
class Mark:
    """Where the log stands: equal marks, equal contents. Whoever keeps what it read compares."""

    newest: int
    """Number of the newest observation, 0 for none."""
    removals: int
    """How many observations are gone: reset, made room, grown old."""
    kept: int
    """How many there are."""


@dataclass(frozen=True, slots=True)
class Change:
    """What one write has changed. Where `before` is not the `after` of one's last write, another
    has written between.
    """

    kept: tuple[Observation, ...]
    """What is in the log now, but for those of them that `removed` has again."""
    removed: tuple[Observation, ...]
    """What made room, or grew old."""
    before: Mark
    after: Mark


class EvidenceLog:
    """Observations and presented credentials. Cheap to make: one for each opened wallet."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # What this node saw.

    def append(self, observations: Sequence[Observation]) -> Change:
        """Write observations down, all or none. A stranger may find no place: see above.

        Raises ValueError for more than
        EVIDENCE_BATCH_MAX, and for values that none can have; Locked, DiskFull, FileCorrupt.
        """
        if len(observations) > EVIDENCE_BATCH_MAX:
            raise ValueError(f"at most {EVIDENCE_BATCH_MAX} observations at a time")
        for observation in observations:
            evidence_rows.check(observation)
        with self._database.write() as connection:
            before, removed = _mark(connection), list[Observation]()
            kept = [o for o in observations if evidence_rows.append(connection, o, removed)]
            return Change(tuple(kept), tuple(removed), before, _mark(connection))

    def load(self, since_s: float = -math.inf) -> tuple[Observation, ...]:
        """Return all observations from `since_s` (Unix seconds) on, in the order of writing.

        Others may write between two of its pages; `snapshot` notices. Raises FileCorrupt for an
        outcome that is not known here.
        """
        found: list[Observation] = []
        last = 0
        while True:
            with self._database.read() as connection:
                rows = evidence_rows.page(connection, since_s, last)
            if not rows:
                return tuple(found)
            found.extend(evidence_rows.observation(*row[1:]) for row in rows)
            last = rows[-1][0]

    def snapshot(self, since_s: float = -math.inf) -> tuple[Mark, tuple[Observation, ...]]:
        """Return what `load` does with the mark that it has, where others let it: tried three
        times.
        """
        for _ in range(_TRIES):
            mark = self.mark()
            found = self.load(since_s)
            if self.mark() == mark:
                break
        return mark, found

    def of_peer(self, principal: str) -> tuple[Observation, ...]:
        """Return what is known of one peer, the newest first."""
        with self._database.read() as connection:
            return tuple(evidence_rows.of_peer(connection, principal))

    def peers(self) -> tuple[PeerEvidence, ...]:
        """Return every peer with observations, the one dealt with last first."""
        with self._database.read() as connection:
            return tuple(evidence_rows.peers(connection))

    def peer(self, principal: str) -> PeerEvidence | None:
        """Return what is kept of one peer, or None."""
        with self._database.read() as connection:
            return next(iter(evidence_rows.peers(connection, principal)), None)

    def mark(self) -> Mark:
        """Return where the log stands."""
        with self._database.read() as connection:
            return _mark(connection)

    def reset(self, principal: str) -> int:
        """Forget what was observed of a peer; return how many observations those were.

        What it presented stays: that is no opinion of this node's.
        """
        with self._database.write() as connection:
            return evidence_rows.reset(connection, principal)

    def prune(self, now_s: float, keep_s: float) -> Change:
        """Forget observations that are older than `keep_s`, up to EVIDENCE_BATCH_MAX of them."""
        with self._database.write() as connection:
            before = _mark(connection)
            removed = evidence_rows.prune(connection, now_s - keep_s)
            return Change((), tuple(removed), before, _mark(connection))

    # What peers presented.

    def put_presented(self, principal: str, original: bytes, fetched_s: float) -> bool:
        """Keep a credential that a peer presented, or note that it did so again.

        Where a peer has too many, those go that it presented longest ago. Returns False where there
        is no place for a stranger's. Raises BodyTooLarge, UserError.
        """
        most = min(WALLET_ORIGINAL_BYTES_MAX, PRESENTED_BYTES_PER_PEER_MAX)
        if len(original) > most:
            raise BodyTooLarge(f"a presented credential of {len(original)} bytes; at most {most}")
        if not 0 < len(principal) <= WALLET_NAME_CHARS_MAX or not math.isfinite(fetched_s):
            raise UserError(f"a DID has 1 to {WALLET_NAME_CHARS_MAX} characters, and a time is one")
        with self._database.write() as connection:
            id = wallet_id(original)
            return presented_rows.put(connection, principal, id, original, fetched_s)

    def presented(self, principal: str) -> tuple[Presented, ...]:
        """Return what a peer presented, in the order in which it came."""
        with self._database.read() as connection:
            return tuple(presented_rows.of_peer(connection, principal))

    def all_presented(self) -> tuple[Presented, ...]:
        """Return what all peers presented, by peer and in the order in which it came."""
        with self._database.read() as connection:
            return tuple(presented_rows.every(connection))

    def forget_presented(self, principal: str, before_s: float = math.inf) -> int:
        """Forget what a peer presented, or last presented before `before_s`; return how many."""
        with self._database.write() as connection:
            return presented_rows.forget(connection, principal, before_s)


def _mark(connection: apsw.Connection) -> Mark:
    kept, removals = evidence_rows.state(connection)
    return Mark(evidence_rows.newest(connection), removals, kept)
