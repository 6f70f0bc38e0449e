"""The node's log file: written with a bound on its size, read from its end, followed as it grows.

One older file is kept beside it (`.1`). What is written is `kwaai.log`'s business. Nothing here
belongs to a node: `kwaainet logs` reads when none runs.
"""

from __future__ import annotations

import contextlib
import io
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from kwaai import limits


class LogFile(io.TextIOBase):
    """A text stream that appends to `path`, and begins it anew when it is full.

    With `is_output` the process's standard output and error go there too, and move with it: what a
    library or the interpreter prints is in the log, and in the newest one.
    """

    def __init__(
        self, path: Path, *, is_output: bool = False, bytes_max: int = limits.LOG_BYTES_MAX
    ) -> None:
        self._path, self._is_output, self._bytes_max = path, is_output, bytes_max
        self._descriptor = self._open()

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):  # a full disk costs lines of the log, not the node
            if self._is_replaced():  # another process of this node found it full
                self._reopen()
            elif os.fstat(self._descriptor).st_size >= self._bytes_max:
                os.replace(self._path, older(self._path))
                self._reopen()
            os.write(self._descriptor, text.encode("utf-8", "replace"))
        return len(text)

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()

    def _is_replaced(self) -> bool:
        try:
            there = os.stat(self._path)
        except FileNotFoundError:
            return True
        return not os.path.samestat(there, os.fstat(self._descriptor))

    def _reopen(self) -> None:
        old, self._descriptor = self._descriptor, self._open()
        os.close(old)

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        descriptor = os.open(self._path, flags, 0o600)
        if self._is_output:
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
        return descriptor


def older(path: Path) -> Path:
    """Return where the log before this one is."""
    return path.with_suffix(f"{path.suffix}.1")


def last_lines(path: Path, count: int) -> list[str]:
    """Return the last `count` lines, those of the older file first where this one has fewer."""
    lines = _tail(path, count)
    if len(lines) < count:
        lines = _tail(older(path), count - len(lines)) + lines
    return lines


def _tail(path: Path, count: int) -> list[str]:
    if count <= 0:
        return []
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - limits.LOG_TAIL_BYTES_MAX))
            data = file.read(limits.LOG_TAIL_BYTES_MAX)
    except FileNotFoundError:
        return []
    return data.decode("utf-8", "replace").splitlines()[-count:]


def follow(path: Path, pause: Callable[[float], None] = time.sleep) -> Iterator[str]:
    """Yield what is appended from now on, for ever, into each new file that takes the name.

    Ends when `pause`, called with seconds between two looks, raises.
    """
    file = _open_at_end(path)
    try:
        while True:
            if text := file.read(limits.LOG_TAIL_BYTES_MAX) if file else b"":
                yield text.decode("utf-8", "replace")
                continue
            new = _open_if_other(path, file)
            if new is None:
                pause(limits.LOG_POLL_S)
                continue
            if file is not None:
                if text := file.read():  # written between our last look and the change
                    yield text.decode("utf-8", "replace")
                file.close()
            file = new
    finally:
        if file is not None:
            file.close()


def _open_at_end(path: Path) -> io.BufferedReader | None:
    try:
        file = open(path, "rb")  # noqa: SIM115  # the caller closes it
    except FileNotFoundError:
        return None
    file.seek(0, os.SEEK_END)
    return file


def _open_if_other(path: Path, file: io.BufferedReader | None) -> io.BufferedReader | None:
    """Open `path` where it is another file than the one that is open, else None."""
    try:
        new = open(path, "rb")  # noqa: SIM115  # the caller closes it
    except FileNotFoundError:
        return None
    if file is not None and os.path.samestat(os.fstat(new.fileno()), os.fstat(file.fileno())):
        new.close()
        return None
    return new
