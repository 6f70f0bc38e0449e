"""Frames between the node and its worker processes: a JSON header and a binary payload.

Both ends are this program, over a socket pair that nobody else can open, so the codec checks bounds
and shape but not intent. It is not the protocol between nodes.

Frame: u32 little-endian header bytes, u32 payload bytes, header (UTF-8 JSON object), payload.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
from typing import Any

from kwaai.limits import IPC_FRAME_BYTES_MAX, IPC_HEADER_BYTES_MAX

PREFIX = struct.Struct("<II")
SOCKET_BUFFER_BYTES = (
    4 * 1024 * 1024
)  # a batch of 512 rows in few system calls, where the OS allows it

Header = dict[str, Any]


class FrameError(Exception):
    """The other end sent something that is not a frame, or went away in the middle of one."""


class FrameSocket:
    """One end of a blocking stream of frames. One frame at a time in each direction; one thread.

    Reads into one buffer that grows to the largest frame, so most frames take one system call and
    no copy; a received payload is a view into it, good until the next frame is received.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = bytearray(64 * 1024)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER_BYTES)

    def close(self) -> None:
        """Close the stream, also under a thread that waits in `receive`: it gets EOFError."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()

    def send(
        self,
        header: Header,
        payload: memoryview | bytes = b"",
        timeout_s: float | None = None,
    ) -> None:
        """Write one frame whole. Raises OSError when the other end is gone, TimeoutError when it
        does not read: the stream is then of no more use.
        """
        self._sock.settimeout(timeout_s)
        text = json.dumps(header, separators=(",", ":")).encode()
        prefix = PREFIX.pack(len(text), len(payload)) + text
        sent = self._sock.sendmsg([prefix, payload])
        if sent < len(prefix):
            self._sock.sendall(prefix[sent:])
            sent = len(prefix)
        if sent < len(prefix) + len(payload):
            self._sock.sendall(memoryview(payload)[sent - len(prefix) :])

    def receive(self, timeout_s: float | None = None) -> tuple[Header, memoryview]:
        """Read one frame. Raises EOFError at a clean end, TimeoutError, OSError or FrameError."""
        self._sock.settimeout(timeout_s)
        filled = self._fill(0, PREFIX.size)
        header_bytes, payload_bytes = _parse_sizes(self._buffer)
        payload_start = PREFIX.size + header_bytes
        total = payload_start + payload_bytes
        if filled < total:
            filled = self._fill(filled, total)
        if filled > total:
            raise FrameError("a second frame came before the first was answered")
        view = memoryview(self._buffer)
        return _parse_header(view[PREFIX.size : payload_start]), view[payload_start:total]

    def _fill(self, filled: int, wanted: int) -> int:
        if len(self._buffer) < wanted:
            grown = bytearray(wanted)
            grown[:filled] = memoryview(self._buffer)[:filled]
            self._buffer = grown
        view = memoryview(self._buffer)
        while filled < wanted:
            got = self._sock.recv_into(view[filled:])
            if got == 0:
                raise EOFError if filled == 0 else FrameError("the stream ended inside a frame")
            filled += got
        return filled


def _parse_sizes(prefix: bytearray) -> tuple[int, int]:
    header_bytes, payload_bytes = PREFIX.unpack_from(prefix)
    if header_bytes > IPC_HEADER_BYTES_MAX or payload_bytes > IPC_FRAME_BYTES_MAX:
        raise FrameError(f"a frame of {header_bytes} + {payload_bytes} bytes is over the limit")
    return header_bytes, payload_bytes


def _parse_header(text: memoryview) -> Header:
    try:
        header = json.loads(bytes(text))
    except (ValueError, RecursionError) as error:
        raise FrameError(f"a frame's header is not JSON: {error}") from None
    if not isinstance(header, dict):
        raise FrameError("a frame's header is not an object")
    return header
