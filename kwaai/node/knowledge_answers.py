"""Answers that rest on a knowledge base: a model's name `kwaai-rag/<base>`, passages found first,
numbered for the model, and given to whoever asked as the answer's sources.

A Generator around another one; searches by what it is given. docs/knowledge.md, "Answers".
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from typing import Final, TypeAlias

from kwaai.errors import ContextExceeded, UserError
from kwaai.limits import (
    HITS_DEFAULT,
    QUESTION_CHARS_MAX,
    RAG_CHARS_PER_TOKEN,
    RAG_TOKENS_SPARED,
    RAG_TRIES_MAX,
)
from kwaai.node.generate import (
    ChatMessage,
    Finished,
    GenerationRequest,
    Generator,
    Json,
    ModelCard,
    TextDelta,
    Timings,
)
from kwaai.node.knowledge_control import HitRow, SearchView

PREFIX: Final = "kwaai-rag/"
"""Before a base's name, in the name of a model."""
NOTHING: Final = "The knowledge base has nothing that fits this question."
_NOTHING_NOW: Final = "Nothing was found in the knowledge base: "
"""Why follows."""

Search: TypeAlias = Callable[[str, str, int], Awaitable[SearchView]]
"""(base, text, count) -> what was found. Raises BaseMissing."""

_RULES: Final = """\
Answer the question from the numbered sources only. Name the source of each statement by its \
number, like [1]. If the sources do not answer the question, say that they do not.
"""


class KnowledgeAnswers:
    """See Generator. Belongs to one event loop."""

    def __init__(
        self, inner: Generator, bases: Callable[[], Sequence[str]], search: Search
    ) -> None:
        """`bases`: the names of this node's bases, now."""
        self._inner, self._bases, self._search = inner, bases, search

    def models(self) -> list[ModelCard]:
        """See Generator; a model more for each base, behind the others."""
        cards = self._inner.models()
        if not cards:
            return cards
        first = cards[0]
        return cards + [
            dataclasses.replace(first, name=f"{PREFIX}{base}") for base in self._bases()
        ]

    def health(self) -> Mapping[str, Json]:
        """See Generator."""
        return self._inner.health()

    def stats(self) -> Mapping[str, float]:
        """See Generator."""
        return self._inner.stats()

    async def generate(
        self, request: GenerationRequest
    ) -> AsyncGenerator[TextDelta | Finished, None]:
        """See Generator. Raises BaseMissing, UserError for what is no conversation."""
        if not request.model.startswith(PREFIX):
            async with contextlib.aclosing(self._inner.generate(request)) as items:
                async for item in items:
                    yield item
            return
        base = request.model.removeprefix(PREFIX)
        messages = _conversation(request)
        found = await self._search(base, _question(messages), request.passages or HITS_DEFAULT)
        if not found.hits:
            why = "; ".join(found.degraded)
            yield TextDelta(f"{_NOTHING_NOW}{why}." if why else NOTHING)
            nothing = Timings(0.0, 0.0, 0.0, 0.0)
            yield Finished("stop", 0, 0, nothing, sources=(), degraded=found.degraded)
            return
        async with contextlib.aclosing(self._answer(request, messages, found)) as items:
            async for item in items:
                yield item

    async def _answer(
        self, request: GenerationRequest, messages: Sequence[ChatMessage], found: SearchView
    ) -> AsyncGenerator[TextDelta | Finished, None]:
        """Answer from as many passages as the context has room for, the best first."""
        card = self._inner.models()[0]
        used = _fitting(found.hits, messages, card.context_tokens, request.max_tokens or 0)
        for last_try in (*(False,) * (RAG_TRIES_MAX - 1), True):
            asked = dataclasses.replace(
                request, model=card.name, prompt=_prompt(messages, used), passages=None
            )
            begun = False
            try:
                async with contextlib.aclosing(self._inner.generate(asked)) as items:
                    async for item in items:
                        begun = True
                        if isinstance(item, Finished):
                            item = dataclasses.replace(
                                item, sources=tuple(used), degraded=found.degraded
                            )
                        yield item
                return
            except ContextExceeded:
                if begun or last_try or len(used) == 1:
                    raise
                used = used[: len(used) // 2]


def _conversation(request: GenerationRequest) -> tuple[ChatMessage, ...]:
    prompt = request.prompt
    if isinstance(prompt, str):
        return (ChatMessage("user", prompt),)
    messages = tuple(message for message in prompt if isinstance(message, ChatMessage))
    if len(messages) != len(prompt):
        raise UserError("an answer from a knowledge base needs text, not tokens", param="prompt")
    if not any(message.role == "user" for message in messages):
        raise UserError("an answer from a knowledge base needs a question", param="messages")
    return messages


def _question(messages: Sequence[ChatMessage]) -> str:
    """Return what to search for: the last question, and the one before, which it may refer to."""
    asked = [message.content for message in messages if message.role == "user"]
    return "\n".join(reversed(asked[-2:]))[:QUESTION_CHARS_MAX]


def _fitting(
    hits: Sequence[HitRow], messages: Sequence[ChatMessage], context_tokens: int, max_tokens: int
) -> tuple[HitRow, ...]:
    """Return the best passages that a context has room for by a guess, at least one."""
    said = sum(len(message.content) for message in messages)
    room = (context_tokens - max_tokens - RAG_TOKENS_SPARED) * RAG_CHARS_PER_TOKEN - said
    used: list[HitRow] = []
    for hit in hits:
        room -= len(_source(hit))
        if used and room < 0:
            break
        used.append(hit)
    return tuple(used)


def _prompt(messages: Sequence[ChatMessage], hits: Sequence[HitRow]) -> tuple[ChatMessage, ...]:
    sources = "\n\n".join(_source(hit) for hit in hits)
    own = [message.content for message in messages if message.role == "system"]
    system = "\n".join([*own, _RULES])
    at = max(index for index, message in enumerate(messages) if message.role == "user")
    asked = ChatMessage("user", f"Sources:\n\n{sources}\n\nQuestion: {messages[at].content}")
    turns = [message for message in messages[:at] if message.role != "system"]
    return (ChatMessage("system", system), *turns, asked)


def _source(hit: HitRow) -> str:
    where = [hit.document]
    where += [f"page {hit.page}"] if hit.page is not None else []
    where += [" > ".join(hit.heading)] if hit.heading else []
    return f"[{hit.number}] ({', '.join(where)})\n{hit.text}"
