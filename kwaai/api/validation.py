"""What pydantic refuses in a body, as one line for a person.

Knows no body and no parameter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from pydantic import ValidationError

from kwaai.api.errors import did_you_mean
from kwaai.errors import UserError

_PLAIN_WORDS = {  # what pydantic words for Python, by its error type
    "model_type": "must be an object",
    "dict_type": "must be an object",
    "list_type": "must be a list",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "string_type": "must be a string",
}


def explain(
    error: ValidationError,
    known: Sequence[str],
    inside: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> UserError:
    """Turn pydantic's first complaint into one line that names the parameter. `known`: the names
    that an unknown one may have meant; `inside`: those in a parameter that is an object.
    """
    details = error.errors(include_url=False)[0]
    location = details["loc"]
    param = str(location[0])[:100]
    for step in location[1:]:
        param += f"[{step}]" if isinstance(step, int) else f".{step[:100]}"
    if details["type"] == "extra_forbidden":
        names = known if len(location) == 1 else inside.get(str(location[0]), ())
        hint = did_you_mean(str(location[-1]), names if len(location) <= 2 else ())
        return UserError(f"unknown parameter '{param}'{hint}", param=param)
    if details["type"] == "missing":
        return UserError(f"missing required parameter '{param}'", param=param)
    said = details["msg"].split(" should ", 1)
    rest = said[1] if len(said) == 2 else details["msg"]
    rest = f"must {rest}" if len(said) == 2 else rest
    rest = _PLAIN_WORDS.get(details["type"], rest)
    given = details["input"]
    if isinstance(given, (bool, int, float)):
        rest += f", not {str(given)[:40]}"
    return UserError(f"'{param}' {rest.replace(' after validation', '')}", param=param)
