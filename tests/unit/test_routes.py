"""Choosing who answers: who is left alone and who is blamed, what fast mode takes, what fits."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio

from credentials.keys import PeerId, PublicKey, peer_id
from kwaai.config import Config
from kwaai.errors import (
    PathMissing,
    PeerError,
    PeerLost,
    PeerMisbehaved,
    PeerRefused,
    PeerStalled,
    PeerUnreachable,
    UserError,
)
from kwaai.inference.sampling import SamplingParams
from kwaai.limits import AVOID_S, AVOID_S_MAX, AVOIDED_PEERS_MAX, PATH_CANDIDATES_MAX
from kwaai.models.library import DEMO_NAME, Library
from kwaai.node import routes as routes_module
from kwaai.node.avoid import AvoidList
from kwaai.node.blame import Blame
from kwaai.node.fast import encode_sampling, parse_sampling
from kwaai.node.home import blocks_max, home_part
from kwaai.node.local_slices import LocalSlices
from kwaai.node.remote import RemotePlan
from kwaai.node.routes import Routes
from kwaai.node.slice_plan import LocalModel
from kwaai.node.stall import find_stalled
from kwaai.node.standings import NoStandings
from kwaai.placement.paths import HomePart
from kwaai.testing.shards import HANDLE, Board, Node
from kwaai.trust.score import Standing
from kwaai.trust.tiers import Tier
from kwaai.types import LayerRange
from kwaai.wire.messages import Failed, Opened, Progress, Refused, RefusedReason
from kwaai.wire.tensors import Dtype

SESSION = b"s" * 16
AMBER, BERYL, CORAL = (peer_id(PublicKey(bytes([n]) * 32)) for n in (1, 2, 3))


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


# Who is left alone.


def test_a_peer_is_left_alone_for_longer_each_time() -> None:
    clock = Clock()
    avoided = AvoidList(clock)
    for turn in range(12):
        avoided.failed(AMBER, "peer_lost")
        (row,) = avoided.explain()
        assert row.left_s == pytest.approx(min(AVOID_S * 2**turn, AVOID_S_MAX))
        clock.now_s += row.left_s - 0.1
        assert avoided.peers() == {AMBER}
        clock.now_s += 0.2
        assert avoided.peers() == frozenset()
        assert avoided.explain() == ()
    avoided.answered(AMBER)
    avoided.failed(AMBER, "peer_lost")
    assert avoided.explain()[0].left_s == AVOID_S


def test_failures_of_one_moment_count_once() -> None:
    clock = Clock()
    avoided = AvoidList(clock)
    for _ in range(8):
        avoided.failed(AMBER, "first")
        avoided.failed(AMBER, "peer_stalled")
    (row,) = avoided.explain()
    assert (row.left_s, row.reason) == (AVOID_S, "peer_stalled")
    avoided.failed(BERYL, "peer_lost")
    clock.now_s += 1
    assert [row.peer for row in avoided.explain()] == [AMBER, BERYL]


def test_the_list_is_bounded() -> None:
    avoided = AvoidList(Clock())
    for number in range(AVOIDED_PEERS_MAX + 50):
        avoided.failed(str(number), "peer_lost")
    assert len(avoided.peers()) == AVOIDED_PEERS_MAX
    assert "0" not in avoided.peers()


# Who is blamed.


def progress(*said: tuple[int, int] | None) -> Mapping[int, Progress]:
    return {h: Progress(SESSION, h, *one) for h, one in enumerate(said) if one is not None}


@pytest.mark.parametrize(
    ("said", "hop", "is_working", "words"),
    [
        (progress((6, 6), None, (5, 5)), 1, False, "does not answer"),
        (progress((6, 6), None, None), 1, False, "does not answer"),
        (progress((6, 5), (5, 5), (5, 5)), 0, True, "does not finish"),
        (progress((6, 6), (6, 5), (5, 5)), 1, True, "does not finish"),
        (progress((6, 6), (6, 6), (6, 3)), 2, True, "does not finish"),
        (progress((5, 5), (5, 5), (5, 5)), 0, True, "this node has sent"),
        (progress((6, 6), (5, 5), (5, 5)), 1, True, "the hop before it has sent"),
        (progress((6, 6), (6, 6), (9, 9)), 2, False, "did not come"),
    ],
)
def test_who_stalls(said: Mapping[int, Progress], hop: int, is_working: bool, words: str) -> None:
    found = find_stalled(said, 3, 5)
    assert (found.hop, found.is_working) == (hop, is_working)
    assert words in found.what
    assert found.is_disputed == ("the hop before it has sent" in words)


BLAME = Blame([AMBER, BERYL, CORAL], {AMBER: "amber", BERYL: "beryl"})


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("peer_lost", PeerLost),
        ("peer_stalled", PeerStalled),
        ("peer_misbehaved", PeerMisbehaved),
        ("wire_invalid", PeerMisbehaved),
        ("busy", PeerRefused),
        ("worker_lost", PeerError),
        ("invalid_request", PeerError),  # a peer cannot make it our fault
        ("nonsense", PeerError),
    ],
)
def test_failures_become_errors_between_nodes_only(code: str, kind: type[PeerError]) -> None:
    error = BLAME.failed(Failed(SESSION, 7, AMBER, code, "its cat slept on it", 1500), AMBER)
    assert type(error) is kind
    assert (error.peer, error.accuser, error.retry_after_s) == (AMBER, None, None)
    for words in ("amber", AMBER, "its cat slept on it", "step 7"):
        assert words in error.message


def test_a_hop_may_blame_only_the_hops_beside_it() -> None:
    said = Failed(SESSION, 7, BERYL, "peer_lost", "gone", 0)
    error = BLAME.failed(said, AMBER)
    assert (error.peer, error.accuser) == (BERYL, AMBER)
    assert "says amber" in error.message
    for culprit, reporter in ((CORAL, AMBER), (AMBER, CORAL)):
        error = BLAME.failed(Failed(SESSION, 7, culprit, "peer_lost", "gone", 0), reporter)
        assert (error.peer, error.accuser) == (reporter, None)
    stranger = peer_id(PublicKey(bytes([9]) * 32))
    said = Failed(SESSION, 7, stranger, "peer_lost", "gone", 0)
    assert BLAME.failed(said, AMBER).peer == AMBER
    # Coral has no name: its id does.
    assert CORAL in BLAME.failed(Failed(SESSION, 7, CORAL, "peer_lost", "", 0), CORAL).message


def test_refusals() -> None:
    busy = BLAME.refused(Refused(SESSION, 0, RefusedReason.BUSY, "full", 2**32 - 1), AMBER)
    assert type(busy) is PeerRefused
    assert (busy.peer, busy.retry_after_s) == (AMBER, 60.0)
    assert "busy" in busy.message
    wall = BLAME.refused(Refused(SESSION, 0, RefusedReason.UNREACHABLE_NEXT, "wall", 0), AMBER)
    assert type(wall) is PeerUnreachable
    assert (wall.peer, wall.accuser) == (BERYL, AMBER)
    last = BLAME.refused(Refused(SESSION, 2, RefusedReason.UNREACHABLE_NEXT, "wall", 0), CORAL)
    assert last.peer == CORAL  # after it comes this node


def test_our_own_errors_keep_their_kind() -> None:
    for kind in (PeerLost, PeerUnreachable, PeerStalled, PeerRefused):
        error = BLAME.own(kind("why", peer=AMBER), AMBER)
        assert type(error) is kind
        assert error.peer == AMBER


# Fast mode.


def test_fast_sampling_travels() -> None:
    params = SamplingParams(temperature=0.5, top_k=4, top_p=0.5, min_p=0.1, seed=9)
    assert parse_sampling(encode_sampling(params)).params == params
    drawn = encode_sampling(SamplingParams())
    assert isinstance(drawn["seed"], int)
    assert drawn["seed"] != encode_sampling(SamplingParams())["seed"]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"temperature": 1.0},
        {"seed": 1, "temperature": 3.0},
        {"seed": 1, "top_k": "many"},
        {"seed": None, "temperature": {}},
        {"seed": 1, "logit_bias": {"1": 100}},
    ],
)
def test_what_a_requester_may_not_ask(fields: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        parse_sampling(fields)


def test_who_has_the_last_layers_samples() -> None:
    fields: dict[str, Any] = {
        "handle": HANDLE, "block_count": 8, "hops": (), "names": {}, "context_tokens": 8,
        "embd": 8, "vocab": 8, "token_s": 0.0,
    }  # fmt: skip
    with pytest.raises(ValueError, match="last layers"):
        RemotePlan(last=None, sampling=None, **fields)
    with pytest.raises(ValueError, match="last layers"):
        RemotePlan(last=LayerRange(7, 8), sampling={"seed": 1}, **fields)


# What fits here, and which path is taken.


@pytest_asyncio.fixture
async def slices(tmp_path: Path) -> AsyncIterator[LocalSlices]:
    slices = LocalSlices(Config(max_sessions=2), Library(tmp_path))
    yield slices
    await slices.close()


async def test_what_this_machine_can_do(slices: LocalSlices) -> None:
    model, config = await slices.model(DEMO_NAME), Config(max_sessions=2)
    home = home_part(model, slices, config)
    assert home.blocks_max == model.block_count
    assert home.alone_s is not None
    assert 0 < home.block_s < home.alone_s
    assert home.head_s > 0
    tiny = Config(max_sessions=2, memory_limit_mb=16)
    assert home_part(model, slices, tiny).alone_s is None
    sizes = [blocks_max(model, mib << 20) for mib in (1, 100, 120, 200, 10_000)]
    assert sizes[0] == 0
    assert sizes == sorted(sizes)
    assert sizes[-1] == model.block_count


class Met:
    """Routes over a board, on a machine with room for two blocks."""

    def __init__(self, slices: LocalSlices, model: LocalModel) -> None:
        self.model, self.board, self.avoided = model, Board(), AvoidList(Clock())
        self.node = Node("home", 40)
        directory: Any = self.board
        self.routes = Routes(Config(), slices, self.node.links, directory, self.avoided)

    def pin(self, seed: int, *layers: LayerRange, **more: Any) -> PeerId:
        node = Node(f"node{seed}", seed)
        node.address = "127.0.0.1:1"
        self.board.pin(node, self.model, layers, **more)
        return node.peer


@pytest_asyncio.fixture
async def met(slices: LocalSlices, monkeypatch: pytest.MonkeyPatch) -> Met:
    monkeypatch.setattr(routes_module, "home_part", lambda *_: HomePart(0.001, 0.001, 2, 0.05))
    met = Met(slices, await slices.model(DEMO_NAME))

    async def nobody_is_dialled(found: Any) -> None:
        pass

    monkeypatch.setattr(met.routes.candidates, "meet", nobody_is_dialled)
    return met


async def test_the_choice_has_all_kinds(met: Met) -> None:
    end = met.model.block_count - 1
    one = met.pin(1, LayerRange(1, end), decode_us=90_000)
    two, three = met.pin(2, LayerRange(1, 4), decode_us=100), met.pin(3, LayerRange(4, end),
                                                                        decode_us=100)  # fmt: skip
    chosen = await met.routes.choose(met.model, "split", "private", 64)
    assert [hop.peer for hop in chosen.path.hops] == [two, three]
    assert chosen.route == "split"
    assert chosen.addresses[two] == ("127.0.0.1:1",)
    assert all(chosen.predicted_tokens_s.values())
    one_peer = await met.routes.choose(met.model, "peer", "private", 64)
    assert [hop.peer for hop in one_peer.path.hops] == [one]
    alone = await met.routes.choose(met.model, "auto", "private", 64)
    assert alone.route == "alone"
    assert alone.predicted_tokens_s["alone"] == pytest.approx(20.0)


async def test_who_cannot_take_part_is_no_candidate(met: Met) -> None:
    end = met.model.block_count - 1
    peer = met.pin(1, LayerRange(1, end))
    good = met.board.pinned[peer]

    async def is_taken(**changes: Any) -> bool:
        served = replace(good.served[0], **changes)
        met.board.pinned[peer] = replace(good, served=(served,))
        try:
            await met.routes.choose(met.model, "peer", "private", 64)
        except PathMissing:
            return False
        return True

    assert await is_taken()
    assert not await is_taken(state="draining")
    assert not await is_taken(state="joining")
    assert not await is_taken(context_tokens=63)
    assert not await is_taken(embd=good.served[0].embd + 1)
    assert not await is_taken(block_count=met.model.block_count + 1)
    assert not await is_taken(handle=HANDLE)
    assert await is_taken(cells=1)  # only models with two sets of factors care


async def test_missing_paths_say_what_to_do(met: Met) -> None:
    with pytest.raises(PathMissing, match=r"--start-block 1 --blocks 6"):
        await met.routes.choose(met.model, "split", "private", 64)
    peer = met.pin(1, LayerRange(1, met.model.block_count - 1))
    with pytest.raises(PathMissing, match="no two peers together"):
        await met.routes.choose(met.model, "split", "private", 64)
    met.avoided.failed(peer, "peer_stalled")
    with pytest.raises(PathMissing, match=r"node1 .*peer_stalled.*asked again in 5 s"):
        await met.routes.choose(met.model, "peer", "private", 64)
    assert (await met.routes.choose(met.model, "alone", "private", 64)).route == "alone"


async def test_who_comes_back_is_asked_when_nobody_else_can(
    met: Met, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that was killed and started again has a new link, made after its failure."""
    peer = met.pin(1, LayerRange(1, met.model.block_count - 1))
    met.avoided.failed(peer, "peer_lost")
    links = {peer: SimpleNamespace(since_s=99.0, rtt_s=0.001)}  # the clock stands at 100
    monkeypatch.setattr(met.node.links, "link", links.get)
    with pytest.raises(PathMissing, match="failed a moment ago"):
        await met.routes.choose(met.model, "peer", "private", 64)
    links[peer] = SimpleNamespace(since_s=101.0, rtt_s=0.001)
    chosen = await met.routes.choose(met.model, "peer", "private", 64)
    assert [hop.peer for hop in chosen.path.hops] == [peer]
    with pytest.raises(PathMissing):  # this very answer has met its failure
        await met.routes.choose(met.model, "peer", "private", 64, frozenset({peer}))


async def test_round_trips_between_hops_are_remembered(met: Met) -> None:
    """Of two second hops, the one that is near the first."""
    end = met.model.block_count - 1
    first = met.pin(1, LayerRange(1, 4), decode_us=100)
    near = met.pin(2, LayerRange(4, end), decode_us=100)
    far = met.pin(3, LayerRange(4, end), decode_us=100)
    said = Opened(SESSION, 0, Dtype.F32, 512, 0, 0, 0)
    for peer, rtt_us in ((near, 900), (far, 400_000)):
        met.routes.remember([first, peer], [Opened(said.session, 0, said.dtype, 512, rtt_us, 0, 0)])
    for one, other in ((near, far), (far, near)):
        met.routes.remember([first, one], [Opened(SESSION, 0, Dtype.F32, 512, 900, 0, 0)])
        met.routes.remember([first, other], [Opened(SESSION, 0, Dtype.F32, 512, 400_000, 0, 0)])
        chosen = await met.routes.choose(met.model, "split", "private", 64)
        assert [hop.peer for hop in chosen.path.hops] == [first, one]


async def test_of_too_many_records_those_of_peers_that_are_known_count(met: Met) -> None:
    """A thousand invented records do not hide an honest peer, nor keep the node busy."""
    end = met.model.block_count - 1
    friend = met.pin(1, LayerRange(1, end), decode_us=100)
    good = met.board.pinned[friend]
    for number in range(1000):
        peer = peer_id(PublicKey(number.to_bytes(32, "big")))
        served = tuple(replace(good.served[0], layers=LayerRange(1, 2 + n % 5)) for n in range(16))
        met.board.pinned[peer] = replace(good, peer=peer, served=served)
    met.board.has_met = lambda peer: peer == friend  # type: ignore[method-assign]
    started_s = time.monotonic()
    chosen = await met.routes.choose(met.model, "peer", "private", 64)
    assert time.monotonic() - started_s < 2
    assert [hop.peer for hop in chosen.path.hops] == [friend]
    assert len(met.routes.candidates.find(met.model, 64, 0.001)) == PATH_CANDIDATES_MAX


async def test_a_crowd_with_links_does_not_hide_a_peer_that_has_earned_a_tier(met: Met) -> None:
    end = met.model.block_count - 1
    friend = met.pin(1, LayerRange(1, end))
    good = met.board.pinned[friend]
    for number in range(300):
        peer = peer_id(PublicKey(number.to_bytes(32, "big")))
        met.board.pinned[peer] = replace(good, peer=peer)
    met.board.has_met = lambda peer: peer != friend  # type: ignore[method-assign]
    standing = NoStandings().standing
    trust: Any = SimpleNamespace(
        standing=lambda peer: replace(
            standing(peer), tier=Tier.VERIFIED if peer == friend else Tier.UNKNOWN
        )
    )
    met.routes.candidates._standings = trust
    found = met.routes.candidates.find(met.model, 64, 0.001)
    assert found[0][0].peer == friend


async def test_a_hop_cannot_lie_two_peers_together(met: Met) -> None:
    """They are no nearer to one another than their round trips from here differ."""
    end = met.model.block_count - 1
    first = met.pin(1, LayerRange(1, 4), decode_us=100)
    far = met.pin(2, LayerRange(4, end), decode_us=100)
    met.routes.remember([first, far], [Opened(SESSION, 0, Dtype.F32, 512, 1, 0, 0)])
    rtt_s = {first: 0.01, far: 0.21}
    measured = met.routes.candidates.measured
    met.routes.candidates.measured = (  # type: ignore[method-assign]
        lambda c: replace(measured(c), rtt_s=rtt_s[PeerId(c.peer)])
    )
    chosen = await met.routes.choose(met.model, "split", "private", 64)
    assert chosen.path.token_s > 0.005 + 0.1 + 0.105


async def test_long_contexts_go_together(met: Met, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model with two sets of rope factors: all parts of a path take the same one."""
    peer = met.pin(1, LayerRange(1, met.model.block_count - 1))
    good = met.board.pinned[peer]
    header = type(met.model.entry.header)
    arch_int = header.arch_int

    def trained(self: Any, key: str, *default: int) -> int:
        if key == "rope.scaling.original_context_length":
            return met.model.cells - 1
        return int(arch_int(self, key, *default))

    monkeypatch.setattr(header, "arch_int", trained)
    for cells, is_taken in ((met.model.cells, True), (met.model.cells - 1, False), (0, False)):
        served = replace(good.served[0], cells=cells)
        met.board.pinned[peer] = replace(good, served=(served,))
        if is_taken:
            await met.routes.choose(met.model, "peer", "private", 64)
        else:
            with pytest.raises(PathMissing):
                await met.routes.choose(met.model, "peer", "private", 64)


async def test_who_is_in_doubt_answers_where_nobody_else_does(met: Met) -> None:
    layers = LayerRange(1, met.model.block_count - 1)
    good, bad = met.pin(1, layers, decode_us=9_000), met.pin(2, layers, decode_us=100)
    chosen = await met.routes.choose(met.model, "peer", "private", 64)
    assert [hop.peer for hop in chosen.path.hops] == [bad]
    met.routes.in_doubt = lambda peer: peer == bad
    chosen = await met.routes.choose(met.model, "peer", "private", 64)
    assert [hop.peer for hop in chosen.path.hops] == [good]
    met.routes.in_doubt = lambda _: True
    assert (await met.routes.choose(met.model, "peer", "private", 64)).path.hops


async def test_who_kept_no_promise_is_counted_as_slow_as_it_was(met: Met) -> None:
    layers = LayerRange(1, met.model.block_count - 1)
    honest, boaster = met.pin(1, layers, decode_us=9_000), met.pin(2, layers, decode_us=4_000)

    class Paced(NoStandings):
        def standing(self, peer: str) -> Standing:
            return replace(super().standing(peer), pace=5.0 if peer == boaster else 1.0)

    met.routes._standings = Paced()
    chosen = await met.routes.choose(met.model, "peer", "private", 64)
    assert [hop.peer for hop in chosen.path.hops] == [honest]
