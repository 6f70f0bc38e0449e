"""An `IntentControl` that says what it is told to: two candidates, one of which meets the demand.

Plans nothing and asks nobody. Edit the fields like data.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from kwaai.intent.demand import demand_json, describe
from kwaai.node.intent_control import (
    CandidateRow,
    CastView,
    DeclineRow,
    HopRow,
    IntentRequest,
    IntentView,
    MismatchRow,
    OfferRow,
    PlannedPath,
    RelaxationRow,
)
from kwaai.testing.generator import CARD
from kwaai.types import LayerRange

DIGEST = "sha256:" + "5a" * 32


def intent_view(peers: Sequence[str]) -> IntentView:
    """Return a plan with a path over the first peer; the second is Known only."""
    layers = LayerRange(1, 7)
    too_low = MismatchRow("min_tier", "it is Known, and Verified is asked for")
    return IntentView(
        model=CARD.name,
        handle=CARD.handle,
        route="auto",
        privacy="private",
        demand={},
        asks=(),
        candidates=(
            CandidateRow(peers[0], "amber", "", "Verified", 0.52, layers, 1.25, 0.4),
            CandidateRow(
                peers[1], "birch\x1b[2J", "", "Known", 0.13, layers, 0.0, None, (too_low,)
            ),
        ),
        path=PlannedPath(
            "peer",
            (
                HopRow("here", "", LayerRange(0, 1)),
                HopRow("amber", peers[0], layers, "Verified", 0.52),
                HopRow("here", "", LayerRange(7, 8)),
            ),
            12.5,
            80.0,
        ),
        problem="",
        relaxations=(),
    )


def unmet(view: IntentView) -> IntentView:
    """Return the plan where nothing meets the demand."""
    relaxation = RelaxationRow("min tier Trusted -> Verified", view.path)
    return replace(view, path=None, problem="nobody is Trusted", relaxations=(relaxation,))


@dataclass
class FakeIntents:
    """Who would answer."""

    called: Callable[..., None]
    view: IntentView
    declined: list[DeclineRow] = field(default_factory=list)

    def _plan(self, request: IntentRequest) -> IntentView:
        asked = request.demand
        return replace(self.view, demand=demand_json(asked), asks=describe(asked))

    async def explain(self, request: IntentRequest) -> IntentView:
        self.called("intent explain", request)
        return self._plan(request)

    async def cast(self, request: IntentRequest) -> CastView:
        self.called("intent cast", request)
        row = self.view.candidates[0]
        offer = OfferRow(
            row.peer, row.name, row.layers, False, 4, 4096, 1.25, 250.0, 2e9, {"price": "0"}, ()
        )
        return CastView(
            DIGEST, 1 + len(self.declined), (offer,), tuple(self.declined), self._plan(request)
        )
