"""One file to a document, by its name and its first bytes. Runs in the loader's process.

Text formats are read whole, the others in place. Any error but DocumentInvalid is a parser's, and
the process's business (`loader_worker`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import BinaryIO

from kwaai.errors import DocumentInvalid
from kwaai.limits import DOCUMENT_BYTES_MAX, DOCUMENT_TEXT_BYTES_MAX, MIB
from kwaai.vpk.documents import code, docx, html, markdown, more, pdf, tables, text
from kwaai.vpk.documents.document import Document
from kwaai.vpk.documents.kinds import MORE_SUFFIXES, SNIFF_BYTES, is_pdf, suffix_of

_LANGUAGES = {
    "python": "py pyi pyx",
    "c": "c h",
    "c++": "cc cpp cxx hh hpp hxx cu",
    "csharp": "cs",
    "java": "java",
    "kotlin": "kt kts",
    "scala": "scala",
    "swift": "swift",
    "objective-c": "m mm",
    "go": "go",
    "rust": "rs",
    "javascript": "js mjs cjs jsx",
    "typescript": "ts tsx mts",
    "ruby": "rb",
    "php": "php",
    "perl": "pl pm",
    "lua": "lua",
    "r": "r",
    "julia": "jl",
    "haskell": "hs",
    "ocaml": "ml mli",
    "erlang": "erl",
    "elixir": "ex exs",
    "clojure": "clj",
    "lisp": "el lisp scm",
    "shell": "sh bash zsh fish",
    "powershell": "ps1",
    "sql": "sql",
    "nix": "nix",
    "zig": "zig",
    "nim": "nim",
    "dart": "dart",
    "protobuf": "proto",
    "css": "css scss less",
    "vue": "vue svelte",
    "yaml": "yaml yml",
    "toml": "toml",
    "ini": "ini cfg conf properties",
    "make": "mk cmake",
    "solidity": "sol",
}
_TEXT_LOADERS: dict[str, Callable[[bytes], Document]] = {
    **dict.fromkeys(("md", "markdown", "mdown", "mkd", "mdx", "qmd"), markdown.load_markdown),
    **dict.fromkeys(("rst", "rest"), markdown.load_rst),
    **dict.fromkeys(("html", "htm", "xhtml"), html.load_html),
    **dict.fromkeys(("csv", "tsv"), tables.load_csv),
    **dict.fromkeys(("json", "jsonl", "ndjson", "geojson"), tables.load_json),
}
_SOURCES = {
    suffix: f"text/x-{name}" for name, suffixes in _LANGUAGES.items() for suffix in suffixes.split()
}


def load_document(file: BinaryIO, name: str) -> Document:
    """Read an open file that can be sought. `name` tells what it is, unless its bytes do.

    Raises DocumentInvalid: empty, binary, too large, broken, encrypted, or of a kind that is not
    read here. The document has some text.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if size == 0:
        raise DocumentInvalid("it is empty")
    if size > DOCUMENT_BYTES_MAX:
        raise DocumentInvalid(
            f"it has {size / MIB:,.0f} MiB, more than {DOCUMENT_BYTES_MAX // MIB:,}"
        )
    document = _load(file, name, size)
    if not document.blocks:
        raise DocumentInvalid("it has no text in it")
    return document


def _load(file: BinaryIO, name: str, size: int) -> Document:
    suffix, head = suffix_of(name), file.read(SNIFF_BYTES)
    file.seek(0)
    if is_pdf(name, head):
        return pdf.load_pdf(file)
    if suffix == "pdf":
        raise DocumentInvalid("it is not a PDF, though its name says so")
    if suffix == "docx":
        return docx.load_docx(file)
    if suffix in MORE_SUFFIXES:
        return more.load_with_markitdown(file, suffix)
    if size > DOCUMENT_TEXT_BYTES_MAX:
        raise DocumentInvalid(
            f"it is a text of {size / MIB:,.0f} MiB, more than {DOCUMENT_TEXT_BYTES_MAX // MIB}: "
            "divide it into several files"
        )
    data = file.read(size)
    if suffix in _SOURCES:
        return code.load_code(data, _SOURCES[suffix])
    return _TEXT_LOADERS.get(suffix, text.load_text)(data)
