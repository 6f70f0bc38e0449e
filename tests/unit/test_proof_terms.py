"""The text of proof options from a template is what JSON-LD and RDFC-1.0 make of them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from proof_scene import KEY, OTHER, V2, method

from credentials.document import encode_time
from credentials.errors import ContextUnknown, CredentialsError, ProofInvalid, TermUndefined
from credentials.limits import PROOF_VALUES_MAX, PROOFS_MAX
from credentials.proof_fields import PURPOSES, encode_signature, parse_proof
from credentials.proof_terms import canonical_options
from credentials.rdfc import canonicalize_rdfc

V1 = "https://www.w3.org/2018/credentials/v1"
INTEGRITY_V1 = "https://w3id.org/security/data-integrity/v1"
INTEGRITY_V2 = "https://w3id.org/security/data-integrity/v2"
EXAMPLES = "https://www.w3.org/ns/credentials/examples/v2"
ED25519_2020 = "https://w3id.org/security/suites/ed25519-2020/v1"
VALUE = encode_signature(bytes(64))

CONTEXTS: list[Any] = [
    V2,
    [V2],
    [V2, EXAMPLES],
    [V1, INTEGRITY_V1],
    [V1, INTEGRITY_V2],
    INTEGRITY_V1,
    INTEGRITY_V2,
    [V2, INTEGRITY_V2],
    [V2, {"@vocab": "https://x.example/"}],
    [V2, {"@language": "en", "nonsense": "https://x.example/nonsense"}],
]
OLD_CONTEXTS: list[Any] = [ED25519_2020, [V1, ED25519_2020], [V2, ED25519_2020]]

no_control = st.characters(blacklist_categories=["Cs", "Cc"], blacklist_characters="\ufffe\uffff")
texts = st.text(no_control, min_size=1, max_size=20)
ascii_urls = st.text("abcXYZ019-._~:/?#[]@!$&'()*+,;=%", min_size=1, max_size=20)
urls = st.builds(
    "{}:{}".format,
    st.sampled_from(["urn", "urn:uuid", "https", "did", "cred", "x-y.z+1"]),
    ascii_urls | st.sampled_from(["//vc.example/proofs/1#é", "//vc.example/a/../b", "日本"]),
)
times = st.integers(0, 4_000_000_000).map(encode_time) | st.just("2023-02-24T23:36:38.50+01:00")
methods = st.sampled_from([method(KEY), method(OTHER), "did:web:vc.example%3A8443:a#key-1"])


def some(one: st.SearchStrategy[str], values_max: int) -> st.SearchStrategy[Any]:
    return one | st.lists(one, min_size=1, max_size=values_max, unique=True)


both = {
    "created": times,
    "verificationMethod": methods,
    "challenge": texts,
    "domain": some(texts, PROOF_VALUES_MAX),
    "nonce": texts,
    "id": urls,
}
proofs = st.fixed_dictionaries(
    {
        "type": st.just("DataIntegrityProof"),
        "cryptosuite": st.just("eddsa-rdfc-2022"),
        "verificationMethod": methods,
        "proofPurpose": st.sampled_from(sorted(PURPOSES)),
    },
    optional={
        **{name: both[name] for name in ("created", "challenge", "domain", "nonce", "id")},
        "expires": times,
        "previousProof": some(urls, PROOFS_MAX),
    },
)
old_proofs = st.fixed_dictionaries(
    {
        "type": st.just("Ed25519Signature2020"),
        "created": times,
        "verificationMethod": methods,
        "proofPurpose": st.sampled_from(["assertionMethod", "authentication"]),
    },
    optional={name: both[name] for name in ("challenge", "domain", "nonce", "id")},
)


def compare(options: dict[str, Any], context: Any) -> None:
    """The template's answer is the long way's, errors included."""
    try:
        proof = parse_proof({**options, "proofValue": VALUE})
    except ProofInvalid:
        return  # it expires before it was created
    try:
        expected = canonicalize_rdfc({"@context": context, **options})
    except TermUndefined:
        with pytest.raises(TermUndefined):
            canonical_options(proof, context)
        return
    assert canonical_options(proof, context) == expected


@given(proofs, st.sampled_from(CONTEXTS))
def test_the_template_is_the_canonical_form(options: dict[str, Any], context: Any) -> None:
    compare(options, context)


@given(old_proofs, st.sampled_from(OLD_CONTEXTS))
def test_so_it_is_for_the_old_suite(options: dict[str, Any], context: Any) -> None:
    compare(options, context)


FULL: dict[str, Any] = {
    "type": "DataIntegrityProof",
    "cryptosuite": "eddsa-rdfc-2022",
    "created": "2023-02-24T23:36:38Z",
    "verificationMethod": method(),
    "proofPurpose": "assertionMethod",
    "expires": "2024-02-24T23:36:38Z",
    "challenge": "challenge of this",
    "domain": "domain of this",
    "nonce": "nonce of this",
    "id": "urn:uuid:26329423-bec9-4b2e-88cb-a7c7d9dc4544",
    "previousProof": "urn:uuid:26329423-bec9-4b2e-88cb-a7c7d9dc4545",
    "proofValue": VALUE,
}
SECURITY = "https://w3id.org/security#"


def own_terms(**changes: Any) -> dict[str, Any]:
    """A context that defines a proof's terms by itself, with changes."""
    iri = {"@type": "@id"}
    time = {"@type": "http://www.w3.org/2001/XMLSchema#dateTime"}
    terms: dict[str, Any] = {
        "id": "@id",
        "type": "@type",
        "DataIntegrityProof": SECURITY + "DataIntegrityProof",
        "cryptosuite": SECURITY + "cryptosuite",
        "created": {"@id": "http://purl.org/dc/terms/created", **time},
        "expires": {"@id": SECURITY + "expiration", **time},
        "verificationMethod": {"@id": SECURITY + "verificationMethod", **iri},
        "proofPurpose": {"@id": SECURITY + "proofPurpose", "@type": "@vocab"},
        "assertionMethod": SECURITY + "assertionMethod",
        "challenge": SECURITY + "challenge",
        "domain": SECURITY + "domain",
        "nonce": SECURITY + "nonce",
        "previousProof": {"@id": SECURITY + "previousProof", **iri},
    }
    return terms | changes


def test_a_context_may_say_the_same_in_its_own_words() -> None:
    proof = parse_proof(FULL)
    text = canonical_options(proof, own_terms())
    assert text.count("\n") == 10
    assert '"challenge of this" .\n' in text


@pytest.mark.parametrize(
    "change",
    [
        {"challenge": SECURITY + "nonce", "nonce": SECURITY + "challenge"},
        {"challenge": SECURITY + "domain", "domain": SECURITY + "challenge"},
        {"challenge": "https://x.example/challenge"},
        {"challenge": SECURITY + "nonce"},
        {"challenge": None},
        {"challenge": {"@id": SECURITY + "challenge", "@type": "@json"}},
        {"challenge": {"@id": SECURITY + "challenge", "@type": "@id"}},
        {"domain": {"@id": SECURITY + "domain", "@container": "@list"}},
        {"domain": {"@id": SECURITY + "domain", "@container": "@graph"}},
        {"domain": {"@reverse": SECURITY + "domain"}},
        {"created": {"@id": SECURITY + "expiration"}},
        {
            "created": {"@id": SECURITY + "expiration"},
            "expires": {"@id": "http://purl.org/dc/terms/created"},
        },
        {"expires": None},
        {"assertionMethod": SECURITY + "authenticationMethod"},
        {"DataIntegrityProof": SECURITY + "Ed25519Signature2020"},
        {"verificationMethod": {"@id": SECURITY + "previousProof", "@type": "@id"}},
        {"verificationMethod": SECURITY + "verificationMethod"},
        {"cryptosuite": SECURITY + "nonce"},
        {"cryptosuite": {"@id": SECURITY + "cryptosuite", "@type": "@vocab"}},
        {"did": {"@id": "https://x.example/", "@prefix": True}},
        {"urn": {"@id": "https://x.example/", "@prefix": True}},
        {"id": SECURITY + "nonce"},
        {"type": SECURITY + "nonce"},
        {"proofPurpose": "@nest"},
        {"proofPurpose": {"@id": SECURITY + "proofPurpose"}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_context_that_gives_a_field_another_meaning_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(CredentialsError):
        canonical_options(parse_proof(FULL), own_terms(**change))


def test_contexts_decide_nothing_when_unknown_or_missing() -> None:
    proof = parse_proof(FULL)
    with pytest.raises(ContextUnknown):
        canonical_options(proof, "https://x.example/v1")
    for context in (V1, {}, [], None, ED25519_2020):
        with pytest.raises(CredentialsError):
            canonical_options(proof, context)


@pytest.mark.parametrize("context", [1, True, [None, V2], [[V2]], [1], {"@context": V2}], ids=repr)
def test_what_is_no_context_is_an_error_of_ours(context: Any) -> None:
    try:
        canonical_options(parse_proof(FULL), context)
    except CredentialsError:
        return
    assert context in ([None, V2], [[V2]])
