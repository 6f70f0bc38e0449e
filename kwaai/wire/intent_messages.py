"""The messages in which a node casts an intent and a peer answers with offers, or says no.

Pure: bytes and values, one request and one answer. Intents and offers travel as the bytes that
their makers signed; only their lengths are looked at here (`kwaai.intent` does the rest).
docs/intents.md has the formats byte by byte.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

from kwaai import limits
from kwaai.wire.codec import Reader, Writer

PROTOCOL: Final = "/kwaai/intent/1.0.0"

_CAST = 1
_OFFERS, _DECLINED = 1, 2


@dataclass(frozen=True, slots=True)
class Cast:
    """What would you do for this intent?"""

    intent: bytes


@dataclass(frozen=True, slots=True)
class Offers:
    """This. At least one offer, the best first."""

    offers: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Declined:
    """Nothing."""

    rule: str
    """The name of what stands against it: `tier_compute`, `not_served`, `expired`."""
    message: str
    """For people."""
    retry_after_ms: int = 0
    """0: asking again does not help."""


CastAnswer: TypeAlias = Offers | Declined


def encode_cast(request: Cast) -> bytes:
    """Encode a request."""
    return Writer().uint(_CAST, 1).blob(request.intent).finish()


def parse_cast(data: bytes) -> Cast:
    """Parse a request. Raises WireError."""
    reader = Reader(data)
    reader.uint(1, least=_CAST, most=_CAST)
    request = Cast(reader.blob(most=limits.INTENT_BYTES_MAX))
    reader.finish()
    return request


def encode_cast_answer(answer: CastAnswer) -> bytes:
    """Encode an answer."""
    writer = Writer()
    match answer:
        case Offers():
            writer.uint(_OFFERS, 1).uint(len(answer.offers), 1)
            for offer in answer.offers:
                writer.blob(offer)
        case Declined():
            writer.uint(_DECLINED, 1).text(answer.rule).text(answer.message, 2)
            writer.uint(answer.retry_after_ms, 4)
    return writer.finish()


def parse_cast_answer(data: bytes) -> CastAnswer:
    """Parse an answer. Raises WireError."""
    reader = Reader(data)
    answer: CastAnswer
    if reader.uint(1, least=_OFFERS, most=_DECLINED) == _OFFERS:
        count = reader.uint(1, least=1, most=limits.OFFERS_PER_ANSWER_MAX)
        offers = tuple(reader.blob(most=limits.INTENT_BYTES_MAX) for _ in range(count))
        answer = Offers(offers)
    else:
        rule = reader.text(most=limits.INTENT_RULE_CHARS_MAX)
        message = reader.text(2, most=limits.INTENT_MESSAGE_BYTES_MAX)
        answer = Declined(rule, message, reader.uint(4))
    reader.finish()
    return answer
