"""Write tiny models with random weights, one or more for every supported family.

llama.cpp loads them in milliseconds; they know no language. Needs the `gguf` package, which only
development installs have: an independent writer, so that our own reader is checked too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kwaai.testing.parts import EMBD, VOCAB, Shapes
from kwaai.testing.recipes import RECIPES

Weights = npt.NDArray[np.float32]


def write_family(name: str, path: Path, *, layers: int | None = None, seed: int = 0) -> None:
    """Write the recipe `name` to `path` as a GGUF with weights from `seed`."""
    import gguf

    recipe, rng = RECIPES[name], np.random.default_rng(seed)
    writer = gguf.GGUFWriter(str(path), recipe.architecture)
    writer.add_name("random weights")  # llama.cpp treats some vocabularies by the model's name
    blocks = [recipe.block(layer) for layer in range(layers or recipe.layers)]
    if recipe.extra_block is not None:
        blocks.append(recipe.extra_block)
    for key, value in ({"block_count": len(blocks)} | recipe.metadata).items():
        _add_value(writer, f"{recipe.architecture}.{key}", value)
    _add_tokenizer(writer)
    shapes: Shapes = {"token_embd.weight": (VOCAB, EMBD)} | recipe.head
    if not recipe.tied:
        shapes["output.weight"] = (VOCAB, EMBD)
    for number, block in enumerate(blocks):
        shapes |= {f"blk.{number}.{key}": shape for key, shape in block.items()}
    for tensor, shape in shapes.items():
        _add_tensor(writer, tensor, _random(rng, tensor, shape), recipe.quantisation)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_value(writer: Any, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def _add_tokenizer(writer: Any) -> None:
    """A SentencePiece-like vocabulary that can spell any bytes."""
    from gguf import TokenType

    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    types = [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL] + [TokenType.BYTE] * 256
    words = [f"▁w{number}" for number in range(VOCAB - len(tokens))]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens + words)
    writer.add_token_scores([-float(number) for number in range(VOCAB)])
    writer.add_token_types([*types, *([TokenType.NORMAL] * len(words))])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def _random(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> Weights:
    values = rng.standard_normal(shape, dtype=np.float32)
    if name.endswith(".bias") or "sinks" in name:
        return values * np.float32(0.1)
    if name.startswith("rope_"):
        return 1 + np.abs(values)
    if "norm" in name:
        return 1 + values * np.float32(0.1)
    if name == "token_embd.weight":  # small beside what the layers add, even where it is scaled
        return values * np.float32(0.02)
    return values * np.float32(shape[-1] ** -0.5)


def _add_tensor(writer: Any, name: str, values: Weights, quantisation: str) -> None:
    import gguf

    # Routers, norms and biases stay float32 in real files too.
    if values.ndim == 1 or "ffn_gate_inp" in name or quantisation == "F32":
        writer.add_tensor(name, values)
        return
    kind = gguf.GGMLQuantizationType[quantisation]
    writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
