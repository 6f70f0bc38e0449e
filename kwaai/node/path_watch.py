"""What a node does about its paths beside answering: intents, receipts, spot checks, evidence.

Joins these to the moments of a path's life that `opening` tells of; does none of them itself. What
is not there yet (the wallet is being opened) is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from credentials.keys import PeerId
from kwaai.errors import KwaaiError
from kwaai.intent.demand import Demand
from kwaai.intent.match import match
from kwaai.net.links import Links
from kwaai.node.hop_figures import hop_figures
from kwaai.node.opening import OpenPath
from kwaai.node.path_intents import PathIntents
from kwaai.node.receipts import Receipts
from kwaai.node.spot_check import MaySee, SpotChecker
from kwaai.node.standings import floor_of
from kwaai.node.trust_service import TrustService
from kwaai.trust.tiers import Tier
from kwaai.types import LayerRange
from kwaai.wire.messages import CloseReason


class PathWatch:
    """One node's dealings, from a path's opening to its end. Belongs to the event loop."""

    def __init__(
        self,
        intents: PathIntents,
        trust: TrustService,
        links: Links,
        early_stop: Callable[[int], int],
    ) -> None:
        """`early_stop`: the first layer that is not early, of a model of so many."""
        self.intents, self._trust, self._links = intents, trust, links
        self._early_stop = early_stop
        self.receipts: Receipts | None = None
        self.spot_checks: SpotChecker | None = None

    def on_opened(self, opened: OpenPath) -> None:
        """Hold a path's offers against its intent, and record it if it is to be checked. Raises
        IntentInvalid.
        """
        self.intents.check_offers(opened)
        if self.spot_checks is not None and opened.peers:
            opened.path.recording = self.spot_checks.begin(opened.peers)

    def on_closed(self, opened: OpenPath, reason: CloseReason) -> None:
        """Note a path's end, exchange its receipts, and check it."""
        self.intents.on_closed(opened, reason)
        if self.receipts is not None:
            self.receipts.on_answer(opened, reason)
        recording, remote = opened.path.recording, opened.path.remote
        if recording is None or remote is None or self.spot_checks is None:
            return
        if reason is CloseReason.DONE:
            may_see = self._may_see(opened.demand, remote.plan.block_count)
            self.spot_checks.answered(remote.plan, recording, may_see)

    def on_served(self, opened: OpenPath) -> None:
        """Note that every hop of a path has done its part, and how fast."""
        observer, remote = self._trust.observer, opened.path.remote
        if observer is None or remote is None:
            return
        peers = [PeerId(peer) for peer in opened.peers]
        link = self._links.link(peers[0])
        figures = hop_figures(
            peers,
            [remote.opened[number] for number in range(len(peers))],
            opened.path.timings,
            own_rtt_s=0.0 if link is None else link.rtt_s or 0.0,
        )
        observer.answered(figures, len(opened.path.timings.token_s))

    def on_failed(self, peer: str, error: KwaaiError) -> None:
        """Note a peer's failure."""
        self._trust.on_outcome(peer, error)

    def _may_see(self, demand: Demand, block_count: int) -> MaySee:
        """Return who might have been a hop of an answer that was asked for so."""
        early_stop, trust = self._early_stop(block_count), self._trust
        floor = floor_of(trust.floors, demand)
        asked = replace(demand, min_tier=None)

        def may_see(peer: PeerId, layers: LayerRange) -> bool:
            standing = trust.standing(peer)
            early = trust.floors.early_layers if layers.start < early_stop else Tier.UNKNOWN
            return (
                standing.tier >= max(floor, early)
                and standing.integrity >= trust.floors.integrity
                and not match(asked, trust.facts(peer))
            )

        return may_see
