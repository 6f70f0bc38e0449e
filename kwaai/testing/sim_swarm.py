"""What is true in a simulated swarm: who answers whom, how fast, and whether it is a lie.

Chance is drawn by what it is about (this request, this hop), not from one stream: two routings of
the same seed meet the same peers in the same mood. Decides nothing: `sim_requester` does.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from kwaai.limits import RECORD_LIFETIME_S
from kwaai.testing.sim_people import Cast, Person
from kwaai.trust.evidence import Endorsement, Outcome
from kwaai.trust.spot_check import Rows

_WIDTH = 8
ENDORSEMENT_LIFE_S = 365 * 86_400.0


@dataclass(slots=True)
class Attempt:
    """What became of one path."""

    problem: Outcome | None = None
    """None: every hop did its part. Else what the hop `at` did."""
    at: int = -1
    accuser: int = -1
    """The hop that says that `at` failed; nobody else saw it."""
    has_begun: bool = False
    """Whether it failed after the first token: nothing is tried again then."""
    liars: frozenset[int] = frozenset()
    """Hops that answered wrong."""
    hop_s: tuple[float, ...] = ()
    """What each hop took for one token, way included."""


@dataclass(eq=False, slots=True)
class Swarm:
    """The world that requesters share."""

    cast: Cast
    start_s: float
    """Unix time of its beginning."""
    endorsements: dict[tuple[str, str], Endorsement] = field(default_factory=dict)
    """In force, by who and whom: those of the beginning, and what requesters add and take back."""

    def __post_init__(self) -> None:
        for vouch in self.cast.vouches:
            self.endorse(vouch.by.peer, vouch.of.peer, self.start_s + vouch.at_s)

    def endorse(self, by: str, of: str, at_s: float) -> None:
        """Have one vouch for another. The other shows it to everybody."""
        self.endorsements[by, of] = Endorsement(
            by, of, at_s, 1.0, "PeerEndorsementVC", at_s + ENDORSEMENT_LIFE_S
        )

    def revoke(self, by: str, of: str) -> None:
        """Take an endorsement back."""
        self.endorsements.pop((by, of), None)

    def listed(self, now_s: float) -> list[Person]:
        """Return whose records hold: those that run, and ghosts of the last minute."""
        return [
            person
            for person in self.cast.people
            if person.is_up(now_s) or person.is_up(now_s - RECORD_LIFETIME_S)
        ]

    def draw(self, *what: object) -> float:
        """Return a number in [0, 1) that belongs to this, and to this seed."""
        text = "|".join(map(str, (self.cast.scene.seed, *what)))
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest()) / 2**56

    def rtt_s(self, one: Person, other: Person) -> float:
        """Return the round trip between two."""
        return (4.0 + math.dist(one.place, other.place)) / 1000.0

    def lies(self, person: Person, now_s: float, *what: object) -> bool:
        """Whether it answers this wrong."""
        return person.lies_at(now_s) and self.draw("lie", person.number, *what) < person.lies

    def try_path(
        self, asker: Person, path: Sequence[Person], request: int, attempt: int, now_s: float
    ) -> Attempt:
        """Ask for an answer along a path."""
        what = (request, attempt)
        for at, person in enumerate(path):
            if not person.is_up(now_s):
                return Attempt(Outcome.UNREACHABLE, at)
            if self.draw("refuse", person.number, *what) < person.refuses:
                return Attempt(Outcome.REFUSED, at)
            if at + 1 < len(path) and self.draw("blame", person.number, *what) < person.blames:
                return Attempt(Outcome.FAILED, at + 1, accuser=at)
        hop_s = tuple(
            person.decode_s * (0.9 + 0.3 * self.draw("time", person.number, *what))
            + self.rtt_s(asker, person)
            for person in path
        )
        lasts_s = self.cast.scene.tokens * sum(hop_s)
        for at, person in enumerate(path):
            if self.draw("drop", person.number, *what) < person.drops:
                return Attempt(Outcome.STALLED, at, has_begun=True, hop_s=hop_s)
            if not person.stays(now_s, lasts_s):
                return Attempt(Outcome.FAILED, at, has_begun=True, hop_s=hop_s)
        liars = [at for at, person in enumerate(path) if self.lies(person, now_s, *what)]
        return Attempt(None, hop_s=hop_s, liars=frozenset(liars))

    def said(self, person: Person, is_lie: bool, request: int) -> Rows:
        """Return what a peer makes of a request's rows: (1, width). Accomplices lie alike."""
        if not is_lie:
            return np.ones((1, _WIDTH), np.float32)
        liar = person.gang or person.number
        lie = [self.draw("said", liar, request, place) - 0.5 for place in range(_WIDTH)]
        return np.array([lie], np.float32)

    def replays(self, person: Person, now_s: float, request: int, is_other: bool) -> Rows | None:
        """Return what a peer says when it is asked again, or asked as another; None: no answer."""
        if not person.is_up(now_s) or self.draw("again", person.number, request) < person.refuses:
            return None
        is_lie = self.lies(person, now_s, "again", request)
        if is_other and self.draw("dispute", person.number, request) < person.disputes:
            is_lie = True
        return self.said(person, is_lie, request)
