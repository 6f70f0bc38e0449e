"""The graph of all-MiniLM-L6-v2 for onnxruntime, built from its weights: token ids in, vectors out.

Six layers of BERT, the mean over a text's tokens, length 1. Two forms: float32, and int8. In the
int8 form each weight matrix has a scale per column and each token's row a scale of its own at run
time, so a text's vector does not depend on what else is computed with it. Fetches nothing
(`kwaai.vpk.minilm`). Sources: Devlin et al. 2019 (BERT), Wang et al. 2020 (MiniLM), onnxruntime's
docs/ContribOperators.md; docs/embeddings.md has the measurements.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from kwaai.vpk.onnx_format import MICROSOFT, Graph, Type

LAYERS, HEADS, DIMENSION = 6, 12, 384
POSITIONS = 256
"""Tokens of a text that are read: the model was trained on 128, and its makers cut at 256."""
_EPSILON = 1e-12
_ROW_MAX_LEAST = 1e-9
"""A row's greatest value is taken for at least this: a row of zeros has a scale too."""
_OPSET, _MICROSOFT_OPSET = 18, 1

Array = NDArray[np.float32]


def build(weights: Mapping[str, Array], *, int8: bool) -> bytes:
    """Return the ONNX model: `input_ids` and `attention_mask` int64 (batch, tokens) in, `embedding`
    float32 (batch, 384) out. `weights`: the safetensors' by name. Raises KeyError.
    """
    return _Builder(weights, int8).build()


class _Builder:
    def __init__(self, weights: Mapping[str, Array], int8: bool) -> None:
        self._weights, self._int8 = weights, int8
        self._graph = graph = Graph("all-MiniLM-L6-v2", _OPSET, _MICROSOFT_OPSET)
        self._first = graph.constant(np.array([1], np.int64))
        if int8:
            self._last = graph.constant(np.array([-1], np.int64))
            self._one = graph.constant(np.array(1, np.float32))
            self._least = graph.constant(np.array(_ROW_MAX_LEAST, np.float32))
            self._step = graph.constant(np.array(1 / 127, np.float32))
            self._zero_point = graph.constant(np.array(128, np.uint8))

    def build(self) -> bytes:
        graph = self._graph
        hidden = self._embed()
        mask = graph.node("Cast", "attention_mask", to=Type.INT32)
        for layer in range(LAYERS):
            hidden = self._layer(hidden, mask, f"encoder.layer.{layer}.")
        ones = graph.node("Cast", "attention_mask", to=Type.FLOAT)
        rows = graph.node("Unsqueeze", ones, self._first)
        total = graph.node("Squeeze", graph.node("MatMul", rows, hidden), self._first)
        # The mean has the direction of the sum, and only the direction is kept.
        graph.rename(graph.node("LpNormalization", total, axis=-1, p=2), "embedding")
        return graph.encode(
            [
                ("input_ids", Type.INT64, ("batch", "tokens")),
                ("attention_mask", Type.INT64, ("batch", "tokens")),
            ],
            [("embedding", Type.FLOAT, ("batch", DIMENSION))],
        )

    def _embed(self) -> str:
        graph = self._graph
        table = self._weights["embeddings.word_embeddings.weight"]
        if self._int8:
            scales = _scales(np.abs(table).max(axis=1, keepdims=True))
            values = _quantise(table, scales)
            rows = graph.node("Gather", graph.constant(values), "input_ids")
            steps = graph.node("Gather", graph.constant(scales), "input_ids")
            words = graph.node("Mul", graph.node("Cast", rows, to=Type.FLOAT), steps)
        else:
            words = graph.node("Gather", graph.constant(table), "input_ids")
        places = self._weights["embeddings.position_embeddings.weight"][:POSITIONS]
        places = places + self._weights["embeddings.token_type_embeddings.weight"][0]
        tokens = graph.node("Gather", graph.node("Shape", "input_ids"), self._first, axis=0)
        zero = graph.constant(np.array([0], np.int64))
        places_used = graph.node("Slice", graph.constant(places), zero, tokens, zero)
        return self._norm(graph.node("Add", words, places_used), "embeddings.LayerNorm")

    def _layer(self, hidden: str, mask: str, prefix: str) -> str:
        graph, inner = self._graph, prefix + "attention."
        names = [f"{inner}self.{name}" for name in ("query", "key", "value")]
        weight = np.concatenate([self._weights[f"{name}.weight"].T for name in names], axis=1)
        bias = np.concatenate([self._weights[f"{name}.bias"] for name in names])
        parts = graph.nodes("Split", [self._times(hidden, weight)], 3, axis=2, num_outputs=3)
        heads = [*parts, graph.constant(bias), mask]
        mixed = graph.node("MultiHeadAttention", *heads, domain=MICROSOFT, num_heads=HEADS)
        attended = graph.node("Add", self._dense(mixed, inner + "output.dense"), hidden)
        hidden = self._norm(attended, inner + "output.LayerNorm")
        wide = self._times(hidden, self._weights[prefix + "intermediate.dense.weight"].T)
        wide_bias = graph.constant(self._weights[prefix + "intermediate.dense.bias"])
        active = graph.node("BiasGelu", wide, wide_bias, domain=MICROSOFT)
        out = graph.node("Add", self._dense(active, prefix + "output.dense"), hidden)
        return self._norm(out, prefix + "output.LayerNorm")

    def _norm(self, value: str, name: str) -> str:
        scale = self._graph.constant(self._weights[f"{name}.weight"])
        bias = self._graph.constant(self._weights[f"{name}.bias"])
        return self._graph.node("LayerNormalization", value, scale, bias, axis=-1, epsilon=_EPSILON)

    def _dense(self, value: str, name: str) -> str:
        bias = self._graph.constant(self._weights[f"{name}.bias"])
        return self._graph.node("Add", self._times(value, self._weights[f"{name}.weight"].T), bias)

    def _times(self, value: str, weight: Array) -> str:
        """Multiply rows by a matrix (in, out)."""
        graph = self._graph
        if not self._int8:
            return graph.node("MatMul", value, graph.constant(weight))
        # CPUs without VNNI add two neighbours' products in 16 bits, 255 x 127 each, and cut what
        # does not fit: with pairs of up to 127 together nothing is cut, and all CPUs agree.
        pairs = weight.reshape(-1, 2, weight.shape[1])
        ups, downs = (np.maximum(signed, 0).sum(axis=1) for signed in (pairs, -pairs))
        scales = _scales(np.maximum(ups, downs).max(axis=0))
        values = _quantise(weight, scales)
        # Unsigned rows with the zero at 128: signed ones take onnxruntime's CPU kernels 20 times as
        # long.
        greatest = graph.node("ReduceMax", graph.node("Abs", value), self._last, keepdims=1)
        step = graph.node("Mul", graph.node("Max", greatest, self._least), self._step)
        divided = graph.node("Div", value, step)
        rows = graph.node("QuantizeLinear", divided, self._one, self._zero_point)
        product = graph.node(
            "MatMulIntegerToFloat",
            rows,
            graph.constant(values),
            self._one,
            graph.constant(scales),
            self._zero_point,
            domain=MICROSOFT,
        )
        return graph.node("Mul", product, step)


def _scales(greatest: Array) -> Array:
    """Return what int8 values are multiplied by, for weights of up to `greatest`."""
    scales = greatest / np.float32(127)
    scales[scales == 0] = 1
    return scales


def _quantise(weight: Array, scales: Array) -> NDArray[np.int8]:
    values: NDArray[np.int8] = np.round(weight / scales).astype(np.int8)
    return values
