"""Whether a path that was chosen a while ago may still be taken: by what its peers are worth now.

The same rules as `routes` chooses by, over a path that is there; chooses nothing and asks no hop.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from kwaai.config import Config
from kwaai.intent.demand import Demand
from kwaai.node.standings import (
    Standings,
    breaks,
    early_stop_of,
    floor_of,
    is_particular,
    owner_hops_of,
)
from kwaai.placement.paths import Path


class PathCheck:
    """Holds paths against a demand and the owner's settings."""

    def __init__(self, config: Config, standings: Standings) -> None:
        self._config, self._standings = config, standings

    async def objection(
        self, path: Path, demand: Demand, block_count: int, *, asks: bool = True
    ) -> str:
        """Return why a path does not meet what is asked any more; empty where it does. `asks`: wait
        a bounded time for what is known of its peers to be of now.
        """
        peers = [hop.peer for hop in path.hops]
        if not peers:
            return ""
        floors = self._standings.floors
        floor = floor_of(floors, demand)
        early_stop = early_stop_of(self._config.early_layers_share, block_count)
        current = is_particular(floor, demand)
        if asks and (current or (floors.early_layers and early_stop)):
            await self._standings.prepare(list(dict.fromkeys(peers)), current=current)
        for hop in path.hops:
            least = max(floor, floors.early_layers if hop.layers.start < early_stop else floor)
            standing = self._standings.standing(hop.peer)
            name = hop.name or hop.peer
            if standing.tier < least:
                return f"{name} is {standing.tier.label} now, and {least.label} is asked for"
            if found := breaks(self._standings, demand, hop.peer):
                return f"{name} does not meet what is asked any more: {found[0]}"
        return self._owners(peers, demand)

    def _owners(self, peers: Sequence[str], demand: Demand) -> str:
        most = owner_hops_of(self._config.owner_hops_max, demand)
        owners = Counter(self._standings.standing(peer).owner for peer in peers)
        for owner, count in sorted((o, n) for o, n in owners.items() if o):
            if most is not None and count > most:
                return f"{owner} runs {count} parts of it, and at most {most} are asked for"
        return ""
