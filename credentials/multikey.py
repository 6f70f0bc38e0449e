"""Multikeys: public keys as `z6Mk...` (Ed25519) and `z6LS...` (X25519).

Does not read DIDs (`credentials.did`) or other multibase texts (`credentials.multibase`). Multikey
of Controlled Identifiers 1.0: base58btc only; multicodec 0xed and 0xec as varints.
"""

from __future__ import annotations

import base58

from credentials.errors import IdentifierInvalid, KeyLengthInvalid, KeyTypeUnsupported
from credentials.keys import PUBLIC_KEY_BYTES, PublicKey, decode_base58
from credentials.limits import MULTIBASE_CHARS_MAX

_ED25519 = b"\xed\x01"
_X25519 = b"\xec\x01"
_OTHERS = {
    _X25519: "X25519",
    b"\xe7\x01": "secp256k1",
    b"\x80\x24": "P-256",
    b"\x81\x24": "P-384",
    b"\x82\x24": "P-521",
    b"\xea\x01": "BLS12-381",
    b"\xeb\x01": "BLS12-381",
    b"\xee\x01": "BLS12-381",
    b"\x85\x24": "RSA",
}


def encode_multikey(public: PublicKey) -> str:
    """Return an Ed25519 key as a Multikey, `z6Mk...`."""
    return "z" + base58.b58encode(_ED25519 + public.raw).decode("ascii")


def parse_multikey(text: str) -> PublicKey:
    """Return the Ed25519 key of a Multikey.

    Raises IdentifierInvalid for what is no Multikey, KeyTypeUnsupported for one of another type,
    KeyLengthInvalid, and KeyInvalid for bytes that are no key with which anybody could sign.
    """
    public = PublicKey(_parse(text, _ED25519))
    public.check_point()
    return public


def encode_x25519(raw: bytes) -> str:
    """Return the 32 bytes of an X25519 public key as a Multikey, `z6LS...`."""
    if len(raw) != PUBLIC_KEY_BYTES:
        raise KeyLengthInvalid(f"an X25519 public key has 32 bytes, not {len(raw)}")
    return "z" + base58.b58encode(_X25519 + raw).decode("ascii")


def parse_x25519(text: str) -> bytes:
    """Return the 32 bytes of an X25519 Multikey. Raises as `parse_multikey`, less KeyInvalid."""
    return _parse(text, _X25519)


def _parse(text: str, codec: bytes) -> bytes:
    if not text.startswith("z"):
        raise IdentifierInvalid(f"{text!r:.80} is no Multikey: it does not begin with z (base58)")
    raw = decode_base58(text[1:], "the key of a Multikey", MULTIBASE_CHARS_MAX)
    if raw[:2] != codec and raw[:2] in _OTHERS:
        raise KeyTypeUnsupported(f"{text:.80} is a key of type {_OTHERS[raw[:2]]}")
    if len(raw) != len(codec) + PUBLIC_KEY_BYTES:
        raise KeyLengthInvalid(f"{text:.80} holds {len(raw)} bytes, and 34 are a Multikey's")
    if raw[:2] != codec:
        raise KeyTypeUnsupported(f"{text:.80} is a key of an unknown type, 0x{raw[:2].hex()}")
    return raw[2:]
