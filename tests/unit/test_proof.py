"""Making and verifying proofs: what holds, and the table of what must not."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from proof_scene import (
    EXAMPLES,
    KEY,
    NOW,
    OTHER,
    SUITES,
    V2,
    check,
    did,
    document,
    method,
    sign,
)

from credentials.did_document import DidDocument, parse_did_document
from credentials.document import Document, encode_time
from credentials.errors import (
    ContextUnknown,
    CredentialsError,
    DidMethodUnsupported,
    DidNotFound,
    DocumentInvalid,
    MethodNotAuthorized,
    ProofExpired,
    ProofInvalid,
    ProofMissing,
    ProofNotMade,
    TermUndefined,
)
from credentials.keys import PublicKey, SecretKey
from credentials.limits import CLOCK_SKEW_S, PROOFS_MAX
from credentials.multikey import encode_multikey, encode_x25519
from credentials.proof import ProofOptions, Suite, add_proof, verify_proof, verify_proofs
from credentials.proof_fields import encode_signature, parse_proof
from credentials.resolve import make_resolver, resolve_offline
from credentials.suites import signed_bytes

OPTIONS: dict[str, Any] = {
    "id": "urn:uuid:26329423-bec9-4b2e-88cb-a7c7d9dc4544",
    "expires_s": NOW + 1000,
    "challenge": 'say "hi" \\ 🙂',
    "domain": ("node.example", "other.example"),
    "nonce": "8XMLP4sbKpQ",
}
ED25519_2020 = "https://w3id.org/security/suites/ed25519-2020/v1"

each_suite = pytest.mark.parametrize("suite", SUITES)


def sign_2020(over: Document | None = None, **fields: Any) -> Document:
    """Sign as Ed25519Signature2020, which the product only verifies."""
    body = over or {**document(), "@context": [V2, EXAMPLES, ED25519_2020]}
    proof = {
        "type": "Ed25519Signature2020",
        "created": encode_time(NOW - 100),
        "verificationMethod": method(),
        "proofPurpose": "assertionMethod",
        "proofValue": encode_signature(bytes(64)),
        **fields,
    }
    signature = KEY.sign(signed_bytes(body, parse_proof(proof)))
    return {**body, "proof": {**proof, "proofValue": encode_signature(signature)}}


def changed(signed: Document, **fields: Any) -> Document:
    """The document with fields of its proof changed; `...` removes one."""
    proof = {**signed["proof"], **fields}
    return {**signed, "proof": {k: v for k, v in proof.items() if v is not ...}}


def strict_document() -> Document:
    """The examples' context has a @vocab, under which every term is defined."""
    subject = {"id": "did:example:abcdefgh"}
    return {
        "@context": V2,
        "type": "VerifiableCredential",
        "issuer": str(did()),
        "credentialSubject": subject,
    }


# What holds.


@each_suite
def test_a_proof_of_ours_verifies(suite: Suite) -> None:
    before = document()
    signed = sign(suite, over=before, **OPTIONS)
    assert before == document()
    assert {k: v for k, v in signed.items() if k != "proof"} == before
    [checked] = check(signed)
    assert checked.suite == suite
    assert checked.controller == did()
    assert checked.key == KEY.public
    assert checked.method == method()
    assert checked.challenge == OPTIONS["challenge"]
    assert checked.domain == OPTIONS["domain"]
    assert checked.id == OPTIONS["id"]
    assert (checked.created_s, checked.expires_s) == (NOW - 100, NOW + 1000)
    assert checked.contexts_signed is (suite == "eddsa-jcs-2022")
    assert (
        verify_proof(signed, signed["proof"], resolve_offline, purpose="assertionMethod", now_s=NOW)
        == checked
    )


@each_suite
@pytest.mark.parametrize(
    "purpose", ["assertionMethod", "authentication", "capabilityDelegation", "capabilityInvocation"]
)
def test_every_purpose(suite: Suite, purpose: str) -> None:
    signed = sign(suite, purpose=purpose, created_s=None)
    [checked] = check(signed, purpose)
    assert (checked.purpose, checked.created_s) == (purpose, None)
    for other in {"assertionMethod", "authentication"} - {purpose}:
        with pytest.raises(ProofMissing, match=purpose):
            check(signed, other)
        with pytest.raises(ProofInvalid, match=purpose):
            verify_proof(signed, signed["proof"], resolve_offline, purpose=other, now_s=NOW)


def test_the_old_suite_is_verified() -> None:
    [checked] = check(sign_2020(challenge="c", domain="d", nonce="n", id="urn:x"))
    assert checked.suite == "Ed25519Signature2020"
    assert (checked.challenge, checked.domain) == ("c", ("d",))


def test_a_document_without_contexts_is_signed_by_jcs_alone() -> None:
    signed = sign(over={"hello": "world"})
    assert "@context" not in signed["proof"]
    assert check(signed)[0].contexts_signed
    with pytest.raises(ProofInvalid):
        check({**signed, "@context": V2, "proof": {**signed["proof"], "@context": V2}})
    with pytest.raises(ProofNotMade, match="@context"):
        sign("eddsa-rdfc-2022", over={"hello": "world"})


def test_an_alias_and_numalgo_0_are_controllers_too() -> None:
    for text in (f"did:peer:0{encode_multikey(KEY.public)}",):
        [url] = resolve_offline(text).relationships["assertionMethod"]
        [checked] = check(sign(method=url))
        assert checked.controller == text


# Everything is signed.

REMOVED_OR_OTHER: dict[str, list[Any]] = {
    "id": [..., "urn:uuid:26329423-bec9-4b2e-88cb-a7c7d9dc4545"],
    "created": [..., encode_time(NOW - 101), encode_time(NOW - 100).replace("Z", ".0Z")],
    "expires": [..., encode_time(NOW + 1001)],
    "challenge": [..., "another"],
    "domain": [..., "node.example", ["node.example"], ["node.example", "evil.example"]],
    "nonce": [..., "another"],
    "proofPurpose": ["authentication"],
    "verificationMethod": [method(OTHER)],
    "previousProof": ["urn:uuid:26329423-bec9-4b2e-88cb-a7c7d9dc4544"],
}
CHANGES = [(name, value) for name, others in REMOVED_OR_OTHER.items() for value in others]


@each_suite
@pytest.mark.parametrize(("field", "value"), CHANGES, ids=lambda part: repr(part)[:30])
def test_no_field_of_a_proof_can_be_changed_or_removed(
    suite: Suite, field: str, value: Any
) -> None:
    signed = sign(suite, **OPTIONS)
    for purpose in ("assertionMethod", "authentication"):
        with pytest.raises(CredentialsError):
            check(changed(signed, **{field: value}), purpose)


@each_suite
@pytest.mark.parametrize(
    "field", ["id", "expires", "challenge", "domain", "nonce", "previousProof"]
)
def test_no_field_can_be_added(suite: Suite, field: str) -> None:
    full = sign(suite, **OPTIONS)["proof"]
    added = full.get(field, "urn:uuid:26329423-bec9-4b2e-88cb-a7c7d9dc4544")
    with pytest.raises(ProofInvalid):
        check(changed(sign(suite), **{field: added}))


@pytest.mark.parametrize("field", ["id", "challenge", "domain", "nonce", "created"])
def test_nor_in_the_old_suite(field: str) -> None:
    fields = {"id": "urn:x", "challenge": "c", "domain": "d", "nonce": "n"}
    for value in ("urn:other", ..., encode_time(NOW - 200)):
        with pytest.raises(ProofInvalid):
            check(changed(sign_2020(**fields), **{field: value}))


@each_suite
@pytest.mark.parametrize("value", [None, [], "", {}], ids=repr)
@pytest.mark.parametrize("field", ["expires", "challenge", "domain", "id", "previousProof", "x"])
def test_what_rdf_would_drop_is_refused(suite: Suite, field: str, value: Any) -> None:
    with pytest.raises(ProofInvalid):
        check(changed(sign(suite), **{field: value}))


@each_suite
@pytest.mark.parametrize(
    "change",
    [
        {"validFrom": "2023-01-01T00:00:01Z"},
        {"credentialSubject": {"id": "did:example:abcdefgh", "alumniOf": "Another School"}},
        {"type": ["VerifiableCredential"]},
        {"name": "added"},
        {"id": "urn:uuid:58172aac-d8ba-11ed-83dd-0b3aef56cc34"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_changed_document_is_refused(suite: Suite, change: Document) -> None:
    with pytest.raises(ProofInvalid, match="signature"):
        check({**sign(suite), **change})


@each_suite
def test_a_dropped_property_is_no_hole(suite: Suite) -> None:
    expected = TermUndefined if suite == "eddsa-rdfc-2022" else ProofInvalid
    with pytest.raises(expected):
        check({**sign(suite, over=strict_document()), "admin": True})


SIGNED = {suite: sign(suite, **OPTIONS) for suite in SUITES}


@each_suite
@given(data=st.data())
def test_any_change_of_one_value_is_refused(suite: Suite, data: st.DataObject) -> None:
    signed = copy.deepcopy(SIGNED[suite])
    holder: Any = signed
    while True:
        keys = sorted(holder) if isinstance(holder, dict) else range(len(holder))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(holder[key], dict | list) or data.draw(st.booleans()):
            break
        holder = holder[key]
    other = st.none() | st.booleans() | st.integers() | st.text() | st.just([]) | st.just({})
    before, holder[key] = holder[key], data.draw(other)
    if holder[key] == before:
        return
    with pytest.raises(CredentialsError):
        check(signed)


# Key confusion.


@pytest.mark.parametrize(("made", "said"), [SUITES, SUITES[::-1]])
def test_a_proof_of_one_suite_is_none_of_the_other(made: Suite, said: Suite) -> None:
    signed = sign(made)
    for context in ({}, {"@context": ...}, {"@context": signed["@context"]}):
        with pytest.raises(ProofInvalid, match="signature"):
            check(changed(signed, cryptosuite=said, **context))


def test_the_old_suite_is_none_of_the_new() -> None:
    old = sign_2020()
    for suite in SUITES:
        with pytest.raises(ProofInvalid, match="signature"):
            check(changed(old, type="DataIntegrityProof", cryptosuite=suite))
    new = sign("eddsa-rdfc-2022", over={**document(), "@context": [V2, EXAMPLES, ED25519_2020]})
    with pytest.raises(ProofInvalid, match="signature"):
        check(changed(new, type="Ed25519Signature2020", cryptosuite=...))


@each_suite
def test_a_signature_by_another_key_is_refused(suite: Suite) -> None:
    options = ProofOptions(suite=suite, method=method(OTHER), created_s=NOW)
    with pytest.raises(ProofInvalid, match="signature"):
        check(add_proof(document(), options, KEY))


def test_the_fragment_must_be_the_key() -> None:
    twin = encode_x25519(KEY.public.to_x25519())
    for fragment in (encode_multikey(OTHER.public), "key-1", twin, method().partition("#")[2][:-1]):
        with pytest.raises(MethodNotAuthorized):
            check(sign(method=f"{did()}#{fragment}"))


WEB = "did:web:issuer.example"


def web_document(**changes: Any) -> Document:
    return {
        "@context": ["https://www.w3.org/ns/did/v1", "https://w3id.org/security/multikey/v1"],
        "id": WEB,
        "verificationMethod": [
            {
                "id": f"{WEB}#1",
                "type": "Multikey",
                "controller": WEB,
                "publicKeyMultibase": encode_multikey(KEY.public),
                **changes,
            }
        ],
        "assertionMethod": [f"{WEB}#1"],
    }


def web(**changes: Any) -> Callable[[str], DidDocument]:
    return make_resolver(documents={WEB: web_document(**changes)})


def check_web(resolver: Callable[[str], DidDocument], purpose: str = "assertionMethod") -> None:
    signed = sign(method=f"{WEB}#1", purpose=purpose)
    verify_proofs(signed, resolver, purpose=purpose, now_s=NOW)


def test_a_method_holds_under_its_listed_purpose_only() -> None:
    check_web(web())
    with pytest.raises(MethodNotAuthorized):
        check_web(web(), "authentication")


def test_a_method_that_was_revoked_or_expired_is_refused() -> None:
    for field in ("revoked", "expires"):
        check_web(web(**{field: encode_time(NOW + 1)}))
        with pytest.raises(MethodNotAuthorized, match="revoked"):
            check_web(web(**{field: encode_time(NOW)}))


@pytest.mark.parametrize(
    "change",
    [{"controller": "did:web:evil.example"}, {"id": "did:web:evil.example#1"}],
    ids=["controller", "id"],
)
def test_a_method_of_another_controller_is_refused(change: dict[str, str]) -> None:
    """Whatever a resolver lets through: the method is its own document's."""
    with pytest.raises(CredentialsError):
        check_web(web(**change))
    honest = parse_did_document(WEB, web_document())
    [good] = honest.methods.values()
    bad = replace(good, **change)

    class Careless:
        did = WEB

        def method(self, url: str, purpose: str) -> Any:
            return bad

    with pytest.raises(MethodNotAuthorized):
        check_web(lambda _: Careless())  # type: ignore[arg-type, return-value]


def test_the_document_of_another_did_is_refused() -> None:
    other = parse_did_document(WEB, web_document())
    with pytest.raises(MethodNotAuthorized, match="did:web:issuer"):
        verify_proofs(sign(), lambda _: other, purpose="assertionMethod", now_s=NOW)


@pytest.mark.parametrize(
    ("url", "error"), [("did:example:1#1", DidMethodUnsupported), (f"{WEB}#1", DidNotFound)]
)
def test_what_does_not_resolve_is_not_verified(url: str, error: type[CredentialsError]) -> None:
    with pytest.raises(error):
        check(sign(method=url))


def test_a_small_order_key_signs_nothing() -> None:
    """With the identity point as key, lax libraries accept R = identity, S = 0 for any message."""
    identity = bytes([1]) + bytes(31)
    signed = sign(method=f"{WEB}#1")
    signed["proof"]["proofValue"] = encode_signature(identity + bytes(32))
    honest = parse_did_document(WEB, web_document())
    [good] = honest.methods.values()

    class Careless:
        did = WEB

        def method(self, url: str, purpose: str) -> Any:
            return replace(good, key=PublicKey(identity))

    with pytest.raises(CredentialsError):
        verify_proofs(
            signed,
            lambda _: Careless(),  # type: ignore[arg-type, return-value]
            purpose="assertionMethod",
            now_s=NOW,
        )


def test_a_malleable_signature_is_refused() -> None:
    """S plus the group's order is the same number modulo the order, and another signature."""
    order = 2**252 + 27742317777372353535851937790883648493
    signed = sign()
    raw = parse_proof(signed["proof"]).signature
    scalar = int.from_bytes(raw[32:], "little") + order
    twin = raw[:32] + scalar.to_bytes(32, "little")
    with pytest.raises(ProofInvalid, match="signature"):
        check(changed(signed, proofValue=encode_signature(twin)))


# Time.


@each_suite
def test_time(suite: Suite) -> None:
    check(sign(suite, created_s=NOW + CLOCK_SKEW_S))
    with pytest.raises(ProofExpired, match="future"):
        check(sign(suite, created_s=NOW + CLOCK_SKEW_S + 1))
    check(sign(suite, expires_s=NOW - 99))
    options = {"created_s": NOW - 1000}
    check(sign(suite, expires_s=NOW - CLOCK_SKEW_S + 1, **options))
    with pytest.raises(ProofExpired, match="expired"):
        check(sign(suite, expires_s=NOW - CLOCK_SKEW_S, **options))


def test_a_checked_proof_is_checked_again_later() -> None:
    [checked] = check(sign(expires_s=NOW + 10))
    checked.check_time(now_s=NOW + 10)
    with pytest.raises(ProofExpired):
        checked.check_time(now_s=NOW + 10, skew_s=0)
    with pytest.raises(ProofExpired):
        checked.check_time(now_s=NOW - 1000)


# Contexts.


def test_contexts_added_after_signing_are_said_not_to_be_signed() -> None:
    signed = sign()
    [checked] = check({**signed, "@context": [*signed["@context"], "https://x.example/v1"]})
    assert not checked.contexts_signed
    one = sign(over={**document(), "@context": V2})
    assert check(one)[0].contexts_signed
    assert not check({**one, "@context": [V2, EXAMPLES]})[0].contexts_signed


@pytest.mark.parametrize(
    "contexts",
    [..., [], None, [V2], [EXAMPLES, V2], [V2, "https://x.example/v1", EXAMPLES], V2, {}, [V2, {}]],
    ids=repr,
)
def test_the_documents_contexts_begin_with_the_proofs(contexts: Any) -> None:
    signed = {**sign(), "@context": contexts}
    if contexts is ...:
        del signed["@context"]
    with pytest.raises(ProofInvalid, match="@context"):
        check(signed)


@pytest.mark.parametrize("contexts", [..., [], None, [V2], V2, {}, [EXAMPLES, V2]], ids=repr)
def test_the_proofs_contexts_are_signed(contexts: Any) -> None:
    with pytest.raises(ProofInvalid):
        check(changed(sign(), **{"@context": contexts}))


def test_an_empty_list_of_contexts_begins_nothing() -> None:
    """It would be the beginning of any list, and leave that unsigned."""
    with pytest.raises(ProofNotMade, match="@context"):
        sign(over={**document(), "@context": []})
    signed = {**document(), "@context": []}
    proof = {**sign(over=document())["proof"], "@context": []}
    for contexts in ([], [V2]):
        with pytest.raises(ProofInvalid, match="@context"):
            check({**signed, "@context": contexts, "proof": proof})


def test_contexts_are_compared_as_json() -> None:
    """True equals 1 in Python, and the proof's would be hashed in place of the document's."""
    inline = {"@vocab": "https://x.example/", "@protected": True}
    signed = sign(over={**document(), "@context": [V2, inline]})
    check({**signed, "@context": [V2, {"@protected": True, "@vocab": "https://x.example/"}]})
    for other in (1, 1.0, "true"):
        with pytest.raises(ProofInvalid, match="@context"):
            check({**signed, "@context": [V2, {**inline, "@protected": other}]})


def test_over_rdf_a_proof_has_no_contexts_of_its_own() -> None:
    """They would not be signed. The document's, repeated, mean nothing."""
    signed = sign("eddsa-rdfc-2022")
    check(changed(signed, **{"@context": list(signed["@context"])}))
    for contexts in ([V2], V2, [], [EXAMPLES, V2], None, [*signed["@context"], {}]):
        with pytest.raises(ProofInvalid, match="@context"):
            check(changed(signed, **{"@context": contexts}))


def test_context_substitution() -> None:
    """Two terms swapped by an added context: RDF sees no change, and says that it cannot."""
    claims = {"id": "did:example:a", "over18": "yes", "employed": "no"}
    vocabulary = {"@vocab": "https://x.example/"}
    swap = {"over18": "https://x.example/employed", "employed": "https://x.example/over18"}
    body = {**document(), "@context": [V2, vocabulary], "credentialSubject": claims}
    swapped = {
        "@context": [V2, vocabulary, swap],
        "credentialSubject": {**claims, "over18": "no", "employed": "yes"},
    }
    [checked] = check({**sign("eddsa-rdfc-2022", over=body), **swapped})
    assert not checked.contexts_signed
    with pytest.raises(ProofInvalid, match="signature"):
        check({**sign("eddsa-jcs-2022", over=body), **swapped})


def test_an_unknown_context_is_an_error_over_rdf() -> None:
    signed = sign("eddsa-rdfc-2022")
    with pytest.raises(ContextUnknown):
        check({**signed, "@context": [*signed["@context"], "https://x.example/v1"]})


# What cannot be made.


@each_suite
@pytest.mark.parametrize(
    "options",
    [
        {"suite": "ecdsa-jcs-2019"},
        {"suite": "Ed25519Signature2020"},
        {"method": "did:key:z6Mk"},
        {"method": "https://vc.example/key#1"},
        {"purpose": "keyAgreement"},
        {"purpose": ""},
        {"created_s": 1e20},
        {"created_s": float("nan")},
        {"expires_s": NOW - 1000},
        {"challenge": ""},
        {"domain": ()},
        {"domain": ("a", "a")},
        {"nonce": "\n"},
        {"id": "relative"},
        {"previous": "urn:none"},
    ],
    ids=repr,
)
def test_options_that_make_no_proof(suite: Suite, options: dict[str, Any]) -> None:
    with pytest.raises(ProofNotMade):
        sign(**{"suite": suite, **options})


def test_undefined_terms_are_not_signed_over_rdf() -> None:
    for change in ({"admin": True}, {"type": ["VerifiableCredential", "Undefined"]}):
        with pytest.raises(TermUndefined):
            sign("eddsa-rdfc-2022", over={**strict_document(), **change})
    plain = {"@context": "https://www.w3.org/2018/credentials/v1", "type": "VerifiableCredential"}
    with pytest.raises(TermUndefined):  # the first data model does not know DataIntegrityProof
        sign("eddsa-rdfc-2022", over=plain)


@pytest.mark.parametrize("value", [None, [], "x", 1], ids=repr)
def test_what_is_no_object_is_not_signed(value: Any) -> None:
    with pytest.raises(DocumentInvalid):
        add_proof(value, ProofOptions(suite="eddsa-jcs-2022", method=method()), KEY)
    with pytest.raises(DocumentInvalid):
        check(value)


def test_numbers_that_jcs_cannot_hold_are_refused() -> None:
    for number in (2**53, float("nan"), float("inf")):
        with pytest.raises(DocumentInvalid):
            sign(over={**document(), "number": number})
        with pytest.raises(DocumentInvalid):
            check({**sign(), "number": number})


def test_a_secret_never_shows() -> None:
    secret = SecretKey(bytes(range(32)))
    with pytest.raises(ProofNotMade) as caught:
        add_proof(document(), ProofOptions(suite="eddsa-jcs-2022", method="x"), secret)
    assert bytes(range(32)).hex() not in repr(caught.value)


# How many proofs a document has is the other file's business, but for none.


@pytest.mark.parametrize("proof", [..., []], ids=repr)
def test_no_proof(proof: Any) -> None:
    signed = {**document(), "proof": proof}
    if proof is ...:
        del signed["proof"]
    with pytest.raises(ProofMissing):
        check(signed)


@pytest.mark.parametrize("proof", [None, "", "proof", 1, True, {}, [None], [[]], [{}]], ids=repr)
def test_no_real_proof(proof: Any) -> None:
    with pytest.raises(ProofInvalid):
        check({**document(), "proof": proof})
    with pytest.raises(ProofNotMade):
        sign(over={**document(), "proof": proof})
    assert PROOFS_MAX == 8
