"""Issuing: a credential that is checked like a stranger's before it is signed.

Decides nothing about claims, status or validity: the document comes complete (`kinds` builds those
of this network). Draws no randomness, knows no clock. VC Data Model 2.0 section 4; Data Integrity
1.0 section 4.2.
"""

from __future__ import annotations

from typing import Final

from credentials.document import Document, encode_document, parse_document
from credentials.errors import ProofNotMade
from credentials.keys import SecretKey
from credentials.model import check_credential
from credentials.proof import ProofOptions, add_proof
from credentials.proof_fields import EDDSA_RDFC
from credentials.rdfc import canonicalize_rdfc

DATA_INTEGRITY_V2: Final = "https://w3id.org/security/data-integrity/v2"


def issue_credential(document: Document, options: ProofOptions, secret: SecretKey) -> Document:
    """Return the credential with a proof of its issuer.

    The document stays as it is, but for a VC Data Model 1.1 context list, which gets the Data
    Integrity context appended if it has none. Every term must be defined, whatever the suite: what
    is signed as JSON is still read as JSON-LD by others. Raises ModelInvalid, TermUndefined,
    ContextUnknown, GraphTooComplex, DocumentInvalid, StatusEntryInvalid, ProofNotMade.
    """
    document = parse_document(encode_document(document))
    view = check_credential(document)
    if options.purpose != "assertionMethod":
        raise ProofNotMade(f"a credential is signed for assertionMethod, not {options.purpose:.60}")
    signer = options.method.partition("#")[0]
    if view.issuer != signer:
        raise ProofNotMade(f"the issuer is {view.issuer:.200}, the key is one of {signer:.200}")
    if view.version == "1.1":
        document = _with_data_integrity(document)
    if options.suite != EDDSA_RDFC:  # that one canonicalises the document itself
        canonicalize_rdfc({name: value for name, value in document.items() if name != "proof"})
    return add_proof(document, options, secret)


def _with_data_integrity(document: Document) -> Document:
    context = document["@context"]
    if any(entry in _DATA_INTEGRITY for entry in context if isinstance(entry, str)):
        return document
    if "proof" in document:
        raise ProofNotMade("its contexts lack the Data Integrity one, and it is signed already")
    return {**document, "@context": [*context, DATA_INTEGRITY_V2]}


_DATA_INTEGRITY: Final = frozenset(
    {"https://w3id.org/security/data-integrity/v1", DATA_INTEGRITY_V2}
)
