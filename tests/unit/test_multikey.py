"""Multibase and Multikeys: the published vectors, round trips, and what is refused."""

from __future__ import annotations

import csv
from pathlib import Path

import base58
import pytest
from hypothesis import given
from hypothesis import strategies as st

from credentials.errors import (
    CredentialsError,
    IdentifierInvalid,
    KeyInvalid,
    KeyLengthInvalid,
    KeyTypeUnsupported,
)
from credentials.keys import PublicKey, SecretKey, decode_base58
from credentials.multibase import decode_multibase, encode_multibase
from credentials.multikey import encode_multikey, encode_x25519, parse_multikey, parse_x25519

PREFIXES = "079fFvVtTbBcChkKZzmMuU"
PUBLIC = SecretKey(bytes(range(32))).public
NOT_READ = {
    "base256emoji": "an experiment of the multibase table; no document of ours can have it",
    "proquint": "the same, and it has no vectors",
    "base45": "a draft of the multibase table; it has no vectors",
}
TEXTS = {
    "basic.csv": b"yes mani !",
    "leading_zero.csv": b"\x00yes mani !",
    "two_leading_zeros.csv": b"\x00\x00yes mani !",
    "case_insensitivity.csv": b"hello world",
}


@pytest.mark.parametrize("name", TEXTS)
def test_multibase_vectors(vectors: Path, name: str) -> None:
    with (vectors / "multibase" / "tests" / name).open(encoding="utf-8") as file:
        rows = list(csv.reader(file, skipinitialspace=True))[1:]
    assert len(rows) >= 12
    for base, text in rows:
        if base in NOT_READ:
            with pytest.raises(IdentifierInvalid, match="names no multibase"):
                decode_multibase(text, chars_max=200)
            continue
        assert decode_multibase(text, chars_max=200) == TEXTS[name], base
        if name != "case_insensitivity.csv":
            assert encode_multibase(text[0], TEXTS[name]) == text


def test_every_base_of_the_table_is_read_or_named(vectors: Path) -> None:
    with (vectors / "multibase" / "multibase.csv").open(encoding="utf-8") as file:
        rows = [[cell.strip() for cell in row] for row in csv.reader(file)][1:]
    missing = {row[2] for row in rows if row[2] != "none" and row[1] not in PREFIXES}
    assert missing == set(NOT_READ)


@given(st.sampled_from(PREFIXES), st.binary(max_size=80))
def test_multibase_round_trips(prefix: str, raw: bytes) -> None:
    text = encode_multibase(prefix, raw)
    assert decode_multibase(text, chars_max=1_000) == raw


@given(st.one_of(st.text(max_size=60), st.from_regex(r"[079fFvVtTbBcChkKZzmMuU][!-~]{0,40}")))
def test_any_text_is_multibase_or_refused(text: str) -> None:
    try:
        raw = decode_multibase(text, chars_max=100)
    except CredentialsError:
        return
    again = encode_multibase(text[0], raw)
    assert again.lower() == text.lower()  # one text for one value, but for the case of some bases


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no multibase"),
        ("!abc", "names no multibase"),
        ("\0abc", "names no multibase"),
        ("z0OIl", "base58"),
        ("zab cd", "base58"),
        ("zabc\n", "base58"),
        ("uYQ==", "characters that its base has not"),
        ("uY+/_", "characters that its base has not"),
        ("uYR", "bits behind the last byte"),
        ("uY", "not what its base writes"),
        ("UYQ", "not padded"),
        ("UYQ=", "not padded"),
        ("UYQ======", "not padded"),
        ("fabc", "bits behind the last byte"),
        ("f0x12", "characters that its base has not"),
        ("f1_2", "characters that its base has not"),
        ("9-1", "characters that its base has not"),
        ("9٣", "characters that its base has not"),
        ("bA1", "characters that its base has not"),
        ("0" + "1" * 7, "bits behind the last byte"),
        ("u" + "A" * 200, "at most 100 characters"),
    ],
)
def test_multibase_refused(text: str, message: str) -> None:
    with pytest.raises(IdentifierInvalid, match=message):
        decode_multibase(text, chars_max=100)


@given(st.binary(max_size=300))
def test_base58_agrees_with_the_library(raw: bytes) -> None:
    text = base58.b58encode(raw).decode()
    if raw:
        assert decode_base58(text, "a test", 1_000) == raw == base58.b58decode(text)


def test_base58_of_the_longest_did_takes_a_moment() -> None:
    assert len(decode_base58("z" * 4_096, "a test", 4_096)) == 3_000
    with pytest.raises(IdentifierInvalid, match="not 1 to 4096"):
        decode_base58("z" * 4_097, "a test", 4_096)


@given(st.binary(min_size=32, max_size=32))
def test_multikeys_round_trip(seed: bytes) -> None:
    public = SecretKey(seed).public
    assert encode_multikey(public).startswith("z6Mk")
    assert parse_multikey(encode_multikey(public)) == public
    twin = public.to_x25519()
    assert encode_x25519(twin).startswith("z6LS")
    assert parse_x25519(encode_x25519(twin)) == twin


def multikey(raw: bytes) -> str:
    return "z" + base58.b58encode(raw).decode()


SMALL_ORDER = [  # the eight points of small order, and other encodings of them
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000080",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
]


@pytest.mark.parametrize(
    "point",
    [
        *SMALL_ORDER,
        "02" + "00" * 31,  # not on the curve
        "ff" * 32,  # not canonical
        "cdb267ce40c5cd45306fa5d2f29731459387dbf9eb933b7bd5aed9a765b88d4d",  # mixed order
    ],
)
def test_keys_with_which_nobody_signs_are_refused(point: str) -> None:
    public = PublicKey(bytes.fromhex(point))
    with pytest.raises(KeyInvalid, match="no point of prime order"):
        parse_multikey(encode_multikey(public))
    with pytest.raises(KeyInvalid):
        public.check_point()


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("", IdentifierInvalid, "does not begin with z"),
        ("6Mk", IdentifierInvalid, "does not begin with z"),
        ("u7QEB", IdentifierInvalid, "does not begin with z"),
        ("z", IdentifierInvalid, "base58"),
        ("z" + "1" * 2_000, IdentifierInvalid, "base58"),
        (encode_multikey(PUBLIC)[:-1], IdentifierInvalid, "z6Mk"),
        (encode_multikey(PUBLIC) + " ", IdentifierInvalid, "base58"),
        (multikey(b"\xed\x01" + PUBLIC.raw[:-1]), KeyLengthInvalid, "33 bytes"),
        (multikey(b"\xed\x01" + PUBLIC.raw + b"\0"), KeyLengthInvalid, "35 bytes"),
        (multikey(b"\0\xed\x01" + PUBLIC.raw), KeyLengthInvalid, "35 bytes"),
        (multikey(b"\xed\x00" + PUBLIC.raw), KeyTypeUnsupported, "unknown type, 0xed00"),
        (multikey(b"\xec\x01" + PUBLIC.raw), KeyTypeUnsupported, "X25519"),
        (multikey(b"\xe7\x01" + PUBLIC.raw + b"\0"), KeyTypeUnsupported, "secp256k1"),
        (multikey(b"\x85\x24" + bytes(270)), KeyTypeUnsupported, "RSA"),
    ],
)
def test_multikeys_refused(text: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        parse_multikey(text)


def test_x25519_keys_refused() -> None:
    with pytest.raises(KeyTypeUnsupported):
        parse_x25519(encode_multikey(PUBLIC))
    with pytest.raises(KeyLengthInvalid, match="not 31"):
        encode_x25519(bytes(31))


@given(st.text(max_size=80))
def test_any_text_is_a_multikey_or_refused(text: str) -> None:
    for candidate in (text, "z" + text):
        with pytest.raises(IdentifierInvalid):
            parse_multikey(candidate)
