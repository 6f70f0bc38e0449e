"""Issuing: what gets a proof, and what is refused before it would be signed."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from credential_scene import (
    EXAMPLES,
    HOLDER,
    ISSUER,
    JCS,
    RDFC,
    STRANGER,
    SUITES,
    environment,
    signed,
    unsigned,
)

from credentials.errors import (
    ContextUnknown,
    CredentialsError,
    DocumentInvalid,
    GraphTooComplex,
    ModelInvalid,
    ProofNotMade,
    StatusEntryInvalid,
    TermUndefined,
)
from credentials.issue import DATA_INTEGRITY_V2, issue_credential
from credentials.model import CONTEXT_V1, CONTEXT_V2
from credentials.proof import Suite
from credentials.verify import verify_credential

OLD: dict[str, Any] = {
    "@context": [CONTEXT_V1],
    "type": ["VerifiableCredential"],
    "issuer": ISSUER.did,
    "issuanceDate": "2020-01-01T00:00:00Z",
    "credentialSubject": {"id": HOLDER.did},
}


def issue(document: dict[str, Any], suite: Suite = JCS, **options: Any) -> dict[str, Any]:
    return issue_credential(document, ISSUER.options(suite, **options), ISSUER.secret)


@pytest.mark.parametrize("suite", SUITES)
def test_it_is_issued(suite: Suite) -> None:
    document = unsigned()
    before = copy.deepcopy(document)
    result = issue(document, suite)
    assert document == before
    assert {name: value for name, value in result.items() if name != "proof"} == before
    assert verify_credential(result, environment()).issuer == ISSUER.did


@pytest.mark.parametrize("suite", SUITES)
def test_version_1_1_gets_the_context_of_proofs(suite: Suite) -> None:
    result = issue(OLD, suite)
    assert result["@context"] == [CONTEXT_V1, DATA_INTEGRITY_V2]
    assert verify_credential(result, environment()).contexts_trusted
    again = issue(result, suite, nonce="2")  # a second proof changes no context
    assert again["@context"] == result["@context"]
    assert len(again["proof"]) == 2


def test_a_signed_document_gets_no_context() -> None:
    other = {**OLD, "proof": signed()["proof"]}
    with pytest.raises(ProofNotMade, match="signed already"):
        issue(other)


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"issuer": None}, ModelInvalid),
        ({"issuer": STRANGER.did}, ProofNotMade),
        ({"issuer": {"id": STRANGER.did, "name": "A"}}, ProofNotMade),
        ({"type": ["VerifiableCredential", "Unheard"]}, TermUndefined),
        ({"unheard": 1}, TermUndefined),
        ({"credentialSubject": {"id": HOLDER.did, "unheard": 1}}, TermUndefined),
        ({"statusEntry": {"type": "A"}}, TermUndefined),
        ({"@context": [CONTEXT_V2, "https://example.org/context"]}, ContextUnknown),
        (
            {"@context": [CONTEXT_V2, {"VerifiableCredential": "https://a.example/B"}]},
            CredentialsError,
        ),
        (
            {
                "@context": [CONTEXT_V2, {"Any": "https ://not-a-url#A"}],
                "type": ["VerifiableCredential", "Any"],
            },
            CredentialsError,
        ),
        (
            {
                "@context": [CONTEXT_V2, EXAMPLES, {"@vocab": None}],
                "type": ["VerifiableCredential", "Any"],
            },
            TermUndefined,
        ),
        ({"credentialStatus": {"type": "BitstringStatusListEntry"}}, StatusEntryInvalid),
        ({"credentialSubject": {"id": HOLDER.did, "a": float("nan")}}, DocumentInvalid),
        ({"credentialSubject": {"id": HOLDER.did, "a": 2**60}}, DocumentInvalid),
    ],
    ids=str,
)
def test_it_is_refused(
    suite: Suite, changes: dict[str, Any], error: type[CredentialsError]
) -> None:
    with pytest.raises(error):
        issue(unsigned(**changes), suite)


@pytest.mark.parametrize("suite", SUITES)
def test_protected_terms_are_not_defined_again(suite: Suite) -> None:
    context = [
        CONTEXT_V2,
        {"@protected": True, "Any": "https://example.org/#Any"},
        {"Any": "https://example.org/#Other"},
    ]
    with pytest.raises(CredentialsError):
        issue(unsigned(**{"@context": context, "type": ["VerifiableCredential", "Any"]}), suite)


@pytest.mark.parametrize("suite", SUITES)
def test_a_graph_that_nobody_could_verify(suite: Suite) -> None:
    hosts = [{"gpu": [{"memory": 80} for _ in range(8)]} for _ in range(2)]
    subject = {"id": HOLDER.did, "hosts": hosts}
    with pytest.raises(GraphTooComplex):
        issue(unsigned(**{"@context": [CONTEXT_V2, EXAMPLES], "credentialSubject": subject}), suite)


@pytest.mark.parametrize("purpose", ["authentication", "capabilityInvocation"])
def test_only_for_assertions(purpose: str) -> None:
    with pytest.raises(ProofNotMade, match="assertionMethod"):
        issue(unsigned(), RDFC, purpose=purpose)
