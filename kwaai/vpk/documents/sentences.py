"""Where a text may be cut: after sentences, else at lines, at words, and inside words at last.

Rules for scripts with capital letters and for Chinese and Japanese; no dictionaries but a few
abbreviations. Every step is linear in the text, whatever the text is.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from typing import TypeAlias

from kwaai.limits import PASSAGE_CHARS_MAX

Span: TypeAlias = tuple[int, int]

_BORDER = re.compile(
    r"[.!?…][\"'”’»)\]]{0,3}(?=\s)"
    r"|[。！？][”’」』）]{0,3}"
    r"|\n[ \t]*(?=\n)"
    r"|\n(?=[ \t]{0,8}(?:[-*+•–]|\d{1,3}[.)])[ \t])"
)
_WORD_BEFORE = re.compile(r"[^\W\d_]{1,12}(?:\.[^\W\d_]{1,3}){0,3}\Z")
_NEXT = re.compile(r"\s+[\"'“‘«(\[*_`]{0,3}(.)", re.DOTALL)
_ABBREVIATIONS = frozenset(
    """
    al approx bzw ca cap ch cf co corp dept dr ed eds e.g eq esp etc fig figs gen i.e inc jr
    lit ltd mr mrs ms nr op p pp prof ref refs resp rev sec sp sr st tab u.a u.s usw
    v viz vol vs z.b jan feb mar apr jun jul aug sep sept oct nov dec
    """.split()  # noqa: SIM905
)
_BEFORE_NUMBERS = frozenset(("art", "ext", "max", "min", "no", "nos"))
_UNIT_CHARS_MAX = PASSAGE_CHARS_MAX // 2


def sentences(text: str, start: int, stop: int) -> Iterator[Span]:
    """Yield the sentences of a stretch of text, without the white space around them."""
    begin = start
    for found in _BORDER.finditer(text, start, stop):
        end = found.end()
        if found[0][0] in ".!?…" and not _ends_sentence(text, found.start(), end, stop):
            continue
        yield from trimmed(text, begin, end)
        begin = end
    yield from trimmed(text, begin, stop)


def lines(text: str, start: int, stop: int) -> Iterator[Span]:
    """Yield the lines of a stretch of text that are not blank; their indentation is kept."""
    while start < stop:
        end = text.find("\n", start, stop)
        end = stop if end < 0 else end
        length = len(text[start:end].rstrip())
        if length:
            yield start, start + length
        start = end + 1


def split_long(
    text: str, start: int, stop: int, count: Callable[[str], int], tokens_max: int
) -> Iterator[tuple[int, int, int]]:
    """Yield a stretch in pieces (start, stop, tokens) of at most `tokens_max` tokens each: halves
    of halves, cut at a line end or between words near the middle, if there are any.
    """
    waiting = [(start, stop)]
    while waiting:
        begin, end = waiting.pop()
        if end - begin <= _UNIT_CHARS_MAX:
            tokens = count(text[begin:end])
            if tokens <= tokens_max or end - begin < 2:
                yield begin, end, tokens
                continue
        middle = _middle(text, begin, end)
        waiting += [*trimmed(text, middle, end), *trimmed(text, begin, middle)]


def trimmed(text: str, start: int, stop: int) -> Iterator[Span]:
    """Yield the span without white space around it, if anything is left."""
    piece = text[start:stop]
    bare = piece.lstrip()
    if bare:
        yield stop - len(bare), start + len(piece.rstrip())


def _ends_sentence(text: str, mark: int, end: int, stop: int) -> bool:
    following = _NEXT.match(text, end, min(stop, end + 200))
    if following and following[1].islower():
        return False
    if text[mark] != "." or end > mark + 1:  # a quote or a bracket is closed behind it
        return True
    word = _WORD_BEFORE.search(text, max(0, mark - 24), mark)
    if word is None:
        return True
    name = word[0].lower()
    if following and following[1].isdigit() and name in _BEFORE_NUMBERS:
        return False
    return not (name in _ABBREVIATIONS or (len(name) == 1 and word[0].isupper()))


def _middle(text: str, start: int, stop: int) -> int:
    """Return where to cut: in the middle half at a line end, else at a space, else anywhere."""
    middle, quarter = (start + stop) // 2, (stop - start) // 4
    low, high = middle - quarter, middle + quarter
    for mark in ("\n", " "):
        before, after = text.rfind(mark, low, middle), text.find(mark, middle, high)
        if before > start and (after < 0 or middle - before <= after - middle):
            return before
        if after > start:
            return after
    while middle < stop - 1 and unicodedata.combining(text[middle]):
        middle += 1
    return max(start + 1, middle)
