"""The bridge between asyncio and trio: results, errors, cancellation, both ways, and its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio

from kwaai.errors import PeerLost, PortInUse, ResourceError
from kwaai.net.bridge import Bridge


async def serve(task_status: Any) -> None:
    task_status.started("up")
    await trio.sleep_forever()


@pytest.fixture
async def bridge() -> AsyncIterator[Bridge]:
    made = Bridge()
    assert await made.start(serve) == "up"
    yield made
    await made.stop()


async def add(a: int, b: int) -> int:
    await trio.lowlevel.checkpoint()
    return a + b


async def test_results_and_errors_pass(bridge: Bridge) -> None:
    assert await asyncio.gather(*(bridge.call(add, n, 1) for n in range(100))) == [*range(1, 101)]

    async def fail() -> None:
        raise PeerLost("gone", peer="somebody")

    with pytest.raises(PeerLost, match="gone") as caught:
        await bridge.call(fail)
    assert caught.value.peer == "somebody"


async def test_a_cancelled_call_is_cancelled_there(bridge: Bridge) -> None:
    seen: list[str] = []
    begun = asyncio.Event()

    async def wait() -> None:
        bridge.post(begun.set)
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            seen.append("cancelled")
            raise

    task = asyncio.create_task(bridge.call(wait))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await bridge.call(add, 1, 1) == 2  # in order after it
    assert seen == ["cancelled"]


async def test_a_late_call_ends(bridge: Bridge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kwaai.net.bridge.GRACE_S", 0.0)
    with pytest.raises(TimeoutError):
        await bridge.call(trio.sleep_forever, timeout_s=0.05)


async def test_a_result_that_nobody_wants_is_given_away(bridge: Bridge) -> None:
    """At whatever moment the caller is cancelled, a result is either returned or disposed of."""
    made: list[int] = []
    returned: list[int] = []
    disposed: list[int] = []

    async def make(n: int) -> int:
        await trio.sleep(0.0002 * (n % 7))
        with trio.CancelScope(shield=True):
            await trio.lowlevel.checkpoint()
        made.append(n)
        return n

    async def dispose(n: int) -> None:
        disposed.append(n)

    async def use(n: int) -> None:
        try:
            async with asyncio.timeout(0.001 * (n % 23) if n % 23 else None):
                returned.append(await bridge.call(make, n, dispose=dispose))
        except TimeoutError:
            pass

    await asyncio.gather(*(use(n) for n in range(300)))
    async with asyncio.timeout(5.0):
        while sorted(returned + disposed) != sorted(made):
            await asyncio.sleep(0.01)
    assert made


async def test_trio_calls_asyncio(bridge: Bridge) -> None:
    async def ask(question: str) -> str:
        await asyncio.sleep(0)
        if question == "bad":
            raise PeerLost("no answer")
        return question + "!"

    async def go(question: str) -> str:
        return await bridge.run_asyncio(ask, question)

    assert await bridge.call(go, "why") == "why!"
    with pytest.raises(PeerLost):
        await bridge.call(go, "bad")


async def test_what_trio_asked_ends_when_trio_gives_up(bridge: Bridge) -> None:
    ended = asyncio.Event()

    async def for_ever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def go() -> None:
        with trio.move_on_after(0.05):
            await bridge.run_asyncio(for_ever)

    await bridge.call(go)
    await asyncio.wait_for(ended.wait(), 5.0)


async def test_after_stop_calls_are_refused() -> None:
    bridge = Bridge()
    await bridge.start(serve)
    pending = asyncio.create_task(bridge.call(trio.sleep_forever))
    await asyncio.sleep(0)
    await bridge.stop()
    await bridge.stop()
    with pytest.raises(ResourceError):
        await pending
    with pytest.raises(ResourceError, match="not running"):
        await bridge.call(add, 1, 1)


async def test_a_start_that_fails_says_why() -> None:
    async def refuse(task_status: Any) -> None:
        raise PortInUse("port 1 is in use")

    bridge = Bridge()
    with pytest.raises(PortInUse, match="port 1"):
        await bridge.start(refuse)
    await bridge.stop()


async def test_a_thread_that_dies_is_reported() -> None:
    async def die(task_status: Any) -> None:
        task_status.started()
        raise ZeroDivisionError("a bug")

    died: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    bridge = Bridge()
    await bridge.start(die, died.set_result)
    assert "a bug" in await asyncio.wait_for(died, 5.0)
    with pytest.raises(ResourceError):
        await bridge.call(add, 1, 1)
    await bridge.stop()
