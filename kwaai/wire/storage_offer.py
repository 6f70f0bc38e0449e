"""What a host of sealed knowledge announces in its record: how much it takes, and from whom.

Pure. Signed with the record that carries it, and still only a claim: who asks for room is told by
the host itself. docs/protocol/records.md, "Storage offers".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, get_args

from kwaai.wire.codec import Reader, WireError, Writer
from kwaai.wire.record_extra import parse_extra
from kwaai.wire.records import NodeRecord

OFFER_TAG: Final = 1
"""Of the entry in a record's `extra`."""
PROVIDER_NAME: Final = b"_kwaai.vpk.nodes"
"""Its SHA-256 is the key under which the hosts of a network are found in the DHT."""

OfferMode: TypeAlias = Literal["bob", "eve", "both"]
MODES: Final[tuple[OfferMode, ...]] = get_args(OfferMode)
"""`bob` keeps its own knowledge at others; `eve` hosts for others; `both` does both."""

_PROTOCOL: Final = 2
_TAKES_TENANTS: Final = 1
_TIER_MAX: Final = 3
_STEPS: Final = 64
_STEP_BYTES_MIN: Final = 64 << 20


@dataclass(frozen=True, slots=True)
class StorageOffer:
    """What a node says of its room for sealed objects. Bytes are those of all tenants together."""

    mode: OfferMode
    capacity_bytes: int = 0
    free_bytes: int = 0
    tenants: int = 0
    least_tier: int = 1
    """0 to 3, `kwaai.trust.tiers.Tier`: whose objects are taken, as the host judges them."""
    quota_bytes: int = 0
    """What one tenant may have."""
    takes_tenants: bool = True
    """Whether there is room for a tenant that is not there yet."""
    protocol: int = _PROTOCOL
    """The major version of the storage protocol."""

    @property
    def hosts(self) -> bool:
        """Whether others may keep objects there."""
        return self.mode != "bob"


def coarse_bytes(value: int, capacity_bytes: int) -> int:
    """Return `value` rounded down to a 64th of the capacity, 64 MiB at least: a record shall not
    change with every object.
    """
    step = max(_STEP_BYTES_MIN, capacity_bytes // _STEPS)
    return max(0, min(value, capacity_bytes)) // step * step


def encode_offer(offer: StorageOffer) -> bytes:
    """Encode an offer. Raises ValueError, OverflowError for what others would not read."""
    writer = Writer().uint(offer.protocol, 1).uint(MODES.index(offer.mode), 1)
    writer.uint(_TAKES_TENANTS * offer.takes_tenants, 1).uint(offer.least_tier, 1)
    for value in (offer.capacity_bytes, offer.free_bytes, offer.quota_bytes):
        writer.uint(value, 8)
    data = writer.uint(offer.tenants, 4).finish()
    try:
        parse_offer(data)
    except WireError as error:
        raise ValueError(f"that cannot be offered: {error}") from error
    return data


def parse_offer(data: bytes) -> StorageOffer:
    """Return what an offer says; what later versions add behind it is not looked at. Raises
    WireError.
    """
    reader = Reader(data)
    protocol = reader.uint(1, least=_PROTOCOL)
    mode = MODES[reader.uint(1, most=len(MODES) - 1)]
    takes_tenants = bool(reader.uint(1) & _TAKES_TENANTS)
    least_tier = reader.uint(1, most=_TIER_MAX)
    capacity_bytes = reader.uint(8)
    free_bytes = reader.uint(8, most=capacity_bytes)
    quota_bytes = reader.uint(8)
    return StorageOffer(
        mode,
        capacity_bytes,
        free_bytes,
        reader.uint(4),
        least_tier,
        quota_bytes,
        takes_tenants,
        protocol,
    )


def offer_of(record: NodeRecord) -> StorageOffer | None:
    """Return what a record offers; None where it offers nothing that is understood here."""
    if record.withdrawn:
        return None
    try:
        data = parse_extra(record.extra).get(OFFER_TAG)
        return None if data is None else parse_offer(data)
    except WireError:
        return None
