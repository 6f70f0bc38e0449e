"""`shard download`: bring a model, or some of its layers, from a hub to this disk.

Decides what is fetched, where it goes and what is already here; one writer per file. The transfer
itself is fetch_whole.py and fetch_slice.py. Draws no progress bar and reads no configuration.
Layout: `<models>/<owner>--<model>/<file>`, and slices in `<file>.slices/` beside it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from kwaai.atomic import exclusive_lock
from kwaai.errors import DownloadFailed, FileCorrupt, UserError
from kwaai.limits import HUB_LOCK_TIMEOUT_S, HUB_RESTARTS_MAX
from kwaai.log import get_logger
from kwaai.models.fetch_slice import Planner, cut_here, fetch_slice, open_source
from kwaai.models.fetch_whole import adopt, fetch_whole, hash_file, is_here, recorded
from kwaai.models.gguf import GGUFHeader
from kwaai.models.http_client import Patience
from kwaai.models.hub import FileChanged, Hub, RangesIgnored, RemoteFile, Repository
from kwaai.models.hub_names import local_name, parse_model_ref
from kwaai.models.hub_settings import HubSettings
from kwaai.models.progress import Meter, Progress, Report
from kwaai.models.slices import SlicePlan, embedding_header, slice_header
from kwaai.types import LayerRange, ModelHandle

__all__ = ["Downloaded", "Progress", "download_model"]

log = get_logger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Downloaded:
    """What is on this disk now."""

    paths: tuple[Path, ...]
    fetched_bytes: int
    """That came over the network in this call, headers and repeats included."""
    resumed_bytes: int
    """Of the files, that were here before."""
    verified: str
    """What the content was checked against, and nothing more than that."""
    handle: ModelHandle | None
    """Known for slices of a file whose manifest the repository publishes."""


def download_model(
    spec: str,
    home_models: Path,
    *,
    layers: LayerRange | None = None,
    head: bool = False,
    embedding: bool = False,
    progress: Report | None = None,
    env: Mapping[str, str] | None = None,
    patience: Patience | None = None,
    lock_timeout_s: float = HUB_LOCK_TIMEOUT_S,
) -> Downloaded:
    """Fetch the model that `spec` names: whole, or `layers` (with `head`), or its `embedding`.

    Blocks until done: call it from a thread. An interrupted call is continued by the next one; an
    exception that `progress` raises interrupts. Raises UserError and its leaves, DownloadFailed,
    FileCorrupt, DiskFull, Locked.
    """
    if head and layers is None:
        raise UserError(
            "the head comes with the last layers: name a range that ends with the model",
            param="head",
        )
    ref = parse_model_ref(spec)
    patience = patience or Patience()
    hub = Hub(HubSettings.from_env(os.environ if env is None else env), patience)
    file, repository = hub.locate(ref)
    directory = home_models / f"{ref.owner}--{ref.model}"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    final = directory / local_name(file.path)
    task = _Task(hub, repository, final, Meter(progress, patience.clock), lock_timeout_s)
    if layers is None and not embedding:
        return task.restarted(file, task.whole)
    return task.restarted(file, lambda now: task.parts(now, layers, head, embedding))


@dataclass(slots=True)
class _Task:
    """One call of download_model."""

    hub: Hub
    repository: Repository
    final: Path
    meter: Meter
    lock_timeout_s: float

    def restarted(self, file: RemoteFile, attempt: Callable[[RemoteFile], T]) -> T:
        """Run `attempt`, and once more from the start when what came cannot be used."""
        for left in range(HUB_RESTARTS_MAX, -1, -1):
            try:
                return attempt(file)
            except RangesIgnored as error:
                if not left:
                    raise DownloadFailed(f"{error}: try again, or set HF_ENDPOINT") from error
            except FileChanged as error:
                if not left:
                    raise DownloadFailed(f"{error}, again: try again later") from error
                self.repository = self.hub.repository(self.repository.ref)
                file = self.hub.stat(self.repository, file.path)
            except FileCorrupt:
                if not left:
                    raise
            log.warning("download_restarted", file=file.path)
        raise AssertionError("the last attempt returns or raises")

    def whole(self, file: RemoteFile) -> Downloaded:
        final, endpoint = self.final, self.hub.settings.endpoint
        with exclusive_lock(_lock_of(final), self.lock_timeout_s):
            here = is_here(final, endpoint, file, self.meter)
            cached = None if here else self._cached(file)
            if here or (cached and adopt(cached, final, endpoint, file, self.meter)):
                resumed = file.size
            else:
                resumed = fetch_whole(self.hub, file, final, self.meter)
            verified = str(recorded(final, file).get("verified"))
        self.meter.begin("done", file.path, file.size, file.size)
        return Downloaded((final,), self.meter.fetched_bytes, resumed, verified, None)

    def parts(
        self, file: RemoteFile, layers: LayerRange | None, head: bool, embedding: bool
    ) -> Downloaded:
        directory = self.final.with_name(self.final.name + ".slices")
        directory.mkdir(mode=0o700, exist_ok=True)
        endpoint, whole = self.hub.settings.endpoint, self._whole_copy(file)
        source = None if whole else open_source(self.hub, file, self.repository, self.meter)
        paths, resumed, verified = [], 0, ""
        for name, planner in _planned(layers, head, embedding):
            path = directory / name
            with exclusive_lock(_lock_of(path), self.lock_timeout_s):
                if source is not None:
                    fetched = fetch_slice(source, planner, path, self.meter)
                else:
                    assert whole is not None
                    fetched = cut_here(whole, file, endpoint, planner, path, self.meter)
            paths.append(path)
            resumed += fetched.resumed_bytes
            verified = fetched.verified
        self.meter.begin("done", file.path, 0, 0)
        handle = source.handle if source else None
        return Downloaded(tuple(paths), self.meter.fetched_bytes, resumed, verified, handle)

    def _whole_copy(self, file: RemoteFile) -> Path | None:
        """Return a whole file that is on this disk already and has the hub's hash, if any is."""
        if recorded(self.final, file) and file.sha256 is not None:
            return self.final
        cached = self._cached(file)
        if cached is not None and hash_file(cached, self.meter) == file.sha256:
            return cached
        return None

    def _cached(self, file: RemoteFile) -> Path | None:
        ref = self.repository.ref
        settings = self.hub.settings
        return settings.cached(ref.owner, ref.model, file.commit, file.path, file.size)


def _planned(layers: LayerRange | None, head: bool, embedding: bool) -> list[tuple[str, Planner]]:
    """Return the files to make: their names, and what goes into them."""

    def layers_plan(header: GGUFHeader, handle: ModelHandle | None) -> SlicePlan:
        assert layers is not None
        return slice_header(header, layers, head, handle)

    planned: list[tuple[str, Planner]] = []
    if layers is not None:
        name = f"{layers.start}-{layers.stop}{'-head' if head else ''}.gguf"
        planned.append((name, layers_plan))
    if embedding:
        planned.append(("embedding.gguf", embedding_header))
    return planned


def _lock_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")
