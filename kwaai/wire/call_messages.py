"""Calls over a channel of a link: how a channel is agreed on, and what goes through it.

Pure: bytes and values. What a call's body means is not looked at here. docs/protocol/calls.md has
the formats byte by byte.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

from credentials.keys import PeerId, parse_peer_id
from kwaai import limits
from kwaai.wire.codec import Reader, WireError, Writer

PROTOCOL: Final = "/kwaai/calls/1.0.0"
"""Of the network's requests that open a channel."""
RANDOM_BYTES: Final = 32
NONCE_BYTES: Final = 32
HEAD_BYTES: Final = 5
"""What precedes a body on a channel: kind and id."""

CALL: Final = 1
ANSWER: Final = 2
ERROR: Final = 3
CANCEL: Final = 4
BYE: Final = 5

_DOMAIN: Final = b"kwaainet calls 1\x00"
_CODE_CHARS_MAX: Final = 64
_CHANNEL_BYTES: Final = 16
CALL_ID_MAX: Final = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class OpenCalls:
    """Open a channel on which I call `name`."""

    name: str
    random: bytes
    """32 random bytes of the asker."""


class CallChannel(NamedTuple):
    """What both ends make of an opening."""

    id: bytes
    """Of the link's channel; 16 bytes."""
    nonce: bytes
    """32 bytes that no other channel of anybody has: for what is signed to be valid on this one
    alone.
    """


class Call(NamedTuple):
    id: int
    body: memoryview


class CallAnswer(NamedTuple):
    id: int
    body: memoryview


@dataclass(frozen=True, slots=True)
class CallError:
    """A call was refused or has failed."""

    id: int
    code: str
    """Stable: a KwaaiError's."""
    text: str
    retry_after_s: float | None = None
    """Whole milliseconds."""


class Cancel(NamedTuple):
    """The asker does not wait for this call any more."""

    id: int


class Bye(NamedTuple):
    """The sender closes the channel."""

    may_have_begun: bool
    """Whether it may have begun with calls that it has not answered."""


ToAnswerer: TypeAlias = Call | Cancel | Bye
ToAsker: TypeAlias = CallAnswer | CallError | Bye


def encode_open(opening: OpenCalls) -> bytes:
    """Encode the request that opens a channel."""
    return Writer().text(opening.name).fixed(opening.random, RANDOM_BYTES).finish()


def parse_open(data: bytes) -> OpenCalls:
    """Parse the request that opens a channel. Raises WireError."""
    reader = Reader(data)
    opening = OpenCalls(reader.text(most=limits.CALL_NAME_CHARS_MAX), reader.fixed(RANDOM_BYTES))
    reader.finish()
    return opening


def parse_opened(data: bytes) -> bytes:
    """Parse the answer to it: 32 random bytes of the answerer. Raises WireError."""
    reader = Reader(data)
    random = reader.fixed(RANDOM_BYTES)
    reader.finish()
    return random


def agree(asker: PeerId, answerer: PeerId, opening: OpenCalls, answered: bytes) -> CallChannel:
    """Return the channel that an opening and its answer make. Neither end alone chooses it."""
    writer = Writer().fixed(_DOMAIN, len(_DOMAIN))
    for peer in (asker, answerer):
        writer.fixed(parse_peer_id(peer).raw, 32)
    data = writer.text(opening.name).fixed(opening.random, RANDOM_BYTES)
    digest = hashlib.blake2b(
        data.fixed(answered, RANDOM_BYTES).finish(), digest_size=_CHANNEL_BYTES + NONCE_BYTES
    ).digest()
    return CallChannel(digest[:_CHANNEL_BYTES], digest[_CHANNEL_BYTES:])


def encode_head(kind: int, call_id: int) -> bytes:
    """Encode what precedes the body of a call or an answer; the whole of Cancel and Bye, whose
    id is 1 where calls may have begun, else 0.
    """
    return bytes((kind,)) + call_id.to_bytes(4, "big")


def encode_error(error: CallError) -> bytes:
    """Encode a refusal. What cannot be said in its bounds is cut."""
    writer = Writer().uint(ERROR, 1).uint(error.id, 4)
    wait_ms = 0 if error.retry_after_s is None else max(1, round(error.retry_after_s * 1000))
    writer.uint(min(wait_ms, CALL_ID_MAX), 4).text(error.code[:_CODE_CHARS_MAX])
    text = "".join(c for c in error.text if c.isprintable())
    cut = text.encode(errors="ignore")[: limits.CALL_ERROR_BYTES_MAX].decode(errors="ignore")
    return writer.text(cut, 2).finish()


def parse_to_answerer(data: bytes) -> ToAnswerer:
    """Parse what an asker sends. Raises WireError."""
    kind, call_id, reader = _parse_head(data)
    if kind == CALL:
        return Call(call_id, reader.view(reader.left))
    reader.finish()
    if kind == CANCEL:
        return Cancel(call_id)
    if kind == BYE:
        return Bye(bool(call_id))
    raise WireError(f"an asker sends no message of kind {kind}")


def parse_to_asker(data: bytes) -> ToAsker:
    """Parse what an answerer sends. Raises WireError."""
    kind, call_id, reader = _parse_head(data)
    if kind == ANSWER:
        return CallAnswer(call_id, reader.view(reader.left))
    if kind == ERROR:
        wait_ms = reader.uint(4)
        error = CallError(
            call_id,
            reader.text(most=_CODE_CHARS_MAX),
            reader.text(2, most=limits.CALL_ERROR_BYTES_MAX),
            wait_ms / 1000 if wait_ms else None,
        )
        reader.finish()
        return error
    reader.finish()
    if kind == BYE:
        return Bye(bool(call_id))
    raise WireError(f"an answerer sends no message of kind {kind}")


def _parse_head(data: bytes) -> tuple[int, int, Reader]:
    reader = Reader(data)
    return reader.uint(1), reader.uint(4), reader
