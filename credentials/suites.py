"""What a proof signs: 64 bytes, the hashes of its options and of the document without it.

Does not sign, verify or look at times. Data Integrity EdDSA Cryptosuites 1.0, sections 3.2
(eddsa-rdfc-2022), 3.3 (eddsa-jcs-2022) and A (Ed25519Signature2020).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any, TypeAlias

from credentials.document import Document
from credentials.errors import ProofInvalid
from credentials.jcs import canonicalize_jcs
from credentials.proof_fields import EDDSA_JCS, ParsedProof
from credentials.proof_terms import canonical_options
from credentials.rdfc import canonicalize_rdfc

_ABSENT = object()

Forms: TypeAlias = dict[tuple[object, ...], bytes]
"""Canonical forms of one document, by what of a proof they depend on: a set of proofs needs one."""


def signed_bytes(
    document: Document,
    proof: ParsedProof,
    previous: Sequence[Mapping[str, Any]] = (),
    forms: Forms | None = None,
) -> bytes:
    """Return the 64 bytes that `proof` signs. `previous`: the proofs that it is made over, in the
    document's order. `forms`: what was computed for other proofs of this document; is added to.

    Raises ProofInvalid, and what canonicalisation raises: DocumentInvalid, ContextUnknown,
    TermUndefined, GraphTooComplex.
    """
    options, text = canonical_forms(document, proof, previous, forms)
    return sha256(options).digest() + sha256(text).digest()


def canonical_forms(
    document: Document,
    proof: ParsedProof,
    previous: Sequence[Mapping[str, Any]] = (),
    forms: Forms | None = None,
) -> tuple[bytes, bytes]:
    """Return the canonical options and the canonical document. Raises as `signed_bytes`."""
    forms = {} if forms is None else forms
    over = tuple(map(id, previous))
    secured = {name: value for name, value in document.items() if name != "proof"}
    if previous:
        secured["proof"] = list(previous)
    if proof.suite == EDDSA_JCS:
        return _forms_jcs(secured, proof, forms, over)
    context = document.get("@context", _ABSENT)
    if context is _ABSENT:
        raise ProofInvalid("a document without @context has no meaning that a proof could cover")
    own = proof.raw.get("@context", _ABSENT)
    if own is not _ABSENT and not _same(own, context):
        raise ProofInvalid(f"the proof's @context is not the document's; {proof.suite} ignores it")
    options = canonical_options(proof, context)
    if over not in forms:
        forms[over] = canonicalize_rdfc(secured).encode()
    return options.encode(), forms[over]


def _forms_jcs(
    secured: Document, proof: ParsedProof, forms: Forms, over: tuple[int, ...]
) -> tuple[bytes, bytes]:
    options = {name: value for name, value in proof.raw.items() if name != "proofValue"}
    context = options.get("@context", _ABSENT)
    if context is not _ABSENT:
        # A document may have got contexts after it was signed; only at the end.
        if not _begins_with(secured.get("@context", _ABSENT), context):
            raise ProofInvalid("the document's @context does not begin with the proof's")
        secured["@context"] = context
    key = (EDDSA_JCS, over, type(context), len(_entries(context)))
    if key not in forms:
        forms[key] = canonicalize_jcs(secured)
    return canonicalize_jcs(options), forms[key]


def covers_contexts(document: Document, proof: ParsedProof) -> bool:
    """Say whether the proof signs the document's whole @context, name by name."""
    if proof.suite != EDDSA_JCS:
        return False
    own = proof.raw.get("@context", _ABSENT)
    return own is _ABSENT or len(_entries(own)) == len(_entries(document.get("@context", [])))


def _begins_with(whole: Any, start: Any) -> bool:
    if whole is _ABSENT:
        return False
    wholes, starts = _entries(whole), _entries(start)
    # An empty one would leave the document's contexts unsigned.
    return 0 < len(starts) <= len(wholes) and all(map(_same, starts, wholes))


def _entries(context: Any) -> list[Any]:
    return context if isinstance(context, list) else [context]


def _same(one: Any, other: Any) -> bool:
    """Compare as JSON: in Python, True equals 1 and 1.0."""
    if isinstance(one, str) or isinstance(other, str):
        return bool(one == other)
    return canonicalize_jcs(one) == canonicalize_jcs(other)
