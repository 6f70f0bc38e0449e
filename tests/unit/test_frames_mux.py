"""The mux: pieces, credit, whose turn it is, and peers that break the rules."""

from __future__ import annotations

import itertools
import random
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwaai import limits
from kwaai.wire import frames
from kwaai.wire.channels import ChannelState, Goodbye, KeyUpdated, Message, Ponged, Ready, Refused
from kwaai.wire.codec import WireError
from kwaai.wire.mux import Mux

A, B = b"a" * 16, b"b" * 16
CHARGE = limits.LINK_MESSAGE_CHARGE_BYTES
KIB, MIB = 1024, 1024 * 1024


def piece(kind: int, channel: bytes, body: bytes) -> bytes:
    return frames.data_head(kind, channel, len(body)) + body


def records(mux: Mux) -> list[bytes]:
    found = []
    while record := mux.next_record():
        assert len(record) <= limits.LINK_RECORD_BYTES_MAX
        found.append(record)
    return found


def take(mux: Mux, record: bytes) -> list[Any]:
    """As a link does: the usual record by the short way."""
    state = mux.receive_whole(record)
    if state is not None:
        return [Message(state, record[frames.DATA_OVERHEAD_BYTES :])]
    return mux.receive(record)


class Pair:
    """Two ends with the same channels, and what the second has received."""

    def __init__(self, *channels: bytes) -> None:
        self.left, self.right = Mux(), Mux()
        self.out = {channel: self.left.open(channel, None) for channel in channels}
        self.into = {channel: self.right.open(channel, None) for channel in channels}
        self.received: list[tuple[bytes, bytes]] = []
        self.consumed = 0

    def send(self, channel: bytes, data: bytes) -> None:
        state = self.out[channel]
        record = self.left.whole_record(state, [data], len(data))
        if record is not None:
            self._take(record)
        else:
            assert self.left.queue(state, [data], len(data)) is not None

    def _take(self, record: bytes) -> None:
        for event in take(self.right, record):
            if isinstance(event, Message):
                self.received.append((event.channel.id, event.data))

    def settle(self, consume: bool = True) -> None:
        """Move records both ways until nothing is left; the second end consumes at once."""
        while True:
            if consume:
                for channel, data in self.received[self.consumed :]:
                    self.right.grant(self.into[channel], len(data))
                self.consumed = len(self.received)
            record = self.left.next_record()
            if record:
                self._take(record)
            back = records(self.right)
            for answer in back:
                self.left.receive(answer)
            if not record and not back:
                return


messages = st.lists(
    st.tuples(st.sampled_from([A, B]), st.integers(1, 200_000) | st.integers(1, 300)), max_size=12
)


@given(messages, st.integers(0, 2**32))
def test_every_message_arrives_whole_and_in_its_channel_s_order(
    wanted: list[tuple[bytes, int]], seed: int
) -> None:
    rng = random.Random(seed)
    pair = Pair(A, B)
    sent = [(channel, rng.randbytes(size)) for channel, size in wanted]
    for channel, data in sent:
        pair.send(channel, data)
    pair.settle()
    for channel in (A, B):
        arrived = [data for name, data in pair.received if name == channel]
        assert arrived == [data for name, data in sent if name == channel]


def test_a_message_of_many_parts_is_one_message() -> None:
    pair = Pair(A)
    parts = [b"head", memoryview(bytes(100_000)), bytearray(b"tail")]
    pair.left.queue(pair.out[A], parts, 100_008)
    pair.settle()
    assert pair.received == [(A, b"head" + bytes(100_000) + b"tail")]


def test_a_parts_memory_may_be_of_any_shape() -> None:
    rows = memoryview(struct.pack("8f", *range(8))).cast("f", (2, 4))
    pair = Pair(A)
    pair.left.queue(pair.out[A], [rows], rows.nbytes)
    pair.settle()
    assert pair.received == [(A, rows.tobytes())]


def test_the_longest_message_passes_and_one_byte_more_is_refused() -> None:
    pair = Pair(A)
    longest = bytes(limits.LINK_MESSAGE_BYTES_MAX)
    pair.send(A, longest)
    pair.settle()
    assert pair.received == [(A, longest)]
    pair.send(A, longest + b"x")
    with pytest.raises(WireError, match="a message has over"):
        pair.settle()


def test_a_small_message_overtakes_a_long_one_of_another_channel() -> None:
    pair = Pair(A, B)
    pair.send(A, bytes(2 * MIB))
    pair._take(pair.left.next_record())
    pair.send(B, b"quick")
    pair._take(pair.left.next_record())
    assert pair.received == [(B, b"quick")]


def test_a_small_message_waits_for_a_long_one_of_its_own_channel() -> None:
    pair = Pair(A)
    pair.send(A, bytes(2 * MIB))
    pair.send(A, b"later")
    pair.settle()
    assert [len(data) for _, data in pair.received] == [2 * MIB, 5]


def test_long_messages_take_turns() -> None:
    pair = Pair(A, B)
    pair.send(A, bytes(MIB))
    pair.send(B, bytes(MIB))
    seen = [record[4:20] for record in records(pair.left)]
    assert seen[:6] == [A, B, A, B, A, B]


def test_a_long_message_does_not_starve_behind_small_ones() -> None:
    channels = [bytes([n]) * 16 for n in range(1, 20)]
    pair = Pair(A, *channels)
    pair.send(A, bytes(MIB))
    for _ in range(30):
        for channel in channels:
            pair.left.queue(pair.out[channel], [bytes(30 * KIB)], 30 * KIB)
    order = [record[4:20] for record in records(pair.left)]
    pieces = [at for at, channel in enumerate(order) if channel == A]
    assert len(pieces) == 16
    longest_wait = max(b - a for a, b in itertools.pairwise(pieces))
    assert longest_wait <= limits.LINK_EXPRESS_TURNS_MAX + 1


def test_many_channels_share_fairly() -> None:
    channels = [n.to_bytes(16, "big") for n in range(1, 101)]
    pair = Pair(*channels)
    for channel in channels:
        for _ in range(4):
            pair.left.queue(pair.out[channel], [channel + bytes(200 * KIB)], 16 + 200 * KIB)
    sent: dict[bytes, int] = dict.fromkeys(channels, 0)
    for _ in range(200):
        record = pair.left.next_record()
        sent[record[4:20]] += 1
    assert set(sent.values()) == {2}


def test_without_credit_nothing_goes_and_credit_lets_it_go_on() -> None:
    pair = Pair(A)
    for _ in range(3):
        pair.send(A, bytes(2 * MIB))
    pair.settle(consume=False)
    assert len(pair.received) == 1
    state = pair.into[A]
    assert state.used <= limits.LINK_WINDOW_BYTES
    pair.right.grant(state, 2 * MIB)
    pair.settle(consume=False)
    assert len(pair.received) == 2
    pair.right.grant(state, 2 * MIB)
    pair.settle(consume=False)
    assert len(pair.received) == 3


def test_small_messages_use_credit_too() -> None:
    pair = Pair(A)
    most = limits.LINK_WINDOW_BYTES // (1 + CHARGE)
    for _ in range(most):
        assert pair.left.whole_record(pair.out[A], [b"x"], 1) is not None
    assert pair.left.whole_record(pair.out[A], [b"x"], 1) is None


def test_more_cannot_be_consumed_than_came() -> None:
    pair = Pair(A)
    pair.send(A, b"four")
    pair.settle(consume=False)
    with pytest.raises(ValueError, match="consumed of"):
        pair.right.grant(pair.into[A], 5)
    pair.right.grant(pair.into[A], 4)
    with pytest.raises(ValueError, match="consumed of"):
        pair.right.grant(pair.into[A], 0)


def test_a_peer_that_ignores_credit_is_found_out_before_it_fills_memory() -> None:
    mux = Mux()
    mux.open(A, None)
    record = piece(frames.WHOLE, A, bytes(64 * KIB))
    for _ in range(limits.LINK_WINDOW_BYTES // (64 * KIB + CHARGE)):
        take(mux, record)
    with pytest.raises(WireError, match="credit"):
        take(mux, record)


def test_so_is_one_that_never_ends_a_message() -> None:
    mux = Mux()
    state = mux.open(A, None)
    mux.receive(piece(frames.FIRST, A, bytes(1 * KIB)))
    for _ in range(limits.LINK_MESSAGE_BYTES_MAX // KIB - 1):
        mux.receive(piece(frames.DATA, A, bytes(1 * KIB)))
    with pytest.raises(WireError, match="a message has over"):
        mux.receive(piece(frames.LAST, A, b"x"))
    assert len(state.partial) == limits.LINK_MESSAGE_BYTES_MAX // KIB


def test_a_small_piece_does_not_keep_its_record_in_memory() -> None:
    mux = Mux()
    state = mux.open(A, None)
    mux.receive(piece(frames.FIRST, A, bytes(KIB)) + frames.encode_padding(60 * KIB))
    assert isinstance(state.partial[0], bytes)


def test_a_message_taken_back_is_forgotten_by_the_peer() -> None:
    pair = Pair(A)
    outgoing = pair.left.queue(pair.out[A], [bytes(MIB)], MIB)
    assert outgoing is not None
    pair._take(pair.left.next_record())
    pair.left.cancel(outgoing)
    pair.send(A, b"after")
    pair.settle()
    assert pair.received == [(A, b"after")]
    assert pair.into[A].partial_bytes == 0
    pair.left.cancel(outgoing)  # again: nothing happens
    assert not pair.left.has_output


def test_a_message_taken_back_before_it_began_leaves_no_trace() -> None:
    pair = Pair(A)
    first = pair.left.queue(pair.out[A], [bytes(MIB)], MIB)
    second = pair.left.queue(pair.out[A], [b"second"], 6)
    assert first is not None
    assert second is not None
    pair.left.cancel(second)
    pair.left.cancel(first)
    assert records(pair.left) == []


def test_taken_back_messages_give_their_credit_back() -> None:
    pair = Pair(A)
    for _ in range(20):
        outgoing = pair.left.queue(pair.out[A], [bytes(MIB)], MIB)
        assert outgoing is not None
        for _ in range(8):
            pair._take(pair.left.next_record())
            for back in records(pair.right):
                pair.left.receive(back)
        pair.left.cancel(outgoing)
    pair.send(A, bytes(2 * MIB))
    pair.settle()
    assert len(pair.received) == 1


def test_no_more_than_so_many_messages_wait() -> None:
    mux = Mux()
    state = mux.open(A, None)
    for _ in range(limits.LINK_SENDS_WAITING_MAX):
        assert mux.queue(state, [b"x"], 1) is not None
    assert mux.queue(state, [b"x"], 1) is None


def test_pieces_for_a_channel_that_is_not_open_are_dropped_counted_and_told_once() -> None:
    left, right = Mux(), Mux()
    state = left.open(A, None)
    left.queue(state, [bytes(200 * KIB)], 200 * KIB)
    answers = b""
    for record in records(left):
        assert right.receive(record) == []
        answers += b"".join(records(right))
    assert right.dropped_pieces == 4
    assert answers == frames.encode_closed(A)
    assert left.receive(answers) == [Refused(state)]
    assert left.receive(answers) == []
    assert left.whole_record(state, [b"x"], 1) is None


def test_what_is_remembered_of_closed_channels_is_bounded() -> None:
    mux = Mux()
    for n in range(1, 1000):
        mux.receive(piece(frames.WHOLE, n.to_bytes(16, "big"), b"x"))
    assert len(mux._told) == limits.LINK_CLOSED_TOLD_MAX


def test_a_closed_channel_sends_and_takes_nothing() -> None:
    pair = Pair(A)
    pair.left.queue(pair.out[A], [bytes(MIB)], MIB)
    pair._take(pair.left.next_record())
    assert len(pair.left.close(pair.out[A])) == 1
    assert pair.left.close(pair.out[A]) == []
    pair.settle()
    assert pair.received == []
    assert pair.into[A].partial_bytes == 0
    assert pair.left.receive(frames.encode_credit(A, 5)) == []
    assert pair.left.receive(piece(frames.WHOLE, A, b"x")) == []


def test_control_messages_come_whole_even_when_credit_is_short() -> None:
    left, right = Mux(), Mux()
    sent = [bytes([n]) * limits.LINK_CONTROL_BYTES_MAX for n in range(20)]
    for data in sent:
        assert left.queue(left.control, [data], len(data)) is not None
    received = []
    while left.has_output or right.has_output:
        for record in records(left):
            for event in take(right, record):
                assert event.channel is right.control
                received.append(event.data)
                right.grant(right.control, len(event.data))
        for record in records(right):
            left.receive(record)
    assert received == sent


def test_the_small_events() -> None:
    mux = Mux()
    assert mux.receive(frames.encode_ready()) == [Ready()]
    assert mux.receive(frames.encode_pong(b"12345678")) == [Ponged(b"12345678")]
    assert mux.receive(frames.encode_key_update()) == [KeyUpdated()]
    goodbye = frames.encode_goodbye(frames.Reason.STOPPING, "bye")
    assert mux.receive(goodbye) == [Goodbye(frames.Reason.STOPPING, "bye")]
    assert mux.receive(frames.encode_ping(b"87654321")) == []
    assert mux.next_record() == frames.encode_pong(b"87654321")


def test_a_peer_that_reads_no_answers_is_cut_off() -> None:
    mux = Mux()
    ping = frames.encode_ping(bytes(8))
    for _ in range(limits.LINK_ANSWERS_MAX):
        mux.receive(ping)
    with pytest.raises(WireError, match="more answers than it reads"):
        mux.receive(ping)


MISBEHAVED = {
    "a middle without a first": [piece(frames.DATA, A, bytes(KIB))],
    "a last without a first": [piece(frames.LAST, A, b"x")],
    "two firsts": [piece(frames.FIRST, A, bytes(KIB))] * 2,
    "a whole within a message": [piece(frames.FIRST, A, bytes(KIB)), piece(frames.WHOLE, A, b"x")],
    "an abort of nothing": [frames.encode_abort(A)],
    "credit for nothing": [frames.encode_credit(A, 1)],
    "credit of nothing": [frames.encode_credit(A, 0)],
    "credit beyond the window": [frames.encode_credit(A, 2**32 - 1)],
    "a control message in pieces": [piece(frames.FIRST, frames.CONTROL, bytes(KIB))],
    "the control channel closed": [frames.encode_closed(frames.CONTROL)],
    "a key update before the end": [frames.encode_key_update() + frames.encode_ready()],
}


@pytest.mark.parametrize("name", MISBEHAVED)
def test_misbehaved(name: str) -> None:
    mux = Mux()
    mux.open(A, None)
    *before, last = MISBEHAVED[name]
    for record in before:
        take(mux, record)
    with pytest.raises(WireError):
        take(mux, last)


def test_a_channel_is_opened_once() -> None:
    mux = Mux()
    mux.open(A, None)
    for channel in (A, frames.CONTROL, b"short"):
        with pytest.raises(ValueError, match="16 bytes"):
            mux.open(channel, None)
    assert mux.channel_count == 1


class Model:
    """Random operations on two ends, with the invariants checked after each."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.pair = Pair(A, B)
        self.expected: dict[bytes, list[bytes]] = {A: [], B: []}

    def step(self) -> None:
        rng, pair = self.rng, self.pair
        choice = rng.random()
        if choice < 0.4:
            channel = rng.choice([A, B])
            data = rng.randbytes(rng.choice([1, 100, 5_000, 70_000, 600_000]))
            if len(pair.out[channel].queue) < limits.LINK_SENDS_WAITING_MAX:
                self.expected[channel].append(data)
                pair.send(channel, data)
        elif choice < 0.7:
            record = pair.left.next_record()
            if record:
                pair._take(record)
        elif choice < 0.85:
            for record in records(pair.right):
                pair.left.receive(record)
        elif pair.consumed < len(pair.received):
            channel, data = pair.received[pair.consumed]
            pair.consumed += 1
            pair.right.grant(pair.into[channel], len(data))
        for channel in (A, B):
            self.check(pair.out[channel], pair.into[channel])

    def check(self, sender: ChannelState, receiver: ChannelState) -> None:
        assert 0 <= sender.credit <= sender.window
        assert 0 <= receiver.used <= receiver.window
        assert sender.credit <= receiver.window - receiver.used


@pytest.mark.parametrize("seed", range(20))
def test_random_operations_keep_the_invariants(seed: int) -> None:
    model = Model(seed)
    for _ in range(400):
        model.step()
    pair = model.pair
    pair.settle()
    for channel in (A, B):
        assert [d for c, d in pair.received if c == channel] == model.expected[channel]
