"""JSON from strangers, and times: what is accepted, and a table of what is not."""

from __future__ import annotations

import contextlib
import json
import math
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from credentials.document import (
    check_document,
    encode_document,
    encode_time,
    parse_document,
    parse_time,
)
from credentials.errors import DocumentInvalid, ModelInvalid
from credentials.limits import DOCUMENT_BYTES_MAX, DOCUMENT_DEPTH_MAX

INTEGER_MAX = 2**53 - 1
TEXT = st.text(st.characters(exclude_categories=("Cs",)))
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-INTEGER_MAX, INTEGER_MAX)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner), max_leaves=20
)
DOCUMENTS = st.dictionaries(TEXT, VALUES)


def _nested(levels: int, inner: str = "1") -> str:
    return '{"a":' * levels + inner + "}" * levels


@given(DOCUMENTS)
def test_a_document_survives_encoding_and_parsing(document: dict[str, Any]) -> None:
    check_document(document)
    data = encode_document(document)
    assert parse_document(data) == document
    assert parse_document(data.decode("utf-8")) == document
    assert parse_document(json.dumps(document)) == document  # with \\u escapes
    assert encode_document(parse_document(data)) == data


@given(st.binary(max_size=200) | st.text(max_size=200))
def test_no_bytes_cause_another_error(data: bytes | str) -> None:
    with contextlib.suppress(DocumentInvalid):
        check_document(parse_document(data))


@given(st.text(alphabet='{}[]",:\\u0189dDeE+-.naltrufsNIy \n'))
def test_nothing_like_json_causes_another_error(text: str) -> None:
    with contextlib.suppress(DocumentInvalid):
        encode_document(parse_document('{"a":' + text + "}"))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not JSON"),
        (b"[]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b'"{}"', "not a JSON object"),
        (b"{} {}", "not JSON"),
        (b"{'a': 1}", "not JSON"),
        (b'{"a": 1,}', "not JSON"),
        (b'{"a": 01}', "not JSON"),
        (b'{"a": "\n"}', "not JSON"),
        (b'\xef\xbb\xbf{"a": 1}', "not JSON"),
        (b'{"a": "\xff"}', "not UTF-8"),
        (b'{"a": "\xed\xa0\x80"}', "not UTF-8"),
        (b'{"a": "\xc0\x80"}', "not UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "not UTF-8"),
        ('{"a": "\ud800"}', "not UTF-8"),
        (b'{"a": 1, "a": 1}', "two members named 'a'"),
        (b'{"a": 1, "\\u0061": 2}', "two members named 'a'"),
        (b'{"a": [{"b": {"c": 1, "c": 2}}]}', "two members named 'c'"),
        (b'{"a": "\\ud800"}', "surrogate"),
        (b'{"\\udc00\\ud800": 1}', "surrogate"),
        (b'{"a": [{"b": "\\udead"}]}', "surrogate"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "Infinity"),
        (b'{"a": 1e999}', "1e999"),
        (b'{"a": 9007199254740992}', "9007199254740992"),
        (b'{"a": -9007199254740992}', "9007199254740992"),
        (b'{"a": 1' + b"0" * 100_000 + b"}", "not every reader holds"),
        (b'{"a": 0.' + b"1" * 100_000 + b"}", "not every reader holds"),
        (_nested(DOCUMENT_DEPTH_MAX + 1), "levels deep"),
        (_nested(DOCUMENT_DEPTH_MAX, "[]"), "levels deep"),
        (_nested(20_000), "levels deep"),
        ('{"a":' + "[" * 100_000, "levels deep"),
        (b'{"a": "' + b"x" * DOCUMENT_BYTES_MAX + b'"}', "bytes"),
        ('{"a": "' + "é" * (DOCUMENT_BYTES_MAX // 2) + '"}', "bytes"),
    ],
)
def test_refused(data: bytes | str, reason: str) -> None:
    with pytest.raises(DocumentInvalid, match=reason):
        parse_document(data)


def test_what_is_just_allowed() -> None:
    parse_document(_nested(DOCUMENT_DEPTH_MAX))
    parse_document(_nested(DOCUMENT_DEPTH_MAX - 1, "[]"))
    assert parse_document(f'{{"a": {INTEGER_MAX}}}') == {"a": INTEGER_MAX}
    assert parse_document(' {"a": "\\ud83d\\ude00"} \n') == {"a": "\U0001f600"}
    assert parse_document(b"{}" + b" " * 98, bytes_max=100) == {}
    with pytest.raises(DocumentInvalid, match="101 bytes; the most is 100"):
        parse_document(b"{}" + b" " * 99, bytes_max=100)


@pytest.mark.parametrize(
    "value",
    [
        [],
        None,
        "{}",
        {1: 2},
        {"a": (1, 2)},
        {"a": b""},
        {"a": {"b": [object()]}},
        {"a": math.nan},
        {"a": math.inf},
        {"a": 2**53},
        {"a": True, "b": [-(2**53)]},
        {"\ud800": 1},
        {"a": ["\udfff"]},
        json.loads(_nested(DOCUMENT_DEPTH_MAX + 1)),
    ],
    ids=lambda value: f"{value!r:.30}",
)
def test_values_that_no_document_has(value: object) -> None:
    with pytest.raises(DocumentInvalid):
        check_document(value)
    with pytest.raises(DocumentInvalid):
        encode_document(value)  # type: ignore[arg-type]


def test_a_value_that_holds_itself_is_too_deep_or_too_large() -> None:
    loop: dict[str, Any] = {}
    loop["loop"] = loop
    bush: list[Any] = []
    for _ in range(30):
        bush = [bush, bush]
    for value in (loop, {"bush": bush}):
        with pytest.raises(DocumentInvalid):
            check_document(value)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("2026-11-21T10:00:00Z", 1795255200),
        ("2026-11-21T11:30:00+01:30", 1795255200),
        ("2026-11-20T20:00:00-14:00", 1795255200),
        ("2026-11-21T10:00:00.25Z", 1795255200.25),
        ("2026-11-21T10:00:00.000000000001Z", 1795255200),
        ("2026-11-20T24:00:00Z", 1795219200),
        ("2026-11-20T24:00:00.000Z", 1795219200),
        ("2024-02-29T00:00:00Z", 1709164800),
        ("0001-01-01T00:00:00Z", -62135596800),
        ("9999-12-31T23:59:59Z", 253402300799),
        ("1969-12-31T23:59:59.5-00:00", -0.5),
    ],
)
def test_times(text: str, seconds: float) -> None:
    assert parse_time(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-11-21",
        "2026-11-21T10:00:00",
        "2026-11-21T10:00Z",
        "2026-11-21 10:00:00Z",
        "2026-11-21t10:00:00z",
        "2026-11-21T10:00:00z",
        " 2026-11-21T10:00:00Z",
        "2026-11-21T10:00:00Z\n",
        "2026-11-21T10:00:00.Z",
        "2026-11-21T10:00:00,5Z",
        "2026-11-21T10:00:00+1:00",
        "2026-11-21T10:00:00+0100",
        "2026-11-21T10:00:00+14:01",
        "2026-11-21T10:00:00-15:00",
        "2026-11-21T10:00:00+10:60",
        "2016-12-31T23:59:60Z",
        "2026-02-29T00:00:00Z",
        "2026-13-01T00:00:00Z",
        "2026-00-01T00:00:00Z",
        "2026-11-31T00:00:00Z",
        "2026-11-21T25:00:00Z",
        "2026-11-21T24:00:01Z",
        "2026-11-21T24:00:00.5Z",
        "0000-01-01T00:00:00Z",
        "-0001-01-01T00:00:00Z",
        "10000-01-01T00:00:00Z",
        "２０２６-11-21T10:00:00Z",
        "2026-11-21T10:00:00." + "0" * 100 + "Z",
    ],
)
def test_no_times(text: str) -> None:
    with pytest.raises(ModelInvalid):
        parse_time(text)


@given(st.integers(-62135596800, 253402300799))
def test_whole_seconds_survive(seconds: int) -> None:
    assert parse_time(encode_time(seconds)) == seconds


@given(st.datetimes(min_value=datetime(1, 1, 3), max_value=datetime(9999, 12, 29)))
def test_times_agree_with_the_standard_library(moment: datetime) -> None:
    for suffix, offset in (("Z", "+00:00"), ("+05:30", "+05:30"), ("-14:00", "-14:00")):
        text = moment.isoformat(timespec="microseconds")
        expected = datetime.fromisoformat(text + offset).timestamp()
        assert parse_time(text + suffix) == pytest.approx(expected, abs=1e-3)


def test_a_time_is_rounded_down() -> None:
    assert encode_time(0.999) == "1970-01-01T00:00:00Z"
    assert encode_time(-0.5) == "1969-12-31T23:59:59Z"
    assert encode_time(-62135596800) == "0001-01-01T00:00:00Z"


@pytest.mark.parametrize("seconds", [math.nan, math.inf, 1e300, 253402300800, -62135596801])
def test_seconds_outside_the_calendar(seconds: float) -> None:
    with pytest.raises(ModelInvalid):
        encode_time(seconds)
