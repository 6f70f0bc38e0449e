"""ONNX models as bytes: nodes, constants, one graph. Writes what our graphs need; reads nothing.

The bytes depend on nothing but what is put in: a graph has one digest on every machine. Source:
onnx.proto of the ONNX specification (protocol buffers, proto2 wire format); the tests read the
bytes with the `onnx` package.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

_IR_VERSION = 9
_VARINT, _BYTES, _FLOAT = 0, 2, 5
_ATTRIBUTE_FLOAT, _ATTRIBUTE_INT = 1, 2
MICROSOFT = "com.microsoft"
"""The domain of onnxruntime's own operators."""


Array: TypeAlias = NDArray[np.float32] | NDArray[np.int64] | NDArray[np.int8] | NDArray[np.uint8]


class Type(IntEnum):
    """TensorProto.DataType."""

    FLOAT, UINT8, INT8, INT32, INT64 = 1, 2, 3, 6, 7


_TYPES = {
    np.dtype(np.float32): Type.FLOAT,
    np.dtype(np.uint8): Type.UINT8,
    np.dtype(np.int8): Type.INT8,
    np.dtype(np.int64): Type.INT64,
}


class Graph:
    """A graph under construction. Values are known by their names, which are given here."""

    def __init__(self, name: str, opset: int, microsoft: int) -> None:
        """`opset`, `microsoft`: the versions of the two sets of operators that are used."""
        self._name, self._opsets = name, {"": opset, MICROSOFT: microsoft}
        self._nodes: list[bytes] = []
        self._constants: list[bytes] = []
        self._count = 0

    def constant(self, value: Array) -> str:
        """Add a constant and return its name."""
        name = self._next("c")
        little = value.astype(value.dtype.newbyteorder("<"), copy=False)
        tensor = b"".join(_integer(1, size) for size in value.shape)
        tensor += _integer(2, _TYPES[value.dtype]) + _text(8, name) + _field(9, little.tobytes())
        self._constants.append(_field(5, tensor))
        return name

    def node(self, operator: str, *inputs: str, domain: str = "", **attributes: int | float) -> str:
        """Add an operator with one output and return the output's name."""
        return self.nodes(operator, inputs, 1, domain, **attributes)[0]

    def nodes(
        self,
        operator: str,
        inputs: Sequence[str],
        outputs: int,
        domain: str = "",
        **attributes: int | float,
    ) -> list[str]:
        """Add an operator with several outputs and return their names. An input "" is absent."""
        names = [self._next("v") for _ in range(outputs)]
        node = b"".join(_text(1, name) for name in inputs) + b"".join(_text(2, n) for n in names)
        node += _text(3, self._next("n")) + _text(4, operator)
        node += b"".join(_field(5, _attribute(*item)) for item in attributes.items())
        self._nodes.append(_field(1, node + (_text(7, domain) if domain else b"")))
        return names

    def rename(self, value: str, name: str) -> None:
        """Give a value the name of an output of the graph."""
        node = _text(1, value) + _text(2, name) + _text(4, "Identity")
        self._nodes.append(_field(1, node))

    def encode(
        self,
        inputs: Sequence[tuple[str, Type, Sequence[str | int]]],
        outputs: Sequence[tuple[str, Type, Sequence[str | int]]],
    ) -> bytes:
        """Return the model. Inputs and outputs: name, element type, sizes or names of sizes."""
        graph = b"".join(self._nodes) + _text(2, self._name) + b"".join(self._constants)
        graph += b"".join(_field(11, _value(*item)) for item in inputs)
        graph += b"".join(_field(12, _value(*item)) for item in outputs)
        opsets = b"".join(
            _field(8, _text(1, domain) + _integer(2, version))
            for domain, version in self._opsets.items()
        )
        return _integer(1, _IR_VERSION) + _field(7, graph) + opsets

    def _next(self, kind: str) -> str:
        self._count += 1
        return f"{kind}{self._count}"


def _attribute(name: str, value: int | float) -> bytes:
    if isinstance(value, int):
        return _text(1, name) + _integer(3, value) + _integer(20, _ATTRIBUTE_INT)
    number = _varint(2 << 3 | _FLOAT) + struct.pack("<f", value)
    return _text(1, name) + number + _integer(20, _ATTRIBUTE_FLOAT)


def _value(name: str, kind: Type, sizes: Sequence[str | int]) -> bytes:
    shape = b"".join(
        _field(1, _text(2, size) if isinstance(size, str) else _integer(1, size)) for size in sizes
    )
    tensor = _integer(1, kind) + _field(2, shape)
    return _text(1, name) + _field(2, _field(1, tensor))


def _varint(value: int) -> bytes:
    value &= 2**64 - 1  # negative ones: two's complement, 10 bytes
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _integer(number: int, value: int) -> bytes:
    return _varint(number << 3 | _VARINT) + _varint(value)


def _field(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(data)) + data


def _text(number: int, text: str) -> bytes:
    return _field(number, text.encode())
