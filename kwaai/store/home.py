"""Where this node keeps its files: `$KWAAINET_HOME`, or `~/.kwaainet`.

Makes directories and checks who may write to them; does not read or write the files inside.
Paths as in the reference network (reference digest, section 12).
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from kwaai.errors import ConfigError, DiskFull

HOME_VARIABLE = "KWAAINET_HOME"
DIRECTORY_MODE = 0o700


@dataclass(frozen=True, slots=True)
class Home:
    """The paths of one node. Nothing here need exist yet."""

    path: Path

    @property
    def identity_key(self) -> Path:
        return self.path / "identity.key"

    @property
    def config_yaml(self) -> Path:
        return self.path / "config.yaml"

    @property
    def models(self) -> Path:
        return self.path / "models"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def run(self) -> Path:
        return self.path / "run"

    @property
    def credentials(self) -> Path:
        return self.path / "credentials"

    @property
    def log_file(self) -> Path:
        return self.logs / "kwaainet.log"

    @property
    def directories(self) -> tuple[Path, ...]:
        return (self.path, self.models, self.logs, self.run, self.credentials)


def kwaai_home() -> Path:
    """Return `$KWAAINET_HOME` made absolute, or `~/.kwaainet`. Touches no disk."""
    named = os.environ.get(HOME_VARIABLE, "")
    if named:
        return Path(os.path.abspath(os.path.expanduser(named)))
    try:
        return Path.home() / ".kwaainet"
    except RuntimeError as error:
        raise ConfigError(
            f"this user has no home directory; set {HOME_VARIABLE} to a directory you can write to"
        ) from error


def ensure_home(path: Path) -> Home:
    """Create the directories that are missing, for this user only (0700), and check the rest.

    Raises ConfigError where one cannot be made, is no directory, or is open to other users' writes
    (who could then put a key or a model of their own in place); DiskFull.
    """
    home = Home(path)
    for directory in home.directories:
        try:
            directory.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        except FileExistsError as error:
            raise ConfigError(
                f"{directory} is a file, and a directory is needed there; move it away, "
                f"or set {HOME_VARIABLE} to another directory"
            ) from error
        except OSError as error:
            raise _cannot_make(directory, error) from error
        _check_directory(directory)
    return home


def _cannot_make(directory: Path, error: OSError) -> ConfigError | DiskFull:
    reason = os.strerror(error.errno) if error.errno else str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(f"cannot create {directory}: {reason}; free some space and try again")
    return ConfigError(
        f"cannot create {directory}: {reason}; set {HOME_VARIABLE} to a directory you can write to"
    )


def _check_directory(directory: Path) -> None:
    mode = stat.S_IMODE(directory.stat().st_mode)
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigError(
            f"{directory} can be written to by other users (mode {mode:04o}); "
            f"run: chmod go-w {directory}"
        )
    if not os.access(directory, os.W_OK | os.X_OK):
        raise ConfigError(
            f"{directory} cannot be written to by this user; "
            f"set {HOME_VARIABLE} to a directory you can write to"
        )
