"""The table of families: what it lets through, what it refuses, how slices are fed."""

from __future__ import annotations

from typing import Any

import pytest

from kwaai.errors import ModelUnsupported
from kwaai.inference.families import FAMILIES, REFUSED, check_cut, supported
from kwaai.types import LayerRange


def metadata(architecture: str, **keys: Any) -> dict[str, object]:
    """A model of 8 layers; `__` in a key stands for a dot."""
    own = {"block_count": 8, "embedding_length": 64, "attention__head_count": 4} | keys
    named = {f"{architecture}.{key.replace('__', '.')}": value for key, value in own.items()}
    return {"general.architecture": architecture} | named


@pytest.mark.parametrize("architecture", FAMILIES)
def test_an_ordinary_model_of_each_family_is_supported(architecture: str) -> None:
    model = metadata(architecture, interleave_moe_layer_step=1)
    assert supported(model).architecture == architecture


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ({}, "not proven"),
        (metadata("llama", block_count=0), "no layers"),
        (metadata("nonesuch"), "not proven"),
        (metadata("mamba"), "recurrent"),
        (metadata("gemma3n"), "token ids"),
        (metadata("gpt2"), "position vectors"),
        (metadata("bert"), "does not write text"),
        (metadata("qwen3", pooling_type=3), "embeds or ranks"),
        (metadata("llama", attention__causal=False), "not causal"),
        (metadata("glm4", rope__dimension_sections=[8, 12, 12, 0]), "sections"),
        (metadata("gemma2", block_count=46, attention__key_length=128), "27B"),
        (metadata("gemma3", block_count=62, attention__key_length=128), "27B"),
        (metadata("granite", deepstack_mapping=[-1, 0, 1]), "deepstack"),
        (metadata("exaone4", block_count=64), "64 layers"),
        (metadata("command-r", block_count=64), "64 layers"),
        (metadata("ernie4_5-moe", interleave_moe_layer_step=2), "index"),
    ],
)
def test_refused_models_say_why_and_what_to_do(model: dict[str, object], reason: str) -> None:
    with pytest.raises(ModelUnsupported) as refusal:
        supported(model)
    assert reason in refusal.value.message
    assert "--local" in refusal.value.message


def test_the_27b_scale_is_no_matter_where_it_is_the_usual_one() -> None:
    assert supported(metadata("gemma2", block_count=46, attention__key_length=16))


@pytest.mark.parametrize(
    ("model", "layers", "reason"),
    [
        (metadata("llama"), LayerRange(5, 9), "8 layers"),
        (metadata("smollm3"), LayerRange(2, 8), "multiple of 4"),
        (metadata("cohere2"), LayerRange(3, 4), "window"),
        (metadata("cohere2", attention__sliding_window_pattern=2), LayerRange(1, 2), "window"),
        (
            metadata("cohere2", attention__sliding_window_pattern=[True] * 6 + [False] * 2),
            LayerRange(6, 8),
            "window",
        ),
        (
            metadata("deepseek2", block_count=61, attention__q_lora_rank=1536),
            LayerRange(0, 27),
            "lite",
        ),
        (
            metadata("gemma3", block_count=80, attention__key_length=128),
            LayerRange(0, 62),
            "attention scale",
        ),
        (metadata("exaone4", block_count=70), LayerRange(0, 64), "64 layers"),
    ],
)
def test_refused_cuts_say_why(model: dict[str, object], layers: LayerRange, reason: str) -> None:
    with pytest.raises(ModelUnsupported, match=reason):
        check_cut(supported(model), model, [layers])


@pytest.mark.parametrize(
    ("model", "layers"),
    [
        (metadata("llama"), LayerRange(3, 5)),
        (metadata("smollm3"), LayerRange(4, 7)),
        (metadata("cohere2"), LayerRange(3, 5)),
        (metadata("deepseek2", block_count=27), LayerRange(0, 26)),
        (metadata("deepseek2", block_count=27), LayerRange(0, 27)),
        (metadata("gemma3", block_count=80, attention__key_length=16), LayerRange(0, 62)),
        (metadata("glm4", block_count=9, nextn_predict_layers=1), LayerRange(0, 8)),
    ],
)
def test_other_cuts_are_allowed(model: dict[str, object], layers: LayerRange) -> None:
    check_cut(supported(model), model, [layers])


def test_a_layer_for_multi_token_prediction_belongs_to_no_range() -> None:
    model = metadata("glm4", block_count=9, nextn_predict_layers=1)
    with pytest.raises(ModelUnsupported, match="8 layers"):
        check_cut(supported(model), model, [LayerRange(0, 9)])


@pytest.mark.parametrize(
    ("model", "scale", "input_tensor"),
    [
        (metadata("llama"), 1.0, None),
        (metadata("gemma", embedding_length=3072), 55.42562484741211, "inp_scaled"),  # float32
        (metadata("gemma2", embedding_length=2304), 48.0, "inp_scaled"),
        (metadata("gemma3", embedding_length=1152), 33.941123962402344, None),
        (metadata("granite", embedding_scale=12.0), 12.0, None),
        (metadata("granite", embedding_scale=0.0), 1.0, None),
        (metadata("granite"), 1.0, None),
        (metadata("minicpm"), 12.0, None),
        (metadata("minicpm", embedding_scale=4.0), 4.0, None),
        (metadata("glm4"), 1.0, "embd"),
    ],
)
def test_what_enters_a_slice(
    model: dict[str, object], scale: float, input_tensor: str | None
) -> None:
    family = supported(model)
    assert family.embedding_scale(model) == scale
    assert family.input_tensor == input_tensor


def test_no_architecture_is_both_supported_and_refused() -> None:
    assert not set(FAMILIES) & set(REFUSED)
