"""A data key under an identity: opened by that identity, for that purpose, unchanged."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from credentials.errors import SealInvalid
from credentials.key_wrap import WRAP_NONCE_BYTES, unwrap_key, wrap_key
from credentials.keys import SecretKey

SECRET, OTHER = SecretKey(b"S" * 32), SecretKey(b"N" * 32)
NONCE = bytes(WRAP_NONCE_BYTES)


@given(st.binary(max_size=64), st.binary(min_size=WRAP_NONCE_BYTES, max_size=WRAP_NONCE_BYTES))
def test_it_opens_again(key: bytes, nonce: bytes) -> None:
    assert unwrap_key(wrap_key(key, SECRET, nonce=nonce, purpose="p"), SECRET, purpose="p") == key


def test_what_does_not_open() -> None:
    key = b"K" * 32
    wrapped = wrap_key(key, SECRET, nonce=NONCE, purpose="p")
    assert key not in wrapped
    assert wrap_key(key, SECRET, nonce=b"\1" + NONCE[1:], purpose="p")[24:] != wrapped[24:]
    for secret, purpose in ((OTHER, "p"), (SECRET, "q"), (SECRET, "")):
        with pytest.raises(SealInvalid):
            unwrap_key(wrapped, secret, purpose=purpose)
    for at in range(len(wrapped)):
        changed = wrapped[:at] + bytes([wrapped[at] ^ 1]) + wrapped[at + 1 :]
        with pytest.raises(SealInvalid):
            unwrap_key(changed, SECRET, purpose="p")
    for size in (0, 39, len(wrapped) - 1):
        with pytest.raises(SealInvalid):
            unwrap_key(wrapped[:size], SECRET, purpose="p")


@given(st.binary(max_size=100))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(SealInvalid):
        unwrap_key(data, SECRET, purpose="p")
