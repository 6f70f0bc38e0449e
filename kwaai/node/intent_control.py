"""What a running node does with intents for its owner: types, and how casting and planning meet.

No socket, no JSON: `kwaai.api.control_intent` carries this, `kwaai.cli.intent` shows it. Who may
take part and which path there is, the planner says (`IntentPlanner`, the node's routes).
Times are milliseconds where the name ends so. docs/intents.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from credentials.keys import PeerId
from kwaai import limits
from kwaai.intent.demand import Demand, demand_json, describe
from kwaai.node.negotiate import Negotiator
from kwaai.node.negotiation import Answered
from kwaai.placement.paths import Privacy, Route
from kwaai.types import LayerRange, ModelHandle


@dataclass(frozen=True, slots=True)
class IntentRequest:
    """What the owner wants to know: who would answer this?"""

    model: str
    """A name of `models list` or a handle; empty: the node's own."""
    demand: Demand
    route: Route | None = None
    """None: the node's setting."""
    privacy: Privacy | None = None
    """None: the node's setting."""
    prompt_tokens: int = 1
    """How long the prompt is: the time to the first token depends on it."""


@dataclass(frozen=True, slots=True)
class MismatchRow:
    """One thing that is asked and that a peer is not."""

    rule: str
    text: str


@dataclass(frozen=True, slots=True)
class CandidateRow:
    """One range of one peer, and whether it may take part."""

    peer: str
    name: str
    owner: str
    """The owner's DID; empty where none is proven."""
    tier: str
    score: float
    layers: LayerRange
    decode_ms: float
    """One token through the range, as the peer says and this node believes; 0: not known."""
    rtt_ms: float | None
    mismatches: tuple[MismatchRow, ...] = ()
    """Why it may not take part; empty where it may."""


@dataclass(frozen=True, slots=True)
class HopRow:
    """One part of a path."""

    name: str
    """`here`, or what the peer calls itself."""
    peer: str
    """Empty for this node's own parts."""
    layers: LayerRange
    tier: str = ""
    score: float | None = None


@dataclass(frozen=True, slots=True)
class PlannedPath:
    """A path that would be taken."""

    route: Route
    hops: tuple[HopRow, ...]
    token_ms: float
    first_token_ms: float | None


@dataclass(frozen=True, slots=True)
class RelaxationRow:
    """The least that would have to give, and what it would buy."""

    text: str
    """What is asked, and what would do."""
    path: PlannedPath | None = None


@dataclass(frozen=True, slots=True)
class IntentPlan:
    """Which path meets a demand, or why none does."""

    model: str
    handle: ModelHandle
    route: Route
    """Asked for."""
    privacy: Privacy
    demand: Demand
    """With what the node's settings ask where the request says nothing."""
    candidates: tuple[CandidateRow, ...]
    path: PlannedPath | None
    problem: str = ""
    """Why there is no path."""
    relaxations: tuple[RelaxationRow, ...] = ()
    """Where there is none: the smallest changes that would give one."""


@dataclass(frozen=True, slots=True)
class IntentView:
    """An IntentPlan, as it is told."""

    model: str
    handle: ModelHandle
    route: Route
    privacy: Privacy
    demand: Mapping[str, Any]
    """As the `kwaai` object of a request words it."""
    asks: tuple[str, ...]
    """The same in words."""
    candidates: tuple[CandidateRow, ...]
    path: PlannedPath | None
    problem: str
    relaxations: tuple[RelaxationRow, ...]


@dataclass(frozen=True, slots=True)
class OfferRow:
    """One offer of a peer."""

    peer: str
    name: str
    layers: LayerRange
    head: bool
    sessions_free: int
    context_tokens: int
    decode_ms: float
    """One token through the range, by its own word; 0: not known."""
    prefill_tokens_s: float
    expires_s: float
    terms: Mapping[str, str]
    credentials: tuple[str, ...]
    """Types and issuers of the credentials that it refers to."""


@dataclass(frozen=True, slots=True)
class DeclineRow:
    """A peer that made no offer."""

    peer: str
    name: str
    rule: str
    """What stood against it: the peer's rule, or the code of a failure."""
    text: str


@dataclass(frozen=True, slots=True)
class CastView:
    """What peers said to an intent, and the path that this node would take."""

    intent: str
    """The digest of the signed intent."""
    asked: int
    """How many peers it was cast to."""
    offers: tuple[OfferRow, ...]
    declined: tuple[DeclineRow, ...]
    plan: IntentView


class IntentPlanner(Protocol):
    """Plans a path without opening it."""

    async def plan_intent(self, request: IntentRequest) -> IntentPlan:
        """Find candidates and plan. Raises UserError, ModelNotFound; that there is no path is an
        answer.
        """


class IntentControl(Protocol):
    """A running node's intents, to its owner. All methods raise KwaaiError."""

    async def cast(self, request: IntentRequest) -> CastView:
        """Sign the intent and ask everybody who serves the model what they would do for it.

        Nothing is opened. Raises UserError, ModelNotFound.
        """

    async def explain(self, request: IntentRequest) -> IntentView:
        """Say which path would be taken, or why there is none; asks no peer for an offer."""


class NodeIntents:
    """IntentControl over a negotiator and a planner."""

    def __init__(
        self, negotiator: Negotiator, planner: IntentPlanner, name_of: Callable[[str], str]
    ) -> None:
        """`name_of`: what a peer calls itself; empty where that is not known."""
        self._negotiator, self._planner, self._name_of = negotiator, planner, name_of

    async def explain(self, request: IntentRequest) -> IntentView:
        """See IntentControl."""
        return _view(await self._planner.plan_intent(request))

    async def cast(self, request: IntentRequest) -> CastView:
        """See IntentControl."""
        plan = await self._planner.plan_intent(request)
        good = dict.fromkeys(PeerId(c.peer) for c in plan.candidates if not c.mismatches)
        # Who may take no part is not asked: an intent tells what one wants.
        negotiation = self._negotiator.make(plan.handle, plan.demand, plan.privacy)
        answers = await self._negotiator.cast(negotiation, tuple(good))
        offers = [row for answer in answers for row in self._offers(answer)]
        offers.sort(key=lambda row: (row.layers, row.peer))
        declined = [self._decline(answer) for answer in answers if not answer.offers]
        return CastView(
            negotiation.digest, len(answers), tuple(offers), tuple(declined), _view(plan)
        )

    def _offers(self, answer: Answered) -> Sequence[OfferRow]:
        return [
            OfferRow(
                peer=answer.peer,
                name=self._name_of(answer.peer),
                layers=offer.layers,
                head=offer.head,
                sessions_free=offer.sessions_free,
                context_tokens=offer.context_tokens,
                decode_ms=offer.decode_us / 1000,
                prefill_tokens_s=offer.prefill_tokens_s,
                expires_s=offer.expires_s,
                terms=offer.terms,
                credentials=tuple(f"{c.type} by {c.issuer}" for c in offer.credentials),
            )
            for offer in answer.offers
        ]

    def _decline(self, answer: Answered) -> DeclineRow:
        name = self._name_of(answer.peer)
        if answer.declined is not None:
            return DeclineRow(answer.peer, name, answer.declined.rule, answer.declined.message)
        if answer.problem is not None:
            return DeclineRow(answer.peer, name, answer.problem.code, answer.problem.message)
        return DeclineRow(answer.peer, name, "silent", "it made no offer")


def _view(plan: IntentPlan) -> IntentView:
    return IntentView(
        model=plan.model,
        handle=plan.handle,
        route=plan.route,
        privacy=plan.privacy,
        demand=demand_json(plan.demand),
        asks=describe(plan.demand),
        candidates=plan.candidates[: limits.INTENT_ROWS_MAX],
        path=plan.path,
        problem=plan.problem,
        relaxations=plan.relaxations,
    )
