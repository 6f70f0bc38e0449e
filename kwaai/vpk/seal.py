"""Seal objects before they leave their owner, and open what comes back.

XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha-03, through libsodium) with a random nonce; bound to the
tenant, the base, the kind, the epoch and the object's id, so that a sealed object opens in its own
place only; padded to size classes. Does not make keys or ids (`kwaai.vpk.keys`). docs/vpk.md, "A
sealed object".
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

from kwaai.errors import SealBroken
from kwaai.limits import VPK_SEALED_BYTES_MAX
from kwaai.vpk import aead
from kwaai.vpk.aead import NotAuthentic, decrypt_each, encrypt_each
from kwaai.vpk.keys import KINDS, VECTOR, BaseKeys
from kwaai.vpk.types import ID_BYTES, Object

NONCE_BYTES: Final = aead.NONCE_BYTES
OVERHEAD_BYTES: Final = aead.OVERHEAD_BYTES
"""Of every sealed object; of a padded one there is at least one byte more."""
TENANT_BYTES: Final = 32

_DOMAIN: Final = b"kwaai-vpk seal\x01"  # the last byte: the version
_MARK: Final = b"\x80"  # ends the plain bytes; zeros follow (ISO/IEC 7816-4)


def _size_classes() -> tuple[int, ...]:
    """Two sizes to a doubling up to 64 KiB, eight above: 50 % and 12.5 % are the most that padding
    adds, and the numbers of classes that there are say what a size tells.
    """
    sizes = []
    power = 128
    while power < VPK_SEALED_BYTES_MAX:
        steps = 2 if power < 64 * 1024 else 8
        sizes += [power + power * step // steps for step in range(steps)]
        power *= 2
    return (*sizes, VPK_SEALED_BYTES_MAX)


SIZE_CLASSES: Final = _size_classes()
"""Bytes of sealed objects, ascending. VECTOR objects are not padded: in one base all are equal."""


def sealed_size(plain_bytes: int) -> int:
    """Return how many bytes a padded object of so many plain bytes has. Raises ValueError."""
    wanted = plain_bytes + 1 + OVERHEAD_BYTES
    if wanted > VPK_SEALED_BYTES_MAX:
        raise ValueError(f"{plain_bytes} bytes are too many for one sealed object")
    return SIZE_CLASSES[bisect_left(SIZE_CLASSES, wanted)]


def room(size: int) -> int:
    """Return how many plain bytes a padded object of `size` bytes can hold."""
    return size - 1 - OVERHEAD_BYTES


def seal(
    keys: BaseKeys,
    tenant: bytes,
    kind: int,
    object_id: bytes,
    plain: bytes,
    *,
    size: int | None = None,
) -> bytes:
    """Return `plain` sealed: nonce, ciphertext, tag.

    `tenant`: the public key, 32 bytes. `size`: exactly so many bytes; by default a size class, and
    of a VECTOR OVERHEAD_BYTES more than it has. Raises ValueError where `plain` does not fit.
    """
    return seal_many(keys, tenant, kind, [(object_id, plain)], size=size)[0][1]


def seal_many(
    keys: BaseKeys,
    tenant: bytes,
    kind: int,
    plains: Sequence[Object],
    *,
    size: int | None = None,
) -> list[Object]:
    """Return many (id, plain bytes) sealed, in the same order."""
    place = _place(keys, tenant, kind)
    for object_id, plain in plains:
        if len(object_id) != ID_BYTES:
            raise ValueError(f"an object's id has {ID_BYTES} bytes, not {len(object_id)}")
        if kind == VECTOR and size is not None and len(plain) + OVERHEAD_BYTES != size:
            raise ValueError(f"a vector of {len(plain)} bytes does not make {size} sealed ones")
    if kind != VECTOR:
        plains = [(object_id, _padded(plain, size)) for object_id, plain in plains]
    sealed = encrypt_each(keys.sealing_key(kind), place, plains)
    return [(object_id, data) for (object_id, _), data in zip(plains, sealed, strict=True)]


def open_sealed(keys: BaseKeys, tenant: bytes, kind: int, object_id: bytes, sealed: bytes) -> bytes:
    """Return what was sealed under this id. Raises SealBroken."""
    return open_many(keys, tenant, kind, [(object_id, sealed)])[0]


def open_many(keys: BaseKeys, tenant: bytes, kind: int, objects: Sequence[Object]) -> list[bytes]:
    """Return the plain bytes of many (id, sealed bytes), in the same order.

    Raises SealBroken, which names the first that was altered, moved or sealed with another key.
    """
    place = _place(keys, tenant, kind)
    try:
        plains = decrypt_each(keys.sealing_key(kind), place, objects)
    except NotAuthentic as error:
        object_id, sealed = objects[error.index]
        raise SealBroken(_broken(object_id, len(sealed))) from error
    if kind == VECTOR:
        return plains
    return [_unpadded(p, object_id) for p, (object_id, _) in zip(plains, objects, strict=True)]


def _place(keys: BaseKeys, tenant: bytes, kind: int) -> bytes:
    """What a seal is bound to, but for the object's id, which follows."""
    if len(tenant) != TENANT_BYTES:
        raise ValueError(f"a tenant's key has {TENANT_BYTES} bytes, not {len(tenant)}")
    if kind not in KINDS:
        raise ValueError(f"there is no kind {kind} of objects")
    return _DOMAIN + tenant + keys.base + bytes((kind,)) + keys.epoch.to_bytes(4, "big")


def _padded(plain: bytes, size: int | None) -> bytes:
    length = (sealed_size(len(plain)) if size is None else size) - OVERHEAD_BYTES
    if len(plain) >= length:
        raise ValueError(f"{len(plain)} bytes do not fit into a sealed object of {size}")
    return (plain + _MARK).ljust(length, b"\0")


def _unpadded(plain: bytes, object_id: bytes) -> bytes:
    stripped = plain.rstrip(b"\0")
    if not stripped.endswith(_MARK):
        raise SealBroken(f"object {object_id.hex()} is sealed rightly, and padded by no rule")
    return stripped[:-1]


def _broken(object_id: bytes, length: int) -> str:
    return (
        f"object {object_id.hex()} ({length} bytes) does not open: it was altered, belongs "
        "elsewhere, or was sealed with another key"
    )
