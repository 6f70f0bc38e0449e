"""Verification of credentials: what holds, what is told of it, and the table of what is refused."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from hashlib import sha256
from typing import Any

import base58
import pytest
from credential_scene import (
    DAY_S,
    EXAMPLES,
    HOLDER,
    ISSUER,
    JCS,
    LIST_URL,
    NOW_S,
    RDFC,
    STRANGER,
    SUITES,
    bomb,
    encoded,
    environment,
    lists,
    signed,
    statuses,
    unsigned,
)

from credentials.document import encode_time
from credentials.errors import (
    ContextUnknown,
    CredentialExpired,
    CredentialNotYetValid,
    CredentialRevoked,
    CredentialsError,
    CredentialSuspended,
    DidMethodUnsupported,
    DidNotFound,
    DocumentInvalid,
    GraphTooComplex,
    KeyInvalid,
    MethodNotAuthorized,
    ModelInvalid,
    PolicyRefused,
    ProofExpired,
    ProofInvalid,
    ProofMissing,
    ProofUnsupported,
    SchemaViolated,
    StatusListInvalid,
    StatusUnknown,
    TermUndefined,
)
from credentials.limits import DOCUMENT_BYTES_MAX
from credentials.model import CONTEXT_V1, CONTEXT_V2
from credentials.multikey import encode_multikey
from credentials.policy import NODE_POLICY
from credentials.proof import Suite
from credentials.resolve import make_resolver
from credentials.verified import VerifiedCache, VerifiedCredential
from credentials.verify import dids_needed, status_lists_needed, verify_credential

WEB = "did:web:issuer.example"


def changed(document: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {**copy.deepcopy(document), **changes}


class TestWhatHolds:
    @pytest.mark.parametrize("suite", SUITES)
    def test_a_credential(self, suite: Suite) -> None:
        data = encoded(signed(suite))
        verified = verify_credential(data, environment())
        assert verified.original == data
        assert verified.issuer == ISSUER.did
        assert verified.subject == HOLDER.did
        assert verified.types == ("VerifiableCredential",)
        assert verified.contexts_trusted
        assert [proof.suite for proof in verified.proofs] == [suite]
        NODE_POLICY.require(verified)

    def test_the_steps_are_told(self) -> None:
        verified = verify_credential(signed(), environment())
        assert [(step.number, step.name, step.outcome) for step in verified.steps] == [
            (1, "document", "passed"),
            (2, "data model", "passed"),
            (3, "contexts", "passed"),
            (4, "proofs", "passed"),
            (5, "issuer", "passed"),
            (6, "validity period", "passed"),
            (7, "schema", "skipped"),
            (8, "status", "skipped"),
        ]
        assert all(step.detail for step in verified.steps)

    def test_a_parsed_document_is_copied(self) -> None:
        document = signed()
        verified = verify_credential(document, environment())
        document["credentialSubject"]["id"] = STRANGER.did
        assert verified.subject == HOLDER.did
        assert json.loads(verified.original)["credentialSubject"]["id"] == HOLDER.did

    @pytest.mark.parametrize("suite", SUITES)
    def test_a_status_that_is_not_set(self, suite: Suite) -> None:
        known = lists(suite=suite)
        env = environment(status=known.__getitem__)
        verified = verify_credential(signed(suite, credentialStatus=statuses()), env)
        assert verified.status == "passed"
        assert [finding.value for finding in verified.statuses] == [0, 0]

    def test_a_set_of_proofs(self) -> None:
        document = STRANGER.sign(ISSUER.sign(unsigned(), JCS), RDFC)
        verified = verify_credential(document, environment())
        assert {proof.controller for proof in verified.proofs} == {ISSUER.did, STRANGER.did}

    def test_several_subjects_have_no_one_subject(self) -> None:
        subjects = [{"id": HOLDER.did}, {"id": STRANGER.did}]
        assert verify_credential(signed(credentialSubject=subjects), environment()).subject is None
        nobody = signed(credentialSubject=[{"name": "somebody"}])
        assert verify_credential(nobody, environment()).subject is None

    def test_version_1_1(self) -> None:
        from credentials.issue import issue_credential

        document = {
            "@context": [CONTEXT_V1],
            "type": ["VerifiableCredential"],
            "issuer": ISSUER.did,
            "issuanceDate": encode_time(NOW_S - DAY_S),
            "credentialSubject": {"id": HOLDER.did},
        }
        document = issue_credential(document, ISSUER.options(RDFC), ISSUER.secret)
        assert verify_credential(document, environment()).contexts_trusted

    def test_a_value_of_verification_is_not_made_by_hand(self) -> None:
        verified = verify_credential(signed(), environment())
        with pytest.raises(TypeError, match="verify_credential"):
            replace(verified, made_here=None)
        with pytest.raises(TypeError, match="verify_credential"):
            VerifiedCredential(verified.view, b"", (), "", (), (), "passed", "", (), 0.0, object())


class TestContexts:
    """Proofs that hold, and contexts that are trusted: two findings."""

    @pytest.mark.parametrize("suite", SUITES)
    @pytest.mark.parametrize(
        "further",
        [{"nickName": "https://example.org/nickName"}, EXAMPLES],
        ids=["inline", "@vocab"],
    )
    def test_a_context_that_is_not_trusted(self, suite: Suite, further: Any) -> None:
        subject = {"id": HOLDER.did, "nickName": "A"}
        document = signed(suite, **{"@context": [CONTEXT_V2, further]}, credentialSubject=subject)
        verified = verify_credential(document, environment())
        assert not verified.contexts_trusted
        assert verified.steps[2].outcome == "failed"
        with pytest.raises(PolicyRefused, match="contexts"):
            NODE_POLICY.require(verified)

    def test_a_list_that_the_verifier_trusts(self) -> None:
        subject = {"id": HOLDER.did, "nickName": "A"}
        document = signed(JCS, **{"@context": [CONTEXT_V2, EXAMPLES]}, credentialSubject=subject)
        env = environment(trusted_contexts=frozenset({(CONTEXT_V2, EXAMPLES)}))
        assert verify_credential(document, env).contexts_trusted

    def test_a_context_within(self) -> None:
        subject = {
            "@context": {"nickName": "https://example.org/n"},
            "id": HOLDER.did,
            "nickName": "A",
        }
        verified = verify_credential(signed(RDFC, credentialSubject=subject), environment())
        assert not verified.contexts_trusted

    def test_a_name_written_as_an_iri(self) -> None:
        subject = {"id": HOLDER.did, "https://example.org/nickName": "A"}
        verified = verify_credential(signed(RDFC, credentialSubject=subject), environment())
        assert not verified.contexts_trusted

    def test_a_graph_that_is_another_document_too(self) -> None:
        """Over RDF what is said of one id may stand in either place that has the id."""
        document = unsigned(id=HOLDER.did)
        verified = verify_credential(ISSUER.sign(document, RDFC), environment())
        assert "two places" in verified.contexts_reason
        document = unsigned(type=["VerifiableCredential", "https://example.org/Any"])
        assert (
            "IRI" in verify_credential(ISSUER.sign(document, RDFC), environment()).contexts_reason
        )
        assert verify_credential(ISSUER.sign(document, JCS), environment()).contexts_trusted

    def test_a_context_added_after_signing(self) -> None:
        document = signed(JCS)
        document["@context"] = [
            *document["@context"],
            "https://w3id.org/security/data-integrity/v2",
        ]
        verified = verify_credential(document, environment())
        assert not verified.contexts_trusted
        assert "after" in verified.contexts_reason


class TestRefused:
    """Issue 4, section 2: each that verification must refuse."""

    def refuse(
        self, document: Any, error: type[CredentialsError], step: int, **changes: Any
    ) -> CredentialsError:
        with pytest.raises(error) as caught:
            verify_credential(document, environment(**changes))
        found = caught.value
        assert [s.number for s in found.steps if s.outcome == "failed"][-1] == step, found.steps
        assert len(found.steps) == 8
        assert all(s.outcome == "skipped" for s in found.steps[step:])
        return found

    # 1. documents

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"{",
            b"[]",
            b"null",
            b'"text"',
            b"\xff\xfe",
            b'{"a":1} {"b":2}',
            b'{"a":NaN}',
            b'{"a":Infinity}',
            b'{"a":1e999}',
            b'{"a":9007199254740993}',
            b'{"a":"\\ud800"}',
            b'{"a":1,"a":1}',
            b'{"a":{"b":1,"\\u0062":2}}',
            b'{"a":' * 33 + b"1" + b"}" * 33,
            b"[" * 100_000,
            b'{"a":' * 100_000,
            b'{"a":"' + b"x" * DOCUMENT_BYTES_MAX + b'"}',
        ],
        ids=lambda data: repr(data[:24]),
    )
    def test_no_document(self, data: bytes) -> None:
        self.refuse(data, DocumentInvalid, 1)

    def test_a_duplicate_key_in_a_signed_document(self) -> None:
        data = encoded(signed()).replace(b'{"@context"', b'{"issuer":"did:example:x","@context"', 1)
        assert json.loads(data)["issuer"] == ISSUER.did  # a parser that does not look would take it
        self.refuse(data, DocumentInvalid, 1)

    def test_a_number_that_two_documents_share(self) -> None:
        document = signed(credentialSubject={"id": HOLDER.did, "n": 2**53 - 1})
        verify_credential(document, environment())
        data = encoded(document).replace(b"9007199254740991", b"9007199254740993")
        self.refuse(data, DocumentInvalid, 1)

    # 2. data model

    def test_a_malformed_credential(self) -> None:
        self.refuse(changed(signed(), type=["Other"]), ModelInvalid, 2)

    def test_an_envelope(self) -> None:
        document = {
            "@context": [CONTEXT_V2],
            "type": "EnvelopedVerifiableCredential",
            "id": "data:application/vc+jwt,eyJ",
        }
        self.refuse(document, ModelInvalid, 2)

    # 4. keys

    @pytest.mark.parametrize("suite", SUITES)
    def test_a_method_that_is_not_for_assertions(self, suite: Suite) -> None:
        document = self.by_web(suite)
        resolver = self.web_resolver(authentication=True)
        error = self.refuse(document, MethodNotAuthorized, 4, resolver=resolver)
        assert error.problem.endswith("#INVALID_VERIFICATION_METHOD")
        verify_credential(document, environment(resolver=self.web_resolver(authentication=False)))

    def by_web(self, suite: Suite) -> dict[str, Any]:
        return ISSUER.sign(unsigned(issuer=WEB), suite, method=f"{WEB}#key-1")

    def web_resolver(self, *, authentication: bool, controller: str = WEB) -> Any:
        method = {
            "id": f"{WEB}#key-1",
            "type": "Multikey",
            "controller": controller,
            "publicKeyMultibase": encode_multikey(ISSUER.secret.public),
        }
        document = {
            "@context": ["https://www.w3.org/ns/did/v1", "https://w3id.org/security/multikey/v1"],
            "id": WEB,
            "verificationMethod": [method],
            "authentication" if authentication else "assertionMethod": [f"{WEB}#key-1"],
        }
        return make_resolver(documents={WEB: document})

    def test_a_method_of_another_controller(self) -> None:
        resolver = self.web_resolver(authentication=False, controller="did:web:other.example")
        self.refuse(self.by_web(JCS), CredentialsError, 4, resolver=resolver)

    def test_an_issuer_that_cannot_be_resolved(self) -> None:
        self.refuse(self.by_web(JCS), DidNotFound, 4)
        document = ISSUER.sign(unsigned(issuer="did:example:a"), JCS, method="did:example:a#b")
        self.refuse(document, DidMethodUnsupported, 4)

    @pytest.mark.parametrize("suite", SUITES)
    def test_a_key_of_somebody_else(self, suite: Suite) -> None:
        self.refuse(STRANGER.sign(unsigned(), suite), ProofInvalid, 5)

    @pytest.mark.parametrize("suite", SUITES)
    def test_a_signature_by_another_key_than_it_says(self, suite: Suite) -> None:
        self.refuse(STRANGER.sign(unsigned(), suite, method=ISSUER.method), ProofInvalid, 4)

    def test_a_proof_for_another_method_of_the_same_key(self) -> None:
        fragment = STRANGER.method.partition("#")[2]
        document = ISSUER.sign(unsigned(), JCS, method=f"{ISSUER.did}#{fragment}")
        self.refuse(document, MethodNotAuthorized, 4)

    def test_a_proof_for_authentication(self) -> None:
        self.refuse(ISSUER.sign(unsigned(), JCS, purpose="authentication"), ProofMissing, 4)

    def test_a_small_order_key(self) -> None:
        """The point of order 1: a signature of R = s = 0 would hold for any message."""
        point = bytes([1]) + bytes(31)
        multikey = "z" + base58.b58encode(b"\xed\x01" + point).decode()
        did = f"did:key:{multikey}"
        forged = ISSUER.sign(unsigned(issuer=did), JCS)
        forged["proof"]["verificationMethod"] = f"{did}#{multikey}"
        forged["proof"]["proofValue"] = "z" + base58.b58encode(point + bytes(32)).decode()
        self.refuse(forged, KeyInvalid, 4)

    def test_type_and_cryptosuite_that_do_not_fit(self) -> None:
        document = signed(JCS)
        for change in (
            {"type": "Ed25519Signature2020"},
            {"type": "Ed25519Signature2018"},
            {"cryptosuite": "eddsa-rdfc-2022"},
            {"cryptosuite": "ecdsa-jcs-2019"},
            {"cryptosuite": None},
        ):
            proof = {**document["proof"], **change}
            self.refuse(changed(document, proof=proof), ProofInvalid, 4)
        proof = {**document["proof"], "type": "JsonWebSignature2020"}
        self.refuse(changed(document, proof=proof), ProofUnsupported, 4)

    def test_no_proof(self) -> None:
        self.refuse(unsigned(), ProofMissing, 4)

    @pytest.mark.parametrize("suite", SUITES)
    def test_one_proof_of_a_set_that_does_not_hold(self, suite: Suite) -> None:
        document = STRANGER.sign(signed(JCS), suite)
        spoilt = copy.deepcopy(document)
        spoilt["proof"][1]["created"] = encode_time(NOW_S - 61)
        verify_credential(document, environment())
        self.refuse(spoilt, ProofInvalid, 4)

    def test_a_chain_without_its_beginning(self) -> None:
        first = ISSUER.sign(unsigned(), JCS, id="urn:uuid:1")
        chain = STRANGER.sign(first, JCS, previous="urn:uuid:1")
        verify_credential(chain, environment())
        self.refuse(changed(chain, proof=chain["proof"][1]), ProofInvalid, 4)
        self.refuse(changed(chain, proof=chain["proof"][::-1]), ProofInvalid, 4)

    @pytest.mark.parametrize("suite", SUITES)
    def test_a_proof_out_of_its_time(self, suite: Suite) -> None:
        late = ISSUER.sign(unsigned(), suite, expires_s=NOW_S - 30)
        verify_credential(late, environment())  # within the clock skew
        self.refuse(late, ProofExpired, 4, skew_s=0.0)
        early = ISSUER.sign(unsigned(), suite, created_s=NOW_S + 301)
        self.refuse(early, ProofExpired, 4)

    @pytest.mark.parametrize("suite", SUITES)
    @pytest.mark.parametrize(
        "change",
        [
            {"issuer": STRANGER.did},
            {"validUntil": encode_time(NOW_S + 2 * DAY_S)},
            {"validUntil": None},
            {"credentialSubject": {"id": STRANGER.did}},
            {"type": ["VerifiableCredential", "https://example.org/Admin"]},
            {"id": None},
            {"termsOfUse": {"type": "https://example.org/Any"}},
        ],
        ids=str,
    )
    def test_a_document_that_was_changed(self, suite: Suite, change: dict[str, Any]) -> None:
        document = {**signed(suite), **change}
        document = {name: value for name, value in document.items() if value is not None}
        self.refuse(document, ProofInvalid, 4)

    # 4. what JSON-LD would let through

    def test_a_term_that_nobody_defines(self) -> None:
        document = signed(RDFC)
        self.refuse(changed(document, admin=True), TermUndefined, 4)
        subject = {**document["credentialSubject"], "admin": True}
        self.refuse(changed(document, credentialSubject=subject), TermUndefined, 4)

    def test_a_relative_id(self) -> None:
        document = signed(RDFC)
        evidence = {"id": "here", "type": "https://example.org/Seen"}
        self.refuse(changed(document, evidence=evidence), ModelInvalid, 2)
        inner = {"id": HOLDER.did, "related": {"id": "here"}}
        further = {"related": {"@id": "https://example.org/related", "@type": "@id"}}
        document = changed(document, credentialSubject=inner)
        document["@context"] = [CONTEXT_V2, further]
        self.refuse(document, TermUndefined, 4)

    def test_a_relative_type(self) -> None:
        document = changed(signed(RDFC), type=["VerifiableCredential", "Unheard"])
        self.refuse(document, TermUndefined, 4)

    @pytest.mark.parametrize("suite", SUITES)
    def test_a_context_that_is_not_pinned(self, suite: Suite) -> None:
        document = signed(suite)
        document["@context"] = [CONTEXT_V2, "https://attacker.example/context"]
        if suite == RDFC:
            self.refuse(document, ContextUnknown, 4)
        else:  # added after signing: the proof holds, the contexts are not trusted
            assert not verify_credential(document, environment()).contexts_trusted

    def test_context_substitution(self) -> None:
        """w3c/vc-data-integrity issue 272: two terms swapped by a context that was added."""
        subject = {"id": HOLDER.did, "over18": True, "employed": False}
        context = [CONTEXT_V2, EXAMPLES]
        document = signed(RDFC, **{"@context": context}, credentialSubject=subject)
        vocabulary = "https://www.w3.org/ns/credentials/examples#"
        swap = {"over18": vocabulary + "employed", "employed": vocabulary + "over18"}
        document["@context"] = [*context, swap]
        document["credentialSubject"] = {**subject, "over18": False, "employed": True}
        verified = verify_credential(document, environment())  # it is the same graph
        assert not verified.contexts_trusted
        with pytest.raises(PolicyRefused, match="contexts"):
            NODE_POLICY.require(verified)

    def test_context_substitution_under_jcs(self) -> None:
        subject = {"id": HOLDER.did, "over18": True, "employed": False}
        document = signed(JCS, **{"@context": [CONTEXT_V2, EXAMPLES]}, credentialSubject=subject)
        document["credentialSubject"] = {**subject, "over18": False, "employed": True}
        self.refuse(document, ProofInvalid, 4)

    @pytest.mark.parametrize("name", ["id", "type"])
    def test_a_property_as_a_keyword(self, name: str) -> None:
        document = signed(RDFC, type=["VerifiableCredential", "https://example.org/Any"])
        document[f"@{name}"] = document.pop(name)
        if name == "type":
            document["type"] = ["VerifiableCredential"]
        self.refuse(document, ModelInvalid, 4)
        subject = document["credentialSubject"]
        document = {**signed(RDFC), "credentialSubject": {"@id": subject["id"]}}
        self.refuse(document, ModelInvalid, 4)

    @pytest.mark.parametrize("name", ["validUntil", "credentialStatus", "issuer", "validFrom"])
    @pytest.mark.parametrize("how", ["alias", "iri", "prefix"])
    def test_a_property_under_another_name(self, name: str, how: str) -> None:
        """The same graph, so the signature holds; but nobody would look for the end there."""
        document = signed(RDFC, credentialStatus=statuses()[0])
        iri = f"https://www.w3.org/2018/credentials#{name}"
        value: Any = document.pop(name)
        kind = "http://www.w3.org/2001/XMLSchema#dateTime" if name.startswith("valid") else "@id"
        further: dict[str, Any] = {}
        if how == "alias":
            further["other"] = {"@id": iri, "@type": kind}
            document["other"] = value
        else:
            further["cred"] = {"@id": "https://www.w3.org/2018/credentials#", "@prefix": True}
            if isinstance(value, str):
                value = {"id": value} if kind == "@id" else {"@value": value, "@type": kind}
            document[iri if how == "iri" else f"cred:{name}"] = value
        document["@context"] = [CONTEXT_V2, further]
        self.refuse(document, ModelInvalid, 2 if name == "issuer" else 4)
        if how == "iri":  # no context needed, and none to distrust
            document["@context"] = [CONTEXT_V2]
            self.refuse(document, ModelInvalid, 2 if name == "issuer" else 4)

    @pytest.mark.parametrize("suite", SUITES)
    def test_a_poison_graph(self, suite: Suite) -> None:
        """Two hosts with eight equal GPUs each: a natural document that takes PyLD 9 s."""
        gpu = {"gpuModel": "A", "memory": 80}
        hosts = [{"gpu": [dict(gpu) for _ in range(8)]} for _ in range(2)]
        context = [CONTEXT_V2, EXAMPLES]
        document = unsigned(
            **{"@context": context}, credentialSubject={"id": HOLDER.did, "hosts": hosts}
        )
        if suite == RDFC:
            document["proof"] = signed(RDFC)["proof"]
            self.refuse(document, GraphTooComplex, 4)
        else:
            verify_credential(ISSUER.sign(document, JCS), environment())

    # 6. times

    @pytest.mark.parametrize("suite", SUITES)
    def test_expired(self, suite: Suite) -> None:
        document = signed(suite)
        verify_credential(document, environment(now_s=NOW_S + DAY_S + 299))
        self.refuse(document, CredentialExpired, 6, now_s=NOW_S + DAY_S + 300)

    @pytest.mark.parametrize("suite", SUITES)
    def test_not_yet_valid(self, suite: Suite) -> None:
        document = signed(suite, validFrom=encode_time(NOW_S + 300))
        verify_credential(document, environment())
        document = signed(suite, validFrom=encode_time(NOW_S + 301))
        self.refuse(document, CredentialNotYetValid, 6)

    # 7. schema

    def test_claims_against_the_schema_of_their_type(self) -> None:
        document = signed(
            **{"@context": [CONTEXT_V2, "https://kwaai.ai/credentials/v2"]},
            type=["VerifiableCredential", "UptimeVC"],
            credentialSubject={"id": HOLDER.did, "ratio": 7},
        )
        self.refuse(document, SchemaViolated, 7)

    # 8. status

    def with_status(self, suite: Suite = JCS) -> dict[str, Any]:
        return signed(suite, credentialStatus=statuses())

    @pytest.mark.parametrize("suite", SUITES)
    def test_revoked(self, suite: Suite) -> None:
        known = lists(revoked=(94,), suspended=(95,))
        self.refuse(self.with_status(suite), CredentialRevoked, 8, status=known.__getitem__)

    def test_suspended(self) -> None:
        known = lists(suspended=(95,))
        self.refuse(self.with_status(), CredentialSuspended, 8, status=known.__getitem__)

    def test_somebody_elses_index_is_set(self) -> None:
        known = lists(revoked=(93, 95), suspended=(94, 96))
        assert verify_credential(self.with_status(), environment(status=known.__getitem__))

    def test_unknown_status(self) -> None:
        def unreachable(url: str) -> bytes:
            raise StatusUnknown(f"{url} cannot be had")

        self.refuse(self.with_status(), StatusUnknown, 8)
        self.refuse(self.with_status(), StatusUnknown, 8, status=unreachable)
        env = environment(status=unreachable, status_required=False)
        verified = verify_credential(self.with_status(), env)
        assert verified.status == "unknown"
        with pytest.raises(PolicyRefused, match="status"):
            NODE_POLICY.require(verified)

    def test_a_status_of_a_type_that_is_not_known(self) -> None:
        status = {"type": "https://example.org/RevocationList2020", "id": "https://example.org/1"}
        document = signed(credentialStatus=status)
        self.refuse(document, StatusUnknown, 8, status=lists().__getitem__)

    def test_a_list_of_somebody_else(self) -> None:
        known = lists(by=STRANGER)
        self.refuse(self.with_status(), StatusListInvalid, 8, status=known.__getitem__)

    def test_a_list_that_was_changed(self) -> None:
        known = {}
        for url, data in lists(revoked=(94,)).items():
            document = json.loads(data)
            document["credentialSubject"]["encodedList"] = json.loads(lists()[url])[
                "credentialSubject"
            ]["encodedList"]
            known[url] = encoded(document)
        self.refuse(self.with_status(), StatusListInvalid, 8, status=known.__getitem__)

    def test_a_list_that_is_too_old(self) -> None:
        known = lists(valid_until_s=NOW_S - 600)
        self.refuse(self.with_status(), StatusUnknown, 8, status=known.__getitem__)

    def test_a_gzip_bomb(self) -> None:
        document = json.loads(lists()[LIST_URL])
        del document["proof"]
        text = bomb()
        assert len(text) < 400_000
        document["credentialSubject"]["encodedList"] = text
        known = {**lists(), LIST_URL: ISSUER.sign(document, JCS)}
        self.refuse(self.with_status(), StatusListInvalid, 8, status=known.__getitem__)

    def test_a_list_that_is_no_credential(self) -> None:
        for junk in (b"", b"{}", b"[]", encoded(signed()), {}):
            known = dict.fromkeys(lists(), junk)
            self.refuse(self.with_status(), StatusListInvalid, 8, status=known.__getitem__)


class TestChecks:
    """A caller may ask for less, is told of it, and no policy takes it."""

    def test_a_validity_period_that_is_only_told(self) -> None:
        env = environment(now_s=NOW_S + 9 * DAY_S, checks=frozenset({"issuer", "schema", "status"}))
        verified = verify_credential(signed(), env)
        assert [step.number for step in verified.steps if step.outcome == "failed"] == [6]
        with pytest.raises(PolicyRefused, match="valid until"):
            NODE_POLICY.require(verified)

    def test_a_status_that_is_only_told(self) -> None:
        known = lists(revoked=(94,))
        env = environment(status=known.__getitem__, checks=frozenset())
        verified = verify_credential(signed(credentialStatus=statuses()), env)
        assert verified.status == "failed"
        with pytest.raises(PolicyRefused, match="revoked"):
            NODE_POLICY.require(verified)

    def test_an_issuer_that_is_no_did(self) -> None:
        document = ISSUER.sign(unsigned(issuer="https://vc.example/issuers/5678"))
        with pytest.raises(ProofInvalid, match="issuer"):
            verify_credential(document, environment())
        verified = verify_credential(document, environment(checks=frozenset()))
        with pytest.raises(PolicyRefused, match="issuer"):
            NODE_POLICY.require(verified)

    def test_an_issuer_that_is_a_did_and_did_not_sign(self) -> None:
        with pytest.raises(ProofInvalid, match="issuer"):
            verify_credential(STRANGER.sign(unsigned()), environment(checks=frozenset()))

    def test_what_is_never_left_out(self) -> None:
        with pytest.raises(ProofInvalid):
            verify_credential(changed(signed(), id="urn:uuid:2"), environment(checks=frozenset()))


class TestCache:
    """By the bytes; never the status, the time or what is trusted."""

    def test_what_is_remembered_is_not_computed_again(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cache, data = VerifiedCache(), encoded(signed())
        first = verify_credential(data, environment(cache=cache))
        monkeypatch.setattr("credentials.verify.verify_proofs", None)
        second = verify_credential(data, environment(cache=cache))
        assert (first.proofs, first.view) == (second.proofs, second.view)
        assert [step.outcome for step in second.steps] == [step.outcome for step in first.steps]

    def test_nobody_can_change_what_is_remembered(self) -> None:
        cache, data = VerifiedCache(), encoded(signed())
        for _ in range(2):
            verified = verify_credential(data, environment(cache=cache))
            assert verified.subject == HOLDER.did
            verified.document["credentialSubject"]["id"] = STRANGER.did

    def test_one_byte_more_is_another_document(self) -> None:
        cache, data = VerifiedCache(), encoded(signed())
        verify_credential(data, environment(cache=cache))
        with pytest.raises(ProofInvalid):
            verify_credential(data.replace(b"urn:uuid:5", b"urn:uuid:6"), environment(cache=cache))
        assert len(cache) == 1

    def test_what_failed_is_not_remembered(self) -> None:
        cache = VerifiedCache()
        for _ in range(2):
            with pytest.raises(ProofInvalid):
                verify_credential(changed(signed(), id="urn:uuid:2"), environment(cache=cache))
        assert len(cache) == 0

    def test_the_period_is_checked_again(self) -> None:
        cache = VerifiedCache()
        data = encoded(ISSUER.sign(unsigned(), created_s=NOW_S - 9 * DAY_S))
        verify_credential(data, environment(cache=cache))
        with pytest.raises(CredentialExpired):
            verify_credential(data, environment(cache=cache, now_s=NOW_S + 9 * DAY_S))
        with pytest.raises(CredentialNotYetValid):
            verify_credential(data, environment(cache=cache, now_s=NOW_S - DAY_S - 301))

    def test_the_proofs_times_are_checked_again(self) -> None:
        cache = VerifiedCache()
        data = encoded(ISSUER.sign(unsigned(validUntil=None), JCS, expires_s=NOW_S + 60))
        verify_credential(data, environment(cache=cache))
        with pytest.raises(ProofExpired) as caught:
            verify_credential(data, environment(cache=cache, now_s=NOW_S + 400))
        assert caught.value.steps[3].outcome == "failed"

    def test_the_status_is_looked_up_again(self) -> None:
        cache, data = VerifiedCache(), encoded(signed(credentialStatus=statuses()))
        verify_credential(data, environment(cache=cache, status=lists().__getitem__))
        later = lists(revoked=(94,))
        with pytest.raises(CredentialRevoked):
            verify_credential(data, environment(cache=cache, status=later.__getitem__))

    def test_what_one_verifier_trusts_another_need_not(self) -> None:
        cache, context = VerifiedCache(), [CONTEXT_V2, EXAMPLES]
        data = encoded(signed(**{"@context": context}))
        trusting = environment(cache=cache, trusted_contexts=frozenset({tuple(context)}))
        assert verify_credential(data, trusting).contexts_trusted
        assert not verify_credential(data, environment(cache=cache)).contexts_trusted

    def test_keys_that_may_change_are_not_remembered(self) -> None:
        refused = TestRefused()
        cache = VerifiedCache()
        resolver = refused.web_resolver(authentication=False)
        verify_credential(refused.by_web(JCS), environment(cache=cache, resolver=resolver))
        assert len(cache) == 0

    def test_it_is_bounded(self) -> None:
        cache = VerifiedCache(4)
        for number in range(20):
            verify_credential(signed(id=f"urn:x:{number}"), environment(cache=cache))
            assert len(cache) <= 4

    def test_large_documents_do_not_fill_the_memory(self) -> None:
        cache = VerifiedCache(100, bytes_max=20_000)
        for number in range(20):
            document = signed(id=f"urn:x:{number}", description="x" * 4_000)
            verify_credential(document, environment(cache=cache))
            assert len(cache) <= 4
        verify_credential(signed(description="x" * 30_000), environment(cache=cache))
        assert len(cache) <= 4

    def test_what_is_used_stays(self) -> None:
        cache, used = VerifiedCache(4), encoded(signed())
        verify_credential(used, environment(cache=cache))
        for number in range(9):
            verify_credential(signed(id=f"urn:x:{number}"), environment(cache=cache))
            verify_credential(used, environment(cache=cache))
        assert sha256(used).digest() in cache


class TestWhatIsNeeded:
    def test_status_lists(self) -> None:
        document = signed(credentialStatus=statuses())
        assert set(status_lists_needed(document)) == set(lists())
        presentation = {"verifiableCredential": [document, document]}
        assert set(status_lists_needed(presentation)) == set(lists())

    def test_dids(self) -> None:
        document = TestRefused().by_web(JCS)
        assert dids_needed(document) == (WEB,)
        assert dids_needed({"verifiableCredential": document}) == (WEB,)
        assert dids_needed(signed()) == ()

    @pytest.mark.parametrize(
        ("did", "needed"),
        [
            ("did:key:z6Mk", False),
            ("did:peer:0z6Mk", False),
            ("did:peer:2.Vz6Mk", False),
            ("did:peer:3zQm", True),
            ("did:peer:4zQm:z2", False),
            ("did:peer:4zQm", True),
            ("did:web:a.example", True),
        ],
    )
    def test_dids_that_carry_their_document(self, did: str, needed: bool) -> None:
        document = {"proof": {"verificationMethod": f"{did}#key-1"}}
        assert dids_needed(document) == ((did,) if needed else ())

    @pytest.mark.parametrize(
        "junk", [None, 1, "text", [1, None], {"verificationMethod": 7, "statusListCredential": []}]
    )
    def test_junk_needs_nothing(self, junk: Any) -> None:
        for name in ("proof", "credentialStatus", "verifiableCredential"):
            assert status_lists_needed({name: junk}) == ()
            assert dids_needed({name: junk}) == ()
