"""HTML to text: what a reader would read, with its headings, lists and tables.

No styles, no scripts, no links followed. Any bytes are some HTML: the parser never fails.
"""

from __future__ import annotations

import re
from html.parser import HTMLParser

from kwaai.limits import DOCUMENT_NESTING_MAX
from kwaai.vpk.documents.document import BlockKind, Document, Writer
from kwaai.vpk.documents.text import decode

_UNSEEN = frozenset("script style template noscript svg math canvas object iframe select".split())  # noqa: SIM905
_BESIDE = frozenset("nav aside footer form button dialog".split())  # noqa: SIM905
_BLOCKS = frozenset(
    """
    address article body blockquote caption center dd details div dl dt fieldset figcaption figure
    h1 h2 h3 h4 h5 h6 header hr html li main ol p pre section summary table tbody tfoot thead tr ul
    """.split()  # noqa: SIM905
)
_HEADING = re.compile(r"h[1-6]\Z")
_SPACES = re.compile(r"\s+")
_CHARSET = re.compile(rb"<meta[^>]{0,200}charset=[\"']?([A-Za-z0-9_-]{2,30})", re.IGNORECASE)


def load_html(data: bytes) -> Document:
    """Read HTML. Navigation, footers and forms are left out, unless nothing else has text."""
    text = _decoded(data)
    for hidden in (_UNSEEN | _BESIDE, _UNSEEN):
        reader = _Reader(hidden)
        reader.feed(text)
        reader.close()
        document = reader.finish()
        if document.blocks:
            break
    return document


def _decoded(data: bytes) -> str:
    named = _CHARSET.search(data[:4096])
    if named and not data.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        try:
            return data.decode(named[1].decode("ascii"))
        except (LookupError, UnicodeDecodeError, ValueError):
            pass
    return decode(data)


class _Reader(HTMLParser):
    def __init__(self, hidden: frozenset[str]) -> None:
        super().__init__(convert_charrefs=True)
        self._hidden = hidden
        self._writer = Writer()
        self._parts: list[str] = []
        self._inside: list[str] = []
        self._title: list[str] = []
        self._heading = 0
        self._table = 0
        self._is_pre = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._inside[-1:] == ["title"] and tag in _BLOCKS:
            self._inside.pop()  # nobody closed it
        if tag in self._hidden or tag == "title":
            if len(self._inside) < DOCUMENT_NESTING_MAX:
                self._inside.append(tag)
        elif self._inside:
            return
        elif tag == "br":
            self._parts.append("\n")
        elif tag in ("td", "th"):
            self._parts.append(" | " if "".join(self._parts[-1:]).strip() else "")
        elif tag in _BLOCKS:
            self._open(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._inside:
            if tag in self._inside:
                del self._inside[self._inside.index(tag) :]
        elif tag in _BLOCKS:
            self._flush()
            if tag == "table":
                self._table = max(0, self._table - 1)
            elif tag == "pre":
                self._is_pre = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            if self._inside[-1] == "title" and len(self._title) < 100:
                self._title.append(data)
        else:
            self._parts.append(data if self._is_pre else _SPACES.sub(" ", data))

    def finish(self) -> Document:
        self._flush()
        return self._writer.finish("text/html", "".join(self._title))

    def _open(self, tag: str) -> None:
        self._flush()
        if _HEADING.match(tag):
            self._heading = int(tag[1])
        elif tag == "pre":
            self._is_pre = True
        elif tag == "table":
            self._table += 1
        elif tag == "li":
            self._parts.append("- ")

    def _flush(self) -> None:
        text, level = "".join(self._parts), self._heading
        self._parts, self._heading = [], 0
        if not self._is_pre:
            text = "\n".join(line.strip() for line in text.split("\n"))
        if text.strip(" -|\n\t") == "":
            return
        if level:
            self._writer.add_heading(text, level)
        else:
            kind: BlockKind = "lines" if self._is_pre or self._table else "text"
            self._writer.add(text, kind)
