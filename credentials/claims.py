"""One claim of a type: what its schema allows, how it is read from text, what a refusal says.

The schema files are the source; a test holds this reading of them against a JSON Schema validator,
which is ten times slower and speaks of keywords where a person needs the bound.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, Final

from credentials.document import parse_time
from credentials.errors import CredentialsError, SchemaViolated

_SHOWN_CHARS: Final = 60
_TEXT_CHARS_MAX: Final = 8192
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}\Z")
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}\Z")
_NUMBER = re.compile(r"[+-]?[0-9]{1,18}(\.[0-9]{1,18})?([eE][+-]?[0-9]{1,3})?\Z")


@dataclass(frozen=True, slots=True)
class Claim:
    """One claim of a type, as its schema has it."""

    name: str
    type: str
    """`text`, `integer`, `number`, `time`, `date`, `DID`, `URL`, `digest`, `choice` or `list`."""
    required: bool
    unit: str
    minimum: float | None
    maximum: float | None
    choices: tuple[str, ...]
    chars_min: int
    chars_max: int
    pattern: re.Pattern[str] | None
    title: str
    description: str

    @property
    def bounds(self) -> str:
        """What a value is, in words: "a whole number from 1 to 1,000,000,000 (probes)"."""
        if self.type in ("integer", "number"):
            what = "a whole number" if self.type == "integer" else "a number"
            return f"{what} from {_show(self.minimum)} to {_show(self.maximum)} ({self.unit})"
        if self.type == "choice":
            return f"one of {', '.join(self.choices)}"
        if self.type == "list":
            return f"{self.title}: {', '.join(self.choices)}"
        return self.title

    def accepts(self, value: Any) -> bool:
        """Answer whether the schema allows the value."""
        if self.type in ("integer", "number"):
            return self._accepts_number(value)
        if self.type == "list":
            return (
                isinstance(value, list)
                and 0 < len(value) <= len(self.choices)
                and all(isinstance(one, str) and one in self.choices for one in value)
                and len(set(value)) == len(value)
            )
        if not isinstance(value, str):
            return False
        if self.type == "choice":
            return value in self.choices
        if not self.chars_min <= len(value) <= self.chars_max:
            return False
        if self.pattern is not None and not self.pattern.search(value):
            return False
        return self.type not in _FORMATS or is_format(_FORMATS[self.type], value)

    def check(self, value: Any, where: str) -> None:
        """Check a value. Raises SchemaViolated naming the claim and its bound."""
        if not self.accepts(value):
            raise SchemaViolated(f"{where}{self.name} is {_quote(value)}; it is {self.bounds}")

    def parse(self, text: str) -> Any:
        """Return the value that a text stands for, to be checked. Raises SchemaViolated."""
        if len(text) > _TEXT_CHARS_MAX:
            raise SchemaViolated(f"{self.name} has {len(text)} characters; it is {self.bounds}")
        if self.type == "integer" and _INTEGER.match(text):
            return int(text)
        if self.type == "number" and _NUMBER.match(text):
            return float(text)
        if self.type == "list":
            return [one.strip() for one in text.split(",")]
        return text  # a number that is none is refused by `check`, with the bound

    def normalize(self, value: Any) -> Any:
        """Return the form that every reader of JSON keeps: whole numbers as integers, no minus
        zero, lists sorted.
        """
        if self.type == "integer" and isinstance(value, float) and value.is_integer():
            return int(value)
        if self.type == "number" and isinstance(value, float):
            return value + 0.0
        if self.type == "list" and isinstance(value, (list, tuple)):
            return sorted(value) if all(isinstance(one, str) for one in value) else list(value)
        return value

    def _accepts_number(self, value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        if isinstance(value, float) and not math.isfinite(value):
            return False
        if self.type == "integer" and value != int(value):
            return False
        low, high = self.minimum, self.maximum
        return (low is None or value >= low) and (high is None or value <= high)


_FORMATS: Final = {"time": "date-time", "date": "date", "DID": "did", "URL": "uri"}
_TYPES: Final = {"date-time": "time", "date": "date", "did": "DID", "uri": "URL"}


def read_claim(name: str, schema: Mapping[str, Any], required: bool) -> Claim:
    """Read one property of `credentialSubject` in a schema file of ours."""
    kind = str(schema["type"])
    if kind == "string":
        kind = _TYPES.get(schema.get("format", ""), "text")
        if "enum" in schema:
            kind = "choice"
        elif str(schema.get("pattern", "")).startswith("^sha256:"):
            kind = "digest"
    elif kind == "array":
        kind = "list"
    choices = schema.get("enum") or schema.get("items", {}).get("enum", ())
    pattern = schema.get("pattern")
    return Claim(
        name=name,
        type=kind,
        required=required,
        unit=str(schema.get("unit", "")),
        minimum=schema.get("minimum"),
        maximum=schema.get("maximum"),
        choices=tuple(choices),
        chars_min=int(schema.get("minLength", 0)),
        chars_max=int(schema.get("maxLength", _TEXT_CHARS_MAX)),
        pattern=None if pattern is None else compile_pattern(pattern),
        title=str(schema.get("title", "")),
        description=str(schema["description"]),
    )


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Compile an ECMA 262 pattern for `search`: there `$` is the end, in Python also before a last
    newline, and digits are ASCII's.
    """
    if pattern.endswith("$") and not pattern.endswith("\\$"):
        pattern = pattern[:-1] + r"\Z"
    return re.compile(pattern, re.ASCII)


def is_format(name: str, value: object) -> bool:
    """Answer whether a string has a JSON Schema `format`; one that is unknown here says nothing."""
    if not isinstance(value, str):
        return True
    if name == "date-time":
        try:
            parse_time(value)
        except CredentialsError:
            return False
        return True
    if name == "date":
        return _is_date(value)
    if name == "did":
        return value.startswith("did:") and len(value.split(":", 2)) == 3
    if name == "uri":
        return bool(re.match(r"[A-Za-z][A-Za-z0-9+.-]*:[^\s<>\"\\^`{|}]*\Z", value))
    if name == "email":
        return bool(re.match(r"[^\s@]{1,256}@[^\s@]{1,256}\Z", value))
    return True


def _is_date(text: str) -> bool:
    if not _DATE.match(text):
        return False
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def _quote(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= _SHOWN_CHARS else shown[: _SHOWN_CHARS - 3] + "..."


def _show(number: float | None) -> str:
    return "any" if number is None else f"{number:,}"
