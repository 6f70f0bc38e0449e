"""Which value of a setting wins, and where it came from: flag, environment, file, default.

Does not print or exit; every bad value is a ConfigError that names the place it stands in.
"""

from __future__ import annotations

import difflib
import enum
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from kwaai import atomic
from kwaai.config import file as config_file
from kwaai.config.model import KEYS, LIST_KEYS, Config, optional_keys, show_value
from kwaai.errors import ConfigError, UserError

ENVIRONMENT_PREFIX = "KWAAINET_"
_OTHER_VARIABLES = frozenset(
    {"HOME", "LOG_JSON", "DEBUG", "PASSPHRASE", "PASSPHRASE_FILE"}
    | {"OWNER_PASSPHRASE", "OWNER_PASSPHRASE_FILE"}
)


class Source(enum.StrEnum):
    """Where a setting's value came from; the first that has one wins."""

    FLAG = "flag"
    ENVIRONMENT = "environment"
    FILE = "file"
    DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Setting:
    """One key's value and its origin."""

    key: str
    value: object
    source: Source
    origin: str
    """The place, for people: `--model`, `KWAAINET_MODEL`, `config.yaml:7`, or ""."""

    @property
    def text(self) -> str:
        return show_value(self.key, self.value)


@dataclass(frozen=True, slots=True)
class LoadedConfig:
    """The settings in force, and how each came to be."""

    config: Config
    settings: tuple[Setting, ...]
    """One for each key, in the model's order."""
    unknown_variables: tuple[str, ...]
    """Names in the environment that look like ours and mean nothing."""

    def setting(self, key: str) -> Setting:
        return self.settings[KEYS.index(key)]


@dataclass(frozen=True, slots=True)
class Change:
    """What `set_value` did."""

    key: str
    before: str
    after: str
    source_before: Source


@dataclass(frozen=True, slots=True)
class _Raw:
    value: object
    source: Source
    origin: str


def load_config(
    path: Path,
    *,
    flags: Mapping[str, object] | None = None,
    environment: Mapping[str, str] | None = None,
) -> LoadedConfig:
    """Merge flags, environment, the file at `path` (which may not exist) and the defaults.

    `flags` maps keys to values; None means "not given". `environment`: by default the process's.
    Raises ConfigError for an unknown key or a bad value, naming its line or variable; UserError for
    a bad flag.
    """
    environment = os.environ if environment is None else environment
    raw = _from_text(config_file.load_text(path), path.name)
    raw |= _from_environment(environment)
    for key, value in (flags or {}).items():
        if value is not None:
            raw[key] = _Raw(value, Source.FLAG, f"--{key.replace('_', '-')}")
    config = _validate(raw)
    settings = tuple(_setting(key, config, raw.get(key)) for key in KEYS)
    return LoadedConfig(config, settings, _unknown_variables(environment))


def set_value(path: Path, key: str, text: str) -> Change:
    """Set one key in the file, atomically, keeping its other lines. Raises ConfigError."""
    if key not in KEYS:
        raise ConfigError(unknown_key(key), param=key)
    with atomic.exclusive_lock(path.with_name(f".{path.name}.lock")):
        content = config_file.load_text(path)
        try:
            before = _setting(key, _validate(old := _from_text(content, path.name)), old.get(key))
        except ConfigError:  # the value that is there may be what the user is repairing
            before = Setting(key, "(invalid)", Source.FILE, "")
        value = _validate({key: _Raw(text, Source.FLAG, key)}).__dict__[key]
        stored = None if value is None else show_value(key, value)
        content = config_file.replace_value(content, path.name, key, stored, LIST_KEYS)
        _validate(_from_text(content, path.name))
        atomic.write_atomic(path.resolve(), content.encode("utf-8"))
    return Change(key, before.text, show_value(key, value), before.source)


def unknown_key(key: str) -> str:
    """Return the message for a key that does not exist, with the closest that does."""
    close = difflib.get_close_matches(key.lower(), KEYS, n=1)
    if close:
        return f"unknown key {key!r} - did you mean {close[0]!r}?"
    alike = [known for known in KEYS if known.split("_")[0] in key.lower().split("_")]
    if alike:
        return f"unknown key {key!r} - did you mean {' or '.join(alike)}?"
    return f"unknown key {key!r}; the keys are {', '.join(KEYS)}"


def _from_text(text: str, name: str) -> dict[str, _Raw]:
    raw: dict[str, _Raw] = {}
    for key, entry in config_file.parse_entries(text, name, LIST_KEYS).items():
        origin = f"{name}:{entry.line}"
        if key not in KEYS:
            raise ConfigError(f"{origin}: {unknown_key(key)}", param=key)
        if entry.text is None and key not in optional_keys():
            raise ConfigError(f"{origin}: {key} needs a value (or delete the line)", param=key)
        raw[key] = _Raw(entry.text, Source.FILE, origin)
    return raw


def _from_environment(environment: Mapping[str, str]) -> dict[str, _Raw]:
    names = {key: f"{ENVIRONMENT_PREFIX}{key.upper()}" for key in KEYS}
    return {
        key: _Raw(environment[name], Source.ENVIRONMENT, name)
        for key, name in names.items()
        if environment.get(name)
    }


def _unknown_variables(environment: Mapping[str, str]) -> tuple[str, ...]:
    known = {key.upper() for key in KEYS} | _OTHER_VARIABLES
    ours = (name for name in environment if name.startswith(ENVIRONMENT_PREFIX))
    return tuple(sorted(n for n in ours if n.removeprefix(ENVIRONMENT_PREFIX) not in known))


def _validate(raw: Mapping[str, _Raw]) -> Config:
    try:
        return Config.model_validate({key: item.value for key, item in raw.items()})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = str(first["loc"][0])
        item = raw[key]
        where = item.origin if item.source is Source.FLAG else f"{item.origin}: {key}"
        message = f"{where}: {_reason(first)}, not {str(item.value)!r:.100}"
        if item.origin.startswith("--"):  # the command line is at fault, no file
            raise UserError(message, param=key) from error
        raise ConfigError(message, param=key) from error


def _reason(details: ErrorDetails) -> str:
    """Word pydantic's complaint for people who set a setting."""
    limits = details.get("ctx", {})
    match details["type"]:
        case "greater_than_equal":
            return f"must be at least {limits['ge']}"
        case "less_than_equal":
            return f"must be at most {limits['le']}"
        case "too_long" | "string_too_long":
            units = "entries" if limits.get("field_type") == "Tuple" else "characters"
            return f"must have at most {limits['max_length']} {units}"
        case "too_short" | "string_too_short":
            return "must not be empty"
        case "bool_parsing" | "bool_type":
            return "must be true or false"
    reason = details["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return f"{reason[0].lower()}{reason[1:]}"


def _setting(key: str, config: Config, raw: _Raw | None) -> Setting:
    value = config.__dict__[key]
    if raw is None:
        return Setting(key, value, Source.DEFAULT, "")
    return Setting(key, value, raw.source, raw.origin)
