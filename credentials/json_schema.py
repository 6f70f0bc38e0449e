"""JSON Schema, bounded: a value against a schema that a stranger may have written.

What can be made to run without end is not evaluated: references out of the schema, dynamic ones,
schemas of their own name inside, `patternProperties`, `unevaluated*`, patterns that backtrack. Such
a schema is unknown, not violated. What is evaluated counts its steps. JSON Schema 2020-12, 2019-09
and draft-07 through the jsonschema library.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, TypeAlias

import jsonschema
import referencing
import referencing.exceptions
import referencing.jsonschema
from jsonschema import validators

from credentials.claims import is_format
from credentials.document import Document, check_document, encode_document
from credentials.errors import CredentialsError, SchemaInvalid, SchemaUnknown, SchemaViolated
from credentials.limits import (
    SCHEMA_BYTES_MAX,
    SCHEMA_PARTS_MAX,
    SCHEMA_WORK_MAX,
)
from credentials.patterns import read_pattern

_VALIDATORS: Final[Mapping[str, Any]] = {
    "https://json-schema.org/draft/2020-12/schema": jsonschema.Draft202012Validator,
    "https://json-schema.org/draft/2019-09/schema": jsonschema.Draft201909Validator,
    "http://json-schema.org/draft-07/schema": jsonschema.Draft7Validator,
    "https://json-schema.org/draft-07/schema": jsonschema.Draft7Validator,
}
_UNBOUNDED: Final = frozenset(
    {
        "$dynamicRef",
        "$recursiveRef",
        "patternProperties",
        "unevaluatedItems",
        "unevaluatedProperties",
    }
)
_FORMATS: Final = ("date", "date-time", "did", "email", "uri")
_URI_REFERENCE: Final = re.compile(r"[^\s<>\"\\^`{|}]{1,2048}\Z")

_MATCHING_STEPS: Final = 1000
"""Of the regular expression engine for one step of the budget."""
_MESSAGE_CHARS: Final = 300
"""Of one error; what is longer is counted, a step for as many."""


class _Budget:
    """Steps that one evaluation may still take."""

    def __init__(self, steps: int) -> None:
        self._left = steps

    def spend(self, steps: int) -> None:
        self._left -= steps
        if self._left < 0:
            raise SchemaUnknown(f"the schema takes more than {SCHEMA_WORK_MAX} steps to evaluate")


def check_json_schema(instance: Any, schema: Document, *, trusted: bool = False) -> None:
    """Check a value by a schema. `trusted`: it is of this package, and not looked at first.

    Raises SchemaViolated naming the place, SchemaInvalid for what is no schema, SchemaUnknown for
    one whose version is not evaluated here, or that could run without end.
    """
    if not trusted:
        _check_schema(schema)
    budget = _Budget(SCHEMA_WORK_MAX)
    validator = _counted(str(schema["$schema"]).rstrip("#"), budget)(
        schema, registry=_REGISTRY, format_checker=_FORMAT_CHECKER
    )
    with _translated():
        error = next(validator.iter_errors(instance), None)
    if error is not None:
        raise SchemaViolated(_tell(error))


def _check_schema(schema: Document) -> None:
    """Check that a stranger's schema is one, of a version and of a form that is evaluated here."""
    check_document(schema)
    if len(encode_document(schema)) > SCHEMA_BYTES_MAX:
        raise SchemaUnknown(f"the schema has more than {SCHEMA_BYTES_MAX} bytes")
    version = schema.get("$schema")
    if not isinstance(version, str):
        raise SchemaInvalid("the schema has no $schema, which says its version")
    if version.rstrip("#") not in _VALIDATORS:
        raise SchemaUnknown(f"schemas of version {version:.200} are not evaluated here")
    name = schema.get("$id")
    if not isinstance(name, str) or not _URI_REFERENCE.match(name):
        raise SchemaInvalid(f"the schema's $id is {name!r:.200}, not a URL")
    if sum(1 for _ in _parts(schema)) > SCHEMA_PARTS_MAX:
        raise SchemaUnknown(f"the schema has more than {SCHEMA_PARTS_MAX} parts")
    for key, value in _members(schema):
        if key in _UNBOUNDED or (key in ("$id", "$schema") and value not in (name, version)):
            raise SchemaUnknown(f"schemas with {key} are not evaluated here")
        if key == "pattern" and isinstance(value, str):
            read_pattern(value)
    with _translated():
        _VALIDATORS[version.rstrip("#")].check_schema(schema)


@contextmanager
def _translated() -> Iterator[None]:
    """Turn what the library raises on a bad schema into errors of this package."""
    try:
        yield
    except jsonschema.SchemaError as error:
        raise SchemaInvalid(f"the schema is none: {_tell(error)}") from error
    except referencing.exceptions.Unresolvable as error:
        raise SchemaUnknown(f"the schema refers to {error.ref!r:.200}, elsewhere") from error
    except RecursionError as error:
        raise SchemaUnknown("the schema refers to itself without end") from error
    except CredentialsError:
        raise
    except ValueError as error:  # urllib's, of a reference that is no URL
        raise SchemaInvalid(f"the schema has a reference that is no URL: {error}") from error


def _members(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield every name and value in a document; it is no deeper than documents may be."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield key, each
            yield from _members(each)
    elif isinstance(value, list):
        for each in value:
            yield from _members(each)


def _counted(version: str, budget: _Budget) -> Any:
    """Return a validator class whose every keyword spends of the budget."""
    base = _VALIDATORS[version]
    counted = {name: _count(check, budget) for name, check in base.VALIDATORS.items()}
    counted["pattern"] = partial(_check_pattern, budget)
    counted["uniqueItems"] = partial(_check_unique, budget)
    for name in ("const", "enum"):
        counted[name] = _count_deep(base.VALIDATORS[name], budget)
    return validators.extend(base, counted)  # type: ignore[no-untyped-call]


Errors: TypeAlias = Iterator[jsonschema.ValidationError]
Check: TypeAlias = Callable[[Any, Any, Any, Any], Errors | None]


def _count(check: Check, budget: _Budget) -> Check:
    def counting(validator: Any, value: Any, instance: Any, schema: Any) -> Errors:
        steps = 1 + (len(value) if isinstance(value, (dict, list)) else 0)
        budget.spend(steps + (len(instance) if isinstance(instance, (dict, list)) else 0))
        yield from _shortened(check(validator, value, instance, schema) or (), budget)

    return counting


def _count_deep(check: Check, budget: _Budget) -> Check:
    """Count each part of what the instance is compared with."""

    def counting(validator: Any, value: Any, instance: Any, schema: Any) -> Errors:
        budget.spend(1 + sum(1 for _ in _parts(value)))
        yield from _shortened(check(validator, value, instance, schema) or (), budget)

    return counting


def _shortened(errors: Iterable[jsonschema.ValidationError], budget: _Budget) -> Errors:
    """Count and cut messages: the library writes the whole instance into each, and keeps all that
    are below an `anyOf`.
    """
    for error in errors:
        budget.spend(len(error.message) // _MESSAGE_CHARS)
        error.message = error.message[:_MESSAGE_CHARS]
        yield error


def _check_pattern(
    budget: _Budget, validator: Any, pattern: str, instance: Any, schema: Any
) -> Errors:
    """`pattern`, within the budget."""
    if isinstance(instance, str):
        read = read_pattern(pattern)
        budget.spend(1 + read.steps(instance) // _MATCHING_STEPS)
        if not read.regex.search(instance):
            yield jsonschema.ValidationError(f"{instance[:80]!r} does not match {pattern!r:.80}")


def _check_unique(
    budget: _Budget, validator: Any, wanted: Any, instance: Any, schema: Any
) -> Errors:
    """`uniqueItems` by hash: comparing each with each takes minutes on a long list."""
    if wanted and isinstance(instance, list):
        budget.spend(1 + sum(1 for _ in _parts(instance)))
        if len({_identity(item) for item in instance}) != len(instance):
            yield jsonschema.ValidationError("a list has an item twice")


def _parts(value: Any) -> Iterator[Any]:
    """Yield a value and everything in it."""
    yield value
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for each in inner:
        yield from _parts(each)


def _identity(value: Any) -> Any:
    """Return something hashable that is equal exactly for equal JSON values."""
    if isinstance(value, dict):
        return ("object", frozenset((key, _identity(each)) for key, each in value.items()))
    if isinstance(value, list):
        return ("list", tuple(map(_identity, value)))
    return (type(value) is bool, value)


def _make_format_checker() -> jsonschema.FormatChecker:
    checker = jsonschema.FormatChecker(formats=())
    for name in _FORMATS:
        checker.checks(name)(lambda value, name=name: is_format(name, value))
    return checker


def _tell(error: jsonschema.ValidationError | jsonschema.SchemaError) -> str:
    path = ".".join(str(part) for part in error.absolute_path) or "the document"
    return f"{path:.200}: {error.message:.300}"


_FORMAT_CHECKER: Final = _make_format_checker()
_REGISTRY: Final[referencing.Registry[Any]] = referencing.jsonschema.EMPTY_REGISTRY
