"""Credentials and presentations of ours, verified by Digital Bazaar's libraries, and theirs by us.

Node and the libraries come from the package registries; without them the tests are skipped.
"""

from __future__ import annotations

import json
import subprocess
from typing import Any

import base58
import pytest
from interop_tools import HERE, node_program, npm_project

from credentials.constructors import (
    Frame,
    Window,
    build_throughput,
    build_uptime,
)
from credentials.did import did_key, verification_method
from credentials.document import Document, encode_time
from credentials.errors import CredentialsError, ProofInvalid
from credentials.keys import SecretKey
from credentials.multikey import encode_multikey
from credentials.proof import ProofOptions, Suite, add_proof, verify_proofs
from credentials.resolve import resolve_offline
from schemas import context_digests, load_context

NOW = 1_700_000_000.0
CREATED = NOW - 60
SUITES: tuple[Suite, ...] = ("eddsa-jcs-2022", "eddsa-rdfc-2022")
OLD_SUITE = "Ed25519Signature2020"
KEY, HOLDER = SecretKey(bytes([41]) * 32), SecretKey(bytes([42]) * 32)
CHALLENGE, DOMAIN = "2f0b9a4c-challenge", "verifier.example"
TIMEOUT_S = 60.0

V1 = "https://www.w3.org/2018/credentials/v1"
V2 = "https://www.w3.org/ns/credentials/v2"
EXAMPLES = "https://www.w3.org/ns/credentials/examples/v2"
INTEGRITY_V2 = "https://w3id.org/security/data-integrity/v2"
ED25519_2020 = "https://w3id.org/security/suites/ed25519-2020/v1"

each_suite = pytest.mark.parametrize("suite", SUITES)


def ask(*jobs: dict[str, Any]) -> list[Any]:
    """Let the JavaScript libraries do some jobs; return their answers."""
    project = npm_project(
        "js-credentials", HERE / "credentials" / "package.json", HERE / "js_credentials.mjs"
    )
    contexts = {url: load_context(url) for url in context_digests()}
    done = subprocess.run(
        [*node_program(), "js_credentials.mjs"],
        input=json.dumps({"contexts": contexts, "jobs": list(jobs)}).encode(),
        cwd=project,
        stdout=subprocess.PIPE,
        timeout=TIMEOUT_S,
        check=True,
    )
    answers = json.loads(done.stdout)
    for answer in answers:
        assert "error" not in answer, answer["error"]
    return [answer["value"] for answer in answers]


def did(secret: SecretKey = KEY) -> str:
    return str(did_key(secret.public))


def credential() -> Document:
    return {
        "@context": [V2, EXAMPLES],
        "id": "urn:uuid:58172aac-d8ba-11ed-83dd-0b3aef56cc33",
        "type": ["VerifiableCredential", "AlumniCredential"],
        "name": "Alumni Credential – éà日本🙂",
        "issuer": {"id": did(), "name": "The School"},
        "validFrom": "2023-01-01T00:00:00Z",
        "validUntil": "2033-01-01T00:00:00Z",
        "credentialSubject": [
            {
                "id": did(HOLDER),
                "alumniOf": {"id": "did:example:school", "name": [{"@value": "L'école"}]},
                "degree": {"type": "ExampleDegree", "rank": 2, "grade": 1.5, "passed": True},
            }
        ],
    }


def credential_v1() -> Document:
    return {
        "@context": [V1, INTEGRITY_V2],
        "id": "urn:uuid:58172aac-d8ba-11ed-83dd-0b3aef56cc34",
        "type": ["VerifiableCredential"],
        "issuer": did(),
        "issuanceDate": "2023-01-01T00:00:00Z",
        "credentialSubject": {"id": did(HOLDER)},
    }


def plain() -> Document:
    """One context, and nothing of the examples."""
    body = {**credential_v1(), "@context": [V2]}
    del body["issuanceDate"]
    return body


def presentation(*credentials: Document) -> Document:
    return {
        "@context": [V2],
        "type": ["VerifiablePresentation"],
        "holder": did(HOLDER),
        "verifiableCredential": list(credentials),
    }


def signed(suite: Suite, over: Document, secret: SecretKey = KEY, **options: Any) -> Document:
    method = verification_method(did_key(secret.public))
    options = {"created_s": CREATED, **options}
    return add_proof(over, ProofOptions(suite=suite, method=method, **options), secret)


def signing(suite: str, document: Document, secret: SecretKey = KEY) -> dict[str, Any]:
    """What a job needs in order to sign."""
    raw = b"\x80\x26" + secret.expose_seed() + secret.public.raw
    return {
        "suite": suite,
        "document": document,
        "created": encode_time(CREATED),
        "now": encode_time(NOW),
        "publicKeyMultibase": encode_multikey(secret.public),
        "secretKeyMultibase": "z" + base58.b58encode(raw).decode(),
    }


def verifying(document: Document, suite: str = "", command: str = "verify") -> dict[str, Any]:
    return {
        "command": command,
        "suite": suite,
        "document": document,
        "now": encode_time(NOW),
        "challenge": CHALLENGE,
        "domain": DOMAIN,
    }


def tampered(document: Document) -> list[Document]:
    proof = document["proof"]
    return [
        {**document, "validUntil": "2034-01-01T00:00:00Z"},
        {**document, "credentialSubject": {"id": did(KEY)}},
        {**document, "proof": {**proof, "created": encode_time(CREATED - 1)}},
        {**document, "proof": {**proof, "proofValue": "z" + proof["proofValue"][2:]}},
    ]


@each_suite
def test_theirs_accepts_ours(suite: Suite) -> None:
    ours = [
        signed(suite, credential()),
        signed(suite, credential_v1()),
        signed(suite, credential(), id="urn:uuid:1", expires_s=NOW + 1000, nonce='a "nonce" \\'),
        signed(suite, signed(SUITES[0], credential(), nonce="first"), HOLDER),
        signed(suite, plain()),
    ]
    for answer in ask(*map(verifying, ours)):
        assert answer == {"verified": True, "reasons": []}


NUMBERS = [0.1, 12.5, 1 / 3, 1e5, 123456.789, 1e-6]


@each_suite
def test_theirs_accepts_our_own_kinds(suite: Suite) -> None:
    """Numbers are where JSON, JCS and XML Schema differ."""
    frame = Frame(issuer=did(), subject=did(HOLDER), valid_from_s=CREATED)
    window = Window(CREATED - 7200, CREATED)
    kinds = [
        build_uptime(frame, window, probes=3, successes=successes, median_round_trip_ms=number)
        for successes, number in zip((0, 1, 2, 3, 3, 3), NUMBERS, strict=True)
    ]
    kinds += [
        build_throughput(
            frame,
            window,
            model="sha256:" + "ab" * 32,
            block_start=0,
            block_stop=7,
            phase="decode",
            tokens_per_s=number,
            samples=10,
        )
        for number in NUMBERS
    ]
    for answer in ask(*(verifying(signed(suite, document)) for document in kinds)):
        assert answer == {"verified": True, "reasons": []}


@each_suite
def test_theirs_refuses_ours_when_tampered_with(suite: Suite) -> None:
    for answer in ask(*map(verifying, tampered(signed(suite, credential())))):
        assert not answer["verified"]
        assert answer["reasons"]


@pytest.mark.parametrize("suite", [*SUITES, OLD_SUITE])
def test_ours_accepts_theirs_and_refuses_it_when_tampered_with(suite: str) -> None:
    bodies = [credential(), credential_v1()]
    if suite == OLD_SUITE:
        bodies = [{**body, "@context": [*body["@context"], ED25519_2020]} for body in bodies]
    for theirs in ask(*({"command": "sign", **signing(suite, body)} for body in bodies)):
        [checked] = verify_proofs(theirs, resolve_offline, purpose="assertionMethod", now_s=NOW)
        assert (checked.suite, checked.controller) == (suite, did())
        assert checked.created_s == CREATED
        for other in tampered(theirs):
            with pytest.raises(CredentialsError):
                verify_proofs(other, resolve_offline, purpose="assertionMethod", now_s=NOW)


@each_suite
def test_both_make_the_same_proof(suite: Suite) -> None:
    """Ed25519 is deterministic: every byte of the options and of the document counts."""
    [theirs] = ask({"command": "sign", **signing(suite, credential())})
    assert theirs == signed(suite, credential())


@each_suite
def test_presentations_of_ours_are_accepted_by_theirs(suite: Suite) -> None:
    inside = [signed(other, credential()) for other in SUITES]
    options = {"purpose": "authentication", "challenge": CHALLENGE, "domain": DOMAIN}
    ours = signed(suite, presentation(*inside), HOLDER, **options)
    wrong = [
        signed(suite, presentation(*inside), HOLDER, **{**options, "challenge": "another"}),
        signed(suite, presentation(*inside), HOLDER, **{**options, "domain": "another.example"}),
        signed(suite, presentation(*inside), HOLDER, **{**options, "purpose": "assertionMethod"}),
        {**ours, "holder": did(KEY)},
    ]
    jobs = [verifying(document, command="verifyPresentation") for document in (ours, *wrong)]
    first, *others = ask(*jobs)
    assert first == {"verified": True, "reasons": []}
    assert [answer["verified"] for answer in others] == [False] * len(others)


@each_suite
def test_presentations_of_theirs_are_accepted_by_ours(suite: Suite) -> None:
    inside = [signed(other, credential()) for other in SUITES]
    job = signing(suite, presentation(*inside), HOLDER)
    [theirs] = ask({"command": "present", "challenge": CHALLENGE, "domain": DOMAIN, **job})
    [checked] = verify_proofs(theirs, resolve_offline, purpose="authentication", now_s=NOW)
    assert (checked.suite, checked.controller) == (suite, did(HOLDER))
    assert (checked.challenge, checked.domain) == (CHALLENGE, (DOMAIN,))
    for other in theirs["verifiableCredential"]:
        verify_proofs(other, resolve_offline, purpose="assertionMethod", now_s=NOW)
    with pytest.raises(ProofInvalid):
        verify_proofs(
            {**theirs, "holder": did(KEY)}, resolve_offline, purpose="authentication", now_s=NOW
        )
