"""VC JSON Schema: which schema counts, what it refuses, and what no schema can make us do."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from credentials.errors import (
    CredentialsError,
    ProofInvalid,
    SchemaInvalid,
    SchemaUnknown,
    SchemaViolated,
)
from credentials.json_schema import check_json_schema
from credentials.kinds import KINDS
from credentials.patterns import read_pattern
from credentials.schema_check import check_schemas, schema_url
from schemas import load_schema

URL = "https://example.com/schemas/email.json"
CREDENTIAL_URL = "https://example.com/credentials/3734"
DRAFTS = (
    "https://json-schema.org/draft/2020-12/schema",
    "https://json-schema.org/draft/2019-09/schema",
    "http://json-schema.org/draft-07/schema#",
    "https://json-schema.org/draft-07/schema#",
)


def schema(**changes: Any) -> dict[str, Any]:
    made = {
        "$id": URL,
        "$schema": DRAFTS[0],
        "type": "object",
        "properties": {
            "credentialSubject": {
                "type": "object",
                "properties": {"emailAddress": {"type": "string", "format": "email"}},
                "required": ["emailAddress"],
            }
        },
    }
    made |= changes
    return {name: value for name, value in made.items() if value is not None}


def credential(**changes: Any) -> dict[str, Any]:
    return {
        "@context": ["https://www.w3.org/ns/credentials/v2"],
        "type": ["VerifiableCredential"],
        "issuer": "https://example.com/issuers/14",
        "credentialSubject": {"id": "did:example:1", "emailAddress": "subject@example.com"},
        "credentialSchema": {"id": URL, "type": "JsonSchema"},
        **changes,
    }


def check(document: dict[str, Any], *known: Any, **options: Any) -> list[str]:
    by_url = {}
    for each in known:
        data = json.loads(each) if isinstance(each, bytes) else each
        by_url[data.get("$id", data.get("id"))] = each
    return [f.outcome for f in check_schemas(document, source=by_url.get, **options)]


@pytest.mark.parametrize("draft", DRAFTS)
def test_a_credential_passes_or_violates_its_schema(draft: str) -> None:
    assert check(credential(), schema(**{"$schema": draft})) == ["passed"]
    for subject in ({"id": "did:example:1"}, {"emailAddress": 5}, {"emailAddress": "nobody"}):
        with pytest.raises(SchemaViolated, match="credentialSubject"):
            check(credential(credentialSubject=subject), schema(**{"$schema": draft}))


def test_a_credential_without_a_schema_has_no_findings() -> None:
    document = credential()
    del document["credentialSchema"]
    assert check(document) == []


UNKNOWN: dict[str, tuple[Any, ...]] = {
    "nobody has it": (),
    "another version": (schema(**{"$schema": "https://json-schema.org/draft/unknown/schema"}),),
    "a reference elsewhere": (schema(allOf=[{"$ref": "https://example.com/other.json"}]),),
    "a reference to a file": (schema(allOf=[{"$ref": "file:///etc/passwd"}]),),
    "a reference to nowhere in it": (schema(allOf=[{"$ref": "#/$defs/none"}]),),
    "a dynamic reference": (schema(allOf=[{"$dynamicRef": "#node"}]),),
    "unevaluated members": (schema(unevaluatedProperties=False),),
    "patterns of names": (schema(patternProperties={"^a": True}),),
    "a reference to itself": (schema(allOf=[{"$ref": "#"}]),),
    "two that refer to each other": (
        schema(
            **{
                "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
                "allOf": [{"$ref": "#/$defs/a"}],
            }
        ),
    ),
    "a million laughs": (
        schema(
            **{
                "$defs": {
                    f"l{i}": {"allOf": [{"$ref": f"#/$defs/l{i + 1}"}] * 10} for i in range(9)
                }
                | {"l9": {}},
                "$ref": "#/$defs/l0",
            }
        ),
    ),
    "a schema inside of its own name": (schema(allOf=[{"$id": "https://example.com/inner"}]),),
    "more parts than a schema may have": (schema(allOf=[{}] * 2000),),
    "more bytes than a schema may have": (schema(description="a" * 40_000),),
}


@pytest.mark.parametrize("known", UNKNOWN.values(), ids=UNKNOWN.keys())
def test_what_cannot_be_evaluated_is_unknown_and_an_error_only_where_required(
    known: tuple[Any, ...],
) -> None:
    assert check(credential(), *known) == ["unknown"]
    with pytest.raises(SchemaUnknown):
        check(credential(), *known, required=True)


def test_a_type_of_schema_that_is_not_ours_is_unknown() -> None:
    other = credential(credentialSchema={"id": URL, "type": "ShexSchema"})
    assert check(other, schema()) == ["unknown"]


INVALID: dict[str, dict[str, Any]] = {
    "another $id": schema(**{"$id": "https://example.com/other.json"}),
    "no $id": schema(**{"$id": None}),
    "an $id that is no URL": schema(**{"$id": "not a url"}),
    "no $schema": schema(**{"$schema": None}),
    "a $schema that is a number": schema(**{"$schema": 7}),
    "a type that is none": schema(type="objekt"),
    "required that is no list": schema(required="emailAddress"),
    "a reference that is a number": schema(allOf=[{"$ref": 5}]),
    "a reference that is no URL": schema(allOf=[{"$ref": "http://["}]),
    "a division by nothing": schema(multipleOf=0),
    "a length below nothing": schema(maxLength=-1),
}


@pytest.mark.parametrize("known", INVALID.values(), ids=INVALID.keys())
def test_what_is_no_schema_or_another_is_an_error(known: dict[str, Any]) -> None:
    with pytest.raises(SchemaInvalid):
        check_schemas(credential(), source=lambda url: known)


@pytest.mark.parametrize(
    "reference",
    [
        "https://example.com/schemas/email.json",
        {"type": "JsonSchema"},
        {"id": URL},
        {"id": 5, "type": "JsonSchema"},
        [{"id": URL, "type": "JsonSchema"}] * 5,
    ],
)
def test_references_that_are_none_are_refused(reference: Any) -> None:
    with pytest.raises(SchemaInvalid):
        check(credential(credentialSchema=reference), schema())


# Digests.


def digest(data: bytes, name: str) -> str:
    return f"{name}-{base64.b64encode(hashlib.new(name, data).digest()).decode()}"


@pytest.mark.parametrize("name", ["sha256", "sha384", "sha512"])
def test_a_digest_is_compared_with_the_bytes(name: str) -> None:
    data = json.dumps(schema(), indent=3).encode()
    reference = {"id": URL, "type": "JsonSchema", "digestSRI": digest(data, name)}
    assert check(credential(credentialSchema=reference), data) == ["passed"]
    with pytest.raises(SchemaInvalid, match="digestSRI"):
        check(credential(credentialSchema=reference), data + b" ")


def test_a_digest_without_the_bytes_is_unknown() -> None:
    reference = {"id": URL, "type": "JsonSchema", "digestSRI": digest(b"", "sha384")}
    assert check(credential(credentialSchema=reference), schema()) == ["unknown"]


@pytest.mark.parametrize("text", ["md5-AAAA", "sha384", "sha384-%%%", 5, "sha256-" + "A" * 500])
def test_digests_that_are_none_are_refused(text: Any) -> None:
    reference = {"id": URL, "type": "JsonSchema", "digestSRI": text}
    with pytest.raises(SchemaInvalid, match="digestSRI"):
        check(credential(credentialSchema=reference), json.dumps(schema()).encode())


# JsonSchemaCredential.


def schema_credential(**changes: Any) -> dict[str, Any]:
    return {
        "@context": ["https://www.w3.org/ns/credentials/v2"],
        "id": CREDENTIAL_URL,
        "type": ["VerifiableCredential", "JsonSchemaCredential"],
        "issuer": "https://example.com/issuers/14",
        "credentialSchema": {
            "id": "https://www.w3.org/2022/credentials/v2/json-schema-credential-schema.json",
            "type": "JsonSchema",
            "digestSRI": "sha384-S57yQDg1MTzF56Oi9DbSQ14u7jBy0RDdx0YbeV7shwhCS88G8SCXeFq82PafhCrW",
        },
        "credentialSubject": {"id": URL, "type": "JsonSchema", "jsonSchema": schema()},
        **changes,
    }


PACKED = credential(credentialSchema={"id": CREDENTIAL_URL, "type": "JsonSchemaCredential"})


def test_a_schema_may_come_in_a_credential() -> None:
    assert check(PACKED, schema_credential()) == ["passed"]
    wrong = {**PACKED, "credentialSubject": {"id": "did:example:1"}}
    with pytest.raises(SchemaViolated):
        check(wrong, schema_credential())


def test_a_schema_credential_is_itself_checked_by_its_rules() -> None:
    assert check(schema_credential()) == ["passed"]
    with pytest.raises(SchemaInvalid):
        check(schema_credential(credentialSubject={"id": URL, "type": "JsonSchema"}))


def test_a_signed_schema_credential_counts_only_as_it_was_verified() -> None:
    signed = schema_credential(proof={})
    asked: list[Any] = []

    def verify(data: Any, reason: str = "") -> Any:
        asked.append(data)
        return SimpleNamespace(document=schema_credential(), contexts_reason=reason)

    def refuse(data: Any) -> Any:
        raise ProofInvalid("the signature is not this key's")

    assert check(PACKED, signed, verify=verify) == ["passed"]
    assert asked == [signed]
    assert check(PACKED, signed) == ["unknown"]
    with pytest.raises(SchemaInvalid, match="does not hold"):
        check(PACKED, signed, verify=refuse)
    with pytest.raises(SchemaInvalid, match="inline"):
        check(PACKED, signed, verify=lambda data: verify(data, "an inline context"))


BAD_PACKETS: dict[str, dict[str, Any]] = {
    "another id": schema_credential(id="https://example.com/other"),
    "another type": schema_credential(type=["VerifiableCredential"]),
    "no subject type": schema_credential(credentialSubject={"jsonSchema": schema()}),
    "another subject type": schema_credential(
        credentialSubject={"type": "Schema", "jsonSchema": schema()}
    ),
    "no schema": schema_credential(credentialSubject={"type": "JsonSchema"}),
    "a schema in text": schema_credential(
        credentialSubject={"type": "JsonSchema", "jsonSchema": json.dumps(schema())}
    ),
    "another schema of its own": schema_credential(
        credentialSchema={"id": URL, "type": "JsonSchema"}
    ),
    "a schema without $id": schema_credential(
        credentialSubject={"type": "JsonSchema", "jsonSchema": schema(**{"$id": None})}
    ),
}


@pytest.mark.parametrize("packed", BAD_PACKETS.values(), ids=BAD_PACKETS.keys())
def test_schema_credentials_that_are_none_are_refused(packed: dict[str, Any]) -> None:
    with pytest.raises(SchemaInvalid):
        check_schemas(PACKED, source=lambda url: packed)


def test_the_w3cs_own_schema_and_examples(vectors: Path) -> None:
    folder = vectors / "vcdm" / "schema" / "verifiable-credential"
    wanted = json.loads((folder / "verifiable-credential-schema.json").read_bytes())
    examples = sorted(folder.glob("example-*.json"))
    assert examples
    for path in examples:
        check_json_schema(json.loads(path.read_bytes()), wanted)
    for broken in ({}, {"@context": [], "type": 5}):
        with pytest.raises(SchemaViolated):
            check_json_schema(broken, wanted)


@given(
    st.text("ab*+?{}()|[]^$.12,\\d-", max_size=24),
    st.text("ab1", max_size=8).map(lambda text: text * 8 + "!"),
)
def test_patterns_that_are_tried_come_to_an_end(pattern: str, text: str) -> None:
    try:
        read = read_pattern(pattern)
    except SchemaUnknown:
        return
    if read.steps(text) < 10**6:
        read.regex.search(text)


# Ours.


def test_our_own_schemas_are_pinned_by_their_url() -> None:
    for kind in KINDS.values():
        assert load_schema(kind.schema)["$id"] == schema_url(kind.schema)
        document = credential(
            type=["VerifiableCredential", kind.name],
            credentialSchema={"id": schema_url(kind.schema), "type": "JsonSchema"},
            credentialSubject={"id": "did:example:1", "unheardOf": 1},
        )
        with pytest.raises(SchemaViolated):
            check_schemas(document, required=True)


# Work.


def place(subschema: dict[str, Any]) -> dict[str, Any]:
    return schema(properties={"credentialSubject": {"properties": {"emailAddress": subschema}}})


@pytest.mark.parametrize(
    ("pattern", "text", "holds"),
    [
        ("^[a-z]{2}$", "de", True),
        ("^[a-z]{2}$", "de\n", False),
        ("^\\d{4}-\\d{2}$", "2026-11", True),
        ("^\\d{4}-\\d{2}$", "٢٠٢٦-١١", False),
        ("@example\\.com$", "a@example.com", True),
        ("^did:[a-z0-9]+:.+$", "did:web:a", True),
        ("^did:[a-z0-9]+:.+$", "web:a", False),
        ("^[^\\u0000-\\u001f]*$", "a\tb", False),
        ("^(a|bc)?(?:d{2}|e){2}$", "bcdde", True),
        ("^(a|bc)?(?:d{2}|e){2}$", "bcde", False),
        ("a$|^b", "ca", True),
        ("a$|^b", "a\n", False),
        ("^a{2,4}[0-9]{3,}$", "aaa1234", True),
    ],
)
def test_plain_patterns_are_tried(pattern: str, text: str, holds: bool) -> None:
    document = credential(credentialSubject={"emailAddress": text})
    if holds:
        assert check(document, place({"pattern": pattern})) == ["passed"]
    else:
        with pytest.raises(SchemaViolated):
            check(document, place({"pattern": pattern}))


@pytest.mark.parametrize(
    "pattern",
    [
        "^(a+)+$",
        "(a|aa)+$",
        "^a*a*a*a*$",
        "a?" * 13 + "a" * 13,
        ".*.*=.*x",
        "(a?){30}",
        "((a|b){9}){9}",
        "(a{1,3}){2,}",
        "a*?b",
        "a++b",
        "(a",
        "a)",
        "*a",
        "(?=a)b",
        "(a)\\1",
        "^\\p{L}+$",
        "^[]$",
        "^[[a]$",
        "^[a--b]$",
        "^[z-a]$",
        "^a{2,1}$",
        "\\",
        "[",
        "a" * 300,
    ],
)
def test_patterns_that_could_take_without_end_are_unknown(pattern: str) -> None:
    text = credential(credentialSubject={"emailAddress": "a" * 200 + "!"})
    assert check(text, place({"pattern": pattern})) == ["unknown"]


def test_much_work_ends_as_unknown() -> None:
    long = credential(credentialSubject={"emailAddress": "a" * 200_000})
    assert check(long, place({"pattern": "^a*b*$"})) == ["unknown"]
    many = [[i, {}] for i in range(20_000)]
    listed = credential(credentialSubject={"emailAddress": many})
    assert check(listed, place({"uniqueItems": True})) == ["unknown"]
    few = credential(credentialSubject={"emailAddress": many[:2000]})
    wanted = place({"$ref": "#/$defs/all"}) | {
        "$defs": {"all": {"allOf": [{"const": many[:150]}] * 2}}
    }
    with pytest.raises(SchemaViolated):
        check(few, wanted)
    asked_often = {"allOf": [{"$ref": "#/$defs/one"}] * 300}
    same = credential(credentialSubject={"emailAddress": many[:150]})
    wanted = place(asked_often) | {"$defs": {"one": {"const": many[:150]}}}
    assert check(same, wanted) == ["unknown"]


@pytest.mark.parametrize(
    ("items", "unique"),
    [
        ([1, 2], True),
        ([1, 1.0], False),
        ([1, True], True),
        ([0, False], True),
        ([{"a": 1, "b": 2}, {"b": 2, "a": 1}], False),
        ([[1], [1, 1]], True),
        (["1", 1], True),
        ([None, None], False),
    ],
)
def test_items_are_the_same_when_json_says_so(items: list[Any], unique: bool) -> None:
    document = credential(credentialSubject={"emailAddress": items})
    if unique:
        assert check(document, place({"uniqueItems": True})) == ["passed"]
    else:
        with pytest.raises(SchemaViolated, match="twice"):
            check(document, place({"uniqueItems": True}))


def test_mutated_schemas_raise_nothing_but_our_errors() -> None:
    seed = 20261121
    choose = random.Random(seed)
    base = schema(
        **{
            "$defs": {"a": {"type": "string", "pattern": "^a+$", "enum": ["a", 1, None]}},
            "allOf": [{"$ref": "#/$defs/a"}, {"not": {"const": 5}}, {"if": {}, "then": {}}],
            "items": {"$id": "https://example.com/inner", "$anchor": "here"},
            "dependentRequired": {"a": ["b"]},
            "contains": {"multipleOf": 0.5, "minimum": 1},
            "propertyNames": {"maxLength": 5, "format": "uri"},
        }
    )
    values = [None, True, 0, -1, 1e300, 5e-324, "", "#", "http://[", "//", "#/~", "\\", [], {}, [1]]
    names = ["$ref", "$id", "$anchor", "$schema", "pattern", "items", "type", "const", "allOf"]
    for number in range(400):
        changed = copy.deepcopy(base)
        for _ in range(choose.randint(1, 3)):
            node: Any = changed
            while isinstance(node, dict) and node and choose.random() < 0.7:
                node = choose.choice(list(node.values()))
            if isinstance(node, dict):
                node[choose.choice([*names, *node])] = choose.choice([*values, *names])
            elif isinstance(node, list) and node:
                node[0] = choose.choice(values)
        try:
            check_json_schema(credential(), changed)
        except CredentialsError:
            pass
        except Exception as error:
            pytest.fail(f"seed {seed}, schema {number}: {error!r} of {changed}")
