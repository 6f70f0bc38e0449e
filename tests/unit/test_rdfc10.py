"""RDFC-1.0 on datasets: the W3C's tests, poison, and that names and order do not matter."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from credentials.errors import GraphTooComplex
from credentials.quads import literal_text
from credentials.rdfc10 import HashName, Quad, _orders, canonical_labels, canonicalize_quads

# N-Quads 1.1, as far as the W3C's tests go.
_TERM = re.compile(
    r"""\s*(?:(?P<iri><[^>]*>)|(?P<node>_:[^\s<"]+)|"(?P<text>(?:[^"\\]|\\.)*)"
    (?:\^\^(?P<type><[^>]*>)|@(?P<language>[A-Za-z0-9-]+))?|(?P<end>\.))""",
    re.VERBOSE,
)
_ESCAPE = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(.))")
_LETTERS = {"t": "\t", "b": "\b", "n": "\n", "r": "\r", "f": "\f"}
_STRING = "<http://www.w3.org/2001/XMLSchema#string>"


def _unescape(text: str) -> str:
    def character(match: re.Match[str]) -> str:
        code = match[1] or match[2]
        return chr(int(code, 16)) if code else _LETTERS.get(match[3], match[3])

    return _ESCAPE.sub(character, text)


def _parse_line(line: str) -> Quad:
    terms: list[str] = []
    position = 0
    while True:
        match = _TERM.match(line, position)
        assert match, line
        position = match.end()
        if match["end"]:
            terms += [""] * (4 - len(terms))
            return terms[0], terms[1], terms[2], terms[3]
        if match["text"] is None:
            terms.append(_unescape(match[0].strip()))
            continue
        suffix = f"@{match['language']}" if match["language"] else ""
        if match["type"] and match["type"] != _STRING:
            suffix = f"^^{_unescape(match['type'])}"
        terms.append(literal_text(_unescape(match["text"])) + suffix)


def _read(path: Path) -> set[Quad]:
    lines = path.read_text("utf-8").split("\n")
    return {_parse_line(line) for line in lines if line.strip() and not line.startswith("#")}


def _hash_name(entry: dict[str, Any]) -> HashName:
    return "sha384" if entry.get("hashAlgorithm") == "SHA384" else "sha256"


def test_the_w3c_tests(vectors: Path) -> None:
    folder = vectors / "rdf-canon" / "tests"
    entries = json.loads((folder / "manifest.jsonld").read_text())["entries"]
    assert len(entries) == 86
    failed = []
    for entry in entries:
        kind = entry["type"].removeprefix("rdfc:RDFC10")
        quads = _read(folder / entry["action"])
        if kind == "NegativeEvalTest":
            with pytest.raises(GraphTooComplex):
                canonicalize_quads(quads)
        elif kind == "EvalTest":
            expected = (folder / entry["result"]).read_bytes().decode("utf-8")
            if canonicalize_quads(quads, hash_name=_hash_name(entry)) != expected:
                failed.append(entry["id"])
        else:
            named = json.loads((folder / entry["result"]).read_text())
            labels = canonical_labels(quads, hash_name=_hash_name(entry))
            if {name[2:]: label[2:] for name, label in labels.items()} != named:
                failed.append(entry["id"])
    assert failed == []


NODES = st.sampled_from([f"_:n{number}" for number in range(5)])
TERMS = NODES | st.sampled_from(["<urn:a>", '"text"'])
DATASETS = st.sets(
    st.tuples(
        NODES | st.just("<urn:s>"),
        st.sampled_from(["<urn:p>", "<urn:q>"]),
        TERMS,
        st.sampled_from(["", "<urn:g>", "_:n0", "_:n4"]),
    ),
    max_size=8,
)


@given(DATASETS, st.randoms(use_true_random=False))
def test_names_and_order_do_not_matter(quads: set[Quad], chance: random.Random) -> None:
    numbers = chance.sample(range(100), 5)
    names = {f"_:n{old}": f"_:m{new}" for old, new in enumerate(numbers)}
    renamed = [
        (names.get(s, s), predicate, names.get(o, o), names.get(g, g))
        for s, predicate, o, g in sorted(quads)
    ]
    chance.shuffle(renamed)
    try:
        text = canonicalize_quads(quads)
    except GraphTooComplex:
        with pytest.raises(GraphTooComplex):
            canonicalize_quads(renamed)
        return
    assert canonicalize_quads(renamed + renamed) == text
    assert text.count("\n") == len(quads)
    labels = canonical_labels(quads)
    assert sorted(labels.values(), key=len) == sorted(
        (f"_:c14n{number}" for number in range(len(labels))), key=len
    )


@given(DATASETS, DATASETS)
def test_canonical_text_is_a_fixed_point(one: set[Quad], other: set[Quad]) -> None:
    try:
        text, different = canonicalize_quads(one), canonicalize_quads(other)
    except GraphTooComplex:
        return
    again = {_parse_line(line) for line in text.splitlines()}
    assert canonicalize_quads(again) == text
    if len(one) != len(other):
        assert text != different


def _edges(pairs: Iterable[tuple[int, int]]) -> list[Quad]:
    return [(f"_:n{a}", "<urn:p>", f"_:n{b}", "") for a, b in pairs]


def _clique(size: int) -> list[Quad]:
    return _edges(permutations(range(size), 2))


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_small_cliques_are_accepted(size: int) -> None:
    assert canonicalize_quads(_clique(size)).count("\n") == size * (size - 1)


# What all of these have in common: blank nodes that look alike. Each used to take seconds to years.
@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "quads",
    [
        *(_clique(size) for size in (6, 7, 8, 10, 40)),
        _edges((i, (i + 1) % 1500) for i in range(1500)),
        _edges((i, i + 1) for i in range(3000)),
        _edges((i, 1000 + j) for i in range(40) for j in range(40)),
        _edges((i, 5000 + j) for i in range(2000) for j in range(2)),
        _edges((i, (i * 7 + 13 * step) % 100) for i in range(100) for step in range(1, 20)),
        [*_edges((0, i) for i in range(1, 9)), *_edges((9, i) for i in range(10, 18))],
        [(s, f"<urn:{'x' * 8000}>", o, g) for s, _, o, g in _clique(10)],
    ],
    ids=lambda quads: f"{len(quads)} quads",
)
def test_poison_is_refused_and_not_computed(quads: list[Quad]) -> None:
    with pytest.raises(GraphTooComplex):
        canonicalize_quads(quads)


def test_a_graph_named_by_a_blank_node_is_no_poison() -> None:
    """Its name is related to each of its nodes as often as there are statements about the node."""
    inside = [(f"_:n{a}", f"<urn:p{i}>", '"x"', "_:g") for a in range(3) for i in range(20)]
    assert canonicalize_quads(inside).count("\n") == 60
    linked = [*inside, *((s, "<urn:q>", o, "_:g") for s, _, o, _ in _clique(3))]
    assert canonicalize_quads(linked).count("\n") == 66


def test_equal_permutations_are_tried_once() -> None:
    assert list(_orders(["a", "b"])) == [("a", "b"), ("b", "a")]
    assert list(_orders(["b", "a", "b", "a"])) == sorted(set(permutations("aabb")))
    assert list(_orders(["a"] * 1000)) == [("a",) * 1000]


def test_the_work_allowed_can_be_raised() -> None:
    with pytest.raises(GraphTooComplex, match="look alike"):
        canonicalize_quads(_clique(4), work_max=50)
    assert canonicalize_quads(_clique(6), work_max=10**6).count("\n") == 30


def test_literals_are_escaped_as_canonical_n_quads_wants() -> None:
    text = 'a"\\\b\t\n\f\r\x00\x1f\x7fé\x80\u2028\U0001f600'
    assert literal_text(text) == (
        '"a\\"\\\\\\b\\t\\n\\f\\r\\u0000\\u001F\\u007Fé\x80\u2028\U0001f600"'
    )
