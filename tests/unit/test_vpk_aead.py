"""Many messages at once: the same as libsodium's bindings one by one, with the handle or not."""

from __future__ import annotations

import nacl.bindings
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwaai.vpk import aead
from kwaai.vpk.aead import KEY_BYTES, NONCE_BYTES, OVERHEAD_BYTES, NotAuthentic

KEY = bytes(range(KEY_BYTES))
BOUND = b"where it belongs"


@pytest.fixture(params=["handle", "bindings"])
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "bindings":
        monkeypatch.setattr(aead, "_lib", None)
    elif aead._lib is None:
        pytest.skip("this PyNaCl shows no handle")


@pytest.mark.usefixtures("_way")
def test_what_is_encrypted_is_what_libsodium_makes_of_it() -> None:
    messages = [(bytes((n,)) * 16, bytes((n,)) * (n * n)) for n in range(40)]
    sealed = aead.encrypt_each(KEY, BOUND, messages)
    assert len({data[:NONCE_BYTES] for data in sealed}) == len(messages)
    for (name, plain), data in zip(messages, sealed, strict=True):
        assert len(data) == len(plain) + OVERHEAD_BYTES
        opened = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(
            data[NONCE_BYTES:], BOUND + name, data[:NONCE_BYTES], KEY
        )
        assert opened == plain
    named = [(name, data) for (name, _), data in zip(messages, sealed, strict=True)]
    assert aead.decrypt_each(KEY, BOUND, named) == [plain for _, plain in messages]


@pytest.mark.usefixtures("_way")
def test_the_first_that_was_altered_is_named() -> None:
    messages = [(b"%016d" % n, b"plain bytes") for n in range(9)]
    sealed = aead.encrypt_each(KEY, BOUND, messages)
    good = [(name, data) for (name, _), data in zip(messages, sealed, strict=True)]
    name, data = good[5]
    for wrong in (
        (b"another name too", data),
        (name, data[:-1]),
        (name, data[: OVERHEAD_BYTES - 1]),
        (name, data[:NONCE_BYTES]),
        (name, b""),
        *((name, data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]) for at in range(len(data))),
    ):
        with pytest.raises(NotAuthentic) as raised:
            aead.decrypt_each(KEY, BOUND, [*good[:5], wrong, *good[6:], wrong])
        assert raised.value.index == 5
    for key, bound in ((KEY[::-1], BOUND), (KEY, BOUND + b" ")):
        with pytest.raises(NotAuthentic):
            aead.decrypt_each(key, bound, good)


@pytest.mark.usefixtures("_way")
def test_keys_of_another_length_and_nothing_to_do() -> None:
    for key in (b"", KEY[:-1], KEY + b"\0"):
        with pytest.raises(ValueError, match="32 bytes"):
            aead.encrypt_each(key, BOUND, [])
        with pytest.raises(ValueError, match="32 bytes"):
            aead.decrypt_each(key, BOUND, [])
    assert aead.encrypt_each(KEY, BOUND, []) == aead.decrypt_each(KEY, BOUND, []) == []


@given(st.lists(st.binary(max_size=200), max_size=4))
def test_no_bytes_open(blobs: list[bytes]) -> None:
    for blob in blobs:
        with pytest.raises(NotAuthentic):
            aead.decrypt_each(KEY, BOUND, [(b"name", blob)])
