"""Small random GGUF files, for tests of the model store and of what uses it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from kwaai.models.gguf_types import GGMLType
from kwaai.models.gguf_write import Typed, write_gguf
from kwaai.models.shapes import Shape, write_random_model

TINY = Shape("tiny", "llama", 6, 256, 320, 4, 2, 64, 300, True, 1e4, 1e-5, 512)
UNTIED = dataclasses.replace(TINY, tied=False, rope_factors=True)


def tiny_model(path: Path, shape: Shape = TINY, quantisation: str = "Q8_0", seed: int = 0) -> Path:
    """Write a model of 6 layers and 300 tokens, about 4 MB."""
    write_random_model(path, shape, quantisation, seed)
    return path


def plain_gguf(path: Path, kv: dict[str, Typed | bytes]) -> Path:
    """Write a file with these keys and one tensor."""
    data = bytes(range(64))
    write_gguf(path, kv, [("token_embd.weight", (8, 2), GGMLType.F32, data)])
    return path
