"""An offer as bytes that the peer who makes it signs, and back: what it would run for one intent.

Pure: the time is the caller's. An offer says what its maker claims; that it was made is proven,
that it is true is not. It reserves nothing. docs/intents.md has the format byte by byte.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from credentials.keys import PeerId, SecretKey, peer_id
from kwaai import limits
from kwaai.errors import PeerError
from kwaai.intent.signed import (
    check_order,
    check_signature,
    check_times,
    parse_signed,
    read_pairs,
    write_pairs,
)
from kwaai.types import LayerRange, ModelHandle
from kwaai.wire.codec import Reader, WireError, Writer
from kwaai.wire.signed import begin_signed, end_signed

OFFER_VERSION: Final = 1
SIGNATURE_DOMAIN: Final = b"kwaainet offer 1\x00"
"""Precedes the signed bytes, so that no signature made for something else passes here."""

_HEAD = 1


@dataclass(frozen=True, slots=True, order=True)
class CredentialRef:
    """A credential about the maker of an offer, by reference: it shows the credential itself over
    the credential protocol.
    """

    type: str
    issuer: str
    """A DID."""
    digest: str
    """`sha256:` and 64 hex digits, of the credential as it was issued."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What one peer would run for one intent. Times are Unix seconds, exact to the millisecond."""

    intent: str
    """The digest of the signed intent that it answers."""
    hop: PeerId
    """Who makes it."""
    handle: ModelHandle
    layers: LayerRange
    head: bool
    """Holds the output head too."""
    context_tokens: int
    """Positions of one session."""
    sessions_free: int
    """Now. None is kept free."""
    issued_s: float
    expires_s: float
    decode_us: int = 0
    """One token through the range; 0 is unknown."""
    prefill_tokens_s: float = 0.0
    """0 is unknown. Four bytes on the wire."""
    terms: Mapping[str, str] = field(default_factory=dict)
    """For settlement plug-ins; not understood here."""
    credentials: tuple[CredentialRef, ...] = ()
    extra: bytes = b""
    """What later versions add. Signed and carried, not understood."""


def sign_offer(offer: Offer, secret: SecretKey) -> bytes:
    """Encode and sign an offer. Raises ValueError when it is not one that others would accept."""
    if peer_id(secret.public) != offer.hop:
        raise ValueError(f"an offer of {offer.hop} needs that peer's own key")
    try:
        writer = _encode(offer, begin_signed(OFFER_VERSION, secret))
        data = end_signed(writer, SIGNATURE_DOMAIN, secret)
        parse_offer(data)
    except (OverflowError, PeerError) as error:
        raise ValueError(f"an offer cannot be made: {error}") from error
    return data


def verify_offer(data: bytes, now_s: float) -> Offer:
    """Return the offer in `data`, checked, in this order: size, version, fields and their bounds,
    its times, its signature. Which intent it answers is the caller's to compare. Raises
    IntentInvalid.
    """
    offer = parse_offer(data)
    what = f"an offer of {offer.hop}"
    check_times(what, offer.issued_s, offer.expires_s, now_s)
    check_signature(what, data, SIGNATURE_DOMAIN)
    return offer


def parse_offer(data: bytes) -> Offer:
    """Return what `data` claims. Bounds are checked, nothing else is. Raises IntentInvalid."""
    return parse_signed(data, "an offer", OFFER_VERSION, _parse)


def _encode(offer: Offer, writer: Writer) -> Writer:
    writer.sha256(offer.intent).time(offer.issued_s).time(offer.expires_s)
    writer.sha256(offer.handle)
    writer.uint(offer.layers.start, 2).uint(offer.layers.stop, 2)
    writer.uint(_HEAD if offer.head else 0, 1)
    writer.uint(offer.context_tokens, 4).uint(offer.sessions_free, 2)
    writer.uint(offer.decode_us, 4).f32(offer.prefill_tokens_s)
    write_pairs(writer, offer.terms)
    references = sorted(set(offer.credentials))
    writer.uint(len(references), 1)
    for reference in references:
        writer.text(reference.type).text(reference.issuer, 2).sha256(reference.digest)
    return writer.blob(offer.extra)


def _parse(hop: PeerId, reader: Reader) -> Offer:
    intent = reader.sha256()
    issued_s, expires_s = reader.time(), reader.time()
    handle = ModelHandle(reader.sha256())
    start = reader.uint(2, most=limits.BLOCKS_MAX - 1)
    layers = LayerRange(start, reader.uint(2, least=start + 1, most=limits.BLOCKS_MAX))
    head = bool(reader.uint(1, most=_HEAD))
    context_tokens, sessions_free = reader.uint(4, least=1), reader.uint(2)
    decode_us, prefill_tokens_s = reader.uint(4), reader.f32()
    if prefill_tokens_s < 0:
        raise WireError("a speed is negative")
    terms = read_pairs(reader)
    count = reader.uint(1, most=limits.OFFER_CREDENTIALS_MAX)
    references = tuple(_parse_reference(reader) for _ in range(count))
    check_order(references)
    return Offer(
        intent=intent,
        hop=hop,
        handle=handle,
        layers=layers,
        head=head,
        context_tokens=context_tokens,
        sessions_free=sessions_free,
        issued_s=issued_s,
        expires_s=expires_s,
        decode_us=decode_us,
        prefill_tokens_s=prefill_tokens_s,
        terms=terms,
        credentials=references,
        extra=reader.blob(most=limits.INTENT_EXTRA_BYTES_MAX),
    )


def _parse_reference(reader: Reader) -> CredentialRef:
    return CredentialRef(
        reader.text(most=limits.CREDENTIAL_KIND_CHARS_MAX),
        reader.text(2, most=limits.DEMAND_NAME_CHARS_MAX),
        reader.sha256(),
    )
