"""Bytes that begin with a version and the signer's key, and end with its signature.

The same for records, intents and offers, each under a domain of its own, so that no signature made
for one passes as another. Pure: keys come from the caller; says nothing of fields and times.
docs/protocol/records.md, docs/intents.md.
"""

from __future__ import annotations

from typing import Final

from credentials.keys import (
    PUBLIC_KEY_BYTES,
    SIGNATURE_BYTES,
    PeerId,
    PublicKey,
    SecretKey,
    peer_id,
)
from kwaai.wire.codec import Reader, Writer

VERSION_BYTES: Final = 1
HEAD_BYTES: Final = VERSION_BYTES + PUBLIC_KEY_BYTES
"""Before the fields."""


def begin_signed(version: int, secret: SecretKey) -> Writer:
    """Begin what `secret` is going to sign."""
    return Writer().uint(version, VERSION_BYTES).fixed(secret.public.raw, PUBLIC_KEY_BYTES)


def end_signed(writer: Writer, domain: bytes, secret: SecretKey) -> bytes:
    """End it with the signature. `domain`: precedes the signed bytes, and does not travel."""
    payload = writer.finish()
    return payload + secret.sign(domain + payload)


def read_signed(data: bytes) -> Reader:
    """Read all but the signature, from the version on."""
    return Reader(memoryview(data)[:-SIGNATURE_BYTES])


def read_signer(reader: Reader) -> PeerId:
    """Take the key behind the version, as the peer whose it is. Raises WireError, ValueError."""
    return peer_id(PublicKey(reader.fixed(PUBLIC_KEY_BYTES)))


def verify_signer(data: bytes, domain: bytes) -> None:
    """Raise CredentialsError unless the key that `data` names signed it."""
    key = PublicKey(data[VERSION_BYTES:HEAD_BYTES])
    key.verify(domain + data[:-SIGNATURE_BYTES], data[-SIGNATURE_BYTES:])
