"""WordPiece against the tokenizer of `tokenizers`, over a vocabulary made here."""

from __future__ import annotations

import string
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwaai.errors import FileCorrupt
from kwaai.limits import EMBED_TEXT_CHARS_MAX, WORDPIECE_WORD_CHARS_MAX
from kwaai.vpk.wordpiece import WordPiece

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
WORDS = [
    "the",
    "un",
    "##aff",
    "##able",
    "run",
    "##ning",
    "e",
    "##e",
    "中",
    "σ",
    "##σ",
    "1",
    "##2",
]
VOCABULARY = [
    *SPECIALS,
    *WORDS,
    *[c for c in string.ascii_lowercase if c != "e"],
    *[f"##{c}" for c in string.ascii_lowercase if c != "e"],
    *string.punctuation,
]
IDS = {word: number for number, word in enumerate(VOCABULARY)}
OURS = WordPiece(VOCABULARY)


def ids(*words: str) -> list[int]:
    return [IDS[word] for word in ("[CLS]", *words, "[SEP]")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ()),
        ("The UNAFFABLE", ("the", "un", "##aff", "##able")),
        ("running, é!", ("run", "##ning", ",", "e", "!")),
        ("the\x00\ufffd\u200bthe", ("the", "##t", "##h", "##e")),  # joined: marks are removed
        ("中中", ("中", "中")),
        ("ΣΑΣ", ("[UNK]",)),  # no alpha in the vocabulary
        ("ΣΣ", ("σ", "##σ")),
        ("12", ("1", "##2")),
        ("\t the \u00a0\u2003 the\r\n", ("the", "the")),
        ("x" * (WORDPIECE_WORD_CHARS_MAX + 1), ("[UNK]",)),
        ("[SEP]", ("[", "s", "##e", "##p", "]")),  # text stays text
    ],
)
def test_known_texts(text: str, words: tuple[str, ...]) -> None:
    assert OURS.encode(text, 64) == ids(*words)
    assert OURS.count(text) == len(words)


def test_long_texts_are_cut() -> None:
    assert OURS.encode("the " * 10, 5) == ids("the", "the", "the")
    assert OURS.encode("unaffable", 4) == ids("un", "##aff")
    far = " " * EMBED_TEXT_CHARS_MAX + "the"
    assert OURS.encode(far, 5) == ids()
    assert OURS.count(far) == 1


@pytest.mark.parametrize("vocabulary", [[], ["[CLS]", "[SEP]"], [*SPECIALS, "a", "a"]])
def test_other_vocabularies_are_refused(vocabulary: list[str]) -> None:
    with pytest.raises(FileCorrupt, match="not BERT's"):
        WordPiece(vocabulary)


@pytest.fixture(scope="module")
def theirs() -> Any:
    tokenizers = pytest.importorskip("tokenizers")
    from tokenizers.models import WordPiece as Model
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer

    model = tokenizers.Tokenizer(
        Model(IDS, unk_token="[UNK]", max_input_chars_per_word=WORDPIECE_WORD_CHARS_MAX)
    )
    model.normalizer, model.pre_tokenizer = BertNormalizer(), BertPreTokenizer()
    return model


# Characters that one Unicode version knows and another does not are left out: those of 3.2 are in
# everybody's tables.
CHARACTERS = st.characters(
    codec="utf-8", exclude_categories=["Cn", "Co"], max_codepoint=0x2FFF
).filter(lambda char: unicodedata.ucd_3_2_0.category(char) not in ("Cn", "Co"))


@given(text=st.text(CHARACTERS | st.sampled_from("abcdethn .,-'$€中é\u0301Σ\t\u00a0")))
def test_same_as_others(theirs: Any, text: str) -> None:
    assert OURS.encode(text, 10_000)[1:-1] == theirs.encode(text).ids


@given(text=st.text(max_size=300), tokens=st.integers(2, 40))
def test_any_text(text: str, tokens: int) -> None:
    found = OURS.encode(text, tokens)
    assert 2 <= len(found) <= tokens
    assert found[0] == IDS["[CLS]"]
    assert found[-1] == IDS["[SEP]"]
    assert len(found) == min(tokens, OURS.count(text) + 2)
