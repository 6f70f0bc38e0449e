"""What the choice of a path asks of trust: who a peer is to this node, and what the owner allows.

Types, and the answer of a node that knows nobody. `kwaai.node.trust_service` knows more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from kwaai.intent.demand import Demand
from kwaai.intent.match import PeerFacts, match
from kwaai.trust.score import Standing
from kwaai.trust.tiers import INTEGRITY_RULE, Floors, Tier


class Standings(Protocol):
    """Whom this node trusts how far. Peers are PeerIds; nobody is unknown enough to raise."""

    @property
    def floors(self) -> Floors:
        """What the owner allows which tier."""

    def standing(self, peer: str) -> Standing:
        """Return a peer's score, tier and owner."""

    def facts(self, peer: str) -> PeerFacts:
        """Return what a demand is held against."""

    async def prepare(self, peers: Sequence[str], *, current: bool) -> None:
        """Get to know these peers; `current`: with status lists of now. Waits a bounded time."""


class NoStandings:
    """Everybody is Unknown, and the owner asks for nothing."""

    floors = Floors(early_layers=Tier.UNKNOWN)

    def standing(self, peer: str) -> Standing:
        """See Standings."""
        return Standing(peer, 0.0, 1.0, Tier.UNKNOWN, None)

    def facts(self, peer: str) -> PeerFacts:
        """See Standings."""
        return PeerFacts(peer)

    async def prepare(self, peers: Sequence[str], *, current: bool) -> None:
        """See Standings."""


def breaks(standings: Standings, demand: Demand, peer: str) -> tuple[str, ...]:
    """Return what of a demand keeps a peer out of a path, in words that are the same for every peer
    that it keeps out; its tier apart, which the planner holds against the floors.
    """
    standing = standings.standing(peer)
    denial = standings.floors.check("serve", peer, Tier.TRUSTED, standing.integrity)
    found = [] if denial is None else [f"{INTEGRITY_RULE} {standings.floors.integrity:g}"]
    found += [
        mismatch.asked
        for mismatch in match(demand, standings.facts(peer))
        if mismatch.rule != "min_tier"
    ]
    return tuple(found)
