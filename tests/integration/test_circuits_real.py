"""Circuits over several nodes: real links, real slice workers, the packaged model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import pytest_asyncio

from kwaai.config import Config
from kwaai.errors import Busy, CircuitBroken, CircuitMissing, PeerError, UserError
from kwaai.inference.sampling import SamplingParams
from kwaai.intent.demand import Demand
from kwaai.models.library import DEMO_NAME, Library
from kwaai.node import routes
from kwaai.node.answer_path import AnswerPath
from kwaai.node.avoid import AvoidList
from kwaai.node.circuit_control import CircuitRequest
from kwaai.node.generate import ChatMessage, Finished, GenerationRequest
from kwaai.node.local_slices import LocalSlices
from kwaai.placement.paths import HomePart
from kwaai.testing.shards import Board, Node, generator_of
from kwaai.types import LayerRange

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONTEXT = 512
SYSTEM = "You are a friendly helper who answers in short and plain words. " * 12
FRANCE = "What is the capital of France?"


class Swarm:
    """`home` asks; amber and beryl serve what is between the first block and the last; coral has
    the same layers as beryl, and is slower.
    """

    def __init__(self, directory: Path) -> None:
        self.config = Config(context_tokens=CONTEXT, threads=1, max_sessions=4)
        self.slices = LocalSlices(self.config, Library(directory))
        names = ("home", "amber", "beryl", "coral")
        self.nodes = [Node(name, seed) for seed, name in enumerate(names, 41)]
        self.home, self.amber, self.beryl, self.coral = self.nodes
        self.board, self.avoided = Board(), AvoidList()

    async def start(self) -> None:
        self.model = await self.slices.model(DEMO_NAME)
        count = self.model.block_count
        for node in self.nodes:
            await node.start()
        middle = (LayerRange(1, 4), LayerRange(4, count - 1), LayerRange(4, count - 1))
        for node, layers, decode_us in zip(self.nodes[1:], middle, (1000, 1000, 9000), strict=True):
            await node.serve(self.slices, self.model, layers)
            self.board.pin(node, self.model, [layers], decode_us=decode_us)
        self.generator = generator_of(self.home, self.config, self.slices, self.board, self.avoided)
        self.home.requesters = self.generator.requesters
        await self.generator.start()

    async def stop(self) -> None:
        await self.generator.stop()
        for node in self.nodes:
            await node.stop()
        await self.slices.close()

    @property
    def rows(self) -> int:
        """Computed on hops so far."""
        return sum(node.server.counters.rows for node in self.nodes)

    async def settled(self) -> None:
        """Nothing is open anywhere: within seconds after the last answer."""
        async with asyncio.timeout(10):
            while any(n.server.sessions_open for n in self.nodes) or self.slices.sessions_open:
                await asyncio.sleep(0.01)
        assert self.home.requesters.sessions_open == 0
        assert all(node.links.channel_count == 0 for node in self.nodes)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def swarm(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Swarm]:
    with pytest.MonkeyPatch.context() as patch:
        # A machine that has room for two blocks: everything else is remote.
        patch.setattr(routes, "home_part", lambda *_: HomePart(0.001, 0.001, 2, None))
        swarm = Swarm(tmp_path_factory.mktemp("models"))
        await swarm.start()
        yield swarm
        await swarm.stop()


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def nothing_leaks(swarm: Swarm) -> AsyncIterator[None]:
    yield
    for view in swarm.generator.circuits.circuits():
        await swarm.generator.circuits.close(view.id)
    await swarm.settled()


def request(prompt: str = FRANCE, system: str = "", **options: Any) -> GenerationRequest:
    turns: tuple[ChatMessage, ...] = (ChatMessage("user", prompt),)
    if system:
        turns = (ChatMessage("system", system), *turns)
    sampling = options.pop("sampling", SamplingParams(temperature=0.0))
    return GenerationRequest("", turns, sampling=sampling, max_tokens=24, **options)


async def answer(swarm: Swarm, wanted: GenerationRequest) -> tuple[str, list[int], Finished]:
    text, tokens, finished = "", [], None
    async with asyncio.timeout(60), aclosing(swarm.generator.generate(wanted)) as items:
        async for item in items:
            if isinstance(item, Finished):
                finished = item
            else:
                text += item.text
                tokens += [info.token for info in item.tokens]
    assert finished is not None
    return text, tokens, finished


Logits = npt.NDArray[np.float32]


@pytest.fixture
def outputs(monkeypatch: pytest.MonkeyPatch) -> list[Logits]:
    """What every prompt and every token gave, in order."""
    seen: list[Logits] = []
    prefill, go_on = AnswerPath.prefill, AnswerPath._go_on

    async def read(path: AnswerPath, *arguments: Any) -> Any:
        seen.append(np.array(output := await prefill(path, *arguments)))
        return output

    async def decode(path: AnswerPath, *arguments: Any) -> Any:
        seen.append(np.array(output := await go_on(path, *arguments)))
        return output

    monkeypatch.setattr(AnswerPath, "prefill", read)
    monkeypatch.setattr(AnswerPath, "_go_on", decode)
    return seen


@pytest.mark.parametrize("system", [SYSTEM, "Answer shortly."])
async def test_the_same_to_the_bit_and_less_to_compute(
    swarm: Swarm, outputs: list[Logits], system: str
) -> None:
    before = swarm.rows
    plain = await answer(swarm, request(system=system))
    plain_rows, expected = swarm.rows - before, list(outputs)

    circuits = swarm.generator.circuits
    made = await circuits.create(CircuitRequest("", Demand(), prefix=system, ttl_s=600))
    assert made.state == "ready"
    assert [hop.name for hop in made.hops] == ["here", "amber", "beryl", "here"]
    assert made.prefix_tokens > 0
    for _ in range(3):
        outputs.clear()
        before = swarm.rows
        found = await answer(swarm, request(system=system, circuit=made.id))
        assert found[:2] == plain[:2]
        assert len(outputs) == len(expected)
        assert all(map(np.array_equal, outputs, expected))
        assert swarm.rows - before < plain_rows
        assert found[2].prompt_tokens == plain[2].prompt_tokens
    view = circuits.show(made.id)
    assert (view.answers, view.reused, view.reroutes) == (3, 3, 0)
    assert view.reused_tokens <= 3 * made.prefix_tokens
    assert 2 * view.reused_tokens == 3 * (plain_rows - (swarm.rows - before))


@pytest.mark.parametrize(
    ("prefix", "tokens", "size"),
    [
        *((1, 2, 512), (9, 40, 512), (39, 63, 512), (63, 64, 512), (64, 65, 512)),
        *((64, 200, 512), (150, 200, 512), (400, 500, 512)),
        *((100, 300, 128), (300, 400, 128), (260, 270, 128), (384, 400, 128)),
    ],
)
async def test_kept_rows_are_as_good_as_new(
    swarm: Swarm, monkeypatch: pytest.MonkeyPatch, prefix: int, tokens: int, size: int
) -> None:
    """On one machine: a prompt that is read in one go, and one that is read behind what is kept.
    One after the other: where a session's KV lies among others' makes a difference of its own.
    """
    monkeypatch.setattr(AnswerPath, "_piece_tokens", lambda path, count: size)
    layers, found = LayerRange(0, swarm.model.block_count), list[list[Logits]]()
    async with swarm.slices.using(DEMO_NAME, layers) as host:
        prompt = np.random.default_rng(tokens).integers(3, host.vocab, tokens).tolist()
        for start in (0, prefix):
            path = AnswerPath(host, None)
            try:
                await path.open(swarm.home.requesters, None)
                await path.prefill(prompt[:start])
                kept = path.usable(path.keepable(start), tokens) if start else 0
                await path.rollback(kept)
                rows = [await path.prefill(prompt, kept)]
                rows += [await path.decode(token) for token in range(5, 8)]
                found.append([np.asarray(row) for row in rows])
            finally:
                await path.close()
    assert all(map(np.array_equal, *found))


async def test_who_comes_meanwhile_or_with_another_prompt(swarm: Swarm) -> None:
    expected = await answer(swarm, request(system=SYSTEM))
    other = await answer(swarm, request("Hello!"))
    made = await swarm.generator.circuits.create(CircuitRequest("", Demand(), prefix=SYSTEM))
    wanted = request(system=SYSTEM, circuit=made.id)
    together = await asyncio.gather(
        answer(swarm, wanted),
        answer(swarm, wanted),
        answer(swarm, request("Hello!", circuit=made.id)),
    )
    assert [found[0] for found in together] == [expected[0], expected[0], other[0]]
    view = swarm.generator.circuits.show(made.id)
    assert (view.answers, view.reused) == (3, 1)


async def test_who_goes_away_leaves_a_circuit_that_answers(swarm: Swarm) -> None:
    made = await swarm.generator.circuits.create(CircuitRequest("", Demand(), prefix=SYSTEM))
    wanted = request(system=SYSTEM, circuit=made.id, ignore_eos=True)
    items = swarm.generator.generate(wanted)
    async for _ in items:
        break
    assert swarm.generator.circuits.show(made.id).state == "answering"
    await items.aclose()
    wanted = request(system=SYSTEM, circuit=made.id)
    found = await answer(swarm, wanted)
    assert found[0] == (await answer(swarm, request(system=SYSTEM)))[0]
    view = swarm.generator.circuits.show(made.id)
    assert (view.reused, view.reroutes) == (2, 0)


async def test_a_circuit_without_a_prefix_and_its_limits(swarm: Swarm) -> None:
    circuits = swarm.generator.circuits
    made = [await circuits.create(CircuitRequest("", Demand(), name=f"c{n}")) for n in range(3)]
    with pytest.raises(Busy, match="3 circuits"):
        await circuits.create(CircuitRequest("", Demand()))
    with pytest.raises(UserError, match="'c0' already"):
        await circuits.create(CircuitRequest("", Demand(), name="c0"))
    expected = await answer(swarm, request())
    assert (await answer(swarm, request(circuit="c0")))[:2] == expected[:2]
    with pytest.raises(UserError, match="another privacy"):
        await answer(swarm, request(circuit="c0", privacy="fast"))
    with pytest.raises(CircuitMissing, match="no circuit 'c9'"):
        await answer(swarm, request(circuit="c9"))
    assert (await circuits.close("c0")).id == made[0].id
    with pytest.raises(CircuitMissing):
        await answer(swarm, request(circuit="c0"))


async def test_an_idle_circuit_is_checked_and_outlives_the_hops_patience(
    swarm: Swarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    for node in swarm.nodes:
        monkeypatch.setattr(node.server, "_idle_s", 0.4)
    monkeypatch.setattr("kwaai.limits.CIRCUIT_LOOK_S", 0.02)
    monkeypatch.setattr("kwaai.limits.CIRCUIT_CHECK_S", 0.1)
    made = await swarm.generator.circuits.create(CircuitRequest("", Demand(), prefix=SYSTEM))
    async with asyncio.timeout(20):
        while swarm.generator.circuits.show(made.id).checks < 12:
            await asyncio.sleep(0.02)
    view = swarm.generator.circuits.show(made.id)
    assert (view.state, view.reroutes, view.problem) == ("ready", 0, "")
    assert view.check_ms is not None
    found = await answer(swarm, request(system=SYSTEM, circuit=made.id))
    assert found[0] == (await answer(swarm, request(system=SYSTEM)))[0]


async def test_its_time_ends_it_and_frees_what_it_held(
    swarm: Swarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kwaai.limits.CIRCUIT_LOOK_S", 0.02)
    circuits = swarm.generator.circuits
    made = await circuits.create(CircuitRequest("", Demand(), prefix=SYSTEM, ttl_s=1.0))
    assert swarm.beryl.server.sessions_open == 1
    async with asyncio.timeout(10):
        while circuits.circuits():
            await asyncio.sleep(0.02)
    await swarm.settled()
    with pytest.raises(CircuitMissing):
        await answer(swarm, request(circuit=made.id))


async def test_a_hop_that_dies_is_left_and_where_none_is_left_it_says_so(swarm: Swarm) -> None:
    """The last test: beryl and coral do not come back."""
    circuits = swarm.generator.circuits
    expected = await answer(swarm, request(system=SYSTEM))
    made = await circuits.create(CircuitRequest("", Demand(), prefix=SYSTEM))
    await swarm.beryl.kill()
    found = await answer(swarm, request(system=SYSTEM, circuit=made.id))
    assert found[:2] == expected[:2]
    assert found[2].path is not None
    assert [hop.name for hop in found[2].path.hops] == ["here", "amber", "coral", "here"]
    view = circuits.show(made.id)
    assert view.reroutes == 1
    assert "beryl" in view.problem
    await swarm.coral.kill()
    del swarm.board.pinned[swarm.coral.peer], swarm.board.pinned[swarm.beryl.peer]
    with pytest.raises((CircuitBroken, PeerError)):
        await answer(swarm, request(system=SYSTEM, circuit=made.id))
    with pytest.raises(CircuitBroken, match="no path any more") as caught:
        await answer(swarm, request(system=SYSTEM, circuit=made.id))
    assert caught.value.retry_after_s
    assert circuits.show(made.id).state == "broken"
