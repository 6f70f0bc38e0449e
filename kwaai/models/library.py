"""The models on this disk: which there are, which one a name means, and their slices.

Layout below the models directory: `<owner>--<model>/<file>.gguf` for what came from a hub and
`<file>.gguf.slices/` beside it for parts that were fetched alone, `<name>.gguf` for what a person
put there, `slices/<handle>/` for what was cut here, `manifests/` for what was hashed. Downloads
nothing, loads nothing and deletes nothing: prune.py does that.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Final

from kwaai.atomic import exclusive_lock, set_aside
from kwaai.errors import FileCorrupt, KwaaiError, ModelNotFound, ModelUnsupported, UserError
from kwaai.limits import MODEL_NAME_CHARS_MAX, MODEL_SUGGESTIONS_MAX, MODELS_LISTED_MAX
from kwaai.log import get_logger
from kwaai.models.entries import (
    BrokenFile,
    ModelEntry,
    Part,
    Shelf,
    entry_of_parts,
    part_of,
)
from kwaai.models.gguf import GGUFHeader, read_header
from kwaai.models.gguf_check import check_loadable
from kwaai.models.manifest import Manifest, Progress
from kwaai.models.manifest_cache import ManifestCache
from kwaai.models.partial import load_json
from kwaai.models.slice_rules import layer_count
from kwaai.models.slices import cut_slice
from kwaai.models.verify import verify_slice
from kwaai.types import LayerRange, ModelHandle

__all__ = ["DEMO_NAME", "SLICES", "BrokenFile", "Library", "ModelEntry", "Part", "Shelf"]

DEMO_NAME: Final = "kwaai-demo"
SLICES, MANIFESTS = "slices", "manifests"
_PARTS_SUFFIX: Final = ".slices"

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a model is: its file, the directory of its parts, or both."""

    name: str
    file: Path | None
    parts: Path | None = None
    repository: str | None = None

    @property
    def path(self) -> Path:
        path = self.file or self.parts
        assert path is not None
        return path

    @property
    def file_name(self) -> str:
        """The name of the model's file, whether it is here or not."""
        return self.path.name if self.file else self.path.name.removesuffix(_PARTS_SUFFIX)


@dataclass(frozen=True, slots=True)
class _Unusable:
    path: Path
    error: FileCorrupt | ModelUnsupported | OSError


def packaged_models() -> tuple[tuple[str, Path], ...]:
    """Return the name and path of each model that came with this program."""
    path = Path(str(files("kwaai.models"))) / "data" / f"{DEMO_NAME}.gguf"
    return ((DEMO_NAME, path),) if path.is_file() else ()


class Library:
    """The models below `directory`, and those that came with the program."""

    def __init__(self, directory: Path, packaged: Sequence[tuple[str, Path]] | None = None) -> None:
        self.directory = directory
        self._packaged = packaged_models() if packaged is None else tuple(packaged)
        self._cache = ManifestCache(directory / MANIFESTS)

    def list(self) -> tuple[ModelEntry, ...]:
        """Return every usable model, and those of which usable parts are here, by name."""
        return self.look().entries

    def look(self) -> Shelf:
        """Read the header of every file. Changes nothing; broken files are reported."""
        entries, broken = [], []
        for place in self._places():
            entry, unusable = self._read(place)
            if entry is not None:
                entries.append(entry)
            broken += [BrokenFile(item.path, str(item.error)) for item in unusable]
        return Shelf(tuple(sorted(entries, key=lambda e: e.name)), tuple(broken))

    def find(self, wanted: str) -> ModelEntry:
        """Return the model that a name, a path or a handle means; not always a whole one.

        Raises ModelNotFound that lists what there is and what is spelled alike, FileCorrupt when
        the file is broken (it is then set aside, if it lies in the models directory), UserError
        when it cannot be read.
        """
        place = self._resolve(wanted)
        entry, unusable = self._read(place)
        errors = [self._dealt_with(item) for item in unusable]
        for item, error in zip(unusable, errors, strict=True):
            if entry is None or item.path == place.file:
                raise error from item.error
            log.warning("part_unusable", path=str(item.path), problem=error.message)
        assert entry is not None  # a place without a file has at least one part
        return entry

    def _dealt_with(self, item: _Unusable) -> KwaaiError:
        """Set a corrupt file of ours aside. Returns the error that says what was found and done."""
        error = item.error
        if isinstance(error, OSError):
            why = error.strerror or str(error)
            return UserError(f"{item.path} cannot be read: {why}. Look at its owner and rights")
        ours = item.path.resolve().is_relative_to(self.directory.resolve())
        if not isinstance(error, FileCorrupt) or not ours:
            return error
        aside = set_aside(item.path)
        return FileCorrupt(f"{error.message} (it is now {aside}; fetch the model again)")

    def manifest(self, entry: ModelEntry, progress: Progress | None = None) -> Manifest:
        """Return the manifest of a whole model: from the cache, or by hashing the file."""
        if not entry.whole:
            raise UserError(f"{entry.name} is not whole, so it cannot be hashed; {entry.remedy}")
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
        directory = self.directory / SLICES / manifest.handle.removeprefix("sha256:")
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
                _mark_used(path)
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

    def _read(self, place: _Place) -> tuple[ModelEntry | None, Sequence[_Unusable]]:
        """Read what is at a place; None when nothing there is usable."""
        parts, unusable = _read_parts(place.parts) if place.parts else ((), ())
        if place.file is not None:
            try:
                header, part = _open(place.file)
            except (FileCorrupt, ModelUnsupported, OSError) as error:
                unusable = (_Unusable(place.file, error), *unusable)
            else:
                if part is None:
                    return self._whole(place, header, parts), unusable
                parts = tuple(sorted((part, *parts), key=lambda p: p.order))
        if not parts:
            return None, unusable
        return entry_of_parts(place.name, place.path, parts, _spec(place, parts)), unusable

    def _whole(self, place: _Place, header: GGUFHeader, parts: tuple[Part, ...]) -> ModelEntry:
        known = self._cache.known(place.path)
        return ModelEntry(
            name=place.name,
            path=place.path,
            header=header,
            nbytes=place.path.stat().st_size,
            layers=LayerRange(0, layer_count(header)),
            whole=True,
            handle=known.handle if known else None,
            parts=parts,
        )

    def _places(self) -> Iterator[_Place]:
        """Yield every place of a model; without opening a file."""
        for name, path in self._packaged:
            yield _Place(name, path)
        if not self.directory.is_dir():
            return
        for item in islice(sorted(self.directory.iterdir()), MODELS_LISTED_MAX):
            if item.is_dir() and "--" in item.name:
                yield from _places_of(item)
            elif _is_model_file(item):
                yield _Place(item.stem, item)

    def _resolve(self, wanted: str) -> _Place:
        places = list(self._places())
        if wanted.startswith("sha256:"):
            for place in sorted(places, key=lambda p: p.file is None):  # the whole model first
                if wanted in self._handles(place):
                    return place
        lowered = wanted.lower()
        matches = [place for place in places if lowered in _spellings(place)]
        by_name = [place for place in matches if place.name.lower() == lowered]
        whole = [place for place in matches if place.file is not None]
        for candidates in (by_name, whole, matches):
            if len(candidates) == 1:
                return candidates[0]
        if matches:
            listed = ", ".join(place.name for place in matches[: 2 * MODEL_SUGGESTIONS_MAX])
            raise ModelNotFound(f"{wanted!r} means several models: {listed}", param="model")
        if (file := _file_at(wanted)) is not None:
            known = (p for p in places if p.file is not None and p.file.resolve() == file)
            return next(known, _Place(file.stem, file))
        if _is_directory(wanted):
            raise ModelNotFound(
                f"{wanted!r:.200} is a directory; give the GGUF file in it", param="model"
            )
        raise _not_found(wanted, [place.name for place in places])

    def _handles(self, place: _Place) -> set[ModelHandle]:
        """Return the handles that a place answers to, hashing a whole file that is new."""
        with contextlib.suppress(FileCorrupt, OSError):
            entry, _ = self._read(place)
            if entry is not None:
                if entry.whole:
                    return {self._cache.manifest(entry.path).handle}
                return {entry.handle} if entry.handle else set()
        return set()


def _mark_used(path: Path) -> None:
    """Set a slice's access time, which prune.py goes by; the modification time stays."""
    with contextlib.suppress(OSError):  # another's file: its age is then that of its content
        os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))


def _places_of(directory: Path) -> Iterator[_Place]:
    """Yield the models of one repository. `owner/model` is the only file, or the only one that
    is whole."""
    repository = directory.name.replace("--", "/", 1)
    found = list(islice(sorted(directory.iterdir()), MODELS_LISTED_MAX))
    whole = {path.name: path for path in found if _is_model_file(path)}
    parts = {
        path.name.removesuffix(_PARTS_SUFFIX): path
        for path in found
        if path.name.endswith(_PARTS_SUFFIX) and path.is_dir() and any(_part_files(path))
    }
    alone = whole or parts
    for name in sorted(whole | parts):
        shown = repository if len(alone) == 1 and name in alone else f"{repository}/{name}"
        yield _Place(shown, whole.get(name), parts.get(name), repository)


def _is_model_file(path: Path) -> bool:
    return path.suffix.lower() == ".gguf" and path.is_file()


def _part_files(directory: Path) -> Iterator[Path]:
    listed = islice(sorted(directory.iterdir()), MODELS_LISTED_MAX)
    return (path for path in listed if _is_model_file(path))


def _read_parts(directory: Path) -> tuple[tuple[Part, ...], tuple[_Unusable, ...]]:
    """Read the files of a directory of parts: those that are usable, and the others."""
    parts: list[Part] = []
    unusable: list[_Unusable] = []
    for path in _part_files(directory):
        try:
            _, part = _open(path)
            if part is None:
                raise ModelUnsupported(f"{path} is a whole model among parts: move it elsewhere")
            parts.append(part)
        except (FileCorrupt, ModelUnsupported, OSError) as error:
            unusable.append(_Unusable(path, error))
    return tuple(sorted(parts, key=lambda p: p.order)), tuple(unusable)


def _open(path: Path) -> tuple[GGUFHeader, Part | None]:
    """Read and check a file's header. The Part is None for a whole model."""
    header, nbytes = read_header(path), path.stat().st_size
    kind = header.get("kwaai.slice.kind", None)
    try:
        if kind != "embedding":  # which llama.cpp never loads
            check_loadable(header, nbytes)
        return header, None if kind is None else part_of(path, header, nbytes)
    except FileCorrupt as error:
        raise FileCorrupt(f"{path} is not a usable model: {error.message}") from error


def _spec(place: _Place, parts: Sequence[Part]) -> str | None:
    """Return what `shard download` calls a model of a hub: as it was recorded, else by its
    place."""
    from kwaai.models.fetch_whole import record_path  # brings the HTTP client: only where needed

    if place.repository is None:
        return None
    for part in parts:
        source = load_json(record_path(part.path)).get("source")
        if isinstance(source, dict) and isinstance(source.get("path"), str):
            return f"{place.repository}/{source['path']}"
    return f"{place.repository}/{place.file_name}"


def _spellings(place: _Place) -> set[str]:
    """Return what a person may type for a model, in lower case."""
    name, file_name = place.name, place.file_name
    stem = file_name[: -len(".gguf")] if file_name.lower().endswith(".gguf") else file_name
    spellings = {name, file_name, stem}
    if place.repository is not None:
        repository = place.repository
        spellings |= {repository, f"{repository}/{file_name}"}
        tag = stem.replace(".", "-").rpartition("-")[2]
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


def _is_directory(wanted: str) -> bool:
    try:
        return "/" in wanted and Path(wanted).expanduser().is_dir()
    except (OSError, ValueError, RuntimeError):  # as above
        return False


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
