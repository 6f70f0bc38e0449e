"""Ed25519 keys and the libp2p names of them: key file bytes, key pair, PeerId.

Does not read files and draws no randomness: seeds and bytes come from the caller. libp2p's peer-ids
specification (protobuf `PrivateKey`, `PublicKey`; identity multihash); RFC 8032 through PyNaCl,
which refuses small-order keys.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import NewType, NoReturn

import base58
import nacl.exceptions
import nacl.signing

from credentials.errors import IdentifierInvalid, KeyInvalid, SignatureInvalid

PeerId = NewType("PeerId", str)
"""base58btc of the identity multihash of an Ed25519 public key: `12D3KooW...`."""

SEED_BYTES = 32
PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64
KEY_FILE_BYTES = 68
PEER_ID_CHARS_MAX = 128  # base58 decoding is quadratic; an Ed25519 PeerId has 52 characters

# Protobuf `{Type = Ed25519 (1), Data = 64 or 32 bytes}`; the identity multihash (0x00, length 36).
_PRIVATE_PREFIX = bytes.fromhex("08011240")
_PUBLIC_PREFIX = bytes.fromhex("08011220")
_IDENTITY_MULTIHASH = bytes.fromhex("0024")
_OTHER_KEY_TYPES = {0: "RSA", 2: "Secp256k1", 3: "ECDSA"}


@dataclass(frozen=True, slots=True)
class PublicKey:
    """An Ed25519 public key."""

    raw: bytes
    """32 bytes, the compressed point."""

    def __post_init__(self) -> None:
        if len(self.raw) != PUBLIC_KEY_BYTES:
            raise KeyInvalid(f"an Ed25519 public key has 32 bytes, not {len(self.raw)}")

    def __repr__(self) -> str:
        return f"PublicKey({self.raw.hex()})"

    def verify(self, message: bytes, signature: bytes) -> None:
        """Check an Ed25519 signature over `message`. Raises SignatureInvalid."""
        if len(signature) != SIGNATURE_BYTES:
            raise SignatureInvalid(f"an Ed25519 signature has 64 bytes, not {len(signature)}")
        try:
            nacl.signing.VerifyKey(self.raw).verify(message, signature)
        except nacl.exceptions.BadSignatureError as error:
            raise SignatureInvalid("the signature is not this key's over this message") from error


class SecretKey:
    """An Ed25519 key pair. Never shows, compares by, or serialises its secret half by accident."""

    __slots__ = ("_signing",)

    def __init__(self, seed: bytes) -> None:
        if len(seed) != SEED_BYTES:
            raise KeyInvalid(f"an Ed25519 seed has 32 bytes, not {len(seed)}")
        self._signing = nacl.signing.SigningKey(seed)

    @property
    def public(self) -> PublicKey:
        return PublicKey(bytes(self._signing.verify_key))

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte Ed25519 signature of `message`."""
        return self._signing.sign(message).signature

    def expose_seed(self) -> bytes:
        """Return the 32 secret bytes. For key files and handshakes; never log or print them."""
        return bytes(self._signing)

    def __repr__(self) -> str:
        return f"SecretKey(<redacted>, public={self.public.raw.hex()})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a SecretKey is not pickled; pass the key file's path instead")


def encode_key_file(secret: SecretKey) -> bytes:
    """Encode a key pair as the 68 bytes of a libp2p protobuf `PrivateKey`."""
    return _PRIVATE_PREFIX + secret.expose_seed() + secret.public.raw


def parse_key_file(data: bytes) -> SecretKey:
    """Parse the 68 bytes of a libp2p protobuf `PrivateKey` that holds an Ed25519 pair.

    Raises KeyInvalid for another length or type, or a public half that is not the secret's.
    """
    other = _OTHER_KEY_TYPES.get(data[1]) if len(data) > 2 and data[0] == 0x08 else None
    if other is not None:
        raise KeyInvalid(f"it holds a libp2p key of type {other}; only Ed25519 is used here")
    if len(data) != KEY_FILE_BYTES:
        raise KeyInvalid(f"it has {len(data)} bytes; an Ed25519 key file has {KEY_FILE_BYTES}")
    if not data.startswith(_PRIVATE_PREFIX):
        raise KeyInvalid("it does not begin like a libp2p Ed25519 private key (08 01 12 40)")
    secret = SecretKey(data[4:36])
    if not hmac.compare_digest(secret.public.raw, data[36:]):
        raise KeyInvalid("its public half does not belong to its secret half")
    return secret


def peer_id(public: PublicKey) -> PeerId:
    """Return the libp2p PeerId of a key."""
    multihash = _IDENTITY_MULTIHASH + _PUBLIC_PREFIX + public.raw
    return PeerId(base58.b58encode(multihash).decode("ascii"))


def parse_peer_id(text: str) -> PublicKey:
    """Return the key that a PeerId holds. Raises IdentifierInvalid for all but Ed25519 keys."""
    raw = decode_base58(text, "a PeerId", PEER_ID_CHARS_MAX)
    if raw.startswith(b"\x12\x20"):
        raise IdentifierInvalid(f"the PeerId {text} is a hash (of an RSA key?), it holds no key")
    prefix = _IDENTITY_MULTIHASH + _PUBLIC_PREFIX
    if not raw.startswith(prefix) or len(raw) != len(prefix) + PUBLIC_KEY_BYTES:
        raise IdentifierInvalid(f"{text!r:.80} is no PeerId of an Ed25519 key (12D3KooW...)")
    return PublicKey(raw[len(prefix) :])


def decode_base58(text: str, what: str, chars_max: int) -> bytes:
    """Decode base58btc of at most `chars_max` characters. Raises IdentifierInvalid."""
    if not text or len(text) > chars_max or not text.isascii():
        raise IdentifierInvalid(
            f"{text!r:.80} is not {what}: not 1 to {chars_max} base58 characters"
        )
    try:
        raw = base58.b58decode(text)
    except ValueError as error:
        raise IdentifierInvalid(f"{text!r:.80} is not {what}: it is not base58") from error
    if base58.b58encode(raw) != text.encode("ascii"):
        raise IdentifierInvalid(f"{text!r:.80} is not {what}: it is not canonical base58")
    return raw
