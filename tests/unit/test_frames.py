"""Frames: what may be in a record, and what is refused."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwaai import limits
from kwaai.wire import frames
from kwaai.wire.codec import WireError
from kwaai.wire.frames import Reason

CHANNEL = bytes(range(16))


def frame(kind: int, body: bytes) -> bytes:
    return struct.pack(">I", kind << 24 | len(body)) + body


def test_the_bytes_of_every_kind() -> None:
    assert frames.encode_padding(3) == bytes.fromhex("00000003 000000")
    assert frames.encode_ping(b"12345678") == bytes.fromhex("01000008") + b"12345678"
    assert frames.encode_pong(b"12345678") == bytes.fromhex("02000008") + b"12345678"
    assert frames.encode_credit(CHANNEL, 258) == bytes.fromhex("03000014") + CHANNEL + b"\0\0\1\2"
    assert frames.encode_closed(CHANNEL) == bytes.fromhex("04000010") + CHANNEL
    assert frames.encode_key_update() == bytes.fromhex("05000000")
    assert frames.encode_goodbye(Reason.BUSY, "é") == bytes.fromhex("06000003 03") + "é".encode()
    assert frames.encode_ready() == bytes.fromhex("07000000")
    assert frames.data_head(frames.WHOLE, CHANNEL, 5) == bytes.fromhex("13000015") + CHANNEL
    assert frames.encode_abort(CHANNEL) == bytes.fromhex("14000010") + CHANNEL


def test_frames_of_a_record_are_split() -> None:
    data = frames.encode_ready() + frames.encode_ping(b"12345678") + frames.encode_padding(0)
    assert frames.split_frames(data) == [(7, 4, 4), (1, 8, 16), (0, 20, 20)]


REFUSED = {
    "nothing": b"",
    "half a head": b"\0\0",
    "a body that is missing": frame(frames.PING, bytes(8))[:-1],
    "a kind that is unknown": frame(0x08, b""),
    "another kind that is unknown": frame(0xFF, bytes(20)),
    "a ping of 7 bytes": frame(frames.PING, bytes(7)),
    "a pong of 9 bytes": frame(frames.PONG, bytes(9)),
    "a credit without bytes": frame(frames.CREDIT, CHANNEL),
    "a key update with a body": frame(frames.KEY_UPDATE, b"x"),
    "a goodbye without a reason": frame(frames.GOODBYE, b""),
    "a goodbye that is too long": frame(frames.GOODBYE, bytes(258)),
    "a ready with a body": frame(frames.READY, b"x"),
    "a piece without bytes": frame(frames.WHOLE, CHANNEL),
    "a first piece that is too short": frame(frames.FIRST, CHANNEL + bytes(1023)),
    "a middle piece that is too short": frame(frames.DATA, CHANNEL + bytes(1023)),
    "a piece that is too long": frame(frames.WHOLE, CHANNEL + bytes(65537)),
    "an abort with bytes": frame(frames.ABORT, CHANNEL + b"x"),
    "too many frames": frames.encode_padding(0) * (limits.LINK_FRAMES_MAX + 1),
    "a length beyond the record": struct.pack(">I", frames.PADDING << 24 | 60000),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    with pytest.raises(WireError):
        frames.split_frames(REFUSED[name])


@given(st.binary(max_size=200))
def test_any_bytes_are_split_exactly_or_refused(data: bytes) -> None:
    try:
        found = frames.split_frames(data)
    except WireError:
        return
    at = 0
    for _, start, stop in found:
        assert start == at + 4
        assert stop >= start
        at = stop
    assert at == len(data)


@given(st.sampled_from(Reason), st.text(max_size=600))
def test_a_goodbye_comes_back_in_words_that_can_be_printed(reason: Reason, text: str) -> None:
    text = text.encode(errors="ignore").decode()
    data = frames.encode_goodbye(reason, text)
    ((kind, start, stop),) = frames.split_frames(data)
    said, words = frames.parse_goodbye(data[start:stop])
    assert (kind, said) == (frames.GOODBYE, reason)
    assert not words or words.isprintable()
    if text.isprintable() and len(text.encode()) <= limits.LINK_GOODBYE_BYTES_MAX:
        assert words == text


@pytest.mark.parametrize("body", [b"\x09", b"\x00\xff"])
def test_a_goodbye_that_makes_no_sense_is_refused(body: bytes) -> None:
    with pytest.raises(WireError):
        frames.parse_goodbye(body)


@given(st.integers(0, limits.LINK_FRAGMENT_BYTES_MAX + 1))
def test_a_whole_message_is_known_from_its_head(size: int) -> None:
    record = frames.data_head(frames.WHOLE, CHANNEL, size) + bytes(size)
    is_whole = 0 < size <= limits.LINK_FRAGMENT_BYTES_MAX
    assert frames.whole_bytes(record) == (size if is_whole else None)
    assert frames.whole_bytes(record + frames.encode_ready()) is None
    assert frames.whole_bytes(record[:-1]) is None
