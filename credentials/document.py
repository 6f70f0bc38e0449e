"""JSON documents from strangers, and times: bytes in, plain JSON values out.

Does not know credentials: the data model is checked elsewhere. RFC 8259 within the limits of I-JSON
(RFC 7493) and JCS (RFC 8785); times are XML Schema 1.1 `dateTimeStamp`.
"""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Final, NoReturn, TypeAlias

from credentials.errors import DocumentInvalid, ModelInvalid
from credentials.limits import DOCUMENT_BYTES_MAX, DOCUMENT_DEPTH_MAX

Document: TypeAlias = dict[str, Any]
"""A JSON object: str, int, float, bool, None, list and dict, no deeper than DOCUMENT_DEPTH_MAX."""

_INTEGER_MAX: Final = 2**53 - 1  # beyond it two integers share a float, and so a signature
_NUMBER_CHARS_MAX: Final = 64
_VALUES_MAX: Final = DOCUMENT_BYTES_MAX  # a value takes a byte at least
_TIME_CHARS_MAX: Final = 64
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_TIME: Final = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(\.\d+)?(?:Z|([+-])(\d\d):(\d\d))", re.ASCII
)


def parse_document(data: bytes | str, *, bytes_max: int = DOCUMENT_BYTES_MAX) -> Document:
    """Parse a JSON object that every conforming reader understands alike.

    Raises DocumentInvalid for bad syntax or UTF-8, more than `bytes_max` bytes, duplicate names,
    nesting beyond DOCUMENT_DEPTH_MAX, lone surrogates, and numbers that a double cannot hold.
    """
    try:
        raw = data.encode("utf-8") if isinstance(data, str) else data
        if len(raw) > bytes_max:
            raise DocumentInvalid(f"the document has {len(raw)} bytes; the most is {bytes_max}")
        value = _DECODER.decode(raw.decode("utf-8"))
    except UnicodeError as error:
        raise DocumentInvalid(f"the document is not UTF-8: {error}") from error
    except json.JSONDecodeError as error:
        raise DocumentInvalid(f"the document is not JSON: {error}") from error
    except RecursionError as error:
        raise DocumentInvalid(_too_deep()) from error
    if type(value) is not dict:
        raise DocumentInvalid("the document is not a JSON object, {...}")
    # Only nesting and escaped lone surrogates are still possible; few documents need the walk.
    if b"\\u" in raw or raw.count(b"{") + raw.count(b"[") > DOCUMENT_DEPTH_MAX:
        _check_values(value, _VALUES_MAX)
    document: Document = value
    return document


def check_document(value: object, *, values_max: int = _VALUES_MAX) -> None:
    """Check that a value is what `parse_document` could have returned. Raises DocumentInvalid.

    `values_max` bounds the values in it, at all levels together.
    """
    if type(value) is not dict:
        raise DocumentInvalid(f"the document is not a JSON object but {type(value).__name__}")
    _check_values(value, values_max)


def encode_document(value: Document) -> bytes:
    """Encode as compact UTF-8 JSON, names in their order. Raises DocumentInvalid."""
    check_document(value)
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode("utf-8")


def parse_time(text: str) -> float:
    """Return the Unix seconds of an xsd:dateTimeStamp: `2026-11-21T10:00:00Z`, `...+01:00`.

    Raises ModelInvalid without an offset, for a leap second or a day that never was (neither
    exists in XML Schema), and outside the years 1 to 9999.
    """
    usual_s = _parse_usual(text)
    if usual_s is not None:
        return usual_s
    match = _TIME.fullmatch(text) if len(text) <= _TIME_CHARS_MAX else None
    if match is None:
        raise ModelInvalid(f"{text!r:.80} is not a time like 2026-11-21T10:00:00Z")
    year, month, day, hour, minute, second, fraction, sign, off_hours, off_minutes = match.groups()
    offset_minutes = 0
    if sign is not None:
        offset_minutes = int(off_hours) * 60 + int(off_minutes)
        if offset_minutes > 14 * 60 or int(off_minutes) > 59:
            raise ModelInvalid(f"{text!r} has an offset beyond 14:00")
        if sign == "-":
            offset_minutes = -offset_minutes
    midnight = hour == "24" and minute == second == "00" and not (fraction or "").strip(".0")
    try:
        whole = datetime(
            int(year),
            int(month),
            int(day),
            0 if midnight else int(hour),
            int(minute),
            int(second),
            tzinfo=timezone(timedelta(minutes=offset_minutes)) if offset_minutes else UTC,
        )
    except ValueError as error:
        raise ModelInvalid(f"{text!r} is not a time: {error}") from error
    seconds = (whole - _EPOCH).total_seconds() + (86400 if midnight else 0)
    return seconds + float(fraction) if fraction else seconds


def _parse_usual(text: str) -> float | None:
    """Parse `2026-11-21T10:00:00Z` in C, a third of the time; None for whatever else it may be."""
    marks = len(text) == 20 and (text[4], text[7], text[10], text[13], text[16], text[19])
    if marks != ("-", "-", "T", ":", ":", "Z"):
        return None
    try:
        return (datetime.fromisoformat(text) - _EPOCH).total_seconds()
    except ValueError:
        return None


def encode_time(seconds: float) -> str:
    """Return the xsd:dateTimeStamp of Unix seconds, rounded down: `2026-11-21T10:00:00Z`.

    Raises ModelInvalid outside the years 1 to 9999.
    """
    try:
        moment = _EPOCH + timedelta(seconds=math.floor(seconds))
    except (OverflowError, ValueError) as error:
        raise ModelInvalid(f"{seconds} seconds are outside the years 1 to 9999") from error
    return moment.replace(tzinfo=None).isoformat() + "Z"


def _check_values(root: object, values_max: int) -> None:
    """Walk a value, level by level. Raises DocumentInvalid."""
    level: list[object] = [root]
    count = 0
    for _ in range(DOCUMENT_DEPTH_MAX):
        below: list[object] = []
        for value in level:
            kind = type(value)
            if kind is dict:
                _check_names(value)  # type: ignore[arg-type]
                inner = list(value.values())  # type: ignore[attr-defined]
            elif kind is list:
                inner = value  # type: ignore[assignment]
            else:
                continue
            count += len(inner)
            for item in inner:
                if type(item) is dict or type(item) is list:
                    below.append(item)
                else:
                    _check_scalar(item)
            if count > values_max:
                raise DocumentInvalid(f"the document has more than {values_max} values")
        if not below:
            return
        level = below
    raise DocumentInvalid(_too_deep())


def _check_names(value: dict[Any, Any]) -> None:
    for name in value:
        if type(name) is not str:
            raise DocumentInvalid(f"{name!r:.80} is no name of a JSON member; names are text")
        _check_text(name)


def _check_scalar(value: object) -> None:
    kind = type(value)
    if kind is str:
        _check_text(value)  # type: ignore[arg-type]
    elif kind is int:
        if not -_INTEGER_MAX <= value <= _INTEGER_MAX:  # type: ignore[operator]
            _refuse_number("an integer beyond 2^53 - 1")
    elif kind is float:
        if not math.isfinite(value):  # type: ignore[arg-type]
            _refuse_number(str(value))
    elif value is not None and kind is not bool:
        raise DocumentInvalid(f"a {kind.__name__} is no JSON value")


def _check_text(text: str) -> None:
    if text.isascii():
        return
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DocumentInvalid("the document has half of a surrogate pair, no character") from error


def _unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise DocumentInvalid(f"the document has two members named {twice!r:.80} in one object")
    return members


def _parse_integer(text: str) -> int:
    value = int(text) if len(text) <= 17 else _INTEGER_MAX + 1
    if not -_INTEGER_MAX <= value <= _INTEGER_MAX:
        _refuse_number(text)
    return value


def _parse_float(text: str) -> float:
    value = float(text) if len(text) <= _NUMBER_CHARS_MAX else math.inf
    if not math.isfinite(value):
        _refuse_number(text)
    return value


def _refuse_number(text: str) -> NoReturn:
    raise DocumentInvalid(
        f"the document has the number {text:.40}, which not every reader holds exactly; "
        "write it as text"
    )


def _too_deep() -> str:
    return f"the document is nested more than {DOCUMENT_DEPTH_MAX} levels deep"


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_unique_members,
    parse_int=_parse_integer,
    parse_float=_parse_float,
    parse_constant=_refuse_number,
)
