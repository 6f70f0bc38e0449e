"""Blocking work beside the event loop, in a few threads of its own: more than a bounded number of
calls is refused as busy.

A caller that goes away does not free its place before its work has ended: whoever hangs up and
calls again gets no more threads than the others. Knows nothing of what the work is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from kwaai.errors import Busy

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Threads:
    """Runs work in up to `threads` threads for up to `calls_max` calls, those that wait included.

    Belongs to one event loop. `what` names the calls in messages: "requests about credentials".
    """

    def __init__(self, name: str, *, threads: int, calls_max: int, what: str) -> None:
        self.calls_max = calls_max
        self.under_way = 0
        """Calls whose work has not ended."""
        self._what = what
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)

    async def run(self, work: Callable[_P, _T], *arguments: _P.args, **options: _P.kwargs) -> _T:
        """Run `work` in a thread and return what it returns. Raises what it raises, and Busy."""
        if self.under_way >= self.calls_max:
            raise Busy(f"{self.calls_max} {self._what} are under way; try again", retry_after_s=1.0)
        loop = asyncio.get_running_loop()
        try:
            future = self._pool.submit(work, *arguments, **options)
        except RuntimeError:  # the pool is shut down
            raise Busy(f"{self._what} are not taken any more: this is being stopped") from None
        self.under_way += 1
        future.add_done_callback(lambda done: self._tell(loop, done))
        return await asyncio.wrap_future(future)

    def _tell(self, loop: asyncio.AbstractEventLoop, _: Future[Any]) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(self._finish)

    def _finish(self) -> None:
        self.under_way -= 1

    def close(self) -> None:
        """Take no more, and drop what waits. What runs is not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def join(self) -> None:
        """Close, and wait for what runs."""
        await asyncio.to_thread(self._pool.shutdown, cancel_futures=True)
