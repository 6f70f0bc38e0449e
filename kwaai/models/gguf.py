"""Read the header of a GGUF file, which may come from a stranger, without touching its tensors.

Every count, length and offset is checked before it is used; memory is bounded by the bytes given.
Big arrays are walked for their bounds only, and decoded when asked for. It does not decide whether
llama.cpp can run the model: see gguf_check.py. Writing is in gguf_write.py. Source: the GGUF
specification in the ggml repository, versions 2 and 3.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from kwaai.errors import FileCorrupt
from kwaai.limits import (
    GGUF_ARRAY_ITEMS_MAX,
    GGUF_DIMENSIONS_MAX,
    GGUF_HEADER_BYTES_MAX,
    GGUF_KEY_BYTES_MAX,
    GGUF_KEYS_MAX,
    GGUF_STRING_BYTES_MAX,
    GGUF_TENSORS_MAX,
    MIB,
)
from kwaai.models.gguf_types import (
    ALIGNMENT_DEFAULT,
    FIXED_FORMATS,
    INT64_MAX,
    MAGIC,
    TENSOR_NAME_BYTES_MAX,
    VERSIONS,
    TensorInfo,
    Value,
    ValueType,
    pad,
    tensor_bytes,
)

T = TypeVar("T")
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_ARCHITECTURE = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class NeedMoreData(Exception):
    """The bytes given end inside the header. Not an error of the file: fetch `minimum_bytes` or
    more and try again."""

    def __init__(self, minimum_bytes: int) -> None:
        super().__init__(f"the header needs at least {minimum_bytes} bytes")
        self.minimum_bytes = minimum_bytes


class Metadata(Mapping[str, Value]):
    """The key-value pairs of a header, decoded when asked for. Text that is not UTF-8 shows
    replacement marks."""

    def __init__(self, raw: Mapping[str, bytes]) -> None:
        self._raw = raw
        self._decoded: dict[str, Value] = {}

    def __getitem__(self, key: str) -> Value:
        if key not in self._decoded:
            self._decoded[key] = decode_value(self._raw[key])
        return self._decoded[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._raw)

    def __len__(self) -> int:
        return len(self._raw)

    def __contains__(self, key: object) -> bool:
        return key in self._raw


@dataclass(frozen=True)
class GGUFHeader:
    """What a GGUF file says before its tensors' data."""

    version: int
    raw_kv: dict[str, bytes] = field(repr=False)
    """Key to type tag and value exactly as in the file, so that a pair can be written again
    unchanged."""
    tensors: tuple[TensorInfo, ...] = field(repr=False)
    data_start: int
    """Bytes from the start of the file to the first tensor's data."""
    alignment: int

    @cached_property
    def metadata(self) -> Metadata:
        return Metadata(self.raw_kv)

    @cached_property
    def _by_name(self) -> dict[str, TensorInfo]:
        return {tensor.name: tensor for tensor in self.tensors}

    @property
    def architecture(self) -> str:
        value = self.get("general.architecture", "")
        if not isinstance(value, str) or not _ARCHITECTURE.fullmatch(value):
            raise FileCorrupt("the file names no architecture (general.architecture)")
        return value

    @property
    def block_count(self) -> int:
        return self.arch_int("block_count")

    @property
    def data_bytes(self) -> int:
        """Bytes from the start of the data section to the end of the last tensor."""
        return max((tensor.offset + tensor.nbytes for tensor in self.tensors), default=0)

    def get(self, key: str, default: T) -> Value | T:
        return self.metadata[key] if key in self.raw_kv else default

    def arch_int(self, key: str, default: int | None = None) -> int:
        """Return the integer `<architecture>.<key>`; FileCorrupt when it is absent without default,
        or no integer."""
        full = f"{self.architecture}.{key}"
        value = self.get(full, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise FileCorrupt(f"metadata {full} is missing or not an integer")
        return value

    def tensor(self, name: str) -> TensorInfo | None:
        return self._by_name.get(name)

    def array_length(self, key: str) -> int | None:
        """Return how many items the array `key` has, without decoding it; None when it is absent or
        no array."""
        raw = self.raw_kv.get(key)
        if raw is None or _U32.unpack_from(raw)[0] != ValueType.ARRAY:
            return None
        return int(_U64.unpack_from(raw, 8)[0])

    def byte_strings(self, key: str) -> list[bytes]:
        """Return the array of strings `key` as the bytes in the file (vocabularies may hold broken
        UTF-8)."""
        raw = self.raw_kv[key]
        if (
            _U32.unpack_from(raw)[0] != ValueType.ARRAY
            or _U32.unpack_from(raw, 4)[0] != ValueType.STRING
        ):
            raise FileCorrupt(f"metadata {key} is not an array of strings")
        return _strings(raw)


def parse_header(data: bytes | memoryview) -> GGUFHeader:
    """Parse the header at the start of `data`, which may go on behind it or be only a prefix of the
    file.

    Raises NeedMoreData when the header goes on behind the end of `data`, FileCorrupt (naming the
    byte) when no continuation of it could be a GGUF file that we accept.
    """
    cursor = _Cursor(bytes(data[:GGUF_HEADER_BYTES_MAX]))
    version, tensor_count, pair_count = _parse_preamble(cursor)
    raw_kv: dict[str, bytes] = {}
    for _ in range(pair_count):
        at = cursor.at
        key = cursor.text(GGUF_KEY_BYTES_MAX, "a key")
        if not key or key in raw_kv:
            raise corrupt(at, f"the key {key!r} is empty or appears twice")
        start = cursor.at
        _skip_value(cursor)
        raw_kv[key] = cursor.data[start : cursor.at]
    alignment = _alignment(raw_kv)
    tensors: list[TensorInfo] = []
    names: set[str] = set()
    for _ in range(tensor_count):
        at = cursor.at
        tensor = _parse_tensor(cursor)
        if tensor.name in names:
            raise corrupt(at, f"the tensor {tensor.name!r} appears twice")
        names.add(tensor.name)
        tensors.append(tensor)
    return GGUFHeader(version, raw_kv, tuple(tensors), pad(cursor.at, alignment), alignment)


def read_header(path: Path) -> GGUFHeader:
    """Read the header of the file at `path` and check that its tensors lie inside the file,
    aligned, apart.

    Raises FileCorrupt naming the file and what is wrong with it.
    """
    try:
        with path.open("rb") as file:
            file_bytes = file.seek(0, 2)
            header = _read_growing(file.fileno(), file_bytes)
            check_layout(header, file_bytes)
            return header
    except FileCorrupt as error:
        raise FileCorrupt(f"{path} is not a usable GGUF file: {error.message}") from error


def check_layout(header: GGUFHeader, file_bytes: int) -> None:
    """Raise FileCorrupt unless every tensor lies inside the file, aligned, and none overlaps
    another."""
    end, previous = 0, "the header"
    for tensor in sorted(header.tensors, key=lambda t: t.offset):
        if tensor.offset % header.alignment:
            raise FileCorrupt(f"tensor {tensor.name!r} is not aligned to {header.alignment} bytes")
        if tensor.offset < end:
            raise FileCorrupt(f"tensor {tensor.name!r} overlaps {previous}")
        end, previous = tensor.offset + tensor.nbytes, f"tensor {tensor.name!r}"
        if header.data_start + end > file_bytes:
            raise FileCorrupt(
                f"tensor {tensor.name!r} ends at byte {header.data_start + end}, the file at"
                f" {file_bytes}: it was cut short; download it again"
            )


def decode_value(raw: bytes) -> Value:
    """Decode a type tag and value that parse_header has checked."""
    kind = _U32.unpack_from(raw)[0]
    if kind == ValueType.STRING:
        return raw[12:].decode("utf-8", "replace")
    if kind != ValueType.ARRAY:
        value = struct.unpack_from("<" + FIXED_FORMATS[kind][0], raw, 4)[0]
        return bool(value) if kind == ValueType.BOOL else value
    item = _U32.unpack_from(raw, 4)[0]
    if item == ValueType.STRING:
        return [text.decode("utf-8", "replace") for text in _strings(raw)]
    count = _U64.unpack_from(raw, 8)[0]
    values = struct.unpack_from(f"<{count}{FIXED_FORMATS[item][0]}", raw, 16)
    return [bool(value) for value in values] if item == ValueType.BOOL else list(values)


def corrupt(at: int, what: str) -> FileCorrupt:
    return FileCorrupt(f"at byte {at}: {what}")


class _Cursor:
    """A position in a prefix of the file; reading behind the end asks for more, up to the bound of
    a header."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def advance(self, count: int) -> int:
        """Move over `count` bytes and return where they start."""
        start, self.at = self.at, self.at + count
        if self.at > GGUF_HEADER_BYTES_MAX:
            raise corrupt(start, f"the header is longer than {GGUF_HEADER_BYTES_MAX} bytes")
        if self.at > len(self.data):
            raise NeedMoreData(self.at)
        return start

    def u32(self) -> int:
        return int(_U32.unpack_from(self.data, self.advance(4))[0])

    def u64(self) -> int:
        return int(_U64.unpack_from(self.data, self.advance(8))[0])

    def text(self, bytes_max: int, what: str) -> str:
        at = self.at
        length = self.u64()
        if length > bytes_max:
            raise corrupt(at, f"{what} of {length} bytes, {bytes_max} are allowed")
        start = self.advance(length)
        try:
            return self.data[start : self.at].decode("utf-8")
        except UnicodeDecodeError:
            raise corrupt(start, f"{what} is not UTF-8") from None


def _parse_preamble(cursor: _Cursor) -> tuple[int, int, int]:
    magic = cursor.data[:4]
    if magic != MAGIC[: len(magic)]:
        raise corrupt(0, "it does not start with GGUF")
    cursor.advance(4)
    version = cursor.u32()
    if version not in VERSIONS:
        if version & 0xFFFF == 0 and version:
            raise corrupt(4, "it is big-endian; only little-endian GGUF can be used here")
        raise corrupt(4, f"GGUF version {version}; versions 2 and 3 can be used")
    tensor_count, pair_count = cursor.u64(), cursor.u64()
    if tensor_count > GGUF_TENSORS_MAX:
        raise corrupt(8, f"{tensor_count} tensors, {GGUF_TENSORS_MAX} are allowed")
    if pair_count > GGUF_KEYS_MAX:
        raise corrupt(16, f"{pair_count} metadata keys, {GGUF_KEYS_MAX} are allowed")
    return version, tensor_count, pair_count


def _skip_value(cursor: _Cursor) -> None:
    at = cursor.at
    kind = cursor.u32()
    if kind == ValueType.STRING:
        _skip_strings(cursor, 1)
    elif kind == ValueType.ARRAY:
        item, count = cursor.u32(), cursor.u64()
        if count > GGUF_ARRAY_ITEMS_MAX:
            raise corrupt(at + 8, f"an array of {count} items, {GGUF_ARRAY_ITEMS_MAX} are allowed")
        if item == ValueType.STRING:
            _skip_strings(cursor, count)
        elif item in FIXED_FORMATS:
            cursor.advance(count * FIXED_FORMATS[item][1])
        else:
            raise corrupt(at + 4, f"an array of type {item}, which llama.cpp does not read")
    elif kind in FIXED_FORMATS:
        cursor.advance(FIXED_FORMATS[kind][1])
    else:
        raise corrupt(at, f"a value of unknown type {kind}")


def _skip_strings(cursor: _Cursor, count: int) -> None:
    """Walk over `count` strings. The loop is the reader's hottest: vocabularies have 500,000 of
    them."""
    data, at, end = cursor.data, cursor.at, len(cursor.data)
    unpack = _U64.unpack_from
    for _ in range(count):
        if at + 8 > end:
            break
        length = unpack(data, at)[0]
        if length > GGUF_STRING_BYTES_MAX:
            raise corrupt(at, f"a text of {length} bytes, {GGUF_STRING_BYTES_MAX} are allowed")
        at += 8 + length
    else:
        cursor.advance(at - cursor.at)
        return
    cursor.advance(at + 8 - cursor.at)  # raises: the next length lies behind the end


def _strings(raw: bytes) -> list[bytes]:
    count = _U64.unpack_from(raw, 8)[0]
    unpack, at, out = _U64.unpack_from, 16, []
    for _ in range(count):
        length = unpack(raw, at)[0]
        out.append(raw[at + 8 : at + 8 + length])
        at += 8 + length
    return out


def _alignment(raw_kv: dict[str, bytes]) -> int:
    raw = raw_kv.get("general.alignment")
    if raw is None:
        return ALIGNMENT_DEFAULT
    if _U32.unpack_from(raw)[0] != ValueType.UINT32:
        raise FileCorrupt("general.alignment is not an unsigned 32-bit integer")
    alignment = int(_U32.unpack_from(raw, 4)[0])
    if alignment < 1 or alignment & (alignment - 1) or alignment > MIB:
        raise FileCorrupt(
            f"general.alignment is {alignment}; it must be a power of two up to {MIB}"
        )
    return alignment


def _parse_tensor(cursor: _Cursor) -> TensorInfo:
    at = cursor.at
    name = cursor.text(TENSOR_NAME_BYTES_MAX, "a tensor's name")
    if not name or "\0" in name:
        raise corrupt(at, "a tensor's name is empty or holds a zero byte")
    dimensions = cursor.u32()
    if not 1 <= dimensions <= GGUF_DIMENSIONS_MAX:
        raise corrupt(
            at,
            f"tensor {name!r} has {dimensions} dimensions; 1 to {GGUF_DIMENSIONS_MAX} are allowed",
        )
    dims = tuple(cursor.u64() for _ in range(dimensions))
    ggml_type, offset = cursor.u32(), cursor.u64()
    try:
        nbytes = tensor_bytes(ggml_type, dims)
    except ValueError as error:
        raise corrupt(at, f"tensor {name!r}: {error}") from None
    if offset > INT64_MAX - nbytes:
        raise corrupt(at, f"tensor {name!r} starts at {offset}, which overflows")
    return TensorInfo(name, dims, ggml_type, offset, nbytes)


def _read_growing(descriptor: int, file_bytes: int) -> GGUFHeader:
    """Parse ever longer prefixes of the file: most headers fit the first."""
    wanted = MIB
    while True:
        prefix = bytearray()
        while len(prefix) < min(wanted, file_bytes):
            chunk = os.pread(descriptor, min(wanted, file_bytes) - len(prefix), len(prefix))
            if not chunk:
                break
            prefix += chunk
        try:
            return parse_header(bytes(prefix))
        except NeedMoreData as more:
            if more.minimum_bytes > file_bytes:
                raise FileCorrupt(
                    f"it ends at byte {file_bytes} inside its header, which needs"
                    f" {more.minimum_bytes} or more: it was cut short; download it again"
                ) from None
            wanted = min(GGUF_HEADER_BYTES_MAX, max(more.minimum_bytes, wanted * 4))
