"""What the recipes of tiny models are made of: sizes, metadata, and the shapes of blocks' tensors.

Shapes are in numpy's order, rows first; names of a block's tensors are without `blk.N.`, metadata
keys without the architecture's prefix. Names are those of llama.cpp's `src/models/*.cpp`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Metadata = dict[str, Any]
Shapes = dict[str, tuple[int, ...]]
"""Tensor name, without `blk.N.`, to its shape in numpy's order: rows first."""

EMBD = 96  # not the square of a power of two: scaling by sqrt(EMBD) and back changes bits
HEADS, HEADS_KV, HEAD_DIM = 3, 1, 32
FEED_FORWARD = 128
EXPERT_COUNT, EXPERT_USED, EXPERT_FF = 4, 2, 64
VOCAB = 320
CONTEXT = 512
WINDOW = 8  # shorter than any prompt of the tests, so that local layers differ from global ones


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to write one family. Metadata keys are without the architecture's prefix."""

    architecture: str
    metadata: Metadata
    block: Callable[[int], Shapes]
    """From the layer's index."""
    head: Shapes = field(default_factory=lambda: {"output_norm.weight": (EMBD,)})
    """Tensors outside the blocks, besides `token_embd.weight`."""
    extra_block: Shapes | None = None
    """A block behind the layers, for multi-token prediction."""
    tied: bool = False
    """The output matrix is the embedding; otherwise there is an `output.weight`."""
    quantisation: str = "F32"
    layers: int = 8


BASE: Metadata = {
    "context_length": CONTEXT,
    "embedding_length": EMBD,
    "feed_forward_length": FEED_FORWARD,
    "attention.head_count": HEADS,
    "attention.head_count_kv": HEADS_KV,
    "attention.key_length": HEAD_DIM,
    "attention.value_length": HEAD_DIM,
    "attention.layer_norm_rms_epsilon": 1e-6,
    "rope.dimension_count": HEAD_DIM,
    "rope.freq_base": 10000.0,
}


def with_base(*extra: Metadata) -> Metadata:
    merged = dict(BASE)
    for part in extra:
        merged |= part
    return merged


LAYER_NORM: Metadata = {"attention.layer_norm_epsilon": 1e-5}
EXPERTS: Metadata = {"expert_count": EXPERT_COUNT, "expert_used_count": EXPERT_USED}
Q_WIDTH, KV_WIDTH = HEADS * HEAD_DIM, HEADS_KV * HEAD_DIM


def norms(*names: str) -> Shapes:
    return {f"{name}.weight": (EMBD,) for name in names}


def linear(name: str, rows: int, columns: int, *, bias: bool = False) -> Shapes:
    weight: Shapes = {f"{name}.weight": (rows, columns)}
    return weight | {f"{name}.bias": (rows,)} if bias else weight


def attention(*, kv: int = KV_WIDTH, qkv_bias: bool = False, output_bias: bool = False) -> Shapes:
    return (
        linear("attn_q", Q_WIDTH, EMBD, bias=qkv_bias)
        | linear("attn_k", kv, EMBD, bias=qkv_bias)
        | linear("attn_v", kv, EMBD, bias=qkv_bias)
        | linear("attn_output", EMBD, Q_WIDTH, bias=output_bias)
    )


def fused_attention() -> Shapes:
    return linear("attn_qkv", Q_WIDTH + 2 * KV_WIDTH, EMBD) | linear("attn_output", EMBD, Q_WIDTH)


def gated(suffix: str = "", width: int = FEED_FORWARD) -> Shapes:
    return (
        linear(f"ffn_gate{suffix}", width, EMBD)
        | linear(f"ffn_up{suffix}", width, EMBD)
        | linear(f"ffn_down{suffix}", EMBD, width)
    )


def experts(width: int = EXPERT_FF) -> Shapes:
    return {
        "ffn_gate_inp.weight": (EXPERT_COUNT, EMBD),
        "ffn_gate_exps.weight": (EXPERT_COUNT, width, EMBD),
        "ffn_up_exps.weight": (EXPERT_COUNT, width, EMBD),
        "ffn_down_exps.weight": (EXPERT_COUNT, EMBD, width),
    }


QK_NORMS: Shapes = {"attn_q_norm.weight": (HEAD_DIM,), "attn_k_norm.weight": (HEAD_DIM,)}
LLAMA = norms("attn_norm", "ffn_norm") | attention() | gated()
MIXTRAL = norms("attn_norm", "ffn_norm") | attention() | experts(FEED_FORWARD)
QWEN2 = norms("attn_norm", "ffn_norm") | attention(qkv_bias=True) | gated()
QWEN3 = LLAMA | QK_NORMS
POST_NORMS = norms("post_attention_norm", "post_ffw_norm")
GLM4 = (
    norms("attn_norm", "ffn_norm")
    | POST_NORMS
    | attention(qkv_bias=True)
    | linear("ffn_up", 2 * FEED_FORWARD, EMBD)
    | linear("ffn_down", EMBD, FEED_FORWARD)
)
PHI3 = (
    norms("attn_norm", "ffn_norm")
    | fused_attention()
    | linear("ffn_up", 2 * FEED_FORWARD, EMBD)
    | linear("ffn_down", EMBD, FEED_FORWARD)
)
BIASED_NORM: Shapes = {"output_norm.weight": (EMBD,), "output_norm.bias": (EMBD,)}
OLMO2 = (
    POST_NORMS
    | attention()
    | {"attn_q_norm.weight": (Q_WIDTH,), "attn_k_norm.weight": (KV_WIDTH,)}
    | gated()
)


def biased(*names: str) -> Shapes:
    return {f"{name}.{kind}": (EMBD,) for name in names for kind in ("weight", "bias")}


STARCODER2 = (
    biased("attn_norm", "ffn_norm")
    | attention(qkv_bias=True, output_bias=True)
    | linear("ffn_up", FEED_FORWARD, EMBD, bias=True)
    | linear("ffn_down", EMBD, FEED_FORWARD, bias=True)
)
PHI2 = (
    biased("attn_norm")
    | attention(qkv_bias=True, output_bias=True)
    | linear("ffn_up", FEED_FORWARD, EMBD, bias=True)
    | linear("ffn_down", EMBD, FEED_FORWARD, bias=True)
)
FALCON = (
    biased("attn_norm", "attn_norm_2")
    | fused_attention()
    | linear("ffn_up", FEED_FORWARD, EMBD)
    | linear("ffn_down", EMBD, FEED_FORWARD)
)
QWEN2MOE = (
    norms("attn_norm", "ffn_norm")
    | attention(qkv_bias=True)
    | experts()
    | {"ffn_gate_inp_shexp.weight": (EMBD,)}
    | gated("_shexp", EXPERT_FF)
)
GPT_OSS = (
    norms("attn_norm", "post_attention_norm")
    | attention(qkv_bias=True, output_bias=True)
    | {"attn_sinks.weight": (HEADS,)}
    | experts()
    | {
        "ffn_gate_inp.bias": (EXPERT_COUNT,),
        "ffn_gate_exps.bias": (EXPERT_COUNT, EXPERT_FF),
        "ffn_up_exps.bias": (EXPERT_COUNT, EXPERT_FF),
        "ffn_down_exps.bias": (EXPERT_COUNT, EMBD),
    }
)

MTP = norms("nextn.enorm", "nextn.hnorm") | linear("nextn.eh_proj", EMBD, 2 * EMBD)

DENSE_LEAD = 2
DENSE_LEAD_EXPERTS: Metadata = EXPERTS | {
    "leading_dense_block_count": DENSE_LEAD,
    "expert_feed_forward_length": EXPERT_FF,
    "expert_shared_count": 1,
}
SHARED_EXPERTS = experts() | {"exp_probs_b.bias": (EXPERT_COUNT,)} | gated("_shexp", EXPERT_FF)


def dense_lead_block(common: Shapes) -> Callable[[int], Shapes]:
    return lambda layer: common | (gated() if layer < DENSE_LEAD else SHARED_EXPERTS)


# DeepSeek's latent attention: the cache holds a compressed vector and one rotary key.
Q_RANK, KV_RANK, ROPE_DIM, NOPE_DIM = 48, 32, 16, 32


def deepseek2_metadata(*, q_rank: int | None, **extra: Any) -> Metadata:
    # A file of 27 layers is taken for the lite model, which need not say that it has no rank.
    rank = {} if q_rank is None else {"attention.q_lora_rank": q_rank}
    own: Metadata = {
        "attention.head_count_kv": 1,
        "attention.kv_lora_rank": KV_RANK,
        "attention.key_length": KV_RANK + ROPE_DIM,
        "attention.value_length": KV_RANK,
        "attention.key_length_mla": NOPE_DIM + ROPE_DIM,
        "attention.value_length_mla": HEAD_DIM,
        "rope.dimension_count": ROPE_DIM,
        "expert_weights_scale": 1.5,
        "expert_weights_norm": True,
    }
    return with_base(DENSE_LEAD_EXPERTS, own, rank, extra)


# Files from before llama.cpp knew the compressed cache: it holds keys and values of every head.
DEEPSEEK2_LEGACY: Metadata = {
    "attention.head_count_kv": HEADS,
    "attention.key_length": NOPE_DIM + ROPE_DIM,
    "attention.value_length": HEAD_DIM,
    "attention.key_length_mla": 0,
    "attention.value_length_mla": 0,
}


def deepseek2_block(*, q_rank: int, legacy: bool = False) -> Callable[[int], Shapes]:
    head = NOPE_DIM + ROPE_DIM
    query = linear("attn_q", HEADS * head, EMBD)
    if q_rank:
        query = linear("attn_q_a", q_rank, EMBD) | linear("attn_q_b", HEADS * head, q_rank)
        query["attn_q_a_norm.weight"] = (q_rank,)
    key_value: Shapes = {
        "attn_k_b.weight": (HEADS, KV_RANK, NOPE_DIM),
        "attn_v_b.weight": (HEADS, HEAD_DIM, KV_RANK),
    }
    if legacy:
        key_value = linear("attn_kv_b", HEADS * (NOPE_DIM + HEAD_DIM), KV_RANK)
    return dense_lead_block(
        norms("attn_norm", "ffn_norm")
        | query
        | {"attn_kv_a_norm.weight": (KV_RANK,)}
        | linear("attn_kv_a_mqa", KV_RANK + ROPE_DIM, EMBD)
        | key_value
        | linear("attn_output", EMBD, HEADS * HEAD_DIM)
    )


NORM: Shapes = {"output_norm.weight": (EMBD,)}
ROPE_FACTORS: Shapes = {
    "rope_factors_long.weight": (HEAD_DIM // 2,),
    "rope_factors_short.weight": (HEAD_DIM // 2,),
}
MHA: Metadata = {"attention.head_count_kv": HEADS}
GRANITE: Metadata = {
    "embedding_scale": 12.0,
    "residual_scale": 0.22,
    "attention.scale": 0.0078125,
    "logit_scale": 8.0,
}
SOFTCAP: Metadata = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
SWA: Metadata = {"attention.sliding_window": WINDOW}
YARN: Metadata = {
    "rope.scaling.type": "yarn",
    "rope.scaling.factor": 4.0,
    "rope.scaling.original_context_length": 16,
    "rope.scaling.yarn_log_multiplier": 0.1,
}
