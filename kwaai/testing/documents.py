"""Documents for tests, made as small as they can be."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Sequence


def make_pdf(pages: Sequence[Sequence[str]], outline: Sequence[tuple[str, int]] = ()) -> bytes:
    """A PDF with lines of text on its pages, and (title, page from 0) as its outline."""
    objects: list[bytes] = [b"", b"", b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>"]
    kids = []
    for lines in pages:
        shown = b"".join(b"(%s) Tj T* " % _escaped(line) for line in lines)
        stream = b"BT /F1 12 Tf 14 TL 40 800 Td %sET" % shown
        objects.append(b"<</Length %d>>\nstream\n%s\nendstream" % (len(stream), stream))
        content = len(objects)
        objects.append(
            b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 595 842]/Contents %d 0 R"
            b"/Resources<</Font<</F1 3 0 R>>>>>>" % content
        )
        kids.append(len(objects))
    outlines = b""
    if outline:
        top = len(objects) + 1
        objects.append(
            b"<</Type/Outlines/First %d 0 R/Last %d 0 R/Count %d>>"
            % (top + 1, top + len(outline), len(outline))
        )
        for at, (title, page) in enumerate(outline):
            beside = b"/Next %d 0 R" % (top + at + 2) if at + 1 < len(outline) else b""
            objects.append(
                b"<</Title(%s)/Parent %d 0 R/Dest[%d 0 R/Fit]%s>>"
                % (_escaped(title), top, kids[page], beside)
            )
        outlines = b"/Outlines %d 0 R" % top
    objects[0] = b"<</Type/Catalog/Pages 2 0 R%s>>" % outlines
    refs = b" ".join(b"%d 0 R" % kid for kid in kids)
    objects[1] = b"<</Type/Pages/Kids[%s]/Count %d>>" % (refs, len(kids))
    return _pdf_file(objects)


def _pdf_file(objects: Sequence[bytes]) -> bytes:
    out, offsets = bytearray(b"%PDF-1.4\n"), []
    for number, value in enumerate(objects, 1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, value)
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    out += b"trailer\n<</Size %d/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, start)
    return bytes(out)


def _escaped(text: str) -> bytes:
    return re.sub(rb"([\\()])", rb"\\\1", text.encode("latin-1"))


def make_docx() -> bytes:
    """A Word document: two levels of headings, a list, a table, a drawn page break."""
    import docx
    from docx.enum.text import WD_BREAK
    from docx.oxml import OxmlElement

    document = docx.Document()
    document.core_properties.title = "The boat"
    document.add_heading("Repairs", 1)
    document.add_paragraph("The hull was painted in May.")
    document.add_heading("Engine", 2)
    document.add_paragraph("Change the oil.", style="List Bullet")
    table = document.add_table(2, 2)
    for row, values in zip(table.rows, (("part", "price"), ("filter", "12")), strict=True):
        for cell, value in zip(row.cells, values, strict=True):
            cell.text = value
    run = document.add_paragraph().add_run()
    run.add_break(WD_BREAK.PAGE)
    paragraph = document.add_paragraph("Page two begins here.")
    paragraph.runs[0]._r.insert(0, OxmlElement("w:lastRenderedPageBreak"))
    file = io.BytesIO()
    document.save(file)
    return file.getvalue()


def make_bomb(size: int) -> bytes:
    """A zip file, named as a Word document's, of `size` zero bytes when it is unpacked."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as package:
        package.writestr("word/document.xml", b"\0" * size)
    return file.getvalue()
