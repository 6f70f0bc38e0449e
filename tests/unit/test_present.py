"""Presentations: shown by their holder, to one verifier, once. And the book of challenges."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from credential_scene import (
    DAY_S,
    EXAMPLES,
    HOLDER,
    ISSUER,
    JCS,
    NOW_S,
    RDFC,
    STRANGER,
    SUITES,
    Party,
    encoded,
    environment,
    lists,
    signed,
    statuses,
    unsigned,
)

from credentials.challenges import ChallengeBook
from credentials.did import did_peer_alias
from credentials.errors import (
    ChallengeWrong,
    CredentialExpired,
    CredentialRevoked,
    CredentialsError,
    DocumentInvalid,
    DomainWrong,
    HolderWrong,
    ModelInvalid,
    PolicyRefused,
    ProofExpired,
    ProofInvalid,
    ProofMissing,
)
from credentials.limits import CHALLENGE_CHARS_MAX, CREDENTIALS_MAX, PRESENTATION_BYTES_MAX
from credentials.model import CONTEXT_V2
from credentials.policy import NODE_POLICY
from credentials.present import build_presentation, verify_presentation
from credentials.proof import Suite
from credentials.verified import VerifiedPresentation

CHALLENGE = "uPq2mZ0yHk3R8wVx1"
DOMAIN = "verifier.example"


def presented(
    *credentials: dict[str, Any],
    by: Party = HOLDER,
    suite: Suite = JCS,
    holder: str | None = "",
    **options: Any,
) -> dict[str, Any]:
    document = build_presentation(credentials, by.did if holder == "" else holder or by.did)
    if holder is None:
        del document["holder"]
    return by.sign(
        document,
        suite,
        **{"purpose": "authentication", "challenge": CHALLENGE, "domain": DOMAIN, **options},
    )


def verify(data: Any, **changes: Any) -> VerifiedPresentation:
    arguments = {"challenge": CHALLENGE, "domain": DOMAIN}
    for name in ("challenge", "domain", "consume", "holder_must_be_subject"):
        if name in changes:
            arguments[name] = changes.pop(name)
    return verify_presentation(data, environment(**changes), **arguments)


def refuse(data: Any, error: type[CredentialsError], step: int, **changes: Any) -> None:
    with pytest.raises(error) as caught:
        verify(data, **changes)
    found = caught.value.steps
    assert [s.number for s in found if s.outcome == "failed"][-1] == step, found
    assert len(found) == 8


class TestWhatHolds:
    @pytest.mark.parametrize("suite", SUITES)
    def test_a_presentation(self, suite: Suite) -> None:
        data = encoded(presented(signed(suite), suite=suite))
        verified = verify(data)
        assert verified.original == data
        assert verified.holder == HOLDER.did
        assert [credential.issuer for credential in verified.credentials] == [ISSUER.did]
        assert verified.contexts_trusted
        assert [step.outcome for step in verified.steps] == ["passed"] * 8
        assert all(step.detail for step in verified.steps)
        NODE_POLICY.require_presentation(verified)

    def test_credentials_of_both_suites(self) -> None:
        assert len(verify(presented(signed(JCS), signed(RDFC), suite=RDFC)).credentials) == 2

    def test_no_credential(self) -> None:
        document = presented()
        assert document["verifiableCredential"] == []
        assert verify(document).credentials == ()

    def test_bytes_are_presented_as_they_are(self) -> None:
        document = build_presentation([encoded(signed())], HOLDER.did, presentation_id="urn:x:1")
        assert document["id"] == "urn:x:1"
        assert document["verifiableCredential"] == [signed()]

    def test_several_domains(self) -> None:
        verified = verify(presented(signed(), domain=("a.example", DOMAIN)))
        assert verified.proofs[0].domain == ("a.example", DOMAIN)

    def test_a_holder_of_two_names(self) -> None:
        """KwaaiNet's `did:peer:12D3...` and the did:key of the same key are one holder."""
        document = presented(signed(credentialSubject={"id": did_peer_alias(HOLDER.secret.public)}))
        assert verify(document).holder == HOLDER.did

    def test_somebody_elses_credential_where_that_is_allowed(self) -> None:
        document = presented(signed(credentialSubject={"id": STRANGER.did}))
        verified = verify(document, holder_must_be_subject=False)
        assert verified.steps[7].outcome == "skipped"

    def test_no_holder_named(self) -> None:
        assert verify(presented(signed(), holder=None)).holder == HOLDER.did

    def test_a_holder_object(self) -> None:
        document = build_presentation([signed()], HOLDER.did)
        document["holder"] = {"id": HOLDER.did}
        document = HOLDER.sign(
            document, purpose="authentication", challenge=CHALLENGE, domain=DOMAIN
        )
        assert verify(document).holder == HOLDER.did

    def test_nothing_compared(self) -> None:
        verified = verify(
            presented(signed(), challenge=None, domain=None), challenge=None, domain=None
        )
        assert verified.steps[5].outcome == "skipped"

    def test_a_second_signer(self) -> None:
        document = presented(signed())
        document = STRANGER.sign(document, purpose="authentication", challenge="another challenge")
        verified = verify(document)
        assert [proof.controller for proof in verified.proofs] == [HOLDER.did]

    def test_status_lists_are_looked_up(self) -> None:
        document = presented(signed(credentialStatus=statuses()))
        assert verify(document, status=lists().__getitem__).credentials[0].status == "passed"

    def test_a_value_of_verification_is_not_made_by_hand(self) -> None:
        view = verify(presented()).view
        with pytest.raises(TypeError, match="verify_presentation"):
            VerifiedPresentation(view, b"", "", (), (), "", 0.0, (), None)


class TestRefused:
    # 1, 2: documents

    @pytest.mark.parametrize("data", [b"", b"[]", b'{"a":1,"a":1}', b"[" * 100_000])
    def test_no_document(self, data: bytes) -> None:
        refuse(data, DocumentInvalid, 1)

    def test_too_long(self) -> None:
        document = presented(signed())
        document["description"] = "x" * PRESENTATION_BYTES_MAX
        refuse(document, DocumentInvalid, 1)

    def test_a_credential_is_no_presentation(self) -> None:
        refuse(signed(), ModelInvalid, 2)

    def test_too_many_credentials(self) -> None:
        document = presented(signed())
        document["verifiableCredential"] *= CREDENTIALS_MAX + 1
        refuse(document, ModelInvalid, 2)

    # 4: proofs

    def test_no_proof(self) -> None:
        refuse(build_presentation([signed()], HOLDER.did), ProofMissing, 4)

    @pytest.mark.parametrize("suite", SUITES)
    def test_a_proof_for_another_purpose(self, suite: Suite) -> None:
        refuse(presented(signed(), suite=suite, purpose="assertionMethod"), ProofMissing, 4)

    @pytest.mark.parametrize("suite", SUITES)
    def test_expired(self, suite: Suite) -> None:
        document = presented(signed(), suite=suite, expires_s=NOW_S + 60)
        verify(document)
        refuse(document, ProofExpired, 4, now_s=NOW_S + 361)

    @pytest.mark.parametrize("suite", SUITES)
    def test_another_credential_put_in(self, suite: Suite) -> None:
        document = presented(signed(), suite=suite)
        refuse({**document, "verifiableCredential": [signed(id="urn:x:1")]}, ProofInvalid, 4)
        refuse({**document, "verifiableCredential": []}, ProofInvalid, 4)

    # 5: holder

    @pytest.mark.parametrize("suite", SUITES)
    def test_a_holder_who_did_not_sign(self, suite: Suite) -> None:
        document = presented(signed(), by=STRANGER, suite=suite, holder=HOLDER.did)
        refuse(document, HolderWrong, 5)

    def test_no_holder_named_and_two_signers(self) -> None:
        document = presented(signed(), holder=None)
        document = STRANGER.sign(
            document, purpose="authentication", challenge=CHALLENGE, domain=DOMAIN
        )
        refuse(document, HolderWrong, 5)

    # 6: replay

    @pytest.mark.parametrize("suite", SUITES)
    @pytest.mark.parametrize(
        "challenge", [None, "u" + CHALLENGE, CHALLENGE[:-1], CHALLENGE.upper()]
    )
    def test_another_challenge(self, suite: Suite, challenge: str | None) -> None:
        document = presented(signed(), suite=suite, challenge=challenge)
        refuse(document, ChallengeWrong, 6)

    @pytest.mark.parametrize("suite", SUITES)
    @pytest.mark.parametrize("domain", [None, "other.example", "verifier.example.org", ("a", "b")])
    def test_another_domain(self, suite: Suite, domain: Any) -> None:
        refuse(presented(signed(), suite=suite, domain=domain), DomainWrong, 6)

    @pytest.mark.parametrize("suite", SUITES)
    def test_a_challenge_written_over(self, suite: Suite) -> None:
        document = presented(signed(), suite=suite, challenge="somebody else's challenge")
        document["proof"]["challenge"] = CHALLENGE
        refuse(document, ProofInvalid, 4)

    @pytest.mark.parametrize("suite", SUITES)
    def test_a_domain_added(self, suite: Suite) -> None:
        document = presented(signed(), suite=suite, domain="other.example")
        document["proof"]["domain"] = ["other.example", DOMAIN]
        refuse(document, ProofInvalid, 4)

    def test_replay(self) -> None:
        book = ChallengeBook()
        book.issue(CHALLENGE, NOW_S)
        document = presented(signed())

        def consume(challenge: str | None) -> None:
            book.consume(challenge, NOW_S)

        verify(document, consume=consume)
        refuse(document, ChallengeWrong, 6, consume=consume)
        refuse(document, ChallengeWrong, 6, challenge=None, consume=consume)

    def test_a_challenge_of_another_verifier(self) -> None:
        book = ChallengeBook()
        book.issue("u0123456789abcdef", NOW_S)
        refuse(
            presented(signed()),
            ChallengeWrong,
            6,
            challenge=None,
            consume=lambda challenge: book.consume(challenge, NOW_S),
        )
        assert "u0123456789abcdef" in book

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda document: document["proof"].update(created="2026-11-21T09:00:00Z"),
            lambda document: document.update(holder=STRANGER.did),
            lambda document: document.pop("proof"),
        ],
    )
    def test_garbage_does_not_use_a_challenge_up(self, spoil: Any) -> None:
        book = ChallengeBook()
        book.issue(CHALLENGE, NOW_S)
        document = copy.deepcopy(presented(signed()))
        spoil(document)
        with pytest.raises(ProofInvalid):
            verify(document, consume=lambda challenge: book.consume(challenge, NOW_S))
        assert CHALLENGE in book

    def test_a_challenge_without_end(self) -> None:
        document = presented(signed(), challenge="x" * (CHALLENGE_CHARS_MAX + 1))
        refuse(document, ChallengeWrong, 6, challenge=None)

    def test_two_challenges_of_one_holder(self) -> None:
        document = presented(signed())
        document = HOLDER.sign(
            document, purpose="authentication", challenge="another challenge", domain=DOMAIN
        )
        refuse(document, ChallengeWrong, 6)

    # 7: credentials

    def test_a_credential_that_does_not_hold(self) -> None:
        spoilt = signed()
        spoilt["validUntil"] = "2099-01-01T00:00:00Z"
        refuse(presented(signed(), spoilt), ProofInvalid, 7)

    def test_a_credential_without_a_proof(self) -> None:
        with pytest.raises(ModelInvalid, match="proof"):
            build_presentation([unsigned()], HOLDER.did)
        document = build_presentation([], HOLDER.did)
        document["verifiableCredential"] = [unsigned(issuer=HOLDER.did)]
        document = HOLDER.sign(
            document, purpose="authentication", challenge=CHALLENGE, domain=DOMAIN
        )
        refuse(document, ProofMissing, 7)

    def test_an_expired_credential(self) -> None:
        refuse(presented(signed()), CredentialExpired, 7, now_s=NOW_S + 2 * DAY_S)

    def test_a_revoked_credential(self) -> None:
        document = presented(signed(), signed(credentialStatus=statuses()))
        refuse(document, CredentialRevoked, 7, status=lists(revoked=(94,)).__getitem__)

    def test_an_envelope(self) -> None:
        document = build_presentation([], HOLDER.did)
        document["verifiableCredential"] = [
            {
                "@context": CONTEXT_V2,
                "type": "EnvelopedVerifiableCredential",
                "id": "data:application/vc+jwt,eyJhbGciOiJub25lIn0.e30.",
            }
        ]
        document = HOLDER.sign(
            document, purpose="authentication", challenge=CHALLENGE, domain=DOMAIN
        )
        refuse(document, ModelInvalid, 7)

    # 8: subject

    @pytest.mark.parametrize(
        "subject",
        [
            {"id": STRANGER.did},
            {"name": "whoever has it"},
            [{"id": HOLDER.did}, {"id": STRANGER.did}],
            [{"id": HOLDER.did}, {"name": "somebody"}],
        ],
        ids=str,
    )
    def test_a_credential_about_somebody_else(self, subject: Any) -> None:
        context = [CONTEXT_V2]
        document = signed(**{"@context": context}, credentialSubject=subject)
        refuse(presented(signed(), document), HolderWrong, 8)

    def test_a_stolen_credential(self) -> None:
        refuse(presented(signed(), by=STRANGER), HolderWrong, 8)

    # contexts: a finding

    @pytest.mark.parametrize("suite", SUITES)
    def test_contexts_that_are_not_trusted(self, suite: Suite) -> None:
        document = build_presentation([signed()], HOLDER.did)
        document["@context"].append({"Shown": "https://example.org/Shown"})
        document["type"].append("Shown")
        document = HOLDER.sign(
            document, suite, purpose="authentication", challenge=CHALLENGE, domain=DOMAIN
        )
        verified = verify(document)
        assert not verified.contexts_trusted
        assert verified.steps[2].outcome == "failed"
        with pytest.raises(PolicyRefused, match="contexts"):
            NODE_POLICY.require_presentation(verified)

    def test_contexts_of_a_credential_inside(self) -> None:
        inner = signed(**{"@context": [CONTEXT_V2, EXAMPLES]})
        verified = verify(presented(inner))
        assert verified.contexts_trusted
        assert not verified.credentials[0].contexts_trusted
        with pytest.raises(PolicyRefused, match="contexts"):
            NODE_POLICY.require_presentation(verified)


class TestChallengeBook:
    def test_once(self) -> None:
        book = ChallengeBook()
        book.issue(CHALLENGE, 0.0)
        assert len(book) == 1
        book.consume(CHALLENGE, 1.0)
        assert len(book) == 0
        with pytest.raises(ChallengeWrong, match="used before"):
            book.consume(CHALLENGE, 1.0)

    @pytest.mark.parametrize("challenge", [None, "", "never given out.."])
    def test_never_given_out(self, challenge: str | None) -> None:
        book = ChallengeBook()
        book.issue(CHALLENGE, 0.0)
        with pytest.raises(ChallengeWrong):
            book.consume(challenge, 1.0)

    def test_its_time_ends(self) -> None:
        book = ChallengeBook(ttl_s=10.0)
        book.issue(CHALLENGE, 0.0)
        book.issue("u" + CHALLENGE, 5.0)
        with pytest.raises(ChallengeWrong):
            book.consume(CHALLENGE, 10.0)
        book.consume("u" + CHALLENGE, 14.9)

    def test_a_clock_that_was_set_back(self) -> None:
        book = ChallengeBook(ttl_s=10.0)
        book.issue(CHALLENGE, 1000.0)
        with pytest.raises(ChallengeWrong):
            book.consume(CHALLENGE, 0.0)

    def test_it_is_bounded(self) -> None:
        book = ChallengeBook(entries_max=3)
        for number in range(9):
            book.issue(f"{CHALLENGE}{number}", float(number))
        assert len(book) == 3
        book.consume(f"{CHALLENGE}8", 9.0)
        with pytest.raises(ChallengeWrong):
            book.consume(f"{CHALLENGE}0", 9.0)

    @pytest.mark.parametrize("challenge", ["", "short", "x" * (CHALLENGE_CHARS_MAX + 1)])
    def test_what_is_no_challenge(self, challenge: str) -> None:
        with pytest.raises(ChallengeWrong):
            ChallengeBook().issue(challenge, 0.0)

    def test_the_same_twice(self) -> None:
        book = ChallengeBook()
        book.issue(CHALLENGE, 0.0)
        with pytest.raises(ChallengeWrong, match="already"):
            book.issue(CHALLENGE, 0.0)
