"""What a node serves: announced when it changes, drained before it goes, lost without the rest.

And the node's answers as its faces see them: counted, refused while it goes.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest

from kwaai import limits
from kwaai.errors import Busy, ModelNotFound, OutOfMemory, ResourceError, UserError
from kwaai.inference.sampling import SamplingParams
from kwaai.node import serving_parts
from kwaai.node.answers import Answers
from kwaai.node.generate import GenerationRequest
from kwaai.node.serving import Serving
from kwaai.node.serving_parts import ServingParts
from kwaai.testing.generator import CARD, FakeGenerator
from kwaai.types import LayerRange, ModelHandle
from kwaai.wire.records import Served

HANDLE = ModelHandle("sha256:" + "ab" * 32)
LINKS = ("192.0.2.1:8081",)


@dataclass
class FakeHost:
    """A slice that runs."""

    layers: LayerRange
    state: str = "ready"
    sessions_free: int = 4
    decode_us: int = 1000
    batch_tokens: int = 512
    backend: str = "CPU"

    @property
    def stats(self) -> Any:
        return SimpleNamespace(decode_us=self.decode_us, prefill_tokens_s=100.0)


@dataclass
class FakeSlices:
    """LocalSlices with one model of eight layers."""

    failure: Exception | None = None
    gate: asyncio.Event | None = None
    is_whole: bool = True
    hosts: list[FakeHost] = field(default_factory=list)
    released: list[LayerRange] = field(default_factory=list)

    async def model(self, name: str) -> Any:
        if name != "m":
            raise ModelNotFound(f"no model {name}")
        return SimpleNamespace(
            name="m", handle=HANDLE, block_count=8, context_tokens=64, sessions_max=4, embd=16,
            cells=256, entry=SimpleNamespace(whole=self.is_whole),
        )  # fmt: skip

    async def acquire(self, name: str, layers: LayerRange) -> FakeHost:
        if self.gate is not None:
            await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        self.hosts.append(FakeHost(layers))
        return self.hosts[-1]

    def release(self, host: FakeHost) -> None:
        self.released.append(host.layers)


@dataclass
class FakeDirectory:
    """Keeps what was announced, and has what others serve."""

    announced: list[tuple[Served, ...]] = field(default_factory=list)
    others: tuple[Any, ...] = ()
    refreshed: int = 0

    def set_served(self, served: tuple[Served, ...], links: tuple[str, ...]) -> None:
        assert links == LINKS
        self.announced.append(served)

    async def refresh(self, handle: ModelHandle) -> None:
        self.refreshed += 1

    def records(self, handle: ModelHandle) -> tuple[Any, ...]:
        return self.others

    @property
    def states(self) -> list[list[str]]:
        return [[f"{s.layers} {s.state}" for s in served] for served in self.announced]


@dataclass
class FakeSessions:
    """Sessions that end when they are told."""

    drained: list[Any] = field(default_factory=list)
    unused: list[Any] = field(default_factory=list)

    def sessions_on(self, part: Any) -> int:
        return 0 if part in self.unused else 2

    async def drain(self, grace_s: float, part: Any = None) -> None:
        self.drained.append(part)


@pytest.fixture
def slices() -> FakeSlices:
    return FakeSlices()


@pytest.fixture
def directory() -> FakeDirectory:
    return FakeDirectory()


@pytest.fixture
def sessions() -> FakeSessions:
    return FakeSessions()


@pytest.fixture
def serving(slices: Any, directory: Any, sessions: Any) -> Serving:
    serving = Serving(slices, directory, lambda: LINKS, lambda model: 3)
    serving.attach(sessions)
    return serving


def quiet(text: str) -> None:
    """Nobody listens."""


async def test_a_range_is_announced_before_and_after_it_is_loaded(
    serving: Serving, slices: FakeSlices, directory: FakeDirectory
) -> None:
    slices.gate = asyncio.Event()
    task = asyncio.create_task(serving.serve("m", LayerRange(1, 3), quiet))
    while not directory.announced:
        await asyncio.sleep(0)
    assert serving.held(HANDLE) == ()
    slices.gate.set()
    row = await task
    assert directory.states == [["[1,3) joining"], ["[1,3) online"]]
    last = directory.announced[-1][0]
    assert (last.decode_us, last.sessions_free, last.head, last.embd) == (1000, 4, False, 16)
    assert (row.state, row.sessions_open, row.decode_s) == ("online", 2, 0.001)
    assert serving.held(HANDLE) == (LayerRange(1, 3),)
    assert serving.part(HANDLE, LayerRange(1, 3)) is slices.hosts[0]
    assert serving.part(HANDLE, LayerRange(1, 2)) is None
    assert serving.part(ModelHandle("sha256:" + "00" * 32), LayerRange(1, 3)) is None


async def test_the_last_range_has_the_head(serving: Serving, directory: FakeDirectory) -> None:
    await serving.serve("m", LayerRange(5, 8), quiet)
    assert directory.announced[-1][0].head


async def test_what_cannot_be_served(serving: Serving, slices: FakeSlices) -> None:
    with pytest.raises(ModelNotFound):
        await serving.serve("other", None, quiet)
    with pytest.raises(UserError, match="m has 8 layers"):
        await serving.serve("m", LayerRange(6, 9), quiet)
    await serving.serve("m", LayerRange(1, 3), quiet)
    with pytest.raises(UserError, match=r"m \[1,3\) is served already"):
        await serving.serve("m", LayerRange(1, 3), quiet)
    slices.failure = OutOfMemory("too large")
    with pytest.raises(OutOfMemory):
        await serving.serve("m", LayerRange(3, 5), quiet)
    assert serving.held(HANDLE) == (LayerRange(1, 3),)


async def test_a_load_that_fails_is_withdrawn(
    serving: Serving, slices: FakeSlices, directory: FakeDirectory
) -> None:
    slices.failure = OutOfMemory("too large")
    with pytest.raises(OutOfMemory):
        await serving.serve("m", LayerRange(1, 3), quiet)
    assert directory.states == [["[1,3) joining"], []]


async def test_auto_takes_what_the_others_lack(serving: Serving, directory: FakeDirectory) -> None:
    row = await serving.serve("m", None, quiet)
    assert row.layers == LayerRange(1, 4), "three blocks fit"
    assert directory.refreshed == 1
    mine = directory.announced[-1][0]
    directory.others = (
        SimpleNamespace(peer="A", name="a", served=(mine,)),
        SimpleNamespace(peer="B", name="b", served=(replace(mine, state="offline"),)),
        SimpleNamespace(
            peer="C", name="c", served=(replace(mine, layers=LayerRange(4, 6), state="joining"),)
        ),
    )
    row = await serving.serve("m", None, quiet)
    assert row.layers == LayerRange(6, 7), "the last block is the requester's"


async def test_a_range_is_drained_before_it_goes(
    serving: Serving, slices: FakeSlices, directory: FakeDirectory, sessions: FakeSessions
) -> None:
    await serving.serve("m", LayerRange(1, 3), quiet)
    await serving.serve("m", LayerRange(3, 4), quiet)
    directory.announced.clear()
    assert await serving.unserve("m", LayerRange(1, 3)) == (LayerRange(1, 3),)
    assert sessions.drained == [slices.hosts[0]]
    assert directory.states == [["[1,3) draining", "[3,4) online"], ["[3,4) online"]]
    assert slices.released == [LayerRange(1, 3)]
    assert await serving.unserve("m", None) == (LayerRange(3, 4),)
    with pytest.raises(ModelNotFound, match="m is not served here"):
        await serving.unserve("m", None)


async def test_a_draining_node_gives_out_nothing(
    serving: Serving, directory: FakeDirectory, sessions: FakeSessions
) -> None:
    await serving.serve("m", LayerRange(1, 3), quiet)
    await serving.drain(1.0)
    assert directory.states[-1] == ["[1,3) draining"]
    assert serving.held(HANDLE) == ()
    assert sessions.drained == [None]
    row = await serving.serve("m", LayerRange(4, 5), quiet)
    assert row.state == "draining"


class TestParts:
    """Parts of a range that peers ask for."""

    now_s = 1000.0

    @pytest.fixture
    async def divided(self, slices: Any, directory: Any, sessions: Any) -> Serving:
        parts = ServingParts(2, lambda: self.now_s)
        serving = Serving(slices, directory, lambda: LINKS, lambda model: 3, parts)
        serving.attach(sessions)
        await serving.serve("m", LayerRange(1, 7), quiet)
        return serving

    async def load(self, serving: Serving, start: int, stop: int) -> None:
        assert serving.load_part(HANDLE, LayerRange(start, stop)) == limits.SERVING_PART_WAIT_S
        await self.settle()

    async def settle(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    async def test_a_part_is_loaded_and_announced(
        self, divided: Serving, slices: FakeSlices, directory: FakeDirectory
    ) -> None:
        assert directory.announced[-1][0].divisible
        assert divided.divides(HANDLE, LayerRange(2, 4))
        assert not divided.divides(HANDLE, LayerRange(1, 7)), "that is what is served"
        assert not divided.divides(HANDLE, LayerRange(5, 8))
        assert divided.part(HANDLE, LayerRange(2, 4)) is None
        slices.gate = asyncio.Event()
        await self.load(divided, 2, 4)
        await self.load(divided, 2, 4)
        assert directory.states[-1] == ["[1,7) online", "[2,4) joining"]
        with pytest.raises(Busy, match="another part"):
            divided.load_part(HANDLE, LayerRange(3, 5))
        slices.gate.set()
        await self.settle()
        assert directory.states[-1] == ["[1,7) online", "[2,4) online"]
        assert not directory.announced[-1][1].divisible
        assert divided.part(HANDLE, LayerRange(2, 4)) is slices.hosts[1]
        assert len(slices.hosts) == 2

    async def test_who_is_unused_makes_room(
        self, divided: Serving, slices: FakeSlices, sessions: FakeSessions
    ) -> None:
        await self.load(divided, 2, 4)
        self.now_s += 1
        await self.load(divided, 4, 6)
        with pytest.raises(Busy, match="in use"):
            divided.load_part(HANDLE, LayerRange(3, 5))
        sessions.unused = slices.hosts[1:]
        self.now_s += 1
        divided.part(HANDLE, LayerRange(2, 4))
        await self.load(divided, 3, 5)
        assert slices.released == [LayerRange(4, 6)]
        assert divided.held(HANDLE) == (LayerRange(1, 7), LayerRange(2, 4), LayerRange(3, 5))

    async def test_what_fails_is_left_alone_for_a_while(
        self, divided: Serving, slices: FakeSlices
    ) -> None:
        slices.failure = OutOfMemory("too little")
        await self.load(divided, 2, 4)
        assert divided.held(HANDLE) == (LayerRange(1, 7),)
        with pytest.raises(Busy, match="could not load") as caught:
            divided.load_part(HANDLE, LayerRange(2, 4))
        assert caught.value.retry_after_s == limits.SERVING_PART_FAILED_S
        slices.failure = None
        self.now_s += limits.SERVING_PART_FAILED_S
        await self.load(divided, 2, 4)
        assert divided.part(HANDLE, LayerRange(2, 4)) is not None

    async def test_the_disk_is_not_filled(
        self,
        divided: Serving,
        slices: FakeSlices,
        sessions: FakeSessions,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(serving_parts, "SERVING_PARTS_CUT_MAX", 3)
        sessions.unused = slices.hosts
        for start in (2, 3, 4, 2):
            await self.load(divided, start, start + 2)
        with pytest.raises(Busy, match="3 different parts"):
            divided.load_part(HANDLE, LayerRange(2, 5))

    async def test_parts_go_with_their_range(
        self, divided: Serving, slices: FakeSlices, sessions: FakeSessions
    ) -> None:
        await self.load(divided, 2, 4)
        gone = await divided.unserve("m", LayerRange(1, 7))
        assert gone == (LayerRange(1, 7), LayerRange(2, 4))
        assert sessions.drained == slices.hosts
        with pytest.raises(Busy, match="no range"):
            divided.load_part(HANDLE, LayerRange(2, 4))

    async def test_the_owner_may_take_a_part_over(
        self, divided: Serving, directory: FakeDirectory
    ) -> None:
        await self.load(divided, 2, 4)
        row = await divided.serve("m", LayerRange(2, 4), quiet)
        assert row.layers == LayerRange(2, 4)
        assert [served.divisible for served in directory.announced[-1]] == [True, True]

    async def test_what_is_unused_ends(
        self,
        divided: Serving,
        slices: FakeSlices,
        sessions: FakeSessions,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(limits, "SERVING_WATCH_S", 0.0)
        await self.load(divided, 2, 4)
        task = asyncio.create_task(divided.watch())
        self.now_s += limits.SERVING_PART_IDLE_S + 1
        await self.settle()
        assert slices.released == [], "it has sessions"
        sessions.unused = slices.hosts
        await self.settle()
        assert slices.released == [LayerRange(2, 4)]
        await self.load(divided, 2, 4)
        slices.hosts[-1].state = "failed"
        await self.settle()
        assert divided.held(HANDLE) == (LayerRange(1, 7),), "the others go on"
        task.cancel()

    async def test_only_a_whole_model_is_divisible(
        self, divided: Serving, serving: Serving, slices: FakeSlices, directory: FakeDirectory
    ) -> None:
        await serving.serve("m", LayerRange(1, 5), quiet)
        assert not directory.announced[-1][-1].divisible, "nothing may be loaded"
        slices.is_whole = False
        await divided.serve("m", LayerRange(1, 5), quiet)
        assert [served.divisible for served in directory.announced[-1]] == [True, False]


class TestWatch:
    """What changes by itself."""

    @pytest.fixture(autouse=True)
    def often(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(limits, "SERVING_WATCH_S", 0.0)
        monkeypatch.setattr(limits, "SERVING_AUTO_WAIT_S", (0.0, 0.0))

    async def looks(self, count: int = 5) -> None:
        for _ in range(count):
            await asyncio.sleep(0)

    async def test_small_changes_are_not_announced(
        self, serving: Serving, slices: FakeSlices, directory: FakeDirectory
    ) -> None:
        ready = asyncio.Event()
        task = asyncio.create_task(serving.run("1:3", "m", ready.set))
        await ready.wait()
        directory.announced.clear()
        host = slices.hosts[0]
        host.decode_us, host.sessions_free = 1100, 2
        await self.looks()
        assert directory.announced == []
        host.decode_us = 1300
        await self.looks()
        assert [served[0].decode_us for served in directory.announced] == [1300]
        host.sessions_free = 0
        await self.looks()
        assert directory.announced[-1][0].sessions_free == 0
        host.state = "restarting"
        await self.looks()
        assert directory.states[-1] == ["[1,3) joining"]
        host.state = "ready"
        await self.looks()
        assert directory.states[-1] == ["[1,3) online"]
        task.cancel()

    async def test_a_worker_that_stays_down_is_served_anew(
        self, serving: Serving, slices: FakeSlices
    ) -> None:
        ready = asyncio.Event()
        task = asyncio.create_task(serving.run("1:3", "m", ready.set))
        await ready.wait()
        await serving.serve("m", LayerRange(5, 6), quiet)
        slices.hosts[0].state = "failed"
        with pytest.raises(ResourceError, match=r"m \[1,3\) failed for good"):
            await task
        assert serving.held(HANDLE) == (LayerRange(5, 6),)
        ready.clear()
        task = asyncio.create_task(serving.run("1:3", "m", ready.set))
        await ready.wait()
        assert serving.held(HANDLE) == (LayerRange(5, 6), LayerRange(1, 3))
        task.cancel()

    async def test_run_again_serves_nothing_twice(
        self, serving: Serving, slices: FakeSlices
    ) -> None:
        for _ in range(2):
            ready = asyncio.Event()
            task = asyncio.create_task(serving.run("auto", "m", ready.set))
            await ready.wait()
            task.cancel()
            await asyncio.wait([task])
        assert len(slices.hosts) == 1

    async def test_nothing_is_wanted(self, serving: Serving, directory: FakeDirectory) -> None:
        ready = asyncio.Event()
        task = asyncio.create_task(serving.run("none", "m", ready.set))
        await ready.wait()
        assert directory.announced == [()], "its links are told: it asks others"
        task.cancel()


# --- answers

REQUEST = GenerationRequest(CARD.name, "Hi", SamplingParams())


async def test_answers_are_counted_and_waited_for() -> None:
    fake = FakeGenerator(gate=asyncio.Semaphore(1))
    answers = Answers(fake, lambda: {"links_open": 2.0})
    counted = {"answers": 0, "answers_failed": 0}
    assert answers.stats() == {"worker_restarts": 0.0, "links_open": 2.0, **counted}
    items = answers.generate(REQUEST)
    await anext(items)
    assert answers.under_way == 1
    assert await answers.drain(0.01) == 1
    with pytest.raises(ResourceError, match="is stopping"):
        await anext(answers.generate(REQUEST))
    assert answers.health()["status"] == "failed"
    draining = asyncio.create_task(answers.drain(30))
    assert fake.gate is not None
    for _ in range(10):
        fake.gate.release()
    assert [item async for item in items], "it may end"
    assert await draining == 0
    assert answers.under_way == 0
    assert answers.stats()["answers"] == 1


async def test_an_answer_that_is_given_up_is_not_under_way() -> None:
    answers = Answers(FakeGenerator())
    items = answers.generate(REQUEST)
    await anext(items)
    await items.aclose()
    assert answers.under_way == 0
    assert await answers.drain(30) == 0
    assert answers.models() == [CARD]
