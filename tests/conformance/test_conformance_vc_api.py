"""The VC-API's shapes over HTTP: requests that an issuer and a verifier must refuse, and answers.

The rules of the community group's suites (w3c-ccg/vc-api-issuer-test-suite and
-verifier-test-suite) in our own words. https://w3c-ccg.github.io/vc-api/
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
from conformance_server import EXAMPLES, V1, V2, Client, assert_refused, credential

from credentials.document import Document

OLD = {
    "@context": [V1],
    "id": "urn:uuid:4e4df058-2361-4753-a38b-42e0fe2e4a73",
    "type": ["VerifiableCredential"],
    "issuer": "did:example:issuer",
    "issuanceDate": "2024-03-16T22:37:26Z",
    "credentialSubject": {"id": "did:example:subject"},
}

# A vector of the vc-di-eddsa specification. Its issuer is a URL that nobody here resolves.
VECTOR = {
    "@context": [V2, EXAMPLES, "https://w3id.org/security/suites/ed25519-2020/v1"],
    "id": "urn:uuid:58172aac-d8ba-11ed-83dd-0b3aef56cc33",
    "type": ["VerifiableCredential", "AlumniCredential"],
    "name": "Alumni Credential",
    "description": "A minimum viable example of an Alumni Credential.",
    "issuer": "https://vc.example/issuers/5678",
    "validFrom": "2023-01-01T00:00:00Z",
    "credentialSubject": {"id": "did:example:abcdefgh", "alumniOf": "The School of Examples"},
    "proof": {
        "type": "Ed25519Signature2020",
        "created": "2023-02-24T23:36:38Z",
        "verificationMethod": "did:key:z6MkrJVnaZkeFzdQyMZu1cgjg7k1pZZ6pvBQ7XJPt4swbTQ2"
        "#z6MkrJVnaZkeFzdQyMZu1cgjg7k1pZZ6pvBQ7XJPt4swbTQ2",
        "proofPurpose": "assertionMethod",
        "proofValue": "z57Mm1vboMtZiCyJ4aReZsv8co4Re64Y8GEjL1ZARzMbXZgkARFLqFs1P345NpPGG2hgCrS4nN"
        "dvJhpwnrNyG3kEF",
    },
}


def test_issue_answers_201_with_the_credential(api: Client) -> None:
    answer = api.issue(OLD)
    assert answer.status == 201
    assert set(answer.body) == {"verifiableCredential"}
    issued = answer.body["verifiableCredential"]
    assert issued["id"] == OLD["id"]
    assert isinstance(issued["proof"], dict)


def test_an_expiration_date(api: Client) -> None:
    assert api.issue(OLD | {"expirationDate": "2999-01-01T00:00:00Z"}).status == 201


def test_the_credential_must_be_called_so(api: Client) -> None:
    assert_refused(api.post("/credentials/issue", {"verifiableCredential": OLD}))


@pytest.mark.parametrize("name", ["@context", "type", "issuer", "credentialSubject"])
def test_what_a_credential_must_have(api: Client, name: str) -> None:
    assert_refused(api.issue({k: v for k, v in OLD.items() if k != name}))


WRONG: dict[str, list[Any]] = {
    "@context": [4, False, None, [], {"foo": True}, "string", [[]], [None], [10]],
    "type": [None, True, 4, [], "string", {}, [[]], [None], [10]],
    "issuer": [None, True, 4, [], {}],
    "credentialSubject": [None, True, 4, [], "did:example:1234"],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in WRONG.items() for value in values]
)
def test_values_that_are_not_issued(api: Client, name: str, value: Any) -> None:
    assert_refused(api.issue(OLD | {name: value}))


def test_a_proof_holds_whoever_the_issuer_is(api: Client) -> None:
    answer = api.verify(VECTOR, checks=["proof"])
    assert answer.status == 200, answer.body
    assert answer.body["checks"] == ["proof"]
    warned = {warning["step"] for warning in answer.body["warnings"]}
    assert "issuer" in warned
    assert answer.body["contextsTrusted"] is False
    assert_refused(api.verify(VECTOR))


@pytest.mark.parametrize("name", ["@context", "type", "issuer", "credentialSubject", "proof"])
def test_what_a_verifiable_credential_must_have(api: Client, name: str) -> None:
    document = {k: v for k, v in VECTOR.items() if k != name}
    assert_refused(api.verify(document, checks=["proof"]))


@pytest.mark.parametrize(
    "name", ["type", "created", "verificationMethod", "proofValue", "proofPurpose"]
)
def test_what_its_proof_must_have(api: Client, name: str) -> None:
    document: Document = copy.deepcopy(VECTOR)
    del document["proof"][name]
    assert_refused(api.verify(document, checks=["proof"]))


WRONG_VERIFIED = WRONG | {
    "proof": ["string", None, 10, True, []],
}


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, values in WRONG_VERIFIED.items() for value in values],
)
def test_values_that_do_not_verify(api: Client, name: str, value: Any) -> None:
    assert_refused(api.verify(VECTOR | {name: value}, checks=["proof"]))


def test_a_credential_of_1_1_gets_no_status(api: Client) -> None:
    issued = api.issued(OLD)
    assert "credentialStatus" not in issued
    assert api.verify(issued).status == 200


def test_an_id_by_option(api: Client) -> None:
    wanted = "urn:uuid:0c07c1ce-57cb-41af-bef2-1b932b986873"
    assert api.issued(credential(), credentialId=wanted)["id"] == wanted
    assert_refused(api.issue(credential(id="urn:uuid:1"), credentialId=wanted))


def test_one_id_may_be_issued_twice(api: Client) -> None:
    first = api.issued(credential(id="urn:example:twice"))
    second = api.issued(credential(id="urn:example:twice"))
    assert "credentialStatus" in first
    assert "credentialStatus" not in second
    assert api.verify(second).status == 200


def test_the_credential_comes_back_on_request(api: Client) -> None:
    issued = api.issued(credential())
    assert "credential" not in api.verify(issued).body
    assert api.verify(issued, returnCredential=True).body["credential"] == issued
