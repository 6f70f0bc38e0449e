"""Receipts without I/O: digests of steps, signed halves, what contradicts what, what is refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from credentials.constructors import Frame, Receipt, build_inference_receipt
from credentials.did import did_key, verification_method
from credentials.document import Document, encode_document, parse_document
from credentials.errors import CredentialsError
from credentials.issue import issue_credential
from credentials.keys import SecretKey, peer_id
from credentials.proof import ProofOptions, add_proof
from credentials.proof_fields import EDDSA_JCS, EDDSA_RDFC
from kwaai.errors import PeerMisbehaved
from kwaai.intent.receipt import (
    Account,
    check_chain,
    contradictions,
    digest_of_intent,
    digest_of_sampling,
    nonce_of,
    receipt_of,
    sign_half,
    verify_half,
    verify_receipt_of,
)
from kwaai.limits import RECEIPT_BYTES_MAX, RECEIPT_LIFE_S, RECEIPT_MARKS_MAX
from kwaai.types import LayerRange, ModelHandle
from kwaai.wire.step import Step, StepKind, encode_step, parse_step
from kwaai.wire.tensors import Dtype
from kwaai.wire.transcript import Cover, StepChain, tensor_of

SESSION = bytes(range(16))
HANDLE = ModelHandle("sha256:" + "5a" * 32)
NOW_S = 1_795_000_000.0
ASKER, HOP, OTHER = (SecretKey(bytes([n]) * 32) for n in (1, 2, 3))
ME, PEER, THIRD = (peer_id(secret.public) for secret in (ASKER, HOP, OTHER))
ALL = Cover(2**63)


def a_step(number: int, position: int, count: int = 1, *, kind: StepKind = StepKind.DECODE) -> Step:
    rows = None
    if kind is not StepKind.ROLLBACK:
        rows = np.full((count, 4), number + position / 7, np.float32)
    outputs = {StepKind.DECODE: 1, StepKind.VERIFY: count}.get(kind, 0)
    return Step(
        SESSION,
        number,
        kind,
        HANDLE,
        LayerRange(1, 3),
        position,
        0 if rows is None else count,
        outputs,
        Dtype.F32,
        rows,
    )


def feed(chain: StepChain, step: Step) -> None:
    if step.kind is StepKind.ROLLBACK:
        chain.rollback(step.position)
    else:
        chain.add_step(step, encode_step(step)[1])


def chain_of(*steps: Step, session: bytes = SESSION) -> StepChain:
    chain = StepChain(session)
    for step in steps:
        feed(chain, step)
    return chain


# Digests.


def test_a_digest_is_what_the_protocol_says() -> None:
    step = a_step(7, 3, 2, kind=StepKind.PREFILL)
    start = hashlib.sha256(b"kwaai receipt steps 1\0" + SESSION).digest()
    leaf = bytes.fromhex("0000020000000000000000000700000003")
    tensor = step.rows.astype("<f4").tobytes()  # type: ignore[union-attr]
    tail = chain_of(step).tail()
    assert tail.last.digest == hashlib.sha256(start + leaf + tensor).digest()
    assert (tail.last.prompt_tokens, tail.last.answer_tokens) == (2, 0)
    assert StepChain(SESSION).tail().last.digest == start


@pytest.mark.parametrize("dtype", list(Dtype))
def test_both_ends_of_a_link_hash_the_same_bytes(dtype: Dtype) -> None:
    step = replace(a_step(0, 0, 5, kind=StepKind.PREFILL), dtype=dtype)
    sender, receiver = StepChain(SESSION), StepChain(SESSION)
    header, tensor = encode_step(step)
    sender.add_step(step, tensor)
    message = header + bytes(tensor)
    came = parse_step(message)
    receiver.add_step(came, tensor_of(message, came))
    assert sender.tail() == receiver.tail()


def test_the_same_steps_of_another_session_have_another_digest() -> None:
    step = a_step(0, 0)
    here, there = chain_of(step), chain_of(step, session=bytes(16))
    assert here.tail().last.digest != there.tail().last.digest


def test_one_bit_changes_every_digest_after_it() -> None:
    steps = [a_step(n, n) for n in range(4)]
    forged = replace(steps[1], rows=np.nextafter(steps[1].rows, np.float32(9)))  # type: ignore[arg-type]
    one, other = chain_of(*steps).tail(), chain_of(steps[0], forged, *steps[2:]).tail()
    assert [a.digest == b.digest for a, b in zip(one.marks, other.marks, strict=True)] == [
        True,
        False,
        False,
        False,
    ]


@given(st.data())
def test_what_was_rolled_back_leaves_no_trace(data: st.DataObject) -> None:
    """Whether a hop saw a step that was given up or not, and whatever it was: the same digests."""
    seen, unseen = StepChain(SESSION), StepChain(SESSION)
    number = position = 0
    for _ in range(data.draw(st.integers(1, 12))):
        count = data.draw(st.integers(1, 4))
        step = a_step(number, position, count, kind=StepKind.VERIFY)
        feed(seen, step)
        feed(unseen, step)
        number, position = number + 1, position + count
        if data.draw(st.booleans()):  # steps that are cancelled: only one of the two sees them
            start, wasted = position, data.draw(st.integers(1, 3))
            for extra in range(wasted):
                feed(seen, a_step(number + extra, start + extra))
            number += wasted
            back = a_step(number, start, kind=StepKind.ROLLBACK)
            feed(seen, back)
            feed(unseen, back)
            number += 1
    assert seen.tail() == unseen.tail()


def test_a_rollback_keeps_the_step_that_it_cuts_into() -> None:
    chain = chain_of(a_step(0, 0, 4, kind=StepKind.VERIFY), a_step(1, 4))
    before = chain_of(a_step(0, 0, 4, kind=StepKind.VERIFY)).tail()
    chain.rollback(2)
    assert chain.tail() == before
    chain.rollback(0)
    assert len(chain) == 0
    assert chain.tail() == StepChain(SESSION).tail()


def test_a_cover_ends_where_the_last_answer_did() -> None:
    tail = chain_of(*(a_step(n, n) for n in range(6))).tail()
    for steps in range(7):
        mark = tail.at(Cover(steps))
        assert mark is not None
        assert mark.answer_tokens == steps
    under_way = tail.at(Cover(6, 2))  # a rollback to 2 was, and has not come here
    assert under_way is not None
    assert under_way.answer_tokens == 2


def test_a_tail_is_bounded_and_says_so() -> None:
    tail = chain_of(*(a_step(n, n) for n in range(200))).tail()
    assert len(tail.marks) == RECEIPT_MARKS_MAX
    assert not tail.is_whole
    assert tail.at(Cover(200 - RECEIPT_MARKS_MAX)) is None
    assert tail.at(Cover(200)) == tail.last
    assert tail.last.answer_tokens == 200


# Halves.


def an_account(**changes: Any) -> Account:
    tail = chain_of(a_step(0, 0, 3, kind=StepKind.PREFILL), a_step(1, 3)).tail()
    fields: dict[str, Any] = {
        "session": SESSION,
        "requester": ME,
        "peer": PEER,
        "role": "requester",
        "handle": HANDLE,
        "layers": LayerRange(1, 3),
        "hop": 0,
        "hops": 1,
        "taken": tail,
        "given": tail,
        "started_s": NOW_S - 5.25,
        "finished_s": NOW_S - 1,
        "first_s": 0.5,
        "outcome": "completed",
        "intent_digest": digest_of_intent(b"an intent"),
        "parameters_digest": digest_of_sampling({"temperature": 0.5}),
    }
    return Account(**{**fields, **changes})


MINE = receipt_of(an_account(), ALL)
THEIRS = receipt_of(an_account(role="hop"), ALL)


def test_a_half_comes_back_as_it_was_signed() -> None:
    half = sign_half(MINE, PEER, ASKER, NOW_S)
    assert len(half.original) < RECEIPT_BYTES_MAX / 2
    read = verify_half(half.original, issuer=ME, subject=PEER, now_s=NOW_S + 60)
    assert read.original == half.original
    expected = replace(
        MINE, started_s=float(int(MINE.started_s)), finished_s=float(int(MINE.finished_s))
    )
    assert read.receipt == expected
    assert read.receipt.first_token_ms == 500.0
    assert (read.issuer, read.subject) == (ME, PEER)


def test_the_same_account_signs_the_same_bytes() -> None:
    halves = [sign_half(receipt_of(an_account(), ALL), PEER, ASKER, NOW_S) for _ in range(2)]
    assert halves[0] == halves[1]


def test_a_half_has_no_content_and_no_session_id() -> None:
    text = sign_half(MINE, PEER, ASKER, NOW_S).original.decode()
    assert SESSION.hex() not in text
    assert nonce_of(SESSION) in text
    assert json.loads(text)["credentialSubject"].keys() == {
        "id", "requestNonce", "receiptRole", "intentDigest", "modelHandle", "blockStart",
        "blockStop", "parametersDigest", "inputDigest", "outputDigest", "promptTokenCount",
        "answerTokenCount", "startedAt", "finishedAt", "firstTokenMilliseconds",
        "inferenceOutcome",
    }  # fmt: skip


def test_others_read_it_as_json_ld() -> None:
    """What is signed as JSON is a credential of the network for everybody."""
    document = parse_document(sign_half(MINE, PEER, ASKER, NOW_S).original)
    del document["proof"]
    issuer = did_key(ASKER.public)
    issue_credential(document, ProofOptions(EDDSA_RDFC, verification_method(issuer)), ASKER)


def unsigned(receipt: Receipt = THEIRS, **frame: Any) -> Document:
    fields = {
        "issuer": did_key(HOP.public),
        "subject": did_key(ASKER.public),
        "valid_from_s": NOW_S,
        "valid_until_s": NOW_S + RECEIPT_LIFE_S,
    }
    return build_inference_receipt(Frame(**{**fields, **frame}), receipt)


def signed(document: Document, secret: SecretKey = HOP, suite: Any = EDDSA_JCS) -> bytes:
    method = verification_method(did_key(secret.public))
    options = ProofOptions(suite, method, created_s=NOW_S)
    return encode_document(add_proof(document, options, secret))


def changed(original: bytes, change: Callable[[Document], Any]) -> bytes:
    document = parse_document(original)
    change(document)
    return encode_document(document)


GOOD = signed(unsigned())
BAD: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"\xff\xfe",
    "deep": b"[" * 3000,
    "a list": b"[]",
    "huge": b'{"a":"' + b"x" * RECEIPT_BYTES_MAX + b'"}',
    "no proof": encode_document(unsigned()),
    "another digest": changed(
        GOOD, lambda d: d["credentialSubject"].update(outputDigest="sha256:" + "00" * 32)
    ),
    "another signer": signed(unsigned(issuer=did_key(OTHER.public)), OTHER),
    "another's key": signed(unsigned(), OTHER),
    "about somebody else": signed(unsigned(subject=did_key(OTHER.public))),
    "two proofs": changed(GOOD, lambda d: d.update(proof=[d["proof"], d["proof"]])),
    "by RDF": signed(unsigned(), suite=EDDSA_RDFC),
    "another context": signed({**unsigned(), "@context": [*unsigned()["@context"], "https://x"]}),
    "with a status": signed(
        {**unsigned(), "credentialStatus": {"type": "BitstringStatusListEntry"}}
    ),
    "with an id": signed({**unsigned(), "id": "urn:x"}),
    "another type": signed({**unsigned(), "type": ["VerifiableCredential", "UptimeVC"]}),
    "an odd claim": signed(
        {**unsigned(), "credentialSubject": {**unsigned()["credentialSubject"], "x": 1}}
    ),
    "expired": signed(
        unsigned(
            replace(THEIRS, started_s=NOW_S - 9000, finished_s=NOW_S - 9000, first_token_ms=None),
            valid_from_s=NOW_S - 9000,
            valid_until_s=NOW_S - 1000,
        )
    ),
    "of tomorrow": signed(unsigned(valid_from_s=NOW_S + 86_400)),
    "for ever": signed(unsigned(valid_until_s=NOW_S + 3 * RECEIPT_LIFE_S)),
}


def test_a_good_one_is_good() -> None:
    verify_half(GOOD, issuer=PEER, subject=ME, now_s=NOW_S)


@pytest.mark.parametrize("name", BAD)
def test_a_bad_half_is_refused_by_name(name: str) -> None:
    with pytest.raises(PeerMisbehaved, match=PEER) as caught:
        verify_half(BAD[name], issuer=PEER, subject=ME, now_s=NOW_S)
    assert caught.value.peer == PEER


@given(st.binary(max_size=300) | st.binary(max_size=8).map(lambda tail: GOOD[:-9] + tail))
def test_no_bytes_do_anything_else(data: bytes) -> None:
    with pytest.raises(PeerMisbehaved):
        verify_half(data, issuer=PEER, subject=ME, now_s=NOW_S)


@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_no_byte_of_a_half_can_be_changed(at: int, flip: int) -> None:
    data = bytearray(GOOD)
    data[at] ^= flip
    with pytest.raises(PeerMisbehaved):
        verify_half(bytes(data), issuer=PEER, subject=ME, now_s=NOW_S)


def test_what_a_peer_shows_of_itself_was_signed_by_whoever_asked_it() -> None:
    mine = sign_half(MINE, PEER, ASKER, NOW_S).original
    assert verify_receipt_of(mine, PEER, NOW_S).issuer == did_key(ASKER.public)
    by_itself = signed(unsigned(MINE, subject=did_key(HOP.public)))
    for data, subject in ((GOOD, ME), (by_itself, PEER), (mine, THIRD)):
        with pytest.raises(CredentialsError):
            verify_receipt_of(data, subject, NOW_S)


# Two halves.


def compare(mine: Account, theirs: Receipt) -> tuple[str, ...]:
    return contradictions(mine, receipt_of(mine, ALL), theirs)


def test_two_sides_of_the_same_agree() -> None:
    assert compare(an_account(), THEIRS) == ()
    assert compare(an_account(role="hop"), MINE) == ()


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"nonce": nonce_of(bytes(16))}, "nonce"),
        ({"model": "sha256:" + "00" * 32}, "model"),
        ({"block_start": 2}, "first layer"),
        ({"block_stop": 9}, "end of layers"),
        ({"intent_sha256": None}, "intent"),
        ({"parameters_sha256": "00" * 32}, "parameters"),
        ({"prompt_tokens": 4}, "prompt"),
        ({"answer_tokens": 2}, "answer"),
        ({"input_sha256": "00" * 32}, "what went in"),
        ({"output_sha256": "00" * 32}, "what came out"),
        ({"role": "requester"}, "role"),
        ({"started_s": NOW_S - 1000}, "times"),
        ({"finished_s": NOW_S + 1000}, "times"),
    ],
)
def test_a_contradiction_is_named(changes: dict[str, Any], word: str) -> None:
    found = compare(an_account(), replace(THEIRS, **changes))
    assert any(word in each for each in found)


def test_digests_are_compared_where_both_sides_know_them() -> None:
    other = replace(THEIRS, input_sha256="00" * 32, output_sha256="11" * 32)
    words = {hop: " ".join(compare(an_account(hop=hop, hops=3), other)) for hop in range(3)}
    assert ("went in" in words[0], "came out" in words[0]) == (True, False)
    assert words[1] == ""
    assert ("went in" in words[2], "came out" in words[2]) == (False, True)


def test_whoever_closed_it_well_cannot_call_it_failed() -> None:
    failed = an_account(outcome="failed")
    assert any("outcome" in each for each in compare(failed, THEIRS))
    hop = an_account(role="hop")
    assert any("outcome" in each for each in compare(hop, replace(MINE, outcome="failed")))
    # A hop that lost its link before it heard of the end is nobody's liar.
    assert compare(an_account(), replace(THEIRS, outcome="failed")) == ()


def test_both_sides_find_the_same() -> None:
    hop = an_account(role="hop", given=StepChain(SESSION).tail())
    theirs = receipt_of(hop, ALL)
    assert len(compare(an_account(), theirs)) == len(contradictions(hop, theirs, MINE)) == 1


def test_neighbours_are_held_against_each_other() -> None:
    def hop(taken: str, given: str) -> Receipt:
        return replace(THEIRS, input_sha256=taken * 32, output_sha256=given * 32)

    assert check_chain([hop("0a", "1b"), hop("1b", "2c"), hop("2c", "3d")]) == ()
    assert check_chain([hop("0a", "1b"), hop("ff", "2c"), hop("2c", "3d")]) == (0,)
    assert check_chain([hop("0a", "1b"), hop("1b", "ff"), hop("2c", "3d")]) == (1,)
    assert check_chain([hop("0a", "1b"), None, hop("2c", "3d")]) == ()
    assert check_chain([]) == ()


def test_an_account_that_does_not_reach_back_tells_all_it_knows() -> None:
    steps = [a_step(n, n) for n in range(200)]
    account = an_account(role="hop", taken=chain_of(*steps).tail(), given=chain_of(*steps).tail())
    assert receipt_of(account, Cover(3)).answer_tokens == 200


def test_a_half_is_about_the_other_side() -> None:
    assert an_account().other == PEER
    assert an_account(role="hop").other == ME
