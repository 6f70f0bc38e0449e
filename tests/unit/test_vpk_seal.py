"""Sealed objects and the records inside them: round trips, and everything that must not open."""

from __future__ import annotations

import contextlib
import itertools
import zlib

import nacl.bindings
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kwaai.errors import RecordInvalid, SealBroken
from kwaai.limits import VPK_PASSAGE_BYTES_MAX, VPK_SEALED_BYTES_MAX
from kwaai.vpk import keys
from kwaai.vpk.keys import BaseKeys, RootKey
from kwaai.vpk.records import (
    TextRecord,
    decode_vectors,
    encode_text,
    encode_vector,
    encode_vectors,
    parse_text,
)
from kwaai.vpk.seal import (
    OVERHEAD_BYTES,
    SIZE_CLASSES,
    open_many,
    open_sealed,
    room,
    seal,
    seal_many,
    sealed_size,
)

ROOT = RootKey(bytes(range(32)))
BASE = ROOT.base(bytes(16))
TENANT = ROOT.tenant().public.raw
ID = bytes(range(16))


@given(st.binary(max_size=3000), st.sampled_from([keys.TEXT, keys.SEGMENT, keys.CELL]))
def test_what_is_sealed_opens(plain: bytes, kind: int) -> None:
    sealed = seal(BASE, TENANT, kind, ID, plain)
    assert len(sealed) == sealed_size(len(plain))
    assert len(sealed) in SIZE_CLASSES
    assert open_sealed(BASE, TENANT, kind, ID, sealed) == plain


def test_a_seal_is_what_the_document_says() -> None:
    """docs/vpk.md, "A sealed object": opened with libsodium alone."""
    sealed = seal(BASE, TENANT, keys.TEXT, ID, b"words", size=128)
    bound = b"kwaai-vpk seal\x01" + TENANT + BASE.base + b"\x02" + b"\0\0\0\x01" + ID
    plain = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(
        sealed[24:], bound, sealed[:24], BASE.sealing_key(keys.TEXT)
    )
    assert plain == b"words\x80" + bytes(128 - 40 - 6)


def test_a_vector_is_not_padded() -> None:
    assert len(seal(BASE, TENANT, keys.VECTOR, ID, bytes(388))) == 428
    with pytest.raises(ValueError, match="does not make"):
        seal(BASE, TENANT, keys.VECTOR, ID, bytes(388), size=512)


def test_the_same_twice_looks_different() -> None:
    assert seal(BASE, TENANT, keys.TEXT, ID, b"x") != seal(BASE, TENANT, keys.TEXT, ID, b"x")


def test_a_given_size_is_kept_or_refused() -> None:
    for length in (0, 1, room(1024)):
        sealed = seal(BASE, TENANT, keys.TEXT, ID, b"\x80" * length, size=1024)
        assert len(sealed) == 1024
        assert open_sealed(BASE, TENANT, keys.TEXT, ID, sealed) == b"\x80" * length
    for length in (room(1024) + 1, 5000):
        with pytest.raises(ValueError, match="do not fit"):
            seal(BASE, TENANT, keys.TEXT, ID, bytes(length), size=1024)


def test_size_classes_waste_little_and_tell_little() -> None:
    assert list(SIZE_CLASSES) == sorted(set(SIZE_CLASSES))
    assert SIZE_CLASSES[-1] == VPK_SEALED_BYTES_MAX
    assert len(SIZE_CLASSES) < 110
    for small, large in itertools.pairwise(SIZE_CLASSES):
        assert large <= small * (1.5 if small < 65_536 else 1.126)
    assert sealed_size(VPK_SEALED_BYTES_MAX - 41) == VPK_SEALED_BYTES_MAX
    with pytest.raises(ValueError, match="too many"):
        sealed_size(VPK_SEALED_BYTES_MAX - 40)


def _other_places() -> list[tuple[str, BaseKeys, bytes, int, bytes]]:
    stranger = RootKey(bytes(32))
    shared = BaseKeys.from_share(BASE.share())
    elsewhere = BaseKeys(bytes(15) + b"\1", 1, BASE.share()[-32:], None)
    later = BaseKeys(bytes(16), 2, BASE.share()[-32:], None)
    return [
        ("another root key", stranger.base(bytes(16)), TENANT, keys.TEXT, ID),
        ("another base", ROOT.base(bytes(15) + b"\1"), TENANT, keys.TEXT, ID),
        ("another base, the same key", elsewhere, TENANT, keys.TEXT, ID),
        ("another epoch", ROOT.base(bytes(16), 2), TENANT, keys.TEXT, ID),
        ("another epoch, the same key", later, TENANT, keys.TEXT, ID),
        ("another tenant, the same key", shared, bytes(32), keys.TEXT, ID),
        ("another kind", BASE, TENANT, keys.SEGMENT, ID),
        ("another kind, the same key", BASE, TENANT, keys.VECTOR, ID),
        ("another id", BASE, TENANT, keys.TEXT, bytes(16)),
    ]


@pytest.mark.parametrize("place", _other_places(), ids=lambda place: place[0])
def test_it_opens_in_its_own_place_only(
    place: tuple[str, BaseKeys, bytes, int, bytes],
) -> None:
    sealed = seal(BASE, TENANT, keys.TEXT, ID, b"words")
    _, base, tenant, kind, object_id = place
    with pytest.raises(SealBroken, match=object_id.hex()):
        open_sealed(base, tenant, kind, object_id, sealed)


@given(st.data())
def test_no_changed_bit_opens(data: st.DataObject) -> None:
    sealed = bytearray(seal(BASE, TENANT, keys.TEXT, ID, b"words"))
    bit = data.draw(st.integers(0, 8 * len(sealed) - 1))
    sealed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(SealBroken):
        open_sealed(BASE, TENANT, keys.TEXT, ID, bytes(sealed))


@given(st.binary(max_size=300), st.sampled_from([keys.VECTOR, keys.TEXT]))
def test_any_bytes_are_refused(data: bytes, kind: int) -> None:
    with pytest.raises(SealBroken):
        open_sealed(BASE, TENANT, kind, ID, data)


def test_cut_and_lengthened() -> None:
    sealed = seal(BASE, TENANT, keys.TEXT, ID, b"words")
    for wrong in (sealed[:-1], sealed + b"\0", sealed[:OVERHEAD_BYTES], b""):
        with pytest.raises(SealBroken):
            open_sealed(BASE, TENANT, keys.TEXT, ID, wrong)


def test_right_key_and_wrong_padding() -> None:
    bound = b"kwaai-vpk seal\x01" + TENANT + BASE.base + b"\x02" + b"\0\0\0\x01" + ID
    nonce = bytes(24)
    for plain in (b"", bytes(88), b"no mark"):
        body = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(
            plain, bound, nonce, BASE.sealing_key(keys.TEXT)
        )
        with pytest.raises(SealBroken, match="padded"):
            open_sealed(BASE, TENANT, keys.TEXT, ID, nonce + body)


def test_many_keep_their_order_and_the_broken_one_is_named() -> None:
    plains = [(bytes([number]) * 16, bytes([number])) for number in range(9)]
    sealed = seal_many(BASE, TENANT, keys.TEXT, plains)
    assert [object_id for object_id, _ in sealed] == [object_id for object_id, _ in plains]
    assert open_many(BASE, TENANT, keys.TEXT, sealed) == [plain for _, plain in plains]
    swapped = [*sealed[:4], (sealed[4][0], sealed[5][1]), *sealed[5:]]
    with pytest.raises(SealBroken, match=(bytes([4]) * 16).hex()):
        open_many(BASE, TENANT, keys.TEXT, swapped)


def test_what_cannot_be_sealed() -> None:
    for tenant, kind, object_id in (
        (bytes(31), keys.TEXT, ID),
        (TENANT, keys.FRAGMENT, ID),
        (TENANT, 99, ID),
        (TENANT, keys.TEXT, bytes(15)),
    ):
        with pytest.raises(ValueError, match=r"tenant|kind|id has"):
            seal(BASE, tenant, kind, object_id, b"")


# Records.
@given(st.integers(0, 20), st.integers(1, 40), st.floats(1e-30, 1e30), st.integers(0, 2**32 - 1))
def test_vectors_come_back_within_half_a_level(
    count: int, dimension: int, scale: float, seed: int
) -> None:
    random = np.random.default_rng(seed)
    vectors = (random.standard_normal((count, dimension)) * scale).astype(np.float32)
    records = encode_vectors(vectors)
    assert all(len(record) == 4 + dimension for record in records)
    found = decode_vectors(records, dimension)
    assert found.shape == vectors.shape
    assert found.dtype == np.float32
    level = np.abs(vectors).max(axis=1, initial=0, keepdims=True) / 127
    assert (np.abs(found - vectors) <= level * 0.501).all()


def test_one_vector_byte_by_byte() -> None:
    record = encode_vector(np.array([1.0, -1.0, 0.5, 0.0], np.float32))
    assert record == np.array(1 / 127, ">f4").tobytes() + bytes([127, 256 - 127, 64, 0])


@pytest.mark.parametrize("value", [0.0, 1e-45, -3e38, 1e-38])
def test_extreme_vectors(value: float) -> None:
    vectors = np.full((1, 8), value, np.float32)
    found = decode_vectors(encode_vectors(vectors), 8)
    assert np.isfinite(found).all()
    assert np.abs(found - vectors).max() <= max(abs(value) / 100, 2e-38)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_vectors_that_are_no_numbers(value: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        encode_vector(np.array([0.0, value], np.float32))


@pytest.mark.parametrize("shape", [(3,), (2, 0), (1, 5000), (1, 1, 1)])
def test_shapes_that_are_no_vectors(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="vectors are"):
        encode_vectors(np.zeros(shape, np.float32))


@given(st.lists(st.binary(max_size=12), max_size=4))
def test_any_bytes_are_vectors_or_refused(records: list[bytes]) -> None:
    with contextlib.suppress(RecordInvalid):
        assert np.isfinite(decode_vectors(records, 4)).all()


words = st.text(max_size=60)


@given(
    st.builds(
        TextRecord,
        text=st.text(max_size=500),
        document=words,
        heading=st.lists(words, max_size=6).map(tuple),
        page=st.none() | st.integers(1, 2**32 - 1),
        start=st.just(5),
        stop=st.integers(5, 2**32 - 1),
    )
)
def test_passages_come_back(record: TextRecord) -> None:
    assert parse_text(encode_text(record)) == record


@pytest.mark.parametrize("span", [(-1, 0, 0), (1, 5, 4), (1, -1, 4), (2**32, 0, 1), (1, 0, 2**32)])
def test_citations_that_cannot_be(span: tuple[int, int, int]) -> None:
    page, start, stop = span
    with pytest.raises(ValueError, match="citation"):
        encode_text(TextRecord("text", "name", (), page, start, stop))


def test_long_names_are_cut_and_long_passages_refused() -> None:
    record = TextRecord("text", "é" * 3000, ("ü" * 900,) * 20)
    found = parse_text(encode_text(record))
    assert record.document.startswith(found.document)
    assert len(found.document.encode()) == 1024
    assert len(found.heading) == 8
    with pytest.raises(ValueError, match="at most"):
        encode_text(TextRecord("x" * (VPK_PASSAGE_BYTES_MAX + 1), "name"))


@settings(max_examples=300)
@given(st.binary(max_size=80))
def test_any_bytes_are_a_passage_or_refused(data: bytes) -> None:
    for candidate in (data, zlib.compress(data), zlib.compress(b"\x01" + data)):
        with contextlib.suppress(RecordInvalid):
            assert isinstance(parse_text(candidate), TextRecord)


def test_a_bomb_is_not_unpacked() -> None:
    bomb = zlib.compress(bytes(100_000_000), 9)
    with pytest.raises(RecordInvalid, match="more bytes"):
        parse_text(bomb)


def test_open_ends_are_refused() -> None:
    data = encode_text(TextRecord("text", "name"))
    for wrong in (data[:-1], data + b"\0", b"", data + data):
        with pytest.raises(RecordInvalid):
            parse_text(wrong)
