"""One proof object from a stranger, read strictly: every field known, typed, bounded, with a value.

Does not check the signature, the time or who may sign. A field that is not in the tables is
refused: what a verifier does not know could change what it knows, and over RDF a field that no
context defines would not be signed. Verifiable Credential Data Integrity 1.0, section 2.1.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import base58

from credentials.document import parse_time
from credentials.errors import ModelInvalid, ProofInvalid, ProofUnsupported
from credentials.keys import SIGNATURE_BYTES
from credentials.limits import DID_CHARS_MAX, PROOF_VALUES_MAX, PROOFS_MAX

DATA_INTEGRITY: Final = "DataIntegrityProof"
EDDSA_JCS: Final = "eddsa-jcs-2022"
EDDSA_RDFC: Final = "eddsa-rdfc-2022"
ED25519_2020: Final = "Ed25519Signature2020"

PURPOSES: Final = frozenset(
    {"assertionMethod", "authentication", "capabilityDelegation", "capabilityInvocation"}
)

_REQUIRED = frozenset({"type", "verificationMethod", "proofPurpose", "proofValue"})
_OPTIONAL = frozenset({"id", "created", "challenge", "domain", "nonce", "@context"})
_FIELDS_2020 = _REQUIRED | _OPTIONAL
_FIELDS = _FIELDS_2020 | {"cryptosuite", "expires", "previousProof"}

_METHOD = re.compile(r"did:[a-z0-9]+:[A-Za-z0-9._:%-]+#[A-Za-z0-9._~:%=-]+")
# An absolute IRI without what N-Quads would have to escape.
_URL = re.compile(
    r"[A-Za-z][A-Za-z0-9+.-]{0,31}:[^\x00-\x20\x7f-\x9f<>\"{}|\\^`\ud800-\udfff\ufffe\uffff]+"
)
# Control characters are escaped in one way by N-Quads and in another by JSON: no proof needs them.
_TEXT = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]+")

_ALPHABET = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_SIGNATURE_CHARS_MAX = 88
_PAIRS_OF = struct.Struct(f">{_SIGNATURE_CHARS_MAX // 2}H")
# Two characters, read as one number, and their value.
_PAIRS: dict[int, int] = {
    high << 8 | low: _ALPHABET.index(high) * 58 + _ALPHABET.index(low)
    for high in _ALPHABET
    for low in _ALPHABET
}


class ParsedProof(NamedTuple):
    """What a proof says. `raw` is the object itself, as it stands in the document."""

    raw: Mapping[str, Any]
    suite: str
    """`eddsa-jcs-2022`, `eddsa-rdfc-2022` or `Ed25519Signature2020`."""
    method: str
    purpose: str
    signature: bytes
    created_s: float | None
    expires_s: float | None
    challenge: str | None
    domain: tuple[str, ...]
    nonce: str | None
    id: str | None
    previous: tuple[str, ...]


def parse_proof(proof: Any) -> ParsedProof:
    """Read one proof object. Raises ProofInvalid, ProofUnsupported."""
    if not isinstance(proof, dict):
        raise ProofInvalid("a proof is a JSON object")
    suite = _suite(proof)
    allowed = _FIELDS_2020 if suite == ED25519_2020 else _FIELDS
    if not proof.keys() <= allowed:
        unknown = sorted(proof.keys() - allowed)
        raise ProofInvalid(f"the proof has fields that {suite} does not know: {unknown!r:.120}")
    purpose = _text(proof, "proofPurpose")
    if purpose not in PURPOSES:
        raise ProofInvalid(f"{purpose!r:.60} is no proof purpose that is known here")
    method = _text(proof, "verificationMethod")
    if len(method) > DID_CHARS_MAX or not _METHOD.fullmatch(method):
        raise ProofInvalid(f"the verificationMethod {method!r:.80} is not a DID with a fragment")
    if suite == ED25519_2020 and "created" not in proof:
        raise ProofInvalid("an Ed25519Signature2020 says when it was created")
    created_s, expires_s = _time(proof, "created"), _time(proof, "expires")
    if created_s is not None and expires_s is not None and expires_s <= created_s:
        raise ProofInvalid("the proof expires before it was created")
    return ParsedProof(
        raw=proof,
        suite=suite,
        method=method,
        purpose=purpose,
        signature=decode_signature(_text(proof, "proofValue")),
        created_s=created_s,
        expires_s=expires_s,
        challenge=_text(proof, "challenge") if "challenge" in proof else None,
        domain=_texts(proof, "domain", PROOF_VALUES_MAX) if "domain" in proof else (),
        nonce=_text(proof, "nonce") if "nonce" in proof else None,
        id=_url(_text(proof, "id")) if "id" in proof else None,
        previous=tuple(map(_url, _texts(proof, "previousProof", PROOFS_MAX)))
        if "previousProof" in proof
        else (),
    )


def decode_signature(text: str) -> bytes:
    """Return the 64 bytes of a proofValue: `z` and canonical base58btc. Raises ProofInvalid."""
    if not text.startswith("z") or not text.isascii() or len(text) > 1 + _SIGNATURE_CHARS_MAX:
        raise ProofInvalid(f"the proofValue {text!r:.24}... is not z and a signature in base58btc")
    # The library's loop over the characters is a tenth of a whole verification; this takes eight
    # at a time, and the big number is multiplied eleven times only.
    digits = text.encode("ascii")[1:].rjust(_SIGNATURE_CHARS_MAX, b"1")
    try:
        pairs = [*map(_PAIRS.__getitem__, _PAIRS_OF.unpack(digits))]
    except KeyError:
        raise ProofInvalid(f"the proofValue {text!r:.24}... is not base58btc") from None
    number = 0
    for at in range(0, len(pairs), 4):
        one, two, three, four = pairs[at : at + 4]
        number = number * 58**8 + ((one * 3364 + two) * 3364 + three) * 3364 + four
    # Canonical base58 has exactly one leading `1` per leading zero byte.
    zeros = len(text) - 1 - len(text[1:].lstrip("1"))
    if zeros + (number.bit_length() + 7) // 8 != SIGNATURE_BYTES:
        raise ProofInvalid("the proofValue does not hold the 64 bytes of an Ed25519 signature")
    return number.to_bytes(SIGNATURE_BYTES, "big")


def encode_signature(signature: bytes) -> str:
    """Return the proofValue of a signature."""
    return "z" + base58.b58encode(signature).decode("ascii")


def _suite(proof: Mapping[str, Any]) -> str:
    kind = _text(proof, "type")
    if kind == ED25519_2020:
        return kind
    if kind != DATA_INTEGRITY:
        raise ProofUnsupported(f"proofs of type {kind!r:.60} are not verified here")
    suite = _text(proof, "cryptosuite")
    if suite not in (EDDSA_JCS, EDDSA_RDFC):
        raise ProofUnsupported(f"proofs by cryptosuite {suite!r:.60} are not verified here")
    return suite


def _text(proof: Mapping[str, Any], field: str) -> str:
    value = proof.get(field)
    if type(value) is str and _TEXT.fullmatch(value):
        return value
    return _checked(value, field)


def _checked(value: Any, field: str) -> str:
    if not isinstance(value, str) or not _TEXT.fullmatch(value):
        raise ProofInvalid(f"the proof's {field} is missing or not plain text")
    return value


def _texts(proof: Mapping[str, Any], field: str, values_max: int) -> tuple[str, ...]:
    """Read a string or a list of different strings."""
    value = proof[field]
    values = value if isinstance(value, list) else [value]
    if not 1 <= len(values) <= values_max:
        raise ProofInvalid(f"the proof's {field} has {len(values)} values, not 1 to {values_max}")
    texts = tuple(_checked(entry, field) for entry in values)
    if len(set(texts)) != len(texts):
        raise ProofInvalid(f"the proof's {field} names something twice")
    return texts


def _url(text: str) -> str:
    if not _URL.fullmatch(text):
        raise ProofInvalid(f"the proof's id or previousProof {text!r:.80} is not a URL")
    return text


def _time(proof: Mapping[str, Any], field: str) -> float | None:
    if field not in proof:
        return None
    try:
        return parse_time(_text(proof, field))
    except ModelInvalid as error:
        raise ProofInvalid(f"the proof's {field} is not a time with an offset: {error}") from error
