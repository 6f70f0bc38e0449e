"""Remember what was hashed, so that a file is read whole only when it is new or has changed.

A record holds for the file's path, size, modification time and inode. It saves time and proves
nothing to others: who can write the records can write the models.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from kwaai.atomic import write_atomic
from kwaai.errors import DiskFull, FileCorrupt
from kwaai.limits import MANIFEST_BYTES_MAX
from kwaai.log import get_logger
from kwaai.models.manifest import Manifest, Progress, build_manifest, parse_manifest
from kwaai.types import ModelHandle

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ManifestCache:
    """Records in `directory`, one file each."""

    directory: Path

    def known(self, path: Path) -> Manifest | None:
        """Return the manifest of the file as it is now, or None when it was not hashed yet."""
        record = self._read(path, "manifest")
        if record is None:
            return None
        try:
            return parse_manifest(json.dumps(record).encode())
        except FileCorrupt:
            return None

    def manifest(self, path: Path, progress: Progress | None = None) -> Manifest:
        """Return the manifest of the file, hashing it when needed. Raises FileCorrupt."""
        manifest = self.known(path)
        if manifest is None:
            stamp = _stamp(path)
            manifest = build_manifest(path, progress)
            self._write(path, "manifest", stamp, json.loads(manifest.encoded))
        return manifest

    def is_verified(self, path: Path, handle: ModelHandle) -> bool:
        """Say whether the file as it is now was found to be a part of `handle`."""
        return self._read(path, "part-of") == handle

    def set_verified(self, path: Path, handle: ModelHandle) -> None:
        self._write(path, "part-of", _stamp(path), handle)

    def _record_path(self, path: Path, kind: str) -> Path:
        digest = hashlib.sha256(str(path.resolve()).encode("utf-8", "surrogateescape")).hexdigest()
        return self.directory / f"{digest[:32]}.{kind}.json"

    def _read(self, path: Path, kind: str) -> object:
        record_path = self._record_path(path, kind)
        try:
            with record_path.open("rb") as file:
                record = json.loads(file.read(2 * MANIFEST_BYTES_MAX))
            if isinstance(record, dict) and record.get("stamp") == _stamp(path):
                return record.get("content")
        except (OSError, ValueError, RecursionError):
            pass  # no record, or a broken one: the file is hashed again
        return None

    def _write(self, path: Path, kind: str, stamp: list[int | str], content: object) -> None:
        record = {"stamp": stamp, "content": content}
        try:
            self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_atomic(self._record_path(path, kind), json.dumps(record).encode())
        except (OSError, DiskFull) as error:  # the file is then hashed again next time
            log.warning("manifest_not_remembered", path=str(path), problem=str(error))


def _stamp(path: Path) -> list[int | str]:
    status = path.stat()
    return [str(path.resolve()), status.st_size, status.st_mtime_ns, status.st_ino]
