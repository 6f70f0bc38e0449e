"""Who takes part in a simulated swarm: honest nodes, liars, free riders, sybils and slanderers;
what each holds, how fast it is, when it is there, and what it does when it is asked.

Chance comes from a seed alone: the same seed gives the same people, whoever routes how. Scores and
routes nothing: `sim_requester` does. The scene and its figures are in docs/trust.md, "Simulation".
"""

from __future__ import annotations

import random
from bisect import bisect_right
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise

from credentials.did import did_key
from credentials.keys import SecretKey
from kwaai.types import LayerRange

DAY_S = 86_400.0


class Role(StrEnum):
    """What a node is, whatever it says."""

    HONEST = "honest"
    LIAR = "liar"
    """Answers wrong some of the time, from some day on."""
    FREE_RIDER = "free rider"
    """Says that it is fast, is slow, refuses often and drops answers."""
    SYBIL = "sybil"
    """One of many of one operator, who vouch for one another and lie together."""
    SLANDERER = "slanderer"
    """Answers right, blames the next hop, and disputes what honest peers say in checks."""


@dataclass(frozen=True, slots=True)
class Scene:
    """How many of whom, and what they do. Shares are probabilities per answer."""

    seed: int = 0
    days: float = 30.0
    honest: int = 120
    liars: int = 20
    free_riders: int = 15
    sybils: int = 35
    slanderers: int = 10
    requesters: int = 6
    """Of the honest ones: those that ask."""
    requests_per_day: float = 72.0
    """Of each requester."""
    tokens: int = 128
    """Of an answer."""
    block_count: int = 32
    parts: int = 4
    """Ranges that the middle layers are cut into; each node serves one."""
    turncoat_days: tuple[float, float] = (4.0, 14.0)
    """When the liars that hold real credentials begin to lie."""
    liar_share: float = 0.3
    sybil_share: float = 0.5
    has_fast_liars: bool = True
    """Whether liars and sybils answer sooner than others, as who computes little does."""
    attack_edges: int = 10
    """Honest endorsements of sybils."""
    complaints: int = 3
    """Requesters that must have found a node wrong, before the society looks at it for a day and
    revokes what it has signed for it. 0: it never does."""
    up_s: float = 24 * 3600.0
    """That an honest node stays, on average, before it is gone for a while."""
    down_s: float = 2 * 3600.0

    @property
    def nodes(self) -> int:
        return self.honest + self.liars + self.free_riders + self.sybils + self.slanderers

    @property
    def ranges(self) -> tuple[LayerRange, ...]:
        """The parts of the model that peers serve: all but two blocks at each end."""
        start, stop = 2, self.block_count - 2
        cuts = [start + (stop - start) * k // self.parts for k in range(self.parts + 1)]
        return tuple(LayerRange(a, b) for a, b in pairwise(cuts))


@dataclass(eq=False, slots=True)
class Person:
    """A node, and whoever runs it."""

    number: int
    role: Role
    secret: SecretKey
    peer: str
    """Its principal."""
    owner: str
    layers: LayerRange
    decode_s: float
    """One token through its range, truly."""
    claimed_s: float
    """And as it says."""
    place: tuple[float, float]
    """In milliseconds: the distance of two is their round trip."""
    joins_s: float = 0.0
    is_vetted: bool = False
    """Whether those whom everybody trusts have looked at it, and signed so."""
    is_known: bool = False
    """Whether it was at an event, and no more."""
    lies_from_s: float = float("inf")
    lies: float = 0.0
    refuses: float = 0.0
    drops: float = 0.0
    blames: float = 0.0
    disputes: float = 0.0
    """How often it says something wrong in a check, though it answers right otherwise."""
    gang: str = ""
    """Who lie together say the same."""
    ups: list[float] = field(default_factory=list)
    downs: list[float] = field(default_factory=list)

    def is_up(self, now_s: float) -> bool:
        """Whether it runs."""
        at = bisect_right(self.ups, now_s) - 1
        return at >= 0 and now_s < self.downs[at]

    def stays(self, now_s: float, for_s: float) -> bool:
        """Whether it runs until then, without a gap."""
        at = bisect_right(self.ups, now_s) - 1
        return at >= 0 and now_s + for_s < self.downs[at]

    def lies_at(self, now_s: float) -> bool:
        """Whether it is one that may answer wrong by now: to meet it is to be touched by a liar."""
        return self.lies > 0.0 and now_s >= self.lies_from_s


@dataclass(frozen=True, slots=True)
class Vouch:
    """An endorsement that exists from the beginning: who, whom, when."""

    by: Person
    of: Person
    at_s: float


@dataclass(frozen=True, slots=True)
class Cast:
    """Everybody."""

    scene: Scene
    people: tuple[Person, ...]
    vouches: tuple[Vouch, ...]

    def of(self, role: Role) -> tuple[Person, ...]:
        return tuple(person for person in self.people if person.role is role)

    @property
    def requesters(self) -> tuple[Person, ...]:
        """Honest ones that were there from the beginning."""
        there = [p for p in self.of(Role.HONEST) if p.joins_s == 0.0 and p.is_vetted]
        return tuple(there[: self.scene.requesters])


def make_cast(scene: Scene) -> Cast:
    """Return everybody of a scene."""
    rng = random.Random(f"people {scene.seed}")
    counts = {
        Role.HONEST: scene.honest,
        Role.LIAR: scene.liars,
        Role.FREE_RIDER: scene.free_riders,
        Role.SYBIL: scene.sybils,
        Role.SLANDERER: scene.slanderers,
    }
    people: list[Person] = []
    for role, count in counts.items():
        for index in range(count):
            people.append(_person(scene, rng, len(people), role, index))
    for person in people:
        _live(person, scene, rng)
    return Cast(scene, tuple(people), _vouches(scene, rng, people))


def _person(scene: Scene, rng: random.Random, number: int, role: Role, index: int) -> Person:
    secret = SecretKey(rng.randbytes(32))
    peer = str(did_key(secret.public))
    true_s = 0.025 * rng.lognormvariate(0.0, 0.35)
    person = Person(
        number=number,
        role=role,
        secret=secret,
        peer=peer,
        owner=peer,
        layers=scene.ranges[index % scene.parts],
        decode_s=true_s,
        claimed_s=true_s * rng.uniform(0.9, 1.1),
        place=(rng.uniform(0, 60), rng.uniform(0, 60)),
    )
    _ROLES[role](person, scene, rng, index)
    return person


def _honest(person: Person, scene: Scene, rng: random.Random, index: int) -> None:
    if index >= 0.8 * scene.honest:  # the others join in the first three weeks
        person.joins_s = rng.uniform(0.02, 0.7) * scene.days * DAY_S
    person.is_vetted = index % 10 < 8
    person.is_known = rng.random() < 0.7


def _liar(person: Person, scene: Scene, rng: random.Random, index: int) -> None:
    """A third holds the same as honest nodes, and turns; a third is known; a third has nothing."""
    person.lies = scene.liar_share
    person.lies_from_s = 0.0
    if scene.has_fast_liars:
        person.claimed_s = person.decode_s = 0.015
    if index % 3 == 0:
        person.is_vetted = True
        person.lies_from_s = rng.uniform(*scene.turncoat_days) * DAY_S
    person.is_known = index % 3 == 1


def _free_rider(person: Person, scene: Scene, rng: random.Random, index: int) -> None:
    person.claimed_s, person.decode_s = 0.012, person.decode_s * 4
    person.refuses, person.drops = 0.3, 0.1
    person.is_vetted = index % 2 == 0
    person.is_known = True


def _sybil(person: Person, scene: Scene, rng: random.Random, index: int) -> None:
    if scene.has_fast_liars:
        person.claimed_s = person.decode_s = 0.010
    person.lies, person.lies_from_s = scene.sybil_share, 0.0
    person.gang = "sybils"


def _slanderer(person: Person, scene: Scene, rng: random.Random, index: int) -> None:
    person.blames, person.disputes = 0.1, 0.5
    person.is_known = True
    person.is_vetted = index % 3 == 0


_ROLES = {
    Role.HONEST: _honest,
    Role.LIAR: _liar,
    Role.FREE_RIDER: _free_rider,
    Role.SYBIL: _sybil,
    Role.SLANDERER: _slanderer,
}


def _live(person: Person, scene: Scene, rng: random.Random) -> None:
    """Draw when it is there."""
    now_s = person.joins_s - (rng.uniform(0, scene.up_s) if person.joins_s == 0.0 else 0.0)
    end_s = (scene.days + 1) * DAY_S
    while now_s < end_s:
        up_s = rng.expovariate(1.0 / scene.up_s)
        person.ups.append(now_s)
        person.downs.append(now_s + up_s)
        now_s += up_s + rng.expovariate(1.0 / scene.down_s)


def _vouches(scene: Scene, rng: random.Random, people: list[Person]) -> tuple[Vouch, ...]:
    """Honest nodes know a few; sybils all vouch for one another; some honest are taken in."""
    honest = [p for p in people if p.role is Role.HONEST]
    sybils = [p for p in people if p.role is Role.SYBIL]
    others = [p for p in people if p.is_vetted and p.role is not Role.HONEST]
    known = [p for p in people if p.is_known and not p.is_vetted and p.role is not Role.HONEST]
    found: list[tuple[Person, Person]] = []
    for person in honest:
        friends = rng.sample(honest, min(4, len(honest)))
        found += [(person, friend) for friend in friends if friend is not person]
    for person in others:
        found += [(friend, person) for friend in rng.sample(honest, min(2, len(honest)))]
    for person in known:
        found += [(friend, person) for friend in rng.sample(honest, min(1, len(honest)))]
    for person in sybils:
        found += [(person, other) for other in sybils if other is not person]
    if sybils and honest:
        for _ in range(scene.attack_edges):
            found.append((rng.choice(honest), rng.choice(sybils)))
    unique = {(by.number, of.number): (by, of) for by, of in found}
    return tuple(
        Vouch(by, of, max(by.joins_s, of.joins_s) + rng.uniform(-20, 0) * DAY_S)
        for _, (by, of) in sorted(unique.items())
    )
