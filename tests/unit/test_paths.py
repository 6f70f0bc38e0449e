"""Paths: as good as trying every one, the same for any order, and clear about what is missing."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from itertools import pairwise, permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwaai import limits
from kwaai.errors import OutOfMemory
from kwaai.placement import coverage as coverage_module
from kwaai.placement.paths import (
    Candidate,
    Choice,
    CoverageRow,
    HomePart,
    Path,
    Privacy,
    choose_path,
    choose_range,
    coverage,
    explain_gaps,
    gaps,
    missing_ranges,
)
from kwaai.placement.ranges import check_chain
from kwaai.types import LayerRange

HOME = HomePart(block_s=0.001, head_s=0.002, blocks_max=2, alone_s=None)


def peer(name: str, start: int, stop: int, decode_s: float = 0.003, **more: object) -> Candidate:
    given = Candidate(name, f"name-{name}", LayerRange(start, stop), decode_s, 0.001, 4)
    return replace(given, **more)  # type: ignore[arg-type]


def summary(path: Path | None) -> tuple[object, ...] | None:
    if path is None:
        return None
    return tuple(str(r) for r in path.ranges), tuple(h.peer for h in path.hops)


# Every path there is.


def every_path(
    blocks: int,
    candidates: list[Candidate],
    home: HomePart,
    private: bool,
    between: dict[tuple[str, str], float] | None,
    row_s: float,
) -> list[tuple[float, int]]:
    found = []
    for count in range(1, min(4, len(candidates)) + 1):
        for hops in permutations(candidates, count):
            ends = [c.layers for c in hops]
            first, last = ends[0].start, blocks - ends[-1].stop
            tiled = all(a.stop == b.start for a, b in pairwise(ends))
            distinct = len({c.peer for c in hops}) == count
            own = first + last
            if not tiled or not distinct or first < 1 or own > home.blocks_max:
                continue
            if private != (last > 0) or (not private and not hops[-1].head):
                continue
            seconds = own * home.block_s + sum(c.decode_s for c in hops) + count * row_s
            seconds += hops[0].rtt_s / 2 + hops[-1].rtt_s / 2
            for one, other in pairwise(hops):
                rtt = -1.0 if between is None else between[one.peer, other.peer]
                seconds += rtt / 2 if rtt >= 0 else (one.rtt_s + other.rtt_s) / 4
            seconds += row_s + home.head_s if private else 0
            found.append((seconds, count))
    return found


TIMES = st.sampled_from([0.001, 0.002, 0.004, 0.02])


@st.composite
def swarms(draw: st.DrawFn) -> tuple[int, list[Candidate]]:
    blocks = draw(st.integers(2, 7))
    found = []
    for index in range(draw(st.integers(0, 6))):
        start = draw(st.integers(0, blocks - 1))
        found.append(
            Candidate(
                draw(st.sampled_from(["a", "b", "c", "d"])),
                str(index),
                LayerRange(start, draw(st.integers(start + 1, blocks))),
                draw(TIMES),
                draw(TIMES),
                1,
                draw(st.booleans()),
            )
        )
    return blocks, found


@given(swarms(), st.sampled_from(["private", "fast"]), st.integers(0, 7), st.data())
def test_no_path_is_faster_and_none_that_exists_is_missed(
    swarm: tuple[int, list[Candidate]], privacy: Privacy, blocks_max: int, data: st.DataObject
) -> None:
    blocks, candidates = swarm
    home = replace(HOME, blocks_max=blocks_max, block_s=data.draw(TIMES))
    between = None
    if data.draw(st.booleans()):
        rtt = st.sampled_from([-1.0, 0.0, 0.004, 0.1])
        between = {(a, b): data.draw(rtt) for a in "abcd" for b in "abcd"}
    row_s = data.draw(TIMES)
    choice = choose_path(
        blocks,
        candidates,
        home,
        privacy=privacy,
        rtt_between=None if between is None else lambda a, b: between[a, b],
        row_s=row_s,
    )
    known = every_path(blocks, candidates, home, privacy == "private", between, row_s)
    for found, wanted in (
        (choice.one_peer, [p for p in known if p[1] == 1]),
        (choice.split, [p for p in known if p[1] > 1]),
        (choice.best, known),
    ):
        assert (found is None) == (not wanted)
        if found is None:
            continue
        check_chain(found.ranges, blocks)
        assert found.token_s == pytest.approx(min(wanted)[0], abs=1e-7)
        close = [hops for seconds, hops in wanted if math.isclose(seconds, found.token_s)]
        assert len(found.hops) == min(close)
        assert len({hop.peer for hop in found.hops}) == len(found.hops)
    assert not (choice.gaps and (choice.one_peer or choice.split))


@given(swarms(), st.sampled_from(["private", "fast"]), st.integers(0, 7), st.randoms())
def test_the_order_of_the_candidates_changes_nothing(
    swarm: tuple[int, list[Candidate]], privacy: Privacy, blocks_max: int, random: object
) -> None:
    blocks, candidates = swarm
    home = replace(HOME, blocks_max=blocks_max)
    shuffled = list(candidates)
    random.shuffle(shuffled)  # type: ignore[attr-defined]

    def chosen(order: list[Candidate]) -> tuple[object, ...]:
        choice = choose_path(blocks, order, home, privacy=privacy)
        paths = (choice.alone, choice.one_peer, choice.split, choice.best)
        return (*(summary(path) for path in paths), choice.gaps)

    assert chosen(candidates) == chosen(shuffled)


@given(swarms(), st.sampled_from(["private", "fast"]), st.integers(0, 7))
def test_serving_the_gaps_makes_a_path(
    swarm: tuple[int, list[Candidate]], privacy: Privacy, blocks_max: int
) -> None:
    blocks, candidates = swarm
    home = replace(HOME, blocks_max=blocks_max)
    # One peer per range: what is missing does not count what a peer is too few for.
    candidates = [replace(c, peer=f"p{i}") for i, c in enumerate(candidates)]
    choice = choose_path(blocks, candidates, home, privacy=privacy)
    if choice.best is None:
        ends = 2 if privacy == "private" else 1
        assert bool(choice.gaps) == (blocks_max >= ends and blocks > ends)
    if choice.gaps:
        filled = [peer(f"new{i}", r.start, r.stop) for i, r in enumerate(choice.gaps)]
        after = choose_path(blocks, [*candidates, *filled], home, privacy=privacy)
        assert after.best is not None
        assert after.gaps == ()


# What each rule does.


def test_hops_tile_what_the_requester_does_not_hold() -> None:
    candidates = [peer("a", 1, 3), peer("b", 3, 5), peer("c", 5, 7)]
    choice = choose_path(8, candidates, HOME, privacy="private")
    assert summary(choice.best) == (("[0,1)", "[1,3)", "[3,5)", "[5,7)", "[7,8)"), ("a", "b", "c"))
    assert choice.best == choice.split
    assert choice.one_peer is None
    # 2 blocks and the head here, 3 ranges, and half of 1 ms for each of 4 ways.
    assert choice.best is not None
    assert choice.best.token_s == pytest.approx(0.002 + 0.002 + 0.009 + 0.002)


def test_fast_ends_with_a_peer_that_can_sample() -> None:
    candidates = [peer("a", 1, 5), peer("b", 5, 8), peer("c", 5, 8, 0.001, head=False)]
    choice = choose_path(8, candidates, HOME, privacy="fast")
    assert summary(choice.best) == (("[0,1)", "[1,5)", "[5,8)"), ("a", "b"))
    assert choice.best is not None
    assert choice.best.last is None


@pytest.mark.parametrize(
    ("alone_s", "rtt_s", "kind"),
    [(0.010, 0.050, "alone"), (0.050, 0.001, "one_peer"), (None, 0.5, "one_peer")],
)
def test_auto_takes_what_is_fastest(alone_s: float | None, rtt_s: float, kind: str) -> None:
    candidates = [peer("a", 1, 7, 0.010, rtt_s=rtt_s), peer("b", 1, 4, 0.010, rtt_s=rtt_s)]
    candidates.append(peer("c", 4, 7, 0.010, rtt_s=rtt_s))
    choice = choose_path(8, candidates, replace(HOME, alone_s=alone_s), privacy="private")
    assert choice.best == getattr(choice, kind)


def test_a_route_that_is_asked_for_is_taken_though_it_is_slower() -> None:
    candidates = [peer("a", 1, 7), peer("b", 1, 4), peer("c", 4, 7)]
    home = replace(HOME, alone_s=0.001)

    def best(route: str) -> tuple[object, ...] | None:
        return summary(choose_path(8, candidates, home, privacy="private", route=route).best)  # type: ignore[arg-type]

    assert best("auto") == best("alone") == (("[0,8)",), ())
    assert best("peer") == (("[0,1)", "[1,7)", "[7,8)"), ("a",))
    assert best("split") == (("[0,1)", "[1,4)", "[4,7)", "[7,8)"), ("b", "c"))
    only_split = choose_path(8, candidates[1:], home, privacy="private", route="peer")
    assert only_split.best is None
    assert only_split.alone is not None


def test_fewest_hops_on_ties_then_always_the_same() -> None:
    candidates = [
        peer("a", 1, 7, 0.007, rtt_s=0.0),
        peer("b", 1, 4, 0.0035, rtt_s=0.0),
        peer("c", 4, 7, 0.0035, rtt_s=0.0),
        peer("z", 1, 7, 0.007, rtt_s=0.0),
    ]
    choice = choose_path(8, candidates, HOME, privacy="private")
    assert choice.split is not None
    assert choice.one_peer is not None
    assert choice.split.token_s == choice.one_peer.token_s
    assert summary(choice.best) == (("[0,1)", "[1,7)", "[7,8)"), ("a",))


def test_avoided_and_busy_peers_give_way() -> None:
    fast, slow = peer("fast", 1, 7, 0.001), peer("slow", 1, 7, 0.1)

    def hop(*candidates: Candidate, avoid: frozenset[str] = frozenset()) -> str | None:
        best = choose_path(8, candidates, HOME, privacy="private", avoid=avoid).best
        return best.hops[0].peer if best else None

    busy = replace(fast, sessions_free=0)
    assert hop(fast, slow) == "fast"
    assert hop(fast, slow, avoid=frozenset({"fast"})) == "slow"
    assert hop(busy, slow) == "slow"
    assert hop(busy) == "fast"  # it may be free by now; it says so itself where it is not
    assert hop(fast, avoid=frozenset({"fast"})) is None


def test_what_was_measured_here_wins_over_the_sum() -> None:
    candidates = [peer("a", 1, 7, 0.010, rtt_s=0.0)]

    def token_s(**home: object) -> float:
        best = choose_path(8, candidates, replace(HOME, **home), privacy="private").best  # type: ignore[arg-type]
        assert best is not None
        return best.token_s

    assert token_s() == pytest.approx(0.010 + 0.001 + 0.001 + 0.002)
    assert token_s(pass_s=0.005) == pytest.approx(0.014 + 2 * 0.005)
    measured = {LayerRange(0, 1): 0.5, LayerRange(7, 8): 0.25, LayerRange(0, 8): 9.0}
    assert token_s(pass_s=0.005, measured=measured) == pytest.approx(0.010 + 0.5 + 0.25)


def test_the_home_part_keeps_to_its_memory() -> None:
    candidates = [peer("a", 3, 5)]
    enough = choose_path(8, candidates, replace(HOME, blocks_max=6), privacy="private")
    assert summary(enough.best) == (("[0,3)", "[3,5)", "[5,8)"), ("a",))
    small = choose_path(8, candidates, replace(HOME, blocks_max=5), privacy="private")
    assert small.best is None
    assert small.gaps == (LayerRange(2, 3),)


def test_a_larger_first_part_is_no_reason_to_lose_a_path() -> None:
    # The cheaper way to block 5 uses up the memory that the last part needs.
    home = replace(HOME, blocks_max=4, block_s=0.0)
    candidates = [peer("a", 3, 5, 0.001), peer("b", 1, 5, 0.1), peer("c", 5, 6, 0.001)]
    choice = choose_path(8, candidates, home, privacy="private")
    assert summary(choice.split) == (("[0,1)", "[1,5)", "[5,6)", "[6,8)"), ("b", "c"))


def test_a_peer_has_one_hop_of_a_path() -> None:
    candidates = [peer("a", 1, 4, 0.001), peer("a", 4, 7, 0.001), peer("b", 4, 7, 0.5)]
    choice = choose_path(8, candidates, HOME, privacy="private")
    assert summary(choice.split) == (("[0,1)", "[1,4)", "[4,7)", "[7,8)"), ("a", "b"))
    assert choose_path(8, candidates[:2], HOME, privacy="private").best is None


def test_an_unknown_speed_is_as_the_others() -> None:
    slow, unknown = peer("slow", 1, 7, 0.6), peer("unknown", 1, 7, 0.0, rtt_s=-1.0)
    both = choose_path(8, [slow, unknown], HOME, privacy="private")
    alone = choose_path(8, [unknown], HOME, privacy="private")
    assert both.best is not None
    assert both.best.token_s == pytest.approx(0.002 + 0.002 + 0.6 + 0.001)
    assert alone.best is not None  # its own speed is all there is to go by, and 50 ms
    assert alone.best.token_s == pytest.approx(0.002 + 0.002 + 0.006 + 0.05)


@pytest.mark.parametrize("odd", [math.nan, math.inf, 1e300])
def test_absurd_numbers_come_last(odd: float) -> None:
    candidates = [peer("odd", 1, 7, odd, rtt_s=odd), peer("even", 1, 7)]
    best = choose_path(8, candidates, HOME, privacy="private", row_s=1e-6).best
    assert best is not None
    assert best.hops[0].peer == "even"


def test_a_range_beyond_the_model_is_no_candidate() -> None:
    assert choose_path(8, [peer("a", 1, 9)], HOME, privacy="private").best is None


def test_peers_that_offer_many_ranges_do_not_make_it_slow() -> None:
    candidates = [
        peer(f"p{number}", start, start + 1, 0.001) for number in range(8) for start in range(1, 33)
    ]
    started = time.process_time()
    choose_path(34, candidates, HOME, privacy="private")
    assert time.process_time() - started < 5


def test_a_thousand_peers_take_tens_of_milliseconds() -> None:
    candidates = [
        peer(f"p{n:04}", 1 + 6 * (n % 13), 7 + 6 * (n % 13), 0.001 + n % 7 / 1e4)
        for n in range(1000)
    ]
    started = time.process_time()
    choice = choose_path(80, candidates, HOME, privacy="private")
    took_s = time.process_time() - started
    assert choice.split is not None
    assert len(choice.split.hops) == 13
    assert took_s < 30  # it is 50 ms; this bounds what grows without bound


# What a swarm covers and lacks.


def test_coverage_counts_copies() -> None:
    served = [LayerRange(1, 4), LayerRange(3, 5), LayerRange(7, 12)]
    rows = [(0, 1, 0), (1, 3, 1), (3, 4, 2), (4, 5, 1), (5, 7, 0), (7, 8, 1)]
    assert coverage(8, served) == tuple(CoverageRow(LayerRange(a, b), n) for a, b, n in rows)
    assert gaps(8, served) == (LayerRange(0, 1), LayerRange(5, 7))
    assert gaps(3, []) == (LayerRange(0, 3),)


@pytest.mark.parametrize(
    ("served", "blocks_max", "keeps_tail", "missing"),
    [
        ([(1, 7)], 2, True, []),
        ([(1, 3), (5, 7)], 2, True, [(3, 5)]),
        ([(1, 5), (3, 7)], 2, True, [(1, 3)]),  # they overlap: neither can follow the other
        ([(2, 7)], 2, True, [(1, 2)]),
        ([(2, 7)], 3, True, []),
        ([], 2, True, [(1, 7)]),
        ([], 1, True, []),  # this machine can hold too little for any path
        ([(1, 7)], 1, False, [(7, 8)]),
    ],
)
def test_what_is_missing(
    served: list[tuple[int, int]],
    blocks_max: int,
    keeps_tail: bool,
    missing: list[tuple[int, int]],
) -> None:
    ranges = [LayerRange(*pair) for pair in served]
    found = missing_ranges(8, ranges, blocks_max, keeps_tail=keeps_tail)
    assert found == tuple(LayerRange(*pair) for pair in missing)


def test_what_is_missing_is_named_with_the_commands_that_fill_it() -> None:
    text = explain_gaps("my model", [LayerRange(3, 5), LayerRange(6, 7)])
    assert "layers [3,5), [6,7) of my model" in text
    assert "kwaainet shard serve --model 'my model' --start-block 3 --blocks 2" in text
    assert "--start-block 6 --blocks 1" in text
    assert coverage_module.serve_command("m", LayerRange(1, 3)).endswith(
        "--start-block 1 --blocks 2"
    )


@pytest.mark.parametrize(
    ("served", "blocks_max", "chosen"),
    [
        ([], 100, (1, 7)),  # the first and the last block are the requester's
        ([], 2, (1, 3)),
        ([("a", 1, 3)], 100, (3, 7)),
        ([("a", 1, 3), ("b", 4, 5)], 100, (5, 7)),  # the largest gap
        ([("a", 1, 5), ("b", 3, 7)], 4, (1, 3)),  # overlapping ranges do not make a path
        ([("a", 1, 3), ("b", 1, 3), ("c", 3, 7)], 100, (3, 7)),  # one copy only
        ([("a", 1, 4, 0.1), ("b", 4, 7, 0.2)], 100, (4, 7)),  # the slower of two
        ([("a", 1, 7)], 2, (1, 3)),  # none fits whole
        ([("a", 0, 8)], 100, (1, 7)),
    ],
)
def test_auto_takes_what_the_swarm_lacks_most(
    served: list[tuple[str, int, int]], blocks_max: int, chosen: tuple[int, int]
) -> None:
    candidates = [peer(*row) for row in served]
    assert choose_range(8, candidates, blocks_max) == LayerRange(*chosen)


def test_auto_needs_memory_for_a_block() -> None:
    with pytest.raises(OutOfMemory, match="no layer"):
        choose_range(8, [], 0)


@given(swarms(), st.integers(1, 4))
def test_nodes_that_take_what_is_lacking_make_a_path_in_the_end(
    swarm: tuple[int, list[Candidate]], blocks_max: int
) -> None:
    blocks, candidates = swarm
    candidates = [replace(c, peer=f"p{i}") for i, c in enumerate(candidates)]
    home = replace(HOME, blocks_max=2)
    for number in range(blocks):
        taken = choose_range(blocks, candidates, blocks_max)
        assert 0 <= taken.start < taken.stop <= blocks
        assert len(taken) <= blocks_max
        candidates.append(peer(f"new{number}", taken.start, taken.stop))
    choice: Choice = choose_path(blocks, candidates, home, privacy="private")
    assert choice.best is not None or blocks < 3


def test_a_choice_of_this_size_is_bounded() -> None:
    assert limits.PATH_SEARCHES_MAX * limits.PATH_LABELS_MAX < 10_000
