"""Data Integrity proofs over JSON documents: made, and verified, one by one, as sets and as chains.

Does not know what a credential is: who may issue, what a challenge must be and whether the contexts
are trusted is decided by the callers, from the CheckedProof. No I/O: DID documents come from the
`resolver`. Verifiable Credential Data Integrity 1.0, section 4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from credentials.did_document import VerificationMethod
from credentials.document import Document, check_document, encode_time
from credentials.errors import (
    DocumentInvalid,
    MethodNotAuthorized,
    ModelInvalid,
    ProofExpired,
    ProofInvalid,
    ProofMissing,
    ProofNotMade,
    SignatureInvalid,
)
from credentials.keys import PublicKey, SecretKey
from credentials.limits import CLOCK_SKEW_S, PROOFS_MAX, RDFC_VALUES_MAX
from credentials.proof_fields import (
    DATA_INTEGRITY,
    EDDSA_JCS,
    EDDSA_RDFC,
    ParsedProof,
    encode_signature,
    parse_proof,
)
from credentials.resolve import Resolver
from credentials.suites import Forms, covers_contexts, signed_bytes

Suite: TypeAlias = Literal["eddsa-jcs-2022", "eddsa-rdfc-2022"]


@dataclass(frozen=True, slots=True)
class ProofOptions:
    """What a proof says besides its signature."""

    suite: Suite
    method: str
    """URL of the verification method: a DID, `#`, a fragment."""
    purpose: str = "assertionMethod"
    created_s: float | None = None
    expires_s: float | None = None
    challenge: str | None = None
    domain: str | tuple[str, ...] | None = None
    nonce: str | None = None
    id: str | None = None
    previous: str | tuple[str, ...] | None = None
    """Ids of the proofs that this one is made over: a chain."""


@dataclass(frozen=True, slots=True)
class CheckedProof:
    """A proof that holds. Made by `verify_proof` only."""

    suite: str
    """`eddsa-jcs-2022`, `eddsa-rdfc-2022` or `Ed25519Signature2020`."""
    purpose: str
    method: str
    controller: str
    """The DID whose document lists the method under the purpose."""
    key: PublicKey
    created_s: float | None
    expires_s: float | None
    challenge: str | None
    domain: tuple[str, ...]
    id: str | None
    previous: tuple[str, ...]
    contexts_signed: bool
    """Whether the proof covers the document's whole @context: one by eddsa-jcs-2022 may cover only
    its beginning, and one over RDF covers what the contexts made of the document, not their names.
    """
    method_until_s: float | None
    """When the verification method expires or was revoked."""

    def check_time(self, *, now_s: float, skew_s: float = CLOCK_SKEW_S) -> None:
        """Check again, at another moment, what depends on it. Raises as `verify_proof`."""
        _check_time(self.created_s, self.expires_s, now_s, skew_s)
        if self.method_until_s is not None and now_s >= self.method_until_s:
            raise MethodNotAuthorized(f"{self.method} was revoked or has expired")


_NO_SIGNATURE = encode_signature(bytes(64))


def add_proof(document: Document, options: ProofOptions, secret: SecretKey) -> Document:
    """Return a shallow copy of the document with one more proof, and nothing else changed.

    Raises ProofNotMade for options that make no proof, and what canonicalisation raises:
    DocumentInvalid, ContextUnknown, TermUndefined, GraphTooComplex.
    """
    try:
        there = _proof_objects(document, at_least=0)
        if len(there) >= PROOFS_MAX:
            raise ProofNotMade(f"the document has {PROOFS_MAX} proofs already, the most allowed")
        earlier = [parse_proof(proof) for proof in there]
        unsigned = parse_proof({**_proof_config(document, options), "proofValue": _NO_SIGNATURE})
        previous = [proof.raw for proof in _chained([*earlier, unsigned])[-1]]
        signature = secret.sign(signed_bytes(document, unsigned, previous))
        if signature in {proof.signature for proof in earlier}:
            raise ProofNotMade("the document has the very same proof already")
    except (ProofInvalid, ModelInvalid) as error:
        raise ProofNotMade(f"no proof can be made: {error}") from error
    proof = {**unsigned.raw, "proofValue": encode_signature(signature)}
    return {**document, "proof": [*there, proof] if there else proof}


def verify_proof(
    document: Document,
    proof: Mapping[str, Any],
    resolver: Resolver,
    *,
    purpose: str,
    now_s: float,
    skew_s: float = CLOCK_SKEW_S,
) -> CheckedProof:
    """Check one proof of a document, and the earlier proofs that it was made over.

    `document` still has all of its proofs; `proof` is one of them. Raises ProofInvalid (its leaves
    say more), what canonicalisation raises and what the resolver raises.
    """
    proofs, chain = _read_proofs(document)
    wanted = [place for place, entry in enumerate(proofs) if entry.raw == proof]
    if len(wanted) != 1:
        raise ProofInvalid("the proof is not one of the document's")
    if proofs[wanted[0]].purpose != purpose:
        raise ProofInvalid(f"the proof was made for {proofs[wanted[0]].purpose}, not for {purpose}")
    places = {entry.signature: place for place, entry in enumerate(proofs)}
    forms: Forms = {}
    needed = set(wanted)
    for place in range(wanted[0], -1, -1):  # what a proof is made over stands before it
        if place in needed:
            needed.update(places[entry.signature] for entry in chain[place])
    checked = {
        place: _check(document, proofs[place], chain[place], forms, resolver, now_s, skew_s)
        for place in sorted(needed)
    }
    return checked[wanted[0]]


def verify_proofs(
    document: Document,
    resolver: Resolver,
    *,
    purpose: str,
    now_s: float,
    skew_s: float = CLOCK_SKEW_S,
) -> tuple[CheckedProof, ...]:
    """Check every proof of a document; return those made for `purpose`, at least one.

    A proof for another purpose has to hold too, under that purpose, and is not returned. That a
    proof was taken away from the end cannot be seen. Raises ProofMissing where there is none, and
    as `verify_proof`.
    """
    proofs, chain = _read_proofs(document)
    if not any(proof.purpose == purpose for proof in proofs):
        raise ProofMissing(f"no proof was made for {purpose}, only for {proofs[0].purpose}")
    forms: Forms = {}
    checked = [
        _check(document, proof, previous, forms, resolver, now_s, skew_s)
        for proof, previous in zip(proofs, chain, strict=True)
    ]
    return tuple(proof for proof in checked if proof.purpose == purpose)


def _proof_objects(document: Document, at_least: int = 1) -> list[Any]:
    if not isinstance(document, dict):
        raise DocumentInvalid("a secured document is a JSON object")
    proof = document.get("proof", [])
    proofs = proof if isinstance(proof, list) else [proof]
    if len(proofs) < at_least:
        raise ProofMissing("the document has no proof")
    if len(proofs) > PROOFS_MAX:
        raise ProofInvalid(f"the document has {len(proofs)} proofs; {PROOFS_MAX} are read at most")
    return proofs


def _read_proofs(document: Document) -> tuple[list[ParsedProof], list[list[ParsedProof]]]:
    """Return the proofs of a document, and for each those that it was made over."""
    proofs = [parse_proof(proof) for proof in _proof_objects(document)]
    chain = _chained(proofs)
    forms = len({tuple(map(id, previous)) for previous in chain})
    if forms > 1:  # each is canonicalised for itself
        check_document(document, values_max=RDFC_VALUES_MAX // forms)
    return proofs, chain


def _chained(proofs: Sequence[ParsedProof]) -> list[list[ParsedProof]]:
    """Resolve each proof's previousProof: earlier proofs only, so that there is no circle."""
    if len(proofs) == 1 and not proofs[0].previous:
        return [[]]
    signatures = {proof.signature for proof in proofs}
    ids = [proof.id for proof in proofs if proof.id is not None]
    if len(signatures) != len(proofs) or len(set(ids)) != len(ids):
        raise ProofInvalid("two proofs of the document are the same, or have the same id")
    chain = []
    for place, proof in enumerate(proofs):
        previous = [earlier for earlier in proofs[:place] if earlier.id in proof.previous]
        if len(previous) != len(proof.previous):
            known = {earlier.id for earlier in previous}
            missing = next(name for name in proof.previous if name not in known)
            raise ProofInvalid(f"the previousProof {missing!r:.80} does not stand before its proof")
        chain.append(previous)
    return chain


def _check(
    document: Document,
    proof: ParsedProof,
    previous: Sequence[ParsedProof],
    forms: Forms,
    resolver: Resolver,
    now_s: float,
    skew_s: float,
) -> CheckedProof:
    method = _method(proof, resolver)
    checked = CheckedProof(
        suite=proof.suite,
        purpose=proof.purpose,
        method=proof.method,
        controller=method.controller,
        key=method.key,
        created_s=proof.created_s,
        expires_s=proof.expires_s,
        challenge=proof.challenge,
        domain=proof.domain,
        id=proof.id,
        previous=proof.previous,
        contexts_signed=covers_contexts(document, proof),
        method_until_s=_earlier(method.revoked_s, method.expires_s),
    )
    checked.check_time(now_s=now_s, skew_s=skew_s)
    signed = signed_bytes(document, proof, [earlier.raw for earlier in previous], forms)
    try:
        method.key.verify(signed, proof.signature)
    except SignatureInvalid as error:
        raise ProofInvalid(
            f"the signature is not that of {proof.method} over this document and this proof"
        ) from error
    return checked


def _earlier(one_s: float | None, other_s: float | None) -> float | None:
    if one_s is None or other_s is None:
        return one_s if other_s is None else other_s
    return min(one_s, other_s)


def _check_time(
    created_s: float | None, expires_s: float | None, now_s: float, skew_s: float
) -> None:
    if created_s is not None and created_s > now_s + skew_s:
        raise ProofExpired(f"the proof is dated {encode_time(created_s)}, in the future")
    if expires_s is not None and expires_s <= now_s - skew_s:
        raise ProofExpired(f"the proof expired at {encode_time(expires_s)}")


def _method(proof: ParsedProof, resolver: Resolver) -> VerificationMethod:
    """Return the verification method, out of its controller's document, where it is listed."""
    did = proof.method.partition("#")[0]
    controller = resolver(did)
    if controller.did != did:
        raise MethodNotAuthorized(f"{did} resolved to the document of {controller.did}")
    method = controller.method(proof.method, proof.purpose)
    if method.id != proof.method or method.controller != did:
        raise MethodNotAuthorized(f"{proof.method} is controlled by {method.controller}")
    return method


def _proof_config(document: Document, options: ProofOptions) -> dict[str, Any]:
    if options.suite not in (EDDSA_JCS, EDDSA_RDFC):
        raise ProofNotMade(f"no proofs are made by {options.suite!r:.60}")
    times = {"created": options.created_s, "expires": options.expires_s}
    config: dict[str, Any] = {
        "id": options.id,
        "type": DATA_INTEGRITY,
        "cryptosuite": options.suite,
        **{name: time if time is None else encode_time(time) for name, time in times.items()},
        "verificationMethod": options.method,
        "proofPurpose": options.purpose,
        "challenge": options.challenge,
        "domain": _json(options.domain),
        "nonce": options.nonce,
        "previousProof": _json(options.previous),
    }
    if options.suite == EDDSA_JCS:
        config["@context"] = document.get("@context")
    return {name: value for name, value in config.items() if value is not None}


def _json(value: str | tuple[str, ...] | None) -> str | list[str] | None:
    return list(value) if isinstance(value, tuple) else value
