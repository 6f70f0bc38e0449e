"""did:peer: identifiers that carry, or are the hash of, their own document (numalgo 0, 2, 3, 4).

Returns documents as they are written there: `credentials.resolve` checks them and keeps long forms.
DIF Peer DID Method Specification; its numalgo 1 is not read.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import base58

from credentials.did import Did
from credentials.document import Document, check_document, encode_document, parse_document
from credentials.errors import DidDocumentInvalid, DocumentInvalid, IdentifierInvalid
from credentials.keys import PublicKey, decode_base58
from credentials.limits import (
    DID_CHARS_MAX,
    DID_METHODS_MAX,
    DID_SERVICES_MAX,
    MULTIBASE_CHARS_MAX,
)
from credentials.multibase import decode_multibase, encode_multibase
from credentials.multikey import encode_multikey

PREFIX = "did:peer:"
CONTEXTS = ("https://www.w3.org/ns/did/v1", "https://w3id.org/security/multikey/v1")

PURPOSES: Mapping[str, str] = {
    "A": "assertionMethod",
    "E": "keyAgreement",
    "V": "authentication",
    "I": "capabilityInvocation",
    "D": "capabilityDelegation",
}
"""The letters of numalgo 2."""
_LETTERS = {purpose: letter for letter, purpose in PURPOSES.items()}
_SHORT_NAMES = {"type": "t", "serviceEndpoint": "s", "routingKeys": "r", "accept": "a"}
_LONG_NAMES = {short: name for name, short in _SHORT_NAMES.items()}
_SHORT_TYPES = {"DIDCommMessaging": "dm"}
_LONG_TYPES = {"dm": "DIDCommMessaging"}
_SHA_256 = b"\x12\x20"
_JSON = b"\x80\x04"
_RELATIONSHIPS = tuple(PURPOSES.values())


def create_peer_0(public: PublicKey) -> Did:
    """Return `did:peer:0z6Mk...`: the same key as the did:key, with the same rights."""
    return Did(f"{PREFIX}0{encode_multikey(public)}")


def create_peer_2(keys: Iterable[tuple[str, str]], services: Iterable[Document] = ()) -> Did:
    """Return the did:peer:2 of (purpose, Multikey) pairs, in this order, and services.

    A purpose is a verification relationship, `authentication`. A service's id is relative or left
    out. Raises IdentifierInvalid, DidDocumentInvalid, DocumentInvalid.
    """
    elements = []
    for purpose, multikey in keys:
        if purpose not in _LETTERS:
            raise IdentifierInvalid(f"{purpose!r:.80} is no purpose of a key")
        elements.append(_LETTERS[purpose] + multikey)
    for service in services:
        check_document(service)
        text = encode_document(_renamed(service, _SHORT_NAMES, _SHORT_TYPES))
        elements.append("S" + encode_multibase("u", text)[1:])
    did = Did(f"{PREFIX}2" + "".join(f".{element}" for element in elements))
    peer_2_document(did)
    return did


def peer_2_document(did: str) -> Document:
    """Return the document of a did:peer:2. Raises IdentifierInvalid, DidDocumentInvalid."""
    return _peer_2_document(did, did, peer_3_of(did))


def peer_3_of(peer_2: str) -> Did:
    """Return the did:peer:3, the hash, of a did:peer:2. Raises IdentifierInvalid."""
    return Did(f"{PREFIX}3{_multihash(_peer_2_body(peer_2))}")


def peer_3_document(did: str, peer_2: str) -> Document:
    """Return the document of a did:peer:3 whose did:peer:2 this is said to be.

    Raises IdentifierInvalid when it is not, and as `peer_2_document`.
    """
    if peer_3_of(peer_2) != did:
        raise IdentifierInvalid(f"{did!r:.80} is not the hash of the did:peer:2 given for it")
    return _peer_2_document(did, peer_2, peer_2)


def create_peer_4(document: Document) -> Did:
    """Return the long form of a did:peer:4 for a document without `id`, with relative ids.

    Raises DidDocumentInvalid, DocumentInvalid, and IdentifierInvalid for one that is too long.
    """
    check_document(document)
    _check_input(document)
    encoded = "z" + base58.b58encode(_JSON + encode_document(document)).decode("ascii")
    did = Did(f"{PREFIX}4{_multihash(encoded)}:{encoded}")
    if len(did) > DID_CHARS_MAX:
        raise IdentifierInvalid(
            f"the did:peer:4 of this document has {len(did)} characters, at most {DID_CHARS_MAX} "
            "are allowed: leave out services"
        )
    return did


def peer_4_short(long_form: str) -> Did:
    """Return the short form of a long form. Raises IdentifierInvalid if its hash does not fit."""
    return Did(f"{PREFIX}4{_peer_4_parts(long_form)[0]}")


def peer_4_document(did: str, long_form: str) -> Document:
    """Return the document of a did:peer:4, where `did` is the long form or its short form.

    Raises IdentifierInvalid, DidDocumentInvalid.
    """
    digest, encoded = _peer_4_parts(long_form)
    short_form = f"{PREFIX}4{digest}"
    if did not in (long_form, short_form):
        raise IdentifierInvalid(f"{did!r:.80} is not the short form of the long form given for it")
    raw = decode_base58(encoded[1:], "the document of a did:peer:4", DID_CHARS_MAX)
    if not raw.startswith(_JSON):
        raise IdentifierInvalid("a did:peer:4 holds something else than JSON")
    document = _parse_json(raw[len(_JSON) :], "a did:peer:4")
    _check_input(document)
    return _contextualized(document, did, short_form if did == long_form else long_form)


def _peer_2_body(did: str) -> str:
    body = did.removeprefix(f"{PREFIX}2")
    if len(did) > DID_CHARS_MAX or body == did or not body.startswith(".") or not did.isascii():
        raise IdentifierInvalid(f"{did!r:.80} is no did:peer:2, or too long")
    return body


def _peer_2_document(did: str, peer_2: str, also_known_as: str) -> Document:
    methods: list[Document] = []
    purposes: dict[str, list[str]] = {}
    services: list[Document] = []
    for element in _peer_2_body(peer_2)[1:].split("."):
        letter, value = element[:1], element[1:]
        if letter == "S":
            services.append(_decoded_service(value))
            continue
        if letter not in PURPOSES or not value.startswith("z"):
            raise IdentifierInvalid(f"a did:peer:2 has no elements like {element!r:.80}")
        decode_base58(value[1:], "a key of a did:peer:2", MULTIBASE_CHARS_MAX)
        reference = f"#key-{len(methods) + 1}"
        purposes.setdefault(PURPOSES[letter], []).append(reference)
        methods.append(
            {"id": reference, "type": "Multikey", "controller": did, "publicKeyMultibase": value}
        )
    if len(methods) > DID_METHODS_MAX or len(services) > DID_SERVICES_MAX:
        raise IdentifierInvalid("a did:peer:2 has too many keys or services")
    _number_services(services)
    document: Document = {"@context": list(CONTEXTS), "id": did, "alsoKnownAs": [also_known_as]}
    if methods:
        document["verificationMethod"] = methods
    document.update(purposes)
    if services:
        document["service"] = services
    return document


def _decoded_service(text: str) -> Document:
    raw = decode_multibase("u" + text, chars_max=DID_CHARS_MAX)
    service = _renamed(_parse_json(raw, "a service of a did:peer:2"), _LONG_NAMES, _LONG_TYPES)
    reference = service.get("id", "#service")
    if not isinstance(reference, str) or not reference.startswith("#"):
        raise DidDocumentInvalid("the id of a service of a did:peer:2 is relative, #...")
    return service


def _number_services(services: list[Document]) -> None:
    unnamed = [service for service in services if "id" not in service]
    for index, service in enumerate(unnamed):
        service["id"] = f"#service-{index}" if index else "#service"


def _renamed(value: Document, names: Mapping[str, str], types: Mapping[str, str]) -> Document:
    """Return a service with its common names abbreviated, or written out again, at any depth.

    Names that are written out already stay: the specification's own example has them.
    """
    renamed: Document = {}
    for name, member in value.items():
        new = names.get(name, name)
        if new in renamed:
            raise DidDocumentInvalid(f"a service of a did:peer:2 has {new!r:.80} twice")
        if new in ("t", "type") and isinstance(member, str):
            renamed[new] = types.get(member, member)
        else:
            renamed[new] = _renamed_value(member, names, types)
    return renamed


def _renamed_value(value: Any, names: Mapping[str, str], types: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return _renamed(value, names, types)
    if isinstance(value, list):
        return [_renamed_value(item, names, types) for item in value]
    return value


def _peer_4_parts(long_form: str) -> tuple[str, str]:
    digest, separator, encoded = long_form.removeprefix(f"{PREFIX}4").partition(":")
    if (
        len(long_form) > DID_CHARS_MAX
        or not long_form.startswith(f"{PREFIX}4z")
        or not separator
        or not encoded.startswith("z")
        or not long_form.isascii()
    ):
        raise IdentifierInvalid(f"{long_form!r:.80} is no long form of a did:peer:4, or too long")
    if _multihash(encoded) != digest:
        raise IdentifierInvalid(f"{long_form!r:.80} does not fit its own hash")
    return digest, encoded


def _multihash(text: str) -> str:
    digest = hashlib.sha256(text.encode("ascii")).digest()
    return "z" + base58.b58encode(_SHA_256 + digest).decode("ascii")


def _parse_json(raw: bytes, what: str) -> Document:
    try:
        return parse_document(raw, bytes_max=DID_CHARS_MAX)
    except DocumentInvalid as error:
        raise DidDocumentInvalid(f"{what} holds no acceptable JSON: {error}") from error


def _methods_of(document: Document) -> list[Document]:
    """Return the verification methods, those within relationships too."""
    found = []
    for name in ("verificationMethod", *_RELATIONSHIPS):
        entries = document.get(name, [])
        if not isinstance(entries, list):
            raise DidDocumentInvalid(f"{name} of a DID document is a list")
        found += [entry for entry in entries if isinstance(entry, dict)]
    return found


def _check_input(document: Document) -> None:
    """Check what numalgo 4 asks of a document before it has a DID."""
    if not document or "id" in document:
        raise DidDocumentInvalid("the document in a did:peer:4 is not empty and has no id")
    services = document.get("service", [])
    if not isinstance(services, list) or not isinstance(document.get("alsoKnownAs", []), list):
        raise DidDocumentInvalid("service and alsoKnownAs of a DID document are lists")
    for entry in (*_methods_of(document), *services):
        reference = entry.get("id") if isinstance(entry, dict) else None
        if not isinstance(reference, str) or not reference.startswith("#"):
            raise DidDocumentInvalid("everything in a did:peer:4 has a relative id, #...")
        if "type" not in entry:
            raise DidDocumentInvalid(f"{reference!r:.80} in a did:peer:4 has no type")


def _contextualized(document: Document, did: str, other_form: str) -> Document:
    filled = copy.deepcopy(document)
    filled["id"] = did
    filled["alsoKnownAs"] = [*filled.get("alsoKnownAs", []), other_form]
    for method in _methods_of(filled):
        method.setdefault("controller", did)
    return filled
