"""A port that speaks HTTPS, and plain HTTP to whoever begins with that.

For `--self-signed` only: programs that refuse a certificate nobody vouches for still get an answer.
The first byte decides: a TLS handshake begins with 0x16, no HTTP request does. Makes no
certificate.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Sequence

from kwaai import limits
from kwaai.log import get_logger

_TLS_HANDSHAKE = b"\x16"
_BACKLOG = 128

log = get_logger(__name__)


class TlsPort:
    """Listening sockets whose connections become TLS or plain ones. Closed like a server."""

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        accept: Callable[[], asyncio.Protocol],
        tls: ssl.SSLContext,
    ) -> None:
        self.sockets = tuple(sockets)
        self._accept, self._tls = accept, tls
        self._greeting: set[asyncio.Task[None]] = set()
        self._tasks = [asyncio.create_task(self._serve(listener)) for listener in sockets]

    def close(self) -> None:
        """Listen no more, and drop connections that have not said which kind they are."""
        for task in (*self._tasks, *self._greeting):
            task.cancel()
        for listener in self.sockets:
            listener.close()

    async def _serve(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(listener)
            except OSError as error:  # out of descriptors, or a client that gave up
                log.warning("accept_failed", problem=error.strerror)
                await asyncio.sleep(limits.TLS_ACCEPT_PAUSE_S)
                continue
            if len(self._greeting) >= limits.HTTP_CONNECTIONS_MAX:
                connection.close()
                continue
            task = asyncio.create_task(self._greet(connection))
            self._greeting.add(task)
            task.add_done_callback(self._greeting.discard)

    async def _greet(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(limits.TLS_HELLO_TIMEOUT_S):
                first = await _first_byte(connection)
        except (TimeoutError, OSError, asyncio.CancelledError):
            connection.close()
            return
        with contextlib.suppress(OSError):  # ssl.SSLError too: whoever it was went away
            if first == _TLS_HANDSHAKE:
                await loop.connect_accepted_socket(
                    self._accept,
                    connection,
                    ssl=self._tls,
                    ssl_handshake_timeout=limits.TLS_HELLO_TIMEOUT_S,
                )
            else:
                await loop.connect_accepted_socket(self._accept, connection)


async def listen_both(
    accept: Callable[[], asyncio.Protocol], host: str, port: int, tls: ssl.SSLContext
) -> TlsPort:
    """Listen on every address of `host`. Raises what binding raises: gaierror, OSError."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    addresses = list(dict.fromkeys((family, address[:2]) for family, _, _, _, address in found))
    if port == 0:
        addresses = addresses[:1]  # each would get a port of its own
    with contextlib.ExitStack() as opened:
        sockets = [
            opened.enter_context(socket.create_server(address, family=family, backlog=_BACKLOG))
            for family, address in addresses
        ]
        for listener in sockets:
            listener.setblocking(False)
        opened.pop_all()
    return TlsPort(sockets, accept, tls)


async def _first_byte(connection: socket.socket) -> bytes:
    """Return the first byte that a peer sends, and leave it where it is."""
    loop = asyncio.get_running_loop()
    connection.setblocking(False)
    readable = loop.create_future()
    loop.add_reader(connection, _tell, readable)
    try:
        await readable
    finally:
        loop.remove_reader(connection)
    return connection.recv(1, socket.MSG_PEEK)


def _tell(readable: asyncio.Future[None]) -> None:
    if not readable.done():
        readable.set_result(None)
