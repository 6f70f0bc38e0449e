"""Slices: which tensors and keys go where, for ranges, heads and families; and the copying."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwaai.errors import DiskFull, FileCorrupt, UserError
from kwaai.models.gguf import GGUFHeader, parse_header, read_header
from kwaai.models.gguf_check import check_loadable
from kwaai.models.gguf_types import GGMLType
from kwaai.models.gguf_write import encode_header, lay_out
from kwaai.models.slice_rules import layer_count
from kwaai.models.slices import (
    STUB_VOCAB,
    copy_parts,
    cut_embedding,
    cut_slice,
    group_of,
    is_tied,
    slice_header,
)
from kwaai.testing.models import TINY, UNTIED, tiny_model
from kwaai.types import LayerRange, ModelHandle

HANDLE = ModelHandle("sha256:" + "ab" * 32)


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("token_embd.weight", "embedding"),
        ("blk.0.attn_q.weight", "blk.0"),
        ("blk.117.ffn_gate_exps.weight", "blk.117"),
        ("output.weight", "head"),
        ("output.bias", "head"),
        ("output_norm.weight", "head"),
        ("rope_freqs.weight", "shared"),
        ("rope_factors_long.weight", "shared"),
        ("token_embd_norm.weight", "shared"),
        ("blk.01.x", "shared"),
        ("blk.99999.x", "shared"),
        ("blk.1", "shared"),
    ],
)
def test_groups(name: str, group: str) -> None:
    assert group_of(name) == group


def data_of(path: Path, header: GGUFHeader, name: str) -> bytes:
    tensor = header.tensor(name)
    assert tensor is not None
    with path.open("rb") as file:
        file.seek(header.data_start + tensor.offset)
        return file.read(tensor.nbytes)


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("m") / "tied.gguf", TINY)


@pytest.fixture(scope="module")
def untied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("m") / "untied.gguf", UNTIED, "Q4_0")


@pytest.mark.parametrize(("start", "stop"), [(0, 2), (2, 5), (5, 6), (0, 6), (3, 4)])
@pytest.mark.parametrize("head", [False, True])
@pytest.mark.parametrize("model", ["tied", "untied"])
def test_a_slice_holds_its_layers_renumbered(
    request: pytest.FixtureRequest, tmp_path: Path, model: str, start: int, stop: int, head: bool
) -> None:
    source: Path = request.getfixturevalue(model)
    whole, path = read_header(source), tmp_path / "slice.gguf"
    layers = LayerRange(start, stop)
    if head and stop != 6:
        with pytest.raises(UserError, match="the head belongs behind layer 5"):
            cut_slice(source, path, layers, head)
        assert not path.exists()
        return
    plan = cut_slice(source, path, layers, head, HANDLE)
    sliced = read_header(path)
    check_loadable(sliced, path.stat().st_size)
    assert path.stat().st_size == plan.total_bytes
    assert sliced.block_count == len(layers)
    assert layer_count(sliced) == len(layers)
    for tensor in whole.tensors:
        group = group_of(tensor.name)
        if group.startswith("blk.") and int(group[4:]) in layers:
            name = tensor.name.replace(group, f"blk.{int(group[4:]) - start}", 1)
            assert data_of(path, sliced, name) == data_of(source, whole, tensor.name)
        elif group == "shared" or (head and group == "head"):
            assert data_of(path, sliced, tensor.name) == data_of(source, whole, tensor.name)
    assert {k: v for k, v in sliced.metadata.items() if k.startswith("kwaai.")} == {
        "kwaai.slice.block_count": 6,
        "kwaai.slice.head": head,
        "kwaai.slice.kind": "layers",
        "kwaai.slice.source": HANDLE,
        "kwaai.slice.start": start,
        "kwaai.slice.stop": stop,
    }


def test_a_slice_without_head_has_stubs(untied: Path, tmp_path: Path) -> None:
    cut_slice(untied, tmp_path / "s.gguf", LayerRange(1, 3), head=False)
    sliced = read_header(tmp_path / "s.gguf")
    assert sliced.metadata["tokenizer.ggml.model"] == "no_vocab"
    assert sliced.metadata["llama.vocab_size"] == STUB_VOCAB
    assert [k for k in sliced.raw_kv if k.startswith("tokenizer.")] == ["tokenizer.ggml.model"]
    for name in ("token_embd.weight", "output.weight"):
        tensor = sliced.tensor(name)
        assert tensor is not None
        assert tensor.dims == (256, STUB_VOCAB)
        assert not any(data_of(tmp_path / "s.gguf", sliced, name))
    assert not any(data_of(tmp_path / "s.gguf", sliced, "output_norm.weight"))


def test_a_head_keeps_the_tokenizer_and_its_matrix(
    untied: Path, tied: Path, tmp_path: Path
) -> None:
    for source in (untied, tied):
        whole, path = read_header(source), tmp_path / "s.gguf"
        cut_slice(source, path, LayerRange(4, 6), head=True)
        sliced = read_header(path)
        matrix = "token_embd.weight" if is_tied(whole) else "output.weight"
        assert data_of(path, sliced, matrix) == data_of(source, whole, matrix)
        tokenizer = {k: v for k, v in whole.raw_kv.items() if k.startswith("tokenizer.")}
        assert tokenizer.items() <= sliced.raw_kv.items()
    cut_slice(untied, path, LayerRange(4, 6), head=True)
    stub = read_header(path).tensor("token_embd.weight")
    assert stub is not None
    assert (stub.dims, stub.ggml_type) == ((256, 300), GGMLType.TQ1_0)


def test_the_same_range_gives_the_same_bytes(tied: Path, tmp_path: Path) -> None:
    header = read_header(tied)
    shuffled = lay_out((t.name, t.dims, t.ggml_type) for t in reversed(header.tensors))
    kv: dict[str, Any] = {"general.name": "another", **dict(reversed(header.raw_kv.items()))}
    other = parse_header(encode_header(kv, shuffled))
    layers = LayerRange(2, 4)
    assert slice_header(other, layers, False).header == slice_header(header, layers, False).header


def test_names_and_layout_do_not_reach_a_slice(tied: Path) -> None:
    sliced = parse_header(slice_header(read_header(tied), LayerRange(0, 2), False).header)
    general = [key for key in sliced.raw_kv if key.startswith("general.")]
    assert general == ["general.architecture", "general.quantization_version"]


def test_the_embedding_file(tied: Path, tmp_path: Path) -> None:
    path = tmp_path / "e.gguf"
    cut_embedding(tied, path, HANDLE)
    whole, cut = read_header(tied), read_header(path)
    assert [t.name for t in cut.tensors] == ["token_embd.weight"]
    assert data_of(path, cut, "token_embd.weight") == data_of(tied, whole, "token_embd.weight")
    assert cut.metadata["kwaai.slice.kind"] == "embedding"
    assert cut.array_length("tokenizer.ggml.tokens") == 300


@given(st.integers(0, 8), st.integers(0, 8))
def test_ranges_outside_the_model_are_refused(start: int, stop: int) -> None:
    header = pseudo({})
    if not start < stop:
        return
    if stop <= 6:
        assert slice_header(header, LayerRange(start, stop), False).parts
    else:
        with pytest.raises(UserError, match="the model has 6"):
            slice_header(header, LayerRange(start, stop), False)


def pseudo(kv: dict[str, Any], arch: str = "llama", blocks: int = 6) -> GGUFHeader:
    """Return a header with one small tensor per block, and `kv` under the architecture's prefix."""
    keys: dict[str, Any] = {
        "general.architecture": arch,
        f"{arch}.block_count": blocks,
        f"{arch}.embedding_length": 64,
        **{f"{arch}.{key}": value for key, value in kv.items()},
    }
    names = ["token_embd.weight", *(f"blk.{n}.attn_norm.weight" for n in range(blocks))]
    return parse_header(encode_header(keys, lay_out((n, (64,), GGMLType.F32) for n in names)))


def sliced_kv(header: GGUFHeader, start: int, stop: int) -> dict[str, Any]:
    plan = slice_header(header, LayerRange(start, stop), False)
    return dict(parse_header(plan.header).metadata)


def test_arrays_of_one_value_per_layer_are_cut() -> None:
    header = pseudo(
        {
            "attention.head_count": [1, 2, 3, 4, 5, 6],
            "floats": [0.0, 1.0, 2.0, 3.0, 4.0, 5.0],
            "flags": [True, False, True, False, True, True],
            "names": ["a", "b", "c", "d", "e", "f"],
            "other": [1, 2, 3],
            "rope.dimension_sections": [6, 5, 4, 3, 2, 1],
        }
    )
    kv = sliced_kv(header, 2, 5)
    assert kv["llama.attention.head_count"] == [3, 4, 5]
    assert kv["llama.floats"] == [2.0, 3.0, 4.0]
    assert kv["llama.flags"] == [True, False, True]
    assert kv["llama.names"] == ["c", "d", "e"]
    assert kv["llama.other"] == [1, 2, 3]
    assert kv["llama.rope.dimension_sections"] == [6, 5, 4, 3, 2, 1]


@pytest.mark.parametrize(
    ("start", "stop", "leading"), [(0, 1, 1), (0, 4, 2), (1, 3, 1), (2, 6, 0), (5, 6, 0)]
)
def test_leading_dense_layers_are_counted_in_the_range(start: int, stop: int, leading: int) -> None:
    kv = sliced_kv(pseudo({"leading_dense_block_count": 2}, "deepseek2"), start, stop)
    assert kv["deepseek2.leading_dense_block_count"] == leading


def test_prediction_blocks_belong_to_no_slice() -> None:
    header = pseudo({"nextn_predict_layers": 1})
    assert sliced_kv(header, 0, 5)["llama.nextn_predict_layers"] == 0
    with pytest.raises(UserError, match="the model has 5"):
        sliced_kv(header, 4, 6)


PATTERN = "attention.sliding_window_pattern"


@pytest.mark.parametrize(
    ("arch", "kv", "start", "expected"),
    [
        ("gemma2", {}, 0, [True, False, True]),
        ("gemma2", {}, 1, [False, True, False]),
        ("gemma3", {}, 4, [True, False, True]),
        ("gemma3", {PATTERN: 2}, 1, [False, True, False]),
        ("gemma3", {PATTERN: [False, True, True, False, True, True, True, True]}, 3,
         [False, True, True]),
    ],
)  # fmt: skip
def test_which_layers_look_at_a_window_stays(
    arch: str, kv: dict[str, Any], start: int, expected: list[bool]
) -> None:
    header = pseudo(kv, arch, blocks=8)
    assert sliced_kv(header, start, start + 3)[f"{arch}.{PATTERN}"] == expected


def test_a_pattern_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(FileCorrupt, match="one value for each"):
        sliced_kv(pseudo({PATTERN: [True] * 5}, "gemma3"), 0, 3)


def test_a_missing_layer_is_corruption() -> None:
    header = pseudo({"block_count": 8})
    with pytest.raises(FileCorrupt, match="no tensors for layer 6"):
        slice_header(header, LayerRange(5, 8), False)


def test_a_full_disk_leaves_nothing(
    tied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("kwaai.models.slices.os.pwrite", full)
    with pytest.raises(DiskFull, match="free some space"):
        cut_slice(tied, tmp_path / "s.gguf", LayerRange(0, 2), head=False)
    assert list(tmp_path.iterdir()) == []


def test_a_source_that_shrinks_is_noticed(tied: Path, tmp_path: Path) -> None:
    plan = slice_header(read_header(tied), LayerRange(4, 6), head=True)
    short = tmp_path / "short.gguf"
    short.write_bytes(tied.read_bytes()[: tied.stat().st_size // 2])
    with pytest.raises(FileCorrupt, match="ends inside"):
        copy_parts(short, tmp_path / "s.gguf", plan)
    assert list(tmp_path.iterdir()) == [short]
