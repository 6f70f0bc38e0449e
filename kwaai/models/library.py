"""The models on this disk: which there are, which one a name means, and their slices.

Layout below the models directory: `<owner>--<model>/<file>.gguf` for what came from a hub,
`<name>.gguf` for what a person put there, `slices/<handle>/` for what was cut here, `manifests/`
for what was hashed. Downloads nothing and loads nothing.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Final

from kwaai.atomic import exclusive_lock, set_aside
from kwaai.errors import FileCorrupt, ModelNotFound, ModelUnsupported, UserError
from kwaai.limits import MODEL_NAME_CHARS_MAX, MODEL_SUGGESTIONS_MAX, MODELS_LISTED_MAX
from kwaai.models.gguf import GGUFHeader, read_header
from kwaai.models.gguf_check import check_loadable
from kwaai.models.manifest import Manifest, Progress
from kwaai.models.manifest_cache import ManifestCache
from kwaai.models.slice_rules import layer_count
from kwaai.models.slices import cut_slice
from kwaai.models.verify import slice_range, verify_slice
from kwaai.types import LayerRange, ModelHandle

DEMO_NAME: Final = "kwaai-demo"
_SLICES, _MANIFESTS = "slices", "manifests"


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A file of a model: all of it, or a slice of it that was fetched."""

    name: str
    path: Path
    header: GGUFHeader
    nbytes: int
    layers: LayerRange
    """The layers that the file holds."""
    head: bool
    whole: bool
    handle: ModelHandle | None
    """None while the file has not been hashed."""


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


def packaged_models() -> tuple[tuple[str, Path], ...]:
    """Return the name and path of each model that came with this program."""
    path = Path(str(files("kwaai.models"))) / "data" / f"{DEMO_NAME}.gguf"
    return ((DEMO_NAME, path),) if path.is_file() else ()


class Library:
    """The models below `directory`, and those that came with the program."""

    def __init__(self, directory: Path, packaged: Sequence[tuple[str, Path]] | None = None) -> None:
        self.directory = directory
        self._packaged = packaged_models() if packaged is None else tuple(packaged)
        self._cache = ManifestCache(directory / _MANIFESTS)

    def list(self) -> tuple[ModelEntry, ...]:
        """Return every usable file of a model, sorted by name."""
        return self.look().entries

    def look(self) -> Shelf:
        """Read the header of every file. Changes nothing; broken files are reported."""
        entries, broken = [], []
        for name, path in self._names():
            try:
                if (entry := self._entry(name, path)) is not None:
                    entries.append(entry)
            except (FileCorrupt, ModelUnsupported, OSError) as error:
                broken.append(BrokenFile(path, str(error)))
        return Shelf(tuple(sorted(entries, key=lambda e: e.name)), tuple(broken))

    def find(self, wanted: str) -> ModelEntry:
        """Return the model that a name, a path or a handle means.

        Raises ModelNotFound that lists what there is and what is spelled alike, FileCorrupt when
        the file is broken (it is then set aside, if it lies in the models directory).
        """
        name, path = self._resolve(wanted)
        try:
            entry = self._entry(name, path)
        except FileCorrupt as error:
            if not path.resolve().is_relative_to(self.directory.resolve()):
                raise
            aside = set_aside(path)
            raise FileCorrupt(
                f"{error.message} (it is now {aside}; fetch the model again)"
            ) from error
        if entry is None:
            raise ModelUnsupported(f"{path} is the embedding of a model, not one that can run")
        return entry

    def manifest(self, entry: ModelEntry, progress: Progress | None = None) -> Manifest:
        """Return the manifest of a whole model: from the cache, or by hashing the file."""
        if not entry.whole:
            raise UserError(f"{entry.name} is a part of a model: its manifest is the publisher's")
        return self._cache.manifest(entry.path, progress)

    def slices_for(
        self, entry: ModelEntry, ranges: Sequence[LayerRange], progress: Progress | None = None
    ) -> tuple[Path, ...]:
        """Return a slice file for each range, cut when there is none. The last layer brings the
        head.

        Each is verified against the model's manifest when it is new or has changed; a wrong one is
        set aside and cut again. A range of all layers is the model's own file.
        """
        manifest = self.manifest(entry, progress)
        directory = self.directory / _SLICES / manifest.handle.removeprefix("sha256:")
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        with exclusive_lock(directory / ".lock"):
            for left_over in directory.glob(".*.part"):  # of a writer that was killed
                left_over.unlink()
            return tuple(self._slice(entry, r, manifest, directory, progress) for r in ranges)

    def _slice(
        self,
        entry: ModelEntry,
        layers: LayerRange,
        manifest: Manifest,
        directory: Path,
        progress: Progress | None,
    ) -> Path:
        if layers == entry.layers:
            return entry.path
        path = directory / f"{layers.start}-{layers.stop}.gguf"
        if path.is_file():
            if self._cache.is_verified(path, manifest.handle):
                return path
            try:
                verify_slice(path, manifest, progress)
            except FileCorrupt:
                set_aside(path)
        if not path.is_file():
            head = layers.stop == entry.layers.stop
            cut_slice(entry.path, path, layers, head, manifest.handle)
            try:
                verify_slice(path, manifest, progress)
            except FileCorrupt as error:
                path.unlink()
                raise FileCorrupt(
                    f"{entry.path} has changed under our hands or its disk fails: {error.message}"
                ) from error
        self._cache.set_verified(path, manifest.handle)
        return path

    def _entry(self, name: str, path: Path) -> ModelEntry | None:
        """Read a file's header; None when it is an embedding file, which is no model."""
        header, nbytes = read_header(path), path.stat().st_size
        kind = header.get("kwaai.slice.kind", None)
        if kind == "embedding":
            return None
        try:
            check_loadable(header, nbytes)
            if kind is not None:
                return self._part(name, path, header, nbytes)
        except FileCorrupt as error:
            raise FileCorrupt(f"{path} is not a usable model: {error.message}") from error
        known = self._cache.known(path)
        layers = LayerRange(0, layer_count(header))
        handle = known.handle if known else None
        return ModelEntry(name, path, header, nbytes, layers, True, True, handle)

    def _part(self, name: str, path: Path, header: GGUFHeader, nbytes: int) -> ModelEntry:
        layers, head = slice_range(header)
        source = header.get("kwaai.slice.source", None)
        handle = ModelHandle(source) if isinstance(source, str) else None
        return ModelEntry(name, path, header, nbytes, layers, head, False, handle)

    def _names(self) -> Iterator[tuple[str, Path]]:
        """Yield name and path of every file; without opening one."""
        yield from self._packaged
        if not self.directory.is_dir():
            return
        found = islice(sorted(self.directory.iterdir()), MODELS_LISTED_MAX)
        for item in found:
            if item.is_dir() and "--" in item.name:
                repository = item.name.replace("--", "/", 1)
                models = sorted(p for p in item.glob("*.gguf") if p.is_file())[:MODELS_LISTED_MAX]
                for path in models:
                    yield repository if len(models) == 1 else f"{repository}/{path.name}", path
            elif item.suffix == ".gguf" and item.is_file():
                yield item.stem, item

    def _resolve(self, wanted: str) -> tuple[str, Path]:
        named = list(self._names())
        if wanted.startswith("sha256:"):
            for name, path in named:
                if self._handle(path) == wanted:
                    return name, path
        matches = [(name, path) for name, path in named if wanted.lower() in _spellings(name, path)]
        if len(matches) == 1:
            return matches[0]
        if len(matches) > 1:
            listed = ", ".join(name for name, _ in matches[: 2 * MODEL_SUGGESTIONS_MAX])
            raise ModelNotFound(f"{wanted!r} means several models: {listed}", param="model")
        if (file := _file_at(wanted)) is not None:
            return next(((n, p) for n, p in named if p.resolve() == file), (file.stem, file))
        raise _not_found(wanted, [name for name, _ in named])

    def _handle(self, path: Path) -> ModelHandle | None:
        try:
            header = read_header(path)
            if "kwaai.slice.kind" in header.raw_kv:
                return None
            return self._cache.manifest(path).handle
        except (FileCorrupt, OSError):
            return None


def _spellings(name: str, path: Path) -> set[str]:
    """Return what a person may type for a file, in lower case."""
    spellings = {name, path.name, path.stem}
    if "/" in name:
        repository = "/".join(name.split("/")[:2])
        spellings |= {repository, f"{repository}/{path.name}"}
        tag = path.stem.replace(".", "-").rpartition("-")[2]
        spellings |= {f"{repository}:{tag}", f"{repository.partition('/')[2]}:{tag}"}
        spellings.add(repository.partition("/")[2])
    return {spelling.lower() for spelling in spellings}


def _file_at(wanted: str) -> Path | None:
    """Return the file that `wanted` is the path of, if it is one."""
    try:
        path = Path(wanted).expanduser().resolve()
        return path if ("/" in wanted or wanted.endswith(".gguf")) and path.is_file() else None
    except (OSError, ValueError, RuntimeError):  # too long, a zero byte, no such home
        return None


def _not_found(wanted: str, names: Sequence[str]) -> ModelNotFound:
    shown = wanted if len(wanted) <= MODEL_NAME_CHARS_MAX else wanted[:MODEL_NAME_CHARS_MAX] + "..."
    lowered = {name.lower(): name for name in names}
    close = difflib.get_close_matches(
        wanted.lower()[:MODEL_NAME_CHARS_MAX], lowered, MODEL_SUGGESTIONS_MAX, cutoff=0.5
    )
    hint = f"Did you mean {' or '.join(lowered[name] for name in close)}? " if close else ""
    here = f"Models here: {', '.join(names[:20])}." if names else "There are no models here."
    return ModelNotFound(
        f"no model {shown!r}. {hint}{here} `kwaainet shard download OWNER/MODEL` fetches one",
        param="model",
    )
