"""Merkle trees over what a base has: one digest stands for many objects.

The shape of RFC 6962 (section 2.1) with BLAKE2b-256: leaves and nodes are hashed apart, so that
none passes as the other. Pure. docs/vpk.md, "The manifest".
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from typing import Final

from kwaai.errors import ManifestInvalid

HASH_BYTES: Final = 32
PROOF_HASHES_MAX: Final = 64
_LEAF: Final = hashlib.blake2b(b"\0", digest_size=HASH_BYTES, person=b"kwaai-vpk tree 1")
_NODE: Final = hashlib.blake2b(b"\1", digest_size=HASH_BYTES, person=b"kwaai-vpk tree 1")


def leaf(data: bytes) -> bytes:
    """Return the 32-byte hash of a leaf."""
    state = _LEAF.copy()
    state.update(data)
    return state.digest()


def record_leaf(object_id: bytes, sealed: bytes) -> bytes:
    """Return the leaf of a sealed object under its id (16 bytes)."""
    state = _LEAF.copy()
    state.update(object_id)
    state.update(sealed)
    return state.digest()


def root(leaves: Sequence[bytes]) -> bytes:
    """Return the root over hashes of leaves, in their order; of none, the hash of nothing."""
    if not leaves:
        return hashlib.blake2b(b"", digest_size=HASH_BYTES, person=b"kwaai-vpk tree 1").digest()
    level = list(leaves)
    while len(level) > 1:
        level = _parents(level)
    return level[0]


def prove(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """Return the hashes beside the way from leaf `index` to the root, the lowest first."""
    if not 0 <= index < len(leaves):
        raise IndexError(f"there is no leaf {index} of {len(leaves)}")
    proof = []
    level = list(leaves)
    while len(level) > 1:
        if index ^ 1 < len(level):
            proof.append(level[index ^ 1])
        level = _parents(level)
        index //= 2
    return proof


def verify(
    leaf_hash: bytes, index: int, count: int, proof: Sequence[bytes], expected: bytes
) -> None:
    """Check that a leaf is number `index` of `count` under the root `expected`.

    Raises ManifestInvalid.
    """
    if not 0 <= index < count or len(proof) > PROOF_HASHES_MAX:
        raise ManifestInvalid("a proof of inclusion is for no leaf of this tree")
    found = leaf_hash
    used = 0
    while count > 1:
        if index ^ 1 < count:
            if used == len(proof):
                raise ManifestInvalid("a proof of inclusion is too short")
            beside = proof[used]
            used += 1
            found = _node(beside, found) if index & 1 else _node(found, beside)
        index //= 2
        count = (count + 1) // 2
    if used != len(proof) or not hmac.compare_digest(found, expected):
        raise ManifestInvalid("an object is not among those that its owner signed for")


def _parents(level: Sequence[bytes]) -> list[bytes]:
    """The level above; a last one without a neighbour moves up as it is."""
    nodes = [_node(level[at], level[at + 1]) for at in range(0, len(level) - 1, 2)]
    return [*nodes, level[-1]] if len(level) % 2 else nodes


def _node(left: bytes, right: bytes) -> bytes:
    state = _NODE.copy()
    state.update(left)
    state.update(right)
    return state.digest()
