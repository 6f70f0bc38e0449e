"""Data Integrity with eddsa-rdfc-2022 and eddsa-jcs-2022 over HTTP: proofs made, proofs refused.

The rules of the W3C's suites (w3c/vc-di-eddsa-test-suite and the Data Integrity assertions that it
uses) in our own words. https://www.w3.org/TR/vc-di-eddsa/, https://www.w3.org/TR/vc-data-integrity/
"""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Callable
from typing import Any

import base58
import pytest
from conformance_server import (
    DATA_INTEGRITY,
    HOLDER,
    RDFC,
    STRANGER,
    SUITES,
    V1,
    V2,
    Client,
    assert_refused,
    credential,
)

from credentials.did import parse_did
from credentials.document import Document
from credentials.jcs import canonicalize_jcs
from credentials.proof import Suite
from credentials.rdfc import canonicalize_rdfc

DATE_TIME_STAMP = re.compile(
    r"-?([1-9]\d{3,}|0\d{3})-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])"
    r"T([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d+)?(Z|[+-](0\d|1[0-3]):[0-5]\d)"
)
BASE58 = re.compile(r"[1-9A-HJ-NP-Za-km-z]+")
OLD = {
    "@context": [V1],
    "type": ["VerifiableCredential"],
    "issuer": "did:example:issuer",
    "issuanceDate": "2020-03-16T22:37:26.544Z",
    "credentialSubject": {"id": "did:example:subject"},
}

both = pytest.mark.parametrize("suite", SUITES)
any_version = pytest.mark.parametrize("document", [credential(), OLD], ids=["2.0", "1.1"])


@both
@any_version
def test_the_proof_of_an_issued_credential(api: Client, suite: Suite, document: Document) -> None:
    issued = api.issued(document, suite)
    proof = issued["proof"]
    assert proof["type"] == "DataIntegrityProof"
    assert proof["cryptosuite"] == suite
    assert proof["proofPurpose"] == "assertionMethod"
    assert DATE_TIME_STAMP.fullmatch(proof["created"])
    assert proof["proofValue"][0] == "z"
    assert BASE58.fullmatch(proof["proofValue"][1:])
    assert len(base58.b58decode(proof["proofValue"][1:])) == 64
    assert {V2, DATA_INTEGRITY} & set(issued["@context"])
    assert api.verify(issued).status == 200


@both
def test_the_method_of_a_proof_is_a_multikey_for_assertions(api: Client, suite: Suite) -> None:
    method = api.issued(credential(), suite)["proof"]["verificationMethod"]
    did = method.partition("#")[0]
    document = api.resolve(did).body["didDocument"]
    assert method in document["assertionMethod"]
    entry = next(m for m in document["verificationMethod"] if m["id"] == method)
    assert entry["type"] == "Multikey"
    assert entry["controller"] == did
    key = entry["publicKeyMultibase"]
    assert key[0] == "z"
    assert len(base58.b58decode(key[1:])) == 34


@both
@any_version
@pytest.mark.parametrize(
    "change",
    [{"undefinedTerm": "x"}, {"type": ["VerifiableCredential", "UndefinedType"]}],
    ids=["term", "type"],
)
def test_what_is_undefined_is_not_signed(
    api: Client, suite: Suite, document: Document, change: Document
) -> None:
    assert_refused(api.issue(document | change, suite))


def changed(document: Document, *path: str, value: Any = None) -> Document:
    """Return a copy with one property set, or taken away where `value` is None."""
    copied = copy.deepcopy(document)
    holder = copied
    for name in path[:-1]:
        holder = holder[name]
    if value is None:
        del holder[path[-1]]
    else:
        holder[path[-1]] = value
    return copied


def with_proof(document: Document, **changes: Any) -> Document:
    return document | {"proof": {**document["proof"], **changes}}


def longer(document: Document) -> Document:
    raw = base58.b58decode(document["proof"]["proofValue"][1:])
    value = "z" + base58.b58encode(raw + bytes(32)).decode()
    return with_proof(document, proofValue=value)


BROKEN: dict[str, Callable[[Document], Document]] = {
    "no proof": lambda d: changed(d, "proof"),
    "a null proof": lambda d: d | {"proof": None},
    "a proof that is a string": lambda d: d | {"proof": "string"},
    "an empty list of proofs": lambda d: d | {"proof": []},
    "no type": lambda d: changed(d, "proof", "type"),
    "another type": lambda d: with_proof(d, type="UnknownProofType"),
    "no cryptosuite": lambda d: changed(d, "proof", "cryptosuite"),
    "another cryptosuite": lambda d: with_proof(d, cryptosuite="unknown-cryptosuite-2017"),
    "a number as cryptosuite": lambda d: with_proof(d, cryptosuite=2022),
    "no method": lambda d: changed(d, "proof", "verificationMethod"),
    "a method that is none": lambda d: with_proof(d, verificationMethod="did:key:invalidVm"),
    "the method of another key": lambda d: with_proof(d, verificationMethod=STRANGER.method),
    "no purpose": lambda d: changed(d, "proof", "proofPurpose"),
    "a purpose that is none": lambda d: with_proof(d, proofPurpose="invalidPurpose"),
    "another purpose": lambda d: with_proof(d, proofPurpose="authentication"),
    "no proof value": lambda d: changed(d, "proof", "proofValue"),
    "a null proof value": lambda d: with_proof(d, proofValue=None),
    "a proof value without its multibase prefix": lambda d: with_proof(
        d, proofValue=d["proof"]["proofValue"][1:]
    ),
    "a proof value in base64": lambda d: with_proof(d, proofValue="u" + "A" * 86),
    "a proof value of 96 bytes": longer,
    "created is no time": lambda d: with_proof(d, created="invalidDate"),
    "created without an offset": lambda d: with_proof(d, created="2023-02-24T23:36:38"),
    "expires without an offset": lambda d: with_proof(d, expires="2999-02-24T23:36:38"),
    "expired": lambda d: with_proof(d, expires="2023-02-24T23:36:38Z"),
    "another subject": lambda d: d | {"credentialSubject": {"id": "did:example:other"}},
    "a term more": lambda d: d | {"name": "added"},
}


@both
@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN.keys())
def test_broken_proofs(api: Client, suite: Suite, broken: Callable[[Document], Document]) -> None:
    document = broken(HOLDER.credential(suite))
    for options in ({}, {"checks": ["proof"]}):
        answer = api.verify(document, **options)
        assert_refused(answer)
        assert answer.body["verified"] is False


@both
def test_contexts_are_a_finding_of_their_own(api: Client, suite: Suite) -> None:
    signed = HOLDER.credential(suite)
    assert api.verify(signed, checks=["contexts"]).status == 200
    more = signed | {"@context": [*signed["@context"], {"x": "https://a.example/x"}]}
    answer = api.verify(more)
    assert answer.body["verified"] is True
    assert answer.body["contextsTrusted"] is False
    assert [warning["step"] for warning in answer.body["warnings"]] == ["contexts"]
    assert_refused(api.verify(more, checks=["contexts"]))


@both
def test_a_proof_needs_no_time(api: Client, suite: Suite) -> None:
    signed = HOLDER.sign(credential(issuer=HOLDER.did), suite, created_s=None)
    assert "created" not in signed["proof"]
    assert api.verify(signed).status == 200


@both
@pytest.mark.parametrize(
    "options",
    [{"expectedProofPurpose": "authentication"}, {"domain": "a.example"}, {"challenge": "u1"}],
    ids=lambda options: next(iter(options)),
)
def test_expectations_that_the_proof_does_not_meet(
    api: Client, suite: Suite, options: dict[str, str]
) -> None:
    document = HOLDER.credential(suite)
    assert_refused(api.verify(document, **options))
    assert api.verify(document, expectedProofPurpose="assertionMethod").status == 200


def resigned(document: Document, data: bytes) -> Document:
    """Put the holder's signature over other bytes into a proof."""
    value = "z" + base58.b58encode(HOLDER.secret.sign(data)).decode()
    return with_proof(document, proofValue=value)


def parts(document: Document) -> tuple[Document, Document]:
    """Return the proof's options and the document, as each suite canonicalizes them."""
    options = {k: v for k, v in document["proof"].items() if k != "proofValue"}
    bare = {k: v for k, v in document.items() if k != "proof"}
    return options | {"@context": document["@context"]}, bare


def by_rdfc(value: Document) -> bytes:
    return canonicalize_rdfc(value).encode()


def hashed(hash_name: str, canonicalize: Callable[[Document], bytes], document: Document) -> bytes:
    return b"".join(hashlib.new(hash_name, canonicalize(part)).digest() for part in parts(document))


def test_the_helpers_of_the_next_test_sign_as_the_suite_does(api: Client) -> None:
    document = HOLDER.credential(RDFC)
    assert resigned(document, hashed("sha256", by_rdfc, document)) == document


@pytest.mark.parametrize(
    ("hash_name", "canonicalize"),
    [
        ("sha512", by_rdfc),
        ("sha256", canonicalize_jcs),
        ("sha256", lambda value: str(value).encode()),
    ],
    ids=["another hash", "another canonical form", "none at all"],
)
def test_other_ways_to_sign(
    api: Client, hash_name: str, canonicalize: Callable[[Document], bytes]
) -> None:
    document = HOLDER.credential(RDFC)
    assert_refused(api.verify(resigned(document, hashed(hash_name, canonicalize, document))))


def test_each_issuer_has_its_suite(api: Client) -> None:
    assert api.issued(credential())["proof"]["cryptosuite"] == "eddsa-rdfc-2022"
    chosen = api.issued(credential(), cryptosuite="eddsa-jcs-2022")
    assert chosen["proof"]["cryptosuite"] == "eddsa-jcs-2022"
    assert_refused(api.issue(credential(), "eddsa-rdfc-2022", cryptosuite="eddsa-jcs-2022"))
    assert_refused(api.issue(credential(), cryptosuite="ecdsa-rdfc-2019"))
    body = {"credential": credential()}
    assert api.post("/issuers/ecdsa-rdfc-2019/credentials/issue", body).status == 400


def test_the_key_is_the_issuers(api: Client) -> None:
    issued = api.issued(credential())
    assert parse_did(issued["issuer"]) == parse_did(api.office.did)
    assert issued["proof"]["verificationMethod"].startswith(issued["issuer"] + "#")
