"""Fragments: what one host holds of a large object, and how it is told from what it is not.

A blob is cut into stripes, so that each fragment fits a message, and each stripe is coded by itself
(`erasure`). A fragment carries the digests of its siblings and of all stripes: fragments of
different makings are told apart, and an altered one is found by itself, before it is used. Whoever
makes all fragments anew can make what they want: that the blob is the owner's is for its seal to
show. docs/vpk.md, "Fragments".
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from kwaai.errors import SealBroken, UserError
from kwaai.limits import VPK_FRAGMENT_BYTES_MAX, VPK_FRAGMENTS_MAX, VPK_LARGE_BYTES_MAX
from kwaai.vpk import erasure
from kwaai.vpk.erasure import Coding
from kwaai.vpk.types import ID_BYTES

_MAGIC: Final = b"kwF1"
_HEADER: Final = struct.Struct(">4sBBBxHHQ")  # least, count, index; stripe, stripes; blob's length
_DIGEST_BYTES: Final = 16
_STRIPE_DOMAIN: Final = b"kwaai vpk stripe 1"
STRIPES_MAX: Final = -(-VPK_LARGE_BYTES_MAX // VPK_FRAGMENT_BYTES_MAX)


@dataclass(frozen=True, slots=True)
class Fragment:
    """One fragment that is what its header says."""

    coding: Coding
    index: int
    stripe: int
    stripes: int
    length: int
    """Of the blob."""
    making: bytes
    """The same for all fragments of one encoding of one blob, and for those of no other."""
    payload: memoryview


def stripe_count(length: int, coding: Coding) -> int:
    """Return into how many stripes a blob is cut."""
    return -(-length // (coding.least * VPK_FRAGMENT_BYTES_MAX))


def stripe_id(object_id: bytes, stripe: int) -> bytes:
    """Return the id of a stripe's fragments: the object's own for the first. No secret: a host that
    has one may find out that it has others of the same object.
    """
    if stripe == 0:
        return object_id
    named = object_id + stripe.to_bytes(2, "big")
    return hashlib.blake2b(named, digest_size=ID_BYTES, key=_STRIPE_DOMAIN).digest()


def make_fragments(blob: bytes, coding: Coding) -> list[list[bytes]]:
    """Return (stripes, coding.count) fragments. Raises UserError for a blob that is empty or larger
    than VPK_LARGE_BYTES_MAX.
    """
    if not 1 <= len(blob) <= VPK_LARGE_BYTES_MAX:
        raise UserError(f"an object of {len(blob)} bytes: 1 to {VPK_LARGE_BYTES_MAX} are allowed")
    step = coding.least * VPK_FRAGMENT_BYTES_MAX
    view = memoryview(blob)
    coded = [erasure.encode(view[at : at + step], coding) for at in range(0, len(blob), step)]
    siblings = [_digests(payloads, coding) for payloads in coded]
    stripes = b"".join(_digest(some) for some in siblings)
    made: list[list[bytes]] = []
    for stripe, (payloads, some) in enumerate(zip(coded, siblings, strict=True)):
        made.append(
            [
                b"".join((_head(coding, i, stripe, len(coded), len(blob)), stripes, some, payload))
                for i, payload in enumerate(payloads)
            ]
        )
    return made


def parse_fragment(data: bytes, stripe: int) -> Fragment:
    """Check what came as a fragment of that stripe. Raises SealBroken for what is none, or was
    altered.
    """
    if len(data) < _HEADER.size:
        raise SealBroken("a fragment is cut short")
    magic, least, count, index, found, stripes, length = _HEADER.unpack_from(data)
    if magic != _MAGIC or data[7] or not 1 <= least <= count <= VPK_FRAGMENTS_MAX:
        raise SealBroken("what came is no fragment")
    coding = Coding(least, count)
    if not 1 <= length <= VPK_LARGE_BYTES_MAX or stripes != stripe_count(length, coding):
        raise SealBroken("a fragment's header says what cannot be")
    if index >= count or found != stripe or stripe >= stripes:
        raise SealBroken("a fragment is of another place")
    middle = _HEADER.size + _DIGEST_BYTES * stripes
    start = middle + _DIGEST_BYTES * count
    payload = memoryview(data)[start:]
    if len(payload) != erasure.payload_bytes(_stripe_bytes(length, coding, stripe), coding):
        raise SealBroken("a fragment is shorter or longer than its header says")
    own = data[middle + _DIGEST_BYTES * index :][:_DIGEST_BYTES]
    above = data[_HEADER.size + _DIGEST_BYTES * stripe :][:_DIGEST_BYTES]
    if not (
        hmac.compare_digest(_digest(payload), own)
        and hmac.compare_digest(_digest(data[middle:start]), above)
    ):
        raise SealBroken("a fragment was altered")
    making = _digest(_head(coding, 0, 0, stripes, length) + data[_HEADER.size : middle])
    return Fragment(coding, index, stripe, stripes, length, making, payload)


def join_stripe(fragments: Sequence[Fragment]) -> bytes:
    """Return a stripe of fragments of one making. Raises TooFewHosts where they are too few."""
    first = fragments[0]
    if any((f.making, f.stripe) != (first.making, first.stripe) for f in fragments):
        raise ValueError("fragments of different makings")
    payloads: Mapping[int, memoryview] = {f.index: f.payload for f in fragments}
    length = _stripe_bytes(first.length, first.coding, first.stripe)
    return erasure.decode(payloads, first.coding, length)


def _stripe_bytes(length: int, coding: Coding, stripe: int) -> int:
    step = coding.least * VPK_FRAGMENT_BYTES_MAX
    return min(step, length - stripe * step)


def _head(coding: Coding, index: int, stripe: int, stripes: int, length: int) -> bytes:
    return _HEADER.pack(_MAGIC, coding.least, coding.count, index, stripe, stripes, length)


def _digests(payloads: Sequence[bytes], coding: Coding) -> bytes:
    if coding.is_whole:
        return _digest(payloads[0]) * coding.count
    return b"".join(_digest(payload) for payload in payloads)


def _digest(payload: bytes | memoryview) -> bytes:
    return hashlib.sha256(payload).digest()[:_DIGEST_BYTES]
