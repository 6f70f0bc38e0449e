"""Documents with several proofs: sets, where each stands alone, and chains, where one covers
earlier ones."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from proof_scene import KEY, NOW, OTHER, SUITES, THIRD, check, did, document, method, sign

from credentials.document import Document
from credentials.errors import (
    MethodNotAuthorized,
    ProofExpired,
    ProofInvalid,
    ProofMissing,
    ProofNotMade,
    ProofUnsupported,
)
from credentials.limits import PROOFS_MAX
from credentials.proof import Suite, verify_proof
from credentials.resolve import resolve_offline

each_suite = pytest.mark.parametrize("suite", SUITES)
pairs = pytest.mark.parametrize("suites", list(itertools.product(SUITES, SUITES)), ids="-".join)


def chain(*suites: Suite) -> Document:
    """Two proofs, a third over both, a fourth over the third."""
    suites = (*suites, *suites, *suites, *suites)
    signed = sign(suites[0], id="urn:1")
    signed = sign(suites[1], over=signed, secret=OTHER, id="urn:2")
    signed = sign(suites[2], over=signed, secret=THIRD, id="urn:3", previous=("urn:1", "urn:2"))
    return sign(suites[3], over=signed, previous="urn:3")


def only(signed: Document, *places: int) -> Document:
    return {**signed, "proof": [signed["proof"][place] for place in places]}


def with_proof(signed: Document, place: int, **fields: Any) -> Document:
    proofs = list(signed["proof"])
    proofs[place] = {
        name: value for name, value in {**proofs[place], **fields}.items() if value is not ...
    }
    return {**signed, "proof": proofs}


@pairs
def test_a_set_verifies_whole_and_in_any_order(suites: tuple[Suite, Suite]) -> None:
    signed = sign(suites[1], over=sign(suites[0]), secret=OTHER)
    first, second = check(signed)
    assert (first.controller, second.controller) == (did(KEY), did(OTHER))
    assert (first.suite, second.suite) == suites
    assert check(only(signed, 1, 0)) == (second, first)
    # Each stands alone: that another was there cannot be seen.
    assert check(only(signed, 0)) == (first,)
    assert check({**signed, "proof": signed["proof"][1]}) == (second,)


@pairs
def test_one_bad_proof_of_a_set_is_too_many(suites: tuple[Suite, Suite]) -> None:
    signed = sign(suites[1], over=sign(suites[0]), secret=OTHER)
    for place in (0, 1):
        with pytest.raises(ProofInvalid, match="signature"):
            check(with_proof(signed, place, challenge="c"))
        with pytest.raises(ProofUnsupported):
            check(with_proof(signed, place, cryptosuite="ecdsa-rdfc-2019"))
        other = with_proof(signed, place, verificationMethod=f"{did()}#z6Mk")
        with pytest.raises(MethodNotAuthorized):
            check(other)
    with pytest.raises(ProofExpired):
        check(sign(over=signed, created_s=NOW + 10_000))


@each_suite
def test_proofs_for_several_purposes(suite: Suite) -> None:
    signed = sign(suite, over=sign(suite), secret=OTHER, purpose="authentication")
    for purpose, secret in (("assertionMethod", KEY), ("authentication", OTHER)):
        [checked] = check(signed, purpose)
        assert (checked.purpose, checked.controller) == (purpose, did(secret))
    with pytest.raises(ProofMissing):
        check(signed, "capabilityDelegation")
    # The other's proof has to hold as well.
    with pytest.raises(ProofInvalid, match="signature"):
        check(with_proof(signed, 1, nonce="n"), "assertionMethod")


@each_suite
def test_the_same_proof_twice_is_refused(suite: Suite) -> None:
    signed = sign(suite)
    again = dict(reversed(signed["proof"].items()))
    for second in (signed["proof"], again, {**signed["proof"], "id": "urn:1"}):
        with pytest.raises(ProofInvalid, match="same"):
            check({**signed, "proof": [signed["proof"], second]})
    with pytest.raises(ProofNotMade, match="same"):
        sign(suite, over=signed)  # signatures are deterministic: nothing new would be said


@each_suite
def test_two_proofs_with_one_id_are_refused(suite: Suite) -> None:
    signed = sign(suite, id="urn:1")
    with pytest.raises(ProofNotMade, match="id"):
        sign(suite, over=signed, secret=OTHER, id="urn:1")
    twin = sign(suite, secret=OTHER, id="urn:1")["proof"]
    with pytest.raises(ProofInvalid, match="id"):
        check({**signed, "proof": [signed["proof"], twin]})


def test_how_many_proofs() -> None:
    signed = document()
    for number in range(PROOFS_MAX):
        signed = sign(over=signed, nonce=str(number))
    assert len(check(signed)) == PROOFS_MAX
    with pytest.raises(ProofNotMade, match=str(PROOFS_MAX)):
        sign(over=signed, nonce="one more")
    more = sign(nonce="one more")["proof"]
    with pytest.raises(ProofInvalid, match=str(PROOFS_MAX + 1)):
        check({**signed, "proof": [*signed["proof"], more]})


@pairs
def test_a_chain_verifies(suites: tuple[Suite, Suite]) -> None:
    signed = chain(*suites)
    checked = check(signed)
    assert [proof.previous for proof in checked] == [(), (), ("urn:1", "urn:2"), ("urn:3",)]
    for proof, place in zip(signed["proof"], range(4), strict=True):
        one = verify_proof(signed, proof, resolve_offline, purpose="assertionMethod", now_s=NOW)
        assert one == checked[place]


@pairs
def test_a_chain_from_which_an_earlier_proof_is_missing(suites: tuple[Suite, Suite]) -> None:
    signed = chain(*suites)
    for places in ((1, 2, 3), (0, 2, 3), (2, 3), (0, 1, 3), (3,), (2,)):
        with pytest.raises(ProofInvalid, match="previousProof"):
            check(only(signed, *places))
    # From the end, it cannot be seen.
    assert len(check(only(signed, 0, 1, 2))) == 3


@pairs
def test_a_chain_out_of_order(suites: tuple[Suite, Suite]) -> None:
    signed = chain(*suites)
    for places in ((2, 0, 1, 3), (0, 1, 3, 2), (3, 2, 1, 0), (0, 2, 1, 3)):
        with pytest.raises(ProofInvalid, match="previousProof"):
            check(only(signed, *places))


def test_the_order_of_what_a_proof_is_made_over() -> None:
    """JCS covers the order, RDF knows none."""
    for suite in SUITES:
        swapped = only(chain(suite, suite), 1, 0, 2, 3)
        if suite == "eddsa-rdfc-2022":
            assert len(check(swapped)) == 4
        else:
            with pytest.raises(ProofInvalid, match="signature"):
                check(swapped)


@each_suite
def test_circles_are_refused(suite: Suite) -> None:
    signed = chain(suite)
    for place, previous in ((0, "urn:1"), (0, "urn:2"), (0, "urn:3"), (2, "urn:3")):
        with pytest.raises(ProofInvalid, match="previousProof"):
            check(with_proof(signed, place, previousProof=previous))


@each_suite
@pytest.mark.parametrize(
    "previous", [..., "urn:1", "urn:2", ["urn:1"], ["urn:1", "urn:2", "urn:4"], "urn:none", []]
)
def test_the_links_are_signed(suite: Suite, previous: Any) -> None:
    with pytest.raises(ProofInvalid):
        check(with_proof(chain(suite), 2, previousProof=previous))


@each_suite
def test_a_replaced_link_breaks_what_was_made_over_it(suite: Suite) -> None:
    """Another proof with the same id is valid by itself, and is not what was covered."""
    signed = chain(suite)
    other = sign(suite, secret=THIRD, id="urn:1")["proof"]
    with pytest.raises(ProofInvalid, match="signature"):
        check({**signed, "proof": [other, *signed["proof"][1:]]})


@each_suite
def test_verify_proof_checks_what_the_proof_is_made_over(suite: Suite) -> None:
    signed = chain(suite)
    broken = with_proof(signed, 0, nonce="n")
    last = broken["proof"][3]

    def verify(proof: Any) -> object:
        return verify_proof(broken, proof, resolve_offline, purpose="assertionMethod", now_s=NOW)

    verify(broken["proof"][1])
    for place in (0, 2, 3):
        with pytest.raises(ProofInvalid, match="signature"):
            verify(broken["proof"][place])
    with pytest.raises(ProofInvalid, match="not one of"):
        verify({**last, "nonce": "n"})


def test_a_proof_over_itself_cannot_be_made() -> None:
    with pytest.raises(ProofNotMade, match="previousProof"):
        sign(id="urn:1", previous="urn:1")
    with pytest.raises(ProofNotMade, match="previousProof"):
        sign(over=sign(), previous="urn:none", method=method(OTHER), secret=OTHER)
