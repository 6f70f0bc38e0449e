"""The parts of a node that run side by side: started in order, watched, restarted, ended in order.

A service that fails is started again after a growing pause, and never takes another one down. Knows
nothing of what a service does; `kwaai.node.node` names them. Issue 3, section 4.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from kwaai import limits
from kwaai.errors import KwaaiError, ResourceError
from kwaai.log import get_logger

log = get_logger(__name__)

Ready: TypeAlias = Callable[[], None]
"""A service calls this once it does what others rely on."""
Run: TypeAlias = Callable[[Ready], Awaitable[None]]
"""Runs a service until cancelled, and cleans up then. To return or raise before that is to fail."""


class ServiceState(enum.StrEnum):
    """Where a service is."""

    STOPPED = "stopped"
    STARTING = "starting"
    RUNNING = "running"
    BACKOFF = "backoff"
    """It failed, and is started again after a pause."""
    STOPPING = "stopping"
    OVERDUE = "overdue"
    """It was told to stop and did not in time; nobody waits for it any more."""


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """What `status` shows of a service."""

    name: str
    state: ServiceState
    since_s: float
    """Unix seconds of the last change of state."""
    restarts: int
    error: str | None
    """The last failure, one line; kept after the service runs again."""


@dataclass(slots=True)
class _Service:
    name: str
    run: Run
    required: bool
    wait_s: float
    stop_timeout_s: float
    state: ServiceState = ServiceState.STOPPED
    since_s: float = 0.0
    restarts: int = 0
    failures: int = 0
    error: str | None = None
    failure: Exception | None = None
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    """It has said ready, or failed, since the last start."""
    task: asyncio.Task[None] | None = None

    def set_state(self, state: ServiceState) -> None:
        self.state, self.since_s = state, time.time()


class Services:
    """The services of one node, in the order in which they need one another."""

    def __init__(
        self,
        *,
        backoff_s: tuple[float, ...] = limits.SERVICE_BACKOFF_S,
        steady_s: float = limits.SERVICE_STEADY_S,
        seed: int | None = None,
    ) -> None:
        """`seed`: of the jitter, for tests."""
        self._backoff_s, self._steady_s = backoff_s, steady_s
        self._random = random.Random(seed)
        self._services: dict[str, _Service] = {}

    def add(
        self,
        name: str,
        run: Run,
        *,
        required: bool = False,
        wait_s: float = limits.SERVICE_START_TIMEOUT_S,
        stop_timeout_s: float = limits.SERVICE_STOP_TIMEOUT_S,
    ) -> None:
        """Add a service, before `start`. `required`: when its first try fails, `start` does.
        `wait_s`: the next one starts when this one is ready, or after this long.
        """
        if name in self._services:
            raise ValueError(f"there is a service {name} already")
        self._services[name] = _Service(name, run, required, wait_s, stop_timeout_s)

    async def start(self) -> None:
        """Start each service when the one before it is ready, has failed, or had its time.

        Raises the first error of a required service; the caller then stops the others.
        """
        for service in self._services.values():
            service.task = asyncio.create_task(self._supervise(service), name=service.name)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(service.wait_s):
                    await service.settled.wait()
            if service.required and service.state is not ServiceState.RUNNING:
                raise service.failure or ResourceError(
                    f"{service.name} is not ready after {service.wait_s:g} s; see `kwaainet logs`"
                )

    async def stop(self, timeout_s: float | None = None) -> None:
        """Stop all, the last first. Each gets its own deadline, or `timeout_s`. Idempotent."""
        for service in reversed(self._services.values()):
            if service.task is None:
                continue
            service.set_state(ServiceState.STOPPING)
            service.task.cancel()
            deadline_s = service.stop_timeout_s if timeout_s is None else timeout_s
            await asyncio.wait([service.task], timeout=deadline_s)
            if service.task.done():
                service.set_state(ServiceState.STOPPED)
            else:
                service.set_state(ServiceState.OVERDUE)
                log.error("service_stop_overdue", service=service.name, timeout_s=deadline_s)
            service.task = None

    def statuses(self) -> tuple[ServiceStatus, ...]:
        """Every service, in the order of starting."""
        return tuple(
            ServiceStatus(s.name, s.state, s.since_s, s.restarts, s.error)
            for s in self._services.values()
        )

    async def _supervise(self, service: _Service) -> None:
        while True:
            service.set_state(ServiceState.STARTING)
            started_s = time.monotonic()
            try:
                await service.run(lambda: self._set_ready(service))
                failure: Exception = ResourceError(f"{service.name} ended by itself")
            except asyncio.CancelledError as cancelled:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise
                # Nobody cancelled us: an inner task's cancellation leaked out of the service.
                failure = ResourceError(f"{service.name} was cancelled from within")
                failure.__cause__ = cancelled
            except KwaaiError as error:
                failure = error
            except Exception as error:  # the service's boundary: the others go on
                log.exception("service_crashed", service=service.name)
                failure = error
            await self._pause(service, failure, time.monotonic() - started_s)

    async def _pause(self, service: _Service, failure: Exception, ran_s: float) -> None:
        """Record the failure, and wait before the next try: longer each time, never in step."""
        service.failures = 1 if ran_s >= self._steady_s else service.failures + 1
        service.failure, service.error = failure, describe(failure)
        longest_s = self._backoff_s[min(service.failures, len(self._backoff_s)) - 1]
        pause_s = longest_s * self._random.uniform(0.5, 1.0)
        service.set_state(ServiceState.BACKOFF)
        # Where `start` is about to raise it, it is said there.
        say = log.info if service.required and not service.settled.is_set() else log.warning
        say("service_failed", service=service.name, error=service.error, pause_s=round(pause_s, 3))
        service.settled.set()
        await asyncio.sleep(pause_s)
        service.restarts += 1

    def _set_ready(self, service: _Service) -> None:
        if service.state is not ServiceState.STARTING:
            return  # it is being stopped, or said so before
        service.set_state(ServiceState.RUNNING)
        service.settled.set()
        log.info("service_ready", service=service.name, restarts=service.restarts)


def describe(error: BaseException) -> str:
    """Return an error as one bounded line, with the class where it is none of ours."""
    text = error.message if isinstance(error, KwaaiError) else f"{type(error).__name__}: {error}"
    line = "".join(c if c.isprintable() else " " for c in text).strip()
    return line[: limits.SERVICE_ERROR_CHARS_MAX]
