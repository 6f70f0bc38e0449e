"""A swarm in simulation, for trust routing: honest nodes ask for answers for some days, among
liars, free riders, sybils and slanderers; with trust routing and without, from the same seed.

`simulate` runs one case; the figures in docs/trust.md are made by tools/simulate_trust.py. Nothing
here is measured on machines: speeds and shares are the scene's. Scores, choices and verdicts are
made by the code that a node runs.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kwaai.testing.clock import EPOCH_S
from kwaai.testing.sim_credentials import Papers
from kwaai.testing.sim_people import DAY_S, Role, Scene, make_cast
from kwaai.testing.sim_requester import Requester, Routing, Told
from kwaai.testing.sim_swarm import Swarm
from kwaai.trust.evidence import Outcome
from kwaai.trust.tiers import Tier

__all__ = ["Figures", "Outcomes", "Routing", "Scene", "Told", "simulate"]


@dataclass(frozen=True, slots=True)
class Figures:
    """Shares of some requests, in [0, 1]."""

    requests: int
    right: float
    """Answered, and nobody lied in the answer."""
    wrong: float
    """Answered with a lie."""
    touched: float
    """Given to a path with a hop that lies by now, whether it lied this time or not."""
    no_path: float
    hops: dict[str, float]
    """By role, of all hops of paths that were taken."""


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What became of a scene."""

    scene: Scene
    routing: Routing
    told: tuple[Told, ...]
    requesters: tuple[Requester, ...]
    papers_refused: int
    """Forged credentials that were shown, and did not hold."""

    def figures(self, from_day: float = 0.0, to_day: float = 1e9) -> Figures:
        """Return the figures of requests made in [from_day, to_day)."""
        told = [t for t in self.told if from_day * DAY_S <= t.at_s < to_day * DAY_S]
        hops = Counter(person.role.value for t in told for person in t.hops)
        total = sum(hops.values()) or 1
        return Figures(
            requests=len(told),
            right=_share(told, lambda t: t.is_right),
            wrong=_share(told, lambda t: t.is_wrong),
            touched=_share(told, lambda t: t.is_touched),
            no_path=_share(told, lambda t: not t.has_path),
            hops={role.value: hops[role.value] / total for role in Role},
        )

    def tiers(self) -> dict[str, dict[str, float]]:
        """Return, by role, the share of nodes in each tier at the end, as requesters see them."""
        found: dict[str, dict[str, float]] = {}
        for role in Role:
            seen = Counter(
                requester.state().standing(person.peer).tier
                for requester in self.requesters
                for person in requester.people.values()
                if person.role is role
            )
            total = sum(seen.values()) or 1
            found[role.value] = {tier.label: seen[tier] / total for tier in Tier}
        return found

    def sybils(self) -> tuple[float, float]:
        """Return what sybils hold at the end of the trust that the graph spreads, as requesters see
        it on average; and the best score that any of them has with anybody.
        """
        shares, best = [], 0.0
        for requester in self.requesters:
            state = requester.state()
            masses = {p.peer: state.graph.mass(p.peer) for p in requester.people.values()}
            sybils = [p.peer for p in requester.people.values() if p.role is Role.SYBIL]
            shares.append(sum(masses[peer] for peer in sybils) / (sum(masses.values()) or 1.0))
            best = max([best, *(state.standing(peer).score for peer in sybils)])
        return sum(shares) / len(shares), best

    def replays(self) -> float:
        """Return how many sessions of one hop checks took, for each request."""
        return sum(requester.replays for requester in self.requesters) / len(self.told)

    def verdicts(self) -> dict[str, dict[str, int]]:
        """Return, by role, what spot checks said, all requesters together."""
        found: dict[str, Counter[str]] = {role.value: Counter() for role in Role}
        for requester in self.requesters:
            for peer, outcomes in requester.verdicts.items():
                found[requester.people[peer].role.value].update(map(str, outcomes))
        kinds = (Outcome.AGREED, Outcome.WRONG, Outcome.DISPUTED)
        return {role: {k.value: seen[k.value] for k in kinds} for role, seen in found.items()}


def simulate(scene: Scene, routing: Routing) -> Outcomes:
    """Run a scene. The same arguments give the same outcomes to the bit."""
    cast = make_cast(scene)
    swarm = Swarm(cast, EPOCH_S)
    papers = Papers(cast, EPOCH_S)
    requesters = tuple(Requester(p, swarm, papers, routing) for p in cast.requesters)
    told = [
        requester.ask(number, at_s)
        for number, (at_s, requester) in enumerate(_requests(scene, requesters))
    ]
    return Outcomes(scene, routing, tuple(told), requesters, papers.refused)


def _requests(scene: Scene, requesters: Sequence[Requester]) -> list[tuple[float, Requester]]:
    """Return who asks when, while it runs itself."""
    rng = random.Random(f"requests {scene.seed}")
    found = []
    for requester in requesters:
        now_s = 0.0
        while (now_s := now_s + rng.expovariate(scene.requests_per_day / DAY_S)) < (
            scene.days * DAY_S
        ):
            found.append((now_s, requester))
    return sorted(found, key=lambda pair: (pair[0], pair[1].person.number))


def _share(told: Sequence[Told], holds: Callable[[Told], bool]) -> float:
    return sum(map(holds, told)) / len(told) if told else 0.0
