"""VC Data Model 2.0 over HTTP: what an issuer takes and refuses, what a verifier takes and refuses.

The rules of the W3C's suite (w3c/vc-data-model-2.0-test-suite) in our own words, section by section
of the Recommendation, https://www.w3.org/TR/vc-data-model-2.0/.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
from conformance_server import (
    EXAMPLES,
    HOLDER,
    STRANGER,
    SUBJECT,
    V2,
    Client,
    Party,
    assert_refused,
    credential,
)

from credentials.document import Document

STATUS = {"CredentialStatusList2017": "https://example.org/examples#CredentialStatusList2017"}
POLICY = {"OdrlPolicy2017": "https://example.org/examples#OdrlPolicy2017"}
EVIDENCE = {"DocumentVerification2018": "https://example.org/examples#DocumentVerification2018"}
REFRESH = "https://example.org/#RefreshService"
SCHEMA = "https://example.org/#Schema"
CUSTOM = {"CustomCredential": "https://example.org/#CustomCredential"}
SRI = "sha384-l/HrjlBCNWyAX91hr6LFV2Y3heB5Tcr6IeE4/Tje8YyzYBM8IhqjHWiWpr8+ZbYU"
MULTIBASE = "uWZVc7WaX1h4D8rJVb-vlMIqxaEKEb1tYbX8fet7JJzQ"
SRI_JULY_2024 = "sha384-NSOcNpmdIVUxIJGvGUoe22FjTWrXiaXlsZ8q6912LdnR3KraQO2n75Ica4wK4Qeg"
WRONG_SRI = "sha384-" + "A" * 64
WRONG_MULTIBASE = "u" + "A" * 43


def typed(*names: str, context: Any = None, **changes: Any) -> Document:
    contexts = [V2] if context is None else [V2, context]
    return credential(**{"@context": contexts, "type": [*names]}, **changes)


def within(context: Any, **changes: Any) -> Document:
    return credential(**{"@context": [V2, context]}, **changes)


ISSUED: dict[str, Document] = {
    # 4.3 contexts
    "two contexts": credential(**{"@context": [V2, EXAMPLES]}),
    "a context object": typed("VerifiableCredential", "CustomCredential", context=CUSTOM),
    "a context object in an object": typed(
        "VerifiableCredential", "CustomCredential", context={"@context": CUSTOM}
    ),
    # 4.4 identifiers
    "no id": credential(),
    "a DID as id": credential(id="did:example:credential"),
    "a URL as id": credential(id="https://example.org/credentials/1"),
    "a UUID as id": credential(id="urn:uuid:58172aac-d8ba-11ed-83dd-0b3aef56cc33"),
    "a subject without id": credential(credentialSubject={"name": "Alice"}),
    # 4.5 types
    "a URL as type": typed("VerifiableCredential", "https://example.org/#Example"),
    "VerifiableCredential last": typed("https://example.org/#A", "VerifiableCredential"),
    "a type of a context": credential(
        **{"@context": [V2, EXAMPLES], "type": ["VerifiableCredential", "RelationshipCredential"]}
    ),
    # 4.7 issuer; the office puts its own id there
    "an issuer object": credential(issuer={"id": "did:example:issuer"}),
    "an issuer with a name": credential(issuer={"id": "did:example:issuer", "name": "Issuer"}),
    # 4.8 subject
    "two subjects": credential(credentialSubject=[SUBJECT, {"id": "did:example:other"}]),
    # 4.9 validity
    "milliseconds": credential(validFrom="2023-02-26T01:10:39.123Z"),
    "an offset": credential(validFrom="2023-02-25T19:10:39-06:00"),
    "valid for six seconds, in two zones": credential(
        validFrom="2023-02-26T01:21:23Z", validUntil="2023-02-25T19:21:29-06:00"
    ),
    "valid in the future": credential(validFrom="2999-01-01T00:00:00Z"),
    # 4.10 status, 4.11 schemas
    "a foreign status": within(
        STATUS, credentialStatus={"id": "did:example:s", "type": "CredentialStatusList2017"}
    ),
    "a status without id": within(STATUS, credentialStatus={"type": "CredentialStatusList2017"}),
    "a schema": credential(credentialSchema={"id": "did:example:schema", "type": SCHEMA}),
    "two schemas": credential(
        credentialSchema=[{"id": f"did:example:schema:{n}", "type": SCHEMA} for n in (1, 2)]
    ),
    # 5.3 related resources
    "a digest, SRI": credential(relatedResource={"id": V2, "digestSRI": SRI}),
    "a digest, multibase": credential(relatedResource=[{"id": V2, "digestMultibase": MULTIBASE}]),
    "a digest and a media type": credential(
        relatedResource=[{"id": V2, "digestSRI": SRI, "mediaType": "application/ld+json"}]
    ),
    "the digest of an earlier edition": credential(
        relatedResource={"id": V2, "digestSRI": SRI_JULY_2024}
    ),
    "a resource that nobody here has": credential(
        relatedResource={"id": "https://example.org/r.json", "digestMultibase": MULTIBASE}
    ),
    # 5.4 refresh, 5.5 terms, 5.6 evidence
    "a refresh service": credential(refreshService={"id": "did:example:r", "type": REFRESH}),
    "two refresh services": credential(
        refreshService=[{"id": f"did:example:r:{n}", "type": REFRESH} for n in (1, 2)]
    ),
    "terms of use": within(POLICY, termsOfUse={"type": "OdrlPolicy2017"}),
    "the same terms twice": within(POLICY, termsOfUse=[{"type": "OdrlPolicy2017"}] * 2),
    "terms with an id": within(
        POLICY, termsOfUse={"id": "did:example:t", "type": "OdrlPolicy2017"}
    ),
    "evidence": within(EVIDENCE, evidence={"type": "DocumentVerification2018"}),
    "evidence twice": within(EVIDENCE, evidence=[{"type": "DocumentVerification2018"}] * 2),
}

REFUSED: dict[str, Document] = {
    # 4.3 contexts
    "no context": credential(**{"@context": None}),
    "another context first": credential(**{"@context": [EXAMPLES, V2]}),
    "the base context missing": credential(**{"@context": [EXAMPLES]}),
    "a context that is no URL": credential(**{"@context": [V2, "https ://not-a-url/v1"]}),
    "a context that nobody pinned": credential(**{"@context": [V2, "https://example.org/v1"]}),
    "a number as context": credential(**{"@context": [V2, 192875]}),
    # 4.4 identifiers
    "a null id": credential() | {"id": None},
    "two ids": credential(id=["did:example:1", "did:example:2"]),
    "an id that is no URL": credential(id="not-a-url"),
    "two ids of one subject": credential(credentialSubject={"id": ["did:example:1", "did:a:2"]}),
    # 4.5 types
    "no type": credential(type=None),
    "VerifiableCredential missing": typed("https://example.org/#Example"),
    "a type mapped to no URL": typed(
        "VerifiableCredential", "Custom", context={"Custom": "https ://not-a-url#Custom"}
    ),
    "a type that nothing maps": typed("VerifiableCredential", "Custom", context={"@vocab": None}),
    "a number as type": credential(type=2),
    # 4.7 issuer
    "no issuer": credential(issuer=None),
    "a null issuer": credential() | {"issuer": None},
    "an issuer that is no URL": credential(issuer="not-a-url"),
    "an issuer object without id": credential(issuer={"name": "Issuer"}),
    "an issuer object with a null id": credential(issuer={"id": None}),
    "an issuer object with an id that is no URL": credential(issuer={"id": "not-a-url"}),
    # 4.8 subject
    "no subject": credential(credentialSubject=None),
    "an empty subject": credential(credentialSubject={}),
    "one of two subjects empty": credential(credentialSubject=[SUBJECT, {}]),
    "a string as subject": credential(credentialSubject="did:example:subject"),
    # 4.9 validity
    "validFrom is no time": credential(validFrom="2023-02-25 19:10"),
    "validUntil without a time": credential(validUntil="2023-02-26"),
    "validFrom without an offset": credential(validFrom="2023-02-26T01:10:39"),
    "over before it begins": credential(
        validFrom="2030-01-01T00:00:00Z", validUntil="2029-01-01T00:00:00Z"
    ),
    # 4.10 status, 4.11 schemas
    "a status without type": within(STATUS, credentialStatus={"id": "did:example:s"}),
    "a status with two ids": within(
        STATUS,
        credentialStatus={"id": ["did:example:1", "did:a:2"], "type": "CredentialStatusList2017"},
    ),
    "a status whose id is no URL": within(
        STATUS, credentialStatus={"id": "not-a-url", "type": "CredentialStatusList2017"}
    ),
    "a status of type 2": within(STATUS, credentialStatus={"id": "did:example:s", "type": 2}),
    "a schema without type": credential(credentialSchema={"id": "did:example:schema"}),
    "a schema without id": credential(credentialSchema={"type": SCHEMA}),
    "a schema whose id is a number": credential(credentialSchema={"type": SCHEMA, "id": 2}),
    # 5.2 extensibility: what is protected is not defined again
    "VerifiableCredential defined anew": typed(
        "VerifiableCredential", context={"VerifiableCredential": "https://example.org/#Bad"}
    ),
    "a protected term defined anew": credential(
        **{"@context": [V2, {"@protected": True, **CUSTOM}, {"CustomCredential": "https://a.b/#B"}]}
    ),
    # 5.3 related resources
    "resources as strings": credential(relatedResource=[V2]),
    "a resource without id": credential(relatedResource=[{"digestMultibase": MULTIBASE}]),
    "a resource twice": credential(
        relatedResource=[{"id": V2, "digestSRI": SRI}, {"id": V2, "digestMultibase": MULTIBASE}]
    ),
    "a resource without digest": credential(relatedResource=[{"id": V2}]),
    "a wrong digest, SRI": credential(relatedResource=[{"id": V2, "digestSRI": WRONG_SRI}]),
    "a wrong digest, multibase": credential(
        relatedResource=[{"id": V2, "digestMultibase": WRONG_MULTIBASE}]
    ),
    # 5.4 refresh, 5.5 terms, 5.6 evidence
    "a refresh service without type": credential(refreshService={"id": "did:example:r"}),
    "terms without type": within(POLICY, termsOfUse={"id": "did:example:t"}),
    "evidence without type": within(EVIDENCE, evidence={"id": "did:example:e"}),
    # no signature covers what no context defines
    "an undefined term": credential(undefinedTerm="x"),
    "an undefined term of the subject": credential(credentialSubject={**SUBJECT, "admin": True}),
}

NAMED: dict[str, Any] = {
    "a string": "Example",
    "absent": None,
    "a language": {"@value": "Example", "@language": "en"},
    "a direction": {"@value": "HTML", "@language": "en", "@direction": "ltr"},
    "several languages": [
        {"@value": "Dog", "@language": "en"},
        {"@value": "Chien", "@language": "fr"},
    ],
}
MISNAMED: dict[str, Any] = {
    "one key more": {"@value": "Example", "@language": "en", "url": "did:example:x"},
    "no value": {"@language": "en"},
    "a number": 7,
    "a language that is none": {"@value": "Example", "@language": 1},
}


def named(where: str, what: str, value: Any) -> Document:
    if where == "credential":
        return credential(**{what: value})
    issuer = {"id": "did:example:issuer", what: value}
    return credential(issuer={k: v for k, v in issuer.items() if v is not None})


@pytest.mark.parametrize("document", ISSUED.values(), ids=ISSUED.keys())
def test_issues(api: Client, document: Document) -> None:
    issued = api.issued(document)
    assert issued["@context"] == document["@context"]
    assert "VerifiableCredential" in issued["type"]
    assert issued["credentialSubject"] == document["credentialSubject"]
    assert isinstance(issued["proof"], dict)


@pytest.mark.parametrize("document", REFUSED.values(), ids=REFUSED.keys())
def test_refuses_to_issue(api: Client, document: Document) -> None:
    assert_refused(api.issue(document))


@pytest.mark.parametrize("where", ["credential", "issuer"])
@pytest.mark.parametrize("what", ["name", "description"])
@pytest.mark.parametrize("value", NAMED.values(), ids=NAMED.keys())
def test_names_and_descriptions(api: Client, where: str, what: str, value: Any) -> None:
    issued = api.issued(named(where, what, value))
    holder = issued if where == "credential" else issued["issuer"]
    assert holder.get(what) == value
    if where == "issuer":
        assert holder["id"] == api.office.did


@pytest.mark.parametrize("where", ["credential", "issuer"])
@pytest.mark.parametrize("what", ["name", "description"])
@pytest.mark.parametrize("value", MISNAMED.values(), ids=MISNAMED.keys())
def test_refuses_other_names(api: Client, where: str, what: str, value: Any) -> None:
    assert_refused(api.issue(named(where, what, value)))


def test_an_issued_credential_verifies(api: Client) -> None:
    issued = api.issued(credential(validFrom="2023-02-22T15:16:41Z"))
    answer = api.verify(issued)
    assert answer.status == 200
    assert answer.body["verified"] is True
    assert answer.body["errors"] == []
    assert answer.body["issuer"] == issued["issuer"] == api.office.did


@pytest.mark.parametrize(
    "document",
    [{"type": ["NonconformingDocument"]}, {}, credential()],
    ids=["not a credential", "empty", "not secured"],
)
def test_a_verifier_refuses(api: Client, document: Document) -> None:
    answer = api.verify(document)
    assert_refused(answer)
    assert answer.body["verified"] is False


def self_issued(**changes: Any) -> Document:
    return HOLDER.credential(**changes)


PRESENTED: dict[str, dict[str, Any]] = {
    "no credentials": {},
    "an empty list": {"verifiableCredential": []},
    "an id": {"id": "urn:uuid:9c9a36f8-518f-4976-a934-6649502d0008"},
    "two contexts": {"@context": [V2, EXAMPLES]},
    "a context object": {
        "@context": [V2, {"CustomPresentation": "https://example.org/#CustomPresentation"}],
        "type": ["VerifiablePresentation", "CustomPresentation"],
    },
    "a credential": {"verifiableCredential": [self_issued()]},
    "two credentials": {
        "verifiableCredential": [
            self_issued(),
            STRANGER.credential(credentialSubject={"id": "did:example:other"}),
        ]
    },
    "a holder": {"holder": HOLDER.did, "verifiableCredential": [self_issued()]},
    "a holder object": {"holder": {"id": HOLDER.did}, "verifiableCredential": [self_issued()]},
}


@pytest.mark.parametrize("changes", PRESENTED.values(), ids=PRESENTED.keys())
def test_presentations_verify(api: Client, changes: dict[str, Any]) -> None:
    answer = api.verify_presentation(HOLDER.presentation(**changes), checks=[])
    assert answer.status == 200, answer.body
    assert answer.body["verified"] is True
    assert answer.body["holder"] == HOLDER.did
    presented = changes.get("verifiableCredential", [])
    assert [result["verified"] for result in answer.body["credentialResults"]] == [True] * len(
        presented
    )


def changed(presentation: Document, **changes: Any) -> Document:
    document = copy.deepcopy(presentation)
    for name, value in changes.items():
        if value is None:
            del document[name]
        else:
            document[name] = value
    return document


def with_context(presentation: Document, value: Any) -> Document:
    return changed(presentation, **{"@context": [V2, value]})


WHOLE = HOLDER.presentation(verifiableCredential=[self_issued()])
NOT_PRESENTED: dict[str, Document] = {
    "not a presentation": {"type": ["NonconformingDocument"]},
    "no context": changed(WHOLE, **{"@context": None}),
    "another context first": changed(WHOLE, **{"@context": [EXAMPLES, V2]}),
    "the base context missing": changed(WHOLE, **{"@context": [EXAMPLES]}),
    "a context that nobody pinned": with_context(WHOLE, "https://example.com"),
    "a context that is no URL": with_context(WHOLE, "https ://not-a-url/contexts/example/v1"),
    "a number as context": with_context(WHOLE, 123192875),
    "no type": changed(WHOLE, type=None),
    "VerifiablePresentation missing": changed(WHOLE, type=["https://example.org/#Presentation"]),
    "no proof": changed(WHOLE, proof=None),
    "a proof of another presentation": changed(WHOLE, id="urn:uuid:1"),
    "a proof value that is none": changed(
        WHOLE, proof=WHOLE["proof"] | {"proofValue": "z5nmMBw2u9TGKd9NxxHJtyZKgjN2Eh"}
    ),
    "a string as credential": changed(WHOLE, verifiableCredential=["did:example:credential"]),
    "a number as credential": changed(WHOLE, verifiableCredential=[7]),
    "a holder object without id": changed(WHOLE, holder={"name": "x"}),
    "another holder": HOLDER.presentation(holder="did:example:acme"),
    "somebody else's name": HOLDER.presentation(holder=STRANGER.did),
    "a credential of somebody else's, signed by the holder": HOLDER.presentation(
        holder=HOLDER.did,
        verifiableCredential=[HOLDER.sign(credential(issuer=STRANGER.did))],
    ),
    "a proof for assertions": HOLDER.sign(
        {"@context": [V2], "type": ["VerifiablePresentation"]}, challenge="u1", domain="a"
    ),
}


@pytest.mark.parametrize("document", NOT_PRESENTED.values(), ids=NOT_PRESENTED.keys())
def test_presentations_refused(api: Client, document: Document) -> None:
    answer = api.verify_presentation(document, checks=[])
    assert_refused(answer)
    assert answer.body["verified"] is False


def test_challenge_and_domain(api: Client) -> None:
    presentation = HOLDER.presentation(proof={"challenge": "u42", "domain": "shop.example"})
    right = {"challenge": "u42", "domain": "shop.example"}
    assert api.verify_presentation(presentation, **right).status == 200
    for wrong, problem in (
        ({"challenge": "u43"}, "INVALID_CHALLENGE_ERROR"),
        ({"domain": "bank.example"}, "INVALID_DOMAIN_ERROR"),
    ):
        answer = api.verify_presentation(presentation, **right | wrong)
        assert_refused(answer)
        assert answer.body["type"] == f"https://w3id.org/security#{problem}"


def test_an_undefined_term_is_data_loss(api: Client) -> None:
    answer = api.issue(credential(undefinedTerm="x"))
    assert answer.body["type"] == "https://w3id.org/security#DATA_LOSS_DETECTION_ERROR"


def test_a_foreign_issuer_needs_its_own_proof(api: Client) -> None:
    forged = Party(73).sign(credential(issuer=STRANGER.did))
    assert_refused(api.verify(forged))
    assert_refused(api.verify(forged, checks=["proof"]))
