"""A circuit's life: lent, busy, checked, planned anew, broken, ended; and which rows it keeps."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from kwaai import limits
from kwaai.config import Config
from kwaai.errors import CircuitBroken, CircuitMissing, PathMissing, PeerError, PeerLost
from kwaai.inference.host import SliceHost
from kwaai.inference.sampling import SamplingParams
from kwaai.intent.demand import Demand
from kwaai.intent.match import PeerFacts
from kwaai.node.avoid import AvoidList
from kwaai.node.circuit import Circuit
from kwaai.node.circuit_check import PathCheck
from kwaai.node.fast import encode_sampling
from kwaai.node.kept_rows import PASS_ROWS, keepable, shared, spoils, usable
from kwaai.node.local_slices import LocalSlices
from kwaai.node.opening import OpenPath, PathOpener, Wanted
from kwaai.node.routes import Chosen, Routes
from kwaai.node.standings import NoStandings
from kwaai.placement.paths import Choice, Hop, Path
from kwaai.testing.shards import HANDLE, FakePart, Node
from kwaai.trust.score import Standing
from kwaai.trust.tiers import Floors, Tier
from kwaai.types import LayerRange
from kwaai.wire.messages import CloseReason

FIRST, MIDDLE, LAST = LayerRange(0, 1), LayerRange(1, 3), LayerRange(3, 4)
PREFIX = tuple(range(3, 23))
PROMPT = (*PREFIX, 7, 8, 9)


class Scene:
    """`home` asks; amber and beryl both serve the middle, amber is chosen first."""

    def __init__(self) -> None:
        self.home, self.amber, self.beryl = (
            Node(name, seed) for seed, name in enumerate(("home", "amber", "beryl"), 71)
        )
        self.nodes = (self.home, self.amber, self.beryl)
        self.parts = {layers: FakePart(layers, 4, batch_tokens=512) for layers in (FIRST, LAST)}
        self.hops = {
            node: FakePart(MIDDLE, 4, batch_tokens=512) for node in (self.amber, self.beryl)
        }
        self.avoided, self.gone, self.tiers = AvoidList(), set[str](), dict[str, Tier]()
        self.now_s, self.held, self.chosen = 1000.0, 0, 0
        self.floors = Floors(early_layers=Tier.UNKNOWN)
        self.standings = self
        opener_slices, routes = cast(LocalSlices, self), cast(Routes, self)
        self.opener = PathOpener(opener_slices, routes, self.home.requesters, self.avoided)
        self.candidates = SimpleNamespace(claims=SimpleNamespace(measured=lambda *_: None))

    async def start(self) -> None:
        for node in self.nodes:
            await node.start()
        for node, part in self.hops.items():
            node.hold(part)

    # What a PathOpener asks of slices and routes.

    def loaded(self) -> tuple[Any, ...]:
        model = SimpleNamespace(handle=HANDLE)
        return tuple(SimpleNamespace(layers=layers, model=model) for layers in (FIRST, LAST))

    async def acquire(self, model: object, layers: LayerRange) -> SliceHost:
        return cast(SliceHost, self.parts[layers])

    def release(self, host: SliceHost) -> None: ...

    async def choose(
        self, model: object, route: str, privacy: str, context: int,
        avoid: frozenset[str], demand: Demand, prompt_tokens: int,
    ) -> Chosen:  # fmt: skip
        self.chosen += 1
        for node in (self.amber, self.beryl):
            tier = self.tiers.get(node.peer, Tier.VERIFIED)
            shunned = avoid | self.avoided.peers() | self.gone
            if node.peer not in shunned and tier >= (demand.min_tier or 0):
                hop = Hop(node.peer, node.name, MIDDLE)
                last = None if privacy == "fast" else LAST
                path = Path(FIRST, (hop,), last, 0.001)
                return Chosen(
                    path, "peer", Choice(path, None, path, None, ()), {hop.peer: (node.address,)}
                )
        raise PathMissing("nobody serves the middle", retry_after_s=3.0)

    def remember(self, *_: object) -> None: ...

    def worked_together(self, *_: object) -> None: ...

    # What a PathCheck asks of standings.

    def standing(self, peer: str) -> Standing:
        return Standing(peer, 0.5, 0.5, self.tiers.get(peer, Tier.VERIFIED), None)

    def facts(self, peer: str) -> PeerFacts:
        return PeerFacts(peer, self.standing(peer).tier)

    async def prepare(self, peers: Sequence[str], *, current: bool) -> None: ...

    # What is made of it.

    @contextlib.asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        self.held += 1
        try:
            yield
        finally:
            self.held -= 1

    def wanted(self, prompt: Sequence[int] = PROMPT, **changes: Any) -> Wanted:
        local = SimpleNamespace(handle=HANDLE, block_count=4, embd=8, name="toy")
        model = SimpleNamespace(local=local, place=self.place, text=SimpleNamespace(vocab=32))
        wanted = Wanted(cast(Any, model), prompt, 256, "auto", "private", {})
        return replace(wanted, **changes)

    async def circuit(self, prefix: Sequence[int] = PREFIX, **changes: Any) -> Circuit:
        circuit = Circuit(
            "0a1b2c3d", "", self.wanted(prefix, **changes), self.opener,
            PathCheck(Config(), self), ttl_s=60.0, clock=lambda: self.now_s,
        )  # fmt: skip
        await circuit.open()
        return circuit

    async def answer(self, circuit: Circuit, prompt: Sequence[int] = PROMPT) -> OpenPath:
        opened = await circuit.begin(self.wanted(prompt))
        await opened.path.decode(5)
        circuit.done(opened)
        await circuit.close(opened)
        await settled(circuit)
        return opened

    def positions(self) -> list[list[int]]:
        """Where the sessions of all parts stand: first, amber, beryl, last."""
        parts = (self.parts[FIRST], *self.hops.values(), self.parts[LAST])
        return [sorted(part.positions.values()) for part in parts]


async def settled(circuit: Circuit) -> None:
    while circuit._restoring is not None:
        await asyncio.wait([circuit._restoring])


@pytest_asyncio.fixture
async def scene() -> AsyncIterator[Scene]:
    scene = Scene()
    await scene.start()
    async with asyncio.timeout(60):
        yield scene
    async with asyncio.timeout(10):
        while any(node.server.sessions_open for node in scene.nodes):
            await asyncio.sleep(0.01)
    assert scene.positions()[0] == scene.positions()[3] == []
    assert scene.held == 0
    for node in scene.nodes:
        await node.stop()


class TestLending:
    async def test_only_the_rest_is_computed_and_then_forgotten(self, scene: Scene) -> None:
        circuit = await scene.circuit()
        assert (circuit.state, circuit.kept) == ("ready", len(PREFIX))
        for number in range(1, 4):
            for part in scene.hops.values():
                part.steps.clear()
            opened = await circuit.begin(scene.wanted())
            assert circuit.state == "answering"
            assert scene.hops[scene.amber].steps == [(len(PREFIX), 3)]
            circuit.done(opened)
            await circuit.close(opened)
            await settled(circuit)
            assert scene.positions() == [[20], [20], [], [20]]
            assert (circuit.answers, circuit.reused) == (number, number)
            assert circuit.reused_tokens == number * len(PREFIX)
        assert scene.held == 1
        await circuit.end()

    async def test_who_comes_meanwhile_gets_a_session_on_the_same_hops(self, scene: Scene) -> None:
        circuit = await scene.circuit()
        one, two = await circuit.begin(scene.wanted()), await circuit.begin(scene.wanted())
        assert two.peers == one.peers == (scene.amber.peer,)
        assert scene.positions() == [[23, 23], [23, 23], [], [23, 23]]
        assert (scene.held, scene.chosen) == (2, 1)
        for opened in (two, one):
            circuit.done(opened)
            await circuit.close(opened)
        await settled(circuit)
        assert scene.held == 1
        assert (circuit.answers, circuit.reused) == (2, 1)
        await circuit.end()

    @pytest.mark.parametrize("prompt", [(9, *PREFIX), PREFIX[:-1], (5,)])
    async def test_another_prompt_reads_all_of_itself(
        self, scene: Scene, prompt: tuple[int, ...]
    ) -> None:
        circuit = await scene.circuit()
        scene.hops[scene.amber].steps.clear()
        await scene.answer(circuit, prompt)
        assert scene.hops[scene.amber].steps[0] == (0, len(prompt))
        assert circuit.reused == 0
        await circuit.end()

    async def test_the_prefix_itself_is_a_prompt(self, scene: Scene) -> None:
        circuit = await scene.circuit()
        await scene.answer(circuit, PREFIX)
        assert circuit.reused_tokens == len(PREFIX) - 1
        assert scene.positions()[1] == [20]
        await circuit.end()

    async def test_without_a_prefix_a_session_is_waiting(self, scene: Scene) -> None:
        circuit = await scene.circuit(())
        for prompt in (PROMPT, (5, 6)):
            await scene.answer(circuit, prompt)
            assert scene.positions() == [[0], [0], [], [0]]
        assert (circuit.reused, scene.amber.server.counters.opened) == (0, 1)
        await circuit.end()

    async def test_a_short_prefix_is_read_again_behind_a_long_prompt(self, scene: Scene) -> None:
        circuit = await scene.circuit()
        steps = scene.hops[scene.amber].steps
        steps.clear()
        await scene.answer(circuit, (*PREFIX, *[5] * 60))
        assert [step for step in steps if step[1] > 1] == [(0, 80), (0, 20)]
        assert circuit.reused == 0
        await scene.answer(circuit)
        assert circuit.reused == 1
        await circuit.end()

    async def test_in_fast_mode_every_answer_has_a_session_of_its_own(self, scene: Scene) -> None:
        tail = LayerRange(1, 4)
        part = FakePart(tail, 4)
        scene.amber.hold(part)
        path = Path(FIRST, (Hop(scene.amber.peer, "amber", tail),), None, 0.001)
        addresses: dict[str, tuple[str, ...]] = {scene.amber.peer: (scene.amber.address,)}
        chosen = Chosen(path, "peer", Choice(path, None, path, None, ()), addresses)

        async def choose(*_: object) -> Chosen:
            return chosen

        scene.choose = choose  # type: ignore[method-assign, assignment]
        sampling = encode_sampling(SamplingParams(temperature=0.0))
        circuit = await scene.circuit((), privacy="fast", sampling=sampling)
        opened = await circuit.begin(scene.wanted(PROMPT, privacy="fast", sampling=sampling))
        assert len(part.positions) == 2
        assert opened.output == (opened.output[0],)
        await circuit.close(opened)
        await circuit.end()


class TestFailures:
    async def test_a_hop_that_is_gone_is_left_at_the_next_look(self, scene: Scene) -> None:
        circuit = await scene.circuit()
        await scene.amber.kill()
        async with asyncio.timeout(10):
            while circuit.reroutes == 0:
                await circuit.look()
                await asyncio.sleep(0)
        assert (circuit.state, circuit.reroutes) == ("ready", 1)
        assert "amber" in circuit.problem
        assert scene.positions() == [[20], [20], [20], [20]] or scene.positions()[2] == [20]
        assert circuit.chosen is not None
        assert circuit.chosen.path.hops[0].name == "beryl"
        opened = await scene.answer(circuit)
        assert opened.peers == (scene.beryl.peer,)
        await circuit.end()

    async def test_an_answer_that_finds_its_hop_gone_goes_on_by_another(self, scene: Scene) -> None:
        circuit = await scene.circuit()
        scene.hops[scene.amber].problem = PeerLost("it broke", peer=scene.amber.peer)
        opened = await circuit.begin(scene.wanted())
        assert opened.peers == (scene.beryl.peer,)
        assert len(opened.tried) == 1
        assert scene.avoided.peers() == {scene.amber.peer}
        assert (circuit.answers, circuit.reroutes) == (1, 1)
        await circuit.close(opened)
        await circuit.end()

    async def test_one_that_breaks_under_way_is_opened_anew(self, scene: Scene) -> None:
        circuit = await scene.circuit()
        opened = await circuit.begin(scene.wanted())
        scene.hops[scene.amber].problem = PeerLost("it broke", peer=scene.amber.peer)
        with pytest.raises(PeerError) as caught:
            await opened.path.decode(5)
        circuit.note(caught.value)
        await circuit.close(opened, CloseReason.FAILED)
        assert circuit.state == "mending"
        await circuit.look()
        assert (circuit.state, circuit.reroutes) == ("ready", 1)
        await circuit.end()

    async def test_who_is_cancelled_while_it_reads_leaves_a_circuit(self, scene: Scene) -> None:
        circuit = await scene.circuit()
        scene.parts[FIRST].is_stuck = True
        task = asyncio.create_task(circuit.begin(scene.wanted()))
        while scene.parts[FIRST].positions != {next(iter(scene.parts[FIRST].positions)): 23}:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        scene.parts[FIRST].is_stuck = False
        assert circuit.state == "mending"
        await scene.answer(circuit)
        assert (circuit.state, circuit.reused, circuit.reroutes) == ("ready", 1, 0)
        await circuit.end()

    async def test_no_path_any_more_and_one_again(self, scene: Scene) -> None:
        circuit = await scene.circuit()
        scene.gone = {scene.amber.peer, scene.beryl.peer}
        scene.hops[scene.amber].problem = PeerLost("it broke", peer=scene.amber.peer)
        with pytest.raises(CircuitBroken, match="nobody serves the middle") as caught:
            await circuit.begin(scene.wanted())
        assert caught.value.retry_after_s == 3.0
        assert (circuit.state, circuit.problem) == ("broken", "nobody serves the middle")
        scene.gone = {scene.amber.peer}
        await circuit.look()
        assert circuit.state == "broken"  # it is not time
        scene.now_s += limits.CIRCUIT_CHECK_S
        await circuit.look()
        assert (circuit.state, circuit.reroutes) == ("ready", 1)
        await circuit.end()


class TestDemand:
    async def test_who_falls_below_it_is_left_before_the_next_answer(self, scene: Scene) -> None:
        circuit = await scene.circuit(demand=Demand(min_tier=Tier.VERIFIED))
        scene.tiers[scene.amber.peer] = Tier.KNOWN
        opened = await scene.answer(circuit)
        assert opened.peers == (scene.beryl.peer,)
        assert circuit.problem == "amber is Known now, and Verified is asked for"
        scene.tiers[scene.beryl.peer] = Tier.UNKNOWN
        with pytest.raises(CircuitBroken):
            await circuit.begin(scene.wanted())
        await circuit.end()

    async def test_while_an_answer_runs_on_it_others_go_where_it_is_met(self, scene: Scene) -> None:
        demand = Demand(min_tier=Tier.VERIFIED)
        circuit = await scene.circuit(demand=demand)
        one = await circuit.begin(scene.wanted(demand=demand))
        scene.tiers[scene.amber.peer] = Tier.KNOWN
        two = await circuit.begin(scene.wanted(demand=demand))
        assert (one.peers, two.peers) == ((scene.amber.peer,), (scene.beryl.peer,))
        for opened in (one, two):
            await circuit.close(opened)
        await settled(circuit)
        await circuit.look()
        assert circuit.reroutes == 1
        await circuit.end()

    async def test_a_path_that_is_slower_than_asked_for_is_planned_anew(self, scene: Scene) -> None:
        circuit = await scene.circuit(demand=Demand(token_ms_max=10.0))
        slow = [0.02] * limits.CIRCUIT_SLOW_TOKENS_MIN
        circuit._token_s.extend(slow)
        await circuit.look()
        assert circuit.reroutes == 0  # the planner knows no better one
        scene.gone = {scene.amber.peer}
        circuit._token_s.extend(slow)
        await circuit.look()
        assert circuit.reroutes == 1
        assert circuit.problem == "a token took 20 ms, and at most 10 are asked for"
        await circuit.end()

    async def test_owners_denied_and_early_layers(self, scene: Scene) -> None:
        path = Path(FIRST, (Hop(scene.amber.peer, "amber", MIDDLE),), LAST, 0.001)
        check = PathCheck(Config(early_layers_share=0.5), scene)
        assert await check.objection(path, Demand(), 4) == ""
        denied = Demand(deny=frozenset({scene.amber.peer}))
        assert "does not meet" in await check.objection(path, denied, 4)
        scene.floors = Floors(early_layers=Tier.TRUSTED)
        assert "Trusted" in await check.objection(path, Demand(), 4)
        assert (
            await PathCheck(Config(early_layers_share=0.0), scene).objection(path, Demand(), 4)
            == ""
        )
        assert await PathCheck(Config(), NoStandings()).objection(path, Demand(), 4) == ""

        class OneOwner(NoStandings):
            def standing(self, peer: str) -> Standing:
                return replace(super().standing(peer), owner="did:key:z6Mk")

        two = replace(path, hops=path.hops * 2)
        owned = PathCheck(Config(), OneOwner())
        assert await owned.objection(two, Demand(owner_hops_max=2), 4) == ""
        assert "runs 2 parts" in await owned.objection(two, Demand(owner_hops_max=1), 4)


class TestTime:
    async def test_round_trips_are_made_when_it_is_time(self, scene: Scene) -> None:
        circuit = await scene.circuit()
        await circuit.look()
        assert circuit.checks == 0
        for number in range(1, 3):
            scene.now_s += limits.CIRCUIT_CHECK_S
            await circuit.look()
            await circuit.look()
            assert circuit.checks == number
        assert circuit.check_s is not None
        assert scene.positions() == [[20], [20], [], [20]]
        await circuit.end()

    async def test_its_time_ends_it(self, scene: Scene) -> None:
        circuit = await scene.circuit()
        running = asyncio.create_task(circuit.run())
        await asyncio.sleep(0)
        scene.now_s += 60
        with pytest.raises(CircuitMissing):
            await circuit.begin(scene.wanted())
        circuit._wake.set()
        await running
        assert (scene.held, circuit.is_ended) == (0, True)

    async def test_an_answer_under_way_ends_first(self, scene: Scene) -> None:
        circuit = await scene.circuit()
        opened = await circuit.begin(scene.wanted())
        await circuit.end()
        await opened.path.decode(5)
        with pytest.raises(CircuitMissing):
            await circuit.begin(scene.wanted())
        await circuit.close(opened)
        await settled(circuit)
        assert scene.held == 0

    async def test_one_that_fails_after_the_end_gives_its_place_back(self, scene: Scene) -> None:
        circuit = await scene.circuit()
        opened = await circuit.begin(scene.wanted())
        await circuit.end()
        await circuit.close(opened, CloseReason.FAILED)
        assert scene.held == 0

    async def test_it_is_ended_while_it_is_opened(self, scene: Scene) -> None:
        circuit = await scene.circuit()
        await circuit._drop(CloseReason.FAILED)
        begin = scene.opener.begin

        async def slow(wanted: Wanted) -> OpenPath:
            opened = await begin(wanted)
            await circuit.end()
            return opened

        scene.opener.begin = slow  # type: ignore[method-assign]
        with pytest.raises(CircuitMissing):
            await circuit.begin(scene.wanted())
        assert scene.held == 0


# Which rows are as good as new.

SIZES = st.sampled_from([256, 512])
TOKENS = st.integers(1, 3000)


def passes(tokens: int, size: int, kept: int = 0) -> list[int]:
    """For every position from `kept` on: the rows of the pass that computes it."""
    stops = [*range(kept - kept % size + size, tokens, size), tokens]
    starts = [kept, *stops[:-1]]
    return [
        stop - start for start, stop in zip(starts, stops, strict=True) for _ in range(start, stop)
    ]


def piece(tokens: int, size: int) -> int:
    """As a path through hops reads: short pieces only where a batch does not hold the prompt."""
    return size if tokens > 512 else 512


@given(TOKENS, TOKENS, SIZES)
def test_every_position_is_of_a_pass_of_its_kind(prefix: int, more: int, size: int) -> None:
    tokens = prefix + more - 1
    kept = keepable(prefix, piece(prefix, size))
    assert 0 < kept <= prefix
    use = usable(kept, tokens, piece(tokens, size))
    assert 0 <= use <= min(kept, tokens - 1)
    fresh = passes(tokens, piece(tokens, size))
    made = passes(prefix, piece(prefix, size))[:use] + passes(tokens, piece(tokens, size), use)
    assert [rows >= PASS_ROWS for rows in made] == [rows >= PASS_ROWS for rows in fresh]
    # And what the next prompt finds behind this one.
    again = (made[:kept] if not spoils(kept, tokens) else passes(prefix, piece(prefix, size)))[
        :kept
    ]
    kind = kept >= PASS_ROWS
    assert all((rows >= PASS_ROWS) == kind for rows in again)
    assert all((rows >= PASS_ROWS) == kind for rows in passes(prefix, piece(prefix, size))[:kept])


@pytest.mark.parametrize(
    ("kept", "tokens", "size", "use"),
    [
        (20, 40, 512, 20),
        (20, 64, 512, 0),
        (100, 130, 512, 66),
        (100, 400, 512, 100),
        (300, 301, 512, 237),
        (300, 600, 256, 300),
        (512, 530, 256, 512),
        (512, 513, 256, 512),
        (500, 520, 256, 448),
    ],
)
def test_how_much_is_used(kept: int, tokens: int, size: int, use: int) -> None:
    assert usable(kept, tokens, size) == use


def test_what_prompts_share() -> None:
    assert shared((1, 2, 3), (1, 2, 4, 5)) == (1, 2)
    assert shared((1, 2, 3), (1, 2)) == (1, 2)
    assert shared((), (1,)) == ()
