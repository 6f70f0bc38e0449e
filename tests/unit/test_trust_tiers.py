"""Tiers: which score is which, who may do what; a denial says which rule, and what to do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwaai.errors import ConfigError, UserError
from kwaai.trust.policy import DAY_S, TrustPolicy
from kwaai.trust.tiers import ACTIONS, Floors, Tier, compute_weight, parse_tier


@pytest.mark.parametrize(
    ("score", "tier"),
    [
        (0.0, Tier.UNKNOWN),
        (0.0999, Tier.UNKNOWN),
        (0.10, Tier.KNOWN),
        (0.3999, Tier.KNOWN),
        (0.40, Tier.VERIFIED),
        (0.6999, Tier.VERIFIED),
        (0.70, Tier.TRUSTED),
        (1.0, Tier.TRUSTED),
    ],
)
def test_a_score_has_a_tier(score: float, tier: Tier) -> None:
    assert TrustPolicy().tier(score) is tier
    assert TrustPolicy().threshold(tier) <= score


@pytest.mark.parametrize("text", ["Verified", "verified", " VERIFIED "])
def test_a_tier_is_read_in_any_case(text: str) -> None:
    assert parse_tier(text) is Tier.VERIFIED
    assert parse_tier(text).label == "Verified"


@pytest.mark.parametrize("text", ["", "2", "best", "Verified!", "x" * 1000])
def test_what_is_no_tier_is_refused_with_the_tiers(text: str) -> None:
    with pytest.raises(UserError, match="Unknown, Known, Verified, Trusted") as caught:
        parse_tier(text)
    assert len(caught.value.message) < 200


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("floor", Tier)
@pytest.mark.parametrize("tier", Tier)
def test_a_floor_is_the_lowest_tier_that_may(action: str, floor: Tier, tier: Tier) -> None:
    floors = Floors(**{action: floor})
    denial = floors.check(action, "12D3KooWPeer", tier)  # type: ignore[arg-type]
    assert (denial is None) == (tier >= floor)
    if denial is not None:
        assert denial.rule == f"tier_{action}"
        assert (denial.tier, denial.floor) == (tier, floor)
        for word in (denial.rule, tier.label, floor.label, "12D3KooWPeer", "trust explain"):
            assert word in denial.message


def test_the_defaults_are_those_of_the_issue() -> None:
    floors = Floors()
    assert [floors.floor(action) for action in ACTIONS] == [
        Tier.UNKNOWN,
        Tier.KNOWN,
        Tier.VERIFIED,
        Tier.VERIFIED,
        Tier.UNKNOWN,
    ]


def test_wrong_answers_bar_from_everything_but_asking() -> None:
    for action in ACTIONS:
        denial = Floors().check(action, "peer", Tier.TRUSTED, 0.29)
        assert (denial is None) == (action == "compute")
        if denial is not None:
            assert denial.rule == "integrity_floor"
            assert "integrity_floor" in denial.message
            assert "reputation reset" in denial.message
        assert Floors().check(action, "peer", Tier.TRUSTED, 0.30) is None
        assert Floors(integrity=0.0).check(action, "peer", Tier.TRUSTED, 0.01) is None


def test_everybody_is_served_and_low_tiers_wait_longer() -> None:
    assert [compute_weight(tier) for tier in Tier] == [1, 2, 4, 8]


@pytest.mark.parametrize(
    ("changed", "key"),
    [
        ({"weights": {"UptimeVC": 1.5}}, "trust_weights"),
        ({"weights": {"UptimeVC": float("nan")}}, "trust_weights"),
        ({"weights": {f"T{n}": 0.1 for n in range(65)}}, "trust_weights"),
        ({"issuers": {"did:key:z1": -0.1}}, "trust_issuers"),
        ({"issuers": {f"did:key:z{n}": 0.1 for n in range(1025)}}, "trust_issuers"),
        ({"roots": frozenset(f"did:key:z{n}" for n in range(257))}, "trust_roots"),
        ({"thresholds": (0.4, 0.1, 0.7)}, "trust_thresholds"),
        ({"thresholds": (0.0, 0.4, 0.7)}, "trust_thresholds"),
        ({"thresholds": (0.1, 0.4, 1.1)}, "trust_thresholds"),
        ({"thresholds": (0.1, 0.4)}, "trust_thresholds"),
        ({"thresholds": (0.05, 0.4, 0.7)}, "trust_thresholds"),
        ({"thresholds": (float("nan"), 0.4, 0.7)}, "trust_thresholds"),
        ({"half_life_s": 0.0}, "trust_half_life_days"),
        ({"half_life_s": float("inf")}, "trust_half_life_days"),
        ({"behaviour_half_life_s": DAY_S / 2}, "behaviour_half_life_s"),
        ({"behaviour_prior": 0.0}, "behaviour_prior"),
        ({"behaviour_points": 1.1}, "behaviour_points"),
        ({"behaviour_points": 0.6, "graph_points": 0.6}, "behaviour_points"),
        ({"graph_points": float("nan")}, "graph_points"),
        ({"same_owner_score": -0.1}, "same_owner_score"),
        ({"derived_issuer_share": 2.0}, "derived_issuer_share"),
        ({"derived_issuer_cap": 0.10}, "trust_thresholds"),
    ],
)
def test_a_policy_that_cannot_be_is_refused_by_its_key(
    changed: dict[str, object], key: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        TrustPolicy(**changed)  # type: ignore[arg-type]
    assert caught.value.param == key
    assert caught.value.message.startswith(key)


@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_more_score_is_never_a_lower_tier(one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert TrustPolicy().tier(low) <= TrustPolicy().tier(high)
