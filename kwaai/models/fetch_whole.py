"""Bring a hub's file to this disk whole: from a copy that is here already, or over the network.

Fetches are continued where an earlier one ended. What comes out has the hash that the hub states,
where it states one, and a header that llama.cpp can be trusted with; anything else is set aside.
Does not choose the file, and does not lock: download.py does.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path

from kwaai.atomic import AtomicFile, set_aside, sync_directory, write_atomic
from kwaai.errors import FileCorrupt, ModelUnsupported
from kwaai.limits import GGUF_HEADER_BYTES_MAX, HUB_HEADER_PIECE_BYTES, MIB
from kwaai.log import get_logger
from kwaai.models.gguf import NeedMoreData, parse_header, read_header
from kwaai.models.gguf_check import check_loadable
from kwaai.models.hub import FileChanged, Hub, RangesIgnored, RemoteFile
from kwaai.models.partial import Partial, ensure_room, load_json
from kwaai.models.progress import Meter

log = get_logger(__name__)

BY_HASH = "the whole file has the SHA-256 that the hub states"
BY_SIZE = "size and structure only: the hub states no hash of this file"


def identity(file: RemoteFile) -> dict[str, object]:
    """Return what two fetches must agree in to be of the same bytes."""
    content = file.sha256 or file.etag or file.commit
    return {
        "repository": file.repository,
        "path": file.path,
        "size": file.size,
        "content": content,
    }


def record_path(path: Path) -> Path:
    """Return where it is written down what a downloaded file is and how it was verified."""
    return path.with_name(path.name + ".download.json")


def write_record(path: Path, endpoint: str, file: RemoteFile, more: dict[str, object]) -> None:
    """Write down what `path` is a copy of; `mtime_ns` and `size` tell later whether it still is."""
    status = path.stat()
    source = {**identity(file), "endpoint": endpoint, "commit": file.commit, "sha256": file.sha256}
    record = {"format": 1, "source": source, "mtime_ns": status.st_mtime_ns, **more}
    text = json.dumps({**record, "size": status.st_size}, sort_keys=True, indent=1)
    write_atomic(record_path(path), text.encode(), mode=0o644)


def recorded(path: Path, file: RemoteFile) -> dict[str, object]:
    """Return the record of `path` when it is a copy of `file`, untouched since; else empty."""
    record = load_json(record_path(path))
    source = record.get("source")
    if not isinstance(source, dict) or not _is_untouched(path, record):
        return {}
    same_source = {key: source.get(key) for key in identity(file)} == identity(file)
    return record if same_source else {}


def _is_untouched(path: Path, record: dict[str, object]) -> bool:
    """Answer whether a file is still what it was when its record was written."""
    if not path.is_file():
        return False
    status = path.stat()
    return (record.get("mtime_ns"), record.get("size")) == (status.st_mtime_ns, status.st_size)


def is_here(path: Path, endpoint: str, file: RemoteFile, meter: Meter) -> bool:
    """Answer whether `path` holds `file`: by its record, else by its hash (then recorded)."""
    if recorded(path, file):
        return True
    if file.sha256 is None or not path.is_file() or path.stat().st_size != file.size:
        return False
    if hash_file(path, meter) != file.sha256:
        return False
    write_record(path, endpoint, file, {"verified": BY_HASH})
    return True


def adopt(cached: Path, final: Path, endpoint: str, file: RemoteFile, meter: Meter) -> bool:
    """Take over a file of another program's cache: linked where possible, else copied.

    Answers False, and leaves everything as it was, when the copy is not the hub's file.
    """
    if file.sha256 is None or hash_file(cached, meter) != file.sha256:
        return False
    make_way(final)
    try:
        os.link(cached.resolve(), final)
        sync_directory(final.parent)
    except OSError:  # another disk, or one without hard links
        ensure_room(final.parent, file.size, file.path)
        with cached.open("rb") as source, AtomicFile(final, mode=0o644) as target:
            while data := source.read(MIB):
                target.file.write(data)
    write_record(final, endpoint, file, {"verified": BY_HASH})
    return True


def fetch_whole(hub: Hub, file: RemoteFile, final: Path, meter: Meter) -> int:
    """Fetch `file` to `final`, continuing an earlier fetch. Returns the bytes that were here
    before.

    Raises FileChanged and RangesIgnored (start over), FileCorrupt (what came is set aside, named in
    the message), ModelUnsupported, DiskFull and DownloadFailed (what came is kept).
    """
    with Partial(final, identity(file)) as partial:
        try:
            resumed = _transfer(hub, file, partial, meter)
            partial.sync()
            verified = _verify(file, partial.path, meter)
        except (FileChanged, RangesIgnored, ModelUnsupported):
            partial.discard()
            raise
        except FileCorrupt as error:
            aside = partial.set_aside()
            log.warning("download_corrupt", file=file.path, aside=str(aside))
            raise FileCorrupt(f"{file.path}: {error.message}. Set aside as {aside}") from error
        make_way(final)
        partial.commit()
    write_record(final, hub.settings.endpoint, file, {"verified": verified})
    return resumed


def hash_file(path: Path, meter: Meter) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as source:
        meter.begin("verifying", path.name.removesuffix(".partial"), path.stat().st_size)
        while data := source.read(MIB):
            digest.update(data)
            meter.advance(len(data), fetched=False)
    return digest.hexdigest()


def _transfer(hub: Hub, file: RemoteFile, partial: Partial, meter: Meter) -> int:
    if partial.size > file.size:
        partial.resize(0)
    at = resumed = partial.size
    ensure_room(partial.final.parent, file.size - at, file.path)
    meter.begin("fetching", file.path, file.size, at)
    check_at = HUB_HEADER_PIECE_BYTES if at == 0 else file.size + 1
    with contextlib.closing(hub.fetch(file, at, file.size)) as chunks:
        for data in chunks:
            partial.write(at, data)
            at += len(data)
            meter.advance(len(data))
            if at >= check_at:
                check_at = _checked_prefix(file, partial, at)
    return resumed


def _checked_prefix(file: RemoteFile, partial: Partial, at: int) -> int:
    """Refuse a bad header before gigabytes are fetched. Returns at how many bytes to look again."""
    prefix = b"".join(partial.read(0, min(at, GGUF_HEADER_BYTES_MAX)))
    try:
        check_loadable(parse_header(prefix), file.size)
    except NeedMoreData as more:
        return max(more.minimum_bytes, 2 * at)
    return file.size + 1


def _verify(file: RemoteFile, path: Path, meter: Meter) -> str:
    """Raise FileCorrupt unless the fetched file is the hub's. Returns what that rests on."""
    if file.sha256 is not None:
        found = hash_file(path, meter)
        if found != file.sha256:
            raise FileCorrupt(f"the SHA-256 of what came is {found}, the hub states {file.sha256}")
    check_loadable(read_header(path), file.size)
    return BY_HASH if file.sha256 else BY_SIZE


def make_way(final: Path) -> None:
    """Set aside a file that has the name we need and is not as we fetched it.

    An older version that is, is replaced.
    """
    if final.exists() and not _is_untouched(final, load_json(record_path(final))):
        log.warning("download_replaces", file=str(final), aside=str(set_aside(final)))
