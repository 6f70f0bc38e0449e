"""A model that this node can be asked for: its tokenizer here, its layers wherever they are.

Lets as many answers run at once as this machine's parts have sessions; the others wait in a bounded
queue. Chooses no path.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from kwaai.errors import Busy, ContextExceeded, ModelUnsupported, UserError
from kwaai.inference.text import TextModel
from kwaai.limits import QUEUE_REQUESTS_MAX
from kwaai.node.generate import GenerationRequest, ModelCard
from kwaai.node.slice_plan import LocalModel


class SwarmModel:
    """One model, from its first request on. `start` it, and `stop` it in the end."""

    def __init__(self, local: LocalModel) -> None:
        """Raises ModelUnsupported where nothing here can read a prompt."""
        if local.text is None:
            raise ModelUnsupported(
                f"{local.name} has no tokenizer here, so it cannot read a prompt; fetch the whole "
                "model, or its embedding: `kwaainet shard download ... --embedding`",
                param="model",
            )
        self.local = local
        self.text = TextModel(local.text.path, local.text.template, local.text.context_tokens)
        entry = local.entry
        self.names = frozenset({entry.name, Path(entry.path).stem, local.handle})
        self.running = self.waiting = 0
        self.created = int(entry.path.stat().st_mtime)
        self._places = asyncio.Semaphore(local.sessions_max)

    async def start(self) -> None:
        """Start the text worker. Raises what its load raised."""
        await self.text.start()

    async def stop(self) -> None:
        """End the text worker."""
        await self.text.stop()

    def card(self, path: str, backend: str) -> ModelCard:
        """Describe the model; `path`: who answers."""
        return ModelCard(
            name=self.local.name,
            handle=self.local.handle,
            context_tokens=self.local.context_tokens,
            created=self.created,
            path=path,
            backend=backend,
        )

    @contextlib.asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Wait for a free place and hold it. Raises Busy when too many wait already."""
        if self.waiting >= QUEUE_REQUESTS_MAX:
            raise Busy(f"{QUEUE_REQUESTS_MAX} requests are waiting; try again", retry_after_s=2.0)
        self.waiting += 1
        try:
            await self._places.acquire()
        finally:
            self.waiting -= 1
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1
            self._places.release()

    async def prompt_tokens(self, request: GenerationRequest) -> tuple[int, ...]:
        """Return the tokens of a prompt. Raises UserError, and ContextExceeded when no answer fits
        behind it.
        """
        prompt = request.prompt
        if isinstance(prompt, str):
            tokens = await self.text.tokenize(prompt)
        elif all(isinstance(item, int) for item in prompt):
            tokens = tuple(item for item in prompt if isinstance(item, int))
            if any(not 0 <= token < self.text.vocab for token in tokens):
                raise UserError(
                    f"token ids are between 0 and {self.text.vocab - 1}", param="prompt"
                )
        else:
            turns = [m for m in prompt if not isinstance(m, int)]
            tokens = await self.text.chat_tokens(
                [{"role": turn.role, "content": turn.content} for turn in turns]
            )
        if not tokens:
            raise UserError("the prompt is empty", param="prompt")
        if len(tokens) + 1 > self.local.context_tokens:
            raise ContextExceeded(
                f"the prompt has {len(tokens)} tokens, the context holds "
                f"{self.local.context_tokens} with the answer; shorten it (the setting "
                "context_tokens goes up to what the model allows)",
                param="prompt",
            )
        return tokens
