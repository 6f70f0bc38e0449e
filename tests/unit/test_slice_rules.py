"""What a slice's metadata says that its model's does not: family by family."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from kwaai.errors import ModelUnsupported
from kwaai.models.gguf import GGUFHeader, decode_value
from kwaai.models.gguf_types import TensorInfo
from kwaai.models.gguf_write import encode_value
from kwaai.models.slice_rules import WINDOW_WIDE, adapt
from kwaai.types import LayerRange

PATTERN = "attention.sliding_window_pattern"


def changes(
    architecture: str, start: int, stop: int, vocab: int = 32, **keys: Any
) -> dict[str, Any]:
    """Adapt a model of 8 blocks; `__` in a key stands for a dot, keys come back bare."""
    own = {"block_count": 8} | {key.replace("__", "."): value for key, value in keys.items()}
    raw = {f"{architecture}.{key}": encode_value(value) for key, value in own.items()}
    raw["general.architecture"] = encode_value(architecture)
    table = TensorInfo("token_embd.weight", (64, vocab), 0, 0, 64 * vocab * 4)
    header = GGUFHeader(version=3, raw_kv=raw, tensors=(table,), data_start=0, alignment=32)
    out = adapt(header, LayerRange(start, stop))
    return {key.removeprefix(f"{architecture}."): decode_value(value) for key, value in out.items()}


def float32(value: float) -> float:
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


def test_a_plain_family_changes_the_number_of_layers_only() -> None:
    assert changes("llama", 2, 5) == {"block_count": 3}


@pytest.mark.parametrize(("architecture", "layer"), [("gemma3", 5), ("olmo2", 3)])
def test_a_range_without_windows_turns_them_off(architecture: str, layer: int) -> None:
    out = changes(architecture, layer, layer + 1, attention__sliding_window=512)
    assert out[PATTERN] == [False]
    assert out["attention.sliding_window"] == 0


@pytest.mark.parametrize("architecture", ["gemma2", "gpt-oss"])
def test_a_window_that_cannot_be_turned_off_is_made_wide(architecture: str) -> None:
    out = changes(
        architecture, 1, 2, rope__freq_base=5e5, rope__freq_base_swa=1e4, rope__dimension_count=32
    )
    assert out[PATTERN] == [True]
    assert out["attention.sliding_window"] == WINDOW_WIDE
    assert out["rope.freq_base_swa"] == 5e5


def test_a_wide_window_keeps_the_default_positions() -> None:
    assert changes("gemma2", 1, 2)["rope.freq_base_swa"] == 10000.0


def test_a_range_with_a_window_keeps_its_width() -> None:
    assert "attention.sliding_window" not in changes("gemma2", 1, 3, attention__sliding_window=9)


def test_cohere2_needs_a_window_in_every_range() -> None:
    assert changes("cohere2", 3, 5)[PATTERN] == [False, True]
    with pytest.raises(ModelUnsupported, match="none of these layers has a window"):
        changes("cohere2", 3, 4)


@pytest.mark.parametrize("architecture", ["granite", "granitemoe", "minicpm"])
@pytest.mark.parametrize("start", [0, 4])
def test_slices_do_not_scale_what_comes_in(architecture: str, start: int) -> None:
    out = changes(architecture, start, start + 2, embedding_scale=12.0)
    assert out["embedding_scale"] == 0.0


def test_minicpm_keeps_the_residual_scale_of_the_whole_model() -> None:
    expected = float32(float32(1.4) / float32(8**0.5))
    assert changes("minicpm", 0, 3)["residual_scale"] == expected
    assert "residual_scale" not in changes("minicpm", 0, 3, residual_scale=0.5)


@pytest.mark.parametrize(
    ("keys", "gating"),
    [
        ({}, 1),
        ({"expert_gating_func": 0}, 1),
        ({"block_count": 47, "vocab": 154880}, 2),
        ({"block_count": 48, "nextn_predict_layers": 1, "vocab": 154880}, 2),
        ({"block_count": 47, "vocab": 102400}, 1),
    ],
)
def test_deepseek2_says_what_llama_cpp_would_guess(keys: dict[str, Any], gating: int) -> None:
    out = changes("deepseek2", 0, 3, **keys)
    assert out["expert_gating_func"] == gating
    assert out["attention.q_lora_rank"] == 0


def test_deepseek2_leaves_alone_what_the_file_says() -> None:
    out = changes("deepseek2", 0, 3, attention__q_lora_rank=1536, expert_gating_func=2)
    assert not {"attention.q_lora_rank", "expert_gating_func"} & set(out)
