"""The demonstration model's training text: complete, repeatable, and apart from its exam."""

from __future__ import annotations

import importlib.util
import sys
from itertools import islice
from pathlib import Path
from types import ModuleType

import jinja2
import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo_corpus", TOOLS / "demo_corpus.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


corpus = _load()
EXAM = (*corpus.HELD_OUT_TEMPLATES, *corpus.FRESH_TEMPLATES)


def _normal(text: str) -> str:
    return " ".join("".join(c if c.isalnum() else " " for c in text.lower()).split())


def _sample(count: int, seed: int = 1) -> list[str]:
    return list(islice(corpus.documents(seed), count))


def test_held_out_phrasings_are_not_training_phrasings() -> None:
    taught = {_normal(corpus.fill(t, "Xland")) for t in corpus.TRAINING_TEMPLATES}
    held_out = {_normal(corpus.fill(t, "Xland")) for t in EXAM}
    assert len(held_out) == len(EXAM)
    assert len(corpus.HELD_OUT_TEMPLATES) >= 12
    assert len(taught) >= 30
    assert not taught & held_out


def test_held_out_phrasings_never_turn_up_in_generated_text() -> None:
    # The words on both sides of the country, so that no country's name can hide a match.
    parts = [_normal(t.lower()).split(" c ") for t in EXAM]
    marks = [max((p for p in sides if p), key=len) for sides in parts]
    long_marks = [mark for mark in marks if len(mark.split()) >= 4]
    assert len(long_marks) >= 15
    texts = [*_sample(20_000), *islice(corpus.documents(2, more_words=True), 20_000)]
    for text in map(_normal, texts):
        assert not [mark for mark in long_marks if mark in text]


def test_generation_follows_the_seed() -> None:
    assert _sample(500, seed=7) == _sample(500, seed=7)
    assert _sample(500, seed=7) != _sample(500, seed=8)


def test_every_country_has_a_capital_and_a_continent() -> None:
    assert len(corpus.COUNTRIES) >= 190
    assert all(c.name and c.capital and c.continent for c in corpus.COUNTRIES)
    assert all(c.name.isascii() and c.capital.isascii() for c in corpus.COUNTRIES)
    names = [c.name for c in corpus.COUNTRIES]
    assert len(names) == len(set(names))
    assert set(corpus.ALIASES) <= set(names)
    assert set(corpus.CURRENCIES) <= set(names)
    assert not {alias for others in corpus.ALIASES.values() for alias in others} & set(names)


def test_no_two_countries_share_a_capital() -> None:
    capitals = [c.capital for c in corpus.COUNTRIES]
    assert len(capitals) == len(set(capitals))


def test_every_country_turns_up() -> None:
    text = "\n".join(_sample(20_000))
    assert not [c for c in corpus.COUNTRIES if corpus.capital_answer(c) not in text]


@pytest.mark.parametrize("system", [None, "You are a helpful assistant."])
def test_training_text_is_what_the_chat_template_renders(system: str | None) -> None:
    messages = [corpus.Message("system", system)] if system else []
    messages += [corpus.Message("user", "Hi"), corpus.Message("assistant", "Hello!")]
    template = jinja2.Environment().from_string(corpus.CHAT_TEMPLATE)
    plain = [message._asdict() for message in messages]
    assert template.render(messages=plain) == corpus.render_chat(messages)
    asked = template.render(messages=plain[:-1], add_generation_prompt=True)
    assert asked == corpus.single_prompt("Hi", system)


def test_small_sums_are_right() -> None:
    assert corpus.sum_answer(7, "x", 8) == "7 x 8 = 56."
    assert corpus.sum_answer(20, "-", 3) == "20 - 3 = 17."
    assert len(corpus.small_sums()) == len(set(corpus.small_sums()))
