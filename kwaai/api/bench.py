"""The HTTP leg of `kwaainet bench`: the same prompt through the API, on loopback, streamed."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace
from itertools import pairwise

import aiohttp

from kwaai.api.app import create_app
from kwaai.api.server import listening
from kwaai.errors import PeerError
from kwaai.node.bench import Sample
from kwaai.node.generate import (
    Finished,
    GenerationRequest,
    Generator,
    Json,
    ModelCard,
    TextDelta,
)
from kwaai.node.runtime import Runtime

_DEADLINE_S = 600.0


class _EveryToken:
    """The generator, made to send an event for each token.

    A model with random weights ends at once, or gives tokens that stand for no text.
    """

    def __init__(self, inner: Generator) -> None:
        self._inner = inner

    def models(self) -> list[ModelCard]:
        return self._inner.models()

    def generate(self, request: GenerationRequest) -> AsyncGenerator[TextDelta | Finished, None]:
        return self._generate(replace(request, ignore_eos=True))

    async def _generate(
        self, request: GenerationRequest
    ) -> AsyncGenerator[TextDelta | Finished, None]:
        async with contextlib.aclosing(self._inner.generate(request)) as items:
            async for item in items:
                yield item if isinstance(item, Finished) else replace(item, text=item.text or " ")

    def health(self) -> Mapping[str, Json]:
        return self._inner.health()

    def stats(self) -> Mapping[str, float]:
        return self._inner.stats()


async def measure_api(runtime: Runtime, prompt: tuple[int, ...], tokens: int) -> Sample:
    """Send one streamed completion and time its events. Raises PeerError when it fails."""
    body = {
        "model": runtime.generator.models()[0].name,
        "prompt": list(prompt),
        "max_tokens": tokens,
        "temperature": 0,
        "stream": True,
    }
    app = create_app(_EveryToken(runtime.generator))
    timeout = aiohttp.ClientTimeout(total=_DEADLINE_S)
    async with (
        listening(app, "127.0.0.1", 0) as (host, port),
        aiohttp.ClientSession(timeout=timeout) as session,
    ):
        started = time.perf_counter()
        async with session.post(f"http://{host}:{port}/v1/completions", json=body) as answer:
            if answer.status != 200:
                raise PeerError(f"the API answered {answer.status}: {(await answer.text())[:300]}")
            arrivals = [time.perf_counter() async for line in answer.content if _is_token(line)]
    if len(arrivals) < 2:
        raise PeerError(f"the API sent {len(arrivals)} tokens")
    gaps = [after - before for before, after in pairwise(arrivals)]
    return Sample([arrivals[0] - started], gaps)


def _is_token(line: bytes) -> bool:
    if not line.startswith(b"data: {"):
        return False
    choices = json.loads(line[6:]).get("choices") or [{}]
    return choices[0].get("finish_reason") is None
