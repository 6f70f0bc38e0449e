"""libp2p's streams and requests as asyncio sees them: each operation crosses the bridge."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from credentials.keys import PeerId
from kwaai.net.bridge import Bridge

if TYPE_CHECKING:
    from kwaai.net.libp2p_stream import P2pStream


class BridgedStream:
    """A P2pStream for asyncio."""

    def __init__(self, bridge: Bridge, stream: P2pStream) -> None:
        self._bridge = bridge
        self._stream = stream

    async def read(self, most: int) -> bytes:
        """Read 1 to `most` bytes; b"" at the end. After a cancelled read, close the stream."""
        return await self._bridge.call(self._stream.read, most)

    async def write(self, data: bytes) -> None:
        """Write all of `data`. After a cancelled write, close the stream."""
        await self._bridge.call(self._stream.write, bytes(data))

    async def close(self) -> None:
        self._bridge.spawn(self._stream.close)


def serve_on(
    bridge: Bridge, is_stream: bool, handler: Callable[..., Awaitable[Any]]
) -> Callable[[P2pStream, str], Awaitable[None]]:
    """Make the trio side's handler, which runs ours in the asyncio loop."""

    async def serve_stream(stream: P2pStream, protocol: str) -> None:
        await bridge.run_asyncio(handler, stream.peer, BridgedStream(bridge, stream))

    async def serve_request(stream: P2pStream, protocol: str) -> None:
        from kwaai.net import libp2p_services

        async def answer(peer: PeerId, body: bytes) -> bytes:
            reply: bytes = await bridge.run_asyncio(handler, peer, body)
            return reply

        await libp2p_services.serve_request(stream, protocol, answer)

    return serve_stream if is_stream else serve_request


async def drop(stream: P2pStream) -> None:
    """Reset a stream that came too late for whoever asked for it."""
    stream.drop()
