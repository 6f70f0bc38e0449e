"""A file that is still being fetched: its bytes so far, and beside them a record of what they are.

`NAME.partial` and `NAME.partial.json` survive an interruption; the final name appears only when the
file is whole. Verifies nothing and fetches nothing. The caller holds the lock of the final name.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType

from kwaai.atomic import DISK_FULL_ERRNOS, disk_full_reason, set_aside, sync_directory, write_atomic
from kwaai.errors import DiskFull
from kwaai.limits import HUB_DISK_MARGIN_BYTES, MANIFEST_BYTES_MAX, MIB

Identity = Mapping[str, object]
"""What makes fetched bytes usable again: JSON values, compared as a whole."""


class Partial:
    """A context manager: the open partial file. Leaving it closes the file and keeps both."""

    def __init__(self, final: Path, identity: Identity) -> None:
        self.final = final
        self.path = final.with_name(final.name + ".partial")
        self.finished: dict[str, str] = {}
        """Name of a finished piece to the SHA-256 of its bytes; kept by save()."""
        self._record = final.with_name(final.name + ".partial.json")
        self._identity = dict(identity)
        self._descriptor = -1

    def __enter__(self) -> Partial:
        known = load_json(self._record)
        if known.get("identity") == self._identity and self.path.is_file():
            finished = known.get("finished")
            pairs = finished.items() if isinstance(finished, dict) else ()
            self.finished = {str(name): str(digest) for name, digest in pairs}
        else:
            self.discard()
            self.save()
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._descriptor = os.open(self.path, flags, 0o644)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._descriptor)

    @property
    def size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def resize(self, size: int) -> None:
        with self._full_disk_named():
            os.truncate(self._descriptor, size)

    def write(self, offset: int, data: bytes) -> None:
        """Write `data` at `offset`. Raises DiskFull; what was written before stays."""
        view = memoryview(data)
        with self._full_disk_named():
            while view:
                written = os.pwrite(self._descriptor, view, offset)
                view, offset = view[written:], offset + written

    def read(self, offset: int, count: int) -> Iterator[bytes]:
        """Yield the bytes [offset, offset + count) in pieces; fewer where the file ends."""
        end = offset + count
        while offset < end:
            data = os.pread(self._descriptor, min(MIB, end - offset), offset)
            if not data:
                return
            yield data
            offset += len(data)

    def sha256(self, offset: int, count: int) -> str:
        digest = hashlib.sha256()
        for data in self.read(offset, count):
            digest.update(data)
        return digest.hexdigest()

    def save(self) -> None:
        """Record what the bytes are of, and which pieces are finished."""
        record = {"identity": self._identity, "finished": self.finished}
        with self._full_disk_named():
            write_atomic(self._record, json.dumps(record, sort_keys=True).encode())

    def sync(self) -> None:
        with self._full_disk_named():
            os.fsync(self._descriptor)

    def discard(self) -> None:
        self.finished.clear()
        for path in (self.path, self._record):
            path.unlink(missing_ok=True)

    def set_aside(self) -> Path:
        """Rename the bytes out of the way, never to be used, and return where they are."""
        aside = set_aside(self.path)
        self.discard()
        return aside

    def commit(self) -> None:
        """Give the file its final name. Call sync() and verify before."""
        os.replace(self.path, self.final)
        self._record.unlink(missing_ok=True)
        sync_directory(self.final.parent)

    @contextlib.contextmanager
    def _full_disk_named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in DISK_FULL_ERRNOS:
                raise
            raise self._disk_full(disk_full_reason(error)) from error
        except DiskFull as error:
            raise self._disk_full() from error

    def _disk_full(self, reason: str = "no room left on the disk") -> DiskFull:
        return DiskFull(
            f"{reason}, while fetching {self.final.name}: what came so far is kept in "
            f"{self.path}. Free some space, then run the same command again to continue"
        )


def ensure_room(directory: Path, needed_bytes: int, what: str) -> None:
    """Raise DiskFull with the numbers unless `needed_bytes` fit on the disk of `directory`."""
    free = shutil.disk_usage(directory).free
    if needed_bytes + HUB_DISK_MARGIN_BYTES > free:
        raise DiskFull(
            f"{what} needs {needed_bytes / MIB:.0f} MiB more on the disk of {directory}, "
            f"{free / MIB:.0f} MiB are free: free some space, or set KWAAINET_HOME to another disk"
        )


def load_json(path: Path) -> dict[str, object]:
    """Read a small JSON object of ours; empty when it is absent, too large, or no JSON object."""
    try:
        with path.open("rb") as file:
            data = file.read(MANIFEST_BYTES_MAX + 1)
        value = json.loads(data) if len(data) <= MANIFEST_BYTES_MAX else None
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
