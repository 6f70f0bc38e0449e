"""Owners and nodes: a chain of one link, cut by its end or its revocation."""

from __future__ import annotations

from typing import Any

import pytest

from credentials.binding import Binding, build_binding, is_same_key, owner_of, read_binding
from credentials.bitstring import StatusList
from credentials.did import did_key, did_peer_alias, verification_method
from credentials.document import Document, encode_document
from credentials.errors import (
    BindingInvalid,
    CredentialExpired,
    CredentialRevoked,
    PolicyRefused,
    ProofInvalid,
    SchemaViolated,
)
from credentials.issue import issue_credential
from credentials.keys import SecretKey
from credentials.kinds import DAY_S, KINDS, build_credential
from credentials.proof import ProofOptions, add_proof
from credentials.status import build_list_credential, build_status_entry
from credentials.verify import Environment, verify_credential

NOW_S = 1_795_000_000
OWNER, ATTIC, CELLAR = (SecretKey(bytes(range(n, n + 32))) for n in range(3))
OWNER_DID, ATTIC_DID, CELLAR_DID = (did_key(key.public) for key in (OWNER, ATTIC, CELLAR))
LIST_URL = f"{OWNER_DID}/status/revocation-1"


def options(secret: SecretKey = OWNER) -> ProofOptions:
    method = verification_method(did_key(secret.public))
    return ProofOptions(suite="eddsa-jcs-2022", method=method, created_s=NOW_S)


def bind(node: str = ATTIC_DID, label: str = "attic", **changes: Any) -> bytes:
    document = build_binding(
        OWNER_DID, node, label, **{"valid_from_s": NOW_S, "owner_name": "Ada", **changes}
    )
    return encode_document(issue_credential(document, options(), OWNER))


def read(data: bytes | Document, now_s: float = NOW_S, **known: Any) -> Binding:
    return read_binding(verify_credential(data, Environment(now_s=now_s, **known)))


def test_a_binding_says_whose_node_it_is_and_for_how_long() -> None:
    binding = read(bind(credential_id="urn:uuid:1"))
    assert binding == Binding(
        OWNER_DID, ATTIC_DID, "attic", "Ada", "urn:uuid:1", NOW_S, NOW_S + 365 * DAY_S
    )
    nameless = read(bind(owner_name=None))
    assert nameless.owner_name is None


def test_a_binding_ends() -> None:
    short = bind(valid_until_s=NOW_S + DAY_S)
    binding = read(short)
    assert binding.holds(NOW_S)
    assert not binding.holds(NOW_S + 2 * DAY_S)
    assert not binding.holds(NOW_S - DAY_S)
    with pytest.raises(CredentialExpired):
        read(short, now_s=NOW_S + 2 * DAY_S)


def test_an_owner_unbinds_one_node_and_changes_nothing_else() -> None:
    entries = [build_status_entry(LIST_URL, "revocation", index) for index in (70, 71)]
    attic = bind(status=entries[:1])
    cellar = bind(CELLAR_DID, "cellar", status=entries[1:])
    bits = StatusList.new()

    def published(url: str) -> Document:
        listed = build_list_credential(
            OWNER_DID, LIST_URL, "revocation", bits, valid_from_s=NOW_S, valid_until_s=NOW_S + DAY_S
        )
        return issue_credential(listed, options(), OWNER)

    assert read(attic, status=published).node == ATTIC_DID
    bits.set(70)
    with pytest.raises(CredentialRevoked):
        read(attic, status=published)
    assert read(cellar, status=published).node == CELLAR_DID
    with pytest.raises(PolicyRefused, match="status"):
        read(cellar, status_required=False)


def test_who_signs_as_somebody_elses_owner_binds_nothing() -> None:
    document = build_binding(OWNER_DID, ATTIC_DID, "attic", valid_from_s=NOW_S)
    with pytest.raises(ProofInvalid):
        read(add_proof(document, options(CELLAR), CELLAR))


def test_an_owner_is_another_key_than_the_node() -> None:
    alias = did_peer_alias(OWNER.public)
    for node in (OWNER_DID, alias):
        with pytest.raises(BindingInvalid, match="another key"):
            build_binding(OWNER_DID, node, "me", valid_from_s=NOW_S)
    forced = build_credential(
        KINDS["BindingVC"], OWNER_DID, alias, {"nodeLabel": "me"}, valid_from_s=NOW_S
    )
    with pytest.raises(BindingInvalid, match="of itself"):
        read(issue_credential(forced, options(), OWNER))


@pytest.mark.parametrize("label", ["", "a" * 65, "two\nlines", "\u202egnp.cod"])
def test_labels_are_short_and_in_one_line(label: str) -> None:
    with pytest.raises(SchemaViolated, match="nodeLabel"):
        build_binding(OWNER_DID, ATTIC_DID, label, valid_from_s=NOW_S)


def test_another_credential_is_no_binding() -> None:
    member = build_credential(
        KINDS["MembershipVC"],
        OWNER_DID,
        ATTIC_DID,
        {"swarmId": "home", "memberRole": "member"},
        valid_from_s=NOW_S,
    )
    with pytest.raises(BindingInvalid, match="MembershipVC"):
        read(issue_credential(member, options(), OWNER))


def test_a_binding_whose_words_may_mean_something_else_is_not_counted() -> None:
    document = build_binding(OWNER_DID, ATTIC_DID, "attic", valid_from_s=NOW_S)
    document["@context"].append({"more": "urn:x:more"})
    with pytest.raises(PolicyRefused, match="contexts"):
        read(add_proof(document, options(), OWNER))


def test_a_check_that_was_waived_is_not_one_that_held() -> None:
    short = bind(valid_until_s=NOW_S + DAY_S)
    env = Environment(now_s=NOW_S + 9 * DAY_S, checks=frozenset())
    with pytest.raises(PolicyRefused):
        read_binding(verify_credential(short, env))


def test_the_owner_of_a_node_is_by_the_latest_binding_in_force() -> None:
    first = read(bind(label="first"))
    later = read(bind(label="later", valid_from_s=NOW_S + 60))
    over = read(bind(label="over", valid_until_s=NOW_S + 100))
    other = read(bind(CELLAR_DID, "cellar"))
    everything = [later, first, over, other]
    assert owner_of(ATTIC_DID, everything, now_s=NOW_S + 60) == later
    assert owner_of(did_peer_alias(ATTIC.public), everything, now_s=NOW_S) == later
    assert owner_of(ATTIC_DID, [over], now_s=NOW_S + 1000) is None
    assert owner_of(OWNER_DID, everything, now_s=NOW_S) is None
    assert owner_of(ATTIC_DID, [], now_s=NOW_S) is None


def test_dids_are_of_one_key_however_they_are_written() -> None:
    assert is_same_key(ATTIC_DID, did_peer_alias(ATTIC.public))
    assert not is_same_key(ATTIC_DID, CELLAR_DID)
    assert is_same_key("did:web:example.com", "did:web:example.com")
    assert not is_same_key("did:web:example.com", ATTIC_DID)
