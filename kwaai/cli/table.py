"""Tables on a terminal: as wide as it is, and never a number or a name cut in two.

What does not fit is tried in turn: long ids by their end, long text folded at its spaces, and one
block of lines for each row. `kwaai.cli.output` prints the tables that no terminal reads.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from typing import TextIO

_GAP = "  "
_ID_CHARS = 8
_FOLDED_CHARS_MIN = 12
_WIDTH_DEFAULT = 80

Rows = Sequence[Sequence[str]]


def print_on_terminal(
    columns: Sequence[str], rows: Rows, right: Sequence[str], ids: Sequence[str], stream: TextIO
) -> None:
    """Print rows under headings. `right`: columns of numbers. `ids`: columns of peer ids, which are
    told apart by their end.
    """
    for line in lines(columns, rows, right, ids, terminal_width(stream), _bold()):
        stream.write(line + "\n")


def lines(
    columns: Sequence[str],
    rows: Rows,
    right: Sequence[str],
    ids: Sequence[str],
    width: int,
    bold: tuple[str, str] = ("", ""),
) -> list[str]:
    """Return the lines of a table that is at most `width` wide, if any table can be."""
    short = [
        [short_id(cell) if name in ids else cell for name, cell in zip(columns, row, strict=True)]
        for row in rows
    ]
    for shown in (rows, short):
        widths = _natural(columns, shown)
        if _total(widths) <= width:
            return _table(columns, shown, right, widths, bold)
    widths = _natural(columns, short)
    least = [
        min(natural, max(len(name), _FOLDED_CHARS_MIN, _longest_word(short, at)))
        if name not in right and name not in ids
        else natural
        for at, (name, natural) in enumerate(zip(columns, widths, strict=True))
    ]
    if _total(least) <= width:
        return _table(columns, short, right, _shrunk(widths, least, width), bold)
    return _blocks(columns, rows, bold)


def short_id(text: str) -> str:
    """Return the end of a peer id, which `kwaainet p2p ping` takes for the whole."""
    return text if len(text) <= 2 * _ID_CHARS else "…" + text[-_ID_CHARS:]


def terminal_width(stream: TextIO) -> int:
    """Return how many characters a line of the terminal has."""
    told = os.environ.get("COLUMNS", "")
    if told.isdecimal() and int(told) > 0:
        return int(told)
    try:
        return os.get_terminal_size(stream.fileno()).columns or _WIDTH_DEFAULT
    except (OSError, ValueError):
        return _WIDTH_DEFAULT


def _bold() -> tuple[str, str]:
    return ("", "") if os.environ.get("NO_COLOR") else ("\x1b[1m", "\x1b[0m")


def _cells(text: str) -> int:
    """How wide a text is: letters of some scripts take two columns."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def _natural(columns: Sequence[str], rows: Rows) -> list[int]:
    return [max(map(_cells, (name, *(row[at] for row in rows)))) for at, name in enumerate(columns)]


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(_GAP) * (len(widths) - 1)


def _longest_word(rows: Rows, at: int) -> int:
    return max((_cells(word) for row in rows for word in row[at].split()), default=0)


def _shrunk(widths: Sequence[int], least: Sequence[int], width: int) -> list[int]:
    """Take from the widest column that may be folded, until all fit."""
    widths = list(widths)
    while _total(widths) > width:
        at = max(range(len(widths)), key=lambda i: (widths[i] > least[i], widths[i]))
        widths[at] -= 1
    return widths


def _table(
    columns: Sequence[str],
    rows: Rows,
    right: Sequence[str],
    widths: Sequence[int],
    bold: tuple[str, str],
) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        padded = (
            " " * (width - _cells(cell)) + cell
            if name in right
            else cell + " " * (width - _cells(cell))
            for name, cell, width in zip(columns, cells, widths, strict=True)
        )
        return _GAP.join(padded).rstrip()

    shown = [bold[0] + line(columns) + bold[1]]
    for row in rows:
        folded = [_folded(cell, width) for cell, width in zip(row, widths, strict=True)]
        for at in range(max(map(len, folded))):
            shown.append(line([part[at] if at < len(part) else "" for part in folded]))
    return shown


def _folded(text: str, width: int) -> list[str]:
    if _cells(text) <= width:
        return [text]
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]


def _blocks(columns: Sequence[str], rows: Rows, bold: tuple[str, str]) -> list[str]:
    """One row after the other, a line for each column that says something."""
    width = max(map(_cells, columns)) + 1
    shown: list[str] = []
    for row in rows:
        if shown:
            shown.append("")
        for at, (name, cell) in enumerate(zip(columns, row, strict=True)):
            if at and cell in ("", "-"):
                continue
            label = f"{name}:{' ' * (width - _cells(name) - 1)}"
            shown.append(f"{bold[0]}{label}{bold[1]}{_GAP}{cell}")
    return shown
