"""The messages in which requester and hop exchange their halves of a receipt, and show old ones.

Pure: bytes and values, one request and one answer. What a half says is not looked at here
(`kwaai.intent.receipt` does); only lengths are. docs/protocol/receipts.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from kwaai.limits import PEER_TEXT_BYTES_MAX, RECEIPT_BYTES_MAX, RECEIPT_RECENT_MAX
from kwaai.wire.codec import Reader, WireError, Writer
from kwaai.wire.shard import printable
from kwaai.wire.step import SESSION_BYTES
from kwaai.wire.transcript import Cover

PROTOCOL: Final = "/kwaai/receipts/1.0.0"

Verdict: TypeAlias = Literal["agreed", "contradicted", "unknown", "refused"]
_VERDICTS: Final[tuple[Verdict, ...]] = ("agreed", "contradicted", "unknown", "refused")


@dataclass(frozen=True, slots=True)
class Give:
    """Here is my half, of a session that I had on you; yours, please."""

    session: bytes
    cover: Cover
    """Which steps it is about."""
    half: bytes


@dataclass(frozen=True, slots=True)
class Recent:
    """Which halves have others signed about you lately?"""


@dataclass(frozen=True, slots=True)
class Given:
    """What the hop makes of it, and its own half; empty where it does not know the session."""

    verdict: Verdict
    reason: str = ""
    half: bytes = b""


Request: TypeAlias = Give | Recent


def encode_request(request: Request) -> bytes:
    """Encode a request."""
    if isinstance(request, Recent):
        return Writer().uint(2, 1).finish()
    writer = Writer().uint(1, 1).fixed(request.session, SESSION_BYTES)
    writer.uint(request.cover.steps, 8).uint(request.cover.position, 4)
    return writer.blob(request.half).finish()


def parse_request(data: bytes) -> Request:
    """Parse a request. Raises WireError."""
    reader = Reader(data)
    number = reader.uint(1)
    request: Request
    if number == 1:
        session = reader.fixed(SESSION_BYTES)
        cover = Cover(reader.uint(8), reader.uint(4))
        request = Give(session, cover, reader.blob(most=RECEIPT_BYTES_MAX))
    elif number == 2:
        request = Recent()
    else:
        raise WireError(f"there is no request {number} about receipts")
    reader.finish()
    return request


def encode_given(given: Given) -> bytes:
    """Encode the answer to Give."""
    writer = Writer().uint(_VERDICTS.index(given.verdict), 1)
    return writer.text(printable(given.reason), 2).blob(given.half).finish()


def parse_given(data: bytes) -> Given:
    """Parse the answer to Give. Raises WireError."""
    reader = Reader(data)
    verdict = _VERDICTS[reader.uint(1, most=len(_VERDICTS) - 1)]
    reason = reader.text(2, most=PEER_TEXT_BYTES_MAX)
    given = Given(verdict, reason, reader.blob(most=RECEIPT_BYTES_MAX))
    reader.finish()
    return given


def encode_recent(halves: tuple[bytes, ...]) -> bytes:
    """Encode the answer to Recent."""
    writer = Writer().uint(len(halves), 1)
    for half in halves:
        writer.blob(half)
    return writer.finish()


def parse_recent(data: bytes) -> tuple[bytes, ...]:
    """Parse the answer to Recent. Raises WireError."""
    reader = Reader(data)
    count = reader.uint(1, most=RECEIPT_RECENT_MAX)
    halves = tuple(reader.blob(most=RECEIPT_BYTES_MAX) for _ in range(count))
    reader.finish()
    return halves
