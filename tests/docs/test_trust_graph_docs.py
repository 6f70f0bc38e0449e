"""docs/trust.md, "The graph", has the numbers of the code."""

from __future__ import annotations

from pathlib import Path

from kwaai.trust.propagate import BUDGET, DECADES, STEPS, STOP, reference_mass

_PAGE = (Path(__file__).parents[2] / "docs" / "trust.md").read_text("utf-8")
_GRAPH = _PAGE.partition("## The graph")[2].partition("\n## ")[0]


def test_the_constants() -> None:
    assert f"max({BUDGET:g}, sum of all weights" in _GRAPH
    assert f"after {STEPS} endorsements" in _GRAPH
    assert STOP == 0.5
    assert "it ends with probability 1/2" in _GRAPH
    assert f"/ reference) / {DECADES:g}, cut to [0, 1]" in _GRAPH
    assert "reference = 1/2 x 1/2 x 1/8 / number of roots" in _GRAPH
    assert reference_mass(3) == 0.5 * 0.5 / 8 / 3


def test_a_friend_of_a_friend_has_what_it_says() -> None:
    from kwaai.trust.graph import Edge, TrustGraph

    friends = [f"friend-{number}" for number in range(8)]
    edges = [Edge("root", friend, 1.0) for friend in friends]
    edges += [Edge(friend, "peer", 1.0) for friend in friends[:4]]
    assert 0.6 < TrustGraph(edges).propagate(["root"]).value("peer") < 0.85
