"""Cut a layer range out of a GGUF file as a small GGUF file that llama.cpp loads.

A slice's bytes depend only on the model's content and the range: keys and tensors are in a fixed
order, so that two peers who cut the same range hold the same file. The same plan serves a local
file and byte ranges over HTTP. Does not run or verify anything: manifest.py verifies, and which
architectures may be cut is the inference package's table.

A slice without the head carries stubs: zeros under the names that llama.cpp insists on (a 32-row
embedding, the output norm), so that its unwanted logits cost nothing.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kwaai.atomic import AtomicFile
from kwaai.errors import FileCorrupt, UserError
from kwaai.limits import COPY_CHUNK_BYTES
from kwaai.models.gguf import GGUFHeader, read_header
from kwaai.models.gguf_types import GGMLType, TensorInfo, ValueType
from kwaai.models.gguf_write import encode_header, encode_value, lay_out
from kwaai.models.slice_rules import adapt, layer_count
from kwaai.types import LayerRange, ModelHandle

STUB_VOCAB: Final = 32
EMBEDDING: Final = "token_embd.weight"
GENERAL_KEPT: Final = ("general.architecture", "general.quantization_version")
"""The `general.` keys that say something about the content; the rest are names, links and
layout."""
_BLOCK = re.compile(r"blk\.(0|[1-9][0-9]{0,3})\.(.+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class SlicePart:
    """Bytes of a slice file: copied from the source, or a stub of zeros (`source_offset` None)."""

    name: str
    """The tensor's name in the source."""
    source_offset: int | None
    """Bytes from the start of the source file."""
    destination_offset: int
    """Bytes from the start of the slice file."""
    nbytes: int


@dataclass(frozen=True, slots=True)
class SlicePlan:
    """Everything about a slice file but the tensors' bytes. What no part covers is zero."""

    header: bytes
    parts: tuple[SlicePart, ...]
    total_bytes: int

    @property
    def copied_bytes(self) -> int:
        """Bytes that come from the source, tensors only."""
        return sum(part.nbytes for part in self.parts if part.source_offset is not None)


def group_of(tensor_name: str) -> str:
    """Return the group a tensor belongs to: `embedding`, `blk.N`, `head` or `shared`."""
    if block := _BLOCK.fullmatch(tensor_name):
        return f"blk.{block[1]}"
    if tensor_name == EMBEDDING:
        return "embedding"
    return "head" if tensor_name.startswith("output") else "shared"


def is_tied(header: GGUFHeader) -> bool:
    """Say whether the head reuses the embedding's rows."""
    return header.tensor("output.weight") is None


def slice_header(
    header: GGUFHeader, layers: LayerRange, head: bool, source: ModelHandle | None = None
) -> SlicePlan:
    """Plan the slice of `layers`, with the final norm, output matrix and tokenizer if `head`.

    Raises UserError when the model does not have these layers, FileCorrupt when one is missing.
    """
    _check_range(header, layers, head)
    chosen = _block_tensors(header, layers) + _other_tensors(header, layers, head)
    kv = _slice_kv(header, layers, head)
    if source is not None:
        kv["kwaai.slice.source"] = encode_value(source)
    return _plan(header, kv, chosen)


def embedding_header(header: GGUFHeader, source: ModelHandle | None = None) -> SlicePlan:
    """Plan the file that turns text into vectors: the embedding's rows and the tokenizer.

    llama.cpp never loads its tensor; EmbeddingTable reads it by offset and type.
    """
    tensor = header.tensor(EMBEDDING)
    if tensor is None:
        raise FileCorrupt(f"the model has no {EMBEDDING}")
    kept = (*GENERAL_KEPT, f"{header.architecture}.", "tokenizer.")
    kv = {k: v for k, v in sorted(header.raw_kv.items()) if k.startswith(kept)}
    kv["kwaai.slice.kind"] = encode_value("embedding")
    if source is not None:
        kv["kwaai.slice.source"] = encode_value(source)
    return _plan(header, kv, [(tensor, _target(tensor, tensor.name))])


def cut_slice(
    source: Path,
    destination: Path,
    layers: LayerRange,
    head: bool,
    handle: ModelHandle | None = None,
) -> SlicePlan:
    """Write the slice of `source` to `destination`, whole or not at all; at most 8 MiB in
    memory."""
    plan = slice_header(read_header(source), layers, head, handle)
    copy_parts(source, destination, plan)
    return plan


def cut_embedding(source: Path, destination: Path, handle: ModelHandle | None = None) -> SlicePlan:
    """Write the embedding file of `source` to `destination`, whole or not at all."""
    plan = embedding_header(read_header(source), handle)
    copy_parts(source, destination, plan)
    return plan


def copy_parts(source: Path, destination: Path, plan: SlicePlan) -> None:
    """Carry out a plan on a local file. Raises FileCorrupt when the source ends too early."""
    with source.open("rb") as origin, AtomicFile(destination, mode=0o644) as target:
        out = target.file.fileno()
        os.truncate(out, plan.total_bytes)  # gaps and stubs stay holes: they read as zeros
        _write_all(out, plan.header, 0)
        for part in plan.parts:
            if part.source_offset is None:
                continue
            done = 0
            while done < part.nbytes:
                wanted = min(COPY_CHUNK_BYTES, part.nbytes - done)
                chunk = os.pread(origin.fileno(), wanted, part.source_offset + done)
                if not chunk:
                    raise FileCorrupt(f"{source} ends inside {part.name}: download it again")
                _write_all(out, chunk, part.destination_offset + done)
                done += len(chunk)


_Chosen = tuple[TensorInfo | None, tuple[str, tuple[int, ...], int]]
"""A tensor of the source, or None for a stub; and name, dims and type in the slice."""


def _target(tensor: TensorInfo, name: str) -> tuple[str, tuple[int, ...], int]:
    return name, tensor.dims, tensor.ggml_type


def _check_range(header: GGUFHeader, layers: LayerRange, head: bool) -> None:
    count = layer_count(header)
    if layers.stop > count:
        raise UserError(
            f"layers {layers} were asked for, the model has {count}: choose within [0,{count})"
        )
    if head and layers.stop != count:
        raise UserError(f"the head belongs behind layer {count - 1}; {layers} ends before it")


def _block_tensors(header: GGUFHeader, layers: LayerRange) -> list[_Chosen]:
    found: list[tuple[int, str, TensorInfo]] = []
    for tensor in header.tensors:
        block = _BLOCK.fullmatch(tensor.name)
        if block and int(block[1]) in layers:
            found.append((int(block[1]), block[2], tensor))
    missing = set(range(layers.start, layers.stop)) - {block for block, _, _ in found}
    if missing:
        raise FileCorrupt(f"the model has no tensors for layer {min(missing)}")
    return [(t, _target(t, f"blk.{n - layers.start}.{rest}")) for n, rest, t in sorted(found)]


def _other_tensors(header: GGUFHeader, layers: LayerRange, head: bool) -> list[_Chosen]:
    out: list[_Chosen] = []
    for tensor in sorted(header.tensors, key=lambda t: t.name):
        group = group_of(tensor.name)
        if group == "shared" or (head and group == "head"):
            out.append((tensor, _target(tensor, tensor.name)))
        elif group == "head":
            out += _head_stub(tensor)
        elif group == "embedding":
            out.append(_embedding(header, tensor, layers, head))
    return out


def _head_stub(tensor: TensorInfo) -> list[_Chosen]:
    if tensor.name == "output.weight":
        return [(None, (tensor.name, (tensor.dims[0], STUB_VOCAB), GGMLType.F16))]
    if tensor.name == "output.bias":
        return [(None, (tensor.name, (STUB_VOCAB,), GGMLType.F32))]
    if tensor.name.startswith("output_norm."):
        return [(None, _target(tensor, tensor.name))]
    return []


def _embedding(header: GGUFHeader, tensor: TensorInfo, layers: LayerRange, head: bool) -> _Chosen:
    if not head:
        return (None, (EMBEDDING, (tensor.dims[0], STUB_VOCAB), GGMLType.F16))
    if is_tied(header) or layers.start == 0:
        return (tensor, _target(tensor, tensor.name))
    # llama.cpp wants a row for each token beside the head's own matrix and never reads them here.
    kind = GGMLType.TQ1_0 if tensor.dims[0] % GGMLType.TQ1_0.block_size == 0 else GGMLType.F16
    return (None, (EMBEDDING, tensor.dims, kind))


def _slice_kv(header: GGUFHeader, layers: LayerRange, head: bool) -> dict[str, bytes]:
    arch = header.architecture
    kept = (*GENERAL_KEPT, f"{arch}.", *(("tokenizer.",) if head else ()))
    kv = {key: raw for key, raw in header.raw_kv.items() if key.startswith(kept)}
    kv |= adapt(header, layers)
    if not head:
        kv["tokenizer.ggml.model"] = encode_value("no_vocab")
        kv[f"{arch}.vocab_size"] = encode_value(STUB_VOCAB, ValueType.UINT32)
    kv |= {
        "kwaai.slice.block_count": encode_value(layer_count(header), ValueType.UINT32),
        "kwaai.slice.head": encode_value(head),
        "kwaai.slice.kind": encode_value("layers"),
        "kwaai.slice.start": encode_value(layers.start, ValueType.UINT32),
        "kwaai.slice.stop": encode_value(layers.stop, ValueType.UINT32),
    }
    return dict(sorted(kv.items()))


def _plan(header: GGUFHeader, kv: dict[str, bytes], chosen: list[_Chosen]) -> SlicePlan:
    infos = lay_out(target for _, target in chosen)
    encoded = encode_header(kv, infos)
    parts = tuple(
        SlicePart(
            name=tensor.name if tensor else info.name,
            source_offset=header.data_start + tensor.offset if tensor else None,
            destination_offset=len(encoded) + info.offset,
            nbytes=info.nbytes,
        )
        for (tensor, _), info in zip(chosen, infos, strict=True)
    )
    end = max((part.destination_offset + part.nbytes for part in parts), default=len(encoded))
    return SlicePlan(encoded, parts, end)


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written
