"""Turn the bytes of tokens into text that may be shown now, and end it at a stop string.

Does not know tokens or the tokenizer. A character split over tokens waits until it is whole; bytes
that can never become a character turn into U+FFFD as soon as that is certain, the same ones as
`bytes.decode(errors="replace")` gives for the whole. Text that may be the beginning of a stop
string is held back: never more than the longest stop.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable

from kwaai import limits
from kwaai.errors import UserError


class TextStream:
    """The text of one answer. The stop string that is complete first ends it; of two that are
    complete with the same character, the longer.
    """

    def __init__(self, stops: Iterable[str] = ()) -> None:
        """Raises UserError for an empty or too long stop string, or too many of them."""
        unique = tuple(dict.fromkeys(stops))
        if len(unique) > limits.STOPS_MAX:
            raise UserError(
                f"stop has {len(unique)} strings; at most {limits.STOPS_MAX} are allowed",
                param="stop",
            )
        for stop in unique:
            size = len(stop.encode("utf-8", "surrogatepass"))
            if not 1 <= size <= limits.STOP_BYTES_MAX:
                raise UserError(
                    f"a stop string must have 1 to {limits.STOP_BYTES_MAX} bytes, not {size}",
                    param="stop",
                )
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._matchers = [_Matcher(stop) for stop in unique]
        self._held = ""
        self.stopped = False
        """Whether a stop string is complete. What comes after it is ignored."""

    def push(self, piece: bytes) -> str:
        """Take one token's bytes; return the text that is certain now, never a part of a stop."""
        return "" if self.stopped else self._advance(self._decoder.decode(piece))

    def finish(self) -> str:
        """Return what was held back, as no more comes; an unfinished character is U+FFFD."""
        if self.stopped:
            return ""
        text = self._advance(self._decoder.decode(b"", final=True))
        text, self._held = text + self._held, ""
        return text

    def _advance(self, text: str) -> str:
        if not self._matchers:
            return text
        before = len(self._held)
        joined = self._held + text
        for index, character in enumerate(text, before + 1):
            longest = 0
            for matcher in self._matchers:
                if matcher.advance(character):
                    longest = max(longest, len(matcher.stop))
            if longest:
                self.stopped, self._held = True, ""
                return joined[: index - longest]
        certain = len(joined) - max(matcher.matched for matcher in self._matchers)
        self._held = joined[certain:]
        return joined[:certain]


class _Matcher:
    """Knuth, Morris and Pratt's search for one stop, a character at a time: linear in the text."""

    __slots__ = ("_fallback", "matched", "stop")

    def __init__(self, stop: str) -> None:
        self.stop = stop
        self.matched = 0
        """How much of the stop's beginning the text so far ends with."""
        self._fallback = [0] * len(stop)
        for end in range(1, len(stop)):
            matched = self._fallback[end - 1]
            while matched and stop[matched] != stop[end]:
                matched = self._fallback[matched - 1]
            self._fallback[end] = matched + (stop[matched] == stop[end])

    def advance(self, character: str) -> bool:
        """Take one character; tell whether the stop is complete. Not called again after that."""
        matched = self.matched
        while matched and self.stop[matched] != character:
            matched = self._fallback[matched - 1]
        self.matched = matched + (self.stop[matched] == character)
        return self.matched == len(self.stop)
