"""Reads documents in a process of its own, with a deadline: a broken parser harms no other file.

The node's side of `loader_worker`. The file is opened here, so the process gets that file and no
name to open another; what it answers is checked as if it came from a stranger.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kwaai.errors import DocumentInvalid, ResourceError
from kwaai.limits import (
    DOCUMENT_BLOCKS_MAX,
    DOCUMENT_BYTES_MAX,
    DOCUMENT_CHARS_MAX,
    DOCUMENT_HEADING_CHARS_MAX,
    DOCUMENT_HEADINGS_DEEP_MAX,
    DOCUMENT_PAGES_MAX,
    LOADER_FILES_MAX,
    LOADER_NAME_CHARS_MAX,
    LOADER_TIMEOUT_S,
    LOADER_TIMEOUT_S_MAX,
    LOADER_TIMEOUT_S_PER_MIB,
    MIB,
)
from kwaai.log import get_logger
from kwaai.vpk.documents.document import BLOCK_KINDS, Block, Document, clean
from kwaai.vpk.documents.loader_worker import REPLY

log = get_logger(__name__)

_HEADER_BYTES_MAX = 128 * MIB
_TEXT_BYTES_MAX = 4 * DOCUMENT_CHARS_MAX
_PROBLEMS_MAX = 10
_PROBLEM_CHARS_MAX = 300
_KEPT_ENVIRONMENT = ("HOME", "LANG", "LC_ALL", "PATH", "PYTHONPATH", "TMPDIR", "VIRTUAL_ENV")


class Loader:
    """A process that reads one file after the other; started when the first one comes, and anew
    after a crash, a deadline, or many files. Safe for several tasks: they take turns.
    """

    def __init__(self, timeout_s: float | None = None) -> None:
        """`timeout_s`: for each file; None: by its size."""
        self._timeout_s = timeout_s
        self._turn = asyncio.Lock()
        self._process: _Process | None = None

    async def load(self, path: Path, name: str | None = None) -> Document:
        """Read a file. `name`: what tells its kind, if not the path's own.

        Raises DocumentInvalid, which says why; OSError where it cannot be opened; ResourceError
        where no process can be started.
        """
        async with self._turn:
            descriptor, size = await asyncio.to_thread(open_regular, path)
            try:
                return await self._load(descriptor, size, name or path.name)
            finally:
                os.close(descriptor)

    async def close(self) -> None:
        """End the process. Idempotent."""
        if self._process is not None:
            process, self._process = self._process, None
            await asyncio.to_thread(process.end)

    async def _load(self, descriptor: int, size: int, name: str) -> Document:
        process = self._process
        if process is None:
            process = self._process = await asyncio.to_thread(_Process)
        timeout_s = self._timeout_s or loader_timeout_s(size)
        try:
            header, text = await asyncio.to_thread(
                process.exchange, descriptor, name[-LOADER_NAME_CHARS_MAX:], timeout_s
            )
            document = await asyncio.to_thread(parse_document, header, text)
        except BaseException as error:
            self._process = None
            why = await asyncio.shield(asyncio.to_thread(process.end))
            if isinstance(error, TimeoutError):
                raise DocumentInvalid(f"reading it took more than {timeout_s:.0f} s") from None
            if isinstance(error, OSError | EOFError | ValueError):
                log.warning("loader_lost", why=why, error=str(error)[:200])
                raise DocumentInvalid(f"its reader crashed on it ({why})") from None
            raise
        process.files += 1
        if process.files >= LOADER_FILES_MAX:
            await self.close()
        if isinstance(document, str):
            raise DocumentInvalid(document)
        return document


def loader_timeout_s(size: int) -> float:
    """Return how long reading a file of `size` bytes may take."""
    return min(LOADER_TIMEOUT_S + LOADER_TIMEOUT_S_PER_MIB * size / MIB, LOADER_TIMEOUT_S_MAX)


def open_regular(path: Path) -> tuple[int, int]:
    """Open a file for reading; return its descriptor and size. Raises DocumentInvalid for what is
    no regular file (a pipe would be waited for), or is too large; OSError.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise DocumentInvalid("it is not a regular file")
        if status.st_size > DOCUMENT_BYTES_MAX:
            raise DocumentInvalid(
                f"it has {status.st_size / MIB:,.0f} MiB, more than {DOCUMENT_BYTES_MAX // MIB:,}"
            )
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, status.st_size


class _Process:
    """One incarnation. Its methods block."""

    def __init__(self) -> None:
        self.files = 0
        self._sock, theirs = socket.socketpair()
        command = [sys.executable, "-P", "-B", "-m", "kwaai.vpk.documents.loader_worker"]
        environment = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
        with theirs:
            try:
                self._popen = subprocess.Popen(
                    [*command, str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env=environment,
                    start_new_session=True,
                )
            except OSError as error:
                self._sock.close()
                raise ResourceError(f"no process to read files can be started: {error}") from None

    def exchange(self, descriptor: int, name: str, timeout_s: float) -> tuple[bytes, bytes]:
        """Have a file read; return the reply's header and text. Raises TimeoutError, OSError,
        EOFError, ValueError (a reply over its bounds).
        """
        deadline = time.monotonic() + timeout_s
        request = json.dumps({"name": name.encode("utf-8", "replace").decode()}).encode()
        self._sock.settimeout(timeout_s)
        socket.send_fds(self._sock, [request], [descriptor])
        header_bytes, text_bytes = REPLY.unpack(self._receive(REPLY.size, deadline))
        if header_bytes > _HEADER_BYTES_MAX or text_bytes > _TEXT_BYTES_MAX:
            raise ValueError(f"a reply of {header_bytes} + {text_bytes} bytes")
        header = self._receive(header_bytes, deadline)
        return header, self._receive(text_bytes, deadline)

    def end(self) -> str:
        """Kill the process; return how it had ended before, if it had."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)  # wakes a thread that waits in `exchange`
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(0.2)
        code = self._popen.poll()
        self._popen.kill()
        self._popen.wait()
        self._sock.close()
        if code is None:
            return "it was ended"
        return f"signal {-code}" if code < 0 else f"exit code {code}"

    def _receive(self, size: int, deadline: float) -> bytes:
        buffer = bytearray()
        while len(buffer) < size:
            self._sock.settimeout(max(0.001, deadline - time.monotonic()))
            piece = self._sock.recv(min(size - len(buffer), MIB))
            if not piece:
                raise EOFError
            buffer += piece
            if time.monotonic() > deadline:
                raise TimeoutError
        return bytes(buffer)


def parse_document(header: bytes, text: bytes) -> Document | str:
    """Read a reply: a document, or the reason why there is none. Raises ValueError for what no
    sound process answers.
    """
    try:
        values: Any = json.loads(header)
        if not isinstance(values, dict):
            raise ValueError("a reply that is no object")
        if "invalid" in values:
            return _string(values["invalid"], 1000)
        return _document(values, text.decode("utf-8"))
    except (RecursionError, KeyError, TypeError, IndexError) as error:
        raise ValueError(f"a reply of another shape: {error}") from None


def _document(values: Mapping[str, Any], text: str) -> Document:
    if clean(text) != text:
        raise ValueError("a text with control characters")
    if len(text) > DOCUMENT_CHARS_MAX or len(values["blocks"]) > DOCUMENT_BLOCKS_MAX:
        raise ValueError("a document over its bounds")
    headings = [_heading(path) for path in values["headings"]]
    blocks: list[Block] = []
    end = 0
    for kind, start, stop, heading, page in values["blocks"]:
        if not all(type(number) is int for number in (kind, start, stop, heading)):
            raise ValueError("a block without numbers")
        if not (end <= start < stop <= len(text) and 0 <= kind < len(BLOCK_KINDS) and heading >= 0):
            raise ValueError("a block that is not where it can be")
        if page is not None and not (type(page) is int and 1 <= page <= DOCUMENT_PAGES_MAX):
            raise ValueError("a page that cannot be")
        blocks.append(Block(BLOCK_KINDS[kind], start, stop, headings[heading], page))
        end = stop
    problems = [_string(item, _PROBLEM_CHARS_MAX) for item in values["problems"][:_PROBLEMS_MAX]]
    title = _string(values["title"], DOCUMENT_HEADING_CHARS_MAX)
    media_type = _string(values["media_type"], 100)
    return Document(text, tuple(blocks), media_type, title, tuple(problems))


def _heading(path: Any) -> tuple[str, ...]:
    if not isinstance(path, list) or len(path) > DOCUMENT_HEADINGS_DEEP_MAX:
        raise ValueError("a heading path that cannot be")
    return tuple(_string(name, DOCUMENT_HEADING_CHARS_MAX) for name in path)


def _string(value: Any, chars_max: int) -> str:
    if not isinstance(value, str):
        raise ValueError("a text that is none")
    return " ".join(clean(value[:chars_max]).split())
