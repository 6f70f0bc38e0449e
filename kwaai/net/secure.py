"""Seal and open the records of a link: AES-256-GCM, a counter as nonce, a ratchet for new keys.

One object per direction. Does not make the first keys (the handshake does) or decide when to renew
them. docs/protocol/link.md has the bytes.
"""

from __future__ import annotations

import struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from kwaai import limits
from kwaai.wire.codec import WireError

KEY_BYTES = 32
TAG_BYTES = 16
LENGTH_BYTES = 4
UPDATE_LABEL = b"kwaainet link 1 next key"

_LENGTH = struct.Struct(">I")
_NONCE = struct.Struct(">IQ")
_OPENED_MAX = limits.LINK_KEY_RECORDS_MAX * limits.LINK_KEY_SLACK
_SEALED_MAX = limits.LINK_RECORD_BYTES_MAX + TAG_BYTES


def next_key(key: bytes) -> bytes:
    """Return the key that follows `key`; there is no way back."""
    return HKDFExpand(SHA256(), KEY_BYTES, UPDATE_LABEL).derive(key)


class _Direction:
    """A key and how much was done with it."""

    __slots__ = ("_cipher", "_key", "records", "since_s")

    def __init__(self, key: bytes, now_s: float) -> None:
        self._key = key
        self._cipher = AESGCM(key)
        self.records = 0
        """Sealed or opened with this key; the next record's nonce."""
        self.since_s = now_s

    def update(self, now_s: float) -> None:
        """Go on to the next key."""
        self._key = next_key(self._key)
        self._cipher = AESGCM(self._key)
        self.records, self.since_s = 0, now_s

    def is_old(self, now_s: float, slack: int = 1) -> bool:
        """Whether the key is older than a key may be."""
        return now_s - self.since_s >= limits.LINK_KEY_AGE_S * slack


class Sealer(_Direction):
    """The direction that this end sends."""

    __slots__ = ()

    def seal(self, plaintext: bytes) -> bytes:
        """Return a record: its length, ciphertext, tag."""
        nonce = _NONCE.pack(0, self.records)
        self.records += 1
        return _LENGTH.pack(len(plaintext) + TAG_BYTES) + self._cipher.encrypt(
            nonce, plaintext, None
        )


class Opener(_Direction):
    """The direction that this end receives."""

    __slots__ = ()

    def open(self, sealed: bytes | memoryview) -> bytes:
        """Return the plaintext of a record without its length. Raises WireError."""
        records = self.records
        if records >= _OPENED_MAX:
            raise WireError("it used a key for longer than allowed")
        try:
            plaintext = self._cipher.decrypt(_NONCE.pack(0, records), sealed, None)
        except InvalidTag:
            raise WireError("a record is forged, changed or out of order") from None
        self.records = records + 1
        return plaintext


def parse_length(data: bytes | bytearray | memoryview, at: int) -> int:
    """Return how many bytes follow the length at `at`. Raises WireError when out of bounds."""
    (size,) = _LENGTH.unpack_from(data, at)
    if TAG_BYTES < size <= _SEALED_MAX:
        return size  # type: ignore[no-any-return]
    raise WireError(f"a record has {size} bytes")
