"""Recipes of tiny models, one or more for every supported family of architectures.

Each exercises what is peculiar to its family: fused projections, biases, experts, latent attention,
sliding windows, scales. Writes nothing: see families.py; its pieces are in parts.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kwaai.testing.parts import (
    BASE,
    BIASED_NORM,
    DEEPSEEK2_LEGACY,
    DENSE_LEAD,
    DENSE_LEAD_EXPERTS,
    EMBD,
    EXPERT_COUNT,
    EXPERT_FF,
    EXPERTS,
    FALCON,
    FEED_FORWARD,
    GLM4,
    GPT_OSS,
    GRANITE,
    HEAD_DIM,
    KV_WIDTH,
    LAYER_NORM,
    LLAMA,
    MHA,
    MIXTRAL,
    MTP,
    NORM,
    OLMO2,
    PHI2,
    PHI3,
    POST_NORMS,
    Q_RANK,
    Q_WIDTH,
    QK_NORMS,
    QWEN2,
    QWEN2MOE,
    QWEN3,
    ROPE_FACTORS,
    SHARED_EXPERTS,
    SOFTCAP,
    STARCODER2,
    SWA,
    VOCAB,
    YARN,
    Metadata,
    Recipe,
    Shapes,
    attention,
    biased,
    deepseek2_block,
    deepseek2_metadata,
    dense_lead_block,
    experts,
    gated,
    linear,
    norms,
    with_base,
)


def _recipe(architecture: str, metadata: Metadata, block: Shapes, **options: Any) -> Recipe:
    return Recipe(architecture, metadata, lambda _: block, **options)


RECIPES: Mapping[str, Recipe] = {
    "llama": _recipe("llama", BASE, LLAMA),
    "llama, tied output": _recipe("llama", BASE, LLAMA, tied=True),
    "llama 3, rope factors": _recipe(
        "llama",
        with_base({"rope.freq_base": 500000.0}),
        LLAMA,
        head=NORM | {"rope_freqs.weight": (HEAD_DIM // 2,)},
        tied=True,
    ),
    "llama, Q8_0": _recipe("llama", BASE, LLAMA, quantisation="Q8_0"),
    "llama, F16, tied output": _recipe("llama", BASE, LLAMA, quantisation="F16", tied=True),
    "mixtral": _recipe(
        "llama",
        with_base(EXPERTS),
        MIXTRAL,
    ),
    "mistral3": _recipe(
        "mistral3",
        with_base(YARN, {"attention.temperature_scale": 0.1}),
        LLAMA,
    ),
    "qwen2": _recipe("qwen2", BASE, QWEN2),
    "qwen2, Q8_0, tied output": _recipe("qwen2", BASE, QWEN2, quantisation="Q8_0", tied=True),
    "qwen2, Q4_0": _recipe("qwen2", BASE, QWEN2, quantisation="Q4_0"),
    "qwen2moe": _recipe(
        "qwen2moe",
        with_base(
            EXPERTS,
            {
                "expert_feed_forward_length": EXPERT_FF,
                "expert_shared_feed_forward_length": EXPERT_FF,
            },
        ),
        QWEN2MOE,
    ),
    "qwen3": _recipe("qwen3", BASE, QWEN3, tied=True),
    "qwen3, BF16": _recipe("qwen3", BASE, QWEN3, quantisation="BF16"),
    "qwen3moe, Q8_0": _recipe(
        "qwen3moe",
        with_base(EXPERTS, {"expert_feed_forward_length": EXPERT_FF}),
        norms("attn_norm", "ffn_norm") | attention() | QK_NORMS | experts(),
        quantisation="Q8_0",
    ),
    "qwen3moe": _recipe(
        "qwen3moe",
        with_base(EXPERTS, {"expert_feed_forward_length": EXPERT_FF}),
        norms("attn_norm", "ffn_norm") | attention() | QK_NORMS | experts(),
    ),
    "gemma": _recipe("gemma", BASE, LLAMA, tied=True),
    "gemma2": _recipe("gemma2", with_base(SWA, SOFTCAP), LLAMA | POST_NORMS, tied=True),
    "gemma3": _recipe(
        "gemma3",
        with_base(
            SWA, {"rope.freq_base": 1e6, "rope.scaling.type": "linear", "rope.scaling.factor": 8.0}
        ),
        QWEN3 | POST_NORMS,
        tied=True,
    ),
    "phi3": _recipe("phi3", with_base(MHA), PHI3 | linear("attn_qkv", 3 * Q_WIDTH, EMBD)),
    "phi3, longrope": _recipe(
        "phi3",
        with_base(
            SWA,
            {"rope.scaling.original_context_length": 64, "rope.scaling.attn_factor": 1.19},
        ),
        PHI3,
        head=NORM | ROPE_FACTORS,
    ),
    "starcoder2": _recipe(
        "starcoder2", with_base(LAYER_NORM), STARCODER2, head=BIASED_NORM, tied=True
    ),
    "glm4": _recipe("glm4", with_base({"rope.dimension_count": HEAD_DIM // 2}), GLM4),
    "deepseek2": Recipe(
        "deepseek2",
        deepseek2_metadata(q_rank=Q_RANK, expert_gating_func=2),
        deepseek2_block(q_rank=Q_RANK),
    ),
    "deepseek2, lite, yarn": Recipe(
        "deepseek2", deepseek2_metadata(q_rank=0, **YARN), deepseek2_block(q_rank=0)
    ),
    "deepseek2, lite, 27 layers": Recipe(
        "deepseek2", deepseek2_metadata(q_rank=None), deepseek2_block(q_rank=0), layers=27
    ),
    "deepseek2, legacy file": Recipe(
        "deepseek2",
        deepseek2_metadata(q_rank=Q_RANK, **DEEPSEEK2_LEGACY),
        deepseek2_block(q_rank=Q_RANK, legacy=True),
    ),
    "granite": _recipe("granite", with_base(GRANITE), LLAMA),
    "olmo2": _recipe("olmo2", BASE, OLMO2),
    "olmo 3, sliding window": _recipe("olmo2", with_base(SWA, YARN), OLMO2),
    "cohere2": _recipe(
        "cohere2",
        with_base(SWA, LAYER_NORM, {"logit_scale": 0.25}),
        norms("attn_norm") | attention() | gated(),
        tied=True,
    ),
    "stablelm": _recipe(
        "stablelm",
        with_base(LAYER_NORM, {"rope.dimension_count": HEAD_DIM // 2}),
        biased("attn_norm", "ffn_norm") | attention() | gated(),
        head=BIASED_NORM,
    ),
    "falcon": _recipe("falcon", with_base(LAYER_NORM), FALCON, head=BIASED_NORM),
    "smollm3": _recipe("smollm3", BASE, LLAMA, tied=True),
    "exaone4": _recipe("exaone4", BASE, attention() | gated() | POST_NORMS | QK_NORMS),
    "ernie4_5": _recipe("ernie4_5", BASE, LLAMA, tied=True),
    "hunyuan-dense": _recipe("hunyuan-dense", BASE, QWEN3, tied=True),
    "seed_oss": _recipe(
        "seed_oss",
        BASE,
        norms("attn_norm", "post_attention_norm") | attention(qkv_bias=True) | gated(),
    ),
    "granitemoe": _recipe("granitemoe", with_base(EXPERTS, GRANITE), MIXTRAL),
    "minicpm": _recipe("minicpm", BASE, LLAMA),
    "phi2": _recipe(
        "phi2", with_base(LAYER_NORM), PHI2, head=BIASED_NORM | {"output.bias": (VOCAB,)}
    ),
    "internlm2": _recipe("internlm2", BASE, LLAMA),
    "olmoe": _recipe(
        "olmoe",
        with_base(MHA, EXPERTS),
        norms("attn_norm", "ffn_norm")
        | attention(kv=Q_WIDTH)
        | {"attn_q_norm.weight": (Q_WIDTH,), "attn_k_norm.weight": (Q_WIDTH,)}
        | experts(FEED_FORWARD),
    ),
    "command-r": _recipe(
        "command-r",
        with_base(LAYER_NORM, {"logit_scale": 0.0625}),
        norms("attn_norm") | attention() | gated(),
        tied=True,
    ),
    "glm4, MTP layer": Recipe(
        "glm4",
        with_base({"rope.dimension_count": HEAD_DIM // 2, "nextn_predict_layers": 1}),
        lambda _: GLM4,
        extra_block=GLM4 | MTP,
    ),
    "deepseek2, MTP layer": Recipe(
        "deepseek2",
        deepseek2_metadata(q_rank=Q_RANK, expert_gating_func=2, nextn_predict_layers=1),
        deepseek2_block(q_rank=Q_RANK),
        extra_block=deepseek2_block(q_rank=Q_RANK)(DENSE_LEAD) | MTP,
    ),
    "glm4moe, MTP layer": Recipe(
        "glm4moe",
        with_base(DENSE_LEAD_EXPERTS, {"nextn_predict_layers": 1}),
        dense_lead_block(norms("attn_norm", "post_attention_norm") | attention(qkv_bias=True)),
        extra_block=norms("attn_norm", "post_attention_norm")
        | attention(qkv_bias=True)
        | SHARED_EXPERTS
        | MTP,
    ),
    "dots1": Recipe(
        "dots1",
        with_base(MHA, DENSE_LEAD_EXPERTS, {"expert_gating_func": 2}),
        dense_lead_block(norms("attn_norm", "ffn_norm") | attention(kv=Q_WIDTH) | QK_NORMS),
    ),
    "ernie4_5-moe": Recipe(
        "ernie4_5-moe",
        with_base(
            DENSE_LEAD_EXPERTS,
            {"interleave_moe_layer_step": 1, "expert_shared_feed_forward_length": EXPERT_FF},
        ),
        dense_lead_block(norms("attn_norm", "ffn_norm") | attention()),
    ),
    "hunyuan-moe": _recipe(
        "hunyuan-moe",
        with_base(
            EXPERTS,
            {
                "expert_feed_forward_length": FEED_FORWARD,
                "expert_shared_feed_forward_length": EXPERT_FF,
            },
        ),
        MIXTRAL | QK_NORMS | gated("_shexp", EXPERT_FF),
    ),
    "minimax-m2": _recipe(
        "minimax-m2",
        with_base(EXPERTS, {"expert_feed_forward_length": FEED_FORWARD, "expert_gating_func": 2}),
        MIXTRAL
        | {
            "attn_q_norm.weight": (Q_WIDTH,),
            "attn_k_norm.weight": (KV_WIDTH,),
            "exp_probs_b.bias": (EXPERT_COUNT,),
        },
    ),
    "arcee": _recipe(
        "arcee",
        BASE,
        norms("attn_norm", "ffn_norm")
        | attention()
        | linear("ffn_up", FEED_FORWARD, EMBD)
        | linear("ffn_down", EMBD, FEED_FORWARD),
    ),
    "nemotron": _recipe(
        "nemotron",
        with_base(LAYER_NORM),
        biased("attn_norm", "ffn_norm")
        | attention()
        | linear("ffn_up", FEED_FORWARD, EMBD)
        | linear("ffn_down", EMBD, FEED_FORWARD),
        head=BIASED_NORM,
    ),
    "olmo": _recipe(
        "olmo",
        with_base(LAYER_NORM, {"attention.clamp_kqv": 8.0}),
        attention() | gated(),
        head={},
        tied=True,
    ),
    "gpt-oss": _recipe(
        "gpt-oss",
        with_base(SWA, YARN, EXPERTS, {"expert_feed_forward_length": EXPERT_FF}),
        GPT_OSS,
    ),
}
