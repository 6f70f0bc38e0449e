"""RDFC of JSON-LD: what the text is, what is refused, attacks, poison, and what is remembered."""

from __future__ import annotations

import copy
import json
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyld.jsonld
import pytest
from hypothesis import given
from hypothesis import strategies as st

from credentials import jsonld
from credentials.document import parse_document
from credentials.errors import (
    ContextUnknown,
    CredentialsError,
    DocumentInvalid,
    GraphTooComplex,
    TermUndefined,
)
from credentials.jcs import canonicalize_jcs
from credentials.limits import CONTEXT_WORK_MAX, RDFC_VALUES_MAX
from credentials.rdfc import canonicalize_rdfc
from schemas import context_digests, load_context

V2 = "https://www.w3.org/ns/credentials/v2"
EXAMPLES = "https://www.w3.org/ns/credentials/examples/v2"
XSD = "http://www.w3.org/2001/XMLSchema#"
VOCAB = {"@vocab": "urn:v:"}


def credential(subject: Any = None, context: Any = None, **members: Any) -> dict[str, Any]:
    return {
        "@context": [V2, EXAMPLES] if context is None else context,
        "type": ["VerifiableCredential", "ExampleCredential"],
        "issuer": "did:example:issuer",
        "credentialSubject": {"id": "did:example:subject", "claim": "x"}
        if subject is None
        else subject,
        **members,
    }


def lines(document: dict[str, Any]) -> list[str]:
    return canonicalize_rdfc(document).splitlines()


def with_context(context: Any, **members: Any) -> dict[str, Any]:
    return {"@context": context, "@id": "urn:s", **members}


def test_the_w3c_credentials(vectors: Path) -> None:
    folder = vectors / "vc-di-eddsa" / "TestVectors"
    document = parse_document((folder / "unsigned.json").read_bytes())
    expected = (folder / "eddsa-rdfc-2022" / "canonDocDataInt.txt").read_bytes().decode()
    assert canonicalize_rdfc(document) == expected


@pytest.mark.parametrize(
    ("value", "object_"),
    [
        ("x", '"x"'),
        ('a"b\\\n', '"a\\"b\\\\\\n"'),
        (True, f'"true"^^<{XSD}boolean>'),
        (-7, f'"-7"^^<{XSD}integer>'),
        (3.0, f'"3"^^<{XSD}integer>'),
        (-0.0, f'"0"^^<{XSD}integer>'),
        (1.5, f'"1.5E0"^^<{XSD}double>'),
        (1e-7, f'"1.0E-7"^^<{XSD}double>'),
        (1e21, f'"1.0E21"^^<{XSD}double>'),
        ({"@value": 2, "@type": XSD + "double"}, f'"2.0E0"^^<{XSD}double>'),
        ({"@value": "2.50", "@type": XSD + "double"}, f'"2.5E0"^^<{XSD}double>'),
        ({"@value": -0.0, "@type": XSD + "double"}, f'"0.0E0"^^<{XSD}double>'),
        ({"@value": "x", "@type": XSD + "string"}, '"x"'),
        ({"@value": "x", "@type": "urn:t"}, '"x"^^<urn:t>'),
        ({"@value": "x", "@language": "de-CH"}, '"x"@de-ch'),
        (
            {"@value": "x", "@language": "ar", "@direction": "rtl"},
            '"x"^^<https://www.w3.org/ns/i18n#ar_rtl>',
        ),
        ({"@value": "x", "@direction": "ltr"}, '"x"^^<https://www.w3.org/ns/i18n#_ltr>'),
        (
            {"@value": {"b": [None, 1.0], "a": ""}, "@type": "@json"},
            '"{\\"a\\":\\"\\",\\"b\\":[null,1]}"'
            "^^<http://www.w3.org/1999/02/22-rdf-syntax-ns#JSON>",
        ),
        ({"@id": "did:example:x#y"}, "<did:example:x#y>"),
        ({"@list": []}, "<http://www.w3.org/1999/02/22-rdf-syntax-ns#nil>"),
        ({}, "_:c14n0"),
        ({"@id": "_:b7"}, "_:c14n0"),
    ],
)
def test_values(value: Any, object_: str) -> None:
    assert (
        canonicalize_rdfc(with_context({}, **{"urn:p": value})) == f"<urn:s> <urn:p> {object_} .\n"
    )


def test_what_may_be_empty() -> None:
    presentation = {"@context": V2, "type": "VerifiablePresentation", "holder": "did:example:h"}
    text = canonicalize_rdfc(presentation)
    assert canonicalize_rdfc({**presentation, "verifiableCredential": []}) == text
    items = {"p": {"@id": "urn:p", "@container": "@list"}, "j": {"@id": "urn:j", "@type": "@json"}}
    assert len(lines(with_context(items, p=[], j=[]))) == 2
    assert len(lines(with_context(items, j=None))) == 1


def test_a_context_in_a_context_is_unwrapped() -> None:
    assert lines(with_context([V2, {"@context": {"a": "urn:a"}}], a="x")) == [
        '<urn:s> <urn:a> "x" .'
    ]


def test_a_default_direction_outlives_the_next_context() -> None:
    context = [VOCAB, {"@language": "AR", "@direction": "rtl"}, {"q": "urn:q"}]
    assert lines(with_context(context, q="x")) == [
        '<urn:s> <urn:q> "x"^^<https://www.w3.org/ns/i18n#ar_rtl> .'
    ]


def test_lists_in_lists() -> None:
    nested = with_context({"p": {"@id": "urn:p", "@container": "@list"}}, p=[["x"]])
    spelled = with_context({}, **{"urn:p": {"@list": [{"@list": ["x"]}]}})
    assert canonicalize_rdfc(nested) == canonicalize_rdfc(spelled)


def test_graphs_lists_and_reverse() -> None:
    document = with_context(
        VOCAB,
        inside={"@graph": [{"@id": "urn:a", "p": 1}]},
        **{"@reverse": {"part": [{"@id": "urn:whole"}]}},
    )
    assert lines(document) == [
        f'<urn:a> <urn:v:p> "1"^^<{XSD}integer> _:c14n0 .',
        "<urn:s> <urn:v:inside> _:c14n0 .",
        "<urn:whole> <urn:v:part> <urn:s> .",
    ]


def test_order_arrays_of_one_and_repetition_do_not_matter() -> None:
    text = canonicalize_rdfc(credential({"id": "did:example:s", "a": [1, 2], "b": "x"}))
    same = credential([{"b": ["x", "x"], "a": [2, 1, 2], "id": "did:example:s"}])
    assert canonicalize_rdfc(dict(reversed(same.items()))) == text


def test_the_document_is_not_changed() -> None:
    document = credential([{"@id": "urn:a", "x": {"@list": [1, {"@set": [2]}]}}])
    before = copy.deepcopy(document)
    canonicalize_rdfc(document)
    assert document == before


def test_it_agrees_with_pyld_itself() -> None:
    def load(url: str, options: object) -> dict[str, Any]:
        document = copy.deepcopy(load_context(url))
        return {"document": document, "documentUrl": url, "contextUrl": None, "contentType": ""}

    options = {"algorithm": "URDNA2015", "format": "application/n-quads", "base": None}
    proof = {"type": "DataIntegrityProof", "cryptosuite": "eddsa-rdfc-2022", "@context": V2}
    kinds = {"@id": "urn:kinds", "@container": "@type"}
    for document in (
        credential(validFrom="2026-01-01T00:00:00Z", name="N", proof=proof),
        {
            "@context": V2,
            "type": "VerifiablePresentation",
            "verifiableCredential": [credential(), credential({"id": "did:example:2", "a": 1})],
        },
        with_context([VOCAB, {"kinds": kinds}], kinds={"A": {"p": 1}, "B": {"@type": "C"}}),
    ):
        expected = pyld.jsonld.normalize(document, {**options, "documentLoader": load})
        assert canonicalize_rdfc(document) == expected


# What PyLD would drop or make up: a signature does not cover it, so it is an error.
UNSIGNED: list[tuple[str, dict[str, Any]]] = [
    ("'admin'", credential(context=[V2], subject={"id": "did:example:s"}, admin=True)),
    ("'admin'", credential({"id": "did:example:s", "admin": True}, context=[V2])),
    ("'ExampleCredential'", credential({"id": "did:example:s"}, context=[V2])),
    ("'rel/x'", credential(id="rel/x")),
    ("'issuer'", credential(issuer="issuer")),
    ("'x'", credential({"id": "x", "a": 1})),
    ("''", credential({"id": "", "a": 1})),
    ("None", credential({"id": "@foo", "a": 1})),
    ("'x'", with_context({"p": {"@id": "urn:p", "@type": "@vocab"}}, p="x")),
    ("'x'", with_context({"@base": "http://example.org/", "p": "urn:p"}, p={"@id": "x"})),
    ("maps to nothing", with_context([VOCAB, {"p": None}], p=1, q=2)),
    ("maps to nothing", with_context(VOCAB, **{"@foo": 1, "q": 2})),
    ("null", credential(evidence=None)),
    ("null", credential({"id": "did:example:s", "a": [1, None]})),
    (r"\[\]", credential(evidence=[])),
    (r"\[\]", credential({"id": "did:example:s", "a": [1, []]})),
    (r"type has the value \[\]", credential({"type": [], "a": 1})),
    (r"\[\]", with_context(VOCAB, p=1, q={"@set": []})),
    (r"\[\]", with_context(VOCAB, p=1, **{"@graph": []})),
    (r"\[\]", with_context(VOCAB, p=1, **{"@included": []})),
    ("{}", with_context(VOCAB, p=1, **{"@reverse": {}})),
    (r"\[\]", with_context(VOCAB, p=1, **{"@reverse": {"q": []}})),
    (r"\[\]", with_context([VOCAB, {"n": "@nest"}], p=1, n=[])),
    ("{}", with_context([VOCAB, {"n": "@nest"}], p=1, n={})),
    ("{}", with_context([VOCAB, {"n": "@nest"}], p=1, n=[{"q": 1}, {}])),
    ("{}", with_context({"p": {"@id": "urn:p", "@container": "@id"}}, p={}, **{"urn:q": 1})),
    ("null", with_context({"p": {"@id": "urn:p", "@container": "@language"}}, p={"en": None})),
    ("null", with_context({"p": {"@id": "urn:p", "@container": "@language"}}, p={"en": []})),
    ("null", with_context({"p": {"@id": "urn:p", "@container": "@language"}}, p={})),
    ("@index", with_context({"p": {"@id": "urn:p", "@container": "@index"}}, p={"a": "x"})),
    ("@index", with_context(VOCAB, **{"@index": "i", "p": 1})),
    ("@index", with_context(VOCAB, p={"@value": "x", "@index": "i"})),
    ("@index", with_context(VOCAB, p={"@list": ["x"], "@index": "i"})),
    ("@embed", with_context(VOCAB, p=1, **{"@embed": "@never"})),
    ("@protected", with_context(VOCAB, p=1, **{"@protected": {"admin": True}})),
    ("says nothing", with_context(VOCAB)),
    ("says nothing", with_context(VOCAB, **{"@graph": ["free"]})),
    ("says nothing", with_context(VOCAB, p={"@value": None})),
    ("says nothing", with_context(VOCAB, p={"@language": "de"})),
    ("says nothing", {"@context": V2, **VOCAB} | {"@graph": [{"@id": "urn:a"}]}),
    ("says nothing", credential(verifiableCredential=1, context=[V2]) | {"@graph": [{}]}),
    ("no property", with_context({"p": {"@id": "urn:p", "@container": "@graph"}}, p="x")),
    ("says nothing", {"@context": V2, "type": "VerifiablePresentation"}
     | {"verifiableCredential": [{"@id": "urn:credential"}]}),
    ("not a URL", with_context({"p": "_:p"}, p=1)),
    ("not a URL", with_context({}, **{"urn:a>b": 1})),
    ("not a URL", with_context({}, **{"urn:p": {"@value": "x", "@type": "urn:a>b"}})),
    ("neither a URL", with_context(VOCAB, p={"@id": "urn:a> <urn:b> <urn:c> .\n<urn:d"})),
    ("neither a URL", with_context(VOCAB, p={"@id": "urn:line\n"})),
    ("neither a URL", with_context(VOCAB, p={"@id": "_:"})),
    ("neither a URL", with_context(VOCAB, p={"@id": "_:.1"})),
    ("language tag", with_context(VOCAB, p={"@value": "x", "@language": "en> <urn:x"})),
    ("language tag", with_context(VOCAB, p={"@value": "x", "@language": "toolonglanguage"})),
    ("no @direction", with_context({"p": {"@id": "urn:p", "@direction": ""}}, p="x")),
    ("an array in it", with_context(VOCAB, p={"@list": [["x"]]})),
    ("without its language", with_context(VOCAB, p={
        "@value": "x", "@type": "http://www.w3.org/1999/02/22-rdf-syntax-ns#langString"})),
    ("no number", with_context(VOCAB, p={"@value": "1_000", "@type": XSD + "double"})),
    ("no number", with_context(VOCAB, p={"@value": "NaN", "@type": XSD + "double"})),
    ("no number", with_context(VOCAB, p={"@value": "9" * 10_000, "@type": XSD + "double"})),
    ("@vocab", with_context([V2, {"@vocab": "relative/"}], p=1)),
]  # fmt: skip


@pytest.mark.parametrize(("reason", "document"), UNSIGNED)
def test_what_a_signature_would_not_cover(reason: str, document: dict[str, Any]) -> None:
    with pytest.raises(TermUndefined, match=reason):
        canonicalize_rdfc(document)


INVALID: list[tuple[str, Any]] = [
    ("not a JSON object", []),
    ("not a JSON object", "https://www.w3.org/ns/credentials/v2"),
    ("no JSON value", with_context(VOCAB, p=b"bytes")),
    ("surrogate", with_context(VOCAB, p="\ud800")),
    (r"2\^53", with_context(VOCAB, p=2**53)),
    ("neither a URL nor", with_context(1, p=1)),
    ("neither a URL nor", with_context([V2, [V2]], p=1)),
    ("@import", with_context([V2, {"@import": EXAMPLES}], p=1)),
    ("@import", with_context({"t": {"@id": "urn:t", "@context": {"@import": V2}}}, p=1)),
    ("@import or @context", with_context([{"@context": {}, "a": "urn:a"}, V2], a=1)),
    ("reserves", with_context({"@foo": "urn:foo"}, **{"urn:p": 1})),
    ("reserves", with_context({"a": "@foo"}, **{"urn:p": 1})),
    ("reserves", with_context({"a": {"@reverse": "@id"}}, **{"urn:p": 1})),
    ("reserves", with_context([VOCAB, {"_uuid": "urn:x"}], _uuid=1)),
    ("Cyclical", with_context({"a": "b:x", "b": "a:x"}, a=1)),
    ("protected", credential(context=[V2, {"name": "urn:evil"}])),
    ("protected", credential(context=[V2, {"type": "urn:evil"}])),
    ("protected", credential(context=[V2, None, {"name": "urn:evil"}])),
    ("protected", credential(context=[V2, {"VerifiableCredential": "urn:evil"}])),
    ("protected", credential({"id": "did:example:s", "x": {"@context": None, "urn:p": 1}})),
    ("colliding", with_context({"id": "@id"}, id="urn:other", **{"urn:p": 1})),
    ("@value", with_context({}, **{"urn:p": {"@value": "x", "urn:q": 1}})),
    ("@value", with_context({}, **{"urn:p": {"@value": ["x"]}})),
    ("only strings", with_context({}, **{"urn:p": {"@value": 1, "@language": "de"}})),
    ("only text", with_context({}, **{"urn:p": {"@value": 1, "@direction": "ltr"}})),
    ("@reverse", with_context({}, **{"@reverse": {"urn:p": "text"}})),
]


@pytest.mark.parametrize(("reason", "document"), INVALID)
def test_what_is_no_json_ld(reason: str, document: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # PyLD warns of reserved words: a stranger's noise
        with pytest.raises(DocumentInvalid, match=reason):
            canonicalize_rdfc(document)


@pytest.mark.parametrize(
    "document",
    [
        with_context("https://example.org/context", **{"urn:p": 1}),
        with_context([V2, "http://127.0.0.1:1/context"], **{"urn:p": 1}),
        with_context("relative", **{"urn:p": 1}),
        with_context("", **{"urn:p": 1}),
        with_context('{"@vocab":"urn:v:"}', p=1),
        with_context({"t": {"@id": "urn:t", "@context": "https://example.org/c"}}, t={}),
        with_context({"t": {"@id": "urn:t", "@context": [V2, "file:///x"]}}, **{"urn:p": 1}),
        with_context(VOCAB, p={"@context": "https://example.org/c", "q": 1}),
        with_context({"T": {"@id": "urn:T", "@context": "urn:c"}}, **{"@type": "T"}),
    ],
)  # fmt: skip
def test_an_unknown_context_is_an_error_and_never_a_download(
    document: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **named: object) -> None:
        pytest.fail("PyLD was asked to load a document")

    monkeypatch.setattr(pyld.jsonld, "_default_document_loader", refuse)
    monkeypatch.setattr(pyld.jsonld, "load_document", refuse)
    with pytest.raises(ContextUnknown, match="none is downloaded"):
        canonicalize_rdfc(document)


def test_a_term_added_after_signing_is_refused_where_pyld_drops_it() -> None:
    """The dropped-term attack: PyLD's own text is the same with and without `admin`."""
    honest = credential({"id": "did:example:s"}, context=[V2], type="VerifiableCredential")
    forged = {**honest, "admin": True}
    canonicalize_rdfc(honest)
    with pytest.raises(TermUndefined, match="admin"):
        canonicalize_rdfc(forged)


def test_context_substitution_leaves_the_text_and_changes_the_meaning() -> None:
    """Why a valid RDFC proof says nothing about a document whose contexts are not trusted."""
    subject = {"id": "did:example:s", "over18": True, "employed": False}
    honest = credential(subject)
    base = "https://www.w3.org/ns/credentials/examples#"
    swap = {"over18": f"{base}employed", "employed": f"{base}over18"}
    forged = credential(
        {"id": "did:example:s", "over18": False, "employed": True}, context=[V2, EXAMPLES, swap]
    )
    assert canonicalize_rdfc(forged) == canonicalize_rdfc(honest)
    assert canonicalize_jcs(forged) != canonicalize_jcs(honest)
    with pytest.raises(DocumentInvalid, match="protected"):
        canonicalize_rdfc(credential(context=[V2, EXAMPLES, {"name": f"{base}name"}]))
    assert canonicalize_rdfc(
        credential(subject, context=[V2, EXAMPLES, {"issuer": f"{base}name"}])
    ) == canonicalize_rdfc(honest)  # the type's own context defines it again


def _hosts(hosts: int, gpus: int) -> dict[str, Any]:
    gpu = {"type": "Gpu", "model": "A100", "memory": 80}
    return credential(
        {"id": "did:example:s", "hosts": [{"gpus": [dict(gpu)] * gpus} for _ in range(hosts)]}
    )


def _graph(edges: dict[int, list[int]]) -> dict[str, Any]:
    nodes = [
        {"@id": f"_:n{start}", "p": [{"@id": f"_:n{stop}"} for stop in stops]}
        for start, stops in edges.items()
    ]
    return {"@context": VOCAB, "@graph": nodes}


def _clique(size: int) -> dict[str, Any]:
    return _graph({i: [j for j in range(size) if j != i] for i in range(size)})


def _nest(levels: int, name: str, inner: Any) -> Any:
    for _ in range(levels):
        inner = {name: inner}
    return inner


def _scoped_tree(depth: int) -> Any:
    return {"p": _scoped_tree(depth - 1), "q": _scoped_tree(depth - 1)} if depth else {"a1": 1}


def _terms(count: int) -> dict[str, str]:
    return {f"t{number}": f"urn:t:{number}" for number in range(count)}


WIDE = RDFC_VALUES_MAX * 4 // 5
POISON: dict[str, dict[str, Any]] = {
    "two hosts with eight GPUs": _hosts(2, 8),
    "a clique of 7": _clique(7),
    "a clique of 8": _clique(8),
    "a clique of 10": _clique(10),
    "a clique of 50": _clique(50),
    "a chain": _graph({number: [number + 1] for number in range(1000)}),
    "a ring": _graph({number: [(number + 1) % 1000] for number in range(1000)}),
    "two hubs": _graph({number: [9001, 9002] for number in range(600)}),
    "a list of equal values": with_context(VOCAB, p={"@list": ["a"] * 3000}),
    "a list of lists": with_context(VOCAB, p={"@list": [{"@list": [{"@list": [1]}]}] * 300}),
    "a context often": credential(context=[V2] * 4000),
    "many contexts": credential(context=[V2, *({name: "urn:x"} for name in _terms(2600))]),
    "many terms": credential(context=[V2, _terms(CONTEXT_WORK_MAX + 1)]),
    "a context in every object": {
        "@context": V2,
        "@graph": [
            {"@context": [{f"t{number}": "urn:x"}, EXAMPLES, V2], "id": "urn:a", "name": "x"}
            for number in range(600)
        ],
    },
    "scoped contexts": with_context(
        {
            "p": {"@id": "urn:p", "@context": {f"a{number}": "urn:a" for number in range(100)}},
            "q": {"@id": "urn:q", "@context": {f"b{number}": "urn:b" for number in range(100)}},
        },
        **_scoped_tree(8),
    ),
    "a long vocabulary": with_context({"@vocab": "urn:" + "x" * 200_000}, p=1),
    "a long term": with_context({"p": "urn:" + "x" * 200_000}, p=list(range(WIDE))),
    "prefixes upon prefixes": with_context(
        {"p0": "urn:a:", **{f"p{i}": f"p{i - 1}:{'x' * 100}:" for i in range(1, 500)}}, p400=1
    ),
    "long text": {
        "@context": VOCAB,
        "@graph": [
            {"@id": "urn:" + "x" * 100_000, "p": [{"@id": f"_:{i}", "p": i} for i in range(900)]}
        ],
    },
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", POISON)
def test_poison_is_refused_and_not_computed(name: str) -> None:
    with pytest.raises(GraphTooComplex):
        canonicalize_rdfc(POISON[name])


TOO_LARGE: dict[str, dict[str, Any]] = {
    "empty objects": credential({"a": [{} for _ in range(RDFC_VALUES_MAX)]}),
    "values": credential({"a": list(range(RDFC_VALUES_MAX))}),
    "names": credential({f"n{number}": 1 for number in range(RDFC_VALUES_MAX)}),
    "languages": with_context(
        {"p": {"@id": "urn:p", "@container": "@language"}},
        p={f"a-{number}": "x" for number in range(RDFC_VALUES_MAX)},
    ),
    "depth": credential(_nest(40, "a", 1)),
    "graphs": with_context(VOCAB, **_nest(40, "@graph", {"p": 1})),
    "included": with_context(VOCAB, **_nest(40, "@included", {"p": 1})),
    "reversed": with_context(VOCAB, **_nest(40, "@reverse", {"p": 1})),
    "scoped": with_context(_nest(20, "t", {"@id": "urn:t", "@context": _nest(20, "t", {})})),
    "contexts": with_context(_nest(40, "@context", {}), **{"urn:p": 1}),
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", TOO_LARGE)
def test_too_large_or_too_deep(name: str) -> None:
    with pytest.raises(DocumentInvalid):
        canonicalize_rdfc(TOO_LARGE[name])


LONG = range(1000)
LARGE: dict[str, dict[str, Any]] = {
    "empty objects": credential({"a": [{} for _ in range(WIDE)]}),
    "values": credential({"a": [f"v{number}" for number in range(WIDE)]}),
    "equal values": credential({"a": ["v"] * WIDE}),
    "names": credential({f"n{number}": 1 for number in range(WIDE)}),
    "languages": with_context(
        {"p": {"@id": "urn:p", "@container": "@language"}},
        p={f"a-{number}": "x" for number in range(WIDE)},
    ),
    "included": with_context(VOCAB, p=1, **{"@included": [{"@id": "urn:a", "p": 1}] * (WIDE // 3)}),
    "reverse": with_context(VOCAB, **{"@reverse": {"p": [{"@id": f"urn:{i}"} for i in LONG]}}),
    "graphs": {"@context": VOCAB, "@graph": [{"@graph": [{"p": i}]} for i in range(WIDE // 5)]},
    "depth": with_context(VOCAB, **_nest(30, "a", 1)),
    "small rings": _graph({i: [i - 2 if i % 3 == 2 else i + 1] for i in range(999)}),
    "one host with eight GPUs": _hosts(1, 8),
    "two hosts with four GPUs": _hosts(2, 4),
    "digits": credential({"a": "1" * 200_000}),
    "slashes": credential({"id": "urn:" + "a/" * 100_000, "a/" * 10_000: 1}),
    "colons": credential({"a:" * 100_000: 1}),
}  # fmt: skip


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", LARGE)
def test_large_and_harmless(name: str) -> None:
    assert canonicalize_rdfc(LARGE[name])


def test_documents_leave_nothing_behind() -> None:
    """What a stranger's contexts say stays in their document; with `@import` in PyLD it did not."""
    before = canonicalize_rdfc(credential())
    hostile: list[Any] = [
        [V2, EXAMPLES, {"claim": "urn:evil"}],
        [{"@protected": True, "claim": "urn:evil"}, V2, EXAMPLES],
        [{"@vocab": "urn:evil:"}, V2],
        [V2, {"@import": EXAMPLES, "@vocab": "urn:evil:"}],
        {"@import": V2, "issuer": "urn:evil"},
    ]
    for context in hostile:
        try:
            assert canonicalize_rdfc(credential(context=context)) != before
        except CredentialsError:
            continue
    assert canonicalize_rdfc(credential()) == before


def test_pyld_s_own_cache_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    before = canonicalize_rdfc(credential())

    def load(url: str, options: object) -> dict[str, Any]:
        context = {"@vocab": "urn:evil:", "id": "@id", "type": "@type"}
        return {
            "document": {"@context": context},
            "documentUrl": url,
            "contextUrl": None,
            "tag": "static",
        }

    cache: dict[str, Any] = {}
    monkeypatch.setattr(pyld.jsonld, "_resolved_context_cache", cache)
    for url in context_digests():
        pyld.jsonld.expand({"@context": url, "x": 1}, {"documentLoader": load})
    assert len(cache) >= len(context_digests())  # somebody else's loader has poisoned it
    jsonld._kept.clear()
    assert canonicalize_rdfc(credential()) == before


def test_what_is_kept_is_bounded_and_follows_from_pinned_contexts() -> None:
    jsonld._kept.clear()
    before = canonicalize_rdfc(credential())
    urls = sorted(context_digests())
    for first in urls:
        for second in urls:
            for third in urls:
                try:
                    canonicalize_rdfc(with_context([first, second, third], **{"urn:p": 1}))
                except CredentialsError:
                    continue
                assert len(jsonld._kept[0].processed) <= jsonld._KEPT_MAX
    kept = len(jsonld._kept[0].processed)
    canonicalize_rdfc(with_context([V2, {"strange": "urn:strange"}], strange=1))
    canonicalize_rdfc(with_context([V2] * 9, **{"urn:p": 1}))
    assert len(jsonld._kept[0].processed) <= kept + 1
    assert canonicalize_rdfc(credential()) == before


def test_a_first_use_knows_no_cache_and_gives_the_same_text() -> None:
    document = credential(proof={"type": "DataIntegrityProof", "cryptosuite": "eddsa-rdfc-2022"})
    texts = set()
    for _ in range(3):
        jsonld._kept.clear()
        texts |= {canonicalize_rdfc(document), canonicalize_rdfc(document)}
    assert len(texts) == 1


def test_two_threads_at_once() -> None:
    documents = [
        credential({"id": "did:example:s", "n": number}, context=context)
        for number in range(40)
        for context in ([V2, EXAMPLES], [V2, {"n": f"urn:n:{number}", **VOCAB}], [V2, VOCAB])
    ]
    expected = [canonicalize_rdfc(document) for document in documents]
    jsonld._kept.clear()
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            assert list(pool.map(canonicalize_rdfc, documents)) == expected


NAMES = st.sampled_from(
    [
        *("a", "b", "id", "type", "urn:p", "_:b", "", "a:b", "VerifiableCredential", "_uuid"),
        *sorted(pyld.jsonld.KEYWORDS),
        *("@context",) * 3,
    ]
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["x", "urn:x", "_:b", "en", "ltr", "a", V2, EXAMPLES, "@id", "@set", "urn:"])
)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=25,
)


@given(
    st.dictionaries(NAMES, ANYTHING, max_size=5),
    st.sampled_from([V2, [V2, EXAMPLES], VOCAB, [V2, VOCAB]]) | ANYTHING,
)
def test_no_document_causes_another_error(document: dict[str, Any], context: Any) -> None:
    document = {"@context": context, **document}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            text = canonicalize_rdfc(document)
        except CredentialsError:
            return
    assert text.endswith(" .\n")
    assert canonicalize_rdfc(json.loads(json.dumps(document))) == text
