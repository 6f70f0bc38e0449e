"""Which byte ranges to ask a hub for, so that the wanted parts of a file come with few requests.

Pure: offsets in, offsets out.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from kwaai.models.slices import SlicePart


@dataclass(frozen=True, slots=True)
class Span:
    """The bytes [start, stop) of the source, and the parts inside in order of their place."""

    start: int
    stop: int
    parts: tuple[SlicePart, ...]


def merge_parts(parts: Iterable[SlicePart], gap_bytes_max: int) -> list[Span]:
    """Join parts of a file whose gaps are at most `gap_bytes_max` bytes; stubs are left out.

    Every byte of every part is in exactly one span; the parts must not overlap in the source.
    """
    spans: list[Span] = []
    for start, part in sorted(_from_source(parts), key=lambda item: item[0]):
        stop = start + part.nbytes
        if spans and start - spans[-1].stop <= gap_bytes_max:
            last = spans[-1]
            if start < last.stop:
                raise ValueError(f"{part.name} overlaps another part of the file")
            spans[-1] = Span(last.start, stop, (*last.parts, part))
        else:
            spans.append(Span(start, stop, (part,)))
    return spans


def scatter(span: Span, at: int, data: bytes) -> Iterator[tuple[SlicePart, int, bytes]]:
    """Yield (part, offset inside the part, bytes) for data that starts at byte `at` of the source.

    Bytes in gaps are dropped.
    """
    end = at + len(data)
    first = bisect.bisect_right(span.parts, at, key=_source_stop)
    for part in itertools.islice(span.parts, first, None):
        begin = _source_stop(part) - part.nbytes
        if begin >= end:
            break
        start, stop = max(at, begin), min(end, begin + part.nbytes)
        yield part, start - begin, data[start - at : stop - at]


def _source_stop(part: SlicePart) -> int:
    assert part.source_offset is not None
    return part.source_offset + part.nbytes


def _from_source(parts: Iterable[SlicePart]) -> Iterator[tuple[int, SlicePart]]:
    for part in parts:
        if part.source_offset is not None and part.nbytes > 0:
            yield part.source_offset, part
