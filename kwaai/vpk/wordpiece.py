"""Text to token ids of BERT's uncased vocabulary: clean, lower-case, split, longest pieces first.

What looks like a control token in a text stays text. Reads one vocabulary and knows no model.
Source: Devlin et al. 2019 (BERT), and the `bert-base-uncased` tokenizer, which the tests compare
with.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterator, Sequence

from kwaai.errors import FileCorrupt
from kwaai.limits import EMBED_TEXT_CHARS_MAX, WORDPIECE_CACHE_WORDS, WORDPIECE_WORD_CHARS_MAX

CLS, SEP, UNKNOWN = "[CLS]", "[SEP]", "[UNK]"
SPECIALS = 2
"""Tokens that `encode` puts around a text: one before, one behind."""
_ASCII_PARTS = re.compile(r"[!-/:-@\[-`{-~]|[^!-/:-@\[-`{-~\s]+")
_ASCII_CONTROLS = dict.fromkeys((*range(9), 11, 12, *range(14, 32), 127))
_IDEOGRAPHS = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B920, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)


class WordPiece:
    """One vocabulary. Any thread may use it."""

    def __init__(self, vocabulary: Sequence[str]) -> None:
        """`vocabulary`: each token's text, in the order of their ids. Raises FileCorrupt."""
        self._ids = {token: number for number, token in enumerate(vocabulary)}
        missing = [token for token in (CLS, SEP, UNKNOWN) if token not in self._ids]
        if missing or len(self._ids) != len(vocabulary):
            raise FileCorrupt(f"the vocabulary has {missing or 'a token twice'}: it is not BERT's")
        self._cls, self._sep = self._ids[CLS], self._ids[SEP]
        self._unknown = self._ids[UNKNOWN]
        self._longest = max(map(len, vocabulary))
        self._pieces = functools.lru_cache(WORDPIECE_CACHE_WORDS)(self._split_word)

    def encode(self, text: str, tokens_max: int) -> list[int]:
        """Return at most `tokens_max` ids, the first [CLS], the last [SEP]. Only the first
        EMBED_TEXT_CHARS_MAX characters are looked at.
        """
        ids = [self._cls]
        for word in _words(text[:EMBED_TEXT_CHARS_MAX]):
            ids += self._pieces(word)
            if len(ids) >= tokens_max:
                del ids[tokens_max - 1 :]
                break
        ids.append(self._sep)
        return ids

    def count(self, text: str) -> int:
        """Return how many tokens all of `text` has, without [CLS] and [SEP]."""
        return sum(len(self._pieces(word)) for word in _words(text))

    def _split_word(self, word: str) -> tuple[int, ...]:
        if len(word) > WORDPIECE_WORD_CHARS_MAX:
            return (self._unknown,)
        ids, start = [], 0
        while start < len(word):
            mark = "##" if start else ""
            for stop in range(min(len(word), start + self._longest), start, -1):
                number = self._ids.get(mark + word[start:stop])
                if number is not None:
                    break
            else:
                return (self._unknown,)
            ids.append(number)
            start = stop
        return tuple(ids)


def _words(text: str) -> Iterator[str]:
    if text.isascii():
        yield from _ASCII_PARTS.findall(text.translate(_ASCII_CONTROLS).lower())
        return
    cleaned = "".join(map(_clean, text))
    bare = "".join(c for c in unicodedata.normalize("NFD", cleaned) if _category(c) != "Mn")
    # Only the capital sigma becomes one of two letters, by what follows; here always the same.
    for run in bare.replace("Σ", "σ").lower().split():
        yield from _ASCII_PARTS.findall(run) if run.isascii() else _split_punctuation(run)


@functools.lru_cache(4096)
def _clean(char: str) -> str:
    """Return what stands for a character: itself, a space, nothing, or it between spaces."""
    if char in "\t\n\r":
        return " "
    code = ord(char)
    if code == 0xFFFD or unicodedata.category(char).startswith("C"):
        return ""
    if char.isspace():
        return " "
    if any(first <= code <= last for first, last in _IDEOGRAPHS):
        return f" {char} "
    return char


@functools.lru_cache(4096)
def _category(char: str) -> str:
    return unicodedata.category(char)


def _split_punctuation(run: str) -> Iterator[str]:
    start = 0
    for position, char in enumerate(run):
        if _category(char).startswith("P") or char in "$+<=>^`|~":
            if start < position:
                yield run[start:position]
            yield char
            start = position + 1
    if start < len(run):
        yield run[start:]
