"""An honest node that asks: it chooses paths, sees what comes of them, and scores whom it met.

The rules are the node's own: `kwaai.trust` scores and judges checks, `kwaai.placement` chooses;
short memory of failures and doubt of claims are `AvoidList` and `Claims`. Without trust routing the
same requester has these last two only.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from kwaai.limits import (
    SHARD_APART_S,
    SHARD_PATH_TRIES_MAX,
    SPOT_CHECK_HOLDERS_MAX,
    SPOT_CHECK_TOLERANCE,
)
from kwaai.node.avoid import AvoidList
from kwaai.node.claims import SAMPLES_MIN, Claims
from kwaai.placement.paths import Candidate, Constraints, HomePart, choose_path
from kwaai.testing.sim_credentials import Papers
from kwaai.testing.sim_people import Person
from kwaai.testing.sim_swarm import Attempt, Swarm
from kwaai.trust.evidence import Evidence, Observation, Outcome
from kwaai.trust.policy import TrustPolicy
from kwaai.trust.score import Standing, TrustState, score_all
from kwaai.trust.spot_check import Output, Rows, Verdict, Watch, distance, judge
from kwaai.trust.tally import Tallies
from kwaai.trust.tiers import Floors, Tier

HOME = HomePart(block_s=0.006, head_s=0.004, blocks_max=4, alone_s=None)
ENDORSED_AFTER = 20
"""Answers that a peer has done its part of, before this node vouches for it."""
FRIENDS = 2
"""Nodes that the owner trusts as itself, besides the two issuers."""


@dataclass(frozen=True, slots=True)
class Routing:
    """How requesters choose: settings of a node."""

    uses_trust: bool = True
    min_tier: Tier = Tier.KNOWN
    spot_check_share: float = 0.05
    recompute_s: float = 3 * 3600.0
    """How old a score may be, unless a check has found something."""


@dataclass(frozen=True, slots=True)
class Told:
    """What one request came to."""

    at_s: float
    is_right: bool
    """There is an answer, and nobody lied in it."""
    is_wrong: bool
    """There is an answer, and it is a lie."""
    is_touched: bool
    """A path was given its prompt that had a hop which lies by now, whether it lied or not."""
    has_path: bool
    hops: tuple[Person, ...]
    tries: int


class Requester:
    """One of them. Times are Unix seconds."""

    def __init__(self, person: Person, swarm: Swarm, papers: Papers, routing: Routing) -> None:
        self.person, self.routing = person, routing
        self._swarm, self._papers = swarm, papers
        self._now_s = swarm.start_s
        self._avoided = AvoidList(lambda: self._now_s)
        self._apart = AvoidList(lambda: self._now_s)
        self._claims = Claims(lambda: self._now_s)
        self.policy = TrustPolicy(own=person.peer, roots=papers.roots | self._friends())
        self._floors = Floors()
        self._tallies = Tallies(self.policy.behaviour_half_life_s)
        self.watch = Watch(routing.spot_check_share if routing.uses_trust else 0.0)
        self._served: dict[str, int] = defaultdict(int)
        self._state: TrustState | None = None
        self._is_stale = True
        self.replays = 0
        """Sessions of one hop that checks have taken."""
        self.verdicts: dict[str, list[Outcome]] = defaultdict(list)
        """What checks said of each peer."""
        self.people = {one.peer: one for one in swarm.cast.people}

    def _friends(self) -> frozenset[str]:
        found = [v.of.peer for v in self._swarm.cast.vouches if v.by is self.person]
        honest = [p for p in found if p != self.person.peer]
        return frozenset(honest[:FRIENDS])

    def state(self) -> TrustState:
        """Return everybody's standing; a while old, unless there is news."""
        state = self._state
        fresh = state is not None and self._now_s - state.now_s < self.routing.recompute_s
        if state is None or self._is_stale or not fresh:
            evidence = Evidence(
                attestations=self._papers.attestations(self._now_s),
                tallies=self._tallies.snapshot(),
                endorsements=tuple(self._swarm.endorsements.values()),
            )
            self._state = state = score_all(evidence, self.policy, self._now_s)
            self._is_stale = False
        return state

    # A request.

    def ask(self, request: int, at_s: float) -> Told:
        """Ask for one answer."""
        self._now_s = self._swarm.start_s + at_s
        avoid: set[str] = set()
        touched = False
        for attempt in range(SHARD_PATH_TRIES_MAX):
            found = self._choose(frozenset(avoid), at_s)
            if found is None:
                return Told(at_s, False, False, touched, attempt > 0, (), attempt)
            path, expected_s = found
            drawn = [p for p in path if self._draws(p, request)]
            said = self._swarm.try_path(self.person, path, request, attempt, at_s)
            is_read = said.problem is None or said.has_begun
            touched = touched or (is_read and any(p.lies_at(at_s) for p in path))
            if said.problem is None:
                self._worked(path, said, expected_s)
                if drawn:
                    self._check(path, drawn, said, request, at_s)
                wrong = bool(said.liars)
                return Told(at_s, not wrong, wrong, touched, True, path, attempt + 1)
            self._failed(path, said)
            if said.has_begun:
                break
            if said.accuser < 0:
                avoid.add(path[said.at].peer)
        return Told(at_s, False, False, touched, True, path, attempt + 1)

    def _draws(self, person: Person, request: int) -> bool:
        chance = self._swarm.draw("check", self.person.number, person.number, request)
        return chance < self.watch.share(person.peer)

    # The choice.

    def may_serve(self, person: Person, standing: Standing) -> bool:
        """Whether the tiers let it be a hop."""
        checks = self._floors.check("serve", person.peer, standing.tier, standing.integrity)
        return checks is None and standing.tier >= self.routing.min_tier

    def _choose(
        self, avoid: frozenset[str], at_s: float
    ) -> tuple[tuple[Person, ...], tuple[float, ...]] | None:
        """Return a path, and what each hop is expected to take."""
        listed = [p for p in self._swarm.listed(at_s) if p is not self.person]
        candidates = [c for c in map(self._candidate, listed) if c is not None]
        floor = self.routing.min_tier if self.routing.uses_trust else Tier.UNKNOWN
        constraints = Constraints(
            floor=floor,
            early_floor=self._floors.early_layers if self.routing.uses_trust else 0,
            early_stop=self._swarm.cast.scene.block_count // 10,
        )
        pairs = (pair.partition(" ") for pair in self._apart.peers())
        apart = dict.fromkeys(((one, other) for one, _, other in pairs), SHARD_APART_S)
        watched = frozenset(c.peer for c in candidates if self.watch.is_watched(c.peer))
        failed = self._avoided.peers() | avoid
        # Whoever is in doubt waits for others' checks, if there is a path without it.
        for shunned in (failed | watched, failed, avoid):
            choice = choose_path(
                self._swarm.cast.scene.block_count,
                candidates,
                HOME,
                privacy="private",
                route="split",
                avoid=shunned,
                constraints=constraints,
                rtt_between=apart or None,
            )
            if choice.best is not None:
                hops = choice.best.hops
                expected = {c.peer: c.decode_s + c.rtt_s for c in candidates}
                path = tuple(self.people[hop.peer] for hop in hops)
                return path, tuple(expected[hop.peer] for hop in hops)
        return None

    def _candidate(self, person: Person) -> Candidate | None:
        own_s = HOME.block_s * len(person.layers)
        decode_s = self._claims.believed_s(person.peer, person.claimed_s, own_s)
        rtt_s = self._swarm.rtt_s(self.person, person)
        candidate = Candidate(person.peer, "", person.layers, decode_s, rtt_s, 1)
        if not self.routing.uses_trust:
            return candidate
        standing = self.state().standing(person.peer)
        if not self.may_serve(person, standing):
            return None
        return Candidate(
            person.peer,
            "",
            person.layers,
            decode_s * standing.pace,
            rtt_s,
            1,
            tier=int(standing.tier),
            trust=standing.score,
            owner=person.owner,
            failure=standing.failure,
        )

    # What came of it.

    def _worked(self, path: Sequence[Person], said: Attempt, expected_s: Sequence[float]) -> None:
        self._claims.measured(
            [p.peer for p in path], sum(expected_s), [sum(said.hop_s)] * SAMPLES_MIN
        )
        for one, other in pairwise(path):
            self._apart.answered(_pair(one, other))
        for person, took_s in zip(path, said.hop_s, strict=True):
            self._avoided.answered(person.peer)
            rtt_s = self._swarm.rtt_s(self.person, person)
            self._observe(
                Observation(
                    person.peer,
                    self._now_s,
                    Outcome.SERVED,
                    latency_s=took_s,
                    expected_s=person.claimed_s + rtt_s,
                    tokens_s=1.0 / max(took_s - rtt_s, 1e-4),
                    claimed_tokens_s=1.0 / person.claimed_s,
                    tokens=self._swarm.cast.scene.tokens,
                )
            )
            self._served[person.peer] += 1
            is_due = self.routing.uses_trust and self._served[person.peer] == ENDORSED_AFTER
            if is_due and Outcome.WRONG not in self.verdicts[person.peer]:
                self._swarm.endorse(self.person.peer, person.peer, self._now_s)

    def _failed(self, path: Sequence[Person], said: Attempt) -> None:
        peer = path[said.at].peer
        if said.accuser >= 0:  # one says so of another: evidence against neither
            self._apart.failed(_pair(path[said.accuser], path[said.at]), "blame")
            return
        assert said.problem is not None
        self._avoided.failed(peer, said.problem)
        self._observe(Observation(peer, self._now_s, said.problem))

    def _observe(self, observation: Observation) -> None:
        if self.routing.uses_trust:
            self._tallies.add(observation)

    # Spot checks: what kwaai.node.spot_check does, without the sessions.

    def _check(
        self,
        path: Sequence[Person],
        drawn: Sequence[Person],
        said: Attempt,
        request: int,
        at_s: float,
    ) -> None:
        """Replay the answer hop by hop; compare those that were drawn."""
        is_same = True
        for at, person in enumerate(path):
            answered = self._swarm.said(person, at in said.liars, request)
            self.replays += 1
            first = self._swarm.replays(person, at_s, request, False)
            if first is None:
                return
            is_same = is_same and distance(first, answered) <= SPOT_CHECK_TOLERANCE
            if person in drawn:
                verdict = self._compare(self._output(person, first), request, at_s)
                if verdict is not None and verdict.outcomes[person.peer] is not Outcome.AGREED:
                    return
        if not is_same:
            self.watch.suspect(p.peer for p in path)

    def _compare(self, first: Output, request: int, at_s: float) -> Verdict | None:
        outputs = [first]
        verdict: Verdict | None = None
        tries = 0
        for other in self._others(first.peer, request, at_s):
            if other.owner in {output.owner for output in outputs}:
                continue
            if tries == SPOT_CHECK_HOLDERS_MAX:
                break
            tries += 1
            self.replays += 1
            rows = self._swarm.replays(other, at_s, request, True)
            if rows is None:
                continue
            outputs.append(self._output(other, rows))
            verdict = judge(outputs)
            if not verdict.needs_third:
                break
        if verdict is not None:
            self._heard(verdict)
        return verdict

    def _output(self, person: Person, rows: Rows) -> Output:
        tier = self.state().standing(person.peer).tier
        return Output(person.peer, person.owner, rows, int(tier))

    def _others(self, peer: str, request: int, at_s: float) -> list[Person]:
        """Whoever else might have been asked; one that is watched first, so that it is cleared."""
        layers = self.people[peer].layers
        found = [
            p
            for p in self._swarm.listed(at_s)
            if p.layers == layers
            and p.peer not in (peer, self.person.peer)
            and self.may_serve(p, self.state().standing(p.peer))
        ]
        found.sort(key=lambda p: self._swarm.draw("other", self.person.number, p.number, request))
        found.sort(key=lambda p: -self.state().standing(p.peer).tier)
        watched = [p for p in found if self.watch.is_watched(p.peer)]
        return watched[:1] + [p for p in found if p not in watched] + watched[1:]

    def _heard(self, verdict: Verdict) -> None:
        self.watch.note(verdict)
        for peer, outcome in verdict.outcomes.items():
            self.verdicts[peer].append(outcome)
            self._observe(Observation(peer, self._now_s, outcome))
            if outcome is not Outcome.AGREED:
                self._is_stale = True
            if outcome is Outcome.WRONG:
                self._swarm.revoke(self.person.peer, peer)
                self._papers.complain(self.person, self.people[peer], self._now_s)


def _pair(one: Person, other: Person) -> str:
    return " ".join(sorted((one.peer, other.peer)))
