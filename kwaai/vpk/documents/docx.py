"""Word documents (.docx) to text: headings by their styles, paragraphs, lists and tables.

python-docx opens the package; the text is taken from its XML. Headers, footers, notes, comments and
deleted text are left out. Pages are those that Word has noted when it last drew them, if it did.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from typing import Any, BinaryIO

from kwaai.errors import DocumentInvalid
from kwaai.limits import (
    DOCUMENT_ENTRIES_MAX,
    DOCUMENT_PACKED_RATIO_MAX,
    DOCUMENT_UNPACKED_BYTES_MAX,
    MIB,
)
from kwaai.vpk.documents.document import PARSER_ERRORS, Document, Writer

MEDIA_TYPE = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"

_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
_TEXT, _TAB, _BREAK, _RETURN = f"{_W}t", f"{_W}tab", f"{_W}br", f"{_W}cr"
_PARAGRAPH, _TABLE, _DRAWN_BREAK = f"{_W}p", f"{_W}tbl", f"{_W}lastRenderedPageBreak"
_HOLDERS = (f"{_W}sdt", f"{_W}sdtContent", f"{_W}ins", f"{_W}customXml", f"{_W}smartTag")
_HEADING_NAME = re.compile(r"heading ([1-9])\Z", re.IGNORECASE)
_NEST_MAX = 20


def load_docx(file: BinaryIO) -> Document:
    """Read a Word document. Raises DocumentInvalid for what is none."""
    import docx
    from docx.opc.exceptions import OpcError

    check_package(file)
    try:
        opened: Any = docx.Document(file)
        body = opened.element.body
        levels = _heading_levels(opened.styles.element)
        title = str(opened.core_properties.title or "")
    except (OpcError, *PARSER_ERRORS) as error:
        raise DocumentInvalid(
            f"it is not a Word document, or a broken one ({type(error).__name__})"
        ) from None
    writer = Writer()
    drawn = next(body.iter(_DRAWN_BREAK), None) is not None
    writer.page = 1 if drawn else None
    for element in _blocks(body, 0):
        if element.tag == _TABLE:
            writer.add("\n".join(_rows(element)), "lines")
            continue
        _add_paragraph(writer, element, levels)
    return writer.finish(MEDIA_TYPE, title)


def check_package(file: BinaryIO) -> None:
    """Raise DocumentInvalid for what is no zip file, or would be far larger unpacked. What it says
    of its sizes is held to when it is read.
    """
    try:
        with zipfile.ZipFile(file) as package:
            entries = package.infolist()
    except PARSER_ERRORS as error:
        raise DocumentInvalid(f"it is broken, or not what its name says ({error})") from None
    finally:
        file.seek(0)
    unpacked = sum(entry.file_size for entry in entries)
    packed = sum(entry.compress_size for entry in entries)
    if len(entries) > DOCUMENT_ENTRIES_MAX or unpacked > DOCUMENT_UNPACKED_BYTES_MAX:
        raise DocumentInvalid(
            f"unpacked it has {len(entries):,} files and {unpacked / MIB:,.0f} MiB, more than "
            f"{DOCUMENT_ENTRIES_MAX:,} files or {DOCUMENT_UNPACKED_BYTES_MAX // MIB} MiB"
        )
    if unpacked > MIB and unpacked > DOCUMENT_PACKED_RATIO_MAX * packed:
        raise DocumentInvalid(
            f"unpacked it is {unpacked // max(packed, 1):,} times as large: it looks like a zip "
            "bomb, and is not opened"
        )


def _heading_levels(styles: Any) -> dict[str, int]:
    """Return the heading level of each style that has one, by its id."""
    levels = {}
    for style in styles.iter(f"{_W}style"):
        name = style.find(f"{_W}name")
        outline = style.find(f"{_W}pPr/{_W}outlineLvl")
        label = name.get(f"{_W}val", "") if name is not None else ""
        if found := _HEADING_NAME.match(label):
            levels[style.get(f"{_W}styleId", "")] = int(found[1])
        elif label.lower() == "title":
            levels[style.get(f"{_W}styleId", "")] = 1
        elif outline is not None and outline.get(f"{_W}val", "") in "012345678":
            levels[style.get(f"{_W}styleId", "")] = int(outline.get(f"{_W}val") or 0) + 1
    return levels


def _blocks(parent: Any, depth: int) -> Iterator[Any]:
    """Yield the paragraphs and tables of a body, in order."""
    for child in parent:
        if child.tag in (_PARAGRAPH, _TABLE):
            yield child
        elif child.tag in _HOLDERS and depth < _NEST_MAX:
            yield from _blocks(child, depth + 1)


def _add_paragraph(writer: Writer, paragraph: Any, levels: dict[str, int]) -> None:
    style = paragraph.find(f"{_W}pPr/{_W}pStyle")
    level = levels.get(style.get(f"{_W}val", ""), 0) if style is not None else 0
    numbered = paragraph.find(f"{_W}pPr/{_W}numPr") is not None
    text = _text(paragraph)
    breaks = sum(1 for _ in paragraph.iter(_DRAWN_BREAK))
    if writer.page is not None and _begins_page(paragraph):
        writer.page, breaks = writer.page + 1, breaks - 1
    if level:
        writer.add_heading(text, level)
    else:
        writer.add(f"- {text}" if numbered and text.strip() else text)
    if writer.page is not None:
        writer.page += max(0, breaks)


def _begins_page(paragraph: Any) -> bool:
    """Say whether a drawn page break comes before any text of a paragraph."""
    for element in paragraph.iter(_TEXT, _DRAWN_BREAK):
        if element.tag == _DRAWN_BREAK:
            return True
        if (element.text or "").strip():
            return False
    return False


def _rows(table: Any) -> Iterator[str]:
    for row in table.iter(f"{_W}tr"):
        cells = [" ".join(_text(cell).split()) for cell in row.findall(f"{_W}tc")]
        if any(cells):
            yield " | ".join(cells)


def _text(element: Any) -> str:
    """Return an element's text; of two drawings of one thing the first."""
    parts: list[str] = []
    skipped = {inner for fallback in element.iter(_FALLBACK) for inner in fallback.iter()}
    for inner in element.iter(_TEXT, _TAB, _BREAK, _RETURN, _PARAGRAPH):
        if inner in skipped:
            continue
        if inner.tag == _TEXT:
            parts.append(inner.text or "")
        elif inner.tag == _TAB:
            parts.append("\t" if inner.getparent().tag == f"{_W}r" else "")
        else:
            parts.append("\n" if parts else "")
    return "".join(parts)
