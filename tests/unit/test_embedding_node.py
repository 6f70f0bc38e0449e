"""Which embedder a node opens, and that there is one for all who ask."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kwaai import errors
from kwaai.config import Config
from kwaai.node import embedders
from kwaai.node.embedders import (
    Embedders,
    EmbedderSettings,
    NodeEmbedder,
    embedder_settings,
    find_gguf,
    open_embedder,
)
from kwaai.testing.embedding import WordEmbedder, tiny_bert


def opened(model: str) -> tuple[NodeEmbedder, WordEmbedder]:
    words = WordEmbedder(model)
    return NodeEmbedder(words.spec, words), words


@pytest.mark.parametrize(
    ("model", "passage", "query", "cuts"),
    [
        ("all-MiniLM-L6-v2", "text", "text", False),
        ("nomic-embed-text", "search_document: text", "search_query: text", True),
        ("nomic-embed-text-v1.5.Q8_0", "search_document: text", "search_query: text", True),
        ("intfloat_e5-small-v2", "passage: text", "query: text", False),
        (
            "BGE-small-en-v1.5",
            "text",
            "Represent this sentence for searching relevant passages: text",
            False,
        ),
        ("text-embedding-3-small", "text", "text", True),
    ],
)
async def test_what_models_want(model: str, passage: str, query: str, cuts: bool) -> None:
    embedder, words = opened(model)
    await embedder.embed(["text"])
    await embedder.embed(["text"], "query")
    await embedder.embed_as_is(["text"])
    assert words.texts == [passage, query, "text"]
    assert embedder.cuts == cuts
    await embedder.close()
    assert words.closed


def test_settings_of_the_configuration() -> None:
    config = Config(knowledge_embedder="m", knowledge_embedder_url="https://h/v1", threads=3)
    settings = embedder_settings(config, "key")
    assert settings == EmbedderSettings("m", "https://h/v1", "key", 3, True)
    assert embedder_settings(Config()).model == "all-MiniLM-L6-v2"


async def test_no_embedder(tmp_path: Path) -> None:
    for settings in (EmbedderSettings("none"), EmbedderSettings("None", url="https://h/v1")):
        with pytest.raises(errors.EmbedderMissing, match="by words alone"):
            await open_embedder(settings, tmp_path)
        assert Embedders(settings, tmp_path).name is None


@pytest.mark.parametrize(
    "wanted", ["a", "A.gguf", "owner/model", "{}/a.gguf", "{}/owner--model/b.gguf", "b"]
)
def test_gguf_files_are_found(wanted: str, tmp_path: Path) -> None:
    (tmp_path / "owner--model").mkdir()
    for name in ("a.gguf", "owner--model/b.gguf", "same.gguf", "owner--model/same-2.gguf"):
        (tmp_path / name).touch()
    if wanted == "owner/model":  # two files
        with pytest.raises(errors.ModelNotFound, match="several files"):
            find_gguf(tmp_path, wanted)
        (tmp_path / "owner--model" / "b.gguf").unlink()
        assert find_gguf(tmp_path, wanted).name == "same-2.gguf"
        return
    assert find_gguf(tmp_path, wanted.format(tmp_path)).stem == Path(wanted.lower()).stem


@pytest.mark.parametrize("wanted", ["absent", "/absent.gguf", "owner/absent", "x.gguf", "a\0b/"])
async def test_absent_models(wanted: str, tmp_path: Path) -> None:
    with pytest.raises(errors.ModelNotFound, match="no embedder"):
        await open_embedder(EmbedderSettings(wanted), tmp_path)


async def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"GGUF no model")
    with pytest.raises(errors.FileCorrupt):
        await open_embedder(EmbedderSettings("bad"), tmp_path)


def test_bert_is_for_embeddings_only(tmp_path: Path) -> None:
    from kwaai.models.gguf import read_header
    from kwaai.models.gguf_check import check_embedding_model, check_loadable

    path = tiny_bert(tmp_path / "bert.gguf")
    header, size = read_header(path), path.stat().st_size
    check_embedding_model(header, size)
    with pytest.raises(errors.ModelUnsupported, match="tokenizer 'bert'"):
        check_loadable(header, size)
    with pytest.raises(errors.FileCorrupt):
        check_embedding_model(header, size - 1)


@pytest.fixture
def opening(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What opening gives, one by one; what is asked of it meanwhile waits."""
    outcomes: list[Any] = []

    async def open_one(*arguments: Any, **options: Any) -> NodeEmbedder:
        await asyncio.sleep(0)
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        assert isinstance(outcome, NodeEmbedder)
        return outcome

    monkeypatch.setattr(embedders, "open_embedder", open_one)
    return outcomes


async def test_one_for_all(opening: list[Any], tmp_path: Path) -> None:
    embedder, words = opened("m")
    opening.append(embedder)
    shared = Embedders(EmbedderSettings("somewhere/m.gguf"), tmp_path)
    assert (shared.name, shared.opened) == ("m", None)
    first, second = await asyncio.gather(shared.get(), shared.get())
    assert first is second is shared.opened
    await shared.close()
    await shared.close()
    assert words.closed
    with pytest.raises(errors.ResourceError, match="closed"):
        await shared.get()
    opening.append(embedder)
    shared.reopen()  # the service that has it was restarted
    assert await shared.get() is embedder


async def test_failures_are_not_repeated_at_once(opening: list[Any], tmp_path: Path) -> None:
    now_s = 5.0
    shared = Embedders(EmbedderSettings(), tmp_path, lambda: now_s)
    opening += [errors.DownloadFailed("no network"), opened("m")[0]]
    for _ in range(3):
        with pytest.raises(errors.DownloadFailed, match="no network"):
            await shared.get()
    assert len(opening) == 1
    now_s += 31
    assert (await shared.get()).spec.model == "m"


async def test_a_wheel_is_tried_at_once(opening: list[Any], tmp_path: Path) -> None:
    shared = Embedders(EmbedderSettings(), tmp_path)
    opening += [errors.DownloadFailed("no network"), opened("m")[0]]
    with pytest.raises(errors.DownloadFailed):
        await shared.get()
    assert (await shared.get(wheel=tmp_path / "w.whl")).spec.model == "m"


async def test_the_fake_is_an_embedder() -> None:
    words = WordEmbedder()
    vectors = await words.embed(["the cat sat", "the cat", "a dog ran"])
    assert vectors.dtype == np.float32
    assert vectors[0] @ vectors[1] > 0.5 > vectors[0] @ vectors[2]
    assert np.array_equal(vectors, await words.embed(["the cat sat", "the cat", "a dog ran"]))
