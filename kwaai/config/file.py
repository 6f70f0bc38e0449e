"""`config.yaml` as text: reading its keys with their lines, and changing one line of it.

Does not know which keys exist or what they mean (`kwaai.config.model`). The file is one mapping of
names to single values, or to flat lists of them, so it is read from YAML's events: no aliases,
tags, nesting or objects.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from kwaai import limits
from kwaai.errors import ConfigError

_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_PLAIN = re.compile(r"[A-Za-z0-9_./~][A-Za-z0-9_./:@+~-]*\Z")
_CORE_TAGS = frozenset(
    f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null")
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One `key: value` of the file."""

    text: str | None
    """The value's text, unquoted, a list's with commas between them; None for YAML's null."""
    line: int
    """1-based."""
    start: int
    """The value's place in the file's text, in characters: `start <= i < stop`."""
    stop: int
    is_block: bool
    """Whether it is written as a block scalar (`|` or `>`), which ends with its line."""


def load_text(path: Path) -> str:
    """Return the file's text, or "" where there is none. Raises ConfigError."""
    try:
        with open(path, "rb") as file:
            data = file.read(limits.CONFIG_BYTES_MAX + 1)
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from error
    if len(data) > limits.CONFIG_BYTES_MAX:
        raise ConfigError(f"{path} is no config.yaml: it is over {limits.CONFIG_BYTES_MAX} bytes")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path.name}:{line}: not UTF-8 text") from error


def parse_entries(text: str, name: str, lists: frozenset[str] = frozenset()) -> dict[str, Entry]:
    """Parse a config.yaml; `name` is what messages call it, `lists` the keys that may have a list.

    Raises ConfigError naming the line.
    """
    try:
        return _entries(text, name, lists)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise ConfigError(f"{name}:{line}: not valid YAML: {error.problem or error}") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(f"{name}:{line}: a character that YAML does not allow") from error


def _entries(text: str, name: str, lists: frozenset[str]) -> dict[str, Entry]:
    events = (e for e in yaml.parse(text, Loader=yaml.SafeLoader) if not isinstance(e, _FRAME))
    entries: dict[str, Entry] = {}
    first = next(events, None)
    if first is None or (isinstance(first, yaml.ScalarEvent) and first.value == ""):
        _expect_end(events, name)
        return entries
    if not isinstance(first, yaml.MappingStartEvent) or first.anchor or first.tag:
        raise _refuse(name, first, "expected lines of the form `key: value`")
    for key in events:
        if isinstance(key, yaml.MappingEndEvent):
            break
        key_text = _scalar(key, name, "a key must be a plain word")
        if key_text in entries:
            before = entries[key_text].line
            raise _refuse(name, key, f"{key_text!r} is set twice (first on line {before})")
        value = next(events)
        if isinstance(value, yaml.SequenceStartEvent) and key_text in lists:
            entries[key_text] = _list_entry(events, value, key, name)
            continue
        value_text = _scalar(value, name, f"{key_text!r} takes one plain value")
        assert isinstance(value, yaml.ScalarEvent)
        start, stop = _span(value)
        is_null = value.style is None and value_text in _NULLS
        entries[key_text] = Entry(
            text=None if is_null else value_text,
            line=_line(key),
            start=start,
            stop=stop,
            is_block=value.style in ("|", ">"),
        )
    _expect_end(events, name)
    return entries


def _list_entry(
    events: Iterator[yaml.Event], first: yaml.SequenceStartEvent, key: yaml.Event, name: str
) -> Entry:
    if first.anchor:
        raise _refuse(name, first, "anchors (&name) are not allowed")
    if first.tag:
        raise _refuse(name, first, f"tags ({first.tag}) are not allowed")
    items: list[str] = []
    start, stop = _span(first)
    for item in events:
        if isinstance(item, yaml.SequenceEndEvent):
            stop = _span(item)[1] if first.flow_style else stop
            break
        text = _scalar(item, name, "a list takes plain values")
        if not text or "," in text:
            raise _refuse(name, item, "a value in a list must not be empty or hold a comma")
        items.append(text)
        stop = _span(item)[1]
    return Entry(",".join(items), _line(key), start, stop, is_block=False)


_FRAME = (
    yaml.StreamStartEvent,
    yaml.StreamEndEvent,
    yaml.DocumentStartEvent,
    yaml.DocumentEndEvent,
)


def _scalar(event: yaml.Event, name: str, message: str) -> str:
    if isinstance(event, yaml.AliasEvent):
        raise _refuse(name, event, "aliases (*name) are not allowed")
    if not isinstance(event, yaml.ScalarEvent):
        raise _refuse(name, event, f"{message}, not a list or mapping")
    if event.anchor:
        raise _refuse(name, event, "anchors (&name) are not allowed")
    if event.tag and event.tag != "!" and event.tag not in _CORE_TAGS:
        raise _refuse(name, event, f"tags ({event.tag}) are not allowed")
    return str(event.value)


def _expect_end(events: Iterator[yaml.Event], name: str) -> None:
    extra = next(events, None)
    if extra is not None:
        raise _refuse(name, extra, "a second YAML document; one is expected")


def _refuse(name: str, event: yaml.Event, message: str) -> ConfigError:
    return ConfigError(f"{name}:{_line(event)}: {message}")


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 1


def _span(event: yaml.Event) -> tuple[int, int]:
    if event.start_mark is None or event.end_mark is None:
        raise AssertionError("the parser marks every value")
    return event.start_mark.index, event.end_mark.index


def replace_value(
    text: str, name: str, key: str, value: str | None, lists: frozenset[str] = frozenset()
) -> str:
    """Return the file's text with `key` set to `value` (None: null), other lines as they were.

    A key that is not in the file takes the place of the template's line `#key: ...`, or comes last.
    Raises ConfigError where the text is invalid, or written so that no line can be changed alone.
    """
    before = parse_entries(text, name, lists)
    written = _encode_scalar(value)
    entry = before.get(key)
    after = _with_entry(text, entry, written) if entry else _with_new_line(text, key, written)
    try:
        entries = parse_entries(after, name, lists)
    except ConfigError:
        entries = {}
    wanted = {k: e.text for k, e in before.items()} | {key: value}
    if {k: e.text for k, e in entries.items()} != wanted:
        raise ConfigError(
            f"{name} is written in a form in which {key!r} cannot be changed alone; "
            f"edit it by hand: {key}: {written}"
        )
    return after


def _with_entry(text: str, entry: Entry, written: str) -> str:
    glue = "" if text[entry.start - 1 : entry.start].isspace() else " "
    end = "\n" if entry.is_block else ""
    return f"{text[: entry.start]}{glue}{written}{end}{text[entry.stop :]}"


def _with_new_line(text: str, key: str, written: str) -> str:
    commented = re.compile(rf"^# ?{re.escape(key)}:.*$", re.MULTILINE)
    found = commented.search(text)
    if found:
        return f"{text[: found.start()]}{key}: {written}{text[found.end() :]}"
    newline = "" if not text or text.endswith("\n") else "\n"
    return f"{text}{newline}{key}: {written}\n"


def _encode_scalar(value: str | None) -> str:
    if value is None:
        return "null"
    if _PLAIN.match(value) and value not in _NULLS and not value.endswith(":"):
        return value
    return json.dumps(value, ensure_ascii=False)
