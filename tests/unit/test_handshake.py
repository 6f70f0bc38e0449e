"""The handshake: who is proven to whom, what is agreed on, and what is refused."""

from __future__ import annotations

import hmac
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from noise.connection import Keypair, NoiseConnection

from credentials.keys import SecretKey, peer_id
from kwaai import limits
from kwaai.net.handshake import (
    NAME,
    PROLOGUE,
    Handshake,
    LinkIdentity,
    VersionMismatch,
    WrongPeer,
    parse_hello,
)
from kwaai.net.secure import Opener, Sealer, next_key, parse_length
from kwaai.wire import frames
from kwaai.wire.codec import WireError

ALICE, BOB, EVE = (SecretKey(bytes([n]) * 32) for n in (1, 2, 3))
A, B, E = (LinkIdentity(key, bytes([n]) * 16) for n, key in enumerate((ALICE, BOB, EVE)))

# Of the small-order points of Curve25519 (RFC 7748, section 6.1, and errata).
SMALL_ORDER = [
    bytes(32),
    (1).to_bytes(32, "little"),
    (2**255 - 19 - 1).to_bytes(32, "little"),
    (2**255 - 19).to_bytes(32, "little"),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
]


def pass_on(message: bytes, to: Handshake) -> None:
    assert to.message_size(message[:2]) == len(message) - 2
    to.receive(message[2:])


def shake(dialer: Handshake, listener: Handshake) -> None:
    pass_on(dialer.first_message(), listener)
    pass_on(listener.reply(), dialer)
    pass_on(dialer.reply(), listener)


def test_both_learn_who_the_other_is_and_share_two_keys() -> None:
    dialer, listener = Handshake(A, B.peer), Handshake(B, None)
    shake(dialer, listener)
    ours, theirs = dialer.agree(), listener.agree()
    assert dialer.is_finished
    assert listener.is_finished
    assert (ours.hello.peer, ours.hello.instance) == (B.peer, bytes([1]) * 16)
    assert (theirs.hello.peer, theirs.hello.instance) == (A.peer, bytes(16))
    assert ours.version == theirs.version == 1
    assert ours.send_key == theirs.receive_key
    assert ours.receive_key == theirs.send_key
    assert ours.send_key != ours.receive_key


def test_the_sizes_of_the_messages() -> None:
    dialer, listener = Handshake(A, B.peer), Handshake(B, None)
    first = dialer.first_message()
    pass_on(first, listener)
    second = listener.reply()
    pass_on(second, dialer)
    assert (len(first), len(second), len(dialer.reply())) == (34, 222, 190)
    assert len(second) <= limits.LINK_HANDSHAKE_BYTES_MAX


def test_the_payload_begins_with_libp2p_s_own() -> None:
    payload = A.payload
    assert payload[:38] == bytes.fromhex("0a24 08011220") + ALICE.public.raw
    static = X25519PrivateKey.from_private_bytes(A.static_bytes).public_key().public_bytes_raw()
    assert payload[38:40] == bytes.fromhex("1240")
    ALICE.public.verify(b"noise-libp2p-static-key:" + static, payload[40:104])
    assert payload[104:] == struct.pack(">HH", 1, 1) + bytes(16)


def test_another_peer_than_expected_is_refused_before_we_say_who_we_are() -> None:
    dialer, listener = Handshake(A, B.peer), Handshake(E, None)
    pass_on(dialer.first_message(), listener)
    second = listener.reply()
    with pytest.raises(WrongPeer) as caught:
        pass_on(second, dialer)
    assert B.peer in caught.value.message
    assert E.peer in caught.value.message
    assert caught.value.peer == E.peer


def test_this_node_itself_is_refused() -> None:
    dialer, listener = Handshake(A, B.peer), Handshake(LinkIdentity(ALICE, bytes(16)), None)
    pass_on(dialer.first_message(), listener)
    with pytest.raises(WrongPeer):
        pass_on(listener.reply(), dialer)
    dialer, listener = Handshake(A, peer_id(BOB.public)), Handshake(B, None)
    listener._identity = LinkIdentity(ALICE, bytes(16))
    pass_on(dialer.first_message(), listener)
    listener._identity = B
    pass_on(listener.reply(), dialer)
    listener._identity = A
    with pytest.raises(WrongPeer, match="itself"):
        pass_on(dialer.reply(), listener)


@pytest.mark.parametrize(
    ("ours", "theirs", "version"),
    [((1, 1), (1, 3), 1), ((1, 3), (2, 5), 3), ((2, 9), (1, 4), 4), ((1, 1), (1, 65535), 1)],
)
def test_the_highest_version_in_common_is_taken(
    ours: tuple[int, int], theirs: tuple[int, int], version: int
) -> None:
    dialer = Handshake(LinkIdentity(ALICE, bytes(16), ours), B.peer)
    listener = Handshake(LinkIdentity(BOB, bytes(16), theirs), None)
    shake(dialer, listener)
    assert dialer.agree().version == listener.agree().version == version


def test_without_a_version_in_common_both_say_so() -> None:
    dialer = Handshake(LinkIdentity(ALICE, bytes(16), (1, 2)), B.peer)
    listener = Handshake(LinkIdentity(BOB, bytes(16), (3, 4)), None)
    shake(dialer, listener)
    for end, said in ((dialer, "3 to 4"), (listener, "1 to 2")):
        with pytest.raises(VersionMismatch, match=said):
            end.agree()


def stranger(payload: bytes, *, initiator: bool) -> NoiseConnection:
    """A peer that speaks Noise, and says what it likes."""
    noise = NoiseConnection.from_name(NAME)
    noise.set_prologue(PROLOGUE)
    noise.set_keypair_from_private_bytes(Keypair.STATIC, E.static_bytes)
    noise.set_as_initiator() if initiator else noise.set_as_responder()
    noise.start_handshake()
    return noise


FIELDS = struct.pack(">HH", 1, 1) + bytes(16)
LIES: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "another's identity": lambda: B.payload,
    "another's key": lambda: B.payload[:38] + E.payload[38:],
    "no signature": lambda: E.payload[:40] + bytes(64) + E.payload[104:],
    "a key that is not Ed25519": lambda: b"\x0a\x24\x08\x00" + E.payload[4:],
    "a payload that ends early": lambda: E.payload[:-1],
    "version nought": lambda: E.payload[:104] + struct.pack(">HH", 0, 1) + bytes(16),
    "versions the wrong way round": lambda: E.payload[:104] + struct.pack(">HH", 2, 1) + bytes(16),
}


@pytest.mark.parametrize("name", LIES)
@pytest.mark.parametrize("role", ["dialer", "listener"])
def test_lies_are_refused(name: str, role: str) -> None:
    payload = LIES[name]()
    noise = stranger(payload, initiator=role == "dialer")
    if role == "listener":
        honest = Handshake(A, E.peer)
        noise.read_message(honest.first_message()[2:])
        last = bytes(noise.write_message(payload))
    else:
        honest = Handshake(A, None)
        honest.receive(bytes(noise.write_message(b"")))
        noise.read_message(honest.reply()[2:])
        last = bytes(noise.write_message(payload))
    with pytest.raises(WireError):
        honest.receive(last)
    assert honest.hello is None


def test_what_follows_the_known_fields_is_for_later_versions() -> None:
    noise = stranger(b"", initiator=False)
    honest = Handshake(A, E.peer)
    noise.read_message(honest.first_message()[2:])
    honest.receive(bytes(noise.write_message(E.payload + b"more")))
    assert honest.hello is not None


@pytest.mark.parametrize("point", SMALL_ORDER, ids=lambda point: point.hex()[:8])
def test_keys_of_small_order_are_refused(point: bytes) -> None:
    listener = Handshake(B, None)
    listener.receive(point)
    with pytest.raises(WireError, match="unfit"):
        listener.reply()
    dialer = Handshake(A, B.peer)
    dialer.first_message()
    with pytest.raises(WireError):
        dialer.receive(point + bytes(188))


def test_a_first_message_that_says_something_is_refused() -> None:
    listener = Handshake(B, None)
    noise = stranger(b"", initiator=True)
    with pytest.raises(WireError):
        listener.receive(bytes(noise.write_message(b"early")))


def test_another_protocol_s_prologue_is_refused() -> None:
    noise = NoiseConnection.from_name(NAME)
    noise.set_keypair_from_private_bytes(Keypair.STATIC, E.static_bytes)
    noise.set_as_responder()
    noise.start_handshake()
    dialer = Handshake(A, E.peer)
    noise.read_message(dialer.first_message()[2:])
    with pytest.raises(WireError, match="forged"):
        dialer.receive(bytes(noise.write_message(E.payload)))


@pytest.mark.parametrize("which", [1, 2])
def test_messages_of_another_handshake_are_refused(which: int) -> None:
    recorded: list[bytes] = []
    dialer, listener = Handshake(A, B.peer), Handshake(B, None)
    recorded.append(dialer.first_message())
    pass_on(recorded[0], listener)
    recorded.append(listener.reply())
    pass_on(recorded[1], dialer)
    recorded.append(dialer.reply())

    if which == 1:
        fresh = Handshake(A, B.peer)
        fresh.first_message()
    else:
        fresh = Handshake(B, None)
        pass_on(recorded[0], fresh)
        fresh.reply()
    with pytest.raises(WireError, match="forged, changed or replayed"):
        pass_on(recorded[which], fresh)


@settings(max_examples=30)
@given(st.data())
def test_a_changed_byte_anywhere_is_refused(data: st.DataObject) -> None:
    dialer, listener = Handshake(A, B.peer), Handshake(B, None)
    pass_on(dialer.first_message(), listener)
    second = bytearray(listener.reply()[2:])
    second[data.draw(st.integers(0, len(second) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(WireError):
        dialer.receive(bytes(second))


@pytest.mark.parametrize("head", [b"GE", b"\x00\x00", b"\x00\x21", b"\xff\xff", b"\x16\x03"])
def test_what_is_no_first_message_is_known_by_two_bytes(head: bytes) -> None:
    with pytest.raises(WireError, match="does not begin a link's handshake"):
        Handshake(B, None).message_size(head)


@given(st.binary(min_size=2, max_size=2))
def test_a_message_is_never_longer_than_the_bound(head: bytes) -> None:
    dialer = Handshake(A, B.peer)
    try:
        assert dialer.message_size(head) <= limits.LINK_HANDSHAKE_BYTES_MAX
    except WireError:
        assert not 32 < int.from_bytes(head, "big") <= limits.LINK_HANDSHAKE_BYTES_MAX


@given(st.binary(max_size=300))
def test_any_payload_is_parsed_or_refused(payload: bytes) -> None:
    with pytest.raises(WireError):
        parse_hello(payload, bytes(32))


# Records.


def test_records_open_in_order_and_only_once() -> None:
    sealer, opener = Sealer(b"k" * 32, 0.0), Opener(b"k" * 32, 0.0)
    first, second = sealer.seal(b"one"), sealer.seal(b"two")
    assert parse_length(first, 0) == len(first) - 4 == 3 + 16
    with pytest.raises(WireError, match="forged"):
        opener.open(second[4:])
    assert opener.open(first[4:]) == b"one"
    with pytest.raises(WireError, match="forged"):
        opener.open(first[4:])
    assert opener.open(memoryview(second)[4:]) == b"two"


def test_the_example_of_the_specification() -> None:
    sealed = Sealer(bytes(range(32)), 0.0).seal(frames.encode_ready())
    page = (Path(__file__).parents[2] / "docs/protocol/link.md").read_text("utf-8")
    assert f"`{sealed[:4].hex()} {sealed[4:].hex()}`" in page


def test_keys_go_on_and_never_back() -> None:
    sealer, opener = Sealer(b"k" * 32, 0.0), Opener(b"k" * 32, 0.0)
    for now_s in (1.0, 2.0):
        assert opener.open(sealer.seal(b"old")[4:]) == b"old"
        sealer.update(now_s)
        with pytest.raises(WireError):
            opener.open(sealer.seal(b"new")[4:])
        sealer.records = 0
        opener.update(now_s)
        assert opener.open(sealer.seal(b"new")[4:]) == b"new"
        assert sealer.since_s == now_s
    assert next_key(next_key(b"k" * 32)) == sealer._key


def test_the_next_key_is_what_the_specification_says() -> None:
    expected = hmac.digest(bytes(32), b"kwaainet link 1 next key\x01", "sha256")
    assert next_key(bytes(32)) == expected
    assert expected.hex().startswith("e3db8cb27b5ce80e161fa0cd7be9c66a")


def test_a_key_that_the_peer_never_renews_is_refused() -> None:
    opener = Opener(b"k" * 32, 0.0)
    opener.records = limits.LINK_KEY_RECORDS_MAX * limits.LINK_KEY_SLACK
    with pytest.raises(WireError, match="longer than allowed"):
        opener.open(bytes(20))
    assert not opener.is_old(limits.LINK_KEY_AGE_S, limits.LINK_KEY_SLACK)
    assert opener.is_old(limits.LINK_KEY_AGE_S * limits.LINK_KEY_SLACK, limits.LINK_KEY_SLACK)


@pytest.mark.parametrize("size", [0, 15, 16, limits.LINK_RECORD_BYTES_MAX + 17, 2**32 - 1])
def test_lengths_of_records_out_of_bounds_are_refused(size: int) -> None:
    with pytest.raises(WireError):
        parse_length(struct.pack(">I", size), 0)
