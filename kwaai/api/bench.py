"""The HTTP leg of `kwaainet bench`: the same prompt through the API, on loopback, streamed."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, replace
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


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """What a client saw of one streamed answer, by its clock."""

    started_s: float
    arrivals_s: tuple[float, ...]
    """Of the pieces of text."""
    tokens: int

    @property
    def ended_s(self) -> float:
        """When the last piece came."""
        return self.arrivals_s[-1]

    def sample(self) -> Sample:
        """Seconds to the first token, and of each one after it: where tokens came together, as half
        characters do, their mean.
        """
        gaps = [after - before for before, after in pairwise(self.arrivals_s)]
        if len(gaps) != self.tokens - 1:
            mean = (self.ended_s - self.arrivals_s[0]) / (self.tokens - 1)
            gaps = [mean] * (self.tokens - 1)
        return Sample([self.arrivals_s[0] - self.started_s], gaps)


async def measure_api(runtime: Runtime, prompt: tuple[int, ...], tokens: int) -> Sample:
    """Send one streamed completion and time its events. Raises PeerError when it fails."""
    app = create_app(_EveryToken(runtime.generator))
    model = runtime.generator.models()[0].name
    async with listening(app, "127.0.0.1", 0) as (host, port):
        answer = await complete(f"http://{host}:{port}/v1", model, prompt, tokens)
    return answer.sample()


async def complete(
    url: str,
    model: str,
    prompt: tuple[int, ...],
    tokens: int,
    logit_bias: Mapping[str, float] | None = None,
) -> HttpAnswer:
    """Send one streamed completion to the API at `url`, greedy, and time its events. Raises
    PeerError when it fails.
    """
    body = {
        "model": model,
        "prompt": list(prompt),
        "max_tokens": tokens,
        "temperature": 0,
        "logit_bias": dict(logit_bias or {}),
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    timeout = aiohttp.ClientTimeout(total=_DEADLINE_S)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        started_s = time.perf_counter()
        async with session.post(f"{url}/completions", json=body) as reply:
            if reply.status != 200:
                raise PeerError(f"the API answered {reply.status}: {(await reply.text())[:300]}")
            arrivals_s: list[float] = []
            usage: Mapping[str, int] = {}
            async for line in reply.content:
                if not line.startswith(b"data: {"):
                    continue
                now_s, event = time.perf_counter(), json.loads(line[6:])
                if "error" in event:
                    raise PeerError(f"the API broke off: {str(event['error'])[:300]}")
                usage = event.get("usage") or usage
                if event["choices"] and event["choices"][0]["finish_reason"] is None:
                    arrivals_s.append(now_s)
    count = int(usage.get("completion_tokens", 0))
    if not arrivals_s or count < 2:
        raise PeerError(f"the API sent {count} tokens in {len(arrivals_s)} pieces: too few")
    return HttpAnswer(started_s, tuple(arrivals_s), count)
