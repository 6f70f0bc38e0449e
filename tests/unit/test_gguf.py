"""The GGUF reader and writer: values round, headers of an independent writer, what is refused."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwaai.errors import DiskFull, FileCorrupt, ModelUnsupported
from kwaai.limits import GGUF_HEADER_BYTES_MAX, GGUF_STRING_BYTES_MAX
from kwaai.models.gguf import NeedMoreData, decode_value, parse_header, read_header
from kwaai.models.gguf_check import check_loadable
from kwaai.models.gguf_types import BLOCKS, GGMLType, TensorInfo, ValueType, tensor_bytes
from kwaai.models.gguf_write import encode_header, encode_value, lay_out, write_gguf
from kwaai.testing.models import TINY, UNTIED, plain_gguf, tiny_model

U32, STRING = ValueType.UINT32, ValueType.STRING


def header_bytes(**kv: Any) -> bytes:
    named = {key.replace("__", "."): value for key, value in kv.items()}
    return encode_header(named, lay_out([("t", (32, 2), GGMLType.F32)]))


VALUES: list[tuple[Any, ValueType | None]] = [
    (True, None), (0, None), (2**32, None), (-1, None), (-(2**40), None), (1.5, None), ("é", None),
    (255, ValueType.UINT8), (-128, ValueType.INT8), (65_535, ValueType.UINT16),
    (-5, ValueType.INT16), (2**64 - 1, ValueType.UINT64), (-(2**63), ValueType.INT64),
    (1e300, ValueType.FLOAT64), ("", None), ([True, False], None), ([1, 2, 3], None),
    ([1.0, -2.5], None), (["a", "", "ü"], None), ([], STRING), ([1, -1], ValueType.INT32),
    ([1e300], ValueType.FLOAT64), ([], U32),
]  # fmt: skip


@pytest.mark.parametrize(("value", "kind"), VALUES)
def test_a_value_comes_back(value: Any, kind: ValueType | None) -> None:
    header = parse_header(header_bytes(key=encode_value(value, kind)))
    assert header.metadata["key"] == value
    assert header.raw_kv["key"] == encode_value(value, kind)


@given(st.lists(st.text(max_size=20), max_size=20), st.lists(st.integers(0, 2**64 - 1)))
def test_arrays_come_back(texts: list[str], numbers: list[int]) -> None:
    assert decode_value(encode_value(texts, STRING)) == texts
    assert decode_value(encode_value(numbers, ValueType.UINT64)) == numbers


def test_equal_to_the_reference_writer_and_reader(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_block_count(3)
    writer.add_float32("a.float", 1.25)
    writer.add_token_list([b"one", b"tw\xff", b"drei"])
    writer.add_array("a.numbers", [1, 2, 3])
    writer.add_tensor("a", np.arange(12, dtype=np.float32).reshape(3, 4))
    writer.add_tensor(
        "b.weight", np.zeros((2, 34), np.uint8), raw_dtype=gguf.GGMLQuantizationType.Q8_0
    )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    ours, theirs = read_header(path), gguf.GGUFReader(path)
    assert ours.architecture == "llama"
    assert ours.block_count == 3
    assert ours.alignment == theirs.alignment
    assert ours.byte_strings("tokenizer.ggml.tokens") == [b"one", b"tw\xff", b"drei"]
    assert ours.metadata["tokenizer.ggml.tokens"] == ["one", "tw\ufffd", "drei"]
    assert list(ours.metadata) == [k for k in theirs.fields if not k.startswith("GGUF.")]
    for mine, other in zip(ours.tensors, theirs.tensors, strict=True):
        assert (mine.name, mine.ggml_type) == (other.name, int(other.tensor_type))
        assert mine.dims == tuple(other.shape.tolist())
        assert (ours.data_start + mine.offset, mine.nbytes) == (other.data_offset, other.n_bytes)


def test_the_reference_reader_reads_what_we_write(tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "m.gguf")
    ours, theirs = read_header(path), gguf.GGUFReader(path)
    assert [t.name for t in ours.tensors] == [t.name for t in theirs.tensors]
    for key in ours.raw_kv:
        assert ours.metadata[key] == theirs.fields[key].contents()


def test_block_sizes_agree_with_the_reference() -> None:
    for kind in gguf.GGMLQuantizationType:
        if kind.name != "Q8_1":  # the package counts 8 bytes of scales, ggml's struct has 4
            assert BLOCKS[GGMLType(int(kind))] == gguf.GGML_QUANT_SIZES[kind]


@pytest.mark.parametrize(
    ("dims", "kind", "message"),
    [
        ((), 0, "at least 1"), ((0,), 0, "at least 1"), ((31,), 8, "blocks of 32"),
        ((32,), 4, "not known"), ((2**32, 2**31), 0, "overflows"), ((2**62,), 0, "overflows"),
    ],
)  # fmt: skip
def test_sizes_that_cannot_be(dims: tuple[int, ...], kind: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tensor_bytes(kind, dims)


def test_every_prefix_asks_for_more_and_then_parses() -> None:
    data = header_bytes(general__architecture="llama", a__texts=["one", "two"], a__number=7)
    end = parse_header(data).data_start
    wanted, asked = 0, 0
    while True:
        try:
            header = parse_header(data[:wanted])
            break
        except NeedMoreData as error:
            more = error
        assert wanted < more.minimum_bytes <= end
        wanted, asked = more.minimum_bytes, asked + 1
    assert header == parse_header(data)
    assert asked > 10


def test_half_a_million_texts_are_walked_not_decoded(tmp_path: Path) -> None:
    path = plain_gguf(tmp_path / "m.gguf", {"big": [str(n) for n in range(500_000)]})
    header = read_header(path)
    assert header.array_length("big") == 500_000
    assert header.metadata["big"][499_999] == "499999"  # type: ignore[index]


def replaced(data: bytes, offset: int, fmt: str, value: int) -> bytes:
    changed = bytearray(data)
    struct.pack_into(fmt, changed, offset, value)
    return bytes(changed)


GOOD = header_bytes(general__architecture="llama")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"GGML" + GOOD[4:], "at byte 0: it does not start with GGUF"),
        (b"PK", "does not start with GGUF"),
        (replaced(GOOD, 4, "<I", 1), "GGUF version 1"),
        (replaced(GOOD, 4, "<I", 4), "GGUF version 4"),
        (replaced(GOOD, 4, ">I", 3), "big-endian"),
        (replaced(GOOD, 8, "<Q", 2**63), "9223372036854775808 tensors"),
        (replaced(GOOD, 16, "<Q", 2**40), "metadata keys"),
        (replaced(GOOD, 24, "<Q", 2**60), "a key of"),
        (header_bytes(key=struct.pack("<IQ", STRING, 2**62)), "a text of"),
        (header_bytes(key=struct.pack("<IIQ", 9, 4, 2**61)), "an array of 2305843009213693952"),
        (header_bytes(key=struct.pack("<IIQ", 9, 9, 1)), "an array of type 9"),
        (header_bytes(key=struct.pack("<I", 99)), "unknown type 99"),
        (header_bytes(general__alignment=24), "power of two"),
        (header_bytes(general__alignment=0), "power of two"),
        (header_bytes(general__alignment=2**31), "power of two"),
        (header_bytes(general__alignment="32"), "not an unsigned 32-bit"),
        (encode_header({"": 1}, ()), "empty or appears twice"),
        (header_bytes(k=1).replace(b"\1\0\0\0\0\0\0\0k", b"\1\0\0\0\0\0\0\0\xff"), "not UTF-8"),
    ],
)
def test_malformed_headers(data: bytes, message: str) -> None:
    with pytest.raises(FileCorrupt, match=message):
        parse_header(data)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (TensorInfo("x" * 64, (1,), 0, 0, 4), "name of 64 bytes"),
        (TensorInfo("", (1,), 0, 0, 4), "empty"),
        (TensorInfo("a\0b", (1,), 0, 0, 4), "zero byte"),
        (TensorInfo("a", (), 0, 0, 4), "0 dimensions"),
        (TensorInfo("a", (1,) * 5, 0, 0, 4), "5 dimensions"),
        (TensorInfo("a", (1, 0), 0, 0, 4), "at least 1"),
        (TensorInfo("a", (2**63, 2), 0, 0, 4), "overflows"),
        (TensorInfo("a", (33,), 8, 0, 4), "blocks of 32"),
        (TensorInfo("a", (32,), 77, 0, 4), "type 77"),
        (TensorInfo("a", (32,), 0, 2**63 - 8, 4), "overflows"),
    ],
)
def test_malformed_tensors(tensor: TensorInfo, message: str) -> None:
    with pytest.raises(FileCorrupt, match=message):
        parse_header(encode_header({}, [tensor]))


def test_names_must_differ() -> None:
    one = TensorInfo("a", (1,), 0, 0, 4)
    with pytest.raises(FileCorrupt, match="appears twice"):
        parse_header(encode_header({}, [one, one]))
    twice = encode_header({"key1": 1, "key2": 2}, ()).replace(b"key2", b"key1")
    with pytest.raises(FileCorrupt, match="'key1' is empty or appears twice"):
        parse_header(twice)


def test_a_header_without_end_is_refused() -> None:
    endless = encode_header({"a": ["x" * GGUF_STRING_BYTES_MAX] * 65}, ())
    with pytest.raises(FileCorrupt, match="longer than"):
        parse_header(memoryview(endless)[: GGUF_HEADER_BYTES_MAX + 1])


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        ((0, 0), "overlaps tensor 'a'"),
        ((0, 8), "not aligned"),
        ((0, 2**40), "it was cut short"),
        ((32, 0), None),
        ((64, 0), None),
    ],
)
def test_tensors_lie_in_the_file_apart(
    tmp_path: Path, offsets: tuple[int, int], message: str | None
) -> None:
    tensors = [TensorInfo(n, (8,), 0, at, 32) for n, at in zip("ab", offsets, strict=True)]
    path = tmp_path / "m.gguf"
    path.write_bytes(encode_header({}, tensors) + bytes(96))
    if message is None:
        assert len(read_header(path).tensors) == 2
    else:
        with pytest.raises(FileCorrupt, match=message):
            read_header(path)


def test_a_truncated_file_is_named_at_any_length(tmp_path: Path) -> None:
    path = plain_gguf(tmp_path / "model.gguf", {"general.architecture": "llama"})
    whole = path.read_bytes()
    for length in (0, 3, 4, 20, 40, len(whole) - 65, len(whole) - 33):
        path.write_bytes(whole[:length])
        with pytest.raises(FileCorrupt, match=r"model\.gguf is not a usable GGUF file"):
            read_header(path)


def test_write_gguf_checks_lengths_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.gguf"
    with pytest.raises(ValueError, match="has 3 bytes, its shape needs 32"):
        write_gguf(path, {}, [("a", (8,), GGMLType.F32, iter([b"12", b"3"]))])

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("kwaai.atomic.os.fsync", full)
    with pytest.raises(DiskFull):
        write_gguf(path, {}, [("a", (8,), GGMLType.F32, bytes(32))])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shape", [TINY, UNTIED])
@pytest.mark.parametrize("quantisation", ["Q8_0", "Q4_0", "F16"])
def test_good_models_are_loadable(tmp_path: Path, shape: Any, quantisation: str) -> None:
    path = tiny_model(tmp_path / "m.gguf", shape, quantisation)
    check_loadable(read_header(path), path.stat().st_size)


def changed_model(
    tmp_path: Path,
    kv: dict[str, Any],
    drop: str = "",
    dims: dict[str, tuple[int, ...]] | None = None,
) -> Path:
    """Write the tiny model's header with changes, over tensors of zeros."""
    header = read_header(tiny_model(tmp_path / "source.gguf", UNTIED))
    keys = {k: v for k, v in (header.raw_kv | kv).items() if v is not None}
    path = tmp_path / "changed.gguf"
    tensors = []
    for t in header.tensors:
        shape = (dims or {}).get(t.name, t.dims)
        if not (drop and t.name.startswith(drop)):
            tensors.append((t.name, shape, t.ggml_type, bytes(tensor_bytes(t.ggml_type, shape))))
    write_gguf(path, keys, tensors)
    return path


TOKENS = "tokenizer.ggml.tokens"


@pytest.mark.parametrize(
    ("kv", "drop", "dims", "message"),
    [
        ({"llama.block_count": 0}, "", {}, "block_count is 0"),
        ({"llama.block_count": 7}, "", {}, "no tensors for block 6 of 7"),
        ({"llama.block_count": 5}, "", {}, r"'blk\.5\..*', but the model has 5 blocks"),
        ({"llama.block_count": 2**32 - 1}, "", {}, "block_count is 4294967295"),
        ({"llama.block_count": None}, "", {}, "block_count is missing"),
        ({"llama.embedding_length": 128}, "", {}, r"not \[128, tokens\]"),
        ({"llama.embedding_length": True}, "", {}, "not an integer"),
        ({"llama.context_length": 0}, "", {}, "context_length is 0"),
        ({"llama.attention.head_count_kv": 5}, "", {}, "head_count_kv is 5; it must be 1 to 4"),
        ({"llama.attention.head_count_kv": 0}, "", {}, "head_count_kv is 0"),
        ({"llama.attention.head_count": [4] * 5 + [-4]}, "", {}, "head_count is -4"),
        ({"llama.attention.head_count": encode_value([], U32)}, "", {}, "head_count is -1"),
        ({"llama.attention.head_count": "four"}, "", {}, "head_count is not an integer"),
        ({"llama.rope.dimension_count": 2**31}, "", {}, "rope.dimension_count is 2147483648"),
        ({"llama.nextn_predict_layers": 6}, "", {}, "nextn_predict_layers is 6"),
        ({"llama.expert_count": 5000}, "", {}, "expert_count is 5000"),
        ({"llama.expert_count": 4}, "", {}, "expert_used_count is 0"),
        ({"llama.expert_used_count": 2}, "", {}, "expert_used_count is 2"),
        ({"general.architecture": None}, "", {}, "names no architecture"),
        ({}, "token_embd", {}, "no token_embd.weight"),
        ({}, "blk.3.", {}, "no tensors for block 3"),
        ({}, "", {"output.weight": (256, 301)}, "output.weight has the shape"),
        ({}, "", {"blk.2.attn_norm.weight": (257,)}, "has 257 columns"),
        ({TOKENS: ["a"] * 300}, "", {}, "a token twice"),
        ({TOKENS: [str(n) for n in range(299)]}, "", {}, "300 rows, the tokenizer 299"),
        ({TOKENS: [1, 2]}, "", {}, "not an array of texts"),
        ({TOKENS: None}, "", {}, "has no tokens"),
        ({"tokenizer.ggml.merges": "a b"}, "", {}, "merges is not an array of texts"),
        ({"tokenizer.ggml.token_type": [1] * 299}, "", {}, "not an array of 300 values"),
    ],
)
def test_what_llama_cpp_would_abort_on(
    tmp_path: Path, kv: dict[str, Any], drop: str, dims: dict[str, tuple[int, ...]], message: str
) -> None:
    path = changed_model(tmp_path, kv, drop, dims)
    with pytest.raises(FileCorrupt, match=message):
        check_loadable(read_header(path), path.stat().st_size)


@pytest.mark.parametrize(
    ("kv", "message"),
    [
        ({"split.count": 3}, "one part of several"),
        ({"tokenizer.ggml.model": "t5"}, "tokenizer 't5'"),
        ({"tokenizer.ggml.model": None}, "tokenizer None"),
    ],
)
def test_what_is_only_not_for_us(tmp_path: Path, kv: dict[str, Any], message: str) -> None:
    path = changed_model(tmp_path, kv)
    with pytest.raises(ModelUnsupported, match=message):
        check_loadable(read_header(path), path.stat().st_size)


def test_only_the_layout_that_ggml_reads(tmp_path: Path) -> None:
    header = read_header(tiny_model(tmp_path / "m.gguf"))
    first, *rest = header.tensors
    moved = [*rest, first]
    path = tmp_path / "moved.gguf"
    path.write_bytes(encode_header(header.raw_kv, moved) + bytes(header.data_bytes + 64))
    with pytest.raises(FileCorrupt, match=r"where llama\.cpp looks for it"):
        check_loadable(read_header(path), path.stat().st_size)


def test_types_that_ggml_cannot_compute_with(tmp_path: Path) -> None:
    header = read_header(tiny_model(tmp_path / "m.gguf"))
    tensors = [
        (t.name, t.dims, GGMLType.F64 if "attn_norm" in t.name else t.ggml_type)
        for t in header.tensors
    ]
    laid_out = lay_out(tensors)
    path = tmp_path / "f64.gguf"
    path.write_bytes(encode_header(header.raw_kv, laid_out) + bytes(2 * header.data_bytes))
    with pytest.raises(ModelUnsupported, match="type F64"):
        check_loadable(read_header(path), path.stat().st_size)
