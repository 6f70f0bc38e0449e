"""Which path answers: candidates out of records, links and recent failures, and the choice among
them.

Asks the directory and dials candidates that were never met; opens no session. The rules of the
choice are `kwaai.placement.paths`', what a peer is worth is `standings`'. A path is held to the
request's Demand and to the owner's settings, whichever asks for more.
"""

from __future__ import annotations

import asyncio
import statistics
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Final, TypeAlias

from credentials.keys import PeerId
from kwaai.config import Config
from kwaai.errors import IntentUnmet, PathMissing
from kwaai.intent.demand import Demand
from kwaai.limits import (
    DIRECTORY_WAIT_S,
    PEER_PAIRS_MAX,
    SHARD_APART_S,
)
from kwaai.log import get_logger
from kwaai.net.links import Links
from kwaai.node.avoid import AvoidList
from kwaai.node.candidates import Candidates
from kwaai.node.directory import Directory
from kwaai.node.home import home_part
from kwaai.node.local_slices import LocalSlices
from kwaai.node.slice_plan import LocalModel
from kwaai.node.standings import (
    NoStandings,
    Standings,
    breaks,
    early_stop_of,
    floor_of,
    is_particular,
    owner_hops_of,
)
from kwaai.placement.paths import (
    Candidate,
    Choice,
    Constraints,
    HomePart,
    Path,
    Privacy,
    Route,
    choose_path,
    cut_candidate,
    explain_gaps,
)
from kwaai.trust.tiers import Tier
from kwaai.types import LayerRange, ModelHandle
from kwaai.wire.messages import Opened
from kwaai.wire.records import NodeRecord

log = get_logger(__name__)

NO_DEMAND: Final = Demand()


@dataclass(frozen=True, slots=True)
class Chosen:
    """A path, the alternatives that were predicted, and where its hops are."""

    path: Path
    route: Route
    choice: Choice
    addresses: dict[str, tuple[str, ...]]

    @property
    def predicted_tokens_s(self) -> dict[str, float | None]:
        """Tokens a second of each kind of path; None for what cannot be."""
        kinds = {
            "alone": self.choice.alone,
            "peer": self.choice.one_peer,
            "split": self.choice.split,
        }
        return {
            kind: 1 / path.token_s if path is not None and path.token_s > 0 else None
            for kind, path in kinds.items()
        }


_Found: TypeAlias = tuple[Candidate, NodeRecord]


@dataclass(frozen=True, slots=True)
class Asked:
    """What one path is chosen for."""

    model: LocalModel
    route: Route
    privacy: Privacy
    demand: Demand
    constraints: Constraints
    home: HomePart
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Considered:
    """What a choice was made of."""

    asked: Asked
    candidates: tuple[Candidate, ...]
    choice: Choice
    addresses: dict[str, tuple[str, ...]] = field(default_factory=dict)
    shunned: frozenset[str] = frozenset()
    """Candidates that failed a moment ago."""


class Routes:
    """Chooses paths for one node."""

    def __init__(
        self,
        config: Config,
        slices: LocalSlices,
        links: Links,
        directory: Directory,
        avoided: AvoidList,
        standings: Standings | None = None,
    ) -> None:
        self._config, self._slices, self._links = config, slices, links
        self._directory, self._avoided = directory, avoided
        self._standings = standings or NoStandings()
        self._pairs: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._apart = AvoidList()
        self.in_doubt: Callable[[str], bool] = lambda _: False
        """Whether a peer is to answer only where there is no path without it. Set by whoever checks
        what peers answer."""
        self.candidates = Candidates(links, directory, avoided, self._standings)

    async def choose(
        self,
        model: LocalModel,
        route: Route,
        privacy: Privacy,
        context_tokens: int,
        avoid: frozenset[str] = frozenset(),
        demand: Demand = NO_DEMAND,
        prompt_tokens: int = 0,
    ) -> Chosen:
        """Choose a path for one answer of at most `context_tokens` positions, without `avoid`, that
        meets `demand`.

        Raises PathMissing, which says what is missing and what would fill it, or who is avoided;
        IntentUnmet where there are paths that do not meet what is asked, with what would.
        """
        considered = await self.consider(
            model, route, privacy, context_tokens, avoid, demand, prompt_tokens
        )
        path = considered.choice.best
        if path is None:
            raise self.missing(considered)
        taken: Route = "alone" if not path.hops else "peer" if len(path.hops) == 1 else "split"
        return Chosen(path, taken, considered.choice, considered.addresses)

    async def consider(
        self,
        model: LocalModel,
        route: Route,
        privacy: Privacy,
        context_tokens: int,
        avoid: frozenset[str] = frozenset(),
        demand: Demand = NO_DEMAND,
        prompt_tokens: int = 0,
    ) -> Considered:
        """Do all that `choose` does but for saying what came of it."""
        asked = self._asked(model, route, privacy, demand, prompt_tokens)
        if route == "alone":
            return Considered(asked, (), self._choice(asked, (), frozenset()))
        found = self._weigh(asked, self.candidates.find(model, context_tokens, asked.home.block_s))
        shunned = self._avoided.peers() | avoid
        if not found or self._choice(asked, found, shunned).best is None:
            await self._directory.refresh(model.handle, DIRECTORY_WAIT_S)
            found = self.candidates.find(model, context_tokens, asked.home.block_s)
        await asyncio.gather(self.candidates.meet(found), self._know(asked, found))
        shunned = self._avoided.peers() | avoid
        found = self._weigh(asked, found)
        doubted = frozenset(r.peer for _, r in found if self.in_doubt(r.peer))
        choice = self._choice(asked, found, shunned | doubted)
        if choice.best is None and doubted:
            choice = self._choice(asked, found, shunned)
        if choice.best is None and (back := await self.candidates.come_back(found) - avoid):
            shunned -= back
            found = self._weigh(asked, found)
            choice = self._choice(asked, found, shunned)
        addresses: dict[str, tuple[str, ...]] = {
            r.peer: self._directory.link_addresses(r.peer) for _, r in found
        }
        candidates = tuple(candidate for candidate, _ in found)
        return Considered(asked, candidates, choice, addresses, shunned & addresses.keys())

    def _asked(
        self,
        model: LocalModel,
        route: Route,
        privacy: Privacy,
        demand: Demand,
        prompt_tokens: int,
    ) -> Asked:
        """Put together what the request asks and what the owner does."""
        floors, config = self._standings.floors, self._config
        constraints = Constraints(
            floor=floor_of(floors, demand),
            early_floor=floors.early_layers,
            early_stop=early_stop_of(config.early_layers_share, model.block_count),
            owner_hops_max=owner_hops_of(config.owner_hops_max, demand),
            token_s_max=_seconds(demand.token_ms_max),
            first_token_s_max=_seconds(demand.first_token_ms_max),
        )
        home = home_part(model, self._slices, config)
        return Asked(model, route, privacy, demand, constraints, home, prompt_tokens)

    async def _know(self, asked: Asked, found: Sequence[_Found]) -> None:
        """Have what is known of the candidates current, where it decides."""
        demand, constraints = asked.demand, asked.constraints
        current = is_particular(Tier(constraints.floor), demand)
        if current or (constraints.early_floor and constraints.early_stop):
            records = {record.peer: record for _, record in found}  # so many are asked at most
            known_first = sorted(records.values(), key=self.candidates.strangeness)
            peers = [record.peer for record in known_first]
            await self._standings.prepare(peers, current=current)

    def _weigh(self, asked: Asked, found: Sequence[_Found]) -> list[_Found]:
        """Add what was measured and what the peers are worth now."""
        weighed = []
        for candidate, record in found:
            standing = self._standings.standing(record.peer)
            promised_s = _promised_s(record, asked.model.handle, candidate.layers)
            candidate = replace(
                self.candidates.measured(candidate),
                decode_s=max(candidate.decode_s, standing.pace * promised_s),
                tier=standing.tier,
                trust=standing.score,
                owner=standing.owner or "",
                failure=standing.failure,
                breaks=breaks(self._standings, asked.demand, record.peer),
            )
            weighed.append((candidate, record))
        return weighed

    def remember(self, peers: Sequence[PeerId], opened: Sequence[Opened]) -> None:
        """Note what the hops of a path say of the links between them."""
        for (one, other), said in zip(pairwise(peers), opened, strict=False):
            if said.rtt_next_us:
                self._pairs[_pair(one, other)] = said.rtt_next_us / 1e6
        while len(self._pairs) > PEER_PAIRS_MAX:
            self._pairs.popitem(last=False)

    def keep_apart(self, one: str, other: str, reason: str) -> None:
        """Take no path on which these two are neighbours, for a while, if there is another."""
        self._apart.failed(" ".join(_pair(one, other)), reason)

    def worked_together(self, peers: Sequence[str]) -> None:
        """Note that a path's hops have carried an answer."""
        for one, other in pairwise(peers):
            self._apart.answered(" ".join(_pair(one, other)))

    # The choice.

    def _choice(self, asked: Asked, found: Sequence[_Found], avoid: frozenset[str]) -> Choice:
        candidates = [candidate for candidate, _ in found]
        model, row_s, between = asked.model, self._row_s(asked.model), self._between(candidates)

        def choose(candidates: list[Candidate], home: HomePart) -> Choice:
            return choose_path(
                model.block_count,
                candidates,
                home,
                privacy=asked.privacy,
                route=asked.route,
                avoid=avoid,
                rtt_between=between,
                row_s=row_s,
                constraints=asked.constraints,
                prompt_tokens=asked.prompt_tokens,
            )

        if model.entry.whole or asked.route == "alone":
            return choose(candidates, asked.home)
        # Only parts of the model are here: the path's ends are exactly these.
        best: Choice | None = None
        for start, stop in _ends(model, asked.privacy):
            cuts = (cut_candidate(c, LayerRange(start, stop)) for c in candidates)
            inside = [cut for cut in cuts if cut is not None]
            blocks = start + model.block_count - stop
            choice = choose(inside, replace(asked.home, blocks_max=blocks))
            if best is None or _is_better(choice, best):
                best = choice
        return best or choose([], replace(asked.home, blocks_max=0))

    def _between(self, candidates: Sequence[Candidate]) -> dict[tuple[str, str], float]:
        """Return the round trips between candidates that are known, in seconds."""
        rtt_s = {c.peer: c.rtt_s for c in candidates}
        found: dict[tuple[str, str], float] = {}
        for (one, other), said_s in self._pairs.items():
            ways_s = rtt_s.get(one), rtt_s.get(other)
            if ways_s[0] is None or ways_s[1] is None:
                continue  # they are no candidates
            # A hop says so; but they are no nearer to one another than their ways from here differ.
            is_known = min(ways_s[0], ways_s[1]) >= 0
            found[one, other] = max(said_s, abs(ways_s[0] - ways_s[1]) if is_known else 0.0)
        for pair in self._apart.peers():
            one, _, other = pair.partition(" ")
            found[one, other] = SHARD_APART_S
        return found

    def _row_s(self, model: LocalModel) -> float:
        """One row's time on a link, by the bandwidth that was measured."""
        measured = [link.bandwidth_bytes_s for link in self._links.all() if link.bandwidth_bytes_s]
        return 4 * model.embd / statistics.median(measured) if measured else 0.0

    def missing(self, considered: Considered) -> PathMissing:
        """Return why there is no path, and what to do."""
        asked, choice, shunned = considered.asked, considered.choice, considered.shunned
        model, route, privacy = asked.model, asked.route, asked.privacy
        if choice.unmet:
            ways = "; or: ".join(relaxation.text for relaxation in choice.unmet)
            changed = {change.rule for one in choice.unmet for change in one.changes}
            trusted = (
                "; whom you trust you can say: kwaainet trust roots add NAME, or kwaainet trust "
                "endorse NAME"
                if changed & {"min_tier", "early_tier"}
                else ""
            )
            return IntentUnmet(
                f"no path for {model.name} meets what is asked; the least that would help: {ways}"
                f"{trusted}",
                retry_after_s=10.0,
            )
        if route == "alone":
            return PathMissing(
                f"{model.name} does not run on this machine alone: its memory, or what is here of "
                "the model, is not enough; use --route auto"
            )
        rows = [row for row in self._avoided.explain() if row.peer in shunned]
        if rows:
            listed = "; ".join(f"{self._name(row.peer)} ({row.reason})" for row in rows)
            return PathMissing(
                f"there is no path for {model.name} without peers that failed a moment ago: "
                f"{listed}; they are asked again in {rows[0].left_s:.0f} s",
                retry_after_s=rows[0].left_s,
            )
        if choice.gaps:
            return PathMissing(explain_gaps(model.name, choice.gaps), retry_after_s=10.0)
        if route == "peer" and choice.split:
            return PathMissing(
                f"no peer alone serves the middle layers of {model.name}; use --route split or auto"
            )
        if route == "split" and choice.one_peer:
            return PathMissing(
                f"no two peers together serve the middle layers of {model.name}, one alone does; "
                "use --route peer or auto"
            )
        return PathMissing(
            f"there is no path for {model.name}: in {privacy} mode this machine runs the first "
            f"layers{'' if privacy == 'fast' else ' and the last ones'} itself, and its memory, or "
            "what is here of the model, is not enough",
            retry_after_s=10.0,
        )

    def _name(self, peer: str) -> str:
        record = self._directory.record(PeerId(peer))
        return f"{record.name} ({peer})" if record is not None and record.name else peer


def _ends(model: LocalModel, privacy: Privacy) -> list[tuple[int, int]]:
    """Return where a path may begin and end, by the parts that are here."""
    count = model.block_count
    starts = [layers.stop for layers in model.held if layers.start == 0 and layers.stop < count]
    stops = [layers.start for layers in model.held if layers.stop == count and layers.start > 0]
    if privacy == "fast":
        stops = [count]
    return [(start, stop) for start in starts for stop in stops if start < stop]


def _is_better(one: Choice, other: Choice) -> bool:
    if one.best is None or other.best is None:
        return one.best is not None
    return one.best.token_s < other.best.token_s


def _promised_s(record: NodeRecord, handle: ModelHandle, layers: LayerRange) -> float:
    """Return the seconds that a peer announces for one token through a range; 0: it does not."""
    served = (s for s in record.served if (s.handle, s.layers) == (handle, layers))
    return next((one.decode_us for one in served), 0) / 1e6


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


def _pair(one: str, other: str) -> tuple[str, str]:
    return (one, other) if one < other else (other, one)
