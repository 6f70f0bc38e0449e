"""The API's server against clients that misbehave, go away, or may not be there at all."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import resource
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from kwaai import limits
from kwaai.api.app import create_app
from kwaai.api.server import listening, serve
from kwaai.errors import Busy, PortInUse, UserError
from kwaai.testing.generator import FakeGenerator

CHAT = {"model": "kwaai-demo", "messages": [{"role": "user", "content": "hi"}]}
KEY = "correct-horse-battery"
MIB = 1024 * 1024


@pytest.fixture
def fake() -> FakeGenerator:
    return FakeGenerator()


@pytest.fixture
def app(fake: FakeGenerator) -> web.Application:
    return create_app(fake)


@pytest.fixture
async def address(app: web.Application) -> AsyncIterator[tuple[str, int]]:
    async with listening(app, "127.0.0.1", 0) as bound:
        yield bound


@pytest.fixture
async def http(address: tuple[str, int]) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(f"http://{address[0]}:{address[1]}") as session:
        yield session


@pytest.fixture
async def locked() -> AsyncIterator[aiohttp.ClientSession]:
    app = create_app(FakeGenerator(), api_key=KEY)
    async with (
        listening(app, "127.0.0.1", 0) as (host, port),
        aiohttp.ClientSession(f"http://{host}:{port}") as session,
    ):
        yield session


async def error_of(response: aiohttp.ClientResponse) -> dict[str, Any]:
    assert response.content_type == "application/json"
    body = await response.json()
    assert set(body) == {"error"}
    error: dict[str, Any] = body["error"]
    return error


def raw_request(body: dict[str, Any]) -> bytes:
    data = json.dumps(body).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


# A client that goes away.


@pytest.mark.parametrize("n", [1, 3])
async def test_leaving_a_stream_ends_its_generations(
    fake: FakeGenerator, address: tuple[str, int], n: int
) -> None:
    fake.gate = asyncio.Semaphore(1)
    reader, writer = await asyncio.open_connection(*address)
    writer.write(raw_request({**CHAT, "stream": True, "n": n}))
    await reader.readuntil(b'"content":"Paris"')
    writer.transport.abort()
    assert [await fake.ended.get() for _ in range(n)] == ["closed"] * n


async def test_leaving_before_the_first_token_ends_the_generation(
    fake: FakeGenerator, address: tuple[str, int]
) -> None:
    fake.gate = asyncio.Semaphore(0)
    for stream in (False, True):
        _, writer = await asyncio.open_connection(*address)
        writer.write(raw_request({**CHAT, "stream": stream}))
        await fake.began.get()
        writer.close()
        assert await fake.ended.get() == "closed"


async def test_a_client_that_stops_reading_is_cut_off(
    fake: FakeGenerator, address: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HTTP_WRITE_TIMEOUT_S", 0.1)
    fake.answers = [[b"x" * MIB] * 40]
    reader, writer = await asyncio.open_connection(*address, limit=1024)
    writer.write(raw_request({**CHAT, "stream": True}))
    await reader.readuntil(b"\r\n")
    assert await fake.ended.get() == "closed"
    writer.close()


# Bodies.


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (b"{", {}, 400, "invalid_request"),
        (b"", {}, 400, "invalid_request"),
        (b'{"model": "a", "model": "b"}', {}, 400, "invalid_request"),
        (b"[" * 100_000, {}, 400, "invalid_request"),
        (b"{}", {"Content-Type": "text/plain"}, 415, "unsupported_media_type"),
        (gzip.compress(b"{}"), {"Content-Encoding": "gzip"}, 415, "unsupported_media_type"),
    ],
)
async def test_bad_bodies(
    http: aiohttp.ClientSession, body: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    sent = {"Content-Type": "application/json"} | headers
    async with http.post("/v1/chat/completions", data=body, headers=sent) as response:
        assert response.status == status
        assert (await error_of(response))["code"] == code


async def test_a_declared_100_mb_body_is_refused_before_it_is_sent(
    address: tuple[str, int],
) -> None:
    reader, writer = await asyncio.open_connection(*address)
    writer.write(
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: 104857600\r\n\r\n{"
    )
    assert b" 413 " in await reader.readline()
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    error = json.loads(await reader.readexactly(length))["error"]
    assert error["code"] == "request_too_large"
    assert str(limits.BODY_BYTES_MAX) in error["message"]
    writer.close()


async def test_an_undeclared_100_mb_body_is_never_held(http: aiohttp.ClientSession) -> None:
    async def blocks() -> AsyncIterator[bytes]:
        block = b" " * MIB
        for _ in range(100):
            yield block

    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    headers = {"Content-Type": "application/json"}
    async with http.post("/v1/completions", data=blocks(), headers=headers) as response:
        assert response.status == 413
        assert (await error_of(response))["code"] == "request_too_large"
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib
    assert grown_kib < 50 * 1024


async def test_a_body_that_does_not_come_is_given_up(
    address: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "BODY_READ_TIMEOUT_S", 0.05)
    reader, writer = await asyncio.open_connection(*address)
    writer.write(raw_request(CHAT)[:-5])
    assert b" 408 " in await reader.readline()
    writer.close()


async def test_a_large_body_within_the_bound_is_read(http: aiohttp.ClientSession) -> None:
    body = {"model": "kwaai-demo", "prompt": "x" * (7 * MIB)}
    async with http.post("/v1/completions", json=body) as response:
        assert response.status == 200


@pytest.mark.parametrize(
    "head",
    [
        b"rubbish\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 20_000 + b"\r\n\r\n",
        b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
    ids=["no-http", "no-colon", "long-field", "long-line"],
)
async def test_malformed_http_is_refused_in_the_usual_shape(
    address: tuple[str, int], head: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    reader, writer = await asyncio.open_connection(*address)
    writer.write(head)
    answer, _, body = (await reader.read()).partition(b"\r\n\r\n")
    assert b" 400 " in answer.splitlines()[0]
    error = json.loads(body)["error"]
    assert (error["code"], error["type"]) == ("invalid_request", "invalid_request_error")
    assert error["message"].startswith("this is not a valid HTTP request: ")
    assert not [r for r in caplog.records if r.levelname == "ERROR"]  # no log to be flooded
    writer.close()


async def test_headers_that_do_not_come_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HTTP_KEEPALIVE_S", 0.05)
    async with listening(create_app(FakeGenerator()), "127.0.0.1", 0) as address:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"GET /health HTTP/1.1\r\nHost: loc")
        assert await reader.read() == b""
        writer.close()


# Routes.


@pytest.mark.parametrize(
    ("method", "path", "status", "said"),
    [
        ("GET", "/", 404, "no route /"),
        ("GET", "/v1/chat/completion", 404, "did you mean '/v1/chat/completions'?"),
        ("GET", "/v1/models/none", 404, "served: kwaai-demo"),
        ("GET", "/v1/chat/completions", 405, "use POST"),
        ("DELETE", "/v1/models", 405, "use GET"),
        ("OPTIONS", "/v1/models", 405, "use GET"),
        ("POST", "/v1/embeddings", 404, "no route"),
    ],
)
async def test_routes_that_are_not(
    http: aiohttp.ClientSession, method: str, path: str, status: int, said: str
) -> None:
    async with http.request(method, path) as response:
        assert response.status == status
        assert said in (await error_of(response))["message"]
        assert ("Allow" in response.headers) == (status == 405)
        assert "Access-Control-Allow-Origin" not in response.headers


async def test_health(http: aiohttp.ClientSession, fake: FakeGenerator) -> None:
    async with http.get("/health") as response:
        assert response.status == 200
        assert await response.json() == {"status": "ok", "models": ["kwaai-demo"]}
    fake.status = "starting"
    async with http.get("/health") as response:
        assert response.status == 503
        assert (await response.json())["status"] == "starting"


async def test_metrics(http: aiohttp.ClientSession, fake: FakeGenerator) -> None:
    fake.counters = {"worker_restarts": 2.0, "queue_requests": 3.0, "not_exported": 1.0}
    for body in (CHAT, {**CHAT, "stream": True}, {**CHAT, "n": 0}):
        async with http.post("/v1/chat/completions", json=body) as response:
            await response.read()
    async with http.get("/nowhere") as response:
        assert response.status == 404
    async with http.get("/metrics") as response:
        assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        lines = set((await response.text()).splitlines())
    assert lines >= {
        'kwaai_http_requests_total{route="/v1/chat/completions",status="200"} 2.0',
        'kwaai_http_requests_total{route="/v1/chat/completions",status="400"} 1.0',
        'kwaai_http_requests_total{route="unmatched",status="404"} 1.0',
        'kwaai_errors_total{code="invalid_request"} 1.0',
        'kwaai_tokens_total{kind="prompt"} 4.0',
        'kwaai_tokens_total{kind="completion"} 8.0',
        "kwaai_time_to_first_token_seconds_count 2.0",
        "kwaai_time_per_token_seconds_count 2.0",
        "kwaai_active_generations 0.0",
        "kwaai_worker_restarts_total 2.0",
        "kwaai_queue_requests 3.0",
    }
    assert not any("not_exported" in line for line in lines)


async def test_too_many_requests_at_once(
    http: aiohttp.ClientSession, fake: FakeGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HTTP_REQUESTS_MAX", 1)
    fake.gate = asyncio.Semaphore(1)
    async with http.post("/v1/chat/completions", json={**CHAT, "stream": True}) as first:
        assert first.status == 200
        async with http.post("/v1/chat/completions", json=CHAT) as second:
            assert second.status == Busy.http_status
            assert second.headers["Retry-After"] == "1"
            assert (await error_of(second))["code"] == "busy"
        for _ in range(3):
            fake.gate.release()
        assert (await first.text()).endswith("data: [DONE]\n\n")


async def test_too_many_connections_are_closed(
    address: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HTTP_CONNECTIONS_MAX", 1)
    first_reader, first = await asyncio.open_connection(*address)
    first.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert b" 200 " in await first_reader.readline()
    second_reader, second = await asyncio.open_connection(*address)
    assert await second_reader.read() == b""
    first.close()
    second.close()


# Who may ask.


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:1"}, 200),
        ({"Host": "[::1]:11435"}, 200),
        ({"Host": "localhost:1", "Origin": "http://localhost:1"}, 200),
        ({"Host": "rebound.example.org"}, 403),
        ({"Host": "localhost.example.org"}, 403),
        ({"Host": "192.168.1.5:11435"}, 403),
        ({"Host": "[::1"}, 403),
        ({"Host": "example.org@localhost"}, 403),
        ({"Host": "localhost/example.org"}, 403),
        ({"Origin": "https://example.org"}, 403),
        ({"Host": "localhost:1", "Origin": "http://localhost:3000"}, 403),
        ({"Host": "localhost:1", "Origin": "file://localhost:1"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://[::1"}, 403),
    ],
)
async def test_web_pages_may_not_drive_the_node(
    http: aiohttp.ClientSession, fake: FakeGenerator, headers: dict[str, str], status: int
) -> None:
    async with http.post("/v1/chat/completions", json=CHAT, headers=headers) as response:
        assert response.status == status
        if status == 403:
            assert (await error_of(response))["code"] == "forbidden"
    assert len(fake.requests) == (1 if status == 200 else 0)


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (f"Bearer {KEY}", 200),
        (f"bearer {KEY}", 200),
        (f"Basic {KEY}", 401),
        (f"Bearer {KEY}x", 401),
        (f"Bearer {KEY[:-1]}", 401),
        ("Bearer", 401),
        ("Bearer é", 401),
        (KEY, 401),
        (None, 401),
    ],
)
@pytest.mark.parametrize("path", ["/v1/models", "/metrics"])
async def test_the_key(
    locked: aiohttp.ClientSession, path: str, authorization: str | None, status: int
) -> None:
    headers = {"Host": "example.org", "Origin": "https://example.org"}
    if authorization is not None:
        headers["Authorization"] = authorization
    async with locked.get(path, headers=headers) as response:
        assert response.status == status
        if status == 401:
            assert response.headers["WWW-Authenticate"] == "Bearer"
            assert (await error_of(response))["code"] == "invalid_api_key"


async def test_without_the_key_only_the_status_is_told(locked: aiohttp.ClientSession) -> None:
    async with locked.get("/health") as response:
        assert await response.json() == {"status": "ok"}
    async with locked.get("/nowhere") as response:
        assert response.status == 401


# Starting and stopping.


async def test_a_port_in_use_is_named(address: tuple[str, int]) -> None:
    with pytest.raises(PortInUse, match=rf"port {address[1]} .* --api-port"):
        await serve(create_app(FakeGenerator()), *address)


@pytest.mark.parametrize(
    ("host", "port", "said"),
    [
        ("0.0.0.0", 0, "API key"),
        ("example.org", 0, "API key"),
        ("127.0.0.1", 65536, "65535"),
        ("127.0.0.1", -1, "65535"),
    ],
)
async def test_addresses_that_are_refused(host: str, port: int, said: str) -> None:
    with pytest.raises(UserError, match=said):
        await serve(create_app(FakeGenerator()), host, port)


async def wait_until_refused(address: tuple[str, int]) -> None:
    with contextlib.suppress(ConnectionError):
        while True:
            _, other = await asyncio.open_connection(*address)
            other.close()


async def start(fake: FakeGenerator) -> tuple[asyncio.Task[None], tuple[str, int]]:
    ready: asyncio.Future[tuple[str, int]] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(
        serve(
            create_app(fake),
            "127.0.0.1",
            0,
            on_ready=lambda host, port: ready.set_result((host, port)),
        )
    )
    return task, await ready


async def test_stopping_lets_an_answer_end(fake: FakeGenerator) -> None:
    fake.gate = asyncio.Semaphore(1)
    task, address = await start(fake)
    reader, writer = await asyncio.open_connection(*address)
    writer.write(raw_request({**CHAT, "stream": True}))
    await reader.readuntil(b'"content":"Paris"')
    task.cancel()
    await wait_until_refused(address)
    for _ in range(3):
        fake.gate.release()
    assert b"data: [DONE]" in await reader.read()
    with pytest.raises(asyncio.CancelledError):
        await task
    writer.close()


async def test_stopping_does_not_wait_for_ever(
    fake: FakeGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HTTP_SHUTDOWN_GRACE_S", 0.05)
    fake.gate = asyncio.Semaphore(1)
    task, address = await start(fake)
    reader, writer = await asyncio.open_connection(*address)
    writer.write(raw_request({**CHAT, "stream": True}))
    await reader.readuntil(b'"content":"Paris"')
    task.cancel()
    assert await fake.ended.get() == "closed"
    with pytest.raises(asyncio.CancelledError):
        await task
    assert b"[DONE]" not in await reader.read()
    writer.close()
