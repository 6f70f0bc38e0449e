"""Answers from a knowledge base: what is searched for, what the model is shown, what is cited."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace

import pytest

from kwaai.errors import BaseMissing, ContextExceeded, UserError
from kwaai.node.generate import (
    ChatMessage,
    Finished,
    GenerationRequest,
    ModelCard,
    TextDelta,
    Timings,
)
from kwaai.node.knowledge_answers import NOTHING, KnowledgeAnswers
from kwaai.node.knowledge_control import HitRow, SearchView
from kwaai.testing.generator import FakeGenerator
from kwaai.testing.knowledge_control import HIT


class Model(FakeGenerator):
    """Remembers what it was asked; its context has room for so many sources."""

    def __init__(self, room: int = 100) -> None:
        super().__init__()
        self.asked: list[GenerationRequest] = []
        self.room = room

    def models(self) -> list[ModelCard]:
        return [replace(card, context_tokens=8192) for card in super().models()]

    async def generate(
        self, request: GenerationRequest
    ) -> AsyncGenerator[TextDelta | Finished, None]:
        self.asked.append(request)
        shown = request.prompt[-1]
        assert isinstance(shown, ChatMessage)
        if shown.content.count("lease.pdf") > self.room:
            raise ContextExceeded("too long")
        yield TextDelta("On 31 March 2031 [1].")
        yield Finished("stop", 3, 5, Timings(0, 0, 0, 0))


class Library:
    """A base that finds `hits`, and remembers what was searched for."""

    def __init__(self, *hits: HitRow) -> None:
        self.hits = hits
        self.asked: list[tuple[str, str, int]] = []

    async def __call__(self, base: str, text: str, count: int) -> SearchView:
        self.asked.append((base, text, count))
        if base != "default":
            raise BaseMissing(f"there is no knowledge base '{base}'")
        return SearchView(base, text, self.hits[:count], ())


def hits(count: int) -> tuple[HitRow, ...]:
    return tuple(replace(HIT, number=n + 1) for n in range(count))


def request(*messages: ChatMessage, model: str = "kwaai-rag/default") -> GenerationRequest:
    return GenerationRequest(model, messages or (ChatMessage("user", "When does it end?"),))


async def answered(answers: KnowledgeAnswers, asked: GenerationRequest) -> tuple[str, Finished]:
    text, end = "", None
    async for item in answers.generate(asked):
        if isinstance(item, Finished):
            end = item
        else:
            text += item.text
    assert end is not None
    return text, end


async def test_the_model_sees_numbered_sources_and_the_asker_gets_them() -> None:
    model, library = Model(), Library(*hits(2))
    text, end = await answered(KnowledgeAnswers(model, lambda: ["default"], library), request())
    assert text == "On 31 March 2031 [1]."
    assert end.sources == hits(2)
    (asked,) = model.asked
    system, question = asked.prompt
    assert isinstance(system, ChatMessage)
    assert isinstance(question, ChatMessage)
    assert (system.role, question.role) == ("system", "user")
    assert "[1] (lease.pdf, page 3, Lease > Term)\nThe lease ends" in question.content
    assert question.content.endswith("Question: When does it end?")
    assert asked.model == model.models()[0].name
    assert library.asked == [("default", "When does it end?", 5)]


async def test_a_second_question_is_searched_with_the_first() -> None:
    library = Library(*hits(1))
    turns = (
        ChatMessage("system", "Be brief."),
        ChatMessage("user", "Tell me of the lease."),
        ChatMessage("assistant", "It is of the workshop."),
        ChatMessage("user", "When does it end?"),
    )
    model = Model()
    await answered(KnowledgeAnswers(model, lambda: ["default"], library), request(*turns))
    assert library.asked[0][1] == "When does it end?\nTell me of the lease."
    roles = [m.role for m in model.asked[0].prompt if isinstance(m, ChatMessage)]
    assert roles == ["system", "user", "assistant", "user"]
    first = model.asked[0].prompt[0]
    assert isinstance(first, ChatMessage)
    assert first.content.startswith("Be brief.\n")


async def test_nothing_found_asks_no_model() -> None:
    model = Model()
    text, end = await answered(KnowledgeAnswers(model, lambda: ["default"], Library()), request())
    assert (text, end.sources, model.asked) == (NOTHING, (), [])


async def test_fewer_passages_where_the_context_is_full() -> None:
    model = Model(room=1)
    answers = KnowledgeAnswers(model, lambda: ["default"], Library(*hits(5)))
    _, end = await answered(answers, request())
    assert end.sources == hits(1)
    with pytest.raises(ContextExceeded):
        await answered(KnowledgeAnswers(Model(room=0), lambda: [], Library(*hits(5))), request())


async def test_other_models_are_not_searched_for() -> None:
    library = Library(*hits(1))
    answers = KnowledgeAnswers(Model(), lambda: ["default"], library)
    _, end = await answered(answers, request(model="demo"))
    assert (end.sources, library.asked) == (None, [])


async def test_what_is_no_conversation() -> None:
    answers = KnowledgeAnswers(Model(), lambda: ["default"], Library(*hits(1)))
    with pytest.raises(UserError):
        await answered(answers, GenerationRequest("kwaai-rag/default", (1, 2, 3)))
    with pytest.raises(UserError):
        await answered(answers, request(ChatMessage("system", "only rules")))
    with pytest.raises(BaseMissing):
        await answered(answers, request(model="kwaai-rag/other"))


def test_each_base_is_a_model() -> None:
    answers = KnowledgeAnswers(Model(), lambda: ["default", "notes"], Library())
    names = [card.name for card in answers.models()]
    assert names[-2:] == ["kwaai-rag/default", "kwaai-rag/notes"]
    assert not names[0].startswith("kwaai-rag/")
