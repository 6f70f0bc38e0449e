"""Models of real shapes with random weights, so that speed is measured without a download.

The numbers are those of the published configurations. The weights are random blocks written
straight in their quantised form; the text such a model gives is noise, its cost is the real one.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from kwaai.errors import ModelNotFound, UserError
from kwaai.limits import MIB
from kwaai.models.gguf_types import GGMLType, ValueType, tensor_bytes
from kwaai.models.gguf_write import Tensor, encode_value, write_gguf

QUANTISATIONS: Final = {"Q8_0": GGMLType.Q8_0, "Q4_0": GGMLType.Q4_0, "F16": GGMLType.F16}


@dataclass(frozen=True, slots=True)
class Shape:
    """The hyper-parameters of a dense decoder."""

    name: str
    architecture: str
    layers: int
    embd: int
    ff: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool
    rope_base: float
    rms_eps: float
    context: int
    qkv_bias: bool = False
    qk_norm: bool = False
    rope_factors: bool = False
    """A shared tensor that scales the rotary frequencies, as Llama 3 has."""


SHAPES: Final = {
    shape.name: shape
    for shape in (
        Shape(
            "qwen2.5-0.5b", "qwen2", 24, 896, 4864, 14, 2, 64, 151_936, True, 1e6, 1e-6, 32_768,
            qkv_bias=True,
        ),
        Shape(
            "qwen3-0.6b", "qwen3", 28, 1024, 3072, 16, 8, 128, 151_936, True, 1e6, 1e-6, 40_960,
            qk_norm=True,
        ),
        Shape(
            "llama-3.2-1b", "llama", 16, 2048, 8192, 32, 8, 64, 128_256, True, 5e5, 1e-5, 131_072,
            rope_factors=True,
        ),
        Shape(
            "tinyllama-1.1b", "llama", 22, 2048, 5632, 32, 4, 64, 32_000, False, 1e4, 1e-5, 2048
        ),
        Shape(
            "llama-3.1-8b", "llama", 32, 4096, 14_336, 32, 8, 128, 128_256, False, 5e5, 1e-5,
            131_072, rope_factors=True,
        ),
    )
}  # fmt: skip


def find_shape(name: str) -> Shape:
    """Return the shape `name`, in any case. Raises ModelNotFound that lists the shapes."""
    shape = SHAPES.get(name.lower())
    if shape is None:
        raise ModelNotFound(f"no shape {name[:64]!r}; there are {', '.join(SHAPES)}", param="shape")
    return shape


def write_random_model(path: Path, shape: Shape, quantisation: str = "Q8_0", seed: int = 0) -> None:
    """Write a model of `shape` with random weights; the same arguments give the same bytes.

    Raises UserError for a quantisation that is not one of QUANTISATIONS, DiskFull.
    """
    kind = QUANTISATIONS.get(quantisation.upper())
    if kind is None:
        raise UserError(
            f"quantisation {quantisation[:32]!r} cannot be written; choose one of"
            f" {', '.join(QUANTISATIONS)}"
        )
    tensors: list[Tensor] = []
    for number, (name, dims, is_matrix, value) in enumerate(_tensors(shape)):
        if not is_matrix:
            tensors.append((name, dims, GGMLType.F32, np.full(dims, value, np.float32).tobytes()))
            continue
        chunks = _random_blocks(np.random.SFC64([seed, number]), kind, dims)
        tensors.append((name, dims, kind, chunks))
    write_gguf(path, _metadata(shape, kind), tensors)


_Named = tuple[str, tuple[int, ...], bool, float]
"""Name, dimensions, whether a random matrix; else the value that fills it."""


def _tensors(s: Shape) -> Iterator[_Named]:
    yield "token_embd.weight", (s.embd, s.vocab), True, 0.0
    if not s.tied:
        yield "output.weight", (s.embd, s.vocab), True, 0.0
    yield "output_norm.weight", (s.embd,), False, 1.0
    if s.rope_factors:
        yield "rope_freqs.weight", (s.head_dim // 2,), False, 1.0
    q, kv = s.heads * s.head_dim, s.kv_heads * s.head_dim
    for n in range(s.layers):
        at = f"blk.{n}."
        yield at + "attn_norm.weight", (s.embd,), False, 1.0
        for name, rows in (("attn_q", q), ("attn_k", kv), ("attn_v", kv)):
            yield f"{at}{name}.weight", (s.embd, rows), True, 0.0
            if s.qkv_bias:
                yield f"{at}{name}.bias", (rows,), False, 0.01
        if s.qk_norm:
            yield at + "attn_q_norm.weight", (s.head_dim,), False, 1.0
            yield at + "attn_k_norm.weight", (s.head_dim,), False, 1.0
        yield at + "attn_output.weight", (q, s.embd), True, 0.0
        yield at + "ffn_norm.weight", (s.embd,), False, 1.0
        yield at + "ffn_gate.weight", (s.embd, s.ff), True, 0.0
        yield at + "ffn_up.weight", (s.embd, s.ff), True, 0.0
        yield at + "ffn_down.weight", (s.ff, s.embd), True, 0.0


def _random_blocks(bits: np.random.SFC64, kind: GGMLType, dims: tuple[int, ...]) -> Iterator[bytes]:
    """Yield random rows whose elements have a standard deviation of about columns ** -0.5.

    Uniform integers: [-128, 127] have one of 73.9, [-8, 7] one of 4.6.
    """
    blocks = tensor_bytes(kind, dims) // kind.type_size
    per_chunk = 4 * MIB // kind.type_size
    random = np.random.Generator(bits)
    deviation = dims[0] ** -0.5
    for start in range(0, blocks, per_chunk):
        count = min(per_chunk, blocks - start)
        if kind is GGMLType.F16:
            half_width = deviation * 3**0.5
            values = random.random(count, np.float32) * np.float32(2 * half_width) - half_width
            yield values.astype(np.float16).tobytes()
            continue
        spread = 73.9 if kind is GGMLType.Q8_0 else 4.61
        data = np.empty((count, kind.type_size), np.uint8)
        data[:, :2] = np.frombuffer(np.float16(deviation / spread).tobytes(), np.uint8)
        payload = kind.type_size - 2
        data[:, 2:] = np.frombuffer(random.bytes(count * payload), np.uint8).reshape(count, payload)
        yield data.tobytes()


def _metadata(s: Shape, kind: GGMLType) -> dict[str, bytes]:
    a, u32, f32 = s.architecture, ValueType.UINT32, ValueType.FLOAT32
    values = {
        "general.architecture": encode_value(a),
        "general.name": encode_value(f"random weights in the shape of {s.name}"),
        "general.quantization_version": encode_value(2, u32),
        "general.file_type": encode_value({0: 0, 1: 1, 2: 2, 8: 7}[int(kind)], u32),
        f"{a}.block_count": encode_value(s.layers, u32),
        f"{a}.context_length": encode_value(s.context, u32),
        f"{a}.embedding_length": encode_value(s.embd, u32),
        f"{a}.feed_forward_length": encode_value(s.ff, u32),
        f"{a}.attention.head_count": encode_value(s.heads, u32),
        f"{a}.attention.head_count_kv": encode_value(s.kv_heads, u32),
        f"{a}.attention.key_length": encode_value(s.head_dim, u32),
        f"{a}.attention.value_length": encode_value(s.head_dim, u32),
        f"{a}.attention.layer_norm_rms_epsilon": encode_value(s.rms_eps, f32),
        f"{a}.rope.dimension_count": encode_value(s.head_dim, u32),
        f"{a}.rope.freq_base": encode_value(s.rope_base, f32),
    }
    return values | byte_tokenizer(s.vocab)


def byte_tokenizer(vocab: int) -> dict[str, bytes]:
    """Return the metadata of a byte-level tokenizer with `vocab` tokens, which reads any text.

    Tokens 0 to 255 are the bytes, then come fillers, which text never becomes but which show as
    text in an answer, last the end of text.
    """
    fillers = (f"[{n}]" for n in itertools.count())
    tokens = [*byte_alphabet(), *itertools.islice(fillers, vocab - 257), "<|endoftext|>"]
    normal, control = 1, 3
    kinds = [normal] * (vocab - 1) + [control]
    return {
        "tokenizer.ggml.model": encode_value("gpt2"),
        "tokenizer.ggml.pre": encode_value("gpt-2"),
        "tokenizer.ggml.tokens": encode_value(tokens),
        "tokenizer.ggml.token_type": encode_value(kinds, ValueType.INT32),
        "tokenizer.ggml.merges": encode_value([], ValueType.STRING),
        "tokenizer.ggml.eos_token_id": encode_value(vocab - 1, ValueType.UINT32),
        "tokenizer.ggml.bos_token_id": encode_value(vocab - 1, ValueType.UINT32),
        "tokenizer.ggml.add_bos_token": encode_value(False),
    }


def byte_alphabet() -> list[str]:
    """Return one printable character for each byte, as GPT-2's tokenizer writes them."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = (chr(256 + n) for n in itertools.count())
    return [chr(byte) if byte in printable else next(others) for byte in range(256)]
