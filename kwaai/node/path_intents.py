"""The intents of the paths that this node opens: one made for each, its hops' offers checked, and
followed to the end of the session.

Opens nothing: these are the hooks of `opening`. docs/intents.md, "Life of an intent".
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable

from credentials.keys import PeerId
from kwaai import limits
from kwaai.intent.agreement import Stage
from kwaai.intent.demand import Demand
from kwaai.node.negotiate import Negotiator
from kwaai.node.negotiation import Negotiation
from kwaai.node.opening import OpenPath
from kwaai.node.routes import Chosen
from kwaai.placement.paths import Privacy
from kwaai.types import ModelHandle
from kwaai.wire.messages import CloseReason


class PathIntents:
    """Belongs to the event loop."""

    def __init__(self, negotiator: Negotiator) -> None:
        self._negotiator = negotiator
        self._open: OrderedDict[bytes, Negotiation] = OrderedDict()
        self._over: OrderedDict[bytes, Negotiation] = OrderedDict()
        """By session: fulfilled, and waiting for receipts."""

    def maker(
        self, handle: ModelHandle, demand: Demand | None, privacy: Privacy
    ) -> Callable[[Chosen], bytes]:
        """Return what makes the intent for each path of one answer that is tried: `Wanted.intent`.

        It raises UserError for a demand that is too long to send.
        """

        def make(chosen: Chosen) -> bytes:
            negotiation = self._negotiator.make(handle, demand or Demand(), privacy)
            self._open[negotiation.data] = negotiation
            while len(self._open) > limits.INTENT_PATHS_MAX:
                self._open.popitem(last=False)
            return negotiation.data

        return make

    def check_offers(self, opened: OpenPath) -> None:
        """Make an agreement with every hop of a path. Raises IntentInvalid with the hop whose offer
        does not hold.
        """
        remote = opened.path.remote
        negotiation = None if remote is None else self._open.get(remote.plan.intent)
        if remote is None or negotiation is None:
            return
        offers, plan = remote.offers, remote.plan
        for number, hop in enumerate(plan.hops):
            data = offers.get(number, b"")
            self._negotiator.check_offer(negotiation, hop.peer, plan.handle, hop.layers, data)
        negotiation.start()

    def on_closed(self, opened: OpenPath, reason: CloseReason) -> None:
        """Note how the session of a path ended."""
        remote = opened.path.remote
        negotiation = None if remote is None else self._open.pop(remote.plan.intent, None)
        if negotiation is None:
            return
        if remote is not None and reason is CloseReason.DONE:
            negotiation.finish()
            self._over[remote.id] = negotiation
            while len(self._over) > limits.INTENT_PATHS_MAX:
                self._over.popitem(last=False)
        negotiation.fail(reason.name.lower())

    def on_receipt(self, session: bytes, peer: PeerId, half: bytes) -> None:
        """Note that a hop has signed for its part of a session."""
        negotiation = self._over.get(session)
        agreement = None if negotiation is None else negotiation.agreements.get(peer)
        if agreement is not None and agreement.stage is Stage.FULFILLED:
            agreement.on_receipt(f"sha256:{hashlib.sha256(half).hexdigest()}")
