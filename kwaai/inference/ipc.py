"""Frames between the node and its worker processes: a JSON header and a binary payload.

Both ends are this program, over a socket pair that nobody else can open, so the codec checks bounds
and shape but not intent. It is not the protocol between nodes.

Frame: u32 little-endian header bytes, u32 payload bytes, u32 where the payload is (0: behind the
header, 1: in the memory that both ends share), header (UTF-8 JSON object), payload.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import socket
import struct
import tempfile
from typing import Any

from kwaai.limits import IPC_FRAME_BYTES_MAX, IPC_HEADER_BYTES_MAX

PREFIX = struct.Struct("<III")
INLINE_BYTES_MAX = 32 * 1024  # more goes through shared memory: two copies and some wake-ups less

Header = dict[str, Any]
OK_PREFIX = b'{"ok":true'
"""What the header of every reply but an error begins with."""


class FrameError(Exception):
    """The other end sent something that is not a frame, or went away in the middle of one."""


class FrameSocket:
    """One end of a stream of frames. One frame at a time in each direction; one thread.

    `send` and `receive` wait; `begin_send` and `poll` do not, for an event loop.

    Reads into one buffer that grows to the largest frame, so most frames take one system call and
    no copy; a received payload is a view, good until the next frame in either direction. Large
    payloads lie in `shared`, where there is one: requests and replies take turns in it.
    """

    def __init__(self, sock: socket.socket, shared: mmap.mmap | None = None) -> None:
        self._sock, self._timeout_s = sock, sock.gettimeout()
        self._buffer = bytearray(64 * 1024)
        self._shared = memoryview(shared) if shared is not None else memoryview(b"")
        self._unsent: list[memoryview] = []
        self._filled = 0

    def close(self) -> None:
        """Close the stream, also under a thread that waits in `receive`: it gets EOFError."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
        self._shared = memoryview(b"")  # unmapped when the last view of a payload is gone

    def send(
        self,
        header: Header,
        payload: memoryview | bytes = b"",
        timeout_s: float | None = None,
    ) -> None:
        """Write one frame whole. Raises OSError when the other end is gone, TimeoutError when it
        does not read: the stream is then of no more use.
        """
        self.send_encoded(encode_header(header), payload, timeout_s)

    def send_encoded(
        self, text: bytes, payload: memoryview | bytes = b"", timeout_s: float | None = None
    ) -> None:
        """As `send`, with a header that `encode_header` has made before the moment that counts."""
        self._set_timeout(timeout_s)
        shared = self._shared  # another thread may close the stream
        if INLINE_BYTES_MAX < len(payload) <= len(shared):
            shared[: len(payload)] = payload
            self._sock.sendall(PREFIX.pack(len(text), len(payload), 1) + text)
            return
        prefix = PREFIX.pack(len(text), len(payload), 0) + text
        sent = self._sock.sendmsg([prefix, payload])
        if sent < len(prefix):
            self._sock.sendall(prefix[sent:])
            sent = len(prefix)
        if sent < len(prefix) + len(payload):
            self._sock.sendall(memoryview(payload)[sent - len(prefix) :])

    def receive(self, timeout_s: float | None = None) -> tuple[Header, memoryview]:
        """Read one frame. Raises EOFError at a clean end, TimeoutError, OSError or FrameError."""
        text, payload = self.receive_encoded(timeout_s)
        return parse_header(text), payload

    def receive_encoded(self, timeout_s: float | None = None) -> tuple[bytes, memoryview]:
        """As `receive`, but leave the header for `parse_header` to read when there is time."""
        shared = self._shared  # another thread may close the stream
        self._set_timeout(timeout_s)
        filled = self._fill(0, PREFIX.size)
        header_bytes, payload_bytes, is_shared = self._parse_sizes(len(shared))
        payload_start = PREFIX.size + header_bytes
        total = payload_start + (0 if is_shared else payload_bytes)
        if filled < total:
            filled = self._fill(filled, total)
        if filled > total:
            raise FrameError("a second frame came before the first was answered")
        view = memoryview(self._buffer)
        text = bytes(view[PREFIX.size : payload_start])
        return text, shared[:payload_bytes] if is_shared else view[payload_start:total]

    def fileno(self) -> int:
        """The socket's descriptor, for an event loop."""
        return self._sock.fileno()

    def begin_send(self, text: bytes, payload: memoryview | bytes = b"") -> bool:
        """Begin to write a frame without waiting; say whether all of it went. Else `go_on_sending`
        when the socket can be written. Raises OSError.
        """
        self._set_timeout(0.0)
        shared = self._shared
        is_shared = INLINE_BYTES_MAX < len(payload) <= len(shared)
        prefix = PREFIX.pack(len(text), len(payload), int(is_shared)) + text
        if is_shared:
            shared[: len(payload)] = payload
            payload = b""
        try:
            sent = self._sock.sendmsg([prefix, payload])
        except BlockingIOError:
            sent = 0
        if sent == len(prefix) + len(payload):
            return True
        self._unsent = [
            memoryview(prefix)[sent:],
            memoryview(payload)[max(0, sent - len(prefix)) :],
        ]
        return self.go_on_sending()

    def go_on_sending(self) -> bool:
        """Write more of the frame that was begun; say whether all of it went. Raises OSError."""
        while self._unsent:
            rest = self._unsent[0]
            try:
                sent = self._sock.send(rest) if rest else 0
            except BlockingIOError:
                return False
            self._unsent[0] = rest[sent:]
            if not self._unsent[0]:
                del self._unsent[0]
        return True

    def poll(self) -> tuple[bytes, memoryview] | None:
        """Read what has come, without waiting: a frame as `receive_encoded` gives it, or None while
        it is not whole. Raises EOFError, OSError or FrameError.
        """
        self._set_timeout(0.0)
        shared, total = self._shared, PREFIX.size
        while self._read_some(total):
            if self._filled < PREFIX.size:
                continue
            header_bytes, payload_bytes, is_shared = self._parse_sizes(len(shared))
            total = PREFIX.size + header_bytes + (0 if is_shared else payload_bytes)
            if self._filled >= total:
                break
        else:
            return None
        if self._filled > total:
            raise FrameError("a second frame came before the first was answered")
        self._filled = 0
        view, payload_start = memoryview(self._buffer), PREFIX.size + header_bytes
        text = bytes(view[PREFIX.size : payload_start])
        return text, shared[:payload_bytes] if is_shared else view[payload_start:total]

    def _read_some(self, wanted: int) -> bool:
        if len(self._buffer) < wanted:
            self._grow(self._filled, wanted)
        try:
            got = self._sock.recv_into(memoryview(self._buffer)[self._filled :])
        except BlockingIOError:
            return False
        if got == 0:
            raise EOFError if self._filled == 0 else FrameError("the stream ended inside a frame")
        self._filled += got
        return True

    def _set_timeout(self, timeout_s: float | None) -> None:
        if timeout_s != self._timeout_s:
            self._sock.settimeout(timeout_s)
            self._timeout_s = timeout_s

    def _fill(self, filled: int, wanted: int) -> int:
        self._grow(filled, wanted)
        view = memoryview(self._buffer)
        while filled < wanted:
            got = self._sock.recv_into(view[filled:])
            if got == 0:
                raise EOFError if filled == 0 else FrameError("the stream ended inside a frame")
            filled += got
        return filled

    def _grow(self, filled: int, wanted: int) -> None:
        if len(self._buffer) < wanted:
            grown = bytearray(wanted)
            grown[:filled] = memoryview(self._buffer)[:filled]
            self._buffer = grown

    def _parse_sizes(self, shared_bytes: int) -> tuple[int, int, bool]:
        header_bytes, payload_bytes, place = PREFIX.unpack_from(self._buffer)
        if header_bytes > IPC_HEADER_BYTES_MAX or payload_bytes > IPC_FRAME_BYTES_MAX:
            raise FrameError(f"a frame of {header_bytes} + {payload_bytes} bytes is over the limit")
        if place > 1 or (place == 1 and payload_bytes > shared_bytes):
            raise FrameError("a frame's payload is not where it can be")
        return header_bytes, payload_bytes, place == 1


def make_shared(size: int) -> tuple[int, mmap.mmap]:
    """Make memory that a child process can share by its file descriptor (the caller closes it)."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("kwaainet-worker", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    try:
        os.ftruncate(descriptor, size)
        return descriptor, mmap.mmap(descriptor, size)
    except OSError:
        os.close(descriptor)
        raise


def encode_header(header: Header) -> bytes:
    """Encode a header as a frame carries it."""
    return json.dumps(header, separators=(",", ":")).encode()


def parse_header(text: bytes) -> Header:
    """Read the JSON object of a frame. Raises FrameError for anything else."""
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FrameError(f"a frame's header is not JSON: {error}") from None
    if not isinstance(header, dict):
        raise FrameError("a frame's header is not an object")
    return header
