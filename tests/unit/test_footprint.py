"""Bytes of weights and KV cache, against sums done by hand and files of known shape."""

from __future__ import annotations

from pathlib import Path

import pytest

from kwaai.models import footprint
from kwaai.models.gguf import GGUFHeader, read_header
from kwaai.models.slice_rules import layer_count
from kwaai.testing import parts
from kwaai.testing.families import write_family
from kwaai.testing.models import TINY, UNTIED, tiny_model
from kwaai.types import LayerRange


def family(name: str, tmp_path: Path) -> GGUFHeader:
    path = tmp_path / "model.gguf"
    write_family(name, path)
    return read_header(path)


def test_blocks_and_head_are_the_file(tmp_path: Path) -> None:
    header = read_header(tiny_model(tmp_path / "m.gguf", UNTIED))
    blocks = footprint.block_bytes(header)
    assert len(blocks) == layer_count(header) == 6
    assert len(set(blocks)) == 1
    table = header.tensor("token_embd.weight")
    factors = header.tensor("rope_freqs.weight")
    assert table is not None
    assert factors is not None
    everything = sum(tensor.nbytes for tensor in header.tensors)
    rest = sum(blocks) + footprint.head_bytes(header)
    assert everything - rest == table.nbytes + factors.nbytes


def test_a_tied_head_is_as_large_as_the_embedding(tmp_path: Path) -> None:
    header = read_header(tiny_model(tmp_path / "m.gguf", TINY))
    table, norm = header.tensor("token_embd.weight"), header.tensor("output_norm.weight")
    assert table is not None
    assert norm is not None
    assert footprint.head_bytes(header) == table.nbytes + norm.nbytes


def test_kv_of_grouped_attention(tmp_path: Path) -> None:
    header = read_header(tiny_model(tmp_path / "m.gguf", TINY))
    one = 2 * 2 * (64 + 64)  # float16, 2 KV heads, keys and values of width 64
    assert footprint.kv_bytes_per_token(header, LayerRange(2, 3)) == one
    assert footprint.kv_bytes_per_token(header, LayerRange(0, 6)) == 6 * one


@pytest.mark.parametrize(
    ("name", "one"),
    [
        ("llama", 2 * parts.HEADS_KV * 2 * parts.HEAD_DIM),
        ("gemma3", 2 * parts.HEADS_KV * 2 * parts.HEAD_DIM),
        ("phi3", 2 * parts.HEADS * 2 * parts.HEAD_DIM),
    ],
)
def test_kv_of_families(name: str, one: int, tmp_path: Path) -> None:
    header = family(name, tmp_path)
    assert footprint.kv_bytes_per_token(header, LayerRange(0, 1)) == one


def test_latent_attention_keeps_little(tmp_path: Path) -> None:
    header = family("deepseek2", tmp_path)
    latent = header.arch_int("attention.kv_lora_rank")
    rope = header.arch_int("rope.dimension_count")
    one = footprint.kv_bytes_per_token(header, LayerRange(0, 1))
    assert 2 * (latent + rope) <= one <= 2 * (2 * latent + rope)


def test_buffers_grow_with_batch_and_outputs(tmp_path: Path) -> None:
    header = read_header(tiny_model(tmp_path / "m.gguf", TINY))

    def size(batch_tokens: int, outputs: int) -> int:
        return footprint.compute_bytes(
            header, batch_tokens=batch_tokens, outputs=outputs, vocab=300
        )

    assert size(512, 0) == 2 * size(256, 0)
    assert size(512, 4) - size(512, 0) == 4 * 4 * 300
