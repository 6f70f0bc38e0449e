"""The bits of a status list, and their text: multibase base64url of gzip, capped when read.

Knows no credentials: status.py does. W3C Bitstring Status List 1.0, sections 3.3, 3.4 and 7.1: the
first entry is in the highest bit of the first byte.
"""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from typing import Final

from credentials.errors import (
    StatusEntryInvalid,
    StatusIndexBeyondEnd,
    StatusListInvalid,
    StatusListTooShort,
)
from credentials.limits import STATUS_LIST_BYTES_MAX, STATUS_SIZE_BITS_MAX

ENTRIES_MIN: Final = 131_072
"""Entries of the shortest list: one credential hides among that many (section 3.2)."""

_GZIP: Final = 31  # zlib's window size of 15 bits, with a gzip header and trailer
_BASE64URL = re.compile(r"[A-Za-z0-9_-]*\Z")


class StatusList:
    """Equal entries of `size` bits. Built from the bytes as they are packed."""

    __slots__ = ("_bits", "size")

    def __init__(self, data: bytes, size: int = 1) -> None:
        _check_size(size)
        self._bits = bytearray(data)
        self.size = size
        if len(self) < ENTRIES_MIN:
            raise StatusListTooShort(
                f"the status list has {len(self)} entries; at least {ENTRIES_MIN} are needed"
            )

    @classmethod
    def new(cls, entries: int = ENTRIES_MIN, size: int = 1) -> StatusList:
        """Return a list of `entries` zeros, rounded up to whole bytes."""
        _check_size(size)
        if not 1 <= entries <= STATUS_LIST_BYTES_MAX * 8 // size:
            raise StatusListInvalid(f"a status list of {entries} entries is not kept here")
        return cls(bytes(-(-entries * size // 8)), size)

    def __len__(self) -> int:
        return len(self._bits) * 8 // self.size

    def __bytes__(self) -> bytes:
        return bytes(self._bits)

    def get(self, index: int) -> int:
        """Return the entry. Raises StatusIndexBeyondEnd."""
        byte, shift, mask = self._place(index)
        return (int.from_bytes(self._bits[byte : byte + 2].ljust(2, b"\0"), "big") >> shift) & mask

    def set(self, index: int, value: int = 1) -> None:
        """Change the entry. Raises StatusIndexBeyondEnd, StatusEntryInvalid for a value too big."""
        byte, shift, mask = self._place(index)
        if not 0 <= value <= mask:
            raise StatusEntryInvalid(f"an entry of {self.size} bits does not hold {value}")
        pair = self._bits[byte : byte + 2]
        word = int.from_bytes(pair.ljust(2, b"\0"), "big")
        word = (word & ~(mask << shift)) | (value << shift)
        self._bits[byte : byte + 2] = word.to_bytes(2, "big")[: len(pair)]

    def _place(self, index: int) -> tuple[int, int, int]:
        """Return first byte, shift in the two bytes from there, and mask of an entry."""
        if not 0 <= index < len(self):
            raise StatusIndexBeyondEnd(
                f"the status list has the entries 0 to {len(self) - 1}, not {index}"
            )
        byte, bit = divmod(index * self.size, 8)
        return byte, 16 - bit - self.size, (1 << self.size) - 1


def _check_size(size: int) -> None:
    if not 1 <= size <= STATUS_SIZE_BITS_MAX:
        raise StatusEntryInvalid(f"an entry has 1 to {STATUS_SIZE_BITS_MAX} bits, not {size}")


def encode_list(status_list: StatusList) -> str:
    """Return `encodedList`: `u` and base64url of the gzipped bits, the same every time."""
    packer = zlib.compressobj(9, zlib.DEFLATED, _GZIP)
    packed = packer.compress(bytes(status_list)) + packer.flush()
    return "u" + base64.urlsafe_b64encode(packed).decode("ascii").rstrip("=")


def decode_list(text: str, *, size: int = 1, bytes_max: int = STATUS_LIST_BYTES_MAX) -> StatusList:
    """Parse `encodedList`; inflating ends at `bytes_max`. Raises StatusListInvalid."""
    if not text.startswith("u"):
        raise StatusListInvalid(f"encodedList begins with {text[:1]!r}, not with u (base64url)")
    if len(text) > bytes_max * 4 // 3 + 64 or not _BASE64URL.match(text, 1):
        raise StatusListInvalid("encodedList is too long, padded or not base64url")
    body = text[1:]
    try:
        packed = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
    except (binascii.Error, ValueError) as error:
        raise StatusListInvalid("encodedList is not base64url") from error
    unpacker = zlib.decompressobj(_GZIP)
    try:
        data = unpacker.decompress(packed, bytes_max + 1)
    except zlib.error as error:
        raise StatusListInvalid(f"encodedList is not gzip: {error}") from error
    if len(data) > bytes_max:
        raise StatusListInvalid(f"encodedList expands to more than {bytes_max} bytes")
    if not unpacker.eof or unpacker.unused_data:
        raise StatusListInvalid("encodedList is not one whole gzip member")
    return StatusList(data, size)
