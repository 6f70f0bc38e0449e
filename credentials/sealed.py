"""Secrets under a passphrase: argon2id (RFC 9106) and XChaCha20-Poly1305, through libsodium.

Does not read files, ask for passphrases or draw salts. The layout, integers big-endian: magic (7),
version (1), argon2 passes (4), argon2 memory in KiB (4), salt (16), nonce (24), ciphertext with its
tag (16). Everything before the ciphertext is authenticated, and so is the purpose, which is not
written: what was sealed for one purpose does not open for another.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Literal, TypeAlias

import nacl.bindings
import nacl.exceptions
import nacl.pwhash.argon2id

from credentials.errors import SealInvalid
from credentials.limits import SEAL_MEMORY_BYTES_MAX, SEAL_PASSES_MAX

Cost: TypeAlias = Literal["interactive", "moderate"]
"""libsodium's: 64 MiB and 2 passes (50 ms), 256 MiB and 3 passes (0.5 s)."""

SALT_BYTES = 16
NONCE_BYTES = 24
_MAGIC = b"KWSEAL\n"
_VERSION = 1
_HEADER = struct.Struct(f">{len(_MAGIC)}sBII{SALT_BYTES}s{NONCE_BYTES}s")
_TAG_BYTES = 16
_KEY_BYTES = 32
_KIB = 1024
_MEMORY_KIB_MIN = 8
_COSTS: Mapping[str, tuple[int, int]] = {"interactive": (2, 64 * _KIB), "moderate": (3, 256 * _KIB)}


def seal(
    plain: bytes,
    passphrase: bytes,
    *,
    salt: bytes,
    nonce: bytes,
    purpose: str,
    cost: Cost = "moderate",
) -> bytes:
    """Return `plain` sealed.

    `salt` (SALT_BYTES) and `nonce` (NONCE_BYTES) come from the operating system's randomness, new
    for every call. Raises SealInvalid for an empty passphrase, or no memory for argon2.
    """
    if not passphrase:
        raise SealInvalid("an empty passphrase seals nothing; choose one")
    if len(salt) != SALT_BYTES or len(nonce) != NONCE_BYTES:
        raise SealInvalid(f"a salt has {SALT_BYTES} bytes and a nonce {NONCE_BYTES}")
    passes, memory_kib = _COSTS[cost]
    header = _HEADER.pack(_MAGIC, _VERSION, passes, memory_kib, salt, nonce)
    key = _key(passphrase, salt, passes, memory_kib)
    associated = header + purpose.encode("utf-8")
    return header + nacl.bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(
        plain, associated, nonce, key
    )


def open_sealed(data: bytes, passphrase: bytes, *, purpose: str) -> bytes:
    """Return what was sealed for this purpose.

    Raises SealInvalid for another passphrase or purpose, changed bytes, and a header that asks for
    more memory or time than SEAL_MEMORY_BYTES_MAX and SEAL_PASSES_MAX.
    """
    if not is_sealed(data) or len(data) < _HEADER.size + _TAG_BYTES:
        raise SealInvalid("this is no sealed secret, or its end is missing")
    header = data[: _HEADER.size]
    _, version, passes, memory_kib, salt, nonce = _HEADER.unpack(header)
    if version != _VERSION:
        raise SealInvalid(f"it was sealed by a newer kwaainet (version {version}): update this one")
    if not 1 <= passes <= SEAL_PASSES_MAX or not (
        _MEMORY_KIB_MIN <= memory_kib <= SEAL_MEMORY_BYTES_MAX // _KIB
    ):
        raise SealInvalid("it asks for more work than any secret sealed here: it was changed")
    key = _key(passphrase, salt, passes, memory_kib)
    try:
        return nacl.bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(
            data[_HEADER.size :], header + purpose.encode("utf-8"), nonce, key
        )
    except nacl.exceptions.CryptoError as error:
        raise SealInvalid("it does not open: another passphrase, or it was changed") from error


def is_sealed(data: bytes) -> bool:
    """Whether bytes begin as a sealed secret does."""
    return data.startswith(_MAGIC)


def _key(passphrase: bytes, salt: bytes, passes: int, memory_kib: int) -> bytes:
    try:
        return nacl.pwhash.argon2id.kdf(
            _KEY_BYTES, passphrase, salt, opslimit=passes, memlimit=memory_kib * _KIB
        )
    except (nacl.exceptions.CryptoError, MemoryError) as error:
        raise SealInvalid(
            f"no key: argon2 needs {memory_kib // _KIB} MiB of memory; free some and try again"
        ) from error
