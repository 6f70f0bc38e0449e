"""Plans under constraints: as good as trying every path, and clear about what is asked too much."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwaai import limits
from kwaai.placement import search as search_module
from kwaai.placement.path_types import Candidate, Change, Choice, Constraints, HomePart, Hop, Path
from kwaai.placement.paths import Route, choose_path, cut_candidate
from kwaai.placement.plan_case import plan_case
from kwaai.placement.ranges import check_chain
from kwaai.types import LayerRange

ROW_S = 0.0001
PROMPT_TOKENS = 100


def peer(name: str, start: int, stop: int, decode_s: float = 0.003, **more: object) -> Candidate:
    given = Candidate(name, f"name-{name}", LayerRange(start, stop), decode_s, 0.001, 4)
    return replace(given, **more)  # type: ignore[arg-type]


# Every path there is, added up in another way.


@dataclass(frozen=True)
class Known:
    """A path and what it costs, in seconds."""

    parts: tuple[tuple[Candidate, LayerRange], ...]
    token_s: float
    first_s: float
    risk_s: float

    @property
    def cost_s(self) -> float:
        return self.token_s + self.risk_s

    @property
    def trust(self) -> int:
        return min((round(100 * c.trust) for c, _ in self.parts), default=100)


@dataclass(frozen=True)
class Case:
    blocks: int
    candidates: tuple[Candidate, ...]
    home: HomePart
    private: bool
    pairs: dict[tuple[str, str], float]

    def choose(self, constraints: Constraints, route: Route = "auto") -> Choice:
        return choose_path(
            self.blocks,
            self.candidates,
            self.home,
            privacy="private" if self.private else "fast",
            route=route,
            rtt_between=self.pairs,
            row_s=ROW_S,
            constraints=constraints,
            prompt_tokens=PROMPT_TOKENS,
        )

    def every(self) -> list[Known]:
        found = []
        for first in range(1, self.blocks):
            for parts in self._ways(first, ()):
                stop = parts[-1][1].stop
                last = self.blocks - stop
                if first + last <= self.home.blocks_max and self._may_end(parts[-1][0], stop):
                    found.append(self._priced(first, parts))
        if self.home.alone_s is not None:
            found.append(Known((), self.home.alone_s, self._alone_first_s(), 0.0))
        return found

    def _may_end(self, last: Candidate, stop: int) -> bool:
        return stop < self.blocks if self.private else stop == self.blocks and last.head

    def _ways(
        self, start: int, before: tuple[tuple[Candidate, LayerRange], ...]
    ) -> Iterator[tuple[tuple[Candidate, LayerRange], ...]]:
        for c in self.candidates:
            if any(c.peer == other.peer for other, _ in before):
                continue
            ranges = [c.layers] if c.layers.start == start else []
            if c.divisible and start in c.layers:
                ranges = [LayerRange(start, stop) for stop in range(start + 1, c.layers.stop + 1)]
            for layers in ranges:
                parts = (*before, (c, layers))
                yield parts
                yield from self._ways(layers.stop, parts)

    def _alone_first_s(self) -> float:
        alone_s = self.home.alone_s or 0.0
        return max(alone_s, PROMPT_TOKENS * alone_s / limits.PATH_PREFILL_SPEEDUP)

    def _home(self, layers: LayerRange, rows: int) -> float:
        head = self.home.head_s if layers.stop == self.blocks else 0.0
        token_s = len(layers) * self.home.block_s + head
        row_s = len(layers) * self.home.block_s / limits.PATH_PREFILL_SPEEDUP
        return max(token_s, rows * row_s + head) if rows else token_s

    def _priced(self, first: int, parts: tuple[tuple[Candidate, LayerRange], ...]) -> Known:
        token = first_token = parts[0][0].rtt_s / 2 + parts[-1][0].rtt_s / 2
        ends = [LayerRange(0, first)]
        if self.private:
            ends.append(LayerRange(parts[-1][1].stop, self.blocks))
        token += sum(self._home(end, 0) for end in ends)
        first_token += sum(self._home(end, PROMPT_TOKENS) for end in ends)
        rows = len(parts) + self.private
        token += rows * ROW_S
        first_token += rows * ROW_S * PROMPT_TOKENS
        risk = 0.0
        for index, (c, layers) in enumerate(parts):
            share = len(layers) / len(c.layers)
            row_s = 1 / c.prefill_tokens_s if c.prefill_tokens_s else c.decode_s / 4
            token += c.decode_s * (1 + c.load / 2) * share
            first_token += max(c.decode_s, PROMPT_TOKENS * row_s) * (1 + c.load / 2) * share
            risk += c.failure * limits.PATH_LOSS_S
            risk += limits.PATH_DIVIDE_LOSS_S * (layers != c.layers)
            if index:
                other = parts[index - 1][0]
                rtt = self.pairs.get((other.peer, c.peer), self.pairs.get((c.peer, other.peer)))
                half = (other.rtt_s + c.rtt_s) / 4 if rtt is None else rtt / 2
                token += half
                first_token += half
        return Known(parts, token, first_token, risk)


def meets(path: Known, asked: Constraints, without: frozenset[str] = frozenset()) -> bool:
    for c, layers in path.parts:
        if c.tier < asked.floor or not set(c.breaks) <= without:
            return False
        if layers.start < asked.early_stop and c.tier < asked.early_floor:
            return False
    owners = Counter(c.owner or c.peer for c, _ in path.parts)
    most = asked.owner_hops_max
    if most is not None and max(owners.values(), default=0) > most:
        return False
    slack_s = 1e-7
    return (asked.token_s_max is None or path.token_s <= asked.token_s_max + slack_s) and (
        asked.first_token_s_max is None or path.first_s <= asked.first_token_s_max + slack_s
    )


def kinds(paths: Sequence[Known]) -> dict[str, list[Known]]:
    """By kind; busy peers only where a kind has no path without."""
    found: dict[str, list[Known]] = {"alone": [], "peer": [], "split": []}
    for path in paths:
        kind = "split" if len(path.parts) > 1 else "peer" if path.parts else "alone"
        found[kind].append(path)
    free = {
        kind: [p for p in some if all(c.sessions_free for c, _ in p.parts)]
        for kind, some in found.items()
    }
    return {kind: free[kind] or some for kind, some in found.items()}


TIMES = st.sampled_from([0.001, 0.002, 0.004, 0.02])


@st.composite
def cases(draw: st.DrawFn) -> Case:
    blocks = draw(st.integers(2, 6))
    found = []
    for index in range(draw(st.integers(0, 5))):
        start = draw(st.integers(0, blocks - 1))
        breaks = draw(st.sampled_from([(), (), (), ("deny a",), ("region eu",)]))
        found.append(
            Candidate(
                draw(st.sampled_from("abcd")),
                str(index),
                LayerRange(start, draw(st.integers(start + 1, blocks))),
                draw(TIMES),
                draw(TIMES),
                draw(st.sampled_from([0, 1, 1])),
                draw(st.booleans()),
                tier=draw(st.integers(0, 3)),
                trust=draw(st.sampled_from([0.0, 0.2, 0.5, 0.9])),
                owner=draw(st.sampled_from(["", "x", "y"])),
                failure=draw(st.sampled_from([0.0, 0.0, 0.1])),
                load=draw(st.sampled_from([0.0, 0.5])),
                prefill_tokens_s=draw(st.sampled_from([0.0, 200.0])),
                divisible=draw(st.booleans()),
                breaks=breaks,
            )
        )
    home = HomePart(
        draw(TIMES), 0.002, draw(st.integers(0, blocks)), draw(st.sampled_from([None, 0.01, 0.1]))
    )
    pairs = {}
    if draw(st.booleans()):
        rtt = st.sampled_from([0.0, 0.004, 0.1])
        for one, other in ("ab", "bc", "da"):
            pairs[one, other] = draw(rtt)
    return Case(blocks, tuple(found), home, draw(st.booleans()), pairs)


@st.composite
def constrained(draw: st.DrawFn, case: Case) -> Constraints:
    def maybe(values: st.SearchStrategy[float]) -> float | None:
        return draw(st.none() | values)

    known = case.every()
    tokens = [p.token_s for p in known] or [0.01]
    firsts = [p.first_s for p in known] or [0.01]
    nudge = st.sampled_from([-5e-6, 5e-6])
    return Constraints(
        floor=draw(st.integers(0, 3)),
        early_floor=draw(st.integers(0, 3)),
        early_stop=draw(st.integers(0, 4)),
        owner_hops_max=draw(st.none() | st.integers(0, 2)),
        token_s_max=maybe(st.builds(sum, st.tuples(st.sampled_from(tokens), nudge))),
        first_token_s_max=maybe(st.builds(sum, st.tuples(st.sampled_from(firsts), nudge))),
    )


def check_best(choice: Choice, wanted: list[Known], route: str) -> None:
    pools = [pool for kind, pool in kinds(wanted).items() if route in ("auto", kind)]
    pool = [path for some in pools for path in some]
    assert (choice.best is None) == (not pool)
    if choice.best is None:
        return
    best = choice.best
    cost_s = best.token_s + best.risk_s
    least_s = min(path.cost_s for path in pool)
    # A rounding either way of what is just 1 % more.
    sure = max(p.trust for p in pool if p.cost_s <= 1.00999 * least_s - 1e-8)
    most = max(p.trust for p in pool if p.cost_s <= 1.01001 * least_s + 1e-8)
    trust = round(100 * best.trust)
    assert sure <= trust <= most
    same = [p for p in pool if p.trust >= trust]
    assert cost_s == pytest.approx(min(p.cost_s for p in same), abs=1e-7)
    assert len(best.hops) == min(len(p.parts) for p in same if abs(p.cost_s - cost_s) < 1e-6)
    assert any(
        abs(p.token_s - best.token_s) < 1e-7
        and abs(p.first_s - best.first_token_s) < 1e-5
        and tuple((c.peer, layers) for c, layers in p.parts)
        == tuple((hop.peer, hop.layers) for hop in best.hops)
        for p in pool
    )


@given(st.data())
def test_no_path_that_meets_the_constraints_is_better_and_none_is_missed(
    data: st.DataObject,
) -> None:
    case = data.draw(cases())
    asked = data.draw(constrained(case))
    route: Route = data.draw(st.sampled_from(["auto", "alone", "peer", "split"]))
    choice = case.choose(asked, route)
    check_best(choice, [p for p in case.every() if meets(p, asked)], route)


@given(st.data())
def test_a_search_that_takes_too_long_at_first_is_as_good_in_the_end(data: st.DataObject) -> None:
    case = data.draw(cases())
    asked = data.draw(constrained(case))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search_module.limits, "PATH_POPS_MAX", 2)  # everything goes into the bounds
        choice = case.choose(asked)
    check_best(choice, [p for p in case.every() if meets(p, asked)], "auto")


@given(st.data(), st.randoms())
def test_the_order_changes_nothing(data: st.DataObject, shuffle: random.Random) -> None:
    case = data.draw(cases())
    asked = data.draw(constrained(case))
    other = list(case.candidates)
    shuffle.shuffle(other)
    assert case.choose(asked) == replace(case, candidates=tuple(other)).choose(asked)


# What would have to give.


def relaxed(asked: Constraints, changes: Sequence[Change]) -> tuple[Constraints, frozenset[str]]:
    names = {
        "min_tier": "floor",
        "early_tier": "early_floor",
        "owner_hops": "owner_hops_max",
        "token_s": "token_s_max",
        "first_token_s": "first_token_s_max",
    }
    without = {change.detail for change in changes if change.rule == "demand"}
    for change in changes:
        if change.rule != "demand":
            name = names[change.rule]
            assert change.asked == getattr(asked, name)
            whole = change.needed is not None and change.rule not in ("token_s", "first_token_s")
            value = int(change.needed or 0) if whole else change.needed
            asked = replace(asked, **{name: value})
    return asked, frozenset(without)


def smaller(change: Change) -> Change:
    step = {"min_tier": 1.0, "early_tier": 1.0, "owner_hops": -1.0}.get(change.rule, -1e-6)
    assert change.needed is not None
    return replace(change, needed=change.needed + step)


@given(st.data())
def test_relaxations_do_and_nothing_less_does(data: st.DataObject) -> None:
    case = data.draw(cases())
    # A busy peer might be faster; but it is not what would do.
    case = replace(case, candidates=tuple(replace(c, sessions_free=1) for c in case.candidates))
    asked = data.draw(constrained(case))
    choice = case.choose(asked)
    known = case.every()
    if choice.best is not None:
        assert choice.unmet == ()
        return
    words = frozenset(word for c in case.candidates for word in c.breaks)
    assert bool(choice.unmet) == any(meets(p, Constraints(), words) for p in known)
    assert not (choice.gaps and any(found.path.hops for found in choice.unmet))

    def is_met(changes: Sequence[Change]) -> bool:
        constraints, without = relaxed(asked, changes)
        return any(meets(p, constraints, without) for p in known)

    for found in choice.unmet:
        constraints, without = relaxed(asked, found.changes)
        assert is_met(found.changes)
        check_chain(found.path.ranges, case.blocks)
        assert any(
            meets(p, constraints, without)
            and tuple((c.peer, part) for c, part in p.parts)
            == tuple((hop.peer, hop.layers) for hop in found.path.hops)
            for p in known
        )
        for index, change in enumerate(found.changes):
            rest = [*found.changes[:index], *found.changes[index + 1 :]]
            assert not is_met(rest)
            if change.needed is not None:
                assert not is_met([*rest, smaller(change)])
        assert all(change.text in found.text for change in found.changes)
    if any(len(found.changes) > 1 for found in choice.unmet):
        assert len(choice.unmet) == 1
        for word in words:
            assert not is_met([Change("demand", 0, None, word)])
        for free in ({"floor": 0}, {"early_floor": 0}, {"owner_hops_max": None}):
            freed = replace(asked, **free)  # type: ignore[arg-type]
            assert not any(meets(p, freed) for p in known)


CHAIN = (
    peer("a", 1, 4, tier=2, trust=0.5, owner="x"),
    peer("b", 4, 7, tier=1, trust=0.2, owner="x"),
    peer("slow", 4, 7, 0.5, tier=2, trust=0.9, owner="y"),
)
HOME = HomePart(block_s=0.001, head_s=0.002, blocks_max=2, alone_s=None)


def choose(candidates: Sequence[Candidate] = CHAIN, **asked: object) -> Choice:
    return choose_path(
        8,
        candidates,
        HOME,
        privacy="private",
        constraints=Constraints(**asked),  # type: ignore[arg-type]
    )


def names(path: Path | None) -> list[str]:
    return [] if path is None else [hop.peer for hop in path.hops]


def test_trust_is_a_floor() -> None:
    assert names(choose().best) == ["a", "b"]
    assert names(choose(floor=2).best) == ["a", "slow"]
    (unmet,) = choose(floor=3).unmet
    assert unmet.changes == (Change("min_tier", 3, 2),)
    assert unmet.text == "minimum tier Trusted -> Verified (name-a [1,4), name-slow [4,7))"


def test_early_layers_have_a_floor_of_their_own() -> None:
    assert names(choose(early_floor=2, early_stop=4).best) == ["a", "b"]
    assert names(choose(early_floor=2, early_stop=5).best) == ["a", "slow"]
    (unmet,) = choose(CHAIN[:2], early_floor=3, early_stop=2).unmet
    assert unmet.what == "tier for early layers Trusted -> Verified"
    # Of a divisible range only the later layers.
    wide = peer("wide", 1, 7, 0.0006, tier=0, divisible=True)
    path = choose([CHAIN[0], wide], early_floor=2, early_stop=3).best
    assert path is not None
    assert [(h.peer, str(h.layers)) for h in path.hops] == [("a", "[1,4)"), ("wide", "[4,7)")]


def test_an_owner_has_so_many_hops() -> None:
    assert names(choose(owner_hops_max=2).best) == ["a", "b"]
    assert names(choose(owner_hops_max=1).best) == ["a", "slow"]
    (unmet,) = choose(CHAIN[:2], owner_hops_max=1).unmet
    assert unmet.changes == (Change("owner_hops", 1, 2),)
    nobody_known = [replace(c, owner="") for c in CHAIN]
    assert names(choose(nobody_known, owner_hops_max=1).best) == ["a", "b"]


def test_times_are_kept_to_or_named() -> None:
    path = choose().best
    assert path is not None
    assert choose(token_s_max=path.token_s).best == path
    (unmet,) = choose(token_s_max=0.008).unmet
    assert unmet.changes == (Change("token_s", 0.008, path.token_s),)
    assert unmet.text.startswith("time of a token 8 -> 11.5 ms (name-a")
    both = choose(token_s_max=0.008, floor=2).unmet
    # More trust or more speed alone do not: 506 ms of a Verified path, 11.5 ms of any.
    assert [found.what for found in both] == ["time of a token 8 -> 508.5 ms"]
    together = choose(token_s_max=0.008, floor=3).unmet
    assert [len(found.changes) for found in together] == [2]


def test_who_breaks_a_demand_is_named() -> None:
    denied = [CHAIN[0], replace(CHAIN[1], breaks=("the deny list",))]
    (unmet,) = choose(denied).unmet
    assert unmet.text == "without the deny list (name-a [1,4), name-b [4,7))"
    assert choose(denied).best is None


def test_about_equally_fast_means_the_more_trusted() -> None:
    near = [peer("dim", 1, 7, 0.5, trust=0.2), peer("bright", 1, 7, 0.504, trust=0.8)]
    assert names(choose(near).best) == ["bright"]
    far = [near[0], replace(near[1], decode_s=0.51)]
    assert names(choose(far).best) == ["dim"]
    split = [near[0], peer("e", 1, 4, 0.25, trust=0.9), peer("f", 4, 7, 0.252, trust=0.9)]
    assert names(choose(split).best) == ["e", "f"]


def test_who_fails_often_costs_what_is_lost() -> None:
    flaky, steady = peer("flaky", 1, 7, 0.01, failure=0.2), peer("steady", 1, 7, 0.02)
    path = choose([flaky, steady]).best
    assert names(path) == ["steady"]
    path = choose([flaky]).best
    assert path is not None
    assert path.risk_s == pytest.approx(0.2 * limits.PATH_LOSS_S)
    assert path.token_s == pytest.approx(0.015)


def test_load_and_the_prompt_are_in_the_prediction() -> None:
    busy = choose_path(
        8,
        [peer("a", 1, 7, 0.01, load=1.0, prefill_tokens_s=100.0)],
        replace(HOME, prefill_block_s=0.0001),
        privacy="private",
        row_s=0.001,
        prompt_tokens=50,
    ).best
    assert busy is not None
    assert busy.token_s == pytest.approx(0.015 + 0.001 + 2 * 0.001 + 0.002 + 2 * 0.001)
    # 50 rows: 0.5 s at the peer, half as much again waiting, 0.1 s on the way, 2 blocks here.
    assert busy.first_token_s == pytest.approx(0.75 + 0.001 + 0.1 + 2 * 0.005 + 0.002)


def test_a_divisible_range_gives_what_is_missing() -> None:
    parts = [peer("a", 1, 5), peer("b", 3, 7, divisible=True)]
    path = choose(parts).best
    assert path is not None
    assert [str(hop.layers) for hop in path.hops] == ["[1,5)", "[5,7)"]
    assert path.token_s == pytest.approx(0.004 + 0.003 + 0.0015 + 0.0015)
    assert choose([parts[0], replace(parts[1], divisible=False)]).gaps == (LayerRange(1, 3),)
    assert choose([replace(parts[1], layers=LayerRange(3, 6))]).gaps


def test_a_candidate_is_cut_to_what_a_path_may_use() -> None:
    whole = peer("a", 1, 7, 0.6, prefill_tokens_s=100.0)
    assert cut_candidate(whole, LayerRange(1, 7)) == whole
    assert cut_candidate(whole, LayerRange(0, 8)) == whole
    assert cut_candidate(whole, LayerRange(3, 5)) is None
    cut = cut_candidate(replace(whole, divisible=True), LayerRange(4, 8))
    assert cut is not None
    assert (cut.layers, cut.decode_s) == (LayerRange(4, 7), pytest.approx(0.3))
    assert cut.prefill_tokens_s == pytest.approx(200.0)
    assert cut_candidate(whole, LayerRange(7, 8)) is None


def test_a_path_says_its_least_trust() -> None:
    path = choose().best
    assert path is not None
    assert (path.tier, path.trust) == (1, 0.2)
    assert path.hops[0] == Hop("a", "name-a", LayerRange(1, 4), 2, 0.5, "x")
    assert (Path(None, (), None, 0.0).tier, Path(None, (), None, 0.0).trust) == (None, 1.0)


@pytest.mark.parametrize("odd", [math.nan, math.inf, -1.0, 1e300])
def test_absurd_numbers_do_no_harm(odd: float) -> None:
    strange = peer(
        "odd", 1, 7, odd, rtt_s=odd, trust=odd, failure=odd, load=odd, prefill_tokens_s=odd
    )
    path = choose([strange, peer("even", 1, 7, 0.001)]).best
    assert names(path) == ["even"]


# Swarms that are made to take long.


def test_one_owner_of_all_that_is_fast() -> None:
    case = plan_case(3, peers=300, owners=3)
    ours = [replace(c, owner="big") if c.decode_s < 0.02 else c for c in case.candidates]
    free = choose_path(case.block_count, ours, case.home, privacy="private").best
    asked = Constraints(owner_hops_max=1)
    held = choose_path(case.block_count, ours, case.home, privacy="private", constraints=asked).best
    assert free is not None
    assert held is not None
    owners = Counter(hop.owner for hop in held.hops)
    assert max(owners.values()) == 1
    assert held.token_s + held.risk_s >= free.token_s + free.risk_s


def test_peers_that_offer_everything_twice() -> None:
    candidates = [
        peer(f"p{n}", start, start + 4, 0.001 + n / 1e5, divisible=True, owner=f"o{n % 5}")
        for n in range(40)
        for start in (1, 5, 9, 13, 17)
    ]
    asked = Constraints(owner_hops_max=1)
    home = HomePart(0.001, 0.001, 2, None)
    path = choose_path(22, candidates, home, privacy="private", constraints=asked).best
    assert path is not None
    assert len({hop.owner for hop in path.hops}) == len(path.hops) == 5


@pytest.mark.parametrize("seed", range(3))
def test_a_thousand_peers_are_planned_for(seed: int) -> None:
    case = plan_case(seed, pairs=2000)
    chosen = choose_path(
        case.block_count, case.candidates, case.home, privacy="private", rtt_between=case.pairs
    )
    assert chosen.best is not None
    check_chain(chosen.best.ranges, case.block_count)
    assert plan_case(seed, pairs=2000) == case
