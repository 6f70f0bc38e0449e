"""Full-text search: SQLite's FTS5, contentless, in the base's own encrypted database.

Any text of a user's is a query: it is cut into words with the index's own tokenizer and quoted, so
that nothing of FTS5's query language is left in it. The rarest words count most in BM25, and cost
least: common ones are left out once the rest would have to read too many postings. Keeps no text:
passages come from the hosts. docs/vpk.md, "Search".
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, cast

from kwaai.limits import (
    BASE_QUERY_CHARS_MAX,
    BASE_QUERY_POSTINGS_MAX,
    BASE_QUERY_TERMS_MAX,
)
from kwaai.vpk.fusion import Ranked

if TYPE_CHECKING:
    import apsw

FULLTEXT_SCHEMA = """
CREATE VIRTUAL TABLE texts USING fts5(
  body, context, content='', contentless_delete=1, tokenize='porter unicode61 remove_diacritics 2'
);
CREATE VIRTUAL TABLE terms USING fts5vocab(texts, 'row');
"""
"""`context`: the document's name and the headings above a passage."""

_BODY_WEIGHT, _CONTEXT_WEIGHT = 1.0, 0.5
_WORDS = ("unicode61", ["remove_diacritics", "2"])
_STEMS = ("porter", ["unicode61", "remove_diacritics", "2"])


def index_texts(
    connection: apsw.Connection, first_row: int, texts: Iterable[tuple[str, str]]
) -> None:
    """Index (body, context) of consecutive rows."""
    connection.executemany(
        "INSERT INTO texts(rowid, body, context) VALUES (?, ?, ?)",
        ((row, body, context) for row, (body, context) in enumerate(texts, first_row)),
    )


def forget_texts(connection: apsw.Connection, rows: Iterable[int]) -> None:
    """Take rows out of the index; those that are not there are left alone."""
    connection.executemany("DELETE FROM texts WHERE rowid = ?", ((row,) for row in rows))


def search_texts(connection: apsw.Connection, text: str, count: int) -> list[Ranked]:
    """Return up to `count` rows that have words of `text`, the best BM25 first. Empty where `text`
    has no word that the base knows.
    """
    words = query_words(connection, text)
    if not words:
        return []
    match = " OR ".join(f'"{word}"' for word in words)
    found = connection.execute(
        "SELECT rowid, bm25(texts, ?, ?) AS score FROM texts WHERE texts MATCH ?"
        " ORDER BY score LIMIT ?",
        (_BODY_WEIGHT, _CONTEXT_WEIGHT, match, count),
    )
    return [Ranked(int(row), -float(score)) for row, score in found]


def query_words(connection: apsw.Connection, text: str) -> list[str]:
    """Return the words of a query that are looked for, the rarest first: at most
    BASE_QUERY_TERMS_MAX, together in at most BASE_QUERY_POSTINGS_MAX rows (the rarest one always).
    """
    by_stem = _stems(connection, text[:BASE_QUERY_CHARS_MAX])
    found = []
    for stem, word in by_stem.items():
        rows = connection.execute("SELECT doc FROM terms WHERE term = ?", (stem,)).get
        if rows:
            found.append((int(rows), word))
    found.sort()
    words: list[str] = []
    postings = 0
    for rows, word in found[:BASE_QUERY_TERMS_MAX]:
        postings += rows
        if words and postings > BASE_QUERY_POSTINGS_MAX:
            break
        words.append(word)
    return words


def _stems(connection: apsw.Connection, text: str) -> dict[str, str]:
    """Return the words of a text by their stems, in order of appearance."""
    import apsw

    # A lone surrogate has no UTF-8; it is no letter either.
    data = text.encode("utf-8", "replace").replace(b"\0", b" ")
    stems, words = (
        cast(
            "list[str]",
            connection.fts5_tokenizer(name, arguments)(
                data, apsw.FTS5_TOKENIZE_QUERY, None, include_offsets=False, include_colocated=False
            ),
        )
        for name, arguments in (_STEMS, _WORDS)
    )
    return dict(zip(stems, words, strict=True))
