"""Resolution: who may sign what with which key, documents refused, what a resolver answers."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from credentials import resolve
from credentials.did import Did, did_key, did_peer_alias
from credentials.did_document import SIGNING_PURPOSES, DidDocument, parse_did_document
from credentials.did_peer import create_peer_2, peer_4_short
from credentials.errors import (
    CredentialsError,
    DidDocumentInvalid,
    DidMethodUnsupported,
    DidNotFound,
    IdentifierInvalid,
    MethodNotAuthorized,
)
from credentials.keys import SecretKey
from credentials.limits import DID_KEYS_CACHED, DID_OTHERS_CACHED
from credentials.multibase import encode_multibase
from credentials.multikey import encode_multikey, encode_x25519
from credentials.node_did import node_peer_4
from credentials.resolution import RESULT_CONTEXT, resolution_result
from credentials.resolve import make_resolver, resolve_offline

PUBLIC = SecretKey(bytes(range(32))).public
OTHER = SecretKey(bytes(32)).public
KEY = encode_multikey(PUBLIC)
TWIN = encode_x25519(PUBLIC.to_x25519())
DID = did_key(PUBLIC)
WEB = "did:web:example.org"


def method(**changes: Any) -> dict[str, Any]:
    entry = {"id": "#a", "type": "Multikey", "controller": WEB, "publicKeyMultibase": KEY}
    return {name: value for name, value in {**entry, **changes}.items() if value is not None}


def web(*methods: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "id": WEB,
        "verificationMethod": list(methods or (method(),)),
        "assertionMethod": ["#a"],
        **changes,
    }


def test_did_key() -> None:
    resolved = resolve_offline(DID)
    url = f"{DID}#{KEY}"
    assert resolved.did == DID
    assert set(resolved.methods) == {url}
    assert set(resolved.relationships) == set(SIGNING_PURPOSES)
    for purpose in SIGNING_PURPOSES:
        assert resolved.method(url, purpose).key == PUBLIC
    assert resolved.document["keyAgreement"] == [f"{DID}#{TWIN}"]
    assert resolved.document["verificationMethod"][0]["publicKeyMultibase"] == KEY
    # What a stranger would make of the document is what we make of the DID.
    parsed = parse_did_document(DID, resolved.document)
    assert parsed.methods == resolved.methods
    assert parsed.relationships == resolved.relationships


def test_the_alias() -> None:
    alias = did_peer_alias(PUBLIC)
    resolved = resolve_offline(alias)
    assert resolved.method(f"{alias}#key-1", "assertionMethod").key == PUBLIC
    assert resolved.document["id"] == alias
    assert resolved.document["alsoKnownAs"] == [DID]
    assert parse_did_document(alias, resolved.document).methods == resolved.methods


@pytest.mark.parametrize(
    ("url", "purpose"),
    [
        (f"{DID}#{KEY}", "keyAgreement"),
        (f"{DID}#{KEY}", "verificationMethod"),
        (f"{DID}#{KEY}", ""),
        (f"{DID}#{TWIN}", "assertionMethod"),
        (f"{DID}#{encode_multikey(OTHER)}", "assertionMethod"),
        (f"#{KEY}", "assertionMethod"),
        (DID, "assertionMethod"),
        (f"{DID}#", "assertionMethod"),
        (f"{did_peer_alias(PUBLIC)}#key-1", "assertionMethod"),
    ],
)
def test_what_is_not_listed_under_the_purpose_is_refused(url: str, purpose: str) -> None:
    with pytest.raises(MethodNotAuthorized):
        resolve_offline(DID).method(url, purpose)


def test_purposes_are_kept_apart() -> None:
    did = create_peer_2([("authentication", KEY), ("assertionMethod", encode_multikey(OTHER))])
    resolved = resolve_offline(did)
    assert resolved.method(f"{did}#key-1", "authentication").key == PUBLIC
    assert resolved.method(f"{did}#key-2", "assertionMethod").key == OTHER
    for url, purpose in ((f"{did}#key-1", "assertionMethod"), (f"{did}#key-2", "authentication")):
        with pytest.raises(MethodNotAuthorized):
            resolved.method(url, purpose)


def test_a_resolved_document_cannot_be_changed_for_the_next_one_who_asks() -> None:
    for did in (DID, did_peer_alias(PUBLIC), node_peer_4(PUBLIC)):
        first = resolve_offline(did)
        written = json.dumps(first.document)
        spoiled = first.document
        spoiled["assertionMethod"].append("did:key:z6MkEvil#z6MkEvil")
        spoiled["verificationMethod"][0]["publicKeyMultibase"] = encode_multikey(OTHER)
        assert json.dumps(resolve_offline(did).document) == written
        assert resolve_offline(did) is first
        with pytest.raises(TypeError):
            first.methods["a"] = first.methods  # type: ignore[index]
        with pytest.raises(TypeError):
            first.relationships["a"] = frozenset()  # type: ignore[index]
        with pytest.raises(AttributeError):
            first.did = "did:a:b"  # type: ignore[misc]


def test_the_callers_document_is_copied() -> None:
    document = web()
    resolved = parse_did_document(WEB, document)
    document["assertionMethod"].append("#b")
    assert resolved.document == web()


def test_caches_are_bounded() -> None:
    assert resolve._resolve_key.cache_parameters()["maxsize"] == DID_KEYS_CACHED
    assert resolve._resolve_other.cache_parameters()["maxsize"] == DID_OTHERS_CACHED
    before = resolve._resolve_key.cache_info().currsize
    with pytest.raises(CredentialsError):
        resolve_offline("did:key:zNothing")
    assert resolve._resolve_key.cache_info().currsize == before


@pytest.mark.parametrize(
    ("did", "error"),
    [
        (WEB, DidNotFound),
        ("did:example:123", DidMethodUnsupported),
        ("did:webvh:a:example.org", DidMethodUnsupported),
        ("did:peer:1zQm", DidMethodUnsupported),
        ("did:peer:5", DidMethodUnsupported),
        ("https://example.org", IdentifierInvalid),
        ("", IdentifierInvalid),
        (f"{DID}#{KEY}", IdentifierInvalid),
        ("did:web:example.org\n", IdentifierInvalid),
        ("did:example:" + "a" * 5_000, IdentifierInvalid),
    ],
)
def test_what_does_not_resolve_offline(did: str, error: type[CredentialsError]) -> None:
    with pytest.raises(error):
        resolve_offline(did)
    with pytest.raises(error):
        make_resolver()(did)


@pytest.mark.parametrize("value", [None, 7, [DID], {"id": DID}, DID.encode()])
def test_what_is_no_text_is_refused(value: Any) -> None:
    with pytest.raises(IdentifierInvalid):
        resolve_offline(value)


def test_what_the_caller_has_is_resolved_too() -> None:
    long_form = node_peer_4(PUBLIC)
    short = peer_4_short(long_form)
    resolver = make_resolver(
        long_forms={short: long_form}, documents={WEB: web(), DID: web(id=DID), "did:x:y": web()}
    )
    assert resolver(short).method(f"{short}#key-1", "authentication").key == PUBLIC
    assert resolver(WEB).method(f"{WEB}#a", "assertionMethod").key == PUBLIC
    assert resolver(WEB) is resolver(WEB)
    assert resolver(DID) is resolve_offline(DID)  # no stored document replaces the key itself
    with pytest.raises(DidDocumentInvalid, match="has the id"):
        resolver("did:x:y")
    with pytest.raises(DidNotFound):
        resolver("did:web:other.example.org")


def test_a_document_that_changes_is_read_again() -> None:
    documents = {WEB: web()}
    resolver = make_resolver(documents=documents)
    assert resolver(WEB).methods[f"{WEB}#a"].key == PUBLIC
    documents[WEB]["verificationMethod"][0]["publicKeyMultibase"] = encode_multikey(OTHER)
    assert resolver(WEB).methods[f"{WEB}#a"].key == OTHER
    documents[WEB] = web()
    assert resolver(WEB).methods[f"{WEB}#a"].key == PUBLIC
    documents[WEB]["id"] = DID
    with pytest.raises(DidDocumentInvalid):
        resolver(WEB)
    del documents[WEB]
    with pytest.raises(DidNotFound):
        resolver(WEB)


def test_a_resolver_remembers_a_bounded_number() -> None:
    dids = [f"did:web:a{number}.example.org" for number in range(DID_OTHERS_CACHED + 9)]
    documents = {did: web(method(controller=did), id=did) for did in dids}
    resolver = make_resolver(documents=documents)
    for did in (*dids, *dids):
        assert resolver(did).methods[f"{did}#a"].key == PUBLIC


JWK = {"kty": "OKP", "crv": "Ed25519", "x": encode_multibase("u", PUBLIC.raw)[1:]}


@pytest.mark.parametrize(
    "entry",
    [
        method(),
        method(id=f"{WEB}#a"),
        method(type="Ed25519VerificationKey2020"),
        method(
            type="Ed25519VerificationKey2018",
            publicKeyMultibase=None,
            publicKeyBase58=encode_multibase("z", PUBLIC.raw)[1:],
        ),
        method(type="JsonWebKey", publicKeyMultibase=None, publicKeyJwk=JWK),
        method(type="JsonWebKey2020", publicKeyMultibase=None, publicKeyJwk={**JWK, "kid": "a"}),
    ],
)
def test_formats_of_ed25519_keys(entry: dict[str, Any]) -> None:
    for document in (
        web(entry),
        web(entry, assertionMethod=[f"{WEB}#a"]),
        {"id": WEB, "assertionMethod": [entry]},
    ):
        resolved = parse_did_document(WEB, document)
        assert resolved.method(f"{WEB}#a", "assertionMethod").key == PUBLIC
        assert not resolved.relationships["authentication"]


def test_times_of_a_method() -> None:
    entry = method(revoked="2026-11-21T10:00:00Z", expires="2026-11-21T10:00:00+01:00")
    found = parse_did_document(WEB, web(entry)).methods[f"{WEB}#a"]
    assert found.revoked_s == 1795255200.0
    assert found.expires_s == 1795255200.0 - 3600


@pytest.mark.parametrize(
    "entry",
    [
        method(publicKeyMultibase=TWIN),
        method(publicKeyMultibase=None),
        method(type="EcdsaSecp256k1VerificationKey2019"),
        method(type="JsonWebKey", publicKeyMultibase=None, publicKeyJwk={**JWK, "crv": "X25519"}),
        method(type="Multikey", publicKeyMultibase=None, publicKeyJwk=JWK),
        method(type="JsonWebKey"),
        method(controller="did:web:other.example.org"),
        method(id="did:web:other.example.org#a"),
        method(id=f"{WEB}:deeper#a"),
    ],
)
def test_methods_that_are_left_out(entry: dict[str, Any]) -> None:
    document = web(entry, assertionMethod=[entry["id"]])
    resolved = parse_did_document(WEB, document)
    assert not resolved.methods
    assert resolved.document == document
    for url in resolved.relationships["assertionMethod"]:
        with pytest.raises(MethodNotAuthorized, match="no Ed25519 key"):
            resolved.method(url, "assertionMethod")


SMALL = "z" + encode_multibase("z", b"\xed\x01\x01" + bytes(31))[1:]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "JSON object"),
        (None, "JSON object"),
        ({}, "has the id None"),
        (web(id=DID), "has the id"),
        (web(id=[WEB]), "has the id"),
        (web(controller=7), "controller"),
        (web(controller=[WEB, 7]), "controller"),
        (web(controller=[WEB] * 65), "controller"),
        (web(verificationMethod={}), "is a list of at most 64"),
        (web(assertionMethod="#a"), "is a list of at most 64"),
        (web(assertionMethod=["#a"] * 65), "is a list of at most 64"),
        (web(keyAgreement=["#a"] * 65), "is a list of at most 64"),
        (web(*[method(id=f"#{index}") for index in range(65)]), "is a list of at most 64"),
        (web(service=["a"]), "service"),
        (web(service=[{}] * 65), "is a list of at most 64"),
        (web(assertionMethod=[7]), "is an object"),
        (web(assertionMethod=[""]), "named by a DID URL"),
        (web(assertionMethod=["#" + "a" * 6_000]), "named by a DID URL"),
        (web(verificationMethod=["#a"]), "is an object"),
        (web(method(), method(publicKeyMultibase=encode_multikey(OTHER))), "there twice"),
        (web(method(), method(id=f"{WEB}#a")), "there twice"),
        (web(keyAgreement=[method()]), "there twice"),
        (web(method(id=None)), "named by a DID URL"),
        (web(method(controller=None)), "no controller or type"),
        (web(method(controller=[WEB])), "no controller or type"),
        (web(method(type=None)), "no controller or type"),
        (web(method(type=["Multikey"])), "no controller or type"),
        (web(method(publicKeyMultibase=7)), "is a text"),
        (web(method(publicKeyMultibase="u" + KEY)), "does not begin with z"),
        (web(method(publicKeyMultibase=KEY + "2")), "refused"),
        (web(method(publicKeyMultibase=SMALL)), "prime order"),
        (web(method(publicKeyJwk=JWK)), "has one key, not"),
        (web(method(secretKeyMultibase="z3u2")), "publishes a secret key"),
        (web(method(type="JsonWebKey", publicKeyMultibase=None, publicKeyJwk="a")), "is an object"),
        (
            web(method(type="JsonWebKey", publicKeyMultibase=None, publicKeyJwk={**JWK, "d": "A"})),
            "publishes a secret key",
        ),
        (
            web(method(type="JsonWebKey", publicKeyMultibase=None, publicKeyJwk={**JWK, "x": 7})),
            "base64url",
        ),
        (
            web(
                method(type="JsonWebKey", publicKeyMultibase=None, publicKeyJwk={**JWK, "x": "AA"})
            ),
            "32 bytes",
        ),
        (web(method(revoked="yesterday")), "refused"),
        (web(method(revoked=7)), "is a time"),
        (web(method(expires="2026-11-21T10:00:00")), "refused"),
        (web(extra=float("inf")), "refused"),
        (web(extra="\ud800"), "refused"),
        (web(extra={7: 8}), "refused"),
    ],
)
def test_documents_refused(document: Any, message: str) -> None:
    with pytest.raises(DidDocumentInvalid, match=message):
        parse_did_document(WEB, document)


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(
    st.dictionaries(
        st.sampled_from(
            ["verificationMethod", "controller", "service", "alsoKnownAs", *SIGNING_PURPOSES]
        ),
        st.one_of(
            json_values,
            st.lists(
                st.one_of(
                    st.just("#a"),
                    st.dictionaries(
                        st.sampled_from(list(method(revoked="a", publicKeyJwk={}, expires=""))),
                        st.one_of(json_values, st.sampled_from([KEY, "#a", WEB, "Multikey"])),
                    ),
                ),
                max_size=3,
            ),
        ),
    )
)
def test_any_document_is_read_or_refused(members: dict[str, Any]) -> None:
    document = {"id": WEB, **members}
    with contextlib.suppress(DidDocumentInvalid):
        assert isinstance(parse_did_document(WEB, document), DidDocument)


OLD = 'application/ld+json;profile="https://w3id.org/did-resolution"'
SUITE_DID = Did("did:key:z6MktKwz7Ge1Yxzr4JHavN33wiwa8y81QdcMRLXQsrH9T53b")
SUITE_TWIN = "z6LSfHfAMAopsuBxaBzvp51GXrPf38Az13j2fmwqadbwwrzJ"


# What the did:key conformance suite asks, in its words and ours.
@pytest.mark.parametrize(
    ("did_url", "options", "place", "error"),
    [
        ("notDid:key:z6Mk", {}, "Resolution", "invalidDid"),
        ("did:experimental:z6Mk", {}, "Resolution", "methodNotSupported"),
        (SUITE_DID.replace("did:key:", "did:key:-4:"), {}, "Resolution", "invalidDid"),
        (SUITE_DID.replace("did:key:z", "did:key:"), {}, "Resolution", "invalidDid"),
        ("did:key:@", {}, "Resolution", "invalidDid"),
        ("did:key:zTjsVPtY", {}, "Resolution", "invalidPublicKeyLength"),
        (did_key(PUBLIC)[:8] + SMALL, {}, "Resolution", "invalidPublicKey"),
        (SUITE_DID + "/^bar^/?query=`#z6Mk", {}, "Dereferencing", "invalidDidUrl"),
        (SUITE_DID, {"key_format": "unknown"}, "Resolution", "unsupportedPublicKeyType"),
        (
            f"{SUITE_DID}#{SUITE_DID[8:]}",
            {"key_format": "Ed25519VerificationKey2018"},
            "Dereferencing",
            "invalidPublicKeyType",
        ),
        (
            f"{SUITE_DID}#{SUITE_TWIN}",
            {"key_format": "Ed25519VerificationKey2018", "experimental": False},
            "Dereferencing",
            "invalidPublicKeyType",
        ),
        ("did:web:example.org", {}, "Resolution", "notFound"),
        (f"{SUITE_DID}#nothing", {}, "Dereferencing", "notFound"),
        (f"{SUITE_DID}/a", {}, "Dereferencing", "notFound"),
        (f"{SUITE_DID}?a=b", {}, "Dereferencing", "notFound"),
        (f"{SUITE_DID}#", {}, "Dereferencing", "notFound"),
        ("", {}, "Resolution", "invalidDid"),
        ("did:key:" + "z" * 9_999, {}, "Resolution", "invalidDid"),
        ("/" * 9_999, {}, "Dereferencing", "invalidDidUrl"),
    ],
)
def test_errors_of_resolution(
    did_url: str, options: dict[str, Any], place: str, error: str
) -> None:
    old = resolution_result(did_url, accept=OLD, **options)
    assert old.status >= 400
    assert old.body["@context"] == RESULT_CONTEXT
    assert old.body["didDocument"] == old.body["didDocumentMetadata"] == {}
    assert old.body[f"did{place}Metadata"]["error"] == error
    new = resolution_result(did_url, **options)
    assert new.status == old.status
    assert new.content_type == "application/did-resolution"
    assert new.body["didDocument"] is None
    assert new.body[f"did{place}Metadata"]["error"]["title"] == error
    assert new.body[f"did{place}Metadata"]["error"]["type"].startswith("https://")


def test_statuses_of_resolution() -> None:
    statuses = {
        "did:experimental:a": 501,
        "did:web:example.org": 404,
        "did:key:@": 400,
        node_peer_4(PUBLIC)[:-1]: 400,
        "did:peer:2.S" + encode_multibase("u", b"[]")[1:]: 500,
    }
    for did, status in statuses.items():
        assert resolution_result(did).status == status


def test_a_resolution_result() -> None:
    result = resolution_result(SUITE_DID, accept="application/did-resolution")
    assert (result.status, result.content_type) == (200, "application/did-resolution")
    assert result.body == {
        "@context": RESULT_CONTEXT,
        "didDocument": resolve_offline(SUITE_DID).document,
        "didResolutionMetadata": {"contentType": "application/did"},
        "didDocumentMetadata": {},
    }
    old = resolution_result(SUITE_DID, accept=OLD)
    assert old.content_type == "application/ld+json"
    assert old.body["didDocument"] == result.body["didDocument"]


@pytest.mark.parametrize("accept", ["application/did", "application/did+ld+json; q=1, text/html"])
def test_a_bare_document(accept: str) -> None:
    result = resolution_result(SUITE_DID, accept=accept)
    assert result.content_type == accept.partition(";")[0]
    assert result.body == resolve_offline(SUITE_DID).document
    failed = resolution_result("did:key:@", accept=accept)
    assert failed.content_type == "application/did-resolution"


def test_what_else_is_accepted() -> None:
    for accept in (None, "", "*/*", "text/html, */*;q=0.8", "application/json"):
        assert resolution_result(SUITE_DID, accept=accept).status == 200
    for accept in ("text/html", "application/xml, image/png", "a" * 2_000):
        assert resolution_result(SUITE_DID, accept=accept).status == 406


def test_dereferencing_a_method() -> None:
    result = resolution_result(f"{SUITE_DID}#{SUITE_TWIN}", accept=OLD)
    assert result.status == 200
    assert result.body["didDocument"]["controller"] == SUITE_DID
    assert result.body["didDocument"]["publicKeyMultibase"] == SUITE_TWIN
    assert "didDereferencingMetadata" in result.body
    long_form = node_peer_4(PUBLIC)
    entry = resolution_result(f"{long_form}#key-1").body["didDocument"]
    assert entry["publicKeyMultibase"] == KEY


@pytest.mark.parametrize(
    ("key_format", "kinds", "material"),
    [
        ("Multikey", {"Multikey"}, "publicKeyMultibase"),
        (
            "Ed25519VerificationKey2020",
            {"Ed25519VerificationKey2020", "X25519KeyAgreementKey2020"},
            "publicKeyMultibase",
        ),
        ("JsonWebKey2020", {"JsonWebKey2020"}, "publicKeyJwk"),
    ],
)
def test_key_formats(key_format: str, kinds: set[str], material: str) -> None:
    document = resolution_result(DID, key_format=key_format).body["didDocument"]
    assert {entry["type"] for entry in document["verificationMethod"]} == kinds
    assert all(material in entry for entry in document["verificationMethod"])
    resolved = parse_did_document(DID, document)
    assert resolved.methods == resolve_offline(DID).methods
    assert resolve_offline(DID).document["verificationMethod"][0]["type"] == "Multikey"


def test_a_key_format_is_did_keys_affair() -> None:
    long_form = node_peer_4(PUBLIC)
    assert resolution_result(long_form, key_format="unknown").status == 200


@given(st.text(max_size=60), st.one_of(st.none(), st.text(max_size=40)))
def test_resolution_answers_whatever_it_is_asked(text: str, accept: str | None) -> None:
    for did_url in (text, "did:" + text, DID + text, "did:peer:2." + text):
        result = resolution_result(did_url, accept=accept)
        assert result.status in (200, 400, 404, 406, 500, 501)
        json.dumps(result.body)
