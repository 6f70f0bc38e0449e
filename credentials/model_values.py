"""Values that occur all over the VC Data Model: URLs, ids, types, sets of objects, texts.

Knows no property's meaning. VC Data Model 2.0 sections 4.4 to 4.6 and 11.1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from credentials.errors import ModelInvalid
from credentials.limits import MODEL_OBJECTS_MAX

# An absolute URL or URN: a scheme, and nothing that RFC 3987 forbids everywhere.
_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:[^\x00-\x20\x7f-\xa0<>\"\\^`{|}]+\Z")
_LANGUAGE: Final = re.compile(r"[A-Za-z]{1,8}(-[A-Za-z0-9]{1,8}){0,15}\Z")
_TEXT_MEMBERS: Final = frozenset({"@value", "@language", "@direction"})


def is_url(value: object) -> bool:
    """Whether a value is text that begins with a scheme and has the characters of a URL."""
    return isinstance(value, str) and _URL.match(value) is not None


def read_id(parent: Mapping[str, Any], name: str) -> str | None:
    """Return the `id` of an object, a URL if there is one. Raises ModelInvalid naming `name`."""
    if "id" not in parent:
        return None
    value = parent["id"]
    if not isinstance(value, str) or _URL.match(value) is None:
        raise ModelInvalid(f"{name} is {value!r:.120}, not one URL")
    return value


def read_types(parent: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """Return the `type` of an object, one term or URL or several. Raises ModelInvalid."""
    value = parent.get("type")
    types = (value,) if isinstance(value, str) else value
    if not isinstance(types, list | tuple) or not types:
        raise ModelInvalid(f"{name} has no type")
    for each in types:
        if not isinstance(each, str) or not each or each.isspace():
            raise ModelInvalid(f"{name} has the type {each!r:.120}, neither a term nor a URL")
    return tuple(types)


def read_objects(value: object, name: str) -> tuple[Mapping[str, Any], ...]:
    """Return one object, or a list of them that is not empty. Raises ModelInvalid."""
    if isinstance(value, dict):
        return (value,)
    if not isinstance(value, list) or not value:
        raise ModelInvalid(f"{name} is neither an object nor a list of objects")
    if len(value) > MODEL_OBJECTS_MAX:
        raise ModelInvalid(f"{name} has {len(value)} objects; at most {MODEL_OBJECTS_MAX}")
    for each in value:
        if not isinstance(each, dict):
            raise ModelInvalid(f"{name} has {each!r:.80}, which is no object")
    return tuple(value)


def check_typed(value: object, name: str) -> None:
    """Check objects that need a type and may have an id. Raises ModelInvalid."""
    for each in read_objects(value, name):
        read_types(each, name)
        read_id(each, f"{name}.id")


def check_language(parent: Mapping[str, Any], prefix: str) -> None:
    """Check `name` and `description`: text, or language values. Raises ModelInvalid."""
    for name in ("name", "description"):
        if name in parent:
            value = parent[name]
            for each in value if isinstance(value, list) and value else [value]:
                _check_text(each, prefix + name)


def _check_text(value: object, name: str) -> None:
    if isinstance(value, str):
        return
    if not isinstance(value, dict) or not isinstance(value.get("@value"), str):
        raise ModelInvalid(f"{name} is neither text nor an object with @value and @language")
    extra = value.keys() - _TEXT_MEMBERS
    if extra:
        raise ModelInvalid(f"{name} has {min(extra)!r:.80} beside @value, @language, @direction")
    language = value.get("@language", "en")
    if not isinstance(language, str) or _LANGUAGE.match(language) is None:
        raise ModelInvalid(f"{name} has the @language {language!r:.80}, no language tag")
    if value.get("@direction", "ltr") not in ("ltr", "rtl"):
        raise ModelInvalid(f"{name} has a @direction that is neither ltr nor rtl")
