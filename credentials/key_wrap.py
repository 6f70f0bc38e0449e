"""A data key under an identity's key: XChaCha20-Poly1305, without a passphrase's slow derivation.

The wrapping key is BLAKE2b keyed with the seed, over the purpose: it signs nothing and tells
nothing of the seed. Does not read files or draw nonces. For passphrases: `credentials.sealed`.
"""

from __future__ import annotations

import hashlib
from typing import Final

import nacl.bindings
import nacl.exceptions

from credentials.errors import SealInvalid
from credentials.keys import SecretKey

WRAP_NONCE_BYTES: Final = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_NPUBBYTES
_TAG_BYTES: Final = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_ABYTES
_DERIVATION: Final = b"kwaainet-wrap-1"


def wrap_key(key: bytes, secret: SecretKey, *, nonce: bytes, purpose: str) -> bytes:
    """Return `key` as only `secret` opens it. `nonce`: 24 random bytes, never used twice."""
    sealed = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(
        key, purpose.encode(), nonce, _wrapping_key(secret, purpose)
    )
    return nonce + sealed


def unwrap_key(wrapped: bytes, secret: SecretKey, *, purpose: str) -> bytes:
    """Return the key that was wrapped. Raises SealInvalid."""
    if len(wrapped) < WRAP_NONCE_BYTES + _TAG_BYTES:
        raise SealInvalid(f"a wrapped key does not have {len(wrapped)} bytes")
    nonce, sealed = wrapped[:WRAP_NONCE_BYTES], wrapped[WRAP_NONCE_BYTES:]
    try:
        return nacl.bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(
            sealed, purpose.encode(), nonce, _wrapping_key(secret, purpose)
        )
    except nacl.exceptions.CryptoError:
        raise SealInvalid("this identity does not open the key, or its bytes changed") from None


def _wrapping_key(secret: SecretKey, purpose: str) -> bytes:
    return hashlib.blake2b(
        purpose.encode(), digest_size=32, key=secret.expose_seed(), person=_DERIVATION
    ).digest()
