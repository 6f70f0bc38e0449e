"""Decide how this machine runs a model: whole in one process or in slices, and whether it fits.

Reads the header and the free memory; cuts and loads nothing. Where `models` and `inference` meet.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psutil

from kwaai.config import Config
from kwaai.errors import ModelUnsupported, OutOfMemory
from kwaai.inference import families
from kwaai.inference.spec import EmbeddingSpec, EngineSpec, SliceSpec
from kwaai.limits import BATCH_TOKENS_MAX, CONTEXT_TOKENS_MIN, MIB, WORKER_BASE_BYTES
from kwaai.models import footprint
from kwaai.models.gguf import GGUFHeader
from kwaai.models.library import Library, ModelEntry
from kwaai.models.manifest import Progress
from kwaai.placement.ranges import Decision, plan_local, split_layers
from kwaai.types import LayerRange

_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What will be started. One range is the whole model, run by plain llama.cpp."""

    entry: ModelEntry
    ranges: tuple[LayerRange, ...]
    engine: EngineSpec
    memory: Decision

    @property
    def is_chain(self) -> bool:
        return len(self.ranges) > 1


def plan_run(
    entry: ModelEntry, config: Config, *, slices: int | None, local: bool, sessions: int
) -> RunPlan:
    """Plan to run `entry`. `slices` None means this machine's best: the whole model in one process.

    Raises ModelUnsupported for a family that cannot be cut, UserError for a cut that cannot be,
    OutOfMemory with the numbers for what does not fit.
    """
    entry.check_whole()
    header = entry.header
    count = 1 if local or slices is None else slices
    ranges = split_layers(
        entry.layers.stop,
        count,
        block_bytes=footprint.block_bytes(header),
        head_bytes=footprint.head_bytes(header),
    )
    if len(ranges) > 1:
        families.check_cut(families.supported(header.metadata), header.metadata, ranges)
    trained = header.arch_int("context_length", CONTEXT_TOKENS_MIN)
    engine = EngineSpec(
        context_tokens=max(1, min(config.context_tokens, trained)),
        sessions=sessions,
        threads=config.threads or 0,
        gpu_layers=-1 if config.use_gpu else 0,
        batch_tokens=BATCH_TOKENS_MAX,
    )
    memory = _budget(header, ranges, engine, available_bytes(config))
    if not memory.fits:
        raise OutOfMemory(
            f"{entry.name} {memory.reason}; lower context_tokens ({engine.context_tokens}) or "
            f"max_sessions ({engine.sessions}), or take a smaller model"
        )
    return RunPlan(entry, ranges, engine, memory)


def slice_specs(plan: RunPlan, library: Library, progress: Progress | None) -> list[SliceSpec]:
    """Cut what is not cut yet, and say what each worker loads. Blocks: hashes and writes files."""
    header, entry = plan.entry.header, plan.entry
    embd, vocab, count = header.arch_int("embedding_length"), vocabulary(header), entry.layers.stop
    if not plan.is_chain:
        whole = SliceSpec(str(entry.path), plan.ranges[0], count, embd, vocab, head=True)
        return [whole]
    family = families.supported(header.metadata)
    paths = library.slices_for(entry, plan.ranges, progress)
    first = _embedding(entry, vocab, family.embedding_scale(header.metadata))
    return [
        SliceSpec(
            path=str(path),
            layers=layers,
            block_count=count,
            embd=embd,
            vocab=vocab,
            head=layers.stop == count,
            embedding=first if layers.start == 0 else None,
            input_tensor=family.input_tensor,
        )
        for path, layers in zip(paths, plan.ranges, strict=True)
    ]


def vocabulary(header: GGUFHeader) -> int:
    """How many tokens the model knows: the rows of its embedding."""
    tensor = header.tensor("token_embd.weight")
    if tensor is None:
        raise ModelUnsupported("the model has no token_embd.weight")
    return tensor.dims[1]


def _embedding(entry: ModelEntry, vocab: int, scale: float) -> EmbeddingSpec:
    tensor = entry.header.tensor("token_embd.weight")
    assert tensor is not None  # vocabulary() has looked
    offset = entry.header.data_start + tensor.offset
    return EmbeddingSpec(
        str(entry.path), offset, tensor.ggml_type, vocab, tensor.dims[0], scale=scale
    )


def available_bytes(config: Config) -> int:
    """Memory that models may take now: what is free, the container's limit, the setting."""
    free = int(psutil.virtual_memory().available)
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        used = int((_CGROUP / "memory.current").read_text()) - _reclaimable_bytes()
        if limit != "max":
            free = min(free, max(0, int(limit) - used))
    except (OSError, ValueError):
        pass  # no control group, or version 1
    if config.memory_limit_mb is not None:
        free = min(free, config.memory_limit_mb * 1_000_000)
    return free


def _reclaimable_bytes() -> int:
    """File pages that the control group is charged for and gives back when memory is wanted."""
    lines = (_CGROUP / "memory.stat").read_text().splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("inactive_file ")), 0)


def _budget(
    header: GGUFHeader, ranges: tuple[LayerRange, ...], engine: EngineSpec, available: int
) -> Decision:
    tokens = engine.context_tokens * engine.sessions
    vocab = vocabulary(header)
    weights = sum(footprint.block_bytes(header)) + footprint.head_bytes(header)
    kv = sum(footprint.kv_bytes_per_token(header, r) for r in ranges) * tokens
    compute = sum(
        footprint.compute_bytes(
            header,
            batch_tokens=engine.batch_tokens,
            outputs=engine.sessions if r.stop == ranges[-1].stop else 0,
            vocab=vocab,
        )
        + WORKER_BASE_BYTES
        for r in ranges
    )
    return plan_local(weights, kv, compute + 64 * MIB, available)
