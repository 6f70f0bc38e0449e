"""An intent as bytes that the requester signs, and back: what is wanted, of whom, until when.

Pure: the time and the nonce are the caller's. An intent that comes out of `verify_intent` was
signed by the requester that it names and holds now; whether it was seen before is `ReplayGuard`'s
to say. docs/intents.md has the format byte by byte.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, get_args

from credentials.keys import PeerId, SecretKey, peer_id
from kwaai import limits
from kwaai.errors import PeerError
from kwaai.intent.demand import CredentialDemand, Demand
from kwaai.intent.signed import (
    check_order,
    check_signature,
    check_times,
    parse_signed,
    read_names,
    read_pairs,
    write_names,
    write_pairs,
)
from kwaai.placement.paths import Privacy
from kwaai.trust.tiers import Tier
from kwaai.types import ModelHandle
from kwaai.wire.codec import Reader, WireError, Writer
from kwaai.wire.signed import begin_signed, end_signed

INTENT_VERSION: Final = 1
SIGNATURE_DOMAIN: Final = b"kwaainet intent 1\x00"
"""Precedes the signed bytes, so that no signature made for something else passes here."""
NONCE_BYTES: Final = 16

Kind: TypeAlias = Literal["inference", "embedding", "storage"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
_PRIVACIES: Final[tuple[Privacy, ...]] = get_args(Privacy)
_BY_HANDLE, _BY_CONSTRAINT = 1, 2
_US_MAX = round(limits.DEMAND_MS_MAX * 1000)


@dataclass(frozen=True, slots=True)
class ModelConstraint:
    """Any model that is like this. Empty texts and zeros say nothing."""

    family: str = ""
    """As the model's own metadata calls it: `qwen2`."""
    params_min: int = 0
    params_max: int = 0
    quantisation: str = ""
    """`Q4_K_M`"""


@dataclass(frozen=True, slots=True)
class Intent:
    """What one requester wants. Times are Unix seconds, exact to the millisecond; the latencies of
    the demand are exact to the microsecond.
    """

    kind: Kind
    model: ModelHandle | ModelConstraint
    demand: Demand
    privacy: Privacy
    requester: PeerId
    nonce: bytes
    """16 bytes that nobody can guess, drawn by the requester for this intent alone."""
    issued_s: float
    expires_s: float
    extra: bytes = b""
    """What later versions add. Signed and carried, not understood."""


def sign_intent(intent: Intent, secret: SecretKey) -> bytes:
    """Encode and sign an intent. Raises ValueError when it is not one that others would accept."""
    if peer_id(secret.public) != intent.requester:
        raise ValueError(f"an intent of {intent.requester} needs that peer's own key")
    try:
        writer = _encode(intent, begin_signed(INTENT_VERSION, secret))
        data = end_signed(writer, SIGNATURE_DOMAIN, secret)
        parse_intent(data)
    except (OverflowError, PeerError) as error:
        raise ValueError(f"an intent cannot be sent: {error}") from error
    return data


def verify_intent(data: bytes, now_s: float) -> Intent:
    """Return the intent in `data`, checked, in this order: size, version, fields and their bounds,
    its times, its signature. Raises IntentInvalid.
    """
    intent = parse_intent(data)
    what = f"an intent of {intent.requester}"
    check_times(what, intent.issued_s, intent.expires_s, now_s)
    check_signature(what, data, SIGNATURE_DOMAIN)
    return intent


def parse_intent(data: bytes) -> Intent:
    """Return what `data` claims. Bounds are checked, nothing else is. Raises IntentInvalid."""
    return parse_signed(data, "an intent", INTENT_VERSION, _parse)


def intent_digest(data: bytes) -> str:
    """Return what offers and receipts call a signed intent by: `sha256:` and 64 hex digits, over
    all of its bytes.
    """
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _encode(intent: Intent, writer: Writer) -> Writer:
    writer.fixed(intent.nonce, NONCE_BYTES)
    writer.time(intent.issued_s).time(intent.expires_s)
    writer.uint(KINDS.index(intent.kind), 1).uint(_PRIVACIES.index(intent.privacy), 1)
    model = intent.model
    if isinstance(model, ModelConstraint):
        writer.uint(_BY_CONSTRAINT, 1).text(model.family)
        writer.uint(model.params_min, 8).uint(model.params_max, 8).text(model.quantisation)
    else:
        writer.uint(_BY_HANDLE, 1).sha256(model)
    _encode_demand(intent.demand, writer)
    return writer.blob(intent.extra)


def _encode_demand(demand: Demand, writer: Writer) -> None:
    writer.uint(0 if demand.min_tier is None else demand.min_tier + 1, 1)
    writer.uint(_to_us(demand.token_ms_max), 4).uint(_to_us(demand.first_token_ms_max), 4)
    writer.uint(demand.owner_hops_max or 0, 1)
    wanted = {(c.type, tuple(sorted(set(c.issuers)))) for c in demand.credentials}
    writer.uint(len(wanted), 1)
    for kind, issuers in sorted(wanted):
        writer.text(kind)
        write_names(writer, issuers)
    write_names(writer, demand.allow)
    write_names(writer, demand.deny)
    writer.text(demand.region)
    write_pairs(writer, demand.budget)


def _to_us(latency_ms: float | None) -> int:
    """Return a latency as it travels; 0 where none is asked for."""
    return 0 if latency_ms is None else max(1, round(latency_ms * 1000))


def _parse(requester: PeerId, reader: Reader) -> Intent:
    nonce = reader.fixed(NONCE_BYTES)
    issued_s, expires_s = reader.time(), reader.time()
    kind = KINDS[reader.uint(1, most=len(KINDS) - 1)]
    privacy = _PRIVACIES[reader.uint(1, most=len(_PRIVACIES) - 1)]
    model = _parse_model(reader)
    demand = _parse_demand(reader)
    extra = reader.blob(most=limits.INTENT_EXTRA_BYTES_MAX)
    return Intent(kind, model, demand, privacy, requester, nonce, issued_s, expires_s, extra)


def _parse_model(reader: Reader) -> ModelHandle | ModelConstraint:
    if reader.uint(1, least=_BY_HANDLE, most=_BY_CONSTRAINT) == _BY_HANDLE:
        return ModelHandle(reader.sha256())
    most = limits.INTENT_NAME_CHARS_MAX
    family = reader.text(most=most)
    params_min, params_max = reader.uint(8), reader.uint(8)
    if params_max and params_max < params_min:
        raise WireError(f"a model has {params_min} to {params_max} parameters")
    return ModelConstraint(family, params_min, params_max, reader.text(most=most))


def _parse_demand(reader: Reader) -> Demand:
    tier = reader.uint(1, most=max(Tier) + 1)
    token_us, first_us = reader.uint(4, most=_US_MAX), reader.uint(4, most=_US_MAX)
    owner_hops = reader.uint(1, most=limits.DEMAND_OWNER_HOPS_MAX)
    count = reader.uint(1, most=limits.DEMAND_CREDENTIALS_MAX)
    wanted = [_parse_credential(reader) for _ in range(count)]
    check_order([(c.type, c.issuers) for c in wanted])
    return Demand(
        min_tier=Tier(tier - 1) if tier else None,
        credentials=tuple(wanted),
        allow=frozenset(read_names(reader)),
        deny=frozenset(read_names(reader)),
        token_ms_max=token_us / 1000 if token_us else None,
        first_token_ms_max=first_us / 1000 if first_us else None,
        owner_hops_max=owner_hops or None,
        region=reader.text(most=limits.DEMAND_REGION_CHARS_MAX),
        budget=read_pairs(reader),
    )


def _parse_credential(reader: Reader) -> CredentialDemand:
    kind = reader.text(most=limits.CREDENTIAL_KIND_CHARS_MAX)
    if not kind:
        raise WireError("a credential of no type is asked for")
    return CredentialDemand(kind, read_names(reader))
