"""How a verification is printed: a tree of what was checked, in colours on a terminal.

Decides nothing. Text of strangers is made one line without control characters. On a terminal a line
is as long as that is wide: the DIDs in what was checked are shortened, the rest is folded below its
own branch. Elsewhere nothing is shortened or folded.
"""

from __future__ import annotations

import os
import re
import sys
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TextIO

from kwaai.cli.output import is_terminal, one_line
from kwaai.cli.table import terminal_width

if TYPE_CHECKING:
    from credentials.verified import Step

_COLOURS = {
    **dict.fromkeys(("passed", "valid"), "\x1b[32m"),
    **dict.fromkeys(("failed", "not valid"), "\x1b[31m"),
    "unknown": "\x1b[33m",
    "skipped": "\x1b[2m",
}
_PLAIN = "\x1b[0m"
_LINES = ("├─ ", "└─ ", "│  ", "   ")
_LINES_ASCII = ("|- ", "`- ", "|  ", "   ")
_TEXT_CHARS_MAX = 400
_DID = re.compile(r"did:[a-z0-9]+:[\w.:%-]*\w(?:#[\w.:%-]*\w)?")
_DID_ENDS_CHARS = (16, 8)
_FOLDED_CHARS_MIN = 24


@dataclass(frozen=True, slots=True)
class Branch:
    """A line of the tree and what hangs below it. `outcome` is what is coloured."""

    text: str
    outcome: str = ""
    children: Sequence[Branch] = field(default_factory=tuple)
    style: str = ""
    """The outcome whose colour it has, where that is not its own word."""
    shortens: bool = False
    """Its DIDs may be shortened: they stand in full elsewhere."""


def step_branches(steps: Iterable[Step]) -> list[Branch]:
    """Return the steps of a verification as lines."""
    lines = []
    for step in steps:
        detail = f": {step.detail}" if step.detail else ""
        lines.append(Branch(f"{step.number} {step.name}{detail}", step.outcome))
    return lines


def print_tree(root: Branch, *, stream: TextIO | None = None) -> None:
    """Print a tree, its root first."""
    stream = sys.stdout if stream is None else stream
    colours = is_terminal(stream) and not os.environ.get("NO_COLOR")
    lines = _LINES if _can_print(stream, "".join(_LINES)) else _LINES_ASCII
    width = terminal_width(stream) if is_terminal(stream) else None
    for line in _folded(root, width, colours):
        stream.write(line + "\n")
    for line in _below(root.children, lines, "", width, colours):
        stream.write(line + "\n")


def _below(
    children: Sequence[Branch],
    lines: tuple[str, str, str, str],
    before: str,
    width: int | None,
    colours: bool,
) -> Iterable[str]:
    for at, child in enumerate(children):
        last = at == len(children) - 1
        below = before + lines[3 if last else 2]
        room = None if width is None else width - len(below)
        first, *rest = _folded(child, room, colours)
        yield before + lines[1 if last else 0] + first
        for line in rest:  # the line to its children goes past it
            yield below + (lines[2] + line[len(lines[2]) :] if child.children else line)
        yield from _below(child.children, lines, below, width, colours)


def _folded(branch: Branch, width: int | None, colours: bool) -> list[str]:
    """Return a branch as lines of at most `width` characters, None for one line."""
    text = one_line(branch.text)
    if len(text) > _TEXT_CHARS_MAX:
        text = text[: _TEXT_CHARS_MAX - 3] + "..."
    mark = f"{branch.outcome}  " if branch.outcome else ""
    hanging = len(mark) or len(_LINES[0])
    parts = [text]
    if width is not None:  # the DIDs of a step stand in full further up
        shortens = branch.shortens or text[:1].isdecimal()
        parts = _fitted(text, width - len(mark), width - hanging, shortens=shortens)
    colour = _COLOURS.get(branch.style or branch.outcome, "") if colours else ""
    shown = f"{colour}{branch.outcome}{_PLAIN}  " if colour else mark
    return [shown + parts[0], *(" " * hanging + part for part in parts[1:])]


def _fitted(text: str, width: int, folded_width: int, *, shortens: bool) -> list[str]:
    """Return a text as one line, if need be with its DIDs shortened, or as several."""
    if len(text) > width and shortens:
        text = _DID.sub(lambda found: short_did(found[0]), text)
    if len(text) <= width:
        return [text]
    return textwrap.wrap(text, max(folded_width, _FOLDED_CHARS_MIN), break_on_hyphens=False)


def short_did(text: str) -> str:
    """Return the beginning and the end of a DID, without the fragment of a DID URL."""
    did = text.partition("#")[0]
    begin, end = _DID_ENDS_CHARS
    return did if len(did) <= begin + end + 1 else f"{did[:begin]}…{did[-end:]}"


def _can_print(stream: TextIO, text: str) -> bool:
    try:
        text.encode(stream.encoding or "ascii")
    except (LookupError, UnicodeEncodeError):
        return False
    return True
