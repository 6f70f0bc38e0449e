"""Manifests and Merkle trees: what a host can check, what a device of the owner's can, and what no
host gets away with.
"""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from credentials.keys import SecretKey
from kwaai.errors import ManifestInvalid, SealBroken
from kwaai.limits import VPK_MANIFEST_BYTES_MAX
from kwaai.vpk import keys, merkle
from kwaai.vpk.keys import RootKey
from kwaai.vpk.manifest import (
    HEADER_BYTES,
    NO_DIGEST,
    HostRef,
    Manifest,
    RowRun,
    SegmentRef,
    WriterRef,
    check_manifest_header,
    digest,
    read_manifest_header,
    sign_manifest,
    verify_manifest,
)
from kwaai.vpk.seal import seal
from kwaai.vpk.types import EmbedderSpec

ROOT = RootKey(bytes(range(32)))
SECRET = ROOT.tenant()
TENANT = SECRET.public.raw
BASE = bytes(range(16))
KEYS = ROOT.base(BASE)
FIRST = Manifest(
    base=BASE,
    name="notes",
    sequence=1,
    previous=NO_DIGEST,
    epoch=1,
    mode="sealed",
    embedder=EmbedderSpec("all-MiniLM-L6-v2", "ab" * 32, 384, True),
    params=b"centre",
    segments=(
        SegmentRef(b"s" * 16, 8192, 600_000, digest(b"s"), digest(b"r"), "4/8"),
        SegmentRef(b"t" * 16, 3, 1024, digest(b"t")),
    ),
    removed=(RowRun(2**63 - 1, 5, 9),),
    hosts=(HostRef("12D3KooWeve", "did:key:z6Mk", 1.5, True), HostRef("here", "", 1.0, False)),
    generation=2,
    replicas=2,
    created_s=1_800_000_000.0,
    published_s=1_800_000_001.5,
    writers=(WriterRef(2**64 - 1, 10),),
    text_bytes=1024,
    thin=b"cells",
)
DATA = sign_manifest(FIRST, SECRET, KEYS)


def test_it_comes_back() -> None:
    assert verify_manifest(DATA, TENANT, KEYS) == FIRST
    assert check_manifest_header(DATA, TENANT, BASE) == 1
    assert read_manifest_header(DATA).merkle_root == FIRST.merkle_root


def test_a_host_reads_a_header_and_no_more() -> None:
    header = b"\x01" + TENANT + BASE + (1).to_bytes(8, "big") + (1).to_bytes(4, "big")
    assert DATA.startswith(header + FIRST.merkle_root)
    assert len(header) + 32 == HEADER_BYTES
    inside = DATA[HEADER_BYTES:]
    for secret in (b"notes", b"MiniLM", b"12D3KooWeve", b"did:key", b"centre", b"s" * 16):
        assert secret not in inside


def test_equal_manifests_look_different_and_keep_a_size_class() -> None:
    again = sign_manifest(FIRST, SECRET, KEYS)
    assert again[HEADER_BYTES:] != DATA[HEADER_BYTES:]
    longer = sign_manifest(replace(FIRST, name="notes and more"), SECRET, KEYS)
    assert len(again) == len(DATA) == len(longer)


def test_the_smallest() -> None:
    empty = replace(FIRST, embedder=None, params=b"", segments=(), removed=(), hosts=(), writers=())
    assert verify_manifest(sign_manifest(empty, SECRET, KEYS), TENANT, KEYS) == empty


def test_rollback_is_named() -> None:
    with pytest.raises(ManifestInvalid, match="rollback: a host gives manifest 1; number 2"):
        verify_manifest(DATA, TENANT, KEYS, least_sequence=2)


def test_a_stranger_does_not_publish() -> None:
    stranger = SecretKey(bytes(32))
    forged = sign_manifest(FIRST, stranger, KEYS)
    with pytest.raises(ManifestInvalid, match="another tenant"):
        check_manifest_header(forged, TENANT, BASE)
    renamed = forged[:1] + TENANT + forged[33:]
    with pytest.raises(ManifestInvalid, match="did not sign"):
        check_manifest_header(renamed, TENANT, BASE)
    with pytest.raises(ManifestInvalid, match="another base"):
        check_manifest_header(DATA, TENANT, bytes(16))


def test_no_part_can_be_taken_from_another_manifest() -> None:
    """A host has two signed manifests, and cannot make a third of them."""
    second = sign_manifest(replace(FIRST, sequence=2, previous=digest(DATA)), SECRET, KEYS)
    for mixed in (
        second[:HEADER_BYTES] + DATA[HEADER_BYTES:],
        second[:-64] + DATA[-64:],
        DATA[:HEADER_BYTES] + second[HEADER_BYTES:-64] + DATA[-64:],
    ):
        with pytest.raises(ManifestInvalid):
            verify_manifest(mixed, TENANT, KEYS)


@given(st.integers(0, 8 * len(DATA) - 1))
def test_no_changed_bit_passes(bit: int) -> None:
    changed = bytearray(DATA)
    changed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ManifestInvalid):
        verify_manifest(bytes(changed), TENANT, KEYS)


@given(st.binary(max_size=300))
def test_any_bytes_are_refused(data: bytes) -> None:
    for candidate in (data, DATA[:HEADER_BYTES] + data, DATA + data + b"\0", DATA[: len(data)]):
        with pytest.raises(ManifestInvalid):
            verify_manifest(candidate, TENANT, KEYS)


def test_keys_of_another_epoch() -> None:
    later = replace(FIRST, epoch=2, sequence=2)
    data = sign_manifest(later, SECRET, ROOT.base(BASE, 2))
    assert read_manifest_header(data).epoch == 2
    with pytest.raises(ManifestInvalid, match="epoch 2; the keys at hand are of epoch 1"):
        verify_manifest(data, TENANT, KEYS)


def _sealed_by_the_tenant(header: bytes, plain: bytes) -> bytes:
    """What a broken program with the right keys would publish."""
    object_id = KEYS.object_id(keys.MANIFEST, (1).to_bytes(8, "big"))
    sealed = seal(KEYS, TENANT, keys.MANIFEST, object_id, plain)
    signed = b"kwaai-vpk-manifest-1\0" + header + digest(sealed)
    return header + sealed + SECRET.sign(signed)


@settings(max_examples=200)
@given(st.binary(max_size=400))
def test_any_inside_is_read_or_refused(plain: bytes) -> None:
    data = _sealed_by_the_tenant(DATA[:HEADER_BYTES], plain)
    with pytest.raises(ManifestInvalid):
        verify_manifest(data, TENANT, KEYS)


def test_header_and_inside_agree() -> None:
    other = replace(FIRST, segments=())
    header = sign_manifest(other, SECRET, KEYS)[:HEADER_BYTES]
    inside = DATA[HEADER_BYTES:-64]
    signed = b"kwaai-vpk-manifest-1\0" + header + digest(inside)
    with pytest.raises(ManifestInvalid, match="differ"):
        verify_manifest(header + inside + SECRET.sign(signed), TENANT, KEYS)


def test_a_reader_without_the_keys_is_told() -> None:
    with pytest.raises(SealBroken):
        verify_manifest(DATA, TENANT, RootKey(bytes(32)).base(BASE))


@pytest.mark.parametrize(
    "wrong",
    [
        replace(FIRST, sequence=0),
        replace(FIRST, sequence=2**63),
        replace(FIRST, name=""),
        replace(FIRST, name="x" * 65),
        replace(FIRST, name="line\nbreak"),
        replace(FIRST, previous=b""),
        replace(FIRST, replicas=0),
        replace(FIRST, replicas=256),
        replace(FIRST, params=bytes(70_000)),
        replace(FIRST, segments=FIRST.segments * 2),
        replace(FIRST, segments=(replace(FIRST.segments[0], coding="some"),)),
        replace(FIRST, segments=(replace(FIRST.segments[0], epoch=0),)),
        replace(FIRST, removed=(RowRun(1, 5, 5),)),
        replace(FIRST, hosts=(HostRef("x", "y", float("nan"), True),)),
        replace(FIRST, hosts=(HostRef("x", "y", -1.0, True),)),
        replace(FIRST, hosts=(HostRef("x", "y", 1.0, True),) * 65),
        replace(FIRST, embedder=EmbedderSpec("m", "", 0, True)),
        replace(FIRST, embedder=EmbedderSpec("m", "", 5000, True)),
    ],
)
def test_what_no_reader_takes_is_not_published(wrong: Manifest) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - as many reasons as cases
        sign_manifest(wrong, SECRET, KEYS)


def test_keys_of_another_base_do_not_sign() -> None:
    with pytest.raises(ValueError, match="does not seal"):
        sign_manifest(FIRST, SECRET, ROOT.base(bytes(16)))


def test_too_large_says_what_to_do() -> None:
    runs = tuple(RowRun(1, 2 * at, 2 * at + 1) for at in range(16_384))
    count = VPK_MANIFEST_BYTES_MAX // 200
    segments = tuple(
        SegmentRef(at.to_bytes(16, "big"), 1, 128, NO_DIGEST) for at in range(min(count, 4096))
    )
    data = sign_manifest(replace(FIRST, removed=runs, segments=segments), SECRET, KEYS)
    assert len(data) <= VPK_MANIFEST_BYTES_MAX  # the largest that the bounds allow still fits


# Merkle trees.
def _root_of_rfc_6962(leaves: list[bytes]) -> bytes:
    """Section 2.1, as it is written: split at the largest power of two below the count."""
    if len(leaves) == 1:
        return leaves[0]
    split = 1 << (len(leaves) - 1).bit_length() - 1
    pair = _root_of_rfc_6962(leaves[:split]) + _root_of_rfc_6962(leaves[split:])
    return hashlib.blake2b(b"\1" + pair, digest_size=32, person=b"kwaai-vpk tree 1").digest()


@given(st.integers(1, 70))
def test_the_tree_has_the_shape_of_rfc_6962(count: int) -> None:
    leaves = [merkle.leaf(bytes([at])) for at in range(count)]
    assert merkle.root(leaves) == _root_of_rfc_6962(leaves)


@given(st.integers(1, 70), st.data())
def test_members_prove_themselves_and_others_do_not(count: int, data: st.DataObject) -> None:
    leaves = [merkle.leaf(bytes([at])) for at in range(count)]
    index = data.draw(st.integers(0, count - 1))
    root, proof = merkle.root(leaves), merkle.prove(leaves, index)
    merkle.verify(leaves[index], index, count, proof, root)
    for leaf, at, hashes in (
        (merkle.leaf(b"other"), index, proof),
        (leaves[index], index, [*proof, root]),
        (leaves[index], index, proof[:-1] if proof else [root]),
        (leaves[index], count, proof),
        (leaves[index], -1, proof),
        (root, 0, []) if count > 1 else (merkle.leaf(b""), 0, []),
    ):
        with pytest.raises(ManifestInvalid):
            merkle.verify(leaf, at, count, hashes, root)
    if count > 1:
        with contextlib.suppress(IndexError):
            merkle.prove(leaves, count)


def test_leaves_nodes_and_nothing_are_apart() -> None:
    one, two = merkle.leaf(b"1"), merkle.leaf(b"2")
    assert merkle.leaf(one + two) != merkle.root([one, two])
    assert merkle.root([]) != merkle.root([merkle.leaf(b"")])
    assert merkle.record_leaf(b"i" * 16, b"sealed") == merkle.leaf(b"i" * 16 + b"sealed")
