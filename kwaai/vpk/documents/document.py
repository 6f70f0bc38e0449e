"""What a loader makes of a file: one text, and blocks that say what its stretches are.

Pure values. Offsets are characters of `Document.text`; what is cited is found there again.
"""

from __future__ import annotations

import re
import struct
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from kwaai.errors import DocumentInvalid
from kwaai.limits import (
    DOCUMENT_BLOCKS_MAX,
    DOCUMENT_CHARS_MAX,
    DOCUMENT_HEADING_CHARS_MAX,
    DOCUMENT_HEADINGS_DEEP_MAX,
    MIB,
)

BlockKind: TypeAlias = Literal["heading", "text", "lines"]
"""`text` is cut at sentences, `lines` (code, tables, verse) at line ends."""
BLOCK_KINDS: tuple[BlockKind, ...] = ("heading", "text", "lines")

PARSER_ERRORS = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    RuntimeError,  # with RecursionError and NotImplementedError
    SyntaxError,  # lxml
    TypeError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)
"""What parsers raise for a broken file, beside errors of their own: they believe what they read."""

_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufeff]")
_LINE_ENDS = re.compile("\r\n?|\x85|\u2028|\u2029")
_SPACES = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class Block:
    """A stretch of the text: a paragraph, a heading, a table, a function. Never empty."""

    kind: BlockKind
    start: int
    stop: int
    heading: tuple[str, ...] = ()
    """The headings it stands under, the outermost first; a heading's own text is the last."""
    page: int | None = None
    """Counted from 1."""


@dataclass(frozen=True, slots=True)
class Document:
    """A file's text. Blocks are in order and do not overlap; between them is white space."""

    text: str
    blocks: tuple[Block, ...]
    media_type: str
    title: str
    """Its own; empty where it has none."""
    problems: tuple[str, ...] = ()
    """What of the file is not in the text: sentences for a person."""


class Writer:
    """Puts a document together, block by block. Raises DocumentInvalid when it grows too large."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._blocks: list[Block] = []
        self._length = 0
        self._headings: list[tuple[int, str]] = []
        self.page: int | None = None
        self.problems: list[str] = []

    @property
    def heading(self) -> tuple[str, ...]:
        """The headings that the next block stands under."""
        return tuple(text for _, text in self._headings)

    def add_heading(self, text: str, level: int) -> None:
        """Add a heading; `level` 1 is the outermost. It ends those of its level and below."""
        if name := self.enter(text, level):
            self._add("heading", name)

    def enter(self, text: str, level: int) -> str:
        """Stand under a heading from here on, without a block; return it as headings are kept."""
        self._headings = [(of, above) for of, above in self._headings if of < level]
        if name := heading_text(text):
            self._headings.append((level, name))
            del self._headings[:-DOCUMENT_HEADINGS_DEEP_MAX]
        return name

    def add(self, text: str, kind: BlockKind = "text") -> None:
        """Add a block; white space around it is dropped, and nothing is added of nothing."""
        self._add(kind, clean(text).strip("\n") if kind == "lines" else clean(text).strip())

    def finish(self, media_type: str, title: str = "") -> Document:
        text, blocks = "".join(self._parts), tuple(self._blocks)
        return Document(text, blocks, media_type, heading_text(title), tuple(self.problems))

    def _add(self, kind: BlockKind, text: str) -> None:
        if not text.strip():
            return
        if self._parts:
            self._parts.append("\n\n")
            self._length += 2
        start = self._length
        check_size(start + len(text), len(self._blocks) + 1)
        self._parts.append(text)
        self._length += len(text)
        self._blocks.append(Block(kind, start, self._length, self.heading, self.page))


def check_size(chars: int, blocks: int) -> None:
    """Raise DocumentInvalid where a document is larger than any that is kept."""
    if chars > DOCUMENT_CHARS_MAX or blocks > DOCUMENT_BLOCKS_MAX:
        raise DocumentInvalid(
            f"it has more than {DOCUMENT_CHARS_MAX // MIB} million characters of text or "
            f"{DOCUMENT_BLOCKS_MAX:,} paragraphs: divide it into several files"
        )


def clean(text: str) -> str:
    """Return text with line ends as \\n, and without what no text holds: control characters, halves
    of surrogate pairs.
    """
    return _UNPRINTABLE.sub(" ", _LINE_ENDS.sub("\n", text))


def heading_text(text: str) -> str:
    """Return a heading as it is kept: one line, of bounded length."""
    name = _SPACES.sub(" ", clean(text[: 4 * DOCUMENT_HEADING_CHARS_MAX])).strip()
    if len(name) <= DOCUMENT_HEADING_CHARS_MAX:
        return name
    return name[: DOCUMENT_HEADING_CHARS_MAX - 1].rstrip() + "…"


def document_of(text: str, blocks: Iterable[Block], media_type: str, title: str = "") -> Document:
    """Make a document of a text as it is, and of blocks that lie in it; white space at their ends
    is dropped, and empty ones.
    """
    kept = []
    for block in blocks:
        start, stop = block.start, block.stop
        piece = text[start:stop]
        if not piece.strip():
            continue
        if block.kind == "lines":
            start += len(piece) - len(piece.lstrip("\n"))
        else:
            start += len(piece) - len(piece.lstrip())
        stop -= len(piece) - len(piece.rstrip())
        kept.append(Block(block.kind, start, stop, block.heading, block.page))
    check_size(len(text), len(kept))
    return Document(text, tuple(kept), media_type, heading_text(title))
