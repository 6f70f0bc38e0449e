"""A small BERT through llama.cpp in its worker process: vectors, cuts, refusals, a death."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from kwaai import errors
from kwaai.inference.embedder import GgufEmbedder
from kwaai.node.embedders import EmbedderSettings, NodeEmbedder, open_embedder
from kwaai.testing.embedding import tiny_bert
from kwaai.testing.models import tiny_model

TEXTS = ["the cat sat on the mat .", "a dog", "", "what is not in the vocabulary: ☃", "a " * 5000]


@pytest.fixture
async def embedder(tmp_path: Path) -> AsyncIterator[NodeEmbedder]:
    tiny_bert(tmp_path / "tiny.gguf")
    embedder = await open_embedder(EmbedderSettings("tiny", threads=1), tmp_path)
    yield embedder
    await embedder.close()


async def test_vectors(embedder: NodeEmbedder) -> None:
    assert embedder.spec.model == "tiny"
    assert (embedder.spec.dimension, len(embedder.spec.sha256)) == (32, 64)
    assert embedder.tokens_max == 14  # of 16 positions, for two marks
    vectors = await embedder.embed(TEXTS)
    assert vectors.shape == (5, 32)
    assert vectors.dtype == np.float32
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-5
    alone = np.concatenate([await embedder.embed([text], "query") for text in TEXTS])
    assert np.abs(vectors - alone).max() < 1e-5
    # Cut where the model ends: the mark at the end stays, what is behind is not read.
    cut = await embedder.embed(["a " * 14, "a " * 13 + "dog", "a " * 14 + "dog"])
    assert np.abs(cut[0] - vectors[4]).max() < 1e-5
    assert np.abs(cut[2] - cut[0]).max() < 1e-5
    assert np.abs(cut[1] - cut[0]).max() > 1e-3
    assert (await embedder.embed([])).shape == (0, 32)
    many = await embedder.embed(["a dog"] * 150)
    assert np.abs(many - vectors[1]).max() < 1e-5


async def test_a_worker_that_dies_is_started_anew(tmp_path: Path) -> None:
    model = GgufEmbedder(str(tiny_bert(tmp_path / "tiny.gguf")), threads=1)
    await model.start()
    before = await model.embed(["a dog"])
    pid = model._worker.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(errors.WorkerLost):  # unless it was seen in time
        await model.embed(["a dog"])
    assert np.array_equal(await model.embed(["a dog"]), before)
    await model.close()
    await model.close()
    with pytest.raises(errors.WorkerLost, match="stopped"):
        await model.embed(["a dog"])


async def test_no_pooling_said_means_the_mean(tmp_path: Path, embedder: NodeEmbedder) -> None:
    tiny_bert(tmp_path / "plain.gguf", pooling=None)
    plain = await open_embedder(EmbedderSettings("plain", threads=1), tmp_path)
    assert np.allclose(await plain.embed(TEXTS), await embedder.embed(TEXTS), atol=1e-6)
    await plain.close()


async def test_a_model_that_ranks_is_refused(tmp_path: Path) -> None:
    tiny_bert(tmp_path / "ranks.gguf", pooling=4)
    with pytest.raises(errors.ModelUnsupported):
        await open_embedder(EmbedderSettings("ranks", threads=1), tmp_path)


async def test_a_model_that_writes_makes_vectors_too(tmp_path: Path) -> None:
    tiny_model(tmp_path / "writes.gguf")
    model = await open_embedder(EmbedderSettings("writes", threads=1), tmp_path)
    vectors = await model.embed(TEXTS)
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-5
    await model.close()


async def test_a_damaged_file(tmp_path: Path) -> None:
    path = tiny_bert(tmp_path / "bad.gguf")
    path.write_bytes(path.read_bytes()[:-64])
    with pytest.raises(errors.FileCorrupt):
        await open_embedder(EmbedderSettings("bad", threads=1), tmp_path)
