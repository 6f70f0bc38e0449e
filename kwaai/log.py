"""Structured events: `log.info("slice_loaded", layers="[0,4)", load_ms=12.5)`.

Writes lines for people, or JSON lines with KWAAINET_LOG_JSON=1, to standard error. Does not rotate
files and takes no free text: an event is a `noun_verb` and fields whose names carry their units. An
event that comes too often is left out, and counted by the next line of it.
Never log prompts, answers, vectors, credentials or keys; fields named like one are not written.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable
from io import TextIOBase
from typing import Final, TextIO

from kwaai import limits

LEVELS: Final = ("debug", "info", "warning", "error")
JSON_VARIABLE = "KWAAINET_LOG_JSON"
REDACTED = "<redacted>"

_ROOT = "kwaai"
_FIELDS = "kwaai_fields"
_SECRET_NAMES = frozenset(
    {"answer", "authorization", "content", "credential", "key", "message", "messages"}
    | {"password", "prompt", "secret", "seed", "text", "token", "vector"}
)
_SECRET_ENDINGS = ("_key", "_token", "_secret", "_password", "_prompt", "_answer", "_seed")


class Budget:
    """How many lines of one event may be written: others cause many events, and must not be able to
    push everything else out of the log. `clock`: monotonic seconds.
    """

    __slots__ = ("_at_s", "_clock", "_left", "left_out")

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._left, self._at_s = limits.LOG_EVENTS_BURST, clock()
        self.left_out = 0
        """Lines since the last that was written."""

    def take(self) -> bool:
        """Say whether one more line may be written."""
        now_s = self._clock()
        earned = max(0.0, now_s - self._at_s) * limits.LOG_EVENTS_PER_S
        self._left, self._at_s = min(limits.LOG_EVENTS_BURST, self._left + earned), now_s
        if self._left < 1:
            self.left_out += 1
            return False
        self._left -= 1
        return True


class Logger:
    """Events of one module."""

    __slots__ = ("_budgets", "_logger")

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)
        self._budgets: dict[str, Budget] = {}

    def debug(self, event: str, **fields: object) -> None:
        self._emit(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: object) -> None:
        self._emit(logging.INFO, event, fields)

    def warning(self, event: str, **fields: object) -> None:
        self._emit(logging.WARNING, event, fields)

    def error(self, event: str, **fields: object) -> None:
        self._emit(logging.ERROR, event, fields)

    def exception(self, event: str, **fields: object) -> None:
        """Log an error with the traceback of the exception that is being handled."""
        self._emit(logging.ERROR, event, fields, with_traceback=True)

    def _emit(
        self, level: int, event: str, fields: dict[str, object], *, with_traceback: bool = False
    ) -> None:
        if self._logger.isEnabledFor(level):
            budget = self._budgets.get(event)
            if budget is None:
                budget = self._budgets[event] = Budget()
            if not budget.take():
                return
            if budget.left_out:
                fields, budget.left_out = fields | {"left_out": budget.left_out}, 0
            safe = {name: _safe(name, value) for name, value in fields.items()}
            self._logger.log(level, "%s", event, extra={_FIELDS: safe}, exc_info=with_traceback)


def get_logger(name: str) -> Logger:
    """Return the logger of a module; pass `__name__`."""
    return Logger(name)


def configure_logging(
    level: str = "warning",
    *,
    as_json: bool | None = None,
    stream: TextIO | TextIOBase | None = None,
    file: TextIO | TextIOBase | None = None,
) -> None:
    """Send events of `level` and above to `stream` (standard error). Replaces an earlier choice.

    `level` is one of LEVELS. `as_json`: None asks KWAAINET_LOG_JSON. `file`: gets the events of
    `info` and above too, whatever `level` is. Libraries' own messages appear from warning up.
    """
    if as_json is None:
        as_json = os.environ.get(JSON_VARIABLE, "").lower() in ("1", "true", "yes", "on")
    number = logging.getLevelNamesMapping()[level.upper()]
    handlers: list[tuple[logging.Handler, int]] = [
        (logging.StreamHandler(sys.stderr if stream is None else stream), number)
    ]
    if file is not None:
        handlers.append((logging.StreamHandler(file), min(number, logging.INFO)))
    root = logging.getLogger()
    for old in [h for h in root.handlers if getattr(h, "is_kwaai", False)]:
        root.removeHandler(old)
    for handler, least in handlers:
        handler.setFormatter(JsonFormatter() if as_json else TextFormatter())
        handler.setLevel(least)
        handler.is_kwaai = True  # type: ignore[attr-defined]
        root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger(_ROOT).setLevel(min(least for _, least in handlers))


class TextFormatter(logging.Formatter):
    """`2026-01-02T03:04:05Z WARNING kwaai.models.hub download_resumed offset_bytes=1024`"""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, object] = getattr(record, _FIELDS, {})
        line = f"{_time(record)} {record.levelname} {record.name} {_one_line(record.getMessage())}"
        line += "".join(f" {name}={_text(value)}" for name, value in fields.items())
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """One JSON object on a line: time, level, logger, event, and the fields."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, object] = getattr(record, _FIELDS, {})
        entry: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        entry |= {f"field_{name}" if name in entry else name: v for name, v in fields.items()}
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=True, default=str)


def _time(record: logging.LogRecord) -> str:
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{seconds}.{int(record.msecs):03d}Z"


def _safe(name: str, value: object) -> object:
    if name in _SECRET_NAMES or name.endswith(_SECRET_ENDINGS):
        return REDACTED
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, (list, tuple)):
        return [_safe("", item) for item in value[:64]]
    text = str(value)
    return (
        text
        if len(text) <= limits.LOG_VALUE_CHARS_MAX
        else text[: limits.LOG_VALUE_CHARS_MAX] + "..."
    )


def _text(value: object) -> str:
    if isinstance(value, str):
        plain = value.isprintable() and value and not any(c in value for c in ' "=')
        return value if plain else json.dumps(value)
    return json.dumps(value, default=str)


def _one_line(text: str) -> str:
    return text if text.isprintable() else json.dumps(text)
