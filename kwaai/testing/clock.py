"""An asyncio loop whose clock moves only when nothing else is left to do: an hour passes in the
time that its events take, and the same program has the same events each time.

For programs that wait on timers and one another. Not for sockets, threads or processes: nothing
moves the clock while one waits for them.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

T = TypeVar("T")

EPOCH_S = 1_800_000_000.0
"""The Unix time at which virtual loops begin."""


class _MovingSelector(selectors.DefaultSelector):
    """Moves the clock instead of waiting."""

    now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise RuntimeError("every task waits, and no timer is set: this would hang for ever")
        if not ready and timeout is not None:
            self.now_s += max(0.0, timeout)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop with its own time, which starts at 0."""

    def __init__(self) -> None:
        self._moving = _MovingSelector()
        self.failures: list[Mapping[str, Any]] = []
        """What went wrong in callbacks and forgotten tasks."""
        super().__init__(self._moving)
        self.set_exception_handler(lambda _, context: self.failures.append(context))

    def time(self) -> float:
        return self._moving.now_s


def unix_time() -> float:
    """Return the running virtual loop's time as Unix seconds."""
    return EPOCH_S + asyncio.get_running_loop().time()


def run_virtual(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a program in a loop of its own. Raises RuntimeError when a callback or a task failed
    where nobody looked, or when nothing can ever happen any more.
    """
    loop = VirtualLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        result = runner.run(main())
    if loop.failures:
        error = loop.failures[0].get("exception")
        raise RuntimeError(f"failed unseen: {loop.failures[0]}") from error
    return result
