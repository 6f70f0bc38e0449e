"""One intent of this node with all the peers that it went to, and what a peer said to it.

Values: signs, checks and asks nothing (`negotiate` does). docs/intents.md, "Life of an intent".
"""

from __future__ import annotations

from dataclasses import dataclass, field

from credentials.keys import PeerId
from kwaai.errors import KwaaiError
from kwaai.intent.agreement import Agreement, Stage
from kwaai.intent.intent import Intent
from kwaai.intent.offer import Offer
from kwaai.wire.intent_messages import Declined


@dataclass(eq=False, slots=True)
class Negotiation:
    """One signed intent of this node, and how it stands with each peer that it went to."""

    data: bytes
    """Signed: what an OPEN carries."""
    intent: Intent
    digest: str
    agreements: dict[PeerId, Agreement] = field(default_factory=dict)

    def with_peer(self, peer: PeerId, now_s: float) -> Agreement:
        """Return how it stands with a peer. Raises IntentInvalid once the intent has expired."""
        found = self.agreements.get(peer)
        if found is None:
            found = self.agreements[peer] = Agreement(self.data, peer, now_s)
        return found

    def start(self) -> None:
        """Note that the first step is under way: with everybody who agreed."""
        for agreement in self._at(Stage.AGREED):
            agreement.start()

    def finish(self) -> None:
        """Note that the answer is complete."""
        for agreement in self._at(Stage.FULFILLING):
            agreement.finish()

    def fail(self, reason: str) -> None:
        """Note that the path broke: with everybody who was part of it, whoever is at fault."""
        for agreement in self._at(Stage.OFFERED, Stage.AGREED, Stage.FULFILLING):
            agreement.fail(reason)

    def _at(self, *stages: Stage) -> list[Agreement]:
        return [a for a in self.agreements.values() if a.stage in stages]


@dataclass(frozen=True, slots=True)
class Answered:
    """What one peer said to an intent that was cast."""

    peer: PeerId
    offers: tuple[Offer, ...] = ()
    declined: Declined | None = None
    problem: KwaaiError | None = None
    """Why there is neither: not reached, late, or an answer that does not hold."""
