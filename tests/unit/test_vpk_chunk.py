"""Passages: exact spans, sentence borders, headings, overlap, and never over the model's bound."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kwaai import limits
from kwaai.vpk.documents.chunk import chunk, embedded_text, estimate_tokens
from kwaai.vpk.documents.document import Document, Writer
from kwaai.vpk.documents.sentences import sentences
from kwaai.vpk.types import Passage

SENTENCE = "The boat lies in the harbour and waits for better weather."


def words(text: str) -> int:
    return len(text.split())


def document(*parts: tuple[str, int | str]) -> Document:
    """(heading, level) and (text, kind), one after the other."""
    writer = Writer()
    for text, what in parts:
        if isinstance(what, int):
            writer.add_heading(text, what)
        else:
            writer.add(text, "lines" if what == "lines" else "text")
    return writer.finish("text/plain")


def spans(text: str) -> list[str]:
    return [text[start:stop] for start, stop in sentences(text, 0, len(text))]


def check(made: Document, passages: list[Passage]) -> None:
    covered = bytearray(len(made.text))
    for passage in passages:
        assert made.text[passage.start : passage.stop] == passage.text
        assert passage.text == passage.text.strip("\n ") or passage.text.strip()
        covered[passage.start : passage.stop] = b"\1" * (passage.stop - passage.start)
    for before, after in itertools.pairwise(passages):
        assert before.start < after.start
        assert before.stop < after.stop
    for block in made.blocks:  # nothing is lost, but what a heading path says
        if block.kind != "heading":
            left_out = [at for at in range(block.start, block.stop) if not covered[at]]
            assert not "".join(made.text[at] for at in left_out).strip()


def test_a_short_document_is_one_passage() -> None:
    made = document(("Title", 1), ("One sentence.", "text"))
    assert chunk(made) == [Passage("One sentence.", ("Title",), None, 7, 20)]
    assert embedded_text(chunk(made)[0]) == "Title\nOne sentence."
    assert chunk(document()) == []


def test_long_text_is_cut_at_sentences_with_overlap() -> None:
    made = document((" ".join([SENTENCE] * 100), "text"))
    passages = chunk(made, words, target_tokens=80)
    check(made, passages)
    assert all(words(p.text) <= 80 and p.text.endswith("weather.") for p in passages)
    for before, after in itertools.pairwise(passages):
        assert made.text[after.start : before.stop] == SENTENCE  # 11 words: 15 % of 80 are 12
    assert len(chunk(made, words, target_tokens=80, overlap=0.1)) == 15  # no sentence has 8


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("One. Two! Three? Four", 4),
        ("Dr. Who met Mr. X. He said e.g. that. Then J. S. Bach came.", 2),
        ("It costs 3.50 a piece, at example.com. Fine.", 2),
        ("He said “No.” Then (he left.) Gone.", 3),
        ("一句话。两句话！三？", 3),
        ("Wait... what is it? Nothing. See no. 5 of it. I said no. He left.", 5),
        ("a list\n- one\n- two\n3. three", 4),
        ("para\n\npara two", 2),
        ("line\ngoes on. Next", 2),
        ("", 0),
    ],
)
def test_sentences(text: str, parts: int) -> None:
    found = spans(text)
    assert len(found) == parts, found


def test_lines_are_cut_at_line_ends() -> None:
    made = document(("\n".join(f"    row {n} of the table" for n in range(100)), "lines"))
    passages = chunk(made, words, target_tokens=50)
    check(made, passages)
    assert all(re.fullmatch(r"( *row \d+ of the table\n?)+", p.text) for p in passages)


def test_a_passage_does_not_go_over_a_heading() -> None:
    long = " ".join([SENTENCE] * 6)
    made = document(("A", 1), (long, "text"), ("B", 2), (long, "text"), ("C", 1), (long, "text"))
    assert [p.heading for p in chunk(made)] == [("A",), ("A", "B"), ("C",)]


def test_short_sections_share_a_passage_that_says_their_headings() -> None:
    made = document(("Doc", 1), *[(t, k) for n in "AB" for t, k in ((n, 2), (f"is {n}.", "text"))])
    (passage,) = chunk(made)
    assert passage.heading == ("Doc",)
    assert passage.text == "A\n\nis A.\n\nB\n\nis B."


def test_a_heading_with_nothing_below_it_can_be_found() -> None:
    made = document(("Doc", 1), ("Buy milk", 2))
    assert [(p.heading, p.text) for p in chunk(made)] == [(("Doc",), "Buy milk")]


def test_no_heading_ends_a_passage() -> None:
    parts: list[tuple[str, int | str]] = []
    for n in range(40):
        parts += [(f"Heading {n}", 2), (f"Some {'more ' * 10}words of {n}.", "text")]
    made = document(*parts)
    passages = chunk(made, words, target_tokens=40)
    check(made, passages)
    assert all(not re.search(r"Heading \d+\Z", p.text) for p in passages)


def test_very_long_words_and_sentences_are_divided() -> None:
    for text in ("x" * 50_000, "word " * 20_000, "語" * 5_000, "é" * 3000):
        made = document((text.strip(), "text"))
        passages = chunk(made)
        check(made, passages)
        assert all(len(p.text) <= limits.PASSAGE_CHARS_MAX for p in passages)
        assert all(estimate_tokens(p.text) + 2 <= limits.PASSAGE_TOKENS_MAX for p in passages)


def test_a_token_of_any_length_does_not_make_a_passage_of_any_length() -> None:
    made = document(("x" * 50_000, "text"))
    assert all(len(p.text) <= limits.PASSAGE_CHARS_MAX for p in chunk(made, lambda text: 1))


def test_long_heading_paths_keep_their_innermost_part() -> None:
    parts: list[tuple[str, int | str]] = [(f"Chapter {'long ' * 30}{n}", n) for n in range(1, 7)]
    (passage,) = chunk(document(*parts, ("Text.", "text")))
    assert len(passage.heading) == 1
    assert estimate_tokens(passage.heading[0]) <= limits.PASSAGE_HEADING_TOKENS_MAX


def paged(*pages: str) -> Document:
    writer = Writer()
    for number, text in enumerate(pages, 1):
        writer.page = number
        writer.add(text)
    return writer.finish("application/pdf")


def test_a_page_that_ends_with_a_sentence_ends_a_passage() -> None:
    made = paged(*[" ".join([SENTENCE] * 12)] * 3)
    passages = chunk(made)
    check(made, passages)
    assert [passage.page for passage in passages] == [1, 2, 3]


def test_slides_have_a_passage_each() -> None:
    made = paged(*[f"{SENTENCE} This is slide {n}, one of many." for n in range(1, 9)])
    assert [passage.page for passage in chunk(made)] == [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_sentence_goes_on_over_pages_and_is_cited_where_most_of_it_is() -> None:
    half = "and waits " * 10
    made = paged(f"{SENTENCE} The boat", f"{half}. {SENTENCE}", "Bits.", "Pieces.", SENTENCE * 2)
    passages = chunk(made)
    check(made, passages)
    assert [(passage.page, "Bits." in passage.text) for passage in passages] == [
        (2, False),
        (5, True),
    ]


def bytes_of(text: str) -> int:
    return len(text.encode("utf-8", "replace"))


PARTS = st.lists(
    st.one_of(
        st.tuples(st.text(min_size=1, max_size=40), st.integers(1, 6)),
        st.tuples(st.text(min_size=1, max_size=200), st.sampled_from(["text", "lines"])),
        st.tuples(
            st.lists(st.sampled_from([SENTENCE, "Oh.", "x" * 70, "\n", "- a"]), max_size=40).map(
                " ".join
            ),
            st.sampled_from(["text", "lines"]),
        ),
    ),
    max_size=12,
)


@settings(max_examples=300, deadline=None)
@given(PARTS, st.sampled_from([words, estimate_tokens, bytes_of]), st.integers(20, 300))
def test_any_document(parts: list[tuple[str, int | str]], count: object, target: int) -> None:
    assert callable(count)
    made = document(*parts)
    passages = chunk(made, count, target_tokens=target)
    check(made, passages)
    for passage in passages:
        assert count(embedded_text(passage)) + 2 <= limits.PASSAGE_TOKENS_MAX
        assert len(passage.text) <= limits.PASSAGE_CHARS_MAX
