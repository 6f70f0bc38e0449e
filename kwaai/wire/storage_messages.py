"""What a tenant asks a host for its objects, and what the host answers: `/kwaai/storage/2.0.0`.

Pure: bytes and values. Every request but `Health` is an envelope signed by the tenant's key, or by
a reader's with a delegation beside it, over both ends' PeerIds, the channel's nonce and a counter:
it means nothing on another link or channel. Who may ask for what is decided by whoever answers
(`kwaai.node.storage_service`); objects are sealed, and mean nothing here. docs/protocol/storage.md
has the formats byte by byte; bodies are `kwaai.wire.storage_bodies`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from enum import IntEnum
from hashlib import blake2b
from typing import Final

from credentials.errors import CredentialsError
from credentials.keys import (
    PUBLIC_KEY_BYTES,
    SIGNATURE_BYTES,
    PeerId,
    PublicKey,
    SecretKey,
    parse_peer_id,
)
from kwaai import limits
from kwaai.errors import (
    Busy,
    KwaaiError,
    ManifestConflict,
    PeerError,
    PeerRefused,
    StorageFull,
    StorageRefused,
)
from kwaai.wire.codec import Reader, WireError, Writer

NAME: Final = "/kwaai/storage/2.0.0"
"""What is called (docs/protocol/calls.md)."""

VERSION: Final = 2
HEAD_BYTES: Final = 1 + 1 + PUBLIC_KEY_BYTES + PUBLIC_KEY_BYTES + 8
"""Version, operation, tenant, signer, counter; a delegation and the body follow."""
_DOMAIN: Final = b"kwaai-storage-request-v2"
_DIGEST_BYTES: Final = 32
_OK, _ERROR = 0, 1
_PEERS_KEPT: Final = 256  # whose keys are not decoded anew for each request


class Operation(IntEnum):
    """What is asked for: the second byte of a request."""

    HEALTH = 1
    CREATE_TENANT = 2
    DELETE_TENANT = 3
    USAGE = 4
    PUT = 5
    GET = 6
    DELETE = 7
    LIST_IDS = 8
    PUT_MANIFEST = 9
    GET_MANIFEST = 10
    BASES = 11
    DROP_BASE = 12
    PIR_TABLE = 13
    PIR = 14
    PROVE = 15


READING: Final = frozenset(
    {
        Operation.GET,
        Operation.LIST_IDS,
        Operation.GET_MANIFEST,
        Operation.PIR_TABLE,
        Operation.PIR,
    }
)
"""What a reader with a delegation may ask for."""


@dataclass(frozen=True, slots=True)
class Binding:
    """What ties a request to one channel of one link."""

    host: PeerId
    caller: PeerId
    """The other end of the link, as its handshake proved."""
    nonce: bytes
    """Of the channel."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request, its signature not looked at yet (`verify_request`)."""

    operation: Operation
    tenant: bytes
    """Whose objects are meant; 32 bytes, a public key."""
    signer: bytes
    """Who signed: the tenant itself, or a reader."""
    counter: int
    delegation: bytes
    """A reader's right, as the tenant signed it (`kwaai.vpk.delegation`); empty for the tenant."""
    body: memoryview


def encode_health() -> bytes:
    """Return the question how a host is: anybody may ask it, so nobody signs it."""
    return Writer().uint(VERSION, 1).uint(Operation.HEALTH, 1).finish()


def encode_request(
    operation: Operation,
    body: bytes,
    *,
    tenant: bytes,
    signer: SecretKey,
    binding: Binding,
    counter: int,
    delegation: bytes = b"",
) -> bytes:
    """Return a signed request. `counter`: above that of every request of this signer on this
    channel before.
    """
    writer = Writer().uint(VERSION, 1).uint(operation, 1).fixed(tenant, PUBLIC_KEY_BYTES)
    writer.fixed(signer.public.raw, PUBLIC_KEY_BYTES).uint(counter, 8).blob(delegation)
    signed = writer.finish() + body
    return signed + signer.sign(_signed_bytes(signed, binding))


def parse_request(data: bytes) -> Request | None:
    """Parse a request; None for the question how this host is. Raises WireError."""
    reader = Reader(data)
    reader.uint(1, least=VERSION, most=VERSION)
    number = reader.uint(1)
    try:
        operation = Operation(number)
    except ValueError:
        raise WireError(f"there is no storage operation {number}") from None
    if operation is Operation.HEALTH:
        reader.finish()
        return None
    tenant = reader.fixed(PUBLIC_KEY_BYTES)
    signer = reader.fixed(PUBLIC_KEY_BYTES)
    counter = reader.uint(8)
    delegation = reader.blob(most=limits.STORAGE_DELEGATION_BYTES_MAX)
    if reader.left < SIGNATURE_BYTES:
        raise WireError("a storage request ends before its signature")
    body = reader.view(reader.left - SIGNATURE_BYTES)
    return Request(operation, tenant, signer, counter, delegation, body)


def verify_request(data: bytes, request: Request, binding: Binding) -> None:
    """Raise StorageRefused unless the signer that `request` names signed `data` for this channel.

    Whether the signer may, and has not asked with this counter before, is left to the caller.
    """
    message = _signed_bytes(memoryview(data)[:-SIGNATURE_BYTES], binding)
    try:
        PublicKey(request.signer).verify(message, data[-SIGNATURE_BYTES:])
    except CredentialsError as error:
        raise StorageRefused(
            "the request is not signed by that key for this link and channel"
        ) from error


@functools.lru_cache(_PEERS_KEPT)
def _key_of(peer: PeerId) -> bytes:
    return parse_peer_id(peer).raw


def _signed_bytes(signed: bytes | memoryview, binding: Binding) -> bytes:
    digest = blake2b(signed, digest_size=_DIGEST_BYTES).digest()
    host, caller = _key_of(binding.host), _key_of(binding.caller)
    nonce = len(binding.nonce).to_bytes(1, "big") + binding.nonce
    return _DOMAIN + host + caller + nonce + digest


# Answers.


def encode_answer(body: bytes) -> bytes:
    """Return the answer of a request that was done."""
    return bytes((_OK,)) + body


def encode_refusal(error: KwaaiError) -> bytes:
    """Return the answer of a request that was not done. Texts are cut and made printable."""
    message = "".join(c if c.isprintable() else " " for c in error.message)
    text = message.encode("utf-8", "replace")[: limits.STORAGE_ERROR_BYTES_MAX]
    retry_ms = min(int((error.retry_after_s or 0.0) * 1000), 0xFFFFFFFF)
    current = error.current if isinstance(error, ManifestConflict) else b""
    writer = Writer().uint(_ERROR, 1).text(error.code)
    writer.blob(text.decode("utf-8", "ignore").encode()).uint(retry_ms, 4)
    return writer.blob(current, 4).finish()


_TOLD: Final[dict[str, type[KwaaiError]]] = {
    kind.code: kind for kind in (Busy, StorageFull, StorageRefused, ManifestConflict)
}


def parse_answer(data: bytes, peer: PeerId) -> memoryview:
    """Return the body of an answer. Raises what the host refused with: Busy, StorageFull,
    ManifestConflict, StorageRefused, and PeerRefused for all else; WireError for no answer.
    """
    reader = Reader(data)
    if reader.uint(1, most=_ERROR) == _OK:
        return reader.view(reader.left)
    code = reader.text(most=limits.PEER_CODE_BYTES_MAX)
    message = reader.text(2, most=limits.STORAGE_ERROR_BYTES_MAX)
    retry_after_s = reader.uint(4) / 1000 or None
    current = reader.blob(4, most=limits.STORAGE_OBJECT_BYTES_MAX)
    reader.finish()
    kind = _TOLD.get(code, PeerRefused)
    error = kind(f"{peer}: {message}", retry_after_s=retry_after_s)
    if isinstance(error, ManifestConflict):
        error.current = current
    if isinstance(error, PeerError):
        error.peer = peer
    raise error
