"""Where objects lie, and who is taken as a host."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vpk_fake_hosts import ids_of

from kwaai.errors import TooFewHosts, UserError
from kwaai.vpk.spread import Candidate, Place, Spread, choose_members

IDS = ids_of(400)


@st.composite
def places(draw: st.DrawFn) -> list[Place]:
    count = draw(st.integers(1, 8))
    owners = draw(st.lists(st.sampled_from("abcdef"), min_size=count, max_size=count))
    anchors = draw(st.lists(st.booleans(), min_size=count, max_size=count))
    anchors[draw(st.integers(0, count - 1))] = True
    weights = draw(st.lists(st.sampled_from([0.5, 1.0, 3.0]), min_size=count, max_size=count))
    return [
        Place(f"host{i}", o, w, a)
        for i, (o, w, a) in enumerate(zip(owners, weights, anchors, strict=True))
    ]


@settings(max_examples=60, deadline=None)
@given(places(), st.integers(1, 8))
def test_holders_are_distinct_anchored_and_of_as_many_owners_as_can_be(
    some: list[Place], replicas: int
) -> None:
    rows = Spread(some).holders(IDS[:50], replicas)
    wanted = min(replicas, len(some))
    assert rows.shape == (50, wanted)
    owners = len({p.owner for p in some})
    for row in rows.tolist():
        assert len(set(row)) == wanted
        assert any(some[i].anchor for i in row)
        # One owner may be missed: where the only anchors belong to an owner already chosen.
        assert len({some[i].owner for i in row}) >= min(wanted, owners) - 1
        if all(p.anchor for p in some):
            assert len({some[i].owner for i in row}) == min(wanted, owners)


@settings(max_examples=60, deadline=None)
@given(places(), st.integers(1, 4), st.data())
def test_who_leaves_moves_only_what_was_there(
    some: list[Place], replicas: int, data: st.DataObject
) -> None:
    leaver = data.draw(st.integers(0, len(some) - 1))
    rest = [p for i, p in enumerate(some) if i != leaver]
    if not any(p.anchor for p in rest):
        return
    before = [[some[i].id for i in row] for row in Spread(some).holders(IDS, replicas).tolist()]
    after = [[rest[i].id for i in row] for row in Spread(rest).holders(IDS, replicas).tolist()]
    for old, new in zip(before, after, strict=True):
        if some[leaver].id not in old:
            assert old == new


def test_a_host_gets_what_it_weighs() -> None:
    some = [Place(f"host{i}", f"o{i}", weight, True) for i, weight in enumerate((1.0, 2.0, 5.0))]
    counts = np.bincount(Spread(some).holders(ids_of(20_000), 1)[:, 0], minlength=3) / 20_000
    assert counts == pytest.approx([1 / 8, 2 / 8, 5 / 8], abs=0.02)


def test_a_new_host_takes_its_share_and_no_more() -> None:
    some = [Place(f"host{i}", f"o{i}", 1.0, True) for i in range(5)]
    before = Spread(some[:4]).holders(IDS, 2).tolist()
    after = Spread(some).holders(IDS, 2).tolist()
    moved = sum(len(set(a) - set(b)) for a, b in zip(after, before, strict=True))
    assert moved == sum(4 in row for row in after)
    assert moved / (2 * len(IDS)) == pytest.approx(1 / 5, abs=0.06)


def test_strangers_never_hold_enough_to_withhold() -> None:
    some = [Place(f"anchor{i}", f"a{i}", 1.0, True) for i in range(4)]
    some += [Place(f"stranger{i}", f"s{i}", 50.0, False) for i in range(8)]
    rows = Spread(some).holders(IDS, 8, strangers_max=4)
    assert rows.shape == (len(IDS), 8)
    assert all(sum(some[i].anchor for i in row) >= 4 for row in rows.tolist())


def test_fewer_fragments_where_strangers_would_have_too_many() -> None:
    some = [Place("anchor", "a", 1.0, True)]
    some += [Place(f"stranger{i}", f"s{i}", 1.0, False) for i in range(7)]
    assert Spread(some).holders(IDS, 8, strangers_max=4).shape == (len(IDS), 5)


def test_the_rule_is_the_same_on_every_machine() -> None:
    some = [Place(f"host{i}", f"o{i}", 1.0 + i, True) for i in range(4)]
    rows = Spread(some).holders([bytes([n]) * 16 for n in range(6)], 2).tolist()
    assert rows == [[3, 1], [1, 0], [2, 3], [2, 3], [1, 3], [2, 3]]


@pytest.mark.parametrize(
    ("some", "error"),
    [
        ([], UserError),
        ([Place("a", "o", 1.0, True)] * 2, UserError),
        ([Place("a", "o", 0.0, True)], UserError),
        ([Place("a", "o", float("nan"), True)], UserError),
        ([Place("a", "o" * 300, 1.0, True)], UserError),
        ([Place("a", "o", 1.0, False)], TooFewHosts),
        ([Place(str(i), "o", 1.0, True) for i in range(65)], UserError),
    ],
)
def test_lists_that_cannot_be(some: list[Place], error: type[Exception]) -> None:
    with pytest.raises(error):
        Spread(some)


def test_an_id_has_16_bytes() -> None:
    some = [Place(str(i), str(i), 1.0, True) for i in range(2)]
    with pytest.raises(UserError):
        Spread(some).holders([b"short"], 2)


def candidate(name: str, owner: str = "", tier: int = 1, free: int = 1 << 30) -> Candidate:
    return Candidate(name, owner or name, tier, free)


def test_members_are_of_different_owners_first_and_reasons_are_given() -> None:
    some = [
        candidate("a1", "a", tier=3),
        candidate("a2", "a", tier=3),
        candidate("b", tier=1),
        candidate("c", tier=2),
        candidate("full", tier=3, free=10),
        Candidate("gone", "gone", 3, 1 << 30, unreachable=True),
        candidate("stranger", tier=0),
    ]
    choice = choose_members(some, wanted=3, replicas=2, floor=1, needed_bytes=1000)
    assert [c.id for c in choice.chosen] == ["a1", "c", "b"]
    reasons = {c.id: why for c, why in choice.refused}
    assert set(reasons) == {"a2", "full", "gone", "stranger"}
    assert "bytes free" in reasons["full"]
    assert "answer" in reasons["gone"]


def test_strangers_come_last_and_are_no_more_than_half() -> None:
    some = [candidate("known", tier=1), *(candidate(f"s{i}", tier=0) for i in range(4))]
    choice = choose_members(some, wanted=5, replicas=2, floor=1)
    assert [c.id for c in choice.chosen] == ["known", "s0"]
    assert "strangers" in choice.refused[0][1]


def test_own_devices_count_whatever_their_tier() -> None:
    own = Candidate("mine", "me", 0, 1 << 30, own=True)
    choice = choose_members([own, candidate("x", tier=2)], wanted=1, replicas=1, floor=2)
    assert [c.id for c in choice.chosen] == ["mine"]


def test_nobody_who_may_be_the_only_holder() -> None:
    with pytest.raises(TooFewHosts, match="tier"):
        choose_members([candidate("s", tier=0)], wanted=2, replicas=2, floor=1)
    with pytest.raises(TooFewHosts, match="discover"):
        choose_members([], wanted=2, replicas=2, floor=1)


def test_weights_are_bounded() -> None:
    some = [candidate("small", tier=1, free=1), candidate("huge", tier=3, free=1 << 50)]
    choice = choose_members(some, wanted=2, replicas=2, floor=1)
    assert max(choice.weights) / min(choice.weights) <= 40
