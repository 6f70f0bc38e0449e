"""The manifest of a model: a content id for each group of tensors, and for the whole the handle.

Two files with the same content have the same handle, whatever their names, the order of their
tensors or their padding; another quantisation, chat template or fine-tune has another. Hashes, and
compares nothing: verify.py does. Format: schemas/model-manifest.schema.json.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Final

import jsonschema

from kwaai.errors import FileCorrupt
from kwaai.limits import COPY_CHUNK_BYTES, MANIFEST_BYTES_MAX, MANIFEST_VALUE_BYTES_MAX
from kwaai.models.gguf import GGUFHeader, NeedMoreData, parse_header, read_header
from kwaai.models.gguf_types import tensor_bytes
from kwaai.models.gguf_write import encode_header
from kwaai.models.slices import GENERAL_KEPT, group_of
from kwaai.types import ModelHandle
from schemas import load_schema

FORMAT: Final = "kwaainet-model-manifest-1"
Progress = Callable[[int], None]
"""Told how many bytes were hashed since the last call."""
_BLOCK_GROUP = re.compile(r"blk\.(\d+)")


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor as the manifest names it."""

    name: str
    ggml_type: int
    dims: tuple[int, ...]

    def line(self) -> bytes:
        """Return what is hashed in front of the tensor's data."""
        return canonical_json([self.name, self.ggml_type, list(self.dims)]) + b"\n"


@dataclass(frozen=True, slots=True)
class Group:
    """The tensors that are fetched together, sorted by name, and their content id (hex)."""

    sha256: str
    tensors: tuple[TensorEntry, ...]


@dataclass(frozen=True, slots=True)
class MetadataEntry:
    """A metadata value's digest and length; `value` is type and value as in GGUF, where carried."""

    sha256: str
    nbytes: int
    value: bytes | None


@dataclass(frozen=True)
class Manifest:
    """What a model holds. Build it from a file or parse it: both check everything."""

    metadata: Mapping[str, MetadataEntry]
    groups: Mapping[str, Group]

    @cached_property
    def encoded(self) -> bytes:
        """Return the canonical JSON, whose SHA-256 is the handle."""
        metadata = {
            key: {"value": base64.b64encode(entry.value).decode()}
            if entry.value is not None
            else {"bytes": entry.nbytes, "sha256": entry.sha256}
            for key, entry in self.metadata.items()
        }
        groups = {
            name: {
                "sha256": group.sha256,
                "tensors": [[t.name, t.ggml_type, list(t.dims)] for t in group.tensors],
            }
            for name, group in self.groups.items()
        }
        return canonical_json({"format": FORMAT, "groups": groups, "metadata": metadata})

    @cached_property
    def handle(self) -> ModelHandle:
        return ModelHandle("sha256:" + hashlib.sha256(self.encoded).hexdigest())

    @property
    def block_count(self) -> int:
        """Return the blocks that have tensors."""
        return sum(_BLOCK_GROUP.fullmatch(name) is not None for name in self.groups)


def canonical_json(value: object) -> bytes:
    """Encode with sorted keys, no white space and ASCII only: one value, one sequence of bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def build_manifest(path: Path, progress: Progress | None = None) -> Manifest:
    """Hash the GGUF file at `path`. Raises FileCorrupt when it is not a usable GGUF file."""
    header = read_header(path)
    with path.open("rb") as file:
        descriptor = file.fileno()
        groups = {
            name: Group(
                hash_group(descriptor, ((e, at) for e, at in members), progress),
                tuple(entry for entry, _ in members),
            )
            for name, members in sorted(_grouped(header).items())
        }
    return Manifest(_bound_metadata(header), groups)


def parse_manifest(data: bytes) -> Manifest:
    """Read a manifest that may come from a stranger. Raises FileCorrupt when it is not one."""
    if len(data) > MANIFEST_BYTES_MAX:
        raise FileCorrupt(f"a manifest of {len(data)} bytes; {MANIFEST_BYTES_MAX} are allowed")
    try:
        document = json.loads(data)
        _validator().validate(document)
    except (ValueError, RecursionError) as error:
        raise FileCorrupt(f"the manifest is not JSON: {error}") from error
    except jsonschema.ValidationError as error:
        raise FileCorrupt(f"the manifest is wrong at {error.json_path}: {_short(error)}") from error
    groups = {name: _parse_group(name, fields) for name, fields in document["groups"].items()}
    metadata = {key: _parse_metadata(fields) for key, fields in document["metadata"].items()}
    manifest = Manifest(metadata, groups)
    blocks = {name for name in groups if name.startswith("blk.")}
    if blocks != {f"blk.{n}" for n in range(manifest.block_count)}:
        raise FileCorrupt("the manifest's blocks are not numbered from 0 without a gap")
    _check_carried(manifest)
    if sum(tensor_bytes(t.ggml_type, t.dims) for g in groups.values() for t in g.tensors) > 2**60:
        raise FileCorrupt("the manifest's tensors are larger than any disk")
    return manifest


def hash_group(
    descriptor: int, members: Iterable[tuple[TensorEntry, int]], progress: Progress | None = None
) -> str:
    """Hash tensors of an open file, in the order given: what each is, and its absolute offset."""
    digest = hashlib.sha256()
    for entry, start in members:
        digest.update(entry.line())
        done, nbytes = 0, tensor_bytes(entry.ggml_type, entry.dims)
        while done < nbytes:
            chunk = os.pread(descriptor, min(COPY_CHUNK_BYTES, nbytes - done), start + done)
            if not chunk:
                raise FileCorrupt(f"the file ends inside tensor {entry.name!r}: download it again")
            digest.update(chunk)
            done += len(chunk)
            if progress is not None:
                progress(len(chunk))
    return digest.hexdigest()


def is_bound(key: str) -> bool:
    """Say whether a metadata key bears on what the model computes (and so on its handle)."""
    if key.startswith("general."):
        return key in GENERAL_KEPT
    return not key.startswith(("kwaai.", "split.", "quantize."))


def _grouped(header: GGUFHeader) -> dict[str, list[tuple[TensorEntry, int]]]:
    groups: dict[str, list[tuple[TensorEntry, int]]] = {}
    for tensor in sorted(header.tensors, key=lambda t: t.name):
        entry = TensorEntry(tensor.name, tensor.ggml_type, tensor.dims)
        members = groups.setdefault(group_of(tensor.name), [])
        members.append((entry, header.data_start + tensor.offset))
    return groups


def _bound_metadata(header: GGUFHeader) -> dict[str, MetadataEntry]:
    out = {}
    for key, raw in header.raw_kv.items():
        if is_bound(key):
            carried = not key.startswith("tokenizer.") and len(raw) <= MANIFEST_VALUE_BYTES_MAX
            out[key] = _entry(raw, carried)
    return out


def _entry(raw: bytes, carried: bool) -> MetadataEntry:
    return MetadataEntry(hashlib.sha256(raw).hexdigest(), len(raw), raw if carried else None)


def _parse_group(name: str, fields: dict[str, Any]) -> Group:
    tensors = tuple(
        TensorEntry(n, int(kind), tuple(map(int, dims))) for n, kind, dims in fields["tensors"]
    )
    names = [tensor.name for tensor in tensors]
    if names != sorted(set(names)) or any(group_of(n) != name for n in names):
        raise FileCorrupt(f"the manifest's group {name} is not a sorted list of its tensors")
    for tensor in tensors:
        try:
            tensor_bytes(tensor.ggml_type, tensor.dims)
        except ValueError as error:
            raise FileCorrupt(f"the manifest's tensor {tensor.name!r}: {error}") from None
    return Group(fields["sha256"], tensors)


def _parse_metadata(fields: dict[str, Any]) -> MetadataEntry:
    if "value" in fields:
        try:
            return _entry(base64.b64decode(fields["value"], validate=True), carried=True)
        except ValueError as error:
            raise FileCorrupt(f"the manifest holds a value that is not base64: {error}") from None
    return MetadataEntry(fields["sha256"], int(fields["bytes"]), None)


def _check_carried(manifest: Manifest) -> None:
    """Carried values must be whole GGUF values of keys that bind: read them as a header."""
    carried = {k: e.value for k, e in manifest.metadata.items() if e.value is not None}
    try:
        parse_header(encode_header(carried, ()))
    except (NeedMoreData, UnicodeEncodeError, FileCorrupt) as error:
        raise FileCorrupt(f"the manifest carries broken metadata: {error}") from None
    for key in manifest.metadata:
        if not is_bound(key) or (key.startswith("tokenizer.") and key in carried):
            raise FileCorrupt(f"the manifest carries the metadata {key!r}, which it must not")


def _short(error: jsonschema.ValidationError) -> str:
    return error.message if len(error.message) <= 200 else error.message[:200] + "..."


@cache
def _validator() -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(load_schema("model-manifest"))
