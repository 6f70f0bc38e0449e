"""Finds the files of folders, in one order, without following links or reading any of them."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kwaai.errors import UserError
from kwaai.limits import INGEST_DEPTH_MAX, INGEST_FILES_MAX
from kwaai.vpk.excludes import Excludes

_LEFT_OUT = frozenset(("node_modules", "__pycache__", "$RECYCLE.BIN", "System Volume Information"))
_ENVIRONMENT_MARK = "pyvenv.cfg"
_PICTURES = (".svg", ".svgz")  # text, but none that is read


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A regular file."""

    path: Path
    key: str
    """As `FileState.path`."""
    name: str
    """As `NewDocument.name`; what a terminal might obey is replaced."""
    size: int
    mtime_ns: int
    root: str
    is_named: bool
    """It was asked for by its own name, not found in a folder."""


@dataclass(slots=True)
class Found:
    """What a walk found."""

    files: list[FoundFile] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    """Paths that are left out though somebody may look for them, and why."""
    unread: list[tuple[str, str]] = field(default_factory=list)
    """Paths that could not be looked at or into, and why."""
    missing: list[str] = field(default_factory=list)
    """Paths that were asked for and are not there."""
    roots: list[str] = field(default_factory=list)
    """The paths that were asked for, as keys."""


def key_of(path: Path | str) -> str:
    """Return a path as text that can be stored: bytes that are not UTF-8 are escaped."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def walk(paths: Sequence[Path], excludes: Excludes) -> Found:
    """Find the files of `paths`, each a file or a folder, sorted by name inside each folder.

    Hidden files and folders, node_modules, Python environments and what `excludes` names are left
    out; links inside folders are not followed, a link that was asked for is. Blocks. Raises
    UserError for more files than one run may have.
    """
    found = Found()
    seen: set[str] = set()
    for path in paths:
        root = Path(os.path.realpath(path))
        key = key_of(root)
        found.roots.append(key)
        try:
            status = root.stat()
        except (FileNotFoundError, NotADirectoryError):
            found.missing.append(key)
            continue
        except OSError as error:
            found.unread.append((key, error.strerror or str(error)))
            continue
        if stat.S_ISDIR(status.st_mode):
            _walk_folder(root, excludes, found, seen)
        else:
            _add(found, seen, root, key, root.name, status, key, True)
    return found


def _walk_folder(root: Path, excludes: Excludes, found: Found, seen: set[str]) -> None:
    root_key = key_of(root)
    waiting: list[tuple[str, str, int]] = [(str(root), "", 0)]
    while waiting:
        folder, below, depth = waiting.pop()
        try:
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: os.fsencode(entry.name))
        except OSError as error:
            found.unread.append((key_of(folder), error.strerror or str(error)))
            continue
        if depth and any(entry.name == _ENVIRONMENT_MARK for entry in entries):
            continue
        inner = []
        for entry in entries:
            relative = f"{below}{entry.name}"
            status = _status(entry, relative, excludes, found)
            if status is None:
                continue
            if not stat.S_ISDIR(status.st_mode):
                path, name = Path(entry.path), f"{root.name}/{relative}"
                _add(found, seen, path, key_of(path), name, status, root_key, False)
            elif depth + 1 >= INGEST_DEPTH_MAX:
                why = f"it lies deeper than {INGEST_DEPTH_MAX} folders"
                found.unread.append((key_of(entry.path), why))
            else:
                inner.append((entry.path, f"{relative}/", depth + 1))
        waiting += reversed(inner)


def _status(
    entry: os.DirEntry[str], relative: str, excludes: Excludes, found: Found
) -> os.stat_result | None:
    """Return what an entry is; None for what is left out."""
    if entry.name.startswith(".") or entry.name in _LEFT_OUT:
        return None
    try:
        if entry.is_symlink():
            found.skipped.append((key_of(entry.path), "a symbolic link"))
            return None
        status = entry.stat(follow_symlinks=False)
    except OSError as error:
        found.unread.append((key_of(entry.path), error.strerror or str(error)))
        return None
    is_folder = stat.S_ISDIR(status.st_mode)
    if excludes.leaves_out(key_of(relative), is_folder):
        return None
    if not is_folder and entry.name.lower().endswith(_PICTURES):
        return None
    return status


def _add(
    found: Found,
    seen: set[str],
    path: Path,
    key: str,
    name: str,
    status: os.stat_result,
    root: str,
    is_named: bool,
) -> None:
    if key in seen:
        return
    seen.add(key)
    if not stat.S_ISREG(status.st_mode):
        found.skipped.append((key, "not a regular file"))
        return
    if len(found.files) >= INGEST_FILES_MAX:
        raise UserError(f"more than {INGEST_FILES_MAX:,} files: ingest a part of the folder")
    size, mtime_ns = status.st_size, status.st_mtime_ns
    shown = "".join(sign if sign.isprintable() else "\ufffd" for sign in key_of(name))
    found.files.append(FoundFile(path, key, shown, size, mtime_ns, root, is_named))
