"""What the shelf of models holds: whole models, and models of which only parts are here.

Data and the words for it. Reads no disk: library.py does.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from kwaai.errors import FileCorrupt, ModelUnsupported
from kwaai.models.gguf import GGUFHeader
from kwaai.models.gguf_types import GGMLType
from kwaai.models.slice_rules import layer_count
from kwaai.models.verify import slice_range
from kwaai.types import LayerRange, ModelHandle


@dataclass(frozen=True, slots=True)
class Part:
    """A file with some of a model's tensors: a range of layers, or the embedding."""

    path: Path
    header: GGUFHeader
    nbytes: int
    layers: LayerRange | None
    """None for the embedding."""
    head: bool
    model_layers: int
    """The layers of the model that it is a part of."""
    handle: ModelHandle | None
    """The model that it says it was cut from."""

    def __str__(self) -> str:
        if self.layers is None:
            return "embedding"
        return f"{self.layers}+head" if self.head else str(self.layers)

    @property
    def order(self) -> tuple[bool, int, int, bool]:
        """Sort by this: by layers, the longer range first; the embedding is last."""
        layers = self.layers
        if layers is None:
            return True, 0, 0, False
        return False, layers.start, -layers.stop, self.head


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model on this disk: the whole of it, or what there is of it."""

    name: str
    path: Path
    """The model's file; else its only part, or the directory of its parts."""
    header: GGUFHeader
    """Of the model's file; else of the first of the parts."""
    nbytes: int
    layers: LayerRange
    """All layers of the model, whether they are here or not."""
    whole: bool
    handle: ModelHandle | None
    """None while a whole file has not been hashed, or when the parts do not say, or differ."""
    parts: tuple[Part, ...] = ()
    """Files that were fetched or put here with some of the model; also beside a whole one."""
    spec: str | None = None
    """What `shard download` calls a model that is not whole, when it is known."""

    @property
    def held(self) -> str:
        """What is here of it, in words: `[0,12) [12,24)+head embedding`."""
        return str(self.layers) if self.whole else " ".join(str(part) for part in self.parts)

    def check_whole(self) -> None:
        """Raise ModelUnsupported, saying what is held and what to do, unless all of it is here."""
        if not self.whole:
            held = f"layers {self.held}" if self.parts[0].layers else "its embedding"
            raise ModelUnsupported(
                f"{self.name} cannot run from here: this machine holds only {held}, the model has "
                f"{len(self.layers)} layers; {self.remedy}",
                param="model",
            )

    @property
    def remedy(self) -> str:
        """What fetches the rest."""
        spec = self.spec or "OWNER/MODEL"
        return f"fetch all of it: `kwaainet shard download {spec}`"


@dataclass(frozen=True, slots=True)
class BrokenFile:
    """A file that was found beside the models and cannot be used."""

    path: Path
    problem: str


@dataclass(frozen=True, slots=True)
class Shelf:
    """What a look at the models directory found."""

    entries: tuple[ModelEntry, ...]
    broken: tuple[BrokenFile, ...]


def part_of(path: Path, header: GGUFHeader, nbytes: int) -> Part:
    """Describe a file whose header has `kwaai.slice.kind`. Raises FileCorrupt when it lies."""
    source = header.get("kwaai.slice.source", None)
    handle = ModelHandle(source) if isinstance(source, str) else None
    if header.get("kwaai.slice.kind", None) == "embedding":
        total = layer_count(header)
        if total < 1:
            raise FileCorrupt("it does not say how many layers its model has")
        return Part(path, header, nbytes, None, False, total, handle)
    layers, head = slice_range(header)
    count = header.get("kwaai.slice.block_count", None)
    if not isinstance(count, int) or count < layers.stop:
        raise FileCorrupt("it does not say how many layers its model has (kwaai.slice.block_count)")
    return Part(path, header, nbytes, layers, head, count, handle)


def entry_of_parts(name: str, path: Path, parts: tuple[Part, ...], spec: str | None) -> ModelEntry:
    """Describe a model of which only `parts` (at least one) are here."""
    handles = {part.handle for part in parts}
    return ModelEntry(
        name=name,
        path=path,
        header=parts[0].header,
        nbytes=sum(part.nbytes for part in parts),
        layers=LayerRange(0, max(part.model_layers for part in parts)),
        whole=False,
        handle=handles.pop() if len(handles) == 1 else None,
        parts=parts,
        spec=spec,
    )


def quantisation(entry: ModelEntry) -> str:
    """Return the tensor type that most of the bytes here have; `-` where there is none."""
    sizes: Counter[int] = Counter()
    for header in [part.header for part in entry.parts] or [entry.header]:
        for tensor in header.tensors:
            sizes[tensor.ggml_type] += tensor.nbytes
    return GGMLType(max(sizes, key=lambda kind: sizes[kind])).name if sizes else "-"
