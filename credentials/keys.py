"""Ed25519 keys and the libp2p names of them: key file bytes, key pair, PeerId; their X25519 twins.

Does not read files and draws no randomness: seeds and bytes come from the caller. libp2p's peer-ids
specification (protobuf `PrivateKey`, `PublicKey`; identity multihash); RFC 8032 through PyNaCl,
which refuses small-order keys.
"""

from __future__ import annotations

import hmac
import re
from dataclasses import dataclass
from typing import NewType, NoReturn

import base58
import nacl.bindings
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
_BASE58 = re.compile(r"[1-9A-HJ-NP-Za-km-z]+")
_BASE58_DIGITS = bytes.maketrans(base58.BITCOIN_ALPHABET, bytes(range(58)))
_BASE58_STEP = 10  # digits at once: below 2**63, so that most multiplications are small
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

    def check_point(self) -> None:
        """Check that somebody can have the secret half of this key. Raises KeyInvalid.

        Refused: bytes that are no point of the curve or not its canonical encoding, and points of
        small or mixed order, with which one signature can hold for several keys or messages.
        """
        if not nacl.bindings.crypto_core_ed25519_is_valid_point(self.raw):
            raise KeyInvalid(f"{self.raw.hex()} is no Ed25519 public key: no point of prime order")

    def to_x25519(self) -> bytes:
        """Return the 32 bytes of the X25519 public key of the same key pair. Raises KeyInvalid."""
        try:
            return nacl.bindings.crypto_sign_ed25519_pk_to_curve25519(self.raw)
        except nacl.exceptions.CryptoError as error:
            raise KeyInvalid(f"{self.raw.hex()} is no Ed25519 public key") from error


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

    def expose_x25519(self) -> bytes:
        """Return the 32 secret bytes of the pair's X25519 key; never log or print them."""
        return bytes(self._signing.to_curve25519_private_key())

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
    """Decode base58btc of 1 to `chars_max` characters. Raises IdentifierInvalid.

    No two texts decode to the same bytes. Takes time in the square of the length, a tenth of what
    the base58 library takes: 4096 characters 0.8 ms.
    """
    if len(text) > chars_max or _BASE58.fullmatch(text) is None:
        raise IdentifierInvalid(
            f"{text!r:.80} is not {what}: not 1 to {chars_max} base58 characters"
        )
    digits = text.encode("ascii").translate(_BASE58_DIGITS)
    number = 0
    for start in range(0, len(digits), _BASE58_STEP):
        part = 0
        for digit in digits[start : start + _BASE58_STEP]:
            part = part * 58 + digit
        number = number * 58 ** min(_BASE58_STEP, len(digits) - start) + part
    zeros = len(text) - len(text.lstrip("1"))
    return bytes(zeros) + number.to_bytes((number.bit_length() + 7) // 8, "big")
