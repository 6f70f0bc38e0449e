"""The file that holds the API key: read with bounds, refused where others can read it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from kwaai import limits
from kwaai.errors import ConfigError


def read_api_key(path: Path, setting: str = "api_key_file") -> str:
    """Return the one word that the file holds. `setting`: which names the file.

    Raises ConfigError that never quotes it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ConfigError(
            f"cannot read {setting} {path}: {error.strerror}", param=setting
        ) from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(f"{setting} {path} is not a regular file", param=setting)
        if stat.S_IMODE(status.st_mode) & 0o077:
            raise ConfigError(
                f"{setting} {path} is open to other users; run: chmod 600 {path}",
                param=setting,
            )
        data = os.read(descriptor, limits.SECRET_FILE_BYTES_MAX + 1)
    finally:
        os.close(descriptor)
    words = data.split()
    if len(data) > limits.SECRET_FILE_BYTES_MAX or len(words) != 1 or not words[0].isascii():
        raise ConfigError(
            f"{setting} {path} must hold one key: one word of plain characters on one line",
            param=setting,
        )
    return words[0].decode("ascii")
