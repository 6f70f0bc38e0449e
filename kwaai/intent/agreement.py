"""One intent and one peer: from the cast over the offer, the agreement and the answer to the
receipt.

Pure, a state machine without I/O: bytes and the time come from the caller, every transition is in
one table. Both sides keep one. docs/intents.md, "Life of an intent".
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from credentials.keys import PeerId
from kwaai.intent.intent import Intent, intent_digest, verify_intent
from kwaai.intent.offer import Offer, verify_offer
from kwaai.intent.signed import IntentInvalid


class Stage(StrEnum):
    """Where an agreement stands."""

    CAST = "cast"
    """The intent is out."""
    OFFERED = "offered"
    """The peer has made an offer; a later one takes its place."""
    AGREED = "agreed"
    """The requester has opened a session on it."""
    FULFILLING = "fulfilling"
    """The first step is under way."""
    FULFILLED = "fulfilled"
    """The answer is complete; no receipt has come."""
    RECEIPTED = "receipted"
    """The other side's receipt is here."""
    DECLINED = "declined"
    """Either side said no before anything was computed."""
    EXPIRED = "expired"
    FAILED = "failed"


class Event(StrEnum):
    """What changes an agreement."""

    OFFER = "offer"
    AGREE = "agree"
    START = "start"
    FINISH = "finish"
    RECEIPT = "receipt"
    DECLINE = "decline"
    EXPIRE = "expire"
    FAIL = "fail"


TRANSITIONS: Final = {
    (Stage.CAST, Event.OFFER): Stage.OFFERED,
    (Stage.CAST, Event.DECLINE): Stage.DECLINED,
    (Stage.CAST, Event.EXPIRE): Stage.EXPIRED,
    (Stage.CAST, Event.FAIL): Stage.FAILED,
    (Stage.OFFERED, Event.OFFER): Stage.OFFERED,
    (Stage.OFFERED, Event.AGREE): Stage.AGREED,
    (Stage.OFFERED, Event.DECLINE): Stage.DECLINED,
    (Stage.OFFERED, Event.EXPIRE): Stage.EXPIRED,
    (Stage.OFFERED, Event.FAIL): Stage.FAILED,
    (Stage.AGREED, Event.START): Stage.FULFILLING,
    (Stage.AGREED, Event.DECLINE): Stage.DECLINED,
    (Stage.AGREED, Event.EXPIRE): Stage.EXPIRED,
    (Stage.AGREED, Event.FAIL): Stage.FAILED,
    (Stage.FULFILLING, Event.FINISH): Stage.FULFILLED,
    (Stage.FULFILLING, Event.FAIL): Stage.FAILED,
    (Stage.FULFILLED, Event.RECEIPT): Stage.RECEIPTED,
}
"""What began is not ended by the clock: an answer may take longer than its intent holds. A pair
that is not here does not happen: IntentInvalid where a peer's message would make it, else
ValueError, a mistake of the caller.
"""
ENDED: Final = frozenset({Stage.RECEIPTED, Stage.DECLINED, Stage.EXPIRED, Stage.FAILED})


class Agreement:
    """The dealings of a requester with one peer over one intent."""

    def __init__(self, data: bytes, hop: PeerId, now_s: float) -> None:
        """data: the signed intent. hop: whom it was cast to. Raises IntentInvalid."""
        self.intent: Final[Intent] = verify_intent(data, now_s)
        self.digest: Final = intent_digest(data)
        self.hop: Final = hop
        self.stage = Stage.CAST
        self.offer: Offer | None = None
        """The last one that was made."""
        self.reason = ""
        """Why it was declined or has failed."""
        self.receipt = ""
        """The digest of the other side's receipt."""

    def on_offer(self, data: bytes, now_s: float) -> Offer:
        """Take an offer. Raises IntentInvalid for one that does not hold, is by another peer, about
        another intent, or comes when none is expected; the agreement is as it was then.
        """
        offer = verify_offer(data, now_s)
        if offer.hop != self.hop:
            raise IntentInvalid(
                f"{self.hop} handed over an offer of {offer.hop}", "signature", peer=self.hop
            )
        if offer.intent != self.digest:
            raise IntentInvalid(
                f"{self.hop} offers for another intent than it was asked for",
                "digest",
                peer=self.hop,
            )
        if (self.stage, Event.OFFER) not in TRANSITIONS:
            raise IntentInvalid(
                f"{self.hop} makes an offer when all is {self.stage}", "state", peer=self.hop
            )
        self._move(Event.OFFER)
        self.offer = offer
        return offer

    def agree(self, now_s: float) -> Offer:
        """Take the offer up; return it. Raises IntentInvalid for one that has expired since, and
        ValueError where there is none.
        """
        if self.check_age(now_s):
            raise IntentInvalid(f"the offer of {self.hop} has expired", "expired", peer=self.hop)
        self._move(Event.AGREE)
        if self.offer is None:  # the table has no way here
            raise ValueError("an agreement without an offer")
        return self.offer

    def start(self) -> None:
        """Note that the first step is under way."""
        self._move(Event.START)

    def finish(self) -> None:
        """Note that the answer is complete."""
        self._move(Event.FINISH)

    def on_receipt(self, digest: str) -> None:
        """Note the other side's receipt, which was verified. Raises IntentInvalid where none is
        expected: before the end, or twice.
        """
        if (self.stage, Event.RECEIPT) not in TRANSITIONS:
            raise IntentInvalid(
                f"{self.hop} gives a receipt when all is {self.stage}", "state", peer=self.hop
            )
        self._move(Event.RECEIPT)
        self.receipt = digest

    def decline(self, reason: str) -> None:
        """Note that either side said no."""
        self._move(Event.DECLINE)
        self.reason = reason

    def fail(self, reason: str) -> None:
        """Note that it cannot go on."""
        self._move(Event.FAIL)
        self.reason = reason

    def check_age(self, now_s: float) -> bool:
        """Tell whether it has expired, now or before: with its intent, or with the offer."""
        until_s = self.intent.expires_s
        if self.offer is not None:
            until_s = min(until_s, self.offer.expires_s)
        if now_s >= until_s and (self.stage, Event.EXPIRE) in TRANSITIONS:
            self._move(Event.EXPIRE)
        return self.stage is Stage.EXPIRED

    def _move(self, event: Event) -> None:
        target = TRANSITIONS.get((self.stage, event))
        if target is None:
            raise ValueError(f"an agreement that is {self.stage} has no {event}")
        self.stage = target
