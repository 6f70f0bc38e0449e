"""A Unix socket in the node's home: listen on it, for this user only, and connect to it.

Speaks no protocol. A path that is too long for the system (108 bytes on Linux) is reached through
its directory's descriptor where there is /proc, and refused elsewhere.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from kwaai.errors import ConfigError, NodeRunning
from kwaai.limits import CONTROL_BACKLOG, SOCKET_PATH_BYTES_MAX
from kwaai.store.home import HOME_VARIABLE, Home

SOCKET_MODE = 0o600


def control_socket(home: Home) -> Path:
    """Return where the node of this home listens for its owner's programs."""
    return home.run / "kwaai.sock"


def listen_unix(path: Path) -> socket.socket:
    """Listen at `path`, for this user only (0600); what a dead node left there is replaced.

    Raises NodeRunning where somebody listens there, ConfigError where nobody can.
    """
    with contextlib.suppress(OSError), connect_unix(path, 1.0):
        raise NodeRunning(f"another node listens on {path} already; `kwaainet stop` ends it")
    if _is_socket(path):
        path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _address(path) as address:
            listener.bind(address)
        path.chmod(SOCKET_MODE)  # nobody connects before listen()
        listener.listen(CONTROL_BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigError(f"cannot listen on {path}: {error.strerror or error}") from error
    except BaseException:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


def connect_unix(path: Path, timeout_s: float) -> socket.socket:
    """Connect to whoever listens at `path`. Raises OSError where nobody does."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(timeout_s)
    try:
        with _address(path) as address:
            connection.connect(address)
    except BaseException:
        connection.close()
        raise
    return connection


def remove_unix(path: Path, identity: tuple[int, int]) -> None:
    """Take the socket away, if it is still the one that `socket_identity` told of."""
    with contextlib.suppress(OSError):
        if socket_identity(path) == identity:
            path.unlink()


def socket_identity(path: Path) -> tuple[int, int]:
    """Return what tells this file from another one at the same path."""
    found = path.lstat()
    return found.st_dev, found.st_ino


def _is_socket(path: Path) -> bool:
    try:
        return stat.S_ISSOCK(path.lstat().st_mode)
    except OSError:
        return False


@contextlib.contextmanager
def _address(path: Path) -> Iterator[str]:
    if len(os.fsencode(path)) <= SOCKET_PATH_BYTES_MAX:
        yield str(path)
        return
    descriptors = Path("/proc/self/fd")
    if not descriptors.is_dir():
        raise ConfigError(
            f"the path {path} is too long for a socket (more than {SOCKET_PATH_BYTES_MAX} bytes); "
            f"set {HOME_VARIABLE} to a shorter directory"
        )
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield str(descriptors / str(directory) / path.name)
    finally:
        os.close(directory)
