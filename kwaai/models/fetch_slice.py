"""Fetch only the layers that are wanted, by byte ranges, straight into a slice file.

The header comes first, in growing pieces; it says where the tensors are. Then the ranges of the
wanted tensors are fetched and written where the slice has them. An interrupted fetch continues with
the tensors that are not finished. Cutting a file that is here is slices.py; locking is download.py.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from kwaai.errors import DownloadFailed, FileCorrupt, ModelUnsupported
from kwaai.limits import (
    GGUF_HEADER_BYTES_MAX,
    HUB_GAP_BYTES_MAX,
    HUB_HEADER_PIECE_BYTES,
    HUB_STATE_SAVE_BYTES,
    MANIFEST_BYTES_MAX,
)
from kwaai.log import get_logger
from kwaai.models.fetch_whole import identity, make_way, recorded, write_record
from kwaai.models.gguf import GGUFHeader, NeedMoreData, check_layout, parse_header, read_header
from kwaai.models.gguf_check import check_loadable
from kwaai.models.hub import FileChanged, Hub, RangesIgnored, RemoteFile, Repository
from kwaai.models.manifest import Manifest, parse_manifest
from kwaai.models.partial import Partial, ensure_room
from kwaai.models.progress import Meter
from kwaai.models.slices import SlicePart, SlicePlan, copy_parts, group_of
from kwaai.models.spans import Span, merge_parts, scatter
from kwaai.models.verify import expected_plan, verify_slice
from kwaai.types import ModelHandle

log = get_logger(__name__)

MANIFEST_SUFFIX = ".kwaai.json"
NO_MANIFEST = (
    "sizes and structure only: the repository publishes no manifest of this file, and a hub's hash "
    "is of the whole file"
)

BY_WHOLE = "cut from a whole file that has the SHA-256 that the hub states"

Planner = Callable[[GGUFHeader, ModelHandle | None], SlicePlan]


@dataclass(frozen=True, slots=True)
class Source:
    """A hub's file of which pieces are wanted."""

    hub: Hub
    file: RemoteFile
    header: GGUFHeader
    manifest: Manifest | None

    @property
    def handle(self) -> ModelHandle | None:
        return self.manifest.handle if self.manifest else None


@dataclass(frozen=True, slots=True)
class Fetched:
    resumed_bytes: int
    verified: str


def open_source(hub: Hub, file: RemoteFile, repository: Repository, meter: Meter) -> Source:
    """Fetch a file's header, and the manifest that the repository publishes beside it, if any.

    Raises FileChanged, DownloadFailed, and FileCorrupt or ModelUnsupported for a bad header.
    """
    header = _fetch_header(hub, file, meter)
    manifest = None
    if file.path + MANIFEST_SUFFIX in repository.paths:
        path = file.path + MANIFEST_SUFFIX
        try:
            manifest = parse_manifest(hub.fetch_small(repository, path, MANIFEST_BYTES_MAX))
        except FileCorrupt as error:
            raise FileCorrupt(f"{file.repository}: {path}: {error.message}") from error
    return Source(hub, file, header, manifest)


def cut_here(
    source: Path, file: RemoteFile, endpoint: str, plan_of: Planner, final: Path, meter: Meter
) -> Fetched:
    """Cut what a plan asks for out of a whole copy on this disk that has the hub's hash."""
    plan = plan_of(read_header(source), None)
    ensure_room(final.parent, plan.total_bytes, final.name)
    meter.begin("cutting", final.name, plan.copied_bytes)
    make_way(final)
    copy_parts(source, final, plan)
    meter.advance(plan.copied_bytes, fetched=False)
    plan_id = hashlib.sha256(plan.header).hexdigest()
    groups = _groups(plan)
    more: dict[str, object] = {
        "plan": plan_id,
        "verified": BY_WHOLE,
        "verified_groups": groups,
        "unverified_groups": [],
    }
    write_record(final, endpoint, file, more)
    return Fetched(plan.copied_bytes, BY_WHOLE)


def _groups(plan: SlicePlan) -> list[str]:
    return sorted({group_of(part.name) for part in plan.parts if part.source_offset is not None})


def fetch_slice(source: Source, plan_of: Planner, final: Path, meter: Meter) -> Fetched:
    """Fetch what a plan asks for to `final`, continuing an earlier fetch.

    Raises FileChanged (start over), FileCorrupt (what came is set aside, named in the message),
    DiskFull and DownloadFailed (what came is kept).
    """
    plan = plan_of(source.header, source.handle)
    plan_id = hashlib.sha256(plan.header).hexdigest()
    record = recorded(final, source.file)
    if record.get("plan") == plan_id:
        return Fetched(plan.copied_bytes, str(record.get("verified")))
    if source.manifest is not None:
        _check_plan(plan, source.manifest)
    with Partial(final, {**identity(source.file), "plan": plan_id}) as partial:
        try:
            resumed = _transfer(source, plan, partial, meter)
            verified = _verify(source, partial.path, meter)
        except (FileChanged, ModelUnsupported):
            partial.discard()
            raise
        except RangesIgnored as error:
            partial.discard()
            raise DownloadFailed(
                f"{error}, so layers cannot be fetched alone: download the whole model, without a "
                "range of blocks"
            ) from error
        except FileCorrupt as error:
            aside = partial.set_aside()
            log.warning("download_corrupt", file=source.file.path, aside=str(aside))
            message = f"{source.file.path}: {error.message}. Set aside as {aside}"
            raise FileCorrupt(message) from error
        digests = dict(partial.finished)
        make_way(final)
        partial.commit()
    _record(source, plan, final, plan_id, verified, digests)
    return Fetched(resumed, verified)


def _record(
    source: Source,
    plan: SlicePlan,
    final: Path,
    plan_id: str,
    verified: str,
    digests: dict[str, str],
) -> None:
    """Write down what the slice is, which groups a manifest vouches for, and what merely came."""
    groups = _groups(plan)
    more: dict[str, object] = {
        "plan": plan_id,
        "verified": verified,
        "verified_groups": groups if source.manifest else [],
        "unverified_groups": [] if source.manifest else groups,
        "tensors": digests,
        "handle": source.handle,
    }
    write_record(final, source.hub.settings.endpoint, source.file, more)


def _fetch_header(hub: Hub, file: RemoteFile, meter: Meter) -> GGUFHeader:
    prefix, wanted = bytearray(), HUB_HEADER_PIECE_BYTES
    while True:
        stop = min(wanted, file.size, GGUF_HEADER_BYTES_MAX)
        meter.begin("header", file.path, stop, len(prefix))
        with contextlib.closing(hub.fetch(file, len(prefix), stop)) as chunks:
            for data in chunks:
                prefix += data
                meter.advance(len(data))
        try:
            header = parse_header(bytes(prefix))
            check_layout(header, file.size)
            return header
        except NeedMoreData as more:
            if stop >= min(file.size, GGUF_HEADER_BYTES_MAX):
                raise FileCorrupt(
                    f"{file.repository}: {file.path} ends inside its header: choose another file"
                ) from None
            wanted = max(2 * wanted, more.minimum_bytes)
        except FileCorrupt as error:
            raise FileCorrupt(f"{file.repository}: {file.path}: {error.message}") from error


def _transfer(source: Source, plan: SlicePlan, partial: Partial, meter: Meter) -> int:
    """Fetch the parts that are not finished. Returns the bytes of those that are."""
    wanted = [part for part in plan.parts if part.source_offset is not None]
    done = _still_good(wanted, partial)
    resumed = sum(part.nbytes for part in done)
    spans = merge_parts((part for part in wanted if part not in done), HUB_GAP_BYTES_MAX)
    # The slice's header, and the digests that are kept beside it.
    records = 2 * len(plan.header) + 256 * len(plan.parts)
    ensure_room(
        partial.final.parent, plan.copied_bytes - resumed + records, f"slice {partial.final.name}"
    )
    meter.begin("fetching", partial.final.name, plan.copied_bytes, resumed)
    partial.resize(plan.total_bytes)  # stubs and padding stay holes: they read as zeros
    partial.write(0, plan.header)
    try:
        for span in spans:
            _transfer_span(source, span, partial, meter)
    finally:
        partial.sync()
        partial.save()
    return resumed


def _transfer_span(source: Source, span: Span, partial: Partial, meter: Meter) -> None:
    at, unsaved = span.start, 0
    digests = {part.name: hashlib.sha256() for part in span.parts}
    with contextlib.closing(source.hub.fetch(source.file, span.start, span.stop)) as chunks:
        for data in chunks:
            for part, offset, piece in scatter(span, at, data):
                partial.write(part.destination_offset + offset, piece)
                digests[part.name].update(piece)
                if offset + len(piece) == part.nbytes:
                    partial.finished[part.name] = digests[part.name].hexdigest()
                meter.advance(len(piece))
            at += len(data)
            unsaved += len(data)
            if unsaved >= HUB_STATE_SAVE_BYTES:
                partial.save()
                unsaved = 0


def _still_good(wanted: Iterable[SlicePart], partial: Partial) -> set[SlicePart]:
    """Return the parts whose bytes on the disk still have the hash that was written down."""
    done: set[SlicePart] = set()
    for part in wanted:
        digest = partial.finished.get(part.name)
        if digest is not None and digest == partial.sha256(part.destination_offset, part.nbytes):
            done.add(part)
        else:
            partial.finished.pop(part.name, None)
    return done


def _check_plan(plan: SlicePlan, manifest: Manifest) -> None:
    """Raise FileCorrupt when the header contradicts the manifest, before any tensor is fetched."""
    if expected_plan(parse_header(plan.header), manifest).header != plan.header:
        raise FileCorrupt("the published manifest is of another file")


def _verify(source: Source, path: Path, meter: Meter) -> str:
    """Raise FileCorrupt unless the slice is sound. Returns what that rests on."""
    header, size = read_header(path), path.stat().st_size
    if header.get("kwaai.slice.kind", "layers") == "layers":
        check_loadable(header, size)
    if source.manifest is None:
        return NO_MANIFEST
    meter.begin("verifying", path.name.removesuffix(".partial"), size)
    verify_slice(path, source.manifest, lambda count: meter.advance(count, fetched=False))
    return f"header and tensors match the manifest that the repository publishes ({source.handle})"
