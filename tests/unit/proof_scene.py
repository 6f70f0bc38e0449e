"""What the tests of proofs share: keys, a document, a moment, the ways to sign and to verify."""

from __future__ import annotations

from typing import Any

from credentials.did import Did, did_key, verification_method
from credentials.document import Document
from credentials.keys import SecretKey
from credentials.proof import CheckedProof, ProofOptions, Suite, add_proof, verify_proofs
from credentials.resolve import resolve_offline

NOW = 1_700_000_000.0
KEY, OTHER, THIRD = (SecretKey(bytes([number]) * 32) for number in (1, 2, 3))
SUITES: tuple[Suite, ...] = ("eddsa-jcs-2022", "eddsa-rdfc-2022")
V2 = "https://www.w3.org/ns/credentials/v2"
EXAMPLES = "https://www.w3.org/ns/credentials/examples/v2"


def did(secret: SecretKey = KEY) -> Did:
    return did_key(secret.public)


def method(secret: SecretKey = KEY) -> str:
    return verification_method(did(secret))


def document() -> Document:
    return {
        "@context": [V2, EXAMPLES],
        "id": "urn:uuid:58172aac-d8ba-11ed-83dd-0b3aef56cc33",
        "type": ["VerifiableCredential", "AlumniCredential"],
        "issuer": str(did()),
        "validFrom": "2023-01-01T00:00:00Z",
        "credentialSubject": {"id": "did:example:abcdefgh", "alumniOf": "The School of Examples"},
    }


def sign(
    suite: Suite = "eddsa-jcs-2022",
    *,
    over: Document | None = None,
    secret: SecretKey = KEY,
    **options: Any,
) -> Document:
    options = {"method": method(secret), "created_s": NOW - 100, **options}
    return add_proof(over or document(), ProofOptions(suite=suite, **options), secret)


def check(signed: Document, purpose: str = "assertionMethod") -> tuple[CheckedProof, ...]:
    return verify_proofs(signed, resolve_offline, purpose=purpose, now_s=NOW)
