"""Erasure coding: bytes become `count` payloads, any `least` of which give them back.

A Cauchy Reed-Solomon code over GF(256) (polynomial 0x11D), systematic, with the matrix that ISA-L
uses, computed as exclusive ors of bit planes (Bloemer et al. 1995) at some 0.8 GB/s. Says nothing
about who made a payload or whether it was altered: `fragments` does. docs/vpk.md, "Fragments".
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from kwaai.errors import TooFewHosts, UserError
from kwaai.limits import VPK_FRAGMENTS_MAX, VPK_LARGE_BYTES_MIN

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kwaai.vpk.spread import Place

_PLANES: Final = 8
STEP: Final = 8 * _PLANES
"""A payload has so many bytes, or a multiple: eight planes of words."""
_BLOCK_WORDS: Final = 4096  # of a plane at a time: they stay in the processor's cache
_CODINGS: Final = ((6, 12), (4, 8))


@dataclass(frozen=True, slots=True)
class Coding:
    """`count` fragments, any `least` of which are enough. One of `least`: whole copies."""

    least: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.count <= VPK_FRAGMENTS_MAX:
            raise UserError(f"{self.least} of {self.count} is no coding")

    def __str__(self) -> str:
        return f"{self.least}/{self.count}"

    @property
    def is_whole(self) -> bool:
        """Each fragment is the whole."""
        return self.least == 1

    @property
    def strangers_max(self) -> int:
        """Of the fragments, with hosts that may not be the only ones: too few to withhold it."""
        return self.count - self.least


def parse_coding(text: str, replicas: int) -> Coding:
    """Read `4/8`, or `whole`. Raises UserError."""
    if text == "whole":
        return Coding(1, replicas)
    least, _, count = text.partition("/")
    if not (least.isascii() and least.isdigit() and count.isascii() and count.isdigit()):
        raise UserError(f"{text!r:.20} is no coding: 4/8, for one")
    return Coding(int(least[:3]), int(count[:3]))


def coding_for(places: Sequence[Place], replicas: int, length: int) -> Coding:
    """Return how `length` bytes are best kept on these hosts: 6 of 12, 4 of 8, each fragment with
    another owner and strangers never with enough to withhold it; else whole copies.
    """
    owners = len({p.owner for p in places})
    anchors = len({p.owner for p in places if p.anchor})
    if length >= VPK_LARGE_BYTES_MIN:
        for least, count in _CODINGS:
            if owners >= count and anchors >= least:
                return Coding(least, count)
    return Coding(1, max(1, min(replicas, len(places))))


def payload_bytes(length: int, coding: Coding) -> int:
    """Return the size of each payload of so many bytes."""
    if coding.is_whole:
        return length
    return -(-length // (coding.least * STEP)) * STEP


def encode(data: bytes | memoryview, coding: Coding) -> list[bytes]:
    """Return `coding.count` payloads of `data`, which is not empty."""
    if coding.is_whole:
        return [bytes(data)] * coding.count
    size = payload_bytes(len(data), coding)
    padded = bytes(data).ljust(size * coding.least, b"\0")
    chunks = [padded[i * size : (i + 1) * size] for i in range(coding.least)]
    planes = [plane for chunk in chunks for plane in _planes(chunk)]
    rows = _matrix(coding.least, coding.count)[coding.least :]
    parity = _combine(planes, _bit_rows(rows)).data.cast("B")
    return chunks + [bytes(parity[i * size : (i + 1) * size]) for i in range(len(rows))]


def decode(payloads: Mapping[int, bytes | memoryview], coding: Coding, length: int) -> bytes:
    """Return the data, `length` bytes, of payloads by index, each of `payload_bytes`. Raises
    TooFewHosts where they are too few.
    """
    least = coding.least
    if len(payloads) < least:
        raise TooFewHosts(f"{len(payloads)} fragments came, and {least} are needed")
    if coding.is_whole:
        return bytes(next(iter(payloads.values())))
    used = sorted(payloads)[:least]  # data before parity: what is there need not be computed
    chunks: dict[int, bytes | memoryview] = {i: payloads[i] for i in used if i < least}
    lost = [i for i in range(least) if i not in chunks]
    if lost:
        matrix = _matrix(least, coding.count)
        inverse = _inverse([matrix[i] for i in used])
        planes = [plane for i in used for plane in _planes(payloads[i])]
        restored = _combine(planes, _bit_rows([inverse[i] for i in lost])).data.cast("B")
        size = payload_bytes(length, coding)
        for place, i in enumerate(lost):
            chunks[i] = restored[place * size : (place + 1) * size]
    return b"".join(chunks[i] for i in range(least))[:length]


def _planes(payload: bytes | memoryview) -> NDArray[np.uint64]:
    return np.frombuffer(payload, dtype=np.uint64).reshape(_PLANES, -1)


def _combine(
    planes: Sequence[NDArray[np.uint64]], bit_rows: Sequence[Sequence[int]]
) -> NDArray[np.uint64]:
    """Return one plane for each row: the exclusive or of the planes that the row names."""
    words = len(planes[0])
    out = np.empty((len(bit_rows), words), dtype=np.uint64)
    for start in range(0, words, _BLOCK_WORDS):
        stop = min(words, start + _BLOCK_WORDS)
        block = [plane[start:stop] for plane in planes]
        for target, row in zip(out[:, start:stop], bit_rows, strict=True):
            if len(row) == 1:
                target[:] = block[row[0]]
                continue
            np.bitwise_xor(block[row[0]], block[row[1]], out=target)
            for i in row[2:]:
                np.bitwise_xor(target, block[i], out=target)
    return out


# GF(256).


@functools.cache
def _tables() -> tuple[list[int], list[int]]:
    """Return powers of 2 (twice around) and logarithms."""
    powers, logarithms = [0] * 510, [0] * 256
    value = 1
    for i in range(255):
        powers[i] = powers[i + 255] = value
        logarithms[value] = i
        value = value << 1 ^ (0x11D if value & 0x80 else 0)
    return powers, logarithms


def _times(a: int, b: int) -> int:
    powers, logarithms = _tables()
    return powers[logarithms[a] + logarithms[b]] if a and b else 0


def _reciprocal(a: int) -> int:
    powers, logarithms = _tables()
    return powers[255 - logarithms[a]]


@functools.lru_cache(maxsize=16)
def _matrix(least: int, count: int) -> list[list[int]]:
    """Return (count, least): the identity over 1 / (row xor column)."""
    identity = [[int(i == j) for j in range(least)] for i in range(least)]
    cauchy = [[_reciprocal(i ^ j) for j in range(least)] for i in range(least, count)]
    return identity + cauchy


def _inverse(matrix: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return the inverse of a square matrix: every square part of a Cauchy matrix has one."""
    size = len(matrix)
    rows = [[*row, *(int(i == j) for j in range(size))] for i, row in enumerate(matrix)]
    for column in range(size):
        pivot = next(i for i in range(column, size) if rows[i][column])
        rows[column], rows[pivot] = rows[pivot], rows[column]
        factor = _reciprocal(rows[column][column])
        rows[column] = [_times(factor, v) for v in rows[column]]
        for i in range(size):
            factor = rows[i][column]
            if i != column and factor:
                rows[i] = [
                    v ^ _times(factor, w) for v, w in zip(rows[i], rows[column], strict=True)
                ]
    return [row[size:] for row in rows]


def _bit_rows(rows: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return, for each bit plane of each output, the numbers of the input planes in it."""
    out: list[list[int]] = []
    for row in rows:
        for bit in range(_PLANES):
            out.append(
                [
                    column * _PLANES + source
                    for column, factor in enumerate(row)
                    for source in range(_PLANES)
                    if _times(factor, 1 << source) >> bit & 1
                ]
            )
    return out
