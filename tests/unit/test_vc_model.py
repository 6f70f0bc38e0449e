"""The structural rules of the VC Data Model: what is taken, and a table of what is refused.

The rules are those that the W3C's public suite for VC Data Model 2.0 tries, in our words, and those
of the Recommendation that it does not try. Its JSON examples are read where they are at hand.
"""

from __future__ import annotations

import base64
import contextlib
import copy
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from credentials.errors import CredentialsError, ModelInvalid, StatusEntryInvalid
from credentials.model import CONTEXT_V1, CONTEXT_V2, check_credential, check_presentation
from schemas import context_bytes

Edit = Callable[[dict[str, Any]], object]

CREDENTIAL: dict[str, Any] = {
    "@context": [CONTEXT_V2],
    "type": ["VerifiableCredential"],
    "issuer": "did:example:issuer",
    "credentialSubject": {"id": "did:example:subject"},
}
CREDENTIAL_V1: dict[str, Any] = {
    "@context": [CONTEXT_V1],
    "type": ["VerifiableCredential"],
    "issuer": "did:example:issuer",
    "issuanceDate": "2020-01-01T00:00:00Z",
    "credentialSubject": {"id": "did:example:subject"},
}
PRESENTATION: dict[str, Any] = {"@context": [CONTEXT_V2], "type": ["VerifiablePresentation"]}

URL = "https://example.org/thing"
NOT_URL = "https ://not-a-url/thing"
STATUS = {
    "type": "BitstringStatusListEntry",
    "statusPurpose": "revocation",
    "statusListIndex": "7",
    "statusListCredential": "https://example.org/status/1",
}


def put(name: str, value: Any) -> Edit:
    """Return an edit that sets a property; dots go into objects."""

    def edit(document: dict[str, Any]) -> None:
        *parents, last = name.split(".")
        for parent in parents:
            document = document[parent]
        document[last] = value

    return edit


def without(name: str) -> Edit:
    return lambda document: document.pop(name)


def edited(document: dict[str, Any], *edits: Edit) -> dict[str, Any]:
    result = copy.deepcopy(document)
    for edit in edits:
        edit(result)
    return result


def sri(data: bytes, algorithm: str = "sha384") -> str:
    digest = hashlib.new(algorithm, data).digest()
    return f"{algorithm}-{base64.b64encode(digest).decode()}"


def multibase(raw: bytes) -> str:
    return "u" + base64.urlsafe_b64encode(raw).decode().rstrip("=")


TAKEN: dict[str, Edit] = {
    "as it is": lambda document: None,
    "a URL as a further context": put("@context", [CONTEXT_V2, URL]),
    "an object as a further context": put("@context", [CONTEXT_V2, {"A": URL}]),
    "a DID as id": put("id", "did:example:credential"),
    "a URN as id": put("id", "urn:uuid:9c9a36f8-518f-4976-a934-6649502d0008"),
    "an international id": put("id", "https://example.org/größe"),
    "a type that is a URL": put("type", ["VerifiableCredential", URL]),
    "the type last": put("type", [URL, "VerifiableCredential"]),
    "one type alone": put("type", "VerifiableCredential"),
    "issuer object": put("issuer", {"id": "did:example:issuer"}),
    "issuer with a name": put("issuer", {"id": URL, "name": "A"}),
    "issuer with a name in a language": put(
        "issuer", {"id": URL, "name": {"@value": "A", "@language": "en"}}
    ),
    "issuer with descriptions": put(
        "issuer",
        {
            "id": URL,
            "description": [
                {"@value": "A", "@language": "en"},
                {"@value": "B", "@language": "fr", "@direction": "ltr"},
            ],
        },
    ),
    "a name": put("name", "A"),
    "a name in a language": put("name", {"@value": "A", "@language": "en"}),
    "a name with a direction": put("name", {"@value": "A", "@language": "ar", "@direction": "rtl"}),
    "a name without a language": put("name", {"@value": "A"}),
    "a name in languages": put(
        "name", [{"@value": "Dog", "@language": "en"}, {"@value": "Chien", "@language": "fr-CA"}]
    ),
    "a description": put("description", "A"),
    "a description in a language": put("description", {"@value": "A", "@language": "en"}),
    "a subject without id": put("credentialSubject", {"degree": "B"}),
    "several subjects": put("credentialSubject", [{"id": "did:example:a"}, {"degree": "B"}]),
    "a start": put("validFrom", "2023-02-26T01:02:58Z"),
    "a start with milliseconds": put("validFrom", "2023-02-26T01:02:58.447Z"),
    "a start with an offset": put("validFrom", "2023-02-26T01:02:58-07:00"),
    "a start far away": put("validFrom", "8888-02-26T01:02:58Z"),
    "an end": put("validUntil", "2023-02-26T01:02:58.447+05:30"),
    "start and end at once": lambda document: document.update(
        validFrom="2023-02-26T01:00:00Z", validUntil="2023-02-26T02:00:00+01:00"
    ),
    "a status": put("credentialStatus", STATUS),
    "a status with id": put("credentialStatus", {**STATUS, "id": "https://example.org/status/1#7"}),
    "statuses": put("credentialStatus", [STATUS, {**STATUS, "statusPurpose": "suspension"}]),
    "a status of another type": put("credentialStatus", {"type": "Other2017", "id": URL}),
    "a schema": put("credentialSchema", {"type": "JsonSchema", "id": URL}),
    "schemas": put(
        "credentialSchema", [{"type": URL, "id": "did:example:schemas/1"}, {"type": "B", "id": URL}]
    ),
    "a refresh service": put("refreshService", {"type": URL, "id": "did:example:refresh/1"}),
    "a refresh service without id": put("refreshService", {"type": URL}),
    "refresh services": put("refreshService", [{"type": URL}, {"type": URL}]),
    "terms of use": put("termsOfUse", {"type": "IssuerPolicy"}),
    "terms of use with id": put("termsOfUse", [{"type": "IssuerPolicy", "id": URL}]),
    "evidence": put("evidence", {"type": "DocumentVerification"}),
    "evidences": put("evidence", [{"type": ["A"]}, {"type": "B"}]),
    "a method to render it": put("renderMethod", {"type": "TemplateRenderMethod"}),
    "a method for confidence": put("confidenceMethod", [{"type": "A"}]),
    "a proof": put("proof", {"type": "DataIntegrityProof"}),
    "proofs": put("proof", [{"type": "DataIntegrityProof"}, {"type": "Other"}]),
    "a resource that is not pinned": put(
        "relatedResource", {"id": URL, "digestSRI": "sha256-" + "A" * 43 + "="}
    ),
    "a resource with its type": put(
        "relatedResource", [{"id": URL, "digestMultibase": "uAAAA", "mediaType": "text/plain"}]
    ),
    "a property that nobody knows": put("unheardOf", {"a": [1]}),
}

# Name -> edit, and what the message names.
REFUSED: dict[str, tuple[Edit, str]] = {
    "no context": (without("@context"), "@context"),
    "context null": (put("@context", None), "@context"),
    "context empty": (put("@context", []), "@context"),
    "context no list": (put("@context", CONTEXT_V2), "@context"),
    "context object": (put("@context", {"@vocab": URL}), "@context"),
    "base context missing": (put("@context", [URL]), "@context"),
    "base context second": (put("@context", [URL, CONTEXT_V2]), "@context"),
    "base context in an object": (put("@context", [{"@import": CONTEXT_V2}]), "@context"),
    "base context twice": (put("@context", [CONTEXT_V2, CONTEXT_V2]), "@context"),
    "another context twice": (put("@context", [CONTEXT_V2, URL, URL]), "twice"),
    "too many contexts": (put("@context", [CONTEXT_V2, *[{"A": URL}] * 16]), "at most 16"),
    "context no URL": (put("@context", [CONTEXT_V2, NOT_URL]), "@context"),
    "context a number": (put("@context", [CONTEXT_V2, 123192875]), "@context"),
    "context null inside": (put("@context", [CONTEXT_V2, None]), "@context"),
    "context a list inside": (put("@context", [CONTEXT_V2, [URL]]), "@context"),
    "id null": (put("id", None), "id"),
    "id a list": (put("id", [URL, URL + "2"]), "id"),
    "id no URL": (put("id", "not-a-url"), "id"),
    "id with a space": (put("id", NOT_URL), "id"),
    "id empty": (put("id", ""), "id"),
    "id a number": (put("id", 3), "id"),
    "id with a line break": (put("id", URL + "\n"), "id"),
    "no type": (without("type"), "type"),
    "type empty": (put("type", []), "type"),
    "type null": (put("type", None), "type"),
    "type an object": (put("type", {"id": "VerifiableCredential"}), "type"),
    "type of something else": (put("type", ["NonconformingDocument"]), "type"),
    "type of a presentation": (put("type", ["VerifiablePresentation"]), "type"),
    "type in other letters": (put("type", ["verifiablecredential"]), "type"),
    "type a number": (put("type", ["VerifiableCredential", 2]), "type"),
    "type empty text": (put("type", ["VerifiableCredential", ""]), "type"),
    "an envelope": (put("type", "EnvelopedVerifiableCredential"), "envelope"),
    "no issuer": (without("issuer"), "issuer"),
    "issuer null": (put("issuer", None), "issuer"),
    "issuer no URL": (put("issuer", "fake-issuer"), "issuer"),
    "issuer a list": (put("issuer", ["did:example:a"]), "issuer"),
    "issuer object without id": (put("issuer", {"name": "A"}), "issuer.id"),
    "issuer id null": (put("issuer", {"id": None}), "issuer.id"),
    "issuer id no URL": (put("issuer", {"id": "fake-issuer"}), "issuer.id"),
    "issuer id in an object": (put("issuer", {"id": {"id": URL}}), "issuer.id"),
    "issuer name of objects": (put("issuer", {"id": URL, "name": {"en": "A"}}), "issuer.name"),
    "issuer description with more": (
        put("issuer", {"id": URL, "description": {"@value": "A", "url": URL}}),
        "issuer.description",
    ),
    "no subject": (without("credentialSubject"), "credentialSubject"),
    "subject null": (put("credentialSubject", None), "credentialSubject"),
    "subject without claims": (put("credentialSubject", {}), "credentialSubject"),
    "subjects, none": (put("credentialSubject", []), "credentialSubject"),
    "subjects, one empty": (put("credentialSubject", [{"id": URL}, {}]), "credentialSubject"),
    "subject text": (put("credentialSubject", "did:example:subject"), "credentialSubject"),
    "subjects, one text": (put("credentialSubject", [{"id": URL}, URL]), "credentialSubject"),
    "subject in lists": (put("credentialSubject", [[{"id": URL}]]), "credentialSubject"),
    "subject with ids": (put("credentialSubject.id", ["did:a:1", "did:a:2"]), "credentialSubject"),
    "subject id no URL": (put("credentialSubject.id", "subject"), "credentialSubject.id"),
    "subject id null": (put("credentialSubject.id", None), "credentialSubject.id"),
    "too many subjects": (put("credentialSubject", [{"a": 1}] * 257), "credentialSubject"),
    "name a number": (put("name", 1), "name"),
    "name null": (put("name", None), "name"),
    "names, none": (put("name", []), "name"),
    "name in lists": (put("name", [["A"]]), "name"),
    "name without value": (put("name", {"@language": "en"}), "name"),
    "name with more": (
        put("name", {"@value": "A", "@language": "en", "url": "did:example:credential"}),
        "name",
    ),
    "name with a type": (put("name", {"@value": "A", "@type": URL}), "name"),
    "name in no language": (put("name", {"@value": "A", "@language": "not a tag"}), "name"),
    "name in a language null": (put("name", {"@value": "A", "@language": None}), "name"),
    "name in no direction": (put("name", {"@value": "A", "@direction": "up"}), "name"),
    "name with a direction list": (put("name", {"@value": "A", "@direction": ["ltr"]}), "name"),
    "description with more": (put("description", {"@value": "A", "a": 1}), "description"),
    "start in words": (put("validFrom", "Sat 25 Feb 2023 07:16:31 PM CST"), "validFrom"),
    "start without offset": (put("validFrom", "2023-02-26T01:02:58"), "validFrom"),
    "start a date": (put("validFrom", "2023-02-26"), "validFrom"),
    "start a number": (put("validFrom", 1677373378), "validFrom"),
    "start null": (put("validFrom", None), "validFrom"),
    "starts": (put("validFrom", ["2023-02-26T01:02:58Z"]), "validFrom"),
    "end in words": (put("validUntil", "tomorrow"), "validUntil"),
    "end null": (put("validUntil", None), "validUntil"),
    "end as a typed value": (
        put("validUntil", {"@value": "2023-02-26T01:02:58Z", "@type": "xsd:dateTime"}),
        "validUntil",
    ),
    "end before start": (
        lambda document: document.update(
            validFrom="2023-02-26T01:00:00Z", validUntil="2023-02-26T01:59:59+01:00"
        ),
        "validFrom",
    ),
    "the old name of the end": (put("expirationDate", "2023-02-26T01:02:58Z"), "expirationDate"),
    "the old name of the start": (put("issuanceDate", "2023-02-26T01:02:58Z"), "issuanceDate"),
    "status without type": (put("credentialStatus", {"id": URL}), "credentialStatus"),
    "status type a number": (put("credentialStatus", {"id": URL, "type": 2}), "credentialStatus"),
    "status id no URL": (
        put("credentialStatus", {"id": NOT_URL, "type": "Other2017"}),
        "credentialStatus.id",
    ),
    "status with ids": (
        put("credentialStatus", {"id": [URL, URL], "type": "Other2017"}),
        "credentialStatus.id",
    ),
    "status null": (put("credentialStatus", None), "credentialStatus"),
    "statuses, none": (put("credentialStatus", []), "credentialStatus"),
    "status text": (put("credentialStatus", URL), "credentialStatus"),
    "status without a list": (
        put("credentialStatus", {"type": "BitstringStatusListEntry"}),
        "statusListCredential",
    ),
    "schema without type": (put("credentialSchema", {"id": URL}), "credentialSchema"),
    "schema without id": (put("credentialSchema", {"type": "JsonSchema"}), "credentialSchema"),
    "schema id no URL": (
        put("credentialSchema", {"type": "JsonSchema", "id": NOT_URL}),
        "credentialSchema.id",
    ),
    "schema text": (put("credentialSchema", URL), "credentialSchema"),
    "schemas, none": (put("credentialSchema", []), "credentialSchema"),
    "refresh service without type": (put("refreshService", {"id": URL}), "refreshService"),
    "refresh service id no URL": (
        put("refreshService", {"type": URL, "id": NOT_URL}),
        "refreshService.id",
    ),
    "terms of use without type": (put("termsOfUse", {"id": URL}), "termsOfUse"),
    "terms of use empty": (put("termsOfUse", {}), "termsOfUse"),
    "evidence empty": (put("evidence", {}), "evidence"),
    "evidences, one without type": (put("evidence", [{"type": "A"}, {"id": URL}]), "evidence"),
    "evidence text": (put("evidence", "seen"), "evidence"),
    "render method without type": (put("renderMethod", {"id": URL}), "renderMethod"),
    "confidence method without type": (put("confidenceMethod", {}), "confidenceMethod"),
    "proof without type": (put("proof", {"cryptosuite": "eddsa-jcs-2022"}), "proof"),
    "proof null": (put("proof", None), "proof"),
    "proof text": (put("proof", "yes"), "proof"),
    "proofs, none": (put("proof", []), "proof"),
    "too many proofs": (put("proof", [{"type": "A"}] * 9), "proof"),
    "resource text": (put("relatedResource", [CONTEXT_V2]), "relatedResource"),
    "resources, none": (put("relatedResource", []), "relatedResource"),
    "resource without id": (put("relatedResource", {"digestMultibase": "uAA"}), "relatedResource"),
    "resource id no URL": (
        put("relatedResource", {"id": "x", "digestMultibase": "uAA"}),
        "relatedResource.id",
    ),
    "resource without digest": (put("relatedResource", {"id": URL}), "relatedResource"),
    "resource twice": (
        put(
            "relatedResource",
            [{"id": URL, "digestMultibase": "uAA"}, {"id": URL, "digestMultibase": "uAA"}],
        ),
        "twice",
    ),
    "resource digest a number": (
        put("relatedResource", {"id": URL, "digestSRI": 5}),
        "relatedResource.digestSRI",
    ),
    "resource media type a number": (
        put("relatedResource", {"id": URL, "digestSRI": "sha256-AA==", "mediaType": 1}),
        "mediaType",
    ),
}


@pytest.mark.parametrize("name", TAKEN)
def test_a_credential_is_taken(name: str) -> None:
    document = edited(CREDENTIAL, TAKEN[name])
    before = copy.deepcopy(document)
    view = check_credential(document)
    assert view.document == before  # read, never written
    assert view.version == "2.0"


@pytest.mark.parametrize("name", REFUSED)
def test_a_credential_is_refused(name: str) -> None:
    edit, named = REFUSED[name]
    with pytest.raises(CredentialsError) as caught:
        check_credential(edited(CREDENTIAL, edit))
    assert isinstance(caught.value, ModelInvalid | StatusEntryInvalid)
    assert named in str(caught.value)


def test_what_a_view_says() -> None:
    view = check_credential(
        edited(
            CREDENTIAL,
            put("id", "urn:uuid:1"),
            put("type", ["VerifiableCredential", "A"]),
            put("issuer", {"id": "did:example:issuer", "name": "I"}),
            put("credentialSubject", [{"id": "did:example:a"}, {"b": 1}, {"id": "did:example:c"}]),
            put("validFrom", "1970-01-01T01:00:10+01:00"),
            put("validUntil", "1970-01-01T00:00:20.5Z"),
            put("credentialStatus", [STATUS]),
            put("credentialSchema", {"type": "JsonSchema", "id": URL}),
        )
    )
    assert view.id == "urn:uuid:1"
    assert view.types == ("VerifiableCredential", "A")
    assert view.issuer == "did:example:issuer"
    assert view.subjects == ("did:example:a", "did:example:c")
    assert (view.valid_from_s, view.valid_until_s) == (10.0, 20.5)
    assert view.statuses[0].index == 7
    assert view.schemas[0]["id"] == URL


class TestVersion11:
    def test_it_is_read(self) -> None:
        view = check_credential(
            edited(CREDENTIAL_V1, put("expirationDate", "2021-01-01T00:00:00Z"))
        )
        assert view.version == "1.1"
        assert view.valid_from_s == 1577836800
        assert view.valid_until_s == 1609459200

    def test_the_narrower_period_counts(self) -> None:
        view = check_credential(
            edited(
                CREDENTIAL_V1,
                put("validFrom", "2020-02-01T00:00:00Z"),
                put("validUntil", "2020-03-01T00:00:00Z"),
                put("expirationDate", "2021-01-01T00:00:00Z"),
            )
        )
        assert (view.valid_from_s, view.valid_until_s) == (1580515200, 1583020800)

    @pytest.mark.parametrize(
        ("edit", "named"),
        [
            (without("issuanceDate"), "issuanceDate"),
            (put("issuanceDate", "2020-01-01"), "issuanceDate"),
            (put("expirationDate", "2019-01-01T00:00:00Z"), "validUntil"),
            (put("expirationDate", None), "expirationDate"),
            (put("credentialStatus", {"type": "Other2017"}), "credentialStatus"),
        ],
    )
    def test_it_is_refused(self, edit: Edit, named: str) -> None:
        with pytest.raises(ModelInvalid, match=named):
            check_credential(edited(CREDENTIAL_V1, edit))


class TestRelatedResources:
    """The digest of a context that is pinned here is compared with the pinned bytes."""

    JULY_2024 = (
        ("digestSRI", "sha384-NSOcNpmdIVUxIJGvGUoe22FjTWrXiaXlsZ8q6912LdnR3KraQO2n75Ica4wK4Qeg"),
        ("digestMultibase", "uJKGMkOmFbVJhEfKTduMC2XCyvRAYLjOVmZWwIH1wQ7k"),
    )

    def check(self, name: str, value: Any) -> None:
        check_credential(
            edited(CREDENTIAL, put("relatedResource", {"id": CONTEXT_V2, name: value}))
        )

    @pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha512"])
    def test_the_right_digest(self, algorithm: str) -> None:
        data = context_bytes(CONTEXT_V2)
        text = sri(data, algorithm)
        self.check("digestSRI", text)
        self.check("digestSRI", text.replace("+", "-").replace("/", "_"))
        self.check("digestSRI", [text, sri(data)])

    def test_the_right_multibase_digest(self) -> None:
        digest = hashlib.sha256(context_bytes(CONTEXT_V2)).digest()
        self.check("digestMultibase", multibase(digest))
        self.check("digestMultibase", multibase(b"\x12\x20" + digest))

    @pytest.mark.parametrize(("name", "value"), JULY_2024)
    def test_the_context_as_it_was_before_the_recommendation(self, name: str, value: str) -> None:
        self.check(name, value)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("digestSRI", sri(b"something else")),
            ("digestSRI", "sha384-" + "A" * 43 + "="),
            ("digestSRI", "md5-AAAA"),
            ("digestSRI", "sha256-====="),
            ("digestSRI", ""),
            ("digestSRI", []),
            ("digestSRI", [sri(b"something else")]),
            ("digestMultibase", multibase(hashlib.sha256(b"something else").digest())),
            ("digestMultibase", "not multibase"),
            ("digestMultibase", ""),
            ("digestMultibase", "u" + "A" * 400),
        ],
    )
    def test_a_wrong_digest(self, name: str, value: Any) -> None:
        with pytest.raises(ModelInvalid, match="relatedResource"):
            self.check(name, value)

    def test_one_right_digest_does_not_excuse_a_wrong_one(self) -> None:
        right = sri(context_bytes(CONTEXT_V2))
        with pytest.raises(ModelInvalid, match="digest"):
            self.check("digestSRI", [right, sri(b"something else")])


PRESENTATIONS_TAKEN: dict[str, Edit] = {
    "as it is": lambda document: None,
    "with an id": put("id", "urn:uuid:9c9a36f8-518f-4976-a934-6649502d0008"),
    "a further type": put("type", ["VerifiablePresentation", URL]),
    "one type alone": put("type", "VerifiablePresentation"),
    "an object as a context": put("@context", [CONTEXT_V2, {"A": URL}]),
    "no credentials": put("verifiableCredential", []),
    "one credential alone": put("verifiableCredential", CREDENTIAL),
    "two credentials": put("verifiableCredential", [CREDENTIAL, CREDENTIAL]),
    "a holder": put("holder", "did:example:holder"),
    "a holder object": put("holder", {"id": "did:example:holder"}),
    "version 1.1": put("@context", [CONTEXT_V1]),
}
PRESENTATIONS_REFUSED: dict[str, tuple[Edit, str]] = {
    "no context": (without("@context"), "@context"),
    "base context second": (put("@context", [URL, CONTEXT_V2]), "@context"),
    "base context missing": (put("@context", [URL]), "@context"),
    "context no URL": (put("@context", [CONTEXT_V2, NOT_URL]), "@context"),
    "context a number": (put("@context", [CONTEXT_V2, 5]), "@context"),
    "no type": (without("type"), "type"),
    "type of a credential": (put("type", ["VerifiableCredential"]), "type"),
    "type of something else": (put("type", ["NonconformingDocument"]), "type"),
    "an envelope": (put("type", ["EnvelopedVerifiablePresentation"]), "type"),
    "ids": (put("id", [URL]), "id"),
    "id no URL": (put("id", "x"), "id"),
    "holder no URL": (put("holder", "z6MkpJySvETLnxhQG9DzEdmKJtysBDjuuTeDfUj1uNNCUqcj"), "holder"),
    "holder object without id": (put("holder", {"name": "A"}), "holder.id"),
    "holder id no URL": (put("holder", {"id": "z6Mkp"}), "holder.id"),
    "holder null": (put("holder", None), "holder"),
    "holders": (put("holder", ["did:example:a", "did:example:b"]), "holder"),
    "credential text": (put("verifiableCredential", URL), "verifiableCredential"),
    "credentials, one text": (
        put("verifiableCredential", [CREDENTIAL, URL]),
        "verifiableCredential",
    ),
    "credential a number": (put("verifiableCredential", 1), "verifiableCredential"),
    "credential null": (put("verifiableCredential", None), "verifiableCredential"),
    "credentials in lists": (put("verifiableCredential", [[CREDENTIAL]]), "verifiableCredential"),
    "too many credentials": (put("verifiableCredential", [CREDENTIAL] * 33), "at most 32"),
    "terms of use without type": (put("termsOfUse", {"id": URL}), "termsOfUse"),
    "proof without type": (put("proof", {}), "proof"),
    "name with more": (put("name", {"@value": "A", "a": 1}), "name"),
}


@pytest.mark.parametrize("name", PRESENTATIONS_TAKEN)
def test_a_presentation_is_taken(name: str) -> None:
    view = check_presentation(edited(PRESENTATION, PRESENTATIONS_TAKEN[name]))
    assert view.holder in (None, "did:example:holder")


@pytest.mark.parametrize("name", PRESENTATIONS_REFUSED)
def test_a_presentation_is_refused(name: str) -> None:
    edit, named = PRESENTATIONS_REFUSED[name]
    with pytest.raises(ModelInvalid, match=named):
        check_presentation(edited(PRESENTATION, edit))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["id", "type", "@value", "@language", "name", "digestSRI", "x"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)
PROPERTIES = sorted(
    {
        *CREDENTIAL,
        "validFrom",
        "validUntil",
        "credentialStatus",
        "credentialSchema",
        "evidence",
        "termsOfUse",
        "refreshService",
        "relatedResource",
        "proof",
        "name",
        "description",
        "id",
        "holder",
        "verifiableCredential",
        "renderMethod",
        "issuanceDate",
    }
)


@given(
    base=st.sampled_from([CREDENTIAL, CREDENTIAL_V1, PRESENTATION]),
    changes=st.dictionaries(st.sampled_from(PROPERTIES), JSON, max_size=3),
)
def test_any_values_are_taken_or_refused(base: dict[str, Any], changes: dict[str, Any]) -> None:
    check = check_presentation if base is PRESENTATION else check_credential
    with contextlib.suppress(CredentialsError):
        assert check({**base, **changes}).types


@pytest.mark.parametrize("folder", ["verifiable-credential", "verifiable-presentation"])
def test_the_examples_of_the_recommendation(vectors: Path, folder: str) -> None:
    check = check_credential if folder == "verifiable-credential" else check_presentation
    files = sorted((vectors / "vcdm" / "schema" / folder).glob("example-*.json"))
    assert len(files) >= 3
    for file in files:
        view = check(json.loads(file.read_text("utf-8")))
        for credential in getattr(view, "credentials", ()):
            check_credential(credential)
