"""Sessions along three hops over real links, with parts that compute nothing: what may go wrong."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from credentials.keys import PeerId, SecretKey
from kwaai.errors import (
    Busy,
    KwaaiError,
    PeerError,
    PeerLost,
    PeerMisbehaved,
    PeerRefused,
    PeerStalled,
    PeerUnreachable,
    UserError,
    WorkerLost,
)
from kwaai.net.links import Links
from kwaai.node import inquiry, remote
from kwaai.node.answer_path import AnswerPath
from kwaai.node.remote import RemotePlan
from kwaai.node.shards import ShardServer
from kwaai.testing.shards import HANDLE, FakePart, Node
from kwaai.types import LayerRange
from kwaai.wire.messages import Close, CloseReason, Open, Opened, Progress
from kwaai.wire.requester import HopPlan
from kwaai.wire.step import Step, StepKind, encode_step, parse_data
from kwaai.wire.tensors import Dtype

BLOCKS, EMBD, VOCAB = 8, 8, 32
RANGES = (LayerRange(1, 3), LayerRange(3, 5), LayerRange(5, 7))


class Chain:
    """`home` asks; amber, beryl and coral are the hops."""

    def __init__(self) -> None:
        self.home, *self.hops = [
            Node(name, seed) for seed, name in enumerate(("home", "amber", "beryl", "coral"), 1)
        ]
        self.parts = [FakePart(layers, BLOCKS) for layers in RANGES]
        self.first = FakePart(LayerRange(0, 1), BLOCKS)
        self.last = FakePart(LayerRange(7, 8), BLOCKS)

    @property
    def nodes(self) -> list[Node]:
        return [self.home, *self.hops]

    async def start(self) -> None:
        for node in self.nodes:
            await node.start()
        for node, part in zip(self.hops, self.parts, strict=True):
            node.hold(part)

    async def stop(self) -> None:
        for node in self.nodes:
            await node.stop()

    def plan(self, **changes: Any) -> RemotePlan:
        fields: dict[str, Any] = {
            "handle": HANDLE,
            "block_count": BLOCKS,
            "hops": tuple(
                node.hop(part.layers) for node, part in zip(self.hops, self.parts, strict=True)
            ),
            "names": {node.peer: node.name for node in self.hops},
            "last": self.last.layers,
            "context_tokens": 256,
            "embd": EMBD,
            "vocab": VOCAB,
            "token_s": 0.0,
        }
        return RemotePlan(**{**fields, **changes})

    async def path(self, **changes: Any) -> AnswerPath:
        path = AnswerPath(self.first, self.last)
        try:
            async with asyncio.timeout(20):
                await path.open(self.home.requesters, self.plan(**changes))
        except BaseException:
            await path.close()
            raise
        return path

    async def settled(self) -> None:
        """No node holds anything of a session."""

        def is_settled() -> bool:
            held = [*self.parts, self.first, self.last]
            return (
                not any(node.server.sessions_open for node in self.nodes)
                and not any(part.positions for part in held)
                and not self.home.requesters.sessions_open
                and not any(node.links.channel_count for node in self.nodes)
            )

        await until(is_settled)


async def until(is_done: Callable[[], bool], timeout_s: float = 5.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not is_done():
            await asyncio.sleep(0.005)


@pytest_asyncio.fixture
async def chain() -> AsyncIterator[Chain]:
    chain = Chain()
    await chain.start()
    yield chain
    await chain.settled()
    await chain.stop()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds become fractions of one."""
    for name, seconds in {
        "SHARD_STEP_TIMEOUT_S_MIN": 0.1,
        "SHARD_STEP_TIMEOUT_S_MAX": 0.4,
        "SHARD_PROBE_TIMEOUT_S": 0.3,
        "SHARD_OPEN_TIMEOUT_S": 1.0,
        "SHARD_LINK_TIMEOUT_S": 0.5,
    }.items():
        for module in (remote, inquiry):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, seconds)


async def fails(
    work: Awaitable[Any], kind: type[KwaaiError], culprit: Node, *words: str, within_s: float = 3.0
) -> KwaaiError:
    """`work` fails soon, with an error that names `culprit` by name and id, and why."""
    started = time.monotonic()
    with pytest.raises(kind) as caught:
        async with asyncio.timeout(20):
            await work
    assert time.monotonic() - started < within_s
    error = caught.value
    assert isinstance(error, PeerError)
    assert error.peer == culprit.peer
    for word in (culprit.name, culprit.peer, *words):
        assert word in error.message, error.message
    return error


def passed(output: Any) -> list[int]:
    """How many parts each row has passed, on top of its token."""
    return [int(value) for value in np.argmax(np.asarray(output), axis=1)]


async def test_rows_pass_every_part_once(chain: Chain) -> None:
    path = await chain.path()
    assert passed(await path.prefill((1, 2, 3))) == [3 + 5]
    assert passed(await path.decode(4)) == [4 + 5]
    assert passed(await path.verify((5, 6))) == [10, 11]
    await path.rollback(4)
    assert all(set(part.positions.values()) == {4} for part in chain.parts)
    assert passed(await path.decode(7)) == [12]
    assert all(part.steps == [(0, 3), (3, 1), (4, 2), (4, 1)] for part in chain.parts)
    assert [node.server.counters.steps for node in chain.hops] == [4, 4, 4]
    assert path.remote is not None
    assert list(path.remote.tokens) == [1, 2, 3, 4, 7]
    await path.close()
    await chain.settled()
    assert chain.hops[0].server.stats()["sessions_opened"] == 1


async def test_a_prompt_of_many_pieces_is_pipelined(chain: Chain) -> None:
    path = await chain.path()
    assert passed(await path.prefill([n % 20 for n in range(250)])) == [249 % 20 + 5]
    assert sum(count for _, count in chain.parts[2].steps) == 250
    assert len(chain.parts[2].steps) >= 4
    await path.close()


async def test_a_peer_that_is_gone_before(chain: Chain) -> None:
    await chain.hops[1].kill()
    await fails(chain.path(), PeerUnreachable, chain.hops[1])


async def test_a_peer_that_only_its_neighbour_cannot_reach(chain: Chain) -> None:
    amber, beryl, _ = chain.hops
    await chain.home.links.get(beryl.peer, (beryl.address,))
    hops = list(chain.plan().hops)
    hops[1] = HopPlan(beryl.peer, RANGES[1], ("127.0.0.1:1",))
    error = await fails(
        chain.path(hops=tuple(hops)), PeerUnreachable, beryl, "cannot be reached by amber"
    )
    assert amber.peer in error.message


@pytest.mark.parametrize("victim", [0, 1, 2])
async def test_a_peer_that_is_killed_in_the_middle(chain: Chain, victim: int) -> None:
    path = await chain.path()
    await path.prefill((1, 2, 3))
    chain.parts[victim].is_stuck = True
    decoding = asyncio.create_task(path.decode(4))
    await until(lambda: len(chain.parts[victim].steps) == 2)
    await chain.hops[victim].kill()
    await fails(decoding, PeerLost, chain.hops[victim])
    with pytest.raises(PeerError):
        await path.decode(5)
    await path.close()


async def test_the_requester_is_killed(chain: Chain) -> None:
    path = await chain.path()
    await path.prefill((1, 2, 3))
    await chain.home.kill()
    await until(lambda: not any(node.server.sessions_open for node in chain.hops))
    await path.close()


async def test_a_link_between_hops_is_cut(chain: Chain) -> None:
    path = await chain.path()
    await path.prefill((1, 2))
    amber, beryl, _ = chain.hops
    link = amber.links.link(beryl.peer)
    assert link is not None
    link._transport.abort()
    await until(lambda: path.remote is not None and path.remote.failure is not None)
    with pytest.raises(PeerLost, match=r"(amber|beryl) .*(amber|beryl)"):
        await path.decode(3)
    await path.close()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("victim", [0, 1, 2])
async def test_a_peer_that_keeps_a_step(chain: Chain, victim: int) -> None:
    path = await chain.path()
    await path.prefill((1, 2))
    chain.parts[victim].is_stuck = True
    await fails(path.decode(3), PeerStalled, chain.hops[victim], "does not finish")
    await path.close()


@pytest.mark.usefixtures("impatient")
async def test_a_peer_that_says_nothing_at_all(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = await chain.path()
    coral = chain.hops[2]
    chain.parts[2].is_stuck = True
    monkeypatch.setattr(coral.server, "_say", lambda *_: None)
    await fails(path.prefill((1, 2)), PeerStalled, coral, "does not answer")
    await path.close()


@pytest.mark.usefixtures("impatient")
async def test_a_slow_step_is_waited_for(chain: Chain) -> None:
    path = await chain.path()
    part, done = chain.parts[1], asyncio.Event()
    submit = part.submit

    def slow(*args: Any) -> Any:
        inner = submit(*args)
        outer = asyncio.get_running_loop().create_future()

        def hand_on(_: Any) -> None:
            asyncio.get_running_loop().call_later(0.25, outer.set_result, inner.result())

        inner.add_done_callback(hand_on)
        return outer

    part.submit = slow  # type: ignore[method-assign]
    assert passed(await path.prefill((1, 2))) == [7]
    await path.close()
    done.set()


@pytest.mark.usefixtures("impatient")
async def test_a_peer_that_never_opens(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain.hops[1].control, "_to_hop", lambda *_: None)
    await fails(chain.path(), PeerStalled, chain.hops[1], "did not open a session")


async def test_a_peer_without_the_layers(chain: Chain) -> None:
    beryl = chain.hops[1]
    beryl.held.parts.clear()
    beryl.hold(FakePart(LayerRange(2, 6), BLOCKS))
    error = await fails(chain.path(), PeerRefused, beryl, "not held", "[2,6)", "[3,5)")
    assert error.retry_after_s is None
    assert beryl.server.counters.refused == 1


async def test_a_part_of_a_range_is_loaded_for_whoever_may_use_it(chain: Chain) -> None:
    beryl = chain.hops[1]
    beryl.held.parts.clear()
    beryl.held.loading[HANDLE, LayerRange(3, 5)] = 5.0
    error = await fails(chain.path(), PeerRefused, beryl, "busy", "it loads layers [3,5)")
    assert error.retry_after_s == 5.0
    beryl.held.loading[HANDLE, LayerRange(3, 5)] = Busy("another one", retry_after_s=9.0)
    error = await fails(chain.path(), PeerRefused, beryl, "busy", "another one")
    assert error.retry_after_s == 9.0

    def admit(peer: PeerId, wanted: Open) -> bytes:
        raise UserError("tier_compute says no")

    beryl.held.loading[HANDLE, LayerRange(3, 5)] = 5.0
    beryl.server.admit = admit
    error = await fails(chain.path(), PeerRefused, beryl, "tier_compute says no")
    assert error.retry_after_s is None


async def test_a_peer_that_is_busy(chain: Chain) -> None:
    chain.parts[0].sessions_max = 0
    error = await fails(chain.path(), PeerRefused, chain.hops[0], "busy")
    assert error.retry_after_s == 1.0


async def test_a_context_that_is_too_long(chain: Chain) -> None:
    chain.parts[1].context_tokens = 100
    await fails(chain.path(), PeerRefused, chain.hops[1], "too large", "100 positions")


async def test_another_version(chain: Chain) -> None:
    beryl = chain.hops[1]
    old = Links(SecretKey(bytes([3]) * 32), versions=(7, 9))  # beryl's own key
    host, port = await old.start("127.0.0.1", 0)
    hops = list(chain.plan().hops)
    hops[1] = HopPlan(beryl.peer, RANGES[1], (f"{host}:{port}",))
    try:
        with pytest.raises(PeerError, match="beryl"):
            await chain.path(hops=tuple(hops))
    finally:
        await old.stop()


async def test_a_worker_that_dies(chain: Chain) -> None:
    path = await chain.path()
    await path.prefill((1, 2))
    chain.parts[1].problem = WorkerLost("worker slice-[3,5) ended during the request")
    await fails(path.decode(3), PeerError, chain.hops[1], "worker_lost", "slice-[3,5)")
    await path.close()
    assert chain.hops[1].server.stats()["sessions_failed"] == 1


async def test_draining(chain: Chain) -> None:
    path = await chain.path()
    await path.prefill((1, 2))
    amber = chain.hops[0]
    draining = asyncio.create_task(amber.server.drain(0.2))
    await until(lambda: amber.server.is_draining)
    await fails(chain.path(), PeerRefused, amber, "draining")
    assert passed(await path.decode(3)) == [8]  # the grace
    await draining
    assert amber.server.sessions_open == 0
    await until(lambda: path.remote is not None and path.remote.failure is not None)
    await fails(path.decode(4), PeerRefused, amber, "stops serving")
    await path.close()
    amber.server.resume()
    again = await chain.path()
    await again.close()


async def test_draining_one_part_leaves_the_others(chain: Chain) -> None:
    amber = chain.hops[0]
    other = FakePart(LayerRange(1, 2), BLOCKS)
    amber.hold(other)
    path = await chain.path()
    assert amber.server.sessions_on(chain.parts[0]) == 1
    await amber.server.drain(0.0, other)
    assert passed(await path.prefill((1,))) == [6]
    await amber.server.drain(0.0, chain.parts[0])
    assert amber.server.sessions_on(chain.parts[0]) == 0
    await path.close()


async def test_an_idle_session_is_ended(chain: Chain) -> None:
    node = chain.hops[2]
    node.server = ShardServer(node.control, node.held, idle_s=0.1)
    node.server.start()
    path = await chain.path()
    await path.prefill((1, 2))
    await until(lambda: node.server.sessions_open == 0)
    with pytest.raises(PeerStalled, match="no step came"):
        await path.decode(3)
    await path.close()


async def test_cancelled_while_opening(chain: Chain) -> None:
    for turns in range(12):
        task = asyncio.create_task(chain.path())
        for _ in range(turns):
            await asyncio.sleep(0)
        await asyncio.sleep(0.002 * turns)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await (await task).close()
        await chain.settled()


class Impostor:
    """A peer that speaks the protocol by hand: one hop that does what a test says."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.channels: list[Any] = []
        self.steps: list[Step] = []
        self.opens: list[Any] = []
        node.control.serve(self._on_message)
        self.answer: Callable[[Step], list[Step]] = lambda step: [step]

    def _on_message(self, peer: PeerId, message: Any) -> None:
        if type(message).__name__ == "Open":
            self.opens.append(message)
            asyncio.get_running_loop().create_task(self._open(peer, message))
        elif type(message).__name__ == "Close":
            for channel in self.channels:
                channel.close()

    async def _open(self, peer: PeerId, wanted: Any) -> None:
        links = self.node.links
        await links.get(wanted.next, wanted.next_addresses)
        self.out = links.open_channel(wanted.next, wanted.session, lambda _: None)
        self.into = links.open_channel(wanted.previous, wanted.session, self._on_step)
        self.channels = [self.out, self.into]
        opened = Opened(wanted.session, wanted.hop, Dtype.F32, 64, 0, 0, 0)
        await self.node.control.send(peer, opened)

    def _on_step(self, data: bytes) -> None:
        step = parse_data(data)
        assert isinstance(step, Step)
        self.steps.append(step)
        for answer in self.answer(step):
            self.out.send_now(*encode_step(answer))

    def next_step(self, came: Step, /, **changes: Any) -> Step:
        fields = {name: getattr(came, name) for name in Step.__dataclass_fields__}
        fields["layers"] = self.opens[-1].next_layers
        return Step(**{**fields, **changes})


WRONG: dict[str, Callable[[Impostor, Step], list[Step]]] = {
    "width": lambda i, s: [i.next_step(s, rows=np.zeros((s.count, EMBD + 1), np.float32))],
    "count": lambda i, s: [
        i.next_step(s, kind=StepKind.PREFILL, count=s.count + 1, outputs=1,
                    rows=np.zeros((s.count + 1, EMBD), np.float32))
    ],
    "layers": lambda i, s: [s],
    "future": lambda i, s: [i.next_step(s, step=s.step + 1)],
    "session": lambda i, s: [i.next_step(s, session=b"x" * 16)],
    "position": lambda i, s: [i.next_step(s, position=s.position + 1)],
}  # fmt: skip


# How many rows there must be, only the requester knows: it would name the last hop.
@pytest.mark.parametrize(
    ("wrong", "place"), [(w, p) for w in WRONG for p in (1, 2) if (w, p) != ("count", 1)]
)
async def test_wrong_answers_name_who_gave_them(chain: Chain, wrong: str, place: int) -> None:
    """In the middle the next hop finds it, at the end the requester."""
    impostor = Impostor(chain.hops[place])
    impostor.answer = lambda step: WRONG[wrong](impostor, step)
    path = await chain.path()
    await fails(path.prefill((1, 2)), PeerMisbehaved, chain.hops[place])
    await path.close()


async def test_rows_that_are_no_numbers(chain: Chain) -> None:
    impostor = Impostor(chain.hops[1])
    rows = np.full((2, EMBD), np.nan, np.float32)
    impostor.answer = lambda step: [impostor.next_step(step, rows=rows)]
    path = await chain.path()
    await fails(path.prefill((1, 2)), PeerMisbehaved, chain.hops[1], "not finite")
    await path.close()


async def test_replays_are_answered_from_what_is_kept(chain: Chain) -> None:
    impostor = Impostor(chain.hops[0])
    # Each step three times, and those before it once more.
    impostor.answer = lambda step: [impostor.next_step(s) for s in [*impostor.steps, step, step]]
    path = await chain.path()
    assert passed(await path.prefill((1, 2, 3))) == [3 + 4]
    assert passed(await path.decode(4)) == [4 + 4]
    assert passed(await path.decode(5)) == [5 + 4]
    await until(lambda: chain.hops[1].server.counters.repeats >= 3)
    assert chain.parts[1].steps == chain.parts[2].steps == [(0, 3), (3, 1), (4, 1)]
    await path.close()


async def test_a_repeated_step_is_answered_again(chain: Chain) -> None:
    """The requester repeats a step whose answer got lost on its way."""
    impostor = Impostor(chain.hops[2])

    def lose_the_first(step: Step) -> list[Step]:
        return [impostor.next_step(step)] if len(impostor.steps) > 1 else []

    impostor.answer = lose_the_first
    path = await chain.path()
    prefill = asyncio.create_task(path.prefill((1, 2, 3)))
    await until(lambda: bool(impostor.steps))
    assert path.remote is not None
    await path.remote.repeat()
    assert passed(await prefill) == [3 + 4]
    assert chain.parts[0].steps == chain.parts[1].steps == [(0, 3)]
    await path.close()


async def test_what_is_none_of_a_peers_business(chain: Chain) -> None:
    path = await chain.path()
    await path.prefill((1, 2))
    assert path.remote is not None
    amber, _, coral = chain.hops
    await coral.links.get(amber.peer, (amber.address,))
    await coral.control.send(amber.peer, Close(path.remote.id, CloseReason.DONE))
    await coral.control.send(amber.peer, Progress(path.remote.id, 0, 5, 5))
    for message in chain_opens(path):
        await coral.control.send(amber.peer, message)
    await until(lambda: amber.server.counters.refused >= 1)
    assert passed(await path.decode(3)) == [8]
    await path.close()


def chain_opens(path: AnswerPath) -> list[Any]:
    assert path.remote is not None
    return list(path.remote._opens[:1])


async def test_nonsense_on_the_control_channel_ends_the_link(chain: Chain) -> None:
    path = await chain.path()
    amber = chain.hops[0]
    await chain.home.links.send_control(amber.peer, b"\xff nonsense")
    await until(lambda: amber.server.sessions_open == 0)
    assert amber.control.messages_invalid == 1
    await path.close()


async def test_a_flood_of_steps_ends_the_session_only(chain: Chain) -> None:
    chain.parts[0].is_stuck = True
    path, other = await chain.path(), await chain.path()
    assert path.remote is not None
    out = path.remote._out
    assert out is not None
    state = path.remote._state
    step = state.step(StepKind.DECODE, (1,), np.ones((1, EMBD), np.float32), outputs=1,
                      dtype=Dtype.F32)  # fmt: skip
    fields = {name: getattr(step, name) for name in Step.__dataclass_fields__}
    for number in range(200):
        message = encode_step(Step(**{**fields, "step": number, "position": number}))
        with contextlib.suppress(PeerError):
            await out.send(*message)
    remote = path.remote
    await until(lambda: chain.hops[0].server.sessions_open == 1 and remote.failure is not None)
    assert isinstance(remote.failure, PeerMisbehaved)
    chain.parts[0].is_stuck = False
    assert passed(await other.prefill((1,))) == [6]
    await path.close()
    await other.close()


async def test_garbage_on_a_sessions_channel(chain: Chain) -> None:
    rng = random.Random(11)
    for _ in range(20):
        path = await chain.path()
        assert path.remote is not None
        out = path.remote._out
        assert out is not None
        good = b"".join(map(bytes, encode_step(path.remote._state.step(
            StepKind.PREFILL, (1, 2), np.ones((2, EMBD), np.float32), outputs=1,
            dtype=Dtype.F32))))  # fmt: skip
        bad = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            bad[rng.randrange(80)] ^= 1 << rng.randrange(8)
        with contextlib.suppress(PeerError):
            await out.send(bytes(bad[: rng.choice([len(bad), rng.randint(1, len(bad))])]))
        await path.close()
        await chain.settled()
    path = await chain.path()
    assert passed(await path.prefill((1, 2))) == [7]
    await path.close()


@pytest.mark.parametrize("seed", range(24))
async def test_killing_any_node_at_any_moment(seed: int) -> None:
    """A clear error or the right answer; nothing hangs, nothing is left."""
    rng = random.Random(seed)
    chain = Chain()
    await chain.start()
    victim = rng.choice(chain.hops)
    moment = rng.uniform(0.0, 0.03)
    print(f"seed {seed}: {victim.name} dies after {moment * 1000:.1f} ms")

    async def kill() -> None:
        await asyncio.sleep(moment)
        await victim.kill()

    killing = asyncio.create_task(kill())
    path = None
    try:
        async with asyncio.timeout(10):
            path = await chain.path()
            assert passed(await path.prefill(range(20))) == [19 + 5]
            for token in range(20):
                assert passed(await path.decode(token)) == [token + 5]
    except PeerError as error:
        if victim.name not in error.message or error.peer not in {n.peer for n in chain.hops}:
            raise
    finally:
        if path is not None:
            await path.close()
    await killing
    await chain.settled()
    await chain.stop()
