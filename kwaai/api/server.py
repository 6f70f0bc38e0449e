"""Serves the node's API on a port until told to stop.

Handles no signals: whoever runs it cancels the task. The port itself is `kwaai.api.port`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from kwaai.api.app import SERVICE
from kwaai.api.auth import check_bind
from kwaai.api.port import bound

PORT_DEFAULT = 11435


async def serve(
    app: web.Application,
    host: str = "127.0.0.1",
    port: int = PORT_DEFAULT,
    *,
    on_ready: Callable[[str, int], None] | None = None,
) -> None:
    """Serve `app` until cancelled; then let answers under way end within HTTP_SHUTDOWN_GRACE_S.

    `on_ready` is called with the address and port that are listened on (port 0 picks a free one).
    Raises UserError for an address that may not or cannot be used, PortInUse.
    """
    async with listening(app, host, port) as (bound_host, bound_port):
        if on_ready is not None:
            on_ready(bound_host, bound_port)
        await asyncio.get_running_loop().create_future()


@asynccontextmanager
async def listening(app: web.Application, host: str, port: int) -> AsyncIterator[tuple[str, int]]:
    """Serve `app` inside the context; yield the address and port."""
    check_bind(host, app[SERVICE].api_key)
    async with bound(app, host, port) as address:
        yield address
