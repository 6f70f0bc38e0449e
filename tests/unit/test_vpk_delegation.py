"""Rights of readers: what a host takes, and what only the reader opens."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from credentials.errors import KeyInvalid
from credentials.keys import SecretKey
from kwaai.errors import StorageRefused, UserError
from kwaai.limits import VPK_DELEGATION_LIFE_S_MAX, VPK_SHARE_CHARS_MAX
from kwaai.vpk.delegation import (
    DELEGATION_BYTES,
    Delegation,
    encode_share,
    open_share,
    sign_delegation,
    verify_delegation,
)
from kwaai.vpk.keys import RootKey

ROOT = RootKey(bytes(range(32)))
TENANT = ROOT.tenant()
READER = SecretKey(b"r" * 32)
BASE = bytes(range(16))
NOW_S = 1_800_000_000.0
GIVEN = Delegation(TENANT.public.raw, READER.public.raw, BASE, NOW_S, NOW_S + 86_400.0)
SIGNED = sign_delegation(GIVEN, TENANT)
HOSTS = ("12D3KooWone", "12D3KooWtwo")
SHARE = encode_share(GIVEN, TENANT, ROOT.base(BASE), "notes", HOSTS)


def verify(data: bytes = SIGNED, **changes: object) -> Delegation:
    asked: dict[str, object] = {
        "tenant": TENANT.public.raw,
        "reader": READER.public.raw,
        "base": BASE,
        "right": "read",
        "now_s": NOW_S + 1,
    }
    return verify_delegation(data, **(asked | changes))  # type: ignore[arg-type]


def test_it_holds() -> None:
    assert verify() == GIVEN
    assert len(SIGNED) == DELEGATION_BYTES <= 512
    assert verify(now_s=NOW_S - 100) == GIVEN  # clocks differ a little
    assert verify(now_s=NOW_S + 86_400) == GIVEN


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"tenant": bytes(32)}, "another tenant"),
        ({"base": bytes(16)}, "another base"),
        ({"reader": bytes(32)}, "another reader"),
        ({"right": "write"}, "does not include write"),
        ({"now_s": NOW_S - 121}, "has not begun"),
        ({"now_s": NOW_S + 86_401}, "has expired"),
    ],
)
def test_it_does_not_hold(changes: dict[str, object], says: str) -> None:
    with pytest.raises(StorageRefused, match=says):
        verify(**changes)


@given(st.integers(0, 8 * DELEGATION_BYTES - 1))
def test_no_changed_bit_passes(bit: int) -> None:
    changed = bytearray(SIGNED)
    changed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(StorageRefused):
        verify(bytes(changed))


@given(st.binary(max_size=DELEGATION_BYTES + 2))
def test_any_bytes_are_refused(data: bytes) -> None:
    for candidate in (data, SIGNED[: len(data)] + data[:1], data.ljust(DELEGATION_BYTES, b"\0")):
        if candidate != SIGNED:
            with pytest.raises(StorageRefused):
                verify(candidate)


@pytest.mark.parametrize(
    "wrong",
    [
        replace(GIVEN, expires_s=NOW_S),
        replace(GIVEN, expires_s=NOW_S + VPK_DELEGATION_LIFE_S_MAX + 1),
        replace(GIVEN, rights=()),
        replace(GIVEN, tenant=bytes(32)),
    ],
)
def test_what_is_not_given(wrong: Delegation) -> None:
    with pytest.raises(ValueError, match=r"delegation|right"):
        sign_delegation(wrong, TENANT)


# Shares.
def test_a_reader_opens_a_share() -> None:
    share = open_share(SHARE, READER, now_s=NOW_S)
    assert (share.name, share.hosts, share.delegation) == ("notes", HOSTS, GIVEN)
    assert share.signed == SIGNED
    assert share.keys.share() == ROOT.base(BASE).share()
    broken = "\n".join(SHARE[at : at + 60] for at in range(0, len(SHARE), 60))
    assert open_share(broken, READER, now_s=NOW_S).hosts == HOSTS
    assert len(SHARE) < VPK_SHARE_CHARS_MAX


def test_nobody_else_does() -> None:
    with pytest.raises(StorageRefused, match="another node"):
        open_share(SHARE, SecretKey(bytes(32)), now_s=NOW_S)
    with pytest.raises(StorageRefused, match="expired"):
        open_share(SHARE, READER, now_s=NOW_S + 90_000)


def test_every_cut_is_refused() -> None:
    for length in range(0, len(SHARE), 7):
        with pytest.raises((UserError, StorageRefused)):
            open_share(SHARE[:length], READER, now_s=NOW_S)


@given(st.integers(10, len(SHARE) - 2), st.sampled_from("Aa0_-"))
def test_every_change_is_refused(at: int, sign: str) -> None:
    if SHARE[at] != sign:
        with pytest.raises((UserError, StorageRefused)):
            open_share(SHARE[:at] + sign + SHARE[at + 1 :], READER, now_s=NOW_S)


@given(st.text(max_size=200))
def test_no_text_crashes(text: str) -> None:
    for candidate in (text, "vpkshare1-" + text):
        with pytest.raises(UserError):
            open_share(candidate, READER, now_s=NOW_S)


def test_no_share_of_what_is_not_given() -> None:
    with pytest.raises(ValueError, match="not of the base"):
        encode_share(GIVEN, TENANT, ROOT.base(bytes(16)), "notes", HOSTS)
    with pytest.raises(ValueError, match="at most"):
        encode_share(GIVEN, TENANT, ROOT.base(BASE), "notes", HOSTS * 5)
    with pytest.raises(KeyInvalid):
        encode_share(replace(GIVEN, reader=bytes(32)), TENANT, ROOT.base(BASE), "notes", HOSTS)
