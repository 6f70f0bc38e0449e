"""Slides, spreadsheets, e-books and mails, by markitdown: the optional extra `documents`."""

from __future__ import annotations

from dataclasses import replace
from typing import BinaryIO

from kwaai.errors import DocumentInvalid
from kwaai.limits import DOCUMENT_CHARS_MAX
from kwaai.vpk.documents.document import Document, check_size
from kwaai.vpk.documents.docx import check_package
from kwaai.vpk.documents.kinds import MORE_SUFFIXES
from kwaai.vpk.documents.markdown import load_markdown

_ZIPPED = ("epub", "pptx", "xlsx")


def load_with_markitdown(file: BinaryIO, suffix: str) -> Document:
    """Read a file by way of Markdown. Raises DocumentInvalid, which says what to install where
    markitdown is not there.
    """
    if suffix in _ZIPPED:
        check_package(file)
    try:
        from markitdown import (
            FileConversionException,
            MarkItDown,
            MissingDependencyException,
            StreamInfo,
        )
    except ImportError:
        raise DocumentInvalid(
            f"a .{suffix} file is read with an extra: pip install 'kwaainet[documents]'"
        ) from None
    try:
        info = StreamInfo(extension=f".{suffix}", mimetype=MORE_SUFFIXES[suffix])
        made = MarkItDown(enable_plugins=False).convert_stream(file, stream_info=info)
    except (FileConversionException, MissingDependencyException) as error:
        raise DocumentInvalid(f"markitdown cannot read it: {str(error)[:300]}") from None
    check_size(len(made.markdown), 0)
    document = load_markdown(made.markdown[:DOCUMENT_CHARS_MAX].encode("utf-8", "replace"))
    return replace(document, media_type=MORE_SUFFIXES[suffix], title=made.title or document.title)
