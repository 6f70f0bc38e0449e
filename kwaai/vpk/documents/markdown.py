"""Markdown and reStructuredText: headings, paragraphs, lists, code. The text is the file's own.

Scanners of lines, not full parsers: nothing is rendered, included or fetched. Markup stays in the
text, as people wrote it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TypeAlias

from kwaai.limits import DOCUMENT_HEADINGS_DEEP_MAX
from kwaai.vpk.documents.document import (
    Block,
    BlockKind,
    Document,
    document_of,
    heading_text,
)
from kwaai.vpk.documents.text import decode

_ATX = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*\Z")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_SETEXT = re.compile(r" {0,3}(=+|-+)[ \t]*\Z")
_TABLE = re.compile(r"[ \t]*\|")
_LINK = re.compile(r"!?\[([^\[\]]{0,500})\](?:\([^()\s]{0,500}\)|\[[^\[\]]{0,100}\])")
_EMPHASIS = re.compile(r"(\*\*|__|\*|`+)(?=\S)(.{1,300}?)(?<=\S)\1")
_ADORNMENT = re.compile(r"([!-/:-@\[-`{-~])\1{2,}[ \t]*\Z")
_DIRECTIVE = re.compile(r"\.\. (?!\[|_)")

_HEADING_LINE_CHARS_MAX = 1000
"""The pattern goes back and forth over white space."""

Line: TypeAlias = tuple[int, int, str]
"""Start and stop in the text, and the line without its end."""


def load_markdown(data: bytes) -> Document:
    """Read Markdown: ATX and setext headings, fenced code and tables as lines, front matter left
    out. The first heading is its title.
    """
    text = decode(data).replace("\f", " ")
    scan = _Scan(text)
    lines = list(_lines(text))
    at = _front_matter(lines)
    while at < len(lines):
        at = _markdown_step(scan, lines, at)
    return scan.document("text/markdown")


def load_rst(data: bytes) -> Document:
    """Read reStructuredText: sections by their adornments, in the order in which these appear;
    literal blocks, tables and directives as lines.
    """
    text = decode(data).replace("\f", " ")
    scan = _Scan(text)
    lines = list(_lines(text))
    levels: list[str] = []
    at = 0
    while at < len(lines):
        at = _rst_step(scan, lines, at, levels)
    return scan.document("text/x-rst")


class _Scan:
    """Blocks as they are found, and the headings that the next one stands under."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.blocks: list[Block] = []
        self.headings: list[tuple[int, str]] = []
        self.title = ""
        self._open: tuple[int, BlockKind] | None = None

    def heading(self, start: int, stop: int, name: str, level: int) -> None:
        self.end(start)
        self.headings = [(of, above) for of, above in self.headings if of < level]
        if kept := heading_text(name):
            self.headings.append((level, kept))
            del self.headings[:-DOCUMENT_HEADINGS_DEEP_MAX]
            self.title = self.title or kept
            self.blocks.append(Block("heading", start, stop, self._path()))

    def begin(self, start: int, kind: BlockKind) -> None:
        """Begin a block, unless one of that kind is open."""
        if self._open is None or self._open[1] != kind:
            self.end(start)
            self._open = (start, kind)

    def end(self, stop: int) -> None:
        """End the block that is open, if any."""
        if self._open is not None:
            start, kind = self._open
            self.blocks.append(Block(kind, start, stop, self._path()))
            self._open = None

    def document(self, media_type: str) -> Document:
        self.end(len(self.text))
        return document_of(self.text, self.blocks, media_type, self.title)

    def _path(self) -> tuple[str, ...]:
        return tuple(name for _, name in self.headings)


def _lines(text: str) -> Iterator[Line]:
    start = 0
    for line in text.split("\n"):
        yield start, start + len(line), line
        start += len(line) + 1


def _front_matter(lines: list[Line]) -> int:
    """Return the line after the front matter (YAML between two lines of ---), 0 without."""
    if lines[0][2].rstrip() == "---":
        for at, (_, _, line) in enumerate(lines[1:100], 1):
            if line.rstrip() in ("---", "..."):
                return at + 1
    return 0


def _markdown_step(scan: _Scan, lines: list[Line], at: int) -> int:
    """Read the line or the fenced block at `at`; return where to go on."""
    start, stop, line = lines[at]
    if not line.strip():
        scan.end(start)
        return at + 1
    if fence := _FENCE.match(line):
        return _fenced(scan, lines, at, fence[1])
    if len(line) <= _HEADING_LINE_CHARS_MAX and (atx := _ATX.match(line)):
        scan.heading(start, stop, _plain(atx[2] or ""), len(atx[1]))
        return at + 1
    if (below := _line_below(lines, at)) and (setext := _SETEXT.match(below)):
        is_first = at == 0 or not lines[at - 1][2].strip()
        if is_first and not line.lstrip().startswith(("-", "*", "+", ">", "|")):
            scan.heading(start, stop, _plain(line), 1 if setext[1][0] == "=" else 2)
            return at + 2
    is_lines = _TABLE.match(line) is not None or line.startswith(("    ", "\t"))
    scan.begin(start, "lines" if is_lines else "text")
    return at + 1


def _fenced(scan: _Scan, lines: list[Line], at: int, fence: str) -> int:
    end = at + 1
    while end < len(lines):
        closing = lines[end][2].strip()
        if len(closing) >= len(fence) and not closing.strip(fence[0]):
            break
        end += 1
    last = min(end, len(lines) - 1)
    scan.end(lines[at][0])
    scan.begin(lines[at][0], "lines")
    scan.end(lines[last][1])
    return end + 1


def _line_below(lines: list[Line], at: int) -> str:
    return lines[at + 1][2] if at + 1 < len(lines) else ""


def _plain(heading: str) -> str:
    """Return a heading's text without links and emphasis."""
    heading = heading[:2000]
    return _EMPHASIS.sub(r"\2", _LINK.sub(r"\1", heading))


def _rst_step(scan: _Scan, lines: list[Line], at: int, levels: list[str]) -> int:
    start, _, line = lines[at]
    if not line.strip():
        scan.end(start)
        return at + 1
    adornment = _ADORNMENT.match(line)
    below = _line_below(lines, at)
    if adornment and below.strip() and at + 2 < len(lines):
        under = lines[at + 2][2]
        if under.rstrip() == line.rstrip() and len(below.strip()) <= len(under.rstrip()):
            return _rst_heading(scan, lines, at + 1, line[0] * 2, levels, at + 3)
    under_line = _ADORNMENT.match(below)
    is_title = not line[0].isspace() and not adornment and _is_blank(lines, at - 1)
    if under_line and is_title and len(below.rstrip()) >= len(line.rstrip()):
        return _rst_heading(scan, lines, at, below[0], levels, at + 2)
    is_lines = bool(adornment) or line[0].isspace() or _DIRECTIVE.match(line) is not None
    scan.begin(start, "lines" if is_lines or line.startswith(("+", "|")) else "text")
    return at + 1


def _rst_heading(
    scan: _Scan, lines: list[Line], at: int, style: str, levels: list[str], behind: int
) -> int:
    if style not in levels:
        levels.append(style)
    start, stop, line = lines[at]
    scan.heading(start, stop, line, levels.index(style) + 1)
    return behind


def _is_blank(lines: list[Line], at: int) -> bool:
    return at < 0 or not lines[at][2].strip()
