"""Cuts a document into passages: what is embedded, found and cited.

A passage is a contiguous stretch of the text, ends at sentence borders if there are any, does not
go over a heading unless both sides are short, and shares its last sentences with the next one. Its
heading path goes before it when it is embedded (`embedded_text`), and not into what is cited.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from kwaai.limits import (
    PASSAGE_CHARS_MAX,
    PASSAGE_HEADING_TOKENS_MAX,
    PASSAGE_OVERLAP,
    PASSAGE_PAGE_TOKENS_MIN,
    PASSAGE_TOKENS,
    PASSAGE_TOKENS_MAX,
    PASSAGE_TOKENS_MIN,
)
from kwaai.vpk.documents.document import Block, Document
from kwaai.vpk.documents.sentences import lines, sentences, split_long
from kwaai.vpk.types import Passage

CountTokens: TypeAlias = Callable[[str], int]
Headings: TypeAlias = tuple[str, ...]

_MARKS_TOKENS = 2  # that a model adds: one before, one behind
_PIECES = re.compile(r"[A-Za-z0-9]{1,5}|[^\W_]|[^\s\w]|_")
_SENTENCE_ENDS = frozenset(".!?…:;。！？\"'”’»)]")
_SAMPLE_CHARS = 2000
_SAMPLES = 4
_RATIO_MIN, _RATIO_MAX = 0.2, 4.0


@dataclass(frozen=True, slots=True)
class _Unit:
    """What is not cut: a sentence, a line, a heading, or a piece of a very long one."""

    start: int
    stop: int
    tokens: int
    page: int | None
    is_heading: bool


@dataclass(frozen=True, slots=True)
class _Section:
    """Units under one heading path, or under several that were put together."""

    heading: Headings
    units: tuple[_Unit, ...]
    is_merged: bool = False

    @property
    def tokens(self) -> int:
        return sum(unit.tokens for unit in self.units)


def chunk(
    document: Document,
    count_tokens: CountTokens | None = None,
    *,
    target_tokens: int = PASSAGE_TOKENS,
    overlap: float = PASSAGE_OVERLAP,
    tokens_max: int = PASSAGE_TOKENS_MAX,
) -> list[Passage]:
    """Return the passages of a document, in order; none for one without text.

    `count_tokens`: of the model that embeds; None estimates. `target_tokens` and `overlap` (a share
    of it, 0 to 0.5) are aims; no `embedded_text` has more than `tokens_max` tokens, the model's two
    marks included, and `document.text[p.start : p.stop] == p.text` for each passage.
    """
    count = count_tokens or estimate_tokens
    packer = _Packer(document.text, count, target_tokens, overlap, tokens_max)
    sections = _merge(_sections(document, packer), target_tokens)
    return [passage for section in sections for passage in packer.pack(section)]


def embedded_text(passage: Passage) -> str:
    """Return what is embedded of a passage: its heading path, then its text."""
    return _prefix(passage.heading) + passage.text


def estimate_tokens(text: str) -> int:
    """Return about how many tokens a model would make of a text: a word in Latin letters counts for
    each five of them, any other letter or sign for one.
    """
    return len(_PIECES.findall(text))


def _prefix(heading: Headings) -> str:
    return " > ".join(heading) + "\n" if heading else ""


class _Packer:
    """Puts the units of a section into passages.

    The model counts each passage once, before it is done. While units are put together, their
    tokens are estimated, by what the model made of samples of the document.
    """

    def __init__(
        self, text: str, count: CountTokens, target: int, overlap: float, tokens_max: int
    ) -> None:
        self.text, self.count = text, count
        self.target, self.overlap = target, int(target * min(max(overlap, 0.0), 0.5))
        self.tokens_max = max(8, tokens_max - _MARKS_TOKENS)
        self.unit_max = max(4, min(target, self.tokens_max - PASSAGE_HEADING_TOKENS_MAX))
        self.ratio = 1.0 if count is estimate_tokens else _ratio(text, count)

    def measure(self, text: str) -> int:
        """Return about how many tokens the model makes of a text."""
        return max(1, round(self.ratio * estimate_tokens(text)))

    def units(self, block: Block) -> Iterator[_Unit]:
        """Cut a block into what is not cut any further."""
        if block.kind == "heading":
            spans: Iterator[tuple[int, int]] = iter([(block.start, block.stop)])
        else:
            cut = lines if block.kind == "lines" else sentences
            spans = cut(self.text, block.start, block.stop)
        for start, stop in spans:
            pieces = split_long(self.text, start, stop, self.measure, self.unit_max)
            for begin, end, tokens in pieces:
                yield _Unit(begin, end, tokens, block.page, block.kind == "heading")

    def pack(self, section: _Section) -> Iterator[Passage]:
        """Yield the passages of a section."""
        heading = self._fitting(section.heading)
        prefix = self.count(_prefix(heading)) if heading else 0
        room = min(self.target, self.tokens_max - prefix)
        units, first, shown = list(section.units), 0, 0
        while first < len(units):
            last = self._take(units, first, max(room, 1))
            passage = self._passage(units, first, last, heading)
            while self.count(embedded_text(passage)) > self.tokens_max:
                if last > first + 1:
                    last -= 1
                elif not self._halve(units, first):
                    break
                passage = self._passage(units, first, last, heading)
            if passage.stop > shown:
                yield passage
            if last == len(units):
                return
            shown, first = passage.stop, self._next(units, first, last, room)

    def _take(self, units: Sequence[_Unit], first: int, room: int) -> int:
        """Return where a passage that begins with unit `first` stops."""
        last, tokens = first + 1, units[first].tokens
        while last < len(units):
            tokens += units[last].tokens
            too_long = units[last].stop - units[first].start > PASSAGE_CHARS_MAX
            if tokens > room or too_long or self._turns_page(units, first, last):
                break
            last += 1
        while first + 1 < last < len(units) and units[last - 1].is_heading:
            last -= 1  # a heading goes with what stands below it
        return last

    def _turns_page(self, units: Sequence[_Unit], first: int, last: int) -> bool:
        """Say whether a passage shall end before unit `last`, because that begins a page: unless a
        sentence goes on there, or there is too little before it.
        """
        before = units[last - 1]
        if units[last].page == before.page or self.text[before.stop - 1] not in _SENTENCE_ENDS:
            return False
        return sum(unit.tokens for unit in units[first:last]) >= PASSAGE_PAGE_TOKENS_MIN

    def _next(self, units: Sequence[_Unit], first: int, last: int, room: int) -> int:
        """Return the unit that the passage after [first, last) begins with."""
        begin, tokens = last, 0
        while begin - 1 > first and units[begin - 1].page == units[last].page:
            tokens += units[begin - 1].tokens
            if tokens > self.overlap:
                tokens -= units[begin - 1].tokens
                break
            begin -= 1
        is_room = tokens + units[last].tokens <= room
        is_short = units[last].stop - units[begin].start <= PASSAGE_CHARS_MAX
        return begin if is_room and is_short else last

    def _passage(self, units: Sequence[_Unit], first: int, last: int, heading: Headings) -> Passage:
        start, stop = units[first].start, units[last - 1].stop
        pages: Counter[int | None] = Counter()
        for unit in units[first:last]:
            pages[unit.page] += unit.tokens
        page = max(pages, key=lambda page: pages[page])  # the first of equals
        return Passage(self.text[start:stop], heading, page, start, stop)

    def _halve(self, units: list[_Unit], index: int) -> bool:
        """Cut a unit whose tokens do not fit behind its heading; say whether that can be done."""
        unit = units[index]
        if unit.stop - unit.start < 2:
            return False
        half = (unit.stop - unit.start + 1) // 2
        halves = [
            _Unit(start, stop, self.measure(self.text[start:stop]), unit.page, unit.is_heading)
            for start, stop, _ in split_long(self.text, unit.start, unit.stop, len, half)
        ]
        units[index : index + 1] = halves
        return len(halves) > 1

    def _fitting(self, heading: Headings) -> Headings:
        """Return the innermost headings of a path, as many as have their place in a passage."""
        while heading and self.count(_prefix(heading)) > PASSAGE_HEADING_TOKENS_MAX:
            if len(heading) > 1:
                heading = heading[1:]
            else:
                cut = heading[0][: len(heading[0]) // 2].rstrip(" …")
                heading = (f"{cut}…",) if cut else ()
        return heading


def _ratio(text: str, count: CountTokens) -> float:
    """Return how many tokens the model makes for each estimated one, by samples of a text."""
    step = max(len(text) // _SAMPLES, _SAMPLE_CHARS)
    samples = [text[at : at + _SAMPLE_CHARS] for at in range(0, len(text), step)][:_SAMPLES]
    estimated = sum(map(estimate_tokens, samples))
    counted = sum(map(count, samples))
    return min(max(counted / max(estimated, 1), _RATIO_MIN), _RATIO_MAX)


def _sections(document: Document, packer: _Packer) -> Iterator[_Section]:
    """Yield what stands under each heading. A heading with sections below it is in their paths."""
    blocks, first = document.blocks, 0
    while first < len(blocks):
        last = first + 1
        while last < len(blocks) and _continues(blocks[last - 1], blocks[last]):
            last += 1
        section, heading = blocks[first:last], blocks[first].heading
        is_bare = len(section) == 1 and section[0].kind == "heading"
        is_above = last < len(blocks) and blocks[last].heading[: len(heading)] == heading
        if not (is_bare and is_above):
            units = tuple(unit for block in section for unit in packer.units(block))
            if units:
                yield _Section(heading, units)
        first = last


def _continues(before: Block, block: Block) -> bool:
    return block.kind != "heading" and block.heading == before.heading


def _merge(sections: Iterator[_Section], target: int) -> Iterator[_Section]:
    """Yield sections; short ones together with their neighbours, as long as all fit one passage."""
    group: _Section | None = None
    for section in sections:
        if group is None:
            group = section
            continue
        is_short = min(group.tokens, section.tokens) < PASSAGE_TOKENS_MIN
        is_page = section.units[0].page == group.units[-1].page
        is_bit = min(group.tokens, section.tokens) < PASSAGE_PAGE_TOKENS_MIN
        if is_short and (is_page or is_bit) and group.tokens + section.tokens <= target:
            heading = _common(group.heading, section.heading)
            group = _Section(heading, group.units + section.units, True)
        else:
            yield _without_own_heading(group)
            group = section
    if group is not None:
        yield _without_own_heading(group)


def _without_own_heading(section: _Section) -> _Section:
    """Drop a heading that begins a section: its path says it already."""
    if section.is_merged or not section.units or not section.units[0].is_heading:
        return section
    body = tuple(unit for unit in section.units if not unit.is_heading)
    return (
        _Section(section.heading, body) if body else _Section(section.heading[:-1], section.units)
    )


def _common(first: Headings, second: Headings) -> Headings:
    shared = 0
    while shared < min(len(first), len(second)) and first[shared] == second[shared]:
        shared += 1
    return first[:shared]
