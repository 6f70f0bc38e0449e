"""Messages about credentials: bytes and back, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kwaai import limits
from kwaai.wire.codec import WireError
from kwaai.wire.credential_messages import (
    Answer,
    Ask,
    Collect,
    Deliver,
    Document,
    FetchStatus,
    Offer,
    Show,
    encode_answer,
    encode_document_answer,
    encode_request,
    parse_answer,
    parse_document_answer,
    parse_request,
)

ID = bytes(range(16))
CHALLENGE = "x" * limits.CHALLENGE_CHARS_MIN
REQUESTS = (
    Ask(ID, "UptimeVC", b'{"probeCount": 3}', "hello"),
    Collect(ID),
    Deliver(ID, b"{}"),
    Offer(ID, b"{}", "for you"),
    Show(CHALLENGE, ("UptimeVC", "MembershipVC")),
    Show(CHALLENGE),
    FetchStatus("did:key:z6Mk/status/revocation-1"),
)
ANSWERS = (
    Answer("pending"),
    Answer("issued", credential=b"{}"),
    Answer("refused", "no"),
    Answer("unknown"),
)


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda r: type(r).__name__)
def test_a_request_comes_back_as_it_was(request_: object) -> None:
    assert parse_request(encode_request(request_)) == request_  # type: ignore[arg-type]


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda a: a.state)
def test_an_answer_comes_back_as_it_was(answer: Answer) -> None:
    assert parse_answer(encode_answer(answer)) == answer


def test_a_document_comes_back_as_it_was() -> None:
    assert parse_document_answer(encode_document_answer(Document(b"[]"))) == Document(b"[]")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00",
        b"\x07" + ID,
        encode_request(Collect(ID)) + b"\x00",
        encode_request(Collect(ID))[:-1],
        encode_request(Show("short")),
        encode_request(Show(CHALLENGE, ("K",) * (limits.CREDENTIAL_KINDS_MAX + 1))),
        encode_request(Ask(ID, "k" * (limits.CREDENTIAL_KIND_CHARS_MAX + 1), b"{}")),
        encode_request(Ask(ID, "k", b" " * (limits.CREDENTIAL_CLAIMS_BYTES_MAX + 1))),
        encode_request(Ask(ID, "k", b"{}", "n" * (limits.CREDENTIAL_NOTE_BYTES_MAX + 1))),
        encode_request(Ask(ID, "k", b"{}", "bell\x07")),
        encode_request(Deliver(ID, b" " * (limits.CREDENTIAL_MESSAGE_BYTES_MAX + 1))),
        encode_request(FetchStatus("u" * (limits.STATUS_URL_CHARS_MAX + 1))),
    ],
    ids=lambda data: f"{len(data)} bytes, {data[:1].hex()}",
)
def test_what_is_no_request_is_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        parse_request(data)


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_an_error(data: bytes) -> None:
    for parse in (parse_request, parse_answer, parse_document_answer):
        try:
            parse(data)
        except WireError:
            continue


def test_every_message_fits_into_one_exchange() -> None:
    note = "n" * limits.CREDENTIAL_NOTE_BYTES_MAX
    largest = encode_request(Offer(ID, bytes(limits.CREDENTIAL_MESSAGE_BYTES_MAX), note))
    assert len(largest) <= limits.P2P_MESSAGE_BYTES_MAX
