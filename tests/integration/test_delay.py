"""The relay that plays a far peer: order, delay, end."""

from __future__ import annotations

import asyncio
import time

from kwaai.net.delay import DelayRelay


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def test_relay_delays_each_direction_and_keeps_order() -> None:
    server = await asyncio.start_server(_echo, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    relay = DelayRelay(host, port, 0.05)
    address, _, relay_port = (await relay.start()).rpartition(":")
    reader, writer = await asyncio.open_connection(address, int(relay_port))
    sent = bytes(range(256)) * 4096
    started = time.perf_counter()
    writer.write(sent)
    received = await asyncio.wait_for(reader.readexactly(len(sent)), 10)
    assert received == sent
    assert time.perf_counter() - started >= 0.1
    writer.write_eof()
    assert await asyncio.wait_for(reader.read(1), 10) == b""
    writer.close()
    await relay.stop()
    server.close()


async def test_relay_closes_when_nobody_listens_behind_it() -> None:
    server = await asyncio.start_server(_echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    relay = DelayRelay("127.0.0.1", port, 0.01)
    address, _, relay_port = (await relay.start()).rpartition(":")
    reader, writer = await asyncio.open_connection(address, int(relay_port))
    assert await asyncio.wait_for(reader.read(), 10) == b""
    writer.close()
    await relay.stop()
