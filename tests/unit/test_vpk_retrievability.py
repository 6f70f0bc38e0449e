"""Proofs of retrievability: who has the object proves it, who lost some of it does not."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kwaai.errors import PeerRefused, SealBroken
from kwaai.limits import VPK_AUDIT_BLOCKS_MAX
from kwaai.vpk.keys import BaseKeys, RootKey
from kwaai.vpk.retrievability import (
    BLOCK_BYTES,
    CHALLENGE_BYTES,
    HEAD_BYTES,
    PRIME,
    PROOF_BYTES,
    SECTOR_BYTES,
    VALUE_BYTES,
    challenge,
    prove,
    tag,
    tags_id,
    verify,
)

KEYS = RootKey(bytes(range(32))).base(bytes(16))
ID = bytes(range(16))
DATA = random.Random(1).randbytes(10 * BLOCK_BYTES + 77)
TAGS = tag(KEYS, ID, DATA)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3 * BLOCK_BYTES), st.integers(1, 40), st.binary(min_size=16, max_size=16))
def test_who_has_it_proves_it(size: int, count: int, nonce: bytes) -> None:
    data = random.Random(size).randbytes(size)
    tags = tag(KEYS, ID, data)
    assert len(tags) == HEAD_BYTES + VALUE_BYTES * -(-size // BLOCK_BYTES)
    asked = challenge(count, nonce)
    proof = prove(data, tags, asked)
    assert len(proof) == PROOF_BYTES <= 4096
    assert verify(KEYS, ID, asked, proof) == size


@pytest.mark.parametrize("octet", [0, 255])
def test_the_sums_are_exact_at_the_extremes(octet: int) -> None:
    """A proof's sums, written out with whole numbers."""
    data = bytes([octet]) * BLOCK_BYTES
    asked = challenge(VPK_AUDIT_BLOCKS_MAX, b"\xff" * 16)
    proof = prove(data, tag(KEYS, ID, data), asked)
    assert verify(KEYS, ID, asked, proof) == BLOCK_BYTES
    first = int.from_bytes(proof[HEAD_BYTES + VALUE_BYTES :][:VALUE_BYTES], "big")
    sector = int.from_bytes(data[:SECTOR_BYTES], "big")
    assert first < PRIME
    assert (first == 0) == (sector == 0)


def test_large_objects_are_tagged_in_parts() -> None:
    data = random.Random(2).randbytes(2049 * BLOCK_BYTES)
    asked = challenge(460)
    assert verify(KEYS, ID, asked, prove(data, tag(KEYS, ID, data), asked)) == len(data)


@settings(deadline=None)
@given(st.integers(0, 8 * len(DATA) - 1))
def test_every_lost_bit_of_a_challenged_block_shows(bit: int) -> None:
    changed = bytearray(DATA)
    changed[bit // 8] ^= 1 << bit % 8
    asked = challenge(200, bytes(16))  # of 11 blocks: each is in it
    with pytest.raises(SealBroken):
        verify(KEYS, ID, asked, prove(bytes(changed), TAGS, asked))


@settings(deadline=None)
@given(st.integers(0, 8 * PROOF_BYTES - 1))
def test_no_changed_bit_of_a_proof_passes(bit: int) -> None:
    asked = challenge(5, bytes(16))
    proof = bytearray(prove(DATA, TAGS, asked))
    proof[bit // 8] ^= 1 << bit % 8
    with pytest.raises(SealBroken):
        verify(KEYS, ID, asked, bytes(proof))


def test_an_old_proof_does_not_answer_a_new_challenge() -> None:
    proof = prove(DATA, TAGS, challenge(20, bytes(16)))
    with pytest.raises(SealBroken):
        verify(KEYS, ID, challenge(20, b"1" * 16), proof)


def test_another_object_does_not_answer() -> None:
    """A host that kept one object cannot prove another with it."""
    other = random.Random(3).randbytes(len(DATA))
    other_id = b"o" * 16
    tags = tag(KEYS, other_id, other)
    asked = challenge(20)
    for data, these in ((other, tags), (DATA, tags), (other, TAGS)):
        with pytest.raises(SealBroken):
            verify(KEYS, ID, asked, prove(data, these, asked))


def test_tags_without_data_do_not_answer() -> None:
    asked = challenge(20)
    with pytest.raises(SealBroken):
        verify(KEYS, ID, asked, prove(bytes(len(DATA)), TAGS, asked))
    head = TAGS[:HEAD_BYTES]
    with pytest.raises(SealBroken):
        verify(KEYS, ID, asked, head.ljust(PROOF_BYTES, b"\0"))


def test_values_are_below_the_prime() -> None:
    """The same number plus the prime would hold as well: one proof has one form."""
    asked = challenge(1, bytes(16))
    proof = bytearray(prove(bytes(BLOCK_BYTES), tag(KEYS, ID, bytes(BLOCK_BYTES)), asked))
    at = HEAD_BYTES + VALUE_BYTES
    assert proof[at : at + VALUE_BYTES] == bytes(VALUE_BYTES)
    proof[at : at + VALUE_BYTES] = PRIME.to_bytes(VALUE_BYTES, "big")
    with pytest.raises(SealBroken):
        verify(KEYS, ID, asked, bytes(proof))


def test_a_loss_of_one_part_in_a_hundred_shows_nearly_always() -> None:
    """460 blocks find it 99 times in 100 (1 - 0.99^460); 40 seeds, and 3 misses are too many."""
    data = random.Random(4).randbytes(300 * BLOCK_BYTES)
    tags = tag(KEYS, ID, data)
    damaged = bytearray(data)
    for block in (7, 100, 250):
        damaged[block * BLOCK_BYTES] ^= 1
    missed = 0
    for seed in range(40):
        asked = challenge(460, seed.to_bytes(16, "big"))
        try:
            verify(KEYS, ID, asked, prove(bytes(damaged), tags, asked))
            missed += 1
        except SealBroken:
            continue
    assert missed <= 3


def test_other_keys_and_readers_do_not_audit() -> None:
    asked = challenge(3)
    proof = prove(DATA, TAGS, asked)
    with pytest.raises(SealBroken):
        verify(RootKey(bytes(range(32))).base(bytes(16), 2), ID, asked, proof)
    with pytest.raises(ValueError, match="audit"):
        verify(BaseKeys.from_share(KEYS.share()), ID, asked, proof)


@given(st.binary(max_size=CHALLENGE_BYTES + 2), st.binary(max_size=80))
def test_a_host_answers_any_challenge_or_refuses(asked: bytes, tags: bytes) -> None:
    for data in (DATA, b"", b"x"):
        for these in (TAGS, tags, TAGS[: len(tags)]):
            try:
                assert len(prove(data, these, asked)) == PROOF_BYTES
            except PeerRefused:
                continue


@given(st.binary(max_size=PROOF_BYTES + 2))
def test_any_bytes_are_refused(data: bytes) -> None:
    asked = challenge(3, bytes(16))
    for proof in (data, data.ljust(PROOF_BYTES, b"\0"), TAGS[:HEAD_BYTES] + data):
        with pytest.raises(SealBroken):
            verify(KEYS, ID, asked, proof)


def test_bounds() -> None:
    for count in (0, VPK_AUDIT_BLOCKS_MAX + 1):
        with pytest.raises(ValueError, match="challenged"):
            challenge(count)
    with pytest.raises(ValueError, match="nonce"):
        challenge(1, b"short")
    with pytest.raises(ValueError, match="1 to"):
        tag(KEYS, ID, b"")
    with pytest.raises(ValueError, match="no challenge"):
        verify(KEYS, ID, b"", prove(DATA, TAGS, challenge(1)))


def test_tags_lie_beside_their_object() -> None:
    assert tags_id(ID) != ID
    assert tags_id(ID) == tags_id(bytes(ID))
    assert len(tags_id(ID)) == 16
