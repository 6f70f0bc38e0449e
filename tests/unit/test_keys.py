"""Key files, PeerIds and DIDs: published vectors, round trips, and what is refused."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path

import base58
import nacl.bindings
import pytest
from hypothesis import given
from hypothesis import strategies as st

from credentials.did import Did, did_key, did_peer_alias, parse_did, verification_method
from credentials.errors import CredentialsError, IdentifierInvalid, KeyInvalid, SignatureInvalid
from credentials.keys import (
    KEY_FILE_BYTES,
    PublicKey,
    SecretKey,
    encode_key_file,
    parse_key_file,
    parse_peer_id,
    peer_id,
)
from credentials.multikey import encode_multikey

SEED = bytes(range(32))
PUBLIC = bytes.fromhex("03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8")
PEER_ID = "12D3KooWA4Xop1JaT3MHxwYMkCepYsv4iPVopMXwCz5iHYdBfeSB"
seeds = st.binary(min_size=32, max_size=32)


def test_the_reference_networks_vector() -> None:
    secret = parse_key_file(bytes.fromhex("08011240") + SEED + PUBLIC)
    assert secret.public.raw == PUBLIC
    assert peer_id(secret.public) == PEER_ID
    assert did_peer_alias(secret.public) == f"did:peer:{PEER_ID}"
    assert verification_method(did_peer_alias(secret.public)) == f"did:peer:{PEER_ID}#key-1"


def test_libp2ps_published_vector() -> None:
    # libp2p peer-ids specification, "Test vectors": the Ed25519 private and public key.
    private = bytes.fromhex(
        "080112407e0830617c4a7de83925dfb2694556b12936c477a0e1feb2e148ec9da60fee7d"
        "1ed1e8fae2c4a144b8be8fd4b47bf3d3b34b871c3cacf6010f0e42d474fce27e"
    )
    public = bytes.fromhex(
        "080112201ed1e8fae2c4a144b8be8fd4b47bf3d3b34b871c3cacf6010f0e42d474fce27e"
    )
    secret = parse_key_file(private)
    assert secret.public.raw == public[4:]
    assert encode_key_file(secret) == private


@pytest.mark.parametrize(
    ("seed", "did"),
    [  # did:key method specification, ed25519 test vectors
        ("00" * 32, "did:key:z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp"),
        ("00" * 31 + "01", "did:key:z6MkjchhfUsD6mmvni8mCdXHw216Xrm9bQe2mBH1P5RDjVJG"),
        ("00" * 31 + "02", "did:key:z6MknGc3ocHs3zdPiJbnaaqDi58NGb4pk1Sp9WxWufuXSdxf"),
    ],
)
def test_did_key_vectors(seed: str, did: str) -> None:
    public = SecretKey(bytes.fromhex(seed)).public
    assert did_key(public) == did
    assert parse_did(did) == public
    assert verification_method(Did(did)) == f"{did}#{did.removeprefix('did:key:')}"


def test_rfc_8032_vector() -> None:
    secret = SecretKey(
        bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
    )
    signature = secret.sign(b"\x72")
    assert signature.hex() == (
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )
    secret.public.verify(b"\x72", signature)


def test_ed25519_cryp_to_vectors(vectors: Path) -> None:
    lines = (vectors / "ed25519-cryp.to/tests/data/ed25519").read_text("ascii").splitlines()
    assert len(lines) == 1024
    for line in lines:
        pair, public, message, signed = (bytes.fromhex(part) for part in line.split(":")[:4])
        secret = SecretKey(pair[:32])
        assert secret.public.raw == public
        assert secret.sign(message) == signed[:64]
        secret.public.verify(message, signed[:64])
        secret.public.check_point()


def test_wycheproof_ed25519_vectors(vectors: Path) -> None:
    data = json.loads((vectors / "wycheproof/testvectors_v1/ed25519_test.json").read_bytes())
    tested = 0
    for group in data["testGroups"]:
        public = PublicKey(bytes.fromhex(group["publicKey"]["pk"]))
        for case in group["tests"]:
            tested += 1
            arguments = bytes.fromhex(case["msg"]), bytes.fromhex(case["sig"])
            if case["result"] == "valid":
                public.verify(*arguments)
            else:
                with pytest.raises(SignatureInvalid):
                    public.verify(*arguments)
    assert tested == data["numberOfTests"] == 151


def test_wycheproof_x25519_vectors(vectors: Path) -> None:
    # Nothing here makes X25519 secrets; the library that our agreement keys are for does. It
    # refuses public keys of small order, whose secret is zero: Wycheproof calls that acceptable.
    data = json.loads((vectors / "wycheproof/testvectors_v1/x25519_test.json").read_bytes())
    for case in (case for group in data["testGroups"] for case in group["tests"]):
        private, public = bytes.fromhex(case["private"]), bytes.fromhex(case["public"])
        if int(case["shared"], 16) == 0:
            assert case["result"] == "acceptable"
            with pytest.raises(RuntimeError):
                nacl.bindings.crypto_scalarmult(private, public)
        else:
            shared = nacl.bindings.crypto_scalarmult(private, public)
            assert shared.hex() == case["shared"], case["comment"]


# ed25519-speccheck, "Taming the many EdDSAs", table 1: what each case tries. Case 3 is what RFC
# 8032 permits without the cofactor; its key, of mixed order, is no identity here (`check_point`).
SPECCHECK = [
    ("S is 0, key and R of small order", False),
    ("key of small order", False),
    ("R of small order", False),
    ("key and R of mixed order, the equation holds", True),
    ("the equation holds with the cofactor only", False),
    ("the same, the cofactor multiplied in too early", False),
    ("S is not reduced", False),
    ("S is not reduced, by far", False),
    ("R of small order and not canonical, reduced before hashing", False),
    ("R of small order and not canonical, not reduced before hashing", False),
    ("key of small order and not canonical, reduced before hashing", False),
    ("key of small order and not canonical, not reduced before hashing", False),
]
SPECCHECK_KEYS_OF_PRIME_ORDER = {6, 7}


def test_ed25519_speccheck(vectors: Path) -> None:
    cases = json.loads((vectors / "ed25519-speccheck/cases.json").read_bytes())
    assert len(cases) == len(SPECCHECK)
    for index, (case, (what, holds)) in enumerate(zip(cases, SPECCHECK, strict=True)):
        public = PublicKey(bytes.fromhex(case["pub_key"]))
        arguments = bytes.fromhex(case["message"]), bytes.fromhex(case["signature"])
        if holds:
            public.verify(*arguments)
        else:
            with pytest.raises(SignatureInvalid):
                public.verify(*arguments)
        try:
            public.check_point()
            prime = True
        except KeyInvalid:
            prime = False
        assert prime == (index in SPECCHECK_KEYS_OF_PRIME_ORDER), what


@given(seeds, seeds)
def test_the_x25519_twins_agree(one: bytes, other: bytes) -> None:
    ours, theirs = SecretKey(one), SecretKey(other)
    shared = nacl.bindings.crypto_scalarmult(ours.expose_x25519(), theirs.public.to_x25519())
    assert shared == nacl.bindings.crypto_scalarmult(
        theirs.expose_x25519(), ours.public.to_x25519()
    )
    assert nacl.bindings.crypto_scalarmult_base(ours.expose_x25519()) == ours.public.to_x25519()


def test_a_key_of_small_order_has_no_twin() -> None:
    with pytest.raises(KeyInvalid):
        PublicKey(b"\x01" + bytes(31)).to_x25519()


@given(seeds)
def test_everything_round_trips(seed: bytes) -> None:
    secret = SecretKey(seed)
    data = encode_key_file(secret)
    assert len(data) == KEY_FILE_BYTES
    assert parse_key_file(data).expose_seed() == seed
    assert parse_peer_id(peer_id(secret.public)) == secret.public
    assert parse_did(did_key(secret.public)) == secret.public
    assert parse_did(did_peer_alias(secret.public)) == secret.public
    assert peer_id(secret.public).startswith("12D3KooW")
    assert encode_multikey(secret.public).startswith("z6Mk")


@given(st.binary(max_size=200))
def test_any_bytes_are_a_key_or_refused(data: bytes) -> None:
    with pytest.raises(KeyInvalid):
        parse_key_file(data)


@given(st.text(max_size=200))
def test_any_text_is_an_identifier_or_refused(text: str) -> None:
    for candidate in (text, "did:key:z" + text, "did:peer:" + text):
        with pytest.raises(IdentifierInvalid):
            parse_did(candidate)


GOOD = encode_key_file(SecretKey(SEED))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it has 0 bytes; an Ed25519 key file has 68"),
        (GOOD[:-1], "it has 67 bytes"),
        (GOOD + b"\n", "it has 69 bytes"),
        (b"\x0a" + GOOD[1:], "does not begin like a libp2p Ed25519 private key"),
        (GOOD[:-1] + bytes([GOOD[-1] ^ 1]), "its public half does not belong to its secret half"),
        (b"\x08\x00\x12\xa8\x09" + b"x" * 1192, "a libp2p key of type RSA; only Ed25519"),
        (b"\x08\x02\x12\x20" + b"x" * 32, "a libp2p key of type Secp256k1"),
    ],
)
def test_key_files_refused(data: bytes, message: str) -> None:
    with pytest.raises(KeyInvalid, match=message):
        parse_key_file(data)


@pytest.mark.parametrize(
    "text",
    [
        "",
        PEER_ID[:-1],
        PEER_ID + "1",
        "1" + PEER_ID,
        PEER_ID.replace("K", "0"),
        "Qm" + "a" * 44,
        "1" * 100_000,
        "é" * 52,
    ],
)
def test_peer_ids_refused(text: str) -> None:
    with pytest.raises(IdentifierInvalid):
        parse_peer_id(text)


@pytest.mark.parametrize(
    "text",
    [
        "did:web:example.org",
        "did:key:",
        "did:key:6Mk",
        "did:key:z" + base58.b58encode(b"\xec\x01" + PUBLIC).decode(),  # X25519
        "did:key:z" + base58.b58encode(b"\xed\x01" + PUBLIC[:-1]).decode(),
        "did:key:z" + base58.b58encode(b"\xed\x01" + PUBLIC + b"\0").decode(),
        f"{did_key(PublicKey(PUBLIC))}#{encode_multikey(PublicKey(PUBLIC))}",
        " " + did_key(PublicKey(PUBLIC)),
        did_key(PublicKey(PUBLIC)) + "\n",
    ],
)
def test_dids_refused(text: str) -> None:
    with pytest.raises(IdentifierInvalid):
        parse_did(text)


def test_signatures_refused() -> None:
    secret = SecretKey(SEED)
    signature = secret.sign(b"message")
    for message, bad in [
        (b"other", signature),
        (b"message", signature[:-1]),
        (b"message", signature + b"\0"),
        (b"message", bytes(64)),
        (b"message", b""),
    ]:
        with pytest.raises(SignatureInvalid):
            secret.public.verify(message, bad)
    with pytest.raises(SignatureInvalid):
        SecretKey(bytes(32)).public.verify(b"message", signature)


def test_a_small_order_key_verifies_nothing() -> None:
    small = PublicKey(b"\x01" + bytes(31))  # the neutral element: it would accept S = 0, R = 1
    with pytest.raises(SignatureInvalid):
        small.verify(b"anything", b"\x01" + bytes(63))


def test_lengths_are_checked() -> None:
    for make in (SecretKey, PublicKey):
        for size in (0, 31, 33):
            with pytest.raises(KeyInvalid):
                make(bytes(size))


def test_a_secret_key_does_not_show_or_travel() -> None:
    secret = SecretKey(b"S" * 32)
    for shown in (repr(secret), str(secret), f"{secret}", repr([secret])):
        assert "SSS" not in shown
        assert (b"S" * 32).hex() not in shown
        assert "redacted" in shown
    with pytest.raises(TypeError):
        pickle.dumps(secret)
    with pytest.raises(TypeError):
        copy.deepcopy(secret)
    assert not hasattr(secret, "__dict__")


def test_errors_have_their_own_tree() -> None:
    leaves = (KeyInvalid, IdentifierInvalid, SignatureInvalid)
    assert all(issubclass(leaf, CredentialsError) for leaf in leaves)
    assert len({leaf.code for leaf in (CredentialsError, *leaves)}) == 4
