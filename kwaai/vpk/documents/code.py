"""Source code and configuration: cut at line ends, under the definition that a line belongs to.

One pattern for many languages, not a parser for each: a wrong heading costs a little, no text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from kwaai.limits import DOCUMENT_HEADINGS_DEEP_MAX
from kwaai.vpk.documents.document import Block, Document, document_of, heading_text
from kwaai.vpk.documents.text import decode

_DEFINITION = re.compile(
    r"[ \t]*(?:(?:export|default|public|private|protected|internal|static|final|abstract|async|pub"
    r"|pub\([a-z]+\)|unsafe|extern|virtual|override|inline|const|sealed|open|data|suspend|local"
    r"|create|or|replace)[ \t]+){0,6}"
    r"(?:def|class|function|func|fn|fun|interface|struct|enum|trait|impl|module|namespace|type"
    r"|protocol|object|record|sub|proc|procedure|table|view|trigger|macro_rules!)[ \t(]"
    r"|[A-Za-z_][\w:<>*&~, \t]{0,100}\([^;{}]{0,100}\)[ \t\w:>-]{0,40}\{?[ \t]*\Z"
    r"|\[\[?[\w.\"' :-]{1,80}\]\]?[ \t]*\Z"
    r"|[A-Za-z_\"'][\w.\"' -]{0,80}:[ \t]*\Z",
    re.IGNORECASE,
)
_CONTROL_WORDS = re.compile(
    r"[ \t]*(?:\}?[ \t]*else|if|for|while|switch|return|try|catch|finally|do|with|elif|except|case"
    r"|default|match|assert|print|raise|throw|await|yield)\b",
    re.IGNORECASE,
)
_BEFORE = re.compile(r"[ \t]*(?:@|#\[|#(?!include|define|if|endif)|//|/\*|\*|--|%|;)")
_SECTION = -1  # its lines are not indented
_LINE_CHARS_MAX = 300
_NAME_CHARS_MAX = 120


def load_code(data: bytes, media_type: str = "text/x-source") -> Document:
    """Read source code: each definition's lines under its first one, methods under their class."""
    text = decode(data).replace("\f", " ")
    return document_of(text, _blocks(text), media_type)


def _blocks(text: str) -> Iterator[Block]:
    path: list[tuple[int, str]] = []
    begin = 0  # of the block
    leading: int | None = None  # of comments and decorators above what comes
    start = 0
    for line in text.split("\n"):
        stop = start + len(line)
        if not line.strip():
            leading = None
        elif _is_definition(line):
            above = start if leading is None else leading
            yield _block(begin, above, path)
            indent = _SECTION if line.startswith("[") else _indent(line)
            path = [entry for entry in path if entry[0] < indent]
            path.append((indent, _name(line)))
            begin, leading = above, None
        elif _BEFORE.match(line):
            leading = start if leading is None else leading
        else:
            leading = None
            if path and _indent(line) <= path[-1][0] and line.strip()[0] not in "})]":
                yield _block(begin, start, path)
                begin, indent = start, _indent(line)
                path = [entry for entry in path if entry[0] < indent]
        start = stop + 1
    yield _block(begin, len(text), path)


def _block(start: int, stop: int, path: list[tuple[int, str]]) -> Block:
    names = tuple(name for _, name in path[-DOCUMENT_HEADINGS_DEEP_MAX:])
    return Block("lines", start, stop, names)


def _is_definition(line: str) -> bool:
    if len(line) > _LINE_CHARS_MAX or _CONTROL_WORDS.match(line):
        return False
    return _DEFINITION.match(line) is not None


def _indent(line: str) -> int:
    """Return a line's indentation in columns; a tab counts for four."""
    bare = line.lstrip(" \t")
    return sum(4 if sign == "\t" else 1 for sign in line[: len(line) - len(bare)])


def _name(line: str) -> str:
    return heading_text(line.strip().rstrip("{:").rstrip()[:_NAME_CHARS_MAX])
