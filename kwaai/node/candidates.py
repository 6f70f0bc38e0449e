"""Who may take part in a path: records of who serves a model, with what this node knows of each.

Dials candidates that were never met, so that their round trips are known; opens no session and
chooses nothing (`routes` does).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import replace

from credentials.keys import PeerId
from kwaai.errors import PeerError
from kwaai.limits import (
    PATH_CANDIDATES_MAX,
    SHARD_LINK_AHEAD_S,
    SHARD_LINKS_AHEAD_MAX,
)
from kwaai.log import get_logger
from kwaai.net.links import Links
from kwaai.node.avoid import AvoidList
from kwaai.node.claims import Claims
from kwaai.node.directory import Directory
from kwaai.node.slice_plan import LocalModel
from kwaai.node.standings import NoStandings, Standings
from kwaai.placement.paths import Candidate
from kwaai.wire.records import NodeRecord, Served

log = get_logger(__name__)


class Candidates:
    """Finds and meets the candidates of one node's paths."""

    def __init__(
        self,
        links: Links,
        directory: Directory,
        avoided: AvoidList,
        standings: Standings | None = None,
    ) -> None:
        self._links, self._directory, self._avoided = links, directory, avoided
        self._standings = standings or NoStandings()
        self.claims = Claims()

    def find(
        self, model: LocalModel, context_tokens: int, block_s: float
    ) -> list[tuple[Candidate, NodeRecord]]:
        """Return who may take part. Of too many (records are cheap to invent) those of the highest
        tiers, of one tier those with a link, then those that we have met, then any.
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
                    prefill_tokens_s=served.prefill_tokens_s,
                    divisible=served.divisible,
                    load=1 - served.sessions_free / max(1, served.sessions_max),
                ),
                record,
            )
            for record in self._directory.records(model.handle)
            if record.peer != self._links.peer and not record.withdrawn
            for served in record.served
            if _is_usable(served, model, context_tokens)
        ]
        if len(found) > PATH_CANDIDATES_MAX:
            found.sort(key=lambda entry: self.strangeness(entry[1]))
        return found[:PATH_CANDIDATES_MAX]

    def strangeness(self, record: NodeRecord) -> tuple[int, bool, bool, float]:
        """Sort those first that are trusted, then those that are known to be there; strangers in
        any order: who has many names and links must not crowd out who has earned a tier.
        """
        tier = self._standings.standing(record.peer).tier
        has_link = self._links.link(record.peer) is not None
        return -tier, not has_link, not self._directory.has_met(record.peer), random.random()

    def measured(self, candidate: Candidate) -> Candidate:
        link = self._links.link(PeerId(candidate.peer))
        rtt_s = None if link is None else link.rtt_s
        return candidate if rtt_s is None else replace(candidate, rtt_s=rtt_s)

    async def meet(self, found: Sequence[tuple[Candidate, NodeRecord]]) -> None:
        """Make links to candidates that have none: who cannot be reached is out, and the others'
        round trips are known.
        """
        avoid = self._avoided.peers()
        unmet = {
            record.peer: record
            for _, record in found
            if self._links.link(record.peer) is None and record.peer not in avoid
        }
        chosen = sorted(unmet.values(), key=self.strangeness)[:SHARD_LINKS_AHEAD_MAX]
        if chosen:
            await asyncio.gather(*(self._link(record) for record in chosen))

    async def come_back(self, found: Sequence[tuple[Candidate, NodeRecord]]) -> frozenset[str]:
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
