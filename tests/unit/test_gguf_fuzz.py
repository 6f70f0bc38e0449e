"""No bytes make the GGUF reader crash, hang or fill the memory: it refuses them, or reads them.

`HYPOTHESIS_PROFILE=thorough` looks longer.
"""

from __future__ import annotations

import random
import struct
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from kwaai.errors import FileCorrupt, ModelUnsupported
from kwaai.limits import GGUF_ARRAY_ITEMS_MAX, GGUF_KEYS_MAX, GGUF_TENSORS_MAX, MIB
from kwaai.models.gguf import GGUFHeader, NeedMoreData, parse_header, read_header
from kwaai.models.gguf_check import check_loadable
from kwaai.models.gguf_types import FIXED_FORMATS, GGMLType, TensorInfo, ValueType
from kwaai.models.gguf_write import encode_header, encode_value
from kwaai.models.manifest import build_manifest
from kwaai.models.slices import slice_header
from kwaai.testing.models import UNTIED, tiny_model
from kwaai.types import LayerRange

ROUNDS = 1500
"""Mutations per way of mutating; a second or two each."""
INTERESTING = (0, 1, 2, 7, 31, 32, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**64 - 1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tiny_model(tmp_path_factory.mktemp("m") / "m.gguf", UNTIED, "Q4_0")
    return path.read_bytes()


@pytest.fixture(scope="module")
def head(model: bytes) -> bytes:
    """The model's header, padded as in the file."""
    return model[: parse_header(model).data_start]


def survive(data: bytes, file_bytes: int) -> GGUFHeader | None:
    """Parse and use a header as the product does; None when it was refused, as it may be."""
    try:
        header = parse_header(data)
    except NeedMoreData as error:
        more = error.minimum_bytes
    except FileCorrupt:
        return None
    else:
        return used(header, file_bytes)
    assert more > len(data)
    return None


def used(header: GGUFHeader, file_bytes: int) -> GGUFHeader | None:
    for key in header.raw_kv:
        header.metadata[key]
    try:
        check_loadable(header, file_bytes)
        slice_header(header, LayerRange(0, 1), head=False)
    except (FileCorrupt, ModelUnsupported):
        return None
    return header


def test_the_model_itself_is_good(model: bytes, head: bytes) -> None:
    assert survive(head, len(model)) is not None


def test_flipped_bytes(model: bytes, head: bytes) -> None:
    rng = random.Random(1)
    for _ in range(ROUNDS):
        data = bytearray(head)
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        survive(bytes(data), len(model))


def test_interesting_numbers_anywhere(model: bytes, head: bytes) -> None:
    rng = random.Random(2)
    for _ in range(ROUNDS):
        data = bytearray(head)
        fmt = rng.choice(("<I", "<Q"))
        number = rng.choice(INTERESTING) % 2 ** (8 * struct.calcsize(fmt))
        struct.pack_into(fmt, data, rng.randrange(len(data) - 8), number)
        survive(bytes(data), len(model))


def test_pieces_cut_out_doubled_and_swapped(model: bytes, head: bytes) -> None:
    rng = random.Random(3)
    for _ in range(ROUNDS):
        a, b, c = sorted(rng.randrange(len(head)) for _ in range(3))
        data = rng.choice(
            (
                head[:a] + head[b:],
                head[:b] + head[a:],
                head[:a] + head[b:c] + head[a:b] + head[c:],
                head[:a] + rng.randbytes(b - a if b - a < 64 else 64) + head[b:],
            )
        )
        survive(data, len(model))


def test_every_truncation_of_the_preamble_and_many_of_the_rest(head: bytes) -> None:
    rng = random.Random(4)
    end = parse_header(head).data_start
    lengths = [*range(300), *(rng.randrange(end - 32) for _ in range(300))]
    for length in lengths:
        with pytest.raises(NeedMoreData):
            parse_header(head[:length])


def test_truncated_and_mutated_files(tmp_path: Path, model: bytes, head: bytes) -> None:
    rng, path = random.Random(5), tmp_path / "m.gguf"
    for _ in range(60):
        data = bytearray(model[: rng.randrange(len(model))])
        for _ in range(rng.randint(0, 3)):
            if data:
                data[rng.randrange(min(len(data), len(head)))] = rng.randrange(256)
        path.write_bytes(data)
        with pytest.raises(FileCorrupt, match=r"m\.gguf is not a usable GGUF file"):
            build_manifest(path)


@given(st.binary(max_size=400))
def test_any_bytes(data: bytes) -> None:
    survive(data, len(data))


@given(st.binary(max_size=400), st.integers(0, 4), st.integers(0, 40), st.integers(0, 40))
def test_any_bytes_behind_a_good_start(data: bytes, version: int, tensors: int, pairs: int) -> None:
    survive(b"GGUF" + struct.pack("<IQQ", version, tensors, pairs) + data, len(data))


KINDS = st.sampled_from([*FIXED_FORMATS, ValueType.STRING, ValueType.ARRAY, 13, 2**32 - 1])
COUNTS = st.integers(0, 2**64 - 1) | st.integers(0, 40)
RAW_VALUES = st.one_of(
    st.builds(lambda k, b: struct.pack("<I", k) + b, KINDS, st.binary(max_size=16)),
    st.builds(lambda n, b: struct.pack("<IQ", ValueType.STRING, n) + b, COUNTS, st.binary()),
    st.builds(
        lambda k, n, b: struct.pack("<IIQ", ValueType.ARRAY, k, n) + b, KINDS, COUNTS, st.binary()
    ),
    st.integers(0, 2**32 - 1).map(encode_value),
    st.lists(st.text(max_size=5), min_size=1, max_size=8).map(encode_value),
)
NAMES = st.sampled_from(["token_embd.weight", "blk.0.a", "blk.1.a", "output.weight", "x"])
DIMENSIONS = st.integers(0, 512) | st.integers(0, 2**64 - 1)
TENSORS = st.builds(
    TensorInfo,
    NAMES | st.text(max_size=70).filter(lambda name: len(name.encode("utf-8", "replace")) < 99),
    st.lists(DIMENSIONS, max_size=5).map(tuple),
    st.sampled_from([*GGMLType, 4, 5, 43, 2**32 - 1]),
    st.integers(0, 2048).map(lambda n: 32 * n) | st.integers(0, 2**64 - 1),
    st.just(0),
)
KEYS = st.sampled_from(
    ["general.architecture", "general.alignment", "llama.block_count", "split.count", "a"]
)


@given(st.dictionaries(KEYS, RAW_VALUES, max_size=5), st.lists(TENSORS, max_size=6))
def test_headers_of_the_right_form(kv: dict[str, bytes], tensors: list[TensorInfo]) -> None:
    try:
        data = encode_header({"general.architecture": "llama", **kv}, tensors)
    except UnicodeEncodeError:
        assume(False)
    survive(data, 1 << 20)


@pytest.mark.parametrize(
    "data",
    [
        b"GGUF" + struct.pack("<IQQ", 3, GGUF_TENSORS_MAX, GGUF_KEYS_MAX) + b"\0" * MIB,
        encode_header({"a": struct.pack("<IIQ", 9, 8, GGUF_ARRAY_ITEMS_MAX)}, ()),
        encode_header({"a": struct.pack("<IIQ", 9, 8, 100_000) + bytes(MIB)}, ()),
        encode_header({"a": struct.pack("<IIQ", 9, 10, GGUF_ARRAY_ITEMS_MAX)}, ()),
        encode_header({str(n): 1 for n in range(GGUF_KEYS_MAX)}, ()),
        encode_header({}, [TensorInfo(str(n), (1,), 0, 0, 0) for n in range(20_000)]),
    ],
)
def test_memory_stays_near_the_bytes_given(data: bytes) -> None:
    tracemalloc.start()
    try:
        survive(data, len(data))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * len(data) + 32 * MIB


def test_a_sparse_file_of_a_terabyte_is_read_by_its_header_only(tmp_path: Path) -> None:
    path = tmp_path / "huge.gguf"
    data = encode_header({}, [TensorInfo("a", (2**38,), GGMLType.F32, 0, 2**40)])
    with path.open("wb") as file:
        file.write(data)
        file.truncate(len(data) + 2**40)
    assert read_header(path).tensors[0].nbytes == 2**40
