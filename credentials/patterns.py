"""Regular expressions of strangers: a subset whose backtracking has a bound that is known before.

Python's engine backtracks; a pattern like `(a+)+$` takes it forever. Read here: characters,
classes, groups, alternatives; repetition of one character in any way, of a group a fixed number of
times or not at all. The bound is choices * length ** repeats. JSON Schema's patterns are ECMA 262:
`$` is the end only, digits are ASCII's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from credentials.errors import SchemaUnknown
from credentials.limits import PATTERN_CHARS_MAX

_CHOICES_MAX: Final = 4096
_REPEATS_MAX: Final = 3
_ESCAPE: Final = r"\\[dwsDWSnrtfv./\\^$*+?()\[\]{}|-]|\\u[0-9a-fA-F]{4}"
# Within a class, Python warns of, and may one day read otherwise, what is excluded here.
_CLASS: Final = rf"\[\^?(?:{_ESCAPE}|(?!--|&&|~~|\|\|)[^\]\[\\])+\]"
_ATOM: Final = re.compile(rf"(?:{_ESCAPE}|{_CLASS}|[^\\\[\](){{}}|*+?^$])")
_REPEAT: Final = re.compile(r"\*|\+|\?|\{([0-9]{1,3})(?:(,)([0-9]{1,3})?)?\}")


@dataclass(frozen=True, slots=True)
class Cost:
    """How often matching may have to try again: `choices` * length ** `repeats`."""

    choices: int
    repeats: int

    def then(self, other: Cost) -> Cost:
        return Cost(self.choices * other.choices, self.repeats + other.repeats)

    def times(self, count: int) -> Cost:
        return Cost(self.choices**count, self.repeats * count)


@dataclass(frozen=True, slots=True)
class Pattern:
    """A pattern that was read, and what it may cost."""

    regex: re.Pattern[str]
    cost: Cost

    def steps(self, text: str) -> int:
        """Return how many steps a search in the text takes at most."""
        length: int = (len(text) + 1) ** max(self.cost.repeats, 1)
        return self.cost.choices * length


@lru_cache(maxsize=256)
def read_pattern(pattern: str) -> Pattern:
    """Read a pattern. Raises SchemaUnknown for what is not of the subset, or costs too much."""
    if len(pattern) > PATTERN_CHARS_MAX:
        raise SchemaUnknown(f"a pattern has more than {PATTERN_CHARS_MAX} characters")
    reader = _Reader(pattern)
    cost = reader.read_alternatives()
    if reader.place != len(pattern):
        raise reader.refusal()
    if not reader.is_anchored():  # it is tried from every character
        cost = cost.then(Cost(1, 1))
    if cost.choices > _CHOICES_MAX or cost.repeats > _REPEATS_MAX:
        raise reader.refusal()
    try:
        return Pattern(re.compile("".join(reader.translated), re.ASCII), cost)
    except (re.error, OverflowError) as error:
        raise SchemaUnknown(f"the pattern {pattern!r:.80} is not understood here") from error


class _Reader:
    """One pattern being read: `translated` is what of it Python shall see."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self.place = 0
        self.translated: list[str] = []
        self._top_alternatives = 1
        self._depth = 0

    def refusal(self) -> SchemaUnknown:
        return SchemaUnknown(f"the pattern {self._pattern!r:.80} could take without end")

    def is_anchored(self) -> bool:
        return self._pattern.startswith("^") and self._top_alternatives == 1

    def read_alternatives(self) -> Cost:
        """Read up to the end of the pattern or group."""
        total = self._read_sequence()
        while self._take("|"):
            if self._depth == 0:
                self._top_alternatives += 1
            other = self._read_sequence()
            total = Cost(total.choices + other.choices, max(total.repeats, other.repeats))
        return total

    def _read_sequence(self) -> Cost:
        cost = Cost(1, 0)
        while self.place < len(self._pattern) and self._pattern[self.place] not in "|)":
            cost = cost.then(self._read_part())
            if cost.choices > _CHOICES_MAX or cost.repeats > _REPEATS_MAX:
                raise self.refusal()
        return cost

    def _read_part(self) -> Cost:
        """Read one anchor, character or group, with its repetition."""
        if self._take("^"):
            return Cost(1, 0)
        if self._take("$", r"\Z"):
            return Cost(1, 0)
        if self._take("(?:") or self._take("("):
            self._depth += 1
            inner = self.read_alternatives()
            self._depth -= 1
            if not self._take(")"):
                raise self.refusal()
            return self._repeat(inner, group=True)
        atom = _ATOM.match(self._pattern, self.place)
        if atom is None:
            raise self.refusal()
        self._take(atom[0])
        return self._repeat(Cost(1, 0), group=False)

    def _repeat(self, cost: Cost, *, group: bool) -> Cost:
        found = _REPEAT.match(self._pattern, self.place)
        if found is None:
            return cost
        self._take(found[0])
        if found[0] == "?":
            return Cost(cost.choices + 1, cost.repeats)
        least, comma, most = found.groups()
        if least is not None and comma is None:
            return cost.times(int(least))
        if group:
            raise self.refusal()
        if most is not None:
            return Cost(max(int(most) - int(least) + 1, 1), 0)
        return Cost(1, 1)

    def _take(self, text: str, translation: str | None = None) -> bool:
        """Step over `text` if it is next."""
        if not self._pattern.startswith(text, self.place):
            return False
        self.place += len(text)
        self.translated.append(text if translation is None else translation)
        return True
