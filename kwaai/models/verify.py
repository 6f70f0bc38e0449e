"""Check a file against a manifest: a whole model, a slice, or an embedding file.

A slice's header is a pure function of the manifest and the range (slices.py), so it is compared
byte for byte; its tensors are hashed under their original names and compared group by group. Does
not repair: who calls sets a file that fails aside, and cuts or fetches it again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from kwaai.errors import FileCorrupt, UserError
from kwaai.limits import COPY_CHUNK_BYTES
from kwaai.models.gguf import GGUFHeader, parse_header, read_header
from kwaai.models.gguf_write import encode_header, lay_out
from kwaai.models.manifest import Manifest, Progress, build_manifest, hash_group
from kwaai.models.slices import SlicePlan, embedding_header, group_of, slice_header
from kwaai.types import LayerRange


def verify_model(path: Path, manifest: Manifest, progress: Progress | None = None) -> Manifest:
    """Return the manifest of the file at `path`, which equals `manifest`.

    Raises FileCorrupt naming the groups or keys that differ.
    """
    found = build_manifest(path, progress)
    if found.handle != manifest.handle:
        differing = _differences(found.groups, manifest.groups)
        differing += _differences(found.metadata, manifest.metadata)
        raise FileCorrupt(
            f"{path} is not {manifest.handle}: {', '.join(differing[:8])} differ; download it again"
        )
    return found


def verify_slice(path: Path, manifest: Manifest, progress: Progress | None = None) -> GGUFHeader:
    """Return the header of the slice or embedding file at `path`, a true part of the model.

    Raises FileCorrupt saying what differs from what the manifest promises.
    """
    header = read_header(path)
    try:
        plan = expected_plan(header, manifest)
        with path.open("rb") as file:
            _check_bytes(file.fileno(), plan, manifest, progress)
    except (FileCorrupt, UserError) as error:
        raise FileCorrupt(
            f"{path} is no part of {manifest.handle}: {error.message}; delete it and fetch it again"
        ) from error
    return header


def expected_plan(header: GGUFHeader, manifest: Manifest) -> SlicePlan:
    """Return what a slice that calls itself what `header` does must look like, to the byte."""
    source = header.get("kwaai.slice.source", None)
    if source not in (None, manifest.handle):
        raise FileCorrupt(f"it was cut from {source}")
    handle = manifest.handle if source is not None else None
    model = _model_header(header, manifest)
    kind = header.get("kwaai.slice.kind", None)
    if kind == "embedding":
        return embedding_header(model, handle)
    if kind != "layers":
        raise FileCorrupt("it is not a slice file (kwaai.slice.kind)")
    layers, head = slice_range(header)
    return slice_header(model, layers, head, handle)


def slice_range(header: GGUFHeader) -> tuple[LayerRange, bool]:
    """Return the range that a slice file says it holds, and whether the head is with it."""
    start, stop = header.get("kwaai.slice.start", None), header.get("kwaai.slice.stop", None)
    head = header.get("kwaai.slice.head", None)
    if not isinstance(start, int) or not isinstance(stop, int) or not isinstance(head, bool):
        raise FileCorrupt("it does not say which layers it holds (kwaai.slice.*)")
    try:
        return LayerRange(start, stop), head
    except ValueError as error:
        raise FileCorrupt(str(error)) from None


def _model_header(header: GGUFHeader, manifest: Manifest) -> GGUFHeader:
    """Rebuild the model's header from the manifest, with long values from the slice, checked."""
    raw_kv: dict[str, bytes] = {}
    for key, entry in manifest.metadata.items():
        if entry.value is not None:
            raw_kv[key] = entry.value
        elif (raw := header.raw_kv.get(key)) is not None and _expected_here(key, header):
            if hashlib.sha256(raw).hexdigest() != entry.sha256:
                raise FileCorrupt(f"its {key} is not the model's")
            raw_kv[key] = raw
    tensors = lay_out(
        (t.name, t.dims, t.ggml_type) for group in manifest.groups.values() for t in group.tensors
    )
    return parse_header(encode_header(raw_kv, tensors))


def _expected_here(key: str, header: GGUFHeader) -> bool:
    """A slice without the head has a tokenizer of its own making: not the model's, nor compared."""
    return not (key.startswith("tokenizer.") and header.get("kwaai.slice.head", None) is False)


def _check_bytes(
    descriptor: int, plan: SlicePlan, manifest: Manifest, progress: Progress | None
) -> None:
    if os.fstat(descriptor).st_size != plan.total_bytes:
        raise FileCorrupt(f"it should have {plan.total_bytes} bytes")
    if os.pread(descriptor, len(plan.header), 0) != plan.header:
        raise FileCorrupt("its header is not what these layers of the model give")
    copied = {p.name: p for p in plan.parts if p.source_offset is not None}
    for name in sorted({group_of(tensor) for tensor in copied}):
        group = manifest.groups[name]
        members = ((t, copied[t.name].destination_offset) for t in group.tensors)
        if hash_group(descriptor, members, progress) != group.sha256:
            raise FileCorrupt(f"the content of {name} is wrong")
    for part in plan.parts:
        if part.source_offset is None:
            _check_zero(descriptor, part.destination_offset, part.nbytes)


def _check_zero(descriptor: int, start: int, nbytes: int) -> None:
    for offset in range(start, start + nbytes, COPY_CHUNK_BYTES):
        wanted = min(COPY_CHUNK_BYTES, start + nbytes - offset)
        if os.pread(descriptor, wanted, offset).count(0) != wanted:
            raise FileCorrupt("a tensor that should be empty is not")


def _differences(found: Mapping[str, object], expected: Mapping[str, object]) -> list[str]:
    return sorted(k for k in found.keys() | expected.keys() if found.get(k) != expected.get(k))
