"""From a DID to its checked document, without I/O.

Resolves what carries its own key or document (did:key; did:peer 0, 2 and the long form of 4; the
reference network's alias), and with `make_resolver` what the caller already has. Fetches nothing:
`kwaai.net.did_web` fetches. W3C DID Resolution 1.0; its result shapes are in
`credentials.resolution`.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias

from credentials.did import (
    KEY_PREFIX,
    Did,
    check_did,
    did_key,
    is_alias,
    parse_did,
    verification_method,
)
from credentials.did_document import (
    KEY_AGREEMENT,
    SIGNING_PURPOSES,
    DidDocument,
    VerificationMethod,
    key_did_document,
    parse_did_document,
)
from credentials.did_peer import (
    CONTEXTS,
    peer_2_document,
    peer_3_document,
    peer_4_document,
)
from credentials.document import Document
from credentials.errors import DidMethodUnsupported, DidNotFound, IdentifierInvalid
from credentials.keys import PublicKey
from credentials.limits import DID_CHARS_MAX, DID_KEYS_CACHED, DID_OTHERS_CACHED
from credentials.multikey import encode_multikey, encode_x25519

Resolver: TypeAlias = Callable[[str], DidDocument]
"""Raises IdentifierInvalid, KeyInvalid, DidDocumentInvalid for a DID that cannot be one's,
DidMethodUnsupported for a method that is not resolved, DidNotFound for a document nobody has.
"""

_NONE: Mapping[str, str] = MappingProxyType({})
_NO_DOCUMENTS: Mapping[str, Document] = MappingProxyType({})


def resolve_offline(did: str) -> DidDocument:
    """Resolve a DID that needs nothing but itself. Raises as `Resolver` says."""
    if not isinstance(did, str) or len(did) > DID_CHARS_MAX:
        raise IdentifierInvalid(f"a DID is a text of at most {DID_CHARS_MAX} characters")
    return _resolve_key(did) if did.startswith(KEY_PREFIX) else _resolve_other(did)


def make_resolver(
    *, long_forms: Mapping[str, str] = _NONE, documents: Mapping[str, Document] = _NO_DOCUMENTS
) -> Resolver:
    """Return a resolver that knows what the caller has, besides `resolve_offline`.

    `long_forms`: of short forms of did:peer:4 and of did:peer:3, the DIDs they stand for; they are
    checked against the hash. `documents`: of other DIDs, for instance did:web; each is checked when
    it is asked for, and again when it has changed. What carries its own document is never looked
    up. The mappings may grow and change; several threads may resolve at once.
    """
    checked: dict[str, tuple[str | Document, DidDocument]] = {}

    def resolve(did: str) -> DidDocument:
        try:
            return resolve_offline(did)
        except (DidNotFound, DidMethodUnsupported):
            had = long_forms.get(did)
            source = documents.get(did) if had is None else had
            if source is None:
                raise
        known = checked.get(did)
        if known is not None and known[0] == source:
            return known[1]
        resolved = (
            _resolve_short(did, source)
            if isinstance(source, str)
            else parse_did_document(did, source)
        )
        if len(checked) >= DID_OTHERS_CACHED:
            checked.clear()
        checked[did] = (copy.deepcopy(source), resolved)
        return resolved

    return resolve


def key_document(did: Did, public: PublicKey) -> Document:
    """Return the document of a DID that is one key: did:key, did:peer:0, the alias.

    The key has every signing purpose; its X25519 twin is for key agreement.
    """
    signing = verification_method(did)
    twin = encode_x25519(public.to_x25519())
    agreement = f"{did}#key-2" if is_alias(did) else f"{did}#{twin}"
    document: Document = {"@context": list(CONTEXTS), "id": did}
    if is_alias(did):
        document["alsoKnownAs"] = [did_key(public)]
    document["verificationMethod"] = [
        _multikey_method(signing, did, encode_multikey(public)),
        _multikey_method(agreement, did, twin),
    ]
    for purpose in SIGNING_PURPOSES:
        document[purpose] = [signing]
    document[KEY_AGREEMENT] = [agreement]
    return document


def _multikey_method(url: str, did: str, multikey: str) -> Document:
    return {"id": url, "type": "Multikey", "controller": did, "publicKeyMultibase": multikey}


@functools.lru_cache(maxsize=DID_KEYS_CACHED)
def _resolve_key(did: str) -> DidDocument:
    return _one_key(Did(did))


@functools.lru_cache(maxsize=DID_OTHERS_CACHED)
def _resolve_other(did: str) -> DidDocument:
    if is_alias(did) or did.startswith("did:peer:0z"):
        return _one_key(Did(did))
    if did.startswith("did:peer:2."):
        return parse_did_document(did, peer_2_document(did))
    if did.startswith("did:peer:4z") and ":" in did.removeprefix("did:peer:4"):
        return parse_did_document(did, peer_4_document(did, did))
    check_did(did)
    if did.startswith(("did:peer:4z", "did:peer:3z")):
        raise DidNotFound(f"{did:.80} is a short form, and nobody has told its long form yet")
    if did.startswith("did:web:"):
        raise DidNotFound(f"the document of {did:.80} has to be fetched first")
    raise DidMethodUnsupported(f"{did:.80} is of a method that is not resolved here")


def _one_key(did: Did) -> DidDocument:
    public = parse_did(did)
    method = VerificationMethod(verification_method(did), did, public)
    return key_did_document(did, method, functools.partial(key_document, did, public))


def _resolve_short(did: str, long_form: str) -> DidDocument:
    document = (
        peer_3_document(did, long_form)
        if did.startswith("did:peer:3z")
        else peer_4_document(did, long_form)
    )
    return parse_did_document(did, document)
