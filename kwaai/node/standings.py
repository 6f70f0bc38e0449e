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


def floor_of(floors: Floors, demand: Demand) -> Tier:
    """Return the lowest tier that a hop may have: what the owner asks, or the demand if more."""
    return max(floors.serve, demand.min_tier or Tier.UNKNOWN)


def early_stop_of(share: float, block_count: int) -> int:
    """Return the first layer that is not early, where `share` of a model is."""
    return int(share * block_count)


def owner_hops_of(setting: int | None, demand: Demand) -> int | None:
    """Return how many hops of one owner a path may have: the less of two limits; None: no limit."""
    asked = (demand.owner_hops_max, setting)
    return min((most for most in asked if most is not None), default=None)


def is_particular(floor: Tier, demand: Demand) -> bool:
    """Whether who may be a hop depends on what is known of it now."""
    return bool(floor or demand.credentials or demand.allow or demand.deny)


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
