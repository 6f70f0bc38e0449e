"""Credentials in a score: whose count, how much, once; what is expired, minted or one's own counts
zero. Endorsements out of credentials.
"""

from __future__ import annotations

import math
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trust_scene import DAY, FULL, LISTED, NOW, OTHER, OWN, PEER, POLICY, ROOT, YEAR, attest, score

from credentials.did import did_key, did_peer_alias
from credentials.errors import IdentifierInvalid, KeyInvalid
from credentials.keys import SecretKey, peer_id
from credentials.limits import CLOCK_SKEW_S
from kwaai.trust.credential_score import CredentialScore, score_credentials
from kwaai.trust.endorse import endorsements_of
from kwaai.trust.evidence import Attestation, canonical, principal_of_peer
from kwaai.trust.policy import WEIGHTS, TrustPolicy

KEY = SecretKey(bytes(32)).public


def count(*attestations: Attestation, derived: dict[str, float] | None = None) -> CredentialScore:
    return score_credentials(attestations, POLICY, {}, derived or {}, NOW)


def codes(found: CredentialScore) -> list[str]:
    return [finding.code for finding in found.findings]


@pytest.mark.parametrize(
    ("kind", "points"),
    [
        ("FiduciaryPledgeVC", 0.30),
        ("VerifiedNodeVC", 0.20),
        ("UptimeVC", 0.20),
        ("ThroughputVC", 0.15),
        ("EventAttendeeVC", 0.10),
        ("PeerEndorsementVC", 0.05),
    ],
)
def test_a_fresh_credential_of_a_root_counts_its_weight(kind: str, points: float) -> None:
    assert count(attest(kind)).points == points
    assert count(attest(kind, LISTED)).points == points * 0.5
    assert count(attest(kind, OWN)).points == points


def test_all_six_make_one_and_a_seventh_no_more() -> None:
    six = [attest(kind) for kind in FULL]
    assert count(*six).points == pytest.approx(1.0)
    more = count(*six, *(attest(kind, LISTED) for kind in FULL))
    assert more.points == 1.0
    assert more.cut == pytest.approx(-0.5)


@given(st.sampled_from(FULL), st.integers(0, 10**8))
def test_a_half_life_more_is_exactly_half(kind: str, age_s: int) -> None:
    one = count(attest(kind, age_s=float(age_s))).points
    assert count(attest(kind, age_s=age_s + YEAR)).points == one / 2
    assert count(attest(kind, age_s=YEAR)).points == WEIGHTS[kind] / 2


@pytest.mark.parametrize(
    ("attestation", "code"),
    [
        (attest("BindingVC"), "type_not_weighted"),
        (attest("InferenceReceiptVC"), "type_not_weighted"),
        (attest("NobodysVC"), "type_not_weighted"),
        (attest(issuer=PEER), "self_issued"),
        (attest(issuer=OTHER), "issuer_unknown"),
        (attest(age_s=-CLOCK_SKEW_S - 1), "not_yet_valid"),
        (attest(age_s=YEAR, until_s=NOW - CLOCK_SKEW_S), "expired"),
        (attest(age_s=YEAR, until_s=0.0), "expired"),
    ],
)
def test_what_counts_zero_says_why(attestation: Attestation, code: str) -> None:
    found = count(attestation)
    assert codes(found) == [code]
    assert found.points == 0.0
    both = count(attestation, attest("UptimeVC"))
    assert both.points == count(attest("UptimeVC")).points


def test_clocks_may_differ_as_much_as_verification_allows() -> None:
    assert count(attest(age_s=-CLOCK_SKEW_S)).points == 0.20
    assert codes(count(attest(age_s=YEAR, until_s=NOW - CLOCK_SKEW_S + 1))) == ["counts"]


@pytest.mark.parametrize(
    "owners",
    [{PEER: "did:key:zOwner", ROOT: "did:key:zOwner"}, {PEER: ROOT}, {ROOT: PEER}],
)
def test_an_issuer_of_the_same_owner_is_the_subject_itself(owners: dict[str, str]) -> None:
    found = score_credentials([attest()], POLICY, owners, {}, NOW)
    assert codes(found) == ["self_issued"]


def test_once_per_type_and_issuer_and_the_newest() -> None:
    attestations = [attest(age_s=days * DAY) for days in (400.0, 0.0, 30.0)]
    for order in permutations(attestations):
        found = count(*order)
        assert found.points == 0.20
        assert sorted(codes(found)) == ["counts", "superseded", "superseded"]


def test_copies_of_one_credential_count_once() -> None:
    assert count(*[attest(id="urn:one")] * 50).points == 0.20


def test_issuers_of_one_owner_are_one_issuer() -> None:
    policy = TrustPolicy(issuers={"did:key:zA": 1.0, "did:key:zB": 0.5, "did:key:zC": 1.0})
    owners = {"did:key:zA": "did:key:zO", "did:key:zB": "did:key:zO"}
    attestations = [attest(issuer=each) for each in policy.issuers]
    found = score_credentials(attestations, policy, owners, {}, NOW)
    assert found.points == pytest.approx(0.40)
    assert codes(found) == ["counts", "superseded", "counts"]


@given(
    st.permutations(
        [attest(kind, who, age_s=n * 1e6) for n, kind in enumerate(FULL) for who in (ROOT, LISTED)]
    )
)
def test_the_order_does_not_matter_to_the_bit(attestations: list[Attestation]) -> None:
    assert count(*attestations) == count(*sorted(attestations, key=lambda each: each.id))


def test_the_points_of_the_findings_and_the_cuts_add_up_exactly() -> None:
    attestations = [attest(kind, who, age_s=1e6) for kind in FULL for who in (ROOT, LISTED, OTHER)]
    found = count(*attestations, derived={OTHER: 0.5})
    parts = [*(finding.points for finding in found.findings), found.derived_cut, found.cut]
    assert math.fsum(parts) == found.points
    assert found.derived_cut < 0.0


# Issuers that nobody listed.

BOUGHT = {kind: attest(kind, subject=OTHER) for kind in FULL}


def test_an_issuer_that_is_verified_counts_half_of_its_score_and_little() -> None:
    issuer_has = [attest(kind, subject=OTHER) for kind in FULL[:3]]
    state = score([*issuer_has, attest("EventAttendeeVC", OTHER), attest("UptimeVC", OTHER)])
    assert state.derived_trust == {OTHER: pytest.approx(0.35)}
    parts = state.parts(PEER)
    assert parts.credentials.derived_cut < 0.0
    assert state.standing(PEER).score == pytest.approx(POLICY.derived_issuer_cap)


def test_an_issuer_below_verified_counts_nothing() -> None:
    state = score([attest("FiduciaryPledgeVC", subject=OTHER), attest(issuer=OTHER)])
    assert state.derived_trust == {}
    assert state.standing(PEER).score == 0.0


@given(st.integers(1, 12))
def test_minting_never_makes_anybody_known(minters: int) -> None:
    """Trusted peers that issue everything to one peer and to each other: less than Known."""
    names = [f"did:key:zM{n}" for n in range(minters)]
    honest = [attest(kind, subject=name) for name in names for kind in FULL]
    minted = [attest(kind, name, PEER) for name in names for kind in FULL]
    circle = [attest(kind, one, other) for one in names for other in names for kind in FULL]
    state = score([*honest, *minted, *circle])
    assert state.standing(names[0]).score == pytest.approx(1.0)
    assert state.standing(PEER).score <= POLICY.derived_issuer_cap + 1e-12
    assert state.standing(PEER).tier.label == "Unknown"


def test_a_chain_of_issuers_lifts_nobody() -> None:
    """Whom a derived issuer makes look good is not an issuer by that."""
    first = [attest(kind, subject="did:key:zA") for kind in FULL]
    chain = [attest(kind, "did:key:zA", "did:key:zB") for kind in FULL]
    last = [attest(kind, "did:key:zB", PEER) for kind in FULL]
    state = score([*first, *chain, *last])
    assert set(state.derived_trust) == {"did:key:zA"}
    assert state.standing(PEER).score == 0.0


def test_a_ring_that_issues_to_itself_has_nothing() -> None:
    ring = [f"did:key:zR{n}" for n in range(20)]
    state = score([attest(kind, a, b) for a in ring for b in ring for kind in FULL[:2]])
    assert all(state.standing(name).score == 0.0 for name in ring)


# Names.


def test_every_name_of_a_key_is_one_principal() -> None:
    peer = peer_id(KEY)
    expected = did_key(KEY)
    names = [expected, did_peer_alias(KEY), "did:peer:0" + expected.removeprefix("did:key:")]
    assert {canonical(name) for name in names} == {principal_of_peer(peer)} == {expected}


@pytest.mark.parametrize(
    "other", ["did:web:example.org", "did:peer:2.Vz6Mk", "no did", "", "did:key:z"]
)
def test_what_is_not_one_key_stands_for_itself(other: str) -> None:
    assert canonical(other) == other


@given(st.text(max_size=200))
def test_no_text_breaks_a_name(text: str) -> None:
    canonical(text)
    canonical(f"did:key:{text}")
    canonical(f"did:peer:12D3KooW{text}")


@pytest.mark.parametrize("text", ["", "12D3KooW", "did:key:z6Mk", "Qm" * 20])
def test_what_is_no_peer_id_is_refused(text: str) -> None:
    with pytest.raises((IdentifierInvalid, KeyInvalid)):
        principal_of_peer(text)


# Endorsements.


def vouch(**claims: object) -> Attestation:
    return attest("PeerEndorsementVC", OTHER, claims=claims)


def receipt(number: int, outcome: str = "completed", role: str = "requester") -> Attestation:
    claims = {"receiptRole": role, "inferenceOutcome": outcome}
    return attest(
        "InferenceReceiptVC", OTHER, id=f"urn:{number}", age_s=float(number), claims=claims
    )


@pytest.mark.parametrize(
    ("claims", "weight"),
    [
        ({"interactionCount": 10}, 0.5),
        ({"interactionCount": 90}, 0.9),
        ({"interactionCount": 90, "successCount": 45}, 0.45),
        ({"interactionCount": 10, "successCount": 99}, 0.5),
        ({"interactionCount": 10**400}, 1.0),
        ({"interactionCount": 10, "successCount": 0}, None),
        ({"interactionCount": 0}, None),
        ({"interactionCount": -5}, None),
        ({"interactionCount": math.nan}, None),
        ({"interactionCount": True}, None),
        ({"interactionCount": "many"}, None),
        ({}, None),
    ],
)
def test_an_endorsement_weighs_what_went_well(
    claims: dict[str, object], weight: float | None
) -> None:
    found = endorsements_of([vouch(**claims)])
    assert [each.weight for each in found] == ([] if weight is None else [pytest.approx(weight)])
    for each in found:
        assert (each.by, each.of, each.source) == (OTHER, PEER, "PeerEndorsementVC")


def test_receipts_of_a_pair_are_one_endorsement() -> None:
    receipts = [receipt(n) for n in range(9)] + [receipt(9, "failed")]
    found = endorsements_of(receipts)
    assert [each.weight for each in found] == [pytest.approx(0.9 * 0.5)]
    assert found[0].at_s == NOW
    assert endorsements_of(reversed(receipts)) == found
    assert endorsements_of([*receipts, *receipts]) == found


def test_that_a_peer_asked_for_something_says_nothing_for_it() -> None:
    assert endorsements_of([receipt(n, role="hop") for n in range(9)]) == ()
    assert endorsements_of([receipt(n, "failed") for n in range(9)]) == ()
    assert endorsements_of([attest("UptimeVC")]) == ()
