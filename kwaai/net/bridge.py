"""asyncio on one side, trio in a thread of its own on the other: calls, callbacks, cancellation.

Knows nothing of libp2p. Costs about 0.1 ms a call. Results and errors pass unchanged; a call that
is cancelled or late is cancelled on the other side too, and a result that nobody waits for any more
is given to `dispose`.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar, TypeVarTuple

from kwaai.errors import KwaaiError, ResourceError
from kwaai.log import get_logger

if TYPE_CHECKING:
    import trio

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
log = get_logger(__name__)
STOP_TIMEOUT_S = 5.0
GRACE_S = 2.0  # for the other side to notice its own deadline first


class Bridge:
    """One trio thread for one asyncio loop. Methods are asyncio's unless they say otherwise."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop
        self._thread: threading.Thread | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._nursery: trio.Nursery
        self._stopping: trio.Event
        self._tasks: set[asyncio.Task[Any]] = set()
        self._on_death: Callable[[str], None] | None = None

    async def start(
        self,
        serve: Callable[..., Awaitable[None]],
        on_death: Callable[[str], None] | None = None,
    ) -> Any:
        """Start the thread and `serve(task_status=...)` in it; return what it reports as started.

        `on_death` is called in the loop when the thread ends without `stop`.
        """
        self._loop = asyncio.get_running_loop()
        self._on_death = on_death
        started: asyncio.Future[Any] = self._loop.create_future()
        self._thread = threading.Thread(
            target=self._run_thread, args=(serve, started), name="libp2p", daemon=True
        )
        self._thread.start()
        return await started

    async def stop(self) -> None:
        """End everything on the other side, and the thread. Idempotent."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._on_death = None
        self._to_trio(lambda: self._stopping.set())
        await asyncio.to_thread(thread.join, STOP_TIMEOUT_S)
        if thread.is_alive():
            log.warning("libp2p_thread_stuck", waited_s=STOP_TIMEOUT_S)
        for task in self._tasks:
            task.cancel()

    async def call(
        self,
        fn: Callable[[*Ts], Awaitable[T]],
        *args: *Ts,
        timeout_s: float | None = None,
        dispose: Callable[[T], Awaitable[None]] | None = None,
    ) -> T:
        """Run an async function on the trio side. Raises what it raises; TimeoutError when late.

        `fn` should keep its own deadline; `timeout_s` is the last resort, a little later.
        """
        call = _Call(self, fn, args, dispose)
        if not self._to_trio(call.begin):
            raise ResourceError("the libp2p network is not running; start the node")
        try:
            async with asyncio.timeout(None if timeout_s is None else timeout_s + GRACE_S):
                return await call.result
        except BaseException:
            call.abandon()
            raise

    def spawn(self, fn: Callable[[*Ts], Awaitable[object]], *args: *Ts) -> None:
        """Run an async function on the trio side without waiting. Its errors are logged."""
        self._to_trio(lambda: self._nursery.start_soon(_run_quietly, fn, args))

    def post(self, fn: Callable[[*Ts], object], *args: *Ts) -> None:
        """From the trio side: call a plain function in the asyncio loop, in order."""
        with contextlib.suppress(RuntimeError):  # the loop has been closed
            self._loop.call_soon_threadsafe(fn, *args)

    async def run_asyncio(self, fn: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
        """From the trio side: await a coroutine function in the asyncio loop."""
        import trio

        done, outcome = trio.Event(), _Outcome[T]()
        token = trio.lowlevel.current_trio_token()

        def finish(task: asyncio.Task[T]) -> None:
            self._tasks.discard(task)
            if task.cancelled():
                outcome.error = ResourceError("the node is stopping")
            else:
                outcome.error = task.exception()
            if outcome.error is None:
                outcome.value = task.result()
            with contextlib.suppress(trio.RunFinishedError):
                token.run_sync_soon(done.set)

        def begin() -> None:
            outcome.task = asyncio.ensure_future(_as_coroutine(fn, args))
            self._tasks.add(outcome.task)
            outcome.task.add_done_callback(finish)

        self.post(begin)
        try:
            await done.wait()
        except BaseException:
            self.post(lambda: outcome.task.cancel())
            raise
        if outcome.error is not None:
            raise outcome.error
        return outcome.value

    def _to_trio(self, fn: Callable[[], object]) -> bool:
        import trio

        if self._token is None:
            return False
        try:
            self._token.run_sync_soon(fn)
        except trio.RunFinishedError:
            return False
        return True

    def _run_thread(
        self, serve: Callable[..., Awaitable[None]], started: asyncio.Future[Any]
    ) -> None:
        reason = ""
        try:
            import trio

            trio.run(self._main, serve, started)
        except BaseException as error:  # the thread's boundary: nothing may vanish with it
            while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
                error = error.exceptions[0]
            reason = f"{type(error).__name__}: {error}"
            failure = error if isinstance(error, KwaaiError) else ResourceError(reason)
            self.post(_fail, started, failure)
        self.post(self._died, reason)

    async def _main(
        self, serve: Callable[..., Awaitable[None]], started: asyncio.Future[Any]
    ) -> None:
        import trio

        self._stopping = trio.Event()
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._token = trio.lowlevel.current_trio_token()
            self.post(_succeed, started, await nursery.start(serve))
            await self._stopping.wait()
            nursery.cancel_scope.cancel()

    def _died(self, reason: str) -> None:
        self._token = None
        if self._on_death is not None:
            log.info("libp2p_thread_ended", reason=reason)  # whoever is told says how bad it is
            self._on_death(reason)


class _Call(Generic[T]):
    """One call from asyncio to trio."""

    def __init__(
        self,
        bridge: Bridge,
        fn: Callable[..., Awaitable[T]],
        args: tuple[object, ...],
        dispose: Callable[[T], Awaitable[None]] | None,
    ) -> None:
        self._bridge = bridge
        self._fn = fn
        self._args = args
        self._dispose = dispose
        self._scope: trio.CancelScope | None = None
        self.result: asyncio.Future[T] = bridge._loop.create_future()

    def begin(self) -> None:
        import trio

        self._scope = trio.CancelScope()
        self._bridge._nursery.start_soon(self._run)

    def abandon(self) -> None:
        """The caller does not wait any more, or did not get what has come."""
        result = self.result
        if not result.done() or result.cancelled():
            result.cancel()
            self._bridge._to_trio(self._cancel)
        elif result.exception() is None:
            self._give_away(result.result())

    def _cancel(self) -> None:
        if self._scope is not None:
            self._scope.cancel()

    def _give_away(self, value: T) -> None:
        if self._dispose is not None:
            self._bridge.spawn(self._dispose, value)

    async def _run(self) -> None:
        assert self._scope is not None
        post = self._bridge.post
        try:
            with self._scope:
                value = await self._fn(*self._args)
                post(self._succeed, value)
                return
            post(_fail, self.result, ResourceError("the call was cancelled"))
        except Exception as error:  # all errors are the caller's, on the other side
            post(_fail, self.result, error)
        except BaseException:
            post(_fail, self.result, ResourceError("the libp2p network is stopping"))
            raise

    def _succeed(self, value: T) -> None:
        if not self.result.done():
            self.result.set_result(value)
        else:
            self._give_away(value)


class _Outcome(Generic[T]):
    task: asyncio.Task[T]
    value: T
    error: BaseException | None = None


async def _as_coroutine(fn: Callable[..., Awaitable[T]], args: tuple[object, ...]) -> T:
    return await fn(*args)


async def _run_quietly(fn: Callable[..., Awaitable[object]], args: tuple[object, ...]) -> None:
    try:
        await fn(*args)
    except Exception as error:  # nobody waits for it
        log.debug("libp2p_task_failed", reason=f"{type(error).__name__}: {error}")


def _succeed(future: asyncio.Future[T], value: T) -> None:
    if not future.done():
        future.set_result(value)


def _fail(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # whoever gave up waiting does not hear of it
