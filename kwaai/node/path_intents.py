"""The intents of the paths that this node opens: one made for each, its hops' offers checked, and
followed to the end of the session.

Opens nothing: these are the hooks of `opening`. docs/intents.md, "Life of an intent".
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from kwaai import limits
from kwaai.intent.demand import Demand
from kwaai.node.negotiate import Negotiation, Negotiator
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
        if reason is CloseReason.DONE:
            negotiation.finish()
        negotiation.fail(reason.name.lower())
