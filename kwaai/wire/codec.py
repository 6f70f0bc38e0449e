"""Read and write the fields that the protocols' messages are made of: bounded, exact, big-endian.

Knows no message. Every reader raises WireError for bytes that are missing, left over or out of
bounds; nothing is allocated from a length that was not checked against what is there.
"""

from __future__ import annotations

import math
import struct

from kwaai.errors import PeerError

_F32 = struct.Struct(">f")
_TIME_BYTES = 8
_SHA256_BYTES = 32
_SHA256_PREFIX = "sha256:"


class WireError(PeerError):
    """Bytes from a peer that are not what the protocol says."""

    code = "wire_invalid"


class Writer:
    """Appends fields to a growing message."""

    __slots__ = ("_parts",)

    def __init__(self) -> None:
        self._parts = bytearray()

    def uint(self, value: int, size: int) -> Writer:
        """Append an unsigned integer of `size` bytes. Raises OverflowError when it does not fit."""
        self._parts += value.to_bytes(size, "big")
        return self

    def f32(self, value: float) -> Writer:
        """Append an IEEE 754 single."""
        self._parts += _F32.pack(value)
        return self

    def time(self, time_s: float) -> Writer:
        """Append a Unix time in seconds, as whole milliseconds. Raises OverflowError for what does
        not fit, ValueError for NaN.
        """
        return self.uint(round(time_s * 1000), _TIME_BYTES)

    def sha256(self, digest: str) -> Writer:
        """Append `sha256:` and 64 hex digits as 32 bytes. Raises ValueError for anything else."""
        data = bytes.fromhex(digest.removeprefix(_SHA256_PREFIX))
        return self.fixed(data, _SHA256_BYTES)

    def fixed(self, data: bytes, size: int) -> Writer:
        """Append exactly `size` bytes."""
        if len(data) != size:
            raise ValueError(f"a field of {size} bytes got {len(data)}")
        self._parts += data
        return self

    def blob(self, data: bytes, size_bytes: int = 2) -> Writer:
        """Append a length of `size_bytes` bytes, then the data."""
        self._parts += len(data).to_bytes(size_bytes, "big")
        self._parts += data
        return self

    def text(self, value: str, size_bytes: int = 1) -> Writer:
        """Append a string as UTF-8 behind its length in bytes."""
        return self.blob(value.encode(), size_bytes)

    def finish(self) -> bytes:
        """Return the message."""
        return bytes(self._parts)


class Reader:
    """Takes fields off a message, in order."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = memoryview(data)
        self._at = 0

    @property
    def left(self) -> int:
        """Bytes not read yet."""
        return len(self._data) - self._at

    def view(self, size: int) -> memoryview:
        """Take `size` bytes without copying them."""
        if size > self.left:
            raise WireError(f"a message ends {size - self.left} bytes early")
        at = self._at
        self._at = at + size
        return self._data[at : at + size]

    def fixed(self, size: int) -> bytes:
        """Take `size` bytes."""
        return bytes(self.view(size))

    def uint(self, size: int, *, least: int = 0, most: int | None = None) -> int:
        """Take an unsigned integer of `size` bytes within [least, most]."""
        value = int.from_bytes(self.view(size), "big")
        if value < least or (most is not None and value > most):
            raise WireError(f"a number is {value}, not {least} to {most}")
        return value

    def time(self) -> float:
        """Take a Unix time, in seconds."""
        return self.uint(_TIME_BYTES) / 1000

    def sha256(self) -> str:
        """Take 32 bytes as `sha256:` and 64 hex digits."""
        return _SHA256_PREFIX + self.fixed(_SHA256_BYTES).hex()

    def f32(self) -> float:
        """Take a finite single."""
        return self._finite(_F32.unpack(self.view(4))[0])

    def _finite(self, value: float) -> float:
        if not math.isfinite(value):
            raise WireError(f"a number is {value}")
        return value

    def blob(self, size_bytes: int = 2, *, most: int) -> bytes:
        """Take a length of `size_bytes` bytes, at most `most`, then that many bytes."""
        return self.fixed(self.uint(size_bytes, most=most))

    def text(self, size_bytes: int = 1, *, most: int) -> str:
        """Take a string of at most `most` bytes of UTF-8, without control characters."""
        try:
            value = self.blob(size_bytes, most=most).decode("utf-8")
        except UnicodeDecodeError:
            raise WireError("a string is not UTF-8") from None
        if not value.isprintable():
            raise WireError("a string has characters that cannot be printed")
        return value

    def finish(self) -> None:
        """Raise WireError unless everything was read."""
        if self.left:
            raise WireError(f"a message has {self.left} bytes too many")
