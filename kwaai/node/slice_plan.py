"""What one layer range of a model takes on this machine: its file, its memory, how it is fed.

The counterpart of plan.py, which plans a whole model at once. Reads headers and hashes files, so it
blocks: call it in a thread. Loads nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from kwaai.config import Config
from kwaai.errors import ModelUnsupported
from kwaai.inference import families
from kwaai.inference.spec import EmbeddingSpec, EngineSpec, SliceSpec
from kwaai.limits import (
    BATCH_TOKENS_MAX,
    CONTEXT_TOKENS_MIN,
    MIB,
    SLICE_OUTPUTS_EXTRA,
    WORKER_BASE_BYTES,
)
from kwaai.models import footprint
from kwaai.models.library import Library, ModelEntry, Part
from kwaai.models.slices import EMBEDDING
from kwaai.node.plan import vocabulary
from kwaai.placement.ranges import Decision, plan_local
from kwaai.types import LayerRange, ModelHandle


@dataclass(frozen=True, slots=True)
class TextInputs:
    """What `kwaai.inference.text.TextModel` is made from."""

    path: str
    template: str | None
    context_tokens: int


@dataclass(frozen=True, slots=True)
class LocalModel:
    """What this machine has of a model, and how it runs slices of it."""

    entry: ModelEntry
    handle: ModelHandle
    engine: EngineSpec
    embd: int
    text: TextInputs | None
    """None where neither the whole file, nor the embedding, nor the head is here."""

    @property
    def name(self) -> str:
        return self.entry.name

    @property
    def block_count(self) -> int:
        """Layers of the whole model."""
        return self.entry.layers.stop

    @property
    def context_tokens(self) -> int:
        """Of one session."""
        return self.engine.context_tokens

    @property
    def sessions_max(self) -> int:
        """Sessions of one slice."""
        return self.engine.sessions

    @property
    def cells(self) -> int:
        """What llama.cpp is told as its context: some families' positions depend on it."""
        return self.engine.context_tokens * self.engine.sessions

    @property
    def held(self) -> tuple[LayerRange, ...]:
        """Ranges that can be run: any within the only one of a whole model, else exactly these."""
        if self.entry.whole:
            return (self.entry.layers,)
        return tuple(dict.fromkeys(p.layers for p in self.entry.parts if p.layers is not None))


def find_model(name: str, config: Config, library: Library) -> LocalModel:
    """Look a model up by name, path or handle; a whole file that is new is hashed, once.

    Raises ModelNotFound, FileCorrupt, and ModelUnsupported for parts that do not say of what.
    """
    entry = library.find(name)
    handle = library.manifest(entry).handle if entry.whole else entry.handle
    if handle is None:
        raise ModelUnsupported(
            f"{entry.name} cannot be shared with other machines: its parts here ({entry.held}) do "
            f"not say which model they are of, or differ; {entry.remedy}",
            param="model",
        )
    trained = entry.header.arch_int("context_length", CONTEXT_TOKENS_MIN)
    engine = EngineSpec(
        context_tokens=max(1, min(config.context_tokens, trained)),
        sessions=config.max_sessions,
        threads=config.threads or 0,
        gpu_layers=-1 if config.use_gpu else 0,
        batch_tokens=BATCH_TOKENS_MAX,
        outputs_max=config.max_sessions + SLICE_OUTPUTS_EXTRA,
    )
    embd = entry.header.arch_int("embedding_length")
    return LocalModel(entry, handle, engine, embd, _text_inputs(entry, engine.context_tokens))


def _text_inputs(entry: ModelEntry, context_tokens: int) -> TextInputs | None:
    source: ModelEntry | Part | None = entry
    if not entry.whole:
        # The embedding's file and the head's have the model's tokenizer, the others a stub.
        having = [part for part in entry.parts if part.layers is None or part.head]
        source = having[-1] if having else None
    if source is None or source.header.get("tokenizer.ggml.model", None) in ("no_vocab", "none"):
        return None
    template = source.header.get("tokenizer.chat_template", None)
    template = template if isinstance(template, str) else None
    return TextInputs(str(source.path), template, context_tokens)


def check_memory(model: LocalModel, layers: LayerRange, available_bytes: int) -> Decision:
    """Say whether the slice of `layers` fits, with the numbers. Raises as `slice_spec` does."""
    entry, engine = model.entry, model.engine
    if entry.whole:
        _check_range(model, layers)
        header, within = entry.header, layers
    else:
        header = _part(model, layers).header
        within = LayerRange(0, len(layers))  # in the part's own file
    has_head = layers.stop == model.block_count
    weights = sum(footprint.block_bytes(header)[within.start : within.stop])
    vocab = 0
    if has_head:
        weights += footprint.head_bytes(header)
        vocab = vocabulary(header)
    compute = footprint.compute_bytes(
        header, batch_tokens=engine.batch_tokens, outputs=engine.outputs_max, vocab=vocab
    )
    kv = footprint.kv_bytes_per_token(header, within) * model.cells
    return plan_local(weights, kv, compute + WORKER_BASE_BYTES + 16 * MIB, available_bytes)


def slice_spec(model: LocalModel, layers: LayerRange, library: Library) -> SliceSpec:
    """Say what a worker loads for `layers`; cut the file first, if it is not cut.

    Raises ModelUnsupported for a range that is not here, or that the family cannot be cut at.
    """
    if not model.entry.whole:
        return _spec_of_part(model, layers)
    _check_range(model, layers)
    entry = model.entry
    header = entry.header
    vocab = vocabulary(header)
    if layers == entry.layers:
        return SliceSpec(str(entry.path), layers, layers.stop, model.embd, vocab, head=True)
    family = families.supported(header.metadata)
    families.check_cut(family, header.metadata, [layers])
    (path,) = library.slices_for(entry, [layers])
    first = layers.start == 0
    return SliceSpec(
        path=str(path),
        layers=layers,
        block_count=model.block_count,
        embd=model.embd,
        vocab=vocab,
        head=layers.stop == model.block_count,
        embedding=_embedding(entry, family.embedding_scale(header.metadata)) if first else None,
        input_tensor=family.input_tensor,
    )


def _check_range(model: LocalModel, layers: LayerRange) -> None:
    if layers.stop > model.block_count:
        raise ModelUnsupported(
            f"{model.name} has the layers [0,{model.block_count}), not {layers}", param="layers"
        )


def _part(model: LocalModel, layers: LayerRange) -> Part:
    """Return the file that holds exactly `layers`, with the head behind the last one."""
    has_head = layers.stop == model.block_count
    for part in model.entry.parts:
        if part.layers == layers and part.handle == model.handle and part.head == has_head:
            return part
    start, head = layers.start, " --head" if has_head else ""
    raise ModelUnsupported(
        f"{model.name}: layers {layers}{' with the head' if has_head else ''} are not here, only "
        f"{model.entry.held}; fetch them: `kwaainet shard download "
        f"{model.entry.spec or 'OWNER/MODEL'} --start-block {start} --blocks {len(layers)}{head}`",
        param="layers",
    )


def _spec_of_part(model: LocalModel, layers: LayerRange) -> SliceSpec:
    part = _part(model, layers)
    has_head = layers.stop == model.block_count
    vocab = vocabulary(part.header) if has_head else 0
    if len(layers) == model.block_count:
        return SliceSpec(str(part.path), layers, len(layers), model.embd, vocab, head=True)
    table = next((p for p in model.entry.parts if p.layers is None), None)
    if table is not None and table.handle == model.handle:  # it has the whole model's metadata
        family = families.supported(table.header.metadata)
        families.check_cut(family, table.header.metadata, [layers])
    else:
        table = None
        # What depends on a file's number of layers was settled when the part was made.
        counted = {f"{part.header.architecture}.block_count": model.block_count}
        family = families.supported({**part.header.metadata, **counted})
    embedding = None
    if layers.start == 0:
        if table is None:
            raise ModelUnsupported(
                f"{model.name}: the embedding is not here, which the first layers need; fetch it: "
                f"`kwaainet shard download {model.entry.spec or 'OWNER/MODEL'} --embedding`",
                param="layers",
            )
        embedding = _embedding(table, family.embedding_scale(table.header.metadata))
        vocab = embedding.vocab
    return SliceSpec(
        path=str(part.path),
        layers=layers,
        block_count=model.block_count,
        embd=model.embd,
        vocab=vocab,
        head=has_head,
        embedding=embedding,
        input_tensor=family.input_tensor,
    )


def _embedding(source: ModelEntry | Part, scale: float) -> EmbeddingSpec:
    tensor = source.header.tensor(EMBEDDING)
    if tensor is None:
        raise ModelUnsupported(f"{source.path} has no {EMBEDDING}")
    return EmbeddingSpec(
        path=str(source.path),
        offset=source.header.data_start + tensor.offset,
        ggml_type=tensor.ggml_type,
        vocab=tensor.dims[1],
        embd=tensor.dims[0],
        scale=scale,
    )
