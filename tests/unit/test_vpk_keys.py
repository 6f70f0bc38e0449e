"""Keys of private knowledge: what is derived, what stays apart, and the text that people keep."""

from __future__ import annotations

import contextlib
import hashlib
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwaai.errors import UserError
from kwaai.vpk import keys
from kwaai.vpk.keys import BaseKeys, RootKey, encode_root_key, parse_root_key

ROOT = RootKey(bytes(range(32)))
BASE = bytes(range(16))


def blake(data: bytes, key: bytes, person: bytes, size: int = 32) -> bytes:
    return hashlib.blake2b(data, key=key, digest_size=size, person=person).digest()


def test_derivation_is_what_the_document_says() -> None:
    """docs/vpk.md, "Keys": written out again, so that no change of it goes unseen."""
    person = b"kwaai-vpk key 1"
    read = blake(b"\x04base" + BASE + b"\0\0\0\x02", ROOT.expose(), person)
    base = ROOT.base(BASE, 2)
    for kind, purpose in ((1, b"record"), (2, b"record"), (3, b"segment"), (4, b"manifest")):
        expected = blake(bytes((len(purpose),)) + purpose, read, person)
        assert base.sealing_key(kind) == expected
    names = blake(b"\x05names", read, person)
    row = b"\x01" + (7).to_bytes(8, "big") + (9).to_bytes(8, "big")
    assert base.record_id(1, 7, 9) == blake(row, names, b"kwaai-vpk rec 1", 16)
    assert base.object_id(3, b"x") == blake(b"\x03x", names, b"kwaai-vpk obj 1", 16)
    assert base.audit_key() == blake(b"\x05audit" + BASE + b"\0\0\0\x02", ROOT.expose(), person)
    seed = blake(b"\x06tenant", ROOT.expose(), person)
    assert ROOT.tenant().expose_seed() == seed


def test_every_key_serves_one_purpose() -> None:
    one, next_epoch = ROOT.base(BASE), ROOT.base(BASE, 2)
    other_base = ROOT.base(bytes(16))
    found = [ROOT.tenant().expose_seed(), ROOT.local_key(BASE), ROOT.local_key(bytes(16))]
    for base in (one, next_epoch, other_base):
        found += [base.sealing_key(kind) for kind in (keys.TEXT, keys.SEGMENT, keys.MANIFEST)]
        found += [base.sealing_key(keys.CELL), base.audit_key()]
    assert len(set(found)) == len(found)


def test_ids_of_bases_epochs_and_kinds_have_nothing_in_common() -> None:
    rows = np.array([[5, number] for number in range(50)], np.uint64)
    bases = [ROOT.base(BASE), ROOT.base(BASE, 2), ROOT.base(bytes(16))]
    bases.append(RootKey(bytes(32)).base(BASE))
    ids = [id_ for base in bases for kind in (1, 2) for id_ in base.record_ids(kind, rows)]
    ids += [base.object_id(3, rows[0].tobytes()) for base in bases]
    assert len(set(ids)) == len(ids)


@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)), max_size=9))
def test_ids_in_bulk_are_the_same(rows: list[tuple[int, int]]) -> None:
    base = ROOT.base(BASE)
    array = np.array(rows, np.uint64).reshape(-1, 2)
    assert base.record_ids(2, array) == [base.record_id(2, *row) for row in rows]


def test_rows_of_another_shape() -> None:
    with pytest.raises(ValueError, match=r"\(n, 2\)"):
        ROOT.base(BASE).record_ids(1, np.zeros(4, np.uint64))


def test_nothing_secret_shows() -> None:
    base = ROOT.base(BASE)
    shown = f"{ROOT!r} {base!r} {ROOT} {base}"
    for secret in (ROOT.expose(), base.share()[-32:], base.audit_key(), base.sealing_key(1)):
        assert secret.hex() not in shown
        assert repr(secret)[2:20] not in shown
    for value in (ROOT, base):
        with pytest.raises(TypeError):
            pickle.dumps(value)


def test_a_share_reads_and_does_not_audit() -> None:
    owner = ROOT.base(BASE, 3)
    reader = BaseKeys.from_share(owner.share())
    assert (reader.base, reader.epoch) == (BASE, 3)
    assert reader.sealing_key(keys.TEXT) == owner.sealing_key(keys.TEXT)
    assert reader.record_id(1, 2, 3) == owner.record_id(1, 2, 3)
    with pytest.raises(ValueError, match="audit"):
        reader.audit_key()


@given(st.binary(max_size=80))
def test_any_bytes_are_a_share_or_refused(data: bytes) -> None:
    with contextlib.suppress(UserError):
        assert BaseKeys.from_share(data).share() == data


def test_what_cannot_be_a_key() -> None:
    with pytest.raises(UserError):
        RootKey(bytes(31))
    for base, epoch in ((bytes(15), 1), (BASE, 0), (BASE, 2**32)):
        with pytest.raises(ValueError, match=r"base's id|epoch"):
            ROOT.base(base, epoch)
    with pytest.raises(ValueError, match="not sealed"):
        ROOT.base(BASE).sealing_key(keys.FRAGMENT)


@given(st.binary(min_size=32, max_size=32))
def test_a_root_key_comes_back_from_its_text(raw: bytes) -> None:
    text = encode_root_key(RootKey(raw))
    groups = text.split("-")
    assert groups[0] == "vpk1"
    assert [len(group) for group in groups[1:]] == [4] * 14
    for typed in (text, text.upper(), text.replace("-", " "), f"  {text}\n", text.replace("-", "")):
        assert parse_root_key(typed).expose() == raw


def test_each_single_typing_error_is_found() -> None:
    text = encode_root_key(ROOT)
    for at in range(5, len(text)):
        if text[at] == "-":
            continue
        for sign in "abc234xyz":
            if sign != text[at]:
                with pytest.raises(UserError):
                    parse_root_key(text[:at] + sign + text[at + 1 :])
        with pytest.raises(UserError):
            parse_root_key(text[:at] + text[at + 1 :])


def test_neighbours_that_changed_places_are_found() -> None:
    text = encode_root_key(ROOT).replace("-", "")
    for at in range(4, len(text) - 1):
        if text[at] != text[at + 1]:
            with pytest.raises(UserError):
                parse_root_key(text[:at] + text[at + 1] + text[at] + text[at + 2 :])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "begins with vpk1"),
        ("vpk1-aaa0", "group 1"),
        ("vpk1-aaaa-aa!a", "group 2"),
        ("vpk1-aaaa", "14 groups"),
        ("vpk1" + "a" * 2000, "characters"),
        ("vpk1" + "a" * 56, "typing error"),
    ],
)
def test_what_is_wrong_with_a_text_is_said(text: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        parse_root_key(text)


@given(st.text(max_size=100))
def test_no_text_crashes(text: str) -> None:
    with pytest.raises(UserError):
        parse_root_key(text)
