"""Which kind of document a file is, by its name and its first bytes."""

from __future__ import annotations

from pathlib import PurePath

_PDF_MARK = b"%PDF-"
SNIFF_BYTES = 1024  # of a file, among which a PDF's mark stands
MORE_SUFFIXES = {
    "epub": "application/epub+zip",
    "msg": "application/vnd.ms-outlook",
    "pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    "xls": "application/vnd.ms-excel",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
}
"""What the extra `documents` reads."""


def suffix_of(name: str) -> str:
    """Return what a file's name ends with, without the dot, in lower case."""
    return PurePath(name).suffix[1:].lower()


def is_pdf(name: str, head: bytes) -> bool:
    """Say whether a file is a PDF: it begins as one, or is named as one and has the mark near its
    beginning, behind what a mailer or a printer put there.
    """
    if head.startswith(_PDF_MARK):
        return True
    return suffix_of(name) == "pdf" and _PDF_MARK in head[:SNIFF_BYTES]


def is_document(name: str, head: bytes) -> bool:
    """Say whether a binary file is of a kind that is read."""
    return is_pdf(name, head) or suffix_of(name) in ("pdf", "docx", *MORE_SUFFIXES)
