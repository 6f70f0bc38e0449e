"""Refuse a GGUF header on which llama.cpp would abort the process, read out of bounds, or balk.

Looks at the header only; that the file's bytes are the right ones is manifest.py's question, and
whether the family may be cut is the inference package's. Each check stands for an assertion in
llama.cpp (ggml/src/gguf.cpp, src/llama-model.cpp, src/llama-vocab.cpp), which ends the process.
The worker process is the second line of defence, for what this list does not know.
"""

from __future__ import annotations

from typing import Final

from kwaai.errors import FileCorrupt, ModelUnsupported
from kwaai.limits import BLOCKS_MAX, EMBEDDING_LENGTH_MAX, EXPERTS_MAX
from kwaai.models.gguf import GGUFHeader, check_layout
from kwaai.models.gguf_types import GGMLType, ValueType, pad
from kwaai.models.slices import EMBEDDING, group_of

TOKENIZERS: Final = ("llama", "gpt2", "no_vocab", "none")
EMBEDDING_TOKENIZERS: Final = ("bert", "t5", *TOKENIZERS)
_ARRAY, _STRING = ValueType.ARRAY, ValueType.STRING
_UNUSABLE_TYPES: Final = (GGMLType.F64, GGMLType.Q8_1, GGMLType.Q8_K, GGMLType.I64)
"""No weight has these types, and ggml aborts when it must compute with them."""


def check_loadable(header: GGUFHeader, file_bytes: int) -> None:
    """Raise unless llama.cpp can be trusted with the file that `header` was read from.

    Raises FileCorrupt for what contradicts itself, ModelUnsupported for what is only not for us.
    """
    _check(header, file_bytes, TOKENIZERS)


def check_embedding_model(header: GGUFHeader, file_bytes: int) -> None:
    """As `check_loadable`, for a model that only makes vectors of texts: BERT's tokenizer is one
    more that is taken.
    """
    _check(header, file_bytes, EMBEDDING_TOKENIZERS)


def _check(header: GGUFHeader, file_bytes: int, tokenizers: tuple[str, ...]) -> None:
    check_layout(header, file_bytes)
    _check_packed(header)
    _check_counts(header)
    _check_tensors(header)
    _check_tokenizer(header, tokenizers)


def _check_packed(header: GGUFHeader) -> None:
    """ggml accepts tensors in the order of the header only, each behind the padded one before."""
    expected = 0
    for tensor in header.tensors:
        if tensor.offset != expected:
            raise FileCorrupt(
                f"tensor {tensor.name!r} starts at {tensor.offset} of the data, not at {expected},"
                " where llama.cpp looks for it"
            )
        expected = pad(expected + tensor.nbytes, header.alignment)


def _check_counts(header: GGUFHeader) -> None:
    arch = header.architecture
    if header.get("split.count", 1) not in (0, 1):
        raise ModelUnsupported(
            "the model is one part of several; join them first with llama.cpp's"
            " llama-gguf-split --merge"
        )
    _in_range(f"{arch}.block_count", header.block_count, 1, BLOCKS_MAX)
    _in_range(
        f"{arch}.embedding_length", header.arch_int("embedding_length"), 1, EMBEDDING_LENGTH_MAX
    )
    _in_range(f"{arch}.context_length", header.arch_int("context_length"), 1, 2**31 - 1)
    _check_heads(header)
    nextn = header.arch_int("nextn_predict_layers", 0)
    _in_range(f"{arch}.nextn_predict_layers", nextn, 0, header.block_count - 1)
    experts = header.arch_int("expert_count", 0)
    _in_range(f"{arch}.expert_count", experts, 0, EXPERTS_MAX)
    if header.array_length(f"{arch}.expert_used_count") is None:
        used = header.arch_int("expert_used_count", 0)
        _in_range(f"{arch}.expert_used_count", used, 1 if experts else 0, experts)
    groups = header.arch_int("expert_group_count", 0)
    if groups and (groups >= max(experts, 1) or experts % groups):
        raise FileCorrupt(f"{arch}.expert_group_count {groups} does not divide {experts} experts")
    if groups > 1:
        used_groups = header.arch_int("expert_group_used_count", 0)
        _in_range(f"{arch}.expert_group_used_count", used_groups, 1, groups - 1)


def _check_heads(header: GGUFHeader) -> None:
    """Head counts may be one number, or one for each layer (0 in layers without attention)."""
    arch = header.architecture
    lowest, heads = 1, EMBEDDING_LENGTH_MAX
    for key in ("attention.head_count", "attention.head_count_kv"):
        values = header.get(f"{arch}.{key}", lowest)
        if isinstance(values, list):
            lowest = 0
        numbers = values if isinstance(values, list) else [values]
        for number in numbers or [-1]:
            if not isinstance(number, int):
                raise FileCorrupt(f"metadata {arch}.{key} is not an integer")
            _in_range(f"{arch}.{key}", number, lowest, heads)
        heads = max(int(number) for number in numbers)
    for key in ("attention.key_length", "attention.value_length", "rope.dimension_count"):
        _in_range(f"{arch}.{key}", header.arch_int(key, 0), 0, EMBEDDING_LENGTH_MAX)


def _check_tensors(header: GGUFHeader) -> None:
    blocks, seen = header.block_count, set()
    for tensor in header.tensors:
        if tensor.ggml_type in _UNUSABLE_TYPES:
            raise ModelUnsupported(
                f"tensor {tensor.name!r} has the type {GGMLType(tensor.ggml_type).name}, which"
                " llama.cpp cannot compute with"
            )
        group = group_of(tensor.name)
        if group.startswith("blk."):
            block = int(group[4:])
            if block >= blocks:
                raise FileCorrupt(f"tensor {tensor.name!r}, but the model has {blocks} blocks")
            seen.add(block)
    if missing := set(range(blocks)) - seen:
        raise FileCorrupt(f"the model has no tensors for block {min(missing)} of {blocks}")
    _check_shapes(header)


def _check_shapes(header: GGUFHeader) -> None:
    embd = header.arch_int("embedding_length")
    table = header.tensor(EMBEDDING)
    if table is None:
        raise FileCorrupt(f"the model has no {EMBEDDING}")
    if len(table.dims) != 2 or table.dims[0] != embd:
        raise FileCorrupt(f"{EMBEDDING} has the shape {list(table.dims)}, not [{embd}, tokens]")
    output = header.tensor("output.weight")
    if output is not None and output.dims != table.dims:
        raise FileCorrupt(
            f"output.weight has the shape {list(output.dims)}, {EMBEDDING} {list(table.dims)}"
        )
    for tensor in header.tensors:
        if tensor.name.endswith(("attn_norm.weight", "ffn_norm.weight", "output_norm.weight")) and (
            tensor.dims[0] != embd
        ):
            raise FileCorrupt(f"{tensor.name} has {tensor.dims[0]} columns, the model {embd}")


def _check_tokenizer(header: GGUFHeader, tokenizers: tuple[str, ...]) -> None:
    kind = header.get("tokenizer.ggml.model", None)
    if kind not in tokenizers:
        raise ModelUnsupported(
            f"the tokenizer {kind!r} is not one of those that are proven here: {TOKENIZERS[:2]}"
        )
    if kind in ("no_vocab", "none"):
        return
    for key in ("tokenizer.ggml.tokens", "tokenizer.ggml.merges"):
        raw = header.raw_kv.get(key)
        if raw is not None and (_u32(raw, 0) != _ARRAY or _u32(raw, 4) != _STRING):
            raise FileCorrupt(f"{key} is not an array of texts")
    count = header.array_length("tokenizer.ggml.tokens")
    if not count:
        raise FileCorrupt("the tokenizer has no tokens (tokenizer.ggml.tokens)")
    tokens = [
        text or b"[EMPTY_%d]" % i
        for i, text in enumerate(header.byte_strings("tokenizer.ggml.tokens"))
    ]
    if len(set(tokens)) != count:
        raise FileCorrupt("the tokenizer has a token twice (tokenizer.ggml.tokens)")
    for key in ("tokenizer.ggml.scores", "tokenizer.ggml.token_type"):
        if key in header.raw_kv and (header.array_length(key) or 0) < count:
            raise FileCorrupt(f"{key} is not an array of {count} values, one for each token")
    table = header.tensor(EMBEDDING)
    if table is not None and table.dims[1] != count:
        raise FileCorrupt(f"{EMBEDDING} has {table.dims[1]} rows, the tokenizer {count} tokens")


def _in_range(key: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise FileCorrupt(f"{key} is {value}; it must be {low} to {high}")


def _u32(raw: bytes, offset: int) -> int:
    return int.from_bytes(raw[offset : offset + 4], "little")
