"""did:key over HTTP: resolution results and errors, as DID Resolution shapes them.

The rules of the community group's suite (w3c-ccg/did-key-test-suite), which uses error names of
2022, in our own words. https://w3c-ccg.github.io/did-key-spec/, https://www.w3.org/TR/did-resolution/
"""

from __future__ import annotations

from typing import Any

import pytest
from conformance_server import Answer, Client

KEY = "z6MktKwz7Ge1Yxzr4JHavN33wiwa8y81QdcMRLXQsrH9T53b"
AGREEMENT = "z6LSfHfAMAopsuBxaBzvp51GXrPf38Az13j2fmwqadbwwrzJ"
DID = f"did:key:{KEY}"
PROFILE = 'application/ld+json;profile="https://w3id.org/did-resolution"'


def ask(api: Client, did: str, query: str = "") -> Answer:
    answer = api.resolve(did, query, PROFILE)
    assert {"@context", "didDocument", "didDocumentMetadata"} <= answer.body.keys()
    return answer


def test_a_key(api: Client) -> None:
    answer = ask(api, DID)
    assert answer.status == 200
    document = answer.body["didDocument"]
    assert document["id"] == DID
    assert [method["id"] for method in document["verificationMethod"]] == [
        f"{DID}#{KEY}",
        f"{DID}#{AGREEMENT}",
    ]
    assert "error" not in answer.body["didResolutionMetadata"]


@pytest.mark.parametrize("fragment", [KEY, AGREEMENT])
def test_a_method(api: Client, fragment: str) -> None:
    answer = ask(api, f"{DID}#{fragment}")
    assert answer.status == 200
    assert answer.body["didDocument"]["controller"] == DID
    assert answer.body["didDocument"]["publicKeyMultibase"] == fragment


WRONG: dict[str, tuple[str, str, str, int]] = {
    "another scheme": (f"notDid:key:{KEY}", "", "invalidDid", 400),
    "another method": (f"did:experimental:{KEY}", "", "methodNotSupported", 501),
    "a version below 1": (f"did:key:-4:{KEY}", "", "invalidDid", 400),
    "another multibase": (f"did:key:{KEY[1:]}", "", "invalidDid", 400),
    "a character that is none": ("did:key:@", "", "invalidDid", 400),
    "too short a key": ("did:key:zTjsVPtY", "", "invalidPublicKeyLength", 400),
    "an unknown format": (DID, "?publicKeyFormat=unknown", "unsupportedPublicKeyType", 400),
    "a bad DID URL": (f"{DID}/^bar^/?query=`#{KEY}", "", "invalidDidUrl", 400),
    "an experimental format, signing": (
        f"{DID}#{KEY}",
        "?publicKeyFormat=Ed25519VerificationKey2018&enableExperimentalPublicKeyTypes=false",
        "invalidPublicKeyType",
        400,
    ),
    "an experimental format, agreement": (
        f"{DID}#{AGREEMENT}",
        "?publicKeyFormat=Ed25519VerificationKey2018&enableExperimentalPublicKeyTypes=false",
        "invalidPublicKeyType",
        400,
    ),
    "no DID at all": ("x", "", "invalidDid", 400),
    "a DID of 10,000 characters": (f"did:key:z{'6' * 10_000}", "", "invalidDid", 400),
}


@pytest.mark.parametrize(("did", "query", "name", "status"), WRONG.values(), ids=WRONG.keys())
def test_errors(api: Client, did: str, query: str, name: str, status: int) -> None:
    if len(did) > 8_000:
        assert api.resolve(did, query, PROFILE).status == 400
        return
    answer = ask(api, did, query)
    assert answer.status == status
    metadata: dict[str, Any] = answer.body.get("didResolutionMetadata") or answer.body.get(
        "didDereferencingMetadata", {}
    )
    assert metadata["error"] == name
    assert answer.body["didDocument"] == {}
    assert ("didDereferencingMetadata" in answer.body) == ("#" in did)


@pytest.mark.parametrize("media_type", ["application/did", "application/did+ld+json"])
def test_a_bare_document(api: Client, media_type: str) -> None:
    answer = api.resolve(DID, accept=media_type)
    assert (answer.status, answer.media_type) == (200, media_type)
    body = answer.body
    assert body["id"] == DID


def test_a_representation_that_is_not_offered(api: Client) -> None:
    answer = api.resolve(DID, accept="text/html")
    assert answer.status == 406


def test_the_servers_own_did(api: Client) -> None:
    document = api.resolve(api.office.did).body["didDocument"]
    assert document["id"] == api.office.did
