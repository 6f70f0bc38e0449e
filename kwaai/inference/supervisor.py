"""One worker process under supervision: started, asked, ended, started again with backoff.

The node's side of `worker`. A request gets a reply, the worker's own refusal, or WorkerLost; never
silence. Does not know what a slice computes.
"""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from copy import copy
from typing import IO

from kwaai.errors import KwaaiError, WorkerLost
from kwaai.inference.environment import WORKER_ENVIRONMENT
from kwaai.inference.ipc import (
    OK_PREFIX,
    FrameError,
    FrameSocket,
    Header,
    encode_header,
    make_shared,
    parse_header,
)
from kwaai.inference.loopstream import Failed, LoopStream, Replied, error_of
from kwaai.limits import (
    WORKER_BACKOFF_S,
    WORKER_RESTARTS_MAX,
    WORKER_START_TIMEOUT_S,
    WORKER_STEP_TIMEOUT_S,
    WORKER_STOP_TIMEOUT_S,
)
from kwaai.log import get_logger

log = get_logger(__name__)

_STDERR_TAIL_BYTES = 2000
_REASON_TIMEOUT_S = 1.0
"""How long the error of a lost request waits for the exit code, which says more."""


class _Process:
    """One incarnation: the process, its stream, and a thread that waits for its end."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, environment: Mapping[str, str], shared_bytes: int
    ) -> None:
        self.loop, self.exited = loop, asyncio.Event()
        self.loop_stream: LoopStream | None = None
        self.is_lost = False
        self._reaped = threading.Event()
        self._reason = ""
        with contextlib.ExitStack() as always, contextlib.ExitStack() as unless_started:
            memory, shared = make_shared(max(shared_bytes, mmap.PAGESIZE))
            always.callback(os.close, memory)
            ours, theirs = socket.socketpair()
            always.enter_context(theirs)
            self.stream = FrameSocket(ours, shared)
            unless_started.callback(self.stream.close)
            descriptors = [theirs.fileno(), memory]
            stderr = unless_started.enter_context(tempfile.TemporaryFile())
            self.popen = subprocess.Popen(
                [sys.executable, "-P", "-m", "kwaai.inference.worker", *map(str, descriptors)],
                pass_fds=descriptors,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                env={**os.environ, **environment},
                start_new_session=True,  # Ctrl-C is for the node: it lets answers under way end
            )
            unless_started.pop_all()
        threading.Thread(target=self._wait, args=(loop, stderr), daemon=True).start()

    def _wait(self, loop: asyncio.AbstractEventLoop, stderr: IO[bytes]) -> None:
        code = self.popen.wait()
        with stderr:
            stderr.seek(max(0, stderr.seek(0, os.SEEK_END) - _STDERR_TAIL_BYTES))
            lines = stderr.read().decode("utf-8", "replace").strip().splitlines()
        reason = f"signal {-code}" if code < 0 else f"exit code {code}"
        self._reason = f" ({reason}{': ' + lines[-1][:300] if lines else ''})"
        self._reaped.set()
        with contextlib.suppress(RuntimeError):  # the loop may be gone by now
            loop.call_soon_threadsafe(self.exited.set)

    def exchange(
        self, header: bytes, payload: memoryview | bytes, timeout_s: float
    ) -> tuple[bytes, memoryview]:
        """Ask and wait; blocks the thread. Kills a process that does not take the request, or
        answer it, in time, and one that answers nonsense.
        """
        try:
            self.stream.send_encoded(header, payload, timeout_s)
            return self.stream.receive_encoded(timeout_s)
        except (OSError, EOFError, FrameError):  # TimeoutError is an OSError
            self.popen.kill()
            raise

    def close_loop_stream(self) -> Failed | None:
        """Nobody who posted is called any more; return who is to hear of it. In the loop's thread,
        before the stream closes.
        """
        return self.loop_stream.close() if self.loop_stream is not None else None

    def end(self, grace_s: float) -> None:
        """Close the stream, which tells the worker to end; kill it when it does not. Blocks."""
        self.stream.close()
        if not self._reaped.wait(grace_s):
            self.popen.kill()
            self._reaped.wait(WORKER_STOP_TIMEOUT_S)  # the kernel may keep it: stuck in a disk read

    def why(self) -> str:
        """The exit code and the last line that the process wrote, for an error message. Blocks
        briefly.
        """
        self._reaped.wait(1.0)
        return self._reason


class Worker:
    """A worker process by name. `incarnation` grows with each start: older KV is gone."""

    def __init__(
        self,
        name: str,
        load: Header,
        environment: Mapping[str, str] | None = None,
        shared_bytes: int = 0,
    ) -> None:
        """`environment`: added to the node's own; None for WORKER_ENVIRONMENT. `shared_bytes`: the
        largest payload that need not go through the socket.
        """
        self.name = name
        self.incarnation = 0
        self.restarts_total = 0
        self.info: Header = {}
        self.state = "stopped"
        self._failures = 0
        self._load, self._shared_bytes = load, shared_bytes
        self.environment = WORKER_ENVIRONMENT if environment is None else environment
        self._process: _Process | None = None
        self._settled = asyncio.Event()
        self._failure: KwaaiError | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._tellers: set[asyncio.Task[None]] = set()
        self.on_lost: Callable[[WorkerLost], None] = lambda error: None
        """Called in the loop's thread when an incarnation is lost, and its KV cache with it; not
        by `stop`. After the failure of the request in flight, if `post` brought it."""

    @property
    def pid(self) -> int | None:
        """The process's id while it runs."""
        return self._process.popen.pid if self._process else None

    async def start(self) -> None:
        """Start the process and load. Raises what the load raised; keeps watch afterwards."""
        self._settled.clear()
        await self._launch()
        self._watcher = asyncio.create_task(self._watch(), name=f"watch-{self.name}")

    def exchange(
        self,
        header: Header,
        payload: memoryview | bytes = b"",
        *,
        timeout_s: float = WORKER_STEP_TIMEOUT_S,
        incarnation: int | None = None,
    ) -> tuple[Header, memoryview]:
        """Ask and wait, blocking the calling thread (one at a time). As `exchange_encoded`."""
        text, data = self.exchange_encoded(
            encode_header(header), payload, timeout_s=timeout_s, incarnation=incarnation
        )
        return parse_header(text), data

    def exchange_encoded(
        self,
        header: bytes,
        payload: memoryview | bytes,
        *,
        timeout_s: float = WORKER_STEP_TIMEOUT_S,
        incarnation: int | None = None,
    ) -> tuple[bytes, memoryview]:
        """Ask and wait, with headers as frames carry them: parsing the reply's can wait.

        `incarnation`: the one whose KV the request relies on; None for any. Raises WorkerLost, or
        the error that the worker answered with. The reply's payload lies in a buffer that the next
        request overwrites.
        """
        process = self._ready_process(incarnation)
        try:
            reply, data = process.exchange(header, payload, timeout_s)
        except TimeoutError:
            self._unsettle(process)
            raise self._lost(process, TimeoutError(timeout_s)) from None
        except (OSError, EOFError, FrameError) as error:
            self._unsettle(process)
            raise self._lost(process, error) from None
        return _unless_error(reply), data

    def post(
        self,
        header: bytes,
        payload: memoryview | bytes,
        replied: Replied,
        failed: Failed,
        *,
        timeout_s: float = WORKER_STEP_TIMEOUT_S,
        incarnation: int | None = None,
    ) -> None:
        """Ask from the event loop's thread, without waiting: `replied` or `failed` is called there
        later, once. One request at a time, and none of `exchange` beside it.

        Raises WorkerLost when the worker cannot be asked now. `failed` gets WorkerLost, or the
        error that the worker answered with.
        """
        process = self._ready_process(incarnation)
        if process.loop_stream is None:
            process.loop_stream = LoopStream(
                process.loop,
                process.stream,
                lambda error, failed: self._lose(process, error, failed),
            )
        process.loop_stream.post(header, payload, timeout_s, replied, failed)

    def _ready_process(self, incarnation: int | None) -> _Process:
        process = self._process  # first: a later incarnation's process would not be ready yet
        if process is None or self.state != "ready":
            self._raise_failure()
            raise WorkerLost(f"worker {self.name} is {self.state}; try again", retry_after_s=2.0)
        if incarnation not in (None, self.incarnation):
            raise WorkerLost(
                f"worker {self.name} restarted and lost its cache; send the request again"
            )
        self._failures = 0  # it has started: what goes wrong from here on is the request's doing
        return process

    def _lost(self, process: _Process, error: Exception) -> WorkerLost:
        """Say what `error` of an exchange means. Blocks briefly where a process has just ended."""
        if isinstance(error, TimeoutError):
            seconds = error.args[0]
            what = f"gave no answer in {seconds:g} s and is started anew; send the request again"
        elif isinstance(error, FrameError):
            what = f"answered nonsense ({error}) and is started anew; send the request again"
        else:
            what = f"ended during the request{process.why()}; it is started anew, send it again"
        return WorkerLost(f"worker {self.name} {what}")

    def _lose(self, process: _Process, error: Exception, failed: Failed | None) -> None:
        """In the loop's thread: an incarnation is no more. Whoever asked is told, then `on_lost`;
        once its end has been seen, because that says why.
        """
        if process.is_lost:
            return
        process.is_lost = True
        process.popen.kill()
        if process is self._process and self.state == "ready":
            self.state = "restarting"
            self._settled.clear()

        async def tell() -> None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.exited.wait(), _REASON_TIMEOUT_S)
            lost = self._lost(process, error)
            if failed is not None:
                failed(lost)
            self.on_lost(lost)

        task = process.loop.create_task(tell())
        self._tellers.add(task)
        task.add_done_callback(self._tellers.discard)

    def _unsettle(self, process: _Process) -> None:
        """Whoever waits from now on waits for the next incarnation, though the watcher may not have
        seen the end of this one yet. Called from the asking thread.
        """

        def unsettle() -> None:
            if process is self._process and self.state == "ready":
                self.state = "restarting"
                self._settled.clear()

        with contextlib.suppress(RuntimeError):  # the loop is gone: nobody waits
            process.loop.call_soon_threadsafe(unsettle)

    async def wait_ready(self, timeout_s: float) -> None:
        """Wait until the worker can be asked. Raises its final error, or WorkerLost in the end."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._settled.wait()
        except TimeoutError:
            raise WorkerLost(f"worker {self.name} is not ready after {timeout_s:g} s") from None
        self._raise_failure()
        if self.state == "stopped":
            raise WorkerLost(f"worker {self.name} is stopped", retry_after_s=5.0)

    def _raise_failure(self) -> None:
        if self._failure:
            raise copy(self._failure)  # an error that is raised again and again keeps every frame

    async def stop(self) -> None:
        """End the process. Idempotent."""
        self.state = "stopped"
        if self._watcher:
            self._watcher.cancel()
            await asyncio.wait([self._watcher])
        self._settled.set()
        if self._tellers:
            await asyncio.wait(self._tellers)
        failed = self._process.close_loop_stream() if self._process else None
        if failed is not None:
            failed(WorkerLost(f"worker {self.name} is stopped", retry_after_s=5.0))
        if self._process:
            await asyncio.to_thread(self._process.end, WORKER_STOP_TIMEOUT_S)
        self._process = None

    async def _launch(self) -> None:
        self.state = "starting"
        try:
            process = self._process = _Process(
                asyncio.get_running_loop(), self.environment, self._shared_bytes
            )
        except OSError as error:  # no more processes, descriptors or memory
            raise WorkerLost(f"worker {self.name} cannot be started: {error}") from None
        try:
            reply, _ = await asyncio.to_thread(
                process.exchange, encode_header(self._load), b"", WORKER_START_TIMEOUT_S
            )
            self.info = parse_header(_unless_error(reply))
        except (TimeoutError, OSError, EOFError, FrameError):
            await asyncio.to_thread(process.end, 0.0)
            raise WorkerLost(f"worker {self.name} did not start{process.why()}") from None
        except BaseException:
            process.popen.kill()
            process.stream.close()
            raise
        self.incarnation += 1
        self.state = "ready"
        self._settled.set()
        log.info("worker_ready", worker=self.name, pid=self.pid, incarnation=self.incarnation)

    async def _watch(self) -> None:
        while self._failure is None:
            assert self._process is not None
            await self._process.exited.wait()
            self._lose(self._process, EOFError(), self._process.close_loop_stream())
            self._settled.clear()
            self.state = "restarting"
            self._process.stream.close()
            log.warning("worker_lost", worker=self.name, why=self._process.why().strip())
            await self._relaunch()

    async def _relaunch(self) -> None:
        while not self._settled.is_set():
            if self._failures >= WORKER_RESTARTS_MAX:
                self._failure = WorkerLost(
                    f"worker {self.name} failed {self._failures} times in a row and stays down; "
                    "see the log, then restart the node"
                )
                self.state = "failed"
                self._settled.set()
                return
            await asyncio.sleep(WORKER_BACKOFF_S[min(self._failures, len(WORKER_BACKOFF_S) - 1)])
            self._failures += 1
            self.restarts_total += 1
            try:
                await self._launch()
            except KwaaiError as error:
                log.warning("worker_start_failed", worker=self.name, error=error.message)


def _unless_error(reply: bytes) -> bytes:
    if not reply.startswith(OK_PREFIX):
        raise error_of(reply)
    return reply
