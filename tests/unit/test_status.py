"""Bitstring Status List 1.0: bits, texts, entries, list credentials and the look-up."""

from __future__ import annotations

import base64
import gzip
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from credentials.bitstring import ENTRIES_MIN, StatusList, decode_list, encode_list
from credentials.errors import (
    ModelInvalid,
    StatusEntryInvalid,
    StatusIndexBeyondEnd,
    StatusListInvalid,
    StatusListTooShort,
)
from credentials.limits import STATUS_LIST_BYTES_MAX
from credentials.status import (
    StatusEntry,
    build_list_credential,
    build_status_entry,
    parse_list_credential,
    parse_status_entry,
)

URL = "https://issuer.example/status/revocation-1"
ISSUER = "did:key:z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp"
# The empty list of 16 KiB as the Recommendation prints it (example 3).
W3C_EMPTY = "uH4sIAAAAAAAAA-3BMQEAAADCoPVPbQwfoAAAAAAAAAAAAAAAAAAAAIC3AYbSVKsAQAAA"


def encode(data: bytes) -> str:
    return "u" + base64.urlsafe_b64encode(data).decode().rstrip("=")


# Bits.


def test_the_first_entry_is_in_the_highest_bit_of_the_first_byte() -> None:
    bits = StatusList.new()
    bits.set(0)
    bits.set(15)
    assert bytes(bits)[:3] == b"\x80\x01\x00"
    assert [bits.get(i) for i in (0, 1, 14, 15)] == [1, 0, 0, 1]


def test_entries_of_three_bits_cross_bytes() -> None:
    bits = StatusList.new(size=3)
    bits.set(2, 0b101)
    assert bytes(bits)[:2] == bytes([0b00000010, 0b10000000])
    assert bits.get(2) == 0b101
    assert (bits.get(1), bits.get(3)) == (0, 0)


@given(
    st.integers(1, 8),
    st.dictionaries(st.integers(0, ENTRIES_MIN - 1), st.integers(0, 255), max_size=20),
)
def test_what_is_set_is_had_back_after_encoding_and_nothing_else_changes(
    size: int, values: dict[int, int]
) -> None:
    bits = StatusList.new(size=size)
    masked = {index: value % (1 << size) for index, value in values.items()}
    for index, value in masked.items():
        bits.set(index, value)
    back = decode_list(encode_list(bits), size=size)
    assert bytes(back) == bytes(bits)
    assert {index: back.get(index) for index in masked} == masked
    for index in masked:
        back.set(index, 0)
    assert not any(bytes(back))


def test_the_last_entry_is_one_and_the_next_is_none() -> None:
    bits = StatusList.new()
    bits.set(ENTRIES_MIN - 1)
    assert bits.get(ENTRIES_MIN - 1) == 1
    for index in (ENTRIES_MIN, -1, 10**18):
        with pytest.raises(StatusIndexBeyondEnd) as caught:
            bits.get(index)
        assert caught.value.problem.endswith("RANGE_ERROR")
        with pytest.raises(StatusIndexBeyondEnd):
            bits.set(index)


@pytest.mark.parametrize("value", [2, -1])
def test_a_value_that_an_entry_does_not_hold_is_refused(value: int) -> None:
    with pytest.raises(StatusEntryInvalid):
        StatusList.new().set(0, value)


@pytest.mark.parametrize("size", [0, 9, -1])
def test_an_entry_has_one_to_eight_bits(size: int) -> None:
    with pytest.raises(StatusEntryInvalid):
        StatusList.new(size=size)


@pytest.mark.parametrize("entries", [0, -1, 10**12])
def test_a_list_too_small_or_too_big_is_not_made(entries: int) -> None:
    with pytest.raises(StatusListInvalid):
        StatusList.new(entries)


# Text.


def test_the_empty_list_of_the_recommendation() -> None:
    bits = decode_list(W3C_EMPTY)
    assert len(bits) == ENTRIES_MIN
    assert not any(bytes(bits))


def test_the_same_list_has_the_same_text_every_time_and_no_time_in_it() -> None:
    assert encode_list(StatusList.new()) == encode_list(StatusList.new())
    packed = base64.urlsafe_b64decode(encode_list(StatusList.new())[1:] + "==")
    assert packed[4:8] == b"\0\0\0\0"


def test_the_length_needed_counts_entries_not_bits() -> None:
    text = encode(gzip.compress(bytes(ENTRIES_MIN // 8)))
    assert len(decode_list(text)) == ENTRIES_MIN
    with pytest.raises(StatusListTooShort) as caught:
        decode_list(text, size=2)
    assert caught.value.problem.endswith("STATUS_LIST_LENGTH_ERROR")


def test_a_bomb_is_refused_after_the_cap() -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    chunk = bytes(1 << 20)
    packed = b"".join(packer.compress(chunk) for _ in range(256)) + packer.flush()
    assert len(packed) < 300_000
    with pytest.raises(StatusListInvalid, match="expands to more than"):
        decode_list(encode(packed))


REFUSED_TEXTS = {
    "not multibase": W3C_EMPTY[1:],
    "empty": "",
    "another base": "z" + W3C_EMPTY[1:],
    "the other alphabet": encode(gzip.compress(bytes(ENTRIES_MIN // 8)))[:-1] + "+",
    "padding": W3C_EMPTY + "=",
    "white space": W3C_EMPTY[:9] + "\n" + W3C_EMPTY[9:],
    "an end of line": W3C_EMPTY + "\n",
    "one character over": "uA",
    "not gzip": encode(b"plain"),
    "zlib in place of gzip": encode(zlib.compress(bytes(ENTRIES_MIN // 8))),
    "cut off": encode(gzip.compress(bytes(ENTRIES_MIN // 8))[:-5]),
    "bytes after the end": encode(gzip.compress(bytes(ENTRIES_MIN // 8)) + b"more"),
    "two members": encode(gzip.compress(bytes(ENTRIES_MIN // 8)) * 2),
    "a wrong checksum": encode(gzip.compress(bytes(ENTRIES_MIN // 8))[:-8] + bytes(8)),
    "less than 131,072 entries": encode(gzip.compress(bytes(ENTRIES_MIN // 8 - 1))),
    "nothing in it": encode(gzip.compress(b"")),
    "longer than a list may be": "u" + "A" * (STATUS_LIST_BYTES_MAX * 2),
}


@pytest.mark.parametrize("text", REFUSED_TEXTS.values(), ids=REFUSED_TEXTS.keys())
def test_texts_that_are_no_list_are_refused(text: str) -> None:
    with pytest.raises(StatusListInvalid):
        decode_list(text)


@given(st.binary(max_size=200))
def test_no_bytes_are_a_crash(data: bytes) -> None:
    for text in (encode(data), "u" + data.decode("latin1"), data.decode("utf-8", "replace")):
        with pytest.raises(StatusListInvalid):
            decode_list(text)


# Entries.


def entry(**changes: Any) -> dict[str, Any]:
    made = {**build_status_entry(URL, "revocation", 94567), **changes}
    return {name: value for name, value in made.items() if value is not None}


FOUR = [
    {"status": "0x0", "message": "pending"},
    {"status": "0x1", "message": "accepted"},
    {"status": "0x2", "message": "rejected"},
    {"status": "0x3", "message": "undefined", "more": 1},
]


def test_an_entry_is_read_as_it_was_built() -> None:
    assert parse_status_entry(entry()) == StatusEntry(
        f"{URL}#94567", "BitstringStatusListEntry", "revocation", URL, 94567
    )
    built = build_status_entry(
        URL, "message", 7, size=2, messages={0: "a", 1: "b", 2: "c", 3: "d"}, reference=URL
    )
    assert built["statusMessage"][2] == {"status": "0x2", "message": "c"}
    parsed = parse_status_entry(built)
    assert (parsed.size, parsed.messages[3], parsed.references) == (2, "d", (URL,))


def test_messages_are_what_the_issuer_committed_to_or_set_and_unset() -> None:
    parsed = parse_status_entry(entry(statusPurpose="message", statusSize=2, statusMessage=FOUR))
    assert [parsed.message(value) for value in range(4)] == [
        "pending",
        "accepted",
        "rejected",
        "undefined",
    ]
    plain = parse_status_entry(entry(statusPurpose="message"))
    assert (plain.message(0), plain.message(1)) == ("unset", "set")


def test_an_entry_needs_no_id_and_may_have_several_types_and_references() -> None:
    assert parse_status_entry(entry(id=None)).id is None
    assert parse_status_entry(entry(type=["BitstringStatusListEntry", "Other"])).is_bitstring
    both = [URL, "https://example.org/b"]
    assert parse_status_entry(entry(statusReference=both)).references == tuple(both)


def test_a_status_of_another_type_is_read_as_such() -> None:
    other = parse_status_entry({"id": URL, "type": "StatusList2021Entry", "statusListIndex": 1})
    assert not other.is_bitstring
    assert other.type == "StatusList2021Entry"


REFUSED_ENTRIES: dict[str, Any] = {
    "not an object": "revoked",
    "no type": entry(type=None),
    "a type that is a number": entry(type=1),
    "no types": entry(type=[]),
    "no list": entry(statusListCredential=None),
    "a list that is no URL": entry(statusListCredential="status/3"),
    "a list with a space": entry(statusListCredential="https://a b"),
    "an endless URL": entry(statusListCredential="https://a/" + "a" * 10_000),
    "a list in an object": entry(statusListCredential={"id": URL}),
    "the id of the list": entry(id=URL),
    "an id that is no URL": entry(id="94567"),
    "no purpose": entry(statusPurpose=None),
    "an empty purpose": entry(statusPurpose=""),
    "two purposes": entry(statusPurpose=["revocation", "suspension"]),
    "no index": entry(statusListIndex=None),
    "an index that is a number": entry(statusListIndex=94567),
    "a negative index": entry(statusListIndex="-1"),
    "an index in hex": entry(statusListIndex="0x10"),
    "an index with a newline": entry(statusListIndex="1\n"),
    "an index in other digits": entry(statusListIndex="١٢"),
    "an index without end": entry(statusListIndex="9" * 400),
    "a fraction": entry(statusListIndex="1.0"),
    "size 0": entry(statusSize=0),
    "size in a string": entry(statusSize="1"),
    "size true": entry(statusSize=True),
    "size 9": entry(statusSize=9),
    "size 2 without messages": entry(statusSize=2),
    "three messages of four": entry(statusSize=2, statusMessage=FOUR[:3]),
    "four messages of two": entry(statusMessage=FOUR),
    "a message twice": entry(statusSize=2, statusMessage=FOUR[:3] + FOUR[:1]),
    "a status beyond the size": entry(
        statusSize=2, statusMessage=[*FOUR[:3], {"status": "0x4", "message": ""}]
    ),
    "a status without 0x": entry(
        statusMessage=[{"status": "0", "message": ""}, {"status": "1", "message": ""}]
    ),
    "a message without text": entry(statusMessage=[{"status": "0x0"}, {"status": "0x1"}]),
    "messages in an object": entry(statusMessage={"0x0": "a", "0x1": "b"}),
    "a message that is none": entry(statusMessage=[None, None]),
    "a reference that is no URL": entry(statusReference="dictionary"),
    "a reference that is a number": entry(statusReference=1),
}


@pytest.mark.parametrize("value", REFUSED_ENTRIES.values(), ids=REFUSED_ENTRIES.keys())
def test_malformed_entries_are_refused(value: Any) -> None:
    with pytest.raises(StatusEntryInvalid) as caught:
        parse_status_entry(value)
    assert caught.value.problem.endswith("MALFORMED_VALUE_ERROR")


@pytest.mark.parametrize("index", [-1, 10**20])
def test_an_entry_that_nobody_could_read_is_not_built(index: int) -> None:
    with pytest.raises(StatusEntryInvalid):
        build_status_entry(URL, "revocation", index)


# List credentials.


def list_credential(**changes: Any) -> dict[str, Any]:
    made = build_list_credential(
        ISSUER,
        URL,
        "revocation",
        StatusList.new(),
        valid_from_s=1_790_000_000,
        valid_until_s=1_790_086_400,
        ttl_ms=60_000,
    )
    subject = {**made["credentialSubject"], **changes.pop("subject", {})}
    made = {**made, "credentialSubject": subject, **changes}
    return {name: value for name, value in made.items() if value is not None}


def test_a_list_credential_is_read_as_it_was_built() -> None:
    listed = parse_list_credential(list_credential())
    assert (listed.url, listed.issuer, listed.purposes) == (URL, ISSUER, ("revocation",))
    assert (listed.ttl_ms, listed.valid_from_s, listed.valid_until_s) == (
        60_000,
        1_790_000_000,
        1_790_086_400,
    )
    assert len(decode_list(listed.encoded)) == ENTRIES_MIN


def test_when_a_copy_is_due_is_the_earlier_of_ttl_and_end() -> None:
    listed = parse_list_credential(list_credential())
    assert listed.refresh_due_s(1_790_000_100) == 1_790_000_160
    assert listed.refresh_due_s(1_790_086_390) == 1_790_086_400
    endless = parse_list_credential(list_credential(validUntil=None, subject={"ttl": None}))
    assert endless.refresh_due_s(1_790_000_100) is None


def test_forms_of_a_list_that_are_read_too() -> None:
    both = ("revocation", "suspension")
    assert parse_list_credential(list_credential(subject={"statusPurpose": [*both]})).purposes == (
        both
    )
    named = list_credential(issuer={"id": ISSUER, "name": "A"})
    named["credentialSubject"] = [{**named["credentialSubject"], "type": ["BitstringStatusList"]}]
    assert parse_list_credential(named).issuer == ISSUER
    built = build_list_credential(
        ISSUER, URL, both, StatusList.new(), valid_from_s=0, valid_until_s=1
    )
    assert built["credentialSubject"]["statusPurpose"] == ["revocation", "suspension"]
    assert "ttl" not in built["credentialSubject"]


REFUSED_LISTS: dict[str, dict[str, Any]] = {
    "no URL": list_credential(id=None),
    "no issuer": list_credential(issuer=None),
    "another type": list_credential(type=["VerifiableCredential"]),
    "no type": list_credential(type=None),
    "a status of its own": list_credential(
        credentialStatus=build_status_entry(URL, "revocation", 1)
    ),
    "two subjects": {**list_credential(), "credentialSubject": [{}, {}]},
    "no subject": list_credential(credentialSubject=None),
    "another subject": list_credential(subject={"type": "StatusList2021"}),
    "no list": list_credential(subject={"encodedList": None}),
    "no purpose": list_credential(subject={"statusPurpose": None}),
    "no purposes": list_credential(subject={"statusPurpose": []}),
    "a purpose that is a number": list_credential(subject={"statusPurpose": ["revocation", 1]}),
    "too many purposes": list_credential(subject={"statusPurpose": ["a"] * 17}),
    "a ttl in text": list_credential(subject={"ttl": "60000"}),
    "a negative ttl": list_credential(subject={"ttl": -1}),
    "a size in text": list_credential(subject={"statusSize": "2"}),
    "a time that is a number": list_credential(validFrom=5),
}


@pytest.mark.parametrize("document", REFUSED_LISTS.values(), ids=REFUSED_LISTS.keys())
def test_malformed_lists_are_refused(document: dict[str, Any]) -> None:
    with pytest.raises(StatusListInvalid):
        parse_list_credential(document)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 10) | st.text(max_size=9) | st.just(URL),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from([*entry(), "statusSize", "statusMessage"]), json_values))
def test_no_entry_is_a_crash(changes: dict[str, Any]) -> None:
    for value in ({**entry(), **changes}, changes):
        try:
            parse_status_entry(value)
        except StatusEntryInvalid:
            continue


@given(
    st.dictionaries(st.sampled_from([*list_credential()]), json_values),
    st.dictionaries(st.sampled_from([*list_credential()["credentialSubject"]]), json_values),
)
def test_no_list_is_a_crash(changes: dict[str, Any], subject: dict[str, Any]) -> None:
    for value in (list_credential(subject=subject), {**list_credential(), **changes}):
        try:
            parse_list_credential(value)
        except (StatusListInvalid, ModelInvalid):
            continue
