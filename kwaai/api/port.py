"""A port: listens and hands connections to an application, with bounds on both.

Does not care who may ask, or what. Bounds connections, headers and idle time; what is not HTTP gets
an answer and no traceback.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from kwaai import limits
from kwaai.api.errors import error_response
from kwaai.api.tls_port import TlsPort, listen_both
from kwaai.errors import PortInUse, ResourceError, UserError
from kwaai.log import get_logger

log = get_logger(__name__)


@asynccontextmanager
async def bound(
    app: web.Application,
    host: str,
    port: int,
    *,
    tls: ssl.SSLContext | None = None,
    option: str = "--api-port",
) -> AsyncIterator[tuple[str, int]]:
    """Serve any application inside the context, wherever it listens: who may ask is the caller's
    concern. With `tls` the port speaks HTTPS, and plain HTTP to whoever begins with that. `option`
    is how a user chooses another port.
    """
    runner = web.AppRunner(
        app,
        handler_cancellation=True,  # a client that goes away ends its generations
        shutdown_timeout=limits.HTTP_SHUTDOWN_GRACE_S,
    )
    await runner.setup()
    try:
        listener = await _listen(runner, host, port, tls, option)
        address = listener.sockets[0].getsockname()
        log.info("api_listening", host=address[0], port=address[1])
        try:
            yield address[0], address[1]
        finally:
            listener.close()
    finally:
        await runner.cleanup()


async def _listen(
    runner: web.AppRunner, host: str, port: int, tls: ssl.SSLContext | None, option: str
) -> asyncio.Server | TlsPort:
    server = runner.server
    assert server is not None  # set up by the caller

    loop = asyncio.get_running_loop()

    def accept() -> asyncio.Protocol:
        if len(server.connections) >= limits.HTTP_CONNECTIONS_MAX:
            return _Refusal()
        return _Connection(
            server,
            loop=loop,
            access_log=None,  # type: ignore[arg-type]  # how aiohttp switches it off
            auto_decompress=False,
            keepalive_timeout=limits.HTTP_KEEPALIVE_S,
            lingering_time=limits.HTTP_LINGER_S,
            max_line_size=limits.HTTP_HEADER_BYTES_MAX,
            max_field_size=limits.HTTP_HEADER_BYTES_MAX,
        )

    try:
        if tls is not None:
            return await listen_both(accept, host, port, tls)
        return await loop.create_server(accept, host, port, backlog=128)
    except socket.gaierror as error:
        raise UserError(
            f"the address '{host}' cannot be found: {error.strerror}", param="host"
        ) from error
    except OverflowError as error:
        raise UserError(f"the port must be 0 to 65535, not {port}", param="port") from error
    except OSError as error:
        raise _explain(error, host, port, option) from error


def _explain(error: OSError, host: str, port: int, option: str) -> UserError | ResourceError:
    if error.errno == errno.EADDRINUSE:
        return PortInUse(
            f"port {port} on {host} is in use; end what uses it, or choose another with {option}",
            param="port",
        )
    if error.errno == errno.EACCES:
        return UserError(
            f"port {port} needs privileges; choose one above 1023 with {option}", param="port"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return UserError(f"{host} is not an address of this machine", param="host")
    return ResourceError(f"cannot listen on {host} port {port}: {error.strerror}")


class _Connection(web.RequestHandler):
    """Answers what is not HTTP in OpenAI's shape too; no traceback for each such request."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if status >= 500 or request.writer.output_size > 0:
            return super().handle_error(request, status, exc, message)
        log.info("request_malformed", problem=type(exc).__name__)
        said = (message or "it is malformed").splitlines()[0].strip()
        said = "".join(c if c.isprintable() else "?" for c in said).rstrip(" :.")[:200]
        response = error_response(UserError(f"this is not a valid HTTP request: {said}"))
        response.force_close()
        return response


class _Refusal(asyncio.Protocol):
    """Closes a connection at once: there are too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        log.warning("connection_refused", connections_max=limits.HTTP_CONNECTIONS_MAX)
        transport.close()
