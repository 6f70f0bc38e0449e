"""Frames of a link: what lies inside a sealed record, encoded and parsed.

Knows no channel, credit or order: `kwaai.wire.mux` does. docs/protocol/link.md has the bytes.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final

from kwaai import limits
from kwaai.wire.codec import WireError

CHANNEL_BYTES: Final = 16
CONTROL: Final = bytes(CHANNEL_BYTES)
"""The control channel: there on every link."""
DATA_OVERHEAD_BYTES: Final = 4 + CHANNEL_BYTES

PADDING, PING, PONG, CREDIT, CLOSED, KEY_UPDATE, GOODBYE, READY = range(8)
DATA, FIRST, LAST, WHOLE, ABORT = 0x10, 0x11, 0x12, 0x13, 0x14
"""A piece of a message: bit 0 says that it is the first, bit 1 that it is the last."""

# Least and most bytes of the body of each kind.
_FRAGMENT: Final = (CHANNEL_BYTES + 1, CHANNEL_BYTES + limits.LINK_FRAGMENT_BYTES_MAX)
_BODY_BYTES: Final[dict[int, tuple[int, int]]] = {
    PADDING: (0, limits.LINK_FRAGMENT_BYTES_MAX),
    PING: (8, 8),
    PONG: (8, 8),
    CREDIT: (CHANNEL_BYTES + 4, CHANNEL_BYTES + 4),
    CLOSED: (CHANNEL_BYTES, CHANNEL_BYTES),
    KEY_UPDATE: (0, 0),
    GOODBYE: (1, 1 + limits.LINK_GOODBYE_BYTES_MAX),
    READY: (0, 0),
    DATA: (CHANNEL_BYTES + limits.LINK_FRAGMENT_BYTES_MIN, _FRAGMENT[1]),
    FIRST: (CHANNEL_BYTES + limits.LINK_FRAGMENT_BYTES_MIN, _FRAGMENT[1]),
    LAST: _FRAGMENT,
    WHOLE: _FRAGMENT,
    ABORT: (CHANNEL_BYTES, CHANNEL_BYTES),
}

_FRAGMENT_MAX: Final = limits.LINK_FRAGMENT_BYTES_MAX
_WHOLE: Final = WHOLE << 24 | CHANNEL_BYTES
_HEAD: Final = struct.Struct(">I")
_DATA_HEAD: Final = struct.Struct(">I16s")
_CREDIT: Final = struct.Struct(">I16sI")
_U32: Final = struct.Struct(">I")


class Reason(IntEnum):
    """Why a link ends, as its goodbye says."""

    STOPPING = 0
    PROTOCOL = 1
    DUPLICATE = 2
    BUSY = 3
    VERSION = 4
    SILENT = 5


def split_frames(data: bytes) -> list[tuple[int, int, int]]:
    """Return (kind, start, stop) of the body of every frame in a record. Raises WireError."""
    size, at = len(data), 0
    frames: list[tuple[int, int, int]] = []
    while at < size:
        if at + 4 > size:
            raise WireError("a record ends inside a frame's head")
        (head,) = _HEAD.unpack_from(data, at)
        kind, start = head >> 24, at + 4
        at = start + (head & 0xFFFFFF)
        bounds = _BODY_BYTES.get(kind)
        if bounds is None:
            raise WireError(f"a frame has the unknown kind {kind:#04x}")
        if not bounds[0] <= at - start <= bounds[1]:
            raise WireError(f"a frame of kind {kind:#04x} has {at - start} bytes")
        frames.append((kind, start, at))
    if at > size:
        raise WireError(f"a record ends {at - size} bytes before its last frame does")
    if not 0 < len(frames) <= limits.LINK_FRAMES_MAX:
        raise WireError(f"a record has {len(frames)} frames")
    return frames


def whole_bytes(data: bytes) -> int | None:
    """Return the bytes of the message when a record is just that, None when it is not."""
    size = len(data) - DATA_OVERHEAD_BYTES
    if 0 < size <= _FRAGMENT_MAX:
        (head,) = _HEAD.unpack_from(data)
        if head == _WHOLE + size:
            return size
    return None


def data_head(kind: int, channel: bytes, size: int) -> bytes:
    """Return what goes before `size` bytes of a message."""
    return _DATA_HEAD.pack(kind << 24 | CHANNEL_BYTES + size, channel)


def encode_padding(size: int) -> bytes:
    return _HEAD.pack(PADDING << 24 | size) + bytes(size)


def encode_ping(token: bytes) -> bytes:
    """Return a PING with a token of 8 bytes that nobody can guess."""
    return _HEAD.pack(PING << 24 | 8) + token


def encode_pong(token: bytes) -> bytes:
    return _HEAD.pack(PONG << 24 | 8) + token


def encode_credit(channel: bytes, nbytes: int) -> bytes:
    return _CREDIT.pack(CREDIT << 24 | CHANNEL_BYTES + 4, channel, nbytes)


def parse_credit(data: bytes, start: int) -> tuple[bytes, int]:
    """Return the channel and the bytes of the CREDIT whose body begins at `start`."""
    stop = start + CHANNEL_BYTES
    return data[start:stop], _U32.unpack_from(data, stop)[0]


def encode_closed(channel: bytes) -> bytes:
    return _HEAD.pack(CLOSED << 24 | CHANNEL_BYTES) + channel


def encode_abort(channel: bytes) -> bytes:
    return _HEAD.pack(ABORT << 24 | CHANNEL_BYTES) + channel


def encode_key_update() -> bytes:
    return _HEAD.pack(KEY_UPDATE << 24)


def encode_ready() -> bytes:
    return _HEAD.pack(READY << 24)


def encode_goodbye(reason: Reason, text: str) -> bytes:
    """Return a GOODBYE; a text that is too long is cut."""
    said = text.encode()[: limits.LINK_GOODBYE_BYTES_MAX].decode(errors="ignore").encode()
    return _HEAD.pack(GOODBYE << 24 | 1 + len(said)) + bytes([reason]) + said


def parse_goodbye(body: bytes) -> tuple[Reason, str]:
    """Return the reason and the words of a GOODBYE's body. Raises WireError."""
    try:
        reason, text = Reason(body[0]), body[1:].decode()
    except ValueError:
        raise WireError("a goodbye has an unknown reason, or a text that is not UTF-8") from None
    return reason, "".join(c if c.isprintable() else "?" for c in text)
