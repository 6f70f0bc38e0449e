"""DID documents that were checked: who may sign what with which key.

Does not find documents (`credentials.resolve`) and does not know the time: whether a method was
revoked is for whoever checks a signature. W3C DID Core 1.0 and 1.1, Controlled Identifiers 1.0.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from credentials.document import Document, check_document, parse_time
from credentials.errors import (
    CredentialsError,
    DidDocumentInvalid,
    KeyTypeUnsupported,
    MethodNotAuthorized,
)
from credentials.keys import PublicKey, decode_base58
from credentials.limits import (
    DID_METHODS_MAX,
    DID_SERVICES_MAX,
    DID_URL_CHARS_MAX,
    MULTIBASE_CHARS_MAX,
)
from credentials.multibase import decode_multibase
from credentials.multikey import parse_multikey

SIGNING_PURPOSES = (
    "assertionMethod",
    "authentication",
    "capabilityInvocation",
    "capabilityDelegation",
)
KEY_AGREEMENT = "keyAgreement"
_MULTIBASE_TYPES = frozenset({"Multikey", "Ed25519VerificationKey2020"})
_BASE58_TYPE = "Ed25519VerificationKey2018"
_JWK_TYPES = frozenset({"JsonWebKey", "JsonWebKey2020", "Ed25519VerificationKey2018"})
_MATERIALS = (
    "publicKeyMultibase",
    "publicKeyBase58",
    "publicKeyJwk",
    "publicKeyHex",
    "publicKeyPem",
    "blockchainAccountId",
)
_SECRETS = ("secretKeyMultibase", "secretKeyJwk", "privateKeyMultibase", "privateKeyBase58")
_NOTHING: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class VerificationMethod:
    """One Ed25519 key of a controller."""

    id: str
    """Absolute: a DID URL."""
    controller: str
    key: PublicKey
    revoked_s: float | None = None
    """Unix seconds from which it is not to be believed; so too `expires_s`."""
    expires_s: float | None = None


@dataclass(frozen=True, slots=True)
class DidDocument:
    """A document that belongs to its DID. Safe to share: nothing of it can be changed."""

    did: str
    methods: Mapping[str, VerificationMethod]
    """By absolute id. Only Ed25519 keys that the DID itself controls."""
    relationships: Mapping[str, frozenset[str]]
    """For each of SIGNING_PURPOSES the absolute ids listed under it, of whatever type."""
    _make: Callable[[], Document] = field(repr=False, compare=False)

    @property
    def document(self) -> Document:
        """The document as JSON: a copy of its own at each call."""
        return self._make()

    def method(self, url: str, purpose: str) -> VerificationMethod:
        """Return the method `url` if it is listed under `purpose`. Raises MethodNotAuthorized."""
        if url not in self.relationships.get(purpose, _NOTHING):
            raise MethodNotAuthorized(f"{self.did:.80} does not list {url!r:.160} under {purpose}")
        found = self.methods.get(url)
        if found is None:
            raise MethodNotAuthorized(
                f"{url!r:.160} is no Ed25519 key that {self.did:.80} controls"
            )
        return found


def key_did_document(
    did: str, method: VerificationMethod, make: Callable[[], Document]
) -> DidDocument:
    """Return the document of a DID that is one key, good for every signing purpose."""
    listed = frozenset({method.id})
    return DidDocument(
        did,
        MappingProxyType({method.id: method}),
        MappingProxyType(dict.fromkeys(SIGNING_PURPOSES, listed)),
        make,
    )


def parse_did_document(did: str, document: Document) -> DidDocument:
    """Check a document that somebody says is this DID's. Raises DidDocumentInvalid.

    Keys of other types than Ed25519, and methods that another DID controls, are left out. The
    document is copied.
    """
    try:
        check_document(document)
        return _parse(did, copy.deepcopy(document))
    except DidDocumentInvalid:
        raise
    except CredentialsError as error:
        raise DidDocumentInvalid(f"the document of {did:.80} is refused: {error}") from error


def absolute(did: str, url: str) -> str:
    """Return a reference of a document as an absolute DID URL: `#key-1` is relative to `did`."""
    return did + url if url.startswith("#") else url


def _parse(did: str, document: Document) -> DidDocument:
    if document.get("id") != did:
        raise DidDocumentInvalid(f"the document of {did:.80} has the id {document.get('id')!r:.80}")
    _check_controllers(document)
    for service in _objects(document, "service", DID_SERVICES_MAX):
        if not isinstance(service, dict):
            raise DidDocumentInvalid("a service of a DID document is an object")
    methods: dict[str, VerificationMethod | None] = {}
    for entry in _objects(document, "verificationMethod", DID_METHODS_MAX):
        _add_method(did, entry, methods)
    relationships = {
        purpose: _listed(did, document, purpose, methods)
        for purpose in (*SIGNING_PURPOSES, KEY_AGREEMENT)
    }
    del relationships[KEY_AGREEMENT]  # checked like the others, and no signature is good for it
    return DidDocument(
        did,
        MappingProxyType({url: method for url, method in methods.items() if method is not None}),
        MappingProxyType(relationships),
        lambda: copy.deepcopy(document),
    )


def _check_controllers(document: Document) -> None:
    controllers = document.get("controller", [])
    if isinstance(controllers, str):
        controllers = [controllers]
    if (
        not isinstance(controllers, list)
        or len(controllers) > DID_METHODS_MAX
        or not all(isinstance(controller, str) for controller in controllers)
    ):
        raise DidDocumentInvalid("the controller of a DID document is a DID or a list of DIDs")


def _objects(document: Document, name: str, count_max: int) -> list[Any]:
    entries = document.get(name, [])
    if not isinstance(entries, list) or len(entries) > count_max:
        raise DidDocumentInvalid(f"{name} of a DID document is a list of at most {count_max}")
    return entries


def _listed(
    did: str, document: Document, purpose: str, methods: dict[str, VerificationMethod | None]
) -> frozenset[str]:
    listed = set()
    for entry in _objects(document, purpose, DID_METHODS_MAX):
        if isinstance(entry, str):
            listed.add(_method_url(did, entry))
        else:
            listed.add(_add_method(did, entry, methods))
    return frozenset(listed)


def _method_url(did: str, url: object) -> str:
    if not isinstance(url, str) or not url or len(url) > DID_URL_CHARS_MAX:
        raise DidDocumentInvalid("a verification method is named by a DID URL")
    return absolute(did, url)


def _add_method(did: str, entry: object, methods: dict[str, VerificationMethod | None]) -> str:
    """Add a method, or None in its place where it is of no use here. Returns its absolute id."""
    if not isinstance(entry, dict):
        raise DidDocumentInvalid("a verification method is an object")
    url = _method_url(did, entry.get("id"))
    if url in methods:
        raise DidDocumentInvalid(f"the verification method {url!r:.160} is there twice")
    controller = entry.get("controller")
    if not isinstance(controller, str) or not isinstance(entry.get("type"), str):
        raise DidDocumentInvalid(f"the verification method {url!r:.160} has no controller or type")
    if any(secret in entry for secret in _SECRETS):
        raise DidDocumentInvalid(f"the verification method {url!r:.160} publishes a secret key")
    key = _key(entry)
    times = {name: _time(entry, name) for name in ("revoked", "expires")}
    own = controller == did and url.startswith(f"{did}#")
    methods[url] = (
        VerificationMethod(url, controller, key, times["revoked"], times["expires"])
        if own and key is not None
        else None
    )
    return url


def _time(entry: Document, name: str) -> float | None:
    value = entry.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise DidDocumentInvalid(f"{name} of a verification method is a time")
    return parse_time(value)


def _key(entry: Document) -> PublicKey | None:
    """Return the Ed25519 key of a method, or None for a type that is not used here."""
    materials = [name for name in _MATERIALS if name in entry]
    if len(materials) > 1:
        raise DidDocumentInvalid(f"a verification method has one key, not {', '.join(materials)}")
    material = materials[0] if materials else ""
    value, kind = entry.get(material), entry["type"]
    if material == "publicKeyMultibase" and kind in _MULTIBASE_TYPES:
        return _multikey(value)
    if material == "publicKeyBase58" and kind == _BASE58_TYPE:
        return _base58_key(value)
    if material == "publicKeyJwk" and kind in _JWK_TYPES:
        return _jwk(value)
    return None


def _multikey(value: object) -> PublicKey | None:
    if not isinstance(value, str):
        raise DidDocumentInvalid("publicKeyMultibase is a text")
    try:
        return parse_multikey(value)
    except KeyTypeUnsupported:
        return None


def _base58_key(value: object) -> PublicKey:
    if not isinstance(value, str):
        raise DidDocumentInvalid("publicKeyBase58 is a text")
    public = PublicKey(decode_base58(value, "publicKeyBase58", MULTIBASE_CHARS_MAX))
    public.check_point()
    return public


def _jwk(value: object) -> PublicKey | None:
    """RFC 8037: `{"kty": "OKP", "crv": "Ed25519", "x": base64url without padding}`."""
    if not isinstance(value, dict):
        raise DidDocumentInvalid("publicKeyJwk is an object")
    if "d" in value:
        raise DidDocumentInvalid("publicKeyJwk publishes a secret key")
    if (value.get("kty"), value.get("crv")) != ("OKP", "Ed25519"):
        return None
    x = value.get("x")
    if not isinstance(x, str):
        raise DidDocumentInvalid("x of an Ed25519 publicKeyJwk is base64url")
    public = PublicKey(decode_multibase("u" + x, chars_max=MULTIBASE_CHARS_MAX))
    public.check_point()
    return public
