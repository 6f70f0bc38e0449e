"""OpenAI parameters that this server does not implement, and the values of them that change
nothing.

A parameter with a neutral value is dropped silently; any other value is refused by name, never
ignored. `null` always counts as not given. Parameters in no table are unknown, and refused by
`kwaai.api.bodies`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from kwaai import limits
from kwaai.errors import UserError

Rule: TypeAlias = tuple[Callable[[Any, Mapping[str, Any]], bool], str]
"""Whether a value is neutral, given the whole body; and what to say if it is not."""


def _is(*neutral: Any) -> Callable[[Any, Mapping[str, Any]], bool]:
    def check(value: Any, body: Mapping[str, Any]) -> bool:
        return any(type(value) is type(item) and value == item for item in neutral)

    return check


def _is_label(value: Any, body: Mapping[str, Any]) -> bool:
    return isinstance(value, str) and len(value) <= limits.LABEL_CHARS_MAX


def _is_metadata(value: Any, body: Mapping[str, Any]) -> bool:
    return (
        isinstance(value, dict)
        and len(value) <= limits.METADATA_PAIRS_MAX
        and all(_is_label(key, body) and _is_label(item, body) for key, item in value.items())
    )


def _is_bool(value: Any, body: Mapping[str, Any]) -> bool:
    return isinstance(value, bool)


def _is_unused_tools(choice: str) -> Callable[[Any, Mapping[str, Any]], bool]:
    def check(value: Any, body: Mapping[str, Any]) -> bool:
        return value == [] or (isinstance(value, list) and body.get(choice) == "none")

    return check


def _is_choice_without(tools: str) -> Callable[[Any, Mapping[str, Any]], bool]:
    def check(value: Any, body: Mapping[str, Any]) -> bool:
        return value == "none" or (value == "auto" and not body.get(tools))

    return check


def _is_n(value: Any, body: Mapping[str, Any]) -> bool:
    n = body.get("n")
    return type(value) is int and value == (1 if n is None else n)


_LABEL = f"a label of at most {limits.LABEL_CHARS_MAX} characters is accepted, and not used"
_COMMON: dict[str, Rule] = {
    "user": (_is_label, _LABEL),
    "safety_identifier": (_is_label, _LABEL),
    "prompt_cache_key": (_is_label, _LABEL),
    "metadata": (
        _is_metadata,
        f"at most {limits.METADATA_PAIRS_MAX} pairs of short strings are accepted, and not used",
    ),
    "store": (_is(False), "answers are not stored; leave it out or send false"),
    "service_tier": (_is("auto", "default"), "there is one tier; leave it out"),
}

CHAT: dict[str, Rule] = {
    **_COMMON,
    "tools": (
        _is_unused_tools("tool_choice"),
        "tool calls are not supported; leave it out or set tool_choice to 'none'",
    ),
    "tool_choice": (_is_choice_without("tools"), "tool calls are not supported; use 'none'"),
    "parallel_tool_calls": (_is_bool, "must be true or false"),
    "functions": (
        _is_unused_tools("function_call"),
        "function calls are not supported; leave it out",
    ),
    "function_call": (
        _is_choice_without("functions"),
        "function calls are not supported; use 'none'",
    ),
    "response_format": (
        _is({"type": "text"}),
        'constrained output is not supported; only {"type": "text"} is',
    ),
    "modalities": (_is(["text"]), 'only ["text"] is supported'),
    "audio": (_is(), "audio is not supported; leave it out"),
    "prediction": (_is(), "predicted output is not supported; leave it out"),
    "reasoning_effort": (_is(), "reasoning effort cannot be set; leave it out"),
    "verbosity": (_is("medium"), "verbosity cannot be set; leave it out"),
    "web_search_options": (_is(), "web search is not supported; leave it out"),
    "moderation": (_is(), "moderation is not supported; leave it out"),
    "prompt_cache_retention": (_is(), "caching cannot be set; leave it out"),
}

COMPLETION: dict[str, Rule] = {
    **_COMMON,
    "echo": (_is(False), "echoing the prompt is not supported; leave it out or send false"),
    "suffix": (_is(""), "text after the completion is not supported; leave it out"),
    "best_of": (_is_n, "ranking more completions than are returned is not supported; leave it out"),
}

EMBEDDING: dict[str, Rule] = {"user": (_is_label, _LABEL)}

MESSAGE: dict[str, Rule] = {
    "name": (_is(""), "names of participants are not supported; leave it out"),
    "tool_calls": (_is([]), "tool calls are not supported; leave it out"),
    "tool_call_id": (_is(""), "tool results are not supported; leave it out"),
    "function_call": (_is(), "function calls are not supported; leave it out"),
    "audio": (_is(), "audio is not supported; leave it out"),
    "refusal": (_is(""), "refusals cannot be sent back; put the text into content"),
    "annotations": (_is([]), "annotations are not supported; leave it out"),
    "reasoning_content": (_is(""), "reasoning cannot be sent back; leave it out"),
}

STREAM_OPTIONS: dict[str, Rule] = {
    "include_obfuscation": (_is(False), "chunks are not padded; leave it out or send false"),
}


def drop_neutral(
    fields: Mapping[str, Any], rules: Mapping[str, Rule], where: str = ""
) -> dict[str, Any]:
    """Return `fields` without nulls and neutral parameters.

    Raises UserError naming the first parameter of `rules` that would change the result; `where`
    goes before its name.
    """
    kept = {}
    for name, value in fields.items():
        rule = rules.get(name)
        if rule is None:
            if value is not None:
                kept[name] = value
        elif value is not None and not rule[0](value, fields):
            param = where + name
            raise UserError(f"'{param}' with this value is not supported: {rule[1]}", param=param)
    return kept
