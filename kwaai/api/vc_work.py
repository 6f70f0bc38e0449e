"""The office behind the event loop: its work runs in a few threads, and more than a bounded number
of requests is refused as busy.

Knows no route. A client that goes away does not free its place before its work has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Concatenate, ParamSpec, TypeAlias, TypeVar

from aiohttp import web

from kwaai import limits
from kwaai.errors import Busy
from kwaai.node.credential_office import CredentialOffice

_P = ParamSpec("_P")
_T = TypeVar("_T")

GetOffice: TypeAlias = Callable[[], CredentialOffice]
"""Gives the office while there is one; raises ResourceError while there is not."""


class OfficeWork:
    """Runs work with the office in threads of its own. Used from one event loop."""

    def __init__(
        self,
        office: GetOffice,
        *,
        threads: int = limits.VC_THREADS,
        requests_max: int = limits.VC_REQUESTS_MAX,
    ) -> None:
        self._office = office
        self._requests_max = requests_max
        self._under_way = 0
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="credentials")

    async def run(
        self,
        work: Callable[Concatenate[CredentialOffice, _P], _T],
        *args: _P.args,
        **options: _P.kwargs,
    ) -> _T:
        """Run `work(office, ...)` in a thread and return what it returns. Raises what it raises,
        Busy, and what the office's giver raises while there is none.
        """
        office = self._office()
        if self._under_way >= self._requests_max:
            raise Busy(
                f"{self._requests_max} requests about credentials are under way; try again",
                retry_after_s=1.0,
            )
        loop = asyncio.get_running_loop()
        self._under_way += 1
        try:
            future = self._pool.submit(work, office, *args, **options)
        except RuntimeError:  # the pool is shut down: the server is going
            self._under_way -= 1
            raise Busy("the server is being stopped") from None
        future.add_done_callback(lambda done: self._tell(loop, done))
        return await asyncio.wrap_future(future)

    def _tell(self, loop: asyncio.AbstractEventLoop, _: Future[Any]) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(self._finish)

    def _finish(self) -> None:
        self._under_way -= 1

    async def close(self, _: web.Application | None = None) -> None:
        """Wait for what runs; drop what waits."""
        await asyncio.to_thread(self._pool.shutdown, cancel_futures=True)
