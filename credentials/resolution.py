"""What a resolver answers over HTTP: result, status, media type, in the standards' words.

Does not speak HTTP and does not resolve (`credentials.resolve`). W3C DID Resolution 1.0; did:key
method (key formats, its error names). Two dialects: DID Resolution 1.0 names an error by an object
with a `type`; who asks for `application/ld+json` with the did-resolution profile, as the did:key
conformance suite does, gets the single words of 2022.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import base58

from credentials.did import DidUrl, parse_did, parse_did_url
from credentials.did_document import KEY_AGREEMENT, SIGNING_PURPOSES, DidDocument, absolute
from credentials.did_peer import CONTEXTS
from credentials.document import Document
from credentials.errors import (
    CredentialsError,
    DidDocumentInvalid,
    DidMethodUnsupported,
    DidNotFound,
    IdentifierInvalid,
    KeyInvalid,
    KeyLengthInvalid,
    KeyTypeUnsupported,
)
from credentials.keys import PublicKey
from credentials.limits import ACCEPT_CHARS_MAX, DID_URL_CHARS_MAX
from credentials.multibase import encode_multibase
from credentials.multikey import encode_multikey, encode_x25519
from credentials.resolve import Resolver, resolve_offline

RESULT_CONTEXT = "https://w3id.org/did-resolution/v1"
RESULT_TYPE = "application/did-resolution"
DOCUMENT_TYPES = ("application/did", "application/did+ld+json", "application/did+json")
_OLD_RESULT_TYPE = "application/ld+json"
_ANY_TYPES = frozenset({"", "*/*", "application/*", "application/json", RESULT_TYPE})
_OLD_PROFILE = re.compile(
    r'application/ld\+json\s*;\s*profile="?https://w3id\.org/did-resolution"?'
)

_NS = "https://www.w3.org/ns/did#"
_SECURITY = "https://w3id.org/security#"
_ERRORS: Mapping[str, tuple[str, int]] = {
    "invalidDid": (_NS + "INVALID_DID", 400),
    "invalidDidUrl": (_NS + "INVALID_DID_URL", 400),
    "invalidDidDocument": (_NS + "INVALID_DID_DOCUMENT", 500),
    "notFound": (_NS + "NOT_FOUND", 404),
    "representationNotSupported": (_NS + "REPRESENTATION_NOT_SUPPORTED", 406),
    "methodNotSupported": (_NS + "METHOD_NOT_SUPPORTED", 501),
    "invalidPublicKey": (_SECURITY + "INVALID_PUBLIC_KEY", 400),
    "invalidPublicKeyLength": (_SECURITY + "INVALID_PUBLIC_KEY_LENGTH", 400),
    "invalidPublicKeyType": (_SECURITY + "INVALID_PUBLIC_KEY_TYPE", 400),
    "unsupportedPublicKeyType": (_SECURITY + "UNSUPPORTED_PUBLIC_KEY_TYPE", 400),
}
_NAMES: Mapping[type[CredentialsError], str] = {
    IdentifierInvalid: "invalidDid",
    KeyLengthInvalid: "invalidPublicKeyLength",
    KeyTypeUnsupported: "unsupportedPublicKeyType",
    KeyInvalid: "invalidPublicKey",
    DidMethodUnsupported: "methodNotSupported",
    DidNotFound: "notFound",
    DidDocumentInvalid: "invalidDidDocument",
}


@dataclass(frozen=True, slots=True)
class ResolutionResult:
    """An answer, ready to be sent."""

    body: dict[str, Any]
    status: int
    content_type: str


class _Failed(Exception):
    def __init__(self, name: str, detail: str) -> None:
        super().__init__(detail)
        self.name = name


def resolution_result(
    did_url: str,
    resolver: Resolver = resolve_offline,
    *,
    accept: str | None = None,
    key_format: str | None = None,
    experimental: bool = False,
) -> ResolutionResult:
    """Resolve a DID, or dereference a DID URL with a fragment. Raises nothing.

    `accept` is the request's Accept; with one of DOCUMENT_TYPES the body is the bare document.
    `key_format` and `experimental` are did:key's `publicKeyFormat` and
    `enableExperimentalPublicKeyTypes`; other methods' documents stay as they are.
    """
    accept = (accept or "").strip()
    old = len(accept) <= ACCEPT_CHARS_MAX and _OLD_PROFILE.search(accept) is not None
    dereferencing = any(mark in did_url for mark in "/?#")
    metadata_name = "didDereferencingMetadata" if dereferencing else "didResolutionMetadata"
    result_type = _OLD_RESULT_TYPE if old else RESULT_TYPE
    try:
        document_type = None if old else _document_type(accept)
        content = _content(did_url, dereferencing, resolver, key_format, experimental)
    except _Failed as error:
        body = _envelope({} if old else None, metadata_name, _error(error, old))
        return ResolutionResult(body, _ERRORS[error.name][1], result_type)
    if document_type is not None:
        return ResolutionResult(content, 200, document_type)
    metadata = {"contentType": DOCUMENT_TYPES[1] if old else DOCUMENT_TYPES[0]}
    return ResolutionResult(_envelope(content, metadata_name, metadata), 200, result_type)


def _envelope(document: Document | None, name: str, metadata: Document) -> Document:
    return {
        "@context": RESULT_CONTEXT,
        "didDocument": document,
        name: metadata,
        "didDocumentMetadata": {},
    }


def _error(error: _Failed, old: bool) -> Document:
    problem = {"type": _ERRORS[error.name][0], "title": error.name, "detail": str(error)}
    if old:
        return {"error": error.name, "problemDetails": problem}
    return {"error": problem}


def _document_type(accept: str) -> str | None:
    """Return the type of a bare document if one is asked for before a whole result."""
    if len(accept) > ACCEPT_CHARS_MAX:
        raise _Failed("representationNotSupported", "the Accept header is too long")
    for part in accept.split(","):
        media = part.partition(";")[0].strip().lower()
        if media in DOCUMENT_TYPES:
            return media
        if media in _ANY_TYPES or media == _OLD_RESULT_TYPE:
            return None
    raise _Failed(
        "representationNotSupported", f"{accept:.80} is not offered; {RESULT_TYPE} is, or a bare "
        f"{', '.join(DOCUMENT_TYPES)}"
    )  # fmt: skip


def _content(
    did_url: str,
    dereferencing: bool,
    resolver: Resolver,
    key_format: str | None,
    experimental: bool,
) -> Document:
    parts = _parts(did_url) if dereferencing else None
    did = parts.did if parts is not None else did_url
    try:
        resolved = resolver(did)
        document = _formatted(resolved, key_format, experimental)
    except CredentialsError as error:
        name = _NAMES.get(type(error), "invalidDid")
        raise _Failed(name, str(error)) from error
    if parts is None:
        return document
    if parts.path or parts.query is not None or not parts.fragment:
        raise _Failed("notFound", "only the fragments of a DID URL are dereferenced here")
    return _fragment(did, document, f"{did}#{parts.fragment}")


def _parts(did_url: str) -> DidUrl:
    if len(did_url) <= DID_URL_CHARS_MAX and not did_url.startswith("did:"):
        raise _Failed("invalidDid", f"{did_url!r:.80} is no DID")
    try:
        return parse_did_url(did_url)
    except IdentifierInvalid as error:
        raise _Failed("invalidDidUrl", str(error)) from error


def _fragment(did: str, document: Document, url: str) -> Document:
    for name in ("verificationMethod", "service", *SIGNING_PURPOSES, KEY_AGREEMENT):
        for entry in document.get(name, []):
            if isinstance(entry, dict) and absolute(did, str(entry.get("id"))) == url:
                return {"@context": document.get("@context", list(CONTEXTS)), **entry}
    raise _Failed("notFound", f"{url!r:.160} is not in the document")


def _formatted(resolved: DidDocument, key_format: str | None, experimental: bool) -> Document:
    document = resolved.document
    if key_format in (None, "Multikey") or not resolved.did.startswith("did:key:"):
        return document
    found = _FORMATS.get(key_format)
    if found is None:
        raise _Failed("unsupportedPublicKeyType", f"the key format {key_format!r:.80} is unknown")
    if found.experimental and not experimental:
        raise _Failed("invalidPublicKeyType", f"{key_format} is an experimental key format")
    public = parse_did(resolved.did)
    signing, agreement = document["verificationMethod"]
    document["@context"] = [CONTEXTS[0], *found.contexts]
    document["verificationMethod"] = [
        _method(signing, found.types[0], found.material(public.raw, "Ed25519")),
        _method(agreement, found.types[1], found.material(public.to_x25519(), "X25519")),
    ]
    return document


def _method(method: Document, kind: str, material: Document) -> Document:
    return {"id": method["id"], "type": kind, "controller": method["controller"], **material}


def _multibase(raw: bytes, curve: str) -> Document:
    encoded = encode_multikey(PublicKey(raw)) if curve == "Ed25519" else encode_x25519(raw)
    return {"publicKeyMultibase": encoded}


def _base58(raw: bytes, curve: str) -> Document:
    return {"publicKeyBase58": base58.b58encode(raw).decode("ascii")}


def _jwk(raw: bytes, curve: str) -> Document:
    return {"publicKeyJwk": {"kty": "OKP", "crv": curve, "x": encode_multibase("u", raw)[1:]}}


@dataclass(frozen=True, slots=True)
class _Format:
    types: tuple[str, str]
    """Of the signing key and of the key for agreement."""
    contexts: tuple[str, ...]
    material: Callable[[bytes, str], Document]
    experimental: bool = False


_SUITES = "https://w3id.org/security/suites/"
_2020 = _Format(
    ("Ed25519VerificationKey2020", "X25519KeyAgreementKey2020"),
    (_SUITES + "ed25519-2020/v1", _SUITES + "x25519-2020/v1"),
    _multibase,
)
_2018 = _Format(
    ("Ed25519VerificationKey2018", "X25519KeyAgreementKey2019"),
    (_SUITES + "ed25519-2018/v1", _SUITES + "x25519-2019/v1"),
    _base58,
    experimental=True,
)
_JWK = _Format(("JsonWebKey2020", "JsonWebKey2020"), (_SUITES + "jws-2020/v1",), _jwk)
_FORMATS: Mapping[str, _Format] = {
    "Ed25519VerificationKey2020": _2020,
    "X25519KeyAgreementKey2020": _2020,
    "Ed25519VerificationKey2018": _2018,
    "X25519KeyAgreementKey2019": _2018,
    "JsonWebKey2020": _JWK,
}
