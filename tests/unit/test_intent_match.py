"""Who meets a demand: every rule alone, what buys nothing, and words that say why."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from credentials.did import did_key
from credentials.keys import SecretKey, peer_id
from kwaai.intent.demand import CredentialDemand, Demand
from kwaai.intent.intent import ModelConstraint
from kwaai.intent.match import (
    HeldCredential,
    ModelFacts,
    PeerFacts,
    match,
    match_model,
    match_offer,
)
from kwaai.intent.offer import Offer
from kwaai.trust.tiers import Tier
from kwaai.types import LayerRange, ModelHandle

PEER, OWNER, ISSUER, STRANGER = (did_key(SecretKey(bytes([n]) * 32).public) for n in range(1, 5))
HANDLE = ModelHandle("sha256:" + "5a" * 32)
NODE = HeldCredential("VerifiedNodeVC", ISSUER)
FACTS = PeerFacts(PEER, Tier.VERIFIED, OWNER, (NODE,))


def rules(demand: Demand, facts: PeerFacts = FACTS) -> list[str]:
    return [mismatch.rule for mismatch in match(demand, facts)]


@pytest.mark.parametrize(
    ("demand", "broken"),
    [
        (Demand(), []),
        (Demand(min_tier=Tier.VERIFIED), []),
        (Demand(min_tier=Tier.TRUSTED), ["min_tier"]),
        (Demand(deny=frozenset({STRANGER})), []),
        (Demand(deny=frozenset({PEER})), ["deny"]),
        (Demand(deny=frozenset({OWNER})), ["deny"]),
        (Demand(allow=frozenset({PEER})), []),
        (Demand(allow=frozenset({OWNER})), []),
        (Demand(allow=frozenset({STRANGER})), ["allow"]),
        (Demand(allow=frozenset({PEER}), deny=frozenset({OWNER})), ["deny"]),
        (Demand(credentials=(CredentialDemand("VerifiedNodeVC"),)), []),
        (Demand(credentials=(CredentialDemand("VerifiedNodeVC", (ISSUER, STRANGER)),)), []),
        (Demand(credentials=(CredentialDemand("VerifiedNodeVC", (STRANGER,)),)), ["credential"]),
        (Demand(credentials=(CredentialDemand("UptimeVC"),)), ["credential"]),
        (
            Demand(
                credentials=(CredentialDemand("VerifiedNodeVC"), CredentialDemand("UptimeVC")),
                min_tier=Tier.TRUSTED,
            ),
            ["min_tier", "credential"],
        ),
        (Demand(region="mars", budget={"most": "0"}), []),  # hints, and what is not understood
    ],
)
def test_rules(demand: Demand, broken: list[str]) -> None:
    assert rules(demand) == broken


class TestWhatBuysNothing:
    @pytest.mark.parametrize("issuer", [PEER, OWNER])
    @pytest.mark.parametrize("asked", [(), (PEER, OWNER)])
    def test_vouching_for_oneself(self, issuer: str, asked: tuple[str, ...]) -> None:
        facts = replace(FACTS, credentials=(HeldCredential("UptimeVC", issuer),))
        demand = Demand(credentials=(CredentialDemand("UptimeVC", asked),))
        assert rules(demand, facts) == ["credential"]
        assert "itself or its owner" in match(demand, facts)[0].text

    def test_an_issuer_that_does_not_count(self) -> None:
        facts = replace(FACTS, credentials=(HeldCredential("UptimeVC", STRANGER, counts=False),))
        assert rules(Demand(credentials=(CredentialDemand("UptimeVC"),)), facts) == ["credential"]

    def test_unless_the_asker_names_it(self) -> None:
        facts = replace(FACTS, credentials=(HeldCredential("UptimeVC", STRANGER, counts=False),))
        assert rules(Demand(credentials=(CredentialDemand("UptimeVC", (STRANGER,)),)), facts) == []


@given(st.sampled_from(Tier), st.sampled_from(Tier))
def test_a_higher_tier_never_breaks_more(asked: Tier, tier: Tier) -> None:
    demand = Demand(min_tier=asked)
    assert bool(rules(demand, replace(FACTS, tier=tier))) == (tier < asked)


def test_a_region_is_a_hint() -> None:
    assert rules(Demand(region="eu")) == []


class TestModels:
    FACTS = ModelFacts(HANDLE, "qwen2", 494_000_000, "Q4_K_M")

    @pytest.mark.parametrize(
        ("wanted", "broken"),
        [
            (HANDLE, []),
            (ModelHandle("sha256:" + "00" * 32), ["model"]),
            (ModelConstraint(), []),
            (ModelConstraint("Qwen2", 1, 500_000_000, "q4_k_m"), []),
            (ModelConstraint("llama"), ["family"]),
            (ModelConstraint(params_min=500_000_000), ["params"]),
            (ModelConstraint(params_max=400_000_000), ["params"]),
            (ModelConstraint("llama", 1, 2, "F16"), ["family", "quantisation", "params"]),
        ],
    )
    def test_rules(self, wanted: ModelHandle | ModelConstraint, broken: list[str]) -> None:
        assert [m.rule for m in match_model(wanted, self.FACTS)] == broken

    def test_what_is_not_known_meets_nothing(self) -> None:
        unknown = ModelFacts(HANDLE)
        wanted = ModelConstraint("qwen2", params_max=10, quantisation="F16")
        assert [m.rule for m in match_model(wanted, unknown)] == [
            "family",
            "quantisation",
            "params",
        ]


class TestOffers:
    def test_an_offer_by_its_own_word(self) -> None:
        offer = Offer(
            "sha256:" + "00" * 32, peer_id(SecretKey(bytes(32)).public), HANDLE, LayerRange(0, 2),
            False, 1, 1, 0.0, 1.0, decode_us=90_000,
        )  # fmt: skip
        assert [m.rule for m in match_offer(Demand(token_ms_max=80.0), offer)] == ["token_ms_max"]
        assert match_offer(Demand(token_ms_max=90.0), offer) == ()
        assert match_offer(Demand(), offer) == ()
