"""How much memory a model's layers take, from the header alone: weights and KV cache.

An estimate of what llama.cpp allocates, on the high side; what the machine has is the caller's to
ask.
"""

from __future__ import annotations

from kwaai.models.gguf import GGUFHeader
from kwaai.models.slice_rules import layer_count
from kwaai.models.slices import group_of
from kwaai.types import LayerRange

_KV_BYTES = 2  # float16, llama.cpp's default


def block_bytes(header: GGUFHeader) -> list[int]:
    """Return the bytes of the tensors of each layer."""
    sizes = [0] * layer_count(header)
    for tensor in header.tensors:
        group = group_of(tensor.name)
        if group.startswith("blk.") and int(group[4:]) < len(sizes):
            sizes[int(group[4:])] += tensor.nbytes
    return sizes


def head_bytes(header: GGUFHeader) -> int:
    """Return the bytes of the matrices that turn the last layer's rows into logits."""
    head = sum(t.nbytes for t in header.tensors if group_of(t.name) == "head")
    tied = header.tensor("output.weight") is None
    embedding = header.tensor("token_embd.weight")
    return head + (embedding.nbytes if tied and embedding else 0)


def kv_bytes_per_token(header: GGUFHeader, layers: LayerRange) -> int:
    """Return the bytes of KV cache that one token takes in `layers`."""
    return sum(_layer_kv(header, layer) for layer in range(layers.start, layers.stop))


def _layer_kv(header: GGUFHeader, layer: int) -> int:
    heads = _per_layer(header, "attention.head_count", layer, 1)
    kv_heads = _per_layer(header, "attention.head_count_kv", layer, heads)
    width = header.arch_int("embedding_length") // max(heads, 1)
    if latent := header.arch_int("attention.kv_lora_rank", 0):  # MLA keeps one latent row
        rope = header.arch_int("rope.dimension_count", width)
        key_mla = header.arch_int("attention.key_length_mla", 0)
        if key_mla:
            return _KV_BYTES * (2 * latent + rope)
    key = header.arch_int("attention.key_length", width)
    value = header.arch_int("attention.value_length", width)
    return _KV_BYTES * kv_heads * (key + value)


def _per_layer(header: GGUFHeader, name: str, layer: int, default: int) -> int:
    value = header.get(f"{header.architecture}.{name}", default)
    if isinstance(value, list):
        value = value[layer] if layer < len(value) else default
    return value if isinstance(value, int) and value >= 0 else default


def compute_bytes(header: GGUFHeader, *, batch_tokens: int, outputs: int, vocab: int) -> int:
    """Estimate the buffers of one pass: a few rows of every width for a batch, and the logits."""
    embd = header.arch_int("embedding_length")
    feed_forward = _per_layer(header, "feed_forward_length", 0, 4 * embd)
    rows = 4 * batch_tokens * (8 * embd + 3 * feed_forward)
    return rows + 4 * outputs * vocab
