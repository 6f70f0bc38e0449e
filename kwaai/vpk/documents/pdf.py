"""PDF to text: pages as paragraphs, under the headings of the outline.

By pypdfium2 where it is installed (better order, 5 times as fast), else by pypdf. What stands at
the top or the bottom of most pages is left out, and page numbers; lines become paragraphs again.
Pictures of text stay pictures: nothing here recognises letters.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Protocol

from kwaai.errors import DocumentInvalid
from kwaai.limits import DOCUMENT_CHARS_MAX, DOCUMENT_PAGES_MAX
from kwaai.vpk.documents.document import (
    PARSER_ERRORS,
    Document,
    Writer,
    check_size,
    heading_text,
)

_OUTLINE_ENTRIES_MAX = 20_000
_EDGE_LINES = 2  # of a page, that may be its header or footer
_EDGE_PAGES_MIN = 4
_EDGE_SHARE = 0.6
_EDGE_SPACES = 4
_HYPHEN_BREAK = re.compile("[\x02\ufffe\u00ad]\\s*")
_DIGITS = re.compile(r"\d+|\b[ivxlc]+\b")
_NUMBER = re.compile(r"(?<!\d)\d{1,6}(?!\d)")
_SECTION_NUMBER = re.compile(r"\d+(?:\.\d+)*\.?(?=\D)")
_BULLET = re.compile(r"[-*•–▪◦‣]\s|\(?(?:\d{1,3}|[a-z])[.)]\s")
_SPACES = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class _Entry:
    """A line of the outline."""

    level: int
    title: str
    page: int
    """Counted from 0."""


@dataclass(slots=True)
class _Pages:
    """What a library makes of a file."""

    texts: list[str] = field(default_factory=list)
    outline: list[_Entry] = field(default_factory=list)
    title: str = ""
    broken: list[int] = field(default_factory=list)
    """Pages that could not be read, counted from 1."""

    def add(self, text: str) -> None:
        self.texts.append(text)
        check_size(self._chars + len(text), 0)
        self._chars += len(text)

    _chars: int = 0


class _Library(Protocol):
    def __call__(self, file: BinaryIO) -> _Pages: ...


def load_pdf(file: BinaryIO) -> Document:
    """Read a PDF. Raises DocumentInvalid for one that is broken, wants a password or has no text;
    ImportError where no library is installed.
    """
    pages = _library()(file)
    writer = Writer()
    lines = [_lines(text) for text in pages.texts]
    entries: dict[int, list[_Entry]] = {}
    for entry in pages.outline:
        entries.setdefault(entry.page, []).append(entry)
    for number, page in enumerate(without_edges(lines)):
        writer.page = number + 1
        _add_page(writer, page, entries.get(number, []))
    _add_problems(writer, pages)
    document = writer.finish("application/pdf", pages.title)
    if not document.blocks:
        raise DocumentInvalid(
            "it has no text in it: its pages are pictures; make a searchable PDF of it (OCR) first"
        )
    return document


def _library() -> _Library:
    try:
        import pypdfium2  # noqa: F401
    except ImportError:
        return read_with_pypdf
    return read_with_pdfium


def read_with_pdfium(file: BinaryIO) -> _Pages:
    """Read pages, outline and title by PDFium."""
    import pypdfium2

    pages = _Pages()
    try:
        document = pypdfium2.PdfDocument(file)
    except pypdfium2.PdfiumError as error:
        raise _unreadable(str(error)) from None
    _check_pages(len(document))
    for number in range(len(document)):
        try:
            page = document[number]
            text = page.get_textpage()
            pages.add(text.get_text_bounded())
            text.close()
            page.close()
        except pypdfium2.PdfiumError:
            pages.add("")
            pages.broken.append(number + 1)
    for mark in document.get_toc():
        target = mark.get_dest()
        index = target.get_index() if target else None
        if index is not None and len(pages.outline) < _OUTLINE_ENTRIES_MAX:
            pages.outline.append(_Entry(mark.level + 1, mark.get_title(), index))
    pages.title = document.get_metadata_value("Title") or ""
    return pages


def read_with_pypdf(file: BinaryIO) -> _Pages:
    """Read pages, outline and title by pypdf."""
    import pypdf
    from pypdf.errors import PyPdfError

    errors = (*PARSER_ERRORS, PyPdfError)
    pages = _Pages()
    try:
        reader = pypdf.PdfReader(file, strict=False)
        if reader.is_encrypted and not reader.decrypt(""):
            raise _unreadable("password")
        count = len(reader.pages)
    except errors as error:
        raise _unreadable(f"{type(error).__name__}: {error}") from None
    _check_pages(count)
    for number in range(count):
        try:
            pages.add(reader.pages[number].extract_text())
        except errors:
            pages.add("")
            pages.broken.append(number + 1)
    try:
        _read_outline(reader, reader.outline, 1, pages)
        pages.title = str((reader.metadata and reader.metadata.title) or "")
    except errors:
        pass  # pages are found without
    return pages


def _read_outline(reader: Any, entries: Sequence[Any], level: int, pages: _Pages) -> None:
    for entry in entries:
        if isinstance(entry, list):
            _read_outline(reader, entry, level + 1, pages)
        elif len(pages.outline) < _OUTLINE_ENTRIES_MAX:
            number = reader.get_destination_page_number(entry)
            if number is not None and number >= 0:
                pages.outline.append(_Entry(level, str(entry.title), number))


def _unreadable(why: str) -> DocumentInvalid:
    if "password" in why.lower():
        return DocumentInvalid("it is encrypted: save a copy without a password")
    return DocumentInvalid(f"it is not a PDF, or a broken one ({why[:200]})")


def _check_pages(count: int) -> None:
    if count > DOCUMENT_PAGES_MAX:
        raise DocumentInvalid(
            f"it has {count:,} pages, more than {DOCUMENT_PAGES_MAX:,}: divide it"
        )


def _add_problems(writer: Writer, pages: _Pages) -> None:
    empty = sum(not text.strip() for text in pages.texts) - len(pages.broken)
    total = len(pages.texts)
    if pages.broken:
        first = ", ".join(map(str, pages.broken[:10]))
        writer.problems.append(f"{len(pages.broken)} of {total} pages are broken: {first}")
    if empty > 0:
        writer.problems.append(f"{empty} of {total} pages have no text (pictures?)")


# Lines to paragraphs.


def _lines(text: str) -> list[str]:
    text = _HYPHEN_BREAK.sub("", text[:DOCUMENT_CHARS_MAX])
    return [line.strip() for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n")]


def without_edges(pages: Sequence[list[str]]) -> Iterator[list[str]]:
    """Yield pages without their headers and footers: lines at the top or bottom that stand there on
    most pages, numbers apart; and those whose number counts the pages.
    """
    edges = [{*_edges(page)} for page in pages]
    counts = Counter(key for page in edges for key in {_edge_key(line) for line in page})
    least = max(_EDGE_PAGES_MIN, _EDGE_SHARE * len(pages))
    numbers = [{(_edge_key(line), n) for line in page for n in _numbers(line)} for page in edges]
    for at, page in enumerate(pages):
        beside = [
            (other - at, numbers[other])
            for other in (at - 2, at - 1, at + 1, at + 2)
            if 0 <= other < len(pages)
        ]
        dropped = {
            line
            for line in edges[at]
            if counts[_edge_key(line)] >= least
            or any(
                (_edge_key(line), number + distance) in known
                for number in _numbers(line)
                for distance, known in beside
            )
        }
        filled = [number for number, line in enumerate(page) if line]
        outer = {*filled[:_EDGE_LINES], *filled[-_EDGE_LINES:]}
        kept = [line for n, line in enumerate(page) if not (n in outer and line in dropped)]
        # A page of one sentence is no header.
        yield kept if any(kept) else [line for line in page if line.count(" ") >= _EDGE_SPACES]


def _edges(page: list[str]) -> list[str]:
    filled = [line for line in page if line]
    return filled[:_EDGE_LINES] + filled[-_EDGE_LINES:]


def _edge_key(line: str) -> str:
    return _DIGITS.sub("#", line[:200].lower())


def _numbers(line: str) -> list[int]:
    return [int(number) for number in _NUMBER.findall(line[:200])[:4]]


def _add_page(writer: Writer, lines: list[str], entries: list[_Entry]) -> None:
    """Add a page's paragraphs. A title of the outline that stands on a line of its own is a heading
    there; any other one is in force from the top of the page.
    """
    keys = {_key(line) for line in lines}
    waiting = []
    for entry in entries:
        if (key := _key(entry.title)) and key in keys:
            waiting.append((key, entry))
        else:
            writer.enter(entry.title, entry.level)
    for paragraph in _paragraphs(lines, {key for key, _ in waiting}):
        while waiting and _key(paragraph) == waiting[0][0]:
            _, entry = waiting.pop(0)
            writer.add_heading(entry.title, entry.level)
            paragraph = ""
        writer.add(paragraph)
    for _, entry in waiting:
        writer.enter(entry.title, entry.level)


def _key(line: str) -> str:
    key = _SPACES.sub("", heading_text(line)).lower()
    return _SECTION_NUMBER.sub("", key, count=1) if key[:1].isdigit() else key


def _paragraphs(lines: list[str], headings: set[str]) -> Iterator[str]:
    """Yield paragraphs: lines belong together unless one is blank, begins with a bullet, is a
    heading, or the one before ends a sentence short of the margin.
    """
    widths = sorted(len(line) for line in lines if line)
    margin = 0.8 * widths[int(0.9 * (len(widths) - 1))] if widths else 0
    parts: list[str] = []
    for line in lines:
        is_heading = bool(headings) and _key(line) in headings
        ends = bool(parts) and parts[-1][-1:] in ".!?:" and len(parts[-1]) < margin
        if not line or is_heading or ends or _BULLET.match(line):
            yield _joined(parts)
            parts = []
        if is_heading:
            yield line
        elif line:
            parts.append(line)
    yield _joined(parts)


def _joined(lines: list[str]) -> str:
    """Join the lines of a paragraph; a word that was divided at a line's end is whole again."""
    text = ""
    pieces: list[str] = []
    for line in lines:
        if text.endswith("-") and text[-2:-1].isalpha() and line[:1].islower():
            pieces[-1] = pieces[-1][:-1]
        elif pieces:
            pieces.append(" ")
        pieces.append(line)
        text = line
    return "".join(pieces)
