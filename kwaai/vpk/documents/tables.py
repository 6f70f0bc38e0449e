"""CSV and JSON: a line for each row or value, with its name, so passages say what they hold."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from typing import Any

from kwaai.errors import DocumentInvalid
from kwaai.limits import DOCUMENT_CHARS_MAX, DOCUMENT_NESTING_MAX
from kwaai.vpk.documents.document import Document, Writer
from kwaai.vpk.documents.text import decode, load_text

_ROWS_PER_BLOCK = 1000
_DELIMITERS = ",;\t|"
_TITLES = ("title", "name")


def load_csv(data: bytes) -> Document:
    """Read a table: `column: value; column: value` for each row, or the values alone where the
    first row is no header. Commas, semicolons, tabs or bars.
    """
    text = decode(data)
    csv.field_size_limit(DOCUMENT_CHARS_MAX)
    writer = Writer()
    try:
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text))
        for block in _in_blocks(_row_lines(rows)):
            writer.add(block, "lines")
    except csv.Error as error:
        raise DocumentInvalid(f"it is not a table: {error}") from None
    return writer.finish("text/csv")


def load_json(data: bytes) -> Document:
    """Read JSON, or JSON lines: `name.name[0]: value` for each value. The names of a top-level
    object are headings; each element of a top-level array is a paragraph.
    """
    text = decode(data)
    try:
        return _json_document(_parsed(text))
    except (ValueError, RecursionError):
        pass
    try:
        rows = [_parsed(line) for line in text.split("\n") if line.strip()]
        return _json_document(rows)
    except (ValueError, RecursionError):
        return load_text(data)  # it may be worth finding all the same


def _delimiter(text: str) -> str:
    head = text[:4096].split("\n")[:10]
    scores = {
        mark: min((line.count(mark) for line in head if line), default=0) for mark in _DELIMITERS
    }
    return max(_DELIMITERS, key=lambda mark: scores[mark])


def _row_lines(rows: Iterable[list[str]]) -> Iterator[str]:
    names: list[str] = []
    for number, row in enumerate(rows):
        cells = [" ".join(cell.split()) for cell in row]
        if number == 0 and _is_header(cells):
            names = cells
            continue
        parts = [
            f"{names[at]}: {cell}" if at < len(names) else cell
            for at, cell in enumerate(cells)
            if cell
        ]
        if parts:
            yield "; ".join(parts)


def _is_header(cells: list[str]) -> bool:
    named = [cell for cell in cells if cell and not any(sign.isdigit() for sign in cell[:1])]
    return len(cells) > 1 and len(named) == len(cells) == len(set(named))


def _in_blocks(lines: Iterable[str]) -> Iterator[str]:
    block: list[str] = []
    for line in lines:
        block.append(line)
        if len(block) == _ROWS_PER_BLOCK:
            yield "\n".join(block)
            block = []
    if block:
        yield "\n".join(block)


def _parsed(text: str) -> Any:
    """Parse JSON, numbers as they are written."""
    return json.loads(text, parse_int=str, parse_float=str, parse_constant=str)


def _json_document(value: Any) -> Document:
    writer, title = Writer(), ""
    if isinstance(value, dict):
        title = next((value[name] for name in _TITLES if isinstance(value.get(name), str)), "")
        _add_members(writer, value)
    elif isinstance(value, list):
        for item in value:
            writer.add("\n".join(_values("", item, 0)), "lines")
    else:
        writer.add(_scalar(value))
    return writer.finish("application/json", title)


def _add_members(writer: Writer, value: dict[str, Any]) -> None:
    plain = {name: item for name, item in value.items() if not isinstance(item, dict | list)}
    writer.add("\n".join(_values("", plain, 0)), "lines")
    for name, item in value.items():
        if name not in plain:
            writer.enter(name, 1)
            writer.add("\n".join(_values(name, item, 0)), "lines")


def _values(name: str, value: Any, depth: int) -> Iterator[str]:
    """Yield a line for each value inside a value."""
    if depth >= DOCUMENT_NESTING_MAX and isinstance(value, dict | list):
        yield f"{name}: {json.dumps(value, ensure_ascii=False)}"
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _values(f"{name}.{key}" if name else key, item, depth + 1)
    elif isinstance(value, list):
        if all(not isinstance(item, dict | list) for item in value):
            text = ", ".join(map(_scalar, value))
            yield f"{name}: {text}" if name else text
            return
        for number, item in enumerate(value):
            yield from _values(f"{name}[{number}]", item, depth + 1)
    else:
        text = _scalar(value)
        yield f"{name}: {text}" if name else text


def _scalar(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return " ".join(str(value).split())
