"""What a proof object may hold, field by field, and every other thing that is refused."""

from __future__ import annotations

from typing import Any

import base58
import pytest
from hypothesis import given
from hypothesis import strategies as st
from proof_scene import NOW, method

from credentials.document import encode_time
from credentials.errors import ProofInvalid, ProofUnsupported
from credentials.limits import PROOF_VALUES_MAX, PROOFS_MAX
from credentials.proof_fields import decode_signature, encode_signature, parse_proof

SIGNATURE = bytes(range(1, 65))
GOOD: dict[str, Any] = {
    "type": "DataIntegrityProof",
    "cryptosuite": "eddsa-jcs-2022",
    "created": "2023-02-24T23:36:38Z",
    "verificationMethod": method(),
    "proofPurpose": "assertionMethod",
    "proofValue": encode_signature(SIGNATURE),
}
FULL: dict[str, Any] = {
    **GOOD,
    "id": "urn:uuid:26329423-bec9-4b2e-88cb-a7c7d9dc4544",
    "expires": "2023-02-25T00:36:40.5+01:00",
    "challenge": 'any "text" \\ at all: é 🙂',
    "domain": ["node.example", "https://node.example/"],
    "nonce": "8XMLP4sbKpQ",
    "previousProof": ["urn:uuid:1", "https://vc.example/proofs/2#three"],
    "@context": ["https://www.w3.org/ns/credentials/v2", {"x": "https://x.example/"}],
}
OLD = {**GOOD, "type": "Ed25519Signature2020"}
del OLD["cryptosuite"]


def test_a_full_proof_is_read() -> None:
    proof = parse_proof(FULL)
    assert proof.raw is FULL
    assert proof.signature == SIGNATURE
    assert encode_time(proof.created_s or 0) == "2023-02-24T23:36:38Z"
    assert proof.expires_s == (proof.created_s or 0) + 2.5
    assert proof.domain == ("node.example", "https://node.example/")
    assert proof.previous == ("urn:uuid:1", "https://vc.example/proofs/2#three")
    assert proof.challenge == FULL["challenge"]


def test_a_short_proof_is_read() -> None:
    proof = parse_proof({name: value for name, value in GOOD.items() if name != "created"})
    assert proof[5:] == (None, None, None, (), None, None, ())
    assert parse_proof({**GOOD, "domain": "node.example"}).domain == ("node.example",)
    assert parse_proof(OLD).suite == "Ed25519Signature2020"


@pytest.mark.parametrize(
    "field", ["type", "cryptosuite", "verificationMethod", "proofPurpose", "proofValue"]
)
def test_a_missing_field_is_refused(field: str) -> None:
    with pytest.raises(ProofInvalid):
        parse_proof({name: value for name, value in GOOD.items() if name != field})


WRONG_TYPES: list[Any] = [
    None,
    True,
    0,
    1.5,
    "",
    [],
    {},
    [[]],
    [None],
    [""],
    {"id": "x"},
    {"@value": "x"},
]


@pytest.mark.parametrize("value", WRONG_TYPES, ids=repr)
@pytest.mark.parametrize("field", sorted(FULL.keys() - {"@context"}))
def test_a_field_of_a_wrong_type_is_refused(field: str, value: Any) -> None:
    with pytest.raises(ProofInvalid):
        parse_proof({**FULL, field: value})


@pytest.mark.parametrize("field", sorted(FULL.keys() - {"@context", "domain", "previousProof"}))
def test_a_list_of_one_is_not_the_one(field: str) -> None:
    with pytest.raises(ProofInvalid):
        parse_proof({**FULL, field: [FULL[field]]})


@pytest.mark.parametrize("proof", [None, True, 1, "proof", [GOOD], []], ids=repr)
def test_what_is_no_object_is_no_proof(proof: Any) -> None:
    with pytest.raises(ProofInvalid):
        parse_proof(proof)


@pytest.mark.parametrize(
    "fields",
    [
        {"verifyData": "x"},
        {"jws": "x"},
        {"@id": "urn:x"},
        {"@type": "DataIntegrityProof"},
        {"proofvalue": "z"},
        {"": "x"},
        {"admin": None},
        {"@graph": []},
    ],
    ids=repr,
)
@pytest.mark.parametrize("proof", [GOOD, OLD], ids=["DataIntegrityProof", "Ed25519Signature2020"])
def test_an_unknown_field_is_refused(proof: dict[str, Any], fields: dict[str, Any]) -> None:
    with pytest.raises(ProofInvalid):
        parse_proof({**proof, **fields})


@pytest.mark.parametrize("field", ["cryptosuite", "expires", "previousProof"])
def test_the_old_suite_has_fewer_fields(field: str) -> None:
    with pytest.raises(ProofInvalid):
        parse_proof({**OLD, field: FULL[field]})
    with pytest.raises(ProofInvalid):
        parse_proof({name: value for name, value in OLD.items() if name != "created"})


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"type": "DataIntegrityproof"}, "DataIntegrityproof"),
        ({"type": "Ed25519Signature2018"}, "Ed25519Signature2018"),
        ({"type": "https://w3id.org/security#DataIntegrityProof"}, "type"),
        ({"cryptosuite": "eddsa-2022"}, "eddsa-2022"),
        ({"cryptosuite": "ecdsa-jcs-2019"}, "ecdsa-jcs-2019"),
        ({"cryptosuite": "EDDSA-JCS-2022"}, "EDDSA"),
    ],
)
def test_another_type_or_suite_is_unsupported(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(ProofUnsupported, match=named):
        parse_proof({**GOOD, **fields})


@pytest.mark.parametrize(
    "purpose",
    ["AssertionMethod", "assertion", "keyAgreement", "https://w3id.org/security#assertionMethod"],
)
def test_an_unknown_purpose_is_refused(purpose: str) -> None:
    with pytest.raises(ProofInvalid, match="purpose"):
        parse_proof({**GOOD, "proofPurpose": purpose})


@pytest.mark.parametrize(
    "url",
    [
        "#key-1",
        "did:key:z6Mk",
        "did:key:#",
        "did:key:z6Mk#a#b",
        "did:key:z6Mk/path#a",
        "did:key:z6Mk?versionId=1#a",
        "did:KEY:z6Mk#a",
        "https://vc.example/keys#1",
        " did:key:z6Mk#a",
        "did:key:z6Mk#a\n",
        "did:key:z6Mk#ключ",
        "did:web:" + "a" * 4096 + "#1",
    ],
)
def test_a_method_that_is_not_a_did_with_a_fragment_is_refused(url: str) -> None:
    with pytest.raises(ProofInvalid, match="verificationMethod"):
        parse_proof({**GOOD, "verificationMethod": url})


@pytest.mark.parametrize(
    "time",
    [
        "2023-02-24",
        "2023-02-24T23:36:38",
        "2023-02-24 23:36:38Z",
        "2023-02-30T23:36:38Z",
        "2023-02-24T23:36:60Z",
        "2023-02-24T25:36:38Z",
        "1677281798",
        "now",
        "２０２３-02-24T23:36:38Z",
    ],
)
@pytest.mark.parametrize("field", ["created", "expires"])
def test_a_time_without_offset_or_sense_is_refused(field: str, time: str) -> None:
    with pytest.raises(ProofInvalid):
        parse_proof({**GOOD, field: time})


def test_it_cannot_expire_before_it_is_created() -> None:
    for expires in ("2023-02-24T23:36:38Z", "2022-02-24T23:36:38Z"):
        with pytest.raises(ProofInvalid, match="before"):
            parse_proof({**GOOD, "expires": expires})


@pytest.mark.parametrize(
    "url",
    [
        "relative",
        "/a",
        "#a",
        "_:b0",
        "urn:",
        "urn:a b",
        "urn:<x>",
        'urn:"',
        "urn:\\",
        "1:a",
        "a" * 33 + ":x",
        "urn:\ufffe",
    ],
)
@pytest.mark.parametrize("field", ["id", "previousProof"])
def test_an_id_is_an_absolute_url(field: str, url: str) -> None:
    with pytest.raises(ProofInvalid):
        parse_proof({**GOOD, field: url})


@pytest.mark.parametrize("text", ["a\nb", "a\0", "\x7f", "\x80", "\ud800", "\uffff"], ids=ascii)
@pytest.mark.parametrize("field", ["challenge", "domain", "nonce"])
def test_control_characters_are_refused(field: str, text: str) -> None:
    with pytest.raises(ProofInvalid):
        parse_proof({**GOOD, field: text})


def test_lists_are_bounded_and_without_doubles() -> None:
    many = [f"urn:{number}" for number in range(PROOF_VALUES_MAX + 1)]
    assert len(parse_proof({**GOOD, "domain": many[:-1]}).domain) == PROOF_VALUES_MAX
    assert len(parse_proof({**GOOD, "previousProof": many[:PROOFS_MAX]}).previous) == PROOFS_MAX
    for field, value in (
        ("domain", many),
        ("previousProof", many[: PROOFS_MAX + 1]),
        ("domain", ["a", "a"]),
        ("previousProof", ["urn:a", "urn:a"]),
    ):
        with pytest.raises(ProofInvalid, match=field):
            parse_proof({**GOOD, field: value})


@given(st.binary(min_size=64, max_size=64), st.integers(0, 64))
def test_a_signature_comes_back(raw: bytes, zeros: int) -> None:
    signature = bytes(zeros) + raw[zeros:]
    text = encode_signature(signature)
    assert text == "z" + base58.b58encode(signature).decode()
    assert decode_signature(text) == signature


VALUE = GOOD["proofValue"]


@pytest.mark.parametrize(
    "text",
    [
        "z",
        VALUE[1:],
        "z" + base58.b58encode(SIGNATURE[:63]).decode(),
        "z" + base58.b58encode(SIGNATURE + b"\1").decode(),
        "z" + base58.b58encode(SIGNATURE + bytes(32)).decode(),
        "z1" + VALUE[1:],  # one more leading zero byte
        "z" + "1" * 63,
        "z" + "1" * 65,
        "z" + "z" * 88,  # more than 2 to the 512
        "z" + "z" * 100_000,
        VALUE + " ",
        VALUE + "\n",
        " " + VALUE,
        "z " + VALUE[1:],
        VALUE[:-1] + "0",
        VALUE[:-1] + "l",
        VALUE[:-1] + "é",
        "Z" + VALUE[1:],
        "u" + "A" * 86,
        "f" + SIGNATURE.hex(),
        "m" + "A" * 86,
        "b" + "a" * 103,
        SIGNATURE.hex(),
    ],
    ids=lambda text: ascii(text)[:30],
)
def test_another_encoding_or_length_is_refused(text: str) -> None:
    with pytest.raises(ProofInvalid):
        parse_proof({**GOOD, "proofValue": text})


def test_sixty_four_ones_are_the_zero_signature() -> None:
    assert decode_signature("z" + "1" * 64) == bytes(64)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(sorted(FULL)), values))
def test_any_json_is_read_or_refused(fields: dict[str, Any]) -> None:
    try:
        proof = parse_proof({**FULL, **fields})
    except ProofInvalid:
        return
    assert proof.created_s is not None
    assert proof.created_s < NOW * 100
