"""XChaCha20-Poly1305 of many small messages at once.

libsodium as PyNaCl ships it. Its `nacl.bindings` check, format and allocate for every message what
is the same for all of them, which takes five times as long as the cipher does for a vector: where
the handle is that those bindings themselves use, its functions are called in one loop, every return
code looked at; else the bindings are. Makes no keys and knows no objects (`kwaai.vpk.seal`).
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from typing import Any, Final

import nacl.bindings
import nacl.exceptions

from kwaai.vpk.types import Object

KEY_BYTES: Final = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_KEYBYTES
NONCE_BYTES: Final = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_NPUBBYTES
TAG_BYTES: Final = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_ABYTES
OVERHEAD_BYTES: Final = NONCE_BYTES + TAG_BYTES


def _handle() -> tuple[Any, Any]:
    """Return what PyNaCl's own bindings call: cffi, and libsodium through it."""
    try:
        inside = importlib.import_module("nacl._sodium")
        return inside.ffi, inside.lib
    except (ImportError, AttributeError):  # another PyNaCl: slower, and the same bytes
        return None, None


_ffi, _lib = _handle()


class NotAuthentic(Exception):
    """A message was altered, or bound to something else, or is under another key."""

    def __init__(self, index: int) -> None:
        super().__init__(f"message {index} is not authentic")
        self.index = index
        """Of the first one."""


def encrypt_each(key: bytes, bound: bytes, messages: Sequence[Object]) -> list[bytes]:
    """Return nonce (random), ciphertext and tag of every (name, plain bytes), in the same order.

    Associated data of each are `bound` and its name. Raises ValueError for a key of another length.
    """
    _check_key(key)
    nonces = os.urandom(NONCE_BYTES * len(messages))
    if _lib is None:
        return _encrypt_slowly(key, bound, messages, nonces)
    encrypt, null = _lib.crypto_aead_xchacha20poly1305_ietf_encrypt, _ffi.NULL
    longest = max((len(plain) for _, plain in messages), default=0)
    room = _ffi.new("unsigned char[]", OVERHEAD_BYTES + longest)
    data, body = _ffi.buffer(room), room + NONCE_BYTES
    sealed = []
    at = 0
    for name, plain in messages:
        data[:NONCE_BYTES] = nonces[at : at + NONCE_BYTES]
        at += NONCE_BYTES
        tied = bound + name
        size = len(plain)
        if encrypt(body, null, plain, size, tied, len(tied), null, room, key):
            raise RuntimeError("libsodium did not encrypt a message")
        sealed.append(data[: OVERHEAD_BYTES + size])
    return sealed


def decrypt_each(key: bytes, bound: bytes, messages: Sequence[Object]) -> list[bytes]:
    """Return the plain bytes of every (name, what `encrypt_each` returned), in the same order.

    Raises NotAuthentic, and ValueError for a key of another length.
    """
    _check_key(key)
    if _lib is None:
        return _decrypt_slowly(key, bound, messages)
    decrypt, null = _lib.crypto_aead_xchacha20poly1305_ietf_decrypt, _ffi.NULL
    longest = max((len(sealed) for _, sealed in messages), default=0)
    room = _ffi.new("unsigned char[]", longest + 1)
    data = _ffi.buffer(room)
    plains: list[bytes] = []
    for name, sealed in messages:
        size = len(sealed) - NONCE_BYTES
        tied = bound + name
        # The nonce comes first: of `sealed` only its NONCE_BYTES are read for that argument.
        if size < TAG_BYTES or decrypt(
            room, null, null, sealed[NONCE_BYTES:], size, tied, len(tied), sealed, key
        ):
            raise NotAuthentic(len(plains))
        plains.append(data[: size - TAG_BYTES])
    return plains


def _check_key(key: bytes) -> None:
    if len(key) != KEY_BYTES:
        raise ValueError(f"a key has {KEY_BYTES} bytes, not {len(key)}")


def _encrypt_slowly(
    key: bytes, bound: bytes, messages: Sequence[Object], nonces: bytes
) -> list[bytes]:
    encrypt = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_encrypt
    sealed = []
    for index, (name, plain) in enumerate(messages):
        nonce = nonces[index * NONCE_BYTES : (index + 1) * NONCE_BYTES]
        sealed.append(nonce + encrypt(plain, bound + name, nonce, key))
    return sealed


def _decrypt_slowly(key: bytes, bound: bytes, messages: Sequence[Object]) -> list[bytes]:
    decrypt = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_decrypt
    plains: list[bytes] = []
    for name, sealed in messages:
        nonce = sealed[:NONCE_BYTES]
        try:
            plains.append(decrypt(sealed[NONCE_BYTES:], bound + name, nonce, key))
        except (nacl.exceptions.CryptoError, ValueError, TypeError) as error:
            raise NotAuthentic(len(plains)) from error
    return plains
