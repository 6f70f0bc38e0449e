"""Files that are whole or absent: atomic writes, setting a bad file aside, one writer per file.

Knows nothing of what the files hold. A reader never sees half a file: the bytes go to a temporary
file in the same directory, are flushed to the disk, and take the name by a rename.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from kwaai.errors import ConfigError, DiskFull, Locked
from kwaai.limits import LOCK_POLL_S, LOCK_TIMEOUT_S

DISK_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class AtomicFile:
    """A context manager: write to `.file`; leaving without an error gives it its name, with one
    leaves nothing.

    A full disk (or quota) raises DiskFull. `mode` is the permission of the new file.
    """

    def __init__(self, path: Path, mode: int = 0o600) -> None:
        self.path = path
        self._mode = mode
        self._temporary = path.with_name(f".{path.name[:120]}.{secrets.token_hex(6)}.part")
        self.file: BinaryIO

    def __enter__(self) -> AtomicFile:
        with _disk_full_named(self.path):
            descriptor = os.open(
                self._temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, self._mode
            )
        self.file = os.fdopen(descriptor, "w+b")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            with _disk_full_named(self.path):
                if error is not None:
                    raise error
                self.file.flush()
                os.fsync(self.file.fileno())
                self.file.close()
                os.replace(self._temporary, self.path)
        except BaseException:
            # Closing flushes what is buffered, which may fail again; the file goes either way.
            with contextlib.suppress(OSError):
                self.file.close()
            self._temporary.unlink(missing_ok=True)
            raise
        sync_directory(self.path.parent)


def write_atomic(path: Path, data: bytes | Iterable[bytes], mode: int = 0o600) -> None:
    """Write `data` to `path` whole or not at all. Raises DiskFull when there is no room."""
    with AtomicFile(path, mode) as target:
        for chunk in (data,) if isinstance(data, bytes) else data:
            target.file.write(chunk)


def sync_directory(directory: Path) -> None:
    """Flush a directory's entries to the disk, so that a rename in it survives a loss of power."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def set_aside(path: Path) -> Path:
    """Rename a file that must not be used to `NAME.corrupt-<n>` beside it, and return that path."""
    for n in range(1, 10_000):
        aside = path.with_name(f"{path.name}.corrupt-{n}")
        try:
            os.link(path, aside)  # unlike a rename it never replaces a file
        except FileExistsError:
            continue
        except OSError:  # a file system without hard links
            if aside.exists():
                continue
            os.rename(path, aside)
            return aside
        path.unlink()
        return aside
    raise Locked(f"{path} has been set aside 9,999 times; delete the .corrupt files beside it")


@contextlib.contextmanager
def exclusive_lock(path: Path, timeout_s: float = LOCK_TIMEOUT_S) -> Iterator[None]:
    """Hold the lock file `path` (created when absent, left behind) against other processes and
    threads.

    Waits up to `timeout_s` seconds (0: not at all), then raises Locked naming the process that
    holds it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise _locked(path, descriptor) from None
                time.sleep(LOCK_POLL_S)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _locked(path: Path, descriptor: int) -> Locked:
    holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
    return Locked(
        f"{path} is in use by process {holder}; wait until it is done, or end it", retry_after_s=5.0
    )


@contextlib.contextmanager
def _disk_full_named(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL_ERRNOS:
            raise DiskFull(
                f"{disk_full_reason(error)} while writing {path}; free some space, or set"
                " KWAAINET_HOME to another disk"
            ) from error
        raise


def disk_full_reason(error: OSError) -> str:
    """Say in words why the disk takes no more."""
    if error.errno == errno.EFBIG:
        return "the file is larger than this disk's format, or `ulimit -f`, allows"
    return "no room left on the disk"


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Raise what the disk says about `path` as DiskFull or ConfigError."""
    try:
        yield
    except OSError as error:
        message = f"cannot write {path}: {os.strerror(error.errno) if error.errno else error}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"{message}; free some space and try again") from error
        raise ConfigError(message) from error
