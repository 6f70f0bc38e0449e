"""Runs a parsed `Job` on the generator and writes its answer, whole or as a stream.

Knows no route: a `Shape` words the choices. Knows no engine: a `Generator` makes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from aiohttp import web

from kwaai import limits
from kwaai.api.bodies import Job
from kwaai.api.control_bodies import to_json
from kwaai.api.demand import header_text, path_headers
from kwaai.api.errors import did_you_mean, json_response
from kwaai.api.fanout import Events, fan_out
from kwaai.api.metrics import Metrics
from kwaai.api.replies import Answer, Envelope, Shape, usage
from kwaai.api.sse import EventStream
from kwaai.errors import Busy, KwaaiError, ModelNotFound, ResourceError, Unauthorized
from kwaai.node.generate import Finished, Generator, ModelCard, PathReport
from kwaai.node.knowledge_answers import PREFIX as KNOWLEDGE_PREFIX

KEY_NEEDED = (
    "knowledge is for who has the API key, and this node has none: any user of this machine could "
    "read it; name one with --api-key-file, or use `kwaainet rag`"
)


@dataclass(slots=True)
class Service:
    """What the handlers of one application share."""

    generator: Generator
    api_key: str | None
    metrics: Metrics = field(init=False)
    requests_in_flight: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.metrics = Metrics(self.generator)

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Count a generating request. Raises Busy when too many are in flight."""
        if self.requests_in_flight >= limits.HTTP_REQUESTS_MAX:
            raise Busy(
                f"{self.requests_in_flight} requests are in flight, the most this server takes; "
                "try again shortly",
                retry_after_s=1.0,
            )
        self.requests_in_flight += 1
        try:
            yield
        finally:
            self.requests_in_flight -= 1

    def models(self) -> list[ModelCard]:
        """Return the models that clients may ask: those of knowledge bases for who has a key."""
        cards = self.generator.models()
        if self.api_key is not None:
            return cards
        return [card for card in cards if not card.name.startswith(KNOWLEDGE_PREFIX)]

    def find_model(self, name: str) -> ModelCard:
        """Return the model with this name or handle. Raises ModelNotFound, and ResourceError while
        there is no model at all.
        """
        if name.startswith(KNOWLEDGE_PREFIX) and self.api_key is None:
            raise Unauthorized(KEY_NEEDED, param="model")
        cards = self.models()
        if not cards:
            health = self.generator.health()
            if health.get("status") in ("starting", "failed"):
                why = health.get("error") or "it is still loading"
                raise ResourceError(f"no model can be asked now: {why}", retry_after_s=2.0)
        for card in cards:
            if name in (card.name, card.handle):
                return card
        names = [card.name for card in cards]
        shown = ", ".join(names[:8]) or "none"
        raise ModelNotFound(
            f"there is no model '{name[:100]}' here{did_you_mean(name, names)} (served: {shown})",
            param="model",
        )


async def answer(
    request: web.Request, service: Service, job: Job, shape: Shape
) -> web.StreamResponse:
    """Answer `job` in the words of `shape`."""
    card = service.find_model(job.model)
    told: list[PathReport] = []
    first, *others = (replace(item, model=card.name) for item in job.requests)
    requests = (replace(first, on_path=told.append), *others)  # the first one's path is told
    envelope = Envelope.new(shape.id_prefix, card)
    async with fan_out(service.generator, requests, service.metrics) as events:
        if job.stream:
            await events.wait_first()  # what fails before is refused with its own status
            stream = EventStream(request, _headers(card, told[-1] if told else None))
            return await _answer_stream(stream, events, service, job, shape, envelope)
        return await _answer_whole(events, job, shape, envelope, card)


def _headers(card: ModelCard, path: PathReport | None) -> dict[str, str]:
    """Say which path answers; without one, which was taken last."""
    return {"X-Kwaai-Path": header_text(card.path)} if path is None else path_headers(path)


async def _answer_whole(
    events: Events,
    job: Job,
    shape: Shape,
    envelope: Envelope,
    card: ModelCard,
) -> web.Response:
    answers = [Answer() for _ in job.requests]
    finished: dict[int, Finished] = {}
    async for index, event in events:
        if isinstance(event, Finished):
            finished[index] = event
        else:
            answers[index].texts.append(event.text)
            answers[index].tokens.extend(event.tokens)
    ends = [finished[index] for index in range(len(answers))]
    choices = [
        shape.choice(index, item, end.finish_reason)
        for index, (item, end) in enumerate(zip(answers, ends, strict=True))
    ]
    headers = {**_headers(card, ends[0].path), "Server-Timing": _server_timing(ends[0])}
    body = envelope.wrap(shape.whole_object, choices, usage=usage(ends, job.n), **_sources(ends))
    return json_response(body, headers=headers)


async def _answer_stream(
    stream: EventStream,
    events: Events,
    service: Service,
    job: Job,
    shape: Shape,
    envelope: Envelope,
) -> web.StreamResponse:
    """Stream the chunks, the first of which is there."""
    await stream.open()
    try:
        finished = await _send_chunks(stream, events, job, shape, envelope)
        if job.include_usage:
            ends = [finished[index] for index in range(len(job.requests))]
            await stream.send(envelope.wrap(shape.chunk_object, [], usage=usage(ends, job.n)))
        await stream.done()
    except KwaaiError as error:
        service.metrics.errors.labels(error.code).inc()
        await stream.fail(error)
    return stream.response


async def _send_chunks(
    stream: EventStream,
    events: Events,
    job: Job,
    shape: Shape,
    envelope: Envelope,
) -> dict[int, Finished]:
    no_usage_yet = {"usage": None} if job.include_usage else {}
    opened: set[int] = set()
    finished: dict[int, Finished] = {}
    async for index, event in events:
        choices = []
        if index not in opened:
            opened.add(index)
            choices.append(shape.opening(index))
        if isinstance(event, Finished):
            finished[index] = event
            choices.append(shape.closing(index, event.finish_reason))
        else:
            choices.append(shape.delta(index, event))
        more = no_usage_yet | (_sources([event]) if isinstance(event, Finished) else {})
        for choice in choices:
            if choice is not None:
                await stream.send(envelope.wrap(shape.chunk_object, [choice], **more))
    return finished


def _sources(ends: Sequence[Finished]) -> dict[str, Any]:
    """Return the passages behind an answer from a knowledge base: what `[1]` in it means; and what
    was missing when they were searched for.
    """
    first = next((end for end in ends if end.sources is not None), None)
    if first is None:
        return {}
    return {"sources": to_json(first.sources), "degraded": to_json(first.degraded)}


def _server_timing(finished: Finished) -> str:
    times = finished.timings
    steps = {
        "queue": times.queue_s,
        "prefill": times.prefill_s,
        "first_token": times.first_token_s,
        "decode": times.decode_s,
    }
    return ", ".join(f"{name};dur={seconds * 1000:.1f}" for name, seconds in steps.items())
