"""Verification of a credential: a numbered workflow that raises, and does no I/O.

1. document: the bytes are one JSON object within the limits (`document`).
2. data model: it is a credential (`model`).
3. contexts: trusted or not (`contexts`). A finding: it raises nothing, a policy asks for it.
4. proofs: every proof holds, by a key that the resolved document of its controller lists for
   assertions (`proof`). Where contexts are not trusted and the proof is over RDF, the JSON says
   what the RDF says (`meaning`).
5. issuer: one of the proofs is by the issuer itself.
6. validity period: now is within it, give or take the clock skew.
7. schema: the claims are as the schema of the type has them, if the type is one of this network's
   (`kinds`), and as each `credentialSchema` that is known has them (`schema_check`).
8. status: no status list of the issuer says revoked or suspended (`status`).

The first error ends it, with `.steps` on it. What needs a network is an argument: the resolver and
the status source look things up and fetch nothing; `status_lists_needed` and `dids_needed` say
beforehand what a caller should fetch. VC Data Model 2.0 section 7.1; Data Integrity 1.0 section 4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Final, Literal, TypeAlias

from credentials.contexts import SKIPPED, ContextLists, distrust_reason, rewriting_reason
from credentials.document import Document, encode_document, encode_time, parse_document
from credentials.errors import (
    CredentialExpired,
    CredentialNotYetValid,
    CredentialsError,
    ProofInvalid,
    StatusUnknown,
)
from credentials.kinds import check_kind
from credentials.limits import CLOCK_SKEW_S, CREDENTIALS_MAX
from credentials.meaning import check_meaning
from credentials.model import CredentialView, check_credential
from credentials.proof import CheckedProof, verify_proofs
from credentials.proof_fields import EDDSA_JCS
from credentials.resolve import Resolver, resolve_offline
from credentials.schema_check import SchemaFinding, SchemaSource, check_schemas
from credentials.status import StatusFinding, StatusSource
from credentials.status_check import check_status
from credentials.verified import (
    MADE_HERE,
    Progress,
    Remembered,
    VerifiedCache,
    VerifiedCredential,
    credential_steps,
)

Check: TypeAlias = Literal["issuer", "validity", "schema", "status"]
ALL_CHECKS: Final[frozenset[Check]] = frozenset({"issuer", "validity", "schema", "status"})

_OFFLINE_METHODS: Final = ("did:key:", "did:peer:")


@dataclass(frozen=True, slots=True)
class Environment:
    """What verification knows of the world: the moment, and where documents come from."""

    now_s: float
    resolver: Resolver = resolve_offline
    status: StatusSource | None = None
    """Returns the status list credential of a URL; raises StatusUnknown. None: has no list."""
    status_required: bool = True
    """Whether a credential is refused whose status cannot be had (StatusUnknown)."""
    status_age_s_max: float | None = None
    """How old a status list may be, whatever it says itself."""
    schemas: SchemaSource | None = None
    """Returns the JSON Schema of a `credentialSchema`; None for one that it does not know."""
    schema_required: bool = False
    """Whether a credential is refused whose `credentialSchema` is unknown (SchemaUnknown)."""
    trusted_contexts: ContextLists = frozenset()
    """Lists of contexts that are trusted beside those of `contexts`."""
    skew_s: float = CLOCK_SKEW_S
    cache: VerifiedCache | None = None
    checks: frozenset[Check] = ALL_CHECKS
    """What raises. A check that is left out is made and told in the steps, and in `unmet` of the
    result, which every policy refuses. Steps 1 to 4 always raise, and so does an issuer that is a
    DID and signed nothing."""


def verify_credential(data: bytes | Document, env: Environment) -> VerifiedCredential:
    """Verify a credential. Raises a leaf of CredentialsError, which has `.steps`."""
    progress = Progress()
    try:
        return _verify(data, env, progress)
    except CredentialsError as error:
        error.steps = credential_steps(progress, (progress.step, str(error)))
        raise


def _verify(data: bytes | Document, env: Environment, progress: Progress) -> VerifiedCredential:
    original = data if isinstance(data, bytes) else encode_document(data)
    if env.cache is None:
        view = _check(original, env, progress)
    else:
        view = _check_or_recall(original, env, progress, env.cache)
    progress.step = 5
    _check_issuer(view, env, progress)
    progress.step = 6
    if view.valid_from_s is not None or view.valid_until_s is not None:
        _check_period(view, env, progress)
    progress.step = 7
    _check_schemas(view, env, progress)
    progress.step = 8
    statuses = _check_status(view, env, progress) if view.statuses else ()
    return VerifiedCredential(
        view=view,
        original=original,
        proofs=progress.proofs,
        contexts_reason=progress.contexts_reason,
        schemas=progress.schemas,
        statuses=statuses,
        status=progress.status,
        status_reason=progress.status_reason,
        unmet=tuple(progress.unmet),
        verified_s=env.now_s,
        made_here=MADE_HERE,
    )


def _check_or_recall(
    original: bytes, env: Environment, progress: Progress, cache: VerifiedCache
) -> CredentialView:
    """Steps 1 to 4, or what is remembered of them, with the proofs' times checked anew."""
    # What is trusted is part of the result, so it is part of the key.
    digest = sha256(original).digest() + _digest_of(env.trusted_contexts)
    held = cache.get(digest)
    if held is None:
        view = _check(original, env, progress)
        if _is_lasting(view, progress.proofs):
            held = Remembered(progress.proofs, progress.contexts_reason)
            cache.put(digest, held, len(original))
        return view
    # The document is read anew: what a caller did to his own copy of it is his own affair.
    view = progress.view = check_credential(parse_document(original))
    progress.step = 4
    progress.proofs, progress.contexts_reason = held.proofs, held.contexts_reason
    for proof in held.proofs:
        proof.check_time(now_s=env.now_s, skew_s=env.skew_s)
    return view


def _is_lasting(view: CredentialView, proofs: tuple[CheckedProof, ...]) -> bool:
    """Whether another resolver, or the same one later, finds the same keys for all the proofs."""
    return len(_objects(view.document["proof"])) == len(proofs) and all(
        proof.controller.startswith(_OFFLINE_METHODS) for proof in proofs
    )


def _digest_of(lists: ContextLists) -> bytes:
    return sha256(repr(sorted(lists)).encode()).digest() if lists else b""


def _check(original: bytes, env: Environment, progress: Progress) -> CredentialView:
    """Steps 1 to 4."""
    document = parse_document(original)
    progress.step = 2
    view = progress.view = check_credential(document)
    progress.step = 3
    reason = progress.contexts_reason = distrust_reason(document, env.trusted_contexts)
    progress.step = 4
    proofs = progress.proofs = verify_proofs(
        document,
        env.resolver,
        purpose="assertionMethod",
        now_s=env.now_s,
        skew_s=env.skew_s,
    )
    reason = progress.contexts_reason = reason or signed_reason(document, proofs)
    if reason and any(proof.suite != EDDSA_JCS for proof in proofs):
        check_meaning(view)
    return view


def signed_reason(
    document: Document, proofs: tuple[CheckedProof, ...], *, skipped: frozenset[str] = SKIPPED
) -> str:
    """Return why contexts that are pinned are not trusted after all; "" if they are."""
    if any(proof.suite == EDDSA_JCS and not proof.contexts_signed for proof in proofs):
        return "a context was added after it was signed"
    if any(proof.suite != EDDSA_JCS for proof in proofs):
        return rewriting_reason(document, skipped=skipped)
    return ""


def _check_issuer(view: CredentialView, env: Environment, progress: Progress) -> None:
    if any(proof.controller == view.issuer for proof in progress.proofs):
        return
    error = ProofInvalid(
        f"the issuer is {view.issuer:.200}, the proof is by {progress.proofs[0].controller:.200}"
    )
    if "issuer" in env.checks or view.issuer.startswith("did:"):
        raise error
    progress.unmet.append((5, str(error)))


def _check_period(view: CredentialView, env: Environment, progress: Progress) -> None:
    starts_s, ends_s = view.valid_from_s, view.valid_until_s
    error: CredentialsError | None = None
    if starts_s is not None and env.now_s + env.skew_s < starts_s:
        error = CredentialNotYetValid(f"it is valid from {encode_time(starts_s)} on")
    elif ends_s is not None and env.now_s - env.skew_s >= ends_s:
        error = CredentialExpired(f"it was valid until {encode_time(ends_s)}")
    if error is None:
        return
    if "validity" in env.checks:
        raise error
    progress.unmet.append((6, str(error)))


def _check_schemas(view: CredentialView, env: Environment, progress: Progress) -> None:
    try:
        kind = check_kind(view.document)
        if kind is None and not view.schemas:
            return
        findings = []
        if kind is not None:
            detail = "the claims are as they must be"
            findings.append(SchemaFinding(kind.schema, kind.name, "passed", detail))
        if view.schemas:
            findings += check_schemas(
                view.document,
                source=env.schemas,
                verify=_verifier(env),
                required=env.schema_required,
            )
        progress.schemas = tuple(findings)
    except CredentialsError as error:
        if "schema" in env.checks:
            raise
        progress.unmet.append((7, str(error)))


def _check_status(
    view: CredentialView, env: Environment, progress: Progress
) -> tuple[StatusFinding, ...]:
    progress.status = "unknown"
    try:
        if env.status is None:
            raise StatusUnknown("it has a status, and no status list was given to look it up")
        findings = check_status(
            view,
            env.status,
            _verifier(env),
            now_s=env.now_s,
            age_s_max=env.status_age_s_max,
        )
    except StatusUnknown as error:
        if env.status_required and "status" in env.checks:
            raise
        progress.status_reason = str(error)
        return ()
    except CredentialsError as error:
        if "status" in env.checks:
            raise
        progress.status = "failed"
        progress.unmet.append((8, str(error)))
        return ()
    progress.status = "passed"
    return findings


def _verifier(env: Environment) -> Callable[[Document | bytes], VerifiedCredential]:
    """Return how lists and schemas that are credentials are verified: all but their own status."""
    inner = replace(env, status=None, status_required=False, schemas=None, checks=ALL_CHECKS)
    return lambda data: verify_credential(data, inner)


def status_lists_needed(document: Document) -> tuple[str, ...]:
    """Return the URLs of the status lists that the verification of a credential, or of the
    credentials in a presentation, reads. Whatever is malformed is passed over.
    """
    urls: dict[str, None] = {}
    for credential in _credentials_in(document):
        for status in _objects(credential.get("credentialStatus")):
            url = status.get("statusListCredential")
            if isinstance(url, str):
                urls[url] = None
    return tuple(urls)[:_NEEDED_MAX]


def dids_needed(document: Document) -> tuple[str, ...]:
    """Return the DIDs whose documents a verification needs and that do not carry their own.

    Whatever is malformed is passed over.
    """
    dids: dict[str, None] = {}
    for each in (document, *_credentials_in(document)):
        for proof in _objects(each.get("proof")):
            method = proof.get("verificationMethod")
            did = method.partition("#")[0] if isinstance(method, str) else ""
            if did.startswith("did:") and not _carries_its_document(did):
                dids[did] = None
    return tuple(dids)[:_NEEDED_MAX]


_NEEDED_MAX: Final = 2 * CREDENTIALS_MAX


def _carries_its_document(did: str) -> bool:
    """Whether a DID resolves without anything else: not the short form of a did:peer."""
    if did.startswith("did:peer:3") or (did.startswith("did:peer:4") and did.count(":") == 2):
        return False
    return did.startswith(_OFFLINE_METHODS)


def _credentials_in(document: Document) -> list[Document]:
    return [document, *_objects(document.get("verifiableCredential"))]


def _objects(value: object) -> list[Document]:
    values = value if isinstance(value, list) else [value]
    return [each for each in values[:CREDENTIALS_MAX] if isinstance(each, dict)]
