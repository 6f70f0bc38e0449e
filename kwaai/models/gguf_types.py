"""The numbers of the GGUF format: value types, ggml tensor types with their block sizes, tensor
descriptions.

Reads and writes nothing. Source: the GGUF specification in the ggml repository and ggml's own type
table.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, TypeAlias

MAGIC: Final = b"GGUF"
VERSIONS: Final = (2, 3)
ALIGNMENT_DEFAULT: Final = 32
TENSOR_NAME_BYTES_MAX: Final = 63  # ggml's GGML_MAX_NAME less its terminating zero
INT64_MAX: Final = 2**63 - 1

Scalar: TypeAlias = bool | int | float | str
Value: TypeAlias = Scalar | list[bool] | list[int] | list[float] | list[str]


class ValueType(IntEnum):
    """The type tag in front of a metadata value."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


FIXED_FORMATS: Final[dict[int, tuple[str, int]]] = {
    ValueType.UINT8: ("B", 1),
    ValueType.INT8: ("b", 1),
    ValueType.UINT16: ("H", 2),
    ValueType.INT16: ("h", 2),
    ValueType.UINT32: ("I", 4),
    ValueType.INT32: ("i", 4),
    ValueType.FLOAT32: ("f", 4),
    ValueType.BOOL: ("B", 1),
    ValueType.UINT64: ("Q", 8),
    ValueType.INT64: ("q", 8),
    ValueType.FLOAT64: ("d", 8),
}
"""struct format and size in bytes of every value type of fixed size, little-endian."""


class GGMLType(IntEnum):
    """Element types of tensors. Gaps are types that were removed from ggml."""

    F32 = 0
    F16 = 1
    Q4_0 = 2
    Q4_1 = 3
    Q5_0 = 6
    Q5_1 = 7
    Q8_0 = 8
    Q8_1 = 9
    Q2_K = 10
    Q3_K = 11
    Q4_K = 12
    Q5_K = 13
    Q6_K = 14
    Q8_K = 15
    IQ2_XXS = 16
    IQ2_XS = 17
    IQ3_XXS = 18
    IQ1_S = 19
    IQ4_NL = 20
    IQ3_S = 21
    IQ2_S = 22
    IQ4_XS = 23
    I8 = 24
    I16 = 25
    I32 = 26
    I64 = 27
    F64 = 28
    IQ1_M = 29
    BF16 = 30
    TQ1_0 = 34
    TQ2_0 = 35
    MXFP4 = 39
    NVFP4 = 40
    Q1_0 = 41
    Q2_0 = 42

    @property
    def block_size(self) -> int:
        """Elements in a block."""
        return BLOCKS[self][0]

    @property
    def type_size(self) -> int:
        """Bytes in a block."""
        return BLOCKS[self][1]


BLOCKS: Final[dict[GGMLType, tuple[int, int]]] = {
    GGMLType.F32: (1, 4),
    GGMLType.F16: (1, 2),
    GGMLType.Q4_0: (32, 18),
    GGMLType.Q4_1: (32, 20),
    GGMLType.Q5_0: (32, 22),
    GGMLType.Q5_1: (32, 24),
    GGMLType.Q8_0: (32, 34),
    GGMLType.Q8_1: (32, 36),
    GGMLType.Q2_K: (256, 84),
    GGMLType.Q3_K: (256, 110),
    GGMLType.Q4_K: (256, 144),
    GGMLType.Q5_K: (256, 176),
    GGMLType.Q6_K: (256, 210),
    GGMLType.Q8_K: (256, 292),
    GGMLType.IQ2_XXS: (256, 66),
    GGMLType.IQ2_XS: (256, 74),
    GGMLType.IQ3_XXS: (256, 98),
    GGMLType.IQ1_S: (256, 50),
    GGMLType.IQ4_NL: (32, 18),
    GGMLType.IQ3_S: (256, 110),
    GGMLType.IQ2_S: (256, 82),
    GGMLType.IQ4_XS: (256, 136),
    GGMLType.I8: (1, 1),
    GGMLType.I16: (1, 2),
    GGMLType.I32: (1, 4),
    GGMLType.I64: (1, 8),
    GGMLType.F64: (1, 8),
    GGMLType.IQ1_M: (256, 56),
    GGMLType.BF16: (1, 2),
    GGMLType.TQ1_0: (256, 54),
    GGMLType.TQ2_0: (256, 66),
    GGMLType.MXFP4: (32, 17),
    GGMLType.NVFP4: (64, 36),
    GGMLType.Q1_0: (128, 18),
    GGMLType.Q2_0: (64, 18),
}
"""Elements and bytes of one block of each type."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor as the header describes it. `dims` in ggml's order: the row length first."""

    name: str
    dims: tuple[int, ...]
    ggml_type: int
    offset: int
    """Bytes from the start of the data section."""
    nbytes: int


def tensor_bytes(ggml_type: int, dims: tuple[int, ...]) -> int:
    """Return the bytes that a tensor of this type and shape takes.

    Raises ValueError when the type is unknown, a dimension is not positive, a row is not a whole
    number of blocks, or the size does not fit ggml's 63 bits.
    """
    try:
        block_size, type_size = BLOCKS[GGMLType(ggml_type)]
    except ValueError:
        raise ValueError(f"tensor type {ggml_type} is not known to ggml") from None
    if not dims or min(dims) < 1:
        raise ValueError(f"every dimension must be at least 1, got {list(dims)}")
    if dims[0] % block_size:
        raise ValueError(
            f"a row of {dims[0]} elements is not a whole number of blocks of {block_size}"
        )
    elements = math.prod(dims)
    if elements > INT64_MAX or elements // block_size * type_size > INT64_MAX:
        raise ValueError(f"the shape {list(dims)} overflows 64 bits")
    return elements // block_size * type_size


def pad(n: int, alignment: int) -> int:
    """Round `n` up to a multiple of `alignment`."""
    return -(-n // alignment) * alignment
