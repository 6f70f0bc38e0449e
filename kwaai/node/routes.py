"""Which path answers: candidates out of records, links and recent failures, and the choice among
them.

Asks the directory and dials candidates that were never met; opens no session. The rules of the
choice are `kwaai.placement.paths`'. Trust will add to what makes a candidate; there is none yet.
"""

from __future__ import annotations

import asyncio
import random
import statistics
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from credentials.keys import PeerId
from kwaai.config import Config
from kwaai.errors import PathMissing, PeerError
from kwaai.limits import (
    DIRECTORY_WAIT_S,
    PATH_CANDIDATES_MAX,
    PEER_PAIRS_MAX,
    SHARD_APART_S,
    SHARD_LINK_AHEAD_S,
    SHARD_LINKS_AHEAD_MAX,
)
from kwaai.log import get_logger
from kwaai.net.links import Links
from kwaai.node.avoid import AvoidList
from kwaai.node.claims import Claims
from kwaai.node.directory import Directory
from kwaai.node.home import home_part
from kwaai.node.local_slices import LocalSlices
from kwaai.node.slice_plan import LocalModel
from kwaai.placement.paths import (
    Candidate,
    Choice,
    HomePart,
    Path,
    Privacy,
    Route,
    choose_path,
    explain_gaps,
)
from kwaai.wire.messages import Opened
from kwaai.wire.records import NodeRecord, Served

log = get_logger(__name__)


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


class Routes:
    """Chooses paths for one node."""

    def __init__(
        self,
        config: Config,
        slices: LocalSlices,
        links: Links,
        directory: Directory,
        avoided: AvoidList,
    ) -> None:
        self._config, self._slices, self._links = config, slices, links
        self._directory, self._avoided = directory, avoided
        self._pairs: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._apart = AvoidList()
        self.claims = Claims()

    async def choose(
        self,
        model: LocalModel,
        route: Route,
        privacy: Privacy,
        context_tokens: int,
        avoid: frozenset[str] = frozenset(),
    ) -> Chosen:
        """Choose a path for one answer of at most `context_tokens` positions, without `avoid`.

        Raises PathMissing, which says what is missing and what would fill it, or who is avoided.
        """
        home = home_part(model, self._slices, self._config)
        if route == "alone":
            choice = choose_path(model.block_count, (), home, privacy=privacy, route=route)
            return self._chosen(model, choice, route, privacy, {}, frozenset())
        found = self._candidates(model, context_tokens, home.block_s)
        shunned = self._avoided.peers() | avoid
        if not found or self._choice(model, found, home, route, privacy, shunned).best is None:
            await self._directory.refresh(model.handle, DIRECTORY_WAIT_S)
            found = self._candidates(model, context_tokens, home.block_s)
        await self._meet(found)
        shunned = self._avoided.peers() | avoid
        candidates = [(self._measured(c), record) for c, record in found]
        choice = self._choice(model, candidates, home, route, privacy, shunned)
        if choice.best is None and (back := await self._come_back(found) - avoid):
            shunned -= back
            candidates = [(self._measured(c), record) for c, record in found]
            choice = self._choice(model, candidates, home, route, privacy, shunned)
        addresses: dict[str, tuple[str, ...]] = {
            r.peer: self._directory.link_addresses(r.peer) for _, r in candidates
        }
        shunned &= addresses.keys()
        return self._chosen(model, choice, route, privacy, addresses, shunned)

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

    # Candidates.

    def _candidates(
        self, model: LocalModel, context_tokens: int, block_s: float
    ) -> list[tuple[Candidate, NodeRecord]]:
        """Return who may take part. Of too many (records are cheap to invent) those with a link,
        then those that we have met, then any.
        """
        found = [
            (
                Candidate(
                    peer=record.peer,
                    name=record.name,
                    layers=served.layers,
                    decode_s=self.claims.believed_s(
                        record.peer, served.decode_us / 1e6, block_s * len(served.layers)
                    ),
                    rtt_s=-1.0,
                    sessions_free=served.sessions_free,
                    head=served.head,
                ),
                record,
            )
            for record in self._directory.records(model.handle)
            if record.peer != self._links.peer and not record.withdrawn
            for served in record.served
            if _is_usable(served, model, context_tokens)
        ]
        if len(found) > PATH_CANDIDATES_MAX:
            found.sort(key=lambda entry: self._strangeness(entry[1]))
        return found[:PATH_CANDIDATES_MAX]

    def _strangeness(self, record: NodeRecord) -> tuple[bool, bool, float]:
        """Sort those first that are known to be there; strangers in any order."""
        has_link = self._links.link(record.peer) is not None
        return not has_link, not self._directory.has_met(record.peer), random.random()

    def _measured(self, candidate: Candidate) -> Candidate:
        link = self._links.link(PeerId(candidate.peer))
        rtt_s = None if link is None else link.rtt_s
        return candidate if rtt_s is None else replace(candidate, rtt_s=rtt_s)

    async def _meet(self, found: Sequence[tuple[Candidate, NodeRecord]]) -> None:
        """Make links to candidates that have none: who cannot be reached is out, and the others'
        round trips are known.
        """
        avoid = self._avoided.peers()
        unmet = {
            record.peer: record
            for _, record in found
            if self._links.link(record.peer) is None and record.peer not in avoid
        }
        chosen = sorted(unmet.values(), key=self._strangeness)[:SHARD_LINKS_AHEAD_MAX]
        if chosen:
            await asyncio.gather(*(self._link(record) for record in chosen))

    async def _come_back(self, found: Sequence[tuple[Candidate, NodeRecord]]) -> frozenset[str]:
        """Return who is left alone and has a link that was made since: a node that was started
        again. Asked for only when nobody else can answer.
        """
        alone = self._avoided.peers()
        records = {record.peer: record for _, record in found if record.peer in alone}
        unmet = [record for peer, record in records.items() if self._links.link(peer) is None]
        await asyncio.gather(*(self._link(record) for record in unmet[:SHARD_LINKS_AHEAD_MAX]))
        links = {peer: self._links.link(peer) for peer in records}
        return frozenset(
            peer
            for peer, link in links.items()
            if link is not None and link.since_s > self._avoided.failed_s(peer)
        )

    async def _link(self, record: NodeRecord) -> None:
        try:
            async with asyncio.timeout(SHARD_LINK_AHEAD_S):
                link = await self._links.get(
                    record.peer, self._directory.link_addresses(record.peer)
                )
                await link.measured.wait()  # or the choice would have to guess its round trip
        except TimeoutError:
            log.info("candidate_slow", peer=record.peer)  # it goes on; the path may still use it
        except PeerError as error:
            log.info("candidate_unreachable", peer=record.peer, problem=error.message)
            if record.peer not in self._avoided.peers():  # else what it did before says more
                self._avoided.failed(record.peer, "it cannot be reached")

    # The choice.

    def _choice(
        self,
        model: LocalModel,
        found: Sequence[tuple[Candidate, NodeRecord]],
        home: HomePart,
        route: Route,
        privacy: Privacy,
        avoid: frozenset[str],
    ) -> Choice:
        candidates = [candidate for candidate, _ in found]
        row_s, apart = self._row_s(model), self._apart.peers()
        rtt_s = {c.peer: c.rtt_s for c in candidates if c.rtt_s >= 0}

        def between(one: str, other: str) -> float:
            pair = _pair(one, other)
            if " ".join(pair) in apart:
                return SHARD_APART_S
            said_s = self._pairs.get(pair, -1.0)
            if said_s < 0 or one not in rtt_s or other not in rtt_s:
                return said_s
            # A hop says so; but they are no nearer to one another than their ways from here differ.
            return max(said_s, abs(rtt_s[one] - rtt_s[other]))

        def choose(candidates: list[Candidate], home: HomePart) -> Choice:
            return choose_path(
                model.block_count,
                candidates,
                home,
                privacy=privacy,
                route=route,
                avoid=avoid,
                rtt_between=between,
                row_s=row_s,
            )

        if model.entry.whole:
            return choose(candidates, home)
        # Only parts of the model are here: the path's ends are exactly these.
        best: Choice | None = None
        for start, stop in _ends(model, privacy):
            inside = [c for c in candidates if c.layers.start >= start and c.layers.stop <= stop]
            blocks = start + model.block_count - stop
            choice = choose(inside, replace(home, blocks_max=blocks))
            if best is None or _is_better(choice, best):
                best = choice
        return best or choose([], replace(home, blocks_max=0))

    def _row_s(self, model: LocalModel) -> float:
        """One row's time on a link, by the bandwidth that was measured."""
        measured = [link.bandwidth_bytes_s for link in self._links.all() if link.bandwidth_bytes_s]
        return 4 * model.embd / statistics.median(measured) if measured else 0.0

    def _chosen(
        self,
        model: LocalModel,
        choice: Choice,
        route: Route,
        privacy: Privacy,
        addresses: dict[str, tuple[str, ...]],
        shunned: frozenset[str],
    ) -> Chosen:
        path = choice.best
        if path is None:
            raise self._missing(model, choice, route, privacy, shunned)
        taken: Route = "alone" if not path.hops else "peer" if len(path.hops) == 1 else "split"
        return Chosen(path, taken, choice, addresses)

    def _missing(
        self,
        model: LocalModel,
        choice: Choice,
        route: Route,
        privacy: Privacy,
        shunned: frozenset[str],
    ) -> PathMissing:
        """Say why there is no path, and what to do."""
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


def _is_usable(served: Served, model: LocalModel, context_tokens: int) -> bool:
    return (
        served.handle == model.handle
        and served.state == "online"
        and served.block_count == model.block_count
        and served.embd == model.embd
        and served.context_tokens >= context_tokens
        and served.layers.start > 0
        and _positions(served.cells, model) == _positions(model.cells, model)
    )


def _positions(cells: int, model: LocalModel) -> bool:
    """Whether llama.cpp takes the long factors of a model that has two sets of them: it decides by
    the size of its whole context, and all parts of a path must agree.
    """
    header = model.entry.header
    trained = header.arch_int("rope.scaling.original_context_length", 0)
    return bool(trained) and cells > trained


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


def _pair(one: str, other: str) -> tuple[str, str]:
    return (one, other) if one < other else (other, one)
