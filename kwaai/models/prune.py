"""Free the disk of what can be made again or is of no use: cut slices, and leftovers.

Removes slices that were cut here from a whole model (`slices/<handle>/`), temporary files of
writers that were killed (`.NAME.*.part`), files that were set aside as corrupt (`NAME.corrupt-N`),
and records of files that are gone. Never touches a model, a part that was fetched, or a download
that can be continued.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

from kwaai.atomic import exclusive_lock
from kwaai.errors import Locked
from kwaai.limits import LEFTOVER_AGE_S, MODELS_LISTED_MAX, SLICE_UNUSED_S
from kwaai.models.library import MANIFESTS, SLICES
from kwaai.models.partial import load_json

_SLICE: Final = re.compile(r"\d+-\d+\.gguf")
_PART: Final = re.compile(r"\..+\.[0-9a-f]{12}\.part")
_ASIDE: Final = re.compile(r".+\.corrupt-\d+")
_DEPTH: Final = 2
"""Directories below the models directory: owner--model, and file.slices in it."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was removed, and what could not be."""

    slices: tuple[Path, ...]
    leftovers: tuple[Path, ...]
    freed_bytes: int
    kept: tuple[Path, ...]
    """Cut slices that were used lately."""
    busy: tuple[Path, ...]
    """Directories in which another process is cutting now: left as they are."""


def prune(models: Path, *, everything: bool = False, now_s: float | None = None) -> Pruned:
    """Remove what was not used for long, below the directory `models`; `everything`: however new.

    The temporary file of a living writer stays in any case. A process that has a slice open keeps
    reading it, and cannot open it again. Raises OSError when a file cannot be removed.
    """
    now_s = time.time() if now_s is None else now_s
    slices: list[Path] = []
    leftovers: list[Path] = []
    kept: list[Path] = []
    busy: list[Path] = []
    freed = 0
    for directory in _slice_directories(models):
        try:
            with exclusive_lock(directory / ".lock", 0.0):
                for path in _files(directory):
                    if not _SLICE.fullmatch(path.name):
                        continue
                    if everything or now_s - _used_s(path) > SLICE_UNUSED_S:
                        freed += _remove(path, slices)
                    else:
                        kept.append(path)
        except Locked:
            busy.append(directory)
    for path in _below(models, _DEPTH):
        if _is_leftover(path, everything, now_s):
            freed += _remove(path, leftovers)
    for path in _files(models / MANIFESTS):
        if _is_stale_record(path):
            freed += _remove(path, [])
    return Pruned(tuple(slices), tuple(leftovers), freed, tuple(kept), tuple(busy))


def _remove(path: Path, removed: list[Path]) -> int:
    """Remove a file, note it, and return the bytes on the disk that it took."""
    try:
        status = path.lstat()
        path.unlink()
    except FileNotFoundError:  # another was quicker
        return 0
    removed.append(path)
    return status.st_blocks * 512 if status.st_nlink == 1 else 0


def _used_s(path: Path) -> float:
    """When a slice was last asked for: the library sets its access time."""
    status = path.stat()
    return max(status.st_atime, status.st_mtime)


def _is_leftover(path: Path, everything: bool, now_s: float) -> bool:
    # Setting aside keeps the modification time; the change time is then the later one.
    status = path.lstat()
    age_s = now_s - max(status.st_mtime, status.st_ctime)
    if _PART.fullmatch(path.name):
        return age_s > LEFTOVER_AGE_S
    return bool(_ASIDE.fullmatch(path.name)) and (everything or age_s > LEFTOVER_AGE_S)


def _is_stale_record(path: Path) -> bool:
    """Say whether a record of the manifest cache is of a file that is gone."""
    stamp = load_json(path).get("stamp")
    return isinstance(stamp, list) and bool(stamp) and not os.path.lexists(str(stamp[0]))


def _slice_directories(models: Path) -> Iterator[Path]:
    return (path for path in _listed(models / SLICES) if path.is_dir() and not path.is_symlink())


def _below(directory: Path, depth: int) -> Iterator[Path]:
    """Yield the files of a directory and of those inside; links are not followed."""
    for path in _listed(directory):
        if path.is_symlink():
            continue
        if path.is_file():
            yield path
        elif depth and path.is_dir():
            yield from _below(path, depth - 1)


def _files(directory: Path) -> Iterator[Path]:
    return (path for path in _listed(directory) if path.is_file() and not path.is_symlink())


def _listed(directory: Path) -> list[Path]:
    if not directory.is_dir():
        return []
    return sorted(islice(directory.iterdir(), MODELS_LISTED_MAX))
