"""Frames between the node and its workers: what goes in comes out; what is no frame is refused."""

from __future__ import annotations

import asyncio
import json
import mmap
import os
import socket
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwaai.errors import Busy
from kwaai.inference.ipc import (
    INLINE_BYTES_MAX,
    PREFIX,
    FrameError,
    FrameSocket,
    Header,
    make_shared,
)
from kwaai.inference.loopstream import LoopStream
from kwaai.limits import IPC_FRAME_BYTES_MAX, IPC_HEADER_BYTES_MAX

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**64) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


class Pair:
    """A FrameSocket and the bare socket at the other end."""

    def __init__(self) -> None:
        ours, self.bare = socket.socketpair()
        self.stream = FrameSocket(ours)

    def close(self) -> None:
        self.stream.close()
        self.bare.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.close()


def frame(header: bytes, payload: bytes = b"") -> bytes:
    return PREFIX.pack(len(header), len(payload), 0) + header + payload


def read_all(stream: FrameSocket) -> None:
    while True:
        stream.receive(5.0)


@given(st.lists(st.tuples(st.dictionaries(st.text(), JSON), st.binary(max_size=3000)), max_size=4))
def test_frames_come_out_as_they_went_in(frames: list[tuple[Header, bytes]]) -> None:
    left, right = socket.socketpair()
    sender, receiver = FrameSocket(left), FrameSocket(right)
    try:
        for header, payload in frames:
            sender.send(header, payload)
            got, data = receiver.receive(5.0)
            assert (got, bytes(data)) == (header, payload)
    finally:
        sender.close()
        receiver.close()


def test_a_frame_larger_than_every_buffer(pair: Pair) -> None:
    other = FrameSocket(pair.bare)
    payload = bytes(range(256)) * (64 * 1024)  # 16 MiB: the buffers of the socket are at most 4
    thread = threading.Thread(target=other.send, args=({"op": "step"}, memoryview(payload)))
    thread.start()
    header, data = pair.stream.receive(30.0)
    thread.join()
    assert header == {"op": "step"}
    assert data == payload
    other.send({"op": "small"})  # the grown buffer serves small frames too
    assert pair.stream.receive(5.0)[0] == {"op": "small"}


def test_large_payloads_lie_in_shared_memory() -> None:
    size = 4 * INLINE_BYTES_MAX
    descriptor, memory = make_shared(size)
    other_memory = mmap.mmap(descriptor, 0)
    os.close(descriptor)
    left, right = socket.socketpair()
    ours, theirs = FrameSocket(left, memory), FrameSocket(right, other_memory)
    try:
        for length in (INLINE_BYTES_MAX, INLINE_BYTES_MAX + 1, size, size + 1, 0, size):
            payload = os.urandom(length)
            for sender, receiver in ((ours, theirs), (theirs, ours)):
                sender.send({"length": length}, payload)
                header, data = receiver.receive(5.0)
                assert (header, bytes(data)) == ({"length": length}, payload)
        left.sendall(PREFIX.pack(2, size + 1, 1) + b"{}")
        with pytest.raises(FrameError, match="not where it can be"):
            theirs.receive(5.0)
    finally:
        ours.close()
        theirs.close()


def test_a_frame_that_comes_in_single_bytes(pair: Pair) -> None:
    def trickle() -> None:
        for byte in frame(b'{"op":"ping"}', b"abc"):
            pair.bare.sendall(bytes([byte]))

    thread = threading.Thread(target=trickle)
    thread.start()
    header, data = pair.stream.receive(10.0)
    thread.join()
    assert (header, bytes(data)) == ({"op": "ping"}, b"abc")


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (PREFIX.pack(IPC_HEADER_BYTES_MAX + 1, 0, 0), "over the limit"),
        (PREFIX.pack(2, IPC_FRAME_BYTES_MAX + 1, 0), "over the limit"),
        (PREFIX.pack(2, 1, 1) + b"{}", "not where it can be"),
        (PREFIX.pack(2, 0, 2) + b"{}", "not where it can be"),
        (PREFIX.pack(2, 0, 2**32 - 1) + b"{}", "not where it can be"),
        (b"GET / HTTP/1.1\r\n\r\n", "over the limit"),
        (frame(b"not json"), "not JSON"),
        (frame(b""), "not JSON"),
        (frame(b"\xff\xfe{}"), "not JSON"),
        (frame(b"[" * 100_000), "not JSON"),
        (frame(b"[1,2]"), "not an object"),
        (frame(b"null"), "not an object"),
        (frame(b"{}") + b"x", "second frame"),
    ],
)
def test_garbage_is_refused(pair: Pair, data: bytes, problem: str) -> None:
    pair.bare.sendall(data)
    with pytest.raises(FrameError, match=problem):
        pair.stream.receive(5.0)


@given(data=st.binary(max_size=400))
def test_no_bytes_do_more_than_raise(data: bytes) -> None:
    pair = Pair()
    try:
        pair.bare.sendall(data)
        pair.bare.shutdown(socket.SHUT_WR)
        with pytest.raises((FrameError, EOFError)):
            read_all(pair.stream)
    finally:
        pair.close()


def test_the_end_between_frames_and_inside_one(pair: Pair) -> None:
    pair.bare.sendall(frame(b"{}"))
    assert pair.stream.receive(5.0)[0] == {}
    pair.bare.sendall(frame(b"{}", b"abc")[:-1])
    pair.bare.shutdown(socket.SHUT_WR)
    with pytest.raises(FrameError, match="inside a frame"):
        pair.stream.receive(5.0)
    with pytest.raises(EOFError):
        pair.stream.receive(5.0)


def test_silence_ends_at_the_deadline(pair: Pair) -> None:
    with pytest.raises(TimeoutError):
        pair.stream.receive(0.01)
    pair.bare.sendall(frame(b'{"op":"ping"}')[:-2])
    with pytest.raises(TimeoutError):
        pair.stream.receive(0.01)


def test_sending_to_one_who_does_not_read_ends_at_the_deadline(pair: Pair) -> None:
    with pytest.raises(TimeoutError):
        pair.stream.send({}, bytes(32 * 1024 * 1024), 0.01)


def test_sending_to_one_who_has_gone(pair: Pair) -> None:
    pair.bare.close()
    with pytest.raises(OSError, match=r".*"):
        pair.stream.send({"op": "ping"})


def test_closing_wakes_a_thread_that_waits(pair: Pair) -> None:
    ended: list[type[BaseException]] = []
    waiting = threading.Event()

    def wait() -> None:
        waiting.set()
        try:
            pair.stream.receive(30.0)
        except (EOFError, OSError) as error:
            ended.append(type(error))

    thread = threading.Thread(target=wait)
    thread.start()
    waiting.wait()
    pair.stream.close()
    thread.join(10.0)
    assert len(ended) == 1
    pair.stream.close()  # again: no harm


@given(
    header=st.dictionaries(st.text(), JSON, max_size=4),
    payload=st.binary(max_size=2000),
    cut=st.integers(1, 200),
)
def test_poll_gives_a_frame_when_all_of_it_has_come(
    header: Header, payload: bytes, cut: int
) -> None:
    pair = Pair()
    text = json.dumps(header).encode()
    frame = PREFIX.pack(len(text), len(payload), 0) + text + payload
    assert pair.stream.poll() is None
    for at in range(0, len(frame), cut):
        pair.bare.sendall(frame[at : at + cut])
        found = pair.stream.poll()
        assert (found is not None) == (at + cut >= len(frame))
    assert found is not None
    assert (found[0], bytes(found[1])) == (text, payload)
    pair.bare.sendall(frame[:5])
    pair.bare.close()
    with pytest.raises(FrameError, match="inside a frame"):
        pair.stream.poll()
    pair.stream.close()


def test_a_request_that_does_not_fit_the_socket_is_sent_in_pieces() -> None:
    pair = Pair()
    payload = os.urandom(4 * 1024 * 1024)
    frame = PREFIX.pack(2, len(payload), 0) + b"{}" + payload
    assert not pair.stream.begin_send(b"{}", payload)
    received = bytearray()
    while len(received) < len(frame):
        received += pair.bare.recv(1024 * 1024)
        is_through = pair.stream.go_on_sending()
    assert is_through
    assert received == frame
    pair.close()


async def test_a_stream_in_the_loop_breaks_once_and_says_who_is_to_hear_of_it() -> None:
    pair, broken = Pair(), list[tuple[Exception, object]]()
    stream = LoopStream(
        asyncio.get_running_loop(), pair.stream, lambda *problem: broken.append(problem)
    )
    answers: asyncio.Queue[object] = asyncio.Queue()

    def replied(text: bytes, payload: memoryview) -> None:
        answers.put_nowait(bytes(payload))

    def frame(text: bytes, payload: bytes = b"") -> bytes:
        return PREFIX.pack(len(text), len(payload), 0) + text + payload

    stream.post(b"{}", b"", 60.0, replied, answers.put_nowait)
    pair.bare.sendall(frame(b'{"ok":true}', b"rows"))
    assert await answers.get() == b"rows"
    stream.post(b"{}", b"", 60.0, replied, answers.put_nowait)
    pair.bare.sendall(frame(b'{"error":{"code":"busy","message":"full"}}'))
    assert isinstance(await answers.get(), Busy)

    def nonsense(text: bytes, payload: memoryview) -> None:
        answers.put_nowait("seen")
        raise FrameError("rows of no shape")

    stream.post(b"{}", b"", 60.0, nonsense, answers.put_nowait)
    pair.bare.sendall(frame(b'{"ok":true}'))
    await answers.get()
    ((error, failed),) = broken
    assert isinstance(error, FrameError)
    assert failed == answers.put_nowait
    assert stream.close() is None
    pair.close()


@pytest.mark.parametrize("problem", ["unasked", "gone", "late"])
async def test_what_breaks_a_stream_in_the_loop(problem: str) -> None:
    pair = Pair()
    broken: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
    stream = LoopStream(
        asyncio.get_running_loop(), pair.stream, lambda error, failed: broken.set_result(error)
    )
    if problem == "unasked":
        pair.bare.sendall(PREFIX.pack(2, 0, 0) + b"{}")
    elif problem == "gone":
        pair.bare.close()
    else:
        stream.post(b"{}", b"", 0.01, lambda *_: None, lambda error: None)
    expected = {"unasked": FrameError, "gone": EOFError, "late": TimeoutError}
    assert isinstance(await asyncio.wait_for(broken, 10), expected[problem])
    pair.close()
