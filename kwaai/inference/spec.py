"""What a worker process is told to load, as plain values that survive a trip through JSON.

Does not read files: the parent fills these in from a checked GGUF header.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from kwaai.types import LayerRange


@dataclass(frozen=True, slots=True)
class EmbeddingSpec:
    """Where the rows of `token_embd.weight` lie. `scale` is what a token's row is multiplied by."""

    path: str
    offset: int
    ggml_type: int
    vocab: int
    embd: int
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class SliceSpec:
    """One GGUF that llama.cpp can load, and which part of the model it is.

    `whole` files take token ids and give logits. Otherwise rows of `embd` float32 go in, and come
    out again unless `head` is set. `input_tensor` names the graph tensor that rows are written
    into, for families whose graph would change vectors or refuses them.
    """

    path: str
    layers: LayerRange
    block_count: int
    embd: int
    vocab: int
    head: bool
    embedding: EmbeddingSpec | None = None
    input_tensor: str | None = None

    @property
    def whole(self) -> bool:
        return self.head and len(self.layers) == self.block_count and self.embedding is None


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """How a slice is run.

    `context_tokens` is per session. `threads` 0 means one per core. `outputs_max` bounds the rows
    of logits in one batch; 0 means one per session (llama.cpp keeps buffers for all of them).
    """

    context_tokens: int
    sessions: int
    threads: int = 0
    gpu_layers: int = 0
    batch_tokens: int = 512
    outputs_max: int = 0


def encode_slice_spec(spec: SliceSpec) -> dict[str, Any]:
    """Give a dict of JSON types; `parse_slice_spec` reads it back."""
    return asdict(spec)


def parse_slice_spec(fields: dict[str, Any]) -> SliceSpec:
    """Read what `encode_slice_spec` wrote. Raises TypeError or KeyError for anything else."""
    layers = LayerRange(**fields["layers"])
    embedding = EmbeddingSpec(**fields["embedding"]) if fields["embedding"] else None
    return SliceSpec(**{**fields, "layers": layers, "embedding": embedding})
