"""Erasure coding: every subset that is large enough gives all back; nothing altered passes."""

from __future__ import annotations

import contextlib
import itertools
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kwaai.errors import SealBroken, TooFewHosts, UserError
from kwaai.limits import VPK_FRAGMENT_BYTES_MAX, VPK_LARGE_BYTES_MAX, VPK_LARGE_BYTES_MIN
from kwaai.vpk import erasure
from kwaai.vpk.erasure import Coding, coding_for, parse_coding
from kwaai.vpk.fragments import (
    STRIPES_MAX,
    join_stripe,
    make_fragments,
    parse_fragment,
    stripe_count,
    stripe_id,
)
from kwaai.vpk.spread import Place

CODINGS = [Coding(1, 3), Coding(2, 3), Coding(2, 4), Coding(3, 6), Coding(4, 8)]


@pytest.mark.parametrize("coding", CODINGS, ids=str)
def test_every_subset_decodes(coding: Coding) -> None:
    data = random.Random(1).randbytes(1001)
    payloads = erasure.encode(data, coding)
    assert {len(p) for p in payloads} == {erasure.payload_bytes(len(data), coding)}
    for some in itertools.combinations(range(coding.count), coding.least):
        assert erasure.decode({i: payloads[i] for i in some}, coding, len(data)) == data


def test_every_subset_of_6_of_12_has_an_inverse() -> None:
    coding = Coding(6, 12)
    data = random.Random(2).randbytes(6 * 64)
    payloads = erasure.encode(data, coding)
    for some in itertools.combinations(range(12), 6):
        assert erasure.decode({i: payloads[i] for i in some}, coding, len(data)) == data


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=1, max_size=3000), st.sampled_from(CODINGS), st.randoms())
def test_any_bytes_come_back(data: bytes, coding: Coding, rng: random.Random) -> None:
    fragments = [parse_fragment(f, 0) for f in make_fragments(data, coding)[0]]
    assert join_stripe(rng.sample(fragments, coding.least)) == data


def test_blocks_larger_than_a_cache() -> None:
    coding = Coding(4, 8)
    data = random.Random(3).randbytes(4 * 8 * 8 * 4096 + 12345)
    payloads = erasure.encode(data, coding)
    assert erasure.decode({i: payloads[i] for i in (1, 4, 6, 7)}, coding, len(data)) == data


def test_too_few() -> None:
    payloads = erasure.encode(b"some bytes", Coding(2, 3))
    with pytest.raises(TooFewHosts):
        erasure.decode({1: payloads[1]}, Coding(2, 3), 10)


@pytest.mark.parametrize("coding", [Coding(4, 8), Coding(6, 12), Coding(4, 6)], ids=str)
def test_the_code_is_isa_ls(coding: Coding) -> None:
    """The same parity as ISA-L's Cauchy code, once its bytes are turned into bit planes."""
    pyeclib = pytest.importorskip("pyeclib.ec_iface")
    driver = pyeclib.ECDriver(
        k=coding.least, m=coding.count - coding.least, ec_type="isa_l_rs_cauchy"
    )
    size = 512
    data = random.Random(4).randbytes(size * coding.least)
    header = len(driver.encode(data)[0]) - size
    theirs = [fragment[header:] for fragment in driver.encode(data)]

    def planes(chunk: bytes) -> bytes:
        """Bit b of byte i becomes bit i of plane b."""
        bits = np.unpackbits(np.frombuffer(chunk, np.uint8)[:, None], axis=1, bitorder="little")
        return np.packbits(bits.T).tobytes()

    ours = erasure.encode(b"".join(planes(c) for c in theirs[: coding.least]), coding)
    assert ours == [planes(chunk) for chunk in theirs]


# Fragments.


def test_large_blobs_are_cut_into_stripes() -> None:
    coding = Coding(1, 2)
    data = random.Random(5).randbytes(2 * VPK_FRAGMENT_BYTES_MAX + 7)
    made = make_fragments(data, coding)
    assert len(made) == stripe_count(len(data), coding) == 3
    parts = [join_stripe([parse_fragment(some[1], i)]) for i, some in enumerate(made)]
    assert b"".join(parts) == data
    makings = {parse_fragment(f, i).making for i, some in enumerate(made) for f in some}
    assert len(makings) == 1
    with pytest.raises(SealBroken):
        parse_fragment(made[0][0], 1)


def test_stripes_have_ids_of_their_own() -> None:
    ids = {stripe_id(b"i" * 16, stripe) for stripe in range(STRIPES_MAX)}
    assert len(ids) == STRIPES_MAX
    assert stripe_id(b"i" * 16, 0) == b"i" * 16


def test_makings_are_told_apart() -> None:
    one, two = (
        parse_fragment(make_fragments(data, Coding(2, 4))[0][0], 0).making
        for data in (b"a" * 1000, b"a" * 999 + b"b")
    )
    assert one != two


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_whatever_is_altered_is_found(data: st.DataObject) -> None:
    fragment = make_fragments(b"some text that is sealed" * 9, Coding(2, 4))[0][1]
    before = parse_fragment(fragment, 0)
    position = data.draw(st.integers(0, len(fragment) - 1))
    change = data.draw(st.integers(1, 255))
    altered = bytearray(fragment)
    altered[position] ^= change
    try:
        after = parse_fragment(bytes(altered), 0)
    except SealBroken:
        return
    assert (after.making, after.index) != (before.making, before.index) or bytes(
        after.payload
    ) == bytes(before.payload)
    assert after.making != before.making


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400), st.booleans())
def test_no_bytes_crash(data: bytes, likely: bool) -> None:
    with contextlib.suppress(SealBroken):
        parse_fragment((b"kwF1" if likely else b"") + data, 0)


def test_sizes_that_are_refused() -> None:
    for blob in (b"", bytes(VPK_LARGE_BYTES_MAX + 1)):
        with pytest.raises(UserError):
            make_fragments(blob, Coding(1, 1))
    for least, count in ((0, 1), (3, 2), (1, 33)):
        with pytest.raises(UserError):
            Coding(least, count)


def test_codings_are_read() -> None:
    assert parse_coding("4/8", 2) == Coding(4, 8)
    assert parse_coding("whole", 3) == Coding(1, 3)
    assert parse_coding(str(Coding(6, 12)), 1) == Coding(6, 12)
    for text in ("", "4", "4/", "a/b", "8/4", "999999999999/1", "٤/٨"):
        with pytest.raises(UserError):
            parse_coding(text, 2)


def places(anchors: int, strangers: int, owners: int = 99) -> list[Place]:
    flags = [True] * anchors + [False] * strangers
    return [Place(f"h{i}", f"o{i % owners}", 1.0, a) for i, a in enumerate(flags)]


@pytest.mark.parametrize(
    ("some", "length", "coding"),
    [
        (places(12, 0), VPK_LARGE_BYTES_MIN, "6/12"),
        (places(12, 0), VPK_LARGE_BYTES_MIN - 1, "1/2"),
        (places(11, 0), VPK_LARGE_BYTES_MIN, "4/8"),
        (places(4, 4), VPK_LARGE_BYTES_MIN, "4/8"),
        (places(3, 5), VPK_LARGE_BYTES_MIN, "1/2"),
        (places(8, 0, owners=7), VPK_LARGE_BYTES_MIN, "1/2"),
        (places(1, 0), VPK_LARGE_BYTES_MIN, "1/1"),
    ],
)
def test_the_coding_follows_the_hosts(some: list[Place], length: int, coding: str) -> None:
    assert str(coding_for(some, 2, length)) == coding
