"""Trust routing in a small simulated swarm, from seeds: what it keeps away, and what it costs. The
scene of the documentation is 200 nodes and 30 days (tools/simulate_trust.py).
"""

from __future__ import annotations

import importlib.util
import xml.etree.ElementTree as ET
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from kwaai.testing.sim_credentials import Papers
from kwaai.testing.sim_people import Role, Scene, make_cast
from kwaai.testing.trust_sim import Outcomes, Routing, Told, simulate

ROOT = Path(__file__).parents[2]
SEEDS = (1, 2)
SMALL = Scene(
    days=4.0,
    honest=40,
    liars=6,
    free_riders=4,
    sybils=12,
    slanderers=4,
    requesters=4,
    requests_per_day=24.0,
    attack_edges=4,
    turncoat_days=(1.0, 2.0),
)


def outcomes(seed: int, uses_trust: bool = True) -> Outcomes:
    return _outcomes(seed, uses_trust)


@cache
def _outcomes(seed: int, uses_trust: bool) -> Outcomes:
    return simulate(replace(SMALL, seed=seed), Routing(uses_trust=uses_trust))


@pytest.mark.parametrize("seed", SEEDS)
def test_trust_routing_keeps_liars_away(seed: int) -> None:
    trusting, plain = (outcomes(seed, uses).figures(from_day=1.0) for uses in (True, False))
    assert trusting.requests == plain.requests > 200
    assert plain.touched > 0.5
    assert trusting.touched < plain.touched / 5
    assert trusting.right > plain.right
    assert trusting.right > 0.9
    assert trusting.no_path < 0.05


@pytest.mark.parametrize("seed", SEEDS)
def test_no_honest_node_is_found_wrong(seed: int) -> None:
    assert outcomes(seed).verdicts()[Role.HONEST.value]["wrong"] == 0


@pytest.mark.parametrize("seed", SEEDS)
def test_sybils_and_their_papers_buy_little(seed: int) -> None:
    found = outcomes(seed)
    share, best = found.sybils()
    assert share < 0.05
    assert best < found.requesters[0].policy.thresholds[1]  # never Verified
    assert found.figures().hops[Role.SYBIL.value] < 0.02
    assert found.papers_refused >= 12  # the society's signature, forged by each of them


def test_the_same_seed_gives_the_same_outcomes() -> None:
    seed = SEEDS[0]
    again = simulate(outcomes(seed).scene, Routing())
    assert [_plain(told) for told in again.told] == [_plain(told) for told in outcomes(seed).told]
    peers = again.requesters[0].people
    scores = [
        [found.requesters[0].state().standing(peer).score for peer in peers]
        for found in (again, outcomes(seed))
    ]
    assert scores[0] == scores[1]


def _plain(told: Told) -> tuple[object, ...]:
    hops = tuple(person.peer for person in told.hops)
    return told.at_s, told.is_right, told.is_wrong, told.is_touched, told.tries, hops


def test_credentials_that_peers_sign_about_themselves_hold_and_count_nothing() -> None:
    cast = make_cast(SMALL)
    papers = Papers(cast, 1_800_000_000.0)
    sybils = {person.peer for person in cast.of(Role.SYBIL)}
    held = [a for a in papers.attestations(1_800_000_000.0 + 86_400.0) if a.subject in sybils]
    assert held
    assert {a.issuer for a in held} <= sybils
    found = outcomes(SEEDS[0])
    state = found.requesters[0].state()
    for peer in (p.peer for p in make_cast(found.scene).of(Role.SYBIL)):
        assert state.parts(peer).credentials.points == 0.0


def test_the_picture_is_a_picture() -> None:
    spec = importlib.util.spec_from_file_location("simulate", ROOT / "tools/simulate_trust.py")
    assert spec is not None
    assert spec.loader is not None
    tool: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    day = {"touched": 0.5, "right": 0.25}
    cases = [
        {"variant": name, "seed": seed, "by_day": [day, day]}
        for name in tool.COLOURS
        for seed in (1, 2)
    ]
    picture = ET.fromstring(tool.draw(cases, 2))
    assert len(picture.findall("{http://www.w3.org/2000/svg}polyline")) == 4
