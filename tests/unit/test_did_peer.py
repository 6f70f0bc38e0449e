"""did:peer 0, 2, 3, 4: the specification's examples, two other implementations, what is refused.

Of peer-did-python's documents the keys and relationships are compared: they are older than the
rules for ids, so those cannot agree.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import base58
import did_peer_2
import did_peer_4
import pytest
from hypothesis import given
from hypothesis import strategies as st

from credentials.did import did_key, parse_did
from credentials.did_document import SIGNING_PURPOSES
from credentials.did_peer import (
    PURPOSES,
    create_peer_0,
    create_peer_2,
    create_peer_4,
    peer_2_document,
    peer_3_document,
    peer_3_of,
    peer_4_document,
    peer_4_short,
)
from credentials.document import encode_document
from credentials.errors import (
    CredentialsError,
    DidDocumentInvalid,
    DidMethodUnsupported,
    DidNotFound,
    DocumentInvalid,
    IdentifierInvalid,
)
from credentials.keys import SecretKey
from credentials.limits import DID_CHARS_MAX
from credentials.multibase import encode_multibase
from credentials.multikey import encode_multikey, encode_x25519
from credentials.node_did import node_document, node_peer_2, node_peer_4, node_service
from credentials.resolve import make_resolver, resolve_offline

PUBLIC = SecretKey(bytes(range(32))).public
KEY = encode_multikey(PUBLIC)
TWIN = encode_x25519(PUBLIC.to_x25519())
SERVICE = {"type": "DIDCommMessaging", "serviceEndpoint": {"uri": "http://a.b", "accept": ["c"]}}


def spec(vectors: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((vectors / "did-peer/spec_vectors.json").read_bytes())
    return loaded


def test_numalgo_0_of_the_specification(vectors: Path) -> None:
    for case in spec(vectors)["numalgo0"]:
        public = parse_did(case["equivalent_did_key"])
        assert create_peer_0(public) == case["did"]
        document = resolve_offline(case["did"])
        assert {method.key for method in document.methods.values()} == {public}
        for purpose in SIGNING_PURPOSES:
            assert document.relationships[purpose] == set(document.methods)
        ours = json.dumps(document.document).replace(case["did"], "DID")
        key = json.dumps(resolve_offline(case["equivalent_did_key"]).document)
        assert ours == key.replace(case["equivalent_did_key"], "DID")


def test_numalgo_2_and_3_of_the_specification(vectors: Path) -> None:
    for case in spec(vectors)["numalgo2_to_3"]:
        assert peer_3_of(case["did2"]) == case["did3"]
        document = peer_2_document(case["did2"])
        assert document == did_peer_2.resolve(case["did2"])
        short = peer_3_document(case["did3"], case["did2"])
        assert short == did_peer_2.resolve_peer3(case["did2"], case["did3"])
        resolver = make_resolver(long_forms={case["did3"]: case["did2"]})
        assert resolver(case["did3"]).document == short
        with pytest.raises(DidNotFound):
            resolve_offline(case["did3"])


def test_numalgo_2_example_document_of_the_specification(vectors: Path) -> None:
    text = (vectors / "did-peer/spec/spec/core.md").read_text("utf-8")
    start = text.index("{", text.index("Example Peer DID 2"))
    block = text[start : text.index("```", start)].replace('multikey/v1",', 'multikey/v1"')
    expected = json.loads(block)
    written = peer_2_document(expected["id"])
    assert written == expected
    created = create_peer_2(
        [
            ("authentication", expected["verificationMethod"][0]["publicKeyMultibase"]),
            ("keyAgreement", expected["verificationMethod"][1]["publicKeyMultibase"]),
        ],
        [
            {name: value for name, value in service.items() if name != "id"}
            for service in expected["service"]
        ],
    )
    assert created == expected["id"]


def test_numalgo_2_unabbreviated_services_are_read() -> None:
    service = {"t": "dm", "s": {"uri": "http://a.b", "accept": ["c"], "routingKeys": ["d"]}}
    did = f"did:peer:2.V{KEY}.S" + encode_multibase("u", json.dumps(service).encode())[1:]
    (read,) = peer_2_document(did)["service"]
    assert read == {
        "id": "#service",
        "type": "DIDCommMessaging",
        "serviceEndpoint": {"uri": "http://a.b", "accept": ["c"], "routingKeys": ["d"]},
    }


def test_numalgo_4_of_the_specification(vectors: Path) -> None:
    (case,) = spec(vectors)["numalgo4"]
    assert peer_4_short(case["long"]) == case["short"]
    long_document = peer_4_document(case["long"], case["long"])
    assert long_document == did_peer_4.resolve(case["long"])
    assert peer_4_document(case["short"], case["long"]) == did_peer_4.resolve_short(case["long"])
    assert create_peer_4(did_peer_4.decode(case["long"])) == case["long"]
    resolver = make_resolver(long_forms={case["short"]: case["long"]})
    (method,) = resolver(case["short"]).methods.values()
    assert method.id == f"{case['short']}#6MkrCD1c"
    assert encode_multikey(method.key) == "z6MkrCD1csqtgdj8sjrsu8jxcbeyP6m7LiK87NzhfWqio5yr"


@pytest.mark.parametrize("name", ["0", "1", "2", "3", "4", "5"])
def test_numalgo_4_examples_of_did_peer_4(vectors: Path, name: str) -> None:
    document = json.loads(
        (vectors / f"did-peer/did-peer-4/tests/examples/{name}.json").read_bytes()
    )
    did = create_peer_4(document)
    assert did == did_peer_4.encode(document)
    short = peer_4_short(did)
    assert short == did_peer_4.long_to_short(did) == did_peer_4.encode_short(document)
    assert peer_4_document(did, did) == did_peer_4.resolve(did)
    assert peer_4_document(short, did) == did_peer_4.resolve_short(did)
    resolved = resolve_offline(did)
    used = {"0": 1, "1": 1, "2": 2, "3": 0, "4": 1, "5": 0}[name]
    # 3 lists its key under the `publicKey` of 2019, 5 has a key of secp256k1
    assert len(resolved.methods) == used


LIST_OF_SERVICES = "PEER_DID_NUMALGO_2_2_SERVICES"  # a JSON list, which the specification forbids


def test_peer_did_python_vectors(vectors: Path) -> None:
    cases = json.loads((vectors / "did-peer/peer-did-python/vectors.json").read_bytes())
    dids = {name: value for name, value in cases.items() if isinstance(value, str)}
    documents = [value for name, value in cases.items() if name not in dids]
    assert len(dids) == 5
    assert len(documents) == 9
    with pytest.raises(DidDocumentInvalid, match="not a JSON object"):
        resolve_offline(dids.pop(LIST_OF_SERVICES))
    compared = 0
    for did in dids.values():
        ours = resolve_offline(did)
        for theirs in (document for document in documents if document["id"] == did):
            compared += 1
            # V is authentication alone since; a numalgo 0 has a key for agreement since
            purposes = (
                SIGNING_PURPOSES
                if did.startswith("did:peer:0")
                else ("authentication", "keyAgreement")
            )
            assert _rights(ours.document, purposes) == _rights(theirs, purposes)
            assert _endpoints(ours.document) == _endpoints(theirs)
    assert compared == 8


def _rights(document: dict[str, Any], purposes: tuple[str, ...]) -> set[tuple[str, bytes]]:
    """Which raw key has which relationship, whatever the ids and formats."""
    keys = {entry["id"]: _raw(entry) for entry in document["verificationMethod"]}
    return {
        (purpose, keys[reference])
        for purpose in purposes
        for reference in document.get(purpose, [])
    }


def _raw(entry: dict[str, Any]) -> bytes:
    if "publicKeyMultibase" in entry:
        return base58.b58decode(entry["publicKeyMultibase"][1:])[2:]
    if "publicKeyBase58" in entry:
        return base58.b58decode(entry["publicKeyBase58"])
    return did_peer_2.ServiceEncoder()._b64_to_bytes(entry["publicKeyJwk"]["x"])


def _endpoints(document: dict[str, Any]) -> list[Any]:
    return [service["serviceEndpoint"] for service in document.get("service", [])]


def test_numalgo_1_of_the_specification_is_not_read(vectors: Path) -> None:
    files = sorted((vectors / "did-peer/spec/test-data/level-1").glob("*.txt"))
    assert len(files) == 13
    for file in files:
        for line in file.read_text("utf-8").split():
            expected = IdentifierInvalid if file.name.startswith("bad-") else DidMethodUnsupported
            with pytest.raises((expected, DidMethodUnsupported)):
                resolve_offline(line)


names = st.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=6)
scalars = st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.text("abc:/é ", max_size=9))
values = st.recursive(scalars, lambda inner: st.one_of(st.lists(inner, max_size=3)), max_leaves=6)
endpoints = st.one_of(
    st.just("http://example.com/endpoint"),
    st.fixed_dictionaries(
        {"uri": st.just("didcomm:x")},
        optional={
            "accept": st.lists(st.just("didcomm/v2"), max_size=2),
            "routingKeys": st.lists(st.just("did:a:b#c"), max_size=2),
            "other": values,
        },
    ),
)
services = st.lists(
    st.fixed_dictionaries(
        {
            "type": st.sampled_from(["DIDCommMessaging", "did-communication", "LinkedDomains"]),
            "serviceEndpoint": endpoints,
        },
        optional={"id": names.map("#{}".format), "priority": values},
    ),
    max_size=3,
)
keys = st.lists(
    st.tuples(st.sampled_from(sorted(PURPOSES.values())), st.sampled_from([KEY, TWIN])), max_size=5
)


@given(keys, services)
def test_numalgo_2_agrees_with_did_peer_2(
    pairs: list[tuple[str, str]], offered: list[dict[str, Any]]
) -> None:
    if not pairs and not offered:
        return
    did = create_peer_2(pairs, offered)
    letters = {purpose: letter for letter, purpose in PURPOSES.items()}
    theirs = did_peer_2.generate(
        [did_peer_2.KeySpec(did_peer_2.PurposeCode(letters[p]), key) for p, key in pairs],
        copy.deepcopy(offered),
    )
    if did.isascii() and json.dumps(offered).count("\\u") == 0:
        assert did == theirs  # they escape other letters
    for one in (did, theirs):
        assert peer_2_document(one) == did_peer_2.resolve(one)
        assert peer_3_of(one) == did_peer_2.peer2to3(one)
        short = peer_3_of(one)
        assert peer_3_document(short, one) == did_peer_2.resolve_peer3(one, short)
        resolve_offline(one)


def input_documents() -> st.SearchStrategy[dict[str, Any]]:
    entry = st.fixed_dictionaries(
        {"id": names.map("#{}".format), "type": st.just("Multikey")},
        optional={"publicKeyMultibase": st.sampled_from([KEY, TWIN]), "x": values},
    )
    reference = st.one_of(names.map("#{}".format), entry)
    return st.fixed_dictionaries(
        {"@context": st.just("https://www.w3.org/ns/did/v1")},
        optional={
            "verificationMethod": st.lists(entry, max_size=3),
            "authentication": st.lists(reference, max_size=3),
            "keyAgreement": st.lists(reference, max_size=3),
            "alsoKnownAs": st.lists(st.just("did:a:b"), max_size=2),
            "service": st.lists(
                st.fixed_dictionaries(
                    {"id": names.map("#{}".format), "type": names, "serviceEndpoint": endpoints}
                ),
                max_size=2,
            ),
            "other": values,
        },
    )


@given(input_documents())
def test_numalgo_4_agrees_with_did_peer_4(document: dict[str, Any]) -> None:
    before = copy.deepcopy(document)
    did = create_peer_4(document)
    assert document == before
    theirs = did_peer_4.encode(document)
    if encode_document(document).isascii():
        assert did == theirs  # they escape other letters
    for one in (did, theirs):
        short = peer_4_short(one)
        assert short == did_peer_4.long_to_short(one)
        assert peer_4_document(one, one) == did_peer_4.resolve(one)
        assert peer_4_document(short, one) == did_peer_4.resolve_short(one)
        try:
            resolve_offline(one)
        except DidDocumentInvalid as error:
            refused = str(error)
            assert "is there twice" in refused


def test_a_nodes_own() -> None:
    service = node_service(PUBLIC, ["/ip4/192.0.2.1/tcp/4001"])
    for did in (
        node_peer_2(PUBLIC, services=[service]),
        node_peer_4(PUBLIC, services=[service]),
        node_peer_2(PUBLIC),
        node_peer_4(PUBLIC),
    ):
        resolved = resolve_offline(did)
        url = f"{did}#key-1"
        assert resolved.method(url, "authentication").key == PUBLIC
        assert resolved.relationships["capabilityInvocation"] == set()
        assert resolved.document.get("service", [service]) == [service]
    document = node_document(PUBLIC, services=[service])
    assert document["id"] == did_key(PUBLIC)
    assert document["service"][0]["id"] == f"{did_key(PUBLIC)}#node"
    assert "service" not in node_document(PUBLIC)


def encoded_service(text: str) -> str:
    return f"did:peer:2.V{KEY}.S" + encode_multibase("u", text.encode())[1:]


@pytest.mark.parametrize(
    ("did", "error", "message"),
    [
        ("did:peer:2", DidMethodUnsupported, "not resolved"),
        ("did:peer:2.", IdentifierInvalid, "no elements like"),
        (f"did:peer:2.V{KEY}.", IdentifierInvalid, "no elements like"),
        (f"did:peer:2.V{KEY}..V{KEY}", IdentifierInvalid, "no elements like"),
        (f"did:peer:2.X{KEY}", IdentifierInvalid, "no elements like"),
        (f"did:peer:2.v{KEY}", IdentifierInvalid, "no elements like"),
        ("did:peer:2.V6Mk", IdentifierInvalid, "no elements like"),
        ("did:peer:2.Vz0", IdentifierInvalid, "base58"),
        ("did:peer:2.Vz6Mk", DidDocumentInvalid, "holds"),
        (f"did:peer:2.V{KEY}#key-1", IdentifierInvalid, "base58"),
        (f"did:peer:2.V{KEY}.S", DidDocumentInvalid, "JSON"),
        (f"did:peer:2.V{KEY}.S!", IdentifierInvalid, "characters"),
        (f"did:peer:2.V{KEY}.SeyJ0IjoiZG0ifQ==", IdentifierInvalid, "characters"),
        (encoded_service("[]"), DidDocumentInvalid, "not a JSON object"),
        (encoded_service("{"), DidDocumentInvalid, "not JSON"),
        (encoded_service('{"t":"a","t":"b"}'), DidDocumentInvalid, "JSON"),
        (encoded_service('{"t":"a","type":"b"}'), DidDocumentInvalid, "'type' twice"),
        (encoded_service('{"id":7}'), DidDocumentInvalid, "relative"),
        (encoded_service('{"id":"did:a:b#c"}'), DidDocumentInvalid, "relative"),
        (encoded_service("[" * 60), DidDocumentInvalid, "JSON"),
        (encoded_service('{"a":' * 40 + "1" + "}" * 40), DidDocumentInvalid, "JSON"),
        ("did:peer:2" + f".V{KEY}" * 79, IdentifierInvalid, "too many"),
        ("did:peer:2" + f".V{KEY}" * 200, IdentifierInvalid, "at most 4096"),
        ("did:peer:2é", IdentifierInvalid, "no DID"),
        ("did:peer:3zQmS19jtYDvGtKVrJhQnRFpBQAx3pJ9omx2HpNrcXFuRCz9", DidNotFound, "short form"),
        ("did:peer:4z", DidNotFound, "short form"),
        ("did:peer:4z:z", IdentifierInvalid, "its own hash"),
        ("did:peer:4z:", IdentifierInvalid, "no long form"),
        ("did:peer:4z:é", IdentifierInvalid, "no long form"),
        ("did:peer:0z6LSbysY2xFMRpGMhb7tFTLMpeuPRaqaWM1yECx2AtzE3KCc", IdentifierInvalid, "X25519"),
    ],
)
def test_resolution_refused(did: str, error: type[CredentialsError], message: str) -> None:
    with pytest.raises(error, match=message):
        resolve_offline(did)


def peer_4(raw: bytes, codec: bytes = b"\x80\x04") -> str:
    encoded = did_peer_4._hash_encoded_doc  # its hash over a text of ours
    text = "z" + base58.b58encode(codec + raw).decode()
    return f"did:peer:4{encoded(text)}:{text}"


@pytest.mark.parametrize(
    ("did", "error", "message"),
    [
        (peer_4(b"{}"), DidDocumentInvalid, "not empty and has no id"),
        (peer_4(b'{"id":"did:a:b"}'), DidDocumentInvalid, "not empty and has no id"),
        (peer_4(b"[]"), DidDocumentInvalid, "not a JSON object"),
        (peer_4(b'{"a":1,"a":2}'), DidDocumentInvalid, "JSON"),
        (peer_4(b'{"a":NaN}'), DidDocumentInvalid, "JSON"),
        (peer_4(b"\xff"), DidDocumentInvalid, "JSON"),
        (peer_4(b'{"a":1}', b"\x01\x55"), IdentifierInvalid, "something else than JSON"),
        (peer_4(b'{"service":{}}'), DidDocumentInvalid, "are lists"),
        (peer_4(b'{"alsoKnownAs":"a"}'), DidDocumentInvalid, "are lists"),
        (peer_4(b'{"verificationMethod":{}}'), DidDocumentInvalid, "is a list"),
        (peer_4(b'{"verificationMethod":[{"type":"a"}]}'), DidDocumentInvalid, "relative id"),
        (
            peer_4(b'{"authentication":[{"id":"did:a:b#c","type":"a"}]}'),
            DidDocumentInvalid,
            "relative id",
        ),
        (peer_4(b'{"verificationMethod":[{"id":"#a"}]}'), DidDocumentInvalid, "no type"),
        (peer_4(b'{"service":["a"]}'), DidDocumentInvalid, "relative id"),
        (peer_4(b'{"a":1}')[:-1], IdentifierInvalid, "its own hash"),
        (peer_4(b'{"a":1}').replace("did:peer:4zQm", "did:peer:4zQn"), IdentifierInvalid, "hash"),
    ],
)
def test_numalgo_4_refused(did: str, error: type[CredentialsError], message: str) -> None:
    with pytest.raises(error, match=message):
        resolve_offline(did)


def test_a_long_form_of_another_short_form_is_refused() -> None:
    one, other = node_peer_4(PUBLIC), create_peer_4({"a": 1})
    resolver = make_resolver(long_forms={peer_4_short(one): other})
    with pytest.raises(IdentifierInvalid, match="not the short form"):
        resolver(peer_4_short(one))
    peer_2 = node_peer_2(PUBLIC)
    with pytest.raises(IdentifierInvalid, match="not the hash"):
        peer_3_document(peer_3_of(peer_2), create_peer_2([("authentication", KEY)]))


@pytest.mark.parametrize(
    ("document", "error"),
    [
        ({}, DidDocumentInvalid),
        ({"id": "did:a:b"}, DidDocumentInvalid),
        ({"a": float("nan")}, DocumentInvalid),
        ({"verificationMethod": [{"id": "key", "type": "Multikey"}]}, DidDocumentInvalid),
        ({"a": "b" * DID_CHARS_MAX}, IdentifierInvalid),
    ],
)
def test_nothing_is_created_that_does_not_resolve(
    document: dict[str, Any], error: type[CredentialsError]
) -> None:
    with pytest.raises(error):
        create_peer_4(document)


@pytest.mark.parametrize(
    ("pairs", "offered", "error"),
    [
        ([("sign", KEY)], [], IdentifierInvalid),
        ([("authentication", KEY[1:])], [], IdentifierInvalid),
        ([("authentication", KEY + ".S")], [], DidDocumentInvalid),
        ([], [], IdentifierInvalid),
        ([("authentication", KEY)], [{"id": "did:a:b#c"}], DidDocumentInvalid),
        ([("authentication", KEY)], [{"a": "b" * DID_CHARS_MAX}], IdentifierInvalid),
        ([("authentication", KEY)], [{"t": "a", "type": "b"}], DidDocumentInvalid),
    ],
)
def test_no_did_peer_2_is_created_from(
    pairs: list[tuple[str, str]], offered: list[dict[str, Any]], error: type[CredentialsError]
) -> None:
    with pytest.raises(error):
        create_peer_2(pairs, offered)


@given(st.binary(max_size=60), st.text("AVEIDS.z6Mk19Jabc_-", max_size=80))
def test_anything_inside_resolves_or_is_refused(raw: bytes, elements: str) -> None:
    for did in (peer_4(raw), f"did:peer:2.{elements}", f"did:peer:2.S{elements}"):
        try:
            assert resolve_offline(did).did == did
        except CredentialsError:
            continue
