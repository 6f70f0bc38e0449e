"""Which architectures run as a chain of slices, how slices are fed, which cuts are refused.

Every family in the table gives the whole model's logits to the bit, on prompt and decode, at
several cuts: `tests/integration/test_families.py` proves it, and `docs/families.md` is generated
from this table. What is not proven is refused. Pure: metadata in, values or ModelUnsupported out.
How a slice's own metadata must differ from its model's is in the models package (slice_rules.py).
Sources: `src/models/*.cpp`, `src/llama-graph.cpp` of llama.cpp.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kwaai.errors import ModelUnsupported
from kwaai.types import LayerRange

Metadata = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Facts:
    """The metadata of a whole model, by the names without the architecture's prefix."""

    metadata: Metadata

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture", ""))

    @property
    def layers(self) -> int:
        """Layers that a token passes: blocks for multi-token prediction are not among them."""
        return self.integer("block_count") - self.integer("nextn_predict_layers")

    def get(self, key: str) -> object:
        return self.metadata.get(f"{self.architecture}.{key}")

    def integer(self, key: str) -> int:
        """Return the integer `key`, the first item of an array, or 0 where there is none."""
        value = self.get(key)
        if isinstance(value, Sequence) and not isinstance(value, str):
            value = value[0] if value else 0
        return value if isinstance(value, int) else 0

    def integers(self, key: str) -> list[int]:
        value = self.get(key)
        if not isinstance(value, Sequence) or isinstance(value, str):
            return []
        return [item for item in value if isinstance(item, int)]


@dataclass(frozen=True, slots=True)
class Variant:
    """Models of a family that are refused, and why."""

    reason: str
    applies: Callable[[Facts], bool]


@dataclass(frozen=True, slots=True)
class Cut:
    """Ranges of a family that are refused, and why."""

    reason: str
    applies: Callable[[Facts, LayerRange], bool]


@dataclass(frozen=True, slots=True)
class Family:
    """One architecture that is proven to run in slices, and how its slices are fed.

    What enters a slice is the residual that would enter its first layer: for layer 0 the rows of
    the embedding times `embedding_scale(metadata)`. It goes in as `llama_batch.embd`, unless
    `input_tensor` names a graph tensor: then token ids (zeros) go in, and that tensor is
    overwritten as soon as it has been computed, which undoes whatever the graph did before it.
    """

    architecture: str
    models: str
    note: str = ""
    embedding_factor: Callable[[Facts], float] = lambda _: 1.0
    input_tensor: str | None = None
    variants: tuple[Variant, ...] = ()
    cuts: tuple[Cut, ...] = ()

    def embedding_scale(self, metadata: Metadata) -> float:
        """Return what a row of the embedding is multiplied by, in float32, before layer 0."""
        return self.embedding_factor(Facts(metadata))


def supported(metadata: Metadata) -> Family:
    """Return the family of a model by the metadata of its GGUF: the whole model's, not a slice's.

    Raises ModelUnsupported with the reason for anything not proven to run in slices.
    """
    facts = Facts(metadata)
    name = facts.architecture
    family = FAMILIES.get(name)
    if family is None:
        reason = REFUSED.get(name, "it is not proven to give the whole model's answer in slices")
        raise ModelUnsupported(
            f"the architecture {name!r} cannot be cut into layer ranges: {reason}. "
            f"Run it whole with --local, or take one of: {', '.join(sorted(FAMILIES))}"
        )
    for variant in (*_ANY_FAMILY, *family.variants):
        if variant.applies(facts):
            raise ModelUnsupported(
                f"this {name} model cannot be cut into layer ranges: {variant.reason}. "
                "Run it whole with --local"
            )
    return family


def check_cut(family: Family, metadata: Metadata, ranges: Sequence[LayerRange]) -> None:
    """Raise ModelUnsupported when one of `ranges` is a range that this family cannot be cut at.

    The whole range is always allowed; that ranges follow one another is not checked here.
    """
    facts = Facts(metadata)
    for layers in ranges:
        if layers.stop > facts.layers:
            raise ModelUnsupported(f"layers {layers} of a model with {facts.layers} layers")
        if len(layers) == facts.layers:
            continue
        for cut in family.cuts:
            if cut.applies(facts, layers):
                raise ModelUnsupported(
                    f"{family.architecture} cannot be cut at {layers}: {cut.reason}. "
                    "Choose other ranges"
                )


def _sqrt_embd(facts: Facts) -> float:
    return float(np.sqrt(np.float32(facts.integer("embedding_length"))))


def _scale_key(facts: Facts) -> float:
    value = facts.get("embedding_scale")
    # llama.cpp leaves the step out at 0.
    return float(value) if isinstance(value, (int, float)) and value else 1.0


def _minicpm_scale(facts: Facts) -> float:
    return _scale_key(facts) if facts.get("embedding_scale") is not None else 12.0


def _has_odd_scale(facts: Facts) -> bool:
    """Whether the special attention scale of the 27B models differs from the usual one."""
    heads = facts.integer("attention.head_count")
    width = facts.integer("embedding_length")
    return heads > 0 and width // heads != (facts.integer("attention.key_length") or width // heads)


def _gemma_27b(layers: int) -> tuple[tuple[Variant, ...], tuple[Cut, ...]]:
    reason = f"llama.cpp takes another attention scale when a file has {layers} layers (27B)"
    return (
        (Variant(reason, lambda f: f.layers == layers and _has_odd_scale(f)),),
        (Cut(reason, lambda f, r: len(r) == layers and _has_odd_scale(f)),),
    )


def _windowed(facts: Facts, period: int) -> list[bool]:
    """Which layers look at a window: all but the last of each period, unless the file says."""
    pattern = facts.get("attention.sliding_window_pattern")
    if isinstance(pattern, Sequence):
        return [bool(item) for item in pattern]
    every = facts.integer("attention.sliding_window_pattern") or period
    return [layer % every != every - 1 for layer in range(facts.layers)]


def _has_vision_rope(facts: Facts) -> bool:
    return [section > 0 for section in facts.integers("rope.dimension_sections")[:2]] == [True] * 2


_ANY_FAMILY = (
    Variant("the file names no layers", lambda f: f.layers < 1),
    Variant(
        "it embeds or ranks text and does not write any", lambda f: f.integer("pooling_type") > 0
    ),
    Variant("its attention is not causal", lambda f: f.get("attention.causal") is False),
    Variant("its rotary positions have sections (vision models), not proven", _has_vision_rope),
)
_GEMMA2_VARIANTS, _GEMMA2_CUTS = _gemma_27b(46)
_GEMMA3_VARIANTS, _GEMMA3_CUTS = _gemma_27b(62)
_WINDOWS = "Which layers see a window only is written into each slice."
_SCALED = "Rows of the embedding are scaled by their owner."

_TABLE = (
    Family("llama", "Llama 2 and 3, Mistral, Mixtral (experts), SmolLM 2, TinyLlama, Yi, Vicuna"),
    Family("mistral3", "Ministral 3"),
    Family("qwen2", "Qwen 2, Qwen 2.5, DeepSeek-R1-Distill-Qwen"),
    Family("qwen2moe", "Qwen 1.5 MoE, Qwen 2 57B-A14B"),
    Family("qwen3", "Qwen 3"),
    Family("qwen3moe", "Qwen 3 30B-A3B, 235B-A22B"),
    Family(
        "gemma",
        "Gemma",
        "The graph scales vectors too; the scaled tensor is overwritten.",
        embedding_factor=_sqrt_embd,
        input_tensor="inp_scaled",
    ),
    Family(
        "gemma2",
        "Gemma 2 2B, 9B",
        f"As gemma. {_WINDOWS}",
        embedding_factor=_sqrt_embd,
        input_tensor="inp_scaled",
        variants=_GEMMA2_VARIANTS,
        cuts=_GEMMA2_CUTS,
    ),
    Family(
        "gemma3",
        "Gemma 3 270M, 1B, 4B, 12B (text)",
        f"{_SCALED} {_WINDOWS}",
        embedding_factor=_sqrt_embd,
        variants=_GEMMA3_VARIANTS,
        cuts=_GEMMA3_CUTS,
    ),
    Family("phi2", "Phi 2"),
    Family("phi3", "Phi 3, Phi 3.5, Phi 4", "All slices need one context size (rope factors)."),
    Family("starcoder2", "StarCoder 2"),
    Family(
        "glm4",
        "GLM 4 9B, 32B (0414)",
        "The graph refuses vectors; the embedded tokens are overwritten.",
        input_tensor="embd",
    ),
    Family(
        "deepseek2",
        "DeepSeek V2, V2-Lite, V3, R1; Kimi K2; GLM 4.7 Flash",
        "Leading dense layers are counted anew; guesses by layer count are written out.",
        cuts=(
            Cut(
                "llama.cpp takes a file of 26, 27 or 48 layers for a lite model",
                lambda f, r: f.integer("attention.q_lora_rank") > 0 and len(r) in (26, 27, 48),
            ),
        ),
    ),
    Family(
        "granite",
        "Granite 3, 4 dense",
        f"{_SCALED} The key is 0 in slices.",
        embedding_factor=_scale_key,
        variants=(
            Variant(
                "its layers take image features (deepstack)",
                lambda f: any(item >= 0 for item in f.integers("deepstack_mapping")),
            ),
        ),
    ),
    Family(
        "granitemoe",
        "Granite 3 MoE",
        "As granite.",
        embedding_factor=_scale_key,
    ),
    Family(
        "minicpm",
        "MiniCPM 1, 2",
        "As granite; the residual scale that depends on the layer count is written out.",
        embedding_factor=_minicpm_scale,
    ),
    Family("olmo2", "OLMo 2, OLMo 3", _WINDOWS),
    Family("olmoe", "OLMoE"),
    Family("internlm2", "InternLM 2, 2.5"),
    Family(
        "command-r",
        "Command R",
        variants=(Variant("Command R+ (64 layers) is not proven", lambda f: f.layers >= 64),),
    ),
    Family(
        "cohere2",
        "Command R7B, Command A",
        _WINDOWS,
        cuts=(
            Cut(
                "a range needs a layer with a window, because llama.cpp does",
                lambda f, r: not any(_windowed(f, 4)[r.start : r.stop]),
            ),
        ),
    ),
    Family("stablelm", "StableLM 2"),
    Family("falcon", "Falcon 7B, 40B"),
    Family(
        "smollm3",
        "SmolLM 3",
        cuts=(
            Cut(
                "every fourth layer has no positions, counted from the start of the file: "
                "a range must start at a multiple of 4",
                lambda _, r: r.start % 4 != 0,
            ),
        ),
    ),
    Family(
        "exaone4",
        "EXAONE 4 1.2B",
        variants=(
            Variant("EXAONE 4 32B gets its windows by having 64 layers", lambda f: f.layers == 64),
        ),
        cuts=(Cut("a file of 64 layers is taken for the 32B model", lambda _, r: len(r) == 64),),
    ),
    Family("ernie4_5", "ERNIE 4.5 0.3B"),
    Family("hunyuan-dense", "Hunyuan 0.5B to 7B"),
    Family("seed_oss", "Seed-OSS 36B"),
    Family(
        "glm4moe",
        "GLM 4.5, 4.6, Air",
        "As glm4. Leading dense layers are counted anew.",
        input_tensor="embd",
    ),
    Family("dots1", "dots.llm1", "Leading dense layers are counted anew."),
    Family(
        "ernie4_5-moe",
        "ERNIE 4.5 21B, 300B",
        "Leading dense layers are counted anew.",
        variants=(
            Variant(
                "experts in some layers only, by the layer's index, are not proven",
                lambda f: f.integer("interleave_moe_layer_step") != 1,
            ),
        ),
    ),
    Family("hunyuan-moe", "Hunyuan A13B"),
    Family("minimax-m2", "MiniMax M2"),
    Family("arcee", "Arcee AFM 4.5B"),
    Family("nemotron", "Nemotron 4, Minitron"),
    Family("olmo", "OLMo"),
    Family("gpt-oss", "gpt-oss 20B, 120B", _WINDOWS),
)

FAMILIES: Mapping[str, Family] = {family.architecture: family for family in _TABLE}
"""Proven architectures by the name in `general.architecture`."""

_RECURRENT = "it keeps a recurrent state, which cannot be rolled back; not proven"
_POSITIONS = "it adds position vectors to whatever comes in, in every slice"
_PER_LAYER = "its layers need token ids (per-layer embeddings) and share one another's KV cache"
_SECTIONS = "its rotary positions have sections (vision models), not proven"
_ENCODER = "it does not write text"

REFUSED: Mapping[str, str] = {
    **dict.fromkeys(
        ("mamba", "mamba2", "jamba", "falcon-h1", "granitehybrid", "plamo2"), _RECURRENT
    ),
    **dict.fromkeys(("nemotron_h", "nemotron_h_moe", "lfm2", "lfm2moe"), _RECURRENT),
    **dict.fromkeys(("rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"), _RECURRENT),
    **dict.fromkeys(("qwen3next", "qwen35", "qwen35moe", "kimi-linear"), _RECURRENT),
    **dict.fromkeys(("gpt2", "starcoder"), _POSITIONS),
    **dict.fromkeys(("gemma3n", "gemma4"), _PER_LAYER),
    **dict.fromkeys(("qwen2vl", "qwen3vl", "qwen3vlmoe"), _SECTIONS),
    **dict.fromkeys(("bert", "modern-bert", "nomic-bert", "t5", "t5encoder"), _ENCODER),
    "llama4": "its chunked attention and its layers without positions go by the layer's index",
    "apertus": "constants of its activations, one per layer, are not cut yet",
}
"""Why some known architectures are not in the table."""


def families_markdown() -> str:
    """Return `docs/families.md`: generated, so that the document says what the code does."""
    lines = [
        "# Families of models that run in slices",
        "",
        "Generated from `kwaai/inference/families.py`. Every family here gives the whole model's",
        "logits to the bit, on prompt and decode, at several cuts: proven with small random models",
        "by `tests/integration/test_families.py`. Everything else is refused when it is loaded,",
        "and can be run whole (`--local`).",
        "",
        "| architecture | models | how | refused |",
        "|---|---|---|---|",
    ]
    for family in _TABLE:
        reasons = [item.reason for item in family.variants] + [item.reason for item in family.cuts]
        note, limits = family.note or "as it is", "; ".join(dict.fromkeys(reasons)) or "nothing"
        lines.append(f"| `{family.architecture}` | {family.models} | {note} | {limits} |")
    lines += ["", "Refused in every family:", ""]
    lines += [f"- {variant.reason}" for variant in _ANY_FAMILY]
    lines += [
        "",
        "Known architectures that are not proven:",
        "",
        "| architecture | why |",
        "|---|---|",
    ]
    lines += [f"| `{name}` | {reason} |" for name, reason in sorted(REFUSED.items())]
    return "\n".join(lines) + "\n"
