"""JCS: RFC 8785's vectors, and that our fast path and the library write the same bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from credentials.errors import DocumentInvalid
from credentials.jcs import canonicalize_jcs

INTEGER_MAX = 2**53 - 1
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-INTEGER_MAX, INTEGER_MAX)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20
)


def test_the_vectors_of_rfc_8785(vectors: Path) -> None:
    folder = vectors / "jcs" / "testdata"
    names = sorted(path.name for path in (folder / "input").glob("*.json"))
    assert len(names) == 6
    for name in names:
        value = json.loads((folder / "input" / name).read_bytes())
        assert canonicalize_jcs(value) == (folder / "output" / name).read_bytes(), name
        words = (folder / "outhex" / name.replace(".json", ".txt")).read_text().split()
        assert canonicalize_jcs(value) == bytes(int(word, 16) for word in words), name


@given(VALUES)
def test_the_fast_path_writes_what_the_library_writes(value: Any) -> None:
    assert canonicalize_jcs(value) == rfc8785.dumps(value)


@given(st.dictionaries(st.text(st.characters(max_codepoint=127)), st.integers(-9, 9) | st.text()))
def test_the_same_for_plain_objects(value: dict[str, Any]) -> None:
    assert canonicalize_jcs(value) == rfc8785.dumps(value)


def test_names_are_sorted_by_utf_16() -> None:
    assert canonicalize_jcs({"\ufb33": 1, "\U0001f600": 2, "é": 3, "a": 4}) == (
        '{"a":4,"é":3,"\U0001f600":2,"\ufb33":1}'.encode()
    )


def _cycle() -> list[Any]:
    cycle: list[Any] = []
    cycle.append(cycle)
    return cycle


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("inf"),
        2**53,
        -(2**53),
        10**5000,
        "\ud800",
        {"\udfff": 1},
        {"a": ["\ud800"]},
        {1: 2},
        {"a": b"bytes"},
        {"a": {1, 2}},
        object(),
        _cycle(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_json_cannot_hold_is_refused(value: object) -> None:
    with pytest.raises(DocumentInvalid):
        canonicalize_jcs(value)
