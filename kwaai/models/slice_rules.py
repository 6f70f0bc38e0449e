"""What must change in a model's metadata so that llama.cpp runs layers [start, stop) as in place.

Pure: a header and a range in, changed keys out. Does not say which families are proven to work, nor
how their slices are fed: that is the table of families in the inference package. Each rule names
what llama.cpp derives from a layer's index or from the number of layers, found in its source
(src/models/<architecture>.cpp and src/llama-model.cpp).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable

from kwaai.errors import FileCorrupt, ModelUnsupported
from kwaai.models.gguf import GGUFHeader
from kwaai.models.gguf_types import ValueType
from kwaai.models.gguf_write import Typed, encode_value
from kwaai.types import LayerRange

Changes = dict[str, bytes]
"""Keys with encoded values that replace or join the model's own."""
Rule = Callable[[GGUFHeader, LayerRange, Changes], None]

NOT_PER_LAYER = ("rope.dimension_sections", "attention.indexer.types")
"""Arrays that may happen to be as long as the model has layers, and are not one value per layer."""

WINDOW_WIDE = 1 << 24
"""Tokens. Beyond any context, and small enough that llama.cpp's sum over sequences fits 32 bits."""


def adapt(header: GGUFHeader, layers: LayerRange) -> Changes:
    """Return the keys of a slice of `layers` that differ from `header`'s."""
    out: Changes = {}
    _cut_arrays(header, layers, out)
    _shift_leading_dense(header, layers, out)
    for rule in RULES.get(header.architecture, ()):
        rule(header, layers, out)
    return out


def layer_count(header: GGUFHeader) -> int:
    """Return the layers that a token passes: the blocks less those for multi-token prediction."""
    return header.block_count - header.arch_int("nextn_predict_layers", 0)


def _cut_arrays(header: GGUFHeader, layers: LayerRange, out: Changes) -> None:
    """Cut each array with one value per layer (head counts, widths, patterns) to the range."""
    arch, blocks = header.architecture, header.block_count
    for key in header.raw_kv:
        if not key.startswith(f"{arch}.") or key.removeprefix(f"{arch}.") in NOT_PER_LAYER:
            continue
        if header.array_length(key) == blocks:
            values = header.metadata[key]
            assert isinstance(values, list)
            kind = ValueType(int.from_bytes(header.raw_kv[key][4:8], "little"))
            out[key] = encode_value(values[layers.start : layers.stop], kind)
    out[f"{arch}.block_count"] = encode_value(len(layers), ValueType.UINT32)
    if f"{arch}.nextn_predict_layers" in header.raw_kv:
        out[f"{arch}.nextn_predict_layers"] = encode_value(0, ValueType.UINT32)


def _shift_leading_dense(header: GGUFHeader, layers: LayerRange, out: Changes) -> None:
    """The first N layers of some expert models are dense: count how many of them are in the
    range."""
    key = f"{header.architecture}.leading_dense_block_count"
    if key in header.raw_kv:
        leading = header.arch_int("leading_dense_block_count")
        here = max(0, min(len(layers), leading - layers.start))
        out[key] = encode_value(here, ValueType.UINT32)


def sliding_window(period: int, without: Rule) -> Rule:
    """Say which layers look at a window only; llama.cpp derives it from the layer's index.

    The last layer of each `period` sees everything. `without` adapts a range of such layers only:
    llama.cpp aborts on a file that has a window and no layer that uses it.
    """

    def rule(header: GGUFHeader, layers: LayerRange, out: Changes) -> None:
        pattern = _windowed(header, period)[layers.start : layers.stop]
        _set(header, out, "attention.sliding_window_pattern", pattern, ValueType.BOOL)
        if not any(pattern):
            without(header, layers, out)

    return rule


def _windowed(header: GGUFHeader, period: int) -> list[bool]:
    """Which layers of the model look at a window: its own list, or its own period, or `period`."""
    key = f"{header.architecture}.attention.sliding_window_pattern"
    if header.array_length(key) is None:
        every = header.arch_int("attention.sliding_window_pattern", period)
        return [every == 0 or block % every != every - 1 for block in range(layer_count(header))]
    values = header.metadata[key]
    if not isinstance(values, list) or len(values) < layer_count(header):
        raise FileCorrupt(f"{key} does not have one value for each of the model's layers")
    return [bool(value) for value in values]


def _window_off(header: GGUFHeader, _: LayerRange, out: Changes) -> None:
    """Without a window the graph treats every layer as one that sees everything."""
    _set(header, out, "attention.sliding_window", 0, ValueType.UINT32)


def _window_wide(header: GGUFHeader, layers: LayerRange, out: Changes) -> None:
    """The window cannot be turned off: make it wider than any context, with the same positions."""
    base = header.get(f"{header.architecture}.rope.freq_base", 10000.0)
    assert isinstance(base, float)
    pattern = [True] * len(layers)
    _set(header, out, "attention.sliding_window_pattern", pattern, ValueType.BOOL)
    _set(header, out, "attention.sliding_window", WINDOW_WIDE, ValueType.UINT32)
    _set(header, out, "rope.freq_base_swa", base, ValueType.FLOAT32)


def _window_missing(header: GGUFHeader, layers: LayerRange, _: Changes) -> None:
    """Layers with a window have positions and the others none, so one cannot play the other."""
    raise ModelUnsupported(
        f"{header.architecture} cannot be cut at {layers}: none of these layers has a window, "
        "and llama.cpp needs one. Choose other ranges"
    )


def _no_embedding_scale(header: GGUFHeader, _: LayerRange, out: Changes) -> None:
    """The graph multiplies vectors too by this key; 0 makes it leave the step out.

    Whoever looks up the rows of the embedding multiplies them instead.
    """
    _set(header, out, "embedding_scale", 0.0, ValueType.FLOAT32)


def _minicpm_residual_scale(header: GGUFHeader, _: LayerRange, out: Changes) -> None:
    """Old files do not say it, and llama.cpp then takes 1.4 / sqrt(layers), in float32."""
    if f"{header.architecture}.residual_scale" not in header.raw_kv:
        value = _float32(1.4) / _float32(math.sqrt(layer_count(header)))
        _set(header, out, "residual_scale", value, ValueType.FLOAT32)


def _deepseek2_defaults(header: GGUFHeader, _: LayerRange, out: Changes) -> None:
    """Say what llama.cpp guesses from the number of layers and of tokens where a file is silent."""
    if f"{header.architecture}.attention.q_lora_rank" not in header.raw_kv:
        # Only files of 26, 27 or 48 layers may lack it; 0 means the same: one query matrix.
        _set(header, out, "attention.q_lora_rank", 0, ValueType.UINT32)
    if header.arch_int("expert_gating_func", 0) == 0:
        sigmoid = layer_count(header) in (47, 48) and _vocab(header) == 154880  # GLM 4.7 Flash
        _set(header, out, "expert_gating_func", 2 if sigmoid else 1, ValueType.UINT32)


def _set(header: GGUFHeader, out: Changes, key: str, value: Typed, kind: ValueType) -> None:
    out[f"{header.architecture}.{key}"] = encode_value(value, kind)


def _vocab(header: GGUFHeader) -> int:
    """Return the tokens of the model. By the embedding: a manifest carries no tokenizer."""
    table = header.tensor("token_embd.weight")
    return table.dims[-1] if table else 0


def _float32(value: float) -> float:
    """Round to the nearest float32, as C does."""
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


RULES: dict[str, tuple[Rule, ...]] = {
    "gemma2": (sliding_window(2, _window_wide),),
    "gemma3": (sliding_window(6, _window_off),),
    "granite": (_no_embedding_scale,),
    "granitemoe": (_no_embedding_scale,),
    "minicpm": (_no_embedding_scale, _minicpm_residual_scale),
    "deepseek2": (_deepseek2_defaults,),
    "olmo2": (sliding_window(4, _window_off),),
    "cohere2": (sliding_window(4, _window_missing),),
    "gpt-oss": (sliding_window(2, _window_wide),),
}
"""Architecture to what it needs beyond per-layer arrays. Without an entry: nothing known."""
