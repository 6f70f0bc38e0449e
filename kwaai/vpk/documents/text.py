"""Bytes to text, and plain text to paragraphs. The text of such a document is the file's own."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator

from kwaai.errors import DocumentInvalid
from kwaai.limits import DOCUMENT_SNIFF_BYTES
from kwaai.vpk.documents.document import Block, Document, clean, document_of

_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before the one of UTF-16, which it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_CONTROLS = bytes(set(range(32)) - {7, 8, 9, 10, 12, 13, 27}) + b"\x7f"
_CONTROL_SHARE_MAX = 0.01
_BLANK = re.compile(r"\n[ \t]*\n|\f")
_INDENTED = re.compile(r"(?:[ ]{4}|\t).*(?:\n(?:[ ]{4}|\t).*)*\Z")


def is_binary(data: bytes) -> bool:
    """Say whether bytes, a file's first ones, are no text."""
    if data.startswith(tuple(mark for mark, _ in _BOMS)):
        return False
    data = data[:DOCUMENT_SNIFF_BYTES]
    controls = len(data) - len(data.translate(None, _CONTROLS))
    return b"\0" in data or controls > _CONTROL_SHARE_MAX * len(data)


def decode(data: bytes) -> str:
    """Return a file's text: by its byte order mark, else UTF-8, else Windows-1252, which has a
    letter for almost every byte. Line ends become \\n. Raises DocumentInvalid for what is no text.
    """
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            return _cleaned(data.decode(encoding, "replace").removeprefix("\ufeff"))
    if is_binary(data):
        raise DocumentInvalid("it is a binary file, not text")
    try:
        return _cleaned(data.decode("utf-8"))
    except UnicodeDecodeError:
        return _cleaned(data.decode("cp1252", "replace"))


def load_text(data: bytes) -> Document:
    """Read plain text: paragraphs apart by blank lines; form feeds count pages."""
    text = decode(data)
    return document_of(text.replace("\f", " "), paragraphs(text), "text/plain")


def paragraphs(text: str) -> Iterator[Block]:
    """Yield the paragraphs of a text; indented ones are cut at line ends only."""
    page = 1 if "\f" in text else None
    start = 0
    for found in [*_BLANK.finditer(text), None]:
        stop = found.start() if found else len(text)
        piece = text[start:stop].strip("\n")
        yield Block("lines" if _INDENTED.match(piece) else "text", start, stop, (), page)
        if found:
            start = found.end()
            page = page + 1 if page is not None and found[0] == "\f" else page


def _cleaned(text: str) -> str:
    if "\f" not in text:
        return clean(text)
    return "\f".join(clean(part) for part in text.split("\f"))
