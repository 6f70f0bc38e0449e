"""Policies: what a verifier demands of a credential that holds."""

from __future__ import annotations

from typing import Any

import pytest
from credential_scene import DAY_S, HOLDER, ISSUER, NOW_S, STRANGER, environment, signed

from credentials.errors import PolicyRefused
from credentials.policy import NODE_POLICY, Policy
from credentials.verified import VerifiedCredential
from credentials.verify import verify_credential

ADMIN = "https://example.org/Admin"
TYPES = ["VerifiableCredential", ADMIN]


def verified(**changes: Any) -> VerifiedCredential:
    return verify_credential(signed(**{"type": TYPES, **changes}), environment())


@pytest.mark.parametrize(
    "policy",
    [
        NODE_POLICY,
        Policy(types=frozenset({ADMIN})),
        Policy(types=frozenset({ADMIN, "Other"})),
        Policy(issuers={ADMIN: frozenset({ISSUER.did, STRANGER.did})}),
        Policy(issuers={"Other": frozenset()}),
        Policy(subjects=frozenset({HOLDER.did, STRANGER.did})),
        Policy(age_s_max=DAY_S),
        Policy(lifetime_s_max=2 * DAY_S),
        Policy(schema_known=True),
    ],
    ids=str,
)
def test_met(policy: Policy) -> None:
    policy.require(verified())


@pytest.mark.parametrize(
    ("policy", "why"),
    [
        (Policy(types=frozenset({"Other"})), "type"),
        (Policy(types=frozenset({"admin"})), "type"),
        (Policy(issuers={ADMIN: frozenset({STRANGER.did})}), "may not issue"),
        (Policy(issuers={ADMIN: frozenset()}), "may not issue"),
        (
            Policy(
                issuers={
                    ADMIN: frozenset({ISSUER.did}),
                    "VerifiableCredential": frozenset({STRANGER.did}),
                }
            ),
            "may not issue VerifiableCredential",
        ),
        (Policy(subjects=frozenset({STRANGER.did})), "somebody else"),
        (Policy(age_s_max=DAY_S - 1), "older"),
        (Policy(lifetime_s_max=2 * DAY_S - 1), "valid for longer"),
    ],
    ids=str,
)
def test_not_met(policy: Policy, why: str) -> None:
    with pytest.raises(PolicyRefused, match=why):
        policy.require(verified())


def test_what_a_credential_does_not_say_is_not_taken_for_good() -> None:
    for policy in (Policy(age_s_max=DAY_S), Policy(lifetime_s_max=DAY_S)):
        with pytest.raises(PolicyRefused):
            policy.require(verified(validFrom=None, validUntil=None))
    with pytest.raises(PolicyRefused, match="somebody else"):
        Policy(subjects=frozenset({HOLDER.did})).require(verified(credentialSubject={"name": "A"}))
    schema = {"type": "JsonSchema", "id": "https://example.org/schema.json"}
    with pytest.raises(PolicyRefused, match="schema"):
        Policy(schema_known=True).require(verified(credentialSchema=schema))


def test_a_finding_that_is_not_demanded() -> None:
    context = ["https://www.w3.org/ns/credentials/v2", {"Any": "https://example.org/Any"}]
    found = verified(**{"@context": context})
    with pytest.raises(PolicyRefused, match="contexts"):
        NODE_POLICY.require(found)
    Policy(contexts_trusted=False).require(found)
    env = environment(now_s=NOW_S + 9 * DAY_S, checks=frozenset())
    late = verify_credential(signed(), env)
    with pytest.raises(PolicyRefused, match="in all"):
        Policy(contexts_trusted=False, status_known=False).require(late)
