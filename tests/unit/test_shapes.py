"""Random models of real shapes: the real numbers, sound weights, the same bytes for one seed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import gguf
import numpy as np
import pytest

from kwaai.errors import ModelNotFound, UserError
from kwaai.models.gguf import read_header
from kwaai.models.gguf_check import check_loadable
from kwaai.models.manifest import build_manifest
from kwaai.models.shapes import SHAPES, byte_alphabet, find_shape, write_random_model
from kwaai.testing.models import TINY, UNTIED

PARAMETERS = {  # as published, in millions
    "qwen2.5-0.5b": 494,
    "qwen3-0.6b": 596,
    "llama-3.2-1b": 1236,
    "tinyllama-1.1b": 1100,
    "llama-3.1-8b": 8030,
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_has_the_published_number_of_parameters(name: str) -> None:
    s = SHAPES[name]
    q, kv = s.heads * s.head_dim, s.kv_heads * s.head_dim
    block = 2 * s.embd * q + 2 * s.embd * kv + 3 * s.embd * s.ff
    total = s.layers * block + s.vocab * s.embd * (1 if s.tied else 2)
    assert round(total / 1e6) == pytest.approx(PARAMETERS[name], rel=0.002)


@pytest.mark.parametrize("name", SHAPES)
def test_one_layer_of_each_shape_is_a_loadable_model(tmp_path: Path, name: str) -> None:
    shape = dataclasses.replace(SHAPES[name], layers=1, vocab=512)
    path = tmp_path / "m.gguf"
    write_random_model(path, shape, "Q4_0")
    header = read_header(path)
    check_loadable(header, path.stat().st_size)
    assert header.architecture == shape.architecture
    assert (header.tensor("blk.0.attn_q.bias") is not None) == shape.qkv_bias
    assert (header.tensor("blk.0.attn_q_norm.weight") is not None) == shape.qk_norm
    assert (header.tensor("rope_freqs.weight") is not None) == shape.rope_factors


@pytest.mark.parametrize("quantisation", ["Q8_0", "Q4_0", "F16", "q8_0"])
def test_weights_have_a_sound_size(tmp_path: Path, quantisation: str) -> None:
    path = tmp_path / "m.gguf"
    write_random_model(path, TINY, quantisation)
    for tensor in gguf.GGUFReader(path).tensors:
        values = np.array(gguf.quants.dequantize(tensor.data, tensor.tensor_type), np.float32)
        assert np.isfinite(values).all()
        if values.ndim == 2:
            assert values.std() == pytest.approx(values.shape[1] ** -0.5, rel=0.05)
            assert abs(values.mean()) < 0.15 * values.std()


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_random_model(tmp_path / name, UNTIED, "Q4_0", seed)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    first, other = build_manifest(tmp_path / "a"), build_manifest(tmp_path / "c")
    assert first.groups["blk.0"].sha256 != first.groups["blk.1"].sha256
    assert first.handle != other.handle


def test_the_tokenizer_has_a_token_for_every_byte(tmp_path: Path) -> None:
    assert len(set(byte_alphabet())) == 256
    assert byte_alphabet()[ord("A")] == "A"
    assert byte_alphabet()[ord(" ")] == "Ġ"
    write_random_model(tmp_path / "m.gguf", TINY)
    header = read_header(tmp_path / "m.gguf")
    tokens = header.metadata["tokenizer.ggml.tokens"]
    assert isinstance(tokens, list)
    assert len(set(tokens)) == TINY.vocab
    assert tokens[header.metadata["tokenizer.ggml.eos_token_id"]] == "<|endoftext|>"  # type: ignore[index]


def test_unknown_names_list_the_known() -> None:
    assert find_shape("Qwen2.5-0.5B").embd == 896
    with pytest.raises(ModelNotFound, match=r"no shape 'gpt-5'; there are qwen2\.5-0\.5b, "):
        find_shape("gpt-5")


def test_an_unknown_quantisation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'Q3_K' cannot be written; choose one of Q8_0, Q4_0, F16"):
        write_random_model(tmp_path / "m.gguf", TINY, "Q3_K")
    assert list(tmp_path.iterdir()) == []
