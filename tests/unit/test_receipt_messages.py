"""Messages about receipts: what is encoded comes back; what the protocol forbids is a WireError."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwaai.limits import RECEIPT_BYTES_MAX, RECEIPT_RECENT_MAX
from kwaai.wire.codec import WireError
from kwaai.wire.receipt_messages import (
    Give,
    Given,
    Recent,
    Verdict,
    encode_given,
    encode_recent,
    encode_request,
    parse_given,
    parse_recent,
    parse_request,
)
from kwaai.wire.transcript import Cover

HALVES = st.binary(max_size=64)
COVERS = st.builds(Cover, st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1))
GIVES = st.builds(Give, st.binary(min_size=16, max_size=16), COVERS, HALVES)
VERDICTS: st.SearchStrategy[Verdict] = st.sampled_from(
    ("agreed", "contradicted", "unknown", "refused")
)
TEXT = st.text(st.characters(codec="ascii", categories=["L", "N"]), max_size=40)


@given(GIVES | st.just(Recent()))
def test_requests_come_back(request: Give | Recent) -> None:
    assert parse_request(encode_request(request)) == request


@given(st.builds(Given, VERDICTS, TEXT, HALVES))
def test_answers_come_back(given_: Given) -> None:
    assert parse_given(encode_given(given_)) == given_


@given(st.lists(HALVES, max_size=RECEIPT_RECENT_MAX).map(tuple))
def test_shown_halves_come_back(halves: tuple[bytes, ...]) -> None:
    assert parse_recent(encode_recent(halves)) == halves


@given(st.binary(max_size=200), st.sampled_from((parse_request, parse_given, parse_recent)))
def test_no_bytes_do_anything_else(data: bytes, parse: Callable[[bytes], Any]) -> None:
    with contextlib.suppress(WireError):
        parse(data)


GIVE = Give(bytes(16), Cover(3), b"half")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"\3",
        encode_request(GIVE)[:-1],
        encode_request(GIVE) + b"x",
        encode_request(Give(bytes(16), Cover(0), bytes(RECEIPT_BYTES_MAX + 1))),
        encode_request(Recent()) + b"x",
    ],
)
def test_a_request_that_is_none_is_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        parse_request(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\4" + encode_given(Given("agreed"))[1:],
        encode_given(Given("agreed", half=bytes(RECEIPT_BYTES_MAX + 1))),
        encode_given(Given("agreed")) + b"x",
    ],
)
def test_an_answer_that_is_none_is_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        parse_given(data)


def test_too_many_shown_halves_are_refused() -> None:
    with pytest.raises(WireError):
        parse_recent(encode_recent((b"",) * (RECEIPT_RECENT_MAX + 1)))


def test_a_reason_is_cut_and_made_printable() -> None:
    parsed = parse_given(encode_given(Given("refused", "a\nb" * 600)))
    assert parsed.reason.startswith("a ba b")
    assert len(parsed.reason) == 512
