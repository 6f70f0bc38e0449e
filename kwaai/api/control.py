"""The control API of a running node: its owner's programs ask over a Unix socket, `run/kwaai.sock`.

JSON over HTTP; what takes long answers in lines, one JSON object each, an empty line as a sign of
life, and `{"event": "error"}` instead of a status once it has begun. Whoever may open the socket
(mode 0600) may ask: there is no key. Knows no network: a `NodeControl` does the work.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from aiohttp import web
from aiohttp.typedefs import Handler
from pydantic import Field

from kwaai import limits
from kwaai.api.bodies import parse_chat
from kwaai.api.control_bodies import NODE, Body, parse_body, to_json
from kwaai.api.control_circuits import add_circuit_routes
from kwaai.api.control_credentials import add_credential_routes
from kwaai.api.control_intent import add_intent_routes
from kwaai.api.control_knowledge import add_knowledge_routes
from kwaai.api.control_stream import Events, error_json, on_defect, stream_events
from kwaai.api.control_trust import add_trust_routes
from kwaai.api.demand import Asked
from kwaai.api.errors import answer_or_tell, json_response
from kwaai.errors import KwaaiError, UserError
from kwaai.log import get_logger
from kwaai.node.control import NodeControl, ServeRequest
from kwaai.node.generate import Finished, GenerationRequest, Generator, PathReport
from kwaai.store.unix_socket import listen_unix, remove_unix, socket_identity
from kwaai.types import LayerRange

log = get_logger(__name__)

_Block = Annotated[int, Field(ge=0, le=limits.BLOCKS_MAX)]
_Model = Annotated[str, Field(max_length=limits.MODEL_NAME_CHARS_MAX)]
_Seconds = Annotated[float, Field(ge=0, le=limits.CONTROL_WAIT_S_MAX)]
_Text = Annotated[str, Field(min_length=1, max_length=limits.P2P_ADDRESS_CHARS_MAX)]


class _Ping(Body):
    peer: _Text
    timeout_s: _Seconds = limits.P2P_TIMEOUT_S


class _Connect(Body):
    address: _Text
    timeout_s: _Seconds = limits.P2P_TIMEOUT_S


class _Chain(Body):
    model: _Model = ""
    refresh: bool = True


class _Range(Body):
    model: _Model = ""
    start: _Block | None = None
    stop: _Block | None = None

    def layers(self) -> LayerRange | None:
        if self.start is None and self.stop is None:
            return None
        if self.start is None or self.stop is None or self.start >= self.stop:
            raise UserError("a range needs 'start' below 'stop'", param="start")
        return LayerRange(self.start, self.stop)


class _Answer(Body):
    chat: dict[str, Any]
    """A body of /v1/chat/completions."""
    route: Literal["auto", "alone", "peer", "split"] | None = None
    privacy: Literal["private", "fast"] | None = None


class _Grace(Body):
    grace_s: _Seconds = limits.HTTP_SHUTDOWN_GRACE_S


def create_control_app(node: NodeControl) -> web.Application:
    """Return the control API over `node`."""
    app = web.Application(middlewares=[_observe])
    app[NODE] = node
    app.router.add_get("/control/status", _status)
    app.router.add_get("/control/p2p", _p2p)
    app.router.add_get("/control/peers", _peers)
    app.router.add_post("/control/ping", _ping)
    app.router.add_post("/control/connect", _connect)
    app.router.add_post("/control/chain", _chain)
    app.router.add_post("/control/serve", _serve)
    app.router.add_post("/control/unserve", _unserve)
    app.router.add_post("/control/answer", _answer)
    app.router.add_post("/control/drain", _drain)
    app.router.add_post("/control/stop", _stop)
    add_circuit_routes(app.router)
    add_credential_routes(app.router)
    add_intent_routes(app.router)
    add_knowledge_routes(app.router)
    add_trust_routes(app.router)
    return app


@asynccontextmanager
async def control_listening(node: NodeControl, path: Path) -> AsyncIterator[None]:
    """Serve the control API at `path` inside the context. Raises NodeRunning, ConfigError."""
    runner = web.AppRunner(
        create_control_app(node),
        handler_cancellation=True,  # a program that goes away ends its answer
        shutdown_timeout=limits.HTTP_SHUTDOWN_GRACE_S,
        access_log=None,
    )
    await runner.setup()
    server = runner.server
    assert server is not None  # set up above

    def accept() -> asyncio.Protocol:
        return _Closed() if len(server.connections) >= limits.CONTROL_CONNECTIONS_MAX else server()

    try:
        with listen_unix(path) as listener:
            identity = socket_identity(path)
            listening = await asyncio.get_running_loop().create_unix_server(accept, sock=listener)
            log.info("control_listening", path=str(path))
            try:
                yield
            finally:
                remove_unix(path, identity)
                listening.close()
    finally:
        await runner.cleanup()


async def _status(request: web.Request) -> web.Response:
    return json_response(to_json(request.app[NODE].status()))


async def _p2p(request: web.Request) -> web.Response:
    return json_response(to_json(request.app[NODE].p2p_info()))


async def _peers(request: web.Request) -> web.Response:
    return json_response({"peers": to_json(request.app[NODE].peers())})


async def _ping(request: web.Request) -> web.Response:
    body = await parse_body(request, _Ping)
    rtt_s = await request.app[NODE].ping(body.peer, body.timeout_s)
    return json_response({"rtt_s": rtt_s})


async def _connect(request: web.Request) -> web.Response:
    body = await parse_body(request, _Connect)
    return json_response({"peer": await request.app[NODE].connect(body.address, body.timeout_s)})


async def _chain(request: web.Request) -> web.Response:
    body = await parse_body(request, _Chain)
    return json_response(to_json(await request.app[NODE].chain(body.model, refresh=body.refresh)))


async def _unserve(request: web.Request) -> web.StreamResponse:
    body = await parse_body(request, _Range)
    layers = body.layers()

    async def work(events: Events) -> None:
        withdrawn = await request.app[NODE].unserve(body.model, layers)
        await events.put({"event": "withdrawn", "ranges": to_json(withdrawn)})

    return await stream_events(request, work)


async def _serve(request: web.Request) -> web.StreamResponse:
    body = await parse_body(request, _Range)
    wanted = ServeRequest(body.model, body.layers())

    async def work(events: Events) -> None:
        def say(text: str) -> None:
            events.push({"event": "note", "text": text})

        served = await request.app[NODE].serve(wanted, say)
        await events.put({"event": "served", **to_json(served)})

    return await stream_events(request, work)


async def _drain(request: web.Request) -> web.StreamResponse:
    body = await parse_body(request, _Grace)

    async def work(events: Events) -> None:
        cut = await request.app[NODE].drain(body.grace_s)
        await events.put({"event": "drained", "cut_off": cut})

    return await stream_events(request, work)


async def _stop(request: web.Request) -> web.Response:
    body = await parse_body(request, _Grace)
    request.app[NODE].stop(body.grace_s)
    return json_response({"stopping": True}, status=202)


async def _answer(request: web.Request) -> web.StreamResponse:
    body = await parse_body(request, _Answer)
    generator = request.app[NODE].generator
    chat = dict(body.chat)
    asked = chat.get("kwaai")
    if not chat.get("model") and isinstance(asked, dict) and asked.get("circuit"):
        chat["model"] = request.app[NODE].circuits.show(str(asked["circuit"])).model
    elif not chat.get("model"):
        cards = generator.models()
        chat["model"] = cards[0].name if cards else "?"  # whatever: it says itself what is wrong
    wanted = parse_chat(chat).requests[0]
    wanted = Asked(privacy=body.privacy, route=body.route).apply(wanted)
    return await stream_events(request, lambda events: _generate(generator, wanted, events))


async def _generate(generator: Generator, wanted: GenerationRequest, events: Events) -> None:
    for card in generator.models():
        if wanted.model in (card.name, card.handle):
            await events.put({"event": "model", **to_json(card)})

    def on_path(path: PathReport) -> None:
        events.push({"event": "path", **_path_json(path)})

    wanted = dataclasses.replace(wanted, on_path=on_path)
    async with contextlib.aclosing(generator.generate(wanted)) as items:
        async for item in items:
            if isinstance(item, Finished):
                path = None if item.path is None else _path_json(item.path)
                end = to_json(dataclasses.replace(item, path=None))
                await events.put({"event": "finished", **end, "path": path})
            elif item.text:
                await events.put({"event": "delta", "text": item.text})


def _path_json(path: PathReport) -> dict[str, Any]:
    return {**to_json(path), "text": path.text}


@web.middleware
async def _observe(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn failures into JSON that `kwaai.cli.control` raises again."""
    return await answer_or_tell(request, handler, _tell, on_defect)


def _tell(failure: KwaaiError, _: Mapping[str, str]) -> web.Response:
    return json_response({"error": error_json(failure)}, status=failure.http_status)


class _Closed(asyncio.Protocol):
    """Closes a connection at once: there are too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        log.warning("control_connection_refused", connections_max=limits.CONTROL_CONNECTIONS_MAX)
        transport.close()
