"""Sealed secrets: what opens them and what does not, and what a changed header can ask for."""

from __future__ import annotations

import struct
from typing import Any

import nacl.pwhash
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from credentials.errors import SealInvalid
from credentials.limits import SEAL_MEMORY_BYTES_MAX, SEAL_PASSES_MAX
from credentials.sealed import NONCE_BYTES, SALT_BYTES, is_sealed, open_sealed, seal

SALT = bytes(range(SALT_BYTES))
NONCE = bytes(range(NONCE_BYTES))
HEADER_BYTES = 56


def sealed(
    plain: bytes = b"a secret", passphrase: bytes = b"correct horse", **changes: Any
) -> bytes:
    options = {"salt": SALT, "nonce": NONCE, "purpose": "a test", "cost": "interactive"}
    return seal(plain, passphrase, **{**options, **changes})


SEALED = sealed()


@settings(max_examples=10)
@given(st.binary(max_size=200), st.binary(min_size=1, max_size=40))
def test_what_is_sealed_opens(plain: bytes, passphrase: bytes) -> None:
    data = sealed(plain, passphrase)
    assert is_sealed(data)
    assert len(data) == HEADER_BYTES + len(plain) + 16
    assert open_sealed(data, passphrase, purpose="a test") == plain
    if len(plain) > 3:
        assert plain not in data


def test_the_costs_are_libsodiums() -> None:
    passes, memory_kib = struct.unpack_from(">II", SEALED, 8)
    assert passes == nacl.pwhash.argon2id.OPSLIMIT_INTERACTIVE
    assert memory_kib * 1024 == nacl.pwhash.argon2id.MEMLIMIT_INTERACTIVE
    moderate = sealed(cost="moderate")
    passes, memory_kib = struct.unpack_from(">II", moderate, 8)
    assert passes == nacl.pwhash.argon2id.OPSLIMIT_MODERATE
    assert memory_kib * 1024 == nacl.pwhash.argon2id.MEMLIMIT_MODERATE
    assert open_sealed(moderate, b"correct horse", purpose="a test") == b"a secret"


def test_the_format_stays() -> None:
    # If this fails, files of before do not open any more: give the new layout a version.
    assert SEALED.hex() == (
        "4b575345414c0a" "01" "00000002" "00010000"
        "000102030405060708090a0b0c0d0e0f"
        "000102030405060708090a0b0c0d0e0f1011121314151617"
        "603b5bdc1f7ace5db53f4adc09186dcb4f3021d6a2d7c044"
    )  # fmt: skip


def test_the_wrong_passphrase_or_purpose() -> None:
    for passphrase, purpose in [
        (b"correct horsf", "a test"),
        (b"", "a test"),
        (b"correct horse", "another"),
        (b"correct horse", ""),
    ]:
        with pytest.raises(SealInvalid, match="another passphrase, or it was changed"):
            open_sealed(SEALED, passphrase, purpose=purpose)


@pytest.mark.parametrize(
    "position",
    [8 + 4 + 4, 8 + 4 + 4 + SALT_BYTES, HEADER_BYTES - 1, HEADER_BYTES, len(SEALED) - 1],
)
def test_a_changed_byte(position: int) -> None:
    changed = bytearray(SEALED)
    changed[position] ^= 1
    with pytest.raises(SealInvalid, match="another passphrase, or it was changed"):
        open_sealed(bytes(changed), b"correct horse", purpose="a test")


def test_cheaper_costs_do_not_open() -> None:
    weaker = SEALED[:8] + struct.pack(">II", 1, 8) + SEALED[16:]
    with pytest.raises(SealInvalid, match="another passphrase"):
        open_sealed(weaker, b"correct horse", purpose="a test")


@pytest.mark.parametrize(
    ("passes", "memory_kib"),
    [
        (0, 64 * 1024),
        (SEAL_PASSES_MAX + 1, 64 * 1024),
        (2**32 - 1, 8),
        (2, 7),
        (2, 0),
        (2, SEAL_MEMORY_BYTES_MAX // 1024 + 1),
        (2, 2**32 - 1),
    ],
)
def test_a_header_cannot_ask_for_any_work(passes: int, memory_kib: int) -> None:
    hungry = SEALED[:8] + struct.pack(">II", passes, memory_kib) + SEALED[16:]
    with pytest.raises(SealInvalid, match="more work"):
        open_sealed(hungry, b"correct horse", purpose="a test")


@given(st.binary(max_size=120))
def test_other_bytes_are_refused(data: bytes) -> None:
    assert not is_sealed(b"x" + data)
    for candidate in (data, SEALED[: len(data) % (HEADER_BYTES + 16)]):
        with pytest.raises(SealInvalid, match="no sealed secret"):
            open_sealed(candidate, b"correct horse", purpose="a test")


def test_a_newer_version_says_so() -> None:
    with pytest.raises(SealInvalid, match=r"version 2.*update this one"):
        open_sealed(SEALED[:7] + b"\x02" + SEALED[8:], b"correct horse", purpose="a test")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"passphrase": b""}, "empty passphrase"),
        ({"salt": SALT[1:]}, "a salt has 16 bytes"),
        ({"nonce": NONCE + b"\0"}, "a nonce 24"),
    ],
)
def test_nothing_is_sealed_with(changes: dict[str, bytes], message: str) -> None:
    with pytest.raises(SealInvalid, match=message):
        sealed(**changes)


def test_no_memory_for_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> bytes:
        raise MemoryError

    monkeypatch.setattr(nacl.pwhash.argon2id, "kdf", fails)
    with pytest.raises(SealInvalid, match="64 MiB of memory; free some"):
        open_sealed(SEALED, b"correct horse", purpose="a test")
