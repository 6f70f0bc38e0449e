"""The VC Data Model as structural rules: which JSON documents are a credential or a presentation.

Does not look at proofs, time or graph meaning: that each term is defined is `rdfc`'s business. W3C
VC Data Model 2.0 (Recommendation, 15 May 2025) sections 4, 5 and 11.1; of 1.1 what differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from credentials.document import Document, parse_time
from credentials.errors import ModelInvalid
from credentials.limits import CONTEXTS_MAX, CREDENTIALS_MAX, PROOFS_MAX
from credentials.model_values import (
    check_language,
    check_typed,
    is_url,
    read_id,
    read_objects,
    read_types,
)
from credentials.related import check_related
from credentials.status import StatusEntry, parse_statuses

Version: TypeAlias = Literal["1.1", "2.0"]

CONTEXT_V1: Final = "https://www.w3.org/2018/credentials/v1"
CONTEXT_V2: Final = "https://www.w3.org/ns/credentials/v2"

_VERSIONS: Final[Mapping[str, Version]] = {CONTEXT_V1: "1.1", CONTEXT_V2: "2.0"}

# Properties whose objects must have a type (sections 4.5, 5.10); their `id`, if any, is a URL.
_TYPED: Final = (
    "evidence",
    "termsOfUse",
    "refreshService",
    "renderMethod",
    "confidenceMethod",
)
_ENVELOPED: Final = "EnvelopedVerifiableCredential"


@dataclass(frozen=True, slots=True)
class CredentialView:
    """What a credential says about itself, read once. Nothing here is verified."""

    version: Version
    id: str | None
    types: tuple[str, ...]
    issuer: str
    subjects: tuple[str, ...]
    """The ids of its subjects; a subject without an id is not among them."""
    valid_from_s: float | None
    valid_until_s: float | None
    statuses: tuple[StatusEntry, ...]
    schemas: tuple[Mapping[str, Any], ...]
    """The credentialSchema objects: each has a type, and a URL as id."""
    document: Document


@dataclass(frozen=True, slots=True)
class PresentationView:
    """What a presentation says about itself, read once. Nothing here is verified."""

    version: Version
    id: str | None
    types: tuple[str, ...]
    holder: str | None
    credentials: tuple[Document, ...]
    document: Document


def check_credential(document: Document) -> CredentialView:
    """Check the structure of a credential. Raises ModelInvalid naming the property, and
    StatusEntryInvalid.
    """
    version = _read_version(document)
    types = read_types(document, "the credential")
    if "VerifiableCredential" not in types:
        if _ENVELOPED in types:
            raise ModelInvalid(f"a credential in an envelope ({_ENVELOPED}) is not read here")
        raise ModelInvalid("type does not name VerifiableCredential")
    valid_from_s, valid_until_s = _read_period(document, version)
    for name in _TYPED:
        if name in document:
            check_typed(document[name], name)
    _check_proof(document)
    if "relatedResource" in document:
        check_related(document["relatedResource"])
    check_language(document, "")
    return CredentialView(
        version=version,
        id=read_id(document, "id"),
        types=types,
        issuer=_read_issuer(document),
        subjects=_read_subjects(document),
        valid_from_s=valid_from_s,
        valid_until_s=valid_until_s,
        statuses=_read_statuses(document, version) if "credentialStatus" in document else (),
        schemas=_read_schemas(document) if "credentialSchema" in document else (),
        document=document,
    )


def check_presentation(document: Document) -> PresentationView:
    """Check the structure of a presentation. Raises ModelInvalid naming the property.

    The credentials in it are only counted and told to be objects: each is a document of its own.
    """
    version = _read_version(document)
    types = read_types(document, "the presentation")
    if "VerifiablePresentation" not in types:
        raise ModelInvalid("type does not name VerifiablePresentation")
    for name in ("termsOfUse", "refreshService"):
        if name in document:
            check_typed(document[name], name)
    _check_proof(document)
    check_language(document, "")
    return PresentationView(
        version=version,
        id=read_id(document, "id"),
        types=types,
        holder=_read_party(document, "holder") if "holder" in document else None,
        credentials=_read_presented(document),
        document=document,
    )


def _read_version(document: Document) -> Version:
    context = document.get("@context")
    if not isinstance(context, list) or not context:
        raise ModelInvalid("@context is not a list that begins with the credentials context")
    first = context[0]
    version = _VERSIONS.get(first) if isinstance(first, str) else None
    if version is None:
        raise ModelInvalid(f"the first @context is {first!r:.120}, not {CONTEXT_V2}")
    if len(context) > CONTEXTS_MAX:
        raise ModelInvalid(f"@context has {len(context)} entries; at most {CONTEXTS_MAX}")
    for place, entry in enumerate(context[1:], 1):
        if isinstance(entry, str):
            if not is_url(entry):
                raise ModelInvalid(f"@context names {entry!r:.120}, which is no URL")
            if entry in context[:place]:
                raise ModelInvalid(f"@context names {entry:.120} twice: it is an ordered set")
        elif not isinstance(entry, dict):
            raise ModelInvalid(f"@context has {entry!r:.120}, neither a URL nor an object")
    return version


def _read_issuer(document: Document) -> str:
    if "issuer" not in document:
        raise ModelInvalid("issuer is missing")
    issuer = _read_party(document, "issuer")
    if isinstance(document["issuer"], dict):
        check_language(document["issuer"], "issuer.")
    return issuer


def _read_party(document: Document, name: str) -> str:
    """Read an issuer or holder: a URL, or an object with a URL as `id`."""
    value = document[name]
    if isinstance(value, dict):
        value = value.get("id")
        name = f"{name}.id"
    if not is_url(value):
        raise ModelInvalid(f"{name} is {value!r:.120}, not a URL")
    party: str = value
    return party


def _read_subjects(document: Document) -> tuple[str, ...]:
    if "credentialSubject" not in document:
        raise ModelInvalid("credentialSubject is missing")
    subjects = []
    for subject in read_objects(document["credentialSubject"], "credentialSubject"):
        if not subject:
            raise ModelInvalid("credentialSubject has an object without any claim")
        identifier = read_id(subject, "credentialSubject.id")
        if identifier is not None:
            subjects.append(identifier)
    return tuple(subjects)


def _read_period(document: Document, version: Version) -> tuple[float | None, float | None]:
    valid_from_s = _read_time(document, "validFrom")
    valid_until_s = _read_time(document, "validUntil")
    if version == "1.1":
        issued_s = _read_time(document, "issuanceDate")
        if issued_s is None:
            raise ModelInvalid("issuanceDate is missing (VC Data Model 1.1)")
        expires_s = _read_time(document, "expirationDate")
        valid_from_s = issued_s if valid_from_s is None else max(issued_s, valid_from_s)
        if expires_s is not None:
            valid_until_s = expires_s if valid_until_s is None else min(expires_s, valid_until_s)
    elif "expirationDate" in document or "issuanceDate" in document:
        raise ModelInvalid("issuanceDate and expirationDate are validFrom and validUntil since 2.0")
    if valid_from_s is not None and valid_until_s is not None and valid_from_s > valid_until_s:
        raise ModelInvalid("validFrom is after validUntil")
    return valid_from_s, valid_until_s


def _read_time(document: Document, name: str) -> float | None:
    if name not in document:
        return None
    text = document[name]
    if not isinstance(text, str):
        raise ModelInvalid(f"{name} is {text!r:.80}, not a dateTimeStamp")
    try:
        return parse_time(text)
    except ModelInvalid as error:
        raise ModelInvalid(f"{name}: {error}") from error


def _read_statuses(document: Document, version: Version) -> tuple[StatusEntry, ...]:
    statuses = read_objects(document["credentialStatus"], "credentialStatus")
    for status in statuses:
        read_types(status, "credentialStatus")
        if read_id(status, "credentialStatus.id") is None and version == "1.1":
            raise ModelInvalid("credentialStatus has no id (VC Data Model 1.1)")
    return parse_statuses(statuses)


def _read_schemas(document: Document) -> tuple[Mapping[str, Any], ...]:
    schemas = read_objects(document["credentialSchema"], "credentialSchema")
    for schema in schemas:
        read_types(schema, "credentialSchema")
        if read_id(schema, "credentialSchema.id") is None:
            raise ModelInvalid("credentialSchema has no id, the URL of its schema")
    return schemas


def _read_presented(document: Document) -> tuple[Document, ...]:
    value = document.get("verifiableCredential", [])
    credentials = (value,) if isinstance(value, dict) else value
    if not isinstance(credentials, list | tuple):
        raise ModelInvalid("verifiableCredential is neither an object nor a list of objects")
    if len(credentials) > CREDENTIALS_MAX:
        raise ModelInvalid(
            f"{len(credentials)} credentials in one presentation; at most {CREDENTIALS_MAX}"
        )
    for credential in credentials:
        if not isinstance(credential, dict):
            raise ModelInvalid("verifiableCredential has a value that is no object")
    return tuple(credentials)


def _check_proof(document: Document) -> None:
    if "proof" not in document:
        return
    proofs = read_objects(document["proof"], "proof")
    if len(proofs) > PROOFS_MAX:
        raise ModelInvalid(f"{len(proofs)} proofs; at most {PROOFS_MAX}")
    for proof in proofs:
        read_types(proof, "proof")
