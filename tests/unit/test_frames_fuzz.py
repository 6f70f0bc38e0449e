"""Mutated records: the mux takes them or raises WireError, quickly and within its bounds.

20,000 in the everyday tests, 1,000,000 under the `slow` marker. A failure prints its seed.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import pytest

from kwaai import limits
from kwaai.wire import frames
from kwaai.wire.codec import WireError
from kwaai.wire.mux import Mux

CHANNELS = [bytes([n]) * 16 for n in (1, 2, 3)]
Mutation = Callable[[random.Random, bytearray], None]


def samples(rng: random.Random) -> list[bytes]:
    """Records that a right peer may send, of every kind."""
    channel = CHANNELS[0]
    head = frames.data_head
    return [
        head(frames.WHOLE, channel, 40) + rng.randbytes(40),
        head(frames.FIRST, channel, 1024) + rng.randbytes(1024),
        head(frames.DATA, channel, 1024) + rng.randbytes(1024),
        head(frames.LAST, channel, 3) + b"end",
        head(frames.WHOLE, frames.CONTROL, 100) + rng.randbytes(100),
        head(frames.WHOLE, b"?" * 16, 9) + b"not there",
        frames.encode_abort(channel),
        frames.encode_credit(channel, 1000),
        frames.encode_closed(CHANNELS[2]),
        frames.encode_ping(b"12345678") + frames.encode_pong(b"12345678"),
        frames.encode_padding(20) + frames.encode_key_update(),
        frames.encode_goodbye(frames.Reason.STOPPING, "good night"),
        frames.encode_ready(),
        b"".join(head(frames.WHOLE, c, 9) + b"many here" for c in CHANNELS),
    ]


def flip(rng: random.Random, data: bytearray) -> None:
    data[rng.randrange(min(len(data), 48))] ^= 1 << rng.randrange(8)


def put(rng: random.Random, data: bytearray) -> None:
    data[rng.randrange(min(len(data), 24))] = rng.choice((0, 1, 4, 16, 0x7F, 0x80, 0xFF))


def cut(rng: random.Random, data: bytearray) -> None:
    del data[rng.randrange(len(data)) :]


def grow(rng: random.Random, data: bytearray) -> None:
    data += rng.randbytes(rng.randrange(1, 30))


def swap_kind(rng: random.Random, data: bytearray) -> None:
    data[0] = rng.choice((*range(8), *range(0x10, 0x15), 0x15, 0x20))


def double(rng: random.Random, data: bytearray) -> None:
    data += data[: rng.randrange(1, len(data) + 1)]


MUTATIONS: tuple[Mutation, ...] = (flip, put, cut, grow, swap_kind, double)


def new_mux() -> Mux:
    mux = Mux()
    for channel in CHANNELS:
        mux.queue(mux.open(channel, None), [bytes(3000)], 3000)
    return mux


def check(mux: Mux) -> None:
    assert len(mux._answers) <= limits.LINK_ANSWERS_MAX
    assert len(mux._told) <= limits.LINK_CLOSED_TOLD_MAX
    for state in mux._channels.values():
        assert 0 <= state.used <= state.window
        assert 0 <= state.credit <= state.window
        assert state.partial_bytes == sum(map(len, state.partial))
        assert state.partial_bytes <= limits.LINK_MESSAGE_BYTES_MAX


def fuzz(count: int, seed: int) -> None:
    rng = random.Random(seed)
    bases = samples(rng)
    mux = new_mux()
    slowest_s, refused = 0.0, 0
    for n in range(count):
        data = bytearray(bases[int(rng.random() * len(bases))])
        for _ in range(1 + (rng.random() < 0.3)):
            MUTATIONS[int(rng.random() * len(MUTATIONS))](rng, data)
            if not data:
                break
        record = bytes(data)
        began_s = time.thread_time()
        try:
            if mux.receive_whole(record) is None:
                mux.receive(record)
        except WireError:
            refused += 1
            mux = new_mux()
        slowest_s = max(slowest_s, time.thread_time() - began_s)
        if n % 50 == 0:
            check(mux)
            mux.next_record()
    check(mux)
    assert 0 < refused < count
    assert slowest_s < 10  # a hang, on any machine


def test_20_000_mutated_records() -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    fuzz(20_000, seed)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_1_000_000_mutated_records() -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    fuzz(1_000_000, seed)
