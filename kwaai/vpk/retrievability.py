"""Prove that an object is held without sending it, and check the proof with a key.

The private scheme of Shacham and Waters (J. Cryptology 2013, section 4) over the prime 2^127 - 1:
tag = f(block) + sum of secret * sector, and a proof is the challenged blocks' sums. A host that
lost a share x of the blocks passes `count` challenged ones with probability (1 - x)^count. Does no
I/O, and does not say when to audit (`kwaai.vpk.keeper`). docs/vpk.md, "Audits".
"""

from __future__ import annotations

import hashlib
import hmac
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from kwaai.errors import PeerRefused, SealBroken
from kwaai.limits import VPK_AUDIT_BLOCKS_MAX, VPK_SEALED_BYTES_MAX
from kwaai.vpk.keys import BaseKeys
from kwaai.vpk.types import ID_BYTES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PRIME: Final = 2**127 - 1
SECTORS: Final = 128
"""Of a block."""
SECTOR_BYTES: Final = 15
"""Below the prime, whatever they are."""
BLOCK_BYTES: Final = SECTORS * SECTOR_BYTES
VALUE_BYTES: Final = 16
HEAD_BYTES: Final = 16 + 8 + 16
"""Of tags: salt, size of the object, and the owner's MAC over them."""
CHALLENGE_BYTES: Final = 16 + 2
PROOF_BYTES: Final = HEAD_BYTES + VALUE_BYTES * (SECTORS + 1)

_LIMB_BYTES: Final = 3
_LIMBS: Final = SECTOR_BYTES // _LIMB_BYTES
_SECRET_LIMBS: Final = 8  # of 16 bits: products of 40 bits, 8,192 of which still fit a double
_SUM_BYTES: Final = 40
_CHUNK_BLOCKS: Final = 2048  # tagged at once: 4 MiB of data, some 40 MiB of numbers
_PERSON: Final = b"kwaai-vpk por 1"


@dataclass(frozen=True, slots=True)
class _Head:
    salt: bytes
    size: int
    mac: bytes

    def encode(self) -> bytes:
        return self.salt + self.size.to_bytes(8, "big") + self.mac

    @property
    def blocks(self) -> int:
        return -(-self.size // BLOCK_BYTES)


def tag(keys: BaseKeys, object_id: bytes, data: bytes) -> bytes:
    """Return the tags of an object, which its host keeps beside it: HEAD_BYTES, and VALUE_BYTES for
    each BLOCK_BYTES (0.83 %). New ones every time. Raises ValueError for nothing, or too much.
    """
    if not 0 < len(data) <= VPK_SEALED_BYTES_MAX:
        raise ValueError(f"an object has 1 to {VPK_SEALED_BYTES_MAX} bytes, not {len(data)}")
    salt = os.urandom(16)
    head = _Head(salt, len(data), _mac(keys, object_id, salt, len(data)))
    sums = _combine(_blocks(data), _secrets(keys))
    mask = _mask(keys, object_id, salt)
    values = [(value + _masked(mask, index)) % PRIME for index, value in enumerate(sums)]
    return head.encode() + b"".join(value.to_bytes(VALUE_BYTES, "big") for value in values)


def tags_id(object_id: bytes) -> bytes:
    """Return the id (16 bytes) under which a host keeps an object's tags, beside the object. Known
    to all: the host has to find them.
    """
    return hashlib.blake2b(b"tags" + object_id, digest_size=ID_BYTES, person=_PERSON).digest()


def challenge(count: int, nonce: bytes | None = None) -> bytes:
    """Return a challenge for `count` blocks (1 to VPK_AUDIT_BLOCKS_MAX), CHALLENGE_BYTES.

    `nonce`: 16 bytes, by default random ones: nobody can have the answer ready.
    """
    if not 1 <= count <= VPK_AUDIT_BLOCKS_MAX:
        raise ValueError(f"1 to {VPK_AUDIT_BLOCKS_MAX} blocks are challenged, not {count}")
    fresh = os.urandom(16) if nonce is None else nonce
    if len(fresh) != 16:
        raise ValueError(f"a challenge's nonce has 16 bytes, not {len(fresh)}")
    return fresh + count.to_bytes(2, "big")


def prove(data: bytes, tags: bytes, asked: bytes) -> bytes:
    """Return the proof that whoever calls this has `data` and `tags`: PROOF_BYTES.

    Raises PeerRefused for a challenge that is none, and for tags that do not belong to the data.
    """
    head = _parse_head(tags)
    if not data or head.size != len(data) or len(tags) != HEAD_BYTES + VALUE_BYTES * head.blocks:
        raise PeerRefused("there are no tags that belong to this object")
    indices, weights = _parse_challenge(asked, head.blocks)
    chosen = _blocks(data, indices)
    at = [HEAD_BYTES + VALUE_BYTES * index for index in indices]
    values = [int.from_bytes(tags[start : start + VALUE_BYTES], "big") for start in at]
    total = sum(weight * value for weight, value in zip(weights, values, strict=True)) % PRIME
    sums = [total, *_combine(chosen.transpose(1, 0, 2), weights)]
    return head.encode() + b"".join(value.to_bytes(VALUE_BYTES, "big") for value in sums)


def verify(keys: BaseKeys, object_id: bytes, asked: bytes, proof: bytes) -> int:
    """Check a host's proof; return how many bytes the object has.

    Raises SealBroken where the host cannot have the object as it was tagged, ValueError for a
    challenge that is none.
    """
    if len(proof) != PROOF_BYTES:
        raise SealBroken(f"a proof has {PROOF_BYTES} bytes, not {len(proof)}")
    try:
        head = _parse_head(proof)
    except PeerRefused as error:
        raise SealBroken("a proof about an object of an impossible size") from error
    expected = _mac(keys, object_id, head.salt, head.size)
    if not head.size or not hmac.compare_digest(expected, head.mac):
        raise SealBroken("a proof about another object")
    values = [
        int.from_bytes(proof[at : at + VALUE_BYTES], "big")
        for at in range(HEAD_BYTES, PROOF_BYTES, VALUE_BYTES)
    ]
    try:
        indices, weights = _parse_challenge(asked, head.blocks)
    except PeerRefused as error:
        raise ValueError("this is no challenge") from error
    mask = _mask(keys, object_id, head.salt)
    right = sum(
        weight * _masked(mask, index) for index, weight in zip(indices, weights, strict=True)
    )
    secrets = _secrets(keys)
    right += sum(secret * value for secret, value in zip(secrets, values[1:], strict=True))
    if any(value >= PRIME for value in values) or (right - values[0]) % PRIME:
        raise SealBroken("a proof does not hold: the object is damaged, or not there")
    return head.size


def _parse_head(data: bytes) -> _Head:
    if len(data) < HEAD_BYTES:
        raise PeerRefused("there are no tags that belong to this object")
    size = int.from_bytes(data[16:24], "big")
    if size > VPK_SEALED_BYTES_MAX:
        raise PeerRefused("there are no tags that belong to this object")
    return _Head(data[:16], size, data[24:HEAD_BYTES])


def _parse_challenge(asked: bytes, blocks: int) -> tuple[list[int], list[int]]:
    """Return the blocks that a challenge means, and what each is weighted with."""
    count = int.from_bytes(asked[16:], "big")
    if len(asked) != CHALLENGE_BYTES or not 1 <= count <= VPK_AUDIT_BLOCKS_MAX:
        raise PeerRefused("this is no challenge")
    indices, weights = [], []
    for number in range(count):
        data = hashlib.blake2b(
            number.to_bytes(2, "big"), key=asked[:16], digest_size=32, person=_PERSON
        ).digest()
        indices.append(int.from_bytes(data[:16], "big") % blocks)
        weights.append(int.from_bytes(data[16:], "big") >> 1)
    return indices, weights


def _mac(keys: BaseKeys, object_id: bytes, salt: bytes, size: int) -> bytes:
    if len(object_id) != ID_BYTES:
        raise ValueError(f"an object's id has {ID_BYTES} bytes, not {len(object_id)}")
    data = b"head" + object_id + salt + size.to_bytes(8, "big")
    return hashlib.blake2b(data, key=keys.audit_key(), digest_size=16, person=_PERSON).digest()


def _mask(keys: BaseKeys, object_id: bytes, salt: bytes) -> hashlib.blake2b:
    return hashlib.blake2b(
        b"mask" + object_id + salt, key=keys.audit_key(), digest_size=16, person=_PERSON
    )


def _masked(mask: hashlib.blake2b, index: int) -> int:
    state = mask.copy()
    state.update(index.to_bytes(4, "big"))
    return int.from_bytes(state.digest(), "big")


def _secrets(keys: BaseKeys) -> list[int]:
    """SECTORS numbers below 2^127, of the base."""
    key = keys.audit_key()
    return [
        int.from_bytes(
            hashlib.blake2b(
                b"secret" + bytes((index,)), key=key, digest_size=16, person=_PERSON
            ).digest(),
            "big",
        )
        >> 1
        for index in range(SECTORS)
    ]


def _blocks(data: bytes, indices: list[int] | None = None) -> NDArray[np.uint8]:
    """Return (blocks, SECTORS, SECTOR_BYTES); the last block is filled up with zeros."""
    import numpy as np

    if indices is None:
        padded = data + bytes(-len(data) % BLOCK_BYTES)
    else:
        padded = b"".join(
            data[index * BLOCK_BYTES : (index + 1) * BLOCK_BYTES].ljust(BLOCK_BYTES, b"\0")
            for index in indices
        )
    return np.frombuffer(padded, np.uint8).reshape(-1, SECTORS, SECTOR_BYTES)


def _combine(rows: NDArray[np.uint8], factors: list[int]) -> list[int]:
    """Return, for each row, the sum of factor * value modulo the prime.

    `rows`: uint8, (n, values, SECTOR_BYTES), big-endian values; `factors`: one for each value,
    below 2^128. Exact: limbs are small enough for sums in doubles.
    """
    import numpy as np

    packed = b"".join(factor.to_bytes(16, "little") for factor in factors)
    limbs = np.frombuffer(packed, "<u2").reshape(-1, _SECRET_LIMBS).astype(np.float64)
    sums = []
    for start in range(0, len(rows), _CHUNK_BLOCKS):
        sums += _combine_chunk(rows[start : start + _CHUNK_BLOCKS], limbs)
    return sums


def _combine_chunk(rows: NDArray[np.uint8], factors: NDArray[np.float64]) -> list[int]:
    import numpy as np

    octets = rows.reshape(*rows.shape[:2], _LIMBS, _LIMB_BYTES).astype(np.float64)
    values = octets @ np.array([65536.0, 256.0, 1.0])  # (n, values, _LIMBS), highest first
    # Of a 24-bit and a 16-bit limb: column = byte at which the product stands, lowest first.
    columns = np.zeros((len(rows), _SUM_BYTES), np.int64)
    for limb in range(_LIMBS):
        products = (values[:, :, _LIMBS - 1 - limb] @ factors).astype(np.int64)
        for other in range(_SECRET_LIMBS):
            columns[:, _LIMB_BYTES * limb + 2 * other] += products[:, other]
    for column in range(_SUM_BYTES - 1):
        columns[:, column + 1] += columns[:, column] >> 8
    octets_out = (columns & 0xFF).astype(np.uint8).tobytes()
    return [
        int.from_bytes(octets_out[at : at + _SUM_BYTES], "little") % PRIME
        for at in range(0, len(octets_out), _SUM_BYTES)
    ]
