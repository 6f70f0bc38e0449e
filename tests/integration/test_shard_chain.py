"""Answers over several nodes: real links, real slice workers, the packaged model."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import pytest_asyncio

from kwaai.config import Config
from kwaai.errors import KwaaiError, PathMissing, PeerError, PeerRefused, UserError
from kwaai.inference.host import SliceHost
from kwaai.inference.sampling import SamplingParams
from kwaai.models.library import DEMO_NAME, Library
from kwaai.node import hop, remote, routes
from kwaai.node.answer_path import AnswerPath
from kwaai.node.avoid import AvoidList
from kwaai.node.generate import ChatMessage, Finished, GenerationRequest, PathReport
from kwaai.node.local_slices import LocalSlices
from kwaai.node.opening import OpenPath
from kwaai.node.swarm_generator import SwarmGenerator
from kwaai.placement.paths import HomePart
from kwaai.testing.shards import Board, Node, generator_of, plan_of
from kwaai.types import LayerRange
from kwaai.wire.messages import CloseReason
from kwaai.wire.tensors import Dtype

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONTEXT = 512
FRANCE = "What is the capital of France?"


class Swarm:
    """`home` asks; amber, beryl and coral serve what is between the first block and the last, and
    dusk the end with the head.
    """

    def __init__(self, directory: Path) -> None:
        self.config = Config(context_tokens=CONTEXT, threads=1, max_sessions=4)
        self.slices = LocalSlices(self.config, Library(directory))
        names = ("home", "amber", "beryl", "coral", "dusk")
        self.nodes = [Node(name, seed) for seed, name in enumerate(names, 1)]
        self.home, self.amber, self.beryl, self.coral, self.dusk = self.nodes
        self.board, self.avoided = Board(), AvoidList()

    async def start(self) -> None:
        self.model = await self.slices.model(DEMO_NAME)
        count = self.model.block_count
        self.first, self.last = LayerRange(0, 1), LayerRange(count - 1, count)
        middle = (LayerRange(1, 3), LayerRange(3, 5), LayerRange(5, count - 1))
        self.ranges = dict(zip(self.nodes[1:], (*middle, self.last), strict=True))
        for node in self.nodes:
            await node.start()
        for node, layers in self.ranges.items():
            await node.serve(self.slices, self.model, layers)
            self.board.pin(node, self.model, [layers])
        self.parts = [await self.slices.acquire(DEMO_NAME, r) for r in (self.first, self.last)]
        self.whole = await self.slices.acquire(DEMO_NAME, LayerRange(0, count))
        self.generator = generator_of(self.home, self.config, self.slices, self.board, self.avoided)
        self.home.requesters = self.generator.requesters
        await self.generator.start()

    async def stop(self) -> None:
        await self.generator.stop()
        for node in self.nodes:
            await node.stop()
        await self.slices.close()

    async def path(self, context_tokens: int = CONTEXT) -> AnswerPath:
        """Over amber, beryl and coral."""
        path = AnswerPath(self.parts[0], self.parts[1])
        hops = list(self.ranges.items())[:3]
        plan = plan_of(
            self.model, hops, self.last, vocab=self.whole.vocab, context_tokens=context_tokens
        )
        await path.open(self.home.requesters, plan)
        return path

    async def alone(self) -> AnswerPath:
        path = AnswerPath(self.whole, None)
        await path.open(self.home.requesters, None)
        return path

    async def settled(self) -> None:
        """Nothing is open anywhere: within seconds after the last answer."""
        async with asyncio.timeout(5):
            while any(n.server.sessions_open for n in self.nodes) or self.slices.sessions_open:
                await asyncio.sleep(0.01)
        assert self.home.requesters.sessions_open == 0
        assert all(node.links.channel_count == 0 for node in self.nodes)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def swarm(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Swarm]:
    with pytest.MonkeyPatch.context() as patch:
        # A machine that has room for two blocks besides a whole model: everything else is remote.
        patch.setattr(routes, "home_part", lambda *_: HomePart(0.001, 0.001, 2, 0.01))
        swarm = Swarm(tmp_path_factory.mktemp("models"))
        await swarm.start()
        yield swarm
        await swarm.stop()


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def nothing_leaks(swarm: Swarm) -> AsyncIterator[None]:
    yield
    await swarm.settled()


Logits = npt.NDArray[np.float32]


async def greedy(path: AnswerPath, prompt: Sequence[int], count: int) -> list[Logits]:
    rows = [np.asarray(await path.prefill(prompt))]
    for _ in range(count):
        rows.append(np.asarray(await path.decode(int(np.argmax(rows[-1][-1])))))
    return rows


async def test_logits_over_three_hops_are_the_whole_models(swarm: Swarm) -> None:
    alone, path = await swarm.alone(), await swarm.path()
    try:
        async with asyncio.timeout(60):
            expected = await greedy(alone, range(5, 45), 12)
            found = await greedy(path, range(5, 45), 12)
        for number, (one, other) in enumerate(zip(expected, found, strict=True)):
            assert np.array_equal(one, other), f"pass {number}"
    finally:
        await path.close()
        await alone.close()
    assert set(path.timings.hops) == {0, 1, 2}
    assert len(path.timings.token_s) == len(path.timings.links_s) == 12


async def test_a_long_prompt_goes_in_pieces_and_says_the_same(
    swarm: Swarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AnswerPath, "_piece_tokens", lambda path, count: 40)
    prompt = np.random.default_rng(3).integers(3, swarm.whole.vocab, 450).tolist()
    alone, path = await swarm.alone(), await swarm.path()
    try:
        async with asyncio.timeout(100):
            expected, found = await greedy(alone, prompt, 3), await greedy(path, prompt, 3)
        for one, other in zip(expected, found, strict=True):
            assert np.array_equal(one, other)
    finally:
        await path.close()
        await alone.close()


async def test_verify_and_rollback(swarm: Swarm) -> None:
    path = await swarm.path()
    try:
        async with asyncio.timeout(60):
            await path.prefill(range(5, 25))
            guessed = np.asarray(await path.verify((7, 8, 9, 10)))
            assert guessed.shape == (4, swarm.whole.vocab)
            await path.rollback(22)
            assert path.remote is not None
            assert path.position == path.remote.position == 22
            again = np.asarray(await path.verify((9, 10)))
            np.testing.assert_allclose(again, guessed[2:], atol=1e-4, rtol=1e-4)
            await path.remote.repeat()  # nothing is under way: nothing to repeat
    finally:
        await path.close()


def request(prompt: str = FRANCE, **options: Any) -> GenerationRequest:
    sampling = options.pop("sampling", SamplingParams(temperature=0.0))
    turn = (ChatMessage("user", prompt),)
    return GenerationRequest(DEMO_NAME, turn, sampling=sampling, **options)


async def answer(
    generator: SwarmGenerator, wanted: GenerationRequest
) -> tuple[str, list[int], Finished]:
    text, tokens, finished = "", [], None
    async with asyncio.timeout(60), aclosing(generator.generate(wanted)) as items:
        async for item in items:
            if isinstance(item, Finished):
                finished = item
            else:
                text += item.text
                tokens += [info.token for info in item.tokens]
    assert finished is not None
    return text, tokens, finished


def path_of(finished: Finished) -> PathReport:
    assert finished.path is not None
    return finished.path


async def test_every_route_gives_the_whole_models_answer(swarm: Swarm) -> None:
    seen: list[PathReport] = []
    alone = await answer(swarm.generator, request(route="alone"))
    split = await answer(swarm.generator, request(route="split", on_path=seen.append))
    assert "Paris" in alone[0]
    assert split[:2] == alone[:2]
    report = path_of(split[2])
    assert report.route == "split"
    assert report.text == seen[0].text
    assert [part.name for part in report.hops] == ["here", "amber", "beryl", "coral", "here"]
    assert [part.dtype for part in report.hops] == ["f32", "f32", "f32", "f32", ""]
    assert all(part.compute_ms and part.compute_ms[0] > 0 for part in report.hops)
    assert set(report.predicted_tokens_s) == {"alone", "peer", "split"}
    assert all(report.predicted_tokens_s[kind] for kind in ("alone", "split"))
    assert path_of(alone[2]).text == f"here [0,{swarm.model.block_count})"


async def test_slow_links_carry_half_floats(swarm: Swarm, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (hop, remote):
        monkeypatch.setattr(module, "choose_dtype", lambda *_, **__: Dtype.F16)
    alone = await answer(swarm.generator, request(route="alone"))
    split = await answer(swarm.generator, request(route="split"))
    assert split[0] == alone[0]
    assert [part.dtype for part in path_of(split[2]).hops] == ["f16", "f16", "f16", "f16", ""]


async def test_one_peer(swarm: Swarm) -> None:
    """A peer with all that is between the ends."""
    layers = LayerRange(1, swarm.model.block_count - 1)
    await swarm.beryl.serve(swarm.slices, swarm.model, layers)
    swarm.board.pin(swarm.beryl, swarm.model, [swarm.ranges[swarm.beryl], layers])
    try:
        alone = await answer(swarm.generator, request(route="alone"))
        one = await answer(swarm.generator, request(route="peer"))
    finally:
        del swarm.beryl.held.parts[swarm.model.handle, layers]
        swarm.board.pin(swarm.beryl, swarm.model, [swarm.ranges[swarm.beryl]])
    assert one[:2] == alone[:2]
    assert [part.name for part in path_of(one[2]).hops] == ["here", "beryl", "here"]


async def test_fast_mode_samples_at_the_last_hop(swarm: Swarm) -> None:
    alone = await answer(swarm.generator, request(route="alone"))
    fast = await answer(swarm.generator, request(route="split", privacy="fast"))
    assert fast[:2] == alone[:2]
    assert path_of(fast[2]).hops[-1].name == "dusk"
    params = SamplingParams(temperature=0.8, top_k=20, top_p=0.9, min_p=0.01, seed=7)
    here = await answer(swarm.generator, request(sampling=params, route="split"))
    there = await answer(swarm.generator, request(sampling=params, route="split", privacy="fast"))
    assert here[1] == there[1]


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(logprobs=2, seed=1),
        SamplingParams(logit_bias={5: 1.0}, seed=1),
        SamplingParams(repetition_penalty=1.1, seed=1),
    ],
)
async def test_fast_mode_refuses_what_needs_the_logits(
    swarm: Swarm, params: SamplingParams
) -> None:
    wanted = request(sampling=params, route="split", privacy="fast")
    with pytest.raises(UserError, match="fast mode"):
        await answer(swarm.generator, wanted)


async def test_answers_at_once_share_the_hops(swarm: Swarm) -> None:
    prompts = [FRANCE, "Tell me about kwaainet.", "Hello!", "Who are you?"]
    one_by_one = [await answer(swarm.generator, request(p, route="alone")) for p in prompts]
    together = await asyncio.gather(
        *(answer(swarm.generator, request(p, route="split")) for p in prompts * 2)
    )
    for expected, found in zip(one_by_one * 2, together, strict=True):
        assert found[0] == expected[0]


async def test_who_goes_away_leaves_nothing_behind(swarm: Swarm) -> None:
    items = swarm.generator.generate(request(route="split", ignore_eos=True, max_tokens=500))
    async for _ in items:
        break
    assert swarm.amber.server.sessions_open == 1
    await items.aclose()
    await swarm.settled()
    task = asyncio.create_task(
        answer(swarm.generator, request(route="split", ignore_eos=True, max_tokens=500))
    )
    async with asyncio.timeout(10):
        while not swarm.coral.server.counters.steps or not swarm.coral.server.sessions_open:
            await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_what_nobody_serves_is_named_with_the_command(swarm: Swarm) -> None:
    held = swarm.board.pinned.pop(swarm.beryl.peer)
    try:
        with pytest.raises(PathMissing) as caught:
            await answer(swarm.generator, request(route="split"))
    finally:
        swarm.board.pinned[swarm.beryl.peer] = held
    assert "[3,5)" in caught.value.message
    assert "kwaainet shard serve --model kwaai-demo --start-block 3 --blocks 2" in str(caught.value)
    assert swarm.board.refreshed > 0


class Told:
    """Hears of paths."""

    def __init__(self) -> None:
        self.served: list[str] = []
        self.failed: list[str] = []

    def on_opened(self, opened: OpenPath) -> None:
        assert opened.path.remote is not None

    def on_served(self, opened: OpenPath) -> None:
        self.served += opened.peers

    def on_failed(self, peer: str, error: KwaaiError) -> None:
        self.failed.append(peer)

    def on_closed(self, opened: OpenPath, reason: CloseReason) -> None:
        assert opened.is_closed


async def test_another_path_when_the_first_one_fails(swarm: Swarm) -> None:
    """Two peers have the same layers; the one that looks better turns out not to."""
    model, beryl = swarm.model, swarm.beryl
    layers = swarm.ranges[beryl]
    liar, dead = Node("liar", 21), Node("dead", 22)
    await liar.start()
    await dead.start()
    for node in (liar, dead):
        swarm.board.pin(node, model, [layers], decode_us=1)
    swarm.board.pin(beryl, model, [layers], decode_us=9_000_000)
    await dead.stop()
    watch = Told()
    swarm.generator._opener._watch = watch
    try:
        first = await answer(swarm.generator, request(route="split"))
        assert "Paris" in first[0]
        assert [part.name for part in path_of(first[2]).hops][2] == "beryl"
        (tried,) = path_of(first[2]).tried
        assert "liar" in tried
        assert "not held" in tried
        assert swarm.avoided.peers() == {liar.peer, dead.peer}
        assert liar.peer in watch.failed
        assert beryl.peer in watch.served
        second = await answer(swarm.generator, request(route="split"))
        assert path_of(second[2]).tried == ()
    finally:
        for node in (liar, dead):
            del swarm.board.pinned[node.peer]
            swarm.avoided.answered(node.peer)
        swarm.board.pin(beryl, model, [layers])
        await liar.stop()
        swarm.generator._opener._watch = None
    assert swarm.generator.stats()["paths_retried"] >= 1


async def test_a_busy_peer_is_not_avoided(swarm: Swarm) -> None:
    swarm.amber.server._sessions_max = 0
    try:
        with pytest.raises(PeerRefused, match=r"amber .* refuses .busy") as caught:
            await answer(swarm.generator, request(route="split"))
        assert caught.value.retry_after_s
    finally:
        swarm.amber.server._sessions_max = 256
    assert swarm.avoided.peers() == frozenset()
    assert "Paris" in (await answer(swarm.generator, request(route="split")))[0]


async def test_a_peer_that_dies_while_it_answers_is_named_and_avoided(swarm: Swarm) -> None:
    """A worker of a hop that ends, and a node: nothing hangs, and the next answer is right."""
    host = swarm.beryl.held.parts[swarm.model.handle, swarm.ranges[swarm.beryl]]
    assert isinstance(host, SliceHost)
    assert host.pid is not None
    steps = swarm.beryl.server.counters.steps
    wanted = request(route="split", ignore_eos=True, max_tokens=400)
    answering = asyncio.create_task(answer(swarm.generator, wanted))
    while swarm.beryl.server.counters.steps < steps + 10:
        await asyncio.sleep(0.001)
    os.kill(host.pid, signal.SIGKILL)
    with pytest.raises(PeerError, match="beryl") as caught:
        await answering
    assert caught.value.peer == swarm.beryl.peer
    assert swarm.avoided.peers() == {swarm.beryl.peer}
    with pytest.raises(PathMissing, match=r"beryl .*asked again in") as missing:
        await answer(swarm.generator, request(route="split"))
    assert missing.value.retry_after_s
    swarm.avoided.answered(swarm.beryl.peer)
    await host.worker.wait_ready(20)
    assert "Paris" in (await answer(swarm.generator, request(route="split")))[0]
