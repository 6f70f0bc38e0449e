"""How a verification is printed: a tree of what was checked, in colours on a terminal.

Decides nothing. Text of strangers is made one line without control characters.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TextIO

from kwaai.cli.output import is_terminal, one_line

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


@dataclass(frozen=True, slots=True)
class Branch:
    """A line of the tree and what hangs below it. `outcome` is the word that is coloured."""

    text: str
    outcome: str = ""
    children: Sequence[Branch] = field(default_factory=tuple)


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
    stream.write(_line(root, colours) + "\n")
    for line in _below(root.children, lines, "", colours):
        stream.write(line + "\n")


def _below(
    children: Sequence[Branch], lines: tuple[str, str, str, str], before: str, colours: bool
) -> Iterable[str]:
    for at, child in enumerate(children):
        last = at == len(children) - 1
        yield before + lines[1 if last else 0] + _line(child, colours)
        yield from _below(child.children, lines, before + lines[3 if last else 2], colours)


def _line(branch: Branch, colours: bool) -> str:
    text = one_line(branch.text)
    if len(text) > _TEXT_CHARS_MAX:
        text = text[: _TEXT_CHARS_MAX - 3] + "..."
    if not branch.outcome:
        return text
    colour = _COLOURS.get(branch.outcome, "") if colours else ""
    return f"{colour}{branch.outcome}{_PLAIN if colour else ''}  {text}"


def _can_print(stream: TextIO, text: str) -> bool:
    try:
        text.encode(stream.encoding or "ascii")
    except (LookupError, UnicodeEncodeError):
        return False
    return True
