"""Services: started in order, one that fails is started again and takes no other one down."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import pytest

from kwaai.errors import PortInUse, ResourceError
from kwaai.node.services import Ready, Run, Services, ServiceState, describe

FAST_S = (0.001, 0.002)
NEVER_S = (3600.0,)


class Journal:
    """Services that write down what happens to them."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.changed = asyncio.Event()

    def say(self, line: str) -> None:
        self.lines.append(line)
        self.changed.set()

    async def until(self, line: str, count: int = 1) -> None:
        async with asyncio.timeout(10):
            while self.lines.count(line) < count:
                self.changed.clear()
                await self.changed.wait()

    def service(self, name: str, *, cleanup: Callable[[], Any] | None = None) -> Run:
        async def run(ready: Ready) -> None:
            self.say(f"{name} starts")
            ready()
            try:
                await asyncio.Event().wait()
            finally:
                if cleanup is not None:
                    await cleanup()
                self.say(f"{name} ends")

        return run

    def failing(self, name: str, *errors: Exception | None, then: Run | None = None) -> Run:
        """Raises one error after the other (None: returns), then runs `then`."""
        left = iter(errors)

        async def run(ready: Ready) -> None:
            self.say(f"{name} tries")
            for error in itertools.islice(left, 1):
                if error is not None:
                    raise error
                return
            if then is not None:
                await then(ready)

        return run


def state(services: Services, name: str) -> ServiceState:
    return next(status.state for status in services.statuses() if status.name == name)


async def test_started_in_order_and_stopped_in_reverse() -> None:
    journal, services = Journal(), Services()
    for name in "abc":
        services.add(name, journal.service(name))
    await services.start()
    assert [s.state for s in services.statuses()] == [ServiceState.RUNNING] * 3
    await services.stop()
    await services.stop()
    assert journal.lines == [
        *("a starts", "b starts", "c starts"),
        *("c ends", "b ends", "a ends"),
    ]
    assert [s.state for s in services.statuses()] == [ServiceState.STOPPED] * 3


async def test_the_next_waits_until_the_one_before_is_ready() -> None:
    journal, services, gate = Journal(), Services(), asyncio.Event()

    async def slow(ready: Ready) -> None:
        journal.say("slow starts")
        await gate.wait()
        journal.say("slow is ready")
        ready()
        await asyncio.Event().wait()

    services.add("slow", slow)
    services.add("next", journal.service("next"))
    starting = asyncio.create_task(services.start())
    await journal.until("slow starts")
    assert state(services, "slow") is ServiceState.STARTING
    assert state(services, "next") is ServiceState.STOPPED
    gate.set()
    await starting
    assert journal.lines == ["slow starts", "slow is ready", "next starts"]
    await services.stop()


async def test_one_that_never_says_ready_holds_nobody_up() -> None:
    journal, services = Journal(), Services()

    async def mute(ready: Ready) -> None:
        await asyncio.Event().wait()

    services.add("mute", mute, wait_s=0.01)
    services.add("next", journal.service("next"))
    await services.start()
    assert journal.lines == ["next starts"]
    assert state(services, "mute") is ServiceState.STARTING
    await services.stop()


async def test_one_that_nobody_waits_for_fails_beside_the_others() -> None:
    journal, services, gate = Journal(), Services(), asyncio.Event()

    async def slow(ready: Ready) -> None:
        await gate.wait()
        ready()
        journal.say("slow is ready")
        await asyncio.Event().wait()

    services.add("slow", slow, wait_s=0)
    services.add("next", journal.service("next"))
    await services.start()
    assert state(services, "slow") is ServiceState.STARTING
    gate.set()
    await journal.until("slow is ready")
    await services.stop()


async def test_a_failing_service_is_started_again_and_the_others_go_on() -> None:
    journal, services = Journal(), Services(backoff_s=FAST_S)
    services.add("good", journal.service("good"))
    errors = (ResourceError("no room"), ValueError("a defect"), None)
    services.add("bad", journal.failing("bad", *errors, then=journal.service("bad")))
    services.add("last", journal.service("last"))
    await services.start()
    await journal.until("bad starts")
    good, bad, last = services.statuses()
    assert (good.state, last.state) == (ServiceState.RUNNING, ServiceState.RUNNING)
    assert (good.restarts, good.error) == (0, None)
    assert bad.state is ServiceState.RUNNING
    assert bad.restarts == 3
    assert bad.error == "bad ended by itself", "the last failure stays to be seen"
    assert journal.lines.count("good starts") == 1
    await services.stop()


async def test_a_failure_after_ready_shows_and_is_repaired() -> None:
    journal, services = Journal(), Services(backoff_s=FAST_S)
    breaks, runs = asyncio.Event(), itertools.count()

    async def run(ready: Ready) -> None:
        ready()
        journal.say("runs")
        if next(runs) == 0:
            await breaks.wait()
            raise ResourceError("the network went away")
        await asyncio.Event().wait()

    services.add("net", run)
    await services.start()
    assert services.statuses()[0].error is None
    breaks.set()
    await journal.until("runs", 2)
    status = services.statuses()[0]
    assert (status.state, status.restarts, status.error) == (
        *(ServiceState.RUNNING, 1),
        "the network went away",
    )
    await services.stop()


async def test_a_cancellation_from_within_is_a_failure() -> None:
    journal, services = Journal(), Services(backoff_s=NEVER_S)
    services.add("odd", journal.failing("odd", asyncio.CancelledError()))  # type: ignore[arg-type]
    await services.start()
    assert services.statuses()[0].state is ServiceState.BACKOFF
    assert services.statuses()[0].error == "odd was cancelled from within"
    await services.stop()


async def test_the_pause_grows_with_jitter_and_begins_anew_after_a_steady_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pauses: list[float] = []
    enough = asyncio.Event()
    steady = iter([0.0, 0.0, 0.0, 0.0, 61.0, 0.0])
    now_s = 0.0

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 6:
            enough.set()
            await asyncio.Event().wait()

    async def run(ready: Ready) -> None:
        nonlocal now_s
        now_s += next(steady)
        raise ResourceError("again")

    monkeypatch.setattr("kwaai.node.services.asyncio.sleep", sleep)
    monkeypatch.setattr("kwaai.node.services.time.monotonic", lambda: now_s)
    services = Services(backoff_s=(1.0, 2.0, 8.0), steady_s=60.0, seed=7)
    services.add("bad", run)
    await services.start()
    await enough.wait()
    await services.stop()
    for pause, longest in zip(pauses, (1, 2, 8, 8, 1, 2), strict=True):
        assert longest / 2 <= pause <= longest
    assert pauses[2] != pauses[3], "jitter: nodes that failed together do not come back together"


async def test_a_required_service_that_fails_fails_the_start() -> None:
    journal, services = Journal(), Services(backoff_s=NEVER_S)
    services.add("net", journal.service("net"))
    services.add("api", journal.failing("api", PortInUse("port 1 is in use")), required=True)
    services.add("last", journal.service("last"))
    with pytest.raises(PortInUse, match="port 1 is in use"):
        await services.start()
    await services.stop()
    assert journal.lines == ["net starts", "api tries", "net ends"]


async def test_a_required_service_that_says_nothing_fails_the_start() -> None:
    services = Services()

    async def mute(ready: Ready) -> None:
        await asyncio.Event().wait()

    services.add("net", mute, required=True, wait_s=0.01)
    with pytest.raises(ResourceError, match=r"net is not ready after 0\.01 s"):
        await services.start()
    await services.stop()


async def test_a_service_that_does_not_stop_is_left_behind() -> None:
    journal, services, release = Journal(), Services(), asyncio.Event()
    services.add("good", journal.service("good"))
    services.add("stuck", journal.service("stuck", cleanup=release.wait), stop_timeout_s=0.01)
    await services.start()
    stuck = next(task for task in asyncio.all_tasks() if task.get_name() == "stuck")
    await services.stop()
    assert state(services, "stuck") is ServiceState.OVERDUE
    assert state(services, "good") is ServiceState.STOPPED
    assert journal.lines[-1] == "good ends"
    release.set()
    await asyncio.wait([stuck])


async def test_stopping_during_a_pause_ends_at_once() -> None:
    journal, services = Journal(), Services(backoff_s=NEVER_S)
    services.add("bad", journal.failing("bad", ResourceError("no")))
    await services.start()
    async with asyncio.timeout(5):
        await services.stop()
    assert journal.lines == ["bad tries"]


async def test_a_second_ready_after_a_stop_changes_nothing() -> None:
    services, said = Services(), asyncio.Event()

    async def late(ready: Ready) -> None:
        ready()
        try:
            await asyncio.Event().wait()
        finally:
            ready()
            said.set()

    services.add("late", late)
    await services.start()
    await services.stop()
    assert said.is_set()
    assert state(services, "late") is ServiceState.STOPPED


def test_names_are_unique() -> None:
    services = Services()
    services.add("a", Journal().service("a"))
    with pytest.raises(ValueError, match="there is a service a already"):
        services.add("a", Journal().service("a"))


def test_an_error_is_one_bounded_line() -> None:
    assert describe(ResourceError("a\nb\x1b[1m")) == "a b [1m"
    assert describe(ValueError("v")) == "ValueError: v"
    assert len(describe(ResourceError("x" * 10_000))) == 500
