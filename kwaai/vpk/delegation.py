"""Readers: signed, expiring rights to read one base, and the token that hands them over.

A delegation is for hosts: this key may read this base until then. A share is for the reader: the
delegation, where the base is, and its keys, sealed to the reader's key. A right that has been given
ends by its date; there is no list of revoked ones. Pure but for what libsodium draws. docs/vpk.md,
"Readers".
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import nacl.bindings
import nacl.exceptions

from credentials.errors import CredentialsError
from credentials.keys import SIGNATURE_BYTES, PublicKey, SecretKey
from kwaai.errors import StorageRefused, UserError
from kwaai.limits import (
    VPK_BASE_NAME_CHARS_MAX,
    VPK_DELEGATION_LIFE_S_MAX,
    VPK_SHARE_CHARS_MAX,
    VPK_SHARE_HOSTS_MAX,
)
from kwaai.vpk.keys import SHARE_BYTES, BaseKeys
from kwaai.vpk.types import ID_BYTES
from kwaai.wire.codec import Reader, WireError, Writer

Right: TypeAlias = Literal["read"]

DELEGATION_BYTES: Final = 1 + 32 + 32 + ID_BYTES + 1 + 8 + 8 + SIGNATURE_BYTES
_VERSION: Final = 1
_READ: Final = 1
_DOMAIN: Final = b"kwaai-vpk-delegation-1\0"
_SHARE_DOMAIN: Final = b"kwaai-vpk-share-1\0"
_SHARE_PREFIX: Final = "vpkshare1-"
_SKEW_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Delegation:
    """What a tenant lets a reader do."""

    tenant: bytes
    """The owner's public key, 32 bytes."""
    reader: bytes
    """The Ed25519 public key that signs the reader's requests, 32 bytes."""
    base: bytes
    not_before_s: float
    expires_s: float
    """Unix times."""
    rights: tuple[Right, ...] = ("read",)


@dataclass(frozen=True, slots=True)
class Share:
    """What a reader gets: opened by `open_share`."""

    delegation: Delegation
    signed: bytes
    """The delegation as hosts want to see it."""
    name: str
    """The base's name."""
    hosts: tuple[str, ...]
    """PeerIds where the base is."""
    keys: BaseKeys
    owner: str = ""
    """The PeerId of the node that made this share, as it says; empty: it does not say."""


def sign_delegation(delegation: Delegation, tenant: SecretKey) -> bytes:
    """Return the delegation signed, DELEGATION_BYTES.

    Raises ValueError for another tenant's, and for a life of nothing or of more than
    VPK_DELEGATION_LIFE_S_MAX.
    """
    if tenant.public.raw != delegation.tenant:
        raise ValueError("a delegation is signed by the tenant that it names")
    if not 0 < delegation.expires_s - delegation.not_before_s <= VPK_DELEGATION_LIFE_S_MAX:
        raise ValueError(f"a delegation lives up to {VPK_DELEGATION_LIFE_S_MAX / 86_400:.0f} days")
    if delegation.rights != ("read",):
        raise ValueError("there is one right so far: read")
    payload = (
        Writer()
        .uint(_VERSION, 1)
        .fixed(delegation.tenant, 32)
        .fixed(delegation.reader, 32)
        .fixed(delegation.base, ID_BYTES)
        .uint(_READ, 1)
        .time(delegation.not_before_s)
        .time(delegation.expires_s)
        .finish()
    )
    return payload + tenant.sign(_DOMAIN + payload)


def verify_delegation(
    data: bytes, *, tenant: bytes, reader: bytes, base: bytes, right: Right, now_s: float
) -> Delegation:
    """Return the delegation, if `tenant` signed it, it lets `reader` do `right` with `base`, and
    `now_s` (Unix time) lies within its life. Raises StorageRefused.
    """
    delegation = _parse(data)
    if delegation.tenant != tenant or delegation.base != base:
        raise StorageRefused("a delegation for another tenant's base, or another base")
    if delegation.reader != reader:
        raise StorageRefused("a delegation for another reader")
    if right not in delegation.rights:
        raise StorageRefused(f"a delegation that does not include {right}")
    try:
        PublicKey(tenant).verify(_DOMAIN + data[:-SIGNATURE_BYTES], data[-SIGNATURE_BYTES:])
    except CredentialsError as error:
        raise StorageRefused("a delegation that the tenant did not sign") from error
    if now_s < delegation.not_before_s - _SKEW_S:
        raise StorageRefused("a delegation that has not begun; compare the two clocks")
    if now_s > delegation.expires_s:
        raise StorageRefused("a delegation that has expired; ask the owner for a new one")
    return delegation


def encode_share(
    delegation: Delegation,
    tenant: SecretKey,
    keys: BaseKeys,
    name: str,
    hosts: tuple[str, ...],
    owner: str = "",
) -> str:
    """Return the text that an owner hands to a reader: only the reader's key opens it. `owner`: the
    PeerId of the node that makes it.

    Raises ValueError, also for keys of another base, KeyInvalid for a reader's key that is none.
    """
    if keys.base != delegation.base:
        raise ValueError("these keys are not of the base that is delegated")
    if len(hosts) > VPK_SHARE_HOSTS_MAX:
        raise ValueError(f"a share names at most {VPK_SHARE_HOSTS_MAX} hosts")
    inside = Writer().text(name).uint(len(hosts), 1)
    for host in hosts:
        inside.text(host)
    inside.text(owner)
    inside.fixed(keys.share(), SHARE_BYTES)
    box = nacl.bindings.crypto_box_seal(inside.finish(), PublicKey(delegation.reader).to_x25519())
    payload = sign_delegation(delegation, tenant) + box
    data = payload + tenant.sign(_SHARE_DOMAIN + payload)
    return _SHARE_PREFIX + base64.urlsafe_b64encode(data).decode("ascii").rstrip("=")


def open_share(text: str, reader: SecretKey, *, now_s: float | None) -> Share:
    """Return what a share gives to this reader. `now_s`: Unix time; None: whether its time has
    come, or is over, is looked at later. Raises UserError, StorageRefused.
    """
    typed = "".join(text[: 2 * VPK_SHARE_CHARS_MAX].split())
    if not typed.startswith(_SHARE_PREFIX) or len(typed) > VPK_SHARE_CHARS_MAX:
        raise UserError(f"a share is one text that begins with {_SHARE_PREFIX}; copy all of it")
    body = typed.removeprefix(_SHARE_PREFIX)
    try:
        data = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise UserError("a sign in this share never occurs in one; copy it again") from error
    if len(data) <= DELEGATION_BYTES + SIGNATURE_BYTES:
        raise UserError("this share ends early; copy all of it")
    signed, payload = data[:DELEGATION_BYTES], data[:-SIGNATURE_BYTES]
    claimed = _parse(signed)
    try:
        PublicKey(claimed.tenant).verify(_SHARE_DOMAIN + payload, data[-SIGNATURE_BYTES:])
    except CredentialsError as error:
        raise StorageRefused("this share was altered, or ends early; copy all of it") from error
    if claimed.reader != reader.public.raw:
        raise StorageRefused(
            "this share was made for another node; its owner names this one's PeerId to make one"
        )
    delegation = verify_delegation(
        signed,
        tenant=claimed.tenant,
        reader=reader.public.raw,
        base=claimed.base,
        right="read",
        now_s=claimed.not_before_s if now_s is None else now_s,
    )
    name, hosts, owner, keys = _open_box(payload[DELEGATION_BYTES:], reader)
    if keys.base != delegation.base:
        raise StorageRefused("a share whose keys are of another base")
    return Share(delegation, signed, name, hosts, keys, owner)


def _parse(data: bytes) -> Delegation:
    """Parse the fields; nothing is verified."""
    if len(data) != DELEGATION_BYTES:
        raise StorageRefused(f"a delegation has {DELEGATION_BYTES} bytes, not {len(data)}")
    reader = Reader(data)
    try:
        reader.uint(1, least=_VERSION, most=_VERSION)
        tenant, key, base = reader.fixed(32), reader.fixed(32), reader.fixed(ID_BYTES)
        reader.uint(1, least=_READ, most=_READ)
        delegation = Delegation(tenant, key, base, reader.time(), reader.time())
    except WireError as error:
        raise StorageRefused("a delegation of another version") from error
    if not 0 < delegation.expires_s - delegation.not_before_s <= VPK_DELEGATION_LIFE_S_MAX:
        raise StorageRefused("a delegation that lives for too long, or not at all")
    return delegation


def _open_box(box: bytes, reader: SecretKey) -> tuple[str, tuple[str, ...], str, BaseKeys]:
    public = reader.public.to_x25519()
    try:
        inside = Reader(nacl.bindings.crypto_box_seal_open(box, public, reader.expose_x25519()))
        name = inside.text(most=4 * VPK_BASE_NAME_CHARS_MAX)
        hosts = tuple(
            inside.text(most=128) for _ in range(inside.uint(1, most=VPK_SHARE_HOSTS_MAX))
        )
        owner = inside.text(most=128)
        keys = BaseKeys.from_share(inside.fixed(SHARE_BYTES))
        inside.finish()
    except (nacl.exceptions.CryptoError, WireError) as error:
        raise StorageRefused("this share does not open with this node's key") from error
    return name, hosts, owner, keys
