"""Write GGUF files: metadata values, headers, whole files, in chunks and atomically.

Does not decide what goes into a file: see slices.py and shapes.py. Version 3, little-endian.
Source: the GGUF specification in the ggml repository.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from kwaai.atomic import AtomicFile
from kwaai.models.gguf_types import (
    ALIGNMENT_DEFAULT,
    FIXED_FORMATS,
    MAGIC,
    TensorInfo,
    ValueType,
    pad,
    tensor_bytes,
)

Typed: TypeAlias = (
    bool
    | int
    | float
    | str
    | Sequence[bool]
    | Sequence[int]
    | Sequence[float]
    | Sequence[str]
    | Sequence[bytes]
)
Tensor: TypeAlias = tuple[str, Sequence[int], int, "bytes | memoryview | Iterable[bytes]"]
"""Name, dims in ggml's order, element type, data whole or in chunks."""


def encode_value(value: Typed, kind: ValueType | None = None) -> bytes:
    """Encode a metadata value with its type tag.

    `kind` is the type of the value or of the array's items. Without it: bool, str and float (32
    bits) say it themselves, a non-negative int is UINT32, a negative one INT32, and one that needs
    64 bits UINT64 or INT64.
    """
    if isinstance(value, (bool, int, float, str)):
        kind = _kind_of([value]) if kind is None else kind
        return struct.pack("<I", kind) + _payload([value], kind)
    kind = _kind_of(value) if kind is None else kind
    return struct.pack("<IIQ", ValueType.ARRAY, kind, len(value)) + _payload(value, kind)


def encode_header(
    kv: Mapping[str, bytes | Typed],
    tensors: Sequence[TensorInfo],
    alignment: int = ALIGNMENT_DEFAULT,
) -> bytes:
    """Encode a header with padding up to the data section.

    A value given as `bytes` is already encoded (a `raw_kv` of a GGUFHeader, or encode_value's
    result).
    """
    parts = [MAGIC, struct.pack("<IQQ", 3, len(tensors), len(kv))]
    for key, value in kv.items():
        parts += _text(key.encode()), value if isinstance(value, bytes) else encode_value(value)
    for tensor in tensors:
        parts.append(_text(tensor.name.encode()))
        parts.append(struct.pack(f"<I{len(tensor.dims)}Q", len(tensor.dims), *tensor.dims))
        parts.append(struct.pack("<IQ", tensor.ggml_type, tensor.offset))
    header = b"".join(parts)
    return header + bytes(pad(len(header), alignment) - len(header))


def lay_out(
    tensors: Iterable[tuple[str, Sequence[int], int]], alignment: int = ALIGNMENT_DEFAULT
) -> tuple[TensorInfo, ...]:
    """Give tensors offsets one behind the other, each padded to the alignment (ggml accepts no
    other layout)."""
    offset, out = 0, []
    for name, dims, ggml_type in tensors:
        nbytes = tensor_bytes(ggml_type, tuple(dims))
        out.append(TensorInfo(name, tuple(dims), ggml_type, offset, nbytes))
        offset = pad(offset + nbytes, alignment)
    return tuple(out)


def write_gguf(path: Path, kv: Mapping[str, bytes | Typed], tensors: Sequence[Tensor]) -> None:
    """Write a GGUF file whole or not at all; tensors given as iterators of chunks are streamed.

    Raises ValueError when a tensor's data is not as long as its shape says, DiskFull when there is
    no room.
    """
    infos = lay_out((name, dims, kind) for name, dims, kind, _ in tensors)
    with AtomicFile(path, mode=0o644) as target:
        target.file.write(encode_header(kv, infos))
        for info, (_, _, _, data) in zip(infos, tensors, strict=True):
            written = 0
            for chunk in (data,) if isinstance(data, (bytes, memoryview)) else data:
                written += target.file.write(chunk)
            if written != info.nbytes:
                raise ValueError(
                    f"tensor {info.name!r} has {written} bytes, its shape needs {info.nbytes}"
                )
            target.file.write(bytes(pad(info.nbytes, ALIGNMENT_DEFAULT) - info.nbytes))


def _text(data: bytes) -> bytes:
    return struct.pack("<Q", len(data)) + data


def _payload(values: Sequence[object], kind: ValueType) -> bytes:
    if kind == ValueType.STRING:
        return b"".join(_text(v if isinstance(v, bytes) else str(v).encode()) for v in values)
    return struct.pack(f"<{len(values)}{FIXED_FORMATS[kind][0]}", *values)


def _kind_of(values: Sequence[object]) -> ValueType:
    if all(isinstance(v, bool) for v in values):
        return ValueType.BOOL
    if all(isinstance(v, int) for v in values):
        low, high = min(map(_as_int, values)), max(map(_as_int, values))
        if low < 0:
            return ValueType.INT32 if low >= -(2**31) and high < 2**31 else ValueType.INT64
        return ValueType.UINT32 if high < 2**32 else ValueType.UINT64
    if all(isinstance(v, (int, float)) for v in values):
        return ValueType.FLOAT32
    if all(isinstance(v, (str, bytes)) for v in values):
        return ValueType.STRING
    raise TypeError("values of mixed types cannot be a GGUF array")


def _as_int(value: object) -> int:
    assert isinstance(value, int)
    return value
