"""Intents and offers between this node and its peers: cast, answered, taken up with a session.

Signs, checks and asks; which peers may take part is `kwaai.intent.match`'s to say and the planner's
to choose. An offer reserves nothing, and what it claims is proven by measuring only.
docs/intents.md.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final, Protocol

from credentials.keys import PeerId, SecretKey, peer_id
from kwaai import limits
from kwaai.errors import (
    Busy,
    KwaaiError,
    PeerError,
    PeerMisbehaved,
    PeerRefused,
    UserError,
)
from kwaai.intent.demand import Demand
from kwaai.intent.intent import (
    NONCE_BYTES,
    Intent,
    Kind,
    ModelConstraint,
    intent_digest,
    sign_intent,
    verify_intent,
)
from kwaai.intent.match import match_model, match_offer
from kwaai.intent.offer import CredentialRef, Offer, sign_offer
from kwaai.intent.replay import ReplayGuard
from kwaai.intent.signed import IntentInvalid
from kwaai.log import get_logger
from kwaai.net.network import Network
from kwaai.node.capabilities import Capability
from kwaai.node.negotiation import Answered, Negotiation
from kwaai.node.rates import Rates
from kwaai.placement.paths import Privacy
from kwaai.trust.evidence import principal_of_peer
from kwaai.trust.tiers import Floors, Tier
from kwaai.types import LayerRange, ModelHandle
from kwaai.wire.codec import WireError
from kwaai.wire.intent_messages import (
    PROTOCOL,
    Cast,
    CastAnswer,
    Declined,
    Offers,
    encode_cast,
    encode_cast_answer,
    parse_cast,
    parse_cast_answer,
)
from kwaai.wire.messages import Open

COUNTERS: Final = ("made", "cast", "offered", "declined", "admitted", "refused")

log = get_logger(__name__)


class TierTooLow(PeerRefused):
    """The asker's tier here is below what this node's settings ask of whoever uses its compute."""

    code = "tier_too_low"


class Policy(Protocol):
    """What the Negotiator asks of the node about itself and others, each time anew."""

    def tier(self, peer: PeerId) -> Tier:
        """What a peer is to this node."""

    def floors(self) -> Floors:
        """Which tier may do what here."""

    def capabilities(self) -> Sequence[Capability]:
        """What is served now; nothing while the node drains."""

    def credentials(self) -> Sequence[CredentialRef]:
        """What offers refer to: credentials about this node that it shows to whoever asks."""


class Negotiator:
    """One node's intents, both ways. Belongs to the event loop."""

    def __init__(
        self,
        network: Network,
        secret: SecretKey,
        policy: Policy,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`clock`: Unix seconds."""
        self._network, self._secret, self._policy, self._clock = network, secret, policy, clock
        self._me = peer_id(secret.public)
        self._guard = ReplayGuard()
        self._rates = Rates(limits.INTENT_ASKS_PER_S, limits.INTENT_ASKS_BURST)
        self.counters: Counter[str] = Counter()
        network.handle_requests(PROTOCOL, self._answer)

    def stats(self) -> dict[str, float]:
        """Counters since start, by the names of `kwaai.api.metrics`."""
        counted = {f"intents_{name}": float(self.counters[name]) for name in COUNTERS}
        return {**counted, "trust_denials_compute": float(self.counters["denied"])}

    # Asking.

    def make(
        self,
        model: ModelHandle | ModelConstraint,
        demand: Demand,
        privacy: Privacy,
        *,
        kind: Kind = "inference",
        discloses_lists: bool = False,
    ) -> Negotiation:
        """Sign an intent: for one path that is opened, or one cast. `discloses_lists`: also whom
        the demand allows and denies, which is nobody's business but the asker's.

        Raises UserError for a demand that is too long to send.
        """
        now_s = self._clock()
        if not discloses_lists:
            demand = _without_lists(demand)
        intent = Intent(
            kind=kind,
            model=model,
            demand=demand,
            privacy=privacy,
            requester=self._me,
            nonce=secrets.token_bytes(NONCE_BYTES),
            issued_s=now_s,
            expires_s=now_s + limits.INTENT_LIFE_S,
        )
        try:
            data = sign_intent(intent, self._secret)
        except ValueError as error:
            raise UserError(f"{error}; ask for less") from error
        self.counters["made"] += 1
        return Negotiation(data, intent, intent_digest(data))

    def check_offer(
        self,
        negotiation: Negotiation,
        peer: PeerId,
        handle: ModelHandle,
        layers: LayerRange,
        data: bytes,
    ) -> Offer:
        """Take the offer with which a hop answered an OPEN of these layers that carried the intent:
        from here on there is an agreement with it.

        Raises IntentInvalid (by the peer, which is evidence) where the offer does not hold, is by
        or about something else, or there is none.
        """
        if not data:
            raise IntentInvalid(
                f"{peer} opened a session and answers its intent with no offer", "terms", peer=peer
            )
        now_s = self._clock()
        try:
            agreement = negotiation.with_peer(peer, now_s)
            offer = agreement.on_offer(data, now_s)
            if (offer.handle, offer.layers) != (handle, layers):
                raise IntentInvalid(
                    f"{peer} offers layers {offer.layers} of {offer.handle} where {layers} of "
                    f"{handle} were asked for",
                    "terms",
                )
            agreement.agree(now_s)
        except IntentInvalid as error:
            error.peer = peer
            raise
        return offer

    async def cast(
        self,
        negotiation: Negotiation,
        peers: Sequence[PeerId],
        timeout_s: float = limits.INTENT_CAST_TIMEOUT_S,
    ) -> tuple[Answered, ...]:
        """Ask peers at once what they would do for an intent; who has not answered when the time is
        over has a problem. In the order of `peers`, at most INTENT_CAST_PEERS_MAX of them.
        """
        asked = list(dict.fromkeys(peers))[: limits.INTENT_CAST_PEERS_MAX]
        return tuple(await asyncio.gather(*(self._ask(negotiation, p, timeout_s) for p in asked)))

    async def _ask(self, negotiation: Negotiation, peer: PeerId, timeout_s: float) -> Answered:
        self.counters["cast"] += 1
        body = encode_cast(Cast(negotiation.data))
        try:
            data = await self._network.request(peer, PROTOCOL, body, timeout_s)
            return self._take(negotiation, peer, data)
        except KwaaiError as error:
            if isinstance(error, PeerError) and error.peer is None:
                error.peer = peer
            log.info("intent_unanswered", peer=peer, problem=error.message)
            return Answered(peer, problem=error)

    def _take(self, negotiation: Negotiation, peer: PeerId, data: bytes) -> Answered:
        """Read an answer. Raises PeerMisbehaved, IntentInvalid."""
        try:
            answer = parse_cast_answer(data)
        except WireError as error:
            raise PeerMisbehaved(
                f"{peer} answered an intent with no answer: {error}", peer=peer
            ) from error
        now_s = self._clock()
        agreement = negotiation.with_peer(peer, now_s)
        if isinstance(answer, Declined):
            agreement.decline(answer.message or answer.rule)
            return Answered(peer, declined=answer)
        worst_first = [agreement.on_offer(offer, now_s) for offer in reversed(answer.offers)]
        return Answered(peer, offers=tuple(reversed(worst_first)))

    # Answering.

    def admit(self, peer: PeerId, opened: Open) -> bytes:
        """Say whether a peer may open a session: return the offer for the intent that its OPEN
        carries, empty where it carries none.

        Raises TierTooLow, IntentInvalid, and Busy for too many intents of one peer.
        """
        try:
            return self._admit(peer, opened)
        except KwaaiError:
            self.counters["refused"] += 1
            raise

    def _admit(self, peer: PeerId, opened: Open) -> bytes:
        self._check_tier(peer)
        if not opened.intent:
            return b""
        now_s = self._clock()
        intent = self._verify(peer, opened.intent, now_s)
        capability = next(
            (c for c in self._policy.capabilities() if c.holds(opened.handle, opened.layers)), None
        )
        if intent.kind != "inference" or intent.privacy != opened.privacy.name.lower():
            raise IntentInvalid(
                f"the intent is for {intent.kind} in {intent.privacy} mode, the session is not",
                "terms",
                peer=peer,
            )
        if capability is None:
            raise PeerRefused(f"layers {opened.layers} are not served here", peer=self._me)
        if found := match_model(intent.model, capability.model):
            raise IntentInvalid(
                f"the session is on another model than the intent: {found[0].text}",
                "terms",
                peer=peer,
            )
        self._guard.take(intent, "open", now_s)
        self.counters["admitted"] += 1
        return self._offer(intent_digest(opened.intent), capability, opened.layers, now_s)[1]

    async def _answer(self, peer: PeerId, body: bytes) -> bytes:
        """Answer a peer. Raises Busy, WireError: it is then refused."""
        if not self._rates.take(peer, asyncio.get_running_loop().time()):
            self.counters["refused"] += 1
            raise Busy("you cast intents too often: wait", retry_after_s=2.0)
        request = parse_cast(body)
        answer = self._consider(peer, request.intent)
        self.counters["offered" if isinstance(answer, Offers) else "declined"] += 1
        return encode_cast_answer(answer)

    def _consider(self, peer: PeerId, data: bytes) -> CastAnswer:
        now_s = self._clock()
        try:
            self._check_tier(peer)
            intent = self._verify(peer, data, now_s)
            self._guard.take(intent, "cast", now_s)
        except KwaaiError as error:
            self.counters["refused"] += 1
            return _declined(error)
        if intent.kind != "inference":
            return Declined("kind", f"this node answers no {intent.kind} intents")
        return self._offers(intent, intent_digest(data), now_s)

    def _offers(self, intent: Intent, digest: str, now_s: float) -> CastAnswer:
        fitting = [c for c in self._policy.capabilities() if not match_model(intent.model, c.model)]
        if not fitting:
            return Declined("not_served", "no model that fits is served here")
        fitting.sort(key=lambda c: (not c.sessions_free, -len(c.layers), c.layers))
        made = [self._offer(digest, c, c.layers, now_s) for c in fitting]
        held = [data for offer, data in made if not match_offer(intent.demand, offer)]
        if not held:
            return Declined(
                "token_ms_max", match_offer(intent.demand, made[0][0])[0].text[:_MESSAGE_CHARS]
            )
        return Offers(tuple(held[: limits.OFFERS_PER_ANSWER_MAX]))

    def _check_tier(self, peer: PeerId) -> None:
        """Raise TierTooLow where this node's settings keep a peer from its compute."""
        tier = self._policy.tier(peer)
        denial = self._policy.floors().check("compute", principal_of_peer(peer), tier)
        if denial is not None:
            self.counters["denied"] += 1
            raise TierTooLow(
                f"you are {denial.tier.label} to this node, and its rule {denial.rule} asks for "
                f"{denial.floor.label}; hold credentials by issuers that it trusts",
                peer=self._me,
            )

    def _verify(self, peer: PeerId, data: bytes, now_s: float) -> Intent:
        """Return the intent that a peer shows as its own. Raises IntentInvalid by that peer."""
        try:
            intent = verify_intent(data, now_s)
        except IntentInvalid as error:
            error.peer = peer
            raise
        if intent.requester != peer:
            raise IntentInvalid(
                f"{peer} shows an intent of {intent.requester}", "requester", peer=peer
            )
        return intent

    def _offer(
        self, digest: str, capability: Capability, layers: LayerRange, now_s: float
    ) -> tuple[Offer, bytes]:
        offer = Offer(
            intent=digest,
            hop=self._me,
            handle=capability.model.handle,
            layers=layers,
            head=capability.head and layers.stop == capability.layers.stop,
            context_tokens=capability.context_tokens,
            sessions_free=capability.sessions_free,
            issued_s=now_s,
            expires_s=now_s + limits.OFFER_LIFE_S,
            decode_us=capability.part_us(layers),
            prefill_tokens_s=capability.prefill_tokens_s,
            credentials=tuple(self._policy.credentials())[: limits.OFFER_CREDENTIALS_MAX],
        )
        return offer, sign_offer(offer, self._secret)


_MESSAGE_CHARS = limits.INTENT_MESSAGE_BYTES_MAX // 4  # UTF-8 takes four bytes at most


def _without_lists(demand: Demand) -> Demand:
    return replace(demand, allow=frozenset(), deny=frozenset())


def _declined(error: KwaaiError) -> Declined:
    """Say no by the rule that an error stands for."""
    rule = "tier_compute" if isinstance(error, TierTooLow) else error.code
    rule = error.reason if isinstance(error, IntentInvalid) else rule
    retry_ms = round(1000 * (error.retry_after_s or 0.0))
    return Declined(rule, error.message[:_MESSAGE_CHARS], retry_ms)
