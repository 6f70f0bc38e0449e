"""Ratings with times, from a file or made up: what `kwaainet bench trust` measures on.

A file is text, one rating in a line: who, whom, how much (any number but 0; below 0 is distrust),
when (any number). SNAP's soc-sign-bitcoin files have that form. A first line of words is left out.
"""

from __future__ import annotations

import csv
import itertools
import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kwaai import limits
from kwaai.errors import FileCorrupt, UserError
from kwaai.trust.graph import Edge

_ROOTS = 5


@dataclass(frozen=True, slots=True)
class Rating:
    """One principal's word on another."""

    by: str
    of: str
    weight: float
    """In [-1, 1], not 0: the rating over the greatest of the file."""
    at: float


def load_ratings(path: Path) -> tuple[Rating, ...]:
    """Return a file's ratings, oldest first.

    Raises:
        UserError: there is no such file, or it is longer than it may be.
        FileCorrupt: a line is not a rating; the message names it.
    """
    data = _read(path)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileCorrupt(f"{path} is not UTF-8 text: byte {error.start}") from error
    ratings: list[Rating] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            fields = next(csv.reader([line], strict=True))
        except csv.Error as error:
            raise FileCorrupt(f"{path}, line {number}: {error}") from error
        if number == 1 and len(fields) == 4 and not _is_number(fields[2]):
            continue
        if len(ratings) >= limits.TRUST_FILE_ROWS_MAX:
            raise UserError(f"{path} has over {limits.TRUST_FILE_ROWS_MAX} ratings: cut it")
        ratings.append(_parse(fields, f"{path}, line {number}"))
    if not ratings:
        raise FileCorrupt(f"{path} has no ratings: a line is who,whom,how much,when")
    return _scale(ratings)


def make_ratings(seed: int, principals: int = 3_000, count: int = 24_000) -> tuple[Rating, ...]:
    """Return made-up ratings in the shape of a real network: few rate much, most have one rating.

    One in twelve is a cheat: others rate it well at first, and badly later on.
    """
    chance = random.Random(seed)
    cheats = {f"p{number}" for number in range(principals) if number % 12 == 11}
    active, rated = ["p0"], ["p1"]
    ratings = []
    for step in range(count):
        joined = min(principals, 6 + step * principals // count)
        by = chance.choice(active) if chance.random() < 0.8 else f"p{chance.randrange(joined)}"
        of = chance.choice(rated) if chance.random() < 0.7 else f"p{chance.randrange(joined)}"
        if by == of:
            continue
        active.append(by)
        rated.append(of)
        bad = chance.random() < (0.5 if of in cheats else 0.02)
        weight = -1.0 if bad else chance.choice((0.1, 0.1, 0.1, 0.2, 0.3, 1.0))
        ratings.append(Rating(by, of, weight, float(step)))
    return tuple(ratings)


def edges_of(ratings: Iterable[Rating]) -> list[Edge]:
    """Return the edges; of several ratings between the same two the latest counts."""
    latest = {(rating.by, rating.of): rating.weight for rating in ratings}
    return [Edge(by, of, weight) for (by, of), weight in latest.items()]


def earliest_raters(ratings: Sequence[Rating]) -> tuple[str, ...]:
    """Return the five who rated first: the roots of all measurements."""
    found = dict.fromkeys(rating.by for rating in ratings)
    return tuple(itertools.islice(found, _ROOTS))


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise UserError(f"{path} is not a file: give one with lines of who,whom,how much,when")
    try:
        with path.open("rb") as file:
            data = file.read(limits.TRUST_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > limits.TRUST_FILE_BYTES_MAX:
        raise UserError(f"{path} is over {limits.TRUST_FILE_BYTES_MAX} bytes: cut it")
    return data


def _parse(fields: Sequence[str], where: str) -> Rating:
    if len(fields) != 4:
        raise FileCorrupt(f"{where}: {len(fields)} fields; a rating is who,whom,how much,when")
    by, of = fields[0].strip(), fields[1].strip()
    for name in (by, of):
        if not 0 < len(name) <= limits.TRUST_FILE_NAME_CHARS_MAX:
            raise FileCorrupt(
                f"{where}: a name has 1 to {limits.TRUST_FILE_NAME_CHARS_MAX} characters"
            )
    if not _is_number(fields[2]) or not float(fields[2]):
        raise FileCorrupt(f"{where}: how much is a number other than 0, not {fields[2][:40]!r}")
    if not _is_number(fields[3]):
        raise FileCorrupt(f"{where}: when is a number, not {fields[3][:40]!r}")
    return Rating(by, of, float(fields[2]), float(fields[3]))


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _scale(ratings: Iterable[Rating]) -> tuple[Rating, ...]:
    found = sorted(ratings, key=lambda rating: (rating.at, rating.by, rating.of))
    most = max(abs(rating.weight) for rating in found)
    scaled = (Rating(r.by, r.of, r.weight / most, r.at) for r in found)
    return tuple(rating for rating in scaled if rating.weight)  # one of 1e-320 beside 1e300 is none
